//! Healing: what a worker left unfinished is finished, and what nobody names is collected.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::worker::{Worker, check_free};
use super::{Act, Segment};
use crate::audit::chain::Chain;
use crate::audit::verify::SegmentState;
use crate::audit::verify::segment::SKELETON_KIND;
use crate::commit::engine::Scan;
use crate::commit::{Commit, CommitOutcome};
use crate::{Kind, Result};

/// A part of a skeleton that no segment names is left alone for this long: its seal may still come.
const YOUNG: Duration = Duration::from_secs(3_600);

/// What healing a chain did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// The first entries of segments whose unfinished work was finished.
    pub finished: Vec<u64>,
    /// The first entries of segments that a hold or another worker keeps from being finished.
    pub waiting: Vec<u64>,
    /// How many files and parts of skeletons that nobody names were deleted.
    pub collected: usize,
}

impl Chain {
    /// Finishes what dead workers left: purges and restores that were begun, files that were to go, files and skeletons of attempts
    /// that came to nothing. Every step can be repeated, by anybody, any number of times.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine or the archive is away, or `integrity_failure`. What was done stays done.
    pub async fn heal(&self, act: &Act) -> Result<Healed> {
        self.heal_all(act).await.map_err(|e| e.during("heal"))
    }

    async fn heal_all(&self, act: &Act) -> Result<Healed> {
        act.check()?;
        let mut healed = Healed::default();
        for segment in &self.all_segments().await? {
            match self.finish(segment, act).await {
                Ok(Outcome::Finished) => healed.finished.push(segment.from),
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Waits) => healed.waiting.push(segment.from),
                Err(error) if error.kind() == Kind::Conflict => healed.waiting.push(segment.from),
                Err(error) => return Err(error),
            }
        }
        healed.collected = self.collect(act).await?;
        Ok(healed)
    }

    /// Finishes a purge or a restore that was begun.
    pub(super) async fn finish(&self, segment: &Segment, act: &Act) -> Result<Outcome> {
        if !matches!(segment.state, SegmentState::Purging | SegmentState::Restoring) {
            return Ok(Outcome::Nothing);
        }
        if check_free(segment, self.trail().queue().clock().wall()).is_err() || self.is_held(segment).await? {
            return Ok(Outcome::Waits);
        }
        match segment.state {
            SegmentState::Purging => self.purge_segment(segment.from, act).await?,
            _ => self.restore_segment(segment.from, segment.until, act).await?,
        };
        Ok(Outcome::Finished)
    }

    /// Deletes what nobody names: files of attempts that came to nothing, parts of skeletons; returns how much.
    pub(super) async fn collect(&self, act: &Act) -> Result<usize> {
        let segments = self.all_segments().await?;
        let mut collected = 0;
        for segment in &segments {
            let now = self.trail().queue().clock().wall();
            let at_work = matches!(segment.state, SegmentState::Purging | SegmentState::Restoring);
            if at_work || check_free(segment, now).is_err() {
                continue;
            }
            match self.sweep(segment, act).await {
                Ok(deleted) => collected += deleted,
                // Somebody took it meanwhile: it is swept another time.
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(collected + self.collect_skeletons(&segments, act).await?)
    }

    /// Deletes the files of attempts that came to nothing.
    async fn sweep(&self, segment: &Segment, act: &Act) -> Result<usize> {
        let Ok(archive) = self.trail().archive() else { return Ok(0) };
        let named = segment.archive.as_ref().filter(|_| segment.state.has_file()).map(|file| file.name.as_str());
        let kept = named.and_then(|name| name.rsplit_once('/')).map(|(folder, _)| format!("{folder}/"));
        let files = archive.list(&super::archiving::folder(self, segment).await?).await?;
        let garbage = files.iter().filter(|name| !kept.as_ref().is_some_and(|kept| name.starts_with(kept))).count();
        if garbage == 0 || act.dry {
            return Ok(garbage);
        }
        // Taking the segment raises its attempt: whoever wrote the files, and sleeps, can name them no more.
        let mut worker = Worker::take(self, segment.from, &[segment.state], act).await?;
        let deleted = self.delete_files(&worker.segment, named).await;
        worker.leave().await?;
        deleted
    }

    /// Deletes parts of skeletons that no segment names.
    async fn collect_skeletons(&self, segments: &[Segment], act: &Act) -> Result<usize> {
        let queue = self.trail().queue();
        let old = queue.clock().wall().as_micros().saturating_sub(i64::try_from(YOUNG.as_micros()).unwrap_or(i64::MAX));
        let open = segments.last().map_or(1, |last| last.to + 1);
        let (mut after, mut collected) = (String::new(), 0);
        loop {
            let scan = Scan {
                namespace: "default".to_owned(),
                kind: SKELETON_KIND.to_owned(),
                prefix: format!("{}/", self.name()),
                after,
                limit: 16,
                ..Scan::default()
            };
            let page = queue.engine().list(scan).await?;
            for object in &page.items {
                let mut parts = object.key.name().split('/').skip(1);
                let (from, place) = (parts.next().and_then(|from| from.parse::<u64>().ok()), parts.next());
                let named = segments.iter().any(|segment| Some(segment.from) == from && Some(segment.place.as_str()) == place);
                let young = object.meta.created_at.as_micros() > old && from == Some(open);
                if named || young {
                    continue;
                }
                collected += 1;
                if !act.dry {
                    let commit = Commit::new().delete(object.key.clone(), object.meta.version);
                    // A part that is gone already was somebody else's find.
                    let CommitOutcome::Committed(_) = queue.submit(commit).await? else { continue };
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(collected),
            }
        }
    }
}

/// What finishing the work on one segment came to.
pub(super) enum Outcome {
    Finished,
    Waits,
    Nothing,
}
