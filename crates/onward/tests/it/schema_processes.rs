//! Processes with different schema versions on one file: who migrates, who waits, who stops, and who dies half-way (C4, C9, INV-5).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use onward::audit::verify::{Check, Verdict};
use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{ChainName, Entry};
use onward::store::Put;
use onward::{Kind, Onward};
use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::outside::look;

const TASK: &str = "ONWARD_TEST_SCHEMA";
const OBJECTS: usize = 60;

fn url(db: &Path) -> String {
    format!("sqlite:{}", db.display())
}

fn number(db: &Path) -> i64 {
    Connection::open(db).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

fn start(task: &str, db: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "schema_processes::the_child_opens_and_writes", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{task} {}", db.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Fills a store, and copies what it holds into a file of version 1, as the first release made it.
async fn old_file(folder: &Path) -> PathBuf {
    let (new, old) = (folder.join("new.db"), folder.join("old.db"));
    let onward = Onward::open(&url(&new)).await.unwrap();
    for number in 0..OBJECTS {
        let commit = Commit::new()
            .put(("thing", format!("n{number}")), &"x".repeat(700), WriteCondition::MustCreate)
            .audit(ChainName::new("main").unwrap(), Entry::new("test.made").by("user:7").on(format!("thing/n{number}")));
        assert!(matches!(onward.store().commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
    }
    let file = Connection::open(&old).unwrap();
    file.execute_batch("PRAGMA application_id = 0x6f6e7764; PRAGMA journal_mode = WAL").unwrap();
    file.execute_batch(include_str!("../../src/engine/sqlite/schema.sql")).unwrap();
    file.execute("ATTACH ?1 AS new", [new.to_str().unwrap()]).unwrap();
    let meta = "id, schema_version, epoch, revision, version_floor, restore_floor, compacted, log_bytes, newest_token";
    file.execute_batch(&format!(
        "INSERT INTO main.onward_meta SELECT {meta}, newest_at, origin, created_at, is_copy FROM new.onward_meta;
         UPDATE main.onward_meta SET schema_version = 1;"
    ))
    .unwrap();
    for table in ["objects", "changes", "fences", "requests", "chains", "heads", "entries"] {
        let mut columns = file.prepare(&format!("SELECT name FROM pragma_table_info('onward_{table}', 'main')")).unwrap();
        let columns: Vec<String> = columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let columns = columns.join(", ");
        file.execute_batch(&format!("INSERT INTO main.onward_{table} ({columns}) SELECT {columns} FROM new.onward_{table}")).unwrap();
    }
    file.execute_batch("DETACH new").unwrap();
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(file);
    assert_eq!(number(&old), 0, "the first release counted no versions");
    old
}

/// Everything of the old file is there, and the chain is whole.
async fn whole(db: &Path) {
    let onward = Onward::open(&url(db)).await.unwrap();
    for number in 0..OBJECTS {
        let object = onward.store().get::<String>(("thing", format!("n{number}"))).await.unwrap().unwrap();
        assert_eq!((object.value.len(), object.meta.version.get()), (700, 1));
    }
    assert_eq!(onward.audit().chain("main").unwrap().verify(Check::default()).await.unwrap().verdict, Verdict::Ok);
    assert!(look(db).log.len() >= OBJECTS);
}

/// The child's part; without a task it plays both.
#[tokio::test]
async fn the_child_opens_and_writes() {
    let Ok(task) = std::env::var(TASK) else {
        let folder = tempfile::tempdir().unwrap();
        let db = old_file(folder.path()).await;
        assert!(start("once 0", &db).wait().unwrap().success());
        assert!(number(&db) > 1);
        return whole(&db).await;
    };
    let mut words = task.splitn(3, ' ');
    let (what, count, db) = (words.next().unwrap(), words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    let count: u64 = count.parse().unwrap();
    if what == "small" {
        for (resource, size) in [(Resource::Core, 0), (Resource::Fsize, count)] {
            setrlimit(resource, Rlimit { current: Some(size), maximum: Some(size) }).unwrap();
        }
    }
    let store = Onward::open(&url(&db)).await.unwrap().store();
    let say = |line: &str| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("told {line}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    for round in 0.. {
        match store.create(("new", format!("{}-{round}", std::process::id())), &round).await {
            Ok(Put::Committed(written)) => say(&format!("ok {}", written.revision)),
            Ok(Put::Conflict(lost)) => panic!("a new name: {lost:?}"),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unsupported, "{error}");
                say("stopped");
                return;
            }
        }
        if what != "always" {
            return;
        }
    }
}

#[tokio::test]
async fn several_processes_may_migrate_one_old_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let db = old_file(folder.path()).await;
    let before = look(&db).chains["main"].clone();
    let children: Vec<Child> = (0..4).map(|_| start("once 0", &db)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let found = look(&db);
    assert_eq!(found.chains["main"], before, "entries changed");
    assert_eq!(found.log.len(), OBJECTS + 4, "each wrote once");
    whole(&db).await;
}

#[tokio::test]
async fn a_migration_that_dies_half_way_leaves_the_old_file_and_is_done_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let old = old_file(folder.path()).await;
    let mut died = 0;
    for kib in (40..).step_by(24) {
        let db = folder.path().join(format!("cut-{kib}.db"));
        std::fs::copy(&old, &db).unwrap();
        let survived = start(&format!("small {}", kib << 10), &db).wait().unwrap().success();
        if !survived {
            died += 1;
            let found = number(&db);
            assert!(found == 0 || found == number_of_this_version(), "half a migration: {found}");
        }
        whole(&db).await;
        assert_eq!(number(&db), number_of_this_version());
        if survived {
            break;
        }
    }
    assert!(died >= 3, "it died only {died} times");
}

fn number_of_this_version() -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("fresh.db");
    std::thread::scope(|scope| {
        let open = || tokio::runtime::Runtime::new().unwrap().block_on(async { Onward::open(&url(&db)).await.map(drop).unwrap() });
        scope.spawn(open).join().unwrap();
    });
    number(&db)
}

#[tokio::test]
async fn a_process_with_an_older_schema_stops_at_once_and_writes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("store.db");
    let mut child = start("always 0", &db);
    let mut told = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(told.read_line(&mut line).unwrap() > 0, "the child ended");
            if let Some((_, told)) = line.trim_end().split_once("told ") {
                return told.to_owned();
            }
        }
    };
    for _ in 0..20 {
        assert!(next().starts_with("ok "));
    }
    // A newer version migrates the file, in one transaction.
    let newer = Connection::open(&db).unwrap();
    newer.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    newer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let revision: i64 = newer.query_row("SELECT revision FROM onward_meta", [], |row| row.get(0)).unwrap();
    let mine = number_of_this_version();
    newer.pragma_update(None, "user_version", mine + 1).unwrap();
    newer.execute_batch("COMMIT").unwrap();
    while let Some(written) = next().strip_prefix("ok ") {
        assert!(written.parse::<i64>().unwrap() <= revision, "revision {written} was written after the migration at {revision}");
    }
    assert!(child.wait().unwrap().success());
    let after: i64 = newer.query_row("SELECT revision FROM onward_meta", [], |row| row.get(0)).unwrap();
    assert_eq!(after, revision);
}
