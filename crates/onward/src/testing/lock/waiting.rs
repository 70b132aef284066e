//! The queue of a process, and waiting for another one (C7).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::{Handle, Harness, TTL, key, margin, once};
use crate::lock::{LockOptions, OnError, Outcome, Owner, Release};
use crate::testing::lock_faults::{Call, Fault, Gate};
use crate::time::Moment;
use crate::{Code, Kind, Result};

/// Waits for the key, holds it for no time, and notes who and when.
fn wait(h: &Harness, handle: &Handle, name: u32, log: &Arc<Mutex<Vec<(u32, Moment)>>>) -> JoinHandle<Result<()>> {
    let (locks, log, clock) = (handle.locks.clone(), log.clone(), h.clock.clone());
    tokio::spawn(async move {
        let body = |_| async { log.lock().push((name, clock.now())) };
        locks.with_key(&key(), once().with_wait(TTL * 6), body).await?.locked()
    })
}

/// Callers of a process are served in the order in which they came, one release after the other.
///
/// Must not come back: backoff without jitter, with which some callers never won.
pub async fn waiters_are_served_in_order(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let log = Arc::default();
    let mut waiting = Vec::new();
    for name in 1..=8 {
        waiting.push(wait(h, &h.a, name, &log));
        h.waiters(&h.a, &key(), u64::from(name)).await;
    }
    let begun = h.clock.now();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    let names: Vec<u32> = log.lock().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(h.clock.now(), begun, "each release woke the next at once");
}

/// A caller that gives up leaves nothing: those behind move up and are served.
pub async fn cancelled_waiter_leaves_no_ticket(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let log = Arc::default();
    let waiting: Vec<_> = {
        let mut waiting = Vec::new();
        for name in 1..=4 {
            waiting.push(wait(h, &h.a, name, &log));
            h.waiters(&h.a, &key(), u64::from(name)).await;
        }
        waiting
    };
    let [head, second, third, last] = <[_; 4]>::try_from(waiting).expect("four wait");
    // The head, then one in the middle.
    head.abort();
    h.waiters(&h.a, &key(), 3).await;
    third.abort();
    h.waiters(&h.a, &key(), 2).await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    second.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    let names: Vec<u32> = log.lock().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [2, 4]);
    h.free(&key()).await;
    let _free = h.b.take(&key()).await;
    h.waiters(&h.a, &key(), 0).await;
}

/// A caller that leaves while it asks hands its turn on at once: nobody waits for a timer.
///
/// Must not come back: a fair queue that stalled for 5 s for each dead waiter (redisson/redisson#1353).
pub async fn the_next_asks_when_the_head_leaves(h: &Harness) {
    let grant = h.b.take(&key()).await;
    let log = Arc::default();
    let head = wait(h, &h.a, 1, &log);
    h.waiters(&h.a, &key(), 1).await;
    let next = wait(h, &h.a, 2, &log);
    h.waiters(&h.a, &key(), 2).await;
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Acquire, Fault::SlowRequest(gate.clone()));
    if h.has_queue() {
        // The head asks when the key is handed over to its process.
        assert_eq!(grant.release().await.unwrap(), Release::Released);
        gate.reached().await;
    } else {
        h.advance(Duration::from_millis(500)).await;
        gate.reached().await;
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
    head.abort();
    for _ in 0..100 {
        h.quiet().await;
    }
    assert!(next.is_finished(), "the next in line was not told");
    next.await.unwrap().unwrap();
}

/// A holder that died blocks a waiter until the end of its lease, and hardly longer.
pub async fn waiter_is_granted_after_expiry(h: &Harness) {
    let begun = h.clock.now();
    let _dead = h.a.take(&key()).await;
    let log = Arc::default();
    let waiting = wait(h, &h.b, 1, &log);
    h.waiters(&h.b, &key(), 1).await;
    h.until_done(waiting).await.unwrap();
    let waited = log.lock()[0].1.since(begun);
    assert!((TTL..TTL + Duration::from_millis(50)).contains(&waited), "granted after {waited:?}");
}

/// A release in another process is found within two looks.
pub async fn waiter_is_granted_after_a_release_elsewhere(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let log = Arc::default();
    let waiting = wait(h, &h.b, 1, &log);
    h.waiters(&h.b, &key(), 1).await;
    h.advance(Duration::from_secs(1)).await;
    let released = h.clock.now();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    h.until_done(waiting).await.unwrap();
    let late = log.lock()[0].1.since(released);
    let bound = crate::lock::LockEngine::capabilities(&*h.b.engine).look_again * 2 + Duration::from_millis(10);
    assert!(late <= bound, "granted {late:?} after the release");
}

