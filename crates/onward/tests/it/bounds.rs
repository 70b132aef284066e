//! What a store file may cost, whoever reads from it (C7).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward::commit::engine::CommitEngine;
use onward::commit::{Commit, CommitOutcome, CommitQueue, QueueOptions, Retention};
use onward::engine::sqlite::{Bounds, SqliteStore};
use onward::model::{Key, MacKeys, Payload};
use onward::observe::Silent;
use onward::time::Clock;
use onward::{Effect, Kind, retry};

const MIB: u64 = 1 << 20;

async fn open(path: &Path, bounds: Bounds) -> (Arc<SqliteStore>, CommitQueue) {
    let engine = Arc::new(SqliteStore::open_bounded(path, &Clock::system(), bounds).await.unwrap());
    let options =
        QueueOptions { clock: Clock::system(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    (engine.clone(), CommitQueue::start(engine, options).await.unwrap())
}

fn big(n: usize) -> Commit {
    Commit::new().overwrite(("thing", "x"), Payload::new(vec![u8::try_from(n % 251).unwrap(); 100 << 10], "x").unwrap())
}

#[tokio::test]
async fn a_stuck_reader_does_not_grow_the_wal_without_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (engine, queue) = open(&path, Bounds { wal_bytes: MIB, ..Bounds::default() }).await;
    let log = || std::fs::metadata(folder.path().join("store.db-wal")).unwrap().len();
    drop(queue.submit(big(0)).await.unwrap());
    // Somebody looks at the file with another program and forgets about it.
    let stuck = rusqlite::Connection::open(&path).unwrap();
    stuck.execute_batch("BEGIN; SELECT count(*) FROM onward_objects;").unwrap();
    let mut written = 0;
    let refused = loop {
        match queue.submit(big(written + 1)).await {
            Ok(CommitOutcome::Committed(_)) => written += 1,
            Ok(other) => panic!("no condition: {other:?}"),
            Err(error) => break error,
        }
        assert!(written < 1_000, "the log has a bound");
    };
    assert_eq!((refused.kind(), refused.effect()), (Kind::Overloaded, Effect::NotApplied));
    assert!(refused.retry_after().is_some() && written > 3);
    let most = log();
    assert!(most < 2 * MIB, "{most}");
    assert_eq!(engine.ready().unwrap_err().kind(), Kind::Overloaded);
    for n in 0..20 {
        queue.submit(big(n)).await.unwrap_err();
    }
    assert_eq!(log(), most, "what is refused adds nothing");
    // Reads go on.
    assert!(engine.get(&Key::new("thing", "x").unwrap()).await.unwrap().is_some());
    stuck.execute_batch("COMMIT").unwrap();
    // The very next write finds room.
    assert!(matches!(queue.submit(big(1)).await.unwrap(), CommitOutcome::Committed(_)));
    engine.ready().unwrap();
    assert!(log() < MIB, "{}", log());
}

#[tokio::test]
async fn the_log_stays_short_whatever_is_written() {
    // Scattered keys, so that each object is a page of its own; and values of many pages.
    let scattered = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let many =
        |n: u64| (n * 128..(n + 1) * 128).fold(Commit::new(), |c, n| c.overwrite(("thing", scattered(n)), Payload::new("v", "x").unwrap()));
    let large = |n: u64| big(usize::try_from(n).unwrap());
    for what in [&many as &dyn Fn(u64) -> Commit, &large] {
        let folder = tempfile::tempdir().unwrap();
        let (_engine, queue) = open(&folder.path().join("store.db"), Bounds::default()).await;
        for n in 0..200 {
            assert!(matches!(queue.submit(what(n)).await.unwrap(), CommitOutcome::Committed(_)));
        }
        let log = std::fs::metadata(folder.path().join("store.db-wal")).unwrap().len();
        assert!(log < 12 * MIB, "{log} bytes");
    }
}

#[tokio::test]
async fn a_store_that_is_not_ready_comes_back_without_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (engine, queue) = open(&path, Bounds { wal_bytes: MIB, ..Bounds::default() }).await;
    drop(queue.submit(big(0)).await.unwrap());
    let stuck = rusqlite::Connection::open(&path).unwrap();
    stuck.execute_batch("BEGIN; SELECT count(*) FROM onward_objects;").unwrap();
    let mut n = 0;
    while queue.submit(big(n)).await.is_ok() {
        n += 1;
        assert!(n < 1_000, "the log has a bound");
    }
    stuck.execute_batch("COMMIT").unwrap();
    let clock = Clock::system();
    let back = async {
        while engine.ready().is_err() {
            retry::sleep(&clock, Duration::from_millis(20)).await;
        }
    };
    retry::deadline(&clock, clock.now() + Duration::from_secs(20), back).await.expect("it is ready again");
}

