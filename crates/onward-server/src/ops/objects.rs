//! Objects.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use onward::Code;
use onward::commit::{Conflict, Patch, Reason, WriteCondition, Written};
use onward::model::{Key, Object, Payload, Revision, Version, limits};
use onward::store::{At, Delete, List, Put, WriteOptions};
use onward_api::objects::{Envelope, History, List as Page};
use onward_api::{MERGE_TYPE, OBJECT_TYPE, PATCH_TYPE, base64};
use serde_json::value::RawValue;

use super::json;
use crate::call::{Call, ours};
use crate::cursor;
use crate::query::Query;
use crate::refusal::{Answer, Refusal};

/// `GET /v1/objects/{kind}/{name}`
pub(crate) async fn get(call: Call) -> Answer {
    let query = call.query(&["namespace", "at", "history", "payload", "limit", "cursor"])?;
    let key = key(&call, &query)?;
    let at: Option<Revision> = query.parse("at", "a revision")?;
    if query.flag("history", false)? {
        return history(&call, &query, &key).await;
    }
    if let Some(name) = ["payload", "limit", "cursor"].into_iter().find(|name| query.get(name).is_some()) {
        return Err(Refusal::new(Code::InvalidRequest, format!("query parameter `{name}` belongs to a history")));
    }
    let store = call.onward().store();
    let found = match at {
        Some(at) => call.reading(store.get_at(&key, At::Revision(at))).await?,
        None => call.reading(store.get_payload(&key)).await?,
    };
    let object = found.ok_or_else(|| Refusal::new(Code::NotFound, "no such object"))?;
    let whole = call.header("accept")?.is_some_and(|accept| accept.contains(OBJECT_TYPE));
    let mut response = if call.header("if-none-match")?.is_some_and(|tags| matches(tags, object.meta.version)) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if whole {
        let mut response = json(StatusCode::OK, &envelope(&object, true))?;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OBJECT_TYPE));
        response
    } else {
        let mut response = Response::new(Body::from(object.value.bytes().clone()));
        insert(response.headers_mut(), header::CONTENT_TYPE, object.value.content_type());
        response
    };
    let headers = response.headers_mut();
    insert(headers, header::ETAG, &etag(object.meta.version));
    headers.insert(HeaderName::from_static(onward_api::header::REVISION), HeaderValue::from(object.meta.revision.get()));
    Ok(response)
}

/// `GET /v1/objects/{kind}/{name}?history=true`
async fn history(call: &Call, query: &Query, key: &Key) -> Answer {
    if query.get("at").is_some() {
        return Err(Refusal::new(Code::InvalidRequest, "a history is not at one revision"));
    }
    let limit = query.parse("limit", "1 to 1000")?.unwrap_or(100);
    let question = ["history", key.namespace(), key.kind(), key.name()];
    let before = query.get("cursor").map(|text| cursor::open(text, &question)).transpose()?;
    let before = before.map(|revision| revision.parse::<Revision>()).transpose()?;
    let payload = query.flag("payload", true)?;
    let page = call.reading(call.onward().store().history(key, before, limit)).await?;
    let past = |past: &onward::commit::Past| {
        let after = past.change.after.as_ref();
        let (json, binary) = after.filter(|_| payload).map_or((None, None), |object| spell(&object.value));
        onward_api::objects::Past {
            version: past.change.version.get(),
            revision: past.revision.get(),
            op: super::watch::word(past.change.op).to_owned(),
            at: past.at.to_string(),
            labels: after.map(|object| labels(object)),
            expires_at: after.and_then(|object| object.meta.expires_at).map(|ends| ends.to_string()),
            content_type: after.map(|object| object.value.content_type().to_owned()),
            payload: json,
            payload_base64: binary,
        }
    };
    let items = page.items.iter().map(past).collect();
    let next_cursor = page.next.map(|revision| cursor::seal(&revision.to_string(), &question));
    json(StatusCode::OK, &History { items, next_cursor, oldest: page.compacted.get() })
}

/// `PUT /v1/objects/{kind}/{name}`
pub(crate) async fn put(mut call: Call) -> Answer {
    let query = call.query(&["namespace", "overwrite"])?;
    let key = key(&call, &query)?;
    let basis = basis(&call, &query)?;
    let options = options(&call)?;
    let content_type = call.header("content-type")?.unwrap_or("application/octet-stream").to_owned();
    let bytes = call.bytes(limits::PAYLOAD_BYTES).await?;
    let payload = Payload::new(bytes, &content_type)?;
    let store = call.onward().store();
    let condition = match basis {
        Basis::Never => return Err(never(&call, &key).await),
        Basis::Blind => {
            let written = call.writing(store.overwrite(&key, payload, options)).await.map_err(own_place)?;
            return wrote(&written);
        }
        Basis::Absent => WriteCondition::MustCreate,
        Basis::Present => WriteCondition::MustExist,
        Basis::At(version) => WriteCondition::MatchVersion(version),
    };
    match call.writing(store.put_payload_if(&key, payload, condition, options)).await.map_err(own_place)? {
        Put::Committed(written) => wrote(&written),
        Put::Conflict(conflict) => Err(Refusal::lost(&conflict, true)),
    }
}

