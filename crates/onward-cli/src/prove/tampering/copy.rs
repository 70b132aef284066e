//! A copy of a database, opened by somebody who may write the file: no trigger and no constraint of ours stops him.

use std::path::Path;

use onward::audit::verify::HeadRow;
use onward::model::merkle::Frontier;
use onward::model::{Hash, MacKeys, Row, genesis};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::{CHAIN, OTHER};
use crate::prove::setting::Failure;

/// Takes the triggers away, and every constraint on entries and heads.
const UNBIND: &str = "
    PRAGMA ignore_check_constraints = ON;
    DROP TRIGGER onward_entries_stay;
    DROP TRIGGER onward_entries_remain;
    CREATE TABLE planted AS SELECT * FROM onward_entries;
    DROP TABLE onward_entries;
    ALTER TABLE planted RENAME TO onward_entries;
";

/// Removes the chain as if it had never been.
pub(super) const REMOVE_CHAIN: &str = "
    DROP TRIGGER onward_entries_remain;
    DELETE FROM onward_entries WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders');
    DELETE FROM onward_heads WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders');
    DELETE FROM onward_chains WHERE name = 'orders';
";

const COLUMNS: &str = "seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags";

/// Copies a database that is in use, whole and consistent.
pub(super) fn duplicate(from: &Path, to: &Path) -> Result<(), Failure> {
    let connection = Connection::open(from)?;
    connection.execute("VACUUM INTO ?1", params![to.to_str().ok_or("the path is not text")?])?;
    Ok(())
}

/// Runs statements on a database.
pub(super) fn execute(path: &Path, sql: &str) -> Result<(), Failure> {
    Ok(open(path)?.execute_batch(sql)?)
}

/// Opens a copy that nobody needs after a power loss.
fn open(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    Ok(connection)
}

/// The chain of a copy, in memory for an attacker to change.
#[derive(Debug)]
pub(super) struct Copy {
    /// The chain's identity, which every hash holds.
    pub(super) origin: String,
    /// The entries by seq.
    pub(super) rows: Vec<Row>,
    /// The head.
    pub(super) head: Option<HeadRow>,
    /// The entries of another chain in the same database.
    pub(super) others: Vec<Row>,
}

impl Copy {
    /// Reads the chain, lets `damage` change it and writes it back.
    pub(super) fn change(path: &Path, damage: impl FnOnce(&mut Copy) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut connection = open(path)?;
        let (chain, origin): (i64, String) =
            connection.query_row("SELECT id, origin FROM onward_chains WHERE name = ?1", [CHAIN], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let other: i64 = connection.query_row("SELECT id FROM onward_chains WHERE name = ?1", [OTHER], |row| row.get(0))?;
        let head = connection.query_row("SELECT seq, hash, frontier, at FROM onward_heads WHERE chain = ?1", [chain], |row| {
            Ok(HeadRow { seq: row.get(0)?, hash: row.get(1)?, frontier: row.get(2)?, at: row.get(3)? })
        })?;
        let mut copy = Self { origin, rows: read(&connection, chain)?, head: Some(head), others: read(&connection, other)? };
        let (rows, head) = (copy.rows.clone(), copy.head.clone());
        damage(&mut copy)?;
        if (&copy.rows, &copy.head) == (&rows, &head) {
            return Err("the attack changed nothing".into());
        }
        let transaction = connection.transaction()?;
        transaction.execute_batch(UNBIND)?;
        transaction.execute("DELETE FROM onward_entries WHERE chain = ?1", [chain])?;
        for row in &copy.rows {
            write(&transaction, chain, row)?;
        }
        transaction.execute("DELETE FROM onward_heads WHERE chain = ?1", [chain])?;
        if let Some(head) = &copy.head {
            let values = params![chain, head.seq, head.hash, head.frontier, head.at];
            transaction.execute("INSERT INTO onward_heads (chain, seq, hash, frontier, at) VALUES (?1, ?2, ?3, ?4, ?5)", values)?;
        }
        Ok(transaction.commit()?)
    }

    /// Numbers the rows one after the other, in the order in which they stand.
    pub(super) fn renumber(&mut self) {
        (1..).zip(&mut self.rows).for_each(|(seq, row)| row.seq = seq);
    }

    /// Links and hashes every row from the one at `index` on, and moves the head: all that needs no key. With `keys`, seals too.
    pub(super) fn rehash(&mut self, index: usize, keys: Option<&MacKeys>) -> Result<(), Failure> {
        let mut prev = match index.checked_sub(1).and_then(|before| self.rows.get(before)) {
            Some(before) => before.hash.clone(),
            None => genesis(&self.origin).as_bytes().to_vec(),
        };
        for row in self.rows.iter_mut().skip(index) {
            row.prev = prev;
            let hash = row.compute_hash(&self.origin);
            row.hash = hash.as_bytes().to_vec();
            if let Some(keys) = keys {
                row.mac = keys.sign(std::str::from_utf8(&row.kid)?, &hash).map(|mac| mac.to_vec());
            }
            prev = row.hash.clone();
        }
        self.move_head()
    }

    /// Makes the head that of the last row.
    pub(super) fn move_head(&mut self) -> Result<(), Failure> {
        let mut frontier = Frontier::default();
        for row in &self.rows {
            frontier.push(&Hash::from_bytes(row.hash.as_slice().try_into()?));
        }
        let last = self.rows.last().ok_or("no row is left")?;
        self.head = Some(HeadRow { seq: last.seq, hash: last.hash.clone(), frontier: frontier.to_bytes(), at: last.at });
        Ok(())
    }
}

fn read(connection: &Connection, chain: i64) -> Result<Vec<Row>, Failure> {
    let mut find = connection.prepare(&format!("SELECT {COLUMNS} FROM onward_entries WHERE chain = ?1 ORDER BY seq"))?;
    let rows = find.query_map([chain], |row| {
        let bytes = |index: usize| -> rusqlite::Result<Option<Vec<u8>>> {
            Ok(match row.get_ref(index)? {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
                _ => None,
            })
        };
        let needed = |index| bytes(index).map(Option::unwrap_or_default);
        Ok(Row {
            seq: row.get(0)?,
            prev: needed(1)?,
            hash: needed(2)?,
            mac: bytes(3)?,
            kid: needed(4)?,
            at: row.get(5)?,
            event_id: needed(6)?,
            kind: needed(7)?,
            actor: bytes(8)?,
            resource: bytes(9)?,
            data: needed(10)?.into(),
            pii: bytes(11)?,
            flags: row.get(12)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn write(connection: &Connection, chain: i64, row: &Row) -> Result<(), Failure> {
    let sql = format!("INSERT INTO onward_entries (chain, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let values = params![
        chain,
        row.seq,
        row.prev,
        row.hash,
        row.mac,
        text(&row.kid),
        row.at,
        text(&row.event_id),
        text(&row.kind),
        row.actor.as_deref().map(text),
        row.resource.as_deref().map(text),
        row.data.as_ref(),
        row.pii,
        row.flags
    ];
    connection.prepare_cached(&sql)?.execute(values)?;
    Ok(())
}
