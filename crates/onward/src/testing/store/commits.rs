//! Commits: atomicity, guards, fences, request ids, entries.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use std::collections::BTreeSet;

use super::*;
use crate::commit::{Guard, Reason, Window};
use crate::model::{ChainName, Entry};
use crate::testing::history::{FencedWrite, check_fences};
use crate::{Code, Effect};

fn chain(name: &str) -> ChainName {
    ChainName::new(name).unwrap()
}

pub async fn a_commit_is_whole_or_absent(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let before = h.a.meta().await;
    let make = || {
        Commit::new()
            .put(key("y"), &1, WriteCondition::MustCreate)
            .put(key("x"), &2, WriteCondition::MatchVersion(version(99)))
            .fence(lock("l"), token(5))
            .audit(chain("main"), Entry::new("a.b"))
            .invalidate("ns", ["k"])
    };
    let conflicts = h.b.lose(make).await;
    assert_eq!(conflicts.iter().map(|conflict| (conflict.index, conflict.reason)).collect::<Vec<_>>(), [(1, Reason::Stale)]);
    assert!(h.a.get("y").await.is_none());
    assert_eq!(h.a.meta().await, before);
    // A delete of what is not there refuses the rest as well.
    h.b.lose(|| Commit::new().put(key("y"), &1, WriteCondition::MustCreate).delete(key("x2"), version(1))).await;
    assert!(h.a.get("y").await.is_none());
    let receipt =
        h.b.apply(|| {
            Commit::new().put(key("y"), &1, WriteCondition::MustCreate).put(key("x"), &2, WriteCondition::MatchVersion(first.version))
        })
        .await;
    assert!(receipt.writes.iter().all(|written| written.revision == receipt.revision));
    let (x, y) = (h.a.get("x").await.unwrap(), h.a.get("y").await.unwrap());
    assert_eq!((x.value, x.meta.revision), (2, receipt.revision));
    assert_eq!((y.value, y.meta.revision), (1, receipt.revision));
}

pub async fn a_refused_commit_leaves_its_neighbours_alone(h: &Harness) {
    let first = h.a.create("x", 0).await;
    // Held at the first write, all others wait and become one batch.
    h.a.faults.hold();
    let mut opener = Box::pin(h.a.create("opener", 1));
    poll_once(opener.as_mut()).await;
    h.a.faults.stopped().await;
    let mut others = Vec::new();
    for i in 0..10_i64 {
        let at = if i % 3 == 0 { version(77) } else { first.version };
        others.push(async move {
            let name = format!("n{i}");
            h.a.commit(|| {
                Commit::new()
                    .put(key(&name), &i, WriteCondition::MustCreate)
                    .guard(Guard::At(key("x"), at))
                    .audit(chain("main"), Entry::new("a.b"))
            })
            .await
        });
    }
    let mut others = Box::pin(join_all(others));
    poll_once(others.as_mut()).await;
    h.a.faults.release();
    let (_, outcomes) = tokio::join!(opener, others);
    let mut seqs = Vec::new();
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            CommitOutcome::Committed(receipt) => {
                assert!(i % 3 != 0);
                seqs.push(receipt.audit[0].seq.get());
            }
            CommitOutcome::Conflict(_) => assert!(i % 3 == 0),
            CommitOutcome::Fenced { .. } => panic!("nobody is fenced"),
        }
    }
    seqs.sort_unstable();
    assert_eq!(seqs, [2, 3, 4, 5, 6, 7], "no hole where a neighbour was refused");
    for i in 0..10 {
        assert_eq!(h.b.get(&format!("n{i}")).await.is_some(), i % 3 != 0);
    }
}

pub async fn commits_of_a_batch_see_each_other_in_order(h: &Harness) {
    h.a.faults.calm();
    h.a.faults.hold();
    let mut opener = Box::pin(h.a.create("opener", 1));
    poll_once(opener.as_mut()).await;
    h.a.faults.stopped().await;
    let writes = h.a.faults.writes();
    let mut rest = Box::pin(join_all(vec![
        h.a.put("x", 1, WriteCondition::MustCreate),
        h.a.put("x", 2, WriteCondition::MustCreate),
        h.a.put("x", 3, WriteCondition::MatchVersion(version(1))),
    ]));
    poll_once(rest.as_mut()).await;
    h.a.faults.release();
    let (_, rest) = tokio::join!(opener, rest);
    let Ok([one, two, three]) = <[_; 3]>::try_from(rest) else { panic!("three answers") };
    let one = won(one);
    let conflict = lost(two);
    assert_eq!((conflict.reason, conflict.version, conflict.current.unwrap().value), (Reason::Exists, Some(one.version), 1));
    let three = won(three);
    assert_eq!(three.version.get(), 2);
    assert!(three.revision > one.revision);
    assert_eq!(h.a.faults.writes() - writes, 2, "all that waited is one transaction");
    let states: Vec<_> = h.b.log(0).await.iter().flat_map(|record| record.changes.clone()).collect();
    let values: Vec<i64> = states.iter().map(|change| change.after.as_ref().unwrap().value.read().unwrap()).collect();
    assert_eq!(values, [1, 1, 3], "the log has each state, not only the last of the batch");
}

