//! URLs to engines, part by part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Config, Files};
use super::url::{MEMORY, Url};
use crate::audit::engine::AuditEngine;
#[cfg(feature = "redis")]
use crate::cache::layers::{Breaker, Sharded, Tiered};
use crate::cache::{CacheEngine, Layout};
use crate::commit::engine::CommitEngine;
#[cfg(feature = "redis")]
use crate::engine::memory::ClosedLocks;
use crate::engine::memory::{MemoryCache, MemoryLocks, MemoryStore};
#[cfg(feature = "postgres")]
use crate::engine::postgres::{self as migrate, PostgresLocks, PostgresStore};
#[cfg(feature = "redis")]
use crate::engine::redis::{Address, NOT_ON_A_CLUSTER, RedisCache, RedisLocks};
#[cfg(feature = "sqlite")]
use crate::engine::sqlite::{SqliteLocks, SqliteStore};
use crate::lock::LockEngine;
use crate::time::Clock;
#[cfg(feature = "sqlite")]
use crate::{Code, Kind};
use crate::{Error, Result};

#[cfg(feature = "redis")]
const NO_STORE: &str = "redis keeps locks and a cache, no store and no audit trail: name a store such as sqlite:PATH";

/// What every SQLite database begins with.
#[cfg(feature = "sqlite")]
const HEADER_BYTES: u64 = 100;

/// Where a part lives.
enum Place {
    Memory,
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(String),
    #[cfg(feature = "redis")]
    Redis(Box<Address>),
}

fn place(url: &str) -> Result<Place> {
    #[cfg(feature = "redis")]
    if Address::is_meant(url) {
        return Address::parse(url).map(|address| Place::Redis(Box::new(address)));
    }
    #[cfg(feature = "postgres")]
    if PostgresStore::is_meant(url) {
        return Ok(Place::Postgres(url.to_owned()));
    }
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Place::Memory),
        Some(("sqlite", path)) if !path.is_empty() => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Place::Sqlite(PathBuf::from(path)))
        }
        _ => Err(Error::invalid("a URL is memory:, sqlite:PATH, postgres://HOST/DATABASE or redis://HOST")),
    }
}

impl Place {
    fn has_cache(&self) -> bool {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(_) => true,
            _ => false,
        }
    }

    fn has_store(&self) -> bool {
        match self {
            Self::Memory | Self::Sqlite(_) => true,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(_) => false,
        }
    }
}

/// What opening a store would do to its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The schema that is there; `None`: there is no store yet.
    pub found: Option<i32>,
    /// The schema that this library reads and writes.
    pub wanted: i32,
    /// Whether the rows came from elsewhere, out of a dump or from a server that took over: then an epoch is drawn and numbers jump.
    pub restored: bool,
}

impl Migration {
    /// Asks a database; changes nothing.
    pub(super) async fn of(config: &Config) -> Result<Self> {
        match place(config.store.secret())? {
            #[cfg(feature = "postgres")]
            Place::Postgres(url) => {
                let migrate::Migration { found, wanted, restored } = PostgresStore::plan(&url, &config.clock).await?;
                Ok(Self { found, wanted, restored })
            }
            _ => Err(Error::unsupported("only a database has a plan: a file migrates when it is opened")),
        }
    }

    /// Tells whether opening the store would change anything.
    pub fn is_due(&self) -> bool {
        self.restored || self.found != Some(self.wanted)
    }
}

/// The engines of all parts.
pub(super) struct Engines {
    pub(super) commits: Arc<dyn CommitEngine>,
    pub(super) audit: Arc<dyn AuditEngine>,
    pub(super) locks: Arc<dyn LockEngine>,
    pub(super) cache: Arc<dyn CacheEngine>,
    /// Whether anything can be written to the store.
    pub(super) has_store: bool,
    /// The file beside which drops are counted.
    pub(super) file: Option<PathBuf>,
}

