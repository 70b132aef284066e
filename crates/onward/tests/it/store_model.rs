//! Random operations: SQLite against the memory engine, which is the model.
//!
//! Groups of commits are sent at once, so that batches of every size are judged; on the model each commit stands alone. Outcomes,
//! objects, change log and remembered answers must be the same, but for what is drawn at random.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onward::commit::engine::{CommitEngine, Scan};
use onward::commit::{Change, Commit, CommitOutcome, CommitQueue, Guard, QueueOptions, Receipt, Record, Retention, Window, WriteCondition};
use onward::engine::memory::MemoryStore;
use onward::engine::sqlite::SqliteStore;
use onward::model::{
    ChainName, Entry, FencingToken, Key, LabelChange, Labels, LockKey, MacKeys, Meta, Object, Payload, RequestId, Revision, Selector,
    TtlChange, Version,
};
use onward::observe::Silent;
use onward::time::Clock;
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    Replace(u8, u64),
    MustExist(u8),
    Overwrite(u8),
    Delete(u64),
    DeleteAny,
}

#[derive(Debug, Clone)]
enum Check {
    Absent,
    Exists,
    At(u64),
}

#[derive(Debug, Clone)]
enum Tags {
    Keep,
    Set(Vec<(u8, u8)>),
    Merge(Vec<(u8, u8)>),
}

/// One commit; names, locks, chains and ids are drawn from so few that they meet.
#[derive(Debug, Clone)]
struct Plan {
    writes: Vec<(u8, Act, Tags, Option<u8>)>,
    guards: Vec<(u8, Check)>,
    fences: Vec<(u8, u64)>,
    entries: Vec<u8>,
    invalidations: Vec<u8>,
    request: Option<(u8, bool)>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Sent together.
    Group(Vec<Plan>),
    /// Time passes, enough for some ids to be forgotten.
    Wait(u32),
    /// The store is closed and opened.
    Reopen,
}

