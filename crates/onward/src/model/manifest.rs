//! Manifests: what the file of an archived segment is, signed, for whoever has the folder and a verifier key and nothing else.

use super::limits::SEQ_MAX;
use super::{CheckpointKey, Hash, Vkey};
use crate::{Error, Result};

/// Longest text of a signed manifest, in bytes.
pub const MANIFEST_BYTES: usize = super::note::NOTE_BYTES;
/// The first line. No origin has a space, so no checkpoint begins like this.
const TITLE: &str = "onward archive manifest v1";

/// What the file of an archived segment is, and what it holds.
///
/// The same entries in the same file have the same manifest, whoever archived them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The chain's identity in the world.
    pub origin: String,
    /// The first entry.
    pub from: u64,
    /// The last entry.
    pub to: u64,
    /// The hash before the first entry.
    pub prev: Hash,
    /// The hash of the last entry.
    pub last: Hash,
    /// The Merkle root over these entries.
    pub root: Hash,
    /// SHA-256 of the file.
    pub sha256: Hash,
    /// SHA-256 of the lines in it.
    pub plain_sha256: Hash,
    /// The length of the file.
    pub bytes: u64,
    /// The length of the lines in it.
    pub plain_bytes: u64,
    /// SHA-256 of the verifier that lies beside the file.
    pub verifier: Hash,
}

impl Manifest {
    /// The text that is signed: names as they lie in a folder.
    fn text(&self) -> String {
        let Self { origin, from, to, prev, last, root, sha256, plain_sha256, bytes, plain_bytes, verifier } = self;
        let rows = to.saturating_add(1).saturating_sub(*from);
        format!(
            "{TITLE}\norigin {origin}\nfrom {from}\nto {to}\nrows {rows}\nprev {prev}\nlast {last}\nroot {root}\n\
             entries.ndjson.zst {sha256} {bytes}\nentries.ndjson {plain_sha256} {plain_bytes}\nverify.py {verifier}\n"
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_prefix(TITLE)?.strip_prefix('\n')?.split('\n');
        let mut line = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let (origin, from, to) = (line("origin")?.to_owned(), line("from")?.parse().ok()?, line("to")?.parse().ok()?);
        // It follows from the range: below, the whole text is compared.
        line("rows")?;
        let (prev, last, root) = (line("prev")?.parse().ok()?, line("last")?.parse().ok()?, line("root")?.parse().ok()?);
        let (sha256, bytes) = line("entries.ndjson.zst")?.split_once(' ')?;
        let (plain_sha256, plain_bytes) = line("entries.ndjson")?.split_once(' ')?;
        let found = Self {
            origin,
            from,
            to,
            prev,
            last,
            root,
            sha256: sha256.parse().ok()?,
            plain_sha256: plain_sha256.parse().ok()?,
            bytes: bytes.parse().ok()?,
            plain_bytes: plain_bytes.parse().ok()?,
            verifier: line("verify.py")?.parse().ok()?,
        };
        // One manifest has one text.
        let fits = 1 <= from && from <= to && to <= SEQ_MAX && !found.origin.is_empty() && found.text() == text;
        fits.then_some(found)
    }
}

impl CheckpointKey {
    /// Signs a manifest; the text ends with the line of the signature.
    pub fn sign_manifest(&self, manifest: &Manifest) -> String {
        self.sign_text(&manifest.origin, &manifest.text())
    }
}

impl Vkey {
    /// Reads a signed manifest of this key's chain. Signatures of other keys are passed over, as the form wants it.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another form, another chain, or no good signature of this key.
    pub fn open_manifest(&self, note: &str) -> Result<Manifest> {
        let malformed = || Error::invalid("the file is not a signed manifest");
        let (text, signatures) = super::note::split(note).ok_or_else(malformed)?;
        let manifest = Manifest::parse(&text).ok_or_else(malformed)?;
        if manifest.origin != self.origin() {
            return Err(Error::invalid("the manifest is of another chain than the verifier key"));
        }
        self.check(&text, signatures, "manifest").map(|()| manifest)
    }
}
