//! The conformance suite of the store: objects, commits, feed, bad input, and what happens when an engine fails.
//!
//! Every case runs through two handles on one store, plain and with faults. An engine's line is [`store_conformance!`].
//!
//! [`store_conformance!`]: crate::store_conformance

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "test code that ships behind a feature")]

mod commits;
mod expiry;
mod faults;
mod feed;
mod input;
mod labels;
mod objects;
mod past;
mod patches;
mod touch;
mod transfer;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

pub use commits::*;
pub use expiry::*;
pub use faults::*;
pub use feed::*;
pub use input::*;
pub use labels::*;
pub use objects::*;
pub use past::*;
pub use patches::*;
pub use touch::*;
pub use transfer::*;

use super::store_faults::{Fault, Faults, Faulty};
use crate::commit::engine::{CommitEngine, StoreMeta};
use crate::commit::{
    Commit, CommitOutcome, CommitQueue, Conflict, FeedItem, QueueOptions, Receipt, Record, Retention, WriteCondition, Written,
};
use crate::model::{FencingToken, Key, LockKey, MacKeys, Object, RequestId, Revision, Version};
use crate::observe::Silent;
use crate::store::{Delete, Deliverer, Put, Store, WriteOptions};
use crate::time::Clock;
use crate::{Error, Kind, random, retry};

/// How long a case waits for what must come; only a broken engine lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store with two handles, opened anew for each case.
#[derive(Debug)]
pub struct Harness {
    /// One handle.
    pub a: Handle,
    /// Another handle on the same store, with a writer of its own.
    pub b: Handle,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Harness {
    /// Opens two handles over two engines on one store; `keep` lives as long as they do.
    pub async fn open(engines: [Arc<dyn CommitEngine>; 2], often: Option<Fault>, keep: impl Any + Send + Sync) -> Self {
        let [a, b] = engines;
        let (a, b) = (Handle::open(a, often, Clock::system()).await, Handle::open(b, often, Clock::system()).await);
        Self { a, b, _keep: Box::new(keep) }
    }
}

/// A handle that settles every answer: it asks again with the same request id until it knows.
#[derive(Debug)]
pub struct Handle {
    /// The store.
    pub store: Store,
    /// What goes wrong below it.
    pub faults: Faults,
    engine: Arc<dyn CommitEngine>,
}

impl Handle {
    /// Opens a handle over an engine with a clock of its own.
    pub async fn open(engine: Arc<dyn CommitEngine>, often: Option<Fault>, clock: Clock) -> Self {
        Self::open_keeping(engine, often, clock, Retention::default()).await
    }

    async fn open_keeping(engine: Arc<dyn CommitEngine>, often: Option<Fault>, clock: Clock, retention: Retention) -> Self {
        let faults = Faults::new(often);
        let faulty = Arc::new(Faulty::new(engine.clone(), faults.clone()));
        let options = QueueOptions { clock: clock.clone(), observer: Arc::new(Silent), keys: MacKeys::none(), retention };
        let queue = CommitQueue::start(faulty, options).await.expect("the queue starts");
        Self { store: Store::new(queue, Deliverer::new(None, clock)), faults, engine }
    }

    /// Opens another handle on the same engine, without faults, that keeps less of the log.
    pub async fn keeping(&self, clock: Clock, retention: Retention) -> Self {
        Self::open_keeping(self.engine.clone(), None, clock, retention).await
    }

    /// Opens another handle on the same engine, without faults, with another clock.
    pub async fn again(&self, clock: Clock) -> Self {
        Self::open(self.engine.clone(), None, clock).await
    }

    /// Commits until the answer is known. A commit that names no request id gets one.
    pub async fn commit(&self, make: impl Fn() -> Commit) -> CommitOutcome {
        self.try_commit(make).await.expect("the commit is answered")
    }

    /// As [`Handle::commit`], but shows what the caller did wrong.
    pub async fn try_commit(&self, make: impl Fn() -> Commit) -> crate::Result<CommitOutcome> {
        let own = fresh_id();
        settle(async || {
            let mut commit = make();
            if commit.request.is_none() {
                commit = commit.request(own.clone());
            }
            self.store.commit(commit).await
        })
        .await
    }

