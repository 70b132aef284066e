use serde_json::json;

use crate::support::Client;

const KEY: &str = "/v1/cache/web/project:42";

async fn miss(client: &Client, path: &str) -> String {
    let reply = client.get(path).await;
    reply.is_problem(404, "cache_miss");
    assert!(reply.header("onward-fill-ttl-ms").parse::<u64>().unwrap() > 1_000);
    reply.header("onward-fill").to_owned()
}

#[tokio::test]
async fn the_winner_of_a_miss_fills_and_everybody_hits() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    let other = client.get(KEY).await;
    assert_eq!((other.status.as_u16(), other.json()), (202, json!({"outcome": "busy"})));
    assert!(other.header("retry-after").parse::<u64>().is_ok());
    let stored = client
        .send("PUT", KEY, &[("onward-fill", &fill), ("content-type", "application/json"), ("onward-ttl-ms", "60000")], "{\"n\": 1}")
        .await;
    assert_eq!((stored.status.as_u16(), stored.json()), (200, json!({"outcome": "stored"})));
    let hit = client.get(KEY).await;
    assert_eq!((hit.status.as_u16(), &hit.body[..], hit.header("content-type")), (200, &b"{\"n\": 1}"[..], "application/json"));
    assert_eq!(hit.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_fill_that_began_before_an_invalidation_is_superseded() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    assert_eq!(client.send("DELETE", KEY, &[], "").await.status, 200);
    let late = client.send("PUT", KEY, &[("onward-fill", &fill)], "old").await;
    assert_eq!((late.status.as_u16(), late.json()), (200, json!({"outcome": "superseded"})));
    assert_ne!(miss(&client, KEY).await, fill);
}

#[tokio::test]
async fn a_commit_kills_the_fill_that_it_invalidates() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    let reply = client.post("/v1/commit", json!({"writes": [{"op": "create", "kind": "project", "name": "42", "payload": 1}], "invalidate": [{"namespace": "web", "key": "project:42"}]})).await;
    assert_eq!(reply.json()["invalidation"], "done");
    assert_eq!(client.send("PUT", KEY, &[("onward-fill", &fill)], "old").await.json()["outcome"], "superseded");
}

#[tokio::test]
async fn who_only_looks_takes_no_lease() {
    let client = Client::memory().await;
    let look = client.get(&format!("{KEY}?lease=false")).await;
    look.is_problem(404, "cache_miss");
    assert_eq!(look.header("onward-fill"), "");
    assert_eq!(client.send("HEAD", KEY, &[], "").await.status, 404);
    miss(&client, KEY).await;
}

#[tokio::test]
async fn an_absence_is_remembered() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    let headers = [("onward-fill", fill.as_str()), ("onward-negative", "true")];
    client.send("PUT", KEY, &headers, "x").await.is_problem(400, "invalid_request");
    assert_eq!(client.send("PUT", KEY, &headers, "").await.json()["outcome"], "stored");
    client.get(KEY).await.is_problem(404, "absent");
}

#[tokio::test]
async fn a_waiter_gets_the_value_that_somebody_else_fills() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.get(&format!("{KEY}?wait_ms=15000")).await }
    });
    tokio::task::yield_now().await;
    client.send("PUT", KEY, &[("onward-fill", &fill)], "v").await;
    assert_eq!(&waiter.await.unwrap().body[..], b"v");
}

#[tokio::test]
async fn fields_stand_beside_the_value_and_go_with_the_key() {
    let client = Client::memory().await;
    let field = format!("{KEY}?field=a%20b");
    let fill = miss(&client, &field).await;
    client.send("PUT", &field, &[("onward-fill", &fill)], "f").await;
    assert_eq!(&client.get(&field).await.body[..], b"f");
    assert_eq!(client.get(&format!("{KEY}?lease=false")).await.status, 404);
    assert_eq!(client.send("DELETE", KEY, &[], "").await.json()["outcome"], "removed");
    assert_eq!(client.get(&format!("{field}&lease=false")).await.status, 404);
}

#[tokio::test]
async fn a_flush_empties_its_namespace_only() {
    let client = Client::memory().await;
    for path in [KEY, "/v1/cache/other/k"] {
        let fill = miss(&client, path).await;
        client.send("PUT", path, &[("onward-fill", &fill)], "v").await;
    }
    assert_eq!(client.get("/v1/cache/web").await.json()["entries"], 1);
    for bad in [vec![], vec![("onward-reason", "")], vec![("onward-reason", "%0a")], vec![("onward-reason", "%")]] {
        client.send("DELETE", "/v1/cache/web", &bad, "").await.is_problem(400, "invalid_request");
    }
    let reason = [("onward-reason", "bad%20deploy")];
    let flushed = client.send("DELETE", "/v1/cache/web", &reason, "").await;
    assert_eq!(flushed.json()["outcome"], "flushed", "{:?}", flushed.json());
    assert_eq!(client.get(&format!("{KEY}?lease=false")).await.status, 404);
    assert_eq!(client.get("/v1/cache/other/k").await.status, 200);
}

