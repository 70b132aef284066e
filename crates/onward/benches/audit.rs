//! The audit trail: verifying against raw SHA-256 over the same bytes, and appending against hand-written transactions, in one run.
//!
//! `cargo bench -p onward --bench audit [-- --append]`; `--append` leaves the verifying out. Ratios decide; the fsync rate stands beside them. Each walk must say that the chain is good and
//! that it hashed every entry; each round of appends checks that every acknowledged entry is in a verified chain.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::audit::engine::AuditEngine;
use onward::audit::verify::{Check, Depth, Verdict, verify};
use onward::audit::{AppendOptions, Chain, Filter, Page, Trail};
use onward::commit::engine::CommitEngine;
use onward::commit::{CommitQueue, QueueOptions};
use onward::engine::memory::MemoryStore;
use onward::engine::sqlite::SqliteStore;
use onward::model::{ChainName, Data, Entry, MacKeys, Sealed};
use onward::observe::Silent;
use onward::time::Clock;
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::shared::{fsyncs_a_second, in_turns, median};

mod shared;

const ROUNDS: usize = 7;
const ROWS: u64 = 60_000;
const DATA: usize = 512;
const CALLERS: usize = 64;
const APPEND_ROUNDS: usize = 5;
const BLOCK: Duration = Duration::from_secs(1);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    if !std::env::args().any(|arg| arg == "--append") {
        println!("verify, {ROWS} entries with {DATA} bytes of data, one thread, median of {ROUNDS}:");
        verifying(&runtime, folder.path());
    }
    println!("\nappend, {DATA} bytes of data, median of {APPEND_ROUNDS}:");
    appending(&runtime, folder.path());
}

fn keys() -> MacKeys {
    MacKeys::one("k1", [7; 32]).unwrap()
}

fn entry(number: u64) -> Entry {
    let data: Vec<u8> = (0..DATA).map(|at| b'a' + u8::try_from((at as u64 * 7 + number) % 26).unwrap()).collect();
    Entry::new("order.refund").by("user:7").on(format!("order:{number}")).with_data(Data::bytes(data))
}

async fn trail<E: CommitEngine + AuditEngine + 'static>(engine: &Arc<E>) -> Trail {
    let options =
        QueueOptions { clock: Clock::system(), observer: Arc::new(Silent), keys: keys(), retention: onward::commit::Retention::default() };
    Trail::new(CommitQueue::start(engine.clone(), options).await.unwrap(), engine.clone())
}

async fn fill(chain: &Chain) {
    for first in (1..ROWS).step_by(128) {
        let entries = (first..ROWS.min(first + 128)).map(entry).collect();
        let _receipts = chain.append_many(entries, AppendOptions::new()).await.unwrap();
    }
}

fn verifying(runtime: &tokio::runtime::Runtime, folder: &Path) {
    let memory = Arc::new(MemoryStore::new());
    let sqlite = Arc::new(runtime.block_on(SqliteStore::open(&folder.join("verify.db"), &Clock::system())).unwrap());
    let (in_memory, in_file) = runtime.block_on(async { (trail(&memory).await, trail(&sqlite).await) });
    let (memory_chain, file_chain) = (in_memory.chain("orders").unwrap(), in_file.chain("orders").unwrap());
    runtime.block_on(async {
        fill(&memory_chain).await;
        fill(&file_chain).await;
    });
    let bytes = runtime.block_on(preimages(&memory_chain));
    let figures: [Vec<f64>; 5] = in_turns(ROUNDS, |block, _| {
        let started = Instant::now();
        match block {
            0 => {
                std::hint::black_box(Sha256::digest(std::hint::black_box(&bytes)));
            }
            1 => walk(&*memory, Depth::Public),
            2 => walk(&*sqlite, Depth::Public),
            3 => walk(&*memory, Depth::Keyed),
            _ => walk(&*sqlite, Depth::Keyed),
        }
        bytes.len() as f64 / started.elapsed().as_secs_f64() / 1e6
    });
    let ratio = |pick: usize| median(figures[pick].iter().zip(&figures[0]).map(|(one, raw)| one / raw).collect());
    println!("raw SHA-256:            {:>7.0} MB/s", median(figures[0].clone()));
    for (pick, name, bar) in [
        (1, "memory, public:", "   (bar 0.5)"),
        (2, "sqlite, public:", "   (bar 0.25)"),
        (3, "memory, every mac too:", ""),
        (4, "sqlite, every mac too:", ""),
    ] {
        println!("{name:<23} {:>7.0} MB/s {:>6.2} of raw{bar}", median(figures[pick].clone()), ratio(pick));
    }
}