/// `PATCH /v1/objects/{kind}/{name}`
pub(crate) async fn patch(mut call: Call) -> Answer {
    let query = call.query(&["namespace", "touch"])?;
    let key = key(&call, &query)?;
    let at = match (call.header("if-match")?, call.header("if-none-match")?) {
        (None | Some("*"), None) => None,
        (Some(tag), None) => match tagged(tag)? {
            Basis::At(version) => Some(version),
            _ => return Err(never(&call, &key).await),
        },
        (_, Some(_)) => return Err(Refusal::header("if-none-match", "a patch needs an object")),
    };
    let options = options(&call)?;
    if query.flag("touch", false)? {
        if !call.bytes(limits::PAYLOAD_BYTES).await?.is_empty() {
            return Err(Refusal::member("", "a touch has no body: the content stays as it is"));
        }
        return patched(call.writing(call.onward().store().touch(&key, at, options)).await);
    }
    let essence = call.header("content-type")?.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let read = match essence.as_str() {
        MERGE_TYPE => Patch::merge_json,
        PATCH_TYPE => Patch::steps_json,
        _ => {
            return Err(Refusal::new(Code::UnsupportedMediaType, format!("send a patch as {MERGE_TYPE} or {PATCH_TYPE}")).closing());
        }
    };
    let bytes = call.bytes(limits::PAYLOAD_BYTES).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::member("", "JSON is UTF-8"))?;
    patched(call.writing(call.onward().store().apply(&key, read(text)?, at, options)).await)
}

fn patched(answer: Result<Put<Payload>, Refusal>) -> Answer {
    match answer.map_err(own_place)? {
        Put::Committed(written) => wrote(&written),
        Put::Conflict(conflict) => Err(Refusal::lost(&conflict, conflict.reason != Reason::Compare)),
    }
}

/// The body is the payload or the patch, whose steps stand at the root; labels and time to live stand in headers, where no pointer leads.
fn own_place(mut refusal: Refusal) -> Refusal {
    refusal.problem.errors.retain_mut(|member| match member.pointer.strip_prefix("/writes/0/") {
        Some(place) => match place.strip_prefix("patch") {
            Some(step) => {
                member.pointer = step.to_owned();
                true
            }
            None => false,
        },
        None => true,
    });
    refusal
}

/// `DELETE /v1/objects/{kind}/{name}`
pub(crate) async fn delete(call: Call) -> Answer {
    let query = call.query(&["namespace", "overwrite"])?;
    let key = key(&call, &query)?;
    let store = call.onward().store();
    let options = options(&call)?;
    let deleted = match basis(&call, &query)? {
        Basis::Never => return Err(never(&call, &key).await),
        Basis::Absent => return Err(Refusal::header("if-none-match", "a delete needs an object")),
        Basis::Present | Basis::Blind => call.writing(store.overwrite_delete(&key, options)).await.map_err(own_place)?,
        Basis::At(version) => call.writing(store.delete_if(&key, version, options)).await.map_err(own_place)?,
    };
    match deleted {
        Delete::Removed(written) => json(StatusCode::OK, &receipt(&written)),
        Delete::Absent => Err(Refusal::new(Code::NotFound, "no such object")),
        Delete::Conflict(conflict) => Err(Refusal::lost(&conflict, true)),
    }
}

/// `GET /v1/objects/{kind}`
pub(crate) async fn list(call: Call) -> Answer {
    let query = call.query(&["namespace", "prefix", "label", "payload", "limit", "cursor"])?;
    let kind = call.segment(0)?;
    ours(&kind)?;
    let mut list = List::new(kind).with_limit(query.parse("limit", "1 to 1000")?.unwrap_or(100)).with_selector(query.selector()?);
    if let Some(namespace) = query.get("namespace") {
        ours(namespace)?;
        list = list.in_namespace(namespace);
    }
    if let Some(prefix) = query.get("prefix") {
        list = list.with_prefix(prefix);
    }
    if let Some(cursor) = query.get("cursor") {
        list = list.after(cursor);
    }
    let payload = query.flag("payload", true)?;
    let page = call.reading(call.onward().store().list(list)).await?;
    let items = page.items.iter().map(|object| envelope(object, payload)).collect();
    json(StatusCode::OK, &Page { items, next_cursor: page.next, revision: page.revision.get() })
}

/// Spells an object with everything that is known about it.
pub(crate) fn envelope(object: &Object, payload: bool) -> Envelope {
    let (json, binary) = if payload { spell(&object.value) } else { (None, None) };
    Envelope {
        namespace: object.key.namespace().to_owned(),
        kind: object.key.kind().to_owned(),
        name: object.key.name().to_owned(),
        uid: object.meta.uid.to_string(),
        version: object.meta.version.get(),
        etag: etag(object.meta.version),
        revision: object.meta.revision.get(),
        content_type: object.value.content_type().to_owned(),
        labels: labels(object),
        expires_at: object.meta.expires_at.map(|ends| ends.to_string()),
        created_at: object.meta.created_at.to_string(),
        updated_at: object.meta.updated_at.to_string(),
        payload: json,
        payload_base64: binary,
    }
}

