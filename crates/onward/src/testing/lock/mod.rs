//! The conformance suite of locks: exclusion, tokens, time, outcomes, waiting, bad input, and what happens when an engine fails.
//!
//! Every case has two handles that were opened apart on one engine, as two processes have them, and a clock that it moves itself. An
//! engine's line is [`lock_conformance!`](crate::lock_conformance).

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "test code that ships behind a feature")]

pub mod admin;
pub mod faults;
pub mod holds;
pub mod input;
pub mod outcomes;
pub mod policy;
pub mod release;
pub mod times;
pub mod tokens;
pub mod told;
pub mod waiting;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::lock_faults::{Call, FaultyLocks};
use crate::lock::{Grant, LockEngine, LockOptions, Locks, LocksConfig, Renew, Scoped};
use crate::model::LockKey;
use crate::observe::{Event, Observer};
use crate::time::Clock;
use crate::{Kind, Result};

/// How long a case waits for what must come; only a broken engine lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);

type Open = Box<dyn Fn(Clock) -> BoxFuture<'static, Arc<dyn LockEngine>> + Send + Sync>;

/// An engine under test with two handles, opened anew for each case.
pub struct Harness {
    /// One handle.
    pub a: Handle,
    /// Another handle, which shares nothing with the first but what the engine holds.
    pub b: Handle,
    /// The clock of the engine and of both handles, stood still.
    pub clock: Clock,
    /// How many engine calls the first try of a call takes.
    pub calls_a_try: u64,
    open: Open,
    _keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("a", &self.a).field("b", &self.b).finish_non_exhaustive()
    }
}

impl Harness {
    /// Opens two handles; `open` makes one engine handle on what is shared, `keep` lives as long as they do.
    pub async fn open(
        open: impl Fn(Clock) -> BoxFuture<'static, Arc<dyn LockEngine>> + Send + Sync + 'static,
        keep: impl Any + Send + Sync,
    ) -> Self {
        Self::over(Box::new(open), 1, FaultyLocks::new, Box::new(keep)).await
    }

    /// As [`Harness::open`], but the first reply to every owner is lost.
    pub async fn open_with_lost_replies(
        open: impl Fn(Clock) -> BoxFuture<'static, Arc<dyn LockEngine>> + Send + Sync + 'static,
        keep: impl Any + Send + Sync,
    ) -> Self {
        Self::over(Box::new(open), 2, FaultyLocks::that_loses_replies, Box::new(keep)).await
    }

    async fn over(open: Open, calls_a_try: u64, wrap: fn(Arc<dyn LockEngine>) -> FaultyLocks, keep: Box<dyn Any + Send + Sync>) -> Self {
        let clock = Clock::manual();
        let (a, b) = (wrap(open(clock.clone()).await), wrap(open(clock.clone()).await));
        Self { a: Handle::over(a, &clock), b: Handle::over(b, &clock), clock, calls_a_try, open, _keep: keep }
    }

    /// Opens one more handle on what is shared, without faults.
    pub async fn reopen(&self) -> Handle {
        Handle::over(FaultyLocks::new((self.open)(self.clock.clone()).await), &self.clock)
    }

    /// Returns whether the engine keeps a queue of processes and wakes them: then nobody looks again soon by himself.
    pub fn has_queue(&self) -> bool {
        self.a.engine.has_queue()
    }

    /// Waits until no engine works and every task of a single-threaded runtime waits for the clock, a gate or another task; what one
    /// engine says to the other has been heard.
    pub async fn quiet(&self) {
        self.idle().await;
        if !self.has_queue() {
            return;
        }
        let mut made = None;
        while made != Some(self.calls()) {
            made = Some(self.calls());
            self.a.engine.heard().await;
            self.b.engine.heard().await;
            self.idle().await;
        }
    }

    fn calls(&self) -> u64 {
        self.a.engine.all_calls() + self.b.engine.all_calls()
    }

    async fn idle(&self) {
        let patience = Clock::system().now() + PATIENCE;
        let mut idle = 0;
        while idle < 32 {
            tokio::task::yield_now().await;
            idle = if self.a.engine.is_busy() || self.b.engine.is_busy() { 0 } else { idle + 1 };
            assert!(Clock::system().now() < patience, "an engine works on a call without end");
        }
    }

