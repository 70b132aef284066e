//! The trait that a cache engine implements. No policy in here: no waiting, no loading, no retry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use crate::{Result, random};

/// The place of one cached value: namespace, key and, for a field, its name. Bytes, never folded or normalised.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The key, 1..=512 bytes.
    pub key: &'a [u8],
    /// The field, 1..=512 bytes; `None` is the key's plain value.
    pub field: Option<&'a [u8]>,
}

impl fmt::Debug for Slot<'_> {
    /// Shows the namespace only: keys don't belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A slot that owns its bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SlotBuf {
    pub(super) namespace: Arc<str>,
    pub(super) key: Box<[u8]>,
    pub(super) field: Option<Box<[u8]>>,
}

impl SlotBuf {
    pub(super) fn as_slot(&self) -> Slot<'_> {
        Slot { namespace: &self.namespace, key: &self.key, field: self.field.as_deref() }
    }
}

/// The one-time value of a fill lease: 128 random bits, never drawn twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Draws a nonce.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// Makes a nonce from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    /// Shows nothing: who knows a nonce may fill.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// The owner of a write guard: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuardOwner([u8; 16]);

impl GuardOwner {
    /// Draws an owner.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for GuardOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardOwner(..)")
    }
}

/// A live entry as an engine keeps it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The encoded value; opaque to the engine.
    pub payload: Bytes,
    /// The nonce of the lease that stored it.
    pub nonce: Nonce,
}

/// Why nobody may fill now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusyReason {
    /// Another caller holds the fill lease.
    Loading,
    /// A writer's guard stands.
    Guarded,
    /// The engine is away, or has no room for another lease.
    Away,
}

/// What [`CacheEngine::reserve`] found or did.
#[derive(Clone, Debug)]
#[must_use]
pub enum Reserved {
    /// A live entry is there; nothing was reserved.
    Hit(Entry),
    /// The slot is reserved: this nonce may fill it.
    Lease(Nonce),
    /// Nobody may fill now.
    Busy {
        /// Why.
        reason: BusyReason,
        /// When that ends by itself at the latest.
        retry_after: Duration,
    },
}

/// What is there instead of a refused fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Now {
    /// Nothing: the lease was invalidated, or its time was over.
    Absent,
    /// A value that another fill stored.
    Replaced,
    /// The namespace was flushed.
    Flushed,
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Filled {
    /// The value is in the cache.
    Stored,
    /// The lease was dead: nothing was written (C8).
    Superseded {
        /// What is there now.
        now: Now,
    },
}

/// What an invalidation found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
#[non_exhaustive]
pub enum Invalidation {
    /// A reader could see something before; now nobody can.
    Removed,
    /// There was nothing to see. Fills in flight are refused all the same.
    Absent,
}

/// How a write guard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum GuardEnd {
    /// It stood until now: no fill landed under it.
    Released,
    /// Its time was over before: a fill may have landed in between. What was found is purged.
    WasLost,
}

/// What a namespace holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Live values, remembered absences included.
    pub entries: u64,
    /// Their bytes, with names and bookkeeping.
    pub bytes: u64,
    /// Live fill leases.
    pub reservations: u64,
    /// Keys under a live write guard.
    pub guarded: u64,
}

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
pub trait CacheEngine: fmt::Debug + Send + Sync {
    /// Returns the live entry, and reserves nothing.
    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// Reserves an empty slot for `fill_ttl`, or says what is in the way.
    ///
    /// `instead_of` names an entry that the caller can't use: if exactly that one is there, it counts as absent and is dropped.
    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>>;

    /// Stores `payload` for `ttl` if this nonce's reservation still stands.
    ///
    /// May be sent twice: a nonce whose entry is stored already answers `Stored` and writes nothing.
    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, ttl: Duration) -> BoxFuture<'a, Result<Filled>>;

    /// Gives a reservation back; an entry that this nonce stored stays.
    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>>;

    /// Kills every fill in flight of the slot's key, then removes: the one field, or without a field the plain value and all fields.
    fn invalidate<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Invalidation>>;

    /// Lists the live fields of a key, sorted by bytes.
    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>>;

    /// Adds an owner to the key's write guard for `ttl`, and purges the key in the same step. At most 64 owners a key.
    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>>;

    /// Tells whether the owner's guard stands.
    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>>;

    /// Takes the owner's guard away and purges whatever is found in the same step, even if the guard was lost.
    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<GuardEnd>>;

    /// Makes everything in the namespace unreachable, fills in flight too; guards stay.
    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Does what `flush` does with every namespace.
    fn flush_all(&self) -> BoxFuture<'_, Result<()>>;

    /// Counts what the namespace holds.
    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>>;
}
