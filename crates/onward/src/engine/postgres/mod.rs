//! Postgres.

mod advisory;
mod error;
mod own;

pub use advisory::advisory_xact;
pub use own::{OwnTable, Swap, Versioned};
