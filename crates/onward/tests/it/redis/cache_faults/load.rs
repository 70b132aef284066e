//! Many keys, and many readers and writers at once.

use super::*;

#[tokio::test]
async fn ten_thousand_keys_are_flushed_at_once_and_purges_leave_no_byte() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    let keys: Vec<String> = (0..10_000).map(|key| format!("key:{key}")).collect();
    let fill_all = async || {
        for keys in keys.chunks(1_000) {
            let mut fills = Vec::new();
            for lookup in cache.begin_many::<u64, _>(keys).await.unwrap() {
                let Lookup::Lease(lease) = lookup else { panic!("expected a lease") };
                fills.push((lease, &7));
            }
            assert!(cache.commit_many(fills).await.unwrap().into_iter().all(|filled| matches!(filled, Ok(Filled::Stored))));
        }
    };
    fill_all().await;
    let stats = cache.with(CacheOptions::default().with_op_timeout(PATIENCE)).unwrap().stats().await.unwrap();
    assert_eq!((stats.entries, stats.reservations), (10_000, 0));
    cache.flush_namespace().await.unwrap();
    for keys in keys.chunks(1_000) {
        assert!(cache.get_many::<u64, _>(keys).await.unwrap().into_iter().all(|found| found.unwrap().is_none()));
    }
    fill_all().await;
    for keys in keys.chunks(1_000) {
        let purged = cache.invalidate_many(keys).await.unwrap();
        assert!(purged.into_iter().all(|purged| matches!(purged, Ok(Invalidation::Removed))));
    }
    // Only the record of the epoch is left.
    assert_eq!(server.ask("DBSIZE"), "1");
}

/// Runs a race of readers and writers on an engine whose connections live in a runtime of their own.
fn races(spoil: impl Fn(&Redis) + Sync) {
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = runtime.block_on(engine(&server.url()));
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                spoil(&server);
                std::thread::yield_now();
            }
        });
        for seen in [race(&engine, 600), race_stale(&engine, 600)] {
            assert!(seen.loads > 20 && seen.reads > 100, "{seen:?}");
            assert_eq!(seen.stale, 0, "{seen:?}");
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_on_redis() {
    races(|_| std::thread::park_timeout(Duration::from_millis(5)));
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_while_scripts_and_data_are_flushed() {
    races(|server| {
        server.ask("SCRIPT FLUSH");
        server.ask("FLUSHDB");
        std::thread::park_timeout(Duration::from_millis(3));
    });
}
