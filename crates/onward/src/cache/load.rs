//! How a value is found or loaded: hit, else lease, load, fill.
//!
//! What fails: a lookup or reservation that errs means load without a fill; a commit that errs is sent once more and then only counted,
//! for the value is good; a loader that errs or runs too long gives the lease back.
//!
//! A stale value is served only if this very call read it from the engine. So it was not yet invalidated when the call began (INV-2), and
//! after an invalidation nothing is left to serve.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bulkhead::Permit;
use super::codec;
use super::fetched::{Fetched, Fill, How, LoadError, Unfilled, Wish};
use super::flight::{Ended, Joined, Leading};
use super::handle::Cache;
use super::lease::{Held, Stale};
use super::outcome::{Age, BusyReason, Entry, Filled, Reserved};
use super::slot::{Nonce, Slot, SlotBuf};
use crate::observe::Event;
use crate::retry::{self, Backoff};
use crate::{Code, Error, Kind, Result};

/// How often a caller joins a round of others before it loads by itself.
const ROUNDS_MAX: u32 = 8;

/// Why a round has no value; makes an error for each of its callers.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Loader(LoadError),
    TimedOut,
    Full(Duration),
    /// The loader asked for the key that it loads.
    Own,
}

impl Failure {
    /// Tells whether a stale value may stand in: not for a mistake of the program.
    fn is_covered(&self) -> bool {
        !matches!(self, Self::Own)
    }

    fn into_error(self) -> Error {
        match self {
            Self::Own => Error::invalid("a loader asked for the key that it loads"),
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
    Load {
        permit: Permit<'a>,
        lease: Result<Held, Unfilled>,
    },
    /// Somebody else refreshes, or nobody can: the stale value in hand is the answer.
    Stale,
}

/// What the lookup found instead of a fresh value.
#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    /// A stale value that may be served at once: only the winner of the refresh waits, for its own load.
    Stale,
    Unreadable(Nonce),
    Away,
}

/// Returns what the engine holds, else what the loader gives, through one flight a key.
pub(super) async fn fetch<T, E, F, Fut>(cache: &Cache, slot: Slot<'_>, load: F) -> Result<Fetched<T>>
where
    T: Serialize + DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: FnOnce(Fill) -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let mut stale = None;
    let seen = match cache.calls.lookup(slot).await {
        Ok(Some(entry)) => match (codec::decode(&entry.payload), entry.age) {
            (Some(value), Age::Fresh { .. }) => return Ok(answer(cache, value, How::Hit)),
            (Some(value), Age::Stale { since }) => {
                stale = Some(Stale { value, since });
                if cache.options.serves_at_once(since) { Seen::Stale } else { Seen::Nothing }
            }
            (None, _) => Seen::Unreadable(entry.nonce),
        },
        Ok(None) => Seen::Nothing,
        Err(_) => Seen::Away,
    };
    let failure = match fetch_missed(cache, &cache.own(slot), seen, load).await {
        Ok(Some(fetched)) => return Ok(fetched),
        Ok(None) => None,
        Err(failure) => {
            stale = stale.filter(|stale| failure.is_covered() && cache.options.serves_on_failure(stale.since));
            Some(failure)
        }
    };
    if let Some(stale) = stale {
        return Ok(answer(cache, stale.value, How::Stale));
    }
    cache.observe(&Event::CacheLoad { result: "error" });
    Err(failure.map_or_else(|| Error::unavailable("nothing was loaded").during("load"), Failure::into_error))
}

/// Loads, alone or with others; `None` if the stale value in hand is the answer.
async fn fetch_missed<T, E, F, Fut>(cache: &Cache, slot: &SlotBuf, seen: Seen, load: F) -> Result<Option<Fetched<T>>, Failure>
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
            Joined::Own => return Err(Failure::Own),
            Joined::Follow { .. } if matches!(seen, Seen::Stale) => return Ok(None),
            Joined::Follow { round, midway } => (round, midway),
        };
        match round.wait(&cache.room.clock).await {
            Some(Ended::Value { payload, how }) if arrived_before || (midway && how == How::Loaded(Filled::Stored)) => {
                if let Some(value) = codec::decode(&payload) {
                    return Ok(Some(answer(cache, value, how)));
                }
            }
            Some(Ended::Failed(failure)) => return Err(failure),
            Some(Ended::Value { .. } | Ended::Gone) => {}
            None => flights.overtake(slot, &round),
        }
        // The round is out of the table: whichever runs next began after this call did.
        arrived_before = true;
    }
    lead(cache, slot, flights.alone(slot, cache.step_end()), seen, load).await
}

