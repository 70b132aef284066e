//! Schema versions of a store file: migrated at open, forward only, nothing lost, and no writer writes by the rules of another one (C9).

use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use onward::audit::verify::{Check, Verdict};
use onward::audit::{Filter, Page};
use onward::commit::{Change, Commit, CommitOutcome, FeedItem, Record, WriteCondition};
use onward::model::{ChainName, Entry, FencingToken, LabelChange, Labels, LockKey, Object, Payload, RequestId, Revision, Selector};
use onward::store::{At, From, List, Put, Store, Watch};
use onward::{Code, Effect, Kind, Onward};
use rusqlite::Connection;

const CHILD: &str = "ONWARD_TEST_OPENS";
const ODD: [&str; 7] = ["plain", "ÄÖ/..%'\"_*", "\u{10ffff}", " ", "a\\b", "NULL", "~"];

async fn connect(path: &Path) -> onward::Result<Onward> {
    Onward::open(&format!("sqlite:{}", path.display())).await
}

async fn open(path: &Path) -> onward::Result<Store> {
    Ok(connect(path).await?.store())
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

fn request(id: &str) -> Commit {
    Commit::new().put(("thing", "asked"), &1, WriteCondition::MustCreate).request(RequestId::new(id).unwrap())
}

fn fence(token: u64) -> Commit {
    Commit::new().fence(LockKey::raw("job").unwrap(), FencingToken::new(token).unwrap())
}

async fn apply(store: &Store, commit: Commit) {
    assert!(matches!(store.commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
}

/// Makes a file of version 1: its schema by SQL, and what a store without labels would hold in it.
async fn version_1(path: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.db");
    let onward = connect(&model).await.unwrap();
    let store = onward.store();
    for (index, name) in ODD.iter().enumerate() {
        for value in 0..=index {
            let payload = Payload::new(vec![u8::try_from(value).unwrap(); 100], "application/octet-stream").unwrap();
            apply(&store, Commit::new().overwrite(("odd", "thing", name), payload)).await;
        }
    }
    let big = |byte| Payload::new(vec![byte; 1 << 20], "application/x").unwrap();
    apply(&store, Commit::new().overwrite(("thing", "big"), big(1))).await;
    apply(&store, Commit::new().overwrite(("thing", "big"), big(2))).await;
    apply(&store, Commit::new().overwrite(("thing", "gone"), big(3)).overwrite(("thing", "n".repeat(384)), big(4))).await;
    apply(&store, Commit::new().overwrite_delete(("thing", "gone")).invalidate("ns", ["k"])).await;
    apply(&store, request("r1")).await;
    apply(&store, fence(1_000)).await;
    let entry = |n: u32| Entry::new("a.b").by("user:7").on(format!("x{n}")).with_event_id(format!("event-{n}"));
    for n in 0..5 {
        apply(&store, Commit::new().audit(ChainName::new("main").unwrap(), entry(n)).audit(ChainName::new("other").unwrap(), entry(n)))
            .await;
    }
    drop((store, onward));

    let old = Connection::open(path).unwrap();
    old.execute_batch(concat!("PRAGMA journal_mode = WAL; PRAGMA application_id = 0x6f6e7764;", include_str!("schema_1.sql"))).unwrap();
    old.execute("ATTACH ?1 AS model", [model.to_str().unwrap()]).unwrap();
    let names = |sql: &str| -> Vec<String> {
        let mut find = old.prepare(sql).unwrap();
        find.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    for table in names("SELECT name FROM main.sqlite_schema WHERE type = 'table'") {
        let columns = names(&format!("SELECT name FROM pragma_table_info('{table}', 'main')"));
        let found = names(&format!("SELECT name FROM pragma_table_info('{table}', 'model')"));
        // What was called otherwise then.
        let from: Vec<_> = columns.iter().map(|name| if found.contains(name) { name.clone() } else { format!("newest_{name}") }).collect();
        let rows = old
            .execute(&format!("INSERT INTO main.{table} ({}) SELECT {} FROM model.{table}", columns.join(","), from.join(",")), [])
            .unwrap();
        assert!(rows > 0, "{table} has rows");
    }
    old.execute_batch("UPDATE onward_meta SET schema_version = 1").unwrap();
    assert_eq!(number(path), 0, "files of version 1 do not count versions");
}

fn seen(object: &Object) -> String {
    let mut bytes = std::hash::DefaultHasher::new();
    object.value.bytes().hash(&mut bytes);
    format!("{:?} {:?} {} {:x}", object.key, object.meta, object.value.content_type(), bytes.finish())
}

fn change(change: &Change) -> String {
    let state = |object: &Option<Arc<Object>>| object.as_ref().map(|object| seen(object));
    format!("{:?} {:?} {} {:?} {:?}", change.op, change.key, change.version, state(&change.before), state(&change.after))
}

/// Everything that can be read, through the library.
async fn everything(onward: &Onward) -> Vec<String> {
    let store = onward.store();
    let meta = store.queue().engine().meta().await.unwrap();
    let mut all = vec![format!("{meta:?}")];
    for list in [List::new("thing").in_namespace("odd"), List::new("thing")] {
        let page = store.list(list).await.unwrap();
        assert!(page.next.is_none() && page.items.len() > 2);
        for object in page.items {
            all.push(seen(&object));
            all.extend(store.history(&object.key, None, 100).await.unwrap().items.iter().map(|past| change(&past.change)));
        }
    }
    let mut watch = store.watch(Watch { from: From::After(Revision::default()), ..Watch::default() }).await.unwrap();
    while watch.revision() < meta.revision {
        if let FeedItem::Commit(record) = watch.next().await.unwrap() {
            let Record { revision, changes, entries, invalidations, .. } = &*record;
            all.push(format!("{revision} {entries:?} {invalidations:?}"));
            all.extend(changes.iter().map(change));
        }
    }
    all
}

/// Verifies the chains.
async fn sound(onward: &Onward) {
    for chain in ["main", "other"] {
        let report = onward.audit().chain(chain).unwrap().verify(Check::default()).await.unwrap();
        assert_eq!((report.verdict, report.to_seq, report.findings.len()), (Verdict::Ok, 6, 0));
    }
}

#[tokio::test]
async fn a_populated_file_of_version_1_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    version_1(&path).await;
    let rows = |path: &Path| {
        let old = Connection::open(path).unwrap();
        let sum = "SELECT sum(length(payload) + version + revision) FROM onward_objects";
        (old.query_row(sum, [], |row| row.get::<_, i64>(0)).unwrap(), crate::outside::look(path))
    };
    let before = rows(&path);
    let onward = connect(&path).await.unwrap();
    let store = onward.store();
    assert!(number(&path) >= 2);
    let after = rows(&path);
    assert_eq!((before.0, format!("{:?}", before.1)), (after.0, format!("{:?}", after.1)));
    let odd = store.list(List::new("thing").in_namespace("odd")).await.unwrap().items;
    for (index, name) in ODD.iter().enumerate() {
        let object = odd.iter().find(|object| object.key.name() == *name).unwrap();
        assert_eq!((object.meta.version.get(), object.value.bytes()[0]), (index as u64 + 1, u8::try_from(index).unwrap()), "{name}");
        assert!(object.meta.labels.is_empty() && object.meta.expires_at.is_none());
        assert_eq!(store.history(&object.key, None, 100).await.unwrap().items.len(), index + 1);
    }
    let big = store.get_payload(("thing", "big")).await.unwrap().unwrap();
    assert!(big.value.bytes().len() == 1 << 20 && big.value.bytes().iter().all(|byte| *byte == 2));
    let earlier = store.get_at(("thing", "big"), At::Version(onward::model::Version::new(1).unwrap())).await.unwrap().unwrap();
    assert!(earlier.value.bytes().iter().all(|byte| *byte == 1));
    everything(&onward).await;
    sound(&onward).await;
    // What no index leads to any more is found all the same.
    let indexes = "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'onward_entries' AND name <> 'onward_entries_pinned' AND sql IS NOT NULL";
    assert_eq!(Connection::open(&path).unwrap().query_row(indexes, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    let main = onward.audit().chain("main").unwrap();
    for (filter, found) in [
        (Filter { actor: Some("user:7".to_owned()), ..Filter::default() }, 5),
        (Filter { kind: Some("a.b".to_owned()), resource: Some("x3".to_owned()), ..Filter::default() }, 1),
    ] {
        assert_eq!(main.query(&filter, Page::default()).await.unwrap().items.len(), found);
    }
    // What it remembers goes on to hold.
    let CommitOutcome::Committed(again) = store.commit(request("r1")).await.unwrap() else { panic!("it was applied") };
    assert!(again.replayed);
    assert!(matches!(store.commit(fence(999)).await.unwrap(), CommitOutcome::Fenced { .. }));
    // And what is new works on what is old.
    let team = || LabelChange::Set(Labels::read([("team", "blue")]).unwrap());
    let at = big.meta.version;
    apply(&store, Commit::new().put(("thing", "big"), &1, WriteCondition::MatchVersion(at)).labels(team())).await;
    let found = store.list(List::new("thing").with_selector(Selector::new().equals("team", "blue").unwrap())).await.unwrap().items;
    assert_eq!((found.len(), found[0].key.name()), (1, "big"));
    let was = everything(&onward).await;
    drop((store, onward));
    assert_eq!(everything(&connect(&path).await.unwrap()).await, was, "another opening changes nothing");
}

#[tokio::test]
async fn a_backup_of_version_1_is_restored_by_opening_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    version_1(&path).await;
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = DELETE; UPDATE onward_meta SET is_copy = 1").unwrap();
    let store = open(&path).await.unwrap();
    let meta = store.queue().engine().meta().await.unwrap();
    assert!(meta.revision.get() > 1 << 32 && meta.compacted == meta.revision);
    assert_eq!(store.list(List::new("thing").in_namespace("odd")).await.unwrap().items.len(), ODD.len());
}

#[tokio::test]
async fn what_a_killed_migration_left_is_migrated_at_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    version_1(&path).await;
    // Half of the work, spilled into the log and not committed: these very files are what a kill leaves.
    let dying = Connection::open(&path).unwrap();
    dying.execute_batch("PRAGMA cache_size = 1; PRAGMA wal_autocheckpoint = 0; BEGIN IMMEDIATE").unwrap();
    dying.execute_batch("ALTER TABLE onward_objects ADD COLUMN labels TEXT; UPDATE onward_objects SET labels = '{\"a\":\"b\"}'; PRAGMA user_version = 2").unwrap();
    let left = folder.path().join("left.db");
    std::fs::copy(&path, &left).unwrap();
    std::fs::copy(folder.path().join("store.db-wal"), folder.path().join("left.db-wal")).unwrap();
    assert!(std::fs::metadata(folder.path().join("left.db-wal")).unwrap().len() > 1 << 20, "the log has what was half done");
    drop(dying);
    let onward = connect(&left).await.unwrap();
    everything(&onward).await;
    sound(&onward).await;
    let labelled = onward.store().list(List::new("thing").with_selector(Selector::new().exists("a").unwrap())).await.unwrap();
    assert!(labelled.items.is_empty() && number(&left) >= 2);
}

#[tokio::test]
async fn processes_that_open_at_once_migrate_once() {
    if let Some(path) = std::env::var_os(CHILD) {
        let onward = connect(Path::new(&path)).await.unwrap();
        everything(&onward).await;
        apply(&onward.store(), Commit::new().put(("child", std::process::id().to_string()), &1, WriteCondition::MustCreate)).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    version_1(&path).await;
    let children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "schema::processes_that_open_at_once_migrate_once", "--test-threads=1"])
                .env(CHILD, &path)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let onward = connect(&path).await.unwrap();
    sound(&onward).await;
    assert_eq!(onward.store().list(List::new("child")).await.unwrap().items.len(), 4);
}

#[tokio::test]
async fn a_running_writer_of_version_1_stops_and_a_new_one_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    version_1(&path).await;
    // What that writer runs in each transaction, and what it asks at opening.
    let facts = "SELECT epoch, revision, version_floor, compacted, newest_token, origin, at, restore_floor FROM onward_meta";
    let old = Connection::open(&path).unwrap();
    let mut running = old.prepare(facts).unwrap();
    running.query_row([], |row| row.get::<_, String>(0)).unwrap();
    drop(open(&path).await.unwrap());
    assert!(running.query_row([], |row| row.get::<_, String>(0)).unwrap_err().to_string().contains("no such column"));
    let known: i64 = old.query_row("SELECT schema_version FROM onward_meta", [], |row| row.get(0)).unwrap();
    assert_ne!(known, 1);
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
    unsupported(&store.compact(Revision::new(1).unwrap()).await.unwrap_err());
    renumber(&path, mine);
    assert!(store.get::<i32>(("thing", "b")).await.unwrap().is_none(), "nothing was written");
    assert!(matches!(store.create(("thing", "c"), &1).await.unwrap(), Put::Committed(_)), "the writer goes on with its own schema");
}
