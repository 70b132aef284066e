//! Durable commits on SQLite: 64 writers through the queue, against hand-written loops with the same rows, in one run on one disk.
//!
//! `cargo bench -p onward --bench store [-- --quick | --full | --lone] [commits hot costs sizes]`. Ratios decide; the fsync rate stands beside
//! them. Each round checks that every acknowledged row is there. Then one hot key: `apply` against optimistic retry; what the log costs; and
//! many objects against few.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::Onward;
use onward::commit::{Commit, CommitOutcome, Patch, WriteCondition};
use onward::engine::sqlite::SqliteStore;
use onward::model::Payload;
use onward::store::{Put, Store, WriteOptions};
use onward::time::Clock;
use rusqlite::Connection;

use crate::shared::{fsyncs_a_second, in_turns, load, median, ratio};

mod shared;

const WRITERS: usize = 64;
/// Writers of the hot key.
const HOT: usize = 32;
const ROUNDS: usize = 5;
const BLOCK: Duration = Duration::from_secs(2);
const BYTES: usize = 256;
const PARTS: [&str; 4] = ["commits", "hot", "costs", "sizes"];
/// How long one commit may take while a large database is made: a shared disk may stand still for seconds.
const FILL: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asked("--lone") {
        return lone(&runtime, folder.path());
    }
    let (rounds, block) = if asked("--quick") { (1, Duration::from_millis(300)) } else { (ROUNDS, BLOCK) };
    // Ten million objects take minutes and 10 GB.
    let many = match (asked("--quick"), asked("--full")) {
        (true, _) => 100_000,
        (_, true) => 10_000_000,
        (_, false) => 1_000_000,
    };
    let all = !PARTS.iter().any(|part| asked(part));
    let [do_commits, do_hot, do_costs, do_sizes] = PARTS.map(|part| all || asked(part));
    if do_commits {
        commits(&runtime, folder.path(), rounds, block);
    }
    if do_hot {
        hot_key(&runtime, folder.path(), rounds, block);
    }
    if do_costs {
        costs(&runtime, folder.path(), rounds, block);
    }
    if do_sizes {
        sizes(&runtime, folder.path(), rounds, block, many);
    }
}

/// 64 writers and one, against the same rows by hand.
fn commits(runtime: &tokio::runtime::Runtime, folder: &Path, rounds: usize, block: Duration) {
    let mut figures: Vec<[f64; 6]> = Vec::new();
    for round in 0..=rounds {
        // A B C D, then D C B A: a drift of the machine meets all of them.
        let mut blocks: Vec<usize> = (0..4).collect();
        if round % 2 == 1 {
            blocks.reverse();
        }
        let mut row = [0.0; 6];
        // In each round: a disk that others use too is another disk a minute later.
        row[4] = 1_000.0 / fsyncs_a_second(folder);
        for side in blocks {
            let path = folder.join(format!("{round}-{side}.db"));
            row[side] = match side {
                0 => {
                    let (rate, slowest) = runtime.block_on(onward(&path, WRITERS, block));
                    row[5] = slowest;
                    rate
                }
                1 => by_hand(runtime, &path, ByHand::rows(100), block),
                2 => by_hand(runtime, &path, ByHand::rows(1), block),
                _ => runtime.block_on(onward(&path, 1, block)).0,
            };
        }
        // The first round warms the disk's and the allocator's caches.
        if round > 0 {
            figures.push(row);
        }
    }
    let spread = |pick: &dyn Fn(&[f64; 6]) -> f64| {
        let mut all: Vec<f64> = figures.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[0], all[all.len() - 1])
    };
    let show = |what: &str, bar: &str, pick: &dyn Fn(&[f64; 6]) -> f64| {
        let (median, least, most) = spread(pick);
        println!("{what:<32}{median:>8.2}   (rounds {least:.2} to {most:.2}{bar})");
    };
    show("fsync alone, ms:", "", &|r| r[4]);
    show("64 writers, 1,000 commits/s:", "", &|r| r[0] / 1e3);
    show("by hand, 100 a commit, 1,000/s:", "", &|r| r[1] / 1e3);
    show("by hand, 1 a commit, 1,000/s:", "", &|r| r[2] / 1e3);
    show("1 writer, 1,000 commits/s:", "", &|r| r[3] / 1e3);
    show("64 writers / 100 a commit:", "; bar 0.6", &|r| r[0] / r[1]);
    show("64 writers / 1 a commit:", "; bar 10, or 4 where an fsync takes under 0.2 ms", &|r| r[0] / r[2]);
    show("1 writer / 1 a commit:", "; bar 0.75", &|r| r[3] / r[2]);
    show("slowest of 64 writers, ms:", "; bar 100", &|r| r[5]);
}

