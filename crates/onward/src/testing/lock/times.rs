//! When a lease ends, and what its holder knows of it (C5).

use std::time::Duration;

use super::{Harness, TTL, key, margin, named, once};
use crate::Kind;
use crate::lock::{LockOptions, LossReason, Owner, Release, Renewal, Renewed};
use crate::testing::lock_faults::{Call, Fault, Gate};

const STEP: Duration = Duration::from_millis(1);

/// A lease ends by itself, to the moment: busy right before, free right at it.
pub async fn lease_ends_after_its_ttl(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL - STEP);
    assert_eq!(h.b.finds_busy(&key()).await, STEP);
    h.clock.advance(STEP);
    assert!(h.b.take(&key()).await.token() > grant.token());
}

/// A held grant is renewed in the background for as long as it is held.
///
/// Must not come back: a ttl shorter than the work under it (appwrite/appwrite#13309).
pub async fn renewed_lease_outlives_its_first_ttl(h: &Harness) {
    let grant = h.a.locks.acquire(&key(), LockOptions::fail().with_ttl(TTL)).await.unwrap();
    let token = grant.token();
    for _ in 0..40 {
        h.advance(TTL / 8).await;
        grant.check().unwrap();
        h.b.finds_busy(&key()).await;
    }
    assert_eq!(grant.token(), token);
    // Every third of a ttl, no more often: 5 ttl in steps of an eighth.
    assert!((13..=15).contains(&h.a.engine.calls(Call::Renew)), "{} renewals", h.a.engine.calls(Call::Renew));
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

/// A process that stops renewing loses its lease after one ttl, here and there.
///
/// Must not come back: a lock without an end that leaked for good (appwrite/appwrite#13031).
pub async fn a_lease_ends_when_its_process_stops_renewing(h: &Harness) {
    let grant = h.a.locks.acquire(&key(), LockOptions::fail().with_ttl(TTL)).await.unwrap();
    h.a.engine.fail(Call::Renew, Fault::RequestLost);
    let mut steps = 0;
    while grant.check().is_ok() {
        h.advance(TTL / 24).await;
        steps += 1;
        assert!(steps <= 24, "held for more than a ttl");
    }
    assert!(h.a.engine.calls(Call::Renew) >= 4, "several tries before the end");
    h.advance(TTL / 24).await;
    let _next = h.b.take(&key()).await;
}

/// A renewal moves both views of the lease to a full ttl from its send.
pub async fn renewal_extends_to_the_full_ttl(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL / 2);
    assert_eq!(grant.remaining(), TTL / 2 - margin(TTL));
    assert_eq!(grant.renew().await.unwrap(), TTL - margin(TTL));
    assert_eq!(h.b.finds_busy(&key()).await, TTL);
}

/// A missing lease is lost; renewing creates nothing.
pub async fn renewal_after_loss_creates_nothing(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL);
    assert_eq!(grant.renew().await.unwrap_err().kind(), Kind::Lost);
    let late = Renewal { key: key(), owner: *grant.owner(), ttl: TTL };
    assert_eq!(h.a.engine.inner().renew(vec![late]).await.unwrap(), [None], "also if it reaches the engine");
    assert!(h.b.locks.status(&key()).await.unwrap().is_none());
    let error = h.a.locks.renew_as(&key(), *grant.owner(), TTL).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Lost, crate::Code::LeaseLost));
    assert!(h.b.locks.status(&key()).await.unwrap().is_none());
}

