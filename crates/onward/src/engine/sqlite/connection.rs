//! Opening a database file of ours: version, identity, durability and file mode, checked before anything is written.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::before_commit;
use crate::{Error, Result};

/// Before 3.51.3 a reset of the WAL could lose committed data.
const OLDEST: i32 = 3_051_003;

/// How long a process waits for another one's transaction (C7); then `Overloaded`.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// What a COMMIT waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// fsync at each COMMIT: an acknowledged write survives power loss (C3).
    Full,
    /// No fsync at COMMIT: survives `kill -9`, not power loss. For leases only: a power loss ends every holder.
    Normal,
}

/// Opens (and makes, mode 0600) a database file for writing.
///
/// # Errors
/// [`Kind::Unsupported`](crate::Kind::Unsupported): SQLite is older than 3.51.3. `Backend`, `integrity_failure`: the file is not ours.
pub(super) fn open(path: &Path, application_id: i32, durability: Durability) -> Result<Connection> {
    if rusqlite::version_number() < OLDEST {
        return Err(Error::unsupported("SQLite is older than 3.51.3, which could lose committed data"));
    }
    // Made by us, before SQLite opens it: -wal and -shm inherit the mode. An existing file is left alone, since closing any
    // descriptor of it would drop SQLite's own locks in this process.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::unavailable("the database file cannot be made").with_source(e)),
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| Error::unavailable("the database file cannot be opened").with_source(e))?;
    connection.busy_timeout(BUSY_WAIT).map_err(before_commit)?;
    adopt(&connection, application_id)?;
    let mode = write_ahead(&connection).map_err(before_commit)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Error::unsupported("the file system cannot keep SQLite's write-ahead log"));
    }
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = {synchronous}; PRAGMA fullfsync = ON; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF;"
        ))
        .map_err(before_commit)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Opens an existing database file of ours for reading; it never writes.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| Error::unavailable("the database file cannot be opened").with_source(e))?;
    connection.busy_timeout(BUSY_WAIT).map_err(before_commit)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;").map_err(before_commit)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// How often a change to the write-ahead log is tried while others open the same file.
const WAL_TRIES: u32 = 100;

/// Switches to the write-ahead log. SQLite does not wait for others in this one step, so the wait is made before another try.
fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    let mut tries = 0;
    loop {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries < WAL_TRIES => {
                tries += 1;
                connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
            }
            answer => return answer,
        }
    }
}

/// Marks an empty file as ours; refuses a file that belongs to another program.
fn adopt(connection: &Connection, application_id: i32) -> Result<()> {
    if marked(connection)? == application_id {
        return Ok(());
    }
    // In one transaction: another process may be marking the same file, and making its tables.
    connection.execute_batch("BEGIN IMMEDIATE").map_err(before_commit)?;
    let adopted = mark(connection, application_id);
    let end = if adopted.is_ok() { "COMMIT" } else { "ROLLBACK" };
    adopted.and(connection.execute_batch(end).map_err(before_commit))
}

fn marked(connection: &Connection) -> Result<i32> {
    connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(before_commit)
}

fn mark(connection: &Connection, application_id: i32) -> Result<()> {
    let found = marked(connection)?;
    if found == application_id {
        return Ok(());
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(before_commit)?;
    if found != 0 || tables != 0 {
        return Err(Error::integrity("the file is a database of another program"));
    }
    connection.pragma_update(None, "application_id", application_id).map_err(before_commit)
}
