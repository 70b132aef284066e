//! Import and export: what leaves is one revision, and what comes never overwrites.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::model::limits::{TOKEN_AHEAD_US, TTL_MAX};
use crate::model::{LabelChange, Labels, Payload, TtlChange};
use crate::store::{ExportOptions, Import, ImportRow, Imported};
use crate::time::Timestamp;
use crate::{Code, Effect};

fn row(name: &str, value: i64, at: Option<u64>) -> ImportRow {
    let payload = Payload::json(&value).unwrap();
    ImportRow { key: key(name), payload, labels: Labels::new(), expires_at: None, version: at.map(version) }
}

/// Pushes a row, again while the engine's answer is open.
async fn push(import: &mut Import, row: &ImportRow) {
    for _ in 0..100 {
        match import.push(row.clone()).await {
            Err(error) if matches!(error.kind(), Kind::Backend | Kind::Overloaded) => {}
            answer => return answer.unwrap(),
        }
    }
    panic!("the answer stays open");
}

async fn import(side: &Handle, rows: &[ImportRow]) -> Imported {
    let mut import = side.store.import().unwrap();
    for row in rows {
        push(&mut import, row).await;
    }
    for _ in 0..100 {
        match import.finish().await {
            Err(error) if matches!(error.kind(), Kind::Backend | Kind::Overloaded) => {}
            answer => return answer.unwrap(),
        }
    }
    panic!("the answer stays open");
}

async fn exported(side: &Handle, options: ExportOptions) -> Vec<Object> {
    let mut export = side.store.export(options).await.unwrap();
    let mut all = Vec::new();
    while let Some(object) = export.next().await.unwrap() {
        all.push(object);
    }
    all
}

pub async fn import_starts_at_one_and_never_below_the_floor(h: &Harness) {
    assert_eq!(import(&h.a, &[row("x", 1, None)]).await, Imported { created: 1, existing: 0 });
    let first = h.b.get("x").await.unwrap();
    assert_eq!((first.value, first.meta.version), (1, version(1)));
    // A deletion raised the floor.
    h.a.remove("x", version(1)).await;
    assert_eq!(import(&h.b, &[row("y", 1, None), row("z", 1, Some(1))]).await.created, 2);
    for name in ["y", "z"] {
        assert_eq!(h.a.get(name).await.unwrap().meta.version, version(3), "above the floor");
    }
}

pub async fn an_imported_object_is_above_the_version_that_it_had(h: &Harness) {
    assert_eq!(import(&h.a, &[row("x", 1, Some(40)), row("y", 2, Some(7))]).await.created, 2);
    let at = h.b.get("x").await.unwrap().meta.version;
    assert!(at.get() > 40);
    lost(h.b.put("x", 9, WriteCondition::MatchVersion(version(40))).await);
    // Nor does anything that is created later take a version of the old place.
    h.a.remove("x", at).await;
    assert!(h.a.create("x", 3).await.version > at);
}

pub async fn an_import_changes_nothing_that_exists(h: &Harness) {
    let mine = h.a.create("n7", 777).await;
    let rows: Vec<_> = (0..300).map(|n| row(&format!("n{n}"), n, Some(1))).collect();
    assert_eq!(import(&h.a, &rows).await, Imported { created: 299, existing: 1 });
    let kept = h.b.get("n7").await.unwrap();
    assert_eq!((kept.value, kept.meta.version), (777, mine.version));
    let before = h.b.meta().await;
    assert_eq!(import(&h.b, &rows).await, Imported { created: 0, existing: 300 });
    assert_eq!(h.b.meta().await, before, "running it again writes nothing");
    // Small chunks, so that callers come in between.
    assert!(h.a.log(0).await.iter().all(|record| record.changes.len() <= 128));
}

pub async fn a_row_that_stands_twice_exists_the_second_time(h: &Harness) {
    assert_eq!(import(&h.a, &[row("x", 1, None), row("x", 2, None)]).await, Imported { created: 1, existing: 1 });
    assert_eq!(h.b.get("x").await.unwrap().value, 1);
}

pub async fn an_import_that_ended_half_way_is_run_again(h: &Harness) {
    let rows: Vec<_> = (0..200).map(|n| row(&format!("n{n}"), n, None)).collect();
    let mut half = h.a.store.import().unwrap();
    for row in &rows {
        push(&mut half, row).await;
    }
    // One chunk is written; what waits is lost with its import.
    assert_eq!(half.imported(), Imported { created: 128, existing: 0 });
    drop(half);
    assert_eq!(import(&h.b, &rows).await, Imported { created: 72, existing: 128 });
}

pub async fn labels_and_the_end_of_an_object_move_with_it(h: &Harness) {
    let labels = Labels::read([("team", "a=b"), ("%", "_")]).unwrap();
    let hour = Duration::from_secs(3_600);
    let made =
        || Commit::new().put(key("x"), &1, WriteCondition::MustCreate).labels(LabelChange::Set(labels.clone())).ttl(TtlChange::Set(hour));
    h.a.apply(made).await;
    let mut object = h.b.store.get_payload(key("x")).await.unwrap().unwrap();
    let end = object.meta.expires_at.unwrap();
    object.key = key("y");
    assert_eq!(import(&h.a, &[object.into()]).await.created, 1);
    let moved = h.b.store.get_payload(key("y")).await.unwrap().unwrap().meta;
    assert_eq!(moved.labels, labels);
    // The same end but for the time that the writing took.
    let late = moved.expires_at.unwrap().as_micros() - end.as_micros();
    assert!((0..20_000_000).contains(&late), "{late}");
    // One that is over already ends soon, by the sweeper.
    let mut over = row("z", 1, None);
    over.expires_at = Some(Timestamp::from_micros(1));
    assert_eq!(import(&h.a, &[over]).await.created, 1);
}

