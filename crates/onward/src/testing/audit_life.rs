//! The life of segments: what every engine owes that keeps them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use super::audit::Harness;
use super::store_faults::Fault;
use crate::audit::engine::{Batch, Batched, Moved};
use crate::audit::verify::{Archives, Check, Report, SegmentState, Verdict};
use crate::audit::{Act, AppendOptions, Chain, Filter, From, Order, Page, Segment};
use crate::commit::engine::Scan;
use crate::commit::{Commit, CommitOutcome, Guard, WriteCondition};
use crate::model::{Entry, Key, Seq, Version};
use crate::{Code, Kind};

/// Longer than a worker's silence is waited for.
const LATER: Duration = Duration::from_secs(31);

/// Makes one named test for each case, for an engine that keeps segments; `$open` is an async function in scope that returns a fresh
/// [`Harness`].
#[macro_export]
macro_rules! audit_life_conformance {
    ($module:ident, $open:ident) => {
        mod $module {
            $crate::audit_conformance! { @in audit_life $open;
                a_segment_verifies_in_every_state_of_its_life
                a_refusal_writes_nothing
                of_two_workers_one_wins_and_the_other_changes_nothing
                a_paused_worker_that_wakes_late_changes_nothing
                dropped_at_any_await_heal_ends_stable_and_verified
                a_hold_stops_a_running_purge_within_one_batch
                a_dry_run_changes_nothing
                the_head_is_taken_once_a_transition
                purged_entries_are_told_apart_from_missing_ones
                a_lost_answer_to_a_step_writes_one_entry
                a_batch_moves_nothing_unless_every_guard_holds
            }
            $crate::audit_conformance! { @in audit_maintain $open;
                what_is_due_is_done_and_an_idle_chain_rests
                one_broken_chain_does_not_stop_maintain
                a_held_segment_waits_and_the_rest_goes_on
                a_dry_tick_changes_nothing
                what_a_dead_worker_left_is_finished_by_the_next_tick
                two_ticks_at_once_take_each_step_once
                files_go_a_few_an_hour
                a_segment_ends_before_the_entry_that_would_be_too_much
                a_tick_whose_time_is_over_goes_on_with_the_next_chain
            }
            $crate::audit_conformance! { @in audit_attest $open;
                a_checkpoint_is_kept_when_a_chain_grew
                a_chain_is_verified_as_often_as_its_policy_says
                what_came_since_never_clears_a_finding_of_the_whole
                a_dry_tick_attests_nothing
            }
        }
    };
}

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn act() -> Act {
    Act::because("retention")
}

/// Appends entries until the chain has so many.
async fn grown(h: &Harness, to: u64) -> Chain {
    let chain = h.first.chain("orders").unwrap();
    let mut left = to - chain.head().await.unwrap().map_or(1, |head| head.seq.get());
    while left > 0 {
        let some = usize::try_from(left.min(128)).unwrap();
        chain.append_many(vec![Entry::new("order.paid").by("user:7"); some], AppendOptions::new()).await.unwrap();
        left -= some as u64;
    }
    chain
}

/// Verifies everything, the files included, in one thread and in three.
pub(super) async fn verified(chain: &Chain) -> Report {
    let check = |threads| Check { archives: Archives::Read, threads, ..Check::default() };
    let report = chain.verify(check(1)).await.unwrap();
    assert!(report.findings.is_empty() && report.authenticated && report.verdict == Verdict::Ok, "{report}");
    let threads = chain.verify(check(3)).await.unwrap();
    assert_eq!((&threads.findings, threads.root, threads.rows_known), (&report.findings, report.root, report.rows_known), "{threads}");
    report
}

pub(super) async fn head(chain: &Chain) -> u64 {
    chain.head().await.unwrap().unwrap().seq.get()
}

/// How many entries a chain has in its database, by a query of all of them.
pub(super) async fn present(chain: &Chain) -> u64 {
    let (mut count, mut after) = (0, None);
    loop {
        let found = chain.query(&Filter::default(), Page { limit: 1_000, after }).await.unwrap();
        count += found.items.len() as u64;
        match found.next {
            Some(next) => after = Some(next),
            None => return count,
        }
    }
}

