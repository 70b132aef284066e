//! Commits: several writes, guards, fences, audit entries and invalidations, whole or not at all.

use axum::response::Response;
use http::StatusCode;
use onward::Code;
use onward::commit::{Commit, CommitOutcome, Delivery, Guard as Condition, Patch, Receipt, WriteCondition};
use onward::model::{self, ChainName, Data, Entry, FencingToken, Key, LabelChange, LockKey, Payload, TtlChange, Version, limits};
use onward_api::commit::{Appended, Audit, Guard, Op, Reply, Request, Write, Written};
use onward_api::{Labels, base64};
use serde_json::value::RawValue;

use super::json;
use crate::auth::scope::Part;
use crate::call::{Call, ours, ttl_change};
use crate::refusal::{Answer, Refusal};

/// `POST /v1/commit`
pub(crate) async fn commit(mut call: Call) -> Answer {
    call.query(&[])?;
    let request: Request = call.json(limits::COMMIT_BYTES).await?;
    let mut commit = Commit::new().request(call.request()?).window(call.window).deadline(call.queue_time());
    let mut keys = Vec::with_capacity(request.writes.len());
    for (index, mut write) in request.writes.into_iter().enumerate() {
        let place = format!("/writes/{index}");
        let object = key(&call, write.namespace.as_deref(), &write.kind, &write.name).map_err(|e| e.under(&place))?;
        keys.push(object.clone());
        let labels = label_change(write.labels.take(), write.merge_labels.take()).map_err(|e| e.under(&place))?;
        let ttl = write.ttl_ms.map_or(TtlChange::Keep, ttl_change);
        commit = self::write(commit, object, write).map_err(|e| e.under(&place))?.labels(labels).ttl(ttl);
    }
    for (index, guard) in request.guards.into_iter().enumerate() {
        commit = commit.guard(condition(&call, guard).map_err(|e| e.under(&format!("/guards/{index}")))?);
    }
    for (lock, token) in call.fences()? {
        commit = commit.fence(lock, token);
    }
    for (index, fence) in request.fences.into_iter().enumerate() {
        call.caller.needs_in_scope(Part::Locks, &[fence.lock.as_bytes()])?;
        let read = LockKey::raw(&fence.lock).and_then(|lock| Ok((lock, FencingToken::new(fence.token)?)));
        let (lock, token) = read.map_err(|e| Refusal::from(e).under(&format!("/fences/{index}")))?;
        commit = commit.fence(lock, token);
    }
    for (index, entry) in request.audit.into_iter().enumerate() {
        let (chain, entry) = self::entry(&call, entry).map_err(|e| e.under(&format!("/audit/{index}")))?;
        commit = commit.audit(chain, entry);
    }
    for (index, key) in request.invalidate.into_iter().enumerate() {
        ours(&key.namespace).map_err(|e| e.under(&format!("/invalidate/{index}/namespace")))?;
        call.caller.needs_in_scope(Part::Cache, &[key.namespace.as_bytes(), key.key.as_bytes()])?;
        commit = commit.invalidate(&key.namespace, [key.key]);
    }
    match call.writing(call.onward().store().commit(commit)).await? {
        CommitOutcome::Committed(receipt) => reply(&receipt, &keys),
        CommitOutcome::Conflict(conflicts) => Err(Refusal::conflicts(&conflicts)),
        CommitOutcome::Fenced { newest, .. } => {
            let mut refusal = Refusal::new(Code::Fenced, "a newer fencing token was seen");
            refusal.problem.newest_token = Some(newest.get());
            Err(refusal)
        }
    }
}

pub(super) fn key(call: &Call, namespace: Option<&str>, kind: &str, name: &str) -> Result<Key, Refusal> {
    ours(kind).map_err(|e| e.under("/kind"))?;
    call.caller.needs_in_scope(Part::Objects, &[namespace.unwrap_or("default").as_bytes(), kind.as_bytes()])?;
    match namespace {
        Some(namespace) => {
            ours(namespace).map_err(|e| e.under("/namespace"))?;
            Ok(Key::in_namespace(namespace, kind, name)?)
        }
        None => Ok(Key::new(kind, name)?),
    }
}

fn label_change(set: Option<Labels>, merge: Option<Labels>) -> Result<LabelChange, Refusal> {
    let read = |labels: Labels, place: &str| model::Labels::read(labels.0).map_err(|e| Refusal::from(e).under(place));
    match (set, merge) {
        (None, None) => Ok(LabelChange::Keep),
        (Some(labels), None) => Ok(LabelChange::Set(read(labels, "/labels")?)),
        (None, Some(labels)) => Ok(LabelChange::Merge(read(labels, "/merge_labels")?)),
        (Some(_), Some(_)) => Err(Refusal::member("/labels", "at most one of labels and merge_labels")),
    }
}

