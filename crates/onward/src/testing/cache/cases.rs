//! Leases, fields, flushes, guards and bounds.

use std::time::Duration;

use bytes::Bytes;

use super::{CacheHarness, fill, lease, options};
use crate::cache::{
    BusyReason, CacheStats, Filled, GuardEnd, GuardOwner, Invalidation, Life, Lookup, Nonce, Now, Reserved, Slot, WireAct, WireHit,
    WireLookup, WireOp,
};
use crate::{Code, Kind};

pub(super) const ABSENT: Filled = Filled::Superseded { now: Now::Absent };
const REPLACED: Filled = Filled::Superseded { now: Now::Replaced };

pub(super) fn busy(lookup: Lookup<u64>) -> BusyReason {
    match lookup {
        Lookup::Busy(busy) => busy.reason,
        other => panic!("expected busy, got {other:?}"),
    }
}

async fn wire_lease(h: &CacheHarness, key: &[u8], field: Option<&[u8]>) -> String {
    match h.cache.begin_wire(key, field, Duration::ZERO).await.unwrap() {
        WireLookup::Lease { fill, .. } => fill,
        other => panic!("expected a lease, got {other:?}"),
    }
}

/// An invalidation between lease and commit refuses the fill (INV-2).
pub async fn a_fill_across_an_invalidation_is_superseded(h: &CacheHarness) {
    let lease = lease(&h.cache, "k").await;
    let _ = h.cache.invalidate("k").await.unwrap();
    assert_eq!(lease.commit(&1).await.unwrap(), ABSENT);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A lease taken after the invalidation fills.
pub async fn a_fill_begun_after_an_invalidation_is_stored(h: &CacheHarness) {
    let late = lease(&h.cache, "k").await;
    let _ = h.cache.invalidate("k").await.unwrap();
    fill(&h.cache, "k", 2).await;
    assert_eq!(late.commit(&1).await.unwrap(), REPLACED);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(2u64)));
}

/// A refused fill writes nothing and holds nothing.
pub async fn a_superseded_fill_leaves_nothing(h: &CacheHarness) {
    let lease = lease(&h.cache, "k").await;
    let _ = h.cache.invalidate("k").await.unwrap();
    assert_eq!(lease.commit(&1).await.unwrap(), ABSENT);
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
    fill(&h.cache, "k", 2).await;
}

/// An invalidation that finds nothing still kills the fill in flight.
pub async fn invalidating_an_empty_key_kills_its_fill(h: &CacheHarness) {
    let lease = lease(&h.cache, "k").await;
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Absent);
    assert_eq!(lease.commit(&1).await.unwrap(), ABSENT);
}

/// `Removed` is told for a live value or absence only, never for a bare reservation or an ended entry.
pub async fn removed_means_a_reader_could_see_it(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Absent);
    assert_eq!(lease(&h.cache, "k").await.commit_absent().await.unwrap(), Filled::Stored);
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    fill(&h.cache, "k", 1).await;
    h.clock.advance(h.cache.options().ttl);
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Absent);
    fill(&h.cache, "k", 1).await;
    h.cache.flush_namespace().await.unwrap();
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Absent);
}

