//! Bytes and opaque leases, for a server that keeps no state between two requests.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::codec::{self, Raw};
use super::detach::detached;
use super::handle::Cache;
use super::lease::{AWAY_RETRY, check_value};
use super::load::{POLL_MIN, poll_pause};
use super::options::check_ttl;
use super::outcome::{Age, BusyReason, Entry, Filled, Reserved};
use super::slot::{Nonce, Slot};
use crate::observe::Event;
use crate::{Error, Result, retry};

/// A cached value as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireHit {
    /// A value.
    Value {
        /// Its bytes.
        bytes: Bytes,
        /// Its media type; `application/json` for what Rust callers filled.
        content_type: String,
    },
    /// The cache remembers that the source has no such row.
    Absent,
}

/// What [`Cache::begin_wire`] found.
#[derive(Clone)]
#[must_use]
pub enum WireLookup {
    /// A fresh entry.
    Hit(WireHit),
    /// Nothing fresh; whoever holds `fill` may fill.
    Lease {
        /// The lease: opaque, secret, good for this namespace, key and field only.
        fill: String,
        /// Its life.
        ttl: Duration,
        /// The value before, if the options let a stale one be served.
        stale: Option<WireHit>,
    },
    /// Nothing fresh, and nobody may fill now.
    Busy {
        /// Why.
        reason: BusyReason,
        /// When that ends by itself at the latest.
        retry_after: Duration,
        /// The value before, if the options let a stale one be served.
        stale: Option<WireHit>,
    },
}

impl fmt::Debug for WireLookup {
    /// Leaves the lease out: who knows it may fill.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(hit) => f.debug_tuple("Hit").field(hit).finish(),
            Self::Lease { ttl, .. } => f.debug_struct("Lease").field("ttl", ttl).finish_non_exhaustive(),
            Self::Busy { reason, retry_after, .. } => {
                f.debug_struct("Busy").field("reason", reason).field("retry_after", retry_after).finish_non_exhaustive()
            }
        }
    }
}

impl Cache {
    /// Looks, on a miss takes the fill lease, and waits up to `wait` (at most 10 minutes) for somebody else's fill.
    ///
    /// Who has a stale value to serve under `stale_while_revalidate` does not wait.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): key, field or wait. An engine that is away is [`WireLookup::Busy`].
    ///
    /// # Cancel safety
    /// A lease that was taken for a dropped future ends by itself after `fill_ttl`.
    pub async fn begin_wire(&self, key: &[u8], field: Option<&[u8]>, wait: Duration) -> Result<WireLookup> {
        let slot = self.slot(key, field)?;
        if wait > Duration::from_secs(600) {
            return Err(Error::invalid("wait is at most 10 minutes"));
        }
        let Ok(entry) = self.calls.lookup(slot).await else { return Ok(self.wire_away(None)) };
        let (mut instead_of, mut stale, mut give_up) = (None, None, self.room.clock.now() + wait);
        if let Some(entry) = entry {
            match (Self::wire_hit(&entry), entry.age) {
                (Some(hit), Age::Fresh { .. }) => return Ok(WireLookup::Hit(self.seen(hit))),
                (Some(hit), Age::Stale { since }) => {
                    stale = Some(hit).filter(|_| self.options.serves_stale(since));
                    if self.options.serves_at_once(since) {
                        give_up = self.room.clock.now();
                    }
                }
                (None, _) => instead_of = Some(entry.nonce),
            }
        }
        let mut pause = poll_pause();
        loop {
            let (reason, retry_after) = match self.calls.reserve(slot, self.options.fill_ttl, instead_of).await {
                Ok(Reserved::Lease(nonce)) => {
                    return Ok(WireLookup::Lease { fill: hex::encode(nonce.as_bytes()), ttl: self.options.fill_ttl, stale });
                }
                Ok(Reserved::Hit(entry)) => match Self::wire_hit(&entry) {
                    Some(hit) => return Ok(WireLookup::Hit(self.seen(hit))),
                    None => (BusyReason::Loading, AWAY_RETRY),
                },
                Ok(Reserved::Busy { reason, retry_after }) => (reason, retry_after),
                Err(_) => return Ok(self.wire_away(stale)),
            };
            let now = self.room.clock.now();
            if reason != BusyReason::Loading || now >= give_up {
                return Ok(WireLookup::Busy { reason, retry_after, stale });
            }
            retry::sleep(&self.room.clock, pause.next().min(retry_after).max(POLL_MIN).min(give_up.left(now))).await;
        }
    }

