//! Renews the grants of a process: one schedule, one background task, many grants a call.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::held::Held;
use super::release::Leaving;
use super::shared::Shared;
use crate::retry;
use crate::time::Moment;

const LEAST_PAUSE: Duration = Duration::from_millis(1);

/// Which grant is due when. It holds weak references: a schedule never keeps a lock alive.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Schedule {
    due: BTreeMap<(Moment, u64), Weak<Held>>,
    next: u64,
    /// When the task wakes up by itself.
    wakes_at: Option<Moment>,
    closed: bool,
}

impl Renewals {
    /// Adds a grant, unless it is over.
    pub(super) fn add(&self, held: &Arc<Held>, at: Moment) {
        let earlier = {
            let mut schedule = self.schedule.lock();
            let place = (at, schedule.next);
            schedule.next += 1;
            // The schedule's mutex is taken first, always: `finish` followed by `remove` finds the place, or `schedule` says no.
            if !held.schedule(place) {
                return;
            }
            schedule.due.insert(place, Arc::downgrade(held));
            schedule.wakes_at.is_none_or(|wakes_at| at < wakes_at)
        };
        if earlier {
            self.changed.notify_one();
        }
    }

    /// Takes a grant out.
    pub(super) fn remove(&self, place: (Moment, u64)) {
        self.schedule.lock().due.remove(&place);
    }

    /// Ends the task.
    pub(super) fn close(&self) {
        self.schedule.lock().closed = true;
        self.changed.notify_one();
    }

    pub(super) fn take_due(&self, now: Moment, most: usize) -> Vec<Arc<Held>> {
        let mut schedule = self.schedule.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(first) = schedule.due.first_entry()
            && first.key().0 <= now
        {
            taken.extend(first.remove().upgrade());
        }
        taken
    }
}

/// Runs until [`Renewals::close`].
pub(super) async fn run(shared: Arc<Shared>, releases: mpsc::WeakSender<Leaving>) {
    let renewals = &shared.renewals;
    loop {
        let wakes_at = {
            let mut schedule = renewals.schedule.lock();
            if schedule.closed {
                return;
            }
            schedule.wakes_at = schedule.due.first_key_value().map(|(place, _)| place.0);
            schedule.wakes_at
        };
        match wakes_at {
            None => renewals.changed.notified().await,
            Some(at) => {
                let _ = retry::deadline(&shared.clock, at, renewals.changed.notified()).await;
            }
        }
        loop {
            let due = renewals.take_due(shared.clock.now(), shared.renew_batch);
            if due.is_empty() {
                break;
            }
            renew(&shared, due, &releases).await;
        }
    }
}

async fn renew(shared: &Shared, mut due: Vec<Arc<Held>>, releases: &mpsc::WeakSender<Leaving>) {
    let sent = shared.clock.now();
    // Nothing revives what is lost here: it ends by itself, or is released by its holder.
    due.retain(|held| held.loss(sent).is_none());
    if due.is_empty() {
        return;
    }
    let batch = due.iter().map(|held| held.renewal(sent)).collect();
    let answer = shared.bounded(sent, shared.engine.renew(batch)).await;
    let now = shared.clock.now();
    match answer {
        Ok(answers) => {
            for (held, answer) in due.iter().zip(answers) {
                match answer {
                    Some(renewed) if held.renewed(sent, now, renewed) => shared.renewals.add(held, sent + held.ttl() / 3),
                    // Too late: lost here, alive there. It is given back rather than left to block the key.
                    Some(renewed) => {
                        if let Some(releases) = releases.upgrade() {
                            let leaving = Leaving::new(held.key.clone(), held.owner, now + renewed.remaining);
                            let _ = releases.try_send(leaving);
                        }
                    }
                    None => {
                        held.taken(now);
                    }
                }
            }
        }
        // The validity stays as it was; the next try comes soon enough for several more before the end.
        Err(_) => {
            for held in &due {
                if held.held_long(now) {
                    shared.reports.long_hold(held.label, &held.key);
                }
                shared.renewals.add(held, now + pause(held.ttl(), held.remaining(now)));
            }
        }
    }
}

pub(super) fn pause(ttl: Duration, remaining: Duration) -> Duration {
    (ttl / 12).min(remaining / 4).max(LEAST_PAUSE)
}
