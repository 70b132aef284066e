//! A commit on the wire.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Labels, Ttl, number};

/// A change that is applied whole or not at all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The writes, each object at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<Write>,
    /// Conditions on objects that need not be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
    /// Fencing tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<Fence>,
    /// Audit entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<Audit>,
    /// Cache keys to invalidate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalidate: Vec<CacheKey>,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Creates an object that must not exist.
    Create,
    /// Replaces an object at a version.
    Replace,
    /// Applies a patch to an object, at a version or to whatever is there.
    Apply,
    /// Gives an object a new version and leaves its content, at a version or at whatever it is.
    Touch,
    /// Deletes an object at a version.
    Delete,
    /// Writes blindly: whatever is there is lost.
    Overwrite,
}

/// One write.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// What it does.
    pub op: Op,
    /// The namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The version that it is based on: for `replace` and `delete`, and if wanted for `apply` and `touch`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub version: Option<u64>,
    /// The payload as JSON, kept as it is written here.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub payload: Option<Box<RawValue>>,
    /// The payload as bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// The steps of an `apply`, as the body of `PATCH` with `application/vnd.onward.patch+json`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub patch: Option<Box<RawValue>>,
    /// The merge patch of an `apply` (RFC 7396).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub merge: Option<Box<RawValue>>,
    /// The labels: these and no others. Without this and `merge_labels` they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Labels that are laid over those that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_labels: Option<Labels>,
    /// The time to live, or `never`; without it, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<Ttl>,
    /// The content type; `application/json` for `payload`, `application/octet-stream` for `payload_base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// A condition on an object: exactly one of `absent`, `exists` and `version`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// `true`: the object does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<bool>,
    /// `true`: the object exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// The object is at this version.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub version: Option<u64>,
}

/// A fencing token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The key of the lock.
    pub lock: String,
    /// The token.
    #[serde(with = "number")]
    pub token: u64,
}

/// An audit entry of a commit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// The chain.
    pub chain: String,
    /// What happened.
    pub kind: String,
    /// Who did it; the server puts the name of the token in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Any JSON; stored in canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub data: Option<Box<RawValue>>,
    /// Text, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_text: Option<String>,
    /// Bytes, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

/// A key of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheKey {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}

/// What a commit produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Its place in the order of the store.
    #[serde(with = "number")]
    pub revision: u64,
    /// Whether this answer was given before, to the same request id.
    pub replayed: bool,
    /// One for each write, in order.
    pub writes: Vec<Written>,
    /// One for each audit entry, in order.
    pub audit: Vec<Appended>,
    /// What became of the invalidations: `done`, `queued` or `none`.
    pub invalidation: String,
}

/// What one write of a commit produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The namespace.
    pub namespace: String,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The version now; of a delete, the version that the deletion took.
    #[serde(with = "number")]
    pub version: u64,
    /// Whether anything changed.
    pub changed: bool,
}

/// Where one audit entry of a commit went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The chain.
    pub chain: String,
    /// The position.
    #[serde(with = "number")]
    pub seq: u64,
    /// The hash.
    pub hash: String,
}
