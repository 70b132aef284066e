//! The file of an archived segment: an [export](super::Export) of its range, compressed with zstd.
//!
//! The control entry that names the file binds every byte of it; so a file from anywhere is either the one that was written, or none. The
//! reader keeps its memory bounded whatever it is given: lines of 4 MiB, a window of 8 MiB, no more text than was announced.

use std::io::{BufReader, Read, Write};
use std::ops::ControlFlow;

use sha2::{Digest, Sha256};

use super::export::{FORMAT, FORMAT_VERSION, Footer, Header, Line, lay};
use super::export_file::{Rows, verify_export};
use super::verify::segment::Border;
use super::verify::{ArchiveFile, Check, Depth, Progress, Report};
use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, MacKeys, Manifest, Row, Sealed};
use crate::{Error, Result};

/// The level of the compression; a part of the form, so that two writers of one version write the same bytes.
const LEVEL: i32 = 3;
/// The greatest window that a reader takes: 8 MiB.
const WINDOW_LOG: u32 = 23;

/// Counts and hashes what passes.
struct Sum<T> {
    inner: T,
    sha256: Sha256,
    bytes: u64,
    most: u64,
}

impl<T> Sum<T> {
    fn new(inner: T, most: u64) -> Self {
        Self { inner, sha256: Sha256::new(), bytes: 0, most }
    }

    fn hash(&self) -> Hash {
        Hash::from_bytes(self.sha256.clone().finalize().into())
    }
}

impl<T: Read> Read for Sum<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        if self.bytes > self.most {
            return Err(std::io::Error::other("the file is longer than it should be"));
        }
        self.sha256.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<T: Write> Write for Sum<T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += written as u64;
        self.sha256.update(buffer.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the file of a segment, piece by piece.
pub(crate) struct ArchiveWriter {
    encoder: zstd::stream::write::Encoder<'static, Sum<Vec<u8>>>,
    plain: Sha256,
    plain_bytes: u64,
    line: Vec<u8>,
    tree: Frontier,
    rows: u64,
}

fn unwritable(error: std::io::Error) -> Error {
    Error::unavailable("the archive cannot be compressed").with_source(error)
}

impl ArchiveWriter {
    pub(crate) fn new(chain: &ChainName, origin: &str, border: &Border) -> Result<Self> {
        let encoder = zstd::stream::write::Encoder::new(Sum::new(Vec::new(), u64::MAX), LEVEL).map_err(unwritable)?;
        let rows = border.to + 1 - border.from;
        let mut writer = Self { encoder, plain: Sha256::new(), plain_bytes: 0, line: Vec::new(), tree: Frontier::default(), rows };
        writer.lay(&Header {
            onward: FORMAT.to_owned(),
            v: FORMAT_VERSION,
            chain: chain.to_string(),
            origin: origin.to_owned(),
            from: border.from,
            to: border.to,
            prev: (border.from > 1).then_some(border.prev),
            rows,
        })?;
        Ok(writer)
    }

    fn lay<T: serde::Serialize>(&mut self, line: &T) -> Result<()> {
        self.line.clear();
        lay(&mut self.line, line)?;
        self.plain.update(&self.line);
        self.plain_bytes += self.line.len() as u64;
        self.encoder.write_all(&self.line).map_err(unwritable)
    }

    pub(crate) fn push(&mut self, entry: &Sealed) -> Result<()> {
        self.tree.push(&entry.hash);
        self.lay(&Line::of(entry))
    }

    /// Takes what was compressed so far.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.encoder.get_mut().inner)
    }

    /// Ends the file: its last bytes, and what it is.
    pub(crate) fn end(mut self, name: String, last: Hash) -> Result<(Vec<u8>, ArchiveFile)> {
        let (rows, root) = (self.rows, self.tree.root());
        self.lay(&Footer { end: true, rows, last, root })?;
        let sum = self.encoder.finish().map_err(unwritable)?;
        let plain_sha256 = Hash::from_bytes(self.plain.finalize().into());
        let file = ArchiveFile { name, sha256: sum.hash(), plain_sha256, bytes: sum.bytes, plain_bytes: self.plain_bytes, manifest: None };
        Ok((sum.inner, file))
    }
}

