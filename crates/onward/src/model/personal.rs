//! Personal data of an entry: a value apart from everything that is hashed for ever, so that it can be forgotten.
//!
//! The entry holds a salted commitment, and nothing else of it. Once salt and value are gone, the commitment tells nobody anything, also
//! not whoever guesses the value.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::limits::{PERSONAL_BYTES, SUBJECT_BYTES};
use super::{Hash, Seq};
use crate::{Code, Error, Kind, Result};

const TAG: &[u8] = b"onward.audit.pii.v1";

/// Personal data that an entry is appended with: of whom, and what. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Personal {
    /// Whom it is about, 1..=256 bytes of UTF-8 without control characters: what a redaction names.
    pub subject: String,
    /// The value, at most 64 KiB.
    pub value: Bytes,
}

impl Personal {
    /// Makes personal data of a subject.
    pub fn new(subject: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), value: value.into() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_subject(&self.subject).map_err(|e| e.with_pointer("/personal/subject"))?;
        if self.value.len() > PERSONAL_BYTES {
            let error = Error::new(Kind::Invalid, Code::PayloadTooLarge, "personal data of an entry is at most 64 KiB");
            return Err(error.with_pointer("/personal"));
        }
        Ok(())
    }
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Personal({} bytes)", self.value.len())
    }
}

/// Refuses what cannot be the name of a subject.
pub(crate) fn check_subject(subject: &str) -> Result<()> {
    if subject.is_empty() || subject.len() > SUBJECT_BYTES || subject.chars().any(char::is_control) {
        return Err(Error::invalid("a subject is 1..=256 bytes of UTF-8 without control characters"));
    }
    Ok(())
}

/// Personal data as it is kept: beside the entry that commits to it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptPersonal {
    /// The entry.
    pub seq: Seq,
    /// Random, so that nobody can try values against the commitment.
    pub salt: [u8; 32],
    /// Whom it is about, and the value.
    pub personal: Personal,
}

impl KeptPersonal {
    /// Returns what the entry holds.
    pub fn commitment(&self) -> Hash {
        commitment(&self.salt, &self.personal.value)
    }
}

impl fmt::Debug for KeptPersonal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptPersonal(seq {}, {:?})", self.seq, self.personal)
    }
}

/// Commits to a value: `SHA-256(LP("onward.audit.pii.v1", salt, value))`.
pub fn commitment(salt: &[u8], value: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    for field in [TAG, salt, value] {
        hasher.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        hasher.update(field);
    }
    Hash::from_bytes(hasher.finalize().into())
}
