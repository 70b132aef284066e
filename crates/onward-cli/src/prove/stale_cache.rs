//! stale-cache: a slow reader fills the cache with what it read before an invalidation.
//!
//! A round has one row and two writes. Readers load the row and are held up; a write lands and is acknowledged; more readers load and are
//! held up; a second write lands while the fills that the first one caused are in flight; readers come while both kinds are held up; then
//! the held-up ones go on, in an order that the seed chooses, and the last readers come. Every read that began after an acknowledgement
//! must see that write or a later one. In every other round the cache is flushed beside the first write.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onward::cache::{Cache, Fill, Filled, How};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::setting::Failure;
use super::{Claim, Count, Outcome, Setting, Side};

pub(super) const CLAIM: Claim = Claim {
    tried: "slow readers fill after an invalidation: get and set, or a fill lease",
    counted: "reads older than a write acknowledged before them",
};

const ROUNDS: u64 = 30;
/// Handles on one cache, as replicas have them.
const REPLICAS: usize = 4;
/// Readers that begin at the same time.
const READERS: usize = 16;

/// The row, and how far its readers may go.
#[derive(Debug)]
struct Source {
    value: AtomicU64,
    /// The newest value that a load has read.
    seen: watch::Sender<u64>,
    /// For the loads that read 1, and for those that read 2: whether they may go on.
    gates: [watch::Sender<bool>; 2],
}

impl Source {
    fn new() -> Self {
        Self { value: AtomicU64::new(1), seen: watch::Sender::new(0), gates: [watch::Sender::new(false), watch::Sender::new(false)] }
    }

    /// Reads the row, and is held up before it can say so.
    async fn load(&self) -> Result<u64, Failure> {
        let value = self.value.load(Ordering::SeqCst);
        self.seen.send_if_modified(|seen| std::mem::replace(seen, value.max(*seen)) < value);
        let gate = usize::try_from(value)?.checked_sub(1).and_then(|index| self.gates.get(index));
        if let Some(gate) = gate {
            gate.subscribe().wait_for(|open| *open).await?;
        }
        Ok(value)
    }

    fn open(&self, gate: usize) {
        if let Some(gate) = self.gates.get(gate) {
            gate.send_replace(true);
        }
    }

    /// Waits until a load has read `value`.
    async fn is_loading(&self, value: u64) -> Result<(), Failure> {
        self.seen.subscribe().wait_for(|seen| *seen >= value).await?;
        Ok(())
    }
}

/// The cache of one side.
#[derive(Debug, Clone)]
enum Tried {
    Plain(Arc<Mutex<HashMap<String, u64>>>),
    Leased { replicas: Arc<[Cache]>, refused: Arc<AtomicU64> },
}

impl Tried {
    async fn new(setting: &Setting, side: Side) -> onward::Result<Self> {
        if side == Side::Unprotected {
            return Ok(Tried::Plain(Arc::default()));
        }
        Ok(Tried::Leased { replicas: setting.caches(REPLICAS).await?.into(), refused: Arc::default() })
    }

    async fn read(&self, reader: usize, key: &str, source: &Source) -> Result<u64, Failure> {
        match self {
            Tried::Plain(map) => {
                let found = map.lock().get(key).copied();
                if let Some(value) = found {
                    return Ok(value);
                }
                let value = source.load().await?;
                map.lock().insert(key.to_owned(), value);
                Ok(value)
            }
            Tried::Leased { replicas, refused } => {
                let cache = replicas.get(reader % REPLICAS).ok_or("no such replica")?;
                let load = |_: Fill| async { source.load().await.map(Some) };
                let fetched = cache.fetch(key, load).await?;
                if let How::Loaded(Filled::Superseded { .. }) = fetched.how {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                Ok(fetched.value.ok_or("the row is gone")?)
            }
        }
    }

    async fn invalidate(&self, key: &str) -> Result<(), Failure> {
        match self {
            Tried::Plain(map) => {
                map.lock().remove(key);
            }
            Tried::Leased { replicas, .. } => {
                let _ = replicas.first().ok_or("no replica")?.invalidate(key).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Failure> {
        match self {
            Tried::Plain(map) => map.lock().clear(),
            Tried::Leased { replicas, .. } => {
                replicas.first().ok_or("no replica")?.flush_namespace().await?;
            }
        }
        Ok(())
    }

    fn refused(&self) -> u64 {
        match self {
            Tried::Plain(_) => 0,
            Tried::Leased { refused, .. } => refused.load(Ordering::Relaxed),
        }
    }
}

/// Readers that began when `acknowledged` was.
struct Wave {
    acknowledged: u64,
    readers: Vec<JoinHandle<Result<u64, Failure>>>,
}

impl Wave {
    fn begin(tried: &Tried, key: &str, source: &Arc<Source>, acknowledged: u64) -> Self {
        let reader = |number| {
            let (tried, key, source) = (tried.clone(), key.to_owned(), source.clone());
            tokio::spawn(async move { tried.read(number, &key, &source).await })
        };
        Self { acknowledged, readers: (0..READERS).map(reader).collect() }
    }

    async fn count(self, count: &mut Count, moment: &str) -> Result<(), Failure> {
        for reader in self.readers {
            let (value, acknowledged) = (reader.await??, self.acknowledged);
            // Before the first write there is nothing to miss.
            if acknowledged > 1 {
                let example = || format!("a read that began {moment}, when {acknowledged} was acknowledged, returned {value}");
                count.round(value < acknowledged, example);
            }
        }
        Ok(())
    }
}

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let tried = Tried::new(setting, side).await?;
    let mut random = setting.random("stale-cache");
    let rounds = setting.rounds(ROUNDS);
    let mut count = Count::default();
    for round in 0..rounds {
        let (key, source) = (format!("row-{round}"), Arc::new(Source::new()));
        let first = Wave::begin(&tried, &key, &source, 1);
        source.is_loading(1).await?;

        source.value.store(2, Ordering::SeqCst);
        if round % 2 == 1 {
            tried.flush().await?;
        }
        tried.invalidate(&key).await?;
        let second = Wave::begin(&tried, &key, &source, 2);
        source.is_loading(2).await?;

        source.value.store(3, Ordering::SeqCst);
        tried.invalidate(&key).await?;
        let early = Wave::begin(&tried, &key, &source, 3);
        let gate = random.within(0, 2);
        source.open(gate);
        tokio::task::yield_now().await;
        source.open(1 - gate);
        first.count(&mut count, "first").await?;
        second.count(&mut count, "between the writes").await?;
        early.count(&mut count, "while slow fills were in flight").await?;

        let late = Wave::begin(&tried, &key, &source, 3);
        late.count(&mut count, "after slow fills had landed").await?;
        setting.progress().show(round + 1, rounds);
    }
    count.refused = tried.refused();
    Ok(count)
}
