//! The decision at the ends of its ranges, which no test reaches by writing.

use std::collections::HashMap;
use std::sync::Arc;

use super::builder::{Commit, WriteCondition};
use super::decide::{Decision, View, decide};
use super::engine::{Rows, StoreMeta};
use super::feed::ChangeOp;
use super::outcome::Reason;
use crate::model::limits::{CONFLICT_BYTES, NUMBER_MAX};
use crate::model::{Epoch, FencingToken, Key, LabelChange, Labels, LockKey, Meta, Object, Payload, Revision, TtlChange, Version};
use crate::time::Timestamp;
use crate::{Effect, Kind};

const NOW: i64 = 1_760_000_000_000_000;

fn view(revision: u64, version_floor: u64, objects: Vec<Object>) -> View {
    let meta = StoreMeta {
        epoch: Epoch::from_bits(1),
        revision: Revision::new(revision).unwrap(),
        version_floor,
        restore_floor: 0,
        compacted: Revision::default(),
        newest_token: 0,
        at: Timestamp::default(),
        origin: "onward.local/test".into(),
    };
    let objects = objects.into_iter().map(|object| (object.key.clone(), Arc::new(object))).collect();
    let rows = Rows { meta, objects, fences: HashMap::new(), requests: HashMap::new(), heads: HashMap::new(), held: true };
    View::new(rows, Timestamp::from_micros(NOW)).0
}

fn key(name: &str) -> Key {
    Key::new("thing", name).unwrap()
}

fn object(name: &str, version: u64, bytes: usize) -> Object {
    let (one, at) = (Revision::new(1).unwrap(), Timestamp::from_micros(NOW));
    let meta = Meta {
        uid: uuid::Uuid::nil(),
        version: Version::new(version).unwrap(),
        revision: one,
        create_revision: one,
        labels: Labels::new(),
        expires_at: None,
        created_at: at,
        updated_at: at,
    };
    Object { key: key(name), value: Payload::new(vec![0; bytes], "x").unwrap(), meta }
}

fn judge(commit: &Commit, view: &View) -> crate::Result<Decision> {
    decide(commit, Some(&commit.fingerprint()), view)
}

fn create() -> Commit {
    Commit::new().put(key("x"), &1, WriteCondition::MustCreate)
}

#[test]
fn a_store_at_the_end_of_its_revisions_refuses_writes() {
    let last = NUMBER_MAX >> 8;
    assert!(matches!(judge(&create(), &view(last - 1, 0, vec![])).unwrap(), Decision::Apply(_)));
    let refused = judge(&create(), &view(last, 0, vec![])).unwrap_err();
    assert_eq!((refused.kind(), refused.effect()), (Kind::Unsupported, Effect::NotApplied));
}

#[test]
fn an_object_at_the_end_of_its_versions_refuses_writes() {
    let blind = || Commit::new().put(key("x"), &1, WriteCondition::MustExist);
    assert!(matches!(judge(&blind(), &view(1, 0, vec![object("x", NUMBER_MAX - 1, 1)])).unwrap(), Decision::Apply(_)));
    let full = view(1, 0, vec![object("x", NUMBER_MAX, 1)]);
    assert_eq!(judge(&blind(), &full).unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(judge(&Commit::new().overwrite_delete(key("x")), &full).unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(judge(&create(), &view(1, NUMBER_MAX, vec![])).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn a_token_a_year_ahead_passes_and_one_beyond_is_refused() {
    let year = 366 * 24 * 3_600 * 1_000_000;
    let fenced = |token: u64| create().fence(LockKey::raw("l").unwrap(), FencingToken::new(token).unwrap());
    let edge = NOW.cast_unsigned() + year;
    assert!(matches!(judge(&fenced(edge), &view(1, 0, vec![])).unwrap(), Decision::Apply(_)));
    assert_eq!(judge(&fenced(edge + 1), &view(1, 0, vec![])).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_refusal_shows_current_objects_up_to_its_bound_and_versions_beyond() {
    let mib = 1 << 20;
    let objects = (0..8).map(|i| object(&format!("n{i}"), 7, mib)).collect();
    let commit = (0..8).fold(Commit::new(), |commit, i| commit.put(key(&format!("n{i}")), &1, WriteCondition::MustCreate));
    let Decision::Conflict(conflicts) = judge(&commit, &view(1, 0, objects)).unwrap() else { panic!("all are there") };
    assert_eq!(conflicts.len(), 8);
    assert!(conflicts.iter().all(|lost| lost.version.is_some_and(|version| version.get() == 7)));
    let shown = conflicts.iter().filter(|lost| lost.current.is_some()).count();
    assert_eq!(shown * mib, CONFLICT_BYTES);
}

#[test]
fn an_expiry_is_judged_at_the_version_that_was_due() {
    let due = |at| Commit::new().expire(key("x"), Version::new(at).unwrap());
    let view = view(1, 0, vec![object("x", 7, 0)]);
    let Decision::Apply(verdict) = judge(&due(7), &view).unwrap() else { panic!("it is at its version") };
    assert_eq!((verdict.changes[0].op, verdict.changes[0].version.get(), verdict.version_floor), (ChangeOp::Expire, 8, 8));
    // Somebody was faster: renewed, or deleted.
    let Decision::Conflict(lost) = judge(&due(6), &view).unwrap() else { panic!("it was renewed") };
    assert_eq!(lost[0].reason, Reason::Stale);
    let gone = Commit::new().expire(key("y"), Version::new(7).unwrap());
    let Decision::Conflict(lost) = judge(&gone, &view).unwrap() else { panic!("it is gone") };
    assert_eq!(lost[0].reason, Reason::Missing);
}

#[test]
fn what_labels_and_times_ask_for_is_in_the_print_and_what_they_do_not_is_not() {
    let labels = |value| Labels::read([("a", value)]).unwrap();
    let base = || Commit::new().put(key("x"), &1, WriteCondition::MustCreate);
    let plain = base().fingerprint();
    assert_eq!(plain, base().labels(LabelChange::Keep).ttl(TtlChange::Keep).fingerprint());
    let asked = [
        base().labels(LabelChange::Set(Labels::new())),
        base().labels(LabelChange::Merge(Labels::new())),
        base().labels(LabelChange::Set(labels("1"))),
        base().labels(LabelChange::Set(labels("2"))),
        base().labels(LabelChange::Merge(labels("1"))),
        base().ttl(TtlChange::Never),
        base().ttl(TtlChange::Set(std::time::Duration::from_secs(1))),
        base().ttl(TtlChange::Set(std::time::Duration::from_secs(2))),
        base().labels(LabelChange::Set(labels("1"))).ttl(TtlChange::Never),
    ];
    let mut prints: Vec<_> = asked.iter().map(|commit| commit.fingerprint().0).collect();
    prints.push(plain.0);
    prints.sort_unstable();
    prints.dedup();
    assert_eq!(prints.len(), asked.len() + 1);
}
