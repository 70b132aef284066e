//! Segments on Postgres beside everything else that goes on there: appends, holds, other roles, other versions (INV-6, C1, C9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onward::audit::engine::{AuditEngine, Batch, Moved};
use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Filter, Page, Segment};
use onward::engine::postgres::PostgresStore;
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Code, Config, Effect, Kind, Onward, Result, retry};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

/// Only a broken server lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn act() -> Act {
    Act::because("retention")
}

struct Desk {
    url: String,
    archive: tempfile::TempDir,
    chain: Chain,
}

impl Desk {
    /// A chain whose first 300 entries are archived.
    async fn new() -> Self {
        let (url, archive) = (Postgres::shared().schema().await, tempfile::tempdir().unwrap());
        let chain = open(&url, &archive).await.audit().chain("orders").unwrap();
        for _ in 0..3 {
            chain.append_many(vec![Entry::new("order.paid").by("user:7"); 110], AppendOptions::new()).await.unwrap();
        }
        chain.seal(Some(seq(300)), &act()).await.unwrap();
        chain.archive(seq(1), &act()).await.unwrap();
        Self { url, archive, chain }
    }

    /// A connection past the library.
    async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Somebody keeps an entry of the segment locked, so that the batch of a purge that deletes it stands in the middle of its work.
    async fn stuck_purge(&self) -> (tokio_postgres::Client, JoinHandle<Result<Segment>>) {
        let blocker = self.client().await;
        blocker.batch_execute("BEGIN; SELECT 1 FROM onward_entries WHERE seq = 200 FOR UPDATE").await.unwrap();
        let chain = self.chain.clone();
        let purging = tokio::spawn(async move {
            loop {
                // Its patience is shorter than that of a test on a slow machine.
                match chain.purge(seq(1), &act()).await {
                    Err(error) if error.kind() == Kind::Overloaded => {}
                    purged => return purged,
                }
            }
        });
        self.waiting("DELETE FROM onward_entries", || false).await;
        (blocker, purging)
    }

    /// Waits until statements that begin so wait for another's lock, or until something else is so.
    async fn waiting(&self, statement: &str, or: impl Fn() -> bool) {
        let client = self.client().await;
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE $1";
        let until = Clock::system().now() + PATIENCE;
        while client.query_one(sql, &[&format!("{statement}%")]).await.unwrap().get::<_, i64>(0) == 0 && !or() {
            assert!(Clock::system().now() < until, "{statement} waits for nobody");
            retry::sleep(&Clock::system(), Duration::from_millis(5)).await;
        }
    }
}

async fn open(url: &str, archive: &tempfile::TempDir) -> Onward {
    let keys = MacKeys::one("k1", [7; 32]).unwrap();
    let config = Config::new(url).with_keys(keys).with_signing_key(CheckpointKey::from_seed([5; 32]));
    Onward::connect(config.with_archive_at(format!("file:{}", archive.path().display()))).await.unwrap()
}

/// How many entries of the segment are there.
async fn present(chain: &Chain) -> usize {
    let segment = Filter { to: Some(seq(300)), ..Filter::default() };
    chain.query(&segment, Page { limit: 1_000, after: None }).await.unwrap().items.len()
}

async fn verified(chain: &Chain) {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.findings.is_empty() && report.verdict == Verdict::Ok, "{report}");
}

/// A batch stands still in the middle of its work, with all its locks; every append goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_never_waits_for_a_purge() {
    let desk = Desk::new().await;
    let other = open(&desk.url, &desk.archive).await.audit().chain("orders").unwrap();
    let (blocker, purging) = desk.stuck_purge().await;
    let head = other.head().await.unwrap().unwrap().seq.get();
    for n in 1..=20 {
        let chain = if n % 2 == 0 { &desk.chain } else { &other };
        let receipt = chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
        assert_eq!(receipt.seq.get(), head + n);
    }
    assert!(!purging.is_finished(), "the batch waited all the time");
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(purging.await.unwrap().unwrap().state, SegmentState::Purged);
    verified(&desk.chain).await;
}

