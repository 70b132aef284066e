//! Objects on their way elsewhere: all that match, as they were at one revision.

use std::collections::VecDeque;
use std::sync::Arc;

use super::past::covered;
use crate::commit::CommitQueue;
use crate::commit::engine::Scan;
use crate::model::limits::{NAME_BYTES, PAGE_ITEMS};
use crate::model::{Epoch, Key, Object, Revision, Selector};
use crate::{Code, Error, Kind, Result};

/// Which objects to export; by default all but those of kinds and namespaces that start with `onward.`, which are this library's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only names that start with these bytes.
    pub prefix: String,
    /// Only objects with such labels.
    pub selector: Selector,
}

impl ExportOptions {
    fn check(&self) -> Result<()> {
        // Any name will do: only namespace and kind are judged.
        Key::in_namespace(self.namespace.as_deref().unwrap_or("any"), self.kind.as_deref().unwrap_or("any"), "-")?;
        if self.prefix.len() > NAME_BYTES {
            return Err(Error::invalid("prefix is at most 384 bytes"));
        }
        Ok(())
    }

    fn wants(&self, namespace: &str, kind: &str) -> bool {
        let named = |asked: &Option<String>, is: &str| asked.as_deref().map_or(!is.starts_with("onward."), |asked| asked == is);
        named(&self.namespace, namespace) && named(&self.kind, kind)
    }
}

/// A running export; see [`Store::export`](super::Store::export).
#[derive(Debug)]
pub struct Export {
    queue: CommitQueue,
    options: ExportOptions,
    epoch: Epoch,
    at: Revision,
    /// The namespace and kind that are read, and the last name of them; none before the first and behind the last.
    place: Option<(String, String, Option<String>)>,
    ready: VecDeque<Arc<Object>>,
    ended: bool,
}

impl Export {
    pub(super) async fn open(queue: CommitQueue, options: ExportOptions) -> Result<Self> {
        options.check().map_err(|e| e.during("export"))?;
        let meta = queue.engine().meta().await.map_err(|e| e.during("export"))?;
        let mut export = Self { queue, options, epoch: meta.epoch, at: meta.revision, place: None, ready: VecDeque::new(), ended: false };
        export.next_kind().await?;
        Ok(export)
    }

    /// Returns the revision that the export shows.
    pub fn revision(&self) -> Revision {
        self.at
    }

    /// Returns the epoch of the store.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns the next object, in the order of namespace, kind and name by bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Kind::Expired`]: the revision was compacted meanwhile, export anew. `Backend`, `Overloaded`: call again.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Object>> {
        loop {
            if let Some(object) = self.ready.pop_front() {
                return Ok(Some(Arc::unwrap_or_clone(object)));
            }
            if self.ended {
                return Ok(None);
            }
            self.read().await.map_err(|e| e.during("export"))?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let Some((namespace, kind, after)) = self.place.clone() else {
            self.ended = true;
            return Ok(());
        };
        let (prefix, selector) = (self.options.prefix.clone(), self.options.selector.clone());
        let after = after.unwrap_or_default();
        let scan = Scan { namespace, kind, prefix, selector, after, limit: PAGE_ITEMS, at: Some(self.at) };
        let page = self.queue.engine().list(scan).await?;
        if page.meta.epoch != self.epoch {
            return Err(Error::new(Kind::Expired, Code::CursorCompacted, "the store was restored since"));
        }
        // Judged in the snapshot of the page: what was compacted is not shown as if it were whole.
        covered(self.at, &page.meta)?;
        match (&mut self.place, page.next) {
            (Some((.., after)), Some(next)) => *after = Some(next),
            // Before the page is taken: what fails here is asked for again.
            _ => self.next_kind().await?,
        }
        self.ready.extend(page.items);
        Ok(())
    }

    /// Goes on to the next kind that is wanted.
    async fn next_kind(&mut self) -> Result<()> {
        let mut place = self.place.as_ref().map(|(namespace, kind, _)| (namespace.clone(), kind.clone()));
        loop {
            let after = place.as_ref().map(|(namespace, kind)| (namespace.as_str(), kind.as_str()));
            place = self.queue.engine().next_kind(after).await?;
            match &place {
                Some((namespace, kind)) if !self.options.wants(namespace, kind) => {}
                _ => break,
            }
        }
        self.place = place.map(|(namespace, kind)| (namespace, kind, None));
        Ok(())
    }
}
