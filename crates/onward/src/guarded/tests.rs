use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_core::future::BoxFuture;

use crate::commit::{Commit, CommitOutcome, CommitQueue, Delivery, QueueOptions, Retention};
use crate::engine::memory::MemoryStore;
use crate::model::MacKeys;
use crate::observe::Silent;
use crate::store::{CacheSink, Deliverer, Store};
use crate::time::Clock;
use crate::{Error, Result};

/// A cache that is away until it is told otherwise, and counts what reaches it.
#[derive(Debug, Default)]
struct Away {
    back: AtomicBool,
    hangs: AtomicBool,
    reached: AtomicU32,
    arrived: tokio::sync::Notify,
}

impl CacheSink for Away {
    fn invalidate<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if !self.back.load(Ordering::SeqCst) {
                return Err(Error::unavailable("the cache is away"));
            }
            self.reached.fetch_add(1, Ordering::SeqCst);
            self.arrived.notify_one();
            Ok(())
        })
    }

    fn invalidate_all(&self) -> BoxFuture<'_, Result<()>> {
        self.invalidate("", "")
    }
}

async fn store(sink: &Arc<Away>) -> (Store, impl Future<Output = ()> + Send + use<>) {
    let options =
        QueueOptions { clock: Clock::system(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    let queue = CommitQueue::start(Arc::new(MemoryStore::new()), options).await.unwrap();
    let deliverer = Deliverer::new(Some(sink.clone()), Clock::system());
    let follower = deliverer.follow(&queue).await.unwrap();
    (Store::new(queue, deliverer), follower)
}

async fn purge(store: &Store) -> Delivery {
    let CommitOutcome::Committed(receipt) = store.commit(Commit::new().invalidate("default", ["project:42"])).await.unwrap() else {
        panic!("nothing can conflict");
    };
    receipt.invalidation
}

#[tokio::test]
async fn a_dead_cache_queues_the_purge_and_the_change_log_delivers_it() {
    let sink = Arc::new(Away::default());
    let (store, follower) = store(&sink).await;
    assert_eq!(purge(&store).await, Delivery::Queued);
    assert_eq!(sink.reached.load(Ordering::SeqCst), 0);
    let follower = tokio::spawn(follower);
    sink.back.store(true, Ordering::SeqCst);
    sink.arrived.notified().await;
    follower.abort();
}

#[tokio::test]
async fn a_future_dropped_between_commit_and_purge_leaves_the_purge_to_the_change_log() {
    let sink = Arc::new(Away::default());
    sink.hangs.store(true, Ordering::SeqCst);
    let (store, follower) = store(&sink).await;
    let revision = store.queue().engine().meta().await.unwrap().revision;
    // The commit is durable, the purge hangs, and the caller leaves.
    let call = tokio::spawn({
        let store = store.clone();
        async move { purge(&store).await }
    });
    let mut feed = store.queue().feed(Some(revision), None).await.unwrap();
    assert!(matches!(feed.next().await.unwrap(), crate::commit::FeedItem::Commit(_)));
    call.abort();
    sink.hangs.store(false, Ordering::SeqCst);
    sink.back.store(true, Ordering::SeqCst);
    let follower = tokio::spawn(follower);
    sink.arrived.notified().await;
    follower.abort();
}

#[tokio::test]
async fn what_was_delivered_inline_is_not_delivered_again() {
    let sink = Arc::new(Away::default());
    sink.back.store(true, Ordering::SeqCst);
    let (store, follower) = store(&sink).await;
    assert_eq!(purge(&store).await, Delivery::Done);
    let follower = tokio::spawn(follower);
    sink.back.store(false, Ordering::SeqCst);
    assert_eq!(purge(&store).await, Delivery::Queued);
    sink.arrived.notified().await;
    sink.back.store(true, Ordering::SeqCst);
    sink.arrived.notified().await;
    assert_eq!(sink.reached.load(Ordering::SeqCst), 2, "one inline, one from the change log");
    follower.abort();
}