/// What the change log and FULL cost a hand-written loop with 64 rows a commit, about what 64 writers share.
fn costs(runtime: &tokio::runtime::Runtime, folder: &Path, rounds: usize, block: Duration) {
    let loops = [ByHand::rows(64), ByHand { log: false, ..ByHand::rows(64) }, ByHand { synchronous: "NORMAL", ..ByHand::rows(64) }];
    let figures: [Vec<f64>; 3] = in_turns(rounds, |which, round| {
        let path = folder.join(format!("cost-{round}-{which}.db"));
        let rate = by_hand(runtime, &path, loops[which], block);
        std::fs::remove_file(&path).unwrap();
        rate
    });
    let show = |what: &str, bar: &str, other: usize| {
        let mut ratios: Vec<f64> = figures[0].iter().zip(&figures[other]).map(|(one, other)| one / other).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        println!("{what:<32}{:>8.2}   (rounds {least:.2} to {most:.2}; {bar})", ratios[ratios.len() / 2]);
    };
    show("by hand, log / no log:", "bar 0.65", 1);
    show("by hand, FULL / NORMAL:", "bar 0.9", 2);
}

/// One writer alone against the same rows one a transaction, in many short turns: of each, what a commit costs is one fsync and its own work.
fn lone(runtime: &tokio::runtime::Runtime, folder: &Path) {
    let block = Duration::from_millis(400);
    let figures: [Vec<f64>; 3] = in_turns(15, |side, round| {
        let path = folder.join(format!("lone-{round}-{side}.db"));
        match side {
            0 => runtime.block_on(onward(&path, 1, block)).0,
            1 => by_hand(runtime, &path, ByHand::rows(1), block),
            _ => by_hand_behind_a_channel(runtime, &path, block),
        }
    });
    let [ours, plain, asynchronous] = &figures;
    println!("1 writer / 1 a commit:          {:>8.2}   (bar 0.75)", ratio(ours, plain));
    println!("by hand behind a channel / it:  {:>8.2}", ratio(asynchronous, plain));
    println!("1 writer / behind a channel:    {:>8.2}", ratio(ours, asynchronous));
    println!(
        "1 a commit, commits/s:          {:>8.0}   an fsync takes {:.2} ms; {}",
        median(plain.clone()),
        1_000.0 / fsyncs_a_second(folder),
        load()
    );
}

