//! One lease over the API: its owner is drawn before anything is sent, and its validity counts from before each send.

use std::time::Duration;

use onward::lock::Owner;
use onward::time::{Clock, Moment};
use onward_api::client::{Client, Problem, Request};
use onward_api::{Code, Effect, header};
use serde::Deserialize;
use serde_json::json;

use super::path;
use crate::units::millis;
use crate::wait;

/// The longest wait that one call may ask for.
const CALL_WAIT_MAX: Duration = Duration::from_secs(60);
/// The pause after a failed try within the wait.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often an acquire of unknown effect is asked for again: the owner makes it the same acquire.
const UNKNOWN_TRIES: u32 = 3;

/// A lease that we believe in until `until`.
#[derive(Debug)]
pub(super) struct Lease {
    client: Client,
    clock: Clock,
    key: String,
    owner: Owner,
    ttl: Duration,
    token: u64,
    until: Moment,
    renew_at: Moment,
    granted: Moment,
    holds: Holds,
}

/// For how long the lock is held at least and at most, counted from the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) least: Duration,
    pub(super) most: Option<Duration>,
}

/// Whether a release leaves the key taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is free.
    Nothing,
    /// It stays taken for the rest of the least hold.
    LeastHold,
}

/// What a renewal says.
#[derive(Debug)]
pub(super) enum Renewal {
    /// The lease runs until this moment.
    Until { until: Moment, renew_at: Moment },
    /// Somebody else may have the lock.
    Gone,
    /// Nobody answered usefully: try again at this moment.
    Failed { again_at: Moment, why: String },
}

/// Why there is no lease.
#[derive(Debug)]
pub(super) enum Refused {
    /// Somebody else holds the lock.
    Contended(Problem),
    /// Locking is switched off.
    SwitchedOff,
    /// The engine failed, and the failure policy decides.
    Failed(Problem),
    /// The call itself is wrong or not allowed: no policy opens here.
    Wrong(Problem),
}

/// How a lease ended.
#[derive(Debug)]
pub(super) enum Release {
    /// It was ours to the end.
    Released,
    /// It was not ours any more.
    AlreadyLost,
    /// Nobody knows; it ends by itself.
    Failed(Problem),
}

#[derive(Deserialize)]
struct Granted {
    #[serde(with = "onward_api::number")]
    token: u64,
}

