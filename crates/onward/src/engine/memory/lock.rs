//! Leases in this process: the reference model of every lock engine.
//!
//! Excludes no other process and says so. Exempt from C4: the counter begins anew with the process, at the clock.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;

use crate::Result;
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Owner, Release, Renewal, Renewed, Tried};
use crate::model::{FencingToken, LockKey, above};
use crate::time::{Clock, Moment, Timestamp};

const SHARDS: usize = 64;

/// A shard forgets ended leases when it has grown to this, or to twice what was alive at the last time.
const SWEEP_LEAST: usize = 64;

/// Leases in this process.
#[derive(Debug)]
pub struct MemoryLocks {
    clock: Clock,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    last_token: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    leases: HashMap<LockKey, Lease>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Lease {
    owner: Owner,
    holder: Arc<str>,
    token: FencingToken,
    until: Moment,
    since: Timestamp,
}

impl MemoryLocks {
    /// Makes an engine without leases.
    pub fn new(clock: Clock) -> Self {
        Self { clock, hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()), last_token: AtomicU64::new(0) }
    }

    fn shard(&self, key: &LockKey) -> &Mutex<Shard> {
        let place = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        // The remainder is a place.
        &self.shards[place % SHARDS]
    }

    fn token(&self, wall: Timestamp) -> Result<FencingToken> {
        let clock_us = u64::try_from(wall.as_micros()).unwrap_or(0);
        let last = self.last_token.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(above(last, clock_us)));
        FencingToken::new(above(last.unwrap_or_else(|last| last), clock_us))
    }

    fn try_one(&self, ask: Ask) -> Result<Tried> {
        let mut shard = self.shard(&ask.key).lock();
        let now = self.clock.now();
        if shard.leases.len() >= shard.sweep_at.max(SWEEP_LEAST) {
            shard.leases.retain(|_, lease| lease.until > now);
            shard.sweep_at = shard.leases.len() * 2;
        }
        let entry = shard.leases.entry(ask.key);
        if let Entry::Occupied(found) = &entry {
            let lease = found.get();
            if lease.until > now {
                let remaining = lease.until.left(now);
                return Ok(if lease.owner == ask.owner {
                    Tried::Granted { token: lease.token, remaining, already_ours: true }
                } else {
                    Tried::Busy { remaining: Some(remaining) }
                });
            }
        }
        let since = self.clock.wall();
        let token = self.token(since)?;
        entry.insert_entry(Lease { owner: ask.owner, holder: ask.holder, token, until: now + ask.ttl, since });
        Ok(Tried::Granted { token, remaining: ask.ttl, already_ours: false })
    }

    fn renew_one(&self, renewal: &Renewal) -> Option<Renewed> {
        let mut shard = self.shard(&renewal.key).lock();
        let now = self.clock.now();
        let lease = shard.leases.get_mut(&renewal.key).filter(|lease| lease.owner == renewal.owner && lease.until > now)?;
        lease.until = lease.until.max(now + renewal.ttl);
        Some(Renewed { token: lease.token, remaining: lease.until.left(now) })
    }

    fn release_one(&self, claim: Claim) -> Release {
        let mut shard = self.shard(&claim.key).lock();
        let now = self.clock.now();
        let Entry::Occupied(mut found) = shard.leases.entry(claim.key) else { return Release::AlreadyLost };
        if found.get().owner != claim.owner {
            return Release::AlreadyLost;
        }
        let live = found.get().until > now;
        if live && !claim.keep.is_zero() {
            let lease = found.get_mut();
            lease.owner = Owner::draw();
            lease.until = now + claim.keep;
        } else {
            found.remove();
        }
        if live { Release::Released } else { Release::AlreadyLost }
    }

    fn read(&self, key: &LockKey) -> Option<LeaseRow> {
        let shard = self.shard(key).lock();
        let now = self.clock.now();
        shard.leases.get(key).filter(|lease| lease.until > now).map(|lease| lease.row(now))
    }

    fn page(&self, prefix: &str, after: Option<&LockKey>, limit: usize) -> Vec<(LockKey, LeaseRow)> {
        let now = self.clock.now();
        let mut page = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let wanted = shard
                .leases
                .iter()
                .filter(|(key, lease)| lease.until > now && key.as_str().starts_with(prefix) && after.is_none_or(|after| *key > after));
            page.extend(wanted.map(|(key, lease)| (key.clone(), lease.row(now))));
        }
        page.sort_by(|a, b| a.0.cmp(&b.0));
        page.truncate(limit);
        page
    }

    fn take(&self, ask: Ask) -> Result<Option<FencingToken>> {
        let mut shard = self.shard(&ask.key).lock();
        let now = self.clock.now();
        let Some(lease) = shard.leases.get_mut(&ask.key).filter(|lease| lease.until > now) else { return Ok(None) };
        if lease.owner != ask.owner {
            let since = self.clock.wall();
            let token = self.token(since)?;
            *lease = Lease { owner: ask.owner, holder: ask.holder, token, until: now + ask.ttl, since };
        }
        Ok(Some(lease.token))
    }
}

impl Lease {
    fn row(&self, now: Moment) -> LeaseRow {
        LeaseRow {
            owner: self.owner,
            holder: Arc::clone(&self.holder),
            token: Some(self.token),
            remaining: Some(self.until.left(now)),
            since: self.since,
        }
    }
}

impl LockEngine for MemoryLocks {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: false, look_again: Duration::from_millis(250) }
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(async move { self.try_one(ask) })
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(async move { Ok(batch.iter().map(|renewal| self.renew_one(renewal)).collect()) })
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        Box::pin(async move { Ok(batch.into_iter().map(|claim| self.release_one(claim)).collect()) })
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(async move { Ok(self.read(&key)) })
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(async move { Ok(self.page(&prefix, after.as_ref(), limit)) })
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        Box::pin(async move { self.take(ask) })
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.last_token.fetch_max(newest.get(), Ordering::AcqRel);
            Ok(())
        })
    }
}
