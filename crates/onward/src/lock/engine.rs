//! What a lock engine owes: single atomic steps on leases. It decides nothing.

use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::{Owner, Release};
use crate::Result;
use crate::model::{FencingToken, LockKey};
use crate::observe::Finding;
use crate::time::Timestamp;

/// The steps that an engine carries out; waiting, renewal, policy and validity stand above it.
///
/// Each call is one atomic step (C1) and every step compares the owner. Lease time is the engine's own clock (C5) and counts suspend. A
/// future that was polled may be dropped at any await: the step is then applied whole or not at all (C6). An error says by its
/// [`Effect`](crate::Effect) whether the step may have been applied.
pub trait LockEngine: Debug + Send + Sync + 'static {
    /// Returns the engine's name, such as `sqlite`.
    fn name(&self) -> &'static str;

    /// Returns what this engine can do.
    fn capabilities(&self) -> Capabilities;

    /// Takes the key if it is free: no lease, or one that has ended.
    ///
    /// A live lease of the same owner is answered as it stands, not extended, so that a repeated request finds its own grant. A new
    /// grant's token is [`above`](crate::model::above) every token of this key before it, over restarts and expiry (C4).
    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>>;

    /// Extends each live lease whose owner matches to at least `now + ttl`; answers in the order of the batch, `None` for a lease that is
    /// not (or no longer) the owner's. Creates and shortens nothing.
    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>>;

    /// Ends each lease whose owner matches; answers in the order of the batch. A lease that had ended is `AlreadyLost`.
    ///
    /// With [`Claim::keep`] the key stays taken for that long from now, longer or shorter than the lease would have run, under an owner
    /// that nobody knows: nothing renews or releases it any more.
    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>>;

    /// Reads the live lease of a key.
    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>>;

    /// Reads live leases in the order of their keys' bytes: those that start with `prefix` and come after `after`, at most `limit`.
    ///
    /// A hint, not a snapshot: leases come and go between two pages.
    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>>;

    /// Gives a key that somebody holds to the asker, with a new token, whoever holds it; `None`: nobody does, nothing changed.
    ///
    /// A live lease of the asker himself is answered as it stands, as by [`LockEngine::try_acquire`].
    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>>;

    /// Raises the token counter to at least `newest`: every later token is above it.
    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>>;

    /// Looks at what the engine stands on, such as a server; changes nothing. One beside a store has nothing to add.
    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Returns whether the engine keeps a queue of processes for each key and wakes them in turn; see [`Place::Queue`].
    fn has_queue(&self) -> bool {
        false
    }

    /// Wakes these waiters from now on: an engine with a queue, when the key may be theirs.
    fn listen(&self, _waiters: Weak<dyn Waiters>) {}

    /// Gives up this process's places in the queues of these keys, and what was handed over to it meanwhile.
    fn leave(&self, _keys: Vec<LockKey>) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Those who wait for keys in this process. Called from an engine's own task: it must not block.
pub trait Waiters: Debug + Send + Sync + 'static {
    /// Lets the first who waits for a key look again; false: nobody waits for it.
    fn wake(&self, key: &LockKey) -> bool;

    /// Lets everybody look again: wakes may have been missed.
    fn wake_all(&self);
}

/// Whether a request for a key that is taken stands in line for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It only looks.
    None,
    /// The process takes a place in the engine's queue, if the engine has one and the process has none yet: one for all its callers.
    Queue {
        /// Whether the asker takes [`Tried::Handed`], too.
        short: bool,
    },
}

/// What an engine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether a lock excludes other processes.
    pub excludes_processes: bool,
    /// How often the first in a queue looks again while the key is taken; a release in this process is known at once.
    pub look_again: Duration,
}

/// A request for a key.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The key.
    pub key: LockKey,
    /// Who asks.
    pub owner: Owner,
    /// Text that tells people who holds it.
    pub holder: Arc<str>,
    /// The length of the lease, whole milliseconds.
    pub ttl: Duration,
    /// What to do if it is taken.
    pub place: Place,
}

/// The answer to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The key is the asker's.
    Granted {
        /// The token of this grant.
        token: FencingToken,
        /// How long the lease runs from when the engine looked.
        remaining: Duration,
        /// Whether it was the asker's before this step.
        already_ours: bool,
    },
    /// The key was handed over to this process, which asked for it before: a lease that is shorter than what was asked for, under an owner
    /// that the engine drew. Nothing was sent. The asker renews it, as every lease, in time.
    Handed {
        /// Whose it is.
        owner: Owner,
        /// The token of this grant.
        token: FencingToken,
        /// How long the lease surely runs from now.
        remaining: Duration,
    },
    /// Another owner has a live lease.
    Busy {
        /// How long it can still run; `None`: no end is known.
        remaining: Option<Duration>,
    },
    /// Another owner has a live lease, and this process has a place in the engine's queue.
    Queued {
        /// How long the lease can still run; `None`: no end is known.
        remaining: Option<Duration>,
        /// When to look again if nothing wakes the process before.
        look_in: Duration,
    },
}

/// A lease to extend.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The key.
    pub key: LockKey,
    /// Whose lease it must be.
    pub owner: Owner,
    /// How long it shall run from now, whole milliseconds.
    pub ttl: Duration,
}

/// A lease that was extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The token of the grant, unchanged.
    pub token: FencingToken,
    /// How long it runs from when the engine looked.
    pub remaining: Duration,
}

/// A lease to end.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The key.
    pub key: LockKey,
    /// Whose lease it must be.
    pub owner: Owner,
    /// How long the key stays taken all the same; zero: it is free at once.
    pub keep: Duration,
}

/// A live lease as the engine has it.
#[derive(Clone, Debug)]
pub struct LeaseRow {
    /// Whose it is; secret.
    pub owner: Owner,
    /// Text that tells people who holds it.
    pub holder: Arc<str>,
    /// The token of the grant; `None`: a client of another kind holds it, and has none.
    pub token: Option<FencingToken>,
    /// How long it can still run; `None`: no end is known.
    pub remaining: Option<Duration>,
    /// When it was granted, for people; of a client of another kind, when the engine looked.
    pub since: Timestamp,
}
