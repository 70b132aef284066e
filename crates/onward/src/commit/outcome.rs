//! What became of a commit: values that the caller must look at (C8).

use serde::{Deserialize, Serialize};

use crate::model::{ChainName, FencingToken, Hash, Key, LockKey, Object, Payload, Revision, Seq, Version};

/// What became of a commit. A lost race is a value, not an error.
#[must_use]
#[derive(Debug, Clone)]
pub enum CommitOutcome {
    /// Applied, durably.
    Committed(Receipt),
    /// Nothing was applied: each loser with its current object.
    Conflict(Vec<Conflict>),
    /// Nothing was applied: a newer holder of this lock was seen. Stop using the grant.
    Fenced {
        /// The lock.
        lock: LockKey,
        /// The token that is too old.
        token: FencingToken,
        /// The newest one seen.
        newest: FencingToken,
    },
}

/// What a commit produced: these very numbers, never what a later read found (C2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its place in the order of the store; of an unchanged commit, the newest at that moment.
    pub revision: Revision,
    /// One for each write, in the commit's order.
    pub writes: Vec<Written>,
    /// One for each audit entry, in the commit's order.
    pub audit: Vec<EntryReceipt>,
    /// Whether anything changed.
    pub changed: bool,
    /// Whether this answer was given before, to the same request id.
    #[serde(skip)]
    pub replayed: bool,
    /// What became of the cache invalidations.
    #[serde(skip)]
    pub invalidation: Delivery,
}

/// What one write produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The object's version now; of a delete, the version that the deletion took.
    pub version: Version,
    /// The revision of the commit.
    pub revision: Revision,
    /// Whether this write created the object.
    pub created: bool,
    /// Whether anything changed; equal content keeps its version.
    pub changed: bool,
    /// Whether this answer was given before, to the same request id.
    #[serde(skip)]
    pub replayed: bool,
}

/// Where one audit entry went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReceipt {
    /// The chain.
    pub chain: ChainName,
    /// The position.
    pub seq: Seq,
    /// The hash.
    pub hash: Hash,
    /// The time, in microseconds since 1970.
    pub at: i64,
    /// The event id that the entry carries.
    pub event_id: String,
}

/// What became of the cache invalidations of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delivery {
    /// The commit asked for none.
    #[default]
    NotAsked,
    /// Done before this answer: no later read returns what was there before (INV-2).
    Done,
    /// The write stands; the change feed delivers what is open.
    Queued,
}

/// Why a write or guard lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The object is at another version.
    Stale,
    /// The object exists already.
    Exists,
    /// The object does not exist.
    Missing,
    /// A guard did not hold.
    Guard,
    /// A `compare` of a patch did not hold.
    Compare,
}

/// One lost race, with the current state so that the next try needs no extra read (C8).
#[derive(Debug, Clone)]
pub struct Conflict<T = Payload> {
    /// The place of the write, or of the guard, in the commit.
    pub index: usize,
    /// The object.
    pub key: Key,
    /// Why it lost.
    pub reason: Reason,
    /// The current version; `None` when the object is gone.
    pub version: Option<Version>,
    /// The current object; left out beyond 4 MiB in sum, and where it has another shape than was asked for.
    pub current: Option<Object<T>>,
}
