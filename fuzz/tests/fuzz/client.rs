//! What a server, or somebody who plays one, sends to the client: event streams and answers, in pieces of any size.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use http_body_util::StreamBody;
use onward_api::client::{Client, Event, Local, Request};

use crate::engine::{Dice, fuzz};

/// The pieces of a body, one after the other.
struct Pieces(std::vec::IntoIter<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<hyper::body::Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(|piece| Ok(hyper::body::Frame::data(piece))))
    }
}

fn pieces(input: &[u8], dice: &mut Dice, whole: bool) -> Pieces {
    let mut rest = input;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let end = if whole { rest.len() } else { 1 + dice.below(rest.len().min(40)) };
        pieces.push(Bytes::copy_from_slice(&rest[..end]));
        rest = &rest[end..];
    }
    Pieces(pieces.into_iter())
}

/// A client of somebody who answers everything with this.
fn client(status: u16, kind: &'static str, input: &[u8], whole: bool) -> Client {
    let input = input.to_vec();
    let service = tower::service_fn(move |_: http::Request<_>| {
        let body = StreamBody::new(pieces(&input, &mut Dice::new(7), whole));
        let answer = http::Response::builder().status(status).header("content-type", kind).body(body).unwrap();
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    Client::local(Local::new(service), None).unwrap()
}

#[test]
fn events_are_the_same_however_they_are_cut() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    fuzz("events", |input| {
        let read = async |whole| -> (Vec<Event>, bool) {
            let mut stream = client(200, "text/event-stream", input, whole).stream(Request::get("/v1/watch")).await.unwrap();
            let mut events = Vec::new();
            loop {
                match stream.next().await {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => return (events, true),
                    Err(_) => return (events, false),
                }
            }
        };
        runtime.block_on(async {
            let whole = read(true).await;
            assert_eq!(read(false).await, whole);
            assert!(whole.0.iter().all(|event| !event.name.is_empty()));
        });
    });
}

#[test]
fn any_answer_is_a_value_or_a_problem() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    fuzz("answers", |input| {
        runtime.block_on(async {
            for (status, method) in [(200, Method::GET), (409, Method::POST), (503, Method::PUT), (504, Method::DELETE)] {
                let client = client(status, "application/problem+json", input, false);
                match client.call(Request::new(method, "/v1/objects/a/b")).await {
                    Ok(answer) => drop(answer.json::<serde_json::Value>()),
                    Err(problem) => assert!(!problem.to_string().is_empty() || status != 409 || !input.is_empty()),
                }
            }
        });
    });
}
