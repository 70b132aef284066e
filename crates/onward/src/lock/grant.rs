//! A held lock, and what a body sees of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::held::{Held, Term};
use super::obtain::Won;
use super::options::whole_millis;
use super::outcome::lost;
use super::release::Leaving;
use super::report::Label;
use super::shared::Core;
use super::{Claim, LockOptions, LossReason, Owner, Release, Renew};
use crate::Result;
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Moment};

/// A held lock: release it; dropping it queues the release.
///
/// The local timer decides about validity, not a reply: it counts from before the request was sent, on a clock that also runs in
/// suspend, less a margin of a hundredth of what the lease lasts and 2 ms. So the loss shows here before the engine can give the key
/// away. Nothing revives a lost grant. Dropping never blocks, spawns or panics, also without a runtime.
#[must_use = "dropping a grant releases the lock"]
pub struct Grant {
    held: Arc<Held>,
    core: Arc<Core>,
    state: State,
}

/// How far the end of a grant has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    /// No renewal touches it any more; whether the engine gave it up is not known.
    Stopped,
    /// Given back, surely.
    Done,
}

impl Grant {
    pub(super) fn new(core: Arc<Core>, key: LockKey, won: &Won, options: &LockOptions, label: Label) -> Self {
        let (min_hold, max_hold) = (options.min_hold, options.max_hold);
        let term = Term { ttl: options.ttl, sent: won.sent, answered: won.answered, until: won.until, min_hold, max_hold };
        let held = Arc::new(Held::new(key, won.owner, won.token, label, term));
        core.shared.reports.held();
        if options.renew == Renew::Auto {
            // Of what it has: a lease that was handed over is shorter than what was asked for.
            core.shared.renewals.add(&held, won.sent + won.remaining.min(options.ttl) / 3);
        }
        Self { held, core, state: State::Held }
    }

    /// Returns the key.
    pub fn key(&self) -> &LockKey {
        &self.held.key
    }

    /// Returns the fencing token: greater than that of every grant of this key before.
    pub fn token(&self) -> FencingToken {
        self.held.token
    }

    /// Returns the proof of ownership; secret.
    pub fn owner(&self) -> &Owner {
        &self.held.owner
    }

    /// Returns how long the holder may still rely on the lock; zero after the loss.
    pub fn remaining(&self) -> Duration {
        self.held.remaining(self.core.shared.clock.now())
    }

    /// Checks that the lock is still held, without asking the engine.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost), `lease_lost`: stop; another may hold the lock.
    pub fn check(&self) -> Result<()> {
        self.held.check(self.core.shared.clock.now())
    }

