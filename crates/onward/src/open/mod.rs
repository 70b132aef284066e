//! URLs and configuration to engines to one [`Onward`]; the only room that knows them all.

mod config;
mod engines;
mod url;

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

pub use config::Config;
use engines::Engines;
pub use engines::Migration;
pub use url::Url;

use crate::audit::{Act, Archive, Maintenance, Tick, Trail, TrailOptions};
use crate::cache::{Cache, Flushed, Follower, Invalidation, WeakCache};
use crate::commit::{CommitQueue, QueueOptions};
use crate::guarded::GuardedWrite;
use crate::lock::{HeldMemory, LockOptions, Locks, LocksConfig};
use crate::model::{FencingToken, LockKey};
use crate::observe::Finding;
use crate::store::{CacheSink, Deliverer, Store};
use crate::{Error, Kind, Result};

/// Objects, locks, cache and audit trail over one store, and the write that moves them together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Onward(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    locks: Locks,
    cache: Cache,
    audit: Trail,
}

impl Onward {
    /// Opens everything on one URL, `memory:`, `sqlite:PATH`, `postgres://HOST/DATABASE` or (locks, and no store) `redis://HOST`, and heeds the
    /// environment as [`Config::with_environment`] does.
    ///
    /// # Errors
    /// As [`Onward::connect`].
    pub async fn open(url: &str) -> Result<Self> {
        Self::connect(Config::new(url).with_environment()?).await
    }

    /// Opens what the configuration names, inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: a URL or an option. `NotFound`: see [`Config::with_existing_file`]. `Unsupported`: the engine is too old or its
    /// schema too new, or the archive ignores conditional writes. `Backend`: the engine is away, or not ours; an archive that is away is told
    /// of by [`Onward::check`].
    pub async fn connect(config: Config) -> Result<Self> {
        let engines = Engines::open(&config).await?;
        let Config {
            keys,
            signing,
            archive_at,
            policies,
            locks_enabled,
            lock_namespace,
            lock_targets,
            lock_scopes,
            cache,
            retention,
            clock,
            observer,
            ..
        } = config;
        let options = QueueOptions { clock: clock.clone(), observer: observer.clone(), keys, retention };
        let queue = CommitQueue::start(engines.commits.clone(), options).await?;

        let settings = LocksConfig {
            namespace: lock_namespace,
            enabled: locks_enabled,
            targets: lock_targets,
            scope_labels: lock_scopes,
            commits: engines.has_store.then(|| queue.clone()),
            clock: clock.clone(),
            observer: observer.clone(),
            ..LocksConfig::default()
        };
        let locks = Locks::new(engines.locks, settings)?;
        // Known before the first caller asks.
        locks.look_at_switch().await;
        // A lock engine that lost its counter goes on above everything that the store has seen (C4).
        if let Ok(newest) = FencingToken::new(queue.engine().meta().await?.newest_token) {
            locks.raise_tokens(newest).await?;
        }

        let cache = Cache::new(engines.cache, "default", cache, clock.clone(), observer)?;
        let deliverer = Deliverer::new(Some(Arc::new(cache.clone())), clock);
        // The consumer must not keep the cache alive, and must live as long as any handle of it.
        let consumer = deliverer.with_sink(Arc::new(cache.downgrade())).follow(&queue).await?;
        cache.keep(Follower(tokio::spawn(consumer)));
        let archive = archive_at.as_ref().map(|url| Archive::open(url.secret())).transpose()?;
        if let Some(archive) = &archive {
            // One that is away is no reason to serve nothing; one that writes over what is there never gets better.
            archive.look().await.or_else(|error| if error.kind() == Kind::Unsupported { Err(error) } else { Ok(()) })?;
        }
        let mut audit = Trail::with(queue.clone(), engines.audit, TrailOptions { signing, archive, policies });
        audit.policies().check(audit.means())?;
        if let Some(file) = &engines.file {
            audit = audit.with_drops_beside(file).await?;
        }
        Ok(Self(Arc::new(Inner { store: Store::new(queue, deliverer), locks, cache, audit })))
    }

