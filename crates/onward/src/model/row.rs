//! An entry's row as a database holds it, before anyone believes a word of it.

use bytes::Bytes;

use super::entry::EntryHasher;
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

/// A row where it stands, borrowed: what a verifier looks at without a copy. The columns are those of [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of `Row`")]
pub struct RowRef<'a> {
    pub seq: i64,
    pub prev: &'a [u8],
    pub hash: &'a [u8],
    pub mac: Option<&'a [u8]>,
    pub kid: &'a [u8],
    pub at: i64,
    pub event_id: &'a [u8],
    pub kind: &'a [u8],
    pub actor: Option<&'a [u8]>,
    pub resource: Option<&'a [u8]>,
    pub data: &'a [u8],
    pub pii: Option<&'a [u8]>,
    pub flags: i64,
}

impl Row {
    /// Computes the hash of the row in a chain of this origin.
    pub fn compute_hash(&self, origin: &str) -> Hash {
        EntryHasher::new(origin).hash(&self.view())
    }

    /// Borrows the row.
    pub fn view(&self) -> RowRef<'_> {
        RowRef {
            seq: self.seq,
            prev: &self.prev,
            hash: &self.hash,
            mac: self.mac.as_deref(),
            kid: &self.kid,
            at: self.at,
            event_id: &self.event_id,
            kind: &self.kind,
            actor: self.actor.as_deref(),
            resource: self.resource.as_deref(),
            data: &self.data,
            pii: self.pii.as_deref(),
            flags: self.flags,
        }
    }
}

impl RowRef<'_> {
    /// Copies the row.
    pub fn to_row(self) -> Row {
        Row {
            seq: self.seq,
            prev: self.prev.to_vec(),
            hash: self.hash.to_vec(),
            mac: self.mac.map(<[u8]>::to_vec),
            kid: self.kid.to_vec(),
            at: self.at,
            event_id: self.event_id.to_vec(),
            kind: self.kind.to_vec(),
            actor: self.actor.map(<[u8]>::to_vec),
            resource: self.resource.map(<[u8]>::to_vec),
            data: Bytes::copy_from_slice(self.data),
            pii: self.pii.map(<[u8]>::to_vec),
            flags: self.flags,
        }
    }

    /// Returns how many bytes the columns of text and bytes hold.
    pub fn bytes(&self) -> usize {
        let needed = [self.prev, self.hash, self.kid, self.event_id, self.kind, self.data].map(<[u8]>::len);
        let optional = [self.mac, self.actor, self.resource, self.pii].map(|column| column.map_or(0, <[u8]>::len));
        needed.iter().chain(&optional).sum()
    }
}

impl<'a> From<&'a Sealed> for RowRef<'a> {
    fn from(sealed: &'a Sealed) -> Self {
        Self {
            // Both columns are 8 bytes whose bits the hash takes as they are.
            seq: sealed.seq.get().cast_signed(),
            prev: sealed.prev.as_bytes(),
            hash: sealed.hash.as_bytes(),
            mac: sealed.mac.as_ref().map(<[u8; 32]>::as_slice),
            kid: sealed.kid.as_bytes(),
            at: sealed.at.as_micros(),
            event_id: sealed.event_id.as_bytes(),
            kind: sealed.kind.as_bytes(),
            actor: sealed.actor.as_deref().map(str::as_bytes),
            resource: sealed.resource.as_deref().map(str::as_bytes),
            data: &sealed.data,
            pii: sealed.personal.as_ref().map(|commitment| commitment.as_bytes().as_slice()),
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
            personal: row.pii.map(hash).transpose()?.map(Hash::from_bytes),
        })
    }
}
