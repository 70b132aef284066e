//! An engine around one that is not in this process: the suite waits until its calls are answered before it moves the clock.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use crate::Result;
use crate::cache::{
    CacheEngine, CacheStats, Entry, Expiry, Filled, Filling, Flushed, GuardEnd, GuardOwner, Invalidation, Life, Nonce, Promise, Reserved,
    Slot, Touched,
};
use crate::observe::Finding;

thread_local! {
    /// Calls of this thread's runtime that are not answered yet.
    static UNDER_WAY: Cell<usize> = const { Cell::new(0) };
}

/// Tells whether an engine of this thread's runtime works on a call.
pub(super) fn is_busy() -> bool {
    UNDER_WAY.get() > 0
}

/// One call under way; only for a runtime of one thread.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.set(UNDER_WAY.get().saturating_sub(1));
    }
}

/// An engine that tells the suite what it works on, and keeps alive what it stands on, such as a server.
pub struct WatchedCache {
    inner: Arc<dyn CacheEngine>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for WatchedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl WatchedCache {
    /// Wraps an engine.
    pub fn new(inner: Arc<dyn CacheEngine>, keep: impl Any + Send + Sync) -> Self {
        Self { inner, _keep: Box::new(keep) }
    }

    fn run<'a, T: Send + 'a>(&'a self, call: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        Box::pin(async move {
            let _under_way = UnderWay::begin();
            call.await
        })
    }
}

impl CacheEngine for WatchedCache {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn promise(&self) -> Promise {
        self.inner.promise()
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.run(self.inner.lookup(slot))
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        self.run(self.inner.reserve(slot, fill_ttl, instead_of))
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        self.run(self.inner.commit(slot, nonce, payload, life))
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        self.run(self.inner.abandon(slot, nonce))
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        self.run(self.inner.invalidate(slot, hold_off))
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        self.run(self.inner.expire(slot))
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        self.run(self.inner.touch(slot, ttl))
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.run(self.inner.fields(namespace, key))
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        self.run(self.inner.guard(namespace, key, owner, ttl))
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        self.run(self.inner.guarded(namespace, key, owner))
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        self.run(self.inner.release(namespace, key, owner, hold_off))
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        self.run(self.inner.flush(namespace))
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        self.run(self.inner.flush_all())
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        self.run(self.inner.stats(namespace))
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.inner.check()
    }

    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        self.run(self.inner.lookup_many(slots))
    }

    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        self.run(self.inner.reserve_many(asked, fill_ttl))
    }

    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        self.run(self.inner.commit_many(fills))
    }

    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        self.run(self.inner.invalidate_many(slots, hold_off))
    }
}
