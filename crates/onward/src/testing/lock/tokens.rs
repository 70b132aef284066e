//! Exclusion and tokens (INV-1, C4).

use std::collections::HashSet;
use std::time::Duration;

use super::{Harness, TTL, key, margin, named, once};
use crate::lock::{Ask, Broken, Owner, Place, Reason, Record, Release, Tried};
use crate::model::{FencingToken, LockKey};
use crate::testing::lock_faults::Call;

/// A held key is busy for everybody else, who hears for how long.
pub async fn held_key_is_busy_and_tells_the_remaining_time(h: &Harness) {
    let grant = h.a.take(&key()).await;
    assert_eq!(h.b.finds_busy(&key()).await, TTL);
    assert_eq!(h.a.finds_busy(&key()).await, TTL);
    h.clock.advance(Duration::from_secs(3));
    assert_eq!(h.b.finds_busy(&key()).await, TTL - Duration::from_secs(3));
    grant.check().unwrap();
}

/// A free key costs one call to take and one to give back.
pub async fn free_key_is_granted_in_one_engine_call(h: &Harness) {
    let grant = h.a.take(&key()).await;
    assert_eq!(h.a.engine.all_calls(), h.calls_a_try);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!(h.a.engine.calls(Call::Release), 1);
    assert_eq!(h.a.engine.all_calls(), h.calls_a_try + 1);
}

