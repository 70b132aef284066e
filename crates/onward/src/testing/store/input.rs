//! Bad input: a typed error, and nothing is written (C10).

#![allow(missing_docs, reason = "the name of a case is its claim")]

use super::*;
use crate::model::limits::{COMMIT_FENCES, COMMIT_INVALIDATIONS, COMMIT_WRITES, NUMBER_MAX, TOKEN_AHEAD_US};
use crate::model::{ChainName, Data, Entry, Payload, Seq};
use crate::store::List;
use crate::{Code, Effect, Refusal};

/// Sends what must be refused, and shows that nothing was written.
async fn refused(h: &Harness, what: &str, make: impl Fn() -> Commit) -> Code {
    let before = h.a.meta().await;
    let error = match h.a.store.commit(make()).await {
        Err(error) => error,
        Ok(outcome) => panic!("{what}: {outcome:?}"),
    };
    assert_eq!((error.kind(), error.effect()), (Kind::Invalid, Effect::NotApplied), "{what}");
    assert!(!error.message().is_empty() && !error.message().ends_with('.'), "{what}");
    assert_eq!(h.b.meta().await, before, "{what}");
    error.code()
}

fn put(name: &str) -> Commit {
    Commit::new().put(("thing", name), &1, WriteCondition::Unconditional(overwrite()))
}

pub async fn version_zero_is_refused_everywhere(h: &Harness) {
    for number in [0, NUMBER_MAX + 1, u64::MAX] {
        assert_eq!(unwrap_error(Version::new(number)).kind(), Kind::Invalid);
        assert_eq!(unwrap_error(FencingToken::new(number)).kind(), Kind::Invalid);
        assert_eq!(unwrap_error(Seq::new(number)).kind(), Kind::Invalid);
    }
    for text in ["0", "00", "-1", "+1", "1.0", "1e3", " 1", "1 ", "", "9223372036854775808", "18446744073709551616", "x"] {
        assert_eq!(unwrap_error(text.parse::<Version>()).kind(), Kind::Invalid, "{text:?}");
    }
    for json in ["0", "-1", "1.5", "\"0\"", "\"\"", "null", "true", "18446744073709551615"] {
        assert!(serde_json::from_str::<Version>(json).is_err(), "{json}");
    }
    assert_eq!(serde_json::from_str::<Version>("\"9223372036854775807\"").unwrap().get(), NUMBER_MAX);
    // And the greatest one matches nothing, rather than anything.
    h.a.create("x", 1).await;
    lost(h.b.put("x", 2, WriteCondition::MatchVersion(version(NUMBER_MAX))).await);
}

pub async fn bad_keys_are_refused(h: &Harness) {
    let long = "n".repeat(385);
    for (namespace, kind, name) in [
        ("", "thing", "x"),
        ("Default", "thing", "x"),
        ("a/b", "thing", "x"),
        (".a", "thing", "x"),
        ("default", "", "x"),
        ("default", "Thing", "x"),
        ("default", "-thing", "x"),
        ("default", "th ing", "x"),
        ("default", "thïng", "x"),
        ("default", &"k".repeat(65), "x"),
        ("default", "thing", ""),
        ("default", "thing", "a\nb"),
        ("default", "thing", "a\0b"),
        ("default", "thing", "a\u{85}b"),
        ("default", "thing", &long),
    ] {
        let make = || Commit::new().put((namespace, kind, name), &1, WriteCondition::MustCreate);
        assert_eq!(refused(h, &format!("{namespace}/{kind}/{name}"), make).await, Code::InvalidKey);
        let read = h.a.store.get::<i64>((namespace, kind, name)).await;
        assert_eq!(unwrap_error(read).kind(), Kind::Invalid);
    }
    // At the limit, and odd but legal.
    for name in [&long[..384], "ÄÖ/..%'\"_*", "\u{10ffff}", " "] {
        h.a.apply(|| Commit::new().put(("thing", name), &1, WriteCondition::MustCreate)).await;
        assert_eq!(h.b.store.get::<i64>(("thing", name)).await.unwrap().unwrap().value, 1);
    }
}

