//! URLs and configuration to engines to one [`Onward`]; the only room that knows them all.

use std::path::PathBuf;
use std::sync::Arc;

use futures_core::future::BoxFuture;

use crate::audit::Trail;
use crate::audit::engine::AuditEngine;
use crate::cache::{Cache, CacheOptions, Flushed, Follower, Invalidation, WeakCache};
use crate::commit::engine::CommitEngine;
use crate::commit::{CommitQueue, QueueOptions, Retention};
use crate::engine::memory::{MemoryCache, MemoryLocks, MemoryStore};
#[cfg(feature = "sqlite")]
use crate::engine::sqlite::{SqliteLocks, SqliteStore};
use crate::guarded::GuardedWrite;
use crate::lock::{LockEngine, Locks, LocksConfig};
use crate::model::{FencingToken, MacKeys};
use crate::observe::{Finding, SharedObserver, Silent};
use crate::store::{CacheSink, Deliverer, Store};
use crate::time::Clock;
use crate::{Code, Error, Kind, Result};

/// What to open, and with what.
#[derive(Debug, Clone)]
pub struct Config {
    store: String,
    keys: MacKeys,
    files: Files,
    locks_enabled: bool,
    lock_namespace: String,
    lock_targets: Vec<String>,
    lock_scopes: Vec<String>,
    cache: CacheOptions,
    cache_bytes: usize,
    retention: Retention,
    clock: Clock,
    observer: SharedObserver,
}

/// What to do about a file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Make,
    MustExist,
}

/// What every SQLite database begins with.
const HEADER_BYTES: u64 = 100;

/// Most bytes of the cache in memory unless the configuration says otherwise.
const CACHE_BYTES: usize = 64 << 20;

impl Config {
    /// Everything on one URL, `memory:` or `sqlite:PATH`, with nothing read from the environment.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            store: url.into(),
            keys: MacKeys::none(),
            files: Files::Make,
            locks_enabled: true,
            lock_namespace: LocksConfig::default().namespace,
            lock_targets: Vec::new(),
            lock_scopes: Vec::new(),
            cache: CacheOptions::default(),
            cache_bytes: CACHE_BYTES,
            retention: Retention::default(),
            clock: Clock::system(),
            observer: Arc::new(Silent),
        }
    }

    /// Reads `ONWARD__LOCKS__ENABLED` (`true` or `false`) and the key of the audit trail, `ONWARD__AUDIT__KEY` or
    /// `ONWARD__AUDIT__KEY_FILE`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another value, both forms of the key, or a file that cannot be read. Nothing weaker is done.
    pub fn with_environment(mut self) -> Result<Self> {
        match var("ONWARD__LOCKS__ENABLED")?.as_deref() {
            None | Some("true") => {}
            Some("false") => self.locks_enabled = false,
            Some(_) => return Err(Error::invalid("ONWARD__LOCKS__ENABLED is true or false")),
        }
        match (var("ONWARD__AUDIT__KEY")?, var("ONWARD__AUDIT__KEY_FILE")?) {
            (None, None) => {}
            (Some(text), None) => self.keys = MacKeys::parse(&text)?,
            (None, Some(path)) => {
                let text =
                    std::fs::read_to_string(path).map_err(|e| Error::invalid("ONWARD__AUDIT__KEY_FILE cannot be read").with_source(e))?;
                self.keys = MacKeys::parse(&text)?;
            }
            (Some(_), Some(_)) => return Err(Error::invalid("set ONWARD__AUDIT__KEY or ONWARD__AUDIT__KEY_FILE, not both")),
        }
        Ok(self)
    }

    /// Seals audit entries with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: MacKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Refuses a SQLite file that is not there, or is empty, instead of making it: for whoever comes to look, as an auditor does.
    #[must_use]
    pub fn with_existing_file(mut self) -> Self {
        self.files = Files::MustExist;
        self
    }

    /// Switches locking off: bodies run unlocked and say so, and no lock is granted.
    #[must_use]
    pub fn with_locks_off(mut self) -> Self {
        self.locks_enabled = false;
        self
    }

    /// Sets the first segment of every typed lock key, `[a-z0-9_-]{1,32}`; `main` by default. Each has a kill switch of its own.
    #[must_use]
    pub fn with_lock_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.lock_namespace = namespace.into();
        self
    }

    /// Sets the closed set of lock scopes that are labels in metrics.
    #[must_use]
    pub fn with_lock_scopes(mut self, scopes: Vec<String>) -> Self {
        self.lock_scopes = scopes;
        self
    }

    /// Sets the closed set of lock labels for metrics.
    #[must_use]
    pub fn with_lock_targets(mut self, targets: Vec<String>) -> Self {
        self.lock_targets = targets;
        self
    }

    /// Sets the cache's options.
    #[must_use]
    pub fn with_cache(mut self, options: CacheOptions) -> Self {
        self.cache = options;
        self
    }

    /// Bounds the cache in memory; 64 MiB by default.
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Sets how much of the change log is kept; 7 days and 4 GiB by default.
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Uses this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Tells this observer what happens.
    #[must_use]
    pub fn with_observer(mut self, observer: SharedObserver) -> Self {
        self.observer = observer;
        self
    }
}

