//! Planted bugs: each checker, and the conformance suite itself, must find the bug that it is there for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use onward::Result;
use onward::commit::engine::{At, Changes, CommitEngine, Listed, Plan, Remembered, Rows, Scan, StoreMeta, Wanted, Writer};
use onward::commit::{Past, Prune, Pruned};
use onward::engine::memory::MemoryStore;
use onward::model::{Key, Object, RequestId, Revision, Version};
use onward::testing::history::{Answer, Call, FencedWrite, Found, Ledger, Op, check_feed, check_fences, check_ledger, check_object};
use onward::testing::store::{self, Harness};
use onward::testing::store_faults::Fault;
use onward::time::Timestamp;

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// Rows are read before the writer's right is taken, so two writers decide on the same state.
    ReadsBeforeTheRight,
    /// A part of the objects is not written.
    HalfOfTheObjects,
    /// Fences are judged but not kept.
    FencesForgotten,
    /// Answers are not kept, so a repeated request is applied again.
    RequestsForgotten,
    /// The floor of versions is not kept, so a re-created object starts anew.
    FloorForgotten,
    /// The change log misses commits.
    LogWithHoles,
    /// The head of a chain does not move.
    HeadsForgotten,
}

#[derive(Debug)]
struct Buggy(MemoryStore, Bug);

struct BuggyWriter(Box<dyn Writer>, Bug);

impl Writer for BuggyWriter {
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            let rows = self.0.begin(wanted).await?;
            if self.1 == Bug::ReadsBeforeTheRight {
                self.0.give_back().await;
                // Time for the other writer to read the same.
                for _ in 0..200 {
                    std::thread::yield_now();
                }
                drop(self.0.begin(&Wanted::default()).await?);
            }
            Ok(rows)
        })
    }

    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>> {
        let mut wrong = Plan {
            meta: plan.meta.clone(),
            now: plan.now,
            objects: plan.objects.clone(),
            records: plan.records.clone(),
            fences: plan.fences.clone(),
            requests: plan.requests.clone(),
            heads: plan.heads.clone(),
            entries: plan.entries.clone(),
            personal: plan.personal.clone(),
            forgotten: plan.forgotten.clone(),
        };
        match self.1 {
            Bug::ReadsBeforeTheRight => {}
            Bug::HalfOfTheObjects => {
                let first = plan.objects.keys().min();
                wrong.objects.retain(|key, _| plan.objects.len() == 1 || Some(key) == first);
            }
            Bug::FencesForgotten => wrong.fences.clear(),
            Bug::RequestsForgotten => wrong.requests.clear(),
            Bug::FloorForgotten => wrong.meta.version_floor = 0,
            Bug::LogWithHoles => wrong.records.retain(|record| record.revision.get() % 5 != 3),
            Bug::HeadsForgotten => wrong.heads.clear(),
        }
        Box::pin(async move { self.0.finish(&Arc::new(wrong)).await })
    }

    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>> {
        self.0.prune(prune)
    }

    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>> {
        self.0.due(now, limit)
    }

    fn give_back(&mut self) -> BoxFuture<'_, ()> {
        self.0.give_back()
    }
}

impl CommitEngine for Buggy {
    fn name(&self) -> &'static str {
        "buggy"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(BuggyWriter(self.0.writer()?, self.1)))
    }

    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>> {
        self.0.meta()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>> {
        self.0.get(key)
    }

    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>> {
        self.0.list(scan)
    }

    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        self.0.next_kind(after)
    }

    fn get_at<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>> {
        self.0.get_at(key, at)
    }

    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>> {
        self.0.history(key, before, limit)
    }

    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>> {
        self.0.backup(path)
    }

    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>> {
        self.0.remembered(id)
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        self.0.changes(after, limit)
    }
}

/// How often a case may miss a bug that is a race.
const ROUNDS: usize = 20;

/// Runs a case on an engine with a bug; the case must fail.
macro_rules! finds {
    ($test:ident: $case:ident finds $bug:ident $($often:expr)?) => {
        #[test]
        fn $test() {
            // A thread of its own: its panic is what is asked for. Some bugs are races, so one quiet round proves nothing.
            let run = || {
                let case = || {
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                        let memory = MemoryStore::new();
                        let engine = || Arc::new(Buggy(memory.clone(), Bug::$bug));
                        let often: Option<Fault> = None $(.or(Some($often)))?;
                        store::$case(&Harness::open([engine(), engine()], often, ()).await).await;
                    });
                };
                std::thread::spawn(case).join()
            };
            assert!((0..ROUNDS).any(|_| run().is_err()), "the bug was not found");
        }
    };
}

