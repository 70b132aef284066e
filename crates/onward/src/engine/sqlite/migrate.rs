//! The schema of a database file: numbered steps, forward only, under the write lock, so that several processes may open a file at once.
//!
//! The number is SQLite's `user_version`. All steps of an opening are one transaction: a process that dies half-way leaves the file as it
//! was, and whoever waited for the write lock finds the work done. A running writer looks at the number in each of its transactions, so it
//! never writes by the rules of another schema (C9).

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::commit::{one, prepare};
use super::connection::BUSY_WAIT;
use super::error::{at_commit, before_commit};
use super::rows::col;
use crate::{Error, Result};

/// How long an opening waits for another process that migrates the file.
const MIGRATION_WAIT: Duration = Duration::from_secs(60);

/// The schema of one kind of file.
pub(super) struct Schema {
    /// What the file is, for refusals.
    pub(super) what: &'static str,
    /// A table of version 1: a file from before versions were counted has it, and no number.
    pub(super) first: &'static str,
    /// What leads from each version to the next; the first makes version 1 of an empty file. What was released never changes.
    pub(super) steps: &'static [&'static str],
}

/// What an opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An empty file.
    Nothing,
    /// A file of this or an earlier version.
    Something,
}

impl Schema {
    fn version(&self) -> i64 {
        i64::try_from(self.steps.len()).unwrap_or(i64::MAX)
    }

    /// Brings a file to this version; `then` does what else belongs to its opening, in the same transaction.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): the file has a newer schema. The file is as it was.
    pub(super) fn migrate(&self, connection: &mut Connection, then: impl FnOnce(&Transaction<'_>, Found) -> Result<()>) -> Result<()> {
        connection.busy_timeout(MIGRATION_WAIT).map_err(before_commit)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(before_commit)?;
        let found = self.found(&tx)?;
        if found > self.version() {
            return Err(self.other(found));
        }
        for step in self.steps.iter().skip(usize::try_from(found).unwrap_or(0)) {
            tx.execute_batch(step).map_err(before_commit)?;
        }
        then(&tx, if found == 0 { Found::Nothing } else { Found::Something })?;
        tx.pragma_update(None, "user_version", self.version()).map_err(before_commit)?;
        tx.commit().map_err(at_commit)?;
        connection.busy_timeout(BUSY_WAIT).map_err(before_commit)
    }

    /// Refuses to go on if the file has another schema, in the transaction that the connection holds: another version of this library
    /// may have migrated it meanwhile.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported).
    pub(super) fn check(&self, connection: &Connection) -> Result<()> {
        let found = number(connection)?;
        if found == self.version() { Ok(()) } else { Err(self.other(found)) }
    }

    fn found(&self, connection: &Connection) -> Result<i64> {
        let found = number(connection)?;
        if found != 0 {
            return Ok(found);
        }
        let mut tables = prepare(connection, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
        Ok(one(&mut tables, [self.first], |row| col(row, 0))?.unwrap_or(0))
    }

    fn other(&self, found: i64) -> Error {
        let Self { what, .. } = self;
        let mine = self.version();
        let advice = if found > mine { "start a newer version" } else { "open it anew" };
        Error::unsupported(format!("the {what} has schema {found}, and this version of onward writes schema {mine}: {advice}"))
    }
}

fn number(connection: &Connection) -> Result<i64> {
    Ok(one(&mut prepare(connection, "PRAGMA user_version")?, [], |row| col(row, 0))?.unwrap_or(0))
}
