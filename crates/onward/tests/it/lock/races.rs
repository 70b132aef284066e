//! Real threads and the machine's clock: a counter that is read and written in two steps shows whether the lock excludes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use onward::engine::memory::MemoryLocks;
use onward::engine::sqlite::SqliteLocks;
use onward::lock::{
    Ask, Capabilities, Claim, LeaseRow, LockEngine, LockOptions, Locks, LocksConfig, Owner, Place, Release, Renewal, Renewed, Tried,
};
use onward::model::{FencingToken, LockKey};
use onward::time::Clock;
use onward::{Kind, Result};

const THREADS: u64 = 3;
const TASKS: u64 = 3;
const ROUNDS: u64 = 60;

/// What came of a race.
#[derive(Debug, PartialEq, Eq)]
struct Raced {
    lost: u64,
    tokens_grew: bool,
}

const CLEAN: Raced = Raced { lost: 0, tokens_grew: true };

/// Lets several threads, each with a runtime and locks of its own, add to one counter.
fn race(open: impl Fn() -> Arc<dyn LockEngine> + Sync) -> Raced {
    let counter = AtomicU64::new(0);
    let tokens = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let locks = Locks::new(open(), LocksConfig::default()).unwrap();
                    let task = async || {
                        for _ in 0..ROUNDS {
                            add(&locks, &counter, &tokens).await;
                        }
                    };
                    tokio::join!(task(), task(), task());
                });
            });
        }
    });
    let tokens = tokens.into_inner();
    let lost = THREADS * TASKS * ROUNDS - counter.into_inner();
    Raced { lost, tokens_grew: tokens.windows(2).all(|pair| pair[0] < pair[1]) }
}

async fn add(locks: &Locks, counter: &AtomicU64, tokens: &parking_lot::Mutex<Vec<u64>>) {
    let options = LockOptions::fail().with_wait(Duration::from_secs(60));
    let key = LockKey::typed("main", "eu", "counters", "1").unwrap();
    let body = |grant: onward::lock::GrantView| async move {
        let read = counter.load(Ordering::SeqCst);
        tokens.lock().push(grant.token().unwrap().get());
        // Gives the processor away between reading and writing.
        tokio::task::yield_now().await;
        std::thread::yield_now();
        counter.store(read + 1, Ordering::SeqCst);
    };
    locks.with_key(&key, options, body).await.unwrap().locked().unwrap();
}

/// Says yes to everybody.
#[derive(Debug)]
struct Generous(Arc<dyn LockEngine>);

impl LockEngine for Generous {
    fn name(&self) -> &'static str {
        "generous"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(async move {
            let key = LockKey::raw(&format!("{}{}", ask.key, ask.owner))?;
            self.0.try_acquire(Ask { key, ..ask }).await
        })
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        self.0.renew(batch)
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        Box::pin(async move { Ok(vec![Release::Released; batch.len()]) })
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        self.0.inspect(key)
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        self.0.list(prefix, after, limit)
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        self.0.take_over(ask)
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        self.0.raise(newest)
    }
}

fn sqlite(path: &Path) -> Arc<dyn LockEngine> {
    let open = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(SqliteLocks::open(path, Clock::system())).unwrap()
    };
    // A thread of its own: callers may be inside a runtime.
    Arc::new(std::thread::scope(|scope| scope.spawn(open).join().unwrap()))
}

#[test]
fn threads_lose_no_increment_on_memory() {
    let engine: Arc<dyn LockEngine> = Arc::new(MemoryLocks::new(Clock::system()));
    assert_eq!(race(|| Arc::clone(&engine)), CLEAN);
}

#[test]
fn threads_with_a_file_handle_each_lose_no_increment_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    assert_eq!(race(|| sqlite(&path)), CLEAN);
}

#[test]
fn the_counter_shows_an_engine_that_grants_always() {
    let engine: Arc<dyn LockEngine> = Arc::new(MemoryLocks::new(Clock::system()));
    let generous: Arc<dyn LockEngine> = Arc::new(Generous(engine));
    assert!(race(|| Arc::clone(&generous)).lost > 0, "the counter is blind");
}

/// One key, two threads that take it in turn without waiting: never both.
#[test]
fn two_threads_never_hold_one_key_at_once() {
    let engine = MemoryLocks::new(Clock::system());
    let (inside, granted) = (AtomicU64::new(0), AtomicU64::new(0));
    let take_turns = || {
        let key = LockKey::raw("k").unwrap();
        for _ in 0..20_000 {
            let owner = Owner::draw();
            let ask = Ask { key: key.clone(), owner, holder: "t".into(), ttl: Duration::from_secs(60), place: Place::None };
            if let Tried::Granted { .. } = pollster::block_on(engine.try_acquire(ask)).unwrap() {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                granted.fetch_add(1, Ordering::SeqCst);
                inside.fetch_sub(1, Ordering::SeqCst);
                let claim = Claim { key: key.clone(), owner, keep: Duration::ZERO };
                assert_eq!(pollster::block_on(engine.release(vec![claim])).unwrap(), [Release::Released]);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(take_turns);
        scope.spawn(take_turns);
    });
    assert!(granted.load(Ordering::SeqCst) > 1_000);
}

/// Must not come back: a drop that blocks or panics while the runtime ends.
#[test]
fn runtime_shutdown_neither_blocks_nor_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let memory: Arc<dyn LockEngine> = Arc::new(MemoryLocks::new(Clock::system()));
    for engine in [memory, sqlite(&path)] {
        let key = LockKey::raw("k").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (locks, kept) = runtime.block_on(async {
            let locks = Locks::new(Arc::clone(&engine), LocksConfig::default()).unwrap();
            let kept = locks.acquire(&key, LockOptions::fail()).await.unwrap();
            // Tasks that the shutdown drops: one waits in line, one is in its body.
            let (waits, holds) = (locks.clone(), locks.clone());
            tokio::spawn({
                let key = key.clone();
                async move { waits.acquire(&key, LockOptions::fail().with_wait(Duration::from_secs(60))).await.map(drop) }
            });
            let (began, begun) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let body = |_| async move {
                    began.send(()).unwrap();
                    std::future::pending::<()>().await;
                };
                holds.with_key(&LockKey::raw("another").unwrap(), LockOptions::fail(), body).await.map(drop)
            });
            begun.await.unwrap();
            (locks, kept)
        });
        drop(runtime);
        let token = kept.token();
        kept.check().unwrap();
        drop(kept);
        drop(locks);
        // What could not be given back ends with its lease.
        let left = pollster::block_on(engine.inspect(key)).unwrap();
        assert!(left.is_none_or(|row| row.token == Some(token)));
    }
}

#[test]
fn locks_without_a_runtime_are_refused() {
    let engine = Arc::new(MemoryLocks::new(Clock::system()));
    assert_eq!(Locks::new(engine, LocksConfig::default()).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn many_open_a_fresh_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..25 {
        let path = folder.path().join(format!("{round}.locks.db"));
        let together = std::sync::Barrier::new(6);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    together.wait();
                    let engine = sqlite(&path);
                    let ask = Ask {
                        key: LockKey::raw("k").unwrap(),
                        owner: Owner::draw(),
                        holder: "t".into(),
                        ttl: Duration::from_secs(1),
                        place: Place::None,
                    };
                    pollster::block_on(engine.try_acquire(ask)).unwrap();
                });
            }
        });
    }
}
