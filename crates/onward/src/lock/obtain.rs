//! The way to a grant: the engine, the queue, the deadline, and what an unknown answer means.

use std::sync::Arc;
use std::time::Duration;

use super::held::valid_until;
use super::outcome::{contended, switched_off};
use super::release::Leaving;
use super::shared::Core;
use super::wait::{Heard, Line, Place as Queued};
use super::{Ask, LockOptions, Owner, Place, Renew, Tried};
use crate::model::{FencingToken, LockKey};
use crate::retry::{self, Backoff};
use crate::time::Moment;
use crate::{Effect, Error, Kind, random};

/// A lease that was won.
#[derive(Debug)]
pub(super) struct Won {
    /// Whose the lease is: the asker's, or one that the engine drew.
    pub(super) owner: Owner,
    pub(super) token: FencingToken,
    /// How long the lease ran when the engine looked.
    pub(super) remaining: Duration,
    pub(super) already_ours: bool,
    /// When the request was sent that was answered.
    pub(super) sent: Moment,
    /// Until when the holder may rely on it.
    pub(super) until: Moment,
    /// When the answer came.
    pub(super) answered: Moment,
    pub(super) waited: Duration,
}

/// Why there is no grant, by the phase in which it failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another holder has it: never an engine failure, never opened.
    Contended { held_for: Option<Duration>, waiters: u64 },
    /// The engine failed: the call's policy decides.
    Engine(Error),
    /// The call itself is refused: never opened.
    Refused(Error),
    /// Locking is switched off.
    SwitchedOff,
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Contended { held_for, waiters } => contended(held_for).with_waiters(waiters).during("acquire"),
            Self::Engine(error) | Self::Refused(error) => error.during("acquire"),
            Self::SwitchedOff => switched_off().during("acquire"),
        }
    }
}

/// Who keeps the owner, and so who may still use a grant whose answer nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// This call drew it: what it leaves behind is given back.
    Call,
    /// The caller has it and may ask again with it: nothing may be given back under its feet.
    Caller,
}

/// How often whoever waits looks whether locking is still on.
const SWITCH: Duration = Duration::from_secs(1);
/// A hand-over by expiry is looked for this much after it at most, spread out so that processes don't come together.
const EXPIRY_JITTER: Duration = Duration::from_millis(10);

/// Gets the lease, or says why not, when the wait is over at the latest.
pub(super) async fn obtain(
    core: &Core,
    key: &LockKey,
    owner: Owner,
    keeper: Keeper,
    options: &LockOptions,
    begun: Moment,
) -> Result<Won, Failure> {
    let shared = &*core.shared;
    if options.takes_memory()
        && let Some(held_for) = shared.memory.held_for(key, begun)
    {
        return Err(Failure::Contended { held_for, waiters: 0 });
    }
    let mut attempt = Attempt::new(core, key, owner, keeper, options, begun);
    // Those in a line that hears nothing but failures know of no holder: who does not wait asks for himself.
    let line = shared.queues.line(key).filter(|line| !options.wait.is_zero() || matches!(line.heard, Heard::Busy(_)));
    match line {
        // The engine's queue is joined by the first call already: from then on it wakes us, so there must be somebody to wake.
        None if shared.engine.has_queue() && !options.wait.is_zero() => {}
        None => match attempt.once(Place::None).await {
            Answer::Won(won) => return Ok(won),
            Answer::Refused(error) => return Err(Failure::Refused(error)),
            Answer::Busy(remaining, _) if options.wait.is_zero() => {
                return Err(Failure::Contended { held_for: remaining, waiters: 0 });
            }
            Answer::Failed(error) if options.wait.is_zero() => return Err(Failure::Engine(error)),
            Answer::Busy(..) | Answer::Failed(_) => {}
        },
        Some(line) => {
            // Whoever holds it already must not queue behind those who wait for it.
            if keeper == Keeper::Caller && attempt.is_ours().await.map_err(Failure::Engine)? {
                return match attempt.once(Place::None).await {
                    Answer::Won(won) => Ok(won),
                    Answer::Refused(error) => Err(Failure::Refused(error)),
                    Answer::Failed(error) => Err(Failure::Engine(error)),
                    Answer::Busy(held_for, _) => Err(Failure::Contended { held_for, waiters: line.waiters }),
                };
            }
            if options.wait.is_zero() {
                return Err(in_line(&line, shared.clock.now()));
            }
        }
    }
    attempt.in_queue(begun + options.wait).await
}

