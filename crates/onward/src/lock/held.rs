//! The holder's own view of a grant: it decides, not a reply.
//!
//! Validity counts from before the send on a clock that runs in suspend, less a margin, so a grant is lost here before the engine can
//! give the key away, also with the engine gone. Nothing revives a lost grant.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::options::margin;
use super::outcome::{self, LossReason};
use super::{Owner, Renewed};
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Moment};
use crate::{Code, Error, Kind, Result, retry};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: LockKey,
    pub(super) owner: Owner,
    pub(super) token: FencingToken,
    pub(super) ttl: Duration,
    state: Mutex<State>,
    changed: Notify,
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
    sent + remaining.min(ttl).saturating_sub(margin(ttl))
}

impl Held {
    pub(super) fn new(key: LockKey, owner: Owner, token: FencingToken, ttl: Duration, sent: Moment, until: Moment) -> Self {
        let state = State { until, confirmed: sent, lost: None, over: false, due: None };
        Self { key, owner, token, ttl, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Returns the loss, found now at the latest.
    pub(super) fn loss(&self, now: Moment) -> Option<LossReason> {
        Self::settle(&mut self.state.lock(), now)
    }

    fn settle(state: &mut State, now: Moment) -> Option<LossReason> {
        if state.lost.is_none() && now >= state.until {
            state.lost = Some(LossReason::Expired);
        }
        state.lost
    }

    pub(super) fn remaining(&self, now: Moment) -> Duration {
        let mut state = self.state.lock();
        match Self::settle(&mut state, now) {
            None if !state.over => state.until.left(now),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn check(&self, now: Moment) -> Result<()> {
        let mut state = self.state.lock();
        match Self::settle(&mut state, now) {
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
                if let Some(reason) = Self::settle(&mut state, clock.now()) {
                    return reason;
                }
                state.until
            };
            let _ = retry::deadline(clock, until, changed).await;
        }
    }

    /// Takes in the answer to a renewal that was sent at `sent`; `false` if it came too late.
    pub(super) fn renewed(&self, sent: Moment, now: Moment, answer: Renewed) -> bool {
        let mut state = self.state.lock();
        if Self::settle(&mut state, now).is_some() || state.over {
            return false;
        }
        state.until = state.until.max(valid_until(sent, answer.remaining, self.ttl));
        state.confirmed = state.confirmed.max(sent);
        true
    }

    /// Takes in that the engine does not know this grant any more.
    pub(super) fn taken(&self, now: Moment) -> LossReason {
        let reason = {
            let mut state = self.state.lock();
            Self::settle(&mut state, now);
            *state.lost.get_or_insert(LossReason::Taken)
        };
        self.changed.notify_waiters();
        reason
    }

    /// Whether more than half of the lease passed without a confirmed renewal.
    pub(super) fn held_long(&self, now: Moment) -> bool {
        now.since(self.state.lock().confirmed) > self.ttl / 2
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
