//! The life of a chain's past: sealed into segments, written to files, purged from the database, brought back.
//!
//! The long work lies outside of every lock. Each step of a segment is one short [`Commit`](crate::commit::Commit): the segment's object,
//! written at the version that this worker's own last step gave it, and one control entry in the chain (INV-6). So of two workers one
//! wins, one that paused and woke late changes nothing, and a batch of rows moves only while segment and holds are as the worker last saw
//! them. Absence is announced before it happens, presence after it is complete: at every moment, and after a death at any step, the
//! verifier can tell what is missing from what was taken (INV-7).

mod archiving;
mod attest;
mod heal;
mod hold;
mod index;
mod maintain;
mod policy;
mod purge;
mod restore;
mod seal;
mod worker;

use std::fmt;
use std::sync::Arc;

use onward_api::number;
use serde::{Deserialize, Serialize};

pub use heal::Healed;
pub use hold::{Hold, Holds};
pub(super) use index::Index;
pub use maintain::{Maintenance, Step, StepResult, Tick};
pub use policy::{Means, Policies, Policy, Stage};
pub(super) use worker::surely;

use super::chain::Chain;
use super::verify::segment::{Border, CHUNK, Chunk, SEGMENT_KIND, SKELETON_KIND, chunk_name, segment_name};
use super::verify::{ArchiveFile, SegmentState};
use crate::commit::engine::Scan;
use crate::model::{Hash, Key, Seq, Version};
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result};

/// Longest reason of an act, in bytes.
const REASON_BYTES: usize = 1_024;

/// A range of a chain whose borders are drawn, and where it is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The first entry; it names the segment.
    #[serde(with = "number")]
    pub from: u64,
    /// The last entry.
    #[serde(with = "number")]
    pub to: u64,
    /// Where it is in its life.
    pub state: SegmentState,
    /// How many steps it took; each control entry tells its own.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// The hash before the first entry.
    pub prev: Hash,
    /// The hash of the last entry.
    pub last: Hash,
    /// The Merkle root over its own entries.
    pub root: Hash,
    /// SHA-256 over the chunks of its skeleton.
    pub skeleton: Hash,
    /// What the chunks of its skeleton are named after.
    pub place: String,
    /// The file that has its entries.
    #[serde(default)]
    pub archive: Option<ArchiveFile>,
    /// Until when its entries were brought back.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Counts who worked on it; the name of a file carries it.
    pub attempt: u64,
    /// Until when nobody else takes the work over; absent while nobody works.
    #[serde(default)]
    pub attempt_until: Option<Timestamp>,
    /// How many entries the work at hand has done.
    pub done: u64,
    /// When it came to its state.
    pub changed_at: Timestamp,
}

impl Segment {
    pub(super) fn border(&self) -> Border {
        let Self { from, to, prev, last, root, skeleton, ref place, .. } = *self;
        Border { from, to, prev, last, root, skeleton, place: place.clone() }
    }

    /// Returns how many entries it has.
    pub fn rows(&self) -> u64 {
        self.to + 1 - self.from
    }
}

/// Who does something to a segment, why, and who watches.
#[derive(Clone)]
pub struct Act {
    reason: String,
    actor: Option<String>,
    dry: bool,
    watch: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Act {{ dry: {} }}", self.dry)
    }
}

impl Act {
    /// An act for a reason, which the chain keeps: 1..=1,024 bytes without control characters.
    pub fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), actor: None, dry: false, watch: None }
    }

    /// Says who does it.
    #[must_use]
    pub fn by(mut self, actor: Option<String>) -> Self {
        self.actor = actor;
        self
    }

    /// Only looks whether it could be done: nothing is written.
    #[must_use]
    pub fn dry(mut self) -> Self {
        self.dry = true;
        self
    }

    /// Tells how many entries of how many are done.
    #[must_use]
    pub fn watched(mut self, watch: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.watch = Some(Arc::new(watch));
        self
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn actor(&self) -> Option<String> {
        self.actor.clone()
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.reason.trim().is_empty() || self.reason.len() > REASON_BYTES || self.reason.chars().any(char::is_control) {
            return Err(Error::invalid("a reason is 1..=1024 bytes without control characters"));
        }
        Ok(())
    }

    pub(super) fn tell(&self, done: u64, total: u64) {
        if let Some(watch) = &self.watch {
            watch(done, total);
        }
    }
}

