//! The one writing connection of a process: takes the counter's row, reads, carries out a plan, commits.
//!
//! It lives on the writer's thread, whose runtime drives it: no other thread wakes for a batch. What a lost connection leaves open is
//! settled by asking what the table says that this writer wrote last: never a transaction's number, which a server that crashed gives to
//! another transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::Runtime;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::CHANNEL;
use super::commit::remembered;
use super::connection::{BEGIN, COMMIT, Failure, Param, Server, Step, ask, in_time, together};
use super::error::{before_commit, is_passing, is_refusal, silent};
use super::known::Known;
use super::log;
use super::migrate::{self, State};
use super::plan::{self, Columns, Read, Reading};
use super::rows::{self, col, signed};
use super::session::Session;
use super::united::{Part, United};
use crate::commit::engine::{Plan, Rows, StoreMeta, Wanted, Writer};
use crate::commit::{Prune, Pruned};
use crate::model::{Key, Revision, Version};
use crate::retry::Backoff;
use crate::time::{Clock, Timestamp};
use crate::{Error, Kind, Result, random, retry};

/// How long a batch tries to begin, and how long it asks what became of a COMMIT.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first and the longest pause between two tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// The facts and the number of the schema; whoever reads them has the writer's right.
const TAKE: &str = "SELECT epoch, revision, version_floor, compacted, newest_token, origin, newest_at, restore_floor, schema_version FROM onward_meta FOR UPDATE";

/// Takes the right if the facts are the expected ones, and moves them. It fails at once if somebody else has the right, who writes what is
/// not known here. Every commit moves the facts: if they are the expected ones, nothing has been committed since the statement's snapshot.
const MOVE: &str =
    "UPDATE onward_meta SET revision = $9, version_floor = $10, newest_token = $11, newest_at = $12, log_bytes = log_bytes + $13
     WHERE id = (SELECT id FROM onward_meta WHERE (schema_version, epoch, origin, revision, version_floor, newest_token, newest_at,
       restore_floor) = ($1, $2, $3, $4, $5, $6, $7, $8) FOR UPDATE NOWAIT)";

/// Names the batch in its own transaction, under the right; unless another batch than `$4` is this writer's newest: then it gave this one
/// up long ago, and only the network did not. Of a row that somebody changed since its snapshot, it sees the newest.
const NAME: &str = "INSERT INTO onward_writers AS w (id, batch, at) VALUES ($1, $2, $3)
     ON CONFLICT (id) DO UPDATE SET batch = $2, at = $3 WHERE w.batch = coalesce($4, w.batch)";
/// Forgets writers that have not written for a day.
const FORGET: &str = "DELETE FROM onward_writers WHERE at < $1";
/// What the writer's session relies on where it is surely its own, as [`BEGIN`] says it elsewhere: there a batch is a transaction by itself.
/// Each statement that has a name finds its rows by their whole key, so its plan is the same for all parameters.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
     SET synchronous_commit = on; SET lock_timeout = 5000; SET statement_timeout = 8000; SET plan_cache_mode = force_generic_plan";
/// A day, in microseconds.
const DAY_US: i64 = 24 * 3_600 * 1_000_000;

pub(super) struct PostgresWriter {
    server: Server,
    clock: Clock,
    /// Made when it is first needed: a runtime may not be dropped by another one's task.
    runtime: Option<Runtime>,
    /// The writer's connection.
    session: Option<Session>,
    /// Who writes, drawn anew for each writer.
    id: String,
    /// The number of its newest batch.
    batch: i64,
    known: Known,
    /// The newest plan, dropped while the server is at the next one.
    last: Option<Arc<Plan>>,
    /// Whether the right is held.
    held: bool,
}

impl PostgresWriter {
    pub(super) fn new(server: Server, clock: Clock) -> Self {
        Self {
            server,
            clock,
            runtime: None,
            session: None,
            id: random::uuid_v4().to_string(),
            batch: 0,
            known: Known::default(),
            last: None,
            held: false,
        }
    }

