//! Segments as the chain itself tells of them: what its control entries come to, and the skeleton that stays of what was purged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{ChainName, Hash, RowRef};
use crate::{Error, Result};

/// Entries in one chunk of a skeleton.
pub(crate) const CHUNK: u64 = 8_192;
/// Most entries of a segment.
pub const SEGMENT_ROWS: u64 = 1 << 20;

/// The name of the manifest beside the file of a segment.
pub(crate) const MANIFEST: &str = "manifest";

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentState {
    /// Its border is drawn and its skeleton kept; every entry is in the database.
    Sealed,
    /// A file has every entry too.
    Archived,
    /// Entries go from the database.
    Purging,
    /// No entry is in the database but control entries.
    Purged,
    /// Entries come back.
    Restoring,
    /// The file goes as well, or is gone: only the skeleton is left.
    FilePurged,
}

impl SegmentState {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            SegmentState::Sealed => "sealed",
            SegmentState::Archived => "archived",
            SegmentState::Purging => "purging",
            SegmentState::Purged => "purged",
            SegmentState::Restoring => "restoring",
            SegmentState::FilePurged => "file_purged",
        }
    }

    /// Tells whether entries may be absent.
    pub const fn may_lack_rows(self) -> bool {
        matches!(self, SegmentState::Purging | SegmentState::Purged | SegmentState::Restoring | SegmentState::FilePurged)
    }

    /// Tells whether a file must hold the entries.
    pub(crate) const fn has_file(self) -> bool {
        matches!(self, SegmentState::Archived | SegmentState::Purging | SegmentState::Purged | SegmentState::Restoring)
    }

    /// Tells which state a control entry leads to, and from which ones.
    fn after(kind: &str) -> Option<(Self, &'static [Self])> {
        Some(match kind {
            "segment.archived" => (Self::Archived, &[Self::Sealed]),
            "segment.purge_begun" => (Self::Purging, &[Self::Archived]),
            "segment.purged" => (Self::Purged, &[Self::Purging]),
            "segment.restore_begun" => (Self::Restoring, &[Self::Purged, Self::Purging]),
            "segment.restored" => (Self::Archived, &[Self::Restoring]),
            "segment.file_purged" => (Self::FilePurged, &[Self::Purged]),
            _ => return None,
        })
    }
}

impl fmt::Display for SegmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A file that has every entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFile {
    /// Its name in the archive.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// SHA-256 of the lines in it.
    pub plain_sha256: Hash,
    /// The length of the file.
    pub bytes: u64,
    /// The length of the lines in it.
    pub plain_bytes: u64,
    /// SHA-256 of the signed [manifest](crate::model::Manifest) beside it; absent if there was no key to sign one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Hash>,
}

impl ArchiveFile {
    /// Returns the name of what lies beside it.
    pub(crate) fn beside(&self, name: &str) -> String {
        let folder = self.name.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{name}")
    }
}

/// What `segment.sealed` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Border {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The hash before the first entry.
    pub(crate) prev: Hash,
    /// The hash of the last entry.
    pub(crate) last: Hash,
    /// The Merkle root over the segment's own entries.
    pub(crate) root: Hash,
    /// SHA-256 over the chunks of the skeleton.
    pub(crate) skeleton: Hash,
    /// What the chunks of this skeleton are named after.
    pub(crate) place: String,
}

/// What every control entry of a segment says.
#[derive(Deserialize)]
struct Step {
    from: u64,
    #[serde(rename = "gen")]
    generation: u64,
    archive: Option<ArchiveFile>,
}

/// A segment as the control entries tell of it.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) border: Border,
    pub(crate) generation: u64,
    pub(crate) archive: Option<ArchiveFile>,
    /// The states with the seqs of the entries that announce them.
    states: Vec<(i64, SegmentState)>,
}

impl Life {
    pub(crate) fn state(&self) -> SegmentState {
        self.states.last().map_or(SegmentState::Sealed, |(_, state)| *state)
    }

    /// The state as somebody saw it who had read the control entries up to a seq.
    pub(super) fn state_at(&self, control: i64) -> Option<SegmentState> {
        self.states.iter().rev().find(|(seq, _)| *seq <= control).map(|(_, state)| *state)
    }
}

/// What the control entries of a chain's segments come to. They are the truth; the rows of segments are an index of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    pub(crate) lives: BTreeMap<u64, Life>,
    /// The seq of the last control entry that was taken.
    pub(crate) last: i64,
}

