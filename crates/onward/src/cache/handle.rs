//! What a user calls.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bulkhead::Bulkhead;
use super::calls::Calls;
use super::codec;
use super::detach::detached;
use super::engine::CacheEngine;
use super::fetched::{Fetched, Fill};
use super::field::FieldRef;
use super::flight::Flights;
use super::guard::WriteGuard;
use super::lease::{self, Lookup};
use super::load;
use super::options::{CacheOptions, check_ttl};
use super::outcome::{Age, CacheStats, Entry, Expiry, Flushed, Invalidation, Promise, Touched};
use super::slot::{Slot, SlotBuf};
use crate::model::check_cache_namespace;
use crate::model::limits::KEY_BYTES;
use crate::observe::{Event, Finding, SharedObserver, tell};
use crate::time::{Clock, Moment};
use crate::{Code, Error, Kind, Result};

/// How long a look at the engine may take.
const CHECK_MOST: Duration = Duration::from_secs(10);

/// The handle of one namespace with one set of options; cheap to clone.
///
/// Handles made from one another ([`Clone`], [`Cache::with`], [`Cache::in_namespace`]) share their flights: one load a key.
///
/// # Examples: a fill that an invalidation overtook is refused
/// ```
/// use std::sync::Arc;
/// use onward::cache::{Cache, CacheOptions, Filled, Lookup};
/// use onward::engine::memory::MemoryCache;
/// use onward::{observe::Silent, time::Clock};
///
/// # fn main() -> onward::Result<()> { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let engine = Arc::new(MemoryCache::new(Clock::system()));
/// let cache = Cache::new(engine, "default", CacheOptions::default(), Clock::system(), Arc::new(Silent))?;
/// let Lookup::Lease(lease) = cache.begin::<u32>("project:42").await? else { unreachable!("nothing is cached") };
/// let read_before = 1;
/// cache.invalidate("project:42").await?; // a writer was quicker
/// assert!(matches!(lease.commit(&read_before).await?, Filled::Superseded { .. }));
/// assert_eq!(cache.get::<u32>("project:42").await?, None);
/// # Ok(()) }) }
/// ```
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) room: Arc<Room>,
    pub(super) calls: Calls,
    pub(super) namespace: Arc<str>,
    pub(super) options: Arc<CacheOptions>,
}

/// What all handles of one process share.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) clock: Clock,
    pub(super) observer: SharedObserver,
    pub(super) flights: Flights,
    pub(super) bulkhead: Bulkhead,
    /// What tells this room of invalidations that come from elsewhere; it ends with the room.
    pub(super) follower: OnceLock<Follower>,
}

/// A background task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Follower(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A cache that may be gone: for whoever must not keep it alive.
#[derive(Clone, Debug)]
pub(crate) struct WeakCache {
    room: Weak<Room>,
    calls: Calls,
    namespace: Arc<str>,
    options: Arc<CacheOptions>,
}

impl WeakCache {
    pub(crate) fn upgrade(&self) -> Option<Cache> {
        Some(Cache {
            room: self.room.upgrade()?,
            calls: self.calls.clone(),
            namespace: self.namespace.clone(),
            options: self.options.clone(),
        })
    }
}

impl Cache {
    /// Makes a handle. Make one an engine and process, and the others from it: they then share one load a key.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the namespace is not `[a-z0-9._-]{1,64}`, or an option is over its limit.
    pub fn new(
        engine: Arc<dyn CacheEngine>,
        namespace: &str,
        options: CacheOptions,
        clock: Clock,
        observer: SharedObserver,
    ) -> Result<Self> {
        check_cache_namespace(namespace)?;
        options.check()?;
        let calls = Calls::new(engine, clock.clone(), options.op_timeout);
        let room = Room { clock, observer, flights: Flights::default(), bulkhead: Bulkhead::default(), follower: OnceLock::new() };
        Ok(Self { room: Arc::new(room), calls, namespace: namespace.into(), options: Arc::new(options) })
    }

