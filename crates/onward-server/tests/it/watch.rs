use serde_json::json;

use crate::support::Client;

async fn fill(client: &Client, names: std::ops::Range<u32>) {
    for n in names {
        client.put(&format!("/v1/objects/doc/n{n}"), ("if-none-match", "*"), &n.to_string()).await;
    }
}

#[tokio::test]
async fn a_commit_is_one_event_with_its_revision_as_id() {
    let client = Client::memory().await;
    let mut events = client.events("/v1/watch", &[]).await;
    let open = events.next().await.unwrap();
    assert_eq!((open.name.as_str(), &open.data["revision"], open.id), ("open", &json!(0), None));
    client
        .post(
            "/v1/commit",
            json!({"writes": [{"op": "create", "kind": "doc", "name": "a", "payload": {"n": 1}}, {"op": "create", "kind": "doc", "name": "b", "payload": 2}]}),
        )
        .await;
    let change = events.next_of("change").await;
    assert_eq!((change.id, change.data["changes"].as_array().unwrap().len()), (Some(1), 2));
    let first = &change.data["changes"][0];
    assert_eq!(
        (&first["op"], &first["name"], &first["version"], &first["payload"]),
        (&json!("put"), &json!("a"), &json!(1), &json!({"n": 1}))
    );
    client.send("DELETE", "/v1/objects/doc/a", &[("if-match", "\"1\"")], "").await;
    let change = events.next_of("change").await;
    assert_eq!(
        (change.id, &change.data["changes"][0]["op"], &change.data["changes"][0]["version"]),
        (Some(2), &json!("delete"), &json!(2))
    );
}

#[tokio::test]
async fn a_reconnect_at_any_event_loses_and_repeats_nothing() {
    let client = Client::memory().await;
    fill(&client, 0..20).await;
    for seen in 0..20_u64 {
        // Last-Event-ID wins over `from`.
        let mut events = client.events("/v1/watch?from=3&payload=false", &[("last-event-id", &seen.to_string())]).await;
        assert_eq!(events.next().await.unwrap().data["revision"], seen);
        for expected in seen + 1..=20 {
            let change = events.next_of("change").await;
            assert_eq!(change.id, Some(expected));
            assert!(change.data["changes"][0].get("payload").is_none());
        }
    }
}

#[tokio::test]
async fn a_watcher_that_keeps_reconnecting_sees_each_commit_of_racing_writers_once() {
    let client = Client::memory().await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move { fill(&client, writer * 25..writer * 25 + 25).await })
        })
        .collect();
    let mut names = Vec::new();
    let mut last = 0;
    while last < 100 {
        let mut events = client.events("/v1/watch", &[("last-event-id", &last.to_string())]).await;
        for _ in 0..7.min(100 - last) {
            let change = events.next_of("change").await;
            assert_eq!(change.id, Some(last + 1));
            last += 1;
            names.push(change.data["changes"][0]["name"].as_str().unwrap().to_owned());
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100);
}

#[tokio::test]
async fn a_watch_shows_what_was_asked_for_and_says_how_far_it_is() {
    let client = Client::memory().await;
    let mut events = client.events("/v1/watch?kind=doc&prefix=b&namespace=default", &[]).await;
    events.next_of("open").await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    client.put("/v1/objects/other/b", ("if-none-match", "*"), "1").await;
    let bookmark = events.next_of("bookmark").await;
    assert_eq!((bookmark.id, &bookmark.data["revision"]), (Some(2), &json!(2)));
    client.put("/v1/objects/doc/b1", ("if-none-match", "*"), "1").await;
    assert_eq!(events.next_of("change").await.id, Some(3));
}

