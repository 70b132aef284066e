//! An engine that fails on demand, and what callers see then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;

use super::flight_cases::{Gate, fetch};
use super::{CacheHarness, fill, lease, settle};
use crate::cache::{
    CacheEngine, CacheStats, Entry, Expiry, Fetched, Filled, Flushed, GuardEnd, GuardOwner, How, Invalidation, Life, Lookup, Near, Nonce,
    Promise, Reserved, Slot, Touched, Unfilled,
};
use crate::{Effect, Error, Kind, Result};

/// A call of the engine trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `lookup`.
    Lookup,
    /// `reserve`.
    Reserve,
    /// `commit`.
    Commit,
    /// `abandon`.
    Abandon,
    /// `invalidate` and `expire`.
    Invalidate,
    /// `touch`.
    Touch,
    /// `guard`, `guarded` and `release`.
    Guard,
    /// `flush` and `flush_all`.
    Flush,
    /// `fields` and `stats`.
    Read,
}

/// How a call fails.
#[derive(Clone)]
pub enum Fault {
    /// Surely not applied.
    Refused,
    /// Applied, but reported as unknown.
    ReplyLost,
    /// Reported as unknown once, then well again.
    ReplyLostOnce,
    /// Waits in front of the engine until the gate opens.
    SlowRequest(FaultGate),
    /// Applied, and the reply waits until the gate opens.
    SlowReply(FaultGate),
}

/// Where slow calls wait.
#[derive(Clone)]
pub struct FaultGate(Gate);

impl FaultGate {
    /// Makes a shut gate.
    pub fn shut() -> Self {
        Self(Gate::shut())
    }

    /// Waits until a call stands before the gate.
    pub async fn reached(&self) {
        self.0.reached().await;
    }

    /// Lets one call pass.
    pub fn open(&self) {
        self.0.open();
    }
}

/// An engine around an engine that fails as it is told.
pub struct FaultyCache {
    inner: Arc<dyn CacheEngine>,
    faults: Mutex<HashMap<Call, Fault>>,
}

impl std::fmt::Debug for FaultyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyCache").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FaultyCache {
    /// Wraps an engine; nothing fails yet.
    pub fn new(inner: Arc<dyn CacheEngine>) -> Arc<Self> {
        Arc::new(Self { inner, faults: Mutex::default() })
    }

    /// Lets a call fail from now on.
    pub fn fail(&self, call: Call, fault: Fault) {
        self.faults.lock().insert(call, fault);
    }

    /// Makes everything well.
    pub fn heal(&self) {
        self.faults.lock().clear();
    }

    fn run<'a, T: Send + 'a>(&'a self, call: Call, inner: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
        let fault = {
            let mut faults = self.faults.lock();
            match faults.get(&call) {
                Some(Fault::ReplyLostOnce) => faults.remove(&call),
                other => other.cloned(),
            }
        };
        Box::pin(async move {
            match fault {
                None => inner.await,
                Some(Fault::Refused) => Err(Error::unavailable("refused by the test")),
                Some(Fault::ReplyLost | Fault::ReplyLostOnce) => {
                    inner.await?;
                    Err(Error::unknown("reply lost by the test"))
                }
                Some(Fault::SlowRequest(gate)) => {
                    gate.0.pass().await;
                    inner.await
                }
                Some(Fault::SlowReply(gate)) => {
                    let result = inner.await;
                    gate.0.pass().await;
                    result
                }
            }
        })
    }
}

impl CacheEngine for FaultyCache {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn promise(&self) -> Promise {
        self.inner.promise()
    }

