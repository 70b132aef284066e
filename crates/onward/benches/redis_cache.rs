//! The cache on Redis beside plain `GET`, `SET PX` and `DEL` on the same client library and a private server: trips, time of the server,
//! time of a caller, bytes left behind.
//!
//! `cargo bench -p onward --features testing --bench redis_cache`. Counts and ratios decide. Each block checks what it read.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward::cache::layers::Tiered;
use onward::cache::{Cache, CacheEngine, CacheOptions, Filled, Invalidation, Lookup};
use onward::engine::memory::MemoryCache;
use onward::engine::redis::{Address, RedisCache};
use onward::observe::Silent;
use onward::testing::servers::Redis;
use onward::time::Clock;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::shared::{Verdicts, in_turns, median, ratio};

mod shared;

const KEYS: u64 = 4_000;
const ROUNDS: usize = 9;
/// How often the near tier is asked for all keys.
const PASSES: u64 = 25;
/// Bytes of a value.
const VALUE: usize = 400;

/// What one block costs an operation.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Of the caller, in microseconds.
    wall: f64,
    /// Of the server: processor time, and that of its commands alone.
    server: f64,
    commands_time: f64,
    commands: f64,
    /// Reads from sockets that the server did, as it counts them.
    trips: f64,
}

/// One of the costs.
type Part = fn(&Cost) -> f64;

/// What a server counts.
struct Counted {
    cpu: f64,
    reads: f64,
    /// Calls and microseconds by command.
    commands: HashMap<String, (f64, f64)>,
}

struct Bench {
    server: Redis,
    raw: MultiplexedConnection,
    cache: Cache,
    engine: Arc<dyn CacheEngine>,
    value: String,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut bench = runtime.block_on(Bench::new());
    let names = ["GET", "SET PX", "DEL", "hit", "miss, lease and fill", "invalidate"];
    let costs: [Vec<Cost>; 6] = in_turns(ROUNDS, |block, _| runtime.block_on(bench.block(block)));
    let middles = costs.each_ref().map(|costs| middle(costs));
    println!("{:<22} {:>10} {:>10} {:>12} {:>10} {:>8}", "", "caller us", "server us", "commands us", "commands", "reads");
    for (name, cost) in names.iter().zip(&middles) {
        let Cost { wall, server, commands_time, commands, trips } = cost;
        println!("{name:<22} {wall:>10.1} {server:>10.1} {commands_time:>12.2} {commands:>10.2} {trips:>8.2}");
    }
    // Each round by itself: what the machine did beside met all of its blocks.
    let of = |part: Part, blocks: &[usize]| -> Vec<f64> {
        (0..ROUNDS).map(|round| blocks.iter().map(|block| part(&costs[*block][round])).sum()).collect()
    };
    let beside = |part: Part, block: usize, plain: &[usize]| ratio(&of(part, &[block]), &of(part, plain));
    for (name, block, plain) in
        [("hit beside GET", 3, &[0][..]), ("miss and fill beside GET + SET PX", 4, &[0, 1]), ("invalidate beside DEL", 5, &[2])]
    {
        let parts: [Part; 3] = [|cost| cost.wall, |cost| cost.server, |cost| cost.commands_time];
        let [wall, server, alone] = parts.map(|part| beside(part, block, plain));
        println!("{name:<34} caller {wall:.2} x, server {server:.2} x, its commands alone {alone:.2} x");
    }
    let near: [Vec<f64>; 2] = in_turns(ROUNDS, |side, _| runtime.block_on(bench.near_hits(side)));
    println!("near hit, an Arc: {:.0} ns; quick_cache get: {:.0} ns", median(near[0].clone()), median(near[1].clone()));
    let left = runtime.block_on(bench.bytes());
    let mut verdicts = Verdicts::default();
    verdicts.at_most("hit, round trips", middles[3].trips.round(), 1.0);
    verdicts.at_most("miss and fill, round trips", middles[4].trips.round(), 3.0);
    verdicts.at_most("invalidate, round trips", middles[5].trips.round(), 1.0);
    verdicts.at_most("miss and fill, server time / GET + SET PX", beside(|cost| cost.server, 4, &[0, 1]), 3.0);
    verdicts.at_most("near hit / quick_cache get", ratio(&near[0], &near[1]), 3.0);
    verdicts.at_most("names left after purges, beside the record of the epoch", left, 0.0);
    verdicts.end();
}

fn over(engine: &Arc<dyn CacheEngine>) -> Cache {
    let options = CacheOptions::default().with_op_timeout(Duration::from_secs(5));
    Cache::new(Arc::clone(engine), "bench", options, Clock::system(), Arc::new(Silent)).unwrap()
}

fn key(number: u64) -> String {
    format!("project:{number:06}")
}

