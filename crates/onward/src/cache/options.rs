//! The options of a cache handle, and their limits (C10).

use std::borrow::Cow;
use std::time::Duration;

use super::outcome::Life;
use crate::{Error, Result, random};

/// Longest life of an entry: 30 days. There is no "forever".
pub(super) const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Longest life of a write guard, and longest wait.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Greatest `value_limit`.
const VALUE_MAX: usize = 64 << 20;

/// How a [`Cache`](super::Cache) handle fills, waits and bounds itself.
///
/// Checked as a whole by [`Cache::with`](super::Cache::with).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOptions {
    /// Life of a value: 10 minutes. At most 30 days.
    pub ttl: Duration,
    /// Life of a remembered absence: 30 seconds. At most 30 days.
    pub negative_ttl: Duration,
    /// By how much a life may be shortened by chance, so that what was filled together does not end together: 10 %. At most 50 %.
    pub jitter_percent: u8,
    /// For how long after its life a value is served at once while one caller refreshes it; `None`, the default, is off. At most 30 days.
    pub stale_while_revalidate: Option<Duration>,
    /// For how long after its life a value stands in for a load that failed; `None`, the default, is off. At most 30 days.
    pub fail_safe: Option<Duration>,
    /// Life of a fill lease: 10 seconds. At least 1 second above `hard_timeout`.
    pub fill_ttl: Duration,
    /// How long a loader may run before it is cancelled: 8 seconds.
    pub hard_timeout: Duration,
    /// How long to wait for somebody else's fill before loading without one; `None`, the default, is twice `fill_ttl`.
    pub busy_wait: Option<Duration>,
    /// Loads of the namespace in this process at once: 64. Others wait up to `hard_timeout`.
    pub max_loads: usize,
    /// Longest encoded value that is stored, in bytes: 1 MiB. At most 64 MiB.
    pub value_limit: usize,
    /// Life of a write guard: 30 seconds. At most 10 minutes.
    pub guard_ttl: Duration,
    /// How long to wait for one answer of the engine: 250 ms. At most 10 minutes.
    pub op_timeout: Duration,
    /// For how long after an invalidation, or a guard's release, nobody may fill the key: `None`, the default, is off. At most 10 minutes.
    ///
    /// For sources that lag behind their writes, such as read replicas: longer than the lag. Not for flush and expiry.
    pub hold_off: Option<Duration>,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            negative_ttl: Duration::from_secs(30),
            jitter_percent: 10,
            stale_while_revalidate: None,
            fail_safe: None,
            fill_ttl: Duration::from_secs(10),
            hard_timeout: Duration::from_secs(8),
            busy_wait: None,
            max_loads: 64,
            value_limit: 1 << 20,
            guard_ttl: Duration::from_secs(30),
            op_timeout: Duration::from_millis(250),
            hold_off: None,
        }
    }
}

/// How a cache on Redis is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Our own; nobody else reads or writes it.
    #[default]
    Onward,
    /// Ours, and a key of the namespace `default` shares its purges with the PHP library utopia-php/cache, which folds the
    /// ASCII letters of keys unless it is told not to.
    ///
    /// A purge by either side ends what both have under the key, and refuses their fills in flight; values are not shared. What PHP's side does
    /// is PHP's promise: its fills are exposed where generations are lost, as by `FLUSHDB`, and its circuit breaker may lose a purge. A purge of
    /// one field ends all our values of the key. Of a purged key PHP's hash stays, with its generation.
    Utopia,
    /// As [`Layout::Utopia`], beside a PHP side whose keys are case-sensitive.
    UtopiaCaseSensitive,
}

impl Layout {
    /// Returns the name that PHP's side has for a key; `None`: no such side is there.
    pub(crate) fn name_in_php(self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Onward => None,
            Self::Utopia => Some(key.to_ascii_lowercase().into()),
            Self::UtopiaCaseSensitive => Some(key.into()),
        }
    }
}

impl std::str::FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "onward" => Ok(Self::Onward),
            "utopia" => Ok(Self::Utopia),
            "utopia-case-sensitive" => Ok(Self::UtopiaCaseSensitive),
            _ => Err(Error::invalid("a cache layout is onward, utopia or utopia-case-sensitive")),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident => $field:ident: $type:ty;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, $field: $type) -> Self { self.$field = $field.into(); self })*
    };
}

