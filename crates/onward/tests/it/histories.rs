//! Recorded histories of processes that are killed or stand still: plain, conditional and fenced clients on one object (INV-1, INV-3).
//!
//! A child is this very test binary, started anew. It tells on its standard output when each call begins and ends, by the machine's own
//! clock, which all processes share; so what was under way when it was killed is known to be unknown. The checkers need no search: each
//! answer carries the version or the token that it took.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onward::commit::{Commit, CommitOutcome, FeedItem, WriteCondition};
use onward::lock::{LockOptions, Locks, Owner, Release, Renew};
use onward::model::{FencingToken, LockKey, Payload, Revision, Version};
use onward::store::{Put, Store, WriteOptions};
use onward::testing::history::{Answer, Call, FencedWrite, Op, check_feed, check_fences, check_object};
use onward::testing::lock_history::{Hold, check_holds};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Effect, Error, Kind, Onward, Result, retry};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

mod planted;

const TASK: &str = "ONWARD_TEST_HISTORY";
const TTL: Duration = Duration::from_millis(60);
const OBJECT: (&str, &str) = ("thing", "x");

fn lock() -> LockKey {
    LockKey::raw("x").unwrap()
}

/// What a process tells, one thing a line.
#[derive(Clone)]
struct Teller {
    clock: Clock,
    lines: Arc<dyn Fn(String) + Send + Sync>,
    calls: Arc<AtomicU64>,
    name: u64,
}

impl Teller {
    fn new(name: u64, lines: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { clock: Clock::system(), lines: Arc::new(lines), calls: Arc::default(), name }
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    /// A number that no other call of any process has.
    fn unique(&self) -> u64 {
        self.name * 1_000_000 + self.calls.fetch_add(1, Ordering::SeqCst)
    }

    fn tell(&self, line: String) {
        (self.lines)(line);
    }

    /// Runs a call on the object and tells of it before and after.
    async fn call(&self, call: Call, run: impl Future<Output = Answer>) -> Answer {
        let id = self.unique();
        let (word, at, value) = match call {
            Call::Read => ("read", 0, 0),
            Call::Create { value } => ("create", 0, value),
            Call::Overwrite { value } => ("overwrite", 0, value),
            Call::Replace { at, value } => ("replace", at, value),
            Call::Delete { at } => ("delete", at, 0),
        };
        self.tell(format!("begin {id} {} {word} {at} {value}", self.now()));
        let answer = run.await;
        let (word, version, value) = match answer {
            Answer::Won { version } => ("won", version, 0),
            Answer::Shown(Some((version, value))) => ("shown", version, value),
            Answer::Shown(None) => ("none", 0, 0),
            Answer::Unknown => ("unknown", 0, 0),
        };
        self.tell(format!("end {id} {} {word} {version} {value}", self.now()));
        answer
    }
}

/// Everything that processes told.
#[derive(Debug, Default)]
struct History {
    ops: BTreeMap<u64, Op>,
    fenced: Vec<FencedWrite>,
    holds: BTreeMap<String, Hold>,
    late: u64,
}

impl History {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "begin" => {
                let value = words[5].parse().unwrap();
                let call = match words[3] {
                    "read" => Call::Read,
                    "create" => Call::Create { value },
                    "overwrite" => Call::Overwrite { value },
                    "replace" => Call::Replace { at: number(4), value },
                    _ => Call::Delete { at: number(4) },
                };
                // Until it ends: whoever dies in it never knows.
                self.ops.insert(number(1), Op { start: number(2), end: u64::MAX, call, answer: Answer::Unknown });
            }
            "end" => {
                let op = self.ops.get_mut(&number(1)).unwrap();
                op.end = number(2);
                op.answer = match words[3] {
                    "won" => Answer::Won { version: number(4) },
                    "shown" => Answer::Shown(Some((number(4), words[5].parse().unwrap()))),
                    "none" => Answer::Shown(None),
                    _ => Answer::Unknown,
                };
            }
            // A call that surely did nothing and shows nothing.
            "drop" => drop(self.ops.remove(&number(1))),
            "hold" => {
                let hold = Hold {
                    owner: words[1].to_owned(),
                    asked: number(2),
                    granted: number(3),
                    token: number(4),
                    until: number(5),
                    released: None,
                    lost: None,
                };
                self.holds.insert(hold.owner.clone(), hold);
            }
            "release" => self.holds.get_mut(words[1]).unwrap().released = Some(number(2)),
            "lost" => self.holds.get_mut(words[1]).unwrap().lost = Some(number(2)),
            "fenced" => {
                let accepted = words[4].parse().ok();
                self.late += u64::from(accepted.is_none());
                self.fenced.push(FencedWrite { start: number(1), end: number(2), token: number(3), accepted });
            }
            _ => panic!("a strange line: {line}"),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        let ops: Vec<Op> = self.ops.values().copied().collect();
        // A read without an answer says nothing, and has no effect.
        let ops: Vec<Op> = ops.into_iter().filter(|op| op.call != Call::Read || op.answer != Answer::Unknown).collect();
        check_object(&ops)?;
        check_fences(&self.fenced)?;
        let holds: Vec<Hold> = self.holds.values().cloned().collect();
        check_holds(&holds)
    }
}

