//! Compare-and-swap on a table that the application already has.
//!
//! Owns one column, one sequence and one trigger: the trigger gives every row a new version at each insert and update, whoever writes.
//! So code that has never heard of versions cannot change a row unseen, and a version never comes back, not even after the row was
//! deleted and made again (C4). Reads and plain writes of the application stay as they are; a write that is based on what was read goes
//! through [`OwnTable::update`] or [`OwnTable::delete`], which is one statement (C1) and tells missing and stale apart (C8).
//!
//! Refuses to be a mapper of rows to objects: rows come back as [`Row`]s of the client library.
//!
//! # Examples
//! ```no_run
//! # async fn example(mut client: tokio_postgres::Client) -> onward::Result<()> {
//! use onward::engine::postgres::{OwnTable, Swap};
//!
//! let projects = OwnTable::new("projects", &["id"])?;
//! projects.adopt(&mut client).await?; // once, in a migration; harmless to repeat
//!
//! let read = projects.read(&client, &[&42_i64]).await?.expect("there is such a project");
//! // ... think ...
//! match projects.update(&client, &[&42_i64], read.version, &[("name", &"new name")]).await? {
//!     Swap::Done(version) => println!("written as version {version}"),
//!     Swap::Stale(now) => println!("somebody was faster: version {}", now.version),
//!     Swap::Missing => println!("it is gone"),
//! }
//! # Ok(()) }
//! ```

use std::fmt::{self, Write};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Row};

use super::error;
use crate::model::Version;
use crate::{Code, Error, Kind, Result};

/// How long the change of the table may wait for those who use it, in milliseconds: longer would make all others wait behind it.
const ADOPT_WAIT_MS: u32 = 2_000;

/// Most bytes of a name in Postgres; a longer one would be cut and might name something else.
const NAME_BYTES: usize = 63;

/// A table of the application whose rows carry versions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OwnTable {
    /// Quoted, with its schema if one was named.
    table: String,
    key: Vec<Name>,
    column: Name,
}

/// A column's name as it is, which shows quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name(String);

/// A row as it was read, with the version that a later write names.
#[derive(Debug)]
pub struct Versioned {
    /// The version of the row.
    pub version: Version,
    /// Its columns, the version's own among them.
    pub row: Row,
}

/// What became of a conditional write.
#[derive(Debug)]
#[must_use]
pub enum Swap {
    /// It was applied; the row's new version, or for a delete the version that was deleted.
    Done(Version),
    /// Nothing was applied: the row as it is now, from the same statement.
    Stale(Box<Versioned>),
    /// Nothing was applied: there is no such row.
    Missing,
}

impl OwnTable {
    /// Names a table, `name` or `schema.name`, and the columns of a unique key.
    ///
    /// Names are taken as they are, with their case. The version's column is `version` unless [`OwnTable::with_column`] says otherwise.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: a name is empty, longer than 63 bytes, or holds a NUL or more than one dot; no key column.
    pub fn new(table: &str, key: &[&str]) -> Result<Self> {
        if key.is_empty() {
            return Err(Error::invalid("a table of one's own needs the columns of a unique key"));
        }
        let table = match table.split_once('.') {
            Some((schema, bare)) => format!("{}.{}", Name::new(schema)?, Name::new(bare)?),
            None => Name::new(table)?.to_string(),
        };
        Ok(Self { table, key: key.iter().map(|column| Name::new(column)).collect::<Result<_>>()?, column: Name("version".to_owned()) })
    }

    /// Keeps the version in another column.
    ///
    /// # Errors
    /// As [`OwnTable::new`].
    pub fn with_column(mut self, column: &str) -> Result<Self> {
        self.column = Name::new(column)?;
        Ok(self)
    }

