//! Schema versions of a database: every earlier one with data in it is brought to this one, and nothing is lost (C4, C9).

use onward::audit::verify::{Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions};
use onward::commit::engine::CommitEngine;
use onward::commit::{Commit, CommitOutcome, FeedItem, WriteCondition};
use onward::engine::postgres::PostgresStore;
use onward::model::{
    ChainName, CheckpointKey, Entry, FencingToken, LabelChange, Labels, LockKey, MacKeys, Personal, RequestId, Revision, Selector,
};
use onward::store::{List, Put};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Config, Kind, Onward};

/// The schemas that were released before this one, in their order, as they were.
const EARLIER: &[&str] = &[
    include_str!("postgres_schema_1.sql"),
    concat!(include_str!("postgres_schema_1.sql"), include_str!("postgres_schema_2.sql")),
    concat!(include_str!("postgres_schema_1.sql"), include_str!("postgres_schema_2.sql"), include_str!("postgres_schema_3.sql")),
];
/// The first of them that keeps personal data.
const PERSONAL: usize = 3;

/// What `home` says in the rows of this table: so they are no copy from elsewhere.
const HOME: &str = "(SELECT system_identifier FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '/' || \
     (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || 'onward_meta'::regclass::oid";

fn config(url: &str) -> Config {
    let signing = CheckpointKey::from_seed([5; 32]);
    Config::new(url).with_keys(MacKeys::one("k1", [7; 32]).unwrap()).with_signing_key(signing).with_archive_at("memory:")
}

fn request(id: &str) -> Commit {
    Commit::new().put(("thing", "asked"), &1, WriteCondition::MustCreate).request(RequestId::new(id).unwrap())
}

fn fence(token: u64) -> Commit {
    Commit::new().fence(LockKey::raw("job").unwrap(), FencingToken::new(token).unwrap())
}

async fn apply(onward: &Onward, commit: Commit) {
    assert!(matches!(onward.store().commit(commit).await.unwrap(), CommitOutcome::Committed(_)));
}

/// Makes a database of an earlier version: its tables by its own SQL, and in them what this version wrote elsewhere.
async fn earlier(version: usize) -> String {
    let model = Postgres::shared().schema().await;
    let onward = Onward::connect(config(&model)).await.unwrap();
    for n in 0..5 {
        let team = LabelChange::Set(Labels::read([("team", "blue")]).unwrap());
        apply(&onward, Commit::new().put(("thing", format!("x{n}")), &n, WriteCondition::MustCreate).labels(team)).await;
        let entry = |name: &str| Entry::new("a.b").by("user:7").on(name).with_event_id(format!("event-{n}"));
        let (main, other) = (ChainName::new("main").unwrap(), ChainName::new("other").unwrap());
        apply(&onward, Commit::new().audit(main, entry("main")).audit(other, entry("other"))).await;
    }
    apply(&onward, Commit::new().overwrite_delete(("thing", "x4")).invalidate("ns", ["k"])).await;
    apply(&onward, request("r1")).await;
    apply(&onward, fence(1_000)).await;
    if version >= PERSONAL {
        let entry = Entry::new("a.b").with_personal(Personal::new("ada", b"value".to_vec()));
        apply(&onward, Commit::new().audit(ChainName::new("people").unwrap(), entry)).await;
    }
    drop(onward);
    let url = Postgres::shared().schema().await;
    let from = model.rsplit("%3D").next().unwrap();
    Postgres::run_at(&url, EARLIER[version - 1]).await;
    let tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT IN ('onward_tokens')";
    for table in Postgres::ask_at(&url, tables).await {
        let table = table[0].as_deref().unwrap();
        let columns =
            format!("SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = '{table}'");
        let columns: Vec<_> = Postgres::ask_at(&url, &columns).await.into_iter().filter_map(|mut row| row.remove(0)).collect();
        let columns = columns.join(",");
        let copy =
            format!("INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {from}.{table} ON CONFLICT DO NOTHING");
        Postgres::run_at(&url, &copy).await;
    }
    let facts = format!(
        "UPDATE onward_meta SET schema_version = {version}, home = {HOME};
         SELECT setval(pg_get_serial_sequence('onward_chains', 'id'), (SELECT max(id) FROM onward_chains))"
    );
    Postgres::run_at(&url, &facts).await;
    url
}

/// Every row of every table but the number of the schema, as text.
async fn rows(url: &str) -> Vec<Vec<Option<String>>> {
    let mut all = Vec::new();
    for table in ["objects", "labels", "changes", "fences", "requests", "chains", "heads", "entries"] {
        all.extend(Postgres::ask_at(url, &format!("SELECT '{table}', t::text FROM onward_{table} AS t ORDER BY 2")).await);
    }
    all.extend(Postgres::ask_at(url, "SELECT epoch, revision, version_floor, compacted, newest_token, origin FROM onward_meta").await);
    all
}