fn walk(engine: &dyn AuditEngine, depth: Depth) {
    let name = ChainName::new("orders").unwrap();
    let source = engine.source(&name).unwrap();
    let check = Check { depth: Some(depth), ..Check::default() };
    let report = verify(&*source, &name, &check, &keys(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.verdict, report.rows_hashed), (Verdict::Ok, ROWS), "{report}");
}

/// The very bytes that a walk hashes for the entries, one behind the other.
async fn preimages(chain: &Chain) -> Vec<u8> {
    let origin = chain.head().await.unwrap().unwrap().origin;
    let (mut out, mut page) = (Vec::new(), Page::first(1_000));
    loop {
        let found = chain.query(&Filter::default(), page).await.unwrap();
        for entry in &found.items {
            let from = out.len();
            preimage(&mut out, &origin, entry);
            assert_eq!(Sha256::digest(&out[from..])[..], entry.hash.as_bytes()[..], "these are not the bytes of the entry's hash");
        }
        let Some(next) = found.next else { return out };
        page.after = Some(next);
    }
}

fn preimage(out: &mut Vec<u8>, origin: &str, entry: &Sealed) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let integer = |number: u64| number.to_be_bytes().to_vec();
    let at = u64::try_from(entry.at.as_micros()).unwrap();
    for field in [
        b"onward.audit.entry.v1".to_vec(),
        origin.as_bytes().to_vec(),
        entry.event_id.clone().into_bytes(),
        entry.kind.clone().into_bytes(),
        text(&entry.actor),
        text(&entry.resource),
        entry.data.to_vec(),
        Vec::new(),
        entry.kid.clone().into_bytes(),
        integer(entry.flags),
        integer(at),
        integer(entry.seq.get()),
        entry.prev.as_bytes().to_vec(),
    ] {
        out.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&field);
    }
}

fn appending(runtime: &tokio::runtime::Runtime, folder: &Path) {
    let fsync = fsyncs_a_second(folder);
    println!("fsync alone:                        {fsync:>8.0} a second ({:.2} ms each)", 1_000.0 / fsync);
    let figures: [Vec<f64>; 5] = in_turns(APPEND_ROUNDS, |block, round| {
        let path = folder.join(format!("{round}-{block}.db"));
        match block {
            0 => runtime.block_on(appends(&path, CALLERS, 1)),
            1 => runtime.block_on(appends(&path, CALLERS, CALLERS)),
            2 => runtime.block_on(appends(&path, 1, 1)),
            3 => by_hand(runtime, &path, 1),
            _ => by_hand(runtime, &path, 100),
        }
    });
    let ratio = |one: usize, other: usize| median(figures[one].iter().zip(&figures[other]).map(|(a, b)| a / b).collect());
    let names = [
        "64 callers, one chain:",
        "64 callers, 64 chains:",
        "1 caller:",
        "by hand, one row a transaction:",
        "by hand, 100 rows a transaction:",
    ];
    for (pick, name) in names.into_iter().enumerate() {
        println!("{name:<35} {:>8.0} entries/s", median(figures[pick].clone()));
    }
    println!("64 callers / one a transaction:     {:>8.2}   (bar 20; 4 where an fsync takes under 0.2 ms)", ratio(0, 3));
    println!("100 / one a transaction, by hand:   {:>8.2}", ratio(4, 3));
    println!("64 callers / 100 a transaction:     {:>8.2}", ratio(0, 4));
    println!("64 chains / one chain:              {:>8.2}   (bar 0.6)", ratio(1, 0));
    println!("1 caller / one a transaction:       {:>8.2}   (bar 0.7)", ratio(2, 3));
}

