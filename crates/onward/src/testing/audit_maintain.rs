//! Maintenance: what every engine owes that keeps segments.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::task::Poll;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::audit::Harness;
use super::audit_life::{head, present, seq, verified};
use crate::audit::verify::SegmentState;
use crate::audit::{Act, AppendOptions, Chain, Filter, Maintenance, Page, Policies, Policy, Segment, Stage, Step, StepResult, Tick, Trail};
use crate::model::{Data, Entry, RowRef};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Longer than a worker's silence is waited for.
const LATER: Duration = Duration::from_secs(31);

/// The policies of a [`Harness`]: chains that begin with `kept-` go all the way, those with `filed-` up to the archive; those with `seen-`
/// are attested.
pub(super) fn policies() -> Policies {
    let filed = Policy { seal_after: Some(HOUR), segment_rows: 100, archive_after: Some(Duration::ZERO), ..Policy::default() };
    let kept = Policy { purge_after: Some(DAY), delete_files_after: Some(10 * DAY), ..filed.clone() };
    let seen = Policy { checkpoint_every: Some(HOUR), verify_every: Some(DAY), verify_full_every: Some(7 * DAY), ..Policy::default() };
    let cut = Policy { segment_bytes: 4_000, ..filed.clone() };
    let all = Policies::default().with_chain("kept-*", kept).unwrap().with_chain("filed-*", filed).unwrap();
    all.with_chain("seen-*", seen).unwrap().with_chain("cut-*", cut).unwrap()
}

fn act() -> Act {
    Act::because("retention").by(Some("nightly".to_owned()))
}

pub(super) async fn grown(trail: &Trail, name: &str, entries: usize) -> Chain {
    let chain = trail.chain(name).unwrap();
    for _ in 0..entries / 100 {
        chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    }
    chain
}

async fn tick(trail: &Trail, memory: &mut Maintenance) -> Tick {
    trail.tick(memory, &act(), HOUR).await.unwrap()
}

/// What was done: stage and first entry, a line each.
pub(super) fn done(tick: &Tick) -> Vec<(Stage, u64)> {
    tick.steps.iter().filter(|step| step.result == StepResult::Done).map(|step| (step.stage, step.from)).collect()
}

/// Each stage in its time, to the end of the file; then nothing is due any more, however long it is waited.
pub async fn what_is_due_is_done_and_an_idle_chain_rests(h: &Harness) {
    let chain = grown(&h.first, "kept-a", 200).await;
    let mut memory = Maintenance::default();
    assert_eq!(tick(&h.first, &mut memory).await, Tick::default(), "nothing is an hour old");
    h.clock.advance(HOUR);
    let first = tick(&h.first, &mut memory).await;
    let sealed = [(Stage::Seal, 1), (Stage::Seal, 101), (Stage::Seal, 201)];
    let archived = [(Stage::Archive, 1), (Stage::Archive, 101), (Stage::Archive, 201)];
    assert_eq!(done(&first), [sealed, archived].concat(), "{first:?}");
    assert_eq!(tick(&h.first, &mut memory).await, Tick::default());
    verified(&chain).await;
    h.clock.advance(DAY);
    assert_eq!(done(&tick(&h.first, &mut memory).await), [(Stage::Purge, 1), (Stage::Purge, 101), (Stage::Purge, 201)]);
    let left = present(&chain).await;
    assert_eq!(verified(&chain).await.rows_known, head(&chain).await - left);
    // What was restored until a time goes again then, not sooner.
    let until = crate::time::Timestamp::from_micros(h.clock.wall().as_micros() + 60_000_000);
    chain.restore(seq(101), Some(until), &act()).await.unwrap();
    h.clock.advance(Duration::from_secs(59));
    assert_eq!(tick(&h.first, &mut memory).await, Tick::default());
    h.clock.advance(Duration::from_secs(1));
    assert_eq!(done(&tick(&h.first, &mut memory).await), [(Stage::Purge, 101)]);
    h.clock.advance(10 * DAY);
    let files = tick(&h.first, &mut memory).await;
    assert_eq!(done(&files), [(Stage::DeleteFile, 1), (Stage::DeleteFile, 101), (Stage::DeleteFile, 201)]);
    let end = head(&chain).await;
    for _ in 0..3 {
        h.clock.advance(100 * DAY);
        assert_eq!(tick(&h.first, &mut memory).await, Tick::default(), "control entries alone are not sealed");
    }
    assert_eq!(head(&chain).await, end);
    verified(&chain).await;
    let reasons = Filter { kind: Some("segment.purged".to_owned()), actor: Some("nightly".to_owned()), ..Filter::default() };
    let purged = chain.query(&reasons, Page::default()).await.unwrap().items;
    assert_eq!(purged.len(), 4);
    assert!(purged.iter().all(|entry| String::from_utf8_lossy(&entry.data).contains("\"reason\":\"retention\"")));
}

