//! Processes that die by SIGKILL, and several at a time, on one SQLite file (C3, C4, INV-1, INV-3, INV-4, INV-5).
//!
//! A child is this very test binary, started anew with the name of one test and a task in its environment. It tells on its standard
//! output what was acknowledged to it; the parent kills it after a number of such lines, so nothing here waits for luck.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{ChainName, Entry, FencingToken, LockKey, Payload};
use onward::store::{Put, Store, WriteOptions};
use onward::testing::history::{Found, Ledger, check_ledger};
use onward::{Effect, Onward, Refusal};
use parking_lot::Mutex;

use crate::outside::look;

const TASK: &str = "ONWARD_TEST_CHILD";
const CHAINS: [&str; 2] = ["main", "other"];

/// Where a child's acknowledgements go.
type Sink = Arc<dyn Fn(String) + Send + Sync>;

/// Starts this binary again for one test, with a task.
fn child(test: &str, task: &str, db: &Path, first_token: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("crash::{test}"), "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{task} {first_token} {}", db.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What this process was started for, if it is a child: the task, its first token, its database.
fn task() -> Option<(String, u64, PathBuf)> {
    let text = std::env::var(TASK).ok()?;
    let mut parts = text.splitn(3, ' ');
    Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.into()))
}

fn stdout() -> Sink {
    Arc::new(|line| {
        // One write a line: a kill may cut the last one, and no other.
        let mut out = std::io::stdout().lock();
        out.write_all(format!("ack {line}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    })
}

/// Reads acknowledgements until the child's output ends; kills it once there are `enough`.
fn collect(mut child: Child, enough: usize, ledger: &mut Ledger) -> usize {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let (mut count, mut line) = (0, String::new());
    while reader.read_line(&mut line).unwrap() > 0 {
        if let Some(ack) = line.strip_suffix('\n').and_then(|line| line.split_once("ack ")) {
            note(ledger, ack.1);
            count += 1;
            if count == enough {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    count
}

fn note(ledger: &mut Ledger, ack: &str) {
    let words: Vec<&str> = ack.split(' ').collect();
    match words[..] {
        ["write", name, version, revision] => {
            ledger.writes.push((name.to_owned(), version.parse().unwrap(), revision.parse().unwrap()));
        }
        ["entry", chain, seq, hash] => ledger.entries.push((chain.to_owned(), seq.parse().unwrap(), hash.to_owned())),
        ["fence", lock, token] => ledger.fences.push((lock.to_owned(), token.parse().unwrap())),
        _ => panic!("a strange acknowledgement: {ack}"),
    }
}

/// Many tasks that write in every way, each `rounds` times.
async fn work(db: &Path, first_token: u64, rounds: usize, shared: Sink) {
    let onward = Onward::open(&format!("sqlite:{}", db.display())).await.unwrap();
    let token = Arc::new(AtomicU64::new(first_token));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (store, sink) = (onward.store(), shared.clone());
        tasks.spawn(async move {
            for round in 0..rounds {
                let name = format!("{}-{number}-{round}", std::process::id());
                let Put::Committed(written) = store.create(("made", &name), &round).await.unwrap() else { panic!("a new name") };
                sink(format!("write made/{name} {} {}", written.version, written.revision));
            }
        });
        let (store, sink) = (onward.store(), shared.clone());
        tasks.spawn(async move {
            for round in 0..rounds {
                increment(&store, ["a", "b"][round % 2], &sink).await;
            }
        });
        let (store, sink, token) = (onward.store(), shared.clone(), token.clone());
        tasks.spawn(async move {
            for _ in 0..rounds {
                let token = token.fetch_add(1, Ordering::SeqCst);
                let commit = Commit::new()
                    .overwrite(("fenced", "x"), Payload::json(&token).unwrap())
                    .fence(LockKey::raw("lock").unwrap(), FencingToken::new(token).unwrap());
                match store.commit(commit).await.unwrap() {
                    CommitOutcome::Committed(receipt) => {
                        sink(format!("write fenced/x {} {}", receipt.writes[0].version, receipt.revision));
                        sink(format!("fence lock {token}"));
                    }
                    CommitOutcome::Fenced { newest, .. } => assert!(newest.get() > token),
                    CommitOutcome::Conflict(conflicts) => panic!("no condition: {conflicts:?}"),
                }
            }
        });
        let (store, sink) = (onward.store(), shared.clone());
        tasks.spawn(async move {
            for round in 0..rounds {
                let chain = CHAINS[round % 2];
                let commit = Commit::new().audit(ChainName::new(chain).unwrap(), Entry::new("test.done").by(format!("task:{number}")));
                let CommitOutcome::Committed(receipt) = store.commit(commit).await.unwrap() else { panic!("no condition") };
                sink(format!("entry {chain} {} {}", receipt.audit[0].seq, receipt.audit[0].hash));
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

/// Adds one to a counter, however many are at it.
async fn increment(store: &Store, name: &str, sink: &Sink) {
    loop {
        let add = |value: &mut u64, _: &_| {
            *value += 1;
            Ok::<(), Refusal>(())
        };
        match store.update(("counter", name), add).or_insert(0).tries(100).await {
            Ok(updated) => {
                sink(format!("write counter/{name} {} {}", updated.written.version, updated.written.revision));
                // An insert takes the value as it is.
                if !updated.written.created {
                    return;
                }
            }
            Err(error) => assert_eq!(error.effect(), Effect::NotApplied, "{error}"),
        }
    }
}

/// A counter that starts at zero holds as many as it was changed.
async fn check_counter(db: &Path, name: &str, found: &Found) -> u64 {
    let store = Onward::open(&format!("sqlite:{}", db.display())).await.unwrap().store();
    let Some(counter) = store.get::<u64>(("counter", name)).await.unwrap() else { return 0 };
    let full = format!("counter/{name}");
    let changes = found.log.iter().flat_map(|(_, changes)| changes).filter(|(changed, _)| *changed == full).count() as u64;
    assert_eq!(counter.value + 1, changes, "an update was lost or done twice");
    counter.value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workload_leaves_what_it_acknowledges() {
    if let Some((_, first_token, db)) = task() {
        work(&db, first_token, usize::MAX, stdout()).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store.db");
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let sink: Sink = Arc::new({
        let ledger = ledger.clone();
        move |line| note(&mut ledger.lock(), &line)
    });
    work(&db, 1, 10, sink).await;
    let (ledger, found) = (ledger.lock().clone(), look(&db));
    assert!(ledger.writes.len() > 80 && ledger.entries.len() == 40);
    check_ledger(&ledger, &found).unwrap();
    assert_eq!(check_counter(&db, "a", &found).await + check_counter(&db, "b", &found).await, 40);
}

#[tokio::test]
async fn killed_under_load_every_acknowledged_write_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store.db");
    let mut ledger = Ledger::default();
    for (round, enough) in (0_u64..).zip([60, 150, 1, 300, 90]) {
        let child = child("the_workload_leaves_what_it_acknowledges", "work", &db, 1 + round * 1_000_000);
        assert!(collect(child, enough, &mut ledger) >= enough);
        check_ledger(&ledger, &look(&db)).unwrap();
    }
    let found = look(&db);
    check_counter(&db, "a", &found).await;
    check_counter(&db, "b", &found).await;
    assert!(ledger.fences.len() > 10 && ledger.entries.len() > 50 && ledger.writes.len() > 100);
}

#[tokio::test]
async fn three_processes_lose_no_increment() {
    if let Some((_, _, db)) = task() {
        let store = Onward::open(&format!("sqlite:{}", db.display())).await.unwrap().store();
        let sink = stdout();
        for _ in 0..40 {
            increment(&store, "shared", &sink).await;
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store.db");
    // All three make the file at once.
    let children: Vec<_> = (0..3).map(|_| child("three_processes_lose_no_increment", "increment", &db, 1)).collect();
    let mut ledger = Ledger::default();
    let acknowledged: usize = children.into_iter().map(|child| collect(child, usize::MAX, &mut ledger)).sum();
    let found = look(&db);
    check_ledger(&ledger, &found).unwrap();
    assert_eq!(acknowledged, 121, "three times forty, and one insert");
    assert_eq!(check_counter(&db, "shared", &found).await, 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_processes_that_write_all_the_time_none_starves() {
    const LINES: usize = 600;
    if let Some((_, _, db)) = task() {
        let store = Onward::open(&format!("sqlite:{}", db.display())).await.unwrap().store();
        let sink = stdout();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let (store, sink) = (store.clone(), sink.clone());
            writers.spawn(async move {
                for n in 0.. {
                    let name = format!("{}-{writer}", std::process::id());
                    store.overwrite(("busy", &name), Payload::json(&n).unwrap(), WriteOptions::new()).await.unwrap();
                    sink(String::new());
                }
            });
        }
        writers.join_next().await.unwrap().unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("store.db");
    let name = "of_three_processes_that_write_all_the_time_none_starves";
    let mut children: Vec<_> = (0..3).map(|_| child(name, "busy", &db, 1)).collect();
    let (sender, lines) = std::sync::mpsc::channel();
    for (number, child) in children.iter_mut().enumerate() {
        let (reader, sender) = (BufReader::new(child.stdout.take().unwrap()), sender.clone());
        std::thread::spawn(move || {
            let acks = reader.lines().map_while(Result::ok).filter(|line| line.contains("ack "));
            acks.map(|_| number).try_for_each(|number| sender.send(number))
        });
    }
    // All three are at it before it counts.
    let mut seen = [0_usize; 3];
    while seen.contains(&0) {
        seen[lines.recv().unwrap()] += 1;
        assert!(seen.iter().sum::<usize>() < 20 * LINES, "one does not get to write at all: {seen:?}");
    }
    let mut shares = [0_usize; 3];
    for number in lines.iter().take(LINES) {
        shares[number] += 1;
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(shares.iter().all(|share| *share >= LINES / 9), "a third of an equal share at least: {shares:?}");
}

#[tokio::test]
async fn many_may_open_a_new_file_at_once() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("store.db").display());
        let mut opening = tokio::task::JoinSet::new();
        for number in 0..8 {
            let url = url.clone();
            opening.spawn(async move {
                let store = Onward::open(&url).await?.store();
                store.put_if(("thing", format!("n{number}")), &1, WriteCondition::MustCreate, WriteOptions::new()).await
            });
        }
        let mut versions = BTreeMap::new();
        while let Some(opened) = opening.join_next().await {
            let Put::Committed(written) = opened.unwrap().unwrap() else { panic!("a new name") };
            *versions.entry(written.revision).or_insert(0) += 1;
        }
        assert_eq!(versions.len(), 8);
    }
}
