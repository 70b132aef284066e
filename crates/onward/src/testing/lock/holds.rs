//! The least and the longest hold, and what is remembered of keys that were found taken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Harness, TTL, key, margin, named, once};
use crate::lock::{HeldMemory, LockOptions, LossReason, OnContention, OnError, OnLoss, Outcome, Owner, Release, Renew, Why};
use crate::testing::lock_faults::{Call, Fault, Gate};
use crate::{Code, Kind};

const MS: Duration = Duration::from_millis(1);
/// The oldest that a remembered answer may be.
const OLDEST: Duration = Duration::from_millis(50);

/// An early release keeps the key taken for the rest of the least hold, for everybody.
pub async fn min_hold_keeps_the_key_taken_for_the_rest(h: &Harness) {
    let grant = h.a.locks.acquire(&key(), once().with_min_hold(TTL / 2)).await.unwrap();
    h.clock.advance(TTL / 10);
    let token = grant.token();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!(h.b.finds_busy(&key()).await, TTL * 4 / 10, "the rest, not the ttl");
    h.clock.advance(TTL * 4 / 10 - MS);
    h.a.finds_busy(&key()).await;
    h.clock.advance(MS);
    let next = h.b.take(&key()).await;
    assert!(next.token() > token);
    assert_eq!(next.release().await.unwrap(), Release::Released);
    // Held for longer than that anyway: nothing is kept.
    let grant = h.a.locks.acquire(&key(), once().with_min_hold(TTL / 2)).await.unwrap();
    h.clock.advance(TTL / 2);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    let _next = h.b.take(&key()).await;
}

/// The time counts from when the holder heard that he holds it, never short, and may be longer than a lease.
pub async fn min_hold_counts_from_the_answer_and_may_exceed_the_ttl(h: &Harness) {
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Acquire, Fault::SlowReply(gate.clone()));
    let locks = h.a.locks.clone();
    let body = async move { locks.with_key(&key(), once().with_min_hold(TTL * 3), |_| async { 7 }).await };
    let asked = tokio::spawn(body);
    gate.reached().await;
    h.advance(MS * 300).await;
    gate.open();
    assert!(matches!(h.until_done_by(Duration::ZERO, asked).await.unwrap(), Outcome::Ran(7)));
    assert_eq!(h.b.finds_busy(&key()).await, TTL * 3);
    h.clock.advance(TTL * 3 - MS);
    h.b.finds_busy(&key()).await;
    h.clock.advance(MS);
    let _next = h.b.take(&key()).await;
}

/// Who lost the lock keeps nobody out, and who died neither.
pub async fn min_hold_is_void_after_a_loss(h: &Harness) {
    let options = once().with_min_hold(TTL * 5);
    let late = h.a.locks.acquire(&key(), options.clone()).await.unwrap();
    // Lost here, alive in the engine.
    h.clock.advance(TTL - margin(TTL));
    assert_eq!(late.release().await.unwrap(), Release::AlreadyLost);
    let later = h.b.locks.acquire(&key(), options.clone()).await.unwrap();
    h.clock.advance(TTL);
    let next = h.a.take(&key()).await;
    assert_eq!(later.release().await.unwrap(), Release::AlreadyLost);
    assert_eq!(h.b.finds_busy(&key()).await, TTL, "the next holder's own lease");
    assert_eq!(next.release().await.unwrap(), Release::Released);
    // A crash: nothing is sent any more.
    let dead = h.a.locks.acquire(&key(), options).await.unwrap();
    h.a.engine.fail(Call::Release, Fault::RequestLost);
    drop(dead);
    h.clock.advance(TTL);
    let _next = h.b.take(&key()).await;
}

/// A grant that is dropped keeps its least hold too: the worker releases as the holder would have.
pub async fn a_dropped_grant_keeps_its_min_hold(h: &Harness) {
    drop(h.a.locks.acquire(&key(), once().with_min_hold(TTL / 2)).await.unwrap());
    h.a.called(Call::Release, 1).await;
    h.quiet().await;
    assert_eq!(h.b.finds_busy(&key()).await, TTL / 2);
    h.clock.advance(TTL / 2);
    let _next = h.b.take(&key()).await;
}