/// One chain cannot be purged; the others, and its own other stages, go on; it rests longer from time to time.
pub async fn one_broken_chain_does_not_stop_maintain(h: &Harness) {
    // The second handle has no key to sign a checkpoint with.
    let broken = grown(&h.second, "kept-a", 100).await;
    let mut memory = Maintenance::default();
    h.clock.advance(HOUR);
    tick(&h.second, &mut memory).await;
    h.clock.advance(DAY);
    grown(&h.second, "kept-a", 100).await;
    grown(&h.second, "kept-b", 100).await;
    grown(&h.second, "filed-c", 100).await;
    h.clock.advance(HOUR);
    let failed = |tick: &Tick| tick.steps.iter().filter(|step| step.result == StepResult::Failed).count();
    let second = tick(&h.second, &mut memory).await;
    assert_eq!((failed(&second), second.more), (1, false), "{second:?}");
    assert!(second.overdue_ms >= 3_600_000, "{second:?}");
    let why: Vec<&Step> = second.steps.iter().filter(|step| step.result == StepResult::Failed).collect();
    assert!(why.iter().all(|step| step.stage == Stage::Purge && step.chain == "kept-a" && step.why.is_some() && step.code.is_some()));
    for chain in ["kept-a", "kept-b", "filed-c"] {
        let segments = h.second.chain(chain).unwrap().segments(None).await.unwrap();
        assert!(segments.iter().all(|segment| segment.state == SegmentState::Archived), "{chain}: {segments:?}");
    }
    // It rests between two tries, at most an hour.
    let mut tries = 0;
    for _ in 0..200 {
        tries += failed(&tick(&h.second, &mut memory).await);
    }
    assert!(tries < 100, "{tries} of 200 ticks at one moment");
    h.clock.advance(HOUR);
    let again = tick(&h.second, &mut memory).await;
    assert_eq!((failed(&again), again.overdue_ms >= second.overdue_ms), (1, true), "{again:?}");
    // Whoever has the key does it.
    assert_eq!(done(&tick(&h.first, &mut Maintenance::default()).await), [(Stage::Purge, 1), (Stage::Purge, 101)]);
    assert_eq!(broken.segment(seq(1)).await.unwrap().state, SegmentState::Purged);
    verified(&h.first.chain("kept-a").unwrap()).await;
}

