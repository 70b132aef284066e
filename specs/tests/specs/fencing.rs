//! The fencing protocol: leases that end, holders that pause, and a store that judges late writes by the real `decide` (INV-1).
//!
//! A message that was sent may arrive at any later time, any number of times, or never. A holder that pauses or dies is one that takes no
//! further step, so every prefix of a run is also a crash.

use std::collections::BTreeSet;

use onward::commit::Commit;
use onward::model::{FencingToken, Payload};
use onward::testing::decide::{Facts, Judged, judge, lock, object};
use stateright::{Model, Property};

use super::{holds, mutations};

/// How long a lease lasts, in ticks.
const TTL: u8 = 2;
/// The last tick.
const END: u8 = 3;
/// How many tokens are reserved durably at a time.
const AHEAD: u8 = 2;

const ORDER: &str = "no write of an older grant lands after one of a newer grant";
const RISING: &str = "tokens are unique and rise";
const ALONE: &str = "at most one holder believes that it holds";
const OWN: &str = "nobody is kept out by a lease of his own";
const UNHEARD: &str = "a lease that nobody holds is not lengthened";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Writes carry no token.
    TheFence,
    /// The store judges tokens and forgets them.
    KeepingTheNewestToken,
    /// A late write is sent with the token of whoever holds the lock now.
    TheGrantsOwnToken,
    /// A grant does not advance the counter.
    AGreaterTokenEachGrant,
    /// The counter starts again after a power loss.
    TokensReservedAhead,
    /// Any release frees the lock.
    TheOwnerTestAtRelease,
    /// Any renewal lengthens the lease.
    TheOwnerTestAtRenewal,
    /// A renewal lengthens a lease that has ended.
    TheEndOfALeaseAtRenewal,
    /// The holder counts its time from the answer.
    TheTimeBeforeTheSend,
    /// Asking again for the same owner is judged like a stranger's.
    TheOwnerTestAtAcquisition,
}

struct Fencing {
    without: Without,
    holders: u8,
    power_losses: u8,
    renewals: u8,
}

