//! Objects, lists and changes on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::number;

/// An object with everything that is known about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The namespace.
    pub namespace: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The identity of this life of the object.
    pub uid: String,
    /// The version.
    #[serde(with = "number")]
    pub version: u64,
    /// The version as a condition: what `If-Match` takes.
    pub etag: String,
    /// The revision of the commit that wrote this version.
    #[serde(with = "number")]
    pub revision: u64,
    /// The content type.
    pub content_type: String,
    /// The labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When its time to live ends: the store deletes it soon after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was created.
    pub created_at: String,
    /// When this version was written.
    pub updated_at: String,
    /// The payload, if it is JSON and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Box<RawValue>>,
    /// The payload, if it is something else and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// One object of an import or an export: a line of NDJSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The namespace; `default` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The version where it comes from; it is created above that.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub version: Option<u64>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<crate::Labels>,
    /// When it ends by itself, RFC 3339, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The content type; `application/json` for a payload, `application/octet-stream` for a binary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The payload, if it is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Box<RawValue>>,
    /// The payload, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// What an import has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Objects that it created.
    pub created: u64,
    /// Rows whose object was there already, and stayed as it was.
    pub existing: u64,
}

/// What a write of one object produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The version now; of a delete, the version that the deletion took.
    #[serde(with = "number")]
    pub version: u64,
    /// The revision of the commit.
    #[serde(with = "number")]
    pub revision: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// Whether this answer was given before, to the same request id.
    pub replayed: bool,
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// The objects, by name.
    pub items: Vec<Envelope>,
    /// What to send as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
    /// The revision that the page shows.
    #[serde(with = "number")]
    pub revision: u64,
}

/// A page of an object's history, the newest change first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// The changes.
    pub items: Vec<Past>,
    /// What to send as `cursor` for the next page; null at the end of what is kept.
    pub next_cursor: Option<String>,
    /// Changes up to this revision are no longer kept.
    #[serde(with = "number")]
    pub oldest: u64,
}

/// One change in the history of an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Past {
    /// The version that the change took.
    #[serde(with = "number")]
    pub version: u64,
    /// The revision of the commit.
    #[serde(with = "number")]
    pub revision: u64,
    /// `put`, `delete`, or `expire`: deleted because its time to live was over.
    pub op: String,
    /// When it was committed.
    pub at: String,
    /// The labels of what was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// When the time to live of what was put ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The content type of what was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// What was put, if it is JSON and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Box<RawValue>>,
    /// What was put, if it is something else and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// The first event of a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The epoch of the store.
    pub epoch: String,
    /// After which revision the watch begins.
    #[serde(with = "number")]
    pub revision: u64,
}

/// One commit of a watch; its revision is the id of the event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The revision.
    #[serde(with = "number")]
    pub revision: u64,
    /// When it was committed.
    pub at: String,
    /// What changed, of what is watched.
    pub changes: Vec<Changed>,
}

/// One object that changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// `put`, `delete`, or `expire`: deleted because its time to live was over.
    pub op: String,
    /// The namespace.
    pub namespace: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The identity of this life of the object.
    pub uid: String,
    /// The version that the change took.
    #[serde(with = "number")]
    pub version: u64,
    /// The labels now; of a deleted object, its last ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The content type of what was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// What was put, if it is JSON and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Box<RawValue>>,
    /// What was put, if it is something else and was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// How far a quiet watch is; the revision is the id of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// The revision.
    #[serde(with = "number")]
    pub revision: u64,
}

/// The last event of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// `draining`, `max_age`, `slow`, `compacted` or `unavailable`.
    pub reason: String,
}
