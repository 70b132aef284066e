//! The handle of the write path: what is checked and prepared in the caller's own task, before the one writer takes it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::batcher::{Batcher, LOOK_EVERY, Pending, Task, replayed};
use super::builder::Commit;
use super::decide;
use super::engine::{CommitEngine, Remembered};
use super::feed::{Feed, Lookout};
use super::judge;
use super::line::{self, Line};
use super::outcome::{CommitOutcome, Receipt};
use super::retention::Retention;
use crate::model::{Epoch, MacKeys, RequestId, Revision};
use crate::observe::{Event, SharedObserver, tell};
use crate::time::{Clock, Moment};
use crate::{Effect, Error, Kind, Result, random, retry};

/// How long a caller waits when it names no deadline.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a queue needs beside its engine.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The clock.
    pub clock: Clock,
    /// Who is told of batches and outcomes.
    pub observer: SharedObserver,
    /// The keys that seal audit entries.
    pub keys: MacKeys,
    /// How much of the change log is kept.
    pub retention: Retention,
}

/// The handle of the write path; cheap to clone. The writer ends when the last handle is gone and the queue is empty.
#[derive(Debug, Clone)]
pub struct CommitQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Arc<dyn CommitEngine>,
    sender: mpsc::Sender<Task>,
    line: Arc<Line>,
    lookout: Arc<Lookout>,
    origin: Arc<str>,
    options: QueueOptions,
}

impl CommitQueue {
    /// Starts the writer of an engine on a thread of its own.
    ///
    /// # Errors
    /// The engine cannot be reached, or a thread cannot be started.
    pub async fn start(engine: Arc<dyn CommitEngine>, options: QueueOptions) -> Result<Self> {
        let meta = engine.meta().await?;
        let writer = Some(engine.writer()?);
        let (sender, receiver) = mpsc::channel(line::COMMITS);
        let lookout = Arc::new(Lookout::new(watch::Sender::new(meta.revision)));
        let line = Arc::new(Line::default());
        let look = options.clock.now();
        let batcher =
            Batcher { engine: engine.clone(), writer, options: options.clone(), lookout: lookout.clone(), line: line.clone(), look };
        tokio::spawn(tick(sender.downgrade(), options.clock.clone(), look + LOOK_EVERY));
        std::thread::Builder::new()
            .name("onward-writer".to_owned())
            .spawn(move || pollster::block_on(batcher.run(receiver)))
            .map_err(|e| Error::unavailable("no thread for the writer").with_source(e))?;
        Ok(Self(Arc::new(Inner { engine, sender, line, lookout, origin: meta.origin, options })))
    }

    /// Returns the engine, for reads.
    pub fn engine(&self) -> &Arc<dyn CommitEngine> {
        &self.0.engine
    }

    /// Returns the keys that seal audit entries.
    pub fn keys(&self) -> &MacKeys {
        &self.0.options.keys
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Clock {
        &self.0.options.clock
    }

    /// Tells the observer.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        tell(&self.0.options.observer, event);
    }

    /// Returns how long the writer has been at the batch that it has; zero while it waits for work.
    ///
    /// Deadlines and bounded waits end each batch in seconds: much longer means a disk or a thread that is stuck.
    pub fn at_work(&self) -> Duration {
        self.0.line.at_work().map_or(Duration::ZERO, |since| self.clock().now().since(since))
    }

    /// Returns how many commits wait for the writer.
    pub fn waiting(&self) -> usize {
        self.0.sender.max_capacity() - self.0.sender.capacity()
    }

    /// Returns the base of the origins of this store's chains.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Opens a reader of the change feed after a revision, or at the newest one.
    ///
    /// # Errors
    /// [`Kind::Expired`](crate::Kind::Expired): the revision is compacted or in the future, or the epoch is another one. `Overloaded`: the
    /// process has 1,000 readers, or as many as it [allows](Self::allow_readers).
    pub async fn feed(&self, after: Option<Revision>, epoch: Option<Epoch>) -> Result<Feed> {
        let place = self.0.lookout.place()?;
        Feed::open(self.0.engine.clone(), self.0.lookout.clone(), self.0.options.clock.clone(), after, epoch, Some(place)).await
    }

    /// As [`CommitQueue::feed`] at the newest revision, for a reader of the library's own: it takes no place from others.
    pub(crate) async fn own_feed(&self) -> Result<Feed> {
        Feed::open(self.0.engine.clone(), self.0.lookout.clone(), self.0.options.clock.clone(), None, None, None).await
    }

    /// Makes room for at least so many readers of the feed at once, for whoever bounds them by other means; it never takes room away.
    pub fn allow_readers(&self, readers: usize) {
        self.0.lookout.allow(readers);
    }

    /// Applies a commit, or tells why not.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit, or the request id was used with other content. `Overloaded`: the queue is full, or
    /// the deadline passed in it; nothing was applied. `Backend` with [`Effect::Unknown`]: ask again with the same request id.
    ///
    /// # Cancel safety
    /// Dropped while it waits in the queue, nothing is applied; once taken, the writer owns the commit to its end (C6).
    pub async fn submit(&self, commit: Commit) -> Result<CommitOutcome> {
        let began = self.clock().now();
        let outcome = self.answer(commit).await;
        self.tell(&Event::Commit { outcome: label(&outcome), took: self.clock().now().since(began) });
        outcome
    }

