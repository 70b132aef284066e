//! Leases in a Postgres database: one row a key, on the server's clock, with tokens that are as durable as the store.
//!
//! Every step is one transaction in one round trip; a key that is taken costs the server a look and no write. A release keeps the row, and
//! with it the key's newest token, until it was idle for a week; the floor is raised over it before it goes (C4). Who waits says so in the
//! row, and the release tells him by NOTIFY; a timer covers a word that got lost or that a pooler swallowed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::commit::PostgresStore;
use super::connection::{BEGIN, COMMIT, Lent, Param, Step};
use super::lanes::Lanes;
use super::listen::Ear;
use super::rows::{self, col, damaged, signed};
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Place, Release, Renewal, Renewed, Tried, Waiters};
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Timestamp};
use crate::{Effect, Error, Result, random, retry};

/// The channel on which a release tells its key.
const CHANNEL: &str = "onward_locks";
/// How often a waiter looks again that counts on being woken: this, and up to as much again.
const WOKEN: Duration = Duration::from_millis(250);
/// How often a step is tried that other transactions are in the way of.
const TRIES: u32 = 4;
/// How often idle rows are looked for.
const SWEEP: Duration = Duration::from_secs(3_600);
/// Connections for renewals alone, so that no backlog of calls lets a lease end; and those for everything else.
const CONNECTIONS: (usize, usize) = (2, 8);

/// The server's clock in microseconds, for leases and for tokens; a clock that a test moves stands in for it.
const CLOCK: &str = "WITH t AS MATERIALIZED (SELECT coalesce($1::bigint, s.us) AS now, coalesce($2::bigint, s.us) AS wall
     FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS s)";

/// Takes the row $3 for owner $4, holder $5, for $6 us, if nobody has it. The look comes first: a key that is taken is not written to.
const TRY: &str = "INSERT INTO onward_leases AS l (key, owner, holder, token, until_us, since, wanted_us)
       SELECT $3, $4, $5, greatest(f.floor + 1, t.wall), t.now + $6, t.wall, 0 FROM t, onward_lock_floor AS f
       WHERE NOT EXISTS (SELECT 1 FROM onward_leases AS h WHERE h.key = $3 AND h.owner IS NOT NULL AND h.until_us > t.now)
     ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, holder = excluded.holder, token = greatest(l.token + 1, excluded.token),
       until_us = excluded.until_us, since = excluded.since
       WHERE l.owner IS NULL OR l.until_us <= (SELECT now FROM t)
     RETURNING token";

/// Takes the row from whoever else has it.
const TAKE_OVER: &str = "UPDATE onward_leases AS l SET owner = $4, holder = $5, token = greatest(l.token + 1, f.floor + 1, t.wall),
       until_us = t.now + $6, since = t.wall
     FROM t, onward_lock_floor AS f WHERE l.key = $3 AND l.owner <> $4 AND l.until_us > t.now
     RETURNING l.token";

/// Says in the row that somebody waits, for ten seconds; not again while that is known for five more.
const WANT: &str = "UPDATE onward_leases AS l SET wanted_us = t.now + 10000000 FROM t
     WHERE l.key = $3 AND l.owner IS NOT NULL AND l.until_us > t.now AND l.wanted_us < t.now + 5000000";

/// The live leases `l`, in the order that [`lease`] reads.
const LIVE: &str = "SELECT l.key, l.owner, l.holder, l.token, l.until_us - t.now, l.since FROM onward_leases AS l, t
     WHERE l.owner IS NOT NULL AND l.until_us > t.now";

/// Extends the leases of keys $3 that are of owners $4 to at least $5 us from now. Rows are locked in the order of their keys.
const RENEW: &str =
    ", mine AS MATERIALIZED (SELECT l.key, w.owner, w.ttl FROM unnest($3::text[], $4::bytea[], $5::bigint[]) AS w(key, owner, ttl)
       JOIN onward_leases AS l ON l.key = w.key ORDER BY l.key FOR UPDATE OF l)
     UPDATE onward_leases AS l SET until_us = greatest(l.until_us, t.now + mine.ttl) FROM t, mine
     WHERE l.key = mine.key AND l.owner = mine.owner AND l.until_us > t.now
     RETURNING l.key, l.owner, l.token, l.until_us - t.now";

