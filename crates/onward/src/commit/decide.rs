//! The decision: one pure function that every engine shares. No clock, no randomness, no I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::builder::{Commit, Guard, Op, Write, WriteCondition, inside};
use super::engine::{Remembered, Rows, StoreMeta};
use super::feed::{Change, ChangeOp};
use super::outcome::{Conflict, Reason, Receipt, Written};
use super::patch::Patched;
use crate::model::limits::{CONFLICT_BYTES, NUMBER_MAX, TOKEN_AHEAD_US};
use crate::model::{FencingToken, Fingerprint, Key, LabelChange, Labels, LockKey, Meta, Object, Payload, Revision, TtlChange, Version};
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result};

/// What the judgement of one commit came to.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Carry this out; entries are chained after it.
    Apply(Verdict),
    /// The same request was answered before.
    Replay(Arc<Receipt>),
    /// Each loser with its current object.
    Conflict(Vec<Conflict>),
    /// A newer holder was seen.
    Fenced { lock: LockKey, token: FencingToken, newest: FencingToken },
}

/// What a commit that passed changes.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// `None` if nothing changes at all.
    pub(crate) revision: Option<Revision>,
    pub(crate) version_floor: u64,
    pub(crate) changes: Vec<Change>,
    pub(crate) fences: Vec<(LockKey, FencingToken)>,
    pub(crate) written: Vec<Written>,
}

/// The state that a commit is judged against: the rows of the batch with the changes of its earlier commits on top.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) meta: StoreMeta,
    pub(crate) objects: HashMap<Key, Arc<Object>>,
    pub(crate) fences: HashMap<LockKey, FencingToken>,
    pub(crate) requests: HashMap<crate::model::RequestId, Remembered>,
    pub(crate) now: Timestamp,
}

impl View {
    pub(crate) fn new(rows: Rows, now: Timestamp) -> (Self, HashMap<crate::model::ChainName, crate::model::Head>) {
        let Rows { meta, objects, fences, requests, heads, held: _ } = rows;
        (Self { meta, objects, fences, requests, now }, heads)
    }

    /// Lays what a commit changes on top.
    pub(crate) fn lay(&mut self, verdict: &Verdict) {
        if let Some(revision) = verdict.revision {
            self.meta.revision = revision;
        }
        self.meta.version_floor = verdict.version_floor;
        for (lock, token) in &verdict.fences {
            self.meta.newest_token = self.meta.newest_token.max(token.get());
            self.fences.insert(lock.clone(), *token);
        }
        for change in &verdict.changes {
            match &change.after {
                Some(object) => self.objects.insert(change.key.clone(), object.clone()),
                None => self.objects.remove(&change.key),
            };
        }
    }
}

