//! Locks on Redis, beside what somebody would write by hand on the same client library, in one run on one private server.
//!
//! `cargo bench -p onward --bench redis_lock [-- cycle skip contend herd idle peers]`: all parts, or those that are named.
//! Ratios decide. Every hold is checked: tokens grow, no two holds overlap, none is lost.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark measures time and prints it"
)]

use std::collections::HashMap;
use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use onward::engine::redis::{Address, RedisLocks};
use onward::lock::{LockOptions, Locks, LocksConfig, Outcome, Owner, Release, Renew};
use onward::model::LockKey;
use onward::testing::servers::Redis;
use onward::time::Clock;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, ProtocolVersion, PushKind, Value};

use crate::shared::{Line, Verdicts, draw, in_turns, load, median, median_time, quantile, ratio};

mod shared;

const ROUNDS: usize = 61;
const CYCLES: usize = 200;
/// Callers at once, each on a key of its own.
const CALLERS: usize = 64;
const CALLERS_CYCLES: usize = 60;
/// Processes that want one key, how long each holds it, and for how long they do so.
const PROCESSES: usize = 16;
const HOLD: Duration = Duration::from_millis(1);
const CONTEND: Duration = Duration::from_secs(6);
/// How long each of those holds a key who want it at once.
const LONGER: Duration = Duration::from_millis(5);

const DELETE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
const ACQUIRE: &str = concat!(
    include_str!("../src/engine/redis/scripts/keys.lua"),
    include_str!("../src/engine/redis/scripts/token.lua"),
    include_str!("../src/engine/redis/scripts/acquire_free.lua"),
    include_str!("../src/engine/redis/scripts/give.lua"),
    include_str!("../src/engine/redis/scripts/lease.lua"),
    include_str!("../src/engine/redis/scripts/acquire.lua")
);
const RELEASE: &str = concat!(
    include_str!("../src/engine/redis/scripts/keys.lua"),
    include_str!("../src/engine/redis/scripts/release_one.lua"),
    include_str!("../src/engine/redis/scripts/token.lua"),
    include_str!("../src/engine/redis/scripts/give.lua"),
    include_str!("../src/engine/redis/scripts/release_next.lua"),
    include_str!("../src/engine/redis/scripts/lease.lua"),
    include_str!("../src/engine/redis/scripts/release.lua")
);
/// The least that a lock with a token can do in one trip: no queue, no clock, a counter that may be lost. Beside it the same delete.
const LEAST: &str = "local token = redis.call('INCR', KEYS[2]) \
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return token end return 0";
/// Waiters at once, for the drawings.
const HERDS: [usize; 5] = [10, 25, 50, 100, 200];
/// How long an idle waiter is watched.
const IDLE: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, url, ..] = arguments.as_slice()
        && let "locks" | "poller" | "relay" | "ping" = role.as_str()
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(contestant(role, url));
    }
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut verdicts = Verdicts::default();
    let asked = |part: &str| arguments.iter().any(|argument| argument == part);
    let parts = ["cycle", "skip", "contend", "herd", "idle", "peers"];
    let some = parts.into_iter().any(asked);
    for part in parts.into_iter().filter(|part| !some || asked(part)) {
        match part {
            "cycle" => cycles(&runtime, &server, &mut verdicts),
            "skip" => runtime.block_on(skips(&server, &mut verdicts)),
            "contend" => {
                let [relay, locks, _] = ["relay", "locks", "poller"].map(|role| contend(&server, role));
                verdicts.at_most("hand-over p50 / relay without a lock", locks.p50 / relay.p50, 1.3);
                verdicts.at_most("hand-over p99 / relay without a lock", locks.p99 / relay.p99, 1.5);
                verdicts.at_least("least / most served of 16", locks.fairness, 0.8);
            }
            "herd" => judge(&HERDS.map(|count| runtime.block_on(herd(count))), &mut verdicts),
            "idle" => runtime.block_on(idle(&mut verdicts)),
            _ => peers(&server),
        }
    }
    verdicts.end();
}

async fn process(url: &str) -> Locks {
    let engine = RedisLocks::open(&Address::parse(url).unwrap()).await.unwrap();
    Locks::new(Arc::new(engine), LocksConfig::default()).unwrap()
}

