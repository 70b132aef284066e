//! The past: history, earlier states, and how the log is taken off at its old end.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::commit::{ChangeOp, ROW_BYTES};
use crate::store::{At, From, List, Watch};
use crate::{Code, Effect};

/// Three values, a delete and a new life: revisions 1 to 5. Returns the versions.
async fn life(h: &Harness) -> Vec<Version> {
    let one = h.a.create("x", 1).await;
    let two = h.b.replace("x", 2, one.version).await;
    let three = h.a.replace("x", 3, two.version).await;
    let gone = h.b.remove("x", three.version).await;
    let again = h.a.create("x", 5).await;
    [one, two, three, gone, again].map(|written| written.version).to_vec()
}

async fn value_at(handle: &Handle, at: At) -> Option<i64> {
    handle.store.get_at(key("x"), at).await.unwrap().map(|object| object.read().unwrap().value)
}

pub async fn the_state_at_a_revision_is_what_was_there(h: &Harness) {
    let versions = life(h).await;
    for (number, value) in [(0, None), (1, Some(1)), (2, Some(2)), (3, Some(3)), (4, None), (5, Some(5))] {
        assert_eq!(value_at(&h.b, At::Revision(revision(number))).await, value, "revision {number}");
    }
    for (at, value) in versions.iter().zip([Some(1), Some(2), Some(3), None, Some(5)]) {
        assert_eq!(value_at(&h.a, At::Version(*at)).await, value, "version {at}");
    }
    let old = h.b.store.get_at(key("x"), At::Version(versions[1])).await.unwrap().unwrap();
    assert_eq!((old.meta.version, old.meta.revision, old.meta.create_revision), (versions[1], revision(2), revision(1)));
    assert_eq!(value_at(&h.b, At::Version(version(1 << 40))).await, None);
    assert_eq!(h.a.store.get_at(key("other"), At::Revision(revision(3))).await.unwrap(), None);
    let future = unwrap_error(h.a.store.get_at(key("x"), At::Revision(revision(6))).await);
    assert_eq!((future.kind(), future.code()), (Kind::Expired, Code::CursorCompacted));
}

pub async fn history_tells_each_change_newest_first(h: &Harness) {
    h.a.create("before", 0).await;
    let versions = life(h).await;
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = h.b.store.history(key("x"), before, 2).await.unwrap();
        assert!(page.items.len() <= 2 && page.compacted == Revision::default());
        seen.extend(page.items);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let told: Vec<_> = seen
        .iter()
        .map(|past| {
            let after = past.change.after.as_ref().map(|object| Object::clone(object).read::<i64>().unwrap().value);
            (past.revision.get(), past.change.version, past.change.op == ChangeOp::Delete, after)
        })
        .collect();
    let expected = [(6, 4, false, Some(5)), (5, 3, true, None), (4, 2, false, Some(3)), (3, 1, false, Some(2)), (2, 0, false, Some(1))];
    assert_eq!(told, expected.map(|(revision, index, gone, after): (u64, usize, _, _)| (revision, versions[index], gone, after)));
    assert!(h.a.store.history(key("other"), None, 10).await.unwrap().items.is_empty());
    for limit in [0, 1_001] {
        assert_eq!(unwrap_error(h.a.store.history(key("x"), None, limit).await).kind(), Kind::Invalid);
    }
}

pub async fn a_compacted_cursor_is_told_so(h: &Harness) {
    let versions = life(h).await;
    let mut behind = h.b.store.watch(Watch { from: From::After(revision(2)), ..Watch::default() }).await.unwrap();
    let mut ahead = h.b.store.watch(Watch { from: From::After(revision(3)), ..Watch::default() }).await.unwrap();
    assert_eq!(h.a.store.compact(revision(3)).await.unwrap(), revision(3));
    assert_eq!(h.b.meta().await.compacted, revision(3));
    let told =
        |error: Error| assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Expired, Code::CursorCompacted, Effect::NotApplied));
    told(unwrap_error(behind.next().await));
    for number in 0..3 {
        told(unwrap_error(h.a.store.watch(Watch { from: From::After(revision(number)), ..Watch::default() }).await));
        told(unwrap_error(h.b.store.get_at(key("x"), At::Revision(revision(number))).await));
    }
    let FeedItem::Commit(next) = ahead.next().await.unwrap() else { panic!("revision 4 is there") };
    assert_eq!(next.revision, revision(4));
    // What is above the mark tells the same as before.
    assert_eq!(value_at(&h.b, At::Revision(revision(3))).await, Some(3));
    assert_eq!(value_at(&h.b, At::Version(versions[2])).await, Some(3));
    assert_eq!(h.a.log(3).await.len(), 2);
    let page = h.a.store.history(key("x"), None, 10).await.unwrap();
    assert_eq!((page.items.len(), page.compacted, page.next), (2, revision(3), None));
    assert_eq!(h.b.get("x").await.unwrap().value, 5);
}

