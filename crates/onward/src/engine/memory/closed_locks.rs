//! No locks at all: for places that have a cache only.

use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Release, Renewal, Renewed, Tried};
use crate::model::{FencingToken, LockKey};
use crate::{Error, Result};

/// Refuses every step as `Unsupported`, so no call ever goes on unlocked (C9).
#[derive(Debug)]
pub struct ClosedLocks {
    why: &'static str,
}

impl ClosedLocks {
    /// Makes an engine that says why there are no locks.
    pub fn new(why: &'static str) -> Self {
        Self { why }
    }

    fn refuse<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T>> {
        Box::pin(std::future::ready(Err(Error::unsupported(self.why))))
    }
}

impl LockEngine for ClosedLocks {
    fn name(&self) -> &'static str {
        "none"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: false, look_again: Duration::from_millis(250) }
    }

    fn try_acquire(&self, _: Ask) -> BoxFuture<'_, Result<Tried>> {
        self.refuse()
    }

    fn renew(&self, _: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        self.refuse()
    }

    fn release(&self, _: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        self.refuse()
    }

    fn inspect(&self, _: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        self.refuse()
    }

    fn list(&self, _: String, _: Option<LockKey>, _: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        self.refuse()
    }

    fn take_over(&self, _: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        self.refuse()
    }

    fn raise(&self, _: FencingToken) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }
}