/// Spells the labels of an object.
pub(crate) fn labels(object: &Object) -> BTreeMap<String, String> {
    object.meta.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Spells a payload: JSON as it was written, else base64.
pub(crate) fn spell(payload: &Payload) -> (Option<Box<RawValue>>, Option<String>) {
    let json = payload.is_json().then(|| serde_json::from_slice(payload.bytes()).ok()).flatten();
    let binary = json.is_none().then(|| base64::encode(payload.bytes()));
    (json, binary)
}

/// Spells a payload on one line so that it can be read back byte for byte.
pub(crate) fn spell_exactly(payload: &Payload) -> (Option<Box<RawValue>>, Option<String>) {
    // White space around a document is lost in JSON, and line ends in it would end the line.
    let whole = |json: &RawValue| json.get().len() == payload.bytes().len() && !json.get().contains(['\n', '\r']);
    match spell(payload) {
        (Some(json), None) if whole(&json) => (Some(json), None),
        _ => (None, Some(base64::encode(payload.bytes()))),
    }
}

fn key(call: &Call, query: &Query) -> Result<Key, Refusal> {
    let (kind, name) = call.word_and_key()?;
    let name = String::from_utf8(name).map_err(|_| Refusal::new(Code::InvalidKey, "the name of an object is UTF-8"))?;
    match query.get("namespace") {
        Some(namespace) => {
            ours(namespace)?;
            Ok(Key::in_namespace(namespace, &kind, &name)?)
        }
        None => Ok(Key::new(&kind, &name)?),
    }
}

/// What a write says that it is based on.
enum Basis {
    /// The object is at this version.
    At(Version),
    /// The object exists.
    Present,
    /// The object does not exist.
    Absent,
    /// Nothing.
    Blind,
    /// A tag that no object ever has.
    Never,
}

fn basis(call: &Call, query: &Query) -> Result<Basis, Refusal> {
    let blind = query.flag("overwrite", false)?;
    match (call.header("if-match")?, call.header("if-none-match")?, blind) {
        (None, None, true) => Ok(Basis::Blind),
        (None, Some("*"), false) => Ok(Basis::Absent),
        (None, Some(_), false) => Err(Refusal::header("if-none-match", "a write takes * only")),
        (Some("*"), None, false) => Ok(Basis::Present),
        (Some(tag), None, false) => tagged(tag),
        (None, None, false) => Err(Refusal::new(
            Code::PreconditionRequired,
            "say what the write is based on: If-Match: \"VERSION\", If-Match: *, If-None-Match: *, or ?overwrite=true",
        )),
        _ => Err(Refusal::new(Code::InvalidRequest, "a write has exactly one condition")),
    }
}

fn tagged(tag: &str) -> Result<Basis, Refusal> {
    // Strong comparison: a weak tag never matches (RFC 9110, 8.8.3.2).
    let weak = tag.starts_with("W/");
    let bare = tag.trim_start_matches("W/").strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let bare = bare.filter(|bare| !bare.contains('"')).ok_or_else(|| Refusal::header("if-match", "one ETag, as it was given"))?;
    let version: Version = bare.parse().map_err(Refusal::from)?;
    // Nor does one that merely reads as the same number.
    Ok(if weak || version.to_string() != bare { Basis::Never } else { Basis::At(version) })
}

/// Refuses a write whose tag never matches, with the current object so that the next try can.
async fn never(call: &Call, key: &Key) -> Refusal {
    match call.reading(call.onward().store().get_payload(key)).await {
        Ok(current) => {
            let reason = if current.is_some() { Reason::Stale } else { Reason::Missing };
            let version = current.as_ref().map(|object| object.meta.version);
            Refusal::lost(&Conflict { index: 0, key: key.clone(), reason, version, current }, true)
        }
        Err(refusal) => refusal,
    }
}

fn options(call: &Call) -> Result<WriteOptions, Refusal> {
    let options = WriteOptions::new().with_request(call.request()?, call.window).with_deadline(call.queue_time());
    let options = options.with_labels(call.labels()?).with_ttl(call.ttl()?);
    Ok(call.fences()?.into_iter().fold(options, |options, (lock, token)| options.with_fence(lock, token)))
}

fn wrote(written: &Written) -> Answer {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json(status, &receipt(written))?;
    insert(response.headers_mut(), header::ETAG, &etag(written.version));
    Ok(response)
}

fn receipt(written: &Written) -> onward_api::objects::Written {
    onward_api::objects::Written {
        version: written.version.get(),
        revision: written.revision.get(),
        changed: written.changed,
        replayed: written.replayed,
    }
}

fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// Tells whether a reader's list of tags has this version; weak tags match here (RFC 9110, 13.1.2).
fn matches(tags: &str, version: Version) -> bool {
    let own = etag(version);
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
