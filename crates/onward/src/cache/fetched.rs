//! What a load gives back, and what a loader may say.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::options::check_ttl;
use super::outcome::Filled;
use crate::Result;
use crate::time::{Clock, Moment};

/// A value and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Fetched<T> {
    /// The value; `None` if the source has none.
    pub value: Option<T>,
    /// How it came.
    pub how: How,
}

/// How a fetched value came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// From the cache.
    Hit,
    /// From the cache, after its time: somebody else refreshes it, or the load failed. See
    /// [`CacheOptions::stale_while_revalidate`](super::CacheOptions::stale_while_revalidate) and
    /// [`CacheOptions::fail_safe`](super::CacheOptions::fail_safe).
    Stale,
    /// From the loader, with an attempt to fill.
    Loaded(Filled),
    /// From the loader, without a fill.
    Unfilled(Unfilled),
}

/// Why a loaded value was not offered to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unfilled {
    /// The engine failed or had no room for a lease.
    Away,
    /// A write guard stands.
    Guarded,
    /// Somebody else held the lease for longer than `busy_wait`.
    Loading,
    /// The encoded value is above `value_limit`.
    TooLarge,
    /// The loader called [`Fill::skip`].
    Skipped,
    /// The value cannot be encoded as JSON.
    Unencodable,
}

/// What a loader may say about the fill.
#[derive(Clone, Debug)]
pub struct Fill {
    wish: Arc<Mutex<Wish>>,
    deadline: Moment,
    clock: Clock,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    pub(super) ttl: Option<Duration>,
    pub(super) skip: bool,
}

impl Fill {
    pub(super) fn new(clock: Clock, deadline: Moment) -> Self {
        Self { wish: Arc::default(), deadline, clock }
    }

    /// Returns what the loader said.
    pub(super) fn wish(&self) -> Wish {
        *self.wish.lock()
    }

    /// Sets the life of this value, or of this absence.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: zero or above 30 days.
    pub fn ttl(&self, ttl: Duration) -> Result<()> {
        check_ttl(ttl)?;
        self.wish.lock().ttl = Some(ttl);
        Ok(())
    }

    /// Keeps this value out of the cache.
    pub fn skip(&self) {
        self.wish.lock().skip = true;
    }

    /// Returns how long the loader may still run before it is cancelled.
    pub fn time_left(&self) -> Duration {
        self.deadline.left(self.clock.now())
    }
}

/// A loader's own error, shared by all callers that waited for that load.
///
/// It stands as the source of the [`Error`]; [`LoadError::get_ref`] gives the original back.
#[derive(Clone)]
pub struct LoadError(pub(super) Arc<dyn StdError + Send + Sync>);

impl LoadError {
    /// Returns the loader's error, for a downcast.
    pub fn get_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for LoadError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
