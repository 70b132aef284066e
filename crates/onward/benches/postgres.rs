//! The engine in Postgres beside what somebody would write by hand on the same client library, beside pgbench, and beside etcd if that is
//! installed: private servers with fsync on, one run, the sides in turn.
//!
//! `cargo bench -p onward --bench postgres [-- --quick | --full] [swap hot append read feed grow lock]`: all parts, or those that are named.
//! Ratios decide; `--full` grows the table to 10,000,000 objects. Every sum is compared with what is stored, every reader of the feed checks that it saw each revision once, every hold that tokens grow.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

mod etcd;
mod shared;

use std::future::Future;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd::Etcd;
use onward::audit::AppendOptions;
use onward::commit::{FeedItem, Patch, WriteCondition};
use onward::lock::{LockOptions, Release};
use onward::model::{Data, Entry, LockKey, Payload, Version};
use onward::store::{From, Put, Store, Watch, WriteOptions};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Config, Onward};
use parking_lot::Mutex;
use tokio_postgres::{Client, NoTls};

/// Clients at once.
const CLIENTS: usize = 64;
const READERS: usize = 16;
const OBJECTS: usize = 10_000;
const BYTES: usize = 256;
/// Commits a second where the time to an event is measured.
const PACE: u32 = 5_000;
/// Processes that want one lock, and how long each holds it.
const PROCESSES: usize = 4;
const HOLD: Duration = Duration::from_millis(1);
/// Set in a child: for how many milliseconds, and where.
const CHILD: &str = "ONWARD_BENCH_CHILD";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(order) = std::env::var(CHILD) {
        let (millis, url) = order.split_once(' ').unwrap();
        return runtime.block_on(contestant(url, Duration::from_millis(millis.parse().unwrap())));
    }
    let asked = |flag: &str| std::env::args().any(|arg| arg == flag);
    let (rounds, block) = if asked("--quick") { (1, Duration::from_secs(1)) } else { (5, Duration::from_secs(3)) };
    let many = if asked("--full") { 10_000_000 } else { 1_000_000 };
    let server = Postgres::start_with(&["shared_buffers=1GB", "max_wal_size=8GB"]);
    println!("at the start: {}", shared::load());
    let bench = Bench { server, rounds, block };
    let parts = ["swap", "hot", "append", "read", "feed", "grow", "lock"];
    let some = parts.iter().any(|part| asked(part));
    for part in parts.into_iter().filter(|part| !some || asked(part)) {
        match part {
            "swap" => runtime.block_on(bench.cas()),
            "hot" => runtime.block_on(bench.hot_key()),
            "append" => runtime.block_on(bench.appends()),
            "read" => runtime.block_on(bench.reads()),
            "feed" => runtime.block_on(bench.lateness()),
            "grow" => runtime.block_on(bench.growth(many)),
            _ => bench.hand_over(),
        }
    }
    println!("at the end: {}", shared::load());
}

struct Bench {
    server: Postgres,
    rounds: usize,
    block: Duration,
}

/// Figures of one side, a round each.
struct Side(Vec<f64>);

impl Side {
    fn median(&self) -> f64 {
        shared::median(self.0.clone())
    }

    /// This side over another, round by round.
    fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    fn show(&self, what: &str, bar: &str) {
        let (least, most) = self.0.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
        println!("{what:<52}{:>10.2}   (rounds {least:.2} to {most:.2}{bar})", self.median());
    }
}

impl Bench {
    async fn place(&self) -> (Onward, String) {
        let url = self.server.database().await;
        (Onward::connect(Config::new(&url)).await.unwrap(), url)
    }

