//! What went wrong, in the words of the API.

use std::fmt;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Answer;
use crate::Code;

/// Whether a failed request may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Surely not.
    NotApplied,
    /// Nobody knows yet.
    Unknown,
}

impl Effect {
    /// The effect of a request that left and was not answered: a read has none.
    pub(super) const fn after_send(write: bool) -> Self {
        if write { Self::Unknown } else { Self::NotApplied }
    }
}

/// A refused or failed request: the members of `application/problem+json`, typed.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    effect: Effect,
    status: u16,
    detail: String,
    headers: HeaderMap,
    members: serde_json::Map<String, Value>,
}

impl Problem {
    /// Makes a problem that this side found.
    pub fn of(code: Code, effect: Effect, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut members = serde_json::Map::new();
        for (name, value) in [
            ("type", Value::from(format!("urn:onward:problem:{code}"))),
            ("title", Value::from(code.as_str().replace('_', " "))),
            ("status", Value::from(code.status())),
            ("code", Value::from(code.as_str())),
            ("detail", Value::from(detail.as_str())),
            ("retryable", Value::from(code.retryable())),
            ("effect", Value::from(if effect == Effect::Unknown { "unknown" } else { "not_applied" })),
        ] {
            members.insert(name.to_owned(), value);
        }
        Self(Box::new(Inner { code, effect, status: code.status(), detail, headers: HeaderMap::new(), members }))
    }

    /// Reads a refusal. What is not a problem document, such as a proxy's page, is judged by its status alone.
    pub(super) fn read(answer: Answer, write: bool) -> Self {
        #[derive(Deserialize)]
        struct Known {
            code: Code,
            #[serde(default)]
            detail: Option<String>,
            #[serde(default)]
            title: Option<String>,
            effect: Effect,
        }
        let status = answer.status;
        let known = serde_json::from_slice::<Known>(&answer.body);
        let members = serde_json::from_slice::<serde_json::Map<String, Value>>(&answer.body);
        let (Ok(known), Ok(members)) = (known, members) else {
            let (code, effect) = by_status(status, write);
            let mut problem = Self::of(code, effect, format!("the server answered {status} without saying why"));
            problem.0.status = status.as_u16();
            problem.0.headers = answer.headers;
            return problem;
        };
        let detail = known.detail.or(known.title).unwrap_or_else(|| known.code.as_str().replace('_', " "));
        let Known { code, effect, .. } = known;
        Self(Box::new(Inner { code, effect, status: status.as_u16(), detail, headers: answer.headers, members }))
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Tells whether the request may have happened.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Returns the HTTP status, or the one that the code stands for.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Returns what a person reads.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Returns the id under which this very request may be sent again.
    pub fn request_id(&self) -> Option<&str> {
        self.member("request_id")?.as_str()
    }

    /// Returns how long to wait before another try.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.member("retry_after_ms")?.as_u64()
    }

    /// Returns the object as it stands now; null when it is gone.
    pub fn current(&self) -> Option<&Value> {
        self.member("current")
    }

    /// Returns a member of the document.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.0.members.get(name)
    }

    /// Returns a header of the answer as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name)?.to_str().ok()
    }

    /// Returns the whole document.
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.members.clone())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for Problem {}

fn by_status(status: StatusCode, write: bool) -> (Code, Effect) {
    match status.as_u16() {
        401 => (Code::Unauthenticated, Effect::NotApplied),
        403 => (Code::Forbidden, Effect::NotApplied),
        404 => (Code::NotFound, Effect::NotApplied),
        408 => (Code::RequestTimeout, Effect::NotApplied),
        413 => (Code::PayloadTooLarge, Effect::NotApplied),
        429 => (Code::RateLimited, Effect::NotApplied),
        400..=499 => (Code::InvalidRequest, Effect::NotApplied),
        501 => (Code::Unsupported, Effect::NotApplied),
        500..=599 if write => (Code::OutcomeUnknown, Effect::Unknown),
        502..=504 => (Code::Unavailable, Effect::NotApplied),
        _ => (Code::Internal, Effect::after_send(write)),
    }
}
