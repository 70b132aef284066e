//! Touching objects, and collections: the store's verbs over one kind and one type.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::Code;
use crate::Refusal;
use crate::commit::{Guard, Reason, Window};
use crate::model::{LabelChange, Labels, Meta, Payload, TtlChange};
use crate::store::{Collection, Delete, List, Watch};
use crate::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);

async fn touch(handle: &Handle, name: &str, at: Option<Version>, options: impl Fn() -> WriteOptions) -> crate::Result<Put<Payload>> {
    let id = fresh_id();
    settle(async || handle.store.touch(key(name), at, options().with_request(id.clone(), Window::Own)).await).await
}

pub async fn a_touch_takes_a_version_and_leaves_the_content(h: &Harness) {
    let bytes = Payload::new(vec![0, 159, 146, 150], "application/octet-stream").unwrap();
    let made = || Commit::new().overwrite(key("x"), bytes.clone()).labels(LabelChange::Set(Labels::read([("a", "1")]).unwrap()));
    let first = h.a.apply(made).await.writes.remove(0);
    let touched = won(touch(&h.b, "x", None, WriteOptions::new).await.unwrap());
    assert_eq!((touched.version.get(), touched.changed, touched.created), (first.version.get() + 1, true, false));
    let object = h.a.store.get_payload(key("x")).await.unwrap().unwrap();
    assert_eq!((&object.value, object.meta.version, object.meta.labels.get("a")), (&bytes, touched.version, Some("1")));
    let change = &h.a.log(touched.revision.get() - 1).await[0].changes[0];
    assert_eq!(change.before.as_ref().unwrap().meta.version, first.version);
    assert_eq!(change.before.as_ref().unwrap().meta.uid, change.after.as_ref().unwrap().meta.uid);
    // At a version it is a condition like any other.
    let Put::Conflict(lost) = touch(&h.a, "x", Some(first.version), WriteOptions::new).await.unwrap() else { panic!("it is stale") };
    assert_eq!((lost.reason, lost.version), (Reason::Stale, Some(touched.version)));
    won(touch(&h.a, "x", Some(touched.version), WriteOptions::new).await.unwrap());
    assert_eq!(unwrap_error(touch(&h.b, "none", None, WriteOptions::new).await).kind(), Kind::NotFound);
    let Put::Conflict(lost) = touch(&h.b, "none", Some(first.version), WriteOptions::new).await.unwrap() else { panic!("it is missing") };
    assert_eq!(lost.reason, Reason::Missing);
    // And it is a part of what a request asks for.
    let id = fresh_id();
    let ask = |at| move || Commit::new().touch(key("x"), at);
    assert!(h.a.apply(|| ask(None)().request(id.clone())).await.changed);
    assert!(h.b.apply(|| ask(None)().request(id.clone())).await.replayed);
    let other = h.b.try_commit(|| ask(Some(first.version))().request(id.clone())).await;
    assert_eq!(unwrap_error(other).code(), Code::RequestIdReused);
}

pub async fn a_touch_renews_a_time_to_live_and_labels(h: &Harness) {
    h.a.apply(|| Commit::new().put(key("x"), &1, WriteCondition::MustCreate).ttl(TtlChange::Set(MINUTE))).await;
    let ends = async || h.b.get("x").await.unwrap().meta.expires_at;
    let first = ends().await.unwrap();
    won(touch(&h.b, "x", None, || WriteOptions::new().with_ttl(TtlChange::Set(60 * MINUTE))).await.unwrap());
    assert!(ends().await.unwrap() > Timestamp::from_micros(first.as_micros() + 50 * 60 * 1_000_000));
    won(touch(&h.a, "x", None, WriteOptions::new).await.unwrap());
    assert!(ends().await.unwrap() > first, "without a word it stays");
    let labels = || LabelChange::Set(Labels::read([("team", "blue")]).unwrap());
    won(touch(&h.a, "x", None, || WriteOptions::new().with_ttl(TtlChange::Never).with_labels(labels())).await.unwrap());
    let object = h.b.get("x").await.unwrap();
    assert_eq!((object.value, object.meta.expires_at, object.meta.labels.get("team")), (1, None, Some("blue")));
}