/// Whether a call may be made again: it surely was not carried out. The server was busy with another, or took the connection of a process
/// that stood still.
fn was_left_undone<T>(done: &Result<T>) -> bool {
    done.as_ref().is_err_and(|error| error.effect() == Effect::NotApplied && matches!(error.kind(), Kind::Overloaded | Kind::Backend))
}

/// Commits, however busy the store is.
async fn commit(store: &Store, make: impl Fn() -> Commit) -> Result<CommitOutcome> {
    loop {
        let done = store.commit(make()).await;
        if !was_left_undone(&done) {
            return done;
        }
    }
}

/// Puts, however busy the store is.
async fn put_if(store: &Store, value: i64, condition: WriteCondition) -> Result<Put<i64>> {
    loop {
        let done = store.put_if(OBJECT, &value, condition, WriteOptions::new()).await;
        if !was_left_undone(&done) {
            return done;
        }
    }
}

fn unknown(error: &Error) -> Answer {
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    Answer::Unknown
}

fn put(outcome: Result<Put<i64>>) -> Answer {
    match outcome {
        Ok(Put::Committed(written)) => Answer::Won { version: written.version.get() },
        Ok(Put::Conflict(lost)) => Answer::Shown(lost.current.map(|object| (object.meta.version.get(), object.value))),
        Err(error) => unknown(&error),
    }
}

fn value(teller: &Teller) -> i64 {
    i64::try_from(teller.unique()).unwrap()
}

/// Reads, then creates, replaces or deletes at what it read.
async fn conditional(store: Store, teller: Teller, rounds: usize) {
    for round in 0..rounds {
        let read = async {
            match store.get::<i64>(OBJECT).await {
                Ok(found) => Answer::Shown(found.map(|object| (object.meta.version.get(), object.value))),
                // Without an answer it says nothing.
                Err(_) => Answer::Unknown,
            }
        };
        let Answer::Shown(found) = teller.call(Call::Read, read).await else { continue };
        let value = value(&teller);
        match found {
            None => {
                let make = async { put(put_if(&store, value, WriteCondition::MustCreate).await) };
                teller.call(Call::Create { value }, make).await;
            }
            Some((at, _)) if round % 8 == 7 => {
                let delete = async {
                    match commit(&store, || Commit::new().delete(OBJECT, Version::new(at).unwrap())).await {
                        Ok(CommitOutcome::Committed(receipt)) => Answer::Won { version: receipt.writes[0].version.get() },
                        Ok(CommitOutcome::Conflict(lost)) => {
                            Answer::Shown(lost[0].current.clone().map(|object| (object.meta.version.get(), object.value.read().unwrap())))
                        }
                        Ok(CommitOutcome::Fenced { .. }) => panic!("no fence"),
                        Err(error) => unknown(&error),
                    }
                };
                teller.call(Call::Delete { at }, delete).await;
            }
            Some((at, _)) => {
                let condition = WriteCondition::MatchVersion(Version::new(at).unwrap());
                let replace = async { put(put_if(&store, value, condition).await) };
                teller.call(Call::Replace { at, value }, replace).await;
            }
        }
    }
}

async fn overwrite(store: &Store, value: i64, token: Option<FencingToken>) -> Result<CommitOutcome> {
    let make = || {
        let commit = Commit::new().overwrite(OBJECT, Payload::json(&value).unwrap());
        match token {
            Some(token) => commit.fence(lock(), token),
            None => commit,
        }
    };
    commit(store, make).await
}

/// Writes without a condition.
async fn plain(store: Store, teller: Teller, rounds: usize) {
    for _ in 0..rounds {
        let value = value(&teller);
        let write = async {
            match overwrite(&store, value, None).await {
                Ok(CommitOutcome::Committed(receipt)) => Answer::Won { version: receipt.writes[0].version.get() },
                Ok(other) => panic!("no condition: {other:?}"),
                Err(error) => unknown(&error),
            }
        };
        teller.call(Call::Overwrite { value }, write).await;
    }
}