/// A flush refuses fills in flight and says why.
pub async fn a_flush_supersedes_fills_in_flight(h: &CacheHarness) {
    let lease = lease(&h.cache, "k").await;
    h.cache.flush_namespace().await.unwrap();
    assert_eq!(lease.commit(&1).await.unwrap(), Filled::Superseded { now: Now::Flushed });
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// No number of flushes and invalidations makes an old lease good again (ABA).
pub async fn no_nonce_fits_again_after_a_flush(h: &CacheHarness) {
    let old = lease(&h.cache, "k").await;
    h.cache.flush_namespace().await.unwrap();
    for _ in 0..3 {
        fill(&h.cache, "k", 2).await;
        let _ = h.cache.invalidate("k").await.unwrap();
        h.cache.flush_namespace().await.unwrap();
    }
    assert!(matches!(old.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A reservation whose time is over is given to the next; its holder is refused.
pub async fn a_lost_reservation_only_wastes_a_fill(h: &CacheHarness) {
    let slow = lease(&h.cache, "k").await;
    assert_eq!(busy(h.cache.begin("k").await.unwrap()), BusyReason::Loading);
    h.clock.advance(h.cache.options().fill_ttl);
    let next = lease(&h.cache, "k").await;
    assert_eq!(slow.commit(&1).await.unwrap(), ABSENT);
    assert_eq!(next.commit(&2).await.unwrap(), Filled::Stored);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(2u64)));
}

/// A flush by one client is seen by the very next read of another.
pub async fn every_client_sees_a_flush_at_once(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    let other = h.other();
    assert_eq!(other.get("k").await.unwrap(), Some(Some(1u64)));
    h.cache.flush_namespace().await.unwrap();
    assert_eq!(other.get::<u64>("k").await.unwrap(), None);
}

/// A flush touches its own namespace only, values and leases.
pub async fn a_flush_leaves_other_namespaces(h: &CacheHarness) {
    let other = h.cache.in_namespace("other").unwrap();
    fill(&other, "k", 1).await;
    let in_flight = lease(&other, "l").await;
    h.cache.flush_namespace().await.unwrap();
    assert_eq!(other.get("k").await.unwrap(), Some(Some(1u64)));
    assert_eq!(in_flight.commit(&2).await.unwrap(), Filled::Stored);
}

/// A flush of all reaches every namespace.
pub async fn a_flush_of_all_leaves_nothing(h: &CacheHarness) {
    let other = h.cache.in_namespace("other").unwrap();
    fill(&other, "k", 1).await;
    let in_flight = lease(&h.cache, "l").await;
    h.other().flush_all().await.unwrap();
    assert_eq!(other.get::<u64>("k").await.unwrap(), None);
    assert_eq!(in_flight.commit(&2).await.unwrap(), Filled::Superseded { now: Now::Flushed });
}

/// An invalidation after flushes works on what was filled since.
pub async fn a_purge_under_an_old_epoch_still_lands(h: &CacheHarness) {
    let other = h.other();
    fill(&h.cache, "k", 1).await;
    other.flush_namespace().await.unwrap();
    fill(&other, "k", 2).await;
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(other.get::<u64>("k").await.unwrap(), None);
}

async fn fill_field(h: &CacheHarness, field: &[u8], value: u64) {
    let Lookup::Lease(lease) = h.cache.field("k", field).begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    assert_eq!(lease.commit(&value).await.unwrap(), Filled::Stored);
}

/// Invalidating a key takes the plain value, all fields and all their fills.
pub async fn invalidating_a_key_drops_all_fields(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    fill_field(h, b"a", 2).await;
    let Lookup::Lease(in_flight) = h.cache.field("k", "b").begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    assert_eq!(h.cache.field("k", "a").get::<u64>().await.unwrap(), None);
    assert_eq!(in_flight.commit(&3).await.unwrap(), ABSENT);
    assert!(h.cache.list("k").await.unwrap().is_empty());
}

/// Invalidating a field refuses the fills of its siblings too, and keeps their values.
pub async fn invalidating_a_field_kills_sibling_fills_not_values(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    fill_field(h, b"a", 2).await;
    fill_field(h, b"b", 3).await;
    let Lookup::Lease(sibling) = h.cache.field("k", "c").begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    assert_eq!(h.cache.field("k", "a").invalidate().await.unwrap(), Invalidation::Removed);
    assert_eq!(h.cache.field("k", "a").get::<u64>().await.unwrap(), None);
    assert_eq!(h.cache.field("k", "b").get().await.unwrap(), Some(Some(3u64)));
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    assert_eq!(sibling.commit(&4).await.unwrap(), ABSENT);
    assert_eq!(h.cache.field("k", "mistyped").invalidate().await.unwrap(), Invalidation::Absent);
}

/// A list names live fields, and nothing else.
pub async fn listing_shows_user_fields_only(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    fill_field(h, b"b", 2).await;
    fill_field(h, b"a", 2).await;
    let Lookup::Lease(_in_flight) = h.cache.field("k", "c").begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    let guard = h.cache.write_guard(["other"]).await.unwrap();
    assert_eq!(h.cache.list("k").await.unwrap(), [Bytes::from("a"), Bytes::from("b")]);
    let _ = h.cache.field("k", "a").invalidate().await.unwrap();
    assert_eq!(h.cache.list("k").await.unwrap(), [Bytes::from("b")]);
    assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
}

/// Names are bytes: none is reserved, folded or normalised.
pub async fn any_bytes_are_a_field_name(h: &CacheHarness) {
    let names: [&[u8]; 8] = [b"\0", b"\xff\xfe", b"a", b"A", b"{x} y:z", b"__gen__", "\u{e9}".as_bytes(), "e\u{301}".as_bytes()];
    for (value, name) in (0..).zip(names) {
        fill_field(h, name, value).await;
    }
    for (value, name) in (0u64..).zip(names) {
        assert_eq!(h.cache.field("k", name).get().await.unwrap(), Some(Some(value)));
    }
    assert_eq!(h.cache.list("k").await.unwrap().len(), names.len());
    // Key and field are not joined: these are two slots.
    fill(&h.cache, "ab", 1).await;
    assert_eq!(h.cache.field("a", "b").get::<u64>().await.unwrap(), None);
}

/// An entry is seen until its ttl is over, by the engine's clock (C5).
pub async fn an_entry_ends_with_its_ttl(h: &CacheHarness) {
    assert_eq!(lease(&h.cache, "k").await.commit_with(&1, Duration::from_secs(5)).await.unwrap(), Filled::Stored);
    h.clock.advance(Duration::from_millis(4_999));
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    h.clock.step_wall(-3_600_000_000);
    h.clock.advance(Duration::from_millis(1));
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A lease given back is at once free for the next.
pub async fn an_abandoned_lease_frees_the_key(h: &CacheHarness) {
    lease(&h.cache, "k").await.abandon().await.unwrap();
    fill(&h.cache, "k", 1).await;
}

/// So is one that was dropped.
pub async fn a_dropped_lease_frees_the_key(h: &CacheHarness) {
    drop(lease(&h.cache, "k").await);
    super::settle().await;
    fill(&h.cache, "k", 1).await;
}

/// `None` from the loader is remembered for its own time, and a create that invalidates ends it.
pub async fn absence_is_remembered_until_invalidated(h: &CacheHarness) {
    let mut loads = 0;
    for _ in 0..2 {
        let load = |_| {
            loads += 1;
            async { Ok::<_, crate::Error>(None::<u64>) }
        };
        assert_eq!(h.cache.get_or_load_opt("k", load).await.unwrap(), None);
    }
    assert_eq!(loads, 1);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), Some(None));
    let error = h.cache.get_or_load("k", |_| async { Ok::<_, crate::Error>(1u64) }).await.unwrap_err();
    assert_eq!(error.code(), Code::Absent);
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(h.cache.get_or_load("k", |_| async { Ok::<_, crate::Error>(1u64) }).await.unwrap(), 1);
    assert_eq!(lease(&h.cache, "l").await.commit_absent().await.unwrap(), Filled::Stored);
    h.clock.advance(h.cache.options().negative_ttl);
    assert_eq!(h.cache.get::<u64>("l").await.unwrap(), None);
}

/// The same commit again answers `Stored` and writes nothing; after an invalidation it is refused.
pub async fn a_commit_sent_twice_stores_once(h: &CacheHarness) {
    let fill = wire_lease(h, b"k", None).await;
    let commit = |bytes: &'static [u8]| h.cache.commit_wire(b"k", None, &fill, bytes, "application/json", None);
    assert_eq!(commit(b"1").await.unwrap(), Filled::Stored);
    assert_eq!(commit(b"2").await.unwrap(), Filled::Stored);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    let _ = h.cache.invalidate("k").await.unwrap();
    assert_eq!(commit(b"1").await.unwrap(), ABSENT);
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A lease is good for its namespace, key and field only, and a made-up one for nothing.
pub async fn a_lease_of_another_slot_is_superseded(h: &CacheHarness) {
    let fill = wire_lease(h, b"k", Some(b"f")).await;
    let made_up = hex::encode(Nonce::random().as_bytes());
    let other = h.cache.in_namespace("other").unwrap();
    for (cache, key, field, fill) in [
        (&h.cache, "k", None, &fill),
        (&h.cache, "l", Some(b"f".as_slice()), &fill),
        (&h.cache, "k", Some(b"g".as_slice()), &fill),
        (&other, "k", Some(b"f".as_slice()), &fill),
        (&h.cache, "k", Some(b"f".as_slice()), &made_up),
    ] {
        assert_eq!(cache.commit_wire(key.as_bytes(), field, fill, b"1", "application/json", None).await.unwrap(), ABSENT);
        cache.abandon_wire(key.as_bytes(), field, fill).await.ok();
    }
    assert_eq!(h.cache.commit_wire(b"k", Some(b"f"), &fill, b"1", "application/json", None).await.unwrap(), Filled::Stored);
}

/// Bytes that this type or this version can't read count as a miss, and are filled anew.
pub async fn an_unreadable_entry_is_a_miss(h: &CacheHarness) {
    let slot = Slot { namespace: "default", key: b"k", field: None };
    let life = Life { ttl: Duration::from_secs(60), grace: Duration::ZERO };
    for payload in [Bytes::new(), Bytes::from_static(b"\xf0future"), Bytes::from_static(b"\x02{"), Bytes::from_static(b"\x02\"text\"")] {
        let _ = h.cache.invalidate("k").await.unwrap();
        let Reserved::Lease(nonce) = h.engine.reserve(slot, Duration::from_secs(10), None).await.unwrap() else {
            panic!("expected a lease")
        };
        assert_eq!(h.engine.commit(slot, nonce, payload, life).await.unwrap(), Filled::Stored);
        assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
        assert_eq!(h.cache.get_or_load("k", |_| async { Ok::<_, crate::Error>(7u64) }).await.unwrap(), 7);
        assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(7u64)));
    }
}

