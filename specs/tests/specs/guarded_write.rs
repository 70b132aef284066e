//! The guarded write: two clients that each add one, under a lock, exactly once, whatever dies in between (INV-1, INV-2, INV-3).
//!
//! The store judges by the real `decide`. A commit that was sent may arrive at any later time and any number of times; a client may die
//! after any step and begins again with the same request id.

use std::collections::{BTreeMap, BTreeSet};

use onward::commit::{Commit, WriteCondition};
use onward::model::{FencingToken, Payload, RequestId, Version};
use onward::testing::decide::{Facts, Judged, judge, lock, object};
use stateright::{Model, Property};

use super::{holds, mutations};

const ONCE: &str = "the value counts each request once";
const WHOLE: &str = "entry, request row and change are there together or not at all";
const KEPT: &str = "what was acknowledged is there";
const DELIVERED: &str = "once the change log is delivered, the cache holds nothing old";
const INLINE: &str = "after an answer with delivery the cache holds nothing older";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The commit carries no request id.
    TheRequestId,
    /// The write is unconditional: only the fence protects it.
    TheVersion,
    /// The audit entry is a transaction of its own, after the change.
    OneTransactionForTheEntry,
    /// The request row is a transaction of its own, after the change.
    OneTransactionForTheRequest,
    /// Invalidations are delivered inline only.
    InvalidationsInTheChangeLog,
    /// The consumer's cursor moves before the cache has taken it.
    DeliveryBeforeTheCursor,
    /// A fill of the cache lands whatever came in between.
    TheFillLease,
    /// A commit is answered before it is durable.
    TheFsync,
}

struct GuardedWrite {
    without: Without,
    /// How many times a client dies, over both.
    crashes: u8,
    /// How many leases end while their holder still works.
    expiries: u8,
    power_cuts: u8,
    fills: u8,
}

