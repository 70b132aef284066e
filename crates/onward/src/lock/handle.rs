//! The calls: `run` and `run_or_fail` by scope, the general form by key, and the calls of those who keep the owner themselves.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::held::valid_until;
use super::obtain::{Failure, Keeper, Won, obtain};
use super::outcome::{lost, switched_off};
use super::report::Label;
use super::shared::Core;
use super::{
    Grant, GrantView, LeaseRow, LockEngine, LockOptions, LocksConfig, LossReason, OnContention, OnError, OnLoss, Outcome, Owner, Why,
};
use crate::commit::CommitQueue;
use crate::model::limits::TOKEN_AHEAD_US;
use crate::model::{FencingToken, LockKey};
use crate::time::Timestamp;
use crate::{Error, Result};

/// The locks of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Locks {
    pub(super) core: Arc<Core>,
}

/// The locks of one scope, such as a region or a tenant; cheap to clone.
#[derive(Clone, Debug)]
pub struct Scoped {
    locks: Locks,
    scope: Arc<str>,
}

/// A lease of a caller who keeps the owner himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The fencing token.
    pub token: FencingToken,
    /// How long the lease runs from when the engine looked; the caller counts it from before his own send.
    pub remaining: Duration,
    /// How long the call waited.
    pub waited: Duration,
    /// Whether it was the owner's before this call.
    pub already_ours: bool,
}

/// Who holds a lock.
#[derive(Clone, Debug)]
pub struct LockStatus {
    /// Text that tells people who holds it.
    pub holder: Arc<str>,
    /// The fencing token of the grant; `None`: a client of another kind holds it, and has none.
    pub token: Option<FencingToken>,
    /// How long it can still run; `None`: no end is known.
    pub remaining: Option<Duration>,
    /// When it was granted, for people.
    pub since: Timestamp,
    /// How many callers of this process wait.
    pub waiters: u64,
}

impl LockStatus {
    pub(super) fn of(row: LeaseRow, waiters: u64) -> Self {
        Self { holder: row.holder, token: row.token, remaining: row.remaining, since: row.since, waiters }
    }
}

impl Locks {
    /// Starts the locks of a process on an engine.
    ///
    /// Needs a tokio runtime for its two background tasks (renewals, releases); they end with the last handle and grant.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the configuration breaks a rule. [`Kind::Unsupported`](crate::Kind::Unsupported): there
    /// is no runtime.
    pub fn new(engine: Arc<dyn LockEngine>, config: LocksConfig) -> Result<Self> {
        Ok(Self { core: Arc::new(Core::start(engine, config)?) })
    }

    /// Returns the locks of a scope; an empty one means `unknown`.
    pub fn scope(&self, scope: &str) -> Scoped {
        Scoped { locks: self.clone(), scope: scope.into() }
    }

    /// Returns whether locking is on, as far as this process knows; off, bodies run unlocked and [`Locks::acquire`] is refused.
    pub fn is_enabled(&self) -> bool {
        self.core.shared.switch.is_on()
    }

    /// Returns the write path of the store beside these locks.
    pub(crate) fn commits(&self) -> Option<&CommitQueue> {
        self.core.config.commits.as_ref()
    }

