//! Many watchers of one server: what an idle event stream costs, and what watchers cost the writers.
//!
//! `cargo bench -p onward-server --bench streams [-- --quick] [-- --idle N]`. Memory is the growth of this process by idle streams, divided
//! by them: the clients' ends live here too, so it is an upper bound. Commits go through the library and events over TCP, in one process on
//! the memory engine, so that the disk has no say. Each part checks what it got.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot go on fails"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onward::Onward;
use onward::model::Payload;
use onward::store::{Store, WriteOptions};
use onward_server::{Limits, Orders, Server, State, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const WATCHERS: usize = 100;
const WRITERS: usize = 8;
/// Commits a second where the writers keep a pace: what the watchers are sent is the hundredfold.
const PACES: [u32; 3] = [1_000, 4_000, 8_000];

struct Plan {
    idle: usize,
    rounds: usize,
    block: Duration,
    answers: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let idle = args.iter().position(|arg| arg == "--idle").and_then(|at| args.get(at + 1)?.parse().ok());
    let plan = if quick {
        Plan { idle: idle.unwrap_or(500), rounds: 2, block: Duration::from_millis(500), answers: 100 }
    } else {
        Plan { idle: idle.unwrap_or(10_000), rounds: 5, block: Duration::from_secs(2), answers: 1_000 }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(idle_streams(plan.idle));
    runtime.block_on(watched_writes(&plan));
    for pace in PACES {
        runtime.block_on(paced_writes(&plan, pace));
    }
    runtime.block_on(answer_to_event(plan.answers));
}

/// A server on loopback with room for everything here.
async fn serve() -> (Onward, SocketAddr, String) {
    let onward = Onward::open("memory:").await.unwrap();
    let token = Token::draw();
    let limits = Limits { connections: 20_000, streams: 20_000, streams_per_token: 20_000, ..Limits::default() };
    let state = State::new(onward.clone(), "bench", &token, Arc::default()).with_limits(limits);
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), state).await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move { server.serve(&Orders::default()).await });
    (onward, address, token.secret().to_owned())
}

/// Opens a watch and reads its first event.
async fn watch(address: SocketAddr, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET /v1/watch?kind=bench HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut text, mut piece) = (String::new(), [0; 2_048]);
    while !text.contains("event: open") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "the server closed: {text}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    stream
}

async fn idle_streams(wanted: usize) {
    // Each stream has two ends here, and the process has files of its own.
    let most = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: most.maximum, ..most };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() { most.maximum } else { most.current };
    let room = usize::try_from(files.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).saturating_sub(200) / 2;
    let count = wanted.min(room);
    if count < wanted {
        println!("only {count} streams: the limit of open files is {files:?}");
    }
    let (onward, address, token) = serve().await;
    let mut open = Vec::with_capacity(count);
    // What the first streams cost once is no part of what each one costs.
    for _ in 0..20 {
        open.push(watch(address, &token).await);
    }
    let before = resident();
    let cpu = cpu_ms();
    let began = Instant::now();
    while open.len() < count {
        open.push(watch(address, &token).await);
    }
    let opened = began.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (resident() - before) / (count as f64 - 20.0);
    println!(
        "{count} idle streams: {each:.1} KiB each   (bar 48; both ends)   opened in {:.1} s, {:.0} ms of CPU",
        opened.as_secs_f64(),
        cpu_ms() - cpu
    );
    let cpu = cpu_ms();
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!("{count} idle streams: {:.2} % of a core", (cpu_ms() - cpu) / 50.0);
    // All of them live: one commit reaches each.
    put(&onward.store(), "x", 0).await;
    for stream in &mut open {
        assert!(event(stream, &mut String::new()).await, "a stream is dead");
    }
    println!("{count} idle streams: one commit reached all");
}

/// Reads on until an event of a change has come whole.
async fn event(stream: &mut TcpStream, text: &mut String) -> bool {
    let mut piece = [0; 4_096];
    loop {
        if let Some(at) = text.find("event: change").and_then(|at| Some(at + text[at..].find("\n\n")?)) {
            text.drain(..at + 2);
            return true;
        }
        match stream.read(&mut piece).await {
            Ok(read @ 1..) => text.push_str(std::str::from_utf8(&piece[..read]).unwrap()),
            _ => return false,
        }
    }
}

async fn put(store: &Store, name: &str, n: u64) {
    let payload = Payload::json(&serde_json::json!({"n": n, "pad": "x".repeat(200)})).unwrap();
    store.overwrite(("bench", name), payload, WriteOptions::new()).await.unwrap();
}

