//! Random schedules of the life of segments over a real SQLite store: the verifier has no alarm after any step (INV-7).

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Code, Config, Kind, Onward};

/// Steps in all; each is followed by a verification. The seed is printed when one fails.
const STEPS: usize = 300;

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
async fn cut<T>(future: impl Future<Output = onward::Result<T>>, polls: u64) -> Option<onward::Result<T>> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

async fn open(folder: &tempfile::TempDir, clock: &Clock) -> Chain {
    let config = Config::new(format!("sqlite:{}", folder.path().join("onward.db").display()))
        .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
        .with_signing_key(CheckpointKey::from_seed([5; 32]))
        .with_archive_at(format!("file:{}", folder.path().join("archive").display()))
        .with_clock(clock.clone());
    Onward::connect(config).await.unwrap().audit().chain("orders").unwrap()
}

#[tokio::test]
async fn no_schedule_of_workers_deaths_and_holds_raises_an_alarm() {
    let seed = onward::random::bytes::<8>();
    let mut dice = Dice(u64::from_le_bytes(seed) | 1);
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual();
    let workers = [open(&folder, &clock).await, open(&folder, &clock).await];
    let act = Act::because("a schedule");
    for step in 0..STEPS {
        let chain = &workers[usize::try_from(dice.below(2)).unwrap()];
        let segments = chain.segments(None).await.unwrap();
        let some = usize::try_from(dice.below(segments.len().max(1) as u64)).unwrap();
        let from = Seq::new(segments.get(some).map_or(1, |segment| segment.from)).unwrap();
        let polls = if dice.below(3) == 0 { 1 + dice.below(40) } else { u64::MAX };
        let what = dice.below(12);
        let done = match what {
            0 | 1 => cut(
                chain.append_many(vec![Entry::new("order.paid"); 1 + usize::try_from(dice.below(100)).unwrap()], AppendOptions::new()),
                u64::MAX,
            )
            .await
            .map(|done| done.map(|_| ())),
            2 => cut(chain.seal(None, &act), polls).await.map(|done| done.map(|_| ())),
            3 | 4 => cut(chain.archive(from, &act), polls).await.map(|done| done.map(|_| ())),
            5 | 6 => cut(chain.purge(from, &act), polls).await.map(|done| done.map(|_| ())),
            7 => cut(chain.restore(from, None, &act), polls).await.map(|done| done.map(|_| ())),
            8 => match segments.get(some).filter(|segment| segment.state == SegmentState::Purged && dice.below(4) == 0) {
                Some(_) => cut(chain.purge_file(from, &act), polls).await.map(|done| done.map(|_| ())),
                None => None,
            },
            9 => match chain.holds().await.unwrap().first() {
                Some(hold) => Some(chain.release_hold(&hold.id, &act).await),
                None => Some(chain.hold(Some(from), None, &act).await.map(|_| ())),
            },
            10 => cut(chain.heal(&act), polls).await.map(|done| done.map(|_| ())),
            _ => {
                clock.advance(Duration::from_secs(31));
                None
            }
        };
        let refused =
            |error: &onward::Error| error.code() == Code::StateConflict || error.kind() == Kind::NotFound || error.kind() == Kind::Invalid;
        assert!(!matches!(&done, Some(Err(error)) if !refused(error)), "seed {seed:?}, step {step} ({what}): {done:?}");
        let Some(head) = chain.head().await.unwrap() else { continue };
        let check = Check { archives: Archives::Read, threads: usize::try_from(dice.below(3)).unwrap(), ..Check::default() };
        let report = workers[0].verify(check).await.unwrap();
        // What a purge of a file leaves behind when it dies is the one thing that may be told of, and no alarm.
        let quiet = report.findings.iter().all(|finding| finding.code == onward::audit::verify::FindingCode::Leftover);
        assert!(report.verdict == Verdict::Ok && quiet && report.to_seq >= head.seq.get(), "seed {seed:?}, step {step} ({what}): {report}");
    }
    // In the end nothing is half done.
    for hold in workers[0].holds().await.unwrap() {
        workers[0].release_hold(&hold.id, &act).await.unwrap();
    }
    clock.advance(Duration::from_secs(31));
    let healed = workers[1].heal(&act).await.unwrap();
    assert!(healed.waiting.is_empty(), "seed {seed:?}: {healed:?}");
    let half = |state| matches!(state, SegmentState::Purging | SegmentState::Restoring);
    assert!(!workers[0].segments(None).await.unwrap().iter().any(|segment| half(segment.state)), "seed {seed:?}");
    assert!(workers[0].verify(Check::default()).await.unwrap().findings.is_empty(), "seed {seed:?}");
}
