//! Spreads keys over several engines.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use super::all;
use crate::cache::{
    CacheEngine, CacheStats, Entry, Expiry, Filled, Filling, Flushed, GuardEnd, GuardOwner, Invalidation, Layout, Life, Near, Nonce,
    Promise, Reserved, Slot, Touched,
};
use crate::observe::Finding;
use crate::{Effect, Error, Result};

/// Most shards of one cache.
const SHARDS: usize = 1_024;

/// An engine that keeps each key, with its fields, leases and guards, on one of several engines.
///
/// The shard is chosen by rendezvous hashing of the shards' names and the key: the same in every process and in any order of the shards, and
/// a new shard takes its share of keys from all others. All processes must name the same shards: two maps at once lose invalidations.
#[derive(Debug)]
pub struct Sharded {
    first: Shard,
    others: Vec<Shard>,
    map: Map,
}

/// How the shard of a key is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    Rendezvous,
    Crc32(Layout),
}

#[derive(Debug)]
struct Shard {
    hash: u64,
    engine: Arc<dyn CacheEngine>,
}

impl Sharded {
    /// Puts named engines together, 1..=1024.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): no shard, too many, or a name that is empty or used twice.
    pub fn new<N: AsRef<str>>(shards: impl IntoIterator<Item = (N, Arc<dyn CacheEngine>)>) -> Result<Self> {
        let mut names = HashSet::new();
        let mut made = Vec::new();
        for (name, engine) in shards {
            let name = name.as_ref();
            if name.is_empty() || !names.insert(name.to_owned()) {
                return Err(Error::invalid("each shard of a cache has a name of its own"));
            }
            made.push(Shard { hash: mix(fnv(name.as_bytes(), FNV_BASIS)), engine });
        }
        if made.is_empty() || made.len() > SHARDS {
            return Err(Error::invalid(format!("a cache has 1..={SHARDS} shards")));
        }
        let first = made.remove(0);
        Ok(Self { first, others: made, map: Map::Rendezvous })
    }

    /// As [`Sharded::new`], but a key's shard is the CRC-32 of the name that PHP's side of a layout has for it, modulo the number of shards:
    /// their order counts.
    ///
    /// So does the PHP library utopia-php/cache choose, whose servers these then are. One shard more moves nearly every key.
    ///
    /// # Errors
    /// As [`Sharded::new`].
    pub fn by_crc32<N: AsRef<str>>(shards: impl IntoIterator<Item = (N, Arc<dyn CacheEngine>)>, layout: Layout) -> Result<Self> {
        Ok(Self { map: Map::Crc32(layout), ..Self::new(shards)? })
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn of(&self, namespace: &str, key: &[u8]) -> &Shard {
        if let Map::Crc32(layout) = self.map {
            let place = crc32(&layout.name_in_php(key).unwrap_or(key.into())) as usize % (self.others.len() + 1);
            return self.shards().nth(place).unwrap_or(&self.first);
        }
        // A namespace is ASCII, so this byte ends it.
        let key = fnv(key, fnv(&[0xff], fnv(namespace.as_bytes(), FNV_BASIS)));
        let score = |shard: &Shard| mix(shard.hash ^ key);
        self.others.iter().fold(&self.first, |best, shard| if score(shard) > score(best) { shard } else { best })
    }

    fn at(&self, slot: Slot<'_>) -> &dyn CacheEngine {
        &*self.of(slot.namespace, slot.key).engine
    }

    /// Asks each shard for its part of a batch, all at once.
    async fn spread<'a, A: Clone, T>(
        &'a self,
        asked: &'a [A],
        slot: impl Fn(&A) -> Slot<'a>,
        call: impl Fn(&'a dyn CacheEngine, Vec<A>) -> BoxFuture<'a, Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        let (mut places, mut calls) = (Vec::new(), Vec::new());
        for shard in self.shards() {
            let is_here = |one: &A| std::ptr::eq(self.of(slot(one).namespace, slot(one).key), shard);
            let here: Vec<usize> = asked.iter().enumerate().filter(|(_, one)| is_here(one)).map(|(place, _)| place).collect();
            if !here.is_empty() {
                calls.push(call(&*shard.engine, here.iter().filter_map(|place| asked.get(*place).cloned()).collect()));
                places.push(here);
            }
        }
        let mut answers: Vec<Result<T>> = asked.iter().map(|_| Err(Error::integrity("a shard left a key of a batch out"))).collect();
        for (here, answered) in places.into_iter().zip(all(calls).await) {
            for (place, answer) in here.into_iter().zip(answered) {
                if let Some(free) = answers.get_mut(place) {
                    *free = answer;
                }
            }
        }
        answers
    }

    /// Flushes every shard; if one fails, the others may be flushed.
    async fn flush_each<'a>(&'a self, flush: impl Fn(&'a dyn CacheEngine) -> BoxFuture<'a, Result<Flushed>>) -> Result<Flushed> {
        let ends = all(self.shards().map(|shard| flush(&*shard.engine)).collect()).await;
        let applied = ends.iter().any(|end| !matches!(end, Err(error) if error.effect() == Effect::NotApplied));
        let mut flushed = Flushed::Flushed;
        for end in ends {
            match end {
                Ok(Flushed::Flushed) => {}
                Ok(Flushed::Queued) => flushed = Flushed::Queued,
                Err(error) => return Err(if applied { error.with_unknown_effect() } else { error }),
            }
        }
        Ok(flushed)
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: the same in every process and version.
fn fnv(bytes: &[u8], basis: u64) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 })
    })
}

