//! What an engine owes the write path: rows in, plans out.
//!
//! An engine decides nothing. It gives the writer's right to one batch at a time, over all processes that share the store, reads the
//! rows that the batch asks for, and carries out its plan in the same transaction. It must keep C3 (or say that it does not) and C4.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::sync::watch;

use super::feed::{Past, Record};
use super::outcome::Receipt;
use super::retention::{Prune, Pruned};
use crate::model::{
    ChainName, Epoch, FencingToken, Fingerprint, Head, KeptPersonal, Key, LockKey, Object, RequestId, Revision, Sealed, Selector, Seq,
    Version,
};
use crate::observe::Finding;
use crate::time::Timestamp;
use crate::{Error, Result};

/// The one row of facts about a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// The life of the store between two restores.
    pub epoch: Epoch,
    /// The newest revision.
    pub revision: Revision,
    /// The greatest version that a deletion took: creates go above it, so no (key, version) ever names two contents.
    pub version_floor: u64,
    /// Above every version of the time that the last restore lost; 0 before the first.
    pub restore_floor: u64,
    /// The change log holds everything above this revision.
    pub compacted: Revision,
    /// The newest fencing token seen, over all locks; 0 before the first.
    pub newest_token: u64,
    /// The time of the newest commit: the store's time never goes back, whatever the wall does.
    pub at: Timestamp,
    /// The base of the origins of this store's chains.
    pub origin: Arc<str>,
}

/// The rows that a batch needs, so that an engine can read them in one go and lock them in sorted order.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Objects.
    pub objects: BTreeSet<Key>,
    /// Newest tokens of locks.
    pub fences: BTreeSet<LockKey>,
    /// Answers to request ids.
    pub requests: BTreeSet<RequestId>,
    /// Heads of chains.
    pub chains: BTreeSet<ChainName>,
    /// Whether they must be read under the right: the writer may not answer from what it knows.
    pub fresh: bool,
}

/// The rows that were wanted, as they stand under the writer's right. What is not in here does not exist.
#[derive(Debug)]
pub struct Rows {
    /// The facts.
    pub meta: StoreMeta,
    /// Objects.
    pub objects: HashMap<Key, Arc<Object>>,
    /// Newest tokens of locks.
    pub fences: HashMap<LockKey, FencingToken>,
    /// Answers to request ids that are still remembered.
    pub requests: HashMap<RequestId, Remembered>,
    /// Heads of chains.
    pub heads: HashMap<ChainName, Head>,
    /// Whether they were read under the writer's right, which is held now. If not, they are what the writer knows from before: good enough
    /// for a plan, which [`Writer::finish`] carries out only if they still hold, but not to refuse anyone.
    pub held: bool,
}

/// The answer that was given to a request id.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// What the request asked for.
    pub fingerprint: Fingerprint,
    /// What it was answered.
    pub receipt: Arc<Receipt>,
    /// Until when it is remembered.
    pub expires_at: Timestamp,
}

/// Everything that a batch writes, merged: each object, fence and head once, in its final state.
#[derive(Debug)]
pub struct Plan {
    /// The facts after the batch.
    pub meta: StoreMeta,
    /// The time of the batch; expired request rows may go.
    pub now: Timestamp,
    /// Objects in their final state; `None` deletes.
    pub objects: HashMap<Key, Option<Arc<Object>>>,
    /// Rows of the change log, in revision order.
    pub records: Vec<Arc<Record>>,
    /// Newest tokens.
    pub fences: HashMap<LockKey, FencingToken>,
    /// Answers to remember.
    pub requests: HashMap<RequestId, Remembered>,
    /// Heads of chains in their final state; a chain that is not there yet is created.
    pub heads: HashMap<ChainName, Head>,
    /// Entries, in seq order for each chain.
    pub entries: Vec<(ChainName, Arc<Sealed>)>,
    /// Personal data, each beside the entry that commits to it.
    pub personal: Vec<(ChainName, KeptPersonal)>,
    /// Entries whose personal data go: in this very transaction salt, subject and value are overwritten, and what is not there is gone.
    pub forgotten: Vec<(ChainName, Vec<Seq>)>,
}

/// The writing half of an engine, owned by one queue.
pub trait Writer: Send {
    /// Takes the writer's right and reads the wanted rows under it, or answers from what it knows ([`Rows::held`]).
    ///
    /// # Errors
    /// Effect `NotApplied`; the right is not held then.
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>>;

    /// Carries out the plan, makes it durable (C3), and gives the right back.
    ///
    /// If the rows were not read under the right, it takes the right first. It may keep the plan, and drop it when it has time: its memory
    /// is cold by then.
    ///
    /// # Errors
    /// `NotApplied` when it surely left nothing, also because known rows hold no more: try again with fresh ones; `Unknown` when COMMIT itself failed. The right is given back either way.
    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>>;

