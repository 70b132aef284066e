//! The one writer loop: take a batch, take the writer's right, read rows, decide, carry out, COMMIT, answer.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::builder::Commit;
use super::decide::{Decision, View, decide};
use super::engine::{CommitEngine, Plan, Remembered, Rows, Wanted, Writer};
use super::feed::{Lookout, Record};
use super::judge::{self, Chained, Prepared};
use super::line::Line;
use super::outcome::{CommitOutcome, Delivery, Receipt};
use super::queue::QueueOptions;
use super::retention::{Prune, Pruned, Retention};
use crate::model::{ChainName, Fingerprint, Head, KeptPersonal, MacKeys, RequestId, Revision, Sealed, Seq};
use crate::observe::{Event, tell};
use crate::time::{Clock, Moment, Timestamp};
use crate::{Code, Effect, Error, Result, retry};

/// Most commits of one transaction.
const BATCH_COMMITS: usize = 512;
/// Most bytes of one transaction.
const BATCH_BYTES: usize = 4 << 20;
/// How often the writer looks whether the change log is over its bounds and whose time to live is over.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most rows of the change log that go at a time.
const PRUNE_ROWS: usize = 1_000;
/// Most objects that expire at a time.
const EXPIRE_OBJECTS: usize = 128;

/// How often the writer looks for the next commit of a lone caller before it sleeps: tens of microseconds.
const LOOKS: u32 = 2_000;

/// From which time on a batch is worth a wait for the callers of the one before, and by which part of that time they may take.
const LONG: Duration = Duration::from_millis(2);
const PAUSE_PART: u32 = 8;
/// How long the writer sleeps between two looks at who has come back.
const NAP: Duration = Duration::from_micros(50);

/// What the writer does, in the order of arrival.
#[derive(Debug)]
pub(super) enum Task {
    Commit(Box<Pending>),
    /// One bounded part of a compaction.
    Compact {
        up_to: Revision,
        answer: oneshot::Sender<Result<Pruned>>,
    },
    /// A second is over: a store that nobody writes has its chores too.
    Tick,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) commit: Commit,
    /// What it wants, if it has a request id.
    pub(super) print: Option<Fingerprint>,
    pub(super) entries: Vec<Prepared>,
    pub(super) size: usize,
    pub(super) deadline: Moment,
    pub(super) answer: oneshot::Sender<Result<CommitOutcome>>,
}

/// The writer's side of the queue.
pub(super) struct Batcher {
    pub(super) engine: Arc<dyn CommitEngine>,
    /// Gone after a failure that left its state unknown; the next batch opens another.
    pub(super) writer: Option<Box<dyn Writer>>,
    pub(super) options: QueueOptions,
    pub(super) lookout: Arc<Lookout>,
    pub(super) line: Arc<Line>,
    /// When it looks for chores next.
    pub(super) look: Moment,
}