/// A lease is extended by its owner only.
pub async fn renewal_by_another_owner_changes_nothing(h: &Harness) {
    let grant = h.a.take(&key()).await;
    h.clock.advance(TTL / 2);
    assert_eq!(h.b.locks.renew_as(&key(), Owner::draw(), TTL).await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(h.b.finds_busy(&key()).await, TTL / 2);
    grant.check().unwrap();
}

/// A renewal for less than what remains shortens nothing.
pub async fn renewal_never_shortens(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let renewed = h.a.locks.renew_as(&key(), *grant.owner(), TTL / 5).await.unwrap();
    assert_eq!(renewed.remaining, TTL);
    assert_eq!(h.b.finds_busy(&key()).await, TTL);
}

/// One call renews many and answers for each in its place.
pub async fn batch_renewal_answers_for_each_grant(h: &Harness) {
    let (owner, other) = (Owner::draw(), Owner::draw());
    let live = h.a.locks.acquire_as(&named("live"), owner, once()).await.unwrap();
    h.a.locks.acquire_as(&named("ended"), owner, once().with_ttl(STEP * 20)).await.unwrap();
    h.a.locks.acquire_as(&named("another's"), other, once()).await.unwrap();
    h.clock.advance(STEP * 20);
    let batch = ["ended", "live", "another's", "never there", "live"].map(|id| (named(id), owner, TTL * 2));
    let answers = h.b.locks.renew_many(&batch).await.unwrap();
    let shown: Vec<_> = answers.iter().map(|answer| answer.map(|leased| (leased.token, leased.remaining))).collect();
    let renewed = Some((live.token, TTL * 2));
    assert_eq!(shown, [None, renewed, None, None, renewed]);
    assert_eq!(h.a.finds_busy(&named("another's")).await, TTL - STEP * 20);
    let _free = h.a.take(&named("never there")).await;
    assert!(h.b.locks.renew_many(&[]).await.unwrap().is_empty());
}

/// The time that a request is on its way counts against the lease.
///
/// Must not come back: validity that was counted from the reply.
pub async fn validity_counts_from_before_the_send(h: &Harness) {
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Acquire, Fault::SlowReply(gate.clone()));
    let handle = h.a.clone();
    let asked = tokio::spawn(async move { handle.try_take(&key()).await });
    gate.reached().await;
    h.advance(Duration::from_millis(700)).await;
    gate.open();
    let grant = asked.await.unwrap().unwrap();
    assert_eq!(grant.remaining(), TTL - margin(TTL) - Duration::from_millis(700));
    // The same for a request that was late on its way there: the engine's lease outlives the holder's view.
    let gate = Gate::shut();
    h.a.engine.fail_once(Call::Renew, Fault::SlowRequest(gate.clone()));
    let asked = tokio::spawn(async move {
        let renewed = grant.renew().await;
        (grant, renewed)
    });
    gate.reached().await;
    h.advance(Duration::from_millis(900)).await;
    gate.open();
    let (grant, renewed) = asked.await.unwrap();
    assert_eq!(renewed.unwrap(), TTL - margin(TTL) - Duration::from_millis(900));
    assert_eq!(h.b.finds_busy(&key()).await, TTL);
    drop(grant);
}

/// The holder knows of the loss before the engine can give the key away, with the engine gone too.
///
/// Must not come back: a watchdog that stopped and told nobody (redisson/redisson#5698).
pub async fn lost_fires_before_another_is_granted(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let view = grant.view();
    h.a.engine.fail(Call::Renew, Fault::Refused);
    let told = tokio::spawn(async move { view.lost().await });
    h.advance(TTL - margin(TTL) - STEP).await;
    assert!(!told.is_finished());
    grant.check().unwrap();
    h.advance(STEP).await;
    assert!(told.is_finished(), "the loss shows a margin early");
    assert_eq!(told.await.unwrap(), LossReason::Expired);
    assert_eq!(h.b.finds_busy(&key()).await, margin(TTL));
    h.clock.advance(margin(TTL));
    let _next = h.b.take(&key()).await;
}

/// After the loss every question says so, and nothing is asked of the engine.
pub async fn check_refuses_after_loss(h: &Harness) {
    let grant = h.a.take(&key()).await;
    let view = grant.view();
    h.clock.advance(TTL - margin(TTL));
    for error in [grant.check().unwrap_err(), view.check().unwrap_err(), grant.renew().await.unwrap_err()] {
        assert_eq!((error.kind(), error.code()), (Kind::Lost, crate::Code::LeaseLost));
    }
    assert_eq!((grant.remaining(), view.remaining()), (Duration::ZERO, Duration::ZERO));
    assert_eq!(grant.lost().await, LossReason::Expired);
    assert_eq!(h.a.engine.calls(Call::Renew), 0);
    assert_eq!(grant.release().await.unwrap(), Release::AlreadyLost);
}

/// Wall time may jump to and fro: no lease and no view of one moves.
pub async fn wall_clock_jumps_move_no_validity(h: &Harness) {
    let grant = h.a.take(&key()).await;
    for jump in [86_400_000_000, -2 * 86_400_000_000, 400 * 86_400_000_000, -4_000 * 86_400_000_000] {
        h.clock.step_wall(jump);
        assert_eq!(grant.remaining(), TTL - margin(TTL));
        assert_eq!(h.b.finds_busy(&key()).await, TTL);
    }
    let renewal = Renewal { key: key(), owner: *grant.owner(), ttl: TTL };
    let renewed = h.b.engine.inner().renew(vec![renewal]).await.unwrap();
    assert_eq!(renewed, [Some(Renewed { token: grant.token(), remaining: TTL })]);
}

/// Renewals of one process go to the engine many at a time.
pub async fn many_grants_are_renewed_in_few_calls(h: &Harness) {
    let mut grants = Vec::new();
    for id in 0..450 {
        let options = LockOptions::fail().with_ttl(TTL).with_wait(Duration::ZERO);
        grants.push(h.a.locks.acquire(&named(&id.to_string()), options).await.unwrap());
    }
    h.advance(TTL / 3).await;
    assert_eq!(h.a.engine.calls(Call::Renew), 3, "200 a call");
    h.advance(TTL * 2 / 3).await;
    assert!(grants.iter().all(|grant| grant.check().is_ok()));
}
