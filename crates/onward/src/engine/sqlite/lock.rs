//! Leases in a SQLite file beside the store: several processes of one machine exclude each other.
//!
//! Its own file, so that a lease never waits for a commit's fsync. One thread puts all waiting calls into one transaction. Lease rows
//! commit without fsync, since a power loss ends every holder on the machine; tokens are reserved durably ahead, so they grow over it (C4).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_core::future::BoxFuture;
use rusqlite::{Connection, Row, params};
use tokio::sync::{mpsc, oneshot};

use super::commit::{one, prepare, run};
use super::connection::{self, Durability};
use super::error::{at_commit, before_commit};
use super::rows::{col, damaged, signed, unsigned};
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Release, Renewal, Renewed, Tried};
use crate::model::{FencingToken, LockKey, above};
use crate::time::{Clock, Moment, Timestamp};
use crate::{Error, Result};

/// "onwl": marks a lock file as ours.
const APPLICATION_ID: i32 = 0x6f6e_776c;
/// How many calls wait (C7).
const QUEUE: usize = 4_096;
/// Most calls of one transaction.
const BATCH: usize = 256;
/// How far ahead tokens are reserved, in microseconds: one fsync a minute.
const AHEAD_US: u64 = 60_000_000;
/// How often the first waiter of a process looks again: a release in another process sends no word.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Leases in a SQLite file; clones share its thread.
#[derive(Debug, Clone)]
pub struct SqliteLocks(mpsc::Sender<Call>);

#[derive(Debug)]
enum Call {
    Acquire(Ask, oneshot::Sender<Result<Tried>>),
    Renew(Vec<Renewal>, oneshot::Sender<Result<Vec<Option<Renewed>>>>),
    Release(Vec<Claim>, oneshot::Sender<Result<Vec<Release>>>),
    Inspect(LockKey, oneshot::Sender<Result<Option<LeaseRow>>>),
    List(Range, oneshot::Sender<Result<Vec<(LockKey, LeaseRow)>>>),
    TakeOver(Ask, oneshot::Sender<Result<Option<FencingToken>>>),
    Raise(FencingToken, oneshot::Sender<Result<()>>),
}

/// Which leases to list.
#[derive(Debug)]
struct Range {
    prefix: String,
    after: Option<LockKey>,
    limit: usize,
}

impl SqliteLocks {
    /// Returns where the leases of a store file live: `app.db` has `app.locks.db` beside it.
    pub fn beside(store: &Path) -> PathBuf {
        let mut name: OsString = match store.extension() {
            Some(extension) if extension == "db" => store.file_stem().unwrap_or_default().to_owned(),
            _ => store.file_name().unwrap_or_default().to_owned(),
        };
        name.push(".locks.db");
        store.with_file_name(name)
    }

    /// Opens a lock file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): SQLite is too old, or this system does not say which boot it is. `Backend`,
    /// `integrity_failure`: the file belongs to another program.
    pub async fn open(path: impl AsRef<Path>, clock: Clock) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let open = move || {
            let connection = connection::open(&path, APPLICATION_ID, Durability::Normal)?;
            let file = File { connection, boot: boot()?, clock };
            file.set_up()?;
            let (sender, receiver) = mpsc::channel(QUEUE);
            std::thread::Builder::new()
                .name("onward-locks".to_owned())
                .spawn(move || file.serve(receiver))
                .map_err(|e| Error::unavailable("no thread for the locks").with_source(e))?;
            Ok(Self(sender))
        };
        tokio::task::spawn_blocking(open).await.map_err(|e| Error::unavailable("the locks could not be opened").with_source(e))?
    }

    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<Result<T>>) -> Call) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(call(answer)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::overloaded("too many lock calls wait", Duration::from_millis(20)),
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the locks' thread has ended"),
        })?;
        answered.await.map_err(|_| Error::unknown("the locks' thread ended before it answered"))?
    }
}