impl Batcher {
    /// Does what comes in, until all handles are gone and the queue is empty.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Task>) {
        let mut batch = Vec::with_capacity(BATCH_COMMITS);
        let line = self.line.clone();
        let mut alone = false;
        let mut crowd = Crowd::default();
        while let Some(first) = next_task(&mut queue, alone).await {
            crowd.gather(&queue);
            let _work = line.work(self.options.clock.now());
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
                    Task::Tick => self.look = Moment::default(),
                }
                let full = batch.len() >= BATCH_COMMITS || bytes >= BATCH_BYTES;
                next = if full { None } else { queue.try_recv().ok() };
            }
            alone = batch.len() == 1;
            self.line.leave(batch.iter().map(|pending| (&pending.commit, pending.size)));
            if !batch.is_empty() {
                let (begun, commits) = (Clock::system().now(), batch.len());
                self.write(&mut batch).await;
                crowd = Crowd { commits: commits + queue.len(), took: Clock::system().now().since(begun) };
            }
            if let Some((up_to, answer)) = compact {
                // Whoever left needs no answer.
                let _ = answer.send(self.prune(up_to).await.map_err(|e| e.during("compact")));
            } else {
                self.chores(|| queue.is_empty()).await;
            }
            if let Some(writer) = &mut self.writer {
                writer.tidy().await;
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.close().await;
        }
    }

    /// Prunes and expires, if it is time: all there is while nobody waits, a bounded part behind each batch otherwise.
    async fn chores(&mut self, idle: impl Fn() -> bool) {
        while self.options.clock.now() >= self.look {
            // What fails now is tried again at the next look: nothing is lost meanwhile.
            let pruned = matches!(self.prune(Revision::default()).await, Ok(Pruned { more: true, .. }));
            let expired = matches!(self.expire().await, Ok(EXPIRE_OBJECTS));
            if !pruned && !expired {
                self.look = self.options.clock.now() + LOOK_EVERY;
            } else if !idle() {
                return;
            }
        }
    }

    /// Deletes a bounded number of objects whose time to live is over, each at the version that was found, as a caller would: who was
    /// faster keeps the object. Returns how many went.
    async fn expire(&mut self) -> Result<usize> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.engine.writer()?,
        };
        let due = caught(writer.due(self.options.clock.wall(), EXPIRE_OBJECTS)).await;
        self.writer = Some(writer).filter(|_| !due.as_ref().is_err_and(|e| e.effect() == Effect::Unknown));
        let due = due?;
        let deadline = self.options.clock.now() + LOOK_EVERY;
        // Nobody waits for the answers, but a commit whose caller is gone would be skipped.
        let (batch, _callers): (Vec<_>, Vec<_>) = due
            .iter()
            .map(|(key, version)| {
                let commit = Commit::new().expire(key.clone(), *version);
                let (answer, caller) = oneshot::channel();
                (Pending { print: None, commit, entries: Vec::new(), size: 0, deadline, answer }, caller)
            })
            .unzip();
        if batch.is_empty() {
            return Ok(0);
        }
        let (outcomes, _) = self.attempt(&batch).await?;
        Ok(outcomes.iter().filter(|outcome| matches!(outcome, Ok(CommitOutcome::Committed(_)))).count())
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
        if let Ok(Pruned { compacted, .. }) = &pruned {
            self.lookout.compact(*compacted);
        }
        pruned
    }

    /// Writes one batch and answers everyone in it.
    async fn write(&mut self, batch: &mut Vec<Pending>) {
        let now = self.options.clock.now();
        let mut live = Vec::with_capacity(batch.len());
        for pending in batch.drain(..) {
            if pending.deadline <= now {
                // Whoever left needs no answer.
                let _ = pending.answer.send(Err(late(self.line.hint())));
            } else if !pending.answer.is_closed() {
                live.push(pending);
            }
        }
        if live.is_empty() {
            return;
        }
        let outcomes = self.attempt(&live).await;
        self.line.moved(live.len(), self.options.clock.now().since(now));
        let (outcomes, _spent) = match outcomes {
            Ok(done) => done,
            // The engine refuses the plan as a whole, by its rules or for want of a right. One by one, only the culprit is refused. Not so if
            // the plan may have landed: a second try could apply it twice.
            Err(error)
                if matches!(error.code(), Code::IntegrityFailure | Code::Unsupported)
                    && error.effect() == Effect::NotApplied
                    && live.len() > 1 =>
            {
                for pending in live {
                    let outcome = self.attempt(std::slice::from_ref(&pending)).await;
                    let outcome = outcome.and_then(|(mut outcomes, _)| {
                        outcomes.pop().unwrap_or_else(|| Err(Error::integrity("a commit without an outcome")))
                    });
                    let _ = pending.answer.send(outcome);
                }
                return;
            }
            Err(error) => (live.iter().map(|_| Err(error.again())).collect(), Spent::default()),
        };
        // All are answered before anything is taken down.
        let (answers, _spent): (Vec<_>, Vec<_>) =
            live.into_iter().map(|Pending { answer, commit, entries, .. }| (answer, (commit, entries))).unzip();
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            let _ = answer.send(outcome);
        }
    }

    /// Judges and writes a batch in one transaction; one outcome for each commit, or the error that all of them share. What was written is
    /// given to the feeds; the rest comes back for the caller to drop, once it has answered.
    ///
    /// A failure whose effect is unknown, a panic among them, costs this writer: nobody knows what state it is in.
    async fn attempt(&mut self, batch: &[Pending]) -> Result<(Vec<Result<CommitOutcome>>, Spent)> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.engine.writer()?,
        };
        let done = caught(transact(&mut *writer, self.engine.name(), &self.options, &self.line, batch)).await;
        let (outcomes, plan) = match done {
            Ok(done) => done,
            Err(error) => {
                self.writer = Some(writer).filter(|_| error.effect() == Effect::NotApplied);
                return Err(error.during("commit"));
            }
        };
        self.writer = Some(writer);
        let old = plan.as_ref().map(|plan| self.lookout.publish(plan.meta.epoch, &plan.records));
        Ok((outcomes, Spent { _plan: plan, _old: old.unwrap_or_default() }))
    }
}

