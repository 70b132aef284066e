//! Locks on the wire.

use serde::{Deserialize, Serialize};

use crate::number;

/// Asks for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// The length of the lease: 10 to 86,400,000; 30,000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// How long to wait: 0 to 60,000; 0 if absent. Longer waits repeat the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// 32 hex digits drawn by the caller, so that a repeated call finds its own grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Text that tells people who holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// A lock that was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The key.
    pub key: String,
    /// The secret that renews and releases it.
    pub owner: String,
    /// The fencing token.
    #[serde(with = "number")]
    pub token: u64,
    /// The length of the lease.
    pub ttl_ms: u64,
    /// How long it runs from when the engine looked; count it from before the call was sent.
    pub remaining_ms: u64,
    /// How long the call waited.
    pub waited_ms: u64,
}

/// Extends a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// How long it shall run from now; 30,000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A lease that was extended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The fencing token, unchanged.
    #[serde(with = "number")]
    pub token: u64,
    /// How long it runs from when the engine looked.
    pub remaining_ms: u64,
}

/// Extends up to 200 leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewMany {
    /// The leases.
    pub renew: Vec<RenewOne>,
}

/// One of the leases to extend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewOne {
    /// The key.
    pub key: String,
    /// The owner.
    pub owner: String,
    /// How long it shall run from now.
    pub ttl_ms: u64,
}

/// What became of [`RenewMany`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedMany {
    /// One for each lease, in order.
    pub results: Vec<RenewResult>,
}

/// What became of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResult {
    /// The key.
    pub key: String,
    /// `renewed` or `lost`.
    pub outcome: String,
    /// How long it runs; null if it is lost.
    pub remaining_ms: Option<u64>,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The key.
    pub key: String,
    /// `held` or `free`.
    pub state: String,
    /// Text that tells people who holds it.
    pub holder: Option<String>,
    /// The fencing token of the grant.
    #[serde(with = "number::optional")]
    pub token: Option<u64>,
    /// When it was granted.
    pub since: Option<String>,
    /// How long it can still run.
    pub remaining_ms: Option<u64>,
    /// How many callers of the server's process wait.
    pub waiters: u64,
}

/// An outcome in a word: `released`, `stored`, `superseded`, `removed`, `absent`, `queued`, `flushed`, `busy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The word.
    pub outcome: String,
}
