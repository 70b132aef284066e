//! Single objects: conditions, versions, lists, `update`.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::commit::Reason;
use crate::model::Payload;
use crate::store::List;
use crate::testing::history::{Answer, Call, Recorder, check_object};
use crate::{Code, Refusal};

pub async fn create_returns_the_version_it_wrote(h: &Harness) {
    let written = h.a.create("x", 1).await;
    assert!(written.created && written.changed);
    let read = h.b.get("x").await.unwrap();
    assert_eq!((read.value, read.meta.version, read.meta.revision), (1, written.version, written.revision));
    assert_eq!(read.meta.create_revision, written.revision);
}

pub async fn create_of_an_existing_object_is_refused_and_shows_it(h: &Harness) {
    let written = h.a.create("x", 1).await;
    let before = h.a.meta().await;
    let conflict = lost(h.b.put("x", 2, WriteCondition::MustCreate).await);
    assert_eq!((conflict.reason, conflict.version), (Reason::Exists, Some(written.version)));
    assert_eq!(conflict.current.unwrap().value, 1);
    assert_eq!(h.a.meta().await, before);
}

pub async fn of_two_creates_one_wins(h: &Harness) {
    for round in 0..20 {
        let name = format!("x{round}");
        let (one, two) = tokio::join!(h.a.put(&name, 1, WriteCondition::MustCreate), h.b.put(&name, 2, WriteCondition::MustCreate));
        let (written, value, conflict) = match (one, two) {
            (Put::Committed(written), Put::Conflict(conflict)) => (written, 1, conflict),
            (Put::Conflict(conflict), Put::Committed(written)) => (written, 2, conflict),
            other => panic!("one of two wins: {other:?}"),
        };
        assert_eq!((conflict.reason, conflict.version), (Reason::Exists, Some(written.version)));
        assert_eq!(conflict.current.unwrap().value, value);
        assert_eq!(h.b.get(&name).await.unwrap().value, value);
    }
}

pub async fn replace_at_the_read_version_adds_one(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let second = h.b.replace("x", 2, first.version).await;
    assert_eq!(second.version.get(), first.version.get() + 1);
    assert!(second.changed && !second.created && second.revision > first.revision);
    assert_eq!(h.a.get("x").await.unwrap().value, 2);
}

pub async fn replace_at_an_old_version_changes_nothing_and_shows_the_current_object(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let second = h.b.replace("x", 2, first.version).await;
    let before = h.a.meta().await;
    let conflict = lost(h.a.put("x", 3, WriteCondition::MatchVersion(first.version)).await);
    assert_eq!((conflict.reason, conflict.version), (Reason::Stale, Some(second.version)));
    let current = conflict.current.unwrap();
    assert_eq!((current.value, current.meta.version), (2, second.version));
    assert_eq!((h.b.get("x").await.unwrap().value, h.a.meta().await), (2, before));
}

pub async fn of_many_replaces_at_one_version_one_wins(h: &Harness) {
    let first = h.a.create("x", 0).await;
    let mut tries = Vec::new();
    for value in 1..=16 {
        let handle = if value % 2 == 0 { &h.a } else { &h.b };
        tries.push(async move { (value, handle.put("x", value, WriteCondition::MatchVersion(first.version)).await) });
    }
    let mut winners = Vec::new();
    let mut shown = Vec::new();
    for (value, put) in join_all(tries).await {
        match put {
            Put::Committed(written) => winners.push((value, written.version)),
            Put::Conflict(conflict) => shown.push(conflict.current.unwrap().value),
        }
    }
    let [(value, at)] = winners[..] else { panic!("one wins: {winners:?}") };
    assert_eq!(at.get(), first.version.get() + 1);
    assert!(shown.len() == 15 && shown.iter().all(|shown| *shown == value));
}

pub async fn replace_of_a_missing_object_is_no_create(h: &Harness) {
    let conflict = lost(h.a.put("x", 1, WriteCondition::MatchVersion(version(1))).await);
    assert_eq!(conflict.reason, Reason::Missing);
    assert!(conflict.version.is_none() && conflict.current.is_none());
    assert!(h.b.get("x").await.is_none());
}