impl Bench {
    async fn new() -> Self {
        let server = Redis::start();
        // As long as the library waits: a machine that is busy is no failure.
        let patience = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(5)));
        let raw = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection_with_config(&patience).await.unwrap();
        let engine: Arc<dyn CacheEngine> =
            Arc::new(RedisCache::open(&Address::parse(&server.url()).unwrap(), Clock::system()).await.unwrap());
        let cache = over(&engine);
        Self { server, raw, cache, engine, value: "x".repeat(VALUE) }
    }

    async fn block(&mut self, block: usize) -> Cost {
        // What a block needs is there or not, before it is measured.
        match block {
            1 => _ = self.server.ask("FLUSHALL"),
            3 | 5 => self.fill().await,
            4 => _ = self.server.ask("FLUSHALL"),
            _ => {}
        }
        let before = self.counted();
        let started = Instant::now();
        for number in 0..KEYS {
            let key = key(number);
            match block {
                // Nothing is there in the first round, everything later: both are what a cache sees.
                0 => drop(self.raw.send_packed_command(redis::cmd("GET").arg(&key)).await.unwrap()),
                1 => drop(self.raw.send_packed_command(redis::cmd("SET").arg(&key).arg(&self.value).arg("PX").arg(600_000)).await.unwrap()),
                2 => drop(self.raw.send_packed_command(redis::cmd("DEL").arg(&key)).await.unwrap()),
                3 => assert!(self.cache.get::<String>(&key).await.unwrap().is_some()),
                4 => {
                    let Lookup::Lease(lease) = self.cache.begin::<String>(&key).await.unwrap() else { unreachable!("nothing is cached") };
                    assert_eq!(lease.commit(&self.value).await.unwrap(), Filled::Stored);
                }
                _ => assert_eq!(self.cache.invalidate(&key).await.unwrap(), Invalidation::Removed),
            }
        }
        let took = started.elapsed();
        let after = self.counted();
        let keys = KEYS as f64;
        let (mut commands, mut commands_time) = (0.0, 0.0);
        for (name, (calls, time)) in &after.commands {
            let (calls_before, time_before) = before.commands.get(name).copied().unwrap_or_default();
            let (calls, time) = (calls - calls_before, time - time_before);
            // What a script calls counts twice, in its own line and in the script's: of these only the look of a miss is a call of its own.
            let own = match (block, name.as_str()) {
                (0..=3, "get" | "set" | "del" | "hget" | "time") => calls,
                (4, "get" | "hget" | "time") => calls.min(keys),
                (4 | 5, "evalsha") => calls,
                _ => 0.0,
            };
            commands += own;
            commands_time += if calls > 0.0 { time * own / calls } else { 0.0 };
        }
        Cost {
            wall: took.as_secs_f64() * 1e6 / keys,
            server: (after.cpu - before.cpu) * 1e6 / keys,
            commands_time: commands_time / keys,
            commands: commands / keys,
            // The asking is one, too.
            trips: (after.reads - before.reads - 1.0) / keys,
        }
    }

    /// Returns the nanoseconds of a hit in the near tier, or in quick_cache.
    async fn near_hits(&self, side: usize) -> f64 {
        self.fill().await;
        let near = Arc::new(MemoryCache::new(Clock::system()));
        let near = over(&(Arc::new(Tiered::new(near, Arc::clone(&self.engine), Clock::system(), Duration::from_secs(60)).unwrap()) as _));
        let near = near.typed::<String>();
        let quick = quick_cache::sync::Cache::<String, Arc<String>>::new(2 * KEYS as usize);
        let keys: Vec<String> = (0..KEYS).map(key).collect();
        for key in &keys {
            assert!(near.get(key).await.unwrap().is_some());
            quick.insert(key.clone(), Arc::new(self.value.clone()));
        }
        let started = Instant::now();
        for _ in 0..PASSES {
            for key in &keys {
                match side {
                    0 => assert!(near.get(key).await.unwrap().flatten().is_some_and(|value| value.len() == VALUE)),
                    _ => assert!(quick.get(key).is_some_and(|value| value.len() == VALUE)),
                }
            }
        }
        started.elapsed().as_nanos() as f64 / (KEYS * PASSES) as f64
    }

    /// Fills all keys, and none else.
    async fn fill(&self) {
        self.server.ask("FLUSHALL");
        for number in 0..KEYS {
            let Lookup::Lease(lease) = self.cache.begin::<String>(key(number)).await.unwrap() else { unreachable!("nothing is cached") };
            assert_eq!(lease.commit(&self.value).await.unwrap(), Filled::Stored);
        }
    }

    /// Returns what the server has counted so far.
    fn counted(&self) -> Counted {
        let info = self.server.ask("INFO everything");
        let fact = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map_or(0.0, |fact| fact.trim().parse().unwrap());
        let commands = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")).map(|line| {
            let (name, facts) = line.split_once(':').unwrap();
            let number = |name: &str| facts.split(',').find_map(|fact| fact.strip_prefix(name)).unwrap().parse::<f64>().unwrap();
            (name.to_owned(), (number("calls="), number("usec=")))
        });
        Counted { cpu: fact("used_cpu_user:") + fact("used_cpu_sys:"), reads: fact("total_reads_processed:"), commands: commands.collect() }
    }

    /// Tells what a value costs the server; returns how many names purges leave, beside the one record of the epoch.
    async fn bytes(&mut self) -> f64 {
        self.fill().await;
        // Beside it the same payload under a name of the same length.
        let name = loop {
            let name = self.server.ask("RANDOMKEY");
            if name.contains(":s:") {
                break name;
            }
        };
        let plain = "x".repeat(name.len());
        let set: redis::RedisResult<()> =
            redis::cmd("SET").arg(&plain).arg(&self.value).arg("PX").arg(600_000).query_async(&mut self.raw).await;
        set.unwrap();
        let [ours, theirs] = [&name, &plain].map(|name| self.server.ask(&format!("STRLEN {name}")));
        println!("an entry of {VALUE} bytes of text is {ours} bytes long, plain {theirs}");
        self.server.ask(&format!("DEL {plain}"));
        for number in 0..KEYS {
            assert_eq!(self.cache.invalidate(key(number)).await.unwrap(), Invalidation::Removed);
        }
        self.server.ask("DBSIZE").trim_start_matches("(integer) ").parse::<f64>().unwrap() - 1.0
    }
}

fn middle(costs: &[Cost]) -> Cost {
    let of = |part: Part| median(costs.iter().map(part).collect());
    Cost {
        wall: of(|cost| cost.wall),
        server: of(|cost| cost.server),
        commands_time: of(|cost| cost.commands_time),
        commands: of(|cost| cost.commands),
        trips: of(|cost| cost.trips),
    }
}