/// 64 writers that replace random objects of many, against the same on few; both files stay, warm.
fn sizes(runtime: &tokio::runtime::Runtime, folder: &Path, rounds: usize, block: Duration, many: usize) {
    let open = |objects: usize| {
        let path = folder.join(format!("size-{objects}.db"));
        let store = runtime.block_on(Onward::open(&format!("sqlite:{}", path.display()))).unwrap().store();
        runtime.block_on(fill(&store, objects));
        store
    };
    let (few, all) = (open(10_000), open(many));
    let mut ratios: Vec<f64> = Vec::new();
    let mut rates = [0.0; 2];
    for round in 0..=rounds {
        let one = |store: &Store, objects: usize| {
            warm(&folder.join(format!("size-{objects}.db")));
            runtime.block_on(replace(store, objects, block))
        };
        rates = if round % 2 == 1 {
            let all = one(&all, many);
            [one(&few, 10_000), all]
        } else {
            [one(&few, 10_000), one(&all, many)]
        };
        if round > 0 {
            ratios.push(rates[1] / rates[0]);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("replaces of 10,000 objects:     {:>8.0} commits/s in the last round", rates[0]);
    println!("replaces of {many} objects: {:>8.0} commits/s in the last round", rates[1]);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    println!("many / 10,000 objects:          {:>8.2}   (rounds {least:.2} to {most:.2}; bar 0.4 at 10,000,000)", ratios[ratios.len() / 2]);
}

/// Has a file read through, so that the system holds what it can of it: some machines give memory back that nobody touched for seconds.
/// By another process: closing a file takes SQLite's locks on it away.
fn warm(path: &Path) {
    let read = std::process::Command::new("cat").arg(path).stdout(std::process::Stdio::null()).status();
    assert!(read.unwrap().success());
}

/// The key of an object: scattered over the key space, so that neighbours in time are none in the file.
fn scattered(n: usize) -> u64 {
    (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn named(key: u64) -> String {
    format!("{key:016x}")
}

/// Makes objects in the order of their keys, which is quick; what is measured comes to them at random.
async fn fill(store: &Store, objects: usize) {
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    let payload = Payload::new(vec![b'x'; BYTES], "text/plain").unwrap();
    let mut keys: Vec<u64> = (0..objects).map(scattered).collect();
    keys.sort_unstable();
    for some in keys.chunks(128) {
        let commit = some.iter().fold(Commit::new().deadline(FILL), |commit, key| {
            commit.put_payload(("bench", named(*key)), payload.clone(), WriteCondition::MustCreate)
        });
        let asked = Instant::now();
        assert!(matches!(store.commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
        slowest = slowest.max(asked.elapsed());
    }
    let (all, slowest) = (begun.elapsed().as_secs_f64(), slowest.as_secs_f64());
    println!("{objects} objects made in {all:.1} s, the slowest commit of 128 in {slowest:.2} s");
}

static DRAWN: AtomicU64 = AtomicU64::new(0);

/// Replaces random objects from 64 tasks for one block; returns commits a second.
async fn replace(store: &Store, objects: usize, block: Duration) -> f64 {
    let started = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut n, mut draw) =
                    (0_u64, 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(writer as u64 + 1) ^ u64::from(started.elapsed().subsec_nanos()));
                while started.elapsed() < block {
                    // Xorshift: any object, none twice in a row.
                    draw ^= draw << 13;
                    draw ^= draw >> 7;
                    draw ^= draw << 17;
                    let mut bytes = vec![b'y'; BYTES];
                    // No two writes alike: what changes nothing is no commit.
                    bytes[..8].copy_from_slice(&DRAWN.fetch_add(1, Ordering::Relaxed).to_le_bytes());
                    let payload = Payload::new(bytes, "text/plain").unwrap();
                    let name = named(scattered(usize::try_from(draw % objects as u64).unwrap()));
                    let put = store.put_payload_if(("bench", name), payload, WriteCondition::MustExist, WriteOptions::new()).await.unwrap();
                    assert!(matches!(put, Put::Committed(written) if written.changed));
                    n += 1;
                }
                n
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// How a writer counts in a hot object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Inside the writer.
    Apply,
    /// By hand: read, add, write at the version read.
    Retry,
    /// By the library's own retry.
    Update,
}

/// One object that 32 writers count in: `apply`, against optimistic retry that reads, adds and writes at the version read; and `update`.
fn hot_key(runtime: &tokio::runtime::Runtime, folder: &Path, rounds: usize, block: Duration) {
    let mut rows: Vec<[f64; 5]> = (0..=rounds)
        .map(|round| {
            let path = |form: &str| folder.join(format!("hot-{round}-{form}.db"));
            let (applied, _) = runtime.block_on(count(&path("apply"), How::Apply, block));
            let (retried, tries) = runtime.block_on(count(&path("retry"), How::Retry, block));
            let (updated, turns) = runtime.block_on(count(&path("update"), How::Update, block));
            [applied, retried, tries, updated, turns]
        })
        .skip(1)
        .collect();
    rows.sort_by(|a, b| (a[0] / a[1]).total_cmp(&(b[0] / b[1])));
    let [applied, retried, tries, updated, turns] = rows[rows.len() / 2];
    println!("hot key, {HOT} writers, apply:    {applied:>8.0} commits/s");
    println!("hot key, optimistic retry:      {retried:>8.0} commits/s, {tries:.1} tries each");
    println!("hot key, update:                {updated:>8.0} commits/s, {turns:.2} tries each   (bar 3)");
    println!("apply / optimistic retry:       {:>8.2}   (bar 20)", applied / retried);
}

/// Counts for one block; returns commits a second and tries a commit. The counter says whether one was lost.
async fn count(path: &Path, how: How, block: Duration) -> (f64, f64) {
    let store = Onward::open(&format!("sqlite:{}", path.display())).await.unwrap().store();
    assert!(matches!(store.create(("bench", "hot"), &serde_json::json!({"n": 0})).await.unwrap(), Put::Committed(_)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..HOT)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut done, mut tries) = (0_u64, 0_u64);
                while started.elapsed() < block {
                    if how == How::Update {
                        let add = |value: &mut serde_json::Value, _: &_| {
                            value["n"] = (value["n"].as_u64().unwrap_or(0) + 1).into();
                            Ok::<(), onward::Refusal>(())
                        };
                        let updated = store.update(("bench", "hot"), add).tries(100).await.unwrap();
                        (done, tries) = (done + 1, tries + u64::from(updated.tries));
                        continue;
                    }
                    let won = if how == How::Apply {
                        let patch = Patch::new().add("/n", 1);
                        matches!(store.apply(("bench", "hot"), patch, None, WriteOptions::new()).await.unwrap(), Put::Committed(_))
                    } else {
                        let mut object = store.get::<serde_json::Value>(("bench", "hot")).await.unwrap().unwrap();
                        object.value["n"] = (object.value["n"].as_u64().unwrap() + 1).into();
                        let put = store.replace(("bench", "hot"), &object.value, object.meta.version).await.unwrap();
                        matches!(put, Put::Committed(_))
                    };
                    tries += 1;
                    done += u64::from(won);
                }
                (done, tries)
            })
        })
        .collect();
    let (mut done, mut tries) = (0, 0);
    for task in tasks {
        let one = task.await.unwrap();
        (done, tries) = (done + one.0, tries + one.1);
    }
    let elapsed = started.elapsed();
    let object = store.get::<serde_json::Value>(("bench", "hot")).await.unwrap().unwrap();
    assert_eq!(object.value["n"].as_u64().unwrap(), done, "an acknowledged count is missing");
    (done as f64 / elapsed.as_secs_f64(), tries as f64 / done as f64)
}

/// Creates objects from many tasks for one block and returns commits a second, and the milliseconds that the slowest one took.
async fn onward(path: &Path, writers: usize, block: Duration) -> (f64, f64) {
    let store = Onward::open(&format!("sqlite:{}", path.display())).await.unwrap().store();
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers).map(|writer| tokio::spawn(write(store.clone(), writer, started, block, done.clone()))).collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.unwrap());
    }
    let elapsed = started.elapsed();
    let acknowledged = done.load(Ordering::Relaxed);
    let stored: i64 = Connection::open(path).unwrap().query_row("SELECT count(*) FROM onward_objects", [], |row| row.get(0)).unwrap();
    assert_eq!(u64::try_from(stored).unwrap(), acknowledged, "an acknowledged object is missing");
    (acknowledged as f64 / elapsed.as_secs_f64(), slowest.as_secs_f64() * 1e3)
}

