//! The part `lock` on every engine.

mod moved;
mod processes;
mod races;
mod redis;
mod sqlite;

use std::sync::Arc;

use onward::engine::memory::MemoryLocks;
use onward::engine::postgres::PostgresLocks;
use onward::engine::sqlite::SqliteLocks;
use onward::lock::LockEngine;
use onward::testing::lock::Harness;
use onward::testing::servers::Postgres;
use onward::time::Clock;

/// The handles share what is in the process.
async fn memory(lost_replies: bool) -> Harness {
    let shared = parking_lot::Mutex::new(None::<Arc<dyn LockEngine>>);
    let shared = Arc::new(shared);
    let open = move |clock: Clock| -> futures_core::future::BoxFuture<'static, Arc<dyn LockEngine>> {
        let engine = shared.lock().get_or_insert_with(|| Arc::new(MemoryLocks::new(clock))).clone();
        Box::pin(async move { engine })
    };
    if lost_replies { Harness::open_with_lost_replies(open, ()).await } else { Harness::open(open, ()).await }
}

/// Each handle opens the file anew.
async fn sqlite(lost_replies: bool) -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.locks.db");
    let open = move |clock: Clock| -> futures_core::future::BoxFuture<'static, Arc<dyn LockEngine>> {
        let path = path.clone();
        Box::pin(async move {
            let engine: Arc<dyn LockEngine> = Arc::new(SqliteLocks::open(path, clock).await.unwrap());
            engine
        })
    };
    if lost_replies { Harness::open_with_lost_replies(open, folder).await } else { Harness::open(open, folder).await }
}

/// Each handle has connections of its own.
async fn on_a_redis(lost_replies: bool) -> Harness {
    let server = moved::Moved::start();
    let open = move |clock: Clock| -> futures_core::future::BoxFuture<'static, Arc<dyn LockEngine>> {
        let server = server.clone();
        Box::pin(async move { server.open(clock).await })
    };
    if lost_replies { Harness::open_with_lost_replies(open, ()).await } else { Harness::open(open, ()).await }
}

/// Each handle has connections of its own; leases run on the test's clock.
async fn postgres(lost_replies: bool) -> Harness {
    let url = Postgres::shared().schema().await;
    let open = move |clock: Clock| -> futures_core::future::BoxFuture<'static, Arc<dyn LockEngine>> {
        let url = url.clone();
        Box::pin(async move {
            let engine: Arc<dyn LockEngine> = Arc::new(PostgresLocks::open_on_clock(&url, clock).await.unwrap());
            engine
        })
    };
    if lost_replies { Harness::open_with_lost_replies(open, ()).await } else { Harness::open(open, ()).await }
}

onward::lock_conformance!(on_memory, memory(false));
onward::lock_conformance!(on_memory_with_lost_replies, memory(true));
onward::lock_conformance!(on_postgres, postgres(false));
onward::lock_conformance!(on_postgres_with_lost_replies, postgres(true));
onward::lock_conformance!(on_sqlite, sqlite(false));
onward::lock_conformance!(on_sqlite_with_lost_replies, sqlite(true));
onward::lock_conformance!(on_redis, on_a_redis(false));
onward::lock_conformance!(on_redis_with_lost_replies, on_a_redis(true));
