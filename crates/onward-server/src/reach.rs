//! Whether the engines answer: asked by whoever looks, remembered since when it is so.

use std::time::Duration;

use onward::model::LockKey;
use onward::time::Timestamp;
use onward::{Code, Error, Onward};
use parking_lot::Mutex;

use crate::wait::within;

/// How long an engine may take to answer a probe.
const WAIT: Duration = Duration::from_secs(1);

/// A part with its engine, and how it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// The part.
    pub(crate) part: &'static str,
    /// Its engine.
    pub(crate) engine: &'static str,
    /// Whether it answered now.
    pub(crate) up: bool,
    /// Since when it is so, as far as this process has looked.
    pub(crate) since: Timestamp,
    /// Why it did not answer the last time that it did not.
    pub(crate) last_error: Option<Code>,
}

/// What was seen of a part.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    up: Option<(bool, Timestamp)>,
    last_error: Option<Code>,
}

impl Seen {
    fn note(&mut self, failure: Option<Code>, now: Timestamp) -> (bool, Timestamp) {
        let up = failure.is_none();
        self.last_error = failure.or(self.last_error);
        let state = self.up.filter(|(before, _)| *before == up).unwrap_or((up, now));
        self.up = Some(state);
        state
    }
}

/// What was seen of the engines of store and locks.
#[derive(Debug, Default)]
pub(crate) struct Reach(Mutex<[Seen; 2]>);

impl Reach {
    /// Asks the engines for a sign of life.
    ///
    /// # Errors
    /// The key of the probe is refused, which it never is.
    pub(crate) async fn look(&self, onward: &Onward) -> onward::Result<[Reached; 2]> {
        let (store, locks) = (onward.store(), onward.locks());
        let probe = LockKey::raw("onward.probe")?;
        let (stored, locked) = tokio::join!(within(WAIT, store.queue().engine().meta()), within(WAIT, Box::pin(locks.status(&probe))));
        let failures = [failure(stored), failure(locked)];
        let now = store.queue().clock().wall();
        let told = |part, engine, seen: &mut Seen, failure| {
            let (up, since) = seen.note(failure, now);
            Reached { part, engine, up, since, last_error: seen.last_error }
        };
        let [first, second] = &mut *self.0.lock();
        let [stored, locked] = failures;
        Ok([told("store", store.queue().engine().name(), first, stored), told("locks", locks.engine_name(), second, locked)])
    }
}

fn failure<T>(answer: Option<Result<T, Error>>) -> Option<Code> {
    answer.map_or(Some(Code::DeadlineExceeded), |answer| answer.err().map(|error| error.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_its_beginning_and_the_last_error_stays() {
        let (mut seen, at) = (Seen::default(), Timestamp::from_micros);
        assert_eq!(seen.note(None, at(1)), (true, at(1)));
        assert_eq!(seen.note(None, at(2)), (true, at(1)));
        assert_eq!(seen.note(Some(Code::Unavailable), at(3)), (false, at(3)));
        assert_eq!(seen.note(Some(Code::Unavailable), at(4)), (false, at(3)));
        assert_eq!(seen.note(None, at(5)), (true, at(5)));
        assert_eq!(seen.last_error, Some(Code::Unavailable));
    }
}
