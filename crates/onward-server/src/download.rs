//! Long answers that are no events: pieces that wait for the reader, and an end that cannot be taken for a whole when it is none.
//!
//! A reader that stands still holds at most a few pieces; the listener closes its connection when nothing moved for 30 s.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::auth::caller::Caller;
use crate::auth::tokens::Standing;
use crate::call::Call;
use crate::refusal::Refusal;
use crate::state::State;

/// Pieces on their way.
const PIECES: usize = 4;
/// About how long a piece is.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Where pieces come from.
pub(crate) trait Pieces: Send + 'static {
    /// Gives the next piece; `None` at the end. An error cuts the answer off.
    fn next(&mut self) -> impl Future<Output = onward::Result<Option<Bytes>>> + Send;
}

/// Answers with pieces as they come.
pub(crate) fn download(call: &Call, content_type: &'static str, pieces: impl Pieces) -> Result<Response, Refusal> {
    let state = &call.state;
    let places = (call.caller.stream_slot()?, state.stream_slot()?);
    let (to, from) = mpsc::channel(PIECES);
    state.tasks().spawn(feed(state.clone(), call.caller.clone(), places, to, pieces));
    let mut response = Response::new(Body::new(Download(from)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// A place among the streams of a token, and one among all.
type Places = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

async fn feed(state: State, caller: Caller, places: Places, to: mpsc::Sender<Result<Bytes, Cut>>, mut pieces: impl Pieces) {
    loop {
        let piece = tokio::select! {
            biased;
            () = state.draining().cancelled() => Err(Cut("the server shuts down".to_owned())),
            () = to.closed() => break,
            piece = pieces.next() => piece.map_err(|e| Cut(e.to_string())),
        };
        // Before the piece is sent: who was revoked gets nothing more.
        let piece = match state.standing(&caller).await {
            Standing::Good => piece,
            Standing::Ended => Err(Cut("the token was revoked or has ended".to_owned())),
            Standing::Unclear => Err(Cut("the tokens cannot be read".to_owned())),
        };
        let piece = match piece {
            Ok(None) => break,
            Ok(Some(piece)) => Ok(piece),
            Err(cut) => Err(cut),
        };
        let cut = piece.is_err();
        // An error of a send means that the client is gone.
        if to.send(piece).await.is_err() || cut {
            break;
        }
    }
    drop(places);
}

/// Why an answer ended before its end.
#[derive(Debug)]
struct Cut(String);

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Cut {}

struct Download(mpsc::Receiver<Result<Bytes, Cut>>);

impl HttpBody for Download {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
