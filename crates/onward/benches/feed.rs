//! The change feed and several processes, on SQLite: how late an event is, what watchers cost, how fast a late reader catches up, what
//! processes leave each other, and how long the slowest of 64 callers waits beside ten competing connections.
//!
//! `cargo bench -p onward --bench feed [-- --quick]`. Every reader checks that it saw each revision once, in order; every sum is compared
//! with what is stored.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

mod shared;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::commit::FeedItem;
use onward::model::Revision;
use onward::observe::{Event, Observer};
use onward::store::{From, Put, Store, Watch};
use onward::{Config, Onward};
use parking_lot::Mutex;
use rusqlite::Connection;
use shared::{load, quantile};

const WRITERS: usize = 64;
/// Commits a second where the time to an event is measured.
const PACE: u32 = 5_000;
const PROCESSES: usize = 4;
const COMPETING: usize = 10;
/// Set in a child: the file that it writes to, and for how many milliseconds.
const CHILD: &str = "ONWARD_BENCH_CHILD";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(order) = std::env::var(CHILD) {
        let (millis, url) = order.split_once(' ').unwrap();
        let block = Duration::from_millis(millis.parse().unwrap());
        println!("{}", runtime.block_on(child(url, block)));
        return;
    }
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (rounds, block) = if quick { (1, Duration::from_millis(500)) } else { (5, Duration::from_secs(2)) };
    let folder = tempfile::tempdir().unwrap();
    let mut figures: Vec<[f64; 9]> = Vec::new();
    for round in 0..=rounds {
        let path = |name: &str| folder.path().join(format!("{round}-{name}.db"));
        let row = runtime.block_on(async {
            let (alone, batches, slowest) = write(&path("alone"), 0, block).await;
            let (watched, _, _) = write(&path("watched"), 10, block).await;
            let (caught_up, late) = (catch_up(&path("alone")).await, lateness(&path("late"), block).await);
            let one = processes(&path("one"), 1, block).0;
            let (four, least) = processes(&path("four"), PROCESSES, block);
            let competing = compete(&path("competing"), block);
            [
                alone,
                watched / alone,
                batches,
                slowest,
                caught_up / alone,
                late,
                four / one,
                least / (four / PROCESSES as f64),
                slowest / competing,
            ]
        });
        if round > 0 {
            figures.push(row);
        }
    }
    let names = [
        "64 writers, commits/s:",
        "with 10 watchers / without:",
        "commits of one fsync:",
        "slowest of 64 writers, ms:",
        "catching up / writing:",
        "commit's answer to event, p99 ms:",
        "4 processes, sum / one process:",
        "slowest process / equal share:",
        "slowest / of 10 competing:",
    ];
    let bars = ["", "; bar 0.8", "; bar 16", "; bar 100", "; bar 3", "; bar 20", "; bar 0.5", "; bar 0.33", "; bar 0.05"];
    for (at, (name, bar)) in names.iter().zip(bars).enumerate() {
        let mut all: Vec<f64> = figures.iter().map(|row| row[at]).collect();
        let [least, middle, most] = [0.0, 0.5, 1.0].map(|part| quantile(&mut all, part));
        println!("{name:<34}{middle:>10.3}   (rounds {least:.3} to {most:.3}{bar})");
    }
    println!("{}", load());
}

/// Counts batches: each is one fsync.
#[derive(Debug, Default)]
struct Batches(AtomicU64);