async fn write(store: Store, writer: usize, started: Instant, block: Duration, done: Arc<AtomicU64>) -> Duration {
    let payload = Payload::new(vec![b'x'; BYTES], "text/plain").unwrap();
    let (mut n, mut slowest) = (0_u64, Duration::ZERO);
    while started.elapsed() < block {
        let name = format!("{writer}-{n}");
        let asked = Instant::now();
        let Put::Committed(_) =
            store.put_payload_if(("bench", &name), payload.clone(), WriteCondition::MustCreate, WriteOptions::new()).await.unwrap()
        else {
            panic!("a create lost against nobody");
        };
        slowest = slowest.max(asked.elapsed());
        n += 1;
    }
    done.fetch_add(n, Ordering::Relaxed);
    slowest
}

/// How a loop is written by hand.
#[derive(Clone, Copy)]
struct ByHand {
    /// Rows a transaction.
    rows: u64,
    /// With the rows of the change log.
    log: bool,
    synchronous: &'static str,
}

impl ByHand {
    fn rows(rows: u64) -> Self {
        Self { rows, log: true, synchronous: "FULL" }
    }
}

/// The same rows into the same tables by hand, on one connection.
struct Hand {
    connection: Connection,
    how: ByHand,
    payload: Vec<u8>,
    rows: u64,
}

