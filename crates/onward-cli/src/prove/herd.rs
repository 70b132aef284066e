//! herd: a key goes cold, and everyone loads it at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onward::cache::Cache;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::setting::Failure;
use super::{Claim, Count, Outcome, Setting, Side};

pub(super) const CLAIM: Claim =
    Claim { tried: "200 callers ask for one cold key: everyone loads, or get_or_load", counted: "loads beyond one" };

const CALLERS: u64 = 200;
/// Handles on one cache, as replicas have them.
const REPLICAS: usize = 4;
const ROUNDS: u64 = 5;

/// What is slow to load, and how often it was.
#[derive(Debug)]
struct Source {
    value: u64,
    loads: AtomicU64,
    arrived: watch::Sender<u64>,
}

impl Source {
    fn arrive(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
    }

    /// Loads; takes until every caller is there, as a slow source does.
    async fn load(&self) -> Result<u64, Failure> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.arrived.subscribe().wait_for(|arrived| *arrived >= CALLERS).await?;
        Ok(self.value)
    }
}

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let caches = setting.caches(REPLICAS).await?;
    let plain = Arc::new(Mutex::new(HashMap::new()));
    let mut random = setting.random("herd");
    let rounds = setting.rounds(ROUNDS);
    let mut count = Count::default();
    for round in 0..rounds {
        let source = Arc::new(Source { value: random.bits() >> 16, loads: AtomicU64::new(0), arrived: watch::Sender::new(0) });
        let callers: Vec<_> = (0..CALLERS)
            .zip(caches.iter().cycle())
            .map(|(_, cache)| match side {
                Side::Unprotected => tokio::spawn(get_and_set(plain.clone(), round, source.clone())),
                Side::Protected => tokio::spawn(get_or_load(cache.clone(), round, source.clone())),
            })
            .collect();
        for caller in callers {
            if caller.await?? != source.value {
                return Err("a caller got another value than the source has".into());
            }
        }
        let loads = source.loads.load(Ordering::Relaxed);
        count.rounds += CALLERS;
        count.bad += loads.saturating_sub(1);
        count.refused += CALLERS - loads.min(CALLERS);
        if loads > 1 {
            count.example.get_or_insert_with(|| format!("{CALLERS} callers loaded one key {loads} times"));
        }
        setting.progress().show(round + 1, rounds);
    }
    Ok(count)
}

async fn get_and_set(plain: Arc<Mutex<HashMap<u64, u64>>>, key: u64, source: Arc<Source>) -> Result<u64, Failure> {
    let found = plain.lock().get(&key).copied();
    source.arrive();
    if let Some(value) = found {
        return Ok(value);
    }
    let value = source.load().await?;
    plain.lock().insert(key, value);
    Ok(value)
}

async fn get_or_load(cache: Cache, key: u64, source: Arc<Source>) -> Result<u64, Failure> {
    source.arrive();
    Ok(cache.get_or_load(format!("row-{key}"), |_| source.load()).await?)
}
