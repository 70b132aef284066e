//! Deadlines by the machine's clock.

use std::future::Future;
use std::time::Duration;

use onward::retry;
use onward::time::Clock;

/// Waits for a future for at most `time`; `None` if the time was over first. The future is dropped then.
///
/// It goes into a box at once: each `async fn` that it is handed through keeps room for it twice, and the answer to one request would be
/// tens of kilobytes to move.
pub(crate) fn within<F: Future>(time: Duration, future: F) -> impl Future<Output = Option<F::Output>> {
    let future = Box::pin(future);
    async move {
        let clock = Clock::system();
        retry::deadline(&clock, clock.now() + time, future).await
    }
}

/// Sleeps.
pub(crate) async fn sleep(time: Duration) {
    retry::sleep(&Clock::system(), time).await;
}
