//! Opening a database file of ours: version, identity, durability and file mode, checked before anything is written.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::disk::refuse_network;
use super::error::before_commit;
use super::wal;
use crate::time::Clock;
use crate::{Error, Result, retry};

/// Before 3.51.3 a reset of the WAL could lose committed data.
const OLDEST: i32 = 3_051_003;

/// How long a process waits for another one's transaction (C7); then `Overloaded`.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// How often the next writer in turn looks for the write lock: at first, and when somebody holds it for long.
const LOOK_SOON: Duration = Duration::from_micros(100);
const LOOK_LATER: Duration = Duration::from_millis(1);

/// How often the switch to the write-ahead log is tried against others who open the same new file.
const SWITCH_TRIES: u32 = 1_000;

/// Held while a file is made. Closing that descriptor would drop the locks that SQLite took on the file in this process meanwhile.
static MAKING: Mutex<()> = Mutex::new(());

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
/// [`Kind::Unsupported`](crate::Kind::Unsupported): SQLite is older than 3.51.3, or the file is on a network disk. `Backend`, `integrity_failure`: the file is not ours.
pub(super) fn open(path: &Path, application_id: i32, durability: Durability) -> Result<Connection> {
    if rusqlite::version_number() < OLDEST {
        return Err(Error::unsupported("SQLite is older than 3.51.3, which could lose committed data"));
    }
    refuse_network(path)?;
    // Made by us, before SQLite opens it: -wal and -shm inherit the mode. An existing file is left alone, since closing any
    // descriptor of it would drop SQLite's own locks in this process.
    {
        let _making = MAKING.lock();
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => drop(file),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::unavailable("the database file cannot be made").with_source(e)),
        }
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| Error::unavailable("the database file cannot be opened").with_source(e))?;
    connection.busy_timeout(BUSY_WAIT).map_err(before_commit)?;
    refuse_torn(&connection, path)?;
    adopt(&connection, application_id)?;
    if !write_ahead(&connection)?.eq_ignore_ascii_case("wal") {
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
    keep_statements(&connection)?;
    Ok(connection)
}

/// Refuses a file that ends within a page. SQLite misses whole pages by itself, but reads what is missing of the last one as zeros: a row there
/// is gone without a word.
///
/// With a log beside it the file is not at rest: what a crash left of its last page is written again from there.
fn refuse_torn(connection: &Connection, path: &Path) -> Result<()> {
    let page: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(before_commit)?;
    let file = std::fs::metadata(path).map_err(|e| Error::unavailable("the database file cannot be looked at").with_source(e))?;
    let past = file.len() % u64::from(page);
    if past == 0 || wal::bytes(&wal::beside(path)) > 0 {
        return Ok(());
    }
    Err(Error::integrity(format!("the file was cut: it ends {past} bytes into a page of {page}; restore a backup")))
}

/// Lets a connection that has the turn look for the write lock often: SQLite's own waiting would sleep through most of its turn.
pub(super) fn queue(connection: &mut Connection) -> Result<()> {
    let clock = Clock::system();
    let mut until = clock.now();
    let wait = move |tries: i32| {
        let now = clock.now();
        if tries == 0 {
            until = now + BUSY_WAIT;
        }
        retry::nap(if tries < 50 { LOOK_SOON } else { LOOK_LATER });
        now < until
    };
    connection.busy_handler(Some(wait)).map_err(before_commit)
}

/// Opens an existing database file of ours for reading; it never writes.
pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|e| Error::unavailable("the database file cannot be opened").with_source(e))?;
    connection.busy_timeout(BUSY_WAIT).map_err(before_commit)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;").map_err(before_commit)?;
    keep_statements(&connection)?;
    Ok(connection)
}

/// Carries out a statement without rows or parameters that comes again and again, such as `COMMIT`: it is parsed once.
pub(super) fn again(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_| ())
}

/// Keeps prepared statements, and their plans whatever is bound to them: otherwise a statement near a partial index or a join is
/// prepared anew at each use.
fn keep_statements(connection: &Connection) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ()).map_err(before_commit)
}

/// Switches to the write-ahead log; returns the journal mode that it came to.
fn write_ahead(connection: &Connection) -> Result<String> {
    for _ in 0..SWITCH_TRIES {
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                // The switch of a new file does not wait for others who open it too; the write lock does. Whoever comes second finds it done.
                connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(before_commit)?;
            }
            mode => return mode.map_err(before_commit),
        }
    }
    Err(Error::overloaded("others keep the database file busy", Duration::from_millis(100)))
}

/// Marks an empty file as ours; refuses a file that belongs to another program.
fn adopt(connection: &Connection, application_id: i32) -> Result<()> {
    let marked = || connection.query_row("PRAGMA application_id", [], |row| row.get::<_, i32>(0)).map_err(before_commit);
    if marked()? == application_id {
        return Ok(());
    }
    // Looked at again under the write lock: somebody else may be making the very same file.
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(before_commit)?;
    let found = marked()?;
    if found == application_id {
        return Ok(());
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(before_commit)?;
    if found != 0 || tables != 0 {
        return Err(Error::integrity("the file is a database of another program"));
    }
    connection.pragma_update(None, "application_id", application_id).map_err(before_commit)?;
    tx.commit().map_err(before_commit)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// Two statements of ours, on tables of ours.
    const HEAD: &str = "SELECT c.origin, h.seq, h.hash FROM onward_chains c JOIN onward_heads h ON h.chain = c.id WHERE c.name = ?1";
    const STATE: &str = "SELECT before_meta, before_payload FROM onward_changes
         WHERE namespace = ?1 AND kind = ?1 AND name = ?1 AND name IS NOT NULL AND id > 5 ORDER BY id LIMIT 1";

    #[test]
    fn what_is_bound_prepares_no_statement_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let writer = open(&path, 7, Durability::Full).unwrap();
        writer.execute_batch(include_str!("schema.sql")).unwrap();
        for connection in [&writer, &open_reader(&path).unwrap()] {
            for sql in [HEAD, STATE] {
                for bound in ["x", "y", "x"] {
                    assert!(!connection.prepare_cached(sql).unwrap().exists([bound]).unwrap());
                }
                assert_eq!(connection.prepare_cached(sql).unwrap().get_status(StatementStatus::RePrepare), 0, "{sql}");
            }
        }
    }
}