    /// What is here in the process does not fail.
    fn near(&self, slot: Slot<'_>) -> Option<&dyn Near> {
        self.inner.near(slot)
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.run(Call::Lookup, async move { self.inner.lookup(slot).await })
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        self.run(Call::Reserve, async move { self.inner.reserve(slot, fill_ttl, instead_of).await })
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        self.run(Call::Commit, async move { self.inner.commit(slot, nonce, payload, life).await })
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        self.run(Call::Abandon, async move { self.inner.abandon(slot, nonce).await })
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        self.run(Call::Invalidate, async move { self.inner.invalidate(slot, hold_off).await })
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        self.run(Call::Invalidate, async move { self.inner.expire(slot).await })
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        self.run(Call::Touch, async move { self.inner.touch(slot, ttl).await })
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.run(Call::Read, async move { self.inner.fields(namespace, key).await })
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        self.run(Call::Guard, async move { self.inner.guard(namespace, key, owner, ttl).await })
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        self.run(Call::Guard, async move { self.inner.guarded(namespace, key, owner).await })
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        self.run(Call::Guard, async move { self.inner.release(namespace, key, owner, hold_off).await })
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        self.run(Call::Flush, async move { self.inner.flush(namespace).await })
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        self.run(Call::Flush, async move { self.inner.flush_all().await })
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        self.run(Call::Read, async move { self.inner.stats(namespace).await })
    }
}

fn faulty(h: &CacheHarness) -> (Arc<FaultyCache>, CacheHarness) {
    let engine = FaultyCache::new(Arc::clone(&h.engine));
    (Arc::clone(&engine), CacheHarness::over(engine, h.clock.clone()))
}

async fn load_one(h: &CacheHarness) -> Fetched<u64> {
    h.cache.fetch("k", |_| async { Ok::<_, Error>(Some(1u64)) }).await.unwrap()
}

/// An engine that never answers costs each call `op_timeout`: reads are bypassed, writes are `Unknown` (C7).
pub async fn a_hanging_engine_hangs_no_call(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    let (gate, limit) = (FaultGate::shut(), faulty.cache.options().op_timeout);
    for call in
        [Call::Lookup, Call::Reserve, Call::Commit, Call::Abandon, Call::Invalidate, Call::Touch, Call::Guard, Call::Flush, Call::Read]
    {
        engine.fail(call, Fault::SlowRequest(gate.clone()));
    }
    let hung = |call: std::pin::Pin<Box<dyn Future<Output = Error> + Send>>| async {
        let call = tokio::spawn(call);
        gate.reached().await;
        settle().await;
        h.clock.advance(limit.checked_sub(Duration::from_millis(1)).unwrap());
        settle().await;
        assert!(!call.is_finished(), "given up too early");
        h.clock.advance(Duration::from_millis(1));
        call.await.unwrap()
    };
    let cache = || faulty.cache.clone();
    let c = cache();
    let error = hung(Box::pin(async move { c.get::<u64>("k").await.unwrap_err() })).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied));
    let c = cache();
    let error = hung(Box::pin(async move { c.get_many::<u64, _>(&["k"]).await.unwrap().remove(0).unwrap_err() })).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied));
    let c = cache();
    let error = hung(Box::pin(async move { c.invalidate("k").await.unwrap_err() })).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    let c = cache();
    let error = hung(Box::pin(async move { c.expire("k").await.unwrap_err() })).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    let c = cache();
    let error = hung(Box::pin(async move { c.flush_namespace().await.unwrap_err() })).await;
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    let loading = fetch(&faulty.cache, &Arc::default(), None);
    assert_eq!(h.move_clock_until(loading).await.unwrap().how, How::Unfilled(Unfilled::Away));
}

