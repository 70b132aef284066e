//! Rows from elsewhere: created in chunks, never over what is there.

use std::time::Duration;

use crate::commit::{Commit, CommitOutcome, WriteCondition};
use crate::model::limits::{COMMIT_WRITES, TOKEN_AHEAD_US, TTL_MAX, TTL_MIN};
use crate::model::{Key, LabelChange, Labels, Meta, Object, Payload, RequestId, TtlChange, Version};
use crate::time::Timestamp;
use crate::{Error, Result, random};

use super::handle::Store;

/// Most bytes of payload that one chunk holds, unless a single row is longer.
const CHUNK_BYTES: usize = 4 << 20;

/// An object to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRow {
    /// Its key.
    pub key: Key,
    /// Its content.
    pub payload: Payload,
    /// Its labels.
    pub labels: Labels,
    /// When it ends by itself, if it does.
    pub expires_at: Option<Timestamp>,
    /// The version that it had where it comes from, if it had one: it is created above that.
    pub version: Option<Version>,
}

impl From<Object> for ImportRow {
    fn from(object: Object) -> Self {
        let Meta { version, labels, expires_at, .. } = object.meta;
        Self { key: object.key, payload: object.value, labels, expires_at, version: Some(version) }
    }
}

/// What an import has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Objects that it created.
    pub created: u64,
    /// Rows whose object was there already, and stayed as it was.
    pub existing: u64,
}

/// A running import; see [`Store::import`].
#[must_use = "the last rows are written by `finish`"]
#[derive(Debug)]
pub struct Import {
    store: Store,
    chunk: Vec<ImportRow>,
    bytes: usize,
    /// Makes a chunk whose answer was lost happen once.
    request: RequestId,
    done: Imported,
}

impl Import {
    pub(super) fn new(store: Store) -> Result<Self> {
        Ok(Self { store, chunk: Vec::new(), bytes: 0, request: fresh()?, done: Imported::default() })
    }

    /// Returns what was done so far, also after an error.
    pub fn imported(&self) -> Imported {
        self.done
    }

    /// Refuses a row that no push would take, before anything is written.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): its version is more than a year ahead of the clock in microseconds, beyond all that a store
    /// ever gives, or its end is more than ten years ahead.
    pub fn check(&self, row: &ImportRow) -> Result<()> {
        if row.expires_at.is_some_and(|end| self.left(end) > TTL_MAX) {
            return Err(Error::invalid("an object ends within 10 years, if it does").with_pointer("/expires_at").during("import"));
        }
        let now = u64::try_from(self.store.queue().clock().wall().as_micros()).unwrap_or(0);
        // Or one row could leave no versions to all that are created later.
        if row.version.is_some_and(|version| version.get() > now.saturating_add(TOKEN_AHEAD_US)) {
            return Err(Error::invalid("a version is more than a year ahead of the store's clock")
                .with_pointer("/version")
                .during("import"));
        }
        Ok(())
    }

    fn left(&self, end: Timestamp) -> Duration {
        let now = self.store.queue().clock().wall().as_micros();
        Duration::from_micros(u64::try_from(end.as_micros().saturating_sub(now)).unwrap_or(0))
    }

    /// Adds a row; writes the chunk before it if that is full.
    ///
    /// # Errors
    /// As [`Import::check`]. Else as [`Store::commit`]: the row is not taken, and what was not written waits; call again with the same row,
    /// or give up and import
    /// everything again later.
    ///
    /// # Cancel safety
    /// A chunk is written whole or not at all; the row may be lost.
    pub async fn push(&mut self, row: ImportRow) -> Result<()> {
        self.check(&row)?;
        let bytes = row.payload.bytes().len();
        let full = self.chunk.len() == COMMIT_WRITES || self.bytes + bytes > CHUNK_BYTES;
        // A row that stands twice exists the second time.
        if full || self.chunk.iter().any(|other| other.key == row.key) {
            self.write().await?;
        }
        self.bytes += bytes;
        self.chunk.push(row);
        Ok(())
    }

    /// Writes what still waits; returns what the import came to.
    ///
    /// # Errors
    /// As [`Import::push`].
    pub async fn finish(&mut self) -> Result<Imported> {
        self.write().await?;
        Ok(self.done)
    }

    /// Writes the chunk: what is there already leaves it, the rest is created in one commit.
    async fn write(&mut self) -> Result<()> {
        while !self.chunk.is_empty() {
            // Above every version that a reader of the old place may hold a condition on (C4).
            let above = self.chunk.iter().filter_map(|row| row.version).max();
            // Known by its id alone: what is left of a time to live is less at the next try.
            let commit = Commit::new().request(self.request.clone()).intent(self.request.as_str().as_bytes());
            let commit = self.chunk.iter().fold(commit, |commit, row| {
                let commit = commit.put_payload(row.key.clone(), row.payload.clone(), WriteCondition::MustCreate);
                let commit = commit.labels(LabelChange::Set(row.labels.clone()));
                match row.expires_at {
                    // What is over by now is left to the sweeper, as everywhere.
                    Some(end) => commit.ttl(TtlChange::Set(self.left(end).max(TTL_MIN))),
                    None => commit,
                }
            });
            match self.store.commit(commit.above(above)).await.map_err(|e| e.during("import"))? {
                CommitOutcome::Committed(receipt) => {
                    self.done.created += receipt.writes.len() as u64;
                    self.chunk.clear();
                }
                CommitOutcome::Conflict(conflicts) if !conflicts.is_empty() => {
                    self.done.existing += conflicts.len() as u64;
                    let mut index = 0..;
                    self.chunk.retain(|_| index.next().is_none_or(|index| conflicts.iter().all(|lost| lost.index != index)));
                }
                CommitOutcome::Conflict(_) | CommitOutcome::Fenced { .. } => {
                    return Err(Error::integrity("an import lost against nobody").during("import"));
                }
            }
            self.request = fresh()?;
        }
        self.bytes = 0;
        Ok(())
    }
}

fn fresh() -> Result<RequestId> {
    RequestId::new(&random::uuid_v4().to_string())
}
