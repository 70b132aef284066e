//! What is counted: one table. The code is made from it; `docs/metrics.md`, the dashboard, the alerts and the tests are held against it.
//!
//! Labels come from closed or configured sets, never from a key, a name or a token. What nothing counts has no row.

use std::borrow::Cow;
use std::time::Duration;

use http::{Method, StatusCode};
use onward::observe::{Event, Observer};
use onward::time::Clock;
use prometheus_client::registry::Registry;

use crate::table::{Fraction, Level, Many, Metric, MetricKind, Ratio, Seconds, Single, Sizes, Total, many, table};

table! {
    requests: Seconds "http_server_request_duration_seconds" [method: [], route: [], status: []]
        "How long requests took to their answer's head, by route pattern; route none is a path that does not exist"
    connections: Level "onward_connections" []
        "Open connections"
    refused: Total "onward_connections_refused_total" [reason: ["limit", "handshake"]]
        "Connections that were closed unserved; limit: as many are open as may be; handshake: TLS failed or took too long"
    streams: Level "onward_streams" [kind: ["watch", "tail", "verify"]]
        "Open event streams"
    stream_ends: Total "onward_stream_end_total" [kind: ["watch", "tail", "verify"], reason: ["draining", "max_age", "revoked", "compacted", "unavailable", "done", "slow", "gone"]]
        "Event streams that ended, by the reason of their bye; gone: the client left; slow: it did not read"
    auth: Total "onward_auth_total" [result: ["ok", "refused"]]
        "Bearer tokens that were looked at"
    shed: Total "onward_shed_total" [bound: ["requests", "waits", "streams"]]
        "Requests refused at a bound of this process"
    panics: Total "onward_panics_total" []
        "Panics that were caught; each is a bug of ours"
    draining: Level "onward_draining" []
        "1 while the server shuts down"
    engine_up: Level "onward_engine_up" [part: ["store", "locks"], engine: []]
        "1 if the part's engine answered a read at this scrape within a second"
    commits: Total "onward_commit_total" [outcome: ["committed", "unchanged", "replayed", "conflict", "fenced", "refused", "overloaded", "error"]]
        "Commits that were answered. Conflict and fenced are late writes that did not land; refused is bad input; overloaded was not applied"
    commit_time: Seconds "onward_commit_duration_seconds" []
        "From the call of a commit to its answer, the wait in the queue included"
    batch: Sizes "onward_commit_batch_size" []
        "Commits in one transaction"
    queue: Level "onward_commit_queue" []
        "Commits that wait for the writer; at most 4096"
    engine_time: Seconds "db_client_operation_duration_seconds" [engine: [], operation: ["commit"], result: ["ok", "error"]]
        "How long the engine took to write one batch, COMMIT and fsync included"
    feed_lag: Fraction "onward_feed_lag_seconds" []
        "Age of the commit that the cache's reader of the change log works on; up to 0.1 is its rhythm"
    invalidation_queue: Level "onward_invalidation_queue" []
        "Commits that the cache's reader has read from the change log and not worked through"
    appends: Seconds "onward_audit_append_duration_seconds" [result: ["appended", "replayed", "error"]]
        "From the call of an append to its answer; entries inside other commits count as commits"
    verdicts: Total "onward_audit_verify_total" [verdict: ["ok", "broken", "undetermined", "failed"]]
        "Verifications of chains; failed: it came to no verdict"
    verified: Fraction "onward_audit_last_verify_timestamp_seconds" []
        "Unix time of the newest verdict on a whole chain by this process; 0: none yet"
    checkpointed: Fraction "onward_audit_last_checkpoint_timestamp_seconds" []
        "Unix time at which this process last found or put the newest checkpoint of a chain in the archive; 0: not yet"
    maintain_steps: Total "onward_audit_maintain_steps_total" [stage: ["finish", "seal", "archive", "purge", "delete_file", "collect", "checkpoint", "verify"], result: ["done", "waits", "failed"]]
        "Steps of chains that were due and tried; waits: another worker was at it; verify failed: no verdict, or none that is good"
    maintain_overdue: Fraction "onward_audit_maintain_overdue_seconds" []
        "For how long a step has been due that failed at this process's newest look; 0: none failed"
    maintained: Fraction "onward_audit_last_maintain_timestamp_seconds" []
        "Unix time at which this process last looked what is due in the life of the chains; 0: another server does, or it just began"
    locks: Total "onward_lock_attempts_total" [outcome: [], target: [], scope: []]
        "Lock calls that ended: one of acquired, skipped, contended, backend_error, bypassed each, and on top unlocked, lost, release_error"
    lock_wait: Seconds "onward_lock_wait_duration_seconds" [target: [], scope: []]
        "How long a lock call asked and waited, whatever its answer"
    lock_hold: Seconds "onward_lock_hold_duration_seconds" [target: [], scope: []]
        "How long this process held a lock; leases that callers over HTTP keep by themselves are not seen"
    lock_hold_ratio: Ratio "onward_lock_hold_ratio" [target: [], scope: []]
        "How long a lock was held against its lease's length; above 0.5 renewals carried it"
    lock_leases: Total "onward_lock_leases_total" [operation: ["renew", "release"], result: ["done", "lost", "error"]]
        "Renewals and releases by callers who keep the owner, such as those over HTTP; lost: the lease had ended or was another's"
    locks_held: Level "onward_lock_held" []
        "Locks that this process holds"
    lock_waiters: Level "onward_lock_waiters" []
        "Callers of this process that wait for locks"
    loads: Total "onward_cache_loads_total" [result: ["hit", "stale", "loaded", "negative", "unfilled", "error"]]
        "Cache reads that ended"
    fills: Total "onward_cache_fills_total" [result: ["stored", "superseded", "abandoned", "failed"]]
        "Cache fills that ended; superseded: an invalidation overtook it and it did not land"
    invalidations: Total "onward_cache_invalidations_total" [result: ["removed", "absent", "queued", "failed"]]
        "Cache invalidations that ended"
    reports: Total "onward_reports_total" [action: ["release_error", "long_hold", "lost", "unlocked", "backend_error"]]
        "Failures of locks that somebody should look at; at most one a minute of each kind and target is counted"
    config_reloads: Total "onward_config_reload_total" [result: ["ok", "error"]]
        "Times that changed certificate files were read; error: they do not go, and the old pair serves on"
    tls_expiry: Level "onward_tls_expiry_timestamp_seconds" []
        "Unix time at which the certificate ends; 0: no TLS"
    build_info: Level "onward_build_info" [version: []]
        "1, with the version of the program"
}