async fn raw(url: &str) -> MultiplexedConnection {
    raw_with(url, AsyncConnectionConfig::new()).await
}

async fn raw_with(url: &str, config: AsyncConnectionConfig) -> MultiplexedConnection {
    let info = url.into_connection_info().unwrap();
    let (settings, tcp) = (info.redis_settings().clone(), info.tcp_settings().clone());
    let info = info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)).set_tcp_settings(tcp.set_nodelay(true));
    redis::Client::open(info).unwrap().get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// A cycle, taken and given back, one caller and many.
fn cycles(runtime: &tokio::runtime::Runtime, server: &Redis, verdicts: &mut Verdicts) {
    let url = server.url();
    let (locks, connection) = runtime.block_on(async { (process(&url).await, raw(&url).await) });
    let hash = |text: &str| redis::Script::new(text).get_hash().to_owned();
    for text in [DELETE, ACQUIRE, RELEASE, LEAST] {
        let mut connection = connection.clone();
        let mut load = redis::cmd("SCRIPT");
        let _: String = runtime.block_on(load.arg("LOAD").arg(text).query_async(&mut connection)).unwrap();
    }
    let (delete, acquire, release, least) = (hash(DELETE), hash(ACQUIRE), hash(RELEASE), hash(LEAST));
    let options = LockOptions::fail().with_renew(Renew::Off).with_wait(Duration::ZERO);
    let ours = move |key: String| {
        let (locks, options) = (locks.clone(), options.clone());
        async move {
            let grant = locks.acquire(&LockKey::raw(&key).unwrap(), options).await.unwrap();
            assert_eq!(grant.release().await.unwrap(), Release::Released, "a grant was lost");
        }
    };
    let (beside, ended) = (connection.clone(), delete.clone());
    let fenced = move |key: String| {
        let (mut connection, owner, take, free) = (beside.clone(), Owner::draw().to_string(), least.clone(), ended.clone());
        async move {
            let mut acquire = redis::cmd("EVALSHA");
            acquire.arg(&take).arg(2).arg(&key).arg("least:fence").arg(&owner).arg(10_000);
            assert!(acquire.query_async::<i64>(&mut connection).await.unwrap() > 0, "the lock is taken");
            let mut release = redis::cmd("EVALSHA");
            release.arg(&free).arg(1).arg(&key).arg(&owner);
            assert_eq!(release.query_async::<i64>(&mut connection).await.unwrap(), 1, "a grant was lost");
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
        let (mut connection, mark) = (connection.clone(), format!("ow1:{}:", Owner::draw()));
        let (acquire, release) = (acquire.clone(), release.clone());
        async move {
            let mut take = redis::cmd("EVALSHA");
            take.arg(&acquire).arg(1).arg(&key).arg(&mark).arg("bench").arg(10_000);
            // The machine's clock is the server's.
            take.arg(Clock::system().wall().as_micros());
            assert!(take.query_async::<u64>(&mut connection).await.is_ok(), "the lock is taken");
            let mut free = redis::cmd("EVALSHA");
            free.arg(&release).arg(1).arg(&key).arg(&mark);
            assert_eq!(free.query_async::<String>(&mut connection).await.unwrap(), "1", "a grant was lost");
        }
    };
    let figures: [Vec<f64>; 7] = in_turns(ROUNDS, |block, _| {
        let figure = match block {
            0 => runtime.block_on(alone(&ours)),
            1 => runtime.block_on(alone(&bare)),
            2 => runtime.block_on(alone(&scripts)),
            3 => runtime.block_on(alone(&fenced)),
            4 => runtime.block_on(together(ours.clone())),
            5 => runtime.block_on(together(bare.clone())),
            _ => runtime.block_on(together(scripts.clone())),
        };
        figure.as_nanos() as f64
    });
    let middle = |block: usize| median(figures[block].clone());
    // A rate is one over a time.
    let rate = |of: usize, to: usize| ratio(&figures[to], &figures[of]);
    println!(
        "one caller, a cycle, p50: ours {:.0} ns, SET NX PX and delete {:.0} ns, the least with a token {:.0} ns",
        middle(0),
        middle(1),
        middle(3)
    );
    println!(
        "64 callers, a cycle: ours {:.0} ns, SET NX PX and delete {:.0} ns, our scripts by hand {:.0} ns",
        middle(4),
        middle(5),
        middle(6)
    );
    println!(
        "one caller: of our scripts by hand {:.2}; our scripts by hand of the bare loop {:.2}; the least with a token of it {:.2}",
        rate(0, 2),
        rate(2, 1),
        rate(3, 1)
    );
    println!("64 callers: of SET NX PX and delete {:.2}", rate(4, 5));
    println!("one caller: of SET NX PX and delete, without a token {:.2}", rate(0, 1));
    verdicts.at_least("one caller, rate / the least with a token", rate(0, 3), 0.9);
    verdicts.at_least("64 callers on one connection, rate / our scripts by hand", rate(4, 6), 0.9);
}

/// Callers that will not wait, while another process holds the lock: the first asks, the others know.
async fn skips(server: &Redis, verdicts: &mut Verdicts) {
    let (holder, other) = (process(&server.url()).await, process(&server.url()).await);
    let key = LockKey::raw("skipped").unwrap();
    let held = holder.acquire(&key, LockOptions::fail().with_renew(Renew::Off).with_ttl(Duration::from_secs(120))).await.unwrap();
    let skip = || async {
        let skipped = other.with_key(&key, LockOptions::skip(), |_| async {}).await.unwrap();
        assert!(matches!(skipped, Outcome::Skipped { .. }), "two held the lock at once");
    };
    let (mut times, mut quiet, mut asked) = (Vec::new(), 0, 0);
    for _ in 0..100 {
        // Beyond what is remembered.
        tokio::time::sleep(Duration::from_millis(55)).await;
        let begun = Instant::now();
        skip().await;
        let before = scripts_run(server);
        for _ in 0..500 {
            let started = Instant::now();
            skip().await;
            times.push(started.elapsed().as_nanos() as f64);
        }
        let after = scripts_run(server);
        // A machine that stood still in between has let the memory end, rightly.
        if begun.elapsed() < Duration::from_millis(50) {
            (quiet, asked) = (quiet + 1, asked + after - before);
        }
    }
    assert_eq!(held.release().await.unwrap(), Release::Released, "a grant was lost");
    println!("repeated skips: {asked} round trips in {quiet} turns of 500 within the memory's 50 ms");
    assert!(quiet > 0, "the machine never did 500 skips in 50 ms");
    verdicts.at_most("repeated skip, p50, us", median(times) / 1e3, 2.0);
    verdicts.at_most("repeated skips, round trips", asked as f64, 0.0);
}

/// Returns how many scripts clients have sent.
fn scripts_run(server: &Redis) -> u64 {
    let stats = server.ask("INFO commandstats");
    let of = |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)?.split(',').next()?.parse::<u64>().ok()).unwrap_or(0);
    of("cmdstat_evalsha:calls=") + of("cmdstat_eval:calls=")
}

