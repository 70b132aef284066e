//! Times to live: an object whose time is over is deleted by an ordinary commit, in the writer's own time.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::commit::ChangeOp;
use crate::model::TtlChange;
use crate::model::limits::{TTL_MAX, TTL_MIN};
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

/// A handle with a clock of its own, a day ahead of the other handles: to them nothing here is over yet.
async fn timed(h: &Harness) -> (Handle, Clock) {
    let clock = Clock::manual();
    clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + 24 * 3_600 * 1_000_000);
    (h.a.again(clock.clone()).await, clock)
}

async fn put(handle: &Handle, name: &str, value: i64, ttl: TtlChange) -> Written {
    handle.apply(|| Commit::new().put(key(name), &value, WriteCondition::Unconditional(overwrite())).ttl(ttl)).await.writes.remove(0)
}

async fn ends(handle: &Handle, name: &str) -> Option<Timestamp> {
    handle.get(name).await.unwrap().meta.expires_at
}

fn after(clock: &Clock, time: Duration) -> Option<Timestamp> {
    Some(Timestamp::from_micros(clock.wall().as_micros() + i64::try_from(time.as_micros()).unwrap()))
}

/// Waits for so many expiries after a revision; returns all changes on the way.
async fn expired(handle: &Handle, after: Revision, count: usize) -> Vec<(Revision, crate::commit::Change)> {
    let mut feed = handle.store.queue().feed(Some(after), None).await.unwrap();
    let mut changes = Vec::new();
    while changes.iter().filter(|(_, change): &&(_, crate::commit::Change)| change.op == ChangeOp::Expire).count() < count {
        let record = next_commit(&mut feed).await;
        changes.extend(record.changes.into_iter().map(|change| (record.revision, change)));
    }
    changes
}

pub async fn expiry_is_a_delete_in_the_feed(h: &Harness) {
    let (handle, clock) = timed(h).await;
    let lasting = put(&handle, "lasting", 1, TtlChange::Keep).await;
    let written = put(&handle, "x", 1, TtlChange::Set(MINUTE)).await;
    assert_eq!((ends(&h.b, "x").await, ends(&h.b, "lasting").await), (after(&clock, MINUTE), None));
    // Nobody writes meanwhile: the store does it by itself.
    clock.advance(MINUTE);
    let gone = expired(&handle, written.revision, 1).await;
    let [(revision, change)] = &gone[..] else { panic!("one change") };
    assert_eq!((change.op, change.version.get()), (ChangeOp::Expire, written.version.get() + 1));
    let before = change.before.as_ref().unwrap();
    assert_eq!((before.meta.version, change.after.is_none(), *revision), (written.version, true, revision_after(&written)));
    assert!(h.b.get("x").await.is_none());
    assert_eq!(h.b.get("lasting").await.unwrap().meta.version, lasting.version);
    let history = h.b.store.history(key("x"), None, 10).await.unwrap().items;
    assert_eq!(history.iter().map(|past| past.change.op).collect::<Vec<_>>(), [ChangeOp::Expire, ChangeOp::Put]);
    // Its name begins anew, above.
    let again = handle.create("x", 2).await;
    assert!(again.version > change.version);
    assert_eq!(ends(&h.b, "x").await, None);
}

fn revision_after(written: &Written) -> Revision {
    revision(written.revision.get() + 1)
}

pub async fn a_time_to_live_stays_unless_set(h: &Harness) {
    let (handle, clock) = timed(h).await;
    put(&handle, "x", 1, TtlChange::Set(10 * MINUTE)).await;
    let end = ends(&handle, "x").await;
    clock.advance(Duration::from_secs(5));
    put(&handle, "x", 2, TtlChange::Keep).await;
    assert_eq!(ends(&h.b, "x").await, end);
    let same = put(&handle, "x", 2, TtlChange::Keep).await;
    assert!(!same.changed);
    // To set it anew is a change, of the version too; to send the same request again is not.
    let id = fresh_id();
    let renew = || {
        let write = Commit::new().put(key("x"), &2, WriteCondition::MustExist).ttl(TtlChange::Set(10 * MINUTE));
        write.request(id.clone())
    };
    let renewed = handle.apply(renew).await.writes.remove(0);
    assert_eq!((renewed.changed, ends(&handle, "x").await), (true, after(&clock, 10 * MINUTE)));
    clock.advance(Duration::from_secs(5));
    assert!(handle.apply(renew).await.replayed);
    assert!(ends(&handle, "x").await < after(&clock, 10 * MINUTE));
    let freed = put(&handle, "x", 2, TtlChange::Never).await;
    assert_eq!((freed.changed, ends(&h.b, "x").await), (true, None));
    assert!(!put(&handle, "x", 2, TtlChange::Never).await.changed);
}

