//! `GET` of a 512-byte object (memory engine, token checked) against a bare axum route with the same bytes, in one run.
//!
//! Then the same `GET` with a token and its limiter against none of both, on the library's router alone.
//!
//! Blocks in the order A B B A, the median of the rounds' ratios, 16 connections. `cargo bench -p onward-server --bench http`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use onward::Onward;
use onward::commit::WriteCondition;
use onward::model::Payload;
use onward::store::WriteOptions;
use onward::time::Clock;
use onward_server::{Orders, Rate, Server, State, Token, router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 16;
const BLOCK: Duration = Duration::from_secs(1);
const ROUNDS: usize = 7;
const BODY: usize = 512;
/// Counted, and never used up.
const PLENTY: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

#[tokio::main]
async fn main() {
    let token = Token::draw();
    let ours = ours(&token).await;
    let bare = bare().await;
    let store = stored().await;
    let with = plain(router(State::new(store.clone(), "bench", &token, Arc::default()).with_rate(PLENTY))).await;
    let without = plain(router(State::embedded(store))).await;
    let ask = |address: SocketAddr, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n", token.secret()).into_bytes()
    };
    compare(("object", ours, ask(ours, "/v1/objects/doc/a")), ("bare", bare, ask(bare, "/bare"))).await;
    compare(("token and limiter", with, ask(with, "/v1/objects/doc/a")), ("none", without, ask(without, "/v1/objects/doc/a"))).await;
}

async fn compare((name, ours, to_ours): (&str, SocketAddr, Vec<u8>), (other, bare, to_bare): (&str, SocketAddr, Vec<u8>)) {
    // Both are warm before anything counts.
    rate(ours, &to_ours).await;
    rate(bare, &to_bare).await;
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let a = rate(ours, &to_ours).await;
        let b = rate(bare, &to_bare).await + rate(bare, &to_bare).await;
        let a = a + rate(ours, &to_ours).await;
        ratios.push(a / b);
        rates.push((a / 2.0, b / 2.0));
    }
    ratios.sort_by(f64::total_cmp);
    for (a, b) in &rates {
        println!("{name} {a:8.0} /s   {other} {b:8.0} /s   ratio {:.2}", a / b);
    }
    println!("median ratio {:.2} (from {:.2} to {:.2})", ratios[ROUNDS / 2], ratios[0], ratios[ROUNDS - 1]);
}

/// A store with the one object.
async fn stored() -> Onward {
    let onward = Onward::open("memory:").await.unwrap();
    let payload = Payload::new(vec![b'x'; BODY], "text/plain").unwrap();
    let store = onward.store();
    let put = store.put_payload_if(("doc", "a"), payload, WriteCondition::MustCreate, WriteOptions::new());
    drop(put.await.unwrap());
    onward
}

async fn ours(token: &Token) -> SocketAddr {
    let state = State::new(stored().await, "bench", token, Arc::default()).with_rate(PLENTY);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), state).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move { server.serve(&Orders::default()).await });
    address
}

async fn bare() -> SocketAddr {
    let body = Bytes::from(vec![b'x'; BODY]);
    plain(Router::new().route("/bare", get(move || std::future::ready(body.clone())))).await
}

async fn plain(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// How many answers a second come back over all connections.
async fn rate(address: SocketAddr, request: &[u8]) -> f64 {
    let clock = Clock::system();
    let begun = clock.now();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(ask_for(address, request.to_vec()))).collect();
    let mut answers = 0.0;
    for client in clients {
        answers += client.await.unwrap();
    }
    answers / clock.now().since(begun).as_secs_f64()
}

async fn ask_for(address: SocketAddr, request: Vec<u8>) -> f64 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let clock = Clock::system();
    let end = clock.now() + BLOCK;
    let mut answers = 0.0;
    let mut buffer = [0; 4_096];
    while clock.now() < end {
        stream.write_all(&request).await.unwrap();
        let mut held = 0;
        loop {
            held += stream.read(&mut buffer[held..]).await.unwrap();
            let head = buffer[..held].windows(4).position(|four| four == b"\r\n\r\n");
            if head.is_some_and(|head| held >= head + 4 + BODY) {
                break;
            }
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"));
        answers += 1.0;
    }
    answers
}
