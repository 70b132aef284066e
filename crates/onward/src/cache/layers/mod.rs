//! Engines around engines. Each passes the conformance suite, so a handle can't tell it from a single engine (C9: none drops a lease).
//!
//! | file | holds |
//! |---|---|
//! | `breaker` | [`Breaker`]: no waiting for an engine that is away, and no lost invalidation |
//! | `pending` | the invalidations that wait for it |
//! | `sharded` | [`Sharded`]: each key on one of several engines |

mod breaker;
mod pending;
mod sharded;

use std::future::poll_fn;
use std::task::Poll;

use futures_core::future::BoxFuture;

pub use breaker::Breaker;
pub use sharded::Sharded;

/// Waits for all of the calls at once, in their order.
async fn all<T>(mut calls: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut waiting = false;
        for (call, answer) in calls.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            match call.as_mut().poll(cx) {
                Poll::Ready(ready) => *answer = Some(ready),
                Poll::Pending => waiting = true,
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    answers.into_iter().flatten().collect()
}
