//! The only place that draws random numbers.

use uuid::Uuid;

use crate::time::Clock;

/// Returns `N` bytes from the operating system's generator.
///
/// A machine without a working generator cannot make secrets: the process ends rather than hand out guessable ones.
#[allow(clippy::disallowed_methods, reason = "the one place that draws random numbers")]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    if getrandom::fill(&mut out).is_err() {
        std::process::abort();
    }
    out
}

/// Returns a random number below `bound`, zero for an empty range; for jitter, not for secrets.
pub(crate) fn below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { u64::from_le_bytes(bytes()) % bound }
}

/// Returns a UUIDv7: ordered by the clock's time, otherwise random.
pub(crate) fn uuid_v7(clock: &Clock) -> Uuid {
    let millis = u64::try_from(clock.wall().as_micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes()).into_uuid()
}

/// Returns a random UUID.
pub(crate) fn uuid_v4() -> Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}