pub async fn must_exist_is_no_create(h: &Harness) {
    assert_eq!(lost(h.a.put("x", 1, WriteCondition::MustExist).await).reason, Reason::Missing);
    assert!(h.b.get("x").await.is_none());
    let first = h.a.create("x", 1).await;
    let second = won(h.b.put("x", 2, WriteCondition::MustExist).await);
    assert_eq!(second.version.get(), first.version.get() + 1);
}

pub async fn delete_at_an_old_version_keeps_the_object(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let second = h.a.replace("x", 2, first.version).await;
    let Delete::Conflict(conflict) = h.b.delete("x", first.version).await else { panic!("a stale delete is a conflict") };
    assert_eq!((conflict.reason, conflict.version), (Reason::Stale, Some(second.version)));
    assert_eq!(conflict.current.unwrap().value.read::<i64>().unwrap(), 2);
    assert_eq!(h.a.get("x").await.unwrap().meta.version, second.version);
}

pub async fn delete_of_an_absent_object_is_absent(h: &Harness) {
    let before = h.a.meta().await;
    assert!(matches!(h.a.delete("x", version(1)).await, Delete::Absent));
    assert!(matches!(h.b.store.overwrite_delete(key("x"), WriteOptions::new()).await.unwrap(), Delete::Absent));
    assert_eq!(h.a.meta().await, before);
}

pub async fn a_recreated_object_has_a_new_uid_and_a_higher_version(h: &Harness) {
    let mut last = h.a.create("x", 0).await.version;
    let mut uids = vec![h.a.get("x").await.unwrap().meta.uid];
    h.a.create("other", 0).await;
    for round in 0..5 {
        let changed = h.a.replace("x", 100 + round, last).await;
        let removed = h.b.remove("x", changed.version).await;
        assert!(removed.version > changed.version);
        assert!(h.a.get("x").await.is_none());
        let created = h.b.create("x", round).await;
        assert!(created.version > removed.version, "{created:?} after {removed:?}");
        // What was read in the former life no longer matches.
        assert_eq!(lost(h.a.put("x", -1, WriteCondition::MatchVersion(changed.version)).await).reason, Reason::Stale);
        let object = h.a.get("x").await.unwrap();
        assert_eq!(object.meta.create_revision, created.revision);
        assert!(!uids.contains(&object.meta.uid));
        uids.push(object.meta.uid);
        last = created.version;
    }
}

pub async fn only_overwrite_writes_blindly_and_it_moves_the_version(h: &Harness) {
    h.a.faults.calm();
    let first = h.a.store.overwrite(key("x"), Payload::json(&1).unwrap(), WriteOptions::new()).await.unwrap();
    assert!(first.created);
    let second = h.a.store.overwrite(key("x"), Payload::json(&2).unwrap(), WriteOptions::new()).await.unwrap();
    assert_eq!((second.version.get(), second.created), (first.version.get() + 1, false));
    // Whoever read before the blind write is told.
    assert_eq!(lost(h.b.put("x", 3, WriteCondition::MatchVersion(first.version)).await).reason, Reason::Stale);
}

pub async fn equal_content_keeps_version_and_feed(h: &Harness) {
    let first = h.a.create("x", 1).await;
    let before = h.a.meta().await;
    let again = h.b.replace("x", 1, first.version).await;
    assert_eq!((again.version, again.revision, again.changed), (first.version, first.revision, false));
    assert_eq!(h.a.meta().await, before);
    assert_eq!(h.b.log(0).await.len(), 1);
    // Equal content is no excuse for a stale condition.
    assert_eq!(lost(h.b.put("x", 1, WriteCondition::MatchVersion(version(99))).await).reason, Reason::Stale);
}

pub async fn another_content_type_is_another_content(h: &Harness) {
    let put = |kind: &'static str| {
        move || Commit::new().put_payload(key("x"), Payload::new("1", kind).unwrap(), WriteCondition::Unconditional(overwrite()))
    };
    let first = h.a.apply(put("text/plain")).await;
    let second = h.b.apply(put("application/json")).await;
    assert!(second.writes[0].changed && second.writes[0].version > first.writes[0].version);
    let read = h.a.store.get_payload(key("x")).await.unwrap().unwrap();
    assert_eq!((&read.value.bytes()[..], read.value.content_type()), (&b"1"[..], "application/json"));
}

