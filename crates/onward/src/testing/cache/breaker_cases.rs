//! A breaker over an engine that fails: no invalidation is lost, and nobody here reads what was to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::faults::{Call, Fault, FaultGate, FaultyCache};
use super::flight_cases::{Gate, fetch};
use super::{CacheHarness, fill, lease, settle};
use crate::Kind;
use crate::cache::layers::Breaker;
use crate::cache::{CacheEngine, Expiry, Filled, Flushed, How, Invalidation, Slot, Unfilled};

struct Broken {
    engine: Arc<FaultyCache>,
    breaker: Arc<Breaker>,
    h: CacheHarness,
}

fn broken(h: &CacheHarness) -> Broken {
    let engine = FaultyCache::new(Arc::clone(&h.engine));
    let breaker = Arc::new(Breaker::new(Arc::clone(&engine) as _, h.clock.clone()));
    Broken { engine, breaker: Arc::clone(&breaker), h: CacheHarness::over(breaker, h.clock.clone()) }
}

impl Broken {
    /// Moves the clock until nothing waits.
    async fn recover(&self) {
        self.engine.heal();
        for _ in 0..1_000 {
            if self.breaker.queued() == 0 {
                return;
            }
            self.h.clock.advance(Duration::from_millis(50));
            settle().await;
        }
        panic!("what waits was not sent again in 50 s");
    }
}

/// What fails to be invalidated is not read here until it is done; then it is gone for everyone.
pub async fn purge_under_an_open_breaker_is_replayed_before_the_key_is_read(h: &CacheHarness) {
    let b = broken(h);
    fill(&b.h.cache, "k", 1).await;
    fill(&b.h.cache, "l", 1).await;
    for fault in [Fault::Refused, Fault::ReplyLost] {
        b.engine.fail(Call::Invalidate, fault);
        assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Queued);
        assert_eq!(b.h.cache.expire("l").await.unwrap(), Expiry::Queued);
        assert_eq!(b.h.cache.get::<u64>("k").await.unwrap_err().kind(), Kind::Backend);
        let loaded = b.h.cache.fetch("k", |_| async { Ok::<_, crate::Error>(Some(2u64)) }).await.unwrap();
        assert_eq!((loaded.value, loaded.how), (Some(2), How::Unfilled(Unfilled::Away)));
        // Another namespace goes on.
        fill(&b.h.cache.in_namespace("other").unwrap(), "k", 1).await;
        let _ = b.h.cache.in_namespace("other").unwrap().flush_namespace().await.unwrap();
        b.recover().await;
        assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
        assert_eq!(h.cache.get::<u64>("l").await.unwrap(), None);
        fill(&b.h.cache, "k", 3).await;
        assert_eq!(b.h.cache.get("k").await.unwrap(), Some(Some(3u64)));
    }
}

