//! Rows of segments that go or come: short transactions beside the commits, on a connection of their own.

use rusqlite::{Connection, params};

use super::SqliteStore;
use super::commit::{INSERT_ENTRY, SqliteWriter, insert_entry, one, prepare, run};
use super::error::before_commit;
use super::rows::{col, signed, unsigned};
use crate::audit::engine::{Batch, Batched, Moved};
use crate::commit::Guard;
use crate::model::{ChainName, Hash, Sealed};
use crate::{Effect, Error, Result};

impl SqliteStore {
    /// Carries a batch out. Blocks.
    pub(super) fn move_now(&self, batch: &Batch) -> Result<Batched> {
        let mut mover = self.mover.lock();
        let mut writer = match mover.take() {
            Some(writer) => writer,
            None => self.open_writer()?,
        };
        let moved = writer.transact(|connection| {
            for guard in &batch.guards {
                if !holds(connection, guard)? {
                    return Ok((Batched::Refused, 0));
                }
            }
            let rows = match &batch.rows {
                Moved::Out(rows) => delete(connection, &batch.chain, rows)?,
                Moved::In(entries) => insert(connection, &batch.chain, entries)?,
            };
            Ok((Batched::Done(rows), usize::try_from(rows).unwrap_or(usize::MAX)))
        });
        // A writer whose COMMIT failed is in a state that nobody knows.
        *mover = Some(writer).filter(|_: &SqliteWriter| !moved.as_ref().is_err_and(|e| e.effect() == Effect::Unknown));
        moved
    }
}

/// Tells whether a guard holds in the transaction at hand.
fn holds(connection: &Connection, guard: &Guard) -> Result<bool> {
    let key = guard.key();
    let mut find = prepare(connection, "SELECT version FROM onward_objects WHERE namespace = ?1 AND kind = ?2 AND name = ?3")?;
    let version = one(&mut find, params![key.namespace(), key.kind(), key.name()], |row| unsigned(col(row, 0)?))?;
    Ok(match guard {
        Guard::Absent(_) => version.is_none(),
        Guard::Exists(_) => version.is_some(),
        Guard::At(_, at) => version == Some(at.get()),
    })
}

fn id(connection: &Connection, chain: &ChainName) -> Result<i64> {
    let mut find = prepare(connection, "SELECT id FROM onward_chains WHERE name = ?1")?;
    one(&mut find, params![chain.as_str()], |row| col(row, 0))?.ok_or_else(|| Error::not_found("no such chain"))
}

fn delete(connection: &Connection, chain: &ChainName, rows: &[(u64, Hash)]) -> Result<u64> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(0) };
    let id = id(connection, chain)?;
    let mut licence = prepare(connection, "INSERT INTO onward_purging (chain, from_seq, to_seq) VALUES (?1, ?2, ?3)")?;
    run(&mut licence, params![id, signed(first.0)?, signed(last.0)?])?;
    let mut delete = prepare(connection, "DELETE FROM onward_entries WHERE chain = ?1 AND seq = ?2 AND hash = ?3 AND flags & 1 = 0")?;
    let mut deleted = 0;
    for (seq, hash) in rows {
        deleted += delete.execute(params![id, signed(*seq)?, hash.as_bytes()]).map_err(before_commit)? as u64;
    }
    run(&mut prepare(connection, "DELETE FROM onward_purging")?, [])?;
    Ok(deleted)
}

fn insert(connection: &Connection, chain: &ChainName, entries: &[Sealed]) -> Result<u64> {
    let id = id(connection, chain)?;
    // What is there already stays.
    let mut insert = prepare(connection, &format!("{INSERT_ENTRY} ON CONFLICT DO NOTHING"))?;
    let mut inserted = 0;
    for entry in entries {
        inserted += insert_entry(&mut insert, id, entry)? as u64;
    }
    Ok(inserted)
}
