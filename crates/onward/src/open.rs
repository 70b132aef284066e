//! URLs and configuration to engines to one [`Onward`]; the only room that knows them all.

use std::path::PathBuf;
use std::sync::Arc;

use crate::audit::Trail;
use crate::audit::engine::AuditEngine;
use crate::commit::engine::CommitEngine;
use crate::commit::{CommitQueue, QueueOptions};
use crate::engine::memory::MemoryStore;
#[cfg(feature = "sqlite")]
use crate::engine::sqlite::SqliteStore;
use crate::model::MacKeys;
use crate::observe::{SharedObserver, Silent};
use crate::store::{Deliverer, Store};
use crate::time::Clock;
use crate::{Error, Result};

/// What to open, and with what.
#[derive(Debug, Clone)]
pub struct Config {
    store: String,
    keys: MacKeys,
    clock: Clock,
    observer: SharedObserver,
}

impl Config {
    /// Everything on one URL: `memory:` or `sqlite:PATH`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { store: url.into(), keys: MacKeys::none(), clock: Clock::system(), observer: Arc::new(Silent) }
    }

    /// Seals audit entries with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: MacKeys) -> Self {
        self.keys = keys;
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

/// The four parts over one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Onward(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    trail: Trail,
    follower: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Onward {
    /// Opens everything on one URL: `memory:` or `sqlite:PATH`.
    ///
    /// # Errors
    /// As [`Onward::connect`].
    pub async fn open(url: &str) -> Result<Self> {
        Self::connect(Config::new(url)).await
    }

    /// Opens what the configuration names, inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the URL. `Unsupported`: the engine is too old or its schema too new. `Backend`: it is away,
    /// or not ours.
    pub async fn connect(config: Config) -> Result<Self> {
        let (engine, audit): (Arc<dyn CommitEngine>, Arc<dyn AuditEngine>) = match place(&config.store)? {
            Place::Memory => {
                let engine = Arc::new(MemoryStore::new());
                (engine.clone(), engine)
            }
            #[cfg(feature = "sqlite")]
            Place::Sqlite(path) => {
                let engine = Arc::new(SqliteStore::open(path, &config.clock).await?);
                (engine.clone(), engine)
            }
            #[cfg(not(feature = "sqlite"))]
            Place::Sqlite(_) => return Err(Error::unsupported("this build has no SQLite engine")),
        };
        let options = QueueOptions { clock: config.clock.clone(), observer: config.observer.clone(), keys: config.keys };
        let queue = CommitQueue::start(engine, options).await?;
        let trail = Trail::new(queue.clone(), audit);
        let deliverer = Deliverer::new(None, config.clock);
        let follower = tokio::spawn(deliverer.follow(&queue).await?);
        Ok(Self(Arc::new(Inner { store: Store::new(queue, deliverer), trail, follower })))
    }

    /// Returns the versioned objects.
    pub fn store(&self) -> Store {
        self.0.store.clone()
    }

    /// Returns the audit trail.
    pub fn audit(&self) -> Trail {
        self.0.trail.clone()
    }
}
