//! The only place of the command line that sleeps.

use std::time::Duration;

use onward::time::{Clock, Moment};

/// The longest nap before the clock is read again: the runtime's timers stand still in suspend and [`Clock::now`] does not.
const NAP_MAX: Duration = Duration::from_millis(500);

/// Sleeps until `moment`; for ever if there is none.
pub(crate) async fn until(clock: &Clock, moment: Option<Moment>) {
    let Some(moment) = moment else { return std::future::pending().await };
    loop {
        let left = moment.left(clock.now());
        if left.is_zero() {
            return;
        }
        #[allow(clippy::disallowed_methods, reason = "the one place that sleeps")]
        tokio::time::sleep(left.min(NAP_MAX)).await;
    }
}

/// Sleeps for `time`.
pub(crate) async fn pause(clock: &Clock, time: Duration) {
    until(clock, Some(clock.now() + time)).await;
}
