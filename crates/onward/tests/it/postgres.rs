//! Postgres and what real servers do: die, stand still, lose connections, get restored, sit behind a pooler.

mod faults;
mod known;
mod rights;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use onward::commit::engine::{CommitEngine, Wanted};
use onward::commit::{Commit, CommitOutcome, FeedItem};
use onward::engine::postgres::PostgresStore;
use onward::lock::{HeldMemory, LockOptions, Outcome};
use onward::model::{Key, LockKey, Payload, RequestId, Revision};
use onward::store::{Put, WriteOptions};
use onward::testing::servers::{Pooler, Postgres, Proxy};
use onward::time::Clock;
use onward::{Code, Config, Effect, Error, Kind, Onward, retry};

const PATIENCE: Duration = Duration::from_secs(60);
/// How many cuts in each direction.
const STEPS: usize = 24;

async fn open(url: &str) -> Onward {
    Onward::connect(Config::new(url)).await.unwrap()
}

fn through(proxy: &Proxy) -> String {
    format!("postgres://onward@127.0.0.1:{}/postgres", proxy.port())
}

async fn add(onward: &Onward, id: &str) -> onward::Result<()> {
    let id = RequestId::new(id).unwrap();
    let one = onward::commit::Patch::new().add("/n", 1);
    let commit = Commit::new().apply(("counter", "x"), one, None).request(id);
    match onward.store().commit(commit).await? {
        CommitOutcome::Committed(_) => Ok(()),
        lost => Err(Error::invalid(format!("{lost:?}"))),
    }
}

/// Repeats a request until it is answered: the same id is applied once, however often it is sent (C3, C6).
async fn surely(onward: &Onward, id: &str) {
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    while let Err(error) = add(onward, id).await {
        assert!(matches!(error.kind(), Kind::Backend | Kind::Overloaded), "{error:?}");
        assert!(clock.now() < until, "{error:?}");
        retry::sleep(&clock, Duration::from_millis(20)).await;
    }
}

async fn start_counting(onward: &Onward) {
    let created = onward.store().create(("counter", "x"), &serde_json::json!({"n": 0})).await.unwrap();
    assert!(matches!(created, Put::Committed(_)));
}

async fn count(onward: &Onward) -> i64 {
    let object = onward.store().get::<serde_json::Value>(("counter", "x")).await.unwrap().unwrap();
    object.value["n"].as_i64().unwrap()
}

