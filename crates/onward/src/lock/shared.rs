//! What all handles of one process share.

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::mpsc;

use super::release::{self, Leaving};
use super::renewal::{self, Renewals};
use super::report::Reports;
use super::wait::Queues;
use super::{LockEngine, LocksConfig, Owner};
use crate::model::LockKey;
use crate::time::{Clock, Moment};
use crate::{Error, Result, retry};

/// The label of all that is not in the closed set.
pub(super) const OTHER: &str = "other";

/// What the background tasks need; it does not keep them alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<dyn LockEngine>,
    pub(super) clock: Clock,
    pub(super) queues: Queues,
    pub(super) renewals: Renewals,
    pub(super) reports: Reports,
    pub(super) renew_batch: usize,
    command_timeout: Duration,
}

impl Shared {
    /// Waits for an engine's answer as long as a call may take.
    pub(super) async fn bounded<T>(&self, sent: Moment, call: BoxFuture<'_, Result<T>>) -> Result<T> {
        match retry::deadline(&self.clock, sent + self.command_timeout, call).await {
            Some(answer) => answer,
            None => Err(Error::unknown("the lock engine did not answer in time")),
        }
    }
}

/// Everything of one process; its last drop ends the background tasks.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) config: LocksConfig,
    pub(super) holder: Arc<str>,
    releases: mpsc::Sender<Leaving>,
}

/// A metrics label: its place in the closed set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Label(Option<usize>);

impl Core {
    pub(super) fn start(engine: Arc<dyn LockEngine>, config: LocksConfig) -> Result<Self> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::unsupported("locks need a tokio runtime for renewals and releases").with_source(e))?;
        let shared = Arc::new(Shared {
            engine,
            clock: config.clock.clone(),
            queues: Queues::default(),
            renewals: Renewals::default(),
            reports: Reports::new(Arc::clone(&config.observer), config.clock.clone(), config.report_every),
            renew_batch: config.renew_batch,
            command_timeout: config.command_timeout,
        });
        let (releases, queue) = mpsc::channel(config.drop_queue);
        // A locking that is switched off has nothing to renew or give back.
        if config.enabled {
            runtime.spawn(release::run(Arc::clone(&shared), queue));
            runtime.spawn(renewal::run(Arc::clone(&shared), releases.downgrade()));
        }
        Ok(Self { shared, config, holder: own_holder(), releases })
    }

    /// Queues a compare-and-delete; never blocks, spawns or panics.
    pub(super) fn give_back(&self, key: LockKey, owner: Owner, until: Moment) {
        // A full queue or a runtime that is gone: the lease ends by itself.
        if self.releases.try_send(Leaving::new(key, owner, until)).is_err() {
            let error = Error::overloaded("a lock could not be given back and ends with its lease", Duration::from_secs(1));
            self.shared.reports.report("release_error", OTHER, &error);
        }
    }

    /// Finds the label: the explicit one, else the collection, else `other`.
    pub(super) fn label(&self, key: &LockKey, target: Option<&str>) -> Result<Label> {
        let find = |text: &str| self.config.targets.iter().position(|target| target == text);
        match target {
            Some(target) => match find(target) {
                Some(place) => Ok(Label(Some(place))),
                None => Err(Error::invalid("target is not in the configured set")),
            },
            None if self.config.targets.is_empty() => Ok(Label(None)),
            None => Ok(Label(key.collection().and_then(find))),
        }
    }

    pub(super) fn text(&self, label: Label) -> &str {
        label.0.and_then(|place| self.config.targets.get(place)).map_or(OTHER, String::as_str)
    }

    pub(super) fn count(&self, outcome: &'static str, label: Label) {
        self.shared.reports.count(outcome, self.text(label));
    }

    pub(super) fn report(&self, action: &'static str, label: Label, error: &Error) {
        self.shared.reports.report(action, self.text(label), error);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.renewals.close();
    }
}

/// `host:pid`, cut to what a holder may be.
fn own_holder() -> Arc<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(48).collect();
    format!("{}:{}", if host.is_empty() { "localhost" } else { &host }, std::process::id()).into()
}
