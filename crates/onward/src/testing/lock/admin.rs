//! What operators do: lists, breaking a lock, and the switch that all processes share.

use std::sync::Arc;
use std::time::Duration;

use super::{Handle, Harness, TTL, key, named, once};
use crate::audit::{Filter, Page, Trail};
use crate::commit::engine::CommitEngine;
use crate::commit::{Commit, CommitOutcome, CommitQueue, QueueOptions, Retention};
use crate::engine::memory::MemoryStore;
use crate::lock::{Broken, GrantView, Health, LockEngine, LossReason, Outcome, Owner, Reason, Record, Release, Switch, SwitchRecord, Why};
use crate::model::{FencingToken, LockKey, MacKeys};
use crate::observe::Silent;
use crate::testing::lock_faults::{Call, Fault, Gate};
use crate::testing::store_faults::{self, Faults, Faulty};
use crate::{Code, Effect, Error, Kind};

const SECOND: Duration = Duration::from_secs(1);

/// Two processes that share a lock engine and a store.
struct Shared {
    a: Handle,
    b: Handle,
    queue: CommitQueue,
    trail: Trail,
    faults: Faults,
}

impl Shared {
    async fn open(h: &Harness) -> Self {
        let (store, faults) = (Arc::new(MemoryStore::new()), Faults::default());
        let engine: Arc<dyn CommitEngine> = Arc::new(Faulty::new(store.clone(), faults.clone()));
        let options =
            QueueOptions { clock: h.clock.clone(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
        let queue = CommitQueue::start(engine, options).await.unwrap();
        let on = |handle: &Handle| handle.again(&h.clock, |config| config.commits = Some(queue.clone()));
        Self { a: on(&h.a), b: on(&h.b), trail: Trail::new(queue.clone(), store), queue, faults }
    }

    /// Kind, actor, resource and data of what was done, oldest first.
    async fn done(&self) -> Vec<(String, Option<String>, Option<String>, serde_json::Value)> {
        let chain = self.trail.chain_of_ours("onward.admin").unwrap();
        if chain.head().await.unwrap().is_none() {
            return Vec::new();
        }
        let found = chain.query(&Filter::default(), Page::first(100)).await.unwrap();
        let shown = |sealed: &crate::model::Sealed| {
            let data = serde_json::from_slice(&sealed.data).unwrap();
            (sealed.kind.clone(), sealed.actor.clone(), sealed.resource.clone(), data)
        };
        // The first entry is the chain's own.
        found.items.iter().skip(1).map(shown).collect()
    }

    async fn fenced(&self, token: FencingToken) -> CommitOutcome {
        self.queue.submit(Commit::new().fence(key(), token)).await.unwrap()
    }
}

fn why() -> Reason {
    Reason::new("host 7 is gone").unwrap().by("user:7")
}

/// A list has all live locks and no other, in the order of their bytes, in pages that can be resumed.
pub async fn list_shows_live_locks_in_pages(h: &Harness) {
    assert!(h.a.locks.list("", None, 10).await.unwrap().items.is_empty());
    let since = h.clock.wall();
    let names = ["a", "b", "b/1", "b/2", "b0", "b\u{10ffff}", "c", "é"];
    for name in names.iter().rev() {
        h.a.locks.acquire_as(&LockKey::raw(name).unwrap(), Owner::draw(), once().with_holder(format!("{}", name.len()))).await.unwrap();
    }
    h.a.locks.acquire_as(&LockKey::raw("b/ended").unwrap(), Owner::draw(), once().with_ttl(TTL / 4)).await.unwrap();
    h.clock.advance(TTL / 4);
    let listed = async |prefix: &str, limit: usize| {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let page = h.b.locks.list(prefix, after.as_ref(), limit).await.unwrap();
            assert!(page.items.len() <= limit);
            for (key, status) in page.items {
                assert_eq!((status.remaining, status.since, status.waiters), (Some(TTL * 3 / 4), since, 0));
                assert_eq!(&*status.holder, key.as_str().len().to_string());
                keys.push(key.to_string());
            }
            after = page.next;
            if after.is_none() {
                return keys;
            }
        }
    };
    for limit in [1, 2, 3, 8, 1_000] {
        assert_eq!(listed("", limit).await, names);
        assert_eq!(listed("b", limit).await, names[1..6]);
        assert_eq!(listed("b/", limit).await, names[2..4]);
        assert!(listed("%", limit).await.is_empty() && listed("B", limit).await.is_empty());
    }
    let waiting = {
        let locks = h.b.locks.clone();
        tokio::spawn(async move { locks.acquire(&LockKey::raw("c").unwrap(), once().with_wait(TTL)).await })
    };
    h.waiters(&h.b, &LockKey::raw("c").unwrap(), 1).await;
    assert_eq!(h.b.locks.list("c", None, 10).await.unwrap().items[0].1.waiters, 1);
    waiting.abort();
}

/// Breaking a lock keeps who, why and whom, gives the key a newer token, and frees it.
pub async fn break_issues_a_newer_token_and_an_audit_entry(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once().with_holder("cron on host 7")).await.unwrap();
    let broken = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    let Broken::Broken { holder, old, token } = broken else { panic!("{broken:?}") };
    assert_eq!((&*holder, old), ("cron on host 7", Some(grant.token())));
    assert!(token > grant.token());
    let data = serde_json::json!({"reason": "host 7 is gone", "holder": "cron on host 7", "token": grant.token().get()});
    assert_eq!(shared.done().await, [("lock.break".into(), Some("user:7".into()), Some(key().to_string()), data)]);
    assert!(h.b.locks.status(&key()).await.unwrap().is_none(), "free");
    let next = h.b.take(&key()).await;
    assert!(next.token() > token);
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
    next.check().unwrap();
    assert_eq!(h.a.finds_busy(&key()).await, TTL);
}

