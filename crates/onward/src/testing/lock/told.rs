//! What an observer is told: outcomes, times, gauges and reports, with labels from closed sets only.

use std::time::Duration;

use super::{Handle, Harness, TTL, key, once};
use crate::Kind;
use crate::lock::{LockOptions, Locks, LocksConfig, OnContention, Outcome, Release};
use crate::model::LockKey;
use crate::observe::{Event, Observer};
use crate::testing::lock_faults::{Call, Fault};

/// A label comes from the closed set, never from a key.
///
/// Must not come back: a label that was guessed by splitting the key, wrong again after each change of its shape.
pub async fn outcomes_name_their_closed_target(h: &Harness) {
    let labelled = h.a.again(&h.clock, |config| config.targets = vec!["projects".to_owned(), "jobs".to_owned()]);
    let run = async |collection: &str, options: LockOptions| {
        let key = labelled.eu().key(collection, "42").unwrap();
        let _ = labelled.locks.with_key(&key, options, |_| async {}).await.unwrap();
    };
    run("projects", once()).await;
    run("secrets", once()).await;
    run("secrets", once().with_target("jobs")).await;
    run("projects", once().with_target("jobs")).await;
    let raw = labelled.locks.acquire(&LockKey::raw("lock:main:eu:projects:1").unwrap(), once()).await.unwrap();
    assert_eq!(raw.release().await.unwrap(), Release::Released);
    assert_eq!(labelled.seen.targets(), ["projects", "other", "jobs", "jobs", "other"]);
}

/// A scope is a label only if the configuration names it: scopes of callers are not bounded.
pub async fn a_scope_is_a_label_only_if_it_is_configured(h: &Harness) {
    let labelled = h.a.again(&h.clock, |config| config.scope_labels = vec!["eu".to_owned()]);
    for scope in ["eu", "us", ""] {
        let _ = labelled.locks.scope(scope).run("projects", "42", |_| async {}).await.unwrap();
    }
    assert_eq!(labelled.seen.scopes(), [Some("eu".to_owned()), None, None]);
    let _ = h.a.eu().run("projects", "42", |_| async {}).await.unwrap();
    assert_eq!(h.a.seen.scopes(), [None]);
}

/// The same report comes once in a while, whatever happens in between.
pub async fn reports_come_once_in_a_while(h: &Harness) {
    h.a.engine.fail(Call::Acquire, Fault::Refused);
    for _ in 0..5 {
        assert_eq!(h.a.try_take(&key()).await.unwrap_err().kind(), Kind::Backend);
    }
    assert_eq!(h.a.seen.reports(), ["backend_error"]);
    h.clock.advance(Duration::from_secs(59));
    h.a.try_take(&key()).await.unwrap_err();
    assert!(h.a.seen.reports().is_empty());
    h.clock.advance(Duration::from_secs(1));
    h.a.try_take(&key()).await.unwrap_err();
    assert_eq!(h.a.seen.reports(), ["backend_error"]);
    assert_eq!(h.a.seen.outcomes(), ["backend_error"; 7]);
}

/// A report says where and about what kind of key, and no id leaves the process.
///
/// Must not come back: a report that changed its caller's log.
pub async fn a_report_names_engine_and_pattern_and_no_id(h: &Harness) {
    h.a.engine.fail(Call::Acquire, Fault::Refused);
    let engine = h.a.locks.engine_name();
    let asked = [
        (h.a.eu().key("projects", "very-secret").unwrap(), "lock:main:eu:projects:*"),
        (h.a.eu().key("a:b", "very-secret").unwrap().attribute("secret").unwrap(), "lock:main:eu:a%3Ab:*:*"),
        (LockKey::raw("very-secret").unwrap(), "*"),
    ];
    for (key, pattern) in asked {
        h.a.try_take(&key).await.unwrap_err();
        assert_eq!(h.a.seen.subjects(), [format!("{engine} {pattern}")]);
        h.clock.advance(Duration::from_secs(60));
    }
}

