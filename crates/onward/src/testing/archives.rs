//! Files of archives by themselves: one that the writer wrote, and the reader over whatever somebody puts in its place.

#![allow(clippy::unwrap_used, reason = "a case fails by panicking")]

use std::io::Cursor;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::audit::archive_file::{ArchiveReader, ArchiveWriter};
use crate::audit::verify::ArchiveFile;
use crate::audit::verify::segment::Border;
use crate::model::{ChainName, EntryHasher, Hash, MacKeys, Manifest, Row, Sealed, Seq, genesis, merkle};
use crate::time::Timestamp;

/// The chain's identity in the world.
pub const ORIGIN: &str = "onward.example/audit/orders";

const CREATED: &str = r#"{"alg":"sha256","nonce":"000102030405060708090a0b0c0d0e0f","origin":"onward.example/audit/orders","v":1}"#;

/// Returns the keys that seal the entries.
pub fn keys() -> MacKeys {
    MacKeys::one("k1", [7; 32]).unwrap()
}

/// Returns the name of the chain.
pub fn name() -> ChainName {
    ChainName::new("orders").unwrap()
}

/// Returns entries 1..=9 of a chain, sealed.
pub fn entries() -> Vec<Sealed> {
    let keys = keys();
    let mut prev = genesis(ORIGIN);
    let row = |seq: u64| {
        let mut entry = Sealed {
            seq: Seq::new(seq).unwrap(),
            prev,
            hash: prev,
            mac: None,
            kid: "k1".into(),
            flags: u64::from(seq == 1),
            at: Timestamp::from_micros(i64::try_from(seq).unwrap()),
            event_id: format!("e{seq}"),
            kind: if seq == 1 { "chain.created" } else { "a" }.into(),
            actor: None,
            resource: None,
            data: if seq == 1 { CREATED.into() } else { format!("{{\"n\":{seq}}}").into() },
            personal: (seq == 3).then_some(prev),
        };
        entry.hash = entry.compute_hash(ORIGIN);
        entry.mac = keys.sign("k1", &entry.hash);
        prev = entry.hash;
        entry
    };
    (1..=9).map(row).collect()
}

/// Returns the hash of what a row says.
pub fn hash(row: &Row) -> Hash {
    EntryHasher::new(ORIGIN).hash(&row.view())
}

pub(crate) fn border() -> Border {
    let entries = entries();
    let mut tree = merkle::Frontier::default();
    entries.iter().for_each(|entry| tree.push(&entry.hash));
    let last = entries.last().unwrap().hash;
    Border { from: 1, to: 9, prev: genesis(ORIGIN), last, root: tree.root(), skeleton: last, place: "x".into() }
}

/// Returns the file of these entries, as the writer writes it.
pub fn file() -> Vec<u8> {
    let mut writer = ArchiveWriter::new(&name(), ORIGIN, &border()).unwrap();
    entries().iter().for_each(|entry| writer.push(entry).unwrap());
    let mut bytes = writer.take();
    bytes.extend(writer.end("f".into(), border().last).unwrap().0);
    bytes
}

/// Returns a compressed file of some text.
pub fn compressed(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).unwrap()
}

/// Returns the text in a compressed file.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    zstd::decode_all(bytes).unwrap()
}

/// Returns what a control entry would say of a compressed file, whatever is in it.
pub(crate) fn announced(bytes: &[u8]) -> ArchiveFile {
    let text = text(bytes);
    let sum = |bytes: &[u8]| Hash::from_bytes(Sha256::digest(bytes).into());
    let (sha256, plain_sha256) = (sum(bytes), sum(&text));
    ArchiveFile { name: "f".into(), sha256, plain_sha256, bytes: bytes.len() as u64, plain_bytes: text.len() as u64, manifest: None }
}

/// Returns what its manifest says of a compressed file, whatever is in it.
pub fn manifest(bytes: &[u8]) -> Manifest {
    let (ArchiveFile { sha256, plain_sha256, bytes, plain_bytes, .. }, Border { from, to, prev, last, root, .. }) =
        (announced(bytes), border());
    let origin = ORIGIN.to_owned();
    Manifest { origin, from, to, prev, last, root, sha256, plain_sha256, bytes, plain_bytes, verifier: last }
}

/// Reads `bytes` to their end, where the chain says that `archived`, a whole compressed file, was archived.
///
/// # Errors
/// `integrity_failure`: it is another file, or none of these entries.
pub fn read(bytes: &[u8], archived: &[u8]) -> Result<Vec<Row>> {
    read_as(bytes, &announced(archived))
}

pub(crate) fn read_as(bytes: &[u8], file: &ArchiveFile) -> Result<Vec<Row>> {
    let mut reader = ArchiveReader::open(Box::new(Cursor::new(bytes.to_vec())), file, &border(), &name(), ORIGIN)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next()? {
        rows.push(row);
    }
    Ok(rows)
}