    /// Gives the table its version column, with version 1 for the rows that are there, and the trigger that moves it.
    ///
    /// One transaction; the column's default fills existing rows without rewriting them. It waits at most 2 s for those who use the
    /// table, since everybody else waits behind it. A column of that name that is there already must be `bigint NOT NULL`; its values
    /// are kept, and versions go on above the greatest. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the key has no unique index, or the column is of another type. [`Kind::Overloaded`]: the table is in use; try
    /// again. [`Kind::NotFound`]: there is no such table. [`Kind::Backend`]: see the effect.
    ///
    /// # Cancel safety
    /// A dropped call leaves everything or nothing of the change.
    pub async fn adopt(&self, client: &mut Client) -> Result<()> {
        let tx = client.transaction().await.map_err(error::before_commit)?;
        tx.batch_execute(&format!("SET LOCAL lock_timeout = {ADOPT_WAIT_MS}")).await.map_err(error::before_commit)?;
        let (table, column) = (&self.table, &self.column);
        let place =
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
        let Some(place) = tx.query_opt(place, &[table]).await.map_err(error::before_commit)? else {
            return Err(Error::new(Kind::NotFound, Code::NotFound, "there is no such table"));
        };
        let (schema, bare): (String, String) = (place.get(0), place.get(1));
        // Named with their schema: a session with another search path writes, too.
        let beside = |what: &str| Ok::<_, Error>(format!("{}.{}", Name(schema.clone()), Name::new(&format!("{bare}_{what}"))?));
        // Two who adopt at once: the second finds it done.
        tx.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.map_err(error::before_commit)?;
        self.check_key(&tx).await?;
        tx.batch_execute(&format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} bigint NOT NULL DEFAULT 1"))
            .await
            .map_err(error::before_commit)?;
        self.check_column(&tx).await?;

        let (sequence, function) = (beside("versions")?, beside("move_version")?);
        let literal = sequence.replace('\'', "''");
        let newest = format!("SELECT setval('{literal}', greatest((SELECT max({column}) FROM {table}), 1))");
        let fresh = tx.query_one("SELECT to_regclass($1) IS NULL", &[&sequence]).await.map_err(error::before_commit)?;
        if fresh.get::<_, bool>(0) {
            tx.batch_execute(&format!("CREATE SEQUENCE {sequence} OWNED BY {table}.{column}; {newest}"))
                .await
                .map_err(error::before_commit)?;
        }
        tx.batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $onward$
             BEGIN NEW.{column} := nextval('{literal}'); RETURN NEW; END $onward$;
             CREATE OR REPLACE TRIGGER onward_version BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
        ))
        .await
        .map_err(error::before_commit)?;
        tx.commit().await.map_err(error::sent)
    }

    /// Reads a row and its version.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: not one value a key column, or of the wrong type. [`Kind::Backend`]: the database failed.
    pub async fn read(&self, client: &impl GenericClient, key: &[&(dyn ToSql + Sync)]) -> Result<Option<Versioned>> {
        self.check_values(key)?;
        let statement = format!("SELECT * FROM {} WHERE {}", self.table, self.is_key(1));
        let row = client.query_opt(&statement, key).await.map_err(error::before_commit)?;
        row.map(|row| Ok(Versioned { version: self.version_of(&row)?, row })).transpose()
    }

    /// Changes columns of a row if it still has this version, in one statement.
    ///
    /// `client` may be a transaction of the caller's: the change then lands with it, and the row is locked until its end. The isolation
    /// has to be READ COMMITTED, the default; under a stricter one a lost race is the database's serialization failure.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: no column to change, the version's column or one column twice, not one value a key column, a value of the
    /// wrong type. [`Kind::Backend`]: the database failed; outside a transaction of the caller's look at the effect.
    ///
    /// # Cancel safety
    /// A dropped call may have been applied.
    pub async fn update(
        &self,
        client: &impl GenericClient,
        key: &[&(dyn ToSql + Sync)],
        version: Version,
        columns: &[(&str, &(dyn ToSql + Sync))],
    ) -> Result<Swap> {
        self.check_values(key)?;
        if columns.is_empty() {
            return Err(Error::invalid("no column is changed"));
        }
        let mut sets = Vec::with_capacity(columns.len());
        for (n, (column, _)) in columns.iter().enumerate() {
            let column = Name::new(column)?;
            if column == self.column || sets.iter().any(|(seen, _)| *seen == column) {
                return Err(Error::invalid("a column is changed twice, or it is the version's own"));
            }
            sets.push((column, key.len() + 2 + n));
        }
        let sets: Vec<_> = sets.iter().map(|(column, n)| format!("{column} = ${n}")).collect();
        let change = format!("UPDATE {} AS t SET {} FROM held WHERE {}", self.table, sets.join(", "), self.is_held(key.len() + 1));
        let values: Vec<_> = columns.iter().map(|(_, value)| *value).collect();
        self.swap(client, &change, key, version, &values).await
    }

    /// Deletes a row if it still has this version, in one statement.
    ///
    /// As [`OwnTable::update`] otherwise.
    ///
    /// # Errors
    /// As [`OwnTable::update`].
    ///
    /// # Cancel safety
    /// A dropped call may have been applied.
    pub async fn delete(&self, client: &impl GenericClient, key: &[&(dyn ToSql + Sync)], version: Version) -> Result<Swap> {
        self.check_values(key)?;
        let change = format!("DELETE FROM {} AS t USING held WHERE {}", self.table, self.is_held(key.len() + 1));
        self.swap(client, &change, key, version, &[]).await
    }

    /// Locks the row as it is now, then changes it if it has the version: what it returns cannot be older than its verdict.
    async fn swap(
        &self,
        client: &impl GenericClient,
        change: &str,
        key: &[&(dyn ToSql + Sync)],
        version: Version,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Swap> {
        let statement = format!(
            "WITH held AS MATERIALIZED (SELECT * FROM {table} WHERE {is_key} FOR UPDATE),
                  done AS ({change} RETURNING t.{column} AS onward_written)
             SELECT held.*, done.onward_written FROM held LEFT JOIN done ON true",
            table = self.table,
            is_key = self.is_key(1),
            column = self.column,
        );
        let Ok(expected) = i64::try_from(version.get()) else {
            return Err(Error::invalid("a version is at most 2^63 - 1"));
        };
        let mut all: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(key.len() + 1 + values.len());
        all.extend(key);
        all.push(&expected);
        all.extend(values);
        let Some(row) = client.query_opt(&statement, &all).await.map_err(error::sent)? else {
            return Ok(Swap::Missing);
        };
        match row.try_get::<_, Option<i64>>("onward_written").map_err(error::before_commit)? {
            Some(written) => Ok(Swap::Done(number(written)?)),
            None => Ok(Swap::Stale(Box::new(Versioned { version: self.version_of(&row)?, row }))),
        }
    }

    fn is_key(&self, first: usize) -> String {
        let terms: Vec<_> = self.key.iter().enumerate().map(|(n, column)| format!("{column} = ${}", first + n)).collect();
        terms.join(" AND ")
    }

    fn is_held(&self, version: usize) -> String {
        let mut terms = format!("held.{} = ${version}", self.column);
        for column in &self.key {
            let _ = write!(terms, " AND t.{column} = held.{column}");
        }
        terms
    }

    fn version_of(&self, row: &Row) -> Result<Version> {
        match row.try_get::<_, i64>(self.column.0.as_str()) {
            Ok(version) => number(version),
            Err(source) => Err(Error::invalid("the table has no version column: adopt it first").with_source(source)),
        }
    }

    fn check_values(&self, key: &[&(dyn ToSql + Sync)]) -> Result<()> {
        if key.len() == self.key.len() {
            return Ok(());
        }
        Err(Error::invalid("one value a key column"))
    }

    /// Without a unique key, one write could meet many rows.
    async fn check_key(&self, client: &impl GenericClient) -> Result<()> {
        let wanted: Vec<&str> = self.key.iter().map(|column| column.0.as_str()).collect();
        let statement = "SELECT EXISTS (
             SELECT FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                AND i.indexprs IS NULL AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text)
                     FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k)
                    = (SELECT array_agg(c ORDER BY c) FROM unnest($2::text[]) c))";
        let found = client.query_one(statement, &[&self.table, &wanted]).await.map_err(error::before_commit)?;
        if found.get::<_, bool>(0) { Ok(()) } else { Err(Error::invalid("the key columns have no unique index of their own")) }
    }

    async fn check_column(&self, client: &impl GenericClient) -> Result<()> {
        let statement =
            "SELECT atttypid = 'bigint'::regtype AND attnotnull FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2";
        let fits = client.query_one(statement, &[&self.table, &self.column.0]).await.map_err(error::before_commit)?;
        if fits.get::<_, bool>(0) { Ok(()) } else { Err(Error::invalid("the version column is there already and not bigint NOT NULL")) }
    }
}

fn number(version: i64) -> Result<Version> {
    u64::try_from(version).ok().and_then(|version| Version::new(version).ok()).ok_or_else(|| Error::integrity("a row's version is below 1"))
}

impl Name {
    fn new(name: &str) -> Result<Self> {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains(['\0', '.']) {
            return Err(Error::invalid("a name in Postgres has 1 to 63 bytes, no dot and no NUL"));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for Name {
    /// Quoted: it means itself and nothing else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}
