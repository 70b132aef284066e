//! The life of segments on SQLite or Postgres, against hand-written loops, and what writers feel of it, in one run.
//!
//! `cargo bench -p onward --bench audit_life [-- postgres] [PART..]`, where a part is `latency`, `rates`, `verify` or `memory`; all by
//! default. On Postgres it starts a private server with fsync on. `ONWARD_BENCH_SHARE=10` takes a tenth of the rows. `latency` takes
//! three lives, and draws the last one as `docs/plots/audit-life.svg`, or `audit-life-postgres.svg`. Ratios decide. Every answer is
//! checked: nothing may be busy, dropped or missing, each step may append one entry to the chain and no more, and the chain must verify.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

mod bare;
mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bare::Bare;
use onward::audit::verify::{Archives, Check, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::model::{CheckpointKey, Data, Entry, MacKeys, Seq};
use onward::testing::servers::Postgres;
use onward::{Config, Onward};
use shared::{Line, Verdicts, draw_phases, load, plots, quantile};

const DATA: usize = 512;
/// Lives of segments beside which appends are timed.
const LIVES: usize = 3;
/// Appends a second beside the life cycle, at fixed times.
const RATE: u64 = 200;
/// Batches of appends on their way at one time.
const CALLERS: u64 = 8;

fn share() -> u64 {
    std::env::var("ONWARD_BENCH_SHARE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn main() {
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [memory, url] = &parts[..]
        && memory == "memory-of"
    {
        return walk_for_memory(url);
    }
    let postgres = parts.iter().position(|part| part == "postgres").map(|at| parts.remove(at));
    // Room for a table and its copy: a purge by hand finds its rows in memory, and so must ours.
    let bench = Bench { server: postgres.map(|_| Postgres::start_with(&["shared_buffers=3GB", "max_wal_size=8GB"])) };
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    println!("on {}; {}", bench.engine(), load());
    let mut verdicts = Verdicts::default();
    if wanted("latency") {
        runtime.block_on(latency(&bench, 250_000 / share(), &mut verdicts));
    }
    if wanted("rates") {
        runtime.block_on(rates(&bench, 1_000_000 / share(), &mut verdicts));
    }
    if wanted("verify") {
        runtime.block_on(threads(&bench, 250_000 / share(), &mut verdicts));
    }
    if wanted("memory") {
        memory(&bench, &runtime, &mut verdicts);
    }
    println!();
    verdicts.end();
}

fn keys() -> MacKeys {
    MacKeys::one("k1", [7; 32]).unwrap()
}

fn act() -> Act {
    Act::because("a benchmark")
}

fn one() -> Seq {
    Seq::new(1).unwrap()
}

struct Bench {
    /// Of Postgres, if it is measured there.
    server: Option<Postgres>,
}

/// A store of its own, and a folder for its archive and what else is written beside it.
struct Place {
    folder: tempfile::TempDir,
    url: String,
    bare: Bare,
}

impl Bench {
    /// What one batch may cost an append at most, in milliseconds: where it holds the writer's right, and where it does not.
    fn budget(&self) -> f64 {
        if self.server.is_some() { 50.0 } else { 10.0 }
    }

    fn engine(&self) -> &'static str {
        if self.server.is_some() { "Postgres" } else { "SQLite" }
    }

    async fn place(&self) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let (url, bare) = match &self.server {
            Some(server) => {
                let url = server.database().await;
                (url.clone(), Bare::Postgres(url))
            }
            None => {
                let path = folder.path().join("onward.db");
                (format!("sqlite:{}", path.display()), Bare::Sqlite(path))
            }
        };
        Place { folder, url, bare }
    }
}

impl Place {
    async fn open(&self) -> (Onward, Chain) {
        let config = Config::new(&self.url)
            .with_keys(keys())
            .with_signing_key(CheckpointKey::from_seed([5; 32]))
            .with_archive_at(format!("file:{}", self.folder.path().join("archive").display()));
        let onward = Onward::connect(config).await.unwrap();
        let chain = onward.audit().chain("orders").unwrap();
        (onward, chain)
    }
}

