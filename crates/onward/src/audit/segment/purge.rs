//! Purging: entries go from the database once they are surely elsewhere; then the file, if it has to go, too.

use serde_json::{Map, json};

use super::archiving::{folder, named};
use super::worker::{Worker, check_free, check_state};
use super::{Act, Segment};
use crate::audit::chain::Chain;
use crate::audit::engine::Moved;
use crate::audit::verify::SegmentState;
use crate::audit::verify::segment::{CHUNK, Chunk, chunks};
use crate::model::{Hash, Seq};
use crate::{Error, Result};

impl Chain {
    /// Deletes the entries of an archived segment from the database; the skeleton, the control entries and the proofs stay.
    ///
    /// Before anything goes, the file is read back, byte for byte the one that the chain names, and a signed checkpoint of the whole chain
    /// is put into the archive, which must continue the one before it there. The head is taken twice, for one entry each: before the first row goes, and after the last.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict): the segment is not archived, a hold covers it, or another worker is at it; a purge that
    /// was begun stalls under a hold and goes on after it. `Unsupported`: there is no archive, no signing key, or no key that seals
    /// entries, so that the chain's word for the absence would be anybody's. `NotFound`: no such segment. `Backend`: the engine or the
    /// archive is away, or `integrity_failure`: the file is not what was archived, or a foreign row stands in the range; its effect is
    /// `Unknown` once the purge is announced: rows may have gone, and [`Chain::heal`] goes on.
    ///
    /// # Cancel safety
    /// Dropped, it stops between two batches; [`Chain::heal`] goes on.
    pub async fn purge(&self, from: Seq, act: &Act) -> Result<Segment> {
        self.purge_segment(from.get(), act).await.map_err(|e| e.during("purge"))
    }

    pub(super) async fn purge_segment(&self, from: u64, act: &Act) -> Result<Segment> {
        act.check()?;
        self.trail().archive()?;
        if self.trail().queue().keys().is_empty() {
            return Err(Error::unsupported("a chain that no key seals is not purged: its word for the absence would be anybody's"));
        }
        let states = [SegmentState::Archived, SegmentState::Purging];
        let (segment, _) = self.load(from).await?;
        check_state(&segment, &states)?;
        check_free(&segment, self.trail().queue().clock().wall())?;
        self.free_of_holds(segment.from, segment.to).await?;
        let file = segment.archive.clone().ok_or_else(|| Error::integrity("an archived segment without a file"))?;
        // Also when it goes on: whatever happened meanwhile, the last rows never go without the file.
        self.check_bound(segment.border(), file).await?;
        if act.dry {
            return Ok(segment);
        }
        let mut worker = Worker::take(self, from, &states, act).await?;
        let purged = self.purge_rows(&mut worker).await.map_err(|e| worker.failed(e, SegmentState::Purging));
        if purged.is_err() {
            let _ = worker.leave().await;
        }
        purged.map(|()| worker.segment)
    }

