//! Cache-aside that cannot go stale: the part `cache`.
//!
//! Owns the fill lease: a miss takes one, an invalidation kills it, and the fill of a dead lease is refused. So a slow reader never puts
//! back a row that was changed and purged while it read (INV-2). Two rules for callers: **begin before the source is read, invalidate
//! after the outermost commit** (or hold a write guard across it).
//!
//! Refuses: to fill without a lease (C9), to wait or queue without a bound (C7), input over its limits (C10). A lost fill is an
//! outcome (C8). The cache is exempt from C3: what it loses is loaded again.
//!
//! | file | holds |
//! |---|---|
//! | `handle` | [`Cache`], what a user calls |
//! | `options` | [`CacheOptions`] with their limits |
//! | `field` | [`FieldRef`], the same for one field of a key |
//! | `best_effort` | [`BestEffort`], saving without a lease |
//! | `typed` | [`Typed`], hits that nobody decodes |
//! | `batch` | the same for many keys in one call |
//! | `load` | how a value is found or loaded, and filled |
//! | `fetched` | what a load gives back, and what a loader may say |
//! | `flight` | one load a key and process, and who may take its value |
//! | `bulkhead` | how many loads run at once |
//! | `lease` | [`Lookup`] and [`Lease`], the low level |
//! | `guard` | [`WriteGuard`]: no fills while a writer is at work |
//! | `wire` | the same with bytes and opaque leases, for a server without state |
//! | `wire_ops` | many acts on keys in one request |
//! | `codec` | what an entry looks like in the engine |
//! | `engine` | [`CacheEngine`], the trait that an engine implements |
//! | `calls` | the one way to the engine, each call bounded in time |
//! | [`layers`] | engines around engines |
//! | `slot` | where a value lies, and who may fill or guard it |
//! | `outcome` | what an engine keeps and answers |
//! | `detach` | calls that go on when their future is dropped |

mod batch;
mod best_effort;
mod bulkhead;
mod calls;
mod codec;
mod detach;
mod engine;
mod fetched;
mod field;
mod flight;
mod guard;
mod handle;
pub mod layers;
mod lease;
mod load;
mod options;
mod outcome;
mod slot;
mod typed;
mod wire;
mod wire_ops;

pub use best_effort::{BestEffort, Saved};
#[cfg(feature = "redis")]
pub(crate) use detach::in_background;
pub use engine::{CacheEngine, Decoded, Filling, Near};
pub use fetched::{Fetched, Fill, How, LoadError, Unfilled};
pub use field::FieldRef;
pub use guard::WriteGuard;
pub use handle::Cache;
pub(crate) use handle::{Follower, WeakCache};
pub use lease::{Busy, Lease, Lookup, Stale};
pub use options::{CacheOptions, Layout};
pub use outcome::{
    Age, BusyReason, CacheStats, Entry, Expiry, Filled, Flushed, GuardEnd, Invalidation, Life, Now, Promise, Reserved, Scope, Touched,
};
pub use slot::{GuardOwner, Nonce, Slot};
pub use typed::Typed;
pub use wire::{WireHit, WireLookup};
pub use wire_ops::{WireAct, WireDone, WireOp};

#[cfg(test)]
mod tests;
