//! The rows of the lock file: leases that end by themselves, and the counter of tokens.
//!
//! Lease rows commit without fsync, since a power loss ends every holder on the machine; tokens are reserved durably ahead, so they grow
//! over it (C4).

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::commit::{one, prepare, run};
use super::connection::{self, BUSY_WAIT, Durability};
use super::error::{at_commit, before_commit};
use super::lock::{Answer, Call, Range};
use super::rows::{col, damaged, signed, unsigned};
use crate::lock::{Ask, Claim, LeaseRow, Owner, Release, Renewal, Renewed, Tried};
use crate::model::{FencingToken, LockKey, above};
use crate::time::{Clock, Moment, Timestamp};
use crate::{Effect, Error, Result};

/// "onwl": marks a lock file as ours.
const APPLICATION_ID: i32 = 0x6f6e_776c;
/// How far ahead tokens are reserved, in microseconds: one fsync a minute.
const AHEAD_US: u64 = 60_000_000;
/// After how many transactions the log is moved into the file: about a thousand pages.
const CHECKPOINT_EVERY: u32 = 300;

/// Names this boot of the machine: elapsed time of another boot means nothing.
fn boot() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|e| Error::unsupported("this system does not say which boot it is, so leases in a file could outlive it").with_source(e))
}

/// The lock file. One at a time works on it.
pub(super) struct File {
    connection: Connection,
    boot: String,
    clock: Clock,
    /// Transactions since the log was last moved into the file.
    unchecked: Cell<u32>,
}

/// What came of a transaction.
enum Carried {
    /// It is committed.
    Out(Vec<Answer>),
    /// Nothing was done: tokens up to this one must be reserved first.
    Unreserved(u64),
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
    pub(super) fn open(path: &Path, clock: Clock) -> Result<Self> {
        let connection = connection::open(path, APPLICATION_ID, Durability::Normal)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(before_commit)?;
        let file = Self { connection, boot: boot()?, clock, unchecked: Cell::new(0) };
        file.set_up()?;
        Ok(file)
    }

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

    /// Answers what a look settles, a taken key among them, without the write lock: those who poll hold up nobody who writes.
    pub(super) fn look(&self, call: Call) -> Option<Call> {
        match self.seen(&call) {
            Ok(Some(answer)) => call.answer(answer),
            Ok(None) => return Some(call),
            Err(error) => call.refuse(&error),
        }
        None
    }

    fn seen(&self, call: &Call) -> Result<Option<Answer>> {
        match call {
            Call::Acquire(ask, _) => self.standing(ask).map(|tried| tried.map(Answer::Tried)),
            Call::Inspect(key, _) => self.live(key).map(|found| Some(Answer::Row(found.map(|(row, _)| row)))),
            Call::List(range, _) => self.page(range).map(|page| Some(Answer::Page(page))),
            Call::Renew(..) | Call::Release(..) | Call::TakeOver(..) | Call::Raise(..) => Ok(None),
        }
    }

    /// Carries out one call on its caller's thread, if nothing has to be waited for: no other process's transaction, and no fsync.
    ///
    /// Returns the call that the thread must carry out instead.
    pub(super) fn at_once(&self, call: Call) -> Option<Call> {
        if self.is_owed_a_checkpoint() || self.connection.busy_timeout(Duration::ZERO).is_err() {
            return Some(call);
        }
        match self.seen(&call) {
            Ok(Some(answer)) => {
                call.answer(answer);
                return None;
            }
            Ok(None) => {}
            Err(_) => return Some(call),
        }
        match self.transaction(std::slice::from_ref(&call)) {
            Ok(Carried::Out(answers)) => match answers.into_iter().next() {
                Some(answer) => call.answer(answer),
                None => call.refuse(&Error::integrity("a lock call without an answer").with_unknown_effect()),
            },
            Ok(Carried::Unreserved(_)) => return Some(call),
            // What surely left nothing may be tried again, with the patience that it needs.
            Err(error) if error.effect() == Effect::NotApplied => return Some(call),
            Err(error) => call.refuse(&error),
        }
        None
    }

