//! `GET` of a 512-byte object (memory engine, token checked) against a bare axum route with the same bytes, in one run.
//!
//! Then the same `GET` with a token and its limiter against none of both, on the library's router alone; and creates on SQLite over 64
//! connections, against 64 tasks of the library.
//!
//! Blocks in the order A B B A, the median of the rounds' ratios, 16 connections. `cargo bench -p onward-server --bench http [-- creates]`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use onward::Onward;
use onward::commit::WriteCondition;
use onward::model::Payload;
use onward::store::{Put, WriteOptions};
use onward::time::Clock;
use onward_server::{State, Token, router};
use wire::{BODY, PLENTY, Wire, bare, plain, serve, spread};

mod wire;

const CONNECTIONS: usize = 16;
/// Who create at once.
const WRITERS: usize = 64;
const BLOCK: Duration = Duration::from_secs(1);
const ROUNDS: usize = 7;

#[tokio::main]
async fn main() {
    let token = Token::draw();
    if std::env::args().any(|arg| arg == "creates") {
        return creates(&token).await;
    }
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
    creates(&token).await;
}

/// Creates over 64 connections against creates by 64 tasks, each round on files of its own; what was acknowledged is counted in the file.
async fn creates(token: &Token) {
    let folder = tempfile::tempdir().unwrap();
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let open = async |side: &str| {
            Onward::open(&format!("sqlite:{}", folder.path().join(format!("{round}-{side}.db")).display())).await.unwrap()
        };
        let (served, used) = (open("http").await, open("library").await);
        let (address, serving) = serve(State::new(served.clone(), "bench", token, Arc::default()).with_rate(PLENTY)).await;
        let secret = token.secret();
        let over_http = many(|writer| put_over_http(address, secret.to_owned(), writer)).await;
        let in_process = many(|writer| put(used.clone(), writer)).await;
        serving.abort();
        // How many share a transaction, on each side: all of one have its time.
        let shared = [("http", over_http), ("library", in_process)].map(|(side, done)| {
            let file = rusqlite::Connection::open(folder.path().join(format!("{round}-{side}.db"))).unwrap();
            let counts = "SELECT count(*), count(DISTINCT updated_at) FROM onward_objects";
            let (stored, transactions): (u32, u32) = file.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(f64::from(stored), done.0, "an acknowledged object is missing");
            stored / transactions
        });
        println!(
            "creates over HTTP {:8.0} /s, {} at a time   in process {:8.0} /s, {} at a time   ratio {:.2}",
            over_http.1,
            shared[0],
            in_process.1,
            shared[1],
            over_http.1 / in_process.1
        );
        ratios.push(over_http.1 / in_process.1);
    }
    let [middle, least, most] = spread(ratios);
    println!("creates, 64 clients / 64 tasks: median {middle:.2} (from {least:.2} to {most:.2}; bar 0.85)");
}

/// Runs 64 writers for a block; returns what they did, and a second.
async fn many<F: Future<Output = f64> + Send + 'static>(writer: impl Fn(usize) -> F) -> (f64, f64) {
    let clock = Clock::system();
    let begun = clock.now();
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(writer(number))).collect();
    let mut done = 0.0;
    for writer in writers {
        done += writer.await.unwrap();
    }
    (done, done / clock.now().since(begun).as_secs_f64())
}

async fn put(onward: Onward, writer: usize) -> f64 {
    let (store, clock) = (onward.store(), Clock::system());
    let payload = Payload::new(vec![b'x'; BODY], "text/plain").unwrap();
    let (end, mut done) = (clock.now() + BLOCK, 0.0);
    while clock.now() < end {
        let key = ("bench", format!("{writer}-{done}"));
        let put = store.put_payload_if(key, payload.clone(), WriteCondition::MustCreate, WriteOptions::new()).await.unwrap();
        assert!(matches!(put, Put::Committed(_)));
        done += 1.0;
    }
    done
}

async fn put_over_http(address: SocketAddr, token: String, writer: usize) -> f64 {
    let mut wire = Wire::connect(address).await;
    let clock = Clock::system();
    let (end, mut done) = (clock.now() + BLOCK, 0.0);
    let mut buffer = [0; 4_096];
    while clock.now() < end {
        let mut request = format!(
            "PUT /v1/objects/bench/{writer}-{done} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nIf-None-Match: *\r\n\
             Content-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n"
        );
        request.extend(std::iter::repeat_n('x', BODY));
        assert_eq!(wire.exchange(request.as_bytes(), &mut buffer).await, 201);
        done += 1.0;
    }
    done
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
    for (a, b) in &rates {
        println!("{name} {a:8.0} /s   {other} {b:8.0} /s   ratio {:.2}", a / b);
    }
    let [middle, least, most] = spread(ratios);
    println!("median ratio {middle:.2} (from {least:.2} to {most:.2})");
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
    serve(State::new(stored().await, "bench", token, Arc::default()).with_rate(PLENTY)).await.0
}

/// How many answers a second come back over all connections.
async fn rate(address: SocketAddr, request: &[u8]) -> f64 {
    let clock = Clock::system();
    let begun = clock.now();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(ask_for(address, request.to_vec()))).collect();
    let mut answers = 0;
    for client in clients {
        answers += client.await.unwrap();
    }
    f64::from(answers) / clock.now().since(begun).as_secs_f64()
}

/// Asks for one block on one connection; returns how many answers came.
async fn ask_for(address: SocketAddr, request: Vec<u8>) -> u32 {
    let mut wire = Wire::connect(address).await;
    let clock = Clock::system();
    let (end, mut answers) = (clock.now() + BLOCK, 0);
    let mut buffer = [0; 4_096];
    while clock.now() < end {
        assert_eq!(wire.exchange(&request, &mut buffer).await, 200);
        answers += 1;
    }
    answers
}