/// Judges one commit: request id, fences, guards, conditions, patches; the first class that fails decides, all its failures are listed. Its
/// fingerprint is there if it has a request id.
///
/// # Errors
/// The request id was used with other content, a patch does not fit its document, a token is ahead of any clock, or the store is at the end of its numbers.
pub(crate) fn decide(commit: &Commit, print: Option<&Fingerprint>, view: &View) -> Result<Decision> {
    let known = commit.request.as_ref().and_then(|id| view.requests.get(id));
    if let Some(known) = known.filter(|known| known.expires_at > view.now) {
        if print == Some(&known.fingerprint) {
            return Ok(Decision::Replay(known.receipt.clone()));
        }
        return Err(reused());
    }
    let mut raised = Vec::new();
    let ahead = u64::try_from(view.now.as_micros()).unwrap_or(0).saturating_add(TOKEN_AHEAD_US);
    for (lock, token) in &commit.fences {
        if token.get() > ahead {
            return Err(Error::invalid("a fencing token is more than a year ahead of the store's clock"));
        }
        match view.fences.get(lock) {
            Some(newest) if token < newest => return Ok(Decision::Fenced { lock: lock.clone(), token: *token, newest: *newest }),
            Some(newest) if token == newest => {}
            _ => raised.push((lock.clone(), *token)),
        }
    }
    let guards = losers(commit.guards.iter().enumerate().filter_map(|(index, guard)| {
        let current = view.objects.get(guard.key());
        let holds = match guard {
            Guard::Absent(_) => current.is_none(),
            Guard::Exists(_) => current.is_some(),
            Guard::At(_, version) => current.is_some_and(|object| object.meta.version == *version),
        };
        (!holds).then_some((index, guard.key(), Reason::Guard, current))
    }));
    if !guards.is_empty() {
        return Ok(Decision::Conflict(guards));
    }
    let conditions = losers(commit.writes.iter().enumerate().filter_map(|(index, write)| {
        let current = view.objects.get(&write.key);
        let reason = match (&write.op, current) {
            (Op::Put { condition: WriteCondition::MustCreate, .. }, Some(_)) => Reason::Exists,
            (
                Op::Put { condition: WriteCondition::MatchVersion(_) | WriteCondition::MustExist, .. }
                | Op::Apply { .. }
                | Op::Touch { .. }
                | Op::Delete { .. }
                | Op::Expire { .. },
                None,
            ) => Reason::Missing,
            (
                Op::Put { condition: WriteCondition::MatchVersion(at), .. }
                | Op::Apply { at: Some(at), .. }
                | Op::Touch { at: Some(at) }
                | Op::Delete { at: Some(at) }
                | Op::Expire { at },
                Some(object),
            ) if object.meta.version != *at => Reason::Stale,
            _ => return None,
        };
        Some((index, &write.key, reason, current))
    }));
    if !conditions.is_empty() {
        return Ok(Decision::Conflict(conditions));
    }
    let (patched, differ) = patch(commit, view)?;
    if !differ.is_empty() {
        return Ok(Decision::Conflict(differ));
    }
    apply(commit, view, patched, raised).map(Decision::Apply)
}

/// Applies the patches of a commit to the documents that it found: their results by the place of the write, and who lost a `compare`.
fn patch(commit: &Commit, view: &View) -> Result<(HashMap<usize, Payload>, Vec<Conflict>)> {
    let mut patched = HashMap::new();
    let mut differ = Vec::new();
    for (index, write) in commit.writes.iter().enumerate() {
        let (Op::Apply { patch, .. }, Some(before)) = (&write.op, view.objects.get(&write.key)) else { continue };
        match patch.apply(&before.value).map_err(|e| inside(index, e))? {
            Patched::Payload(payload) => _ = patched.insert(index, payload),
            Patched::Differs => differ.push((index, &write.key, Reason::Compare, Some(before))),
        }
    }
    Ok((patched, losers(differ.into_iter())))
}

