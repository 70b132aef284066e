//! Write guards: what they keep out, for how long, and how many there may be.

use std::time::Duration;

use super::cases::{ABSENT, busy};
use super::{CacheHarness, fill, lease};
use crate::Kind;
use crate::cache::{BusyReason, Filled, GuardEnd};

/// Under a guard fills in flight are refused, none begins, and loads still answer.
pub async fn no_fill_lands_under_a_guard(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    let in_flight = lease(&h.cache, "l").await;
    let guard = h.cache.write_guard(["k", "l"]).await.unwrap();
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    assert_eq!(in_flight.commit(&1).await.unwrap(), ABSENT);
    assert_eq!(busy(h.cache.begin("k").await.unwrap()), BusyReason::Guarded);
    assert_eq!(h.cache.get_or_load("k", |_| async { Ok::<_, crate::Error>(2u64) }).await.unwrap(), 2);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    guard.check().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
    fill(&h.cache, "k", 3).await;
}

/// Two writers guard one key: the first to release opens nothing.
pub async fn overlapping_guards_hold_until_the_last(h: &CacheHarness) {
    let (one, two) = (h.cache.write_guard(["k"]).await.unwrap(), h.other().write_guard(["k"]).await.unwrap());
    assert_eq!(one.release().await.unwrap(), GuardEnd::Released);
    assert_eq!(busy(h.cache.begin("k").await.unwrap()), BusyReason::Guarded);
    two.check().await.unwrap();
    assert_eq!(two.release().await.unwrap(), GuardEnd::Released);
    fill(&h.cache, "k", 1).await;
}

/// A guard ends by itself; its late release says so, purges what came in between and kills what is in flight.
pub async fn release_purges_even_if_the_guard_was_lost(h: &CacheHarness) {
    let guard = h.cache.write_guard(["k", "l"]).await.unwrap();
    h.clock.advance(h.cache.options().guard_ttl);
    assert_eq!(guard.check().await.unwrap_err().kind(), Kind::Lost);
    fill(&h.cache, "k", 1).await;
    let in_flight = lease(&h.cache, "l").await;
    assert_eq!(guard.release().await.unwrap(), GuardEnd::WasLost);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    assert_eq!(in_flight.commit(&1).await.unwrap(), ABSENT);
}

/// At most 64 owners a key; the 65th is told to come back, and keeps no guard on its other keys.
pub async fn the_65th_guard_owner_is_turned_away(h: &CacheHarness) {
    let mut guards = Vec::new();
    for _ in 0..64 {
        guards.push(h.cache.write_guard(["k"]).await.unwrap());
    }
    let error = h.cache.write_guard(["free", "k"]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded);
    fill(&h.cache, "free", 1).await;
    for guard in guards {
        assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
    }
}

/// A flush ends no guard.
pub async fn a_flush_keeps_guards(h: &CacheHarness) {
    let guard = h.cache.write_guard(["k"]).await.unwrap();
    h.cache.flush_namespace().await.unwrap();
    guard.check().await.unwrap();
    assert_eq!(busy(h.cache.begin("k").await.unwrap()), BusyReason::Guarded);
    assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
}

/// A writer that dies under its guard keeps fills out until the guard's time is over, and no longer.
pub async fn writer_killed_between_commit_and_release(h: &CacheHarness) {
    let before = lease(&h.cache, "k").await;
    let guard = h.cache.write_guard(["k"]).await.unwrap();
    // Nobody releases it, as after a kill.
    drop(guard);
    assert!(matches!(before.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    h.clock.advance(h.cache.options().guard_ttl - Duration::from_millis(1));
    assert_eq!(busy(h.cache.begin("k").await.unwrap()), BusyReason::Guarded);
    h.clock.advance(Duration::from_millis(1));
    fill(&h.cache, "k", 2).await;
}