/// Takes the lock and writes under its token, every third time after its lease is long over; releases in the end.
async fn fenced(store: Option<Store>, locks: Locks, teller: Teller, rounds: usize) {
    let options = || LockOptions::fail().with_ttl(TTL).with_wait(Duration::ZERO).with_renew(Renew::Off);
    for round in 0..rounds {
        let owner = Owner::draw();
        let asked = teller.now();
        let leased = match locks.acquire_as(&lock(), owner, options()).await {
            Ok(leased) => leased,
            Err(error) => {
                let nothing_happened = matches!(error.kind(), Kind::Contended | Kind::Overloaded | Kind::Backend);
                assert!(nothing_happened || error.effect() == Effect::Unknown, "{error}");
                retry::sleep(&teller.clock, Duration::from_millis(2)).await;
                continue;
            }
        };
        // The holder's own count, with the margin of one per cent and 2 ms.
        let until = asked + u64::try_from((leased.remaining - leased.remaining / 100).as_nanos()).unwrap() - 2_000_000;
        teller.tell(format!("hold {owner} {asked} {} {} {until}", teller.now(), leased.token));
        let late = round % 3 == 2;
        let pause = if late { TTL * 3 / 2 } else { TTL / 3 };
        if late || store.is_none() {
            retry::sleep(&teller.clock, pause).await;
        }
        if let Some(store) = &store {
            for _ in 0..2 {
                let value = value(&teller);
                let id = teller.unique();
                let start = teller.now();
                teller.tell(format!("begin {id} {start} overwrite 0 {value}"));
                let outcome = overwrite(store, value, Some(leased.token)).await;
                let end = teller.now();
                match outcome {
                    Ok(CommitOutcome::Committed(receipt)) => {
                        teller.tell(format!("end {id} {end} won {} 0", receipt.writes[0].version));
                        teller.tell(format!("fenced {start} {end} {} {}", leased.token, receipt.revision));
                    }
                    Ok(CommitOutcome::Fenced { .. }) => {
                        teller.tell(format!("drop {id}"));
                        teller.tell(format!("fenced {start} {end} {} refused", leased.token));
                    }
                    Ok(CommitOutcome::Conflict(lost)) => panic!("no condition: {lost:?}"),
                    Err(error) => _ = unknown(&error),
                }
            }
        }
        teller.tell(format!("release {owner} {}", teller.now()));
        match locks.release_as(&lock(), &owner).await {
            Ok(Release::AlreadyLost) => teller.tell(format!("lost {owner} {}", teller.now())),
            Ok(Release::Released) => {}
            // Who stood still may not have been heard: the lease ends by itself.
            Err(error) => assert!(error.effect() == Effect::Unknown || error.kind() == Kind::Backend, "{error}"),
        }
    }
}

async fn clients(url: &str, name: u64, rounds: usize, lines: impl Fn(String) + Send + Sync + 'static) {
    let onward = Onward::open(url).await.unwrap();
    let teller = Teller::new(name, lines);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(conditional(onward.store(), teller.clone(), rounds));
    tasks.spawn(plain(onward.store(), teller.clone(), rounds));
    tasks.spawn(fenced(Some(onward.store()), onward.locks(), teller, rounds));
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_process_leave_a_linearizable_history() {
    if let Ok(task) = std::env::var(TASK) {
        let (name, url) = task.split_once(' ').unwrap();
        let say = |line: String| {
            // One write a line: a kill may cut the last one, and no other.
            let mut out = std::io::stdout().lock();
            out.write_all(format!("told {line}\n").as_bytes()).unwrap();
            out.flush().unwrap();
        };
        clients(url, name.parse().unwrap(), usize::MAX, say).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let history = Arc::new(Mutex::new(History::default()));
    let hear = history.clone();
    clients(&sqlite(folder.path()), 1, 60, move |line| hear.lock().hear(&line)).await;
    let history = history.lock();
    history.check().unwrap();
    assert!(history.ops.len() > 150 && history.holds.len() > 10 && history.fenced.len() > 20);
}

fn sqlite(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("store.db").display())
}

/// What happens to processes, and what they told.
#[derive(Default)]
struct Fate {
    history: Mutex<History>,
    /// One has stood still, or none will.
    stood: AtomicBool,
}

/// Lets a process stand still past its leases: until the others, which took its lock meanwhile, have done this much more.
fn stand_still(child: &Child, history: &Mutex<History>) {
    const MORE: usize = 30;
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::STOP).unwrap();
    let clock = Clock::system();
    let (from, until) = (history.lock().fenced.len(), clock.now() + Duration::from_secs(60));
    while history.lock().fenced.len() < from + MORE {
        assert!(clock.now() < until, "the others stand still, too");
        std::thread::yield_now();
    }
    kill_process(pid, Signal::CONT).unwrap();
}