#[test]
fn what_was_released_never_changes() {
    let steps = [
        include_str!("../../src/engine/postgres/schema.sql"),
        include_str!("../../src/engine/postgres/schema_2.sql"),
        include_str!("../../src/engine/postgres/schema_3.sql"),
    ];
    assert_eq!(steps.len(), EARLIER.len());
    for (at, made_by) in EARLIER.iter().enumerate() {
        assert_eq!(steps[..=at].concat(), *made_by, "databases of version {} are there already", at + 1);
    }
}

#[tokio::test]
async fn a_populated_database_of_every_earlier_version_loses_nothing() {
    for version in 1..=EARLIER.len() {
        let url = earlier(version).await;
        let before = rows(&url).await;
        let plan = Onward::plan(&config(&url)).await.unwrap();
        assert_eq!((plan.found, plan.is_due()), (Some(i32::try_from(version).unwrap()), true));
        assert_eq!(rows(&url).await, before, "a plan changes nothing");
        let onward = Onward::connect(config(&url)).await.unwrap();
        assert!(!Onward::plan(&config(&url)).await.unwrap().is_due());
        assert_eq!(rows(&url).await, before);
        // What it remembers goes on to hold.
        let store = onward.store();
        let CommitOutcome::Committed(again) = store.commit(request("r1")).await.unwrap() else { panic!("it was applied") };
        assert!(again.replayed);
        assert!(matches!(store.commit(fence(999)).await.unwrap(), CommitOutcome::Fenced { .. }));
        let blue = store.list(List::new("thing").with_selector(Selector::new().equals("team", "blue").unwrap())).await.unwrap();
        assert_eq!(blue.items.len(), 4);
        let mut feed = store.queue().feed(Some(Revision::default()), None).await.unwrap();
        let newest = store.queue().engine().meta().await.unwrap().revision;
        let mut told = 0;
        while feed.revision() < newest {
            told += usize::from(matches!(feed.next().await.unwrap(), FeedItem::Commit(_)));
        }
        assert_eq!(told as u64, newest.get());
        // And what is new works on what is old.
        let chain = onward.audit().chain("main").unwrap();
        let act = Act::because("retention");
        chain.seal(None, &act).await.unwrap();
        let one = onward::model::Seq::new(1).unwrap();
        chain.archive(one, &act).await.unwrap();
        assert_eq!(chain.purge(one, &act).await.unwrap().state, SegmentState::Purged);
        if version >= PERSONAL {
            let told = onward.audit().chain("people").unwrap().personal(onward::model::Seq::new(2).unwrap()).await.unwrap();
            assert_eq!((&*told.personal.subject, &*told.personal.value), ("ada", &b"value"[..]));
        }
        for chain in ["main", "other"] {
            let chain = onward.audit().chain(chain).unwrap();
            chain.append(Entry::new("a.b"), AppendOptions::new()).await.unwrap();
            let report = chain.verify(Check::default()).await.unwrap();
            assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_migrate_an_old_database_once() {
    let url = earlier(1).await;
    let opened: Vec<_> = (0..6)
        .map(|n| {
            let url = url.clone();
            tokio::spawn(async move {
                let onward = Onward::connect(config(&url)).await.unwrap();
                let created = onward.store().create(("thing", format!("new{n}")), &n).await.unwrap();
                assert!(matches!(created, Put::Committed(_)));
            })
        })
        .collect();
    for opened in opened {
        opened.await.unwrap();
    }
    assert_eq!(Postgres::ask_at(&url, "SELECT name FROM onward_objects WHERE name LIKE 'new%'").await.len(), 6);
}

/// A migration that dies half-way leaves the database as it was, and a replica of the earlier version goes on.
#[tokio::test]
async fn a_migration_that_fails_half_way_leaves_the_database_as_it_was() {
    let url = earlier(1).await;
    let before = rows(&url).await;
    // Something of that name is in the way of the last statement.
    Postgres::run_at(&url, "CREATE FUNCTION onward_refuse_unless_purging() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
        .await;
    let failed = Onward::connect(config(&url)).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Backend, "{failed}");
    assert_eq!(rows(&url).await, before);
    assert!(Postgres::ask_at(&url, "SELECT 1 WHERE to_regclass('onward_purging') IS NOT NULL").await.is_empty());
    Postgres::run_at(&url, "DROP FUNCTION onward_refuse_unless_purging()").await;
    let store = PostgresStore::open(&url, &Clock::system()).await.unwrap();
    assert!(store.meta().await.unwrap().revision.get() > 0);
    assert_eq!(rows(&url).await, before);
}
