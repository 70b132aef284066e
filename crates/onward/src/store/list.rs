//! Lists: a page at a time, by name.

use sha2::{Digest, Sha256};

use super::past::covered;
use crate::commit::CommitQueue;
use crate::commit::engine::Scan;
use crate::model::limits::{NAME_BYTES, PAGE_BYTES, PAGE_ITEMS};
use crate::model::{Epoch, Key, Object, Revision, Selector};
use crate::{Code, Error, Kind, Result};

/// Which objects to list.
#[derive(Debug, Clone)]
pub struct List {
    namespace: String,
    kind: String,
    prefix: String,
    selector: Selector,
    limit: usize,
    cursor: Option<String>,
}

impl List {
    /// All objects of a kind in the namespace `default`, 100 a page.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            namespace: crate::model::DEFAULT_NAMESPACE.to_owned(),
            kind: kind.into(),
            prefix: String::new(),
            selector: Selector::new(),
            limit: 100,
            cursor: None,
        }
    }

    pub(super) fn of(mut self, namespace: &str, kind: &str) -> Self {
        (self.namespace, self.kind) = (namespace.to_owned(), kind.to_owned());
        self
    }

    /// Sets the namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Lists only names that start with these bytes.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Lists only objects with such labels.
    #[must_use]
    pub fn with_selector(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }

    /// Sets how many objects a page has at most, 1..=1,000.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Goes on after a page, with its `next`.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<String>) -> Self {
        self.cursor = Some(cursor.into());
        self
    }
}

/// A page of a list; ordered by the bytes of the names. A page may have few objects, or none, and still be followed by others.
#[derive(Debug, Clone)]
pub struct Page {
    /// The objects.
    pub items: Vec<Object>,
    /// The revision that this page shows, and all pages that follow it.
    pub revision: Revision,
    /// Where the next page begins; `None` only at the end.
    pub next: Option<String>,
}

pub(super) async fn list(queue: &CommitQueue, query: List) -> Result<Page> {
    // Any name will do: only namespace and kind are judged.
    Key::in_namespace(&query.namespace, &query.kind, "-")?;
    if !(1..=PAGE_ITEMS).contains(&query.limit) {
        return Err(Error::invalid("limit is 1..=1000"));
    }
    if query.prefix.len() > NAME_BYTES {
        return Err(Error::invalid("prefix is at most 384 bytes"));
    }
    let epoch = queue.engine().meta().await?.epoch;
    let (after, at) = query.cursor.as_deref().map(|cursor| open(cursor, epoch, &query)).transpose()?.unzip();
    let scan = Scan {
        namespace: query.namespace.clone(),
        kind: query.kind.clone(),
        prefix: query.prefix.clone(),
        selector: query.selector.clone(),
        after: after.unwrap_or_default(),
        limit: query.limit,
        at,
    };
    let listed = queue.engine().list(scan).await.map_err(|e| e.during("list"))?;
    let revision = at.unwrap_or(listed.meta.revision);
    // Judged in the snapshot of the page: what was compacted is not shown as if it were whole.
    covered(revision, &listed.meta).map_err(|e| e.during("list"))?;
    let mut left = PAGE_BYTES;
    let mut items: Vec<Object> = Vec::with_capacity(listed.items.len());
    let mut next = listed.next;
    for object in &listed.items {
        match left.checked_sub(object.value.bytes().len()) {
            Some(rest) => left = rest,
            None => {
                next = items.last().map(|last| last.key.name().to_owned());
                break;
            }
        }
        items.push(Object::clone(object));
    }
    let next = next.map(|name| seal(&name, revision, epoch, &query));
    Ok(Page { items, revision, next })
}

/// A cursor is where to go on and a checksum over what it belongs to; no secret, since each page is authorised anew.
fn seal(name: &str, at: Revision, epoch: Epoch, query: &List) -> String {
    format!("{}.{at}.{}", hex::encode(name), checksum(name, at, epoch, query))
}

fn open(cursor: &str, epoch: Epoch, query: &List) -> Result<(String, Revision)> {
    let place = cursor.split_once('.').and_then(|(name, rest)| {
        let (at, sum) = rest.split_once('.')?;
        let (name, at) = (String::from_utf8(hex::decode(name).ok()?).ok()?, at.parse().ok()?);
        (checksum(&name, at, epoch, query) == sum).then_some((name, at))
    });
    place.ok_or_else(|| Error::new(Kind::Invalid, Code::InvalidCursor, "the cursor is damaged or belongs to another list"))
}

fn checksum(name: &str, at: Revision, epoch: Epoch, query: &List) -> String {
    let mut hasher = Sha256::new();
    for part in [name, &at.to_string(), &epoch.to_string(), &query.namespace, &query.kind, &query.prefix] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    for (key, values) in query.selector.terms() {
        for part in ["label", key].into_iter().chain(values) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.update([0xff; 8]);
    }
    hex::encode(&hasher.finalize()[..6])
}