/// What a waiter costs the server while another process of ours holds the lock for long.
async fn idle(verdicts: &mut Verdicts) {
    let server = Redis::start();
    let (holder, waiter) = (process(&server.url()).await, process(&server.url()).await);
    let key = LockKey::raw("idle").unwrap();
    let held = holder.acquire(&key, LockOptions::fail().with_renew(Renew::Off).with_ttl(IDLE * 4)).await.unwrap();
    let waiting = {
        let key = key.clone();
        tokio::spawn(async move { waiter.acquire(&key, LockOptions::fail().with_wait(IDLE * 4)).await.unwrap() })
    };
    while server.ask("LLEN onward:q:idle") != "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = server.ask("INFO commandstats");
    tokio::time::sleep(IDLE).await;
    let after = server.ask("INFO commandstats");
    let calls = |stats: &str| -> HashMap<String, u64> {
        let line = |line: &str| {
            Some((
                line.strip_prefix("cmdstat_")?.split_once(':')?.0.to_owned(),
                line.split_once("calls=")?.1.split(',').next()?.parse().ok()?,
            ))
        };
        stats.lines().filter_map(line).collect()
    };
    let before = calls(&before);
    let sent: Vec<(String, u64)> =
        calls(&after).into_iter().map(|(name, calls)| (name.clone(), calls - before.get(&name).copied().unwrap_or(0))).collect();
    // Of what a script calls, each is a line of its own; what a client sends is the script. The question itself is not the waiter's.
    let inside: u64 = sent.iter().filter(|(name, _)| !matches!(name.as_str(), "evalsha" | "info")).map(|(_, calls)| calls).sum();
    let scripts = sent.iter().find(|(name, _)| name == "evalsha").map_or(0, |(_, calls)| *calls);
    println!("an idle waiter, {} s: {scripts} commands sent, {inside} commands inside of them", IDLE.as_secs());
    assert_eq!(held.release().await.unwrap(), Release::Released, "a grant was lost");
    assert_eq!(waiting.await.unwrap().release().await.unwrap(), Release::Released, "a grant was lost");
    verdicts.at_most("an idle waiter behind another holder, commands in 5 s", scripts as f64 * 5.0 / IDLE.as_secs_f64(), 1.0);
}

