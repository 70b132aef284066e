//! A peer: compare-and-swap transactions on a private etcd of one node, over its gRPC, with its log on the same disk and fsync on.
//!
//! One node, as the Postgres beside it. What etcd is for, to survive the loss of a node, costs more and is not measured here.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::{BYTES, CLIENTS, Draw, OBJECTS, named, rate_and_p99};

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
        while connections.len() < CLIENTS {
            match Connection::to(self.port).await {
                Ok(connection) => connections.push(Mutex::new(connection)),
                Err(_) => assert!(started.elapsed() < PATIENCE, "etcd does not answer"),
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

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// The end of a stream, the end of its headers, and the answer to settings and pings.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A connection of one client, with one call at a time: as much of HTTP/2 as that takes, and no header compressed.
struct Connection {
    stream: TcpStream,
    /// The number of the newest call.
    call: u32,
    /// The headers of every call.
    headers: Vec<u8>,
    /// What was received and not yet granted anew.
    received: u32,
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, call: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&call.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Connection {
    async fn to(port: u16) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        stream.write_all(&hello).await?;
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/etcdserverpb.KV/Txn"),
            (":authority", "etcd"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // A literal that no table remembers.
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).unwrap());
                headers.extend_from_slice(text.as_bytes());
            }
        }
        Ok(Self { stream, call: 0, headers, received: 0 })
    }

    /// Sends a message and waits for the answer.
    async fn ask(&mut self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        // Calls of a client have odd numbers.
        self.call = if self.call == 0 { 1 } else { self.call + 2 };
        let mut out = Vec::new();
        frame(&mut out, HEADERS, END_HEADERS, self.call, &self.headers);
        frame(&mut out, DATA, END_STREAM, self.call, message);
        if self.received > 16_384 {
            frame(&mut out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        self.stream.write_all(&out).await?;
        let mut answer = Vec::new();
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, call @ ..] = head;
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
            self.stream.read_exact(&mut payload).await?;
            let mut reply = Vec::new();
            match kind {
                DATA => {
                    self.received += u32::try_from(payload.len()).unwrap();
                    answer.extend_from_slice(&payload);
                }
                SETTINGS if flags & ACK == 0 => frame(&mut reply, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut reply, PING, ACK, 0, &payload),
                _ => {}
            }
            self.stream.write_all(&reply).await?;
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 && u32::from_be_bytes(call) == self.call {
                return Ok(answer);
            }
        }
    }
}

/// Objects in etcd, each at a revision that is known.
#[derive(Clone)]
pub(crate) struct Keys {
    connections: Arc<[Mutex<Connection>]>,
    revisions: Arc<[AtomicU64]>,
}

impl Keys {
    /// Replaces an object at its revision; `None`: the server is not ready.
    async fn swap(&self, n: usize) -> Option<()> {
        let mut value = vec![b'y'; BYTES];
        value[..8].copy_from_slice(&Draw::of(n).next().to_le_bytes());
        let at = self.revisions[n].load(Ordering::Relaxed);
        let message = transaction(named(n).as_bytes(), at, &value);
        // Each client has objects, and a connection, of its own.
        let all = self.connections[n % CLIENTS].lock().await.ask(&message).await.ok()?;
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
        rate_and_p99(tasks, started).await
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
