//! What callers see when an engine fails: the truth, never a guess, and always an answer.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::{Code, Effect};

fn put(name: &str, value: i64) -> Commit {
    Commit::new().put(key(name), &value, WriteCondition::MustCreate)
}

pub async fn a_lost_commit_answer_is_settled_by_asking(h: &Harness) {
    h.a.faults.calm();
    let id = fresh_id();
    h.a.faults.next(Fault::Lost);
    let open = unwrap_error(h.a.store.commit(put("x", 1).request(id.clone())).await);
    assert_eq!((open.kind(), open.code(), open.effect()), (Kind::Backend, Code::OutcomeUnknown, Effect::Unknown));
    let settled = h.b.store.outcome_of(&id).await.unwrap().unwrap();
    let CommitOutcome::Committed(again) = h.a.store.commit(put("x", 1).request(id.clone())).await.unwrap() else {
        panic!("the same request is the same answer")
    };
    assert!(again.replayed);
    assert_eq!((again.revision, again.writes[0].version), (settled.revision, settled.writes[0].version));
    assert_eq!(h.b.log(0).await.len(), 1, "applied once");
}

pub async fn a_lost_commit_answer_names_its_request(h: &Harness) {
    h.a.faults.calm();
    let id = fresh_id();
    h.a.faults.next(Fault::Lost);
    let open = unwrap_error(h.a.store.commit(put("x", 1).request(id.clone())).await);
    assert_eq!(open.request_id(), Some(&id));
    h.a.faults.next(Fault::Refused);
    let refused = unwrap_error(h.a.store.commit(put("y", 1).request(fresh_id())).await);
    assert_eq!((refused.effect(), refused.request_id()), (Effect::NotApplied, None));
}

/// Sends commits that wait together, so that they are one batch, after something that opens the way.
async fn batch(h: &Harness, fault: Fault, commits: Vec<Commit>) -> Vec<crate::Result<CommitOutcome>> {
    h.a.faults.calm();
    h.a.faults.hold();
    // The opener's write goes through; the batch behind it meets the fault.
    h.a.faults.script([None, Some(fault)]);
    let mut opener = Box::pin(h.a.create("opener", 1));
    poll_once(opener.as_mut()).await;
    h.a.faults.stopped().await;
    let commits = commits.into_iter().map(|commit| h.a.store.commit(commit)).collect();
    let mut answers = Box::pin(join_all(commits));
    poll_once(answers.as_mut()).await;
    h.a.faults.release();
    let (_, answers) = tokio::join!(opener, answers);
    answers
}

pub async fn a_refused_batch_answers_everyone_and_leaves_nothing(h: &Harness) {
    let mut commits: Vec<_> = (0..5).map(|i| put(&format!("n{i}"), i)).collect();
    // Its refusal rests on a neighbour's write, so it must not get out either.
    commits.push(put("n0", 9));
    let answers = batch(h, Fault::Refused, commits).await;
    assert_eq!(answers.len(), 6);
    for answer in answers {
        let refused = unwrap_error(answer);
        assert_eq!((refused.kind(), refused.effect()), (Kind::Backend, Effect::NotApplied));
    }
    assert_eq!(h.b.meta().await.revision.get(), 1);
    assert!(h.b.get("n0").await.is_none());
    h.a.create("n0", 1).await;
}

pub async fn a_contradicted_batch_refuses_only_its_culprit(h: &Harness) {
    let answers = batch(h, Fault::Contradicted, (0..5).map(|i| put(&format!("n{i}"), i)).collect()).await;
    // Alone, none of them is refused: the fault happened once, to the batch.
    for (i, answer) in answers.into_iter().enumerate() {
        assert!(matches!(answer.unwrap(), CommitOutcome::Committed(receipt) if receipt.revision.get() == 2 + i as u64));
    }
    h.a.faults.next(Fault::Contradicted);
    let refused = unwrap_error(h.a.store.commit(put("alone", 1)).await);
    assert_eq!((refused.code(), refused.effect()), (Code::IntegrityFailure, Effect::NotApplied));
    assert!(h.b.get("alone").await.is_none());
}