/// Ends the leases of keys $3 that are of owners $4, at once or $5 us from now under the owners $6, and tells who waits for them.
const RELEASE: &str = ", mine AS MATERIALIZED (SELECT l.key, w.owner, w.keep, w.drawn
         FROM unnest($3::text[], $4::bytea[], $5::bigint[], $6::bytea[]) AS w(key, owner, keep, drawn)
         JOIN onward_leases AS l ON l.key = w.key ORDER BY l.key FOR UPDATE OF l),
       freed AS (UPDATE onward_leases AS l SET owner = CASE WHEN mine.keep > 0 THEN mine.drawn END, until_us = t.now + mine.keep FROM t, mine
         WHERE l.key = mine.key AND l.owner = mine.owner AND l.until_us > t.now
         RETURNING l.key, mine.owner, mine.keep = 0 AND l.wanted_us > t.now AS told)
     SELECT key, owner, CASE WHEN told THEN pg_notify('onward_locks', key) END FROM freed";

/// Leases in a Postgres database; clones share its connections.
#[derive(Clone)]
pub struct PostgresLocks(Arc<Inner>);

struct Inner {
    calls: Pool,
    renewals: Pool,
    clock: Clock,
    ear: Ear,
    waiters: Arc<Mutex<Vec<Weak<dyn Waiters>>>>,
    lanes: Lanes,
    runtime: Handle,
    sweeper: OnceLock<AbortHandle>,
}

impl fmt::Debug for PostgresLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresLocks(..)")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.get() {
            sweeper.abort();
        }
    }
}