pub async fn meta_is_the_same_in_lists_and_gets(h: &Harness) {
    for name in ["b", "a", "ä", "c/d", "c.d"] {
        let first = h.a.create(name, 1).await;
        h.b.replace(name, 2, first.version).await;
    }
    let page = h.a.store.list(List::new("thing")).await.unwrap();
    assert_eq!(page.revision, h.a.meta().await.revision);
    assert!(page.next.is_none());
    let names: Vec<_> = page.items.iter().map(|object| object.key.name().to_owned()).collect();
    assert_eq!(names, ["a", "b", "c.d", "c/d", "ä"]);
    for object in page.items {
        assert_eq!(h.b.store.get_payload(&object.key).await.unwrap().unwrap(), object);
    }
}

pub async fn pages_follow_each_other_without_overlap(h: &Harness) {
    let names: Vec<_> = (0..25).map(|i| format!("n{i:02}")).collect();
    h.a.apply(|| names.iter().fold(Commit::new(), |commit, name| commit.put(key(name), &1, WriteCondition::MustCreate))).await;
    h.a.apply(|| Commit::new().put(("other", "n05"), &1, WriteCondition::MustCreate)).await;
    h.a.apply(|| Commit::new().put(("elsewhere", "thing", "n05"), &1, WriteCondition::MustCreate)).await;
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = List::new("thing").with_limit(7);
        if let Some(cursor) = cursor.take() {
            query = query.after(cursor);
        }
        let page = h.b.store.list(query).await.unwrap();
        assert!(page.items.len() <= 7);
        seen.extend(page.items.iter().map(|object| object.key.name().to_owned()));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, names);
    let last = h.b.store.list(List::new("thing").with_limit(25)).await.unwrap();
    assert!(last.next.is_none(), "a full last page is the last");
}

pub async fn prefixes_treat_odd_characters_as_data(h: &Harness) {
    let names = ["100%", "100_", "100a", "10", "100", "a'b", "a\"b", "ab", "é1", "e1", "\u{10ffff}z", "[a]", "*"];
    h.a.apply(|| names.iter().fold(Commit::new(), |commit, name| commit.put(key(name), &1, WriteCondition::MustCreate))).await;
    for prefix in ["", "100", "100%", "100_", "a'", "a\"", "é", "\u{10ffff}", "[", "*", "zzz"] {
        let mut expected: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).map(|name| (*name).to_owned()).collect();
        expected.sort_unstable();
        let page = h.b.store.list(List::new("thing").with_prefix(prefix)).await.unwrap();
        assert_eq!(page.items.iter().map(|object| object.key.name().to_owned()).collect::<Vec<_>>(), expected, "prefix {prefix:?}");
    }
}

pub async fn a_list_page_stays_below_its_bytes(h: &Harness) {
    let big = "x".repeat(900_000);
    for name in 0..11 {
        h.a.apply(|| Commit::new().put(key(&format!("n{name:02}")), &big, WriteCondition::MustCreate)).await;
    }
    let first = h.b.store.list(List::new("thing")).await.unwrap();
    let bytes: usize = first.items.iter().map(|object| object.value.bytes().len()).sum();
    assert!(bytes <= crate::model::limits::PAGE_BYTES && first.items.len() == 9, "{} items of {bytes} bytes", first.items.len());
    let rest = h.b.store.list(List::new("thing").after(first.next.unwrap())).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (2, None));
}

/// An update carries no request id, so its caller cannot settle a lost answer: these cases run without lost answers.
fn calm(h: &Harness) {
    h.a.faults.calm();
    h.b.faults.calm();
}

pub async fn update_needs_no_read_after_a_conflict(h: &Harness) {
    calm(h);
    h.a.create("x", 0).await;
    let reads = h.a.faults.reads();
    let mut disturbed = 0;
    let updated =
        h.a.store
            .update::<i64, _>(key("x"), |value, _| {
                if disturbed < 3 {
                    disturbed += 1;
                    // Another handle is faster, three times.
                    let b = h.b.store.clone();
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                            runtime.block_on(async { b.update::<i64, _>(key("x"), |value, _| bump(value, 10)).await.unwrap() });
                        });
                    });
                }
                bump(value, 1)
            })
            .await
            .unwrap();
    assert_eq!((updated.value, updated.tries), (31, 4));
    assert_eq!(h.a.faults.reads() - reads, 1, "one read for four tries");
    assert_eq!(h.b.get("x").await.unwrap().value, 31);
}