/// How long calls waited and grants were held is told once for each.
pub async fn waits_and_holds_are_measured(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let locks = h.b.locks.clone();
    let waiting = tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL)).await });
    h.waiters(&h.b, &key(), 1).await;
    h.clock.advance(TTL / 4);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!((h.a.seen.waits(), h.a.seen.holds()), (vec![Duration::ZERO], vec![(TTL / 4, TTL)]));
    let second = h.until_done(waiting).await.unwrap();
    let waits = h.b.seen.waits();
    assert!(waits.len() == 1 && waits[0] >= TTL / 4 && waits[0] < TTL, "{waits:?}");
    h.clock.advance(TTL / 2);
    drop(second);
    h.free(&key()).await;
    assert_eq!(h.b.seen.holds(), [(TTL / 2, TTL)]);
    h.a.try_take(&LockKey::raw("other").unwrap()).await.map(drop).unwrap();
    let _ = h.a.locks.acquire(&key(), once().with_ttl(Duration::ZERO)).await.unwrap_err();
    assert_eq!(h.a.seen.waits().len(), 1, "refused input counts nowhere");
}

/// Two gauges follow the grants and the waiting callers of a process, however they end.
pub async fn the_held_and_the_waiting_are_counted(h: &Harness) {
    let first = h.a.take(&key()).await;
    assert_eq!(h.a.seen.gauges(), (1, 0));
    let mut waiting = Vec::new();
    for count in 1..=3 {
        let locks = h.a.locks.clone();
        waiting.push(tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL / 2)).await }));
        h.waiters(&h.a, &key(), count).await;
    }
    assert_eq!(h.a.seen.gauges(), (1, 3));
    waiting.pop().unwrap().abort();
    h.waiters(&h.a, &key(), 2).await;
    assert_eq!(h.a.seen.gauges(), (1, 2));
    assert_eq!(first.release().await.unwrap(), Release::Released);
    let second = h.until_done(waiting.remove(0)).await.unwrap();
    assert_eq!(h.a.seen.gauges(), (1, 1));
    assert_eq!(h.until_done(waiting.remove(0)).await.unwrap_err().kind(), Kind::Contended);
    assert_eq!(h.a.seen.gauges(), (1, 0));
    // A lease that ended is a grant until its holder lets go.
    h.clock.advance(TTL);
    drop(second);
    assert_eq!(h.a.seen.gauges(), (0, 0));
}

/// Work that outlives half of its lease without a renewal is reported before it loses a lease.
pub async fn a_long_hold_without_a_renewal_is_reported(h: &Harness) {
    let hold = async |handle: &Handle, options: LockOptions, held: Duration| {
        let grant = handle.locks.acquire(&key(), options).await.unwrap();
        h.advance(held).await;
        let _ = grant.release().await.unwrap();
        handle.seen.reports()
    };
    assert!(hold(&h.a, once(), TTL / 2).await.is_empty());
    assert_eq!(hold(&h.a, once(), TTL / 2 + Duration::from_millis(1)).await, ["long_hold"]);
    assert!(hold(&h.b, LockOptions::fail().with_ttl(TTL), TTL / 3).await.is_empty());
}

/// An observer that panics fails no lock call.
pub async fn an_observer_that_panics_changes_nothing(h: &Harness) {
    #[derive(Debug)]
    struct Panics;
    impl Observer for Panics {
        fn observe(&self, _: &Event<'_>) {
            if true {
                std::panic::resume_unwind(Box::new("the observer's own"));
            }
        }
    }
    let config = LocksConfig { clock: h.clock.clone(), observer: std::sync::Arc::new(Panics), ..LocksConfig::default() };
    let locks = Locks::new(h.a.engine.clone(), config).unwrap();
    let held = locks.acquire(&key(), once()).await.unwrap();
    let skipped = locks.with_key(&key(), once().with_on_contention(OnContention::Skip), |_| async {}).await.unwrap();
    assert!(matches!(skipped, Outcome::Skipped { .. }), "{skipped:?}");
    assert_eq!(held.release().await.unwrap(), Release::Released);
}