impl PostgresLocks {
    /// Opens the locks of a database, and makes or migrates its tables if it must be; inside a Tokio runtime, which then drives its
    /// connections.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn open(url: &str, clock: &Clock) -> Result<Self> {
        let store = PostgresStore::open(url, clock).await?;
        let (server, runtime) = (store.server(), Handle::current());
        let waiters: Arc<Mutex<Vec<Weak<dyn Waiters>>>> = Arc::default();
        let here = Arc::clone(&waiters);
        let ear = Ear::at(server.clone(), runtime.clone(), CHANNEL, move |word| tell(&here.lock(), word));
        let (renewals, calls) = (server.pool(runtime.clone(), CONNECTIONS.0)?, server.pool(runtime.clone(), CONNECTIONS.1)?);
        let locks = Self(Arc::new(Inner {
            calls,
            renewals,
            clock: clock.clone(),
            ear,
            waiters,
            lanes: Lanes::default(),
            runtime: runtime.clone(),
            sweeper: OnceLock::new(),
        }));
        let sweeper = runtime.spawn(sweep_now_and_then(Arc::downgrade(&locks.0))).abort_handle();
        // Once: there is one.
        let _ = locks.0.sweeper.set(sweeper);
        Ok(locks)
    }

    /// Does a call on keys to its end behind those before it, whoever waits for its answer.
    async fn in_turn<T: Send + 'static>(&self, keys: Vec<LockKey>, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (inner, turn) = (Arc::clone(&self.0), self.0.lanes.join(keys));
        let done = self.0.runtime.spawn(async move { inner.lanes.run(turn, call).await }).await;
        done.map_err(|e| Error::unknown("the runtime of the locks ended").with_source(e))?
    }

    async fn acquire(&self, ask: Ask) -> Result<Tried> {
        // A key that was freed between the try and the look is tried again.
        for _ in 0..TRIES {
            let want = if ask.place == Place::Queue { Some(WANT) } else { None };
            let (won, state) = self.0.take(TRY, want, &ask).await?;
            if let Some(token) = won {
                return Ok(Tried::Granted { token, remaining: ask.ttl, already_ours: false });
            }
            let Some(lease) = state else { continue };
            if lease.owner == ask.owner {
                let (Some(token), remaining) = (lease.token, lease.remaining.unwrap_or_default()) else { continue };
                return Ok(Tried::Granted { token, remaining, already_ours: true });
            }
            return Ok(match ask.place {
                Place::None => Tried::Busy { remaining: lease.remaining },
                Place::Queue => Tried::Queued { remaining: lease.remaining, look_in: WOKEN + jitter(WOKEN) },
            });
        }
        Ok(Tried::Busy { remaining: Some(Duration::ZERO) })
    }

    async fn take_from_another(&self, ask: Ask) -> Result<Option<FencingToken>> {
        let (won, state) = self.0.take(TAKE_OVER, None, &ask).await?;
        Ok(won.or_else(|| state.filter(|lease| lease.owner == ask.owner).and_then(|lease| lease.token)))
    }

    async fn extend(&self, batch: Vec<Renewal>) -> Result<Vec<Option<Renewed>>> {
        let keys: Vec<&str> = batch.iter().map(|renewal| renewal.key.as_str()).collect();
        let owners: Vec<&[u8]> = batch.iter().map(|renewal| &renewal.owner.as_bytes()[..]).collect();
        let ttls = batch.iter().map(|renewal| micros(renewal.ttl)).collect::<Result<Vec<_>>>()?;
        let params: [Param<'_>; 3] = [(&keys, Type::TEXT_ARRAY), (&owners, Type::BYTEA_ARRAY), (&ttls, Type::INT8_ARRAY)];
        let found = self.0.write(&self.0.renewals, "on", RENEW, &params).await?;
        let mut renewed = HashMap::new();
        for row in &found {
            let left = Renewed { token: rows::token(row, 2)?, remaining: left(row, 3)? };
            renewed.insert((col::<&str>(row, 0)?, col::<&[u8]>(row, 1)?), left);
        }
        Ok(keys.into_iter().zip(owners).map(|which| renewed.get(&which).copied()).collect())
    }

    async fn end(&self, batch: Vec<Claim>) -> Result<Vec<Release>> {
        let keys: Vec<&str> = batch.iter().map(|claim| claim.key.as_str()).collect();
        let owners: Vec<&[u8]> = batch.iter().map(|claim| &claim.owner.as_bytes()[..]).collect();
        let keeps = batch.iter().map(|claim| micros(claim.keep)).collect::<Result<Vec<_>>>()?;
        let drawn: Vec<Owner> = batch.iter().map(|_| Owner::draw()).collect();
        let drawn: Vec<&[u8]> = drawn.iter().map(|owner| &owner.as_bytes()[..]).collect();
        let params: [Param<'_>; 4] =
            [(&keys, Type::TEXT_ARRAY), (&owners, Type::BYTEA_ARRAY), (&keeps, Type::INT8_ARRAY), (&drawn, Type::BYTEA_ARRAY)];
        // A release that a crash of the server takes back ends with its lease.
        let found = self.0.write(&self.0.calls, "off", RELEASE, &params).await?;
        let mut freed = Vec::with_capacity(found.len());
        for row in &found {
            freed.push((col::<&str>(row, 0)?, col::<&[u8]>(row, 1)?));
        }
        let answer = |which| if freed.contains(&which) { Release::Released } else { Release::AlreadyLost };
        Ok(keys.into_iter().zip(owners).map(answer).collect())
    }

    async fn page(&self, prefix: String, after: Option<LockKey>, limit: usize) -> Result<Vec<(LockKey, LeaseRow)>> {
        let (after, limit) = (after.as_ref().map_or("", LockKey::as_str), signed(limit as u64)?);
        let only = "AND l.key > $3 AND l.key >= $4 AND starts_with(l.key, $4) ORDER BY l.key LIMIT $5";
        let found = self.0.read(only, &[(&after, Type::TEXT), (&prefix, Type::TEXT), (&limit, Type::INT8)]).await?;
        found.iter().map(|row| Ok((LockKey::raw(col(row, 0)?).map_err(damaged)?, lease(row)?))).collect()
    }

    async fn look(&self, key: LockKey) -> Result<Option<LeaseRow>> {
        let key = key.as_str();
        let found = self.0.read("AND l.key = $3", &[(&key, Type::TEXT)]).await?;
        found.first().map(lease).transpose()
    }

    async fn raise_floor(&self, newest: FencingToken) -> Result<()> {
        let newest = signed(newest.get())?;
        let raise = "UPDATE onward_lock_floor SET floor = $3, raised_us = t.now FROM t WHERE floor < $3";
        self.0.write(&self.0.calls, "on", raise, &[(&newest, Type::INT8)]).await.map(|_| ())
    }
}

impl Inner {
    /// What stands in for the server's clock: for leases and for tokens.
    fn times(&self) -> Result<[Option<i64>; 2]> {
        if !self.clock.is_manual() {
            return Ok([None, None]);
        }
        Ok([Some(signed(self.clock.now().as_nanos() / 1_000)?), Some(self.clock.wall().as_micros())])
    }

    /// Tries to take a key, and reads who has it then.
    async fn take(&self, sql: &str, want: Option<&str>, ask: &Ask) -> Result<(Option<FencingToken>, Option<LeaseRow>)> {
        let [now, wall] = self.times()?;
        let (key, owner, holder, ttl) = (ask.key.as_str(), &ask.owner.as_bytes()[..], &*ask.holder, micros(ask.ttl)?);
        let statement = |sql: &str| format!("{CLOCK} {sql}");
        let (sql, want, look) = (statement(sql), want.map(statement), statement(&format!("{LIVE} AND l.key = $3")));
        let some: [Param<'_>; 3] = [(&now, Type::INT8), (&wall, Type::INT8), (&key, Type::TEXT)];
        let mut all = some.to_vec();
        all.extend([(&owner as _, Type::BYTEA), (&holder as _, Type::TEXT), (&ttl as _, Type::INT8)]);
        let mut steps = vec![Step::Plain(BEGIN), Step::With(&sql, all)];
        steps.extend(want.iter().map(|want| Step::With(want, some.to_vec())));
        steps.extend([Step::With(&look, some.to_vec()), Step::Plain(COMMIT)]);
        let answers = run(&self.calls, &steps).await?;
        let won = answers.get(1).and_then(|rows| rows.first()).map(|row| rows::token(row, 0)).transpose();
        let state = answers.get(steps.len() - 2).and_then(|rows| rows.first()).map(lease).transpose();
        // What cannot be read may have been done all the same.
        Ok((won.map_err(Error::with_unknown_effect)?, state.map_err(Error::with_unknown_effect)?))
    }

    /// Changes leases in one statement.
    async fn write(&self, pool: &Pool, durable: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let [now, wall] = self.times()?;
        let (sql, durable) = (format!("{CLOCK} {sql}"), format!("SET LOCAL synchronous_commit = {durable}"));
        let mut all: Vec<Param<'_>> = vec![(&now, Type::INT8), (&wall, Type::INT8)];
        all.extend_from_slice(params);
        let steps = [Step::Plain(BEGIN), Step::Plain(&durable), Step::With(&sql, all), Step::Plain(COMMIT)];
        Ok(run(pool, &steps).await?.into_iter().nth(2).unwrap_or_default())
    }

    /// Reads live leases; `only` says which, by parameters from $3 on.
    async fn read(&self, only: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let [now, wall] = self.times()?;
        let mut all: Vec<Param<'_>> = vec![(&now, Type::INT8), (&wall, Type::INT8)];
        all.extend_from_slice(params);
        Ok(run(&self.calls, &[Step::With(&format!("{CLOCK} {LIVE} {only}"), all)]).await?.concat())
    }

    /// Forgets keys that nobody took for a week, a part at a time. The floor is raised over their tokens first, and a minute later, when no
    /// statement can have read the old one, they go.
    async fn sweep(&self) -> Result<()> {
        let idle = "until_us < t.now - 7 * 86400000000";
        let raise = format!(
            "UPDATE onward_lock_floor SET floor = newest, raised_us = t.now
             FROM t, LATERAL (SELECT max(token) AS newest FROM onward_leases WHERE {idle}) AS l WHERE newest > floor"
        );
        self.write(&self.calls, "on", &raise, &[]).await?;
        let forget = format!(
            "DELETE FROM onward_leases WHERE key IN (SELECT l.key FROM onward_leases AS l, onward_lock_floor AS f, t
               WHERE {idle} AND l.token <= f.floor AND f.raised_us < t.now - 60000000 LIMIT 10000 FOR UPDATE OF l SKIP LOCKED)"
        );
        self.write(&self.calls, "off", &forget, &[]).await.map(|_| ())
    }
}

/// Runs one transaction, or one statement that is its own; again, if others' transactions were in the way.
async fn run(pool: &Pool, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let lent = Lent::from(pool).await?;
        match lent.ask_once(steps).await {
            Ok(rows) => {
                lent.done();
                return Ok(rows);
            }
            Err((error, true)) if tries > 0 && error.effect() == Effect::NotApplied => {}
            Err((error, _)) => return Err(error),
        }
    }
}