/// A hold keeps one segment; nothing of it is late.
pub async fn a_held_segment_waits_and_the_rest_goes_on(h: &Harness) {
    let chain = grown(&h.first, "kept-a", 200).await;
    let mut memory = Maintenance::default();
    h.clock.advance(HOUR);
    tick(&h.first, &mut memory).await;
    let (hold, _) = chain.hold(Some(seq(120)), Some(seq(130)), &act()).await.unwrap();
    h.clock.advance(DAY);
    let held = tick(&h.first, &mut memory).await;
    assert_eq!(done(&held), [(Stage::Purge, 1), (Stage::Purge, 201)]);
    assert_eq!((held.held, held.overdue_ms), (1, 0), "{held:?}");
    assert!(h.first.check().await.unwrap().iter().all(|finding| finding.grade == crate::observe::Grade::Fine));
    chain.release_hold(&hold.id, &act()).await.unwrap();
    h.clock.advance(2 * HOUR);
    assert!(h.first.check().await.unwrap().iter().any(|finding| finding.grade == crate::observe::Grade::Warning), "late by now");
    assert_eq!(done(&tick(&h.first, &mut memory).await), [(Stage::Purge, 101)]);
    verified(&chain).await;
}

/// It tells what it would do, and nothing is written.
pub async fn a_dry_tick_changes_nothing(h: &Harness) {
    let chain = grown(&h.first, "kept-a", 100).await;
    h.clock.advance(HOUR);
    let revision = async || h.first.queue().engine().meta().await.unwrap().revision;
    for (stages, from) in [(vec![Stage::Seal], 1), (vec![Stage::Purge, Stage::Purge], 1)] {
        let at = revision().await;
        let planned = h.first.tick(&mut Maintenance::default(), &act().dry(), HOUR).await.unwrap();
        assert_eq!(planned.steps.iter().map(|step| step.stage).collect::<Vec<_>>(), stages, "{planned:?}");
        assert!(planned.steps.iter().all(|step| step.result == StepResult::Planned) && planned.steps[0].from == from);
        assert_eq!(revision().await, at);
        tick(&h.first, &mut Maintenance::default()).await;
        h.clock.advance(DAY);
    }
    verified(&chain).await;
}

/// Its worker died between two batches, or in a restore.
pub async fn what_a_dead_worker_left_is_finished_by_the_next_tick(h: &Harness) {
    let chain = grown(&h.first, "filed-a", 300).await;
    chain.seal(Some(seq(300)), &act()).await.unwrap();
    chain.archive(seq(1), &act()).await.unwrap();
    let why = act();
    for (half, whole) in [(SegmentState::Purging, SegmentState::Purged), (SegmentState::Restoring, SegmentState::Archived)] {
        let mut dying: BoxFuture<'_, crate::Result<Segment>> = match half {
            SegmentState::Purging => Box::pin(chain.purge(seq(1), &why)),
            _ => Box::pin(chain.restore(seq(1), None, &why)),
        };
        while chain.segment(seq(1)).await.unwrap().state != half {
            let _ = std::future::poll_fn(|cx| Poll::Ready(dying.as_mut().poll(cx))).await;
            tokio::task::yield_now().await;
        }
        drop(dying);
        let waiting = tick(&h.first, &mut Maintenance::default()).await;
        assert!(done(&waiting).is_empty(), "the worker may live: {waiting:?}");
        h.clock.advance(LATER);
        assert_eq!(done(&tick(&h.first, &mut Maintenance::default()).await), [(Stage::Finish, 1)]);
        assert_eq!(chain.segment(seq(1)).await.unwrap().state, whole);
        verified(&chain).await;
    }
}

/// Two that maintain at one time: no step happens twice.
pub async fn two_ticks_at_once_take_each_step_once(h: &Harness) {
    let chain = grown(&h.first, "filed-a", 300).await;
    h.clock.advance(HOUR);
    let (mut one, mut two) = (Maintenance::default(), Maintenance::default());
    let (first, second) = tokio::join!(tick(&h.first, &mut one), tick(&h.second, &mut two));
    let none_failed = |tick: &Tick| tick.steps.iter().all(|step| step.result != StepResult::Failed);
    assert!(none_failed(&first) && none_failed(&second), "{first:?} {second:?}");
    // What one of them was at when the other looked is left for the next time.
    h.clock.advance(LATER);
    tick(&h.first, &mut Maintenance::default()).await;
    for kind in ["segment.sealed", "segment.archived"] {
        let filter = Filter { kind: Some(kind.to_owned()), ..Filter::default() };
        let steps = chain.query(&filter, Page::default()).await.unwrap().items.len();
        assert_eq!(steps, chain.segments(None).await.unwrap().len(), "{kind}: {first:?} {second:?}");
    }
    verified(&chain).await;
}

