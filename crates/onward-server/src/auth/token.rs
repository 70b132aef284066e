//! Bearer tokens: `onw_<id>_<secret>_<crc>`.
//!
//! The id names the token to people, the secret (256 bits) proves it, the CRC-32 catches typos and lets scanners find leaked ones. A
//! server keeps the SHA-256 of the whole only.

use std::fmt;
use std::str::FromStr;

use onward::random;
use sha2::{Digest, Sha256};

const ID: usize = 12;
const SECRET: usize = 43;

/// A secret that a caller shows with each request. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAToken;

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token is onw_, 12 and 43 letters or digits, and a checksum that fits")
    }
}

impl std::error::Error for NotAToken {}

impl Token {
    /// Draws a new token that nobody can guess.
    pub fn draw() -> Self {
        let body = format!("onw_{}_{}", base62(ID), base62(SECRET));
        let crc = crc32(body.as_bytes());
        Self(format!("{body}_{crc:08x}"))
    }

    /// Returns the part that names it and is no secret.
    pub fn id(&self) -> &str {
        self.0.split('_').nth(1).unwrap_or_default()
    }

    /// Returns the SHA-256 of the whole text in hex: what a server keeps of it.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.0))
    }

    /// Returns the whole text; show it once and keep it nowhere.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (body, crc) = text.rsplit_once('_').ok_or(NotAToken)?;
        let parts: Vec<&str> = body.split('_').collect();
        let word = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let shaped = matches!(parts[..], ["onw", id, secret] if word(id, ID) && word(secret, SECRET));
        if shaped && crc == format!("{:08x}", crc32(body.as_bytes())) { Ok(Self(text.to_owned())) } else { Err(NotAToken) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Returns `len` characters of base62, each as likely as any other.
fn base62(len: usize) -> String {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut out = String::with_capacity(len);
    while out.len() < len {
        // 248 is the greatest multiple of 62 in a byte: what is above would favour the first characters.
        let fair = random::bytes::<64>().into_iter().filter(|byte| *byte < 248);
        out.extend(fair.filter_map(|byte| ALPHABET.get(usize::from(byte % 62)).map(|b| char::from(*b))).take(len - out.len()));
    }
    out
}

/// The CRC-32 of zip and Ethernet, bit by bit: a token is short and made once.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_typo_does_not() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let token = Token::draw();
        assert_eq!(token.secret().len(), 4 + 12 + 1 + 43 + 1 + 8);
        assert_eq!(token.secret().parse(), Ok(token.clone()));
        assert_eq!((token.id().len(), token.sha256().len()), (12, 64));
        assert!(token.secret().starts_with(&format!("onw_{}_", token.id())));
        let typo = token.secret().replacen(token.secret().chars().nth(6).unwrap(), "-", 1);
        assert_eq!(typo.parse::<Token>(), Err(NotAToken));
        assert_eq!("onw_a_b_c".parse::<Token>(), Err(NotAToken));
    }
}
