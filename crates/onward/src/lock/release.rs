//! Gives back what an answer left open: dropped grants, acquires that were cancelled, releases that failed.
//!
//! One bounded worker. Queueing never blocks, spawns or panics, also without a runtime; what does not fit ends with its lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::options::whole_millis;
use super::report::Label;
use super::shared::Shared;
use super::{Claim, Owner};
use crate::model::LockKey;
use crate::retry::{self, Backoff};
use crate::time::Moment;

/// What is given back: a lease, if it still is the owner's, or a place in the engine's queue.
#[derive(Debug)]
pub(super) struct Leaving {
    key: LockKey,
    /// Whose lease it is; `None`: a place.
    owner: Option<Owner>,
    /// When the lease is over at the latest: no try is worth anything after it.
    until: Moment,
    /// Until when the key stays taken all the same.
    keep_until: Moment,
}

impl Leaving {
    pub(super) fn new(key: LockKey, owner: Owner, until: Moment) -> Self {
        Self { key, owner: Some(owner), until, keep_until: Moment::default() }
    }

    /// The process's place in the queue of a key that nobody here waits for any more.
    pub(super) fn place(key: LockKey) -> Self {
        Self { key, owner: None, until: Moment::default(), keep_until: Moment::default() }
    }

    pub(super) fn keeping(mut self, keep_until: Moment) -> Self {
        self.keep_until = keep_until;
        self
    }

    fn claim(&self, now: Moment) -> Option<Claim> {
        Some(Claim { key: self.key.clone(), owner: self.owner?, keep: whole_millis(self.keep_until.left(now)) })
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs until the last sender is gone and everything is given back or over.
pub(super) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Leaving>) {
    let mut waiting: Vec<Leaving> = Vec::new();
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let room = shared.renew_batch.saturating_sub(waiting.len());
        if waiting.is_empty() {
            backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            if queue.recv_many(&mut waiting, room).await == 0 {
                return;
            }
        } else {
            // Failed before. New ones come along as far as they fit in one call.
            retry::sleep(&shared.clock, backoff.next()).await;
            while waiting.len() < shared.renew_batch
                && let Ok(leaving) = queue.try_recv()
            {
                waiting.push(leaving);
            }
        }
        give_up_places(&shared, &mut waiting).await;
        let sent = shared.clock.now();
        let batch: Vec<Claim> = waiting.iter().filter_map(|leaving| leaving.claim(sent)).collect();
        if batch.is_empty() {
            continue;
        }
        match shared.bounded(sent, shared.engine.release(batch)).await {
            Ok(_) => waiting.drain(..).for_each(|leaving| shared.freed(&leaving.key)),
            Err(error) => {
                shared.reports.report("release_error", Label::default(), None, &error);
                let now = shared.clock.now();
                waiting.retain(|leaving| leaving.until > now);
            }
        }
    }
}

/// Gives up places, once: the engine passes over whoever does not come.
async fn give_up_places(shared: &Shared, waiting: &mut Vec<Leaving>) {
    let places: Vec<LockKey> = waiting.extract_if(.., |leaving| leaving.owner.is_none()).map(|leaving| leaving.key).collect();
    // Somebody else came here meanwhile: the place is his.
    let left: Vec<LockKey> = places.into_iter().filter(|key| shared.queues.line(key).is_none()).collect();
    if !left.is_empty() {
        let _ = shared.bounded(shared.clock.now(), shared.engine.leave(left.clone())).await;
        // Who came while it was given up takes a new one.
        left.iter().for_each(|key| {
            shared.queues.wake(key);
        });
    }
}
