//! Invalidations that wait for an engine that is away, and what sends them again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::cache::calls::in_time;
use crate::cache::{CacheEngine, Flushed, Invalidation, Slot};
use crate::retry::{self, Backoff};
use crate::time::Clock;
use crate::{Error, Result};

/// Most keys that wait, and most namespaces.
const WAITING: usize = 1_024;
/// First and longest pause before what waits is sent again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How to reach the engine.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) engine: Arc<dyn CacheEngine>,
    pub(super) clock: Clock,
    pub(super) op_timeout: Duration,
}

/// What waits. It only grows coarser: too many keys become a flush of their namespace, too many namespaces a flush of all.
#[derive(Debug)]
pub(super) struct Pending {
    replay: Replay,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    serial: u64,
    keys: usize,
    namespaces: HashMap<Arc<str>, Space>,
    /// The serial of a flush of all.
    all: Option<u64>,
    is_sending: bool,
}

/// What waits in a namespace. Each has the serial of its last failure: a replay that began before does not settle it.
#[derive(Debug, Default)]
struct Space {
    keys: HashMap<Arc<[u8]>, u64>,
    hold_off: Duration,
    flush: Option<u64>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.all.is_none() && self.namespaces.is_empty()
    }

    fn forget(&mut self, namespace: &str) {
        if let Some(space) = self.namespaces.remove(namespace) {
            self.keys = self.keys.saturating_sub(space.keys.len());
        }
    }

    fn flush(&mut self, namespace: &str) {
        self.serial += 1;
        self.forget(namespace);
        if self.namespaces.len() >= WAITING {
            return self.flush_all();
        }
        let space = Space { flush: Some(self.serial), ..Space::default() };
        self.namespaces.insert(namespace.into(), space);
    }

    fn flush_all(&mut self) {
        self.serial += 1;
        self.namespaces.clear();
        self.keys = 0;
        self.all = Some(self.serial);
    }

    fn invalidate(&mut self, namespace: &str, key: &[u8], hold_off: Duration) {
        if self.all.is_some() {
            return self.flush_all();
        }
        let is_new = self.namespaces.get(namespace).is_none_or(|space| !space.keys.contains_key(key));
        let flushes = self.namespaces.get(namespace).is_some_and(|space| space.flush.is_some());
        if flushes || (is_new && (self.keys >= WAITING || self.namespaces.len() >= WAITING)) {
            return self.flush(namespace);
        }
        self.serial += 1;
        self.keys += usize::from(is_new);
        let space = self.namespaces.entry(namespace.into()).or_default();
        space.hold_off = space.hold_off.max(hold_off);
        space.keys.insert(key.into(), self.serial);
    }
}

impl Pending {
    pub(super) fn new(replay: Replay) -> Arc<Self> {
        Arc::new(Self { replay, waiting: Mutex::default() })
    }

    pub(super) fn len(&self) -> usize {
        let waiting = self.waiting.lock();
        let flushes = waiting.namespaces.values().filter(|space| space.flush.is_some()).count();
        waiting.keys + flushes + usize::from(waiting.all.is_some())
    }

    /// Tells whether the namespace must not be used: an acknowledged invalidation of it is not done.
    pub(super) fn bypasses(self: &Arc<Self>, namespace: &str) -> bool {
        let bypasses = {
            let waiting = self.waiting.lock();
            waiting.all.is_some() || waiting.namespaces.contains_key(namespace)
        };
        if bypasses {
            self.begin_sending();
        }
        bypasses
    }

    /// Lets a key wait, with all that it has.
    pub(super) fn add(self: &Arc<Self>, namespace: &str, key: &[u8], hold_off: Duration) {
        self.waiting.lock().invalidate(namespace, key, hold_off);
        self.begin_sending();
    }

    /// Lets a flush wait; no namespace means all.
    pub(super) fn add_flush(self: &Arc<Self>, namespace: Option<&str>) {
        {
            let mut waiting = self.waiting.lock();
            match namespace {
                Some(namespace) if waiting.all.is_none() => waiting.flush(namespace),
                _ => waiting.flush_all(),
            }
        }
        self.begin_sending();
    }

