//! Every stated limit in one place (C10). Sizes are bytes.

use std::time::Duration;

/// Longest lock or cache key, and longest cache field name.
pub const KEY_BYTES: usize = 512;
/// Longest object name.
pub const NAME_BYTES: usize = 384;
/// Longest namespace, kind or chain name.
pub const WORD_BYTES: usize = 64;
/// Longest object payload and longest data of an audit entry.
pub const PAYLOAD_BYTES: usize = 1 << 20;
/// Longest personal data of an audit entry.
pub const PERSONAL_BYTES: usize = 64 << 10;
/// Longest name of whom personal data are about.
pub const SUBJECT_BYTES: usize = 256;
/// Longest content type.
pub const CONTENT_TYPE_BYTES: usize = 127;
/// Most writes, and most guards, and most audit entries of one commit.
pub const COMMIT_WRITES: usize = 128;
/// Most fences of one commit.
pub const COMMIT_FENCES: usize = 16;
/// Most cache keys that one commit invalidates.
pub const COMMIT_INVALIDATIONS: usize = 256;
/// Longest commit, all payloads and entries together.
pub const COMMIT_BYTES: usize = 8 << 20;
/// Longest sum of current objects that a refusal shows.
pub const CONFLICT_BYTES: usize = 4 << 20;
/// Most steps of one patch.
pub const PATCH_STEPS: usize = 128;
/// Longest JSON pointer of a patch.
pub const POINTER_BYTES: usize = 1_024;
/// Longest request id.
pub const REQUEST_ID_BYTES: usize = 128;
/// Greatest version, revision, token or seq that is read from outside.
pub const NUMBER_MAX: u64 = (1 << 63) - 1;
/// Greatest seq of a chain (2^53 - 1), exact in every JSON reader.
pub const SEQ_MAX: u64 = (1 << 53) - 1;
/// Longest page of a list or a query, in items.
pub const PAGE_ITEMS: usize = 1_000;
/// Longest page in bytes of payload.
pub const PAGE_BYTES: usize = 8 << 20;
/// Most labels of one object.
pub const LABELS: usize = 32;
/// Longest key of a label.
pub const LABEL_KEY_BYTES: usize = 64;
/// Longest value of a label.
pub const LABEL_VALUE_BYTES: usize = 256;
/// Most terms of a selector.
pub const SELECTOR_TERMS: usize = 16;
/// Most values that a term of a selector names.
pub const SELECTOR_VALUES: usize = 100;
/// Shortest time to live of an object.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest time to live of an object: ten years.
pub const TTL_MAX: Duration = Duration::from_secs(3_653 * 24 * 3_600);
/// Greatest depth of JSON that is stored as an object.
pub const JSON_DEPTH: usize = 128;
/// Shortest time that a caller may set for a write to wait.
pub const WAIT_MIN: Duration = Duration::from_millis(1);
/// Longest time that a caller may set for a write to wait.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long the answer to a caller's request id is kept.
pub const REQUEST_WINDOW_US: i64 = 24 * 3_600 * 1_000_000;
/// How long the answer to an id is kept that a server or client made by itself: above the longest deadline.
pub const OWN_REQUEST_WINDOW_US: i64 = 15 * 60 * 1_000_000;
/// How long an audit event id is kept.
pub const EVENT_WINDOW_US: i64 = 7 * 24 * 3_600 * 1_000_000;
/// How far a fencing token may be ahead of the engine's clock in microseconds: one year.
pub const TOKEN_AHEAD_US: u64 = 366 * 24 * 3_600 * 1_000_000;
