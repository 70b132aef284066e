//! The only place that sleeps, and the only backoff.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::random;
use crate::time::{Clock, Moment};

/// The longest nap before the clock is read again.
///
/// The runtime's timers stand still while the machine is suspended and [`Clock::now`] does not: a sleeper sees a resume this soon.
const NAP_MAX: Duration = Duration::from_millis(500);

/// Sleeps until `until`, by the given clock.
pub async fn sleep_until(clock: &Clock, until: Moment) {
    loop {
        // Registered before the clock is read, or a move in between would be missed.
        if let Some(moved) = clock.moved() {
            let mut moved = pin!(moved);
            moved.as_mut().enable();
            if clock.now() >= until {
                return;
            }
            moved.await;
        } else {
            let left = until.left(clock.now());
            if left.is_zero() {
                return;
            }
            #[allow(clippy::disallowed_methods, reason = "the one place that sleeps")]
            tokio::time::sleep(left.min(NAP_MAX)).await;
        }
    }
}

/// Holds this thread up for `time`: for threads of our own that wait for something outside the process, where nothing wakes them.
#[cfg(feature = "sqlite")]
pub(crate) fn nap(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "the one place that sleeps")]
    std::thread::sleep(time);
}

/// Sleeps for `time`, by the given clock.
pub async fn sleep(clock: &Clock, time: Duration) {
    sleep_until(clock, clock.now() + time).await;
}

/// Waits for `future` until `until`; `None` if the time was over first. The future is dropped then.
pub async fn deadline<F: Future>(clock: &Clock, until: Moment, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut over = pin!(sleep_until(clock, until));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        over.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Exponential backoff with full jitter: each pause is drawn from zero to a bound that doubles up to the cap.
///
/// Full jitter, since callers that failed together would otherwise come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    bound: Duration,
    cap: Duration,
}

impl Backoff {
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Self { bound: base, cap }
    }

    /// Returns the next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let bound = self.bound.min(self.cap);
        self.bound = bound.saturating_mul(2);
        Duration::from_nanos(random::below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_manual_clock_passes_its_time() {
        let clock = Clock::manual();
        let until = clock.now() + Duration::from_secs(5);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { sleep_until(&clock, until).await }
        });
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }

    #[test]
    fn pauses_stay_below_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));
        assert!((0..40).all(|_| backoff.next() < Duration::from_millis(100)));
    }
}
