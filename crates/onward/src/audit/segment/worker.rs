//! Whoever works on a segment: takes it for a while, steps it on, moves its rows in batches.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Act, Segment, refused};
use crate::audit::chain::Chain;
use crate::audit::engine::{Batch, Batched, Moved};
use crate::commit::{Commit, CommitOutcome, Guard, Receipt, Window, WriteCondition};
use crate::model::{Data, Entry, Key, RequestId, Version};
use crate::time::{Moment, Timestamp};
use crate::{Effect, Error, Kind, Result, random};

/// For how long nobody takes a segment over from a worker that says nothing.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How often a worker says that it is alive, and how far it is.
const RENEW: Duration = Duration::from_secs(5);
/// How often the answer to a commit is asked for.
const TRIES: usize = 4;
/// The rows of a batch: at least, at first, at most.
const BATCH: (usize, usize, usize) = (256, 512, 8_192);

/// A worker and the segment that it has taken. Correct without its time: whoever takes the segment over changes its version.
pub(super) struct Worker<'a> {
    pub(super) chain: &'a Chain,
    pub(super) act: &'a Act,
    pub(super) segment: Segment,
    /// The version that this worker's own last write gave the segment; never read again.
    version: Version,
    renewed: Moment,
    /// Makes the events of this worker differ from those of every other.
    mark: String,
    batch: usize,
}

fn lost() -> Error {
    refused("another worker has taken the segment over")
}

impl<'a> Worker<'a> {
    /// Takes a segment that is in one of these states, unless another worker has it.
    pub(super) async fn take(chain: &'a Chain, from: u64, states: &[super::SegmentState], act: &'a Act) -> Result<Self> {
        let (segment, version) = chain.load(from).await?;
        check_state(&segment, states)?;
        check_free(&segment, chain.trail().queue().clock().wall())?;
        let clock = chain.trail().queue().clock();
        let mark = hex::encode(random::bytes::<8>());
        let mut worker = Self { chain, act, segment, version, renewed: clock.now(), mark, batch: BATCH.1 };
        worker.segment.attempt += 1;
        worker.segment.done = 0;
        worker.keep().await?;
        Ok(worker)
    }

    fn key(&self) -> Result<Key> {
        self.chain.segment_key(self.segment.from)
    }

    /// What the name of a file carries.
    pub(super) fn attempt(&self) -> String {
        format!("{}-{}", self.segment.attempt, self.mark)
    }

    /// Says that the worker is alive: no entry, no head.
    async fn keep(&mut self) -> Result<()> {
        let clock = self.chain.trail().queue().clock();
        self.renewed = clock.now();
        self.segment.attempt_until = Some(after(clock.wall(), ATTEMPT));
        self.write().await
    }

    async fn write(&mut self) -> Result<()> {
        let id = format!("segment-{}-{}", self.segment.from, hex::encode(random::bytes::<16>()));
        let commit = |worker: &Self| -> Result<Commit> {
            let commit = Commit::new().put(worker.key()?, &worker.segment, WriteCondition::MatchVersion(worker.version));
            Ok(commit.request(RequestId::of_event(worker.chain.name().as_str(), &id)).window(Window::Own))
        };
        self.version = self.submit(commit).await?;
        Ok(())
    }

    /// Says how far the work is, and now and then that somebody does it.
    pub(super) async fn at(&mut self, done: u64) -> Result<()> {
        self.segment.done = done;
        self.act.tell(done, self.segment.rows());
        // Whoever waits comes first; and here the work can be dropped.
        tokio::task::yield_now().await;
        let clock = self.chain.trail().queue().clock();
        if clock.now().since(self.renewed) >= RENEW { self.keep().await } else { Ok(()) }
    }

    /// Gives the segment back: whoever comes next need not wait.
    pub(super) async fn leave(&mut self) -> Result<()> {
        self.segment.attempt_until = None;
        self.write().await
    }

