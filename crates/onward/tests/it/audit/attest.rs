//! Against the checkpoints in its archive a database that was put back or rewritten shows, without anybody who looks (INV-7).

use std::path::{Path, PathBuf};
use std::time::Duration;

use onward::audit::{Act, AppendOptions, Chain, Maintenance, Policies, Policy, Stage, StepResult, Tick};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Code, Config, Onward};
use rusqlite::Connection;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Two chains, and an archive that has checkpoints of both.
struct Base {
    folder: tempfile::TempDir,
    clock: Clock,
}

impl Base {
    async fn new() -> Self {
        let base = Self { folder: tempfile::tempdir().unwrap(), clock: Clock::manual() };
        let live = base.open(&base.path("live.db")).await;
        base.grow(&live, 50).await;
        base.clock.advance(DAY);
        assert!(failed(&base.tick(&live).await).is_empty());
        base.copy("live.db", "yesterday.db");
        base.grow(&live, 50).await;
        base.clock.advance(DAY);
        assert!(failed(&base.tick(&live).await).is_empty());
        assert_eq!(base.checkpoints(), 4);
        base.copy("live.db", "today.db");
        base
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) {
        Connection::open(self.path(from)).unwrap().execute("VACUUM INTO ?1", [self.path(to).to_str().unwrap()]).unwrap();
    }

    async fn open(&self, path: &Path) -> Onward {
        let seen = Policy { checkpoint_every: Some(HOUR), verify_every: Some(DAY), verify_full_every: Some(7 * DAY), ..Policy::default() };
        let config = Config::new(format!("sqlite:{}", path.display()))
            .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
            .with_signing_key(CheckpointKey::from_seed([5; 32]))
            .with_archive_at(format!("file:{}", self.path("archive").display()))
            .with_policies(Policies::new(seen).unwrap())
            .with_clock(self.clock.clone());
        Onward::connect(config).await.unwrap()
    }

    async fn grow(&self, onward: &Onward, by: usize) {
        for name in ["orders", "others"] {
            chain(onward, name).append_many(vec![Entry::new("order.paid"); by], AppendOptions::new()).await.unwrap();
        }
    }

    /// Takes what is due; the clock moves a little while a verification keeps its pace.
    async fn tick(&self, onward: &Onward) -> Tick {
        let (mut memory, act, clock) = (Maintenance::default(), Act::because("retention"), self.clock.clone());
        let trail = onward.audit();
        let tick = tokio::spawn(async move { trail.tick(&mut memory, &act, HOUR).await.unwrap() });
        while !tick.is_finished() {
            clock.advance(Duration::from_micros(100));
            tokio::task::yield_now().await;
        }
        tick.await.unwrap()
    }

    /// How many checkpoints there are in the archive.
    fn checkpoints(&self) -> usize {
        let origins = std::fs::read_dir(self.path("archive")).unwrap().map(|origin| origin.unwrap().path());
        origins.map(|origin| std::fs::read_dir(origin.join("checkpoints")).unwrap().count()).sum()
    }
}

fn chain(onward: &Onward, name: &str) -> Chain {
    onward.audit().chain(name).unwrap()
}

/// What failed: the chain, the stage, and why.
fn failed(tick: &Tick) -> Vec<(&str, Stage, &str)> {
    let failed = tick.steps.iter().filter(|step| step.result == StepResult::Failed);
    failed.map(|step| (step.chain.as_str(), step.stage, step.why.as_deref().unwrap())).collect()
}

#[tokio::test]
async fn a_database_that_was_put_back_is_told_of_and_signed_no_more() {
    let base = Base::new().await;
    // Shorter than its checkpoint, and later longer, with another history.
    for (grown, finding) in [(10, "TRUNCATED"), (50, "DIVERGED")] {
        let onward = base.open(&base.path("yesterday.db")).await;
        base.grow(&onward, grown).await;
        base.clock.advance(DAY);
        let tick = base.tick(&onward).await;
        let failed = failed(&tick);
        assert_eq!(failed.len(), 4, "{tick:?}");
        for name in ["orders", "others"] {
            let of = |stage| failed.iter().find(|(chain, of, _)| *chain == name && *of == stage).unwrap().2;
            assert!(of(Stage::Checkpoint).contains("newest checkpoint in the archive"), "{tick:?}");
            assert!(of(Stage::Verify).contains(finding), "{tick:?}");
        }
        assert_eq!(base.checkpoints(), 4, "a chain that contradicts its checkpoint is not signed");
        let kept = chain(&onward, "orders").last_verdict().await.unwrap().unwrap();
        assert_eq!(kept.finding.unwrap().code.to_string(), finding);
    }
}

#[tokio::test]
async fn a_purge_of_what_contradicts_the_newest_checkpoint_is_refused() {
    let base = Base::new().await;
    let onward = base.open(&base.path("yesterday.db")).await;
    let (orders, act, first) = (chain(&onward, "orders"), Act::because("retention"), Seq::new(1).unwrap());
    orders.seal(None, &act).await.unwrap();
    let archived = orders.archive(first, &act).await.unwrap();
    let refused = orders.purge(first, &act).await.unwrap_err();
    assert_eq!(refused.code(), Code::IntegrityFailure, "{refused}");
    assert_eq!(orders.segment(first).await.unwrap().state, archived.state);
    assert!(orders.get(Seq::new(5).unwrap()).await.is_ok());
}

#[tokio::test]
async fn an_edited_entry_is_found_by_the_next_look_at_everything_and_stops_no_other_chain() {
    let base = Base::new().await;
    let attacker = Connection::open(base.path("today.db")).unwrap();
    attacker
        .execute_batch(
            "DROP TRIGGER onward_entries_stay;
             UPDATE onward_entries SET actor = 'mallory' WHERE seq = 5 AND chain = (SELECT id FROM onward_chains WHERE name = 'orders')",
        )
        .unwrap();
    drop(attacker);
    let onward = base.open(&base.path("today.db")).await;
    base.clock.advance(DAY);
    let rest = base.tick(&onward).await;
    assert!(failed(&rest).is_empty() && rest.steps.iter().all(|step| step.from > 1), "only what came since: {rest:?}");
    base.clock.advance(7 * DAY);
    let all = base.tick(&onward).await;
    let [("orders", Stage::Verify, why)] = failed(&all)[..] else { panic!("{all:?}") };
    assert!(why.ends_with("the chain is broken: BROKEN(edited) 5..5"), "{all:?}");
    assert!(all.steps.iter().any(|step| step.chain == "others" && step.result == StepResult::Done), "{all:?}");
    assert_eq!(base.tick(&onward).await, Tick::default(), "it was told, and is kept");
}

/// A thread of a runtime has 2 MiB for all that is called on it, and a build without optimisation lays each future several times on it.
#[tokio::test]
async fn what_maintenance_may_do_does_not_lie_on_the_stack() {
    let (folder, act, mut memory) = (tempfile::tempdir().unwrap(), Act::because("retention"), Maintenance::default());
    let onward = Onward::connect(Config::new(format!("sqlite:{}", folder.path().join("a.db").display()))).await.unwrap();
    let size = size_of_val(&onward.audit().tick(&mut memory, &act, HOUR));
    assert!(size <= 1_024, "{size} bytes");
    let size = size_of_val(&onward.maintain(&mut memory, &act, HOUR));
    assert!(size <= 16_384, "{size} bytes");
}