/// What clients that others wrote take for a cycle, if they are there: see `tests/interop` for what the variables name.
fn peers(server: &Redis) {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
    let started = [
        ("redis-py", "ONWARD_PYTHON", std::env::var("ONWARD_PYTHON").ok().map(|python| (python, "redis_py.py"))),
        ("npm redlock", "ONWARD_NODE_MODULES", std::env::var("ONWARD_NODE_MODULES").ok().map(|_| ("node".to_owned(), "redlock.mjs"))),
    ];
    for (name, variable, start) in started {
        let Some((program, script)) = start else {
            println!("{name}, one caller: not measured, {variable} is not set");
            continue;
        };
        let output =
            Command::new(program).arg(format!("{scripts}/{script}")).args(["cycle", &server.url(), "peer", "2000"]).output().unwrap();
        assert!(output.status.success(), "{name} failed");
        println!("{name}, one caller, a cycle, p50: {} ns", String::from_utf8(output.stdout).unwrap().trim());
    }
}

/// Returns the median of a cycle.
async fn alone<F: Future<Output = ()>>(cycle: impl Fn(String) -> F) -> Duration {
    let mut times = Vec::with_capacity(CYCLES);
    for _ in 0..CYCLES {
        let started = Instant::now();
        cycle("cycle".to_owned()).await;
        times.push(started.elapsed());
    }
    median_time(&mut times)
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
        "relay" => {
            // No lock at all: each tells the next in a ring by a script that does nothing else. What is slower than this is ours.
            let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
            let mut connection = raw_with(url, AsyncConnectionConfig::new().set_push_sender(told)).await;
            let joined: usize = redis::cmd("INCR").arg("relay").query_async(&mut connection).await.unwrap();
            let channel = |number: usize| format!("relay:{}", number % PROCESSES);
            connection.subscribe(channel(joined)).await.unwrap();
            let script = redis::Script::new("return redis.call('PUBLISH', ARGV[1], ARGV[2])");
            let mut turn = 0_u64;
            if joined == PROCESSES {
                // The last one begins, when the others listen.
                while script.arg(channel(joined + 1)).arg(1).invoke_async::<i64>(&mut connection).await.unwrap() == 0 {}
            }
            loop {
                let heard = tokio::time::timeout(CONTEND, hears.recv()).await;
                let Ok(Some(push)) = heard else { break };
                let (PushKind::Message, [_, Value::BulkString(number)]) = (push.kind, push.data.as_slice()) else { continue };
                let from = clock.now().as_nanos();
                turn = turn.max(std::str::from_utf8(number).unwrap().parse().unwrap());
                tokio::time::sleep(HOLD).await;
                let to = clock.now().as_nanos();
                if clock.now().since(begun) > CONTEND {
                    break;
                }
                // Behind another command, as our release is, so that the next one hears before this one.
                let mut both = redis::pipe();
                both.cmd("TIME").cmd("EVALSHA").arg(script.get_hash()).arg(0).arg(channel(joined + 1)).arg(turn + 1);
                let _: Vec<Value> = both.query_async(&mut connection).await.unwrap();
                lines.push_str(&format!("{turn} {from} {to}\n"));
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

/// What processes did that wanted the same at once.
struct Contest {
    /// From one's hold to the next one's, in `PING`s beside it.
    p50: f64,
    p99: f64,
    /// How often the one served least was served, of the one served most.
    fairness: f64,
}

/// Lets processes contend for one key, and one ask for nothing but an answer beside them.
fn contend(server: &Redis, role: &str) -> Contest {
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
    let mut pings: Vec<f64> = lines(ping).iter().map(|[_, from, to]| (to - from) as f64).collect();
    let served: Vec<usize> = holds.iter().map(Vec::len).collect();
    let mut all: Vec<(usize, [u64; 3])> =
        holds.into_iter().enumerate().flat_map(|(who, holds)| holds.into_iter().map(move |hold| (who, hold))).collect();
    all.sort_by_key(|(_, [token, ..])| *token);
    let mut waits = Vec::new();
    for pair in all.windows(2) {
        let [(before, [token, _, to]), (after, [newer, from, _])] = pair else { continue };
        assert!(newer > token && from >= to, "two held the lock at once");
        if before != after {
            waits.push((from - to) as f64);
        }
    }
    let (ping, p50, p99) = (quantile(&mut pings, 0.5), quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let fairness = *served.iter().min().unwrap() as f64 / *served.iter().max().unwrap() as f64;
    let name = match role {
        "locks" => "16 processes x 1 ms",
        "relay" => "16 in a relay without a lock x 1 ms",
        _ => "16 pollers (10 ms) x 1 ms",
    };
    let contest = Contest { p50: p50 / ping, p99: p99 / ping, fairness };
    println!("{name}: {} holds, hand-over p50 {:.0} us, p99 {:.0} us; PING p50 {:.0} us", all.len(), p50 / 1e3, p99 / 1e3, ping / 1e3);
    println!("{name}: p50 {:.2} and p99 {:.2} times the PING, least / most served {fairness:.2}", contest.p50, contest.p99);
    contest
}

/// What many did who wanted one key at once.
struct Herd {
    count: usize,
    makespan: f64,
    commands: f64,
    /// From the end of one hold to the begin of the next, in us.
    p50: f64,
    p99: f64,
}

/// Compares with the bars, and draws.
fn judge(herds: &[Herd], verdicts: &mut Verdicts) {
    for herd in herds {
        println!(
            "{:>3} waiters x 5 ms at once: {:.2} x the ideal, {:.1} commands an acquire, hand-over p50 {:.0} us, p99 {:.0} us",
            herd.count, herd.makespan, herd.commands, herd.p50, herd.p99
        );
    }
    let of = |count: usize| herds.iter().find(|herd| herd.count == count).unwrap();
    verdicts.at_most("50 waiters x 5 ms / the ideal", of(50).makespan, 1.6);
    verdicts.at_most("commands an acquire, most of 10 to 200 waiters", herds.iter().map(|herd| herd.commands).fold(0.0, f64::max), 15.0);
    verdicts.at_most("commands an acquire, 200 waiters / 10", of(200).commands / of(10).commands, 1.2);
    let line = |name, part: fn(&Herd) -> f64| Line { name, points: herds.iter().map(|herd| (herd.count as f64, part(herd))).collect() };
    let folder = shared::plots();
    let facts = format!("Redis on loopback, each waiter with its own connection, 5 ms a hold; {}", load());
    let hand_over = [line("p50", |herd| herd.p50), line("p99", |herd| herd.p99)];
    draw(&folder.join("redis-hand-over.svg"), "Redis locks: from one holder to the next, us", &facts, "waiters", "", &hand_over);
    let commands = [line("ours", |herd| herd.commands), line("bar", |_| 15.0)];
    draw(&folder.join("redis-commands.svg"), "Redis locks: commands an acquire, scripts' own included", &facts, "waiters", "", &commands);
}

/// Lets many processes want one key at the same time.
async fn herd(count: usize) -> Herd {
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
    let times = Arc::new(Mutex::new(Vec::new()));
    let before = commands();
    let started = Instant::now();
    let waiters = processes.iter().map(|locks| {
        let (locks, holds, times) = (locks.clone(), holds.clone(), times.clone());
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
            times.lock().push((begun, Instant::now()));
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
    let times = times.lock();
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1].0 - pair[0].1).as_secs_f64() * 1e6).collect();
    let (p50, p99) = (quantile(&mut gaps, 0.5), quantile(&mut gaps, 0.99));
    Herd { count, makespan: took.as_secs_f64() / ideal.as_secs_f64(), commands: each, p50, p99 }
}