/// What a scrape finds out at that moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Commits that wait for the writer.
    pub(crate) queue: usize,
    /// Parts with their engines, and whether they answered.
    pub(crate) engines: [(&'static str, &'static str, bool); 2],
}

impl Metrics {
    /// Writes everything as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry);
        out
    }

    /// Notes what is looked at when somebody scrapes.
    pub(crate) fn look(&self, look: Look) {
        self.queue.set(whole(look.queue));
        for (part, engine, up) in look.engines {
            self.engine_up.get_or_create(&[("part", part.into()), ("engine", engine.into())]).set(i64::from(up));
        }
        self.build_info.get_or_create(&[("version", env!("CARGO_PKG_VERSION").into())]).set(1);
    }

    pub(crate) fn request(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "PUT" => "PUT",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        };
        let status: Cow<'static, str> = match status.as_u16() {
            200 => "200".into(),
            201 => "201".into(),
            404 => "404".into(),
            status => status.to_string().into(),
        };
        self.requests.get_or_create(&[("method", method.into()), ("route", route.into()), ("status", status)]).observe(took.as_secs_f64());
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.connections.dec();
    }

    pub(crate) fn connection_refused(&self, reason: &'static str) {
        count(&self.refused, "reason", reason);
    }

    pub(crate) fn tls_expires(&self, seconds: i64) {
        self.tls_expiry.set(seconds);
    }

    pub(crate) fn reloaded(&self, result: &'static str) {
        count(&self.config_reloads, "result", result);
    }

    pub(crate) fn stream_begun(&self, kind: &'static str) {
        self.streams.get_or_create(&[("kind", kind.into())]).inc();
    }

    pub(crate) fn stream_ended(&self, kind: &'static str, reason: &'static str) {
        self.streams.get_or_create(&[("kind", kind.into())]).dec();
        self.stream_ends.get_or_create(&[("kind", kind.into()), ("reason", reason.into())]).inc();
    }

    pub(crate) fn authenticated(&self, found: bool) {
        count(&self.auth, "result", if found { "ok" } else { "refused" });
    }

    pub(crate) fn shed(&self, bound: &'static str) {
        count(&self.shed, "bound", bound);
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    pub(crate) fn draining(&self) {
        self.draining.set(1);
    }
}