    /// Tells what [`Onward::connect`] would do to the schema of a database; changes nothing.
    ///
    /// # Errors
    /// As [`Onward::connect`]; [`Kind::Unsupported`](crate::Kind::Unsupported): the URL names no database, but a file, which migrates when it
    /// is opened.
    pub async fn plan(config: &Config) -> Result<Migration> {
        Migration::of(config).await
    }

    /// Looks at the engines of all parts and at what they stand on, such as the disk; changes nothing and may take a second.
    ///
    /// The findings are for people: what is wrong, how bad it is, and what to do. An engine without files has none.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        let mut findings = self.0.store.queue().engine().check().await?;
        findings.extend(self.0.locks.check().await?);
        findings.extend(self.0.cache.check().await?);
        findings.extend(self.0.audit.check().await?);
        Ok(findings)
    }

    /// Takes the steps that are due in the life of every chain, as [`Trail::tick`] does, unless another process is at it: `None`.
    ///
    /// The lock `onward/maintain` only saves work: two at once are harmless, and where locking is off or its engine away it runs all the
    /// same. The library never calls this by itself; `onward serve` does.
    ///
    /// # Errors
    /// As [`Trail::tick`].
    ///
    /// # Cancel safety
    /// As [`Trail::tick`].
    pub async fn maintain(&self, memory: &mut Maintenance, act: &Act, budget: Duration) -> Result<Option<Tick>> {
        let options = LockOptions::skip().with_ttl(Duration::from_secs(30)).with_held_memory(HeldMemory::Ignore);
        let key = LockKey::raw("onward/maintain")?;
        let ran = self.0.locks.with_key(&key, options, |_| self.0.audit.tick(memory, act, budget)).await?;
        ran.value().transpose()
    }

    /// Returns the versioned objects.
    pub fn store(&self) -> Store {
        self.0.store.clone()
    }

    /// Returns the locks.
    pub fn locks(&self) -> Locks {
        self.0.locks.clone()
    }

    /// Returns the cache's namespace `default`.
    pub fn cache(&self) -> Cache {
        self.0.cache.clone()
    }

    /// Returns another namespace of the cache.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): it is not `[a-z0-9._-]{1,64}`.
    pub fn cache_in(&self, namespace: &str) -> Result<Cache> {
        self.0.cache.in_namespace(namespace)
    }

    /// Returns the audit trail.
    pub fn audit(&self) -> Trail {
        self.0.audit.clone()
    }

    /// Begins a guarded write of an object: lock, compare-and-swap, fence and audit entry in one transaction, then the cache.
    pub fn guard(&self, kind: &str, name: &str) -> GuardedWrite {
        GuardedWrite::new(self.store(), self.locks(), kind, name)
    }
}

impl CacheSink for Cache {
    fn invalidate<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // Whether a reader could see something before makes no difference here; one that waits is delivered again.
            match self.in_namespace(namespace)?.invalidate(key).await? {
                Invalidation::Removed | Invalidation::Absent => Ok(()),
                Invalidation::Queued => Err(Error::unavailable("the cache engine is away")),
            }
        })
    }

    fn invalidate_all(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.flush_all().await? {
                Flushed::Flushed => Ok(()),
                Flushed::Queued => Err(Error::unavailable("the cache engine is away")),
            }
        })
    }
}

impl CacheSink for WeakCache {
    fn invalidate<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.upgrade() {
                Some(cache) => CacheSink::invalidate(&cache, namespace, key).await,
                // What is gone holds nothing that could be stale.
                None => Ok(()),
            }
        })
    }

    fn invalidate_all(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.upgrade() {
                Some(cache) => cache.invalidate_all().await,
                None => Ok(()),
            }
        })
    }
}
