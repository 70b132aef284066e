//! The kill switch: locking is on if the configuration and the record in the store say so.
//!
//! The record is an object of the store, since the store can be reached when the lock engine cannot. Each process looks at it once a
//! second at most, and only when somebody asks for a lock; what it saw last stays while the store is away. Held grants stay valid over a
//! flip.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LocksConfig;
use crate::commit::{Commit, CommitOutcome, CommitQueue};
use crate::model::{Data, Entry, Key, Payload};
use crate::time::{Clock, Moment, Timestamp};
use crate::{Code, Error, Kind, Result, retry};

use super::admin::{Reason, admin_chain};

/// How often a process looks at most.
const EVERY: Duration = Duration::from_secs(1);
/// How long a look may hold up the call that makes it.
const LOOK_MOST: Duration = Duration::from_millis(250);
/// The kind of the record; its name is the namespace of the locks.
const KIND: &str = "onward.lock-switch";

/// A position of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Locks are taken.
    On,
    /// No lock is taken; bodies run unlocked and say so.
    Off,
}

/// What somebody set the live switch to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// Whether locking is on.
    pub enabled: bool,
    /// Who set it; `None`: they did not say.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// The kill switch, both halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchState {
    /// What the configuration of this process says.
    pub configured: Switch,
    /// What the store says; `None`: nobody ever set it, or there is no store.
    pub live: Option<SwitchRecord>,
}

impl SwitchState {
    /// Returns the effective position: on if both halves are.
    pub fn effective(&self) -> Switch {
        let live = self.live.as_ref().is_none_or(|live| live.enabled);
        if self.configured == Switch::On && live { Switch::On } else { Switch::Off }
    }

    /// Says which half decides: `configuration`, `switch`, or `default` if nobody ever set one.
    pub fn source(&self) -> &'static str {
        match (self.configured, &self.live) {
            (Switch::Off, _) => "configuration",
            (Switch::On, Some(_)) => "switch",
            (Switch::On, None) => "default",
        }
    }
}

/// Both halves as this process knows them.
#[derive(Debug)]
pub(super) struct KillSwitch {
    configured: bool,
    name: String,
    commits: Option<CommitQueue>,
    clock: Clock,
    on: AtomicBool,
    /// Nanoseconds of the moment from which on somebody looks again.
    look_at: AtomicU64,
}

impl KillSwitch {
    pub(super) fn new(config: &LocksConfig) -> Self {
        Self {
            configured: config.enabled,
            name: config.namespace.clone(),
            commits: config.commits.clone(),
            clock: config.clock.clone(),
            on: AtomicBool::new(true),
            look_at: AtomicU64::new(0),
        }
    }

    pub(super) fn is_configured(&self) -> bool {
        self.configured
    }

    /// Whether locking is on, as far as this process knows.
    pub(super) fn is_on(&self) -> bool {
        self.configured && self.on.load(Ordering::SeqCst)
    }

    /// Looks at the record if that is due; returns whether the live switch was flipped since the last look.
    pub(super) async fn look(&self, now: Moment) -> bool {
        let Some(commits) = self.commits.as_ref().filter(|_| self.configured) else { return false };
        let due = self.look_at.load(Ordering::SeqCst);
        let next = (now + EVERY).as_nanos();
        if now.as_nanos() < due || self.look_at.compare_exchange(due, next, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        match retry::deadline(&self.clock, now + LOOK_MOST, self.read(commits)).await {
            Some(Ok(record)) => self.learn(record.is_none_or(|record| record.enabled)),
            // The last known state stays.
            Some(Err(_)) | None => false,
        }
    }

    fn learn(&self, on: bool) -> bool {
        self.on.swap(on, Ordering::SeqCst) != on
    }

    fn key(&self) -> Result<Key> {
        Key::new(KIND, &self.name)
    }

    async fn read(&self, commits: &CommitQueue) -> Result<Option<SwitchRecord>> {
        match commits.engine().get(&self.key()?).await? {
            Some(object) => object.value.read().map(Some).map_err(|e| Error::integrity("the lock switch cannot be read").with_source(e)),
            None => Ok(None),
        }
    }

    /// Reads both halves now.
    pub(super) async fn state(&self) -> Result<SwitchState> {
        let live = match &self.commits {
            Some(commits) => self.read(commits).await?,
            None => None,
        };
        Ok(SwitchState { configured: if self.configured { Switch::On } else { Switch::Off }, live })
    }

    /// Writes the record and its audit entry in one commit; returns the record before and after.
    pub(super) async fn set(&self, to: Switch, reason: &Reason) -> Result<(Option<SwitchRecord>, SwitchRecord)> {
        let Some(commits) = &self.commits else {
            return Err(Error::unsupported("the live switch needs a store; these locks have none"));
        };
        if to == Switch::On && !self.configured {
            let pinned = "locking is switched off by the configuration; the live switch cannot switch it on";
            return Err(Error::new(Kind::Conflict, Code::StateConflict, pinned));
        }
        let old = self.read(commits).await?;
        let record = SwitchRecord {
            enabled: to == Switch::On,
            by: reason.actor().map(str::to_owned),
            at: self.clock.wall(),
            reason: reason.text().to_owned(),
        };
        let was = old.as_ref().is_none_or(|old| old.enabled);
        let data = serde_json::json!({"enabled": record.enabled, "was": was, "reason": record.reason});
        let entry = reason.sign(Entry::new("lock.switch").on(format!("locks/{}", self.name)).with_data(Data::json(&data)?));
        let commit = Commit::new().overwrite(self.key()?, Payload::json(&record)?).audit(admin_chain()?, entry);
        match commits.submit(commit).await? {
            CommitOutcome::Committed(_) => Ok((old, record)),
            CommitOutcome::Conflict(_) | CommitOutcome::Fenced { .. } => Err(Error::integrity("a blind write was refused")),
        }
    }

    /// Takes over what this process itself has written; returns whether that flipped the switch.
    pub(super) fn was_set(&self, on: bool) -> bool {
        self.look_at.store((self.clock.now() + EVERY).as_nanos(), Ordering::SeqCst);
        self.learn(on)
    }
}
