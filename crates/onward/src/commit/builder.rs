//! What a caller asks for: writes with their conditions, guards, fences, entries, invalidations, and an id.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::patch::Patch;
use crate::model::limits::{self, COMMIT_BYTES, COMMIT_FENCES, COMMIT_INVALIDATIONS, COMMIT_WRITES, KEY_BYTES};
use crate::model::{
    ChainName, Entry, FencingToken, Fingerprint, IntoKey, Key, LabelChange, Labels, LockKey, Payload, RequestId, Seq, TtlChange, Version,
};
use crate::{Code, Error, Kind, Result, random};

/// What must hold for a write to land. There is no default: each write says what it is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCondition {
    /// The object does not exist.
    MustCreate,
    /// The object still is at this version.
    MatchVersion(Version),
    /// The object exists, at whatever version.
    MustExist,
    /// Nothing: the write is blind. Only [`Store::overwrite`](crate::store::Store::overwrite) and [`Commit::overwrite`] make one.
    Unconditional(Overwrite),
}

/// The proof that a blind write was asked for by name; it cannot be made outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overwrite(pub(crate) ());

/// A condition on an object that the commit need not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The object does not exist.
    Absent(Key),
    /// The object exists.
    Exists(Key),
    /// The object is at this version.
    At(Key, Version),
}

impl Guard {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Guard::Absent(key) | Guard::Exists(key) | Guard::At(key, _) => key,
        }
    }
}

/// One conditional write.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    pub(crate) op: Op,
    pub(crate) labels: LabelChange,
    pub(crate) ttl: TtlChange,
}

