//! Looking at one row by itself: everything that needs its bytes, and nothing that needs its neighbours.

use super::personal::Beside;
use super::{Depth, FindingCode};
use crate::model::limits::PAYLOAD_BYTES;
use crate::model::merkle;
use crate::model::{EntryHasher, FLAGS_KNOWN, HAS_ACTOR, HAS_RESOURCE, Hash, MacKeys, PINNED, RowRef, is_control};

/// A column that should hold a hash.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Digest {
    Whole(Hash),
    /// No writer of ours leaves anything but 32 bytes.
    Odd(Box<[u8]>),
}

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match <[u8; 32]>::try_from(bytes) {
            Ok(whole) => Self::Whole(Hash::from_bytes(whole)),
            Err(_) => Self::Odd(bytes.into()),
        }
    }

    pub(super) fn is(&self, hash: &Hash) -> bool {
        matches!(self, Self::Whole(own) if own == hash)
    }
}

/// What a row's MAC says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum MacState {
    /// Neither key nor MAC.
    Absent,
    /// One of both.
    Half,
    /// Both, not looked at.
    Unchecked,
    Good,
    Wrong,
    UnknownKey,
    /// Good, by a key that was retired before.
    Retired,
    /// Good, by a key that came later.
    Early,
}

/// A row without its bytes: some 250 bytes, whatever its data.
pub(super) struct Seen {
    pub(super) seq: i64,
    pub(super) at: i64,
    pub(super) prev: Digest,
    pub(super) stored: Digest,
    pub(super) computed: Hash,
    /// The leaf of the stored hash, if that is one.
    pub(super) leaf: Option<Hash>,
    pub(super) sealed: bool,
    /// What it says of its personal data, if it has some.
    pub(super) commitment: Option<Hash>,
    /// What stands beside it; looked at later.
    pub(super) beside: Beside,
    /// Whether its flag says that it is a control entry.
    pub(super) pinned: bool,
    pub(super) mac: MacState,
    pub(super) content: Option<(FindingCode, &'static str)>,
    pub(super) control: Option<(FindingCode, &'static str)>,
    pub(super) bytes: usize,
}

/// Looks at the rows of one chain.
pub(super) struct Eye<'a> {
    hasher: EntryHasher,
    origin: String,
    keys: &'a MacKeys,
    macs_checked: bool,
}

impl<'a> Eye<'a> {
    pub(super) fn new(origin: &str, keys: &'a MacKeys, depth: Depth) -> Self {
        Self { hasher: EntryHasher::new(origin), origin: origin.to_owned(), keys, macs_checked: depth == Depth::Keyed && !keys.is_empty() }
    }

    pub(super) fn look(&mut self, row: &RowRef<'_>) -> Seen {
        let computed = self.hasher.hash(row);
        let stored = Digest::of(row.hash);
        let leaf = match &stored {
            Digest::Whole(hash) => Some(merkle::leaf(hash)),
            Digest::Odd(_) => None,
        };
        Seen {
            seq: row.seq,
            at: row.at,
            prev: Digest::of(row.prev),
            content: content(row, stored.is(&computed)),
            control: control(row),
            mac: self.mac(row, &computed),
            sealed: !row.kid.is_empty(),
            commitment: row.pii.and_then(|pii| <[u8; 32]>::try_from(pii).ok()).map(Hash::from_bytes),
            beside: Beside::Unseen,
            pinned: row.flags.cast_unsigned() & PINNED != 0,
            bytes: row.bytes(),
            stored,
            computed,
            leaf,
        }
    }

    fn mac(&self, row: &RowRef<'_>, computed: &Hash) -> MacState {
        match (row.kid.is_empty(), row.mac) {
            (true, None) => MacState::Absent,
            (true, Some(_)) | (false, None) => MacState::Half,
            (false, Some(_)) if !self.macs_checked => MacState::Unchecked,
            // A name that is not text is in nobody's list.
            (false, Some(mac)) => {
                let kid = std::str::from_utf8(row.kid).unwrap_or_default();
                match self.keys.verify(kid, computed, mac) {
                    None => MacState::UnknownKey,
                    Some(true) if !self.keys.has_begun(kid, &self.origin, row.seq) => MacState::Early,
                    Some(true) if !self.keys.is_in_window(kid, &self.origin, row.seq) => MacState::Retired,
                    Some(true) => MacState::Good,
                    Some(false) => MacState::Wrong,
                }
            }
        }
    }
}

fn content(row: &RowRef<'_>, is_hash: bool) -> Option<(FindingCode, &'static str)> {
    let flags = row.flags.cast_unsigned();
    if !is_hash {
        Some((FindingCode::Edited, "the stored hash is not that of the stored bytes"))
    } else if (flags & HAS_ACTOR != 0) != row.actor.is_some() || (flags & HAS_RESOURCE != 0) != row.resource.is_some() {
        // Absent and empty have the same bytes in the hash; the flags tell them apart.
        Some((FindingCode::Edited, "an absent field was made empty, or an empty one absent"))
    } else if flags & !FLAGS_KNOWN != 0 || row.pii.is_some_and(|pii| pii.len() != 32) || row.data.len() > PAYLOAD_BYTES {
        Some((FindingCode::Undetermined, "the entry has a form that this version does not know"))
    } else {
        None
    }
}

fn control(row: &RowRef<'_>) -> Option<(FindingCode, &'static str)> {
    let control = std::str::from_utf8(row.kind).is_ok_and(is_control);
    if control != (row.flags.cast_unsigned() & PINNED != 0) {
        Some((FindingCode::Control, "the flag of a control entry does not fit the kind"))
    } else if (row.kind == b"chain.created") != (row.seq == 1) {
        Some((FindingCode::Control, "a chain begins with its creation, once"))
    } else {
        None
    }
}
