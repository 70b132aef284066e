//! Postgres: any number of processes on any number of machines share one database.
//!
//! Keeps C3 by `synchronous_commit = on` in each transaction. A batch is one transaction that begins with the lock of the counter's row, so
//! revision order is commit order; nothing depends on the isolation, the settings or the session that a pooler hands out.

mod advisory;
mod audit;
mod check;
mod commit;
mod connection;
mod error;
mod inspect;
mod known;
mod lanes;
mod leases;
mod list;
mod listen;
mod lock;
mod log;
mod migrate;
mod own;
mod personal;
mod plan;
mod rows;
mod segments;
mod session;
mod united;
mod url;
mod writer;

pub use advisory::advisory_xact;
pub use commit::{Migration, PostgresStore};
pub use lock::PostgresLocks;
pub use own::{OwnTable, Swap, Versioned};

use crate::commit::engine::Heard;
use crate::model::{Epoch, Revision};

/// The channel on which each batch tells its newest revision.
const CHANNEL: &str = "onward_commits";

/// The word that tells it.
fn word(epoch: Epoch, revision: Revision) -> String {
    format!("{epoch} {revision}")
}

/// Understands what [`word`] tells.
fn heard(payload: &str) -> Option<Heard> {
    let (epoch, revision) = payload.split_once(' ')?;
    Some(Heard { epoch: Some(epoch.parse().ok()?), revision: revision.parse().ok()? })
}