/// The old holder's renewals and release say that the lock was taken, and take nothing back.
pub async fn a_broken_holder_hears_that_it_was_taken(h: &Harness) {
    let shared = Shared::open(h).await;
    let options = crate::lock::LockOptions::fail().with_ttl(TTL);
    let grant = shared.a.locks.acquire(&key(), options).await.unwrap();
    let _ = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    grant.check().unwrap();
    h.advance(TTL / 3).await;
    assert_eq!(grant.lost().await, LossReason::Taken);
    let kept = Owner::draw();
    shared.a.locks.acquire_as(&key(), kept, once()).await.unwrap();
    let _ = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    assert_eq!(shared.a.locks.renew_as(&key(), kept, TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(shared.a.locks.release_as(&key(), &kept).await.unwrap(), Release::AlreadyLost);
}

/// The store refuses the old holder before anybody else has written.
pub async fn late_writes_of_a_broken_holder_are_refused_at_once(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once()).await.unwrap();
    assert!(matches!(shared.fenced(grant.token()).await, CommitOutcome::Committed(_)));
    let broken = shared.b.locks.break_lock(&key(), &why(), Record::Unaudited).await.unwrap();
    let Broken::Broken { token, .. } = broken else { panic!("{broken:?}") };
    match shared.fenced(grant.token()).await {
        CommitOutcome::Fenced { newest, .. } => assert_eq!(newest, token),
        other => panic!("a late write landed: {other:?}"),
    }
    assert!(shared.done().await.is_empty(), "not asked for");
    drop(grant);
}

/// Nobody holds it: nothing is broken, recorded or issued.
pub async fn a_free_key_is_not_broken_and_leaves_no_entry(h: &Harness) {
    let shared = Shared::open(h).await;
    assert_eq!(shared.a.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap(), Broken::Absent);
    let _ended = shared.a.locks.acquire(&key(), once()).await.unwrap();
    h.clock.advance(TTL);
    assert_eq!(shared.a.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap(), Broken::Absent);
    assert!(shared.done().await.is_empty());
    let ask = crate::lock::Ask { key: key(), owner: Owner::draw(), holder: "x".into(), ttl: TTL, place: crate::lock::Place::None };
    assert_eq!(h.a.engine.inner().take_over(ask).await.unwrap(), None);
    let _free = h.b.take(&key()).await;
}

/// No silent downgrade: without a trail a lock is broken only by those who say that they want no entry (C9).
pub async fn break_without_a_trail_is_unsupported_unless_asked(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let error = h.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unsupported, Code::Unsupported));
    assert_eq!(h.b.engine.all_calls(), 0);
    let broken = h.b.locks.break_lock(&key(), &why(), Record::Unaudited).await.unwrap();
    assert!(matches!(broken, Broken::Broken { old, .. } if old == Some(grant.token())), "{broken:?}");
    let _next = h.b.take(&key()).await;
}

