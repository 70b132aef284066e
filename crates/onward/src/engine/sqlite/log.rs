//! The change log: the state before each change, and on a commit's first row what it did beside objects.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::commit::{one, prepare, run, select_object};
use super::error::before_commit;
use super::rows::{self, BeforeMeta, col, damaged, signed, unsigned};
use crate::commit::engine::At;
use crate::commit::{Change, ChangeOp, Note, Past, Prune, Pruned, ROW_BYTES, Record};
use crate::model::limits::PAGE_BYTES;
use crate::model::{Key, Object, Revision, Version};
use crate::time::Timestamp;
use crate::{Error, Result};

/// Rows of one revision stand together: id = revision * 256 + ord, and a commit has at most 128 changes.
pub(super) const ROWS: u64 = 256;

/// Writes the rows of commits; one that changes no object has a row of its own. Returns what they count in the log.
pub(super) fn append(connection: &Connection, records: &[Arc<Record>]) -> Result<u64> {
    let mut bytes = 0;
    let mut insert = prepare(
        connection,
        "INSERT INTO onward_changes (id, at, op, namespace, kind, name, version, before_meta, before_payload, note, expired)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let nothing = None::<&str>;
    for record in records {
        let first = signed(record.revision.get() * ROWS)?;
        let at = record.at.as_micros();
        let note = Note::of(record);
        let mut note = note.text()?;
        bytes += note.as_ref().map_or(0, |note| note.len() as u64) + if record.changes.is_empty() { ROW_BYTES } else { 0 };
        if record.changes.is_empty() {
            run(&mut insert, params![first, at, "commit", nothing, nothing, nothing, nothing, nothing, nothing, note, nothing])?;
        }
        for (id, change) in (first..).zip(&record.changes) {
            let (op, expired) = match change.op {
                ChangeOp::Put => ("put", None),
                ChangeOp::Delete => ("delete", None),
                ChangeOp::Expire => ("delete", Some(true)),
            };
            let before = change.before.as_deref();
            let meta = before.map(|object| serde_json::to_string(&BeforeMeta::of(object))).transpose().map_err(damaged)?;
            let payload = before.map(|object| &object.value.bytes()[..]);
            let labels = before.map(|object| rows::labels_text(&object.meta.labels)).transpose()?.flatten();
            bytes += payload.map_or(0, |payload| payload.len() as u64) + labels.map_or(0, |labels| labels.len() as u64) + ROW_BYTES;
            let (key, version) = (&change.key, signed(change.version.get())?);
            run(&mut insert, params![id, at, op, key.namespace(), key.kind(), key.name(), version, meta, payload, note.take(), expired])?;
        }
    }
    Ok(bytes)
}

/// Reads whole commits after a revision, up to `newest`, from the snapshot that the connection holds; fewer than asked for once they
/// hold a page's bytes (C7).
pub(super) fn read(connection: &Connection, after: Revision, newest: Revision, limit: usize) -> Result<Vec<Record>> {
    let last = after.get().saturating_add(limit as u64).min(newest.get());
    let mut find = prepare(
        connection,
        "SELECT id, at, op, namespace, kind, name, version, before_meta, before_payload, note, expired FROM onward_changes
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
            records.push(record(revision, col(row, 1)?, col(row, 9)?)?);
        }
        if let (Some(change), Some(record)) = (change(connection, row, id)?, records.last_mut()) {
            bytes += [&change.before, &change.after].into_iter().flatten().map(|object| object.value.bytes().len()).sum::<usize>();
            record.changes.push(change);
        }
    }
    Ok(records)
}

