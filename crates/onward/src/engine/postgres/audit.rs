//! The audit trail in a Postgres database: reads only; appends are rows of a commit's plan.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Row as Found};

use super::commit::PostgresStore;
use super::connection::{COMMIT, Lent, Param, SNAPSHOT, Server, Step, ask, in_time};
use super::error::before_commit;
use super::personal::read_sql;
use super::rows::{self, col, damaged, signed, unsigned};
use crate::audit::Order;
use crate::audit::engine::{AuditEngine, Batch, Batched, Load, Loaded, Moved, PersonalWanted, Scrubbed, Select, Selected};
use crate::audit::verify::{Controls, EachPersonal, HeadRow, Source, View};
use crate::model::limits::PAYLOAD_BYTES;
use crate::model::{ChainName, Hash, Head, KeptPersonal, RowRef, Sealed, Seq};
use crate::{Error, Result};

/// How many rows a walk holds at a time.
const ROWS: usize = 128;

/// The columns of an entry, in the order that [`entry_ref`] reads. A planted giant is read no further than it takes to refuse it.
fn columns() -> String {
    let most = PAYLOAD_BYTES + 1;
    format!("seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, substr(data, 1, {most}), pii, flags")
}

/// Looks at a row as it stands, also one that no writer of ours could have left.
fn entry_ref(row: &Found) -> Result<RowRef<'_>> {
    // A NULL where none belongs is read as empty: the hash will not fit it.
    fn needed<'a, T: FromSql<'a> + Default>(row: &'a Found, index: usize) -> Result<T> {
        Ok(col::<Option<T>>(row, index)?.unwrap_or_default())
    }
    let text = |index| Ok::<_, Error>(needed::<&str>(row, index)?.as_bytes());
    Ok(RowRef {
        seq: needed(row, 0)?,
        prev: needed(row, 1)?,
        hash: needed(row, 2)?,
        mac: col(row, 3)?,
        kid: text(4)?,
        at: needed(row, 5)?,
        event_id: text(6)?,
        kind: text(7)?,
        actor: col::<Option<&str>>(row, 8)?.map(str::as_bytes),
        resource: col::<Option<&str>>(row, 9)?.map(str::as_bytes),
        data: needed(row, 10)?,
        pii: col(row, 11)?,
        flags: needed(row, 12)?,
    })
}

fn sealed(row: &Found) -> Result<Sealed> {
    Sealed::try_from(entry_ref(row)?.to_row())
}

const CHAIN: &str = "(SELECT id FROM onward_chains WHERE name = $1)";
const HEAD: &str =
    "SELECT c.origin, h.seq, h.hash, h.frontier, h.at, c.name FROM onward_chains AS c JOIN onward_heads AS h ON h.chain = c.id";

impl AuditEngine for PostgresStore {
    fn chains<'a>(&'a self, after: Option<&'a ChainName>, limit: usize) -> BoxFuture<'a, Result<Vec<(ChainName, Head)>>> {
        Box::pin(async move {
            let (after, limit) = (after.map_or("", ChainName::as_str), signed(limit as u64)?);
            let sql = format!("{HEAD} WHERE c.name > $1 ORDER BY c.name LIMIT $2");
            let found = self.select(&sql, &[(&after, Type::TEXT), (&limit, Type::INT8)]).await?;
            found.iter().map(|row| Ok((ChainName::new(col(row, 5)?).map_err(damaged)?, rows::head(row)?))).collect()
        })
    }

    fn head<'a>(&'a self, chain: &'a ChainName) -> BoxFuture<'a, Result<Option<Head>>> {
        Box::pin(async move {
            let found = self.select(&format!("{HEAD} WHERE c.name = $1"), &[(&chain.as_str(), Type::TEXT)]).await?;
            found.first().map(rows::head).transpose()
        })
    }

    fn entry<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<Sealed>>> {
        Box::pin(async move {
            let seq = signed(seq.get())?;
            let sql = format!("SELECT {} FROM onward_entries WHERE chain = {CHAIN} AND seq = $2", columns());
            let found = self.select(&sql, &[(&chain.as_str(), Type::TEXT), (&seq, Type::INT8)]).await?;
            found.first().map(sealed).transpose()
        })
    }