    /// Commits what must be applied.
    pub async fn apply(&self, make: impl Fn() -> Commit) -> Receipt {
        match self.commit(make).await {
            CommitOutcome::Committed(receipt) => receipt,
            other => panic!("expected a receipt, not {other:?}"),
        }
    }

    /// Commits what must lose.
    pub async fn lose(&self, make: impl Fn() -> Commit) -> Vec<Conflict> {
        match self.commit(make).await {
            CommitOutcome::Conflict(conflicts) => conflicts,
            other => panic!("expected a conflict, not {other:?}"),
        }
    }

    /// Writes an integer under a condition.
    pub async fn put(&self, name: &str, value: i64, condition: WriteCondition) -> Put<i64> {
        let id = fresh_id();
        settle(async || {
            let options = WriteOptions::new().with_request(id.clone(), crate::commit::Window::Own);
            self.store.put_if(key(name), &value, condition, options).await
        })
        .await
        .expect("the write is answered")
    }

    /// Creates what must not be there yet.
    pub async fn create(&self, name: &str, value: i64) -> Written {
        won(self.put(name, value, WriteCondition::MustCreate).await)
    }

    /// Replaces what must be at this version.
    pub async fn replace(&self, name: &str, value: i64, at: Version) -> Written {
        won(self.put(name, value, WriteCondition::MatchVersion(at)).await)
    }

    /// Deletes at a version.
    pub async fn delete(&self, name: &str, at: Version) -> Delete<crate::model::Payload> {
        let id = fresh_id();
        settle(async || {
            let options = WriteOptions::new().with_request(id.clone(), crate::commit::Window::Own);
            self.store.delete_if(key(name), at, options).await
        })
        .await
        .expect("the delete is answered")
    }

    /// Deletes what must be at this version.
    pub async fn remove(&self, name: &str, at: Version) -> Written {
        match self.delete(name, at).await {
            Delete::Removed(written) => written,
            other => panic!("expected a removal, not {other:?}"),
        }
    }

    /// Reads an integer.
    pub async fn get(&self, name: &str) -> Option<Object<i64>> {
        self.store.get(key(name)).await.expect("the read is answered")
    }

    /// Reads the facts of the store.
    pub async fn meta(&self) -> StoreMeta {
        self.engine.meta().await.expect("the facts are readable")
    }

    /// Reads all commits after a revision, up to the newest.
    pub async fn log(&self, after: u64) -> Vec<Record> {
        let newest = self.meta().await.revision;
        let mut feed = self.store.queue().feed(Some(revision(after)), None).await.expect("the feed opens");
        let mut records = Vec::new();
        while feed.revision() < newest {
            records.push(next_commit(&mut feed).await);
        }
        records
    }
}

/// Asks again with the same request id while the answer is open, as a careful caller does.
async fn settle<T>(mut ask: impl AsyncFnMut() -> crate::Result<T>) -> crate::Result<T> {
    for _ in 0..100 {
        match ask().await {
            Err(error) if matches!(error.kind(), Kind::Backend | Kind::Overloaded) => {}
            answer => return answer,
        }
    }
    panic!("the answer stays open");
}

/// Waits for the next commit of a feed.
async fn next_commit(feed: &mut crate::commit::Feed) -> Record {
    let clock = Clock::system();
    let wait = async {
        loop {
            if let FeedItem::Commit(record) = feed.next().await.expect("the feed goes on") {
                return Arc::unwrap_or_clone(record);
            }
        }
    };
    retry::deadline(&clock, clock.now() + PATIENCE, wait).await.expect("a commit comes")
}

fn won<T: std::fmt::Debug>(put: Put<T>) -> Written {
    match put {
        Put::Committed(written) => written,
        other => panic!("expected a write, not {other:?}"),
    }
}

fn lost<T: std::fmt::Debug>(put: Put<T>) -> Conflict<T> {
    match put {
        Put::Conflict(conflict) => conflict,
        other => panic!("expected a conflict, not {other:?}"),
    }
}

fn fresh_id() -> RequestId {
    RequestId::new(&random::uuid_v4().to_string()).expect("a uuid is visible")
}

fn key(name: &str) -> Key {
    Key::new("thing", name).expect("a name")
}

fn lock(name: &str) -> LockKey {
    LockKey::raw(name).expect("a lock")
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).expect("a token")
}

