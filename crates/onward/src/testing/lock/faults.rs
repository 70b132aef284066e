//! What happens when the engine did it but said nothing, said no, or hangs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::{Harness, TTL, key, margin, named, once};
use crate::lock::{LockEngine, LockOptions, OnError, Outcome, Release, Renew, Why};
use crate::testing::lock_faults::{Call, Fault, Gate};
use crate::{Code, Effect, Kind, retry};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A grant whose answer was lost is found by asking again, and is no second grant.
pub async fn lost_acquire_reply_is_found_by_its_owner(h: &Harness) {
    h.a.engine.fail_once(Call::Acquire, Fault::ReplyLost);
    let grant = h.a.take(&key()).await;
    assert_eq!(h.a.engine.calls(Call::Acquire), 2.max(h.calls_a_try));
    let status = h.b.locks.status(&key()).await.unwrap().unwrap();
    assert_eq!(status.token, Some(grant.token()));
    assert_eq!(h.a.seen.outcomes(), ["acquired"]);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    // The same while waiting.
    let grant = h.b.take(&key()).await;
    let locks = h.a.locks.clone();
    let waiting = tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL)).await });
    h.waiters(&h.a, &key(), 1).await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    h.a.engine.fail_once(Call::Acquire, Fault::ReplyLost);
    let grant = h.until_done(waiting).await.unwrap();
    grant.check().unwrap();
}

/// If no answer comes at all, what may have been granted is given back long before its lease ends.
pub async fn a_grant_that_nobody_heard_of_is_given_back(h: &Harness) {
    for (fault, once_more) in [(Fault::ReplyLost, Fault::ReplyLost), (Fault::ReplyLost, Fault::Refused)] {
        h.a.engine.fail_once(Call::Acquire, fault);
        h.a.engine.fail_once(Call::Acquire, once_more);
        let error = h.a.locks.acquire(&key(), once().with_ttl(DAY)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Backend);
        h.free(&key()).await;
    }
    // The release that follows fails too, for a while.
    h.a.engine.fail_once(Call::Acquire, Fault::ReplyLost);
    h.a.engine.fail_once(Call::Acquire, Fault::Refused);
    h.a.engine.fail(Call::Release, Fault::Refused);
    h.a.locks.acquire(&key(), once().with_ttl(DAY)).await.unwrap_err();
    h.advance(Duration::from_millis(200)).await;
    h.b.finds_busy(&key()).await;
    h.a.engine.heal();
    for _ in 0..40 {
        h.advance(Duration::from_millis(50)).await;
    }
    h.free(&key()).await;
}

/// The retry of a release whose answer was lost never removes a later hold.
///
/// Must not come back: a late retry of a release that removed a newer hold (etcd-io/etcd#22082).
pub async fn lost_release_reply_spares_the_next_holder(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.a.engine.fail_once(Call::Release, Fault::ReplyLost);
    h.a.engine.fail(Call::Release, Fault::Refused);
    let error = grant.release().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    let next = h.b.take(&key()).await;
    h.advance(Duration::from_millis(500)).await;
    h.a.engine.heal();
    let before = h.a.engine.calls(Call::Release);
    for _ in 0..20 {
        h.advance(Duration::from_millis(50)).await;
    }
    assert!(h.a.engine.calls(Call::Release) > before, "the worker tries again");
    next.check().unwrap();
    h.a.finds_busy(&key()).await;
    assert_eq!(next.release().await.unwrap(), Release::Released);
}

/// A renewal that nobody confirmed extends nothing for the holder, whatever the engine did.
pub async fn lost_renew_reply_keeps_the_old_validity(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL / 2);
    h.a.engine.fail_once(Call::Renew, Fault::ReplyLost);
    let error = grant.renew().await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    assert_eq!(grant.remaining(), TTL / 2 - margin(TTL));
    assert_eq!(h.b.finds_busy(&key()).await, TTL, "the engine did it");
    h.clock.advance(TTL / 2);
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
    let _next = h.b.take(&key()).await;
}