type Client = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sent {
    client: Client,
    attempt: u8,
    token: u64,
    /// Version and value that it is based on.
    base: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Applied,
    Conflict,
    Fenced,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step1To7 {
    Idle,
    Holds {
        token: u64,
    },
    Read {
        token: u64,
        base: (u64, u64),
    },
    Waits,
    /// Applied, by this attempt or one before: the cache comes next.
    Applied,
    /// The cache was told when the store held this value.
    Delivered {
        value: u64,
    },
    Answered,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Store {
    facts: Facts,
    /// Who made each revision, and whether its row of the change log asks for an invalidation.
    log: Vec<Client>,
    chain: Vec<Client>,
    /// Second halves that a broken store has still to write.
    entries_to_come: BTreeSet<Client>,
    requests_to_come: BTreeMap<Client, ([u8; 32], u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    store: Store,
    /// What a power cut leaves.
    durable: Store,
    lease: Option<(Client, u64)>,
    last_token: u64,
    clients: Vec<(u8, Step1To7)>,
    sent: BTreeSet<Sent>,
    answers: BTreeMap<(Client, u8), Answer>,
    cache: Option<u64>,
    generation: u8,
    filling: Option<(u8, u64)>,
    cursor: usize,
    consumer_owes: bool,
    /// The greatest value that an answer with delivery stands for.
    floor: u64,
    crashes: u8,
    expiries: u8,
    power_cuts: u8,
    fills: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Next(Client),
    Crash(Client),
    Deliver(Sent),
    SecondHalf(Client),
    LeaseEnds,
    FillBegins,
    FillLands,
    Consume,
    ConsumerDelivers,
    ConsumerDies,
    Sync,
    PowerCut,
}

fn request(client: Client) -> RequestId {
    RequestId::new(&format!("client-{client}")).unwrap()
}

impl Store {
    fn value(&self) -> u64 {
        self.facts.object.map_or(0, |(_, value)| value)
    }
}

impl GuardedWrite {
    const fn new(without: Without) -> Self {
        Self { without, crashes: 0, expiries: 0, power_cuts: 0, fills: 0 }
    }

    fn is(&self, without: Without) -> bool {
        self.without == without
    }

    fn commit(&self, sent: Sent) -> Commit {
        let value = Payload::json(&(sent.base.1 + 1)).unwrap();
        let mut commit = Commit::new().fence(lock(), FencingToken::new(sent.token).unwrap()).invalidate("default", ["one"]);
        commit = if self.is(Without::TheVersion) {
            commit.overwrite(object(), value)
        } else {
            commit.put_payload(object(), value, WriteCondition::MatchVersion(Version::new(sent.base.0).unwrap()))
        };
        if !self.is(Without::TheRequestId) {
            commit = commit.request(request(sent.client)).intent(b"add one");
        }
        commit
    }

    fn judge(&self, state: &mut State, sent: Sent) {
        let store = &mut state.store;
        let answer = match judge(&self.commit(sent), &store.facts) {
            Judged::Applies(mut after) => {
                store.log.push(sent.client);
                if self.is(Without::OneTransactionForTheEntry) {
                    store.entries_to_come.insert(sent.client);
                } else {
                    store.chain.push(sent.client);
                }
                if self.is(Without::OneTransactionForTheRequest)
                    && let Some(row) = after.requests.remove(request(sent.client).as_str())
                {
                    store.requests_to_come.insert(sent.client, row);
                }
                store.facts = after;
                if !self.is(Without::TheFsync) {
                    state.durable = state.store.clone();
                }
                Answer::Applied
            }
            Judged::Replays(_) => Answer::Applied,
            Judged::Conflicts => Answer::Conflict,
            Judged::Fenced => Answer::Fenced,
        };
        // The first answer may be on its way already.
        state.answers.entry((sent.client, sent.attempt)).or_insert(answer);
    }

    fn invalidate(state: &mut State) {
        state.generation += 1;
        state.cache = None;
    }

    fn next(state: &mut State, client: Client) -> Option<()> {
        let (attempt, step) = state.clients[usize::from(client)].clone();
        let again = |state: &mut State| {
            if state.lease.is_some_and(|(owner, _)| owner == client) {
                state.lease = None;
            }
            (attempt + 1, Step1To7::Idle)
        };
        let next = match step {
            // Step 1: a replay needs no lock.
            Step1To7::Idle if state.store.facts.requests.contains_key(request(client).as_str()) => (attempt, Step1To7::Applied),
            Step1To7::Idle if state.lease.is_none() => {
                state.last_token += 1;
                state.lease = Some((client, state.last_token));
                (attempt, Step1To7::Holds { token: state.last_token })
            }
            Step1To7::Idle => return None,
            Step1To7::Holds { token } => (attempt, Step1To7::Read { token, base: state.store.facts.object? }),
            Step1To7::Read { token, base } => {
                state.sent.insert(Sent { client, attempt, token, base });
                (attempt, Step1To7::Waits)
            }
            Step1To7::Waits => match state.answers.get(&(client, attempt))? {
                Answer::Applied => (attempt, Step1To7::Applied),
                Answer::Conflict | Answer::Fenced => again(state),
            },
            Step1To7::Applied => {
                Self::invalidate(state);
                (attempt, Step1To7::Delivered { value: state.store.value() })
            }
            Step1To7::Delivered { value } => {
                if state.lease.is_some_and(|(owner, _)| owner == client) {
                    state.lease = None;
                }
                state.floor = state.floor.max(value);
                (attempt, Step1To7::Answered)
            }
            Step1To7::Answered => return None,
        };
        state.clients[usize::from(client)] = next;
        Some(())
    }
}

impl Model for GuardedWrite {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let facts = Facts { revision: 1, object: Some((1, 0)), ..Facts::default() };
        let store =
            Store { facts, log: Vec::new(), chain: Vec::new(), entries_to_come: BTreeSet::new(), requests_to_come: BTreeMap::new() };
        vec![State {
            durable: store.clone(),
            store,
            lease: None,
            last_token: 0,
            clients: vec![(0, Step1To7::Idle); 2],
            sent: BTreeSet::new(),
            answers: BTreeMap::new(),
            cache: None,
            generation: 0,
            filling: None,
            cursor: 0,
            consumer_owes: false,
            floor: 0,
            crashes: 0,
            expiries: 0,
            power_cuts: 0,
            fills: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (id, (_, step)) in (0..).zip(&state.clients) {
            if *step != Step1To7::Answered {
                actions.push(Step::Next(id));
                if state.crashes < self.crashes && *step != Step1To7::Idle {
                    actions.push(Step::Crash(id));
                }
            }
        }
        actions.extend(state.sent.iter().copied().map(Step::Deliver));
        let halves = state.store.entries_to_come.iter().chain(state.store.requests_to_come.keys());
        actions.extend(halves.copied().map(Step::SecondHalf));
        if state.lease.is_some() && state.expiries < self.expiries {
            actions.push(Step::LeaseEnds);
        }
        if state.cache.is_none() && state.filling.is_none() && state.fills < self.fills {
            actions.push(Step::FillBegins);
        }
        if state.filling.is_some() {
            actions.push(Step::FillLands);
        }
        if state.cursor < state.store.log.len() && !state.consumer_owes {
            actions.push(Step::Consume);
        }
        if state.consumer_owes {
            actions.extend([Step::ConsumerDelivers, Step::ConsumerDies]);
        }
        if state.power_cuts < self.power_cuts {
            actions.extend([Step::Sync, Step::PowerCut]);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Next(client) => Self::next(&mut state, client)?,
            Step::Crash(client) => {
                state.crashes += 1;
                let (attempt, _) = state.clients[usize::from(client)];
                // What a second transaction had still to write is never written; the lease ends by itself.
                state.clients[usize::from(client)] = (attempt + 1, Step1To7::Idle);
                state.store.entries_to_come.remove(&client);
                state.store.requests_to_come.remove(&client);
                if state.lease.is_some_and(|(owner, _)| owner == client) {
                    state.lease = None;
                }
            }
            Step::Deliver(sent) => self.judge(&mut state, sent),
            Step::SecondHalf(client) => {
                if state.store.entries_to_come.remove(&client) {
                    state.store.chain.push(client);
                }
                if let Some(row) = state.store.requests_to_come.remove(&client) {
                    state.store.facts.requests.insert(request(client).to_string(), row);
                }
                state.durable = state.store.clone();
            }
            Step::LeaseEnds => {
                state.expiries += 1;
                state.lease = None;
            }
            Step::FillBegins => {
                state.fills += 1;
                state.filling = Some((state.generation, state.store.value()));
            }
            Step::FillLands => {
                let (generation, value) = state.filling.take()?;
                if generation == state.generation || self.is(Without::TheFillLease) {
                    state.cache = Some(value);
                }
            }
            Step::Consume => {
                if self.is(Without::DeliveryBeforeTheCursor) {
                    state.consumer_owes = true;
                } else if !self.is(Without::InvalidationsInTheChangeLog) {
                    Self::invalidate(&mut state);
                }
                state.cursor += 1;
            }
            Step::ConsumerDelivers => {
                Self::invalidate(&mut state);
                state.consumer_owes = false;
            }
            Step::ConsumerDies => state.consumer_owes = false,
            Step::Sync => state.durable = state.store.clone(),
            Step::PowerCut => {
                state.power_cuts += 1;
                state.store = state.durable.clone();
                state.cursor = state.cursor.min(state.store.log.len());
            }
        }
        (state != *last).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.clients.iter().all(|(attempt, _)| *attempt <= 2)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, state: &State| {
                let who: BTreeSet<_> = state.store.log.iter().collect();
                who.len() == state.store.log.len() && state.store.value() == state.store.log.len() as u64
            }),
            Property::always(WHOLE, |_, state: &State| {
                let idle = state.store.entries_to_come.is_empty() && state.store.requests_to_come.is_empty();
                !idle || state.store.chain == state.store.log
            }),
            Property::always(KEPT, |_, state: &State| {
                let answered = (0..).zip(&state.clients).filter(|(_, (_, step))| *step == Step1To7::Answered);
                answered.into_iter().all(|(client, _)| state.store.log.contains(&client))
            }),
            Property::always(DELIVERED, |_, state: &State| {
                let behind = state.cursor < state.store.log.len() || state.consumer_owes;
                behind || state.cache.is_none_or(|value| value == state.store.value())
            }),
            Property::always(INLINE, |_, state: &State| state.cache.is_none_or(|value| value >= state.floor)),
            Property::sometimes("both are answered", |_, state: &State| state.clients.iter().all(|(_, step)| *step == Step1To7::Answered)),
        ]
    }
}

#[test]
fn it_is_whole_and_once_over_a_crash_after_any_step_and_a_lease_that_ends() {
    holds(GuardedWrite { crashes: 1, expiries: 1, ..GuardedWrite::new(Without::Nothing) });
}

#[test]
fn it_is_whole_and_once_over_two_crashes_and_a_power_cut() {
    holds(GuardedWrite { crashes: 2, power_cuts: 1, ..GuardedWrite::new(Without::Nothing) });
}

#[test]
fn the_cache_is_clean_over_crashes_and_fills_at_any_time() {
    holds(GuardedWrite { crashes: 1, fills: 2, ..GuardedWrite::new(Without::Nothing) });
}

mutations! {
    without_the_request_id_a_retry_counts_twice:
        without GuardedWrite { crashes: 1, ..GuardedWrite::new(Without::TheRequestId) }, breaks ONCE;
    without_the_version_an_update_is_lost:
        without GuardedWrite { expiries: 1, ..GuardedWrite::new(Without::TheVersion) }, breaks ONCE;
    without_one_transaction_an_entry_is_missing:
        without GuardedWrite { crashes: 1, ..GuardedWrite::new(Without::OneTransactionForTheEntry) }, breaks WHOLE;
    without_one_transaction_a_retry_counts_twice:
        without GuardedWrite { crashes: 1, ..GuardedWrite::new(Without::OneTransactionForTheRequest) }, breaks ONCE;
    without_invalidations_in_the_change_log_the_cache_stays_old:
        without GuardedWrite { crashes: 1, fills: 1, ..GuardedWrite::new(Without::InvalidationsInTheChangeLog) }, breaks DELIVERED;
    without_delivery_before_the_cursor_the_cache_stays_old:
        without GuardedWrite { fills: 1, ..GuardedWrite::new(Without::DeliveryBeforeTheCursor) }, breaks DELIVERED;
    without_the_fill_lease_the_cache_stays_old:
        without GuardedWrite { fills: 2, ..GuardedWrite::new(Without::TheFillLease) }, breaks DELIVERED;
    without_the_fill_lease_an_answer_with_delivery_is_a_lie:
        without GuardedWrite { fills: 2, ..GuardedWrite::new(Without::TheFillLease) }, breaks INLINE;
    without_the_fsync_an_acknowledged_write_is_lost:
        without GuardedWrite { power_cuts: 1, ..GuardedWrite::new(Without::TheFsync) }, breaks KEPT;
}
