//! The part `cache` on every engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onward::cache::layers::{Breaker, Sharded, Tiered};
use onward::cache::{BusyReason, Cache, CacheEngine, CacheOptions, Filled, Lookup, Reserved, Slot};
use onward::engine::memory::MemoryCache;
use onward::observe::Silent;
use onward::testing::cache::faults::{Call, Fault, FaultGate, FaultyCache};
use onward::testing::cache::staleness::{TrustingCache, race, race_stale};
use onward::time::Clock;

onward::cache_conformance!(memory, async |clock| MemoryCache::new(clock));

onward::cache_conformance!(sharded, async |clock| shards(&clock));

onward::cache_conformance!(breaker, async |clock| Breaker::new(Arc::new(MemoryCache::new(clock.clone())), clock));

onward::cache_conformance!(tiered, async |clock| tiered(&clock, Arc::new(MemoryCache::new(clock.clone()))));

const BOUND: Duration = Duration::from_secs(2);

fn tiered(clock: &Clock, far: Arc<dyn CacheEngine>) -> Tiered {
    Tiered::new(Arc::new(MemoryCache::new(clock.clone())), far, clock.clone(), BOUND).unwrap()
}

fn shards(clock: &Clock) -> Sharded {
    let engine = || Arc::new(MemoryCache::new(clock.clone())) as Arc<dyn CacheEngine>;
    Sharded::new([("a", engine()), ("b", engine()), ("c", engine())]).unwrap()
}

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
fn no_read_is_older_than_an_acknowledged_invalidation_through_the_same_near_cache() {
    let engine: Arc<dyn CacheEngine> = Arc::new(tiered(&Clock::system(), memory()));
    for seen in [race(&engine, 2_000), race_stale(&engine, 2_000)] {
        assert!(seen.loads > 100 && seen.reads > seen.loads, "{seen:?}");
        assert_eq!(seen.stale, 0, "{seen:?}");
    }
}

