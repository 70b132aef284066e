//! The failure policy, line by line: each event, each kind of call, what it answers and what it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Handle, Harness, TTL, key};
use crate::lock::{LockOptions, OnError, OnLoss, Outcome, Release, Renew, Why};
use crate::testing::lock_faults::{Call, Fault};
use crate::{Error, Kind, Result};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Nothing,
    Held,
    EngineAway,
    EngineSilent,
    SwitchedOff,
    LostInTheBody,
    LostInTheBodyAndCancelled,
    ReleaseFails,
    BadInput,
    TooManyWait,
}

/// What the caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Skip,
    Fail,
    SkipClosed,
    FailOpen,
    Acquire,
}

fn options(does: Does) -> LockOptions {
    let options = match does {
        Does::Skip => LockOptions::skip(),
        Does::Fail | Does::Acquire => LockOptions::fail(),
        Does::SkipClosed => LockOptions::skip().with_on_error(OnError::Closed),
        Does::FailOpen => LockOptions::fail().with_on_error(OnError::Open),
    };
    options.with_ttl(TTL).with_wait(Duration::ZERO).with_renew(Renew::Off)
}

fn shown<T>(answer: Result<Outcome<T>>) -> &'static str {
    match answer {
        Ok(Outcome::Ran(_)) => "ran",
        Ok(Outcome::Skipped { .. }) => "skipped",
        Ok(Outcome::RanUnlocked(_, Why::Backend(_))) => "unlocked: backend",
        Ok(Outcome::RanUnlocked(_, Why::SwitchedOff)) => "unlocked: off",
        Ok(Outcome::RanUnlocked(_, Why::Lost(_))) => "unlocked: lost",
        Err(error) => kind(&error),
    }
}

fn kind(error: &Error) -> &'static str {
    match error.kind() {
        Kind::Contended => "contended",
        Kind::Backend => "backend",
        Kind::Lost => "lost",
        Kind::Invalid => "invalid",
        Kind::Overloaded => "overloaded",
        _ => "something else",
    }
}

