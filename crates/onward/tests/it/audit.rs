//! The part `audit` on every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod archive_faults;
mod attest;
mod drops;
mod export;
mod import;
mod keyring;
#[cfg(target_os = "linux")]
mod life_crash;
#[cfg(target_os = "linux")]
mod life_processes;
mod manifest;
mod personal;
mod postgres;
mod proofs;
mod purge_checks;
mod s3;
mod schedules;
mod tamper;
mod tamper_past;

use onward::engine::memory::MemoryStore;
use onward::engine::postgres::PostgresStore;
use onward::engine::sqlite::SqliteStore;
use onward::testing::audit::Harness;
use onward::testing::servers::Postgres;
use onward::time::Clock;

async fn memory() -> Harness {
    let store = MemoryStore::new();
    Harness::over(store.clone(), store, Clock::manual(), ()).await
}

async fn sqlite() -> Harness {
    let folder = tempfile::tempdir().unwrap();
    let (path, clock) = (folder.path().join("onward.db"), Clock::manual());
    let first = SqliteStore::open(&path, &clock).await.unwrap();
    let second = SqliteStore::open(&path, &clock).await.unwrap();
    Harness::over(first, second, clock, folder).await
}

async fn postgres() -> Harness {
    let (url, clock) = (Postgres::shared().schema().await, Clock::manual());
    let first = PostgresStore::open(&url, &clock).await.unwrap();
    let second = PostgresStore::open(&url, &clock).await.unwrap();
    Harness::over(first, second, clock, ()).await
}

onward::audit_conformance!(on_memory, memory);
onward::audit_conformance!(on_sqlite, sqlite);
onward::audit_personal_conformance!(personal_on_memory, memory);
onward::audit_personal_conformance!(personal_on_sqlite, sqlite);
onward::audit_life_conformance!(life_on_memory, memory);
onward::audit_life_conformance!(life_on_sqlite, sqlite);
onward::audit_conformance!(on_postgres, postgres);
onward::audit_life_conformance!(life_on_postgres, postgres);
onward::audit_personal_conformance!(personal_on_postgres, postgres);
