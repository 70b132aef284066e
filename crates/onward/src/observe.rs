//! What the library tells whoever watches it: events, never keys or values.
//!
//! The library has no metrics of its own; the server counts what an [`Observer`] is told.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;

/// Something that happened, for counters and reports. Its labels come from closed sets.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A batch of commits was written, or could not be.
    Batch {
        /// How many commits it held.
        commits: usize,
        /// The name of the engine.
        engine: &'static str,
        /// `ok` or `error`.
        result: &'static str,
        /// How long the engine took to write it, COMMIT and fsync included.
        took: Duration,
    },
    /// A commit was answered.
    Commit {
        /// `committed`, `unchanged`, `replayed`, `conflict`, `fenced`, `refused` (bad input), `overloaded` or `error`.
        outcome: &'static str,
        /// From the call to the answer.
        took: Duration,
    },
    /// The reader of the change feed that cleans the cache looked how far it is.
    Feed {
        /// The age of the commit that it works on; zero at the end of the log.
        behind: Duration,
        /// Commits that it has read and not worked through.
        waiting: usize,
    },
    /// An append to a chain was answered; its commit is told of too.
    Append {
        /// `appended`, `replayed` or `error`.
        result: &'static str,
        /// From the call to the answer.
        took: Duration,
    },
    /// A verification of a chain ended.
    Verify {
        /// `ok`, `broken`, `undetermined`, or `failed`: it came to no verdict.
        verdict: &'static str,
        /// Whether it was of the whole chain.
        whole: bool,
    },
    /// A signed checkpoint of a chain was put into the archive, or the one there still is the newest.
    Checkpoint,
    /// A step that was due in the life of a chain was tried by maintenance.
    MaintainStep {
        /// `finish`, `seal`, `archive`, `purge`, `delete_file`, `collect`, `checkpoint` or `verify`.
        stage: &'static str,
        /// `done`, `waits` or `failed`.
        result: &'static str,
    },
    /// Maintenance looked at the chains.
    Maintained {
        /// For how long a step has been due that failed; zero if none did.
        overdue: Duration,
    },
    /// An audit entry was dropped.
    AuditDrop {
        /// `overloaded` or `unavailable`.
        reason: &'static str,
    },
    /// A lock call ended; each call counts exactly one of `acquired`, `skipped`, `contended`, `backend_error`, `bypassed`, and on top at
    /// most one each of `unlocked`, `lost`, `release_error`.
    Lock {
        /// The outcome.
        outcome: &'static str,
        /// The closed label of what is locked.
        target: &'a str,
        /// The scope of the key, if it is one of the configured labels.
        scope: Option<&'a str>,
    },
    /// A lock call has its answer, whatever it is.
    LockWait {
        /// As in [`Event::Lock`].
        target: &'a str,
        /// As in [`Event::Lock`].
        scope: Option<&'a str>,
        /// How long it asked and waited.
        waited: Duration,
    },
    /// A grant of this process ended: released, lost or dropped. The leases of callers who keep the owner themselves are not seen.
    LockHold {
        /// As in [`Event::Lock`].
        target: &'a str,
        /// As in [`Event::Lock`].
        scope: Option<&'a str>,
        /// How long it was held.
        held: Duration,
        /// The length of its lease: held longer than half of it, renewals carried it.
        ttl: Duration,
    },
    /// A caller who keeps the owner, such as one over HTTP, renewed or gave back a lease; its acquisition is an [`Event::Lock`].
    LockKept {
        /// `renew` or `release`.
        operation: &'static str,
        /// `done`, `lost` or `error`.
        result: &'static str,
    },
    /// The number of grants that this process holds changed.
    LockHeld {
        /// By how much: 1 or -1.
        by: i64,
    },
    /// The number of callers of this process that wait for locks changed.
    LockWaiters {
        /// By how much: 1 or -1.
        by: i64,
    },
    /// A cache read ended.
    CacheLoad {
        /// `hit`, `stale`, `loaded`, `negative`, `unfilled` or `error`.
        result: &'static str,
    },
    /// A cache fill ended.
    CacheFill {
        /// `stored`, `superseded`, `abandoned` or `failed`.
        result: &'static str,
    },
    /// A cache invalidation ended.
    CacheInvalidation {
        /// `removed`, `absent`, `queued` or `failed`.
        result: &'static str,
    },
    /// Something an operator should see; reported at most once in 60 s a kind.
    Report {
        /// What failed, such as `release_error`.
        action: &'static str,
        /// The closed label of what it concerns.
        target: &'a str,
        /// The scope, if it is one of the configured labels.
        scope: Option<&'a str>,
        /// The engine's name, such as `sqlite`.
        engine: &'a str,
        /// The key with `*` for its id and attribute, such as `lock:main:eu:projects:*`; `*` for a raw key.
        subject: &'a str,
        /// The failure, with its code and effect.
        error: &'a Error,
        /// How many of the same were held back since the last report.
        suppressed: u64,
    },
}

/// Receives events; must be quick and must not block.
pub trait Observer: Debug + Send + Sync {
    /// Is told of one event. A panic in here is swallowed: it must not fail what it only watches.
    fn observe(&self, event: &Event<'_>);
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _: &Event<'_>) {}
}

/// Tells an observer; what it does with it is its own affair.
pub(crate) fn tell(observer: &SharedObserver, event: &Event<'_>) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.observe(event)));
}

/// A shared observer.
pub type SharedObserver = Arc<dyn Observer>;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Works, and will hurt one day.
    Warning,
    /// A promise is not kept, or will not be soon.
    Failure,
}

/// One thing that an engine found about itself and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, such as `sqlite.journal`: from a closed list of the engine.
    pub check: &'static str,
    /// How bad it is.
    pub grade: Grade,
    /// What was found; no key, value or secret.
    pub found: String,
    /// What to do about it, unless it is fine.
    pub fix: Option<&'static str>,
}

impl Finding {
    /// Reports something that is as it should be.
    pub fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Fine, found: found.into(), fix: None }
    }

    /// Reports something to do.
    pub fn bad(check: &'static str, grade: Grade, found: impl Into<String>, fix: &'static str) -> Self {
        Self { check, grade, found: found.into(), fix: Some(fix) }
    }

    /// Reports something by whether it is as it should be.
    pub fn of(check: &'static str, fine: bool, grade: Grade, found: impl Into<String>, fix: &'static str) -> Self {
        if fine { Self::fine(check, found) } else { Self::bad(check, grade, found, fix) }
    }
}