pub async fn a_failed_guard_refuses_every_write(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let second = h.a.replace("x", 2, first.version).await;
    let before = h.a.meta().await;
    for guard in [Guard::Absent(key("x")), Guard::At(key("x"), first.version), Guard::Exists(key("y")), Guard::At(key("y"), version(1))] {
        let conflicts = h.b.lose(|| Commit::new().put(key("z"), &1, WriteCondition::MustCreate).guard(guard.clone())).await;
        assert_eq!(conflicts.len(), 1);
        assert_eq!((conflicts[0].reason, conflicts[0].index), (Reason::Guard, 0));
        let shown = conflicts[0].current.as_ref().map(|object| object.meta.version);
        assert_eq!(shown, (conflicts[0].key == key("x")).then_some(second.version));
    }
    assert!(h.a.get("z").await.is_none());
    assert_eq!(h.a.meta().await, before);
    let guards = [Guard::Absent(key("y")), Guard::Exists(key("x")), Guard::At(key("x"), second.version)];
    let make = || guards.iter().fold(Commit::new().put(key("z"), &1, WriteCondition::MustCreate), |c, g| c.guard(g.clone()));
    assert!(h.b.apply(make).await.changed);
}

pub async fn an_absent_guard_holds_against_a_concurrent_create(h: &Harness) {
    for round in 0..20 {
        let (left, right) = (format!("l{round}"), format!("r{round}"));
        let one = h.a.commit(|| Commit::new().put(key(&left), &1, WriteCondition::MustCreate).guard(Guard::Absent(key(&right))));
        let two = h.b.commit(|| Commit::new().put(key(&right), &1, WriteCondition::MustCreate).guard(Guard::Absent(key(&left))));
        let (one, two) = tokio::join!(one, two);
        let applied = [one, two].iter().filter(|outcome| matches!(outcome, CommitOutcome::Committed(_))).count();
        assert_eq!(applied, 1, "either object may exist, not both");
        assert!(h.a.get(&left).await.is_some() != h.b.get(&right).await.is_some());
    }
}

pub async fn guards_see_the_state_before_the_commit(h: &Harness) {
    let make = || Commit::new().put(key("x"), &1, WriteCondition::MustCreate).guard(Guard::Absent(key("x")));
    assert!(h.a.apply(make).await.writes[0].created);
    let conflicts = h.b.lose(|| Commit::new().put(key("y"), &1, WriteCondition::MustCreate).guard(Guard::Exists(key("y")))).await;
    assert_eq!(conflicts[0].reason, Reason::Guard);
}

pub async fn every_loser_is_listed(h: &Harness) {
    h.a.create("x", 1).await;
    let conflicts =
        h.b.lose(|| {
            Commit::new()
                .put(key("x"), &2, WriteCondition::MustCreate)
                .put(key("fine"), &2, WriteCondition::MustCreate)
                .put(key("gone"), &2, WriteCondition::MustExist)
                .delete(key("x2"), version(3))
        })
        .await;
    let listed: Vec<_> = conflicts.iter().map(|conflict| (conflict.index, conflict.reason)).collect();
    assert_eq!(listed, [(0, Reason::Exists), (2, Reason::Missing), (3, Reason::Missing)]);
    // The first class that fails decides: a failed guard hides the conditions.
    let conflicts = h.b.lose(|| Commit::new().put(key("x"), &2, WriteCondition::MustCreate).guard(Guard::Exists(key("no")))).await;
    assert_eq!(conflicts.iter().map(|conflict| conflict.reason).collect::<Vec<_>>(), [Reason::Guard]);
}

