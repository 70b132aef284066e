//! This process's places in the queues of keys: joining, being woken, leaving, and passing on what another did not take.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::connection::{Link, Pushed, WeakLink};
use super::lock::{CLAIM, NO_ARGS, queue_of};
use super::script::{Script, script};
use super::server_clock::ServerClock;
use crate::lock::{Owner, Waiters};
use crate::model::LockKey;
use crate::time::{Clock, Moment};
use crate::{Result, retry};

static LEAVE: Script = script!("lease.lua", "leave.lua");
static PASS_ON: Script = script!("lease.lua", "pass_on.lua");

/// How long after a hand-over it is looked whether the key was taken: surely after the claim's end.
const LATE: std::time::Duration = CLAIM.saturating_add(std::time::Duration::from_millis(20));
/// Keys whose hand-over is watched at once; more are watched by those who wait.
const WATCHED: usize = 10_000;

/// The places of one process.
#[derive(Debug)]
pub(super) struct Places {
    process: String,
    clock: Clock,
    /// Keys in whose queue this process may have a place.
    joined: Mutex<HashSet<LockKey>>,
    waiters: Mutex<Vec<Weak<dyn Waiters>>>,
    /// Keys that were handed over, and when it is time to see whether that was taken.
    watched: Mutex<HashMap<LockKey, Moment>>,
    link: OnceLock<WeakLink>,
    /// Known as long as the connection lasts.
    server_clock: Arc<ServerClock>,
}

impl Places {
    pub(super) fn new(server_clock: Arc<ServerClock>) -> Self {
        Self {
            // It holds what is handed over, so nobody may guess it.
            process: Owner::draw().to_string(),
            clock: Clock::system(),
            joined: Mutex::default(),
            waiters: Mutex::default(),
            watched: Mutex::default(),
            link: OnceLock::new(),
            server_clock,
        }
    }

    /// Says over which connection to act by itself.
    pub(super) fn work_on(&self, link: &Link) {
        // Once: there is one.
        let _ = self.link.set(link.downgrade());
    }

    pub(super) fn process(&self) -> &str {
        &self.process
    }

    pub(super) fn channel(&self) -> String {
        format!("onward:wake:{}", self.process)
    }

    pub(super) fn listen(&self, waiters: Weak<dyn Waiters>) {
        let mut all = self.waiters.lock();
        all.retain(|waiters| waiters.strong_count() > 0);
        all.push(waiters);
    }

    /// Says how to join: `1`, surely not there yet, or `2`, perhaps there.
    pub(super) fn join(&self, key: &LockKey) -> &'static str {
        if self.joined.lock().insert(key.clone()) { "1" } else { "2" }
    }

    /// The place is used up.
    pub(super) fn left(&self, key: &LockKey) {
        self.joined.lock().remove(key);
    }

    /// Gives places up, and what was handed over meanwhile.
    pub(super) async fn leave(&self, link: &Link, keys: Vec<LockKey>) -> Result<()> {
        let names: Vec<String> = keys.iter().flat_map(|key| [key.to_string(), queue_of(key)]).collect();
        {
            let mut joined = self.joined.lock();
            keys.iter().for_each(|key| {
                joined.remove(key);
            });
        }
        let _: i64 = LEAVE.run(link, &names, &[&self.process]).await?;
        Ok(())
    }

    /// Sees to it that a key which was handed over now goes on to the next if nobody takes it.
    pub(super) fn watch(self: &Arc<Self>, key: &LockKey) {
        let due = self.clock.now() + LATE;
        let mut watched = self.watched.lock();
        if let Some(known) = watched.get_mut(key) {
            *known = due;
        } else if watched.len() < WATCHED {
            watched.insert(key.clone(), due);
            tokio::spawn(Arc::clone(self).see(key.clone()));
        }
    }

    async fn see(self: Arc<Self>, key: LockKey) {
        loop {
            let Some(due) = self.watched.lock().get(&key).copied() else { return };
            if self.clock.now() < due {
                retry::sleep_until(&self.clock, due).await;
                continue;
            }
            let handed_on = match self.link.get().and_then(WeakLink::upgrade) {
                Some(link) => self.pass_on(&link, &key).await.unwrap_or(false),
                None => false,
            };
            let mut watched = self.watched.lock();
            if handed_on {
                watched.insert(key.clone(), self.clock.now() + LATE);
            } else if watched.get(&key).is_none_or(|newest| *newest <= due) {
                watched.remove(&key);
                return;
            }
        }
    }

    async fn pass_on(&self, link: &Link, key: &LockKey) -> Result<bool> {
        let taken: i64 = link.call(redis::cmd("EXISTS").arg(key.as_str())).await?;
        if taken > 0 {
            return Ok(false);
        }
        let handed_on: i64 = PASS_ON.run(link, &[key.as_str(), &queue_of(key)], NO_ARGS).await?;
        Ok(handed_on == 1)
    }

    /// Wakes whoever waits here for a key; false: nobody does.
    fn wake(&self, key: &LockKey) -> bool {
        let mut heard = false;
        for waiters in self.waiters.lock().iter().filter_map(Weak::upgrade) {
            heard |= waiters.wake(key);
        }
        heard
    }
}

impl Pushed for Places {
    fn message(self: Arc<Self>, _: &[u8], payload: &[u8]) {
        let Some(key) = std::str::from_utf8(payload).ok().and_then(|key| LockKey::raw(key).ok()) else { return };
        if !self.wake(&key) {
            // Whoever waited is gone: the key goes on to the next at once.
            if let Some(link) = self.link.get().and_then(WeakLink::upgrade) {
                tokio::spawn(async move {
                    // What fails ends with the claim.
                    let _ = self.leave(&link, vec![key]).await;
                });
            }
        }
    }

    fn lost(self: Arc<Self>) {
        self.server_clock.forget();
    }

    fn returned(self: Arc<Self>) {
        // Wakes may have been missed, and the server may have come back empty.
        for waiters in self.waiters.lock().iter().filter_map(Weak::upgrade) {
            waiters.wake_all();
        }
    }
}