/// A key that is only kept belongs to nobody: its old owner can neither renew nor release nor find it.
pub async fn a_kept_key_has_no_owner(h: &Harness) {
    let owner = Owner::draw();
    h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    assert_eq!(h.a.locks.release_keeping(&key(), &owner, TTL * 2).await.unwrap(), Release::Released);
    assert_eq!(h.a.locks.renew_as(&key(), owner, TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(h.b.locks.release_as(&key(), &owner).await.unwrap(), Release::AlreadyLost);
    assert_eq!(h.b.locks.adopt(&key(), owner, TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(h.a.locks.acquire_as(&key(), owner, once()).await.unwrap_err().kind(), Kind::Contended);
    assert_eq!(h.b.finds_busy(&key()).await, TTL * 2);
}

/// The repeated release of a keeping one finds nothing of its own, and neither shortens nor prolongs what is kept.
pub async fn a_lost_reply_to_a_keeping_release_changes_nothing(h: &Harness) {
    let grant = h.a.locks.acquire(&key(), once().with_min_hold(TTL / 2)).await.unwrap();
    h.a.engine.fail_once(Call::Release, Fault::ReplyLost);
    assert_eq!(grant.release().await.unwrap_err().kind(), Kind::Backend);
    h.a.called(Call::Release, 2).await;
    h.quiet().await;
    assert_eq!(h.b.finds_busy(&key()).await, TTL / 2);
}

/// However often it is renewed, a grant ends when it was held as long as it may be.
pub async fn max_hold_ends_a_grant_that_is_renewed(h: &Harness) {
    let options = LockOptions::fail().with_ttl(TTL).with_max_hold(TTL * 2);
    let grant = h.a.locks.acquire(&key(), options).await.unwrap();
    for _ in 0..19 {
        h.advance(TTL / 10).await;
        grant.check().unwrap();
    }
    assert_eq!(grant.remaining(), TTL / 10);
    h.advance(TTL / 10 - MS).await;
    grant.check().unwrap();
    h.advance(MS).await;
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    assert_eq!((grant.lost().await, grant.remaining()), (LossReason::MaxHold, Duration::ZERO));
    assert_eq!(grant.renew().await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
    let _next = h.b.take(&key()).await;
    // A longest hold below the ttl cuts the first lease.
    let short = h.a.locks.acquire(&named("43"), once().with_max_hold(TTL / 5)).await.unwrap();
    h.clock.advance(TTL / 5);
    assert_eq!(short.lost().await, LossReason::MaxHold);
    drop(short);
    // The lease ends first: that is the reason.
    let ended = h.a.locks.acquire(&named("44"), once().with_max_hold(TTL * 2)).await.unwrap();
    h.clock.advance(TTL * 2);
    assert_eq!(ended.lost().await, LossReason::Expired);
}

/// A body that does not end blocks the key no longer than it may hold it and a margin.
pub async fn max_hold_gives_the_key_away_soon(h: &Harness) {
    let options = LockOptions::fail().with_ttl(TTL).with_max_hold(TTL * 2);
    let grant = h.a.locks.acquire(&key(), options).await.unwrap();
    for _ in 0..21 {
        h.advance(TTL / 10).await;
    }
    let _next = h.b.take(&key()).await;
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
}

/// The longest hold is a loss as any other: the outcome tells it, and a body is dropped at it if asked.
pub async fn max_hold_cancels_a_body_if_asked(h: &Harness) {
    let options = LockOptions::fail().with_ttl(TTL).with_max_hold(TTL * 2);
    let locks = h.a.locks.clone();
    let cancelled = options.clone().with_on_loss(OnLoss::Cancel);
    let endless = tokio::spawn(async move { locks.with_key(&key(), cancelled, |_| std::future::pending::<()>()).await });
    h.quiet().await;
    let begun = h.clock.now();
    let error = h.until_done_by(MS * 100, endless).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Lost, Code::LeaseLost));
    assert_eq!(h.clock.now().since(begun), TTL * 2);
    let outcome = h.b.locks.with_key(&key(), options, |_| async { h.advance(TTL * 2).await }).await.unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked((), Why::Lost(_))), "{outcome:?}");
}

fn skip() -> LockOptions {
    once().with_on_contention(OnContention::Skip).with_on_error(OnError::Open)
}

async fn skips(h: &Harness, options: LockOptions) -> Option<Duration> {
    match h.b.locks.with_key(&key(), options, |_| async { panic!("another holds it") }).await.unwrap() {
        Outcome::<()>::Skipped { held_for } => held_for,
        other => panic!("expected a skip, got {other:?}"),
    }
}

/// A hot key that others hold costs one call in 50 ms, and each skip tells the true rest.
pub async fn repeated_skips_ask_once_in_fifty_milliseconds(h: &Harness) {
    let _grant = h.a.take(&key()).await;
    assert_eq!(skips(h, skip()).await, Some(TTL));
    let once_asked = h.b.engine.calls(Call::Acquire);
    for step in 1..50 {
        h.clock.advance(MS);
        assert_eq!(skips(h, skip()).await, Some(TTL - MS * step));
    }
    assert_eq!(h.b.engine.calls(Call::Acquire), once_asked);
    h.clock.advance(MS);
    assert_eq!(skips(h, skip()).await, Some(TTL - OLDEST));
    assert_eq!(h.b.engine.calls(Call::Acquire), once_asked * 2);
    assert_eq!(h.b.seen.outcomes(), ["skipped"; 51], "each counts");
    skips(h, skip().with_held_memory(HeldMemory::Ignore)).await;
    assert_eq!(h.b.engine.calls(Call::Acquire), once_asked * 3);
}

/// After a release in another process a skip is late by 50 ms at most, never by a ttl.
pub async fn release_elsewhere_clears_held_memory(h: &Harness) {
    let grant = h.a.take(&key()).await;
    skips(h, skip()).await;
    h.clock.advance(MS);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    h.clock.advance(OLDEST - MS);
    let outcome = h.b.locks.with_key(&key(), skip(), |_| async {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Ran(())), "{outcome:?}");
}

/// A release in this process is known at once.
pub async fn a_release_here_clears_held_memory_at_once(h: &Harness) {
    let grant = h.b.take(&key()).await;
    skips(h, skip()).await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    let outcome = h.b.locks.with_key(&key(), skip(), |_| async {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Ran(())), "{outcome:?}");
    // By the worker, too.
    let grant = h.b.take(&key()).await;
    skips(h, skip()).await;
    drop(grant);
    h.free(&key()).await;
    let outcome = h.b.locks.with_key(&key(), skip(), |_| async {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Ran(())), "{outcome:?}");
}

/// What is remembered ends with the lease that was seen.
pub async fn held_memory_ends_with_the_lease(h: &Harness) {
    let _grant = h.a.locks.acquire(&key(), once().with_ttl(MS * 20)).await.unwrap();
    assert_eq!(skips(h, skip()).await, Some(MS * 20));
    h.clock.advance(MS * 20);
    let outcome = h.b.locks.with_key(&key(), skip(), |_| async {}).await.unwrap();
    assert!(matches!(outcome, Outcome::Ran(())), "{outcome:?}");
}

/// Who waits or must not be dropped always asks the engine.
pub async fn held_memory_is_for_skips_only(h: &Harness) {
    let grant = h.a.take(&key()).await;
    skips(h, skip()).await;
    let asked = h.b.engine.calls(Call::Acquire);
    h.b.finds_busy(&key()).await;
    assert!(h.b.engine.calls(Call::Acquire) > asked);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    // The memory says taken; the engine knows better.
    let mine = h.b.locks.with_key(&key(), skip().with_wait(MS), |_| async {}).await.unwrap();
    assert!(matches!(mine, Outcome::Ran(())), "{mine:?}");
}

/// The memory holds so many keys; what it forgot costs a call and changes no answer.
pub async fn held_memory_is_bounded(h: &Harness) {
    let small = h.b.again(&h.clock, |config| config.held_memory_entries = 2);
    let none = h.b.again(&h.clock, |config| config.held_memory_entries = 0);
    let mut grants = Vec::new();
    for id in ["1", "2", "3"] {
        grants.push(h.a.take(&named(id)).await);
    }
    for handle in [&small, &none] {
        for id in ["1", "2", "3", "1", "2", "3", "3"] {
            let outcome = handle.locks.with_key(&named(id), skip(), |_| async {}).await.unwrap();
            assert!(matches!(outcome, Outcome::Skipped { held_for: Some(TTL) }), "{outcome:?}");
        }
    }
    assert!((4..14 * h.calls_a_try).contains(&h.b.engine.calls(Call::Acquire)));
}

/// An engine that failed said nothing about the key.
pub async fn a_failure_is_never_remembered_as_taken(h: &Harness) {
    let ran = AtomicU64::new(0);
    let body = |_| async { ran.fetch_add(1, Ordering::SeqCst) };
    h.b.engine.fail(Call::Acquire, Fault::Refused);
    let open = h.b.locks.with_key(&key(), skip(), body).await.unwrap();
    assert!(matches!(open, Outcome::RanUnlocked(0, Why::Backend(_))), "{open:?}");
    h.b.engine.heal();
    let locked = h.b.locks.with_key(&key(), skip().with_renew(Renew::Off), body).await.unwrap();
    assert!(matches!(locked, Outcome::Ran(1)), "{locked:?}");
}
