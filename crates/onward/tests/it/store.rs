//! The store on every engine, plain and with faults.

use std::sync::Arc;

use onward::engine::memory::MemoryStore;
use onward::engine::sqlite::SqliteStore;
use onward::testing::store::Harness;
use onward::testing::store_faults::Fault;
use onward::time::Clock;

async fn memory(often: Option<Fault>) -> Harness {
    let store = MemoryStore::new();
    Harness::open([Arc::new(store.clone()), Arc::new(store)], often, ()).await
}

async fn sqlite(often: Option<Fault>) -> Harness {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let clock = Clock::system();
    let open = || SqliteStore::open(&path, &clock);
    let (a, b) = (open().await.unwrap(), open().await.unwrap());
    Harness::open([Arc::new(a), Arc::new(b)], often, dir).await
}

onward::store_conformance!(on_memory, memory(None));
onward::store_conformance!(on_memory_with_lost_answers, memory(Some(Fault::Lost)));
onward::store_conformance!(on_memory_with_refusals, memory(Some(Fault::Refused)));
onward::store_conformance!(on_sqlite, sqlite(None));
onward::store_conformance!(on_sqlite_with_lost_answers, sqlite(Some(Fault::Lost)));
onward::store_conformance!(on_sqlite_with_refusals, sqlite(Some(Fault::Refused)));
onward::store_conformance!(on_sqlite_that_is_slow, sqlite(Some(Fault::Slow)));