fn fenced(outcome: CommitOutcome) -> u64 {
    match outcome {
        CommitOutcome::Fenced { newest, .. } => newest.get(),
        other => panic!("expected a fence, not {other:?}"),
    }
}

pub async fn an_older_fencing_token_is_refused_and_the_newest_kept(h: &Harness) {
    let write = |name: &'static str, number| {
        move || Commit::new().put(key(name), &(number as i64), WriteCondition::Unconditional(overwrite())).fence(lock("l"), token(number))
    };
    h.a.apply(write("x", 5)).await;
    h.b.apply(write("x", 7)).await;
    assert_eq!(fenced(h.a.commit(write("x", 6)).await), 7);
    assert_eq!(fenced(h.a.commit(write("other", 5)).await), 7);
    assert!(h.a.get("other").await.is_none());
    h.a.apply(write("x", 7)).await;
    // Another lock has its own line.
    h.a.apply(|| Commit::new().put(key("z"), &1, WriteCondition::MustCreate).fence(lock("l2"), token(1))).await;
    // Of several fences one that is too old refuses all, and none of them is raised.
    let two = || Commit::new().put(key("w"), &1, WriteCondition::MustCreate).fence(lock("l2"), token(9)).fence(lock("l"), token(1));
    assert_eq!(fenced(h.b.commit(two).await), 7);
    assert!(h.b.apply(|| Commit::new().fence(lock("l2"), token(2))).await.changed);
    assert_eq!(h.a.meta().await.newest_token, 7);
    let error = h.a.store.put_if(key("x"), &1, WriteCondition::MustExist, WriteOptions::new().with_fence(lock("l"), token(6))).await;
    let error = unwrap_error(error);
    assert_eq!((error.kind(), error.code(), error.newest_token()), (Kind::Lost, Code::Fenced, Some(token(7))));
}

pub async fn a_refused_commit_raises_no_fence(h: &Harness) {
    h.a.lose(|| Commit::new().put(key("x"), &1, WriteCondition::MustExist).fence(lock("l"), token(9))).await;
    assert!(h.b.apply(|| Commit::new().put(key("x"), &1, WriteCondition::MustCreate).fence(lock("l"), token(2))).await.changed);
}

/// Holders with rising tokens race through both handles; the checker judges the order (INV-1).
pub async fn fences_of_racing_holders_never_go_back(h: &Harness) {
    let tick = std::sync::atomic::AtomicU64::new(0);
    let now = || tick.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let writers: Vec<_> = (0..40_u64)
        .map(|i| {
            let handle = if i % 2 == 0 { &h.a } else { &h.b };
            async move {
                let number = 1 + i / 4;
                let start = now();
                let make =
                    || Commit::new().put(key("x"), &(i as i64), WriteCondition::Unconditional(overwrite())).fence(lock("l"), token(number));
                let accepted = match handle.commit(make).await {
                    CommitOutcome::Committed(receipt) => Some(receipt.revision.get()),
                    CommitOutcome::Fenced { newest, .. } => {
                        assert!(newest.get() > number);
                        None
                    }
                    CommitOutcome::Conflict(conflicts) => panic!("a blind write has no condition: {conflicts:?}"),
                };
                FencedWrite { start, end: now(), token: number, accepted }
            }
        })
        .collect();
    let history = join_all(writers).await;
    assert!(history.iter().any(|write| write.accepted.is_some()));
    check_fences(&history).unwrap();
}

pub async fn the_same_request_id_returns_the_same_receipt(h: &Harness) {
    let id = fresh_id();
    let make = || {
        Commit::new()
            .put(key("x"), &1, WriteCondition::MustCreate)
            .audit(chain("main"), Entry::new("a.b"))
            .fence(lock("l"), token(3))
            .request(id.clone())
    };
    let first = h.a.apply(make).await;
    h.a.create("between", 1).await;
    let before = h.a.meta().await;
    for handle in [&h.a, &h.b] {
        let again = handle.apply(make).await;
        assert!(again.replayed && again.writes.iter().all(|written| written.replayed));
        assert_eq!((again.revision, again.changed, &again.audit), (first.revision, first.changed, &first.audit));
        assert_eq!((again.writes[0].version, again.writes[0].created), (first.writes[0].version, true));
        let known = handle.store.outcome_of(&id).await.unwrap().unwrap();
        assert!(known.replayed && known.revision == first.revision);
    }
    assert_eq!(h.a.meta().await, before);
    assert!(h.b.store.outcome_of(&fresh_id()).await.unwrap().is_none());
}