impl Fold {
    /// Takes the next control entry of a segment.
    ///
    /// # Errors
    /// Why it cannot be one of ours; it changes nothing then.
    pub(crate) fn take(&mut self, row: &RowRef<'_>) -> std::result::Result<(), &'static str> {
        if row.seq <= self.last {
            return Ok(());
        }
        self.last = row.seq;
        let step: Step = serde_json::from_slice(row.data).map_err(|_| "a control entry of a segment is malformed")?;
        let kind = std::str::from_utf8(row.kind).unwrap_or_default();
        if kind == "segment.sealed" {
            let border: Border = serde_json::from_slice(row.data).map_err(|_| "a control entry of a segment is malformed")?;
            let follows = self.lives.last_key_value().map_or(1, |(_, life)| life.border.to + 1) == border.from;
            let fits = border.from <= border.to && border.to - border.from < SEGMENT_ROWS && border.to < row.seq.cast_unsigned();
            if !follows || !fits || step.generation != 1 {
                return Err("a segment begins where the one before it ends, and lies before the entry that seals it");
            }
            let states = vec![(row.seq, SegmentState::Sealed)];
            self.lives.insert(border.from, Life { border, generation: 1, archive: None, states });
            return Ok(());
        }
        let life = self.lives.get_mut(&step.from).ok_or("a control entry tells of a segment that was never sealed")?;
        let (to, from) = SegmentState::after(kind).ok_or("a control entry of a segment has an unknown kind")?;
        if !from.contains(&life.state()) || step.generation != life.generation + 1 {
            return Err("a segment cannot come to this state from the one before");
        }
        life.generation = step.generation;
        life.states.push((row.seq, to));
        if kind == "segment.archived" {
            life.archive = Some(step.archive.ok_or("an archived segment without a file")?);
        }
        Ok(())
    }

    /// Returns the segment that an entry belongs to; none if it is in the open end.
    pub(crate) fn of(&self, seq: u64) -> Option<&Life> {
        self.lives.range(..=seq).next_back().map(|(_, life)| life).filter(|life| seq <= life.border.to)
    }
}

/// A part of a skeleton: the hashes of up to 8,192 entries, and which of them are control entries.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    rows: usize,
}

impl Chunk {
    /// Writes a chunk.
    pub(crate) fn lay(rows: &[(Hash, bool)]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(rows.len() * 33);
        rows.iter().for_each(|(hash, _)| bytes.extend_from_slice(hash.as_bytes()));
        bytes.extend(rows.chunks(8).map(|eight| eight.iter().rev().fold(0_u8, |bits, (_, pinned)| bits << 1 | u8::from(*pinned))));
        bytes
    }

    /// Reads the chunk `index` of a segment.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), `integrity_failure`: it has another length.
    pub(crate) fn read(bytes: Vec<u8>, border: &Border, index: u64) -> Result<Self> {
        let rows = (border.to + 1 - border.from).saturating_sub(index * CHUNK).min(CHUNK);
        let rows = usize::try_from(rows).unwrap_or(0);
        if rows == 0 || bytes.len() != rows * 32 + rows.div_ceil(8) {
            return Err(Error::integrity("a skeleton does not fit its segment"));
        }
        Ok(Self { bytes, rows })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the hash of an entry, and whether it is a control entry.
    pub(crate) fn get(&self, index: usize) -> Option<(Hash, bool)> {
        let hash = self.bytes.get(index * 32..index * 32 + 32).filter(|_| index < self.rows)?;
        let bits = self.bytes.get(self.rows * 32 + index / 8)?;
        Some((Hash::from_bytes(hash.try_into().ok()?), bits >> (index % 8) & 1 == 1))
    }
}

/// Returns how many chunks a segment's skeleton has.
pub(crate) fn chunks(border: &Border) -> u64 {
    (border.to + 1 - border.from).div_ceil(CHUNK)
}

/// Hashes the chunks of a skeleton one after the other.
#[derive(Clone, Default)]
pub(crate) struct SkeletonHash(Sha256);

impl SkeletonHash {
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.0.update(chunk);
    }

    pub(crate) fn end(self) -> Hash {
        Hash::from_bytes(self.0.finalize().into())
    }
}

/// The kind of the objects that hold the chunks of skeletons.
pub(crate) const SKELETON_KIND: &str = "onward.skeleton";
/// The kind of the objects that are the index of segments.
pub(crate) const SEGMENT_KIND: &str = "onward.segment";

/// Names the object of a segment; names of one chain sort by their first entries.
pub(crate) fn segment_name(chain: &ChainName, from: u64) -> String {
    format!("{chain}/{from:016}")
}

/// Names the object of a chunk.
pub(crate) fn chunk_name(chain: &ChainName, from: u64, place: &str, index: u64) -> String {
    format!("{chain}/{from:016}/{place}/{index:03}")
}