pub async fn a_refused_commit_touches_nothing(h: &Harness) {
    let first = h.a.create("x", 1).await;
    h.b.lose(|| Commit::new().touch(key("x"), None).guard(Guard::Absent(key("x")))).await;
    assert_eq!(h.a.get("x").await.unwrap().meta.version, first.version);
}

pub async fn a_collection_is_the_same_objects_by_name(h: &Harness) {
    let ours: Collection<i64> = h.a.store.collection("thing");
    let theirs: Collection<i64> = h.b.store.collection("thing");
    let mut watch = theirs.watch(Watch::default()).await.unwrap();
    let id = fresh_id();
    let options = |id: &RequestId| WriteOptions::new().with_request(id.clone(), Window::Own);
    let first = won(settle(async || ours.put_if("x", &1, WriteCondition::MustCreate, options(&id)).await).await.unwrap());
    assert_eq!(h.b.get("x").await.unwrap().value, 1);
    h.b.apply(|| Commit::new().put(("other", "x"), &5, WriteCondition::MustCreate)).await;
    let id = fresh_id();
    let add = |value: &mut i64, _: &Meta| {
        *value += 1;
        Ok::<(), Refusal>(())
    };
    let updated = settle(async || theirs.update("x", add).request(id.clone()).await).await.unwrap();
    assert_eq!((updated.value, ours.get("x").await.unwrap().unwrap().value), (2, 2));
    let page = ours.list(List::new("another kind").in_namespace("another")).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].value, page.next), (1, 2, None));
    let old = theirs.get_at("x", crate::store::At::Version(first.version)).await.unwrap().unwrap();
    assert_eq!((old.value, theirs.history("x", None, 10).await.unwrap().items.len()), (1, 2));
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    let mut told = Vec::new();
    while told.len() < 2 {
        if let FeedItem::Commit(record) = retry::deadline(&clock, until, watch.next()).await.expect("a change comes").unwrap() {
            told.extend(record.changes.iter().map(|change| (change.key.clone(), change.version.get())));
        }
    }
    assert_eq!(told, [(key("x"), 1), (key("x"), 2)], "nothing of other kinds");
    // A namespace of its own holds objects of its own.
    assert!(ours.clone().in_namespace("eu").get("x").await.unwrap().is_none());
    let id = fresh_id();
    let removed = settle(async || ours.delete_if("x", updated.written.version, options(&id)).await).await.unwrap();
    assert!(matches!(removed, Delete::Removed(_)));
    assert_eq!(unwrap_error(ours.get("").await).code(), Code::InvalidKey);
    assert_eq!(unwrap_error(h.a.store.collection::<i64>("Bad").create("x", &1).await).kind(), Kind::Invalid);
}

pub async fn a_collection_writes_nothing_that_its_validator_refuses(h: &Harness) {
    let small = |value: &i64| if *value < 10 { Ok(()) } else { Err(Refusal::new("too many")) };
    let ours = h.a.store.collection::<i64>("thing").validated(small);
    h.b.create("x", 1).await;
    let version = h.b.get("x").await.unwrap().meta.version;
    let before = h.b.meta().await.revision;
    let set = |value: &mut i64, _: &Meta| {
        *value = 10;
        Ok::<(), Refusal>(())
    };
    for refused in [
        ours.create("y", &10).await.map(|_| ()),
        ours.replace("x", &10, version).await.map(|_| ()),
        ours.overwrite("x", &10, WriteOptions::new()).await.map(|_| ()),
        ours.update("x", set).await.map(|_| ()),
        // One of its own comes beside, not instead.
        ours.update("x", set).validate(|_, _| Ok(())).await.map(|_| ()),
        ours.clone().update("x", set).or_insert(10).await.map(|_| ()),
    ] {
        assert_eq!(unwrap_error(refused).code(), Code::ValidationFailed);
    }
    assert_eq!(h.b.meta().await.revision, before);
}
