//! How a value is found or loaded: hit, else lease, load, fill.
//!
//! What fails: a lookup or reservation that errs means load without a fill; a commit that errs is sent once more and then only counted,
//! for the value is good; a loader that errs or runs too long gives the lease back.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bulkhead::Permit;
use super::codec;
use super::engine::{BusyReason, Entry, Filled, Nonce, Reserved, Slot, SlotBuf};
use super::flight::{Ended, Joined, Leading};
use super::handle::Cache;
use super::lease::Held;
use super::options::check_ttl;
use crate::observe::Event;
use crate::retry::{self, Backoff};
use crate::time::{Clock, Moment};
use crate::{Code, Error, Kind, Result};

/// How often a caller joins a round of others before it loads by itself.
const ROUNDS_MAX: u32 = 8;

/// A value and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Fetched<T> {
    /// The value; `None` if the source has none.
    pub value: Option<T>,
    /// How it came.
    pub how: How,
}

/// How a fetched value came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// From the cache.
    Hit,
    /// From the loader, with an attempt to fill.
    Loaded(Filled),
    /// From the loader, without a fill.
    Unfilled(Unfilled),
}

/// Why a loaded value was not offered to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unfilled {
    /// The engine failed or had no room for a lease.
    Away,
    /// A write guard stands.
    Guarded,
    /// Somebody else held the lease for longer than `busy_wait`.
    Loading,
    /// The encoded value is above `value_limit`.
    TooLarge,
    /// The loader called [`Fill::skip`].
    Skipped,
    /// The value cannot be encoded as JSON.
    Unencodable,
}

/// What a loader may say about the fill.
#[derive(Clone, Debug)]
pub struct Fill {
    wish: Arc<Mutex<Wish>>,
    deadline: Moment,
    clock: Clock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    ttl: Option<Duration>,
    skip: bool,
}

impl Fill {
    /// Sets the life of this value, or of this absence.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: zero or above 30 days.
    pub fn ttl(&self, ttl: Duration) -> Result<()> {
        check_ttl(ttl)?;
        self.wish.lock().ttl = Some(ttl);
        Ok(())
    }

    /// Keeps this value out of the cache.
    pub fn skip(&self) {
        self.wish.lock().skip = true;
    }

    /// Returns how long the loader may still run before it is cancelled.
    pub fn time_left(&self) -> Duration {
        self.deadline.left(self.clock.now())
    }
}

/// A loader's own error, shared by all callers that waited for that load.
///
/// It stands as the source of the [`Error`]; [`LoadError::get_ref`] gives the original back.
#[derive(Clone)]
pub struct LoadError(Arc<dyn StdError + Send + Sync>);

impl LoadError {
    /// Returns the loader's error, for a downcast.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for LoadError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Why a round has no value; makes an error for each of its callers.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Loader(LoadError),
    TimedOut,
    Full(Duration),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::Loader(error) => Error::unavailable("the loader failed").with_source(error),
            Self::TimedOut => {
                Error::new(Kind::Backend, Code::DeadlineExceeded, "the loader ran longer than hard_timeout and was cancelled")
            }
            Self::Full(after) => Error::overloaded("max_loads of this namespace run already", after),
        }
        .during("load")
    }
}

/// What the leader may do.
enum Right<'a> {
    Hit(Entry),
    Load { permit: Permit<'a>, lease: Result<Held, Unfilled> },
}

/// Returns what the engine holds, else what the loader gives, through one flight a key.
pub(super) async fn fetch<T, E, F, Fut>(cache: &Cache, slot: Slot<'_>, load: F) -> Result<Fetched<T>>
where
    T: Serialize + DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: FnOnce(Fill) -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let mut seen = Seen::Nothing;
    match cache.room.engine.lookup(slot).await {
        Ok(Some(entry)) => match codec::decode(&entry.payload) {
            Some(value) => return Ok(answer(cache, value, How::Hit)),
            None => seen = Seen::Unreadable(entry.nonce),
        },
        Ok(None) => {}
        Err(_) => seen = Seen::Away,
    }
    let result = fetch_missed(cache, &cache.own(slot), seen, load).await;
    if result.is_err() {
        cache.observe(&Event::CacheLoad { result: "error" });
    }
    result
}