/// Spreads the bits, as the last step of splitmix64 does.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl CacheEngine for Sharded {
    fn name(&self) -> &'static str {
        self.first.engine.name()
    }

    fn promise(&self) -> Promise {
        let all = self.others.iter().map(|shard| shard.engine.promise());
        all.fold(self.first.engine.promise(), |one, other| Promise {
            scope: one.scope.min(other.scope),
            staleness: one.staleness.max(other.staleness),
            foreign_writers: one.foreign_writers || other.foreign_writers,
        })
    }

    fn near(&self, slot: Slot<'_>) -> Option<&dyn Near> {
        self.at(slot).near(slot)
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.at(slot).lookup(slot)
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        self.at(slot).reserve(slot, fill_ttl, instead_of)
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        self.at(slot).commit(slot, nonce, payload, life)
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        self.at(slot).abandon(slot, nonce)
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        self.at(slot).invalidate(slot, hold_off)
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        self.at(slot).expire(slot)
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        self.at(slot).touch(slot, ttl)
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.of(namespace, key).engine.fields(namespace, key)
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        self.of(namespace, key).engine.guard(namespace, key, owner, ttl)
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        self.of(namespace, key).engine.guarded(namespace, key, owner)
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        self.of(namespace, key).engine.release(namespace, key, owner, hold_off)
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        Box::pin(self.flush_each(move |engine| engine.flush(namespace)))
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        Box::pin(self.flush_each(|engine| engine.flush_all()))
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        Box::pin(async move {
            let mut sum = CacheStats::default();
            for stats in all(self.shards().map(|shard| shard.engine.stats(namespace)).collect()).await {
                let stats = stats?;
                sum.entries += stats.entries;
                sum.bytes += stats.bytes;
                sum.reservations += stats.reservations;
                sum.guarded += stats.guarded;
            }
            Ok(sum)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(async move {
            let mut findings = Vec::new();
            for shard in self.shards() {
                findings.extend(shard.engine.check().await?);
            }
            Ok(findings)
        })
    }

    fn lookup_many<'a>(&'a self, slots: &'a [Slot<'a>]) -> BoxFuture<'a, Vec<Result<Option<Entry>>>> {
        Box::pin(self.spread(slots, |slot| *slot, |engine, here| Box::pin(async move { engine.lookup_many(&here).await })))
    }

    fn reserve_many<'a>(&'a self, asked: &'a [(Slot<'a>, Option<Nonce>)], fill_ttl: Duration) -> BoxFuture<'a, Vec<Result<Reserved>>> {
        let call = move |engine: &'a dyn CacheEngine, here: Vec<_>| -> BoxFuture<'a, _> {
            Box::pin(async move { engine.reserve_many(&here, fill_ttl).await })
        };
        Box::pin(self.spread(asked, |(slot, _)| *slot, call))
    }

    fn commit_many<'a>(&'a self, fills: &'a [Filling<'a>]) -> BoxFuture<'a, Vec<Result<Filled>>> {
        Box::pin(self.spread(fills, |fill| fill.slot, |engine, here| Box::pin(async move { engine.commit_many(&here).await })))
    }

    fn invalidate_many<'a>(&'a self, slots: &'a [Slot<'a>], hold_off: Duration) -> BoxFuture<'a, Vec<Result<Invalidation>>> {
        let call = move |engine: &'a dyn CacheEngine, here: Vec<_>| -> BoxFuture<'a, _> {
            Box::pin(async move { engine.invalidate_many(&here, hold_off).await })
        };
        Box::pin(self.spread(slots, |slot| *slot, call))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryCache;
    use crate::time::Clock;

    fn sharded(names: &[&str]) -> Sharded {
        let engine = || Arc::new(MemoryCache::new(Clock::manual())) as Arc<dyn CacheEngine>;
        Sharded::new(names.iter().map(|name| (*name, engine()))).unwrap()
    }

    fn place(cache: &Sharded, key: u32) -> u64 {
        cache.of("default", &key.to_le_bytes()).hash
    }

    #[test]
    fn the_order_of_shards_does_not_count_and_a_new_one_takes_only_its_share() {
        let (abc, cab, abcd) = (sharded(&["a", "b", "c"]), sharded(&["c", "a", "b"]), sharded(&["a", "b", "c", "d"]));
        let (mut moved, new) = (0, sharded(&["d"]).first.hash);
        for key in 0..4_000 {
            assert_eq!(place(&abc, key), place(&cab, key));
            if place(&abc, key) != place(&abcd, key) {
                assert_eq!(place(&abcd, key), new, "a key moved between old shards");
                moved += 1;
            }
        }
        assert!((800..1_200).contains(&moved), "{moved} of 4000 keys moved to the fourth shard");
    }

    #[test]
    fn the_place_of_a_key_is_frozen() {
        let cache = sharded(&["a", "b", "c"]);
        let places: Vec<u64> = (0..16).map(|key| place(&cache, key)).collect();
        let names = ["a", "b", "c"].map(|name| mix(fnv(name.as_bytes(), FNV_BASIS)));
        let letters: String = places
            .iter()
            .map(|at| {
                if *at == names[0] {
                    'a'
                } else if *at == names[1] {
                    'b'
                } else {
                    'c'
                }
            })
            .collect();
        assert_eq!(letters, "cbabaaaaccbcaaaa");
    }

    #[test]
    fn by_crc32_a_key_lies_where_php_looks_for_it() {
        // The check value of the algorithm, which PHP's crc32() gives, too.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let engine = || Arc::new(MemoryCache::new(Clock::manual())) as Arc<dyn CacheEngine>;
        let cache = Sharded::by_crc32(["b", "a", "c"].map(|name| (name, engine())), Layout::Utopia).unwrap();
        let names: Vec<u64> = ["b", "a", "c"].map(|name| mix(fnv(name.as_bytes(), FNV_BASIS))).to_vec();
        for key in ["project:42", "Project:42", "k"] {
            let place = crc32(key.to_ascii_lowercase().as_bytes()) as usize % 3;
            assert_eq!(cache.of("default", key.as_bytes()).hash, names[place], "{key}");
        }
        let exact = Sharded::by_crc32(["b", "a", "c"].map(|name| (name, engine())), Layout::UtopiaCaseSensitive).unwrap();
        for n in 0..16 {
            let key = format!("Project:{n}");
            assert_eq!(exact.of("default", key.as_bytes()).hash, names[crc32(key.as_bytes()) as usize % 3], "{key}");
        }
    }

    #[test]
    fn shards_without_a_name_of_their_own_are_refused() {
        let engine = || Arc::new(MemoryCache::new(Clock::manual())) as Arc<dyn CacheEngine>;
        assert!(Sharded::new(Vec::<(&str, _)>::new()).is_err());
        assert!(Sharded::new([("a", engine()), ("a", engine())]).is_err());
        assert!(Sharded::new([("", engine())]).is_err());
    }
}
