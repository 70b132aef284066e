//! The guarded write itself.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::commit::{Commit, CommitOutcome, Delivery, EntryReceipt, Reason, Receipt, WriteCondition, Written};
use crate::lock::{GrantView, LockOptions, Locks, Outcome};
use crate::model::{ChainName, Data, Entry, Key, LabelChange, LockKey, Meta, Object, Payload, RequestId, TtlChange, Version};
use crate::store::{Store, WriteOptions};
use crate::{Code, Error, Kind, Refusal, Result};

/// How many times the compare-and-swap is tried under one grant: only a writer without the lock can make it lose.
const TRIES: u32 = 5;

/// What a guarded write produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// Version and revision of the object.
    pub written: Written,
    /// Where the audit entry went, if one was asked for.
    pub audit: Option<EntryReceipt>,
    /// What became of the cache invalidations.
    pub invalidation: Delivery,
    /// Whether a fencing token was checked in the transaction; without one the compare-and-swap alone protected the write (C9).
    pub locked: bool,
    /// Whether this answer was given before, to the same request id.
    pub replayed: bool,
}

type Change = Box<dyn FnMut(&Payload, &Meta) -> Result<Payload> + Send>;
type Check = Box<dyn FnMut(&Payload) -> Result<()> + Send>;
type Also = Box<dyn FnMut(Commit) -> Commit + Send>;

enum Action {
    Nothing,
    Update(Change),
    Create(Result<Payload>),
    Delete,
}

/// A guarded write in the making.
///
/// The closures may run several times: no side effects in them.
#[must_use = "a guarded write runs at commit()"]
pub struct GuardedWrite {
    store: Store,
    locks: Locks,
    namespace: Option<String>,
    kind: String,
    name: String,
    scope: String,
    options: LockOptions,
    action: Action,
    checks: Vec<Check>,
    also: Vec<Also>,
    actor: Option<String>,
    audit: Option<(String, String)>,
    detail: Option<serde_json::Value>,
    invalidate: Vec<(String, String)>,
    request: Option<RequestId>,
    labels: LabelChange,
    ttl: TtlChange,
}

