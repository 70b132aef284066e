//! What attests a chain from time to time: checkpoints in the archive, and verifications.

use std::time::Duration;

use super::Act;
use super::policy::{Due, Stage, since};
use crate::audit::chain::Chain;
use crate::audit::verification::Pace;
use crate::audit::verify::{Check, Extent, Report, Verdict};
use crate::model::Seq;
use crate::time::Timestamp;
use crate::{Code, Error, Result};

/// How fast maintenance verifies, so that disk and processor are there for others.
const PACE: Pace = Pace { rows_per_s: Some(100_000), bytes_per_s: Some(64 * 1024 * 1024) };

impl Chain {
    /// When a checkpoint is due: the chain grew since the newest one. Without an archive and a key that signs it never is.
    pub(super) async fn checkpoint_due(&self, now: Timestamp) -> Result<Option<Due>> {
        let means = self.trail().means();
        let every = self.trail().policies().of(self.name()).checkpoint_every.filter(|_| means.archive && means.signing);
        let (Some(every), Some(head)) = (every, self.head().await?) else { return Ok(None) };
        let newest = self.anchored_size().await?;
        if newest.is_some_and(|newest| newest.size == head.seq.get()) {
            return Ok(None);
        }
        let since = self.again(newest.map(|newest| newest.at), every, now).await?;
        Ok(Some(Due { stage: Stage::Checkpoint, from: 1, to: head.seq.get(), since }))
    }

    /// When a verification is due, and behind which entry it begins.
    pub(super) async fn verify_due(&self, now: Timestamp) -> Result<Option<Due>> {
        let policy = self.trail().policies().of(self.name());
        if policy.verify_every.is_none() && policy.verify_full_every.is_none() {
            return Ok(None);
        }
        let Some(head) = self.head().await? else { return Ok(None) };
        let (full, newer) = (self.seen(Extent::Full).await?, self.seen(Extent::Incremental).await?);
        let seen = full.max(newer);
        let due = |from, since| Due { stage: Stage::Verify, from, to: head.seq.get(), since };
        let (mut whole, mut rest) = (None, None);
        if let Some(every) = policy.verify_full_every {
            whole = Some(due(1, self.again(full.map(|(at, _)| at), every, now).await?));
        }
        if let Some(every) = policy.verify_every {
            let from = seen.map_or(1, |(_, to)| to.saturating_add(1));
            rest = Some(due(from, self.again(seen.map(|(at, _)| at), every, now).await?));
        }
        // Of two that are due, the one that looks at everything.
        Ok(whole.filter(|whole| whole.since <= now).or(rest.into_iter().chain(whole).min_by_key(|due| due.since)))
    }

    /// Verifies what is behind an entry, or all of it where nothing outside vouches for what is before; tells how often that is wanted.
    pub(super) async fn verify_again(&self, from: u64, act: &Act) -> Result<(Report, Option<Duration>)> {
        let checkpoint = self.anchored().await?;
        let saved = match &checkpoint {
            Some(checkpoint) if from > 1 => self.vouched(from - 1, checkpoint).await?,
            _ => None,
        };
        let check = match saved {
            Some(saved) => Check { saved: Some(saved), extent: Extent::Incremental, ..Check::default() },
            // Also what is wrong with the checkpoint itself is found by this one.
            None => Check { checkpoint, ..Check::default() },
        };
        let watch = act.clone();
        let report = self.verify_watched(check, PACE, move |at| watch.tell(at.seq, at.head)).await?;
        let policy = self.trail().policies().of(self.name());
        Ok((report, policy.verify_every.into_iter().chain(policy.verify_full_every).min()))
    }

    /// When a verdict was kept, and how far it looked. One that is damaged is none; it fails the next verification, which cannot be kept.
    async fn seen(&self, extent: Extent) -> Result<Option<(Timestamp, u64)>> {
        match self.kept(extent).await {
            Ok(kept) => Ok(kept.map(|(kept, _)| (kept.at, kept.to_seq))),
            Err(error) if error.code() == Code::IntegrityFailure => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// When something is due again that was done at a time, or never since the chain began.
    async fn again(&self, last: Option<Timestamp>, every: Duration, now: Timestamp) -> Result<Timestamp> {
        let last = match last {
            Some(last) => last,
            None => self.trail().0.engine.entry(self.name(), Seq::new(1)?).await?.map_or(now, |first| first.at),
        };
        let next = since(last, every);
        // A time that nobody can have written honestly puts nothing off.
        Ok(if next > since(since(now, every), every) { now } else { next })
    }
}

/// What a step tells of a verification: the last entry, or what is wrong.
pub(super) fn told(report: &Report) -> Result<u64> {
    let first =
        || report.findings.first().map_or_else(String::new, |found| format!(": {} {}..{}", found.code, found.from_seq, found.to_seq));
    match report.verdict {
        Verdict::Broken => Err(Error::integrity(format!("the chain is broken{}", first()))),
        Verdict::Undetermined => Err(Error::unsupported(format!("the verdict on the chain is undetermined{}", first()))),
        Verdict::Ok if !report.kept => Err(Error::unavailable("the chain is good, and the verdict could not be kept")),
        Verdict::Ok => Ok(report.to_seq),
    }
}