    /// Measures the sides in turn, forwards and backwards; the first round warms up.
    async fn turns<const N: usize>(&self, side: impl AsyncFn(usize) -> f64) -> [Side; N] {
        let mut sides = [const { Side(Vec::new()) }; N];
        for round in 0..=self.rounds {
            let mut order: Vec<usize> = (0..N).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let figure = side(which).await;
                if round > 0 {
                    sides[which].0.push(figure);
                }
            }
        }
        sides
    }

    /// Compare-and-swap of random rows, against pgbench with one conditional UPDATE a transaction.
    async fn cas(&self) {
        let (onward, url) = self.place().await;
        let store = onward.store();
        fill(&store, OBJECTS).await;
        let rows = format!(
            "CREATE TABLE plain (id int PRIMARY KEY, version bigint NOT NULL, payload bytea NOT NULL) WITH (fillfactor = 85);
             INSERT INTO plain SELECT n, 1, decode(repeat('78', {BYTES}), 'hex') FROM generate_series(1, {OBJECTS}) n; ANALYZE plain"
        );
        Postgres::run_at(&url, &rows).await;
        let script = std::env::temp_dir().join(format!("onward-bench-{}.sql", std::process::id()));
        // Each version is older than the bound, so no update is ever refused: the most that this side can do.
        let text = format!(
            "\\set id random(1, {OBJECTS})\nUPDATE plain SET version = version + 1, payload = decode(repeat('79', {BYTES}), 'hex') WHERE id = :id AND version < 9000000000;\n"
        );
        std::fs::write(&script, text).unwrap();
        let versions: Arc<Vec<AtomicU64>> = Arc::new((0..OBJECTS).map(|_| AtomicU64::new(1)).collect());
        let slow = Mutex::new(Vec::new());
        let peer = Etcd::start();
        let keys = match &peer {
            Some(peer) => Some(peer.fill().await),
            None => None,
        };
        let etcds = Mutex::new(Vec::new());
        let [ours, theirs, etcd] = self
            .turns(async |which| match (which, &keys) {
                (0, _) => {
                    let (rate, p99) = swap(&store, &versions, self.block).await;
                    slow.lock().push(p99);
                    rate
                }
                (1, _) => pgbench(&url, &script, self.block).await,
                (_, Some(keys)) => {
                    let (rate, p99) = keys.swaps(self.block).await;
                    etcds.lock().push(p99);
                    rate
                }
                (_, None) => 0.0,
            })
            .await;
        std::fs::remove_file(script).unwrap();
        let held = Postgres::ask_at(&url, "SELECT sum(version - 1)::bigint FROM onward_objects WHERE kind = 'bench'").await;
        let done: u64 = versions.iter().map(|version| version.load(Ordering::SeqCst) - 1).sum();
        assert_eq!(held[0][0].as_deref(), Some(done.to_string().as_str()), "an acknowledged write is missing");
        ours.show("compare-and-swap, 64 clients, commits/s:", "");
        theirs.show("pgbench, UPDATE WHERE id AND version, 64 clients:", "");
        ours.over(&theirs).show("  ours / pgbench:", "; bar 1.5");
        Side(slow.into_inner()).show("  p99 of ours, ms:", "");
        match peer {
            Some(_) => {
                etcd.show("etcd of one node, compare-and-swap by gRPC, 64 clients:", "");
                ours.over(&etcd).show("  ours / etcd:", "");
                Side(etcds.into_inner()).show("  p99 of etcd, ms:", "");
            }
            None => println!("etcd, compare-and-swap: not installed"),
        }
    }

    /// One hot row: `apply`, against reading, adding and a conditional UPDATE by hand until it holds.
    async fn hot_key(&self) {
        let (onward, url) = self.place().await;
        let store = onward.store();
        let Put::Committed(_) = store.create(("bench", "hot"), &serde_json::json!({"n": 0})).await.unwrap() else { panic!("it is new") };
        Postgres::run_at(
            &url,
            "CREATE TABLE hot (id int PRIMARY KEY, version bigint NOT NULL, n bigint NOT NULL); INSERT INTO hot VALUES (1, 1, 0)",
        )
        .await;
        let clients = connect(&url, CLIENTS).await;
        let (applied, retried) = (AtomicU64::new(0), AtomicU64::new(0));
        let [ours, theirs] = self
            .turns(async |which| {
                let (done, time) = if which == 0 {
                    let store = store.clone();
                    let one = move |_| {
                        let store = store.clone();
                        async move {
                            let put = store.apply(("bench", "hot"), Patch::new().add("/n", 1), None, WriteOptions::new()).await.unwrap();
                            assert!(matches!(put, Put::Committed(_)));
                            1
                        }
                    };
                    at_once(CLIENTS, self.block, one).await
                } else {
                    let clients = clients.clone();
                    at_once(CLIENTS, self.block, move |client| retry_once(clients[client].clone())).await
                };
                (if which == 0 { &applied } else { &retried }).fetch_add(done, Ordering::SeqCst);
                done as f64 / time
            })
            .await;
        let object = store.get::<serde_json::Value>(("bench", "hot")).await.unwrap().unwrap();
        assert_eq!(object.value["n"], applied.into_inner(), "an acknowledged count is missing");
        let held = Postgres::ask_at(&url, "SELECT n FROM hot").await;
        assert_eq!(held[0][0], Some(retried.into_inner().to_string()));
        ours.show("one hot key, apply, 64 clients, commits/s:", "");
        theirs.show("optimistic retry over the wire, commits/s:", "");
        ours.over(&theirs).show("  apply / optimistic retry:", "; bar 20");
    }

    /// Appends: one chain and many, against a transaction each that locks the head.
    async fn appends(&self) {
        let (onward, url) = self.place().await;
        let tables = "CREATE TABLE heads (chain int PRIMARY KEY, seq bigint NOT NULL, hash bytea NOT NULL);
             CREATE TABLE entries (chain int, seq bigint, prev bytea NOT NULL, hash bytea NOT NULL, at bigint NOT NULL, kind text NOT NULL, data bytea NOT NULL, PRIMARY KEY (chain, seq));
             INSERT INTO heads VALUES (1, 0, sha256(''))";
        Postgres::run_at(&url, tables).await;
        let clients = connect(&url, CLIENTS).await;
        let audit = onward.audit();
        let [one, many, by_hand] = self
            .turns(async |which| {
                let (audit, clients) = (audit.clone(), clients.clone());
                let append = move |writer: usize| {
                    let chain = audit.chain(&if which == 0 { "one".to_owned() } else { format!("many.{writer}") }).unwrap();
                    async move {
                        let entry = Entry::new("bench.made").with_data(Data::json(&"x".repeat(BYTES)).unwrap());
                        chain.append(entry, AppendOptions::new()).await.unwrap();
                        1
                    }
                };
                let (done, time) = match which {
                    0 | 1 => at_once(CLIENTS, self.block, append).await,
                    _ => at_once(CLIENTS, self.block, move |client| append_by_hand(clients[client].clone())).await,
                };
                done as f64 / time
            })
            .await;
        one.show("appends to one chain, 64 writers, entries/s:", "");
        by_hand.show("one transaction each, 64 writers, entries/s:", "");
        one.over(&by_hand).show("  one chain / one transaction each:", "; bar 10");
        many.over(&one).show("  64 chains / one chain:", "; bar 1");
    }

    /// Reads of an object by its key, against the same SELECT: with a prepared name, and without.
    async fn reads(&self) {
        let (onward, url) = self.place().await;
        let store = onward.store();
        fill(&store, OBJECTS).await;
        let sql = "SELECT uid, version, revision, create_revision, content_type, payload, created_at, updated_at, labels, expires_at
             FROM onward_objects WHERE namespace = $1 AND kind = $2 AND name = $3";
        let clients = connect(&url, READERS).await;
        let mut statements = Vec::new();
        for client in clients.iter() {
            statements.push(client.prepare(sql).await.unwrap());
        }
        let (statements, draw) = (Arc::new(statements), Arc::new(AtomicU64::new(1)));
        let [ours, prepared, unnamed] = self
            .turns(async |which| {
                let (clients, statements, store, draw) = (clients.clone(), statements.clone(), store.clone(), draw.clone());
                let name = move || named(usize::try_from(draw.fetch_add(1, Ordering::Relaxed)).unwrap() % OBJECTS);
                let (done, time) = match which {
                    0 => {
                        let one = move |_| {
                            let (store, name) = (store.clone(), name());
                            async move {
                                assert!(store.get_payload(("bench", name)).await.unwrap().is_some());
                                1
                            }
                        };
                        at_once(READERS, self.block, one).await
                    }
                    _ => {
                        let one = move |client: usize| {
                            let (client, statement, name) = (clients[client].clone(), statements[client].clone(), name());
                            async move {
                                use tokio_postgres::types::Type;
                                let found = if which == 1 {
                                    client.query(&statement, &[&"default", &"bench", &name]).await
                                } else {
                                    client.query_typed(sql, &[(&"default", Type::TEXT), (&"bench", Type::TEXT), (&name, Type::TEXT)]).await
                                };
                                assert_eq!(found.unwrap().len(), 1);
                                1
                            }
                        };
                        at_once(READERS, self.block, one).await
                    }
                };
                done as f64 / time
            })
            .await;
        ours.show("reads by key, 16 at once, reads/s:", "");
        prepared.show("the same SELECT, prepared, reads/s:", "");
        unnamed.show("the same SELECT, without a name, reads/s:", "");
        ours.over(&unnamed).show("  ours / without a name:", "; bar 0.8");
        ours.over(&prepared).show("  ours / prepared:", "");
    }

    /// Writes at a pace by one replica while another follows: the time from a commit's answer to its event.
    async fn lateness(&self) {
        let (writer, url) = self.place().await;
        let reader = Onward::connect(Config::new(&url)).await.unwrap().store();
        let store = writer.store();
        let (mut p50, mut p99, mut paces) = (Side(Vec::new()), Side(Vec::new()), Side(Vec::new()));
        for round in 0..=self.rounds {
            let (mut late, pace) = late(&store, &reader, self.block, round).await;
            late.sort_by(f64::total_cmp);
            if round > 0 {
                p50.0.push(late[late.len() / 2]);
                p99.0.push(late[late.len() * 99 / 100]);
                paces.0.push(pace);
            }
        }
        paces.show("feed: commits/s, asked for 5,000:", "");
        p50.show("  commit's answer to event at another replica, ms:", "");
        p99.show("  the same, p99:", "; bar 20");
    }

    /// Replaces of random objects of many, against the same on few; warm.
    async fn growth(&self, many: usize) {
        let (few, _) = self.place().await;
        let (all, url) = self.place().await;
        fill(&few.store(), OBJECTS).await;
        fill(&all.store(), 1).await;
        // By SQL, as rows of this form: a million commits would be measured, too.
        let names = format!(
            "INSERT INTO onward_objects SELECT namespace, kind, lpad(to_hex(n), 16, '0'), gen_random_uuid(), 1, revision, create_revision,
               content_type, payload, created_at, updated_at, labels, expires_at
             FROM onward_objects, generate_series(1, {many}) AS n; VACUUM ANALYZE onward_objects; CHECKPOINT"
        );
        for statement in names.split(';') {
            Postgres::run_at(&url, statement).await;
        }
        let (few, all) = (few.store(), all.store());
        let [small, large] = self
            .turns(async |which| {
                if which == 0 { replace(&few, OBJECTS, self.block, named).await } else { replace(&all, many, self.block, counted).await }
            })
            .await;
        small.show("replaces of 10,000 objects, commits/s:", "");
        large.show(&format!("replaces of {many} objects, commits/s:"), "");
        small.over(&large).show("  slower by:", "; bar 2.5 at 10,000,000");
    }

    /// Processes that want one lock: from one's release to the other's grant.
    fn hand_over(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (onward, url) = runtime.block_on(self.place());
        drop(onward);
        let order = format!("{} {url}", (self.block * 2).as_millis());
        let start = || Command::new(std::env::current_exe().unwrap()).env(CHILD, &order).stdout(Stdio::piped()).spawn().unwrap();
        let children: Vec<_> = (0..PROCESSES).map(|_| start()).collect();
        let mut holds: Vec<(usize, [u64; 3])> = Vec::new();
        for (who, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "a process failed");
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                holds.push((who, line.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap()));
            }
        }
        holds.sort_by_key(|(_, [token, ..])| *token);
        let mut waits = Vec::new();
        for pair in holds.windows(2) {
            let [(before, [token, _, to]), (after, [newer, from, _])] = pair else { continue };
            assert!(newer > token && from >= to, "two held the lock at once");
            if before != after {
                waits.push((from - to) as f64 / 1e6);
            }
        }
        waits.sort_by(f64::total_cmp);
        let at = |q: f64| waits[(waits.len() as f64 * q) as usize];
        println!(
            "lock, {PROCESSES} processes x 1 ms: {} holds, hand-over p50 {:.2} ms (bar 2), p99 {:.2} ms",
            holds.len(),
            at(0.5),
            at(0.99)
        );
    }
}