/// A reservation takes the place of the very entry that its caller could not read, and of no newer one.
pub async fn a_reservation_replaces_only_the_entry_it_names(h: &CacheHarness) {
    let slot = Slot { namespace: "default", key: b"k", field: None };
    fill(&h.cache, "k", 1).await;
    let old = h.engine.lookup(slot).await.unwrap().unwrap().nonce;
    let _ = h.cache.invalidate("k").await.unwrap();
    fill(&h.cache, "k", 2).await;
    assert!(matches!(h.engine.reserve(slot, Duration::from_secs(10), Some(old)).await.unwrap(), Reserved::Hit(_)));
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(2u64)));
}

/// Purges leave no bytes behind once leases have ended.
pub async fn nothing_remains_after_the_fill_ttl(h: &CacheHarness) {
    let mut leases = Vec::new();
    for key in 0..200 {
        let key = format!("k{key}");
        fill(&h.cache, &key, 1).await;
        let _ = h.cache.invalidate(&key).await.unwrap();
        leases.push(wire_lease(h, key.as_bytes(), None).await);
    }
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats { reservations: 200, ..CacheStats::default() });
    h.clock.advance(h.cache.options().fill_ttl);
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
}

/// Bytes come back as they were sent, with their media type; JSON is what Rust callers see.
pub async fn bytes_keep_their_media_type(h: &CacheHarness) {
    let fill = wire_lease(h, b"k", None).await;
    let stored = h.cache.commit_wire(b"k", None, &fill, b"\0\xff", "image/png", Some(Duration::from_secs(5))).await.unwrap();
    assert_eq!(stored, Filled::Stored);
    let png = WireHit::Value { bytes: Bytes::from_static(b"\0\xff"), content_type: "image/png".into() };
    assert_eq!(h.cache.peek(b"k", None).await.unwrap(), Some(png));
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    super::fill(&h.cache, "json", 1).await;
    let json = WireHit::Value { bytes: Bytes::from_static(b"1"), content_type: "application/json".into() };
    assert_eq!(h.cache.peek(b"json", None).await.unwrap(), Some(json));
    let fill = wire_lease(h, b"none", None).await;
    assert_eq!(h.cache.commit_absent_wire(b"none", None, &fill, None).await.unwrap(), Filled::Stored);
    assert_eq!(h.cache.peek(b"none", None).await.unwrap(), Some(WireHit::Absent));
}

