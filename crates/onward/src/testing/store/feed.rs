//! The change feed: every commit once, in order, without a gap, resumable.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use std::collections::BTreeSet;

use super::*;
use crate::Code;
use crate::commit::ChangeOp;
use crate::commit::engine::Scan;
use crate::model::{ChainName, Entry, Epoch};
use crate::store::{From, Watch};
use crate::testing::history::check_feed;

pub async fn a_commit_that_changes_nothing_takes_no_revision(h: &Harness) {
    let first = h.a.create("x", 1).await;
    h.a.apply(|| Commit::new().fence(lock("l"), token(3))).await;
    let before = h.a.meta().await;
    let receipt = h.b.apply(|| Commit::new().put(key("x"), &1, WriteCondition::MustExist).fence(lock("l"), token(3))).await;
    assert!(!receipt.changed);
    assert_eq!((receipt.revision, receipt.writes[0].revision), (before.revision, first.revision));
    assert_eq!(h.a.meta().await, before);
    assert_eq!(h.b.log(0).await.len() as u64, before.revision.get());
}

pub async fn a_fence_an_entry_or_an_invalidation_alone_takes_a_revision(h: &Harness) {
    let chain = ChainName::new("main").unwrap();
    let one = h.a.apply(|| Commit::new().fence(lock("l"), token(3))).await;
    let two = h.b.apply(|| Commit::new().audit(chain.clone(), Entry::new("a.b"))).await;
    let three = h.a.apply(|| Commit::new().invalidate("ns", ["k"])).await;
    assert_eq!([one.revision.get(), two.revision.get(), three.revision.get()], [1, 2, 3]);
    let log = h.b.log(0).await;
    assert!(log.len() == 3 && log.iter().all(|record| record.changes.is_empty()));
}

pub async fn every_commit_appears_once_in_order(h: &Harness) {
    let reader = async {
        let mut feed = h.b.store.queue().feed(Some(revision(0)), None).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 48 {
            got.push(next_commit(&mut feed).await.revision.get());
        }
        got
    };
    let writers: Vec<_> = (0..48)
        .map(|i| {
            let handle = if i % 2 == 0 { &h.a } else { &h.b };
            async move { handle.create(&format!("n{i}"), i).await.revision.get() }
        })
        .collect();
    let (got, acknowledged) = tokio::join!(reader, join_all(writers));
    let acknowledged: BTreeSet<u64> = acknowledged.into_iter().collect();
    assert_eq!(acknowledged.len(), 48);
    check_feed(0, h.a.meta().await.revision.get(), &got, &acknowledged).unwrap();
}

pub async fn events_of_a_revision_stay_together(h: &Harness) {
    for round in 0..3 {
        let names: Vec<_> = (0..100).map(|i| format!("n{round}-{i}")).collect();
        let make = || names.iter().fold(Commit::new(), |commit, name| commit.put(key(name), &round, WriteCondition::MustCreate));
        h.a.apply(make).await;
        h.b.create(&format!("single{round}"), 1).await;
    }
    let log = h.b.log(0).await;
    assert_eq!(log.iter().map(|record| record.changes.len()).collect::<Vec<_>>(), [100, 1, 100, 1, 100, 1]);
    for (i, change) in log[2].changes.iter().enumerate() {
        assert_eq!(change.key.name(), format!("n1-{i}"), "in the order of the commit");
    }
}

pub async fn a_feed_sees_the_commits_of_another_handle(h: &Harness) {
    let mut feed = h.b.store.queue().feed(None, None).await.unwrap();
    let written = async {
        // The reader waits already.
        tokio::task::yield_now().await;
        h.a.create("x", 1).await
    };
    let (record, written) = tokio::join!(next_commit(&mut feed), written);
    assert_eq!(record.revision, written.revision);
}

pub async fn a_resumed_feed_continues_after_its_cursor(h: &Harness) {
    for i in 0..6 {
        h.a.create(&format!("n{i}"), i).await;
    }
    let epoch = h.a.meta().await.epoch;
    for after in 0..6 {
        let mut feed = h.b.store.queue().feed(Some(revision(after)), Some(epoch)).await.unwrap();
        assert_eq!(next_commit(&mut feed).await.revision.get(), after + 1);
        assert_eq!(feed.revision().get(), after + 1);
        drop(feed);
    }
    assert_eq!(h.a.log(4).await.iter().map(|record| record.revision.get()).collect::<Vec<_>>(), [5, 6]);
}

pub async fn a_future_revision_is_refused(h: &Harness) {
    h.a.create("x", 1).await;
    for future in [2, 3, 1 << 40, crate::model::limits::NUMBER_MAX] {
        let refused = unwrap_error(h.b.store.queue().feed(Some(revision(future)), None).await);
        assert_eq!((refused.kind(), refused.code()), (Kind::Expired, Code::CursorCompacted));
    }
}

