//! Deadlines by the machine's clock.

use std::future::Future;
use std::time::Duration;

use onward::retry;
use onward::time::Clock;

/// Waits for a future for at most `time`; `None` if the time was over first. The future is dropped then.
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    let clock = Clock::system();
    retry::deadline(&clock, clock.now() + time, future).await
}

/// Sleeps.
pub(crate) async fn sleep(time: Duration) {
    retry::sleep(&Clock::system(), time).await;
}
