//! The life of segments on SQLite, against hand-written loops, and what writers feel of it, in one run.
//!
//! `cargo bench -p onward --bench audit_life [-- PART..]`, where a part is `latency`, `rates`, `verify` or `memory`; all by default.
//! `ONWARD_BENCH_SHARE=10` takes a tenth of the rows. `latency` draws `docs/plots/audit-life.svg`. Ratios decide. Every answer is checked: nothing may be busy, dropped or missing,
//! each step may append one entry to the chain and no more, and the chain must verify.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

mod shared;

use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::audit::engine::AuditEngine;
use onward::audit::verify::{Archives, Check, Verdict, verify};
use onward::audit::{Act, AppendOptions, Chain};
use onward::engine::sqlite::SqliteStore;
use onward::model::{ChainName, CheckpointKey, Data, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Config, Onward};
use rusqlite::{Connection, OpenFlags, params};
use sha2::{Digest, Sha256};
use shared::{Line, Verdicts, draw_phases, load, plots, quantile};

const DATA: usize = 512;
/// Appends a second beside the life cycle, at fixed times.
const RATE: u64 = 200;
/// Batches of appends on their way at one time.
const CALLERS: u64 = 8;

fn share() -> u64 {
    std::env::var("ONWARD_BENCH_SHARE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [memory, path] = &parts[..]
        && memory == "memory-of"
    {
        return walk_for_memory(Path::new(path));
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    println!("{}", load());
    let mut verdicts = Verdicts::default();
    if wanted("latency") {
        runtime.block_on(latency(250_000 / share(), &mut verdicts));
    }
    if wanted("rates") {
        runtime.block_on(rates(1_000_000 / share(), &mut verdicts));
    }
    if wanted("verify") {
        runtime.block_on(threads(250_000 / share(), &mut verdicts));
    }
    if wanted("memory") {
        memory(&runtime, &mut verdicts);
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

async fn open(folder: &Path) -> (Onward, Chain) {
    let config = Config::new(format!("sqlite:{}", folder.join("onward.db").display()))
        .with_keys(keys())
        .with_signing_key(CheckpointKey::from_seed([5; 32]))
        .with_archive_at(format!("file:{}", folder.join("archive").display()));
    let onward = Onward::connect(config).await.unwrap();
    let chain = onward.audit().chain("orders").unwrap();
    (onward, chain)
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

async fn latency(rows: u64, verdicts: &mut Verdicts) {
    println!("\nlatency: {RATE} appends a second of {DATA} bytes beside the life of a segment of {rows} entries");
    let folder = tempfile::tempdir().unwrap();
    let (onward, chain) = open(folder.path()).await;
    fill(&chain, rows, DATA).await;
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
    let bar = (quantile(&mut took(&appends, phases.of("idle")), 0.99) * 200.0).round() / 100.0 + 10.0;
    println!("{} appends, none busy, none dropped; {steps} entries for the steps of the life cycle", appends.len());
    for (name, _) in phases.all.iter().skip(1) {
        let span = phases.of(name);
        let mut took = took(&appends, span);
        let (p99, most) = (quantile(&mut took, 0.99), quantile(&mut took, 1.0));
        println!("  {name:<11} {:>6.1} s {:>6} appends   most {most:>7.2} ms", (span.1 - span.0).as_secs_f64(), took.len());
        verdicts.at_most(&format!("  {name}: p99 of appends, ms; twice the idle p99 and 10 ms"), p99, bar);
    }
    plot(rows, &appends, &phases, bar);
}

/// Draws what appends took, window by window.
fn plot(rows: u64, appends: &[(Duration, Duration)], phases: &Phases, bar: f64) {
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
    let facts = format!("{RATE} appends a second of {DATA} bytes beside the life of {rows} entries, windows of 250 ms; {}", load());
    draw_phases(&plots().join("audit-life.svg"), "Audit: appends through the life of a segment, ms", &facts, "seconds", "", &lines, &names);
}

async fn rates(rows: u64, verdicts: &mut Verdicts) {
    println!("\nrates: {rows} entries with {DATA} bytes of data; every act from its call to its answer, all checks of files included");
    let folder = tempfile::tempdir().unwrap();
    let (onward, chain) = open(folder.path()).await;
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
    let path = folder.path().join("onward.db");
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    bare.push(timed("bare archive", Box::pin(async { bare_archive(&path, rows) })).await);
    ours.push(timed("archive", Box::pin(async { drop(chain.archive(one(), &act()).await.unwrap()) })).await);
    bare.push(timed("bare archive again", Box::pin(async { bare_archive(&path, rows) })).await);
    let copy = folder.path().join("copy.db");
    Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let deletes = timed("bare batched DELETE", Box::pin(async { bare_delete(&copy, rows) })).await;
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

/// Reads the rows, hashes them, and writes the same lines compressed, and no more: nothing is read back, nothing is compared.
fn bare_archive(path: &Path, rows: u64) {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let file = File::create(path.with_extension("zst")).unwrap();
    let mut out = zstd::stream::write::Encoder::new(file, 3).unwrap();
    let mut select = connection
        .prepare("SELECT seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags FROM onward_entries WHERE chain = 1 AND seq <= ?1 ORDER BY seq")
        .unwrap();
    let mut found = select.query([i64::try_from(rows).unwrap()]).unwrap();
    let (mut plain, mut count, mut line) = (Sha256::new(), 0, Vec::new());
    while let Some(row) = found.next().unwrap() {
        let bytes = |at: usize| row.get_ref(at).unwrap().as_bytes_or_null().unwrap().unwrap_or_default();
        let text = |at: usize| std::str::from_utf8(bytes(at)).unwrap();
        let number = |at: usize| row.get::<_, i64>(at).unwrap();
        let mut hash = Sha256::new();
        for at in [6, 7, 8, 9, 10, 4, 1] {
            hash.update(u32::try_from(bytes(at).len()).unwrap().to_be_bytes());
            hash.update(bytes(at));
        }
        for at in [11, 5, 0] {
            hash.update(number(at).to_be_bytes());
        }
        std::hint::black_box(hash.finalize());
        line.clear();
        write!(
            line,
            "{{\"seq\":{},\"prev\":\"{}\",\"at\":{},\"event_id\":\"{}\",\"kind\":\"{}\",",
            number(0),
            hex::encode(bytes(1)),
            number(5),
            text(6),
            text(7)
        )
        .unwrap();
        for (name, at) in [("actor", 8), ("resource", 9), ("data", 10)] {
            line.extend_from_slice(format!("\"{name}\":").as_bytes());
            serde_json::to_writer(&mut line, text(at)).unwrap();
            line.push(b',');
        }
        let (hash, mac) = (hex::encode(bytes(2)), hex::encode(bytes(3)));
        writeln!(line, "\"kid\":\"{}\",\"flags\":{},\"hash\":\"{hash}\",\"mac\":\"{mac}\"}}", text(4), number(11)).unwrap();
        plain.update(&line);
        out.write_all(&line).unwrap();
        count += 1;
    }
    std::hint::black_box(plain.finalize());
    out.finish().unwrap().sync_all().unwrap();
    assert_eq!(count, rows);
}

/// Deletes the rows by hand, 512 a transaction, WAL and FULL.
fn bare_delete(path: &Path, rows: u64) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").unwrap();
    let triggers: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'onward_entries'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for trigger in triggers {
        connection.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
    }
    let mut deleted = 0;
    for first in (1..=rows).step_by(512) {
        let last = rows.min(first + 511);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut delete = connection.prepare_cached("DELETE FROM onward_entries WHERE chain = 1 AND seq BETWEEN ?1 AND ?2").unwrap();
        deleted += delete.execute(params![i64::try_from(first).unwrap(), i64::try_from(last).unwrap()]).unwrap() as u64;
        connection.execute_batch("COMMIT").unwrap();
    }
    assert_eq!(deleted, rows);
}

async fn threads(rows: u64, verdicts: &mut Verdicts) {
    println!("\nverify: {rows} entries with {DATA} bytes of data on SQLite, best of 5 each, in turns");
    let folder = tempfile::tempdir().unwrap();
    let (_onward, chain) = open(folder.path()).await;
    fill(&chain, rows, DATA).await;
    let (mut best, mut count) = ([f64::MAX; 2], 0);
    while count < 10 {
        let began = Instant::now();
        let report = chain.verify(Check { threads: 1 + count % 2, ..Check::default() }).await.unwrap();
        assert_eq!((report.verdict, report.rows_hashed), (Verdict::Ok, rows), "{report}");
        best[count % 2] = best[count % 2].min(began.elapsed().as_secs_f64());
        count += 1;
    }
    println!("  1 thread {:.2} s, 2 threads {:.2} s", best[0], best[1]);
    verdicts.at_least("verify with 2 threads / with 1", best[0] / best[1], 1.5);
}

/// A process of its own verifies each chain: its greatest memory.
fn memory(runtime: &tokio::runtime::Runtime, verdicts: &mut Verdicts) {
    let sizes = [100_000, 4_000_000 / share()];
    println!("\nmemory: the greatest resident size of a process that verifies, 2 threads, 32 bytes of data");
    let sizes = sizes.map(|rows| {
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let (onward, chain) = open(folder.path()).await;
            fill(&chain, rows, 32).await;
            drop((onward, chain));
        });
        let path: PathBuf = folder.path().join("onward.db");
        let child = std::process::Command::new(std::env::current_exe().unwrap()).arg("memory-of").arg(path).output().unwrap();
        let said = String::from_utf8(child.stdout).unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        let said = said.trim();
        println!("  {rows} entries: {said} KiB");
        said.parse::<u64>().unwrap()
    });
    let more = sizes[1].saturating_sub(sizes[0]);
    verdicts.at_most("verify: KiB more for so many more entries", more as f64, 16_384.0);
}

fn walk_for_memory(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(SqliteStore::open(path, &Clock::system())).unwrap();
    let name = ChainName::new("orders").unwrap();
    let check = Check { threads: 2, ..Check::default() };
    let report = verify(&*store.source(&name).unwrap(), &name, &check, &keys(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.verdict, Verdict::Ok, "{report}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{}", peak.trim().trim_end_matches(" kB"));
}
