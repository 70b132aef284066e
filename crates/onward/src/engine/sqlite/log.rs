//! The change log: the state before each change, and on a commit's first row what it did beside objects.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::commit::{one, prepare, run, select_object};
use super::error::before_commit;
use super::rows::{self, BeforeMeta, Note, col, damaged, signed, unsigned};
use crate::Result;
use crate::commit::{Change, ChangeOp, Record};
use crate::model::limits::PAGE_BYTES;
use crate::model::{Key, Object, Revision, Version};
use crate::time::Timestamp;

/// Rows of one revision stand together: id = revision * 256 + ord, and a commit has at most 128 changes.
const ROWS: u64 = 256;

/// Writes the rows of commits; one that changes no object has a row of its own.
pub(super) fn append(connection: &Connection, records: &[Record]) -> Result<()> {
    let mut insert = prepare(
        connection,
        "INSERT INTO onward_changes (id, at, op, namespace, kind, name, version, before_meta, before_payload, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for record in records {
        let first = signed(record.revision.get() * ROWS)?;
        let at = record.at.as_micros();
        let note = Note { invalidations: record.invalidations.clone(), entries: record.entries.clone(), request: record.request.clone() };
        let mut note = note.text()?;
        if record.changes.is_empty() {
            run(
                &mut insert,
                params![first, at, "commit", None::<&str>, None::<&str>, None::<&str>, None::<i64>, None::<&str>, None::<&[u8]>, note],
            )?;
        }
        for (id, change) in (first..).zip(&record.changes) {
            let op = match change.op {
                ChangeOp::Put => "put",
                ChangeOp::Delete => "delete",
            };
            let before = change.before.as_deref();
            let meta = before.map(|object| serde_json::to_string(&BeforeMeta::of(object))).transpose().map_err(damaged)?;
            let payload = before.map(|object| &object.value.bytes()[..]);
            let (key, version) = (&change.key, signed(change.version.get())?);
            run(&mut insert, params![id, at, op, key.namespace(), key.kind(), key.name(), version, meta, payload, note.take()])?;
        }
    }
    Ok(())
}

/// Reads whole commits after a revision, up to `newest`, from the snapshot that the connection holds; fewer than asked for once they
/// hold a page's bytes (C7).
pub(super) fn read(connection: &Connection, after: Revision, newest: Revision, limit: usize) -> Result<Vec<Record>> {
    let last = after.get().saturating_add(limit as u64).min(newest.get());
    let mut find = prepare(
        connection,
        "SELECT id, at, op, namespace, kind, name, version, before_meta, before_payload, note FROM onward_changes
         WHERE id >= ?1 AND id < ?2 ORDER BY id",
    )?;
    let mut found = find
        .query(params![signed((after.get() + 1).saturating_mul(ROWS))?, signed(last.saturating_add(1).saturating_mul(ROWS))?])
        .map_err(before_commit)?;
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = found.next().map_err(before_commit)? {
        let id = unsigned(col(row, 0)?)?;
        let revision = Revision::new(id / ROWS).map_err(damaged)?;
        if records.last().is_none_or(|record| record.revision != revision) {
            if bytes >= PAGE_BYTES {
                break;
            }
            let note: Option<String> = col(row, 9)?;
            let note: Note = note.map(|text| serde_json::from_str(&text)).transpose().map_err(damaged)?.unwrap_or_default();
            let Note { invalidations, entries, request } = note;
            let at = Timestamp::from_micros(col(row, 1)?);
            records.push(Record { revision, at, changes: Vec::new(), invalidations, entries, request });
        }
        if let (Some(change), Some(record)) = (change(connection, row, id)?, records.last_mut()) {
            bytes += [&change.before, &change.after].into_iter().flatten().map(|object| object.value.bytes().len()).sum::<usize>();
            record.changes.push(change);
        }
    }
    Ok(records)
}

fn change(connection: &Connection, row: &Row<'_>, id: u64) -> Result<Option<Change>> {
    let op: String = col(row, 2)?;
    let op = match op.as_str() {
        "put" => ChangeOp::Put,
        "delete" => ChangeOp::Delete,
        _ => return Ok(None),
    };
    let (namespace, kind, name): (String, String, String) = (col(row, 3)?, col(row, 4)?, col(row, 5)?);
    let key = Key::in_namespace(&namespace, &kind, &name).map_err(damaged)?;
    let version = Version::new(unsigned(col(row, 6)?)?).map_err(damaged)?;
    let before = before(&key, col(row, 7)?, col(row, 8)?)?;
    let after = match op {
        ChangeOp::Put => state_after(connection, &key, id)?,
        ChangeOp::Delete => None,
    };
    Ok(Some(Change { op, key, version, before, after }))
}

fn before(key: &Key, meta: Option<String>, payload: Option<Vec<u8>>) -> Result<Option<Arc<Object>>> {
    let Some(meta) = meta else { return Ok(None) };
    let meta: BeforeMeta = serde_json::from_str(&meta).map_err(damaged)?;
    Ok(Some(meta.object(key.clone(), payload.unwrap_or_default())))
}

/// The state after a change: what stood before the next change of the same object, or the row itself.
fn state_after(connection: &Connection, key: &Key, id: u64) -> Result<Option<Arc<Object>>> {
    let mut next = prepare(
        connection,
        "SELECT before_meta, before_payload FROM onward_changes
         WHERE namespace = ?1 AND kind = ?2 AND name = ?3 AND name IS NOT NULL AND id > ?4 ORDER BY id LIMIT 1",
    )?;
    let params = params![key.namespace(), key.kind(), key.name(), signed(id)?];
    if let Some(state) = one(&mut next, params, |row| before(key, col(row, 0)?, col(row, 1)?))? {
        return Ok(state);
    }
    let current = one(&mut select_object(connection)?, params![key.namespace(), key.kind(), key.name()], rows::object)?;
    Ok(current.map(Arc::new))
}