    /// Returns the engine's name, such as `sqlite`.
    pub fn engine_name(&self) -> &'static str {
        self.core.shared.engine.name()
    }

    /// Runs a body under the lock of any key, with any options.
    ///
    /// The body runs at most once (INV-8), is given a view of its grant and its value is never looked at. A panic in it queues the
    /// release and unwinds. Read what the body changes inside it: nothing read before the lock counts.
    ///
    /// # Errors
    /// [`Kind::Contended`](crate::Kind::Contended): held by another when the wait ended ([`OnContention::Fail`]); the body did not run.
    /// [`Kind::Backend`](crate::Kind::Backend): the engine failed ([`OnError::Closed`]); the body did not run.
    /// [`Kind::Lost`](crate::Kind::Lost): the lease was lost and the body dropped ([`OnLoss::Cancel`]).
    /// [`Kind::Invalid`](crate::Kind::Invalid), [`Kind::Overloaded`](crate::Kind::Overloaded): never opened; nothing was asked.
    ///
    /// # Cancel safety
    /// A dropped call leaves its place in the queue; what it holds, or was granted meanwhile, is released by the worker.
    pub async fn with_key<T, F, Fut>(&self, key: &LockKey, options: LockOptions, body: F) -> Result<Outcome<T>>
    where
        F: FnOnce(GrantView) -> Fut,
        Fut: Future<Output = T>,
    {
        let options = options.checked()?;
        let core = &*self.core;
        let label = core.shared.reports.label(key, options.target.as_deref())?;
        let owner = Owner::draw();
        let answer = if self.is_on().await {
            self.obtained(key, owner, Keeper::Call, &options, label).await
        } else {
            core.count("bypassed", label);
            Err(Failure::SwitchedOff)
        };
        match answer {
            Ok(won) => {
                let grant = Grant::new(Arc::clone(&self.core), key.clone(), &won, &options, label);
                self.under(grant, &options, body).await
            }
            Err(Failure::Contended { held_for, .. }) if options.on_contention == OnContention::Skip => Ok(Outcome::Skipped { held_for }),
            Err(Failure::SwitchedOff) => {
                core.count("unlocked", label);
                Ok(Outcome::RanUnlocked(body(GrantView::unlocked()).await, Why::SwitchedOff))
            }
            Err(Failure::Engine(error)) if options.on_error == OnError::Open => {
                core.count("unlocked", label);
                core.report("unlocked", label, key, &error);
                Ok(Outcome::RanUnlocked(body(GrantView::unlocked()).await, Why::Backend(error)))
            }
            Err(failure) => Err(failure.into_error()),
        }
    }

    async fn under<T, F, Fut>(&self, mut grant: Grant, options: &LockOptions, body: F) -> Result<Outcome<T>>
    where
        F: FnOnce(GrantView) -> Fut,
        Fut: Future<Output = T>,
    {
        let ran = match options.on_loss {
            OnLoss::Report => Ok(body(grant.view()).await),
            OnLoss::Cancel => until_lost(body(grant.view()), grant.lost()).await,
        };
        // A release that failed never replaces the body's value: it was reported, and the worker goes on.
        let (loss, _) = grant.end().await;
        match (ran, loss) {
            (Err(reason), _) => Err(lost(reason).during("run")),
            (Ok(value), Some(reason)) => Ok(Outcome::RanUnlocked(value, Why::Lost(reason))),
            (Ok(value), None) => Ok(Outcome::Ran(value)),
        }
    }

    /// Takes a lock and returns the grant: held, or an error, never "unlocked".
    ///
    /// # Errors
    /// As [`Locks::with_key`] with [`OnContention::Fail`] and [`OnError::Closed`]; `locking_off` while locking is switched off.
    ///
    /// # Cancel safety
    /// A dropped call leaves its place in the queue; what was granted meanwhile is released by the worker.
    pub async fn acquire(&self, key: &LockKey, options: LockOptions) -> Result<Grant> {
        let (options, label) = self.prepared(key, options).await?;
        let owner = Owner::draw();
        let won = self.obtained(key, owner, Keeper::Call, &options, label).await.map_err(Failure::into_error)?;
        Ok(Grant::new(Arc::clone(&self.core), key.clone(), &won, &options, label))
    }

    /// Makes a grant of a lease whose owner is known, to hand a held lock over: the lease is renewed to `ttl` and from then on in the
    /// background.
    ///
    /// Whoever had it before must let go of it without releasing it; the token stays the same.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost): the lease has ended or is another owner's; nothing changed. [`Kind::Invalid`](crate::Kind::Invalid):
    /// the ttl is out of bounds. [`Kind::Backend`](crate::Kind::Backend): the lease may be extended once.
    ///
    /// # Cancel safety
    /// A dropped call releases nothing: the lease stays the owner's until it ends.
    pub async fn adopt(&self, key: &LockKey, owner: Owner, ttl: Duration) -> Result<Grant> {
        let options = LockOptions::fail().with_ttl(ttl).checked()?;
        let label = self.core.shared.reports.label(key, None)?;
        let sent = self.core.shared.clock.now();
        let leased = self.renew_as(key, owner, options.ttl).await.map_err(|e| e.during("adopt"))?;
        let answered = self.core.shared.clock.now();
        let until = valid_until(sent, leased.remaining, options.ttl);
        let won = Won {
            owner,
            token: leased.token,
            remaining: leased.remaining,
            already_ours: true,
            sent,
            until,
            answered,
            waited: Duration::ZERO,
        };
        Ok(Grant::new(Arc::clone(&self.core), key.clone(), &won, &options, label))
    }

    /// Returns who holds a lock; `None`: nobody.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine failed, or (`locking_off`) locking is switched off.
    pub async fn status(&self, key: &LockKey) -> Result<Option<LockStatus>> {
        self.is_configured()?;
        let shared = &*self.core.shared;
        let row = shared.bounded(shared.clock.now(), shared.engine.inspect(key.clone())).await.map_err(|e| e.during("status"))?;
        let waiters = shared.queues.line(key).map_or(0, |line| line.waiters);
        Ok(row.map(|row| LockStatus::of(row, waiters)))
    }

    /// Raises the counter above the newest token that a store has seen, so that it heals after a loss.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): it is more than a year ahead of the clock in microseconds; no store accepts such a token,
    /// and a counter at its end would grant nothing any more. [`Kind::Backend`](crate::Kind::Backend): it may not be raised.
    pub async fn raise_tokens(&self, newest: FencingToken) -> Result<()> {
        if self.is_configured().is_err() {
            return Ok(());
        }
        let shared = &*self.core.shared;
        let ahead = u64::try_from(shared.clock.wall().as_micros()).unwrap_or(0).saturating_add(TOKEN_AHEAD_US);
        if newest.get() > ahead {
            return Err(Error::invalid("the newest token is more than a year ahead of the clock").during("raise"));
        }
        shared.bounded(shared.clock.now(), shared.engine.raise(newest)).await.map_err(|e| e.during("raise"))
    }

    /// Looks at the live switch if that is due.
    pub(crate) async fn look_at_switch(&self) {
        let shared = &*self.core.shared;
        shared.look_at_switch(shared.clock.now()).await;
    }

    /// Whether locking is on, after a look at the live switch if one is due.
    async fn is_on(&self) -> bool {
        self.look_at_switch().await;
        self.core.shared.switch.is_on()
    }

    pub(super) async fn prepared(&self, key: &LockKey, options: LockOptions) -> Result<(LockOptions, Label)> {
        let options = options.with_on_contention(OnContention::Fail).checked()?;
        let label = self.core.shared.reports.label(key, options.target.as_deref())?;
        if !self.is_on().await {
            self.core.count("bypassed", label);
            return Err(switched_off().during("acquire"));
        }
        Ok((options, label))
    }

    /// Gets the lease and counts how that went.
    pub(super) async fn obtained(
        &self,
        key: &LockKey,
        owner: Owner,
        keeper: Keeper,
        options: &LockOptions,
        label: Label,
    ) -> Result<Won, Failure> {
        let core = &*self.core;
        let begun = core.shared.clock.now();
        let answer = obtain(core, key, owner, keeper, options, begun).await;
        match &answer {
            Ok(won) => core.shared.reports.waited(label, won.waited),
            Err(Failure::Refused(_)) => {}
            Err(_) => core.shared.reports.waited(label, core.shared.clock.now().since(begun)),
        }
        match &answer {
            Ok(_) => core.count("acquired", label),
            Err(Failure::Contended { .. }) if options.on_contention == OnContention::Skip => core.count("skipped", label),
            Err(Failure::Contended { .. }) => core.count("contended", label),
            Err(Failure::Engine(error)) => {
                core.count("backend_error", label);
                core.report("backend_error", label, key, error);
            }
            // The switch was flipped during the wait.
            Err(Failure::SwitchedOff) => core.count("bypassed", label),
            // Refused input counts elsewhere.
            Err(Failure::Refused(_)) => {}
        }
        answer
    }
}

