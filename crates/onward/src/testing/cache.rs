//! The conformance suite of the cache: what every engine owes, and layers around an engine too.
//!
//! A case takes a [`CacheHarness`] and panics if the promise is broken. [`cache_conformance!`](crate::cache_conformance) makes one named
//! test a case from one line an engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken promise ends a test")]

pub mod batch_cases;
pub mod breaker_cases;
pub mod cases;
pub mod faults;
pub mod flight_cases;
pub mod guard_cases;
pub mod save_cases;
pub mod stale_cases;
pub mod staleness;
pub mod typed_cases;
pub mod watched;

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, CacheEngine, CacheOptions, Lease, Lookup};
use crate::observe::Silent;
use crate::time::Clock;

/// One engine under test, with the clock that it reads.
#[derive(Debug, Clone)]
pub struct CacheHarness {
    /// The engine.
    pub engine: Arc<dyn CacheEngine>,
    /// Its clock, stood still.
    pub clock: Clock,
    /// A handle on it.
    pub cache: Cache,
}

impl CacheHarness {
    /// Makes a harness from a way to open an engine.
    pub async fn new<E: CacheEngine + 'static>(open: impl AsyncFnOnce(Clock) -> E) -> Self {
        let clock = Clock::manual();
        Self::over(Arc::new(open(clock.clone()).await), clock)
    }

    /// Makes a harness over an engine that reads this clock.
    pub fn over(engine: Arc<dyn CacheEngine>, clock: Clock) -> Self {
        let cache = handle(Arc::clone(&engine), clock.clone());
        Self { engine, clock, cache }
    }

    /// Returns a handle that shares nothing but the engine, as another process has it.
    pub fn other(&self) -> Cache {
        handle(Arc::clone(&self.engine), self.clock.clone())
    }

    /// Moves the clock until the task has ended.
    pub(crate) async fn move_clock_until<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        for _ in 0..10_000 {
            if task.is_finished() {
                return task.await.expect("the task ends without a panic");
            }
            self.clock.advance(Duration::from_millis(50));
            settle().await;
        }
        panic!("the task did not end in 500 s of its clock");
    }
}

/// The defaults without jitter, so that a case knows when an entry ends.
pub(crate) fn options() -> CacheOptions {
    CacheOptions::default().with_jitter_percent(0)
}

/// Makes a handle in the namespace `default`.
pub(crate) fn handle(engine: Arc<dyn CacheEngine>, clock: Clock) -> Cache {
    Cache::new(engine, "default", options(), clock, Arc::new(Silent)).expect("the options are legal")
}

