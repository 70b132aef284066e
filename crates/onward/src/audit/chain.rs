//! The trail and its chains: appends go through the one write path, reads to the engine.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::archive::Archive;
use super::drops::Drops;
use super::engine::{AuditEngine, Select};
use super::options::{AppendOptions, Filter, Found, Order, Page, TrailOptions};
use super::prove::Blocks;
use super::segment::{Means, Policies};
use super::tail::{From, Tail};
use crate::commit::{Commit, CommitOutcome, CommitQueue, EntryReceipt, Window};
use crate::model::limits::{PAGE_BYTES, REQUEST_ID_BYTES, SEQ_MAX};
use crate::model::{ChainName, CheckpointKey, Entry, Hash, Head, RequestId, Revision, Sealed, Seq};
use crate::observe::Event;
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result};

/// How many verifications run at a time in a process; one more is told to come back (C7).
const VERIFICATIONS: usize = 4;
/// Most entries that a page of a query looks at (C7): some milliseconds.
pub(super) const SCAN: usize = 10_000;

/// The named chains of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trail(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) queue: CommitQueue,
    pub(super) engine: Arc<dyn AuditEngine>,
    pub(super) verifications: Arc<Semaphore>,
    pub(super) drops: Arc<Drops>,
    pub(super) blocks: Blocks,
    signing: Option<CheckpointKey>,
    archive: Option<Archive>,
    policies: Policies,
}

/// A chain and its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// The name.
    pub name: ChainName,
    /// The head.
    pub head: Head,
}

impl Trail {
    /// Makes a trail over a write path and the reading half of the same engine.
    pub fn new(queue: CommitQueue, engine: Arc<dyn AuditEngine>) -> Self {
        Self::with(queue, engine, TrailOptions::default())
    }

    /// Makes a trail with more than the engine gives it.
    pub fn with(queue: CommitQueue, engine: Arc<dyn AuditEngine>, options: TrailOptions) -> Self {
        let TrailOptions { signing, archive, policies } = options;
        let verifications = Arc::new(Semaphore::new(VERIFICATIONS));
        let (drops, blocks) = (Drops::new(), Blocks::default());
        Self(Arc::new(Inner { queue, engine, verifications, drops, blocks, signing, archive, policies }))
    }

    /// Returns the archive.
    pub(super) fn archive(&self) -> Result<&Archive> {
        self.0.archive.as_ref().ok_or_else(|| Error::unsupported("no archive was given"))
    }

    /// Returns when steps are due.
    pub fn policies(&self) -> &Policies {
        &self.0.policies
    }

    /// Returns what there is to carry policies out.
    pub fn means(&self) -> Means {
        let Inner { queue, signing, archive, .. } = &*self.0;
        Means { archive: archive.is_some(), keys: !queue.keys().is_empty(), signing: signing.is_some() }
    }

    /// Returns the key that signs checkpoints.
    pub(super) fn signing(&self) -> Option<&CheckpointKey> {
        self.0.signing.as_ref()
    }

    /// Keeps what is [dropped](Chain::append_or_drop) in a file beside a store, and takes over what dead processes left there.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the folder or a file cannot be read.
    pub async fn with_drops_beside(self, store: &Path) -> Result<Self> {
        let (drops, store) = (self.0.drops.clone(), store.to_owned());
        let adopted = tokio::task::spawn_blocking(move || drops.keep_beside(&store)).await;
        adopted.map_err(|e| Error::unavailable("the runtime ended").with_source(e)).flatten()?;
        Ok(self)
    }

    /// Returns a chain by its name. No I/O: the first append creates the chain.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: the name is not `[a-z0-9][a-z0-9._-]{0,63}`, or begins with `onward.`, as
    /// chains of ours do.
    pub fn chain(&self, name: &str) -> Result<Chain> {
        if name.starts_with("onward.") {
            return Err(Error::invalid_key("names of chains that start with onward. are reserved"));
        }
        self.chain_of_ours(name)
    }

    /// Returns a chain by its name, also one of ours, such as `onward.admin`: to read it, or for a program that is part of Onward.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `invalid_key`: the name is not `[a-z0-9][a-z0-9._-]{0,63}`.
    pub fn chain_of_ours(&self, name: &str) -> Result<Chain> {
        Ok(Chain { trail: self.clone(), name: ChainName::new(name)? })
    }

    /// Lists the chains after a name, in order of their names, 1..=1,000 of them.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the limit. `Backend`: the engine is away.
    pub async fn chains(&self, after: Option<&ChainName>, limit: usize) -> Result<Vec<ChainInfo>> {
        Page::first(limit).check()?;
        let found = self.0.engine.chains(after, limit).await.map_err(|e| e.during("chains"))?;
        Ok(found.into_iter().map(|(name, head)| ChainInfo { name, head }).collect())
    }

