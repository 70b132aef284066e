//! The only place that reads a clock.
//!
//! Two clocks, never mixed: [`Moment`] is elapsed time that also counts suspend (CLOCK_BOOTTIME on Linux), for leases and deadlines;
//! [`Timestamp`] is wall time, for people and for the floor of numbers that only grow, never for order (C5).

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Notify;

/// A point of elapsed time on this machine, suspend included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// Makes a moment from nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time left until `self`, zero if it is past.
    pub fn left(self, now: Moment) -> Duration {
        self.since(now)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, rhs: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, rhs: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Wall time in microseconds since 1970, shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Makes a timestamp from microseconds since 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Returns the microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = crate::Error;

    fn from_str(text: &str) -> crate::Result<Self> {
        let time: jiff::Timestamp = text.parse().map_err(|_| crate::Error::invalid("a time is RFC 3339, such as 2026-11-21T08:00:00Z"))?;
        Ok(Self(time.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The clock that everything here reads: the machine's, or one that a test moves.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Manual>>);

#[derive(Debug)]
struct Manual {
    now: Mutex<(Moment, Timestamp)>,
    moved: Notify,
}

impl Clock {
    /// Returns the machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// Returns a clock that stands still until [`Clock::advance`] moves it.
    pub fn manual() -> Self {
        Self(Some(Arc::new(Manual { now: Mutex::new((Moment(1_000_000_000), Timestamp(1_760_000_000_000_000))), moved: Notify::new() })))
    }

    /// Moves a manual clock forward and wakes its sleepers; does nothing to the machine's clock.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            {
                let mut now = manual.now.lock();
                now.0 = now.0 + by;
                now.1 = Timestamp(now.1.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)));
            }
            manual.moved.notify_waiters();
        }
    }

    /// Steps a manual clock's wall time by `micros` without moving elapsed time, as an operator or NTP does.
    pub fn step_wall(&self, micros: i64) {
        if let Some(manual) = &self.0 {
            let mut now = manual.now.lock();
            now.1 = Timestamp(now.1.0.saturating_add(micros));
        }
    }

    /// Returns elapsed time, suspend included.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Some(manual) => manual.now.lock().0,
            None => system_moment(),
        }
    }

    /// Returns elapsed time as of the kernel's last tick, and [`TICK`] more: cheap, and not before [`Clock::now`] as long as the kernel ticks.
    ///
    /// For ends that may come a little early, on paths where reading the clock is most of the cost.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub(crate) fn recent(&self) -> Moment {
        match &self.0 {
            Some(manual) => manual.now.lock().0,
            None => recent_moment(),
        }
    }

    /// Returns wall time.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Some(manual) => manual.now.lock().1,
            None => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
            }
        }
    }

    /// Waits until a manual clock is moved; `None` for the machine's clock.
    pub(crate) fn moved(&self) -> Option<tokio::sync::futures::Notified<'_>> {
        self.0.as_ref().map(|manual| manual.moved.notified())
    }
}

#[cfg(target_os = "linux")]
fn system_moment() -> Moment {
    moment_of(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

#[cfg(target_os = "linux")]
fn moment_of(time: rustix::time::Timespec) -> Moment {
    Moment(u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
}

/// The longest time between two ticks of a kernel: [`Clock::recent`] is at most so much ahead.
#[cfg(target_os = "linux")]
const TICK: Duration = Duration::from_millis(10);

/// Reads the exact clock once a tick of the coarse one, and between two ticks a copy. Both numbers only grow, so of two threads at once
/// the later one counts.
#[cfg(target_os = "linux")]
fn recent_moment() -> Moment {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TICKED: AtomicU64 = AtomicU64::new(0);
    static READ: AtomicU64 = AtomicU64::new(0);
    let coarse = moment_of(rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse)).0;
    if TICKED.load(Ordering::Acquire) != coarse {
        READ.fetch_max(system_moment().0, Ordering::Relaxed);
        TICKED.fetch_max(coarse, Ordering::Release);
    }
    Moment(READ.load(Ordering::Relaxed)) + TICK
}

#[cfg(not(target_os = "linux"))]
fn recent_moment() -> Moment {
    system_moment()
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock; the monotonic clock of this system")]
fn system_moment() -> Moment {
    use std::sync::OnceLock;
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let start = START.get_or_init(std::time::Instant::now);
    Moment::from_nanos(1_000_000_000) + start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_as_itself() {
        let time = Timestamp::from_micros(1_760_000_000_123_456);
        assert_eq!(time.to_string(), "2025-10-09T08:53:20.123456Z");
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn a_wall_step_moves_no_elapsed_time() {
        let clock = Clock::manual();
        let before = (clock.now(), clock.wall());
        clock.step_wall(-3_600_000_000);
        assert_eq!(clock.now(), before.0);
        assert!(clock.wall() < before.1);
    }
}
