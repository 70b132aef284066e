//! Maintenance: what is due in the life of every chain is done, a step at a time, and the error of one chain stops no other.
//!
//! A tick decides nothing that a person could not: it calls the very operations that people call. So two ticks at once, a tick that
//! dies at any step, and a tick beside people are harmless; whoever comes later finds what is still due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::ready;
use std::time::Duration;

use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::attest::told;
use super::heal::Outcome;
use super::policy::{Due, Stage, due, since};
use super::{Act, Segment};
use crate::audit::chain::{Chain, Trail};
use crate::audit::engine::Select;
use crate::audit::options::Order;
use crate::model::limits::{PAGE_BYTES, PAGE_ITEMS};
use crate::model::{ChainName, Seq};
use crate::observe::{Event, Finding, Grade};
use crate::retry::Backoff;
use crate::time::{Moment, Timestamp};
use crate::{Code, Error, Kind, Result};

/// Most steps that one tick takes and tells of.
const STEPS: usize = 1_000;
/// How long a stage of a chain rests after an error: at first, at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// How often what nobody names is looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// A step that is due for longer than this is told of by [`Trail::check`].
const LATE: Duration = Duration::from_secs(3_600);
/// Entries that are read at once to find the oldest that is no control entry.
const LOOK: usize = 8;

/// What one who maintains again and again remembers between two ticks; all of it only saves work.
#[derive(Debug, Default)]
pub struct Maintenance {
    /// The chain behind which the next tick begins, so that each gets its turn.
    after: Option<ChainName>,
    /// What failed, and rests.
    resting: BTreeMap<(ChainName, Stage), (Backoff, Moment)>,
    /// What is not looked for before a time: it is not due, or was done.
    later: BTreeMap<(ChainName, Stage), Moment>,
}

impl Maintenance {
    /// Forgets what failed, and what was looked for: somebody has seen to it, and everything is tried now.
    pub fn forget(&mut self) {
        self.resting.clear();
        self.later.clear();
    }

    /// Remembers not to look for what is due later.
    fn wait_for(&mut self, chain: &ChainName, due: Option<Due>, now: Timestamp, moment: Moment) {
        if let Some(due) = due.filter(|due| due.since > now) {
            self.later.insert((chain.clone(), due.stage), moment + age(now, due.since));
        }
    }
}

/// What a tick did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The steps that were due, and what became of each; at most 1,000.
    pub steps: Vec<Step>,
    /// Whether the time was over before everything that is due was tried: the next tick goes on.
    pub more: bool,
    /// How many steps are left that are due and were not tried, as far as it looked.
    pub left: u64,
    /// How many steps are due, and kept by holds from being taken.
    pub held: u64,
    /// For how long that step has been due, of those that failed, that was due first.
    pub overdue_ms: u64,
}

/// One step of a tick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The chain.
    pub chain: String,
    /// What was due.
    pub stage: Stage,
    /// The first entry of the segment; of a checkpoint or a verification, the first that it is about.
    #[serde(with = "onward_api::number")]
    pub from: u64,
    /// The last entry; when something is collected: how many files and parts of skeletons.
    #[serde(with = "onward_api::number")]
    pub to: u64,
    /// What became of it.
    pub result: StepResult,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The code of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// It was done.
    Done,
    /// It would be done: this was a look.
    Planned,
    /// A hold or another worker stands in its way.
    Waits,
    /// It failed, and is tried again later.
    Failed,
}

impl StepResult {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            StepResult::Done => "done",
            StepResult::Planned => "planned",
            StepResult::Waits => "waits",
            StepResult::Failed => "failed",
        }
    }
}

/// What a tick has tried.
#[derive(Default)]
struct Tried {
    steps: BTreeSet<(ChainName, Stage, u64)>,
    /// Stages that failed in this tick: the rest of them would, too.
    failed: BTreeSet<(ChainName, Stage)>,
}

