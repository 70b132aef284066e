//! The pieces that no caller sees alone: validity, the line, the schedule.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::held::{Held, Term, valid_until};
use super::options::{checked_ttl, margin};
use super::renewal::{Renewals, pause};
use super::report::Label;
use super::wait::{Heard, Queues};
use super::{LossReason, Owner, Renewed};
use crate::Kind;
use crate::model::{FencingToken, LockKey};
use crate::time::Moment;

const TTL: Duration = Duration::from_secs(10);

fn key() -> LockKey {
    LockKey::raw("k").unwrap()
}

fn token() -> FencingToken {
    FencingToken::new(7).unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

fn held() -> Held {
    held_with(Duration::ZERO, None)
}

fn held_with(min_hold: Duration, max_hold: Option<Duration>) -> Held {
    let term = Term { ttl: TTL, sent: at(0), answered: at(0), until: valid_until(at(0), TTL, TTL), min_hold, max_hold };
    Held::new(key(), Owner::draw(), token(), Label::default(), term)
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    let mut future = std::pin::pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn a_margin_is_less_than_half_of_every_legal_ttl() {
    for millis in [10, 11, 100, 1_000, 86_400_000] {
        let ttl = checked_ttl(Duration::from_millis(millis)).unwrap();
        assert!(margin(ttl) < ttl / 2);
    }
}

#[test]
fn a_ttl_is_rounded_up_never_down() {
    let just_above = Duration::from_millis(10) + Duration::from_nanos(1);
    assert_eq!(checked_ttl(just_above).unwrap(), Duration::from_millis(11));
    assert_eq!(checked_ttl(Duration::from_millis(10)).unwrap(), Duration::from_millis(10));
}

#[test]
fn validity_is_below_what_the_engine_promised_and_below_the_ttl() {
    for remaining in [0, 1, 100, 5_000, 10_000, 20_000].map(Duration::from_millis) {
        let until = valid_until(at(5), remaining, TTL);
        assert!(until <= at(5) + remaining && until < at(5) + TTL, "{remaining:?}");
    }
}

#[test]
fn a_grant_that_is_over_takes_no_renewal() {
    let renewed = Renewed { token: token(), remaining: TTL };
    let live = held();
    assert!(live.renewed(at(5), at(5), renewed));
    assert_eq!(live.remaining(at(10)), Duration::from_secs(5) - margin(TTL));
    // An older answer that comes later takes nothing away.
    assert!(live.renewed(at(1), at(6), renewed));
    assert_eq!(live.remaining(at(10)), Duration::from_secs(5) - margin(TTL));
    let lost = held();
    assert!(!lost.renewed(at(9), at(10), renewed));
    assert_eq!(lost.loss(at(0)), Some(LossReason::Expired), "also if a clock were read in another order");
    let released = held();
    released.finish();
    assert!(!released.renewed(at(1), at(1), renewed));
    assert_eq!(released.check(at(1)).unwrap_err().kind(), Kind::Lost);
    assert_eq!(released.loss(at(1)), None, "a release is no loss");
}

#[test]
fn the_first_reason_of_a_loss_stays() {
    let grant = held();
    assert_eq!(grant.taken(at(1)), LossReason::Taken);
    assert_eq!(grant.loss(at(20)), Some(LossReason::Taken));
    let grant = held();
    assert_eq!(grant.taken(at(20)), LossReason::Expired);
}

#[test]
fn the_schedule_forgets_who_is_over() {
    let renewals = Renewals::default();
    let (over, dropped, live) = (Arc::new(held()), Arc::new(held()), Arc::new(held()));
    over.finish();
    renewals.add(&over, at(1));
    renewals.add(&dropped, at(1));
    drop(dropped);
    renewals.add(&live, at(2));
    assert!(renewals.take_due(at(1), 10).is_empty());
    assert_eq!(renewals.take_due(at(2), 10).len(), 1);
    renewals.add(&live, at(3));
    renewals.remove(live.finish().expect("it was scheduled"));
    assert!(renewals.take_due(at(9), 10).is_empty());
}

#[test]
fn a_place_passes_its_turn_on_however_it_is_left() {
    let queues = Queues::default();
    let key = key();
    let first = queues.join(&key, 10, 10).unwrap();
    let second = queues.join(&key, 10, 10).unwrap();
    let third = queues.join(&key, 10, 10).unwrap();
    assert!(first.is_head() && !second.is_head());
    queues.wake(&key);
    // Woken, and gone before it looked.
    drop(first);
    assert!(second.is_head() && is_ready(second.turn()));
    assert!(!is_ready(third.turn()), "only the head is woken");
    drop(third);
    drop(second);
    assert!(queues.line(&key).is_none());
}

#[test]
fn a_line_is_bounded_and_its_room_comes_back() {
    let queues = Queues::default();
    let (key, other) = (key(), LockKey::raw("other").unwrap());
    let place = queues.join(&key, 1, 2).unwrap();
    assert_eq!(queues.join(&key, 1, 2).err().map(|error| error.kind()), Some(Kind::Overloaded));
    let elsewhere = queues.join(&other, 1, 2).unwrap();
    assert_eq!(queues.join(&LockKey::raw("third").unwrap(), 1, 2).err().map(|error| error.kind()), Some(Kind::Overloaded));
    drop(place);
    let again = queues.join(&key, 1, 2).unwrap();
    again.note(Heard::Failure);
    assert!(matches!(queues.line(&key).map(|line| line.heard), Some(Heard::Failure)));
    drop((again, elsewhere));
    assert!(queues.line(&key).is_none(), "nothing is kept of an empty line");
}

#[test]
fn a_lease_shorter_than_asked_for_has_a_margin_and_pauses_of_its_own_length() {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3_600));
    assert_eq!(valid_until(at(1), second, day), at(1) + second - margin(second), "the margin of a day would leave nothing of it");
    assert_eq!(pause(TTL, TTL), TTL / 12);
    assert_eq!(pause(TTL, second), second / 4, "several tries come before its end");
    assert_eq!(pause(TTL, Duration::ZERO), Duration::from_millis(1));
}