pub async fn a_reused_request_id_is_refused(h: &Harness) {
    let id = fresh_id();
    let base = || Commit::new().put(key("x"), &1, WriteCondition::MustCreate).request(id.clone());
    h.a.apply(base).await;
    let before = h.a.meta().await;
    let others: [&dyn Fn() -> Commit; 8] = [
        &|| Commit::new().put(key("x"), &2, WriteCondition::MustCreate).request(id.clone()),
        &|| Commit::new().put(key("y"), &1, WriteCondition::MustCreate).request(id.clone()),
        &|| Commit::new().put(key("x"), &1, WriteCondition::MustExist).request(id.clone()),
        &|| base().guard(Guard::Exists(key("x"))),
        &|| base().fence(lock("l"), token(1)),
        &|| base().audit(chain("main"), Entry::new("a.b")),
        &|| base().invalidate("ns", ["k"]),
        &|| base().put(key("y"), &1, WriteCondition::MustCreate),
    ];
    for (index, other) in others.into_iter().enumerate() {
        let refused = unwrap_error(h.b.try_commit(other).await);
        assert_eq!((refused.kind(), refused.code()), (Kind::Invalid, Code::RequestIdReused), "variant {index}");
        assert_eq!(refused.effect(), Effect::NotApplied);
    }
    assert_eq!(h.a.meta().await, before);
    // A deadline is no content, and an intent stands for all of it.
    assert!(h.a.apply(|| base().deadline(Duration::from_secs(3))).await.replayed);
    let id = fresh_id();
    let merged = |value| Commit::new().put(key("m"), &value, WriteCondition::MustCreate).request(id.clone()).intent(b"add one");
    h.a.apply(|| merged(1)).await;
    assert!(h.b.apply(|| merged(2)).await.replayed);
    // In whatever order it is said.
    let said = || Commit::new().intent(b"add one").window(Window::Own).put(key("m"), &3, WriteCondition::MustCreate).request(id.clone());
    assert!(h.a.apply(said).await.replayed);
    assert_eq!(h.b.get("m").await.unwrap().value, 1);
}

pub async fn a_refusal_is_judged_again(h: &Harness) {
    let id = fresh_id();
    let make = || Commit::new().put(key("x"), &2, WriteCondition::MustExist).request(id.clone());
    h.a.lose(make).await;
    h.b.create("x", 1).await;
    let applied = h.a.apply(make).await;
    assert!(!applied.replayed || h.a.get("x").await.unwrap().value == 2);
    assert_eq!(h.b.get("x").await.unwrap().value, 2);
}

pub async fn a_request_id_is_forgotten_after_its_window(h: &Harness) {
    let clock = Clock::manual();
    let handle = h.a.again(clock.clone()).await;
    for (window, time) in [(Window::Own, 15 * 60), (Window::Caller, 24 * 3_600), (Window::Event, 7 * 24 * 3_600)] {
        let id = fresh_id();
        let make =
            || Commit::new().put(key("x"), &random_value(), WriteCondition::Unconditional(overwrite())).request(id.clone()).window(window);
        let make = || make().intent(b"x");
        let first = handle.apply(make).await;
        clock.advance(Duration::from_secs(time) - Duration::from_millis(1));
        let again = handle.apply(make).await;
        assert!(again.replayed && again.revision == first.revision);
        clock.advance(Duration::from_millis(1));
        assert!(handle.store.outcome_of(&id).await.unwrap().is_none());
        let anew = handle.apply(make).await;
        assert!(!anew.replayed && anew.revision > first.revision);
    }
}

fn random_value() -> i64 {
    random::below(1 << 40) as i64
}

pub async fn a_replay_comes_before_the_fence(h: &Harness) {
    let id = fresh_id();
    let make = || Commit::new().put(key("x"), &1, WriteCondition::MustCreate).fence(lock("l"), token(1)).request(id.clone());
    let first = h.a.apply(make).await;
    h.b.apply(|| Commit::new().fence(lock("l"), token(2))).await;
    let again = h.a.apply(make).await;
    assert!(again.replayed && again.revision == first.revision);
}