    async fn answer(&self, mut commit: Commit) -> Result<CommitOutcome> {
        let size = commit.check()?;
        // Only what is asked for again is compared.
        let print = commit.request.is_some().then(|| commit.fingerprint());
        let inner = &*self.0;
        let clock = &inner.options.clock;
        let request = commit.request.clone();
        let ids = judge::event_ids(&commit.entries, request.as_ref(), || random::uuid_v7(clock).to_string());
        let entries = judge::prepare(&inner.origin, &commit.entries, &ids);
        let deadline = clock.now() + commit.wait.unwrap_or(DEADLINE);
        let (answer, answered) = oneshot::channel();

        inner.line.join(&commit, size).map_err(|e| e.during("commit"))?;
        let task = Task::Commit(Box::new(Pending { commit, print, entries, size, deadline, answer }));
        if let Err(refused) = inner.sender.try_send(task) {
            let error = match &refused {
                mpsc::error::TrySendError::Full(_) => Error::overloaded("the commit queue is full", inner.line.hint()),
                mpsc::error::TrySendError::Closed(_) => Error::unavailable("the writer has ended"),
            };
            if let Task::Commit(pending) = refused.into_inner() {
                inner.line.leave(std::iter::once((&pending.commit, size)));
            }
            return Err(error.during("commit"));
        }
        // The writer judges the deadline while the commit waits, and once more when it has the writer's right. Beyond that only a disk
        // that is stuck, or another process that holds the right, can exceed it by this much.
        let unknown = |message: &str| {
            let error = Error::unknown(message).during("commit");
            match &request {
                Some(id) => error.with_request_id(id.clone()),
                None => error,
            }
        };
        let outcome = match retry::deadline(clock, deadline + Duration::from_secs(1), answered).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => return Err(unknown("the writer ended before it answered")),
            None => return Err(unknown("the deadline passed while the commit was being written")),
        };
        outcome.map_err(|error| match (&request, error.effect()) {
            (Some(id), Effect::Unknown) => error.with_request_id(id.clone()),
            _ => error,
        })
    }

    /// Takes the change log off up to a revision, a part at a time behind the commits that wait; returns the mark.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: the queue is full. [`Kind::Backend`]: the engine is away; what was done stays done, ask again.
    pub(crate) async fn compact(&self, up_to: Revision) -> Result<Revision> {
        loop {
            let (answer, answered) = oneshot::channel();
            let full = || Error::overloaded("the commit queue is full", self.0.line.hint());
            self.0.sender.try_send(Task::Compact { up_to, answer }).map_err(|_| full().during("compact"))?;
            let pruned = answered.await.map_err(|_| Error::unknown("the writer ended before it answered").during("compact"))??;
            if !pruned.more {
                return Ok(pruned.compacted);
            }
        }
    }

    /// Gives the answer again if the commit's request was answered before; nothing is applied.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid), `request_id_reused`: the id was used with other content. `Backend`: the engine is away.
    pub async fn replay(&self, commit: &Commit) -> Result<Option<Receipt>> {
        let Some(id) = &commit.request else { return Ok(None) };
        match self.remembered(id).await? {
            Some(known) if known.fingerprint == commit.fingerprint() => Ok(Some(replayed(&known.receipt))),
            Some(_) => Err(decide::reused()),
            None => Ok(None),
        }
    }

    /// Tells what a request id was answered; `None` if it is not remembered.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away.
    pub async fn outcome_of(&self, id: &RequestId) -> Result<Option<Receipt>> {
        Ok(self.remembered(id).await?.map(|known| replayed(&known.receipt)))
    }

    /// Reads what is remembered of an id and not over by the store's time, which the wall's may be behind.
    async fn remembered(&self, id: &RequestId) -> Result<Option<Remembered>> {
        let Some(known) = self.0.engine.remembered(id).await? else { return Ok(None) };
        let now = self.clock().wall().max(self.0.engine.meta().await?.at);
        Ok(Some(known).filter(|known| known.expires_at > now))
    }
}

/// Tells the writer each second that it is time for chores, until all handles are gone.
async fn tick(writer: mpsc::WeakSender<Task>, clock: Clock, first: Moment) {
    let mut next = first;
    loop {
        retry::sleep_until(&clock, next).await;
        next = clock.now() + LOOK_EVERY;
        let Some(sender) = writer.upgrade() else { return };
        // A full queue needs no tick: the writer does its chores behind each batch.
        let _ = sender.try_send(Task::Tick);
    }
}

fn label(outcome: &Result<CommitOutcome>) -> &'static str {
    match outcome {
        Ok(CommitOutcome::Committed(receipt)) if receipt.replayed => "replayed",
        Ok(CommitOutcome::Committed(receipt)) if receipt.changed => "committed",
        Ok(CommitOutcome::Committed(_)) => "unchanged",
        Ok(CommitOutcome::Conflict(_)) => "conflict",
        Ok(CommitOutcome::Fenced { .. }) => "fenced",
        Err(error) => match error.kind() {
            Kind::Invalid => "refused",
            Kind::Overloaded => "overloaded",
            _ => "error",
        },
    }
}