/// The state stands in the way; nothing was changed.
pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, Code::StateConflict, message)
}

impl Chain {
    /// Lists segments in order, those that begin behind `after`: at most 1,000.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine is away, or an index row is damaged.
    pub async fn segments(&self, after: Option<Seq>) -> Result<Vec<Segment>> {
        let found = self.segment_page(after.map_or(0, Seq::get)).await.map_err(|e| e.during("segments"))?;
        Ok(found.into_iter().map(|(segment, _)| segment).collect())
    }

    /// Returns the segment that begins with an entry.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: none begins there. [`Kind::Backend`]: the engine is away, or the index row is damaged.
    pub async fn segment(&self, from: Seq) -> Result<Segment> {
        self.load(from.get()).await.map(|(segment, _)| segment).map_err(|e| e.during("segment"))
    }

    async fn segment_page(&self, after: u64) -> Result<Vec<(Segment, Version)>> {
        let scan = Scan {
            namespace: "default".to_owned(),
            kind: SEGMENT_KIND.to_owned(),
            prefix: format!("{}/", self.name()),
            after: if after == 0 { String::new() } else { segment_name(self.name(), after) },
            limit: 1_000,
            ..Scan::default()
        };
        let listed = self.trail().queue().engine().list(scan).await?;
        listed.items.iter().map(|object| Ok((read(object.value.read())?, object.meta.version))).collect()
    }

    /// The segment that an entry belongs to.
    pub(super) async fn segment_of(&self, seq: u64) -> Result<Option<Segment>> {
        Ok(self.all_segments().await?.into_iter().find(|segment| (segment.from..=segment.to).contains(&seq)))
    }

    pub(super) async fn all_segments(&self) -> Result<Vec<Segment>> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = self.segment_page(after).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = last.from;
            all.extend(page.into_iter().map(|(segment, _)| segment));
        }
    }

    async fn load(&self, from: u64) -> Result<(Segment, Version)> {
        let object = self.trail().queue().engine().get(&self.segment_key(from)?).await?;
        let object = object.ok_or_else(|| Error::not_found("no segment begins there"))?;
        Ok((read(object.value.read())?, object.meta.version))
    }

    fn segment_key(&self, from: u64) -> Result<Key> {
        Key::new(SEGMENT_KIND, &segment_name(self.name(), from))
    }

    fn chunk_key(&self, from: u64, place: &str, index: u64) -> Result<Key> {
        Key::new(SKELETON_KIND, &chunk_name(self.name(), from, place, index))
    }

    /// Reads a chunk of a skeleton.
    async fn chunk(&self, segment: &Segment, index: u64) -> Result<Chunk> {
        let object = self.trail().queue().engine().get(&self.chunk_key(segment.from, &segment.place, index)?).await?;
        let object = object.ok_or_else(|| Error::integrity("a part of a skeleton is missing"))?;
        Chunk::read(object.value.bytes().to_vec(), &segment.border(), index)
    }

    /// The hash that a segment knows of an entry.
    pub(super) async fn known_hashes(&self, segment: &Segment, from: u64, to: u64) -> Result<Vec<Hash>> {
        let mut hashes = Vec::new();
        let mut seq = from;
        while seq <= to {
            let (index, offset) = ((seq - segment.from) / CHUNK, (seq - segment.from) % CHUNK);
            let chunk = self.chunk(segment, index).await?;
            let end = to.min(segment.from + (index + 1) * CHUNK - 1);
            for offset in offset..=offset + (end - seq) {
                let known = usize::try_from(offset).ok().and_then(|offset| chunk.get(offset));
                hashes.push(known.ok_or_else(|| Error::integrity("a skeleton does not fit its segment"))?.0);
            }
            seq = end + 1;
        }
        Ok(hashes)
    }
}

fn read<T>(read: Result<T>) -> Result<T> {
    read.map_err(|e| Error::integrity("the index of segments is damaged").with_source(e))
}
