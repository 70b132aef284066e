//! The keys that seal entries; they never stand in the database.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Hash;
use crate::{Error, Result};

const TAG: &[u8] = b"onward.audit.mac.v1";

/// The name of a MAC key; empty means no MAC.
pub type Kid = String;

/// MAC keys by name, one of them active.
#[derive(Clone, Default)]
pub struct MacKeys {
    keys: BTreeMap<Kid, [u8; 32]>,
    active: Kid,
}

impl MacKeys {
    /// No keys: entries are hashed but not sealed.
    pub fn none() -> Self {
        Self::default()
    }

    /// One key, active under its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the name is not `[a-z0-9._-]{1,64}`.
    pub fn one(kid: &str, key: [u8; 32]) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if kid.is_empty() || kid.len() > 64 || !kid.bytes().all(plain) {
            return Err(Error::invalid("the name of a MAC key is [a-z0-9._-]{1,64}"));
        }
        Ok(Self { keys: BTreeMap::from([(kid.to_owned(), key)]), active: kid.to_owned() })
    }

    /// Reads a key as a file or environment variable holds it: 64 hex digits, or `name:` and 64 hex digits.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): anything else. The text is not repeated in the message.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (kid, digits) = text.split_once(':').unwrap_or(("k1", text));
        let mut key = [0; 32];
        hex::decode_to_slice(digits, &mut key)
            .map_err(|_| Error::invalid("a MAC key is 64 hex digits, or a name, a colon and 64 hex digits"))?;
        Self::one(kid, key)
    }

    /// Returns the name of the key that seals new entries; empty without one.
    pub fn active(&self) -> &str {
        &self.active
    }

    /// Tells whether a key of this name is known.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// Tells whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the MAC of an entry's hash; `None` if the key is not known.
    pub fn sign(&self, kid: &str, hash: &Hash) -> Option<[u8; 32]> {
        Some(self.mac(kid, hash)?.finalize().into_bytes().into())
    }

    /// Checks a MAC in constant time; `None` if the key is not known.
    pub fn verify(&self, kid: &str, hash: &Hash, mac: &[u8]) -> Option<bool> {
        Some(self.mac(kid, hash)?.verify_slice(mac).is_ok())
    }

    fn mac(&self, kid: &str, hash: &Hash) -> Option<Hmac<Sha256>> {
        let key = self.keys.get(kid)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        for field in [TAG, hash.as_bytes()] {
            mac.update(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            mac.update(field);
        }
        Some(mac)
    }
}

impl fmt::Debug for MacKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKeys({} keys, active {:?})", self.keys.len(), self.active)
    }
}
