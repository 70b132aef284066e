//! What operators ask for.

use serde::{Deserialize, Serialize};

use crate::number;

/// How far to compact the change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compact {
    /// The log is taken off up to this revision.
    #[serde(with = "number")]
    pub up_to: u64,
}

/// How to maintain the chains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintain {
    /// Only tell what is due.
    #[serde(default)]
    pub dry_run: bool,
    /// Try at once what failed a moment ago.
    #[serde(default)]
    pub afresh: bool,
}

/// How far the change log is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The log is whole above this revision.
    #[serde(with = "number")]
    pub compacted: u64,
}