impl Lease {
    /// Acquires the lock, waiting at most `wait`.
    pub(super) async fn acquire(
        client: &Client,
        key: &str,
        owner: &Owner,
        ttl: Duration,
        wait: Duration,
        holds: Holds,
    ) -> Result<Self, Refused> {
        let clock = Clock::system();
        let wait_until = clock.now() + wait;
        let mut unknown = 0;
        loop {
            let left = wait_until.left(clock.now()).min(CALL_WAIT_MAX);
            let ask = json!({"ttl_ms": millis(ttl), "wait_ms": millis(left), "owner": owner.to_string(), "holder": holder()});
            let request = Request::post(path(key)).json(&ask).timeout(client.timeout().saturating_add(left));
            let sent = clock.now();
            let problem = match client.call(request).await.and_then(|answer| answer.json::<Granted>()) {
                Ok(Granted { token }) => {
                    let (until, renew_at) = times(sent, ttl);
                    let (client, key, owner, granted) = (client.apart(), key.to_owned(), *owner, clock.now());
                    return Ok(Self { client, clock, key, owner, ttl, token, until, renew_at, granted, holds });
                }
                Err(problem) => problem,
            };
            let more = !wait_until.left(clock.now()).is_zero();
            match problem.code() {
                Code::ResourceLocked if more => continue,
                Code::ResourceLocked => return Err(Refused::Contended(problem)),
                Code::LockingOff => return Err(Refused::SwitchedOff),
                code if code.exit() != 8 && code != Code::Internal => return Err(Refused::Wrong(problem)),
                _ => {}
            }
            // The same owner again is the same acquire: it finds its own grant, or makes one.
            unknown += u32::from(problem.effect() == Effect::Unknown);
            if !more && (problem.effect() == Effect::NotApplied || unknown >= UNKNOWN_TRIES) {
                if unknown > 0 {
                    give_up(client, key, owner).await;
                }
                return Err(Refused::Failed(problem));
            }
            wait::pause(&clock, RETRY_PAUSE).await;
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The lease is surely ours before this moment.
    pub(super) fn until(&self) -> Moment {
        self.until
    }

    /// The lock must not be held after this moment, however often it was renewed.
    pub(super) fn max_until(&self) -> Option<Moment> {
        self.holds.most.map(|most| self.granted + most)
    }

    /// How long before that the command is asked to end.
    pub(super) fn grace_of_longest_hold(&self, grace: Duration) -> Duration {
        self.holds.most.map_or(grace, |most| grace.min(most / 3))
    }

    /// Whether the command must be asked to end since it held the lock for so long.
    pub(super) fn is_held_too_long(&self, grace: Duration) -> bool {
        self.max_until().is_some_and(|max| self.clock.now() >= max - self.grace_of_longest_hold(grace))
    }

    pub(super) fn renew_at(&self) -> Moment {
        self.renew_at
    }

    /// Takes over what a renewal said.
    pub(super) fn renewed(&mut self, until: Moment, renew_at: Moment) {
        (self.until, self.renew_at) = (until, renew_at);
    }

    /// Leaves the next try for later.
    pub(super) fn again_at(&mut self, moment: Moment) {
        self.renew_at = moment;
    }

    /// Extends the lease, on a connection of its own; borrows nothing, so that it can run beside the rest.
    pub(super) fn renew(&self) -> impl Future<Output = Renewal> + use<> {
        let (client, clock, ttl) = (self.client.clone(), self.clock.clone(), self.ttl);
        let request = Request::put(path(&self.key))
            .header(header::OWNER, &self.owner.to_string())
            .json(&json!({"ttl_ms": millis(ttl)}))
            .timeout((ttl / 6).min(client.timeout()).max(Duration::from_millis(5)));
        async move {
            let sent = clock.now();
            match client.call(request).await {
                Ok(_) => {
                    let (until, renew_at) = times(sent, ttl);
                    Renewal::Until { until, renew_at }
                }
                Err(problem) if problem.code() == Code::LeaseLost => Renewal::Gone,
                Err(problem) => Renewal::Failed { again_at: clock.now() + ttl / 12, why: problem.to_string() },
            }
        }
    }

    /// Gives the lock back.
    pub(super) async fn release(self, keep: Keep) -> Release {
        let keep = match keep {
            Keep::Nothing => Duration::ZERO,
            // Rounded up: never short.
            Keep::LeastHold => (self.granted + self.holds.least).left(self.clock.now()) + Duration::from_micros(999),
        };
        release(&self.client, &self.key, &self.owner, keep).await
    }
}

/// How long to wait for the answer to a release: a lease that is not given back ends by itself, and the caller waits for our exit.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Releases what an abandoned acquire may have got; if that fails too, it ends by itself.
pub(super) async fn give_up(client: &Client, key: &str, owner: &Owner) {
    let _ = release(client, key, owner, Duration::ZERO).await;
}

async fn release(client: &Client, key: &str, owner: &Owner, keep: Duration) -> Release {
    let keep_ms = Some(millis(keep)).filter(|ms| *ms > 0);
    let request = Request::delete(path(key))
        .maybe_query("keep_ms", keep_ms)
        .header(header::OWNER, &owner.to_string())
        .timeout(RELEASE_MAX.min(client.timeout()));
    match client.call(request).await {
        Ok(_) => Release::Released,
        Err(problem) if problem.code() == Code::LeaseLost => Release::AlreadyLost,
        Err(problem) => Release::Failed(problem),
    }
}

/// When a lease that was asked for at `sent` ends for us, and when to renew it.
///
/// The margin covers the drift between the engine's clock and ours: ttl/100 + 2 ms.
fn times(sent: Moment, ttl: Duration) -> (Moment, Moment) {
    let margin = ttl / 100 + Duration::from_millis(2);
    (sent + ttl.saturating_sub(margin), sent + ttl / 3)
}

/// What people see as the holder: host and process.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", std::process::id())
}
