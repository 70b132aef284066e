//! Refusals: every answer that is not a success leaves as problem+json.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use onward::commit::{Conflict, Reason};
use onward::{Code, Effect, Error};
use onward_api::{Loser, Member, Problem};
use serde_json::value::RawValue;

use crate::auth::Role;
use crate::ops::objects::envelope;

/// What an operation answers.
pub(crate) type Answer = Result<Response, Refusal>;

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: Box<Problem>,
    /// The connection ends with this answer: what follows on it was not read.
    pub(crate) close: bool,
    /// What the library said; the log shows its causes.
    pub(crate) cause: Option<Error>,
    /// The role that the caller lacks.
    pub(crate) needed: Option<Role>,
    /// Headers beside the usual ones.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// Refuses with a code.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail)), close: false, cause: None, needed: None, headers: Vec::new() }
    }

    /// Refuses a member of the request.
    pub(crate) fn member(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut refusal = Self::new(Code::InvalidRequest, message.clone());
        refusal.problem.errors.push(Member { pointer: pointer.into(), message });
        refusal
    }

    /// Refuses a header.
    pub(crate) fn header(name: &str, message: &str) -> Self {
        Self::new(Code::InvalidRequest, format!("header {name}: {message}"))
    }

    /// Refuses a body above its limit; the rest of it is not read.
    pub(crate) fn too_large(limit: usize) -> Self {
        let mut refusal = Self::new(Code::PayloadTooLarge, format!("the body is at most {limit} bytes")).closing();
        refusal.problem.limit_bytes = u64::try_from(limit).ok();
        refusal
    }

    /// Ends the connection too.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Says that the write may have been applied.
    pub(crate) fn unknown() -> Self {
        let mut refusal = Self::new(Code::OutcomeUnknown, "the deadline passed; send the request again with this request id");
        refusal.problem.effect = onward_api::Effect::Unknown;
        refusal
    }

    /// Puts the place of the refused part in front of the pointer that the library gave.
    pub(crate) fn under(mut self, pointer: &str) -> Self {
        if self.problem.errors.is_empty() {
            let message = self.problem.detail.clone();
            self.problem.errors.push(Member { pointer: pointer.to_owned(), message });
        } else {
            for member in &mut self.problem.errors {
                member.pointer.insert_str(0, pointer);
            }
        }
        self
    }

    /// Refuses a single write that lost its race. With the condition in a header the status is 412.
    pub(crate) fn lost(conflict: &Conflict, in_header: bool) -> Self {
        let mut refusal = Self::new(lost_code(conflict.reason), lost_text(conflict.reason));
        if in_header {
            refusal.problem.status = StatusCode::PRECONDITION_FAILED.as_u16();
        }
        refusal.problem.reason = Some(lost_word(conflict.reason).to_owned());
        refusal.problem.current = Some(current(conflict));
        refusal
    }

    /// Refuses a commit of which at least one write or guard lost its race.
    pub(crate) fn conflicts(conflicts: &[Conflict]) -> Self {
        let mut refusal = match conflicts.first() {
            Some(first) => Self::lost(first, false),
            None => Self::new(Code::Internal, "a conflict without a loser"),
        };
        let loser = |conflict: &Conflict| Loser {
            index: conflict.index,
            code: lost_code(conflict.reason),
            reason: lost_word(conflict.reason).to_owned(),
            version: conflict.version.map(onward::model::Version::get),
            current: Some(current(conflict)),
        };
        refusal.problem.conflicts = conflicts.iter().map(loser).collect();
        refusal
    }

    /// Spells the answer.
    pub(crate) fn into_response(mut self, request_id: &str) -> Response {
        let problem = &mut self.problem;
        request_id.clone_into(&mut problem.request_id);
        if problem.retryable && problem.retry_after_ms.is_none() {
            problem.retry_after_ms = Some(1_000);
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = problem.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.div_ceil(1_000).clamp(1, 60)));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(onward_api::header::REQUEST_ID, id);
        }
        headers.extend(self.headers);
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let mut refusal = Self::new(error.code(), error.message());
        let problem = &mut refusal.problem;
        if error.effect() == Effect::Unknown {
            problem.effect = onward_api::Effect::Unknown;
        }
        problem.retry_after_ms = error.retry_after().map(millis);
        problem.held_for_ms = error.held_for().map(millis);
        problem.waiters = error.waiters();
        problem.newest_token = error.newest_token().map(onward::model::FencingToken::get);
        if let Some(pointer) = error.pointer() {
            problem.errors.push(Member { pointer: pointer.to_owned(), message: error.message().to_owned() });
        }
        if let Some(object) = error.current() {
            problem.current = Some(raw(&envelope(object, true)));
        }
        refusal.cause = Some(error);
        refusal
    }
}

/// Whole milliseconds, rounded up.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

fn current(conflict: &Conflict) -> Box<RawValue> {
    match &conflict.current {
        Some(object) => raw(&envelope(object, true)),
        None => RawValue::NULL.to_owned(),
    }
}

fn raw<T: serde::Serialize>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn lost_code(reason: Reason) -> Code {
    match reason {
        Reason::Exists => Code::AlreadyExists,
        Reason::Stale | Reason::Missing | Reason::Guard | Reason::Compare => Code::VersionConflict,
    }
}

fn lost_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Stale => "stale",
        Reason::Exists => "exists",
        Reason::Missing => "missing",
        Reason::Guard => "guard",
        Reason::Compare => "compare",
    }
}

fn lost_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Stale => "the object is at another version",
        Reason::Exists => "the object exists already",
        Reason::Missing => "the object does not exist",
        Reason::Guard => "a guard did not hold",
        Reason::Compare => "a compare of the patch did not hold",
    }
}