/// What a chain waits for.
struct Outlook {
    /// The step that is due next and was not tried.
    next: Option<Due>,
    /// How many more there are.
    left: u64,
    /// How many steps holds keep from being taken.
    held: u64,
    /// For how long a step has been due that failed.
    late: Duration,
}

impl Trail {
    /// Takes the steps that are due by the policies, of every chain, until none is left or the time is over. No step begins after that;
    /// one that runs is not cut.
    ///
    /// The chains take turns, a step each. An error rests that stage of that chain, for a second at first and an hour at most, as long as
    /// the same `memory` is given again; it stops nothing else. Dry, it tells what it would do.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the reason. [`Kind::Backend`]: the chains cannot be listed. What fails in a chain stands in the answer.
    ///
    /// # Cancel safety
    /// Dropped, the step at hand stops as that operation does; the next tick finishes it.
    pub async fn tick(&self, memory: &mut Maintenance, act: &Act, budget: Duration) -> Result<Tick> {
        // On the heap: what a tick may do is more than a thread's stack should hold, beside all that called it.
        Box::pin(self.take_steps(memory, act, budget)).await.map_err(|e| e.during("maintain"))
    }

    async fn take_steps(&self, memory: &mut Maintenance, act: &Act, budget: Duration) -> Result<Tick> {
        act.check()?;
        let clock = self.queue().clock();
        let end = clock.now() + budget;
        let mut chains = self.all_chains().await?;
        let turn = chains.iter().position(|chain| Some(chain) > memory.after.as_ref()).unwrap_or(0);
        chains.rotate_left(turn);
        let (mut tick, mut tried, mut overdue) = (Tick::default(), Tried::default(), Duration::ZERO);
        let mut lefts = BTreeMap::new();
        while let Some(name) = chains.pop_front() {
            if clock.now() >= end || tick.steps.len() >= STEPS {
                tick.more = true;
                break;
            }
            memory.after = Some(name.clone());
            let chain = self.chain_of_ours(name.as_str())?;
            let Outlook { next, left, held, late } = match chain.next_due(memory, &tried).await {
                Ok(found) => found,
                // What is due cannot be told, for now: this chain is tried again by the next tick.
                Err(error) => {
                    tick.steps.push(self.told(step(&name, Stage::Finish, (0, 0), Err(error), act)));
                    continue;
                }
            };
            overdue = overdue.max(late);
            lefts.insert(name.clone(), left);
            let Some(due) = next else {
                tick.held += held;
                continue;
            };
            let done = chain.take(&due, act, memory).await;
            tried.steps.insert((name.clone(), due.stage, due.from));
            let now = clock.now();
            match &done {
                Ok(_) => drop(memory.resting.remove(&(name.clone(), due.stage))),
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(_) => {
                    tried.failed.insert((name.clone(), due.stage));
                    let (backoff, until) = memory.resting.entry((name.clone(), due.stage)).or_insert((Backoff::new(REST.0, REST.1), now));
                    *until = now + backoff.next();
                }
            }
            // Nothing to collect is nothing to tell.
            if due.stage != Stage::Collect || !matches!(done, Ok(Some(0))) {
                tick.steps.push(self.told(step(&name, due.stage, (due.from, due.to), done, act)));
            }
            chains.push_back(name);
        }
        tick.left = lefts.into_values().sum();
        tick.overdue_ms = u64::try_from(overdue.as_millis()).unwrap_or(u64::MAX);
        if !act.dry {
            self.queue().tell(&Event::Maintained { overdue });
        }
        Ok(tick)
    }

    fn told(&self, step: Step) -> Step {
        if step.result != StepResult::Planned {
            self.queue().tell(&Event::MaintainStep { stage: step.stage.as_str(), result: step.result.as_str() });
        }
        step
    }

    async fn all_chains(&self) -> Result<VecDeque<ChainName>> {
        let mut chains: VecDeque<ChainName> = VecDeque::new();
        loop {
            let page = self.0.engine.chains(chains.back(), PAGE_ITEMS).await?;
            let ended = page.len() < PAGE_ITEMS;
            chains.extend(page.into_iter().map(|(name, _)| name));
            if ended {
                return Ok(chains);
            }
        }
    }