/// The entry comes first: if it cannot be kept, the holder keeps his lock.
pub async fn break_touches_nothing_if_its_entry_cannot_be_kept(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once()).await.unwrap();
    shared.faults.next(store_faults::Fault::Refused);
    let error = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied), "{error}");
    assert_eq!(shared.b.engine.calls(Call::TakeOver), 0);
    assert_eq!(grant.renew().await.unwrap(), TTL - super::margin(TTL));
}

/// Before the store knows the new token the key is not free: a next holder would write beside a late one.
pub async fn a_break_that_cannot_fence_frees_nothing_at_once(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once()).await.unwrap();
    let gate = Gate::shut();
    shared.b.engine.fail_once(Call::TakeOver, Fault::SlowReply(gate.clone()));
    let locks = shared.b.locks.clone();
    let breaking = tokio::spawn(async move { locks.break_lock(&key(), &why(), Record::Audited).await });
    gate.reached().await;
    shared.faults.hold();
    gate.open();
    shared.faults.stopped().await;
    assert!(h.a.locks.status(&key()).await.unwrap().is_some(), "taken while the fence is on its way");
    assert_eq!(h.a.engine.calls(Call::Release) + h.b.engine.calls(Call::Release), 0);
    shared.faults.next(store_faults::Fault::Refused);
    shared.faults.release();
    let error = breaking.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown), "the key was taken over: {error}");
    let again = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    if let Broken::Broken { token, .. } = again {
        assert!(matches!(shared.fenced(grant.token()).await, CommitOutcome::Fenced { newest, .. } if newest == token));
    }
    h.free(&key()).await;
    drop(grant);
}

/// A counter that lost its place is healed by what the store has seen, and the break holds.
pub async fn a_break_goes_on_above_what_the_store_has_seen(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once()).await.unwrap();
    let far = FencingToken::new(grant.token().get() + 1_000_000).unwrap();
    assert!(matches!(shared.fenced(far).await, CommitOutcome::Committed(_)));
    let broken = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    let Broken::Broken { token, .. } = broken else { panic!("{broken:?}") };
    assert!(token > far);
    assert!(matches!(shared.fenced(far).await, CommitOutcome::Fenced { newest, .. } if newest == token));
    drop(grant);
}

/// Those who wait in the breaking process are served at once.
pub async fn a_break_wakes_those_who_wait(h: &Harness) {
    let shared = Shared::open(h).await;
    let grant = shared.a.locks.acquire(&key(), once()).await.unwrap();
    let locks = shared.b.locks.clone();
    let waiting = tokio::spawn(async move { locks.acquire(&key(), once().with_wait(TTL * 5)).await });
    h.waiters(&shared.b, &key(), 1).await;
    let begun = h.clock.now();
    let _ = shared.b.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    assert!(next.token() > grant.token());
    assert_eq!(h.clock.now(), begun);
    drop((grant, next));
}

async fn runs(handle: &Handle) -> Result<Outcome<bool>, Error> {
    handle.locks.with_key(&named("switched"), once(), |grant: GrantView| async move { grant.token().is_some() }).await
}

fn unlocked(outcome: Result<Outcome<bool>, Error>) -> bool {
    match outcome.unwrap() {
        Outcome::Ran(true) => false,
        Outcome::RanUnlocked(false, Why::SwitchedOff) => true,
        other => panic!("{other:?}"),
    }
}