/// Every limit answers with a typed error and leaves nothing behind (C10).
pub async fn bad_input_is_refused_before_anything_is_sent(h: &CacheHarness) {
    let long = "k".repeat(513);
    for key in ["", long.as_str()] {
        assert_eq!(h.cache.get::<u64>(key).await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.begin::<u64>(key).await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.invalidate(key).await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.list(key).await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.field("k", key).get::<u64>().await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.field("k", key).invalidate().await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(h.cache.write_guard(["k", key]).await.unwrap_err().code(), Code::InvalidKey);
    }
    fill(&h.cache, &long[..512], 1).await;
    let _ = h.cache.invalidate(&long[..512]).await.unwrap();
    for namespace in ["", "Upper", "a/b", &"n".repeat(65)] {
        assert_eq!(h.cache.in_namespace(namespace).unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(h.cache.write_guard::<&str>([]).await.unwrap_err().kind(), Kind::Invalid);
    let month = Duration::from_secs(30 * 24 * 3_600 + 1);
    for bad in [
        options().with_ttl(Duration::ZERO),
        options().with_ttl(month),
        options().with_negative_ttl(Duration::ZERO),
        options().with_fill_ttl(Duration::from_millis(8_999)),
        options().with_jitter_percent(51),
        options().with_stale_while_revalidate(Duration::ZERO),
        options().with_stale_while_revalidate(month),
        options().with_fail_safe(Duration::ZERO),
        options().with_fail_safe(month),
        options().with_op_timeout(Duration::ZERO),
        options().with_op_timeout(Duration::from_secs(601)),
        options().with_hold_off(Duration::ZERO),
        options().with_hold_off(Duration::from_secs(601)),
        options().with_hard_timeout(Duration::ZERO),
        options().with_max_loads(0),
        options().with_value_limit(0),
        options().with_guard_ttl(Duration::from_secs(601)),
    ] {
        assert_eq!(h.cache.with(bad).unwrap_err().kind(), Kind::Invalid);
    }
    let small = h.cache.with(options().with_value_limit(3)).unwrap();
    assert_eq!(lease(&small, "k").await.commit(&1_000).await.unwrap_err().code(), Code::PayloadTooLarge);
    assert_eq!(lease(&h.cache, "k").await.commit_with(&1, month).await.unwrap_err().kind(), Kind::Invalid);
    let fill = wire_lease(h, b"k", None).await;
    for (fill, content_type, ttl) in [
        ("garbage", "text/plain", None),
        (&fill[..31], "text/plain", None),
        (fill.as_str(), "", None),
        (fill.as_str(), "text/\n", None),
        (fill.as_str(), "text/plain", Some(Duration::ZERO)),
    ] {
        assert_eq!(h.cache.commit_wire(b"k", None, fill, b"1", content_type, ttl).await.unwrap_err().kind(), Kind::Invalid);
    }
    h.cache.abandon_wire(b"k", None, &fill).await.unwrap();
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
}

/// Every way to remove something refuses the fills in flight of what it removes: there is no other path.
pub async fn every_removal_kills_the_fill_in_flight(h: &CacheHarness) {
    let act = |act| [WireOp { key: b"k".to_vec(), field: None, act }];
    for path in 0..12 {
        let in_flight = lease(&h.cache, "k").await;
        let guard = match path {
            0 => h.cache.invalidate("k").await.map(|_| None),
            1 => h.cache.field("k", "f").invalidate().await.map(|_| None),
            2 => h.cache.invalidate_many(&["k"]).await.map(|_| None),
            3 => h.cache.expire("k").await.map(|_| None),
            4 => h.cache.field("k", "f").expire().await.map(|_| None),
            5 => h.cache.write_guard(["k"]).await.map(Some),
            6 => h.cache.flush_namespace().await.map(|_| None),
            7 => h.cache.flush_all().await.map(|_| None),
            8 => h.cache.operate_wire(&act(WireAct::Invalidate)).await.map(|_| None),
            9 => h.cache.operate_wire(&act(WireAct::Expire)).await.map(|_| None),
            10 => h.cache.with(options().with_hold_off(Duration::from_secs(1))).unwrap().invalidate("k").await.map(|_| None),
            _ => {
                let engine = &h.engine;
                engine.release("default", b"k", GuardOwner::random(), Duration::ZERO).await.map(|_| None)
            }
        };
        assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }), "path {path}");
        if let Some(guard) = guard.unwrap() {
            assert_eq!(guard.release().await.unwrap(), GuardEnd::Released);
        }
        h.clock.advance(Duration::from_secs(1));
        assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None, "path {path}");
    }
}

