//! Looks whether a store file contradicts itself: the file as SQLite sees it, and the numbers that must fit together.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::connection;
use super::error::before_commit;
use super::wal::Wal;
use super::whole::Wanted;
use crate::observe::{Finding, Grade};
use crate::{Error, Kind, Result};

/// Most complaints of SQLite that are shown.
const COMPLAINTS: usize = 10;
/// What to do about any of them.
const FIX: &str = "stop writing, keep the file, and restore the newest backup that is sound";

/// Why it ended.
const TOO_FAST: &str = "the store is written to faster than it can be checked as it runs: check a backup";
/// When fewer may write.
const LATER: Duration = Duration::from_secs(60);

/// What must hold between the tables, and a count of the breaches.
const RULES: &[(&str, &str, &str)] = &[
    (
        "store.objects",
        "objects of a revision that no commit has reached",
        "SELECT count(*) FROM onward_objects WHERE revision > (SELECT revision FROM onward_meta)",
    ),
    (
        "store.log",
        "commits missing in the change log, or beyond its bounds",
        "SELECT abs(m.revision - m.compacted - (SELECT count(DISTINCT id / 256) FROM onward_changes WHERE id / 256 > m.compacted))
             + (SELECT count(*) FROM onward_changes WHERE id / 256 > m.revision OR id / 256 <= m.compacted) FROM onward_meta m",
    ),
    (
        "store.heads",
        "chains whose head is not their last entry",
        "SELECT count(*) FROM onward_heads h LEFT JOIN onward_entries e ON e.chain = h.chain AND e.seq = h.seq
         WHERE e.hash IS NOT h.hash OR h.seq < (SELECT max(seq) FROM onward_entries WHERE chain = h.chain)",
    ),
];

/// Reads a whole store file on a connection of its own: it takes as long as the file is large.
///
/// It reads one state of the file, which keeps the log from being folded. Writers come first: before they had to be refused, it ends.
pub(super) fn inspect(path: &Path, wal: Wal, wanted: &Wanted) -> Result<Vec<Finding>> {
    let mut connection = connection::open_reader(path)?;
    let log = wal.clone();
    wanted.watch(&mut connection, move || log.is_long())?;
    find(&mut connection).map_err(|e| if e.kind() == Kind::Overloaded && wal.is_long() { Error::overloaded(TOO_FAST, LATER) } else { e })
}

fn find(connection: &mut Connection) -> Result<Vec<Finding>> {
    // One moment for all rules.
    let tx = connection.transaction().map_err(before_commit)?;
    let mut found = damages(&tx)?;
    if !found.is_empty() {
        // Nothing that is counted in a damaged file says anything.
        return Ok(found);
    }
    found.push(Finding::fine("store.file", "every page, row and index fits"));
    for (check, what, sql) in RULES {
        let breaches: i64 = tx.query_row(sql, [], |row| row.get(0)).map_err(before_commit)?;
        found.push(Finding::of(check, breaches == 0, Grade::Failure, format!("{breaches} {what}"), FIX));
    }
    Ok(found)
}

fn damages(connection: &Connection) -> Result<Vec<Finding>> {
    let mut ask = connection.prepare(&format!("PRAGMA integrity_check({COMPLAINTS})")).map_err(before_commit)?;
    let lines = ask.query_map([], |row| row.get::<_, String>(0)).map_err(before_commit)?;
    let mut found = Vec::new();
    for line in lines {
        let complaint = line.map_err(before_commit)?;
        if complaint != "ok" {
            found.push(Finding::bad("store.file", Grade::Failure, complaint, FIX));
        }
    }
    Ok(found)
}