    /// Carries out all calls in one transaction; nobody is answered before it is committed.
    pub(super) fn carry_out(&self, batch: Vec<Call>) {
        let answers = match self.answers(&batch) {
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

    fn answers(&self, batch: &[Call]) -> Result<Vec<Answer>> {
        loop {
            match self.transaction(batch)? {
                Carried::Out(answers) => return Ok(answers),
                Carried::Unreserved(wanted) => self.reserve(wanted + AHEAD_US)?,
            }
        }
    }

    /// Waits for other processes' transactions from now on, as the thread may.
    pub(super) fn be_patient(&self) {
        // It only sets a number.
        let _ = self.connection.busy_timeout(BUSY_WAIT);
    }

    fn is_owed_a_checkpoint(&self) -> bool {
        self.unchecked.get() >= CHECKPOINT_EVERY
    }

    /// Moves the log into the file if that is due. It waits for the disk, so the thread does it, when nobody waits for an answer.
    pub(super) fn checkpoint(&self) {
        if self.is_owed_a_checkpoint() {
            self.unchecked.set(0);
            // What is left this time goes the next.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }

    fn transaction(&self, batch: &[Call]) -> Result<Carried> {
        let grants = batch.iter().filter(|call| matches!(call, Call::Acquire(..) | Call::TakeOver(..))).count() as u64;
        let raised = batch.iter().filter_map(Call::raised).max().unwrap_or(0);
        connection::again(&self.connection, "BEGIN IMMEDIATE").map_err(before_commit)?;
        let done = self.tokens().and_then(|mut tokens| {
            let wanted = above(tokens.last.max(raised), tokens.clock_us) + grants;
            if grants > 0 && wanted > tokens.reserved_to {
                return Ok(Carried::Unreserved(wanted));
            }
            let before = tokens.last;
            let answers = batch.iter().map(|call| self.one(call, &mut tokens)).collect::<Result<Vec<_>>>()?;
            if tokens.last != before {
                let mut keep = prepare(&self.connection, "UPDATE onward_tokens SET last = ?1, boot = ?2")?;
                run(&mut keep, params![signed(tokens.last)?, self.boot])?;
            }
            Ok(Carried::Out(answers))
        });
        if matches!(done, Ok(Carried::Out(_))) {
            connection::again(&self.connection, "COMMIT").inspect_err(|_| self.roll_back()).map_err(at_commit)?;
            self.unchecked.set(self.unchecked.get().saturating_add(1));
        } else {
            self.roll_back();
        }
        done
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
        let Some((row, _)) = self.live(&ask.key)? else { return Ok(None) };
        let remaining = row.remaining.unwrap_or_default();
        Ok(Some(if row.owner == ask.owner {
            Tried::Granted { token: token(&row)?, remaining, already_ours: true }
        } else {
            Tried::Busy { remaining: Some(remaining) }
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
            Some(Tried::Busy { .. } | Tried::Queued { .. } | Tried::Handed { .. }) => self.grant(ask, tokens).map(Some),
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
        Ok(Some(Renewed { token: token(&row)?, remaining: until.left(now) }))
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
            let _ = connection::again(&self.connection, "ROLLBACK");
        }
    }
}

fn token(row: &LeaseRow) -> Result<FencingToken> {
    row.token.ok_or_else(|| Error::integrity("a lease without a token"))
}

fn lease(row: &Row<'_>, now: Moment) -> Result<(LeaseRow, Moment)> {
    let holder: String = col(row, 1)?;
    let until = Moment::from_nanos(unsigned(col(row, 3)?)?);
    let lease = LeaseRow {
        owner: Owner::from_bytes(col(row, 0)?),
        holder: holder.into(),
        token: Some(FencingToken::new(unsigned(col(row, 2)?)?).map_err(damaged)?),
        remaining: Some(until.left(now)),
        since: Timestamp::from_micros(col(row, 4)?),
    };
    Ok((lease, until))
}
