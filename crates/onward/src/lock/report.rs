//! Tells the observer what happened; the same report at most once in a while.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Error;
use crate::observe::{Event, SharedObserver, tell};
use crate::time::{Clock, Moment};

/// Counts outcomes and sends reports. Labels come from closed sets, so the map is bounded.
#[derive(Debug)]
pub(super) struct Reports {
    observer: SharedObserver,
    clock: Clock,
    every: Duration,
    sent: Mutex<HashMap<(&'static str, String), Sent>>,
}

#[derive(Debug)]
struct Sent {
    at: Moment,
    suppressed: u64,
}

impl Reports {
    pub(super) fn new(observer: SharedObserver, clock: Clock, every: Duration) -> Self {
        Self { observer, clock, every, sent: Mutex::default() }
    }

    /// Counts one outcome of a call.
    pub(super) fn count(&self, outcome: &'static str, target: &str) {
        tell(&self.observer, &Event::Lock { outcome, target });
    }

    /// Reports a failure, unless the same was reported a short time ago.
    pub(super) fn report(&self, action: &'static str, target: &str, error: &Error) {
        let now = self.clock.now();
        let suppressed = {
            let mut sent = self.sent.lock();
            match sent.get_mut(&(action, target.to_owned())) {
                Some(last) if now.since(last.at) < self.every => {
                    last.suppressed += 1;
                    return;
                }
                Some(last) => {
                    last.at = now;
                    std::mem::take(&mut last.suppressed)
                }
                None => {
                    sent.insert((action, target.to_owned()), Sent { at: now, suppressed: 0 });
                    0
                }
            }
        };
        tell(&self.observer, &Event::Report { action, target, error, suppressed });
    }
}
