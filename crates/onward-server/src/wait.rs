//! The only place of this crate that sleeps.

use std::future::Future;
use std::time::Duration;

/// Waits for a future for at most `time`; `None` if the time was over first. The future is dropped then.
#[allow(clippy::disallowed_methods, reason = "the one place of this crate that sleeps")]
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}

/// Sleeps.
#[allow(clippy::disallowed_methods, reason = "the one place of this crate that sleeps")]
pub(crate) fn sleep(time: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(time)
}
