//! Servers, and what the benchmarks ask them over a socket: as little as a client can do, so that the server is what is measured.

#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use onward_server::{Orders, Rate, Server, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of what is stored and fetched.
pub(crate) const BODY: usize = 512;
/// Counted, and never used up.
pub(crate) const PLENTY: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

/// Serves on loopback, as `onward` does.
pub(crate) async fn serve(state: State) -> (SocketAddr, JoinHandle<()>) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), state).await.unwrap();
    let address = server.local_addr().unwrap();
    (
        address,
        tokio::spawn(async move {
            let _ = server.serve(&Orders::default()).await;
        }),
    )
}

/// A bare axum route, `/bare`, with the same bytes.
pub(crate) async fn bare() -> SocketAddr {
    let body = Bytes::from(vec![b'x'; BODY]);
    plain(Router::new().route("/bare", get(move || std::future::ready(body.clone())))).await
}

/// A router, served by axum alone.
pub(crate) async fn plain(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// A connection.
pub(crate) struct Wire {
    address: SocketAddr,
    stream: TcpStream,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // No byte is kept back.
        stream.set_nodelay(true).unwrap();
        Self { address, stream }
    }

    /// Sends a request and reads its answer, whose length its head tells; returns the status. A connection that the server ends is made anew.
    pub(crate) async fn exchange(&mut self, request: &[u8], buffer: &mut [u8]) -> u16 {
        self.stream.write_all(request).await.unwrap();
        let mut held = 0;
        loop {
            let read = self.stream.read(&mut buffer[held..]).await.unwrap();
            assert!(read > 0, "the server closed the connection, or the answer is too long");
            held += read;
            let text = std::str::from_utf8(&buffer[..held]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let status = head[9..12].parse().unwrap();
                if head.contains("connection: close") {
                    *self = Self::connect(self.address).await;
                }
                return status;
            }
        }
    }
}

/// The one in the middle, the least and the most.
pub(crate) fn spread(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    [all[all.len() / 2], all[0], all[all.len() - 1]]
}