/// Commits a second without watchers and with a hundred, in the order A B B A.
async fn watched_writes(plan: &Plan) {
    let mut ratios = Vec::new();
    for round in 0..=plan.rounds {
        let none = writes(plan.block, 0).await;
        let many = (writes(plan.block, WATCHERS).await + writes(plan.block, WATCHERS).await) / 2.0;
        let none = (none + writes(plan.block, 0).await) / 2.0;
        // The first round warms up.
        if round > 0 {
            println!("commits/s: {none:8.0} alone   {many:8.0} with {WATCHERS} watchers   ratio {:.2}", many / none);
            ratios.push(many / none);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{WATCHERS} watchers / none: {:.2}   (rounds {:.2} to {:.2}; bar 0.80)",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

/// Writers that keep a pace, without watchers and with a hundred: how much of the pace they reach, and how long a commit takes.
async fn paced_writes(plan: &Plan, pace: u32) {
    let (mut ratios, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=plan.rounds {
        let none = paced(plan.block, 0, pace).await;
        let many = paced(plan.block, WATCHERS, pace).await;
        if round > 0 {
            ratios.push(many.0 / none.0);
            with.push(many.1);
            without.push(none.1);
        }
    }
    for all in [&mut ratios, &mut with, &mut without] {
        all.sort_by(f64::total_cmp);
    }
    let median = |all: &[f64]| all[all.len() / 2];
    println!(
        "at {pace} commits/s, {WATCHERS} watchers / none: {:.2}   (rounds {:.2} to {:.2}; bar 0.80)   commit p99 {:.2} ms, without {:.2} ms",
        median(&ratios),
        ratios[0],
        ratios[ratios.len() - 1],
        median(&with),
        median(&without)
    );
}

/// Commits a second that writers with a timetable reach, and the 99th percentile of a commit in milliseconds, from when it was due.
async fn paced(block: Duration, watchers: usize, pace: u32) -> (f64, f64) {
    let (onward, readers) = followed(watchers).await;
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS as u32)
        .map(|writer| {
            let store = onward.store();
            tokio::spawn(async move {
                let (name, mut late) = (format!("w{writer}"), Vec::new());
                loop {
                    let due = began + Duration::from_secs(1) / pace * (u32::try_from(late.len()).unwrap() * WRITERS as u32 + writer);
                    if due.duration_since(began) >= block || began.elapsed() >= block {
                        return late;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    put(&store, &name, late.len() as u64 + 1).await;
                    late.push(due.elapsed().as_secs_f64() * 1e3);
                }
            })
        })
        .collect();
    let mut late = Vec::new();
    for writer in writers {
        late.extend(writer.await.unwrap());
    }
    let rate = late.len() as f64 / began.elapsed().as_secs_f64();
    end(&onward, readers).await;
    late.sort_by(f64::total_cmp);
    (rate, late[(late.len() - 1) * 99 / 100])
}

/// Writes from a few tasks for one block while watchers read.
async fn writes(block: Duration, watchers: usize) -> f64 {
    let (onward, readers) = followed(watchers).await;
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, done) = (onward.store(), done.clone());
            tokio::spawn(async move {
                let name = format!("w{writer}");
                let mut n = 0;
                while began.elapsed() < block {
                    n += 1;
                    put(&store, &name, n).await;
                }
                done.fetch_add(n, Ordering::Relaxed);
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    end(&onward, readers).await;
    rate
}

/// Makes a last commit, which each watcher must see.
async fn end(onward: &Onward, readers: Vec<JoinHandle<()>>) {
    put(&onward.store(), "the-end", 0).await;
    for reader in readers {
        reader.await.unwrap();
    }
}

/// A server that so many watchers follow to the end.
async fn followed(watchers: usize) -> (Onward, Vec<JoinHandle<()>>) {
    let (onward, address, token) = serve().await;
    let mut watching = Vec::new();
    for _ in 0..watchers {
        watching.push(watch(address, &token).await);
    }
    let readers: Vec<_> = watching
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let (mut last, mut piece) = (String::new(), vec![0; 64 << 10]);
                while !last.contains("\"the-end\"") {
                    let read = stream.read(&mut piece).await.unwrap();
                    assert!(read > 0, "the server closed the stream");
                    // The end may lie across two pieces.
                    let kept = last.len().saturating_sub(512);
                    last.drain(..kept);
                    last.push_str(&String::from_utf8_lossy(&piece[..read]));
                }
            })
        })
        .collect();
    (onward, readers)
}

/// From the answer of a commit to its event at one of the watchers, one commit at a time.
async fn answer_to_event(count: usize) {
    let (onward, address, token) = serve().await;
    let mut others = Vec::new();
    for _ in 1..WATCHERS {
        let mut stream = watch(address, &token).await;
        others.push(tokio::spawn(async move { while event(&mut stream, &mut String::new()).await {} }));
    }
    let mut stream = watch(address, &token).await;
    let (seen, mut events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut text = String::new();
        while event(&mut stream, &mut text).await {
            seen.send(Instant::now()).unwrap();
        }
    });
    let store = onward.store();
    let mut late = Vec::with_capacity(count);
    for n in 0..count {
        put(&store, "x", n as u64 + 1).await;
        let answered = Instant::now();
        late.push(events.recv().await.unwrap().saturating_duration_since(answered));
    }
    late.sort_unstable();
    let ms = |part: f64| late[((late.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "commit answer to event, {WATCHERS} watchers: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms   (bar p99 10 ms)",
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

/// KiB of memory that this process has in use.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Milliseconds of processor time that this process has used.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10.0
}
