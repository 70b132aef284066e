//! The closed list of error codes: what a machine reads where a person reads the message.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $retry:literal, $exit:literal;)*) => {
        /// A stable error code: the same in the library, over HTTP and on the command line.
        ///
        /// The list is closed and each row is complete: a new code does not compile without its status and exit code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Lists every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// Returns the code as it stands on the wire.
            pub const fn as_str(self) -> &'static str { match self { $(Code::$name => $text,)* } }

            /// Returns the HTTP status of a problem with this code.
            ///
            /// [`Code::VersionConflict`] and [`Code::AlreadyExists`] are 412 instead when the request carried the condition in a
            /// header; the server knows that, this table does not.
            pub const fn status(self) -> u16 { match self { $(Code::$name => $status,)* } }

            /// Tells whether this very request, sent again later, may succeed.
            pub const fn retryable(self) -> bool { match self { $(Code::$name => $retry,)* } }

            /// Returns the exit code of a command that ends with this code.
            pub const fn exit(self) -> u8 { match self { $(Code::$name => $exit,)* } }
        }
    };
}

codes! {
    /// The request breaks a rule that its message names.
    InvalidRequest = "invalid_request", 400, false, 2;
    /// A key, name, namespace or chain is malformed.
    InvalidKey = "invalid_key", 400, false, 2;
    /// A cursor or resume position is damaged or belongs to another query.
    InvalidCursor = "invalid_cursor", 400, false, 2;
    /// No valid credential came with the request.
    Unauthenticated = "unauthenticated", 401, false, 9;
    /// The credential does not allow this.
    Forbidden = "forbidden", 403, false, 9;
    /// No such object, entry or route.
    NotFound = "not_found", 404, false, 4;
    /// Nothing is cached, and the caller holds the fill lease (or asked for none).
    CacheMiss = "cache_miss", 404, false, 4;
    /// The cache remembers that the source has no such row.
    Absent = "absent", 404, false, 4;
    /// A write guard keeps the key from being filled.
    Guarded = "guarded", 404, false, 4;
    /// The route exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", 405, false, 2;
    /// No representation that the caller accepts.
    NotAcceptable = "not_acceptable", 406, false, 2;
    /// The body's type or encoding is not taken here.
    UnsupportedMediaType = "unsupported_media_type", 415, false, 2;
    /// The request names a host that this server does not serve.
    Misdirected = "misdirected", 421, false, 2;
    /// The engine cannot keep this promise, or the part is not built.
    Unsupported = "unsupported", 501, false, 2;
    /// The body is longer than its limit.
    PayloadTooLarge = "payload_too_large", 413, false, 2;
    /// The path or query is longer than its limit.
    UriTooLong = "uri_too_long", 414, false, 2;
    /// The head is longer than its limit.
    HeadersTooLarge = "headers_too_large", 431, false, 2;
    /// A write came without a condition.
    PreconditionRequired = "precondition_required", 428, false, 2;
    /// The request id was used before with other content.
    RequestIdReused = "request_id_reused", 422, false, 3;
    /// The caller's own validator refused the candidate.
    ValidationFailed = "validation_failed", 422, false, 1;
    /// Another holder has the lock.
    ResourceLocked = "resource_locked", 409, true, 5;
    /// The object is not at the expected version.
    VersionConflict = "version_conflict", 409, false, 3;
    /// The object exists already.
    AlreadyExists = "already_exists", 409, false, 3;
    /// A newer fencing token was seen.
    Fenced = "fenced", 409, false, 6;
    /// The lease has ended or belongs to somebody else.
    LeaseLost = "lease_lost", 409, false, 6;
    /// The thing is not in a state that allows this.
    StateConflict = "state_conflict", 409, false, 3;
    /// The position is compacted, of another epoch or in the future: list again.
    CursorCompacted = "cursor_compacted", 410, false, 4;
    /// This caller's own bound is reached.
    RateLimited = "rate_limited", 429, true, 5;
    /// A bound of the library, the engine or the process is reached.
    Overloaded = "overloaded", 503, true, 5;
    /// The request's head or body came too slowly.
    RequestTimeout = "request_timeout", 408, true, 8;
    /// The engine is away; the request was surely not applied.
    Unavailable = "unavailable", 503, true, 8;
    /// The server is shutting down.
    Draining = "draining", 503, true, 8;
    /// Locking is switched off.
    LockingOff = "locking_off", 503, true, 8;
    /// The deadline passed during a read.
    DeadlineExceeded = "deadline_exceeded", 504, true, 8;
    /// The write may or may not have been applied; ask again with the same request id.
    OutcomeUnknown = "outcome_unknown", 504, true, 8;
    /// Something of ours is broken.
    Internal = "internal", 500, false, 1;
    /// Stored data contradict themselves.
    IntegrityFailure = "integrity_failure", 500, false, 1;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not a code of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownCode;

impl fmt::Display for UnknownCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown error code")
    }
}

impl std::error::Error for UnknownCode {}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Code::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_itself_in_text_and_json() {
        for &code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert!((400..600).contains(&code.status()));
        }
    }
}
