//! What a server says about itself.

use serde::{Deserialize, Serialize};

/// The server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The version of the program.
    pub version: String,
    /// The epoch of the store.
    pub epoch: String,
    /// Stated limits.
    pub limits: Limits,
    /// The engine of each part.
    pub engines: Vec<Engine>,
}

/// Stated limits; sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest lock or cache key.
    pub key_bytes: usize,
    /// Longest object name.
    pub name_bytes: usize,
    /// Longest payload.
    pub payload_bytes: usize,
    /// Longest body of a commit.
    pub commit_bytes: usize,
    /// Most writes, guards and entries of a commit, each.
    pub commit_writes: usize,
    /// Most fences of a commit.
    pub commit_fences: usize,
    /// Most cache keys that a commit invalidates.
    pub commit_invalidations: usize,
    /// Longest page.
    pub page_items: usize,
    /// Longest wait of one call.
    pub wait_ms: u64,
}

/// The engine of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// `store`, `audit`, `locks` or `cache`.
    pub part: String,
    /// Such as `sqlite`.
    pub kind: String,
    /// `ok` or `away`.
    pub state: String,
}

/// What the engine found about itself and what it stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// One a check.
    pub findings: Vec<Finding>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, and will hurt one day.
    Warn,
    /// A promise is not kept, or will not be soon.
    Fail,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about, such as `sqlite.journal`.
    pub check: String,
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it, unless it is fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}
