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
        json!({"wait_ms": -1}),
        json!({"wait_ms": "for ever"}),
        json!({"wait_ms": 1e300}),
        json!({"ttl_ms": 1.5}),
        json!({"ttl_ms": "18446744073709551616"}),
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
    // Not UTF-8, as it is and in the total form; and control bytes.
    for key in ["%FF", "~_w", "a%00b", "a%7Fb", "a%0Ab"] {
        client.post(&format!("/v1/locks/{key}"), json!({})).await.is_problem(400, "invalid_key");
    }
    for owner in ["", "0", &"g".repeat(32), &"0".repeat(33)] {
        client.send("PUT", "/v1/locks/k", &[("onward-owner", owner)], "").await.is_problem(400, "invalid_request");
        client.send("DELETE", "/v1/locks/k", &[("onward-owner", owner)], "").await.is_problem(400, "invalid_request");
    }
    client.post("/v1/locks/a/../b", json!({})).await.is_problem(400, "invalid_key");
    assert_eq!(client.get("/v1/locks/k").await.json()["state"], "free");
}

const WHY: (&str, &str) = ("onward-reason", "host%207%20is%20gone%3A%20caf%C3%A9");

#[tokio::test]
async fn a_release_may_keep_the_key_taken_for_the_rest_of_a_least_hold() {
    let client = Client::memory().await;
    acquire(&client, "k", json!({"owner": OWNER})).await;
    for bad in ["keep_ms=-1", "keep_ms=86400001", "keep_ms=x", "audit=false", "break=maybe", "keep=1"] {
        let path = format!("/v1/locks/k?{bad}");
        client.send("DELETE", &path, &[("onward-owner", OWNER)], "").await.is_problem(400, "invalid_request");
    }
    client.send("DELETE", "/v1/locks/k?keep_ms=60000", &[("onward-owner", OWNER)], "").await;
    let problem = client.post("/v1/locks/k", json!({"owner": OWNER})).await.is_problem(409, "resource_locked");
    assert!(problem["held_for_ms"].as_u64().is_some_and(|ms| ms > 30_000), "{problem}");
    client.send("DELETE", "/v1/locks/k", &[("onward-owner", OWNER)], "").await.is_problem(409, "lease_lost");
}

#[tokio::test]
async fn held_locks_are_listed_in_pages_without_their_owners() {
    let client = Client::memory().await;
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        acquire(&client, key, json!({"owner": OWNER, "holder": "host:1"})).await;
    }
    let page = client.get("/v1/locks?prefix=b/&limit=2").await;
    assert!(!String::from_utf8_lossy(&page.body).contains(OWNER), "the owner is secret");
    let page = page.json();
    let keys = |page: &Value| page["items"].as_array().unwrap().iter().map(|item| item["key"].clone()).collect::<Vec<_>>();
    assert_eq!(keys(&page), ["b/1", "b/2"]);
    assert_eq!((&page["items"][0]["state"], &page["items"][0]["holder"]), (&json!("held"), &json!("host:1")));
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = client.get(&format!("/v1/locks?prefix=b/&limit=2&cursor={cursor}")).await.json();
    assert_eq!((keys(&rest), &rest["next_cursor"]), (vec![json!("b/3")], &Value::Null));
    assert_eq!(keys(&client.get("/v1/locks").await.json()).len(), 5);
    client.get(&format!("/v1/locks?prefix=c&cursor={cursor}")).await.is_problem(400, "invalid_cursor");
    for bad in ["limit=0", "limit=1001", "limit=x", "kind=a"] {
        client.get(&format!("/v1/locks?{bad}")).await.is_problem(400, "invalid_request");
    }
    client.get(&format!("/v1/locks?prefix={}", "x".repeat(513))).await.is_problem(400, "invalid_key");
}

#[tokio::test]
async fn an_operator_breaks_a_lock_and_the_trail_says_who_and_why() {
    let client = Client::memory().await;
    let old = acquire(&client, "nightly", json!({"owner": OWNER, "holder": "host:7"})).await;
    client.send("DELETE", "/v1/locks/nightly?break=true", &[], "").await.is_problem(400, "invalid_request");
    let both = "/v1/locks/nightly?break=true&keep_ms=1";
    client.send("DELETE", both, &[WHY], "").await.is_problem(400, "invalid_request");
    let broken = client.send("DELETE", "/v1/locks/nightly?break=true", &[WHY], "").await;
    assert_eq!(broken.status, 200);
    let broken = broken.json();
    assert_eq!((&broken["outcome"], &broken["holder"], &broken["old_token"]), (&json!("broken"), &json!("host:7"), &old["token"]));
    assert!(broken["token"].as_u64() > old["token"].as_u64());
    client.send("PUT", "/v1/locks/nightly", &[("onward-owner", OWNER)], "").await.is_problem(409, "lease_lost");
    let fence = format!("{} nightly", old["token"]);
    let headers = [("if-none-match", "*"), ("onward-fence", fence.as_str())];
    let late = client.send("PUT", "/v1/objects/doc/a", &headers, "1").await.is_problem(409, "fenced");
    assert_eq!(late["newest_token"], broken["token"]);
    let again = client.send("DELETE", "/v1/locks/nightly?break=true", &[WHY], "").await.json();
    assert_eq!(again["outcome"], "absent");
    let chain = client.onward.audit().chain_of_ours("onward.admin").unwrap();
    let found = chain.query(&onward::audit::Filter::default(), onward::audit::Page::first(10)).await.unwrap();
    let kept = found.items.iter().find(|entry| entry.kind == "lock.break").unwrap();
    assert_eq!((kept.actor.as_deref(), kept.resource.as_deref()), (Some("dev"), Some("nightly")));
    let data: Value = serde_json::from_slice(&kept.data).unwrap();
    assert_eq!(data, json!({"reason": "host 7 is gone: café", "holder": "host:7", "token": old["token"]}));
}

