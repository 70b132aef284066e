//! Labels of objects, and lists and watches by them.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::commit::{ChangeOp, Patch, Window};
use crate::model::limits::{LABEL_KEY_BYTES, LABEL_VALUE_BYTES, LABELS, SELECTOR_TERMS, SELECTOR_VALUES};
use crate::model::{LabelChange, Labels, Meta, Payload, Selector};
use crate::store::{At, List, Watch};
use crate::{Code, Refusal};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::read(pairs.iter().copied()).unwrap()
}

fn set(pairs: &[(&str, &str)]) -> LabelChange {
    LabelChange::Set(labels(pairs))
}

fn merge(pairs: &[(&str, &str)]) -> LabelChange {
    LabelChange::Merge(labels(pairs))
}

/// Writes blindly.
async fn put(handle: &Handle, name: &str, value: i64, change: LabelChange) -> Written {
    let make = || Commit::new().put(key(name), &value, WriteCondition::Unconditional(overwrite())).labels(change.clone());
    handle.apply(make).await.writes.remove(0)
}

async fn of(handle: &Handle, name: &str) -> Labels {
    handle.get(name).await.unwrap().meta.labels
}

fn one_of(name: &str, values: &[&str]) -> Selector {
    Selector::new().one_of(name, values.iter().copied()).unwrap()
}

async fn names(handle: &Handle, selector: Selector) -> Vec<String> {
    let page = handle.store.list(List::new("thing").with_selector(selector)).await.unwrap();
    page.items.into_iter().map(|object| object.key.name().to_owned()).collect()
}

pub async fn labels_stay_unless_set(h: &Harness) {
    put(&h.a, "x", 1, set(&[("a", "1"), ("b", "2")])).await;
    put(&h.b, "x", 2, LabelChange::Keep).await;
    assert_eq!(of(&h.a, "x").await, labels(&[("a", "1"), ("b", "2")]));
    put(&h.b, "x", 2, merge(&[("b", "3"), ("c", "")])).await;
    assert_eq!(of(&h.a, "x").await, labels(&[("a", "1"), ("b", "3"), ("c", "")]));
    put(&h.a, "x", 2, set(&[("d", "4")])).await;
    assert_eq!(of(&h.b, "x").await, labels(&[("d", "4")]));
    put(&h.a, "x", 2, set(&[])).await;
    assert!(of(&h.b, "x").await.is_empty());
}

pub async fn a_label_is_content_and_equal_labels_are_no_change(h: &Harness) {
    let first = put(&h.a, "x", 1, set(&[("a", "1")])).await;
    let revision = h.a.meta().await.revision;
    for change in [LabelChange::Keep, set(&[("a", "1")]), merge(&[("a", "1")]), merge(&[])] {
        let same = put(&h.b, "x", 1, change).await;
        assert_eq!((same.version, same.changed), (first.version, false));
    }
    assert_eq!(h.a.meta().await.revision, revision, "nothing stands in the feed");
    let moved = put(&h.b, "x", 1, merge(&[("a", "2")])).await;
    assert_eq!((moved.version.get(), moved.changed), (first.version.get() + 1, true));
    let id = fresh_id();
    // And it is a part of what a request asks for.
    let make = |value: &'static str| {
        let id = id.clone();
        move || Commit::new().put(key("y"), &1, WriteCondition::MustCreate).labels(set(&[("a", value)])).request(id.clone())
    };
    h.a.apply(make("1")).await;
    assert!(h.b.apply(make("1")).await.replayed);
    assert_eq!(unwrap_error(h.b.try_commit(make("2")).await).code(), Code::RequestIdReused);
}

