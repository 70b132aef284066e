//! Files that are damaged, foreign or out of reach: a typed error, and not a byte of them is touched (C9, C10).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use onward::audit::verify::{Check, Verdict};
use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{ChainName, Entry};
use onward::store::Put;
use onward::{Code, Effect, Error, Onward};
use rusqlite::Connection;

fn url(db: &Path) -> String {
    format!("sqlite:{}", db.display())
}

/// A store with a hundred objects and entries, closed, in one file.
async fn store(folder: &Path) -> PathBuf {
    let db = folder.join("store.db");
    let onward = Onward::open(&url(&db)).await.unwrap();
    for number in 0..100 {
        let commit = Commit::new().audit(ChainName::new("main").unwrap(), Entry::new("test.done"));
        assert!(matches!(onward.store().commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
        let text = "x".repeat(500);
        assert!(matches!(onward.store().create(("thing", format!("n{number:03}")), &text).await.unwrap(), Put::Committed(_)));
    }
    drop(onward);
    // What the library's own threads do when they end is not waited for; this is the state of a file at rest.
    for file in [&db, &folder.join("store.locks.db")] {
        Connection::open(file).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    // Copies, since those threads may still hold the files.
    let alone = folder.join("alone.db");
    std::fs::copy(&db, &alone).unwrap();
    std::fs::copy(folder.join("store.locks.db"), folder.join("alone.locks.db")).unwrap();
    alone
}

/// Each file of a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    all.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

async fn refused(db: &Path) -> Error {
    let before = std::fs::read(db).ok();
    let error = Onward::open(&url(db)).await.expect_err("the file is refused");
    assert!(std::fs::read(db).ok() == before, "the file was touched");
    assert_eq!(error.effect(), Effect::NotApplied);
    error
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text: Vec<u8> = "# my notes\n".bytes().cycle().take(5_000).collect();
    let noise: Vec<u8> = (0_u32..8_192).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [("short", b"hello".to_vec()), ("text", text), ("noise", noise)] {
        let db = folder.path().join(name);
        std::fs::write(&db, &bytes).unwrap();
        assert_eq!(refused(&db).await.code(), Code::IntegrityFailure, "{name}");
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sql) in [
        ("tables", "CREATE TABLE mine (a); INSERT INTO mine VALUES (1)"),
        ("marked", "PRAGMA application_id = 7; CREATE TABLE mine (a)"),
        ("marked and empty", "PRAGMA application_id = 7; PRAGMA user_version = 1"),
        ("wal", "PRAGMA journal_mode = WAL; CREATE TABLE mine (a)"),
    ] {
        let db = folder.path().join(name);
        Connection::open(&db).unwrap().execute_batch(sql).unwrap();
        assert_eq!(refused(&db).await.code(), Code::IntegrityFailure, "{name}");
    }
}

#[tokio::test]
async fn a_lock_file_in_the_place_of_a_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let db = store(folder.path()).await;
    let locks = folder.path().join("alone.locks.db");
    assert_eq!(refused(&locks).await.code(), Code::IntegrityFailure);
    // And a store in the place of the locks.
    std::fs::copy(&db, folder.path().join("other.locks.db")).unwrap();
    let before = std::fs::read(&db).unwrap();
    let error = Onward::open(&url(&folder.path().join("other.db"))).await.unwrap_err();
    assert_eq!(error.code(), Code::IntegrityFailure);
    assert!(std::fs::read(folder.path().join("other.locks.db")).unwrap() == before, "the file was touched");
}

#[tokio::test]
async fn a_path_that_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(refused(folder.path()).await.code(), Code::Unavailable, "a folder");
    assert_eq!(refused(&folder.path().join("none/store.db")).await.code(), Code::Unavailable, "in a folder that is not there");
    assert!(!folder.path().join("none").exists());
    // A folder that nobody may write to, not even a superuser.
    assert_eq!(refused(Path::new("/proc/self/store.db")).await.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_folder_that_may_not_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let db = store(folder.path()).await;
    let (inner, locked) = (folder.path().join("inner"), std::fs::Permissions::from_mode(0o500));
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(&db, inner.join("store.db")).unwrap();
    std::fs::set_permissions(&inner, locked).unwrap();
    // A superuser may write in spite of it; the fault tests mount such a folder.
    let superuser = std::fs::write(inner.join("probe"), b"").is_ok();
    for name in ["store.db", "new.db"] {
        let before = files(&inner);
        match Onward::open(&url(&inner.join(name))).await {
            Ok(_) => assert!(superuser, "{name}"),
            Err(error) => {
                assert_eq!((error.code(), error.effect()), (Code::Unavailable, Effect::NotApplied), "{name}");
                assert!(files(&inner) == before, "a file was touched");
            }
        }
    }
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// Reads all objects and verifies the chain.
async fn read_all(db: &Path) -> Result<Verdict, Error> {
    let onward = Onward::open(&url(db)).await?;
    for number in 0..100 {
        let object = onward.store().get::<String>(("thing", format!("n{number:03}"))).await?;
        assert_eq!(object.expect("an object is gone and nobody says so").value, "x".repeat(500), "another value than was written");
    }
    Ok(onward.audit().chain("main")?.verify(Check::default()).await?.verdict)
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_never_another_value() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(store(folder.path()).await).unwrap();
    let (half, last) = (whole.len() / 8_192 * 4_096, whole.len() - 4_096);
    for (round, cut) in (0..).zip([100, 1_000, 4_095, 4_096, 8_192, half, half + 1, half + 2_048, last, last + 8, whole.len() - 1]) {
        let db = folder.path().join(format!("cut-{round}.db"));
        std::fs::write(&db, &whole[..cut]).unwrap();
        assert_eq!(refused(&db).await.code(), Code::IntegrityFailure, "cut at {cut} of {}", whole.len());
    }
}

#[tokio::test]
async fn a_last_page_that_a_crash_left_half_written_is_mended_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("store.db");
    let onward = Onward::open(&url(&db)).await.unwrap();
    for number in 0..10 {
        assert!(matches!(onward.store().create(("thing", format!("n{number}")), &"x".repeat(500)).await.unwrap(), Put::Committed(_)));
    }
    // Folded, but the log is still whole: as it is when a crash comes before the file is synced.
    Connection::open(&db).unwrap().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    let (whole, copy) = (std::fs::read(&db).unwrap(), folder.path().join("copy.db"));
    std::fs::write(&copy, &whole[..whole.len() - 2_048]).unwrap();
    std::fs::copy(folder.path().join("store.db-wal"), folder.path().join("copy.db-wal")).unwrap();
    let mended = Onward::open(&url(&copy)).await.unwrap();
    for number in 0..10 {
        let object = mended.store().get::<String>(("thing", format!("n{number}"))).await.unwrap();
        assert_eq!(object.unwrap().value, "x".repeat(500));
    }
}

#[tokio::test]
async fn a_page_that_is_overwritten_is_an_error_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(store(folder.path()).await).unwrap();
    let pages = whole.len() / 4_096;
    let mut errors = 0;
    for page in 0..pages {
        let db = folder.path().join(format!("page-{page}.db"));
        let mut spoilt = whole.clone();
        spoilt[page * 4_096..(page + 1) * 4_096].fill(0xa5);
        std::fs::write(&db, &spoilt).unwrap();
        if let Err(error) = read_all(&db).await {
            assert_eq!(error.code(), Code::IntegrityFailure, "page {page}: {error}");
            errors += 1;
        }
        std::fs::remove_file(&db).unwrap();
    }
    assert!(errors > pages / 2, "{errors} of {pages} pages");
}

#[tokio::test]
async fn a_lost_log_leaves_an_older_state_that_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at_rest = store(folder.path()).await;
    let onward = Onward::open(&url(&at_rest)).await.unwrap();
    for number in 0..10 {
        let commit = Commit::new()
            .put(("later", format!("n{number}")), &1, WriteCondition::MustCreate)
            .audit(ChainName::new("main").unwrap(), Entry::new("test.later"));
        assert!(matches!(onward.store().commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
    }
    // Copied without its log, as a careless backup does.
    let copy = folder.path().join("copy.db");
    std::fs::copy(&at_rest, &copy).unwrap();
    assert_eq!(read_all(&copy).await.unwrap(), Verdict::Ok);
    let onward = Onward::open(&url(&copy)).await.unwrap();
    assert!(onward.store().get::<u64>(("later", "n9")).await.unwrap().is_none());
    let report = onward.audit().chain("main").unwrap().verify(Check::default()).await.unwrap();
    assert_eq!(report.verdict, Verdict::Ok, "cut at a commit, so whole in itself; only a saved head shows the loss");
}
