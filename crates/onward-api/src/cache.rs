//! The cache on the wire. Values are bodies and leases are headers; see [`header`](crate::header).

use serde::{Deserialize, Serialize};

/// What a namespace holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Live values, remembered absences included.
    pub entries: u64,
    /// Their bytes, with names and bookkeeping.
    pub bytes: u64,
    /// Live fill leases.
    pub reservations: u64,
    /// Keys under a live write guard.
    pub guarded: u64,
}

/// Acts on keys of a namespace: 1 to 1,024, each answered for itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    /// The acts.
    pub ops: Vec<Op>,
}

/// One act.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Drop a value, and refuse every fill that began before.
    Invalidate(Name),
    /// Keep a value, but only as stale, and refuse every fill that began before.
    Expire(Name),
    /// Give a fill lease back.
    Abandon(Lease),
}

/// A key, or one field of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// The key, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The field, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The field, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_base64: Option<String>,
}

/// A fill lease of a key, or of one field of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The key, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The field, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The field, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_base64: Option<String>,
    /// The lease, as the miss gave it.
    pub fill: String,
}

/// How the acts ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// One an act, in the order asked.
    pub results: Vec<Done>,
}

/// How one act ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// `removed`, `expired`, `absent`, `abandoned`, `queued`, or `failed`.
    pub outcome: String,
    /// Of a failure: the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<crate::Code>,
    /// Of a failure: whether the act may have been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<crate::Effect>,
}
