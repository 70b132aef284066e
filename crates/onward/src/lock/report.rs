//! Tells the observer what happened, by labels from closed sets; the same report at most once in a while.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::LockKey;
use crate::observe::{Event, SharedObserver, tell};
use crate::time::{Clock, Moment};
use crate::{Error, Result};

/// The label of all that is not in the closed set.
const OTHER: &str = "other";

/// A call's labels: places in the closed sets, never taken from a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Label {
    target: Option<usize>,
    scope: Option<usize>,
}

/// Counts outcomes and sends reports. Labels come from closed sets, so the map is bounded.
#[derive(Debug)]
pub(super) struct Reports {
    observer: SharedObserver,
    clock: Clock,
    engine: &'static str,
    targets: Vec<String>,
    scopes: Vec<String>,
    every: Duration,
    sent: Mutex<HashMap<(&'static str, Option<usize>), Sent>>,
}

#[derive(Debug)]
struct Sent {
    at: Moment,
    suppressed: u64,
}

/// A caller who waits, counted until it is dropped.
pub(super) struct Waiting<'a>(&'a Reports);

impl Reports {
    pub(super) fn new(engine: &'static str, config: &super::LocksConfig) -> Self {
        Self {
            observer: config.observer.clone(),
            clock: config.clock.clone(),
            engine,
            targets: config.targets.clone(),
            scopes: config.scope_labels.clone(),
            every: config.report_every,
            sent: Mutex::default(),
        }
    }

    /// Finds the labels: the explicit target, else the collection, else `other`; the scope only if it is configured.
    pub(super) fn label(&self, key: &LockKey, target: Option<&str>) -> Result<Label> {
        let find = |text: &str| self.targets.iter().position(|target| target == text);
        let target = match target {
            Some(target) => Some(find(target).ok_or_else(|| Error::invalid("target is not in the configured set"))?),
            None if self.targets.is_empty() => None,
            None => key.collection().and_then(find),
        };
        let scope = if self.scopes.is_empty() { None } else { key.scope() };
        Ok(Label { target, scope: scope.and_then(|text| self.scopes.iter().position(|scope| scope == text)) })
    }

    fn target(&self, label: Label) -> &str {
        label.target.and_then(|place| self.targets.get(place)).map_or(OTHER, String::as_str)
    }

    fn scope(&self, label: Label) -> Option<&str> {
        label.scope.and_then(|place| self.scopes.get(place)).map(String::as_str)
    }

    /// Counts one outcome of a call.
    pub(super) fn count(&self, outcome: &'static str, label: Label) {
        tell(&self.observer, &Event::Lock { outcome, target: self.target(label), scope: self.scope(label) });
    }

    /// Tells how long a call took to its answer.
    pub(super) fn waited(&self, label: Label, waited: Duration) {
        tell(&self.observer, &Event::LockWait { target: self.target(label), scope: self.scope(label), waited });
    }

    /// Counts what a caller who keeps the owner did.
    pub(super) fn kept(&self, operation: &'static str, result: &'static str) {
        tell(&self.observer, &Event::LockKept { operation, result });
    }

    /// Counts a grant that begins.
    pub(super) fn held(&self) {
        tell(&self.observer, &Event::LockHeld { by: 1 });
    }

    /// Counts a grant that ended.
    pub(super) fn ended(&self, label: Label, held: Duration, ttl: Duration) {
        tell(&self.observer, &Event::LockHeld { by: -1 });
        tell(&self.observer, &Event::LockHold { target: self.target(label), scope: self.scope(label), held, ttl });
    }

    /// Counts a caller who waits.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        tell(&self.observer, &Event::LockWaiters { by: 1 });
        Waiting(self)
    }

    /// Reports a hold above half of its ttl without a renewal: the work is longer than its lease, or renewals fail.
    pub(super) fn long_hold(&self, label: Label, key: &LockKey) {
        let error = Error::new(crate::Kind::Backend, crate::Code::DeadlineExceeded, "held above half of its ttl without a renewal");
        self.report("long_hold", label, Some(key), &error);
    }

    /// Reports a failure, unless the same was reported a short time ago.
    pub(super) fn report(&self, action: &'static str, label: Label, key: Option<&LockKey>, error: &Error) {
        let now = self.clock.now();
        let suppressed = {
            let mut sent = self.sent.lock();
            match sent.get_mut(&(action, label.target)) {
                Some(last) if now.since(last.at) < self.every => {
                    last.suppressed += 1;
                    return;
                }
                Some(last) => {
                    last.at = now;
                    std::mem::take(&mut last.suppressed)
                }
                None => {
                    sent.insert((action, label.target), Sent { at: now, suppressed: 0 });
                    0
                }
            }
        };
        let subject = key.map_or_else(|| "*".to_owned(), LockKey::pattern);
        let (target, scope) = (self.target(label), self.scope(label));
        tell(&self.observer, &Event::Report { action, target, scope, engine: self.engine, subject: &subject, error, suppressed });
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        tell(&self.0.observer, &Event::LockWaiters { by: -1 });
    }
}