/// "Renewed" that arrives after the loss is dropped, and the lease given back.
pub async fn late_renew_reply_revives_nothing(h: &Harness) {
    let ttl = Duration::from_millis(500);
    let grant = h.a.locks.acquire(&key(), once().with_ttl(ttl)).await.unwrap();
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Renew, Fault::SlowReply(gate.clone()));
    h.clock.advance(ttl / 2);
    let asked = tokio::spawn(async move {
        let answer = grant.renew().await;
        (grant, answer)
    });
    gate.reached().await;
    h.advance(ttl / 2).await;
    h.b.finds_busy(&key()).await;
    gate.open();
    let (grant, answer) = asked.await.unwrap();
    assert_eq!(answer.unwrap_err().kind(), Kind::Lost);
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    h.free(&key()).await;
    let _next = h.b.take(&key()).await;
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
}

/// The same for the renewals of the background task.
pub async fn a_late_background_renewal_revives_nothing(h: &Harness) {
    let ttl = Duration::from_millis(600);
    let grant = h.a.locks.acquire(&key(), once().with_ttl(ttl).with_renew(Renew::Auto)).await.unwrap();
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Renew, Fault::SlowReply(gate.clone()));
    h.advance(ttl / 3).await;
    gate.reached().await;
    h.advance(ttl * 2 / 3).await;
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    gate.open();
    h.free(&key()).await;
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    let renewals = h.a.engine.calls(Call::Renew);
    let next = h.b.take(&key()).await;
    h.advance(ttl).await;
    assert_eq!(h.a.engine.calls(Call::Renew), renewals, "a lost grant is renewed no more");
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
    next.check().unwrap();
}

/// A grant whose answer took longer than the lease is a failure, and is given back.
pub async fn an_answer_after_the_lease_is_no_grant(h: &Harness) {
    let ttl = Duration::from_millis(500);
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Acquire, Fault::SlowReply(gate.clone()));
    let locks = h.a.locks.clone();
    let asked = tokio::spawn(async move { locks.acquire(&key(), once().with_ttl(ttl)).await });
    gate.reached().await;
    h.advance(ttl - margin(ttl)).await;
    h.b.finds_busy(&key()).await;
    gate.open();
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), Kind::Backend);
    h.free(&key()).await;
}

/// Whoever holds the key, contention never looks like a failure and never opens.
///
/// Must not come back: "taken" and "broken" that looked alike, so that waiters went on with a lock of their own
/// (CortexReach/memory-lancedb-pro#879).
pub async fn contention_is_never_an_engine_failure(h: &Harness) {
    let _grant = h.a.take(&key()).await;
    let open = once().with_on_error(OnError::Open);
    let body = |_| async { panic!("a body beside a holder") };
    let skipped = h.b.locks.with_key(&key(), LockOptions::skip(), body).await.unwrap();
    assert!(matches!(skipped, Outcome::<()>::Skipped { held_for: Some(TTL) }));
    assert_eq!(h.b.locks.with_key(&key(), open.clone(), body).await.map(Outcome::<()>::value).unwrap_err().kind(), Kind::Contended);
    // The answer "busy" was lost, and found by asking again.
    h.b.engine.fail_once(Call::Acquire, Fault::ReplyLost);
    assert_eq!(h.b.locks.with_key(&key(), open.clone(), body).await.map(Outcome::<()>::value).unwrap_err().kind(), Kind::Contended);
    let locks = h.b.locks.clone();
    let waiting = tokio::spawn(async move {
        let body = |_| async { panic!("a body beside a holder") };
        locks.with_key(&key(), open.with_wait(TTL / 4), body).await.map(Outcome::<()>::value)
    });
    h.waiters(&h.b, &key(), 1).await;
    assert_eq!(h.until_done(waiting).await.unwrap_err().kind(), Kind::Contended);
    assert_eq!(h.b.seen.outcomes(), ["skipped", "contended", "contended", "contended"]);
    assert!(h.b.seen.reports().is_empty(), "contention is no report");
}