async fn sweep_now_and_then(locks: Weak<Inner>) {
    let clock = Clock::system();
    while let Some(inner) = locks.upgrade() {
        // What fails now is tried again the next time: nothing is lost meanwhile.
        let _ = inner.sweep().await;
        drop(inner);
        retry::sleep(&clock, SWEEP).await;
    }
}

/// Wakes who waits for the key that a word names; everybody, if words may have been missed.
fn tell(waiters: &[Weak<dyn Waiters>], word: Option<&str>) {
    for waiters in waiters.iter().filter_map(Weak::upgrade) {
        match word.map(LockKey::raw) {
            Some(Ok(key)) => _ = waiters.wake(&key),
            Some(Err(_)) => {}
            None => waiters.wake_all(),
        }
    }
}

fn micros(time: Duration) -> Result<i64> {
    i64::try_from(time.as_micros()).map_err(|_| Error::invalid("a lease is too long"))
}

fn jitter(below: Duration) -> Duration {
    Duration::from_nanos(random::below(u64::try_from(below.as_nanos()).unwrap_or(u64::MAX)))
}

fn left(row: &Row, index: usize) -> Result<Duration> {
    rows::number(row, index).map(Duration::from_micros)
}

/// Reads a lease from the columns of [`LIVE`].
fn lease(row: &Row) -> Result<LeaseRow> {
    let owner: &[u8] = col(row, 1)?;
    let holder: &str = col(row, 2)?;
    Ok(LeaseRow {
        owner: Owner::from_bytes(owner.try_into().map_err(damaged)?),
        holder: holder.into(),
        token: Some(rows::token(row, 3)?),
        remaining: Some(left(row, 4)?),
        since: Timestamp::from_micros(col(row, 5)?),
    })
}

impl LockEngine for PostgresLocks {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: true, look_again: WOKEN }
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        let this = self.clone();
        Box::pin(self.in_turn(vec![ask.key.clone()], async move { this.acquire(ask).await }))
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(self.extend(batch))
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        let this = self.clone();
        Box::pin(self.in_turn(batch.iter().map(|claim| claim.key.clone()).collect(), async move { this.end(batch).await }))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(self.look(key))
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(self.page(prefix, after, limit))
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        let this = self.clone();
        Box::pin(self.in_turn(vec![ask.key.clone()], async move { this.take_from_another(ask).await }))
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.raise_floor(newest))
    }

    fn listen(&self, waiters: Weak<dyn Waiters>) {
        let mut all = self.0.waiters.lock();
        all.retain(|waiters| waiters.strong_count() > 0);
        all.push(waiters);
        self.0.ear.listen();
    }
}
