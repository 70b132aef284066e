//! The cache on Redis: one for every process that names the same server.
//!
//! A look is three plain commands in one trip; everything else is one script, so one step (C1). A lease is a nonce beside the value, in a
//! hash that every purge deletes: absent or different is refused, so whatever loses leases (a purge, eviction, FLUSHDB, an empty restart)
//! makes late fills fail (INV-2). Each entry bears the epoch of its namespace. The epoch's record names the server process that it was
//! begun under: what comes back from a snapshot or another primary is of no epoch of now, and nothing of it is live. A flush deletes the
//! record. Time is the server's (C5), but for a manual clock, as in tests.

use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use redis::{Pipeline, RedisError, RedisResult, Value};

use super::address::Address;
use super::cache_names::{self, BUCKETS, PURGED, Part, bucket, name, prefix};
use super::cache_nodes::{Nodes, Way};
use super::cache_steps::{Act, Step};
use super::connection::Link;
use super::error::{Sent, of_call, strange};
use super::utopia;
use crate::cache::{
    BusyReason, CacheEngine, CacheStats, Entry, Expiry, Filled, Filling, Flushed, GuardEnd, GuardOwner, Invalidation, Layout, Life, Nonce,
    Now, Promise, Reserved, Scope, Slot, Touched,
};
use crate::observe::Finding;
use crate::random;
use crate::time::Clock;
use crate::{Error, Result};

/// When to come back if there is no room for a lease or a guard, or what lies there is not ours.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// A cache engine on a Redis server or cluster.
///
/// Scope: all processes that use the server, each through an engine of its own. Exempt from C3; a restart or failover that loses a purge
/// moves the epoch, so what was cached is gone and not wrong.
#[derive(Debug)]
pub struct RedisCache {
    pub(super) nodes: Nodes,
    /// Connections that bring purges by others.
    pub(super) told: Mutex<Vec<Link>>,
    clock: Clock,
    layout: Layout,
}

impl RedisCache {
    /// Connects. The times of entries are the server's, unless the clock is a manual one.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the server is away or knows no such user. `Unsupported`: it is too old, or does not tell
    /// which process it is.
    pub async fn open(address: &Address, clock: Clock) -> Result<Self> {
        Ok(Self { nodes: Nodes::open(address).await?, told: Mutex::default(), clock, layout: Layout::default() })
    }

    /// Lays it out as told: [`Layout::Utopia`] and its sibling share the purges of the namespace `default` with utopia-php/cache.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): such a layout on a cluster, where PHP's side has no generations.
    pub fn with_layout(mut self, layout: Layout) -> Result<Self> {
        if layout != Layout::Onward && matches!(self.nodes, Nodes::Cluster(_)) {
            return Err(Error::unsupported("the cache layouts utopia and utopia-case-sensitive need single redis servers, not a cluster"));
        }
        self.layout = layout;
        Ok(self)
    }