/// Follows the feed through every fault and returns the revisions, up to the one that it is told at the end.
async fn follow(onward: Onward, end: Arc<AtomicI64>) -> Vec<u64> {
    let mut feed = onward.store().queue().feed(Some(Revision::default()), None).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match feed.next().await {
            Ok(FeedItem::Commit(record)) => seen.push(record.revision.get()),
            Ok(FeedItem::Bookmark(_)) => {}
            Err(error) => {
                assert_eq!(error.kind(), Kind::Backend, "{error:?}");
                retry::sleep(&Clock::system(), Duration::from_millis(20)).await;
            }
        }
        let end = end.load(Ordering::SeqCst);
        if end > 0 && feed.revision().get() >= end.unsigned_abs() {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_every_acknowledged_write_is_there_once() {
    let server = Arc::new(Postgres::start());
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    start_counting(&a).await;
    let end = Arc::new(AtomicI64::new(0));
    let feed = tokio::spawn(follow(b.clone(), end.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (onward, stop) = (if writer % 2 == 0 { a.clone() } else { b.clone() }, stop.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while !stop.load(Ordering::SeqCst) {
                    surely(&onward, &format!("w{writer}-{done}")).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let clock = Clock::system();
    for _ in 0..3 {
        retry::sleep(&clock, Duration::from_millis(400)).await;
        let server = server.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            server.revive();
        })
        .await
        .unwrap();
    }
    retry::sleep(&clock, Duration::from_millis(300)).await;
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += writer.await.unwrap();
    }
    assert!(acknowledged > 0);
    assert_eq!(count(&a).await, acknowledged, "each request is applied once, lost answers or not");
    let newest = a.store().queue().engine().meta().await.unwrap().revision.get();
    end.store(i64::try_from(newest).unwrap(), Ordering::SeqCst);
    assert_eq!(feed.await.unwrap(), (1..=newest).collect::<Vec<_>>(), "each commit once, in order, without a gap");
}

/// The way is cut at every step of a commit. What the store then says of it is the truth: it was settled by asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_cut_anywhere_is_told_as_it_is() {
    let server = Postgres::start();
    let direct = open(&server.url()).await;
    let proxy = Proxy::to(server.port()).await;
    let cut = open(&through(&proxy)).await;
    let warm = async |name: String| {
        let clock = Clock::system();
        let until = clock.now() + PATIENCE;
        while let Err(error) = cut.store().create(("warm", &name), &0).await {
            assert!(clock.now() < until, "{error:?}");
        }
    };
    warm("first".to_owned()).await;
    let before = proxy.passed();
    warm("second".to_owned()).await;
    let after = proxy.passed();
    let (requests, answers) = (after.0 - before.0, after.1 - before.1);
    let (mut landed, mut refused) = (0, 0);
    for step in 0..=STEPS {
        for way in ["there", "back"] {
            let name = format!("{way}-{step}");
            // On a connection that stands: the cut is in the commit itself.
            warm(name.clone()).await;
            match way {
                "there" => proxy.cut_after_requests(requests * step / STEPS),
                _ => proxy.cut_after_answers(answers * step / STEPS),
            }
            let put = cut.store().create(("thing", &name), &step).await;
            proxy.heal();
            // What the server has received it carries out, whoever is gone.
            let busy = "SELECT 1 FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
            while !Postgres::ask_at(&server.url(), busy).await.is_empty() {}
            let there = direct.store().get::<usize>(("thing", &name)).await.unwrap().is_some();
            match put {
                Ok(Put::Committed(_)) => {
                    assert!(there, "{name}: said to be committed");
                    landed += 1;
                }
                Ok(other) => panic!("{name}: {other:?}"),
                Err(error) if error.effect() == Effect::NotApplied => {
                    assert!(!there, "{name}: said not to be applied");
                    refused += 1;
                }
                Err(error) => panic!("{name}: open after it was asked about: {error:?}"),
            }
        }
    }
    assert!(landed > 0 && refused > 0, "{landed} landed, {refused} did not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stands_still_loses_the_writers_right() {
    let url = Postgres::shared().schema().await;
    let (engine, other) = (PostgresStore::open(&url, &Clock::system()).await.unwrap(), open(&url).await);
    // It takes the right, and does nothing with it.
    let mut writer = engine.writer().unwrap();
    let stuck = std::thread::spawn(move || {
        let rows = pollster::block_on(writer.begin(&Wanted::default())).unwrap();
        (writer, rows)
    });
    let (mut writer, _rows) = tokio::task::spawn_blocking(move || stuck.join().unwrap()).await.unwrap();
    let clock = Clock::system();
    let begun = clock.now();
    let until = begun + PATIENCE;
    while let Err(error) = other.store().create(("thing", "x"), &1).await {
        assert!(clock.now() < until && error.effect() == Effect::NotApplied, "{error:?}");
    }
    let took = clock.now().since(begun);
    assert!(took < Duration::from_secs(9), "{took:?}");
    // It wakes up and finds that it lost.
    std::thread::spawn(move || pollster::block_on(writer.give_back())).join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_for_a_moment_loses_nothing() {
    let server = Postgres::start();
    let onward = open(&server.url()).await;
    start_counting(&onward).await;
    server.pause();
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let onward = onward.clone();
            tokio::spawn(async move { surely(&onward, &format!("p{n}")).await })
        })
        .collect();
    retry::sleep(&Clock::system(), Duration::from_secs(1)).await;
    server.go_on();
    for write in writes {
        write.await.unwrap();
    }
    assert_eq!(count(&onward).await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_replicas_that_start_at_once_make_one_store() {
    let url = Postgres::shared().schema().await;
    let opened: Vec<_> = (0..10)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { PostgresStore::open(&url, &Clock::system()).await.unwrap().meta().await.unwrap().epoch })
        })
        .collect();
    let mut epochs = HashSet::new();
    for opened in opened {
        epochs.insert(opened.await.unwrap().bits());
    }
    assert_eq!(epochs.len(), 1);
    let plan = Onward::plan(&Config::new(&url)).await.unwrap();
    assert!(!plan.is_due() && plan.found == Some(plan.wanted));
}

#[tokio::test]
async fn a_writer_stops_when_another_version_changes_the_schema_beside_it() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    assert!(matches!(onward.store().create(("thing", "x"), &1).await.unwrap(), Put::Committed(_)));
    Postgres::run_at(&url, "UPDATE onward_meta SET schema_version = 99").await;
    let refused = onward.store().create(("thing", "y"), &1).await.unwrap_err();
    assert_eq!((refused.kind(), refused.effect()), (Kind::Unsupported, Effect::NotApplied), "{refused:?}");
    let refused = Onward::connect(Config::new(&url)).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported);
    assert_eq!(Postgres::ask_at(&url, "SELECT name FROM onward_objects").await.len(), 1);
}