/// A line before an engine that is away is no holder: nobody hears "taken", and open work runs.
pub async fn an_outage_is_never_told_as_contention(h: &Harness) {
    h.a.engine.fail(Call::Acquire, Fault::Refused);
    let wait = |time: Duration| {
        let locks = h.a.locks.clone();
        tokio::spawn(async move { locks.acquire(&key(), once().with_wait(time)).await.map(drop) })
    };
    let head = wait(TTL);
    // Without a queue in the engine, the first call does not stand in line.
    h.a.called(Call::Acquire, if h.has_queue() { 1 } else { 2 }).await;
    h.quiet().await;
    let behind = wait(TTL / 2);
    h.quiet().await;
    let skipper = h.a.locks.with_key(&key(), LockOptions::skip(), |_| async { 7 }).await.unwrap();
    assert!(matches!(skipper, Outcome::RanUnlocked(7, Why::Backend(_))), "{skipper:?}");
    assert_eq!(h.a.try_take(&key()).await.unwrap_err().kind(), Kind::Backend);
    assert_eq!(h.until_done(behind).await.unwrap_err().kind(), Kind::Backend);
    h.a.engine.heal();
    h.until_done(head).await.unwrap();
}

/// A failure during the wait is tried again until the wait is over.
pub async fn a_failing_engine_is_asked_again_within_the_wait(h: &Harness) {
    h.a.engine.fail(Call::Acquire, Fault::RequestLost);
    let wait = || {
        let locks = h.a.locks.clone();
        tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL / 2)).await })
    };
    let lucky = wait();
    h.advance(TTL / 4).await;
    assert!(!lucky.is_finished());
    h.a.engine.heal();
    drop(h.until_done(lucky).await.unwrap());
    h.free(&key()).await;
    h.a.engine.fail(Call::Acquire, Fault::RequestLost);
    let begun = h.clock.now();
    let before = h.a.engine.calls(Call::Acquire);
    let error = h.until_done(wait()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Backend, Code::OutcomeUnknown));
    assert!(h.clock.now().since(begun) >= TTL / 2);
    let tries = h.a.engine.calls(Call::Acquire) - before;
    assert!((10..400).contains(&tries), "{tries} tries in 5 s");
}

/// Renewals that fail for less than the rest of the lease cost nothing.
pub async fn a_short_outage_loses_no_grant(h: &Harness) {
    let grant = h.a.locks.acquire(&key(), once().with_renew(Renew::Auto)).await.unwrap();
    h.a.engine.fail(Call::Renew, Fault::Refused);
    for _ in 0..6 {
        h.advance(TTL / 8).await;
    }
    h.a.engine.heal();
    for _ in 0..8 {
        h.advance(TTL / 8).await;
        grant.check().unwrap();
    }
    h.b.finds_busy(&key()).await;
}

/// Makes a fault that waits at a gate, if it waits at all.
type Make = fn(Gate) -> Fault;

