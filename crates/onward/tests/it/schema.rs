//! Schema versions of a store file: migrated at open, forward only, and no writer writes by the rules of another one (C9).

use std::path::Path;

use onward::store::{Put, Store};
use onward::{Code, Effect, Kind, Onward};
use rusqlite::Connection;

async fn open(path: &Path) -> onward::Result<Store> {
    Ok(Onward::open(&format!("sqlite:{}", path.display())).await?.store())
}

fn number(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

fn renumber(path: &Path, number: i64) {
    Connection::open(path).unwrap().pragma_update(None, "user_version", number).unwrap();
}

fn unsupported(error: &onward::Error) {
    assert_eq!((error.kind(), error.code(), error.effect()), (Kind::Unsupported, Code::Unsupported, Effect::NotApplied), "{error}");
    assert!(error.message().contains("schema"), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    drop(open(&path).await.unwrap());
    renumber(&path, 99);
    unsupported(&open(&path).await.unwrap_err());
    assert_eq!(number(&path), 99);
}

#[tokio::test]
async fn a_writer_stops_when_another_version_changes_the_schema_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = open(&path).await.unwrap();
    assert!(matches!(store.create(("thing", "a"), &1).await.unwrap(), Put::Committed(_)));
    let mine = number(&path);
    renumber(&path, mine + 1);
    unsupported(&store.create(("thing", "b"), &1).await.unwrap_err());
    unsupported(&store.compact(onward::model::Revision::new(1).unwrap()).await.unwrap_err());
    renumber(&path, mine);
    assert!(store.get::<i32>(("thing", "b")).await.unwrap().is_none(), "nothing was written");
    assert!(matches!(store.create(("thing", "c"), &1).await.unwrap(), Put::Committed(_)), "the writer goes on with its own schema");
}
