//! The cache on Redis: the suite on one server, on several, behind layers, and on a cluster.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use onward::cache::CacheEngine;
use onward::cache::layers::{Breaker, Sharded, Tiered};
use onward::engine::memory::MemoryCache;
use onward::engine::redis::{Address, RedisCache};
use onward::testing::cache::watched::WatchedCache;
use onward::testing::servers::{Redis, RedisCluster};
use onward::time::Clock;
use parking_lot::Mutex;

/// Shares a server among tests; it ends with the last of those that run.
fn shared<T>(place: &Mutex<Weak<T>>, start: impl FnOnce() -> T) -> Arc<T> {
    let mut place = place.lock();
    place.upgrade().unwrap_or_else(|| {
        let server = Arc::new(start());
        *place = Arc::downgrade(&server);
        server
    })
}

/// One server for all tests that leave it whole.
pub(super) fn server() -> Arc<Redis> {
    static SERVER: Mutex<Weak<Redis>> = Mutex::new(Weak::new());
    shared(&SERVER, || Redis::start_with(&["--databases", "100000"]))
}

/// A database that no other test uses.
pub(super) fn own_database(server: &Redis) -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Address::parse(&format!("{}/{}", server.url(), COUNT.fetch_add(1, Ordering::SeqCst))).unwrap()
}

async fn alone(clock: Clock) -> WatchedCache {
    let server = server();
    let cache = RedisCache::open(&own_database(&server), clock).await.unwrap();
    WatchedCache::new(Arc::new(cache), server)
}

async fn sharded(clock: Clock) -> Sharded {
    let mut shards: Vec<(String, Arc<dyn CacheEngine>)> = Vec::new();
    for name in ["a", "b", "c"] {
        shards.push((name.to_owned(), Arc::new(alone(clock.clone()).await)));
    }
    Sharded::new(shards).unwrap()
}

async fn broken(clock: Clock) -> Breaker {
    Breaker::new(Arc::new(alone(clock.clone()).await), clock)
}

async fn tiered(clock: Clock) -> Tiered {
    let near = Arc::new(MemoryCache::new(clock.clone()));
    let far = broken(clock.clone()).await;
    Tiered::new(near, Arc::new(far), clock, Duration::from_secs(2)).unwrap()
}

/// A cluster has one database: its tests take turns, and each finds it empty.
async fn on_cluster(clock: Clock) -> WatchedCache {
    static CLUSTER: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
    static TURN: Mutex<Weak<tokio::sync::Mutex<()>>> = Mutex::new(Weak::new());
    let cluster = shared(&CLUSTER, RedisCluster::start);
    let turn = shared(&TURN, || tokio::sync::Mutex::new(())).lock_owned().await;
    for node in cluster.nodes() {
        assert_eq!(node.ask("FLUSHALL"), "OK");
    }
    let cache = RedisCache::open(&Address::parse(&cluster.url()).unwrap(), clock).await.unwrap();
    WatchedCache::new(Arc::new(cache), (turn, cluster))
}

onward::cache_conformance!(on_redis, alone);
onward::cache_conformance!(on_redis_shards, sharded);
onward::cache_conformance!(on_redis_behind_a_breaker, broken);
onward::cache_conformance!(on_redis_behind_near_copies, tiered);
onward::cache_conformance!(on_a_redis_cluster, on_cluster);
