//! Hits that nobody decodes.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::fetched::{Fetched, Fill, How};
use super::handle::{Cache, remembered_absence};
use super::load;
use super::outcome::Age;
use super::slot::Slot;
use crate::Result;

/// A cache handle whose hits in this process are shared values: an `Arc<T>`, decoded once an entry; cheap to clone.
///
/// The decoded value lives and dies with the entry, so all promises of [`Cache`] hold, INV-2 too. It counts against the engine's bound as
/// `size_of::<T>()` and once more the length of its payload. Where the engine keeps nothing in this process each hit is decoded, as by
/// [`Cache`]. Two types over one key take turns in decoding: use one.
///
/// # Examples: two hits are one value
/// ```
/// use std::sync::Arc;
/// use onward::cache::{Cache, CacheOptions};
/// use onward::engine::memory::MemoryCache;
/// use onward::{observe::Silent, time::Clock};
///
/// # fn main() -> onward::Result<()> { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let engine = Arc::new(MemoryCache::new(Clock::system()));
/// let cache = Cache::new(engine, "default", CacheOptions::default(), Clock::system(), Arc::new(Silent))?;
/// let names = cache.typed::<Vec<String>>();
/// names.get_or_load("names", |_| async { Ok::<_, std::io::Error>(vec!["Ada".to_owned()]) }).await?;
/// let (one, two) = (names.get("names").await?.flatten(), names.get("names").await?.flatten());
/// assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
/// # Ok(()) }) }
/// ```
pub struct Typed<T> {
    cache: Cache,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Cache {
    /// Returns a handle whose hits in this process are not decoded again.
    pub fn typed<T: Serialize + DeserializeOwned + Send + Sync + 'static>(&self) -> Typed<T> {
        Typed { cache: self.clone(), value: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Typed<T> {
    /// Returns the handle under this one.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// As [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Option<Arc<T>>>> {
        let slot = self.cache.slot(key.as_ref(), None)?;
        if let Some(value) = self.decoded(slot) {
            return Ok(Some(Some(value)));
        }
        if let Some(found) = self.near(slot) {
            return Ok(Some(found));
        }
        Ok(self.cache.get_at(slot).await?.map(|value| value.map(Arc::new)))
    }

    /// As [`Cache::get_or_load`].
    ///
    /// # Errors
    /// As [`Cache::get_or_load`].
    ///
    /// # Cancel safety
    /// As [`Cache::get_or_load`].
    pub async fn get_or_load<E, F, Fut>(&self, key: impl AsRef<[u8]>, load: F) -> Result<Arc<T>>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let load = |fill| {
            let loading = load(fill);
            async { loading.await.map(Some) }
        };
        self.fetch(key, load).await?.value.ok_or_else(remembered_absence)
    }

    /// As [`Cache::fetch`].
    ///
    /// # Errors
    /// As [`Cache::fetch`].
    ///
    /// # Cancel safety
    /// As [`Cache::fetch`].
    pub async fn fetch<E, F, Fut>(&self, key: impl AsRef<[u8]>, load: F) -> Result<Fetched<Arc<T>>>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Option<T>, E>>,
    {
        let slot = self.cache.slot(key.as_ref(), None)?;
        if let Some(value) = self.decoded(slot) {
            return Ok(load::answer(&self.cache, Some(value), How::Hit));
        }
        if let Some(value) = self.near(slot) {
            return Ok(load::answer(&self.cache, value, How::Hit));
        }
        let fetched = load::fetch(&self.cache, slot, load).await?;
        Ok(Fetched { value: fetched.value.map(Arc::new), how: fetched.how })
    }

    /// Returns the value that another hit has decoded.
    fn decoded(&self, slot: Slot<'_>) -> Option<Arc<T>> {
        let near = self.cache.calls.engine().near(slot)?;
        near.decoded(slot, near.now())?.downcast().ok()
    }

    /// Decodes what is fresh in this process, and keeps it for the next hit.
    fn near(&self, slot: Slot<'_>) -> Option<Option<Arc<T>>> {
        let near = self.cache.calls.engine().near(slot)?;
        let entry = near.entry(slot).filter(|entry| matches!(entry.age, Age::Fresh { .. }))?;
        let Some(value) = codec::decode::<T>(&entry.payload)? else { return Some(None) };
        let value = Arc::new(value);
        near.keep(slot, &entry.payload, Arc::clone(&value) as _, size_of::<T>() + entry.payload.len());
        Some(Some(value))
    }
}
