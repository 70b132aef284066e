//! Faults around any lock engine: answers that get lost, refusals, calls that hang; and it counts calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Release, Renewal, Renewed, Tried, Waiters};
use crate::model::{FencingToken, LockKey};
use crate::{Error, Result};

/// A call of the engine trait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `try_acquire`.
    Acquire,
    /// `renew`.
    Renew,
    /// `release`.
    Release,
    /// `inspect`.
    Inspect,
    /// `list`.
    List,
    /// `take_over`.
    TakeOver,
    /// `raise`.
    Raise,
    /// `leave`.
    Leave,
}

/// How a call fails.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Surely not applied.
    Refused,
    /// Applied, but reported as unknown.
    ReplyLost,
    /// Not applied, and reported as unknown.
    RequestLost,
    /// Waits in front of the engine until the gate opens.
    SlowRequest(Gate),
    /// Applied, and the reply waits until the gate opens.
    SlowReply(Gate),
}

/// Where slow calls wait; clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Barrier>);

#[derive(Debug)]
struct Barrier {
    reached: Semaphore,
    open: Semaphore,
}

impl Gate {
    /// Makes a shut gate.
    pub fn shut() -> Self {
        Self(Arc::new(Barrier { reached: Semaphore::new(0), open: Semaphore::new(0) }))
    }

    /// Waits until one more call stands before the gate.
    pub async fn reached(&self) {
        // Nobody closes the semaphores.
        if let Ok(permit) = self.0.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets one call pass.
    pub fn open(&self) {
        self.0.open.add_permits(1);
    }

    /// Stands before the gate until it opens.
    pub async fn stand(&self) {
        self.0.reached.add_permits(1);
        if let Ok(permit) = self.0.open.acquire().await {
            permit.forget();
        }
    }
}

/// An engine around an engine that fails as it is told.
#[derive(Debug)]
pub struct FaultyLocks {
    inner: Arc<dyn LockEngine>,
    always: Mutex<HashMap<Call, Fault>>,
    script: Mutex<HashMap<Call, VecDeque<Fault>>>,
    /// Whom a reply was lost to already; `None`: none is lost by itself.
    told_nothing: Option<Mutex<HashSet<Owner>>>,
    calls: Mutex<HashMap<Call, u64>>,
    /// Calls that an engine works on: neither answered nor before a gate.
    busy: AtomicU64,
}

/// Takes a call off the count however it ends.
struct Busy<'a>(&'a AtomicU64);

impl<'a> Busy<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FaultyLocks {
    /// Wraps an engine; nothing fails yet.
    pub fn new(inner: Arc<dyn LockEngine>) -> Self {
        Self {
            inner,
            always: Mutex::default(),
            script: Mutex::default(),
            told_nothing: None,
            calls: Mutex::default(),
            busy: AtomicU64::new(0),
        }
    }

    /// Wraps an engine and loses the reply to each owner's first acquire: whoever asks again finds his grant.
    pub fn that_loses_replies(inner: Arc<dyn LockEngine>) -> Self {
        Self { told_nothing: Some(Mutex::default()), ..Self::new(inner) }
    }

    /// Lets a call fail from now on.
    pub fn fail(&self, call: Call, fault: Fault) {
        self.always.lock().insert(call, fault);
    }

    /// Lets the next call fail, before what [`FaultyLocks::fail`] says; repeated, those after it.
    pub fn fail_once(&self, call: Call, fault: Fault) {
        self.script.lock().entry(call).or_default().push_back(fault);
    }

    /// Makes everything well.
    pub fn heal(&self) {
        self.always.lock().clear();
        self.script.lock().clear();
    }

    /// Returns how often a call was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.calls.lock().get(&call).copied().unwrap_or(0)
    }

    /// Returns how many calls were made.
    pub fn all_calls(&self) -> u64 {
        self.calls.lock().values().sum()
    }

    /// Returns whether the engine works on a call: one that waits before a gate is not worked on.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    /// Waits until what others said to this engine before has arrived: an engine that pushes does so in order with its answers.
    pub async fn heard(&self) {
        if let Ok(key) = LockKey::raw("heard") {
            // An engine that fails says nothing more.
            let _ = self.inner.inspect(key).await;
        }
    }

    /// Returns the engine inside.
    pub fn inner(&self) -> &Arc<dyn LockEngine> {
        &self.inner
    }

    fn next_fault(&self, call: Call) -> Option<Fault> {
        *self.calls.lock().entry(call).or_default() += 1;
        let scripted = self.script.lock().get_mut(&call).and_then(VecDeque::pop_front);
        scripted.or_else(|| self.always.lock().get(&call).cloned())
    }

    fn loses_reply_to(&self, owner: Owner) -> Option<Fault> {
        self.told_nothing.as_ref().and_then(|owners| owners.lock().insert(owner).then_some(Fault::ReplyLost))
    }

    fn run<'a, T: Send + 'a>(&'a self, call: Call, inner: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
        self.run_with(self.next_fault(call), inner)
    }

    fn run_with<'a, T: Send + 'a>(
        &'a self,
        fault: Option<Fault>,
        inner: impl Future<Output = Result<T>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        let work = async move {
            let _busy = Busy::begin(&self.busy);
            inner.await
        };
        Box::pin(async move {
            match fault {
                None => work.await,
                Some(Fault::Refused) => Err(Error::unavailable("refused by the test")),
                Some(Fault::RequestLost) => Err(Error::unknown("request lost by the test")),
                Some(Fault::ReplyLost) => {
                    work.await?;
                    Err(Error::unknown("reply lost by the test"))
                }
                Some(Fault::SlowRequest(gate)) => {
                    gate.stand().await;
                    work.await
                }
                Some(Fault::SlowReply(gate)) => {
                    let answer = work.await;
                    gate.stand().await;
                    answer
                }
            }
        })
    }
}

impl LockEngine for FaultyLocks {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        let first = self.loses_reply_to(ask.owner);
        let fault = self.next_fault(Call::Acquire).or(first);
        self.run_with(fault, async move { self.inner.try_acquire(ask).await })
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        self.run(Call::Renew, async move { self.inner.renew(batch).await })
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        self.run(Call::Release, async move { self.inner.release(batch).await })
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        self.run(Call::Inspect, async move { self.inner.inspect(key).await })
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        self.run(Call::List, async move { self.inner.list(prefix, after, limit).await })
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        self.run(Call::TakeOver, async move { self.inner.take_over(ask).await })
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        self.run(Call::Raise, async move { self.inner.raise(newest).await })
    }

    fn has_queue(&self) -> bool {
        self.inner.has_queue()
    }

    fn listen(&self, waiters: Weak<dyn Waiters>) {
        self.inner.listen(waiters);
    }

    fn leave(&self, keys: Vec<LockKey>) -> BoxFuture<'_, Result<()>> {
        self.run(Call::Leave, async move { self.inner.leave(keys).await })
    }
}
