//! The local queues: callers of this process wait for a key in the order in which they came.
//!
//! Only the first in a queue talks to the engine, so the cost follows processes, not callers. A place in a queue passes on by itself
//! when its caller leaves for any reason (C6), and each queue is bounded (C7).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::LockKey;
use crate::time::Moment;
use crate::{Error, Result};

#[derive(Debug, Default)]
pub(super) struct Queues {
    by_key: Mutex<HashMap<LockKey, Queue>>,
    /// All waiters, readable without the mutex: the way of a free lock never touches it.
    total: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
    heard: Heard,
}

/// What the head of a queue heard last.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heard {
    /// Another has the key until then; `None`: no end is known.
    Busy(Option<Moment>),
    /// The engine failed: who has the key, if anybody, is not known.
    Failure,
}

impl Default for Heard {
    fn default() -> Self {
        Self::Busy(None)
    }
}

impl Queue {
    fn wake_head(&self) -> bool {
        let head = self.waiting.first_key_value();
        head.inspect(|(_, turn)| turn.notify_one()).is_some()
    }
}

/// What stands in a queue already.
pub(super) struct Line {
    pub(super) waiters: u64,
    pub(super) heard: Heard,
}

impl Queues {
    /// Returns who waits for a key; `None` for nobody.
    pub(super) fn line(&self, key: &LockKey) -> Option<Line> {
        if self.total.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.by_key.lock().get(key).map(|queue| Line { waiters: queue.waiting.len() as u64, heard: queue.heard })
    }

    /// Lets the first waiter look again: the key may be free. A hint; timers cover a lost one. False: nobody waits.
    pub(super) fn wake(&self, key: &LockKey) -> bool {
        self.total.load(Ordering::SeqCst) > 0 && self.by_key.lock().get(key).is_some_and(Queue::wake_head)
    }

    /// Lets every waiter of every key look again.
    pub(super) fn wake_all(&self) {
        if self.total.load(Ordering::SeqCst) > 0 {
            self.by_key.lock().values().flat_map(|queue| queue.waiting.values()).for_each(|turn| turn.notify_one());
        }
    }

    /// Takes the last place of a key's queue.
    pub(super) fn join<'a>(&'a self, key: &'a LockKey, most_of_key: usize, most: usize) -> Result<Place<'a>> {
        let mut by_key = self.by_key.lock();
        let here = by_key.get(key).map_or(0, |queue| queue.waiting.len());
        // Changed only under the mutex.
        if here >= most_of_key || self.total.load(Ordering::SeqCst) >= most {
            return Err(Error::overloaded("too many callers wait for locks", Duration::from_secs(1)).with_waiters(here as u64));
        }
        self.total.fetch_add(1, Ordering::SeqCst);
        let queue = by_key.entry(key.clone()).or_default();
        let number = queue.next;
        queue.next += 1;
        let turn = Arc::new(Notify::new());
        queue.waiting.insert(number, Arc::clone(&turn));
        Ok(Place { queues: self, key, number, turn })
    }
}

/// A place in a queue; dropping it passes the turn on.
pub(super) struct Place<'a> {
    queues: &'a Queues,
    key: &'a LockKey,
    number: u64,
    turn: Arc<Notify>,
}

impl Place<'_> {
    /// Whether this caller is the one that may ask the engine.
    pub(super) fn is_head(&self) -> bool {
        let by_key = self.queues.by_key.lock();
        by_key.get(self.key).and_then(|queue| queue.waiting.first_key_value()).is_some_and(|(first, _)| *first == self.number)
    }

    /// Waits until this place may have become the head, or the key free.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Remembers what the engine said, for those behind.
    pub(super) fn note(&self, heard: Heard) {
        if let Some(queue) = self.queues.by_key.lock().get_mut(self.key) {
            queue.heard = heard;
        }
    }

    /// Returns the state of this queue, this caller left out.
    pub(super) fn line(&self) -> Line {
        let by_key = self.queues.by_key.lock();
        by_key.get(self.key).map_or(Line { waiters: 0, heard: Heard::default() }, |queue| Line {
            waiters: queue.waiting.len().saturating_sub(1) as u64,
            heard: queue.heard,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut by_key = self.queues.by_key.lock();
        let Some(queue) = by_key.get_mut(self.key) else { return };
        let was_head = queue.waiting.first_key_value().is_some_and(|(first, _)| *first == self.number);
        if queue.waiting.remove(&self.number).is_some() {
            self.queues.total.fetch_sub(1, Ordering::SeqCst);
        }
        if queue.waiting.is_empty() {
            by_key.remove(self.key);
        } else if was_head {
            queue.wake_head();
        }
    }
}