/// The first hold of a chain has no row that a batch could lock: it waits for the batch all the same, and no row goes behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_hold_waits_for_the_batch_that_did_not_see_it() {
    let desk = Desk::new().await;
    // Before the batch stands still: the server lets it do so for five seconds.
    let chain = open(&desk.url, &desk.archive).await.audit().chain("orders").unwrap();
    let (blocker, purging) = desk.stuck_purge().await;
    let placed = Arc::new(AtomicBool::new(false));
    let holding = tokio::spawn({
        let placed = placed.clone();
        async move {
            while let Err(error) = chain.hold(None, None, &act()).await {
                assert_eq!(error.kind(), Kind::Overloaded, "{error}");
            }
            placed.store(true, Ordering::SeqCst);
            present(&chain).await
        }
    });
    // Between two tries of the batch it may find nobody in its way.
    desk.waiting("INSERT INTO onward_objects", || placed.load(Ordering::SeqCst)).await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let left = holding.await.unwrap();
    // The purge was in its last batch, or stalls now.
    let purged = purging.await.unwrap();
    assert!(purged.is_ok() || purged.as_ref().is_err_and(|error| error.code() == Code::StateConflict), "{purged:?}");
    assert_eq!(present(&desk.chain).await, left, "no row goes behind a hold");
    verified(&desk.chain).await;
}

