//! Locks on Redis, as they run: real time, real connections.

use std::sync::Arc;
use std::time::Duration;

use onward::engine::redis::{Address, RedisLocks};
use onward::lock::{LockOptions, Locks, LocksConfig, Release};
use onward::model::LockKey;
use onward::testing::servers::Redis;
use onward::{Kind, Result};

fn key(id: &str) -> LockKey {
    LockKey::typed("main", "eu", "projects", id).unwrap()
}

/// One process.
async fn locks(server: &Redis) -> Locks {
    locks_at(&server.url()).await.unwrap()
}

async fn locks_at(url: &str) -> Result<Locks> {
    Locks::new(Arc::new(RedisLocks::open(&Address::parse(url)?).await?), LocksConfig::default())
}

fn waiting(wait: Duration) -> LockOptions {
    LockOptions::fail().with_wait(wait)
}

#[tokio::test]
async fn a_release_hands_the_key_to_the_next_process_at_once() {
    let server = Redis::start();
    let (a, b) = (locks(&server).await, locks(&server).await);
    let held = a.acquire(&key("1"), LockOptions::fail()).await.unwrap();
    let waiter = tokio::spawn({
        let b = b.clone();
        async move { b.acquire(&key("1"), waiting(Duration::from_secs(60))).await }
    });
    while server.ask("EXISTS onward:q:lock:main:eu:projects:1") != "1" {
        tokio::task::yield_now().await;
    }
    let first = held.token();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let next = waiter.await.unwrap().unwrap();
    assert!(next.token() > first);
    assert_eq!(next.release().await.unwrap(), Release::Released);
    assert_eq!(server.ask("EXISTS lock:main:eu:projects:1 onward:q:lock:main:eu:projects:1"), "0");
}

#[tokio::test]
async fn contention_is_told_with_the_remaining_time() {
    let server = Redis::start();
    let (a, b) = (locks(&server).await, locks(&server).await);
    let held = a.acquire(&key("1"), LockOptions::fail()).await.unwrap();
    let error = b.acquire(&key("1"), waiting(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Contended);
    assert!(error.held_for().unwrap() > Duration::from_secs(9));
    drop(held);
}
