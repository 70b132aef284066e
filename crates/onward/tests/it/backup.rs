//! A restored copy never repeats a number of the time that it lost (C4).

use std::os::unix::fs::PermissionsExt;

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{FencingToken, LockKey, Version};
use onward::store::{Delete, From, Put, Store, Watch, WriteOptions};
use onward::{Kind, Onward};

async fn open(path: &std::path::Path) -> Onward {
    Onward::open(&format!("sqlite:{}", path.display())).await.unwrap()
}

async fn replace(store: &Store, value: i32, at: Version) -> Version {
    match store.replace(("thing", "x"), &value, at).await.unwrap() {
        Put::Committed(written) => written.version,
        other => panic!("expected a write, not {other:?}"),
    }
}

fn fenced(lock: &LockKey, token: FencingToken) -> Commit {
    Commit::new().fence(lock.clone(), token)
}

#[tokio::test]
async fn a_restored_copy_refuses_old_versions_cursors_and_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (original, copy) = (folder.path().join("store.db"), folder.path().join("copy.db"));
    let lost = open(&original).await;
    let store = lost.store();
    let Put::Committed(first) = store.create(("thing", "x"), &1).await.unwrap() else { panic!("it is new") };
    let lock = LockKey::raw("job").unwrap();
    let old = FencingToken::new(1_000).unwrap();
    assert!(matches!(store.commit(fenced(&lock, old)).await.unwrap(), CommitOutcome::Committed(_)));
    store.backup(&copy).await.unwrap();
    // The time that the restore loses.
    let seen = replace(&store, 2, first.version).await;
    let epoch = store.queue().engine().meta().await.unwrap();
    assert!(matches!(store.commit(fenced(&lock, FencingToken::new(2_000).unwrap())).await.unwrap(), CommitOutcome::Committed(_)));

    let restored = open(&copy).await.store();
    let meta = restored.queue().engine().meta().await.unwrap();
    assert!(meta.epoch != epoch.epoch && meta.revision.get() > epoch.revision.get() + (1 << 32) - 1 && meta.compacted == meta.revision);
    let object = restored.get::<i32>(("thing", "x")).await.unwrap().unwrap();
    assert_eq!((object.value, object.meta.version), (1, first.version), "what the copy holds is as it was");
    for token in [1_000, 2_000] {
        let outcome = restored.commit(fenced(&lock, FencingToken::new(token).unwrap())).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Fenced { .. }), "{outcome:?}");
    }
    let next = replace(&restored, 3, first.version).await;
    assert!(next.get() > seen.get() + 1_000, "{next} may be a version of the lost time");
    assert!(matches!(restored.replace(("thing", "x"), &4, seen).await.unwrap(), Put::Conflict(_)));
    for (after, epoch) in [(epoch.revision, None), (meta.revision, Some(epoch.epoch))] {
        let watch = Watch { from: From::After(after), epoch, ..Watch::default() };
        assert_eq!(restored.watch(watch).await.unwrap_err().kind(), Kind::Expired);
    }
    let Delete::Removed(gone) = restored.delete_if(("thing", "x"), next, WriteOptions::new()).await.unwrap() else {
        panic!("at its version")
    };
    let Put::Committed(again) = restored.create(("thing", "x"), &5).await.unwrap() else { panic!("it is gone") };
    assert!(gone.version > next && again.version > gone.version);
}

#[tokio::test]
async fn two_restores_of_one_copy_differ_and_reopening_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let store = open(&path("store.db")).await.store();
    assert!(matches!(store.create(("thing", "x"), &1).await.unwrap(), Put::Committed(_)));
    store.backup(path("one.db")).await.unwrap();
    std::fs::copy(path("one.db"), path("two.db")).unwrap();
    let mut metas = Vec::new();
    for name in ["one.db", "two.db", "two.db"] {
        metas.push(open(&path(name)).await.store().queue().engine().meta().await.unwrap());
    }
    assert!(metas[0].epoch != metas[1].epoch && metas[0].revision != metas[1].revision);
    assert_eq!(metas[1], metas[2]);
}

#[tokio::test]
async fn a_backup_is_private_whole_while_writers_run_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let store = open(&folder.path().join("store.db")).await.store();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                let put = |commit: Commit, side: &str| commit.put(("thing", format!("{side}{n}")), &n, WriteCondition::MustCreate);
                assert!(matches!(store.commit(put(put(Commit::new(), "a"), "b")).await.unwrap(), CommitOutcome::Committed(_)));
            }
        })
    };
    store.backup(&copy).await.unwrap();
    writer.await.unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(store.backup(&copy).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(store.backup(folder.path().join("no/such/folder.db")).await.unwrap_err().kind(), Kind::Backend);
    let restored = open(&copy).await.store();
    let listed = restored.list(onward::store::List::new("thing").with_limit(1_000)).await.unwrap();
    let sides = |side: char| listed.items.iter().filter(|object| object.key.name().starts_with(side)).count();
    assert_eq!(sides('a'), sides('b'), "a commit is in the copy whole or not at all");
    let memory = Onward::open("memory:").await.unwrap().store();
    assert_eq!(memory.backup(folder.path().join("m.db")).await.unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn what_a_crash_left_of_a_backup_is_gone_at_the_next_start_and_a_living_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    drop(open(&path("store.db")).await);
    for name in ["store.db.backup-dead", "store.db.backup-dead-journal", "store.db.backup-lost-journal"] {
        std::fs::write(path(name), "half").unwrap();
    }
    for name in ["store.db.backup-lives", "store.db.backup-lives-journal", "other.db.backup-dead", "store.db.copy"] {
        std::fs::write(path(name), "half").unwrap();
    }
    let lives = std::fs::File::open(path("store.db.backup-lives")).unwrap();
    lives.lock().unwrap();
    drop(open(&path("store.db")).await);
    let left = |part: &str| {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.contains(part)).collect();
        names.sort();
        names
    };
    assert_eq!(left("backup"), ["other.db.backup-dead", "store.db.backup-lives", "store.db.backup-lives-journal"]);
    assert_eq!(left("copy"), ["store.db.copy"]);
    drop(lives);
    let onward = open(&path("store.db")).await;
    assert_eq!(left("store.db.backup"), Vec::<String>::new());
    // The one that is on its way has no name, and is locked as long as it had one.
    let mut copy = onward.store().backup_file().await.unwrap();
    assert_eq!(left("backup"), ["other.db.backup-dead"]);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut copy, &mut bytes).unwrap();
    assert!(bytes.starts_with(b"SQLite format 3"));
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
