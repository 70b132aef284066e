//! What a walk knows of entries that may be absent: the segment it is in, and the skeleton of that segment.

use super::personal::Redactions;
use super::segment::{CHUNK, Chunk, Fold, Life, SkeletonHash, chunk_name, chunks};
use super::{Controls, Depth, FindingCode, SegmentState, Source};
use crate::Result;
use crate::model::{ChainName, Hash, MacKeys, Row};

use super::look::{Eye, MacState};

/// An entry as its segment knows it.
pub(super) struct Known {
    pub(super) hash: Hash,
    pub(super) pinned: bool,
    /// The state of its segment when the rows around it were read.
    pub(super) state: SegmentState,
}

/// What a walk found on the way; the walk reports it.
pub(super) type Found = (FindingCode, u64, u64, &'static str);

/// The segments of a chain, beside a walk.
pub(super) struct Past<'a> {
    source: &'a dyn Source,
    chain: &'a ChainName,
    pub(super) fold: Fold,
    pub(super) redactions: Redactions,
    /// Up to where control entries were known when the rows at hand were read.
    pub(super) seen_to: i64,
    cursor: Option<Cursor>,
    /// Segments that the walk has passed, whose files are to be looked for.
    pub(super) passed: Vec<u64>,
}

/// Where a walk is in a segment.
struct Cursor {
    from: u64,
    index: u64,
    chunk: Option<Chunk>,
    hash: SkeletonHash,
    /// Whether the walk passed every entry from the first on.
    whole: bool,
}

impl<'a> Past<'a> {
    pub(super) fn new(source: &'a dyn Source, chain: &'a ChainName) -> Self {
        Self { source, chain, fold: Fold::default(), redactions: Redactions::default(), seen_to: 0, cursor: None, passed: Vec::new() }
    }

    /// What to ask the next read for.
    pub(super) fn wanted(&self) -> Controls {
        Controls::after(self.fold.last)
    }

    /// Takes control entries that were read; only those count that verify themselves.
    pub(super) fn learn(&mut self, rows: &[Row], origin: &str, keys: &MacKeys, depth: Depth) -> Vec<Found> {
        let mut eye = Eye::new(origin, keys, depth);
        let mut found = Vec::new();
        for row in rows {
            if row.seq <= self.fold.last {
                continue;
            }
            let seen = eye.look(&row.view());
            let good = seen.content.is_none() && matches!(seen.mac, MacState::Absent | MacState::Unchecked | MacState::Good);
            let seq = row.seq.cast_unsigned();
            if !good {
                // The walk itself says what is wrong with the row, if it comes by; it excuses nothing.
                self.fold.last = row.seq;
                found.push((FindingCode::Control, seq, seq, "a control entry that does not verify excuses nothing"));
            } else {
                let taken = if row.kind.starts_with(b"redact.") {
                    self.fold.last = row.seq;
                    self.redactions.take(&row.view())
                } else {
                    self.fold.take(&row.view())
                };
                if let Err(why) = taken {
                    found.push((FindingCode::Control, seq, seq, why));
                }
            }
        }
        self.seen_to = rows.last().map_or(self.seen_to, |row| row.seq.max(self.seen_to));
        found
    }

    /// Returns what is known of an entry by its segment; `None` in the open end, or if the skeleton is gone.
    ///
    /// A walk asks for each entry that it passes, in order.
    pub(super) fn at(&mut self, seq: u64, found: &mut Vec<Found>) -> Result<Option<Known>> {
        let Some(life) = self.fold.of(seq) else {
            self.cursor = None;
            return Ok(None);
        };
        let Some(state) = life.state_at(self.seen_to) else { return Ok(None) };
        let (place, offset) = ((seq - life.border.from) / CHUNK, (seq - life.border.from) % CHUNK);
        let here = self.cursor.as_ref().is_some_and(|cursor| cursor.from == life.border.from && cursor.index == place);
        if !here {
            let before = self.cursor.take().filter(|cursor| cursor.from == life.border.from && cursor.index + 1 == place && cursor.whole);
            let name = chunk_name(self.chain, life.border.from, &life.border.place, place);
            let bytes = self.source.skeleton(&name)?;
            let chunk = bytes.and_then(|bytes| Chunk::read(bytes, &life.border, place).ok());
            if chunk.is_none() {
                let (first, last) = (life.border.from + place * CHUNK, life.border.to.min(life.border.from + (place + 1) * CHUNK - 1));
                found.push((FindingCode::Skeleton, first, last, "a part of the skeleton is missing or damaged"));
            }
            let mut hash = before.as_ref().map(|before| before.hash.clone()).unwrap_or_default();
            chunk.iter().for_each(|chunk| hash.push(chunk.bytes()));
            let whole = offset == 0 && chunk.is_some() && (place == 0 || before.is_some());
            self.cursor = Some(Cursor { from: life.border.from, index: place, chunk, hash, whole });
        }
        let known =
            self.cursor.as_ref().and_then(|cursor| cursor.chunk.as_ref()).and_then(|chunk| chunk.get(usize::try_from(offset).ok()?));
        if seq == life.border.to {
            self.end(seq, known.map(|(hash, _)| hash), found);
        }
        Ok(known.map(|(hash, pinned)| Known { hash, pinned, state }))
    }

    /// Judges the skeleton of a segment whose last entry is passed.
    fn end(&mut self, seq: u64, last: Option<Hash>, found: &mut Vec<Found>) {
        let (Some(cursor), Some(life)) = (&self.cursor, self.fold.of(seq)) else { return };
        let border = &life.border;
        if !cursor.whole || cursor.index + 1 != chunks(border) {
            return;
        }
        if cursor.hash.clone().end() != border.skeleton || last != Some(border.last) {
            found.push((FindingCode::Skeleton, border.from, border.to, "the skeleton is not the one that was sealed"));
        }
        self.passed.push(border.from);
    }

    /// The hash that must stand before the first entry of a segment, if one begins here.
    pub(super) fn begins(&self, seq: u64) -> Option<Hash> {
        self.fold.lives.get(&seq).map(|life| life.border.prev)
    }

    /// The first entry behind `seq` whose segment may lack rows.
    pub(super) fn next_excuse(&self, seq: u64) -> Option<u64> {
        let excuses = |life: &&Life| life.state_at(self.seen_to).is_some_and(SegmentState::may_lack_rows);
        self.fold.lives.range(seq + 1..).map(|(_, life)| life).find(excuses).map(|life| life.border.from)
    }
}