/// Sealed, archived, purged, restored, purged again, and without its file: the verifier is content at every step.
pub async fn a_segment_verifies_in_every_state_of_its_life(h: &Harness) {
    let chain = grown(h, 1_300).await;
    let root = verified(&chain).await.root;
    let sealed = chain.seal(Some(seq(1_200)), &act()).await.unwrap();
    assert_eq!((sealed.from, sealed.to, sealed.state), (1, 1_200, SegmentState::Sealed));
    assert_ne!(verified(&chain).await.root, root);
    let archived = chain.archive(seq(1), &act()).await.unwrap();
    assert_eq!((archived.state, archived.generation), (SegmentState::Archived, 2));
    verified(&chain).await;
    let before = chain.prove_inclusion(seq(700), Some(seq(1_300))).await.unwrap();
    let purged = chain.purge(seq(1), &act().by(Some("ops".to_owned()))).await.unwrap();
    assert_eq!((purged.state, purged.generation), (SegmentState::Purged, 4));
    // The creation of the chain is a control entry: it stays.
    assert_eq!(verified(&chain).await.rows_known, 1_199);
    assert_eq!(present(&chain).await, head(&chain).await - 1_199);
    assert_eq!(chain.prove_inclusion(seq(700), Some(seq(1_300))).await.unwrap(), before);
    let restored = chain.restore(seq(1), None, &act()).await.unwrap();
    assert_eq!((restored.state, restored.generation), (SegmentState::Archived, 6));
    assert_eq!(verified(&chain).await.rows_known, 0);
    assert_eq!(present(&chain).await, head(&chain).await);
    chain.purge(seq(1), &act()).await.unwrap();
    let second = chain.seal(None, &act()).await.unwrap();
    assert_eq!(second.from, 1_201);
    chain.archive(seq(1_201), &act()).await.unwrap();
    chain.purge(seq(1_201), &act()).await.unwrap();
    let gone = chain.purge_file(seq(1), &act()).await.unwrap();
    assert_eq!((gone.state, gone.generation), (SegmentState::FilePurged, 9));
    let report = verified(&chain).await;
    // What is pinned stays: the creation, and the steps before the second border.
    assert_eq!(report.rows_known, report.to_seq - present(&chain).await);
    let healed = chain.heal(&act()).await.unwrap();
    assert_eq!(healed, crate::audit::Healed::default());
    for range in [(1, 5), (600, 700), (1_190, 1_210)] {
        let check = Check { from: Some(seq(range.0)), to: Some(seq(range.1)), ..Check::default() };
        let report = chain.verify(check).await.unwrap();
        assert_eq!((report.verdict, report.to_seq), (Verdict::Ok, range.1), "{report}");
    }
}

