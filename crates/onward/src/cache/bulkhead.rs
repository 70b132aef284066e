//! How many loads of a namespace run at once in this process (C7).

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::retry;
use crate::time::{Clock, Moment};

#[derive(Debug, Default)]
pub(super) struct Bulkhead {
    running: Mutex<HashMap<Arc<str>, usize>>,
    freed: Notify,
}

impl Bulkhead {
    /// Waits until fewer than `max` loads of the namespace run; `None` if that took until `until`.
    pub(super) async fn enter(&self, clock: &Clock, namespace: &Arc<str>, max: usize, until: Moment) -> Option<Permit<'_>> {
        loop {
            // Registered before the count is read, or a permit freed in between would be missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            {
                let mut running = self.running.lock();
                let count = running.entry(Arc::clone(namespace)).or_default();
                if *count < max {
                    *count += 1;
                    return Some(Permit { bulkhead: self, namespace: Arc::clone(namespace) });
                }
            }
            retry::deadline(clock, until, freed).await?;
        }
    }
}

/// The right to run one load; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    bulkhead: &'a Bulkhead,
    namespace: Arc<str>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        {
            let mut running = self.bulkhead.running.lock();
            if let Some(count) = running.get_mut(&self.namespace) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    running.remove(&self.namespace);
                }
            }
        }
        self.bulkhead.freed.notify_waiters();
    }
}
