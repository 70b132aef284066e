//! Single flight: one load a key and process, and who may take its value.
//!
//! A follower may have arrived after an invalidation that the running load has not seen. So: **a follower takes the value of a round that it
//! joined midway only if the commit said `Stored`; it may take any round that began after it arrived** (INV-2). "Midway" ends
//! before the commit is sent: a caller that comes later can't tell whether an invalidation came between the commit and itself.
//!
//! The load runs in the leader's own future, so it may borrow. A leader that is dropped or panics ends its round without a value, and one
//! that is never polled again is overtaken: a follower leads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::fetched::How;
use super::load::Failure;
use super::slot::SlotBuf;
use crate::retry;
use crate::time::{Clock, Moment};

/// How a round ended, as its followers see it.
#[derive(Clone, Debug)]
pub(super) enum Ended {
    /// It has a value, encoded.
    Value { payload: Bytes, how: How },
    /// The loader failed: everyone who waited for it gets the error.
    Failed(Failure),
    /// No value to share: the leader is gone, or its value can't be encoded.
    Gone,
}

/// One load of one slot, from before its reservation until its end.
#[derive(Debug)]
pub(super) struct Round {
    ended: Mutex<Option<Ended>>,
    done: Notify,
    /// Set under the table's lock before the commit is sent.
    closed: AtomicBool,
    /// Nanoseconds of the moment from which the leader counts as lost.
    overtake_at: AtomicU64,
}

impl Round {
    fn new(overtake_at: Moment) -> Arc<Self> {
        Arc::new(Self {
            ended: Mutex::new(None),
            done: Notify::new(),
            closed: AtomicBool::new(false),
            overtake_at: AtomicU64::new(overtake_at.as_nanos()),
        })
    }

    /// Waits for the end; `None` if the leader's time was over first.
    pub(super) async fn wait(&self, clock: &Clock) -> Option<Ended> {
        loop {
            let mut done = pin!(self.done.notified());
            done.as_mut().enable();
            if let Some(ended) = self.ended.lock().clone() {
                return Some(ended);
            }
            let until = Moment::from_nanos(self.overtake_at.load(Ordering::Relaxed));
            if clock.now() >= until {
                return None;
            }
            retry::deadline(clock, until, done).await;
        }
    }

    fn end(&self, ended: Ended) {
        self.ended.lock().get_or_insert(ended);
        self.done.notify_waiters();
    }
}

/// The place of a caller in a flight.
pub(super) enum Joined<'a> {
    Lead(Leading<'a>),
    /// `midway`: the round had not begun to commit.
    Follow {
        round: Arc<Round>,
        midway: bool,
    },
    /// The caller is the loader of this very slot.
    Own,
}

/// The rounds that run now.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<SlotBuf, Arc<Round>>>);

impl std::fmt::Debug for SlotBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slot().fmt(f)
    }
}

impl Flights {
    /// Leads a new round, or follows the one that runs.
    pub(super) fn join(&self, slot: &SlotBuf, overtake_at: Moment) -> Joined<'_> {
        match self.0.lock().entry(slot.clone()) {
            Entry::Occupied(running) if is_loading_here(running.get()) => Joined::Own,
            Entry::Occupied(running) => {
                Joined::Follow { round: Arc::clone(running.get()), midway: !running.get().closed.load(Ordering::Relaxed) }
            }
            Entry::Vacant(free) => {
                let round = Round::new(overtake_at);
                free.insert(Arc::clone(&round));
                Joined::Lead(Leading { flights: self, slot: slot.clone(), round })
            }
        }
    }

    /// Leads a round that nobody follows.
    pub(super) fn alone(&self, slot: &SlotBuf, overtake_at: Moment) -> Leading<'_> {
        Leading { flights: self, slot: slot.clone(), round: Round::new(overtake_at) }
    }

    /// Takes a round whose leader is lost out of the way.
    pub(super) fn overtake(&self, slot: &SlotBuf, round: &Arc<Round>) {
        let mut running = self.0.lock();
        if running.get(slot).is_some_and(|now| Arc::ptr_eq(now, round)) {
            running.remove(slot);
        }
    }
}

/// The right to lead a round; dropping it hands over to a follower.
#[derive(Debug)]
pub(super) struct Leading<'a> {
    flights: &'a Flights,
    slot: SlotBuf,
    round: Arc<Round>,
}

impl Leading<'_> {
    /// Says that the leader is alive and until when the next step takes at most.
    pub(super) fn alive_until(&self, moment: Moment) {
        self.round.overtake_at.store(moment.as_nanos(), Ordering::Relaxed);
    }

    /// Ends "midway": from here on the commit may have happened before a caller arrived.
    pub(super) fn close(&self) {
        let _table = self.flights.0.lock();
        self.round.closed.store(true, Ordering::Relaxed);
    }

    /// Ends the round. Whoever arrives from now on begins another.
    pub(super) fn finish(self, ended: Ended) {
        self.end(ended);
    }

    fn end(&self, ended: Ended) {
        // Out of the table first: a follower that wakes must not find this round again.
        self.flights.overtake(&self.slot, &self.round);
        self.round.end(ended);
    }

    /// Runs the loader so that a call for its own slot is noticed, at once and without a deadlock.
    pub(super) async fn run<Fut: Future>(&self, load: impl FnOnce() -> Fut) -> Fut::Output {
        let loading = {
            let _here = Here::enter(&self.round);
            load()
        };
        let mut loading = pin!(loading);
        poll_fn(|cx| {
            let _here = Here::enter(&self.round);
            loading.as_mut().poll(cx)
        })
        .await
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        // After `finish` this changes nothing: the first end counts.
        self.end(Ended::Gone);
    }
}

thread_local! {
    /// The rounds whose loaders are being polled on this thread, outermost first.
    static HERE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn is_loading_here(round: &Arc<Round>) -> bool {
    let id = Arc::as_ptr(round).addr();
    HERE.with_borrow(|here| here.contains(&id))
}

struct Here;

impl Here {
    fn enter(round: &Arc<Round>) -> Self {
        HERE.with_borrow_mut(|here| here.push(Arc::as_ptr(round).addr()));
        Self
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| here.pop());
    }
}
