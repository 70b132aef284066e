//! A disk that is full, and a folder that is read-only: mounts of the child's own.

use std::path::Path;
use std::time::Duration;

use onward::commit::CommitOutcome;
use onward::lock::LockOptions;
use onward::testing::history::{Ledger, check_ledger};
use onward::{Effect, Onward};

use crate::child::{Told, commit, listen, start, url};
use crate::outside::look;
use crate::{skip, works};

/// A mount needs a name space of its own.
const APART: [&str; 4] = ["unshare", "--user", "--map-root-user", "--mount"];

fn can_mount(name: &str) -> bool {
    let can = works("unshare", &["--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]);
    if !can {
        skip(name, "no name spaces for users");
    }
    can
}

/// Runs in the child, on a disk of 2 MiB.
pub(crate) async fn fill(onward: &Onward, db: &Path) {
    let ballast = db.with_file_name("ballast");
    std::fs::write(&ballast, vec![1; 600 << 10]).unwrap();
    let key = onward.locks().scope("").key("made", "all").unwrap();
    let held = onward.locks().acquire(&key, LockOptions::fail().with_ttl(Duration::from_secs(30))).await.unwrap();
    let mut ledger = Ledger::default();
    let mut write = async |name: String| match onward.store().commit(commit(&name)).await {
        Ok(CommitOutcome::Committed(receipt)) => {
            let (written, entry) = (&receipt.writes[0], &receipt.audit[0]);
            ledger.writes.push((format!("made/{name}"), written.version.get(), written.revision.get()));
            ledger.entries.push(("main".to_owned(), entry.seq.get(), entry.hash.to_string()));
            Ok(())
        }
        Ok(other) => panic!("a new name: {other:?}"),
        Err(error) => Err(error),
    };
    let mut full = None;
    for number in 0..20_000 {
        if let Err(error) = write(format!("n{number}")).await {
            full = Some((number, error));
            break;
        }
    }
    let (number, error) = full.expect("a disk of 2 MiB is full some time");
    assert_eq!(error.effect(), Effect::NotApplied, "the disk was full before anything was durable: {error}");
    // Reads go on, and who asks learns that nothing was written.
    assert!(onward.store().get::<String>(("made", "n0")).await.unwrap().is_some());
    assert!(onward.store().get::<String>(("made", format!("n{number}"))).await.unwrap().is_none());
    // It stays refused, however often it is tried, and nothing is damaged by it.
    for _ in 0..5 {
        assert_eq!(write(format!("n{number}")).await.unwrap_err().effect(), Effect::NotApplied);
    }
    // A holder is not stuck with its lock.
    held.check().unwrap();
    let _ = held.release().await;
    std::fs::remove_file(&ballast).unwrap();
    write(format!("n{number}")).await.expect("there is room again");
    check_ledger(&ledger, &look(db)).unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    if !can_mount("a full disk") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mounted = ["sh", "-c", "mount -t tmpfs -o size=2m none \"$0\" && exec \"$@\"", folder.path().to_str().unwrap()];
    let before: Vec<&str> = APART.into_iter().chain(mounted).collect();
    let (mut child, mut reader) = start(&before, "fill 0", &folder.path().join("store.db"));
    listen(&mut reader, usize::MAX, &mut Told::default());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_a_reason() {
    if !can_mount("a read-only folder") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("store.db");
    drop(Onward::open(&url(&there)).await.unwrap());
    let mounted =
        ["sh", "-c", "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"", folder.path().to_str().unwrap()];
    let before: Vec<&str> = APART.into_iter().chain(mounted).collect();
    for db in [there, folder.path().join("new.db")] {
        let (mut child, mut reader) = start(&before, "look 0", &db);
        let mut told = Told::default();
        listen(&mut reader, usize::MAX, &mut told);
        assert!(child.wait().unwrap().success());
        assert_eq!(told.closed.as_deref(), Some("Unavailable:NotApplied"), "{}", db.display());
    }
}