/// An acquisition of a holder: its secret owner, unlike all others.
type Owner = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Acquire { owner: Owner, sent: u8 },
    Granted { owner: Owner, token: u8, sent: u8 },
    Renew { owner: Owner, sent: u8 },
    Renewed { owner: Owner, sent: u8 },
    Release { owner: Owner },
    Write { owner: Owner, token: u8 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Idle,
    Asking,
    Holds { token: u8, until: u8, renewals: u8, wrote: bool },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lease {
    owner: Owner,
    token: u8,
    until: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    lease: Option<Lease>,
    last: u8,
    reserved_to: u8,
    power_losses: u8,
    /// Who was granted the lock, in order, with which token.
    grants: Vec<(Owner, u8)>,
    store: Facts,
    /// The places of the grants of the accepted writes, in order of their revisions.
    accepted: Vec<usize>,
    fenced: bool,
    holders: Vec<Holder>,
    sent: BTreeSet<Message>,
    self_deadlock: bool,
    ghost_renewal: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Tick,
    Ask(u8),
    Renew(u8),
    Write(u8),
    Release(u8),
    Deliver(Message),
    PowerLoss,
}

impl Fencing {
    fn new(without: Without) -> Self {
        Self { without, holders: 2, power_losses: 0, renewals: 0 }
    }

    fn is(&self, without: Without) -> bool {
        self.without == without
    }

    fn acquire(&self, state: &mut State, owner: Owner, sent: u8) {
        let live = state.lease.clone().filter(|lease| state.now < lease.until);
        if let Some(lease) = live {
            if lease.owner == owner {
                if self.is(Without::TheOwnerTestAtAcquisition) {
                    state.self_deadlock = true;
                } else {
                    state.sent.insert(Message::Granted { owner, token: lease.token, sent });
                }
            }
            return;
        }
        if !self.is(Without::AGreaterTokenEachGrant) || state.last == 0 {
            state.last += 1;
        }
        if state.last > state.reserved_to && !self.is(Without::TokensReservedAhead) {
            state.reserved_to = state.last + AHEAD;
        }
        state.lease = Some(Lease { owner, token: state.last, until: state.now + TTL });
        state.grants.push((owner, state.last));
        state.sent.insert(Message::Granted { owner, token: state.last, sent });
    }

    fn write(&self, state: &mut State, owner: Owner, token: u8) {
        let place = state.grants.iter().position(|grant| *grant == (owner, token)).expect("a token comes from a grant");
        let token = if self.is(Without::TheGrantsOwnToken) { state.lease.as_ref().map_or(token, |lease| lease.token) } else { token };
        let mut commit = Commit::new().overwrite(object(), Payload::json(&u64::from(owner)).unwrap());
        if !self.is(Without::TheFence) {
            commit = commit.fence(lock(), FencingToken::new(u64::from(token)).unwrap());
        }
        match judge(&commit, &state.store) {
            Judged::Applies(mut after) => {
                if self.is(Without::KeepingTheNewestToken) {
                    after.newest_token = None;
                }
                // Only the newest token tells one store from another here.
                state.store = Facts { newest_token: after.newest_token, ..Facts::default() };
                if state.accepted.last() != Some(&place) {
                    state.accepted.push(place);
                }
            }
            Judged::Fenced => state.fenced = true,
            other => panic!("an unconditional write: {other:?}"),
        }
    }

    fn deliver(&self, state: &mut State, message: Message) {
        match message {
            Message::Acquire { owner, sent } => self.acquire(state, owner, sent),
            Message::Granted { owner, token, sent } => {
                let from = if self.is(Without::TheTimeBeforeTheSend) { state.now } else { sent };
                let holder = &mut state.holders[usize::from(owner)];
                if *holder == Holder::Asking {
                    *holder = Holder::Holds { token, until: from + TTL, renewals: 0, wrote: false };
                }
            }
            Message::Renew { owner, sent } => {
                let Some(lease) = &mut state.lease else { return };
                let is_owner = lease.owner == owner || self.is(Without::TheOwnerTestAtRenewal);
                let is_live = state.now < lease.until || self.is(Without::TheEndOfALeaseAtRenewal);
                if is_owner && is_live {
                    state.ghost_renewal |= state.now >= lease.until || lease.owner != owner;
                    lease.until = state.now + TTL;
                    state.sent.insert(Message::Renewed { owner, sent });
                }
            }
            Message::Renewed { owner, sent } => {
                let now = state.now;
                let Holder::Holds { until, .. } = &mut state.holders[usize::from(owner)] else { return };
                // A late answer revives nothing.
                if now < *until {
                    *until = (*until).max(sent + TTL);
                }
            }
            Message::Release { owner } => {
                if state.lease.as_ref().is_some_and(|lease| lease.owner == owner || self.is(Without::TheOwnerTestAtRelease)) {
                    state.lease = None;
                }
            }
            Message::Write { owner, token } => self.write(state, owner, token),
        }
    }
}

impl Model for Fencing {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            lease: None,
            last: 0,
            reserved_to: 0,
            power_losses: 0,
            grants: Vec::new(),
            store: Facts::default(),
            accepted: Vec::new(),
            fenced: false,
            holders: vec![Holder::Idle; usize::from(self.holders)],
            sent: BTreeSet::new(),
            self_deadlock: false,
            ghost_renewal: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.now < END {
            actions.push(Step::Tick);
        }
        if state.power_losses < self.power_losses {
            actions.push(Step::PowerLoss);
        }
        for (id, holder) in (0..).zip(&state.holders) {
            match holder {
                Holder::Idle => actions.push(Step::Ask(id)),
                Holder::Holds { until, renewals, wrote, .. } => {
                    if *renewals < self.renewals && state.now < *until {
                        actions.push(Step::Renew(id));
                    }
                    // Judged valid here; the message may leave after any pause.
                    if !wrote && state.now < *until {
                        actions.push(Step::Write(id));
                    }
                    actions.push(Step::Release(id));
                }
                Holder::Asking | Holder::Done => {}
            }
        }
        actions.extend(state.sent.iter().copied().map(Step::Deliver));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Tick => state.now += 1,
            Step::Ask(owner) => {
                state.holders[usize::from(owner)] = Holder::Asking;
                state.sent.insert(Message::Acquire { owner, sent: state.now });
            }
            Step::Renew(owner) => {
                let sent = state.now;
                if let Holder::Holds { renewals, .. } = &mut state.holders[usize::from(owner)] {
                    *renewals += 1;
                }
                state.sent.insert(Message::Renew { owner, sent });
            }
            Step::Write(owner) => {
                if let Holder::Holds { token, wrote, .. } = &mut state.holders[usize::from(owner)] {
                    *wrote = true;
                    let token = *token;
                    state.sent.insert(Message::Write { owner, token });
                }
            }
            Step::Release(owner) => {
                state.holders[usize::from(owner)] = Holder::Done;
                state.sent.insert(Message::Release { owner });
            }
            Step::Deliver(message) => self.deliver(&mut state, message),
            Step::PowerLoss => {
                state.power_losses += 1;
                state.lease = None;
                state.last = state.reserved_to;
            }
        }
        (state != *last).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        // A doubled request may be granted again and again as time passes.
        state.grants.len() <= usize::from(self.holders) + 1
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ORDER, |_, state: &State| state.accepted.is_sorted()),
            Property::always(RISING, |_, state: &State| state.grants.windows(2).all(|pair| pair[0].1 < pair[1].1)),
            // A power loss ends every lease at once; whoever is on another machine learns it by its time, and by the fence.
            Property::always(ALONE, |_, state: &State| {
                let believe = state.holders.iter().filter(|holder| matches!(holder, Holder::Holds { until, .. } if state.now < *until));
                state.power_losses > 0 || believe.count() <= 1
            }),
            Property::always(OWN, |_, state: &State| !state.self_deadlock),
            Property::always(UNHEARD, |_, state: &State| !state.ghost_renewal),
            Property::sometimes("two holders write one after the other", |_, state: &State| state.accepted.len() >= 2),
            Property::sometimes("a late write is refused", |_, state: &State| state.fenced),
        ]
    }
}

