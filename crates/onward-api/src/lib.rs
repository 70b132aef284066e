//! The wire of Onward: the closed list of error codes and the JSON types that server, command line and clients share.
//!
//! No rules live here, only spelling: each code has one HTTP status, one exit code and one answer to "may this very request be sent
//! again?", so that no two surfaces can disagree. A type that is read from a request refuses unknown members; one that is read from an
//! answer skips them, so that an old client understands a new server.

pub mod admin;
pub mod base64;
pub mod cache;
pub mod chains;
#[cfg(feature = "client")]
pub mod client;
mod code;
pub mod commit;
mod depth;
pub mod info;
mod labels;
pub mod locks;
pub mod number;
pub mod objects;
pub mod path;
mod problem;
pub mod tokens;

pub use code::Code;
pub use depth::json_depth;
pub use labels::{Labels, Ttl};
pub use problem::{Effect, Loser, Member, Problem};

/// The OpenAPI description of the HTTP surface, as the server serves it.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// The names of our own headers, in lower case.
pub mod header {
    /// The id that makes a repeated request happen once.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// In an answer: the request id that was used.
    pub const REQUEST_ID: &str = "onward-request-id";
    /// In an answer: the revision of what is answered.
    pub const REVISION: &str = "onward-revision";
    /// In an answer: the epoch of the store.
    pub const EPOCH: &str = "onward-epoch";
    /// `TOKEN LOCK-KEY`, the key percent-encoded; may be repeated.
    pub const FENCE: &str = "onward-fence";
    /// How long the request may take, in milliseconds.
    pub const TIMEOUT_MS: &str = "onward-timeout-ms";
    /// The owner of a lock: 32 hex digits.
    pub const OWNER: &str = "onward-owner";
    /// A fill lease of the cache.
    pub const FILL: &str = "onward-fill";
    /// In an answer: the life of a fill lease, in milliseconds.
    pub const FILL_TTL_MS: &str = "onward-fill-ttl-ms";
    /// `KEY=VALUE`, percent-encoded: a label of the object; may be repeated.
    pub const LABEL: &str = "onward-label";
    /// `set` (the labels are these and no others) or `merge` (these are laid over those that are there).
    pub const LABELS: &str = "onward-labels";
    /// The life of a cached value or of an object, in milliseconds; of an object also `never`.
    pub const TTL_MS: &str = "onward-ttl-ms";
    /// `true`: the source has no such row.
    pub const NEGATIVE: &str = "onward-negative";
    /// Why an operator does something: percent-encoded UTF-8.
    pub const REASON: &str = "onward-reason";
    /// For how long after its life a cached value is kept as stale, in milliseconds.
    pub const STALE_MS: &str = "onward-stale-ms";
    /// In an answer: `true` if the cached value's life is over.
    pub const STALE: &str = "onward-stale";
}

/// The content type of an object with everything that is known about it.
pub const OBJECT_TYPE: &str = "application/vnd.onward.object+json";

/// The content type of an import and an export: a JSON document a line.
pub const NDJSON_TYPE: &str = "application/x-ndjson";

/// The content type of a backup.
pub const BACKUP_TYPE: &str = "application/vnd.sqlite3";

/// The content type of a merge patch (RFC 7396).
pub const MERGE_TYPE: &str = "application/merge-patch+json";

/// The content type of a patch in steps: `set`, `add`, `append`, `remove`, `compare`.
pub const PATCH_TYPE: &str = "application/vnd.onward.patch+json";

/// Reads a JSON null as a value that is there, where an absent member is none.
pub(crate) fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<serde_json::value::RawValue>>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}