async fn lead<T, E, F, Fut>(cache: &Cache, slot: &SlotBuf, leading: Leading<'_>, seen: Seen, load: F) -> Result<Option<Fetched<T>>, Failure>
where
    T: Serialize + DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>>,
    F: FnOnce(Fill) -> Fut,
    Fut: Future<Output = Result<Option<T>, E>>,
{
    let (permit, lease) = match obtain(cache, slot, &leading, seen).await {
        Ok(Right::Stale) => return Ok(None),
        Ok(Right::Load { permit, lease }) => (permit, lease),
        Ok(Right::Hit(entry)) => match codec::decode(&entry.payload) {
            Some(value) => {
                leading.finish(Ended::Value { payload: entry.payload, how: How::Hit });
                return Ok(Some(answer(cache, value, How::Hit)));
            }
            // Written as another type since the lookup: load, and leave the entry to those who can read it.
            None => match enter(cache, slot, &leading, seen).await {
                Ok(permit) => (permit, Err(Unfilled::Loading)),
                Err(failure) => return fail(leading, failure),
            },
        },
        Err(failure) => return fail(leading, failure),
    };
    let deadline = cache.room.clock.now() + cache.options.hard_timeout;
    let fill = Fill::new(cache.room.clock.clone(), deadline);
    leading.alive_until(cache.step_end());
    let loaded = retry::deadline(&cache.room.clock, deadline, leading.run(|| load(fill.clone()))).await;
    drop(permit);
    let value = match loaded {
        Some(Ok(value)) => value,
        Some(Err(error)) => return fail(leading, Failure::Loader(LoadError(Arc::from(error.into())))),
        None => return fail(leading, Failure::TimedOut),
    };
    let payload = codec::encode(value.as_ref());
    let how = settle(cache, &leading, lease, payload.as_ref(), fill.wish(), value.is_none()).await;
    leading.finish(payload.map_or(Ended::Gone, |payload| Ended::Value { payload, how }));
    Ok(Some(answer(cache, value, how)))
}

fn fail<T>(leading: Leading<'_>, failure: Failure) -> Result<T, Failure> {
    leading.finish(Ended::Failed(failure.clone()));
    Err(failure)
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
    match held.commit(payload.clone(), cache.options.life(ttl)).await {
        Ok(filled) => How::Loaded(filled),
        Err(_) => How::Unfilled(Unfilled::Away),
    }
}

/// Gets the leader a place in the bulkhead and a lease, waiting for another process's fill at most `busy_wait`.
async fn obtain<'a>(cache: &'a Cache, slot: &SlotBuf, leading: &Leading<'_>, seen: Seen) -> Result<Right<'a>, Failure> {
    let clock = &cache.room.clock;
    let instead_of = match seen {
        Seen::Away => return Ok(Right::Load { permit: enter(cache, slot, leading, seen).await?, lease: Err(Unfilled::Away) }),
        Seen::Unreadable(nonce) => Some(nonce),
        Seen::Nothing | Seen::Stale => None,
    };
    let give_up = clock.now() + cache.options.busy_wait();
    let mut pause = poll_pause();
    loop {
        // Before the lease: waiting for a place would use up its time.
        let permit = match (enter(cache, slot, leading, seen).await, seen) {
            (Err(_), Seen::Stale) => return Ok(Right::Stale),
            (entered, _) => entered?,
        };
        leading.alive_until(cache.step_end());
        let lease = match cache.calls.reserve(slot.as_slot(), cache.options.fill_ttl, instead_of).await {
            Ok(Reserved::Hit(entry)) => return Ok(Right::Hit(entry)),
            Ok(Reserved::Lease(nonce)) => Ok(Held::new(cache, slot.clone(), nonce)),
            Ok(Reserved::Busy { .. }) | Err(_) if matches!(seen, Seen::Stale) => return Ok(Right::Stale),
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

async fn enter<'a>(cache: &'a Cache, slot: &SlotBuf, leading: &Leading<'_>, seen: Seen) -> Result<Permit<'a>, Failure> {
    leading.alive_until(cache.step_end());
    let patience = if matches!(seen, Seen::Stale) { Duration::ZERO } else { cache.options.hard_timeout };
    let until = cache.room.clock.now() + patience;
    let entered = cache.room.bulkhead.enter(&cache.room.clock, &slot.namespace, cache.options.max_loads, until).await;
    entered.ok_or(Failure::Full(cache.options.hard_timeout))
}

/// Tells the observer how a value came, and returns it.
pub(super) fn answer<T>(cache: &Cache, value: Option<T>, how: How) -> Fetched<T> {
    let result = match how {
        How::Hit if value.is_none() => "negative",
        How::Hit => "hit",
        How::Stale => "stale",
        How::Loaded(_) => "loaded",
        How::Unfilled(_) => "unfilled",
    };
    cache.observe(&Event::CacheLoad { result });
    Fetched { value, how }
}