/// What a caller hears who did not ask himself. An engine that is away is never told as a holder.
fn in_line(line: &Line, now: Moment) -> Failure {
    match line.heard {
        Heard::Busy(until) => Failure::Contended { held_for: until.map(|until| until.left(now)), waiters: line.waiters },
        Heard::Failure => Failure::Engine(Error::unavailable("the lock engine failed for as long as the call could wait")),
    }
}

enum Answer {
    Won(Won),
    /// For how long, and when to look again if the engine wakes us at the right time.
    Busy(Option<Duration>, Option<Duration>),
    Failed(Error),
    Refused(Error),
}

/// One acquisition with its owner; dropping it gives back what the engine may have granted meanwhile (C6).
struct Attempt<'a> {
    core: &'a Core,
    key: &'a LockKey,
    owner: Owner,
    keeper: Keeper,
    options: &'a LockOptions,
    holder: Arc<str>,
    begun: Moment,
    /// A request is out, or one's effect was never learnt.
    open: bool,
}

impl<'a> Attempt<'a> {
    fn new(core: &'a Core, key: &'a LockKey, owner: Owner, keeper: Keeper, options: &'a LockOptions, begun: Moment) -> Self {
        let holder = options.holder.as_deref().map_or_else(|| Arc::clone(&core.holder), Arc::from);
        Self { core, key, owner, keeper, options, holder, begun, open: false }
    }

    /// Asks the engine; an answer that was lost is asked for once more with the same owner, who finds his own grant.
    async fn once(&mut self, place: Place) -> Answer {
        let before = self.open;
        let mut answer = self.send(place).await;
        let mut resolved = true;
        if matches!(&answer, Err((error, _)) if error.effect() == Effect::Unknown) {
            answer = self.send(place).await;
            resolved = false;
        }
        match answer {
            Ok((Tried::Granted { token, remaining, already_ours }, sent)) => {
                let won = self.won(self.owner, token, remaining, already_ours, sent);
                if won.answered >= won.until && self.keeper == Keeper::Call {
                    // Still open: it is given back.
                    return Answer::Failed(Error::unavailable("the lock engine answered after the lease had ended"));
                }
                self.open = false;
                Answer::Won(won)
            }
            Ok((Tried::Handed { owner, token, remaining }, sent)) => {
                // It answers no request: what was open is open.
                self.open = before || !resolved;
                Answer::Won(self.won(owner, token, remaining, false, sent))
            }
            Ok((tried @ (Tried::Busy { remaining } | Tried::Queued { remaining, .. }), sent)) => {
                if self.options.takes_memory() {
                    self.core.shared.memory.learn(self.key, sent, remaining);
                }
                self.open = before || !resolved;
                let look_in = if let Tried::Queued { look_in, .. } = tried { Some(look_in) } else { None };
                Answer::Busy(remaining, look_in)
            }
            Err((error, _)) => {
                self.open = before || !resolved || error.effect() == Effect::Unknown;
                match error.kind() {
                    Kind::Invalid | Kind::Unsupported => Answer::Refused(error),
                    _ => Answer::Failed(error),
                }
            }
        }
    }

    fn won(&self, owner: Owner, token: FencingToken, remaining: Duration, already_ours: bool, sent: Moment) -> Won {
        let answered = self.core.shared.clock.now();
        let until = valid_until(sent, remaining, self.options.ttl);
        Won { owner, token, remaining, already_ours, sent, until, answered, waited: answered.since(self.begun) }
    }