pub async fn another_epoch_is_refused(h: &Harness) {
    h.a.create("x", 1).await;
    let other = Epoch::from_bits(h.a.meta().await.epoch.bits() ^ 1);
    let refused = unwrap_error(h.b.store.queue().feed(Some(revision(1)), Some(other)).await);
    assert_eq!(refused.kind(), Kind::Expired);
    let watch = Watch { from: From::Now, epoch: Some(other), ..Watch::default() };
    assert_eq!(unwrap_error(h.b.store.watch(watch).await).kind(), Kind::Expired);
}

pub async fn a_bookmark_follows_its_events(h: &Harness) {
    let clock = Clock::manual();
    let handle = h.a.again(clock.clone()).await;
    for i in 0..3 {
        handle.create(&format!("n{i}"), i).await;
    }
    let mut feed = handle.store.queue().feed(Some(revision(0)), None).await.unwrap();
    for expected in 1..=3 {
        let FeedItem::Commit(record) = feed.next().await.unwrap() else { panic!("commits come first") };
        assert_eq!(record.revision.get(), expected);
    }
    let mut next = Box::pin(feed.next());
    let bookmark = loop {
        tokio::select! {
            biased;
            item = &mut next => break item.unwrap(),
            () = tokio::task::yield_now() => clock.advance(Duration::from_millis(50)),
        }
    };
    assert!(matches!(bookmark, FeedItem::Bookmark(at) if at.get() == 3));
}

pub async fn a_delete_carries_the_last_state(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let second = h.b.replace("x", 2, first.version).await;
    let last = h.a.get("x").await.unwrap();
    let removed = h.a.remove("x", second.version).await;
    let anew = h.b.create("x", 3).await;
    let log = h.b.log(removed.revision.get() - 1).await;
    let change = &log[0].changes[0];
    assert_eq!((change.op, change.version), (ChangeOp::Delete, removed.version));
    assert!(change.after.is_none());
    let before = change.before.as_ref().unwrap();
    assert_eq!((before.value.read::<i64>().unwrap(), &before.meta), (2, &last.meta));
    let change = &log[1].changes[0];
    assert_eq!((change.op, change.version, change.before.is_none()), (ChangeOp::Put, anew.version, true));
}

pub async fn a_change_carries_the_state_before_and_after(h: &Harness) {
    // Everything in one batch and over several: the log tells the same.
    let mut states = vec![None];
    let mut at = None;
    for value in [1, 2, 3] {
        let written = match at {
            None => h.a.create("x", value).await,
            Some(at) => h.b.replace("x", value, at).await,
        };
        at = Some(written.version);
        states.push(Some(h.a.get("x").await.unwrap()));
    }
    h.b.remove("x", at.unwrap()).await;
    states.push(None);
    h.a.create("x", 4).await;
    states.push(Some(h.a.get("x").await.unwrap()));
    let log = h.b.log(0).await;
    assert_eq!(log.len(), 5);
    for (record, pair) in log.iter().zip(states.windows(2)) {
        let change = &record.changes[0];
        let read = |object: &Option<std::sync::Arc<Object>>| object.as_ref().map(|object| Object::clone(object).read::<i64>().unwrap());
        assert_eq!((read(&change.before), read(&change.after)), (pair[0].clone(), pair[1].clone()), "revision {}", record.revision);
    }
}

pub async fn a_note_carries_invalidations_entries_and_request(h: &Harness) {
    let id = fresh_id();
    let chain = ChainName::new("main").unwrap();
    for with_object in [true, false] {
        let id = RequestId::new(&format!("{id}-{with_object}")).unwrap();
        let make = || {
            let commit = Commit::new()
                .audit(chain.clone(), Entry::new("a.b"))
                .audit(chain.clone(), Entry::new("a.c"))
                .invalidate("ns", ["k1", "k2"])
                .invalidate("other", ["k3"])
                .request(id.clone());
            if with_object {
                commit.put(key("x"), &1, WriteCondition::MustCreate).put(key("y"), &1, WriteCondition::MustCreate)
            } else {
                commit
            }
        };
        let receipt = h.a.apply(make).await;
        let log = h.b.log(receipt.revision.get() - 1).await;
        let [record] = &log[..] else { panic!("one record: {log:?}") };
        let invalidations = [("ns", "k1"), ("ns", "k2"), ("other", "k3")].map(|(ns, k)| (ns.to_owned(), k.to_owned()));
        assert_eq!((&record.invalidations[..], record.request.as_ref()), (&invalidations[..], Some(&id)));
        assert_eq!((&record.entries, record.entries.len()), (&receipt.audit, 2));
        assert_eq!(record.changes.len(), if with_object { 2 } else { 0 });
    }
}

