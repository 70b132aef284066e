use std::time::Duration;

use onward_server::Timeouts;
use tokio::io::AsyncWriteExt;

use crate::support::{Live, answer, rest};

#[tokio::test]
async fn a_body_over_its_limit_is_refused_before_it_is_read() {
    let live = Live::start().await;
    // Only the head is sent: the answer does not wait for what is declared.
    let head = format!("{}If-None-Match: *\r\nContent-Length: 1048577\r\n\r\n", live.head("PUT /v1/objects/doc/a"));
    let said = live.exchange(head).await;
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("payload_too_large") && said.contains("1048576"), "{said}");
    assert!(said.contains("connection: close"));
}

#[tokio::test]
async fn a_chunked_body_over_its_limit_is_cut_off() {
    let live = Live::start().await;
    let mut stream = live.connect().await;
    let head = format!("{}If-None-Match: *\r\nTransfer-Encoding: chunked\r\n\r\n", live.head("PUT /v1/objects/doc/a"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // One piece more than fits, and no end.
    for _ in 0..17 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let (status, body) = answer(&mut stream).await;
    assert_eq!(status, 413, "{body}");
    assert!(live.onward.store().get_payload(("doc", "a")).await.unwrap().is_none());
}

#[tokio::test]
async fn bad_chunks_and_cut_bodies_write_nothing() {
    let live = Live::start().await;
    let head = format!("{}If-None-Match: *\r\nTransfer-Encoding: chunked\r\n\r\n", live.head("PUT /v1/objects/doc/a"));
    let said = live.exchange(format!("{head}zz\r\nxx\r\n0\r\n\r\n")).await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    let mut stream = live.connect().await;
    let head = format!("{}If-None-Match: *\r\nContent-Length: 10\r\n\r\nabc", live.head("PUT /v1/objects/doc/a"));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    rest(&mut stream).await;
    assert!(live.onward.store().get_payload(("doc", "a")).await.unwrap().is_none());
}

#[tokio::test]
async fn nobody_without_a_token_gets_a_body_read() {
    let live = Live::start().await;
    let head = format!(
        "PUT /v1/objects/doc/a HTTP/1.1\r\nHost: {}\r\nIf-None-Match: *\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
        live.address
    );
    let mut stream = live.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    // Not 100: the refusal comes while the body is still with the client.
    assert_eq!(answer(&mut stream).await.0, 401);
}

#[tokio::test]
async fn a_compressed_body_is_not_taken() {
    let live = Live::start().await;
    let head = format!("{}If-None-Match: *\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", live.head("PUT /v1/objects/doc/a"));
    assert!(live.exchange(head).await.starts_with("HTTP/1.1 415"));
}

#[tokio::test]
async fn a_foreign_host_is_misdirected() {
    let live = Live::start().await;
    for host in ["evil.example", "evil.example:7337", "127.0.0.1.evil.example"] {
        let head = format!("GET /v1/info HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", live.token);
        let said = live.exchange(head).await;
        assert!(said.starts_with("HTTP/1.1 421") && said.contains("misdirected"), "{said}");
    }
    let two = format!("GET /v1/info HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nAuthorization: Bearer {}\r\n\r\n", live.token);
    assert!(live.exchange(two).await.starts_with("HTTP/1.1 400"));
    let none = format!("GET /v1/info HTTP/1.1\r\nAuthorization: Bearer {}\r\n\r\n", live.token);
    assert!(live.exchange(none).await.starts_with("HTTP/1.1 400"));
    let ours = format!("GET /v1/info HTTP/1.1\r\nHost: LocalHost:1\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n", live.token);
    let said = live.exchange(ours).await;
    assert!(said.starts_with("HTTP/1.1 200") && !said.contains("access-control"), "{said}");
}

#[tokio::test]
async fn a_head_that_is_too_long_or_no_http_is_refused_and_closed() {
    let live = Live::start().await;
    let long = format!("{}X-Long: {}\r\n\r\n", live.head("GET /v1/info"), "x".repeat(20_000));
    assert!(live.exchange(long).await.starts_with("HTTP/1.1 431"));
    let many = format!("{}{}\r\n", live.head("GET /v1/info"), "X: y\r\n".repeat(101));
    assert!(live.exchange(many).await.starts_with("HTTP/1.1 431"));
    assert!(live.exchange("HELO\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let folded = format!("{}X-Fold: a\r\n b\r\n\r\n", live.head("GET /v1/info"));
    assert!(live.exchange(folded).await.starts_with("HTTP/1.1 400"));
    let long_path = format!("{}\r\n", live.head(&format!("GET /v1/objects/doc/{}", "x".repeat(9_000))));
    let said = live.exchange(long_path).await;
    assert!(said.starts_with("HTTP/1.1 414") && said.contains("uri_too_long"), "{said}");
}

#[tokio::test]
async fn a_silent_socket_and_a_slow_head_are_closed_in_time() {
    let live = Live::start_with(Timeouts { head: Duration::from_millis(300), ..Timeouts::default() }).await;
    let mut silent = live.connect().await;
    let mut slow = live.connect().await;
    slow.write_all(b"GET /v1/info HTT").await.unwrap();
    let mut idle = live.connect().await;
    idle.write_all(format!("{}\r\n", live.head("GET /v1/info")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut idle).await.0, 200);
    // Each is read to its end: the server closes it.
    let closed = tokio::join!(rest(&mut silent), rest(&mut slow), rest(&mut idle));
    assert_eq!(closed, (String::new(), String::new(), String::new()));
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let live = Live::start_with(Timeouts { body: Duration::from_millis(200), ..Timeouts::default() }).await;
    let head = format!("{}If-None-Match: *\r\nContent-Length: 10\r\n\r\nabc", live.head("PUT /v1/objects/doc/a"));
    let said = live.exchange(head).await;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("request_timeout") && said.contains("connection: close"), "{said}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_holds_little() {
    let live = Live::start_with(Timeouts { stalled: Duration::from_millis(300), ..Timeouts::default() }).await;
    let mut stream = live.connect().await;
    stream.write_all(format!("{}\r\n", live.head("GET /v1/watch?from=0")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, 200);
    // More than the sockets' own buffers hold.
    let payload = onward::model::Payload::new(vec![b'x'; 1 << 20], "text/plain").unwrap();
    for n in 0..24 {
        let condition = onward::commit::WriteCondition::MustCreate;
        let options = onward::store::WriteOptions::new();
        drop(live.onward.store().put_payload_if(("doc", n.to_string()), payload.clone(), condition, options).await.unwrap());
    }
    // The stream of bytes ends early, and no event says goodbye: nobody was there to read it.
    live.shows("onward_streams{kind=\"watch\"} 0").await;
    live.shows("onward_connections 0").await;
    let said = rest(&mut stream).await;
    assert!(said.len() < 24 << 20 && !said.contains("event: bye"), "{}", said.len());
}

#[tokio::test]
async fn an_answer_over_an_unread_body_says_that_the_connection_ends() {
    let live = Live::start().await;
    for line in ["PUT /v1/objects/p/a", "GET /v1/info", "POST /v1/nowhere", "TRACE /v1/info"] {
        let said = live.exchange(format!("{}Content-Length: 2\r\n\r\n", live.head(line))).await;
        assert!(said.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{line}: {said}");
    }
    // A body that was read costs no connection, however the answer is.
    let mut stream = live.connect().await;
    for status in [201, 412] {
        let head = live.head("PUT /v1/objects/p/a");
        stream
            .write_all(format!("{head}Content-Type: application/json\r\nIf-None-Match: *\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes())
            .await
            .unwrap();
        assert_eq!(answer(&mut stream).await.0, status);
    }
}
