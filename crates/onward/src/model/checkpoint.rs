//! Checkpoints: the size and the root of a chain, signed, in the form of C2SP tlog-checkpoint.

use onward_api::base64;

use super::limits::SEQ_MAX;
use super::{CheckpointKey, Hash, Vkey};
use crate::{Error, Result};

/// Longest text of a signed checkpoint, in bytes.
pub const CHECKPOINT_BYTES: usize = super::note::NOTE_BYTES;

/// What a chain was at a size: enough to prove everything in it, and that it only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The chain's identity in the world.
    pub origin: String,
    /// How many entries it had, at least one.
    pub size: u64,
    /// The root of the Merkle tree over all of them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, base64::encode(self.root.as_bytes()))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let plain = !size.starts_with('0') && size.bytes().all(|byte| byte.is_ascii_digit());
        let size = size.parse().ok().filter(|size| plain && (1..=SEQ_MAX).contains(size))?;
        let root: [u8; 32] = base64::decode(root)?.try_into().ok()?;
        let fits = lines.next().is_none() && !origin.is_empty();
        fits.then(|| Self { origin: origin.to_owned(), size, root: Hash::from_bytes(root) })
    }
}

impl CheckpointKey {
    /// Signs a checkpoint; the text ends with the line of the signature.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        self.sign_text(&checkpoint.origin, &checkpoint.text())
    }
}

impl Vkey {
    /// Reads a signed checkpoint of this key's chain. Signatures of other keys are passed over, as the form wants it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another form, another chain, or no good signature of this key.
    pub fn open(&self, note: &str) -> Result<Checkpoint> {
        let malformed = || Error::invalid("the file is not a signed checkpoint");
        let (text, signatures) = super::note::split(note).ok_or_else(malformed)?;
        let checkpoint = Checkpoint::parse(&text).ok_or_else(malformed)?;
        if checkpoint.origin != self.origin() {
            return Err(Error::invalid("the checkpoint is of another chain than the verifier key"));
        }
        self.check(&text, signatures, "checkpoint").map(|()| checkpoint)
    }
}
