//! The store's handle.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::collection::Collection;
use super::deliver::Deliverer;
use super::export::{Export, ExportOptions};
use super::import::Import;
use super::list::{List, Page, list};
use super::options::{Delete, Put, WriteOptions};
use super::past::{self, HistoryPage};
use super::update::{Turns, Update};
use super::watch::{Watch, Watcher};
use crate::commit::engine::At;
use crate::commit::{Commit, CommitOutcome, CommitQueue, Conflict, Delivery, Overwrite, Patch, Reason, Receipt, WriteCondition, Written};
use crate::model::{IntoKey, Meta, Object, Payload, RequestId, Revision, Version};
use crate::observe::Finding;
use crate::{Error, Refusal, Result};

/// Versioned objects, and the one way to change them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: CommitQueue,
    deliverer: Deliverer,
    turns: Turns,
}

impl Store {
    pub(crate) fn new(queue: CommitQueue, deliverer: Deliverer) -> Self {
        Self(Arc::new(Inner { queue, deliverer, turns: Turns::default() }))
    }

    /// Returns the write path below, for parts that share it.
    pub fn queue(&self) -> &CommitQueue {
        &self.0.queue
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Reads an object as a value.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the key is malformed or the object has another shape. `Backend`: the engine is away.
    pub async fn get<T: DeserializeOwned>(&self, key: impl IntoKey) -> Result<Option<Object<T>>> {
        self.get_payload(key).await?.map(Object::read).transpose()
    }

    /// Reads an object as it was written, byte for byte.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn get_payload(&self, key: impl IntoKey) -> Result<Option<Object>> {
        let found = self.0.queue.engine().get(&key.into_key()?).await.map_err(|e| e.during("get"))?;
        Ok(found.map(Arc::unwrap_or_clone))
    }

    /// Reads an object as it was at a revision, or at a version, as far back as the change log reaches.
    ///
    /// `None`: it did not exist at that revision; at a version, it never had it or it is no longer kept.
    ///
    /// # Errors
    /// As [`Store::get`]. `Expired`: the revision is compacted or in the future.
    ///
    /// # Examples: what an update replaced is still there
    /// ```
    /// # use onward::{Onward, store::{At, Put}};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let store = Onward::open("memory:").await?.store();
    /// let Put::Committed(first) = store.create(("project", "42"), &"draft".to_owned()).await? else { panic!() };
    /// store.update(("project", "42"), |text: &mut String, _| Ok(*text = "final".to_owned())).await?;
    /// let old = store.get_at(("project", "42"), At::Version(first.version)).await?.unwrap();
    /// assert_eq!(&old.value.bytes()[..], b"\"draft\"");
    /// # Ok::<(), onward::Error>(()) }).unwrap();
    /// ```
    pub async fn get_at(&self, key: impl IntoKey, at: At) -> Result<Option<Object>> {
        past::get_at(&self.0.queue, &key.into_key()?, at).await
    }

    /// Reads the changes of an object before a revision, the newest first, as far back as the change log reaches.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the limit is not 1..=1,000.
    pub async fn history(&self, key: impl IntoKey, before: Option<Revision>, limit: usize) -> Result<HistoryPage> {
        past::history(&self.0.queue, &key.into_key()?, before, limit).await
    }

    /// Takes the change log off up to a revision, behind the writes that wait; returns the revision above which it is whole.
    ///
    /// Objects stay. A watch that is not beyond it is told so, and history ends there. By itself the log is kept 7 days and 4 GiB,
    /// whichever is less; see [`Config::with_retention`](crate::Config::with_retention).
    ///
    /// # Errors
    /// `Overloaded`: the queue is full. `Backend`: the engine is away; what was done stays done, ask again.
    pub async fn compact(&self, up_to: Revision) -> Result<Revision> {
        self.0.queue.compact(up_to).await
    }

