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

/// A page of locks that are held, in the order of their keys' bytes: a hint, not a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// The locks.
    pub items: Vec<Status>,
    /// Where the next page begins; null: this was the last.
    pub next_cursor: Option<String>,
}

/// What came of breaking a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// `broken`, or `absent` if nobody held it.
    pub outcome: String,
    /// A token newer than that of the old holder, whose writes are refused from now on.
    #[serde(with = "number::optional")]
    pub token: Option<u64>,
    /// Who held it.
    pub holder: Option<String>,
    /// The token of the old holder.
    #[serde(with = "number::optional")]
    pub old_token: Option<u64>,
}

/// Sets the live kill switch of locking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSwitch {
    /// Whether locks are taken.
    pub enabled: bool,
    /// Why: 1 to 1,024 bytes.
    pub reason: String,
}

/// What somebody set the live switch to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// Whether locks are taken.
    pub enabled: bool,
    /// Who set it, if that is known.
    pub by: Option<String>,
    /// When.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// The live switch before and after it was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Null: nobody had set it before.
    pub old: Option<SwitchRecord>,
    /// What it is now.
    pub new: SwitchRecord,
}

/// Locking as a whole: whether it is on, who says so, and how its engine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locking {
    /// Whether locks are taken: the configuration and the live switch both say so.
    pub enabled: bool,
    /// What decides: `configuration`, `switch`, or `default`.
    pub source: String,
    /// What the configuration says.
    pub configured: bool,
    /// What the live switch says; null: nobody ever set it.
    pub live: Option<SwitchRecord>,
    /// The lock engine, such as `sqlite`.
    pub engine: String,
    /// `ok`, `away`, or `off` if it was not asked.
    pub state: String,
    /// How long its answer took.
    pub latency_us: Option<u64>,
    /// The length of a lease that names none.
    pub default_ttl_ms: u64,
    /// The longest wait of one call.
    pub longest_wait_ms: u64,
}

/// An outcome in a word: `released`, `stored`, `superseded`, `removed`, `absent`, `queued`, `flushed`, `busy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The word.
    pub outcome: String,
}