impl Engines {
    /// Opens what the configuration names; the store first, since it says whether there is anything to open.
    pub(super) async fn open(config: &Config) -> Result<Self> {
        let store = place(config.store.secret())?;
        let locks = config.locks_at.as_ref().map(|url| place(url.secret())).transpose()?;
        let cache = config
            .cache_at
            .as_ref()
            .or(store.has_cache().then_some(&config.store))
            .map_or(MEMORY, Url::secret)
            .split(',')
            .map(place)
            .collect::<Result<Vec<_>>>()?;
        let (commits, audit, file): (Arc<dyn CommitEngine>, Arc<dyn AuditEngine>, _) = match &store {
            Place::Memory => {
                let store = Arc::new(MemoryStore::new());
                (store.clone(), store, None)
            }
            Place::Sqlite(path) => {
                let store = sqlite_store(path, config.files, &config.clock).await?;
                (store.clone(), store, Some(path.clone()))
            }
            #[cfg(feature = "postgres")]
            Place::Postgres(url) => {
                let store = Arc::new(match config.files {
                    Files::Make => PostgresStore::open(url, &config.clock).await?,
                    Files::MustExist => PostgresStore::open_existing(url, &config.clock).await?,
                });
                (store.clone(), store, None)
            }
            #[cfg(feature = "redis")]
            Place::Redis(_) => {
                let store = Arc::new(MemoryStore::closed(NO_STORE));
                (store.clone(), store, None)
            }
        };
        Ok(Self {
            commits,
            audit,
            locks: match &locks {
                Some(place) => lock_engine(place, &config.clock).await?,
                // Nobody asked for locks there: a cluster has a cache, and says what it has not when it is asked.
                #[cfg(feature = "redis")]
                None if matches!(&store, Place::Redis(address) if address.is_cluster()) => Arc::new(ClosedLocks::new(NOT_ON_A_CLUSTER)),
                None => lock_engine(&store, &config.clock).await?,
            },
            cache: cache_engine(&cache, config).await?,
            has_store: store.has_store(),
            file,
        })
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite_store(path: &Path, files: Files, clock: &Clock) -> Result<Arc<SqliteStore>> {
    if files == Files::MustExist && std::fs::metadata(path).map_or(0, |file| file.len()) < HEADER_BYTES {
        return Err(Error::new(Kind::NotFound, Code::NotFound, "there is no such database file, or it is empty"));
    }
    Ok(Arc::new(SqliteStore::open(path, clock).await?))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite_store(_: &Path, _: Files, _: &Clock) -> Result<Arc<MemoryStore>> {
    Err(Error::unsupported("this build has no SQLite engine"))
}

async fn lock_engine(place: &Place, clock: &Clock) -> Result<Arc<dyn LockEngine>> {
    match place {
        Place::Memory => Ok(Arc::new(MemoryLocks::new(clock.clone()))),
        #[cfg(feature = "sqlite")]
        Place::Sqlite(path) => Ok(Arc::new(SqliteLocks::open(SqliteLocks::beside(path), clock.clone()).await?)),
        #[cfg(not(feature = "sqlite"))]
        Place::Sqlite(_) => Err(Error::unsupported("this build has no SQLite engine")),
        #[cfg(feature = "postgres")]
        Place::Postgres(url) => Ok(Arc::new(PostgresLocks::open(url, clock.clone()).await?)),
        #[cfg(feature = "redis")]
        Place::Redis(address) => Ok(Arc::new(RedisLocks::open(address).await?)),
    }
}

/// Opens the cache: in memory, or on one Redis or several that share the keys, each behind a breaker, with near copies if they are wanted.
async fn cache_engine(places: &[Place], config: &Config) -> Result<Arc<dyn CacheEngine>> {
    let memory = || Arc::new(MemoryCache::new(config.clock.clone()).with_max_bytes(config.cache_bytes));
    if let [Place::Memory] = places {
        if config.cache_layout != Layout::Onward {
            return Err(Error::unsupported("the cache layouts utopia and utopia-case-sensitive are for a cache on redis"));
        }
        return Ok(memory());
    }
    #[cfg(feature = "redis")]
    return shared_cache(places, config, memory).await;
    #[cfg(not(feature = "redis"))]
    Err(Error::unsupported("a cache is in memory or on redis"))
}

#[cfg(feature = "redis")]
async fn shared_cache(places: &[Place], config: &Config, memory: impl Fn() -> Arc<MemoryCache>) -> Result<Arc<dyn CacheEngine>> {
    let near: Option<Arc<dyn CacheEngine>> = config.cache_near.map(|_| memory() as _);
    let mut shards: Vec<(String, Arc<dyn CacheEngine>)> = Vec::new();
    for place in places {
        let Place::Redis(address) = place else {
            return Err(Error::unsupported("a cache is memory:, or one or more redis URLs with commas between them"));
        };
        let server = RedisCache::open(address, config.clock.clone()).await?.with_layout(config.layout())?;
        if let Some(near) = &near {
            server.tell(Arc::clone(near)).await?;
        }
        shards.push((address.name(), Arc::new(Breaker::new(Arc::new(server), config.clock.clone()))));
    }
    let far: Arc<dyn CacheEngine> = match <[_; 1]>::try_from(shards) {
        Ok([(_, alone)]) => alone,
        Err(shards) => Arc::new(match config.layout() {
            Layout::Onward => Sharded::new(shards)?,
            shared => Sharded::by_crc32(shards, shared)?,
        }),
    };
    match (near, config.cache_near) {
        (Some(near), Some(bound)) => Ok(Arc::new(Tiered::new(near, far, config.clock.clone(), bound)?)),
        _ => Ok(far),
    }
}
