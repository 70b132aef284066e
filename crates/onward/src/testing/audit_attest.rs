//! Checkpoints and verifications by maintenance: what every engine owes that keeps segments.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::audit::Harness;
use super::audit_life::head;
use super::audit_maintain::{DAY, HOUR, done, grown};
use crate::audit::verify::{Check, Extent, SavedHead, Verdict};
use crate::audit::{Act, Maintenance, Stage, StepResult, Tick, Trail};
use crate::model::Hash;

const MINUTE: Duration = Duration::from_secs(60);

fn act() -> Act {
    Act::because("retention")
}

/// Takes what is due; the clock moves a little while a verification keeps its pace.
async fn tick(h: &Harness, trail: &Trail, memory: &mut Maintenance, act: &Act) -> Tick {
    let mut tick = pin!(trail.tick(memory, act, HOUR));
    std::future::poll_fn(|cx| match tick.as_mut().poll(cx) {
        Poll::Ready(tick) => Poll::Ready(tick.unwrap()),
        Poll::Pending => {
            h.clock.advance(Duration::from_micros(10));
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// A chain that rests needs no new one, and who has no key says so instead of failing.
pub async fn a_checkpoint_is_kept_when_a_chain_grew(h: &Harness) {
    let chain = grown(&h.first, "seen-a", 100).await;
    let (mut memory, mut other) = (Maintenance::default(), Maintenance::default());
    assert_eq!(tick(h, &h.first, &mut memory, &act()).await, Tick::default(), "the chain is new");
    for _ in 0..2 {
        h.clock.advance(HOUR);
        assert_eq!(tick(h, &h.second, &mut other, &act()).await, Tick::default(), "it has no key to sign with");
        let kept = tick(h, &h.first, &mut memory, &act()).await;
        assert_eq!((done(&kept), kept.steps[0].to), (vec![(Stage::Checkpoint, 1)], head(&chain).await), "{kept:?}");
        for _ in 0..3 {
            h.clock.advance(2 * HOUR);
            assert_eq!(tick(h, &h.first, &mut memory, &act()).await, Tick::default(), "nothing was appended");
        }
        grown(&h.first, "seen-a", 100).await;
        assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Checkpoint, 1)], "the newest is older than an hour");
        grown(&h.first, "seen-a", 100).await;
        assert_eq!(tick(h, &h.first, &mut Maintenance::default(), &act()).await, Tick::default(), "the newest is young");
    }
    let says = async |trail: &Trail| trail.check().await.unwrap().iter().any(|finding| finding.check == "audit.checkpoint");
    assert!(says(&h.second).await && !says(&h.first).await);
}

/// What came since every day, everything every week; everything each time where nothing outside vouches for the past.
pub async fn a_chain_is_verified_as_often_as_its_policy_says(h: &Harness) {
    let chain = grown(&h.first, "seen-a", 100).await;
    let mut memory = Maintenance::default();
    let said = async || {
        let kept = chain.last_verdict().await.unwrap().unwrap();
        (kept.extent, kept.verdict, kept.attested, kept.to_seq)
    };
    h.clock.advance(DAY);
    let first = tick(h, &h.first, &mut memory, &act()).await;
    assert_eq!((done(&first), first.steps[1].to), (vec![(Stage::Checkpoint, 1), (Stage::Verify, 1)], 101), "{first:?}");
    assert_eq!(said().await, (Extent::Full, Verdict::Ok, true, 101));
    grown(&h.first, "seen-a", 100).await;
    h.clock.advance(DAY - HOUR);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Checkpoint, 1)], "not a day old");
    h.clock.advance(HOUR);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Verify, 102)]);
    assert_eq!(said().await, (Extent::Incremental, Verdict::Ok, true, 201));
    // Also when nothing was appended: files may be gone. And who remembers nothing reads what is kept.
    assert_eq!(tick(h, &h.first, &mut Maintenance::default(), &act()).await, Tick::default());
    h.clock.advance(DAY + MINUTE);
    assert_eq!(done(&tick(h, &h.first, &mut Maintenance::default(), &act()).await), [(Stage::Verify, 202)]);
    h.clock.advance(5 * DAY);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Verify, 1)], "a week after the first");
    assert_eq!(said().await, (Extent::Full, Verdict::Ok, true, 201));
    h.clock.advance(DAY + MINUTE);
    assert_eq!(done(&tick(h, &h.second, &mut Maintenance::default(), &act()).await), [(Stage::Verify, 202)]);
    assert_eq!(said().await, (Extent::Full, Verdict::Ok, false, 201), "it knows no checkpoint");
}

/// A red verdict of everything stays until everything was looked at again.
pub async fn what_came_since_never_clears_a_finding_of_the_whole(h: &Harness) {
    let chain = grown(&h.first, "seen-a", 100).await;
    let mut memory = Maintenance::default();
    h.clock.advance(DAY);
    tick(h, &h.first, &mut memory, &act()).await;
    // A head that this chain never had: as if the chain had been rewritten.
    let saved = SavedHead::of(chain.name(), &chain.head().await.unwrap().unwrap(), h.clock.wall());
    let foreign = SavedHead { hash: Hash::from_bytes([9; 32]), ..saved };
    assert_eq!(chain.verify(Check { saved: Some(foreign), ..Check::default() }).await.unwrap().verdict, Verdict::Broken);
    let verdict = async || chain.last_verdict().await.unwrap().unwrap().verdict;
    h.clock.advance(DAY + MINUTE);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Verify, 102)]);
    assert_eq!(verdict().await, Verdict::Broken);
    h.clock.advance(7 * DAY);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Verify, 1)]);
    assert_eq!(verdict().await, Verdict::Ok);
}

/// It tells what it would do, and nothing is written or verified.
pub async fn a_dry_tick_attests_nothing(h: &Harness) {
    let chain = grown(&h.first, "seen-a", 100).await;
    h.clock.advance(DAY);
    let revision = h.first.queue().engine().meta().await.unwrap().revision;
    let mut memory = Maintenance::default();
    for _ in 0..2 {
        let planned = tick(h, &h.first, &mut memory, &act().dry()).await;
        let stages: Vec<_> = planned.steps.iter().map(|step| (step.stage, step.from, step.to, step.result)).collect();
        assert_eq!(stages, [(Stage::Checkpoint, 1, 101, StepResult::Planned), (Stage::Verify, 1, 101, StepResult::Planned)]);
    }
    assert_eq!(h.first.queue().engine().meta().await.unwrap().revision, revision);
    assert_eq!(chain.last_verdict().await.unwrap(), None);
    assert_eq!(done(&tick(h, &h.first, &mut memory, &act()).await), [(Stage::Checkpoint, 1), (Stage::Verify, 1)]);
}
