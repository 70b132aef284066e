//! The schema of a database: numbered steps, forward only, under an advisory lock, so that any number of replicas may start at once.
//!
//! All steps of an opening are one transaction: a replica that dies half-way leaves the database as it was, and whoever waited for the
//! lock finds the work done. A running writer looks at the number in each of its transactions (C9).
//!
//! Rows that came from elsewhere, out of a dump, a copy of the files or a standby that took over, know it by their home. What was written
//! after the copy was made is lost with it, but some readers have seen it. So no number of that time is ever used again (C4): versions,
//! revisions and fencing tokens jump, and cursors of the old epoch are refused.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::connection::{Param, Server, Step, ask};
use super::error::before_commit;
use super::rows::{col, number, signed};
use crate::model::{Epoch, above};
use crate::time::Clock;
use crate::{Error, Result, random};

/// What leads from each version to the next; the first makes version 1 of an empty database. What was released never changes.
const STEPS: &[&str] =
    &[include_str!("schema.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql"), include_str!("schema_4.sql")];
/// The version that this library reads and writes.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// Names the advisory lock of migrations: "onward" and a number.
const LOCK: i64 = 0x006f_6e77_6172_6401;
/// How far numbers jump at least after a restore: more than a store writes between a copy and its restore.
const JUMP: u64 = 1 << 32;

/// The server, its life between two promotions, the database and the table, as text: none of them survives a copy to elsewhere.
const HOME: &str = "(SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '/' || \
     (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || 'onward_meta'::regclass::oid";

/// Whether there is a store. It reads the catalogue: a session remembers that a name was not there, and forgets that only when it comes to
/// another table, not while it waits for the advisory lock.
const THERE: &str = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'onward_meta' AND pg_table_is_visible(oid)),
     current_setting('server_encoding')";

/// Whether the database is as this library wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no store.
    Empty,
    /// It has the schema of this number.
    At(i32),
    /// It has the right schema, and its rows came from elsewhere.
    Restored,
    /// Nothing is to be done.
    Ready,
}

/// Looks at the database.
pub(super) async fn look(client: &Client) -> Result<State> {
    let there = one(client, THERE).await?;
    if col::<&str>(&there, 1)? != "UTF8" {
        return Err(Error::unsupported("the encoding of the database is not UTF8"));
    }
    if !col::<bool>(&there, 0)? {
        return Ok(State::Empty);
    }
    let found = one(client, &format!("SELECT schema_version, home = {HOME} FROM onward_meta")).await?;
    Ok(match col::<i32>(&found, 0)? {
        VERSION if col::<bool>(&found, 1)? => State::Ready,
        VERSION => State::Restored,
        other => State::At(other),
    })
}

/// Looks at a database and brings it to this version if it is not; inside a Tokio runtime.
pub(super) async fn ready(server: &Server, clock: &Clock) -> Result<()> {
    let (client, connection) = server.connect().await.map_err(before_commit)?;
    tokio::spawn(connection);
    if look(&client).await? == State::Ready { Ok(()) } else { apply(&client, clock).await }
}

/// Brings the database to this version, and makes what was restored a store of its own.
///
/// # Errors
/// [`Kind::Unsupported`](crate::Kind::Unsupported): the schema is newer, or the role may not change it. The database is as it was.
pub(super) async fn apply(client: &Client, clock: &Clock) -> Result<()> {
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = 60000";
    let wait = format!("SELECT 1 FROM (SELECT pg_advisory_xact_lock({LOCK})) AS held");
    // Waiting for another replica takes as long as its migration does.
    for sql in [begin, &wait] {
        client.batch_execute(sql).await.map_err(before_commit)?;
    }
    let done = change(client, clock).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = ask(client, &[Step::Plain(end)]).await;
    done.and(ended.map(|_| ()))
}

