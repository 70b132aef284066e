//! The cache in this process: hits beside two plain caches of the same values, misses, invalidations, threads, and a herd on a cold key.
//!
//! `cargo bench -p onward --bench cache`. Ratios decide. Each block checks what it read: a hit that was none ends the run.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::cache::{Cache, CacheOptions, Filled, Lookup};
use onward::engine::memory::MemoryCache;
use onward::observe::Silent;
use onward::time::Clock;
use tokio::runtime::{Builder, Runtime};

use crate::shared::{in_turns, median};

mod shared;

const ROUNDS: usize = 9;
const KEYS: u64 = 1_024;
const HITS: u64 = 400_000;
const FILLS: u64 = 50_000;
const CALLERS: u64 = 1_000;

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ours = Ours::new(&runtime);
    let (quick, moka) = (quick_cache::sync::Cache::<String, u64>::new(4 * KEYS as usize), moka::sync::Cache::<String, u64>::new(4 * KEYS));
    for key in &ours.keys {
        quick.insert(key.clone(), 7);
        moka.insert(key.clone(), 7);
    }
    let figures: [Vec<f64>; 9] = in_turns(ROUNDS, |block, _| match block {
        0 => each(HITS, |n| assert_eq!(quick.get(ours.key(n)), Some(7))),
        1 => each(HITS, |n| assert_eq!(moka.get(ours.key(n)), Some(7))),
        2 => runtime.block_on(ours.typed_gets(0)),
        3 => runtime.block_on(ours.typed_loads()),
        4 => runtime.block_on(ours.gets()),
        5 => runtime.block_on(ours.peeks()),
        6 => runtime.block_on(ours.loads()),
        7 => runtime.block_on(ours.fills()),
        _ => runtime.block_on(ours.invalidations()),
    });
    let [quick, moka, typed, typed_load, get, peek, load, fill, invalidate] = figures.map(median);
    println!("quick_cache, get:                           {quick:>8.0} ns");
    println!("moka sync, get:                             {moka:>8.0} ns");
    println!(
        "typed hit, an Arc:                          {typed:>8.0} ns   {:.2} x quick_cache, {:.2} x moka",
        typed / quick,
        typed / moka
    );
    println!(
        "typed hit by get_or_load:                   {typed_load:>8.0} ns   {:.2} x quick_cache, {:.2} x moka",
        typed_load / quick,
        typed_load / moka
    );
    println!("hit, a number decoded from JSON:            {get:>8.0} ns   {:.2} x quick_cache, {:.2} x moka", get / quick, get / moka);
    println!("hit, bytes:                                 {peek:>8.0} ns   {:.2} x quick_cache, {:.2} x moka", peek / quick, peek / moka);
    println!("hit by get_or_load:                         {load:>8.0} ns   {:.2} x quick_cache, {:.2} x moka", load / quick, load / moka);
    println!("miss, lease and fill:                       {fill:>8.0} ns");
    println!("invalidation of a value:                    {invalidate:>8.0} ns");
    threads();
    herd();
}

/// A warm cache, its keys, and a way to go over them in no order.
struct Ours {
    cache: Cache,
    keys: Vec<String>,
}

impl Ours {
    fn new(runtime: &Runtime) -> Self {
        let engine = Arc::new(MemoryCache::new(Clock::system()));
        let options = CacheOptions::default().with_ttl(Duration::from_secs(3_600));
        let cache = Cache::new(engine, "default", options, Clock::system(), Arc::new(Silent)).unwrap();
        let ours = Self { cache, keys: (0..KEYS).map(|key| format!("project:{key}")).collect() };
        for key in &ours.keys {
            runtime.block_on(fill(&ours.cache, key));
        }
        ours
    }

    fn key(&self, n: u64) -> &str {
        &self.keys[(n.wrapping_mul(2_654_435_761) % KEYS) as usize]
    }

    async fn typed_gets(&self, first: u64) -> f64 {
        let typed = self.cache.typed::<u64>();
        let started = Instant::now();
        for n in 0..HITS {
            assert_eq!(typed.get(self.key(first + n)).await.unwrap().flatten().as_deref(), Some(&7));
        }
        per(started, HITS)
    }

    async fn typed_loads(&self) -> f64 {
        let typed = self.cache.typed::<u64>();
        let started = Instant::now();
        for n in 0..HITS {
            let load = |_| async { Err::<u64, _>(std::io::Error::other("a miss")) };
            assert_eq!(*typed.get_or_load(self.key(n), load).await.unwrap(), 7);
        }
        per(started, HITS)
    }

