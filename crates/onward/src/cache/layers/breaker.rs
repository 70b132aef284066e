//! Keeps an engine that fails from holding everyone up, and its failed invalidations from being lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;

use super::pending::{Pending, Replay};
use crate::cache::calls::in_time;
use crate::cache::{
    CacheEngine, CacheStats, Entry, Expiry, Filled, Filling, Flushed, GuardEnd, GuardOwner, Invalidation, Life, Near, Nonce, Promise,
    Reserved, Slot, Touched,
};
use crate::observe::Finding;
use crate::time::{Clock, Moment};
use crate::{Error, Kind, Result};

/// How long to wait for one answer: below the `op_timeout` of a handle, so that the breaker judges first.
const OP_TIMEOUT: Duration = Duration::from_millis(200);
/// How many calls fail in a row before the engine is left alone.
const FAILURES: u32 = 5;
/// How long it is left alone before one call tries again.
const REST: Duration = Duration::from_secs(1);

/// An engine that answers at once while the one behind it is away.
///
/// After five failures in a row reads fail at once, and every second one call tries again. Invalidations and flushes are always tried; one
/// that fails, or whose future is dropped, waits in memory: its answer is `Queued`. While one waits, this process bypasses the namespace:
/// nothing is read, reserved or committed, so no reader here gets what was to go, and no lease from before lands. What waits is
/// sent again in the background until it is done.
///
/// At most 1,024 keys wait; beyond that their namespaces are flushed instead, without a hold-off. What waits dies with the process: other processes may read
/// what was to go until it ends by itself. Who needs more lets the store's change feed deliver: it asks again until it is done.
#[derive(Debug)]
pub struct Breaker {
    engine: Arc<dyn CacheEngine>,
    clock: Clock,
    health: Arc<Health>,
    pending: Arc<Pending>,
}

/// How the engine does.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<(u32, Option<Moment>)>);

impl Health {
    fn allows(&self, now: Moment) -> bool {
        let mut health = self.0.lock();
        match *health {
            (failures, Some(rested)) if failures >= FAILURES => {
                if now < rested {
                    return false;
                }
                health.1 = Some(now + REST);
                true
            }
            _ => true,
        }
    }

    fn note(&self, failed: bool, now: Moment) {
        let mut health = self.0.lock();
        *health = if failed { (health.0.saturating_add(1), Some(now + REST)) } else { (0, None) };
    }
}

fn is_away<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == Kind::Backend)
}

impl Breaker {
    /// Puts a breaker before an engine; inside a Tokio runtime what waits is sent again in the background.
    pub fn new(engine: Arc<dyn CacheEngine>, clock: Clock) -> Self {
        let replay = Replay { engine: Arc::clone(&engine), clock: clock.clone(), op_timeout: OP_TIMEOUT };
        Self { engine, clock, health: Arc::default(), pending: Pending::new(replay) }
    }

    /// Returns how many invalidations and flushes wait.
    pub fn queued(&self) -> usize {
        self.pending.len()
    }

    /// Sends one call and judges its end.
    async fn send<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = in_time(&self.clock, OP_TIMEOUT, Error::unknown, call).await;
        self.health.note(is_away(&answer), self.clock.now());
        answer
    }

    /// The same for a batch: it failed if a key failed.
    async fn send_many<T>(&self, len: usize, call: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
        let answers = in_time(&self.clock, OP_TIMEOUT, Error::unknown, async { Ok(call.await) }).await;
        let failed = answers.as_ref().map_or(true, |answers| answers.iter().any(is_away));
        self.health.note(failed, self.clock.now());
        answers.unwrap_or_else(|late| (0..len).map(|_| Err(late.again())).collect())
    }

    /// Refuses at once what an open breaker or a waiting invalidation does not let pass.
    fn admit(&self, slot: Slot<'_>) -> Result<()> {
        if self.pending.bypasses(slot.namespace) {
            return Err(Error::unavailable("an invalidation of this namespace waits for the cache engine"));
        }
        if !self.health.allows(self.clock.now()) {
            return Err(Error::unavailable("the cache engine failed too often and is left alone"));
        }
        Ok(())
    }

    async fn pass<T>(&self, slot: Slot<'_>, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.admit(slot)?;
        self.send(call).await
    }

    /// Lets a batch of one handle pass; all its slots are in one namespace.
    async fn pass_many<T>(&self, first: Option<Slot<'_>>, len: usize, call: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
        match first.map_or(Ok(()), |slot| self.admit(slot)) {
            Ok(()) => self.send_many(len, call).await,
            Err(refused) => (0..len).map(|_| Err(refused.again())).collect(),
        }
    }

    /// Tries an invalidation of any kind, however ill the engine is. If that fails or is dropped, the key waits.
    async fn purge<T>(&self, slot: Slot<'_>, hold_off: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let unsure = Unsure { pending: &self.pending, slots: &[slot], hold_off, settled: false };
        let answer = self.send(call).await;
        unsure.settle(!is_away(&answer));
        answer
    }

    async fn flushed(&self, namespace: Option<&str>, call: BoxFuture<'_, Result<Flushed>>) -> Result<Flushed> {
        let unsure = UnsureFlush { pending: &self.pending, namespace, settled: false };
        let answer = self.send(call).await;
        unsure.settle(!is_away(&answer));
        or_queued(answer, Flushed::Queued)
    }
}

