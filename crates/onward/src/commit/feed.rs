//! The change feed: every commit once, in revision order, without a gap (INV-4), resumable.
//!
//! The truth is the change log, which is written in each commit's transaction; a wake-up is only a hint. Readers that keep up share the
//! newest commits of this queue in memory. Other processes' commits are seen by looking at the log every 100 ms.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::engine::{CommitEngine, Heard};
use super::outcome::EntryReceipt;
use super::recent::Recent;
use crate::model::{Epoch, Key, Object, RequestId, Revision, Version};
use crate::time::{Clock, Timestamp};
use crate::{Code, Error, Kind, Result, retry};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOp {
    /// It was created or changed.
    Put,
    /// It was deleted.
    Delete,
    /// It was deleted because its time to live was over.
    Expire,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub op: ChangeOp,
    /// To which object.
    pub key: Key,
    /// The version that the change took; a deletion takes one too.
    pub version: Version,
    /// The object before; `None` for a create.
    pub before: Option<Arc<Object>>,
    /// The object after; `None` once it is deleted.
    pub after: Option<Arc<Object>>,
}

/// One change in the history of an object.
#[derive(Debug, Clone)]
pub struct Past {
    /// The revision of the commit.
    pub revision: Revision,
    /// When it was committed.
    pub at: Timestamp,
    /// What changed.
    pub change: Change,
}

/// One commit as the change log has it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the order.
    pub revision: Revision,
    /// When it was committed, by the engine's clock; never an order.
    pub at: Timestamp,
    /// What changed; empty for a commit that only appends, invalidates or fences.
    pub changes: Vec<Change>,
    /// The cache keys that it invalidates, with their namespaces.
    pub invalidations: Vec<(String, String)>,
    /// The audit entries that it appended.
    pub entries: Vec<EntryReceipt>,
    /// Its request id.
    pub request: Option<RequestId>,
}

impl Record {
    /// Keeps the changes that are wanted; `None` if none is. A record of which all is wanted stays the one that readers share.
    pub fn narrowed(self: Arc<Self>, wants: impl Fn(&Change) -> bool) -> Option<Arc<Self>> {
        let kept = self.changes.iter().filter(|change| wants(change)).count();
        if kept == 0 || kept == self.changes.len() {
            return (kept > 0).then_some(self);
        }
        let mut record = Self::clone(&self);
        record.changes.retain(wants);
        Some(Arc::new(record))
    }
}

/// What a feed yields.
#[derive(Debug, Clone)]
pub enum FeedItem {
    /// The next commit, shared with other readers.
    Commit(Arc<Record>),
    /// Everything up to here was yielded; nothing new came for a while.
    Bookmark(Revision),
}

/// How long a feed is silent before it says how far it is.
const BOOKMARK_AFTER: Duration = Duration::from_secs(1);
/// How often the log is looked at for other processes' commits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many readers a process has at once, unless it is allowed more (C7).
const READERS: usize = 1_000;
/// How many commits are read at a time.
const PAGE: usize = 256;
/// How many where only their notes are read.
const NOTES_PAGE: usize = 1_024;

/// A reader of the change feed. Dropping it costs nothing; its place is the revision of the last item.
#[derive(Debug)]
pub struct Feed {
    engine: Arc<dyn CommitEngine>,
    wake: watch::Receiver<Revision>,
    lookout: Arc<Lookout>,
    clock: Clock,
    epoch: Epoch,
    at: Revision,
    ready: VecDeque<Arc<Record>>,
    wants: Wants,
    /// None: a reader of the library's own.
    _place: Option<OwnedSemaphorePermit>,
    /// What the engine hears of other processes' commits, if it does; asked when it is needed.
    heard: Option<Option<watch::Receiver<Heard>>>,
    /// As long as it reads the newest commits from memory.
    _wanted: Option<Arc<()>>,
}

/// What all feeds of a queue share: how far the store is, and the newest commits.
///
/// It looks at the store for other processes' commits, once for all feeds: one that waits does it for the others. When it ends another one
/// takes its place, within a second.
#[derive(Debug)]
pub(super) struct Lookout {
    taken: AtomicBool,
    newest: watch::Sender<Revision>,
    recent: Mutex<Recent>,
    quiet: Mutex<Quiet>,
    /// Shared with each feed that reads the newest commits here: while there is none, nothing is held.
    wanted: Arc<()>,
    places: Arc<Semaphore>,
    /// How many places there are.
    most: Mutex<usize>,
}