#[tokio::test]
async fn promotion_never_resurrects() {
    let clock = Clock::manual();
    let far = FaultyCache::new(Arc::new(MemoryCache::new(clock.clone())));
    let engine = Arc::new(tiered(&clock, Arc::clone(&far) as _));
    let cache = Cache::new(engine, "default", CacheOptions::default(), clock, Arc::new(Silent)).unwrap();
    let Lookup::Lease(lease) = cache.begin::<u64>("k").await.unwrap() else { panic!("expected a lease") };
    assert_eq!(lease.commit(&1).await.unwrap(), Filled::Stored);
    let gate = FaultGate::shut();
    far.fail(Call::Lookup, Fault::SlowReply(gate.clone()));
    let promoting = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get::<u64>("k").await }
    });
    gate.reached().await;
    far.heal();
    let _ = cache.invalidate("k").await.unwrap();
    gate.open();
    // It began before the invalidation, and may have seen the value; nobody after it does.
    assert_eq!(promoting.await.unwrap().unwrap(), Some(Some(1u64)));
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_near_copy_is_older_than_its_bound_never_and_told_by_the_promise() {
    let clock = Clock::manual();
    let far: Arc<dyn CacheEngine> = Arc::new(MemoryCache::new(clock.clone()));
    let handle =
        |engine: Arc<dyn CacheEngine>| Cache::new(engine, "default", CacheOptions::default(), clock.clone(), Arc::new(Silent)).unwrap();
    let [here, there] = [(); 2].map(|()| handle(Arc::new(tiered(&clock, Arc::clone(&far)))));
    assert_eq!(here.promise().staleness, Some(BOUND));
    let Lookup::Lease(lease) = here.begin::<u64>("k").await.unwrap() else { panic!("expected a lease") };
    assert_eq!(lease.commit(&1).await.unwrap(), Filled::Stored);
    assert_eq!(here.get("k").await.unwrap(), Some(Some(1u64)));
    let _ = there.invalidate("k").await.unwrap();
    clock.advance(BOUND - Duration::from_millis(1));
    assert_eq!(here.get("k").await.unwrap(), Some(Some(1u64)), "the near copy was not used");
    clock.advance(Duration::from_millis(1));
    assert_eq!(here.get::<u64>("k").await.unwrap(), None);
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_on_shards() {
    let seen = race_stale(&(Arc::new(shards(&Clock::system())) as Arc<dyn CacheEngine>), 2_000);
    assert!(seen.loads > 100 && seen.reads > seen.loads, "{seen:?}");
    assert_eq!(seen.stale, 0, "{seen:?}");
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_that_waits_in_a_breaker() {
    let faulty = FaultyCache::new(memory());
    let breaker = Arc::new(Breaker::new(Arc::clone(&faulty) as _, Clock::system()));
    let engine: Arc<dyn CacheEngine> = Arc::clone(&breaker) as _;
    let racing = std::thread::spawn(move || race(&engine, 5_000));
    let (mut waited, mut turn) = (false, 0u32);
    while !racing.is_finished() {
        turn += 1;
        let fault = if turn.is_multiple_of(2) { Fault::Refused } else { Fault::ReplyLost };
        faulty.fail(Call::Invalidate, fault.clone());
        faulty.fail(Call::Flush, fault);
        std::thread::yield_now();
        faulty.heal();
        for _ in 0..50 {
            waited |= breaker.queued() > 0;
            std::thread::yield_now();
        }
    }
    let seen = racing.join().unwrap();
    assert!(waited, "no invalidation had to wait");
    assert!(seen.reads > 100, "{seen:?}");
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

/// A number that counts how often it is read from JSON.
#[derive(Debug)]
struct Counted;

static DECODED: AtomicU64 = AtomicU64::new(0);

impl serde::Serialize for Counted {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::SeqCst);
        <()>::deserialize(from).map(|()| Self)
    }
}

#[tokio::test]
async fn typed_hits_in_process_decode_once_an_entry_on_every_layer() {
    let clock = Clock::manual();
    let engines: [Arc<dyn CacheEngine>; 4] = [
        Arc::new(MemoryCache::new(clock.clone())),
        Arc::new(shards(&clock)),
        Arc::new(Breaker::new(Arc::new(MemoryCache::new(clock.clone())), clock.clone())),
        Arc::new(tiered(&clock, Arc::new(MemoryCache::new(clock.clone())))),
    ];
    for engine in engines {
        let cache = Cache::new(engine, "default", CacheOptions::default(), clock.clone(), Arc::new(Silent)).unwrap();
        let typed = cache.typed::<Counted>();
        let load = |_| async { Ok::<_, std::io::Error>(Counted) };
        // The first hit may bring a near copy, the second one decodes that.
        for _ in 0..3 {
            typed.get_or_load("k", load).await.unwrap();
        }
        let before = DECODED.load(Ordering::SeqCst);
        let one = typed.get_or_load("k", load).await.unwrap();
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&one, &typed.get("k").await.unwrap().flatten().unwrap()));
        }
        assert_eq!(DECODED.load(Ordering::SeqCst), before);
    }
}

#[tokio::test]
async fn decoded_values_count_against_the_bound() {
    let engine: Arc<dyn CacheEngine> = Arc::new(MemoryCache::new(Clock::manual()).with_max_bytes(100_000));
    let cache = Cache::new(engine, "default", CacheOptions::default(), Clock::manual(), Arc::new(Silent)).unwrap();
    let typed = cache.typed::<String>();
    let read = async |key: u32| {
        typed.get_or_load(format!("k{key}"), |_| async { Ok::<_, std::io::Error>("x".repeat(1_000)) }).await.unwrap();
    };
    for key in 0..60 {
        read(key).await;
    }
    let plain = cache.stats().await.unwrap();
    for key in 0..60 {
        read(key).await;
    }
    let decoded = cache.stats().await.unwrap();
    assert!(plain.entries == 60 && plain.bytes < 80_000, "{plain:?}");
    assert!(decoded.entries < 60 && decoded.bytes <= 100_000, "{decoded:?}");
    cache.flush_namespace().await.unwrap();
    assert_eq!(cache.stats().await.unwrap().bytes, 0);
    // Nothing is left of the weight: as much fits as at first.
    for key in 0..60 {
        read(key).await;
    }
    assert_eq!(cache.stats().await.unwrap(), plain);
}

