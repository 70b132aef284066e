use serde_json::{Value, json};

use crate::support::Client;

const OWNER: &str = "00112233445566778899aabbccddeeff";

async fn acquire(client: &Client, key: &str, body: Value) -> Value {
    let reply = client.post(&format!("/v1/locks/{key}"), body).await;
    assert!(reply.status.is_success(), "{:?}", reply.body);
    reply.json()
}

#[tokio::test]
async fn a_lock_is_taken_renewed_shown_and_released() {
    let client = Client::memory().await;
    let reply = client.send("POST", "/v1/locks/a/b", &[], "").await;
    assert_eq!(reply.status, 201);
    let grant = reply.json();
    assert_eq!((&grant["key"], &grant["ttl_ms"], &grant["waited_ms"]), (&json!("a/b"), &json!(30_000), &json!(0)));
    let owner = grant["owner"].as_str().unwrap();
    assert_eq!(owner.len(), 32);
    let status = client.get("/v1/locks/a%2Fb").await;
    assert!(!String::from_utf8_lossy(&status.body).contains(owner), "the owner is secret");
    assert_eq!((&status.json()["state"], &status.json()["token"]), (&json!("held"), &grant["token"]));
    let renewed = client.send("PUT", "/v1/locks/a/b", &[("onward-owner", owner)], r#"{"ttl_ms":60000}"#).await.json();
    assert_eq!(renewed["token"], grant["token"]);
    assert!(renewed["remaining_ms"].as_u64().unwrap() > 30_000);
    let released = client.send("DELETE", "/v1/locks/a/b", &[("onward-owner", owner)], "").await;
    assert_eq!((released.status.as_u16(), released.json()), (200, json!({"outcome": "released"})));
    assert_eq!(client.get("/v1/locks/a/b").await.json()["state"], "free");
    client.send("DELETE", "/v1/locks/a/b", &[("onward-owner", owner)], "").await.is_problem(409, "lease_lost");
    client.send("PUT", "/v1/locks/a/b", &[("onward-owner", owner)], "").await.is_problem(409, "lease_lost");
}

#[tokio::test]
async fn a_held_lock_is_refused_without_its_key() {
    let client = Client::memory().await;
    acquire(&client, "secret-key", json!({})).await;
    let reply = client.post("/v1/locks/secret-key", json!({"wait_ms": 20})).await;
    let problem = reply.is_problem(409, "resource_locked");
    assert!(!problem.to_string().contains("secret-key"));
    assert!(problem["held_for_ms"].as_u64().is_some_and(|ms| ms > 20_000));
    assert_eq!(problem["retryable"], true);
}

#[tokio::test]
async fn a_repeated_acquire_finds_its_own_grant() {
    let client = Client::memory().await;
    let first = client.post("/v1/locks/k", json!({"owner": OWNER})).await;
    let again = client.post("/v1/locks/k", json!({"owner": OWNER})).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(first.json()["token"], again.json()["token"]);
}

#[tokio::test]
async fn a_waiter_gets_the_lock_when_it_is_released_with_a_greater_token() {
    let client = Client::memory().await;
    let held = acquire(&client, "k", json!({"owner": OWNER})).await;
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { acquire(&client, "k", json!({"wait_ms": 20_000})).await }
    });
    while client.get("/v1/locks/k").await.json()["waiters"] == 0 {
        tokio::task::yield_now().await;
    }
    client.send("DELETE", "/v1/locks/k", &[("onward-owner", OWNER)], "").await;
    let next = waiter.await.unwrap();
    assert!(next["token"].as_u64() > held["token"].as_u64());
}

#[tokio::test]
async fn a_waiter_that_is_gone_leaves_nothing_behind() {
    let client = Client::memory().await;
    acquire(&client, "k", json!({"owner": OWNER})).await;
    let waiter = tokio::spawn({
        let client = client.clone();
        async move { client.post("/v1/locks/k", json!({"wait_ms": 60_000})).await }
    });
    while client.get("/v1/locks/k").await.json()["waiters"] == 0 {
        tokio::task::yield_now().await;
    }
    waiter.abort();
    let _ = waiter.await;
    client.send("DELETE", "/v1/locks/k", &[("onward-owner", OWNER)], "").await;
    acquire(&client, "k", json!({"wait_ms": 5_000})).await;
}

#[tokio::test]
async fn many_leases_are_renewed_in_one_call() {
    let client = Client::memory().await;
    acquire(&client, "a", json!({"owner": OWNER})).await;
    let one = |key: &str| json!({"key": key, "owner": OWNER, "ttl_ms": 60_000});
    let reply = client.post("/v1/locks", json!({"renew": [one("a"), one("b")]})).await.json();
    assert_eq!((&reply["results"][0]["outcome"], &reply["results"][1]["outcome"]), (&json!("renewed"), &json!("lost")));
    assert!(reply["results"][1]["remaining_ms"].is_null());
    let many: Vec<_> = (0..201).map(|n| one(&format!("k{n}"))).collect();
    client.post("/v1/locks", json!({"renew": many})).await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn bad_lock_calls_are_refused() {
    let client = Client::memory().await;
    for body in [
        json!({"ttl_ms": 0}),
        json!({"ttl_ms": 9}),
        json!({"ttl_ms": 86_400_001}),
        json!({"ttl_ms": -1}),
        json!({"ttl_ms": "x"}),
        json!({"wait_ms": 60_001}),
        json!({"owner": "x"}),
        json!({"holder": "a\nb"}),
        json!({"holder": ""}),
        json!({"holder": "x".repeat(65)}),
        json!({"tll_ms": 1}),
    ] {
        client.post("/v1/locks/k", body).await.is_problem(400, "invalid_request");
    }
    client.send("DELETE", "/v1/locks/k", &[], "").await.is_problem(400, "invalid_request");
    client.post(&format!("/v1/locks/{}", "x".repeat(513)), json!({})).await.is_problem(400, "invalid_key");
    client.post("/v1/locks/onward:x", json!({})).await.is_problem(400, "invalid_key");
    client.post("/v1/locks/a/../b", json!({})).await.is_problem(400, "invalid_key");
    assert_eq!(client.get("/v1/locks/k").await.json()["state"], "free");
}