finds!(a_write_that_skips_the_right_is_found_in_updates: update_loses_nothing_under_contention finds ReadsBeforeTheRight);
finds!(a_write_that_skips_the_right_is_found_in_histories: concurrent_histories_are_linearizable finds ReadsBeforeTheRight);
finds!(a_half_commit_is_found: a_commit_is_whole_or_absent finds HalfOfTheObjects);
finds!(a_forgotten_fence_is_found: an_older_fencing_token_is_refused_and_the_newest_kept finds FencesForgotten);
finds!(a_forgotten_fence_is_found_in_races: fences_of_racing_holders_never_go_back finds FencesForgotten);
finds!(a_forgotten_request_is_found: the_same_request_id_returns_the_same_receipt finds RequestsForgotten);
finds!(a_retry_that_is_applied_twice_is_found: seqs_of_many_writers_are_dense finds RequestsForgotten Fault::Lost);
finds!(a_version_that_restarts_is_found: a_recreated_object_has_a_new_uid_and_a_higher_version finds FloorForgotten);
finds!(a_hole_in_the_feed_is_found: every_commit_appears_once_in_order finds LogWithHoles);
finds!(two_writers_on_one_chain_are_found: seqs_of_many_writers_are_dense finds ReadsBeforeTheRight);
finds!(a_head_that_stands_still_is_found: seqs_of_many_writers_are_dense finds HeadsForgotten);

/// A history from (start, end, call, answer).
fn history<const N: usize>(ops: [(u64, u64, Call, Answer); N]) -> Vec<Op> {
    ops.into_iter().map(|(start, end, call, answer)| Op { start, end, call, answer }).collect()
}

fn create(value: i64) -> Call {
    Call::Create { value }
}

fn replace(at: u64, value: i64) -> Call {
    Call::Replace { at, value }
}

fn won(version: u64) -> Answer {
    Answer::Won { version }
}

fn shown(version: u64, value: i64) -> Answer {
    Answer::Shown(Some((version, value)))
}

fn flaw(ops: &[Op]) -> String {
    check_object(ops).expect_err("the planted bug is found")
}

#[test]
fn a_right_history_passes() {
    let right = history([
        (0, 3, create(1), won(1)),
        (1, 4, create(2), shown(1, 1)),
        (5, 9, replace(1, 3), won(2)),
        (6, 8, replace(1, 4), shown(2, 3)),
        // Unknown, and seen later; and unknown, and never seen.
        (10, 11, replace(2, 5), Answer::Unknown),
        (10, 12, replace(2, 6), Answer::Unknown),
        (13, 14, Call::Read, shown(3, 5)),
        (15, 16, Call::Delete { at: 3 }, won(4)),
        (17, 18, Call::Read, Answer::Shown(None)),
        (17, 18, replace(3, 7), Answer::Shown(None)),
        (19, 20, create(8), won(5)),
    ]);
    check_object(&right).unwrap();
}

#[test]
fn two_winners_of_one_version_are_found() {
    assert!(
        flaw(&history([(0, 1, create(1), won(1)), (2, 5, replace(1, 2), won(2)), (3, 4, replace(1, 3), won(2))])).contains("two winners")
    );
}

#[test]
fn the_last_writer_who_wins_is_found() {
    let lost_update = history([(0, 1, create(1), won(1)), (2, 5, replace(1, 2), won(2)), (3, 6, replace(1, 3), won(3))]);
    assert!(flaw(&lost_update).contains("stale knowledge"));
}

#[test]
fn a_create_over_an_object_is_found() {
    assert!(flaw(&history([(0, 1, create(1), won(1)), (2, 3, create(2), won(2))])).contains("a create over"));
}

#[test]
fn a_stale_read_is_found() {
    let stale = history([(0, 1, create(1), won(1)), (2, 3, replace(1, 2), won(2)), (4, 5, Call::Read, shown(1, 1))]);
    assert!(flaw(&stale).contains("replaced before"));
}

#[test]
fn a_read_of_a_deleted_object_is_found() {
    let stale = history([(0, 1, create(1), won(1)), (2, 3, Call::Delete { at: 1 }, won(2)), (4, 5, Call::Read, shown(1, 1))]);
    assert!(flaw(&stale).contains("replaced before"));
}

#[test]
fn a_lost_object_is_found() {
    assert!(flaw(&history([(0, 1, create(1), won(1)), (2, 3, Call::Read, Answer::Shown(None))])).contains("gone"));
}

#[test]
fn a_version_that_goes_back_is_found() {
    let restarted = history([(0, 1, create(1), won(5)), (2, 3, Call::Delete { at: 5 }, won(6)), (4, 5, create(2), won(1))]);
    assert!(flaw(&restarted).contains("did not move"));
}

#[test]
fn a_value_under_a_foreign_version_is_found() {
    assert!(flaw(&history([(0, 1, create(1), won(1)), (2, 3, Call::Read, shown(1, 9))])).contains("another one holds"));
    assert!(flaw(&history([(0, 1, create(1), won(1)), (2, 3, Call::Read, shown(2, 9))])).contains("nobody wrote"));
}

#[test]
fn a_value_from_the_future_is_found() {
    assert!(flaw(&history([(2, 3, create(1), won(1)), (0, 1, Call::Read, shown(1, 1))])).contains("future"));
}

#[test]
fn a_refusal_without_a_reason_is_found() {
    assert!(flaw(&history([(0, 1, create(1), won(1)), (2, 3, replace(1, 2), shown(1, 1))])).contains("condition held"));
}