    /// Tells with whom the keys of a namespace are shared.
    pub(super) fn sharing(&self, namespace: &str) -> Layout {
        if utopia::is_shared(namespace) { self.layout } else { Layout::Onward }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the time that scripts are told: none, so that they ask the server, but for a manual clock.
    pub(super) fn told_time(&self) -> String {
        match self.clock.moved() {
            Some(_) => (self.clock.now().as_nanos() / 1_000_000).to_string(),
            None => String::new(),
        }
    }

    /// Looks at slots of one namespace in one trip.
    ///
    /// The epoch is read first and the time last: what changes in between makes an entry a miss, never a hit.
    async fn look(&self, namespace: &str, slots: &[Slot<'_>]) -> Result<Vec<Result<Option<Entry>>>> {
        let (prefix, sharing) = (prefix(namespace), self.sharing(namespace));
        let mut pipeline = Pipeline::with_capacity(slots.len() + 2);
        pipeline.cmd("HGET").arg(cache_names::epochs(bucket(namespace))).arg(namespace);
        for Slot { key, field, .. } in slots {
            match field {
                None => pipeline.cmd("GET").arg(name(&prefix, Part::Plain, key)),
                Some(field) => pipeline.cmd("HGET").arg(name(&prefix, Part::Fields, key)).arg(*field),
            };
            if let Some(hash) = sharing.name_in_php(key) {
                pipeline.cmd("HGET").arg(&*hash).arg(utopia::GENERATION);
            }
        }
        pipeline.cmd("TIME");
        let (mut answers, server) = self.nodes.each(bucket(namespace), Way::Calls, &pipeline).await?;
        let time = answers.pop().ok_or_else(strange)?.map_err(refused)?;
        let mut answers = answers.into_iter();
        let record = answers.next().ok_or_else(strange)?.map_err(refused)?;
        let now = match self.told_time() {
            told if told.is_empty() => server_ms(&time).ok_or_else(strange)?,
            told => told.parse().unwrap_or(u64::MAX),
        };
        let record = match record {
            Value::BulkString(record) => record,
            _ => Vec::new(),
        };
        let epoch = cache_names::epoch(&record, &server);
        let read = |answer: RedisResult<Value>, epoch: Option<&[u8]>| match (answer, epoch) {
            (Ok(Value::BulkString(bytes)), Some(epoch)) => Ok(cache_names::entry(bytes, epoch, now)),
            (Ok(_), _) => Ok(None),
            // Somebody else's: an invalidation removes it.
            (Err(error), _) if is_wrong_type(&error) => Ok(None),
            (Err(error), _) => Err(refused(error)),
        };
        let mut entries = Vec::with_capacity(slots.len());
        while let Some(answer) = answers.next() {
            entries.push(match sharing {
                Layout::Onward => read(answer, epoch),
                Layout::Utopia | Layout::UtopiaCaseSensitive => match answers.next().ok_or_else(strange)? {
                    Ok(generation) => read(answer, epoch.and_then(|epoch| utopia::mixed(epoch, &generation)).as_ref().map(|own| &own[..])),
                    Err(error) => read(Err(error), epoch),
                },
            });
        }
        Ok(entries)
    }

    /// Carries out one step.
    async fn step(&self, way: Way, step: Step<'_>) -> Result<RedisResult<Value>> {
        let sharing = self.sharing(step.slot.namespace);
        let step = step.shared(sharing);
        self.steps(way, &[step]).await?.pop().ok_or_else(strange)
    }

    /// Carries out steps of one namespace in one trip.
    async fn steps(&self, way: Way, steps: &[Step<'_>]) -> Result<Vec<RedisResult<Value>>> {
        let Some(first) = steps.first() else { return Ok(Vec::new()) };
        self.nodes.carry_out(bucket(first.slot.namespace), way, &self.told_time(), steps).await
    }

    /// Carries out a batch, the slots of one namespace after those of another; what a trip fails with, all its slots do.
    async fn batch<T>(&self, way: Way, steps: Vec<Step<'_>>, read: impl Fn(RedisResult<Value>) -> Result<T>) -> Vec<Result<T>> {
        let mut answers = Vec::with_capacity(steps.len());
        let steps = steps.into_iter().map(|step| {
            let sharing = self.sharing(step.slot.namespace);
            step.shared(sharing)
        });
        let steps: Vec<Step<'_>> = steps.collect();
        for steps in steps.chunk_by(|one, next| one.slot.namespace == next.slot.namespace) {
            match self.steps(way, steps).await {
                Ok(answered) => answers.extend(answered.into_iter().map(&read)),
                Err(error) => answers.extend(steps.iter().map(|_| Err(error.again()))),
            }
        }
        answers
    }

    fn reserving<'a>(slot: Slot<'a>, nonce: Nonce, fill_ttl: Duration, instead_of: Option<Nonce>) -> Step<'a> {
        let instead_of = instead_of.map(|nonce| *nonce.as_bytes());
        Step::new(Act::Reserve, slot)
            .with(nonce.as_bytes())
            .with_number(ms_up(fill_ttl))
            .with(instead_of.as_ref().map_or(b"".as_slice(), |nonce| nonce))
            .with(random::bytes::<8>())
    }

    fn committing<'a>(slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> Step<'a> {
        // An entry never lives longer than it was given; none lives for no time.
        let ttl = ms(life.ttl).max(1);
        Step::new(Act::Commit, slot).with(nonce.as_bytes()).with_number(ttl).with_number(ms(life.grace)).with_payload(payload)
    }

    fn purging<'a>(slot: Slot<'a>, act: &str, owner: &[u8], guard: Duration, hold_off: Duration) -> Step<'a> {
        Step::new(Act::Purge, slot).with(act).with(owner).with_number(ms_up(guard)).with_number(ms_up(hold_off))
    }

    fn invalidating(slot: Slot<'_>, hold_off: Duration) -> Step<'_> {
        Self::purging(slot, "invalidate", b"", Duration::ZERO, hold_off)
    }

    /// Deletes epochs: of what they were the epochs, nothing is live. Then tells those who keep near copies.
    async fn flush_epochs(&self, bucket: u8, delete: &redis::Cmd, told: Option<&str>) -> Result<Flushed> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(delete.clone());
        if let Some(told) = told {
            pipeline.cmd("PUBLISH").arg(PURGED).arg(told);
        }
        let (answers, _) = self.nodes.each(bucket, Way::Purges, &pipeline).await?;
        // Who may not publish still has them bounded by time.
        answers.into_iter().next().ok_or_else(strange)?.map_err(refused)?;
        Ok(Flushed::Flushed)
    }
}