/// Commits of this queue's own batches, one behind the other, that invalidate nothing: whoever wants only invalidations passes them unread.
#[derive(Debug, Default)]
struct Quiet {
    epoch: Option<Epoch>,
    after: Revision,
    to: Revision,
}

impl Quiet {
    /// Adds a batch. If another process, or a commit of unknown effect, came between, it begins anew.
    fn add(&mut self, epoch: Epoch, batch: &[Arc<Record>]) {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return };
        let follows = self.epoch == Some(epoch) && self.to.next() == first.revision;
        let loud = batch.iter().rev().find(|record| !record.invalidations.is_empty());
        self.after = match loud {
            Some(loud) => loud.revision,
            None if follows => self.after,
            None => Revision::new(first.revision.get().saturating_sub(1)).unwrap_or(last.revision),
        };
        (self.epoch, self.to) = (Some(epoch), last.revision);
    }

    /// How far a reader that has come to `at` may go on without looking.
    fn passes(&self, epoch: Epoch, at: Revision) -> Option<Revision> {
        (self.epoch == Some(epoch) && self.after <= at && at < self.to).then_some(self.to)
    }
}

impl Lookout {
    pub(super) fn new(newest: watch::Sender<Revision>) -> Self {
        let places = Arc::new(Semaphore::new(READERS));
        Self {
            taken: AtomicBool::new(false),
            newest,
            recent: Mutex::default(),
            quiet: Mutex::default(),
            wanted: Arc::default(),
            places,
            most: Mutex::new(READERS),
        }
    }

    /// Tells all feeds how far the store is; it never goes back.
    pub(super) fn tell(&self, revision: Revision) {
        self.newest.send_if_modified(|newest| {
            let more = revision > *newest;
            *newest = revision.max(*newest);
            more
        });
    }

    /// Gives all feeds what a batch of this queue has written, if there are any; returns what they need no more, for the caller to drop when
    /// it has time.
    pub(super) fn publish(&self, epoch: Epoch, batch: &[Arc<Record>]) -> Vec<Arc<Record>> {
        let Some(newest) = batch.last().map(|record| record.revision) else { return Vec::new() };
        self.quiet.lock().add(epoch, batch);
        let mut recent = self.recent.lock();
        // A feed that is opened now reads the log.
        let gone = if Arc::strong_count(&self.wanted) > 1 { recent.add(epoch, batch) } else { recent.clear() };
        drop(recent);
        self.tell(newest);
        gone
    }

    /// Takes a reader's place.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: all are taken.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit> {
        let full = |_| Error::overloaded("too many readers follow the store in this process", LOOK_EVERY);
        self.places.clone().try_acquire_owned().map_err(full)
    }

    /// Makes room for at least so many readers.
    pub(super) fn allow(&self, readers: usize) {
        let mut most = self.most.lock();
        let readers = readers.min(Semaphore::MAX_PERMITS);
        self.places.add_permits(readers.saturating_sub(*most));
        *most = readers.max(*most);
    }

    /// Forgets what the log forgot.
    pub(super) fn compact(&self, up_to: Revision) {
        self.recent.lock().compact(up_to);
    }

    fn take(self: &Arc<Self>) -> Option<Post> {
        let free = self.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        free.then(|| Post(self.clone()))
    }
}

/// The place of the one who looks.
struct Post(Arc<Lookout>);

impl Drop for Post {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

/// What a reader wants of each commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// All of it, at once.
    Everything,
    /// What it did beside objects, soon: it looks every 100 ms, so that it costs a busy store next to nothing, and passes commits of this
    /// process that invalidate nothing.
    Notes,
    /// What it did beside objects, at once.
    NotesAtOnce,
}

