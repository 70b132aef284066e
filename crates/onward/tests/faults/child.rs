//! The process under the fault, and what it tells.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{ChainName, Entry, RequestId};
use onward::testing::history::Ledger;
use onward::{Effect, Onward};

const TASK: &str = "ONWARD_TEST_FAULT";

/// What the child was told, line by line.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What was acknowledged to it.
    pub(crate) ledger: Ledger,
    /// The names of objects that it was told were surely not written.
    pub(crate) refused: Vec<String>,
    /// The names of objects that may be written or not.
    pub(crate) unknown: Vec<String>,
    /// Whether it could not open the store, and how that ended.
    pub(crate) closed: Option<String>,
    /// How many writes were acknowledged after the last failure.
    pub(crate) since_failure: usize,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let Some((_, line)) = line.trim_end().split_once("told ") else { return };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ok", name, version, revision, seq, hash] => {
                self.ledger.writes.push((name.to_owned(), version.parse().unwrap(), revision.parse().unwrap()));
                self.ledger.entries.push(("main".to_owned(), seq.parse().unwrap(), hash.to_owned()));
                self.since_failure += 1;
            }
            ["no", name] => {
                self.refused.push(name.to_owned());
                self.since_failure = 0;
            }
            ["unknown", name] => {
                self.unknown.push(name.to_owned());
                self.since_failure = 0;
            }
            ["closed", why] => self.closed = Some(why.to_owned()),
            _ => panic!("a strange line: {line}"),
        }
    }
}

/// Starts the child with a task on a store; `before` is what comes before its own command, such as strace with its options.
pub(crate) fn start(before: &[&str], task: &str, db: &Path) -> (Child, BufReader<ChildStdout>) {
    let own = std::env::current_exe().unwrap();
    let mut all = before.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    all.push(own.to_str().unwrap().to_owned());
    let mut child = Command::new(&all[0])
        .args(&all[1..])
        .args(["--exact", "child::the_child_writes_what_it_is_asked_for", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{task} {}", db.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap());
    (child, told)
}

/// Listens until the child ends, or was told of this many writes.
pub(crate) fn listen(reader: &mut BufReader<ChildStdout>, enough: usize, told: &mut Told) {
    let mut line = String::new();
    while told.ledger.writes.len() < enough && reader.read_line(&mut line).unwrap() > 0 {
        told.hear(&line);
        line.clear();
    }
}

pub(crate) fn url(db: &Path) -> String {
    format!("sqlite:{}", db.display())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("told {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// One commit: an object and an entry, under a request id.
pub(crate) fn commit(name: &str) -> Commit {
    Commit::new()
        .put(("made", name), &"x".repeat(600), WriteCondition::MustCreate)
        .audit(ChainName::new("main").unwrap(), Entry::new("test.made"))
        .request(RequestId::new(name).unwrap())
}

/// Writes so many objects, one after the other, and tells of each.
async fn write(onward: &Onward, prefix: &str, rounds: usize) {
    for round in 0..rounds {
        let name = format!("{prefix}-{round}");
        match onward.store().commit(commit(&name)).await {
            Ok(CommitOutcome::Committed(receipt)) => {
                let (written, entry) = (&receipt.writes[0], &receipt.audit[0]);
                say(&format!("ok made/{name} {} {} {} {}", written.version, written.revision, entry.seq, entry.hash));
            }
            Ok(other) => panic!("a new name: {other:?}"),
            Err(error) if error.effect() == Effect::NotApplied => say(&format!("no made/{name}")),
            Err(_) => say(&format!("unknown made/{name}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_writes_what_it_is_asked_for() {
    let Ok(task) = std::env::var(TASK) else {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("store.db");
        let (mut child, mut reader) = start(&[], "write 10", &db);
        let mut told = Told::default();
        listen(&mut reader, usize::MAX, &mut told);
        assert!(child.wait().unwrap().success());
        assert_eq!((told.ledger.writes.len(), told.ledger.entries.len()), (10, 10));
        return;
    };
    let mut words = task.splitn(3, ' ');
    let (what, count, db) = (words.next().unwrap(), words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    if what == "live" {
        super::life::live(count, &db).await;
    }
    let onward = match Onward::open(&url(&db)).await {
        Ok(onward) => onward,
        Err(error) => {
            say(&format!("closed {:?}:{:?}", error.code(), error.effect()));
            return;
        }
    };
    match what {
        "write" => write(&onward, &format!("w{}", std::process::id()), count.parse().unwrap()).await,
        "fill" => super::full::fill(&onward, &db).await,
        "look" => drop(onward),
        _ => panic!("a strange task: {what}"),
    }
}
