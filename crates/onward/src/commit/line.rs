//! The line before the writer: how much waits, how much of it for one object, and how fast it moves (C7).

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::builder::Commit;
use crate::time::Moment;
use crate::{Error, Result};

/// Most commits that wait; one more is told to come back.
pub(super) const COMMITS: usize = 4_096;
/// Most bytes that wait.
const BYTES: usize = 64 << 20;
/// The part of the line that commits on one object may fill: a hot one leaves room for the others.
const SHARE: usize = 2;
/// What a refused caller is told to wait before anything was measured.
const HINT: Duration = Duration::from_millis(50);
/// The least and the longest wait that is advised.
const HINTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(5));

/// What waits for the writer; shared by it and its callers.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: Mutex<Waiting>,
    /// Nanoseconds a commit, smoothed over the last batches; 0 before the first.
    pace: AtomicU64,
    /// Objects are known by their hash: two that share one share their part of the line too, which only makes it smaller.
    hash: RandomState,
    /// Since when the writer is at work, in nanoseconds since boot; 0 while it has none.
    at_work: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    all: Load,
    objects: HashMap<u64, Load>,
}

/// Ends the note that the writer works.
#[derive(Debug)]
pub(super) struct Work<'a>(&'a AtomicU64);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    commits: usize,
    bytes: usize,
}

impl Load {
    fn fits(self, size: usize, part: usize) -> bool {
        self.commits < COMMITS / part && self.bytes + size <= BYTES / part
    }

    fn add(&mut self, size: usize) {
        self.commits += 1;
        self.bytes += size;
    }

    fn take(&mut self, size: usize) {
        self.commits = self.commits.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
    }
}

impl Line {
    /// Takes a place for a commit of `size` bytes.
    ///
    /// # Errors
    /// [`Kind::Overloaded`](crate::Kind::Overloaded): the line is full, or its part for an object is; no place is taken.
    pub(super) fn join(&self, commit: &Commit, size: usize) -> Result<()> {
        let mut waiting = self.waiting.lock();
        let Waiting { all, objects } = &mut *waiting;
        let hot = |object| objects.get(&object).is_some_and(|load| !load.fits(size, SHARE));
        let refusal = if !all.fits(size, 1) {
            Some("the commit queue is full")
        } else if self.objects(commit).any(hot) {
            Some("too many commits wait for one object")
        } else {
            None
        };
        if let Some(message) = refusal {
            drop(waiting);
            return Err(Error::overloaded(message, self.hint()));
        }
        all.add(size);
        for object in self.objects(commit) {
            objects.entry(object).or_default().add(size);
        }
        Ok(())
    }

    /// Gives places back: of those that the writer took, or of one that did not get to it.
    pub(super) fn leave<'a>(&self, commits: impl Iterator<Item = (&'a Commit, usize)>) {
        let mut waiting = self.waiting.lock();
        let Waiting { all, objects } = &mut *waiting;
        for (commit, size) in commits {
            all.take(size);
            for object in self.objects(commit) {
                if let Some(load) = objects.get_mut(&object) {
                    load.take(size);
                    if *load == Load::default() {
                        objects.remove(&object);
                    }
                }
            }
        }
    }

    /// Learns how long a batch took.
    pub(super) fn moved(&self, commits: usize, took: Duration) {
        let each = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / (commits.max(1) as u64);
        let before = self.pace.load(Ordering::Relaxed);
        let pace = if before == 0 { each } else { before - before / 8 + each / 8 };
        self.pace.store(pace.max(1), Ordering::Relaxed);
    }

    /// Says when a refused caller may come back: when what waits now is written, at the pace of the last batches.
    pub(super) fn hint(&self) -> Duration {
        let pace = self.pace.load(Ordering::Relaxed);
        if pace == 0 {
            return HINT;
        }
        let waiting = self.waiting.lock().all.commits as u64;
        Duration::from_nanos(pace.saturating_mul(waiting)).clamp(HINTS.0, HINTS.1)
    }

    /// Notes that the writer began to work, and returns what notes the end of it.
    pub(super) fn work(&self, now: Moment) -> Work<'_> {
        self.at_work.store(now.as_nanos().max(1), Ordering::Relaxed);
        Work(&self.at_work)
    }

    /// Returns since when the writer is at what it does now.
    pub(super) fn at_work(&self) -> Option<Moment> {
        Some(self.at_work.load(Ordering::Relaxed)).filter(|since| *since > 0).map(Moment::from_nanos)
    }

    fn objects<'a>(&'a self, commit: &'a Commit) -> impl Iterator<Item = u64> + 'a {
        commit.writes.iter().map(|write| self.hash.hash_one(&write.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::WriteCondition;
    use crate::model::Payload;

    fn write(name: &str) -> Commit {
        Commit::new().put(("thing", name), &1, WriteCondition::MustExist)
    }

    #[test]
    fn one_object_fills_half_and_the_others_find_room() {
        let line = Line::default();
        let hot = write("hot");
        for _ in 0..COMMITS / 2 {
            line.join(&hot, 100).unwrap();
        }
        assert!(line.join(&hot, 100).is_err());
        // A commit on several objects is refused for any that is hot.
        assert!(line.join(&write("cold").overwrite(("thing", "hot"), Payload::json(&1).unwrap()), 100).is_err());
        for n in 0..COMMITS / 2 {
            line.join(&write(&format!("n{n}")), 100).unwrap();
        }
        assert!(line.join(&write("late"), 1).is_err());
        line.leave(std::iter::once((&hot, 100)));
        line.join(&hot, 100).unwrap();
        assert!(line.join(&write("late"), 1).is_err());
    }

    #[test]
    fn bytes_are_bounded_in_all_and_for_one_object() {
        let line = Line::default();
        let (hot, other) = (write("hot"), write("other"));
        line.join(&hot, BYTES / 2).unwrap();
        assert!(line.join(&hot, 1).is_err());
        line.join(&other, BYTES / 2).unwrap();
        assert!(line.join(&write("late"), 1).is_err());
        line.leave([(&hot, BYTES / 2), (&other, BYTES / 2)].into_iter());
        assert!(line.waiting.lock().objects.is_empty(), "what left is forgotten");
        assert_eq!(line.waiting.lock().all, Load::default());
    }

    #[test]
    fn the_writer_is_at_work_from_the_first_task_to_the_last_answer() {
        let (line, now) = (Line::default(), Moment::from_nanos(7));
        assert_eq!(line.at_work(), None);
        let work = line.work(now);
        assert_eq!(line.at_work(), Some(now));
        drop(work);
        assert_eq!(line.at_work(), None);
    }

    #[test]
    fn the_hint_is_the_time_that_the_line_needs() {
        let line = Line::default();
        assert_eq!(line.hint(), HINT);
        for n in 0..1_000 {
            line.join(&write(&format!("n{n}")), 1).unwrap();
        }
        line.moved(100, Duration::from_millis(20));
        assert_eq!(line.hint(), Duration::from_millis(200));
        // Slower batches are believed by and by.
        line.moved(100, Duration::from_millis(40));
        assert!(line.hint() > Duration::from_millis(200) && line.hint() < Duration::from_millis(400));
        line.moved(1, Duration::from_secs(60));
        assert_eq!(line.hint(), HINTS.1);
    }
}
