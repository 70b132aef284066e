//! The store on every engine, plain and with faults.

use std::sync::{Arc, OnceLock};

use onward::Onward;
use onward::commit::engine::SCAN;
use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::engine::memory::MemoryStore;
use onward::engine::postgres::PostgresStore;
use onward::engine::sqlite::SqliteStore;
use onward::model::{LabelChange, Labels, Selector};
use onward::store::List;
use onward::testing::servers::Postgres;
use onward::testing::store::Harness;
use onward::testing::store_faults::Fault;
use onward::time::Clock;
use tokio::runtime::Runtime;

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

async fn postgres(often: Option<Fault>) -> Harness {
    // Some cases hold their own runtime up: the connections live in another.
    static CONNECTIONS: OnceLock<Runtime> = OnceLock::new();
    let runtime = CONNECTIONS.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    let open = async {
        let (url, clock) = (Postgres::shared().schema().await, Clock::system());
        (PostgresStore::open(&url, &clock).await.unwrap(), PostgresStore::open(&url, &clock).await.unwrap())
    };
    let (a, b) = runtime.spawn(open).await.unwrap();
    Harness::open([Arc::new(a), Arc::new(b)], often, ()).await
}

onward::store_conformance!(on_memory, memory(None));
onward::store_conformance!(on_memory_with_lost_answers, memory(Some(Fault::Lost)));
onward::store_conformance!(on_memory_with_refusals, memory(Some(Fault::Refused)));
onward::store_conformance!(on_sqlite, sqlite(None));
onward::store_conformance!(on_sqlite_with_lost_answers, sqlite(Some(Fault::Lost)));
onward::store_conformance!(on_sqlite_with_refusals, sqlite(Some(Fault::Refused)));
onward::store_conformance!(on_sqlite_that_is_slow, sqlite(Some(Fault::Slow)));
onward::store_conformance!(on_postgres, postgres(None));
onward::store_conformance!(on_postgres_with_lost_answers, postgres(Some(Fault::Lost)));
onward::store_conformance!(on_postgres_with_refusals, postgres(Some(Fault::Refused)));

#[tokio::test]
async fn a_rare_label_is_found_behind_many_objects_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Onward::open(&format!("sqlite:{}", folder.path().join("store.db").display())).await.unwrap().store();
    let mut index = 0;
    while index <= SCAN {
        let put = |commit: Commit, i| commit.put(("thing", format!("n{i:06}")), &i, WriteCondition::MustCreate);
        let commit = (index..index + 128).fold(Commit::new(), put);
        assert!(matches!(store.commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
        index += 128;
    }
    let rare = Commit::new().put(("thing", "z"), &1, WriteCondition::MustCreate);
    let rare = rare.labels(LabelChange::Set(Labels::read([("rare", "1")]).unwrap()));
    assert!(matches!(store.commit(rare).await.unwrap(), CommitOutcome::Committed(_)));
    // By the index at once; by a search in parts, each of them short (C7).
    for (selector, pages) in [(Selector::new().equals("rare", "1").unwrap(), 1), (Selector::new().exists("rare").unwrap(), 2)] {
        let (mut found, mut seen, mut cursor) = (Vec::new(), 0, None::<String>);
        loop {
            let list = List::new("thing").with_selector(selector.clone());
            let page = store.list(cursor.map_or(list.clone(), |cursor| list.after(cursor))).await.unwrap();
            found.extend(page.items);
            seen += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((found.len(), found[0].key.name(), seen), (1, "z", pages), "{selector:?}");
    }
}
