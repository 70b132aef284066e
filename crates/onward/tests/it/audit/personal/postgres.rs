//! Personal data in a Postgres database: not a byte of what was redacted is left outside the server's own log, and who tampers is named.

use std::process::{Command, Stdio};

use onward::audit::engine::AuditEngine;
use onward::audit::verify::{Check, Verdict};
use onward::audit::{AppendOptions, Chain, Redact};
use onward::engine::postgres::PostgresStore;
use onward::model::{ChainName, Entry, MacKeys, Personal, Seq};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Config, Kind, Onward};
use tokio_postgres::{Client, NoTls};

use super::{act, seq};

async fn open(url: &str) -> Onward {
    Onward::connect(Config::new(url).with_keys(MacKeys::one("k1", [7; 32]).unwrap())).await.unwrap()
}

pub(super) async fn orders(url: &str) -> Chain {
    open(url).await.audit().chain("orders").unwrap()
}

pub(super) async fn superuser(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(super) fn placed(subject: &str, value: impl Into<Vec<u8>>) -> Entry {
    Entry::new("order.placed").with_personal(Personal::new(subject, value.into()))
}

fn subject(name: &str) -> Redact {
    Redact::Subject(name.to_owned())
}

async fn verified(chain: &Chain) {
    let report = chain.verify(Check::default()).await.unwrap();
    assert!(report.findings.is_empty() && report.verdict == Verdict::Ok, "{report}");
}

/// A value of its own for each entry; a long one stands in a table of its own and is nothing that could be compressed.
fn value(user: usize, round: usize) -> Vec<u8> {
    let mut value = format!("<secret of {user}, {round}>").into_bytes();
    if (user + round).is_multiple_of(7) {
        let mut state = (user as u64 + 1) * 1_000_003 + round as u64;
        value.extend(
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(5_000),
        );
    }
    value
}

/// In which files of the server some text stands, once what it has in memory is written: in its log, and elsewhere.
async fn found(server: &Postgres, text: &str) -> (Vec<String>, Vec<String>) {
    Postgres::run_at(&server.url(), "CHECKPOINT").await;
    // Files come and go meanwhile, of which it says so on stderr.
    let found = Command::new("grep").args(["-rlaF", "--", text]).arg(server.data()).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).partition(|file| file.contains("/pg_wal/"))
}

#[tokio::test]
async fn not_a_byte_of_what_was_redacted_is_left_outside_the_servers_log() {
    // The server's own log goes when it may, instead of being kept under another name.
    let server = Postgres::start_with(&["wal_recycle=off", "autovacuum_naptime=1"]);
    let url = server.url();
    let chain = orders(&url).await;

    let rounds = 0..3;
    for round in rounds.clone() {
        let entry = |user: usize| placed(&format!("<user {user}>"), value(user, round));
        chain.append_many((0..40).map(entry).collect(), AppendOptions::new()).await.unwrap();
        // Statistics hold copies of what stands in columns, and nothing redacts those.
        Postgres::run_at(&url, "ANALYZE").await;
        let user = round * 7;
        let (wal, elsewhere) = found(&server, &format!("<secret of {user}, {round}>")).await;
        assert!(!wal.is_empty() && !elsewhere.is_empty(), "the search finds what is there");
        let redacted = chain.redact(&subject(&format!("<user {user}>")), &act()).await.unwrap();
        assert!(redacted.erased && redacted.values == round as u64 + 1);
        for text in [format!("<user {user}>"), format!("<secret of {user},")] {
            let (wal, elsewhere) = found(&server, &text).await;
            assert_eq!(elsewhere, [] as [&str; 0], "{text}");
            assert!(!wal.is_empty() && redacted.log_until.is_some(), "the answer says so");
        }
    }
    // A value of another is where it was.
    assert_eq!(chain.personal(seq(3)).await.unwrap().personal.value, value(1, 0));
    for user in rounds.clone().map(|round| round * 7) {
        chain.redact(&subject(&format!("<user {user}>")), &act()).await.unwrap();
    }
    // How the log is emptied, too: it goes on in a new file, and a checkpoint lets the older ones go.
    Postgres::run_at(&url, "SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT").await;
    for user in rounds.map(|round| round * 7) {
        assert_eq!(found(&server, &format!("<secret of {user},")).await, (vec![], vec![]));
    }
    verified(&chain).await;
}

/// Who has read the table in a transaction that is still open stands in the way, and only of the erasing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_table_open_is_waited_for_and_appends_go_on() {
    let url = Postgres::shared().schema().await;
    let chain = orders(&url).await;
    chain.append_many(vec![placed("ada", "a"), placed("bob", "b")], AppendOptions::new()).await.unwrap();
    let reader = superuser(&url).await;
    reader.batch_execute("BEGIN; SELECT * FROM onward_personal").await.unwrap();
    let redacting = tokio::spawn({
        let chain = chain.clone();
        async move { chain.redact(&subject("ada"), &act()).await }
    });
    while chain.personal(seq(2)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        chain.append(placed("cyd", "c"), AppendOptions::new()).await.unwrap();
    }
    assert_eq!(&chain.personal(seq(3)).await.unwrap().personal.value[..], b"b");
    assert!(!redacting.is_finished(), "the reader is in the way all the time");
    reader.batch_execute("ROLLBACK").await.unwrap();
    let redacted = redacting.await.unwrap().unwrap();
    assert!(redacted.erased && redacted.values == 1);
    verified(&chain).await;
}

