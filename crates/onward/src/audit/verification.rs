//! Running a verification beside everything else: off the runtime's threads, at a chosen pace, ended when nobody waits for it any more.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::archive::Archive;
use super::chain::Chain;
use super::verify::segment::Border;
use super::verify::{self, ArchiveFile, Check, Controls, EachPersonal, Filed, Progress, Report, Source, View};
use crate::model::RowRef;
use crate::observe::Event;
use crate::retry;
use crate::time::{Clock, Moment};
use crate::{Error, Result};

/// How fast a verification may go, so that it leaves the disk and the processor to others. By default as fast as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pace {
    /// Most rows a second.
    pub rows_per_s: Option<u64>,
    /// Most bytes of text and data a second.
    pub bytes_per_s: Option<u64>,
}

impl Pace {
    fn check(self) -> Result<()> {
        if self.rows_per_s == Some(0) || self.bytes_per_s == Some(0) {
            return Err(Error::invalid("a pace is at least one row and one byte a second"));
        }
        Ok(())
    }

    /// How long a walk must have taken to be where it is.
    fn due(self, progress: Progress) -> Duration {
        let time = |done: u64, rate: Option<u64>| rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(done as f64 / rate as f64));
        time(progress.rows_hashed, self.rows_per_s).max(time(progress.bytes_hashed, self.bytes_per_s))
    }
}

impl Chain {
    /// Walks the chain and reports everything that is wrong with it, with the keys that this trail seals with.
    ///
    /// The verdict on a whole chain is [kept](Chain::last_verdict).
    ///
    /// # Errors
    /// As [`Chain::verify_watched`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the walk.
    pub async fn verify(&self, check: Check) -> Result<Report> {
        self.verify_watched(check, Pace::default(), |_| {}).await
    }

    /// Does what [`Chain::verify`] does at a pace, and tells `watch` how far it is.
    ///
    /// # Errors
    /// No verdict: [`Kind::NotFound`](crate::Kind::NotFound), no such chain; `Invalid`, the range, the pace or the saved head;
    /// `Overloaded`, four verifications run already; `Backend`, the engine could not be read.
    ///
    /// # Cancel safety
    /// Dropping the future ends the walk.
    pub async fn verify_watched(&self, check: Check, pace: Pace, watch: impl FnMut(Progress) + Send + 'static) -> Result<Report> {
        let whole = check.from.is_none() && check.to.is_none();
        let attested = check.saved.is_some() || check.checkpoint.is_some();
        let walked = self.walk(check, pace, watch).await.map_err(|e| e.during("verify"));
        let verdict = walked.as_ref().map_or("failed", |report| report.verdict.as_str());
        self.trail().queue().tell(&Event::Verify { verdict, whole });
        let mut report = walked?;
        if whole {
            // A verdict that cannot be kept is still a verdict; the report says that it was not.
            report.kept = self.keep(&report, attested).await.is_ok();
        }
        Ok(report)
    }

    async fn walk(&self, check: Check, pace: Pace, mut watch: impl FnMut(Progress) + Send + 'static) -> Result<Report> {
        pace.check()?;
        let inner = &self.trail().0;
        let permit = inner
            .verifications
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::overloaded("too many verifications run", Duration::from_secs(1)))?;
        let (chain, name, keys) = (self.clone(), self.name().clone(), inner.queue.keys().clone());
        let clock = inner.queue.clock().clone();
        // Closed when the future below is dropped: then nobody waits for the walk.
        let (alive, mut gone) = oneshot::channel::<()>();
        let runtime = Handle::current();
        let walk = move || {
            let _permit = permit;
            let begun = clock.now();
            let source = chain.with_files(&runtime)?;
            verify::verify(&source, &name, &check, &keys, &mut |progress| {
                watch(progress);
                runtime.block_on(wait(&clock, begun + pace.due(progress), &mut gone))
            })
        };
        let ended = tokio::task::spawn_blocking(walk).await;
        drop(alive);
        ended.map_err(|e| Error::unavailable("the verification ended early").with_source(e)).flatten()
    }

    /// Refuses a segment whose border, skeleton or file are not what the chain itself names: it must not lose its rows.
    pub(super) async fn check_bound(&self, border: Border, file: ArchiveFile) -> Result<()> {
        let (chain, runtime) = (self.clone(), Handle::current());
        let check = move || {
            let source = chain.with_files(&runtime)?;
            verify::check_bound(&source, chain.name(), chain.trail().queue().keys(), &border, &file)
        };
        tokio::task::spawn_blocking(check).await.map_err(|e| Error::unavailable("the check of the file ended early").with_source(e))?
    }

    /// Opens what a verifier reads. Blocks.
    fn with_files(&self, runtime: &Handle) -> Result<WithFiles> {
        let inner = self.trail().0.engine.source(self.name())?;
        Ok(WithFiles { inner, archive: self.trail().archive().ok().cloned(), runtime: runtime.clone() })
    }
}

/// A chain in its engine, and its files in the archive.
struct WithFiles {
    inner: Box<dyn Source>,
    archive: Option<Archive>,
    runtime: Handle,
}

impl Source for WithFiles {
    fn read(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        self.inner.read(from, controls, each)
    }

    fn skeleton(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.inner.skeleton(name)
    }

    fn personal(&self, from: i64, to: i64, each: &mut EachPersonal<'_>) -> Result<bool> {
        self.inner.personal(from, to, each)
    }

    fn file(&self, name: &str) -> Result<Filed> {
        self.archive.as_ref().map_or(Ok(Filed::Unseen), |archive| archive.find(name, &self.runtime))
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Self { inner: self.inner.another()?, archive: self.archive.clone(), runtime: self.runtime.clone() }))
    }
}

/// Waits for the time to go on; breaks at once if nobody waits for the walk.
async fn wait(clock: &Clock, until: Moment, gone: &mut oneshot::Receiver<()>) -> ControlFlow<()> {
    let mut due = pin!(retry::sleep_until(clock, until));
    let mut gone = pin!(gone);
    std::future::poll_fn(|cx| {
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ControlFlow::Break(()));
        }
        due.as_mut().poll(cx).map(ControlFlow::Continue)
    })
    .await
}
