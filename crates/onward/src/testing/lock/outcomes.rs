//! What a call answers, and what is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Harness, TTL, key, margin, once};
use crate::lock::{Claim, LockEngine, LockOptions, LossReason, OnLoss, Outcome, Release, Renew, Why};
use crate::model::LockKey;
use crate::{Code, Effect, Kind};

/// Losing a race is an outcome; the holder notices nothing.
pub async fn skipped_run_leaves_the_holder_untouched(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL / 4);
    let outcome = h.b.eu().run("projects", "42", |_| async { panic!("skipped") }).await.unwrap();
    match outcome {
        Outcome::<()>::Skipped { held_for } => assert_eq!(held_for, Some(TTL * 3 / 4)),
        other => panic!("expected a skip, got {other:?}"),
    }
    grant.check().unwrap();
    let status = h.b.locks.status(&key()).await.unwrap().unwrap();
    assert_eq!((status.token, status.remaining), (Some(grant.token()), Some(TTL * 3 / 4)));
    h.quiet().await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

/// Work that must not be dropped waits its 3 s, and then says that it could not run.
pub async fn run_or_fail_waits_then_is_contended(h: &Harness) {
    let _grant = h.a.locks.acquire(&key(), once().with_ttl(TTL * 6)).await.unwrap();
    let begun = h.clock.now();
    let eu = h.b.eu();
    let waiting =
        tokio::spawn(async move { eu.run_or_fail("projects", "42", |_| async { panic!("contended") }).await.map(Outcome::<()>::value) });
    h.waiters(&h.b, &key(), 1).await;
    let error = h.until_done(waiting).await.unwrap_err();
    let waited = h.clock.now().since(begun);
    assert!((Duration::from_secs(3)..Duration::from_millis(3_050)).contains(&waited), "waited {waited:?}");
    assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Contended, Code::ResourceLocked, Effect::NotApplied));
    assert_eq!(error.waiters(), Some(0));
    let left = TTL * 6 - waited;
    assert!(error.held_for().unwrap().abs_diff(left) < Duration::from_millis(50), "{:?} is not {left:?}", error.held_for());
    assert_eq!(error.retry_after(), error.held_for(), "a hint of 1 s to 60 s");
}

/// What travels to clients names no key.
///
/// Must not come back: the raw key in the text of a 409.
pub async fn contended_text_has_no_key(h: &Harness) {
    let secret = LockKey::typed("main", "eu", "projects", "very-secret-id").unwrap();
    let _grant = h.a.take(&secret).await;
    let error = h.b.try_take(&secret).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Contended);
    for text in [error.to_string(), format!("{error:?}"), error.message().to_owned()] {
        assert!(!text.contains("very-secret-id") && !text.contains("projects"), "{text}");
    }
}

/// A body whose lease ended under it ran once; its value is kept and the outcome tells.
pub async fn loss_in_the_body_keeps_its_value(h: &Harness) {
    let outcome =
        h.a.locks
            .with_key(&key(), once(), |grant| async move {
                let token = grant.token();
                h.clock.advance(TTL);
                assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
                assert!(h.b.take(&key()).await.token() > token.unwrap());
                7
            })
            .await
            .unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked(7, Why::Lost(LossReason::Expired))), "{outcome:?}");
    assert_eq!(outcome.locked().unwrap_err().kind(), Kind::Lost);
    h.quiet().await;
    assert_eq!(h.a.seen.outcomes(), ["acquired", "lost"]);
}

/// A lease that somebody removed is told at the release, or by a renewal before.
pub async fn a_lease_taken_in_the_body_is_told(h: &Harness) {
    let remove = async || {
        let owner = h.b.engine.inspect(key()).await.unwrap().unwrap().owner;
        let _ = h.b.engine.release(vec![Claim { key: key(), owner, keep: Duration::ZERO }]).await.unwrap();
    };
    let outcome =
        h.a.locks
            .with_key(&key(), once(), |_| async {
                remove().await;
                7
            })
            .await
            .unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked(7, Why::Lost(LossReason::Taken))), "{outcome:?}");
    let outcome =
        h.a.locks
            .with_key(&key(), once().with_renew(Renew::Auto), |grant| async move {
                remove().await;
                h.advance(TTL / 3).await;
                assert_eq!(grant.lost().await, LossReason::Taken);
                8
            })
            .await
            .unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked(8, Why::Lost(LossReason::Taken))), "{outcome:?}");
}

