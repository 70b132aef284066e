//! A process that dies after each step of an archive, a purge or a restore: what it leaves raises no alarm, and the next one ends it
//! (C3, INV-6, INV-7).
//!
//! A child is this very test binary, started anew. It ends itself when its observer is told that a commit is durable, or answered, or when
//! it is told that rows moved or entries were written; each in its turn, until it lives to the end.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onward::audit::verify::{Archives, Check, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::model::{CheckpointKey, Data, Entry, MacKeys, Seq};
use onward::observe::{Event, Observer, Silent};
use onward::testing::deed::Deed;
use onward::time::Clock;
use onward::{Config, Onward, random};

const TASK: &str = "ONWARD_TEST_LIFE";
const SIGABRT: i32 = 6;
/// Entries of the segment: two pages, two batches.
const ROWS: u64 = 1_200;

/// What dies.
const DEEDS: [Deed; 3] = [Deed::Archive, Deed::Purge, Deed::Restore];

/// Where it dies, and when it comes there for which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    /// A commit is durable, and nobody knows.
    Durable(u64),
    /// A commit was answered.
    Answered(u64),
    /// A page was written, or a batch of rows moved.
    Moved(u64),
}

/// Ends the process when it comes to its step.
#[derive(Debug)]
struct Reaper {
    dies: Dies,
    armed: AtomicU64,
    seen: AtomicU64,
}

impl Reaper {
    fn at(&self, here: fn(u64) -> Dies) {
        if self.armed.load(Ordering::SeqCst) == 1 && std::mem::discriminant(&here(0)) == std::mem::discriminant(&self.dies) {
            let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
            if here(seen) == self.dies {
                std::process::abort();
            }
        }
    }
}

impl Observer for Reaper {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Batch { .. } => self.at(Dies::Durable),
            Event::Commit { .. } => self.at(Dies::Answered),
            _ => {}
        }
    }
}

async fn open(folder: &Path, clock: Clock, observer: Arc<dyn Observer>) -> Chain {
    let config = Config::new(format!("sqlite:{}", folder.join("onward.db").display()))
        .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
        .with_signing_key(CheckpointKey::from_seed([5; 32]))
        .with_archive_at(format!("file:{}", folder.join("archive").display()))
        .with_clock(clock)
        .with_observer(observer);
    Onward::connect(config).await.unwrap().audit().chain("orders").unwrap()
}

/// A store whose segment is where the deed begins, made by a process that has ended: its files are as they will stay.
fn original(deed: Deed, made: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = child(&format!("{deed:?} {made} 0 {}", folder.path().display()));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    folder
}

async fn make(deed: Deed, folder: &Path) {
    let chain = open(folder, Clock::system(), Arc::new(Silent)).await;
    for _ in 0..13 {
        chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    }
    let act = Act::because("a crash");
    chain.seal(Some(Seq::new(ROWS).unwrap()), &act).await.unwrap();
    deed.prepare(&chain, &act).await.unwrap();
}

/// A segment whose file is so long, and shrinks so little, that it is written in parts.
async fn make_long(folder: &Path) {
    let chain = open(folder, Clock::system(), Arc::new(Silent)).await;
    for _ in 0..16 {
        let noise = (0..12).flat_map(|_| random::bytes::<65_536>()).map(|byte| match b'#' + (byte & 63) {
            b'\\' => '~',
            plain => char::from(plain),
        });
        let data = Data::json(&serde_json::json!({ "noise": noise.collect::<String>() })).unwrap();
        chain.append(Entry::new("order.paid").with_data(data), AppendOptions::new()).await.unwrap();
    }
    chain.seal(None, &Act::because("a crash")).await.unwrap();
}

fn start(deed: Deed, dies: Dies, folder: &Path) -> Output {
    let (kind, count) = match dies {
        Dies::Durable(count) => ("durable", count),
        Dies::Answered(count) => ("answered", count),
        Dies::Moved(count) => ("moved", count),
    };
    child(&format!("{deed:?} {kind} {count} {}", folder.display()))
}

fn child(task: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit::life_crash::the_child_does_what_it_is_asked_for", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .output()
        .unwrap()
}

/// The child's part; the parent's is to see that it works at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_does_what_it_is_asked_for() {
    let Ok(task) = std::env::var(TASK) else {
        let folder = original(Deed::Archive, "made");
        assert!(start(Deed::Archive, Dies::Answered(1_000), folder.path()).status.success());
        return;
    };
    let words: Vec<&str> = task.splitn(4, ' ').collect();
    let deed = DEEDS.into_iter().find(|deed| format!("{deed:?}") == words[0]).unwrap();
    let count = words[2].parse().unwrap();
    match words[1] {
        "made" => return make(deed, Path::new(words[3])).await,
        "long" => return make_long(Path::new(words[3])).await,
        _ => {}
    }
    let dies = match words[1] {
        "durable" => Dies::Durable(count),
        "answered" => Dies::Answered(count),
        _ => Dies::Moved(count),
    };
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
    let reaper = Arc::new(Reaper { dies, armed: AtomicU64::new(0), seen: AtomicU64::new(0) });
    let chain = open(Path::new(words[3]), Clock::system(), reaper.clone()).await;
    reaper.armed.store(1, Ordering::SeqCst);
    let act = Act::because("a crash").watched(move |_, _| reaper.at(Dies::Moved));
    deed.run(&chain, &act).await.unwrap();
}

