//! The one writer loop: take a batch, take the writer's right, read rows, decide, carry out, COMMIT, answer.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::builder::Commit;
use super::decide::{self, Decision, View, decide};
use super::engine::{CommitEngine, Plan, Remembered, Wanted, Writer};
use super::feed::{Feed, Record};
use super::judge::{self, Prepared};
use super::outcome::{CommitOutcome, Delivery, Receipt};
use super::retention::{Prune, Pruned, Retention};
use crate::model::{ChainName, Epoch, Fingerprint, Head, MacKeys, RequestId, Revision, Sealed};
use crate::observe::{Event, SharedObserver, tell};
use crate::time::{Clock, Moment, Timestamp};
use crate::{Code, Effect, Error, Result, random, retry};

/// Most commits that wait; one more is told to come back (C7).
const QUEUE_COMMITS: usize = 4_096;
/// Most bytes that wait.
const QUEUE_BYTES: usize = 64 << 20;
/// Most commits of one transaction.
const BATCH_COMMITS: usize = 512;
/// Most bytes of one transaction.
const BATCH_BYTES: usize = 4 << 20;
/// How long a caller waits when it names no deadline.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the writer looks whether the change log is over its bounds, while it has work.
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// Most rows of the change log that go at a time.
const PRUNE_ROWS: usize = 1_000;

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
    waiting_bytes: Arc<AtomicUsize>,
    wake: watch::Receiver<Revision>,
    origin: Arc<str>,
    options: QueueOptions,
}

/// What the writer does, in the order of arrival.
#[derive(Debug)]
enum Task {
    Commit(Box<Pending>),
    /// One bounded part of a compaction.
    Compact {
        up_to: Revision,
        answer: oneshot::Sender<Result<Pruned>>,
    },
}

#[derive(Debug)]
struct Pending {
    commit: Commit,
    print: Fingerprint,
    entries: Vec<Prepared>,
    size: usize,
    deadline: Moment,
    answer: oneshot::Sender<Result<CommitOutcome>>,
}

