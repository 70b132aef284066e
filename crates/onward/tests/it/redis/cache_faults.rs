//! The cache on Redis when the server, the way to it or its data is spoilt: an invalidation is done or not reported as done, and nothing
//! from before it comes back.

mod connection;
mod data;
mod load;
mod servers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onward::cache::layers::{Breaker, Tiered};
use onward::cache::{Cache, CacheEngine, CacheOptions, Filled, How, Invalidation, Lease, Lookup, Now, Reserved, Scope, Slot, Unfilled};
use onward::engine::memory::MemoryCache;
use onward::engine::redis::{Address, RedisCache};
use onward::observe::Silent;
use onward::testing::cache::staleness::{race, race_stale};
use onward::testing::servers::{Keep, Proxy, Redis, RedisCluster};
use onward::time::Clock;
use onward::{Effect, Kind};

use super::cache::{own_database, server};

/// How long a test waits for what must come; only a broken engine lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);
const SLOT: Slot<'_> = Slot { namespace: "default", key: b"k", field: None };

async fn engine(url: &str) -> Arc<dyn CacheEngine> {
    Arc::new(RedisCache::open(&Address::parse(url).unwrap(), Clock::system()).await.unwrap())
}

pub(super) fn over(engine: &Arc<dyn CacheEngine>) -> Cache {
    let options = CacheOptions::default().with_jitter_percent(0).with_op_timeout(Duration::from_secs(2));
    Cache::new(Arc::clone(engine), "default", options, Clock::system(), Arc::new(Silent)).unwrap()
}

async fn cache(url: &str) -> Cache {
    over(&engine(url).await)
}

pub(super) async fn lease(cache: &Cache, key: &str) -> Lease<u64> {
    match cache.begin(key).await.unwrap() {
        Lookup::Lease(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

pub(super) async fn fill(cache: &Cache, key: &str, value: u64) {
    assert_eq!(lease(cache, key).await.commit(&value).await.unwrap(), Filled::Stored);
}

/// Waits until the connection is there again.
pub(super) async fn get_again(cache: &Cache, key: &str) -> Option<Option<u64>> {
    let patience = Clock::system().now() + PATIENCE;
    loop {
        match cache.get::<u64>(key).await {
            Ok(found) => return found,
            Err(error) => assert!(error.kind() == Kind::Backend && Clock::system().now() < patience, "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let patience = Clock::system().now() + PATIENCE;
    while !is_so().await {
        assert!(Clock::system().now() < patience, "{what}");
        tokio::task::yield_now().await;
    }
}