async fn change(client: &Client, clock: &Clock) -> Result<()> {
    let found = match look(client).await? {
        State::Ready => return Ok(()),
        State::Restored => return restore(client, clock).await,
        State::Empty => 0,
        State::At(found) if found > VERSION => return Err(other(found)),
        State::At(found) => found,
    };
    if found > 0 {
        // The writers' right first, as a batch does: a batch that waits for a table that a step has locked could wait in a circle with it.
        one(client, "SELECT schema_version FROM onward_meta FOR UPDATE").await?;
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        // A step may take as long as its rows need.
        client.batch_execute(step).await.map_err(before_commit)?;
    }
    if found == 0 {
        return first_facts(client, clock).await;
    }
    ask(client, &[Step::With("UPDATE onward_meta SET schema_version = $1", vec![(&VERSION, Type::INT4)])]).await?;
    // A dump of an earlier version.
    if look(client).await? == State::Restored { restore(client, clock).await } else { Ok(()) }
}

/// Says what is to be done about a schema that is not this library's.
pub(super) fn other(found: i32) -> Error {
    let advice = if found > VERSION { "start a newer version" } else { "open it anew" };
    Error::unsupported(format!("the store has schema {found}, and this version of onward writes schema {VERSION}: {advice}"))
}

/// Writes the one row of facts of a new store.
async fn first_facts(client: &Client, clock: &Clock) -> Result<()> {
    let epoch = Epoch::from_bits(u64::from_le_bytes(random::bytes())).to_string();
    let origin = format!("onward.local/{}", random::uuid_v4());
    let now = clock.wall().as_micros();
    let insert = format!(
        "INSERT INTO onward_meta (id, schema_version, epoch, revision, version_floor, restore_floor, compacted, log_bytes, newest_token,
           newest_at, origin, created_at, home)
         SELECT 1, $1, $2, 0, 0, 0, 0, 0, 0, 0, $3, $4, {HOME}"
    );
    let params: [Param<'_>; 4] = [(&VERSION, Type::INT4), (&epoch, Type::TEXT), (&origin, Type::TEXT), (&now, Type::INT8)];
    ask(client, &[Step::With(&insert, params.into())]).await.map(|_| ())
}

/// Turns rows from elsewhere into a store of its own.
async fn restore(client: &Client, clock: &Clock) -> Result<()> {
    let facts = one(
        client,
        "SELECT revision, greatest(version_floor, restore_floor, (SELECT coalesce(max(version), 0) FROM onward_objects)), newest_token
         FROM onward_meta FOR UPDATE",
    )
    .await?;
    let clock_us = u64::try_from(clock.wall().as_micros()).unwrap_or(0);
    let jump = |index| signed(number(&facts, index)?.saturating_add(JUMP).max(clock_us));
    let (revision, version, token) = (jump(0)?, jump(1)?, signed(above(number(&facts, 2)?, clock_us))?);
    let epoch = Epoch::from_bits(u64::from_le_bytes(random::bytes())).to_string();
    let update = format!(
        "UPDATE onward_meta SET epoch = $1, revision = $2, compacted = $2, restore_floor = $3, newest_token = $4, log_bytes = 0, home = {HOME}"
    );
    let facts: [Param<'_>; 4] = [(&epoch, Type::TEXT), (&revision, Type::INT8), (&version, Type::INT8), (&token, Type::INT8)];
    let steps = [
        // The log ends at the mark: what it says of the time before belongs to another epoch.
        Step::Plain("DELETE FROM onward_changes"),
        // Holders of the lost time are refused; the lock engine goes on above the newest token.
        Step::With("UPDATE onward_fences SET token = $1", vec![(&token, Type::INT8)]),
        Step::With(&update, facts.into()),
    ];
    ask(client, &steps).await.map(|_| ())
}

/// Runs a statement that gives one row.
async fn one(client: &Client, sql: &str) -> Result<Row> {
    let rows = ask(client, &[Step::With(sql, Vec::new())]).await?;
    rows.into_iter().flatten().next().ok_or_else(|| Error::integrity("the facts of the store are gone"))
}
