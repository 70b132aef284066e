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