    /// Starts the task that sends again, unless one runs; outside of a Tokio runtime the next call that may start one does.
    fn begin_sending(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if std::mem::replace(&mut self.waiting.lock().is_sending, true) {
            return;
        }
        let (sending, clock) = (Sending(Arc::downgrade(self)), self.replay.clock.clone());
        runtime.spawn(async move {
            let mut pause = Backoff::new(PAUSES.0, PAUSES.1);
            loop {
                retry::sleep(&clock, pause.next().max(PAUSES.0 / 10)).await;
                let Some(pending) = sending.0.upgrade() else { return };
                if pending.send_all().await.is_ok() && pending.rest() {
                    return;
                }
            }
        });
    }

    /// Ends the sending if nothing waits any more.
    fn rest(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.is_sending = !waiting.is_empty();
        !waiting.is_sending
    }

    /// Sends all that waits once; the first failure ends it.
    async fn send_all(&self) -> Result<()> {
        let (all, namespaces) = {
            let waiting = self.waiting.lock();
            (waiting.all, waiting.namespaces.keys().map(Arc::clone).collect::<Vec<_>>())
        };
        if let Some(serial) = all {
            self.flushed(self.replay.engine.flush_all()).await?;
            let mut waiting = self.waiting.lock();
            waiting.all = waiting.all.filter(|now| *now != serial);
        }
        for namespace in namespaces {
            self.send_namespace(&namespace).await?;
        }
        Ok(())
    }

    async fn send_namespace(&self, namespace: &str) -> Result<()> {
        let (flush, hold_off, keys) = match self.waiting.lock().namespaces.get(namespace) {
            Some(space) => (space.flush, space.hold_off, space.keys.iter().map(|(key, at)| (Arc::clone(key), *at)).collect::<Vec<_>>()),
            None => return Ok(()),
        };
        if let Some(serial) = flush {
            self.flushed(self.replay.engine.flush(namespace)).await?;
            let mut waiting = self.waiting.lock();
            if waiting.namespaces.get(namespace).is_some_and(|space| space.flush == Some(serial)) {
                waiting.forget(namespace);
            }
            return Ok(());
        }
        let slots: Vec<Slot<'_>> = keys.iter().map(|(key, _)| Slot { namespace, key, field: None }).collect();
        let call = async { Ok(self.replay.engine.invalidate_many(&slots, hold_off).await) };
        let answers = in_time(&self.replay.clock, self.replay.op_timeout, Error::unknown, call).await?;
        let mut waiting = self.waiting.lock();
        let Waiting { namespaces, keys: count, .. } = &mut *waiting;
        let Some(space) = namespaces.get_mut(namespace) else { return Ok(()) };
        let mut failed = None;
        for ((key, serial), answer) in keys.iter().zip(answers) {
            match answer {
                Ok(Invalidation::Removed | Invalidation::Absent) => {
                    if space.keys.get(key) == Some(serial) {
                        space.keys.remove(key);
                        *count = count.saturating_sub(1);
                    }
                }
                Ok(Invalidation::Queued) => failed = Some(away()),
                Err(error) => failed = Some(error),
            }
        }
        if space.keys.is_empty() && space.flush.is_none() {
            namespaces.remove(namespace);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn flushed(&self, call: impl Future<Output = Result<Flushed>>) -> Result<()> {
        match in_time(&self.replay.clock, self.replay.op_timeout, Error::unknown, call).await? {
            Flushed::Flushed => Ok(()),
            Flushed::Queued => Err(away()),
        }
    }
}

fn away() -> Error {
    Error::unavailable("the cache engine behind has it wait too")
}

/// That a task sends; also ends if the runtime drops the task.
struct Sending(Weak<Pending>);

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(pending) = self.0.upgrade() {
            pending.waiting.lock().is_sending = false;
        }
    }
}
