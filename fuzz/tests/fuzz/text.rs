//! Parsers of small texts: what is taken reads back as itself, what is refused is refused without a panic.

use onward::Onward;
use onward::audit::verify::SavedHead;
use onward::commit::{Commit, CommitOutcome, Patch};
use onward::model::{ChainName, Data, FencingToken, Key, Labels, LockKey, MacKeys, Payload, RequestId, Revision, Selector, Seq, Version};
use onward_api::{base64, json_depth, number, path};
use onward_server::Token;
use serde_json::Value;

use crate::engine::fuzz;

#[test]
fn keys_read_back() {
    fuzz("keys", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let mut parts = text.split('\n');
        let mut part = || parts.next().unwrap_or_default();
        let (one, two, three, four) = (part(), part(), part(), part());
        if let Ok(key) = Key::in_namespace(one, two, three) {
            assert_eq!((key.namespace(), key.kind(), key.name()), (one, two, three));
        }
        if let Ok(key) = LockKey::raw(one) {
            assert_eq!(key.as_str(), one);
            assert_eq!(LockKey::raw(key.as_str()).unwrap(), key);
        }
        if let Ok(key) = LockKey::typed(one, two, three, four) {
            assert_eq!((key.collection(), key.id()), (Some(three), Some(four)), "{key}");
            let other = LockKey::typed(one, two, three, &format!("{four}x"));
            assert!(other.is_err() || other.unwrap() != key);
        }
        if let Ok(chain) = ChainName::new(one) {
            assert_eq!(chain.as_str(), one);
        }
        if let Ok(id) = RequestId::new(one) {
            assert_eq!(id.as_str(), one);
            assert_ne!(RequestId::scoped("a", one).unwrap(), id);
        }
        if let Ok(labels) = Labels::read([(one, two)]) {
            assert_eq!(labels.get(one), Some(two));
        }
        let _ = Selector::new().term(text);
    });
}

#[test]
fn numbers_read_back() {
    fuzz("numbers", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some(n) = number::parse(text) {
            // Zeros in front are taken, as people and other programs write them.
            assert_eq!(n.to_string().trim_start_matches('0'), text.trim_start_matches('0'));
        }
        if let Ok(version) = text.parse::<Version>() {
            let json = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), version);
        }
        let _ = (text.parse::<FencingToken>(), text.parse::<Seq>(), text.parse::<Revision>());
        let _ = (serde_json::from_str::<Version>(text), serde_json::from_str::<FencingToken>(text), serde_json::from_str::<Revision>(text));
        if let Ok(ttl) = text.parse::<onward_api::Ttl>() {
            assert!(!format!("{ttl:?}").is_empty());
        }
    });
}

#[test]
fn paths_read_back() {
    fuzz("paths", |input| {
        assert_eq!(path::decode(&path::encode(input)).as_deref(), Some(input));
        if let Ok(text) = std::str::from_utf8(input) {
            let _ = path::decode(text);
            if let (Some(plain), false) = (path::percent(text), text.contains('%')) {
                assert_eq!(plain, input);
            }
        }
    });
}

#[test]
fn each_value_has_one_base64_text() {
    fuzz("base64", |input| {
        assert_eq!(base64::decode(&base64::encode(input)).as_deref(), Some(input));
        assert_eq!(base64::decode_url(&base64::encode_url(input)).as_deref(), Some(input));
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some(bytes) = base64::decode(text) {
            assert_eq!(base64::encode(&bytes), text);
        }
        if let Some(bytes) = base64::decode_url(text) {
            assert_eq!(base64::encode_url(&bytes), text);
        }
    });
}

#[test]
fn tokens_keys_and_saved_heads_read_back() {
    fuzz("secrets", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(token.secret(), text);
            assert!(!format!("{token:?}").contains(text));
        }
        let _ = MacKeys::parse(text);
        if let Ok(head) = SavedHead::parse(text) {
            assert_eq!(SavedHead::parse(&head.to_text()).unwrap(), head);
        }
    });
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Equal, but for the last digit of a fraction: serde_json reads long ones to the nearest number or its neighbour.
fn same(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= a.abs() * 1e-15,
            _ => false,
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| same(value, other)))
        }
        _ => one == two,
    }
}