fn plan() -> impl Strategy<Value = Plan> {
    let act = prop_oneof![
        3 => (0..4_u8).prop_map(Act::Create),
        4 => (0..4_u8, 1..8_u64).prop_map(|(value, at)| Act::Replace(value, at)),
        1 => (0..4_u8).prop_map(Act::MustExist),
        1 => (0..4_u8).prop_map(Act::Overwrite),
        2 => (1..8_u64).prop_map(Act::Delete),
        1 => Just(Act::DeleteAny),
    ];
    let pairs = || prop::collection::vec((0..3_u8, 0..3_u8), 0..3);
    let tags = prop_oneof![3 => Just(Tags::Keep), 2 => pairs().prop_map(Tags::Set), 2 => pairs().prop_map(Tags::Merge)];
    let ttl = prop::option::weighted(0.4, 0..4_u8);
    let check = prop_oneof![Just(Check::Absent), Just(Check::Exists), (1..8_u64).prop_map(Check::At)];
    (
        prop::collection::vec((0..4_u8, act, tags, ttl), 0..4),
        prop::collection::vec((0..4_u8, check), 0..2),
        prop::collection::vec((0..2_u8, 1..6_u64), 0..2),
        prop::collection::vec(0..2_u8, 0..3),
        prop::collection::vec(0..3_u8, 0..2),
        prop::option::weighted(0.4, (0..4_u8, any::<bool>())),
    )
        .prop_map(|(writes, guards, fences, entries, invalidations, request)| Plan {
            writes,
            guards,
            fences,
            entries,
            invalidations,
            request,
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec(plan(), 1..8).prop_map(Step::Group),
        1 => (1..1_000_u32).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..12)
}

fn key(name: u8) -> Key {
    Key::new("thing", ["a", "b", "ä%", "c/d"][usize::from(name)]).unwrap()
}

/// Odd characters, which are data.
const TAGS: [&str; 3] = ["a", "k%'_", "ä\""];

fn labels(pairs: &[(u8, u8)]) -> Labels {
    let pairs: HashMap<&str, &str> =
        pairs.iter().map(|(key, value)| (TAGS[usize::from(*key)], ["", "x=%", "_"][usize::from(*value)])).collect();
    Labels::read(pairs).unwrap()
}

fn build(plan: &Plan) -> Commit {
    let version = |number| Version::new(number).unwrap();
    let mut commit = Commit::new();
    for (name, act, tags, ttl) in &plan.writes {
        commit = match act {
            Act::Create(value) => commit.put(key(*name), value, WriteCondition::MustCreate),
            Act::Replace(value, at) => commit.put(key(*name), value, WriteCondition::MatchVersion(version(*at))),
            Act::MustExist(value) => commit.put(key(*name), value, WriteCondition::MustExist),
            Act::Overwrite(value) => commit.overwrite(key(*name), Payload::new(vec![*value; 3], "text/plain").unwrap()),
            Act::Delete(at) => commit.delete(key(*name), version(*at)),
            Act::DeleteAny => commit.overwrite_delete(key(*name)),
        };
        if matches!(act, Act::Delete(_) | Act::DeleteAny) {
            continue;
        }
        commit = commit.labels(match tags {
            Tags::Keep => LabelChange::Keep,
            Tags::Set(pairs) => LabelChange::Set(labels(pairs)),
            Tags::Merge(pairs) => LabelChange::Merge(labels(pairs)),
        });
        commit = commit.ttl(match ttl {
            None => TtlChange::Keep,
            Some(0) => TtlChange::Never,
            Some(minutes) => TtlChange::Set(Duration::from_secs(u64::from(*minutes) * 60)),
        });
    }
    for (name, check) in &plan.guards {
        commit = commit.guard(match check {
            Check::Absent => Guard::Absent(key(*name)),
            Check::Exists => Guard::Exists(key(*name)),
            Check::At(at) => Guard::At(key(*name), version(*at)),
        });
    }
    for (lock, token) in &plan.fences {
        commit = commit.fence(LockKey::raw(&format!("lock{lock}")).unwrap(), FencingToken::new(*token).unwrap());
    }
    for chain in &plan.entries {
        commit = commit.audit(ChainName::new(&format!("chain{chain}")).unwrap(), Entry::new("a.b"));
    }
    for cached in &plan.invalidations {
        commit = commit.invalidate("ns", [format!("k{cached}")]);
    }
    if let Some((id, own)) = plan.request {
        let id = RequestId::new(&format!("id{id}")).unwrap();
        commit = commit.request(id).window(if own { Window::Own } else { Window::Caller });
    }
    commit
}

/// Gives random identities the number of their first appearance.
#[derive(Default)]
struct Names(HashMap<Uuid, usize>);

impl Names {
    fn of(&mut self, uid: Uuid) -> usize {
        let next = self.0.len();
        *self.0.entry(uid).or_insert(next)
    }

    fn object(&mut self, object: &Object) -> String {
        let Meta { uid, version, revision, create_revision, labels, expires_at, created_at, updated_at } = &object.meta;
        let uid = self.of(*uid);
        let Object { key, value, .. } = object;
        format!("{key} #{uid} v{version} r{revision} c{create_revision} {created_at} {updated_at} {labels:?} {expires_at:?} {value:?}")
    }

    fn option(&mut self, object: Option<&Arc<Object>>) -> String {
        object.map_or_else(|| "nothing".to_owned(), |object| self.object(object))
    }

    fn outcome(&mut self, outcome: &onward::Result<CommitOutcome>) -> String {
        match outcome {
            Err(error) => format!("{:?} {:?} {:?} {}", error.kind(), error.code(), error.effect(), error.message()),
            Ok(CommitOutcome::Committed(receipt)) => show(receipt),
            Ok(CommitOutcome::Fenced { lock, token, newest }) => format!("fenced {lock} {token} {newest}"),
            Ok(CommitOutcome::Conflict(conflicts)) => conflicts
                .iter()
                .map(|lost| {
                    let current = lost.current.as_ref().map(|object| self.object(object));
                    format!("{} {} {:?} {:?} {current:?}; ", lost.index, lost.key, lost.reason, lost.version)
                })
                .collect(),
        }
    }

    fn record(&mut self, record: &Record) -> String {
        let Record { revision, at, changes, invalidations, entries, request } = record;
        let changes: Vec<_> = changes
            .iter()
            .map(|Change { op, key, version, before, after }| {
                let (before, after) = (self.option(before.as_ref()), self.option(after.as_ref()));
                format!("{op:?} {key} v{version}: {before} -> {after}")
            })
            .collect();
        let entries: Vec<_> = entries.iter().map(|entry| format!("{} {}", entry.chain, entry.seq)).collect();
        format!("r{revision} {at} {changes:?} {invalidations:?} {entries:?} {request:?}")
    }
}

fn show(receipt: &Receipt) -> String {
    let entries: Vec<_> = receipt.audit.iter().map(|entry| format!("{} {} {}", entry.chain, entry.seq, entry.at)).collect();
    format!("r{} {:?} {entries:?} {} {}", receipt.revision, receipt.writes, receipt.changed, receipt.replayed)
}

async fn start(engine: Arc<dyn CommitEngine>, clock: &Clock) -> CommitQueue {
    let options = QueueOptions { clock: clock.clone(), observer: Arc::new(Silent), keys: MacKeys::none(), retention: Retention::default() };
    CommitQueue::start(engine, options).await.unwrap()
}

/// Everything that can be read of a store.
async fn state(queue: &CommitQueue, names: &mut Names) -> Vec<String> {
    let engine = queue.engine();
    let meta = engine.meta().await.unwrap();
    let mut all = vec![format!("{} {} {}", meta.revision, meta.version_floor, meta.newest_token)];
    let page = engine.changes(Revision::default(), usize::MAX >> 1).await.unwrap();
    all.extend(page.records.iter().map(|record| names.record(record)));
    let scan = Scan { namespace: "default".to_owned(), kind: "thing".to_owned(), limit: 100, ..Scan::default() };
    // As it is and as it was at each revision, whole and by labels.
    let selectors =
        [Selector::new(), Selector::new().exists("a").unwrap(), Selector::new().equals("ä\"", "x=%").unwrap().exists("k%'_").unwrap()];
    for selector in selectors {
        for at in 0..=meta.revision.get() {
            let scan = Scan { selector: selector.clone(), at: Some(Revision::new(at).unwrap()), ..scan.clone() };
            let listed = engine.list(scan).await.unwrap();
            all.push(format!("at {at} by {selector:?}"));
            all.extend(listed.items.iter().map(|object| names.object(object)));
        }
    }
    for id in 0..4 {
        let answer = queue.outcome_of(&RequestId::new(&format!("id{id}")).unwrap()).await.unwrap();
        all.push(answer.as_ref().map_or_else(String::new, show));
    }
    all
}

/// Sends commits in their order without waiting in between.
async fn together(queue: &CommitQueue, plans: &[Plan]) -> Vec<onward::Result<CommitOutcome>> {
    let mut sent: Vec<_> = plans.iter().map(|plan| (Box::pin(queue.submit(build(plan))), None)).collect();
    std::future::poll_fn(|cx| {
        for (submit, answer) in &mut sent {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = submit.as_mut().poll(cx)
            {
                *answer = Some(ready);
            }
        }
        if sent.iter().all(|(_, answer)| answer.is_some()) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    sent.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Waits until nothing is there whose time to live is over.
async fn swept(queue: &CommitQueue, clock: &Clock) {
    let scan = Scan { namespace: "default".to_owned(), kind: "thing".to_owned(), limit: 100, ..Scan::default() };
    loop {
        let listed = queue.engine().list(scan.clone()).await.unwrap();
        if listed.items.iter().all(|object| object.meta.expires_at.is_none_or(|ends| ends > clock.wall())) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let clock = Clock::manual();
    let model = start(Arc::new(MemoryStore::new()), &clock).await;
    let open = async || start(Arc::new(SqliteStore::open(&path, &clock).await.unwrap()), &clock).await;
    let mut real = open().await;
    let (mut of_model, mut of_real) = (Names::default(), Names::default());
    for step in steps {
        match step {
            Step::Wait(seconds) => {
                clock.advance(Duration::from_secs(u64::from(*seconds)));
                // Expiry has a time of its own in each; both are waited for, so that what follows meets the same state.
                swept(&real, &clock).await;
                swept(&model, &clock).await;
            }
            Step::Reopen => {
                drop(real);
                real = open().await;
            }
            Step::Group(plans) => {
                clock.advance(Duration::from_millis(1));
                let outcomes = together(&real, plans).await;
                for (plan, outcome) in plans.iter().zip(&outcomes) {
                    let expected = model.submit(build(plan)).await;
                    prop_assert_eq!(of_real.outcome(outcome), of_model.outcome(&expected), "{:?}", plan);
                }
            }
        }
    }
    prop_assert_eq!(state(&real, &mut of_real).await, state(&model, &mut of_model).await);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(&steps))?;
    }
}
