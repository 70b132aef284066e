//! What a process knows of its server's clock, so that not every acquisition has to ask for it (C4).

use std::time::Duration;

use parking_lot::Mutex;

use crate::time::Moment;

/// How long an answer counts.
const LASTS: Duration = Duration::from_secs(10);
/// The longest way of an answer that counts: by as much the clock may be ahead of what is known of it.
const WAY: Duration = Duration::from_millis(100);
/// By which part of the time the two clocks may drift apart.
const DRIFT: u32 = 1_000;

/// A floor of the server's clock: what it said last, moved on by this machine's elapsed time.
///
/// Never ahead of the server's clock unless that is set back, and behind it by at most [`WAY`] and the drift. A connection that is lost
/// may be another server's next, or the same one with old data: the floor goes with it.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<(Moment, u64)>>);

impl ServerClock {
    /// Returns the floor now, in microseconds since 1970; `None`: the server has to be asked.
    pub(super) fn floor(&self, now: Moment) -> Option<u64> {
        let (heard, micros) = (*self.0.lock())?;
        let passed = now.since(heard);
        let moved = passed - passed / DRIFT;
        (passed < LASTS).then(|| micros.saturating_add(u64::try_from(moved.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Takes in what the server said between a request and its answer.
    pub(super) fn heard(&self, sent: Moment, answered: Moment, micros: u64) {
        if answered.since(sent) <= WAY {
            *self.0.lock() = Some((answered, micros));
        }
    }

    /// Knows nothing any more.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_floor_moves_on_and_stays_behind() {
        let (clock, begun) = (ServerClock::default(), Moment::from_nanos(1_000_000_000_000));
        assert_eq!(clock.floor(begun), None);
        clock.heard(begun, begun + Duration::from_millis(2), 5_000_000);
        let answered = begun + Duration::from_millis(2);
        assert_eq!(clock.floor(answered), Some(5_000_000));
        assert_eq!(clock.floor(answered + SECOND), Some(5_999_000), "a drift is allowed for");
        assert_eq!(clock.floor(answered + LASTS), None, "and not for long");
    }

    #[test]
    fn a_late_answer_and_a_lost_connection_tell_nothing() {
        let (clock, begun) = (ServerClock::default(), Moment::from_nanos(1_000_000_000_000));
        clock.heard(begun, begun + SECOND, 5_000_000);
        assert_eq!(clock.floor(begun + SECOND), None);
        clock.heard(begun, begun, 5_000_000);
        clock.forget();
        assert_eq!(clock.floor(begun), None);
    }
}
