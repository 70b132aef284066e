//! `apply`: the writer itself changes the newest state.

#![allow(missing_docs, reason = "the name of a case is its claim")]

use serde_json::{Value, json};

use super::*;
use crate::commit::{Patch, Reason};
use crate::model::Payload;
use crate::{Code, Effect};

/// Creates a document.
async fn document(h: &Harness, name: &str, text: &str) {
    let payload = Payload::new(text.as_bytes().to_vec(), "application/json").unwrap();
    h.a.apply(|| Commit::new().put_payload(key(name), payload.clone(), WriteCondition::MustCreate)).await;
}

async fn text(h: &Harness, name: &str) -> String {
    let object = h.b.store.get_payload(key(name)).await.unwrap().unwrap();
    String::from_utf8(object.value.bytes().to_vec()).unwrap()
}

pub async fn apply_on_a_hot_key_never_conflicts(h: &Harness) {
    document(h, "hot", r#"{"n":0,"log":[]}"#).await;
    let count = |writer: i64| async move {
        let handle = if writer % 2 == 0 { &h.a } else { &h.b };
        for _ in 0..5 {
            handle.apply(|| Commit::new().apply(key("hot"), Patch::new().add("/n", 1).append("/log", &writer), None)).await;
        }
    };
    join_all((0..16).map(count).collect()).await;
    let value: Value = serde_json::from_str(&text(h, "hot").await).unwrap();
    assert_eq!((&value["n"], value["log"].as_array().unwrap().len()), (&json!(80), 80));
    assert_eq!(h.a.log(0).await.len(), 81, "one revision for each");
}

pub async fn a_failed_compare_changes_nothing(h: &Harness) {
    document(h, "x", r#"{"state":"open","n":1}"#).await;
    let before = h.a.meta().await;
    let patch = || Patch::new().add("/n", 1).compare("/state", "closed");
    let conflicts = h.a.lose(|| {
        let also = Commit::new().put(key("y"), &1, WriteCondition::MustCreate);
        also.apply(key("x"), patch(), None)
    });
    let conflicts = conflicts.await;
    assert_eq!((conflicts.len(), conflicts[0].index, conflicts[0].reason), (1, 1, Reason::Compare));
    let current: Value = conflicts[0].current.as_ref().unwrap().value.read().unwrap();
    assert_eq!(current, json!({"state": "open", "n": 1}));
    assert_eq!((h.b.meta().await, h.b.get("y").await.is_none()), (before, true));
    h.a.apply(|| Commit::new().apply(key("x"), Patch::new().compare("/state", "open").set("/state", "closed"), None)).await;
    assert_eq!(text(h, "x").await, r#"{"n":1,"state":"closed"}"#);
}

pub async fn a_patch_at_an_old_version_is_refused(h: &Harness) {
    let first = h.a.create("x", 1).await;
    h.b.replace("x", 2, first.version).await;
    let conflicts = h.a.lose(|| Commit::new().apply(key("x"), Patch::new().add("", 1), Some(first.version))).await;
    assert_eq!(conflicts[0].reason, Reason::Stale);
    assert_eq!(h.b.get("x").await.unwrap().value, 2);
    let missing = h.a.lose(|| Commit::new().apply(key("gone"), Patch::new().add("", 1), None)).await;
    assert_eq!((missing[0].reason, missing[0].version), (Reason::Missing, None));
}

pub async fn a_patch_leaves_what_it_does_not_name_digit_for_digit(h: &Harness) {
    document(h, "x", r#"{"big":123456789012345678901234567890,"one":1.00,"e":1E2,"é":"\u00e9\/","a~b/c":[1,[],{}]}"#).await;
    let patch = || Patch::new().set("/new", &Value::Null).set("/a~0b~1c/1", "x").remove("/a~0b~1c/2").add("/count", 5);
    h.a.apply(|| Commit::new().apply(key("x"), patch(), None)).await;
    let after = r#"{"a~b/c":[1,"x"],"big":123456789012345678901234567890,"count":5,"e":1E2,"new":null,"one":1.00,"é":"\u00e9\/"}"#;
    assert_eq!(text(h, "x").await, after);
    let same = h.a.apply(|| Commit::new().apply(key("x"), Patch::new().compare("/one", &1).compare("/é", "é/"), None)).await;
    assert!(!same.changed, "a compare alone changes nothing");
}

pub async fn a_merge_follows_its_standard(h: &Harness) {
    // The examples of RFC 7396, appendix A.
    let rows = [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ];
    for (index, (before, patch, after)) in rows.into_iter().enumerate() {
        let name = format!("m{index}");
        document(h, &name, before).await;
        h.b.apply(|| Commit::new().apply(key(&name), Patch::merge_json(patch).unwrap(), None)).await;
        assert_eq!(text(h, &name).await, after, "{before} with {patch}");
    }
}

pub async fn a_patch_that_does_not_fit_is_refused_and_writes_nothing(h: &Harness) {
    document(h, "x", r#"{"n":9223372036854775807,"low":-9223372036854775808,"f":1.5,"s":"a","list":[0]}"#).await;
    document(h, "long", &format!("\"{}\"", "x".repeat((1 << 20) - 2))).await;
    h.a.apply(|| Commit::new().put_payload(key("plain"), Payload::new("1", "text/plain").unwrap(), WriteCondition::MustCreate)).await;
    let before = h.a.meta().await;
    for (name, patch, code) in [
        ("x", Patch::new().add("/n", 1), Code::ValidationFailed),
        ("x", Patch::new().add("/low", -1), Code::ValidationFailed),
        ("x", Patch::new().add("/f", 1), Code::ValidationFailed),
        ("x", Patch::new().add("/s", 1), Code::ValidationFailed),
        ("x", Patch::new().add("/list", 1), Code::ValidationFailed),
        ("x", Patch::new().append("/s", &1), Code::ValidationFailed),
        ("x", Patch::new().set("/no/where", &1), Code::ValidationFailed),
        ("x", Patch::new().set("/s/t", &1), Code::ValidationFailed),
        ("x", Patch::new().set("/list/1", &1), Code::ValidationFailed),
        ("x", Patch::new().set("/list/00", &1), Code::ValidationFailed),
        ("x", Patch::new().set("/list/-", &1), Code::ValidationFailed),
        ("x", Patch::new().remove("/gone"), Code::ValidationFailed),
        ("x", Patch::new().remove("/list/1"), Code::ValidationFailed),
        ("x", Patch::new().remove(""), Code::ValidationFailed),
        ("x", Patch::new().set("/s", "b").add("/n", 1), Code::ValidationFailed),
        ("plain", Patch::new().add("", 1), Code::ValidationFailed),
        ("long", Patch::new().set("", &"x".repeat(1 << 20)), Code::PayloadTooLarge),
        ("x", Patch::new().set("/s", &"x".repeat((1 << 20) - 16)), Code::PayloadTooLarge),
    ] {
        let error = unwrap_error(h.a.try_commit(|| Commit::new().apply(key(name), patch.clone(), None)).await);
        assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Invalid, code, Effect::NotApplied), "{name} {patch:?}");
    }
    assert_eq!(h.b.meta().await, before);
}

pub async fn bad_patches_are_refused(h: &Harness) {
    document(h, "x", r#"{"a":1}"#).await;
    let before = h.a.meta().await;
    let many = |steps: usize| (0..steps).fold(Patch::new(), |patch, _| patch.add("/a", 1));
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for patch in [
        Patch::new(),
        many(129),
        Patch::new().set("a", &1),
        Patch::new().set("/~", &1),
        Patch::new().set("/~2", &1),
        Patch::new().set(&format!("/{}", "x".repeat(1_024)), &1),
        Patch::merge(&1).unwrap().set("/a", &1),
    ] {
        let error = unwrap_error(h.a.store.commit(Commit::new().apply(key("x"), patch.clone(), None)).await);
        assert_eq!((error.kind(), error.effect()), (Kind::Invalid, Effect::NotApplied), "{patch:?}");
    }
    for text in [
        "",
        "{}",
        "1",
        "[1]",
        "[[null,\"/a\",null,null,null,1]]",
        "[{}]",
        r#"[{"set":"/a"}]"#,
        r#"[{"set":"/a","add":"/a","value":1}]"#,
        r#"[{"remove":"/a","value":1}]"#,
        r#"[{"add":"/a","value":1.5}]"#,
        r#"[{"add":"/a","value":"1"}]"#,
        r#"[{"add":"/a","value":9223372036854775808}]"#,
        r#"[{"set":"/a","value":1,"value":2}]"#,
        r#"[{"set":"/a","value":{"b":1,"b":2}}]"#,
        r#"[{"set":"/a","value":1,"extra":1}]"#,
        r#"[{"replace":"/a","value":1}]"#,
        r#"[{"set":"a","value":1}]"#,
        "[]",
        &format!(r#"[{{"set":"/a","value":{deep}}}]"#),
        &"[".repeat(100_000),
    ] {
        assert_eq!(unwrap_error(Patch::steps_json(text)).kind(), Kind::Invalid, "{}", text.get(..80).unwrap_or(text));
    }
    for text in ["", "{", r#"{"a":1,"a":2}"#, r#""\ud800""#, &deep] {
        assert_eq!(unwrap_error(Patch::merge_json(text)).kind(), Kind::Invalid, "{text}");
    }
    assert_eq!(h.b.meta().await, before);
    h.a.apply(|| Commit::new().apply(key("x"), many(128), None)).await;
    assert_eq!(text(h, "x").await, r#"{"a":129}"#);
    h.a.faults.calm();
    let nothing = unwrap_error(h.a.store.apply(key("gone"), many(1), None, WriteOptions::new()).await);
    assert_eq!(nothing.kind(), Kind::NotFound);
}
