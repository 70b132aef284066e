//! Restoring: the entries of a purged segment come back from the file, for a while.

use serde_json::{Map, json};

use super::archiving::{Pages, compare};
use super::worker::{Worker, check_free, check_state};
use super::{Act, Segment};
use crate::audit::chain::Chain;
use crate::audit::engine::Moved;
use crate::audit::verify::SegmentState;
use crate::audit::verify::segment::CHUNK;
use crate::model::{Sealed, Seq};
use crate::time::Timestamp;
use crate::{Error, Result};

impl Chain {
    /// Brings the entries of a purged segment back, until a time when maintenance may purge them again.
    ///
    /// The whole file is checked before the first row comes, and every row stands where its hash says. The head is taken twice, for one
    /// entry each.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict): the segment is not purged, or another worker is at it. `Unsupported`: there is no
    /// archive. `NotFound`: no such segment. `Backend`: the engine or the archive is away, or `integrity_failure`: the file is not what was
    /// archived, or a foreign row stands in the range; its effect is `Unknown` once the restore is announced, and [`Chain::heal`] goes on.
    ///
    /// # Cancel safety
    /// Dropped, it stops between two batches; [`Chain::heal`] goes on.
    pub async fn restore(&self, from: Seq, until: Option<Timestamp>, act: &Act) -> Result<Segment> {
        self.restore_segment(from.get(), until, act).await.map_err(|e| e.during("restore"))
    }

    pub(super) async fn restore_segment(&self, from: u64, until: Option<Timestamp>, act: &Act) -> Result<Segment> {
        act.check()?;
        let archive = self.trail().archive()?.clone();
        let states = [SegmentState::Purged, SegmentState::Purging, SegmentState::Restoring];
        let (segment, _) = self.load(from).await?;
        check_state(&segment, &states)?;
        check_free(&segment, self.trail().queue().clock().wall())?;
        let file = segment.archive.clone().ok_or_else(|| Error::integrity("an archived segment without a file"))?;
        compare(self, &archive, &segment, &file).await?;
        if act.dry {
            return Ok(segment);
        }
        let mut worker = Worker::take(self, from, &states, act).await?;
        let restored = self.restore_rows(&mut worker, until).await.map_err(|e| worker.failed(e, SegmentState::Restoring));
        if restored.is_err() {
            let _ = worker.leave().await;
        }
        restored.map(|()| worker.segment)
    }

    async fn restore_rows(&self, worker: &mut Worker<'_>, until: Option<Timestamp>) -> Result<()> {
        if worker.segment.state != SegmentState::Restoring {
            let data = Map::from_iter([("until".to_owned(), json!(until))]);
            let next = |segment: &mut Segment| (segment.state, segment.until) = (SegmentState::Restoring, until);
            worker.step("segment.restore_begun", Vec::new(), next, data).await?;
        }
        let (archive, segment) = (self.trail().archive()?.clone(), worker.segment.clone());
        let file = segment.archive.clone().ok_or_else(|| Error::integrity("an archived segment without a file"))?;
        let mut pages = Pages::open(self, &archive, &segment, &file).await?;
        let mut done = 0;
        while let Some(page) = pages.next().await? {
            let mut rest = page.into_iter().map(Sealed::try_from).collect::<Result<Vec<_>>>()?;
            while !rest.is_empty() {
                let more = rest.split_off(rest.len().min(worker.batch_rows()));
                let count = rest.len() as u64;
                // Nothing goes, so no hold can be in the way.
                let (_, mut holds) = self.read_holds().await?;
                while worker.move_rows(holds, Moved::In(rest.clone())).await?.is_none() {
                    holds = self.read_holds().await?.1;
                }
                (rest, done) = (more, done + count);
                worker.at(done).await?;
            }
        }
        self.check_full(&segment).await?;
        let data = Map::from_iter([("rows".to_owned(), json!(segment.rows())), ("until".to_owned(), json!(segment.until))]);
        let next = |segment: &mut Segment| (segment.state, segment.attempt_until) = (SegmentState::Archived, None);
        worker.step("segment.restored", Vec::new(), next, data).await
    }

    /// Every row must stand there, and be the one that was sealed.
    async fn check_full(&self, segment: &Segment) -> Result<()> {
        let mut first = segment.from;
        while first <= segment.to {
            let last = segment.to.min(first + CHUNK - 1);
            let known = self.known_hashes(segment, first, last).await?;
            let found = self.trail().0.engine.hashes(self.name(), first, last).await?;
            let same = found.len() == known.len() && found.iter().zip(&known).zip(first..).all(|((row, known), seq)| *row == (seq, *known));
            if !same {
                return Err(Error::integrity("a row stands in the segment that is not the one that was sealed; verify the chain"));
            }
            first = last + 1;
        }
        Ok(())
    }
}
