//! Keys in paths: the rest of a path is one key, decoded once and never folded.
//!
//! Clients and proxies rewrite empty, `.` and `..` segments, so a key that has one only travels in the total form: `~` and the base64url
//! of the whole key. That form takes any bytes.

use crate::base64;

/// Writes a key as the rest of a path: as it is where that is safe everywhere, else in the total form.
pub fn encode(key: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'=' | b'+' | b',' | b'/' | b'-');
    match std::str::from_utf8(key) {
        Ok(text) if key.iter().all(plain) && !text.split('/').any(unsafe_segment) => text.to_owned(),
        _ => format!("~{}", base64::encode_url(key)),
    }
}

/// Reads the rest of a path; `None` for a segment that is empty, `.` or `..`, bad percent-encoding, or a bad total form.
pub fn decode(rest: &str) -> Option<Vec<u8>> {
    let bytes = percent(rest)?;
    if let Some(total) = bytes.strip_prefix(b"~") {
        return base64::decode_url(std::str::from_utf8(total).ok()?);
    }
    let bad = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
    (!bytes.split(|b| *b == b'/').any(bad)).then_some(bytes)
}

/// Reads percent-encoding, once; `None` if a `%` is not followed by two hex digits.
pub fn percent(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push((high << 4 | low) as u8);
    }
    Some(out)
}

fn unsafe_segment(segment: &str) -> bool {
    matches!(segment, "" | "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_survives_its_path() {
        for key in ["a", "a/b", "~a", "../a", "a//b", "a b", "ä", "%2F", "a%", ".", "/", "a?b#c", "lock:main:eu-1:x:%2A"] {
            assert_eq!(decode(&encode(key.as_bytes())).as_deref(), Some(key.as_bytes()), "{key}");
        }
        assert_eq!(decode(&encode(&[0, 255])).unwrap(), [0, 255]);
        assert_eq!(encode(b"a/b"), "a/b");
    }

    #[test]
    fn a_path_is_decoded_once() {
        assert_eq!(decode("a%2Fb"), decode("a/b"));
        assert_eq!(decode("%252F").as_deref(), Some(&b"%2F"[..]));
        assert_eq!(decode("%7EYQ"), decode("~YQ"));
        assert_eq!(decode("~YQ").as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn segments_that_somebody_rewrites_are_refused() {
        for path in ["", "a/", "/a", "a//b", ".", "..", "a/../b", "a/%2e%2E/b", "a%2F..%2Fb", "%", "%4", "%zz", "~*", "~YR"] {
            assert_eq!(decode(path), None, "{path}");
        }
    }
}
