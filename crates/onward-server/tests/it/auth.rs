use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use onward::model::Seq;
use onward::time::Clock;
use onward::{Config, Onward};
use onward_server::{Least, Limits, Metrics, ROUTES, Rate, Role, State, Token, router};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::access::concrete;
use crate::support::{Client, soon};

/// What covers everything that `concrete` names, and what differs from it by a letter.
const OWN: &[&str] = &["locks:a", "objects:doc", "cache:web", "chains:main"];
const NEAR: &[&str] = &["locks:aa", "objects:do", "objects:docs", "cache:we", "cache:web/b", "chains:mai", "chains:main2"];
/// Their path names nothing: what their body or their list names is judged there.
const NEUTRAL: &[(&str, &str)] = &[
    ("POST", "/v1/commit"),
    ("GET", "/v1/watch"),
    ("POST", "/v1/locks"),
    ("POST", "/v1/objects"),
    ("GET", "/v1/chains"),
    ("GET", "/v1/info"),
    ("GET", "/metrics"),
];
/// They are about more than any one scope but `*` covers.
const WHOLE: &[(&str, &str)] = &[("GET", "/v1/locks"), ("GET", "/v1/objects")];

#[tokio::test]
async fn every_route_keeps_its_least_role_and_the_scopes() {
    let client = Client::memory().await;
    for has in Role::ALL {
        for scopes in [&["*"][..], OWN, NEAR] {
            let (_, caller) = client.token(has.word(), scopes).await;
            for (path, methods) in ROUTES {
                for (method, least) in *methods {
                    let Least::Role(least) = least else { continue };
                    let named = (*method, *path);
                    let inside = match scopes {
                        ["*"] => true,
                        _ if NEUTRAL.contains(&named) => true,
                        _ => scopes == OWN && !WHOLE.contains(&named) && !path.starts_with("/v1/admin/"),
                    };
                    // The head of what is read: an event stream would not end.
                    let sent = if *method == "GET" { "HEAD" } else { method };
                    let status = caller.send(sent, &concrete(path), &[], "").await.status.as_u16();
                    assert_ne!(status, 401, "{method} {path}");
                    assert_eq!(status == 403, has < *least || !inside, "{has} with {scopes:?}: {method} {path} is {status}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_needs_every_part_that_it_touches() {
    let client = Client::memory().await;
    let whole = json!({
        "writes": [{"op": "create", "kind": "doc", "name": "a", "payload": 1}],
        "guards": [{"kind": "rule", "name": "r", "absent": true}],
        "fences": [{"lock": "jobs/n", "token": 1}],
        "audit": [{"chain": "main", "kind": "k"}],
        "invalidate": [{"namespace": "web", "key": "k"}],
    });
    let needed = ["objects:doc", "objects:rule", "locks:jobs", "chains:main", "cache:web"];
    for missing in needed {
        let scopes: Vec<&str> = needed.into_iter().filter(|scope| *scope != missing).collect();
        let (_, caller) = client.token("writer", &scopes).await;
        caller.post("/v1/commit", whole.clone()).await.is_problem(403, "forbidden");
    }
    assert_eq!(client.get("/v1/objects/doc/a").await.status, 404);
    let (_, caller) = client.token("writer", &needed).await;
    assert_eq!(caller.post("/v1/commit", whole).await.status, 200);
    let fence = [("if-none-match", "*"), ("onward-fence", "5 other/lock")];
    caller.send("PUT", "/v1/objects/doc/b", &fence, "1").await.is_problem(403, "forbidden");
    let renew = json!({"renew": [{"key": "other", "owner": "0".repeat(32), "ttl_ms": 1000}]});
    caller.post("/v1/locks", renew).await.is_problem(403, "forbidden");
    let row = r#"{"kind":"other","name":"a","payload":1}"#;
    caller.send("POST", "/v1/objects", &[], row).await.is_problem(403, "forbidden");
}

#[tokio::test]
async fn out_of_scope_does_not_tell_whether_it_exists() {
    let client = Client::memory().await;
    client.put("/v1/objects/secret/there", ("if-none-match", "*"), "1").await;
    let (_, caller) = client.token("admin", &["objects:doc"]).await;
    let mut told = Vec::new();
    for path in ["/v1/objects/secret/there", "/v1/objects/secret/missing"] {
        let mut problem = caller.get(path).await.is_problem(403, "forbidden");
        problem["request_id"].take();
        told.push(problem);
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn lists_and_watches_show_only_what_is_in_scope() {
    let client = Client::memory().await;
    for chain in ["a", "b", "c"] {
        client.post(&format!("/v1/chains/{chain}/entries"), json!({"entries": [{"kind": "k"}]})).await;
    }
    let (_, caller) = client.token("viewer", &["chains:a", "chains:c", "chains:none", "objects:doc", "locks:jobs"]).await;
    let names = |list: &Value| list["items"].as_array().unwrap().iter().map(|one| one["chain"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&caller.get("/v1/chains").await.json()), ["a", "c"]);
    let first = caller.get("/v1/chains?limit=1").await.json();
    let next = first["next_cursor"].as_str().unwrap();
    assert_eq!(
        (names(&first), names(&caller.get(&format!("/v1/chains?limit=1&cursor={next}")).await.json())),
        (vec!["a".into()], vec!["c".into()])
    );
    assert_eq!(caller.get("/v1/locks?prefix=jobs/").await.status, 200);
    for prefix in ["", "jobs", "job", "jobs2/"] {
        caller.get(&format!("/v1/locks?prefix={prefix}")).await.is_problem(403, "forbidden");
    }
    let mut events = caller.events("/v1/watch?from=0", &[]).await;
    client.put("/v1/objects/other/a", ("if-none-match", "*"), "1").await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    let change = events.next_of("change").await;
    assert_eq!((change.data["changes"].as_array().unwrap().len(), &change.data["changes"][0]["kind"]), (1, &json!("doc")));
}

#[tokio::test]
async fn what_is_ours_is_hidden_and_operators_read_the_admin_log() {
    let client = Client::memory().await;
    let (_, viewer) = client.token("viewer", &["*"]).await;
    let (_, operator) = client.token("operator", &["*"]).await;
    viewer.get("/v1/chains/onward.admin/entries").await.is_problem(403, "forbidden");
    assert!(!viewer.get("/v1/chains").await.json().to_string().contains("onward.admin"));
    let entries = operator.get("/v1/chains/onward.admin/entries").await.json();
    assert_eq!(entries["items"].as_array().unwrap().iter().filter(|entry| entry["kind"] == "token.create").count(), 2);
    assert!(operator.get("/v1/chains").await.json().to_string().contains("onward.admin"));
    for caller in [&client, &operator] {
        caller.get("/v1/objects/onward.token/x").await.is_problem(403, "forbidden");
        caller.get("/v1/objects/onward.token").await.is_problem(403, "forbidden");
        let forged = json!({"entries": [{"kind": "token.create"}]});
        caller.post("/v1/chains/onward.admin/entries", forged).await.is_problem(403, "forbidden");
        let write = json!({"writes": [{"op": "create", "kind": "onward.token", "name": "x", "payload": {}}]});
        caller.post("/v1/commit", write).await.is_problem(403, "forbidden");
    }
    let mut events = client.events("/v1/watch?from=0", &[]).await;
    client.token("viewer", &["*"]).await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    assert_eq!(events.next_of("change").await.data["changes"][0]["kind"], "doc", "no token was shown before");
}

#[tokio::test]
async fn a_revoked_token_is_none_within_five_seconds_on_every_server() {
    let clock = Clock::manual();
    let here = Client::by_clock(clock.clone()).await;
    let (id, caller) = here.token("viewer", &["*"]).await;
    let there = caller.replica();
    assert_eq!((caller.get("/v1/info").await.status, there.get("/v1/info").await.status), (StatusCode::OK, StatusCode::OK));
    let mut events = there.events("/v1/watch", &[]).await;
    assert_eq!(events.next_of("open").await.name, "open");
    here.send("DELETE", &format!("/v1/admin/tokens/{id}"), &[], "").await.is_problem(400, "invalid_request");
    let revoked = here.send("DELETE", &format!("/v1/admin/tokens/{id}"), &[("onward-reason", "left%20us")], "").await;
    assert_eq!(revoked.json()["outcome"], "revoked");
    caller.get("/v1/info").await.is_problem(401, "unauthenticated");
    clock.advance(Duration::from_secs(5));
    there.get("/v1/info").await.is_problem(401, "unauthenticated");
    assert_eq!(soon(events.next_of("bye")).await.data["reason"], "revoked");
    let last = here.get("/v1/chains/onward.admin/entries?kind=token.revoke").await.json();
    let data: Value = serde_json::from_str(last["items"][0]["data"].as_str().unwrap()).unwrap();
    assert_eq!((&last["items"][0]["actor"], &data["reason"]), (&json!("dev"), &json!("left us")));
    here.send("DELETE", &format!("/v1/admin/tokens/{id}"), &[("onward-reason", "x")], "").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn a_token_ends_at_its_time() {
    let clock = Clock::manual();
    let client = Client::by_clock(clock.clone()).await;
    let made = client.post("/v1/admin/tokens", json!({"role": "viewer", "scopes": ["*"], "ttl_ms": 60_000})).await.json();
    let caller = client.with_token(made["token"].as_str().unwrap());
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(caller.get("/v1/info").await.status, 200);
    clock.advance(Duration::from_millis(1));
    caller.get("/v1/info").await.is_problem(401, "unauthenticated");
    assert_eq!(client.get(&format!("/v1/admin/tokens/{}", made["id"].as_str().unwrap())).await.json()["name"], made["id"]);
}

#[tokio::test]
async fn bad_tokens_are_not_made() {
    let client = Client::memory().await;
    let good = json!({"name": "ci", "role": "writer", "scopes": ["cache:web"], "ttl_ms": 1_000});
    for (member, bad) in [
        ("name", json!("a/b")),
        ("name", json!("")),
        ("role", json!("root")),
        ("scopes", json!([])),
        ("scopes", json!(["web"])),
        ("scopes", json!(["objects:a/b/c"])),
        ("ttl_ms", json!(0)),
        ("ttl_ms", Value::Null),
        ("never_expires", json!(true)),
        ("act_as", json!(["x"])),
    ] {
        let mut asked = good.clone();
        asked[member] = bad;
        client.post("/v1/admin/tokens", asked).await.is_problem(400, "invalid_request");
    }
    let listed = client.get("/v1/admin/tokens").await.json();
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test]
async fn a_secret_is_shown_once_and_found_nowhere_else() {
    let onward = Onward::open("memory:").await.unwrap();
    let (token, metrics) = (Token::draw(), Arc::new(Metrics::default()));
    let served = router(State::new(onward.clone(), "dev", &token, metrics.clone()));
    let send = async |method: &str, path: &str, bearer: &str, body: String| {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {bearer}"));
        let reply = served.clone().oneshot(request.header("onward-reason", "r").body(Body::from(body)).unwrap()).await.unwrap();
        String::from_utf8(axum::body::to_bytes(reply.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
    };
    let asked = json!({"role": "viewer", "scopes": ["*"], "never_expires": true}).to_string();
    let made: Value = serde_json::from_str(&send("POST", "/v1/admin/tokens", token.secret(), asked).await).unwrap();
    let (id, canary) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap().to_owned());
    let mut seen = String::new();
    for (method, path, bearer) in [
        ("GET", "/v1/admin/tokens".to_owned(), token.secret()),
        ("GET", format!("/v1/admin/tokens/{id}"), token.secret()),
        ("GET", "/v1/chains/onward.admin/entries".to_owned(), token.secret()),
        ("GET", "/v1/info".to_owned(), &canary),
        ("DELETE", "/v1/cache/web".to_owned(), &canary),
        ("GET", format!("/v1/objects/doc/{canary}"), &format!("{canary}x")),
        ("DELETE", format!("/v1/admin/tokens/{id}"), token.secret()),
        ("GET", "/v1/info".to_owned(), &canary),
    ] {
        seen += &send(method, &path, bearer, String::new()).await;
    }
    seen += &metrics.text();
    let chain = onward.audit().chain_of_ours("onward.admin").unwrap();
    for seq in 1..=3 {
        seen += &format!("{:?}", chain.get(Seq::new(seq).unwrap()).await.unwrap());
    }
    seen += &format!("{token:?} {:?}", State::new(onward, "dev", &token, metrics));
    let secrets = [canary.as_str(), &canary[17..60], token.secret(), &token.secret()[17..60]];
    assert!(seen.contains(id) && secrets.iter().all(|secret| !seen.contains(secret)), "{seen}");
}

#[tokio::test]
async fn a_token_that_sends_too_much_is_told_when_to_come_back() {
    let clock = Clock::manual();
    let onward = Onward::connect(Config::new("memory:").with_clock(clock.clone())).await.unwrap();
    let token = Token::draw();
    let state = State::new(onward, "dev", &token, Arc::default()).with_rate(Rate { per_second: 1, burst: 2 });
    let served = Client::of(state, &token);
    for _ in 0..2 {
        assert_eq!(served.get("/v1/info").await.status, 200);
    }
    let refused = served.get("/v1/info").await;
    let problem = refused.is_problem(429, "rate_limited");
    assert_eq!((problem["retry_after_ms"].as_u64(), refused.header("retry-after")), (Some(1_000), "1"));
    served.with_token("wrong").get("/v1/info").await.is_problem(401, "unauthenticated");
    clock.advance(Duration::from_secs(1));
    assert_eq!(served.get("/v1/info").await.status, 200);
}

#[tokio::test]
async fn a_token_has_so_many_streams_and_leaves_the_others_theirs() {
    let client = Client::limited(Limits { streams_per_token: 2, ..Limits::default() }).await;
    let (_, caller) = client.token("viewer", &["*"]).await;
    let held = (caller.try_events("/v1/watch").await.unwrap(), caller.try_events("/v1/watch").await.unwrap());
    caller.get("/v1/watch").await.is_problem(429, "rate_limited");
    assert!(client.try_events("/v1/watch").await.is_some(), "another token");
    drop(held);
}

#[tokio::test]
async fn an_act_is_told_before_and_after_and_a_refused_one_once_a_minute() {
    let clock = Clock::manual();
    let client = Client::by_clock(clock.clone()).await;
    let (_, writer) = client.token("writer", &["*"]).await;
    client.send("DELETE", "/v1/cache/web", &[("onward-reason", "bad%20deploy")], "").await;
    let acts = |kind: &'static str| {
        let client = client.clone();
        async move { client.get(&format!("/v1/chains/onward.admin/entries?kind={kind}")).await.json()["items"].as_array().unwrap().clone() }
    };
    let flushed = acts("cache.flush").await;
    let data: Vec<Value> = flushed.iter().map(|entry| serde_json::from_str(entry["data"].as_str().unwrap()).unwrap()).collect();
    assert_eq!((&data[0]["state"], &data[1]["state"], data.len()), (&json!("begun"), &json!("done"), 2));
    assert_eq!(
        (&data[1]["reason"], &flushed[1]["actor"], &flushed[1]["resource"]),
        (&json!("bad deploy"), &json!("dev"), &json!("/v1/cache/web"))
    );
    for _ in 0..3 {
        writer.send("DELETE", "/v1/cache/web", &[("onward-reason", "x")], "").await.is_problem(403, "forbidden");
        writer.send("DELETE", "/v1/locks/a?break=true", &[("onward-reason", "x")], "").await.is_problem(403, "forbidden");
    }
    let refused = acts("refused").await;
    assert_eq!((refused.len(), &refused[0]["actor"]), (1, &json!("t-writer")));
    clock.advance(Duration::from_secs(60));
    writer.send("DELETE", "/v1/locks/a?break=true", &[("onward-reason", "x")], "").await.is_problem(403, "forbidden");
    assert_eq!(acts("refused").await.len(), 2);
}

#[tokio::test]
async fn request_ids_are_private_to_the_name_of_a_token() {
    let client = Client::memory().await;
    let (_, other) = client.token("writer", &["*"]).await;
    let id = [("idempotency-key", "same"), ("if-none-match", "*"), ("content-type", "application/json")];
    assert_eq!(client.send("PUT", "/v1/objects/doc/a", &id, "1").await.json()["replayed"], false);
    assert_eq!(client.send("PUT", "/v1/objects/doc/a", &id, "1").await.json()["replayed"], true);
    assert_eq!(other.send("PUT", "/v1/objects/doc/b", &id, "2").await.json()["replayed"], false);
    let entry = |kind: &str| json!({"entries": [{"kind": kind}]}).to_string();
    let id = [("idempotency-key", "again"), ("content-type", "application/json")];
    let mine = client.send("POST", "/v1/chains/main/entries", &id, entry("a")).await.json();
    let theirs = other.send("POST", "/v1/chains/main/entries", &id, entry("b")).await.json();
    assert_eq!((&mine["receipts"][0]["replayed"], &theirs["receipts"][0]["replayed"]), (&json!(false), &json!(false)));
    assert_eq!(client.send("POST", "/v1/chains/main/entries", &id, entry("a")).await.json()["receipts"][0]["replayed"], true);
    // Who was not told how it ended sends the id that the server drew.
    let drawn = client.send("POST", "/v1/chains/main/entries", &id[1..], entry("c")).await;
    let id = [("idempotency-key", drawn.header("onward-request-id")), ("content-type", "application/json")];
    assert_eq!(client.send("POST", "/v1/chains/main/entries", &id, entry("c")).await.json()["receipts"][0]["replayed"], true);
}