/// Wherever a call is dropped, it leaves no lease and no place in a line (C6).
///
/// Must not come back: a cancelled acquire that left the key (redis/redis-py#3847).
pub async fn cancel_at_any_await_leaks_nothing(h: &Harness) {
    let held = |body: Option<Gate>| {
        let locks = h.a.locks.clone();
        let options = once().with_ttl(DAY).with_wait(TTL);
        tokio::spawn(async move {
            let body = |_| async {
                if let Some(gate) = body {
                    gate.stand().await;
                }
            };
            locks.with_key(&key(), options, body).await.map(drop)
        })
    };
    let faults: [(Call, Make); 4] = [
        (Call::Acquire, Fault::SlowRequest),
        (Call::Acquire, Fault::SlowReply),
        (Call::Release, Fault::SlowRequest),
        (Call::Release, Fault::SlowReply),
    ];
    for (call, fault) in faults {
        let gate = Gate::shut();
        h.a.engine.fail_once(call, fault(gate.clone()));
        let task = held(None);
        gate.reached().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        h.free(&key()).await;
    }
    // In the body.
    let gate = Gate::shut();
    let task = held(Some(gate.clone()));
    gate.reached().await;
    task.abort();
    h.free(&key()).await;
    // In the line, and in the line with the grant on its way.
    for fault in [None, Some(Gate::shut())] {
        let grant = h.b.take(&key()).await;
        let task = held(None);
        h.waiters(&h.a, &key(), 1).await;
        if let Some(gate) = fault {
            h.a.engine.fail_once(Call::Acquire, Fault::SlowReply(gate.clone()));
            assert_eq!(grant.release().await.unwrap(), Release::Released);
            h.quiet().await;
            h.clock.advance(Duration::from_millis(500));
            gate.reached().await;
            task.abort();
        } else {
            task.abort();
            h.waiters(&h.a, &key(), 0).await;
            assert_eq!(grant.release().await.unwrap(), Release::Released);
        }
        h.free(&key()).await;
    }
    // After so many polls.
    for polls in 0..12 {
        let mut ended = false;
        {
            let key = key();
            let mut call = pin!(h.a.locks.with_key(&key, once().with_ttl(DAY), |_| tokio::task::yield_now()));
            for _ in 0..polls {
                if !ended {
                    ended = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
                    tokio::task::yield_now().await;
                }
            }
        }
        h.free(&key()).await;
    }
    let grant = h.b.take(&key()).await;
    h.waiters(&h.a, &key(), 0).await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

/// Whatever fails and however, a body runs at most once, and the answer says whether it ran (INV-8).
///
/// Must not come back: the body's own error taken for ours, and the body run again.
pub async fn body_runs_at_most_once_under_every_fault(h: &Harness) {
    let (mut ran, mut not) = (0, 0);
    for call in [Call::Acquire, Call::Renew, Call::Release] {
        for fault in 0..5 {
            for often in [false, true] {
                for options in [LockOptions::skip(), LockOptions::fail()] {
                    let fault = match fault {
                        0 => Fault::Refused,
                        1 => Fault::ReplyLost,
                        2 => Fault::RequestLost,
                        3 => Fault::SlowRequest(Gate::shut()),
                        _ => Fault::SlowReply(Gate::shut()),
                    };
                    let case = format!("{call:?} {fault:?} {often} {options:?}");
                    if often {
                        h.a.engine.fail(call, fault);
                    } else {
                        h.a.engine.fail_once(call, fault);
                    }
                    let bodies = Arc::new(AtomicU64::new(0));
                    let (locks, counted, clock) = (h.a.locks.clone(), bodies.clone(), h.clock.clone());
                    let key = named(&format!("{ran}-{not}"));
                    let task = tokio::spawn(async move {
                        let body = |_| async {
                            counted.fetch_add(1, Ordering::SeqCst);
                            retry::sleep(&clock, TTL / 2).await;
                        };
                        locks.with_key(&key, options, body).await
                    });
                    let answer = h.until_done_by(Duration::from_millis(100), task).await;
                    let says = u64::from(matches!(answer, Ok(Outcome::Ran(()) | Outcome::RanUnlocked((), _))));
                    assert_eq!(bodies.load(Ordering::SeqCst), says, "{case}: {answer:?}");
                    if says == 1 {
                        ran += 1
                    } else {
                        not += 1
                    }
                    h.a.engine.heal();
                }
            }
        }
    }
    assert!(ran > 40 && not > 3, "{ran} ran, {not} did not: both must be seen");
}

/// An engine that does not answer costs its time limit, not the caller's patience (C7).
///
/// Must not come back: an endless loop while the engine is down (rslock#30).
pub async fn a_hanging_engine_answers_in_bounded_time(h: &Harness) {
    let grant = h.a.take(&named("43")).await;
    for call in [Call::Acquire, Call::Renew, Call::Release, Call::Inspect] {
        h.a.engine.fail(call, Fault::SlowRequest(Gate::shut()));
    }
    let begun = h.clock.now();
    let handle = h.a.clone();
    let asked = tokio::spawn(async move {
        let open = handle.locks.with_key(&key(), LockOptions::skip(), |_| async { 7 }).await.unwrap();
        assert!(matches!(open, Outcome::RanUnlocked(7, Why::Backend(_))), "{open:?}");
        let acquired = handle.try_take(&key()).await.unwrap_err();
        let renewed = grant.renew().await.unwrap_err();
        let released = grant.release().await.unwrap_err();
        [acquired, renewed, released, handle.locks.status(&key()).await.unwrap_err()]
    });
    for error in h.until_done(asked).await {
        assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Backend, Code::OutcomeUnknown, Effect::Unknown));
    }
    // Two tries an acquire, one of each other.
    let took = h.clock.now().since(begun);
    assert!(took < Duration::from_millis(7_200), "{took:?}");
    h.a.engine.heal();
    assert!(h.b.engine.inspect(key()).await.unwrap().is_none());
}
