//! What all requests share: the library, who may call, the bounds, the metrics, and whether the server drains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use onward::audit::Maintenance;
use onward::{Code, Onward};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::caller::Caller;
use crate::auth::tokens::{Bounds, Standing, Tokens};
use crate::auth::{Acts, Token};
use crate::config::{ListedToken, Rate};
use crate::metrics::Metrics;
use crate::reach::Reach;
use crate::refusal::Refusal;
use crate::spelled::Spelled;

/// What all requests share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
    access: Access,
    timeouts: Timeouts,
    places: Arc<Places>,
    has_cache: bool,
    takes_unleased: bool,
    ready_requires: Arc<[String]>,
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
    /// Event streams of one token: 100.
    pub streams_per_token: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, requests: 1_024, waits: 4_096, streams: 1_000, streams_per_token: 100 }
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
        let Limits { connections, requests, waits, streams, .. } = limits;
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
    /// An event stream: 1 h.
    pub stream_age: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            request: Duration::from_secs(10),
            stalled: Duration::from_secs(30),
            stream_age: Duration::from_secs(3_600),
        }
    }
}

#[derive(Debug)]
struct Inner {
    onward: Onward,
    acts: Acts,
    reach: Reach,
    metrics: Arc<Metrics>,
    spelled: Arc<Spelled>,
    hosts: OnceLock<Hosts>,
    leaving: AtomicBool,
    draining: CancellationToken,
    tasks: TaskTracker,
    maintenance: Mutex<Maintenance>,
}

/// Who may call.
#[derive(Clone, Debug)]
enum Access {
    /// Whoever runs in this process: there is no socket.
    InProcess,
    /// Whoever shows a token.
    Tokens(Arc<Tokens>),
}

impl State {
    /// Serves one token, which may do everything, under the name that audit entries show, and those in the store.
    pub fn new(onward: Onward, name: &str, token: &Token, metrics: Arc<Metrics>) -> Self {
        let tokens = Self::tokens(&onward).and_admin(name, token);
        Self::with(onward, Access::Tokens(Arc::new(tokens)), metrics)
    }

    /// Serves the tokens that a configuration lists and those in the store.
    pub fn listed(onward: Onward, listed: &[ListedToken], metrics: Arc<Metrics>) -> Self {
        let tokens = Self::tokens(&onward).and_listed(listed);
        Self::with(onward, Access::Tokens(Arc::new(tokens)), metrics)
    }

    fn tokens(onward: &Onward) -> Tokens {
        let bounds = Bounds { rate: None, streams: Limits::default().streams_per_token };
        Tokens::new(onward.store().queue().clock().clone(), bounds)
    }

    /// Tells whether anybody could call at all.
    ///
    /// # Errors
    /// [`Kind::Backend`](onward::Kind::Backend): the store is away.
    pub async fn has_tokens(&self) -> onward::Result<bool> {
        match &self.access {
            Access::InProcess => Ok(true),
            Access::Tokens(tokens) => tokens.exist(self.onward()).await,
        }
    }

    /// Serves this very process and asks for no token. A [`Server`](crate::Server) refuses such a state.
    pub fn embedded(onward: Onward) -> Self {
        Self::with(onward, Access::InProcess, Arc::default())
    }

    fn with(onward: Onward, access: Access, metrics: Arc<Metrics>) -> Self {
        let inner = Arc::new(Inner {
            onward,
            acts: Acts::default(),
            reach: Reach::default(),
            metrics,
            spelled: Arc::default(),
            hosts: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            maintenance: Mutex::default(),
        });
        Self {
            inner,
            access,
            timeouts: Timeouts::default(),
            places: Places::new(Limits::default()),
            has_cache: true,
            takes_unleased: false,
            ready_requires: Arc::default(),
        }
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
        // The bound on streams is the server's: the library's own must not come before it.
        self.inner.onward.store().queue().allow_readers(limits.streams.saturating_mul(2));
        self.bounded(|bounds| bounds.streams = limits.streams_per_token)
    }

    /// Sets how many requests a token may send; before anything is served. Without it: any number.
    #[must_use]
    pub fn with_rate(self, rate: Rate) -> Self {
        self.bounded(|bounds| bounds.rate = Some(rate))
    }

    fn bounded(mut self, change: impl FnOnce(&mut Bounds)) -> Self {
        if let Access::Tokens(tokens) = &self.access {
            let mut bounds = tokens.bounds();
            change(&mut bounds);
            self.access = Access::Tokens(Arc::new(tokens.with_bounds(bounds)));
        }
        self
    }

    /// Says that there is no cache to serve.
    #[must_use]
    pub(crate) fn without_cache(mut self) -> Self {
        self.has_cache = false;
        self
    }

    /// Is not ready while the engine of one of these parts is away.
    #[must_use]
    pub(crate) fn requiring(mut self, parts: &[String]) -> Self {
        self.ready_requires = parts.into();
        self
    }

    /// Tells whether it is not ready without this part's engine.
    pub(crate) fn requires(&self, part: &str) -> bool {
        self.ready_requires.iter().any(|required| required == part)
    }

    /// What maintenance remembers from tick to tick.
    pub(crate) fn maintenance(&self) -> &Mutex<Maintenance> {
        &self.inner.maintenance
    }

    /// How the engines did when they were last looked at.
    pub(crate) fn reach(&self) -> &Reach {
        &self.inner.reach
    }

    /// Takes values for the cache without a fill lease.
    #[must_use]
    pub fn with_unleased_fills(mut self) -> Self {
        self.takes_unleased = true;
        self
    }

    /// Tells whether values are taken without a fill lease.
    pub(crate) fn takes_unleased(&self) -> bool {
        self.takes_unleased
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
        matches!(self.access, Access::InProcess)
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
    pub(crate) async fn caller(&self, authorization: Option<&str>) -> Result<Caller, Refusal> {
        let Access::Tokens(tokens) = &self.access else {
            return Ok(Caller::InProcess);
        };
        let shown = authorization.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let found = tokens.find(self.onward(), shown.map_or("", |(_, token)| token.trim_start())).await?;
        self.inner.metrics.authenticated(found.is_some());
        let known = found.ok_or_else(|| Refusal::new(Code::Unauthenticated, "a valid bearer token is needed"))?;
        if let Some(limiter) = &known.limiter {
            limiter.take()?;
        }
        Ok(Caller::Token(known))
    }

    /// Tells whether a caller that was let in still would be.
    pub(crate) async fn standing(&self, caller: &Caller) -> Standing {
        match (&self.access, caller) {
            (Access::Tokens(tokens), Caller::Token(known)) => tokens.standing(self.onward(), known).await,
            _ => Standing::Good,
        }
    }

    /// Looks at the store's tokens anew at the next request.
    pub(crate) fn tokens_changed(&self) {
        if let Access::Tokens(tokens) = &self.access {
            tokens.changed();
        }
    }

    /// The newest events of watches.
    pub(crate) fn spelled(&self) -> &Arc<Spelled> {
        &self.inner.spelled
    }

    /// The log of refused acts.
    pub(crate) fn acts(&self) -> &Acts {
        &self.inner.acts
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