pub async fn who_renews_in_time_keeps_the_object(h: &Harness) {
    let (handle, clock) = timed(h).await;
    put(&handle, "marker", 1, TtlChange::Set(MINUTE)).await;
    put(&handle, "renewed", 1, TtlChange::Set(MINUTE)).await;
    put(&handle, "freed", 1, TtlChange::Set(MINUTE)).await;
    put(&handle, "renewed", 1, TtlChange::Set(3 * MINUTE)).await;
    let last = put(&handle, "freed", 1, TtlChange::Never).await;
    clock.advance(MINUTE);
    let gone = expired(&handle, last.revision, 1).await;
    assert_eq!(gone.iter().map(|(_, change)| change.key.name()).collect::<Vec<_>>(), ["marker"]);
    clock.advance(2 * MINUTE);
    let gone = expired(&handle, last.revision, 2).await;
    assert_eq!(gone.iter().map(|(_, change)| change.key.name()).collect::<Vec<_>>(), ["marker", "renewed"]);
    assert_eq!(h.b.get("freed").await.unwrap().value, 1);
}

pub async fn many_expire_in_parts_and_each_is_told_once(h: &Harness) {
    let (handle, clock) = timed(h).await;
    for part in 0..3 {
        let all = || {
            let put = |made: Commit, i: i32| made.put(("thing", format!("{part}-{i}")), &i, WriteCondition::MustCreate);
            (0..100).fold(Commit::new(), |made, i| put(made, i).ttl(TtlChange::Set(MINUTE)))
        };
        handle.apply(all).await;
    }
    let before = handle.meta().await.revision;
    clock.advance(2 * MINUTE);
    let gone = expired(&handle, before, 300).await;
    let names: std::collections::BTreeSet<_> = gone.iter().map(|(_, change)| change.key.name().to_owned()).collect();
    assert_eq!((gone.len(), names.len()), (300, 300));
    assert!(h.b.store.list(crate::store::List::new("thing")).await.unwrap().items.is_empty());
}

pub async fn an_idle_store_prunes_its_log(h: &Harness) {
    let (handle, clock) = timed(h).await;
    handle.create("x", 1).await;
    let last = handle.create("y", 1).await;
    // The writer has done what it does behind that answer: from here on nobody asks it for anything.
    handle.store.compact(Revision::default()).await.unwrap();
    clock.advance(Duration::from_secs(8 * 24 * 3_600));
    let pruned = async {
        while handle.meta().await.compacted < last.revision {
            tokio::task::yield_now().await;
        }
    };
    let patience = Clock::system();
    retry::deadline(&patience, patience.now() + PATIENCE, pruned).await.expect("the log is taken off though nobody writes");
    assert_eq!(h.b.get("x").await.unwrap().value, 1);
}

pub async fn bad_times_to_live_are_refused(h: &Harness) {
    let before = h.a.meta().await;
    for ttl in [Duration::ZERO, Duration::from_millis(999), TTL_MAX + Duration::from_millis(1), Duration::MAX] {
        let make = || Commit::new().put(key("x"), &1, WriteCondition::MustCreate).ttl(TtlChange::Set(ttl));
        let error = unwrap_error(h.a.try_commit(make).await);
        assert_eq!((error.kind(), error.pointer()), (Kind::Invalid, Some("/writes/0/ttl_ms")), "{ttl:?}");
    }
    let delete = || Commit::new().overwrite_delete(key("x")).ttl(TtlChange::Never);
    assert_eq!(unwrap_error(h.a.try_commit(delete).await).kind(), Kind::Invalid);
    assert_eq!(unwrap_error(h.a.try_commit(|| Commit::new().ttl(TtlChange::Never).fence(lock("l"), token(1))).await).kind(), Kind::Invalid);
    assert_eq!(h.b.meta().await, before);
    for ttl in [TTL_MIN, TTL_MAX] {
        let (handle, clock) = timed(h).await;
        put(&handle, "y", 1, TtlChange::Set(ttl)).await;
        assert_eq!(ends(&h.b, "y").await, after(&clock, ttl));
    }
}
