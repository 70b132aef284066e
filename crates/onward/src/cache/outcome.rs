//! What an engine keeps and answers. A lost race is a value (C8).

use std::time::Duration;

use bytes::Bytes;

use super::slot::Nonce;
use crate::{Error, Result};

/// An entry as an engine keeps it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The encoded value; opaque to the engine.
    pub payload: Bytes,
    /// The nonce of the lease that stored it.
    pub nonce: Nonce,
    /// Whether its time is over.
    pub age: Age,
}

/// How old an entry is, by the engine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Age {
    /// Its time is not over.
    Fresh {
        /// How long it still is fresh.
        left: Duration,
    },
    /// Its time is over; kept for readers that asked for it.
    Stale {
        /// How long ago its time ended.
        since: Duration,
    },
}

/// How long an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// How long it is fresh.
    pub ttl: Duration,
    /// How long it is kept as stale after that.
    pub grace: Duration,
}

/// Why nobody may fill now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusyReason {
    /// Another caller holds the fill lease.
    Loading,
    /// A writer's guard stands.
    Guarded,
    /// The engine is away, or has no room for another lease.
    Away,
}

/// What [`CacheEngine::reserve`](super::CacheEngine::reserve) found or did.
#[derive(Clone, Debug)]
#[must_use]
pub enum Reserved {
    /// A fresh entry is there; nothing was reserved.
    Hit(Entry),
    /// The slot is reserved: this nonce may fill it.
    Lease(Nonce),
    /// Nobody may fill now.
    Busy {
        /// Why.
        reason: BusyReason,
        /// When that ends by itself at the latest.
        retry_after: Duration,
    },
}

/// What is there instead of a refused fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Now {
    /// Nothing fresh: the lease was invalidated, or its time was over.
    Absent,
    /// A value that another fill stored.
    Replaced,
    /// The namespace was flushed.
    Flushed,
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Filled {
    /// The value is in the cache.
    Stored,
    /// The lease was dead: nothing was written (C8).
    Superseded {
        /// What is there now.
        now: Now,
    },
}

/// What an invalidation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Invalidation {
    /// A reader could see something before; now nobody can.
    Removed,
    /// There was nothing to see. Fills in flight are refused all the same.
    Absent,
    /// The engine is away: this process bypasses the namespace until the invalidation is done. Other processes may read the old value.
    Queued,
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flushed {
    /// Nothing from before can be read.
    Flushed,
    /// The engine is away: this process bypasses the namespace until the flush is done. Other processes may read old values.
    Queued,
}

/// What an expiry found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Expiry {
    /// A value is kept, and only as stale.
    Expired,
    /// There was nothing to keep. Fills in flight are refused all the same.
    Absent,
    /// The engine is away: this process bypasses the namespace until the value is invalidated, which is more than was asked.
    Queued,
}

/// What a touch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Touched {
    /// A fresh entry, which has the new life now.
    Touched,
    /// Nothing fresh; nothing was written.
    Absent,
}

/// How a write guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum GuardEnd {
    /// It stood until now: no fill landed under it.
    Released,
    /// Its time was over before: a fill may have landed in between. What was found is purged.
    WasLost,
}

/// What a namespace holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Kept values, remembered absences and stale ones included.
    pub entries: u64,
    /// Their bytes, with names and bookkeeping.
    pub bytes: u64,
    /// Live fill leases.
    pub reservations: u64,
    /// Keys under a live write guard.
    pub guarded: u64,
}

/// Who sees the same cache; each scope is wider than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This process. Caches in other processes are told by the change feed.
    Process,
    /// Every process that uses the same engine.
    Shared,
}

/// What an engine promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    /// Who shares one cache.
    pub scope: Scope,
    /// How much older than an acknowledged invalidation in this scope a read may be; `None` is not at all (INV-2).
    pub staleness: Option<Duration>,
    /// Whether clients of another kind, such as PHP's, purge the same keys: a purge that they lose is never heard of here, and their own
    /// fills keep none of this.
    pub foreign_writers: bool,
}

impl Promise {
    /// Makes sure that the scope is at least this wide.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): it is not; use another engine.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scope < scope {
            return Err(Error::unsupported("this cache is not shared between processes"));
        }
        Ok(())
    }
}
