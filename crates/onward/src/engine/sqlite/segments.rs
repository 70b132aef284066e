//! Rows of segments that go or come, and chains from elsewhere: transactions beside the commits, on a connection of their own.

use rusqlite::{Connection, params};

use super::SqliteStore;
use super::commit::{INSERT_ENTRY, SqliteWriter, insert_entry, one, prepare, run};
use super::error::before_commit;
use super::rows::{col, signed, unsigned};
use crate::audit::engine::{Batch, Batched, Load, Loaded, Moved};
use crate::commit::Guard;
use crate::model::{ChainName, Hash, Head, Sealed};
use crate::{Effect, Error, Result};

impl SqliteStore {
    /// Carries a batch out. Blocks.
    pub(super) fn move_now(&self, batch: &Batch) -> Result<Batched> {
        self.beside(|connection| {
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
        })
    }

    /// Loads a chain in one transaction. Blocks.
    pub(super) fn load_now(&self, mut load: Load) -> Result<Loaded> {
        self.beside(|connection| {
            let mut find = prepare(connection, "SELECT 1 FROM onward_chains WHERE name = ?1 OR origin = ?2")?;
            if one(&mut find, params![load.chain.as_str(), &*load.head.origin], |row| col::<i64>(row, 0))?.is_some() {
                return Ok((Loaded::Exists, 0));
            }
            let mut create = prepare(connection, "INSERT INTO onward_chains (name, origin, created_at) VALUES (?1, ?2, ?3)")?;
            run(&mut create, params![load.chain.as_str(), &*load.head.origin, load.now.as_micros()])?;
            let mut rows = 0;
            while let Some(page) = load.page_now()? {
                rows += page.len();
                insert(connection, &load.chain, &page)?;
            }
            let id = id(connection, &load.chain)?;
            let mut head = prepare(connection, "INSERT INTO onward_heads (chain, seq, hash, frontier, at) VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let Head { seq, hash, frontier, at, .. } = &load.head;
            run(&mut head, params![id, signed(seq.get())?, hash.as_bytes(), frontier.to_bytes(), at.as_micros()])?;
            Ok((Loaded::Done, rows))
        })
    }

    /// Does something in a transaction on the connection that is nobody else's.
    fn beside<T>(&self, work: impl FnOnce(&Connection) -> Result<(T, usize)>) -> Result<T> {
        let mut mover = self.mover.lock();
        let mut writer = match mover.take() {
            Some(writer) => writer,
            None => self.open_writer()?.without_trip_wires()?,
        };
        let moved = writer.transact(work);
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
    let id = id(connection, chain)?;
    // The trip wire is off here: what may go is said by each row's hash, and that it is no control entry. A walk along the index for each run of neighbours, their hashes one after the other: a search and a statement a row cost twice that.
    let mut delete = prepare(
        connection,
        "DELETE FROM onward_entries WHERE chain = ?1 AND seq BETWEEN ?2 AND ?3 AND flags & 1 = 0
           AND hash = substr(?4, (seq - ?2) * 32 + 1, 32)",
    )?;
    let mut deleted = 0;
    for run in rows.chunk_by(|(seq, _), (next, _)| seq.checked_add(1) == Some(*next)) {
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
        let hashes: Vec<u8> = run.iter().flat_map(|(_, hash)| *hash.as_bytes()).collect();
        deleted += delete.execute(params![id, signed(*first)?, signed(*last)?, hashes]).map_err(before_commit)? as u64;
    }
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
