//! What somebody does to segments, skeletons, holes and files is named, by the library and by `verify.py` alike (INV-7).

mod postgres;

use std::path::{Path, PathBuf};

use onward::audit::verify::{Archives, Check, Report};
use onward::audit::{Act, AppendOptions};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::{Config, Onward};
use rusqlite::Connection;

use super::tamper::Auditor;

const KEY: [u8; 32] = [7; 32];

fn keys() -> MacKeys {
    MacKeys::one("k1", KEY).unwrap()
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

/// A chain with a purged segment 1..20, an archived one 21..40, a sealed one 41..50, and an open end; and who may write all of it.
trait Place {
    /// Where the archive lies.
    fn archive(&self) -> PathBuf;

    /// Damages a copy of the good rows, in SQLite's words, and verifies what there is then.
    async fn after(&mut self, damage: &str) -> Report;

    /// The end of the chain: seq, hash and time.
    async fn end(&mut self) -> (String, i64, Vec<u8>, i64);

    /// What puts two rows back that the purge took, as they were.
    fn put_back(&self) -> String;

    /// The file of a segment in the archive.
    fn file(&self, range: &str) -> PathBuf {
        let origin = std::fs::read_dir(self.archive()).unwrap().next().unwrap().unwrap().path();
        let attempt = std::fs::read_dir(origin.join(range)).unwrap().next().unwrap().unwrap().path();
        attempt.join("entries.ndjson.zst")
    }
}

/// Brings a chain as far as the purge, and lets somebody copy its rows before that.
async fn live(onward: &Onward, before: impl AsyncFnOnce()) {
    let chain = onward.audit().chain("orders").unwrap();
    chain.append_many(vec![Entry::new("order.paid").by("user:7"); 59], AppendOptions::new()).await.unwrap();
    let act = Act::because("retention");
    for to in [20, 40, 50] {
        chain.seal(Some(seq(to)), &act).await.unwrap();
    }
    chain.archive(seq(1), &act).await.unwrap();
    chain.archive(seq(21), &act).await.unwrap();
    before().await;
    chain.purge(seq(1), &act).await.unwrap();
}

fn config(url: &str, archive: &Path) -> Config {
    let archive = format!("file:{}", archive.display());
    Config::new(url).with_keys(keys()).with_signing_key(CheckpointKey::from_seed([5; 32])).with_archive_at(archive)
}

/// In a SQLite file, where `verify.py` has to say the same.
struct Base {
    folder: tempfile::TempDir,
    auditor: Auditor,
    /// Copies made so far. Each has a name of its own: a store that was dropped may still be at closing its files.
    copies: u32,
}

impl Base {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = Self { folder, auditor: Auditor::new(), copies: 0 };
        let onward = base.open(&base.path("live.db")).await;
        let copy = |name: &str| {
            let live = Connection::open(base.path("live.db")).unwrap();
            live.execute("VACUUM INTO ?1", [base.path(name).to_str().unwrap()]).unwrap();
        };
        live(&onward, async || copy("before.db")).await;
        copy("good.db");
        std::fs::write(base.path("key"), "07".repeat(32)).unwrap();
        base
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn open(&self, path: &Path) -> Onward {
        let url = format!("sqlite:{}", path.display());
        Onward::connect(config(&url, &self.archive())).await.unwrap()
    }
}

impl Place for Base {
    fn archive(&self) -> PathBuf {
        self.path("archive")
    }

    fn put_back(&self) -> String {
        format!(
            "ATTACH '{}' AS old;
             INSERT INTO onward_entries SELECT * FROM old.onward_entries WHERE chain = $orders AND seq IN (5, 6); DETACH old",
            self.path("before.db").display()
        )
    }

    async fn end(&mut self) -> (String, i64, Vec<u8>, i64) {
        let sql = "SELECT origin, seq, hash, at FROM onward_heads JOIN onward_chains ON id = chain WHERE name = 'orders'";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        Connection::open(self.path("good.db")).unwrap().query_row(sql, [], read).unwrap()
    }

    /// Damages a copy, verifies it with both, and insists that they say the same.
    async fn after(&mut self, damage: &str) -> Report {
        self.copies += 1;
        let path = self.path(&format!("damaged-{}.db", self.copies));
        std::fs::copy(self.path("good.db"), &path).unwrap();
        let attacker = Connection::open(&path).unwrap();
        attacker
            .execute_batch("DROP TRIGGER onward_entries_stay; DROP TRIGGER onward_entries_remain; PRAGMA ignore_check_constraints = ON;")
            .unwrap();
        attacker.execute_batch(&damage.replace("$orders", "(SELECT id FROM onward_chains WHERE name = 'orders')")).unwrap();
        drop(attacker);
        let onward = self.open(&path).await;
        let check = Check { archives: Archives::Read, ..Check::default() };
        let report = onward.audit().chain("orders").unwrap().verify(check).await.unwrap();
        let argument = |name: &str| self.path(name).display().to_string();
        let arguments = [
            path.display().to_string(),
            "--chain".into(),
            "orders".into(),
            "--key".into(),
            argument("key"),
            "--archive".into(),
            argument("archive"),
        ];
        assert_eq!(self.auditor.ask(&arguments), (report.exit(), format!("{report}\n")), "{damage}");
        report
    }
}

fn found(report: &Report) -> Vec<String> {
    report.findings.iter().map(|finding| format!("{} {}..{}", finding.code, finding.from_seq, finding.to_seq)).collect()
}

const CATALOGUE: &[(&str, &str, &[&str], u8)] = &[
    ("nothing", "", &[], 0),
    ("a control entry deleted in a purged range", "DELETE FROM onward_entries WHERE chain = $orders AND seq = 1", &["BROKEN(gap) 1..1"], 1),
    (
        "a skeleton edited",
        "UPDATE onward_objects SET payload = CAST(substr(payload, 1, 99) || x'00' || substr(payload, 101) AS BLOB), version = version + 1
         WHERE kind = 'onward.skeleton' AND name LIKE 'orders/0000000000000001/%'",
        &["BROKEN(skeleton) 1..20"],
        1,
    ),
    (
        "the bit of a control entry taken from a skeleton, and its row deleted",
        "UPDATE onward_objects SET payload = CAST(substr(payload, 1, 640) || x'000000' AS BLOB), version = version + 1
         WHERE kind = 'onward.skeleton' AND name LIKE 'orders/0000000000000001/%';
         DELETE FROM onward_entries WHERE chain = $orders AND seq = 1",
        &["BROKEN(skeleton) 1..20"],
        1,
    ),
    (
        "a skeleton deleted",
        "DELETE FROM onward_objects WHERE kind = 'onward.skeleton' AND name LIKE 'orders/0000000000000001/%'",
        &["BROKEN(skeleton) 1..20", "BROKEN(gap) 2..20"],
        1,
    ),
    (
        "a row planted in the hole",
        "INSERT INTO onward_entries (chain, seq, prev, hash, kid, at, event_id, kind, data, flags)
         VALUES ($orders, 5, zeroblob(32), zeroblob(32), '', 1, 'planted', 'order.paid', x'', 0)",
        &["BROKEN(link) 5..5", "BROKEN(time) 5..5", "BROKEN(edited) 5..5", "BROKEN(foreign) 5..5"],
        1,
    ),
    ("entries deleted that are only archived", "DELETE FROM onward_entries WHERE chain = $orders AND seq = 25", &["BROKEN(gap) 25..25"], 1),
    (
        "the announcement of the purge deleted",
        "DELETE FROM onward_entries WHERE chain = $orders AND kind = 'segment.purge_begun'",
        &["BROKEN(control) 67..67", "BROKEN(gap) 2..20", "BROKEN(gap) 66..66", "INDEX_MISMATCH 1..20"],
        1,
    ),
    (
        "the row of a segment put back to an earlier state",
        "UPDATE onward_objects SET payload = CAST(replace(payload, 'purged', 'archived') AS BLOB), version = version + 1
         WHERE kind = 'onward.segment' AND name = 'orders/0000000000000001'",
        &["INDEX_MISMATCH 1..20"],
        1,
    ),
    (
        "the row of a segment deleted",
        "DELETE FROM onward_objects WHERE kind = 'onward.segment' AND name = 'orders/0000000000000021'",
        &["INDEX_MISMATCH 21..40"],
        1,
    ),
    (
        "a row edited in a sealed segment",
        "UPDATE onward_entries SET data = x'00' WHERE chain = $orders AND seq = 45",
        &["BROKEN(edited) 45..45"],
        1,
    ),
];

#[tokio::test]
async fn every_attack_on_the_past_is_named_and_the_python_verifier_agrees() {
    attacks_on_rows(&mut Base::new().await).await;
}

async fn attacks_on_rows(base: &mut impl Place) {
    for (attack, damage, expected, exit) in CATALOGUE {
        let report = base.after(damage).await;
        let found: Vec<String> = found(&report);
        assert_eq!((found.iter().map(String::as_str).collect::<Vec<_>>(), report.exit()), (expected.to_vec(), *exit), "{attack}: {report}");
    }
}

#[tokio::test]
async fn a_forged_excuse_hides_nothing_from_who_has_the_key() {
    a_forged_excuse(&mut Base::new().await).await;
}

/// Somebody without the key announces a purge of the archived segment, chains it well, and deletes.
async fn a_forged_excuse(base: &mut impl Place) {
    let (origin, seq, hash, at) = base.end().await;
    let row = onward::model::Row {
        seq: seq + 1,
        prev: hash,
        kid: b"k1".to_vec(),
        at,
        event_id: b"forged".to_vec(),
        kind: b"segment.purge_begun".to_vec(),
        data: br#"{"from":21,"gen":3}"#.to_vec().into(),
        flags: 1,
        ..onward::model::Row::default()
    };
    let hash = row.compute_hash(&origin).to_string();
    let prev: String = row.prev.iter().map(|byte| format!("{byte:02x}")).collect();
    let damage = format!(
        "INSERT INTO onward_entries (chain, seq, prev, hash, mac, kid, at, event_id, kind, data, flags)
         VALUES ($orders, {}, x'{prev}', x'{hash}', zeroblob(32), 'k1', {}, 'forged', 'segment.purge_begun', CAST('{{\"from\":21,\"gen\":3}}' AS BLOB), 1);
         UPDATE onward_heads SET seq = seq + 1, hash = x'{hash}' WHERE chain = $orders;
         DELETE FROM onward_entries WHERE chain = $orders AND seq BETWEEN 22 AND 30",
        row.seq, row.at
    );
    let report = base.after(&damage).await;
    let codes = found(&report);
    assert!(codes.contains(&"BROKEN(gap) 22..30".to_owned()) && codes.contains(&format!("BROKEN(mac) {0}..{0}", row.seq)), "{report}");
}

#[tokio::test]
async fn a_file_that_is_gone_or_damaged_is_named_and_a_good_row_in_the_hole_is_left_over() {
    attacks_on_files(&mut Base::new().await).await;
}

async fn attacks_on_files(base: &mut impl Place) {
    let (purged, archived) = (base.file("1-20"), base.file("21-40"));
    let good = std::fs::read(&purged).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&purged, bytes).unwrap();
        assert_eq!(found(&base.after("").await), ["LOST 1..20"]);
    }
    std::fs::write(&purged, [&good[..], b"x"].concat()).unwrap();
    assert_eq!(found(&base.after("").await), ["LOST 1..20"]);
    std::fs::write(&purged, &good).unwrap();
    std::fs::remove_file(&archived).unwrap();
    let report = base.after("").await;
    assert_eq!((found(&report), report.exit()), (vec!["DEGRADED 21..40".to_owned()], 1));
    // Put back by hand, row by row: nothing is wrong with them but that they should be gone.
    let put_back = base.put_back();
    let report = base.after(&put_back).await;
    assert_eq!((found(&report), report.exit()), (vec!["LEFTOVER 5..6".to_owned(), "DEGRADED 21..40".to_owned()], 1));
}