pub async fn bad_payloads_are_refused(h: &Harness) {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for json in
        ["", "{", "nul", "1 2", "{\"a\":1,}", "\u{feff}1", &nested(129), &nested(100_000), &format!("{}{}", "{\"a\":".repeat(129), "}")]
    {
        let error = unwrap_error(Payload::new(json.to_owned(), "application/json"));
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, Code::InvalidRequest), "{:.40}", json);
    }
    assert_eq!(unwrap_error(Payload::new(&b"\"\xff\""[..], "application/json")).kind(), Kind::Invalid);
    let mib = 1 << 20;
    for (bytes, kind) in [(vec![b'1'; mib + 1], "text/plain"), (vec![b'1'; mib + 1], "application/json")] {
        assert_eq!(unwrap_error(Payload::new(bytes, kind)).code(), Code::PayloadTooLarge);
    }
    for kind in ["", "text/plain\n", "téxt", &"t".repeat(128)] {
        assert_eq!(unwrap_error(Payload::new("x", kind)).kind(), Kind::Invalid, "{kind:?}");
    }
    let big = "x".repeat(mib);
    assert_eq!(refused(h, "big", || Commit::new().put(key("x"), &big, WriteCondition::MustCreate)).await, Code::PayloadTooLarge);
    let not_json = std::collections::HashMap::from([((1, 2), 3)]);
    refused(h, "no JSON", || Commit::new().put(key("x"), &not_json, WriteCondition::MustCreate)).await;
    // At the limit.
    for (bytes, kind) in [(vec![b'x'; mib], "application/octet-stream"), (vec![], "x"), (nested(128).into_bytes(), "application/json")] {
        let payload = Payload::new(bytes, kind).unwrap();
        h.a.apply(|| Commit::new().overwrite(key("x"), payload.clone())).await;
        assert_eq!(h.b.store.get_payload(key("x")).await.unwrap().unwrap().value, payload);
    }
    // Brackets in a string are no nesting.
    Payload::json(&["[{\"".repeat(1_000), "\\".repeat(1_000)]).unwrap();
    // What is stored as JSON can be read as JSON.
    h.a.store.get::<serde_json::Value>(key("x")).await.unwrap().unwrap();
}

