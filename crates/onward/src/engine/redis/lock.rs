//! Leases in Redis: processes of many machines exclude each other, and every client that takes a lock by `SET NX PX` on the same key.
//!
//! A key holds the string `ow1:OWNER:TOKEN:SINCE:HOLDER` with an expiry. Beside it are `onward:fence`, the token counter, and
//! `onward:q:KEY`, the places of the processes that wait for a key, in the order in which they came. A release hands the key to the first of
//! them, a lease of a second, and tells its process on its channel, `onward:wake:PROCESS`; so nobody polls while the holder is one of us.
//! One server at a time: locks on a cluster are refused.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use redis::Value;

use super::address::Address;
use super::connection::Link;
use super::error::strange;
use super::places::Places;
use super::script::{Script, script};
use super::server_clock::ServerClock;
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Place, Release, Renewal, Renewed, Tried, Waiters};
use crate::model::{FencingToken, LockKey};
use crate::observe::Finding;
use crate::time::{Clock, Timestamp};
use crate::{Error, Result, random};

static ACQUIRE: Script = script!("keys.lua", "token.lua", "acquire_free.lua", "give.lua", "lease.lua", "acquire.lua");
pub(super) static RELEASE: Script =
    script!("keys.lua", "release_one.lua", "token.lua", "give.lua", "release_next.lua", "lease.lua", "release.lua");
static RENEW: Script = script!("lease.lua", "renew.lua");
static TAKE_OVER: Script = script!("keys.lua", "token.lua", "lease.lua", "take_over.lua");
static RAISE: Script = script!("raise.lua");
static INSPECT: Script = script!("inspect.lua");

pub(super) const NO_ARGS: &[&str] = &[];

/// The token counter.
pub(super) const FENCE: &str = "onward:fence";
/// How long a key is handed over for, as `lease.lua` has it. A process that stands still costs the others this, once.
pub(super) const CLAIM: Duration = Duration::from_secs(1);
/// How often the first in a queue looks again while a foreign client has the key: it sends no word.
const FOREIGN: Duration = Duration::from_millis(250);
/// How often a waiter looks again that counts on being woken.
const WOKEN: Duration = Duration::from_secs(5);
/// Keys that one step of a listing looks at.
const SCAN: usize = 1_000;

/// The queue of a key, as the scripts name it.
pub(super) fn queue_of(key: &LockKey) -> String {
    format!("onward:q:{key}")
}

/// Leases in Redis. One of these is one process to the queues.
#[derive(Debug)]
pub struct RedisLocks {
    /// Everything but renewals; wakes come in here, too.
    pub(super) calls: Link,
    /// Renewals have a connection of their own, so that no backlog of calls lets a lease end.
    renewals: Link,
    places: Arc<Places>,
    clock: Arc<ServerClock>,
}

impl RedisLocks {
    /// Connects to a server.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): it is a cluster, whose failovers lose leases without a word to us, or older than 6.2.
    /// [`Kind::Backend`](crate::Kind::Backend): it is away, or knows no such user.
    pub async fn open(address: &Address) -> Result<Self> {
        if address.is_cluster() {
            return Err(on_a_cluster());
        }
        let clock = Arc::new(ServerClock::default());
        let places = Arc::new(Places::new(Arc::clone(&clock)));
        let calls = Link::listen(address, vec![places.channel()], Arc::clone(&places) as _).await?;
        places.work_on(&calls);
        let mode: String = calls.call(redis::cmd("INFO").arg("cluster")).await?;
        if mode.contains("cluster_enabled:1") {
            return Err(on_a_cluster());
        }
        Ok(Self { renewals: Link::open(address).await?, calls, places, clock })
    }

    async fn try_one(&self, ask: Ask) -> Result<Tried> {
        let sent = Clock::system().now();
        // A lease that is longer than what was asked for would outlive a holder that died.
        if ask.place == (Place::Queue { short: true })
            && ask.ttl >= CLAIM
            && let Some(handed) = self.places.take_handed(&ask.key, sent)
        {
            return Ok(handed);
        }
        let (mark, ttl) = (mark(&ask.owner), millis(ask.ttl));
        let floor = self.clock.floor(sent).map(|floor| floor.to_string()).unwrap_or_default();
        let place = (ask.place != Place::None).then(|| self.places.ask(&ask.key, &ask.holder));
        let mut args = vec![&*mark, &*ask.holder, &ttl, &floor];
        if let Some((how, name)) = &place {
            args.extend([how, &**name]);
        }
        let answer: Value = ACQUIRE.run(&self.calls, &[ask.key.as_str()], &args).await?;
        if let Value::BulkString(token) = &answer {
            self.left(&ask.key, place.as_ref());
            return Ok(Tried::Granted { token: token_of(token)?, remaining: ask.ttl, already_ours: false });
        }
        let (won, token, left, kind, clock): (i64, Option<Vec<u8>>, i64, i64, Option<u64>) =
            redis::from_redis_value(answer).map_err(|e| strange().with_source(e))?;
        if let Some(micros) = clock {
            self.clock.heard(sent, Clock::system().now(), micros);
        }
        let remaining = u64::try_from(left).ok().map(Duration::from_millis);
        if won == 1 {
            if place.as_ref().is_some_and(|(how, _)| *how == "2") {
                self.places.waited_for(&ask.key);
            }
            self.left(&ask.key, place.as_ref());
            let token = token_of(&token.unwrap_or_default())?;
            return Ok(Tried::Granted { token, remaining: remaining.unwrap_or_default(), already_ours: kind == 1 });
        }
        let Some((_, name)) = place else { return Ok(Tried::Busy { remaining }) };
        self.places.stands(&ask.key, &name, sent);
        let look_in = match kind {
            2 => FOREIGN + jitter(FOREIGN * 2),
            _ => WOKEN + jitter(WOKEN),
        };
        Ok(Tried::Queued { remaining, look_in })
    }

