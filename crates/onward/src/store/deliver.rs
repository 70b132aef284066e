//! Delivery of cache invalidations: inline before the answer if the cache is up, else from the change feed, at least once.
//!
//! Doing it twice costs a miss; never doing it would serve a stale row (INV-2). So the feed's consumer retries for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;

use crate::commit::{CommitQueue, Delivery, FeedItem, Record};
use crate::model::Revision;
use crate::observe::Event;
use crate::retry::{self, Backoff};
use crate::time::Clock;
use crate::{Code, Kind, Result};

/// What takes invalidations: the cache, seen from here.
pub trait CacheSink: Send + Sync + std::fmt::Debug {
    /// Invalidates one key.
    fn invalidate<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Invalidates everything, since it is not known what was missed.
    fn invalidate_all(&self) -> BoxFuture<'_, Result<()>>;
}

/// How long an answer waits for its invalidations; then the feed delivers them.
const INLINE: Duration = Duration::from_millis(250);
/// How many inline deliveries are remembered for the consumer to skip; forgetting one costs a miss.
const REMEMBERED: usize = 4_096;

/// The one owner of delivery: inline, and from the feed.
#[derive(Debug, Clone)]
pub(crate) struct Deliverer {
    sink: Option<Arc<dyn CacheSink>>,
    clock: Clock,
    done: Arc<Mutex<BTreeSet<Revision>>>,
}

impl Deliverer {
    pub(crate) fn new(sink: Option<Arc<dyn CacheSink>>, clock: Clock) -> Self {
        Self { sink, clock, done: Arc::default() }
    }

    /// Delivers before the answer, within its time.
    pub(super) async fn inline(&self, revision: Revision, invalidations: &[(String, String)]) -> Delivery {
        let Some(sink) = &self.sink else {
            return Delivery::Queued;
        };
        let all = async {
            for (namespace, key) in invalidations {
                sink.invalidate(namespace, key).await?;
            }
            Ok::<(), crate::Error>(())
        };
        match retry::deadline(&self.clock, self.clock.now() + INLINE, all).await {
            Some(Ok(())) => {
                let mut done = self.done.lock();
                done.insert(revision);
                if done.len() > REMEMBERED {
                    done.pop_first();
                }
                Delivery::Done
            }
            Some(Err(_)) | None => Delivery::Queued,
        }
    }

    /// The same deliveries to another sink.
    pub(crate) fn with_sink(&self, sink: Arc<dyn CacheSink>) -> Self {
        Self { sink: Some(sink), ..self.clone() }
    }

    /// Opens the consumer of the feed at its present end: the cache of this process is empty and cannot be stale yet.
    ///
    /// The returned future runs until it is dropped.
    ///
    /// # Errors
    /// The engine cannot be reached.
    pub(crate) async fn follow(&self, queue: &CommitQueue) -> Result<impl Future<Output = ()> + Send + use<>> {
        let mut feed = queue.own_feed().await?.of_notes();
        let (this, queue) = (self.clone(), queue.clone());
        Ok(async move {
            let Some(sink) = this.sink.clone() else { return };
            let mut reached = this.clock.now();
            loop {
                let next = feed.next().await;
                if next.is_ok() {
                    reached = this.clock.now();
                }
                let stuck = || queue.tell(&Event::Feed { behind: this.clock.now().since(reached), waiting: 0 });
                match next {
                    Ok(FeedItem::Commit(record)) => {
                        // For whoever watches, never for an order: the commit's time may be another machine's.
                        let age = || u64::try_from(this.clock.wall().as_micros().saturating_sub(record.at.as_micros())).unwrap_or(0);
                        let waiting = feed.waiting() + 1;
                        let tell = || queue.tell(&Event::Feed { behind: Duration::from_micros(age()), waiting });
                        this.deliver(&*sink, &record, tell).await;
                    }
                    Ok(FeedItem::Bookmark(_)) => queue.tell(&Event::Feed { behind: Duration::ZERO, waiting: 0 }),
                    // A log that contradicts itself stays so: waiting for it would leave the cache stale for ever.
                    Err(error) if error.kind() == Kind::Expired || error.code() == Code::IntegrityFailure => {
                        this.forever(|| sink.invalidate_all(), stuck).await;
                        feed = this.reopen(&queue).await;
                        // What came between the two is not known either.
                        this.forever(|| sink.invalidate_all(), stuck).await;
                    }
                    Err(_) => {
                        stuck();
                        retry::sleep(&this.clock, Duration::from_millis(100)).await;
                    }
                }
            }
        })
    }

    async fn deliver(&self, sink: &dyn CacheSink, record: &Record, tell: impl Fn()) {
        tell();
        if record.invalidations.is_empty() || self.done.lock().remove(&record.revision) {
            return;
        }
        for (namespace, key) in &record.invalidations {
            self.forever(|| sink.invalidate(namespace, key), &tell).await;
        }
    }

    async fn reopen(&self, queue: &CommitQueue) -> crate::commit::Feed {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            if let Ok(feed) = queue.own_feed().await {
                return feed.of_notes();
            }
            retry::sleep(&self.clock, backoff.next()).await;
        }
    }

    /// Acts until it is done, and tells before each wait that it is not.
    async fn forever<'a>(&self, act: impl Fn() -> BoxFuture<'a, Result<()>>, tell: impl Fn()) {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        while let Err(error) = act().await {
            // No cache can hold what it refuses to name, and what comes behind must not wait for it.
            if error.kind() == Kind::Invalid {
                return;
            }
            tell();
            retry::sleep(&self.clock, backoff.next()).await;
        }
    }
}
