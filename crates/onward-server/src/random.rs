//! The only place of this crate that draws random numbers.

use onward::time::Clock;

/// Returns `N` bytes from the operating system's generator.
///
/// A machine without a working generator cannot make secrets: the process ends rather than hand out guessable ones.
#[allow(clippy::disallowed_methods, reason = "the one place of this crate that draws random numbers")]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    if getrandom::fill(&mut out).is_err() {
        std::process::abort();
    }
    out
}

/// Returns `len` characters of base62, each as likely as any other.
pub(crate) fn base62(len: usize) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut out = String::with_capacity(len);
    while out.len() < len {
        // 248 is the greatest multiple of 62 in a byte: what is above would favour the first characters.
        let fair = bytes::<64>().into_iter().filter(|byte| *byte < 248);
        out.extend(fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)).map(|b| char::from(*b))).take(len - out.len()));
    }
    out
}

/// Returns a new request id: a UUIDv7.
pub(crate) fn request_id() -> String {
    let millis = u64::try_from(Clock::system().wall().as_micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes()).into_uuid().to_string()
}
