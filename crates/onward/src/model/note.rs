//! Signed notes as C2SP describes them: a text, an empty line, and a line for each signature, which is Ed25519.
//!
//! The name of the key is the origin of the chain, so one signing key serves all chains of a store and no note passes for another chain's.
//! What is signed tells its kind: a [checkpoint](super::Checkpoint) begins with the origin, which has no space in it, and its second line is
//! a number; a [manifest](super::Manifest) begins with words. Whoever checks pins the verifier key and never learns it from a server.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use onward_api::base64;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Longest note, in bytes.
pub(super) const NOTE_BYTES: usize = 4_096;
/// The type of a signature: Ed25519.
const ED25519: u8 = 1;
/// How a line of a signature begins: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";

/// The key that signs checkpoints, and the manifests of archived files; differs from the keys that seal entries, and never stands in the
/// database.
#[derive(Clone)]
pub struct CheckpointKey(SigningKey);

impl CheckpointKey {
    /// Makes a key from its 32 secret bytes.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a key as a file or environment variable holds it: 64 hex digits.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): anything else. The text is not repeated in the message.
    pub fn parse(text: &str) -> Result<Self> {
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| Error::invalid("a signing key is 64 hex digits"))?;
        Ok(Self::from_seed(seed))
    }

    /// Signs a text for a chain. Its first line, or its form, tells it from every other kind of text that is signed.
    pub(super) fn sign_text(&self, origin: &str, text: &str) -> String {
        let mut signature = self.vkey(origin).id().to_vec();
        signature.extend(self.0.sign(text.as_bytes()).to_bytes());
        format!("{text}\n{SIGNATURE}{origin} {}\n", base64::encode(&signature))
    }

    /// Returns the key that checks this key's signatures of one chain.
    pub fn vkey(&self, origin: &str) -> Vkey {
        Vkey { origin: origin.to_owned(), key: self.0.verifying_key() }
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckpointKey")
    }
}

/// The key that checks the signatures of one chain's checkpoints and manifests; shown and read as `ORIGIN+ID+KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vkey {
    origin: String,
    key: VerifyingKey,
}

impl Vkey {
    /// The first bytes of the hash of name, type and key.
    fn id(&self) -> [u8; 4] {
        let mut hasher = Sha256::new_with_prefix(self.origin.as_bytes());
        hasher.update([b'\n', ED25519]);
        hasher.update(self.key.as_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(hasher.finalize());
        [a, b, c, d]
    }

    /// Returns the chain's identity in the world.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Reads `ORIGIN+ID+KEY`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another form, another kind of key, or an id that is not the key's.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || Error::invalid("a verifier key is an origin, +, 8 hex digits, + and an Ed25519 key in base64");
        let mut parts = text.trim().splitn(3, '+');
        let (Some(origin), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(malformed()) };
        let bytes = base64::decode(key).ok_or_else(malformed)?;
        let Some((&ED25519, key)) = bytes.split_first() else { return Err(malformed()) };
        let key = <[u8; 32]>::try_from(key).ok().and_then(|key| VerifyingKey::from_bytes(&key).ok()).ok_or_else(malformed)?;
        let found = Self { origin: origin.to_owned(), key };
        if origin.is_empty() || hex::encode(found.id()) != id { Err(malformed()) } else { Ok(found) }
    }

    /// Checks that a text is signed by this key. Signatures of other keys are passed over, as the form wants it.
    pub(super) fn check(&self, text: &str, signatures: &str, what: &str) -> Result<()> {
        let malformed = || Error::invalid(format!("the file is not a signed {what}"));
        let signatures = signatures.strip_suffix('\n').ok_or_else(malformed)?;
        let mut good = false;
        for line in signatures.split('\n') {
            let (name, coded) = line.strip_prefix(SIGNATURE).and_then(|line| line.rsplit_once(' ')).ok_or_else(malformed)?;
            let bytes = base64::decode(coded).filter(|bytes| bytes.len() > 4).ok_or_else(malformed)?;
            let Some((id, signature)) = bytes.split_at_checked(4) else { return Err(malformed()) };
            if name == self.origin && id == self.id() {
                let signature = Signature::from_slice(signature).map_err(|_| malformed())?;
                let checked = self.key.verify_strict(text.as_bytes(), &signature);
                checked.map_err(|_| Error::invalid(format!("the signature of the {what} is not that of the key")))?;
                good = true;
            }
        }
        if good { Ok(()) } else { Err(Error::invalid(format!("the {what} is not signed by this key"))) }
    }
}

/// Splits a note into its text and the lines of its signatures; `None` if it is too long, or none.
pub(super) fn split(note: &str) -> Option<(String, &str)> {
    let (text, signatures) = note.rsplit_once("\n\n").filter(|_| note.len() <= NOTE_BYTES)?;
    Some((format!("{text}\n"), signatures))
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.origin, hex::encode(self.id()), base64::encode(&key))
    }
}
