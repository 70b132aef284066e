//! The name of a lock, built so that no part of it can pretend to be another part.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::limits::KEY_BYTES;
use crate::{Error, Result};

/// The scope of a key that names none.
const UNKNOWN_SCOPE: &str = "unknown";

/// The name of a lock; compared byte for byte.
///
/// A typed key reads `lock:{namespace}:{scope}:{collection}:{id}[:{attribute}]`; in each segment the bytes `% : { } * ? [ ]`,
/// 0x00-0x20 and 0x7F are written `%XX`, so no id can inject a separator. A raw key is used as it is. An attribute's key and its
/// document's key do not exclude each other.
#[derive(Clone)]
pub struct LockKey {
    text: Arc<str>,
    parts: Option<Arc<Parts>>,
}

#[derive(Debug)]
struct Parts {
    prefix: String,
    scope: String,
    collection: String,
    id: String,
    attribute: Option<String>,
}

impl LockKey {
    /// Makes a key that is used byte for byte, so that other programs can meet us there.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: not 1..=512 bytes, control bytes, or the prefix `onward:`, which is ours.
    pub fn raw(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > KEY_BYTES {
            return Err(Error::invalid_key("a lock key is 1..=512 bytes"));
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(Error::invalid_key("a lock key has no control bytes"));
        }
        if text.starts_with("onward:") {
            return Err(Error::invalid_key("lock keys that start with onward: are reserved"));
        }
        Ok(Self { text: text.into(), parts: None })
    }

    /// Makes a typed key; an empty scope means `unknown`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: an empty collection or id, or more than 512 bytes after escaping.
    pub fn typed(namespace: &str, scope: &str, collection: &str, id: &str) -> Result<Self> {
        let mut prefix = String::from("lock:");
        escape(&mut prefix, namespace);
        prefix.push(':');
        let scope = if scope.is_empty() { UNKNOWN_SCOPE } else { scope };
        escape(&mut prefix, scope);
        Self::build(Parts { prefix, scope: scope.to_owned(), collection: collection.to_owned(), id: id.to_owned(), attribute: None })
    }

    /// Returns the key of one attribute of the same document.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: a raw key, an empty attribute, or too long.
    pub fn attribute(&self, attribute: &str) -> Result<Self> {
        let Some(parts) = &self.parts else {
            return Err(Error::invalid_key("a raw lock key has no attributes"));
        };
        if attribute.is_empty() {
            return Err(Error::invalid_key("attribute is empty"));
        }
        Self::build(Parts {
            prefix: parts.prefix.clone(),
            scope: parts.scope.clone(),
            collection: parts.collection.clone(),
            id: parts.id.clone(),
            attribute: Some(attribute.to_owned()),
        })
    }

    fn build(parts: Parts) -> Result<Self> {
        if parts.collection.is_empty() || parts.id.is_empty() {
            return Err(Error::invalid_key("collection and id of a lock key are not empty"));
        }
        let mut text = parts.prefix.clone();
        for segment in [Some(&parts.collection), Some(&parts.id), parts.attribute.as_ref()].into_iter().flatten() {
            text.push(':');
            escape(&mut text, segment);
        }
        if text.len() > KEY_BYTES {
            return Err(Error::invalid_key("a lock key is at most 512 bytes after escaping"));
        }
        Ok(Self { text: text.into(), parts: Some(Arc::new(parts)) })
    }

    /// Returns the key as engines see it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the scope of a typed key.
    pub fn scope(&self) -> Option<&str> {
        self.parts.as_deref().map(|parts| parts.scope.as_str())
    }

    /// Returns the key with `*` for its id and attribute, for reports; `*` for a raw key.
    pub(crate) fn pattern(&self) -> String {
        let Some(parts) = self.parts.as_deref() else { return "*".to_owned() };
        let mut text = parts.prefix.clone();
        text.push(':');
        escape(&mut text, &parts.collection);
        text.push_str(if parts.attribute.is_some() { ":*:*" } else { ":*" });
        text
    }

    /// Returns the collection of a typed key.
    pub fn collection(&self) -> Option<&str> {
        self.parts.as_deref().map(|parts| parts.collection.as_str())
    }

    /// Returns the id of a typed key.
    pub fn id(&self) -> Option<&str> {
        self.parts.as_deref().map(|parts| parts.id.as_str())
    }
}

fn escape(out: &mut String, segment: &str) {
    for c in segment.chars() {
        match c {
            '%' | ':' | '{' | '}' | '*' | '?' | '[' | ']' | '\0'..=' ' | '\x7f' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{:02X}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
}

// A raw key that reads like a typed one is the same lock: only the text counts.
impl PartialEq for LockKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for LockKey {}

impl PartialOrd for LockKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LockKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for LockKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockKey({:?})", self.text)
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
