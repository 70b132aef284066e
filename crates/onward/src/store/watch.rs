//! Watching: the change feed, narrowed to what the caller asked for.

use crate::Result;
use crate::time::{Clock, Moment};
use std::sync::Arc;
use std::time::Duration;

use crate::commit::{Change, CommitQueue, Feed, FeedItem};
use crate::model::{Epoch, Object, Revision, Selector};

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum From {
    /// At the newest commit.
    #[default]
    Now,
    /// After this revision; 0 is the very beginning.
    After(Revision),
}

/// What to watch. Without a kind, every change of the store.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Where to begin.
    pub from: From,
    /// The epoch that the revision belongs to, if the caller knows it.
    pub epoch: Option<Epoch>,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only names that start with these bytes.
    pub prefix: String,
    /// Only objects with such labels, before or after the change: one that leaves the selector is told too, with the labels that it has
    /// now.
    pub selector: Selector,
}

impl Watch {
    fn wants(&self, change: &Change) -> bool {
        let key = &change.key;
        let selects = |object: &Option<Arc<Object>>| object.as_ref().is_some_and(|object| self.selector.selects(&object.meta.labels));
        self.namespace.as_deref().is_none_or(|namespace| namespace == key.namespace())
            && self.kind.as_deref().is_none_or(|kind| kind == key.kind())
            && key.name().starts_with(&self.prefix)
            && (selects(&change.before) || selects(&change.after))
    }
}

/// After this many commits without a match the reader is told how far it is.
const BOOKMARK_EVERY: u32 = 1_000;
/// And after this long, so that a quiet watch of a busy store can resume near where it is.
const BOOKMARK_AFTER: Duration = Duration::from_secs(1);

/// A running watch; its place is the revision of the last item.
#[derive(Debug)]
pub struct Watcher {
    feed: Feed,
    watch: Watch,
    skipped: u32,
    clock: Clock,
    /// When something was yielded last.
    told: Moment,
}

impl Watcher {
    pub(super) async fn open(queue: &CommitQueue, watch: Watch) -> Result<Self> {
        let after = match watch.from {
            From::Now => None,
            From::After(revision) => Some(revision),
        };
        Ok(Self {
            feed: queue.feed(after, watch.epoch).await.map_err(|e| e.during("watch"))?,
            watch,
            skipped: 0,
            clock: queue.clock().clone(),
            told: queue.clock().now(),
        })
    }

    /// Returns the epoch of the store.
    pub fn epoch(&self) -> Epoch {
        self.feed.epoch()
    }

    /// Returns the revision up to which everything was yielded or did not match.
    pub fn revision(&self) -> Revision {
        self.feed.revision()
    }

    /// Returns how many commits were read and not yet looked at: zero means that the next call waits or reads.
    pub fn waiting(&self) -> usize {
        self.feed.waiting()
    }

    /// Waits for the next commit that touches what is watched, or a bookmark.
    ///
    /// # Errors
    /// `Expired`: the log was compacted beyond this reader or the store was restored; list again. `Backend`: call again.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<FeedItem> {
        let item = self.narrowed().await?;
        self.skipped = 0;
        self.told = self.clock.now();
        Ok(item)
    }

    async fn narrowed(&mut self) -> Result<FeedItem> {
        loop {
            match self.feed.next().await.map_err(|e| e.during("watch"))? {
                FeedItem::Commit(record) => {
                    let revision = record.revision;
                    if let Some(record) = record.narrowed(|change| self.watch.wants(change)) {
                        return Ok(FeedItem::Commit(record));
                    }
                    self.skipped += 1;
                    if self.skipped >= BOOKMARK_EVERY || self.clock.now().since(self.told) >= BOOKMARK_AFTER {
                        return Ok(FeedItem::Bookmark(revision));
                    }
                }
                bookmark @ FeedItem::Bookmark(_) => return Ok(bookmark),
            }
        }
    }
}