/// Without such a moment the answer does not say that all is erased; the same call later does it.
#[tokio::test]
async fn a_shelf_that_somebody_has_open_is_not_said_to_be_erased() {
    let url = Postgres::shared().schema().await;
    let store = PostgresStore::open(&url, &Clock::system()).await.unwrap();
    Postgres::run_at(&url, "UPDATE onward_shelves SET soiled = true").await;
    let reader = superuser(&url).await;
    reader.batch_execute("BEGIN; SELECT FROM onward_personal").await.unwrap();
    let scrubbed = store.scrub_with_tries(2).await.unwrap();
    assert_eq!((scrubbed.erased, scrubbed.log_until), (false, None));
    reader.batch_execute("ROLLBACK").await.unwrap();
    let scrubbed = store.scrub_with_tries(2).await.unwrap();
    assert!(scrubbed.erased && scrubbed.log_until.is_some());
}

/// A redaction that is cut off between two pages is finished by whoever comes next, and no value is lost or comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redaction_that_dies_half_way_is_finished_by_the_next() {
    let url = Postgres::shared().schema().await;
    let chain = orders(&url).await;
    for _ in 0..12 {
        let entries = (0..100).map(|n| placed(&format!("user:{}", n % 10), vec![b'x'; 1_500])).collect();
        chain.append_many(entries, AppendOptions::new()).await.unwrap();
    }
    let (reader, looker) = (superuser(&url).await, superuser(&url).await);
    reader.batch_execute("BEGIN; SELECT * FROM onward_personal").await.unwrap();
    let redacting = tokio::spawn({
        let chain = chain.clone();
        async move { chain.redact(&subject("user:1"), &act()).await }
    });
    // Some are carried by now, and the first shelf cannot go.
    let carried = async || looker.query_one("SELECT count(*) FROM onward_personal_1", &[]).await.unwrap().get::<_, i64>(0);
    while carried().await == 0 {
        tokio::task::yield_now().await;
    }
    redacting.abort();
    assert!(redacting.await.unwrap_err().is_cancelled());
    // What is forgotten now may stand on either.
    chain.append(placed("user:2", "new"), AppendOptions::new()).await.unwrap();
    verified(&chain).await;
    reader.batch_execute("ROLLBACK").await.unwrap();
    let other = orders(&url).await;
    let (first, second, act) = (subject("user:2"), subject("user:3"), act());
    let redacted = tokio::join!(chain.redact(&first, &act), other.redact(&second, &act));
    assert_eq!((redacted.0.unwrap().values, redacted.1.unwrap().values), (121, 120));
    // Both were told that it is done when it was; one more look finds nothing to do.
    assert!(chain.redact(&first, &act).await.unwrap().erased);
    let row = looker.query_one("SELECT soiled, carrying, forgetting FROM onward_shelves", &[]).await.unwrap();
    assert_eq!([0, 1, 2].map(|index| row.get::<_, bool>(index)), [false; 3]);
    let shelves = looker.query("SELECT DISTINCT shelf FROM onward_personal", &[]).await.unwrap();
    assert_eq!((shelves.len(), looker.query("SELECT 1 FROM onward_personal", &[]).await.unwrap().len()), (1, 840));
    verified(&chain).await;
}

/// Rows go by a redaction only, and never change, whatever SQL a program sends by mistake.
#[tokio::test]
async fn personal_data_go_by_a_redaction_only() {
    let url = Postgres::shared().schema().await;
    let chain = orders(&url).await;
    chain.append(placed("ada", "a"), AppendOptions::new()).await.unwrap();
    let client = superuser(&url).await;
    for mistake in [
        "UPDATE onward_personal SET value = ''",
        "UPDATE onward_personal_0 SET value = ''",
        "DELETE FROM onward_personal",
        "DELETE FROM onward_personal_0",
        "TRUNCATE onward_personal",
        "TRUNCATE onward_personal_0",
    ] {
        let refused = client.batch_execute(mistake).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("P0001"), "{mistake}");
    }
    verified(&chain).await;
}