impl CommitQueue {
    /// Starts the writer of an engine on a thread of its own.
    ///
    /// # Errors
    /// The engine cannot be reached, or a thread cannot be started.
    pub async fn start(engine: Arc<dyn CommitEngine>, options: QueueOptions) -> Result<Self> {
        let meta = engine.meta().await?;
        let writer = Some(engine.writer()?);
        let (sender, receiver) = mpsc::channel(QUEUE_COMMITS);
        let (publish, wake) = watch::channel(meta.revision);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let look = options.clock.now();
        let batcher =
            Batcher { engine: engine.clone(), writer, options: options.clone(), publish, waiting_bytes: waiting_bytes.clone(), look };
        std::thread::Builder::new()
            .name("onward-writer".to_owned())
            .spawn(move || pollster::block_on(batcher.run(receiver)))
            .map_err(|e| Error::unavailable("no thread for the writer").with_source(e))?;
        Ok(Self(Arc::new(Inner { engine, sender, waiting_bytes, wake, origin: meta.origin, options })))
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

    /// Returns the base of the origins of this store's chains.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Opens a reader of the change feed after a revision, or at the newest one.
    ///
    /// # Errors
    /// [`Kind::Expired`](crate::Kind::Expired): the revision is compacted or in the future, or the epoch is another one.
    pub async fn feed(&self, after: Option<Revision>, epoch: Option<Epoch>) -> Result<Feed> {
        Feed::open(self.0.engine.clone(), self.0.wake.clone(), self.0.options.clock.clone(), after, epoch).await
    }

    /// Applies a commit, or tells why not.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a limit, or the request id was used with other content. `Overloaded`: the queue is full, or
    /// the deadline passed in it; nothing was applied. `Backend` with [`Effect::Unknown`]: ask again with the same request id.
    ///
    /// # Cancel safety
    /// Dropped while it waits in the queue, nothing is applied; once taken, the writer owns the commit to its end (C6).
    pub async fn submit(&self, mut commit: Commit) -> Result<CommitOutcome> {
        let size = commit.check()?;
        let print = commit.fingerprint();
        let inner = &*self.0;
        let clock = &inner.options.clock;
        let request = commit.request.clone();
        let ids = judge::event_ids(&commit.entries, request.as_ref(), || random::uuid_v7(clock).to_string());
        let entries = judge::prepare(&inner.origin, &commit.entries, &ids);
        let deadline = clock.now() + commit.wait.unwrap_or(DEADLINE);
        let (answer, answered) = oneshot::channel();

        let waiting = inner.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let task = Task::Commit(Box::new(Pending { commit, print, entries, size, deadline, answer }));
        let sent = if waiting + size > QUEUE_BYTES {
            Err(true)
        } else {
            inner.sender.try_send(task).map_err(|e| matches!(e, mpsc::error::TrySendError::Full(_)))
        };
        if let Err(full) = sent {
            inner.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(if full {
                Error::overloaded("the commit queue is full", Duration::from_millis(50)).during("commit")
            } else {
                Error::unavailable("the writer has ended").during("commit")
            });
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
        tell(&inner.options.observer, &Event::Commit { outcome: label(&outcome) });
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
            let full = || Error::overloaded("the commit queue is full", Duration::from_millis(50));
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

fn label(outcome: &Result<CommitOutcome>) -> &'static str {
    match outcome {
        Ok(CommitOutcome::Committed(receipt)) if receipt.replayed => "replayed",
        Ok(CommitOutcome::Committed(receipt)) if receipt.changed => "committed",
        Ok(CommitOutcome::Committed(_)) => "unchanged",
        Ok(CommitOutcome::Conflict(_)) => "conflict",
        Ok(CommitOutcome::Fenced { .. }) => "fenced",
        Err(_) => "error",
    }
}

fn replayed(receipt: &Receipt) -> Receipt {
    let mut receipt = receipt.clone();
    receipt.replayed = true;
    receipt.writes.iter_mut().for_each(|written| written.replayed = true);
    receipt
}

/// The writer's side of the queue.
struct Batcher {
    engine: Arc<dyn CommitEngine>,
    /// Gone after a failure that left its state unknown; the next batch opens another.
    writer: Option<Box<dyn Writer>>,
    options: QueueOptions,
    publish: watch::Sender<Revision>,
    waiting_bytes: Arc<AtomicUsize>,
    /// When the change log is looked at next.
    look: Moment,
}

impl Batcher {
    async fn run(mut self, mut queue: mpsc::Receiver<Task>) {
        let mut batch = Vec::with_capacity(BATCH_COMMITS);
        while let Some(first) = queue.recv().await {
            let mut next = Some(first);
            let mut bytes = 0;
            let mut compact = None;
            while let Some(task) = next {
                match task {
                    Task::Commit(pending) => {
                        bytes += pending.size;
                        batch.push(*pending);
                    }
                    // It ends the batch, so that everyone who came before is answered first.
                    Task::Compact { up_to, answer } => {
                        compact = Some((up_to, answer));
                        break;
                    }
                }
                let full = batch.len() >= BATCH_COMMITS || bytes >= BATCH_BYTES;
                next = if full { None } else { queue.try_recv().ok() };
            }
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if !batch.is_empty() {
                self.write(&mut batch).await;
            }
            if let Some((up_to, answer)) = compact {
                // Whoever left needs no answer.
                let _ = answer.send(self.prune(up_to).await.map_err(|e| e.during("compact")));
            } else if self.options.clock.now() >= self.look {
                // What fails now is tried again at the next look: the log only grows meanwhile.
                let more = matches!(self.prune(Revision::default()).await, Ok(Pruned { more: true, .. }));
                self.look = self.options.clock.now() + if more { Duration::ZERO } else { PRUNE_EVERY };
            }
            if let Some(writer) = &mut self.writer {
                writer.tidy().await;
            }
        }
    }

    /// Takes a bounded part off the old end of the change log.
    async fn prune(&mut self, up_to: Revision) -> Result<Pruned> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.engine.writer()?,
        };
        let Retention { age, bytes } = self.options.retention;
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(self.options.clock.wall().as_micros().saturating_sub(age));
        let pruned = caught(writer.prune(&Prune { up_to, before, bytes, rows: PRUNE_ROWS })).await;
        self.writer = Some(writer).filter(|_| !pruned.as_ref().is_err_and(|e| e.effect() == Effect::Unknown));
        pruned
    }

    /// Writes one batch and answers everyone in it.
    async fn write(&mut self, batch: &mut Vec<Pending>) {
        let now = self.options.clock.now();
        let mut live = Vec::with_capacity(batch.len());
        for pending in batch.drain(..) {
            if pending.deadline <= now {
                // Whoever left needs no answer.
                let _ = pending.answer.send(Err(late()));
            } else if !pending.answer.is_closed() {
                live.push(pending);
            }
        }
        if live.is_empty() {
            return;
        }
        let outcomes = match self.attempt(&live).await {
            Ok(outcomes) => outcomes,
            // The engine refuses the plan as a whole. One by one, only the culprit is refused. Not so if the plan may have landed: a second
            // try could apply it twice.
            Err(error) if error.code() == Code::IntegrityFailure && error.effect() == Effect::NotApplied && live.len() > 1 => {
                for pending in live {
                    let outcome = self.attempt(std::slice::from_ref(&pending)).await;
                    let outcome = outcome
                        .and_then(|mut outcomes| outcomes.pop().unwrap_or_else(|| Err(Error::integrity("a commit without an outcome"))));
                    let _ = pending.answer.send(outcome);
                }
                return;
            }
            Err(error) => live.iter().map(|_| Err(error.again())).collect(),
        };
        for (pending, outcome) in live.into_iter().zip(outcomes) {
            let _ = pending.answer.send(outcome);
        }
    }

    /// Judges and writes a batch in one transaction; one outcome for each commit, or the error that all of them share.
    ///
    /// A failure whose effect is unknown, a panic among them, costs this writer: nobody knows what state it is in.
    async fn attempt(&mut self, batch: &[Pending]) -> Result<Vec<Result<CommitOutcome>>> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.engine.writer()?,
        };
        let done = caught(transact(&mut *writer, &self.options, batch)).await;
        let (outcomes, revision) = match done {
            Ok(done) => done,
            Err(error) => {
                self.writer = Some(writer).filter(|_| error.effect() == Effect::NotApplied);
                return Err(error.during("commit"));
            }
        };
        self.writer = Some(writer);
        if let Some(revision) = revision {
            self.publish.send_replace(revision);
        }
        Ok(outcomes)
    }
}

