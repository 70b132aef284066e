//! The calls: `run` and `run_or_fail` by scope, the general form by key, and the calls of those who keep the owner themselves.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::obtain::{Failure, Keeper, obtain};
use super::options::checked_ttl;
use super::outcome::{lost, switched_off};
use super::report::Label;
use super::shared::Core;
use super::{
    Claim, Grant, GrantView, LockEngine, LockOptions, LocksConfig, LossReason, OnContention, OnError, OnLoss, Outcome, Owner, Release,
    Renewal, Why,
};
use crate::commit::CommitQueue;
use crate::model::limits::TOKEN_AHEAD_US;
use crate::model::{FencingToken, LockKey};
use crate::time::Timestamp;
use crate::{Error, Result};

/// The locks of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Locks {
    core: Arc<Core>,
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
    /// The fencing token of the grant.
    pub token: FencingToken,
    /// How long it can still run; `None`: no end is known.
    pub remaining: Option<Duration>,
    /// When it was granted, for people.
    pub since: Timestamp,
    /// How many callers of this process wait.
    pub waiters: u64,
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

    /// Returns whether locking is on; off, bodies run unlocked and [`Locks::acquire`] is refused.
    pub fn is_enabled(&self) -> bool {
        self.core.config.enabled
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
        if !core.config.enabled {
            core.count("bypassed", label);
            core.count("unlocked", label);
            return Ok(Outcome::RanUnlocked(body(GrantView::unlocked()).await, Why::SwitchedOff));
        }
        let owner = Owner::draw();
        match self.obtained(key, owner, Keeper::Call, &options, label).await {
            Ok(won) => {
                let grant = Grant::new(Arc::clone(&self.core), key.clone(), owner, &won, &options, label);
                self.under(grant, &options, body).await
            }
            Err(Failure::Contended { held_for, .. }) if options.on_contention == OnContention::Skip => Ok(Outcome::Skipped { held_for }),
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
        let (options, label) = self.prepared(key, options)?;
        let owner = Owner::draw();
        let won = self.obtained(key, owner, Keeper::Call, &options, label).await.map_err(Failure::into_error)?;
        Ok(Grant::new(Arc::clone(&self.core), key.clone(), owner, &won, &options, label))
    }

    /// Takes a lock for a caller who keeps the owner: no grant object, no renewal, nothing is released by a drop.
    ///
    /// Idempotent: asked again with the same owner it finds the live lease as it stands. So after an unknown answer, ask again.
    ///
    /// # Errors
    /// As [`Locks::acquire`].
    ///
    /// # Cancel safety
    /// A dropped call leaves its place in the queue. What was granted meanwhile stays the owner's until he releases it or it ends.
    pub async fn acquire_as(&self, key: &LockKey, owner: Owner, options: LockOptions) -> Result<Leased> {
        let (options, label) = self.prepared(key, options)?;
        let won = self.obtained(key, owner, Keeper::Caller, &options, label).await.map_err(Failure::into_error)?;
        Ok(Leased { token: won.token, remaining: won.remaining, waited: won.waited, already_ours: won.already_ours })
    }

    /// Extends the lease of a caller who keeps the owner to at least `ttl` from now.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::Kind::Lost): the lease is not the owner's any more; nothing changed.
    /// [`Kind::Backend`](crate::Kind::Backend): the caller's validity stays as it was.
    pub async fn renew_as(&self, key: &LockKey, owner: Owner, ttl: Duration) -> Result<Leased> {
        let renewed = self.renew_many(&[(key.clone(), owner, ttl)]).await?;
        renewed.into_iter().next().flatten().ok_or_else(|| lost(LossReason::Taken).during("renew"))
    }

    /// Extends many leases in one call; answers in their order, `None` for one that is lost.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): a ttl is out of bounds, or more than [`LocksConfig::renew_batch`] leases.
    /// [`Kind::Backend`](crate::Kind::Backend): the validity of all stays as it was.
    pub async fn renew_many(&self, leases: &[(LockKey, Owner, Duration)]) -> Result<Vec<Option<Leased>>> {
        self.is_on()?;
        if leases.len() > self.core.config.renew_batch {
            return Err(Error::invalid(format!("one call renews at most {} leases", self.core.config.renew_batch)));
        }
        let mut batch = Vec::with_capacity(leases.len());
        for (key, owner, ttl) in leases {
            batch.push(Renewal { key: key.clone(), owner: *owner, ttl: checked_ttl(*ttl)? });
        }
        let shared = &*self.core.shared;
        let answers = shared.bounded(shared.clock.now(), shared.engine.renew(batch)).await.map_err(|e| e.during("renew"))?;
        let leased = |renewed: super::Renewed| Leased {
            token: renewed.token,
            remaining: renewed.remaining,
            waited: Duration::ZERO,
            already_ours: true,
        };
        Ok(answers.into_iter().map(|answer| answer.map(leased)).collect())
    }

    /// Gives back the lease of a caller who keeps the owner; another owner's is left alone.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): whether it is free is unknown; ask again, it ends with its lease anyway.
    pub async fn release_as(&self, key: &LockKey, owner: &Owner) -> Result<Release> {
        self.is_on()?;
        let shared = &*self.core.shared;
        let claim = Claim { key: key.clone(), owner: *owner };
        let answer = shared.bounded(shared.clock.now(), shared.engine.release(vec![claim])).await.map_err(|e| e.during("release"))?;
        shared.queues.wake(key);
        Ok(answer.first().copied().unwrap_or(Release::AlreadyLost))
    }

    /// Returns who holds a lock; `None`: nobody.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine failed, or (`locking_off`) locking is switched off.
    pub async fn status(&self, key: &LockKey) -> Result<Option<LockStatus>> {
        self.is_on()?;
        let shared = &*self.core.shared;
        let row = shared.bounded(shared.clock.now(), shared.engine.inspect(key.clone())).await.map_err(|e| e.during("status"))?;
        let waiters = shared.queues.line(key).map_or(0, |line| line.waiters);
        Ok(row.map(|row| LockStatus { holder: row.holder, token: row.token, remaining: row.remaining, since: row.since, waiters }))
    }

    /// Raises the counter above the newest token that a store has seen, so that it heals after a loss.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): it is more than a year ahead of the clock in microseconds; no store accepts such a token,
    /// and a counter at its end would grant nothing any more. [`Kind::Backend`](crate::Kind::Backend): it may not be raised.
    pub async fn raise_tokens(&self, newest: FencingToken) -> Result<()> {
        if !self.core.config.enabled {
            return Ok(());
        }
        let shared = &*self.core.shared;
        let ahead = u64::try_from(shared.clock.wall().as_micros()).unwrap_or(0).saturating_add(TOKEN_AHEAD_US);
        if newest.get() > ahead {
            return Err(Error::invalid("the newest token is more than a year ahead of the clock").during("raise"));
        }
        shared.bounded(shared.clock.now(), shared.engine.raise(newest)).await.map_err(|e| e.during("raise"))
    }

    fn is_on(&self) -> Result<()> {
        if self.core.config.enabled { Ok(()) } else { Err(switched_off()) }
    }

    fn prepared(&self, key: &LockKey, options: LockOptions) -> Result<(LockOptions, Label)> {
        let options = options.with_on_contention(OnContention::Fail).checked()?;
        let label = self.core.shared.reports.label(key, options.target.as_deref())?;
        if let Err(error) = self.is_on() {
            self.core.count("bypassed", label);
            return Err(error.during("acquire"));
        }
        Ok((options, label))
    }

    /// Gets the lease and counts how that went.
    async fn obtained(
        &self,
        key: &LockKey,
        owner: Owner,
        keeper: Keeper,
        options: &LockOptions,
        label: Label,
    ) -> Result<super::obtain::Won, Failure> {
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