    /// Looks whether the archive can be written, and whether steps are late; changes nothing, but for a mark in a bucket that has none.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine is away, or an index row is damaged.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let now = self.queue().clock().wall();
        let (mut late, mut all) = (0_usize, 0_usize);
        for name in self.all_chains().await? {
            let chain = self.chain_of_ours(name.as_str())?;
            let segments = chain.all_segments().await?;
            all += segments.len();
            let mut due = due(self.policies().of(&name), &segments, now);
            due.extend(chain.seal_due(&segments, now).await?);
            due.extend(chain.checkpoint_due(now).await?);
            due.extend(chain.verify_due(now).await?);
            due.retain(|due| since(due.since, LATE) <= now);
            if !due.is_empty() {
                let (holds, _) = chain.read_holds().await?;
                let held = |due: &Due| segments.iter().any(|segment| segment.from == due.from && holds.keep(segment));
                late += due.iter().filter(|due| !held(due)).count();
            }
        }
        let found = format!("{all} segments, {late} steps of their lives late by more than an hour");
        let fix = "run `onward audit maintain --dry-run`: it says which, and what is in the way";
        let mut findings = vec![Finding::of("audit.maintain", late == 0, Grade::Warning, found, fix)];
        let means = self.means();
        if self.policies().want_checkpoints() && !(means.archive && means.signing) {
            let found = "none is kept outside of the store: there is no archive, or no key signs them";
            findings.push(Finding::fine("audit.checkpoint", found));
        }
        if let Ok(archive) = self.archive() {
            findings.extend(archive.check().await);
        }
        Ok(findings)
    }
}

fn step(chain: &ChainName, stage: Stage, (from, to): (u64, u64), done: Result<Option<u64>>, act: &Act) -> Step {
    let result = match &done {
        Ok(_) if act.dry => StepResult::Planned,
        Ok(_) => StepResult::Done,
        Err(error) if error.kind() == Kind::Conflict => StepResult::Waits,
        Err(_) => StepResult::Failed,
    };
    let to = done.as_ref().ok().copied().flatten().unwrap_or(to);
    let error: Option<Error> = done.err();
    let why = error.as_ref().map(ToString::to_string);
    Step { chain: chain.to_string(), stage, from, to, result, why, code: error.map(|error| error.code()) }
}

impl Chain {
    async fn next_due(&self, memory: &mut Maintenance, tried: &Tried) -> Result<Outlook> {
        let clock = self.trail().queue().clock();
        let (now, moment) = (clock.wall(), clock.now());
        let segments = self.all_segments().await?;
        let mut all = due(self.trail().policies().of(self.name()), &segments, now);
        let before = all.len();
        if before > 0 {
            let (holds, _) = self.read_holds().await?;
            let kept: BTreeSet<u64> = segments.iter().filter(|segment| holds.keep(segment)).map(|segment| segment.from).collect();
            all.retain(|due| !kept.contains(&due.from));
        }
        let held = (before - all.len()) as u64;
        all.extend(self.seal_due(&segments, now).await?);
        let later = |memory: &Maintenance, stage| memory.later.get(&(self.name().clone(), stage)).is_some_and(|until| moment < *until);
        if !segments.is_empty() && !later(memory, Stage::Collect) {
            all.push(Due { stage: Stage::Collect, from: 0, to: 0, since: now });
        }
        for stage in [Stage::Checkpoint, Stage::Verify] {
            if !later(memory, stage) {
                let due = if stage == Stage::Verify { self.verify_due(now).await? } else { self.checkpoint_due(now).await? };
                memory.wait_for(self.name(), due, now, moment);
                all.extend(due.filter(|due| due.since <= now));
            }
        }
        all.sort_by_key(|due| (due.stage, due.from));
        let (mut late, mut open) = (Duration::ZERO, Vec::new());
        for due in all {
            let stage = (self.name().clone(), due.stage);
            let rests = memory.resting.get(&stage).is_some_and(|(_, until)| moment < *until);
            if rests || tried.failed.contains(&stage) {
                late = late.max(age(due.since, now));
            } else if !tried.steps.contains(&(stage.0, due.stage, due.from)) {
                open.push(due);
            }
        }
        Ok(Outlook { next: open.first().copied(), left: open.len().saturating_sub(1) as u64, held, late })
    }