impl Write {
    /// Refuses what a write cannot do to labels and time to live; names the member.
    fn check(&self) -> Result<(), (&'static str, Error)> {
        if matches!(self.op, Op::Delete { .. } | Op::Expire { .. }) {
            if self.labels != LabelChange::Keep {
                return Err(("labels", Error::invalid("a delete leaves nothing that could have labels")));
            }
            if self.ttl != TtlChange::Keep {
                return Err(("ttl_ms", Error::invalid("a delete leaves nothing that could have a time to live")));
            }
        }
        match self.ttl {
            TtlChange::Set(ttl) if !(limits::TTL_MIN..=limits::TTL_MAX).contains(&ttl) => {
                Err(("ttl_ms", Error::invalid("a time to live is 1 s..=10 years")))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// `uid` is the identity that the object gets if this write creates it: drawn here, so that the decision stays pure.
    Put { payload: Payload, condition: WriteCondition, uid: Uuid },
    /// To the state at this version, or to whatever is there. An absent object is a conflict.
    Apply { patch: Patch, at: Option<Version> },
    /// At this version, or at any if none is given: a new version of the same content. An absent object is a conflict.
    Touch { at: Option<Version> },
    /// At this version, or at any if none is given. An absent object is a conflict.
    Delete { at: Option<Version> },
    /// As a delete at this version, whose time to live is over.
    Expire { at: Version },
}

/// How long the store remembers the answer to a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Window {
    /// 24 hours: the id is the caller's.
    #[default]
    Caller,
    /// 15 minutes: a server or client drew the id by itself, to settle a lost answer.
    Own,
    /// 7 days: the id of an audit event.
    Event,
}

impl Window {
    pub(crate) fn micros(self) -> i64 {
        match self {
            Window::Caller => limits::REQUEST_WINDOW_US,
            Window::Own => limits::OWN_REQUEST_WINDOW_US,
            Window::Event => limits::EVENT_WINDOW_US,
        }
    }
}

/// A change of the store that is applied whole or not at all, in one transaction, with one revision.
///
/// Judged in this order, and the first class that fails decides: limits, request id, fences, guards, conditions, patches. Guards and
/// conditions see the state before the commit.
///
/// # Examples: a guard that fails refuses every write
/// ```
/// # use onward::{Onward, commit::{Commit, CommitOutcome, Guard, WriteCondition}, model::Key};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let onward = Onward::open("memory:").await?;
/// let commit = Commit::new()
///     .guard(Guard::Exists(Key::new("account", "closed")?))
///     .put(("account", "a"), &serde_json::json!({"sum": 1}), WriteCondition::MustCreate);
/// assert!(matches!(onward.store().commit(commit).await?, CommitOutcome::Conflict(_)));
/// assert!(onward.store().get_payload(("account", "a")).await?.is_none());
/// # Ok::<(), onward::Error>(()) }).unwrap();
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Commit {
    pub(crate) writes: Vec<Write>,
    pub(crate) guards: Vec<Guard>,
    pub(crate) fences: Vec<(LockKey, FencingToken)>,
    pub(crate) entries: Vec<(ChainName, Entry)>,
    /// Entries whose personal data go with this commit.
    pub(crate) forgotten: Option<(ChainName, Vec<Seq>)>,
    /// The entries are ours, of kinds that callers cannot write.
    control: bool,
    pub(crate) invalidations: Vec<(String, String)>,
    pub(crate) request: Option<RequestId>,
    pub(crate) window: Window,
    intent: Option<Fingerprint>,
    /// Creates take a version above this one.
    pub(crate) above: u64,
    pub(crate) wait: Option<Duration>,
    refused: Option<Error>,
}

impl Commit {
    /// Starts an empty commit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a value as JSON under a condition. What is wrong with key or value shows when the commit is sent.
    pub fn put<T: Serialize + ?Sized>(self, key: impl IntoKey, value: &T, condition: WriteCondition) -> Self {
        match Payload::json(value) {
            Ok(payload) => self.put_payload(key, payload, condition),
            Err(e) => self.refuse(e),
        }
    }

    /// Writes bytes as they are under a condition.
    pub fn put_payload(self, key: impl IntoKey, payload: Payload, condition: WriteCondition) -> Self {
        self.push(key, Op::Put { payload, condition, uid: random::uuid_v4() })
    }

    /// Gives creates a version above this one, if it is given.
    pub(crate) fn above(mut self, version: Option<Version>) -> Self {
        self.above = version.map_or(0, Version::get);
        self
    }

    /// Writes bytes blindly: whatever is there is lost.
    pub fn overwrite(self, key: impl IntoKey, payload: Payload) -> Self {
        self.put_payload(key, payload, WriteCondition::Unconditional(Overwrite(())))
    }

    /// Applies a patch to an object, at a version or to whatever is there; an absent object is a conflict.
    pub fn apply(self, key: impl IntoKey, patch: Patch, at: Option<Version>) -> Self {
        self.push(key, Op::Apply { patch, at })
    }

    /// Gives an object a new version and leaves its content, at a version or at whatever it is; an absent object is a conflict.
    ///
    /// With [`Commit::ttl`] or [`Commit::labels`] behind it, only those change: no payload is read or sent.
    pub fn touch(self, key: impl IntoKey, at: Option<Version>) -> Self {
        self.push(key, Op::Touch { at })
    }

    /// Deletes an object at a version.
    pub fn delete(self, key: impl IntoKey, at: Version) -> Self {
        self.push(key, Op::Delete { at: Some(at) })
    }

    /// Deletes an object at whatever version.
    pub fn overwrite_delete(self, key: impl IntoKey) -> Self {
        self.push(key, Op::Delete { at: None })
    }

    /// Deletes an object whose time to live is over: what the store's sweeper commits.
    pub(super) fn expire(self, key: Key, at: Version) -> Self {
        self.push(key, Op::Expire { at })
    }

    fn push(mut self, key: impl IntoKey, op: Op) -> Self {
        match key.into_key() {
            Ok(key) => self.writes.push(Write { key, op, labels: LabelChange::Keep, ttl: TtlChange::Keep }),
            Err(e) => return self.refuse(e),
        }
        self
    }

    /// Says what the write that was added last does to the labels of its object; without a word they stay.
    pub fn labels(mut self, change: LabelChange) -> Self {
        match self.writes.last_mut() {
            Some(write) => write.labels = change,
            None => return self.refuse(Error::invalid("labels belong to a write")),
        }
        self
    }

    /// Says what the write that was added last does to the time to live of its object; without a word it stays.
    pub fn ttl(mut self, change: TtlChange) -> Self {
        match self.writes.last_mut() {
            Some(write) => write.ttl = change,
            None => return self.refuse(Error::invalid("a time to live belongs to a write")),
        }
        self
    }

    /// Adds a condition on an object that need not be written.
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Refuses the commit if a newer token of this lock was seen; else remembers this one (INV-1).
    pub fn fence(mut self, lock: LockKey, token: FencingToken) -> Self {
        self.fences.push((lock, token));
        self
    }

    /// Appends an entry to a chain in the same transaction.
    ///
    /// Its event id is its own if it has one, else it is made from the request id of the commit, else it is new. It is the request id
    /// that makes the commit happen once.
    pub fn audit(mut self, chain: ChainName, entry: Entry) -> Self {
        self.entries.push((chain, entry));
        self
    }

    /// Appends a control entry, which only this library writes.
    pub(crate) fn control(self, chain: ChainName, entry: Entry) -> Self {
        Self { control: true, ..self }.audit(chain, entry)
    }

    /// Overwrites the personal data of entries in the same transaction; a control entry tells of it.
    pub(crate) fn forget(mut self, chain: ChainName, seqs: Vec<Seq>) -> Self {
        self.forgotten = Some((chain, seqs));
        self
    }

    /// Invalidates cache keys once the commit is durable: inline, and from the change feed if the process dies first.
    pub fn invalidate<K: Into<String>>(mut self, namespace: &str, keys: impl IntoIterator<Item = K>) -> Self {
        self.invalidations.extend(keys.into_iter().map(|key| (namespace.to_owned(), key.into())));
        self
    }

    /// Makes the commit happen once, however often it is sent with this id.
    pub fn request(mut self, id: RequestId) -> Self {
        self.request = Some(id);
        self
    }

    /// Sets how long the answer to the request id is remembered.
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Identifies the request by `intent` instead of by its content, for callers whose content differs between tries.
    pub fn intent(mut self, intent: &[u8]) -> Self {
        self.intent = Some(Fingerprint(Sha256::digest(intent).into()));
        self
    }

    /// Gives up, with nothing applied, if the commit still waits in the queue after this time, 1 ms..=10 min.
    pub fn deadline(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    fn refuse(mut self, error: Error) -> Self {
        self.refused.get_or_insert(error);
        self
    }

    /// Refuses a commit that breaks a limit, before it is queued (C10). Returns its encoded size.
    pub(crate) fn check(&mut self) -> Result<usize> {
        if let Some(error) = self.refused.take() {
            return Err(error.during("commit"));
        }
        if self.writes.is_empty() && self.fences.is_empty() && self.entries.is_empty() && self.invalidations.is_empty() {
            return Err(Error::invalid("the commit is empty"));
        }
        let most = |what: &str, is: usize, limit: usize| {
            if is > limit { Err(Error::invalid(format!("a commit has at most {limit} {what}"))) } else { Ok(()) }
        };
        most("writes", self.writes.len(), COMMIT_WRITES)?;
        most("guards", self.guards.len(), COMMIT_WRITES)?;
        most("audit entries", self.entries.len(), COMMIT_WRITES)?;
        most("fences", self.fences.len(), COMMIT_FENCES)?;
        most("invalidations", self.invalidations.len(), COMMIT_INVALIDATIONS)?;
        unique("one object is written twice in a commit", self.writes.iter().map(|write| &write.key))?;
        unique("one lock is fenced twice in a commit", self.fences.iter().map(|fence| &fence.0))?;
        if self.wait.is_some_and(|wait| !(limits::WAIT_MIN..=limits::WAIT_MAX).contains(&wait)) {
            return Err(Error::invalid("a deadline is 1 ms..=10 min"));
        }
        for (namespace, key) in &self.invalidations {
            crate::model::check_cache_namespace(namespace)?;
            if key.is_empty() || key.len() > KEY_BYTES {
                return Err(Error::invalid_key("a cache key is 1..=512 bytes"));
            }
        }
        for (index, write) in self.writes.iter().enumerate() {
            if let Op::Apply { patch, .. } = &write.op {
                patch.check().map_err(|e| inside(index, e).during("commit"))?;
            }
            write.check().map_err(|(member, e)| e.with_pointer(format!("/writes/{index}/{member}")).during("commit"))?;
        }
        for (_, entry) in self.entries.iter().filter(|_| !self.control) {
            entry.check()?;
        }
        let size = self.size();
        if size > COMMIT_BYTES {
            return Err(Error::new(Kind::Invalid, Code::PayloadTooLarge, "a commit is at most 8 MiB"));
        }
        Ok(size)
    }

    fn size(&self) -> usize {
        let writes = self.writes.iter().map(|write| match &write.op {
            Op::Put { payload, .. } => payload.bytes().len() + 256,
            Op::Apply { patch, .. } => patch.check().unwrap_or(0) + 256,
            Op::Touch { .. } | Op::Delete { .. } | Op::Expire { .. } => 256,
        });
        let labels = self.writes.iter().map(|write| match &write.labels {
            LabelChange::Keep => 0,
            LabelChange::Set(labels) | LabelChange::Merge(labels) => labels.bytes(),
        });
        let entries = self
            .entries
            .iter()
            .map(|(_, entry)| entry.data.as_bytes().len() + entry.personal.as_ref().map_or(0, |own| own.value.len()) + 512);
        let invalidations = self.invalidations.iter().map(|(namespace, key)| namespace.len() + key.len());
        writes.chain(labels).chain(entries).chain(invalidations).sum::<usize>() + 64
    }

    /// What the commit asks for, as 32 bytes.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        if let Some(intent) = self.intent {
            return intent;
        }
        let mut print = Print(Sha256::new());
        print.number(self.writes.len());
        for Write { key, op, .. } in &self.writes {
            print.key(key);
            match op {
                Op::Put { payload, condition, .. } => {
                    let (tag, version) = match condition {
                        WriteCondition::MustCreate => ("create", 0),
                        WriteCondition::MatchVersion(version) => ("replace", version.get()),
                        WriteCondition::MustExist => ("exist", 0),
                        WriteCondition::Unconditional(_) => ("overwrite", 0),
                    };
                    print.text(tag).long(version).text(payload.content_type()).bytes(payload.bytes());
                }
                Op::Apply { patch, at } => {
                    print.text("apply").long(at.map_or(0, Version::get));
                    patch.parts(|part| _ = print.text(part));
                }
                Op::Touch { at } => {
                    print.text("touch").long(at.map_or(0, Version::get));
                }
                Op::Delete { at } => {
                    print.text("delete").long(at.map_or(0, Version::get));
                }
                Op::Expire { at } => {
                    print.text("expire").long(at.get());
                }
            }
        }
        print.number(self.guards.len());
        for guard in &self.guards {
            match guard {
                Guard::Absent(key) => print.key(key).text("absent"),
                Guard::Exists(key) => print.key(key).text("exists"),
                Guard::At(key, version) => print.key(key).text("at").long(version.get()),
            };
        }
        print.number(self.fences.len());
        for (lock, token) in &self.fences {
            print.text(lock.as_str()).long(token.get());
        }
        print.number(self.entries.len());
        for (chain, entry) in &self.entries {
            print
                .text(chain.as_str())
                .option(entry.event_id.as_deref())
                .text(&entry.kind)
                .option(entry.actor.as_deref())
                .option(entry.resource.as_deref());
            print.bytes(entry.data.as_bytes());
            // Not what they are: the print outlives them, and has no salt.
            if entry.personal.is_some() {
                print.text("personal");
            }
        }
        print.number(self.invalidations.len());
        for (namespace, key) in &self.invalidations {
            print.text(namespace).text(key);
        }
        // Behind the end, and only where something is asked for: what was asked before there were labels keeps its print.
        for (index, Write { labels, ttl, .. }) in self.writes.iter().enumerate() {
            match labels {
                LabelChange::Keep => {}
                LabelChange::Set(labels) => print.number(index).text("labels").labels(labels),
                LabelChange::Merge(labels) => print.number(index).text("merge").labels(labels),
            }
            match ttl {
                TtlChange::Keep => {}
                TtlChange::Set(ttl) => _ = print.number(index).text("ttl").long(u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX)),
                TtlChange::Never => _ = print.number(index).text("never"),
            }
        }
        if self.above > 0 {
            print.text("above").long(self.above);
        }
        Fingerprint(print.0.finalize().into())
    }
}

/// Names the write whose patch is refused.
pub(super) fn inside(index: usize, error: Error) -> Error {
    let step = error.pointer().unwrap_or_default().to_owned();
    error.with_pointer(format!("/writes/{index}/patch{step}"))
}

fn unique<T: Ord>(message: &str, items: impl Iterator<Item = T>) -> Result<()> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    if items.windows(2).any(|pair| pair[0] == pair[1]) { Err(Error::invalid(message)) } else { Ok(()) }
}

/// A hash over length-prefixed parts, so that no two requests can read alike.
struct Print(Sha256);

impl Print {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn option(&mut self, text: Option<&str>) -> &mut Self {
        self.number(usize::from(text.is_some()));
        self.text(text.unwrap_or_default())
    }

    fn number(&mut self, number: usize) -> &mut Self {
        self.long(number as u64)
    }

    fn long(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    fn labels(&mut self, labels: &Labels) {
        self.number(labels.iter().count());
        for (key, value) in labels.iter() {
            self.text(key).text(value);
        }
    }

    fn key(&mut self, key: &Key) -> &mut Self {
        self.text(key.namespace()).text(key.kind()).text(key.name())
    }
}
