//! The part `cache` on every engine.

use std::sync::Arc;
use std::time::Duration;

use onward::cache::{BusyReason, Cache, CacheEngine, CacheOptions, Filled, Lookup, Reserved, Slot};
use onward::engine::memory::MemoryCache;
use onward::observe::Silent;
use onward::testing::cache::staleness::{TrustingCache, race, race_stale};
use onward::time::Clock;

onward::cache_conformance!(memory, |clock| Arc::new(MemoryCache::new(clock)));

fn memory() -> Arc<dyn CacheEngine> {
    Arc::new(MemoryCache::new(Clock::system()))
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation() {
    let seen = race(&memory(), 5_000);
    assert!(seen.loads > 100 && seen.reads > seen.loads, "the race must have misses and hits: {seen:?}");
    assert_eq!(seen.stale, 0, "{seen:?}");
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_where_stale_values_are_served() {
    let seen = race_stale(&memory(), 5_000);
    assert!(seen.loads > 100 && seen.reads > seen.loads, "the race must have misses and hits: {seen:?}");
    assert_eq!(seen.stale, 0, "{seen:?}");
}

#[test]
fn the_staleness_checker_finds_an_engine_that_accepts_every_fill() {
    let engine: Arc<dyn CacheEngine> = Arc::new(TrustingCache(memory()));
    let found = (0..100).any(|_| race(&engine, 1_000).stale > 0);
    assert!(found, "the checker is blind");
}

#[tokio::test]
async fn weight_stays_within_its_bound_and_eviction_costs_misses_only() {
    let engine: Arc<dyn CacheEngine> = Arc::new(MemoryCache::new(Clock::manual()).with_max_bytes(100_000));
    let cache = Cache::new(engine, "default", CacheOptions::default(), Clock::manual(), Arc::new(Silent)).unwrap();
    let text = "x".repeat(1_000);
    for key in 0..1_000 {
        let Lookup::Lease(lease) = cache.begin::<String>(format!("k{key}")).await.unwrap() else { panic!("expected a lease") };
        assert_eq!(lease.commit(&text).await.unwrap(), Filled::Stored);
        // One key is read all the time: it gets its second chance.
        assert!(cache.get::<String>("k0").await.unwrap().is_some(), "evicted at {key}");
    }
    let stats = cache.stats().await.unwrap();
    assert!(stats.bytes <= 100_000 && stats.entries > 50, "{stats:?}");
}

#[tokio::test]
async fn leases_beyond_the_table_are_away_until_others_end() {
    let clock = Clock::manual();
    let engine = MemoryCache::new(clock.clone());
    let fill_ttl = Duration::from_secs(10);
    let reserve =
        async |key: u32| engine.reserve(Slot { namespace: "default", key: &key.to_le_bytes(), field: None }, fill_ttl, None).await.unwrap();
    let mut away = 0;
    for key in 0..70_000 {
        match reserve(key).await {
            Reserved::Lease(_) => {}
            Reserved::Busy { reason: BusyReason::Away, .. } => away += 1,
            other => panic!("{other:?}"),
        }
    }
    let held = engine.stats("default").await.unwrap().reservations;
    assert!(held <= 65_536 && held + away == 70_000, "{held} held, {away} away");
    clock.advance(fill_ttl);
    assert!(matches!(reserve(70_001).await, Reserved::Lease(_)));
    assert_eq!(engine.stats("default").await.unwrap().reservations, 1);
}
