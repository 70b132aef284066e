//! A chain of audit entries and its head.

use std::fmt;
use std::sync::Arc;

use super::key::check_word;
use super::merkle::Frontier;
use super::{Hash, Seq};
use crate::Result;
use crate::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of a chain: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainName(Arc<str>);

impl ChainName {
    /// Makes a name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`.
    pub fn new(text: &str) -> Result<Self> {
        check_word("chain", text)?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ChainName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChainName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The head of a chain: what the next entry links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The chain's identity in the world.
    pub origin: Arc<str>,
    /// The last position.
    pub seq: Seq,
    /// The hash of the last entry.
    pub hash: Hash,
    /// The time of the last entry.
    pub at: Timestamp,
    /// The roots of the full subtrees over all entries, largest first.
    pub frontier: Frontier,
}
