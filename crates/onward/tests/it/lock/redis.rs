//! Locks on Redis, as they run: real time, real connections, other clients on the same keys.

mod check;
mod faults;
mod hand_over;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use onward::engine::redis::{Address, RedisLocks};
use onward::lock::{Grant, LockOptions, Locks, LocksConfig, Outcome, Reason, Record, Release};
use onward::model::{FencingToken, LockKey};
use onward::retry;
use onward::testing::servers::{Keep, Redis};
use onward::time::Clock;
use onward::{Config, Kind, Onward, Result};

/// Longer than anything here takes; only a broken engine lets it pass.
const PATIENCE: Duration = Duration::from_secs(30);

fn key(name: &str) -> LockKey {
    LockKey::raw(name).unwrap()
}

/// The locks of one process.
async fn process(server: &Redis) -> Locks {
    process_at(&server.url()).await.unwrap()
}

async fn process_at(url: &str) -> Result<Locks> {
    Locks::new(Arc::new(RedisLocks::open(&Address::parse(url)?).await?), LocksConfig::default())
}

fn waiting() -> LockOptions {
    LockOptions::fail().with_wait(PATIENCE)
}

fn at_once() -> LockOptions {
    LockOptions::fail().with_wait(Duration::ZERO)
}

/// Waits until something is so.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let clock = Clock::system();
    let over = clock.now() + PATIENCE;
    while !is() {
        assert!(clock.now() < over, "never: {what}");
        retry::sleep(&clock, Duration::from_millis(2)).await;
    }
}

/// Waits in the queue of a key; returns when the server knows of so many waiters.
async fn queued(server: &Redis, locks: &Locks, name: &str, places: usize) -> tokio::task::JoinHandle<Result<Grant>> {
    let (locks, lock) = (locks.clone(), key(name));
    let waiter = tokio::spawn(async move { locks.acquire(&lock, waiting()).await });
    until("the waiter has a place", || server.ask(&format!("LLEN onward:q:{name}")) == places.to_string()).await;
    waiter
}