    async fn send(&mut self, place: Place) -> Result<(Tried, Moment), (Error, Moment)> {
        let shared = &*self.core.shared;
        self.open = true;
        let ask = Ask { key: self.key.clone(), owner: self.owner, holder: Arc::clone(&self.holder), ttl: self.options.ttl, place };
        // Before the send: the lease cannot end in the engine before it ends here.
        let sent = shared.clock.now();
        match shared.bounded(sent, shared.engine.try_acquire(ask)).await {
            Ok(tried) => Ok((tried, sent)),
            Err(error) => Err((error, sent)),
        }
    }

    /// Waits for a turn, or until `look`; meanwhile the switch is looked at. Returns when it ended.
    async fn until_turn(&self, place: &Queued<'_>, look: Moment) -> Moment {
        let shared = &*self.core.shared;
        loop {
            let soon = look.min(shared.clock.now() + SWITCH);
            let woken = retry::deadline(&shared.clock, soon, place.turn()).await.is_some();
            let now = shared.clock.now();
            shared.look_at_switch(now).await;
            if woken || now >= look || !shared.switch.is_on() {
                return now;
            }
        }
    }

    async fn is_ours(&self) -> Result<bool, Error> {
        let shared = &*self.core.shared;
        let row = shared.bounded(shared.clock.now(), shared.engine.inspect(self.key.clone())).await?;
        Ok(row.is_some_and(|row| row.owner == self.owner))
    }

    async fn in_queue(mut self, deadline: Moment) -> Result<Won, Failure> {
        let core = self.core;
        let shared = &*core.shared;
        let config = &core.config;
        let mut place_there = PlaceThere { core, key: self.key, taken: false };
        let place = shared.queues.join(self.key, config.max_waiters_per_key, config.max_waiters).map_err(Failure::Refused)?;
        let _counted = shared.reports.waiting();
        let look_again = shared.engine.capabilities().look_again;
        // Whoever does not renew gets all that he asked for at once.
        let short = self.keeper == Keeper::Call && self.options.renew == Renew::Auto;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let mut failed = None;
        loop {
            let mut look = deadline;
            if !shared.switch.is_on() {
                return Err(Failure::SwitchedOff);
            }
            if place.is_head() {
                place_there.taken = shared.engine.has_queue();
                let answer = self.once(Place::Queue { short }).await;
                let now = shared.clock.now();
                match answer {
                    Answer::Won(won) => {
                        // It was used up.
                        place_there.taken = false;
                        return Ok(won);
                    }
                    Answer::Refused(error) => return Err(Failure::Refused(error)),
                    Answer::Busy(remaining, look_in) => {
                        failed = None;
                        backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
                        place.note(Heard::Busy(remaining.map(|remaining| now + remaining)));
                        look = now + look_in.unwrap_or_else(|| look_again / 2 + jitter(look_again));
                        if let Some(remaining) = remaining {
                            look = look.min(now + remaining + jitter(EXPIRY_JITTER));
                        }
                    }
                    Answer::Failed(error) => {
                        failed = Some(error);
                        place.note(Heard::Failure);
                        look = now + backoff.next().max(Duration::from_millis(1));
                    }
                }
            }
            let now = self.until_turn(&place, look.min(deadline)).await;
            if now >= deadline {
                return Err(failed.map_or_else(|| in_line(&place.line(), now), Failure::Engine));
            }
        }
    }
}

/// The process's place in the engine's queue: given up when the last caller here has left without the key (C6).
struct PlaceThere<'a> {
    core: &'a Core,
    key: &'a LockKey,
    taken: bool,
}

impl Drop for PlaceThere<'_> {
    fn drop(&mut self) {
        if self.taken && self.core.shared.queues.line(self.key).is_none() {
            self.core.give_back(Leaving::place(self.key.clone()));
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.open && self.keeper == Keeper::Call {
            let until = self.core.shared.clock.now() + self.options.ttl;
            self.core.give_back(Leaving::new(self.key.clone(), self.owner, until));
        }
    }
}

fn jitter(below: Duration) -> Duration {
    Duration::from_nanos(random::below(u64::try_from(below.as_nanos()).unwrap_or(u64::MAX)))
}
