//! The bound of the write-ahead log: a long read keeps it from being folded into the database, and then it only grows (C7).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::error::before_commit;
use crate::{Error, Result};

/// Above this the store takes no writes until the log is folded.
pub(super) const BYTES: u64 = 1 << 30;
/// What is left of the file when the log begins anew.
const KEPT_BYTES: u64 = 64 << 20;
/// How long the end of a writer waits for readers.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a scrub waits for readers, and writers for it.
const MOMENT: Duration = Duration::from_millis(20);
/// When a refused writer may come back: reads of ours end within 5 s.
const RETRY: Duration = Duration::from_secs(1);

/// A write-ahead log and its bound.
#[derive(Clone, Debug)]
pub(super) struct Wal {
    path: PathBuf,
    most: u64,
}

impl Wal {
    pub(super) fn of(database: &Path, most: u64) -> Self {
        let mut path = OsString::from(database);
        path.push("-wal");
        Self { path: path.into(), most }
    }

    /// Tells a connection that writes how much of the file to keep.
    pub(super) fn prepare(&self, connection: &Connection) -> Result<()> {
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(before_commit)?;
        let kept = i64::try_from(KEPT_BYTES.min(self.most / 2)).unwrap_or(i64::MAX);
        connection.pragma_update(None, "journal_size_limit", kept).map_err(before_commit)
    }

    /// Refuses if the log is above its bound.
    ///
    /// # Errors
    /// [`Kind::Overloaded`](crate::Kind::Overloaded).
    pub(super) fn check(&self) -> Result<()> {
        // No log at all is an empty one.
        if std::fs::metadata(&self.path).map_or(0, |log| log.len()) <= self.most {
            return Ok(());
        }
        Err(Error::overloaded("the write-ahead log is at its bound: a long read keeps it from being folded into the file", RETRY))
    }

    /// Folds the log into the database as far as readers let it; waits for nobody.
    pub(super) fn fold(connection: &Connection) -> Folded {
        let asked = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| <(bool, i64, i64)>::try_from(row));
        match asked {
            Ok((false, log, done)) if log == done => Folded::All,
            // One that cannot run now, since another connection is at it, runs later: nothing is lost.
            _ => Folded::Part,
        }
    }

    /// Folds the log and cuts it off, if nobody stands in the way for long: what is left is folded at the next opening.
    pub(super) fn cut(connection: &Connection) {
        let _ = connection.busy_timeout(PATIENCE);
        let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// Folds the log and cuts it off, so that no older page of the file is left in it; `false` if a reader stands in the way.
    ///
    /// It waits for a moment only: as long as it waits, nobody can write.
    pub(super) fn scrub(connection: &mut Connection) -> Result<bool> {
        connection.busy_timeout(MOMENT).map_err(before_commit)?;
        let asked = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        super::connection::queue(connection)?;
        Ok(!asked.map_err(before_commit)?)
    }

    /// Makes room in a log that is above its bound.
    ///
    /// # Errors
    /// As [`Wal::check`]: it could not be.
    pub(super) fn make_room(&self, connection: &Connection) -> Result<()> {
        if self.check().is_ok() {
            return Ok(());
        }
        // Only a log that nobody needs any more is cut off: short readers are waited for, a stuck one would only cost time.
        if Self::fold(connection) == Folded::All {
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        self.check()
    }
}

/// How far a log was folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folded {
    All,
    Part,
}
