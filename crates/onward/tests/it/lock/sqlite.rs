//! The lock file: boots, reservations of tokens, and what is left in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onward::Kind;
use onward::engine::sqlite::SqliteLocks;
use onward::lock::{Ask, LockEngine, LockOptions, Locks, LocksConfig, Owner, Place, Release, Renew, Tried};
use onward::model::{FencingToken, LockKey};
use onward::time::Clock;
use rusqlite::{Connection, params};

const TTL: Duration = Duration::from_secs(10);

fn key(id: &str) -> LockKey {
    LockKey::typed("main", "eu", "projects", id).unwrap()
}

async fn open(path: &Path, clock: &Clock) -> Locks {
    let engine = Arc::new(SqliteLocks::open(path, clock.clone()).await.unwrap());
    Locks::new(engine, LocksConfig { clock: clock.clone(), ..LocksConfig::default() }).unwrap()
}

fn once() -> LockOptions {
    LockOptions::fail().with_ttl(TTL).with_wait(Duration::ZERO).with_renew(Renew::Off)
}

fn counter(path: &Path) -> (u64, u64) {
    let file = Connection::open(path).unwrap();
    let row = file.query_row("SELECT last, reserved_to FROM onward_tokens", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let (last, reserved_to) = row.unwrap();
    (u64::try_from(last).unwrap(), u64::try_from(reserved_to).unwrap())
}

fn edit(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn a_row_of_another_boot_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let locks = open(&path, &clock).await;
    let owner = Owner::draw();
    let before = locks.acquire_as(&key("1"), owner, once()).await.unwrap();
    assert!(locks.status(&key("1")).await.unwrap().is_some());
    edit(&path, "UPDATE onward_leases SET boot = 'another', until_ns = 9000000000000000000");
    assert!(locks.status(&key("1")).await.unwrap().is_none());
    assert_eq!(locks.renew_as(&key("1"), owner, TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(locks.release_as(&key("1"), &owner).await.unwrap(), Release::AlreadyLost);
    let next = locks.acquire(&key("1"), once()).await.unwrap();
    assert!(next.token() > before.token);
}

#[tokio::test]
async fn the_first_tokens_are_reserved_before_they_are_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let locks = open(&path, &clock).await;
    assert_eq!(counter(&path), (0, 0));
    let grant = locks.acquire(&key("1"), once()).await.unwrap();
    let (last, reserved_to) = counter(&path);
    assert_eq!(last, grant.token().get());
    assert!(reserved_to >= last + 59_000_000, "a minute ahead: {last}, {reserved_to}");
    // No new reservation until the minute is over.
    clock.advance(Duration::from_secs(50));
    drop(locks.acquire(&key("2"), once()).await.unwrap());
    assert_eq!(counter(&path).1, reserved_to);
    clock.advance(Duration::from_secs(50));
    drop(locks.acquire(&key("3"), once()).await.unwrap());
    assert!(counter(&path).1 > reserved_to);
}

#[tokio::test]
async fn tokens_of_a_new_boot_go_on_above_everything_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let locks = open(&path, &clock).await;
    let before = locks.acquire(&key("1"), once()).await.unwrap();
    let (last, reserved_to) = counter(&path);
    // A power loss: what was committed without fsync is gone, and wall time is wrong after it.
    edit(&path, &format!("UPDATE onward_tokens SET boot = 'another', last = {}", last - 1_000));
    edit(&path, "UPDATE onward_leases SET boot = 'another'");
    clock.step_wall(-3_600_000_000);
    for locks in [locks, open(&path, &clock).await] {
        let after = locks.acquire(&key("1"), once()).await.unwrap();
        assert!(after.token().get() > reserved_to && after.token() > before.token(), "{} after {reserved_to}", after.token());
        assert_eq!(after.release().await.unwrap(), Release::Released);
    }
    // The same boot does not jump at each opening.
    let spent = counter(&path).0 - reserved_to;
    assert!(spent < 1_000, "{spent}");
}

#[tokio::test]
async fn a_token_beyond_a_raise_is_reserved_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let engine = SqliteLocks::open(&path, clock.clone()).await.unwrap();
    let ask = |id: &str| Ask { key: key(id), owner: Owner::draw(), holder: "test".into(), ttl: TTL, place: Place::None };
    engine.try_acquire(ask("1")).await.unwrap();
    for round in 2..40 {
        let far = FencingToken::new(counter(&path).1 + 1_000).unwrap();
        // Both wait for the thread, so that they share a transaction while it is held up.
        let hold = Connection::open(&path).unwrap();
        hold.execute_batch("BEGIN IMMEDIATE").unwrap();
        let blocked = engine.inspect(key("blocked"));
        let id = round.to_string();
        let (_, _, tried) = tokio::join!(blocked, engine.raise(far), async {
            let asked = engine.try_acquire(ask(&id));
            hold.execute_batch("COMMIT").unwrap();
            asked.await
        });
        let Tried::Granted { token, .. } = tried.unwrap() else { panic!("the key is free") };
        let (last, reserved_to) = counter(&path);
        assert!(token > far && token.get() == last);
        assert!(last <= reserved_to, "token {last} is not reserved: {reserved_to}");
    }
}

