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
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::log;
use crate::routes::router;
use crate::state::State;
use crate::wait::{sleep, within};

/// Longest head.
const HEAD_BYTES: usize = 16 << 10;
/// How long to wait when the system cannot give us another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    state: State,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every request in flight was answered.
    Clean,
    /// Some connections were cut when the time to drain was over.
    Cut,
}

impl Server {
    /// Binds an address on loopback; port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be bound, or is not loopback, or the state is an embedded one, which asks for no token.
    pub async fn bind(address: SocketAddr, state: State) -> io::Result<Self> {
        if state.is_embedded() || !address.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a state with tokens is served, and only on loopback"));
        }
        state.loopback_only();
        Ok(Self { listener: TcpListener::bind(address).await?, state })
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` resolves, then drains: not ready, no new connections, streams end with `bye`, requests are finished.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener at once and leaves open connections to the runtime.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Drained {
        let Self { listener, state } = self;
        let router = router(state.clone());
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Without a place the stream is dropped, which closes it.
                    let Some(place) = state.connection_slot() else { continue };
                    let connection = serve_one(stream, router.clone(), state.clone());
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
        state.metrics().draining();
        state.draining().cancel();
        drop(listener);
        state.tasks().close();
        match within(state.timeouts().drain, state.tasks().wait()).await {
            Some(()) => Drained::Clean,
            None => Drained::Cut,
        }
    }
}

async fn serve_one(stream: TcpStream, router: Router, state: State) {
    state.metrics().connected();
    // Without it small answers wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Io { stream, patience: state.timeouts().stalled, stalled: None });
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
    state.metrics().disconnected();
}

/// A connection whose reader must not stand still.
struct Io {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Io {
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

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
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
