//! The tamper catalogue on a SQLite file: each attack is named at its place, by the library and by `verify.py` in the same words.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onward::audit::verify::{Check, Report, SavedHead, Verdict};
use onward::audit::{AppendOptions, Chain, read_saved_head, save_head};
use onward::model::merkle::Frontier;
use onward::model::{Data, Entry, Hash, MacKeys, Row};
use onward::time::Clock;
use onward::{Config, Kind, Onward};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rusqlite::{Connection, params};

mod auditor;
mod catalogue;
mod golden;
mod outsider;
pub(super) mod postgres;

pub(super) use auditor::Auditor;
use auditor::python;
use catalogue::{Attacker, CATALOGUE};

const KEY: [u8; 32] = [7; 32];

/// A good database with 40 entries in the chain `orders`, and what an auditor has.
struct Base {
    folder: tempfile::TempDir,
    saved: SavedHead,
    auditor: Mutex<Auditor>,
    /// Copies made so far. Each has a name of its own: a store that was dropped may still be at closing its files.
    copies: AtomicU32,
}

impl Base {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual();
        let url = format!("sqlite:{}", folder.path().join("live.db").display());
        let onward = Onward::connect(Config::new(url).with_keys(keys()).with_clock(clock.clone())).await.unwrap();
        fill(&onward, &clock).await;
        let report = onward.audit().chain("orders").unwrap().verify(Check::default()).await.unwrap();
        let path = folder.path().join("head");
        let saved = save_head(&path, &report, Clock::system().wall()).unwrap();
        assert_eq!(read_saved_head(&path).unwrap().unwrap(), saved);
        std::fs::write(folder.path().join("key"), hex(&KEY)).unwrap();
        let live = Connection::open(folder.path().join("live.db")).unwrap();
        live.execute("VACUUM INTO ?1", [folder.path().join("good.db").to_str().unwrap()]).unwrap();
        Self { folder, saved, auditor: Mutex::new(Auditor::new()), copies: AtomicU32::new(0) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copies the good database and lets somebody loose on it who may do everything that SQL can.
    fn damaged(&self, damage: impl FnOnce(&mut dyn Attacker)) -> PathBuf {
        let path = self.path(&format!("damaged-{}.db", self.copies.fetch_add(1, Ordering::Relaxed)));
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
        damage(&mut Intruder { connection, origin: self.saved.origin.clone() });
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

/// Who writes a SQLite file.
struct Intruder {
    connection: Connection,
    origin: String,
}

impl Attacker for Intruder {
    fn run(&mut self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    fn rows(&mut self) -> Vec<Row> {
        let sql = "SELECT seq, kid, at, event_id, kind, actor, resource, data, flags, mac, hash FROM onward_entries
                   WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders') ORDER BY seq";
        let mut find = self.connection.prepare(sql).unwrap();
        let text = |row: &rusqlite::Row<'_>, index| row.get::<_, Option<String>>(index).map(|text| text.map(String::into_bytes));
        find.query_map([], |row| {
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

    fn put(&mut self, row: &Row) {
        let update = "UPDATE onward_entries SET prev = ?1, hash = ?2, mac = ?3
                      WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders') AND seq = ?4";
        self.connection.execute(update, params![row.prev, row.hash, row.mac, row.seq]).unwrap();
    }

    fn put_head(&mut self, seq: i64, hash: &Hash, frontier: &Frontier, at: i64) {
        let update = "UPDATE onward_heads SET seq = ?1, hash = ?2, frontier = ?3, at = ?4
                      WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders')";
        self.connection.execute(update, params![seq, hash.as_bytes(), frontier.to_bytes(), at]).unwrap();
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }
}

/// Two chains of 40 entries, one second after the other.
async fn fill(onward: &Onward, clock: &Clock) -> Chain {
    let refund = |order: u64| {
        let entry = Entry::new("order.refund").with_data(Data::json(&serde_json::json!({ "order": order })).unwrap());
        if order.is_multiple_of(3) { entry } else { entry.by("user:7").on(format!("order:{order}")) }
    };
    for chain in ["orders", "others"] {
        clock.advance(Duration::from_secs(1));
        onward.audit().chain(chain).unwrap().append_many((0..39).map(refund).collect(), AppendOptions::new()).await.unwrap();
    }
    onward.audit().chain("orders").unwrap()
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