/// The transaction of a batch: the outcomes, and the newest revision if anything was written.
async fn transact(
    writer: &mut dyn Writer,
    options: &QueueOptions,
    batch: &[Pending],
) -> Result<(Vec<Result<CommitOutcome>>, Option<Revision>)> {
    let rows = writer.begin(&wanted(batch)).await?;
    let begun = options.clock.now();
    // Wall time may step back; the store's does not. A chain says by itself when its clock was behind.
    let wall = options.clock.wall();
    let now = wall.max(rows.meta.at);
    let (view, heads) = View::new(rows, now);
    let mut draft = Draft { view, wall, heads, records: Vec::new(), entries: Vec::new(), touched: Touched::default() };
    let judge = |pending: &Pending| {
        // Another process may have held the right for long.
        if pending.deadline <= begun || pending.answer.is_closed() {
            return Err(late());
        }
        draft.judge(pending, &options.keys).map_err(|e| e.during("commit"))
    };
    let outcomes = batch.iter().map(judge).collect();
    let Some(plan) = draft.into_plan() else {
        writer.give_back().await;
        return Ok((outcomes, None));
    };
    let started = options.clock.now();
    writer.finish(&plan).await?;
    let sync = options.clock.now().since(started);
    tell(&options.observer, &Event::Batch { commits: batch.len(), sync });
    Ok((outcomes, Some(plan.meta.revision)))
}

fn late() -> Error {
    Error::overloaded("the deadline passed while the commit waited", Duration::from_millis(50)).during("commit")
}

/// Turns a panic into an error: the queue must answer everyone and go on.
async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(Error::unknown("the writer panicked"))))
    })
    .await
}

