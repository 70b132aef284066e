//! Stale values: who is served one, for how long, and that an invalidation leaves none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::flight_cases::{Gate, fetch};
use super::{CacheHarness, fill, lease, options, settle};
use crate::cache::{
    BusyReason, Cache, Expiry, Fetched, Filled, Flushed, How, Invalidation, Lease, Lookup, Now, Stale, Touched, WireHit, WireLookup,
};
use crate::{Error, Kind};

const STALE_FOR: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

fn swr(cache: &Cache) -> Cache {
    cache.with(options().with_stale_while_revalidate(STALE_FOR)).unwrap()
}

fn safe(cache: &Cache) -> Cache {
    cache.with(options().with_fail_safe(STALE_FOR)).unwrap()
}

const fn stale(value: u64) -> Fetched<u64> {
    Fetched { value: Some(value), how: How::Stale }
}

async fn refresh(cache: &Cache, key: &str) -> Lease<u64> {
    let lease = lease(cache, key).await;
    assert!(lease.stale().is_some(), "expected a stale value beside the lease");
    lease
}

async fn load(cache: &Cache, value: u64) -> Fetched<u64> {
    cache.fetch("k", |_| async { Ok::<_, Error>(Some(value)) }).await.unwrap()
}

async fn fail(cache: &Cache) -> crate::Result<Fetched<u64>> {
    cache.fetch("k", |_| async { Err::<Option<u64>, _>(std::fmt::Error) }).await
}

/// One caller of all processes refreshes an ended value; the others have it at once, and the fresh one afterwards.
pub async fn only_one_refresher_wins(h: &CacheHarness) {
    let (here, there) = (swr(&h.cache), swr(&h.other()));
    fill(&here, "k", 1).await;
    h.clock.advance(here.options().ttl);
    let source = Arc::new(AtomicU64::new(2));
    let gate = Gate::shut();
    let winner = fetch(&here, &source, Some(gate.clone()));
    gate.reached().await;
    for cache in [&here, &there] {
        assert_eq!(load(cache, 99).await, stale(1));
        let Lookup::Busy(busy) = cache.begin::<u64>("k").await.unwrap() else { panic!("expected busy") };
        assert_eq!((busy.reason, busy.stale.unwrap().value), (BusyReason::Loading, Some(1)));
    }
    gate.open();
    assert_eq!(winner.await.unwrap().unwrap(), Fetched { value: Some(2), how: How::Loaded(Filled::Stored) });
    assert_eq!(load(&there, 99).await, Fetched { value: Some(2), how: How::Hit });
}

/// A refresh begun in the last moment of the old entry is stored.
pub async fn an_entry_outlives_its_refresh(h: &CacheHarness) {
    let cache = swr(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl + STALE_FOR - MS);
    let refreshing = refresh(&cache, "k").await;
    h.clock.advance(Duration::from_secs(5));
    assert_eq!(refreshing.commit(&2).await.unwrap(), Filled::Stored);
    assert_eq!(cache.get("k").await.unwrap(), Some(Some(2u64)));
}

/// A refresher that gives up leaves the stale value and lets the next one refresh.
pub async fn a_refresh_given_back_leaves_the_stale_value(h: &CacheHarness) {
    let cache = swr(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    refresh(&cache, "k").await.abandon().await.unwrap();
    let next = refresh(&cache, "k").await;
    assert_eq!(next.stale(), Some(&Stale { value: Some(1), since: Duration::ZERO }));
    assert_eq!(load(&cache, 99).await, stale(1));
}

/// Once a key is invalidated no option brings its value back, be it fresh or stale (INV-2).
pub async fn after_invalidate_nothing_stale_is_served(h: &CacheHarness) {
    let cache = h.cache.with(options().with_stale_while_revalidate(STALE_FOR).with_fail_safe(STALE_FOR)).unwrap();
    for ended in [Duration::ZERO, cache.options().ttl] {
        fill(&cache, "k", 1).await;
        h.clock.advance(ended);
        assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed);
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
        assert_eq!(fail(&cache).await.unwrap_err().kind(), Kind::Backend);
        settle().await;
        let lease = lease(&cache, "k").await;
        assert_eq!(lease.stale(), None);
        lease.abandon().await.unwrap();
    }
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    cache.flush_namespace().await.unwrap();
    assert_eq!(fail(&cache).await.unwrap_err().kind(), Kind::Backend);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    let guard = cache.write_guard(["k"]).await.unwrap();
    assert_eq!(fail(&cache).await.unwrap_err().kind(), Kind::Backend);
    let _ = guard.release().await.unwrap();
}