type Input = Sum<Box<dyn Read + Send>>;
type Plain = Sum<zstd::stream::read::Decoder<'static, BufReader<Input>>>;

/// Reads the file of a segment row by row. Blocks.
pub(crate) struct ArchiveReader {
    rows: Rows<Plain>,
    file: ArchiveFile,
    border: Border,
}

fn damaged(why: &str) -> Error {
    Error::integrity(format!("the file of the segment is damaged: {why}"))
}

impl ArchiveReader {
    /// Begins a file, whose header must be that of the segment.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), `integrity_failure`: it is not the file that was written.
    pub(crate) fn open(input: Box<dyn Read + Send>, file: &ArchiveFile, border: &Border, chain: &ChainName, origin: &str) -> Result<Self> {
        let unreadable = |e| damaged("it is not compressed").with_source(e);
        let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::new(Sum::new(input, file.bytes))).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG).map_err(unreadable)?;
        let rows = Rows::open(Sum::new(decoder, file.plain_bytes)).map_err(|e| damaged("its header").with_source(e))?;
        let header = rows.header();
        let fits = header.chain == chain.as_str() && header.origin == origin && (header.from, header.to) == (border.from, border.to);
        if !fits || header.prev.is_some_and(|prev| prev != border.prev) {
            return Err(damaged("it is of another range"));
        }
        Ok(Self { rows, file: file.clone(), border: border.clone() })
    }

    /// Reads the next row; `None` behind the last, when all sums fit.
    ///
    /// # Errors
    /// As [`ArchiveReader::open`].
    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        if let Some(row) = self.rows.row().map_err(|e| damaged("a line").with_source(e))? {
            return Ok(Some(row));
        }
        let (plain, footer) = (self.rows.input(), self.rows.footer());
        let input = plain.inner.get_ref().get_ref();
        let ends = footer.is_some_and(|footer| footer.last == self.border.last && footer.root == self.border.root)
            && self.rows.root() == self.border.root;
        let sums = plain.hash() == self.file.plain_sha256 && plain.bytes == self.file.plain_bytes;
        if !ends || !sums || input.hash() != self.file.sha256 || input.bytes != self.file.bytes {
            return Err(damaged("its sums"));
        }
        Ok(None)
    }
}

/// Checks the file of a segment as it lies in an archive, by the manifest beside it, whose signature was
/// [checked](crate::model::Vkey::open_manifest); its entries as [`verify_export`] does. Blocks; memory stays flat at any length.
///
/// A file that is not the one that the manifest names is [`Degraded`](super::verify::FindingCode::Degraded), and nothing that it says counts.
///
/// # Errors
/// As [`verify_export`], of a file that is the one that the manifest names, or cannot be read.
pub fn verify_archived(
    file: impl Read + Send,
    manifest: &Manifest,
    check: &Check,
    keys: &MacKeys,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let mut input = Sum::new(file, manifest.bytes);
    let unreadable = |e| Error::invalid("the file is not compressed with zstd").with_source(e);
    let mut judge = |input| {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::new(input)).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG).map_err(unreadable)?;
        verify_export(Sum::new(decoder, manifest.plain_bytes), check, keys, watch)
    };
    let judged = judge(&mut input);
    // What was signed is the whole file, also what no reader of entries comes to.
    let read = std::io::copy(&mut input, &mut std::io::sink());
    if let Err(e) = read
        && input.bytes <= input.most
    {
        return Err(Error::unavailable("the file cannot be read").with_source(e));
    }
    let same = |report: &Report| report.origin == manifest.origin && (report.from_seq, report.to_seq) == (manifest.from, manifest.to);
    let is_it = (input.bytes, input.hash()) == (manifest.bytes, manifest.sha256) && judged.as_ref().map_or(true, same);
    let depth = check.depth.unwrap_or(if keys.is_empty() { Depth::Public } else { Depth::Keyed });
    if is_it { judged } else { Ok(Report::of_another_file(manifest, depth)) }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests;
