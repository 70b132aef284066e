//! Clients that work side by side, in a closed loop or at a given rate, and what they counted.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use onward::time::{Clock, Moment};
use onward_api::Effect;
use onward_api::client::{Client, Problem};
use tokio::task::JoinSet;

use super::Options;
use super::machine::{Machine, Seen};
use super::report::Judgement;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::seed::Random;
use crate::wait;

/// The longest latency that is told apart; longer ones count as this one.
const LONGEST: Duration = Duration::from_secs(60);
/// The pause of a client that was told to come back later without a time.
const PAUSE: Duration = Duration::from_millis(10);

/// What is done again and again, and what must be true of everything that was done.
pub(super) trait Load: Send + Sync + Sized + 'static {
    /// What one turn leaves for the verdict.
    type Record: Send + 'static;

    /// Does it once on the key of this index.
    ///
    /// # Errors
    /// A refusal that surely did nothing and may be tried again is counted; any other ends the run.
    fn once(
        &self,
        client: &Client,
        key: usize,
        random: &mut Random,
    ) -> impl Future<Output = std::result::Result<Once<Self::Record>, Problem>> + Send;

    /// Judges everything that was done, and clears up.
    fn judge(self, client: &Client, records: Vec<Self::Record>) -> impl Future<Output = Result<Judgement>> + Send;
}

/// One turn.
#[derive(Debug)]
pub(super) struct Once<R> {
    /// What is left for the verdict.
    pub(super) record: Option<R>,
    /// How often somebody else was first.
    pub(super) conflicts: u64,
    /// Whether nobody knows if it happened.
    pub(super) unknown: bool,
}

impl<R> Once<R> {
    /// A turn that was answered.
    pub(super) fn done(record: R, conflicts: u64) -> Self {
        Self { record: Some(record), conflicts, unknown: false }
    }

    /// A turn whose outcome nobody knows; any other failure is handed back.
    pub(super) fn unknown(problem: Problem, record: Option<R>, conflicts: u64) -> std::result::Result<Self, Problem> {
        if problem.effect() == Effect::Unknown { Ok(Self { record, conflicts, unknown: true }) } else { Err(problem) }
    }
}

/// Who begins when, and on which key.
#[derive(Debug)]
pub(super) struct Plan {
    clock: Clock,
    clients: u32,
    seed: u32,
    from: Moment,
    measured: Moment,
    end: Moment,
    /// The time between two turns of one client, if the rate is given.
    gap: Option<Duration>,
    /// The sum of the weights up to each key; empty: all are alike.
    weights: Vec<f64>,
    keys: usize,
}

impl Plan {
    pub(super) fn new(clock: Clock, options: &Options, seed: u32) -> Self {
        let from = clock.now();
        let measured = from + Duration::from_secs(options.warmup);
        let end = measured + Duration::from_secs(options.seconds);
        let gap = options.rate.map(|rate| Duration::from_secs_f64(f64::from(options.clients) / rate as f64));
        let mut sum = 0.0;
        let zipf = |rank: u32| f64::from(rank).powf(options.skew).recip();
        let weights = (1..=options.keys).filter(|_| options.skew > 0.0).map(|rank| (sum += zipf(rank), sum).1).collect();
        Self { clock, clients: options.clients, seed, from, measured, end, gap, weights, keys: options.keys as usize }
    }

    /// When a client should begin its turn; none: when the one before is over.
    fn intended(&self, client: u32, turn: u32) -> Option<Moment> {
        self.gap.map(|gap| self.from + gap * turn + gap * client / self.clients)
    }

    fn key(&self, random: &mut Random) -> usize {
        match self.weights.last() {
            Some(all) => {
                let point = random.fraction() * all;
                self.weights.partition_point(|sum| *sum <= point).min(self.keys - 1)
            }
            None => random.within(0, self.keys),
        }
    }
}

/// What was counted while the clock ran.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) latency: Histogram<u64>,
    pub(super) conflicts: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    /// Turns that should have begun and never did, because those before them took too long.
    pub(super) not_begun: u64,
    pub(super) elapsed: Duration,
    pub(super) machine: Option<Seen>,
}

impl Tally {
    fn empty() -> Result<Self> {
        let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        let latency = Histogram::new_with_bounds(1, longest, 3).map_err(|e| Failure::usage(e.to_string()))?;
        Ok(Self { latency, conflicts: 0, unknown: 0, refused: 0, not_begun: 0, elapsed: Duration::ZERO, machine: None })
    }

    fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.not_begun += other.not_begun;
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// A load that has been run.
pub(super) struct Done<L: Load> {
    pub(super) load: L,
    pub(super) records: Vec<L::Record>,
    pub(super) tally: Tally,
}

/// Runs the load to the end of the plan.
pub(super) async fn drive<L: Load>(load: L, client: &Client, plan: Plan, machine: Machine, progress: Progress) -> Result<Done<L>> {
    let (load, plan) = (Arc::new(load), Arc::new(plan));
    let mut clients = JoinSet::new();
    for index in 0..plan.clients {
        clients.spawn(work(load.clone(), client.apart(), plan.clone(), index));
    }
    let (mut tally, mut records) = (Tally::empty()?, Vec::new());
    let watch = watch(&plan, machine, progress);
    let gather = async {
        while let Some(worked) = clients.join_next().await {
            let (counted, kept) = worked.map_err(|e| Failure::usage(format_args!("a client ended: {e}")))??;
            tally.add(&counted);
            records.extend(kept);
        }
        Ok::<_, Failure>(())
    };
    let (gathered, seen) = tokio::join!(gather, watch);
    gathered?;
    tally.machine = Some(seen);
    let load = Arc::into_inner(load).ok_or_else(|| Failure::usage("a client still works"))?;
    Ok(Done { load, records, tally })
}

/// Looks at the machine while the clock runs, and tells how far it is.
async fn watch(plan: &Plan, machine: Machine, mut progress: Progress) -> Seen {
    wait::until(&plan.clock, Some(plan.measured)).await;
    let machine = machine.begin();
    let all = plan.end.since(plan.measured).as_secs();
    for second in 1..=all {
        wait::until(&plan.clock, Some(plan.measured + Duration::from_secs(second))).await;
        progress.at(second, all);
    }
    machine.end()
}

async fn work<L: Load>(load: Arc<L>, client: Client, plan: Arc<Plan>, index: u32) -> Result<(Tally, Vec<L::Record>)> {
    let clock = &plan.clock;
    let mut random = Random::new(plan.seed, &format!("client {index}"));
    let (mut tally, mut records) = (Tally::empty()?, Vec::new());
    let mut turn = 0;
    loop {
        let intended = plan.intended(index, turn);
        if intended.is_some_and(|intended| intended < plan.end) {
            wait::until(clock, intended).await;
        }
        let (now, began) = (clock.now(), intended.unwrap_or_else(|| clock.now()));
        if now >= plan.end || began >= plan.end {
            break;
        }
        turn += 1;
        let measured = began >= plan.measured;
        match load.once(&client, plan.key(&mut random), &mut random).await {
            Ok(once) => {
                records.extend(once.record);
                if measured {
                    tally.conflicts += once.conflicts;
                    tally.unknown += u64::from(once.unknown);
                    let ended = clock.now();
                    if !once.unknown {
                        tally.latency.saturating_record(u64::try_from(ended.since(began).as_micros()).unwrap_or(u64::MAX).max(1));
                    }
                    tally.elapsed = ended.since(plan.measured);
                }
            }
            Err(problem) if problem.document().retryable && problem.effect() == Effect::NotApplied => {
                tally.refused += u64::from(measured);
                let after = problem.document().retry_after_ms.map_or(PAUSE, Duration::from_millis);
                wait::until(clock, Some(plan.end.min(clock.now() + after))).await;
            }
            Err(problem) => return Err(problem.into()),
        }
    }
    if let Some(gap) = plan.gap {
        let due = plan.end.since(plan.from).as_secs_f64() / gap.as_secs_f64();
        tally.not_begun = (due as u64).saturating_sub(u64::from(turn));
    }
    Ok((tally, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(keys: u32, skew: f64, rate: Option<u64>) -> Plan {
        let options = Options { clients: 4, seconds: 10, warmup: 2, keys, skew, payload: 0, rate, seed: Some(1) };
        Plan::new(Clock::manual(), &options, 1)
    }

    #[test]
    fn skewed_keys_follow_zipf_and_even_ones_do_not() {
        let count = |plan: &Plan| {
            let mut random = Random::new(1, "keys");
            let mut hits = vec![0_u32; 10];
            (0..10_000).for_each(|_| hits[plan.key(&mut random)] += 1);
            hits
        };
        let even = count(&plan(10, 0.0, None));
        assert!(even.iter().all(|hits| (800..1_200).contains(hits)), "{even:?}");
        let skewed = count(&plan(10, 1.0, None));
        // The sum of 1/1 to 1/10 is 2.93: the first key has a third of all.
        assert!((3_100..3_700).contains(&skewed[0]) && (1_500..1_900).contains(&skewed[1]) && skewed[9] > 200, "{skewed:?}");
    }

    #[test]
    fn a_rate_is_spread_over_clients_and_counts_from_the_intended_start() {
        let plan = plan(1, 0.0, Some(8));
        let at = |client, turn| plan.intended(client, turn).unwrap().since(plan.from).as_millis();
        assert_eq!((at(0, 0), at(1, 0), at(3, 0), at(0, 1), at(0, 4)), (0, 125, 375, 500, 2_000));
    }
}