/// Each grant of a key has a greater token than the one before, also with the clock stood still, on any handle.
pub async fn tokens_of_one_key_strictly_grow(h: &Harness) {
    let mut last = 0;
    for round in 0..20 {
        let handle = if round % 2 == 0 { &h.a } else { &h.b };
        let grant = handle.take(&key()).await;
        assert!(grant.token().get() > last, "{} after {last}", grant.token());
        last = grant.token().get();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

/// Neither the end of a lease, nor a break, nor opening anew lets a token come back.
pub async fn tokens_grow_over_expiry_break_and_reopen(h: &Harness) {
    let first = h.a.take(&key()).await.token();
    h.clock.advance(TTL);
    let held = h.b.take(&key()).await;
    let second = held.token();
    assert!(second > first);
    let why = Reason::new("a test").unwrap();
    let broken = h.a.locks.break_lock(&key(), &why, Record::Unaudited).await.unwrap();
    let Broken::Broken { token: third, .. } = broken else { panic!("{broken:?}") };
    assert!(third > second);
    drop(held);
    let fourth = h.reopen().await.take(&key()).await.token();
    assert!(fourth > third);
}

/// The counter is the guarantee, the wall clock only a floor.
pub async fn tokens_grow_when_wall_time_steps_back(h: &Harness) {
    let first = h.a.take(&key()).await;
    let before = first.token();
    assert_eq!(first.release().await.unwrap(), Release::Released);
    h.clock.step_wall(-3_600_000_000);
    let second = h.b.take(&key()).await;
    assert!(second.token() > before);
    let before = second.token();
    assert_eq!(second.release().await.unwrap(), Release::Released);
    h.clock.step_wall(-3_600_000_000 * 24 * 365 * 60);
    assert!(h.reopen().await.take(&key()).await.token() > before, "wall time before 1970");
}

/// A store that saw newer tokens heals the counter of every handle.
pub async fn later_tokens_are_above_a_raised_counter(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let far = FencingToken::new(grant.token().get() + 1_000_000_000_000).unwrap();
    h.a.locks.raise_tokens(far).await.unwrap();
    assert!(h.b.take(&named("43")).await.token() > far);
    // A running grant keeps its token.
    assert!(grant.token() < far);
    grant.check().unwrap();
}

/// Raising to what is below changes nothing.
pub async fn a_counter_is_never_lowered(h: &Harness) {
    let first = h.a.take(&key()).await;
    let before = first.token();
    let end = FencingToken::new(crate::model::limits::NUMBER_MAX).unwrap();
    assert_eq!(h.a.locks.raise_tokens(end).await.unwrap_err().kind(), crate::Kind::Invalid);
    h.b.locks.raise_tokens(FencingToken::new(1).unwrap()).await.unwrap();
    h.clock.step_wall(-3_600_000_000);
    assert_eq!(first.release().await.unwrap(), Release::Released);
    assert!(h.b.take(&key()).await.token() > before);
}

/// No two acquisitions share an owner, not even those of one process.
pub async fn each_acquisition_has_its_own_owner(h: &Harness) {
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let grant = h.a.take(&key()).await;
        assert!(seen.insert(*grant.owner()), "an owner came back");
        assert!(!format!("{grant:?}").contains(&grant.owner().to_string()), "the owner is a secret");
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

/// A repeated request finds its own lease as it stands; another owner's does not.
pub async fn asking_again_finds_ones_own_lease_unextended(h: &Harness) {
    let owner = Owner::draw();
    let first = h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    assert_eq!(first.already_ours, h.calls_a_try > 1);
    h.clock.advance(Duration::from_secs(4));
    let again = h.b.locks.acquire_as(&key(), owner, once().with_ttl(TTL * 6)).await.unwrap();
    assert!(again.already_ours);
    assert_eq!((again.token, again.remaining), (first.token, TTL - Duration::from_secs(4)));
    let ask = Ask { key: key(), owner: Owner::draw(), holder: "other".into(), ttl: TTL, place: Place::None };
    let other = h.b.engine.inner().try_acquire(ask).await.unwrap();
    assert_eq!(other, Tried::Busy { remaining: Some(TTL - Duration::from_secs(4)) });
}

/// Keys are compared byte for byte: no folding, no trimming, no normalization, no prefix.
///
/// Must not come back: keys joined by hand, where a `:` in an id made two keys one.
pub async fn keys_differ_in_every_byte(h: &Harness) {
    let raw = ["a", "A", "a ", " a", "aa", "a:", "é", "e\u{301}", "a%", "a%25", "*", "?", "lock:main:eu:projects:4", "{a}", "ａ"];
    let mut keys: Vec<LockKey> = raw.iter().map(|text| LockKey::raw(text).unwrap()).collect();
    let parts = [("p", "x:y"), ("p:x", "y"), ("p", "x%3Ay"), ("p", "x"), ("P", "x"), ("p", "x*"), ("p", "x "), ("p", "x\0")];
    keys.extend(parts.iter().map(|(collection, id)| LockKey::typed("main", "eu", collection, id).unwrap()));
    keys.push(LockKey::typed("main", "", "p", "x").unwrap());
    keys.push(LockKey::typed("other", "eu", "p", "x").unwrap());
    keys.push(LockKey::typed("main", "eu", "p", "x").unwrap().attribute("y").unwrap());
    let mut grants = Vec::new();
    for key in &keys {
        grants.push(h.a.take(key).await);
    }
    for (key, grant) in keys.iter().zip(&grants) {
        h.b.finds_busy(key).await;
        assert_eq!(h.b.locks.status(key).await.unwrap().unwrap().token, Some(grant.token()));
    }
    for grant in grants {
        assert_eq!(grant.release().await.unwrap(), Release::Released, "no key is another's");
    }
}

/// Foreign programs meet us at the text of a key.
pub async fn a_raw_key_meets_the_typed_key_of_the_same_text(h: &Harness) {
    let typed = LockKey::typed("main", "", "projects", "a:b").unwrap();
    let raw = LockKey::raw("lock:main:unknown:projects:a%3Ab").unwrap();
    let _grant = h.a.take(&typed).await;
    h.b.finds_busy(&raw).await;
}

/// A document's lock leaves its attributes' locks free, and the other way round.
pub async fn attribute_and_document_keys_do_not_exclude_each_other(h: &Harness) {
    let (document, attribute) = (key(), key().attribute("accessedAt").unwrap());
    let _document = h.a.take(&document).await;
    let attribute = h.b.take(&attribute).await;
    assert_eq!(attribute.remaining(), TTL - margin(TTL));
    let _other = h.b.take(&key().attribute("name").unwrap()).await;
}
