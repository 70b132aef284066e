//! What all requests share: the library, who may call, the bounds, the metrics, and whether the server drains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use onward::{Code, Onward};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::caller::Caller;
use crate::auth::token::{Token, Tokens};
use crate::config::ListedToken;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// What all requests share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
    timeouts: Timeouts,
    places: Arc<Places>,
    has_cache: bool,
}

/// How many of each there may be at once; one more is refused, never queued (C7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections: 10,000. One more is closed.
    pub connections: usize,
    /// Requests that run: 1,024.
    pub requests: usize,
    /// Calls that wait for a lock, a fill or a verdict: 4,096.
    pub waits: usize,
    /// Event streams: 1,000.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, requests: 1_024, waits: 4_096, streams: 1_000 }
    }
}

/// The places that are left.
#[derive(Debug)]
struct Places {
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Places {
    fn new(limits: Limits) -> Arc<Self> {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let Limits { connections, requests, waits, streams } = limits;
        Arc::new(Self { connections: places(connections), requests: places(requests), waits: places(waits), streams: places(streams) })
    }
}

/// The hosts that requests may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Any one.
    Any,
    /// Loopback only, so that no web page can rebind its name to this server.
    Loopback,
    /// These names, with any port.
    Named(Vec<String>),
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A head, from the first moment of the connection or the end of the request before: 10 s.
    pub head: Duration,
    /// A body: 30 s.
    pub body: Duration,
    /// A request that asks for no less, beside what it waits: 10 s.
    pub request: Duration,
    /// What we write, unread by the client: 30 s.
    pub stalled: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            request: Duration::from_secs(10),
            stalled: Duration::from_secs(30),
        }
    }
}

#[derive(Debug)]
struct Inner {
    onward: Onward,
    access: Access,
    metrics: Arc<Metrics>,
    hosts: OnceLock<Hosts>,
    leaving: AtomicBool,
    draining: CancellationToken,
    tasks: TaskTracker,
}

/// Who may call.
#[derive(Debug)]
enum Access {
    /// Whoever runs in this process: there is no socket.
    InProcess,
    /// Whoever shows a token.
    Tokens(Tokens),
}

impl State {
    /// Serves one token, which may do everything, under the name that audit entries show.
    pub fn new(onward: Onward, name: &str, token: &Token, metrics: Arc<Metrics>) -> Self {
        Self::with(onward, Access::Tokens(Tokens::one(name, token)), metrics)
    }

    /// Serves the tokens that a configuration lists.
    pub(crate) fn listed(onward: Onward, tokens: &[ListedToken], metrics: Arc<Metrics>) -> Self {
        Self::with(onward, Access::Tokens(Tokens::listed(tokens)), metrics)
    }

    /// Serves this very process and asks for no token. A [`Server`](crate::Server) refuses such a state.
    pub fn embedded(onward: Onward) -> Self {
        Self::with(onward, Access::InProcess, Arc::default())
    }

    fn with(onward: Onward, access: Access, metrics: Arc<Metrics>) -> Self {
        let inner = Arc::new(Inner {
            onward,
            access,
            metrics,
            hosts: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        Self { inner, timeouts: Timeouts::default(), places: Places::new(Limits::default()), has_cache: true }
    }

    /// Sets how long things may take.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Sets how many of each there may be; before anything is served.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.places = Places::new(limits);
        self
    }

    /// Says that there is no cache to serve.
    #[must_use]
    pub(crate) fn without_cache(mut self) -> Self {
        self.has_cache = false;
        self
    }

    /// Tells whether there is a cache to serve.
    pub(crate) fn has_cache(&self) -> bool {
        self.has_cache
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Returns the library.
    pub fn onward(&self) -> &Onward {
        &self.inner.onward
    }

    /// Returns what is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Sets which hosts it answers for, once.
    pub(crate) fn answer_for(&self, hosts: Hosts) {
        let _ = self.inner.hosts.set(hosts);
    }

    /// Returns which hosts it answers for; `None` without a socket.
    pub(crate) fn hosts(&self) -> Option<&Hosts> {
        self.inner.hosts.get()
    }

    /// Begins to end: not ready, but serving.
    pub(crate) fn leave(&self) {
        self.inner.leaving.store(true, Ordering::Relaxed);
        self.inner.metrics.draining();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.inner.access, Access::InProcess)
    }

    /// Is cancelled when the server begins to drain: waits and streams end.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.inner.draining
    }

    /// The tasks that a drain waits for.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Returns who shows this `Authorization`; one text for everything that is not a token of ours.
    pub(crate) fn caller(&self, authorization: Option<&str>) -> Result<Caller, Refusal> {
        let Access::Tokens(tokens) = &self.inner.access else {
            return Ok(Caller::InProcess);
        };
        let presented = authorization.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let found = tokens.find(presented.map_or("", |(_, token)| token.trim_start()));
        self.inner.metrics.authenticated(found.is_some());
        found.map(Caller::Token).ok_or_else(|| Refusal::new(Code::Unauthenticated, "a valid bearer token is needed"))
    }

    /// Takes a place among the connections.
    pub(crate) fn connection_slot(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.connections.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.inner.metrics.connection_refused("limit");
        }
        place
    }

    /// Takes a place among the requests that run.
    pub(crate) fn request_slot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.slot(&self.places.requests, "requests", "too many requests run")
    }

    /// Takes a place among the calls that wait.
    pub(crate) fn wait_slot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.slot(&self.places.waits, "waits", "too many calls wait")
    }

    /// Takes a place among the event streams.
    pub(crate) fn stream_slot(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.slot(&self.places.streams, "streams", "too many event streams are open")
    }

    fn slot(&self, places: &Arc<Semaphore>, bound: &'static str, full: &str) -> Result<OwnedSemaphorePermit, Refusal> {
        places.clone().try_acquire_owned().map_err(|_| {
            self.inner.metrics.shed(bound);
            Refusal::new(Code::Overloaded, full)
        })
    }
}