fn named(n: usize) -> String {
    // Scattered over the key space: neighbours in time are none in the file.
    format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn counted(n: usize) -> String {
    format!("{:016x}", n + 1)
}

async fn fill(store: &Store, objects: usize) {
    let payload = Payload::new(vec![b'x'; BYTES], "text/plain").unwrap();
    for first in (0..objects).step_by(128) {
        let commit = (first..objects.min(first + 128)).fold(onward::commit::Commit::new(), |commit, n| {
            commit.put_payload(("bench", named(n)), payload.clone(), WriteCondition::MustCreate)
        });
        assert!(matches!(store.commit(commit).await.unwrap(), onward::commit::CommitOutcome::Committed(_)));
    }
}

/// Any object, none twice in a row.
struct Draw(u64);

impl Draw {
    fn of(client: usize) -> Self {
        Self(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(client as u64 + 1) ^ Clock::system().now().as_nanos())
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn payload(&mut self) -> Payload {
        let mut bytes = vec![b'y'; BYTES];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        Payload::new(bytes, "text/plain").unwrap()
    }
}

/// Runs something again and again from many tasks for one block; returns the sum and the seconds.
async fn at_once<F: Future<Output = u64> + Send>(
    count: usize,
    block: Duration,
    one: impl Fn(usize) -> F + Send + Sync + 'static,
) -> (u64, f64) {
    let (started, one) = (Instant::now(), Arc::new(one));
    let tasks: Vec<_> = (0..count)
        .map(|client| {
            let one = one.clone();
            tokio::spawn(async move {
                let mut done = 0;
                while started.elapsed() < block {
                    done += one(client).await;
                }
                done
            })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await.unwrap();
    }
    (sum, started.elapsed().as_secs_f64())
}

/// Replaces random objects at the versions that are known; returns commits a second and the p99 in ms.
async fn swap(store: &Store, versions: &Arc<Vec<AtomicU64>>, block: Duration) -> (f64, f64) {
    let started = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (store, versions) = (store.clone(), versions.clone());
            tokio::spawn(async move {
                let (mut draw, mut times) = (Draw::of(client), Vec::new());
                while started.elapsed() < block {
                    // Its own share: what it knows of a row is what is there.
                    let n = usize::try_from(draw.next()).unwrap() % (OBJECTS / CLIENTS) * CLIENTS + client;
                    let at = WriteCondition::MatchVersion(Version::new(versions[n].load(Ordering::Relaxed)).unwrap());
                    let asked = Instant::now();
                    let put = store.put_payload_if(("bench", named(n)), draw.payload(), at, WriteOptions::new()).await.unwrap();
                    times.push(asked.elapsed().as_secs_f64() * 1e3);
                    let Put::Committed(written) = put else { panic!("nobody else writes it") };
                    versions[n].store(written.version.get(), Ordering::Relaxed);
                }
                times
            })
        })
        .collect();
    rate_and_p99(tasks, started).await
}

/// Waits for tasks that say how long each of their calls took, in ms; returns calls a second and the p99.
async fn rate_and_p99(tasks: Vec<tokio::task::JoinHandle<Vec<f64>>>, started: Instant) -> (f64, f64) {
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    (rate, times[times.len() * 99 / 100])
}

/// Transactions a second of a script, with prepared statements.
async fn pgbench(url: &str, script: &std::path::Path, block: Duration) -> f64 {
    let mut command = Command::new("pgbench");
    let (clients, seconds) = (CLIENTS.to_string(), block.as_secs().max(1).to_string());
    command.args(["-n", "-M", "prepared", "-j", "2", "-c", &clients, "-T", &seconds, "-f"]).arg(script).arg(url);
    let output = tokio::task::spawn_blocking(move || command.output().expect("pgbench is installed")).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

async fn connect(url: &str, count: usize) -> Arc<Vec<Arc<Client>>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(Arc::new(client));
    }
    Arc::new(clients)
}

