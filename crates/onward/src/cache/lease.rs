//! The low level: look, and on a miss hold the fill lease.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::detach;
use super::engine::{BusyReason, CacheEngine, Filled, Nonce, Reserved, Slot, SlotBuf};
use super::handle::Cache;
use super::options::check_ttl;
use crate::observe::{Event, tell};
use crate::{Code, Error, Kind, Result};

/// What [`Cache::begin`] found.
#[derive(Debug)]
#[must_use]
pub enum Lookup<T> {
    /// A value, or `None` for a remembered absence.
    Hit(Option<T>),
    /// Nothing; this caller alone may fill. Read the source now, not before.
    Lease(Lease<T>),
    /// Nothing, and nobody may fill now: wait and ask again, or load without a fill.
    Busy(Busy),
}

/// Why a miss came without a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Why.
    pub reason: BusyReason,
    /// When that ends by itself at the latest.
    pub retry_after: Duration,
}

/// A fill lease: the right to store what is read from the source after it was taken.
///
/// An invalidation kills it. Dropping it gives it back; one that is never committed ends after `fill_ttl`.
#[must_use]
pub struct Lease<T> {
    cache: Cache,
    held: Held,
    value: PhantomData<fn(&T)>,
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
        self.held.commit(payload, ttl).await
    }

    /// Remembers for `negative_ttl` that the source has no such row.
    ///
    /// # Errors
    /// As [`Lease::commit`].
    pub async fn commit_absent(self) -> Result<Filled> {
        let ttl = self.cache.options.negative_ttl;
        self.held.commit(codec::absence(), ttl).await
    }
}

impl<T> Lease<T> {
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
    let away = Lookup::Busy(Busy { reason: BusyReason::Away, retry_after: AWAY_RETRY });
    let mut instead_of = None;
    match cache.room.engine.lookup(slot).await {
        Ok(Some(entry)) => match codec::decode(&entry.payload) {
            Some(value) => return Ok(Lookup::Hit(value)),
            None => instead_of = Some(entry.nonce),
        },
        Ok(None) => {}
        Err(_) => return Ok(away),
    }
    Ok(match cache.room.engine.reserve(slot, cache.options.fill_ttl, instead_of).await {
        Ok(Reserved::Lease(nonce)) => {
            Lookup::Lease(Lease { cache: cache.clone(), held: Held::new(cache, cache.own(slot), nonce), value: PhantomData })
        }
        Ok(Reserved::Hit(entry)) => match codec::decode(&entry.payload) {
            Some(value) => Lookup::Hit(value),
            // Filled as another type since the lookup.
            None => Lookup::Busy(Busy { reason: BusyReason::Loading, retry_after: AWAY_RETRY }),
        },
        Ok(Reserved::Busy { reason, retry_after }) => Lookup::Busy(Busy { reason, retry_after }),
        Err(_) => away,
    })
}

/// The hint where no end is known.
pub(super) const AWAY_RETRY: Duration = Duration::from_secs(1);

/// A reservation of ours; dropping it gives it back in the background.
pub(super) struct Held {
    engine: Arc<dyn CacheEngine>,
    observer: crate::observe::SharedObserver,
    slot: SlotBuf,
    nonce: Nonce,
    open: bool,
}

impl Held {
    pub(super) fn new(cache: &Cache, slot: SlotBuf, nonce: Nonce) -> Self {
        Self { engine: Arc::clone(&cache.room.engine), observer: Arc::clone(&cache.room.observer), slot, nonce, open: true }
    }

    /// Commits; sent once more if the engine fails, for a commit may be sent twice.
    pub(super) async fn commit(mut self, payload: Bytes, ttl: Duration) -> Result<Filled> {
        let mut result = self.engine.commit(self.slot.as_slot(), self.nonce, payload.clone(), ttl).await;
        if let Err(first) = &result {
            let effect = first.effect();
            result = self
                .engine
                .commit(self.slot.as_slot(), self.nonce, payload, ttl)
                .await
                .map_err(|error| if effect == crate::Effect::Unknown { error.with_unknown_effect() } else { error });
        }
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
        let (engine, slot, nonce) = (Arc::clone(&self.engine), self.slot.clone(), self.nonce);
        detach::detached(async move { engine.abandon(slot.as_slot(), nonce).await }).await.map_err(|error| error.during("abandon"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        tell(&self.observer, &Event::CacheFill { result: "abandoned" });
        let (engine, slot, nonce) = (Arc::clone(&self.engine), self.slot.clone(), self.nonce);
        detach::in_background(async move {
            // One that stays ends by itself after fill_ttl.
            let _ = engine.abandon(slot.as_slot(), nonce).await;
        });
    }
}
