//! A checker of INV-2 under real threads, and a planted bug that it must find.
//!
//! The source is a counter. A writer raises it, invalidates, and only then tells the new number as acknowledged. A reader notes the
//! acknowledged number, then reads through the cache: what it gets must not be below.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;

use super::{handle, options};
use crate::cache::{
    Cache, CacheEngine, CacheOptions, CacheStats, Entry, Expiry, Filled, Flushed, GuardEnd, GuardOwner, Invalidation, Life, LoadError,
    Lookup, Nonce, Promise, Reserved, Slot, Touched,
};
use crate::time::Clock;
use crate::{Error, Kind, Result};

/// What the checker saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Staleness {
    /// Reads that were judged.
    pub reads: u64,
    /// Loads from the source.
    pub loads: u64,
    /// Reads that returned less than was acknowledged before they began: violations of INV-2.
    pub stale: u64,
}

#[derive(Default)]
struct World {
    source: AtomicU64,
    acknowledged: AtomicU64,
    reads: AtomicU64,
    loads: AtomicU64,
    stale: AtomicU64,
    over: AtomicBool,
}

impl World {
    async fn load(&self) -> u64 {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let value = self.source.load(Ordering::SeqCst);
        // Room for a writer between the read and the fill.
        for _ in 0..value % 4 {
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
        value
    }

    async fn read(&self, cache: &Cache, turn: u64) -> Result<()> {
        let floor = self.acknowledged.load(Ordering::SeqCst);
        let value = match turn % 4 {
            0 => match cache.begin::<u64>("k").await? {
                Lookup::Hit(value) => value,
                Lookup::Lease(lease) => {
                    let value = self.load().await;
                    let _ = lease.commit(&value).await?;
                    Some(value)
                }
                Lookup::Busy(_) => return Ok(()),
            },
            1 => unless_the_loader_failed(cache.field("k", "f").get_or_load(|_| async { Ok::<_, Error>(self.load().await) }).await)?,
            // A loader that often fails: with `fail_safe` an ended value stands in.
            3 if turn % 8 == 7 => {
                let load = |_| async {
                    let value = self.load().await;
                    if value % 2 == 0 { Err(Error::unavailable("the source is away")) } else { Ok(value) }
                };
                unless_the_loader_failed(cache.get_or_load("k", load).await)?
            }
            2 => unless_the_loader_failed(
                cache.typed::<u64>().get_or_load("k", |_| async { Ok::<_, Error>(self.load().await) }).await.map(|value| *value),
            )?,
            _ => unless_the_loader_failed(cache.get_or_load("k", |_| async { Ok::<_, Error>(self.load().await) }).await)?,
        };
        // Whoever waited for a loader that failed has read nothing.
        let Some(value) = value else { return Ok(()) };
        self.reads.fetch_add(1, Ordering::Relaxed);
        if value < floor {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn write(&self, cache: &Cache, turn: u64) -> Result<()> {
        match turn % 8 {
            0 => {
                let version = self.source.fetch_add(1, Ordering::SeqCst) + 1;
                cache.flush_namespace().await?;
                self.acknowledged.fetch_max(version, Ordering::SeqCst);
            }
            1 => {
                let guard = cache.write_guard(["k"]).await?;
                let version = self.source.fetch_add(1, Ordering::SeqCst) + 1;
                let _ = guard.release().await?;
                self.acknowledged.fetch_max(version, Ordering::SeqCst);
            }
            _ => {
                let version = self.source.fetch_add(1, Ordering::SeqCst) + 1;
                let _ = cache.invalidate("k").await?;
                self.acknowledged.fetch_max(version, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// An engine may be away: then nothing was read or acknowledged.
fn away(error: Error) -> Result<()> {
    if error.kind() == Kind::Backend { Ok(()) } else { Err(error) }
}

fn unless_the_loader_failed(result: Result<u64>) -> Result<Option<u64>> {
    match result {
        Err(error) if error.source().is_some_and(<dyn std::error::Error>::is::<LoadError>) => Ok(None),
        other => other.map(Some),
    }
}

/// Races readers, two of them as another process, against two writers, each on a thread of its own, for that many writes each.
///
/// # Panics
/// If a call fails.
pub fn race(engine: &Arc<dyn CacheEngine>, writes: u64) -> Staleness {
    race_with(engine, options(), writes)
}

/// As [`race`], with values that end all the time and are served as stale.
///
/// # Panics
/// If a call fails.
pub fn race_stale(engine: &Arc<dyn CacheEngine>, writes: u64) -> Staleness {
    let (short, long) = (Duration::from_micros(50), Duration::from_secs(60));
    race_with(engine, options().with_ttl(short).with_stale_while_revalidate(long).with_fail_safe(long), writes)
}

fn race_with(engine: &Arc<dyn CacheEngine>, options: CacheOptions, writes: u64) -> Staleness {
    let world = World::default();
    let [here, there] = [(); 2].map(|()| handle(Arc::clone(engine), Clock::system()).with(options.clone()).expect("the options are legal"));
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
    std::thread::scope(|scope| {
        for cache in [&here, &here, &there, &there] {
            scope.spawn(|| {
                runtime().block_on(async {
                    let mut turn = 0;
                    while !world.over.load(Ordering::SeqCst) {
                        // Two at a time on this thread: a leader and a follower.
                        let (one, two) = tokio::join!(world.read(cache, turn), world.read(cache, turn + 2));
                        one.and(two).or_else(away).expect("a read works");
                        turn += 1;
                    }
                });
            });
        }
        let writers = [&here, &there].map(|cache| {
            scope.spawn(|| {
                runtime().block_on(async {
                    for turn in 0..writes {
                        world.write(cache, turn).await.or_else(away).expect("a write works");
                        for _ in 0..turn % 16 {
                            std::thread::yield_now();
                        }
                    }
                });
            })
        });
        let ended = writers.map(std::thread::ScopedJoinHandle::join);
        world.over.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a writer failed");
    });
    Staleness {
        reads: world.reads.load(Ordering::SeqCst),
        loads: world.loads.load(Ordering::SeqCst),
        stale: world.stale.load(Ordering::SeqCst),
    }
}

/// The planted bug: an engine that accepts every fill, as a cache without leases does.
#[derive(Debug)]
pub struct TrustingCache(pub Arc<dyn CacheEngine>);

impl CacheEngine for TrustingCache {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn promise(&self) -> Promise {
        self.0.promise()
    }

    fn lookup<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.0.lookup(slot)
    }

    fn reserve<'a>(&'a self, slot: Slot<'a>, fill_ttl: Duration, instead_of: Option<Nonce>) -> BoxFuture<'a, Result<Reserved>> {
        self.0.reserve(slot, fill_ttl, instead_of)
    }

    fn commit<'a>(&'a self, slot: Slot<'a>, mut nonce: Nonce, payload: Bytes, life: Life) -> BoxFuture<'a, Result<Filled>> {
        Box::pin(async move {
            loop {
                match self.0.commit(slot, nonce, payload.clone(), life).await? {
                    Filled::Stored => return Ok(Filled::Stored),
                    Filled::Superseded { .. } => match self.0.reserve(slot, Duration::from_secs(10), None).await? {
                        Reserved::Lease(fresh) => nonce = fresh,
                        Reserved::Hit(_) | Reserved::Busy { .. } => return Ok(Filled::Stored),
                    },
                }
            }
        })
    }

    fn abandon<'a>(&'a self, slot: Slot<'a>, nonce: Nonce) -> BoxFuture<'a, Result<()>> {
        self.0.abandon(slot, nonce)
    }

    fn invalidate<'a>(&'a self, slot: Slot<'a>, hold_off: Duration) -> BoxFuture<'a, Result<Invalidation>> {
        self.0.invalidate(slot, hold_off)
    }

    fn expire<'a>(&'a self, slot: Slot<'a>) -> BoxFuture<'a, Result<Expiry>> {
        self.0.expire(slot)
    }

    fn touch<'a>(&'a self, slot: Slot<'a>, ttl: Duration) -> BoxFuture<'a, Result<Touched>> {
        self.0.touch(slot, ttl)
    }

    fn fields<'a>(&'a self, namespace: &'a str, key: &'a [u8]) -> BoxFuture<'a, Result<Vec<Bytes>>> {
        self.0.fields(namespace, key)
    }

    fn guard<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, ttl: Duration) -> BoxFuture<'a, Result<()>> {
        self.0.guard(namespace, key, owner, ttl)
    }

    fn guarded<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner) -> BoxFuture<'a, Result<bool>> {
        self.0.guarded(namespace, key, owner)
    }

    fn release<'a>(&'a self, namespace: &'a str, key: &'a [u8], owner: GuardOwner, hold_off: Duration) -> BoxFuture<'a, Result<GuardEnd>> {
        self.0.release(namespace, key, owner, hold_off)
    }

    fn flush<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Flushed>> {
        self.0.flush(namespace)
    }

    fn flush_all(&self) -> BoxFuture<'_, Result<Flushed>> {
        self.0.flush_all()
    }

    fn stats<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<CacheStats>> {
        self.0.stats(namespace)
    }
}