    async fn gets(&self) -> f64 {
        let started = Instant::now();
        for n in 0..HITS {
            assert_eq!(self.cache.get::<u64>(self.key(n)).await.unwrap(), Some(Some(7)));
        }
        per(started, HITS)
    }

    async fn peeks(&self) -> f64 {
        let started = Instant::now();
        for n in 0..HITS {
            assert!(black_box(self.cache.peek(self.key(n).as_bytes(), None).await.unwrap()).is_some());
        }
        per(started, HITS)
    }

    async fn loads(&self) -> f64 {
        let started = Instant::now();
        for n in 0..HITS {
            let load = |_| async { Err::<u64, _>(std::io::Error::other("a miss")) };
            assert_eq!(self.cache.get_or_load(self.key(n), load).await.unwrap(), 7);
        }
        per(started, HITS)
    }

    async fn fills(&self) -> f64 {
        let cold: Vec<String> = (0..FILLS).map(|n| format!("cold:{n}")).collect();
        let started = Instant::now();
        for key in &cold {
            fill(&self.cache, key).await;
        }
        let figure = per(started, FILLS);
        for key in &cold {
            let _ = self.cache.invalidate(key).await.unwrap();
        }
        figure
    }

    async fn invalidations(&self) -> f64 {
        let cold: Vec<String> = (0..FILLS).map(|n| format!("cold:{n}")).collect();
        for key in &cold {
            fill(&self.cache, key).await;
        }
        let started = Instant::now();
        for key in &cold {
            let _ = black_box(self.cache.invalidate(key).await.unwrap());
        }
        per(started, FILLS)
    }
}

async fn fill(cache: &Cache, key: &str) {
    let Lookup::Lease(lease) = cache.begin::<u64>(key).await.unwrap() else { unreachable!("the key is cold") };
    assert_eq!(lease.commit(&7).await.unwrap(), Filled::Stored);
}

fn each(count: u64, mut act: impl FnMut(u64)) -> f64 {
    let started = Instant::now();
    (0..count).for_each(&mut act);
    per(started, count)
}

/// Nanoseconds each.
fn per(started: Instant, count: u64) -> f64 {
    started.elapsed().as_nanos() as f64 / count as f64
}

/// Reads of one cache by several threads.
fn threads() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let ours = Ours::new(&runtime);
    let rate = |threads: u64| {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for first in 0..threads {
                let ours = &ours;
                // Each begins elsewhere: threads in step would all want the same key.
                scope.spawn(move || Builder::new_current_thread().build().unwrap().block_on(ours.typed_gets(first * KEYS / threads)));
            }
        });
        (threads * HITS) as f64 / started.elapsed().as_secs_f64() / 1e6
    };
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (rates, threads) in rates.iter_mut().zip([1, 2, 8]) {
            rates.push(rate(threads));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let [one, two, eight] = rates.map(median);
    println!(
        "typed hits of 1, 2, 8 threads on {cores} cores:   {one:.1}, {two:.1}, {eight:.1} million a second; 8 / 1: {:.2}",
        eight / one
    );
}

/// Many callers on a cold key whose load takes 5 ms: with and without us.
fn herd() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut guarded, mut alone, mut loads) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let ours = Ours::new(&Builder::new_current_thread().build().unwrap());
        let count = Arc::new(AtomicU64::new(0));
        let value = round as u64;
        let load = move |count: Arc<AtomicU64>| async move {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, std::io::Error>(value)
        };
        let started = Instant::now();
        runtime.block_on(async {
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..CALLERS {
                let (cache, count) = (ours.cache.clone(), count.clone());
                callers.spawn(async move { cache.get_or_load("cold", |_| load(count)).await.unwrap() });
            }
            assert!(callers.join_all().await.iter().all(|answer| *answer == value));
        });
        guarded.push(started.elapsed().as_secs_f64() * 1e3);
        loads = loads.max(count.load(Ordering::SeqCst));
        let started = Instant::now();
        runtime.block_on(async {
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..CALLERS {
                let count = count.clone();
                callers.spawn(async move { load(count).await.unwrap() });
            }
            callers.join_all().await;
        });
        alone.push(started.elapsed().as_secs_f64() * 1e3);
    }
    assert_eq!(loads, 1, "a herd loaded more than once");
    let (guarded, alone) = (median(guarded), median(alone));
    println!("{CALLERS} callers on a cold key, loads:         {loads:>8}      (bar 1; without us {CALLERS})");
    println!("all of them answered, a load takes 5 ms:    {guarded:>8.1} ms   (without us, of a source without limits, {alone:.1} ms)");
}