    /// Returns the write path below, for parts that share it.
    pub fn queue(&self) -> &CommitQueue {
        &self.0.queue
    }
}

/// One chain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Chain {
    trail: Trail,
    name: ChainName,
}

/// Where an entry went: these very values, never what a later read found (C2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The chain's identity in the world.
    pub origin: String,
    /// The position.
    pub seq: Seq,
    /// The hash, which binds everything before it too.
    pub hash: Hash,
    /// The time of the entry.
    pub at: Timestamp,
    /// The id of the event.
    pub event_id: String,
    /// The revision of the commit.
    pub revision: Revision,
    /// Whether this answer was given before, to the same event id.
    pub replayed: bool,
}

impl Chain {
    /// Returns the name.
    pub fn name(&self) -> &ChainName {
        &self.name
    }

    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Appends one entry, durably (C3).
    ///
    /// With an event id, in the entry or the options, it happens once: the same id and content get the first answer for 7 days. Without
    /// one, each call is an event of its own, and an unknown effect stays unknown.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit, a reserved kind, or `request_id_reused`: the id was used with other content.
    /// `Lost`, `fenced`: a newer holder of the fence's lock was seen; stop using the grant. `Overloaded`: nothing was applied; come back.
    /// `Backend` with `Unknown`: may be appended; append again with the same event id.
    ///
    /// # Cancel safety
    /// Dropped while it waits in the queue, nothing is applied; once taken, it is applied whole or not at all (C6).
    pub async fn append(&self, mut entry: Entry, mut options: AppendOptions) -> Result<Receipt> {
        match (&entry.event_id, &options.event_id) {
            (Some(one), Some(other)) if one != other => {
                return Err(Error::invalid("the entry and the options name two event ids").with_pointer("/event_id"));
            }
            (Some(id), _) => options.event_id = Some(id.clone()),
            (None, id) => entry.event_id.clone_from(id),
        }
        let mut receipts = self.submit(vec![entry], options).await.map_err(|e| e.during("append"))?;
        receipts.pop().ok_or_else(|| Error::integrity("an append without a receipt"))
    }

    /// Appends entries one behind the other, all or none, in one commit: 1..=128 of them.
    ///
    /// One event id, in the options, names them all; entry `i` carries the id `ID/i`.
    ///
    /// # Errors
    /// As [`Chain::append`]; also an entry with an event id of its own.
    ///
    /// # Cancel safety
    /// As [`Chain::append`].
    pub async fn append_many(&self, mut entries: Vec<Entry>, options: AppendOptions) -> Result<Vec<Receipt>> {
        if entries.iter().any(|entry| entry.event_id.is_some()) {
            return Err(Error::invalid("the event id of many entries stands in the options").during("append"));
        }
        if let Some(id) = &options.event_id {
            // Room for a slash and the place of the entry.
            if id.len() > REQUEST_ID_BYTES - 4 {
                return Err(Error::invalid("the event id of many entries is 1..=124 visible ASCII bytes").during("append"));
            }
            RequestId::new(id).map_err(|e| e.during("append"))?;
            entries.iter_mut().enumerate().for_each(|(index, entry)| entry.event_id = Some(format!("{id}/{index}")));
        }
        self.submit(entries, options).await.map_err(|e| e.during("append"))
    }

    async fn submit(&self, entries: Vec<Entry>, options: AppendOptions) -> Result<Vec<Receipt>> {
        let queue = self.trail.queue();
        let began = queue.clock().now();
        let receipts = self.commit(entries, options).await;
        let result = match receipts.as_deref() {
            Ok([Receipt { replayed: true, .. }, ..]) => "replayed",
            Ok(_) => "appended",
            Err(_) => "error",
        };
        queue.tell(&Event::Append { result, took: queue.clock().now().since(began) });
        receipts
    }

    async fn commit(&self, entries: Vec<Entry>, options: AppendOptions) -> Result<Vec<Receipt>> {
        options.check()?;
        entries.iter().try_for_each(Entry::check)?;
        self.tell_gaps(options.deadline).await?;
        let queue = self.trail.queue();
        let mut commit = Commit::new().deadline(options.deadline);
        if let Some(id) = &options.event_id {
            // What is asked for is the entries: a retry under a later grant is still the same event.
            let intent = intent(&self.name, &entries);
            commit = commit.request(RequestId::of_event(self.name.as_str(), id)).window(Window::Event).intent(&intent);
        }
        if let Some((lock, token)) = options.fence {
            commit = commit.fence(lock, token);
        }
        commit = entries.into_iter().fold(commit, |commit, entry| commit.audit(self.name.clone(), entry));
        match queue.submit(commit).await? {
            CommitOutcome::Committed(receipt) => {
                let origin = format!("{}/{}", queue.origin(), self.name);
                let each = |entry: EntryReceipt| Receipt {
                    origin: origin.clone(),
                    seq: entry.seq,
                    hash: entry.hash,
                    at: Timestamp::from_micros(entry.at),
                    event_id: entry.event_id,
                    revision: receipt.revision,
                    replayed: receipt.replayed,
                };
                Ok(receipt.audit.into_iter().map(each).collect())
            }
            CommitOutcome::Fenced { newest, .. } => Err(Error::fenced(newest)),
            CommitOutcome::Conflict(_) => Err(Error::integrity("an append without a condition lost a race")),
        }
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): no such chain or position. `Expired`: the entry is purged; its segment can be restored.
    /// `Backend`: the engine is away, or the entry is damaged.
    pub async fn get(&self, seq: Seq) -> Result<Sealed> {
        let found = self.trail.0.engine.entry(&self.name, seq).await.map_err(|e| e.during("get"))?;
        match found {
            Some(entry) => Ok(entry),
            None => Err(self.absent(seq.get(), || Error::not_found("no such entry")).await.during("get")),
        }
    }

