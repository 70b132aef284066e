//! Near copies of a far cache in one process: generations instead of nonces, and promotion (INV-2 inside the process).
//!
//! The steps are those of threads: each is atomic, and between any two of them every other thread may run.

use stateright::{Model, Property};

use super::{holds, mutations};

const FRESH: &str = "no read is older than an invalidation that was acknowledged before it began";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A near copy is stored whatever the generation is by then.
    TheGenerationAtPromotion,
    /// A copy is removed before the generation moves.
    TheGenerationMovedFirst,
    /// The near copy is dropped before the far one only.
    DroppingTheCopyAfterwards,
    /// A fill of the far cache lands whatever came in between.
    TheFarLease,
}

struct NearCopy {
    without: Without,
    readers: u8,
    writers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    Began {
        floor: u8,
    },
    /// Took a near lease: the generation.
    Near {
        floor: u8,
        near: u8,
    },
    /// Found nothing far, and took a far lease.
    Far {
        far: u8,
    },
    /// Read the source under the far lease.
    Loaded {
        far: u8,
        value: u8,
    },
    /// Found a value far, and has not stored the copy yet.
    Found {
        near: u8,
        value: u8,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Writer {
    Idle,
    /// Steps of the invalidation that are done.
    Invalidating {
        begun: u8,
        steps: u8,
    },
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    source: u8,
    near: Option<u8>,
    near_generation: u8,
    far: Option<u8>,
    far_generation: u8,
    readers: Vec<Reader>,
    writers: Vec<Writer>,
    floor: u8,
    stale_read: bool,
    promoted: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Read(u8),
    Write(u8),
}

impl NearCopy {
    fn is(&self, without: Without) -> bool {
        self.without == without
    }

    /// The two steps of dropping the near copy, the far one between them, and dropping the copy again.
    fn invalidate(&self, state: &mut State, step: u8) {
        let first_moves = !self.is(Without::TheGenerationMovedFirst);
        match step {
            0 | 3 if first_moves => state.near_generation += 1,
            1 | 4 if !first_moves => state.near_generation += 1,
            0 | 1 | 3 | 4 => state.near = None,
            _ => {
                state.far_generation += 1;
                state.far = None;
            }
        }
    }

    fn read(&self, state: &mut State, id: u8) {
        let next = match state.readers[usize::from(id)].clone() {
            Reader::Idle => Reader::Began { floor: state.floor },
            Reader::Began { floor } => match state.near {
                Some(value) => {
                    state.stale_read |= value < floor;
                    Reader::Done
                }
                None => Reader::Near { floor, near: state.near_generation },
            },
            Reader::Near { floor, near } => match state.far {
                Some(value) => {
                    state.stale_read |= value < floor;
                    Reader::Found { near, value }
                }
                None => Reader::Far { far: state.far_generation },
            },
            Reader::Far { far } => Reader::Loaded { far, value: state.source },
            Reader::Loaded { far, value } => {
                if far == state.far_generation || self.is(Without::TheFarLease) {
                    state.far = Some(value);
                }
                Reader::Done
            }
            Reader::Found { near, value } => {
                if near == state.near_generation || self.is(Without::TheGenerationAtPromotion) {
                    state.near = Some(value);
                    state.promoted = true;
                }
                Reader::Done
            }
            Reader::Done => Reader::Done,
        };
        state.readers[usize::from(id)] = next;
    }
}

impl Model for NearCopy {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            source: 0,
            near: None,
            near_generation: 0,
            far: None,
            far_generation: 0,
            readers: vec![Reader::Idle; usize::from(self.readers)],
            writers: vec![Writer::Idle; usize::from(self.writers)],
            floor: 0,
            stale_read: false,
            promoted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        actions.extend((0..).zip(&state.readers).filter(|(_, reader)| **reader != Reader::Done).map(|(id, _)| Step::Read(id)));
        actions.extend((0..).zip(&state.writers).filter(|(_, writer)| **writer != Writer::Done).map(|(id, _)| Step::Write(id)));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Read(id) => self.read(&mut state, id),
            Step::Write(id) => {
                let all = if self.is(Without::DroppingTheCopyAfterwards) { 3 } else { 5 };
                let next = match state.writers[usize::from(id)].clone() {
                    Writer::Idle => {
                        state.source += 1;
                        Writer::Invalidating { begun: state.source, steps: 0 }
                    }
                    Writer::Invalidating { begun, steps } if steps == all => {
                        state.floor = state.floor.max(begun);
                        Writer::Done
                    }
                    Writer::Invalidating { begun, steps } => {
                        self.invalidate(&mut state, steps);
                        Writer::Invalidating { begun, steps: steps + 1 }
                    }
                    Writer::Done => return None,
                };
                state.writers[usize::from(id)] = next;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FRESH, |_, state: &State| !state.stale_read),
            Property::sometimes("a copy is stored near", |_, state: &State| state.promoted),
        ]
    }
}

#[test]
fn no_near_read_is_stale_with_a_writer_and_three_readers() {
    holds(NearCopy { without: Without::Nothing, readers: 3, writers: 1 });
}

#[test]
fn no_near_read_is_stale_with_two_writers_and_two_readers() {
    holds(NearCopy { without: Without::Nothing, readers: 2, writers: 2 });
}

mutations! {
    without_the_generation_at_promotion_a_read_is_stale:
        without NearCopy { without: Without::TheGenerationAtPromotion, readers: 3, writers: 1 }, breaks FRESH;
    without_the_generation_moved_first_a_read_is_stale:
        without NearCopy { without: Without::TheGenerationMovedFirst, readers: 3, writers: 1 }, breaks FRESH;
    without_dropping_the_copy_afterwards_a_read_is_stale:
        without NearCopy { without: Without::DroppingTheCopyAfterwards, readers: 3, writers: 1 }, breaks FRESH;
    without_the_far_lease_a_read_is_stale:
        without NearCopy { without: Without::TheFarLease, readers: 3, writers: 1 }, breaks FRESH;
}