    /// A place is used up by the request that named it.
    fn left(&self, key: &LockKey, place: Option<&(&'static str, Arc<str>)>) {
        if let Some((_, name)) = place {
            self.places.left(key, name);
        }
    }

    async fn release_all(&self, batch: Vec<Claim>) -> Result<Vec<Release>> {
        let keys: Vec<&str> = batch.iter().map(|claim| claim.key.as_str()).collect();
        let mut waited_for = false;
        batch.iter().for_each(|claim| waited_for |= self.places.was_waited_for(&claim.key));
        let answers: String = match &*batch {
            [claim] if claim.keep.is_zero() && waited_for => self.release_to_next(claim).await?,
            [claim] if claim.keep.is_zero() => RELEASE.run(&self.calls, &keys, &[mark(&claim.owner)]).await?,
            _ => RELEASE.run(&self.calls, &keys, &batch.iter().flat_map(ending).collect::<Vec<_>>()).await?,
        };
        for (claim, _) in batch.iter().zip(answers.bytes()).filter(|(_, answer)| *answer == b'2') {
            self.places.watch(&claim.key);
        }
        Ok(answers.bytes().map(|answer| if answer == b'0' { Release::AlreadyLost } else { Release::Released }).collect())
    }

    /// Ends a lease behind which others probably wait.
    ///
    /// What a server has to say to several, it says first to the one to whom it had nothing to say before. So the next holder hears before
    /// this one, if this one is owed an answer already.
    async fn release_to_next(&self, claim: &Claim) -> Result<String> {
        let sent = Clock::system().now();
        let floor = self.clock.floor(sent).map(|floor| floor.to_string());
        let args: Vec<String> = std::iter::once(mark(&claim.owner)).chain(floor).collect();
        let mut time = redis::Cmd::with_capacity(1, 4);
        time.arg("TIME");
        let (time, answer) = RELEASE.run_behind(time, &self.calls, &[claim.key.as_str()], &args).await?;
        if let Some((seconds, micros)) = time {
            let _: (u64, u64) = (seconds, micros);
            self.clock.heard(sent, Clock::system().now(), seconds * 1_000_000 + micros);
        }
        Ok(answer)
    }

    async fn renew_all(&self, batch: Vec<Renewal>) -> Result<Vec<Option<Renewed>>> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&str> = batch.iter().map(|renewal| renewal.key.as_str()).collect();
        let args: Vec<String> = batch.iter().flat_map(|renewal| [mark(&renewal.owner), millis(renewal.ttl)]).collect();
        let answers: Vec<Value> = RENEW.run(&self.renewals, &keys, &args).await?;
        answers.into_iter().map(renewed).collect()
    }

    async fn read(&self, key: LockKey) -> Result<Option<LeaseRow>> {
        let answer: Option<(Option<Vec<u8>>, i64)> = INSPECT.run(&self.calls, &[key.as_str()], NO_ARGS).await?;
        Ok(answer.map(|(value, left)| row(value.as_deref().unwrap_or_default(), left)))
    }

    /// Walks through all keys: Redis keeps no order. So each page costs the whole walk, and keeps only what belongs to it.
    async fn page(&self, prefix: &str, after: Option<&LockKey>, limit: usize) -> Result<Vec<(LockKey, LeaseRow)>> {
        let mut page = std::collections::BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("{}*", literally(prefix))).arg("COUNT").arg(SCAN).arg("TYPE").arg("string");
            let (next, found): (String, Vec<Vec<u8>>) = self.calls.call(&scan).await?;
            let named = found.iter().filter_map(|key| LockKey::raw(std::str::from_utf8(key).ok()?).ok());
            let wanted: Vec<LockKey> = named.filter(|key| after.is_none_or(|after| key > after)).collect();
            if !wanted.is_empty() {
                let mut look = redis::pipe();
                for key in &wanted {
                    // A lease is short; what else is in a key may be long.
                    look.cmd("GETRANGE").arg(key.as_str()).arg(0).arg(255).cmd("PTTL").arg(key.as_str());
                }
                let values: Vec<Value> = self.calls.call_all(&look).await?;
                for (key, pair) in wanted.into_iter().zip(values.chunks(2)) {
                    let [Value::BulkString(value), Value::Int(left)] = pair else { continue };
                    // Whatever is no lease of ours may be anything: only who knows that it is a lock may call it one.
                    if *left != -2 && value.starts_with(b"ow1:") {
                        page.insert(key, row(value, *left));
                    }
                }
                while page.len() > limit {
                    page.pop_last();
                }
            }
            if next == "0" {
                return Ok(page.into_iter().collect());
            }
            cursor = next;
        }
    }

    async fn take(&self, ask: Ask) -> Result<Option<FencingToken>> {
        let (mark, ttl) = (mark(&ask.owner), millis(ask.ttl));
        match TAKE_OVER.run(&self.calls, &[ask.key.as_str()], &[&mark, &*ask.holder, &ttl]).await? {
            Value::Nil => Ok(None),
            Value::BulkString(token) => token_of(&token).map(Some),
            _ => Err(Error::unsupported("the key holds another type than a lock, which is not ours to remove")),
        }
    }
}

