//! A lock's cycle, taken and given back: in memory, and on SQLite against the bare statements with the same pragmas, in one run.
//!
//! `cargo bench -p onward --bench lock`. Ratios decide. Each block checks that every cycle was granted and every grant was still held when
//! it was given back.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use onward::engine::memory::MemoryLocks;
use onward::lock::{LockOptions, Locks, LocksConfig, Release, Renew};
use onward::model::LockKey;
use onward::time::Clock;

const ROUNDS: usize = 9;
const MEMORY_CYCLES: usize = 200_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let memory = runtime.block_on(async { Locks::new(Arc::new(MemoryLocks::new(Clock::system())), LocksConfig::default()).unwrap() });
    let key = LockKey::typed("bench", "", "cycle", "1").unwrap();
    let plain = LockOptions::fail().with_renew(Renew::Off);
    let renewed = LockOptions::fail();
    let (mut clock, mut plains, mut reneweds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let rows = [
            p50((0..MEMORY_CYCLES).map(|_| Instant::now().elapsed())),
            runtime.block_on(cycles(&memory, &key, &plain, MEMORY_CYCLES)),
            runtime.block_on(cycles(&memory, &key, &renewed, MEMORY_CYCLES)),
        ];
        // The first round warms up.
        if round > 0 {
            clock.push(rows[0]);
            plains.push(rows[1]);
            reneweds.push(rows[2]);
        }
    }
    println!("reading the clock, in each figure:  {:>8} ns", median(&mut clock).as_nanos());
    println!("memory, acquire and release, p50:   {:>8} ns   (bar 1000)", median(&mut plains).as_nanos());
    println!("memory, the same with renewal, p50: {:>8} ns   (bar 1000)", median(&mut reneweds).as_nanos());
}

/// Takes and gives back one lock many times; returns the median of a cycle.
async fn cycles(locks: &Locks, key: &LockKey, options: &LockOptions, count: usize) -> Duration {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let options = options.clone();
        let started = Instant::now();
        let grant = locks.acquire(key, options).await.unwrap();
        let released = grant.release().await.unwrap();
        times.push(started.elapsed());
        assert_eq!(released, Release::Released, "a grant was lost");
    }
    p50(times.into_iter())
}

fn p50(times: impl Iterator<Item = Duration>) -> Duration {
    median(&mut times.collect())
}

fn median(times: &mut Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