#[tokio::test]
async fn a_check_of_the_whole_store_stands_back_before_writers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (engine, queue) = open(&path, Bounds { wal_bytes: 4 * MIB, ..Bounds::default() }).await;
    for batch in 0..40 {
        let commit = (0..128).fold(Commit::new(), |commit, n| {
            commit.overwrite(("thing", format!("n{batch}-{n}")), Payload::new(vec![b'x'; 10], "x").unwrap())
        });
        drop(queue.submit(commit).await.unwrap());
    }
    assert!(engine.inspect().await.unwrap().iter().all(|finding| finding.fix.is_none()));
    let stuck = rusqlite::Connection::open(&path).unwrap();
    stuck.execute_batch("BEGIN; SELECT count(*) FROM onward_objects;").unwrap();
    let log = || std::fs::metadata(folder.path().join("store.db-wal")).unwrap().len();
    for n in 0.. {
        if log() > 2 * MIB {
            break;
        }
        drop(queue.submit(big(n)).await.unwrap());
    }
    assert!(log() < 3 * MIB, "{}", log());
    let refused = engine.inspect().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Overloaded);
    assert!(refused.to_string().contains("check a backup") && refused.retry_after().is_some(), "{refused}");
    assert!(matches!(queue.submit(big(1)).await.unwrap(), CommitOutcome::Committed(_)), "writers go on");
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (engine, queue) = open(&path, Bounds { read: Duration::ZERO, ..Bounds::default() }).await;
    for batch in 0..40 {
        let commit = (0..128).fold(Commit::new(), |commit, n| {
            commit.overwrite(("thing", format!("n{batch}-{n}")), Payload::new(vec![b'x'; 10], "x").unwrap())
        });
        drop(queue.submit(commit).await.unwrap());
    }
    // A short read is over before anybody looks at the clock; one over thousands of rows is not.
    assert!(engine.get(&Key::new("thing", "n0-0").unwrap()).await.unwrap().is_some());
    let scan = onward::commit::engine::Scan {
        namespace: "default".to_owned(),
        kind: "thing".to_owned(),
        limit: 5_000,
        ..onward::commit::engine::Scan::default()
    };
    let error = engine.list(scan).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Overloaded, Effect::NotApplied));
    assert!(engine.get(&Key::new("thing", "n1-1").unwrap()).await.unwrap().is_some(), "the next read is not its heir");
}

#[tokio::test]
async fn a_quiet_store_folds_its_log_and_a_closed_one_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let log = folder.path().join("store.db-wal");
    let (engine, queue) = open(&path, Bounds::default()).await;
    drop(queue.submit(big(0)).await.unwrap());
    // Somebody else has the file open all the time, so that nothing is cleaned up by the end of its last connection.
    let other = rusqlite::Connection::open(&path).unwrap();
    let folded = || {
        let look = other.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))).unwrap();
        look.0 > 0 && look.0 == look.1
    };
    let clock = Clock::system();
    let quiet = async {
        while !folded() {
            retry::sleep(&clock, Duration::from_millis(50)).await;
        }
    };
    retry::deadline(&clock, clock.now() + Duration::from_secs(20), quiet).await.expect("it is folded");
    assert!(std::fs::metadata(&log).unwrap().len() > 0);
    drop((queue, engine));
    let cut = async {
        while std::fs::metadata(&log).unwrap().len() > 0 {
            retry::sleep(&clock, Duration::from_millis(20)).await;
        }
    };
    retry::deadline(&clock, clock.now() + Duration::from_secs(20), cut).await.expect("it is cut off");
    assert_eq!(other.query_row("SELECT count(*) FROM onward_objects", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

/// Whoever is next keeps the turn until the write lock is its own, and gives it on while it writes: so the one that wrote last finds
/// another at the door.
#[tokio::test]
async fn a_writer_keeps_its_turn_until_the_write_lock_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = onward::Onward::open(&format!("sqlite:{}", path.display())).await.unwrap().store();
    let turn = std::fs::OpenOptions::new().write(true).open(folder.path().join("store.db.turn")).unwrap();
    let is_free = || turn.try_lock().is_ok_and(|()| turn.unlock().is_ok());
    drop(store.create(("thing", "a"), &1).await.unwrap());
    assert!(is_free(), "nobody writes");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.create(("thing", "b"), &1).await }
    });
    let clock = onward::time::Clock::system();
    let until = clock.now() + std::time::Duration::from_secs(10);
    while is_free() {
        assert!(clock.now() < until, "the writer that waits for the write lock has no turn");
        tokio::task::yield_now().await;
    }
    for _ in 0..1_000 {
        assert!(!is_free(), "the turn was given on before the write lock was had");
    }
    raw.execute_batch("COMMIT").unwrap();
    drop(writing.await.unwrap().unwrap());
    assert!(is_free(), "a turn ends with its write");
}
