//! The low level: look, and on a miss hold the fill lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::Calls;
use super::codec;
use super::detach;
use super::handle::Cache;
use super::options::check_ttl;
use super::outcome::{Age, BusyReason, Entry, Filled, Life, Reserved};
use super::slot::{Nonce, Slot, SlotBuf};
use crate::observe::{Event, tell};
use crate::{Code, Error, Kind, Result};

/// What [`Cache::begin`] found.
#[derive(Debug)]
#[must_use]
pub enum Lookup<T> {
    /// A fresh value, or `None` for a remembered absence.
    Hit(Option<T>),
    /// Nothing fresh; this caller alone may fill. Read the source now, not before.
    Lease(Lease<T>),
    /// Nothing fresh, and nobody may fill now: wait and ask again, or load without a fill.
    Busy(Busy<T>),
}

/// Why a miss came without a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy<T> {
    /// Why.
    pub reason: BusyReason,
    /// When that ends by itself at the latest.
    pub retry_after: Duration,
    /// The value before, if the options let a stale one be served.
    pub stale: Option<Stale<T>>,
}

/// A value whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale<T> {
    /// The value, or `None` for a remembered absence.
    pub value: Option<T>,
    /// How long ago its time ended.
    pub since: Duration,
}

/// A fill lease: the right to store what is read from the source after it was taken.
///
/// An invalidation kills it. Dropping it gives it back; one that is never committed ends after `fill_ttl`.
#[must_use]
pub struct Lease<T> {
    pub(super) cache: Cache,
    pub(super) held: Held,
    stale: Option<Stale<T>>,
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl<T: Serialize> Lease<T> {
    /// Stores the value, if nothing invalidated it since the lease was taken.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the encoded value is above `value_limit`, or JSON can't hold it; the lease is given back.
    /// [`Kind::Backend`]: the engine failed; the value may be stored if the effect is unknown, which is safe.
    ///
    /// # Cancel safety
    /// A dropped future leaves the value stored or not; both are safe.
    pub async fn commit(self, value: &T) -> Result<Filled> {
        let ttl = self.cache.options.ttl;
        self.commit_with(value, ttl).await
    }

    /// Stores the value for `ttl`.
    ///
    /// # Errors
    /// As [`Lease::commit`]; also for a ttl of zero or above 30 days.
    pub async fn commit_with(self, value: &T, ttl: Duration) -> Result<Filled> {
        check_ttl(ttl)?;
        let payload = codec::encode(Some(value)).ok_or_else(|| Error::invalid("the value cannot be encoded as JSON"))?;
        check_value(&self.cache, codec::value_len(&payload))?;
        self.held.commit(payload, self.cache.options.life(ttl)).await
    }

    /// Remembers for `negative_ttl` that the source has no such row.
    ///
    /// # Errors
    /// As [`Lease::commit`].
    pub async fn commit_absent(self) -> Result<Filled> {
        let ttl = self.cache.options.negative_ttl;
        self.held.commit(codec::absence(), self.cache.options.life(ttl)).await
    }
}

impl<T> Lease<T> {
    /// Returns the value before, if the options let a stale one be served.
    pub fn stale(&self) -> Option<&Stale<T>> {
        self.stale.as_ref()
    }

