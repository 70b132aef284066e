//! What a call may choose, and what a process sets once. Everything is checked before anything is sent (C10).

use std::time::Duration;

use crate::commit::CommitQueue;
use crate::observe::{SharedObserver, Silent};
use crate::time::Clock;
use crate::{Error, Result};

/// Shortest and longest lease, and the longest wait.
const TTL_LEAST: Duration = Duration::from_millis(10);
const TTL_MOST: Duration = Duration::from_secs(24 * 3_600);
const WAIT_MOST: Duration = TTL_MOST;
const HOLD_MOST: Duration = TTL_MOST;
const HOLDER_BYTES: usize = 64;
const TARGETS: usize = 64;
const SCOPES: usize = 64;
const SCOPE_BYTES: usize = 64;

/// What to do when the wait is over and another still holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnContention {
    /// Answer [`Outcome::Skipped`](super::Outcome::Skipped): only for work that every caller would do the same.
    Skip,
    /// Answer an error of kind `Contended`.
    Fail,
}

/// What to do when the engine fails before a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Run the body without the lock; the outcome says so.
    Open,
    /// Answer the error; the body does not run.
    Closed,
}

/// Whether a grant is renewed while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// Every third of the ttl, in the background.
    Auto,
    /// Never: the hold is at most the ttl, unless [`Grant::renew`](super::Grant::renew) is called.
    Off,
}

/// What to do with a body whose lease is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// Let it run to its end; the outcome says so.
    Report,
    /// Drop it at its next await and answer an error of kind `Lost`.
    Cancel,
}

/// Whether a call may be skipped from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldMemory {
    /// A key that was found taken within the last 50 ms is taken: the engine is not asked again. For calls that skip and do not wait.
    Use,
    /// The engine is asked every time.
    Ignore,
}

/// The choices of one call.
#[derive(Clone, Debug)]
pub struct LockOptions {
    pub(super) ttl: Duration,
    pub(super) wait: Duration,
    pub(super) on_contention: OnContention,
    pub(super) on_error: OnError,
    pub(super) renew: Renew,
    pub(super) min_hold: Duration,
    pub(super) max_hold: Option<Duration>,
    pub(super) on_loss: OnLoss,
    pub(super) held_memory: HeldMemory,
    pub(super) holder: Option<String>,
    pub(super) target: Option<String>,
}

impl LockOptions {
    /// For idempotent work that every caller would do the same: 5 s lease, no wait, skip, open on an engine error.
    pub fn skip() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            wait: Duration::ZERO,
            on_contention: OnContention::Skip,
            on_error: OnError::Open,
            renew: Renew::Auto,
            min_hold: Duration::ZERO,
            max_hold: None,
            on_loss: OnLoss::Report,
            held_memory: HeldMemory::Use,
            holder: None,
            target: None,
        }
    }

    /// For work that must not be dropped: 10 s lease, 3 s wait, then `Contended`; closed on an engine error.
    pub fn fail() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            wait: Duration::from_secs(3),
            on_contention: OnContention::Fail,
            on_error: OnError::Closed,
            ..Self::skip()
        }
    }

    /// Sets the length of the lease: 10 ms to 24 h, rounded up to whole milliseconds.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the longest time in the queue: 0 to 24 h.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sets what happens when the wait is over.
    #[must_use]
    pub fn with_on_contention(mut self, choice: OnContention) -> Self {
        self.on_contention = choice;
        self
    }

    /// Sets what happens when the engine fails.
    #[must_use]
    pub fn with_on_error(mut self, choice: OnError) -> Self {
        self.on_error = choice;
        self
    }

    /// Sets whether the grant is renewed in the background.
    #[must_use]
    pub fn with_renew(mut self, choice: Renew) -> Self {
        self.renew = choice;
        self
    }

    /// Sets for how long the key stays taken at least, 0 to 24 h, counted from the grant: an earlier release keeps it taken for the rest.
    ///
    /// May be longer than the ttl. After a crash or a loss the key is free as soon as its lease ends.
    #[must_use]
    pub fn with_min_hold(mut self, least: Duration) -> Self {
        self.min_hold = least;
        self
    }

    /// Sets for how long the lock is held at most, counted from the grant: then it is lost, however often it was renewed.
    #[must_use]
    pub fn with_max_hold(mut self, most: Duration) -> Self {
        self.max_hold = Some(most);
        self
    }

    /// Sets whether the call may be skipped from memory.
    #[must_use]
    pub fn with_held_memory(mut self, choice: HeldMemory) -> Self {
        self.held_memory = choice;
        self
    }

    /// Whether a busy answer of the last moment is as good as a new one.
    pub(super) fn takes_memory(&self) -> bool {
        self.held_memory == HeldMemory::Use && self.on_contention == OnContention::Skip && self.wait.is_zero()
    }

    /// Sets what happens to a body whose lease is lost.
    #[must_use]
    pub fn with_on_loss(mut self, choice: OnLoss) -> Self {
        self.on_loss = choice;
        self
    }

    /// Sets the text that tells people who holds the lock: 1..=64 printable ASCII bytes; `host:pid` if unset.
    #[must_use]
    pub fn with_holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// Sets the label in metrics; one of [`LocksConfig::targets`].
    #[must_use]
    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Refuses what is out of bounds and rounds the ttl up to whole milliseconds.
    pub(super) fn checked(mut self) -> Result<Self> {
        self.ttl = checked_ttl(self.ttl)?;
        if self.wait > WAIT_MOST {
            return Err(Error::invalid("wait is at most 24 h"));
        }
        checked_hold(self.min_hold)?;
        if self.max_hold.is_some_and(|most| most.is_zero()) {
            return Err(Error::invalid("max_hold is above zero"));
        }
        if let Some(holder) = &self.holder {
            let printable = holder.bytes().all(|b| (0x20..0x7f).contains(&b));
            if holder.is_empty() || holder.len() > HOLDER_BYTES || !printable {
                return Err(Error::invalid("holder is 1..=64 printable ASCII bytes"));
            }
        }
        Ok(self)
    }
}

