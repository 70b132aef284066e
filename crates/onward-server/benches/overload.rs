//! What is left of a server that is asked three times as much as it can do: its commits, and how soon the rest is refused.
//!
//! `cargo bench -p onward-server --bench overload`. The peak is the most that clients reach who each wait for their answer; their number is
//! the server's bound of requests. Then three times that rate is *sent*, by the clock, over four times as many connections. A refusal's
//! time counts from when its request was sent; the time since that was due is beside it: it holds the clients' own lateness, too. Refused
//! clients do not back off, as ours would. The clients share the machine with the server, so what they do is as much a part of the load as
//! the refusals; three sizes of commits show how much that is.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on fails"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onward::Onward;
use onward_server::{Limits, State, Token};
use wire::{BODY, PLENTY, Wire, serve, spread};

mod wire;

/// Requests that run at once; as many clients reach the peak.
const PLACES: usize = 64;
const CONNECTIONS: usize = 4 * PLACES;
/// Objects that one commit creates.
const WRITES: [usize; 3] = [1, 16, 128];
const BLOCK: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
const OVERLOAD: f64 = 3.0;

/// What came back in a block.
#[derive(Default)]
struct Block {
    sent: usize,
    done: f64,
    /// How long each refusal took, since it was sent and since it was due.
    refused: [Vec<Duration>; 2],
    took: f64,
}

impl Block {
    fn rate(&self) -> f64 {
        self.done / self.took
    }

    fn add(&mut self, mut other: Self) {
        self.sent += other.sent;
        self.done += other.done;
        for (ours, others) in self.refused.iter_mut().zip(&mut other.refused) {
            ours.append(others);
        }
        self.took += other.took;
    }
}

#[tokio::main]
async fn main() {
    for writes in WRITES {
        overload(writes).await;
    }
}

async fn overload(writes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.db");
    let token = Token::draw();
    let onward = Onward::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let state =
        State::new(onward, "bench", &token, Arc::default()).with_rate(PLENTY).with_limits(Limits { requests: PLACES, ..Limits::default() });
    let (address, serving) = serve(state).await;
    let client = Client { address, secret: token.secret().into(), writes };
    let (mut ratios, mut refused) = (Vec::new(), Block::default());
    let warm = client.block("warm", PLACES, None).await;
    let (pace, mut committed) = (warm.rate() * OVERLOAD, warm.done);
    for round in 0..ROUNDS {
        let mut turns = [Block::default(), Block::default()];
        for (turn, overloaded) in [false, true, true, false].into_iter().enumerate() {
            let (connections, pace) = if overloaded { (CONNECTIONS, Some(pace)) } else { (PLACES, None) };
            turns[usize::from(overloaded)].add(client.block(&format!("{round}-{turn}"), connections, pace).await);
        }
        let [peak, over] = turns;
        let ratio = over.rate() / peak.rate();
        println!(
            "  commits of {writes:3}: peak {:7.0} /s   sent {:7.0} /s, committed {:7.0} /s, {ratio:.2} of the peak",
            peak.rate(),
            over.sent as f64 / over.took,
            over.rate(),
        );
        committed += peak.done + over.done;
        ratios.push(ratio);
        refused.add(over);
    }
    serving.abort();
    let file = rusqlite::Connection::open(file).unwrap();
    let stored: u32 = file.query_row("SELECT count(*) FROM onward_objects", [], |row| row.get(0)).unwrap();
    assert_eq!(f64::from(stored), committed * writes as f64, "an acknowledged object is missing");
    let count = refused.refused[0].len();
    let [sent, due] = refused.refused.map(|mut all| {
        all.sort_unstable();
        [0.5, 0.99].map(|share| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3)
    });
    let [middle, least, most] = spread(ratios);
    println!("three times the load, commits of {writes}: {middle:.2} of the peak (from {least:.2} to {most:.2}; bar 0.80)");
    println!(
        "  {count} refused: p50 {:.2} ms, p99 {:.2} ms (bar 50); since they were due p50 {:.2} ms, p99 {:.2} ms",
        sent[0], sent[1], due[0], due[1]
    );
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    secret: Arc<str>,
    writes: usize,
}

impl Client {
    /// Commits for one block, each connection as soon as it has its answer, or all together at a pace.
    async fn block(&self, name: &str, connections: usize, pace: Option<f64>) -> Block {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Wire::connect(self.address).await);
        }
        let begun = Instant::now();
        let clients = open.into_iter().enumerate().map(|(number, wire)| {
            let (client, name) = (self.clone(), format!("{name}-{number}"));
            let every = pace.map(|pace| Duration::from_secs_f64(connections as f64 / pace));
            // Nobody sends at the same moment as the others.
            let first = every.map(|every| begun + every.mul_f64(number as f64 / connections as f64));
            tokio::spawn(async move { client.commits(wire, &name, begun + BLOCK, first.zip(every)).await })
        });
        let mut block = Block::default();
        for client in clients.collect::<Vec<_>>() {
            block.add(client.await.unwrap());
        }
        block.took = begun.elapsed().as_secs_f64();
        block
    }

    async fn commits(&self, mut wire: Wire, name: &str, end: Instant, pace: Option<(Instant, Duration)>) -> Block {
        let mut block = Block::default();
        let mut buffer = vec![0; 256 * 1024];
        let mut due = pace.map_or_else(Instant::now, |(first, _)| first);
        while due < end {
            tokio::time::sleep_until(due.into()).await;
            let request = self.request(&format!("{name}-{}", block.sent));
            block.sent += 1;
            let sent = Instant::now();
            match wire.exchange(&request, &mut buffer).await {
                200 => block.done += 1.0,
                503 => {
                    block.refused[0].push(sent.elapsed());
                    block.refused[1].push(due.elapsed());
                }
                other => panic!("{other}: {}", String::from_utf8_lossy(&buffer[..500])),
            }
            due = pace.map_or_else(Instant::now, |(_, every)| due + every);
        }
        block
    }

    fn request(&self, name: &str) -> Vec<u8> {
        let mut body = String::from(r#"{"writes":["#);
        for number in 0..self.writes {
            let comma = if number == 0 { "" } else { "," };
            write!(body, r#"{comma}{{"op":"create","kind":"bench","name":"{name}-{number}","payload":"{}"}}"#, "x".repeat(BODY - 2))
                .unwrap();
        }
        body.push_str("]}");
        format!(
            "POST /v1/commit HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n\
             {body}",
            self.address,
            self.secret,
            body.len()
        )
        .into_bytes()
    }
}
