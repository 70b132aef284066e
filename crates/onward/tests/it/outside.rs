//! A store as SQLite alone sees it, for checkers that do not trust the library.

use std::path::Path;

use onward::testing::history::Found;

/// Reads everything from outside, with SQLite alone.
pub(crate) fn look(db: &Path) -> Found {
    let connection = rusqlite::Connection::open_with_flags(db, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    let mut found = Found::default();
    let mut find = connection.prepare("SELECT id / 256, kind || '/' || name, version FROM onward_changes ORDER BY id").unwrap();
    let mut rows = find.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let revision: u64 = row.get::<_, i64>(0).unwrap().cast_unsigned();
        if found.log.last().is_none_or(|(last, _)| *last != revision) {
            found.log.push((revision, Vec::new()));
        }
        if let Some(name) = row.get::<_, Option<String>>(1).unwrap() {
            found.log.last_mut().unwrap().1.push((name, row.get::<_, i64>(2).unwrap().cast_unsigned()));
        }
    }
    let text = |row: &rusqlite::Row<'_>, at| hex::encode(row.get::<_, Vec<u8>>(at).unwrap());
    let mut find = connection
        .prepare("SELECT c.name, e.seq, e.prev, e.hash FROM onward_entries e JOIN onward_chains c ON c.id = e.chain ORDER BY c.id, e.seq")
        .unwrap();
    let mut rows = find.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let chain = found.chains.entry(row.get(0).unwrap()).or_default();
        chain.push((row.get::<_, i64>(1).unwrap().cast_unsigned(), text(row, 2), text(row, 3)));
    }
    let mut find = connection.prepare("SELECT c.name, h.seq, h.hash FROM onward_heads h JOIN onward_chains c ON c.id = h.chain").unwrap();
    let mut rows = find.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        found.heads.insert(row.get(0).unwrap(), (row.get::<_, i64>(1).unwrap().cast_unsigned(), text(row, 2)));
    }
    let mut find = connection.prepare("SELECT lock_key, token FROM onward_fences").unwrap();
    let mut rows = find.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        found.fences.insert(row.get(0).unwrap(), row.get::<_, i64>(1).unwrap().cast_unsigned());
    }
    found
}
