//! The only place that draws random numbers.

use uuid::Uuid;

use crate::time::Clock;

/// Returns `N` bytes from the operating system's generator.
///
/// A machine without a working generator cannot make secrets: the process ends rather than hand out guessable ones.
#[allow(clippy::disallowed_methods, reason = "the one place that draws random numbers")]
pub fn bytes<const N: usize>() -> [u8; N] {
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
pub fn uuid_v7(clock: &Clock) -> Uuid {
    let millis = u64::try_from(clock.wall().as_micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes()).into_uuid()
}

/// Returns a random UUID.
pub(crate) fn uuid_v4() -> Uuid {
    uuid::Builder::from_random_bytes(secret()).into_uuid()
}

/// How many random bytes one call to the operating system fetches ahead for [`secret`].
const AHEAD: usize = 1_024;

struct Pool {
    bytes: [u8; AHEAD],
    used: usize,
}

thread_local! {
    static POOL: std::cell::RefCell<Pool> = const { std::cell::RefCell::new(Pool { bytes: [0; AHEAD], used: AHEAD }) };
}

/// Returns 16 secret bytes, as unguessable as [`bytes`] and cheaper: fetched ahead in blocks, each byte handed out once and wiped.
pub(crate) fn secret() -> [u8; 16] {
    let drawn = POOL.try_with(|pool| {
        let mut pool = pool.try_borrow_mut().ok()?;
        if pool.used + 16 > AHEAD {
            pool.bytes = bytes();
            pool.used = 0;
        }
        let at = pool.used;
        pool.used += 16;
        let chunk = pool.bytes.get_mut(at..at + 16)?;
        let mut out = [0; 16];
        out.copy_from_slice(chunk);
        chunk.fill(0);
        Some(out)
    });
    // A thread that is ending has no pool any more.
    drawn.ok().flatten().unwrap_or_else(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_secret_is_handed_out_twice() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..10_000).all(|_| seen.insert(super::secret())));
        assert!(!seen.contains(&[0; 16]));
    }
}
