//! What is in the way ends in time and with a typed error, and when it is gone everything goes on (C7).

use std::sync::Arc;
use std::time::Duration;

use onward::commit::{Commit, CommitOutcome, CommitQueue, QueueOptions, Retention, WriteCondition};
use onward::engine::postgres::PostgresStore;
use onward::lock::LockOptions;
use onward::model::{LockKey, MacKeys};
use onward::observe::Silent;
use onward::store::Put;
use onward::testing::servers::{Postgres, Proxy};
use onward::time::Clock;
use onward::{Effect, Error, Kind, Onward, Result, retry};

use super::{open, through};

/// The end of a batch on the wire: what it tells to whom, and the message that has the server carry it out.
const BATCH_END: [&[u8]; 2] = [b"onward_commits", b"S\0\0\0\x04"];

fn is_busy(error: &Error) {
    assert_eq!((error.kind(), error.effect()), (Kind::Overloaded, Effect::NotApplied), "{error:?}");
    assert!(error.retry_after().is_some(), "{error:?}");
}

async fn create(onward: &Onward, name: &str) -> Result<()> {
    onward.store().create(("thing", name), &1).await.map(|put| assert!(matches!(put, Put::Committed(_)), "{put:?}"))
}

/// A session of somebody else's, with a transaction that is open until it is dropped.
async fn session(url: &str, sql: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    client
}

/// More reads at once than there are connections, all of which wait for somebody else's lock.
async fn pool_exhausted() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    create(&onward, "x").await.unwrap();
    let stranger = session(&url, "BEGIN; LOCK TABLE onward_objects IN ACCESS EXCLUSIVE MODE").await;
    let read = |onward: Onward| async move { onward.store().get::<i64>(("thing", "x")).await.map(|object| object.unwrap().value) };
    let mut reads = tokio::task::JoinSet::new();
    (0..24).for_each(|_| _ = reads.spawn(read(onward.clone())));
    // Eight find no connection; the others are still at it.
    for _ in 0..8 {
        is_busy(&reads.join_next().await.unwrap().unwrap().unwrap_err());
    }
    drop(stranger);
    while let Some(done) = reads.join_next().await {
        assert_eq!(done.unwrap().unwrap(), 1);
    }
    assert_eq!(read(onward).await.unwrap(), 1);
}

/// Somebody else holds the row that gives the writer's right.
async fn lock_timed_out() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    let stranger = session(&url, "BEGIN; SELECT FROM onward_meta FOR UPDATE").await;
    is_busy(&create(&onward, "late").await.unwrap_err());
    drop(stranger);
    create(&onward, "late").await.unwrap();
}

/// A statement takes for ever: the server ends it.
async fn statement_timed_out() {
    let url = Postgres::shared().schema().await;
    let onward = open(&url).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END';
         CREATE TRIGGER slow BEFORE INSERT ON onward_objects FOR EACH ROW EXECUTE FUNCTION slow()";
    Postgres::run_at(&url, slow).await;
    is_busy(&create(&onward, "slow").await.unwrap_err());
    Postgres::run_at(&url, "DROP TRIGGER slow ON onward_objects").await;
    create(&onward, "slow").await.unwrap();
}

/// Connections stand and nothing comes back.
async fn silent() {
    let proxy = Proxy::to(Postgres::shared().port()).await;
    let database = Postgres::shared().database().await;
    let onward = open(&through(&proxy).replace("/postgres", &database[database.rfind('/').unwrap()..])).await;
    create(&onward, "first").await.unwrap();
    proxy.swallow_answers();
    let at_once = LockOptions::fail().with_wait(std::time::Duration::ZERO);
    let key = LockKey::raw("job").unwrap();
    let (locks, write) = (onward.locks(), create(&onward, "second"));
    let (lock, write) = tokio::join!(locks.acquire(&key, at_once), write);
    let lock = lock.map(drop).unwrap_err();
    assert_eq!((lock.kind(), lock.effect()), (Kind::Backend, Effect::Unknown), "{lock:?}");
    let write = write.unwrap_err();
    assert_eq!(write.kind(), Kind::Backend, "{write:?}");
    proxy.heal();
    create(&onward, "third").await.unwrap();
    if write.effect() == Effect::NotApplied {
        assert!(onward.store().get::<i64>(("thing", "second")).await.unwrap().is_none());
    }
}

