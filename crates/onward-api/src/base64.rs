//! Base64 with the standard alphabet for members, and with the URL alphabet for keys in paths.

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes bytes with the standard alphabet, padded.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = spell(bytes, STANDARD);
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    out
}

/// Reads the standard alphabet, padded; `None` for anything else.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let bare = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    read(bare, STANDARD)
}

/// Writes bytes with the URL alphabet, not padded.
pub fn encode_url(bytes: &[u8]) -> String {
    spell(bytes, URL)
}

/// Reads the URL alphabet, not padded; `None` for anything else.
pub fn decode_url(text: &str) -> Option<Vec<u8>> {
    read(text, URL)
}

fn spell(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            let index = (bits >> (18 - 6 * place)) & 63;
            out.extend(alphabet.get(index as usize).map(|byte| char::from(*byte)));
        }
    }
    out
}

fn read(text: &str, alphabet: &[u8; 64]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            bits = bits << 6 | value(*byte, alphabet)?;
        }
        let bytes = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        let spare = 6 * group.len() - 8 * bytes;
        // Bits that stand for nothing must be zero, or two texts would be one key.
        if bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        let whole = bits >> spare;
        out.extend((0..bytes).rev().map(|place| (whole >> (8 * place)) as u8));
    }
    Some(out)
}

fn value(byte: u8, alphabet: &[u8; 64]) -> Option<u32> {
    let index = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        _ if byte == alphabet[62] => 62,
        _ if byte == alphabet[63] => 63,
        _ => return None,
    };
    Some(u32::from(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648_read_back() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
            assert_eq!(decode_url(text.trim_end_matches('=')).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn each_value_has_one_text() {
        for text in ["Zh==", "Zg=", "Zg", "Z", "Zm9=", "Zg==Zg==", "Zm 9", "Zm9v="] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode_url("Zh"), None);
    }
}