fn wanted(batch: &[Pending]) -> Wanted {
    let mut wanted = Wanted::default();
    for Pending { commit, .. } in batch {
        wanted.objects.extend(commit.writes.iter().map(|write| write.key.clone()));
        wanted.objects.extend(commit.guards.iter().map(|guard| guard.key().clone()));
        wanted.fences.extend(commit.fences.iter().map(|fence| fence.0.clone()));
        wanted.requests.extend(commit.request.iter().cloned());
        wanted.chains.extend(commit.entries.iter().map(|entry| entry.0.clone()));
    }
    wanted
}

/// A batch in the making: the rows with all earlier commits of the batch on top, and what is to be written.
struct Draft {
    view: View,
    wall: Timestamp,
    heads: HashMap<ChainName, Head>,
    records: Vec<Record>,
    entries: Vec<(ChainName, Arc<Sealed>)>,
    touched: Touched,
}

#[derive(Default)]
struct Touched {
    objects: Vec<crate::model::Key>,
    fences: Vec<crate::model::LockKey>,
    requests: Vec<RequestId>,
    chains: Vec<ChainName>,
}

impl Draft {
    fn judge(&mut self, pending: &Pending, keys: &MacKeys) -> Result<CommitOutcome> {
        let commit = &pending.commit;
        let verdict = match decide(commit, &pending.print, &self.view)? {
            Decision::Replay(receipt) => return Ok(CommitOutcome::Committed(replayed(&receipt))),
            Decision::Conflict(conflicts) => return Ok(CommitOutcome::Conflict(conflicts)),
            Decision::Fenced { lock, token, newest } => return Ok(CommitOutcome::Fenced { lock, token, newest }),
            Decision::Apply(verdict) => verdict,
        };
        // Judged last: from here on nothing refuses the commit.
        let (entries, audit) = judge::chain(&pending.entries, &mut self.heads, keys, self.wall)?;
        self.view.lay(&verdict);
        let receipt = Receipt {
            revision: verdict.revision.unwrap_or(self.view.meta.revision),
            writes: verdict.written,
            audit,
            changed: verdict.revision.is_some(),
            replayed: false,
            invalidation: Delivery::NotAsked,
        };
        self.touched.objects.extend(verdict.changes.iter().map(|change| change.key.clone()));
        self.touched.fences.extend(verdict.fences.into_iter().map(|fence| fence.0));
        self.touched.chains.extend(pending.entries.iter().map(|entry| entry.chain.clone()));
        self.entries.extend(entries);
        if let Some(revision) = verdict.revision {
            self.records.push(Record {
                revision,
                at: self.view.now,
                changes: verdict.changes,
                invalidations: commit.invalidations.clone(),
                entries: receipt.audit.clone(),
                request: commit.request.clone(),
            });
        }
        if let Some(id) = &commit.request {
            let expires_at = Timestamp::from_micros(self.view.now.as_micros() + commit.window.micros());
            let known = Remembered { fingerprint: pending.print, receipt: Arc::new(receipt.clone()), expires_at };
            self.view.requests.insert(id.clone(), known);
            self.touched.requests.push(id.clone());
        }
        Ok(CommitOutcome::Committed(receipt))
    }

    /// Merges what is to be written; `None` if there is nothing.
    fn into_plan(self) -> Option<Plan> {
        let Self { mut view, mut heads, records, entries, touched, .. } = self;
        if records.is_empty() && touched.requests.is_empty() {
            return None;
        }
        if !records.is_empty() {
            view.meta.at = view.now;
        }
        Some(Plan {
            objects: touched.objects.into_iter().map(|key| (key.clone(), view.objects.get(&key).cloned())).collect(),
            fences: touched.fences.into_iter().filter_map(|lock| view.fences.remove_entry(&lock)).collect(),
            requests: touched.requests.into_iter().filter_map(|id| view.requests.remove_entry(&id)).collect(),
            heads: touched.chains.into_iter().filter_map(|chain| heads.remove_entry(&chain)).collect(),
            now: view.now,
            meta: view.meta,
            records,
            entries,
        })
    }
}
