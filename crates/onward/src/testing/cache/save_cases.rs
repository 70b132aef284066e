//! Saving without a lease: what it does to others, and what stops it.

use std::time::Duration;

use super::{CacheHarness, fill, lease, options};
use crate::Kind;
use crate::cache::{Filled, GuardEnd, Saved, WireHit};

/// A save replaces what was there and kills the fills in flight: an older value never lands after it.
pub async fn a_save_kills_the_fills_in_flight(h: &CacheHarness) {
    let in_flight = lease(&h.cache, "k").await;
    assert_eq!(h.cache.best_effort().save("k", &2u64).await.unwrap(), Saved::Stored);
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    assert_eq!(h.other().get("k").await.unwrap(), Some(Some(2u64)));
    assert_eq!(h.cache.best_effort().save("k", &3u64).await.unwrap(), Saved::Stored);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(3u64)));
    h.clock.advance(h.cache.options().ttl);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A write guard refuses saves as it refuses fills; a hold-off does too.
pub async fn no_save_lands_under_a_guard(h: &CacheHarness) {
    let guard = h.cache.write_guard(["k"]).await.unwrap();
    assert_eq!(h.cache.best_effort().save("k", &1u64).await.unwrap(), Saved::Guarded);
    assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    let second = Duration::from_secs(1);
    let holding = h.cache.with(options().with_hold_off(second)).unwrap();
    let _ = holding.invalidate("k").await.unwrap();
    assert_eq!(holding.best_effort().save("k", &1u64).await.unwrap(), Saved::Guarded);
    h.clock.advance(second);
    for value in 1..=2u64 {
        assert_eq!(holding.best_effort().save("k", &value).await.unwrap(), Saved::Stored);
    }
}

/// Bytes are saved with their type, a field by itself; bad input is refused before anything is dropped.
pub async fn a_save_of_bytes_keeps_their_type_and_the_siblings(h: &CacheHarness) {
    let save = h.cache.best_effort();
    fill(&h.cache, "k", 1).await;
    assert_eq!(save.save_wire(b"k", Some(b"f"), b"<p>", "text/html", None).await.unwrap(), Saved::Stored);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    let html = WireHit::Value { bytes: "<p>".into(), content_type: "text/html".to_owned() };
    assert_eq!(h.cache.peek(b"k", Some(b"f")).await.unwrap(), Some(html));
    for (content_type, ttl) in [("", None), ("text/\n", None), ("text/html", Some(Duration::ZERO))] {
        assert_eq!(save.save_wire(b"k", None, b"1", content_type, ttl).await.unwrap_err().kind(), Kind::Invalid);
    }
    let small = h.cache.with(options().with_value_limit(3)).unwrap().best_effort();
    assert_eq!(small.save("k", &1_000u64).await.unwrap_err().code(), crate::Code::PayloadTooLarge);
    assert_eq!(save.save("", &1u64).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
}