pub async fn patches_and_updates_label_too(h: &Harness) {
    put(&h.a, "x", 1, set(&[("a", "1")])).await;
    let id = fresh_id();
    settle(async || {
        let add = |value: &mut i64, _: &Meta| {
            *value += 1;
            Ok::<(), Refusal>(())
        };
        h.b.store.update(key("x"), add).labels(merge(&[("b", "2")])).request(id.clone()).await
    })
    .await
    .unwrap();
    assert_eq!((h.a.get("x").await.unwrap().value, of(&h.a, "x").await), (2, labels(&[("a", "1"), ("b", "2")])));
    let id = fresh_id();
    let applied = settle(async || {
        let options = WriteOptions::new().with_labels(set(&[("c", "3")])).with_request(id.clone(), Window::Own);
        h.a.store.apply(key("x"), Patch::merge_json("7")?, None, options).await
    });
    assert!(won(applied.await.unwrap()).changed);
    assert_eq!((h.b.get("x").await.unwrap().value, of(&h.b, "x").await), (7, labels(&[("c", "3")])));
    // A new life begins without labels.
    let at = h.a.get("x").await.unwrap().meta.version;
    h.a.remove("x", at).await;
    h.b.create("x", 1).await;
    assert!(of(&h.a, "x").await.is_empty());
    assert!(names(&h.a, Selector::new().exists("c").unwrap()).await.is_empty());
}

pub async fn earlier_states_show_the_labels_of_then(h: &Harness) {
    let one = put(&h.a, "x", 1, set(&[("a", "1")])).await;
    let two = put(&h.b, "x", 1, set(&[("a", "2")])).await;
    let gone = h.a.remove("x", two.version).await;
    for (written, value) in [(&one, "1"), (&two, "2")] {
        for at in [At::Version(written.version), At::Revision(written.revision)] {
            assert_eq!(h.b.store.get_at(key("x"), at).await.unwrap().unwrap().meta.labels, labels(&[("a", value)]), "{at:?}");
        }
    }
    let history = h.a.store.history(key("x"), None, 10).await.unwrap().items;
    let told: Vec<_> = history.iter().map(|past| past.change.after.as_ref().map(|object| object.meta.labels.clone())).collect();
    assert_eq!(told, [None, Some(labels(&[("a", "2")])), Some(labels(&[("a", "1")]))]);
    let last = &h.b.log(gone.revision.get() - 1).await[0].changes[0];
    assert_eq!((last.op, &last.before.as_ref().unwrap().meta.labels), (ChangeOp::Delete, &labels(&[("a", "2")])));
}

pub async fn a_selector_wants_all_its_terms(h: &Harness) {
    put(&h.a, "a", 1, set(&[("team", "blue"), ("urgent", "")])).await;
    put(&h.b, "b", 1, set(&[("team", "red")])).await;
    put(&h.a, "c", 1, set(&[("team", "blue")])).await;
    h.b.create("d", 1).await;
    put(&h.b, "b2", 1, set(&[("teams", "blue"), ("team ", "blue")])).await;
    let team = |value: &str| Selector::new().equals("team", value).unwrap();
    for (selector, expected) in [
        (Selector::new(), &["a", "b", "b2", "c", "d"][..]),
        (team("blue"), &["a", "c"]),
        (Selector::new().exists("team").unwrap(), &["a", "b", "c"]),
        (team("blue").exists("urgent").unwrap(), &["a"]),
        (team("blue").equals("urgent", "").unwrap(), &["a"]),
        (team("blue").equals("team", "red").unwrap(), &[]),
        (team("Blue"), &[]),
        (team("blue "), &[]),
        (team(""), &[]),
        (one_of("team", &["blue", "red", "green"]), &["a", "b", "c"]),
        (one_of("team", &["red", "Blue"]), &["b"]),
        (one_of("team", &["red", "blue"]).exists("urgent").unwrap(), &["a"]),
        (one_of("team", &["red", "blue"]).equals("team", "red").unwrap(), &["b"]),
        (one_of("urgent", &["", "x"]), &["a"]),
    ] {
        assert_eq!(names(&h.a, selector.clone()).await, expected, "{selector:?}");
    }
    let prefixed =
        h.b.store.list(List::new("thing").with_prefix("b").with_selector(Selector::new().exists("team").unwrap())).await.unwrap();
    assert_eq!((prefixed.items.len(), prefixed.items[0].key.name()), (1, "b"));
    let other = h.b.store.list(List::new("other").with_selector(team("blue"))).await.unwrap();
    assert!(other.items.is_empty());
    // What a change takes away is not found any more.
    put(&h.a, "a", 1, set(&[("team", "red")])).await;
    let at = h.a.get("c").await.unwrap().meta.version;
    h.b.remove("c", at).await;
    assert_eq!((names(&h.b, team("blue")).await, names(&h.a, team("red")).await.len()), (vec![], 2));
    // And what comes back is found again.
    put(&h.b, "a", 1, set(&[("team", "blue")])).await;
    assert_eq!(names(&h.a, team("blue")).await, ["a"]);
}

