//! Locks on Redis, beside what somebody would write by hand on the same client library, in one run on one private server.
//!
//! `cargo bench -p onward --bench redis_lock`. Ratios decide. Every hold is checked: tokens grow, no two holds overlap, none is lost.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark measures time and prints it"
)]

use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onward::engine::redis::{Address, RedisLocks};
use onward::lock::{LockOptions, Locks, LocksConfig, Owner, Release, Renew};
use onward::model::LockKey;
use onward::testing::servers::Redis;
use onward::time::Clock;
use redis::aio::MultiplexedConnection;
use redis::{IntoConnectionInfo, ProtocolVersion};

const ROUNDS: usize = 9;
const CYCLES: usize = 1_500;
/// Callers at once, each on a key of its own.
const CALLERS: usize = 64;
const CALLERS_CYCLES: usize = 60;
/// Processes that want one key, how long each holds it, and for how long they do so.
const PROCESSES: usize = 16;
const HOLD: Duration = Duration::from_millis(1);
const CONTEND: Duration = Duration::from_secs(6);
/// Processes that want one key at once, and how long each holds it.
const WAITERS: usize = 50;
const LONGER: Duration = Duration::from_millis(5);

const DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
const ACQUIRE: &str =
    concat!(include_str!("../src/engine/redis/scripts/lease.lua"), include_str!("../src/engine/redis/scripts/acquire.lua"));
const RELEASE: &str =
    concat!(include_str!("../src/engine/redis/scripts/lease.lua"), include_str!("../src/engine/redis/scripts/release.lua"));

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, url, ..] = arguments.as_slice()
        && let "locks" | "poller" | "ping" = role.as_str()
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(contestant(role, url));
    }
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(cycles(&server));
    for role in ["locks", "poller"] {
        contend(&server, role);
    }
    for count in [10, WAITERS, 200] {
        runtime.block_on(herd(count));
    }
}

async fn process(url: &str) -> Locks {
    let engine = RedisLocks::open(&Address::parse(url).unwrap()).await.unwrap();
    Locks::new(Arc::new(engine), LocksConfig::default()).unwrap()
}

async fn raw(url: &str) -> MultiplexedConnection {
    let info = url.into_connection_info().unwrap();
    let (settings, tcp) = (info.redis_settings().clone(), info.tcp_settings().clone());
    let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)).set_tcp_settings(tcp.set_nodelay(true));
    redis::Client::open(info).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// A cycle, taken and given back, one caller and many.
