//! Memory: the reference model, for tests and single processes. Exempt from C3 and C4: a restart loses everything.

mod audit;
mod cache;
mod cache_records;
mod cache_shard;
mod closed_locks;
mod commit;
mod lock;

pub use cache::MemoryCache;
pub use closed_locks::ClosedLocks;
pub use commit::MemoryStore;
pub use lock::MemoryLocks;