/// Runs a body until its lease is lost; it is dropped then.
async fn until_lost<T>(body: impl Future<Output = T>, lost: impl Future<Output = LossReason>) -> Result<T, LossReason> {
    let mut body = pin!(body);
    let mut lost = pin!(lost);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(reason) = lost.as_mut().poll(cx) {
            return Poll::Ready(Err(reason));
        }
        body.as_mut().poll(cx).map(Ok)
    })
    .await
}

impl Scoped {
    /// Makes the key of a document; `.attribute("accessedAt")` makes that of one attribute.
    ///
    /// # Errors
    /// As [`LockKey::typed`].
    pub fn key(&self, collection: &str, id: &str) -> Result<LockKey> {
        LockKey::typed(&self.locks.core.config.namespace, &self.scope, collection, id)
    }

    /// Runs idempotent work that every caller would do the same: whoever loses the race skips it.
    ///
    /// # Errors
    /// As [`Locks::with_key`] with [`LockOptions::skip`].
    ///
    /// # Cancel safety
    /// As [`Locks::with_key`].
    pub async fn run<T, F, Fut>(&self, collection: &str, id: &str, body: F) -> Result<Outcome<T>>
    where
        F: FnOnce(GrantView) -> Fut,
        Fut: Future<Output = T>,
    {
        self.locks.with_key(&self.key(collection, id)?, LockOptions::skip(), body).await
    }

    /// Runs work that must not be dropped: waits 3 s, then `Contended`; never skipped.
    ///
    /// # Errors
    /// As [`Locks::with_key`] with [`LockOptions::fail`].
    ///
    /// # Cancel safety
    /// As [`Locks::with_key`].
    pub async fn run_or_fail<T, F, Fut>(&self, collection: &str, id: &str, body: F) -> Result<Outcome<T>>
    where
        F: FnOnce(GrantView) -> Fut,
        Fut: Future<Output = T>,
    {
        self.locks.with_key(&self.key(collection, id)?, LockOptions::fail(), body).await
    }

    /// Returns the locks that this scope belongs to, for keys and options of any kind.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Returns the scope's name.
    pub fn name(&self) -> &str {
        &self.scope
    }
}