fn count(family: &Many<1, <Total as Single>::Metric>, label: &'static str, value: &'static str) {
    family.get_or_create(&[(label, value.into())]).inc();
}

/// The labels of a lock: its target, and its scope if that is configured.
fn place(target: &str, scope: Option<&str>) -> [crate::table::Label; 2] {
    [("target", target.to_owned().into()), ("scope", scope.unwrap_or_default().to_owned().into())]
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::Batch { commits, engine, result, took } => {
                self.batch.observe(commits as f64);
                self.engine_time
                    .get_or_create(&[("engine", engine.into()), ("operation", "commit".into()), ("result", result.into())])
                    .observe(took.as_secs_f64());
            }
            Event::Commit { outcome, took } => {
                count(&self.commits, "outcome", outcome);
                self.commit_time.observe(took.as_secs_f64());
            }
            Event::Feed { behind, waiting } => {
                self.feed_lag.set(behind.as_secs_f64());
                self.invalidation_queue.set(whole(waiting));
            }
            Event::Append { result, took } => self.appends.get_or_create(&[("result", result.into())]).observe(took.as_secs_f64()),
            Event::Verify { verdict, whole } => {
                count(&self.verdicts, "verdict", verdict);
                if whole && verdict != "failed" {
                    self.verified.set(Clock::system().wall().as_micros() as f64 / 1e6);
                }
            }
            Event::Checkpoint => {
                self.checkpointed.set(Clock::system().wall().as_micros() as f64 / 1e6);
            }
            Event::MaintainStep { stage, result } => {
                self.maintain_steps.get_or_create(&[("stage", stage.into()), ("result", result.into())]).inc();
            }
            Event::Maintained { overdue } => {
                self.maintain_overdue.set(overdue.as_secs_f64());
                self.maintained.set(Clock::system().wall().as_micros() as f64 / 1e6);
            }
            Event::Lock { outcome, target, scope } => {
                let [target, scope] = place(target, scope);
                self.locks.get_or_create(&[("outcome", outcome.into()), target, scope]).inc();
            }
            Event::LockWait { target, scope, waited } => self.lock_wait.get_or_create(&place(target, scope)).observe(waited.as_secs_f64()),
            Event::LockHold { target, scope, held, ttl } => {
                self.lock_hold.get_or_create(&place(target, scope)).observe(held.as_secs_f64());
                self.lock_hold_ratio.get_or_create(&place(target, scope)).observe(held.as_secs_f64() / ttl.as_secs_f64().max(1e-9));
            }
            Event::LockKept { operation, result } => {
                self.lock_leases.get_or_create(&[("operation", operation.into()), ("result", result.into())]).inc();
            }
            Event::LockHeld { by } => drop(self.locks_held.inc_by(by)),
            Event::LockWaiters { by } => drop(self.lock_waiters.inc_by(by)),
            Event::CacheLoad { result } => count(&self.loads, "result", result),
            Event::CacheFill { result } => count(&self.fills, "result", result),
            Event::CacheInvalidation { result } => count(&self.invalidations, "result", result),
            Event::Report { action, .. } => count(&self.reports, "action", action),
            _ => {}
        }
    }
}
