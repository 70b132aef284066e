use serde_json::json;

use crate::support::Client;

#[tokio::test]
async fn a_commit_is_applied_whole_and_says_what_it_made() {
    let client = Client::memory().await;
    let body = r#"{"writes":[
        {"op":"create","kind":"doc","name":"a","payload":{ "n" : 1.0 }},
        {"op":"overwrite","namespace":"eu","kind":"doc","name":"b","payload_base64":"aGk=","content_type":"text/plain"},
        {"op":"create","kind":"doc","name":"null","payload":null}],
      "guards":[{"kind":"doc","name":"gone","absent":true}],
      "fences":[{"lock":"job","token":7}],
      "audit":[{"chain":"orders","kind":"order.made","actor":"user:7","resource":"a","data":{"b":1,"a":2}}],
      "invalidate":[{"namespace":"web","key":"doc:a"}]}"#;
    let reply = client.send("POST", "/v1/commit", &[("content-type", "application/json"), ("idempotency-key", "c1")], body).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    let reply = reply.json();
    assert_eq!((&reply["revision"], &reply["replayed"], &reply["invalidation"]), (&json!(1), &json!(false), &json!("done")));
    assert_eq!(reply["writes"][1], json!({"namespace": "eu", "kind": "doc", "name": "b", "version": 1, "changed": true}));
    assert_eq!((&reply["audit"][0]["chain"], &reply["audit"][0]["seq"]), (&json!("orders"), &json!(2)));
    assert_eq!(&client.get("/v1/objects/doc/a").await.body[..], br#"{ "n" : 1.0 }"#);
    assert_eq!(&client.get("/v1/objects/doc/null").await.body[..], b"null");
    assert_eq!(client.get("/v1/objects/doc/b?namespace=eu").await.header("content-type"), "text/plain");
    let entry = client.get("/v1/chains/orders/entries/2").await.json();
    assert_eq!((&entry["actor"], &entry["data"]), (&json!("dev/user:7"), &json!(r#"{"a":2,"b":1}"#)));
    let again = client.send("POST", "/v1/commit", &[("content-type", "application/json"), ("idempotency-key", "c1")], body).await.json();
    assert_eq!((&again["replayed"], &again["writes"]), (&json!(true), &reply["writes"]));
}

#[tokio::test]
async fn a_lost_race_names_every_loser_and_changes_nothing() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    let problem = client
        .post(
            "/v1/commit",
            json!({"writes": [
                {"op": "create", "kind": "doc", "name": "new", "payload": 1},
                {"op": "create", "kind": "doc", "name": "a", "payload": 2},
                {"op": "replace", "kind": "doc", "name": "b", "version": 3, "payload": 2}]}),
        )
        .await
        .is_problem(409, "already_exists");
    let conflicts = problem["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 2);
    assert_eq!((&conflicts[0]["index"], &conflicts[0]["code"], &conflicts[0]["version"]), (&json!(1), &json!("already_exists"), &json!(1)));
    assert_eq!((&conflicts[1]["reason"], conflicts[1].get("current")), (&json!("missing"), Some(&json!(null))));
    client.get("/v1/objects/doc/new").await.is_problem(404, "not_found");
    let guarded = json!({"writes": [{"op": "create", "kind": "doc", "name": "x", "payload": 1}], "guards": [{"kind": "doc", "name": "a", "version": 9}]});
    let problem = client.post("/v1/commit", guarded).await.is_problem(409, "version_conflict");
    assert_eq!((&problem["reason"], &problem["current"]["version"]), (&json!("guard"), &json!(1)));
}

#[tokio::test]
async fn an_older_fence_refuses_the_whole_commit() {
    let client = Client::memory().await;
    let with = |token: u64, name: &str| json!({"fences": [{"lock": "job", "token": token}], "writes": [{"op": "create", "kind": "doc", "name": name, "payload": 1}]});
    assert_eq!(client.post("/v1/commit", with(9, "a")).await.status, 200);
    let problem = client.post("/v1/commit", with(8, "b")).await.is_problem(409, "fenced");
    assert_eq!(problem["newest_token"], 9);
    client.get("/v1/objects/doc/b").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn bad_commits_are_refused_with_the_place_and_nothing_is_written() {
    let client = Client::memory().await;
    let many: Vec<_> = (0..129).map(|n| json!({"op": "create", "kind": "doc", "name": format!("n{n}"), "payload": n})).collect();
    let one = json!({"op": "create", "kind": "doc", "name": "a", "payload": 1});
    let with = |more: serde_json::Value| {
        let mut write = one.clone();
        write.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "writes": [write] })
    };
    let cases = [
        (json!({"writes": [one, {"op": "replace", "kind": "doc", "name": "b", "payload": 1}]}), "/writes/1/version"),
        (json!({"writes": [{"op": "create", "kind": "doc", "name": "b"}]}), "/writes/0/payload"),
        (json!({"writes": [{"op": "create", "kind": "doc", "name": "b", "version": 1, "payload": 1}]}), "/writes/0/version"),
        (json!({"writes": [{"op": "replace", "kind": "doc", "name": "b", "version": 0, "payload": 1}]}), "/writes/0/version"),
        (json!({"writes": [{"op": "replace", "kind": "doc", "name": "b", "version": 1.0, "payload": 1}]}), "/writes/0/version"),
        (
            json!({"writes": [{"op": "replace", "kind": "doc", "name": "b", "version": "18446744073709551616", "payload": 1}]}),
            "/writes/0/version",
        ),
        (json!({"writes": [{"op": "create", "kind": "doc", "name": "b", "payload_base64": "*"}]}), "/writes/0/payload_base64"),
        (json!({"writes": [{"op": "create", "kind": "Doc", "name": "b", "payload": 1}]}), "/writes/0"),
        (with(json!({"labels": {"": "v"}})), "/writes/0/labels"),
        (with(json!({"labels": {"a": 1}})), "/writes/0/labels/a"),
        (with(json!({"merge_labels": {"a=b": ""}})), "/writes/0/merge_labels"),
        (with(json!({"labels": {}, "merge_labels": {}})), "/writes/0/labels"),
        (with(json!({"ttl_ms": 0})), "/writes/0/ttl_ms"),
        (with(json!({"ttl_ms": -1})), "/writes/0/ttl_ms"),
        (with(json!({"ttl_ms": "1s"})), "/writes/0/ttl_ms"),
        (with(json!({"op": "delete", "payload": null, "version": 1, "ttl_ms": 5000})), "/writes/0/payload"),
        (json!({"writes": [{"op": "delete", "kind": "doc", "name": "b", "version": 1, "labels": {"a": "b"}}]}), "/writes/0/labels"),
        (json!({"writes": [{"op": "delete", "kind": "doc", "name": "b", "version": 1, "ttl_ms": "never"}]}), "/writes/0/ttl_ms"),
        (json!({"guards": [{"kind": "doc", "name": "b", "absent": true, "exists": true}]}), "/guards/0"),
        (json!({"fences": [{"lock": "a", "token": 0}]}), "/fences/0"),
        (json!({"audit": [{"chain": "a", "kind": "Chain"}]}), "/audit/0/kind"),
        (json!({"audit": [{"chain": "a", "kind": "x", "event_id": "1"}]}), "/audit/0/event_id"),
        (json!({"audit": [{"chain": "a", "kind": "x", "data": 1, "data_text": ""}]}), "/audit/0/data"),
        (json!({"wirtes": []}), "/wirtes"),
        (json!([]), ""),
        (json!({"writes": [["create", null, "doc", "a", null, 1]]}), "/writes/0"),
    ];
    for (body, pointer) in cases {
        let reply = client.post("/v1/commit", body.clone()).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{body}: {:?}", reply.body);
    }
    client.post("/v1/commit", json!({"writes": many})).await.is_problem(400, "invalid_request");
    client.post("/v1/commit", json!({"writes": [one, one]})).await.is_problem(400, "invalid_request");
    client.post("/v1/commit", json!({})).await.is_problem(400, "invalid_request");
    client
        .post("/v1/commit", json!({"writes": [{"op": "create", "kind": "onward.x", "name": "a", "payload": 1}]}))
        .await
        .is_problem(403, "forbidden");
    let twice = r#"{"writes":[{"op":"create","kind":"doc","name":"a","payload":1,"labels":{"a":"1","a":"2"}}]}"#;
    for body in [twice, r#"{"writes":[],"writes":[]}"#, r#"{"writes":[{"op":"create","op":"create","kind":"doc","name":"a","payload":1}]}"#]
    {
        client.send("POST", "/v1/commit", &[("content-type", "application/json")], body).await.is_problem(400, "invalid_request");
    }
    client.send("POST", "/v1/commit", &[("content-type", "text/plain")], "{}").await.is_problem(415, "unsupported_media_type");
    assert_eq!(client.get("/v1/objects/doc").await.json()["revision"], 0);
}

#[tokio::test]
async fn a_commit_labels_and_times_what_it_writes() {
    let client = Client::memory().await;
    let envelope = async || client.send("GET", "/v1/objects/doc/a", &[("accept", "application/vnd.onward.object+json")], "").await.json();
    let write = async |write: serde_json::Value| assert_eq!(client.post("/v1/commit", json!({ "writes": [write] })).await.status, 200);
    write(json!({"op": "create", "kind": "doc", "name": "a", "payload": {}, "labels": {"a": "1", "b": "2"}, "ttl_ms": 60000})).await;
    let made = envelope().await;
    assert_eq!((&made["labels"], made["expires_at"].is_string()), (&json!({"a": "1", "b": "2"}), true));
    write(json!({"op": "apply", "kind": "doc", "name": "a", "merge": {"n": 1}, "merge_labels": {"b": "3"}})).await;
    let kept = envelope().await;
    assert_eq!((&kept["labels"], &kept["expires_at"], &kept["version"]), (&json!({"a": "1", "b": "3"}), &made["expires_at"], &json!(2)));
    write(json!({"op": "overwrite", "kind": "doc", "name": "a", "payload": {"n": 1}, "labels": {}, "ttl_ms": "never"})).await;
    let bare = envelope().await;
    assert_eq!((&bare["labels"], bare.get("expires_at"), &bare["version"]), (&json!({}), None, &json!(3)));
}