/// Reads, adds and writes at the version that was read; 1 if it held.
async fn retry_once(client: Arc<Client>) -> u64 {
    let row = client.query_one("SELECT version, n FROM hot WHERE id = 1", &[]).await.unwrap();
    let (version, n): (i64, i64) = (row.get(0), row.get(1));
    client.execute("UPDATE hot SET version = version + 1, n = $1 WHERE id = 1 AND version = $2", &[&(n + 1), &version]).await.unwrap()
}

/// Locks the head, appends an entry, moves the head; the statements are in one exchange where they can be.
async fn append_by_hand(client: Arc<Client>) -> u64 {
    client.batch_execute("BEGIN").await.unwrap();
    let row = client.query_one("SELECT seq, hash FROM heads WHERE chain = 1 FOR UPDATE", &[]).await.unwrap();
    let (seq, prev): (i64, Vec<u8>) = (row.get(0), row.get(1));
    let data = format!("\"{}\"", "x".repeat(BYTES)).into_bytes();
    let hash = {
        use sha2::Digest as _;
        sha2::Sha256::new().chain_update(&prev).chain_update(&data).finalize().to_vec()
    };
    let next = seq + 1;
    let entry = "INSERT INTO entries (chain, seq, prev, hash, at, kind, data) VALUES (1, $1, $2, $3, 0, 'bench.made', $4)";
    let entry_params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&next, &prev, &hash, &data];
    let head_params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&next, &hash];
    let (entry, head) = tokio::join!(
        client.execute(entry, &entry_params),
        client.execute("UPDATE heads SET seq = $1, hash = $2 WHERE chain = 1", &head_params)
    );
    assert_eq!((entry.unwrap(), head.unwrap()), (1, 1));
    client.batch_execute("COMMIT").await.unwrap();
    1
}