impl LockEngine for SqliteLocks {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: true, look_again: LOOK_AGAIN }
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(self.ask(|answer| Call::Acquire(ask, answer)))
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(self.ask(|answer| Call::Renew(batch, answer)))
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        Box::pin(self.ask(|answer| Call::Release(batch, answer)))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(self.ask(|answer| Call::Inspect(key, answer)))
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(self.ask(move |answer| Call::List(Range { prefix, after, limit }, answer)))
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        Box::pin(self.ask(|answer| Call::TakeOver(ask, answer)))
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.ask(move |answer| Call::Raise(newest, answer)))
    }
}

/// Names this boot of the machine: elapsed time of another boot means nothing.
fn boot() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|e| Error::unsupported("this system does not say which boot it is, so leases in a file could outlive it").with_source(e))
}

/// The lock file, owned by its thread.
struct File {
    connection: Connection,
    boot: String,
    clock: Clock,
}

/// The token counter under the write lock.
struct Tokens {
    last: u64,
    reserved_to: u64,
    /// Read once a transaction: a second look could be past what is reserved.
    clock_us: u64,
}

impl Tokens {
    fn next(&mut self) -> Result<FencingToken> {
        self.last = above(self.last, self.clock_us);
        FencingToken::new(self.last)
    }
}

impl File {
    fn set_up(&self) -> Result<()> {
        let set_up = concat!("BEGIN IMMEDIATE; ", include_str!("locks.sql"), "COMMIT;");
        self.connection.execute_batch(set_up).inspect_err(|_| self.roll_back()).map_err(before_commit)?;
        self.sweep()
    }

    /// Forgets ended leases: a holder that died without a release leaves a row.
    fn sweep(&self) -> Result<()> {
        let mut sweep = prepare(&self.connection, "DELETE FROM onward_leases WHERE boot <> ?1 OR until_ns <= ?2")?;
        run(&mut sweep, params![self.boot, signed(self.clock.now().as_nanos())?])
    }