/// Turns what one of many commands was refused with into an error.
fn refused(error: RedisError) -> Error {
    of_call(error, Sent::Command)
}

/// Turns what a script was refused with into an error: what it did before stays.
fn refused_midway(error: RedisError) -> Error {
    of_call(error, Sent::Steps)
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE") || error.detail().is_some_and(|detail| detail.contains("WRONGTYPE"))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Rounds up: what keeps others out does so for its whole time.
fn ms_up(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Reads what `TIME` answers, as milliseconds.
pub(super) fn server_ms(time: &Value) -> Option<u64> {
    let Value::Array(parts) = time else { return None };
    let part = |at: usize| number(parts.get(at)?);
    Some(part(0)? * 1_000 + part(1)? / 1_000)
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
        Value::Double(number) if *number >= 0.0 => Some(*number as u64),
        _ => None,
    }
}

/// Splits what a script answers: a word, then what belongs to it.
fn word(answer: &Value) -> (&[u8], &[Value]) {
    match answer {
        Value::BulkString(word) => (word, &[]),
        Value::Array(parts) => match parts.split_first() {
            Some((Value::BulkString(word), rest)) => (word, rest),
            _ => (b"", &[]),
        },
        _ => (b"", &[]),
    }
}

fn reserved(nonce: Nonce, answer: RedisResult<Value>) -> Result<Reserved> {
    let away = Reserved::Busy { reason: BusyReason::Away, retry_after: FULL_RETRY };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if is_wrong_type(&error) => return Ok(away),
        Err(error) => return Err(refused_midway(error)),
    };
    let busy = |reason, rest: &[Value]| {
        let left = rest.first().and_then(number).ok_or_else(strange)?;
        Ok(Reserved::Busy { reason, retry_after: Duration::from_millis(left) })
    };
    match word(&answer) {
        (b"lease", _) => Ok(Reserved::Lease(nonce)),
        (b"hit", [Value::BulkString(bytes), now]) => {
            let now = number(now).ok_or_else(strange)?;
            let epoch: [u8; 8] = bytes.get(1..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(strange)?;
            // The script has compared the epoch.
            cache_names::entry(bytes.clone(), &epoch, now).map(Reserved::Hit).ok_or_else(strange)
        }
        (b"guarded", rest) => busy(BusyReason::Guarded, rest),
        (b"loading", rest) => busy(BusyReason::Loading, rest),
        (b"full" | b"strange", _) => Ok(away),
        _ => Err(strange()),
    }
}

fn filled(answer: RedisResult<Value>) -> Result<Filled> {
    let answer = answer.map_err(refused_midway)?;
    match word(&answer).0 {
        b"stored" => Ok(Filled::Stored),
        b"replaced" => Ok(Filled::Superseded { now: Now::Replaced }),
        b"absent" => Ok(Filled::Superseded { now: Now::Absent }),
        b"flushed" => Ok(Filled::Superseded { now: Now::Flushed }),
        b"full" => Err(Error::invalid("a cache key has at most 4096 fields")),
        _ => Err(strange()),
    }
}

/// Reads what a purge answers: whether a reader could see something, and whether the guard of a release stood.
fn purged(answer: RedisResult<Value>) -> Result<(bool, bool)> {
    let answer = answer.map_err(|error| refused_midway(error).with_unknown_effect())?;
    match word(&answer) {
        (b"done", [Value::Int(seen), Value::Int(stood)]) => Ok((*seen == 1, *stood == 1)),
        (b"full", _) => Err(Error::overloaded("too many write guards", FULL_RETRY)),
        _ => Err(strange()),
    }
}

fn invalidated(answer: RedisResult<Value>) -> Result<Invalidation> {
    Ok(if purged(answer)?.0 { Invalidation::Removed } else { Invalidation::Absent })
}

fn is_one(answer: RedisResult<Value>) -> Result<bool> {
    match answer.map_err(|error| refused_midway(error).with_unknown_effect())? {
        Value::Int(flag) => Ok(flag == 1),
        _ => Err(strange()),
    }
}

fn whole<'a>(namespace: &'a str, key: &'a [u8]) -> Slot<'a> {
    Slot { namespace, key, field: None }
}

impl CacheEngine for RedisCache {
    fn name(&self) -> &'static str {
        match self.layout {
            Layout::Onward => "redis",
            Layout::Utopia | Layout::UtopiaCaseSensitive => "redis-utopia",
        }
    }

    fn promise(&self) -> Promise {
        Promise { scope: Scope::Shared, staleness: None, foreign_writers: self.layout != Layout::Onward }
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        Box::pin(async move { self.look(slot.namespace, &[slot]).await?.pop().ok_or_else(strange)? })
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        let nonce = Nonce::random();
        Box::pin(async move { reserved(nonce, self.step(Way::Calls, Self::reserving(slot, nonce, fill_ttl, instead_of)).await?) })
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        Box::pin(async move { filled(self.step(Way::Calls, Self::committing(slot, nonce, payload, life)).await?) })
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.step(Way::Calls, Step::new(Act::Abandon, slot).with(nonce.as_bytes())).await?.map_err(refused_midway)?;
            Ok(())
        })
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        Box::pin(async move { invalidated(self.step(Way::Purges, Self::invalidating(slot, hold_off)).await?) })
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        Box::pin(async move {
            if self.sharing(slot.namespace) != Layout::Onward {
                return Err(Error::unsupported("a key shared with utopia-php/cache keeps nothing as stale: invalidate it"));
            }
            let kept = is_one(self.step(Way::Purges, Step::new(Act::Expire, slot)).await?)?;
            Ok(if kept { Expiry::Expired } else { Expiry::Absent })
        })
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        Box::pin(async move {
            let touched = is_one(self.step(Way::Calls, Step::new(Act::Touch, slot).with_number(ms(ttl).max(1))).await?)?;
            Ok(if touched { Touched::Touched } else { Touched::Absent })
        })
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        Box::pin(async move {
            let step = Step::new(Act::List, whole(namespace, key));
            let Value::Array(names) = self.step(Way::Calls, step).await?.map_err(refused)? else { return Err(strange()) };
            let read = |name| match name {
                Value::BulkString(name) => Ok(Bytes::from(name)),
                _ => Err(strange()),
            };
            let mut names = names.into_iter().map(read).collect::<Result<Vec<_>>>()?;
            names.sort_unstable();
            Ok(names)
        })
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let step = Self::purging(whole(namespace, key), "guard", owner.as_bytes(), ttl, Duration::ZERO);
            purged(self.step(Way::Purges, step).await?)?;
            Ok(())
        })
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            let step = Step::new(Act::Guarded, whole(namespace, key)).with(owner.as_bytes());
            is_one(self.step(Way::Calls, step).await?)
        })
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        Box::pin(async move {
            let step = Self::purging(whole(namespace, key), "release", owner.as_bytes(), Duration::ZERO, hold_off);
            let (_, stood) = purged(self.step(Way::Purges, step).await?)?;
            Ok(if stood { GuardEnd::Released } else { GuardEnd::WasLost })
        })
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        Box::pin(async move {
            let bucket = bucket(namespace);
            let mut delete = redis::cmd("HDEL");
            delete.arg(cache_names::epochs(bucket)).arg(namespace);
            self.flush_epochs(bucket, &delete, Some(&format!("{namespace}:"))).await
        })
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        Box::pin(async move {
            for bucket in 0..BUCKETS {
                let mut delete = redis::cmd("DEL");
                delete.arg(cache_names::epochs(bucket));
                let told = (bucket + 1 == BUCKETS).then_some("");
                let flushed = self.flush_epochs(bucket, &delete, told).await;
                flushed.map_err(|error| if bucket == 0 { error } else { error.with_unknown_effect() })?;
            }
            Ok(Flushed::Flushed)
        })
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        Box::pin(self.count(namespace))
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(self.look_around())
    }

    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(slots.len());
            for slots in slots.chunk_by(|one, next| one.namespace == next.namespace) {
                match self.look(slots[0].namespace, slots).await {
                    Ok(entries) => answers.extend(entries),
                    Err(error) => answers.extend(slots.iter().map(|_| Err(error.again()))),
                }
            }
            answers
        })
    }

    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        Box::pin(async move {
            let nonces: Vec<Nonce> = asked.iter().map(|_| Nonce::random()).collect();
            let steps = asked.iter().zip(&nonces).map(|((slot, instead_of), nonce)| Self::reserving(*slot, *nonce, fill_ttl, *instead_of));
            let answers = self.batch(Way::Calls, steps.collect(), Ok).await;
            answers.into_iter().zip(nonces).map(|(answer, nonce)| reserved(nonce, answer?)).collect()
        })
    }

    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        let steps = fills.iter().map(|fill| Self::committing(fill.slot, fill.nonce, fill.payload.clone(), fill.life)).collect();
        Box::pin(self.batch(Way::Calls, steps, filled))
    }

    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        let steps = slots.iter().map(|slot| Self::invalidating(*slot, hold_off)).collect();
        Box::pin(self.batch(Way::Purges, steps, invalidated))
    }
}