    /// The range that is to be sealed, if its oldest entry is old enough. Control entries wait for others: an idle chain rests.
    async fn seal_due(&self, segments: &[Segment], now: Timestamp) -> Result<Option<Due>> {
        let policy = self.trail().policies().of(self.name());
        let (Some(after), Some(head)) = (policy.seal_after, self.head().await?) else { return Ok(None) };
        let (from, head) = (segments.last().map_or(1, |last| last.to + 1), head.seq.get());
        let mut next = from;
        while next <= head {
            let select = Select {
                from: next,
                to: head,
                since: None,
                until: None,
                kind: None,
                actor: None,
                resource: None,
                order: Order::Ascending,
                limit: LOOK,
                bytes: PAGE_BYTES,
                scan: LOOK,
            };
            let found = self.trail().0.engine.select(self.name(), &select).await?.map(|found| found.items).unwrap_or_default();
            if let Some(oldest) = found.iter().find(|entry| !entry.is_pinned()) {
                let since = since(oldest.at, after);
                let to = head.min(from.saturating_add(policy.segment_rows - 1));
                return Ok((since <= now).then_some(Due { stage: Stage::Seal, from, to, since }));
            }
            let Some(last) = found.last() else { return Ok(None) };
            next = last.seq.get() + 1;
        }
        Ok(None)
    }

    /// Takes a step, each on the heap; returns what is to be told of it in the place of the last entry, if that was not known before.
    fn take<'a>(&'a self, due: &'a Due, act: &'a Act, memory: &'a mut Maintenance) -> BoxFuture<'a, Result<Option<u64>>> {
        let from = || Seq::new(due.from);
        match due.stage {
            Stage::Finish => Box::pin(async move {
                match self.finish(&self.segment(from()?).await?, act).await? {
                    Outcome::Waits => Err(super::refused("a hold or another worker is in the way")),
                    Outcome::Finished | Outcome::Nothing => Ok(None),
                }
            }),
            Stage::Seal => Box::pin(async move {
                let most = self.trail().policies().of(self.name()).segment_bytes;
                let sealed = self.seal_up_to(Some(Seq::new(due.to)?), most, act).await;
                Ok(Some(sealed.map_err(|e| e.during("seal"))?.to))
            }),
            Stage::Archive => Box::pin(async move { self.archive(from()?, act).await.map(|_| None) }),
            Stage::Purge => Box::pin(async move { self.purge(from()?, act).await.map(|_| None) }),
            Stage::DeleteFile => Box::pin(async move { self.purge_file(from()?, act).await.map(|_| None) }),
            Stage::Collect => Box::pin(async move {
                let collected = self.collect(act).await?;
                if !act.dry {
                    let next = self.trail().queue().clock().now() + COLLECT_EVERY;
                    memory.later.insert((self.name().clone(), due.stage), next);
                }
                Ok(Some(collected as u64))
            }),
            Stage::Checkpoint | Stage::Verify if act.dry => Box::pin(ready(Ok(None))),
            Stage::Checkpoint => Box::pin(async move { Ok(Some(self.anchor().await?.size)) }),
            Stage::Verify => Box::pin(async move {
                let (report, every) = self.verify_again(due.from, act).await?;
                // Also where the chain keeps a worse verdict of before, of which this one tells nothing.
                if let Some(every) = every.filter(|_| report.kept) {
                    memory.later.insert((self.name().clone(), due.stage), self.trail().queue().clock().now() + every);
                }
                told(&report).map(Some)
            }),
        }
    }
}

/// How long ago a time was.
fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.as_micros().saturating_sub(at.as_micros())).unwrap_or(0))
}