pub async fn bad_commits_are_refused_and_write_nothing(h: &Harness) {
    use crate::commit::Guard;
    let many =
        |count: usize| (0..count).fold(Commit::new(), |commit, i| commit.put(("thing", format!("n{i}")), &1, WriteCondition::MustCreate));
    refused(h, "empty", Commit::new).await;
    refused(h, "guards alone", || Commit::new().guard(Guard::Absent(key("x")))).await;
    refused(h, "a request alone", || Commit::new().request(fresh_id())).await;
    refused(h, "writes", || many(COMMIT_WRITES + 1)).await;
    refused(h, "guards", || (0..=COMMIT_WRITES).fold(put("x"), |commit, i| commit.guard(Guard::Absent(key(&format!("n{i}")))))).await;
    refused(h, "fences", || (0..=COMMIT_FENCES).fold(put("x"), |commit, i| commit.fence(lock(&format!("l{i}")), token(1)))).await;
    refused(h, "invalidations", || put("x").invalidate("ns", (0..=COMMIT_INVALIDATIONS).map(|i| format!("k{i}")))).await;
    refused(h, "entries", || {
        (0..=COMMIT_WRITES).fold(put("x"), |commit, _| commit.audit(ChainName::new("main").unwrap(), Entry::new("a.b")))
    })
    .await;
    refused(h, "one key twice", || put("x").put(key("x"), &2, WriteCondition::MustExist)).await;
    refused(h, "one key put and deleted", || put("x").delete(key("x"), version(1))).await;
    refused(h, "one lock twice", || put("x").fence(lock("l"), token(1)).fence(lock("l"), token(2))).await;
    refused(h, "cache namespace", || put("x").invalidate("N S", ["k"])).await;
    refused(h, "cache key", || put("x").invalidate("ns", [""])).await;
    refused(h, "long cache key", || put("x").invalidate("ns", ["k".repeat(513)])).await;
    let big = Payload::new(vec![b'x'; 1 << 20], "x").unwrap();
    let code = refused(h, "9 MiB", || (0..9).fold(Commit::new(), |commit, i| commit.overwrite(key(&format!("n{i}")), big.clone()))).await;
    assert_eq!(code, Code::PayloadTooLarge);
    for wait in [Duration::ZERO, Duration::from_micros(999), Duration::from_millis(600_001), Duration::MAX] {
        refused(h, &format!("deadline {wait:?}"), || put("x").deadline(wait)).await;
    }
    // A mistake anywhere refuses the rest too, and the first one is told.
    refused(h, "a bad key among good ones", || put("x").put(("Bad", "y"), &1, WriteCondition::MustCreate)).await;
    // At the limit.
    h.a.apply(|| many(COMMIT_WRITES)).await;
    let receipt = h.b.apply(|| (0..COMMIT_FENCES).fold(put("x"), |commit, i| commit.fence(lock(&format!("l{i}")), token(1)))).await;
    assert!(receipt.changed);
    let receipt = h.b.apply(|| put("y").invalidate("ns", (0..COMMIT_INVALIDATIONS).map(|i| format!("k{i}")))).await;
    assert_eq!(h.a.log(receipt.revision.get() - 1).await[0].invalidations.len(), COMMIT_INVALIDATIONS);
    let chain = ChainName::new("main").unwrap();
    let receipt = h.a.apply(|| (0..COMMIT_WRITES).fold(Commit::new(), |c, _| c.audit(chain.clone(), Entry::new("a.b")))).await;
    assert_eq!(receipt.audit.len(), COMMIT_WRITES);
}

pub async fn bad_entries_are_refused_and_write_nothing(h: &Harness) {
    let main = || ChainName::new("main").unwrap();
    for name in ["", "Main", "a b", "-a", &"c".repeat(65)] {
        assert_eq!(unwrap_error(ChainName::new(name)).code(), Code::InvalidKey);
    }
    for kind in ["", "A.b", "a b", "ä", &"k".repeat(129), "chain.created", "segment.sealed", "hold.x", "redact.x", "key.x", "audit.gap"] {
        refused(h, kind, || put("x").audit(main(), Entry::new(kind))).await;
    }
    refused(h, "actor", || put("x").audit(main(), Entry::new("a.b").by("a".repeat(513)))).await;
    refused(h, "resource", || put("x").audit(main(), Entry::new("a.b").on("a\nb"))).await;
    for id in ["", "a b", "ä", &"i".repeat(129)] {
        refused(h, "event id", || put("x").audit(main(), Entry::new("a.b").with_event_id(id))).await;
    }
    let data = Data::bytes(vec![0; (1 << 20) + 1]);
    assert_eq!(refused(h, "data", || put("x").audit(main(), Entry::new("a.b").with_data(data.clone()))).await, Code::PayloadTooLarge);
    let entry = Entry::new("a".repeat(128)).by("a".repeat(512)).on("").with_data(Data::bytes(vec![0; 1 << 20]));
    assert_eq!(h.a.apply(|| Commit::new().audit(main(), entry.clone())).await.audit.len(), 1);
}