fn entry(number: u64, data: usize) -> Entry {
    let text: String = (0..data).map(|at| char::from(b'a' + u8::try_from((at as u64 * 7 + number) % 26).unwrap())).collect();
    Entry::new("order.refund").by("user:7").on(format!("order:{number}")).with_data(Data::text(text))
}

/// The processor time of the process so far, in ticks of 10 ms: what a busy machine does not change.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let times = stat.rsplit_once(')').unwrap().1.split(' ').skip(12).take(2);
    Duration::from_millis(times.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

/// Appends until the chain has so many entries; returns entries a second.
async fn fill(chain: &Chain, to: u64, data: usize) -> f64 {
    let (began, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let have = chain.head().await.unwrap().map_or(1, |head| head.seq.get());
    let batches = (to - have).div_ceil(128);
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (chain, next) = (chain.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    if batch >= batches {
                        return;
                    }
                    let first = have + batch * 128;
                    let entries = (first..to.min(first + 128)).map(|number| entry(number, data)).collect();
                    let _receipts = chain.append_many(entries, AppendOptions::new()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (to - have) as f64 / began.elapsed().as_secs_f64()
}

/// Appends at fixed times until told to stop; each latency counts from when the append was due. Any answer but a receipt ends it.
async fn write(chain: Chain, stop: Arc<AtomicBool>, began: Instant) -> Vec<(Duration, Duration)> {
    let mut appends = tokio::task::JoinSet::new();
    let mut due = began.elapsed();
    while !stop.load(Ordering::Relaxed) {
        due += Duration::from_secs(1) / u32::try_from(RATE).unwrap();
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        let (chain, due) = (chain.clone(), due);
        appends.spawn(async move {
            let _receipt = chain.append(entry(7, DATA), AppendOptions::new()).await.expect("an append was busy or dropped");
            (due, began.elapsed().saturating_sub(due))
        });
    }
    appends.join_all().await
}

/// The life of a segment: when each phase began, and when the last one ended.
struct Phases {
    all: Vec<(&'static str, Duration)>,
    end: Duration,
}

impl Phases {
    fn of(&self, name: &str) -> (Duration, Duration) {
        let at = self.all.iter().position(|(one, _)| *one == name).unwrap();
        (self.all[at].1, self.all.get(at + 1).map_or(self.end, |(_, from)| *from))
    }
}

/// How long appends that were due in a span of time took, in ms.
fn took(appends: &[(Duration, Duration)], (from, to): (Duration, Duration)) -> Vec<f64> {
    appends.iter().filter(|(due, _)| (from..to).contains(due)).map(|(_, took)| took.as_secs_f64() * 1e3).collect()
}

/// Lives of segments, one after the other, each in a store of its own: a disk that others use stands still now and then.
async fn latency(bench: &Bench, rows: u64, verdicts: &mut Verdicts) {
    println!("\nlatency: {RATE} appends a second of {DATA} bytes beside the life of a segment of {rows} entries, {LIVES} times");
    let mut lives = Vec::new();
    for _ in 0..LIVES {
        lives.push(life(bench, rows).await);
    }
    for (at, (name, _)) in lives[0].iter().enumerate() {
        let shares = lives.iter().map(|life| life[at].1).collect();
        let what = format!("{name}: p99 of appends, of twice the idle p99 and {} ms, median", bench.budget());
        verdicts.at_most(&what, shared::median(shares), 1.0);
    }
}

/// One life: the phases, and for each the p99 of appends as a part of its bar.
async fn life(bench: &Bench, rows: u64) -> Vec<(&'static str, f64)> {
    let place = bench.place().await;
    let (onward, chain) = place.open().await;
    fill(&chain, rows, DATA).await;
    if bench.server.is_some() {
        // The disk has all of it before anything is timed: half a minute later it would write it by itself, and commits wait for that.
        Postgres::run_at(&place.url, "CHECKPOINT").await;
    }
    let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn(write(onward.audit().chain("orders").unwrap(), stop.clone(), began));
    let mut phases = Phases { all: Vec::new(), end: Duration::ZERO };
    let mut steps = 0;
    for (name, taken) in [("warm-up", 0), ("idle", 0), ("seal", 1), ("archive", 1), ("purge", 2), ("restore", 2), ("idle again", 0)] {
        phases.all.push((name, began.elapsed()));
        match name {
            "seal" => drop(chain.seal(Some(Seq::new(rows).unwrap()), &act()).await.unwrap()),
            "archive" => drop(chain.archive(one(), &act()).await.unwrap()),
            "purge" => drop(chain.purge(one(), &act()).await.unwrap()),
            "restore" => drop(chain.restore(one(), None, &act()).await.unwrap()),
            "warm-up" => tokio::time::sleep(Duration::from_secs(2)).await,
            _ => tokio::time::sleep(Duration::from_secs(10)).await,
        }
        steps += taken;
    }
    phases.end = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut appends = writer.await.unwrap();
    appends.sort();
    let head = chain.head().await.unwrap().unwrap().seq.get();
    assert_eq!(head, rows + appends.len() as u64 + steps, "the head was taken for something else than appends and {steps} steps");
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
    let bar = (quantile(&mut took(&appends, phases.of("idle")), 0.99) * 200.0).round() / 100.0 + bench.budget();
    println!("{} appends, none busy, none dropped; {steps} entries for the steps of the life cycle", appends.len());
    let told = |name: &'static str| {
        let span = phases.of(name);
        let mut took = took(&appends, span);
        let (p99, most) = (quantile(&mut took, 0.99), quantile(&mut took, 1.0));
        let lasted = (span.1 - span.0).as_secs_f64();
        println!("  {name:<11} {lasted:>6.1} s {:>6} appends   p99 {p99:>7.2} ms   most {most:>7.2} ms   bar {bar:.2}", took.len());
        (name, p99 / bar)
    };
    let told = phases.all.iter().skip(1).map(|(name, _)| told(name)).collect();
    plot(bench, rows, &appends, &phases, bar);
    told
}

/// Draws what appends took, window by window.
fn plot(bench: &Bench, rows: u64, appends: &[(Duration, Duration)], phases: &Phases, bar: f64) {
    const WINDOW: Duration = Duration::from_millis(250);
    // The first phase warms up.
    let (_, begin) = phases.of("warm-up");
    let (mut half, mut most, mut from) = (Vec::new(), Vec::new(), begin);
    while from + WINDOW <= phases.end {
        let mut took = took(appends, (from, from + WINDOW));
        let at = (from - begin + WINDOW / 2).as_secs_f64();
        half.push((at, quantile(&mut took, 0.5)));
        most.push((at, quantile(&mut took, 1.0)));
        from += WINDOW;
    }
    let bars = [0.0, (phases.end - begin).as_secs_f64()].map(|at| (at, bar)).to_vec();
    let lines =
        [Line { name: "median", points: half }, Line { name: "slowest", points: most }, Line { name: "bar of the p99", points: bars }];
    let names: Vec<(f64, &str)> = phases.all.iter().skip(1).map(|(name, from)| ((*from - begin).as_secs_f64(), *name)).collect();
    let (engine, drawing) = match bench.engine() {
        "SQLite" => ("", "audit-life.svg"),
        _ => (" on Postgres", "audit-life-postgres.svg"),
    };
    let facts = format!("{RATE} appends a second of {DATA} bytes beside the life of {rows} entries, windows of 250 ms; {}", load());
    draw_phases(
        &plots().join(drawing),
        &format!("Audit: appends through the life of a segment{engine}, ms"),
        &facts,
        "seconds",
        "",
        &lines,
        &names,
    );
}

async fn rates(bench: &Bench, rows: u64, verdicts: &mut Verdicts) {
    println!("\nrates: {rows} entries with {DATA} bytes of data; every act from its call to its answer, all checks of files included");
    let place = bench.place().await;
    let (onward, chain) = place.open().await;
    let appends = fill(&chain, rows, DATA).await;
    let timed = async |name: &str, work: std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
        let (began, cpu) = (Instant::now(), cpu());
        work.await;
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        println!("  {name:<34} {rate:>9.0} entries/s {:>7.2} s of processor", (self::cpu() - cpu).as_secs_f64());
        rate
    };
    println!("  {:<34} {appends:>9.0} entries/s", "appends, 8 callers of 128");
    chain.seal(Some(Seq::new(rows).unwrap()), &act()).await.unwrap();
    let file = place.folder.path().join("bare.zst");
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    bare.push(timed("bare archive", Box::pin(place.bare.archive(&file, rows))).await);
    ours.push(timed("archive", Box::pin(async { drop(chain.archive(one(), &act()).await.unwrap()) })).await);
    bare.push(timed("bare archive again", Box::pin(place.bare.archive(&file, rows))).await);
    place.bare.copy().await;
    let deletes = timed("bare batched DELETE", Box::pin(place.bare.delete(rows))).await;
    let purge = timed("purge", Box::pin(async { drop(chain.purge(one(), &act()).await.unwrap()) })).await;
    let restore = timed("restore", Box::pin(async { drop(chain.restore(one(), None, &act()).await.unwrap()) })).await;
    let report = chain.verify(Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.rows_known), (Verdict::Ok, 0), "{report}");
    drop(onward);
    let archived = ours[0] / (bare.iter().sum::<f64>() / bare.len() as f64);
    for (name, ratio) in
        [("archive / bare loop", archived), ("restore / appends", restore / appends), ("purge / bare DELETE", purge / deletes)]
    {
        verdicts.at_least(name, ratio, 0.5);
    }
}

async fn threads(bench: &Bench, rows: u64, verdicts: &mut Verdicts) {
    println!("\nverify: {rows} entries with {DATA} bytes of data, best of 5 each, in turns");
    let place = bench.place().await;
    let (_onward, chain) = place.open().await;
    fill(&chain, rows, DATA).await;
    let mut best = [f64::MAX; 3];
    for count in 0..15 {
        let (side, began) = (count % 3, Instant::now());
        if side == 2 {
            place.bare.hash(rows).await;
        } else {
            let report = chain.verify(Check { threads: 1 + side, ..Check::default() }).await.unwrap();
            assert_eq!((report.verdict, report.rows_hashed), (Verdict::Ok, rows), "{report}");
        }
        best[side] = best[side].min(began.elapsed().as_secs_f64());
    }
    println!("  1 thread {:.2} s, 2 threads {:.2} s; rows read and hashed by hand {:.2} s", best[0], best[1], best[2]);
    verdicts.at_least("verify with 2 threads / with 1", best[0] / best[1], 1.5);
}

/// A process of its own verifies each chain: its greatest memory.
fn memory(bench: &Bench, runtime: &tokio::runtime::Runtime, verdicts: &mut Verdicts) {
    let sizes = [100_000, 4_000_000 / share()];
    println!("\nmemory: the greatest resident size of a process that verifies, 2 threads, 32 bytes of data");
    let sizes = sizes.map(|rows| {
        let place = runtime.block_on(async {
            let place = bench.place().await;
            let (_onward, chain) = place.open().await;
            fill(&chain, rows, 32).await;
            place
        });
        let child = std::process::Command::new(std::env::current_exe().unwrap()).args(["memory-of", &place.url]).output().unwrap();
        let said = String::from_utf8(child.stdout).unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        let said = said.trim();
        println!("  {rows} entries: {said} KiB");
        said.parse::<u64>().unwrap()
    });
    let more = sizes[1].saturating_sub(sizes[0]);
    verdicts.at_most("verify: KiB more for so many more entries", more as f64, 16_384.0);
}

fn walk_for_memory(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(async {
        let onward = Onward::connect(Config::new(url).with_keys(keys())).await.unwrap();
        onward.audit().chain("orders").unwrap().verify(Check { threads: 2, ..Check::default() }).await.unwrap()
    });
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{}", peak.trim().trim_end_matches(" kB"));
}
