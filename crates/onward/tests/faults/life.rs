//! The life of a segment on a disk that fails: while it is archived, purged and restored, while its file goes, and while what dead attempts
//! left is collected, each call to the disk ends in an error, finds no space, or is the last thing that the process does. Nothing of it may
//! look like tampering, and the next one ends it.

use std::path::Path;
use std::time::Duration;

use onward::audit::verify::{Archives, Check, FindingCode, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Healed};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::testing::deed::Deed;
use onward::time::Clock;
use onward::{Config, Onward};

use crate::child::{Told, listen, start};
use crate::{skip, works};

async fn open(db: &Path, clock: Clock) -> Chain {
    let config = Config::new(crate::child::url(db))
        .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
        .with_signing_key(CheckpointKey::from_seed([5; 32]))
        .with_archive_at(format!("file:{}", db.with_extension("archive").display()))
        .with_clock(clock);
    Onward::connect(config).await.unwrap().audit().chain("orders").unwrap()
}

fn act() -> Act {
    Act::because("a fault")
}

/// Brings a new segment to where the deed begins.
async fn prepare(deed: Deed, chain: &Chain, db: &Path) {
    chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    chain.seal(None, &act()).await.unwrap();
    deed.prepare(chain, &act()).await.unwrap();
    if deed == Deed::Collect {
        let named = chain.segment(Seq::new(1).unwrap()).await.unwrap().archive.unwrap().name;
        let folder = db.with_extension("archive").join(named.rsplitn(3, '/').nth(2).unwrap()).join("9-dead");
        std::fs::create_dir(&folder).unwrap();
        for file in ["entries.ndjson.zst", "manifest", "verify.py#1", "verify.py"] {
            std::fs::write(folder.join(file), "x").unwrap();
        }
    }
}

/// Longer than anything that a child does takes.
const LONGEST: Duration = Duration::from_secs(20);

/// Runs in the child: does it, and ends the process.
///
/// Whoever wakes the runtime, or ends it, writes to it as well. Where that is the call that fails, nobody may be left awake: the process then
/// dies after a while, and that counts as any other death.
pub(crate) async fn live(deed: &str, db: &Path) -> ! {
    let (_awake, asleep) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = asleep.recv_timeout(LONGEST);
        std::process::abort();
    });
    let deed = Deed::ALL.into_iter().find(|each| format!("{each:?}") == deed).unwrap();
    let chain = open(db, Clock::system()).await;
    // Refused or not: what the chain says afterwards counts.
    let _ = deed.run(&chain, &act()).await;
    std::process::exit(0)
}

async fn verified(chain: &Chain, what: &str, may_be_left_over: bool) {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    let fine = report.findings.iter().all(|finding| may_be_left_over && finding.code == FindingCode::Leftover);
    assert!(report.verdict == Verdict::Ok && fine, "{what}: {report}");
}

/// The files of segments that were begun and never ended.
fn begun(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            // A checkpoint that a purge had begun to leave.
            true if name == "checkpoints" => {}
            true => found.extend(begun(&entry.path())),
            false => found.extend(name.contains('#').then_some(name)),
        }
    }
    found
}

