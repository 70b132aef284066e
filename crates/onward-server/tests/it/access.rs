use axum::body::Body;
use http::Request;
use onward::Onward;
use onward_server::{Least, ROUTES, Server, State, Token, router};
use tower::ServiceExt;

use crate::support::Client;

pub(crate) fn concrete(path: &str) -> String {
    path.replace("{*name}", "a")
        .replace("{*key}", "a")
        .replace("{id}", "a")
        .replace("{seq}", "1")
        .replace("{kind}", "doc")
        .replace("{namespace}", "web")
        .replace("{chain}", "main")
}

#[tokio::test]
async fn every_route_that_is_not_open_asks_for_a_token_and_tells_nothing() {
    let client = Client::memory().await;
    for (path, methods) in ROUTES {
        for (method, least) in *methods {
            let reply = client.raw(Request::builder().method(*method).uri(concrete(path)).body(Body::empty()).unwrap()).await;
            if *least == Least::Open {
                assert_eq!(reply.status, 200, "{path}");
            } else {
                reply.is_problem(401, "unauthenticated");
                assert_eq!(reply.header("www-authenticate"), "Bearer");
            }
        }
    }
}

#[tokio::test]
async fn every_wrong_credential_gets_the_same_answer() {
    let client = Client::memory().await;
    let mut answers = Vec::new();
    for credential in ["", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", &format!("Bearer {}", Token::draw().secret()), &"x".repeat(5_000)]
    {
        let request = Request::builder().uri("/v1/objects/doc/a").header("authorization", credential).body(Body::empty()).unwrap();
        let mut problem = client.raw(request).await.is_problem(401, "unauthenticated");
        problem["request_id"].take();
        answers.push(problem);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn an_embedded_state_asks_for_no_token_and_is_never_put_behind_a_socket() {
    let state = State::embedded(Onward::open("memory:").await.unwrap());
    let request = Request::builder().uri("/v1/info").body(Body::empty()).unwrap();
    assert_eq!(router(state.clone()).oneshot(request).await.unwrap().status(), 200);
    assert!(Server::bind("127.0.0.1:0".parse().unwrap(), state).await.is_err());
    let served = State::new(Onward::open("memory:").await.unwrap(), "dev", &Token::draw(), std::sync::Arc::default());
    assert!(Server::bind("0.0.0.0:0".parse().unwrap(), served).await.is_err(), "loopback only");
}

#[tokio::test]
async fn an_embedded_caller_is_the_actor_that_he_says() {
    let onward = Onward::open("memory:").await.unwrap();
    let router = router(State::embedded(onward.clone()));
    let body = r#"{"entries":[{"kind":"a","actor":"user:7"}]}"#;
    let request = Request::builder().method("POST").uri("/v1/chains/main/entries").body(Body::from(body)).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), 201);
    let entry = onward.audit().chain("main").unwrap().get(onward::model::Seq::new(2).unwrap()).await.unwrap();
    assert_eq!(entry.actor.as_deref(), Some("user:7"));
}
