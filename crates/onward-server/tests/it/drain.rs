use onward_server::Drained;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Live, answer, rest, soon};

async fn read_until(stream: &mut tokio::net::TcpStream, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut piece = [0; 1_024];
        let read = soon(stream.read(&mut piece)).await.unwrap();
        assert!(read > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_to_streams_and_waiters_and_is_clean() {
    let live = Live::start().await;
    let mut stream = live.connect().await;
    stream.write_all(format!("{}\r\n", live.head("GET /v1/watch")).as_bytes()).await.unwrap();
    read_until(&mut stream, "event: open").await;
    let mut holder = live.connect().await;
    holder.write_all(format!("{}Content-Length: 0\r\n\r\n", live.head("POST /v1/locks/k")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut holder).await.0, 201);
    let mut waiter = live.connect().await;
    let wait = r#"{"wait_ms":60000}"#;
    waiter.write_all(format!("{}Content-Length: {}\r\n\r\n{wait}", live.head("POST /v1/locks/k"), wait.len()).as_bytes()).await.unwrap();
    let key = onward::model::LockKey::raw("k").unwrap();
    while live.onward.locks().status(&key).await.unwrap().unwrap().waiters == 0 {
        tokio::task::yield_now().await;
    }
    live.stop();
    let said = rest(&mut stream).await;
    assert!(said.contains("event: bye") && said.contains("draining"), "{said}");
    let said = rest(&mut waiter).await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("\"draining\""), "{said}");
    // An idle connection is closed too.
    assert_eq!(rest(&mut holder).await, "");
    live.shows("onward_stream_end_total{kind=\"watch\",reason=\"draining\"} 1").await;
    live.shows("onward_draining 1").await;
    assert_eq!(live.ended().await, Drained::Clean);
}

#[tokio::test]
async fn a_request_in_flight_is_answered_and_a_new_connection_is_not() {
    let live = Live::start().await;
    let mut stream = live.connect().await;
    let head = format!("{}If-None-Match: *\r\nContent-Length: 2\r\n\r\n1", live.head("PUT /v1/objects/doc/a"));
    stream.write_all(head.as_bytes()).await.unwrap();
    // The request has arrived when another one on a later connection was answered.
    let mut probe = live.connect().await;
    probe.write_all(format!("{}\r\n", live.head("GET /livez")).as_bytes()).await.unwrap();
    assert_eq!(answer(&mut probe).await.0, 200);
    live.stop();
    assert_eq!(rest(&mut probe).await, "");
    stream.write_all(b"2").await.unwrap();
    let said = rest(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 201") && said.contains("connection: close"), "{said}");
    let address = live.address;
    assert_eq!(live.ended().await, Drained::Clean);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