impl fmt::Debug for GuardedWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedWrite").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl GuardedWrite {
    pub(crate) fn new(store: Store, locks: Locks, kind: &str, name: &str) -> Self {
        Self {
            store,
            locks,
            namespace: None,
            kind: kind.to_owned(),
            name: name.to_owned(),
            scope: String::new(),
            options: LockOptions::fail(),
            action: Action::Nothing,
            checks: Vec::new(),
            also: Vec::new(),
            actor: None,
            audit: None,
            detail: None,
            invalidate: Vec::new(),
            request: None,
            labels: LabelChange::Keep,
            ttl: TtlChange::Keep,
        }
    }

    /// Writes an object of this namespace instead of `default`.
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Names who does it, for the audit entry.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Locks in this scope; `unknown` by default.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scope = scope.to_owned();
        self
    }

    /// Sets how the lock is taken; by default it waits 3 s, then the write is `Contended`.
    pub fn lock(mut self, options: LockOptions) -> Self {
        self.options = options;
        self
    }

    /// Changes the object as it stands under the lock.
    pub fn update<T, F>(self, mut change: F) -> Self
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T) + Send + 'static,
    {
        self.try_update(move |value: &mut T, _: &Meta| {
            change(value);
            Ok(())
        })
    }

    /// Changes the object as it stands under the lock, or refuses to.
    pub fn try_update<T, F>(mut self, mut change: F) -> Self
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(&mut T, &Meta) -> Result<(), Refusal> + Send + 'static,
    {
        self.action = Action::Update(Box::new(move |payload, meta| {
            let mut value: T = payload.read()?;
            change(&mut value, meta).map_err(Refusal::into_error)?;
            Payload::json(&value)
        }));
        self
    }

    /// Creates the object; that it exists already is an error.
    pub fn create<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.action = Action::Create(Payload::json(value));
        self
    }

    /// Deletes the object; that it does not exist is an error.
    pub fn delete(mut self) -> Self {
        self.action = Action::Delete;
        self
    }

    /// Says what becomes of the object's labels; without a word they stay.
    pub fn labels(mut self, change: LabelChange) -> Self {
        self.labels = change;
        self
    }

    /// Says what becomes of the object's time to live; without a word it stays.
    pub fn ttl(mut self, change: TtlChange) -> Self {
        self.ttl = change;
        self
    }

    /// Judges each candidate before it is written, in every try.
    pub fn validate<T, F>(mut self, mut check: F) -> Self
    where
        T: DeserializeOwned,
        F: FnMut(&T) -> Result<(), Refusal> + Send + 'static,
    {
        self.checks.push(Box::new(move |payload| check(&payload.read::<T>()?).map_err(Refusal::into_error)));
        self
    }

    /// Adds more to the same commit, in every try.
    pub fn also(mut self, more: impl FnMut(Commit) -> Commit + Send + 'static) -> Self {
        self.also.push(Box::new(more));
        self
    }

    /// Appends an entry of this kind to the chain `main`, in the same transaction. A change that changes nothing still appends.
    pub fn audit(self, kind: &str) -> Self {
        self.audit_in("main", kind)
    }

    /// Appends an entry of this kind to a chain, in the same transaction.
    pub fn audit_in(mut self, chain: &str, kind: &str) -> Self {
        self.audit = Some((chain.to_owned(), kind.to_owned()));
        self
    }

    /// Adds a detail to the audit entry's data.
    pub fn detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Invalidates keys of the cache's namespace `default` once the write is durable.
    pub fn invalidate<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        self.invalidate_in("default", keys)
    }

    /// Invalidates keys of a cache namespace once the write is durable.
    pub fn invalidate_in<K: Into<String>>(mut self, namespace: &str, keys: impl IntoIterator<Item = K>) -> Self {
        self.invalidate.extend(keys.into_iter().map(|key| (namespace.to_owned(), key.into())));
        self
    }

    /// Makes the write happen once, however often it is sent with this id.
    pub fn request(mut self, id: RequestId) -> Self {
        self.request = Some(id);
        self
    }

    /// Runs it: lock, read, change, validate, one transaction, cache, release.
    ///
    /// # Errors
    /// [`Kind::Contended`]: the lock was held for the whole wait. [`Kind::Lost`]: a newer holder was seen; nothing was written.
    /// [`Kind::Conflict`]: the object exists already (create), or somebody without the lock was faster in every try. [`Kind::NotFound`]:
    /// there is nothing to change. [`Kind::Invalid`]: a limit, or a closure refused. [`Kind::Backend`] with effect `Unknown`: ask again
    /// with the same request id.
    ///
    /// # Cancel safety
    /// Dropped before the commit is taken, nothing is written; after it, the change feed invalidates the cache and the lock is released
    /// by its worker or ends with its lease.
    pub async fn commit(mut self) -> Result<Guarded> {
        let key = match &self.namespace {
            Some(namespace) => Key::in_namespace(namespace, &self.kind, &self.name)?,
            None => Key::new(&self.kind, &self.name)?,
        };
        let collection = match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.kind),
            None => self.kind.clone(),
        };
        let lock = self.locks.scope(&self.scope).key(&collection, &self.name)?;
        let chain = self.audit.as_ref().map(|(chain, _)| ChainName::new(chain)).transpose()?;
        if let Some((_, kind)) = &self.audit {
            Entry { actor: self.actor.clone(), ..Entry::new(kind.as_str()) }.check()?;
        }
        // A replay needs no lock; it delivers its invalidations again, since the process that wrote may have died before.
        if self.request.is_some() {
            let commit = self.finish(Commit::new(), &key);
            if let Some(receipt) = self.store.replay(commit).await? {
                return guarded(receipt, true);
            }
        }
        let (locks, options) = (self.locks.clone(), self.options.clone());
        let outcome = locks.with_key(&lock, options, |grant| self.under(grant, &lock, &key, chain.as_ref())).await?;
        match outcome {
            Outcome::Ran(result) | Outcome::RanUnlocked(result, _) => result,
            skipped @ Outcome::Skipped { .. } => match skipped.locked() {
                Err(error) => Err(error),
                Ok(result) => result,
            },
        }
    }

    /// Everything that happens under the lock.
    async fn under(mut self, grant: GrantView, lock: &LockKey, key: &Key, chain: Option<&ChainName>) -> Result<Guarded> {
        let mut state = self.store.get_payload(key).await?;
        for _ in 0..TRIES {
            if grant.token().is_some() {
                grant.check()?;
            }
            let base = state.as_ref().map(|object| object.meta.version);
            let mut commit = self.step(key, state.as_ref())?;
            if let Some(token) = grant.token() {
                commit = commit.fence(lock.clone(), token);
            }
            if let (Some(chain), Some((_, kind))) = (chain, &self.audit) {
                commit = commit.audit(chain.clone(), self.entry(key, kind, base, &grant)?);
            }
            commit = self.finish(commit, key);
            match self.store.commit(commit).await? {
                CommitOutcome::Committed(receipt) => return guarded(receipt, grant.token().is_some()),
                CommitOutcome::Fenced { newest, .. } => {
                    // The lock engine lost its counter: it goes on above what the store has seen.
                    self.locks.raise_tokens(newest).await?;
                    return Err(Error::fenced(newest).during("guarded write"));
                }
                CommitOutcome::Conflict(conflicts) => {
                    let Some(lost) = conflicts.into_iter().next() else { return Err(Error::integrity("a conflict without a loser")) };
                    match (&self.action, lost.reason) {
                        (Action::Create(_), _) => {
                            return Err(
                                Error::new(Kind::Conflict, Code::AlreadyExists, "the object exists already").with_current(lost.current)
                            );
                        }
                        (_, Reason::Guard) => {
                            return Err(
                                Error::new(Kind::Conflict, Code::VersionConflict, "a guard did not hold").with_current(lost.current)
                            );
                        }
                        _ if lost.key == *key => state = lost.current,
                        _ => {
                            return Err(Error::new(Kind::Conflict, Code::VersionConflict, "another write of the commit lost")
                                .with_current(lost.current));
                        }
                    }
                }
            }
        }
        Err(Error::new(Kind::Conflict, Code::VersionConflict, "writers without the lock were faster in every try")
            .with_tries(TRIES)
            .with_current(state))
    }

    /// The object's own write, from the state that it is based on.
    fn step(&mut self, key: &Key, state: Option<&Object>) -> Result<Commit> {
        let gone = || Error::not_found("the object does not exist").during("guarded write");
        let (payload, condition) = match &mut self.action {
            Action::Nothing => return Err(Error::invalid("a guarded write needs update, create or delete")),
            Action::Delete => {
                let commit = Commit::new().delete(key, state.ok_or_else(gone)?.meta.version);
                return Ok(commit.labels(self.labels.clone()).ttl(self.ttl));
            }
            Action::Create(payload) => {
                let payload = payload.as_ref().map_err(|e| Error::new(e.kind(), e.code(), e.message()))?;
                (payload.clone(), WriteCondition::MustCreate)
            }
            Action::Update(change) => {
                let object = state.ok_or_else(gone)?;
                (change(&object.value, &object.meta)?, WriteCondition::MatchVersion(object.meta.version))
            }
        };
        for check in &mut self.checks {
            check(&payload)?;
        }
        Ok(Commit::new().put_payload(key, payload, condition).labels(self.labels.clone()).ttl(self.ttl))
    }

    fn entry(&self, key: &Key, kind: &str, base: Option<Version>, grant: &GrantView) -> Result<Entry> {
        let mut data = serde_json::Map::new();
        data.insert("base_version".to_owned(), json!(base));
        if let Some(detail) = &self.detail {
            data.insert("detail".to_owned(), detail.clone());
        }
        data.insert("fence".to_owned(), json!(grant.token()));
        data.insert("request_id".to_owned(), json!(self.request));
        let mut entry = Entry::new(kind).on(key.to_string()).with_data(Data::json(&data)?);
        entry.actor.clone_from(&self.actor);
        Ok(entry)
    }

    /// What is the same in every try, and in a replay.
    fn finish(&mut self, mut commit: Commit, key: &Key) -> Commit {
        for (namespace, cache_key) in &self.invalidate {
            commit = commit.invalidate(namespace, [cache_key.as_str()]);
        }
        for more in &mut self.also {
            commit = more(commit);
        }
        if let Some(id) = &self.request {
            // What is written differs between tries, so the request is known by what it wants.
            let action = match &self.action {
                Action::Nothing => "nothing",
                Action::Update(_) => "update",
                Action::Create(_) => "create",
                Action::Delete => "delete",
            };
            let intent = json!([action, key.to_string(), self.actor, self.audit, self.detail, self.invalidate]);
            let wishes = WriteOptions::new().with_labels(self.labels.clone()).with_ttl(self.ttl);
            commit = commit.request(id.clone()).intent(&wishes.intent_of(intent.to_string()));
        }
        commit
    }
}

fn guarded(mut receipt: Receipt, locked: bool) -> Result<Guarded> {
    let invalidation = receipt.invalidation;
    let replayed = receipt.replayed;
    if receipt.writes.is_empty() {
        return Err(Error::integrity("a guarded write without a receipt"));
    }
    let written = receipt.writes.swap_remove(0);
    Ok(Guarded { written, audit: receipt.audit.into_iter().next(), invalidation, locked, replayed })
}
