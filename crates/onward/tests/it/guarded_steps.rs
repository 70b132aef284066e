//! A process that dies after each step of a guarded write: what it leaves, and what heals it (C3, C6, INV-1, INV-2, INV-5).
//!
//! A child is this very test binary, started anew. It runs one guarded write and ends itself at a named step: in a closure, when its
//! observer is told of that step, or, in the middle of COMMIT, by the kernel, which ends a process that writes beyond its limit. So
//! nothing in the library knows of these steps.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use onward::guarded::Guarded;
use onward::lock::LockOptions;
use onward::model::RequestId;
use onward::observe::{Event, Observer};
use onward::time::Clock;
use onward::{Config, Onward, retry};
use rustix::process::{Resource, Rlimit, setrlimit};

const TASK: &str = "ONWARD_TEST_STEP";
const TTL: Duration = Duration::from_millis(800);
/// What one page costs in the write-ahead log.
const FRAME: u64 = 24 + 4096;
const SIGABRT: i32 = 6;
const SIGXFSZ: i32 = 25;

/// Where the process dies; the numbers are those of the steps of a guarded write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dies {
    /// 1: the input is checked, the request id is about to be looked up.
    AtTheLookUp,
    /// 2: it holds the lock.
    Locked,
    /// 3: it has read, and changes.
    Reading,
    /// 3: it has changed, and validates.
    Validating,
    /// 3: the commit is complete.
    Built,
    /// 4: it writes the transaction, and this many pages of it are in the file.
    Committing(u64),
    /// 5: COMMIT is durable, nobody knows.
    Durable,
    /// 5: the writer has answered.
    Answered,
    /// 6: its own cache is told.
    Delivered,
    /// 7: it is about to release the lock.
    Releasing,
    /// 7: the lock is free, the caller has no answer.
    Released,
    /// It does not.
    Never,
}

impl Dies {
    const STEPS: [Self; 10] = [
        Self::AtTheLookUp,
        Self::Locked,
        Self::Reading,
        Self::Validating,
        Self::Built,
        Self::Durable,
        Self::Answered,
        Self::Delivered,
        Self::Releasing,
        Self::Released,
    ];

    fn parse(text: &str) -> Self {
        let all = Self::STEPS.into_iter().chain([Self::Never]);
        let committing = text.strip_prefix("Committing(").and_then(|rest| rest.strip_suffix(')')?.parse().ok()).map(Self::Committing);
        committing.or_else(|| all.into_iter().find(|dies| format!("{dies:?}") == text)).expect("a known step")
    }

    fn leaves_the_lease(self) -> bool {
        self >= Self::Locked && self < Self::Released
    }

    fn leaves_it_applied(self) -> bool {
        self >= Self::Durable
    }
}

/// Ends the process when it is told of the step.
#[derive(Debug)]
struct Reaper {
    dies: Dies,
    armed: AtomicBool,
}

impl Observer for Reaper {
    fn observe(&self, event: &Event<'_>) {
        let here = match event {
            Event::LockHeld { by: 1 } => Dies::Locked,
            Event::Batch { .. } => Dies::Durable,
            Event::Commit { .. } => Dies::Answered,
            Event::CacheInvalidation { .. } => Dies::Delivered,
            Event::LockHeld { by: -1 } => Dies::Releasing,
            _ => return,
        };
        if self.armed.load(Ordering::SeqCst) && here == self.dies {
            std::process::abort();
        }
    }
}

fn url(db: &Path) -> String {
    format!("sqlite:{}", db.display())
}

/// The very same write in the child and, sent again, in the parent.
async fn add_one(onward: &Onward, dies: Dies, wal: PathBuf) -> onward::Result<Guarded> {
    let made = AtomicU32::new(0);
    let die_at = move |step| {
        if dies == step {
            std::process::abort();
        }
    };
    onward
        .guard("projects", "42")
        .by("user:7")
        .lock(LockOptions::fail().with_ttl(TTL).with_wait(Duration::from_secs(10)))
        .request(RequestId::new("add-one")?)
        .update(move |edits: &mut u64| {
            die_at(Dies::Reading);
            *edits += 1;
        })
        .validate(move |_: &u64| {
            die_at(Dies::Validating);
            Ok(())
        })
        .audit("project.edit")
        .invalidate(["project:42"])
        .also(move |commit| {
            // Made once to look the request up, and once to be sent.
            let is_sent = made.fetch_add(1, Ordering::SeqCst) > 0;
            die_at(if is_sent { Dies::Built } else { Dies::AtTheLookUp });
            if let (true, Dies::Committing(pages)) = (is_sent, dies) {
                let size = std::fs::metadata(&wal).unwrap().len() + pages * FRAME;
                setrlimit(Resource::Fsize, Rlimit { current: Some(size), maximum: Some(size) }).unwrap();
            }
            commit
        })
        .commit()
        .await
}