/// The table of the failure policy. Each row: what happens, who calls, the answer, how often the body ran, what was counted.
pub async fn every_event_has_the_outcome_of_the_policy(h: &Harness) {
    use Does::{Acquire, Fail, FailOpen, Skip, SkipClosed};
    use Happens::*;
    type Row<'a> = (Happens, &'a [Does], &'static str, u64, &'a [&'static str]);
    let rows: [Row<'_>; 21] = [
        (Nothing, &[Skip, Fail, SkipClosed, FailOpen], "ran", 1, &["acquired"]),
        (Nothing, &[Acquire], "grant", 0, &["acquired"]),
        (Held, &[Skip, SkipClosed], "skipped", 0, &["skipped"]),
        (Held, &[Fail, FailOpen, Acquire], "contended", 0, &["contended"]),
        (EngineAway, &[Skip, FailOpen], "unlocked: backend", 1, &["backend_error", "unlocked"]),
        (EngineAway, &[Fail, SkipClosed, Acquire], "backend", 0, &["backend_error"]),
        (EngineSilent, &[Skip, FailOpen], "unlocked: backend", 1, &["backend_error", "unlocked"]),
        (EngineSilent, &[Fail, SkipClosed, Acquire], "backend", 0, &["backend_error"]),
        (SwitchedOff, &[Skip, Fail, SkipClosed, FailOpen], "unlocked: off", 1, &["bypassed", "unlocked"]),
        (SwitchedOff, &[Acquire], "backend", 0, &["bypassed"]),
        (LostInTheBody, &[Skip, Fail, SkipClosed, FailOpen], "unlocked: lost", 1, &["acquired", "lost"]),
        (LostInTheBody, &[Acquire], "grant, already lost", 0, &["acquired", "lost"]),
        (LostInTheBodyAndCancelled, &[Skip, Fail, SkipClosed, FailOpen], "lost", 1, &["acquired", "lost"]),
        (ReleaseFails, &[Skip, Fail, SkipClosed, FailOpen], "ran", 1, &["acquired", "release_error"]),
        (ReleaseFails, &[Acquire], "grant, backend", 0, &["acquired", "release_error"]),
        (BadInput, &[Skip, Fail, SkipClosed, FailOpen], "invalid", 0, &[]),
        (BadInput, &[Acquire], "invalid", 0, &[]),
        (TooManyWait, &[Fail, FailOpen], "overloaded", 0, &[]),
        (TooManyWait, &[Acquire], "overloaded", 0, &[]),
        // Who does not wait hears of the holder.
        (TooManyWait, &[Skip], "skipped", 0, &["skipped"]),
        (TooManyWait, &[SkipClosed], "skipped", 0, &["skipped"]),
    ];
    for (happens, callers, answer, bodies, counted) in rows {
        for does in callers {
            let found = one(h, happens, *does).await;
            assert_eq!(found, (answer, bodies, counted.to_vec()), "{happens:?}, {does:?}");
        }
    }
}

async fn one(h: &Harness, happens: Happens, does: Does) -> (&'static str, u64, Vec<&'static str>) {
    let handle = h.a.again(&h.clock, |config| {
        config.enabled = happens != Happens::SwitchedOff;
        config.max_waiters = usize::from(happens != Happens::TooManyWait);
    });
    let mut options = options(does);
    let mut held = None;
    match happens {
        Happens::Held => held = Some(h.b.take(&key()).await),
        Happens::EngineAway => handle.engine.fail(Call::Acquire, Fault::Refused),
        Happens::EngineSilent => handle.engine.fail(Call::Acquire, Fault::ReplyLost),
        Happens::LostInTheBodyAndCancelled => options = options.with_on_loss(OnLoss::Cancel),
        Happens::ReleaseFails => handle.engine.fail_once(Call::Release, Fault::ReplyLost),
        Happens::BadInput => options = options.with_ttl(Duration::ZERO),
        Happens::TooManyWait => {
            held = Some(h.b.take(&key()).await);
            if matches!(does, Does::Fail | Does::FailOpen | Does::Acquire) {
                options = options.with_wait(TTL);
            }
        }
        _ => {}
    }
    let lost = matches!(happens, Happens::LostInTheBody | Happens::LostInTheBodyAndCancelled);
    let (answer, bodies) = match does {
        Does::Acquire => (acquired(h, &handle, options, lost).await, 0),
        _ => ran(h, &handle, options, lost).await,
    };
    let counted = handle.seen.outcomes();
    handle.engine.heal();
    drop(held);
    h.free(&key()).await;
    (answer, bodies, counted)
}

async fn ran(h: &Harness, handle: &Handle, options: LockOptions, lost: bool) -> (&'static str, u64) {
    let bodies = Arc::new(AtomicU64::new(0));
    let (locks, clock, counted) = (handle.locks.clone(), h.clock.clone(), bodies.clone());
    let task = tokio::spawn(async move {
        let body = |_| async {
            counted.fetch_add(1, Ordering::SeqCst);
            if lost {
                clock.advance(TTL);
                tokio::task::yield_now().await;
            }
        };
        shown(locks.with_key(&key(), options, body).await)
    });
    let answer = task.await.expect("the call ends without a panic");
    (answer, bodies.load(Ordering::SeqCst))
}

async fn acquired(h: &Harness, handle: &Handle, options: LockOptions, lost: bool) -> &'static str {
    let grant = match handle.locks.acquire(&key(), options).await {
        Ok(grant) => grant,
        Err(error) => return kind(&error),
    };
    if lost {
        h.clock.advance(TTL);
    }
    match grant.release().await {
        Ok(Release::Released) => "grant",
        Ok(Release::AlreadyLost) => "grant, already lost",
        Err(error) if error.kind() == Kind::Backend => "grant, backend",
        Err(_) => "grant, something else",
    }
}

/// A failed release, and a failed release of a lost lease, leave the body's value and its outcome alone; the worker goes on.
pub async fn a_release_that_fails_keeps_the_body_s_value(h: &Harness) {
    h.a.engine.fail(Call::Release, Fault::Refused);
    let options = options(Does::Fail).with_ttl(TTL * 60);
    let outcome = h.a.locks.with_key(&key(), options, |_| async { Err::<(), _>("the body's own") }).await.unwrap();
    assert!(matches!(outcome, Outcome::Ran(Err("the body's own"))), "{outcome:?}");
    assert!(h.a.seen.reports().contains(&"release_error"));
    h.b.finds_busy(&key()).await;
    let outcome =
        h.a.locks
            .with_key(&super::named("43"), super::once(), |_| async {
                h.clock.advance(TTL);
                7
            })
            .await
            .unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked(7, Why::Lost(_))), "{outcome:?}");
    h.a.engine.heal();
    for _ in 0..30 {
        h.advance(Duration::from_millis(100)).await;
    }
    h.free(&key()).await;
}