/// What the lookup found instead of a usable value.
#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    Unreadable(Nonce),
    Away,
}

async fn fetch_missed<T, E, F, Fut>(cache: &Cache, slot: &SlotBuf, seen: Seen, load: F) -> Result<Fetched<T>>
where
    T: Serialize + DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: FnOnce(Fill) -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let flights = &cache.room.flights;
    let mut arrived_before = false;
    for _ in 0..ROUNDS_MAX {
        let (round, midway) = match flights.join(slot, cache.step_end()) {
            Joined::Lead(leading) => return lead(cache, slot, leading, seen, load).await,
            Joined::Own => return Err(Error::invalid("a loader asked for the key that it loads").during("load")),
            Joined::Follow { round, midway } => (round, midway),
        };
        match round.wait(&cache.room.clock).await {
            Some(Ended::Value { payload, how }) if arrived_before || (midway && how == How::Loaded(Filled::Stored)) => {
                if let Some(value) = codec::decode(&payload) {
                    return Ok(answer(cache, value, how));
                }
            }
            Some(Ended::Failed(failure)) => return Err(failure.into_error()),
            Some(Ended::Value { .. } | Ended::Gone) => {}
            None => flights.overtake(slot, &round),
        }
        // The round is out of the table: whichever runs next began after this call did.
        arrived_before = true;
    }
    lead(cache, slot, flights.alone(slot, cache.step_end()), seen, load).await
}

async fn lead<T, E, F, Fut>(cache: &Cache, slot: &SlotBuf, leading: Leading<'_>, seen: Seen, load: F) -> Result<Fetched<T>>
where
    T: Serialize + DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: FnOnce(Fill) -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let (permit, lease) = match obtain(cache, slot, &leading, seen).await {
        Ok(Right::Load { permit, lease }) => (permit, lease),
        Ok(Right::Hit(entry)) => match codec::decode(&entry.payload) {
            Some(value) => {
                leading.finish(Ended::Value { payload: entry.payload, how: How::Hit });
                return Ok(answer(cache, value, How::Hit));
            }
            // Written as another type since the lookup: load, and leave the entry to those who can read it.
            None => match enter(cache, slot, &leading).await {
                Ok(permit) => (permit, Err(Unfilled::Loading)),
                Err(failure) => return fail(leading, failure),
            },
        },
        Err(failure) => return fail(leading, failure),
    };
    let deadline = cache.room.clock.now() + cache.options.hard_timeout;
    let fill = Fill { wish: Arc::default(), deadline, clock: cache.room.clock.clone() };
    leading.alive_until(cache.step_end());
    let loaded = retry::deadline(&cache.room.clock, deadline, leading.run(|| load(fill.clone()))).await;
    drop(permit);
    let value = match loaded {
        Some(Ok(value)) => value,
        Some(Err(error)) => return fail(leading, Failure::Loader(LoadError(Arc::from(error.into())))),
        None => return fail(leading, Failure::TimedOut),
    };
    let payload = codec::encode(value.as_ref());
    let wish = *fill.wish.lock();
    let how = settle(cache, &leading, lease, payload.as_ref(), wish, value.is_none()).await;
    leading.finish(payload.map_or(Ended::Gone, |payload| Ended::Value { payload, how }));
    Ok(answer(cache, value, how))
}

fn fail<T>(leading: Leading<'_>, failure: Failure) -> Result<T> {
    leading.finish(Ended::Failed(failure.clone()));
    Err(failure.into_error())
}

