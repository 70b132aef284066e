//! Looks whether a store file contradicts itself: the file as SQLite sees it, and the numbers that must fit together.

use std::path::Path;

use rusqlite::Connection;

use super::connection;
use super::error::before_commit;
use crate::Result;
use crate::commit::engine::Finding;

/// Most complaints of SQLite that are shown.
const COMPLAINTS: usize = 10;

/// What must hold between the tables: a code, what is wrong, and a count of the breaches.
const RULES: &[(&str, &str, &str)] = &[
    (
        "object_ahead",
        "objects are of a revision that no commit has reached",
        "SELECT count(*) FROM onward_objects WHERE revision > (SELECT revision FROM onward_meta)",
    ),
    (
        "log_gap",
        "commits are missing in the change log",
        "SELECT abs(revision - compacted - (SELECT count(DISTINCT id / 256) FROM onward_changes WHERE id / 256 > compacted)) FROM onward_meta",
    ),
    (
        "log_ahead",
        "the change log has rows outside its bounds",
        "SELECT count(*) FROM onward_changes c, onward_meta m WHERE c.id / 256 > m.revision OR c.id / 256 <= m.compacted",
    ),
    (
        "head_astray",
        "heads of chains are not their last entries",
        "SELECT count(*) FROM onward_heads h LEFT JOIN onward_entries e ON e.chain = h.chain AND e.seq = h.seq
         WHERE e.hash IS NOT h.hash OR h.seq < (SELECT max(seq) FROM onward_entries WHERE chain = h.chain)",
    ),
];

/// Checks a store file on a connection of its own: it takes as long as the file is large.
pub(super) fn check(path: &Path) -> Result<Vec<Finding>> {
    let mut connection = connection::open_reader(path)?;
    // One moment for all rules.
    let tx = connection.transaction().map_err(before_commit)?;
    let mut found = damages(&tx)?;
    if found.is_empty() {
        for (code, message, sql) in RULES {
            let breaches: i64 = tx.query_row(sql, [], |row| row.get(0)).map_err(before_commit)?;
            if breaches > 0 {
                found.push(Finding { code, message: format!("{message}: {breaches}") });
            }
        }
    }
    Ok(found)
}

fn damages(connection: &Connection) -> Result<Vec<Finding>> {
    let mut ask = connection.prepare(&format!("PRAGMA integrity_check({COMPLAINTS})")).map_err(before_commit)?;
    let lines = ask.query_map([], |row| row.get::<_, String>(0)).map_err(before_commit)?;
    let mut found = Vec::new();
    for line in lines {
        let message = line.map_err(before_commit)?;
        if message != "ok" {
            found.push(Finding { code: "file_damaged", message });
        }
    }
    Ok(found)
}