#[test]
fn an_unknown_write_that_is_applied_twice_is_found() {
    let twice = history([
        (0, 1, create(1), won(1)),
        (2, 3, replace(1, 2), Answer::Unknown),
        (4, 5, Call::Read, shown(2, 2)),
        (6, 7, Call::Read, shown(3, 2)),
    ]);
    assert!(flaw(&twice).contains("applied twice"));
}

#[test]
fn an_older_token_after_a_newer_one_is_found() {
    let write = |start, end, token, accepted| FencedWrite { start, end, token, accepted };
    check_fences(&[write(0, 1, 1, Some(1)), write(2, 3, 2, Some(2)), write(4, 5, 1, None), write(4, 6, 2, Some(3))]).unwrap();
    assert!(check_fences(&[write(0, 1, 2, Some(1)), write(2, 3, 1, Some(2))]).is_err());
    // Accepted in an order of revisions that looks right, but in real time is not.
    assert!(check_fences(&[write(0, 1, 2, Some(9)), write(2, 3, 1, Some(8))]).is_err());
    assert!(check_fences(&[write(0, 1, 1, Some(1)), write(2, 3, 2, Some(1))]).is_err());
}

#[test]
fn a_dropped_repeated_or_swapped_feed_row_is_found() {
    let all = BTreeSet::from([1, 2, 3]);
    check_feed(0, 3, &[1, 2, 3], &all).unwrap();
    for (newest, got) in [(3, &[1, 3][..]), (3, &[1, 2, 2, 3]), (3, &[2, 1, 3]), (3, &[1, 2]), (2, &[1, 2]), (3, &[])] {
        assert!(check_feed(0, newest, got, &all).is_err(), "{got:?}");
    }
}

/// A store after a crash, and what was acknowledged before.
fn after_a_crash() -> (Ledger, Found) {
    let ledger = Ledger {
        writes: vec![("x".to_owned(), 1, 1), ("x".to_owned(), 2, 2)],
        entries: vec![("main".to_owned(), 2, "h2".to_owned())],
        fences: vec![("l".to_owned(), 5)],
    };
    let entry = |seq, prev: &str, hash: &str| (seq, prev.to_owned(), hash.to_owned());
    let found = Found {
        log: vec![(1, vec![("x".to_owned(), 1)]), (2, vec![("x".to_owned(), 2)]), (3, vec![])],
        chains: [("main".to_owned(), vec![entry(1, "g", "h1"), entry(2, "h1", "h2"), entry(3, "h2", "h3")])].into(),
        heads: [("main".to_owned(), (3, "h3".to_owned()))].into(),
        fences: [("l".to_owned(), 6)].into(),
    };
    check_ledger(&ledger, &found).unwrap();
    (ledger, found)
}

fn spoilt(spoil: impl FnOnce(&mut Ledger, &mut Found)) -> String {
    let (mut ledger, mut found) = after_a_crash();
    spoil(&mut ledger, &mut found);
    check_ledger(&ledger, &found).expect_err("the planted bug is found")
}

#[test]
fn an_acknowledged_write_that_is_missing_is_found() {
    assert!(spoilt(|_, found| found.log[1].1.clear()).contains("write is missing"));
    assert!(spoilt(|_, found| drop(found.log.drain(1..))).contains("write is missing"));
    assert!(spoilt(|_, found| drop(found.log.remove(0))).contains("gap"));
}

#[test]
fn a_version_that_is_given_twice_is_found() {
    assert!(spoilt(|_, found| found.log[2].1.push(("x".to_owned(), 2))).contains("given twice"));
    assert!(spoilt(|ledger, _| ledger.writes.push(("x".to_owned(), 2, 2))).contains("acknowledged twice"));
}

#[test]
fn a_broken_chain_is_found() {
    let main = |found: &mut Found| found.chains.remove("main");
    assert!(spoilt(|_, found| drop(main(found))).contains("entry is missing"));
    for spoil in [
        |entries: &mut Vec<(u64, String, String)>| drop(entries.remove(1)),
        |entries: &mut Vec<(u64, String, String)>| entries[2].1 = "h1".to_owned(),
        |entries: &mut Vec<(u64, String, String)>| entries[2].0 = 2,
        |entries: &mut Vec<(u64, String, String)>| drop(entries.pop()),
        |entries: &mut Vec<(u64, String, String)>| drop(entries.remove(0)),
    ] {
        assert!(spoilt(|_, found| spoil(found.chains.get_mut("main").unwrap())).contains("chain"));
    }
    assert!(spoilt(|ledger, _| ledger.entries[0].2 = "other".to_owned()).contains("entry is missing"));
}

#[test]
fn a_fence_that_went_back_is_found() {
    assert!(spoilt(|_, found| drop(found.fences.entry("l".to_owned()).and_modify(|token| *token = 4))).contains("fence"));
    assert!(spoilt(|_, found| found.fences.clear()).contains("fence"));
}
