//! What all handles of one process share.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::sync::mpsc;

use super::memory::Memory;
use super::release::{self, Leaving};
use super::renewal::{self, Renewals};
use super::report::{Label, Reports};
use super::switch::KillSwitch;
use super::wait::Queues;
use super::{LockEngine, LocksConfig, Waiters};
use crate::model::LockKey;
use crate::time::{Clock, Moment};
use crate::{Error, Result, retry};

/// What the background tasks need; it does not keep them alive.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) engine: Arc<dyn LockEngine>,
    pub(super) clock: Clock,
    pub(super) queues: Queues,
    pub(super) renewals: Renewals,
    pub(super) reports: Reports,
    pub(super) memory: Memory,
    pub(super) switch: KillSwitch,
    pub(super) renew_batch: usize,
    command_timeout: Duration,
}

impl Shared {
    /// Waits for an engine's answer as long as a call may take.
    pub(super) async fn bounded<T>(&self, sent: Moment, call: BoxFuture<'_, Result<T>>) -> Result<T> {
        match retry::answer_by(&self.clock, sent + self.command_timeout, call).await {
            Some(answer) => answer,
            None => Err(Error::unknown("the lock engine did not answer in time")),
        }
    }
}

impl Waiters for Shared {
    fn wake(&self, key: &LockKey) -> bool {
        self.memory.forget(key);
        self.queues.wake(key)
    }

    fn wake_all(&self) {
        self.memory.clear();
        self.queues.wake_all();
    }
}

impl Shared {
    /// Tells those who wait or skip that a key may be free. An engine with a queue tells the next waiter itself.
    pub(super) fn freed(&self, key: &LockKey) {
        self.memory.forget(key);
        if !self.engine.has_queue() {
            self.queues.wake(key);
        }
    }

    /// Looks at the live switch if that is due.
    pub(super) async fn look_at_switch(&self, now: Moment) {
        if self.switch.look(now).await {
            self.flipped();
        }
    }

    /// Tells everybody who waits that the switch was flipped.
    pub(super) fn flipped(&self) {
        self.memory.clear();
        self.queues.wake_all();
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

impl Core {
    pub(super) fn start(engine: Arc<dyn LockEngine>, config: LocksConfig) -> Result<Self> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::unsupported("locks need a tokio runtime for renewals and releases").with_source(e))?;
        let reports = Reports::new(engine.name(), &config);
        let shared = Arc::new(Shared {
            engine,
            clock: config.clock.clone(),
            queues: Queues::default(),
            renewals: Renewals::default(),
            reports,
            memory: Memory::new(config.held_memory_entries),
            switch: KillSwitch::new(&config),
            renew_batch: config.renew_batch,
            command_timeout: config.command_timeout,
        });
        let waiters: Weak<Shared> = Arc::downgrade(&shared);
        shared.engine.listen(waiters);
        let (releases, queue) = mpsc::channel(config.drop_queue);
        // A locking that is switched off has nothing to renew or give back.
        if config.enabled {
            runtime.spawn(release::run(Arc::clone(&shared), queue));
            runtime.spawn(renewal::run(Arc::clone(&shared), releases.downgrade()));
        }
        Ok(Self { shared, config, holder: own_holder(), releases })
    }

    /// Queues a compare-and-delete; never blocks, spawns or panics.
    pub(super) fn give_back(&self, leaving: Leaving) {
        // A full queue or a runtime that is gone: the lease ends by itself.
        if self.releases.try_send(leaving).is_err() {
            let error = Error::overloaded("a lock could not be given back and ends with its lease", Duration::from_secs(1));
            self.shared.reports.report("release_error", Label::default(), None, &error);
        }
    }

    pub(super) fn count(&self, outcome: &'static str, label: Label) {
        self.shared.reports.count(outcome, label);
    }

    pub(super) fn report(&self, action: &'static str, label: Label, key: &LockKey, error: &Error) {
        self.shared.reports.report(action, label, Some(key), error);
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
