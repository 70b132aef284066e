//! The guarded write: lock, compare-and-swap, fencing token and audit entry in one transaction, then the cache.
//!
//! Whatever dies in between, nothing is half done: before COMMIT nothing happened, after it the change feed invalidates the cache and
//! the lease ends by itself. Under the lock the compare-and-swap rarely loses; without it (locking switched off or the engine away and
//! the caller's choice to go on) it still keeps every update (INV-3).
//!
//! # Examples: one call moves object, chain and cache
//! ```
//! # use onward::{Onward, model::ChainName};
//! # use serde::{Serialize, Deserialize};
//! # #[derive(Serialize, Deserialize, PartialEq, Debug)] struct Project { open: bool }
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let onward = Onward::open("memory:").await?;
//! onward.guard("projects", "42").create(&Project { open: true }).commit().await?;
//! let done = onward.guard("projects", "42").by("user:7")
//!     .update(|p: &mut Project| p.open = false)
//!     .audit("project.update").invalidate(["project:42"])
//!     .commit().await?;
//! assert!(done.locked && done.audit.is_some());
//! assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value, Project { open: false });
//! # Ok::<(), onward::Error>(()) }).unwrap();
//! ```

mod set;
mod write;

pub use write::{Guarded, GuardedWrite};

#[cfg(test)]
mod tests;