    fn serve(self, mut calls: mpsc::Receiver<Call>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = calls.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH {
                let Ok(next) = calls.try_recv() else { break };
                batch.push(next);
            }
            // Whoever left is not given a lease.
            batch.retain(|call| !call.is_abandoned());
            if batch.iter().all(Call::may_only_look) {
                batch = batch.into_iter().filter_map(|call| self.look(call)).collect();
            }
            if !batch.is_empty() {
                self.answer(std::mem::take(&mut batch));
            }
        }
    }

    /// Answers what a look settles, a taken key among them, without the write lock: those who poll hold up nobody who writes.
    fn look(&self, call: Call) -> Option<Call> {
        let seen = match &call {
            Call::Acquire(ask, _) => self.standing(ask).map(|tried| tried.map(Answer::Tried)),
            Call::Inspect(key, _) => self.live(key).map(|found| Some(Answer::Row(found.map(|(row, _)| row)))),
            Call::List(range, _) => self.page(range).map(|page| Some(Answer::Page(page))),
            Call::Renew(..) | Call::Release(..) | Call::TakeOver(..) | Call::Raise(..) => Ok(None),
        };
        match seen {
            Ok(Some(answer)) => call.answer(answer),
            Ok(None) => return Some(call),
            Err(error) => call.refuse(&error),
        }
        None
    }

    /// Carries out all calls in one transaction; nobody is answered before it is committed.
    fn answer(&self, batch: Vec<Call>) {
        let answers = match self.carry_out(&batch) {
            Ok(answers) => answers,
            Err(error) => {
                batch.into_iter().for_each(|call| call.refuse(&error));
                return;
            }
        };
        for (call, answer) in batch.into_iter().zip(answers) {
            call.answer(answer);
        }
    }

    fn carry_out(&self, batch: &[Call]) -> Result<Vec<Answer>> {
        let grants = batch.iter().filter(|call| matches!(call, Call::Acquire(..) | Call::TakeOver(..))).count() as u64;
        let raised = batch.iter().filter_map(Call::raised).max().unwrap_or(0);
        loop {
            self.connection.execute_batch("BEGIN IMMEDIATE").map_err(before_commit)?;
            let done = self.tokens().and_then(|mut tokens| {
                let wanted = above(tokens.last.max(raised), tokens.clock_us) + grants;
                if grants > 0 && wanted > tokens.reserved_to {
                    return Ok(Err(wanted));
                }
                let before = tokens.last;
                let answers = batch.iter().map(|call| self.one(call, &mut tokens)).collect::<Result<Vec<_>>>()?;
                if tokens.last != before {
                    let mut keep = prepare(&self.connection, "UPDATE onward_tokens SET last = ?1, boot = ?2")?;
                    run(&mut keep, params![signed(tokens.last)?, self.boot])?;
                }
                Ok(Ok(answers))
            });
            match done {
                Ok(Ok(answers)) => {
                    self.connection.execute_batch("COMMIT").inspect_err(|_| self.roll_back()).map_err(at_commit)?;
                    return Ok(answers);
                }
                Ok(Err(wanted)) => {
                    self.roll_back();
                    self.reserve(wanted + AHEAD_US)?;
                }
                Err(error) => {
                    self.roll_back();
                    return Err(error);
                }
            }
        }
    }

    fn one(&self, call: &Call, tokens: &mut Tokens) -> Result<Answer> {
        Ok(match call {
            Call::Acquire(ask, _) => Answer::Tried(self.acquire(ask, tokens)?),
            Call::Renew(batch, _) => Answer::Renewed(batch.iter().map(|renewal| self.renew_one(renewal)).collect::<Result<_>>()?),
            Call::Release(batch, _) => Answer::Released(batch.iter().map(|claim| self.release_one(claim)).collect::<Result<_>>()?),
            Call::Inspect(key, _) => Answer::Row(self.live(key)?.map(|(row, _)| row)),
            Call::List(range, _) => Answer::Page(self.page(range)?),
            Call::TakeOver(ask, _) => Answer::Taken(self.take_over(ask, tokens)?),
            Call::Raise(newest, _) => {
                tokens.last = tokens.last.max(newest.get());
                Answer::Raised
            }
        })
    }

    /// Answers from the lease that stands; `None`: the key is free.
    fn standing(&self, ask: &Ask) -> Result<Option<Tried>> {
        Ok(self.live(&ask.key)?.map(|(row, _)| {
            let remaining = row.remaining.unwrap_or_default();
            if row.owner == ask.owner {
                Tried::Granted { token: row.token, remaining, already_ours: true }
            } else {
                Tried::Busy { remaining: Some(remaining) }
            }
        }))
    }

    fn acquire(&self, ask: &Ask, tokens: &mut Tokens) -> Result<Tried> {
        if let Some(standing) = self.standing(ask)? {
            return Ok(standing);
        }
        let token = self.grant(ask, tokens)?;
        Ok(Tried::Granted { token, remaining: ask.ttl, already_ours: false })
    }

    fn take_over(&self, ask: &Ask, tokens: &mut Tokens) -> Result<Option<FencingToken>> {
        match self.standing(ask)? {
            None => Ok(None),
            Some(Tried::Granted { token, .. }) => Ok(Some(token)),
            Some(Tried::Busy { .. }) => self.grant(ask, tokens).map(Some),
        }
    }

    /// Writes the lease with a new token over whatever is there.
    fn grant(&self, ask: &Ask, tokens: &mut Tokens) -> Result<FencingToken> {
        let token = tokens.next()?;
        let mut grant = prepare(
            &self.connection,
            "INSERT INTO onward_leases (key, owner, holder, token, until_ns, boot, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET owner = ?2, holder = ?3, token = ?4, until_ns = ?5, boot = ?6, since = ?7",
        )?;
        let until = signed((self.clock.now() + ask.ttl).as_nanos())?;
        let since = self.clock.wall().as_micros();
        run(&mut grant, params![ask.key.as_str(), ask.owner.as_bytes(), &*ask.holder, signed(token.get())?, until, self.boot, since])?;
        Ok(token)
    }

    fn renew_one(&self, renewal: &Renewal) -> Result<Option<Renewed>> {
        let Some((row, until)) = self.live(&renewal.key)?.filter(|(row, _)| row.owner == renewal.owner) else { return Ok(None) };
        let now = self.clock.now();
        let until = until.max(now + renewal.ttl);
        let mut extend = prepare(&self.connection, "UPDATE onward_leases SET until_ns = ?2 WHERE key = ?1")?;
        run(&mut extend, params![renewal.key.as_str(), signed(until.as_nanos())?])?;
        Ok(Some(Renewed { token: row.token, remaining: until.left(now) }))
    }

    fn release_one(&self, claim: &Claim) -> Result<Release> {
        if self.live(&claim.key)?.is_none_or(|(row, _)| row.owner != claim.owner) {
            return Ok(Release::AlreadyLost);
        }
        if claim.keep.is_zero() {
            let mut free = prepare(&self.connection, "DELETE FROM onward_leases WHERE key = ?1")?;
            run(&mut free, params![claim.key.as_str()])?;
        } else {
            let mut keep = prepare(&self.connection, "UPDATE onward_leases SET owner = ?2, until_ns = ?3 WHERE key = ?1")?;
            let until = signed((self.clock.now() + claim.keep).as_nanos())?;
            run(&mut keep, params![claim.key.as_str(), Owner::draw().as_bytes(), until])?;
        }
        Ok(Release::Released)
    }

    /// Reads the live lease of a key and its end; an ended one, or one of another boot, is none.
    fn live(&self, key: &LockKey) -> Result<Option<(LeaseRow, Moment)>> {
        let now = self.clock.now();
        let mut find = prepare(
            &self.connection,
            "SELECT owner, holder, token, until_ns, since FROM onward_leases WHERE key = ?1 AND boot = ?2 AND until_ns > ?3",
        )?;
        one(&mut find, params![key.as_str(), self.boot, signed(now.as_nanos())?], |row| lease(row, now))
    }

    /// Reads a page of live leases: keys that begin alike stand together.
    fn page(&self, range: &Range) -> Result<Vec<(LockKey, LeaseRow)>> {
        let now = self.clock.now();
        let mut find = prepare(
            &self.connection,
            "SELECT owner, holder, token, until_ns, since, key FROM onward_leases
             WHERE key > ?1 AND key >= ?2 AND boot = ?3 AND until_ns > ?4 ORDER BY key",
        )?;
        let after = range.after.as_ref().map_or("", LockKey::as_str);
        let mut rows = find.query(params![after, range.prefix, self.boot, signed(now.as_nanos())?]).map_err(before_commit)?;
        let mut page = Vec::new();
        while page.len() < range.limit
            && let Some(row) = rows.next().map_err(before_commit)?
        {
            let key: String = col(row, 5)?;
            if !key.starts_with(&range.prefix) {
                break;
            }
            page.push((LockKey::raw(&key).map_err(damaged)?, lease(row, now)?.0));
        }
        Ok(page)
    }

    /// Reads the counter; after another boot it goes on above everything that was reserved.
    fn tokens(&self) -> Result<Tokens> {
        let mut find = prepare(&self.connection, "SELECT last, reserved_to, boot FROM onward_tokens")?;
        let tokens = one(&mut find, [], |row| {
            let (last, reserved_to, boot): (i64, i64, String) = (col(row, 0)?, col(row, 1)?, col(row, 2)?);
            let (last, reserved_to) = (unsigned(last)?, unsigned(reserved_to)?);
            let last = if boot == self.boot { last } else { last.max(reserved_to) };
            Ok(Tokens { last, reserved_to, clock_us: self.clock_us() })
        })?;
        tokens.ok_or_else(|| Error::integrity("the token counter is gone"))
    }

    /// Makes tokens up to `to` durable before the first of them is handed out. `synchronous` cannot change inside a transaction.
    fn reserve(&self, to: u64) -> Result<()> {
        self.connection.pragma_update(None, "synchronous", "FULL").map_err(before_commit)?;
        // The first reservation of a boot also settles where this boot's tokens begin: above all that was reserved before.
        let mut keep = prepare(
            &self.connection,
            "UPDATE onward_tokens SET reserved_to = max(reserved_to, ?1), boot = ?2, last = iif(boot = ?2, last, max(last, reserved_to))",
        )?;
        let kept = keep.execute(params![signed(to)?, self.boot]).map(|_| ()).map_err(at_commit);
        drop(keep);
        self.connection.pragma_update(None, "synchronous", "NORMAL").map_err(before_commit)?;
        kept?;
        // Once a minute at most. What is left this time goes the next.
        let _ = self.sweep();
        Ok(())
    }

    fn clock_us(&self) -> u64 {
        u64::try_from(self.clock.wall().as_micros()).unwrap_or(0)
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // What fails to roll back has nothing left to roll back.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn lease(row: &Row<'_>, now: Moment) -> Result<(LeaseRow, Moment)> {
    let holder: String = col(row, 1)?;
    let until = Moment::from_nanos(unsigned(col(row, 3)?)?);
    let lease = LeaseRow {
        owner: Owner::from_bytes(col(row, 0)?),
        holder: holder.into(),
        token: FencingToken::new(unsigned(col(row, 2)?)?).map_err(damaged)?,
        remaining: Some(until.left(now)),
        since: Timestamp::from_micros(col(row, 4)?),
    };
    Ok((lease, until))
}

