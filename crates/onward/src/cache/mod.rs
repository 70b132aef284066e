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
//! | `handle` | [`Cache`] and [`FieldRef`], what a user calls |
//! | `options` | [`CacheOptions`] with their limits |
//! | `load` | how a value is found or loaded, and filled |
//! | `flight` | one load a key and process, and who may take its value |
//! | `bulkhead` | how many loads run at once |
//! | `lease` | [`Lookup`] and [`Lease`], the low level |
//! | `guard` | [`WriteGuard`]: no fills while a writer is at work |
//! | `wire` | the same with bytes and opaque leases, for a server without state |
//! | `codec` | what an entry looks like in the engine |
//! | `engine` | [`CacheEngine`], the trait that an engine implements |
//! | `detach` | calls that go on when their future is dropped |

mod bulkhead;
mod codec;
mod detach;
mod engine;
mod flight;
mod guard;
mod handle;
mod lease;
mod load;
mod options;
mod wire;

pub use engine::{BusyReason, CacheEngine, CacheStats, Entry, Filled, GuardEnd, GuardOwner, Invalidation, Nonce, Now, Reserved, Slot};
pub use guard::WriteGuard;
pub use handle::{Cache, FieldRef};
pub(crate) use handle::{Follower, WeakCache};
pub use lease::{Busy, Lease, Lookup};
pub use load::{Fetched, Fill, How, LoadError, Unfilled};
pub use options::CacheOptions;
pub use wire::{WireHit, WireLookup};

#[cfg(test)]
mod tests;
