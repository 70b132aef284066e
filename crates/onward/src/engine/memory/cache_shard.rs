//! One shard of the memory cache: maps, the clock hand over them, and what lives or is dead. No locks, no clock.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::cache::{Age, Entry, GuardOwner, Life, Nonce};
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
    own: AtomicU64,
    all: Arc<AtomicU64>,
}

impl Space {
    pub(super) fn new(id: u64, all: Arc<AtomicU64>) -> Self {
        Self { id, own: AtomicU64::new(0), all }
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
    pub(super) records: HashMap<Arc<[u8]>, Record>,
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
    key: Arc<[u8]>,
    field: Option<Arc<[u8]>>,
    serial: u64,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    space: Option<Arc<Space>>,
    plain: Option<Stored>,
    pub(super) fields: HashMap<Arc<[u8]>, Stored>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) payload: Bytes,
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

impl Record {
    pub(super) fn get_mut(&mut self, field: Option<&[u8]>) -> Option<&mut Stored> {
        match field {
            None => self.plain.as_mut(),
            Some(field) => self.fields.get_mut(field),
        }
    }

    pub(super) fn take(&mut self, field: Option<&[u8]>) -> Option<Stored> {
        match field {
            None => self.plain.take(),
            Some(field) => self.fields.remove(field),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_none() && self.fields.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.plain.iter().chain(self.fields.values())
    }
}

/// A key inside its namespace, without an allocation: 8 bytes of namespace, then the key.
pub(super) struct Place {
    pub(super) bytes: [u8; 8 + KEY_BYTES],
    pub(super) len: usize,
    pub(super) hash: u64,
}

impl Place {
    pub(super) fn new(space: u64, key: &[u8]) -> Result<Self> {
        let mut bytes = [0; 8 + KEY_BYTES];
        let (name, rest) = bytes.split_at_mut(8);
        name.copy_from_slice(&space.to_le_bytes());
        let room = rest.get_mut(..key.len()).ok_or_else(|| Error::invalid_key("a cache key is 1..=512 bytes"))?;
        room.copy_from_slice(key);
        let mut place = Self { bytes, len: 8 + key.len(), hash: 0 };
        // Without a seed, so that a run can be repeated; the maps in the shards have one against chosen keys.
        place.hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(place.key());
        Ok(place)
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
    pub(super) fn live(&mut self, key: &[u8], field: Option<&[u8]>, epoch: u64, now: Moment) -> Option<Entry> {
        let stored = self.records.get_mut(key)?.get_mut(field)?;
        if !stored.lives(epoch, now) {
            return None;
        }
        stored.touched = true;
        Some(Entry { payload: stored.payload.clone(), nonce: stored.nonce, age: stored.age(now) })
    }

    /// Ends the freshness of the one field, or of all that a key has; tells whether something is kept.
    pub(super) fn expire(&mut self, key: &[u8], field: Option<&[u8]>, epoch: u64, now: Moment) -> bool {
        let Some(record) = self.records.get_mut(key) else { return false };
        let (named, others) = match field {
            Some(_) => (record.get_mut(field), None),
            None => (record.plain.as_mut(), Some(record.fields.values_mut())),
        };
        let mut kept = false;
        for stored in named.into_iter().chain(others.into_iter().flatten()).filter(|stored| stored.lives(epoch, now)) {
            stored.expire(now);
            kept = true;
        }
        kept
    }

    /// Gives a fresh entry a new time as fresh; tells whether there was one.
    pub(super) fn touch(&mut self, key: &[u8], field: Option<&[u8]>, epoch: u64, now: Moment, ttl: Duration) -> bool {
        let stored = self.records.get_mut(key).and_then(|record| record.get_mut(field));
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
        let key = self.records.get_key_value(place.key()).map_or_else(|| Arc::from(place.key()), |(key, _)| Arc::clone(key));
        let record = self.records.entry(Arc::clone(&key)).or_default();
        record.space.get_or_insert_with(|| Arc::clone(space));
        let mut gone = Vec::new();
        let name = match field {
            None => {
                gone.extend(record.plain.replace(stored));
                None
            }
            Some(field) => {
                if record.fields.len() >= FIELDS && !record.fields.contains_key(field) {
                    let epoch = stored.epoch;
                    gone.extend(record.fields.extract_if(|_, other| !other.lives(epoch, now)).map(|(_, other)| other));
                    if record.fields.len() >= FIELDS {
                        return Err(Error::invalid("a cache key has at most 4096 fields"));
                    }
                }
                let name: Arc<[u8]> = field.into();
                gone.extend(record.fields.insert(Arc::clone(&name), stored));
                Some(name)
            }
        };
        self.entries = (self.entries + 1).saturating_sub(gone.len());
        self.hand.push_back(HandItem { key, field: name, serial: self.serial });
        self.tidy_hand();
        Ok(gone)
    }

    pub(super) fn remove(&mut self, key: &[u8], field: Option<&[u8]>) -> Vec<Stored> {
        let Some(record) = self.records.get_mut(key) else { return Vec::new() };
        let gone = record.take(field);
        if record.is_empty() {
            self.records.remove(key);
        }
        self.entries = self.entries.saturating_sub(usize::from(gone.is_some()));
        gone.into_iter().collect()
    }

    pub(super) fn remove_all(&mut self, key: &[u8]) -> Vec<Stored> {
        let Some(record) = self.records.remove(key) else { return Vec::new() };
        let gone: Vec<Stored> = record.plain.into_iter().chain(record.fields.into_values()).collect();
        self.entries = self.entries.saturating_sub(gone.len());
        gone
    }

    /// Moves the clock hand over `steps` entries and takes out what is dead, or also what was not read since its last turn.
    pub(super) fn turn_hand(&mut self, steps: usize, now: Moment, evict: Evict) -> Vec<Stored> {
        let mut gone = Vec::new();
        for _ in 0..steps {
            let Some(item) = self.hand.pop_front() else { break };
            let Some(record) = self.records.get_mut(&item.key) else { continue };
            let epoch = record.space.as_ref().map_or(0, |space| space.epoch());
            let field = item.field.as_deref();
            let Some(stored) = record.get_mut(field).filter(|stored| stored.serial == item.serial) else { continue };
            let alive = stored.lives(epoch, now);
            if alive && (evict == Evict::Dead || std::mem::take(&mut stored.touched)) {
                self.hand.push_back(item);
                continue;
            }
            gone.extend(record.take(field));
            if record.is_empty() {
                self.records.remove(&item.key);
            }
        }
        self.entries = self.entries.saturating_sub(gone.len());
        gone
    }

    /// Keeps leftovers from outnumbering what they point at.
    pub(super) fn tidy_hand(&mut self) {
        if self.hand.len() > 64 + 2 * self.entries {
            let records = &self.records;
            self.hand.retain(|item| {
                let stored = records.get(&item.key).and_then(|record| match &item.field {
                    None => record.plain.as_ref(),
                    Some(field) => record.fields.get(field),
                });
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
