//! The keys that seal entries; they never stand in the database.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Hash, digest_hex};
use crate::{Code, Error, Kind, Result};

const TAG: &[u8] = b"onward.audit.mac.v1";
/// Longest text of a keyring.
const TEXT_BYTES: usize = 1 << 20;
/// Most keys of a keyring.
const KEYS: usize = 64;

/// The name of a MAC key; empty means no MAC.
pub type Kid = String;

/// A key, and for each chain, by its origin, the entries between which it seals.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    bytes: [u8; 32],
    /// The last entry that an older key sealed when this one was drawn.
    after: BTreeMap<String, u64>,
    /// The last entry that it sealed before it was retired.
    through: BTreeMap<String, u64>,
}

/// MAC keys by name, the newest active. `Debug` shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MacKeys {
    keys: BTreeMap<Kid, Key>,
    /// In the order in which they came.
    order: Vec<Kid>,
}

impl MacKeys {
    /// No keys: entries are hashed but not sealed.
    pub fn none() -> Self {
        Self::default()
    }

    /// One key, active under its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the name is not `[a-z0-9._-]{1,64}`.
    pub fn one(kid: &str, key: [u8; 32]) -> Result<Self> {
        Self::none().rotated(kid, key)
    }

    /// Reads keys as a file or environment variable holds them, one a line, the newest last: it seals new entries.
    ///
    /// A line is 64 hex digits, or a name, a colon and 64 hex digits; behind them, for chains by their origins, `ORIGIN>SEQ`: the entry, sealed
    /// by an older key, behind which this one begins; and in a key that is retired `ORIGIN=SEQ`: the last entry that it sealed there. Empty
    /// lines and lines that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: anything else. The text is not repeated in the message.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES {
            return Err(Error::invalid("a keyring is at most 1 MiB"));
        }
        let mut keys = Self::none();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap_or_default();
            let (kid, digits) = first.split_once(':').unwrap_or(("k1", first));
            let mut key = [0; 32];
            hex::decode_to_slice(digits, &mut key)
                .map_err(|_| Error::invalid("a MAC key is 64 hex digits, or a name, a colon and 64 hex digits"))?;
            keys = keys.rotated(kid, key)?;
            for word in words {
                let bad = || Error::invalid("behind a MAC key stand ORIGIN>SEQ and ORIGIN=SEQ, once for each chain");
                let (origin, seq) = word.rsplit_once(['>', '=']).ok_or_else(bad)?;
                let number = seq.parse::<u64>().ok().filter(|_| seq.bytes().all(|b| b.is_ascii_digit())).ok_or_else(bad)?;
                let key = keys.keys.get_mut(kid).ok_or_else(bad)?;
                let side = if word.ends_with(&format!(">{seq}")) { &mut key.after } else { &mut key.through };
                if origin.is_empty() || side.insert(origin.to_owned(), number).is_some() {
                    return Err(bad());
                }
            }
        }
        if keys.is_empty() {
            return Err(Error::invalid("a MAC key is 64 hex digits, or a name, a colon and 64 hex digits"));
        }
        Ok(keys)
    }

    /// Writes what [`MacKeys::parse`] reads: secrets.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (kid, key) in self.order.iter().filter_map(|kid| self.keys.get_key_value(kid)) {
            // Writing into a string cannot fail.
            let _ = write!(text, "{kid}:{}", hex::encode(key.bytes));
            for (origin, after) in &key.after {
                let _ = write!(text, " {origin}>{after}");
            }
            for (origin, through) in &key.through {
                let _ = write!(text, " {origin}={through}");
            }
            text.push('\n');
        }
        text
    }

    /// Adds a key, which is active from then on.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the name is not `[a-z0-9._-]{1,64}`, it or the key is there already, or there are 64 keys.
    pub fn rotated(mut self, kid: &str, key: [u8; 32]) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if kid.is_empty() || kid.len() > 64 || !kid.bytes().all(plain) {
            return Err(Error::invalid("the name of a MAC key is [a-z0-9._-]{1,64}"));
        }
        if self.keys.len() >= KEYS {
            return Err(Error::invalid("a keyring has at most 64 keys"));
        }
        if self.keys.contains_key(kid) || self.keys.values().any(|known| known.bytes == key) {
            return Err(Error::invalid("a MAC key or its name stands twice in the keyring"));
        }
        self.keys.insert(kid.to_owned(), Key { bytes: key, after: BTreeMap::new(), through: BTreeMap::new() });
        self.order.push(kid.to_owned());
        Ok(self)
    }

    /// Pins the entry of a chain behind which a key begins: one at or before it under that key is a finding, and so is that entry
    /// without a MAC, for an older key sealed it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: no such key. [`Kind::Conflict`], `state_conflict`: it is the oldest key, or another entry is pinned.
    pub fn begun(mut self, kid: &str, origin: &str, after: u64) -> Result<Self> {
        let refuse = |message: &str| Error::new(Kind::Conflict, Code::StateConflict, message);
        if self.order.first().is_some_and(|oldest| oldest == kid) {
            return Err(refuse("before the oldest key there was none"));
        }
        let key = self.keys.get_mut(kid).ok_or_else(|| Error::not_found("no such key in the keyring"))?;
        match key.after.insert(origin.to_owned(), after) {
            Some(pinned) if pinned != after => Err(refuse("the key begins there already, behind another entry")),
            _ => Ok(self),
        }
    }

    /// Pins the last entry that a retired key sealed in a chain: a later one under it is a finding.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: no such key. [`Kind::Conflict`], `state_conflict`: it is the active key, or another entry is pinned.
    pub fn retired(mut self, kid: &str, origin: &str, through: u64) -> Result<Self> {
        let refuse = |message: &str| Error::new(Kind::Conflict, Code::StateConflict, message);
        if self.active() == kid {
            return Err(refuse("the active key cannot be retired: rotate first"));
        }
        let key = self.keys.get_mut(kid).ok_or_else(|| Error::not_found("no such key in the keyring"))?;
        match key.through.insert(origin.to_owned(), through) {
            Some(pinned) if pinned != through => Err(refuse("the key is retired there already, at another entry")),
            _ => Ok(self),
        }
    }

    /// Returns the name of the key that seals new entries; empty without one.
    pub fn active(&self) -> &str {
        self.order.last().map_or("", String::as_str)
    }

    /// Lists the names of the keys, the oldest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// Returns what tells a key from every other, and nothing of it: 16 hex digits.
    pub fn fingerprint(&self, kid: &str) -> Option<String> {
        let key = self.keys.get(kid)?;
        digest_hex(&[b"onward.audit.key.v1", &key.bytes[..]].concat()).get(..16).map(str::to_owned)
    }

    /// Lists where a key is retired: origins, with the last entry that it sealed there.
    pub fn windows(&self, kid: &str) -> impl Iterator<Item = (&str, u64)> {
        self.keys.get(kid).into_iter().flat_map(|key| key.through.iter().map(|(origin, through)| (origin.as_str(), *through)))
    }

    /// Lists where it is known behind which entry a key begins: origins, with that entry.
    pub fn beginnings(&self, kid: &str) -> impl Iterator<Item = (&str, u64)> {
        self.keys.get(kid).into_iter().flat_map(|key| key.after.iter().map(|(origin, after)| (origin.as_str(), *after)))
    }

    /// Tells whether a key may have sealed an entry: it had begun, and was not retired before.
    pub fn is_in_window(&self, kid: &str, origin: &str, seq: i64) -> bool {
        let through = self.keys.get(kid).filter(|key| !key.through.is_empty()).and_then(|key| key.through.get(origin));
        through.is_none_or(|through| u64::try_from(seq).is_ok_and(|seq| seq <= *through)) && self.has_begun(kid, origin, seq)
    }

    /// Tells whether a key may have been there when an entry was sealed.
    pub fn has_begun(&self, kid: &str, origin: &str, seq: i64) -> bool {
        let after = self.keys.get(kid).filter(|key| !key.after.is_empty()).and_then(|key| key.after.get(origin));
        after.is_none_or(|after| u64::try_from(seq).is_ok_and(|seq| seq > *after))
    }

    /// Tells whether a key begins right behind an entry, so that an older one sealed that.
    pub fn is_sealed_at(&self, origin: &str, seq: u64) -> bool {
        self.keys.values().any(|key| key.after.get(origin) == Some(&seq))
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
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.bytes).ok()?;
        for field in [TAG, hash.as_bytes()] {
            mac.update(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            mac.update(field);
        }
        Some(mac)
    }
}

impl fmt::Debug for MacKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKeys({} keys, active {:?})", self.keys.len(), self.active())
    }
}