    fn select<'a>(&'a self, chain: &'a ChainName, select: &'a Select) -> BoxFuture<'a, Result<Option<Selected>>> {
        Box::pin(page(self, chain, select))
    }

    fn hashes<'a>(&'a self, chain: &'a ChainName, from: u64, to: u64) -> BoxFuture<'a, Result<Vec<(u64, Hash)>>> {
        Box::pin(async move {
            let (from, to) = (signed(from)?, signed(to)?);
            let sql = format!("SELECT seq, hash FROM onward_entries WHERE chain = {CHAIN} AND seq >= $2 AND seq <= $3 ORDER BY seq");
            let found = self.select(&sql, &[(&chain.as_str(), Type::TEXT), (&from, Type::INT8), (&to, Type::INT8)]).await?;
            found.iter().map(|row| Ok((rows::number(row, 0)?, rows::hash(row, 1)?))).collect()
        })
    }

    fn personal<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<KeptPersonal>>> {
        Box::pin(self.read_personal(chain, seq))
    }

    fn find_personal<'a>(&'a self, chain: &'a ChainName, wanted: &'a PersonalWanted) -> BoxFuture<'a, Result<(Vec<Seq>, Option<Seq>)>> {
        Box::pin(self.find_seqs(chain, wanted))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed>> {
        Box::pin(self.scrub_now())
    }

    /// Nobody waits for rows that go, but for a hold; a commit waits until the log has all the rows that came before it.
    fn batch_time(&self, rows: &Moved) -> Duration {
        Duration::from_millis(if matches!(rows, Moved::Out(_)) { 50 } else { 10 })
    }

    fn move_rows(&self, batch: Batch) -> BoxFuture<'_, Result<Batched>> {
        Box::pin(async move { self.move_now(&batch).await })
    }

    fn load(&self, load: Load) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(self.load_now(load))
    }

    fn source(&self, chain: &ChainName) -> Result<Box<dyn Source>> {
        Ok(Box::new(PostgresSource::open(self.server().clone(), chain.clone())?))
    }
}

async fn page(store: &PostgresStore, chain: &ChainName, select: &Select) -> Result<Option<Selected>> {
    let lent = store.lend().await?;
    let name = chain.as_str();
    let id = Step::With("SELECT id FROM onward_chains WHERE name = $1", vec![(&name, Type::TEXT)]);
    let found = lent.ask(&[Step::Plain(SNAPSHOT), id]).await?.concat();
    let selected = match found.first() {
        Some(row) => Some(read_page(&lent, col(row, 0)?, select).await?),
        None => None,
    };
    lent.ask(&[Step::Plain(COMMIT)]).await?;
    lent.done();
    Ok(selected)
}

async fn read_page(lent: &Lent, chain: i64, select: &Select) -> Result<Selected> {
    let (mut from, mut to) = (signed(select.from)?, signed(select.to)?);
    if let Some(since) = select.since {
        from = from.max(first_since(lent, chain, since.as_micros()).await?);
    }
    if let Some(until) = select.until.and_then(|until| until.as_micros().checked_add(1)) {
        to = to.min(first_since(lent, chain, until).await? - 1);
    }
    let order = match select.order {
        Order::Ascending => "",
        Order::Descending => "DESC",
    };
    // No index knows kinds, actors and resources: each would take every append to one more page.
    let stop = if select.is_narrow() { end_of_look(lent, chain, from, to, select.scan, order).await? } else { None };
    match (stop, select.order) {
        (Some(stop), Order::Ascending) => to = stop,
        (Some(stop), Order::Descending) => from = stop,
        (None, _) => {}
    }
    let limit = signed(select.limit as u64 + 1)?;
    let mut params: Vec<Param<'_>> = vec![(&chain, Type::INT8), (&from, Type::INT8), (&to, Type::INT8), (&limit, Type::INT8)];
    let mut only = String::new();
    for (column, wanted) in [("kind", &select.kind), ("actor", &select.actor), ("resource", &select.resource)] {
        if let Some(wanted) = wanted {
            params.push((wanted, Type::TEXT));
            // Writing into a string cannot fail.
            let _ = write!(only, " AND {column} = ${}", params.len());
        }
    }
    // One row more than the page holds tells whether more follow. Those behind the page's bytes are not sent at all (C7).
    let sql = format!(
        "SELECT {}, candidates FROM (SELECT *, count(*) OVER () AS candidates,
             sum(octet_length(data)) OVER (ORDER BY seq {order}) - octet_length(data) AS passed
           FROM (SELECT * FROM onward_entries WHERE chain = $1 AND seq >= $2 AND seq <= $3{only} ORDER BY seq {order} LIMIT $4) AS first) AS page
         WHERE passed < {} ORDER BY seq {order}",
        columns(),
        select.bytes,
    );
    let found = lent.ask(&[Step::With(&sql, params)]).await?.concat();
    let candidates: i64 = found.first().map_or(Ok(0), |row| col(row, 13))?;
    let items: Vec<_> = found.iter().take(select.limit).map(sealed).collect::<Result<_>>()?;
    if candidates > signed(items.len() as u64)? {
        return Ok(Selected { next: items.last().map(|last: &Sealed| last.seq), items });
    }
    let next = stop.map(|stop| Seq::new(unsigned(stop)?).map_err(damaged)).transpose()?;
    Ok(Selected { items, next })
}

