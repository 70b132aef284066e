//! Public behaviour of the library, and the conformance suite on every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod audit;
mod cache;
mod crash;
mod guarded;
mod house;
mod lock;
mod planted;
mod store;
mod store_model;