    async fn purge_rows(&self, worker: &mut Worker<'_>) -> Result<()> {
        let (from, to) = (worker.segment.from, worker.segment.to);
        let mut holds = self.free_of_holds(from, to).await?;
        if worker.segment.state == SegmentState::Archived {
            // What is purged is proved by something that the database's writers cannot change.
            let checkpoint = self.anchor().await?;
            let mut data = named(worker.segment.archive.as_ref());
            data.insert("checkpoint".to_owned(), json!({"size": checkpoint.size, "root": checkpoint.root}));
            let next = |segment: &mut Segment| (segment.state, segment.until) = (SegmentState::Purging, None);
            worker.step("segment.purge_begun", vec![holds.clone()], next, data).await?;
        }
        let (mut done, mut deleted) = (0, 0);
        for index in 0..chunks(&worker.segment.border()) {
            let chunk = self.chunk(&worker.segment, index).await?;
            let first = from + index * CHUNK;
            let rows = (0..usize::try_from(CHUNK).unwrap_or(0)).zip(first..).map_while(|(place, seq)| Some((seq, chunk.get(place)?)));
            let rows: Vec<(u64, Hash)> = rows.filter(|(_, (_, pinned))| !pinned).map(|(seq, (hash, _))| (seq, hash)).collect();
            let (mut rest, before) = (&rows[..], deleted);
            while !rest.is_empty() {
                let (some, more) = rest.split_at(rest.len().min(worker.batch_rows()));
                match worker.move_rows(holds.clone(), Moved::Out(some.to_vec())).await? {
                    Some(moved) => (deleted, done, rest) = (deleted + moved, done + some.len() as u64, more),
                    // Somebody placed or released a hold: perhaps another one's range.
                    None => holds = self.free_of_holds(from, to).await?,
                }
                worker.at(done).await?;
            }
            // What went was each the row that was sealed: if all did, nothing is left to look for.
            if deleted - before < rows.len() as u64 {
                self.check_empty(&worker.segment, first, &chunk).await?;
            }
        }
        let data = Map::from_iter([("deleted".to_owned(), json!(deleted))]);
        let next = |segment: &mut Segment| (segment.state, segment.attempt_until) = (SegmentState::Purged, None);
        worker.step("segment.purged", Vec::new(), next, data).await
    }

    /// Nothing but control entries may be left of a chunk; what is, is foreign and stays as evidence.
    async fn check_empty(&self, segment: &Segment, first: u64, chunk: &Chunk) -> Result<()> {
        let left = self.trail().0.engine.hashes(self.name(), first, segment.to.min(first + CHUNK - 1)).await?;
        let is_pinned = |(seq, hash): &(u64, Hash)| {
            usize::try_from(seq - first).ok().and_then(|place| chunk.get(place)).is_some_and(|known| known == (*hash, true))
        };
        if left.iter().all(is_pinned) {
            Ok(())
        } else {
            Err(Error::integrity("a row stands in the segment that is not the one that was sealed; verify the chain"))
        }
    }

    /// Deletes the file of a purged segment: from then on only the skeleton proves what was there.
    ///
    /// # Errors
    /// As [`Chain::purge`]. A file that could not be deleted is left over, and the effect is `Unknown`; [`Chain::heal`] deletes it.
    ///
    /// # Cancel safety
    /// Dropped behind its commit, it leaves the file; [`Chain::heal`] deletes it.
    pub async fn purge_file(&self, from: Seq, act: &Act) -> Result<Segment> {
        self.purge_the_file(from.get(), act).await.map_err(|e| e.during("purge_file"))
    }

    async fn purge_the_file(&self, from: u64, act: &Act) -> Result<Segment> {
        act.check()?;
        self.trail().archive()?;
        let states = [SegmentState::Purged];
        let (segment, _) = self.load(from).await?;
        check_state(&segment, &states)?;
        let holds = self.free_of_holds(segment.from, segment.to).await?;
        if act.dry {
            return Ok(segment);
        }
        let mut worker = Worker::take(self, from, &states, act).await?;
        let data = named(worker.segment.archive.as_ref());
        let next = |segment: &mut Segment| (segment.state, segment.attempt_until) = (SegmentState::FilePurged, None);
        if let Err(error) = worker.step("segment.file_purged", vec![holds], next, data).await {
            let _ = worker.leave().await;
            return Err(error);
        }
        // Announced by now: nobody counts on the file any more.
        self.delete_files(&worker.segment, None).await.map_err(|e| worker.failed(e, SegmentState::FilePurged))?;
        Ok(worker.segment)
    }

    /// Deletes the files of a segment but those of one attempt; returns how many.
    pub(super) async fn delete_files(&self, segment: &Segment, keep: Option<&str>) -> Result<usize> {
        let archive = self.trail().archive()?;
        let kept = keep.and_then(|name| name.rsplit_once('/')).map(|(folder, _)| format!("{folder}/"));
        let mut deleted = 0;
        for name in archive.list(&folder(self, segment).await?).await? {
            if !kept.as_ref().is_some_and(|kept| name.starts_with(kept)) {
                archive.delete(&name).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}
