//! The fill lease of a cache that many processes share: nonces, the epoch of a namespace, a server that loses things (INV-2).
//!
//! A fill or a purge that was sent may arrive at any later time, any number of times, or never. A client that dies takes no further step.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

use super::{holds, mutations};

const FRESH: &str = "no read is older than an invalidation that was acknowledged before it began";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A fill lands if its reservation is gone.
    AbsentIsRefused,
    /// A fill lands on the reservation of somebody else.
    OwnNonce,
    /// A refresh replaces whatever is there.
    CompareAtRefresh,
    /// A hit is served under the epoch that the client remembers.
    EpochCheckOnAHit,
    /// A purge under an old epoch counts as done.
    RepeatAfterAnEpochChange,
    /// A server that comes back with an old snapshot is believed.
    NewEpochForAnotherServer,
}

struct FillLease {
    without: Without,
    readers: u8,
    writers: u8,
    flushes: u8,
    /// Evictions of a value or reservation.
    evictions: u8,
    /// Restarts from a snapshot that was taken at any time before.
    restarts: u8,
}

type Epoch = u8;
type Nonce = u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    /// Of whoever may replace what is here.
    nonce: Nonce,
    /// What was read from the source; none for a reservation.
    value: Option<u8>,
    stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    epoch: Epoch,
    /// Entries carry the epoch in their name.
    slots: BTreeMap<Epoch, Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Fill { epoch: Epoch, nonce: Nonce, value: u8, refresh: bool },
    Purge { writer: u8, epoch: Epoch },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle { known: Epoch },
    Began { known: Epoch, floor: u8 },
    Holds { epoch: Epoch, refresh: bool },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    /// The purge was begun when the source was at this version.
    Purging {
        begun: u8,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    source: u8,
    server: Server,
    snapshot: Option<Server>,
    next_epoch: Epoch,
    readers: Vec<Reader>,
    writers: Vec<Writer>,
    sent: BTreeSet<Message>,
    /// What a read that begins now must not be older than.
    floor: u8,
    flushes: u8,
    evictions: u8,
    restarts: u8,
    stale_read: bool,
    hit: bool,
    refused: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Begin(u8),
    /// Asks for the entry under the epoch that the client remembers.
    LookUp(u8),
    Reserve(u8),
    /// Reads the source and sends the fill.
    Load(u8),
    Write(u8),
    Deliver(Message),
    /// The entry's freshness is over; it may be refreshed.
    Age,
    Flush,
    Evict,
    Snapshot,
    Restart,
}

impl FillLease {
    const fn new(without: Without) -> Self {
        Self { without, readers: 2, writers: 1, flushes: 0, evictions: 0, restarts: 0 }
    }

    fn is(&self, without: Without) -> bool {
        self.without == without
    }

    fn new_epoch(state: &mut State) {
        state.server.epoch = state.next_epoch;
        state.next_epoch += 1;
    }

    fn fill(&self, state: &mut State, epoch: Epoch, nonce: Nonce, value: u8, refresh: bool) {
        let lands = match state.server.slots.get(&epoch) {
            Some(slot) => slot.nonce == nonce || self.is(Without::OwnNonce) || (refresh && self.is(Without::CompareAtRefresh)),
            None => self.is(Without::AbsentIsRefused) || (refresh && self.is(Without::CompareAtRefresh)),
        };
        if lands {
            state.server.slots.insert(epoch, Slot { nonce, value: Some(value), stale: false });
        } else {
            state.refused = true;
        }
    }

    fn purge(&self, state: &mut State, writer: u8, epoch: Epoch) {
        if epoch == state.server.epoch || self.is(Without::RepeatAfterAnEpochChange) {
            state.server.slots.remove(&epoch);
            if let Writer::Purging { begun } = state.writers[usize::from(writer)] {
                state.floor = state.floor.max(begun);
                state.writers[usize::from(writer)] = Writer::Done;
            }
        } else {
            let epoch = state.server.epoch;
            state.sent.insert(Message::Purge { writer, epoch });
        }
    }

    fn look_up(&self, state: &mut State, id: u8) {
        let Reader::Began { known, floor } = state.readers[usize::from(id)].clone() else { return };
        if known != state.server.epoch && !self.is(Without::EpochCheckOnAHit) {
            state.readers[usize::from(id)] = Reader::Began { known: state.server.epoch, floor };
            return;
        }
        let Some(Slot { value: Some(value), .. }) = state.server.slots.get(&known) else { return };
        state.stale_read |= *value < floor;
        state.hit = true;
        state.readers[usize::from(id)] = Reader::Done;
    }

    fn reserve(state: &mut State, id: u8) {
        let Reader::Began { known, .. } = state.readers[usize::from(id)] else { return };
        if known != state.server.epoch {
            return;
        }
        let refresh = match state.server.slots.get_mut(&known) {
            None => {
                state.server.slots.insert(known, Slot { nonce: id, value: None, stale: false });
                false
            }
            // The claim: the stale value stays until it is replaced or removed.
            Some(slot) if slot.stale => {
                slot.nonce = id;
                slot.stale = false;
                true
            }
            Some(_) => return,
        };
        state.readers[usize::from(id)] = Reader::Holds { epoch: known, refresh };
    }
}

