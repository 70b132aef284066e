//! Numbers that only grow (C4), each with its own type so that two of them never stand in for each other.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use onward_api::number;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::NUMBER_MAX;
use crate::{Error, Result};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// Makes one from a number; zero never means "no check" and is refused.
            ///
            /// # Errors
            /// [`Kind::Invalid`](crate::Kind::Invalid) outside 1..=2^63-1.
            pub fn new(number: u64) -> Result<Self> {
                match NonZeroU64::new(number) {
                    Some(some) if number <= NUMBER_MAX => Ok(Self(some)),
                    _ => Err(Error::invalid(concat!("a ", $word, " is 1..=2^63-1"))),
                }
            }

            /// Returns the number.
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::new(number::parse(text).ok_or_else(|| Error::invalid(concat!("a ", $word, " is a decimal number")))?)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                number::serialize(&self.get(), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(number::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

counter! {
    /// The version of one object: grows with every change, never restarts, not even after delete and re-create.
    Version, "version"
}
counter! {
    /// A fencing token: for one lock key each grant's is greater than all before it.
    FencingToken, "fencing token"
}
counter! {
    /// A position in a chain: 1, 2, 3 .. without a hole.
    Seq, "seq"
}

/// The place of a commit in the order of its store: 1, 2, 3 .. without a gap; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Makes one from a number.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) above 2^63-1.
    pub fn new(number: u64) -> Result<Self> {
        if number > NUMBER_MAX { Err(Error::invalid("a revision is 0..=2^63-1")) } else { Ok(Self(number)) }
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(number::parse(text).ok_or_else(|| Error::invalid("a revision is a decimal number"))?)
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(number::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The life of a store between two restores: numbers of two epochs are never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Makes one from 64 bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bits = if valid { u64::from_str_radix(text, 16).ok() } else { None };
        bits.map(Self).ok_or_else(|| Error::invalid("an epoch is 16 hex digits"))
    }
}

/// The one way to grow: above everything seen, and above the clock.
///
/// The counter is the guarantee; the clock keeps tokens growing when the counter was lost (a flush, a restore, another engine).
pub const fn above(last: u64, clock_us: u64) -> u64 {
    if last >= clock_us { last + 1 } else { clock_us }
}
