//! The audit trail in a SQLite file: reads only; appends are rows of a commit's plan.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use futures_core::future::BoxFuture;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, params, params_from_iter};

use super::SqliteStore;
use super::commit::{one, prepare, read_head};
use super::connection;
use super::error::before_commit;
use super::personal;
use super::rows::{self, col, damaged, signed, unsigned};
use crate::audit::Order;
use crate::audit::engine::{AuditEngine, Batch, Batched, Load, Loaded, PersonalWanted, Scrubbed, Select, Selected};
use crate::audit::verify::{Controls, EachPersonal, HeadRow, Source, View};
use crate::model::limits::PAYLOAD_BYTES;
use crate::model::{ChainName, Hash, Head, KeptPersonal, Row, RowRef, Sealed, Seq};
use crate::{Error, Result};

/// The columns of an entry, in the order that [`entry_row`] reads. A planted giant is read no further than it takes to refuse it.
fn columns() -> String {
    let most = PAYLOAD_BYTES + 1;
    // The length stands in the row's header: it costs a row that fits no copy.
    let data = format!("CASE WHEN length(data) <= {most} THEN data ELSE substr(data, 1, {most}) END");
    format!("seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, {data}, pii, flags")
}

/// Looks at a row as it stands, also one that no writer of ours could have left.
fn entry_ref<'a>(row: &'a rusqlite::Row<'_>) -> Result<RowRef<'a>> {
    // A NULL where none belongs is read as empty: the hash will not fit it.
    let needed = |index| Ok::<_, Error>(bytes(row, index)?.unwrap_or_default());
    let number = |index| Ok::<_, Error>(col::<Option<i64>>(row, index)?.unwrap_or_default());
    Ok(RowRef {
        seq: number(0)?,
        prev: needed(1)?,
        hash: needed(2)?,
        mac: bytes(row, 3)?,
        kid: needed(4)?,
        at: number(5)?,
        event_id: needed(6)?,
        kind: needed(7)?,
        actor: bytes(row, 8)?,
        resource: bytes(row, 9)?,
        data: needed(10)?,
        pii: bytes(row, 11)?,
        flags: number(12)?,
    })
}

fn entry_row(row: &rusqlite::Row<'_>) -> Result<Row> {
    entry_ref(row).map(RowRef::to_row)
}

/// Reads a column as bytes, whether it is text or a blob.
fn bytes<'a>(row: &'a rusqlite::Row<'_>, index: usize) -> Result<Option<&'a [u8]>> {
    match row.get_ref(index).map_err(damaged)? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes)),
        ValueRef::Integer(_) | ValueRef::Real(_) => Err(damaged("a number stands where text or bytes belong")),
    }
}

fn chain_id(connection: &Connection, chain: &ChainName) -> Result<Option<i64>> {
    let mut find = prepare(connection, "SELECT id FROM onward_chains WHERE name = ?1")?;
    one(&mut find, params![chain.as_str()], |row| col(row, 0))
}

impl AuditEngine for SqliteStore {
    fn chains<'a>(&'a self, after: Option<&'a ChainName>, limit: usize) -> BoxFuture<'a, Result<Vec<(ChainName, Head)>>> {
        let after = after.map(|name| name.as_str().to_owned()).unwrap_or_default();
        Box::pin(self.readers().run(move |connection| {
            let mut find = prepare(
                connection,
                "SELECT c.origin, h.seq, h.hash, h.frontier, h.at, c.name FROM onward_chains c JOIN onward_heads h ON h.chain = c.id
                 WHERE c.name > ?1 ORDER BY c.name LIMIT ?2",
            )?;
            let mut found = find.query(params![after, signed(limit as u64)?]).map_err(before_commit)?;
            let mut chains = Vec::new();
            while let Some(row) = found.next().map_err(before_commit)? {
                chains.push((ChainName::new(&col::<String>(row, 5)?).map_err(damaged)?, rows::head(row)?));
            }
            Ok(chains)
        }))
    }

