//! A lock's cycle, taken and given back: in memory, and on SQLite against the bare statements with the same pragmas, in one run.
//!
//! `cargo bench -p onward --bench lock`. Ratios decide. Each cycle checks that it was granted and that the grant was still held when it
//! was given back.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use onward::lock::{LockOptions, Locks, Release, Renew};
use onward::model::LockKey;
use onward::{Config, Onward};
use rusqlite::{Connection, params};

use crate::shared::{in_turns, median_time};

mod shared;

const ROUNDS: usize = 9;
const MEMORY_CYCLES: usize = 200_000;
const SQLITE_CYCLES: usize = 5_000;
/// Callers at once, each on a key of its own.
const CALLERS: usize = 64;
const CALLERS_CYCLES: usize = 100;
/// Callers who all want one key at once, and how long each holds it.
const WAITERS: usize = 50;
const HOLD: Duration = Duration::from_millis(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("store.db").display());
    let memory = runtime.block_on(Onward::connect(Config::new("memory:"))).unwrap();
    let sqlite = runtime.block_on(Onward::connect(Config::new(url))).unwrap();
    let bare = Bare::open(&folder.path().join("bare.db"));
    let (plain, renewed) = (LockOptions::fail().with_renew(Renew::Off), LockOptions::fail());
    let figures: [Vec<Duration>; 8] = in_turns(ROUNDS, |block, _| match block {
        0 => median_time(&mut (0..MEMORY_CYCLES).map(|_| Instant::now().elapsed()).collect::<Vec<_>>()),
        1 => runtime.block_on(cycles(&memory.locks(), &plain, MEMORY_CYCLES)),
        2 => runtime.block_on(cycles(&memory.locks(), &renewed, MEMORY_CYCLES)),
        3 => runtime.block_on(cycles(&sqlite.locks(), &plain, SQLITE_CYCLES)),
        4 => bare.cycles(SQLITE_CYCLES),
        5 => runtime.block_on(callers(&sqlite.locks(), &plain)),
        6 => runtime.block_on(herd(&memory.locks())),
        _ => runtime.block_on(herd(&sqlite.locks())),
    });
    let [clock, plain, renewed, sqlite, bare, callers, memory_herd, sqlite_herd] = figures.map(|mut all| median_time(&mut all).as_nanos());
    println!("reading the clock, in each figure:      {clock:>7} ns");
    println!("memory, acquire and release, p50:       {plain:>7} ns   (bar 1000)");
    println!("memory, the same with renewal, p50:     {renewed:>7} ns");
    println!("sqlite, acquire and release, p50:       {sqlite:>7} ns");
    println!("sqlite, the bare statements, p50:       {bare:>7} ns");
    println!("sqlite / the bare statements:           {:>7.2}      (bar 2)", sqlite as f64 / bare as f64);
    println!("sqlite, 64 callers at once, a cycle:    {callers:>7} ns   ({:.2} of the bare statements)", callers as f64 / bare as f64);
    let ideal = (HOLD * WAITERS as u32).as_nanos() as f64;
    println!("memory, 50 waiters x 5 ms / 250 ms:     {:>7.2}      (bar 1.2)", memory_herd as f64 / ideal);
    println!("sqlite, 50 waiters x 5 ms / 250 ms:     {:>7.2}      (bar 1.2)", sqlite_herd as f64 / ideal);
}

