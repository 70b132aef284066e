//! Checking an exported file: a source for the verifier that reads line by line, and refuses whatever is not exactly the form.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;

use parking_lot::Mutex;

use super::export::{FORMAT, FORMAT_VERSION, Footer, Header, Line};
use super::verify::{self, Check, Controls, Extent, HeadRow, Progress, Report, Source, View};
use crate::model::limits::SEQ_MAX;
use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, MacKeys, Row, RowRef, Seq};
use crate::{Error, Result};

/// Longest line of a file.
const LINE_BYTES: usize = 4 << 20;

/// Checks an exported file as [`verify`](verify::verify) checks a chain. Blocks; memory stays flat at any length.
///
/// The hash before the range is believed, so is what the file says of its origin: pin it, or give the key. A saved head or a checkpoint
/// must lie inside the range; of `check` only these and the depth say anything here.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): the file is no export, or was cut off; or what is compared is of another chain, or lies outside.
/// [`Kind::Unsupported`](crate::Kind::Unsupported): a newer form. [`Kind::Backend`](crate::Kind::Backend): it cannot be read, or `watch`
/// ended the walk. None of them is a verdict.
pub fn verify_export(
    file: impl Read + Send,
    check: &Check,
    keys: &MacKeys,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    let rows = Rows::open(file)?;
    let header = rows.header();
    let chain = ChainName::new(&header.chain).map_err(|_| malformed("its header names no chain"))?;
    let Check { saved, checkpoint, depth, .. } = check.clone();
    let outside = |size: u64| !(header.from..=header.to).contains(&size);
    if saved.as_ref().is_some_and(|saved| saved.chain != chain || outside(saved.size)) {
        return Err(Error::invalid("the saved head is of another chain, or lies outside the export"));
    }
    if checkpoint.as_ref().is_some_and(|checkpoint| header.from > 1 || outside(checkpoint.size)) {
        return Err(Error::invalid("a checkpoint is compared with an export that begins with the chain and reaches its size"));
    }
    let from = if header.from > 1 { Some(Seq::new(header.from)?) } else { None };
    let check = Check { from, to: None, depth, saved, checkpoint, extent: Extent::Full, threads: 1, ..Check::default() };
    verify::verify(&FileSource(Mutex::new(rows)), &chain, &check, keys, watch)
}

fn malformed(message: &str) -> Error {
    Error::invalid(format!("the file is no export: {message}"))
}

struct Lines<R> {
    input: BufReader<R>,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Reads a line without its end; `None` at the end of the file.
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.buffer.clear();
        let unreadable = |e| Error::unavailable("the export cannot be read").with_source(e);
        (&mut self.input).take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut self.buffer).map_err(unreadable)?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        match self.buffer.strip_suffix(b"\n") {
            Some(line) if line.starts_with(b"{") && line.ends_with(b"}") => Ok(Some(line)),
            Some(_) => Err(malformed("a line is not an object")),
            None if self.buffer.len() > LINE_BYTES => Err(malformed("a line is longer than 4 MiB")),
            None => Err(malformed("it was cut off")),
        }
    }

    fn header(&mut self) -> Result<Header> {
        let line = self.next()?.ok_or_else(|| malformed("it is empty"))?;
        let header: Header = serde_json::from_slice(line).map_err(|e| {
            #[derive(serde::Deserialize)]
            struct Version {
                onward: String,
                v: u64,
            }
            let newer = serde_json::from_slice::<Version>(line).is_ok_and(|any| any.onward == FORMAT && any.v > FORMAT_VERSION);
            if newer { newer_form() } else { malformed("the header is malformed").with_source(e) }
        })?;
        if header.onward != FORMAT || header.v == 0 || header.origin.is_empty() {
            return Err(malformed("the header is malformed"));
        }
        if header.v != FORMAT_VERSION {
            return Err(newer_form());
        }
        let range = 1..=SEQ_MAX;
        let fits = range.contains(&header.from) && range.contains(&header.to) && header.from <= header.to;
        if !fits || header.rows != header.to - header.from + 1 || header.prev.is_some() != (header.from > 1) {
            return Err(malformed("the range of its header is none"));
        }
        Ok(header)
    }
}

fn newer_form() -> Error {
    Error::unsupported("the export is of a newer version")
}

struct FileSource<R>(Mutex<Rows<R>>);

/// The rows of an exported file.
pub(super) struct Rows<R> {
    lines: Lines<R>,
    header: Header,
    /// Whether the entry before the range was handed out.
    begun: bool,
    /// A row that was read and not taken.
    ahead: Option<Row>,
    tree: Frontier,
    /// The time of the last row.
    at: i64,
    footer: Option<Footer>,
}