fn bump(value: &mut i64, by: i64) -> Result<(), Refusal> {
    *value += by;
    Ok(())
}

pub async fn update_loses_nothing_under_contention(h: &Harness) {
    calm(h);
    h.a.create("x", 0).await;
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let store = if worker % 2 == 0 { h.a.store.clone() } else { h.b.store.clone() };
            async move {
                let mut versions = Vec::new();
                for _ in 0..10 {
                    let update = store.update::<i64, _>(key("x"), |value, _| bump(value, 1)).tries(100);
                    versions.push(update.await.unwrap().written.version);
                }
                versions
            }
        })
        .collect();
    let mut versions: Vec<_> = join_all(workers).await.into_iter().flatten().collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!((versions.len(), h.a.get("x").await.unwrap().value), (80, 80));
}

pub async fn the_validator_sees_the_merged_candidate(h: &Harness) {
    calm(h);
    let first = h.a.create("x", 1).await;
    let mut seen = Vec::new();
    let mut disturbed = false;
    h.a.store
        .update::<i64, _>(key("x"), |value, _| bump(value, 100))
        .validate(|candidate, current| {
            seen.push((*candidate, current.copied()));
            if !disturbed {
                disturbed = true;
                let b = h.b.store.clone();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        won(runtime.block_on(b.replace(key("x"), &2_i64, first.version)).unwrap());
                    });
                });
            }
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(seen, [(101, Some(1)), (102, Some(2))]);
    assert_eq!(h.b.get("x").await.unwrap().value, 102);
}

pub async fn a_refused_candidate_leaves_no_trace(h: &Harness) {
    calm(h);
    h.a.create("x", 1).await;
    let before = h.a.meta().await;
    let update = h.a.store.update::<i64, _>(key("x"), |value, _| bump(value, 1)).validate(|_, _| Err(Refusal::new("odd sum")));
    let refused = unwrap_error(update.await);
    assert_eq!((refused.kind(), refused.code(), refused.message()), (Kind::Invalid, Code::ValidationFailed, "odd sum"));
    let refused = unwrap_error(h.a.store.update::<i64, _>(key("x"), |_, _| Err(Refusal::new("no"))).await);
    assert_eq!(refused.code(), Code::ValidationFailed);
    assert_eq!((h.b.get("x").await.unwrap().value, h.a.meta().await), (1, before));
}

pub async fn an_update_with_a_request_id_happens_once(h: &Harness) {
    h.a.create("x", 1).await;
    let id = crate::model::RequestId::new("add-one").unwrap();
    let add = |store: &Store| {
        let (store, id) = (store.clone(), id.clone());
        async move {
            let change = |n: &mut u32, _: &crate::model::Meta| {
                *n += 1;
                Ok(())
            };
            store.update(key("x"), change).request(id).await
        }
    };
    h.a.faults.calm();
    let first = add(&h.a.store).await.unwrap();
    h.b.create("y", 1).await;
    let newer =
        h.a.store
            .update(key("x"), |n: &mut u32, _| {
                *n = 10;
                Ok(())
            })
            .await
            .unwrap();
    let again = add(&h.b.store).await.unwrap();
    assert_eq!((first.value, first.written.version, first.written.replayed), (2, again.written.version, false));
    // The value that was written then, although a newer one is there (C2).
    assert_eq!((again.value, again.written.replayed), (2, true));
    assert_eq!(h.a.get("x").await.map(|object| object.meta.version), Some(newer.written.version));
}

pub async fn a_lost_race_with_another_shape_is_a_conflict_all_the_same(h: &Harness) {
    let stale = h.a.create("x", 1).await.version;
    h.a.faults.calm();
    let text = crate::model::Payload::new("not JSON", "text/plain").unwrap();
    let newest = h.a.store.overwrite(key("x"), text, crate::store::WriteOptions::new()).await.unwrap().version;
    let Put::Conflict(lost) = h.b.store.replace(key("x"), &2, stale).await.unwrap() else { panic!("the version is stale") };
    assert_eq!((lost.version, lost.current.is_none()), (Some(newest), true));
}