pub async fn a_watch_shows_only_what_was_asked_for(h: &Harness) {
    let make = || {
        Commit::new()
            .put(("thing", "a1"), &1, WriteCondition::MustCreate)
            .put(("other", "a1"), &1, WriteCondition::MustCreate)
            .put(("elsewhere", "thing", "a1"), &1, WriteCondition::MustCreate)
            .put(("thing", "b1"), &1, WriteCondition::MustCreate)
    };
    h.a.apply(make).await;
    h.a.apply(|| Commit::new().put(("other", "a2"), &1, WriteCondition::MustCreate)).await;
    let last = h.b.apply(|| Commit::new().put(("thing", "a3"), &1, WriteCondition::MustCreate)).await;
    let watch = Watch {
        from: From::After(revision(0)),
        namespace: Some("default".to_owned()),
        kind: Some("thing".to_owned()),
        prefix: "a".to_owned(),
        ..Watch::default()
    };
    let mut watcher = h.b.store.watch(watch).await.unwrap();
    let mut seen = Vec::new();
    while watcher.revision() < last.revision {
        if let FeedItem::Commit(record) = watcher.next().await.unwrap() {
            seen.extend(record.changes.iter().map(|change| (record.revision.get(), change.key.to_string())));
        }
    }
    assert_eq!(seen, [(1, "thing/a1".to_owned()), (3, "thing/a3".to_owned())]);
}

pub async fn a_dropped_wait_loses_no_commit(h: &Harness) {
    let mut feed = h.b.store.queue().feed(Some(revision(0)), None).await.unwrap();
    let mut got = Vec::new();
    for i in 0..10 {
        // Begun, perhaps half-way through a read, and dropped.
        let mut next = Box::pin(feed.next());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx))).await;
        drop(next);
        if let std::task::Poll::Ready(item) = polled {
            let FeedItem::Commit(record) = item.unwrap() else { panic!("a commit is there") };
            got.push(record.revision.get());
        }
        h.a.create(&format!("n{i}"), i).await;
        if i % 3 == 2 && got.len() < 10 {
            got.push(next_commit(&mut feed).await.revision.get());
        }
    }
    while got.len() < 10 {
        got.push(next_commit(&mut feed).await.revision.get());
    }
    check_feed(0, 10, &got, &BTreeSet::new()).unwrap();
}

pub async fn a_gap_in_the_log_is_told_and_never_skipped(h: &Harness) {
    for i in 0..5 {
        h.a.create(&format!("n{i}"), i).await;
    }
    // In the middle, and at the end, where nothing comes behind it yet.
    for gap in [3, 5] {
        let handle = h.b.again(Clock::system()).await;
        handle.faults.hide(revision(gap));
        let mut feed = handle.store.queue().feed(Some(revision(gap - 1)), None).await.unwrap();
        let told = unwrap_error(feed.next().await);
        assert_eq!((told.kind(), told.code()), (Kind::Backend, Code::IntegrityFailure));
        assert_eq!(feed.revision().get(), gap - 1);
    }
}

pub async fn a_reader_pages_through_more_than_it_may_hold(h: &Harness) {
    let big = crate::model::Payload::new(vec![b'x'; 1 << 20], "x").unwrap();
    let count = 20;
    for i in 0..count {
        h.a.apply(|| Commit::new().overwrite(key(&format!("n{i:02}")), big.clone())).await;
    }
    let page = h.b.store.queue().engine().changes(revision(0), 256).await.unwrap();
    let bytes: usize = page.records.iter().flat_map(|record| &record.changes).map(|change| change.after.iter().count() << 20).sum();
    assert!(!page.records.is_empty() && (bytes <= 16 << 20 || h.b.store.queue().engine().name() == "memory"), "{bytes} bytes at once");
    let got: Vec<u64> = h.b.log(0).await.iter().map(|record| record.revision.get()).collect();
    check_feed(0, count, &got, &BTreeSet::new()).unwrap();
    let all = Scan { namespace: "default".to_owned(), kind: "thing".to_owned(), limit: 1_000, ..Scan::default() };
    let listed = h.b.store.queue().engine().list(all).await.unwrap();
    assert!(listed.items.len() <= 9 || h.b.store.queue().engine().name() == "memory", "{} at once", listed.items.len());
    assert!(listed.next.is_some() || listed.items.len() as u64 == count);
}

