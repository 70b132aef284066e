//! Several processes at one segment: archivers that race while another process collects (INV-6, INV-7).
//!
//! A child is this very test binary, started anew. Its clock is ahead of the others' by what its task says, so nobody has to wait for the
//! end of an attempt.

mod paused;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Filter, Page};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Code, Config, Onward, retry};

const TASK: &str = "ONWARD_TEST_LIFE_PROCESS";
/// Longer than a worker's silence is waited for.
const LATER_S: i64 = 31;
/// Entries of the segment: more than one page and one batch.
const ROWS: u64 = 1_200;
/// How often the collector comes while the others are at it.
const TIMES: usize = 5;

fn one() -> Seq {
    Seq::new(1).unwrap()
}

fn act() -> Act {
    Act::because("two at once")
}

/// Returns a clock that is so many times the length of an attempt ahead.
fn clock(ahead: i64) -> Clock {
    let clock = Clock::manual();
    clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + ahead * LATER_S * 1_000_000);
    clock
}

/// Where the processes meet.
#[derive(Clone)]
struct Place {
    url: String,
    archive: PathBuf,
}

impl Place {
    fn sqlite(folder: &Path) -> Self {
        Self { url: format!("sqlite:{}", folder.join("onward.db").display()), archive: folder.join("archive") }
    }

    async fn connect(&self, clock: Clock) -> Onward {
        let config = Config::new(&self.url)
            .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
            .with_signing_key(CheckpointKey::from_seed([5; 32]))
            .with_archive_at(format!("file:{}", self.archive.display()))
            .with_clock(clock);
        Onward::connect(config).await.unwrap()
    }

    async fn open(&self, ahead: i64) -> Chain {
        self.connect(clock(ahead)).await.audit().chain("orders").unwrap()
    }

    async fn sealed(&self) -> Chain {
        let chain = self.open(0).await;
        for _ in 0..ROWS / 100 {
            chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
        }
        chain.seal(Some(Seq::new(ROWS).unwrap()), &act()).await.unwrap();
        chain
    }

    fn child(&self, task: &str, ahead: i64) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::life_processes::the_child_does_what_it_is_asked_for", "--nocapture", "--test-threads=1"])
            .env(TASK, format!("{task} {ahead} {} {}", self.url, self.archive.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// The attempts that have files of the segment.
    fn attempts(&self) -> BTreeSet<String> {
        let origin = std::fs::read_dir(&self.archive).unwrap().next().unwrap().unwrap().path();
        let segment = std::fs::read_dir(origin.join(format!("1-{ROWS}"))).unwrap().map(|attempt| attempt.unwrap());
        let with_files = segment.filter(|attempt| std::fs::read_dir(attempt.path()).unwrap().next().is_some());
        with_files.map(|attempt| attempt.file_name().into_string().unwrap()).collect()
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("told {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The child's part; the parent's is to see that it works at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_does_what_it_is_asked_for() {
    let Ok(task) = std::env::var(TASK) else {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::sqlite(folder.path());
        place.sealed().await;
        let (told, good) = ended(place.child("archive", 1));
        assert!(good && told == ["won"], "{told:?}");
        return;
    };
    let words: Vec<&str> = task.splitn(4, ' ').collect();
    let place = Place { url: words[2].to_owned(), archive: words[3].into() };
    let ahead = words[1].parse().unwrap();
    match words[0] {
        "archive" => archive(&place.open(ahead).await).await,
        "collect" => collect(&place.open(ahead).await).await,
        deed => paused::stand(&place, deed, clock(ahead)).await,
    }
}

/// Waits until all are ready.
fn ready() {
    say("ready");
    // Closed is as good: then nobody waits.
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

/// Tries until the segment is archived, by whomever.
async fn archive(chain: &Chain) {
    ready();
    while chain.segment(one()).await.unwrap().state == SegmentState::Sealed {
        match chain.archive(one(), &act()).await {
            Ok(_) => say("won"),
            Err(error) if error.code() == Code::StateConflict => {}
            // The collector, whose clock says that this attempt is over, took its file away while it was written.
            Err(error) => assert_ne!(chain.segment(one()).await.unwrap().attempt, 0, "{error}"),
        }
    }
}

/// Collects while others archive, and once when one of them is done. Each time may cost all of them their attempts, so not for ever.
async fn collect(chain: &Chain) {
    ready();
    for _ in 0..TIMES {
        chain.heal(&act()).await.unwrap();
    }
    while chain.segment(one()).await.unwrap().state == SegmentState::Sealed {
        retry::sleep(&Clock::system(), Duration::from_millis(5)).await;
    }
    chain.heal(&act()).await.unwrap();
    say("collected");
}

/// What a child told until it ended, and whether it ended well.
fn ended(mut child: Child) -> (Vec<String>, bool) {
    drop(child.stdin.take());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.filter_map(|line| Some(line.split_once("told ")?.1.to_owned())).filter(|told| told != "ready").collect();
    (told, child.wait().unwrap().success())
}

async fn verified(chain: &Chain, what: &str) -> u64 {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{what}: {report}");
    report.rows_known
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_processes_that_archive_one_is_named_and_the_others_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::sqlite(folder.path());
    let chain = place.sealed().await;
    // Each believes that those before it died long ago; the collector believes it of all.
    let tasks = [("archive", 0), ("archive", 1), ("archive", 2), ("collect", 3)];
    let told = tokio::task::spawn_blocking({
        let place = place.clone();
        move || {
            let mut children = tasks.map(|(task, ahead)| place.child(task, ahead));
            let mut readers: Vec<_> = children.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap())).collect();
            for reader in &mut readers {
                let mut line = String::new();
                while !line.contains("told ready") {
                    line.clear();
                    assert!(reader.read_line(&mut line).unwrap() > 0, "a child ended before it began");
                }
            }
            for child in &mut children {
                child.stdin.take().unwrap().write_all(b"go\n").unwrap();
            }
            let told: Vec<String> = readers
                .into_iter()
                .flat_map(|reader| reader.lines().map(Result::unwrap).filter_map(|line| Some(line.split_once("told ")?.1.to_owned())))
                .collect();
            (told, children.into_iter().all(|mut child| child.wait().unwrap().success()))
        }
    });
    let (told, good) = told.await.unwrap();
    assert!(good, "{told:?}");
    assert_eq!(told.iter().filter(|told| *told == "won").count(), 1, "{told:?}");
    verified(&chain, "after the race").await;
    let archived = Filter { kind: Some("segment.archived".to_owned()), ..Filter::default() };
    assert_eq!(chain.query(&archived, Page::default()).await.unwrap().items.len(), 1);
    let later = place.open(5).await;
    later.heal(&act()).await.unwrap();
    let named = chain.segment(one()).await.unwrap().archive.unwrap().name;
    let named: BTreeSet<String> = named.rsplit('/').nth(1).map(str::to_owned).into_iter().collect();
    assert_eq!(place.attempts(), named, "only what is named is left");
    later.purge(one(), &act()).await.unwrap();
    later.restore(one(), None, &act()).await.unwrap();
    assert_eq!(verified(&chain, "and the named file gives all back").await, 0);
}
