//! What an engine owes the audit trail: reads. Writing goes through the one write path.

use std::fmt::Debug;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::mpsc;

use super::options::Order;
use super::verify::Source;
use crate::commit::Guard;
use crate::model::{ChainName, Hash, Head, KeptPersonal, Sealed, Seq};
use crate::time::Timestamp;
use crate::{Error, Result};

/// Which entries to read. Every bound is inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// The first position.
    pub from: u64,
    /// The last position.
    pub to: u64,
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Not after this time.
    pub until: Option<Timestamp>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only this actor.
    pub actor: Option<String>,
    /// Only this resource.
    pub resource: Option<String>,
    /// In which order.
    pub order: Order,
    /// At most this many.
    pub limit: usize,
    /// No more after their bytes reach this sum; always one if there is one.
    pub bytes: usize,
    /// With a kind, actor or resource: at most so many are looked at, found or not, if no index leads to them (C7).
    pub scan: usize,
}

impl Select {
    /// Every entry of a range, in order, in pages of these bounds.
    pub(crate) fn range(from: u64, to: u64, limit: usize, bytes: usize) -> Self {
        let order = Order::Ascending;
        Self { from, to, since: None, until: None, kind: None, actor: None, resource: None, order, limit, bytes, scan: limit }
    }

    /// Tells whether it wants a kind, an actor or a resource.
    pub fn is_narrow(&self) -> bool {
        self.kind.is_some() || self.actor.is_some() || self.resource.is_some()
    }
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The entries in the asked order.
    pub items: Vec<Sealed>,
    /// The last position that was looked at, if more may follow: the next page begins behind it.
    pub next: Option<Seq>,
}

/// A bounded step over the rows of one segment. It touches neither a head nor a counter, and appends go on beside it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The chain.
    pub chain: ChainName,
    /// What must hold in the batch's own transaction: the segment and the holds are as the worker last saw them.
    pub guards: Vec<Guard>,
    /// What moves.
    pub rows: Moved,
}

/// Rows that go or come.
#[derive(Clone, Debug)]
pub enum Moved {
    /// Deletes the rows that stand there with these very hashes and are no control entries.
    Out(Vec<(u64, Hash)>),
    /// Inserts what is not there; what stands in its place stays.
    In(Vec<Sealed>),
}

/// Which personal data to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonalWanted {
    /// Only behind this position.
    pub after: u64,
    /// Only up to this position.
    pub to: u64,
    /// Only of this subject.
    pub subject: Option<String>,
    /// At most so many are looked at, found or not (C7).
    pub scan: usize,
}

/// What is left in the engine's files of what was forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Nothing, but in the log, if there is a place; `false` if somebody reads an older state for longer than it waits, 10 s.
    pub erased: bool,
    /// The place in the log of a server before which the values may stand until the server recycles its files; `None`: there is no such log.
    pub log_until: Option<String>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batched {
    /// It is durable; so many rows moved.
    Done(u64),
    /// A guard failed, and nothing moved.
    Refused,
}

/// A chain from elsewhere, to be loaded as it is.
#[derive(Debug)]
pub struct Load {
    /// The chain's name here.
    pub chain: ChainName,
    /// Its head, which the entries lead to.
    pub head: Head,
    /// When it comes.
    pub now: Timestamp,
    /// Its entries from the first on, in order, each checked; an empty page is the end, and anything else undoes everything.
    pub rows: mpsc::Receiver<Result<Vec<Sealed>>>,
}

impl Load {
    /// Receives the next page; `None` behind the last.
    ///
    /// # Errors
    /// Why the rest does not come.
    pub async fn page(&mut self) -> Result<Option<Vec<Sealed>>> {
        received(self.rows.recv().await)
    }

    /// Does what [`Load::page`] does on a thread that may block.
    ///
    /// # Errors
    /// As [`Load::page`].
    pub fn page_now(&mut self) -> Result<Option<Vec<Sealed>>> {
        received(self.rows.blocking_recv())
    }
}

pub(super) fn received(page: Option<Result<Vec<Sealed>>>) -> Result<Option<Vec<Sealed>>> {
    let page = page.ok_or_else(|| Error::unavailable("the rest of the chain does not come"))??;
    Ok(Some(page).filter(|page| !page.is_empty()))
}

/// What became of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The chain is there, durably, with all its entries.
    Done,
    /// A chain of this name or of this origin is there; nothing changed.
    Exists,
}

/// The reading half of an engine for the audit trail.
///
/// Each answer is one consistent view. An entry that was acknowledged is in every later answer (INV-5).
pub trait AuditEngine: Debug + Send + Sync {
    /// Reads chains whose name comes after `after`, in order of their names, at most `limit`.
    fn chains<'a>(&'a self, after: Option<&'a ChainName>, limit: usize) -> BoxFuture<'a, Result<Vec<(ChainName, Head)>>>;

    /// Reads the head of a chain; `None` if there is no such chain.
    fn head<'a>(&'a self, chain: &'a ChainName) -> BoxFuture<'a, Result<Option<Head>>>;

    /// Reads one entry.
    fn entry<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<Sealed>>>;

    /// Reads a page of entries; `None` if there is no such chain.
    fn select<'a>(&'a self, chain: &'a ChainName, select: &'a Select) -> BoxFuture<'a, Result<Option<Selected>>>;

    /// Reads the hashes of the entries `from..=to` that are there, with their seqs, in order; a caller asks for 8,192 at most.
    fn hashes<'a>(&'a self, chain: &'a ChainName, from: u64, to: u64) -> BoxFuture<'a, Result<Vec<(u64, Hash)>>>;

    /// How long a batch of [`AuditEngine::move_rows`] with such rows should take at most. Whoever writes may wait for it, and for its
    /// commit: together no longer than the 10 ms that one batch may cost an append.
    fn batch_time(&self, _: &Moved) -> Duration {
        Duration::from_millis(5)
    }

    /// Moves rows of a segment in a short transaction of its own, if the guards hold in it (C1), durably (C3).
    ///
    /// # Errors
    /// As [`Writer::finish`](crate::commit::engine::Writer::finish); an effect that is unknown is settled by the same batch again.
    fn move_rows(&self, batch: Batch) -> BoxFuture<'_, Result<Batched>>;

    /// Makes a chain that is not there, with all its entries and its head, in one step (C1), durably (C3). Nobody sees a part of it.
    ///
    /// # Errors
    /// As [`Writer::finish`](crate::commit::engine::Writer::finish), and whatever kept the entries from coming; nothing is kept then.
    fn load(&self, load: Load) -> BoxFuture<'_, Result<Loaded>>;

    /// Reads the personal data beside an entry; `None` if there are none, or no more.
    fn personal<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<KeptPersonal>>>;

    /// Finds the entries of a chain beside which personal data stand, in order; and where to go on, if more were not looked at.
    fn find_personal<'a>(&'a self, chain: &'a ChainName, wanted: &'a PersonalWanted) -> BoxFuture<'a, Result<(Vec<Seq>, Option<Seq>)>>;

    /// Leaves no byte of what was forgotten in the engine's files, as far as they are the engine's.
    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed>>;

    /// Opens what a verifier reads. Blocks, and so does the source: not for a thread of the runtime.
    ///
    /// # Errors
    /// The engine is away.
    fn source(&self, chain: &ChainName) -> Result<Box<dyn Source>>;
}