pub async fn bad_rows_are_refused_and_write_nothing(h: &Harness) {
    let now = u64::try_from(Clock::system().wall().as_micros()).unwrap();
    let before = h.a.meta().await;
    let mut import = h.a.store.import().unwrap();
    push(&mut import, &row("good", 1, None)).await;
    for ahead in [now + TOKEN_AHEAD_US + 60_000_000, crate::model::limits::NUMBER_MAX] {
        let error = unwrap_error(import.push(row("bad", 1, Some(ahead))).await);
        assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Invalid, Code::InvalidRequest, Effect::NotApplied));
        assert_eq!(error.pointer(), Some("/version"));
    }
    let mut late = row("bad", 1, None);
    let most = i64::try_from(TTL_MAX.as_micros()).unwrap();
    late.expires_at = Some(Timestamp::from_micros(Clock::system().wall().as_micros() + most + 60_000_000));
    assert_eq!(unwrap_error(import.push(late).await).pointer(), Some("/expires_at"));
    drop(import);
    assert_eq!(h.b.meta().await, before);
    let options = |namespace: Option<&str>, kind: Option<&str>, prefix: String| ExportOptions {
        namespace: namespace.map(str::to_owned),
        kind: kind.map(str::to_owned),
        prefix,
        ..ExportOptions::default()
    };
    for bad in [options(Some("A"), None, String::new()), options(None, Some(""), String::new()), options(None, None, "p".repeat(385))] {
        assert_eq!(unwrap_error(h.a.store.export(bad).await).kind(), Kind::Invalid);
    }
}

pub async fn an_export_shows_one_revision_while_writers_run(h: &Harness) {
    for n in 0..20 {
        h.a.create(&format!("n{n:02}"), n).await;
    }
    h.a.apply(|| Commit::new().put(("other", "kind", "x"), &1, WriteCondition::MustCreate)).await;
    h.a.apply(|| Commit::new().put(("onward.own", "x"), &1, WriteCondition::MustCreate)).await;
    let mut export = h.b.store.export(ExportOptions::default()).await.unwrap();
    assert_eq!(export.revision(), h.b.meta().await.revision);
    // Everything changes before the first object is read, and a kind goes while another comes.
    h.a.replace("n00", 100, version(1)).await;
    h.a.remove("n01", version(1)).await;
    h.a.create("n011", 5).await;
    h.a.apply(|| Commit::new().overwrite_delete(("other", "kind", "x"))).await;
    h.a.apply(|| Commit::new().put(("late", "x"), &1, WriteCondition::MustCreate)).await;
    let mut seen = Vec::new();
    while let Some(object) = export.next().await.unwrap() {
        seen.push((object.key.to_string(), object.value.bytes().clone()));
    }
    let mut expected: Vec<_> = (0..20).map(|n| (format!("thing/n{n:02}"), n.to_string().into())).collect();
    expected.push(("other/kind/x".to_owned(), "1".into()));
    assert_eq!(seen, expected);
}

pub async fn an_export_shows_what_was_asked_for(h: &Harness) {
    for (namespace, kind, name) in
        [("default", "a", "x1"), ("default", "b", "x2"), ("n", "a", "x3"), ("n", "a", "y4"), ("n", "onward.own", "x5")]
    {
        h.a.apply(|| Commit::new().put((namespace, kind, name), &1, WriteCondition::MustCreate)).await;
    }
    let names = async |namespace: Option<&str>, kind: Option<&str>, prefix: &str| {
        let options = ExportOptions {
            namespace: namespace.map(str::to_owned),
            kind: kind.map(str::to_owned),
            prefix: prefix.to_owned(),
            ..ExportOptions::default()
        };
        let names: Vec<_> = exported(&h.b, options).await.iter().map(|object| object.key.name().to_owned()).collect();
        names.join(" ")
    };
    assert_eq!(names(None, None, "").await, "x1 x2 x3 y4");
    assert_eq!(names(Some("n"), None, "").await, "x3 y4");
    assert_eq!(names(None, Some("a"), "x").await, "x1 x3");
    assert_eq!(names(Some("n"), Some("onward.own"), "").await, "x5", "asked for by name");
    assert_eq!(names(Some("nobody"), None, "").await, "");
    let labels = Labels::read([("team", "red")]).unwrap();
    h.a.apply(|| Commit::new().put(("n", "a", "x6"), &1, WriteCondition::MustCreate).labels(LabelChange::Set(labels.clone()))).await;
    let selector = crate::model::Selector::new().equals("team", "red").unwrap();
    let red = exported(&h.b, ExportOptions { selector, ..ExportOptions::default() }).await;
    assert_eq!(red.iter().map(|object| object.key.name()).collect::<Vec<_>>(), ["x6"]);
}

pub async fn a_long_export_pages_through_everything(h: &Harness) {
    let rows: Vec<_> = (0..2_300).map(|n| row(&format!("n{n:04}"), n, None)).collect();
    assert_eq!(import(&h.a, &rows).await.created, 2_300);
    let all = exported(&h.b, ExportOptions::default()).await;
    assert_eq!(all.len(), 2_300);
    assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key));
}

pub async fn an_export_of_a_compacted_revision_is_refused(h: &Harness) {
    h.a.create("x", 1).await;
    let mut export = h.a.store.export(ExportOptions::default()).await.unwrap();
    h.a.create("y", 1).await;
    let newest = h.a.meta().await.revision;
    assert_eq!(h.a.store.compact(newest).await.unwrap(), newest);
    let error = unwrap_error(export.next().await);
    assert_eq!((error.kind(), error.code()), (Kind::Expired, Code::CursorCompacted));
}