#[tokio::test]
async fn a_position_that_is_not_there_is_gone_and_says_where_to_begin() {
    let client = Client::memory().await;
    fill(&client, 0..2).await;
    let ahead = client.send("GET", "/v1/watch", &[("last-event-id", "9")], "").await.is_problem(410, "cursor_compacted");
    assert_eq!((&ahead["reason"], &ahead["newest"], &ahead["oldest"]), (&json!("future"), &json!(2), &json!(0)));
    let other = client.get("/v1/watch?from=1&epoch=0000000000000000").await.is_problem(410, "cursor_compacted");
    assert_eq!(other["reason"], "epoch");
    let epoch = other["epoch"].as_str().unwrap().to_owned();
    assert_eq!(client.events(&format!("/v1/watch?from=1&epoch={epoch}"), &[]).await.next_of("change").await.id, Some(2));
    client.send("GET", "/v1/watch", &[("last-event-id", "x")], "").await.is_problem(400, "invalid_cursor");
    for bad in ["from=-1", "from=1.0", "epoch=x", "form=1", "payload=maybe"] {
        client.get(&format!("/v1/watch?{bad}")).await.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_reader_that_stands_still_is_left_with_a_place_to_resume_from() {
    let client = Client::impatient(std::time::Duration::from_millis(200)).await;
    let mut events = client.events("/v1/watch", &[]).await;
    // Far more than a stream keeps for a reader: 1 MiB.
    let big = format!("\"{}\"", "x".repeat(100_000));
    for n in 0..60 {
        client.put(&format!("/v1/objects/doc/n{n}"), ("if-none-match", "*"), &big).await;
    }
    let ended = async {
        let metrics = async || String::from_utf8_lossy(&client.get("/metrics").await.body).into_owned();
        while !metrics().await.lines().any(|line| line.contains("stream_end") && line.contains("slow") && line.ends_with(" 1")) {
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon(ended).await;
    let mut last = 0;
    let reason = loop {
        let Some(event) = events.next().await else { break None };
        match event.name.as_str() {
            "change" => {
                assert_eq!(event.id, Some(last + 1), "in order, none skipped");
                last += 1;
            }
            "bye" => break Some(event.data["reason"].clone()),
            _ => {}
        }
    };
    // Cut in two, an event is none, and there is no farewell behind it.
    assert!(reason.is_none_or(|reason| reason == "slow") && last < 30, "{last}");
    let mut events = client.events("/v1/watch", &[("last-event-id", &last.to_string())]).await;
    assert_eq!(events.next_of("change").await.id, Some(last + 1));
}

#[tokio::test]
async fn a_reader_that_stands_still_between_two_events_is_told_so_at_last() {
    let client = Client::impatient(std::time::Duration::from_millis(200)).await;
    let mut events = client.events("/v1/watch", &[]).await;
    // So small that even a few in one piece are not cut.
    let ended = async {
        for n in 0.. {
            client.put(&format!("/v1/objects/doc/n{n}"), ("if-none-match", "*"), "\"x\"").await;
            let shown = client.get("/metrics").await.body;
            if String::from_utf8_lossy(&shown)
                .lines()
                .any(|line| line.contains("stream_end") && line.contains("slow") && line.ends_with(" 1"))
            {
                break;
            }
        }
    };
    crate::support::soon(ended).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    let last = last.unwrap();
    assert_eq!((last.name.as_str(), &last.data["reason"]), ("bye", &"slow".into()));
}

#[tokio::test]
async fn a_watch_by_label_tells_who_enters_and_who_leaves() {
    let client = Client::memory().await;
    let label = async |name: &str, label: &str| {
        client.send("PUT", &format!("/v1/objects/doc/{name}?overwrite=true"), &[("onward-label", label)], "1").await;
    };
    let mut events = client.events("/v1/watch?label=team=blue&label=urgent", &[]).await;
    label("a", "team=blue").await;
    client.send("PUT", "/v1/objects/doc/b?overwrite=true", &[("onward-label", "team=blue"), ("onward-label", "urgent=")], "1").await;
    label("b", "urgent=").await;
    label("b", "urgent=now").await;
    client.send("PUT", "/v1/objects/doc/c?overwrite=true", &[("onward-label", "team=blue"), ("onward-label", "urgent=")], "1").await;
    client.send("DELETE", "/v1/objects/doc/c?overwrite=true", &[], "").await;
    let mut told = Vec::new();
    for _ in 0..4 {
        let change = events.next_of("change").await;
        told.push((change.id.unwrap(), change.data["changes"][0]["op"].clone(), change.data["changes"][0]["labels"].clone()));
    }
    let both = json!({"team": "blue", "urgent": ""});
    assert_eq!(
        told,
        [
            (2, json!("put"), both.clone()),
            (3, json!("put"), json!({"urgent": ""})),
            (5, json!("put"), both.clone()),
            (6, json!("delete"), both)
        ]
    );
}
