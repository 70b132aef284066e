//! Delivery of cache invalidations from the change feed: at least once, whatever is in the way.

use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{CacheSink, Deliverer, Store};
use crate::commit::{Commit, CommitOutcome, CommitQueue, Delivery, QueueOptions, Receipt, Retention};
use crate::engine::memory::MemoryStore;
use crate::model::{MacKeys, Revision};
use crate::observe::Silent;
use crate::testing::store_faults::{Faults, Faulty};
use crate::time::Clock;
use crate::{Error, Result, retry};

/// A cache that only notes what it is told, and fails as it is told.
#[derive(Debug)]
struct Notes {
    /// What the next calls are answered, the last one first.
    refuse: Mutex<Vec<Error>>,
    told: watch::Sender<Vec<String>>,
}

impl Notes {
    fn new() -> Arc<Self> {
        Arc::new(Self { refuse: Mutex::default(), told: watch::Sender::new(Vec::new()) })
    }

    fn note(&self, what: String) -> Result<()> {
        if let Some(error) = self.refuse.lock().pop() {
            return Err(error);
        }
        self.told.send_modify(|told| told.push(what));
        Ok(())
    }

    async fn wait(&self, enough: impl FnMut(&Vec<String>) -> bool) -> Vec<String> {
        let clock = Clock::system();
        let mut told = self.told.subscribe();
        let waited = retry::deadline(&clock, clock.now() + Duration::from_secs(10), told.wait_for(enough)).await;
        waited.expect("the cache is told in the end").unwrap().clone()
    }

    async fn until(&self, count: usize) -> Vec<String> {
        self.wait(|told| told.len() >= count).await
    }
}

impl CacheSink for Notes {
    fn invalidate<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(self.note(format!("{namespace}/{key}"))))
    }

    fn invalidate_all(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(self.note("everything".to_owned())))
    }
}

/// A store with a cache that is followed, and another handle on the same data without one.
async fn opened(cache: &Arc<Notes>) -> (Store, Store, Faults, tokio::task::JoinHandle<()>) {
    let memory = MemoryStore::new();
    let faults = Faults::default();
    let options =
        || QueueOptions { clock: Clock::system(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    let queue = CommitQueue::start(Arc::new(Faulty::new(Arc::new(memory.clone()), faults.clone())), options()).await.unwrap();
    let deliverer = Deliverer::new(Some(cache.clone()), Clock::system());
    let follower = tokio::spawn(deliverer.follow(&queue).await.unwrap());
    let other = CommitQueue::start(Arc::new(memory), options()).await.unwrap();
    (Store::new(queue, deliverer), Store::new(other, Deliverer::new(None, Clock::system())), faults, follower)
}

async fn purge(store: &Store, keys: &[&str]) -> Receipt {
    match store.commit(Commit::new().invalidate("ns", keys.iter().copied())).await.unwrap() {
        CommitOutcome::Committed(receipt) => receipt,
        other => panic!("no condition: {other:?}"),
    }
}

#[tokio::test]
async fn an_invalidation_is_delivered_before_the_answer() {
    let cache = Notes::new();
    let (store, _, _, _follower) = opened(&cache).await;
    let receipt = purge(&store, &["a", "b"]).await;
    assert_eq!(receipt.invalidation, Delivery::Done);
    assert!(cache.told.borrow().iter().any(|told| told == "ns/a") && cache.told.borrow().iter().any(|told| told == "ns/b"));
}

#[tokio::test]
async fn another_handles_invalidation_comes_through_the_feed() {
    let cache = Notes::new();
    let (_store, other, _, _follower) = opened(&cache).await;
    assert_eq!(purge(&other, &["a", "b"]).await.invalidation, Delivery::Queued);
    assert_eq!(cache.until(2).await, ["ns/a", "ns/b"]);
}

#[tokio::test]
async fn a_dead_cache_queues_the_purge_and_gets_it_later() {
    let cache = Notes::new();
    let (store, _, _, follower) = opened(&cache).await;
    // The follower has not run yet: this is a current-thread runtime, and it was only spawned.
    *cache.refuse.lock() = (0..3).map(|_| Error::unavailable("the cache is away")).collect();
    let receipt = purge(&store, &["a"]).await;
    assert!(matches!(receipt.invalidation, Delivery::Queued | Delivery::Done));
    assert!(cache.until(1).await.iter().all(|told| told == "ns/a"));
    assert!(!follower.is_finished());
}

#[tokio::test]
async fn what_a_cache_refuses_for_good_does_not_hold_up_the_rest() {
    let cache = Notes::new();
    let (_store, other, _, _follower) = opened(&cache).await;
    *cache.refuse.lock() = vec![Error::invalid("no such namespace")];
    purge(&other, &["refused", "fine"]).await;
    assert_eq!(cache.until(1).await, ["ns/fine"]);
}

#[tokio::test]
async fn a_gap_in_the_log_flushes_the_cache() {
    let cache = Notes::new();
    let (_store, other, faults, _follower) = opened(&cache).await;
    faults.hide(Revision::new(2).unwrap());
    purge(&other, &["one"]).await;
    purge(&other, &["lost"]).await;
    purge(&other, &["three"]).await;
    let told = cache.until(2).await;
    assert!(told.iter().any(|told| told == "everything"), "{told:?}");
    // And goes on after it.
    let seen = cache.told.borrow().len();
    purge(&other, &["later"]).await;
    cache.wait(|told| told.len() > seen && told.iter().any(|told| told == "ns/later")).await;
}

/// Other processes' invalidations come within 100 ms of the follower's clock: it looks that often, and no look misses what is there.
#[tokio::test]
async fn another_processs_invalidation_comes_with_the_next_look_100_ms_later_at_most() {
    let (cache, memory, clock) = (Notes::new(), MemoryStore::new(), Clock::manual());
    let start = async |clock: &Clock| {
        let options =
            QueueOptions { clock: clock.clone(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
        CommitQueue::start(Arc::new(memory.clone()), options).await.unwrap()
    };
    let (queue, other) = (start(&clock).await, start(&Clock::system()).await);
    let deliverer = Deliverer::new(Some(cache.clone()), clock.clone());
    let _follower = tokio::spawn(deliverer.follow(&queue).await.unwrap());
    let settle = async || {
        // The engine answers at once: after these turns the follower sleeps.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    };
    let other = Store::new(other, Deliverer::new(None, Clock::system()));
    for round in 0..3 {
        settle().await;
        purge(&other, &[&format!("k{round}")]).await;
        settle().await;
        assert_eq!(cache.told.borrow().len(), round, "it does not look all the time");
        clock.advance(Duration::from_millis(100));
        settle().await;
        assert_eq!(cache.told.borrow().last().cloned(), Some(format!("ns/k{round}")));
    }
}