impl CacheOptions {
    setters! {
        /// Sets the life of a value.
        with_ttl => ttl: Duration;
        /// Sets the life of a remembered absence.
        with_negative_ttl => negative_ttl: Duration;
        /// Sets by how much a life may be shortened by chance; 0 is off.
        with_jitter_percent => jitter_percent: u8;
        /// Serves values at once for this long after their life, while one caller refreshes.
        with_stale_while_revalidate => stale_while_revalidate: Duration;
        /// Lets values stand in for a load that failed for this long after their life.
        with_fail_safe => fail_safe: Duration;
        /// Sets the life of a fill lease.
        with_fill_ttl => fill_ttl: Duration;
        /// Sets how long a loader may run.
        with_hard_timeout => hard_timeout: Duration;
        /// Sets how long to wait for somebody else's fill.
        with_busy_wait => busy_wait: Duration;
        /// Sets how many loads run at once.
        with_max_loads => max_loads: usize;
        /// Sets the longest encoded value.
        with_value_limit => value_limit: usize;
        /// Sets the life of a write guard.
        with_guard_ttl => guard_ttl: Duration;
        /// Sets how long to wait for one answer of the engine.
        with_op_timeout => op_timeout: Duration;
        /// Keeps fills out for this long after an invalidation.
        with_hold_off => hold_off: Duration;
    }

    pub(super) fn busy_wait(&self) -> Duration {
        self.busy_wait.unwrap_or(self.fill_ttl * 2)
    }

    /// Tells whether a value that ended so long ago is served without waiting.
    pub(super) fn serves_at_once(&self, since: Duration) -> bool {
        self.stale_while_revalidate.is_some_and(|age| since <= age)
    }

    /// Tells whether a value that ended so long ago may stand in for a load that failed.
    pub(super) fn serves_on_failure(&self, since: Duration) -> bool {
        self.fail_safe.is_some_and(|age| since <= age)
    }

    /// Tells whether a value that ended so long ago may be shown at all.
    pub(super) fn serves_stale(&self, since: Duration) -> bool {
        self.serves_at_once(since) || self.serves_on_failure(since)
    }

    /// Returns the life of a fill: shortened by chance, and kept for as long as this handle may want it.
    pub(super) fn life(&self, ttl: Duration) -> Life {
        let most = ttl * u32::from(self.jitter_percent) / 100;
        let cut = Duration::from_nanos(random::below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)));
        Life { ttl: ttl.saturating_sub(cut), grace: self.stale_while_revalidate.max(self.fail_safe).unwrap_or_default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_ttl(self.ttl)?;
        check_ttl(self.negative_ttl)?;
        if self.jitter_percent > 50 {
            return Err(Error::invalid("jitter_percent is at most 50"));
        }
        for age in [self.stale_while_revalidate, self.fail_safe].into_iter().flatten() {
            if age.is_zero() || age > TTL_MAX {
                return Err(Error::invalid("stale_while_revalidate and fail_safe are above 0 and at most 30 days, or left out"));
            }
        }
        if self.hard_timeout.is_zero() || self.hard_timeout > WAIT_MAX {
            return Err(Error::invalid("hard_timeout is above 0 and at most 10 minutes"));
        }
        if self.fill_ttl < self.hard_timeout + Duration::from_secs(1) || self.fill_ttl > WAIT_MAX * 2 {
            return Err(Error::invalid("fill_ttl is at least 1 second above hard_timeout and at most 20 minutes"));
        }
        if self.busy_wait.is_some_and(|wait| wait > WAIT_MAX) {
            return Err(Error::invalid("busy_wait is at most 10 minutes"));
        }
        if self.guard_ttl.is_zero() || self.guard_ttl > WAIT_MAX {
            return Err(Error::invalid("guard_ttl is above 0 and at most 10 minutes"));
        }
        if self.op_timeout.is_zero() || self.op_timeout > WAIT_MAX {
            return Err(Error::invalid("op_timeout is above 0 and at most 10 minutes"));
        }
        if self.hold_off.is_some_and(|hold_off| hold_off.is_zero() || hold_off > WAIT_MAX) {
            return Err(Error::invalid("hold_off is above 0 and at most 10 minutes, or left out"));
        }
        if self.max_loads == 0 {
            return Err(Error::invalid("max_loads is at least 1"));
        }
        if self.value_limit == 0 || self.value_limit > VALUE_MAX {
            return Err(Error::invalid("value_limit is 1 byte to 64 MiB"));
        }
        Ok(())
    }
}

pub(super) fn check_ttl(ttl: Duration) -> Result<()> {
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(Error::invalid("a ttl is above 0 and at most 30 days; to keep a value out, skip the fill"));
    }
    Ok(())
}
