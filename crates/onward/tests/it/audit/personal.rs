//! Personal data on a SQLite file: not a byte of what was redacted is left, and who tampers with the table is named.

mod postgres;
mod shelves;

use std::path::{Path, PathBuf};

use onward::audit::{Act, AppendOptions, Redact};
use onward::model::{CheckpointKey, Entry, MacKeys, Personal, Seq};
use onward::{Config, Onward};
use rusqlite::Connection;

use super::tamper::Auditor;

fn act() -> Act {
    Act::because("request 4711")
}

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

async fn open(folder: &Path, name: &str) -> Onward {
    let config = Config::new(format!("sqlite:{}", folder.join(name).display())).with_keys(MacKeys::one("k1", [7; 32]).unwrap());
    let archive = format!("file:{}", folder.join("archive").display());
    Onward::connect(config.with_signing_key(CheckpointKey::from_seed([5; 32])).with_archive_at(archive)).await.unwrap()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// In which files some text stands, compressed ones read as what they hold.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let has = |path: &PathBuf| {
        let raw = std::fs::read(path).unwrap();
        let plain = if path.extension().is_some_and(|is| is == "zst") { zstd::decode_all(&raw[..]).unwrap() } else { Vec::new() };
        [raw, plain].iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    files(folder).iter().filter(|path| has(path)).map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// A value of its own for each entry, short or longer than a page.
fn value(user: usize, round: usize) -> String {
    let mark = format!("<secret of {user}, {round}>");
    if (user + round).is_multiple_of(7) { mark.repeat(400) } else { mark.repeat(1 + (user * round) % 9) }
}

#[tokio::test]
async fn not_a_byte_of_what_was_redacted_is_left_in_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let onward = open(folder.path(), "live.db").await;
    let chain = onward.audit().chain("orders").unwrap();
    // Rows of others come and go around those that are redacted, so that pages split, fill and are written again.
    for round in 0..12 {
        let entry = |user: usize| Entry::new("a").with_personal(Personal::new(format!("<user {user}>"), value(user, round)));
        chain.append_many((0..40).map(entry).collect(), AppendOptions::new()).await.unwrap();
        let user = round * 3;
        assert!(!holding(folder.path(), &format!("<secret of {user}, {round}>")).is_empty(), "the search finds what is there");
        let redacted = chain.redact(&Redact::Subject(format!("<user {user}>")), &act()).await.unwrap();
        assert!(redacted.erased && redacted.values > 0);
    }
    chain.seal(None, &act()).await.unwrap();
    chain.archive(seq(1), &act()).await.unwrap();
    for round in 0..12 {
        chain.redact(&Redact::Subject(format!("<user {}>", round * 3)), &act()).await.unwrap();
    }
    onward.store().backup(folder.path().join("backup.db")).await.unwrap();
    for round in 0..12 {
        let user = round * 3;
        assert_eq!(holding(folder.path(), &format!("<user {user}>")), [] as [&str; 0], "{round}");
        assert_eq!(holding(folder.path(), &format!("<secret of {user},")), [] as [&str; 0], "{round}");
    }
    // Who was not redacted is in the database and its backup, and in no file of the archive.
    let mut kept = holding(folder.path(), "<secret of 1, 3>");
    kept.sort_unstable();
    assert_eq!(kept, ["backup.db", "live.db"]);
    assert!(chain.verify(onward::audit::verify::Check::default()).await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn a_reader_of_an_older_state_is_told_and_the_next_call_erases() {
    let folder = tempfile::tempdir().unwrap();
    let onward = open(folder.path(), "live.db").await;
    let chain = onward.audit().chain("orders").unwrap();
    chain.append(Entry::new("a").with_personal(Personal::new("ada", "<secret>")), AppendOptions::new()).await.unwrap();
    let reader = Connection::open(folder.path().join("live.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM onward_meta").unwrap();
    let ended = {
        let (ada, act) = (Redact::Subject("ada".to_owned()), act());
        let erase = chain.redact(&ada, &act);
        let free = async {
            // Once the value is gone from every new look, the reader ends.
            while chain.personal(seq(2)).await.is_ok() {
                tokio::task::yield_now().await;
            }
            reader.execute_batch("ROLLBACK").unwrap();
        };
        tokio::join!(erase, free).0.unwrap()
    };
    assert!(ended.erased);
    assert_eq!(holding(folder.path(), "<secret>"), [] as [&str; 0]);
}

const ATTACKS: &[(&str, &str, &[&str], u8)] = &[
    ("nothing", "", &[], 0),
    ("a value edited", "UPDATE onward_personal SET value = x'00ff' WHERE seq = 3", &["BROKEN(pii) 3..3"], 1),
    ("a salt edited", "UPDATE onward_personal SET salt = randomblob(32) WHERE seq = 3", &["BROKEN(pii) 3..3"], 1),
    ("values deleted by hand", "DELETE FROM onward_personal WHERE seq IN (3, 5)", &["BROKEN(pii) 3..3", "BROKEN(pii) 5..5"], 1),
    ("a value overwritten as a redaction does", "UPDATE onward_personal SET subject = zeroblob(3) WHERE seq = 3", &["BROKEN(pii) 3..3"], 1),
    (
        "two values swapped",
        "UPDATE onward_personal SET seq = -1 WHERE seq = 3; UPDATE onward_personal SET seq = 3 WHERE seq = 5;
         UPDATE onward_personal SET seq = 5 WHERE seq = -1",
        &["BROKEN(pii) 3..3", "BROKEN(pii) 5..5"],
        1,
    ),
    (
        "another value in the place of a redacted one",
        "UPDATE onward_personal SET subject = x'78', value = x'78' WHERE seq = 2",
        &["BROKEN(pii) 2..2"],
        1,
    ),
    (
        "the entry of the redaction edited",
        "UPDATE onward_entries SET data = CAST(replace(data, '[2,2]', '[2,3]') AS BLOB) WHERE kind = 'redact.done'",
        &["BROKEN(control) 6..6", "BROKEN(edited) 6..6", "BROKEN(pii) 2..2", "BROKEN(pii) 4..4"],
        1,
    ),
    ("a commitment taken away", "UPDATE onward_entries SET pii = NULL WHERE seq = 3", &["BROKEN(edited) 3..3"], 1),
];

#[tokio::test]
async fn who_tampers_with_personal_data_is_named_and_the_python_verifier_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let onward = open(folder.path(), "live.db").await;
    let chain = onward.audit().chain("orders").unwrap();
    let entry =
        |n: usize| Entry::new("a").with_personal(Personal::new(if n.is_multiple_of(2) { "ada" } else { "bob" }, format!("value {n}")));
    chain.append_many((0..4).map(entry).collect(), AppendOptions::new()).await.unwrap();
    chain.redact(&Redact::Subject("ada".to_owned()), &act()).await.unwrap();
    std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
    let good = folder.path().join("good.db");
    Connection::open(folder.path().join("live.db")).unwrap().execute("VACUUM INTO ?1", [good.to_str().unwrap()]).unwrap();
    let mut auditor = Auditor::new();
    for (index, (name, damage, expected, exit)) in ATTACKS.iter().enumerate() {
        let path = folder.path().join(format!("damaged{index}.db"));
        std::fs::copy(&good, &path).unwrap();
        let attacker = Connection::open(&path).unwrap();
        attacker.execute_batch("DROP TRIGGER onward_entries_stay; DROP TRIGGER onward_personal_remain").unwrap();
        attacker.execute_batch(damage).unwrap();
        drop(attacker);
        let onward = open(folder.path(), &format!("damaged{index}.db")).await;
        let report = onward.audit().chain("orders").unwrap().verify(onward::audit::verify::Check::default()).await.unwrap();
        let mut found: Vec<_> = report.findings.iter().map(|one| format!("{} {}..{}", one.code, one.from_seq, one.to_seq)).collect();
        let text = |path: &Path| path.display().to_string();
        let arguments = [text(&path), "--chain".into(), "orders".into(), "--key".into(), text(&folder.path().join("key"))];
        let (code, said) = auditor.ask(&arguments);
        let lines = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        // What is gone is told at the end, since a redaction may run beside the walk; the script has one view.
        assert_eq!((code, lines(&said)), (report.exit(), lines(&report.to_string())), "{name}");
        found.sort_unstable();
        assert_eq!((found, report.exit()), (expected.iter().map(|one| (*one).to_owned()).collect(), *exit), "{name}");
    }
}

#[tokio::test]
async fn an_export_holds_the_commitment_and_verifies_without_the_value() {
    let folder = tempfile::tempdir().unwrap();
    let onward = open(folder.path(), "live.db").await;
    let chain = onward.audit().chain("orders").unwrap();
    chain.append(Entry::new("a").with_personal(Personal::new("user:ada", "<secret>")), AppendOptions::new()).await.unwrap();
    let (mut export, mut lines) = (chain.export(None, None).await.unwrap(), Vec::new());
    while let Some(piece) = export.next().await.unwrap() {
        lines.extend_from_slice(&piece);
    }
    let text = String::from_utf8(lines.clone()).unwrap();
    assert!(!text.contains("<secret>") && !text.contains("user:ada"));
    assert!(text.contains(&format!(r#""pii":"{}""#, chain.get(seq(2)).await.unwrap().personal.unwrap())));
    let keys = MacKeys::one("k1", [7; 32]).unwrap();
    let check = onward::audit::verify::Check::default();
    let report = onward::audit::verify_export(&lines[..], &check, &keys, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(report.findings.is_empty());
    let (path, key) = (folder.path().join("orders.ndjson"), folder.path().join("key"));
    std::fs::write(&path, &lines).unwrap();
    std::fs::write(&key, "07".repeat(32)).unwrap();
    let asked = ["--export".into(), path.display().to_string(), "--key".into(), key.display().to_string()];
    assert_eq!(Auditor::new().ask(&asked), (0, format!("{report}\n")));
}

#[tokio::test]
async fn a_value_that_its_entry_does_not_commit_to_is_not_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let onward = open(folder.path(), "live.db").await;
    let chain = onward.audit().chain("orders").unwrap();
    chain.append(Entry::new("a").with_personal(Personal::new("user:7", "value")), AppendOptions::new()).await.unwrap();
    assert_eq!(&chain.personal(seq(2)).await.unwrap().personal.value[..], b"value");
    let edited = Connection::open(folder.path().join("live.db")).unwrap().execute("UPDATE onward_personal SET value = x'00ff'", []);
    assert_eq!(edited, Ok(1));
    assert_eq!(chain.personal(seq(2)).await.unwrap_err().code(), onward::Code::IntegrityFailure);
}
