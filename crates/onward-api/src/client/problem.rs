//! What went wrong, with the headers that came with it.

use std::fmt;

use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;

use super::Answer;
use crate::{Code, Effect, Problem as Document};

/// A refused or failed request: a problem document of the server, or one that this side made.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    document: Document,
    headers: HeaderMap,
}

impl Problem {
    /// Makes a problem that this side found.
    pub fn of(code: Code, effect: Effect, detail: impl Into<String>) -> Self {
        let mut document = Document::new(code, detail);
        document.effect = effect;
        Self(Box::new(Inner { document, headers: HeaderMap::new() }))
    }

    /// Reads a refusal. What is not a problem document, such as a proxy's page, is judged by its status alone.
    pub(super) fn read(answer: Answer, write: bool) -> Self {
        let document = serde_json::from_slice::<Document>(&answer.body).unwrap_or_else(|_| {
            let (code, effect) = by_status(answer.status, write);
            let mut document = Document::new(code, format!("the server answered {} without saying why", answer.status));
            document.effect = effect;
            document.status = answer.status.as_u16();
            document
        });
        Self(Box::new(Inner { document, headers: answer.headers }))
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.0.document.code
    }

    /// Tells whether the request may have happened.
    pub fn effect(&self) -> Effect {
        self.0.document.effect
    }

    /// Returns the id under which this very request may be sent again.
    pub fn request_id(&self) -> Option<&str> {
        Some(self.0.document.request_id.as_str()).filter(|id| !id.is_empty())
    }

    /// Returns the object as it stands now; null when it is gone.
    pub fn current(&self) -> Option<&RawValue> {
        self.0.document.current.as_deref()
    }

    /// Returns the whole document.
    pub fn document(&self) -> &Document {
        &self.0.document
    }

    /// Returns a header of the answer as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.document.detail)
    }
}

impl std::error::Error for Problem {}

/// The effect of a request that left and was not answered: a read has none.
pub(super) const fn after_send(write: bool) -> Effect {
    if write { Effect::Unknown } else { Effect::NotApplied }
}

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
        _ => (Code::Internal, after_send(write)),
    }
}
