//! Writing into the cache without having read the source under a lease: for who may be wrong.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::codec;
use super::detach::detached;
use super::handle::Cache;
use super::lease::{Held, check_value};
use super::options::check_ttl;
use super::outcome::{BusyReason, Filled, Reserved};
use super::slot::Slot;
use crate::{Error, Result};

/// A cache handle that may save values without a lease; the only type that can.
///
/// A save is an invalidation and a fill of its own in one call: it kills every fill in flight of the key, so nobody else's older value lands
/// after it, and it is refused under a write guard. What it cannot know is how old its own value is: **a value read before somebody else's
/// invalidation and saved after it is stale until its life ends.** INV-2 holds for all but that value. Where that matters, use
/// [`Cache::get_or_load`] or [`Cache::begin`].
///
/// # Examples: a save is what the next reader gets
/// ```
/// use std::sync::Arc;
/// use onward::cache::{Cache, CacheOptions, Saved};
/// use onward::engine::memory::MemoryCache;
/// use onward::{observe::Silent, time::Clock};
///
/// # fn main() -> onward::Result<()> { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let engine = Arc::new(MemoryCache::new(Clock::system()));
/// let cache = Cache::new(engine, "default", CacheOptions::default(), Clock::system(), Arc::new(Silent))?;
/// assert_eq!(cache.best_effort().save("rate", &1.09).await?, Saved::Stored);
/// assert_eq!(cache.get::<f64>("rate").await?, Some(Some(1.09)));
/// # Ok(()) }) }
/// ```
#[derive(Clone, Debug)]
pub struct BestEffort {
    cache: Cache,
}

/// How a save ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Saved {
    /// The value is in the cache.
    Stored,
    /// Somebody invalidated or fills the key at this moment: nothing was stored (C8).
    Superseded,
    /// A writer's guard stands: nothing was stored.
    Guarded,
}

impl Cache {
    /// Returns a handle that may save values without a lease; read what [`BestEffort`] gives up.
    pub fn best_effort(&self) -> BestEffort {
        BestEffort { cache: self.clone() }
    }
}

impl BestEffort {
    /// Saves a value for the handle's `ttl`, whatever was there; drops the key's fields.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the key, or a value above `value_limit` or that JSON can't hold.
    /// [`Kind::Backend`](crate::Kind::Backend): what was there is gone or not; the value may be stored if the effect is unknown.
    ///
    /// # Cancel safety
    /// A dropped future leaves what was there, nothing, or the value.
    pub async fn save<T: Serialize>(&self, key: impl AsRef<[u8]>, value: &T) -> Result<Saved> {
        let payload = codec::encode(Some(value)).ok_or_else(|| Error::invalid("the value cannot be encoded as JSON"))?;
        check_value(&self.cache, codec::value_len(&payload))?;
        self.put(self.cache.slot(key.as_ref(), None)?, payload, self.cache.options.ttl).await
    }

    /// As [`BestEffort::save`] with bytes, for `ttl` instead; with a field it replaces that alone.
    ///
    /// # Errors
    /// As [`BestEffort::save`]; also for the field, the ttl and the content type.
    ///
    /// # Cancel safety
    /// As [`BestEffort::save`].
    pub async fn save_wire(
        &self,
        key: &[u8],
        field: Option<&[u8]>,
        bytes: &[u8],
        content_type: &str,
        ttl: Option<Duration>,
    ) -> Result<Saved> {
        check_value(&self.cache, bytes.len())?;
        let payload = codec::encode_raw(bytes, content_type)?;
        self.put(self.cache.slot(key, field)?, payload, ttl.unwrap_or(self.cache.options.ttl)).await
    }

    async fn put(&self, slot: Slot<'_>, payload: Bytes, ttl: Duration) -> Result<Saved> {
        check_ttl(ttl)?;
        let cache = &self.cache;
        let (calls, owned) = (cache.calls.clone(), cache.own(slot));
        // First, so that no fill in flight lands after ours. No hold-off: it would hold off this very save.
        let purged = detached({
            let (calls, owned) = (calls.clone(), owned.clone());
            async move { calls.invalidate(owned.as_slot(), Duration::ZERO).await }
        });
        let _ = cache.invalidated(purged.await, "save")?;
        match calls.reserve(slot, cache.options.fill_ttl, None).await.map_err(|error| error.during("save"))? {
            Reserved::Lease(nonce) => match Held::new(cache, owned, nonce).commit(payload, cache.options.life(ttl)).await? {
                Filled::Stored => Ok(Saved::Stored),
                Filled::Superseded { .. } => Ok(Saved::Superseded),
            },
            Reserved::Hit(_) | Reserved::Busy { reason: BusyReason::Loading, .. } => Ok(Saved::Superseded),
            Reserved::Busy { reason: BusyReason::Guarded, .. } => Ok(Saved::Guarded),
            Reserved::Busy { reason: BusyReason::Away, .. } => {
                Err(Error::unavailable("the cache has no room for another fill").during("save"))
            }
        }
    }
}
