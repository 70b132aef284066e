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
    assert_eq!(client.send("DELETE", "/v1/cache/web", &[], "").await.json()["outcome"], "flushed");
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
