//! Redis and what speaks its protocol (Valkey, Dragonfly): many machines share locks and a cache.
//!
//! Exempt from C3: an acknowledged write lives as long as the server keeps it, and a failover may lose the last ones. Everything that
//! needs more than one command in one step is a script, sent by its hash (C1). Connections carry many callers at once; each call ends
//! within its time (C7), and while the server is known to be away it ends at once.

mod address;
mod cache;
mod cache_names;
mod cache_nodes;
mod cache_pushes;
mod cache_stats;
mod cache_steps;
mod check;
mod connection;
mod error;
mod lock;
mod places;
mod script;
mod server_clock;
mod utopia;

pub use address::Address;
pub use cache::RedisCache;
pub(crate) use lock::NOT_ON_A_CLUSTER;
pub use lock::RedisLocks;
