//! The cache on Redis.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use onward::engine::redis::{Address, RedisCache};
use onward::testing::cache::watched::WatchedCache;
use onward::testing::servers::Redis;
use onward::time::Clock;
use parking_lot::Mutex;

/// One server for all tests that leave it whole; it ends with the last of them.
fn shared() -> Arc<Redis> {
    static SHARED: Mutex<Weak<Redis>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock();
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Redis::start_with(&["--databases", "100000"]));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A database that no other test uses.
fn own_database(server: &Redis) -> Address {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Address::parse(&format!("{}/{}", server.url(), COUNT.fetch_add(1, Ordering::SeqCst))).unwrap()
}

async fn cache(clock: Clock) -> WatchedCache {
    let server = shared();
    let cache = RedisCache::open(&own_database(&server), clock).await.unwrap();
    WatchedCache::new(Arc::new(cache), server)
}

onward::cache_conformance!(alone, cache);
