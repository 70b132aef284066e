//! Leases in a Postgres database: processes of any number of machines exclude each other, by one row a key on the server's clock.
//!
//! Grants and renewals commit with `synchronous_commit = on` (C3), whatever the role's or the pooler's default says; tokens are durable. Whoever waits is told by NOTIFY when the key is
//! given back, if the row says that somebody waits: a hint, covered by timers. No order is kept between processes; the first to look
//! again has it.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::{BEGIN, COMMIT, Lent, Param, Pool, Server, Step, read};
use super::lanes::Lanes;
use super::leases::{self, CHANNEL};
use super::listen::hear;
use super::migrate;
use super::rows::{col, damaged, number, signed, token, unsigned};
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Place, Release, Renewal, Renewed, Tried, Waiters};
use crate::model::{FencingToken, LockKey};
use crate::time::{Clock, Timestamp};
use crate::{Error, Result, retry};

/// How often whoever waits looks again without a word, which a pooler swallows and a lost connection loses.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often rows that have long ended are deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// How often an acquire looks whether the holder that refused it is still there.
const LOOKS: usize = 3;

/// What begins a transaction that gives keys back, or asks for a word: a crash of the server may undo it, and the lease then ends by itself, the
/// look comes by the timer. It waits for no disk, and the next grant's own COMMIT makes it last.
const PASSING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = 5000; \
     SET LOCAL statement_timeout = 8000; SET LOCAL idle_in_transaction_session_timeout = 5000";

/// Leases in a Postgres database; clones share its connections.
#[derive(Clone)]
pub struct PostgresLocks(Arc<Inner>);

struct Inner {
    server: Server,
    calls: Pool,
    /// Of their own: a crowd that wants keys must not hold up those who have them.
    renewals: Pool,
    runtime: Handle,
    clock: Clock,
    /// Where the time of leases begins on `clock`; `None`: they run on the server's.
    begins: Option<i64>,
    lanes: Lanes,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl fmt::Debug for PostgresLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresLocks(..)")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.get_mut().drain(..).for_each(|task| task.abort());
    }
}

impl PostgresLocks {
    /// Opens the leases of a database, and makes or migrates its tables if it must; inside a Tokio runtime.
    ///
    /// # Errors
    /// As [`PostgresStore::open`](super::PostgresStore::open).
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let locks = Self::over(url, clock, None).await?;
        let weak = Arc::downgrade(&locks.0);
        locks.0.tasks.lock().push(tokio::spawn(prune(weak)).abort_handle());
        Ok(locks)
    }

    /// As [`PostgresLocks::open`], but leases run on this clock: for tests that move it.
    ///
    /// # Errors
    /// As [`PostgresLocks::open`].
    #[cfg(feature = "testing")]
    pub async fn open_on_clock(url: &str, clock: Clock) -> Result<Self> {
        // What a clock that stands still shows at first; a step of the wall clock moves no lease.
        Self::over(url, clock, Some(1_759_999_999_000_000)).await
    }

    async fn over(url: &str, clock: Clock, begins: Option<i64>) -> Result<Self> {
        let (server, runtime) = (Server::at(url)?, Handle::current());
        migrate::ready(&server, &clock).await?;
        let (calls, renewals) = (server.pool(runtime.clone())?, server.pool(runtime.clone())?);
        Ok(Self(Arc::new(Inner { server, calls, renewals, runtime, clock, begins, lanes: Lanes::default(), tasks: Mutex::default() })))
    }
}

impl PostgresLocks {
    /// Does a call on keys to its end behind those before it, whoever waits for its answer.
    async fn in_turn<T: Send + 'static>(&self, keys: Vec<LockKey>, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (inner, turn) = (Arc::clone(&self.0), self.0.lanes.join(keys));
        let done = self.0.runtime.spawn(async move { inner.lanes.run(turn, call).await }).await;
        done.map_err(|e| Error::unknown("the runtime of the locks has ended").with_source(e))?
    }
}

impl Inner {
    /// The time of the statements, if it is not the server's.
    fn time(&self) -> Result<Option<i64>> {
        let Some(begins) = self.begins else { return Ok(None) };
        Ok(Some(begins + signed(self.clock.now().as_nanos() / 1_000)?))
    }