impl Hand {
    fn open(runtime: &tokio::runtime::Runtime, path: &Path, how: ByHand) -> Self {
        drop(runtime.block_on(SqliteStore::open(path, &Clock::system())).unwrap());
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {};", how.synchronous)).unwrap();
        Self { connection, how, payload: vec![b'x'; BYTES], rows: 0 }
    }

    /// Object, change log and counter, so many of them in one transaction.
    fn commit(&mut self) {
        let Self { connection, how, payload, rows: n } = self;
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..how.rows {
            *n += 1;
            let (id, name) = (i64::try_from(*n).unwrap(), format!("{}-{}", *n % WRITERS as u64, *n / WRITERS as u64));
            let mut find = connection
                .prepare_cached("SELECT version FROM onward_objects WHERE namespace = 'default' AND kind = 'bench' AND name = ?1")
                .unwrap();
            assert!(!find.exists([&name]).unwrap());
            let mut object = connection
                .prepare_cached(
                    "INSERT INTO onward_objects VALUES ('default', 'bench', ?1, ?2, 1, ?3, ?3, 'text/plain', ?4, 0, 0, NULL, NULL)",
                )
                .unwrap();
            object.execute((&name, [7_u8; 16], id, &*payload)).unwrap();
            if how.log {
                let mut change = connection
                    .prepare_cached(
                        "INSERT INTO onward_changes VALUES (?1 * 256, 0, 'put', 'default', 'bench', ?2, 1, NULL, NULL, NULL, NULL)",
                    )
                    .unwrap();
                change.execute((id, &name)).unwrap();
            }
        }
        connection.execute("UPDATE onward_meta SET revision = ?1", [i64::try_from(*n).unwrap()]).unwrap();
        connection.execute_batch("COMMIT").unwrap();
    }
}

/// Returns rows a second of a loop by hand.
fn by_hand(runtime: &tokio::runtime::Runtime, path: &Path, how: ByHand, block: Duration) -> f64 {
    let (mut hand, started) = (Hand::open(runtime, path, how), Instant::now());
    while started.elapsed() < block {
        hand.commit();
    }
    hand.rows as f64 / started.elapsed().as_secs_f64()
}

/// The same one row a transaction, but for a task that waits for each: the loop stands on a thread of its own, so that no fsync holds up
/// the runtime. What this loses to the plain loop is the price of being asynchronous.
fn by_hand_behind_a_channel(runtime: &tokio::runtime::Runtime, path: &Path, block: Duration) -> f64 {
    let (orders, mut waiting) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(64);
    let mut hand = Hand::open(runtime, path, ByHand::rows(1));
    let writer = std::thread::spawn(move || {
        while let Some(answer) = waiting.blocking_recv() {
            hand.commit();
            answer.send(()).unwrap();
        }
        hand.rows as f64
    });
    let started = Instant::now();
    let caller = async move {
        while started.elapsed() < block {
            let (answer, answered) = tokio::sync::oneshot::channel();
            orders.send(answer).await.unwrap();
            answered.await.unwrap();
        }
    };
    runtime.block_on(async { tokio::spawn(caller).await.unwrap() });
    let took = started.elapsed().as_secs_f64();
    writer.join().unwrap() / took
}
