//! A peer: compare-and-swap transactions on a private etcd of one node, over its own gRPC, with its log on the same disk and fsync on.
//!
//! One node, as the Postgres beside it. What etcd is for, to survive the loss of a node, costs more and is not measured here.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use tokio::net::TcpStream;

use super::{BYTES, CLIENTS, Draw, OBJECTS, named};

/// How many connections its clients share, as its own benchmark's do.
const CONNECTIONS: usize = 8;
/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A private server; it is killed when the value is dropped.
pub(crate) struct Etcd {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// Starts the server; `None`: it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (port, peers) = (free_port(), free_port());
        let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let child = Command::new("etcd")
            .args(["--name", "bench", "--log-level", "error", "--quota-backend-bytes", "8589934592", "--data-dir"])
            .arg(folder.path())
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients, "--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("bench={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.ok().map(|child| Self { child, port, _folder: folder })
    }

    /// Fills it with the objects; returns who may be asked, and the revision of each object.
    pub(crate) async fn fill(&self) -> Keys {
        let started = Instant::now();
        let mut connections = Vec::new();
        while connections.len() < CONNECTIONS {
            match connect(self.port).await {
                Some(connection) => connections.push(connection),
                None => assert!(started.elapsed() < PATIENCE, "etcd does not answer"),
            }
        }
        let keys = Keys { connections: connections.into(), revisions: (0..OBJECTS).map(|_| AtomicU64::new(0)).collect() };
        while keys.swap(0).await.is_none() {
            assert!(started.elapsed() < PATIENCE, "etcd has no leader");
        }
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let keys = keys.clone();
                tokio::spawn(async move {
                    for n in (client..OBJECTS).step_by(CLIENTS).filter(|n| *n > 0) {
                        keys.swap(n).await.expect("nobody else writes it");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        keys
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(port: u16) -> Option<SendRequest<bytes::Bytes>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (client, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Objects in etcd, each at a revision that is known.
#[derive(Clone)]
pub(crate) struct Keys {
    connections: Arc<[SendRequest<bytes::Bytes>]>,
    revisions: Arc<[AtomicU64]>,
}

impl Keys {
    /// Replaces an object at its revision; `None`: the server is not ready.
    async fn swap(&self, n: usize) -> Option<()> {
        let mut value = vec![b'y'; BYTES];
        value[..8].copy_from_slice(&Draw::of(n).next().to_le_bytes());
        let at = self.revisions[n].load(Ordering::Relaxed);
        let message = transaction(named(n).as_bytes(), at, &value);
        let mut client = self.connections[n % CONNECTIONS].clone().ready().await.ok()?;
        let request = http::Request::post("http://etcd/etcdserverpb.KV/Txn").header("content-type", "application/grpc");
        let (answer, mut sending) = client.send_request(request.header("te", "trailers").body(()).unwrap(), false).ok()?;
        sending.send_data(message.into(), true).ok()?;
        let (mut body, mut all) = (answer.await.ok()?.into_body(), Vec::new());
        while let Some(piece) = body.data().await {
            let piece = piece.ok()?;
            body.flow_control().release_capacity(piece.len()).ok()?;
            all.extend_from_slice(&piece);
        }
        let Answer { revision, succeeded } = Answer::read(all.get(5..)?);
        assert!(succeeded, "nobody else writes it");
        self.revisions[n].store(revision, Ordering::Relaxed);
        Some(())
    }

    /// Replaces random objects from all clients for one block; returns transactions a second and the p99 in ms.
    pub(crate) async fn swaps(&self, block: Duration) -> (f64, f64) {
        let started = Instant::now();
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let keys = self.clone();
                tokio::spawn(async move {
                    let (mut draw, mut times) = (Draw::of(client), Vec::new());
                    while started.elapsed() < block {
                        let n = usize::try_from(draw.next()).unwrap() % (OBJECTS / CLIENTS) * CLIENTS + client;
                        let asked = Instant::now();
                        keys.swap(n).await.expect("etcd answers");
                        times.push(asked.elapsed().as_secs_f64() * 1e3);
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        (rate, times[times.len() * 99 / 100])
    }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// A field of protobuf that has a length.
fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// `TxnRequest { compare: [key's mod_revision = at], success: [put key value] }`, as a message of gRPC.
fn transaction(key: &[u8], at: u64, value: &[u8]) -> Vec<u8> {
    let (mut compare, mut put, mut op, mut all) = (vec![2 << 3, 2], Vec::new(), Vec::new(), Vec::new());
    field(&mut compare, 3, key);
    compare.push(6 << 3);
    number(&mut compare, at);
    field(&mut put, 1, key);
    field(&mut put, 2, value);
    field(&mut op, 2, &put);
    field(&mut all, 1, &compare);
    field(&mut all, 2, &op);
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(all.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&all);
    message
}

/// What a transaction says: `TxnResponse { header { revision }, succeeded }`.
#[derive(Default)]
struct Answer {
    revision: u64,
    succeeded: bool,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let mut answer = Self::default();
        fields(bytes, &mut |tag, value, inner| match tag {
            1 => fields(inner, &mut |tag, value, _| {
                if tag == 3 {
                    answer.revision = value;
                }
            }),
            2 => answer.succeeded = value == 1,
            _ => {}
        });
        answer
    }
}

/// Hands out the fields of a message: tag, number, bytes.
fn fields(mut bytes: &[u8], each: &mut dyn FnMut(u64, u64, &[u8])) {
    fn take(bytes: &mut &[u8]) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return number;
            }
        }
    }
    while !bytes.is_empty() {
        let tag = take(&mut bytes);
        match tag & 7 {
            0 => each(tag >> 3, take(&mut bytes), &[]),
            2 => {
                let length = usize::try_from(take(&mut bytes)).unwrap();
                let (inner, rest) = bytes.split_at(length);
                each(tag >> 3, 0, inner);
                bytes = rest;
            }
            other => panic!("etcd sends a field of type {other}"),
        }
    }
}