    /// Gives the right back with nothing written.
    fn give_back(&mut self) -> BoxFuture<'_, ()>;

    /// Takes the oldest whole commits off the change log while [`Prune::takes`] them, and moves the mark, in a transaction of its own.
    ///
    /// # Errors
    /// As [`Writer::finish`].
    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>>;

    /// Reads which objects' time to live is over, the earliest first: names and versions. It does not hold the right for that.
    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>>;

    /// Does its upkeep, after the answers have left; also once a second while nothing is written.
    fn tidy(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Leaves everything in order: nothing more comes.
    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Most objects that one page looks at in vain (C7).
pub const SCAN: usize = 10_000;

/// Which objects a list reads.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The namespace.
    pub namespace: String,
    /// The kind.
    pub kind: String,
    /// What their names start with.
    pub prefix: String,
    /// What their labels are.
    pub selector: Selector,
    /// Only names after this one; the empty name is before all.
    pub after: String,
    /// At most so many.
    pub limit: usize,
    /// As they were at this revision; `None`: as they are.
    pub at: Option<Revision>,
}

/// A page of a list of objects.
#[derive(Debug)]
pub struct Listed {
    /// The objects in key order.
    pub items: Vec<Arc<Object>>,
    /// The facts in the snapshot that the page was read from.
    pub meta: StoreMeta,
    /// After which name to go on; `None` at the end.
    pub next: Option<String>,
}

/// A page of the change log.
#[derive(Debug)]
pub struct Changes {
    /// Commits in revision order, without a gap.
    pub records: Vec<Record>,
    /// The facts in the snapshot that the page was read from.
    pub meta: StoreMeta,
}

/// A moment in the life of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// When the store was at this revision.
    Revision(Revision),
    /// When the object was at this version.
    Version(Version),
}

/// The newest commit that an engine heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Of which epoch; `None` before the first word.
    pub epoch: Option<Epoch>,
    /// Its revision.
    pub revision: Revision,
}

/// The reading half of an engine, shared by everyone.
pub trait CommitEngine: Debug + Send + Sync {
    /// Names the engine, such as `sqlite`.
    fn name(&self) -> &'static str;

    /// Tells whether other processes may write to the same store.
    fn is_shared(&self) -> bool;

    /// Opens the writing half.
    ///
    /// # Errors
    /// The engine cannot be reached.
    fn writer(&self) -> Result<Box<dyn Writer>>;

    /// Tells whether writes would be taken now; costs next to nothing.
    ///
    /// # Errors
    /// [`Kind::Overloaded`](crate::Kind::Overloaded): a bound is reached, and they would be refused.
    fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Listens for other processes' commits, inside a Tokio runtime; `None`: the engine hears nothing.
    ///
    /// A hint only: readers look at the store all the same, and learn so what was not heard.
    fn heard(&self) -> Option<watch::Receiver<Heard>> {
        None
    }

    /// Reads the facts.
    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>>;

    /// Reads one object.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>>;

    /// Reads the objects that a scan names, in order of the bytes of their names, from one snapshot.
    ///
    /// A page ends at its limit, at a page's bytes, or after [`SCAN`] objects that the selector left out; an engine may answer the
    /// selector's first equality by an index.
    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>>;

    /// Finds the first namespace and kind, by bytes and after the given ones, that have objects or had some that the log still tells of.
    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>>;

    /// Reads an object as it was at a moment that the log still covers, with the facts of the same snapshot.
    fn get_at<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>>;

    /// Reads the changes of an object before a revision, the newest first, with the facts of the same snapshot: at most `limit`, and fewer
    /// if they hold a page's bytes, but at least one if there is one.
    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>>;

    /// Writes a copy of the store to a new file, which draws a new epoch when it is opened.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): the engine has no files. `Invalid`: the file is there already.
    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>>;

    /// Writes such a copy to a file beside the store that has no name any more: it is gone when it is closed.
    ///
    /// # Errors
    /// As [`CommitEngine::backup`].
    fn backup_file(&self) -> BoxFuture<'_, Result<File>> {
        Box::pin(std::future::ready(Err(Error::unsupported("a store in memory has no backup"))))
    }

    /// Reads everything, and tells whether it contradicts itself.
    ///
    /// # Errors
    /// The engine cannot be reached, or is damaged beyond reading.
    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Reads the answer to a request id, if it is still remembered.
    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>>;

    /// Reads the commits after a revision, whole ones only, from one snapshot: at most `limit`, and fewer if they hold a page's bytes, but
    /// at least one if there is one.
    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>>;

    /// As [`CommitEngine::changes`], where nobody wants the changes of objects: an engine may leave them out.
    fn notes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        self.changes(after, limit)
    }

    /// Looks at itself and at what it stands on; writes nothing of the store. May take a second.
    ///
    /// # Errors
    /// The engine cannot be reached.
    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}