impl<R: Read + Send> Source for FileSource<R> {
    fn read(&self, from: i64, _: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let mut state = self.0.lock();
        // A first look at what there is; no row stands there.
        if from < i64::MAX {
            state.hand_out(each)?;
        }
        Ok(Some(View { origin: state.header.origin.clone(), head: Some(state.head()) }))
    }

    fn skeleton(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Err(Error::unsupported("a file is read by one thread"))
    }
}

impl<R: Read> Rows<R> {
    /// Reads the header.
    pub(super) fn open(file: R) -> Result<Self> {
        let mut lines = Lines { input: BufReader::new(file), buffer: Vec::new() };
        let header = lines.header()?;
        Ok(Self { lines, header, begun: false, ahead: None, tree: Frontier::default(), at: 0, footer: None })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    /// The root over the rows so far.
    pub(super) fn root(&self) -> Hash {
        self.tree.root()
    }

    /// What the lines are read from.
    pub(super) fn input(&self) -> &R {
        self.lines.input.get_ref()
    }

    fn hand_out(&mut self, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<()> {
        if !self.begun {
            self.begun = true;
            // All that the file knows of the entry before the range is its hash.
            if let Some(prev) = self.header.prev {
                let seq = self.header.from.cast_signed() - 1;
                let before = Row { seq, hash: prev.as_bytes().to_vec(), at: i64::MIN, ..Row::default() };
                if each(before.view()).is_break() {
                    return Ok(());
                }
            }
        }
        while let Some(row) = self.row()? {
            if each(row.view()).is_break() {
                self.ahead = Some(row);
                break;
            }
        }
        Ok(())
    }

    /// Reads the next row; `None` behind the last, with the footer read and nothing behind it.
    pub(super) fn row(&mut self) -> Result<Option<Row>> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        if self.footer.is_some() {
            return Ok(None);
        }
        let line = self.lines.next()?.ok_or_else(|| malformed("it was cut off"))?;
        // No entry begins so, and no footer otherwise.
        if line.starts_with(br#"{"end":"#) {
            let footer: Footer = serde_json::from_slice(line).map_err(|e| malformed("the footer is malformed").with_source(e))?;
            if !footer.end || footer.rows != self.header.rows {
                return Err(malformed("the footer is malformed"));
            }
            self.footer = Some(footer);
            return if self.lines.next()?.is_some() { Err(malformed("something follows its end")) } else { Ok(None) };
        }
        let line: Line = serde_json::from_slice(line).map_err(|e| malformed("an entry is malformed").with_source(e))?;
        let row = to_row(line)?;
        self.at = row.at;
        self.tree.push(&Hash::from_bytes(row.hash.as_slice().try_into().unwrap_or_default()));
        Ok(Some(row))
    }

    /// What the footer claims, in the form of a chain's head.
    fn head(&self) -> HeadRow {
        let seq = self.header.to.cast_signed();
        let Some(footer) = &self.footer else { return HeadRow { seq, ..HeadRow::default() } };
        // The verifier knows the tree of a chain from its first entry on; of another range it is this file's own, judged here. A tree that
        // does not fit its length is a wrong root to it.
        let frontier = match (self.tree.root() == footer.root, self.header.from) {
            (false, _) => Vec::new(),
            (true, 1) => self.tree.to_bytes(),
            (true, _) => vec![0; 32 * self.header.to.count_ones() as usize],
        };
        HeadRow { seq, hash: footer.last.as_bytes().to_vec(), frontier, at: self.at }
    }
}

fn to_row(line: Line) -> Result<Row> {
    let data = match (line.data, line.data_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(coded)) => onward_api::base64::decode(&coded).ok_or_else(|| malformed("data that is not base64"))?,
        _ => return Err(malformed("an entry has its data once")),
    };
    if line.seq == 0 || line.seq > SEQ_MAX || line.flags > i64::MAX.unsigned_abs() {
        return Err(malformed("a number is out of its range"));
    }
    Ok(Row {
        seq: line.seq.cast_signed(),
        prev: line.prev.as_bytes().to_vec(),
        hash: line.hash.as_bytes().to_vec(),
        mac: line.mac.map(|mac| mac.as_bytes().to_vec()),
        kid: line.kid.into_bytes(),
        at: line.at,
        event_id: line.event_id.into_bytes(),
        kind: line.kind.into_bytes(),
        actor: line.actor.map(String::into_bytes),
        resource: line.resource.map(String::into_bytes),
        data: data.into(),
        pii: line.pii.map(|commitment| commitment.as_bytes().to_vec()),
        flags: line.flags.cast_signed(),
    })
}