/// Lets a process die there and looks at what it left; tells whether it did die.
async fn dies_and_heals(deed: Deed, dies: Dies, original: &Path) -> bool {
    let folder = tempfile::tempdir().unwrap();
    copy(original, folder.path());
    let ended = tokio::task::spawn_blocking({
        let folder = folder.path().to_owned();
        move || start(deed, dies, &folder)
    });
    let ended = ended.await.unwrap();
    let (status, said) = (ended.status, String::from_utf8_lossy(&ended.stderr));
    assert!(status.success() || status.signal() == Some(SIGABRT), "{deed:?} {dies:?}: {status}: {said}");

    // Later than any worker is waited for.
    let clock = Clock::manual();
    clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + 31_000_000);
    let chain = open(folder.path(), clock, Arc::new(Silent)).await;
    verified(&chain, deed, dies).await;
    let act = Act::because("after the crash");
    let healed = chain.heal(&act).await.unwrap();
    assert_eq!(healed.waiting, Vec::<u64>::new(), "{deed:?} {dies:?}");
    verified(&chain, deed, dies).await;
    let state = chain.segment(Seq::new(1).unwrap()).await.unwrap().state;
    assert!(state == deed.states().0 || state == deed.states().1, "{deed:?} {dies:?}: {state}");
    if state != deed.states().1 {
        deed.run(&chain, &act).await.unwrap();
    }
    let report = verified(&chain, deed, dies).await;
    assert_eq!(report, if deed == Deed::Purge { ROWS - 1 } else { 0 }, "{deed:?} {dies:?}: entries that are gone");
    // Each step stands in the chain once for each time that it was begun.
    let again = chain.heal(&act).await.unwrap();
    assert_eq!(again, onward::audit::Healed::default(), "{deed:?} {dies:?}");
    !status.success()
}

async fn verified(chain: &Chain, deed: Deed, dies: Dies) -> u64 {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{deed:?} {dies:?}: {report}");
    report.rows_known
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let there = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&there).unwrap();
            copy(&path, &there);
        } else {
            std::fs::copy(&path, &there).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_death_at_any_step_of_a_segments_life_nothing_is_half_done_for_long() {
    let mut deeds = tokio::task::JoinSet::new();
    for deed in DEEDS {
        deeds.spawn(async move {
            let original = tokio::task::spawn_blocking(move || original(deed, "made")).await.unwrap();
            let mut deaths = 0;
            for dies in [Dies::Durable as fn(u64) -> Dies, Dies::Answered, Dies::Moved] {
                let mut count = 1;
                while dies_and_heals(deed, dies(count), original.path()).await {
                    count += 1;
                }
                assert!(count > 2, "{deed:?}: it died at {:?} {} times only", dies(0), count - 1);
                deaths += count - 1;
            }
            (deed, deaths)
        });
    }
    while let Some(ended) = deeds.join_next().await {
        let (deed, deaths) = ended.unwrap();
        assert!(deaths >= 6, "{deed:?}: {deaths}");
    }
}

/// The files in an archive, by the ends of their names.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.file_name().into_string().unwrap()),
        }
    }
    found.sort();
    found
}

/// A file in parts has another name until it is whole: what a dead process had written of it is found under that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_file_that_a_dead_archive_left_is_collected_and_never_that_of_a_live_one() {
    let original = tokio::task::spawn_blocking(|| original(Deed::Archive, "long")).await.unwrap();
    // One page is too short yet.
    let (mut count, mut folder) = (1, tempfile::tempdir().unwrap());
    let half = |folder: &Path| files(&folder.join("archive")) == ["entries.ndjson.zst#1"];
    while !half(folder.path()) {
        (count, folder) = (count + 1, tempfile::tempdir().unwrap());
        copy(original.path(), folder.path());
        let there = folder.path().to_owned();
        let ended = tokio::task::spawn_blocking(move || start(Deed::Archive, Dies::Moved(count), &there)).await.unwrap();
        assert_eq!(ended.status.signal(), Some(SIGABRT), "it lived, and left no half of a file");
    }
    // For all that anybody knows, it lives: nobody takes its file away.
    let act = Act::because("after the crash");
    let now = open(folder.path(), Clock::system(), Arc::new(Silent)).await;
    assert_eq!(now.heal(&act).await.unwrap().collected, 0);
    assert!(half(folder.path()));
    let clock = Clock::manual();
    clock.step_wall(Clock::system().wall().as_micros() - clock.wall().as_micros() + 31_000_000);
    let later = open(folder.path(), clock, Arc::new(Silent)).await;
    assert_eq!(later.heal(&act.clone().dry()).await.unwrap().collected, 1);
    assert!(half(folder.path()));
    assert_eq!(later.heal(&act).await.unwrap().collected, 1);
    assert_eq!(files(&folder.path().join("archive")), [""; 0]);
    Deed::Archive.run(&later, &act).await.unwrap();
    assert_eq!(files(&folder.path().join("archive")), ["entries.ndjson.zst", "manifest", "verify.py"]);
    verified(&later, Deed::Archive, Dies::Moved(count)).await;
}
