//! Backups: a copy of the file that knows it is one, and what opening it does.
//!
//! What was written after the copy is lost with the restore, but some readers have seen it. So no number of that time is ever used again
//! (C4): versions, revisions and fencing tokens jump, and cursors of the old epoch are refused. Two restores of one copy differ as well.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Transaction, params};

use super::error::before_commit;
use super::rows::{signed, unsigned};
use super::whole::Wanted;
use crate::model::{Epoch, above};
use crate::time::Timestamp;
use crate::{Error, Result, random};

/// How far numbers jump at least: more than a store writes between a backup and its restore.
const JUMP: u64 = 1 << 32;

/// Writes a copy to a new file, mode 0600, durably: it is there whole or not at all.
pub(super) fn backup(from: &Path, to: &Path, wanted: &Wanted) -> Result<()> {
    if to.exists() {
        return Err(Error::invalid("the file of the backup is there already"));
    }
    let cannot = |e: std::io::Error| Error::unavailable("the backup cannot be written").with_source(e);
    let part = beside(to, ".part");
    // SQLite writes into an empty file, which is private from its first byte; what a crash left is replaced.
    let _ = std::fs::remove_file(&part);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(cannot)?;
    let done = copy(from, &part, wanted).and_then(|()| {
        File::open(&part).and_then(|file| file.sync_all()).map_err(cannot)?;
        std::fs::rename(&part, to).map_err(cannot)?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Writes a copy beside the store and takes its name away: whoever has the file open reads on.
pub(super) fn unnamed(from: &Path, wanted: &Wanted) -> Result<File> {
    let to = beside(from, &format!("{UNNAMED}{}", hex::encode(random::bytes::<8>())));
    let cannot = |e: std::io::Error| Error::unavailable("the backup cannot be written").with_source(e);
    // It gets its name when it is locked: as long as the lock is held, nobody takes it for what a crash left.
    let file = private(&hidden(&to)).map_err(cannot)?;
    file.lock().and_then(|()| std::fs::rename(hidden(&to), &to)).map_err(cannot)?;
    let done = copy(from, &to, wanted);
    let gone = std::fs::remove_file(&to).map_err(cannot);
    done.and(gone).map(|()| file)
}

/// Removes what backups of dead processes left beside the store.
pub(super) fn tidy(store: &Path) {
    let prefix = beside(store, UNNAMED);
    let (Some(folder), Some(prefix)) = (prefix.parent(), prefix.file_name()) else { return };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // What cannot be tidied up today is in nobody's way.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Nothing else is opened: closing a file takes SQLite's locks on it away.
        if !name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        // SQLite's journal of a copy goes with it.
        let copy = name.to_str().and_then(|name| name.strip_suffix(JOURNAL)).map_or_else(|| entry.path(), |copy| folder.join(copy));
        let dead = match File::open(&copy) {
            Ok(file) => file.try_lock().is_ok(),
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
        if dead {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What follows the store's name in that of a copy which loses its name.
const UNNAMED: &str = ".backup-";
const JOURNAL: &str = "-journal";

/// Makes an empty file that only its owner may read, or empties one.
fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn hidden(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

fn copy(from: &Path, part: &Path, wanted: &Wanted) -> Result<()> {
    let open = |path: &Path| Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let name = part.to_str().ok_or_else(|| Error::invalid("the path of a backup is UTF-8"))?;
    let mut source = open(from).map_err(before_commit)?;
    wanted.watch(&mut source, || false)?;
    source.execute("VACUUM INTO ?1", [name]).map_err(before_commit)?;
    let copy = open(part).map_err(before_commit)?;
    // A rollback journal, so that the copy is one file.
    copy.execute_batch("PRAGMA journal_mode = DELETE; UPDATE onward_meta SET is_copy = 1").map_err(before_commit)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Turns a copy into a store of its own; does nothing to a file that is none.
pub(super) fn restore(tx: &Transaction<'_>, now: Timestamp) -> Result<()> {
    // Looked at alone: each opening comes by here with the write lock, whatever the store holds.
    let is_copy: bool = tx.query_row("SELECT is_copy FROM onward_meta", [], |row| row.get(0)).map_err(before_commit)?;
    if !is_copy {
        return Ok(());
    }
    let facts = "SELECT revision, max(version_floor, restore_floor, (SELECT coalesce(max(version), 0) FROM onward_objects)), newest_token
                 FROM onward_meta";
    let read = tx.query_row(facts, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let (revision, version, token): (i64, i64, i64) = read.map_err(before_commit)?;
    let clock = u64::try_from(now.as_micros()).unwrap_or(0);
    let jump = |last: i64| signed(unsigned(last)?.saturating_add(JUMP).max(clock));
    let epoch = Epoch::from_bits(u64::from_le_bytes(random::bytes()));
    let token = signed(above(unsigned(token)?, clock))?;
    // The log ends at the mark: what it says of the time before belongs to another epoch.
    tx.execute("DELETE FROM onward_changes", []).map_err(before_commit)?;
    // Holders of the lost time are refused; the lock engine goes on above the newest token.
    tx.execute("UPDATE onward_fences SET token = ?1", [token]).map_err(before_commit)?;
    tx.execute(
        "UPDATE onward_meta SET is_copy = 0, epoch = ?1, revision = ?2, compacted = ?2, restore_floor = ?3, newest_token = ?4, log_bytes = 0",
        params![epoch.to_string(), jump(revision)?, jump(version)?, token],
    )
    .map_err(before_commit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_store_that_is_no_copy_is_opened_without_reading_its_objects() {
        let mut store = Connection::open_in_memory().unwrap();
        store.execute_batch(include_str!("schema.sql")).unwrap();
        store
            .execute_batch(
                "INSERT INTO onward_meta (id, schema_version, epoch, revision, version_floor, restore_floor, compacted, log_bytes,
                   newest_token, at, origin, created_at, is_copy) VALUES (1, 2, 'e', 9, 0, 0, 0, 0, 0, 0, 'o', 0, 0);
                 WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 10000)
                 INSERT INTO onward_objects (namespace, kind, name, uid, version, revision, create_revision, content_type, payload,
                   created_at, updated_at)
                 SELECT 'n', 'k', value, zeroblob(16), value, 1, 1, 't', x'', 0, 0 FROM n;",
            )
            .unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        store.progress_handler(1, Some(count)).unwrap();
        let mut opened = |is_copy: bool| {
            store.execute("UPDATE onward_meta SET is_copy = ?1", [is_copy]).unwrap();
            steps.store(0, Ordering::Relaxed);
            restore(&store.transaction().unwrap(), Timestamp::from_micros(1)).unwrap();
            steps.load(Ordering::Relaxed)
        };
        let (plain, copy) = (opened(false), opened(true));
        assert!(plain < 100, "{plain} steps");
        assert!(copy > 10_000, "only a copy is read whole, {copy} steps");
    }
}