    /// Carries out one step in a transaction of its own, in one round trip; once more if it surely was not applied since its connection,
    /// out of the pool, was gone already.
    async fn step(&self, pool: &Pool, begin: &str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let time = self.time()?;
        let mut all: Vec<Param<'_>> = Vec::with_capacity(params.len() + 1);
        all.push((&time, Type::INT8));
        all.extend_from_slice(params);
        let lent = Lent::from(pool).await?;
        let mut answers = lent.transact(&[Step::Plain(begin), Step::Often(sql, all), Step::Plain(COMMIT)]).await?;
        lent.done();
        Ok(answers.swap_remove(1))
    }

    /// Reads in one round trip.
    async fn look(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        let time = self.time()?;
        let mut all: Vec<Param<'_>> = Vec::with_capacity(params.len() + 1);
        all.push((&time, Type::INT8));
        all.extend_from_slice(params);
        Ok(read(&self.calls, &[Step::With(sql, all)]).await?.pop().unwrap_or_default())
    }

    async fn acquire(&self, ask: &Ask) -> Result<Tried> {
        let (key, owner, ttl) = (ask.key.as_str(), &ask.owner.as_bytes()[..], micros(ask.ttl)?);
        let holder = &*ask.holder;
        for _ in 0..LOOKS {
            let params: [Param<'_>; 4] = [(&key, Type::TEXT), (&owner, Type::BYTEA), (&holder, Type::TEXT), (&ttl, Type::INT8)];
            let rows = self.step(&self.calls, BEGIN, &leases::acquire(), &params).await?;
            let Some(row) = rows.first() else { continue };
            let remaining = duration(row, 1)?;
            if col::<bool>(row, 3)? || col::<&[u8]>(row, 2)? == owner {
                return Ok(Tried::Granted { token: token(row, 0)?, remaining, already_ours: !col::<bool>(row, 3)? });
            }
            if ask.place == Place::None {
                return Ok(Tried::Busy { remaining: Some(remaining) });
            }
            // Only now: most keys are free. Who gave it back meanwhile saw nobody wait, and then there is no lease either.
            let rows = self.step(&self.calls, PASSING, &leases::wait(), &[(&key, Type::TEXT)]).await?;
            if let Some(row) = rows.first() {
                return Ok(Tried::Queued { remaining: Some(duration(row, 0)?), look_in: LOOK_AGAIN });
            }
        }
        // Held by one after the other, each for a moment.
        Ok(Tried::Busy { remaining: Some(Duration::ZERO) })
    }

    async fn renew(&self, batch: &[Renewal]) -> Result<Vec<Option<Renewed>>> {
        let keys: Vec<&str> = batch.iter().map(|one| one.key.as_str()).collect();
        let owners: Vec<&[u8]> = batch.iter().map(|one| &one.owner.as_bytes()[..]).collect();
        let lengths = batch.iter().map(|one| micros(one.ttl)).collect::<Result<Vec<_>>>()?;
        let params: [Param<'_>; 4] =
            [(&keys, Type::TEXT_ARRAY), (&owners, Type::BYTEA_ARRAY), (&lengths, Type::INT8_ARRAY), (&owners, Type::BYTEA_ARRAY)];
        let mut answers = vec![None; batch.len()];
        for row in self.step(&self.renewals, BEGIN, &leases::renew(), &params).await? {
            *place(&mut answers, &row)? = Some(Renewed { token: token(&row, 1)?, remaining: duration(&row, 2)? });
        }
        Ok(answers)
    }

    async fn release(&self, batch: &[Claim]) -> Result<Vec<Release>> {
        let keys: Vec<&str> = batch.iter().map(|one| one.key.as_str()).collect();
        let owners: Vec<&[u8]> = batch.iter().map(|one| &one.owner.as_bytes()[..]).collect();
        let lengths = batch.iter().map(|one| micros(one.keep)).collect::<Result<Vec<_>>>()?;
        // Nobody knows them: what is kept on is nobody's.
        let strangers: Vec<Owner> = batch.iter().map(|_| Owner::draw()).collect();
        let strangers: Vec<&[u8]> = strangers.iter().map(|owner| &owner.as_bytes()[..]).collect();
        let params: [Param<'_>; 4] =
            [(&keys, Type::TEXT_ARRAY), (&owners, Type::BYTEA_ARRAY), (&lengths, Type::INT8_ARRAY), (&strangers, Type::BYTEA_ARRAY)];
        let mut answers = vec![Release::AlreadyLost; batch.len()];
        for row in self.step(&self.renewals, PASSING, &leases::release(), &params).await? {
            *place(&mut answers, &row)? = Release::Released;
        }
        Ok(answers)
    }

    async fn take_over(&self, ask: &Ask) -> Result<Option<FencingToken>> {
        let (key, owner, ttl) = (ask.key.as_str(), &ask.owner.as_bytes()[..], micros(ask.ttl)?);
        let holder = &*ask.holder;
        let params: [Param<'_>; 4] = [(&key, Type::TEXT), (&owner, Type::BYTEA), (&holder, Type::TEXT), (&ttl, Type::INT8)];
        self.step(&self.calls, BEGIN, &leases::take_over(), &params).await?.first().map(|row| token(row, 0)).transpose()
    }

    async fn prune(&self) -> Result<()> {
        for sql in leases::prune() {
            self.step(&self.calls, BEGIN, &sql, &[]).await?;
        }
        Ok(())
    }
}

impl LockEngine for PostgresLocks {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: true, look_again: LOOK_AGAIN }
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.in_turn(vec![ask.key.clone()], async move { inner.acquire(&ask).await }))
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(async move { self.0.renew(&batch).await })
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.in_turn(batch.iter().map(|claim| claim.key.clone()).collect(), async move { inner.release(&batch).await }))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(async move {
            let rows = self.0.look(&leases::inspect(), &[(&key.as_str(), Type::TEXT)]).await?;
            rows.first().map(lease).transpose()
        })
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(async move {
            let (after, limit) = (after.as_ref().map_or("", LockKey::as_str), signed(limit as u64)?);
            let params: [Param<'_>; 3] = [(&prefix, Type::TEXT), (&after, Type::TEXT), (&limit, Type::INT8)];
            let rows = self.0.look(&leases::list(), &params).await?;
            rows.iter().map(|row| Ok((LockKey::raw(col(row, 0)?).map_err(damaged)?, lease(row)?))).collect()
        })
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.in_turn(vec![ask.key.clone()], async move { inner.take_over(&ask).await }))
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let floor = signed(newest.get())?;
            let lent = Lent::from(&self.0.calls).await?;
            let raise = Step::With(leases::RAISE, vec![(&floor, Type::INT8)]);
            lent.transact(&[Step::Plain(BEGIN), raise, Step::Plain(COMMIT)]).await?;
            lent.done();
            Ok(())
        })
    }

    fn listen(&self, waiters: Weak<dyn Waiters>) {
        let told = move |word: Option<&str>| {
            let Some(waiters) = waiters.upgrade() else { return };
            match word.map(LockKey::raw) {
                Some(Ok(key)) => _ = waiters.wake(&key),
                // Words may have been missed.
                Some(Err(_)) | None => waiters.wake_all(),
            }
        };
        let task = self.0.runtime.spawn(hear(self.0.server.clone(), CHANNEL, told));
        self.0.tasks.lock().push(task.abort_handle());
    }
}