#[tokio::test]
async fn the_switch_stops_new_locks_and_keeps_held_ones() {
    let client = Client::memory().await;
    acquire(&client, "held", json!({"owner": OWNER})).await;
    let all = client.get("/v1/admin/lock-switch").await.json();
    assert_eq!(
        (&all["enabled"], &all["source"], &all["live"], &all["state"]),
        (&json!(true), &json!("default"), &Value::Null, &json!("ok"))
    );
    assert!(all["latency_us"].is_u64());
    for bad in
        [json!({"enabled": false}), json!({"enabled": false, "reason": " "}), json!({"enabled": 0, "reason": "x"}), json!({"reason": "x"})]
    {
        client.send("PUT", "/v1/admin/lock-switch", &[], bad.to_string()).await.is_problem(400, "invalid_request");
    }
    let off = json!({"enabled": false, "reason": "the engine stalls"}).to_string();
    let set = client.send("PUT", "/v1/admin/lock-switch", &[], off).await.json();
    assert_eq!((&set["old"], &set["new"]["enabled"], &set["new"]["by"]), (&Value::Null, &json!(false), &json!("dev")));
    client.post("/v1/locks/other", json!({})).await.is_problem(503, "locking_off");
    client.send("PUT", "/v1/locks/held", &[("onward-owner", OWNER)], "").await.json()["token"].as_u64().unwrap();
    assert_eq!(client.get("/v1/locks/held").await.json()["state"], "held");
    let all = client.get("/v1/admin/lock-switch").await.json();
    assert_eq!((&all["enabled"], &all["source"], &all["live"]), (&json!(false), &json!("switch"), &set["new"]));
    let on = json!({"enabled": true, "reason": "it is well"}).to_string();
    let set_again = client.send("PUT", "/v1/admin/lock-switch", &[], on).await.json();
    assert_eq!(set_again["old"], set["new"]);
    acquire(&client, "other", json!({})).await;
}

#[tokio::test]
async fn a_list_shows_a_token_nothing_beyond_its_prefix() {
    let client = Client::memory().await;
    for key in ["jobs/a", "jobs/b/c", "jobs", "jobs2/x", "job", "other/jobs/a", "Jobs/a"] {
        assert_eq!(client.post(&format!("/v1/locks/{key}"), json!({})).await.status, 201, "{key}");
    }
    let (_, caller) = client.token("viewer", &["locks:jobs"]).await;
    let keys =
        |list: &Value| list["items"].as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(&caller.get("/v1/locks?prefix=jobs/").await.json()), ["jobs/a", "jobs/b/c"]);
    assert_eq!(keys(&caller.get("/v1/locks?prefix=jobs/b").await.json()), ["jobs/b/c"]);
    for prefix in ["", "jobs", "job", "jobs2/", "other/", "Jobs/", "jobs%00"] {
        let refused = caller.get(&format!("/v1/locks?prefix={prefix}")).await;
        assert!(matches!(refused.status.as_u16(), 400 | 403), "{prefix}: {:?}", refused.body);
    }
    // A cursor of another list leads nowhere, also one that begins inside of the prefix.
    let cursor = client.get("/v1/locks?prefix=jobs&limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    caller.get(&format!("/v1/locks?prefix=jobs/&cursor={cursor}")).await.is_problem(400, "invalid_cursor");
    let page = caller.get("/v1/locks?prefix=jobs/&limit=1").await.json();
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(keys(&caller.get(&format!("/v1/locks?prefix=jobs/&limit=9&cursor={next}")).await.json()), ["jobs/b/c"]);
    assert_eq!(caller.get("/v1/locks/jobs/a").await.status, 200);
    caller.get("/v1/locks/jobs2/x").await.is_problem(403, "forbidden");
}

#[tokio::test]
async fn what_callers_do_with_leases_that_they_keep_is_counted() {
    let client = Client::memory().await;
    let granted = client.post("/v1/locks/k", json!({})).await.json();
    let owner = [("onward-owner", granted["owner"].as_str().unwrap()), ("content-type", "application/json")];
    assert_eq!(client.send("PUT", "/v1/locks/k", &owner, "{}").await.status, 200);
    let both = json!({"renew": [{"key": "k", "owner": owner[0].1, "ttl_ms": 1000}, {"key": "gone", "owner": owner[0].1, "ttl_ms": 1000}]});
    assert_eq!(client.post("/v1/locks", both).await.status, 200);
    assert_eq!(client.send("DELETE", "/v1/locks/k", &owner, "").await.status, 200);
    client.send("DELETE", "/v1/locks/k", &owner, "").await.is_problem(409, "lease_lost");
    let shown = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "onward_lock_attempts_total{outcome=\"acquired\",target=\"other\",scope=\"\"} 1",
        "onward_lock_leases_total{operation=\"renew\",result=\"done\"} 2",
        "onward_lock_leases_total{operation=\"renew\",result=\"lost\"} 1",
        "onward_lock_leases_total{operation=\"release\",result=\"done\"} 1",
        "onward_lock_leases_total{operation=\"release\",result=\"lost\"} 1",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}