/// Turns the failure of what waits now into its outcome.
fn or_queued<T>(answer: Result<T>, queued: T) -> Result<T> {
    if is_away(&answer) { Ok(queued) } else { answer }
}

/// Invalidations whose end nobody knows yet; unless settled, dropping them makes them wait.
struct Unsure<'a> {
    pending: &'a Arc<Pending>,
    slots: &'a [Slot<'a>],
    hold_off: Duration,
    settled: bool,
}

impl Unsure<'_> {
    fn settle(mut self, settled: bool) {
        self.settled = settled;
    }
}

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        if !self.settled {
            for slot in self.slots {
                self.pending.add(slot.namespace, slot.key, self.hold_off);
            }
        }
    }
}

/// The same for a flush; no namespace means all.
struct UnsureFlush<'a> {
    pending: &'a Arc<Pending>,
    namespace: Option<&'a str>,
    settled: bool,
}

impl UnsureFlush<'_> {
    fn settle(mut self, settled: bool) {
        self.settled = settled;
    }
}

impl Drop for UnsureFlush<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.pending.add_flush(self.namespace);
        }
    }
}

impl CacheEngine for Breaker {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    fn promise(&self) -> Promise {
        self.engine.promise()
    }

    fn near(&self, slot: Slot<'_>) -> Option<&dyn Near> {
        if self.pending.bypasses(slot.namespace) { None } else { self.engine.near(slot) }
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        Box::pin(self.pass(slot, self.engine.lookup(slot)))
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        Box::pin(self.pass(slot, self.engine.reserve(slot, fill_ttl, instead_of)))
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        Box::pin(self.pass(slot, self.engine.commit(slot, nonce, payload, life)))
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.pass(slot, self.engine.abandon(slot, nonce)))
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        Box::pin(async move { or_queued(self.purge(slot, hold_off, self.engine.invalidate(slot, hold_off)).await, Invalidation::Queued) })
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        Box::pin(async move { or_queued(self.purge(slot, Duration::ZERO, self.engine.expire(slot)).await, Expiry::Queued) })
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        Box::pin(self.pass(slot, self.engine.touch(slot, ttl)))
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(self.pass(Slot { namespace, key, field: None }, self.engine.fields(namespace, key)))
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.pass(Slot { namespace, key, field: None }, self.engine.guard(namespace, key, owner, ttl)))
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        Box::pin(self.send(self.engine.guarded(namespace, key, owner)))
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        let call = self.engine.release(namespace, key, owner, hold_off);
        Box::pin(async move { self.purge(Slot { namespace, key, field: None }, hold_off, call).await })
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        Box::pin(self.flushed(Some(namespace), self.engine.flush(namespace)))
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        Box::pin(self.flushed(None, self.engine.flush_all()))
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        Box::pin(self.send(self.engine.stats(namespace)))
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.engine.check()
    }

    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        Box::pin(self.pass_many(slots.first().copied(), slots.len(), self.engine.lookup_many(slots)))
    }

    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        let first = asked.first().map(|(slot, _)| *slot);
        Box::pin(self.pass_many(first, asked.len(), self.engine.reserve_many(asked, fill_ttl)))
    }

    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        let first = fills.first().map(|fill| fill.slot);
        Box::pin(self.pass_many(first, fills.len(), self.engine.commit_many(fills)))
    }

    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        Box::pin(async move {
            let unsure = Unsure { pending: &self.pending, slots, hold_off, settled: false };
            let answers = self.send_many(slots.len(), self.engine.invalidate_many(slots, hold_off)).await;
            for (slot, _) in slots.iter().zip(&answers).filter(|(_, answer)| is_away(answer)) {
                self.pending.add(slot.namespace, slot.key, hold_off);
            }
            unsure.settle(true);
            answers.into_iter().map(|answer| or_queued(answer, Invalidation::Queued)).collect()
        })
    }
}
