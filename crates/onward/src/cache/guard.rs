//! The write guard: no fill lands while a writer is at work.

use std::sync::Arc;

use super::calls::Calls;
use super::detach::detached;
use super::handle::{Cache, check_name};
use super::outcome::GuardEnd;
use super::slot::GuardOwner;
use crate::{Code, Error, Kind, Result};

/// Most keys of one guard.
const GUARD_KEYS: usize = 1_024;

/// Keeps its keys empty from before a write until after its commit.
///
/// Covers the gap between commit and invalidation: a writer that dies in it leaves the keys empty until `guard_ttl` is over. Dropping it
/// keeps the block; only [`WriteGuard::release`] ends it early.
#[derive(Debug)]
#[must_use]
pub struct WriteGuard {
    cache: Cache,
    keys: Vec<Arc<[u8]>>,
    owner: GuardOwner,
}

impl WriteGuard {
    /// Takes a guard on every key; all or none.
    pub(super) async fn take(cache: &Cache, keys: Vec<Arc<[u8]>>) -> Result<Self> {
        if keys.is_empty() || keys.len() > GUARD_KEYS {
            return Err(Error::invalid("a write guard has 1..=1024 keys"));
        }
        for key in &keys {
            check_name("key", key)?;
        }
        let guard = Self { cache: cache.clone(), keys, owner: GuardOwner::random() };
        for (taken, key) in guard.keys.iter().enumerate() {
            let (ttl, owner) = (cache.options.guard_ttl, guard.owner);
            if let Err(error) =
                guard.each(key, move |calls, namespace, key| async move { calls.guard(&namespace, &key, owner, ttl).await }).await
            {
                // Guards that stay by a failure in here end by themselves.
                for key in guard.keys.iter().take(taken + 1) {
                    let _ = guard.release_one(key).await;
                }
                return Err(error.during("write_guard"));
            }
        }
        Ok(guard)
    }

    /// Makes sure that the guard stands on every key; call it right before the commit.
    ///
    /// # Errors
    /// [`Kind::Lost`]: its time was over; don't commit under it. [`Kind::Backend`]: nobody knows.
    pub async fn check(&self) -> Result<()> {
        for key in &self.keys {
            if !self.cache.calls.guarded(&self.cache.namespace, key, self.owner).await.map_err(|error| error.during("check"))? {
                return Err(Error::new(Kind::Lost, Code::LeaseLost, "the write guard has ended").during("check"));
            }
        }
        Ok(())
    }

    /// Ends the guard and purges whatever is found; call it after the commit.
    ///
    /// # Errors
    /// [`Kind::Backend`]: some key may still be guarded; its guard ends by itself, and no stale value can be filled before.
    ///
    /// # Cancel safety
    /// Each key's release that was sent runs to its end.
    pub async fn release(self) -> Result<GuardEnd> {
        let mut end = GuardEnd::Released;
        let mut failed = None;
        for key in &self.keys {
            match self.release_one(key).await {
                Ok(GuardEnd::Released) => {}
                Ok(GuardEnd::WasLost) => end = GuardEnd::WasLost,
                // The other keys are released all the same.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(end), |error| Err(error.during("release")))
    }

    async fn release_one(&self, key: &Arc<[u8]>) -> Result<GuardEnd> {
        let (owner, hold_off) = (self.owner, self.cache.options.hold_off.unwrap_or_default());
        self.each(key, move |calls, namespace, key| async move { calls.release(&namespace, &key, owner, hold_off).await }).await
    }

    async fn each<T, F, Fut>(&self, key: &Arc<[u8]>, call: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Calls, Arc<str>, Arc<[u8]>) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        detached(call(self.cache.calls.clone(), Arc::clone(&self.cache.namespace), Arc::clone(key))).await
    }
}
