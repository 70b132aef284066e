//! Random schedules of the life of segments over a real SQLite store: the verifier has no alarm after any step (INV-7).
//!
//! 2,000 schedules run each time. `ONWARD_TEST_SCHEDULES=100000` runs more, `ONWARD_TEST_SEED` those of a run that failed, which printed
//! its seed.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use onward::audit::verify::{Archives, Check, FindingCode, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Segment, Trail};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Code, Config, Kind, Onward};

const SCHEDULES: u64 = 2_000;
/// Steps of a schedule; each is followed by a verification.
const STEPS: u64 = 4;
/// Stores that schedules run on at one time, each with two workers.
const STORES: u64 = 4;

/// A small generator: the same seed is the same schedule.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Polls a future so many times at most, then drops it: its worker is dead.
async fn cut<T>(future: impl Future<Output = onward::Result<T>>, polls: u64) -> Option<onward::Result<()>> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(|done| Some(done.map(drop)))
    })
    .await
}

async fn open(folder: &Path, clock: &Clock) -> Trail {
    let config = Config::new(format!("sqlite:{}", folder.join("onward.db").display()))
        .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
        .with_signing_key(CheckpointKey::from_seed([5; 32]))
        .with_archive_at(format!("file:{}", folder.join("archive").display()))
        .with_clock(clock.clone());
    Onward::connect(config).await.unwrap().audit()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_schedule_of_workers_deaths_and_holds_raises_an_alarm() {
    let seed = number("ONWARD_TEST_SEED").unwrap_or_else(|| u64::from_le_bytes(onward::random::bytes::<8>()) >> 1);
    let schedules = number("ONWARD_TEST_SCHEDULES").unwrap_or(SCHEDULES);
    let mut stores = tokio::task::JoinSet::new();
    for store in 0..STORES {
        let own = schedules / STORES + u64::from(store < schedules % STORES);
        stores.spawn(run(seed, store, own));
    }
    let mut seen = Vec::new();
    while let Some(ended) = stores.join_next().await {
        seen.extend(ended.unwrap_or_else(|e| panic!("ONWARD_TEST_SEED={seed} ONWARD_TEST_SCHEDULES={schedules}: {e}")));
    }
    // It must get around, or it shows nothing.
    for state in [SegmentState::Sealed, SegmentState::Archived, SegmentState::Purging, SegmentState::Purged, SegmentState::Restoring] {
        let times = seen.iter().filter(|one| **one == state).count() as u64;
        assert!(times * 100 >= schedules.min(2_000), "ONWARD_TEST_SEED={seed}: {state} was met {times} times in {schedules} schedules");
    }
}

/// Runs schedules one after the other on one store, each on a chain of its own; returns the states that were verified.
async fn run(seed: u64, store: u64, schedules: u64) -> Vec<SegmentState> {
    // Nobody cuts the power here, so a disk without fsync is as good.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let clock = Clock::manual();
    let workers = [open(folder.path(), &clock).await, open(folder.path(), &clock).await];
    let mut seen = Vec::new();
    for schedule in 0..schedules {
        let which = format!("seed {seed}, store {store}, schedule {schedule}");
        let mut dice = Dice((seed ^ store << 40 ^ schedule << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let chains = [0, 1].map(|worker: usize| workers[worker].chain(&format!("s{schedule}")).unwrap());
        seen.extend(one(&chains, &clock, &mut dice, &which).await);
    }
    seen
}

async fn one(workers: &[Chain; 2], clock: &Clock, dice: &mut Dice, which: &str) -> Vec<SegmentState> {
    let act = Act::because("a schedule");
    let mut seen = Vec::new();
    let entries = 1 + usize::try_from(dice.below(30)).unwrap();
    workers[0].append_many(vec![Entry::new("order.paid"); entries], AppendOptions::new()).await.unwrap();
    workers[0].seal(None, &act).await.unwrap();
    for step in 0..STEPS {
        let chain = &workers[usize::try_from(dice.below(2)).unwrap()];
        let segments = chain.segments(None).await.unwrap();
        let some = &segments[usize::try_from(dice.below(segments.len() as u64)).unwrap()];
        let polls = if dice.below(3) == 0 { 1 + dice.below(24) } else { u64::MAX };
        let what = dice.below(16);
        let done = take(what, chain, some, &act, polls, clock, dice).await;
        let refused =
            |error: &onward::Error| error.code() == Code::StateConflict || error.kind() == Kind::NotFound || error.kind() == Kind::Invalid;
        assert!(!matches!(&done, Some(Err(error)) if !refused(error)), "{which}, step {step} ({what}): {done:?}");
        let head = chain.head().await.unwrap().unwrap();
        let check = Check { archives: Archives::Read, threads: 1 + usize::try_from(dice.below(2)).unwrap(), ..Check::default() };
        let report = workers[0].verify(check).await.unwrap();
        // What a purge of a file leaves behind when it dies is the one thing that may be told of, and no alarm.
        let quiet = report.findings.iter().all(|finding| finding.code == FindingCode::Leftover);
        assert!(report.verdict == Verdict::Ok && quiet && report.to_seq >= head.seq.get(), "{which}, step {step} ({what}): {report}");
        seen.extend(chain.segments(None).await.unwrap().iter().map(|segment| segment.state));
    }
    // In the end nothing is half done.
    for hold in workers[0].holds().await.unwrap() {
        workers[0].release_hold(&hold.id, &act).await.unwrap();
    }
    clock.advance(Duration::from_secs(31));
    let healed = workers[1].heal(&act).await.unwrap();
    assert!(healed.waiting.is_empty(), "{which}: {healed:?}");
    let half = |state| matches!(state, SegmentState::Purging | SegmentState::Restoring);
    assert!(!workers[0].segments(None).await.unwrap().iter().any(|segment| half(segment.state)), "{which}");
    assert!(workers[0].verify(Check::default()).await.unwrap().findings.is_empty(), "{which}");
    seen
}

/// Takes a step: what the segment's state asks for, or whatever the dice say; it may die on its way.
async fn take(
    what: u64,
    chain: &Chain,
    some: &Segment,
    act: &Act,
    polls: u64,
    clock: &Clock,
    dice: &mut Dice,
) -> Option<onward::Result<()>> {
    let from = Seq::new(some.from).unwrap();
    match what {
        0 => {
            cut(
                chain.append_many(vec![Entry::new("order.paid"); 1 + usize::try_from(dice.below(20)).unwrap()], AppendOptions::new()),
                u64::MAX,
            )
            .await
        }
        1 => cut(chain.seal(None, act), polls).await,
        2 => cut(chain.archive(from, act), polls).await,
        3 => cut(chain.purge(from, act), polls).await,
        4 => cut(chain.restore(from, None, act), polls).await,
        5 if some.state == SegmentState::Purged => cut(chain.purge_file(from, act), polls).await,
        6 => match chain.holds().await.unwrap().first() {
            Some(hold) => Some(chain.release_hold(&hold.id, act).await),
            None => Some(chain.hold(Some(from), None, act).await.map(drop)),
        },
        7 => cut(chain.heal(act), polls).await,
        8 | 9 => {
            clock.advance(Duration::from_secs(31));
            None
        }
        _ => match some.state {
            SegmentState::Sealed => cut(chain.archive(from, act), polls).await,
            SegmentState::Archived => cut(chain.purge(from, act), polls).await,
            SegmentState::Purged | SegmentState::Purging => cut(chain.restore(from, None, act), polls).await,
            SegmentState::Restoring => cut(chain.heal(act), polls).await,
            SegmentState::FilePurged => cut(chain.seal(None, act), polls).await,
        },
    }
}