/// Deletes what has long ended, while the locks are there.
async fn prune(of: Weak<Inner>) {
    let clock = Clock::system();
    loop {
        // Not at once: most processes are short.
        retry::sleep(&clock, PRUNE_EVERY).await;
        let Some(locks) = of.upgrade() else { return };
        // What fails now is done an hour later.
        let _ = locks.prune().await;
    }
}

fn micros(duration: Duration) -> Result<i64> {
    i64::try_from(duration.as_micros()).map_err(|_| Error::invalid("a time is beyond its range"))
}

fn duration(row: &Row, index: usize) -> Result<Duration> {
    Ok(Duration::from_micros(unsigned(col::<i64>(row, index)?.max(0))?))
}

/// The answer that a row belongs to: rows are numbered from 1.
fn place<'a, T>(answers: &'a mut [T], row: &Row) -> Result<&'a mut T> {
    let index = usize::try_from(number(row, 0)?).ok().and_then(|n| n.checked_sub(1));
    index.and_then(|index| answers.get_mut(index)).ok_or_else(|| damaged("an answer to nothing"))
}

fn lease(row: &Row) -> Result<LeaseRow> {
    let owner: &[u8] = col(row, 1)?;
    Ok(LeaseRow {
        owner: Owner::from_bytes(owner.try_into().map_err(damaged)?),
        holder: col::<&str>(row, 2)?.into(),
        token: Some(token(row, 3)?),
        remaining: Some(duration(row, 4)?),
        since: Timestamp::from_micros(col(row, 5)?),
    })
}
