//! The past: an object at an earlier moment, its history, and how far back both reach.

use std::sync::Arc;

use crate::commit::engine::{At, StoreMeta};
use crate::commit::{CommitQueue, Past};
use crate::model::limits::PAGE_ITEMS;
use crate::model::{Key, Object, Revision};
use crate::{Code, Error, Kind, Result};

/// A page of an object's history, the newest change first.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// The changes.
    pub items: Vec<Past>,
    /// Changes up to this revision are no longer kept.
    pub compacted: Revision,
    /// What to give as `before` for the next page; `None` only at the end of what is kept.
    pub next: Option<Revision>,
}

pub(super) async fn get_at(queue: &CommitQueue, key: &Key, at: At) -> Result<Option<Object>> {
    let (found, meta) = queue.engine().get_at(key, at).await.map_err(|e| e.during("get_at"))?;
    if let At::Revision(revision) = at {
        covered(revision, &meta).map_err(|e| e.during("get_at"))?;
    }
    Ok(found.map(Arc::unwrap_or_clone))
}

pub(super) async fn history(queue: &CommitQueue, key: &Key, before: Option<Revision>, limit: usize) -> Result<HistoryPage> {
    if !(1..=PAGE_ITEMS).contains(&limit) {
        return Err(Error::invalid("limit is 1..=1000").during("history"));
    }
    let (mut items, meta) = queue.engine().history(key, before, limit + 1).await.map_err(|e| e.during("history"))?;
    let more = items.len() > limit;
    items.truncate(limit);
    // A page may also end at its bytes; then the next one tells whether that was all.
    let cut = more || items.iter().map(size).sum::<usize>() >= crate::model::limits::PAGE_BYTES;
    let next = items.last().filter(|_| cut).map(|past| past.revision);
    Ok(HistoryPage { items, compacted: meta.compacted, next })
}

fn size(past: &Past) -> usize {
    past.change.after.as_ref().map_or(0, |object| object.value.bytes().len())
}

/// Refuses a revision that the log does not cover.
pub(super) fn covered(revision: Revision, meta: &StoreMeta) -> Result<()> {
    let expired = |message: &str| Err(Error::new(Kind::Expired, Code::CursorCompacted, message));
    if revision > meta.revision {
        return expired("the revision is in the future");
    }
    if revision < meta.compacted {
        return expired("the revision is compacted");
    }
    Ok(())
}
