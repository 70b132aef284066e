//! A near copy of a shared cache, with bounded staleness.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_core::future::BoxFuture;

use crate::cache::{
    Age, CacheEngine, CacheStats, Decoded, Entry, Expiry, Filled, Filling, Flushed, GuardEnd, GuardOwner, Invalidation, Life, Near, Nonce,
    Promise, Reserved, Slot, Touched,
};
use crate::observe::Finding;
use crate::time::{Clock, Moment};
use crate::{Error, Result};

const BOUND_MIN: Duration = Duration::from_millis(10);
const BOUND_MAX: Duration = Duration::from_secs(60);
/// Bounds below this are kept by the exact clock.
const EXACT_BELOW: Duration = Duration::from_millis(200);
/// Length of the nonce before a near copy.
const NONCE: usize = 16;

/// An engine that serves fresh entries of a far one from a near one, each for at most `bound` after it was asked for.
///
/// A read may miss an invalidation by another process for `bound`, counted from the moment at which the far engine was asked (INV-2 holds
/// after that); [`Promise::staleness`] tells. Invalidations of this process hold at once here: they go through both. Leases, guards and
/// stale values are the far engine's alone. A near copy is filled under a near lease that is taken before the far read, so it never brings
/// back what was invalidated in between.
#[derive(Debug)]
pub struct Tiered {
    near: Arc<dyn CacheEngine>,
    far: Arc<dyn CacheEngine>,
    clock: Clock,
    bound: Duration,
}

impl Tiered {
    /// Puts an engine in this process before another; `bound` is 10 ms to 60 s.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the bound.
    pub fn new(near: Arc<dyn CacheEngine>, far: Arc<dyn CacheEngine>, clock: Clock, bound: Duration) -> Result<Self> {
        if !(BOUND_MIN..=BOUND_MAX).contains(&bound) {
            return Err(Error::invalid("a near cache is bounded by 10 ms to 60 s"));
        }
        Ok(Self { near, far, clock, bound })
    }

    /// Returns the near copy; one that cannot be read is none.
    async fn copy(&self, slot: Slot<'_>) -> Option<Entry> {
        Self::uncovered(self.near.lookup(slot).await.ok()??)
    }

    /// Makes a near copy the entry that it is a copy of.
    fn uncovered(mut entry: Entry) -> Option<Entry> {
        if matches!(entry.age, Age::Stale { .. }) {
            return None;
        }
        let (nonce, _) = entry.payload.split_first_chunk::<NONCE>()?;
        entry.nonce = Nonce::from_bytes(*nonce);
        entry.payload = entry.payload.slice(NONCE..);
        Some(entry)
    }

    async fn look(&self, slot: Slot<'_>) -> Result<Option<Entry>> {
        if let Some(entry) = self.copy(slot).await {
            return Ok(Some(entry));
        }
        // Taken before the far read: an invalidation in between kills it. One that is dropped ends by itself.
        let lease = match self.near.reserve(slot, self.bound, None).await {
            Ok(Reserved::Lease(nonce)) => Some(nonce),
            _ => None,
        };
        let asked = self.clock.now();
        let found = self.far.lookup(slot).await;
        let Some(lease) = lease else { return found };
        if let Ok(Some(Entry { payload, nonce, age: Age::Fresh { left } })) = &found {
            let ttl = (*left).min((asked + self.bound).left(self.clock.now()));
            if !ttl.is_zero() {
                let mut copy = BytesMut::with_capacity(NONCE + payload.len());
                copy.extend_from_slice(nonce.as_bytes());
                copy.extend_from_slice(payload);
                // A copy that is refused or lost costs a far read.
                let _ = self.near.commit(slot, lease, copy.freeze(), Life { ttl, grace: Duration::ZERO }).await;
                return found;
            }
        }
        let _ = self.near.abandon(slot, lease).await;
        found
    }

