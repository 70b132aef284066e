//! Refusals on the wire: problem+json (RFC 9457).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::objects::Imported;
use crate::{Code, number};

/// Whether a refused request may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Surely nothing was applied.
    NotApplied,
    /// It may have been applied: ask again with the same request id.
    Unknown,
}

/// The body of every refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:onward:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What a machine reads.
    pub code: Code,
    /// What a person reads.
    pub detail: String,
    /// Whether this very request, sent again, may succeed.
    pub retryable: bool,
    /// Whether something may have changed.
    pub effect: Effect,
    /// The id of the request; after `unknown` send the request again with it.
    pub request_id: String,
    /// When a retry may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Why a race was lost: `stale`, `exists`, `missing`, `guard`; or why a cursor is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The current object, null when it is gone; present when a race was lost.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub current: Option<Box<RawValue>>,
    /// Everything that lost, where a commit has several writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Loser>,
    /// The members that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Member>,
    /// How long the other lease can still run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for_ms: Option<u64>,
    /// How many callers of this process wait for the lock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiters: Option<u64>,
    /// The newest fencing token that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub newest_token: Option<u64>,
    /// What an import had done before it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// The limit that was passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// The oldest revision from which a watch can start.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub oldest: Option<u64>,
    /// The newest revision.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub newest: Option<u64>,
    /// The epoch of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
}

impl Problem {
    /// Makes a problem of a code, with its status, its title and effect `not_applied`.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:onward:problem:{code}"),
            title: code.as_str().replace('_', " "),
            status: code.status(),
            code,
            detail: detail.into(),
            retryable: code.retryable(),
            effect: Effect::NotApplied,
            request_id: String::new(),
            retry_after_ms: None,
            reason: None,
            current: None,
            conflicts: Vec::new(),
            errors: Vec::new(),
            held_for_ms: None,
            waiters: None,
            newest_token: None,
            imported: None,
            limit_bytes: None,
            oldest: None,
            newest: None,
            epoch: None,
        }
    }
}

/// One write or guard that lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loser {
    /// Its place in `writes`, or in `guards` if the reason is `guard`.
    pub index: usize,
    /// Why, as a code.
    pub code: Code,
    /// Why, in a word.
    pub reason: String,
    /// The current version; null when the object is gone.
    #[serde(with = "number::optional")]
    pub version: Option<u64>,
    /// The current object; null when it is gone, or left out to keep the answer small.
    pub current: Option<Box<RawValue>>,
}

/// One member that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where it stands, as a JSON pointer.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gone_object_is_null_and_no_object_is_absent() {
        let mut problem = Problem::new(Code::VersionConflict, "lost");
        assert!(!serde_json::to_string(&problem).unwrap().contains("current"));
        problem.current = Some(RawValue::NULL.to_owned());
        let text = serde_json::to_string(&problem).unwrap();
        assert!(text.contains(r#""current":null"#));
        assert_eq!(serde_json::from_str::<Problem>(&text).unwrap().current.unwrap().get(), "null");
    }
}
