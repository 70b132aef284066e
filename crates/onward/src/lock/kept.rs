//! Leases of callers who keep the owner themselves: no grant object, no renewal, nothing is released by a drop.

use std::time::Duration;

use super::handle::{Leased, Locks};
use super::obtain::{Failure, Keeper};
use super::options::{checked_hold, checked_ttl, whole_millis};
use super::outcome::lost;
use super::{Claim, LockOptions, LossReason, Owner, Release, Renewal, Renewed};
use crate::model::LockKey;
use crate::{Error, Result};

impl Locks {
    /// Takes a lock for a caller who keeps the owner: no grant object, no renewal, nothing is released by a drop.
    ///
    /// Idempotent: asked again with the same owner it finds the live lease as it stands. So after an unknown answer, ask again.
    ///
    /// # Errors
    /// As [`Locks::acquire`]. [`Kind::Invalid`](crate::Kind::Invalid): `min_hold` or `max_hold` is set; both are the caller's own affair,
    /// see [`Locks::release_keeping`].
    ///
    /// # Cancel safety
    /// A dropped call leaves its place in the queue. What was granted meanwhile stays the owner's until he releases it or it ends.
    pub async fn acquire_as(&self, key: &LockKey, owner: Owner, options: LockOptions) -> Result<Leased> {
        if !options.min_hold.is_zero() || options.max_hold.is_some() {
            return Err(Error::invalid("min_hold and max_hold are kept by whoever keeps the owner"));
        }
        let (options, label) = self.prepared(key, options).await?;
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
    /// [`Kind::Invalid`](crate::Kind::Invalid): a ttl is out of bounds, or more than [`LocksConfig::renew_batch`](super::LocksConfig::renew_batch) leases.
    /// [`Kind::Backend`](crate::Kind::Backend): the validity of all stays as it was.
    pub async fn renew_many(&self, leases: &[(LockKey, Owner, Duration)]) -> Result<Vec<Option<Leased>>> {
        self.is_configured()?;
        if leases.len() > self.core.config.renew_batch {
            return Err(Error::invalid(format!("one call renews at most {} leases", self.core.config.renew_batch)));
        }
        let mut batch = Vec::with_capacity(leases.len());
        for (key, owner, ttl) in leases {
            batch.push(Renewal { key: key.clone(), owner: *owner, ttl: checked_ttl(*ttl)? });
        }
        let shared = &*self.core.shared;
        let answers = shared.bounded(shared.clock.now(), shared.engine.renew(batch)).await;
        match &answers {
            Ok(answers) => {
                answers.iter().for_each(|answer| shared.reports.kept("renew", if answer.is_some() { "done" } else { "lost" }));
            }
            Err(_) => leases.iter().for_each(|_| shared.reports.kept("renew", "error")),
        }
        let answers = answers.map_err(|e| e.during("renew"))?;
        let leased =
            |renewed: Renewed| Leased { token: renewed.token, remaining: renewed.remaining, waited: Duration::ZERO, already_ours: true };
        Ok(answers.into_iter().map(|answer| answer.map(leased)).collect())
    }

    /// Gives back the lease of a caller who keeps the owner; another owner's is left alone.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): whether it is free is unknown; ask again, it ends with its lease anyway.
    pub async fn release_as(&self, key: &LockKey, owner: &Owner) -> Result<Release> {
        self.release_keeping(key, owner, Duration::ZERO).await
    }

    /// As [`Locks::release_as`], but the key stays taken for `keep` from now, up to 24 h, by nobody: the rest of a least hold.
    ///
    /// # Errors
    /// As [`Locks::release_as`]. [`Kind::Invalid`](crate::Kind::Invalid): more than 24 h.
    pub async fn release_keeping(&self, key: &LockKey, owner: &Owner, keep: Duration) -> Result<Release> {
        self.is_configured()?;
        checked_hold(keep)?;
        let shared = &*self.core.shared;
        let claim = Claim { key: key.clone(), owner: *owner, keep: whole_millis(keep) };
        let answer = shared.bounded(shared.clock.now(), shared.engine.release(vec![claim])).await;
        let released = answer.map(|answer| answer.first().copied().unwrap_or(Release::AlreadyLost));
        let result = match &released {
            Ok(Release::Released) => "done",
            Ok(Release::AlreadyLost) => "lost",
            Err(_) => "error",
        };
        shared.reports.kept("release", result);
        let released = released.map_err(|e| e.during("release"))?;
        shared.freed(key);
        Ok(released)
    }
}