pub async fn selectors_treat_odd_characters_as_data(h: &Harness) {
    let odd = ["%", "_", "'", "\"", "\\", "a%", "a_b", "ä", "a*", "[a]", "{}", ",", "k v", "$1", "?", "NULL", "\u{10ffff}"];
    for (index, text) in odd.iter().enumerate() {
        put(&h.a, &format!("n{index:02}"), 1, set(&[(text, text), ("of", text)])).await;
    }
    for (index, text) in odd.iter().enumerate() {
        let expected = [format!("n{index:02}")];
        for selector in [
            Selector::new().exists(text).unwrap(),
            Selector::new().equals(text, text).unwrap(),
            Selector::new().equals("of", text).unwrap(),
            Selector::new().term(&format!("of={text}")).unwrap(),
        ] {
            assert_eq!(names(&h.b, selector.clone()).await, expected, "{selector:?}");
        }
    }
    put(&h.a, "eq", 1, set(&[("of", "a=b=")])).await;
    assert_eq!(names(&h.b, Selector::new().term("of=a=b=").unwrap()).await, ["eq"]);
}

pub async fn a_set_of_values_is_read_as_it_is_written(h: &Harness) {
    let odd = ["a,b", "\"q\"", " outer ", "in (x)", "a=b", ")", "(", "ä", "plain"];
    for (index, text) in odd.iter().enumerate() {
        put(&h.a, &format!("n{index}"), 1, set(&[("of", text), ("k in", "x")])).await;
    }
    for (text, expected) in [
        (r#"of in (plain)"#, &["n8"][..]),
        (r#"of in ( plain , "a,b" )"#, &["n0", "n8"]),
        (r#"of in (plain,"\"q\""," outer ")"#, &["n1", "n2", "n8"]),
        (r#"of in ("in (x)",a=b,ä)"#, &["n3", "n4", "n7"]),
        (r#"of in (),(,nothing)"#, &["n5", "n6"]),
        (r#"of in ("\u0070lain", plain)"#, &["n8"]),
        // Whoever asks for one value, asks so.
        (r#"k in=x"#, &["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"]),
    ] {
        assert_eq!(names(&h.b, Selector::new().term(text).unwrap()).await, expected, "{text}");
    }
    for bad in ["of in ()", "of in (a,)", "of in (,a)", "of in (\"a)", "of in (\"a\" b)", "of in (a\"b)", "of in (\"\\ud800\")", " in (a)"]
    {
        assert_eq!(unwrap_error(Selector::new().term(bad)).kind(), Kind::Invalid, "{bad}");
    }
    let many = |count: usize| Selector::new().one_of("of", (0..count).map(|n| format!("v{n}")));
    assert_eq!(unwrap_error(many(SELECTOR_VALUES + 1)).kind(), Kind::Invalid);
    assert!(names(&h.a, many(SELECTOR_VALUES).unwrap()).await.is_empty());
    assert_eq!(unwrap_error(many(0)).kind(), Kind::Invalid);
    // Order and repetition are no difference: a cursor goes on.
    let by = |values: &[&str]| List::new("thing").with_selector(one_of("of", values)).with_limit(1);
    let cursor = h.a.store.list(by(&["plain", "ä"])).await.unwrap().next.unwrap();
    assert_eq!(h.b.store.list(by(&["ä", "plain", "ä"]).after(&*cursor)).await.unwrap().items[0].key.name(), "n8");
    for other in [&["ä"][..], &["plain", "ä", ""]] {
        assert_eq!(unwrap_error(h.a.store.list(by(other).after(&*cursor)).await).code(), Code::InvalidCursor);
    }
}

pub async fn pages_by_label_show_one_revision_while_labels_change(h: &Harness) {
    for index in 0..30 {
        let team = if index % 3 == 0 { "red" } else { "blue" };
        put(&h.a, &format!("p{index:02}"), index, set(&[("team", team), ("half", if index < 15 { "1" } else { "2" })])).await;
    }
    for selector in [
        Selector::new().equals("team", "blue").unwrap(),
        Selector::new().exists("team").unwrap(),
        Selector::new().exists("half").unwrap().equals("team", "red").unwrap(),
    ] {
        let list = |cursor: Option<String>, limit| {
            let list = List::new("thing").with_selector(selector.clone()).with_limit(limit);
            cursor.map_or(list.clone(), |cursor| list.after(cursor))
        };
        let whole = h.b.store.list(list(None, 1_000)).await.unwrap();
        assert!(whole.items.len() >= 9);
        let mut page = h.b.store.list(list(None, 4)).await.unwrap();
        let mut seen = page.items;
        let mut turn = 0;
        while let Some(cursor) = page.next {
            // Ahead of the reader and behind him: out of the selection, into it, gone, and made again.
            for index in [turn, 29 - turn] {
                let name = format!("p{index:02}");
                put(&h.a, &name, 100, set(&[("other", "x")])).await;
                put(&h.b, &name, 101 + turn, set(&[("team", if turn % 2 == 0 { "red" } else { "blue" }), ("half", "0")])).await;
                if turn % 3 == 0 {
                    let at = h.a.get(&name).await.unwrap().meta.version;
                    h.a.remove(&name, at).await;
                }
                put(&h.b, &format!("{name}-{turn}"), 1, set(&[("team", "blue"), ("half", "1")])).await;
            }
            turn += 1;
            page = h.b.store.list(list(Some(cursor), 4)).await.unwrap();
            assert_eq!(page.revision, whole.revision);
            seen.extend(page.items);
        }
        assert!(turn >= 2);
        assert_eq!(seen, whole.items, "{selector:?}");
    }
}

pub async fn a_watch_tells_who_enters_and_leaves_the_selector(h: &Harness) {
    let selector = Selector::new().equals("team", "blue").unwrap();
    let mut watch = h.b.store.watch(Watch { selector, ..Watch::default() }).await.unwrap();
    h.a.create("x", 1).await;
    let entered = put(&h.a, "x", 1, set(&[("team", "blue")])).await;
    let changed = put(&h.b, "x", 2, LabelChange::Keep).await;
    let left = put(&h.a, "x", 2, set(&[("team", "red")])).await;
    put(&h.b, "x", 3, LabelChange::Keep).await;
    let back = put(&h.a, "x", 3, set(&[("team", "blue")])).await;
    let removed = h.b.remove("x", back.version).await;
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    let mut told = Vec::new();
    while told.len() < 5 {
        let item = retry::deadline(&clock, until, watch.next()).await.expect("a change comes").unwrap();
        if let FeedItem::Commit(record) = item {
            let change = &record.changes[0];
            told.push((record.revision, change.op, change.after.as_ref().map(|object| object.meta.labels.clone())));
        }
    }
    let blue = || Some(labels(&[("team", "blue")]));
    let expected = [
        (entered.revision, ChangeOp::Put, blue()),
        (changed.revision, ChangeOp::Put, blue()),
        (left.revision, ChangeOp::Put, Some(labels(&[("team", "red")]))),
        (back.revision, ChangeOp::Put, blue()),
        (removed.revision, ChangeOp::Delete, None),
    ];
    assert_eq!(told, expected);
}

pub async fn bad_labels_and_selectors_are_refused(h: &Harness) {
    let long = "k".repeat(LABEL_KEY_BYTES + 1);
    let value = "v".repeat(LABEL_VALUE_BYTES + 1);
    for (name, is) in
        [("", "v"), ("a=b", "v"), ("=", "v"), ("a\nb", "v"), ("a\0", "v"), (&*long, "v"), ("a", &*value), ("a", "\r\n"), ("a", "\u{85}")]
    {
        assert_eq!(unwrap_error(Labels::read([(name, is)])).kind(), Kind::Invalid, "{name:?}");
        assert_eq!(unwrap_error(Selector::new().equals(name, is)).kind(), Kind::Invalid, "{name:?}");
    }
    assert_eq!(unwrap_error(Labels::read([("a", "1"), ("a", "1")])).kind(), Kind::Invalid);
    assert_eq!(unwrap_error(Selector::new().exists("")).kind(), Kind::Invalid);
    let many = |count: usize| (0..count).map(|n| (format!("k{n:03}"), String::new()));
    assert_eq!(unwrap_error(Labels::read(many(LABELS + 1))).kind(), Kind::Invalid);
    let terms = |count: usize| many(count).try_fold(Selector::new(), |selector, (name, _)| selector.exists(&name));
    assert_eq!(unwrap_error(terms(SELECTOR_TERMS + 1)).kind(), Kind::Invalid);
    // At the limits.
    let most = Labels::read(many(LABELS)).unwrap();
    put(&h.a, "x", 1, LabelChange::Set(most.clone())).await;
    assert_eq!(names(&h.b, terms(SELECTOR_TERMS).unwrap()).await, ["x"]);
    put(&h.a, "y", 1, set(&[(&long[..LABEL_KEY_BYTES], &value[..LABEL_VALUE_BYTES])])).await;
    assert_eq!(names(&h.b, Selector::new().equals(&long[..LABEL_KEY_BYTES], &value[..LABEL_VALUE_BYTES]).unwrap()).await, ["y"]);
    // Together too many: refused, and the place is named.
    let before = h.a.meta().await;
    let over = || {
        Commit::new()
            .put(key("z"), &1, WriteCondition::MustCreate)
            .put(key("x"), &2, WriteCondition::MustExist)
            .labels(merge(&[("more", "")]))
    };
    let error = unwrap_error(h.b.try_commit(over).await);
    assert_eq!((error.kind(), error.pointer()), (Kind::Invalid, Some("/writes/1/labels")));
    // A delete leaves nothing to label, and labels belong to a write.
    let delete = || Commit::new().overwrite_delete(key("x")).labels(set(&[("a", "b")]));
    assert_eq!(unwrap_error(h.a.try_commit(delete).await).kind(), Kind::Invalid);
    let nobody = || Commit::new().labels(set(&[("a", "b")])).overwrite(key("x"), Payload::new("1", "text/plain").unwrap());
    assert_eq!(unwrap_error(h.a.try_commit(nobody).await).kind(), Kind::Invalid);
    assert_eq!((h.a.meta().await, of(&h.a, "x").await), (before, most));
    // A cursor belongs to its labels.
    put(&h.a, "z", 1, set(&[("k000", "")])).await;
    let by = |selector: &Selector| List::new("thing").with_selector(selector.clone()).with_limit(1);
    let own = Selector::new().exists("k000").unwrap();
    let cursor = h.a.store.list(by(&own)).await.unwrap().next.unwrap();
    assert_eq!(h.b.store.list(by(&own).after(&*cursor)).await.unwrap().items[0].key.name(), "z");
    for other in [Selector::new(), own.clone().exists("k001").unwrap(), Selector::new().equals("k000", "").unwrap()] {
        assert_eq!(unwrap_error(h.a.store.list(by(&other).after(&*cursor)).await).code(), Code::InvalidCursor);
    }
}