#[tokio::test]
async fn bad_cache_calls_are_refused() {
    let client = Client::memory().await;
    client.send("PUT", KEY, &[], "v").await.is_problem(428, "precondition_required");
    client.send("PUT", KEY, &[("onward-fill", "x")], "v").await.is_problem(400, "invalid_request");
    let fill = miss(&client, KEY).await;
    for bad in [("onward-ttl-ms", "0"), ("onward-ttl-ms", "-1"), ("onward-ttl-ms", "9999999999999"), ("onward-negative", "yes")] {
        client.send("PUT", KEY, &[("onward-fill", &fill), bad], "").await.is_problem(400, "invalid_request");
    }
    client.get("/v1/cache/Web/k").await.is_problem(400, "invalid_key");
    client.get("/v1/cache/onward.x/k").await.is_problem(403, "forbidden");
    client.get(&format!("/v1/cache/web/{}", "x".repeat(513))).await.is_problem(400, "invalid_key");
    client.get(&format!("{KEY}?wait_ms=60001")).await.is_problem(400, "invalid_request");
    // Any bytes are a key, in the total form.
    let odd = format!("/v1/cache/web/{}", onward_api::path::encode(&[0, 255]));
    let fill = miss(&client, &odd).await;
    assert_eq!(client.send("PUT", &odd, &[("onward-fill", &fill)], "v").await.status, 200);
}

#[tokio::test]
async fn an_expired_value_is_served_as_stale_while_one_caller_refreshes() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    client.send("PUT", KEY, &[("onward-fill", &fill)], "old").await;
    let expired = client.send("DELETE", &format!("{KEY}?mode=expire"), &[], "").await;
    assert_eq!((expired.status.as_u16(), expired.json()), (200, json!({"outcome": "expired"})));
    let path = format!("{KEY}?stale_ms=60000");
    let winner = client.get(&path).await;
    assert_eq!((winner.status.as_u16(), &winner.body[..], winner.header("onward-stale")), (200, &b"old"[..], "true"));
    let lease = winner.header("onward-fill").to_owned();
    assert!(!lease.is_empty() && !winner.header("onward-fill-ttl-ms").is_empty());
    let other = client.get(&path).await;
    assert_eq!((&other.body[..], other.header("onward-stale"), other.header("onward-fill")), (&b"old"[..], "true", ""));
    // Who did not ask for stale values gets none.
    assert_eq!(client.get(KEY).await.status, 202);
    client.get(&format!("{KEY}?lease=false")).await.is_problem(404, "cache_miss");
    let filled = client.send("PUT", KEY, &[("onward-fill", &lease), ("onward-stale-ms", "60000")], "new").await;
    assert_eq!(filled.json()["outcome"], "stored");
    let fresh = client.get(&path).await;
    assert_eq!((&fresh.body[..], fresh.header("onward-stale"), fresh.header("onward-fill")), (&b"new"[..], "", ""));
    assert_eq!(client.send("DELETE", "/v1/cache/web/none?mode=expire", &[], "").await.json()["outcome"], "absent");
}

#[tokio::test]
async fn after_an_invalidation_no_stale_value_is_left_to_serve() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    client.send("PUT", KEY, &[("onward-fill", &fill), ("onward-stale-ms", "60000")], "old").await;
    client.send("DELETE", KEY, &[], "").await;
    miss(&client, &format!("{KEY}?stale_ms=60000")).await;
}

#[tokio::test]
async fn a_stale_absence_comes_with_the_lease_too() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    client.send("PUT", KEY, &[("onward-fill", &fill), ("onward-negative", "true")], "").await;
    client.send("DELETE", &format!("{KEY}?mode=expire"), &[], "").await;
    let stale = client.get(&format!("{KEY}?stale_ms=60000")).await;
    stale.is_problem(404, "absent");
    assert_eq!((stale.header("onward-stale"), stale.header("onward-fill").len()), ("true", 32));
}

#[tokio::test]
async fn a_fill_sent_twice_is_stored_once() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    for body in ["first", "other"] {
        assert_eq!(client.send("PUT", KEY, &[("onward-fill", &fill)], body).await.json()["outcome"], "stored", "{body}");
        assert_eq!(&client.get(KEY).await.body[..], b"first");
    }
    client.send("DELETE", KEY, &[], "").await;
    assert_eq!(client.send("PUT", KEY, &[("onward-fill", &fill)], "first").await.json()["outcome"], "superseded");
}

#[tokio::test]
async fn acts_of_one_request_are_answered_each_for_itself() {
    let client = Client::memory().await;
    let odd = format!("/v1/cache/web/{}", onward_api::path::encode(&[0, 255]));
    for path in ["/v1/cache/web/a", "/v1/cache/web/b?field=f", &odd] {
        let fill = miss(&client, path).await;
        client.send("PUT", path, &[("onward-fill", &fill)], "v").await;
    }
    let lease = miss(&client, KEY).await;
    let ops = json!({"ops": [
        {"invalidate": {"key": "a"}},
        {"expire": {"key": "b", "field": "f"}},
        {"invalidate": {"key_base64": "AP8="}},
        {"abandon": {"key": "project:42", "fill": lease}},
        {"invalidate": {"key": "a"}},
    ]});
    let reply = client.post("/v1/cache/web", ops).await;
    let outcomes: Vec<_> = reply.json()["results"].as_array().unwrap().iter().map(|done| done["outcome"].clone()).collect();
    assert_eq!((reply.status.as_u16(), json!(outcomes)), (200, json!(["removed", "expired", "removed", "abandoned", "absent"])));
    miss(&client, KEY).await;
    assert_eq!(client.get(&format!("{odd}?lease=false")).await.status, 404);
}

