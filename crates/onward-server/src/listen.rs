//! The listener: our own accept loop over hyper, with bounds on everything that a stranger can hold open.
//!
//! `axum::serve` installs no timer, so hyper's header timeout would do nothing there; this loop does, and it covers a silent socket too.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use onward::time::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::Shutdown;
use crate::orders::Orders;
use crate::routes::{open_metrics, router};
use crate::state::{Hosts, State};
use crate::tls::{Looked, Tls};
use crate::wait::{sleep, within};
use crate::{chores, log};

/// Longest head.
const HEAD_BYTES: usize = 16 << 10;
/// How long to wait when the system cannot give us another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the certificate's files are looked at without being asked.
const LOOK: Duration = Duration::from_secs(30);

/// Listeners that are bound.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    metrics: Option<TcpListener>,
    tls: Option<Tls>,
    state: State,
    shutdown: Shutdown,
    look: Duration,
    chores: Duration,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every request in flight was answered.
    Clean,
    /// Some connections were cut when the time to drain was over, or the order came to end at once.
    Cut,
}

impl Server {
    /// Binds an address on loopback; port 0 takes a free one. Only requests for a loopback host are answered.
    ///
    /// # Errors
    /// The address cannot be bound, or is not loopback, or the state is an embedded one, which asks for no token.
    pub async fn bind(address: SocketAddr, state: State) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only loopback is served without configuration"));
        }
        Self::bind_all(&[address], None, Hosts::Loopback, state).await
    }

    /// Binds addresses; what may be listened on is the caller's to judge.
    pub(crate) async fn bind_all(addresses: &[SocketAddr], tls: Option<Tls>, hosts: Hosts, state: State) -> io::Result<Self> {
        if state.is_embedded() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a state with tokens is served"));
        }
        state.answer_for(hosts);
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in addresses {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
            listeners.push(TcpListener::bind(address).await.map_err(named)?);
        }
        Ok(Self { listeners, metrics: None, tls, state, shutdown: Shutdown::default(), look: LOOK, chores: chores::EVERY })
    }

    /// Shows the metrics to everybody at an address of their own.
    pub(crate) async fn with_open_metrics(mut self, address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        self.metrics = Some(TcpListener::bind(address).await.map_err(named)?);
        Ok(self)
    }

    /// Returns where the metrics are open.
    pub(crate) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Sets how it ends.
    #[must_use]
    pub fn with_shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Sets how often the certificate's files are looked at.
    pub(crate) fn with_look(mut self, every: Duration) -> Self {
        self.look = every;
        self
    }

    /// Sets how often it looks what is due in the life of the chains.
    pub(crate) fn with_chores(mut self, every: Duration) -> Self {
        self.chores = every;
        self
    }

    /// Returns the address that it listens on, the first of several.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listeners.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Returns every address that it listens on.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until the order to end. Then: not ready but serving for the delay; no new connections, streams end with `bye` and waits with
    /// `draining`; requests in flight are finished within the time to drain.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listeners at once and leaves open connections to the runtime.
    pub async fn serve(self, orders: &Orders) -> Drained {
        let Self { listeners, metrics, tls, state, shutdown, look, chores } = self;
        let router = router(state.clone());
        let mut loops = JoinSet::new();
        for listener in listeners {
            loops.spawn(accept(listener, tls.clone(), router.clone(), state.clone()));
        }
        if let Some(listener) = metrics {
            loops.spawn(accept(listener, None, open_metrics(state.clone()), state.clone()));
        }
        let ended = async {
            match tls {
                Some(tls) => keep_looking(&tls, look, orders, &state).await,
                None => orders.ended().await,
            }
        };
        tokio::select! {
            () = ended => {}
            // Dropped with the order to end: the next process goes on.
            () = chores::maintain(&state, chores) => {}
        }
        let clock = Clock::system();
        let end = clock.now() + shutdown.total;
        state.leave();
        let waited = orders.unless_now(sleep(shutdown.delay.min(shutdown.total))).await;
        // The listeners are closed when this returns.
        loops.shutdown().await;
        state.draining().cancel();
        state.tasks().close();
        let left = shutdown.drain.min(end.left(clock.now()));
        let finished = match waited {
            Some(()) => orders.unless_now(within(left, state.tasks().wait())).await.flatten(),
            // Whoever is done already is not cut.
            None => within(Duration::ZERO, state.tasks().wait()).await,
        };
        match finished {
            Some(()) => Drained::Clean,
            None => {
                log::warn(&format!("the end cut {} connections and streams", state.tasks().len()));
                Drained::Cut
            }
        }
    }
}

/// Takes connections for ever.
async fn accept(listener: TcpListener, tls: Option<Tls>, router: Router, state: State) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without a place the stream is dropped, which closes it.
                let Some(place) = state.connection_slot() else { continue };
                let connection = serve_one(stream, tls.clone(), router.clone(), state.clone());
                state.tasks().spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            // Out of files, or a client that was gone before we looked: both pass.
            Err(error) => {
                log::warn(&format!("accept failed: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Looks at the certificate's files now and then, and when told to, until the order to end.
async fn keep_looking(tls: &Tls, every: Duration, orders: &Orders, state: &State) {
    tls.tell(state.metrics());
    loop {
        tokio::select! {
            biased;
            () = orders.ended() => return,
            () = orders.looked() => {}
            () = sleep(every) => {}
        }
        match tls.look() {
            Looked::Same => {}
            Looked::Taken => {
                state.metrics().reloaded("ok");
                tls.tell(state.metrics());
                log::info("a new certificate serves");
            }
            Looked::Kept(why) => {
                state.metrics().reloaded("error");
                log::warn(&format!("the certificate's files changed and do not go, the old pair serves on: {why}"));
            }
        }
    }
}

async fn serve_one(stream: TcpStream, tls: Option<Tls>, router: Router, state: State) {
    state.metrics().connected();
    // Without it small answers wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve_http(stream, router, &state).await,
        Some(tls) => {
            let handshake = within(state.timeouts().head, tls.acceptor().accept(stream));
            match state.draining().run_until_cancelled(handshake).await {
                Some(Some(Ok(stream))) => serve_http(stream, router, &state).await,
                // Whoever speaks no TLS, or too slowly, gets no answer that it could read.
                _ => state.metrics().connection_refused("handshake"),
            }
        }
    }
    state.metrics().disconnected();
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, state: &State) {
    // A little longer than a stream waits for its reader, which can still say why it ends.
    let io = TokioIo::new(Io { stream, patience: state.timeouts().stalled.mul_f32(1.25), stalled: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.timeouts().head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // What goes wrong on a connection is the client's business.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        () = state.draining().cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// A connection whose reader must not stand still.
struct Io<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Io<S> {
    /// Fails a write that has waited too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
