//! Giving a lock back.

use std::time::Duration;

use super::{Harness, TTL, key, named, once};
use crate::Kind;
use crate::lock::{LockOptions, LossReason, Owner, Release};
use crate::testing::lock_faults::{Call, Fault};

/// A released key is free at once, for everybody.
pub async fn release_frees_at_once(h: &Harness) {
    for _ in 0..3 {
        let grant = h.a.take(&key()).await;
        let view = grant.view();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
        assert_eq!(view.remaining(), Duration::ZERO);
        assert!(view.check().is_err(), "a body that runs on after the release holds nothing");
        let grant = h.b.take(&key()).await;
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

/// Only the acquisition that took a key can give it back.
pub async fn release_by_another_owner_changes_nothing(h: &Harness) {
    let grant = h.a.take(&key()).await;
    assert_eq!(h.b.locks.release_as(&key(), &Owner::draw()).await.unwrap(), Release::AlreadyLost);
    assert_eq!(h.b.finds_busy(&key()).await, TTL);
    grant.check().unwrap();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

/// A release that is repeated says that there was nothing left to release.
pub async fn second_release_says_already_lost(h: &Harness) {
    let owner = Owner::draw();
    h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    assert_eq!(h.b.locks.release_as(&key(), &owner).await.unwrap(), Release::Released);
    assert_eq!(h.a.locks.release_as(&key(), &owner).await.unwrap(), Release::AlreadyLost);
}

/// A release after the end is no success, and leaves the next holder alone.
///
/// Must not come back: a release after expiry that was reported as success.
pub async fn release_after_expiry_spares_the_next_holder(h: &Harness) {
    let late = h.a.take(&key()).await;
    let owner = Owner::draw();
    h.a.locks.acquire_as(&named("43"), owner, once()).await.unwrap();
    h.clock.advance(TTL);
    let next = h.b.take(&key()).await;
    assert_eq!(late.release().await.unwrap(), Release::AlreadyLost);
    assert_eq!(h.a.engine.calls(Call::Release), 1, "one round trip");
    next.check().unwrap();
    assert_eq!(h.a.finds_busy(&key()).await, TTL);
    // Nobody took this one over: it had ended all the same.
    assert_eq!(h.a.locks.release_as(&named("43"), &owner).await.unwrap(), Release::AlreadyLost);
    assert!(h.a.seen.outcomes().contains(&"lost"));
}

/// A grant that is dropped is given back without anybody waiting for it.
///
/// Must not come back: a drop that did nothing under an async runtime.
pub async fn dropped_grant_is_released_by_the_worker(h: &Harness) {
    drop(h.a.take(&key()).await);
    h.free(&key()).await;
    let grant = h.b.take(&key()).await;
    h.quiet().await;
    grant.check().unwrap();
    assert_eq!(h.a.engine.calls(Call::Release), 1);
}

/// A panic in the body unwinds to the caller and leaves no lock behind.
pub async fn a_panic_in_the_body_releases(h: &Harness) {
    let eu = h.a.eu();
    let body = |_| async {
        if true {
            panic!("the body's own")
        }
    };
    let panicked = tokio::spawn(async move { eu.run_or_fail("projects", "42", body).await.map(drop) }).await;
    assert!(panicked.unwrap_err().is_panic());
    h.free(&key()).await;
    let _next = h.b.take(&key()).await;
}

/// A grant that was given back is renewed no more, and an idle schedule asks nothing.
///
/// Must not come back: a watchdog that outlived the unlock (redisson/redisson#7272).
pub async fn released_grant_is_not_renewed(h: &Harness) {
    let options = LockOptions::fail().with_ttl(TTL);
    let released = h.a.locks.acquire(&key(), options.clone()).await.unwrap();
    assert_eq!(released.release().await.unwrap(), Release::Released);
    drop(h.a.locks.acquire(&named("43"), options).await.unwrap());
    for _ in 0..8 {
        h.advance(TTL / 4).await;
    }
    assert_eq!(h.a.engine.calls(Call::Renew), 0);
}

/// A release that finds no room is told, never waits, and its lease ends by itself (C7).
pub async fn a_full_drop_queue_is_told_and_its_lease_ends(h: &Harness) {
    let small = h.a.again(&h.clock, |config| config.drop_queue = 1);
    let grants = [small.take(&named("1")).await, small.take(&named("2")).await, small.take(&named("3")).await];
    h.quiet().await;
    small.engine.fail(Call::Release, Fault::Refused);
    // Nothing else runs in between: one finds room.
    drop(grants);
    assert_eq!(small.seen.reports(), ["release_error"]);
    small.engine.heal();
    h.free(&named("1")).await;
    h.b.finds_busy(&named("2")).await;
    h.clock.advance(TTL);
    for id in ["1", "2", "3"] {
        let _free = h.b.take(&named(id)).await;
    }
}

/// Whoever knows the owner can go on with a held lock: the token stays, the lease is renewed and released as any other.
pub async fn live_grant_can_be_adopted(h: &Harness) {
    let owner = Owner::draw();
    let leased = h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    h.clock.advance(TTL / 2);
    let adopted = h.b.locks.adopt(&key(), owner, TTL).await.unwrap();
    assert_eq!((adopted.token(), adopted.owner()), (leased.token, &owner));
    assert_eq!(h.a.finds_busy(&key()).await, TTL);
    for _ in 0..8 {
        h.advance(TTL / 3).await;
    }
    adopted.check().unwrap();
    let lost = adopted.view();
    assert_eq!(h.a.locks.release_as(&key(), &owner).await.unwrap(), Release::Released);
    h.advance(TTL / 3).await;
    assert_eq!(lost.lost().await, LossReason::Taken, "whoever hands over must not release");
    drop(adopted);
    // A drop gives an adopted lock back. The drop above may still be at it, for the owner of then.
    let owner = Owner::draw();
    h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    drop(h.b.locks.adopt(&key(), owner, TTL).await.unwrap());
    h.free(&key()).await;
}

/// What has ended, is free or another's cannot be adopted, and nothing changes.
pub async fn an_ended_lease_cannot_be_adopted(h: &Harness) {
    let owner = Owner::draw();
    assert_eq!(h.a.locks.adopt(&key(), owner, TTL).await.unwrap_err().kind(), Kind::Lost);
    h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    h.clock.advance(TTL / 2);
    assert_eq!(h.b.locks.adopt(&key(), Owner::draw(), TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(h.b.finds_busy(&key()).await, TTL / 2);
    h.clock.advance(TTL / 2);
    assert_eq!(h.b.locks.adopt(&key(), owner, TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(h.b.locks.adopt(&key(), owner, Duration::ZERO).await.unwrap_err().kind(), Kind::Invalid);
    let _free = h.a.take(&key()).await;
}