impl Model for FillLease {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            source: 0,
            server: Server { epoch: 0, slots: BTreeMap::new() },
            snapshot: None,
            next_epoch: 1,
            readers: vec![Reader::Idle { known: 0 }; usize::from(self.readers)],
            writers: vec![Writer::Idle; usize::from(self.writers)],
            sent: BTreeSet::new(),
            floor: 0,
            flushes: 0,
            evictions: 0,
            restarts: 0,
            stale_read: false,
            hit: false,
            refused: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (id, reader) in (0..).zip(&state.readers) {
            match reader {
                Reader::Idle { .. } => actions.push(Step::Begin(id)),
                Reader::Began { .. } => actions.extend([Step::LookUp(id), Step::Reserve(id)]),
                Reader::Holds { .. } => actions.push(Step::Load(id)),
                Reader::Done => {}
            }
        }
        for (id, writer) in (0..).zip(&state.writers) {
            if *writer == Writer::Idle {
                actions.push(Step::Write(id));
            }
        }
        actions.extend(state.sent.iter().copied().map(Step::Deliver));
        if state.server.slots.get(&state.server.epoch).is_some_and(|slot| slot.value.is_some() && !slot.stale) {
            actions.push(Step::Age);
        }
        if state.flushes < self.flushes {
            actions.push(Step::Flush);
        }
        if state.evictions < self.evictions && !state.server.slots.is_empty() {
            actions.push(Step::Evict);
        }
        if state.restarts < self.restarts {
            actions.push(if state.snapshot.is_none() { Step::Snapshot } else { Step::Restart });
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Begin(id) => {
                let Reader::Idle { known } = state.readers[usize::from(id)] else { return None };
                state.readers[usize::from(id)] = Reader::Began { known, floor: state.floor };
            }
            Step::LookUp(id) => self.look_up(&mut state, id),
            Step::Reserve(id) => Self::reserve(&mut state, id),
            Step::Load(id) => {
                let Reader::Holds { epoch, refresh } = state.readers[usize::from(id)] else { return None };
                state.sent.insert(Message::Fill { epoch, nonce: id, value: state.source, refresh });
                state.readers[usize::from(id)] = Reader::Done;
            }
            Step::Write(id) => {
                state.source += 1;
                state.writers[usize::from(id)] = Writer::Purging { begun: state.source };
                // The writer's process has known the namespace since its first epoch.
                state.sent.insert(Message::Purge { writer: id, epoch: 0 });
            }
            Step::Deliver(Message::Fill { epoch, nonce, value, refresh }) => self.fill(&mut state, epoch, nonce, value, refresh),
            Step::Deliver(Message::Purge { writer, epoch }) => self.purge(&mut state, writer, epoch),
            Step::Age => {
                let epoch = state.server.epoch;
                state.server.slots.get_mut(&epoch)?.stale = true;
            }
            Step::Flush => {
                state.flushes += 1;
                Self::new_epoch(&mut state);
                state.floor = state.floor.max(state.source);
            }
            Step::Evict => {
                state.evictions += 1;
                let epoch = state.server.epoch;
                state.server.slots.remove(&epoch)?;
            }
            Step::Snapshot => state.snapshot = Some(state.server.clone()),
            Step::Restart => {
                state.restarts += 1;
                state.server = state.snapshot.take()?;
                if !self.is(Without::NewEpochForAnotherServer) {
                    Self::new_epoch(&mut state);
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FRESH, |_, state: &State| !state.stale_read),
            Property::sometimes("a fill is served", |_, state: &State| state.hit),
            Property::sometimes("a late fill is refused", |_, state: &State| state.refused),
        ]
    }
}

#[test]
fn no_read_is_stale_with_two_writers_and_three_readers() {
    holds(FillLease { readers: 3, writers: 2, ..FillLease::new(Without::Nothing) });
}

#[test]
fn no_read_is_stale_over_a_flush_and_an_eviction() {
    holds(FillLease { readers: 3, flushes: 1, evictions: 1, ..FillLease::new(Without::Nothing) });
}

#[test]
fn no_read_is_stale_over_a_restart_from_an_old_snapshot() {
    holds(FillLease { readers: 3, restarts: 1, ..FillLease::new(Without::Nothing) });
}

mutations! {
    without_refusing_an_absent_reservation_a_read_is_stale: without FillLease::new(Without::AbsentIsRefused), breaks FRESH;
    without_its_own_nonce_a_read_is_stale:
        without FillLease { readers: 3, ..FillLease::new(Without::OwnNonce) }, breaks FRESH;
    without_a_compare_at_refresh_a_read_is_stale:
        without FillLease { readers: 3, ..FillLease::new(Without::CompareAtRefresh) }, breaks FRESH;
    without_an_epoch_check_on_a_hit_a_read_is_stale:
        without FillLease { flushes: 1, ..FillLease::new(Without::EpochCheckOnAHit) }, breaks FRESH;
    without_a_repeat_after_an_epoch_change_a_read_is_stale:
        without FillLease { flushes: 1, readers: 3, ..FillLease::new(Without::RepeatAfterAnEpochChange) }, breaks FRESH;
    without_a_new_epoch_for_another_server_a_read_is_stale:
        without FillLease { restarts: 1, ..FillLease::new(Without::NewEpochForAnotherServer) }, breaks FRESH;
}