    /// Keeps a follower alive as long as any handle of this cache: invalidations from elsewhere must reach it until then (INV-2).
    pub(crate) fn keep(&self, follower: Follower) {
        // A second one would be told the same; it ends here.
        let _ = self.room.follower.set(follower);
    }

    pub(crate) fn downgrade(&self) -> WeakCache {
        WeakCache {
            room: Arc::downgrade(&self.room),
            calls: self.calls.clone(),
            namespace: self.namespace.clone(),
            options: self.options.clone(),
        }
    }

    /// Returns a handle with other options.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: an option is over its limit.
    pub fn with(&self, options: CacheOptions) -> Result<Self> {
        options.check()?;
        let calls = self.calls.within(options.op_timeout);
        Ok(Self { calls, options: Arc::new(options), ..self.clone() })
    }

    /// Returns a handle of another namespace.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the namespace is not `[a-z0-9._-]{1,64}`.
    pub fn in_namespace(&self, namespace: &str) -> Result<Self> {
        check_cache_namespace(namespace)?;
        Ok(Self { namespace: namespace.into(), ..self.clone() })
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the options.
    pub fn options(&self) -> &CacheOptions {
        &self.options
    }

    /// Returns the name of the engine.
    pub fn engine_name(&self) -> &'static str {
        self.calls.engine().name()
    }

    /// Returns what the engine promises; `promise().require(Scope::Shared)?` lets a program insist.
    pub fn promise(&self) -> Promise {
        self.calls.engine().promise()
    }

    /// Returns one field of a key.
    pub fn field(&self, key: impl AsRef<[u8]>, field: impl AsRef<[u8]>) -> FieldRef {
        FieldRef { cache: self.clone(), key: key.as_ref().into(), field: field.as_ref().into() }
    }

    /// Returns the cached value if it is fresh; never loads, never reserves.
    ///
    /// The outer `None` is a miss, the inner one a remembered absence. [`Cache::fetch`] and [`Cache::begin`] know of stale values too.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the key. [`Kind::Backend`]: the engine is away.
    pub async fn get<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<Option<T>>> {
        self.get_at(self.slot(key.as_ref(), None)?).await
    }

    /// Returns the cached value, else loads it and fills the cache.
    ///
    /// One load a key and process; the others wait for it. The loader may borrow. A value whose fill was refused is still returned to the
    /// caller that loaded it, but not to anyone who came later.
    ///
    /// # Errors
    /// [`Kind::Backend`], `NotApplied`: the loader failed (its error is the source, as [`LoadError`](super::LoadError)) or ran
    /// longer than `hard_timeout`. An engine that is away is no error: the loader runs without a fill.
    /// [`Kind::NotFound`], `absent`: the cache remembers that the source has no such row.
    /// [`Kind::Overloaded`]: `max_loads` run already. [`Kind::Invalid`]: the key; a loader that asks for its own key.
    ///
    /// # Cancel safety
    /// Dropping the future gives the lease back and hands the load over to a waiting caller.
    pub async fn get_or_load<T, E, F, Fut>(&self, key: impl AsRef<[u8]>, load: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.get_or_load_at(self.slot(key.as_ref(), None)?, load).await
    }

    /// As [`Cache::get_or_load`], and remembers `None` from the loader for `negative_ttl`.
    ///
    /// A create of the row must invalidate the key, as every other write does.
    ///
    /// # Errors
    /// As [`Cache::get_or_load`], without `absent`.
    pub async fn get_or_load_opt<T, E, F, Fut>(&self, key: impl AsRef<[u8]>, load: F) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Option<T>, E>>,
    {
        Ok(self.fetch(key, load).await?.value)
    }