    /// Moves the clock when everything waits, and lets everything come to rest again.
    pub async fn advance(&self, by: Duration) {
        self.quiet().await;
        self.clock.advance(by);
        self.quiet().await;
    }

    /// Moves the clock in steps until the task has ended; nothing times out that an engine still works on.
    pub async fn until_done<T>(&self, task: JoinHandle<T>) -> T {
        self.until_done_by(Duration::from_millis(5), task).await
    }

    /// As [`Harness::until_done`], in steps of this length.
    pub async fn until_done_by<T>(&self, step: Duration, task: JoinHandle<T>) -> T {
        for _ in 0..20_000 {
            self.quiet().await;
            if task.is_finished() {
                return task.await.expect("the task ends without a panic");
            }
            self.clock.advance(step);
        }
        panic!("the task did not end in 20,000 steps of its clock");
    }

    /// Waits until so many callers of a handle wait for a held key.
    pub async fn waiters(&self, handle: &Handle, key: &LockKey, count: u64) {
        for _ in 0..1_000 {
            self.quiet().await;
            if handle.locks.status(key).await.unwrap().is_some_and(|status| status.waiters == count) {
                return;
            }
        }
        panic!("{count} callers should wait");
    }

    /// Waits until the key is free without moving the clock.
    pub async fn free(&self, key: &LockKey) {
        for _ in 0..1_000 {
            self.quiet().await;
            if self.b.locks.status(key).await.unwrap().is_none() {
                return;
            }
        }
        panic!("the key should be free");
    }
}

/// The locks of one process, with faults below and an observer beside them.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The locks.
    pub locks: Locks,
    /// The engine below, which fails on demand.
    pub engine: Arc<FaultyLocks>,
    /// What the observer was told.
    pub seen: Arc<Seen>,
}

impl Handle {
    fn over(engine: FaultyLocks, clock: &Clock) -> Self {
        Self::with(Arc::new(engine), LocksConfig { clock: clock.clone(), ..LocksConfig::default() })
    }

    /// Opens a handle with settings of its own.
    pub fn with(engine: Arc<FaultyLocks>, config: LocksConfig) -> Self {
        let seen = Arc::new(Seen::default());
        let config = LocksConfig { observer: seen.clone(), ..config };
        Self { locks: Locks::new(engine.clone(), config).expect("the settings are legal"), engine, seen }
    }

    /// Opens another handle on the same engine handle, with settings of its own.
    pub fn again(&self, clock: &Clock, change: impl FnOnce(&mut LocksConfig)) -> Self {
        let mut config = LocksConfig { clock: clock.clone(), ..LocksConfig::default() };
        change(&mut config);
        Self::with(self.engine.clone(), config)
    }

    /// Takes a free key at once, without renewal.
    pub async fn take(&self, key: &LockKey) -> Grant {
        self.try_take(key).await.expect("the key is free")
    }

    /// Tries to take a key at once, without renewal.
    pub async fn try_take(&self, key: &LockKey) -> Result<Grant> {
        self.locks.acquire(key, once()).await
    }

    /// Checks that another holds the key, and returns for how long.
    pub async fn finds_busy(&self, key: &LockKey) -> Duration {
        let error = self.try_take(key).await.expect_err("another holds the key");
        assert_eq!(error.kind(), Kind::Contended, "{error}");
        error.held_for().expect("the end of the other lease is known")
    }

    /// The scope `eu`.
    pub fn eu(&self) -> Scoped {
        self.locks.scope("eu")
    }

    /// Waits until a call was made so often, without moving the clock.
    pub async fn called(&self, call: Call, times: u64) {
        let patience = Clock::system().now() + PATIENCE;
        while self.engine.calls(call) < times {
            tokio::task::yield_now().await;
            assert!(Clock::system().now() < patience, "{call:?} was made {} times, not {times}", self.engine.calls(call));
        }
    }
}

/// An observer that remembers.
#[derive(Debug, Default)]
pub struct Seen {
    outcomes: Mutex<Vec<(&'static str, String)>>,
    reports: Mutex<Vec<&'static str>>,
    subjects: Mutex<Vec<String>>,
    scopes: Mutex<Vec<Option<String>>>,
    waits: Mutex<Vec<Duration>>,
    holds: Mutex<Vec<(Duration, Duration)>>,
    held: AtomicI64,
    waiting: AtomicI64,
}

impl Seen {
    /// Returns the outcomes counted since the last time.
    pub fn outcomes(&self) -> Vec<&'static str> {
        self.outcomes.lock().drain(..).map(|(outcome, _)| outcome).collect()
    }

