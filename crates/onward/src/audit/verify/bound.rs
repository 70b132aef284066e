//! What a chain binds of an archived segment, compared byte by byte: what has to hold before its rows may go.

use std::io::Read;
use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::past::Past;
use super::segment::{Border, Chunk, SkeletonHash, chunk_name, chunks};
use super::{ArchiveFile, Controls, Depth, Filed, Source};
use crate::model::{ChainName, Hash, MacKeys};
use crate::{Error, Result};

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;

/// Refuses a segment whose border, skeleton or file are not the very ones that control entries name, which themselves verify.
///
/// The file was read entry by entry when it was archived, and then named in the chain with its hash and length; so the same bytes hold the
/// same entries, and are not parsed again (ADR 0042). Blocks.
///
/// # Errors
/// [`Kind::Backend`](crate::Kind::Backend): the storage or the file cannot be read, or `integrity_failure`: something is not what was
/// archived.
pub(crate) fn check_bound(source: &dyn Source, chain: &ChainName, keys: &MacKeys, border: &Border, file: &ArchiveFile) -> Result<()> {
    let mut controls = Controls::default();
    let view = source.read(i64::MAX, &mut controls, &mut |_| ControlFlow::Break(()))?;
    let view = view.ok_or_else(|| Error::not_found("no such chain"))?;
    let mut past = Past::new(source, chain);
    // What is wrong elsewhere is the verifier's to tell: an entry that does not verify is not taken, and names nothing.
    let _ = past.learn(&controls.rows, &view.origin, keys, Depth::Keyed);
    let life = past.fold.lives.get(&border.from).filter(|life| life.border == *border);
    if life.and_then(|life| life.archive.as_ref()) != Some(file) {
        return Err(Error::integrity("the chain does not name this file for the segment; verify the chain"));
    }
    check_skeleton(source, chain, border)?;
    check_file(source, file)
}

fn check_skeleton(source: &dyn Source, chain: &ChainName, border: &Border) -> Result<()> {
    let (mut hash, mut last) = (SkeletonHash::default(), None);
    for index in 0..chunks(border) {
        let bytes = source.skeleton(&chunk_name(chain, border.from, &border.place, index))?;
        let chunk = Chunk::read(bytes.ok_or_else(|| Error::integrity("a part of a skeleton is missing"))?, border, index)?;
        hash.push(chunk.bytes());
        last = chunk.rows().checked_sub(1).and_then(|end| chunk.get(end)).map(|(hash, _)| hash);
    }
    if hash.end() != border.skeleton || last != Some(border.last) {
        return Err(Error::integrity("the skeleton is not the one that was sealed"));
    }
    Ok(())
}

fn check_file(source: &dyn Source, file: &ArchiveFile) -> Result<()> {
    let (bytes, mut input) = match source.file(&file.name)? {
        Filed::There(bytes, input) => (bytes, input),
        Filed::Absent | Filed::Unseen => return Err(Error::integrity("the file of the segment is missing from the archive")),
    };
    let damaged = || Error::integrity("the file of the segment is damaged: it is not the one that was archived");
    if bytes != file.bytes {
        return Err(damaged());
    }
    let (mut sha256, mut left, mut piece) = (Sha256::new(), file.bytes, vec![0; PIECE]);
    loop {
        let read = input.read(&mut piece).map_err(|e| Error::unavailable("the file of the segment cannot be read").with_source(e))?;
        if read == 0 {
            break;
        }
        sha256.update(piece.get(..read).unwrap_or_default());
        left = left.checked_sub(read as u64).ok_or_else(damaged)?;
    }
    if left > 0 || Hash::from_bytes(sha256.finalize().into()) != file.sha256 {
        return Err(damaged());
    }
    Ok(())
}
