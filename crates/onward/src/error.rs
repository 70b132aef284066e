//! The one public error: few kinds, each an instruction to the caller.
//!
//! A lost race is not in here: it is an outcome, a value that carries the current state (C8).

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

pub use onward_api::Code;

use crate::model::{FencingToken, Object, RequestId};

/// The result of every fallible call of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Fix the call: it breaks a stated rule.
    Invalid,
    /// Nothing is there.
    NotFound,
    /// Read again: the state is not what the call was based on.
    Conflict,
    /// Come back later: another holder has it.
    Contended,
    /// Stop: the lease has ended or a newer holder exists.
    Lost,
    /// List again: the position is compacted, of another epoch or in the future.
    Expired,
    /// Back off: a bound is reached.
    Overloaded,
    /// The engine failed: look at [`Error::effect`].
    Backend,
    /// This engine cannot keep the promise; nothing weaker was done instead (C9).
    Unsupported,
}

/// Whether a failed call may have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Surely nothing was applied.
    NotApplied,
    /// It may have been applied: ask again with the same request id (or owner, or event id).
    Unknown,
}

/// An error of any part: its kind tells what to do, its code is what machines read.
///
/// Messages never contain keys, values or secrets.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    code: Code,
    effect: Effect,
    operation: &'static str,
    message: String,
    details: Details,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Debug, Default)]
struct Details {
    current: Option<Box<Object>>,
    retry_after: Option<Duration>,
    held_for: Option<Duration>,
    waiters: Option<u64>,
    newest_token: Option<FencingToken>,
    request_id: Option<RequestId>,
    pointer: Option<String>,
    tries: Option<u32>,
}

impl Error {
    /// Makes an error with effect `NotApplied`.
    pub fn new(kind: Kind, code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code,
            effect: Effect::NotApplied,
            operation: "",
            message: message.into(),
            details: Details::default(),
            source: None,
        }))
    }

    /// The input breaks a rule; the message names the field and the limit.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Code::InvalidRequest, message)
    }

    /// A key, name, namespace or chain is malformed.
    pub fn invalid_key(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Code::InvalidKey, message)
    }

    /// Nothing is there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, Code::NotFound, message)
    }

    /// A bound is reached; `retry_after` is a measured hint.
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Kind::Overloaded, Code::Overloaded, message).with_retry_after(retry_after)
    }

    /// The engine is away and surely applied nothing.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Backend, Code::Unavailable, message)
    }

    /// The engine failed after the request was sent.
    pub fn unknown(message: impl Into<String>) -> Self {
        let mut error = Self::new(Kind::Backend, Code::OutcomeUnknown, message);
        error.0.effect = Effect::Unknown;
        error
    }

    /// Stored data contradict themselves.
    pub fn integrity(message: impl Into<String>) -> Self {
        Self::new(Kind::Backend, Code::IntegrityFailure, message)
    }

    /// The engine cannot keep this promise (C9).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, Code::Unsupported, message)
    }

    /// What `?` shows of a fenced commit, where a value would be hidden.
    pub(crate) fn fenced(newest: FencingToken) -> Self {
        Self::new(Kind::Lost, Code::Fenced, "a newer holder of the lock was seen").with_newest_token(newest)
    }

    /// The same refusal for another caller of the same batch.
    pub(crate) fn again(&self) -> Self {
        let error = Self::new(self.kind(), self.code(), self.message()).during(self.operation());
        let error = match self.retry_after() {
            Some(after) => error.with_retry_after(after),
            None => error,
        };
        match self.effect() {
            Effect::Unknown => error.with_unknown_effect(),
            Effect::NotApplied => error,
        }
    }

    /// Returns what the caller should do.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns the stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Returns whether something may have been applied.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Returns the operation that failed, such as `commit`; empty if it was refused before one began.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the message without its source; lower case, no full stop.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the current object, where a lost race showed one (C8).
    pub fn current(&self) -> Option<&Object> {
        self.0.details.current.as_deref()
    }

    /// Returns when a retry may succeed.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.details.retry_after
    }

    /// Returns how long the other lease can still run, if its end is known.
    pub fn held_for(&self) -> Option<Duration> {
        self.0.details.held_for
    }

    /// Returns how many callers of this process wait for the key.
    pub fn waiters(&self) -> Option<u64> {
        self.0.details.waiters
    }

    /// Returns the newest fencing token that was seen.
    pub fn newest_token(&self) -> Option<FencingToken> {
        self.0.details.newest_token
    }

    /// Returns the request id to ask with after `Effect::Unknown`.
    pub fn request_id(&self) -> Option<&RequestId> {
        self.0.details.request_id.as_ref()
    }

    /// Returns the JSON pointer of the refused member.
    pub fn pointer(&self) -> Option<&str> {
        self.0.details.pointer.as_deref()
    }

    /// Returns how many tries were spent.
    pub fn tries(&self) -> Option<u32> {
        self.0.details.tries
    }

    /// Adds the operation.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Sets the effect to `Unknown`: the request had been sent.
    #[must_use]
    pub fn with_unknown_effect(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the current object.
    #[must_use]
    pub fn with_current(mut self, current: Option<Object>) -> Self {
        self.0.details.current = current.map(Box::new);
        self
    }

    /// Adds a hint when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.details.retry_after = Some(after);
        self
    }

    /// Adds how long the other lease can still run.
    #[must_use]
    pub fn with_held_for(mut self, held_for: Option<Duration>) -> Self {
        self.0.details.held_for = held_for;
        self
    }

    /// Adds the number of waiters.
    #[must_use]
    pub fn with_waiters(mut self, waiters: u64) -> Self {
        self.0.details.waiters = Some(waiters);
        self
    }

    /// Adds the newest token seen.
    #[must_use]
    pub fn with_newest_token(mut self, token: FencingToken) -> Self {
        self.0.details.newest_token = Some(token);
        self
    }

    /// Adds the request id to ask with.
    #[must_use]
    pub fn with_request_id(mut self, id: RequestId) -> Self {
        self.0.details.request_id = Some(id);
        self
    }

    /// Adds the JSON pointer of the refused member.
    #[must_use]
    pub fn with_pointer(mut self, pointer: impl Into<String>) -> Self {
        self.0.details.pointer = Some(pointer.into());
        self
    }

    /// Adds how many tries were spent.
    #[must_use]
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.0.details.tries = Some(tries);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.operation.is_empty() {
            write!(f, "{}: ", self.0.operation)?;
        }
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A caller's closure or validator said no; made from any error, so that `?` works in it.
#[derive(Debug)]
pub struct Refusal(Box<dyn StdError + Send + Sync>);

impl Refusal {
    /// Refuses with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    pub(crate) fn into_error(self) -> Error {
        Error::new(Kind::Invalid, Code::ValidationFailed, self.0.to_string()).with_source(self.0)
    }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}