fn start(dies: Dies, db: &Path) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guarded_steps::a_guarded_write_that_does_not_die_is_answered", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{dies:?} {}", db.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// Everything that a guarded write moves: value, entries of the chain, revision, whether the request is remembered.
async fn look(onward: &Onward) -> (u64, u64, u64, bool) {
    let value = onward.store().get::<u64>(("projects", "42")).await.unwrap().unwrap().value;
    let entries = onward.audit().chain("main").unwrap().head().await.unwrap().map_or(0, |head| head.seq.get());
    let revision = onward.store().queue().engine().meta().await.unwrap().revision.get();
    let known = onward.store().outcome_of(&RequestId::new("add-one").unwrap()).await.unwrap();
    (value, entries, revision, known.is_some())
}

async fn cache_is_clean(onward: &Onward) {
    let clock = Clock::system();
    let patience = clock.now() + Duration::from_secs(20);
    while onward.cache().get::<u64>("project:42").await.unwrap().is_some() {
        assert!(clock.now() < patience, "the cache stays old");
        retry::sleep(&clock, Duration::from_millis(5)).await;
    }
}

/// The child's part; the parent's is to see that it works at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_write_that_does_not_die_is_answered() {
    let Ok(task) = std::env::var(TASK) else {
        assert!(dies_and_heals(Dies::Never).await.success());
        return;
    };
    let (dies, db) = task.split_once(' ').unwrap();
    let (dies, db) = (Dies::parse(dies), PathBuf::from(db));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).unwrap();
    let reaper = Arc::new(Reaper { dies, armed: AtomicBool::new(false) });
    let onward = Onward::connect(Config::new(url(&db)).with_observer(reaper.clone())).await.unwrap();
    reaper.armed.store(true, Ordering::SeqCst);
    let done = add_one(&onward, dies, db.with_extension("db-wal")).await.unwrap();
    if dies == Dies::Released {
        std::process::abort();
    }
    assert!(!done.replayed);
}

/// Lets a process die at a step, looks at what it left, and sends the same write again.
async fn dies_and_heals(dies: Dies) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("store.db");
    let onward = Onward::open(&url(&db)).await.unwrap();
    onward.guard("projects", "42").create(&0_u64).commit().await.unwrap();
    let cached: u64 = onward.cache().get_or_load("project:42", |_| async { Ok::<_, std::io::Error>(0) }).await.unwrap();
    assert_eq!(cached, 0);
    let before = onward.store().queue().engine().meta().await.unwrap().revision.get();

    let ended = tokio::task::spawn_blocking({
        let db = db.clone();
        move || start(dies, &db)
    });
    let ended = ended.await.unwrap();

    // What is there is whole: object, entry, change log and request row, or none of them.
    let (value, entries, revision, known) = look(&onward).await;
    // The bound on its files may also end a process later, when it folds the log of a transaction that is whole.
    let folding = matches!(dies, Dies::Committing(_)) && revision > before;
    let applied = ended.success() || dies.leaves_it_applied() || folding;
    // The first entry of a chain says what the chain is.
    let whole = if applied { (1, 2, before + 1, true) } else { (0, 0, before, false) };
    assert_eq!((value, entries, revision, known), whole, "{dies:?}");
    if applied {
        // The cache of another process is cleaned by the change log, whoever died.
        cache_is_clean(&onward).await;
    }
    let key = onward.locks().scope("").key("projects", "42").unwrap();
    let lease = onward.locks().status(&key).await.unwrap();
    // A slow machine may need longer than the lease to get here.
    assert!(lease.is_none() || (dies.leaves_the_lease() && !ended.success()), "{dies:?}");

    // The same request again, from another process than the one that died.
    let again = add_one(&onward, Dies::Never, PathBuf::new()).await.unwrap();
    assert_eq!((again.replayed, again.written.version.get()), (applied, 2), "{dies:?}");
    assert_eq!(look(&onward).await, (1, 2, before + 1, true), "{dies:?}");
    assert_eq!(onward.cache().get::<u64>("project:42").await.unwrap(), None, "{dies:?}");
    if let (Some(lease), false) = (lease, applied) {
        let next = onward.locks().acquire(&key, LockOptions::fail()).await.unwrap();
        assert!(Some(next.token()) > lease.token, "{dies:?}");
    }
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_death_at_any_step_nothing_is_half_done_and_the_same_request_heals_it() {
    let mut dying = tokio::task::JoinSet::new();
    for dies in Dies::STEPS {
        dying.spawn(async move {
            assert_eq!(dies_and_heals(dies).await.signal(), Some(SIGABRT), "{dies:?}: the child did not die there");
        });
    }
    while let Some(died) = dying.join_next().await {
        died.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_death_in_the_middle_of_commit_nothing_is_half_done() {
    let mut torn = 0;
    for first in (0..).step_by(4) {
        let mut dying = tokio::task::JoinSet::new();
        for pages in first..first + 4 {
            dying.spawn(dies_and_heals(Dies::Committing(pages)));
        }
        let mut survived = 0;
        while let Some(died) = dying.join_next().await {
            let ended = died.unwrap();
            survived += u64::from(ended.success());
            torn += u64::from(ended.signal() == Some(SIGXFSZ));
            assert!(ended.success() || ended.signal() == Some(SIGXFSZ), "{ended}");
        }
        if survived == 4 {
            break;
        }
    }
    assert!(torn > 4, "a guarded write takes more pages than {torn}");
}