pub async fn a_cancelled_commit_in_the_queue_is_not_applied(h: &Harness) {
    h.a.faults.hold();
    let holding = h.a.create("holding", 1);
    let cancel = async {
        h.a.faults.stopped().await;
        let mut cancelled = Box::pin(h.a.store.commit(Commit::new().put(key("cancelled"), &1, WriteCondition::MustCreate)));
        poll_once(cancelled.as_mut()).await;
        drop(cancelled);
        let mut kept = Box::pin(h.a.put("kept", 1, WriteCondition::MustCreate));
        poll_once(kept.as_mut()).await;
        h.a.faults.release();
        kept.await
    };
    let (_, kept) = tokio::join!(holding, cancel);
    won(kept);
    // What came after it in the queue is there, so its turn is over.
    assert!(h.b.get("cancelled").await.is_none());
    let mut names: Vec<_> = h.b.log(0).await.into_iter().flat_map(|record| record.changes).map(|c| c.key.name().to_owned()).collect();
    names.sort_unstable();
    assert_eq!(names, ["holding", "kept"]);
}

pub async fn a_deadline_that_passes_in_the_queue_is_not_applied(h: &Harness) {
    let clock = Clock::manual();
    let handle = h.a.again(clock.clone()).await;
    handle.faults.hold();
    let holding = handle.create("holding", 1);
    let late = async {
        handle.faults.stopped().await;
        let commit = Commit::new().put(key("late"), &1, WriteCondition::MustCreate).deadline(Duration::from_millis(100));
        let mut late = Box::pin(handle.store.commit(commit));
        poll_once(late.as_mut()).await;
        clock.advance(Duration::from_millis(200));
        handle.faults.release();
        late.await
    };
    let (_, late) = tokio::join!(holding, late);
    let late = unwrap_error(late);
    assert_eq!((late.kind(), late.code(), late.effect()), (Kind::Overloaded, Code::Overloaded, Effect::NotApplied));
    assert!(late.retry_after().is_some());
    assert!(h.b.get("late").await.is_none());
}

pub async fn seqs_of_many_writers_are_dense(h: &Harness) {
    let writers: Vec<_> = (0..40)
        .map(|i| {
            let handle = if i % 2 == 0 { &h.a } else { &h.b };
            async move {
                let make = || {
                    Commit::new()
                        .audit(chain("one"), Entry::new("a.b").by("user:1"))
                        .audit(chain(if i % 4 < 2 { "one" } else { "two" }), Entry::new("a.c"))
                };
                handle.apply(make).await.audit
            }
        })
        .collect();
    let receipts: Vec<_> = join_all(writers).await.into_iter().flatten().collect();
    for (name, count) in [("one", 60), ("two", 20)] {
        let seqs: BTreeSet<_> = receipts.iter().filter(|entry| entry.chain.as_str() == name).map(|entry| entry.seq.get()).collect();
        // Seq 1 says what the chain is.
        assert_eq!(seqs, (2..count + 2).collect());
    }
    let hashes: BTreeSet<_> = receipts.iter().map(|entry| entry.hash).collect();
    assert_eq!(hashes.len(), 80);
}

pub async fn a_refused_commit_leaves_no_entry_and_no_seq_hole(h: &Harness) {
    let append = || Commit::new().audit(chain("main"), Entry::new("a.b"));
    assert_eq!(h.a.apply(append).await.audit[0].seq.get(), 2);
    h.b.lose(|| append().put(key("x"), &1, WriteCondition::MustExist)).await;
    // A refused first entry does not create its chain either.
    h.b.lose(|| Commit::new().audit(chain("new"), Entry::new("a.b")).put(key("x"), &1, WriteCondition::MustExist)).await;
    assert_eq!(h.a.apply(append).await.audit[0].seq.get(), 3);
    assert_eq!(h.a.apply(|| Commit::new().audit(chain("new"), Entry::new("a.b"))).await.audit[0].seq.get(), 2);
}

pub async fn time_never_goes_back(h: &Harness) {
    let clock = Clock::manual();
    let handle = h.a.again(clock.clone()).await;
    let append = || Commit::new().audit(chain("main"), Entry::new("a.b"));
    let first = handle.apply(append).await.audit[0].at;
    clock.step_wall(-3_600_000_000);
    let second = handle.apply(append).await.audit[0].at;
    // Another process has another clock, and its own idea of time.
    let slow = Clock::manual();
    slow.step_wall(-7_200_000_000);
    let third = h.b.again(slow).await.apply(append).await.audit[0].at;
    assert!(first <= second && second <= third, "{first} {second} {third}");
    let times: Vec<_> = handle.log(0).await.iter().map(|record| record.at).collect();
    assert_eq!(times.len(), 3);
}
