//! The store in a Postgres database: reads rows, nothing else. Every answer comes from one snapshot.

use std::path::PathBuf;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::{COMMIT, Lent, Param, Pool, SNAPSHOT, Server, Step, read};
use super::error::before_commit;
use super::listen::Ear;
use super::migrate::{self, State};
use super::rows::{self, META, col, damaged};
use super::writer::PostgresWriter;
use super::{CHANNEL, check, heard, inspect, list, log};
use crate::commit::Past;
use crate::commit::engine::{At, Changes, CommitEngine, Heard, Listed, Remembered, Scan, StoreMeta, Writer};
use crate::model::{Fingerprint, Key, Object, RequestId, Revision};
use crate::observe::Finding;
use crate::time::{Clock, Timestamp};
use crate::{Error, Result};

/// A store in a Postgres database; clones share its connections.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    server: Server,
    pool: Pool,
    clock: Clock,
    ear: Ear<Heard>,
}

/// What a migration would do, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The schema that was found; `None`: the database has no store.
    pub found: Option<i32>,
    /// The schema that this library writes.
    pub wanted: i32,
    /// Whether the rows came from elsewhere, so that an epoch is drawn.
    pub restored: bool,
}

impl PostgresStore {
    /// Opens the store of a database, and makes or migrates it if it must be; inside a Tokio runtime, which then drives its connections.
    ///
    /// Any number of processes may do so at once.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the URL, or what the server says of role, password or database. `Unsupported`: the schema is
    /// newer than this library, or it must be made and the role may not. `Backend`: the server is away.
    pub async fn open(url: &str, clock: &Clock) -> Result<Self> {
        let store = Self::at(url, clock)?;
        migrate::ready(&store.server, clock).await?;
        Ok(store)
    }

    /// As [`PostgresStore::open`], but refuses a database that has no store, instead of making one.
    ///
    /// # Errors
    /// As [`PostgresStore::open`]; [`Kind::NotFound`](crate::Kind::NotFound): there is none.
    pub async fn open_existing(url: &str, clock: &Clock) -> Result<Self> {
        match Self::plan(url, clock).await?.found {
            Some(_) => Self::open(url, clock).await,
            None => Err(Error::not_found("the database has no store")),
        }
    }

    /// Tells whether a URL is one of Postgres, well formed or not.
    pub fn is_meant(url: &str) -> bool {
        url.starts_with("postgres://") || url.starts_with("postgresql://")
    }

