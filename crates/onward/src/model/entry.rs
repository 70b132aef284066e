//! An audit entry: its bytes, its hash, and nothing that a verifier would have to parse.
//!
//! The layout is frozen: `preimage = LP(field 1, .. field 13)`, each field a u32 big-endian length and its bytes, integers 8 bytes
//! big-endian. A new layout is a new tag; old entries are never hashed again. Golden vectors: `model/tests.rs` and `verify.py`.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::limits::PAYLOAD_BYTES;
use super::request::check_visible;
use super::{Data, Personal, RowRef, Seq};
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result};

const TAG: &[u8] = b"onward.audit.entry.v1";
const GENESIS_TAG: &[u8] = b"onward.audit.genesis.v1";

/// A SHA-256 hash; shown and read as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Wraps 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Hash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| Error::invalid("a hash is 64 hex digits"))?;
        Ok(Self(out))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The hash that the first entry of a chain links to: it binds the chain to its origin.
pub fn genesis(origin: &str) -> Hash {
    let mut hasher = Sha256::new();
    put(&mut hasher, GENESIS_TAG);
    put(&mut hasher, origin.as_bytes());
    Hash(hasher.finalize().into())
}

/// Feeds one length-prefixed field. No field of an entry comes near 4 GiB, so the length always fits.
fn put(hasher: &mut Sha256, field: &[u8]) {
    hasher.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(field);
}

/// An entry as its author makes it: what happened, who did it, to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Makes a repeated append happen once; chosen by the library if absent. Used when the entry is appended alone.
    pub event_id: Option<String>,
    /// What happened: `[a-z0-9._-]{1,128}`.
    pub kind: String,
    /// Who did it. Absent differs from empty.
    pub actor: Option<String>,
    /// To what. Absent differs from empty.
    pub resource: Option<String>,
    /// Anything else, at most 1 MiB.
    pub data: Data,
    /// What can be forgotten later: kept apart, and only committed to by the entry.
    pub personal: Option<Personal>,
}

/// The kinds that only this library writes.
const CONTROL: [&str; 6] = ["chain.", "segment.", "hold.", "redact.", "key.", "audit."];

impl Entry {
    /// Makes an entry of a kind, with everything else absent.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { event_id: None, kind: kind.into(), actor: None, resource: None, data: Data::default(), personal: None }
    }

    /// Sets who did it.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Sets to what.
    #[must_use]
    pub fn on(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Sets the data.
    #[must_use]
    pub fn with_data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }

    /// Sets personal data: what a [redaction](crate::audit::Chain::redact) forgets.
    #[must_use]
    pub fn with_personal(mut self, personal: Personal) -> Self {
        self.personal = Some(personal);
        self
    }

    /// Sets the id that makes a repeated append happen once.
    #[must_use]
    pub fn with_event_id(mut self, id: impl Into<String>) -> Self {
        self.event_id = Some(id.into());
        self
    }

    /// Refuses an entry that breaks a rule, before anything is written (C10).
    ///
    /// # Errors
    /// [`Kind::Invalid`]; the message names the field and its limit.
    pub fn check(&self) -> Result<()> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if self.kind.is_empty() || self.kind.len() > 128 || !self.kind.bytes().all(plain) {
            return Err(Error::invalid("the kind of an entry is [a-z0-9._-]{1,128}").with_pointer("/kind"));
        }
        if is_control(&self.kind) {
            return Err(
                Error::invalid("kinds that start with chain. segment. hold. redact. key. audit. are reserved").with_pointer("/kind")
            );
        }
        for (name, text) in [("actor", &self.actor), ("resource", &self.resource)] {
            if text.as_ref().is_some_and(|text| text.len() > 512 || text.chars().any(char::is_control)) {
                return Err(Error::invalid(format!("{name} is at most 512 bytes of UTF-8 without control characters"))
                    .with_pointer(format!("/{name}")));
            }
        }
        if let Some(id) = &self.event_id {
            check_visible("an event id", id)?;
        }
        if self.data.as_bytes().len() > PAYLOAD_BYTES {
            return Err(Error::new(Kind::Invalid, Code::PayloadTooLarge, "the data of an entry is at most 1 MiB").with_pointer("/data"));
        }
        self.personal.as_ref().map_or(Ok(()), Personal::check)
    }
}

/// Tells whether a kind is one that only this library writes.
pub(crate) fn is_control(kind: &str) -> bool {
    CONTROL.iter().any(|prefix| kind.starts_with(prefix))
}

/// Flag: a control entry, which no purge removes.
pub(crate) const PINNED: u64 = 1;
/// Flag: the actor is present.
pub(crate) const HAS_ACTOR: u64 = 2;
/// Flag: the resource is present.
pub(crate) const HAS_RESOURCE: u64 = 4;
/// Flag: the engine's clock was behind the chain and the time was lifted.
pub(crate) const CLOCK_BEHIND: u64 = 8;
/// All flags of this layout.
pub(crate) const FLAGS_KNOWN: u64 = PINNED | HAS_ACTOR | HAS_RESOURCE | CLOCK_BEHIND;

