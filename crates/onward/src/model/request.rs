//! Ids that make a repeated request happen once.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::limits::REQUEST_ID_BYTES;
use crate::{Error, Result};

/// Begins the ids under which audit events are remembered: a caller's id can't meet them.
const EVENT_PREFIX: &str = "audit/";
/// Begins the ids of a scope: a caller without one can't meet them.
const SCOPE_MARK: char = '@';

/// The id of a request: sent again with the same content it is applied once and answered twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Makes an id.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): not 1..=128 visible ASCII bytes.
    pub fn new(text: &str) -> Result<Self> {
        check_visible("a request id", text)?;
        if text.starts_with(EVENT_PREFIX) || text.starts_with(SCOPE_MARK) {
            return Err(Error::invalid("request ids that start with audit/ or @ are reserved"));
        }
        Ok(Self(text.into()))
    }

    /// Makes an id inside a scope, such as the name of the caller's token, so that two callers cannot collide.
    ///
    /// The id itself keeps its limit; scope and separator come on top.
    ///
    /// # Errors
    /// As [`RequestId::new`].
    pub fn scoped(scope: &str, text: &str) -> Result<Self> {
        check_visible("a scope of request ids", scope)?;
        check_visible("a request id", text)?;
        Ok(Self(format!("{SCOPE_MARK}{scope}/{text}").into()))
    }

    /// The id under which the store remembers an audit event.
    pub(crate) fn of_event(chain: &str, event_id: &str) -> Self {
        Self(format!("{EVENT_PREFIX}{chain}/{event_id}").into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.into()))
    }
}

/// Refuses what is not 1..=128 visible ASCII bytes.
pub(crate) fn check_visible(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > REQUEST_ID_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::invalid(format!("{what} is 1..=128 visible ASCII bytes")));
    }
    Ok(())
}

/// What a request asks for, as 32 bytes: the same id with another fingerprint is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub(crate) [u8; 32]);