fn var(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(format!("{name} is not UTF-8"))),
    }
}

/// Where a store lives.
enum Place {
    Memory,
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
    Sqlite(PathBuf),
}

fn place(url: &str) -> Result<Place> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Place::Memory),
        Some(("sqlite", path)) if !path.is_empty() => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Place::Sqlite(PathBuf::from(path)))
        }
        _ => Err(Error::invalid("a URL is memory: or sqlite:PATH")),
    }
}

/// The engines of one store.
struct Engines {
    commits: Arc<dyn CommitEngine>,
    audit: Arc<dyn AuditEngine>,
    locks: Arc<dyn LockEngine>,
    /// The file beside which drops are counted.
    file: Option<PathBuf>,
}

async fn engines(url: &str, files: Files, clock: &Clock) -> Result<Engines> {
    match place(url)? {
        Place::Sqlite(path) if files == Files::MustExist && std::fs::metadata(&path).map_or(0, |file| file.len()) < HEADER_BYTES => {
            Err(Error::new(Kind::NotFound, Code::NotFound, "there is no such database file, or it is empty"))
        }
        Place::Memory => {
            let store = Arc::new(MemoryStore::new());
            Ok(Engines { commits: store.clone(), audit: store, locks: Arc::new(MemoryLocks::new(clock.clone())), file: None })
        }
        #[cfg(feature = "sqlite")]
        Place::Sqlite(path) => {
            let store = Arc::new(SqliteStore::open(&path, clock).await?);
            let locks = SqliteLocks::open(SqliteLocks::beside(&path), clock.clone()).await?;
            Ok(Engines { commits: store.clone(), audit: store, locks: Arc::new(locks), file: Some(path) })
        }
        #[cfg(not(feature = "sqlite"))]
        Place::Sqlite(_) => Err(Error::unsupported("this build has no SQLite engine")),
    }
}

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
    /// Opens everything on one URL, `memory:` or `sqlite:PATH`, and heeds the environment as [`Config::with_environment`] does.
    ///
    /// # Errors
    /// As [`Onward::connect`].
    pub async fn open(url: &str) -> Result<Self> {
        Self::connect(Config::new(url).with_environment()?).await
    }

    /// Opens what the configuration names, inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the URL or an option. `NotFound`: see [`Config::with_existing_file`]. `Unsupported`: the
    /// engine is too old or its schema too new. `Backend`: it is away, or not ours.
    pub async fn connect(config: Config) -> Result<Self> {
        let Config {
            store: url,
            keys,
            files,
            locks_enabled,
            lock_namespace,
            lock_targets,
            lock_scopes,
            cache,
            cache_bytes,
            retention,
            clock,
            observer,
        } = config;
        let engines = engines(&url, files, &clock).await?;
        let options = QueueOptions { clock: clock.clone(), observer: observer.clone(), keys, retention };
        let queue = CommitQueue::start(engines.commits.clone(), options).await?;

        let settings = LocksConfig {
            namespace: lock_namespace,
            enabled: locks_enabled,
            targets: lock_targets,
            scope_labels: lock_scopes,
            commits: Some(queue.clone()),
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

        let memory = Arc::new(MemoryCache::new(clock.clone()).with_max_bytes(cache_bytes));
        let cache = Cache::new(memory, "default", cache, clock.clone(), observer)?;
        let deliverer = Deliverer::new(Some(Arc::new(cache.clone())), clock);
        // The consumer must not keep the cache alive, and must live as long as any handle of it.
        let consumer = deliverer.with_sink(Arc::new(cache.downgrade())).follow(&queue).await?;
        cache.keep(Follower(tokio::spawn(consumer)));
        let mut audit = Trail::new(queue.clone(), engines.audit);
        if let Some(file) = &engines.file {
            audit = audit.with_drops_beside(file).await?;
        }
        Ok(Self(Arc::new(Inner { store: Store::new(queue, deliverer), locks, cache, audit })))
    }

    /// Looks at the store's engine and at what it stands on, such as the disk; changes nothing and may take a second.
    ///
    /// The findings are for people: what is wrong, how bad it is, and what to do. An engine without files has none.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        self.0.store.queue().engine().check().await
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
