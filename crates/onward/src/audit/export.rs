//! A range of a chain as a file that anyone can check, with or without our code: lines of JSON.
//!
//! A header, one line an entry with every hashed byte, and a footer with the last hash and the Merkle root over the range. A file without
//! its footer was cut off and is none.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::engine::Select;
use crate::model::merkle::Frontier;
use crate::model::{Hash, Sealed, Seq};
use crate::{Error, Result};

/// The first member of every export.
pub(super) const FORMAT: &str = "archive";
pub(super) const FORMAT_VERSION: u64 = 1;
/// Entries that are read at a time.
const AT_A_TIME: usize = 256;
/// Bytes of data that are read at a time.
const BYTES_AT_A_TIME: usize = 1 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) onward: String,
    pub(super) v: u64,
    pub(super) chain: String,
    pub(super) origin: String,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The hash before the range; absent where a chain begins, whose first entry says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prev: Option<Hash>,
    pub(super) rows: u64,
}

/// The line of an entry. `data` is text without control characters, `data_base64` anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) prev: Hash,
    /// Microseconds since 1970.
    pub(super) at: i64,
    pub(super) event_id: String,
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data_base64: Option<String>,
    /// The commitment to personal data, which stay where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pii: Option<Hash>,
    pub(super) kid: String,
    pub(super) flags: u64,
    pub(super) hash: Hash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<Hash>,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Footer {
    pub(super) end: bool,
    pub(super) rows: u64,
    pub(super) last: Hash,
    /// The Merkle root over the hashes of the range.
    pub(super) root: Hash,
}

impl Line {
    pub(super) fn of(entry: &Sealed) -> Self {
        let text = std::str::from_utf8(&entry.data).ok().filter(|text| !text.chars().any(char::is_control));
        Self {
            seq: entry.seq.get(),
            prev: entry.prev,
            at: entry.at.as_micros(),
            event_id: entry.event_id.clone(),
            kind: entry.kind.clone(),
            actor: entry.actor.clone(),
            resource: entry.resource.clone(),
            data: text.map(str::to_owned),
            data_base64: text.is_none().then(|| onward_api::base64::encode(&entry.data)),
            pii: entry.personal,
            kid: entry.kid.clone(),
            flags: entry.flags,
            hash: entry.hash,
            mac: entry.mac.map(Hash::from_bytes),
        }
    }
}

pub(super) fn lay<T: Serialize>(out: &mut Vec<u8>, line: &T) -> Result<()> {
    serde_json::to_writer(&mut *out, line).map_err(|e| Error::integrity("an entry cannot be written as JSON").with_source(e))?;
    out.push(b'\n');
    Ok(())
}

/// A file in the making: pieces of whole lines, each of some MiB at most, whatever the range.
#[derive(Debug)]
pub struct Export {
    chain: Chain,
    from: u64,
    to: u64,
    next: u64,
    last: Option<Hash>,
    tree: Frontier,
    ended: bool,
}

impl Chain {
    /// Begins an export of a range; by default the whole chain up to the head of this moment.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): no such chain. `Invalid`: a range that ends before it begins, or beyond the head.
    /// `Backend`: the engine is away.
    pub async fn export(&self, from: Option<Seq>, to: Option<Seq>) -> Result<Export> {
        let head = self.head().await.map_err(|e| e.during("export"))?;
        let head = head.ok_or_else(|| Error::not_found("no such chain").during("export"))?;
        let (from, to) = (from.map_or(1, Seq::get), to.unwrap_or(head.seq).get());
        if from > to || to > head.seq.get() {
            return Err(Error::invalid("a range lies within the chain and does not end before it begins").during("export"));
        }
        Ok(Export { chain: self.clone(), from, to, next: from, last: None, tree: Frontier::default(), ended: false })
    }
}

impl Export {
    /// Returns the next piece; `None` behind the footer.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away, call again; or `integrity_failure`: an entry is missing or damaged, and
    /// there is nothing that could be exported. `Expired`: an entry is purged.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let select = Select::range(self.next, self.to, AT_A_TIME, BYTES_AT_A_TIME);
        let engine = &self.chain.trail().0.engine;
        let found = engine.select(self.chain.name(), &select).await.map_err(|e| e.during("export"))?;
        let missing = || Error::integrity("an entry is missing from the chain").during("export");
        let entries = found.ok_or_else(missing)?.items;
        let dense = entries.iter().zip(self.next..).all(|(entry, seq)| entry.seq.get() == seq);
        let (true, Some(last)) = (dense, entries.last()) else {
            return Err(self.chain.absent(self.next, missing).await.during("export"));
        };
        let mut out = Vec::new();
        if let (None, Some(first)) = (self.last, entries.first()) {
            let head = self.chain.head().await.map_err(|e| e.during("export"))?.ok_or_else(missing)?;
            let header = Header {
                onward: FORMAT.to_owned(),
                v: FORMAT_VERSION,
                chain: self.chain.name().to_string(),
                origin: head.origin.to_string(),
                from: self.from,
                to: self.to,
                prev: (self.from > 1).then_some(first.prev),
                rows: self.to - self.from + 1,
            };
            lay(&mut out, &header)?;
        }
        for entry in &entries {
            lay(&mut out, &Line::of(entry))?;
        }
        entries.iter().for_each(|entry| self.tree.push(&entry.hash));
        (self.last, self.next) = (Some(last.hash), last.seq.get() + 1);
        if self.next > self.to {
            let footer = Footer { end: true, rows: self.to - self.from + 1, last: last.hash, root: self.tree.root() };
            lay(&mut out, &footer)?;
            self.ended = true;
        }
        Ok(Some(out.into()))
    }
}