#[test]
fn canonical_json_is_stable_and_means_the_same() {
    fuzz("json", |input| {
        let nests = json_depth(input);
        let Ok(text) = std::str::from_utf8(input) else { return };
        let value = if nests < 100 { serde_json::from_str::<Value>(text).ok() } else { None };
        if let Some(value) = &value {
            // Of two members of one name, the value keeps one.
            assert!(nests >= depth(value));
        }
        if let Ok(data) = Data::json_text(text) {
            let canonical = std::str::from_utf8(data.as_bytes()).expect("JSON is UTF-8");
            assert_eq!(Data::json_text(canonical).expect("canonical JSON is taken").as_bytes(), data.as_bytes(), "not stable");
            // An integer keeps its digits, however many; serde_json's own value has no room for them.
            let read = serde_json::from_str::<Value>(canonical).ok();
            assert_eq!(read.is_some(), value.is_some());
            if let (Some(read), Some(meant)) = (&read, &value) {
                assert!(same(read, meant), "another meaning: {read} and {meant}");
            }
        }
        if let Ok(payload) = Payload::new(input.to_vec(), "application/json") {
            assert_eq!(&payload.bytes()[..], input);
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "a payload that is no JSON");
        }
    });
}

/// RFC 7396, as its own text says it.
fn merge(target: Value, patch: &Value) -> Value {
    let Value::Object(members) = patch else { return patch.clone() };
    let mut merged = match target {
        Value::Object(members) => members,
        _ => serde_json::Map::new(),
    };
    for (name, value) in members {
        if value.is_null() {
            merged.remove(name);
        } else {
            let old = merged.remove(name).unwrap_or(Value::Null);
            merged.insert(name.clone(), merge(old, value));
        }
    }
    Value::Object(merged)
}

#[test]
fn patches_do_what_the_rfc_says_or_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(Onward::open("memory:")).unwrap().store();
    fuzz("patches", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Some((document, patch)) = text.split_once("\n---\n") else { return };
        let Ok(payload) = Payload::new(document.as_bytes().to_vec(), "application/json") else { return };
        let merging = Patch::merge_json(patch);
        let is_merge = merging.is_ok();
        for patching in [merging, Patch::steps_json(patch)].into_iter().flatten() {
            runtime.block_on(async {
                let put = Commit::new().overwrite(("thing", "x"), payload.clone());
                assert!(matches!(store.commit(put).await.unwrap(), CommitOutcome::Committed(_)));
                let before = store.get_payload(("thing", "x")).await.unwrap().unwrap();
                let applied = store.commit(Commit::new().apply(("thing", "x"), patching, None)).await;
                let after = store.get_payload(("thing", "x")).await.unwrap().unwrap();
                match applied {
                    Ok(CommitOutcome::Committed(_)) => {
                        let _: Value = after.value.read().expect("a patched document is JSON");
                    }
                    Ok(_) | Err(_) => assert_eq!((before.value.bytes(), before.meta.version), (after.value.bytes(), after.meta.version)),
                }
            });
        }
        if is_merge {
            let patching = Patch::merge_json(patch).unwrap();
            let found = runtime.block_on(async {
                let put = Commit::new().overwrite(("thing", "y"), payload.clone());
                assert!(matches!(store.commit(put).await.unwrap(), CommitOutcome::Committed(_)));
                match store.commit(Commit::new().apply(("thing", "y"), patching, None)).await {
                    Ok(CommitOutcome::Committed(_)) => store.get_payload(("thing", "y")).await.unwrap(),
                    _ => None,
                }
            });
            if let (Some(found), Ok(document), Ok(patch)) = (found, payload.read::<Value>(), serde_json::from_str::<Value>(patch)) {
                assert_eq!(found.value.read::<Value>().unwrap(), merge(document, &patch));
            }
        }
    });
}
