//! Answers that are long: piece by piece, in bounded memory, and visibly broken off if they end before their end.
//!
//! A client that does not read holds at most 1 MiB; the listener closes its connection when nothing moved for 30 s.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::refusal::Refusal;
use crate::state::State;

/// Pieces on their way, and the longest piece: 1 MiB in sum.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// Where pieces come from.
pub(crate) trait Pieces: Send + 'static {
    /// Returns the next piece; `None` at the end.
    fn next(&mut self) -> impl Future<Output = onward::Result<Option<Bytes>>> + Send;
}

/// Answers with pieces.
pub(crate) fn flow(state: &State, content_type: &'static str, pieces: impl Pieces) -> Result<Response, Refusal> {
    let slot = state.stream_slot()?;
    let (to, from) = mpsc::channel(PIECES);
    state.tasks().spawn(feed(state.clone(), slot, to, pieces));
    let mut response = Response::new(Body::new(Flow(from)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

type Piece = io::Result<Bytes>;

async fn feed(state: State, slot: OwnedSemaphorePermit, to: mpsc::Sender<Piece>, mut pieces: impl Pieces) {
    let sent = tokio::select! {
        biased;
        () = state.draining().cancelled() => Err("the server shuts down"),
        () = to.closed() => Ok(()),
        sent = send_all(&to, &mut pieces) => sent,
    };
    if let Err(why) = sent {
        // The connection ends in the middle of the body: nobody takes the part for the whole. Who is gone needs no word.
        let _ = to.send(Err(io::Error::other(why))).await;
    }
    drop(slot);
}

async fn send_all(to: &mpsc::Sender<Piece>, pieces: &mut impl Pieces) -> Result<(), &'static str> {
    while let Some(mut bytes) = pieces.next().await.map_err(|_| "the engine failed")? {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            if to.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The body of an answer in pieces.
struct Flow(mpsc::Receiver<Piece>);

impl HttpBody for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
