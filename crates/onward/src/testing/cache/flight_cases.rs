//! Single flight: one load, and nobody gets a value that is older than his call.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{CacheHarness, lease, options, settle};
use crate::cache::{Cache, CacheStats, Fetched, Filled, How, LoadError, Now, Unfilled};
use crate::{Code, Error, Kind, Result};

/// A loader that reads its value at once and hands it over when told to.
#[derive(Clone)]
pub(super) struct Gate {
    begun: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(super) fn shut() -> Self {
        Self { begun: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    pub(super) async fn pass(&self) {
        self.begun.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until somebody stands before the gate.
    pub(super) async fn reached(&self) {
        self.begun.acquire().await.unwrap().forget();
    }

    pub(super) fn open(&self) {
        self.open.add_permits(1);
    }
}

/// Fetches in a task of its own: the value is read from the source when the load begins.
pub(super) fn fetch(cache: &Cache, source: &Arc<AtomicU64>, gate: Option<Gate>) -> JoinHandle<Result<Fetched<u64>>> {
    let (cache, source) = (cache.clone(), Arc::clone(source));
    tokio::spawn(async move {
        let load = |_| async {
            let value = source.load(Ordering::SeqCst);
            if let Some(gate) = gate {
                gate.pass().await;
            }
            Ok::<_, Error>(Some(value))
        };
        cache.fetch("k", load).await
    })
}

/// A thousand callers, one cold key: one load, and all have its value.
pub async fn many_callers_one_load(h: &CacheHarness) {
    let loads = Arc::new(AtomicU64::new(0));
    let gate = Gate::shut();
    let mut callers = Vec::new();
    for _ in 0..1_000 {
        let (cache, loads, gate) = (h.cache.clone(), Arc::clone(&loads), gate.clone());
        callers.push(tokio::spawn(async move {
            let load = |_| async {
                loads.fetch_add(1, Ordering::SeqCst);
                gate.pass().await;
                Ok::<_, Error>(7u64)
            };
            cache.get_or_load("k", load).await
        }));
    }
    gate.reached().await;
    settle().await;
    gate.open();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 7);
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

/// Two processes: the second waits for the first's fill and doesn't load.
pub async fn two_processes_one_load(h: &CacheHarness) {
    let source = Arc::new(AtomicU64::new(1));
    let gate = Gate::shut();
    let first = fetch(&h.cache, &source, Some(gate.clone()));
    gate.reached().await;
    let second = fetch(&h.other(), &Arc::new(AtomicU64::new(99)), None);
    settle().await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().how, How::Loaded(Filled::Stored));
    let second = h.move_clock_until(second).await.unwrap();
    assert_eq!(second, Fetched { value: Some(1), how: How::Hit });
}

/// Who waits for a load that an invalidation overtook gets the next one's value, whenever he came (INV-2).
pub async fn a_follower_never_gets_an_older_superseded_load(h: &CacheHarness) {
    let source = Arc::new(AtomicU64::new(1));
    let gate = Gate::shut();
    let leader = fetch(&h.cache, &source, Some(gate.clone()));
    gate.reached().await;
    let early = fetch(&h.cache, &source, None);
    settle().await;
    source.store(2, Ordering::SeqCst);
    let _ = h.cache.invalidate("k").await.unwrap();
    let late = fetch(&h.cache, &source, None);
    settle().await;
    gate.open();
    assert_eq!(late.await.unwrap().unwrap().value, Some(2));
    assert_eq!(early.await.unwrap().unwrap().value, Some(2));
    let leader = leader.await.unwrap().unwrap();
    assert_eq!(leader.value, Some(1));
    assert!(matches!(leader.how, How::Loaded(Filled::Superseded { .. })));
}

/// The caller that loaded gets what it loaded, also if the fill is refused.
pub async fn the_leader_always_gets_its_value(h: &CacheHarness) {
    let load = |_| async {
        let _ = h.cache.invalidate("k").await?;
        Ok::<_, Error>(Some(1u64))
    };
    let fetched = h.cache.fetch("k", load).await.unwrap();
    assert_eq!(fetched, Fetched { value: Some(1), how: How::Loaded(Filled::Superseded { now: Now::Absent }) });
    assert_eq!(h.cache.get::<u64>("k").await.unwrap(), None);
}

/// A leader that is dropped, or whose loader panics, poisons nothing: a waiting caller loads.
pub async fn a_dropped_or_panicking_leader_hands_over(h: &CacheHarness) {
    let source = Arc::new(AtomicU64::new(1));
    let gate = Gate::shut();
    let leader = fetch(&h.cache, &source, Some(gate.clone()));
    gate.reached().await;
    let follower = fetch(&h.cache, &source, None);
    settle().await;
    leader.abort();
    assert_eq!(h.move_clock_until(follower).await.unwrap(), Fetched { value: Some(1), how: How::Loaded(Filled::Stored) });

    let _ = h.cache.invalidate("k").await.unwrap();
    let leader = tokio::spawn({
        let (cache, gate) = (h.cache.clone(), gate.clone());
        async move {
            let load = |_| async move {
                gate.pass().await;
                panic!("a loader's own panic");
                #[allow(unreachable_code)]
                Ok::<u64, Error>(0)
            };
            cache.get_or_load("k", load).await
        }
    });
    gate.reached().await;
    let follower = fetch(&h.cache, &source, None);
    settle().await;
    gate.open();
    assert_eq!(h.move_clock_until(follower).await.unwrap(), Fetched { value: Some(1), how: How::Loaded(Filled::Stored) });
    assert!(leader.await.unwrap_err().is_panic());
}

/// A leader that is polled until it loads and then never again blocks nobody for good.
pub async fn a_parked_leader_is_overtaken(h: &CacheHarness) {
    let loads = AtomicU64::new(0);
    let load = |_| {
        loads.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<u64>>()
    };
    let mut parked = Box::pin(h.cache.get_or_load("k", load));
    poll_fn(|cx| {
        assert!(parked.as_mut().poll(cx).is_pending());
        if loads.load(Ordering::SeqCst) == 1 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let follower = fetch(&h.cache, &Arc::new(AtomicU64::new(2)), None);
    settle().await;
    let started = h.clock.now();
    assert_eq!(h.move_clock_until(follower).await.unwrap().value, Some(2));
    assert!(h.clock.now().since(started) < h.cache.options().hard_timeout * 2);
    drop(parked);
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(2u64)));
}

/// A loader that asks for the key it loads gets an error at once.
pub async fn a_loader_that_asks_for_its_own_key_fails(h: &CacheHarness) {
    let load = |_| async { h.cache.get_or_load::<u64, Error, _, _>("k", |_| async { Ok(1) }).await };
    let error = h.cache.get_or_load("k", load).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<LoadError>().unwrap();
    assert_eq!(source.get_ref().downcast_ref::<Error>().unwrap().kind(), Kind::Invalid);
    // Another key is no recursion, and the failed one is free.
    let load = |_| async { h.cache.get_or_load::<u64, Error, _, _>("l", |_| async { Ok(1) }).await };
    assert_eq!(h.cache.get_or_load("k", load).await.unwrap(), 1);
}

/// A loader's error reaches all callers of that load, once loaded, with the error as source.
pub async fn a_loader_error_goes_to_all_who_waited(h: &CacheHarness) {
    let gate = Gate::shut();
    let calls = Arc::new(AtomicU64::new(0));
    let mut callers = Vec::new();
    for _ in 0..5 {
        let (cache, gate, calls) = (h.cache.clone(), gate.clone(), Arc::clone(&calls));
        callers.push(tokio::spawn(async move {
            let load = |_| async {
                calls.fetch_add(1, Ordering::SeqCst);
                gate.pass().await;
                Err::<u64, _>(std::fmt::Error)
            };
            cache.get_or_load("k", load).await
        }));
    }
    gate.reached().await;
    settle().await;
    gate.open();
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Backend, crate::Effect::NotApplied));
        let source = std::error::Error::source(&error).unwrap().downcast_ref::<LoadError>().unwrap();
        assert!(source.get_ref().is::<std::fmt::Error>());
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
}