    /// Returns the labels counted since the last time.
    pub fn targets(&self) -> Vec<String> {
        self.outcomes.lock().drain(..).map(|(_, target)| target).collect()
    }

    /// Returns the reports since the last time.
    pub fn reports(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.reports.lock())
    }

    /// Returns the engine and the key's pattern of the reports since the last time.
    pub fn subjects(&self) -> Vec<String> {
        std::mem::take(&mut *self.subjects.lock())
    }

    /// Returns the scopes of the outcomes since the last time.
    pub fn scopes(&self) -> Vec<Option<String>> {
        std::mem::take(&mut *self.scopes.lock())
    }

    /// Returns how long calls took since the last time.
    pub fn waits(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.waits.lock())
    }

    /// Returns how long grants were held, and their ttl, since the last time.
    pub fn holds(&self) -> Vec<(Duration, Duration)> {
        std::mem::take(&mut *self.holds.lock())
    }

    /// Returns how many grants are held and how many callers wait.
    pub fn gauges(&self) -> (i64, i64) {
        (self.held.load(Ordering::SeqCst), self.waiting.load(Ordering::SeqCst))
    }
}

impl Observer for Seen {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Lock { outcome, target, scope } => {
                self.outcomes.lock().push((*outcome, (*target).to_owned()));
                self.scopes.lock().push(scope.map(str::to_owned));
            }
            Event::LockWait { waited, .. } => self.waits.lock().push(*waited),
            Event::LockHold { held, ttl, .. } => self.holds.lock().push((*held, *ttl)),
            Event::LockHeld { by } => _ = self.held.fetch_add(*by, Ordering::SeqCst),
            Event::LockWaiters { by } => _ = self.waiting.fetch_add(*by, Ordering::SeqCst),
            Event::Report { action, engine, subject, .. } => {
                self.reports.lock().push(*action);
                self.subjects.lock().push(format!("{engine} {subject}"));
            }
            _ => {}
        }
    }
}

/// The key of the cases that need one.
pub(crate) fn key() -> LockKey {
    named("42")
}

/// A key with this id.
pub(crate) fn named(id: &str) -> LockKey {
    LockKey::typed("main", "eu", "projects", id).unwrap()
}

/// The lease of the cases.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// No wait, no renewal.
pub(crate) fn once() -> LockOptions {
    LockOptions::fail().with_ttl(TTL).with_wait(Duration::ZERO).with_renew(Renew::Off)
}