    /// Runs work on this thread.
    fn run<T>(&mut self, work: impl AsyncFnOnce(&mut Work<'_>) -> Result<T>) -> Result<T> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Error::unavailable("no runtime for the writer").with_source(e))?,
        };
        let mut on = Work { server: &self.server, clock: &self.clock, session: &mut self.session, id: &self.id, batch: &mut self.batch };
        let done = runtime.block_on(work(&mut on));
        self.runtime = Some(runtime);
        done
    }
}

/// The writer's work, inside its runtime.
struct Work<'a> {
    server: &'a Server,
    clock: &'a Clock,
    session: &'a mut Option<Session>,
    id: &'a str,
    batch: &'a mut i64,
}

impl<'a> Work<'a> {
    /// Makes a connection to a store that is as it should be.
    async fn connect(&self) -> Result<Session> {
        let session = in_time(self.server.session()).await?.map_err(before_commit)?;
        match migrate::look(&session).await? {
            State::Ready => {}
            State::Restored => migrate::apply(&session, self.clock).await?,
            State::At(found) => return Err(migrate::other(found)),
            State::Empty => return Err(Error::integrity("the tables of the store are gone")),
        }
        if session.is_ours() {
            ask(&session, &[Step::Plain(SETTINGS)]).await?;
        }
        Ok(session)
    }

