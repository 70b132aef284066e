//! The trait that a cache engine implements. No policy in here: no waiting, no loading, no retry.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use super::outcome::{CacheStats, Entry, Expiry, Filled, Flushed, GuardEnd, Invalidation, Life, Promise, Reserved, Touched};
use super::slot::{GuardOwner, Nonce, Slot};
use crate::Result;
use crate::observe::Finding;
use crate::time::Moment;

/// Keeps cached values and their fill leases.
///
/// An engine owes INV-2: once `invalidate`, `guard`, `release` or `flush` was acknowledged, no lease taken before it is ever accepted,
/// whatever was evicted, flushed or restarted in between. A lease that the engine does not know is refused: it fails closed. Losing a
/// value, a reservation or a whole namespace is always safe; losing a guard before its time is not.
///
/// Each call is one atomic step on its key (C1); time is the engine's clock (C5). Leases are part of the trait, so no layer around an
/// engine can drop them (C9). Callers check names and sizes first.
///
/// # Errors
/// All calls fail with [`Kind::Backend`](crate::Kind::Backend) and an honest effect; a bound gives
/// [`Kind::Overloaded`](crate::Kind::Overloaded).
///
/// The calls on many slots answer each for itself, in the order asked and as many as asked; an engine behind a network carries them in one
/// trip, and one in memory leaves them as they are.
pub trait CacheEngine: fmt::Debug + Send + Sync {
    /// The name of the engine for people, such as `memory`; a layer says that of the engine that it stands before.
    fn name(&self) -> &'static str;

    /// Tells who shares what is kept here, and how old a read may be.
    fn promise(&self) -> Promise;

    /// Returns what holds the slot's entry in this process, if it may be read without asking further; `None` is always right.
    fn near(&self, _: Slot<'_>) -> Option<&dyn Near> {
        None
    }

    /// Returns the entry, fresh or stale, and reserves nothing.
    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// Reserves a slot without a fresh entry for `fill_ttl`, or says what is in the way.
    ///
    /// A stale entry stays beside the reservation and ends in its own time; the reservation may outlive it. `instead_of` names an entry
    /// that the caller can't use: if exactly that one is there, it counts as stale.
    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>>;

    /// Stores `payload` if this nonce's reservation still stands, in place of a stale entry.
    ///
    /// May be sent twice: a nonce whose entry is fresh there already answers `Stored` and writes nothing.
    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>>;

    /// Gives a reservation back; an entry that this nonce stored stays.
    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>>;

    /// Kills every fill in flight of the slot's key, then removes: the one field, or without a field the plain value and all fields.
    ///
    /// For `hold_off` from then on nobody may fill the key, as under a guard of [`GuardOwner::HOLD_OFF`] that nobody releases; of several
    /// the longest counts. Zero adds none.
    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>>;

    /// Kills every fill in flight of the slot's key, then ends the freshness of what `invalidate` would remove.
    ///
    /// What was left of the freshness is added to the time as stale.
    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>>;

    /// Gives the slot's entry, if it is fresh, a new time as fresh from now on; its time as stale stays.
    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>>;

    /// Lists the kept fields of a key, sorted by bytes.
    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>>;

    /// Adds an owner to the key's write guard for `ttl`, and purges the key in the same step. At most 64 owners a key.
    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>>;

    /// Tells whether the owner's guard stands.
    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>>;

    /// Takes the owner's guard away and does what `invalidate` does with the key in the same step, even if the guard was lost.
    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>>;

    /// Makes everything in the namespace unreachable, fills in flight too; guards stay.
    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>>;

    /// Does what `flush` does with every namespace.
    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>>;

    /// Counts what the namespace holds.
    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>>;

    /// Looks at what the engine stands on, such as a server; changes nothing. One in memory has nothing to say.
    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// As [`CacheEngine::lookup`], for many slots.
    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        each(slots, |slot| self.lookup(*slot))
    }

    /// As [`CacheEngine::reserve`], for many slots, each with its `instead_of`.
    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        each(asked, move |(slot, instead_of)| self.reserve(*slot, fill_ttl, *instead_of))
    }

    /// As [`CacheEngine::commit`], for many slots.
    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        each(fills, |fill| self.commit(fill.slot, fill.nonce, fill.payload.clone(), fill.life))
    }

    /// As [`CacheEngine::invalidate`], for many slots.
    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        each(slots, move |slot| self.invalidate(*slot, hold_off))
    }
}

/// A value that a typed reader made of an entry's payload.
pub type Decoded = Arc<dyn Any + Send + Sync>;

/// Entries in this process, which keep what typed readers made of them.
///
/// A decoded value is part of its entry: it is shown only where `lookup` would show the payload at the same moment, and goes with it. So
/// INV-2 holds for it by the same step under the same lock.
pub trait Near: fmt::Debug + Send + Sync {
    /// Returns the time by which [`Near::decoded`] is to be asked; at most 10 ms later than the engine's clock, so entries end early, not late.
    fn now(&self) -> Moment;

    /// Returns the decoded value of an entry that is fresh at `now`.
    fn decoded(&self, slot: Slot<'_>, now: Moment) -> Option<Decoded>;

    /// Returns what `lookup` would return, if it is here.
    fn entry(&self, slot: Slot<'_>) -> Option<Entry>;

    /// Keeps what was made of this payload, as [`Near::entry`] returned it, if it is still there; `weight` counts as its bytes.
    fn keep(&self, slot: Slot<'_>, payload: &Bytes, decoded: Decoded, weight: usize);
}

/// One fill of a batch.
#[derive(Clone, Debug)]
pub struct Filling<'a> {
    /// Where.
    pub slot: Slot<'a>,
    /// Under which lease.
    pub nonce: Nonce,
    /// The encoded value.
    pub payload: Bytes,
    /// How long it is kept.
    pub life: Life,
}

/// Calls one after the other.
fn each<'a, A: Sync, T: Send + 'a>(
    asked: &'a [A],
    call: impl Fn(&'a A) -> BoxFuture<'a, Result<T>> + Send + 'a,
) -> BoxFuture<'a, Vec<Result<T>>> {
    Box::pin(async move {
        let mut answers = Vec::with_capacity(asked.len());
        for one in asked {
            answers.push(call(one).await);
        }
        answers
    })
}
