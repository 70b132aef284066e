//! Calls on many keys, hold-off, and what an engine promises.

use std::time::Duration;

use super::{CacheHarness, fill, lease, options};
use crate::cache::{
    BusyReason, CacheStats, Expiry, Filled, GuardEnd, Invalidation, Lease, Lookup, Scope, WireAct, WireDone, WireLookup, WireOp,
};
use crate::{Code, Kind};

const KEYS: [&str; 4] = ["a", "b", "a", "c"];
const HOLD_OFF: Duration = Duration::from_secs(5);

async fn get_many(h: &CacheHarness) -> Vec<Option<Option<u64>>> {
    h.cache.get_many(&KEYS).await.unwrap().into_iter().map(Result::unwrap).collect()
}

/// Answers stand in the order of the keys, a key named twice is answered twice, and an empty batch is empty.
pub async fn a_batch_answers_each_key_for_itself(h: &CacheHarness) {
    fill(&h.cache, "a", 1).await;
    assert_eq!(lease(&h.cache, "c").await.commit_absent().await.unwrap(), Filled::Stored);
    assert_eq!(get_many(h).await, [Some(Some(1)), None, Some(Some(1)), Some(None)]);
    let purged: Vec<_> = h.cache.invalidate_many(&KEYS).await.unwrap().into_iter().map(Result::unwrap).collect();
    let (removed, absent) = (Invalidation::Removed, Invalidation::Absent);
    assert_eq!((purged[1], purged[2], purged[3]), (absent, absent, removed));
    assert_eq!(purged[0], removed);
    assert_eq!(get_many(h).await, [None; 4]);
    assert!(h.cache.get_many::<u64, &str>(&[]).await.unwrap().is_empty());
    assert!(h.cache.begin_many::<u64, &str>(&[]).await.unwrap().is_empty());
    assert!(h.cache.commit_many::<u64>(Vec::new()).await.unwrap().is_empty());
    assert!(h.cache.invalidate_many::<&str>(&[]).await.unwrap().is_empty());
}

fn leases(lookups: Vec<Lookup<u64>>) -> Vec<Option<Lease<u64>>> {
    let lease = |lookup| match lookup {
        Lookup::Lease(lease) => Some(lease),
        _ => None,
    };
    lookups.into_iter().map(lease).collect()
}

/// Of a batch each missing key gets one lease, however often it is named; the others have their values.
pub async fn a_batch_of_leases_gives_one_a_key(h: &CacheHarness) {
    fill(&h.cache, "b", 1).await;
    let found = h.cache.begin_many::<u64, _>(&KEYS).await.unwrap();
    assert!(matches!(found[1], Lookup::Hit(Some(1))));
    assert!(matches!(&found[2], Lookup::Busy(busy) if busy.reason == BusyReason::Loading));
    let leases = leases(found);
    assert!(leases[0].is_some() && leases[3].is_some());
}

/// A batch of fills is judged lease by lease, and an invalidation in between kills its own key's only (INV-2).
pub async fn a_batch_of_fills_refuses_only_what_is_dead(h: &CacheHarness) {
    let [a, b, _, c] = leases(h.cache.begin_many(&KEYS).await.unwrap()).try_into().unwrap();
    let strange = super::lease(&h.other(), "d").await;
    assert_eq!(h.cache.invalidate("b").await.unwrap(), Invalidation::Absent);
    let fills = vec![(a.unwrap(), &1), (b.unwrap(), &2), (strange, &3), (c.unwrap(), &4)];
    let filled = h.cache.commit_many(fills).await.unwrap();
    assert_eq!(*filled[0].as_ref().unwrap(), Filled::Stored);
    assert!(matches!(filled[1].as_ref().unwrap(), Filled::Superseded { .. }));
    assert_eq!(filled[2].as_ref().unwrap_err().kind(), Kind::Invalid);
    assert_eq!(*filled[3].as_ref().unwrap(), Filled::Stored);
    assert_eq!(get_many(h).await, [Some(Some(1)), None, Some(Some(1)), Some(Some(4))]);
    let small = h.cache.with(options().with_value_limit(3)).unwrap();
    let fills = vec![(lease(&small, "x").await, &1_000), (lease(&small, "y").await, &1)];
    let filled = small.commit_many(fills).await.unwrap();
    assert_eq!(filled[0].as_ref().unwrap_err().code(), Code::PayloadTooLarge);
    assert_eq!(*filled[1].as_ref().unwrap(), Filled::Stored);
}