    /// Tells what opening the store would do to the schema; changes nothing.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn plan(url: &str, clock: &Clock) -> Result<Migration> {
        let client = Self::at(url, clock)?.direct().await?;
        let (found, restored) = match migrate::look(&client).await? {
            State::Empty => (None, false),
            State::At(found) => (Some(found), false),
            State::Restored => (Some(migrate::VERSION), true),
            State::Ready => (Some(migrate::VERSION), false),
        };
        Ok(Migration { found, wanted: migrate::VERSION, restored })
    }

    fn at(url: &str, clock: &Clock) -> Result<Self> {
        let (server, runtime) = (Server::at(url)?, Handle::current());
        let ear = Ear::at(server.clone(), runtime.clone(), CHANNEL, Heard::default(), heard);
        Ok(Self { pool: server.pool(runtime)?, ear, clock: clock.clone(), server })
    }

    /// Makes a connection that is not of the pool; it ends with the client.
    async fn direct(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = self.server.connect().await.map_err(before_commit)?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Lends a connection for a read of several exchanges.
    pub(super) async fn lend(&self) -> Result<Lent> {
        Lent::from(&self.pool).await
    }

    /// Reads the rows of one statement.
    pub(super) async fn select(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        Ok(read(&self.pool, &[Step::With(sql, params.to_vec())]).await?.pop().unwrap_or_default())
    }

    /// Reads the rows of one statement, and the facts of the same snapshot.
    pub(super) async fn select_with_facts(&self, sql: &str, params: &[Param<'_>]) -> Result<(Vec<Row>, StoreMeta)> {
        let facts = format!("SELECT {META} FROM onward_meta");
        let steps = [Step::Plain(SNAPSHOT), Step::With(&facts, Vec::new()), Step::With(sql, params.to_vec()), Step::Plain(COMMIT)];
        let mut answers = read(&self.pool, &steps).await?.into_iter().skip(1);
        let (meta, rows) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
        Ok((rows, facts_of(&meta)?))
    }

    async fn page(&self, scan: Scan) -> Result<Listed> {
        let lent = Lent::from(&self.pool).await?;
        let facts = format!("SELECT {META} FROM onward_meta");
        let meta = facts_of(&lent.ask(&[Step::Plain(SNAPSHOT), Step::With(&facts, Vec::new())]).await?.concat())?;
        let at = scan.at.unwrap_or(meta.revision);
        let (end, limit) = (list::end(&scan.prefix), rows::signed(list::scanned(&scan) as u64 + 1)?);
        let (revision, later) = (rows::signed(at.get())?, log::first_row(at.get().saturating_add(1))?);
        let (key, value) = scan.selector.first_equal().unzip();
        let params: [Param<'_>; 10] = [
            (&scan.namespace, Type::TEXT),
            (&scan.kind, Type::TEXT),
            (&scan.after, Type::TEXT),
            (&scan.prefix, Type::TEXT),
            (&end, Type::TEXT),
            (&limit, Type::INT8),
            (&revision, Type::INT8),
            (&later, Type::INT8),
            (&key, Type::TEXT),
            (&value, Type::TEXT),
        ];
        let found = lent.ask(&[Step::With(&list::names_sql(key.is_some()), params.to_vec())]).await?.concat();
        let page = list::choose(&found, &scan)?;
        let params: [Param<'_>; 4] =
            [(&scan.namespace, Type::TEXT), (&scan.kind, Type::TEXT), (&page.names, Type::TEXT_ARRAY), (&page.rows, Type::INT8_ARRAY)];
        let found = lent.ask(&[Step::With(&list::objects_sql(), params.to_vec()), Step::Plain(COMMIT)]).await?.concat();
        lent.done();
        let items =
            found.iter().map(|row| rows::state(row, rows::key(row, 0)?, 3)?.ok_or_else(|| damaged("an object without an identity")));
        Ok(Listed { items: items.collect::<Result<_>>()?, meta, next: page.next })
    }

    async fn log(&self, sql: &str, after: Revision, limit: usize) -> Result<Changes> {
        let (from, to) = log::range(after, limit)?;
        let (rows, meta) = self.select_with_facts(sql, &[(&from, Type::INT8), (&to, Type::INT8)]).await?;
        Ok(Changes { records: log::records(&rows)?, meta })
    }
}

/// Reads the facts.
pub(super) fn facts_of(rows: &[Row]) -> Result<StoreMeta> {
    rows.first().ok_or_else(|| Error::integrity("the facts of the store are gone")).and_then(rows::meta)
}

/// Reads an answer from fingerprint, receipt, expires_at.
pub(super) fn remembered(row: &Row, from: usize) -> Result<Remembered> {
    let print: &[u8] = col(row, from)?;
    Ok(Remembered {
        fingerprint: Fingerprint(print.try_into().map_err(damaged)?),
        receipt: Arc::new(serde_json::from_str(col(row, from + 1)?).map_err(damaged)?),
        expires_at: Timestamp::from_micros(col(row, from + 2)?),
    })
}

impl CommitEngine for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(PostgresWriter::new(self.server.clone(), self.clock.clone())))
    }

    fn heard(&self) -> Option<watch::Receiver<Heard>> {
        Some(self.ear.listen())
    }

    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>> {
        Box::pin(async move { facts_of(&self.select(&format!("SELECT {META} FROM onward_meta"), &[]).await?) })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move { inspect::inspect(&self.direct().await?).await })
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(check::check(self))
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>> {
        Box::pin(async move {
            let (namespace, kind, name) = (key.namespace(), key.kind(), key.name());
            let sql = format!("SELECT {} FROM onward_objects AS o WHERE namespace = $1 AND kind = $2 AND name = $3", log::state("o"));
            let params: [Param<'_>; 3] = [(&namespace, Type::TEXT), (&kind, Type::TEXT), (&name, Type::TEXT)];
            let rows = read(&self.pool, &[Step::Often(&sql, params.into())]).await?.concat();
            Ok(rows.first().map(|row| rows::state(row, key.clone(), 0)).transpose()?.flatten())
        })
    }

    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>> {
        Box::pin(self.page(scan))
    }

    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        Box::pin(async move {
            let (namespace, kind) = after.unwrap_or_default();
            let first = |of: &str, only: &str| {
                format!("(SELECT namespace, kind FROM {of} WHERE (namespace, kind) > ($1, $2) {only} ORDER BY namespace, kind LIMIT 1)")
            };
            let sql =
                format!("{} UNION {} ORDER BY 1, 2 LIMIT 1", first("onward_objects", ""), first("onward_changes", "AND name IS NOT NULL"));
            let rows = self.select(&sql, &[(&namespace, Type::TEXT), (&kind, Type::TEXT)]).await?;
            rows.first().map(|row| Ok((col(row, 0)?, col(row, 1)?))).transpose()
        })
    }

    fn get_at<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>> {
        Box::pin(async move {
            let (namespace, kind, name) = (key.namespace(), key.kind(), key.name());
            let moment = match at {
                At::Revision(revision) => log::first_row(revision.get().saturating_add(1))? - 1,
                At::Version(version) => rows::signed(version.get())?,
            };
            let params: [Param<'_>; 4] = [(&namespace, Type::TEXT), (&kind, Type::TEXT), (&name, Type::TEXT), (&moment, Type::INT8)];
            let (rows, meta) = self.select_with_facts(&log::state_at_sql(at), &params).await?;
            Ok((log::state_at(&rows, key, at)?, meta))
        })
    }

    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>> {
        Box::pin(async move {
            let (namespace, kind, name) = (key.namespace(), key.kind(), key.name());
            let end = before.map_or(Ok(i64::MAX), |before| log::first_row(before.get()))?;
            let limit = rows::signed(limit as u64)?;
            let params: [Param<'_>; 5] =
                [(&namespace, Type::TEXT), (&kind, Type::TEXT), (&name, Type::TEXT), (&end, Type::INT8), (&limit, Type::INT8)];
            let (rows, meta) = self.select_with_facts(&log::history_sql(), &params).await?;
            Ok((log::history(&rows)?, meta))
        })
    }

    fn backup(&self, _: PathBuf) -> BoxFuture<'_, Result<()>> {
        let advice =
            "a store in Postgres is backed up with the tools of Postgres, such as pg_dump: a copy notices by itself that it is one";
        Box::pin(std::future::ready(Err(Error::unsupported(advice))))
    }

    fn backup_file(&self) -> BoxFuture<'_, Result<std::fs::File>> {
        Box::pin(async move { self.backup(PathBuf::new()).await.and(Err(Error::unsupported("a store in Postgres has no file"))) })
    }

    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>> {
        Box::pin(async move {
            let id = id.as_str();
            let rows =
                self.select("SELECT fingerprint, receipt, expires_at FROM onward_requests WHERE id = $1", &[(&id, Type::TEXT)]).await?;
            rows.first().map(|row| remembered(row, 0)).transpose()
        })
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        Box::pin(async move { self.log(&log::read_sql(), after, limit).await })
    }

    fn notes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        Box::pin(self.log(log::NOTES, after, limit))
    }
}