/// An invalidation kills a refresh in flight, and who comes after it gets nothing from before.
pub async fn a_refresh_across_an_invalidation_is_superseded(h: &CacheHarness) {
    let cache = swr(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    let source = Arc::new(AtomicU64::new(1));
    let gate = Gate::shut();
    let refreshing = fetch(&cache, &source, Some(gate.clone()));
    gate.reached().await;
    source.store(2, Ordering::SeqCst);
    let _ = cache.invalidate("k").await.unwrap();
    let late = fetch(&cache, &source, None);
    settle().await;
    gate.open();
    assert_eq!(late.await.unwrap().unwrap().value, Some(2));
    let refreshed = refreshing.await.unwrap().unwrap();
    assert_eq!(refreshed.value, Some(1));
    assert!(matches!(refreshed.how, How::Loaded(Filled::Superseded { .. })), "{refreshed:?}");
}

/// A handle without the options never sees what another one keeps as stale; neither does `get`.
pub async fn nothing_stale_is_served_unasked(h: &CacheHarness) {
    let cache = swr(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    assert_eq!(cache.peek(b"k", None).await.unwrap(), None);
    let lease = lease(&h.cache, "k").await;
    assert_eq!(lease.stale(), None);
    lease.abandon().await.unwrap();
    assert_eq!(load(&h.cache, 2).await, Fetched { value: Some(2), how: How::Loaded(Filled::Stored) });
}

/// Beyond the age that the handle allows an ended value is a miss.
pub async fn a_value_beyond_its_age_is_not_served(h: &CacheHarness) {
    let (cache, longer) = (swr(&h.cache), h.cache.with(options().with_stale_while_revalidate(STALE_FOR * 2)).unwrap());
    fill(&longer, "k", 1).await;
    h.clock.advance(cache.options().ttl + STALE_FOR + MS);
    let _refreshing = refresh(&longer, "k").await;
    let Lookup::Busy(busy) = cache.begin::<u64>("k").await.unwrap() else { panic!("expected busy") };
    assert_eq!(busy.stale, None);
    assert_eq!(load(&longer, 99).await, stale(1));
    h.clock.advance(STALE_FOR);
    let Lookup::Lease(lease) = longer.begin::<u64>("k").await.unwrap() else { panic!("expected a lease") };
    assert_eq!(lease.stale(), None);
}

/// A load that fails or runs too long is covered by the ended value, for all who read it themselves, up to its age.
pub async fn a_failed_load_is_covered_by_the_ended_value(h: &CacheHarness) {
    let cache = safe(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    assert_eq!(fail(&cache).await.unwrap(), stale(1));
    settle().await;
    let gate = Gate::shut();
    let slow = fetch(&cache, &Arc::default(), Some(gate.clone()));
    gate.reached().await;
    let follower = fetch(&cache, &Arc::default(), None);
    settle().await;
    h.clock.advance(cache.options().hard_timeout);
    assert_eq!(slow.await.unwrap().unwrap(), stale(1));
    assert_eq!(follower.await.unwrap().unwrap(), stale(1));
    assert_eq!(load(&cache, 2).await, Fetched { value: Some(2), how: How::Loaded(Filled::Stored) });
    h.clock.advance(cache.options().ttl + STALE_FOR + MS);
    assert_eq!(fail(&cache).await.unwrap_err().kind(), Kind::Backend);
}

/// Who came after an invalidation has nothing to fall back on, also if the load that he waits for began before and is covered (INV-2).
pub async fn a_follower_falls_back_only_on_what_it_read_itself(h: &CacheHarness) {
    let cache = safe(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    let gate = Gate::shut();
    let failing = tokio::spawn({
        let (cache, gate) = (cache.clone(), gate.clone());
        async move {
            let load = |_| async move {
                gate.pass().await;
                Err::<Option<u64>, _>(std::fmt::Error)
            };
            cache.fetch("k", load).await
        }
    });
    gate.reached().await;
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    let late = fetch(&cache, &Arc::new(AtomicU64::new(2)), None);
    settle().await;
    gate.open();
    assert_eq!(failing.await.unwrap().unwrap(), stale(1));
    assert_eq!(late.await.unwrap().unwrap_err().kind(), Kind::Backend);
}

/// A loader that asks for its own key is a mistake that no stale value covers.
pub async fn a_mistake_is_not_covered(h: &CacheHarness) {
    let cache = safe(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    let load = |_| async {
        let inner = cache.get_or_load::<u64, Error, _, _>("k", |_| async { Ok(1) }).await;
        assert_eq!(inner.unwrap_err().kind(), Kind::Invalid);
        Ok::<_, Error>(Some(2u64))
    };
    assert_eq!(cache.fetch("k", load).await.unwrap().value, Some(2));
}

/// Jitter never lets an entry live longer than its ttl, nor less than its share; none at all if it is 0.
pub async fn jitter_only_shortens(h: &CacheHarness) {
    let cache = h.cache.with(options().with_jitter_percent(50).with_ttl(Duration::from_secs(100))).unwrap();
    let keys: Vec<String> = (0..64).map(|key| format!("k{key}")).collect();
    for key in &keys {
        fill(&cache, key, 1).await;
    }
    h.clock.advance(Duration::from_secs(50));
    let mut left = 0;
    for key in &keys {
        left += u32::from(cache.get::<u64>(key).await.unwrap().is_some());
    }
    assert_eq!(left, 64, "none ends before half of its time");
    h.clock.advance(Duration::from_secs(25));
    let mut left = 0;
    for key in &keys {
        left += u32::from(cache.get::<u64>(key).await.unwrap().is_some());
    }
    assert!((1..64).contains(&left), "{left} of 64 in the middle");
    h.clock.advance(Duration::from_secs(25));
    for key in &keys {
        assert_eq!(cache.get::<u64>(key).await.unwrap(), None);
    }
}

/// An expiry keeps values for those who take stale ones, hides them from the others, and refuses every fill in flight.
pub async fn expire_keeps_stale_and_kills_the_refresh(h: &CacheHarness) {
    let cache = swr(&h.cache);
    assert_eq!(cache.expire("k").await.unwrap(), Expiry::Absent);
    fill(&cache, "k", 1).await;
    let Lookup::Lease(field) = cache.field("k", "f").begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    assert_eq!(cache.expire("k").await.unwrap(), Expiry::Expired);
    assert_eq!(field.commit(&1).await.unwrap(), Filled::Superseded { now: Now::Absent });
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    let refreshing = refresh(&cache, "k").await;
    assert_eq!(cache.expire("k").await.unwrap(), Expiry::Expired);
    assert_eq!(refreshing.commit(&2).await.unwrap(), Filled::Superseded { now: Now::Absent });
    assert_eq!(load(&cache, 3).await, Fetched { value: Some(3), how: How::Loaded(Filled::Stored) });
    assert_eq!(cache.get("k").await.unwrap(), Some(Some(3u64)));
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(cache.expire("k").await.unwrap(), Expiry::Absent);
}

/// A field can be expired alone: its siblings and the plain value stay fresh.
pub async fn expiring_a_field_leaves_its_siblings_fresh(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    for field in ["a", "b"] {
        let Lookup::Lease(lease) = h.cache.field("k", field).begin::<u64>().await.unwrap() else { panic!("expected a lease") };
        assert_eq!(lease.commit(&2).await.unwrap(), Filled::Stored);
    }
    assert_eq!(h.cache.field("k", "a").expire().await.unwrap(), Expiry::Expired);
    assert_eq!(h.cache.field("k", "a").get::<u64>().await.unwrap(), None);
    assert_eq!(h.cache.field("k", "b").get().await.unwrap(), Some(Some(2u64)));
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    assert_eq!(h.cache.expire("k").await.unwrap(), Expiry::Expired);
    assert_eq!(h.cache.field("k", "b").get::<u64>().await.unwrap(), None);
}

/// A touch lengthens what is fresh, and brings back nothing that ended, was expired, invalidated or flushed.
pub async fn touch_never_resurrects(h: &CacheHarness) {
    let (cache, second) = (swr(&h.cache), Duration::from_secs(1));
    assert_eq!(cache.touch("k", second).await.unwrap(), Touched::Absent);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl - MS);
    assert_eq!(cache.touch("k", second).await.unwrap(), Touched::Touched);
    h.clock.advance(second - MS);
    assert_eq!(cache.get("k").await.unwrap(), Some(Some(1u64)));
    h.clock.advance(MS);
    assert_eq!(cache.touch("k", second).await.unwrap(), Touched::Absent);
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    for end in 0..3 {
        let _ = cache.invalidate("k").await.unwrap();
        fill(&cache, "k", 1).await;
        match end {
            0 => assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed),
            1 => assert_eq!(cache.expire("k").await.unwrap(), Expiry::Expired),
            _ => assert_eq!(cache.flush_namespace().await.unwrap(), Flushed::Flushed),
        }
        assert_eq!(cache.touch("k", second).await.unwrap(), Touched::Absent);
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    }
    let in_flight = lease(&cache, "k").await;
    assert_eq!(cache.touch("k", second).await.unwrap(), Touched::Absent);
    assert_eq!(in_flight.commit(&2).await.unwrap(), Filled::Stored);
    for bad in [Duration::ZERO, Duration::from_secs(30 * 24 * 3_600 + 1)] {
        assert_eq!(cache.touch("k", bad).await.unwrap_err().kind(), Kind::Invalid);
    }
}

/// Over the wire the winner of a refresh gets the stale bytes with the lease, the others the stale bytes alone, without a wait.
pub async fn stale_bytes_come_with_and_without_a_lease(h: &CacheHarness) {
    let cache = swr(&h.cache);
    fill(&cache, "k", 1).await;
    h.clock.advance(cache.options().ttl);
    let before = WireHit::Value { bytes: "1".into(), content_type: "application/json".into() };
    let WireLookup::Lease { fill, stale, .. } = cache.begin_wire(b"k", None, STALE_FOR).await.unwrap() else { panic!("expected a lease") };
    assert_eq!(stale.as_ref(), Some(&before));
    let WireLookup::Busy { stale, .. } = cache.begin_wire(b"k", None, STALE_FOR).await.unwrap() else { panic!("expected busy") };
    assert_eq!(stale.as_ref(), Some(&before));
    assert_eq!(cache.commit_wire(b"k", None, &fill, b"2", "application/json", None).await.unwrap(), Filled::Stored);
    assert!(matches!(cache.begin_wire(b"k", None, STALE_FOR).await.unwrap(), WireLookup::Hit(_)));
}
