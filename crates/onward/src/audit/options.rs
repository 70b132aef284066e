//! What a caller may choose for one append or one query.

use std::time::Duration;

use super::archive::Archive;
use super::segment::Policies;
use crate::model::limits::PAGE_ITEMS;
use crate::model::{CheckpointKey, FencingToken, LockKey, Sealed, Seq};
use crate::time::Timestamp;
use crate::{Error, Result};

/// How an append waits when nothing else is asked for.
const DEADLINE: Duration = Duration::from_secs(5);
/// Shortest and longest deadline.
const DEADLINES: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// How to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendOptions {
    pub(super) event_id: Option<String>,
    pub(super) deadline: Duration,
    pub(super) fence: Option<(LockKey, FencingToken)>,
}

impl Default for AppendOptions {
    fn default() -> Self {
        Self { event_id: None, deadline: DEADLINE, fence: None }
    }
}

impl AppendOptions {
    /// Waits at most 5 s, without a fence; each call is a new event unless the entry names one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a repeated append happen once: for 7 days the same id and content get the first answer.
    #[must_use]
    pub fn with_event_id(mut self, id: impl Into<String>) -> Self {
        self.event_id = Some(id.into());
        self
    }

    /// Gives up, with nothing applied, if the append still waits after this time: 1 ms to 10 min.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Appends nothing if a newer holder of the lock was seen (INV-1).
    #[must_use]
    pub fn with_fence(mut self, lock: LockKey, token: FencingToken) -> Self {
        self.fence = Some((lock, token));
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if DEADLINES.contains(&self.deadline) { Ok(()) } else { Err(Error::invalid("a deadline is 1 ms to 10 min")) }
    }
}

/// What a trail has beside its store.
#[derive(Clone, Debug, Default)]
pub struct TrailOptions {
    /// The key that signs checkpoints; without one there are none.
    pub signing: Option<CheckpointKey>,
    /// Where segments are archived; without one they are not.
    pub archive: Option<Archive>,
    /// When each step of a segment's life is due; by default never.
    pub policies: Policies,
}

/// In which order entries come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Ascending,
    /// Newest first.
    Descending,
}

/// Which entries a query wants; what is absent does not narrow it. Bounds are inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only this kind, whole.
    pub kind: Option<String>,
    /// Only this actor, whole.
    pub actor: Option<String>,
    /// Only this resource, whole.
    pub resource: Option<String>,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Not after this time.
    pub until: Option<Timestamp>,
    /// Not before this position.
    pub from: Option<Seq>,
    /// Not after this position.
    pub to: Option<Seq>,
    /// In which order.
    pub order: Order,
}

/// Which page of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most this many entries, 1..=1,000; a page also ends at 8 MiB.
    pub limit: usize,
    /// The [`next`](Found::next) of the page before.
    pub after: Option<Seq>,
}

impl Page {
    /// The first page.
    pub fn first(limit: usize) -> Self {
        Self { limit, after: None }
    }

    pub(super) fn check(&self) -> Result<()> {
        if (1..=PAGE_ITEMS).contains(&self.limit) { Ok(()) } else { Err(Error::invalid("the limit of a page is 1..=1000")) }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::first(100)
    }
}

/// A page of entries; it may be empty and still not the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The entries in the asked order.
    pub items: Vec<Sealed>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Seq>,
    /// The ranges that the page could not look into, since their entries are purged, wholly or in part.
    pub absent: Vec<(u64, u64)>,
}