    /// Drops the near copies of a key before and after a far call; tells whether there was one.
    ///
    /// Before, so that no copy is served once the far one is gone; after, for copies of what was read in between.
    async fn around<T>(&self, slots: &[Slot<'_>], call: impl Future<Output = T>) -> Result<(bool, T)> {
        let before = self.forget(slots).await?;
        let answer = call.await;
        let after = self.forget(slots).await.map_err(Error::with_unknown_effect)?;
        Ok((before || after, answer))
    }

    async fn forget(&self, slots: &[Slot<'_>]) -> Result<bool> {
        let mut found = false;
        for slot in slots {
            found |= self.near.invalidate(*slot, Duration::ZERO).await? == Invalidation::Removed;
        }
        Ok(found)
    }
}

fn whole<'a>(namespace: &'a str, key: &'a [u8]) -> Slot<'a> {
    Slot { namespace, key, field: None }
}

impl CacheEngine for Tiered {
    fn name(&self) -> &'static str {
        self.far.name()
    }

    fn promise(&self) -> Promise {
        let far = self.far.promise();
        Promise { staleness: Some(far.staleness.unwrap_or_default() + self.bound), ..far }
    }

    /// Whether the near engine has values in this process is asked once a hit, by what reads them.
    fn near(&self, _: Slot<'_>) -> Option<&dyn Near> {
        Some(self)
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        Box::pin(self.look(slot))
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        self.far.reserve(slot, fill_ttl, instead_of)
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        Box::pin(async move { self.around(&[slot], self.far.commit(slot, nonce, payload, life)).await?.1 })
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        self.far.abandon(slot, nonce)
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        Box::pin(async move {
            let (was_near, answer) = self.around(&[slot], self.far.invalidate(slot, hold_off)).await?;
            let found = answer?;
            Ok(if was_near && found == Invalidation::Absent { Invalidation::Removed } else { found })
        })
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        Box::pin(async move { self.around(&[slot], self.far.expire(slot)).await?.1 })
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        Box::pin(async move { self.around(&[slot], self.far.touch(slot, ttl)).await?.1 })
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.far.fields(namespace, key)
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.around(&[whole(namespace, key)], self.far.guard(namespace, key, owner, ttl)).await?.1 })
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        self.far.guarded(namespace, key, owner)
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        Box::pin(async move { self.around(&[whole(namespace, key)], self.far.release(namespace, key, owner, hold_off)).await?.1 })
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        Box::pin(async move {
            self.near.flush(namespace).await?;
            let answer = self.far.flush(namespace).await;
            self.near.flush(namespace).await.map_err(Error::with_unknown_effect)?;
            answer
        })
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        Box::pin(async move {
            self.near.flush_all().await?;
            let answer = self.far.flush_all().await;
            self.near.flush_all().await.map_err(Error::with_unknown_effect)?;
            answer
        })
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        self.far.stats(namespace)
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.far.check()
    }

    /// Near copies are read, but only single lookups make new ones.
    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        Box::pin(async move {
            let (mut answers, mut missed) = (Vec::with_capacity(slots.len()), Vec::new());
            for slot in slots {
                let near = self.copy(*slot).await;
                if near.is_none() {
                    missed.push(*slot);
                }
                answers.push(Ok(near));
            }
            let mut far = self.far.lookup_many(&missed).await.into_iter();
            for answer in answers.iter_mut().filter(|answer| matches!(answer, Ok(None))) {
                *answer = far.next().unwrap_or_else(|| Err(Error::integrity("the far cache left a key of a batch out")));
            }
            answers
        })
    }

    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        Box::pin(async move {
            match self.around(slots, self.far.invalidate_many(slots, hold_off)).await {
                Ok((_, answers)) => answers,
                Err(error) => slots.iter().map(|_| Err(error.again())).collect(),
            }
        })
    }

    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        self.far.reserve_many(asked, fill_ttl)
    }

    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        Box::pin(async move {
            let slots: Vec<Slot<'_>> = fills.iter().map(|fill| fill.slot).collect();
            match self.around(&slots, self.far.commit_many(fills)).await {
                Ok((_, answers)) => answers,
                Err(error) => fills.iter().map(|_| Err(error.again())).collect(),
            }
        })
    }
}

impl Near for Tiered {
    /// How long a copy is served is a promise. The kernel's last tick and the longest one more is never early, and ends a copy at most 10 ms
    /// before its time: too much for short bounds, and not worth a quarter of a hit to know better for long ones.
    fn now(&self) -> Moment {
        if self.bound < EXACT_BELOW { self.clock.now() } else { self.clock.recent() }
    }

    fn decoded(&self, slot: Slot<'_>, now: Moment) -> Option<Decoded> {
        self.near.near(slot)?.decoded(slot, now)
    }

    fn entry(&self, slot: Slot<'_>) -> Option<Entry> {
        Self::uncovered(self.near.near(slot)?.entry(slot)?)
    }

    fn keep(&self, slot: Slot<'_>, payload: &Bytes, decoded: Decoded, weight: usize) {
        if let Some(near) = self.near.near(slot) {
            near.keep(slot, payload, decoded, weight);
        }
    }
}
