//! A writer goes on from what it knows only while nobody else has written, and refuses nobody by it (C1, C2).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onward::audit::AppendOptions;
use onward::audit::verify::{Check, Verdict};
use onward::commit::engine::{CommitEngine, Plan, Rows, Wanted, Writer};
use onward::commit::{Commit, CommitOutcome, Guard, Reason, WriteCondition};
use onward::engine::postgres::PostgresStore;
use onward::model::{Entry, FencingToken, Key, LockKey, Payload, RequestId, Version};
use onward::store::{Put, WriteOptions};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Effect, Error, Onward};

use super::open;

async fn put(onward: &Onward, value: &str, at: WriteCondition) -> Put<Payload> {
    let payload = Payload::new(value.to_owned(), "text/plain").unwrap();
    onward.store().put_payload_if(("thing", "x"), payload, at, WriteOptions::new()).await.unwrap()
}

async fn put_at(onward: &Onward, value: &str, version: Version) -> Result<Version, Reason> {
    match put(onward, value, WriteCondition::MatchVersion(version)).await {
        Put::Committed(written) => Ok(written.version),
        Put::Conflict(conflict) => Err(conflict.reason),
    }
}

async fn create(onward: &Onward, value: &str) -> Version {
    match put(onward, value, WriteCondition::MustCreate).await {
        Put::Committed(written) => written.version,
        other => panic!("{other:?}"),
    }
}

async fn value(onward: &Onward) -> String {
    let object = onward.store().get_payload(("thing", "x")).await.unwrap().unwrap();
    String::from_utf8(object.value.bytes().to_vec()).unwrap()
}

/// Two replicas, of which the first has seen that it is alone, and knows the object `x` and its version.
async fn replicas() -> (Onward, Onward, Version, String) {
    let url = Postgres::shared().schema().await;
    let (one, other) = (open(&url).await, open(&url).await);
    let mut version = create(&one, "").await;
    for text in ["a", "b", "first"] {
        version = put_at(&one, text, version).await.unwrap();
    }
    (one, other, version, url)
}

/// Drives a writer on a thread of its own, as the queue does: it brings its runtime with it.
async fn on_its_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(work);
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
}

fn nothing(rows: &Rows) -> Arc<Plan> {
    Arc::new(Plan {
        meta: rows.meta.clone(),
        now: rows.meta.at,
        objects: HashMap::new(),
        records: Vec::new(),
        fences: HashMap::new(),
        requests: HashMap::new(),
        heads: HashMap::new(),
        entries: Vec::new(),
        personal: Vec::new(),
        forgotten: Vec::new(),
    })
}

fn begin(writer: &mut Box<dyn Writer>, wanted: &Wanted) -> Rows {
    pollster::block_on(writer.begin(wanted)).unwrap()
}

