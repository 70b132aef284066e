//! Single flight: many callers of one process, one load, and who may take its value (INV-2 inside the process).

use stateright::{Model, Property};

use super::{holds, mutations};

const FRESH: &str = "no read is older than an invalidation that was acknowledged before it began";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A follower takes any value of the round that it joined.
    LookingWhetherItWasStored,
    /// A follower that came after the commit was sent counts as one from before.
    TheEndOfMidway,
}

struct Flight {
    without: Without,
    callers: u8,
    writers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Idle,
    Missed {
        floor: u8,
        arrived_before: bool,
    },
    Follows {
        floor: u8,
        arrived_before: bool,
        round: u8,
        midway: bool,
    },
    /// Leads: holds a lease of this generation.
    Reserved {
        floor: u8,
        generation: u8,
    },
    Loaded {
        generation: u8,
        value: u8,
    },
    Closed {
        generation: u8,
        value: u8,
    },
    Committed {
        value: u8,
        stored: bool,
    },
    Done,
}

/// A round that has ended: its value, and whether the engine took it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ended {
    value: u8,
    stored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    source: u8,
    entry: Option<u8>,
    generation: u8,
    /// The round that runs, and whether it is closed.
    running: Option<(u8, bool)>,
    /// What each round came to.
    rounds: Vec<Option<Ended>>,
    callers: Vec<Caller>,
    /// Writes that are not invalidated yet.
    writers: Vec<Option<u8>>,
    floor: u8,
    stale_read: bool,
    shared: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Call(u8),
    /// The leader's future is dropped.
    Drop(u8),
    Write(u8),
    Invalidate(u8),
}

impl Flight {
    fn is(&self, without: Without) -> bool {
        self.without == without
    }

    fn end(state: &mut State, ended: Option<Ended>) {
        if let Some((round, _)) = state.running.take() {
            // A leader that is gone leaves a round without a value, as an ended one nobody can take.
            state.rounds[usize::from(round)] = Some(ended.unwrap_or(Ended { value: u8::MAX, stored: false }));
        }
    }

    fn call(&self, state: &mut State, id: u8) -> Option<()> {
        let next = match state.callers[usize::from(id)].clone() {
            Caller::Idle => match state.entry {
                Some(_) => Caller::Done,
                None => Caller::Missed { floor: state.floor, arrived_before: false },
            },
            Caller::Missed { floor, arrived_before } => match state.running {
                Some((round, closed)) => {
                    Caller::Follows { floor, arrived_before, round, midway: !closed || self.is(Without::TheEndOfMidway) }
                }
                None => {
                    state.running = Some((u8::try_from(state.rounds.len()).ok()?, false));
                    state.rounds.push(None);
                    match state.entry {
                        // The reservation finds a value that came meanwhile.
                        Some(value) => {
                            state.stale_read |= value < floor;
                            Self::end(state, Some(Ended { value, stored: false }));
                            Caller::Done
                        }
                        None => Caller::Reserved { floor, generation: state.generation },
                    }
                }
            },
            Caller::Follows { floor, arrived_before, round, midway } => {
                let ended = state.rounds[usize::from(round)].clone()?;
                let has_value = ended.value != u8::MAX;
                let may = arrived_before || (midway && ended.stored) || self.is(Without::LookingWhetherItWasStored);
                if has_value && may {
                    state.stale_read |= ended.value < floor;
                    state.shared = true;
                    Caller::Done
                } else {
                    Caller::Missed { floor, arrived_before: true }
                }
            }
            Caller::Reserved { generation, .. } => Caller::Loaded { generation, value: state.source },
            Caller::Loaded { generation, value } => {
                state.running = state.running.map(|(round, _)| (round, true));
                Caller::Closed { generation, value }
            }
            Caller::Closed { generation, value } => {
                let stored = generation == state.generation;
                if stored {
                    state.entry = Some(value);
                }
                Caller::Committed { value, stored }
            }
            Caller::Committed { value, stored } => {
                Self::end(state, Some(Ended { value, stored }));
                Caller::Done
            }
            Caller::Done => return None,
        };
        state.callers[usize::from(id)] = next;
        Some(())
    }
}

impl Model for Flight {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            source: 0,
            entry: None,
            generation: 0,
            running: None,
            rounds: Vec::new(),
            callers: vec![Caller::Idle; usize::from(self.callers)],
            writers: vec![None; usize::from(self.writers)],
            floor: 0,
            stale_read: false,
            shared: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (id, caller) in (0..).zip(&state.callers) {
            if *caller != Caller::Done {
                actions.push(Step::Call(id));
            }
            if matches!(caller, Caller::Reserved { .. } | Caller::Loaded { .. } | Caller::Closed { .. } | Caller::Committed { .. }) {
                actions.push(Step::Drop(id));
            }
        }
        for (id, writer) in (0..).zip(&state.writers) {
            match writer {
                None => actions.push(Step::Write(id)),
                Some(u8::MAX) => {}
                Some(_) => actions.push(Step::Invalidate(id)),
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Call(id) => self.call(&mut state, id)?,
            Step::Drop(id) => {
                state.callers[usize::from(id)] = Caller::Done;
                Self::end(&mut state, None);
            }
            Step::Write(id) => {
                state.source += 1;
                state.writers[usize::from(id)] = Some(state.source);
            }
            Step::Invalidate(id) => {
                let begun = state.writers[usize::from(id)].replace(u8::MAX)?;
                state.generation += 1;
                state.entry = None;
                state.floor = state.floor.max(begun);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FRESH, |_, state: &State| !state.stale_read),
            Property::sometimes("a follower takes the leader's value", |_, state: &State| state.shared),
        ]
    }
}

#[test]
fn no_follower_is_stale_with_two_writers_and_three_callers() {
    holds(Flight { without: Without::Nothing, callers: 3, writers: 2 });
}

mutations! {
    without_looking_whether_it_was_stored_a_follower_is_stale:
        without Flight { without: Without::LookingWhetherItWasStored, callers: 2, writers: 1 }, breaks FRESH;
    without_the_end_of_midway_a_follower_is_stale:
        without Flight { without: Without::TheEndOfMidway, callers: 2, writers: 1 }, breaks FRESH;
}