    /// As [`Cache::get_or_load_opt`], and says how the value came.
    ///
    /// # Errors
    /// As [`Cache::get_or_load_opt`].
    pub async fn fetch<T, E, F, Fut>(&self, key: impl AsRef<[u8]>, load: F) -> Result<Fetched<T>>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<Option<T>, E>>,
    {
        load::fetch(self, self.slot(key.as_ref(), None)?, load).await
    }

    /// Looks, and on a miss takes the fill lease. The low level under [`Cache::get_or_load`].
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the key. An engine that is away is [`Lookup::Busy`].
    pub async fn begin<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Lookup<T>> {
        lease::begin(self, self.slot(key.as_ref(), None)?).await
    }

    /// Kills every fill of the key in flight and removes its plain value and all fields; call it after the outermost commit.
    ///
    /// # Errors
    /// [`Kind::Backend`]: with effect `Unknown` it may be done. Call again; it is not a failure of the write before it.
    ///
    /// # Cancel safety
    /// Once polled it runs to its end, also if the future is dropped (C6).
    pub async fn invalidate(&self, key: impl AsRef<[u8]>) -> Result<Invalidation> {
        self.invalidate_at(self.slot(key.as_ref(), None)?).await
    }

    /// Keeps the key's plain value and fields, but only as stale, and kills every fill of the key in flight.
    ///
    /// For a change that readers may see late: those with `stale_while_revalidate` or `fail_safe` still get the old values, within the
    /// age that they allow from now on; the others miss.
    ///
    /// # Errors
    /// As [`Cache::invalidate`].
    ///
    /// # Cancel safety
    /// As [`Cache::invalidate`].
    pub async fn expire(&self, key: impl AsRef<[u8]>) -> Result<Expiry> {
        self.expire_at(self.slot(key.as_ref(), None)?).await
    }