pub(super) fn checked_ttl(ttl: Duration) -> Result<Duration> {
    if !(TTL_LEAST..=TTL_MOST).contains(&ttl) {
        return Err(Error::invalid("ttl is 10 ms to 24 h"));
    }
    Ok(whole_millis(ttl).min(TTL_MOST))
}

/// Refuses to keep a key taken for more than 24 h.
pub(super) fn checked_hold(least: Duration) -> Result<()> {
    if least > HOLD_MOST { Err(Error::invalid("min_hold is at most 24 h")) } else { Ok(()) }
}

/// Rounds up to whole milliseconds, as engines count.
pub(super) fn whole_millis(time: Duration) -> Duration {
    let over = u64::from(!time.subsec_nanos().is_multiple_of(1_000_000));
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_add(over))
}

/// What a holder takes off its own view of the lease: clock rates differ a little, timers fire late.
pub(super) fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// The settings of a process.
#[derive(Clone, Debug)]
pub struct LocksConfig {
    /// First segment of every typed key: `[a-z0-9_-]{1,32}`.
    pub namespace: String,
    /// The kill switch: `false` contacts no engine, bodies run unlocked and the outcome says so. Locking is on if this and the live switch
    /// in the store are, see [`Locks::switch`](super::Locks::switch).
    pub enabled: bool,
    /// The closed set of labels: at most 64 of `[a-z][a-z0-9_]{0,31}`; a collection in the set labels itself, all else is `other`.
    pub targets: Vec<String>,
    /// The closed set of scopes that are labels in metrics: at most 64 of at most 64 bytes; other scopes have no label.
    pub scope_labels: Vec<String>,
    /// How long one engine call may take.
    pub command_timeout: Duration,
    /// Most waiting callers of one key.
    pub max_waiters_per_key: usize,
    /// Most waiting callers of this process.
    pub max_waiters: usize,
    /// Most releases that wait for the worker; what overflows ends with its lease.
    pub drop_queue: usize,
    /// Most grants that one engine call renews or releases.
    pub renew_batch: usize,
    /// Most keys that are remembered as taken; what is forgotten costs an engine call.
    pub held_memory_entries: usize,
    /// Least time between two reports of the same action and target.
    pub report_every: Duration,
    /// The write path of the store beside these locks, if there is one: for [`Scoped::set`](super::Scoped::set), the live switch, and
    /// [`Locks::break_lock`](super::Locks::break_lock).
    pub commits: Option<CommitQueue>,
    /// The clock that decides about validity.
    pub clock: Clock,
    /// Who is told what happened.
    pub observer: SharedObserver,
}

impl Default for LocksConfig {
    fn default() -> Self {
        Self {
            namespace: "main".to_owned(),
            enabled: true,
            targets: Vec::new(),
            scope_labels: Vec::new(),
            command_timeout: Duration::from_secs(1),
            max_waiters_per_key: 10_000,
            max_waiters: 100_000,
            drop_queue: 10_000,
            renew_batch: 200,
            held_memory_entries: 65_536,
            report_every: Duration::from_secs(60),
            commits: None,
            clock: Clock::system(),
            observer: std::sync::Arc::new(Silent),
        }
    }
}

impl LocksConfig {
    pub(super) fn check(&self) -> Result<()> {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if self.namespace.is_empty() || self.namespace.len() > 32 || !self.namespace.bytes().all(|b| word(b) || b == b'-') {
            return Err(Error::invalid_key("namespace of locks is [a-z0-9_-]{1,32}"));
        }
        let label =
            |text: &String| text.len() <= 32 && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && text.bytes().all(word);
        if self.targets.len() > TARGETS || !self.targets.iter().all(label) {
            return Err(Error::invalid("targets are at most 64 of [a-z][a-z0-9_]{0,31}"));
        }
        let scope = |text: &String| !text.is_empty() && text.len() <= SCOPE_BYTES && !text.chars().any(char::is_control);
        if self.scope_labels.len() > SCOPES || !self.scope_labels.iter().all(scope) {
            return Err(Error::invalid("scope_labels are at most 64 of 1..=64 bytes"));
        }
        if self.command_timeout.is_zero() || self.drop_queue == 0 || self.renew_batch == 0 {
            return Err(Error::invalid("command_timeout, drop_queue and renew_batch are above zero"));
        }
        Ok(())
    }
}
