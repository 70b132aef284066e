use std::collections::BTreeSet;
use std::path::Path;

use onward::Code;
use onward_server::{Least, ROUTES};
use serde_json::{Value, json};

use crate::support::Client;

#[tokio::test]
async fn unknown_routes_and_methods_leave_as_problems() {
    let client = Client::memory().await;
    client.get("/").await.is_problem(404, "not_found");
    client.get("/v2/objects/doc/a").await.is_problem(404, "not_found");
    client.get("/v1/nothing").await.is_problem(404, "not_found");
    let reply = client.send("POST", "/v1/objects/doc/a", &[], "").await;
    reply.is_problem(405, "method_not_allowed");
    assert!(reply.header("allow").contains("PUT"), "{:?}", reply.headers);
    for method in ["TRACE", "OPTIONS", "CONNECT", "BREW"] {
        client.send(method, "/v1/info", &[], "").await.is_problem(405, "method_not_allowed");
    }
}

#[tokio::test]
async fn what_the_design_names_and_nobody_built_is_unsupported() {
    let client = Client::memory().await;
    for (method, path) in [("GET", "/v1/chains/main/keys"), ("GET", "/ui")] {
        client.send(method, path, &[], "").await.is_problem(501, "unsupported");
    }
}

#[tokio::test]
async fn the_probes_metrics_and_info_answer() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    assert_eq!(&client.get("/livez").await.body[..], b"live\n");
    assert_eq!(&client.get("/readyz").await.body[..], b"ready\n");
    let info = client.get("/v1/info").await.json();
    assert_eq!((&info["version"], &info["limits"]["payload_bytes"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(1 << 20)));
    assert_eq!(info["engines"].as_array().unwrap().len(), 4);
    let metrics = client.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = r#"http_server_request_duration_seconds_count{method="PUT",route="/v1/objects/{kind}/{*name}",status="201"} 1"#;
    assert!(text.contains(counted), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("doc"), "no names in labels");
}

#[tokio::test]
async fn text_in_headers_is_printable_ascii() {
    let client = Client::memory().await;
    for value in [&b"caf\xc3\xa9"[..], b"\xff", b"a\tb\x80"] {
        let mut request = http::Request::builder().uri("/v1/info").body(axum::body::Body::empty()).unwrap();
        request.headers_mut().insert("x-any", http::HeaderValue::from_bytes(value).unwrap());
        client.raw(request).await.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn deadlines_and_paths_are_bounded() {
    let client = Client::memory().await;
    for bad in ["0", "x", "-1", ""] {
        client.send("GET", "/v1/info", &[("onward-timeout-ms", bad)], "").await.is_problem(400, "invalid_request");
    }
    assert_eq!(client.send("GET", "/v1/info", &[("onward-timeout-ms", "500")], "").await.status, 200);
    let problem = client.get(&format!("/v1/objects/doc?prefix={}", "x".repeat(9_000))).await.is_problem(414, "uri_too_long");
    assert_eq!(problem["limit_bytes"], 8_192);
}

#[tokio::test]
async fn a_write_with_the_shortest_deadline_ends_one_way_and_can_be_settled() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::on(&format!("sqlite:{}", folder.path().join("o.db").display())).await;
    for n in 0..20 {
        let path = format!("/v1/objects/doc/n{n}");
        let reply = client.send("PUT", &path, &[("if-none-match", "*"), ("onward-timeout-ms", "1")], "1").await;
        match reply.status.as_u16() {
            201 => {}
            503 => assert_eq!(reply.is_problem(503, "overloaded")["effect"], "not_applied"),
            _ => assert_eq!(reply.is_problem(504, "outcome_unknown")["effect"], "unknown"),
        }
        let id = reply.header("onward-request-id").to_owned();
        let settled = client.send("PUT", &path, &[("if-none-match", "*"), ("idempotency-key", &id)], "1").await;
        assert_eq!((settled.status.as_u16(), &settled.json()["version"]), (201, &json!(1)));
    }
}

fn description() -> Value {
    serde_json::from_str(onward_api::OPENAPI).unwrap()
}

#[tokio::test]
async fn the_description_is_served_as_it_is_committed() {
    let reply = Client::memory().await.get("/openapi.json").await;
    assert_eq!(&reply.body[..], onward_api::OPENAPI.as_bytes());
    assert_eq!(reply.header("content-type"), "application/json");
}

#[test]
fn the_description_names_every_route_with_its_least_role_and_no_other() {
    let role = |least: Least| match least {
        Least::Open => "open",
        Least::Role(role) => role.word(),
    };
    let routes: BTreeSet<(String, String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(move |(method, least)| (path, method.to_ascii_lowercase(), role(*least).to_owned())))
        .map(|(path, method, role)| (path.replace("{*", "{"), method, role))
        .collect();
    let paths = description()["paths"].clone();
    let mut described = BTreeSet::new();
    for (path, item) in paths.as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method == "parameters" {
                continue;
            }
            assert!(operation["responses"].as_object().is_some_and(|responses| !responses.is_empty()), "{method} {path}");
            assert!(operation["operationId"].is_string(), "{method} {path}");
            let role = operation["x-onward-least-role"].as_str().unwrap_or_default();
            described.insert((path.clone(), method.clone(), role.to_owned()));
        }
    }
    assert_eq!(described, routes);
    for (path, _) in ROUTES {
        let multi = path.contains("{*");
        let marked = paths[path.replace("{*", "{")]["parameters"].to_string().contains("x-onward-multi-segment");
        assert_eq!(multi, marked, "{path}");
    }
}

#[test]
fn the_description_lists_every_code() {
    let listed = description()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].clone();
    let codes: Vec<Value> = Code::ALL.iter().map(|code| json!(code.as_str())).collect();
    assert_eq!(listed, Value::Array(codes));
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    fn walk(value: &Value, root: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    assert!(root.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                members.values().for_each(|value| walk(value, root));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, root)),
            _ => {}
        }
    }
    walk(&description(), &description());
}

/// What a server that only translates never says: engines, and the tools of rules.
const RULES: &[&str] =
    &["MemoryStore", "MemoryLocks", "MemoryCache", "Sqlite", "rusqlite", "onward::engine", "Backoff", "LockEngine", "CacheEngine"];

fn sources(folder: &Path, out: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else {
            out.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_server_names_no_engine_and_holds_no_rule() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    assert!(all.len() > 15);
    for (path, text) in all {
        for word in RULES {
            assert!(!text.contains(word), "{path}: {word}");
        }
    }
}

#[tokio::test]
async fn the_page_for_people_has_every_operation_and_loads_nothing() {
    let client = Client::memory().await;
    let reply = client.raw(http::Request::builder().uri("/docs").body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = reply.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    let page = String::from_utf8(reply.body.to_vec()).unwrap();
    for (path, item) in description()["paths"].as_object().unwrap() {
        assert!(page.contains(path.as_str()), "{path}");
        for operation in item.as_object().unwrap().values().filter_map(|operation| operation["operationId"].as_str()) {
            assert!(page.contains(&format!("<section id=\"{operation}\">")), "{operation}");
        }
    }
    for code in Code::ALL {
        assert!(page.contains(&format!("<code>{}</code>", code.as_str())), "{}", code.as_str());
    }
    for loads in ["<script", "<link", "<img", "<iframe", "@import", "url(", "http://", "https://", " onclick", " style="] {
        assert!(!page.contains(loads), "{loads}");
    }
    // Every link of the page leads somewhere on it.
    for target in page.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
}
