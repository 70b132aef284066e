//! One more than there may be is refused at once, and the place comes back.

use onward_server::{Limits, Rate};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Client, Live, answer, rest, soon};

const OWNERS: [&str; 3] = ["00000000000000000000000000000001", "00000000000000000000000000000002", "00000000000000000000000000000003"];

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let live = Live::start_limited(Limits { connections: 1, ..Limits::default() }).await;
    let request = format!("{}\r\n", live.head("GET /v1/info"));
    let mut first = live.connect().await;
    first.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut first).await.0, 200);
    assert_eq!(rest(&mut live.connect().await).await, "");
    live.shows("onward_connections_refused_total{reason=\"limit\"} 1").await;
    // The one that is in goes on, and leaves its place.
    first.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut first).await.0, 200);
    drop(first);
    let back = async {
        while live.exchange(request.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon(back).await;
}

#[tokio::test]
async fn one_request_too_many_is_shed_and_a_body_that_does_not_come_is_not_waited_for() {
    let live = Live::start_limited(Limits { requests: 0, ..Limits::default() }).await;
    // One that does not come, one that is too long to be read in vain, and one that nobody asks for.
    for head in ["Content-Length: 2", "Content-Length: 300000", "Content-Length: 2\r\nExpect: 100-continue"] {
        let mut stream = live.connect().await;
        stream.write_all(format!("{}{head}\r\n\r\n", live.head("POST /v1/commit")).as_bytes()).await.unwrap();
        let said = rest(&mut stream).await;
        assert!(
            said.starts_with("HTTP/1.1 503") && said.contains(r#""code":"overloaded""#) && said.contains(r#""retryable":true"#),
            "{said}"
        );
    }
    live.shows("onward_shed_total{bound=\"requests\"} 3").await;
}

#[tokio::test]
async fn who_is_shed_or_sends_too_much_keeps_the_connection() {
    let full = Live::start_limited(Limits { requests: 0, ..Limits::default() }).await;
    let limited = Live::start_as(|state| state.with_rate(Rate { per_second: 1, burst: 1 })).await;
    for (live, status) in [(full, 503), (limited, 429)] {
        let mut stream = live.connect().await;
        let body = format!("{:60000}", "{}");
        let request = format!("{}Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{body}", live.head("POST /v1/commit"));
        for time in 0..3 {
            stream.write_all(request.as_bytes()).await.unwrap();
            let (got, _) = answer(&mut stream).await;
            assert!(got == status || (time == 0 && status == 429), "{got}");
        }
    }
}

#[tokio::test]
async fn nobody_reads_the_body_of_a_stranger() {
    let live = Live::start_limited(Limits { requests: 0, ..Limits::default() }).await;
    let strangers = ["GET /v1/info HTTP/1.1\r\nHost: localhost\r\n", "GET /docs HTTP/1.1\r\nHost: localhost\r\n"];
    for (head, status) in strangers.into_iter().zip(["401", "503"]) {
        let said = live.exchange(format!("{head}Content-Length: 2\r\n\r\n{{}}")).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains("connection: close"), "{said}");
    }
}

#[tokio::test]
async fn a_slow_body_holds_no_place_of_a_request() {
    let live = Live::start_limited(Limits { requests: 1, ..Limits::default() }).await;
    let mut slow = live.connect().await;
    let head = live.head("POST /v1/commit");
    slow.write_all(format!("{head}Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").as_bytes())
        .await
        .unwrap();
    // The body is asked for when the request was admitted.
    let mut line = [0; 25];
    soon(tokio::io::AsyncReadExt::read_exact(&mut slow, &mut line)).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    let mut second = live.connect().await;
    second.write_all(format!("{}\r\n", live.head("GET /v1/info")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut second).await.0, 200);
    slow.write_all(b"{}").await.unwrap();
    assert_eq!(answer(&mut slow).await.0, 400);
}

#[tokio::test]
async fn one_waiter_too_many_is_refused_and_holds_no_place() {
    let client = Client::limited(Limits { waits: 1, requests: 2, ..Limits::default() }).await;
    let acquire = async |owner: usize, wait_ms: u64| {
        client.post("/v1/locks/k", json!({"owner": OWNERS[owner], "ttl_ms": 60_000, "wait_ms": wait_ms})).await
    };
    assert_eq!(acquire(0, 0).await.status, 201);
    let refused_then_released = async {
        // The one that waits has left its place among the running requests, but a third cannot wait.
        let refused = loop {
            let reply = acquire(2, 1).await;
            if reply.status == 503 {
                break reply;
            }
            assert_eq!(reply.status, 409);
        };
        refused.is_problem(503, "overloaded");
        assert_eq!(client.send("DELETE", "/v1/locks/k", &[("onward-owner", OWNERS[0])], "").await.status, 200);
    };
    let (waiter, ()) = tokio::join!(acquire(1, 20_000), refused_then_released);
    assert_eq!(waiter.status, 201);
    acquire(2, 1).await.is_problem(409, "resource_locked");
}

#[tokio::test]
async fn one_stream_too_many_is_refused_and_a_closed_one_leaves_its_place() {
    let client = Client::limited(Limits { streams: 1, ..Limits::default() }).await;
    let mut first = client.events("/v1/watch", &[]).await;
    first.next_of("open").await;
    client.get("/v1/watch").await.is_problem(503, "overloaded");
    drop(first);
    let mut opened = None;
    while opened.is_none() {
        opened = client.try_events("/v1/watch").await;
        tokio::task::yield_now().await;
    }
    opened.unwrap().next_of("open").await;
}
