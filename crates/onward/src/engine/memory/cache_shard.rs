//! One shard of the memory cache: maps, the clock hand over them, and what lives or is dead. No locks, no clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::cache_records::{Record, Records};
use crate::cache::{Age, Decoded, Entry, GuardOwner, Life, Nonce, Slot};
use crate::model::limits::KEY_BYTES;
use crate::time::Moment;
use crate::{Error, Result};

/// Shards of the cache.
pub(super) const SHARDS: usize = 1 << 6;
/// Leases of a shard; all shards together hold 65,536.
pub(super) const SHARD_LEASES: usize = (1 << 16) / SHARDS;
/// Fields of one key.
const FIELDS: usize = 4_096;

/// A namespace. Its epoch is the sum of its own flushes and those of all namespaces: both only grow, so a sum never comes back.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) id: u64,
    pub(super) name: Box<str>,
    own: AtomicU64,
    all: Arc<AtomicU64>,
}

impl Space {
    pub(super) fn new(id: u64, name: &str, all: Arc<AtomicU64>) -> Self {
        Self { id, name: name.into(), own: AtomicU64::new(0), all }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.own.load(Ordering::SeqCst) + self.all.load(Ordering::SeqCst)
    }

    pub(super) fn flush(&self) {
        self.own.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) records: Records,
    pub(super) hand: VecDeque<HandItem>,
    pub(super) entries: usize,
    pub(super) leases: HashMap<LeaseSlot, Reservation>,
    pub(super) guards: HashMap<Box<[u8]>, Vec<(GuardOwner, Moment)>>,
    /// Length of `leases` and `guards` together at which dead ones are looked for.
    pub(super) sweep_at: usize,
    pub(super) serial: u64,
}

/// What the clock hand points at; a serial that is not the entry's any more is a leftover.
#[derive(Debug)]
pub(super) struct HandItem {
    hash: u64,
    key: Arc<[u8]>,
    field: Option<Arc<[u8]>>,
    serial: u64,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) payload: Bytes,
    /// What a typed reader made of the payload, and what that weighs.
    pub(super) decoded: Option<Made>,
    pub(super) nonce: Nonce,
    pub(super) epoch: u64,
    /// End of its time as fresh.
    pub(super) ends: Moment,
    /// End of its time as stale.
    pub(super) gone: Moment,
    pub(super) serial: u64,
    pub(super) weight: usize,
    pub(super) touched: bool,
}

/// A decoded value and what it weighs.
pub(super) type Made = (Decoded, usize);