/// As [`read`], without the changes of objects.
pub(super) fn notes(connection: &Connection, after: Revision, newest: Revision, limit: usize) -> Result<Vec<Record>> {
    let last = after.get().saturating_add(limit as u64).min(newest.get());
    let mut find = prepare(connection, "SELECT id, at, note FROM onward_changes WHERE id >= ?1 AND id < ?2 ORDER BY id")?;
    let mut found = find
        .query(params![signed((after.get() + 1).saturating_mul(ROWS))?, signed(last.saturating_add(1).saturating_mul(ROWS))?])
        .map_err(before_commit)?;
    let mut records: Vec<Record> = Vec::new();
    while let Some(row) = found.next().map_err(before_commit)? {
        let revision = Revision::new(unsigned(col(row, 0)?)? / ROWS).map_err(damaged)?;
        if records.last().is_none_or(|record| record.revision != revision) {
            records.push(record(revision, col(row, 1)?, col(row, 2)?)?);
        }
    }
    Ok(records)
}

/// The beginning of a record, from the first row of its revision.
fn record(revision: Revision, at: i64, note: Option<String>) -> Result<Record> {
    let Note { invalidations, entries, request } = Note::read(note.as_deref())?;
    Ok(Record { revision, at: Timestamp::from_micros(at), changes: Vec::new(), invalidations, entries, request })
}

fn change(connection: &Connection, row: &Row<'_>, id: u64) -> Result<Option<Change>> {
    let op: String = col(row, 2)?;
    let op = match op.as_str() {
        "put" => ChangeOp::Put,
        "delete" if col::<Option<bool>>(row, 10)? == Some(true) => ChangeOp::Expire,
        "delete" => ChangeOp::Delete,
        _ => return Ok(None),
    };
    let (namespace, kind, name): (String, String, String) = (col(row, 3)?, col(row, 4)?, col(row, 5)?);
    let key = Key::in_namespace(&namespace, &kind, &name).map_err(damaged)?;
    let version = Version::new(unsigned(col(row, 6)?)?).map_err(damaged)?;
    let before = before(&key, col(row, 7)?, col(row, 8)?)?;
    let after = match op {
        ChangeOp::Put => state_after(connection, &key, id)?,
        ChangeOp::Delete | ChangeOp::Expire => None,
    };
    Ok(Some(Change { op, key, version, before, after }))
}

pub(super) fn before(key: &Key, meta: Option<String>, payload: Option<Vec<u8>>) -> Result<Option<Arc<Object>>> {
    let Some(meta) = meta else { return Ok(None) };
    let meta: BeforeMeta = serde_json::from_str(&meta).map_err(damaged)?;
    Ok(Some(meta.object(key.clone(), payload.unwrap_or_default())))
}

/// Tells whether the oldest commit of the log goes.
pub(super) fn is_over(connection: &Connection, prune: &Prune) -> Result<bool> {
    let mut oldest = prepare(
        connection,
        "SELECT compacted + 1, log_bytes, (SELECT at FROM onward_changes ORDER BY id LIMIT 1) FROM onward_meta WHERE compacted < revision",
    )?;
    let found = one(&mut oldest, [], |row| Ok((unsigned(col(row, 0)?)?, unsigned(col(row, 1)?)?, col::<Option<i64>>(row, 2)?)))?;
    let Some((revision, bytes, at)) = found else { return Ok(false) };
    let at = at.ok_or_else(|| Error::integrity("the change log has a gap"))?;
    Ok(prune.takes(Revision::new(revision).map_err(damaged)?, Timestamp::from_micros(at), bytes))
}

