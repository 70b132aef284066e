//! How many requests a token may send.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as Ticks, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use onward::Code;
use onward::time::Clock;

use crate::config::Rate;
use crate::refusal::{Refusal, millis};

/// The library's clock as the limiter reads it.
#[derive(Clone, Debug)]
struct Elapsed(Clock);

impl Ticks for Elapsed {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.now().as_nanos())
    }
}

/// The requests that one token has left.
///
/// It lives with its token, so there are never more of them than tokens, and none is to be swept.
#[derive(Debug)]
pub(crate) struct Limiter {
    limiter: RateLimiter<NotKeyed, InMemoryState, Elapsed, NoOpMiddleware<Nanos>>,
    clock: Elapsed,
}

impl Limiter {
    pub(crate) fn new(rate: Rate, clock: &Clock) -> Self {
        let some = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(rate.per_second)).allow_burst(some(rate.burst));
        let clock = Elapsed(clock.clone());
        Self { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// Counts a request, or refuses it and says when to come back.
    pub(crate) fn take(&self) -> Result<(), Refusal> {
        self.limiter.check().map_err(|not_until| {
            let wait = Duration::from(not_until.earliest_possible().duration_since(self.clock.now()));
            let mut refusal = Refusal::new(Code::RateLimited, "this token sends too many requests");
            refusal.problem.retry_after_ms = Some(millis(wait).max(1));
            refusal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let clock = Clock::manual();
        let limiter = Limiter::new(Rate { per_second: 10, burst: 3 }, &clock);
        let taken = (0..10).filter(|_| limiter.take().is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(limiter.take().unwrap_err().problem.retry_after_ms, Some(100));
        clock.advance(Duration::from_millis(99));
        assert!(limiter.take().is_err());
        clock.advance(Duration::from_millis(1));
        assert!(limiter.take().is_ok() && limiter.take().is_err());
    }
}