pub(super) type LeaseSlot = (Box<[u8]>, Option<Box<[u8]>>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Reservation {
    pub(super) nonce: Nonce,
    pub(super) generation: u64,
    pub(super) epoch: u64,
    pub(super) ends: Moment,
}

impl Stored {
    /// Tells whether it is kept, be it fresh or stale.
    pub(super) fn lives(&self, epoch: u64, now: Moment) -> bool {
        self.epoch == epoch && now < self.gone
    }

    pub(super) fn age(&self, now: Moment) -> Age {
        if now < self.ends { Age::Fresh { left: self.ends.left(now) } } else { Age::Stale { since: now.since(self.ends) } }
    }

    /// Begins a life; the time as stale follows the time as fresh.
    pub(super) fn begin(&mut self, life: Life, now: Moment) {
        self.ends = now + life.ttl;
        self.gone = self.ends + life.grace;
    }

    /// Ends its time as fresh; what was left of it is added to its time as stale.
    fn expire(&mut self, now: Moment) {
        self.ends = self.ends.min(now);
    }
}

impl Reservation {
    pub(super) fn lives(&self, generation: u64, epoch: u64, now: Moment) -> bool {
        self.generation == generation && self.epoch == epoch && now < self.ends
    }
}

/// A key inside its namespace, without an allocation: 8 bytes of namespace, then the key.
pub(super) struct Place {
    pub(super) bytes: [u8; 8 + KEY_BYTES],
    pub(super) len: usize,
    pub(super) hash: u64,
}

impl Place {
    pub(super) fn new(space: u64, key: &[u8], hash: u64) -> Result<Self> {
        let mut bytes = [0; 8 + KEY_BYTES];
        let (name, rest) = bytes.split_at_mut(8);
        name.copy_from_slice(&space.to_le_bytes());
        let room = rest.get_mut(..key.len()).ok_or_else(|| Error::invalid_key("a cache key is 1..=512 bytes"))?;
        room.copy_from_slice(key);
        Ok(Self { bytes, len: 8 + key.len(), hash })
    }

    pub(super) fn key(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn lease_slot(&self, field: Option<&[u8]>) -> LeaseSlot {
        (self.key().into(), field.map(Into::into))
    }
}

/// Which entries the hand takes with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Evict {
    Dead,
    Untouched,
}

impl Shard {
    pub(super) fn live(&mut self, slot: Slot<'_>, hash: u64, now: Moment) -> Option<Entry> {
        let record = self.records.of_mut(slot, hash)?;
        let epoch = record.space.epoch();
        let stored = record.get_mut(slot.field).filter(|stored| stored.lives(epoch, now))?;
        stored.touched = true;
        Some(Entry { payload: stored.payload.clone(), nonce: stored.nonce, age: stored.age(now) })
    }

    /// Returns what a typed reader made of a fresh entry.
    pub(super) fn decoded(&mut self, slot: Slot<'_>, hash: u64, now: Moment) -> Option<Decoded> {
        let record = self.records.of_mut(slot, hash)?;
        let epoch = record.space.epoch();
        let stored = record.get_mut(slot.field).filter(|stored| stored.epoch == epoch && now < stored.ends)?;
        stored.touched = true;
        stored.decoded.as_ref().map(|(decoded, _)| Arc::clone(decoded))
    }

    /// Keeps what was made of exactly this payload; gives back what was there before, and `None` if the payload is not there any more.
    pub(super) fn keep(&mut self, slot: Slot<'_>, hash: u64, payload: &Bytes, decoded: Made) -> Option<Option<Made>> {
        let stored = self.records.of_mut(slot, hash)?.get_mut(slot.field)?;
        // By address: the caller holds the bytes, so nothing else can lie there. A layer may have cut its own bytes off the front.
        if payload.is_empty() || stored.payload.as_ptr_range().end != payload.as_ptr_range().end {
            return None;
        }
        let before = stored.decoded.replace(decoded);
        stored.weight =
            stored.weight + stored.decoded.as_ref().map_or(0, |(_, weight)| *weight) - before.as_ref().map_or(0, |(_, weight)| *weight);
        Some(before)
    }

    /// Ends the freshness of the one field, or of all that a key has; tells whether something is kept.
    pub(super) fn expire(&mut self, place: &Place, field: Option<&[u8]>, epoch: u64, now: Moment) -> bool {
        let Some(record) = self.records.get_mut(place) else { return false };
        let mut kept = false;
        for stored in record.some_mut(field).filter(|stored| stored.lives(epoch, now)) {
            stored.expire(now);
            kept = true;
        }
        kept
    }

    /// Gives a fresh entry a new time as fresh; tells whether there was one.
    pub(super) fn touch(&mut self, place: &Place, field: Option<&[u8]>, epoch: u64, now: Moment, ttl: Duration) -> bool {
        let stored = self.records.get_mut(place).and_then(|record| record.get_mut(field));
        let Some(stored) = stored.filter(|stored| stored.lives(epoch, now) && now < stored.ends) else { return false };
        let grace = stored.gone.since(stored.ends);
        stored.begin(Life { ttl, grace }, now);
        true
    }

    pub(super) fn guarded_until(&self, key: &[u8], now: Moment) -> Option<Moment> {
        self.guards.get(key)?.iter().map(|(_, ends)| *ends).filter(|ends| now < *ends).max()
    }

    pub(super) fn insert(
        &mut self,
        place: &Place,
        field: Option<&[u8]>,
        mut stored: Stored,
        space: &Arc<Space>,
        now: Moment,
    ) -> Result<Vec<Stored>> {
        self.serial += 1;
        stored.serial = self.serial;
        let record = self.records.get_or_make(place, space);
        let key = Arc::clone(&record.key);
        let mut gone = Vec::new();
        let name = match field {
            None => {
                gone.extend(record.plain.replace(stored));
                None
            }
            Some(field) => {
                let fields = record.fields.get_or_insert_default();
                if fields.len() >= FIELDS && !fields.contains_key(field) {
                    let epoch = stored.epoch;
                    gone.extend(fields.extract_if(|_, other| !other.lives(epoch, now)).map(|(_, other)| other));
                    if fields.len() >= FIELDS {
                        return Err(Error::invalid("a cache key has at most 4096 fields"));
                    }
                }
                let name: Arc<[u8]> = field.into();
                gone.extend(fields.insert(Arc::clone(&name), stored));
                Some(name)
            }
        };
        self.entries = (self.entries + 1).saturating_sub(gone.len());
        self.hand.push_back(HandItem { hash: place.hash, key, field: name, serial: self.serial });
        self.tidy_hand();
        Ok(gone)
    }

    pub(super) fn remove(&mut self, place: &Place, field: Option<&[u8]>) -> Vec<Stored> {
        let gone: Vec<Stored> = match field {
            None => self.records.remove(place.hash, place.key()).map(Record::into_all).into_iter().flatten().collect(),
            Some(_) => self.records.take(place.hash, place.key(), field).into_iter().collect(),
        };
        self.entries = self.entries.saturating_sub(gone.len());
        gone
    }

    /// Moves the clock hand over `steps` entries and takes out what is dead, or also what was not read since its last turn.
    pub(super) fn turn_hand(&mut self, steps: usize, now: Moment, evict: Evict) -> Vec<Stored> {
        let mut gone = Vec::new();
        for _ in 0..steps {
            let Some(item) = self.hand.pop_front() else { break };
            let Some(record) = self.records.at_mut(item.hash, &item.key) else { continue };
            let epoch = record.space.epoch();
            let field = item.field.as_deref();
            let Some(stored) = record.get_mut(field).filter(|stored| stored.serial == item.serial) else { continue };
            let alive = stored.lives(epoch, now);
            if alive && (evict == Evict::Dead || std::mem::take(&mut stored.touched)) {
                self.hand.push_back(item);
                continue;
            }
            gone.extend(self.records.take(item.hash, &item.key, field));
        }
        self.entries = self.entries.saturating_sub(gone.len());
        gone
    }

    /// Keeps leftovers from outnumbering what they point at.
    pub(super) fn tidy_hand(&mut self) {
        if self.hand.len() > 64 + 2 * self.entries {
            let records = &self.records;
            self.hand.retain(|item| {
                let stored = records.at(item.hash, &item.key).and_then(|record| record.get(item.field.as_deref()));
                stored.is_some_and(|stored| stored.serial == item.serial)
            });
        }
    }

    /// Drops ended leases and guards once their tables have doubled since the last time.
    pub(super) fn sweep(&mut self, now: Moment) {
        if self.leases.len() + self.guards.len() >= self.sweep_at.clamp(64, SHARD_LEASES) {
            self.sweep_now(now);
        }
    }

    pub(super) fn sweep_now(&mut self, now: Moment) {
        self.leases.retain(|_, lease| now < lease.ends);
        self.guards.retain(|_, owners| {
            owners.retain(|(_, ends)| now < *ends);
            !owners.is_empty()
        });
        self.sweep_at = 2 * (self.leases.len() + self.guards.len());
    }
}
