//! How keys stand in a path, and the two base64 alphabets of the wire.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes a key as the rest of a path.
///
/// Plain keys stand as they are. Every other key, also one with an empty, `.` or `..` segment, which proxies rewrite, takes the total
/// form: `~` and the base64url of the whole key.
pub fn key_path(key: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._:@=+,/-".contains(b);
    let sound = |segment: &[u8]| !matches!(segment, b"" | b"." | b"..");
    match std::str::from_utf8(key) {
        Ok(text) if key.iter().all(plain) && key.split(|b| *b == b'/').all(sound) => text.to_owned(),
        _ => format!("~{}", base64_url(key)),
    }
}

/// Writes one segment of a path, such as a kind, a namespace or a chain.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// Writes bytes in the standard base64 alphabet, padded.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = encode(bytes, STANDARD);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Writes bytes in the base64url alphabet, without padding.
pub fn base64_url(bytes: &[u8]) -> String {
    encode(bytes, URL_SAFE)
}

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().chain([0, 0].iter()).take(3).fold(0_u32, |group, b| group << 8 | u32::from(*b));
        for place in 0..=chunk.len() {
            let six = (group >> (18 - 6 * place)) as usize & 63;
            text.push(char::from(alphabet.get(six).copied().unwrap_or(b'=')));
        }
    }
    text
}
