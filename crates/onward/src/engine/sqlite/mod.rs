//! SQLite: the embedded default; several processes on one machine may share a file.
//!
//! Keeps C3 by WAL with `synchronous=FULL`. Each batch is one `BEGIN IMMEDIATE` transaction, so correctness never depends on this
//! process being alone.

mod audit;
mod backup;
mod check;
mod commit;
mod connection;
mod disk;
mod error;
mod fold;
mod inspect;
mod leases;
mod list;
mod lock;
mod log;
mod migrate;
mod personal;
mod reader;
mod rows;
mod segments;
mod turn;
mod wal;
mod whole;

pub use commit::{Bounds, SqliteStore};
pub use lock::SqliteLocks;
