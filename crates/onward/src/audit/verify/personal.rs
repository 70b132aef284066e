//! Personal data beside a walk: each commitment has its value, or a control entry tells that it was redacted.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::look::Seen;
use super::{FindingCode, Source};
use crate::Result;
use crate::model::{Hash, RowRef, commitment};

/// What an entry of kind `redact.done` tells.
pub(crate) const REDACTED_KIND: &str = "redact.done";
/// So many ranges without an explanation are waited for at most, before the newest control entries are asked again.
const PENDING: usize = 1_000;

/// What stands beside an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    /// Nobody looked: values do not travel with files.
    Unseen,
    /// Nothing.
    Nothing,
    /// What the entry commits to.
    Good,
    /// Something else.
    Wrong,
}

/// Looks at what stands beside rows that were just read.
pub(super) fn look_beside(source: &dyn Source, rows: &mut [Seen]) -> Result<()> {
    let mut wanted = rows.iter().filter(|row| row.commitment.is_some()).map(|row| row.seq);
    let Some(first) = wanted.next() else { return Ok(()) };
    let last = wanted.next_back().unwrap_or(first);
    let mut found: BTreeMap<i64, Hash> = BTreeMap::new();
    let seen = source.personal(first, last, &mut |seq, salt, value| {
        found.insert(seq, commitment(salt, value));
    })?;
    for row in rows.iter_mut().filter(|row| seen && row.commitment.is_some()) {
        row.beside = match found.get(&row.seq) {
            None => Beside::Nothing,
            Some(is) if row.commitment.as_ref() == Some(is) => Beside::Good,
            Some(_) => Beside::Wrong,
        };
    }
    Ok(())
}

/// Ranges of entries, merged where they touch.
#[derive(Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, from: u64, to: u64) {
        let (mut from, mut to) = (from, to);
        while let Some((first, last)) = self.0.range(..=to.saturating_add(1)).next_back().map(|(first, last)| (*first, *last)) {
            if last.saturating_add(1) < from {
                break;
            }
            self.0.remove(&first);
            (from, to) = (from.min(first), to.max(last));
        }
        self.0.insert(from, to);
    }

    fn has(&self, seq: u64) -> bool {
        self.0.range(..=seq).next_back().is_some_and(|(_, last)| *last >= seq)
    }
}

/// What the control entries of redactions come to, and what they have yet to explain.
#[derive(Default)]
pub(super) struct Redactions {
    redacted: Ranges,
    /// Entries whose values were not there, and no control entry that was known then told why.
    unexplained: Ranges,
}

impl Redactions {
    /// Takes a control entry that verifies itself.
    ///
    /// # Errors
    /// Why it cannot be one of ours; it excuses nothing then.
    pub(super) fn take(&mut self, row: &RowRef<'_>) -> std::result::Result<(), &'static str> {
        #[derive(Deserialize)]
        struct Done {
            seqs: Vec<(u64, u64)>,
        }
        if row.kind != REDACTED_KIND.as_bytes() {
            return Err("a control entry of a redaction has an unknown kind");
        }
        let malformed = "a control entry of a redaction is malformed";
        let done: Done = serde_json::from_slice(row.data).map_err(|_| malformed)?;
        // It excuses what was there before it: never itself, and nothing that came later.
        if done.seqs.iter().any(|(from, to)| from > to || *from == 0 || *to >= row.seq.cast_unsigned()) {
            return Err(malformed);
        }
        done.seqs.iter().for_each(|(from, to)| self.redacted.add(*from, *to));
        Ok(())
    }

    /// Judges what stands beside an entry of the walk.
    pub(super) fn judge(&mut self, seq: u64, beside: Beside) -> Option<(FindingCode, &'static str)> {
        match beside {
            Beside::Unseen => None,
            Beside::Wrong => Some((FindingCode::Personal, "the personal data are not those that the entry commits to")),
            Beside::Good if self.redacted.has(seq) => {
                Some((FindingCode::Leftover, "the personal data are redacted, and they are still there"))
            }
            Beside::Good => None,
            Beside::Nothing => {
                if !self.redacted.has(seq) {
                    self.unexplained.add(seq, seq);
                }
                None
            }
        }
    }

    /// Tells whether the newest control entries should be asked for, lest the list grow without a bound.
    pub(super) fn waits_for_much(&self) -> bool {
        self.unexplained.0.len() >= PENDING
    }

    /// Returns what no control entry explains, once those are known that came before this moment.
    pub(super) fn end(&mut self) -> Vec<(u64, u64)> {
        let left = std::mem::take(&mut self.unexplained).0;
        let mut never = Vec::new();
        for (from, to) in left {
            let mut seq = from;
            while seq <= to {
                // Ranges of what is redacted are long and few: each step passes one of them.
                if self.redacted.has(seq) {
                    seq = self.redacted.0.range(..=seq).next_back().map_or(seq, |(_, last)| *last) + 1;
                    continue;
                }
                let next = self.redacted.0.range(seq..).next().map_or(to, |(first, _)| to.min(first - 1));
                never.push((seq, next));
                seq = next + 1;
            }
        }
        never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_what_is_left_of_them_is_exact() {
        let mut all = Redactions::default();
        for seq in [5, 3, 4, 9, 11, 10, 2] {
            all.unexplained.add(seq, seq);
        }
        assert_eq!(all.unexplained.0, BTreeMap::from([(2, 5), (9, 11)]));
        all.redacted.add(1, 2);
        all.redacted.add(4, 4);
        all.redacted.add(11, 40);
        assert!(all.redacted.has(20) && !all.redacted.has(41) && !all.redacted.has(3));
        assert_eq!(all.end(), [(3, 3), (5, 5), (9, 10)]);
        assert_eq!(all.end(), []);
    }
}