#[tokio::test]
async fn bad_acts_are_refused_before_any_is_done() {
    let client = Client::memory().await;
    let fill = miss(&client, KEY).await;
    client.send("PUT", KEY, &[("onward-fill", &fill)], "v").await;
    let good = json!({"invalidate": {"key": "project:42"}});
    for (bad, pointer) in [
        (json!({"invalidate": {}}), "/ops/1/invalidate"),
        (json!({"invalidate": {"key": ""}}), "/ops/1"),
        (json!({"expire": {"key": "x".repeat(513)}}), "/ops/1"),
        (json!({"expire": {"key": "k", "key_base64": "aw=="}}), "/ops/1/expire/key"),
        (json!({"expire": {"key_base64": "*"}}), "/ops/1/expire/key"),
        (json!({"abandon": {"key": "k", "fill": "x"}}), "/ops/1"),
    ] {
        let refused = client.post("/v1/cache/web", json!({"ops": [good, bad]})).await;
        let code = if bad.to_string().len() > 500 || bad == json!({"invalidate": {"key": ""}}) { "invalid_key" } else { "invalid_request" };
        assert_eq!(refused.is_problem(400, code)["errors"][0]["pointer"], pointer, "{bad}");
    }
    for bad in [json!({}), json!({"ops": []}), json!({"ops": [{"touch": {"key": "k"}}]}), json!({"ops": [{"invalidate": {"kay": "k"}}]})] {
        client.post("/v1/cache/web", bad).await.is_problem(400, "invalid_request");
    }
    let many: Vec<_> = std::iter::repeat_n(good, 1_025).collect();
    client.post("/v1/cache/web", json!({"ops": many})).await.is_problem(400, "invalid_request");
    client.post("/v1/cache/onward.x", json!({"ops": []})).await.is_problem(403, "forbidden");
    for path in [format!("{KEY}?mode=gone"), format!("{KEY}?mode=")] {
        client.send("DELETE", &path, &[], "").await.is_problem(400, "invalid_request");
    }
    for query in ["stale_ms=0", "stale_ms=x", "stale_ms=2592000001", "stale_ms=1000&lease=false"] {
        client.get(&format!("{KEY}?{query}")).await.is_problem(400, "invalid_request");
    }
    assert_eq!(client.get(KEY).await.status, 200, "nothing was done");
}

#[tokio::test]
async fn the_engine_of_the_cache_is_named() {
    let info = Client::memory().await.get("/v1/info").await.json();
    let cache = info["engines"].as_array().unwrap().iter().find(|engine| engine["part"] == "cache").cloned();
    assert_eq!(cache.unwrap()["kind"], "memory");
}

#[tokio::test]
async fn a_value_without_a_lease_is_taken_only_where_the_server_says_so() {
    let strict = Client::memory().await;
    strict.send("PUT", &format!("{KEY}?unleased=true"), &[], "v").await.is_problem(403, "forbidden");
    strict.send("PUT", KEY, &[], "v").await.is_problem(428, "precondition_required");
    let token = onward_server::Token::draw();
    let onward = onward::Onward::open("memory:").await.unwrap();
    let client = Client::of(onward_server::State::new(onward, "dev", &token, std::sync::Arc::default()).with_unleased_fills(), &token);
    let fill = miss(&client, KEY).await;
    let saved = client.send("PUT", &format!("{KEY}?unleased=true"), &[("content-type", "text/plain")], "v").await;
    assert_eq!((saved.status.as_u16(), saved.json()), (200, json!({"outcome": "stored"})));
    assert_eq!(client.send("PUT", KEY, &[("onward-fill", &fill)], "old").await.json()["outcome"], "superseded");
    let hit = client.get(KEY).await;
    assert_eq!((&hit.body[..], hit.header("content-type")), (&b"v"[..], "text/plain"));
    let guard = client.onward.cache_in("web").unwrap().write_guard(["project:42"]).await.unwrap();
    assert_eq!(client.send("PUT", &format!("{KEY}?unleased=true"), &[], "w").await.json()["outcome"], "guarded");
    let _ = guard.release().await.unwrap();
    for headers in [[("onward-fill", fill.as_str())], [("onward-negative", "true")], [("onward-ttl-ms", "0")]] {
        client.send("PUT", &format!("{KEY}?unleased=true"), &headers, "").await.is_problem(400, "invalid_request");
    }
    client.send("PUT", &format!("{KEY}?unleased=perhaps"), &[], "v").await.is_problem(400, "invalid_request");
    let (_, viewer) = client.token("viewer", &["*"]).await;
    viewer.send("PUT", &format!("{KEY}?unleased=true"), &[], "v").await.is_problem(403, "forbidden");
}
