//! An fsync or a write that fails once, at each place in turn.

use onward::Onward;
use onward::commit::CommitOutcome;
use onward::testing::history::check_ledger;

use crate::child::{Told, commit, listen, start, url};
use crate::outside::look;
use crate::{skip, works};

/// How many writes the child tries.
const WRITES: usize = 12;

/// Lets one call fail in one thread after the other; returns what the child was told.
async fn fails_once(call: &str, error: &str, at: usize) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("store.db");
    // The file is there before: how a new one is made is another matter.
    drop(Onward::open(&url(&db)).await.unwrap());
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={at}"));
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let (mut child, mut reader) = start(&strace, &format!("write {WRITES}"), &db);
    let mut told = Told::default();
    listen(&mut reader, usize::MAX, &mut told);
    assert!(child.wait().unwrap().success(), "{call} {error} at {at}: the child must not fail");
    let found = look(&db);
    check_ledger(&told.ledger, &found).unwrap_or_else(|flaw| panic!("{call} {error} at {at}: {flaw}"));
    let written = |name: &String| found.log.iter().any(|(_, changes)| changes.iter().any(|(own, _)| own == name));
    assert!(!told.refused.iter().any(written), "{call} {error} at {at}: refused, and written");
    settle(&db, &told).await;
    told
}

/// What is unknown is settled by sending it again: there once, whatever became of it before.
async fn settle(db: &std::path::Path, told: &Told) {
    let store = Onward::open(&url(db)).await.unwrap().store();
    for name in told.unknown.iter().chain(&told.refused) {
        let name = name.strip_prefix("made/").unwrap();
        assert!(matches!(store.commit(commit(name)).await.unwrap(), CommitOutcome::Committed(_)));
        assert_eq!(store.get::<String>(("made", name)).await.unwrap().unwrap().meta.version.get(), 1);
    }
    let found = look(db);
    check_ledger(&told.ledger, &found).unwrap();
}

async fn at_each_place(call: &str, error: &str, places: usize) {
    if !works("strace", &["-V"]) {
        return skip(call, "no strace");
    }
    let (mut failures, mut unharmed) = (0, 0);
    for at in 1..=places {
        let told = fails_once(call, error, at).await;
        match told.closed {
            Some(_) => failures += 1,
            None => {
                assert_eq!(told.ledger.writes.len() + told.refused.len() + told.unknown.len(), WRITES);
                let failed = told.refused.len() + told.unknown.len();
                failures += usize::from(failed > 0);
                unharmed += usize::from(failed == 0);
                // The last one may be the one that failed.
                assert!(told.since_failure > 0 || at >= WRITES, "{call} {error} at {at}: nothing works after the failure: {told:?}");
            }
        }
    }
    assert!(failures >= WRITES / 2, "{call} {error}: {failures} runs saw the failure, {unharmed} did not");
}

#[tokio::test]
async fn a_failed_fsync_is_never_success_and_the_writer_goes_on() {
    at_each_place("fsync,fdatasync", "EIO", 14).await;
}

#[tokio::test]
async fn a_failed_write_is_never_success_and_the_writer_goes_on() {
    at_each_place("pwrite64", "EIO", 30).await;
}

#[tokio::test]
async fn a_write_without_space_is_never_success_and_the_writer_goes_on() {
    at_each_place("pwrite64", "ENOSPC", 30).await;
}