/// Offers the loaded value to the engine, if there is a lease and nothing against it.
async fn settle(
    cache: &Cache,
    leading: &Leading<'_>,
    lease: Result<Held, Unfilled>,
    payload: Option<&Bytes>,
    wish: Wish,
    absent: bool,
) -> How {
    let held = match lease {
        Ok(held) => held,
        Err(reason) => return How::Unfilled(reason),
    };
    // Each of these drops the lease, which gives it back.
    if wish.skip {
        return How::Unfilled(Unfilled::Skipped);
    }
    let Some(payload) = payload else { return How::Unfilled(Unfilled::Unencodable) };
    if codec::value_len(payload) > cache.options.value_limit {
        return How::Unfilled(Unfilled::TooLarge);
    }
    let ttl = wish.ttl.unwrap_or(if absent { cache.options.negative_ttl } else { cache.options.ttl });
    leading.alive_until(cache.step_end());
    leading.close();
    match held.commit(payload.clone(), ttl).await {
        Ok(filled) => How::Loaded(filled),
        Err(_) => How::Unfilled(Unfilled::Away),
    }
}

/// Gets the leader a place in the bulkhead and a lease, waiting for another process's fill at most `busy_wait`.
async fn obtain<'a>(cache: &'a Cache, slot: &SlotBuf, leading: &Leading<'_>, seen: Seen) -> Result<Right<'a>, Failure> {
    let clock = &cache.room.clock;
    let instead_of = match seen {
        Seen::Away => return Ok(Right::Load { permit: enter(cache, slot, leading).await?, lease: Err(Unfilled::Away) }),
        Seen::Unreadable(nonce) => Some(nonce),
        Seen::Nothing => None,
    };
    let give_up = clock.now() + cache.options.busy_wait();
    let mut pause = poll_pause();
    loop {
        // Before the lease: waiting for a place would use up its time.
        let permit = enter(cache, slot, leading).await?;
        leading.alive_until(cache.step_end());
        let lease = match cache.room.engine.reserve(slot.as_slot(), cache.options.fill_ttl, instead_of).await {
            Ok(Reserved::Hit(entry)) => return Ok(Right::Hit(entry)),
            Ok(Reserved::Lease(nonce)) => Ok(Held::new(cache, slot.clone(), nonce)),
            Ok(Reserved::Busy { reason: BusyReason::Loading, retry_after }) => {
                let now = clock.now();
                if now < give_up {
                    drop(permit);
                    let nap = pause.next().min(retry_after).max(POLL_MIN).min(give_up.left(now));
                    leading.alive_until(cache.step_end() + nap);
                    retry::sleep(clock, nap).await;
                    continue;
                }
                Err(Unfilled::Loading)
            }
            Ok(Reserved::Busy { reason: BusyReason::Guarded, .. }) => Err(Unfilled::Guarded),
            Ok(Reserved::Busy { reason: BusyReason::Away, .. }) | Err(_) => Err(Unfilled::Away),
        };
        return Ok(Right::Load { permit, lease });
    }
}

/// The shortest pause between two looks at somebody else's fill.
pub(super) const POLL_MIN: Duration = Duration::from_millis(1);

/// Pauses between two looks at somebody else's fill: up to 5 ms at first, up to 100 ms later.
pub(super) fn poll_pause() -> Backoff {
    Backoff::new(Duration::from_millis(5), Duration::from_millis(100))
}

async fn enter<'a>(cache: &'a Cache, slot: &SlotBuf, leading: &Leading<'_>) -> Result<Permit<'a>, Failure> {
    leading.alive_until(cache.step_end());
    let until = cache.room.clock.now() + cache.options.hard_timeout;
    let entered = cache.room.bulkhead.enter(&cache.room.clock, &slot.namespace, cache.options.max_loads, until).await;
    entered.ok_or(Failure::Full(cache.options.hard_timeout))
}

fn answer<T>(cache: &Cache, value: Option<T>, how: How) -> Fetched<T> {
    let result = match how {
        How::Hit if value.is_none() => "negative",
        How::Hit => "hit",
        How::Loaded(_) => "loaded",
        How::Unfilled(_) => "unfilled",
    };
    cache.observe(&Event::CacheLoad { result });
    Fetched { value, how }
}