    fn head<'a>(&'a self, chain: &'a ChainName) -> BoxFuture<'a, Result<Option<Head>>> {
        let chain = chain.clone();
        Box::pin(self.readers().run(move |connection| read_head(connection, &chain)))
    }

    fn entry<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<Sealed>>> {
        let chain = chain.clone();
        Box::pin(self.readers().run(move |connection| {
            let sql = format!(
                "SELECT {} FROM onward_entries WHERE chain = (SELECT id FROM onward_chains WHERE name = ?1) AND seq = ?2",
                columns()
            );
            let found = one(&mut prepare(connection, &sql)?, params![chain.as_str(), signed(seq.get())?], entry_row)?;
            found.map(Sealed::try_from).transpose()
        }))
    }

    fn select<'a>(&'a self, chain: &'a ChainName, select: &'a Select) -> BoxFuture<'a, Result<Option<Selected>>> {
        let (chain, select) = (chain.clone(), select.clone());
        Box::pin(self.readers().run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            let Some(id) = chain_id(&tx, &chain)? else { return Ok(None) };
            read_page(&tx, id, &select).map(Some)
        }))
    }

    fn hashes<'a>(&'a self, chain: &'a ChainName, from: u64, to: u64) -> BoxFuture<'a, Result<Vec<(u64, Hash)>>> {
        let chain = chain.clone();
        Box::pin(self.readers().run(move |connection| {
            let Some(id) = chain_id(connection, &chain)? else { return Ok(Vec::new()) };
            let mut find =
                prepare(connection, "SELECT seq, hash FROM onward_entries WHERE chain = ?1 AND seq >= ?2 AND seq <= ?3 ORDER BY seq")?;
            let mut found = find.query(params![id, signed(from)?, signed(to)?]).map_err(before_commit)?;
            let mut hashes = Vec::new();
            while let Some(row) = found.next().map_err(before_commit)? {
                hashes.push((unsigned(col(row, 0)?)?, Hash::from_bytes(col(row, 1)?)));
            }
            Ok(hashes)
        }))
    }

    fn personal<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<KeptPersonal>>> {
        let chain = chain.clone();
        Box::pin(self.readers().run(move |connection| personal::read(connection, &chain, seq)))
    }

    fn find_personal<'a>(&'a self, chain: &'a ChainName, wanted: &'a PersonalWanted) -> BoxFuture<'a, Result<(Vec<Seq>, Option<Seq>)>> {
        let (chain, wanted) = (chain.clone(), wanted.clone());
        Box::pin(self.readers().run(move |connection| personal::find(connection, &chain, &wanted)))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed>> {
        let store = self.clone();
        Box::pin(async move {
            let scrubbed = tokio::task::spawn_blocking(move || store.scrub_now()).await;
            let erased = scrubbed.map_err(|e| Error::unavailable("the log could not be cut off").with_source(e))??;
            Ok(Scrubbed { erased, log_until: None })
        })
    }

    fn move_rows(&self, batch: Batch) -> BoxFuture<'_, Result<Batched>> {
        let store = self.clone();
        Box::pin(async move {
            let moved = tokio::task::spawn_blocking(move || store.move_now(&batch)).await;
            moved.map_err(|e| Error::unknown("the batch ended early").with_source(e))?
        })
    }

    fn load(&self, load: Load) -> BoxFuture<'_, Result<Loaded>> {
        let store = self.clone();
        Box::pin(async move {
            let loaded = tokio::task::spawn_blocking(move || store.load_now(load)).await;
            loaded.map_err(|e| Error::unknown("the load ended early").with_source(e))?
        })
    }

    fn source(&self, chain: &ChainName) -> Result<Box<dyn Source>> {
        Ok(Box::new(SqliteSource::open(self.path(), chain)?))
    }
}