/// Lets many callers take and give back a lock of their own; returns the time of all of it, divided by the cycles.
async fn callers(locks: &Locks, options: &LockOptions) -> Duration {
    let started = Instant::now();
    let caller = |number: usize| {
        let (locks, options) = (locks.clone(), options.clone());
        tokio::spawn(async move {
            let key = LockKey::typed("bench", "", "caller", &number.to_string()).unwrap();
            for _ in 0..CALLERS_CYCLES {
                let grant = locks.acquire(&key, options.clone()).await.unwrap();
                assert_eq!(grant.release().await.unwrap(), Release::Released, "a grant was lost");
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(caller).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    started.elapsed() / u32::try_from(CALLERS * CALLERS_CYCLES).unwrap()
}

/// Lets many callers of one process want one key at the same time and hold it for 5 ms each; returns the time of all of it.
async fn herd(locks: &Locks) -> Duration {
    let holds = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let started = Instant::now();
    let waiter = |_| {
        let (locks, holds) = (locks.clone(), holds.clone());
        tokio::spawn(async move {
            let key = LockKey::typed("bench", "", "herd", "1").unwrap();
            let options = LockOptions::fail().with_wait(Duration::from_secs(60));
            let body = |_| async {
                // Read and written in two steps: only the lock keeps the count.
                let seen = holds.load(std::sync::atomic::Ordering::SeqCst);
                // The runtime's timers tick in whole milliseconds: the hold must not be longer than it says.
                let begun = Instant::now();
                while begun.elapsed() < HOLD {
                    tokio::task::yield_now().await;
                }
                holds.store(seen + 1, std::sync::atomic::Ordering::SeqCst);
            };
            locks.with_key(&key, options, body).await.unwrap().locked().unwrap();
        })
    };
    let waiters: Vec<_> = (0..WAITERS).map(waiter).collect();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(holds.load(std::sync::atomic::Ordering::SeqCst), WAITERS, "two held the lock at once");
    started.elapsed()
}

/// Takes and gives back one lock many times; returns the median of a cycle.
async fn cycles(locks: &Locks, options: &LockOptions, count: usize) -> Duration {
    let key = LockKey::typed("bench", "", "cycle", "1").unwrap();
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let options = options.clone();
        let started = Instant::now();
        let grant = locks.acquire(&key, options).await.unwrap();
        let released = grant.release().await.unwrap();
        times.push(started.elapsed());
        assert_eq!(released, Release::Released, "a grant was lost");
    }
    median_time(&mut times)
}

/// What somebody would write by hand: look, take with the next token, give back; on one connection, without a thread in between.
struct Bare(Connection);

impl Bare {
    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;").unwrap();
        connection
            .execute_batch(
                "CREATE TABLE leases (key TEXT PRIMARY KEY, owner BLOB, holder TEXT, token INTEGER, until INTEGER) STRICT, WITHOUT ROWID;
                 CREATE TABLE tokens (id INTEGER PRIMARY KEY, last INTEGER) STRICT; INSERT INTO tokens VALUES (1, 0);",
            )
            .unwrap();
        Self(connection)
    }

    fn cycles(&self, count: usize) -> Duration {
        let (key, now) = ("lock:bench:unknown:cycle:1", 1_i64);
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| self.0.prepare_cached(sql).unwrap().execute(values).unwrap();
        let mut times = Vec::with_capacity(count);
        for owner in 0..count {
            let owner = (owner as u128).to_be_bytes();
            let started = Instant::now();
            run("BEGIN IMMEDIATE", &[]);
            let mut look = self.0.prepare_cached("SELECT owner FROM leases WHERE key = ?1 AND until > ?2").unwrap();
            assert!(!look.exists(params![key, now]).unwrap(), "the lock is taken");
            let mut newest = self.0.prepare_cached("SELECT last FROM tokens WHERE id = 1").unwrap();
            let token: i64 = newest.query_row([], |row| row.get(0)).unwrap();
            run("UPDATE tokens SET last = ?1 WHERE id = 1", &[&(token + 1)]);
            run("INSERT OR REPLACE INTO leases VALUES (?1, ?2, 'bench', ?3, 2)", &[&key, &owner, &(token + 1)]);
            run("COMMIT", &[]);
            run("BEGIN IMMEDIATE", &[]);
            assert_eq!(
                run("DELETE FROM leases WHERE key = ?1 AND owner = ?2 AND until > ?3", &[&key, &owner, &now]),
                1,
                "a grant was lost"
            );
            run("COMMIT", &[]);
            times.push(started.elapsed());
        }
        median_time(&mut times)
    }
}
