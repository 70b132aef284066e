//! The tamper catalogue on a SQLite file: each attack is named at its place, by the library and by `verify.py` in the same words.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use onward::audit::verify::{Check, Report, SavedHead, Verdict};
use onward::audit::{AppendOptions, read_saved_head, save_head};
use onward::model::merkle::Frontier;
use onward::model::{Data, Entry, Hash, MacKeys, Row, genesis};
use onward::time::Clock;
use onward::{Code, Config, Kind, Onward};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rusqlite::{Connection, params};

const KEY: [u8; 32] = [7; 32];
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/verify/verify.py");

/// A good database with 40 entries in the chain `orders`, and what an auditor has.
struct Base {
    folder: tempfile::TempDir,
    saved: SavedHead,
    auditor: Mutex<Auditor>,
}

/// One Python process that runs `verify.py` again and again: starting one for each attack takes longer than all the rest.
pub(super) struct Auditor {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

const AUDITOR: &str = r#"
import contextlib, importlib.util, io, json, sys
spec = importlib.util.spec_from_file_location("verify", sys.argv[1])
verify = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify)
for line in sys.stdin:
    sys.argv = ["verify.py", *json.loads(line)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = verify.main()
    print(json.dumps([code, out.getvalue()]), flush=True)
"#;

impl Auditor {
    pub(super) fn new() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", AUDITOR, SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is needed for this test");
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    pub(super) fn ask(&mut self, arguments: &[String]) -> (u8, String) {
        let line = serde_json::to_string(arguments).unwrap();
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        serde_json::from_str(&self.answers.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        // At the end of its input it ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Base {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual();
        let url = format!("sqlite:{}", folder.path().join("live.db").display());
        let onward = Onward::connect(Config::new(url).with_keys(keys()).with_clock(clock.clone())).await.unwrap();
        let refund = |order: u64| {
            let entry = Entry::new("order.refund").with_data(Data::json(&serde_json::json!({ "order": order })).unwrap());
            if order.is_multiple_of(3) { entry } else { entry.by("user:7").on(format!("order:{order}")) }
        };
        for (chain, count) in [("orders", 39), ("others", 39)] {
            let chain = onward.audit().chain(chain).unwrap();
            clock.advance(Duration::from_secs(1));
            chain.append_many((0..count).map(refund).collect(), AppendOptions::new()).await.unwrap();
        }
        let report = onward.audit().chain("orders").unwrap().verify(Check::default()).await.unwrap();
        let path = folder.path().join("head");
        let saved = save_head(&path, &report, Clock::system().wall()).unwrap();
        assert_eq!(read_saved_head(&path).unwrap().unwrap(), saved);
        std::fs::write(folder.path().join("key"), hex(&KEY)).unwrap();
        let live = Connection::open(folder.path().join("live.db")).unwrap();
        live.execute("VACUUM INTO ?1", [folder.path().join("good.db").to_str().unwrap()]).unwrap();
        Self { folder, saved, auditor: Mutex::new(Auditor::new()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies the good database and lets somebody loose on it who may do everything that SQL can.
    fn damaged(&self, damage: impl FnOnce(&mut Attacker)) -> PathBuf {
        let path = self.path("damaged.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.path(&format!("damaged.db{suffix}")));
        }
        std::fs::copy(self.path("good.db"), &path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE loose (chain INTEGER, seq INTEGER, prev BLOB, hash BLOB, mac BLOB, kid TEXT, at INTEGER, event_id TEXT, kind TEXT,
                   actor TEXT, resource TEXT, data BLOB, pii BLOB, flags INTEGER);
                 INSERT INTO loose SELECT * FROM onward_entries;
                 DROP TABLE onward_entries;
                 ALTER TABLE loose RENAME TO onward_entries;
                 PRAGMA ignore_check_constraints = ON;",
            )
            .unwrap();
        damage(&mut Attacker { connection, chain: 0, origin: self.saved.origin.clone() });
        path
    }

    /// Verifies with the library and with `verify.py`, and insists that they say the same.
    async fn verify(&self, path: &Path, keyed: bool, saved: bool) -> Report {
        let onward = open(path, if keyed { keys() } else { MacKeys::none() }).await;
        let check = Check { saved: saved.then(|| self.saved.clone()), ..Check::default() };
        let report = onward.audit().chain("orders").unwrap().verify(check).await.unwrap();
        let mut arguments = vec![path.to_str().unwrap().to_owned(), "--chain".to_owned(), "orders".to_owned()];
        let mut option = |name: &str, file: &str| arguments.extend([name.to_owned(), self.path(file).to_str().unwrap().to_owned()]);
        if keyed {
            option("--key", "key");
        }
        if saved {
            option("--checkpoint", "head");
        }
        assert_eq!(self.auditor.lock().unwrap().ask(&arguments), (report.exit(), format!("{report}\n")));
        report
    }
}

/// Who can write the database, knows the code, and may have the key or not.
struct Attacker {
    connection: Connection,
    chain: i64,
    origin: String,
}

impl Attacker {
    fn sql(&self, sql: &str) {
        let sql = sql.replace("$orders", "(SELECT id FROM onward_chains WHERE name = 'orders')");
        self.connection.execute_batch(&sql).unwrap();
    }

    /// Hashes everything from a position on again, and the head: `keys` seal what has the name of a key.
    fn rehash(&mut self, from: i64, keys: &MacKeys) {
        self.chain = self.connection.query_row("SELECT id FROM onward_chains WHERE name = 'orders'", [], |row| row.get(0)).unwrap();
        let (mut prev, mut frontier, mut last) = (genesis(&self.origin), Frontier::default(), (0, 0));
        for mut row in self.rows() {
            if row.seq >= from {
                row.prev = prev.as_bytes().to_vec();
                let hash = row.compute_hash(&self.origin);
                row.hash = hash.as_bytes().to_vec();
                let kid = String::from_utf8(row.kid).unwrap();
                row.mac = keys.sign(&kid, &hash).map(|mac| mac.to_vec()).or(row.mac);
                let update = "UPDATE onward_entries SET prev = ?1, hash = ?2, mac = ?3 WHERE chain = ?4 AND seq = ?5";
                self.connection.execute(update, params![row.prev, row.hash, row.mac, self.chain, row.seq]).unwrap();
            }
            prev = Hash::from_bytes(row.hash.try_into().unwrap());
            frontier.push(&prev);
            last = (row.seq, row.at);
        }
        let update = "UPDATE onward_heads SET seq = ?1, hash = ?2, frontier = ?3, at = ?4 WHERE chain = ?5";
        self.connection.execute(update, params![last.0, prev.as_bytes(), frontier.to_bytes(), last.1, self.chain]).unwrap();
    }

    fn rows(&self) -> Vec<Row> {
        let mut find = self
            .connection
            .prepare("SELECT seq, kid, at, event_id, kind, actor, resource, data, flags, mac, hash FROM onward_entries WHERE chain = ?1 ORDER BY seq")
            .unwrap();
        let text = |row: &rusqlite::Row<'_>, index| row.get::<_, Option<String>>(index).map(|text| text.map(String::into_bytes));
        find.query_map([self.chain], |row| {
            Ok(Row {
                seq: row.get(0)?,
                kid: text(row, 1)?.unwrap(),
                at: row.get(2)?,
                event_id: text(row, 3)?.unwrap(),
                kind: text(row, 4)?.unwrap(),
                actor: text(row, 5)?,
                resource: text(row, 6)?,
                data: row.get::<_, Vec<u8>>(7)?.into(),
                flags: row.get(8)?,
                mac: row.get(9)?,
                hash: row.get(10)?,
                ..Row::default()
            })
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
    }
}

fn keys() -> MacKeys {
    MacKeys::one("k1", KEY).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn open(path: &Path, keys: MacKeys) -> Onward {
    Onward::connect(Config::new(format!("sqlite:{}", path.display())).with_keys(keys)).await.unwrap()
}

fn python(database: &Path, arguments: &[String]) -> Output {
    Command::new("python3").arg(SCRIPT).arg(database).args(arguments).output().expect("python3 is needed for this test")
}

/// What the auditor has: nothing, or the key and a head saved outside.
type Seen = &'static [&'static str];

/// One row of the catalogue: the attack, who sees it with nothing, and who sees it with key and saved head.
type Attack = (&'static str, fn(&mut Attacker), Seen, Seen);

const CATALOGUE: &[Attack] = &[
    (
        "data edited",
        |a| a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "hash edited",
        |a| a.sql("UPDATE onward_entries SET hash = zeroblob(32) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "hash made null",
        |a| a.sql("UPDATE onward_entries SET hash = NULL WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "link edited",
        |a| a.sql("UPDATE onward_entries SET prev = zeroblob(32) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(link) 5..5", "BROKEN(edited) 5..5"],
        &["BROKEN(link) 5..5", "BROKEN(edited) 5..5"],
    ),
    (
        "time set back",
        |a| a.sql("UPDATE onward_entries SET at = 3 WHERE chain = $orders AND seq = 5"),
        &["BROKEN(time) 5..5", "BROKEN(edited) 5..5"],
        &["BROKEN(time) 5..5", "BROKEN(edited) 5..5"],
    ),
    (
        "time set back and hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET at = 3 WHERE chain = $orders AND seq = 5");
            a.rehash(1, &MacKeys::none());
        },
        &["BROKEN(time) 5..5"],
        &["BROKEN(time) 5..5", "BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "actor removed",
        |a| a.sql("UPDATE onward_entries SET actor = NULL WHERE chain = $orders AND seq = 6"),
        &["BROKEN(edited) 6..6"],
        &["BROKEN(edited) 6..6"],
    ),
    (
        "absent actor made empty",
        |a| a.sql("UPDATE onward_entries SET actor = '' WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "text that is not UTF-8",
        |a| a.sql("UPDATE onward_entries SET kind = CAST(x'ff' AS TEXT) WHERE chain = $orders AND seq = 5"),
        &["BROKEN(edited) 5..5"],
        &["BROKEN(edited) 5..5"],
    ),
    (
        "mac removed",
        |a| a.sql("UPDATE onward_entries SET mac = NULL WHERE chain = $orders AND seq = 5"),
        &["BROKEN(mac) 5..5"],
        &["BROKEN(mac) 5..5"],
    ),
    ("mac edited", |a| a.sql("UPDATE onward_entries SET mac = zeroblob(32) WHERE chain = $orders AND seq = 5"), &[], &["BROKEN(mac) 5..5"]),
    (
        "one row hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.sql("CREATE TABLE kept AS SELECT * FROM onward_entries; CREATE TABLE head AS SELECT * FROM onward_heads");
            a.rehash(5, &MacKeys::none());
            a.sql("CREATE TABLE row5 AS SELECT hash FROM onward_entries WHERE chain = $orders AND seq = 5");
            a.sql("DELETE FROM onward_entries; INSERT INTO onward_entries SELECT * FROM kept; DELETE FROM onward_heads; INSERT INTO onward_heads SELECT * FROM head");
            a.sql("UPDATE onward_entries SET hash = (SELECT hash FROM row5) WHERE chain = $orders AND seq = 5");
        },
        &["BROKEN(link) 6..6"],
        &["BROKEN(mac) 5..5", "BROKEN(link) 6..6"],
    ),
    (
        "row deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 5"),
        &["BROKEN(gap) 5..5"],
        &["BROKEN(gap) 5..5"],
    ),
    (
        "rows deleted and the rest moved up",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 40; UPDATE onward_heads SET seq = 39 WHERE chain = $orders"),
        &["BROKEN(head) 39..39", "BROKEN(root) 39..39"],
        &["BROKEN(head) 39..39", "BROKEN(root) 39..39", "TRUNCATED 40..40"],
    ),
    (
        "first rows cut",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq <= 3"),
        &["BROKEN(gap) 1..3"],
        &["BROKEN(gap) 1..3"],
    ),
    (
        "two rows swapped",
        |a| a.sql("UPDATE onward_entries SET seq = 11 - seq WHERE chain = $orders AND seq IN (5, 6)"),
        &["BROKEN(link) 5..7", "BROKEN(edited) 5..6"],
        &["BROKEN(link) 5..7", "BROKEN(edited) 5..6"],
    ),
    (
        "row inserted before the first",
        |a| {
            a.sql("INSERT INTO onward_entries SELECT chain, 0, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain = $orders AND seq = 5")
        },
        &["BROKEN(foreign) 0..0"],
        &["BROKEN(foreign) 0..0"],
    ),
    (
        "row duplicated",
        |a| a.sql("INSERT INTO onward_entries SELECT * FROM onward_entries WHERE chain = $orders AND seq = 5"),
        &["BROKEN(foreign) 5..5"],
        &["BROKEN(foreign) 5..5"],
    ),
    (
        "row planted beyond the head",
        |a| {
            a.sql("INSERT INTO onward_entries SELECT chain, 41, hash, zeroblob(32), mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain = $orders AND seq = 40")
        },
        &["BROKEN(edited) 41..41", "BROKEN(head) 41..41"],
        &["BROKEN(edited) 41..41", "BROKEN(head) 41..41"],
    ),
    (
        "row copied from another chain",
        |a| {
            a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq = 5; INSERT INTO onward_entries SELECT $orders, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, pii, flags FROM onward_entries WHERE chain <> $orders AND seq = 5")
        },
        &["BROKEN(link) 5..6", "BROKEN(edited) 5..5", "BROKEN(time) 6..6"],
        &["BROKEN(link) 5..6", "BROKEN(edited) 5..5", "BROKEN(time) 6..6"],
    ),
    (
        "chains swapped by name",
        |a| a.sql("UPDATE onward_chains SET name = name || '-'; UPDATE onward_chains SET name = iif(name = 'orders-', 'others', 'orders')"),
        &["BROKEN(origin) 1..1"],
        &["BROKEN(origin) 1..1", "DIVERGED 1..40"],
    ),
    (
        "origin edited",
        |a| a.sql("UPDATE onward_chains SET origin = 'evil/orders' WHERE name = 'orders'"),
        &["BROKEN(origin) 1..1"],
        &["BROKEN(origin) 1..1"],
    ),
    (
        "tail cut, head left",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30"),
        &["BROKEN(gap) 31..40"],
        &["BROKEN(gap) 31..40", "TRUNCATED 31..40"],
    ),
    (
        "tail cut with its head",
        |a| {
            a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30");
            a.rehash(31, &MacKeys::none());
        },
        &[],
        &["TRUNCATED 31..40"],
    ),
    (
        "put back and continued",
        |a| {
            a.sql("UPDATE onward_entries SET event_id = 'other' || seq WHERE chain = $orders AND seq > 30");
            a.rehash(31, &keys());
        },
        &[],
        &["DIVERGED 1..40"],
    ),
    (
        "all rows deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders"),
        &["BROKEN(gap) 1..40"],
        &["BROKEN(gap) 1..40", "TRUNCATED 1..40"],
    ),
    (
        "rows and head deleted",
        |a| a.sql("DELETE FROM onward_entries WHERE chain = $orders; DELETE FROM onward_heads WHERE chain = $orders"),
        &["BROKEN(gap) 1..1"],
        &["BROKEN(gap) 1..1", "TRUNCATED 1..40"],
    ),
    ("head deleted", |a| a.sql("DELETE FROM onward_heads WHERE chain = $orders"), &["BROKEN(head) 40..40"], &["BROKEN(head) 40..40"]),
    (
        "head edited",
        |a| a.sql("UPDATE onward_heads SET hash = zeroblob(32) WHERE chain = $orders"),
        &["BROKEN(head) 40..40"],
        &["BROKEN(head) 40..40"],
    ),
    (
        "time of the head edited",
        |a| a.sql("UPDATE onward_heads SET at = at + 1 WHERE chain = $orders"),
        &["BROKEN(head) 40..40"],
        &["BROKEN(head) 40..40"],
    ),
    (
        "tree of the head edited",
        |a| a.sql("UPDATE onward_heads SET frontier = zeroblob(64) WHERE chain = $orders"),
        &["BROKEN(root) 40..40"],
        &["BROKEN(root) 40..40"],
    ),
    (
        "tree of the head cut",
        |a| a.sql("UPDATE onward_heads SET frontier = x'' WHERE chain = $orders"),
        &["BROKEN(root) 40..40"],
        &["BROKEN(root) 40..40"],
    ),
    (
        "everything hashed again",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.rehash(1, &MacKeys::none());
        },
        &[],
        &["BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "everything hashed again without macs",
        |a| {
            a.sql("UPDATE onward_entries SET kid = '', mac = NULL WHERE chain = $orders");
            a.rehash(1, &MacKeys::none());
        },
        &[],
        &["DIVERGED 1..40", "BROKEN(mac) 1..40"],
    ),
    (
        "the rest hashed again without macs",
        |a| {
            a.sql("UPDATE onward_entries SET kid = '', mac = NULL WHERE chain = $orders AND seq >= 5");
            a.rehash(5, &MacKeys::none());
        },
        &[],
        &["BROKEN(mac) 5..40", "DIVERGED 1..40"],
    ),
    (
        "sealed with a key of the attacker",
        |a| {
            a.sql("UPDATE onward_entries SET kid = 'k2' WHERE chain = $orders AND seq >= 5");
            a.rehash(5, &MacKeys::one("k2", [8; 32]).unwrap());
        },
        &[],
        &["BROKEN(unknown_key) 5..40", "DIVERGED 1..40"],
    ),
    (
        "rewritten by a holder of the key",
        |a| {
            a.sql("UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 5");
            a.rehash(1, &keys());
        },
        &[],
        &["DIVERGED 1..40"],
    ),
    (
        "forged control entry",
        |a| {
            a.sql("UPDATE onward_entries SET kind = 'segment.purged' WHERE chain = $orders AND seq = 5");
            a.rehash(5, &keys());
        },
        &["BROKEN(control) 5..5"],
        &["BROKEN(control) 5..5", "DIVERGED 1..40"],
    ),
    (
        "a second creation",
        |a| {
            a.sql("UPDATE onward_entries SET kind = 'chain.created', flags = flags | 1 WHERE chain = $orders AND seq = 5");
            a.rehash(5, &keys());
        },
        &["BROKEN(control) 5..5"],
        &["BROKEN(control) 5..5", "DIVERGED 1..40"],
    ),
];

fn seen(report: &Report) -> Vec<String> {
    report.findings.iter().map(|finding| format!("{} {}..{}", finding.code, finding.from_seq, finding.to_seq)).collect()
}

#[tokio::test]
async fn every_attack_of_the_catalogue_is_named_at_its_seq_and_the_python_verifier_agrees() {
    let base = Base::new().await;
    for (attack, damage, with_nothing, with_all) in CATALOGUE {
        let path = base.damaged(damage);
        for (keyed, saved, expected) in [(false, false, with_nothing), (true, true, with_all)] {
            let report = base.verify(&path, keyed, saved).await;
            assert_eq!(seen(&report), *expected, "{attack}, keyed {keyed}: {report}");
            assert_eq!(report.exit(), u8::from(!expected.is_empty()), "{attack}");
            assert!(report.verdict == Verdict::Ok || !report.authenticated, "{attack}");
        }
    }
}

#[tokio::test]
async fn a_good_copy_raises_no_alarm() {
    let base = Base::new().await;
    let untouched = base.damaged(|_| {});
    for (keyed, saved) in [(false, false), (true, false), (false, true), (true, true)] {
        let report = base.verify(&untouched, keyed, saved).await;
        assert_eq!((report.verdict, report.rows_hashed, report.authenticated), (Verdict::Ok, 40, keyed), "{report}");
        assert_eq!(report.attested_to, saved.then_some(40));
    }
}

#[tokio::test]
async fn a_chain_that_is_gone_is_truncated_only_for_who_saved_its_head() {
    let base = Base::new().await;
    let path = base.damaged(|a| a.sql("UPDATE onward_chains SET name = 'nobody' WHERE name = 'orders'"));
    let report = base.verify(&path, true, true).await;
    assert_eq!((seen(&report), report.exit()), (vec!["TRUNCATED 1..40".to_owned()], 1));
    let onward = open(&path, keys()).await;
    assert_eq!(onward.audit().chain("orders").unwrap().verify(Check::default()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(python(&path, &["--chain".into(), "orders".into()]).status.code(), Some(2));
    // Rows without a chain show when nobody asks for one chain.
    let path = base.damaged(|a| a.sql("DELETE FROM onward_chains WHERE name = 'orders'"));
    let all = python(&path, &[]);
    assert_eq!(all.status.code(), Some(1));
    assert!(String::from_utf8(all.stdout).unwrap().contains("BROKEN(origin) 0..0"));
}

#[tokio::test]
async fn verify_py_reads_a_database_that_a_writer_has_open() {
    let base = Base::new().await;
    let onward = open(&base.path("good.db"), keys()).await;
    let chain = onward.audit().chain("orders").unwrap();
    let mut expected = 40;
    for _ in 0..3 {
        chain.append(Entry::new("order.refund"), AppendOptions::new()).await.unwrap();
        expected += 1;
        // The newest entries stand only in the log so far.
        let found = python(&base.path("good.db"), &["--chain".into(), "orders".into()]);
        let text = String::from_utf8(found.stdout).unwrap();
        assert_eq!((found.status.code(), text.contains(&format!("orders: ok, entries 1..{expected},"))), (Some(0), true), "{text}");
    }
}

#[test]
fn the_golden_vector_holds_in_python() {
    let found = python(Path::new("--self-test"), &[]);
    assert_eq!((found.status.code(), found.stdout.as_slice()), (Some(0), &b"self-test: ok\n"[..]));
}

#[tokio::test]
async fn what_verify_py_cannot_read_is_no_verdict() {
    let base = Base::new().await;
    let good = base.path("good.db");
    std::fs::write(base.path("junk"), "{}").unwrap();
    let junk = base.path("junk").to_str().unwrap().to_owned();
    let head = base.path("head").to_str().unwrap().to_owned();
    for arguments in [
        vec!["--checkpoint", junk.as_str()],
        vec!["--key", junk.as_str()],
        vec!["--key", "/nowhere"],
        vec!["--chain", "nobody"],
        vec!["--chain", "others", "--checkpoint", head.as_str()],
        vec!["--nonsense"],
    ] {
        let found = python(&good, &arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!((found.status.code(), found.stdout.is_empty()), (Some(2), true), "{arguments:?}");
    }
    assert_eq!(python(&base.path("nothing.db"), &[]).status.code(), Some(2));
    assert!(!base.path("nothing.db").exists());
    assert_eq!(python(&base.path("junk"), &[]).status.code(), Some(2));
}

#[tokio::test]
async fn a_saved_head_never_goes_back_or_over_to_another_history() {
    let base = Base::new().await;
    let (path, head) = (base.path("good.db"), base.path("head"));
    let now = Clock::system().wall();
    let report = async |saved: Option<&SavedHead>, path: &Path| {
        let check = Check { saved: saved.cloned(), ..Check::default() };
        open(path, keys()).await.audit().chain("orders").unwrap().verify(check).await.unwrap()
    };
    // Not checked against what is saved there.
    assert_eq!(save_head(&head, &report(None, &path).await, now).unwrap_err().code(), Code::StateConflict);
    // Cut, and another history of the same length.
    let cut = base.damaged(|a| {
        a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30");
        a.rehash(31, &keys());
    });
    for saved in [None, Some(&base.saved)] {
        assert_eq!(save_head(&head, &report(saved, &cut).await, now).unwrap_err().kind(), Kind::Conflict);
    }
    let own = report(None, &cut).await.saved_head(now).unwrap();
    let other = base.damaged(|a| a.rehash(1, &MacKeys::one("k1", [9; 32]).unwrap()));
    assert_eq!(save_head(&head, &report(Some(&own), &other).await, now).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(read_saved_head(&head).unwrap().unwrap(), base.saved);
    // A continuation takes its place, in a file that only its owner reads.
    let onward = open(&path, keys()).await;
    onward.audit().chain("orders").unwrap().append(Entry::new("order.refund"), AppendOptions::new()).await.unwrap();
    assert_eq!(save_head(&head, &report(Some(&base.saved), &path).await, now).unwrap().size, 41);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&head).unwrap().permissions());
    assert_eq!((mode & 0o777, read_saved_head(&head).unwrap().unwrap().size), (0o600, 41));
    let left_over =
        std::fs::read_dir(base.folder.path()).unwrap().filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "tmp"));
    assert_eq!(left_over.count(), 0);
    std::fs::write(&head, "something else").unwrap();
    assert_eq!(save_head(&head, &report(None, &path).await, now).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn both_verifiers_say_the_same_of_any_damage() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
    let base = runtime.block_on(Base::new());
    let changes = prop::collection::vec((1_i64..=41, 0_usize..12, any::<u8>()), 1..4);
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&(changes, any::<bool>()), |(changes, rehash)| {
        let path = base.damaged(|a| {
            for (seq, change, byte) in &changes {
                let set = match change {
                    0 => format!("prev = x'{}'", hex(&[*byte; 32])),
                    1 => format!("hash = x'{}'", hex(&[*byte; 32])),
                    2 => format!("mac = x'{byte:02x}'"),
                    3 => format!("kid = 'k{byte}'"),
                    4 => format!("at = at + {}", i64::from(*byte) - 128),
                    5 => format!("event_id = '{byte}'"),
                    6 => "kind = 'hold.placed'".to_owned(),
                    7 => format!("actor = iif({byte} % 2, NULL, '')"),
                    8 => format!("flags = flags + {byte}"),
                    9 => format!("seq = {byte}"),
                    10 => format!("pii = x'{byte:02x}'"),
                    _ => "kid = ''".to_owned(),
                };
                a.sql(&format!("UPDATE onward_entries SET {set} WHERE chain = $orders AND seq = {seq}"));
            }
            if rehash {
                a.rehash(1, &keys());
            }
        });
        runtime.block_on(base.verify(&path, false, false));
        runtime.block_on(base.verify(&path, true, true));
        Ok(())
    });
    outcome.unwrap();
}

/// A file that says it is another program's, or has lost the facts of its store, gets no verdict from anyone; least of all a good one.
#[tokio::test]
async fn a_foreign_database_or_one_without_its_facts_gets_no_verdict() {
    let base = Base::new().await;
    for damage in ["PRAGMA application_id = 7", "PRAGMA application_id = 0", "DROP TABLE onward_meta", "DELETE FROM onward_meta"] {
        let path = base.damaged(|attacker| attacker.sql(damage));
        let opened = Onward::connect(Config::new(format!("sqlite:{}", path.display())).with_keys(keys())).await;
        assert!(matches!(opened.unwrap_err().kind(), Kind::Backend | Kind::Unsupported), "{damage}");
        let output = python(&path, &[]);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{damage}: {output:?}");
    }
}