/// Takes the oldest whole commits off the log and moves the mark, in the transaction that the connection holds. Returns how many rows too.
pub(super) fn prune(connection: &Connection, prune: &Prune) -> Result<(Pruned, usize)> {
    let mut find = prepare(connection, "SELECT compacted, revision, log_bytes FROM onward_meta")?;
    let facts = one(&mut find, [], |row| Ok((unsigned(col(row, 0)?)?, unsigned(col(row, 1)?)?, unsigned(col(row, 2)?)?)))?;
    let Some((mut compacted, newest, mut bytes)) = facts else { return Err(Error::integrity("the facts of the store are gone")) };
    let before = bytes;
    let mut oldest = prepare(
        connection,
        "SELECT count(*), max(at), sum(coalesce(length(before_payload), 0) + coalesce(octet_length(before_meta ->> 'labels'), 0)
           + coalesce(octet_length(note), 0) + ?3)
         FROM onward_changes WHERE id >= ?1 AND id < ?2",
    )?;
    let mut rows = 0;
    while compacted < newest && rows < prune.rows {
        let next = compacted + 1;
        let range = params![signed(next * ROWS)?, signed((next + 1) * ROWS)?, signed(ROW_BYTES)?];
        let row = one(&mut oldest, range, |row| Ok((col::<i64>(row, 0)?, col::<Option<i64>>(row, 1)?, col::<Option<i64>>(row, 2)?)))?;
        let Some((count, Some(at), Some(size))) = row else { return Err(Error::integrity("the change log has a gap")) };
        if !prune.takes(Revision::new(next).map_err(damaged)?, Timestamp::from_micros(at), bytes) {
            break;
        }
        rows += usize::try_from(count).unwrap_or(0);
        bytes = bytes.saturating_sub(unsigned(size)?);
        compacted = next;
    }
    if rows > 0 {
        run(&mut prepare(connection, "DELETE FROM onward_changes WHERE id < ?1")?, params![signed((compacted + 1) * ROWS)?])?;
        let mut mark = prepare(connection, "UPDATE onward_meta SET compacted = ?1, log_bytes = log_bytes - ?2")?;
        run(&mut mark, params![signed(compacted)?, signed(before - bytes)?])?;
    }
    Ok((Pruned { compacted: Revision::new(compacted).map_err(damaged)?, more: rows >= prune.rows }, rows))
}

/// The changes of an object before a revision, the newest first.
pub(super) fn history(connection: &Connection, key: &Key, before: Option<Revision>, limit: usize) -> Result<Vec<Past>> {
    let mut find = prepare(
        connection,
        "SELECT id, at, op, namespace, kind, name, version, before_meta, before_payload, note, expired FROM onward_changes
         WHERE namespace = ?1 AND kind = ?2 AND name = ?3 AND name IS NOT NULL AND id < ?4 ORDER BY id DESC LIMIT ?5",
    )?;
    let end = before.map_or(Ok(i64::MAX), |before| signed(before.get().saturating_mul(ROWS)))?;
    let params = params![key.namespace(), key.kind(), key.name(), end, signed(limit as u64)?];
    let mut found = find.query(params).map_err(before_commit)?;
    let (mut past, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next().map_err(before_commit)? {
        let id = unsigned(col(row, 0)?)?;
        let (revision, at) = (Revision::new(id / ROWS).map_err(damaged)?, Timestamp::from_micros(col(row, 1)?));
        let Some(change) = change(connection, row, id)? else { continue };
        bytes += change.after.as_ref().map_or(0, |object| object.value.bytes().len());
        past.push(Past { revision, at, change });
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(past)
}

/// The state at a moment: what stood before the first later change of the object, or the row itself.
pub(super) fn state_at(connection: &Connection, key: &Key, at: At) -> Result<Option<Arc<Object>>> {
    let version = match at {
        At::Revision(revision) => return state_after(connection, key, revision.get().saturating_mul(ROWS) | (ROWS - 1)),
        At::Version(version) => version,
    };
    let mut later = prepare(
        connection,
        "SELECT before_meta, before_payload FROM onward_changes
         WHERE namespace = ?1 AND kind = ?2 AND name = ?3 AND name IS NOT NULL AND version > ?4 ORDER BY id LIMIT 1",
    )?;
    let params = params![key.namespace(), key.kind(), key.name(), signed(version.get())?];
    let found = match one(&mut later, params, |row| before(key, col(row, 0)?, col(row, 1)?))? {
        Some(found) => found,
        None => one(&mut select_object(connection)?, params![key.namespace(), key.kind(), key.name()], rows::object)?.map(Arc::new),
    };
    Ok(found.filter(|object| object.meta.version == version))
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
