//! A process that stands still in the middle of its work for longer than it is waited for, while another takes the segment over: once it
//! goes on, it changes nothing (INV-6, INV-7).

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onward::audit::{Act, Chain, Segment};
use onward::testing::deed::Deed;
use onward::testing::servers::Postgres;
use onward::time::Clock;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{LATER_S, Place, ROWS, act, one, say, verified};

/// The child's part: works until it has been told of so many pages or batches, as `Archive@3` says, and waits there for a word: for how
/// many seconds it will believe that it slept.
pub(super) async fn stand(place: &Place, task: &str, clock: Clock) {
    let (deed, at) = task.split_once('@').unwrap();
    let deed = Deed::ALL.into_iter().find(|one| format!("{one:?}") == deed).unwrap();
    let (at, seen) = (at.parse::<u64>().unwrap(), AtomicU64::new(0));
    let onward = place.connect(clock.clone()).await;
    // The writer does its chores behind its first batch, and none as long as its clock stands: it is at rest where this process stops.
    assert!(onward.store().create(("warm", "up"), &0).await.is_ok());
    let act = Act::because("it takes its time").watched(move |_, _| {
        if seen.fetch_add(1, Ordering::SeqCst) + 1 == at {
            say("stands");
            let mut slept = String::new();
            std::io::stdin().lock().read_line(&mut slept).unwrap();
            clock.advance(Duration::from_secs(slept.trim().parse().unwrap()));
        }
    });
    match deed.run(&onward.audit().chain("orders").unwrap(), &act).await {
        Ok(()) => say("won"),
        Err(error) => say(error.code().as_str()),
    }
}

/// A child that stands still; what is left of it is killed.
struct Standing {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Standing {
    fn stop(mut child: Child) -> Self {
        let mut standing = Self { lines: BufReader::new(child.stdout.take().unwrap()).lines(), child };
        assert_eq!(standing.told().as_deref(), Some("stands"));
        let pid = Pid::from_child(&standing.child);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
        standing
    }

    fn told(&mut self) -> Option<String> {
        self.lines.by_ref().map(Result::unwrap).find_map(|line| Some(line.split_once("told ")?.1.to_owned()))
    }

    /// Lets it go on, and returns how it ended.
    fn wake(mut self, slept: i64) -> Option<String> {
        self.child.stdin.take().unwrap().write_all(format!("{slept}\n").as_bytes()).unwrap();
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
        let told = self.told();
        assert!(self.child.wait().unwrap().success());
        told
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What must not change: the segment, the place of the head, how many entries are not there.
async fn state(chain: &Chain) -> (Segment, u64, u64) {
    let head = chain.head().await.unwrap().unwrap().seq.get();
    (chain.segment(one()).await.unwrap(), head, verified(chain, "while one stands or after it went on").await)
}

/// On both engines a process stops at a page of its deed, another takes its place, and the first one goes on.
async fn paused(deed: Deed, at: u64, slept: i64, take_over: impl AsyncFn(&Chain)) {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let sqlite = Place::sqlite(folders[0].path());
    let postgres = Place { url: Postgres::shared().schema().await, ..Place::sqlite(folders[1].path()) };
    for place in [sqlite, postgres] {
        deed.prepare(&place.sealed().await, &act()).await.unwrap();
        let standing = Standing::stop(place.child(&format!("{deed:?}@{at}"), 0));
        // To this one the other has said nothing for too long.
        let later = place.open(1).await;
        take_over(&later).await;
        let before = state(&later).await;
        let named = before.0.archive.as_ref().unwrap().name.rsplit('/').nth(1).unwrap().to_owned();
        assert_eq!(
            place.attempts().len(),
            if deed == Deed::Archive && at > 2 { 2 } else { 1 },
            "the other's file is whole, or not yet there"
        );
        assert_eq!(standing.wake(slept).as_deref(), Some("state_conflict"), "{}", place.url);
        assert_eq!(state(&later).await, before, "{}", place.url);
        assert_eq!(place.attempts().into_iter().collect::<Vec<_>>(), [named], "it takes its own files away");
    }
}

/// Its file is half written, and it sees by its own clock that it is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_paused_past_its_lease_changes_nothing() {
    paused(Deed::Archive, 1, LATER_S, async |chain| drop(chain.archive(one(), &act()).await.unwrap())).await;
}

/// Its file is written and read back; its own clock stood, so that only the commit that names the file tells it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_paused_before_it_names_its_file_names_nothing() {
    paused(Deed::Archive, 3, 0, async |chain| drop(chain.archive(one(), &act()).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_paused_past_its_lease_deletes_no_entry_that_came_back() {
    let restored = async |chain: &Chain| {
        chain.heal(&act()).await.unwrap();
        chain.restore(one(), None, &act()).await.unwrap();
        assert_eq!(verified(chain, "all is back").await, 0);
    };
    paused(Deed::Purge, 1, 0, restored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_paused_past_its_lease_brings_no_entry_back() {
    let purged = async |chain: &Chain| {
        chain.heal(&act()).await.unwrap();
        chain.purge(one(), &act()).await.unwrap();
        assert_eq!(verified(chain, "all are gone").await, ROWS - 1);
    };
    paused(Deed::Restore, 1, 0, purged).await;
}
