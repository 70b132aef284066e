//! What the configuration comes to: one field a key, typed and within its bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use onward::audit::{Policies, Policy};
use onward::commit::Retention;
use onward::model::{CheckpointKey, MacKeys};
use onward::{Config, Url};

use crate::auth::{Role, Scope};
use crate::log::LogOptions;
use crate::state::{Limits, Timeouts};

/// Everything that `onward serve` is told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Whether to listen beyond loopback without TLS.
    pub insecure_plaintext: bool,
    /// Whether store and locks may live in this process only.
    pub allow_memory: bool,
    /// The names that a `Host` may have; empty for any.
    pub hosts: Vec<String>,
    /// The certificate and its key; absent: plain HTTP.
    pub tls: TlsFiles,
    /// Threads of the runtime; 0 for one a core, at least two.
    pub threads: usize,
    /// How many of each at once.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How to end.
    pub shutdown: Shutdown,
    /// The store, the audit trail and the locks.
    pub store_url: Url,
    /// How much of the change log is kept.
    pub retention: Retention,
    /// The locks, if they are not beside the store.
    pub locks_url: Option<Url>,
    /// The kill switch of the locks.
    pub locks_enabled: bool,
    /// The first segment of typed lock keys; each has a kill switch.
    pub lock_namespace: String,
    /// The cache, if there is one.
    pub cache_url: Option<Url>,
    /// Who shares the cache: `shared` or `process`.
    pub cache_scope: &'static str,
    /// How a cache on Redis lies there: `onward` or `utopia`.
    pub cache_layout: &'static str,
    /// The bound of a cache in memory.
    pub cache_bytes: usize,
    /// Whether values are taken without a fill lease.
    pub cache_unleased: bool,
    /// The key that seals audit entries.
    pub audit_key: MacKeys,
    /// Where segments are archived, if anywhere.
    pub archive_url: Option<Url>,
    /// When steps of segments are due where nothing else is said.
    pub policy: Policy,
    /// When steps of segments are due, of each chain.
    pub policies: Policies,
    /// The key that signs checkpoints.
    pub signing_key: Option<CheckpointKey>,
    /// Requests that a token may send.
    pub rate: Rate,
    /// Tokens beside those in the store.
    pub tokens: Vec<ListedToken>,
    /// Where the metrics are open to everybody; absent: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// The parts without which it is not ready.
    pub ready_requires: Vec<String>,
    /// What is logged, and how.
    pub log: LogOptions,
}

impl Settings {
    /// Says what to open, with the store at this URL.
    ///
    /// # Errors
    /// [`Kind::Invalid`](onward::Kind::Invalid): the layout of the cache.
    pub fn engines(&self, store: impl Into<Url>) -> onward::Result<Config> {
        let mut config = Config::new(store)
            .with_keys(self.audit_key.clone())
            .with_retention(self.retention)
            .with_cache_bytes(self.cache_bytes)
            .with_lock_namespace(self.lock_namespace.clone())
            .with_policies(self.policies.clone());
        if let Some(url) = &self.archive_url {
            config = config.with_archive_at(url.clone());
        }
        if let Some(key) = &self.signing_key {
            config = config.with_signing_key(key.clone());
        }
        if let Some(url) = &self.locks_url {
            config = config.with_locks_at(url.clone());
        }
        if let Some(url) = &self.cache_url {
            config = config.with_cache_at(url.clone()).with_cache_layout(self.cache_layout.parse()?);
        }
        if !self.locks_enabled {
            config = config.with_locks_off();
        }
        Ok(config)
    }
}

/// Where the certificate is; both or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that lead to the root.
    pub cert: Option<PathBuf>,
    /// PEM: the private key.
    pub key: Option<PathBuf>,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Not ready, but serving, for this long, so that load balancers look elsewhere.
    pub delay: Duration,
    /// Requests in flight get this long.
    pub drain: Duration,
    /// After this long in all, what is left is cut.
    pub total: Duration,
}

impl Default for Shutdown {
    /// At once ready to end, with 2 s for requests in flight: what `onward dev` does.
    fn default() -> Self {
        Self { delay: Duration::ZERO, drain: Duration::from_secs(2), total: Duration::from_secs(2) }
    }
}

/// Requests that one token may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once after a pause.
    pub burst: u32,
}

/// A token that the configuration lists by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedToken {
    /// The name that audit entries show.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where it may do that.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the whole token.
    pub sha256: [u8; 32],
}