/// Switched off, every process on the store takes no more locks within a second; switched on, every one does again.
///
/// Must not come back: a kill switch that was documented but not wired.
pub async fn switch_stops_new_locks_in_every_process_within_a_second(h: &Harness) {
    let shared = Shared::open(h).await;
    assert!(!unlocked(runs(&shared.a).await) && !unlocked(runs(&shared.b).await));
    let (old, new) = shared.a.locks.switch(Switch::Off, &why()).await.unwrap();
    assert_eq!(old, None);
    let at = h.clock.wall();
    assert_eq!(new, SwitchRecord { enabled: false, by: Some("user:7".into()), at, reason: "host 7 is gone".into() });
    assert!(unlocked(runs(&shared.a).await), "the process that flips it follows at once");
    assert!(!shared.a.locks.is_enabled());
    h.clock.advance(SECOND);
    let calls = shared.b.engine.all_calls();
    assert!(unlocked(runs(&shared.b).await));
    let refused = shared.b.locks.acquire(&key(), once()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code(), refused.effect()), (Kind::Backend, Code::LockingOff, Effect::NotApplied));
    assert_eq!(shared.b.locks.acquire_as(&key(), Owner::draw(), once()).await.unwrap_err().code(), Code::LockingOff);
    assert_eq!(shared.b.engine.all_calls(), calls, "no key is touched");
    let state = shared.b.locks.switch_state().await.unwrap();
    assert_eq!((state.effective(), state.source(), state.live), (Switch::Off, "switch", Some(new.clone())));
    let (old, _) = shared.b.locks.switch(Switch::On, &why()).await.unwrap();
    assert_eq!(old, Some(new));
    assert!(!unlocked(runs(&shared.b).await));
    h.clock.advance(SECOND);
    assert!(!unlocked(runs(&shared.a).await));
}

/// What is held when the switch is flipped stays held: it can be checked, renewed, shown and released.
pub async fn switch_flip_keeps_held_grants(h: &Harness) {
    let shared = Shared::open(h).await;
    let owner = Owner::draw();
    let grant = shared.a.locks.acquire(&key(), crate::lock::LockOptions::fail().with_ttl(TTL)).await.unwrap();
    let kept = shared.a.locks.acquire_as(&named("43"), owner, once()).await.unwrap();
    let _ = shared.a.locks.switch(Switch::Off, &why()).await.unwrap();
    for _ in 0..9 {
        h.advance(TTL / 3).await;
        grant.check().unwrap();
        assert_eq!(shared.a.locks.renew_as(&named("43"), owner, TTL).await.unwrap().token, kept.token);
    }
    assert_eq!(shared.a.locks.status(&key()).await.unwrap().unwrap().token, Some(grant.token()));
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!(shared.a.locks.release_as(&named("43"), &owner).await.unwrap(), Release::Released);
}

/// Whoever waits when locking is switched off waits no longer: the body runs unlocked, or there is no grant.
pub async fn switch_lets_waiters_go_on(h: &Harness) {
    let shared = Shared::open(h).await;
    let held = shared.a.locks.acquire(&key(), once().with_ttl(TTL * 6)).await.unwrap();
    let (first, second) = (shared.b.locks.clone(), shared.b.locks.clone());
    let running = tokio::spawn(async move { first.with_key(&key(), once().with_wait(TTL * 3), |g| async move { g.token() }).await });
    h.waiters(&shared.b, &key(), 1).await;
    let asking = tokio::spawn(async move { second.acquire(&key(), once().with_wait(TTL * 3)).await });
    h.waiters(&shared.b, &key(), 2).await;
    shared.b.seen.outcomes();
    let begun = h.clock.now();
    let _ = shared.a.locks.switch(Switch::Off, &why()).await.unwrap();
    let outcome = h.until_done(running).await.unwrap();
    assert!(matches!(outcome, Outcome::RanUnlocked(None, Why::SwitchedOff)), "{outcome:?}");
    assert_eq!(h.until_done(asking).await.unwrap_err().code(), Code::LockingOff);
    // The first in the queue sees the flip when he looks at the key again.
    let late = h.b.engine.capabilities().look_again * 2 + Duration::from_millis(20);
    assert!(h.clock.now().since(begun) <= SECOND + late, "{:?}", h.clock.now().since(begun));
    let mut outcomes = shared.b.seen.outcomes();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["bypassed", "bypassed", "unlocked"]);
    held.check().unwrap();
}