/// A clock that jumps ahead by years destroys four files of a chain in an hour, not all of them.
pub async fn files_go_a_few_an_hour(h: &Harness) {
    let chain = grown(&h.first, "kept-a", 600).await;
    for _ in 0..3 {
        h.clock.advance(1_000 * DAY);
        tick(&h.first, &mut Maintenance::default()).await;
        tick(&h.first, &mut Maintenance::default()).await;
    }
    let gone = async || chain.segments(None).await.unwrap().iter().filter(|segment| segment.state == SegmentState::FilePurged).count();
    assert_eq!(gone().await, 4);
    h.clock.advance(HOUR);
    tick(&h.first, &mut Maintenance::default()).await;
    assert_eq!(gone().await, 7);
    verified(&chain).await;
}

/// A segment is at most so long, unless its first entry alone is longer.
pub async fn a_segment_ends_before_the_entry_that_would_be_too_much(h: &Harness) {
    let chain = h.first.chain("cut-a").unwrap();
    for bytes in [1_000, 1_000, 1_000, 1_000, 1_000, 9_000, 9_000, 100, 1_000] {
        chain.append(Entry::new("order.paid").with_data(Data::bytes(vec![7; bytes])), AppendOptions::new()).await.unwrap();
    }
    h.clock.advance(HOUR);
    let sealed = tick(&h.first, &mut Maintenance::default()).await;
    let segments = chain.segments(None).await.unwrap();
    let told: Vec<_> = sealed.steps.iter().filter(|step| step.stage == Stage::Seal).map(|step| (step.from, step.to)).collect();
    assert_eq!(told, segments.iter().map(|segment| (segment.from, segment.to)).collect::<Vec<_>>(), "{sealed:?}");
    let bytes = async |range: std::ops::RangeInclusive<u64>| {
        let mut sum = 0;
        for at in range {
            sum += RowRef::from(&chain.get(seq(at)).await.unwrap()).bytes();
        }
        sum
    };
    let cut: Vec<_> = segments.iter().filter(|segment| segment.to < 10).collect();
    assert!(cut.len() >= 4, "two are too long for any other: {segments:?}");
    for segment in cut {
        let (own, more) = (bytes(segment.from..=segment.to).await, bytes(segment.from..=segment.to + 1).await);
        assert!((own <= 4_000 || segment.rows() == 1) && more > 4_000, "{segment:?}: {own} bytes, {more} with the next");
    }
    verified(&chain).await;
}

/// No time at all: nothing is done, and each chain gets its turn.
pub async fn a_tick_whose_time_is_over_goes_on_with_the_next_chain(h: &Harness) {
    for name in ["filed-a", "filed-b"] {
        grown(&h.first, name, 100).await;
    }
    h.clock.advance(HOUR);
    let mut memory = Maintenance::default();
    let none = h.first.tick(&mut memory, &act(), Duration::ZERO).await.unwrap();
    assert!(none.more && none.steps.is_empty(), "{none:?}");
    // The watcher moves the clock: the time is over when the first step is done.
    let mut chains = Vec::new();
    for _ in 0..2 {
        let clock = h.clock.clone();
        let slow = act().watched(move |_, _| clock.advance(Duration::from_secs(2)));
        let one = h.first.tick(&mut memory, &slow, Duration::from_secs(1)).await.unwrap();
        assert!(one.more, "{one:?}");
        chains.extend(one.steps.iter().map(|step| step.chain.clone()));
    }
    assert_eq!(chains, ["filed-a", "filed-b"]);
    assert!(!tick(&h.first, &mut memory).await.more);
}
