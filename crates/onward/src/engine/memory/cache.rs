//! The cache in this process: values, fill leases by striped generations, write guards.
//!
//! Every key belongs to one of 65,536 generations (512 KiB, fixed). A fill lease remembers the generation of its key and the epoch of its
//! namespace, both read before the source is. Killing leases means moving a number on: an invalidation advances the generation and removes
//! under the shard's lock; a commit compares and inserts under the same lock; a flush moves the epoch, which entries carry too. So a lease never has to be found to be killed. Two keys that share a generation cost a false refusal now and then, never
//! staleness.
//!
//! Leases have a random nonce and live in a bounded table, since they may leave the process. Values are bounded by weight: a clock hand
//! per shard gives each entry that was read since its last turn a second chance. Dead things are dropped when the hand
//! passes them.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use futures_core::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::cache_shard::{Evict, Place, Reservation, SHARD_LEASES, SHARDS, Shard, Space, Stored};
use crate::cache::{
    Age, BusyReason, CacheEngine, CacheStats, Decoded, Entry, Expiry, Filled, Flushed, GuardEnd, GuardOwner, Invalidation, Life, Near,
    Nonce, Now, Promise, Reserved, Scope, Slot, Touched,
};
use crate::time::{Clock, Moment};
use crate::{Error, Result, random};

const GENERATIONS: usize = 1 << 16;
/// Guarded keys of a shard.
const SHARD_GUARDS: usize = 1 << 10;
/// Owners of one key's guard.
const GUARD_OWNERS: usize = 64;
/// Namespaces: each costs its name and 16 bytes, and is never forgotten.
const NAMESPACES: usize = 1 << 16;
/// What an entry weighs beside its bytes: an estimate of maps, queue and allocation.
const ENTRY_WEIGHT: usize = 200;
/// Entries that the hand passes at each write.
const HAND_STEPS: usize = 2;
/// When to come back if a table is full.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// Bound on the weight of all entries, unless set otherwise: 64 MiB.
const MAX_BYTES: usize = 64 << 20;

/// A cache engine in process memory.
///
/// Scope: this process. Bounded: values by weight, leases and guards by number. All that it loses is loaded again (exempt from C3).
#[derive(Debug)]
pub struct MemoryCache {
    clock: Clock,
    max_bytes: usize,
    weight: AtomicUsize,
    next_evicted: AtomicUsize,
    namespaces: RwLock<HashMap<Box<str>, Arc<Space>>>,
    flushes: Arc<AtomicU64>,
    generations: Box<[AtomicU64]>,
    shards: Box<[Mutex<Shard>]>,
    /// Seeded, so that keys which fall on one place cannot be chosen. Whoever found some all the same would slow down one shard, by no more
    /// than its entries, which are bounded.
    hasher: FixedState,
}

/// What is dropped once the shard's lock is free again: values of users have a `Drop` of their own.
type Trash = Vec<Stored>;