#[tokio::test]
async fn a_restored_database_refuses_old_versions_and_cursors() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    let Put::Committed(first) = onward.store().create(("thing", "x"), &1).await.unwrap() else { panic!("it is new") };
    let before = onward.store().queue().engine().meta().await.unwrap();
    // As a dump that was read into another server would be.
    Postgres::run_at(&url, "UPDATE onward_meta SET home = 'another server'").await;
    assert!(Onward::plan(&Config::new(&url)).await.unwrap().restored);
    let restored = open(&url).await;
    let after = restored.store().queue().engine().meta().await.unwrap();
    assert!(after.epoch != before.epoch && after.revision.get() >= before.revision.get() + (1 << 32), "{after:?}");
    let cursor = restored.store().queue().feed(Some(before.revision), Some(before.epoch)).await.unwrap_err();
    assert_eq!(cursor.kind(), Kind::Expired);
    let Put::Committed(second) = restored.store().replace(("thing", "x"), &2, first.version).await.unwrap() else {
        panic!("it is the same row")
    };
    assert!(second.version.get() > first.version.get() + (1 << 32), "no number of the lost time comes back");
    assert!(!Onward::plan(&Config::new(&url)).await.unwrap().is_due());
}

#[tokio::test]
async fn an_existing_store_is_asked_for_and_there_is_none() {
    let url = Postgres::shared().schema().await;
    let missing = Onward::connect(Config::new(&url).with_existing_file()).await.unwrap_err();
    assert_eq!((missing.kind(), missing.code()), (Kind::NotFound, Code::NotFound));
    assert!(Postgres::ask_at(&url, "SELECT 1 WHERE to_regclass('onward_meta') IS NOT NULL").await.is_empty(), "nothing is made");
}

#[tokio::test]
async fn entries_are_neither_changed_nor_deleted_by_mistake() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    let chain = onward.audit().chain("orders").unwrap();
    chain.append(onward::model::Entry::new("order.placed"), onward::audit::AppendOptions::new()).await.unwrap();
    for sql in ["UPDATE onward_entries SET kind = 'other'", "DELETE FROM onward_entries", "TRUNCATE onward_entries"] {
        // The trigger's exception is turned into a row, so that the helper needs no way to fail.
        let tried = format!(
            "DO $$ BEGIN {sql}; PERFORM pg_notify('x', 'done'); RAISE EXCEPTION 'not refused'; EXCEPTION WHEN raise_exception THEN IF SQLERRM = 'not refused' THEN CREATE TABLE breached (); END IF; END $$"
        );
        Postgres::run_at(&url, &tried).await;
    }
    assert!(Postgres::ask_at(&url, "SELECT 1 WHERE to_regclass('breached') IS NOT NULL").await.is_empty());
    assert_eq!(Postgres::ask_at(&url, "SELECT kind FROM onward_entries ORDER BY seq").await.len(), 2);
}

/// What contradicts itself is named; what one rule says is of nobody else's concern.
#[tokio::test]
async fn a_look_at_the_whole_store_names_what_does_not_fit() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    start_counting(&onward).await;
    let team = onward::model::LabelChange::Set(onward::model::Labels::read([("team", "blue")]).unwrap());
    let labelled = Commit::new().put(("thing", "x"), &1, onward::commit::WriteCondition::MustCreate).labels(team);
    assert!(matches!(onward.store().commit(labelled).await.unwrap(), CommitOutcome::Committed(_)));
    let chain = onward.audit().chain("orders").unwrap();
    chain.append(onward::model::Entry::new("order.placed"), onward::audit::AppendOptions::new()).await.unwrap();
    let broken = async || {
        let found = onward.store().inspect().await.unwrap();
        assert_eq!(found.len(), 5, "{found:?}");
        found.into_iter().filter(|finding| finding.grade != onward::observe::Grade::Fine).map(|finding| finding.check).collect::<Vec<_>>()
    };
    assert_eq!(broken().await, Vec::<&str>::new());
    for (damage, repair, named) in [
        ("UPDATE onward_objects SET revision = revision + 99", "UPDATE onward_objects SET revision = revision - 99", "store.objects"),
        ("UPDATE onward_labels SET value = 'red'", "UPDATE onward_labels SET value = 'blue'", "store.labels"),
        (
            "UPDATE onward_changes SET id = id + 25600 WHERE id < 512",
            "UPDATE onward_changes SET id = id - 25600 WHERE id > 25600",
            "store.log",
        ),
        ("UPDATE onward_heads SET seq = seq - 1", "UPDATE onward_heads SET seq = seq + 1", "store.heads"),
    ] {
        Postgres::run_at(&url, damage).await;
        assert_eq!(broken().await, [named], "{damage}");
        Postgres::run_at(&url, repair).await;
    }
    assert_eq!(broken().await, Vec::<&str>::new());
}