/// Does one thing to one call after the other, until there is none left to do it to.
async fn at_each_call(deed: Deed, calls: &str, does: &str) {
    if !works("strace", &["-V"]) {
        return skip(calls, "no strace");
    }
    let mut at = 1;
    loop {
        let what = format!("{deed:?}: {calls} {does} at {at}");
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("store.db");
        let chain = open(&db, Clock::system()).await;
        prepare(deed, &chain, &db).await;
        let log = folder.path().join("calls");
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{does}:when={at}"));
        let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let (mut child, mut reader) = start(&strace, &format!("live {deed:?}"), &db);
        listen(&mut reader, usize::MAX, &mut Told::default());
        let ended = child.wait().unwrap();
        let calls = std::fs::read_to_string(&log).unwrap();
        let met = calls.contains("INJECTED") || calls.contains("killed by SIGKILL");
        assert!(ended.success() || met, "{what}: {ended}");
        // A file whose purge is announced may be there until the next heal.
        verified(&chain, &what, deed == Deed::PurgeFile).await;
        // Later than a dead worker is waited for.
        let clock = Clock::manual();
        clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + 31_000_000);
        let next = open(&db, clock).await;
        let act = Act::because("the next one");
        next.heal(&act).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let state = next.segment(Seq::new(1).unwrap()).await.unwrap().state;
        let (begins, ends) = deed.states();
        assert!(state == begins || state == ends, "{what}: {state}");
        if state != ends {
            deed.run(&next, &act).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        verified(&next, &what, false).await;
        assert_eq!(next.heal(&act).await.unwrap(), Healed::default(), "{what}");
        assert_eq!(begun(&db.with_extension("archive")), [""; 0], "{what}: a file that was begun is left");
        // And what is there can go on: every entry comes back from the file, if there still is one.
        if ends == SegmentState::Archived {
            Deed::Purge.run(&next, &act).await.unwrap();
        }
        if ends != SegmentState::FilePurged {
            Deed::Restore.run(&next, &act).await.unwrap();
        }
        verified(&next, &what, false).await;
        if !met {
            assert!(at > 1, "{what}: it makes no such call");
            return;
        }
        at += 1;
    }
}

#[tokio::test]
async fn an_archive_survives_an_error_at_each_write_of_its_file() {
    at_each_call(Deed::Archive, "write", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_a_full_disk_at_each_write_of_its_file() {
    at_each_call(Deed::Archive, "write", "error=ENOSPC").await;
}

#[tokio::test]
async fn an_archive_survives_an_error_at_each_fsync() {
    at_each_call(Deed::Archive, "fsync,fdatasync", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_an_error_when_its_file_gets_its_name() {
    at_each_call(Deed::Archive, "link,linkat,rename,renameat,renameat2", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_a_death_at_each_write_and_fsync() {
    at_each_call(Deed::Archive, "write,fsync,fdatasync,link,linkat,rename,renameat,renameat2", "signal=KILL").await;
}

#[tokio::test]
async fn an_archive_survives_no_room_for_its_folders() {
    at_each_call(Deed::Archive, "mkdir,mkdirat", "error=ENOSPC").await;
}

#[tokio::test]
async fn an_archive_survives_files_that_cannot_be_opened() {
    at_each_call(Deed::Archive, "openat", "error=EMFILE").await;
}

#[tokio::test]
async fn an_archive_survives_an_error_at_each_read_of_what_it_wrote() {
    at_each_call(Deed::Archive, "read", "error=EIO").await;
}

#[tokio::test]
async fn a_purge_survives_an_error_at_each_read_of_its_file() {
    at_each_call(Deed::Purge, "read", "error=EIO").await;
}

#[tokio::test]
async fn a_purge_survives_a_full_disk_when_it_leaves_its_checkpoint_and_its_rows_go() {
    at_each_call(Deed::Purge, "write,pwrite64,mkdir,link,linkat,rename,renameat,renameat2", "error=ENOSPC").await;
}

#[tokio::test]
async fn a_restore_survives_an_error_at_each_read_of_its_file() {
    at_each_call(Deed::Restore, "read", "error=EIO").await;
}

#[tokio::test]
async fn a_restore_survives_a_full_disk_and_a_death_while_its_rows_come() {
    at_each_call(Deed::Restore, "pwrite64,fsync,fdatasync", "error=ENOSPC").await;
    at_each_call(Deed::Restore, "fsync,fdatasync", "signal=KILL").await;
}

#[tokio::test]
async fn the_end_of_a_file_survives_an_error_when_it_is_listed_and_deleted() {
    at_each_call(Deed::PurgeFile, "getdents64", "error=EIO").await;
    at_each_call(Deed::PurgeFile, "unlink,unlinkat", "error=EIO").await;
    at_each_call(Deed::PurgeFile, "unlink,unlinkat", "signal=KILL").await;
}

#[tokio::test]
async fn collecting_survives_an_error_when_files_are_listed_and_deleted() {
    at_each_call(Deed::Collect, "getdents64", "error=EIO").await;
    at_each_call(Deed::Collect, "unlink,unlinkat", "error=EIO").await;
    at_each_call(Deed::Collect, "unlink,unlinkat", "signal=KILL").await;
}