/// The transaction of a batch: the outcomes, and what was written, if anything was.
async fn transact(
    writer: &mut dyn Writer,
    engine: &'static str,
    options: &QueueOptions,
    line: &Line,
    batch: &[Pending],
) -> Result<(Vec<Result<CommitOutcome>>, Option<Arc<Plan>>)> {
    let mut wanted = wanted(batch);
    loop {
        let rows = writer.begin(&wanted).await?;
        let held = rows.held;
        let (outcomes, plan) = judged(rows, options, line, batch);
        // What a writer knows without looking is good enough to agree, not to refuse.
        let agreed = || outcomes.iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Committed(_))));
        let plan = match plan {
            Some(plan) if held || agreed() => Arc::new(plan),
            None if held => {
                writer.give_back().await;
                return Ok((outcomes, None));
            }
            _ => {
                wanted.fresh = true;
                continue;
            }
        };
        let started = options.clock.now();
        let finished = writer.finish(&plan).await;
        if !held && finished.as_ref().is_err_and(|error| error.effect() == Effect::NotApplied) {
            wanted.fresh = true;
            continue;
        }
        let result = if finished.is_ok() { "ok" } else { "error" };
        let took = options.clock.now().since(started);
        tell(&options.observer, &Event::Batch { commits: batch.len(), engine, result, took });
        finished?;
        return Ok((outcomes, Some(plan)));
    }
}

/// Judges a batch on rows: the outcomes, and what is to be written, if anything is.
fn judged(rows: Rows, options: &QueueOptions, line: &Line, batch: &[Pending]) -> (Vec<Result<CommitOutcome>>, Option<Plan>) {
    let begun = options.clock.now();
    // Wall time may step back; the store's does not. A chain says by itself when its clock was behind.
    let wall = options.clock.wall();
    let now = wall.max(rows.meta.at);
    let (view, heads) = View::new(rows, now);
    let mut draft = Draft {
        view,
        wall,
        heads,
        records: Vec::new(),
        entries: Vec::new(),
        personal: Vec::new(),
        forgotten: Vec::new(),
        touched: Touched::default(),
    };
    let judge = |pending: &Pending| {
        // Another process may have held the right for long.
        if pending.deadline <= begun || pending.answer.is_closed() {
            return Err(late(line.hint()));
        }
        draft.judge(pending, &options.keys).map_err(|e| e.during("commit"))
    };
    let outcomes = batch.iter().map(judge).collect();
    (outcomes, draft.into_plan())
}

/// What nobody needs any more after a batch: memory that has long been cold, so it takes a while to give back.
#[derive(Default)]
struct Spent {
    _plan: Option<Arc<Plan>>,
    _old: Vec<Arc<Record>>,
}

/// Who was answered by a batch, or waited at its end.
#[derive(Default)]
struct Crowd {
    commits: usize,
    took: Duration,
}

