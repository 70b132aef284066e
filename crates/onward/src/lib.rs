//! Onward refuses late writes.

pub mod audit;
pub mod cache;
pub mod commit;
pub mod engine;
pub mod error;
pub mod guarded;
pub mod lock;
pub mod model;
pub mod observe;
mod open;
pub mod random;
pub mod retry;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;

pub use error::{Code, Effect, Error, Kind, Refusal, Result};
pub use open::{Config, Onward};

/// The examples of README.md, which must compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
