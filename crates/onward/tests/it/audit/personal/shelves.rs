//! Personal data change shelves under the writer's right: whoever erases or upgrades beside it waits for his turn.

use std::sync::Arc;
use std::time::Duration;

use onward::audit::AppendOptions;
use onward::audit::engine::{AuditEngine, Scrubbed};
use onward::engine::postgres::PostgresStore;
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Kind, Result, retry};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::postgres::{orders, placed, superuser};

/// Only a broken server lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a redaction of the first value leaves whose process dies before anything is erased.
const FORGET: &str = "UPDATE onward_shelves SET forgetting = true; DELETE FROM onward_personal WHERE seq = 2;
    UPDATE onward_shelves SET forgetting = false, soiled = true";

/// A database whose chain has two values, of which the first is forgotten and not erased.
async fn forgotten() -> (String, Client) {
    let url = Postgres::shared().database().await;
    let values = vec![placed("ada", "a"), placed("bob", "b")];
    orders(&url).await.append_many(values, AppendOptions::new()).await.unwrap();
    Postgres::run_at(&url, FORGET).await;
    let looker = superuser(&url).await;
    (url, looker)
}

async fn store(url: &str) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(url, &Clock::system()).await.unwrap())
}

/// Erases in a task of its own. Its patience is shorter than that of a test on a slow machine.
fn erase(store: Arc<PostgresStore>) -> JoinHandle<Result<Scrubbed>> {
    tokio::spawn(async move {
        loop {
            match store.scrub().await {
                Err(error) if error.kind() == Kind::Overloaded => {}
                scrubbed => return scrubbed,
            }
        }
    })
}

/// Waits until so many of this database wait for another's lock, or something else is so.
async fn waiting(looker: &Client, many: i64, or: impl Fn() -> bool) {
    let until = Clock::system().now() + PATIENCE;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while looker.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < many && !or() {
        assert!(Clock::system().now() < until, "nobody waits");
        retry::sleep(&Clock::system(), Duration::from_millis(5)).await;
    }
}

/// The shelf that values are put on, whether anything is to be done, and how many bytes the two files have.
async fn shelves(looker: &Client) -> (i16, bool, i64, i64) {
    let sql = "SELECT current, soiled OR carrying, pg_relation_size('onward_personal_0'), pg_relation_size('onward_personal_1')
         FROM onward_shelves";
    let row = looker.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// Were they turned twice, the file with the forgotten value would be the one that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_erase_at_once_turn_the_shelves_once() {
    let (url, looker) = forgotten().await;
    let holder = superuser(&url).await;
    holder.batch_execute("BEGIN; SELECT FROM onward_shelves FOR UPDATE").await.unwrap();
    let erasing = [erase(store(&url).await), erase(store(&url).await)];
    // The first is about to turn them. The other would be, had it not to wait for the first.
    waiting(&looker, 2, || false).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    for one in erasing {
        assert!(one.await.unwrap().unwrap().erased);
    }
    let (current, open, first, second) = shelves(&looker).await;
    assert_eq!((current, open, first), (1, false, 0), "the first file is thrown away");
    assert!(second > 0, "what stays was carried");
}

/// Another version's change of the tables is waited for, and then nothing is erased by the rules of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_way_is_waited_for_and_nothing_is_erased() {
    let (url, looker) = forgotten().await;
    let (before, store) = (shelves(&looker).await, store(&url).await);
    let upgrade = superuser(&url).await;
    upgrade.batch_execute("BEGIN; UPDATE onward_meta SET schema_version = 99").await.unwrap();
    let erasing = erase(store);
    waiting(&looker, 1, || erasing.is_finished()).await;
    upgrade.batch_execute("COMMIT").await.unwrap();
    assert_eq!(erasing.await.unwrap().unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(shelves(&looker).await, before);
}