async fn cycles(server: &Redis) {
    let url = server.url();
    let locks = process(&url).await;
    let connection = raw(&url).await;
    let hash = |text: &str| redis::Script::new(text).get_hash().to_owned();
    for text in [DELETE, ACQUIRE, RELEASE] {
        let _: String = redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async(&mut connection.clone()).await.unwrap();
    }
    let (delete, acquire, release) = (hash(DELETE), hash(ACQUIRE), hash(RELEASE));
    let options = LockOptions::fail().with_renew(Renew::Off).with_wait(Duration::ZERO);
    let ours = move |key: String| {
        let (locks, options) = (locks.clone(), options.clone());
        async move {
            let grant = locks.acquire(&LockKey::raw(&key).unwrap(), options).await.unwrap();
            assert_eq!(grant.release().await.unwrap(), Release::Released, "a grant was lost");
        }
    };
    let beside = connection.clone();
    let bare = move |key: String| {
        let (mut connection, owner, delete) = (beside.clone(), Owner::draw().to_string(), delete.clone());
        async move {
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(&owner).arg("NX").arg("PX").arg(10_000);
            assert!(set.query_async::<Option<String>>(&mut connection).await.unwrap().is_some(), "the lock is taken");
            let mut free = redis::cmd("EVALSHA");
            free.arg(&delete).arg(1).arg(&key).arg(&owner);
            assert_eq!(free.query_async::<i64>(&mut connection).await.unwrap(), 1, "a grant was lost");
        }
    };
    let scripts = move |key: String| {
        let (mut connection, owner, queue) = (connection.clone(), Owner::draw().to_string(), format!("onward:q:{key}"));
        let (acquire, release) = (acquire.clone(), release.clone());
        async move {
            let mut take = redis::cmd("EVALSHA");
            take.arg(&acquire).arg(3).arg(&key).arg("onward:fence").arg(&queue).arg(&owner).arg("bench").arg(10_000);
            take.arg("me").arg("0").arg("500").arg("90000000");
            let taken: (i64, Option<String>, i64, i64) = take.query_async(&mut connection).await.unwrap();
            assert_eq!(taken.0, 1, "the lock is taken");
            let mut free = redis::cmd("EVALSHA");
            free.arg(&release).arg(3).arg("onward:fence").arg(&key).arg(&queue).arg("500").arg(&owner).arg("0").arg("nobody");
            assert_eq!(free.query_async::<Vec<i64>>(&mut connection).await.unwrap(), [1], "a grant was lost");
        }
    };
    let mut figures: [Vec<Duration>; 6] = Default::default();
    for round in 0..=ROUNDS {
        // Forwards, then backwards: a drift of the machine meets all of them.
        let mut blocks: Vec<usize> = (0..figures.len()).collect();
        if round % 2 == 1 {
            blocks.reverse();
        }
        for block in blocks {
            let figure = match block {
                0 => alone(&ours).await,
                1 => alone(&bare).await,
                2 => alone(&scripts).await,
                3 => together(ours.clone()).await,
                4 => together(bare.clone()).await,
                _ => together(scripts.clone()).await,
            };
            // The first round warms up.
            if round > 0 {
                figures[block].push(figure);
            }
        }
    }
    let ratio = |a: usize, b: usize| {
        let mut ratios: Vec<f64> = figures[a].iter().zip(&figures[b]).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let (alone, script, many, many_bare) = (ratio(0, 1), ratio(0, 2), ratio(3, 5), ratio(3, 4));
    let [ours, bare, scripts, many_ours, bare_many, scripts_many] = figures.map(|mut all| median(&mut all).as_nanos());
    println!("one caller, acquire and release, p50:        {ours:>7} ns");
    println!("one caller, SET NX PX and delete, p50:       {bare:>7} ns   rate of ours / of this: {alone:.2} (bar 0.9)");
    println!("one caller, our scripts by hand, p50:        {scripts:>7} ns   rate of ours / of this: {script:.2}");
    println!("64 callers, acquire and release, a cycle:    {many_ours:>7} ns");
    println!("64 callers, our scripts by hand, a cycle:    {scripts_many:>7} ns   rate of ours / of this: {many:.2} (bar 0.9)");
    println!("64 callers, SET NX PX and delete, a cycle:   {bare_many:>7} ns   rate of ours / of this: {many_bare:.2}");
}

/// Returns the median of a cycle.
async fn alone<F: Future<Output = ()>>(cycle: impl Fn(String) -> F) -> Duration {
    let mut times = Vec::with_capacity(CYCLES);
    for _ in 0..CYCLES {
        let started = Instant::now();
        cycle("cycle".to_owned()).await;
        times.push(started.elapsed());
    }
    median(&mut times)
}

/// Returns the time of all cycles of many callers, divided by the cycles.
async fn together<F: Future<Output = ()> + Send + 'static>(cycle: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> Duration {
    let started = Instant::now();
    let caller = |number: usize| {
        let cycle = cycle.clone();
        tokio::spawn(async move {
            for _ in 0..CALLERS_CYCLES {
                cycle(format!("caller-{number}")).await;
            }
        })
    };
    for caller in (0..CALLERS).map(caller).collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    started.elapsed() / u32::try_from(CALLERS * CALLERS_CYCLES).unwrap()
}