/// Takes the lease of a miss.
pub(crate) async fn lease(cache: &Cache, key: &str) -> Lease<u64> {
    match cache.begin(key).await.unwrap() {
        Lookup::Lease(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

/// Fills a key.
pub(crate) async fn fill(cache: &Cache, key: &str, value: u64) {
    assert_eq!(lease(cache, key).await.commit(&value).await.unwrap(), crate::cache::Filled::Stored);
}

/// How long an engine may work on a call; only a broken one lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lets the other tasks of a single-threaded runtime run until all of them wait, and for no [`watched`] engine.
pub(crate) async fn settle() {
    let patience = Clock::system().now() + PATIENCE;
    let mut idle = 0;
    while idle < 64 {
        tokio::task::yield_now().await;
        idle = if watched::is_busy() { 0 } else { idle + 1 };
        assert!(Clock::system().now() < patience, "an engine works on a call without end");
    }
}

/// Makes one named test a case for an engine: `cache_conformance!(memory, async |clock| MemoryCache::new(clock))`.
///
/// The closure is async and gets the [`Clock`](crate::time::Clock) that the engine must read.
#[macro_export]
macro_rules! cache_conformance {
    ($module:ident, $open:expr) => {
        $crate::cache_conformance! { @cases $module, $open;
            cases: a_fill_across_an_invalidation_is_superseded, a_fill_begun_after_an_invalidation_is_stored,
                a_superseded_fill_leaves_nothing, invalidating_an_empty_key_kills_its_fill, removed_means_a_reader_could_see_it,
                a_flush_supersedes_fills_in_flight, no_nonce_fits_again_after_a_flush, a_lost_reservation_only_wastes_a_fill,
                every_client_sees_a_flush_at_once, a_flush_leaves_other_namespaces, a_flush_of_all_leaves_nothing,
                a_purge_under_an_old_epoch_still_lands, invalidating_a_key_drops_all_fields,
                invalidating_a_field_kills_sibling_fills_not_values, listing_shows_user_fields_only, any_bytes_are_a_field_name,
                an_entry_ends_with_its_ttl, an_abandoned_lease_frees_the_key,
                a_dropped_lease_frees_the_key, absence_is_remembered_until_invalidated, a_commit_sent_twice_stores_once,
                a_lease_of_another_slot_is_superseded, an_unreadable_entry_is_a_miss, a_reservation_replaces_only_the_entry_it_names, nothing_remains_after_the_fill_ttl,
                bytes_keep_their_media_type, bad_input_is_refused_before_anything_is_sent, every_removal_kills_the_fill_in_flight, keys_are_bytes_and_never_folded, a_key_has_4096_fields_at_most;
            flight_cases: many_callers_one_load, two_processes_one_load, a_follower_never_gets_an_older_superseded_load,
                the_leader_always_gets_its_value, a_dropped_or_panicking_leader_hands_over, a_parked_leader_is_overtaken,
                a_loader_that_asks_for_its_own_key_fails, a_loader_error_goes_to_all_who_waited,
                a_loader_beyond_its_time_is_cancelled, a_full_bulkhead_says_busy, a_skipped_or_large_value_is_returned_unfilled,
                future_dropped_at_every_await;
            stale_cases: only_one_refresher_wins, an_entry_outlives_its_refresh, a_refresh_given_back_leaves_the_stale_value,
                after_invalidate_nothing_stale_is_served, a_refresh_across_an_invalidation_is_superseded, nothing_stale_is_served_unasked,
                a_value_beyond_its_age_is_not_served, a_failed_load_is_covered_by_the_ended_value,
                a_follower_falls_back_only_on_what_it_read_itself, a_mistake_is_not_covered, jitter_only_shortens,
                expire_keeps_stale_and_kills_the_refresh, expiring_a_field_leaves_its_siblings_fresh, touch_never_resurrects,
                stale_bytes_come_with_and_without_a_lease;
            batch_cases: a_batch_answers_each_key_for_itself, a_batch_of_leases_gives_one_a_key, a_batch_of_fills_refuses_only_what_is_dead,
                a_batch_over_its_limit_is_refused, a_hold_off_keeps_fills_out_for_its_time, of_two_hold_offs_the_longer_counts,
                a_released_guard_holds_off_too, a_promise_can_be_insisted_on,
                acts_of_one_request_are_answered_each_for_itself;
            breaker_cases: purge_under_an_open_breaker_is_replayed_before_the_key_is_read, a_lease_from_before_a_waiting_purge_is_refused,
                queue_overflow_moves_the_epoch, a_flush_that_fails_waits, an_open_breaker_answers_at_once, an_open_breaker_still_invalidates,
                a_purge_dropped_midway_waits, a_typed_hit_is_none_while_a_purge_waits, a_purge_that_fails_during_its_replay_still_waits;
            save_cases: a_save_kills_the_fills_in_flight, no_save_lands_under_a_guard, a_save_of_bytes_keeps_their_type_and_the_siblings;
            guard_cases: no_fill_lands_under_a_guard, overlapping_guards_hold_until_the_last, release_purges_even_if_the_guard_was_lost, the_65th_guard_owner_is_turned_away, a_flush_keeps_guards, writer_killed_between_commit_and_release;
            typed_cases: a_typed_hit_goes_with_its_entry, a_typed_hit_is_of_the_value_that_is_there, a_typed_hit_is_of_its_key_and_type,
                a_typed_load_fills_for_all;
            faults: a_hanging_engine_hangs_no_call, a_lookup_that_fails_loads_without_a_fill, a_reservation_that_fails_loads_without_a_fill,
                a_commit_that_fails_still_returns_the_value, a_commit_whose_reply_is_lost_is_sent_again,
                an_invalidation_that_fails_is_an_error, cut_between_a_purge_and_its_reply,
                a_caller_after_a_commit_does_not_take_its_value, a_dropped_invalidation_runs_to_its_end;
        }
    };
    (@cases $module:ident, $open:expr; $($group:ident: $($case:ident),*;)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $($(
                #[tokio::test]
                async fn $case() {
                    $crate::testing::cache::$group::$case(&$crate::testing::cache::CacheHarness::new($open).await).await;
                }
            )*)*
        }
    };
}