/// A batch above 1,024 keys, or with a key that is none, is refused as a whole before anything is sent (C10).
pub async fn a_batch_over_its_limit_is_refused(h: &CacheHarness) {
    let most: Vec<String> = (0..1_024).map(|key| key.to_string()).collect();
    let more: Vec<String> = (0..1_025).map(|key| key.to_string()).collect();
    assert_eq!(h.cache.get_many::<u64, _>(&most).await.unwrap().len(), 1_024);
    for bad in [more, vec!["k".to_owned(), String::new()], vec!["k".repeat(513)]] {
        assert_eq!(h.cache.get_many::<u64, _>(&bad).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(h.cache.begin_many::<u64, _>(&bad).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(h.cache.invalidate_many(&bad).await.unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
}

async fn is_held_off(h: &CacheHarness, key: &str) -> bool {
    match h.cache.begin::<u64>(key).await.unwrap() {
        Lookup::Busy(busy) => busy.reason == BusyReason::Guarded,
        Lookup::Lease(lease) => {
            lease.abandon().await.unwrap();
            false
        }
        Lookup::Hit(_) => panic!("a value that lags was kept"),
    }
}

/// After an invalidation with a hold-off no client fills for its time, however it is set up; loads still answer.
pub async fn a_hold_off_keeps_fills_out_for_its_time(h: &CacheHarness) {
    let lagging = h.other().with(options().with_hold_off(HOLD_OFF)).unwrap();
    fill(&h.cache, "k", 1).await;
    assert_eq!(lagging.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(lagging.invalidate("k").await.unwrap(), Invalidation::Absent);
    assert!(is_held_off(h, "k").await);
    assert_eq!(h.cache.get_or_load("k", |_| async { Ok::<_, crate::Error>(1u64) }).await.unwrap(), 1);
    h.clock.advance(HOLD_OFF - Duration::from_millis(1));
    assert!(is_held_off(h, "k").await);
    h.clock.advance(Duration::from_millis(1));
    fill(&h.cache, "k", 2).await;
    assert_eq!(lagging.invalidate_many(&["k"]).await.unwrap().remove(0).unwrap(), Invalidation::Removed);
    assert!(is_held_off(h, "k").await);
}

/// A client with a shorter window does not defeat the longer one of another, and any number of invalidations share one place.
pub async fn of_two_hold_offs_the_longer_counts(h: &CacheHarness) {
    let long = h.cache.with(options().with_hold_off(HOLD_OFF)).unwrap();
    let short = h.other().with(options().with_hold_off(HOLD_OFF / 5)).unwrap();
    assert_eq!(long.invalidate("k").await.unwrap(), Invalidation::Absent);
    for _ in 0..100 {
        assert_eq!(short.invalidate("k").await.unwrap(), Invalidation::Absent);
    }
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Absent);
    h.clock.advance(HOLD_OFF - Duration::from_millis(1));
    assert!(is_held_off(h, "k").await);
    h.clock.advance(Duration::from_millis(1));
    assert!(!is_held_off(h, "k").await);
}

/// The release of a write guard is an invalidation as well.
pub async fn a_released_guard_holds_off_too(h: &CacheHarness) {
    let lagging = h.cache.with(options().with_hold_off(HOLD_OFF)).unwrap();
    let guard = lagging.write_guard(["k"]).await.unwrap();
    assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
    assert!(is_held_off(h, "k").await);
    h.clock.advance(HOLD_OFF);
    fill(&h.cache, "k", 1).await;
}

/// A program that needs a shared cache hears at once that it has none.
pub async fn a_promise_can_be_insisted_on(h: &CacheHarness) {
    let promise = h.cache.promise();
    assert_eq!(promise, h.engine.promise());
    promise.require(Scope::Process).unwrap();
    let shared = promise.require(Scope::Shared);
    match promise.scope {
        Scope::Process => assert_eq!(shared.unwrap_err().kind(), Kind::Unsupported),
        Scope::Shared => shared.unwrap(),
    }
}

/// Of many acts in one request each is answered for itself and in its place; one with a bad name stops them all before anything is done.
pub async fn acts_of_one_request_are_answered_each_for_itself(h: &CacheHarness) {
    let op = |act, key: &str| WireOp { key: key.into(), field: None, act };
    fill(&h.cache, "a", 1).await;
    fill(&h.cache, "b", 2).await;
    let late = lease(&h.cache, "c").await;
    let WireLookup::Lease { fill: given, .. } = h.cache.begin_wire(b"d", Some(b"f"), Duration::ZERO).await.unwrap() else {
        panic!("expected a lease")
    };
    let back = WireOp { field: Some(b"f".to_vec()), ..op(WireAct::Abandon(given), "d") };
    let ops = [
        op(WireAct::Expire, "a"),
        op(WireAct::Invalidate, "b"),
        back,
        op(WireAct::Invalidate, "b"),
        op(WireAct::Invalidate, "c"),
        op(WireAct::Expire, "x"),
    ];
    for bad in [op(WireAct::Invalidate, ""), op(WireAct::Expire, &"x".repeat(513)), op(WireAct::Abandon("none".into()), "k")] {
        let refused = h.cache.operate_wire(&[&ops[..], &[bad]].concat()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.pointer()), (Kind::Invalid, Some("/ops/6")));
    }
    assert_eq!(h.cache.operate_wire(&vec![ops[0].clone(); 1_025]).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(h.cache.get("b").await.unwrap(), Some(Some(2u64)), "a refused request did nothing");

    let (removed, absent) = (WireDone::Invalidated(Invalidation::Removed), WireDone::Invalidated(Invalidation::Absent));
    let answers: Vec<_> = h.cache.operate_wire(&ops).await.unwrap().into_iter().map(Result::unwrap).collect();
    let expired = [WireDone::Expired(Expiry::Expired), WireDone::Expired(Expiry::Absent)];
    assert_eq!(answers, [expired[0], removed, WireDone::Abandoned, absent, absent, expired[1]]);
    assert!(matches!(late.commit(&3).await.unwrap(), Filled::Superseded { .. }));
    assert!(matches!(h.cache.begin_wire(b"d", Some(b"f"), Duration::ZERO).await.unwrap(), WireLookup::Lease { .. }));
    assert!(h.cache.operate_wire(&[]).await.unwrap().is_empty());
}