    /// Gives a fresh plain value a new life of `ttl` from now on, in one atomic step; never brings back what is gone or stale.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the key, or a ttl of zero or above 30 days. [`Kind::Backend`]: see its effect.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<Touched> {
        self.touch_at(self.slot(key.as_ref(), None)?, ttl).await
    }

    /// Lists the names of the key's kept fields, sorted by bytes.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the key. [`Kind::Backend`]: the engine is away.
    pub async fn list(&self, key: impl AsRef<[u8]>) -> Result<Vec<Bytes>> {
        check_name("key", key.as_ref())?;
        self.calls.fields(&self.namespace, key.as_ref()).await.map_err(|error| error.during("list"))
    }

    /// Makes everything in this namespace unreachable at once; fills in flight are refused, guards stay.
    ///
    /// # Errors
    /// [`Kind::Backend`]: with effect `Unknown` it may be done.
    ///
    /// # Cancel safety
    /// Once polled it runs to its end, also if the future is dropped (C6).
    pub async fn flush_namespace(&self) -> Result<Flushed> {
        let (calls, namespace) = (self.calls.clone(), Arc::clone(&self.namespace));
        detached(async move { calls.flush(&namespace).await }).await.map_err(|error| error.during("flush"))
    }

    /// Makes every namespace unreachable at once, as [`Cache::flush_namespace`] does with one; for when nobody knows what was missed.
    ///
    /// # Errors
    /// As [`Cache::flush_namespace`].
    ///
    /// # Cancel safety
    /// As [`Cache::flush_namespace`].
    pub async fn flush_all(&self) -> Result<Flushed> {
        let calls = self.calls.clone();
        detached(async move { calls.flush_all().await }).await.map_err(|error| error.during("flush"))
    }

    /// Takes a write guard on 1..=1024 keys and purges them: no fill lands until it is released or `guard_ttl` is over.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: a key has 64 guards already. [`Kind::Backend`]: the engine is away. No guard is kept then.
    pub async fn write_guard<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<WriteGuard> {
        let keys = keys.into_iter().map(|key| Arc::from(key.as_ref())).collect();
        WriteGuard::take(self, keys).await
    }

    /// Counts what the namespace holds.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine is away.
    pub async fn stats(&self) -> Result<CacheStats> {
        self.calls.stats(&self.namespace).await.map_err(|error| error.during("stats"))
    }

    /// Looks at what the engine stands on, such as a server; changes nothing. The findings are for people.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine is away.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        // As patient as people are; not a call of the service.
        self.calls.within(CHECK_MOST).check().await.map_err(|error| error.during("check"))
    }

    pub(super) fn slot<'a>(&'a self, key: &'a [u8], field: Option<&'a [u8]>) -> Result<Slot<'a>> {
        check_name("key", key)?;
        if let Some(field) = field {
            check_name("field", field)?;
        }
        Ok(Slot { namespace: &self.namespace, key, field })
    }

    pub(super) fn own(&self, slot: Slot<'_>) -> SlotBuf {
        SlotBuf { namespace: Arc::clone(&self.namespace), key: slot.key.into(), field: slot.field.map(Into::into) }
    }

    pub(super) fn observe(&self, event: &Event<'_>) {
        tell(&self.room.observer, event);
    }

    /// Returns when a step of a leader that begins now is over at the latest.
    pub(super) fn step_end(&self) -> Moment {
        self.room.clock.now() + self.options.hard_timeout + self.options.hard_timeout / 8
    }

    pub(super) async fn get_at<T: DeserializeOwned>(&self, slot: Slot<'_>) -> Result<Option<Option<T>>> {
        let entry = self.calls.lookup(slot).await.map_err(|error| error.during("get"))?;
        Ok(Self::fresh(entry))
    }

    /// Reads an entry, if it is fresh and readable as `T`.
    pub(super) fn fresh<T: DeserializeOwned>(entry: Option<Entry>) -> Option<Option<T>> {
        entry.filter(|entry| matches!(entry.age, Age::Fresh { .. })).and_then(|entry| codec::decode(&entry.payload))
    }

    pub(super) async fn get_or_load_at<T, E, F, Fut>(&self, slot: Slot<'_>, load: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let fetched = load::fetch(self, slot, |fill| {
            let loading = load(fill);
            async { loading.await.map(Some) }
        })
        .await?;
        fetched.value.ok_or_else(remembered_absence)
    }

    pub(super) async fn invalidate_at(&self, slot: Slot<'_>) -> Result<Invalidation> {
        let (calls, slot, hold_off) = (self.calls.clone(), self.own(slot), self.options.hold_off.unwrap_or_default());
        let result = detached(async move { calls.invalidate(slot.as_slot(), hold_off).await }).await;
        self.invalidated(result, "invalidate")
    }

    pub(super) fn invalidated(&self, result: Result<Invalidation>, operation: &'static str) -> Result<Invalidation> {
        let label = match &result {
            Ok(Invalidation::Removed) => "removed",
            Ok(Invalidation::Absent) => "absent",
            Ok(Invalidation::Queued) => "queued",
            Err(_) => "failed",
        };
        self.observe(&Event::CacheInvalidation { result: label });
        result.map_err(|error| error.during(operation))
    }

    pub(super) async fn expire_at(&self, slot: Slot<'_>) -> Result<Expiry> {
        let (calls, slot) = (self.calls.clone(), self.own(slot));
        detached(async move { calls.expire(slot.as_slot()).await }).await.map_err(|error| error.during("expire"))
    }

    pub(super) async fn touch_at(&self, slot: Slot<'_>, ttl: Duration) -> Result<Touched> {
        check_ttl(ttl)?;
        self.calls.touch(slot, ttl).await.map_err(|error| error.during("touch"))
    }
}

pub(super) fn check_name(what: &str, name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > KEY_BYTES {
        return Err(Error::invalid_key(format!("a cache {what} is 1..={KEY_BYTES} bytes")));
    }
    Ok(())
}

/// What a caller gets that does not want absences, where the cache remembers one.
pub(super) fn remembered_absence() -> Error {
    Error::new(Kind::NotFound, Code::Absent, "the cache remembers that the source has none").during("load")
}