    /// Reads the head; `None` before the first append.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away, or the head is damaged.
    pub async fn head(&self) -> Result<Option<Head>> {
        self.trail.0.engine.head(&self.name).await.map_err(|e| e.during("head"))
    }

    /// Reads a page of the entries that the filter wants.
    ///
    /// A page looks at a bounded number of entries: it may hold fewer than asked for, or none. Only `next: None` is the end.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the limit. `NotFound`: no such chain. `Backend`: the engine is away.
    pub async fn query(&self, filter: &Filter, page: Page) -> Result<Found> {
        page.check().map_err(|e| e.during("query"))?;
        let mut select = Select {
            from: filter.from.map_or(1, Seq::get),
            to: filter.to.map_or(SEQ_MAX, Seq::get),
            since: filter.since,
            until: filter.until,
            kind: filter.kind.clone(),
            actor: filter.actor.clone(),
            resource: filter.resource.clone(),
            order: filter.order,
            limit: page.limit,
            bytes: PAGE_BYTES,
            scan: SCAN,
        };
        match (page.after, filter.order) {
            (Some(after), Order::Ascending) => select.from = select.from.max(after.get() + 1),
            (Some(after), Order::Descending) => select.to = select.to.min(after.get() - 1),
            (None, _) => {}
        }
        let found = self.trail.0.engine.select(&self.name, &select).await.map_err(|e| e.during("query"))?;
        let found = found.ok_or_else(|| Error::not_found("no such chain").during("query"))?;
        let (from, to) = match (found.next, filter.order) {
            (Some(next), Order::Ascending) => (select.from, next.get()),
            (Some(next), Order::Descending) => (next.get(), select.to),
            (None, _) => (select.from, select.to),
        };
        let absent = self.absences(from, to).await.map_err(|e| e.during("query"))?;
        Ok(Found { items: found.items, next: found.next, absent })
    }

    /// Why an entry is not there: purged, or what `otherwise` says.
    pub(super) async fn absent(&self, seq: u64, otherwise: impl FnOnce() -> Error) -> Error {
        match self.segment_of(seq).await {
            Ok(Some(segment)) if segment.state.may_lack_rows() => {
                let message = format!("the entry is {}; its segment begins at {}", segment.state, segment.from);
                Error::new(Kind::Expired, Code::CursorCompacted, message)
            }
            Ok(_) => otherwise(),
            Err(error) => error,
        }
    }

    /// The parts of a range whose entries may be purged.
    async fn absences(&self, from: u64, to: u64) -> Result<Vec<(u64, u64)>> {
        let segments = self.all_segments().await?;
        let lacking = segments.iter().filter(|segment| segment.state.may_lack_rows() && segment.from <= to && segment.to >= from);
        Ok(lacking.map(|segment| (segment.from.max(from), segment.to.min(to))).collect())
    }

    /// Reads entries as they come, each once, in order.
    pub fn tail(&self, from: From) -> Tail {
        Tail::new(self.clone(), from)
    }
}

/// What an append asks for, as bytes: length-prefixed, so that no two read alike.
pub(super) fn intent(chain: &ChainName, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |field: Option<&[u8]>| {
        out.push(u8::from(field.is_some()));
        let field = field.unwrap_or_default();
        out.extend_from_slice(&(field.len() as u64).to_be_bytes());
        out.extend_from_slice(field);
    };
    put(Some(b"onward.audit.append.v1"));
    put(Some(chain.as_str().as_bytes()));
    for entry in entries {
        put(Some(entry.kind.as_bytes()));
        put(entry.actor.as_deref().map(str::as_bytes));
        put(entry.resource.as_deref().map(str::as_bytes));
        put(Some(entry.data.as_bytes()));
        // Not what they are: the intent is remembered without a salt.
        if entry.personal.is_some() {
            put(Some(b"personal"));
        }
    }
    out
}