/// Keys are bytes, never folded or normalised: what looks alike to people is apart.
pub async fn keys_are_bytes_and_never_folded(h: &CacheHarness) {
    let keys: [&[u8]; 10] =
        [b"k", b"K", b"k ", b"k\0", b"{k}", "\u{e9}".as_bytes(), "e\u{301}".as_bytes(), b"\xff\xfe", b"k/../k", b"onward.k"];
    for (value, key) in keys.iter().enumerate() {
        let Lookup::Lease(lease) = h.cache.begin::<usize>(key).await.unwrap() else { panic!("{key:?} is another key") };
        assert_eq!(lease.commit(&value).await.unwrap(), Filled::Stored);
    }
    for (value, key) in keys.iter().enumerate() {
        assert_eq!(h.cache.get(key).await.unwrap(), Some(Some(value)), "{key:?}");
    }
}

/// One more field than a key may have is refused and stored nowhere; the value that was loaded for it is still returned.
pub async fn a_key_has_4096_fields_at_most(h: &CacheHarness) {
    let load = |value: u64| move |_| async move { Ok::<_, crate::Error>(value) };
    for field in 0..4_096u64 {
        assert_eq!(h.cache.field("k", field.to_le_bytes()).get_or_load(load(field)).await.unwrap(), field);
    }
    let over = h.cache.field("k", "over");
    let Lookup::Lease(lease) = over.begin::<u64>().await.unwrap() else { panic!("expected a lease") };
    assert_eq!(lease.commit(&1).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(over.get_or_load(load(7)).await.unwrap(), 7);
    assert_eq!(over.get::<u64>().await.unwrap(), None);
    assert_eq!(h.cache.list("k").await.unwrap().len(), 4_096);
    // Another key has room of its own, and one that is invalidated has it again.
    fill(&h.cache, "other", 1).await;
    let _ = h.cache.invalidate("k").await.unwrap();
    assert_eq!(over.get_or_load(load(8)).await.unwrap(), 8);
    assert_eq!(over.get().await.unwrap(), Some(Some(8u64)));
}