pub async fn spent_tries_are_an_error_with_the_current_object(h: &Harness) {
    calm(h);
    h.a.create("x", 0).await;
    let update = h.a.store.update::<i64, _>(key("x"), |value, _| {
        let b = h.b.store.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { b.update::<i64, _>(key("x"), |value, _| bump(value, 10)).await.unwrap() });
            });
        });
        bump(value, 1)
    });
    let spent = unwrap_error(update.tries(2).await);
    assert_eq!((spent.kind(), spent.code(), spent.tries()), (Kind::Conflict, Code::VersionConflict, Some(2)));
    assert_eq!(spent.effect(), crate::Effect::NotApplied);
    assert_eq!(spent.current().unwrap().value.read::<i64>().unwrap(), 20);
    assert_eq!(h.a.get("x").await.unwrap().value, 20);
}

pub async fn update_of_a_missing_object_is_not_found(h: &Harness) {
    calm(h);
    let missing = unwrap_error(h.a.store.update::<i64, _>(key("x"), |value, _| bump(value, 1)).await);
    assert_eq!((missing.kind(), missing.code()), (Kind::NotFound, Code::NotFound));
    assert!(h.b.get("x").await.is_none());
}

pub async fn update_may_insert_a_missing_object(h: &Harness) {
    calm(h);
    let update =
        |store: Store| async move { store.update::<i64, _>(key("x"), |value, _| bump(value, 1)).or_insert(0).tries(50).await.unwrap() };
    let (one, two) = tokio::join!(update(h.a.store.clone()), update(h.b.store.clone()));
    assert!(one.written.created != two.written.created, "one inserts, the other changes");
    assert_eq!(h.a.get("x").await.unwrap().value, 1);
}

/// Random clients on one object, through both handles, judged by the checker of histories (INV-3).
pub async fn concurrent_histories_are_linearizable(h: &Harness) {
    let recorder = Recorder::default();
    let clients: Vec<_> = (0..6_i64)
        .map(|client| {
            let (handle, recorder) = (if client % 2 == 0 { &h.a } else { &h.b }, recorder.clone());
            async move {
                let mut seen: Option<Version> = None;
                for round in 0..12_i64 {
                    let value = client * 1_000 + round;
                    let call = match (random::below(8), seen) {
                        (0, _) => Call::Read,
                        (1, Some(at)) => Call::Delete { at: at.get() },
                        (2, _) => Call::Overwrite { value },
                        (3, _) | (_, None) => Call::Create { value },
                        (_, Some(at)) => Call::Replace { at: at.get(), value },
                    };
                    let answer = recorder.record(call, play(handle, call)).await;
                    seen = match answer {
                        Answer::Won { version: won } if !matches!(call, Call::Delete { .. }) => Some(version(won)),
                        Answer::Shown(Some((shown, _))) => Some(version(shown)),
                        _ => None,
                    };
                }
            }
        })
        .collect();
    join_all(clients).await;
    let history = recorder.history();
    assert!(history.iter().filter(|op| matches!(op.answer, Answer::Won { .. })).count() > 10);
    check_object(&history).unwrap();
}

/// Makes one call and says what was seen.
async fn play(handle: &Handle, call: Call) -> Answer {
    let shown = |object: Option<Object<i64>>| Answer::Shown(object.map(|object| (object.meta.version.get(), object.value)));
    let put = match call {
        Call::Read => return shown(handle.get("x").await),
        Call::Delete { at } => {
            return match handle.delete("x", version(at)).await {
                Delete::Removed(written) => Answer::Won { version: written.version.get() },
                Delete::Absent => Answer::Shown(None),
                Delete::Conflict(conflict) => shown(conflict.read().current),
            };
        }
        Call::Overwrite { value } => {
            let receipt = handle.apply(|| Commit::new().overwrite(key("x"), Payload::json(&value).unwrap())).await;
            return Answer::Won { version: receipt.writes[0].version.get() };
        }
        Call::Create { value } => handle.put("x", value, WriteCondition::MustCreate).await,
        Call::Replace { at, value } => handle.put("x", value, WriteCondition::MatchVersion(version(at))).await,
    };
    match put {
        Put::Committed(written) => Answer::Won { version: written.version.get() },
        Put::Conflict(conflict) => shown(conflict.current),
    }
}