pub async fn bad_requests_are_refused(h: &Harness) {
    for id in ["", "a b", "a\n", "ä", &"i".repeat(129)] {
        assert_eq!(unwrap_error(RequestId::new(id)).kind(), Kind::Invalid, "{id:?}");
    }
    let longest = RequestId::new(&"i".repeat(128)).unwrap();
    let chain = ChainName::new("main").unwrap();
    let make = || put("x").audit(chain.clone(), Entry::new("a.b")).request(longest.clone());
    let first = h.a.apply(make).await;
    assert!(!first.audit[0].event_id.is_empty() && first.audit[0].event_id.len() <= 128);
    assert!(h.b.apply(make).await.replayed);
}

pub async fn bad_lists_are_refused(h: &Harness) {
    for query in [
        List::new("Thing"),
        List::new(""),
        List::new("thing").in_namespace(""),
        List::new("thing").with_limit(0),
        List::new("thing").with_limit(1_001),
        List::new("thing").with_prefix("p".repeat(385)),
    ] {
        assert_eq!(unwrap_error(h.a.store.list(query).await).kind(), Kind::Invalid);
    }
    assert!(h.a.store.list(List::new("thing").with_limit(1_000)).await.unwrap().items.is_empty());
}

pub async fn a_damaged_or_foreign_cursor_is_refused(h: &Harness) {
    for name in ["a", "b", "c"] {
        h.a.create(name, 1).await;
    }
    let cursor = h.a.store.list(List::new("thing").with_limit(1)).await.unwrap().next.unwrap();
    assert_eq!(h.b.store.list(List::new("thing").after(&*cursor)).await.unwrap().items[0].key.name(), "b");
    let (name, sum) = cursor.split_once('.').unwrap();
    let damaged = [
        String::new(),
        ".".to_owned(),
        name.to_owned(),
        sum.to_owned(),
        format!("{name}."),
        format!("62.{sum}"),
        format!("ff.{sum}"),
        format!("{cursor}0"),
        format!("{name}.{}", sum.replace(|c: char| c.is_ascii_digit(), "x")),
        "x".repeat(10_000),
    ];
    for cursor in damaged {
        let error = unwrap_error(h.b.store.list(List::new("thing").after(&*cursor)).await);
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, Code::InvalidCursor), "{cursor:.60}");
    }
    for query in [List::new("other"), List::new("thing").in_namespace("n"), List::new("thing").with_prefix("a")] {
        assert_eq!(unwrap_error(h.b.store.list(query.after(&*cursor)).await).code(), Code::InvalidCursor);
    }
}

pub async fn bad_updates_are_refused(h: &Harness) {
    h.a.create("x", 1).await;
    let nothing = |_: &mut i64, _: &crate::model::Meta| Ok::<(), Refusal>(());
    for tries in [0, 101] {
        assert_eq!(unwrap_error(h.a.store.update(key("x"), nothing).tries(tries).await).kind(), Kind::Invalid);
    }
    for deadline in [Duration::ZERO, Duration::from_micros(1), Duration::from_secs(601)] {
        assert_eq!(unwrap_error(h.a.store.update(key("x"), nothing).deadline(deadline).await).kind(), Kind::Invalid);
    }
    assert_eq!(unwrap_error(h.a.store.update(("Bad", "x"), nothing).await).code(), Code::InvalidKey);
    // Another shape than asked for.
    let shape = |_: &mut Vec<String>, _: &crate::model::Meta| Ok::<(), Refusal>(());
    assert_eq!(unwrap_error(h.a.store.update(key("x"), shape).await).kind(), Kind::Invalid);
    assert_eq!(h.b.get("x").await.unwrap().value, 1);
}

pub async fn a_token_from_the_future_is_refused(h: &Harness) {
    let now = u64::try_from(Clock::system().wall().as_micros()).unwrap();
    for number in [now + TOKEN_AHEAD_US + 60_000_000, NUMBER_MAX] {
        refused(h, "a token from the future", || put("x").fence(lock("l"), token(number))).await;
    }
    h.a.apply(|| put("x").fence(lock("l"), token(now + TOKEN_AHEAD_US - 60_000_000))).await;
}