/// A store that is away changes nothing: what was known last holds, on or off.
pub async fn switch_stays_as_it_was_while_the_store_is_away(h: &Harness) {
    let shared = Shared::open(h).await;
    assert!(!unlocked(runs(&shared.b).await));
    let _ = shared.a.locks.switch(Switch::Off, &why()).await.unwrap();
    shared.faults.away(true);
    h.clock.advance(SECOND * 5);
    assert!(!unlocked(runs(&shared.b).await), "the last that it knew was on");
    assert!(unlocked(runs(&shared.a).await));
    assert_eq!(shared.b.locks.switch_state().await.unwrap_err().kind(), Kind::Backend);
    shared.faults.away(false);
    h.clock.advance(SECOND);
    assert!(unlocked(runs(&shared.b).await));
    shared.faults.away(true);
    h.clock.advance(SECOND * 5);
    assert!(unlocked(runs(&shared.b).await), "the last that it knew was off");
}

/// The configuration's off is final: the live switch says so instead of doing nothing.
pub async fn switch_on_is_refused_by_the_configuration(h: &Harness) {
    let shared = Shared::open(h).await;
    let pinned = shared.a.again(&h.clock, |config| {
        config.enabled = false;
        config.commits = Some(shared.queue.clone());
    });
    let error = pinned.locks.switch(Switch::On, &why()).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Conflict, Code::StateConflict, Effect::NotApplied));
    assert!(shared.done().await.is_empty());
    let state = pinned.locks.switch_state().await.unwrap();
    assert_eq!((state.effective(), state.source(), state.live), (Switch::Off, "configuration", None));
    assert_eq!(pinned.locks.health().await, Health::NotAsked);
    // Off is off: recorded for the others.
    let _ = pinned.locks.switch(Switch::Off, &why()).await.unwrap();
    assert!(unlocked(runs(&shared.a).await));
    for error in [
        pinned.locks.list("", None, 1).await.unwrap_err(),
        pinned.locks.break_lock(&key(), &why(), Record::Audited).await.unwrap_err(),
        pinned.locks.adopt(&key(), Owner::draw(), TTL).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::LockingOff);
    }
    assert_eq!(pinned.engine.all_calls(), 0);
}

/// Each flip is kept with who and why, in one commit with the record.
pub async fn switch_leaves_an_entry_with_who_and_why(h: &Harness) {
    let shared = Shared::open(h).await;
    let revision = shared.queue.engine().meta().await.unwrap().revision;
    let _ = shared.a.locks.switch(Switch::Off, &why()).await.unwrap();
    let _ = shared.a.locks.switch(Switch::On, &Reason::new("all is well").unwrap()).await.unwrap();
    assert_eq!(shared.queue.engine().meta().await.unwrap().revision.get(), revision.get() + 2);
    let off = serde_json::json!({"enabled": false, "was": true, "reason": "host 7 is gone"});
    let on = serde_json::json!({"enabled": true, "was": false, "reason": "all is well"});
    let entry = |actor: Option<&str>, data| ("lock.switch".to_owned(), actor.map(str::to_owned), Some("locks/main".to_owned()), data);
    assert_eq!(shared.done().await, [entry(Some("user:7"), off), entry(None, on)]);
    // A commit that fails flips nothing.
    shared.faults.next(store_faults::Fault::Refused);
    shared.a.locks.switch(Switch::Off, &why()).await.unwrap_err();
    assert!(!unlocked(runs(&shared.a).await));
    assert_eq!(shared.done().await.len(), 2);
}

/// There is nowhere to keep a live switch without a store.
pub async fn switch_without_a_store_is_unsupported(h: &Harness) {
    assert_eq!(h.a.locks.switch(Switch::Off, &why()).await.unwrap_err().kind(), Kind::Unsupported);
    let state = h.a.locks.switch_state().await.unwrap();
    assert_eq!((state.effective(), state.source()), (Switch::On, "default"));
    assert!(!unlocked(runs(&h.a).await));
}

/// Locks cost the store one read a second at most.
pub async fn switch_is_read_once_a_second_at_most(h: &Harness) {
    let shared = Shared::open(h).await;
    for _ in 0..30 {
        assert!(!unlocked(runs(&shared.a).await));
        h.clock.advance(SECOND / 10);
    }
    assert_eq!(shared.faults.reads(), 3);
}

/// Health asks the engine, and a dead one is told as dead.
pub async fn health_tells_a_working_engine_from_a_dead_one(h: &Harness) {
    assert!(matches!(h.a.locks.health().await, Health::Answers(_)));
    h.a.engine.fail(Call::Inspect, Fault::Refused);
    assert_eq!(h.a.locks.health().await, Health::Away);
}