    /// Does something in a new transaction up to its COMMIT; again, if the connection is lost or others' transactions are in the way.
    async fn begin<T>(&mut self, mut first: impl AsyncFnMut(&Session) -> Result<T, Trouble>) -> Result<T> {
        let clock = Clock::system();
        let until = clock.now() + PATIENCE;
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let trouble = match self.session.take() {
                Some(client) => Ok(client),
                None => self.connect().await.map_err(|error| Trouble { passes: error.kind() == Kind::Backend, lost: true, error }),
            };
            let trouble = match trouble {
                Err(trouble) => trouble,
                Ok(client) => match in_time(first(&client)).await {
                    Ok(Ok(done)) => {
                        *self.session = Some(client);
                        return Ok(done);
                    }
                    Ok(Err(trouble)) if trouble.lost => trouble,
                    Ok(Err(trouble)) => {
                        *self.session = rolled_back(client).await;
                        trouble
                    }
                    Err(error) => Trouble { passes: false, lost: true, error },
                },
            };
            if !trouble.passes || clock.now() >= until {
                return Err(trouble.error);
            }
            retry::sleep(&clock, pauses.next()).await;
        }
    }

    async fn take_and_read(&mut self, wanted: &Wanted) -> Result<Rows> {
        self.begin(async |client| read(client, wanted).await).await
    }

    /// Sends the rest of a transaction, or all of it if nothing is held. The facts must be the expected ones, and the newest batch still the
    /// one that it was.
    async fn write(&mut self, facts: &StoreMeta, held: bool, columns: &Columns<'_>, meanwhile: impl FnOnce()) -> Result<()> {
        let (was, name) = (Was::of(facts)?, self.name(if held { None } else { Some(*self.batch) }));
        let mut parts = vec![was.part(columns), name.part()];
        parts.extend(columns.parts());
        let mut united = United::of(parts);
        if !columns.word.is_empty() {
            united = united.telling(&CHANNEL, &columns.word);
        }
        let (mut steps, rest) = (vec![united.step()], columns.rest());
        // A statement alone is a transaction by itself.
        if held || !rest.is_empty() || !self.session.as_ref().is_some_and(Session::is_ours) {
            if !held {
                steps.insert(0, Step::Plain(BEGIN));
            }
            steps.extend(rest);
            steps.push(Step::Plain(COMMIT));
        }
        self.finish(steps, meanwhile).await
    }

    /// The name of the next batch, which comes behind the newest one, if that is said.
    fn name(&self, newest: Option<i64>) -> Name<'a> {
        Name { id: self.id, batch: *self.batch + 1, at: self.clock.wall().as_micros(), newest }
    }

    /// Sends the rest of a transaction that names the next batch, and its end, at once; does something else until the answers come.
    async fn finish(&mut self, steps: Vec<Step<'_>>, meanwhile: impl FnOnce()) -> Result<()> {
        let Some(client) = self.session.take() else { return Err(silent()) };
        *self.batch += 1;
        let idle = async {
            // First the connection sends what it was given.
            tokio::task::yield_now().await;
            meanwhile();
        };
        let (answers, ()) = tokio::join!(in_time(together(&client, &steps)), idle);
        // What failed leaves a transaction that its COMMIT only ends; the statement that the server refused says why.
        let failed = answers.map(|answers| answers.into_iter().find_map(Result::err));
        match failed {
            Ok(None) => {
                *self.session = Some(client);
                Ok(())
            }
            Ok(Some(failure)) if is_refusal(&failure) => {
                *self.session = rolled_back(client).await;
                *self.batch -= 1;
                Err(before_commit(failure))
            }
            Ok(Some(failure)) => self.settle(before_commit(failure)).await,
            Err(silent) => self.settle(silent).await,
        }
    }

    /// Finds out what became of a batch whose COMMIT has no answer.
    ///
    /// The right is taken first: whoever has it knows that a transaction that had it has ended. Then the table says whether the batch is
    /// there. If it is not, its statements may still be on their way, to a session that has not read them. So the batch is given up in the
    /// table, too: another one is the newest, and what comes late finds that and fails.
    async fn settle(&mut self, lost: Error) -> Result<()> {
        let clock = Clock::system();
        let until = clock.now() + PATIENCE;
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
        while clock.now() < until {
            if let Ok(client) = self.connect().await
                && let Ok(landed) = self.landed(&client).await
            {
                *self.session = Some(client);
                return if landed { Ok(()) } else { Err(lost) };
            }
            retry::sleep(&clock, pauses.next()).await;
        }
        Err(Error::unknown("the database server was lost during COMMIT").with_source(lost))
    }

    /// Whether the newest batch is there; if not, it never will be.
    async fn landed(&mut self, client: &Session) -> Result<bool> {
        let given_up = self.name(None);
        let question = [
            Step::Plain(BEGIN),
            Step::Often(TAKE, Vec::new()),
            Step::With("SELECT batch FROM onward_writers WHERE id = $1", vec![(&self.id, Type::TEXT)]),
        ];
        let answers = ask(client, &question).await?;
        let written = answers.get(2).and_then(|rows| rows.first()).map(|row| col::<i64>(row, 0)).transpose()?;
        if written == Some(*self.batch) {
            ask(client, &[Step::Plain("ROLLBACK")]).await?;
            return Ok(true);
        }
        ask(client, &[United::of(vec![given_up.part()]).step(), Step::Plain(COMMIT)]).await?;
        *self.batch += 1;
        Ok(false)
    }

    async fn prune(&mut self, prune: &Prune) -> Result<Pruned> {
        let (was, over) = self.outside(async |client| look(client, prune).await).await?;
        // Looked at first without the right: an idle store keeps nobody waiting.
        if !over {
            return Ok(Pruned { compacted: was, more: false });
        }
        let (pruned, bytes) = self.begin(async |client| oldest(client, prune).await).await?;
        if pruned.compacted == was {
            self.give_back().await;
            return Ok(pruned);
        }
        let (mark, end) = (signed(pruned.compacted.get())?, log::first_row(pruned.compacted.get() + 1)?);
        let facts: [Param<'_>; 2] = [(&mark, Type::INT8), (&bytes, Type::INT8)];
        let (name, long_ago) = (self.name(None), self.clock.wall().as_micros() - DAY_US);
        let united = United::of(vec![name.part()]);
        let steps = vec![
            Step::With("DELETE FROM onward_changes WHERE id < $1", vec![(&end, Type::INT8)]),
            Step::With("UPDATE onward_meta SET compacted = $1, log_bytes = log_bytes - $2", facts.into()),
            united.step(),
            Step::With(FORGET, vec![(&long_ago, Type::INT8)]),
            Step::Plain(COMMIT),
        ];
        self.finish(steps, || {}).await.map(|()| pruned)
    }

    async fn due(&mut self, now: Timestamp, limit: usize) -> Result<Vec<(Key, Version)>> {
        let (now, limit) = (now.as_micros(), signed(limit as u64)?);
        let sql = "SELECT namespace, kind, name, version FROM onward_objects WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2";
        let ask = async |client: &Session| ask(client, &[Step::With(sql, vec![(&now, Type::INT8), (&limit, Type::INT8)])]).await;
        let due = self.outside(ask).await?.concat();
        due.iter().map(|row| Ok((rows::key(row, 0)?, rows::version(row, 3)?))).collect()
    }

    /// Reads on the writer's connection, outside a transaction.
    async fn outside<T>(&mut self, read: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
        let client = match self.session.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        let read = read(&client).await;
        if read.is_ok() {
            *self.session = Some(client);
        }
        read
    }

    async fn give_back(&mut self) {
        if let Some(client) = self.session.take() {
            *self.session = rolled_back(client).await;
        }
    }
}