pub async fn compaction_stops_at_the_newest_and_never_goes_back(h: &Harness) {
    life(h).await;
    assert_eq!(h.a.store.compact(revision(1 << 40)).await.unwrap(), revision(5));
    assert_eq!(h.b.store.compact(revision(2)).await.unwrap(), revision(5));
    assert!(h.a.log(5).await.is_empty());
    h.b.create("y", 1).await;
    assert_eq!(h.a.log(5).await.len(), 1);
}

pub async fn a_long_log_goes_in_parts_and_whole_commits(h: &Harness) {
    for commit in 0..10 {
        let all = move || {
            let put = |made: Commit, i: i32| made.put(("thing", format!("{commit}-{i}")), &i, WriteCondition::MustCreate);
            (0..128).fold(Commit::new(), put)
        };
        h.a.apply(all).await;
    }
    assert_eq!(h.b.store.compact(revision(9)).await.unwrap(), revision(9));
    assert_eq!(h.a.log(9).await[0].changes.len(), 128);
}

/// A manual clock that begins now: the harness's own handles go by the machine's clock, and must not find the log too old.
fn clock_of_now() -> Clock {
    let clock = Clock::manual();
    clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros());
    clock
}

pub async fn the_log_ends_at_its_age(h: &Harness) {
    let clock = clock_of_now();
    let handle = h.a.again(clock.clone()).await;
    handle.create("old", 1).await;
    clock.advance(Duration::from_secs(4 * 24 * 3_600));
    handle.create("younger", 2).await;
    handle.create("y", 2).await;
    assert_eq!(handle.meta().await.compacted, Revision::default());
    clock.advance(Duration::from_secs(4 * 24 * 3_600));
    handle.create("now", 3).await;
    // The log is taken off behind the answers, before what comes next.
    handle.create("next", 4).await;
    assert_eq!(handle.meta().await.compacted, revision(1));
    assert_eq!(handle.get("old").await.unwrap().value, 1);
}

pub async fn the_log_ends_at_its_size(h: &Harness) {
    let clock = clock_of_now();
    let handle = h.a.keeping(clock.clone(), Retention { bytes: 10 * ROW_BYTES, ..Retention::default() }).await;
    for value in 0..30 {
        handle.create(&format!("x{value}"), value).await;
        clock.advance(Duration::from_secs(2));
    }
    // The writer prunes behind its answers: the second answer says that what followed the first is done, and the clock stands still.
    handle.create("y", 0).await;
    handle.create("z", 0).await;
    let meta = handle.meta().await;
    let kept = meta.revision.get() - meta.compacted.get();
    // Each row counts its request id too, and the two newest commits come on top.
    assert!((4..=12).contains(&kept), "{kept} of {} are kept", meta.revision);
    assert_eq!(handle.log(meta.compacted.get()).await.len() as u64, kept);
}

pub async fn pages_show_one_revision_while_writers_run(h: &Harness) {
    let list = |cursor: Option<String>, limit: usize| {
        let list = List::new("thing").with_prefix("p").with_limit(limit);
        cursor.map_or(list.clone(), |cursor| list.after(cursor))
    };
    let mut versions = Vec::new();
    for index in 0..40 {
        versions.push(h.a.create(&format!("p{index:02}"), index).await.version);
    }
    h.a.create("q", 0).await;
    let whole = h.b.store.list(list(None, 1_000)).await.unwrap();
    let mut page = h.b.store.list(list(None, 7)).await.unwrap();
    let mut seen = page.items;
    let mut turn = 0;
    while let Some(cursor) = page.next {
        // Ahead of the reader and behind him: changed twice, deleted, made again, and new.
        for index in [turn, 39 - turn] {
            let name = format!("p{index:02}");
            let written = h.a.replace(&name, 1_000, versions[index]).await;
            let written = h.b.replace(&name, 1_001, written.version).await;
            if turn % 2 == 0 {
                h.a.remove(&name, written.version).await;
            }
            if turn % 4 == 0 {
                h.a.create(&name, 1_002).await;
            }
            h.b.create(&format!("{name}-new"), 0).await;
        }
        turn += 1;
        page = h.b.store.list(list(Some(cursor), 7)).await.unwrap();
        assert_eq!(page.revision, whole.revision);
        seen.extend(page.items);
    }
    assert_eq!((seen.len(), turn), (40, 5));
    assert_eq!(seen, whole.items);
    assert_ne!(h.a.store.list(list(None, 1_000)).await.unwrap().items, seen);
}

pub async fn a_page_of_a_compacted_revision_is_refused(h: &Harness) {
    for index in 0..3 {
        h.a.create(&format!("p{index}"), index).await;
    }
    let first = h.b.store.list(List::new("thing").with_limit(1)).await.unwrap();
    let next = || List::new("thing").with_limit(1).after(first.next.clone().unwrap());
    h.a.store.compact(revision(3)).await.unwrap();
    assert_eq!(h.b.store.list(next()).await.unwrap().items.len(), 1, "the log still tells what changed since");
    h.a.create("p3", 3).await;
    h.a.store.compact(revision(4)).await.unwrap();
    let refused = unwrap_error(h.b.store.list(next()).await);
    assert_eq!((refused.kind(), refused.code()), (Kind::Expired, Code::CursorCompacted));
}
