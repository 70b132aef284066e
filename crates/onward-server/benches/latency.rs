//! What HTTP adds to one call that nothing else is asked beside, on each engine, as parts of what a bare axum route takes for 512 bytes.
//!
//! `cargo bench -p onward-server --bench latency`. One connection, medians. Redis and Postgres are private servers.
//! The client has a thread for itself and both servers have theirs, as in two processes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on fails"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::commit::WriteCondition;
use onward::lock::{LockOptions, Release, Renew};
use onward::model::{LockKey, Payload};
use onward::store::{Put, WriteOptions};
use onward::testing::servers::{Postgres, Redis};
use onward::{Config, Onward};
use onward_server::{State, Token};
use tokio::runtime::Handle;
use wire::{BODY, PLENTY, Wire, bare, serve, spread};

mod wire;

const BLOCK: Duration = Duration::from_secs(5);
const OWNER: &str = "00000000000000000000000000000001";
/// Draws names, so that none comes twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Get,
    Create,
    /// A lock taken and given back: two requests.
    Cycle,
}

fn main() {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    client.block_on(engines(servers.handle()));
}

async fn engines(servers: &Handle) {
    let token = Token::draw();
    let bare = servers.spawn(bare()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("bench.db").display());
    let (postgres, redis) = (Postgres::start(), Redis::start());
    let engines = [
        ("memory", Config::new("memory:")),
        ("SQLite", Config::new(sqlite)),
        ("Postgres", Config::new(postgres.url())),
        ("Redis", Config::new("memory:").with_locks_at(redis.url())),
    ];
    for (engine, config) in engines {
        let onward = servers.spawn(Onward::connect(config)).await.unwrap().unwrap();
        let state = State::new(onward.clone(), "bench", &token, Arc::default()).with_rate(PLENTY);
        let (address, serving) = servers.spawn(serve(state)).await.unwrap();
        let served = Served { engine, onward, wire: Wire::connect(address).await, address, secret: token.secret().to_owned() };
        served.measure(bare).await;
        serving.abort();
    }
}

struct Served {
    engine: &'static str,
    onward: Onward,
    wire: Wire,
    address: SocketAddr,
    secret: String,
}

impl Served {
    async fn measure(mut self, bare: SocketAddr) {
        let payload = Payload::new(vec![b'x'; BODY], "text/plain").unwrap();
        self.create("a", &payload).await;
        let mut echo = Wire::connect(bare).await;
        let request = format!("GET /bare HTTP/1.1\r\nHost: {bare}\r\n\r\n").into_bytes();
        let kinds: &[Asked] = if self.engine == "Redis" { &[Asked::Cycle] } else { &[Asked::Get, Asked::Create, Asked::Cycle] };
        for &asked in kinds {
            // By turns, call for call: a thread that was just awake answers sooner than one that sleeps, whoever asks it.
            let (end, mut times) = (Instant::now() + BLOCK, [const { Vec::new() }; 3]);
            while Instant::now() < end {
                times[0].push(time(self.over_http(asked)).await);
                times[1].push(time(async { assert_eq!(echo.exchange(&request, &mut [0; 4_096]).await, 200) }).await);
                times[2].push(time(self.inside(asked, &payload)).await);
            }
            let [over_http, echo, inside] = times.map(|all| spread(all)[0]);
            let (name, bar) = match asked {
                Asked::Get => ("GET", 1.5),
                Asked::Create => ("create", 1.5),
                Asked::Cycle => ("lock taken and given back", 2.6),
            };
            println!(
                "{:8} {name:26} over HTTP {over_http:7.1} us, in process {inside:7.1} us, bare route {echo:5.1} us: HTTP adds {:.2} of it \
                 (bar {bar})",
                self.engine,
                (over_http - inside) / echo
            );
            if self.engine == "memory" && asked == Asked::Get {
                println!("         and takes {:.2} of the bare route (bar 1.35)", over_http / echo);
            }
        }
    }

    async fn over_http(&mut self, asked: Asked) {
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        match asked {
            Asked::Get => assert_eq!(self.ask("GET /v1/objects/bench/a", "", "").await, 200),
            Asked::Create => {
                let body = "x".repeat(BODY);
                let head = "If-None-Match: *\r\nContent-Type: text/plain\r\n";
                assert_eq!(self.ask(&format!("PUT /v1/objects/bench/{name}"), head, &body).await, 201);
            }
            Asked::Cycle => {
                let take = format!(r#"{{"owner":"{OWNER}","ttl_ms":10000}}"#);
                assert_eq!(self.ask("POST /v1/locks/k", "Content-Type: application/json\r\n", &take).await, 201);
                assert_eq!(self.ask("DELETE /v1/locks/k", &format!("Onward-Owner: {OWNER}\r\n"), "").await, 200);
            }
        }
    }

    async fn ask(&mut self, line: &str, head: &str, body: &str) -> u16 {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{head}Content-Length: {}\r\n\r\n{body}",
            self.address,
            self.secret,
            body.len()
        );
        self.wire.exchange(request.as_bytes(), &mut [0; 4_096]).await
    }

    async fn inside(&self, asked: Asked, payload: &Payload) {
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        match asked {
            Asked::Get => assert!(self.onward.store().get_payload(("bench", "a")).await.unwrap().is_some()),
            Asked::Create => self.create(&name.to_string(), payload).await,
            Asked::Cycle => {
                let options = LockOptions::fail().with_renew(Renew::Off).with_wait(Duration::ZERO);
                let grant = self.onward.locks().acquire(&LockKey::raw("k").unwrap(), options).await.unwrap();
                assert_eq!(grant.release().await.unwrap(), Release::Released);
            }
        }
    }

    async fn create(&self, name: &str, payload: &Payload) {
        let store = self.onward.store();
        let put = store.put_payload_if(("bench", name), payload.clone(), WriteCondition::MustCreate, WriteOptions::new());
        assert!(matches!(put.await.unwrap(), Put::Committed(_)));
    }
}

/// Returns how long it takes, in microseconds.
async fn time(call: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    call.await;
    begun.elapsed().as_secs_f64() * 1e6
}