#[tokio::test]
async fn each_key_lies_on_one_shard_and_every_call_goes_there() {
    let clock = Clock::manual();
    let engines: Vec<Arc<dyn CacheEngine>> = (0..3).map(|_| Arc::new(MemoryCache::new(clock.clone())) as _).collect();
    let sharded = Arc::new(Sharded::new(["a", "b", "c"].into_iter().zip(engines.iter().cloned())).unwrap());
    let cache = Cache::new(sharded, "default", CacheOptions::default(), clock.clone(), Arc::new(Silent)).unwrap();
    let held = async |field: fn(onward::cache::CacheStats) -> u64| {
        let mut counts = Vec::new();
        for engine in &engines {
            counts.push(field(engine.stats("default").await.unwrap()));
        }
        counts
    };
    let keys: Vec<String> = (0..300).map(|key| format!("k{key}")).collect();
    let mut leases = Vec::new();
    for key in &keys {
        let Lookup::Lease(lease) = cache.begin::<u64>(key).await.unwrap() else { panic!("expected a lease") };
        leases.push(lease);
    }
    let reserved = held(|stats| stats.reservations).await;
    assert!(reserved.iter().all(|count| (60..140).contains(count)) && reserved.iter().sum::<u64>() == 300, "{reserved:?}");
    for lease in leases {
        assert_eq!(lease.commit(&1).await.unwrap(), Filled::Stored);
    }
    assert_eq!(held(|stats| stats.entries).await, reserved, "a fill lands where its lease is");
    let found = cache.get_many::<u64, _>(&keys).await.unwrap();
    assert!(found.iter().all(|one| *one.as_ref().unwrap() == Some(Some(1))));
    let _ = cache.invalidate_many(&keys[..150]).await.unwrap();
    for key in &keys[150..299] {
        let _ = cache.invalidate(key).await.unwrap();
    }
    assert_eq!(held(|stats| stats.entries).await.iter().sum::<u64>(), 1);
    cache.flush_namespace().await.unwrap();
    assert_eq!(held(|stats| stats.entries).await, [0, 0, 0]);
    let guard = cache.write_guard(&keys).await.unwrap();
    assert_eq!(held(|stats| stats.guarded).await, reserved);
    let _ = guard.release().await.unwrap();
    assert_eq!(held(|stats| stats.guarded).await, [0, 0, 0]);
}

/// The second forget of `Tiered`: a copy that is made while the far purge is on its way is of the old value.
#[tokio::test]
async fn a_near_copy_made_while_the_far_purge_is_on_its_way_is_forgotten() {
    let clock = Clock::manual();
    let far = FaultyCache::new(Arc::new(MemoryCache::new(clock.clone())));
    let engine = Arc::new(tiered(&clock, Arc::clone(&far) as _));
    let cache = Cache::new(engine, "default", CacheOptions::default(), clock, Arc::new(Silent)).unwrap();
    for purge in 0..3 {
        let Lookup::Lease(lease) = cache.begin::<u64>("k").await.unwrap() else { panic!("expected a lease") };
        assert_eq!(lease.commit(&1).await.unwrap(), Filled::Stored);
        let gate = FaultGate::shut();
        far.fail(if purge == 2 { Call::Flush } else { Call::Invalidate }, Fault::SlowRequest(gate.clone()));
        let purging = tokio::spawn({
            let cache = cache.clone();
            async move {
                match purge {
                    0 => drop(cache.invalidate("k").await.unwrap()),
                    1 => drop(cache.invalidate_many(&["k"]).await.unwrap()),
                    _ => drop(cache.flush_namespace().await.unwrap()),
                }
            }
        });
        gate.reached().await;
        // The near copy is gone already, the far value not yet: this read makes a copy of it.
        assert_eq!(cache.get("k").await.unwrap(), Some(Some(1u64)), "purge {purge}");
        gate.open();
        purging.await.unwrap();
        far.heal();
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None, "purge {purge}");
    }
}
