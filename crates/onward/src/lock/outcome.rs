//! What came of a call: values that the caller must look at.

use std::time::Duration;

use crate::{Code, Error, Kind, Result};

/// What came of running a body under a lock.
///
/// # Examples: a skip cannot be overlooked
/// Work that must happen once, such as a purge, must not be skipped unnoticed: whoever drops the outcome is told by the compiler.
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn purge(locks: onward::lock::Scoped) -> onward::Result<()> {
/// locks.run("purges", "42", |_| async {}).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "whether the body ran, and ran under the lock, is in here"]
pub enum Outcome<T> {
    /// The body ran, and the lock was held from its beginning to its end.
    Ran(T),
    /// The body did not run: another holder has the lock.
    Skipped {
        /// How long the other lease can still run; `None`: no end is known.
        held_for: Option<Duration>,
    },
    /// The body ran, at least partly without the lock.
    RanUnlocked(T, Why),
}

/// Why a body ran without the lock.
#[derive(Debug)]
pub enum Why {
    /// The engine failed and the call's policy was to go on: [`OnError::Open`](super::OnError::Open).
    Backend(Error),
    /// Locking is switched off.
    SwitchedOff,
    /// The lease was lost while the body ran.
    Lost(LossReason),
}

/// How a grant was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// Its time was over before a renewal was confirmed.
    Expired,
    /// The engine no longer knows it: it was taken over or removed.
    Taken,
    /// It was held as long as it may be: [`LockOptions::with_max_hold`](super::LockOptions::with_max_hold).
    MaxHold,
}

/// What came of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a lease that was lost before its release did not protect the work"]
pub enum Release {
    /// The lock was ours and is free now.
    Released,
    /// The lock was not ours any more; nothing was changed.
    AlreadyLost,
}

impl<T> Outcome<T> {
    /// Returns the body's value only if it ran under the lock.
    ///
    /// # Errors
    /// [`Kind::Contended`]: it was skipped. [`Kind::Lost`]: the lease was lost in the body. [`Kind::Backend`]: it ran unlocked, since the
    /// engine failed or (`locking_off`) locking is switched off. In the last two cases the body did run, once.
    pub fn locked(self) -> Result<T> {
        match self {
            Self::Ran(value) => Ok(value),
            Self::Skipped { held_for } => Err(contended(held_for)),
            Self::RanUnlocked(_, Why::Backend(error)) => Err(error),
            Self::RanUnlocked(_, Why::SwitchedOff) => Err(switched_off()),
            Self::RanUnlocked(_, Why::Lost(reason)) => Err(lost(reason)),
        }
    }

    /// Returns the body's value if it ran at all, locked or not.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Ran(value) | Self::RanUnlocked(value, _) => Some(value),
            Self::Skipped { .. } => None,
        }
    }
}

/// The hint of a retry when the end of the other lease is unknown, and its least value.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

pub(super) fn contended(held_for: Option<Duration>) -> Error {
    Error::new(Kind::Contended, Code::ResourceLocked, "the lock is held by another")
        .with_held_for(held_for)
        .with_retry_after(held_for.unwrap_or(RETRY_LEAST).clamp(RETRY_LEAST, RETRY_MOST))
}

pub(super) fn switched_off() -> Error {
    Error::new(Kind::Backend, Code::LockingOff, "locking is switched off")
}

pub(super) fn lost(reason: LossReason) -> Error {
    let message = match reason {
        LossReason::Expired => "the lease has ended",
        LossReason::MaxHold => "the lock was held as long as it may be",
        LossReason::Taken => "the lease belongs to somebody else or is gone",
    };
    Error::new(Kind::Lost, Code::LeaseLost, message)
}