/// Writes down what each batch relies on, as it is when the facts are moved.
const SEE: &str = "CREATE TABLE seen (what text);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO seen SELECT string_agg(current_setting(of), ' ') FROM unnest(ARRAY['transaction_isolation', 'synchronous_commit',
        'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout']) AS of;
      RETURN NULL;
    END $$;
    CREATE TRIGGER see AFTER UPDATE ON onward_meta FOR EACH ROW EXECUTE FUNCTION see()";

/// A role's defaults may be anything: each write says for itself what it relies on, or the writer said it to a session that is its own.
#[tokio::test]
async fn a_roles_defaults_change_nothing() {
    let server = Postgres::shared();
    let url = server.database().await;
    let name = url.rsplit('/').next().unwrap();
    drop(open(&url).await);
    Postgres::run_at(&url, SEE).await;
    for setting in ["default_transaction_isolation = 'serializable'", "synchronous_commit = off", "default_transaction_read_only = on"] {
        Postgres::run_at(&server.url(), &format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let (a, b) = (open(&url).await, open(&url).await);
    start_counting(&a).await;
    for n in 0..10 {
        surely(if n % 2 == 0 { &a } else { &b }, &format!("d{n}")).await;
    }
    // From here on nobody disturbs it, so what it knows it writes in one statement and nothing else.
    for n in 0..5 {
        a.store().overwrite(("alone", "x"), Payload::json(&n).unwrap(), WriteOptions::new()).await.unwrap();
    }
    assert_eq!(count(&b).await, 10);
    let key = Key::new("counter", "x").unwrap();
    assert!(b.store().queue().engine().get(&key).await.unwrap().is_some());
    let seen = Postgres::ask_at(&url, "SELECT string_agg(DISTINCT what, ', ' ORDER BY what) FROM seen").await;
    assert_eq!(seen, [[Some("read committed on 5s 8s 0, read committed on 5s 8s 5s".to_owned())]]);
}

/// A pooler hands each transaction another session, and swallows LISTEN: nothing depends on either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pooler_in_transaction_mode_everything_holds() {
    let server = Postgres::shared();
    let database = server.database().await;
    let pooler = Pooler::before(server);
    let url = pooler.url(database.rsplit('/').next().unwrap());
    let (a, b) = (open(&url).await, open(&url).await);
    start_counting(&a).await;
    let end = Arc::new(AtomicI64::new(0));
    let feed = tokio::spawn(follow(b.clone(), end.clone()));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let onward = if writer % 2 == 0 { a.clone() } else { b.clone() };
            tokio::spawn(async move {
                for n in 0..10 {
                    surely(&onward, &format!("b{writer}-{n}")).await;
                    let patient = LockOptions::fail().with_wait(Duration::from_secs(60));
                    let held = onward.locks().with_key(&LockKey::raw("projects/42").unwrap(), patient, |_| async {}).await;
                    assert!(held.is_ok(), "{held:?}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(count(&b).await, 80);
    let newest = a.store().queue().engine().meta().await.unwrap().revision.get();
    end.store(i64::try_from(newest).unwrap(), Ordering::SeqCst);
    assert_eq!(feed.await.unwrap(), (1..=newest).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_skips_a_lock_that_is_held_writes_nothing() {
    let url = Postgres::shared().schema().await;
    let (holder, other) = (open(&url).await.locks(), open(&url).await.locks());
    let key = LockKey::raw("held").unwrap();
    let grant = holder.acquire(&key, LockOptions::fail()).await.unwrap();
    // A lock on the row would show as well.
    let row = async || Postgres::ask_at(&url, "SELECT xmin::text, xmax::text, ctid::text FROM onward_leases").await;
    let before = row().await;
    for _ in 0..3 {
        // Asked anew each time.
        let skip = LockOptions::skip().with_held_memory(HeldMemory::Ignore);
        let skipped = other.with_key(&key, skip, |_| async {}).await.unwrap();
        assert!(matches!(skipped, Outcome::Skipped { .. }), "{skipped:?}");
    }
    assert_eq!(row().await, before);
    assert_eq!(grant.release().await.unwrap(), onward::lock::Release::Released);
}