/// Starts clients, hears of so many fenced writes, kills them; three lives. The first of the first place stands still for a while, and until
/// then the last ones of the others live on.
fn lives(place: u64, url: &str, fate: &Fate) {
    const LIVES: [usize; 3] = [8, 15, 11];
    for (life, enough) in LIVES.into_iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "histories::clients_of_one_process_leave_a_linearizable_history", "--nocapture", "--test-threads=1"])
            .env(TASK, format!("{} {url}", 1 + place * 10 + life as u64))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let (mut count, mut line, is_last) = (0, String::new(), life + 1 == LIVES.len());
        while told.read_line(&mut line).unwrap() > 0 {
            if let Some((_, line)) = line.strip_suffix('\n').and_then(|line| line.split_once("told ")) {
                fate.history.lock().hear(line);
                count += usize::from(line.starts_with("fenced "));
                if (place, life, count) == (0, 0, 4) && !fate.stood.load(Ordering::SeqCst) {
                    stand_still(&child, &fate.history);
                    fate.stood.store(true, Ordering::SeqCst);
                }
                if count >= enough && (!is_last || fate.stood.load(Ordering::SeqCst)) {
                    child.kill().unwrap();
                }
            }
            line.clear();
        }
        child.wait().unwrap();
        assert!(count >= enough, "a process ended by itself");
    }
}

/// Three places with three lives each on one store; what is there in the end counts too.
async fn killed(url: &str) -> History {
    // In a file who stands still keeps the others out for as long (a stated limit); a server takes the right from it.
    let fate = Fate { stood: AtomicBool::new(!url.starts_with("postgres")), ..Fate::default() };
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for place in 0..3 {
                let fate = &fate;
                scope.spawn(move || lives(place, url, fate));
            }
        });
    });
    let mut history = fate.history.into_inner();
    let store = Onward::open(url).await.unwrap().store();
    let (start, found) = (Clock::system().now().as_nanos(), store.get::<i64>(OBJECT).await.unwrap());
    let answer = Answer::Shown(found.map(|object| (object.meta.version.get(), object.value)));
    history.ops.insert(0, Op { start, end: u64::MAX, call: Call::Read, answer });
    history.check().unwrap();
    assert!(history.late > 0, "no late write was refused in {} fenced writes", history.fenced.len());
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_leave_a_linearizable_history() {
    let folder = tempfile::tempdir().unwrap();
    let history = killed(&sqlite(folder.path())).await;
    let (won, open) = history.ops.values().fold((0, 0), |(won, open), op| {
        (won + usize::from(matches!(op.answer, Answer::Won { .. })), open + usize::from(op.answer == Answer::Unknown))
    });
    assert!(won > 200 && open > 0, "{won} writes, {open} of them under way at a kill");
}

/// Each process is a replica; one more follows the feed through all of it and is told of each commit once, in order (INV-4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_replicas_on_one_postgres_leave_a_linearizable_history_and_a_whole_feed() {
    let url = Postgres::shared().schema().await;
    let onward = Onward::open(&url).await.unwrap();
    let mut feed = onward.store().queue().feed(Some(Revision::default()), None).await.unwrap();
    let newest = Arc::new(AtomicU64::new(u64::MAX));
    let followed = tokio::spawn({
        let newest = newest.clone();
        async move {
            let mut told = Vec::new();
            while feed.revision().get() < newest.load(Ordering::SeqCst) {
                if let FeedItem::Commit(record) = feed.next().await.unwrap() {
                    told.push(record.revision.get());
                }
            }
            told
        }
    });
    let history = killed(&url).await;
    let end = onward.store().queue().engine().meta().await.unwrap().revision.get();
    newest.store(end, Ordering::SeqCst);
    // The word that lets it look again.
    assert!(matches!(overwrite(&onward.store(), 0, None).await.unwrap(), CommitOutcome::Committed(_)));
    let told = followed.await.unwrap();
    let acknowledged = history.fenced.iter().filter_map(|write| write.accepted).collect();
    // It may have seen the word as well.
    check_feed(0, end.max(told.len() as u64), &told, &acknowledged).unwrap();
}
