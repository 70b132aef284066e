//! The holder's own view of a grant: it decides, not a reply.
//!
//! Validity counts from before the send on a clock that runs in suspend, less a margin, so a grant is lost here before the engine can
//! give the key away, also with the engine gone. Nothing revives a lost grant.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::options::{margin, whole_millis};
use super::outcome::{self, LossReason};
use super::report::Label;
use super::{Owner, Renewal, Renewed};
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Moment};
use crate::{Code, Error, Kind, Result, retry};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: LockKey,
    pub(super) owner: Owner,
    pub(super) token: FencingToken,
    pub(super) label: Label,
    term: Term,
    state: Mutex<State>,
    changed: Notify,
}

/// The time of a grant, as it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    pub(super) ttl: Duration,
    /// When the request was sent that was granted.
    pub(super) sent: Moment,
    /// When the answer came.
    pub(super) answered: Moment,
    /// Until when the holder may rely on it, without a renewal.
    pub(super) until: Moment,
    pub(super) min_hold: Duration,
    pub(super) max_hold: Option<Duration>,
}

#[derive(Debug)]
struct State {
    until: Moment,
    /// When the newest accepted answer's request was sent.
    confirmed: Moment,
    lost: Option<LossReason>,
    /// Released, or on its way: no renewal may touch it any more.
    over: bool,
    /// The place in the renewal schedule.
    due: Option<(Moment, u64)>,
}

/// Returns until when a holder may rely on a lease whose request was sent at `sent`.
pub(super) fn valid_until(sent: Moment, remaining: Duration, ttl: Duration) -> Moment {
    let lasts = remaining.min(ttl);
    sent + lasts.saturating_sub(margin(lasts))
}

impl Held {
    pub(super) fn new(key: LockKey, owner: Owner, token: FencingToken, label: Label, term: Term) -> Self {
        let state = State { until: term.until, confirmed: term.sent, lost: None, over: false, due: None };
        Self { key, owner, token, label, term, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.term.ttl
    }

    /// Returns when it was granted, as far as the holder knew.
    pub(super) fn begun(&self) -> Moment {
        self.term.answered
    }

    /// Returns until when the key stays taken, also if it is released before.
    pub(super) fn keep_until(&self) -> Moment {
        self.term.answered + self.term.min_hold
    }

    /// Returns when the holder must let go, however often it renewed.
    fn max_until(&self) -> Option<Moment> {
        self.term.max_hold.map(|most| self.term.answered + most)
    }

    /// Returns the request that extends the lease: to a full ttl, or as far as it may be held.
    pub(super) fn renewal(&self, now: Moment) -> Renewal {
        let left = self.max_until().map_or(self.term.ttl, |max| whole_millis(max.left(now) + margin(self.term.ttl)));
        Renewal { key: self.key.clone(), owner: self.owner, ttl: left.min(self.term.ttl) }
    }

    /// Returns the loss, found now at the latest.
    pub(super) fn loss(&self, now: Moment) -> Option<LossReason> {
        self.settle(&mut self.state.lock(), now)
    }

    fn settle(&self, state: &mut State, now: Moment) -> Option<LossReason> {
        if state.lost.is_none() && now >= self.end(state) {
            let reason = if self.max_until().is_some_and(|max| max <= state.until) { LossReason::MaxHold } else { LossReason::Expired };
            state.lost = Some(reason);
        }
        state.lost
    }

    /// Returns when the holder loses it, as things stand.
    fn end(&self, state: &State) -> Moment {
        self.max_until().map_or(state.until, |max| max.min(state.until))
    }

    pub(super) fn remaining(&self, now: Moment) -> Duration {
        let mut state = self.state.lock();
        match self.settle(&mut state, now) {
            None if !state.over => self.end(&state).left(now),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn check(&self, now: Moment) -> Result<()> {
        let mut state = self.state.lock();
        match self.settle(&mut state, now) {
            Some(reason) => Err(outcome::lost(reason)),
            None if state.over => Err(Error::new(Kind::Lost, Code::LeaseLost, "the lock was released")),
            None => Ok(()),
        }
    }

    /// Waits for the loss.
    pub(super) async fn lost(&self, clock: &Clock) -> LossReason {
        loop {
            let changed = self.changed.notified();
            let until = {
                let mut state = self.state.lock();
                if let Some(reason) = self.settle(&mut state, clock.now()) {
                    return reason;
                }
                self.end(&state)
            };
            let _ = retry::deadline(clock, until, changed).await;
        }
    }

    /// Takes in the answer to a renewal that was sent at `sent`; `false` if it came too late.
    pub(super) fn renewed(&self, sent: Moment, now: Moment, answer: Renewed) -> bool {
        let mut state = self.state.lock();
        if self.settle(&mut state, now).is_some() || state.over {
            return false;
        }
        state.until = state.until.max(valid_until(sent, answer.remaining, self.term.ttl));
        state.confirmed = state.confirmed.max(sent);
        true
    }

    /// Takes in that the engine does not know this grant any more.
    pub(super) fn taken(&self, now: Moment) -> LossReason {
        let reason = {
            let mut state = self.state.lock();
            self.settle(&mut state, now);
            *state.lost.get_or_insert(LossReason::Taken)
        };
        self.changed.notify_waiters();
        reason
    }

    /// Whether more than half of the lease passed without a confirmed renewal.
    pub(super) fn held_long(&self, now: Moment) -> bool {
        now.since(self.state.lock().confirmed) > self.term.ttl / 2
    }

    /// Ends the grant for good and returns its place in the renewal schedule.
    pub(super) fn finish(&self) -> Option<(Moment, u64)> {
        let mut state = self.state.lock();
        state.over = true;
        state.due.take()
    }

    /// Notes the place in the renewal schedule; `false` if there is nothing left to renew.
    pub(super) fn schedule(&self, due: (Moment, u64)) -> bool {
        let mut state = self.state.lock();
        let live = !state.over && state.lost.is_none();
        state.due = live.then_some(due);
        live
    }
}