/// One process: takes and gives back one lock again and again, or asks for nothing but an answer, and says when.
async fn contestant(role: &str, url: &str) {
    let (clock, key) = (Clock::system(), LockKey::raw("contended").unwrap());
    let begun = clock.now();
    let mut lines = String::new();
    match role {
        "locks" => {
            let locks = process(url).await;
            let options = LockOptions::fail().with_wait(Duration::from_secs(60));
            while clock.now().since(begun) < CONTEND {
                let grant = locks.acquire(&key, options.clone()).await.unwrap();
                let from = clock.now().as_nanos();
                tokio::time::sleep(HOLD).await;
                let to = clock.now().as_nanos();
                let token = grant.token().get();
                assert_eq!(grant.release().await.unwrap(), Release::Released, "a grant was lost");
                lines.push_str(&format!("{token} {from} {to}\n"));
            }
        }
        "poller" => {
            let mut connection = raw(url).await;
            let script = redis::Script::new(DELETE);
            while clock.now().since(begun) < CONTEND {
                let owner = Owner::draw().to_string();
                let set = || redis::cmd("SET").arg(key.as_str()).arg(&owner).arg("NX").arg("PX").arg(10_000).to_owned();
                while set().query_async::<Option<String>>(&mut connection).await.unwrap().is_none() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let from = clock.now().as_nanos();
                tokio::time::sleep(HOLD).await;
                let to = clock.now().as_nanos();
                let deleted: i64 = script.key(key.as_str()).arg(&owner).invoke_async(&mut connection).await.unwrap();
                assert_eq!(deleted, 1, "a grant was lost");
                lines.push_str(&format!("{from} {from} {to}\n"));
            }
        }
        _ => {
            let mut connection = raw(url).await;
            while clock.now().since(begun) < CONTEND {
                let from = clock.now().as_nanos();
                let _: String = redis::cmd("PING").query_async(&mut connection).await.unwrap();
                lines.push_str(&format!("0 {from} {}\n", clock.now().as_nanos()));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    print!("{lines}");
}

/// Lets processes contend for one key, and one ask for nothing but an answer beside them.
fn contend(server: &Redis, role: &str) {
    let start = |role: &str| {
        let this = std::env::current_exe().unwrap();
        Command::new(this).args([role, &server.url()]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let ping = start("ping");
    let children: Vec<_> = (0..PROCESSES).map(|_| start(role)).collect();
    let lines = |child: std::process::Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "a process failed");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| <[u64; 3]>::try_from(line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<u64>>()).unwrap())
            .collect::<Vec<_>>()
    };
    let holds: Vec<Vec<[u64; 3]>> = children.into_iter().map(lines).collect();
    let mut pings: Vec<u64> = lines(ping).iter().map(|[_, from, to]| to - from).collect();
    let served: Vec<usize> = holds.iter().map(Vec::len).collect();
    let mut all: Vec<(usize, [u64; 3])> =
        holds.into_iter().enumerate().flat_map(|(who, holds)| holds.into_iter().map(move |hold| (who, hold))).collect();
    all.sort_by_key(|(_, [token, ..])| *token);
    let mut waits = Vec::new();
    for pair in all.windows(2) {
        let [(before, [token, _, to]), (after, [newer, from, _])] = pair else { continue };
        assert!(newer > token && from >= to, "two held the lock at once");
        if before != after {
            waits.push(from - to);
        }
    }
    let (ping, p50, p99) = (quantile(&mut pings, 0.5), quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let fairness = *served.iter().min().unwrap() as f64 / *served.iter().max().unwrap() as f64;
    let name = if role == "locks" { "16 processes x 1 ms" } else { "16 pollers (10 ms)" };
    println!(
        "{name}: {} holds, hand-over p50 {:.0} us = {:.2} x PING (bar 2.5), p99 {:.0} us = {:.2} x (bar 6); PING p50 {:.0} us; least / most served {fairness:.2} (bar 0.8)",
        all.len(),
        p50 / 1e3,
        p50 / ping,
        p99 / 1e3,
        p99 / ping,
        ping / 1e3
    );
}

fn quantile(values: &mut [u64], q: f64) -> f64 {
    values.sort_unstable();
    values.get(((values.len() as f64) * q) as usize).map_or(0.0, |value| *value as f64)
}

/// Lets many processes want one key at the same time.
async fn herd(count: usize) {
    let server = Redis::start();
    let mut processes = Vec::new();
    for _ in 0..count {
        processes.push(process(&server.url()).await);
    }
    let commands = || {
        let stats = server.ask("INFO commandstats");
        stats.lines().filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    // Each script is known before it is counted.
    for locks in &processes {
        let grant = locks.acquire(&LockKey::raw("warm").unwrap(), LockOptions::fail().with_wait(Duration::from_secs(60))).await.unwrap();
        let _ = grant.release().await.unwrap();
    }
    let holds = Arc::new(AtomicUsize::new(0));
    let before = commands();
    let started = Instant::now();
    let waiters = processes.iter().map(|locks| {
        let (locks, holds) = (locks.clone(), holds.clone());
        tokio::spawn(async move {
            let grant =
                locks.acquire(&LockKey::raw("herd").unwrap(), LockOptions::fail().with_wait(Duration::from_secs(60))).await.unwrap();
            // Read and written in two steps: only the lock keeps the count.
            let seen = holds.load(Ordering::SeqCst);
            let begun = Instant::now();
            while begun.elapsed() < LONGER {
                tokio::task::yield_now().await;
            }
            holds.store(seen + 1, Ordering::SeqCst);
            assert_eq!(grant.release().await.unwrap(), Release::Released, "a grant was lost");
        })
    });
    for waiter in waiters.collect::<Vec<_>>() {
        waiter.await.unwrap();
    }
    let took = started.elapsed();
    assert_eq!(holds.load(Ordering::SeqCst), count, "two held the lock at once");
    let each = (commands() - before) as f64 / count as f64;
    let ideal = LONGER * u32::try_from(count).unwrap();
    println!(
        "{count:>3} processes x 5 ms at once: {:.2} x the ideal (bar 1.6); {each:.1} commands an acquire (bar 15)",
        took.as_secs_f64() / ideal.as_secs_f64()
    );
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
