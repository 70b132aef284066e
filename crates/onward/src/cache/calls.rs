//! The one way from a handle to its engine: each call is bounded by `op_timeout` (C7).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::engine::{CacheEngine, Filling};
use super::outcome::{CacheStats, Entry, Expiry, Filled, Flushed, GuardEnd, Invalidation, Life, Reserved, Touched};
use super::slot::{GuardOwner, Nonce, Slot};
use crate::observe::Finding;
use crate::time::Clock;
use crate::{Error, Result, retry};

/// An engine and how long to wait for its answers; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    engine: Arc<dyn CacheEngine>,
    clock: Clock,
    op_timeout: Duration,
}

macro_rules! calls {
    ($($late:ident: $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(pub(super) async fn $name(&self $(, $arg: $type)*) -> Result<$answer> {
            self.in_time(Error::$late, self.engine.$name($($arg),*)).await
        })*
    };
}

/// The same for batches: when the time is over, each key gets the error.
macro_rules! batches {
    ($($late:ident: $name:ident($asked:ident: $type:ty $(, $arg:ident: $arg_type:ty)*) -> $answer:ty;)*) => {
        $(pub(super) async fn $name(&self, $asked: &[$type] $(, $arg: $arg_type)*) -> Vec<Result<$answer>> {
            let answers = self.in_time(Error::$late, async { Ok(self.engine.$name($asked $(, $arg)*).await) }).await;
            let mut answers = answers.unwrap_or_else(|late| $asked.iter().map(|_| Err(late.again())).collect());
            answers.resize_with($asked.len(), || Err(Error::integrity("the cache engine left a key of a batch out")));
            answers
        })*
    };
}

impl Calls {
    pub(super) fn new(engine: Arc<dyn CacheEngine>, clock: Clock, op_timeout: Duration) -> Self {
        Self { engine, clock, op_timeout }
    }

    /// Returns the same engine with another bound.
    pub(super) fn within(&self, op_timeout: Duration) -> Self {
        Self { op_timeout, ..self.clone() }
    }

    pub(super) fn engine(&self) -> &Arc<dyn CacheEngine> {
        &self.engine
    }

    // What a late answer means: a read has done nothing, a write may have happened.
    calls! {
        unavailable: lookup(slot: Slot<'_>) -> Option<Entry>;
        unknown: reserve(slot: Slot<'_>, fill_ttl: Duration, instead_of: Option<Nonce>) -> Reserved;
        unknown: commit(slot: Slot<'_>, nonce: Nonce, payload: Bytes, life: Life) -> Filled;
        unknown: abandon(slot: Slot<'_>, nonce: Nonce) -> ();
        unknown: invalidate(slot: Slot<'_>, hold_off: Duration) -> Invalidation;
        unknown: expire(slot: Slot<'_>) -> Expiry;
        unknown: touch(slot: Slot<'_>, ttl: Duration) -> Touched;
        unavailable: fields(namespace: &str, key: &[u8]) -> Vec<Bytes>;
        unknown: guard(namespace: &str, key: &[u8], owner: GuardOwner, ttl: Duration) -> ();
        unavailable: guarded(namespace: &str, key: &[u8], owner: GuardOwner) -> bool;
        unknown: release(namespace: &str, key: &[u8], owner: GuardOwner, hold_off: Duration) -> GuardEnd;
        unknown: flush(namespace: &str) -> Flushed;
        unknown: flush_all() -> Flushed;
        unavailable: stats(namespace: &str) -> CacheStats;
        unavailable: check() -> Vec<Finding>;
    }

    batches! {
        unavailable: lookup_many(slots: Slot<'_>) -> Option<Entry>;
        unknown: reserve_many(asked: (Slot<'_>, Option<Nonce>), fill_ttl: Duration) -> Reserved;
        unknown: commit_many(fills: Filling<'_>) -> Filled;
        unknown: invalidate_many(slots: Slot<'_>, hold_off: Duration) -> Invalidation;
    }

    async fn in_time<T>(&self, late: fn(&'static str) -> Error, call: impl Future<Output = Result<T>>) -> Result<T> {
        in_time(&self.clock, self.op_timeout, late, call).await
    }
}

/// Waits for an engine at most `limit`, and drops the call then.
pub(super) async fn in_time<T>(
    clock: &Clock,
    limit: Duration,
    late: fn(&'static str) -> Error,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut call = pin!(call);
    // An engine in this process answers at once: no timer for it.
    if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
        return answer;
    }
    let answer = retry::answer_by(clock, clock.now() + limit, call).await;
    answer.unwrap_or_else(|| Err(late("the cache engine did not answer in time")))
}
