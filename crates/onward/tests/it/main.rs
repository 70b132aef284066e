//! Public behaviour of the library, and the conformance suite on every engine.

mod audit;
mod cache;
mod crash;
mod guarded;
mod house;
mod lock;
mod planted;
mod store;
mod store_model;