pub async fn a_confused_engine_applies_nothing_twice(h: &Harness) {
    let commits =
        (0..5).map(|i| Commit::new().put(key(&format!("n{i}")), &i, WriteCondition::Unconditional(overwrite())).invalidate("ns", ["k"]));
    let answers = batch(h, Fault::Confused, commits.collect()).await;
    for answer in answers {
        assert_eq!(unwrap_error(answer).effect(), Effect::Unknown);
    }
    assert_eq!(h.b.meta().await.revision.get(), 6, "the batch was carried out, and not once more one by one");
}

pub async fn a_panicking_engine_answers_every_caller(h: &Harness) {
    let answers = batch(h, Fault::Panics, (0..5).map(|i| put(&format!("n{i}"), i)).collect()).await;
    for answer in answers {
        let error = unwrap_error(answer);
        assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    }
    // Whoever comes later meets a new writer.
    assert!(matches!(h.a.store.commit(put("later", 1)).await, Ok(CommitOutcome::Committed(_))));
    assert!(h.b.get("n0").await.is_none() && h.b.get("later").await.is_some());
}

pub async fn a_panicking_engine_does_not_block_the_other_handle(h: &Harness) {
    h.a.faults.calm();
    h.a.faults.next(Fault::Panics);
    unwrap_error(h.a.store.commit(put("x", 1)).await);
    let clock = Clock::system();
    let other = retry::deadline(&clock, clock.now() + PATIENCE, h.b.create("x", 2)).await;
    assert!(other.expect("the writer's right is free").created);
}

pub async fn a_full_queue_says_so_and_recovers(h: &Harness) {
    h.a.faults.calm();
    h.a.faults.hold();
    let mut opener = Box::pin(h.a.store.commit(put("opener", 1)));
    poll_once(opener.as_mut()).await;
    h.a.faults.stopped().await;
    // One object takes half of the line, and leaves the other half to the others.
    let mut hot = Vec::new();
    let full = until_refused(&mut hot, |n| h.a.store.commit(blind("hot", n))).await;
    assert_eq!((hot.len(), full.kind(), full.effect()), (2_048, Kind::Overloaded, Effect::NotApplied));
    let mut others = Vec::new();
    let full = until_refused(&mut others, |n| h.a.store.commit(put(&format!("n{n}"), 1))).await;
    assert_eq!((others.len(), full.kind(), full.effect()), (2_048, Kind::Overloaded, Effect::NotApplied));
    assert!(full.retry_after().is_some());
    h.a.faults.release();
    assert!(matches!(opener.await.unwrap(), CommitOutcome::Committed(_)));
    hot.extend(others);
    for answer in join_all(hot).await {
        assert!(matches!(answer.unwrap(), CommitOutcome::Committed(_)));
    }
    assert_eq!(h.b.get("hot").await.unwrap().value, 2_047);
    // And there is room again.
    assert!(matches!(h.a.store.commit(blind("hot", 7)).await.unwrap(), CommitOutcome::Committed(_)));
}

fn blind(name: &str, value: usize) -> Commit {
    Commit::new().overwrite(key(name), crate::model::Payload::json(&value).unwrap())
}

/// Sends commits until one is refused, and keeps those that wait.
async fn until_refused<F: Future<Output = crate::Result<CommitOutcome>>>(
    waiting: &mut Vec<std::pin::Pin<Box<F>>>,
    mut send: impl FnMut(usize) -> F,
) -> Error {
    loop {
        let mut one = Box::pin(send(waiting.len()));
        match std::future::poll_fn(|cx| std::task::Poll::Ready(one.as_mut().poll(cx))).await {
            std::task::Poll::Ready(answer) => return unwrap_error(answer),
            std::task::Poll::Pending => waiting.push(one),
        }
        assert!(waiting.len() <= 4_096, "the queue has a bound (C7)");
    }
}