/// Why there are no locks on a cluster.
pub(crate) const NOT_ON_A_CLUSTER: &str =
    "locks need one redis server, not a cluster: use one server, Sentinel's master, or another engine";

fn on_a_cluster() -> Error {
    Error::unsupported(NOT_ON_A_CLUSTER)
}

/// What the script for releases has to know of each of several.
fn ending(claim: &Claim) -> [String; 3] {
    // Who keeps a key that was given back is nobody's to know.
    let nobody = if claim.keep.is_zero() { String::new() } else { mark(&Owner::draw()) };
    [mark(&claim.owner), nobody, millis(claim.keep)]
}

/// How a lease of an owner begins.
fn mark(owner: &Owner) -> String {
    let mut digits = [0; 32];
    // Two for each of 16 bytes: they fit.
    let _ = hex::encode_to_slice(owner.as_bytes(), &mut digits);
    let mut mark = String::with_capacity(37);
    mark.push_str("ow1:");
    mark.extend(digits.iter().map(|digit| char::from(*digit)));
    mark.push(':');
    mark
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn jitter(below: Duration) -> Duration {
    Duration::from_nanos(random::below(u64::try_from(below.as_nanos()).unwrap_or(u64::MAX)))
}

fn token_of(digits: &[u8]) -> Result<FencingToken> {
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    let number = number.ok_or_else(|| Error::integrity("a lease in redis has no token").with_unknown_effect())?;
    FencingToken::new(number)
        .map_err(|e| Error::integrity("a lease in redis has a token out of bounds").with_unknown_effect().with_source(e))
}

fn renewed(answer: Value) -> Result<Option<Renewed>> {
    let Value::Array(pair) = answer else { return Ok(None) };
    match pair.as_slice() {
        [Value::BulkString(token), Value::Int(left)] => {
            Ok(Some(Renewed { token: token_of(token)?, remaining: Duration::from_millis(u64::try_from(*left).unwrap_or(0)) }))
        }
        _ => Err(strange()),
    }
}

/// Reads a lease; what has another form is a foreign client's lock.
fn row(value: &[u8], left: i64) -> LeaseRow {
    let remaining = u64::try_from(left).ok().map(Duration::from_millis);
    ours(value, remaining).unwrap_or_else(|| LeaseRow {
        owner: Owner::draw(),
        holder: "foreign".into(),
        token: None,
        remaining,
        since: Clock::system().wall(),
    })
}

fn ours(value: &[u8], remaining: Option<Duration>) -> Option<LeaseRow> {
    let mut parts = std::str::from_utf8(value).ok()?.strip_prefix("ow1:")?.splitn(4, ':');
    let owner: Owner = parts.next()?.parse().ok()?;
    let token = FencingToken::new(parts.next()?.parse().ok()?).ok()?;
    let since = parts.next()?.trim_start_matches('h').parse().ok()?;
    Some(LeaseRow { owner, holder: parts.next()?.into(), token: Some(token), remaining, since: Timestamp::from_micros(since) })
}

/// Writes a prefix as a pattern that means itself.
fn literally(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

impl LockEngine for RedisLocks {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: true, look_again: FOREIGN }
    }

    fn has_queue(&self) -> bool {
        true
    }

    fn listen(&self, waiters: Weak<dyn Waiters>) {
        self.places.listen(waiters);
    }

    fn leave(&self, keys: Vec<LockKey>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.places.leave(&self.calls, keys))
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(self.try_one(ask))
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(self.renew_all(batch))
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        Box::pin(self.release_all(batch))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(self.read(key))
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(async move { self.page(&prefix, after.as_ref(), limit).await })
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        Box::pin(self.take(ask))
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(self.look_around())
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let _: i64 = RAISE.run(&self.calls, &[FENCE], &[newest.to_string()]).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_hand_over_for_as_long_as_is_waited_for_and_name_what_is_named_here() {
        assert!(include_str!("scripts/give.lua").contains(&format!("local CLAIM = '{}'", CLAIM.as_millis())));
        assert!(include_str!("scripts/token.lua").contains(&format!("local FENCE = '{FENCE}'")));
    }

    #[test]
    fn a_lease_begins_with_its_owner() {
        let owner = Owner::draw();
        assert_eq!(mark(&owner), format!("ow1:{owner}:"));
    }
}