#[test]
fn the_protocol_keeps_its_promises() {
    holds(Fencing::new(Without::Nothing));
}

#[test]
fn it_keeps_them_over_a_power_loss() {
    holds(Fencing { power_losses: 1, ..Fencing::new(Without::Nothing) });
}

#[test]
fn it_keeps_them_with_renewals() {
    holds(Fencing { renewals: 1, ..Fencing::new(Without::Nothing) });
}

mutations! {
    without_the_fence_a_late_write_lands: without Fencing::new(Without::TheFence), breaks ORDER;
    without_keeping_the_newest_token_a_late_write_lands: without Fencing::new(Without::KeepingTheNewestToken), breaks ORDER;
    without_the_grants_own_token_a_late_write_lands: without Fencing::new(Without::TheGrantsOwnToken), breaks ORDER;
    without_a_greater_token_each_grant_a_late_write_lands: without Fencing::new(Without::AGreaterTokenEachGrant), breaks ORDER;
    without_tokens_reserved_ahead_a_token_is_used_twice:
        without Fencing { power_losses: 1, ..Fencing::new(Without::TokensReservedAhead) }, breaks RISING;
    without_tokens_reserved_ahead_a_late_write_lands:
        without Fencing { power_losses: 1, ..Fencing::new(Without::TokensReservedAhead) }, breaks ORDER;
    without_the_owner_test_at_release_two_believe_that_they_hold:
        without Fencing { holders: 3, ..Fencing::new(Without::TheOwnerTestAtRelease) }, breaks ALONE;
    without_the_owner_test_at_renewal_a_stranger_lengthens_a_lease:
        without Fencing { renewals: 1, ..Fencing::new(Without::TheOwnerTestAtRenewal) }, breaks UNHEARD;
    without_the_end_of_a_lease_at_renewal_it_is_revived:
        without Fencing { renewals: 1, ..Fencing::new(Without::TheEndOfALeaseAtRenewal) }, breaks UNHEARD;
    without_the_time_before_the_send_two_believe_that_they_hold: without Fencing::new(Without::TheTimeBeforeTheSend), breaks ALONE;
    without_the_owner_test_at_acquisition_a_lost_answer_locks_its_owner_out:
        without Fencing::new(Without::TheOwnerTestAtAcquisition), breaks OWN;
}