fn apply(commit: &Commit, view: &View, mut patched: HashMap<usize, Payload>, fences: Vec<(LockKey, FencingToken)>) -> Result<Verdict> {
    let next = view.meta.revision.next();
    let mut floor = view.meta.version_floor.max(commit.above);
    let restored = view.meta.restore_floor;
    let mut changes = Vec::new();
    let mut written = Vec::with_capacity(commit.writes.len());
    for (index, write) in commit.writes.iter().enumerate() {
        let before = view.objects.get(&write.key);
        let put = match &write.op {
            Op::Put { payload, uid, .. } => Some((payload.clone(), *uid)),
            // The conditions have refused an absent object, and its identity stays.
            Op::Apply { .. } => patched.remove(&index).map(|payload| (payload, uuid::Uuid::nil())),
            Op::Touch { .. } => before.map(|object| (object.value.clone(), uuid::Uuid::nil())),
            Op::Delete { .. } | Op::Expire { .. } => None,
        };
        let touched = matches!(write.op, Op::Touch { .. });
        match put {
            Some((payload, uid)) => {
                let labels = labels(write, before).map_err(|e| e.with_pointer(format!("/writes/{index}/labels")))?;
                let expires_at = match write.ttl {
                    TtlChange::Keep => before.and_then(|object| object.meta.expires_at),
                    TtlChange::Set(ttl) => Some(later(view.now, ttl)),
                    TtlChange::Never => None,
                };
                let same =
                    |object: &&Arc<Object>| object.value == payload && object.meta.labels == labels && object.meta.expires_at == expires_at;
                if let Some(object) = before.filter(same).filter(|_| !touched) {
                    written.push(Written {
                        version: object.meta.version,
                        revision: object.meta.revision,
                        created: false,
                        changed: false,
                        replayed: false,
                    });
                    continue;
                }
                let version =
                    Version::new(before.map_or(floor, |object| object.meta.version.get()).max(restored) + 1).map_err(|_| exhausted())?;
                let meta = Meta {
                    uid: before.map_or(uid, |object| object.meta.uid),
                    version,
                    revision: next,
                    create_revision: before.map_or(next, |object| object.meta.create_revision),
                    labels,
                    expires_at,
                    created_at: before.map_or(view.now, |object| object.meta.created_at),
                    updated_at: view.now,
                };
                let after = Arc::new(Object { key: write.key.clone(), value: payload, meta });
                written.push(Written { version, revision: next, created: before.is_none(), changed: true, replayed: false });
                changes.push(Change { op: ChangeOp::Put, key: write.key.clone(), version, before: before.cloned(), after: Some(after) });
            }
            None => {
                // The conditions have refused an absent object.
                let Some(object) = before else { continue };
                let version = Version::new(object.meta.version.get().max(restored) + 1).map_err(|_| exhausted())?;
                floor = floor.max(version.get());
                written.push(Written { version, revision: next, created: false, changed: true, replayed: false });
                let op = if matches!(write.op, Op::Expire { .. }) { ChangeOp::Expire } else { ChangeOp::Delete };
                changes.push(Change { op, key: write.key.clone(), version, before: before.cloned(), after: None });
            }
        }
    }
    let anything = !changes.is_empty() || !fences.is_empty() || !commit.entries.is_empty() || !commit.invalidations.is_empty();
    if next.get() > NUMBER_MAX >> 8 {
        return Err(exhausted());
    }
    Ok(Verdict { revision: anything.then_some(next), version_floor: floor, changes, fences, written })
}

/// The labels that a write leaves.
fn labels(write: &Write, before: Option<&Arc<Object>>) -> Result<Labels> {
    match (&write.labels, before) {
        (LabelChange::Keep, None) => Ok(Labels::new()),
        (LabelChange::Keep, Some(object)) => Ok(object.meta.labels.clone()),
        (LabelChange::Merge(over), Some(object)) => object.meta.labels.merged(over),
        (LabelChange::Set(labels) | LabelChange::Merge(labels), _) => Ok(labels.clone()),
    }
}

fn later(now: Timestamp, ttl: Duration) -> Timestamp {
    Timestamp::from_micros(now.as_micros().saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)))
}

pub(super) fn reused() -> Error {
    Error::new(Kind::Invalid, Code::RequestIdReused, "the request id was used before with other content")
}

fn exhausted() -> Error {
    Error::unsupported("the store is at the end of its numbers")
}

/// Lists who lost, with current objects up to a bound in sum, then versions only.
fn losers<'a>(found: impl Iterator<Item = (usize, &'a Key, Reason, Option<&'a Arc<Object>>)>) -> Vec<Conflict> {
    let mut left = CONFLICT_BYTES;
    found
        .map(|(index, key, reason, current)| {
            let fits = current.and_then(|object| left.checked_sub(object.value.bytes().len()).map(|rest| (object, rest)));
            let shown = fits.map(|(object, rest)| {
                left = rest;
                Object::clone(object)
            });
            Conflict { index, key: key.clone(), reason, version: current.map(|object| object.meta.version), current: shown }
        })
        .collect()
}