#[tokio::test]
async fn a_foreign_client_is_excluded_and_excludes_us() {
    let server = Redis::start();
    let locks = process(&server).await;
    assert_eq!(server.ask("SET job theirs NX PX 60000"), "OK");
    let error = locks.acquire(&key("job"), at_once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Contended);
    assert!(error.held_for().unwrap() > Duration::from_secs(50));
    let status = locks.status(&key("job")).await.unwrap().unwrap();
    assert_eq!((&*status.holder, status.token), ("foreign", None));
    assert_eq!(server.ask("DEL job"), "1");
    let grant = locks.acquire(&key("job"), at_once()).await.unwrap();
    assert_eq!(server.ask("SET job theirs NX PX 60000"), "", "it is a plain string that NX refuses");
    assert_eq!(server.ask("TYPE job"), "string");
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_waiter_behind_a_foreign_client_comes_soon_after_its_release() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    assert_eq!(server.ask("SET job theirs"), "OK");
    assert_eq!(a.acquire(&key("job"), at_once()).await.unwrap_err().held_for(), None, "without an expiry no end is known");
    let first = queued(&server, &a, "job", 1).await;
    let second = queued(&server, &b, "job", 2).await;
    assert_eq!(server.ask("DEL job"), "1");
    let clock = Clock::system();
    let freed = clock.now();
    let grant = first.await.unwrap().unwrap();
    assert!(clock.now().since(freed) < Duration::from_secs(3), "the head of the queue looks again");
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!(second.await.unwrap().unwrap().release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn another_type_is_contention_and_is_never_removed() {
    let server = Redis::start();
    let locks = process(&server).await;
    assert_eq!(server.ask("RPUSH job 1"), "1");
    assert_eq!(locks.acquire(&key("job"), at_once()).await.unwrap_err().kind(), Kind::Contended);
    let waited = locks.acquire(&key("job"), LockOptions::fail().with_wait(Duration::from_millis(300))).await;
    assert_eq!(waited.unwrap_err().kind(), Kind::Contended);
    assert_eq!(&*locks.status(&key("job")).await.unwrap().unwrap().holder, "foreign");
    let broken = locks.break_lock(&key("job"), &Reason::new("test").unwrap(), Record::Unaudited).await;
    assert_eq!(broken.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(server.ask("LLEN job"), "1");
}

#[tokio::test]
async fn a_foreign_lock_can_be_broken() {
    let server = Redis::start();
    let locks = process(&server).await;
    assert_eq!(server.ask("SET job theirs"), "OK");
    let broken = locks.break_lock(&key("job"), &Reason::new("test").unwrap(), Record::Unaudited).await.unwrap();
    assert!(matches!(broken, onward::lock::Broken::Broken { old: None, .. }), "{broken:?}");
    assert_eq!(server.ask("EXISTS job"), "0");
}

#[tokio::test]
async fn only_leases_of_ours_are_listed() {
    let server = Redis::start();
    let locks = process(&server).await;
    for command in ["SET a[1]* theirs", "RPUSH a[1]*list 1"] {
        server.ask(command);
    }
    let mut grants = Vec::new();
    for name in ["a[1]*x", "a[1]*y", "a1x"] {
        grants.push(locks.acquire(&key(name), at_once()).await.unwrap());
    }
    let page = locks.list("a[1]*", None, 10).await.unwrap();
    let names: Vec<&str> = page.items.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["a[1]*x", "a[1]*y"], "a prefix is no pattern");
    assert_eq!(page.items[0].1.token, Some(grants[0].token()));
}

#[tokio::test]
async fn lost_counter_still_grows() {
    let server = Redis::start();
    let locks = process(&server).await;
    let first = locks.acquire(&key("job"), at_once()).await.unwrap();
    let before = first.token();
    assert_eq!(server.ask("FLUSHALL"), "OK");
    let second = locks.acquire(&key("job"), at_once()).await.unwrap();
    assert!(second.token() > before);
    server.restart(Keep::Nothing);
    let locks = process(&server).await;
    assert!(locks.acquire(&key("job"), at_once()).await.unwrap().token() > second.token());
    // And one that lags behind the clock is not followed.
    assert_eq!(server.ask("SET onward:fence 7"), "OK");
    assert!(locks.acquire(&key("other"), at_once()).await.unwrap().token() > second.token());
}

#[tokio::test]
async fn tokens_grow_over_a_restart_from_an_old_snapshot() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let first = a.acquire(&key("job"), at_once()).await.unwrap();
    assert_eq!(first.release().await.unwrap(), Release::Released);
    assert_eq!(server.ask("SAVE"), "OK");
    // Tokens that the snapshot does not know, from two processes that both know the server's clock.
    let mut newest = FencingToken::new(1).unwrap();
    for locks in [&a, &b, &a, &b, &a, &b] {
        let grant = locks.acquire(&key("job"), at_once()).await.unwrap();
        assert!(grant.token() > newest);
        newest = grant.token();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
    let counter: u64 = server.ask("GET onward:fence").parse().unwrap();
    server.kill();
    server.revive();
    assert!(server.ask("GET onward:fence").parse::<u64>().unwrap() < counter, "the counter is an old one");
    for locks in [a, b] {
        let clock = Clock::system();
        let over = clock.now() + PATIENCE;
        let grant = loop {
            match locks.acquire(&key("job"), at_once()).await {
                Ok(grant) => break grant,
                Err(error) => assert!(clock.now() < over, "{error}"),
            }
            retry::sleep(&clock, Duration::from_millis(10)).await;
        };
        assert!(grant.token() > newest);
        newest = grant.token();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn at_open_the_counter_goes_above_what_the_store_has_seen() {
    let server = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let config = || Config::new(format!("sqlite:{}", folder.path().join("app.db").display())).with_locks_at(server.url());
    let onward = Onward::connect(config()).await.unwrap();
    // A token of an hour ahead, as of a server whose clock was wrong.
    let ahead = FencingToken::new(u64::try_from(Clock::system().wall().as_micros()).unwrap() + 3_600_000_000).unwrap();
    let commit = onward::commit::Commit::new().fence(key("job"), ahead);
    assert!(matches!(onward.store().commit(commit).await.unwrap(), onward::commit::CommitOutcome::Committed(_)));
    drop(onward);
    let onward = Onward::connect(config()).await.unwrap();
    assert!(onward.locks().acquire(&key("job"), at_once()).await.unwrap().token() > ahead);
}

#[tokio::test]
async fn a_guarded_write_holds_its_lock_on_redis_and_its_object_in_sqlite() {
    let server = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(format!("sqlite:{}", folder.path().join("app.db").display())).with_locks_at(server.url());
    let onward = Onward::connect(config).await.unwrap();
    let locks = process(&server).await;
    let done = onward.locks().scope("eu").run_or_fail("projects", "42", |grant| async move { grant.token() }).await.unwrap();
    assert!(matches!(done, Outcome::Ran(Some(_))), "{done:?}");
    let lock = LockKey::typed("main", "eu", "projects", "42").unwrap();
    let held = locks.acquire(&lock, at_once()).await.unwrap();
    let outcome = onward.locks().scope("eu").run("projects", "42", |_| async {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Skipped { held_for: Some(_) }), "{outcome:?}");
    drop(held);
}

#[tokio::test]
async fn redis_alone_has_locks_and_refuses_what_needs_a_store() {
    let server = Redis::start();
    let onward = Onward::connect(Config::new(server.url())).await.unwrap();
    let grant = onward.locks().acquire(&key("job"), at_once()).await.unwrap();
    let error = onward.store().commit(onward::commit::Commit::new().fence(key("job"), grant.token())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    let broken = onward.locks().break_lock(&key("job"), &Reason::new("test").unwrap(), Record::Audited).await;
    assert_eq!(broken.unwrap_err().kind(), Kind::Unsupported);
    drop(grant);
}

#[tokio::test]
async fn a_cluster_and_a_bad_address_are_refused() {
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]);
    assert_eq!(process_at(&cluster.url()).await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(process_at("redis://127.0.0.1:1?cluster=true").await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(process_at("redis://127.0.0.1:1").await.unwrap_err().kind(), Kind::Backend);
    assert_eq!(process_at("http://127.0.0.1").await.unwrap_err().kind(), Kind::Invalid);
}