impl MemoryCache {
    /// Makes an empty cache of at most 64 MiB, with this clock.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            max_bytes: MAX_BYTES,
            weight: AtomicUsize::new(0),
            next_evicted: AtomicUsize::new(0),
            namespaces: RwLock::default(),
            flushes: Arc::default(),
            generations: std::iter::repeat_with(AtomicU64::default).take(GENERATIONS).collect(),
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            hasher: FixedState::with_seed(u64::from_le_bytes(random::bytes())),
        }
    }

    /// Bounds the weight of all entries of all namespaces, in bytes; what is over is evicted.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    fn known(&self, namespace: &str) -> Option<Arc<Space>> {
        self.namespaces.read().get(namespace).map(Arc::clone)
    }

    /// Returns the namespace, made if need be; `None` if there are too many.
    fn space(&self, namespace: &str) -> Option<Arc<Space>> {
        if let Some(space) = self.known(namespace) {
            return Some(space);
        }
        let mut namespaces = self.namespaces.write();
        if namespaces.len() >= NAMESPACES && !namespaces.contains_key(namespace) {
            return None;
        }
        let id = namespaces.len() as u64;
        let space = namespaces.entry(namespace.into()).or_insert_with(|| Arc::new(Space::new(id, namespace, Arc::clone(&self.flushes))));
        Some(Arc::clone(space))
    }

    /// Hashes a key of a namespace: the upper half picks the shard, its table uses the rest.
    fn hash(&self, namespace: &str, key: &[u8]) -> u64 {
        self.hasher.hash_one((namespace, key))
    }

    fn place(&self, space: &Space, key: &[u8]) -> Result<Place> {
        Place::new(space.id, key, self.hash(&space.name, key))
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[(hash >> 48) as usize % SHARDS].lock()
    }

    fn generation(&self, place: &Place) -> &AtomicU64 {
        // Without a seed, so that a run can be repeated: which keys share a generation shows in refusals.
        &self.generations[FixedState::with_seed(0).hash_one(place.key()) as usize % GENERATIONS]
    }

    fn forget(&self, gone: Vec<Stored>, trash: &mut Trash) {
        let weight = gone.iter().map(|stored| stored.weight).sum();
        self.weight.fetch_sub(weight, Ordering::Relaxed);
        trash.extend(gone.into_iter().filter(|stored| stored.decoded.is_some()));
    }

    fn look(&self, slot: Slot<'_>) -> Option<Entry> {
        let hash = self.hash(slot.namespace, slot.key);
        let now = self.clock.now();
        let mut shard = self.shard(hash);
        shard.live(slot, hash, now)
    }

    fn take_lease(&self, slot: Slot<'_>, fill_ttl: Duration, instead_of: Option<Nonce>) -> Result<Reserved> {
        let full = Reserved::Busy { reason: BusyReason::Away, retry_after: FULL_RETRY };
        let Some(space) = self.space(slot.namespace) else { return Ok(full) };
        let place = self.place(&space, slot.key)?;
        let now = self.clock.now();
        let mut shard = self.shard(place.hash);
        let (epoch, generation) = (space.epoch(), self.generation(&place).load(Ordering::SeqCst));
        // What is there stays: the commit replaces it, whoever may read it does so until then.
        if let Some(entry) = shard.live(slot, place.hash, now)
            && matches!(entry.age, Age::Fresh { .. })
            && instead_of != Some(entry.nonce)
        {
            return Ok(Reserved::Hit(entry));
        }
        if let Some(ends) = shard.guarded_until(place.key(), now) {
            return Ok(Reserved::Busy { reason: BusyReason::Guarded, retry_after: ends.left(now) });
        }
        let lease_slot = place.lease_slot(slot.field);
        if let Some(other) = shard.leases.get(&lease_slot).filter(|other| other.lives(generation, epoch, now)) {
            return Ok(Reserved::Busy { reason: BusyReason::Loading, retry_after: other.ends.left(now) });
        }
        shard.sweep(now);
        if shard.leases.len() >= SHARD_LEASES && !shard.leases.contains_key(&lease_slot) {
            return Ok(full);
        }
        let nonce = Nonce::random();
        shard.leases.insert(lease_slot, Reservation { nonce, generation, epoch, ends: now + fill_ttl });
        Ok(Reserved::Lease(nonce))
    }

    fn fill(&self, slot: Slot<'_>, nonce: Nonce, payload: Bytes, life: Life) -> Result<Filled> {
        let Some(space) = self.known(slot.namespace) else { return Ok(Filled::Superseded { now: Now::Absent }) };
        let place = self.place(&space, slot.key)?;
        let now = self.clock.now();
        let mut trash = Trash::new();
        {
            let mut shard = self.shard(place.hash);
            // Compared and inserted under one lock: an invalidation that came before is seen here, one that comes later removes what is
            // inserted here. A flush that comes in between leaves an entry of the old epoch, which nobody sees.
            let (epoch, generation) = (space.epoch(), self.generation(&place).load(Ordering::SeqCst));
            let lease_slot = place.lease_slot(slot.field);
            let lease = shard.leases.get(&lease_slot).filter(|lease| lease.nonce == nonce).copied();
            if !lease.is_some_and(|lease| lease.lives(generation, epoch, now)) {
                let fresh = shard.live(slot, place.hash, now).filter(|entry| matches!(entry.age, Age::Fresh { .. }));
                return Ok(match fresh {
                    Some(entry) if entry.nonce == nonce => Filled::Stored,
                    Some(_) => Filled::Superseded { now: Now::Replaced },
                    None if lease.is_some_and(|lease| lease.epoch != epoch) => Filled::Superseded { now: Now::Flushed },
                    None => Filled::Superseded { now: Now::Absent },
                });
            }
            self.forget(shard.turn_hand(HAND_STEPS, now, Evict::Dead), &mut trash);
            let weight = ENTRY_WEIGHT + place.len + slot.field.map_or(0, <[u8]>::len) + payload.len();
            let mut stored = Stored { payload, decoded: None, nonce, epoch, ends: now, gone: now, serial: 0, weight, touched: false };
            stored.begin(life, now);
            let replaced = shard.insert(&place, slot.field, stored, &space, now)?;
            self.forget(replaced, &mut trash);
            self.weight.fetch_add(weight, Ordering::Relaxed);
            shard.leases.remove(&lease_slot);
        }
        self.shrink(now);
        Ok(Filled::Stored)
    }

    fn give_back(&self, slot: Slot<'_>, nonce: Nonce) -> Result<()> {
        let Some(space) = self.known(slot.namespace) else { return Ok(()) };
        let place = self.place(&space, slot.key)?;
        let lease_slot = place.lease_slot(slot.field);
        let mut shard = self.shard(place.hash);
        if shard.leases.get(&lease_slot).is_some_and(|lease| lease.nonce == nonce) {
            shard.leases.remove(&lease_slot);
        }
        Ok(())
    }

    /// Evicts until the weight is within its bound, one entry a shard in turn: idle entries anywhere go before new ones.
    fn shrink(&self, now: Moment) {
        let mut empty_in_a_row = 0;
        let mut trash = Trash::new();
        while self.weight.load(Ordering::Relaxed) > self.max_bytes && empty_in_a_row < SHARDS {
            let next = self.next_evicted.fetch_add(1, Ordering::Relaxed);
            let mut shard = self.shards[next % SHARDS].lock();
            empty_in_a_row = if shard.hand.is_empty() { empty_in_a_row + 1 } else { 0 };
            self.forget(shard.turn_hand(1, now, Evict::Untouched), &mut trash);
        }
    }

    fn drop_slot(&self, slot: Slot<'_>, hold_off: Duration) -> Result<Invalidation> {
        // A namespace that nobody knows has neither values nor leases; fills to come may have to be held off.
        let space = match self.known(slot.namespace) {
            Some(space) => space,
            None if hold_off.is_zero() => return Ok(Invalidation::Absent),
            None => self.space(slot.namespace).ok_or_else(too_many_guards)?,
        };
        let place = self.place(&space, slot.key)?;
        let now = self.clock.now();
        let mut trash = Trash::new();
        let mut shard = self.shard(place.hash);
        let found = self.purge(&mut shard, &place, slot.field, &space, now, &mut trash);
        Self::hold(&mut shard, &place, GuardOwner::HOLD_OFF, hold_off, now)?;
        Ok(found)
    }

    /// Kills the fills in flight of a key, then removes: every way to invalidate ends here, under the shard's lock.
    fn purge(&self, shard: &mut Shard, place: &Place, field: Option<&[u8]>, space: &Space, now: Moment, trash: &mut Trash) -> Invalidation {
        self.generation(place).fetch_add(1, Ordering::SeqCst);
        let gone = shard.remove(place, field);
        let epoch = space.epoch();
        let seen = gone.iter().any(|stored| stored.lives(epoch, now));
        self.forget(gone, trash);
        shard.sweep(now);
        shard.tidy_hand();
        if seen { Invalidation::Removed } else { Invalidation::Absent }
    }

    fn end_freshness(&self, slot: Slot<'_>) -> Result<Expiry> {
        let Some(space) = self.known(slot.namespace) else { return Ok(Expiry::Absent) };
        let place = self.place(&space, slot.key)?;
        let now = self.clock.now();
        let mut shard = self.shard(place.hash);
        // As in `purge`: what was read before must not land as fresh.
        self.generation(&place).fetch_add(1, Ordering::SeqCst);
        let kept = shard.expire(&place, slot.field, space.epoch(), now);
        Ok(if kept { Expiry::Expired } else { Expiry::Absent })
    }

    fn lengthen(&self, slot: Slot<'_>, ttl: Duration) -> Result<Touched> {
        let Some(space) = self.known(slot.namespace) else { return Ok(Touched::Absent) };
        let place = self.place(&space, slot.key)?;
        let now = self.clock.now();
        let mut shard = self.shard(place.hash);
        let touched = shard.touch(&place, slot.field, space.epoch(), now, ttl);
        Ok(if touched { Touched::Touched } else { Touched::Absent })
    }

    fn add_guard(&self, namespace: &str, key: &[u8], owner: GuardOwner, ttl: Duration) -> Result<()> {
        let space = self.space(namespace).ok_or_else(too_many_guards)?;
        let place = self.place(&space, key)?;
        let now = self.clock.now();
        let mut trash = Trash::new();
        let mut shard = self.shard(place.hash);
        Self::hold(&mut shard, &place, owner, ttl, now)?;
        let _ = self.purge(&mut shard, &place, None, &space, now, &mut trash);
        Ok(())
    }

    /// Adds an owner to a key's guard, or lengthens its time; nothing for no time.
    fn hold(shard: &mut Shard, place: &Place, owner: GuardOwner, ttl: Duration, now: Moment) -> Result<()> {
        if ttl.is_zero() {
            return Ok(());
        }
        shard.sweep(now);
        if shard.guards.len() >= SHARD_GUARDS && !shard.guards.contains_key(place.key()) {
            return Err(too_many_guards());
        }
        let owners = shard.guards.entry(place.key().into()).or_default();
        owners.retain(|(_, ends)| now < *ends);
        if let Some((_, ends)) = owners.iter_mut().find(|(other, _)| *other == owner) {
            *ends = (*ends).max(now + ttl);
            return Ok(());
        }
        // An invalidation is not turned away by the guards of others.
        if owners.len() >= GUARD_OWNERS && owner != GuardOwner::HOLD_OFF {
            return Err(too_many_guards());
        }
        owners.push((owner, now + ttl));
        Ok(())
    }

    fn has_guard(&self, namespace: &str, key: &[u8], owner: GuardOwner) -> Result<bool> {
        let Some(space) = self.known(namespace) else { return Ok(false) };
        let place = self.place(&space, key)?;
        let now = self.clock.now();
        let shard = self.shard(place.hash);
        Ok(shard.guards.get(place.key()).is_some_and(|owners| owners.iter().any(|(other, ends)| *other == owner && now < *ends)))
    }

    fn end_guard(&self, namespace: &str, key: &[u8], owner: GuardOwner, hold_off: Duration) -> Result<GuardEnd> {
        let Some(space) = self.known(namespace) else { return Ok(GuardEnd::WasLost) };
        let place = self.place(&space, key)?;
        let now = self.clock.now();
        let mut trash = Trash::new();
        let mut shard = self.shard(place.hash);
        let _ = self.purge(&mut shard, &place, None, &space, now, &mut trash);
        let mut end = GuardEnd::WasLost;
        if let Some(owners) = shard.guards.get_mut(place.key()) {
            if owners.iter().any(|(other, ends)| *other == owner && now < *ends) {
                end = GuardEnd::Released;
            }
            owners.retain(|(other, ends)| *other != owner && now < *ends);
            if owners.is_empty() {
                shard.guards.remove(place.key());
            }
        }
        Self::hold(&mut shard, &place, GuardOwner::HOLD_OFF, hold_off, now)?;
        Ok(end)
    }

    fn list(&self, namespace: &str, key: &[u8]) -> Result<Vec<Bytes>> {
        let Some(space) = self.known(namespace) else { return Ok(Vec::new()) };
        let place = self.place(&space, key)?;
        let (now, epoch) = (self.clock.now(), space.epoch());
        let shard = self.shard(place.hash);
        let fields = shard.records.get(&place).and_then(|record| record.fields.as_deref());
        let live = fields.into_iter().flatten().filter(|(_, stored)| stored.lives(epoch, now));
        let mut names: Vec<Bytes> = live.map(|(name, _)| Bytes::copy_from_slice(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Counts a namespace, and drops what is dead on the way.
    fn count(&self, namespace: &str) -> CacheStats {
        let mut stats = CacheStats::default();
        let Some(space) = self.known(namespace) else { return stats };
        let (now, prefix, mut trash) = (self.clock.now(), space.id.to_le_bytes(), Trash::new());
        for shard in &self.shards {
            let mut shard = shard.lock();
            let steps = shard.hand.len();
            self.forget(shard.turn_hand(steps, now, Evict::Dead), &mut trash);
            shard.sweep_now(now);
            let epoch = space.epoch();
            for record in shard.records.iter().filter(|record| record.space.id == space.id) {
                for stored in record.all().filter(|stored| stored.lives(epoch, now)) {
                    stats.entries += 1;
                    stats.bytes += stored.weight as u64;
                }
            }
            for ((key, _), lease) in shard.leases.iter().filter(|((key, _), _)| key.starts_with(&prefix)) {
                let place = self.place(&space, key.get(prefix.len()..).unwrap_or_default());
                let generation = place.map_or(0, |place| self.generation(&place).load(Ordering::SeqCst));
                stats.reservations += u64::from(lease.lives(generation, epoch, now));
            }
            stats.guarded += shard.guards.keys().filter(|key| key.starts_with(&prefix)).count() as u64;
        }
        stats
    }
}

fn too_many_guards() -> Error {
    Error::overloaded("too many write guards", FULL_RETRY)
}

/// Every call is one short step under a shard's lock, so its future is ready when it is made.
fn ready<'a, T: Send + 'a>(result: Result<T>) -> BoxFuture<'a, Result<T>> {
    Box::pin(std::future::ready(result))
}

impl CacheEngine for MemoryCache {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn promise(&self) -> Promise {
        Promise { scope: Scope::Process, staleness: None, foreign_writers: false }
    }

    fn near(&self, _: Slot<'_>) -> Option<&dyn Near> {
        Some(self)
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        ready(Ok(self.look(slot)))
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        ready(self.take_lease(slot, fill_ttl, instead_of))
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        ready(self.fill(slot, nonce, payload, life))
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        ready(self.give_back(slot, nonce))
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        ready(self.drop_slot(slot, hold_off))
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        ready(self.end_freshness(slot))
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        ready(self.lengthen(slot, ttl))
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        ready(self.list(namespace, key))
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        ready(self.add_guard(namespace, key, owner, ttl))
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        ready(self.has_guard(namespace, key, owner))
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        ready(self.end_guard(namespace, key, owner, hold_off))
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        if let Some(space) = self.known(namespace) {
            space.flush();
        }
        ready(Ok(Flushed::Flushed))
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        ready(Ok(Flushed::Flushed))
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        ready(Ok(self.count(namespace)))
    }
}

impl Near for MemoryCache {
    fn now(&self) -> Moment {
        self.clock.recent()
    }

    fn decoded(&self, slot: Slot<'_>, now: Moment) -> Option<Decoded> {
        let hash = self.hash(slot.namespace, slot.key);
        self.shard(hash).decoded(slot, hash, now)
    }

    fn entry(&self, slot: Slot<'_>) -> Option<Entry> {
        self.look(slot)
    }

    fn keep(&self, slot: Slot<'_>, payload: &Bytes, decoded: Decoded, weight: usize) {
        let hash = self.hash(slot.namespace, slot.key);
        let mut shard = self.shard(hash);
        let Some(before) = shard.keep(slot, hash, payload, (decoded, weight)) else { return };
        // Under the lock: whoever takes the entry out subtracts all of its weight.
        self.weight.fetch_add(weight, Ordering::Relaxed);
        self.weight.fetch_sub(before.as_ref().map_or(0, |(_, weight)| *weight), Ordering::Relaxed);
        drop(shard);
        self.shrink(self.clock.now());
    }
}
