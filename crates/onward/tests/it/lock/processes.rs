//! Real processes on one lock file: this test binary starts itself again as its own children.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onward::engine::sqlite::SqliteLocks;
use onward::lock::{LockOptions, Locks, LocksConfig};
use onward::time::Clock;
use onward::{Kind, retry};

/// Names the folder in which a child works; without it the child's test works alone, in a folder of its own.
const FOLDER: &str = "ONWARD_TEST_LOCK_FOLDER";
const TTL: Duration = Duration::from_millis(600);
const ROUNDS: u64 = 40;

async fn open(folder: &Path) -> Locks {
    let engine = SqliteLocks::open(folder.join("a.locks.db"), Clock::system()).await.unwrap();
    Locks::new(Arc::new(engine), LocksConfig::default()).unwrap()
}

fn read(folder: &Path) -> u64 {
    std::fs::read_to_string(folder.join("counter")).unwrap_or_default().parse().unwrap_or(0)
}

/// Adds one in two steps, a file read and a file written, as often as asked; contended calls are made again.
async fn increment(folder: &Path, rounds: u64) {
    let eu = open(folder).await.scope("eu");
    for _ in 0..rounds {
        loop {
            let body = |_| async {
                let next = read(folder) + 1;
                tokio::task::yield_now().await;
                std::fs::write(folder.join("counter"), next.to_string()).unwrap();
            };
            match eu.run_or_fail("counters", "1", body).await {
                Ok(outcome) => break outcome.locked().unwrap(),
                Err(error) => assert_eq!(error.kind(), Kind::Contended, "{error}"),
            }
        }
    }
}

fn start(test: &str, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("lock::processes::{test}"), "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The folder of the parent, or one of its own.
fn own_folder() -> (PathBuf, Option<tempfile::TempDir>) {
    match std::env::var_os(FOLDER) {
        Some(folder) => (folder.into(), None),
        None => {
            let own = tempfile::tempdir().unwrap();
            (own.path().to_owned(), Some(own))
        }
    }
}

/// Also a child of the tests below.
#[tokio::test]
async fn a_process_increments_a_file_under_the_lock() {
    let (folder, _keep) = own_folder();
    let before = read(&folder);
    increment(&folder, ROUNDS).await;
    assert!(read(&folder) >= before + ROUNDS);
}

/// Also a child of the test below: there it holds the lock until it is killed.
#[tokio::test]
async fn a_process_holds_the_lock_and_renews_it() {
    let (folder, alone) = own_folder();
    let locks = open(&folder).await;
    let key = locks.scope("eu").key("counters", "1").unwrap();
    let grant = locks.acquire(&key, LockOptions::fail().with_ttl(TTL)).await.unwrap();
    std::fs::write(folder.join("held"), grant.token().to_string()).unwrap();
    let clock = Clock::system();
    if alone.is_none() {
        retry::sleep(&clock, Duration::from_secs(60)).await;
    }
    retry::sleep(&clock, TTL * 3 / 2).await;
    grant.check().expect("renewed beyond its first ttl");
    assert!(locks.status(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn three_processes_lose_no_increment_beside_one_that_is_killed_while_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let mut victim = start("a_process_holds_the_lock_and_renews_it", folder.path());
    let held = folder.path().join("held");
    let patience = clock.now() + Duration::from_secs(20);
    while !held.exists() {
        assert!(clock.now() < patience, "the child does not get the lock");
        retry::sleep(&clock, Duration::from_millis(5)).await;
    }
    let locks = open(folder.path()).await;
    let key = locks.scope("eu").key("counters", "1").unwrap();
    let error = locks.acquire(&key, LockOptions::fail().with_wait(TTL * 3 / 2)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Contended, "a living holder renews");
    let mut children: Vec<Child> = (0..3).map(|_| start("a_process_increments_a_file_under_the_lock", folder.path())).collect();
    victim.kill().unwrap();
    victim.wait().unwrap();
    // The first who gets it after the dead one has a greater token.
    let killed_token: u64 = std::fs::read_to_string(&held).unwrap().parse().unwrap();
    let next = locks.acquire(&key, LockOptions::fail().with_wait(Duration::from_secs(20))).await.unwrap();
    assert!(next.token().get() > killed_token);
    next.release().await.map(drop).unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(read(folder.path()), 3 * ROUNDS, "increments were lost");
}