/// Appends from many tasks for one block and returns entries a second.
async fn appends(path: &Path, callers: usize, chains: usize) -> f64 {
    let engine = Arc::new(SqliteStore::open(path, &Clock::system()).await.unwrap());
    let trail = trail(&engine).await;
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (chain, done) = (trail.chain(&format!("c{}", caller % chains)).unwrap(), done.clone());
            tokio::spawn(async move {
                let mut number = 0;
                while started.elapsed() < BLOCK {
                    let _receipt = chain.append(entry(number), AppendOptions::new()).await.unwrap();
                    number += 1;
                }
                done.fetch_add(number, Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let elapsed = started.elapsed().as_secs_f64();
    let mut stored = 0;
    for chain in 0..chains {
        let report = trail.chain(&format!("c{chain}")).unwrap().verify(Check::default()).await.unwrap();
        assert_eq!(report.verdict, Verdict::Ok, "{report}");
        // Without the entry that creates the chain.
        stored += report.rows_hashed - 1;
    }
    let acknowledged = done.load(Ordering::Relaxed);
    assert_eq!(stored, acknowledged, "an acknowledged entry is missing");
    acknowledged as f64 / elapsed
}

/// The same rows into the same tables by hand, so many appends a transaction, WAL and FULL: head read, entries, head, change log, counter.
fn by_hand(runtime: &tokio::runtime::Runtime, path: &Path, appends: u64) -> f64 {
    drop(runtime.block_on(SqliteStore::open(path, &Clock::system())).unwrap());
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").unwrap();
    connection.execute("INSERT INTO onward_heads VALUES (1, 0, zeroblob(32), x'', 0)", []).unwrap();
    let (mut number, started) = (0_u64, Instant::now());
    while started.elapsed() < BLOCK {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut find = connection.prepare_cached("SELECT seq, hash FROM onward_heads WHERE chain = 1").unwrap();
        let (mut place, mut prev): (i64, [u8; 32]) = find.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for _ in 0..appends {
            let entry = entry(number);
            place += 1;
            let data: &[u8] = entry.data.as_bytes();
            let hash: [u8; 32] = Sha256::new().chain_update(prev).chain_update(data).finalize().into();
            let mut insert = connection
                .prepare_cached("INSERT INTO onward_entries VALUES (1, ?1, ?2, ?3, ?4, 'k1', 0, ?5, ?6, ?7, ?8, ?9, NULL, 6)")
                .unwrap();
            let event = format!("00000000-0000-0000-0000-{number:012}");
            insert.execute((place, prev, hash, hash, event, &entry.kind, &entry.actor, &entry.resource, data)).unwrap();
            let mut change =
                connection.prepare_cached("INSERT INTO onward_changes (id, at, op, note) VALUES (?1 * 256, 0, 'commit', '{}')").unwrap();
            change.execute([place]).unwrap();
            (prev, number) = (hash, number + 1);
        }
        connection.prepare_cached("UPDATE onward_heads SET seq = ?1, hash = ?2").unwrap().execute((place, prev)).unwrap();
        connection.prepare_cached("UPDATE onward_meta SET revision = ?1").unwrap().execute([place]).unwrap();
        connection.execute_batch("COMMIT").unwrap();
    }
    let elapsed = started.elapsed().as_secs_f64();
    let stored: i64 = connection.query_row("SELECT count(*) FROM onward_entries", [], |row| row.get(0)).unwrap();
    assert_eq!(u64::try_from(stored).unwrap(), number, "a row is missing");
    number as f64 / elapsed
}
