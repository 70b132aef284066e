//! What is counted. Labels come from closed sets, never from a key, a name or a token.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, StatusCode};
use onward::observe::{Event, Observer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Where everything is counted: the server's own, and what the library tells its observer.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    connections: Gauge,
    refused_connections: Counter,
    streams: Gauge,
    auth: Family<OutcomeLabels, Counter>,
    shed: Counter,
    panics: Counter,
    draining: Gauge,
    commits: Family<OutcomeLabels, Counter>,
    batch: Histogram,
    sync: Histogram,
    locks: Family<LockLabels, Counter>,
    loads: Family<OutcomeLabels, Counter>,
    fills: Family<OutcomeLabels, Counter>,
    invalidations: Family<OutcomeLabels, Counter>,
    reports: Family<OutcomeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LockLabels {
    outcome: &'static str,
    target: String,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 4.0, 9))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Self {
            registry: Registry::default(),
            requests: Family::new_with_constructor(seconds as fn() -> Histogram),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            streams: Gauge::default(),
            auth: Family::default(),
            shed: Counter::default(),
            panics: Counter::default(),
            draining: Gauge::default(),
            commits: Family::default(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            sync: seconds(),
            locks: Family::default(),
            loads: Family::default(),
            fills: Family::default(),
            invalidations: Family::default(),
            reports: Family::default(),
        };
        let to = &mut all.registry;
        to.register("http_server_request_duration_seconds", "How long requests took", all.requests.clone());
        to.register("onward_connections", "Open connections", all.connections.clone());
        to.register("onward_connections_refused", "Connections closed at the cap", all.refused_connections.clone());
        to.register("onward_streams", "Open event streams", all.streams.clone());
        to.register("onward_auth", "Bearer tokens looked at", all.auth.clone());
        to.register("onward_shed", "Requests shed at a bound of the process", all.shed.clone());
        to.register("onward_panics", "Panics caught", all.panics.clone());
        to.register("onward_draining", "1 while the server shuts down", all.draining.clone());
        to.register("onward_commit", "Commits answered", all.commits.clone());
        to.register("onward_commit_batch_size", "Commits in one transaction", all.batch.clone());
        to.register("onward_commit_duration_seconds", "How long a COMMIT took, fsync included", all.sync.clone());
        to.register("onward_lock_attempts", "Lock calls ended", all.locks.clone());
        to.register("onward_cache_loads", "Cache reads ended", all.loads.clone());
        to.register("onward_cache_fills", "Cache fills ended", all.fills.clone());
        to.register("onward_cache_invalidations", "Cache invalidations ended", all.invalidations.clone());
        to.register("onward_reports", "Failures that an operator should see", all.reports.clone());
        let built: Family<Vec<(&'static str, &'static str)>, Gauge> = Family::default();
        built.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
        to.register("onward_build_info", "The program", built);
        all
    }
}

impl Metrics {
    /// Writes everything as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry);
        out
    }

    pub(crate) fn request(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "PUT" => "PUT",
            "POST" => "POST",
            "DELETE" => "DELETE",
            _ => "other",
        };
        self.requests.get_or_create(&RequestLabels { method, route, status: status.as_u16() }).observe(took.as_secs_f64());
    }

    pub(crate) fn connections(&self) -> &Gauge<i64, std::sync::atomic::AtomicI64> {
        &self.connections
    }

    pub(crate) fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    pub(crate) fn streams(&self) -> &Gauge<i64, std::sync::atomic::AtomicI64> {
        &self.streams
    }

    pub(crate) fn authenticated(&self, found: bool) {
        self.auth.get_or_create(&OutcomeLabels { outcome: if found { "ok" } else { "refused" } }).inc();
    }

    pub(crate) fn shed(&self) {
        self.shed.inc();
    }

    pub(crate) fn panicked(&self) {
        self.panics.inc();
    }

    pub(crate) fn draining(&self) {
        self.draining.set(1);
    }

    fn count(family: &Family<OutcomeLabels, Counter<u64, AtomicU64>>, outcome: &'static str) {
        family.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::Batch { commits, sync } => {
                self.batch.observe(f64::from(u32::try_from(*commits).unwrap_or(u32::MAX)));
                self.sync.observe(sync.as_secs_f64());
            }
            Event::Commit { outcome } => Self::count(&self.commits, outcome),
            Event::Lock { outcome, target, .. } => {
                self.locks.get_or_create(&LockLabels { outcome, target: (*target).to_owned() }).inc();
            }
            Event::CacheLoad { result } => Self::count(&self.loads, result),
            Event::CacheFill { result } => Self::count(&self.fills, result),
            Event::CacheInvalidation { result } => Self::count(&self.invalidations, result),
            Event::Report { action, .. } => Self::count(&self.reports, action),
            _ => {}
        }
    }
}
