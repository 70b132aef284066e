//! Folding the write-ahead log into the database: a short one behind an answer, a long one beside the writer.
//!
//! A log becomes long while somebody reads one state of the file for long, as a backup does. When that ends, gigabytes may have to be copied
//! back, and commits must not wait for that. SQLite begins a log anew only when all of it is folded, and a writer that never rests is never
//! caught up with; so a thread folds most of a long log, and the writer the little that is left.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::connection;
use super::error::before_commit;
use crate::Result;

/// Pages that the writer folds itself, 16 MiB: some tens of milliseconds.
const SHORT: i64 = 4_096;

/// The one who folds a writer's log. When it is dropped, the thread ends behind the fold that it is at.
#[derive(Debug)]
pub(super) struct Folder {
    database: PathBuf,
    /// Started for the first long log.
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Folder {
    pub(super) fn of(database: &Path) -> Self {
        Self { database: database.to_owned(), thread: None }
    }

    /// Folds a log as far as readers let it, on the writer's connection if it is short; says whether nothing is left. Waits for nobody.
    pub(super) fn fold(&mut self, connection: &Connection) -> bool {
        if left(connection) <= SHORT {
            return fold(connection);
        }
        if self.thread.is_none() {
            self.thread = start(&self.database);
        }
        match &self.thread {
            // A word that waits already says the same.
            Some((words, thread)) if !thread.is_finished() => drop(words.try_send(())),
            _ => {
                self.thread = None;
                return fold(connection);
            }
        }
        false
    }

    /// Ends the thread; waits for the fold that it is at.
    pub(super) fn end(&mut self) {
        if let Some((words, thread)) = self.thread.take() {
            drop(words);
            // It holds nothing that a panic could leave half done.
            let _ = thread.join();
        }
    }
}

/// `None`: the writer folds itself, and tries again at the next long log.
fn start(database: &Path) -> Option<(SyncSender<()>, JoinHandle<()>)> {
    let (words, orders) = sync_channel(1);
    let connection = open(database).ok()?;
    let work = move || {
        while orders.recv().is_ok() {
            let mut before = i64::MAX;
            // What comes meanwhile is folded too, as long as that gets it on.
            while let now @ SHORT.. = left(&connection)
                && now < before
            {
                before = now;
                fold(&connection);
            }
        }
    };
    let thread = std::thread::Builder::new().name("onward-folder".to_owned()).spawn(work).ok()?;
    Some((words, thread))
}

/// A connection that only ever folds: what it copies into the database is synced as by the writer.
fn open(database: &Path) -> Result<Connection> {
    let connection = connection::open_reader(database)?;
    connection.pragma_update(None, "fullfsync", true).map_err(before_commit)?;
    // Without a first read it knows of no log.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(before_commit)?;
    Ok(connection)
}

/// Folds as far as readers let it; says whether nothing is left.
fn fold(connection: &Connection) -> bool {
    // One that cannot run now, since another connection is at it, runs later: nothing is lost.
    matches!(checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)"), Some((false, pages, folded)) if pages == folded)
}

/// How many pages wait in the log.
fn left(connection: &Connection) -> i64 {
    checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)").map_or(0, |(_, pages, folded)| pages - folded)
}

fn checkpoint(connection: &Connection, sql: &str) -> Option<(bool, i64, i64)> {
    connection.query_row(sql, [], |row| row.try_into()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::connection::Durability;
    use super::*;
    use crate::retry;
    use crate::time::Clock;

    fn write(connection: &Connection, pages: i64) {
        connection.execute("INSERT INTO t SELECT zeroblob(? * 4096)", [pages]).unwrap();
    }

    #[test]
    fn the_writer_folds_a_short_log_and_the_thread_a_long_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let writer = connection::open(&path, 7, Durability::Normal).unwrap();
        writer.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)").unwrap();
        let mut folder = Folder::of(&path);
        write(&writer, SHORT / 2);
        assert!(folder.fold(&writer) && left(&writer) == 0 && folder.thread.is_none());
        write(&writer, SHORT * 2);
        let long = left(&writer);
        assert!(long > SHORT * 2);
        // Somebody reads the old state: nothing can be folded, and nobody waits.
        let reader = connection::open_reader(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        write(&writer, SHORT * 2);
        assert!(!folder.fold(&writer) && folder.thread.is_some());
        assert!(left(&writer) > SHORT * 2, "the reader's state is still needed");
        reader.execute_batch("COMMIT").unwrap();
        let clock = Clock::system();
        let until = clock.now() + Duration::from_secs(20);
        while left(&writer) > SHORT {
            assert!(!folder.fold(&writer), "the writer folds no long log");
            assert!(clock.now() < until, "nobody folds it");
            retry::nap(Duration::from_millis(1));
        }
        write(&writer, 1);
        assert!(folder.fold(&writer), "the writer folds the rest");
        folder.end();
        assert!(folder.thread.is_none());
    }
}