/// A loader that runs longer than `hard_timeout` is cancelled and its lease given back.
pub async fn a_loader_beyond_its_time_is_cancelled(h: &CacheHarness) {
    let gate = Gate::shut();
    let call = fetch(&h.cache, &Arc::default(), Some(gate.clone()));
    gate.reached().await;
    h.clock.advance(h.cache.options().hard_timeout);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
}

/// Beyond `max_loads` a caller waits at most `hard_timeout`, then hears "busy" (C7).
pub async fn a_full_bulkhead_says_busy(h: &CacheHarness) {
    let narrow = h.cache.with(options().with_max_loads(1)).unwrap();
    let gate = Gate::shut();
    let running = fetch(&narrow, &Arc::default(), Some(gate.clone()));
    gate.reached().await;
    let turned_away = tokio::spawn({
        let narrow = narrow.clone();
        async move { narrow.get_or_load("other", |_| async { Ok::<_, Error>(1u64) }).await }
    });
    settle().await;
    // The running loader has 1 ms less left than the waiting caller.
    h.clock.advance(narrow.options().hard_timeout - Duration::from_millis(1));
    settle().await;
    assert!(!turned_away.is_finished());
    let waiting = tokio::spawn({
        let narrow = narrow.clone();
        async move { narrow.get_or_load("third", |_| async { Ok::<_, Error>(3u64) }).await }
    });
    settle().await;
    gate.open();
    assert!(running.await.unwrap().is_ok());
    assert_eq!(turned_away.await.unwrap().unwrap(), 1);
    assert_eq!(waiting.await.unwrap().unwrap(), 3);

    let held = Gate::shut();
    let _ = narrow.invalidate("k").await.unwrap();
    let parked = h.cache.with(options().with_hard_timeout(Duration::from_secs(60)).with_fill_ttl(Duration::from_secs(61)));
    let running = fetch(&parked.unwrap(), &Arc::default(), Some(held.clone()));
    held.reached().await;
    let turned_away = tokio::spawn(async move { narrow.get_or_load("fourth", |_| async { Ok::<_, Error>(4u64) }).await });
    settle().await;
    h.clock.advance(Duration::from_secs(8));
    let error = turned_away.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded);
    assert!(error.retry_after().is_some());
    held.open();
    assert!(running.await.unwrap().is_ok());
}