    /// Waits until the lock is lost.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn lost(&self) -> LossReason {
        self.held.lost(&self.core.shared.clock).await
    }

    /// Extends the lease to its full length now and returns what remains.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost): it is gone and stays gone. [`Kind::Backend`](crate::Kind::Backend): the validity stays as it was.
    ///
    /// # Cancel safety
    /// A dropped call keeps the old validity.
    pub async fn renew(&self) -> Result<Duration> {
        let shared = &*self.core.shared;
        let sent = shared.clock.now();
        self.held.check(sent)?;
        let renewal = self.held.renewal(sent);
        let answer = shared.bounded(sent, shared.engine.renew(vec![renewal])).await.map_err(|e| e.during("renew"))?;
        let now = shared.clock.now();
        match answer.into_iter().next().flatten() {
            Some(renewed) => {
                if !self.held.renewed(sent, now, renewed) {
                    // Lost here, alive there: given back rather than left to block the key.
                    self.core.give_back(Leaving::new(self.held.key.clone(), self.held.owner, now + renewed.remaining));
                }
                self.held.check(now)?;
                Ok(self.held.remaining(now))
            }
            None => Err(lost(self.held.taken(now)).during("renew")),
        }
    }

    /// Gives the lock back in one engine call.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): whether it is free is unknown; the background worker goes on until the lease is over.
    ///
    /// # Cancel safety
    /// A release that is dropped goes on in the background worker.
    pub async fn release(mut self) -> Result<Release> {
        let (loss, answered) = self.end().await;
        answered?;
        Ok(if loss.is_some() { Release::AlreadyLost } else { Release::Released })
    }

    /// Returns what a body sees of this grant; cheap to clone.
    pub fn view(&self) -> GrantView {
        GrantView(Some((Arc::clone(&self.held), self.core.shared.clock.clone())))
    }

    /// Ends the hold; tells the loss, if there was one before the release took effect, and whether the engine answered.
    pub(super) async fn end(&mut self) -> (Option<LossReason>, Result<()>) {
        let now = self.stop();
        let shared = &*self.core.shared;
        let loss = self.held.loss(now);
        // A least hold is void after a loss: nobody may be kept out by somebody who held nothing.
        let keep = if loss.is_none() { whole_millis(self.held.keep_until().left(now)) } else { Duration::ZERO };
        let claim = Claim { key: self.held.key.clone(), owner: self.held.owner, keep };
        match shared.bounded(now, shared.engine.release(vec![claim])).await {
            Ok(answers) => {
                self.state = State::Done;
                shared.freed(&self.held.key);
                let loss = loss.or_else(|| (answers.first() != Some(&Release::Released)).then(|| self.held.taken(shared.clock.now())));
                self.settle(loss);
                (loss, Ok(()))
            }
            Err(error) => {
                let error = error.during("release");
                self.core.count("release_error", self.held.label);
                self.core.report("release_error", self.held.label, &self.held.key, &error);
                self.settle(loss);
                // Not done: the drop hands it to the worker.
                (loss, Err(error))
            }
        }
    }

    /// Stops renewals and tells of a hold that was long for its lease.
    fn stop(&mut self) -> Moment {
        let shared = &*self.core.shared;
        let now = shared.clock.now();
        if self.state != State::Held {
            return now;
        }
        self.state = State::Stopped;
        shared.reports.ended(self.held.label, now.since(self.held.begun()), self.held.ttl());
        if let Some(place) = self.held.finish() {
            shared.renewals.remove(place);
        }
        if self.held.held_long(now) {
            shared.reports.long_hold(self.held.label, &self.held.key);
        }
        now
    }

    fn settle(&self, loss: Option<LossReason>) {
        if let Some(reason) = loss {
            self.core.count("lost", self.held.label);
            self.core.report("lost", self.held.label, &self.held.key, &lost(reason));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.state != State::Done {
            let now = self.stop();
            let leaving = Leaving::new(self.held.key.clone(), self.held.owner, now + self.held.ttl());
            let keep = self.held.loss(now).is_none();
            self.core.give_back(if keep { leaving.keeping(self.held.keep_until()) } else { leaving });
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("key", &self.held.key).field("token", &self.held.token).finish_non_exhaustive()
    }
}

/// What a body sees of the grant that it runs under; says so if it runs without one.
#[derive(Clone)]
pub struct GrantView(Option<(Arc<Held>, Clock)>);

impl GrantView {
    pub(super) fn unlocked() -> Self {
        Self(None)
    }

    /// Returns the key; `None`: the body runs unlocked.
    pub fn key(&self) -> Option<&LockKey> {
        self.0.as_ref().map(|(held, _)| &held.key)
    }

    /// Returns the fencing token to send with each write; `None`: the body runs unlocked and has none.
    pub fn token(&self) -> Option<FencingToken> {
        self.0.as_ref().map(|(held, _)| held.token)
    }

    /// Returns how long the lock can be relied on; zero after the loss, and for a body that runs unlocked.
    pub fn remaining(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(held, clock)| held.remaining(clock.now()))
    }

    /// Checks that the lock is still held. A body that runs unlocked has nothing to lose: `Ok`.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost), `lease_lost`: stop; another may hold the lock.
    pub fn check(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |(held, clock)| held.check(clock.now()))
    }

    /// Waits until the lock is lost; for ever in a body that runs unlocked.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn lost(&self) -> LossReason {
        match &self.0 {
            Some((held, clock)) => held.lost(clock).await,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for GrantView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantView").field("token", &self.token()).finish_non_exhaustive()
    }
}
