//! How long the change log is kept: by age and by size, whole commits, the oldest first.

use std::time::Duration;

use crate::model::Revision;
use crate::time::Timestamp;

/// How much of the change log is kept; what is older or beyond goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Longest age.
    pub age: Duration,
    /// Most bytes, counted as what the log holds of objects and notes plus [`ROW_BYTES`] a row.
    pub bytes: u64,
}

impl Default for Retention {
    /// 7 days or 4 GiB, whichever is less.
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3_600), bytes: 4 << 30 }
    }
}

/// What a row of the log counts beside its content.
pub const ROW_BYTES: u64 = 256;

/// What may go from the log now.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Everything up to this revision, by order of the caller.
    pub up_to: Revision,
    /// Everything that was committed before.
    pub before: Timestamp,
    /// The oldest beyond this size.
    pub bytes: u64,
    /// Not many more rows than this at a time: others wait meanwhile.
    pub rows: usize,
}

impl Prune {
    /// Tells whether the oldest commit of the log goes, which now has `bytes` in all.
    pub fn takes(&self, revision: Revision, at: Timestamp, bytes: u64) -> bool {
        revision <= self.up_to || at < self.before || bytes > self.bytes
    }
}

/// What pruning came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The log now holds everything above this revision.
    pub compacted: Revision,
    /// Whether there was more to do than one go allows.
    pub more: bool,
}
