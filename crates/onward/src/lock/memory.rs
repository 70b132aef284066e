//! What is remembered of taken keys: work that is skipped anyway need not ask the engine every time.
//!
//! Nothing in here is older than 50 ms, so a skip is late by that at most; forgetting is always allowed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::LockKey;
use crate::time::Moment;

/// The oldest that an answer may be, counted from before its request was sent.
const OLDEST: Duration = Duration::from_millis(50);

/// Keys that were found taken a moment ago.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    taken: Mutex<HashMap<LockKey, Taken>>,
    /// Readable without the mutex: whoever never skips never pays for it.
    is_empty: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    /// When the request was sent that was answered so.
    asked: Moment,
    /// When the other lease ends, if that is known.
    until: Option<Moment>,
}

impl Memory {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default(), is_empty: AtomicBool::new(true) }
    }

    /// Returns for how long a key is still taken; `None`: nothing is known of it.
    pub(super) fn held_for(&self, key: &LockKey, now: Moment) -> Option<Option<Duration>> {
        if self.is_empty.load(Ordering::SeqCst) {
            return None;
        }
        let taken = *self.taken.lock().get(key)?;
        let known = now.since(taken.asked) < OLDEST && taken.until.is_none_or(|until| now < until);
        known.then(|| taken.until.map(|until| until.left(now)))
    }

    /// Remembers a busy answer to a request that was sent at `asked`.
    pub(super) fn learn(&self, key: &LockKey, asked: Moment, remaining: Option<Duration>) {
        if self.most == 0 {
            return;
        }
        let mut taken = self.taken.lock();
        if taken.len() >= self.most && !taken.contains_key(key) {
            // So many skips within a moment: each of them costs one more call.
            taken.clear();
        }
        taken.insert(key.clone(), Taken { asked, until: remaining.map(|remaining| asked + remaining) });
        self.is_empty.store(false, Ordering::SeqCst);
    }

    /// Forgets a key that may be free now.
    pub(super) fn forget(&self, key: &LockKey) {
        if !self.is_empty.load(Ordering::SeqCst) {
            let mut taken = self.taken.lock();
            taken.remove(key);
            self.is_empty.store(taken.is_empty(), Ordering::SeqCst);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut taken = self.taken.lock();
        taken.clear();
        self.is_empty.store(true, Ordering::SeqCst);
    }
}
