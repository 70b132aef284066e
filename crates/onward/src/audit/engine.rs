//! What an engine owes the audit trail: reads. Writing goes through the one write path.

use std::fmt::Debug;

use futures_core::future::BoxFuture;

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

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batched {
    /// It is durable; so many rows moved.
    Done(u64),
    /// A guard failed, and nothing moved.
    Refused,
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

    /// Moves rows of a segment in a short transaction of its own, if the guards hold in it (C1), durably (C3).
    ///
    /// # Errors
    /// As [`Writer::finish`](crate::commit::engine::Writer::finish); an effect that is unknown is settled by the same batch again.
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): [the engine keeps no segments](AuditEngine::keeps_segments).
    fn move_rows(&self, batch: Batch) -> BoxFuture<'_, Result<Batched>> {
        drop(batch);
        Box::pin(std::future::ready(Err(Error::unsupported("this engine keeps no segments"))))
    }

    /// Tells whether the engine can move rows of segments; without that nothing is sealed (C9).
    fn keeps_segments(&self) -> bool {
        false
    }

    /// Reads the personal data beside an entry; `None` if there are none, or no more.
    fn personal<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<KeptPersonal>>> {
        let _ = (chain, seq);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Finds the entries of a chain beside which personal data stand, in order; and where to go on, if more were not looked at.
    fn find_personal<'a>(&'a self, chain: &'a ChainName, wanted: &'a PersonalWanted) -> BoxFuture<'a, Result<(Vec<Seq>, Option<Seq>)>> {
        let _ = (chain, wanted);
        Box::pin(std::future::ready(Ok((Vec::new(), None))))
    }

    /// Leaves no byte of what was forgotten in the engine's files; `false` if somebody reads an older state for longer than it waits, 10 s.
    fn scrub(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Opens what a verifier reads. Blocks, and so does the source: not for a thread of the runtime.
    ///
    /// # Errors
    /// The engine is away.
    fn source(&self, chain: &ChainName) -> Result<Box<dyn Source>>;
}
