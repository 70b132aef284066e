//! The name of an object.

use std::fmt;
use std::sync::Arc;

use super::limits::{NAME_BYTES, WORD_BYTES};
use crate::{Error, Result};

/// The name of an object: namespace, kind and name, compared by bytes, never folded or normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    namespace: Arc<str>,
    kind: Arc<str>,
    name: Arc<str>,
}

/// The namespace of a key that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

impl Key {
    /// Makes a key in the namespace `default`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: kind is not `[a-z0-9][a-z0-9._-]{0,63}`, or name is not 1..=384 bytes
    /// without control characters.
    pub fn new(kind: &str, name: &str) -> Result<Self> {
        Self::in_namespace(DEFAULT_NAMESPACE, kind, name)
    }

    /// Makes a key in a namespace of its own.
    ///
    /// # Errors
    /// As [`Key::new`]; the namespace follows the rule of the kind.
    pub fn in_namespace(namespace: &str, kind: &str, name: &str) -> Result<Self> {
        check_word("namespace", namespace)?;
        check_word("kind", kind)?;
        if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Error::invalid_key("name is 1..=384 bytes of UTF-8 without control characters"));
        }
        Ok(Self { namespace: namespace.into(), kind: kind.into(), name: name.into() })
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Refuses what is not `[a-z0-9][a-z0-9._-]{0,63}`.
pub(crate) fn check_word(what: &str, text: &str) -> Result<()> {
    let start = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let rest = |b: u8| start(b) || matches!(b, b'.' | b'_' | b'-');
    if text.len() <= WORD_BYTES && text.bytes().next().is_some_and(start) && text.bytes().all(rest) {
        Ok(())
    } else {
        Err(Error::invalid_key(format!("{what} is [a-z0-9][a-z0-9._-]{{0,63}}")))
    }
}

/// Refuses what is not `[a-z0-9._-]{1,64}`, the rule of a cache namespace.
pub(crate) fn check_cache_namespace(text: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if (1..=WORD_BYTES).contains(&text.len()) && text.bytes().all(plain) {
        Ok(())
    } else {
        Err(Error::invalid_key("a cache namespace is [a-z0-9._-]{1,64}"))
    }
}

/// What may stand where a key is asked for: a key, `(kind, name)` or `(namespace, kind, name)`.
pub trait IntoKey {
    /// Makes the key.
    ///
    /// # Errors
    /// As [`Key::new`].
    fn into_key(self) -> Result<Key>;
}

impl IntoKey for Key {
    fn into_key(self) -> Result<Key> {
        Ok(self)
    }
}

impl IntoKey for &Key {
    fn into_key(self) -> Result<Key> {
        Ok(self.clone())
    }
}

impl<K: AsRef<str>, N: AsRef<str>> IntoKey for (K, N) {
    fn into_key(self) -> Result<Key> {
        Key::new(self.0.as_ref(), self.1.as_ref())
    }
}

impl<S: AsRef<str>, K: AsRef<str>, N: AsRef<str>> IntoKey for (S, K, N) {
    fn into_key(self) -> Result<Key> {
        Key::in_namespace(self.0.as_ref(), self.1.as_ref(), self.2.as_ref())
    }
}