/// A cache that can't be read is bypassed: the value is loaded, nothing is filled, and `get` says so.
pub async fn a_lookup_that_fails_loads_without_a_fill(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    engine.fail(Call::Lookup, Fault::Refused);
    assert_eq!(load_one(&faulty).await, Fetched { value: Some(1), how: How::Unfilled(Unfilled::Away) });
    assert_eq!(faulty.cache.get::<u64>("k").await.unwrap_err().kind(), Kind::Backend);
    assert!(matches!(faulty.cache.begin::<u64>("k").await.unwrap(), Lookup::Busy(_)));
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A reservation that may exist ends by itself; the value is loaded.
pub async fn a_reservation_that_fails_loads_without_a_fill(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    engine.fail(Call::Reserve, Fault::ReplyLost);
    assert_eq!(load_one(&faulty).await, Fetched { value: Some(1), how: How::Unfilled(Unfilled::Away) });
    assert_eq!(h.cache.stats().await.unwrap().reservations, 1);
    h.clock.advance(h.cache.options().fill_ttl);
    fill(&h.cache, "k", 2).await;
}

/// A fill that fails is no error of the read.
pub async fn a_commit_that_fails_still_returns_the_value(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    engine.fail(Call::Commit, Fault::Refused);
    assert_eq!(load_one(&faulty).await, Fetched { value: Some(1), how: How::Unfilled(Unfilled::Away) });
    settle().await;
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
    assert_eq!(lease(&faulty.cache, "k").await.commit(&1).await.unwrap_err().effect(), Effect::NotApplied);
    engine.fail(Call::Commit, Fault::ReplyLost);
    assert_eq!(lease(&faulty.cache, "k").await.commit(&1).await.unwrap_err().effect(), Effect::Unknown);
}

/// A commit whose reply was lost is sent again, and is stored once.
pub async fn a_commit_whose_reply_is_lost_is_sent_again(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    engine.fail(Call::Commit, Fault::ReplyLostOnce);
    assert_eq!(load_one(&faulty).await, Fetched { value: Some(1), how: How::Loaded(Filled::Stored) });
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
}

/// An invalidation that did not happen is an error, never "nothing was there".
pub async fn an_invalidation_that_fails_is_an_error(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    fill(&faulty.cache, "k", 1).await;
    engine.fail(Call::Invalidate, Fault::Refused);
    engine.fail(Call::Flush, Fault::Refused);
    assert_eq!(faulty.cache.invalidate("k").await.unwrap_err().effect(), Effect::NotApplied);
    assert_eq!(faulty.cache.flush_namespace().await.unwrap_err().effect(), Effect::NotApplied);
    engine.heal();
    assert_eq!(faulty.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
}

/// An invalidation that was cut off from its reply is `Unknown`, and did its work.
pub async fn cut_between_a_purge_and_its_reply(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    fill(&faulty.cache, "k", 1).await;
    let in_flight = lease(&faulty.cache, "l").await;
    engine.fail(Call::Invalidate, Fault::ReplyLost);
    for key in ["k", "l"] {
        let error = faulty.cache.invalidate(key).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    }
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
}

/// Between a commit and its reply a value may be stored and invalidated: who comes then must not follow that load (INV-2).
pub async fn a_caller_after_a_commit_does_not_take_its_value(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    let source = Arc::new(AtomicU64::new(1));
    let gate = FaultGate::shut();
    engine.fail(Call::Commit, Fault::SlowReply(gate.clone()));
    let leader = fetch(&faulty.cache, &source, None);
    gate.reached().await;
    engine.heal();
    source.store(2, Ordering::SeqCst);
    assert_eq!(h.cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    let late = fetch(&faulty.cache, &source, None);
    settle().await;
    gate.open();
    assert_eq!(leader.await.unwrap().unwrap().value, Some(1));
    assert_eq!(late.await.unwrap().unwrap().value, Some(2));
}

/// An invalidation whose caller went away is still carried out (C6).
pub async fn a_dropped_invalidation_runs_to_its_end(h: &CacheHarness) {
    let (engine, faulty) = faulty(h);
    fill(&faulty.cache, "k", 1).await;
    let gate = FaultGate::shut();
    engine.fail(Call::Invalidate, Fault::SlowRequest(gate.clone()));
    let call = tokio::spawn({
        let cache = faulty.cache.clone();
        async move { cache.invalidate("k").await }
    });
    gate.reached().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    gate.open();
    settle().await;
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}