fn read_page(connection: &Connection, chain: i64, select: &Select) -> Result<Selected> {
    let (mut from, mut to) = (signed(select.from)?, signed(select.to)?);
    if let Some(since) = select.since {
        from = from.max(first_since(connection, chain, since.as_micros())?);
    }
    if let Some(until) = select.until.and_then(|until| until.as_micros().checked_add(1)) {
        to = to.min(first_since(connection, chain, until)? - 1);
    }
    // No index knows kinds, actors and resources: each would take every append to one more page.
    let stop = if select.is_narrow() { end_of_look(connection, chain, from, to, select)? } else { None };
    match (stop, select.order) {
        (Some(stop), Order::Ascending) => to = stop,
        (Some(stop), Order::Descending) => from = stop,
        (None, _) => {}
    }
    let mut sql = format!("SELECT {} FROM onward_entries WHERE chain = ? AND seq >= ? AND seq <= ?", columns());
    let mut values = vec![Value::Integer(chain), Value::Integer(from), Value::Integer(to)];
    for (column, wanted) in [("kind", &select.kind), ("actor", &select.actor), ("resource", &select.resource)] {
        if let Some(wanted) = wanted {
            // Writing into a string cannot fail.
            let _ = write!(sql, " AND {column} = ?");
            values.push(Value::Text(wanted.clone()));
        }
    }
    sql.push_str(match select.order {
        Order::Ascending => " ORDER BY seq LIMIT ?",
        Order::Descending => " ORDER BY seq DESC LIMIT ?",
    });
    values.push(Value::Integer(signed(select.limit as u64 + 1)?));
    let mut find = prepare(connection, &sql)?;
    let mut found = find.query(params_from_iter(values)).map_err(before_commit)?;
    let (mut items, mut bytes) = (Vec::<Sealed>::new(), 0);
    while let Some(row) = found.next().map_err(before_commit)? {
        if items.len() >= select.limit || bytes >= select.bytes {
            let next = items.last().map(|last| last.seq);
            return Ok(Selected { items, next });
        }
        let entry = Sealed::try_from(entry_row(row)?)?;
        bytes += entry.data.len();
        items.push(entry);
    }
    let next = stop.map(|stop| Seq::new(unsigned(stop)?).map_err(damaged)).transpose()?;
    Ok(Selected { items, next })
}

/// Finds the last position that a page may look at, if it ends before the bounds do.
fn end_of_look(connection: &Connection, chain: i64, from: i64, to: i64, select: &Select) -> Result<Option<i64>> {
    // A step in the primary key's index for each entry, and none in the rows.
    let (last, behind, order) = match select.order {
        Order::Ascending => ("max", "seq > ?4 AND seq <= ?3", "ASC"),
        Order::Descending => ("min", "seq < ?4 AND seq >= ?2", "DESC"),
    };
    let sql = format!(
        "SELECT {last}(seq) FROM (SELECT seq FROM onward_entries WHERE chain = ?1 AND seq >= ?2 AND seq <= ?3 ORDER BY seq {order} LIMIT ?4)"
    );
    let most = signed(select.scan as u64)?;
    let stop = one(&mut prepare(connection, &sql)?, params![chain, from, to, most], |row| col::<Option<i64>>(row, 0))?.flatten();
    let Some(stop) = stop else { return Ok(None) };
    let mut more = prepare(connection, &format!("SELECT EXISTS (SELECT 1 FROM onward_entries WHERE chain = ?1 AND {behind})"))?;
    let more = one(&mut more, params![chain, from, to, stop], |row| col::<bool>(row, 0))?.unwrap_or(false);
    Ok(Some(stop).filter(|_| more))
}