impl Crowd {
    /// Lets the callers of a long batch come back before the next one begins. Otherwise half of a crowd waits for one batch and half for the
    /// next, and each pays for both.
    ///
    /// By the machine's clock: it is a matter of threads and disks.
    fn gather<T>(&self, queue: &mpsc::Receiver<T>) {
        if self.commits < 2 || self.took < LONG {
            return;
        }
        let clock = Clock::system();
        let until = clock.now() + self.took / PAUSE_PART;
        // One is taken already.
        while queue.len() + 1 < self.commits && clock.now() < until {
            retry::nap(NAP);
        }
    }
}

/// Waits for the next task. After a commit that was alone it first looks for a while: a caller who writes one after the other comes back
/// sooner than a sleeping thread wakes. After a larger batch it does not, so that its callers find each other in the next one.
async fn next_task(queue: &mut mpsc::Receiver<Task>, alone: bool) -> Option<Task> {
    let looks = if alone { LOOKS } else { 0 };
    for _ in 0..looks {
        match queue.try_recv() {
            Ok(task) => return Some(task),
            Err(mpsc::error::TryRecvError::Disconnected) => return None,
            Err(mpsc::error::TryRecvError::Empty) => std::hint::spin_loop(),
        }
    }
    queue.recv().await
}

fn late(hint: Duration) -> Error {
    Error::overloaded("the deadline passed while the commit waited", hint).during("commit")
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
        // What is only looked at is written by nobody who would find that it has changed.
        wanted.fresh |= !commit.guards.is_empty();
    }
    wanted
}

/// A batch in the making: the rows with all earlier commits of the batch on top, and what is to be written.
struct Draft {
    view: View,
    wall: Timestamp,
    heads: HashMap<ChainName, Head>,
    records: Vec<Arc<Record>>,
    entries: Vec<(ChainName, Arc<Sealed>)>,
    personal: Vec<(ChainName, KeptPersonal)>,
    forgotten: Vec<(ChainName, Vec<Seq>)>,
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
        let verdict = match decide(commit, pending.print.as_ref(), &self.view)? {
            Decision::Replay(receipt) => return Ok(CommitOutcome::Committed(replayed(&receipt))),
            Decision::Conflict(conflicts) => return Ok(CommitOutcome::Conflict(conflicts)),
            Decision::Fenced { lock, token, newest } => return Ok(CommitOutcome::Fenced { lock, token, newest }),
            Decision::Apply(verdict) => verdict,
        };
        // Judged last: from here on nothing refuses the commit.
        let Chained { entries, personal, receipts: audit } = judge::chain(&pending.entries, &mut self.heads, keys, self.wall)?;
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
        self.personal.extend(personal);
        self.forgotten.extend(commit.forgotten.iter().cloned());
        if let Some(revision) = verdict.revision {
            self.records.push(Arc::new(Record {
                revision,
                at: self.view.now,
                changes: verdict.changes,
                invalidations: commit.invalidations.clone(),
                entries: receipt.audit.clone(),
                request: commit.request.clone(),
            }));
        }
        if let (Some(id), Some(print)) = (&commit.request, pending.print) {
            let expires_at = Timestamp::from_micros(self.view.now.as_micros() + commit.window.micros());
            let known = Remembered { fingerprint: print, receipt: Arc::new(receipt.clone()), expires_at };
            self.view.requests.insert(id.clone(), known);
            self.touched.requests.push(id.clone());
        }
        Ok(CommitOutcome::Committed(receipt))
    }

    /// Merges what is to be written; `None` if there is nothing.
    fn into_plan(self) -> Option<Plan> {
        let Self { mut view, mut heads, records, entries, personal, forgotten, touched, .. } = self;
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
            personal,
            forgotten,
        })
    }
}

/// The same answer, given again.
pub(super) fn replayed(receipt: &Receipt) -> Receipt {
    let mut receipt = receipt.clone();
    receipt.replayed = true;
    receipt.writes.iter_mut().for_each(|written| written.replayed = true);
    receipt
}
