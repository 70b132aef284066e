//! Drop files: what dies with a process, and what does not.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use onward::Onward;
use onward::audit::{AppendOptions, Appended, Filter, Page, Trail};
use onward::commit::{CommitQueue, QueueOptions, Retention};
use onward::engine::sqlite::SqliteStore;
use onward::model::{Entry, MacKeys};
use onward::observe::Silent;
use onward::testing::store_faults::{Fault, Faults, Faulty};
use onward::time::Clock;

const TASK: &str = "ONWARD_TEST_DROPS";

/// Opens a trail as `Onward` does, whose every second write fails until the faults are calmed.
async fn open(path: &Path, faults: Faults) -> Trail {
    let clock = Clock::system();
    let engine = Arc::new(SqliteStore::open(path, &clock).await.unwrap());
    let options = QueueOptions { clock, observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    let queue = CommitQueue::start(Arc::new(Faulty::new(engine.clone(), faults)), options).await.unwrap();
    Trail::new(queue, engine).with_drops_beside(path).await.unwrap()
}

async fn drop_some(trail: &Trail, faults: &Faults, chain: &str, count: u64) {
    let chain = trail.chain(chain).unwrap();
    for _ in 0..count {
        faults.next(Fault::Refused);
        let appended = chain.append_or_drop(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
        assert!(matches!(appended, Appended::Dropped { .. }), "{appended:?}");
    }
}

/// Appends with a fresh handle on the store, and returns the counts of all gaps that the chain tells of.
async fn told(path: &Path, chain: &str) -> Vec<u64> {
    let onward = Onward::open(&format!("sqlite:{}", path.display())).await.unwrap();
    let chain = onward.audit().chain(chain).unwrap();
    chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    let filter = Filter { kind: Some("audit.gap".to_owned()), ..Filter::default() };
    let found = chain.query(&filter, Page::default()).await.unwrap();
    found.items.iter().map(|entry| serde_json::from_slice::<serde_json::Value>(&entry.data).unwrap()["count"].as_u64().unwrap()).collect()
}

fn drop_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().contains(".drops.")).collect()
}

fn python_says(path: &Path) -> Option<i32> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/verify/verify.py");
    Command::new("python3").arg(script).arg(path).stdout(Stdio::null()).status().unwrap().code()
}

#[tokio::test]
async fn a_kill_keeps_the_drop_count() {
    let rounds = 25;
    if let Some(path) = std::env::var_os(TASK) {
        let faults = Faults::default();
        let trail = open(Path::new(&path), faults.clone()).await;
        drop_some(&trail, &faults, "orders", rounds).await;
        drop_some(&trail, &faults, "other", 1).await;
        let mut out = std::io::stdout().lock();
        out.write_all(b"\ndropped\n").unwrap();
        out.flush().unwrap();
        drop(out);
        // Killed from here on; at the end of its input it would end by itself.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit::drops::a_kill_keeps_the_drop_count", "--nocapture", "--test-threads=1"])
        .env(TASK, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "dropped"));
    // As long as it lives, what it counted is its own.
    assert_eq!(told(&path, "orders").await, [0u64; 0]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(told(&path, "orders").await, [rounds]);
    assert_eq!(drop_files(folder.path()).len(), 1, "the gap of the other chain is not told yet");
    assert_eq!(told(&path, "other").await, [1]);
    assert_eq!(drop_files(folder.path()), Vec::<PathBuf>::new());
    assert_eq!(told(&path, "orders").await, [rounds]);
    assert_eq!(python_says(&path), Some(0));
}

#[tokio::test]
async fn a_gap_told_before_its_count_was_forgotten_is_not_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let faults = Faults::default();
    let trail = open(&path, faults.clone()).await;
    drop_some(&trail, &faults, "orders", 3).await;
    let [file] = drop_files(folder.path()).try_into().unwrap();
    let before = std::fs::read(&file).unwrap();
    trail.chain("orders").unwrap().append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    assert_eq!(drop_files(folder.path()), Vec::<PathBuf>::new());
    // As if the process had died between the two.
    std::fs::write(&file, before).unwrap();
    assert_eq!(told(&path, "orders").await, [3]);
    assert_eq!(drop_files(folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_damaged_drop_file_is_kept_and_hides_no_other_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let faults = Faults::default();
    let trail = open(&path, faults.clone()).await;
    drop_some(&trail, &faults, "orders", 2).await;
    drop_some(&trail, &faults, "other", 5).await;
    let [file] = drop_files(folder.path()).try_into().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[512] = b'x';
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(told(&path, "orders").await, [2]);
    let [kept] = drop_files(folder.path()).try_into().unwrap();
    assert!(kept.file_name().unwrap().to_string_lossy().starts_with("damaged."), "{kept:?}");
}

#[tokio::test]
async fn a_drop_that_cannot_be_counted_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let faults = Faults::default();
    let trail = open(&path, faults.clone()).await;
    // Nobody can make a file in a folder that is gone.
    std::fs::remove_dir_all(folder.path()).unwrap();
    faults.next(Fault::Refused);
    let chain = trail.chain("orders").unwrap();
    let refused = chain.append_or_drop(Entry::new("order.paid"), AppendOptions::new()).await.unwrap_err();
    assert_eq!((refused.code(), refused.effect()), (onward::Code::Unavailable, onward::Effect::NotApplied));
}
