//! The archive on a disk that fails: at each of its calls a write, an fsync or a rename ends in an error, finds no space, or is the last
//! thing that the process does. Nothing of it may look like tampering, and the next archive is whole.

use std::path::Path;

use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
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

/// Runs in the child: archives, and ends as that ended.
pub(crate) async fn archive(db: &Path) {
    let chain = open(db, Clock::system()).await;
    // Refused or not: what the chain says afterwards counts.
    let _ = chain.archive(Seq::new(1).unwrap(), &Act::because("a fault")).await;
}

async fn verified(chain: &Chain, what: &str) {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{what}: {report}");
}

/// Does one thing to one call after the other, until there is none left to do it to.
async fn at_each_call(calls: &str, does: &str) {
    if !works("strace", &["-V"]) {
        return skip(calls, "no strace");
    }
    let mut at = 1;
    loop {
        let what = format!("{calls} {does} at {at}");
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("store.db");
        let chain = open(&db, Clock::system()).await;
        chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
        chain.seal(None, &Act::because("a fault")).await.unwrap();
        let log = folder.path().join("calls");
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{does}:when={at}"));
        let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let (mut child, mut reader) = start(&strace, "archive 0", &db);
        listen(&mut reader, usize::MAX, &mut Told::default());
        let ended = child.wait().unwrap();
        let calls = std::fs::read_to_string(&log).unwrap();
        let met = calls.contains("INJECTED") || calls.contains("killed by SIGKILL");
        assert!(ended.success() || met, "{what}: {ended}");
        verified(&chain, &what).await;
        // Later than a dead worker is waited for.
        let clock = Clock::manual();
        clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + 31_000_000);
        let next = open(&db, clock).await;
        let act = Act::because("the next one");
        if next.segment(Seq::new(1).unwrap()).await.unwrap().state == SegmentState::Sealed {
            next.archive(Seq::new(1).unwrap(), &act).await.unwrap();
        }
        verified(&next, &what).await;
        next.heal(&act).await.unwrap();
        verified(&next, &what).await;
        next.purge(Seq::new(1).unwrap(), &act).await.unwrap();
        next.restore(Seq::new(1).unwrap(), None, &act).await.unwrap();
        verified(&next, &what).await;
        if !met {
            assert!(at > 1, "{what}: the archive makes no such call");
            return;
        }
        at += 1;
    }
}

#[tokio::test]
async fn an_archive_survives_an_error_at_each_write_of_its_file() {
    at_each_call("write", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_a_full_disk_at_each_write_of_its_file() {
    at_each_call("write", "error=ENOSPC").await;
}

#[tokio::test]
async fn an_archive_survives_an_error_at_each_fsync() {
    at_each_call("fsync,fdatasync", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_an_error_when_its_file_gets_its_name() {
    at_each_call("link,linkat,rename,renameat,renameat2", "error=EIO").await;
}

#[tokio::test]
async fn an_archive_survives_a_death_at_each_write_and_fsync() {
    at_each_call("write,fsync,fdatasync,link,linkat,rename,renameat,renameat2", "signal=KILL").await;
}