/// What the state forbids leaves no entry, no row and no file.
pub async fn a_refusal_writes_nothing(h: &Harness) {
    let chain = grown(h, 40).await;
    let refused = |error: crate::Error| assert_eq!(error.code(), Code::StateConflict, "{error}");
    assert_eq!(chain.archive(seq(1), &act()).await.unwrap_err().kind(), Kind::NotFound);
    chain.seal(Some(seq(30)), &act()).await.unwrap();
    let before = (head(&chain).await, chain.segments(None).await.unwrap());
    refused(chain.purge(seq(1), &act()).await.unwrap_err());
    refused(chain.restore(seq(1), None, &act()).await.unwrap_err());
    refused(chain.purge_file(seq(1), &act()).await.unwrap_err());
    refused(chain.seal(Some(seq(30)), &act()).await.unwrap_err());
    assert_eq!(chain.archive(seq(1), &Act::because(" ")).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(chain.seal(Some(seq(99)), &act()).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!((head(&chain).await, chain.segments(None).await.unwrap()), before);
    chain.archive(seq(1), &act()).await.unwrap();
    // The second handle has no key to sign a checkpoint with.
    let other = h.second.chain("orders").unwrap();
    assert_eq!(other.purge(seq(1), &act()).await.unwrap_err().kind(), Kind::Unsupported);
    let (hold, late) = chain.hold(Some(seq(30)), Some(seq(30)), &act()).await.unwrap();
    assert_eq!(late, Vec::<u64>::new());
    h.clock.advance(LATER);
    refused(chain.purge(seq(1), &act()).await.unwrap_err());
    chain.release_hold(&hold.id, &act()).await.unwrap();
    assert_eq!(chain.release_hold(&hold.id, &act()).await.unwrap_err().kind(), Kind::NotFound);
    chain.purge(seq(1), &act()).await.unwrap();
    verified(&chain).await;
}

/// Two workers on one segment at one time.
pub async fn of_two_workers_one_wins_and_the_other_changes_nothing(h: &Harness) {
    let chain = grown(h, 300).await;
    let other = h.second.chain("orders").unwrap();
    let (why, to) = (act(), Some(seq(250)));
    let won = |one: &crate::Result<Segment>, two: &crate::Result<Segment>| {
        assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1, "{one:?} {two:?}");
        let lost = one.as_ref().err().or(two.as_ref().err()).unwrap();
        assert_eq!(lost.code(), Code::StateConflict, "{lost}");
    };
    let (one, two) = tokio::join!(chain.seal(to, &why), other.seal(to, &why));
    won(&one, &two);
    let (one, two) = tokio::join!(chain.archive(seq(1), &why), other.archive(seq(1), &why));
    won(&one, &two);
    let controls = Filter { kind: Some("segment.archived".to_owned()), ..Filter::default() };
    assert_eq!(chain.query(&controls, Page::default()).await.unwrap().items.len(), 1);
    verified(&chain).await;
}

/// A worker sleeps longer than it is waited for; another one does its work; the first one wakes.
pub async fn a_paused_worker_that_wakes_late_changes_nothing(h: &Harness) {
    let chain = grown(h, 1_300).await;
    let other = h.second.chain("orders").unwrap();
    chain.seal(Some(seq(1_200)), &act()).await.unwrap();
    let why = act();
    let mut paused = pin!(chain.archive(seq(1), &why));
    // It has taken the segment once that says so.
    while chain.segment(seq(1)).await.unwrap().attempt_until.is_none() {
        let _ = std::future::poll_fn(|cx| Poll::Ready(paused.as_mut().poll(cx))).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(other.archive(seq(1), &act()).await.unwrap_err().code(), Code::StateConflict);
    h.clock.advance(LATER);
    let archived = other.archive(seq(1), &act()).await.unwrap();
    assert_eq!(paused.await.unwrap_err().code(), Code::StateConflict);
    assert_eq!(chain.segment(seq(1)).await.unwrap(), archived);
    verified(&chain).await;
    // A purge that sleeps between two batches, while the segment is restored by another.
    let mut paused = pin!(chain.purge(seq(1), &why));
    while chain.segment(seq(1)).await.unwrap().state != SegmentState::Purging {
        let _ = std::future::poll_fn(|cx| Poll::Ready(paused.as_mut().poll(cx))).await;
        tokio::task::yield_now().await;
    }
    h.clock.advance(LATER);
    other.restore(seq(1), None, &act()).await.unwrap();
    assert!(paused.await.is_err());
    assert_eq!(chain.segment(seq(1)).await.unwrap().state, SegmentState::Archived);
    assert_eq!(verified(&chain).await.rows_known, 0, "the old worker deletes no row that came back");
}

/// Dropped after each number of polls, a whole life heals and verifies.
pub async fn dropped_at_any_await_heal_ends_stable_and_verified(h: &Harness) {
    let chain = grown(h, 700).await;
    let mut polls = 1;
    let mut begins = Vec::new();
    for step in 0.. {
        if step > 40 {
            break;
        }
        // A new segment whenever the last one has gone all its way.
        let last = chain.segments(None).await.unwrap().pop();
        let why = act();
        let dropped = match &last {
            None => cut(chain.seal(Some(seq(600)), &why), polls).await,
            Some(last) => match last.state {
                SegmentState::Sealed => cut(chain.archive(seq(last.from), &why), polls).await,
                SegmentState::Archived if last.generation < 5 => cut(chain.purge(seq(last.from), &why), polls).await,
                SegmentState::Purged => cut(chain.restore(seq(last.from), None, &why), polls).await,
                _ => break,
            },
        };
        begins.push((last.map(|last| last.state), dropped));
        verified(&chain).await;
        h.clock.advance(LATER);
        chain.heal(&act()).await.unwrap();
        verified(&chain).await;
        let stable = |segment: &Segment| !matches!(segment.state, SegmentState::Purging | SegmentState::Restoring);
        assert!(chain.segments(None).await.unwrap().iter().all(stable));
        polls = if dropped { polls + 2 } else { 1 };
    }
    assert!(begins.iter().any(|(_, dropped)| *dropped), "{begins:?}");
}

/// Polls a future a number of times, then drops it; tells whether it was dropped.
async fn cut<T>(future: impl Future<Output = crate::Result<T>>, polls: u32) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(true);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(ended) => {
                ended.unwrap_or_else(|e| panic!("{e}"));
                Poll::Ready(false)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The hold comes between two batches; the purge stalls, verified, and goes on when the hold is gone.
pub async fn a_hold_stops_a_running_purge_within_one_batch(h: &Harness) {
    let chain = grown(h, 3_000).await;
    chain.seal(None, &act()).await.unwrap();
    chain.archive(seq(1), &act()).await.unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let told = done.clone();
    let why = act().watched(move |rows, _| told.store(rows, Ordering::Relaxed));
    let mut purge = pin!(chain.purge(seq(1), &why));
    while done.load(Ordering::Relaxed) == 0 {
        let _ = std::future::poll_fn(|cx| Poll::Ready(purge.as_mut().poll(cx))).await;
        tokio::task::yield_now().await;
    }
    let other = h.second.chain("orders").unwrap();
    let (hold, late) = other.hold(Some(seq(10)), None, &act()).await.unwrap();
    let left = present(&other).await;
    assert_eq!((late, left > 1_000), (vec![1], true));
    assert_eq!(purge.await.unwrap_err().code(), Code::StateConflict);
    assert_eq!(present(&other).await, left, "no row went behind the hold");
    verified(&chain).await;
    h.clock.advance(LATER);
    assert_eq!(chain.heal(&act()).await.unwrap().waiting, [1]);
    assert_eq!(present(&other).await, left);
    chain.release_hold(&hold.id, &act()).await.unwrap();
    assert_eq!(chain.heal(&act()).await.unwrap().finished, [1]);
    assert_eq!(chain.segment(seq(1)).await.unwrap().state, SegmentState::Purged);
    verified(&chain).await;
}

/// Everything is looked at, nothing is written.
pub async fn a_dry_run_changes_nothing(h: &Harness) {
    let chain = grown(h, 50).await;
    let dry = act().dry();
    let revision = async || h.first.queue().engine().meta().await.unwrap().revision;
    let at = revision().await;
    assert_eq!(chain.seal(None, &dry).await.unwrap().to, 50);
    assert_eq!(chain.hold(None, None, &dry).await.unwrap().1, Vec::<u64>::new());
    assert_eq!(revision().await, at);
    chain.seal(Some(seq(40)), &act()).await.unwrap();
    let at = revision().await;
    assert_eq!(chain.archive(seq(1), &dry).await.unwrap().state, SegmentState::Sealed);
    assert_eq!(revision().await, at);
    chain.archive(seq(1), &act()).await.unwrap();
    let at = revision().await;
    chain.purge(seq(1), &dry).await.unwrap();
    assert_eq!((revision().await, present(&chain).await), (at, head(&chain).await));
    chain.purge(seq(1), &act()).await.unwrap();
    let at = revision().await;
    chain.restore(seq(1), None, &dry).await.unwrap();
    chain.purge_file(seq(1), &dry).await.unwrap();
    chain.heal(&dry).await.unwrap();
    assert_eq!(revision().await, at);
    verified(&chain).await;
}

/// INV-6, counted: a transition appends one entry, and nothing else touches the head.
pub async fn the_head_is_taken_once_a_transition(h: &Harness) {
    let chain = grown(h, 2_000).await;
    let mut at = head(&chain).await;
    let mut entries = async |steps: u64| {
        let now = head(&chain).await;
        assert_eq!(now - at, steps);
        at = now;
    };
    chain.seal(Some(seq(1_900)), &act()).await.unwrap();
    entries(1).await;
    chain.archive(seq(1), &act()).await.unwrap();
    entries(1).await;
    chain.purge(seq(1), &act()).await.unwrap();
    entries(2).await;
    chain.restore(seq(1), None, &act()).await.unwrap();
    entries(2).await;
    chain.purge(seq(1), &act()).await.unwrap();
    entries(2).await;
    chain.purge_file(seq(1), &act()).await.unwrap();
    entries(1).await;
}

/// A reader learns that an entry is purged, and by which segment; queries name what they could not see.
pub async fn purged_entries_are_told_apart_from_missing_ones(h: &Harness) {
    let chain = grown(h, 100).await;
    chain.seal(Some(seq(80)), &act()).await.unwrap();
    chain.archive(seq(1), &act()).await.unwrap();
    chain.purge(seq(1), &act()).await.unwrap();
    let end = head(&chain).await;
    let error = chain.get(seq(40)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Expired, Code::CursorCompacted));
    assert_eq!(chain.get(seq(end + 1)).await.unwrap_err().kind(), Kind::NotFound);
    let found = chain.query(&Filter::default(), Page::first(100)).await.unwrap();
    assert_eq!((found.items.len() as u64, found.absent), (end - 79, vec![(1, 80)]));
    let newest = Filter { order: Order::Descending, from: Some(seq(81)), ..Filter::default() };
    assert_eq!(chain.query(&newest, Page::first(100)).await.unwrap().absent, []);
    let mut tail = chain.tail(From::Seq(seq(2)));
    assert_eq!(tail.next().await.unwrap_err().kind(), Kind::Expired);
    assert_eq!(chain.tail(From::Seq(seq(81))).next().await.unwrap().seq, seq(81));
    let mut export = chain.export(Some(seq(5)), Some(seq(9))).await.unwrap();
    assert_eq!(export.next().await.unwrap_err().kind(), Kind::Expired);
}

/// The commit of a step is applied, and its answer lost: the step is there once.
pub async fn a_lost_answer_to_a_step_writes_one_entry(h: &Harness) {
    let chain = grown(h, 60).await;
    let at = head(&chain).await;
    h.faults.next(Fault::Lost);
    chain.seal(Some(seq(50)), &act()).await.unwrap();
    assert_eq!(head(&chain).await, at + 1);
    h.faults.next(Fault::Lost);
    chain.archive(seq(1), &act()).await.unwrap();
    assert_eq!((head(&chain).await, chain.segment(seq(1)).await.unwrap().generation), (at + 2, 2));
    verified(&chain).await;
}

/// The engine's own step: guards hold in it or nothing moves, and it leaves nothing of its own behind.
pub async fn a_batch_moves_nothing_unless_every_guard_holds(h: &Harness) {
    let chain = grown(h, 20).await;
    let engine = &h.engine;
    let key = |name: &str| Key::new("thing", name).unwrap();
    let commit = Commit::new().put(key("there"), &1, WriteCondition::MustCreate);
    let CommitOutcome::Committed(receipt) = h.first.queue().submit(commit).await.unwrap() else { panic!("it is new") };
    let at = receipt.writes[0].version;
    let known = engine.hashes(chain.name(), 1, 20).await.unwrap();
    let entries = chain.query(&Filter::default(), Page::default()).await.unwrap().items;
    let run = async |guards: &[Guard], rows: Moved| {
        engine.move_rows(Batch { chain: chain.name().clone(), guards: guards.to_vec(), rows }).await.unwrap()
    };
    let good = [Guard::At(key("there"), at), Guard::Absent(key("absent")), Guard::Exists(key("there"))];
    for bad in [
        Guard::At(key("there"), Version::new(at.get() + 1).unwrap()),
        Guard::At(key("absent"), at),
        Guard::Absent(key("there")),
        Guard::Exists(key("absent")),
    ] {
        let mut guards = good.to_vec();
        guards.push(bad.clone());
        assert_eq!(run(&guards, Moved::Out(known.clone())).await, Batched::Refused, "{bad:?}");
        assert_eq!(present(&chain).await, 20);
    }
    // Neither a control entry nor what is not what it should be goes.
    let forged = vec![known[0], (5, known[5].1)];
    assert_eq!(run(&good, Moved::Out(forged)).await, Batched::Done(0));
    assert_eq!(run(&good, Moved::Out(known[4..].to_vec())).await, Batched::Done(16));
    assert_eq!(present(&chain).await, 4);
    let mut guards = good.to_vec();
    guards.push(Guard::Exists(key("absent")));
    assert_eq!(run(&guards, Moved::In(entries.clone())).await, Batched::Refused);
    assert_eq!(run(&good, Moved::In(entries.clone())).await, Batched::Done(16));
    assert_eq!(run(&good, Moved::In(entries)).await, Batched::Done(0));
    let things = Scan { namespace: "default".to_owned(), kind: "thing".to_owned(), limit: 10, ..Scan::default() };
    assert_eq!(h.first.queue().engine().list(things).await.unwrap().items.len(), 1);
    verified(&chain).await;
}
