//! What to open: the URLs of the parts and how each is to be kept.

use std::sync::Arc;
use std::time::Duration;

use super::Url;
use crate::audit::Policies;
use crate::cache::{CacheOptions, Layout};
use crate::commit::Retention;
use crate::lock::LocksConfig;
use crate::model::{CheckpointKey, MacKeys};
use crate::observe::{SharedObserver, Silent};
use crate::time::Clock;
use crate::{Error, Result};

/// What to open, and with what.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) store: Url,
    pub(super) locks_at: Option<Url>,
    pub(super) cache_at: Option<Url>,
    pub(super) keys: MacKeys,
    pub(super) signing: Option<CheckpointKey>,
    pub(super) archive_at: Option<Url>,
    pub(super) policies: Policies,
    pub(super) files: Files,
    pub(super) locks_enabled: bool,
    pub(super) lock_namespace: String,
    pub(super) lock_targets: Vec<String>,
    pub(super) lock_scopes: Vec<String>,
    pub(super) cache: CacheOptions,
    pub(super) cache_bytes: usize,
    pub(super) cache_near: Option<Duration>,
    pub(super) cache_layout: Layout,
    /// As the environment says: it may speak of another cache than this one, so it is not insisted on.
    pub(super) cache_layout_around: Layout,
    pub(super) retention: Retention,
    pub(super) clock: Clock,
    pub(super) observer: SharedObserver,
}

/// What to do about a file that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    Make,
    MustExist,
}

/// Most bytes of the cache in memory unless the configuration says otherwise.
const CACHE_BYTES: usize = 64 << 20;

impl Config {
    /// Everything on one URL, `memory:`, `sqlite:PATH`, `postgres://HOST/DATABASE` or (locks and a cache, no store) `redis://HOST`, with
    /// nothing read from the environment; the cache is in memory, or on Redis.
    pub fn new(url: impl Into<Url>) -> Self {
        Self {
            store: url.into(),
            locks_at: None,
            cache_at: None,
            keys: MacKeys::none(),
            signing: None,
            archive_at: None,
            policies: Policies::default(),
            files: Files::Make,
            locks_enabled: true,
            lock_namespace: LocksConfig::default().namespace,
            lock_targets: Vec::new(),
            lock_scopes: Vec::new(),
            cache: CacheOptions::default(),
            cache_bytes: CACHE_BYTES,
            cache_near: None,
            cache_layout: Layout::default(),
            cache_layout_around: Layout::default(),
            retention: Retention::default(),
            clock: Clock::system(),
            observer: Arc::new(Silent),
        }
    }

    /// Reads `ONWARD__LOCKS__ENABLED` (`true` or `false`), `ONWARD__CACHE__LAYOUT` (`onward`, `utopia` or `utopia-case-sensitive`) and the keys of the audit trail: `ONWARD__AUDIT__KEY` and
    /// `ONWARD__AUDIT__SIGNING_KEY`, or the files that these names with `_FILE` name; and the URL of the archive, `ONWARD__AUDIT__ARCHIVE`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another value, both forms of a key, or a file that cannot be read. Nothing weaker is done.
    pub fn with_environment(mut self) -> Result<Self> {
        match var("ONWARD__LOCKS__ENABLED")?.as_deref() {
            None | Some("true") => {}
            Some("false") => self.locks_enabled = false,
            Some(_) => return Err(Error::invalid("ONWARD__LOCKS__ENABLED is true or false")),
        }
        if let Some(text) = var("ONWARD__CACHE__LAYOUT")? {
            self.cache_layout_around = text.parse()?;
        }
        match (var("ONWARD__AUDIT__KEY")?, var("ONWARD__AUDIT__KEY_FILE")?) {
            (None, Some(path)) => self.keys = crate::audit::read_keyring(path.as_ref())?,
            _ => {
                if let Some(text) = secret("ONWARD__AUDIT__KEY")? {
                    self.keys = MacKeys::parse(&text)?;
                }
            }
        }
        if let Some(text) = secret("ONWARD__AUDIT__SIGNING_KEY")? {
            self.signing = Some(CheckpointKey::parse(&text)?);
        }
        if let Some(url) = var("ONWARD__AUDIT__ARCHIVE")? {
            self.archive_at = Some(url.into());
        }
        Ok(self)
    }

    /// Keeps locks at a URL of their own instead of beside the store: `redis://HOST`, `memory:`, `postgres://HOST/DATABASE`,
    /// or `sqlite:PATH` of a store.
    #[must_use]
    pub fn with_locks_at(mut self, url: impl Into<Url>) -> Self {
        self.locks_at = Some(url.into());
        self
    }

    /// Keeps the cache at this URL: `redis://HOST`, several of them with commas between, which share the keys, or `memory:`.
    ///
    /// By default it is in the process's memory, or where everything is, if that is Redis. All processes must name the same servers.
    #[must_use]
    pub fn with_cache_at(mut self, url: impl Into<Url>) -> Self {
        self.cache_at = Some(url.into());
        self
    }

    /// Seals audit entries with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: MacKeys) -> Self {
        self.keys = keys;
        self
    }

    /// Signs checkpoints with this key.
    #[must_use]
    pub fn with_signing_key(mut self, key: CheckpointKey) -> Self {
        self.signing = Some(key);
        self
    }

    /// Archives segments of chains at this URL, `file:PATH`.
    #[must_use]
    pub fn with_archive_at(mut self, url: impl Into<Url>) -> Self {
        self.archive_at = Some(url.into());
        self
    }

    /// Sets when [`Onward::maintain`](crate::Onward::maintain) seals, archives, purges and deletes; by default never.
    #[must_use]
    pub fn with_policies(mut self, policies: Policies) -> Self {
        self.policies = policies;
        self
    }

    /// Refuses a SQLite file or a database that is not there, or is empty, instead of making it: for whoever comes to look, as an auditor does.
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

    /// Keeps near copies of a cache on Redis in this process, each for at most `bound`, 10 ms to 60 s.
    ///
    /// A read may then miss an invalidation by another process for as long, though most are told sooner; those of this process hold at once.
    /// What [`Cache::promise`](crate::cache::Cache::promise) says. A cache in memory has no need of them and keeps none.
    #[must_use]
    pub fn with_cache_near(mut self, bound: Duration) -> Self {
        self.cache_near = Some(bound);
        self
    }

    /// Lays the cache on Redis out like this; by default as our own.
    ///
    /// [`Layout::Utopia`] with several servers picks a key's as utopia-php/cache does, by their order. All processes must say the same.
    #[must_use]
    pub fn with_cache_layout(mut self, layout: Layout) -> Self {
        self.cache_layout = layout;
        self
    }

    /// Bounds the cache in memory, or the near copies; 64 MiB by default.
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

impl Config {
    /// Returns the layout of a cache on Redis.
    #[cfg(feature = "redis")]
    pub(super) fn layout(&self) -> Layout {
        if self.cache_layout == Layout::Onward { self.cache_layout_around } else { self.cache_layout }
    }
}

/// Reads a secret that stands in a variable, or in the file that a second one names.
fn secret(name: &str) -> Result<Option<String>> {
    let file = format!("{name}_FILE");
    match (var(name)?, var(&file)?) {
        (Some(_), Some(_)) => Err(Error::invalid(format!("set {name} or {file}, not both"))),
        (None, Some(path)) => {
            std::fs::read_to_string(path).map(Some).map_err(|e| Error::invalid(format!("{file} cannot be read")).with_source(e))
        }
        (text, None) => Ok(text),
    }
}

fn var(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(format!("{name} is not UTF-8"))),
    }
}