    /// Gives the lease back, so that another caller may load.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine failed; the lease ends by itself after `fill_ttl`.
    pub async fn abandon(mut self) -> Result<()> {
        self.held.abandon().await
    }
}

pub(super) fn check_value(cache: &Cache, len: usize) -> Result<()> {
    if len > cache.options.value_limit {
        let message = format!("the value is above value_limit, {} bytes", cache.options.value_limit);
        return Err(Error::new(Kind::Invalid, Code::PayloadTooLarge, message));
    }
    Ok(())
}

/// One look and, on a miss, one reservation.
pub(super) async fn begin<T: DeserializeOwned>(cache: &Cache, slot: Slot<'_>) -> Result<Lookup<T>> {
    Ok(match Looked::at(cache, cache.calls.lookup(slot).await) {
        Looked::Answered(answer) => answer,
        Looked::Missed { instead_of, stale } => {
            let reserved = cache.calls.reserve(slot, cache.options.fill_ttl, instead_of).await;
            reserved_or_not(cache, slot, reserved, stale)
        }
    })
}

/// The same for many slots: one look at all, and one reservation of all that were missed.
pub(super) async fn begin_many<T: DeserializeOwned>(cache: &Cache, slots: &[Slot<'_>]) -> Result<Vec<Lookup<T>>> {
    let looked: Vec<Looked<T>> = cache.calls.lookup_many(slots).await.into_iter().map(|entry| Looked::at(cache, entry)).collect();
    let mut asked = Vec::new();
    for (slot, looked) in slots.iter().zip(&looked) {
        if let Looked::Missed { instead_of, .. } = looked {
            asked.push((*slot, *instead_of));
        }
    }
    let mut reserved = cache.calls.reserve_many(&asked, cache.options.fill_ttl).await.into_iter();
    let answers = slots.iter().zip(looked).map(|(slot, looked)| match looked {
        Looked::Answered(answer) => answer,
        Looked::Missed { stale, .. } => match reserved.next() {
            Some(reserved) => reserved_or_not(cache, *slot, reserved, stale),
            None => away(stale),
        },
    });
    Ok(answers.collect())
}

/// What a look at the engine settled.
enum Looked<T> {
    Answered(Lookup<T>),
    Missed { instead_of: Option<Nonce>, stale: Option<Stale<T>> },
}

impl<T: DeserializeOwned> Looked<T> {
    fn at(cache: &Cache, entry: Result<Option<Entry>>) -> Self {
        let missed = Self::Missed { instead_of: None, stale: None };
        let entry = match entry {
            Ok(Some(entry)) => entry,
            Ok(None) => return missed,
            Err(_) => return Self::Answered(away(None)),
        };
        match (codec::decode(&entry.payload), entry.age) {
            (None, _) => Self::Missed { instead_of: Some(entry.nonce), stale: None },
            (Some(value), Age::Fresh { .. }) => Self::Answered(Lookup::Hit(value)),
            (Some(value), Age::Stale { since }) if cache.options.serves_stale(since) => {
                Self::Missed { instead_of: None, stale: Some(Stale { value, since }) }
            }
            (Some(_), Age::Stale { .. }) => missed,
        }
    }
}

fn reserved_or_not<T: DeserializeOwned>(cache: &Cache, slot: Slot<'_>, reserved: Result<Reserved>, stale: Option<Stale<T>>) -> Lookup<T> {
    match reserved {
        Ok(Reserved::Lease(nonce)) => Lookup::Lease(Lease { cache: cache.clone(), held: Held::new(cache, cache.own(slot), nonce), stale }),
        Ok(Reserved::Hit(entry)) => match codec::decode(&entry.payload) {
            Some(value) => Lookup::Hit(value),
            // Filled as another type since the lookup.
            None => Lookup::Busy(Busy { reason: BusyReason::Loading, retry_after: AWAY_RETRY, stale }),
        },
        Ok(Reserved::Busy { reason, retry_after }) => Lookup::Busy(Busy { reason, retry_after, stale }),
        Err(_) => away(stale),
    }
}

fn away<T>(stale: Option<Stale<T>>) -> Lookup<T> {
    Lookup::Busy(Busy { reason: BusyReason::Away, retry_after: AWAY_RETRY, stale })
}

/// The hint where no end is known.
pub(super) const AWAY_RETRY: Duration = Duration::from_secs(1);

/// A reservation of ours; dropping it gives it back in the background.
pub(super) struct Held {
    calls: Calls,
    observer: crate::observe::SharedObserver,
    pub(super) slot: SlotBuf,
    pub(super) nonce: Nonce,
    open: bool,
}

impl Held {
    pub(super) fn new(cache: &Cache, slot: SlotBuf, nonce: Nonce) -> Self {
        Self { calls: cache.calls.clone(), observer: Arc::clone(&cache.room.observer), slot, nonce, open: true }
    }

    /// Commits; sent once more if the engine fails, for a commit may be sent twice.
    pub(super) async fn commit(self, payload: Bytes, life: Life) -> Result<Filled> {
        let mut result = self.calls.commit(self.slot.as_slot(), self.nonce, payload.clone(), life).await;
        if let Err(first) = &result {
            let effect = first.effect();
            result = self
                .calls
                .commit(self.slot.as_slot(), self.nonce, payload, life)
                .await
                .map_err(|error| if effect == crate::Effect::Unknown { error.with_unknown_effect() } else { error });
        }
        self.settle(result)
    }

    /// Takes note of how the commit ended.
    pub(super) fn settle(mut self, result: Result<Filled>) -> Result<Filled> {
        self.open = result.is_err();
        let label = match &result {
            Ok(Filled::Stored) => "stored",
            Ok(Filled::Superseded { .. }) => "superseded",
            Err(_) => "failed",
        };
        tell(&self.observer, &Event::CacheFill { result: label });
        result.map_err(|error| error.during("commit"))
    }

    pub(super) async fn abandon(&mut self) -> Result<()> {
        self.open = false;
        tell(&self.observer, &Event::CacheFill { result: "abandoned" });
        let (calls, slot, nonce) = (self.calls.clone(), self.slot.clone(), self.nonce);
        detach::detached(async move { calls.abandon(slot.as_slot(), nonce).await }).await.map_err(|error| error.during("abandon"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        tell(&self.observer, &Event::CacheFill { result: "abandoned" });
        let (calls, slot, nonce) = (self.calls.clone(), self.slot.clone(), self.nonce);
        detach::in_background(async move {
            // One that stays ends by itself after fill_ttl.
            let _ = calls.abandon(slot.as_slot(), nonce).await;
        });
    }
}
