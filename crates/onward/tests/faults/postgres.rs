//! A database server whose disk is full: a mount of the server's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{Payload, RequestId};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Effect, Onward, Result, random, retry};

use crate::works;

/// Set in the child, whose temporary folder is on the small disk.
const SMALL: &str = "ONWARD_TEST_SMALL_DISK";
const PATIENCE: Duration = Duration::from_secs(120);

/// What is left for the server when the test begins: more than one file of its log, so that the tables may be what does not fit.
const LEFT: u64 = 24 << 20;

/// Takes all but a little of the disk.
fn ballast(folder: &Path) -> PathBuf {
    let disk = rustix::fs::statvfs(folder).unwrap();
    let file = folder.join("ballast");
    let bytes = (disk.f_bavail * disk.f_frsize).saturating_sub(LEFT);
    assert!(bytes > 0, "the disk is too small to begin with");
    std::fs::write(&file, vec![1; usize::try_from(bytes).unwrap()]).unwrap();
    file
}

async fn write(onward: &Onward, number: usize) -> Result<()> {
    // What no server can compress.
    let bytes: Vec<u8> = (0..4_096).flat_map(|_| random::bytes::<32>()).collect();
    let commit = Commit::new()
        .put_payload(("made", format!("n{number}")), Payload::new(bytes, "x").unwrap(), WriteCondition::MustCreate)
        .request(RequestId::new(&format!("n{number}")).unwrap());
    onward.store().commit(commit).await.map(|done| assert!(matches!(done, CommitOutcome::Committed(_)), "{done:?}"))
}

async fn is_there(onward: &Onward, number: usize) -> bool {
    onward.store().get_payload(("made", format!("n{number}"))).await.unwrap().is_some()
}

/// Runs in the child.
async fn fill(folder: &Path) {
    let server = Postgres::start();
    let onward = Onward::open(&server.url()).await.unwrap();
    write(&onward, 0).await.unwrap();
    let ballast = ballast(folder);
    let mut acknowledged = 1;
    let error = loop {
        assert!(acknowledged < 5_000, "the disk is never full");
        match write(&onward, acknowledged).await {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    std::fs::remove_file(ballast).unwrap();
    // A server that could not write its log has ended itself.
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    while let Err(still) = write(&onward, 1_000_000).await {
        assert!(clock.now() < until, "there is room again: {still:?}");
        if std::net::TcpStream::connect(("127.0.0.1", server.port())).is_err() {
            server.kill();
            server.revive();
        }
        retry::sleep(&clock, Duration::from_millis(100)).await;
    }
    for number in 0..acknowledged {
        assert!(is_there(&onward, number).await, "{number} was acknowledged");
    }
    if error.effect() == Effect::NotApplied {
        assert!(!is_there(&onward, acknowledged).await, "{error:?}");
    }
    // Whatever became of it: the same request finds out.
    write(&onward, acknowledged).await.unwrap();
    assert!(is_there(&onward, acknowledged).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "test.sh reads it")]
async fn a_full_disk_under_postgres_loses_nothing_and_it_recovers() {
    if std::env::var_os(SMALL).is_some() {
        return fill(&std::env::temp_dir()).await;
    }
    if !rustix::process::geteuid().is_root() || !works("unshare", &["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]) {
        println!("skipped: a full disk under Postgres (it needs a superuser, who may mount)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mounted = "mount -t tmpfs -o size=160m,mode=1777 none \"$0\" && TMPDIR=\"$0\" exec \"$@\"";
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", mounted])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "postgres::a_full_disk_under_postgres_loses_nothing_and_it_recovers", "--nocapture"])
        .env(SMALL, "1")
        .status();
    assert!(child.unwrap().success());
}