/// Asked to, a call drops its body at the loss: the work stops before another holder begins.
pub async fn a_body_is_dropped_at_its_loss_if_asked(h: &Harness) {
    struct Dropped(Arc<AtomicU64>, crate::time::Clock);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(self.1.now().as_nanos(), Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicU64::new(0));
    let guard = Dropped(dropped.clone(), h.clock.clone());
    let begun = h.clock.now();
    let locks = h.a.locks.clone();
    let endless = tokio::spawn(async move {
        let body = |_| async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        };
        locks.with_key(&key(), once().with_on_loss(OnLoss::Cancel), body).await
    });
    h.quiet().await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    h.advance(TTL - margin(TTL)).await;
    let error = h.until_done(endless).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Lost, Code::LeaseLost));
    assert_eq!(dropped.load(Ordering::SeqCst), (begun + (TTL - margin(TTL))).as_nanos());
    // A body that ends in time is not touched.
    h.advance(margin(TTL)).await;
    let options = LockOptions::fail().with_on_loss(OnLoss::Cancel);
    let kept = h.b.locks.with_key(&key(), options, |_| async { 7 }).await.unwrap();
    assert!(matches!(kept, Outcome::Ran(7)));
}

/// Switched off, no engine is asked anything: bodies run and say so, and there is no grant.
pub async fn switched_off_touches_no_key(h: &Harness) {
    let off = h.a.again(&h.clock, |config| config.enabled = false);
    assert!(!off.locks.is_enabled());
    let held = h.b.take(&key()).await;
    let body = |grant: crate::lock::GrantView| async move {
        assert_eq!((grant.token(), grant.remaining()), (None, Duration::ZERO));
        grant.check().unwrap();
        7
    };
    for outcome in [off.eu().run("projects", "42", body).await.unwrap(), off.eu().run_or_fail("projects", "42", body).await.unwrap()] {
        assert!(matches!(outcome, Outcome::RanUnlocked(7, Why::SwitchedOff)), "{outcome:?}");
        assert_eq!(outcome.locked().unwrap_err().code(), Code::LockingOff);
    }
    let owner = *held.owner();
    let errors = [
        off.try_take(&key()).await.unwrap_err(),
        off.locks.acquire_as(&key(), owner, once()).await.unwrap_err(),
        off.locks.renew_as(&key(), owner, TTL).await.unwrap_err(),
        off.locks.release_as(&key(), &owner).await.unwrap_err(),
        off.locks.status(&key()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Backend, Code::LockingOff, Effect::NotApplied));
    }
    assert_eq!(off.engine.all_calls(), 0);
    assert_eq!(off.seen.outcomes(), ["bypassed", "unlocked", "bypassed", "unlocked", "bypassed", "bypassed"]);
    held.check().unwrap();
}

/// Status shows who holds a key since when, and who waits here; a free key has none.
pub async fn status_shows_holder_token_and_waiters(h: &Harness) {
    assert!(h.a.locks.status(&key()).await.unwrap().is_none());
    let since = h.clock.wall();
    let grant = h.a.locks.acquire(&key(), once().with_holder("cron on host 7")).await.unwrap();
    h.clock.advance(TTL / 4);
    let mut waiting = Vec::new();
    for count in 1..=3 {
        let locks = h.b.locks.clone();
        waiting.push(tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL)).await.map(drop) }));
        h.waiters(&h.b, &key(), count).await;
    }
    let status = h.b.locks.status(&key()).await.unwrap().unwrap();
    assert_eq!((&*status.holder, status.token, status.waiters), ("cron on host 7", Some(grant.token()), 3));
    assert_eq!((status.remaining, status.since), (Some(TTL * 3 / 4), since));
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    for waiting in waiting {
        h.until_done(waiting).await.unwrap();
    }
    h.free(&key()).await;
    let unnamed = h.a.take(&key()).await;
    let holder = h.b.locks.status(&key()).await.unwrap().unwrap().holder;
    assert!(holder.ends_with(&format!(":{}", std::process::id())), "host:pid, not {holder}");
    drop(unnamed);
}