#[tokio::test]
async fn a_manifest_that_is_edited_swapped_or_deleted_is_named() {
    attacks_on_manifests(&mut Base::new().await).await;
}

async fn attacks_on_manifests(base: &mut impl Place) {
    let manifest = |range: &str| base.file(range).with_file_name("manifest");
    let (purged, archived) = (manifest("1-20"), manifest("21-40"));
    let notes = [&purged, &archived].map(|path| std::fs::read(path).unwrap());
    for (path, note, anothers, expected) in
        [(&purged, &notes[0], &notes[1], "DEGRADED 1..20"), (&archived, &notes[1], &notes[0], "DEGRADED 21..40")]
    {
        let edited = |at: usize| {
            let mut note = note.clone();
            note[at] ^= 1;
            note
        };
        let attacks = [edited(0), edited(note.len() - 3), note[..note.len() - 1].to_vec(), [&note[..], b"x"].concat(), anothers.clone()];
        for spoilt in attacks {
            std::fs::write(path, spoilt).unwrap();
            let report = base.after("").await;
            assert_eq!((found(&report), report.exit()), (vec![expected.to_owned()], 1));
        }
        std::fs::remove_file(path).unwrap();
        assert_eq!(found(&base.after("").await), [expected]);
        std::fs::write(path, note).unwrap();
    }
    assert_eq!(found(&base.after("").await), [""; 0]);
}
