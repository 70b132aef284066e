//! The proof that a grant is one's own.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result, random};

/// A secret one-time value that proves who holds a lock: 128 random bits, 32 hex digits.
///
/// Each acquisition has its own, drawn on the caller's side before anything is sent, so that a repeated request finds its own grant.
/// `Debug` hides it; `Display` prints it, for the one place that needs it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// Draws a new owner that nobody can guess.
    pub fn draw() -> Self {
        Self(random::secret())
    }

    /// Makes an owner from its bytes, as an engine stored them.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, for an engine to store.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(..)")
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Error::invalid("an owner is 32 hex digits"))?;
        Ok(Self(bytes))
    }
}