/// Which batch is a writer's newest, and when it wrote it.
struct Name<'a> {
    id: &'a str,
    batch: i64,
    at: i64,
    /// The newest one before it, if that is known.
    newest: Option<i64>,
}

impl Name<'_> {
    fn part(&self) -> Part<'_> {
        Part::one(NAME, vec![(&self.id, Type::TEXT), (&self.batch, Type::INT8), (&self.at, Type::INT8), (&self.newest, Type::INT8)])
    }
}

/// The facts as they must be, for [`MOVE`].
struct Was<'a> {
    epoch: String,
    origin: &'a str,
    facts: [i64; 4],
    restore_floor: i64,
}

impl<'a> Was<'a> {
    fn of(meta: &'a StoreMeta) -> Result<Self> {
        let (epoch, facts, restore_floor) = (meta.epoch.to_string(), plan::facts(meta)?, signed(meta.restore_floor)?);
        Ok(Self { epoch, origin: &meta.origin, facts, restore_floor })
    }

    fn part<'s>(&'s self, columns: &'s Columns<'_>) -> Part<'s> {
        let mut params: Vec<Param<'_>> = vec![(&migrate::VERSION, Type::INT4), (&self.epoch, Type::TEXT), (&self.origin, Type::TEXT)];
        let numbers = self.facts.iter().chain([&self.restore_floor]).chain(&columns.facts).chain([&columns.log_bytes]);
        params.extend(numbers.map(|number| (number as _, Type::INT8)));
        Part::one(MOVE, params)
    }
}

/// Why a transaction could not begin.
struct Trouble {
    error: Error,
    /// Whether it may succeed when it is tried again soon.
    passes: bool,
    /// Whether the connection is gone.
    lost: bool,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let lost = !is_refusal(&failure);
        Self { passes: lost || is_passing(&failure), lost, error: before_commit(failure) }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { passes: false, lost: false, error }
    }
}

/// Ends a transaction that wrote nothing; the connection is kept if it is sound.
async fn rolled_back(client: Session) -> Option<Session> {
    let ended = ask(&client, &[Step::Plain("ROLLBACK")]).await;
    ended.ok().map(|_| client)
}

/// Takes the right and reads what is wanted, in one round trip.
async fn read(client: &Session, wanted: &Wanted) -> Result<Rows, Trouble> {
    let reading = Reading::of(wanted);
    let mut steps = vec![Step::Plain(BEGIN), Step::Often(TAKE, Vec::new())];
    reading.add(&mut steps);
    let answers = together(client, &steps).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut answers = answers.into_iter().skip(1);
    let facts = answers.next().unwrap_or_default();
    let facts = right(&facts)?;
    let Read { objects, fences, requests, heads } = reading.read(answers);
    let (locks, ids, chains) = (wanted.fences.iter(), wanted.requests.iter(), wanted.chains.iter());
    let locks: HashMap<_, _> = locks.map(|lock| (lock.as_str(), lock)).collect();
    let ids: HashMap<_, _> = ids.map(|id| (id.as_str(), id)).collect();
    let chains: HashMap<_, _> = chains.map(|chain| (chain.as_str(), chain)).collect();
    let unasked = || Error::integrity("the database answers what it was not asked");
    let mut read = Rows {
        meta: rows::meta(facts)?,
        objects: HashMap::new(),
        fences: HashMap::new(),
        requests: HashMap::new(),
        heads: HashMap::new(),
        held: true,
    };
    for row in &objects {
        let key = rows::key(row, 0)?;
        if let Some(object) = rows::state(row, key.clone(), 3)? {
            read.objects.insert(key, object);
        }
    }
    for row in &fences {
        let lock = locks.get(col::<&str>(row, 0)?).copied().ok_or_else(unasked)?;
        read.fences.insert(lock.clone(), rows::token(row, 1)?);
    }
    for row in &requests {
        let id = ids.get(col::<&str>(row, 0)?).copied().ok_or_else(unasked)?;
        read.requests.insert(id.clone(), remembered(row, 1)?);
    }
    for row in &heads {
        let chain = chains.get(col::<&str>(row, 5)?).copied().ok_or_else(unasked)?;
        read.heads.insert(chain.clone(), rows::head(row)?);
    }
    Ok(read)
}