fn write(commit: Commit, key: Key, write: Write) -> Result<Commit, Refusal> {
    let version = write.version.map(Version::new).transpose().map_err(|e| Refusal::from(e).under("/version"))?;
    let needed = || Refusal::member("/version", "replace and delete are based on a version");
    let unwanted = || Refusal::member("/version", "create and overwrite are based on no version");
    match (write.op, version) {
        (Op::Apply, at) => {
            if write.payload.is_some() || write.payload_base64.is_some() || write.content_type.is_some() {
                return Err(Refusal::member("/payload", "an apply has a patch or a merge"));
            }
            let patch = match (&write.patch, &write.merge) {
                (Some(steps), None) => Patch::steps_json(steps.get()).map_err(|e| Refusal::from(e).under("/patch"))?,
                (None, Some(merge)) => Patch::merge_json(merge.get()).map_err(|e| Refusal::from(e).under("/merge"))?,
                _ => return Err(Refusal::member("/patch", "an apply has a patch or a merge")),
            };
            return Ok(commit.apply(key, patch, at));
        }
        (Op::Touch, at) => {
            if write.payload.is_some() || write.payload_base64.is_some() || write.content_type.is_some() {
                return Err(Refusal::member("/payload", "a touch leaves the payload as it is"));
            }
            if write.patch.is_some() || write.merge.is_some() {
                return Err(Refusal::member("/patch", "only an apply has a patch"));
            }
            return Ok(commit.touch(key, at));
        }
        _ if write.patch.is_some() || write.merge.is_some() => return Err(Refusal::member("/patch", "only an apply has a patch")),
        (Op::Replace | Op::Delete, None) => return Err(needed()),
        (Op::Create | Op::Overwrite, Some(_)) => return Err(unwanted()),
        (Op::Delete, Some(version)) => {
            if write.payload.is_some() || write.payload_base64.is_some() || write.content_type.is_some() {
                return Err(Refusal::member("/payload", "a delete has no payload"));
            }
            return Ok(commit.delete(key, version));
        }
        _ => {}
    }
    let payload = payload(write.payload.as_deref(), write.payload_base64.as_deref(), write.content_type.as_deref())?;
    Ok(match (write.op, version) {
        (Op::Overwrite, _) => commit.overwrite(key, payload),
        (_, Some(version)) => commit.put_payload(key, payload, WriteCondition::MatchVersion(version)),
        (_, None) => commit.put_payload(key, payload, WriteCondition::MustCreate),
    })
}

pub(super) fn payload(json: Option<&RawValue>, binary: Option<&str>, content_type: Option<&str>) -> Result<Payload, Refusal> {
    match (json, binary) {
        (Some(json), None) => {
            let payload = Payload::new(json.get().to_owned().into_bytes(), content_type.unwrap_or("application/json"))?;
            if payload.is_json() {
                Ok(payload)
            } else {
                Err(Refusal::member("/content_type", "a payload is JSON; send other types as payload_base64"))
            }
        }
        (None, Some(binary)) => {
            let bytes = base64::decode(binary).ok_or_else(|| Refusal::member("/payload_base64", "not base64"))?;
            Ok(Payload::new(bytes, content_type.unwrap_or("application/octet-stream"))?)
        }
        _ => Err(Refusal::member("/payload", "exactly one of payload and payload_base64")),
    }
}

fn condition(call: &Call, guard: Guard) -> Result<Condition, Refusal> {
    let key = key(call, guard.namespace.as_deref(), &guard.kind, &guard.name)?;
    match (guard.absent, guard.exists, guard.version) {
        (Some(true), None, None) => Ok(Condition::Absent(key)),
        (None, Some(true), None) => Ok(Condition::Exists(key)),
        (None, None, Some(version)) => Ok(Condition::At(key, Version::new(version).map_err(|e| Refusal::from(e).under("/version"))?)),
        _ => Err(Refusal::member("", "exactly one of absent: true, exists: true and version")),
    }
}

fn entry(call: &Call, entry: Audit) -> Result<(ChainName, Entry), Refusal> {
    ours(&entry.chain).map_err(|e| e.under("/chain"))?;
    call.caller.needs_in_scope(Part::Chains, &[entry.chain.as_bytes()])?;
    let chain = ChainName::new(&entry.chain).map_err(|e| Refusal::from(e).under("/chain"))?;
    let mut made = Entry::new(entry.kind).with_data(data(entry.data.as_deref(), entry.data_text, entry.data_base64.as_deref())?);
    made.actor = call.caller.actor(entry.actor);
    made.resource = entry.resource;
    made.check()?;
    Ok((chain, made))
}

/// Reads the data of an entry: any JSON, which becomes canonical, or text or bytes, which stay.
pub(crate) fn data(json: Option<&RawValue>, text: Option<String>, binary: Option<&str>) -> Result<Data, Refusal> {
    match (json, text, binary) {
        (None, None, None) => Ok(Data::default()),
        (Some(json), None, None) => Ok(Data::json_text(json.get()).map_err(|e| Refusal::from(e).under("/data"))?),
        (None, Some(text), None) => Ok(Data::text(text)),
        (None, None, Some(binary)) => Ok(Data::bytes(base64::decode(binary).ok_or_else(|| Refusal::member("/data_base64", "not base64"))?)),
        _ => Err(Refusal::member("/data", "at most one of data, data_text and data_base64")),
    }
}

fn reply(receipt: &Receipt, keys: &[Key]) -> Result<Response, Refusal> {
    let written = |(written, key): (&onward::commit::Written, &Key)| Written {
        namespace: key.namespace().to_owned(),
        kind: key.kind().to_owned(),
        name: key.name().to_owned(),
        version: written.version.get(),
        changed: written.changed,
    };
    let appended = |entry: &onward::commit::EntryReceipt| Appended {
        chain: entry.chain.to_string(),
        seq: entry.seq.get(),
        hash: entry.hash.to_string(),
    };
    let invalidation = match receipt.invalidation {
        Delivery::NotAsked => "none",
        Delivery::Done => "done",
        Delivery::Queued => "queued",
    };
    json(
        StatusCode::OK,
        &Reply {
            revision: receipt.revision.get(),
            replayed: receipt.replayed,
            writes: receipt.writes.iter().zip(keys).map(written).collect(),
            audit: receipt.audit.iter().map(appended).collect(),
            invalidation: invalidation.to_owned(),
        },
    )
}
