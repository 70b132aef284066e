//! Whole requests to the router: line, headers, body. Any answer but a server error, and every refusal a problem document.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt;
use onward::time::Clock;
use onward::{Config, Onward, retry};
use onward_server::{Metrics, State, Token, router};
use tower::ServiceExt;

use crate::engine::{corpus, fuzz};

async fn server() -> (Router, Onward, String) {
    let metrics = Arc::new(Metrics::default());
    let onward = Onward::connect(Config::new("memory:").with_observer(metrics.clone())).await.unwrap();
    let token = Token::draw();
    let state = State::new(onward.clone(), "fuzz", &token, metrics);
    (router(state), onward, token.secret().to_owned())
}

/// `METHOD PATH`, a header a line, an empty line, the body. What is no request for the HTTP layer itself is none for us.
fn request(input: &[u8], token: &str) -> Option<http::Request<Body>> {
    let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let head = std::str::from_utf8(&input[..end]).ok()?;
    let body = input.get(end + 2..).unwrap_or_default().to_vec();
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = http::Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    request.body(Body::from(body)).ok()
}

#[test]
fn no_request_is_a_server_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (router, onward, token) = runtime.block_on(server());
    let clock = Clock::system();
    let mut answered = 0_u64;
    fuzz("requests", |input| {
        let Some(request) = request(input, &token) else { return };
        runtime.block_on(async {
            // Whoever waits for a lock or a change leaves again: nothing may depend on his staying.
            let Some(answer) = retry::deadline(&clock, clock.now() + Duration::from_millis(20), router.clone().oneshot(request)).await
            else {
                return;
            };
            let answer = answer.unwrap();
            answered += 1;
            let status = answer.status();
            let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
            assert!(!status.is_server_error() || matches!(status.as_u16(), 501 | 503), "{status}");
            if kind.starts_with("text/event-stream") {
                return;
            }
            let body = answer.into_body().collect();
            let Some(body) = retry::deadline(&clock, clock.now() + Duration::from_secs(10), body).await else {
                panic!("a body without an end");
            };
            let body = body.unwrap().to_bytes();
            if status.is_client_error() && !body.is_empty() {
                assert_eq!(kind, "application/problem+json", "{status}");
                let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
                assert_eq!(problem["status"], status.as_u16());
                assert!(problem["code"].is_string());
            }
        });
    });
    assert!(answered > 100, "{answered} requests were answered");
    // It still works.
    let works = runtime.block_on(async { onward.store().create(("thing", "after"), &1).await.is_ok() });
    assert!(works);
}

/// Spoilt input is only as good as what it was: most of the corpus must be taken as it is, one request after the other.
#[test]
fn most_of_the_corpus_is_taken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (router, _onward, token) = runtime.block_on(server());
    let all = corpus("requests");
    let mut refused = Vec::new();
    for input in &all {
        let request = request(input, &token).expect("a request");
        let line = String::from_utf8_lossy(input).lines().next().unwrap_or_default().to_owned();
        let status = runtime.block_on(router.clone().oneshot(request)).unwrap().status();
        if !status.is_success() {
            refused.push(format!("{status} {line}"));
        }
    }
    assert!(refused.len() * 5 <= all.len(), "{refused:#?}");
}