/// An entry as it is stored: chained, hashed, and sealed with a MAC if the chain has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its position.
    pub seq: Seq,
    /// The hash of the entry before it, or [`genesis`].
    pub prev: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// The MAC of the hash, if the chain has a key.
    pub mac: Option<[u8; 32]>,
    /// The key that made the MAC; empty without one.
    pub kid: String,
    /// Bit 0 pinned, 1 actor present, 2 resource present, 3 the clock was behind; no others.
    pub flags: u64,
    /// When it was appended; never less than the entry before.
    pub at: Timestamp,
    /// The id of the event.
    pub event_id: String,
    /// What happened.
    pub kind: String,
    /// Who did it.
    pub actor: Option<String>,
    /// To what.
    pub resource: Option<String>,
    /// Anything else.
    pub data: Bytes,
    /// The commitment to its personal data, which stand apart.
    pub personal: Option<Hash>,
}

/// The part of an entry's hash that is known before its place in the chain is: hashed outside the writer's right.
#[derive(Clone)]
pub(crate) struct Prehashed(Sha256);

impl fmt::Debug for Prehashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prehashed")
    }
}

impl Sealed {
    /// Computes the hash of the entry as it is stored, in a chain of this origin.
    pub fn compute_hash(&self, origin: &str) -> Hash {
        EntryHasher::new(origin).hash(&RowRef::from(self))
    }

    /// Tells whether the entry is a control entry by its flag.
    pub fn is_pinned(&self) -> bool {
        self.flags & PINNED != 0
    }
}

/// Returns the SHA-256 of bytes as hex digits.
pub(crate) fn digest_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Hashes fields 1 to 8, so that 1 MiB of data costs no more under the head than 1 KiB.
pub(crate) fn prehash(origin: &str, event_id: &str, entry: &Entry, personal: Option<&Hash>) -> Prehashed {
    let mut hasher = Sha256::new();
    let (actor, resource) = (entry.actor.as_deref().unwrap_or_default(), entry.resource.as_deref().unwrap_or_default());
    let [event_id, kind, actor, resource] = [event_id, &entry.kind, actor, resource].map(str::as_bytes);
    let personal = personal.map_or(&[][..], |commitment| commitment.as_bytes());
    for field in [TAG, origin.as_bytes(), event_id, kind, actor, resource, entry.data.as_bytes(), personal] {
        put(&mut hasher, field);
    }
    Prehashed(hasher)
}

/// Hashes fields 9 to 13 on top.
pub(crate) fn finish(prehashed: Prehashed, kid: &str, flags: u64, at: Timestamp, seq: Seq, prev: &Hash) -> Hash {
    let mut hasher = prehashed.0;
    put(&mut hasher, kid.as_bytes());
    for integer in [flags.to_be_bytes(), at.as_micros().to_be_bytes(), seq.get().to_be_bytes()] {
        put(&mut hasher, &integer);
    }
    put(&mut hasher, &prev.0);
    Hash(hasher.finalize().into())
}

/// Hashes the entries of one chain one after the other.
///
/// Each preimage is laid out in one buffer and hashed in one go, with the whole blocks of the fields that all have in common hashed
/// once: half the time of hashing field by field.
pub(crate) struct EntryHasher {
    common: Sha256,
    /// What is left of the common fields, and room for an entry's own.
    buffer: Vec<u8>,
    front: usize,
}

/// The block of SHA-256.
const BLOCK: usize = 64;

impl EntryHasher {
    pub(crate) fn new(origin: &str) -> Self {
        let mut buffer = Vec::new();
        lay(&mut buffer, TAG);
        lay(&mut buffer, origin.as_bytes());
        let whole = buffer.len() / BLOCK * BLOCK;
        let common = Sha256::new_with_prefix(buffer.get(..whole).unwrap_or_default());
        buffer.drain(..whole);
        Self { common, front: buffer.len(), buffer }
    }

    pub(crate) fn hash(&mut self, row: &RowRef<'_>) -> Hash {
        let buffer = &mut self.buffer;
        buffer.truncate(self.front);
        let (actor, resource, pii) = (row.actor.unwrap_or_default(), row.resource.unwrap_or_default(), row.pii.unwrap_or_default());
        for field in [row.event_id, row.kind, actor, resource, row.data, pii, row.kid] {
            lay(buffer, field);
        }
        for integer in [row.flags, row.at, row.seq] {
            lay(buffer, &integer.to_be_bytes());
        }
        lay(buffer, row.prev);
        let mut hasher = self.common.clone();
        hasher.update(buffer);
        Hash(hasher.finalize().into())
    }
}

/// Lays one length-prefixed field down, as [`put`] hashes it.
fn lay(buffer: &mut Vec<u8>, field: &[u8]) {
    buffer.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
    buffer.extend_from_slice(field);
}