/// A bound on waiters is told as such, whatever the policy on errors is; no body runs.
pub async fn a_full_queue_is_overloaded_and_never_opens(h: &Harness) {
    let _grant = h.b.take(&key()).await;
    let log = Arc::default();
    let small = h.a.again(&h.clock, |config| config.max_waiters_per_key = 2);
    let narrow = h.a.again(&h.clock, |config| config.max_waiters = 2);
    let mut waiting = Vec::new();
    for handle in [&small, &narrow] {
        for name in 1..=2 {
            waiting.push(wait(h, handle, name, &log));
            h.waiters(handle, &key(), u64::from(name)).await;
        }
        handle.seen.outcomes();
        let options = once().with_wait(TTL).with_on_error(OnError::Open);
        let run = handle.locks.with_key(&key(), options, |_| async { panic!("opened") }).await;
        let error = run.map(Outcome::<()>::value).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Overloaded, Code::Overloaded));
        assert!(error.retry_after().is_some());
        // Who does not wait needs no place.
        let skipped = handle.locks.with_key(&key(), LockOptions::skip(), |_| async {}).await.unwrap();
        assert!(matches!(skipped, Outcome::Skipped { held_for: Some(_) }), "{skipped:?}");
        assert_eq!(handle.seen.outcomes(), ["skipped"]);
    }
    for waiting in waiting {
        h.until_done(waiting).await.unwrap();
    }
}

/// The cost of a herd follows processes, not callers: only the first in line asks.
pub async fn only_the_head_asks_the_engine(h: &Harness) {
    let _grant = h.b.take(&key()).await;
    let log = Arc::default();
    let mut waiting = Vec::new();
    for name in 1..=30 {
        waiting.push(wait(h, &h.a, name, &log));
    }
    h.waiters(&h.a, &key(), 30).await;
    // All came at once, so each may have asked once before there was a line.
    let before = h.a.engine.calls(Call::Acquire);
    h.advance(Duration::from_millis(1)).await;
    for name in 31..=50 {
        waiting.push(wait(h, &h.a, name, &log));
        h.waiters(&h.a, &key(), u64::from(name)).await;
    }
    let skipped = h.a.eu().run("projects", "42", |_| async {}).await.unwrap();
    match skipped {
        Outcome::Skipped { held_for: Some(left) } => assert!(left.abs_diff(TTL) < Duration::from_millis(20), "{left:?}"),
        other => panic!("expected a skip, got {other:?}"),
    }
    assert_eq!(h.a.engine.calls(Call::Acquire), before, "whoever joins a line asks nothing");
    for waiting in waiting {
        waiting.abort();
    }
    h.waiters(&h.a, &key(), 0).await;
}

/// A key that falls free belongs to the line, not to a caller who happens to come at that moment.
pub async fn a_late_caller_does_not_pass_the_queue(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let log = Arc::default();
    let first = wait(h, &h.a, 1, &log);
    h.waiters(&h.a, &key(), 1).await;
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Acquire, Fault::SlowRequest(gate.clone()));
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    gate.reached().await;
    let late = wait(h, &h.a, 2, &log);
    let skipped = h.a.eu().run("projects", "42", |_| async { panic!("passed the queue") }).await.unwrap();
    assert!(matches!(skipped, Outcome::<()>::Skipped { .. }));
    gate.open();
    h.until_done(first).await.unwrap();
    h.until_done(late).await.unwrap();
    let names: Vec<u32> = log.lock().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, [1, 2]);
}

/// A caller who keeps his owner and asks again is not put behind those who wait for him.
pub async fn the_same_owner_does_not_queue_behind_others(h: &Harness) {
    let owner = Owner::draw();
    let first = h.a.locks.acquire_as(&key(), owner, once()).await.unwrap();
    let log = Arc::default();
    let waiting = wait(h, &h.a, 1, &log);
    h.waiters(&h.a, &key(), 1).await;
    let again = h.a.locks.acquire_as(&key(), owner, once().with_wait(TTL)).await.unwrap();
    assert_eq!((again.token, again.already_ours), (first.token, true));
    assert_eq!(h.a.locks.release_as(&key(), &owner).await.unwrap(), Release::Released);
    waiting.await.unwrap().unwrap();
    let grant = h.a.take(&key()).await;
    assert_eq!(grant.remaining(), TTL - margin(TTL));
}
