//! The bound of the write-ahead log: a long read keeps it from being folded into the database, and then it only grows (C7).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::error::before_commit;
use super::fold::Folder;
use crate::{Error, Result};

/// Above this, and half of what the file has, the store takes no writes until the log is folded.
pub(super) const BYTES: u64 = 1 << 30;
/// What is left of the file when the log begins anew.
const KEPT_BYTES: u64 = 64 << 20;
/// How long the end of a writer waits for readers.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a scrub waits for readers, and writers for it.
const MOMENT: Duration = Duration::from_millis(20);
/// When a refused writer may come back: reads of ours end within 5 s.
const RETRY: Duration = Duration::from_secs(1);

/// Returns the path of a database's log.
pub(super) fn beside(database: &Path) -> PathBuf {
    let mut path = OsString::from(database);
    path.push("-wal");
    path.into()
}

/// A write-ahead log and its bound.
#[derive(Clone, Debug)]
pub(super) struct Wal {
    database: PathBuf,
    path: PathBuf,
    most: u64,
}

impl Wal {
    pub(super) fn of(database: &Path, most: u64) -> Self {
        Self { database: database.to_owned(), path: beside(database), most }
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
        let log = self.bytes();
        if log <= self.most || log <= self.bound() {
            return Ok(());
        }
        Err(Error::overloaded("the write-ahead log is at its bound: a long read keeps it from being folded into the file", RETRY))
    }

    fn bytes(&self) -> u64 {
        bytes(&self.path)
    }

    /// A backup reads one state of the whole file, however large, while writers go on: so the bound grows with the file.
    fn bound(&self) -> u64 {
        self.most.max(bytes(&self.database) / 2)
    }

    /// Tells whether the log has grown beyond half its bound: time for what reads long, and can be done later, to stand back.
    pub(super) fn is_long(&self) -> bool {
        self.bytes() > self.bound() / 2
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
    pub(super) fn make_room(&self, folder: &mut Folder, connection: &Connection) -> Result<()> {
        if self.check().is_ok() {
            return Ok(());
        }
        // Only a log that nobody needs any more is cut off: short readers are waited for, a stuck one would only cost time.
        if folder.fold(connection) {
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
        self.check()
    }
}

/// No file at all is an empty one.
pub(super) fn bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn the_bound_of_the_log_grows_with_the_file() {
        const MIB: u64 = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("a.db");
        let wal = Wal::of(&database, MIB);
        // No bytes, only lengths.
        let sized = |name: &str, bytes: u64| std::fs::File::create(folder.path().join(name)).unwrap().set_len(bytes).unwrap();
        wal.check().unwrap();
        for (file, log, fits, is_long) in [
            (0, MIB / 2, true, false),
            (0, MIB, true, true),
            (MIB, MIB + 1, false, true),
            (8 * MIB, 2 * MIB, true, false),
            (8 * MIB, 4 * MIB, true, true),
            (8 * MIB, 4 * MIB + 1, false, true),
        ] {
            sized("a.db", file);
            sized("a.db-wal", log);
            assert_eq!((wal.check().is_ok(), wal.is_long()), (fits, is_long), "a file of {file} and a log of {log} bytes");
        }
        assert_eq!(wal.check().unwrap_err().kind(), Kind::Overloaded);
    }
}