    /// Writes a copy of the store to a new file, while writers run. Opening that file is the restore.
    ///
    /// A restored copy has a new epoch, and its versions, revisions and fencing tokens jump beyond all that the lost time may have used: a
    /// condition, cursor or token of that time matches nothing. Its change log is empty.
    ///
    /// While it runs, the write-ahead log grows by what is written, and is folded afterwards. Cancel safe: the copy is ended and removed.
    ///
    /// # Errors
    /// `Unsupported`: a store in memory. [`Kind::Invalid`](crate::Kind::Invalid): the file is there already. `Backend`: it cannot be written.
    pub async fn backup(&self, path: impl Into<PathBuf>) -> Result<()> {
        self.0.queue.engine().backup(path.into()).await.map_err(|e| e.during("backup"))
    }

    /// Writes such a copy to a file without a name, for whoever sends it elsewhere; its space is free again when it is closed.
    ///
    /// # Errors
    /// As [`Store::backup`].
    pub async fn backup_file(&self) -> Result<File> {
        self.0.queue.engine().backup_file().await.map_err(|e| e.during("backup"))
    }

    /// Reads everything and tells whether it contradicts itself: the file, the change log, the heads of chains.
    ///
    /// Entries of a chain are judged by [`Chain::verify`](crate::audit::Chain::verify), and what the store stands on by
    /// [`Onward::check`](crate::Onward::check). On a SQLite file it reads one state for as long as that takes, and gives up before writers
    /// would have to be refused. Cancel safe: the reading ends.
    ///
    /// # Errors
    /// `Overloaded`: the store is written to faster than it can be checked; check a backup. `Backend`: the engine is away, or the file is
    /// damaged beyond reading.
    pub async fn inspect(&self) -> Result<Vec<Finding>> {
        self.0.queue.engine().inspect().await.map_err(|e| e.during("inspect"))
    }

    /// Begins an import: rows are created in chunks of at most 128, each one a commit. What exists is counted and stays as it is.
    ///
    /// Running it again after whatever ended it is safe. A row gets a version above the one that it brings, so that no condition of the
    /// place where it comes from ever matches here.
    ///
    /// # Errors
    /// None by itself; see [`Import::push`].
    ///
    /// # Examples: a second run changes nothing
    /// ```
    /// # use onward::{Onward, store::{ExportOptions, Imported}};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let (from, to) = (Onward::open("memory:").await?.store(), Onward::open("memory:").await?.store());
    /// assert!(matches!(from.create(("project", "42"), &1_u64).await?, onward::store::Put::Committed(_)));
    /// for done in [Imported { created: 1, existing: 0 }, Imported { created: 0, existing: 1 }] {
    ///     let (mut export, mut import) = (from.export(ExportOptions::default()).await?, to.import()?);
    ///     while let Some(object) = export.next().await? {
    ///         import.push(object.into()).await?;
    ///     }
    ///     assert_eq!(import.finish().await?, done);
    /// }
    /// # Ok::<(), onward::Error>(()) }).unwrap();
    /// ```
    pub fn import(&self) -> Result<Import> {
        Import::new(self.clone())
    }

    /// Begins an export: every object that matches, as it was at the newest revision of this moment, while writers run.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a namespace, kind or prefix. `Backend`: the engine is away.
    pub async fn export(&self, options: ExportOptions) -> Result<Export> {
        Export::open(self.0.queue.clone(), options).await
    }

