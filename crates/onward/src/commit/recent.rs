//! The newest commits of this queue's own batches, shared by all readers, so that one that keeps up costs no read of the log (INV-4).
//!
//! The log stays the truth: what is not in here is read there. Nothing comes in before its COMMIT is decided, and never with a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use super::feed::{Change, Record};
use crate::model::{Epoch, Object, Revision};

/// Most commits that are held.
const COMMITS: usize = 1_024;
/// Most bytes that they hold.
const BYTES: usize = 8 << 20;
/// What a commit, a change or an entry counts beside its content.
const EACH: usize = 256;

/// Commits in revision order, without a gap, of one epoch.
#[derive(Debug, Default)]
pub(super) struct Recent {
    epoch: Option<Epoch>,
    records: VecDeque<(Arc<Record>, usize)>,
    bytes: usize,
}

impl Recent {
    /// Adds a batch, and returns what made room for it. If another process, or a commit of unknown effect, came between, all that was held
    /// goes: the log has it.
    pub(super) fn add(&mut self, epoch: Epoch, batch: &[Arc<Record>]) -> Vec<Arc<Record>> {
        let mut gone = Vec::new();
        for record in batch {
            let follows = self.records.back().is_none_or(|(last, _)| last.revision.next() == record.revision);
            if self.epoch != Some(epoch) || !follows {
                gone.extend(self.clear());
                self.epoch = Some(epoch);
            }
            let size = size(record);
            self.bytes += size;
            self.records.push_back((record.clone(), size));
            while self.records.len() > COMMITS || self.bytes > BYTES {
                gone.extend(self.oldest());
            }
        }
        gone
    }

    /// Holds nothing any more; returns what it held.
    pub(super) fn clear(&mut self) -> Vec<Arc<Record>> {
        self.bytes = 0;
        self.records.drain(..).map(|(record, _)| record).collect()
    }

    /// Drops everything up to a revision, as the log did.
    pub(super) fn compact(&mut self, up_to: Revision) {
        while self.records.front().is_some_and(|(oldest, _)| oldest.revision <= up_to) {
            self.oldest();
        }
    }

    /// Returns the commits right after a revision, at most `limit`; none if the next one is not held.
    pub(super) fn after(&self, epoch: Epoch, after: Revision, limit: usize) -> Vec<Arc<Record>> {
        let Some((oldest, _)) = self.records.front() else { return Vec::new() };
        let skip = after.next().get().checked_sub(oldest.revision.get()).and_then(|skip| usize::try_from(skip).ok());
        match skip {
            Some(skip) if self.epoch == Some(epoch) => {
                self.records.iter().skip(skip).take(limit).map(|(record, _)| record.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    fn oldest(&mut self) -> Option<Arc<Record>> {
        let (record, size) = self.records.pop_front()?;
        self.bytes -= size;
        Some(record)
    }
}

/// About how many bytes a commit holds; a state that is the end of one change and the beginning of another counts twice.
fn size(record: &Record) -> usize {
    let object = |object: &Option<Arc<Object>>| object.as_ref().map_or(0, |object| object.value.bytes().len() + object.meta.labels.bytes());
    let change = |change: &Change| EACH + object(&change.before) + object(&change.after);
    EACH * (1 + record.entries.len())
        + record.changes.iter().map(change).sum::<usize>()
        + record.invalidations.iter().map(|(namespace, key)| EACH + namespace.len() + key.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn record(number: u64, invalidated: usize) -> Arc<Record> {
        Arc::new(Record {
            revision: Revision::new(number).unwrap(),
            at: Timestamp::default(),
            changes: Vec::new(),
            invalidations: vec![("ns".to_owned(), "k".repeat(invalidated))],
            entries: Vec::new(),
            request: None,
        })
    }

    fn held(recent: &Recent, after: u64) -> Vec<u64> {
        let after = Revision::new(after).unwrap();
        recent.after(Epoch::from_bits(1), after, usize::MAX).iter().map(|record| record.revision.get()).collect()
    }

    #[test]
    fn a_gap_or_another_epoch_empties_it() {
        let mut recent = Recent::default();
        recent.add(Epoch::from_bits(1), &[record(1, 0), record(2, 0)]);
        recent.add(Epoch::from_bits(1), &[record(3, 0)]);
        assert_eq!((held(&recent, 0), held(&recent, 2), held(&recent, 3)), (vec![1, 2, 3], vec![3], vec![]));
        recent.add(Epoch::from_bits(1), &[record(5, 0), record(6, 0)]);
        assert_eq!((held(&recent, 3), held(&recent, 4)), (vec![], vec![5, 6]));
        recent.add(Epoch::from_bits(2), &[record(7, 0)]);
        assert_eq!((held(&recent, 4), held(&recent, 6)), (vec![], vec![]), "the epoch is another one");
    }

    #[test]
    fn it_is_bounded_and_a_reader_behind_it_gets_nothing() {
        let mut recent = Recent::default();
        let commits = COMMITS as u64;
        recent.add(Epoch::from_bits(1), &(1..=commits + 2).map(|number| record(number, 0)).collect::<Vec<_>>());
        assert_eq!((held(&recent, 1), held(&recent, 2).len()), (vec![], COMMITS));
        recent.add(Epoch::from_bits(1), &[record(commits + 3, BYTES / 2), record(commits + 4, BYTES / 2 - 5 * EACH)]);
        assert!(recent.bytes <= BYTES && held(&recent, commits + 2).len() == 2);
        recent.add(Epoch::from_bits(1), &[record(commits + 5, BYTES)]);
        assert_eq!((recent.bytes, recent.records.len()), (0, 0), "greater than all its room");
    }

    #[test]
    fn what_the_log_lost_is_not_held() {
        let mut recent = Recent::default();
        recent.add(Epoch::from_bits(1), &(1..=5).map(|number| record(number, 0)).collect::<Vec<_>>());
        recent.compact(Revision::new(3).unwrap());
        assert_eq!((held(&recent, 2), held(&recent, 3)), (vec![], vec![4, 5]));
    }
}
