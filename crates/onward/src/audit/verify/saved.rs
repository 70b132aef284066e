//! A head that is kept outside the database: what shows a cut tail or a database that was put back.

use onward_api::number;
use serde::{Deserialize, Serialize};

use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, Head};
use crate::time::Timestamp;
use crate::{Error, Result};

/// Longest text of a saved head, in bytes.
pub const SAVED_HEAD_BYTES: usize = 8_192;

const FORMAT: &str = "saved-head";
const FORMAT_VERSION: u64 = 1;

/// The head of a chain as it stood once, to be kept where those who can write the database cannot.
///
/// Its text is one line of JSON; the stand-alone verifier reads it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedHead {
    /// The chain's name.
    pub chain: ChainName,
    /// The chain's identity in the world.
    pub origin: String,
    /// How many entries the chain had, at least one.
    pub size: u64,
    /// The hash of the last of them.
    pub hash: Hash,
    /// The root over all of them.
    pub root: Hash,
    /// The roots of the full subtrees that the root is made of: from here an incremental verification goes on.
    pub frontier: Frontier,
    /// When it was saved.
    pub saved_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    onward: String,
    v: u64,
    chain: String,
    origin: String,
    #[serde(with = "number")]
    size: u64,
    hash: Hash,
    root: Hash,
    frontier: Frontier,
    saved_at: Timestamp,
}

impl SavedHead {
    /// Takes the head of a chain.
    pub fn of(chain: &ChainName, head: &Head, saved_at: Timestamp) -> Self {
        Self {
            chain: chain.clone(),
            origin: head.origin.to_string(),
            size: head.seq.get(),
            hash: head.hash,
            root: head.frontier.root(),
            frontier: head.frontier.clone(),
            saved_at,
        }
    }

    /// Writes the head as one line of JSON.
    pub fn to_text(&self) -> String {
        let text = Text {
            onward: FORMAT.to_owned(),
            v: FORMAT_VERSION,
            chain: self.chain.to_string(),
            origin: self.origin.clone(),
            size: self.size,
            hash: self.hash,
            root: self.root,
            frontier: self.frontier.clone(),
            saved_at: self.saved_at,
        };
        let mut line = serde_json::to_string(&text).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads what [`SavedHead::to_text`] wrote.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another form, a missing, unknown or repeated member, a size of zero, or a frontier that
    /// does not give the root.
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): a newer version of the form.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || Error::invalid("the file is not a saved head");
        if text.len() > SAVED_HEAD_BYTES {
            return Err(malformed());
        }
        let text: Text = serde_json::from_str(text).map_err(|e| {
            let newer = serde_json::from_str::<Version>(text).is_ok_and(|any| any.onward == FORMAT && any.v > FORMAT_VERSION);
            if newer { Error::unsupported("the saved head is of a newer version") } else { malformed().with_source(e) }
        })?;
        if text.onward != FORMAT || text.size == 0 || text.size > crate::model::limits::SEQ_MAX || text.origin.is_empty() {
            return Err(malformed());
        }
        if text.v != FORMAT_VERSION {
            return Err(Error::unsupported("the saved head is of a newer version"));
        }
        if text.frontier.size() != text.size || text.frontier.root() != text.root {
            return Err(malformed());
        }
        let chain = ChainName::new(&text.chain).map_err(|_| malformed())?;
        let Text { origin, size, hash, root, frontier, saved_at, .. } = text;
        Ok(Self { chain, origin, size, hash, root, frontier, saved_at })
    }
}

#[derive(Deserialize)]
struct Version {
    onward: String,
    v: u64,
}