/// Finds the last position that a page may look at, if it ends before the bounds do.
async fn end_of_look(lent: &Lent, chain: i64, from: i64, to: i64, scan: usize, order: &str) -> Result<Option<i64>> {
    let scan = signed(scan as u64)?;
    let sql = format!(
        "SELECT seq FROM onward_entries WHERE chain = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq {order} OFFSET greatest($4 - 1, 0) LIMIT 2"
    );
    let params = vec![(&chain as _, Type::INT8), (&from as _, Type::INT8), (&to as _, Type::INT8), (&scan as _, Type::INT8)];
    let found = lent.ask(&[Step::With(&sql, params)]).await?.concat();
    // The second tells that there is something behind the first.
    if found.len() < 2 { Ok(None) } else { found.first().map(|row| col(row, 0)).transpose() }
}

/// Finds the first position whose time is not before `at`, by halving: time never falls in a chain.
async fn first_since(lent: &Lent, chain: i64, at: i64) -> Result<i64> {
    let number = async |sql: &str, params: Vec<Param<'_>>| {
        let found = lent.ask(&[Step::With(sql, params)]).await?.concat();
        found.first().map(|row| col::<Option<i64>>(row, 0)).transpose().map(Option::flatten)
    };
    let last = number("SELECT max(seq) FROM onward_entries WHERE chain = $1", vec![(&chain, Type::INT8)]).await?;
    let (mut low, mut high) = (1, last.unwrap_or(0) + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let sql = "SELECT at FROM onward_entries WHERE chain = $1 AND seq >= $2 ORDER BY seq LIMIT 1";
        match number(sql, vec![(&chain, Type::INT8), (&middle, Type::INT8)]).await? {
            Some(time) if time < at => low = middle + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// A connection of its own: a long walk keeps no connection from others.
struct PostgresSource {
    server: Server,
    chain: ChainName,
    runtime: Runtime,
    client: Client,
}

/// The statement that reads the index of a chain's segments.
const SEGMENTS: &str = "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.segment'
       AND name >= $1 || '/' AND name < $1 || '0' ORDER BY name";

impl PostgresSource {
    fn open(server: Server, chain: ChainName) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::unavailable("no runtime for a verification").with_source(e))?;
        let client = runtime.block_on(async {
            let made = in_time(server.connect()).await?;
            let (client, connection) = made.map_err(before_commit)?;
            tokio::spawn(connection);
            Ok::<_, Error>(client)
        })?;
        Ok(Self { server, chain, runtime, client })
    }

    fn ask(&self, steps: &[Step<'_>]) -> Result<Vec<Found>> {
        Ok(self.runtime.block_on(ask(&self.client, steps))?.concat())
    }

    fn view(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let name = self.chain.as_str();
        let chain = self
            .ask(&[Step::Plain(SNAPSHOT), Step::With("SELECT id, origin FROM onward_chains WHERE name = $1", vec![(&name, Type::TEXT)])])?;
        let Some(chain) = chain.first() else { return Ok(None) };
        let (id, origin): (i64, Option<&str>) = (col(chain, 0)?, col(chain, 1)?);
        let head = self.ask(&[Step::With("SELECT seq, hash, frontier, at FROM onward_heads WHERE chain = $1", vec![(&id, Type::INT8)])])?;
        let head = head.first().map(|row| {
            let column = |index| Ok::<_, Error>(col::<Option<Vec<u8>>>(row, index)?.unwrap_or_default());
            Ok::<_, Error>(HeadRow { seq: col(row, 0)?, hash: column(1)?, frontier: column(2)?, at: col(row, 3)? })
        });
        let view = View { origin: origin.unwrap_or_default().to_owned(), head: head.transpose()? };
        // Few rows, which an index of their own finds.
        let pinned = format!(
            "SELECT {} FROM onward_entries WHERE chain = $1 AND seq > $2 AND flags & 1 = 1
             AND (substr(kind, 1, 8) = 'segment.' OR substr(kind, 1, 7) = 'redact.') ORDER BY seq",
            columns()
        );
        for row in self.ask(&[Step::With(&pinned, vec![(&id, Type::INT8), (&controls.after, Type::INT8)])])? {
            controls.rows.push(entry_ref(&row)?.to_row());
        }
        if let Some(index) = &mut controls.index {
            for row in self.ask(&[Step::With(SEGMENTS, vec![(&name, Type::TEXT)])])? {
                index.push(col::<Option<Vec<u8>>>(&row, 0)?.unwrap_or_default());
            }
        }
        if from == i64::MAX {
            return Ok(Some(view));
        }
        // A cursor, so that two rows of one position, which no writer of ours leaves, are both seen.
        let walk = format!(
            "DECLARE walk NO SCROLL CURSOR FOR SELECT {} FROM onward_entries WHERE chain = {id} AND seq >= {from} ORDER BY seq",
            columns()
        );
        self.ask(&[Step::Plain(&walk)])?;
        let fetch = format!("FETCH {ROWS} FROM walk");
        loop {
            let rows = self.ask(&[Step::With(&fetch, Vec::new())])?;
            for row in &rows {
                if each(entry_ref(row)?).is_break() {
                    return Ok(Some(view));
                }
            }
            if rows.len() < ROWS {
                return Ok(Some(view));
            }
        }
    }
}

impl Source for PostgresSource {
    fn read(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let view = self.view(from, controls, each);
        // Whatever it came to, the snapshot ends.
        let ended = self.ask(&[Step::Plain("ROLLBACK")]);
        view.and_then(|view| ended.map(|_| view))
    }

    fn skeleton(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT payload FROM onward_objects WHERE namespace = 'default' AND kind = 'onward.skeleton' AND name = $1";
        let found = self.ask(&[Step::With(sql, vec![(&name, Type::TEXT)])])?;
        found.first().map(|row| Ok(col::<Option<Vec<u8>>>(row, 0)?.unwrap_or_default())).transpose()
    }

    fn personal(&self, from: i64, to: i64, each: &mut EachPersonal<'_>) -> Result<bool> {
        let (name, page) = (self.chain.as_str(), signed(ROWS as u64)?);
        // Not of the rows' snapshot: one in which values stood on the other shelf would find neither there nor here.
        let sql = read_sql("seq >= $2 AND seq <= $3 ORDER BY seq LIMIT $4");
        let mut first = from;
        loop {
            let rows =
                self.ask(&[Step::With(&sql, vec![(&name, Type::TEXT), (&first, Type::INT8), (&to, Type::INT8), (&page, Type::INT8)])])?;
            for row in &rows {
                let bytes = |index| Ok::<_, Error>(col::<Option<&[u8]>>(row, index)?.unwrap_or_default());
                each(col(row, 0)?, bytes(1)?, bytes(2)?);
            }
            let last = rows.last().filter(|_| rows.len() == ROWS).map(|row| col::<i64>(row, 0)).transpose()?;
            match last.and_then(|last| last.checked_add(1)) {
                Some(next) => first = next,
                None => return Ok(true),
            }
        }
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Self::open(self.server.clone(), self.chain.clone())?))
    }
}
