//! Bearer tokens: `onw_<id>_<secret>_<crc>`.
//!
//! The id finds the token, the secret (256 bits) proves it, the CRC-32 catches typos and lets scanners find leaked ones. A server keeps
//! the SHA-256 only and compares in constant time; an unknown id costs the same hash.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::sync::Arc;

use onward::random;
use sha2::{Digest, Sha256};

use super::caller::Known;
use super::role::Role;
use crate::config::ListedToken;

const ID: usize = 12;
const SECRET: usize = 43;
/// Longest text that is hashed at all.
const LONGEST: usize = 128;

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

/// The tokens that a server takes, as hashes.
#[derive(Debug)]
pub(crate) struct Tokens(Vec<(Arc<Known>, [u8; 32])>);

impl Tokens {
    /// Takes one token, which may do everything, under a name.
    pub(crate) fn one(name: &str, token: &Token) -> Self {
        let known = Known { name: name.to_owned(), role: Role::Admin };
        Self(vec![(Arc::new(known), Sha256::digest(token.secret()).into())])
    }

    /// Takes the tokens that a configuration lists.
    pub(crate) fn listed(tokens: &[ListedToken]) -> Self {
        let known = |token: &ListedToken| Arc::new(Known { name: token.name.clone(), role: token.role });
        Self(tokens.iter().map(|token| (known(token), token.sha256)).collect())
    }

    /// Returns the token that is presented; `None` for any other text, after the same work.
    pub(crate) fn find(&self, presented: &str) -> Option<Arc<Known>> {
        let bytes = presented.as_bytes();
        let hash: [u8; 32] = Sha256::digest(bytes.get(..LONGEST).unwrap_or(bytes)).into();
        let differs =
            |known: &[u8; 32]| hash.iter().zip(known).fold(bytes.len() > LONGEST, |differs, (a, b)| black_box(differs | (a != b)));
        // All of them, so that the time does not tell which.
        self.0.iter().fold(None, |found, (token, known)| if differs(known) { found } else { Some(token.clone()) })
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
        let typo = token.secret().replacen(token.secret().chars().nth(6).unwrap(), "-", 1);
        assert_eq!(typo.parse::<Token>(), Err(NotAToken));
        assert_eq!("onw_a_b_c".parse::<Token>(), Err(NotAToken));
    }

    #[test]
    fn only_the_token_itself_is_found() {
        let token = Token::draw();
        let tokens = Tokens::one("dev", &token);
        assert_eq!(tokens.find(token.secret()).unwrap().name, "dev");
        for other in ["", "onw_", &token.secret()[1..], &format!("{}x", token.secret()), Token::draw().secret(), &"x".repeat(9_000)] {
            assert_eq!(tokens.find(other), None);
        }
    }
}