/// All at once, since each of them waits for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wait_on_the_server_ends_with_a_typed_error() {
    tokio::join!(pool_exhausted(), lock_timed_out(), statement_timed_out(), silent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_for_a_connection_says_so_and_all_goes_on_when_there_is() {
    let server = Postgres::shared();
    let url = server.database().await;
    let (name, role) = (url.rsplit('/').next().unwrap(), "crowded");
    Postgres::run_at(
        &url,
        &format!("CREATE ROLE {role} LOGIN; ALTER DATABASE {name} OWNER TO {role}; GRANT ALL ON SCHEMA public TO {role}"),
    )
    .await;
    let onward = open(&url.replace("onward@", &format!("{role}@"))).await;
    create(&onward, "before").await.unwrap();
    let none =
        format!("ALTER ROLE {role} CONNECTION LIMIT 0; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    Postgres::run_at(&url, &none).await;
    // What was connected finds out that it is not, and then that there is no room.
    let read = async || onward.store().get::<i64>(("thing", "before")).await.map(|_| ());
    let full = async |result: Result<()>| match result {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
            error.kind() == Kind::Overloaded
        }
    };
    while !full(read().await).await {}
    while !full(create(&onward, "refused").await).await {}
    Postgres::run_at(&url, &format!("ALTER ROLE {role} CONNECTION LIMIT -1")).await;
    create(&onward, "after").await.unwrap();
    read().await.unwrap();
    assert!(onward.store().get::<i64>(("thing", "refused")).await.unwrap().is_none());
}

/// A batch reaches the server long after its writer gave it up and its caller was told so. It never lands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_never_lands_however_late_it_comes() {
    let proxy = Proxy::to(Postgres::shared().port()).await;
    let database = Postgres::shared().database().await;
    let url = through(&proxy).replace("/postgres", &database[database.rfind('/').unwrap()..]);
    let (clock, system) = (Clock::manual(), Clock::system());
    let engine = Arc::new(PostgresStore::open(&url, &clock).await.unwrap());
    let options = QueueOptions { clock: clock.clone(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    let queue = CommitQueue::start(engine, options).await.unwrap();
    let wait = Duration::from_secs(3);
    let put = |value: i64, condition| {
        let (queue, commit) = (queue.clone(), Commit::new().put(("thing", "x"), &value, condition).deadline(wait));
        tokio::spawn(async move { queue.submit(commit).await })
    };
    let written = async |put: tokio::task::JoinHandle<Result<CommitOutcome>>| {
        assert!(matches!(put.await.unwrap().unwrap(), CommitOutcome::Committed(_)));
    };
    written(put(0, WriteCondition::MustCreate)).await;
    // A writer that knows the rows sends a whole transaction at once, as soon as all its statements have names.
    for value in 1..6 {
        written(put(value, WriteCondition::MustExist)).await;
    }
    proxy.hold_requests();
    let given_up = put(99, WriteCondition::MustExist);
    let until = system.now() + Duration::from_secs(10);
    let sent = || {
        let held = proxy.held();
        let behind = |bytes: &'_ [u8], end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
        behind(&held, BATCH_END[0]).is_some_and(|at| behind(&held[at..], BATCH_END[1]).is_some())
    };
    while !sent() {
        assert!(system.now() < until, "nothing is sent");
        retry::sleep(&system, Duration::from_millis(5)).await;
    }
    clock.advance(wait + Duration::from_millis(500));
    proxy.strand();
    is_busy(&given_up.await.unwrap().unwrap_err());
    let client = session(&database, "SELECT 1").await;
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let sessions = async || client.query_one(idle, &[]).await.unwrap().get::<_, i64>(0);
    let before = sessions().await;
    proxy.deliver();
    while sessions().await == before {
        assert!(system.now() < until, "the session does not end");
    }
    let value = async || {
        let found = client.query_one("SELECT convert_from(payload, 'UTF8') FROM onward_objects", &[]).await.unwrap();
        found.get::<_, String>(0)
    };
    assert_eq!(value().await, "5");
    written(put(6, WriteCondition::MustExist)).await;
    assert_eq!(value().await, "6");
}