/// Everything that a record tells, word by word.
fn told(record: &Record) -> String {
    let state = |object: &Option<std::sync::Arc<Object>>| object.as_ref().map(|object| (object.value.bytes().clone(), object.meta.clone()));
    let changes: Vec<_> = record.changes.iter().map(|c| (c.op, c.key.to_string(), c.version, state(&c.before), state(&c.after))).collect();
    let Record { revision, at, invalidations, entries, request, .. } = record;
    format!("{revision} {at} {changes:?} {invalidations:?} {entries:?} {request:?}")
}

pub async fn a_reader_that_keeps_up_reads_no_log_and_is_told_the_same(h: &Harness) {
    let handle = h.a.again(Clock::system()).await;
    let mut feed = handle.store.queue().feed(Some(revision(0)), None).await.unwrap();
    let first = handle.create("x", 1).await;
    let second = handle.replace("x", 2, first.version).await;
    let chain = ChainName::new("main").unwrap();
    let both = || {
        let commit = Commit::new().audit(chain.clone(), Entry::new("a.b")).invalidate("ns", ["k"]);
        commit.overwrite(key("x"), crate::model::Payload::new(b"3".to_vec(), "x").unwrap()).put(key("y"), &1, WriteCondition::MustCreate)
    };
    let third = handle.apply(both).await;
    assert_eq!(third.writes[0].version.get(), second.version.get() + 1);
    handle.remove("x", third.writes[0].version).await;
    let page = handle.store.queue().engine().changes(revision(0), 256).await.unwrap();
    // The log now has a gap; who reads it is told so.
    handle.faults.hide(revision(3));
    for expected in &page.records {
        assert_eq!(told(&next_commit(&mut feed).await), told(expected));
    }
    assert_eq!(page.records.len(), 4);
}

pub async fn commits_of_another_handle_between_its_own_are_told_once_in_order(h: &Harness) {
    let mut feeds = Vec::new();
    for handle in [&h.a, &h.b] {
        feeds.push((handle.store.queue().feed(Some(revision(0)), None).await.unwrap(), Vec::new()));
    }
    for round in 0..6 {
        // Runs of each length, so that what a handle holds begins anew again and again.
        for i in 0..=round {
            h.a.create(&format!("a{round}-{i}"), 1).await;
        }
        h.b.create(&format!("b{round}"), 1).await;
        for (feed, got) in &mut feeds {
            // One reader stops half-way: it has read ahead, and what is held moves on.
            for _ in 0..=round {
                got.push(next_commit(feed).await.revision.get());
            }
        }
    }
    let newest = h.a.meta().await.revision;
    for (mut feed, mut got) in feeds {
        while feed.revision() < newest {
            got.push(next_commit(&mut feed).await.revision.get());
        }
        check_feed(0, newest.get(), &got, &BTreeSet::new()).unwrap();
    }
}

pub async fn a_reader_behind_what_is_held_reads_the_log(h: &Harness) {
    let big = crate::model::Payload::new(vec![b'x'; 1 << 20], "x").unwrap();
    let handle = h.a.again(Clock::system()).await;
    let mut feed = handle.store.queue().feed(Some(revision(0)), None).await.unwrap();
    handle.create("first", 1).await;
    for i in 0..12 {
        handle.apply(|| Commit::new().overwrite(key(&format!("n{i}")), big.clone())).await;
    }
    let mut got: Vec<u64> = Vec::new();
    while got.len() < 13 {
        got.push(next_commit(&mut feed).await.revision.get());
    }
    check_feed(0, 13, &got, &BTreeSet::new()).unwrap();
    // A gap in the log shows that it was read.
    handle.faults.hide(revision(2));
    let mut behind = handle.store.queue().feed(Some(revision(1)), None).await.unwrap();
    assert_eq!(unwrap_error(behind.next().await).code(), Code::IntegrityFailure);
}

pub async fn one_reader_too_many_is_told_so(h: &Harness) {
    let queue = h.a.store.queue();
    let mut feeds = Vec::new();
    while feeds.len() < 1_000 {
        feeds.push(queue.feed(None, None).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(unwrap_error(queue.feed(None, None).await).kind(), Kind::Overloaded);
        let watch = h.a.store.watch(crate::store::Watch::default()).await;
        assert_eq!(unwrap_error(watch).kind(), Kind::Overloaded);
    }
    // Another process has room of its own.
    drop(h.b.store.queue().feed(None, None).await.unwrap());
    feeds.pop();
    feeds.push(queue.feed(None, None).await.unwrap());
    queue.allow_readers(1_001);
    queue.allow_readers(10);
    feeds.push(queue.feed(None, None).await.unwrap());
    assert_eq!(unwrap_error(queue.feed(None, None).await).kind(), Kind::Overloaded);
    // All of them live.
    let made = h.a.create("x", 1).await;
    for feed in feeds.iter_mut().take(3) {
        assert_eq!(next_commit(feed).await.revision, made.revision);
    }
}