fn version(number: u64) -> Version {
    Version::new(number).expect("a version")
}

fn revision(number: u64) -> Revision {
    Revision::new(number).expect("a revision")
}

/// Polls a future once: what it starts is started, and it can be dropped half-way. Its answer cannot be there yet.
async fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) {
    let mut future = Some(future);
    std::future::poll_fn(|cx| {
        if let Some(future) = future.take() {
            assert!(future.poll(cx).is_pending(), "nothing can have answered yet");
        }
        std::task::Poll::Ready(())
    })
    .await;
}

fn unwrap_error<T: std::fmt::Debug>(result: crate::Result<T>) -> Error {
    match result {
        Err(error) => error,
        Ok(value) => panic!("expected an error, not {value:?}"),
    }
}

/// Makes one test for each case of the store's conformance suite, in a module of its own.
///
/// `$open` is an expression that gives a future of a [`Harness`](crate::testing::store::Harness).
#[macro_export]
macro_rules! store_conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::store_conformance! { @cases $open;
                create_returns_the_version_it_wrote
                create_of_an_existing_object_is_refused_and_shows_it
                of_two_creates_one_wins
                replace_at_the_read_version_adds_one
                replace_at_an_old_version_changes_nothing_and_shows_the_current_object
                of_many_replaces_at_one_version_one_wins
                replace_of_a_missing_object_is_no_create
                must_exist_is_no_create
                delete_at_an_old_version_keeps_the_object
                delete_of_an_absent_object_is_absent
                a_recreated_object_has_a_new_uid_and_a_higher_version
                only_overwrite_writes_blindly_and_it_moves_the_version
                equal_content_keeps_version_and_feed
                another_content_type_is_another_content
                meta_is_the_same_in_lists_and_gets
                pages_follow_each_other_without_overlap
                prefixes_treat_odd_characters_as_data
                a_list_page_stays_below_its_bytes
                update_needs_no_read_after_a_conflict
                update_loses_nothing_under_contention
                the_validator_sees_the_merged_candidate
                a_refused_candidate_leaves_no_trace
                an_update_with_a_request_id_happens_once
                a_lost_race_with_another_shape_is_a_conflict_all_the_same
                spent_tries_are_an_error_with_the_current_object
                update_of_a_missing_object_is_not_found
                update_may_insert_a_missing_object
                concurrent_histories_are_linearizable
                apply_on_a_hot_key_never_conflicts
                a_failed_compare_changes_nothing
                a_patch_at_an_old_version_is_refused
                a_patch_leaves_what_it_does_not_name_digit_for_digit
                a_merge_follows_its_standard
                a_patch_that_does_not_fit_is_refused_and_writes_nothing
                bad_patches_are_refused
                a_commit_is_whole_or_absent
                a_refused_commit_leaves_its_neighbours_alone
                commits_of_a_batch_see_each_other_in_order
                a_failed_guard_refuses_every_write
                an_absent_guard_holds_against_a_concurrent_create
                guards_see_the_state_before_the_commit
                every_loser_is_listed
                an_older_fencing_token_is_refused_and_the_newest_kept
                a_refused_commit_raises_no_fence
                fences_of_racing_holders_never_go_back
                the_same_request_id_returns_the_same_receipt
                a_reused_request_id_is_refused
                a_refusal_is_judged_again
                a_request_id_is_forgotten_after_its_window
                a_replay_comes_before_the_fence
                a_cancelled_commit_in_the_queue_is_not_applied
                a_deadline_that_passes_in_the_queue_is_not_applied
                seqs_of_many_writers_are_dense
                a_refused_commit_leaves_no_entry_and_no_seq_hole
                time_never_goes_back
                a_commit_that_changes_nothing_takes_no_revision
                a_fence_an_entry_or_an_invalidation_alone_takes_a_revision
                every_commit_appears_once_in_order
                events_of_a_revision_stay_together
                a_feed_sees_the_commits_of_another_handle
                a_resumed_feed_continues_after_its_cursor
                a_future_revision_is_refused
                another_epoch_is_refused
                a_bookmark_follows_its_events
                a_delete_carries_the_last_state
                a_change_carries_the_state_before_and_after
                a_note_carries_invalidations_entries_and_request
                a_watch_shows_only_what_was_asked_for
                the_state_at_a_revision_is_what_was_there
                history_tells_each_change_newest_first
                a_compacted_cursor_is_told_so
                compaction_stops_at_the_newest_and_never_goes_back
                a_long_log_goes_in_parts_and_whole_commits
                the_log_ends_at_its_age
                the_log_ends_at_its_size
                pages_show_one_revision_while_writers_run
                a_page_of_a_compacted_revision_is_refused
                a_dropped_wait_loses_no_commit
                a_gap_in_the_log_is_told_and_never_skipped
                a_reader_pages_through_more_than_it_may_hold
                a_reader_that_keeps_up_reads_no_log_and_is_told_the_same
                commits_of_another_handle_between_its_own_are_told_once_in_order
                a_reader_behind_what_is_held_reads_the_log
                labels_stay_unless_set
                a_label_is_content_and_equal_labels_are_no_change
                patches_and_updates_label_too
                earlier_states_show_the_labels_of_then
                a_selector_wants_all_its_terms
                selectors_treat_odd_characters_as_data
                pages_by_label_show_one_revision_while_labels_change
                a_watch_tells_who_enters_and_leaves_the_selector
                bad_labels_and_selectors_are_refused
                a_set_of_values_is_read_as_it_is_written
                a_touch_takes_a_version_and_leaves_the_content
                a_touch_renews_a_time_to_live_and_labels
                a_refused_commit_touches_nothing
                a_collection_is_the_same_objects_by_name
                a_collection_writes_nothing_that_its_validator_refuses
                one_reader_too_many_is_told_so
                expiry_is_a_delete_in_the_feed
                a_time_to_live_stays_unless_set
                who_renews_in_time_keeps_the_object
                many_expire_in_parts_and_each_is_told_once
                an_idle_store_prunes_its_log
                bad_times_to_live_are_refused
                import_starts_at_one_and_never_below_the_floor
                an_imported_object_is_above_the_version_that_it_had
                an_import_changes_nothing_that_exists
                a_row_that_stands_twice_exists_the_second_time
                an_import_that_ended_half_way_is_run_again
                labels_and_the_end_of_an_object_move_with_it
                bad_rows_are_refused_and_write_nothing
                an_export_shows_one_revision_while_writers_run
                an_export_shows_what_was_asked_for
                a_long_export_pages_through_everything
                an_export_of_a_compacted_revision_is_refused
                version_zero_is_refused_everywhere
                bad_keys_are_refused
                bad_payloads_are_refused
                bad_commits_are_refused_and_write_nothing
                bad_entries_are_refused_and_write_nothing
                bad_requests_are_refused
                bad_lists_are_refused
                a_damaged_or_foreign_cursor_is_refused
                bad_updates_are_refused
                a_token_from_the_future_is_refused
                a_lost_commit_answer_is_settled_by_asking
                a_lost_commit_answer_names_its_request
                a_refused_batch_answers_everyone_and_leaves_nothing
                a_contradicted_batch_refuses_only_its_culprit
                a_confused_engine_applies_nothing_twice
                a_panicking_engine_answers_every_caller
                a_panicking_engine_does_not_block_the_other_handle
                a_full_queue_says_so_and_recovers
            }
        }
    };
    (@cases $open:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::testing::store::$case(&$open.await).await;
            }
        )*
    };
}

/// Runs futures side by side and gives their answers in order.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (future, answer) in &mut running {
            if answer.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(ready) => *answer = Some(ready),
                    std::task::Poll::Pending => open = true,
                }
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// Blindly is how some cases must write.
fn overwrite() -> crate::commit::Overwrite {
    crate::commit::Overwrite(())
}