fn is_told_to_read(finished: &Result<(), Error>) {
    assert_eq!(finished.as_ref().unwrap_err().effect(), Effect::NotApplied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_known_until_somebody_else_writes() {
    let (one, other, version, url) = replicas().await;
    let engine = PostgresStore::open(&url, &Clock::system()).await.unwrap();
    let key = Key::new("thing", "x").unwrap();
    let wanted = Arc::new(Wanted { objects: [key.clone()].into(), ..Wanted::default() });
    let (mine, asked, looked) = (wanted.clone(), engine.clone(), key.clone());
    let mut writer = on_its_thread(move || {
        let mut writer = asked.writer().unwrap();
        let read = begin(&mut writer, &mine);
        assert!(read.held && read.objects[&looked].meta.version == version);
        pollster::block_on(writer.finish(&nothing(&read))).unwrap();
        // It looks once more whether it is alone.
        assert!(begin(&mut writer, &mine).held);
        pollster::block_on(writer.give_back());
        // Not asked for again, and still true.
        let known = begin(&mut writer, &mine);
        assert!(!known.held && known.meta == read.meta && known.objects == read.objects);
        pollster::block_on(writer.finish(&nothing(&known))).unwrap();
        // What it never read it reads.
        let more = Wanted { objects: [looked, Key::new("thing", "y").unwrap()].into(), ..Wanted::default() };
        assert!(begin(&mut writer, &more).held);
        pollster::block_on(writer.give_back());
        assert!(!begin(&mut writer, &more).held);
        writer
    })
    .await;
    let newer = put_at(&other, "second", version).await.unwrap();
    on_its_thread(move || {
        let known = begin(&mut writer, &wanted);
        assert!(!known.held && known.objects[&key].meta.version == version, "it cannot know yet");
        is_told_to_read(&pollster::block_on(writer.finish(&nothing(&known))));
        let read = begin(&mut writer, &wanted);
        assert!(read.held && read.objects[&key].meta.version == newer);
        pollster::block_on(writer.give_back());
    })
    .await;
    drop(one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_by_what_it_knows_waits_for_nobody() {
    let (_one, _other, _, url) = replicas().await;
    let engine = PostgresStore::open(&url, &Clock::system()).await.unwrap();
    let mut writer = on_its_thread(move || {
        let mut writer = engine.writer().unwrap();
        for _ in 0..2 {
            assert!(begin(&mut writer, &Wanted::default()).held);
            pollster::block_on(writer.give_back());
        }
        writer
    })
    .await;
    let (stranger, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    stranger.batch_execute("BEGIN; SELECT FROM onward_meta FOR UPDATE").await.unwrap();
    // Whoever waits here waits for five seconds.
    let clock = Clock::system();
    let begun = clock.now();
    on_its_thread(move || {
        let known = begin(&mut writer, &Wanted::default());
        assert!(!known.held);
        is_told_to_read(&pollster::block_on(writer.finish(&nothing(&known))));
    })
    .await;
    assert!(clock.now().since(begun) < Duration::from_secs(4));
    stranger.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_never_writes_over_what_another_wrote() {
    let (one, other, first, _) = replicas().await;
    let second = put_at(&other, "second", first).await.unwrap();
    assert_eq!(put_at(&one, "lost", first).await, Err(Reason::Stale));
    assert_eq!(value(&one).await, "second");
    // Nor does it refuse by what it knew.
    let third = put_at(&other, "third", second).await.unwrap();
    let fourth = put_at(&one, "fourth", third).await.unwrap();
    assert!(fourth > third);
    assert_eq!(value(&other).await, "fourth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_past_the_library_is_not_written_over() {
    let (one, _, first, url) = replicas().await;
    // To a lower version, which the trip wire of the table would let a newer one replace.
    let foreign = "ALTER TABLE onward_objects DISABLE TRIGGER USER;
         UPDATE onward_objects SET payload = 'foreign', version = version - 1 WHERE name = 'x';
         ALTER TABLE onward_objects ENABLE TRIGGER USER";
    Postgres::run_at(&url, foreign).await;
    assert_eq!(put_at(&one, "lost", first).await, Err(Reason::Stale));
    assert_eq!(value(&one).await, "foreign");
    let second = one.store().get_payload(("thing", "x")).await.unwrap().unwrap().meta.version;
    // A delete goes by the version as well.
    Postgres::run_at(&url, foreign).await;
    let delete = one.store().commit(Commit::new().delete(("thing", "x"), second)).await.unwrap();
    assert!(matches!(delete, CommitOutcome::Conflict(_)), "{delete:?}");
    Postgres::run_at(&url, "DELETE FROM onward_objects WHERE name = 'x'").await;
    let gone = one.store().get_payload(("thing", "x")).await.unwrap();
    assert!(gone.is_none());
    create(&one, "again").await;
    assert_eq!(value(&one).await, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_is_read_under_the_right() {
    let (one, _, first, url) = replicas().await;
    let (key, other) = (Key::new("thing", "x").unwrap(), |n: i32, at| Commit::new().put(("thing", "y"), &n, at));
    assert!(matches!(one.store().commit(other(1, WriteCondition::MustCreate)).await.unwrap(), CommitOutcome::Committed(_)));
    Postgres::run_at(&url, "UPDATE onward_objects SET payload = 'foreign', version = version + 1 WHERE name = 'x'").await;
    let outcome = one.store().commit(other(2, WriteCondition::MustExist).guard(Guard::At(key, first))).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Conflict(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_another_remembers_is_given_again() {
    let (one, other, first, _) = replicas().await;
    // It changes nothing, so the facts stay, but it is remembered.
    let id = RequestId::new("same").unwrap();
    let payload = Payload::new("first", "text/plain").unwrap();
    let same = || Commit::new().put_payload(("thing", "x"), payload.clone(), WriteCondition::MatchVersion(first));
    let once = other.store().commit(same().request(id.clone())).await.unwrap();
    assert!(matches!(&once, CommitOutcome::Committed(receipt) if !receipt.replayed), "{once:?}");
    let again = one.store().commit(same().request(id)).await.unwrap();
    assert!(matches!(&again, CommitOutcome::Committed(receipt) if receipt.replayed), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_another_raised_is_seen() {
    let (one, other, mut version, _) = replicas().await;
    let [newest, token, older] = [3_000, 2_000, 1_000].map(|token| FencingToken::new(token).unwrap());
    let lock = |name: &str| LockKey::raw(name).unwrap();
    let write = |text: &str, at| Commit::new().put_payload(("thing", "x"), Payload::new(text.to_owned(), "text/plain").unwrap(), at);
    let fenced = write("fenced", WriteCondition::MatchVersion(version)).fence(lock("one"), newest);
    assert!(matches!(one.store().commit(fenced).await.unwrap(), CommitOutcome::Committed(_)));
    version = one.store().get_payload(("thing", "x")).await.unwrap().unwrap().meta.version;
    // Nothing changes but the newest token of a lock, which is not the newest of all.
    let same = write("fenced", WriteCondition::MatchVersion(version)).request(RequestId::new("same").unwrap());
    let raised = other.store().commit(same.fence(lock("other"), token)).await.unwrap();
    assert!(matches!(raised, CommitOutcome::Committed(_)), "{raised:?}");
    let late = write("late", WriteCondition::MatchVersion(version)).fence(lock("other"), older);
    let late = one.store().commit(late).await.unwrap();
    assert!(matches!(late, CommitOutcome::Fenced { .. }), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_has_one_successor_whoever_appends() {
    let (one, other, ..) = replicas().await;
    for n in 0..20 {
        let replica = if n % 3 == 0 { &other } else { &one };
        replica.audit().chain("trail").unwrap().append(Entry::new("thing.done"), AppendOptions::new()).await.unwrap();
    }
    let report = other.audit().chain("trail").unwrap().verify(Check::default()).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.to_seq == 21, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_entry_is_there_though_its_chain_went_past_the_library() {
    let (one, _, _, url) = replicas().await;
    let chain = one.audit().chain("trail").unwrap();
    let append = async || chain.append(Entry::new("thing.done"), AppendOptions::new()).await.unwrap();
    for _ in 0..3 {
        append().await;
    }
    Postgres::run_at(&url, "DELETE FROM onward_chains").await;
    append().await;
    let stored =
        Postgres::ask_at(&url, "SELECT count(*) FROM onward_entries JOIN onward_chains AS c ON c.id = chain WHERE name = 'trail'").await;
    // The chain begins anew: with the entry that says so, and this one. What it was before is what the verifier misses.
    assert_eq!(stored[0][0].as_deref(), Some("2"));
}