/// Reads the answer to [`TAKE`], unless another version of this library has changed the schema.
fn right(rows: &[Row]) -> Result<&Row> {
    let facts = rows.first().ok_or_else(|| Error::integrity("the facts of the store are gone"))?;
    match col(facts, 8)? {
        migrate::VERSION => Ok(facts),
        other => Err(migrate::other(other)),
    }
}

/// Reads the mark, and whether the oldest commit of the log goes.
async fn look(client: &Client, prune: &Prune) -> Result<(Revision, bool)> {
    let sql = "SELECT compacted, log_bytes, compacted < revision, (SELECT at FROM onward_changes ORDER BY id LIMIT 1) FROM onward_meta";
    let found = ask(client, &[Step::With(sql, Vec::new())]).await?.concat();
    let row = found.first().ok_or_else(|| Error::integrity("the facts of the store are gone"))?;
    let was = rows::revision(row, 0)?;
    match col::<Option<i64>>(row, 3)? {
        Some(at) => Ok((was, prune.takes(was.next(), Timestamp::from_micros(at), rows::number(row, 1)?))),
        None if col(row, 2)? => Err(Error::integrity("the change log has a gap")),
        None => Ok((was, false)),
    }
}

/// Takes the right and chooses what goes from the log.
async fn oldest(client: &Session, prune: &Prune) -> Result<(Pruned, i64), Trouble> {
    let facts = together(client, &[Step::Plain(BEGIN), Step::Often(TAKE, Vec::new())]).await;
    let facts = facts.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    right(&facts)?;
    let most = signed(prune.rows as u64)?;
    let sums = [
        Step::With("SELECT compacted, revision, log_bytes FROM onward_meta", Vec::new()),
        Step::With(log::OLDEST, vec![(&most, Type::INT8)]),
    ];
    let mut sums = together(client, &sums).await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter();
    let facts = sums.next().and_then(|rows| rows.into_iter().next()).ok_or_else(|| Error::integrity("the facts of the store are gone"))?;
    let chosen = log::prune(&facts, &sums.next().unwrap_or_default(), prune)?;
    Ok(chosen)
}

impl Writer for PostgresWriter {
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            if self.session.is_some()
                && let Some(rows) = self.known.rows(wanted)
            {
                return Ok(rows);
            }
            let rows = self.run(async |work| work.take_and_read(wanted).await)?;
            self.held = true;
            self.known.read(wanted, &rows);
            Ok(rows)
        })
    }

    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let held = std::mem::take(&mut self.held);
            // Learned while the server writes; a failure unlearns all.
            let mut known = std::mem::take(&mut self.known);
            let facts = known.facts().cloned().ok_or_else(silent);
            let last = self.last.replace(plan.clone());
            let meanwhile = || {
                known.wrote(plan);
                drop(last);
            };
            let done = self.run(async |work| match facts.and_then(|facts| Ok((facts, Columns::of(plan)?))) {
                Ok((facts, columns)) => work.write(&facts, held, &columns, meanwhile).await,
                Err(error) => {
                    work.give_back().await;
                    Err(error)
                }
            });
            if done.is_ok() {
                self.known = known;
            }
            done
        })
    }

    fn give_back(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.held = false;
            // What cannot even run has nothing to give back.
            let _ = self.run(async |work| {
                work.give_back().await;
                Ok(())
            });
        })
    }

    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>> {
        Box::pin(async move { self.run(async |work| work.prune(prune).await) })
    }

    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>> {
        Box::pin(async move { self.run(async |work| work.due(now, limit).await) })
    }
}