enum Answer {
    Tried(Tried),
    Renewed(Vec<Option<Renewed>>),
    Released(Vec<Release>),
    Row(Option<LeaseRow>),
    Page(Vec<(LockKey, LeaseRow)>),
    Taken(Option<FencingToken>),
    Raised,
}

impl Call {
    fn is_abandoned(&self) -> bool {
        match self {
            Call::Acquire(_, answer) => answer.is_closed(),
            Call::Inspect(_, answer) => answer.is_closed(),
            Call::List(_, answer) => answer.is_closed(),
            Call::TakeOver(_, answer) => answer.is_closed(),
            // These are wanted whoever waits for their answer.
            Call::Renew(..) | Call::Release(..) | Call::Raise(..) => false,
        }
    }

    /// Whether a look may settle it. It must not overtake a release before it in the batch.
    fn may_only_look(&self) -> bool {
        matches!(self, Call::Acquire(..) | Call::Inspect(..) | Call::List(..))
    }

    fn raised(&self) -> Option<u64> {
        match self {
            Call::Raise(newest, _) => Some(newest.get()),
            _ => None,
        }
    }

    /// Answers; whoever left needs no answer.
    fn answer(self, answer: Answer) {
        match (self, answer) {
            (Call::Acquire(_, to), Answer::Tried(tried)) => drop(to.send(Ok(tried))),
            (Call::Renew(_, to), Answer::Renewed(renewed)) => drop(to.send(Ok(renewed))),
            (Call::Release(_, to), Answer::Released(released)) => drop(to.send(Ok(released))),
            (Call::Inspect(_, to), Answer::Row(row)) => drop(to.send(Ok(row))),
            (Call::List(_, to), Answer::Page(page)) => drop(to.send(Ok(page))),
            (Call::TakeOver(_, to), Answer::Taken(taken)) => drop(to.send(Ok(taken))),
            (Call::Raise(_, to), Answer::Raised) => drop(to.send(Ok(()))),
            (call, _) => call.refuse(&Error::integrity("a lock call with another call's answer")),
        }
    }

    fn refuse(self, error: &Error) {
        match self {
            Call::Acquire(_, to) => drop(to.send(Err(error.again()))),
            Call::Renew(_, to) => drop(to.send(Err(error.again()))),
            Call::Release(_, to) => drop(to.send(Err(error.again()))),
            Call::Inspect(_, to) => drop(to.send(Err(error.again()))),
            Call::List(_, to) => drop(to.send(Err(error.again()))),
            Call::TakeOver(_, to) => drop(to.send(Err(error.again()))),
            Call::Raise(_, to) => drop(to.send(Err(error.again()))),
        }
    }
}
