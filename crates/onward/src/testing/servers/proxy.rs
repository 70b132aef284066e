//! A TCP proxy in this process that cuts, delays and swallows what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::retry;
use crate::time::Clock;

/// A way to a server that a test can spoil; dropping it cuts every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    faults: Mutex<Faults>,
    /// Counts cuts: a connection of an earlier count ends.
    cuts: watch::Sender<u64>,
    /// Counts what [`Proxy::strand`] and [`Proxy::deliver`] ask for.
    strands: watch::Sender<u64>,
    deliveries: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Faults {
    refuses: bool,
    /// Cuts when so many more bytes went to the server; they arrive.
    requests_left: Option<usize>,
    /// Cuts when so many more bytes came back; they arrive.
    answers_left: Option<usize>,
    /// Lets nothing come back, and keeps the connection.
    swallows: bool,
    /// Keeps requests, of all connections here.
    holds: bool,
    held: Vec<u8>,
    delay: Duration,
    passed: (usize, usize),
}

impl Proxy {
    /// Opens a way to a port of 127.0.0.1.
    pub async fn to(port: u16) -> Self {
        Self::among(&[port]).await
    }

    /// Opens a way to several ports in turn, as a plain balancer does: a port that nobody listens on is passed over.
    pub async fn among(ports: &[u16]) -> Self {
        let ports: Arc<[u16]> = ports.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let [cuts, strands, deliveries] = [const { 0 }; 3].map(watch::Sender::new);
        let shared = Arc::new(Shared { faults: Mutex::default(), cuts, strands, deliveries });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut turn = 0;
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(Arc::clone(&shared), client, Arc::clone(&ports), turn));
                    turn += 1;
                }
            }
        });
        Self { address, shared, task }
    }

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the URL of a Redis behind it.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Cuts every connection now.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts every connection and lets no new one through, until [`Proxy::heal`].
    pub fn refuse(&self) {
        self.shared.faults.lock().refuses = true;
        self.shared.cut();
    }

    /// Cuts everything once `bytes` more bytes of requests have gone through.
    pub fn cut_after_requests(&self, bytes: usize) {
        self.shared.faults.lock().requests_left = Some(bytes);
    }

    /// Cuts everything once `bytes` more bytes of answers have gone through: at 0, the next request is served and its answer lost.
    pub fn cut_after_answers(&self, bytes: usize) {
        self.shared.faults.lock().answers_left = Some(bytes);
    }

    /// Lets no answer through and keeps the connections, until [`Proxy::heal`]: what was swallowed stays lost.
    pub fn swallow_answers(&self) {
        self.shared.faults.lock().swallows = true;
    }

    /// Lets no request through from now on, and keeps what comes.
    pub fn hold_requests(&self) {
        self.shared.faults.lock().holds = true;
    }

    /// Returns what was kept since [`Proxy::hold_requests`].
    pub fn held(&self) -> Vec<u8> {
        self.shared.faults.lock().held.clone()
    }

    /// Cuts the connections with kept requests at their client's end only; everything else passes again.
    pub fn strand(&self) {
        self.shared.faults.lock().holds = false;
        self.shared.strands.send_modify(|count| *count += 1);
    }

    /// Lets the servers at the ends of stranded connections have the kept requests.
    pub fn deliver(&self) {
        self.shared.deliveries.send_modify(|count| *count += 1);
    }

    /// Holds each answer back for so long.
    pub fn delay_answers(&self, delay: Duration) {
        self.shared.faults.lock().delay = delay;
    }

    /// Ends every fault for what comes now; connections whose answers were swallowed are cut, since they are out of step.
    pub fn heal(&self) {
        let mut faults = self.shared.faults.lock();
        let swallowed = faults.swallows;
        *faults = Faults { passed: faults.passed, ..Faults::default() };
        drop(faults);
        if swallowed {
            self.shared.cut();
        }
    }

    /// Returns how many bytes of requests and of answers went through.
    pub fn passed(&self) -> (usize, usize) {
        self.shared.faults.lock().passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.cut();
    }
}

impl Shared {
    fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Keeps requests of a connection if they are kept now.
    fn keeps(&self, held: &Mutex<Vec<u8>>, bytes: &[u8]) -> bool {
        let mut faults = self.faults.lock();
        if faults.holds {
            held.lock().extend_from_slice(bytes);
            faults.held.extend_from_slice(bytes);
        }
        faults.holds
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

async fn serve(shared: Arc<Shared>, client: TcpStream, ports: Arc<[u16]>, turn: usize) {
    let mut cuts = shared.cuts.subscribe();
    cuts.mark_unchanged();
    if shared.faults.lock().refuses {
        return;
    }
    let Some(server) = connect(&ports, turn).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let held = Mutex::default();
    let mut deliveries = shared.deliveries.subscribe();
    deliveries.mark_unchanged();
    tokio::select! {
        () = pass(&shared, Way::There, &held, &mut from_client, &mut to_server) => return,
        () = pass(&shared, Way::Back, &held, &mut from_server, &mut to_client) => return,
        _ = cuts.changed() => return,
        () = stranded(&shared, &held) => {}
    }
    drop((from_client, to_client));
    let held = held.into_inner();
    if deliveries.changed().await.is_ok() && to_server.write_all(&held).await.is_ok() && to_server.shutdown().await.is_ok() {
        // Until the server is done: it would lose what it has not read.
        let _ = tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await;
    }
}

/// Waits for a strand that concerns a connection.
async fn stranded(shared: &Shared, held: &Mutex<Vec<u8>>) {
    let mut strands = shared.strands.subscribe();
    strands.mark_unchanged();
    // The sender lives in what is shared.
    while strands.changed().await.is_ok() && held.lock().is_empty() {}
}

/// Connects to the port whose turn it is, or to the next that takes it.
async fn connect(ports: &[u16], turn: usize) -> Option<TcpStream> {
    for at in turn..turn + ports.len() {
        if let Ok(server) = TcpStream::connect(("127.0.0.1", *ports.get(at % ports.len())?)).await {
            return Some(server);
        }
    }
    None
}

async fn pass(shared: &Shared, way: Way, held: &Mutex<Vec<u8>>, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
    let mut buffer = vec![0; 16 * 1_024];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if way == Way::There && shared.keeps(held, buffer.get(..count).unwrap_or_default()) {
            continue;
        }
        let (take, ends, delay) = shared.faults.lock().judge(way, count);
        if !delay.is_zero() {
            retry::sleep(&Clock::system(), delay).await;
        }
        if let Some(bytes) = buffer.get(..take)
            && to.write_all(bytes).await.is_err()
        {
            return;
        }
        if ends {
            // Bytes on their way arrive before the end does.
            let _ = to.shutdown().await;
            shared.cut();
            return;
        }
    }
}

impl Faults {
    /// Returns how many of these bytes pass, whether that is the end, and how long they are held back.
    fn judge(&mut self, way: Way, count: usize) -> (usize, bool, Duration) {
        let (left, swallows, delay) = match way {
            Way::There => (&mut self.requests_left, false, Duration::ZERO),
            Way::Back => (&mut self.answers_left, self.swallows, self.delay),
        };
        let (take, ends) = match left {
            Some(left) if count >= *left => (*left, true),
            Some(left) => {
                *left -= count;
                (count, false)
            }
            None => (count, false),
        };
        if ends {
            *left = None;
        }
        let take = if swallows { 0 } else { take };
        match way {
            Way::There => self.passed.0 += take,
            Way::Back => self.passed.1 += take,
        }
        (take, ends, delay)
    }
}