    /// Stores bytes under a lease of [`Cache::begin_wire`]; `None` as ttl is the handle's `ttl`.
    ///
    /// May be sent twice with the same lease, so that a lost answer can be asked for again: as long as the entry stands the second answer
    /// is `Stored`, too, and nothing is written, whatever bytes came with it. A lease is good for one value. Bytes sent as
    /// `application/json` are kept as they are, and read as JSON by Rust callers.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): key, field, a lease that is none, ttl, content type, or a value above `value_limit`.
    /// A lease of another slot or server is no error but [`Filled::Superseded`]. [`Kind::Backend`](crate::Kind::Backend): see its effect.
    pub async fn commit_wire(
        &self,
        key: &[u8],
        field: Option<&[u8]>,
        fill: &str,
        bytes: &[u8],
        content_type: &str,
        ttl: Option<Duration>,
    ) -> Result<Filled> {
        check_value(self, bytes.len())?;
        let payload = codec::encode_raw(bytes, content_type)?;
        self.commit_payload(self.slot(key, field)?, fill, payload, ttl.unwrap_or(self.options.ttl)).await
    }

    /// Remembers an absence under a lease of [`Cache::begin_wire`]; `None` as ttl is the handle's `negative_ttl`.
    ///
    /// # Errors
    /// As [`Cache::commit_wire`].
    pub async fn commit_absent_wire(&self, key: &[u8], field: Option<&[u8]>, fill: &str, ttl: Option<Duration>) -> Result<Filled> {
        self.commit_payload(self.slot(key, field)?, fill, codec::absence(), ttl.unwrap_or(self.options.negative_ttl)).await
    }

    /// Gives a lease of [`Cache::begin_wire`] back; one that has ended already is no error.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): key, field or a lease that is none. [`Kind::Backend`](crate::Kind::Backend): the engine is away.
    pub async fn abandon_wire(&self, key: &[u8], field: Option<&[u8]>, fill: &str) -> Result<()> {
        let (slot, nonce, calls) = (self.own(self.slot(key, field)?), parse_fill(fill)?, self.calls.clone());
        self.observe(&Event::CacheFill { result: "abandoned" });
        detached(async move { calls.abandon(slot.as_slot(), nonce).await }).await.map_err(|error| error.during("abandon"))
    }

    /// Returns what is cached and fresh as bytes; never takes a lease.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): key or field. [`Kind::Backend`](crate::Kind::Backend): the engine is away.
    pub async fn peek(&self, key: &[u8], field: Option<&[u8]>) -> Result<Option<WireHit>> {
        let entry = self.calls.lookup(self.slot(key, field)?).await.map_err(|error| error.during("get"))?;
        let fresh = entry.filter(|entry| matches!(entry.age, Age::Fresh { .. }));
        Ok(fresh.and_then(|entry| Self::wire_hit(&entry)).map(|hit| self.seen(hit)))
    }

    async fn commit_payload(&self, slot: Slot<'_>, fill: &str, payload: Bytes, ttl: Duration) -> Result<Filled> {
        check_ttl(ttl)?;
        let nonce = parse_fill(fill)?;
        let result = self.calls.commit(slot, nonce, payload, self.options.life(ttl)).await;
        let label = match &result {
            Ok(Filled::Stored) => "stored",
            Ok(Filled::Superseded { .. }) => "superseded",
            Err(_) => "failed",
        };
        self.observe(&Event::CacheFill { result: label });
        result.map_err(|error| error.during("commit"))
    }

    fn wire_hit(entry: &Entry) -> Option<WireHit> {
        Some(match codec::decode_raw(&entry.payload)? {
            Raw::Absence => WireHit::Absent,
            Raw::Value { bytes, content_type } => WireHit::Value { bytes, content_type },
        })
    }

    fn seen(&self, hit: WireHit) -> WireHit {
        self.observe(&Event::CacheLoad { result: if hit == WireHit::Absent { "negative" } else { "hit" } });
        hit
    }

    fn wire_away(&self, stale: Option<WireHit>) -> WireLookup {
        WireLookup::Busy { reason: BusyReason::Away, retry_after: AWAY_RETRY, stale }
    }
}

pub(super) fn parse_fill(fill: &str) -> Result<Nonce> {
    let mut nonce = [0; 16];
    hex::decode_to_slice(fill, &mut nonce).map_err(|_| Error::invalid("a fill lease is 32 hex digits, as it was given"))?;
    Ok(Nonce::from_bytes(nonce))
}
