//! An entry's row as a database holds it, before anyone believes a word of it.

use bytes::Bytes;

use super::entry::{hash_back, hash_front};
use super::{Hash, Sealed, Seq};
use crate::time::Timestamp;
use crate::{Error, Result};

/// An entry's row exactly as a database holds it, well formed or not: what a verifier hashes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// The column `seq`.
    pub seq: i64,
    /// The column `prev`.
    pub prev: Vec<u8>,
    /// The column `hash`.
    pub hash: Vec<u8>,
    /// The column `mac`.
    pub mac: Option<Vec<u8>>,
    /// The column `kid`.
    pub kid: Vec<u8>,
    /// The column `at`.
    pub at: i64,
    /// The column `event_id`.
    pub event_id: Vec<u8>,
    /// The column `kind`.
    pub kind: Vec<u8>,
    /// The column `actor`.
    pub actor: Option<Vec<u8>>,
    /// The column `resource`.
    pub resource: Option<Vec<u8>>,
    /// The column `data`.
    pub data: Bytes,
    /// The column `pii`.
    pub pii: Option<Vec<u8>>,
    /// The column `flags`.
    pub flags: i64,
}

impl Row {
    /// Computes the hash of the row in a chain of this origin.
    pub fn compute_hash(&self, origin: &str) -> Hash {
        let actor = self.actor.as_deref().unwrap_or_default();
        let resource = self.resource.as_deref().unwrap_or_default();
        let pii = self.pii.as_deref().unwrap_or_default();
        let front = hash_front(origin.as_bytes(), [&self.event_id, &self.kind, actor, resource], &self.data, pii);
        hash_back(front, &self.kid, [self.flags.to_be_bytes(), self.at.to_be_bytes(), self.seq.to_be_bytes()], &self.prev)
    }

    /// Returns about how many bytes the row takes in memory.
    pub fn bytes(&self) -> usize {
        let texts = [&self.event_id, &self.kind, &self.kid].map(Vec::len).iter().sum::<usize>();
        let options = [&self.actor, &self.resource, &self.pii].map(|text| text.as_ref().map_or(0, Vec::len)).iter().sum::<usize>();
        256 + texts + options + self.data.len()
    }
}

impl From<&Sealed> for Row {
    fn from(sealed: &Sealed) -> Self {
        let bytes = |text: &String| text.clone().into_bytes();
        Self {
            // Both columns are 8 bytes whose bits the hash takes as they are.
            seq: sealed.seq.get().cast_signed(),
            prev: sealed.prev.as_bytes().to_vec(),
            hash: sealed.hash.as_bytes().to_vec(),
            mac: sealed.mac.map(|mac| mac.to_vec()),
            kid: bytes(&sealed.kid),
            at: sealed.at.as_micros(),
            event_id: bytes(&sealed.event_id),
            kind: bytes(&sealed.kind),
            actor: sealed.actor.as_ref().map(bytes),
            resource: sealed.resource.as_ref().map(bytes),
            data: sealed.data.clone(),
            pii: None,
            flags: sealed.flags.cast_signed(),
        }
    }
}

impl TryFrom<Row> for Sealed {
    type Error = Error;

    /// Reads a row as an entry.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), `integrity_failure`: no writer of ours leaves such a row.
    fn try_from(row: Row) -> Result<Self> {
        let broken = || Error::integrity("an audit entry is stored in a form that no version writes");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| broken());
        let hash = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| broken());
        if row.pii.is_some() {
            return Err(Error::unsupported("an audit entry was written by a newer version"));
        }
        Ok(Self {
            seq: u64::try_from(row.seq).ok().and_then(|seq| Seq::new(seq).ok()).ok_or_else(broken)?,
            prev: Hash::from_bytes(hash(row.prev)?),
            hash: Hash::from_bytes(hash(row.hash)?),
            mac: row.mac.map(hash).transpose()?,
            kid: text(row.kid)?,
            flags: row.flags.cast_unsigned(),
            at: Timestamp::from_micros(row.at),
            event_id: text(row.event_id)?,
            kind: text(row.kind)?,
            actor: row.actor.map(text).transpose()?,
            resource: row.resource.map(text).transpose()?,
            data: row.data,
        })
    }
}
