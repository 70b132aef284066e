//! The table of one shard: what is kept of a key, found by a hash that the engine has already.
//!
//! One hash of namespace and key picks the shard and serves this table, and a hit compares the slot where it lies: no copy, no second table for
//! namespaces. That is most of what a hit costs.

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashTable;

use super::cache_shard::{Place, Space, Stored};
use crate::cache::Slot;

/// Length of the number of a namespace before a key.
const PREFIX: usize = 8;

/// What is kept of one key.
#[derive(Debug)]
pub(super) struct Record {
    hash: u64,
    /// The number of the namespace, then the key.
    pub(super) key: Arc<[u8]>,
    pub(super) space: Arc<Space>,
    pub(super) plain: Option<Stored>,
    /// Apart, since few keys have any: what a hit does not look at is in its way.
    pub(super) fields: Option<Box<Fields>>,
}

/// The fields of a key.
pub(super) type Fields = HashMap<Arc<[u8]>, Stored>;

impl Record {
    pub(super) fn get(&self, field: Option<&[u8]>) -> Option<&Stored> {
        match field {
            None => self.plain.as_ref(),
            Some(field) => self.fields.as_ref()?.get(field),
        }
    }

    pub(super) fn get_mut(&mut self, field: Option<&[u8]>) -> Option<&mut Stored> {
        match field {
            None => self.plain.as_mut(),
            Some(field) => self.fields.as_mut()?.get_mut(field),
        }
    }

    /// Goes over the one field; without a field over the plain value and all fields.
    pub(super) fn some_mut(&mut self, field: Option<&[u8]>) -> impl Iterator<Item = &mut Stored> {
        let fields = self.fields.as_deref_mut();
        let (one, others) = match field {
            None => (self.plain.as_mut(), fields.map(Fields::values_mut)),
            Some(field) => (fields.and_then(|fields| fields.get_mut(field)), None),
        };
        one.into_iter().chain(others.into_iter().flatten())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.plain.iter().chain(self.fields.iter().flat_map(|fields| fields.values()))
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = Stored> {
        self.plain.into_iter().chain(self.fields.into_iter().flat_map(|fields| fields.into_values()))
    }

    fn is(&self, slot: Slot<'_>) -> bool {
        self.key.get(PREFIX..).is_some_and(|key| key == slot.key) && *self.space.name == *slot.namespace
    }
}

/// Records by key.
#[derive(Debug, Default)]
pub(super) struct Records(HashTable<Record>);

impl Records {
    pub(super) fn of_mut(&mut self, slot: Slot<'_>, hash: u64) -> Option<&mut Record> {
        self.0.find_mut(hash, |record| record.is(slot))
    }

    pub(super) fn at(&self, hash: u64, key: &[u8]) -> Option<&Record> {
        self.0.find(hash, |record| *record.key == *key)
    }

    pub(super) fn at_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Record> {
        self.0.find_mut(hash, |record| *record.key == *key)
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Record> {
        self.at(place.hash, place.key())
    }

    pub(super) fn get_mut(&mut self, place: &Place) -> Option<&mut Record> {
        self.at_mut(place.hash, place.key())
    }

    pub(super) fn get_or_make(&mut self, place: &Place, space: &Arc<Space>) -> &mut Record {
        let make = || Record { hash: place.hash, key: place.key().into(), space: Arc::clone(space), plain: None, fields: None };
        self.0.entry(place.hash, |record| *record.key == *place.key(), |record| record.hash).or_insert_with(make).into_mut()
    }

    /// Takes the plain value or the field out, and the record too if nothing else is in it.
    pub(super) fn take(&mut self, hash: u64, key: &[u8], field: Option<&[u8]>) -> Option<Stored> {
        let record = self.at_mut(hash, key)?;
        let gone = match field {
            None => record.plain.take(),
            Some(field) => record.fields.as_mut().and_then(|fields| fields.remove(field)),
        };
        if record.plain.is_none() && record.fields.as_ref().is_none_or(|fields| fields.is_empty()) {
            self.remove(hash, key);
        }
        gone
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Record> {
        let found = self.0.find_entry(hash, |record| *record.key == *key).ok()?;
        Some(found.remove().0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.0.iter()
    }
}