/// What a holder takes off its own view of a lease of this length.
pub(crate) fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// Makes one named test a case for an engine: `lock_conformance!(on_memory, memory())`.
///
/// The expression is a future of a [`Harness`](crate::testing::lock::Harness).
#[macro_export]
macro_rules! lock_conformance {
    ($module:ident, $open:expr) => {
        $crate::lock_conformance! { @cases $module, $open;
            tokens: held_key_is_busy_and_tells_the_remaining_time, free_key_is_granted_in_one_engine_call,
                tokens_of_one_key_strictly_grow, tokens_grow_over_expiry_break_and_reopen, tokens_grow_when_wall_time_steps_back,
                later_tokens_are_above_a_raised_counter, a_counter_is_never_lowered, each_acquisition_has_its_own_owner,
                asking_again_finds_ones_own_lease_unextended, keys_differ_in_every_byte, a_raw_key_meets_the_typed_key_of_the_same_text,
                attribute_and_document_keys_do_not_exclude_each_other;
            times: lease_ends_after_its_ttl, renewed_lease_outlives_its_first_ttl, a_lease_ends_when_its_process_stops_renewing,
                renewal_extends_to_the_full_ttl, renewal_after_loss_creates_nothing, renewal_by_another_owner_changes_nothing, renewal_never_shortens,
                batch_renewal_answers_for_each_grant, validity_counts_from_before_the_send, lost_fires_before_another_is_granted,
                check_refuses_after_loss, many_grants_are_renewed_in_few_calls, wall_clock_jumps_move_no_validity;
            release: release_frees_at_once, release_by_another_owner_changes_nothing, second_release_says_already_lost,
                release_after_expiry_spares_the_next_holder, dropped_grant_is_released_by_the_worker, a_panic_in_the_body_releases,
                released_grant_is_not_renewed, live_grant_can_be_adopted, an_ended_lease_cannot_be_adopted, a_full_drop_queue_is_told_and_its_lease_ends;
            outcomes: skipped_run_leaves_the_holder_untouched, run_or_fail_waits_then_is_contended, contended_text_has_no_key,
                loss_in_the_body_keeps_its_value, a_lease_taken_in_the_body_is_told, a_body_is_dropped_at_its_loss_if_asked,
                switched_off_touches_no_key, status_shows_holder_token_and_waiters;
            told: outcomes_name_their_closed_target, a_scope_is_a_label_only_if_it_is_configured, reports_come_once_in_a_while,
                a_report_names_engine_and_pattern_and_no_id, waits_and_holds_are_measured, the_held_and_the_waiting_are_counted,
                a_long_hold_without_a_renewal_is_reported, an_observer_that_panics_changes_nothing;
            holds: min_hold_keeps_the_key_taken_for_the_rest, min_hold_counts_from_the_answer_and_may_exceed_the_ttl,
                min_hold_is_void_after_a_loss, a_dropped_grant_keeps_its_min_hold, a_kept_key_has_no_owner, a_lost_reply_to_a_keeping_release_changes_nothing,
                max_hold_ends_a_grant_that_is_renewed, max_hold_gives_the_key_away_soon, max_hold_cancels_a_body_if_asked,
                repeated_skips_ask_once_in_fifty_milliseconds, release_elsewhere_clears_held_memory, a_release_here_clears_held_memory_at_once,
                held_memory_ends_with_the_lease, held_memory_is_for_skips_only, held_memory_is_bounded, a_failure_is_never_remembered_as_taken;
            admin: list_shows_live_locks_in_pages, break_issues_a_newer_token_and_an_audit_entry, a_broken_holder_hears_that_it_was_taken,
                late_writes_of_a_broken_holder_are_refused_at_once, a_free_key_is_not_broken_and_leaves_no_entry, break_without_a_trail_is_unsupported_unless_asked,
                break_touches_nothing_if_its_entry_cannot_be_kept, a_break_that_cannot_fence_frees_nothing_at_once,
                a_break_goes_on_above_what_the_store_has_seen, a_break_wakes_those_who_wait,
                switch_stops_new_locks_in_every_process_within_a_second, switch_flip_keeps_held_grants, switch_lets_waiters_go_on,
                switch_stays_as_it_was_while_the_store_is_away, switch_on_is_refused_by_the_configuration, switch_leaves_an_entry_with_who_and_why,
                switch_without_a_store_is_unsupported, switch_is_read_once_a_second_at_most, health_tells_a_working_engine_from_a_dead_one;
            input: bad_input_is_refused_before_any_call, bad_settings_are_refused, every_limit_itself_is_accepted;
            waiting: waiters_are_served_in_order, cancelled_waiter_leaves_no_ticket, the_next_asks_when_the_head_leaves, waiter_is_granted_after_expiry,
                waiter_is_granted_after_a_release_elsewhere, a_full_queue_is_overloaded_and_never_opens, only_the_head_asks_the_engine,
                a_late_caller_does_not_pass_the_queue, the_same_owner_does_not_queue_behind_others;
            faults: lost_acquire_reply_is_found_by_its_owner, a_grant_that_nobody_heard_of_is_given_back,
                lost_release_reply_spares_the_next_holder, lost_renew_reply_keeps_the_old_validity, late_renew_reply_revives_nothing,
                a_late_background_renewal_revives_nothing, an_answer_after_the_lease_is_no_grant,
                contention_is_never_an_engine_failure, an_outage_is_never_told_as_contention, a_failing_engine_is_asked_again_within_the_wait,
                a_short_outage_loses_no_grant, cancel_at_any_await_leaks_nothing, body_runs_at_most_once_under_every_fault,
                a_hanging_engine_answers_in_bounded_time;
            policy: every_event_has_the_outcome_of_the_policy, a_release_that_fails_keeps_the_body_s_value;
        }
    };
    (@cases $module:ident, $open:expr; $($group:ident: $($case:ident),*;)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $($(
                #[tokio::test]
                async fn $case() {
                    $crate::testing::lock::$group::$case(&$open.await).await;
                }
            )*)*
        }
    };
}