    /// Steps the segment on: its object and the control entry in one commit, the only moment that touches the chain's head.
    pub(super) async fn step(
        &mut self,
        kind: &'static str,
        guards: Vec<Guard>,
        change: impl FnOnce(&mut Segment),
        more: Map<String, Value>,
    ) -> Result<()> {
        let mut next = self.segment.clone();
        next.generation += 1;
        next.changed_at = self.chain.trail().queue().clock().wall();
        change(&mut next);
        let mut data = more;
        data.insert("from".to_owned(), json!(next.from));
        data.insert("gen".to_owned(), json!(next.generation));
        data.insert("reason".to_owned(), json!(self.act.reason));
        let id = format!("segment-{}-{}-{}", next.from, next.generation, self.mark);
        let mut entry = Entry::new(kind).with_data(Data::json(&Value::Object(data))?).with_event_id(&id);
        entry.actor.clone_from(&self.act.actor);
        let commit = |worker: &Self| -> Result<Commit> {
            let commit = Commit::new().put(worker.key()?, &next, WriteCondition::MatchVersion(worker.version));
            let commit = guards.iter().cloned().fold(commit, Commit::guard);
            let commit = commit.control(worker.chain.name().clone(), entry.clone());
            // The object of a replayed commit has a fresh identity each time: the intent is what stays the same.
            Ok(commit.request(RequestId::of_event(worker.chain.name().as_str(), &id)).window(Window::Event).intent(id.as_bytes()))
        };
        self.version = self.submit(commit).await?;
        self.segment = next;
        Ok(())
    }

    /// The error of an act that may have come to a state in which rows or files go or come: what went or came does so no less.
    pub(super) fn failed(&self, error: Error, midway: super::SegmentState) -> Error {
        if self.segment.state == midway && error.kind() == Kind::Backend { error.with_unknown_effect() } else { error }
    }

    async fn submit(&self, commit: impl Fn(&Self) -> Result<Commit>) -> Result<Version> {
        version(&surely(self.chain, || commit(self)).await?.ok_or_else(lost)?)
    }

    /// How many rows the next batch should move.
    pub(super) fn batch_rows(&self) -> usize {
        self.batch
    }

    /// Moves rows, if the segment still is this worker's, and the holds are as `holds` says; `None` if they changed.
    pub(super) async fn move_rows(&mut self, holds: Guard, rows: Moved) -> Result<Option<u64>> {
        let (queue, engine) = (self.chain.trail().queue(), &self.chain.trail().0.engine);
        let batch = Batch { chain: self.chain.name().clone(), guards: vec![Guard::At(self.key()?, self.version), holds], rows };
        let mut last = None;
        for _ in 0..TRIES {
            let begun = queue.clock().now();
            match engine.move_rows(batch.clone()).await {
                Ok(Batched::Done(moved)) => {
                    let took = queue.clock().now().since(begun);
                    let most = engine.batch_time(&batch.rows);
                    if took > most {
                        self.batch /= 2;
                    } else if took < most / 2 {
                        self.batch += self.batch / 4;
                    }
                    self.batch = self.batch.clamp(BATCH.0, BATCH.2);
                    return Ok(Some(moved));
                }
                Ok(Batched::Refused) => {
                    let (_, version) = self.chain.load(self.segment.from).await?;
                    return if version == self.version { Ok(None) } else { Err(lost()) };
                }
                Err(error) if error.effect() == Effect::Unknown || error.kind() == Kind::Overloaded => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unavailable("rows of a segment could not be moved")))
    }
}

/// The version of what a commit wrote first.
pub(super) fn version(receipt: &Receipt) -> Result<Version> {
    Ok(receipt.writes.first().ok_or_else(|| Error::integrity("a write without its version"))?.version)
}

/// Sends a commit until its answer is known: it has a request id, so it happens once. `None` if it lost a race.
pub(in crate::audit) async fn surely(chain: &Chain, commit: impl Fn() -> Result<Commit>) -> Result<Option<Receipt>> {
    let mut last = None;
    for _ in 0..TRIES {
        match chain.trail().queue().submit(commit()?).await {
            Ok(CommitOutcome::Committed(receipt)) => return Ok(Some(receipt)),
            Ok(CommitOutcome::Conflict(_) | CommitOutcome::Fenced { .. }) => return Ok(None),
            Err(error) if error.effect() == Effect::Unknown || error.kind() == Kind::Overloaded => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::unavailable("a commit could not be written")))
}

/// Refuses a segment in another state, or in another worker's hands.
pub(super) fn check_state(segment: &Segment, states: &[super::SegmentState]) -> Result<()> {
    if states.contains(&segment.state) { Ok(()) } else { Err(refused(format!("the segment is {}", segment.state))) }
}

/// Refuses a segment that another worker has.
pub(super) fn check_free(segment: &Segment, now: Timestamp) -> Result<()> {
    match segment.attempt_until.filter(|until| *until > now) {
        Some(until) => {
            let left = Duration::from_micros(until.as_micros().saturating_sub(now.as_micros()).unsigned_abs());
            Err(refused("another worker is at the segment").with_retry_after(left))
        }
        None => Ok(()),
    }
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp::from_micros(now.as_micros().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
}
