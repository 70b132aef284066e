//! `GET` of an object over HTTP against a bare axum route with the same 512 bytes, in one run, in this process.
//!
//! `cargo bench -p onward-server --bench http`. The ratio decides. The server runs with everything on: token, limits, metrics. Each answer
//! is checked to be a 200 with the whole body.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use onward::model::Payload;
use onward::store::WriteOptions;
use onward::{Config, Onward};
use onward_server::{Metrics, Server, State, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROUNDS: usize = 5;
const BLOCK: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 16;
const BYTES: usize = 512;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let token = Token::draw();
        let (ours, bare) = (ours(&token).await, bare().await);
        let ours = Target { address: ours, request: request(ours, "/v1/objects/bench/one", token.secret()) };
        let bare = Target { address: bare, request: request(bare, "/bare", token.secret()) };
        for (connections, bar) in [(CONNECTIONS, "bar 0.70"), (1, "no bar")] {
            let mut rates = [Vec::new(), Vec::new()];
            let mut times = [Vec::new(), Vec::new()];
            for round in 0..=ROUNDS {
                // A B, then B A: a drift of the machine meets both.
                let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
                for side in order {
                    let (rate, p50) = load(if side == 0 { &ours } else { &bare }, connections).await;
                    // The first round warms up.
                    if round > 0 {
                        rates[side].push(rate);
                        times[side].push(p50.as_secs_f64() * 1e6);
                    }
                }
            }
            let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(ours, bare)| ours / bare).collect();
            let [least, most] = [ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max)];
            let [[our_rate, our_time], [bare_rate, bare_time]] = [0, 1].map(|side| [median(&mut rates[side]), median(&mut times[side])]);
            println!("{connections} connections");
            println!("  onward, GET of an object: {our_rate:>8.0} requests/s, p50 {our_time:>6.0} us");
            println!("  bare axum route:          {bare_rate:>8.0} requests/s, p50 {bare_time:>6.0} us");
            println!("  ratio:                    {:>8.2}   ({bar}; rounds {least:.2} to {most:.2})", median(&mut ratios.clone()));
        }
    });
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    request: Bytes,
}

fn request(host: SocketAddr, path: &str, token: &str) -> Bytes {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n").into()
}

fn body() -> Vec<u8> {
    let mut body = b"{\"text\":\"".to_vec();
    body.resize(BYTES - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

/// Serves an object on the memory engine, as a user does.
async fn ours(token: &Token) -> SocketAddr {
    let onward = Onward::connect(Config::new("memory:")).await.unwrap();
    let payload = Payload::new(body(), "application/json").unwrap();
    onward.store().overwrite(("bench", "one"), payload, WriteOptions::new()).await.unwrap();
    let state = State::new(onward, "bench", token, Arc::new(Metrics::default()));
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), state).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.serve(std::future::pending()));
    address
}

/// Serves the same bytes and does nothing else.
async fn bare() -> SocketAddr {
    let body = Bytes::from(body());
    let answer = move || {
        let body = body.clone();
        async move { ([(http::header::CONTENT_TYPE, "application/json")], body) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/bare", get(answer))).await });
    address
}

/// Asks on some connections, one request after the other on each, for one block; returns requests a second and the median time.
async fn load(target: &Target, connections: usize) -> (f64, Duration) {
    let started = Instant::now();
    let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(ask(target.address, target.request.clone(), started))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.unwrap());
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times[times.len() / 2])
}

async fn ask(address: SocketAddr, request: Bytes, started: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut times, mut buffer) = (Vec::new(), vec![0; 8_192]);
    while started.elapsed() < BLOCK {
        let sent = Instant::now();
        stream.write_all(&request).await.unwrap();
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..]).await.unwrap();
            assert!(read > 0, "the server hung up");
            filled += read;
            if let Some(head) = buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n")
                && filled >= head + 4 + BYTES
            {
                break head + 4;
            }
        };
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..head]));
        assert_eq!(filled, head + BYTES, "more or less than the object");
        times.push(sent.elapsed());
    }
    times
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