/// A value that must not or can't be kept is returned, said to be unfilled, and its lease given back.
pub async fn a_skipped_or_large_value_is_returned_unfilled(h: &CacheHarness) {
    let small = h.cache.with(options().with_value_limit(3)).unwrap();
    let large = small.fetch("k", |_| async { Ok::<_, Error>(Some(1_000u64)) }).await.unwrap();
    assert_eq!(large, Fetched { value: Some(1_000), how: How::Unfilled(Unfilled::TooLarge) });
    let skip = |fill: crate::cache::Fill| async move {
        fill.skip();
        Ok::<_, Error>(Some(1u64))
    };
    let skipped = small.fetch("k", skip).await.unwrap();
    assert_eq!(skipped, Fetched { value: Some(1), how: How::Unfilled(Unfilled::Skipped) });
    settle().await;
    let short = |fill: crate::cache::Fill| async move {
        fill.ttl(Duration::from_secs(1))?;
        Ok::<_, Error>(Some(1u64))
    };
    assert_eq!(small.fetch("k", short).await.unwrap().how, How::Loaded(Filled::Stored));
    h.clock.advance(Duration::from_secs(1));
    assert_eq!(small.get::<u64>("k").await.unwrap(), None);
}

/// Whichever await a call is dropped at, nothing is held and the key can be filled (C6).
pub async fn future_dropped_at_every_await(h: &CacheHarness) {
    for polls in 0..12 {
        let mut left = polls;
        let call = h.cache.get_or_load("k", |_| async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(1u64)
        });
        let mut call = Box::pin(call);
        poll_fn(|cx| {
            while left > 0 {
                left -= 1;
                if call.as_mut().poll(cx).is_ready() {
                    left = 0;
                }
            }
            Poll::Ready(())
        })
        .await;
        drop(call);
        settle().await;
        let _ = h.cache.invalidate("k").await.unwrap();
        assert_eq!(h.cache.stats().await.unwrap(), CacheStats::default());
        lease(&h.cache, "k").await.abandon().await.unwrap();
    }
}