/// Whoever may not delete entries can append, seal and archive; the purge that a role with more rights goes on with is whole.
#[tokio::test]
async fn a_role_without_the_right_to_delete_can_do_everything_but_purge() {
    let desk = Desk::new().await;
    let role = Postgres::role_at(&desk.url, "UPDATE, DELETE, TRUNCATE ON onward_entries").await;
    let app = open(&role, &desk.archive).await.audit().chain("orders").unwrap();
    app.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    app.seal(None, &act()).await.unwrap();
    app.archive(seq(301), &act()).await.unwrap();
    let refused = app.purge(seq(1), &act()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    verified(&app).await;
    assert_eq!(desk.chain.heal(&act()).await.unwrap().finished, [1]);
    verified(&app).await;
}

/// A worker of another version moves no row.
#[tokio::test]
async fn a_batch_of_another_version_moves_nothing() {
    let desk = Desk::new().await;
    let store = PostgresStore::open(&desk.url, &Clock::system()).await.unwrap();
    let rows = store.hashes(desk.chain.name(), 2, 9).await.unwrap();
    let batch = Batch { chain: desk.chain.name().clone(), guards: Vec::new(), rows: Moved::Out(rows) };
    Postgres::run_at(&desk.url, "UPDATE onward_meta SET schema_version = 99").await;
    assert_eq!(store.move_rows(batch).await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(store.hashes(desk.chain.name(), 2, 9).await.unwrap().len(), 8);
}

/// Entries go by a purge only, and control entries never, whatever SQL a program sends by mistake.
#[tokio::test]
async fn entries_go_by_a_purge_only() {
    let desk = Desk::new().await;
    let client = desk.client().await;
    // Chain and places that may go, and what somebody deletes then.
    let range = |chain: &str, from, to| format!("INSERT INTO onward_purging SELECT id + {chain}, {from}, {to} FROM onward_chains;");
    let two = range("0", 2, 5) + &range("0", 6, 10);
    let refusals = [
        (String::new(), "true"),
        (String::new(), "seq = 2"),
        (range("0", 2, 10), "true"),
        (range("0", 2, 10), "seq BETWEEN 2 AND 11"),
        (range("0", 3, 10), "seq BETWEEN 2 AND 10"),
        (range("1", 2, 10), "seq BETWEEN 2 AND 10"),
        (two.clone(), "seq BETWEEN 2 AND 10"),
        (range("0", 1, 1_000), "kind = 'segment.sealed'"),
        (range("0", 1, 1_000), "true"),
    ];
    for (licence, which) in refusals {
        let refused = client.batch_execute(&format!("BEGIN; {licence} DELETE FROM onward_entries WHERE {which}")).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("P0001"), "{licence} {which}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    for (licence, which) in [(range("0", 2, 10), "seq BETWEEN 2 AND 10"), (two, "seq BETWEEN 6 AND 10"), (String::new(), "false")] {
        client.batch_execute(&format!("BEGIN; {licence} DELETE FROM onward_entries WHERE {which}; ROLLBACK")).await.unwrap();
    }
    verified(&desk.chain).await;
    desk.chain.purge(seq(1), &act()).await.unwrap();
    let left = client.query_one("SELECT count(*) FROM onward_purging", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
    verified(&desk.chain).await;
}

/// What is not the row that was sealed is evidence: it stays, and the purge does not end before it is right again.
#[tokio::test]
async fn a_foreign_row_stays_and_stops_the_purge() {
    for change in ["hash = decode(repeat('00', 32), 'hex')", "flags = flags | 1"] {
        let desk = Desk::new().await;
        let client = desk.client().await;
        let spoil = format!(
            "ALTER TABLE onward_entries DISABLE TRIGGER onward_entries_stay; CREATE TABLE kept AS SELECT * FROM onward_entries WHERE seq = 5;
             UPDATE onward_entries SET {change} WHERE seq = 5"
        );
        client.batch_execute(&spoil).await.unwrap();
        let stopped = desk.chain.purge(seq(1), &act()).await.unwrap_err();
        assert_eq!((stopped.code(), stopped.effect()), (Code::IntegrityFailure, Effect::Unknown), "{change}: {stopped}");
        let left = "SELECT string_agg(seq::text, ',' ORDER BY seq) FROM onward_entries WHERE seq < 300";
        assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, String>(0), "1,5", "{change}");
        let mend = "UPDATE onward_entries SET hash = kept.hash, flags = kept.flags FROM kept WHERE onward_entries.seq = 5";
        client.batch_execute(mend).await.unwrap();
        assert_eq!(desk.chain.heal(&act()).await.unwrap().finished, [1], "{change}");
        verified(&desk.chain).await;
    }
}

/// Waits until nobody but us is connected to this database: by then each has told the server what it read.
async fn alone(looker: &tokio_postgres::Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let until = Clock::system().now() + PATIENCE;
    while looker.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Clock::system().now() < until, "somebody stays connected");
        retry::sleep(&Clock::system(), Duration::from_millis(5)).await;
    }
}

/// Counted, over many batches: each reads the entries that it deletes and not the rest of the chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_reads_the_entries_that_go_and_no_others() {
    const ROWS: u64 = 4_000;
    let (url, archive) = (Postgres::shared().database().await, tempfile::tempdir().unwrap());
    let (looker, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let chain = open(&url, &archive).await.audit().chain("orders").unwrap();
    for _ in 0..ROWS / 125 {
        chain.append_many(vec![Entry::new("order.paid"); 125], AppendOptions::new()).await.unwrap();
    }
    chain.seal(Some(seq(ROWS)), &act()).await.unwrap();
    chain.archive(seq(1), &act()).await.unwrap();
    drop(chain);
    alone(&looker).await;
    looker.batch_execute("SELECT pg_stat_reset()").await.unwrap();
    let chain = open(&url, &archive).await.audit().chain("orders").unwrap();
    chain.purge(seq(1), &act()).await.unwrap();
    drop(chain);
    alone(&looker).await;
    let sql = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'onward_entries'";
    let read = looker.query_one(sql, &[]).await.unwrap().get::<_, i64>(0).unsigned_abs();
    assert!((ROWS - 1..ROWS * 2).contains(&read), "{read} entries were read to delete {ROWS}");
}