impl Observer for Batches {
    fn observe(&self, event: &Event<'_>) {
        if matches!(event, Event::Batch { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn open(path: &Path, batches: &Arc<Batches>) -> Store {
    let config = Config::new(format!("sqlite:{}", path.display())).with_observer(batches.clone());
    Onward::connect(config).await.unwrap().store()
}

/// Creates objects from 64 tasks while `watchers` follow; returns commits a second, commits a batch, and the slowest one in ms.
async fn write(path: &Path, watchers: usize, block: Duration) -> (f64, f64, f64) {
    let batches = Arc::new(Batches::default());
    let store = open(path, &batches).await;
    let stop = Arc::new(AtomicU64::new(u64::MAX));
    let mut following = Vec::new();
    for _ in 0..watchers {
        following.push(tokio::spawn(follow(store.clone(), stop.clone())));
    }
    let started = Instant::now();
    let tasks: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(create(store.clone(), writer, started, block))).collect();
    let (mut done, mut slowest) = (0, Duration::ZERO);
    for task in tasks {
        let (one, worst) = task.await.unwrap();
        (done, slowest) = (done + one, slowest.max(worst));
    }
    let elapsed = started.elapsed();
    let newest = store.queue().engine().meta().await.unwrap().revision.get();
    assert_eq!(newest, done, "a commit without a revision, or a revision without a commit");
    stop.store(newest, Ordering::SeqCst);
    // A last commit wakes whoever waits.
    assert!(matches!(store.create(("bench", "last"), &0).await.unwrap(), Put::Committed(_)));
    for one in following {
        one.await.unwrap();
    }
    (done as f64 / elapsed.as_secs_f64(), done as f64 / batches.0.load(Ordering::Relaxed) as f64, slowest.as_secs_f64() * 1e3)
}

async fn create(store: Store, writer: usize, started: Instant, block: Duration) -> (u64, Duration) {
    let (mut n, mut slowest) = (0, Duration::ZERO);
    while started.elapsed() < block {
        let asked = Instant::now();
        let Put::Committed(_) = store.create(("bench", &format!("{writer}-{n}")), &n).await.unwrap() else { panic!("lost against nobody") };
        slowest = slowest.max(asked.elapsed());
        n += 1;
    }
    (n, slowest)
}

/// Follows the feed until `stop` and checks that it has every revision once, in order.
async fn follow(store: Store, stop: Arc<AtomicU64>) -> u64 {
    let mut watcher = store.watch(Watch { from: From::After(Revision::default()), ..Watch::default() }).await.unwrap();
    let mut last = 0;
    while last < stop.load(Ordering::SeqCst) {
        if let FeedItem::Commit(record) = watcher.next().await.unwrap() {
            assert_eq!(record.revision.get(), last + 1, "a gap in the feed");
            last += 1;
        }
    }
    last
}

/// Reads the whole feed of a store that is not written any more; returns commits a second.
async fn catch_up(path: &Path) -> f64 {
    let store = open(path, &Arc::default()).await;
    let newest = store.queue().engine().meta().await.unwrap().revision.get();
    let started = Instant::now();
    let read = follow(store, Arc::new(AtomicU64::new(newest))).await;
    read as f64 / started.elapsed().as_secs_f64()
}

/// Writes at a pace while one watcher follows; returns the 99th percentile of the time from a commit's answer to its event, in ms.
async fn lateness(path: &Path, block: Duration) -> f64 {
    let store = open(path, &Arc::default()).await;
    let answered: Arc<Mutex<Vec<Option<Instant>>>> = Arc::default();
    let stop = Arc::new(AtomicU64::new(u64::MAX));
    let mut watcher = store.watch(Watch { from: From::After(Revision::default()), ..Watch::default() }).await.unwrap();
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut seen: Vec<Instant> = Vec::new();
            while (seen.len() as u64) < stop.load(Ordering::SeqCst) {
                if let FeedItem::Commit(record) = watcher.next().await.unwrap() {
                    assert_eq!(record.revision.get(), seen.len() as u64 + 1, "a gap in the feed");
                    seen.push(Instant::now());
                }
            }
            seen
        }
    });
    let started = Instant::now();
    let writer = |writer: u32| {
        let (store, answered) = (store.clone(), answered.clone());
        async move {
            let mut n = 0;
            loop {
                let due = started + Duration::from_secs(1) / PACE * (n * WRITERS as u32 + writer);
                if due.duration_since(started) > block {
                    return;
                }
                tokio::time::sleep_until(due.into()).await;
                let Put::Committed(written) = store.create(("late", &format!("{writer}-{n}")), &n).await.unwrap() else { panic!("lost") };
                let at = usize::try_from(written.revision.get()).unwrap();
                let mut all = answered.lock();
                let longer = all.len().max(at);
                all.resize(longer, None);
                all[at - 1] = Some(Instant::now());
                n += 1;
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS as u32).map(|n| tokio::spawn(writer(n))).collect();
    for one in writers {
        one.await.unwrap();
    }
    let newest = answered.lock().len() as u64;
    stop.store(newest, Ordering::SeqCst);
    assert!(matches!(store.create(("late", "last"), &0).await.unwrap(), Put::Committed(_)));
    let seen = watching.await.unwrap();
    let mut late: Vec<f64> = answered
        .lock()
        .iter()
        .zip(seen)
        .filter_map(|(told, seen)| Some(seen.saturating_duration_since((*told)?).as_secs_f64() * 1e3))
        .collect();
    quantile(&mut late, 0.99)
}

/// Processes that write to one file at once; returns commits a second of all, and of the slowest.
fn processes(path: &Path, count: usize, block: Duration) -> (f64, f64) {
    let url = format!("{} sqlite:{}", block.as_millis(), path.display());
    let children: Vec<_> = (0..count)
        .map(|_| Command::new(std::env::current_exe().unwrap()).env(CHILD, &url).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    let rates: Vec<f64> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().trim().parse::<f64>().unwrap()
        })
        .collect();
    (rates.iter().sum(), rates.iter().copied().fold(f64::INFINITY, f64::min))
}

/// One of several processes: 16 writers; returns commits a second.
async fn child(url: &str, block: Duration) -> f64 {
    let store = Onward::open(url).await.unwrap().store();
    let base = usize::try_from(std::process::id()).unwrap() * 100;
    let started = Instant::now();
    let tasks: Vec<_> = (0..16).map(|writer| tokio::spawn(create(store.clone(), base + writer, started, block))).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap().0;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// Ten threads with a connection each that write a row a transaction; returns the slowest of all in ms.
fn compete(path: &Path, block: Duration) -> f64 {
    let connect = || {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(30)).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (n INTEGER)").unwrap();
        connection
    };
    drop(connect());
    let started = Instant::now();
    let threads: Vec<_> = (0..COMPETING)
        .map(|_| {
            let connection = connect();
            std::thread::spawn(move || {
                let mut slowest = Duration::ZERO;
                while started.elapsed() < block {
                    let asked = Instant::now();
                    connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1); COMMIT").unwrap();
                    slowest = slowest.max(asked.elapsed());
                }
                slowest
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap_or_default().as_secs_f64() * 1e3
}