/// A lease from before an invalidation that waits lands neither while it waits nor afterwards, and no follower takes its value (INV-2).
pub async fn a_lease_from_before_a_waiting_purge_is_refused(h: &CacheHarness) {
    let b = broken(h);
    let old = lease(&b.h.cache, "l").await;
    let source = Arc::new(AtomicU64::new(1));
    let gate = Gate::shut();
    let leader = fetch(&b.h.cache, &source, Some(gate.clone()));
    gate.reached().await;
    b.engine.fail(Call::Invalidate, Fault::Refused);
    source.store(2, Ordering::SeqCst);
    assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    let late = fetch(&b.h.cache, &source, None);
    settle().await;
    gate.open();
    assert_eq!(leader.await.unwrap().unwrap().how, How::Unfilled(Unfilled::Away));
    assert_eq!(late.await.unwrap().unwrap().value, Some(2));
    assert_eq!(b.h.cache.invalidate("l").await.unwrap(), Invalidation::Queued);
    b.recover().await;
    assert!(matches!(old.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    assert_eq!(h.cache.get::<u64>("l").await.unwrap(), None);
}

/// While a purge waits, no typed hit shows what was to go, though its value is still here.
pub async fn a_typed_hit_is_none_while_a_purge_waits(h: &CacheHarness) {
    let b = broken(h);
    let typed = b.h.cache.typed::<u64>();
    fill(&b.h.cache, "k", 1).await;
    for _ in 0..2 {
        assert_eq!(typed.get("k").await.unwrap().flatten().as_deref(), Some(&1));
    }
    b.engine.fail(Call::Invalidate, Fault::Refused);
    assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    assert_eq!(typed.get("k").await.unwrap_err().kind(), crate::Kind::Backend);
    assert_eq!(*typed.get_or_load("k", |_| async { Ok::<_, crate::Error>(2) }).await.unwrap(), 2);
    b.recover().await;
    assert_eq!(typed.get("k").await.unwrap(), None);
}

/// Beyond 1,024 keys the namespace is flushed instead: nothing from before is read again.
pub async fn queue_overflow_moves_the_epoch(h: &CacheHarness) {
    let b = broken(h);
    fill(&b.h.cache, "never invalidated", 1).await;
    let in_flight = lease(&b.h.cache, "in flight").await;
    b.engine.fail(Call::Invalidate, Fault::Refused);
    let keys: Vec<String> = (0..1_025).map(|key| key.to_string()).collect();
    for half in keys.chunks(1_000) {
        for answer in b.h.cache.invalidate_many(half).await.unwrap() {
            assert_eq!(answer.unwrap(), Invalidation::Queued);
        }
    }
    assert_eq!(b.breaker.queued(), 1);
    b.recover().await;
    assert_eq!(h.cache.get::<u64>("never invalidated").await.unwrap(), None);
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
}

/// A flush that fails waits as well, of one namespace and of all.
pub async fn a_flush_that_fails_waits(h: &CacheHarness) {
    let b = broken(h);
    let other = b.h.cache.in_namespace("other").unwrap();
    for all in [false, true] {
        fill(&b.h.cache, "k", 1).await;
        fill(&other, "k", 1).await;
        b.engine.fail(Call::Flush, Fault::Refused);
        let flushed = if all { b.h.cache.flush_all().await } else { b.h.cache.flush_namespace().await };
        assert_eq!(flushed.unwrap(), Flushed::Queued);
        assert!(b.h.cache.get::<u64>("k").await.is_err());
        assert_eq!(other.get::<u64>("k").await.is_err(), all);
        b.recover().await;
        assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
        let _ = other.invalidate("k").await.unwrap();
    }
}

/// An engine that hangs costs a call its bound five times; then reads fail at once, until one call a second finds it well.
pub async fn an_open_breaker_answers_at_once(h: &CacheHarness) {
    let b = broken(h);
    b.engine.fail(Call::Lookup, Fault::Refused);
    for _ in 0..5 {
        assert!(b.h.cache.get::<u64>("k").await.is_err());
    }
    let gate = FaultGate::shut();
    b.engine.fail(Call::Lookup, Fault::SlowRequest(gate));
    assert!(b.h.cache.get::<u64>("k").await.is_err(), "this one was not sent");
    b.engine.heal();
    assert!(b.h.cache.get::<u64>("k").await.is_err());
    h.clock.advance(Duration::from_secs(1));
    assert_eq!(b.h.cache.get::<u64>("k").await.unwrap(), None);
    assert_eq!(b.h.cache.get::<u64>("k").await.unwrap(), None);
}

/// Invalidations are tried also while the breaker is open.
pub async fn an_open_breaker_still_invalidates(h: &CacheHarness) {
    let b = broken(h);
    fill(&b.h.cache, "k", 1).await;
    b.engine.fail(Call::Lookup, Fault::Refused);
    for _ in 0..5 {
        assert!(b.h.cache.get::<u64>("k").await.is_err());
    }
    assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
}

/// An invalidation whose future is dropped before the engine answers waits too.
pub async fn a_purge_dropped_midway_waits(h: &CacheHarness) {
    let b = broken(h);
    fill(&b.h.cache, "k", 1).await;
    let gate = FaultGate::shut();
    b.engine.fail(Call::Invalidate, Fault::SlowRequest(gate.clone()));
    let slot = Slot { namespace: "default", key: b"k", field: None };
    let call = tokio::spawn({
        let breaker = Arc::clone(&b.breaker);
        async move { breaker.invalidate(slot, Duration::ZERO).await }
    });
    gate.reached().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(b.breaker.queued(), 1);
    assert!(b.h.cache.get::<u64>("k").await.is_err());
    b.recover().await;
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A replay does not settle an invalidation that failed after the replay began.
pub async fn a_purge_that_fails_during_its_replay_still_waits(h: &CacheHarness) {
    let b = broken(h);
    b.engine.fail(Call::Invalidate, Fault::Refused);
    assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    let gate = FaultGate::shut();
    b.engine.fail(Call::Invalidate, Fault::SlowReply(gate.clone()));
    // The pauses before a replay are drawn by chance: one of these moves begins it, and none ends its time.
    h.clock.advance(Duration::from_millis(50));
    settle().await;
    h.clock.advance(Duration::from_millis(100));
    gate.reached().await;
    // The replay has purged and waits for its reply. Now a value is filled and its invalidation fails.
    fill(&h.cache, "k", 1).await;
    b.engine.fail(Call::Invalidate, Fault::Refused);
    assert_eq!(b.h.cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    gate.open();
    settle().await;
    assert_eq!(b.breaker.queued(), 1);
    b.recover().await;
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}