#[tokio::test]
async fn tokens_never_pass_what_was_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::system();
    let engine = SqliteLocks::open(&path, clock.clone()).await.unwrap();
    let file = Connection::open(&path).unwrap();
    let mut crossed = 0;
    for round in 0..200 {
        // The reservation is about to run out: it may do so between two looks at the clock.
        let near = clock.wall().as_micros() + round * 4;
        file.execute("UPDATE onward_tokens SET reserved_to = ?1, last = min(last, ?1)", params![near]).unwrap();
        let ask = Ask { key: key(&round.to_string()), owner: Owner::draw(), holder: "test".into(), ttl: TTL, place: Place::None };
        engine.try_acquire(ask).await.unwrap();
        let (last, reserved_to) = counter(&path);
        assert!(last <= reserved_to, "token {last} is not reserved: {reserved_to}, {} too far", last - reserved_to);
        crossed += u32::from(i64::try_from(reserved_to).unwrap() != near);
    }
    assert!(crossed > 10, "the reservation ran out only {crossed} times");
}

#[tokio::test]
async fn ended_leases_leave_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let rows =
        || -> i64 { Connection::open(&path).unwrap().query_row("SELECT count(*) FROM onward_leases", [], |row| row.get(0)).unwrap() };
    let locks = open(&path, &clock).await;
    for id in 0..50 {
        locks.acquire_as(&key(&id.to_string()), Owner::draw(), once()).await.unwrap();
    }
    assert_eq!(rows(), 50);
    clock.advance(Duration::from_secs(120));
    let live = locks.acquire_as(&key("live"), Owner::draw(), once()).await.unwrap();
    assert_eq!(rows(), 1, "a process that runs for months forgets those who died");
    let others = open(&path, &clock).await;
    assert_eq!(others.status(&key("live")).await.unwrap().unwrap().token, Some(live.token));
    clock.advance(TTL);
    drop(open(&path, &clock).await);
    assert_eq!(rows(), 0, "opening forgets them too");
}

#[tokio::test]
async fn a_file_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    edit(&path, "CREATE TABLE mine (a); PRAGMA application_id = 7;");
    let error = SqliteLocks::open(&path, Clock::system()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Backend, onward::Code::IntegrityFailure));
    assert_eq!(SqliteLocks::beside(Path::new("/d/app.db")), Path::new("/d/app.locks.db"));
    assert_eq!(SqliteLocks::beside(Path::new("/d/app.db.db")), Path::new("/d/app.db.locks.db"));
    assert_eq!(SqliteLocks::beside(Path::new("/d/app.sqlite")), Path::new("/d/app.sqlite.locks.db"));
}

#[tokio::test]
async fn a_look_at_a_taken_key_needs_no_write_lock() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let (holder, other) = (open(&path, &clock).await, open(&path, &clock).await);
    let owner = Owner::draw();
    let first = holder.acquire_as(&key("1"), owner, once()).await.unwrap();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(other.acquire(&key("1"), once()).await.unwrap_err().kind(), Kind::Contended);
    assert_eq!(other.status(&key("1")).await.unwrap().unwrap().token, Some(first.token));
    let again = holder.acquire_as(&key("1"), owner, once()).await.unwrap();
    assert!(again.already_ours);
    writer.execute_batch("ROLLBACK").unwrap();
}

/// A lone call is carried out on its caller's thread, and must never hold that up: on one thread nothing else would run meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn a_lone_call_waits_for_other_processes_on_the_locks_own_thread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let engine = Arc::new(SqliteLocks::open(&path, Clock::system()).await.unwrap());
    let ask = Ask { key: key("1"), owner: Owner::draw(), holder: "test".into(), ttl: TTL, place: Place::None };
    // The first grant also reserves tokens.
    engine.try_acquire(Ask { key: key("0"), owner: Owner::draw(), holder: "test".into(), ttl: TTL, place: Place::None }).await.unwrap();
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Clock::system().now();
    let asked = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.try_acquire(ask).await }
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    // Held up, this thread would not be here before SQLite gives up after 5 s.
    assert!(Clock::system().now().since(begun) < Duration::from_secs(2), "the caller's thread was held up");
    assert!(!asked.is_finished(), "another process holds the write lock");
    writer.execute_batch("COMMIT").unwrap();
    assert!(matches!(asked.await.unwrap().unwrap(), Tried::Granted { .. }));
}

/// Nobody's COMMIT moves the log into the file any more: the thread does, and the log stays short.
#[tokio::test]
async fn the_log_stays_short_without_a_checkpoint_in_a_callers_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.locks.db");
    let clock = Clock::manual();
    let locks = open(&path, &clock).await;
    for _ in 0..1_000 {
        let grant = locks.acquire(&key("1"), once()).await.unwrap();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
    let log = std::fs::metadata(folder.path().join("a.locks.db-wal")).unwrap().len();
    assert!(log < 8 << 20, "{log} bytes after 2,000 transactions");
}