/// Finds the first position whose time is not before `at`, by halving: time never falls in a chain.
fn first_since(connection: &Connection, chain: i64, at: i64) -> Result<i64> {
    let mut last = prepare(connection, "SELECT coalesce(max(seq), 0) FROM onward_entries WHERE chain = ?1")?;
    let (mut low, mut high) = (1, one(&mut last, params![chain], |row| col::<i64>(row, 0))?.unwrap_or(0) + 1);
    let mut look = prepare(connection, "SELECT at FROM onward_entries WHERE chain = ?1 AND seq >= ?2 ORDER BY seq LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        match one(&mut look, params![chain, middle], |row| col::<i64>(row, 0))? {
            Some(time) if time < at => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

struct SqliteSource {
    connection: Connection,
    path: PathBuf,
    chain: ChainName,
    /// The statement that reads rows.
    rows: String,
    /// The statement that reads control entries of segments.
    controls: String,
}

/// The statement that reads the index of a chain's segments.
const SEGMENTS: &str = "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.segment'
    AND name >= ?1 || '/' AND name < ?1 || '0' ORDER BY name";

impl SqliteSource {
    /// Opens a connection of its own: a long walk keeps no reading thread from others.
    fn open(path: &Path, chain: &ChainName) -> Result<Self> {
        let rows = format!("SELECT {} FROM onward_entries WHERE chain = ?1 AND seq >= ?2 ORDER BY seq", columns());
        // Few rows, which an index of their own finds.
        let controls = format!(
            "SELECT {} FROM onward_entries WHERE chain = ?1 AND seq > ?2 AND flags & 1 = 1
             AND (substr(kind, 1, 8) = 'segment.' OR substr(kind, 1, 7) = 'redact.') ORDER BY seq",
            columns()
        );
        Ok(Self { connection: connection::open_reader(path)?, path: path.to_owned(), chain: chain.clone(), rows, controls })
    }
}

impl Source for SqliteSource {
    fn read(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        // One short read transaction a window: the log never has to keep a whole walk's past.
        let tx = self.connection.unchecked_transaction().map_err(before_commit)?;
        let mut find = prepare(&tx, "SELECT id, origin FROM onward_chains WHERE name = ?1")?;
        let chain =
            one(&mut find, params![self.chain.as_str()], |row| Ok((col::<i64>(row, 0)?, bytes(row, 1)?.unwrap_or_default().to_vec())))?;
        let Some((id, origin)) = chain else { return Ok(None) };
        let mut find = prepare(&tx, "SELECT seq, hash, frontier, at FROM onward_heads WHERE chain = ?1")?;
        let head = one(&mut find, params![id], |row| {
            let column = |index| Ok::<_, Error>(bytes(row, index)?.unwrap_or_default().to_vec());
            Ok(HeadRow { seq: col(row, 0)?, hash: column(1)?, frontier: column(2)?, at: col(row, 3)? })
        })?;
        let mut find = prepare(&tx, &self.controls)?;
        let mut found = find.query(params![id, controls.after]).map_err(before_commit)?;
        while let Some(row) = found.next().map_err(before_commit)? {
            controls.rows.push(entry_row(row)?);
        }
        if let Some(index) = &mut controls.index {
            let mut find = prepare(&tx, SEGMENTS)?;
            let mut found = find.query(params![self.chain.as_str()]).map_err(before_commit)?;
            while let Some(row) = found.next().map_err(before_commit)? {
                index.push(bytes(row, 0)?.unwrap_or_default().to_vec());
            }
        }
        if from == i64::MAX {
            return Ok(Some(View { origin: String::from_utf8_lossy(&origin).into_owned(), head }));
        }
        let mut find = prepare(&tx, &self.rows)?;
        let mut found = find.query(params![id, from]).map_err(before_commit)?;
        while let Some(row) = found.next().map_err(before_commit)? {
            if each(entry_ref(row)?).is_break() {
                break;
            }
        }
        Ok(Some(View { origin: String::from_utf8_lossy(&origin).into_owned(), head }))
    }

    fn skeleton(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut find = prepare(
            &self.connection,
            "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.skeleton' AND name = ?1",
        )?;
        one(&mut find, params![name], |row| Ok(bytes(row, 0)?.unwrap_or_default().to_vec()))
    }

    fn personal(&self, from: i64, to: i64, each: &mut EachPersonal<'_>) -> Result<bool> {
        personal::each(&self.connection, &self.chain, (from, to), each).map(|()| true)
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Self::open(&self.path, &self.chain)?))
    }
}
