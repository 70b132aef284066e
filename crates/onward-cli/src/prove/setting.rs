//! What every scenario is given: a folder, a seed, the number of rounds, a line to say how far it is.

use std::error::Error;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onward::cache::{Cache, CacheEngine, CacheOptions};
use onward::engine::memory::MemoryCache;
use onward::engine::redis::Address;
use onward::observe::Silent;
use onward::time::Clock;
use onward::{Config, Onward};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::scenario::Needs;
use crate::seed::{Random, draw_seed};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which way a scenario writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// As it is often done.
    Unprotected,
    /// As the library does it.
    Protected,
}

/// What one side counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Count {
    /// How often it could have gone wrong.
    pub(super) rounds: u64,
    /// How often it did.
    pub(super) bad: u64,
    /// How often a late write was refused, or, where nothing is written, spared.
    pub(super) refused: u64,
    /// The first time that it went wrong, in words.
    pub(super) example: Option<String>,
}

impl Count {
    /// Counts one thing that could go wrong.
    pub(super) fn round(&mut self, bad: bool, example: impl FnOnce() -> String) {
        self.rounds += 1;
        if bad {
            self.bad += 1;
            self.example.get_or_insert_with(example);
        }
    }
}

/// A side could not be run.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// What came of one side.
pub(super) type Outcome = Result<Count, Failure>;

/// What every scenario is given.
#[derive(Debug)]
pub(super) struct Setting {
    folder: TempDir,
    seed: u32,
    rounds: Option<u64>,
    entries: Option<u64>,
    redis: Option<Named>,
    progress: Progress,
}

/// A Redis that was named.
#[derive(Debug)]
pub(super) struct Named {
    url: String,
    address: Address,
}

impl Named {
    /// Reads a URL; one of something else names none.
    pub(super) fn read(url: &str) -> onward::Result<Option<Self>> {
        if !Address::is_meant(url) {
            return Ok(None);
        }
        Ok(Some(Self { address: Address::parse(url)?, url: url.to_owned() }))
    }

    /// Returns where it is, without a password.
    fn place(&self) -> String {
        format!("redis {}", self.address.name())
    }
}

impl Setting {
    pub(super) fn new(seed: u32, rounds: Option<u64>, entries: Option<u64>, redis: Option<Named>) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("onward-prove-").tempdir()?;
        Ok(Self { folder, seed, rounds, entries, redis, progress: Progress::default() })
    }

    /// Opens handles on one cache, as so many replicas have them: on a server each with connections of its own.
    pub(super) async fn caches(&self, replicas: usize) -> onward::Result<Vec<Cache>> {
        let mut caches = Vec::with_capacity(replicas);
        match &self.redis {
            None => {
                let engine: Arc<dyn CacheEngine> = Arc::new(MemoryCache::new(Clock::system()));
                for _ in 0..replicas {
                    let options = CacheOptions::default();
                    caches.push(Cache::new(engine.clone(), "prove", options, Clock::system(), Arc::new(Silent))?);
                }
            }
            Some(Named { url, .. }) => {
                // A namespace of its own, which ends with its time: nobody else's keys are touched.
                let namespace = format!("prove-{:08x}", draw_seed());
                for _ in 0..replicas {
                    caches.push(open(url).await?.cache_in(&namespace)?.with(CacheOptions::default().with_op_timeout(PATIENCE))?);
                }
            }
        }
        Ok(caches)
    }

    /// Returns how many rounds to run.
    pub(super) fn rounds(&self, default: u64) -> u64 {
        self.rounds.unwrap_or(default)
    }

    /// Returns how many entries to archive, if it was said.
    pub(super) fn entries(&self) -> Option<u64> {
        self.entries
    }

    /// Returns the random numbers of a scenario: the same for both sides, so that they run one schedule.
    pub(super) fn random(&self, scenario: &str) -> Random {
        Random::new(self.seed, scenario)
    }

    /// Returns where locks are, if they are not beside the store: a cluster has none.
    pub(super) fn locks(&self) -> Option<&str> {
        self.redis.as_ref().filter(|redis| !redis.address.is_cluster()).map(|redis| redis.url.as_str())
    }

    /// Returns the URL that is used.
    pub(super) fn named(&self) -> Option<&str> {
        self.redis.as_ref().map(|redis| redis.url.as_str())
    }

    /// Says what a scenario runs on, so that nobody takes a proof for one about something else.
    pub(super) fn stands_on(&self, needs: Needs) -> String {
        let place = || self.redis.as_ref().map(Named::place);
        match (needs, self.locks()) {
            (Needs::Cache, _) => format!("cache: {}", place().unwrap_or_else(|| "memory".to_owned())),
            (Needs::Store, _) => "store: sqlite".to_owned(),
            (Needs::LocksAndStore, Some(_)) => format!("locks: {}, store: sqlite", place().unwrap_or_default()),
            (Needs::LocksAndStore, None) => "locks and store: sqlite".to_owned(),
        }
    }

    /// Makes an empty folder for one side.
    pub(super) fn room(&self, name: &str) -> std::io::Result<Room> {
        tempfile::Builder::new().prefix(name).tempdir_in(self.folder.path()).map(Room)
    }

    pub(super) fn begin(&self, scenario: &'static str, side: &'static str) {
        *self.progress.now.lock() = (scenario, side);
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// The folder of one side; gone when it is dropped.
#[derive(Debug)]
pub(super) struct Room(TempDir);

impl Room {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an empty folder in here.
    pub(super) fn inner(&self, name: &str) -> std::io::Result<Room> {
        tempfile::Builder::new().prefix(name).tempdir_in(self.0.path()).map(Room)
    }

    /// Returns the URL of a SQLite file in here.
    pub(super) fn url(&self, name: &str) -> String {
        url(&self.path(name))
    }
}

/// Returns the URL of a SQLite file.
pub(super) fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Opens an embedded engine whatever the environment says: a kill switch that is set there would prove nothing.
pub(super) async fn open(url: &str) -> onward::Result<Onward> {
    open_with(url, None).await
}

/// As [`open`], with its locks elsewhere.
pub(super) async fn open_with(url: &str, locks: Option<&str>) -> onward::Result<Onward> {
    let config = Config::new(url);
    Onward::connect(match locks {
        Some(locks) => config.with_locks_at(locks),
        None => config,
    })
    .await
}

/// One line on stderr that says how far it is, if a terminal is there.
#[derive(Debug, Default)]
pub(super) struct Progress {
    now: Mutex<(&'static str, &'static str)>,
}

impl Progress {
    /// Shows how many of all steps are done.
    pub(super) fn show(&self, done: u64, all: u64) {
        if stderr().is_terminal() {
            let (scenario, side) = *self.now.lock();
            // Talk that nobody hears is no failure.
            let _ = write!(stderr(), "\r\x1b[K{scenario}: {side} {done}/{all}");
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if stderr().is_terminal() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