    /// Creates an object; a conflict shows the one that exists.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn create<T: Serialize + DeserializeOwned>(&self, key: impl IntoKey, value: &T) -> Result<Put<T>> {
        self.put_if(key, value, WriteCondition::MustCreate, WriteOptions::new()).await
    }

    /// Replaces an object that still is at `version`; a conflict shows where it is now.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn replace<T: Serialize + DeserializeOwned>(&self, key: impl IntoKey, value: &T, version: Version) -> Result<Put<T>> {
        self.put_if(key, value, WriteCondition::MatchVersion(version), WriteOptions::new()).await
    }

    /// Writes a value if the condition holds: one atomic step (C1).
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit. `Lost`, `fenced`: a newer holder exists; stop using the grant. `Backend` with
    /// `Unknown`: ask again with the same request id.
    ///
    /// # Cancel safety
    /// Dropped while it waits in the queue, nothing is written; later the writer ends it one way (C6).
    pub async fn put_if<T>(&self, key: impl IntoKey, value: &T, condition: WriteCondition, options: WriteOptions) -> Result<Put<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        match self.put_payload_if(key, Payload::json(value)?, condition, options).await? {
            Put::Committed(written) => Ok(Put::Committed(written)),
            Put::Conflict(conflict) => Ok(Put::Conflict(conflict.read())),
        }
    }

    /// Writes bytes as they are if the condition holds.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn put_payload_if(
        &self,
        key: impl IntoKey,
        payload: Payload,
        condition: WriteCondition,
        options: WriteOptions,
    ) -> Result<Put<Payload>> {
        match self.single(options.apply(Commit::new().put_payload(key, payload, condition))).await? {
            Ok(written) => Ok(Put::Committed(written)),
            Err(conflict) => Ok(Put::Conflict(conflict)),
        }
    }

    /// Changes a JSON object inside the writer: one attempt on the newest state, however many others write (C1).
    ///
    /// A conflict says that a `compare` did not hold, or that the object is not at the version `at`, if one is given.
    ///
    /// # Errors
    /// As [`Store::put_if`]. `NotFound`: there is no such object. [`Kind::Invalid`](crate::Kind::Invalid), `validation_failed`: the object
    /// is not JSON or has no place for a step; the pointer names the step.
    pub async fn apply(&self, key: impl IntoKey, patch: Patch, at: Option<Version>, options: WriteOptions) -> Result<Put<Payload>> {
        match self.single(options.apply(Commit::new().apply(key, patch, at))).await? {
            Ok(written) => Ok(Put::Committed(written)),
            Err(conflict) if conflict.reason == Reason::Missing && at.is_none() => {
                Err(Error::not_found("the object does not exist").during("apply"))
            }
            Err(conflict) => Ok(Put::Conflict(conflict)),
        }
    }

    /// Gives an object a new version and leaves its content, whatever its type; with a time to live or labels in the options, it gets
    /// those: the way to keep a session alive.
    ///
    /// A conflict says that the object is not at the version `at`, if one is given.
    ///
    /// # Errors
    /// As [`Store::put_if`]. `NotFound`: there is no such object.
    pub async fn touch(&self, key: impl IntoKey, at: Option<Version>, options: WriteOptions) -> Result<Put<Payload>> {
        match self.single(options.apply(Commit::new().touch(key, at))).await? {
            Ok(written) => Ok(Put::Committed(written)),
            Err(conflict) if conflict.reason == Reason::Missing && at.is_none() => {
                Err(Error::not_found("the object does not exist").during("touch"))
            }
            Err(conflict) => Ok(Put::Conflict(conflict)),
        }
    }

    /// Deletes an object that still is at `version`.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn delete_if(&self, key: impl IntoKey, version: Version, options: WriteOptions) -> Result<Delete<Payload>> {
        self.delete(options.apply(Commit::new().delete(key, version))).await
    }

    /// Writes bytes blindly: whatever is there is lost. The version moves all the same.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn overwrite(&self, key: impl IntoKey, payload: Payload, options: WriteOptions) -> Result<Written> {
        let condition = WriteCondition::Unconditional(Overwrite(()));
        match self.put_payload_if(key, payload, condition, options).await? {
            Put::Committed(written) => Ok(written),
            Put::Conflict(_) => Err(Error::integrity("a blind write met a condition")),
        }
    }

    /// Deletes an object at whatever version; `Absent` if there is none.
    ///
    /// # Errors
    /// As [`Store::put_if`].
    pub async fn overwrite_delete(&self, key: impl IntoKey, options: WriteOptions) -> Result<Delete<Payload>> {
        self.delete(options.apply(Commit::new().overwrite_delete(key))).await
    }

    async fn delete(&self, commit: Commit) -> Result<Delete<Payload>> {
        match self.single(commit).await? {
            Ok(written) => Ok(Delete::Removed(written)),
            Err(conflict) if conflict.reason == Reason::Missing => Ok(Delete::Absent),
            Err(conflict) => Ok(Delete::Conflict(conflict)),
        }
    }

    async fn single(&self, commit: Commit) -> Result<Result<Written, Conflict>> {
        match self.commit(commit).await? {
            CommitOutcome::Committed(mut receipt) => {
                receipt.writes.pop().map(Ok).ok_or_else(|| Error::integrity("a write without a receipt"))
            }
            CommitOutcome::Conflict(mut conflicts) => {
                conflicts.pop().map(Err).ok_or_else(|| Error::integrity("a conflict without a loser"))
            }
            CommitOutcome::Fenced { newest, .. } => Err(Error::fenced(newest)),
        }
    }

    /// Changes an object: reads it, calls `change` on a fresh copy, writes it at the version read; again on fresh state if it lost.
    ///
    /// The closure may run many times: no side effects in it. See [`Update`] for tries, deadline, validation and what a missing object
    /// does.
    pub fn update<T, F>(&self, key: impl IntoKey, change: F) -> Update<'_, T, F>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T, &Meta) -> Result<(), Refusal> + Send,
    {
        Update::new(self, key.into_key(), change)
    }

    /// Returns the objects of a kind as values of one type, in the namespace `default`.
    pub fn collection<T: Serialize + DeserializeOwned>(&self, kind: &str) -> Collection<T> {
        Collection::new(self.clone(), kind)
    }

    /// Applies a commit: whole or not at all, in one transaction, with one revision.
    ///
    /// Its cache invalidations are delivered before the answer if the cache is up, else from the change feed; the receipt tells.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit, or a request id that was used with other content. `Overloaded`: the queue is full;
    /// nothing was applied. `Backend` with `Unknown`: ask again with the same request id.
    ///
    /// # Cancel safety
    /// Dropped while it waits in the queue, nothing is applied; later the writer ends it one way, and the change feed delivers its
    /// invalidations (C6).
    pub async fn commit(&self, commit: Commit) -> Result<CommitOutcome> {
        let invalidations = commit.invalidations.clone();
        let mut outcome = self.0.queue.submit(commit).await?;
        if let CommitOutcome::Committed(receipt) = &mut outcome {
            receipt.invalidation = self.deliver(receipt.revision, &invalidations).await;
        }
        Ok(outcome)
    }

    /// Gives the answer again if the commit's request was answered before, and delivers its invalidations again: the process that wrote
    /// may have died in between.
    pub(crate) async fn replay(&self, commit: Commit) -> Result<Option<Receipt>> {
        let mut known = self.0.queue.replay(&commit).await?;
        if let Some(receipt) = &mut known {
            receipt.invalidation = self.deliver(receipt.revision, &commit.invalidations).await;
        }
        Ok(known)
    }

    async fn deliver(&self, revision: Revision, invalidations: &[(String, String)]) -> Delivery {
        if invalidations.is_empty() { Delivery::NotAsked } else { self.0.deliverer.inline(revision, invalidations).await }
    }

    /// Tells what a request id was answered; `None` if it is not remembered.
    ///
    /// # Errors
    /// `Backend`: the engine is away.
    pub async fn outcome_of(&self, id: &RequestId) -> Result<Option<Receipt>> {
        self.0.queue.outcome_of(id).await
    }

    /// Lists objects of a kind in the order of their names' bytes, a page at a time; all pages show the first one's revision.
    ///
    /// # Errors
    /// `Expired`: that revision was compacted since; list anew.
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit, or a cursor that is damaged or of another list.
    pub async fn list(&self, query: List) -> Result<Page> {
        list(&self.0.queue, query).await
    }

    /// Watches changes from a point on: each commit once, in order, without a gap (INV-4).
    ///
    /// # Errors
    /// `Expired`: the revision is compacted, in the future or of another epoch; list, then watch from the page's revision.
    pub async fn watch(&self, watch: Watch) -> Result<Watcher> {
        Watcher::open(&self.0.queue, watch).await
    }
}
