//! The name of an object.

use std::fmt;
use std::sync::Arc;

use super::limits::{NAME_BYTES, WORD_BYTES};
use crate::{Error, Result};

/// The name of an object: namespace, kind and name, compared by bytes, never folded or normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The three in one allocation, since a key is copied at every step. What parts them is below every character that they may hold, so the
    /// order of the whole is theirs.
    text: Arc<str>,
    /// Where the kind and the name begin.
    kind: u8,
    name: u8,
}

/// What parts namespace, kind and name.
const GAP: char = '\0';

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
        let begins = |after: usize| u8::try_from(after + 1).map_err(|_| Error::invalid_key("namespace and kind are too long"));
        let (kind_at, name_at) = (begins(namespace.len())?, begins(namespace.len() + 1 + kind.len())?);
        let mut text = String::with_capacity(namespace.len() + kind.len() + name.len() + 2);
        for part in [namespace, kind] {
            text.push_str(part);
            text.push(GAP);
        }
        text.push_str(name);
        Ok(Self { text: text.into(), kind: kind_at, name: name_at })
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.text[..usize::from(self.kind) - 1]
    }

    /// Returns the kind.
    pub fn kind(&self) -> &str {
        &self.text[usize::from(self.kind)..usize::from(self.name) - 1]
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.text[usize::from(self.name)..]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace() != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace())?;
        }
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("namespace", &self.namespace()).field("kind", &self.kind()).field("name", &self.name()).finish()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_its_parts_back_and_stands_where_they_do() {
        let longest = "k".repeat(WORD_BYTES);
        let parts =
            [("a", "b", "c"), ("a", "b", "c\u{e9}"), ("a", "b-", "a"), ("a", "bb", "a"), ("a-", "a", "a"), (&longest, &longest, "n")];
        let keys: Vec<_> = parts.iter().map(|(namespace, kind, name)| Key::in_namespace(namespace, kind, name).unwrap()).collect();
        for (key, parts) in keys.iter().zip(parts) {
            assert_eq!((key.namespace(), key.kind(), key.name()), parts);
        }
        for (one, its) in keys.iter().zip(parts) {
            for (other, others) in keys.iter().zip(parts) {
                assert_eq!(one.cmp(other), its.cmp(&others), "{one:?} {other:?}");
            }
        }
    }
}