impl Feed {
    /// Starts after a revision, or at the newest one if none is given.
    ///
    /// # Errors
    /// [`Kind::Expired`]: the revision is compacted, in the future, or the epoch is another one. List, then watch from the list's revision.
    pub(super) async fn open(
        engine: Arc<dyn CommitEngine>,
        lookout: Arc<Lookout>,
        clock: Clock,
        after: Option<Revision>,
        epoch: Option<Epoch>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Self> {
        let meta = engine.meta().await?;
        if epoch.is_some_and(|epoch| epoch != meta.epoch) {
            return Err(expired("the store was restored since: its revisions start anew"));
        }
        let at = after.unwrap_or(meta.revision);
        if at > meta.revision {
            return Err(expired("the revision is in the future"));
        }
        if at < meta.compacted {
            return Err(expired("the revision is compacted"));
        }
        let wake = lookout.newest.subscribe();
        lookout.tell(meta.revision);
        let (ready, wants, wanted) = (VecDeque::new(), Wants::Everything, Some(lookout.wanted.clone()));
        Ok(Self { engine, wake, lookout, clock, epoch: meta.epoch, at, ready, wants, _place: place, heard: None, _wanted: wanted })
    }

    /// Wants only what each commit invalidates, and that within 100 ms; commits that invalidate nothing may be left out.
    pub(crate) fn of_notes(mut self) -> Self {
        (self.wants, self._wanted) = (Wants::Notes, None);
        self
    }

    /// Wants only what each commit did beside objects, at once.
    pub(crate) fn of_notes_at_once(mut self) -> Self {
        self.wants = Wants::NotesAtOnce;
        self
    }

    /// Returns the epoch of the store.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the revision up to which everything was yielded.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// Returns how many commits were read and not yet yielded.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Waits for the next commit, or says how far it is after a second of silence.
    ///
    /// # Errors
    /// [`Kind::Expired`]: the log was compacted beyond this reader, or the store was restored; list again. `Backend`: the engine is away;
    /// call again.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: an item is taken only when it is returned.
    pub async fn next(&mut self) -> Result<FeedItem> {
        let silent_until = self.clock.now() + BOOKMARK_AFTER;
        let mut post = None;
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.at = record.revision;
                return Ok(FeedItem::Commit(record));
            }
            let newest = *self.wake.borrow_and_update();
            let passes = if self.wants == Wants::Notes { self.lookout.quiet.lock().passes(self.epoch, self.at) } else { None };
            if let Some(to) = passes {
                self.at = to;
            } else if newest > self.at || self.wants == Wants::Notes {
                self.read().await?;
                if !self.ready.is_empty() {
                    continue;
                }
            }
            let now = self.clock.now();
            if now >= silent_until {
                return Ok(FeedItem::Bookmark(self.at));
            }
            if self.wants == Wants::Notes {
                retry::sleep_until(&self.clock, silent_until.min(now + LOOK_EVERY)).await;
                continue;
            }
            post = post.or_else(|| self.lookout.take());
            match post {
                Some(_) => {
                    let look = if self.engine.is_shared() { silent_until.min(now + LOOK_EVERY) } else { silent_until };
                    let heard = self.heard.get_or_insert_with(|| self.engine.heard());
                    match retry::deadline(&self.clock, look, word(&mut self.wake, heard, self.epoch)).await {
                        Some(Some(revision)) => self.lookout.tell(revision),
                        Some(None) => {}
                        None => self.lookout.tell(self.engine.meta().await?.revision),
                    }
                }
                None => _ = retry::deadline(&self.clock, silent_until, self.wake.changed()).await,
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let held = match self.wants {
            Wants::Everything | Wants::NotesAtOnce => self.lookout.recent.lock().after(self.epoch, self.at, PAGE),
            Wants::Notes => Vec::new(),
        };
        let records = if held.is_empty() { self.read_log().await? } else { held };
        let mut expect = self.at;
        for record in &records {
            expect = expect.next();
            if record.revision != expect {
                return Err(Error::integrity("the change log has a gap"));
            }
        }
        self.ready.extend(records);
        Ok(())
    }

    async fn read_log(&self) -> Result<Vec<Arc<Record>>> {
        let page = match self.wants {
            Wants::Everything => self.engine.changes(self.at, PAGE).await?,
            Wants::Notes | Wants::NotesAtOnce => self.engine.notes(self.at, NOTES_PAGE).await?,
        };
        if page.meta.epoch != self.epoch {
            return Err(expired("the store was restored since: its revisions start anew"));
        }
        if page.meta.compacted > self.at {
            return Err(expired("the log was compacted beyond this reader"));
        }
        if page.meta.revision < self.at {
            return Err(expired("the store is older than what was read from it"));
        }
        if page.records.is_empty() && page.meta.revision > self.at {
            return Err(Error::integrity("the change log has a gap"));
        }
        Ok(page.records.into_iter().map(Arc::new).collect())
    }
}

/// Waits for a commit of this process, or hears of another's: its revision.
async fn word(wake: &mut watch::Receiver<Revision>, heard: &mut Option<watch::Receiver<Heard>>, epoch: Epoch) -> Option<Revision> {
    let other = async {
        while let Some(heard) = heard.as_mut().filter(|heard| heard.has_changed().is_ok())
            && heard.changed().await.is_ok()
        {
            let told = *heard.borrow_and_update();
            if told.epoch == Some(epoch) {
                return Some(told.revision);
            }
        }
        // Nobody speaks, or nobody will any more.
        std::future::pending().await
    };
    tokio::select! {
        // Its sender lives in the lookout, which every feed holds.
        _ = wake.changed() => None,
        told = other => told,
    }
}

fn expired(message: &str) -> Error {
    Error::new(Kind::Expired, Code::CursorCompacted, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(revisions: std::ops::RangeInclusive<u64>, loud: Option<u64>) -> Vec<Arc<Record>> {
        let record = |number| Record {
            revision: Revision::new(number).unwrap(),
            at: Timestamp::default(),
            changes: Vec::new(),
            invalidations: if loud == Some(number) { vec![("ns".to_owned(), "k".to_owned())] } else { Vec::new() },
            entries: Vec::new(),
            request: None,
        };
        revisions.map(|number| Arc::new(record(number))).collect()
    }

    #[test]
    fn only_own_commits_that_invalidate_nothing_are_passed() {
        let (epoch, mut quiet) = (Epoch::from_bits(1), Quiet::default());
        let passes = |quiet: &Quiet, at| quiet.passes(epoch, Revision::new(at).unwrap()).map(Revision::get);
        assert_eq!(passes(&quiet, 0), None);
        quiet.add(epoch, &batch(1..=3, None));
        quiet.add(epoch, &batch(4..=5, None));
        assert_eq!([0, 2, 4, 5].map(|at| passes(&quiet, at)), [Some(5), Some(5), Some(5), None]);
        // One of them invalidates: whoever is before it looks.
        quiet.add(epoch, &batch(6..=9, Some(7)));
        assert_eq!([5, 6, 7, 8, 9].map(|at| passes(&quiet, at)), [None, None, Some(9), Some(9), None]);
        // Another process came between, at 10.
        quiet.add(epoch, &batch(11..=12, None));
        assert_eq!([8, 9, 10, 11].map(|at| passes(&quiet, at)), [None, None, Some(12), Some(12)]);
        quiet.add(Epoch::from_bits(2), &batch(13..=14, None));
        assert_eq!(passes(&quiet, 12), None, "the epoch is another one");
    }

    #[test]
    fn the_newest_commits_are_held_while_somebody_reads_them() {
        let (epoch, lookout) = (Epoch::from_bits(1), Lookout::new(watch::Sender::new(Revision::default())));
        let held = || lookout.recent.lock().after(epoch, Revision::new(2).unwrap(), usize::MAX).len();
        lookout.publish(epoch, &batch(1..=3, None));
        assert_eq!(held(), 0, "nobody reads");
        let reader = lookout.wanted.clone();
        lookout.publish(epoch, &batch(4..=5, None));
        assert_eq!(lookout.recent.lock().after(epoch, Revision::new(3).unwrap(), usize::MAX).len(), 2);
        assert_eq!(held(), 0, "what came before the reader is in the log");
        drop(reader);
        assert_eq!(lookout.publish(epoch, &batch(6..=6, None)).len(), 2, "given back to be dropped");
        assert_eq!(lookout.recent.lock().after(epoch, Revision::new(3).unwrap(), usize::MAX).len(), 0);
    }
}
