//! Models of the protocols, explored over all their states. What each shows stands in `specs/README.md`.
//!
//! A model has a list of mutations: each takes one protection away, and a test shows that the checker then finds a run that breaks the
//! promise. So a green model says something.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; the runs that it found are to be read"
)]

mod fencing;
mod fill_lease;
mod flight;
mod guarded_write;
mod near_copy;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// More states than this and the model is too large for a test of every day.
const MOST_STATES: usize = 4_000_000;

/// Explores all states: every promise holds in each of them, and all that should be possible is.
fn holds<M>(model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let done = model.checker().threads(2).target_state_count(MOST_STATES).spawn_bfs().join();
    println!("{} states, depth {}", done.unique_state_count(), done.max_depth());
    done.assert_properties();
    assert!(done.is_done() && done.state_count() < MOST_STATES, "too many states to look at all of them");
}

/// Explores until the promise is broken, and fails if it never is.
fn breaks<M>(model: M, promise: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let first = HasDiscoveries::AnyOf([promise].into());
    let done = model.checker().threads(2).target_state_count(MOST_STATES).finish_when(first).spawn_bfs().join();
    let Some(run) = done.discovery(promise) else { panic!("{promise}: no run breaks it, so the model proves nothing") };
    println!("{promise}, after {} states: {:?}", done.unique_state_count(), run.into_actions());
}

/// One test a mutation: what the model promises does not hold without the protection.
macro_rules! mutations {
    ($($test:ident: without $without:expr, breaks $promise:expr;)*) => {
        $(#[test]
        fn $test() {
            crate::breaks($without, $promise);
        })*
    };
}
use mutations;
