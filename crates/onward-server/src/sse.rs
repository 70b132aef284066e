//! Event streams: bounded memory, a sign of life every 15 s, and a last event that says why the stream ends.
//!
//! A client that does not read holds at most 1 MiB, and is left when nothing moved for 30 s: `bye slow`, if it ever reads that far. It comes
//! back with the id of its last event, so nothing is lost. The listener closes the connection a little later.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::Frame;
use onward::random;
use onward::time::Clock;
use onward_api::objects::Bye;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::auth::caller::Caller;
use crate::auth::tokens::Standing;
use crate::call::Call;
use crate::refusal::Refusal;
use crate::state::State;
use crate::wait::within;

/// How often a quiet stream shows that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How often a quiet stream asks whether its token still is one.
const LOOK: Duration = Duration::from_secs(2);
/// How soon a client should come back.
const RETRY_MS: u32 = 1_000;
/// Pieces of events on their way, and the longest piece: 1 MiB in sum.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// An event, or a few in their order, as they go on the wire; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Event(Bytes);

impl Event {
    /// Makes an event.
    pub(crate) fn new<T: Serialize>(name: &'static str, id: Option<u64>, data: &T) -> Self {
        Self::spell(name, id, &serde_json::to_string(data).unwrap_or_default())
    }

    /// Puts several into one, so that they are sent in one go.
    pub(crate) fn join(events: &[Self]) -> Self {
        let mut out = Vec::with_capacity(events.iter().map(Self::len).sum());
        events.iter().for_each(|event| out.extend_from_slice(&event.0));
        Self(Bytes::from(out))
    }

    /// Returns how many bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn spell(name: &'static str, id: Option<u64>, data: &str) -> Self {
        let mut out = String::with_capacity(data.len() + 64);
        // Writing to a String cannot fail.
        if let Some(id) = id {
            let _ = writeln!(out, "id: {id}");
        }
        let _ = writeln!(out, "event: {name}");
        // A payload is kept as it was written: its line ends would end the field.
        for line in data.split(['\n', '\r']) {
            let _ = writeln!(out, "data: {line}");
        }
        out.push('\n');
        Self(Bytes::from(out))
    }
}

/// What a source of events has.
#[derive(Debug)]
pub(crate) enum Step {
    /// The next event.
    Event(Event),
    /// Nothing new.
    Quiet,
    /// The end, with its reason.
    End(&'static str),
}

/// Where events come from.
pub(crate) trait Source: Send + 'static {
    /// What it streams, as the metrics name it.
    const KIND: &'static str;

    /// Waits for the next step; may be dropped and called again.
    fn next(&mut self) -> impl Future<Output = Step> + Send;
}

/// Answers with a stream of events, the given one first.
pub(crate) fn stream(call: &Call, first: Event, source: impl Source) -> Result<Response, Refusal> {
    let state = &call.state;
    let places = (call.caller.stream_slot()?, state.stream_slot()?);
    let (to, from) = mpsc::channel(PIECES);
    let last = Arc::new(OnceLock::new());
    let to = Reader { to, last: last.clone(), patience: state.timeouts().stalled };
    state.tasks().spawn(feed(state.clone(), call.caller.clone(), places, to, first, source));
    let mut response = Response::new(Body::new(Events { from, last: Some(last) }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// A place among the streams of a token, and one among all.
type Places = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

async fn feed<S: Source>(state: State, caller: Caller, places: Places, to: Reader, first: Event, mut source: S) {
    state.metrics().stream_begun(S::KIND);
    let reason = run(&state, &caller, &to, first, &mut source).await.unwrap_or_else(|lost| lost);
    state.metrics().stream_ended(S::KIND, reason);
    drop(places);
}

/// Who reads a stream.
struct Reader {
    to: mpsc::Sender<Bytes>,
    /// What is read behind the pieces that wait, where there is no room for more.
    last: Arc<OnceLock<Bytes>>,
    patience: Duration,
}

impl Reader {
    /// Sends an event; a reader that takes nothing for its time is left, with a farewell where no event was cut in two.
    ///
    /// # Errors
    /// Why the stream ends: `gone` or `slow`.
    async fn send(&self, mut bytes: Bytes) -> Result<(), &'static str> {
        let mut whole = true;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            match within(self.patience, self.to.send(piece)).await {
                Some(Ok(())) => whole = bytes.is_empty(),
                Some(Err(_)) => return Err("gone"),
                None => {
                    if whole {
                        let _ = self.last.set(bye("slow"));
                    }
                    return Err("slow");
                }
            }
        }
        Ok(())
    }
}

/// Spells the last event; the client comes back with the id that it has.
fn bye(reason: &str) -> Bytes {
    Event::new("bye", None, &Bye { reason: reason.to_owned() }).0
}

async fn run<S: Source>(state: &State, caller: &Caller, to: &Reader, first: Event, source: &mut S) -> Result<&'static str, &'static str> {
    to.send(Bytes::from(format!("retry: {RETRY_MS}\n"))).await?;
    to.send(first.0).await?;
    let spread = u32::from_le_bytes(random::bytes()) % 1_000;
    let clock = Clock::system();
    // Less up to a tenth, so that clients do not all come back at once.
    let age = state.timeouts().stream_age;
    let end = clock.now() + (age - age / 10_000 * spread);
    let mut told = clock.now();
    let reason = loop {
        let step = tokio::select! {
            biased;
            () = state.draining().cancelled() => Step::End("draining"),
            () = to.to.closed() => return Ok("gone"),
            step = within(LOOK, source.next()) => step.unwrap_or(Step::Quiet),
        };
        // Before the event is sent: who was revoked is told nothing more.
        let step = match state.standing(caller).await {
            Standing::Good => step,
            Standing::Ended => Step::End("revoked"),
            Standing::Unclear => Step::End("unavailable"),
        };
        let now = clock.now();
        match step {
            Step::Event(event) => {
                tokio::select! {
                    biased;
                    sent = to.send(event.0) => sent?,
                    // A half-sent event is none: the client comes back with the id before it.
                    () = state.draining().cancelled() => return Ok("draining"),
                }
                told = now;
            }
            Step::Quiet if now.since(told) >= SIGN_OF_LIFE => {
                to.send(Bytes::from_static(b":\n\n")).await?;
                told = now;
            }
            Step::Quiet => {}
            Step::End(reason) => break reason,
        }
        if now >= end {
            break "max_age";
        }
    };
    // A client that does not read any more needs no farewell.
    within(Duration::from_secs(1), to.send(bye(reason))).await.unwrap_or(Ok(()))?;
    Ok(reason)
}

/// The body of a stream.
struct Events {
    from: mpsc::Receiver<Bytes>,
    last: Option<Arc<OnceLock<Bytes>>>,
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let piece = ready!(this.from.poll_recv(cx)).or_else(|| this.last.take()?.get().cloned());
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_in_a_payload_does_not_end_the_event() {
        let event = Event::spell("change", Some(7), "{\n\r\"a\":1}");
        assert_eq!(event.0, "id: 7\nevent: change\ndata: {\ndata: \ndata: \"a\":1}\n\n");
    }
}