/// Replaces random objects; returns commits a second.
async fn replace(store: &Store, objects: usize, block: Duration, name: fn(usize) -> String) -> f64 {
    let store = store.clone();
    let one = move |client: usize| {
        let mut draw = Draw::of(client);
        let (store, name) = (store.clone(), name(usize::try_from(draw.next()).unwrap() % objects));
        async move {
            let put = store.put_payload_if(("bench", name), draw.payload(), WriteCondition::MustExist, WriteOptions::new()).await.unwrap();
            assert!(matches!(put, Put::Committed(_)));
            1
        }
    };
    let (done, time) = at_once(CLIENTS, block, one).await;
    done as f64 / time
}

/// Creates objects at a pace while a reader follows; returns the milliseconds from each answer to its event, and the pace reached.
async fn late(store: &Store, reader: &Store, block: Duration, round: usize) -> (Vec<f64>, f64) {
    let begin = reader.queue().engine().meta().await.unwrap().revision;
    let first = begin.get();
    let answered: Arc<Mutex<Vec<(u64, Instant)>>> = Arc::default();
    let stop = Arc::new(AtomicU64::new(u64::MAX));
    let mut watcher = reader.watch(Watch { from: From::After(begin), ..Watch::default() }).await.unwrap();
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut seen: Vec<Instant> = Vec::new();
            while first + (seen.len() as u64) < stop.load(Ordering::SeqCst) {
                if let FeedItem::Commit(record) = watcher.next().await.unwrap() {
                    seen.push(Instant::now());
                    assert_eq!(record.revision.get(), first + seen.len() as u64, "a gap in the feed");
                }
            }
            seen
        }
    });
    let started = Instant::now();
    let writers: Vec<_> = (0..CLIENTS as u32)
        .map(|writer| {
            let (store, answered) = (store.clone(), answered.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let due = started + Duration::from_secs(1) / PACE * (n * CLIENTS as u32 + writer);
                    if due.duration_since(started) > block {
                        return;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    let name = format!("{round}-{writer}-{n}");
                    let Put::Committed(written) = store.create(("late", &name), &n).await.unwrap() else { panic!("lost") };
                    answered.lock().push((written.revision.get(), Instant::now()));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let took = started.elapsed().as_secs_f64();
    let newest = answered.lock().iter().map(|(revision, _)| *revision).max().unwrap();
    stop.store(newest, Ordering::SeqCst);
    assert!(matches!(store.create(("late", &format!("{round}-last")), &0).await.unwrap(), Put::Committed(_)));
    let seen = watching.await.unwrap();
    let answered = answered.lock();
    let late = answered.iter().filter_map(|(revision, told)| {
        let seen = seen.get(usize::try_from(revision - first - 1).unwrap())?;
        Some(seen.saturating_duration_since(*told).as_secs_f64() * 1e3)
    });
    (late.collect(), answered.len() as f64 / took)
}

/// One process: takes and gives back one lock again and again, and says when.
async fn contestant(url: &str, block: Duration) {
    let (clock, key) = (Clock::system(), LockKey::raw("contended").unwrap());
    let locks = Onward::connect(Config::new(url)).await.unwrap().locks();
    let options = LockOptions::fail().with_wait(Duration::from_secs(60));
    let begun = clock.now();
    while clock.now().since(begun) < block {
        let grant = locks.acquire(&key, options.clone()).await.unwrap();
        let from = clock.now().as_nanos();
        tokio::time::sleep(HOLD).await;
        let (to, token) = (clock.now().as_nanos(), grant.token().get());
        // A server that stalls for longer than a release waits leaves the lease to its end: no hand-over to measure.
        if let Ok(released) = grant.release().await {
            assert_eq!(released, Release::Released, "a grant was lost");
            println!("{token} {from} {to}");
        }
    }
}