/// What a superuser does, and what is found.
const ATTACKS: &[(&str, &str, &[&str])] = &[
    ("nothing", "", &[]),
    ("a value edited", "UPDATE onward_personal SET value = '\\x00ff' WHERE seq = 3", &["BROKEN(pii) 3..3"]),
    ("a salt edited", "UPDATE onward_personal SET salt = sha256('x') WHERE seq = 3", &["BROKEN(pii) 3..3"]),
    ("a salt cut off", "UPDATE onward_personal SET salt = '' WHERE seq = 3", &["BROKEN(pii) 3..3"]),
    ("a giant", "UPDATE onward_personal SET value = decode(repeat('00', 8000000), 'hex') WHERE seq = 3", &["BROKEN(pii) 3..3"]),
    ("values deleted by hand", "DELETE FROM onward_personal WHERE seq IN (3, 5)", &["BROKEN(pii) 3..3", "BROKEN(pii) 5..5"]),
    ("all thrown away", "TRUNCATE onward_personal", &["BROKEN(pii) 3..3", "BROKEN(pii) 5..5"]),
    ("values given to another chain", "UPDATE onward_personal SET chain = 99 WHERE seq = 3", &["BROKEN(pii) 3..3"]),
    (
        "two values swapped",
        "UPDATE onward_personal SET seq = -1 WHERE seq = 3; UPDATE onward_personal SET seq = 3 WHERE seq = 5;
         UPDATE onward_personal SET seq = 5 WHERE seq = -1",
        &["BROKEN(pii) 3..3", "BROKEN(pii) 5..5"],
    ),
    (
        "another value in the place of a redacted one",
        "INSERT INTO onward_personal SELECT shelf, chain, 2, 'x', salt, 'x' FROM onward_personal WHERE seq = 3",
        &["BROKEN(pii) 2..2"],
    ),
    ("a redacted value put back", "INSERT INTO onward_personal SELECT * FROM before WHERE seq = 2", &["LEFTOVER 2..2"]),
    (
        "the entry of the redaction edited",
        "UPDATE onward_entries SET data = convert_to(replace(convert_from(data, 'UTF8'), '[2,2]', '[2,3]'), 'UTF8') WHERE kind = 'redact.done'",
        &["BROKEN(control) 6..6", "BROKEN(edited) 6..6", "BROKEN(pii) 2..2", "BROKEN(pii) 4..4"],
    ),
    ("a commitment taken away", "UPDATE onward_entries SET pii = NULL WHERE seq = 3", &["BROKEN(edited) 3..3"]),
];

#[tokio::test]
async fn who_tampers_with_personal_data_in_postgres_is_named() {
    let url = Postgres::shared().schema().await;
    let chain = orders(&url).await;
    let entry = |n: usize| placed(if n.is_multiple_of(2) { "ada" } else { "bob" }, format!("value {n}"));
    chain.append_many((0..4).map(entry).collect(), AppendOptions::new()).await.unwrap();
    let attacker = superuser(&url).await;
    attacker.batch_execute("CREATE TABLE before AS TABLE onward_personal").await.unwrap();
    chain.redact(&subject("ada"), &act()).await.unwrap();
    // Without its triggers, and with what was there put back each time.
    let good = "SET session_replication_role = replica;
        CREATE TABLE good_personal AS TABLE onward_personal; CREATE TABLE good_entries AS TABLE onward_entries";
    attacker.batch_execute(good).await.unwrap();
    let again = "DELETE FROM onward_personal; INSERT INTO onward_personal TABLE good_personal;
        DELETE FROM onward_entries; INSERT INTO onward_entries TABLE good_entries";
    for (name, damage, expected) in ATTACKS {
        attacker.batch_execute(again).await.unwrap();
        attacker.batch_execute(damage).await.unwrap();
        let report = chain.verify(Check::default()).await.unwrap();
        let mut found: Vec<_> = report.findings.iter().map(|one| format!("{} {}..{}", one.code, one.from_seq, one.to_seq)).collect();
        found.sort_unstable();
        let expected: Vec<_> = expected.iter().map(|one| (*one).to_owned()).collect();
        // What is left over is told, and is no fault of the chain.
        let is_bad = expected.iter().any(|one| one.starts_with("BROKEN"));
        assert_eq!((found, report.exit()), (expected, u8::from(is_bad)), "{name}");
    }
}

#[tokio::test]
async fn a_value_that_its_entry_does_not_commit_to_is_not_handed_out_by_postgres() {
    let url = Postgres::shared().schema().await;
    let chain = orders(&url).await;
    chain.append(placed("user:7", "value"), AppendOptions::new()).await.unwrap();
    let edit = "SET session_replication_role = replica; UPDATE onward_personal SET value = '\\x00ff'";
    superuser(&url).await.batch_execute(edit).await.unwrap();
    assert_eq!(chain.personal(seq(2)).await.unwrap_err().code(), onward::Code::IntegrityFailure);
}

/// A worker of another version throws nothing away.
#[tokio::test]
async fn another_version_erases_nothing() {
    let url = Postgres::shared().schema().await;
    let store = PostgresStore::open(&url, &Clock::system()).await.unwrap();
    orders(&url).await.append(placed("user:7", "value"), AppendOptions::new()).await.unwrap();
    Postgres::run_at(&url, "UPDATE onward_shelves SET soiled = true; UPDATE onward_meta SET schema_version = 99").await;
    assert_eq!(store.scrub().await.unwrap_err().kind(), Kind::Unsupported);
    assert!(store.personal(&ChainName::new("orders").unwrap(), Seq::new(2).unwrap()).await.unwrap().is_some());
}
