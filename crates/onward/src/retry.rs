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
    sleep_with_naps(clock, until, NAP_MAX).await;
}

async fn sleep_with_naps(clock: &Clock, until: Moment, nap: Duration) {
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
            tokio::time::sleep(left.min(nap)).await;
        }
    }
}

/// Holds this thread up for `time`: for threads of our own that wait for something outside the process, where nothing wakes them.
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
    race(future, sleep_until(clock, until)).await
}

/// As [`deadline`], for a call that others answer: without naps, so a machine that was suspended waits the whole time once more.
///
/// A nap that ends before the timer of the call itself would wake a thread that sleeps until then, at each call.
pub(crate) async fn answer_by<F: Future>(clock: &Clock, until: Moment, call: F) -> Option<F::Output> {
    race(call, sleep_with_naps(clock, until, Duration::MAX)).await
}

/// The least that a late timer gives: time for the task that carries the connection to have its turn.
#[cfg(feature = "redis")]
const TURN: Duration = Duration::from_millis(1);

/// Waits for an answer for at most `time`, by the runtime's timer alone.
///
/// The timer is set before anything is sent: the thread that carries the call sleeps until the first timer that it knows of, and one that
/// is set behind its back would wake it.
///
/// A process that stood still finds its timer over and the answer unread. So the time by which the timer was late does not count, once: it
/// says nothing about who was asked.
#[cfg(feature = "redis")]
#[allow(clippy::disallowed_methods, reason = "the one place that sleeps")]
pub(crate) async fn within<F: Future>(time: Duration, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    let mut over = pin!(tokio::time::sleep(time));
    let mut extended = false;
    std::future::poll_fn(|cx| {
        let mut is_over = over.as_mut().poll(cx);
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(answer));
        }
        if is_over.is_ready() && !extended {
            extended = true;
            let late = over.deadline().elapsed();
            let again = over.deadline() + late + late.clamp(TURN, time.max(TURN));
            over.as_mut().reset(again);
            is_over = over.as_mut().poll(cx);
        }
        is_over.map(|()| None)
    })
    .await
}

async fn race<F: Future>(future: F, over: impl Future<Output = ()>) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut over = pin!(over);
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

    #[cfg(feature = "redis")]
    #[tokio::test]
    async fn an_answer_that_came_while_the_process_stood_still_counts() {
        use tokio::sync::oneshot;
        let ((to_hand, hand), (to_us, us)) = (oneshot::channel(), oneshot::channel());
        tokio::spawn(async move {
            sleep(&Clock::system(), Duration::from_millis(20)).await;
            to_hand.send(7).unwrap();
        });
        tokio::spawn(async move { to_us.send(hand.await.unwrap()).unwrap() });
        // The only thread there is.
        tokio::spawn(async { nap(Duration::from_millis(200)) });
        assert_eq!(within(Duration::from_millis(50), us).await, Some(Ok(7)));
        assert_eq!(within(Duration::from_millis(20), std::future::pending::<()>()).await, None);
    }

    #[test]
    fn pauses_stay_below_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));
        assert!((0..40).all(|_| backoff.next() < Duration::from_millis(100)));
    }
}
