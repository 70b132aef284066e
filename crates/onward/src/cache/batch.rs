//! Many keys in one call: one answer a key, in the order of the keys, with no atomicity across keys.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use super::detach::detached;
use super::engine::Filling;
use super::handle::Cache;
use super::lease::{self, Lease, Lookup, check_value};
use super::outcome::{Filled, Invalidation};
use super::slot::{Slot, SlotBuf};
use crate::{Error, Result};

/// Most keys of one call.
const BATCH_KEYS: usize = 1_024;

impl Cache {
    /// As [`Cache::get`], for up to 1,024 keys in one call to the engine.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): too many keys, or one that is not 1..=512 bytes; nothing was asked. Each answer may be an
    /// error of its own.
    pub async fn get_many<T: DeserializeOwned, K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Result<Option<Option<T>>>>> {
        let slots = self.slots(keys)?;
        let entries = self.calls.lookup_many(&slots).await;
        let read = |entry: Result<_>| entry.map(Self::fresh).map_err(|error| error.during("get_many"));
        Ok(entries.into_iter().map(read).collect())
    }

    /// As [`Cache::begin`], for up to 1,024 keys in two calls to the engine. Of a key named twice one place gets the lease.
    ///
    /// # Errors
    /// As [`Cache::get_many`]; an engine that is away is [`Lookup::Busy`] for each key.
    pub async fn begin_many<T: DeserializeOwned, K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Lookup<T>>> {
        lease::begin_many(self, &self.slots(keys)?).await
    }

    /// As [`Lease::commit`], for up to 1,024 leases of this cache in one call to the engine.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): too many leases; all are given back. Each answer may be an error of its own, as those of
    /// [`Lease::commit`], also for a lease of another cache.
    ///
    /// # Cancel safety
    /// As [`Lease::commit`].
    pub async fn commit_many<T: Serialize>(&self, fills: Vec<(Lease<T>, &T)>) -> Result<Vec<Result<Filled>>> {
        check_len(fills.len())?;
        let life = self.options.life(self.options.ttl);
        // What is refused here drops its lease, which gives it back.
        let encoded = fills.into_iter().map(|(lease, value)| {
            if !Arc::ptr_eq(&lease.cache.room, &self.room) {
                return Err(Error::invalid("a lease of another cache").during("commit_many"));
            }
            let payload = codec::encode(Some(value)).ok_or_else(|| Error::invalid("the value cannot be encoded as JSON"))?;
            check_value(self, codec::value_len(&payload))?;
            Ok((lease.held, payload))
        });
        let encoded: Vec<Result<_>> = encoded.collect();
        let sent = encoded.iter().flatten();
        let sent = sent.map(|(held, payload)| Filling { slot: held.slot.as_slot(), nonce: held.nonce, payload: payload.clone(), life });
        let mut answers = self.calls.commit_many(&sent.collect::<Vec<_>>()).await.into_iter();
        let settled = encoded.into_iter().map(|fill| {
            let (held, _) = fill?;
            held.settle(answers.next().unwrap_or_else(|| Err(Error::integrity("a fill of the batch has no answer"))))
        });
        Ok(settled.collect())
    }

    /// As [`Cache::invalidate`], for up to 1,024 keys in one call to the engine.
    ///
    /// # Errors
    /// As [`Cache::get_many`]. An answer that is an error concerns its key alone: see its effect, and call again.
    ///
    /// # Cancel safety
    /// Once polled it runs to its end, also if the future is dropped (C6).
    pub async fn invalidate_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Result<Invalidation>>> {
        let slots: Vec<SlotBuf> = self.slots(keys)?.into_iter().map(|slot| self.own(slot)).collect();
        let (calls, hold_off) = (self.calls.clone(), self.options.hold_off.unwrap_or_default());
        let call = async move {
            let slots: Vec<Slot<'_>> = slots.iter().map(SlotBuf::as_slot).collect();
            Ok(calls.invalidate_many(&slots, hold_off).await)
        };
        Ok(detached(call).await?.into_iter().map(|answer| self.invalidated(answer, "invalidate_many")).collect())
    }

    fn slots<'a, K: AsRef<[u8]>>(&'a self, keys: &'a [K]) -> Result<Vec<Slot<'a>>> {
        check_len(keys.len())?;
        keys.iter().map(|key| self.slot(key.as_ref(), None)).collect()
    }
}

pub(super) fn check_len(len: usize) -> Result<()> {
    if len > BATCH_KEYS {
        return Err(Error::invalid(format!("a batch has at most {BATCH_KEYS} keys")));
    }
    Ok(())
}
