//! Onward refuses writes that are based on stale knowledge.
//!
//! One bug in four shapes: a paused lock holder writes, a save erases a version that it never saw, a slow reader refills a cache that was
//! just purged, a log is forked. Each is refused here by the store, at the moment of the write.
//!
//! - [`store`]: versioned objects, compare-and-swap, atomic commits, a gap-free change feed
//! - [`lock`]: leases that end by themselves, with fencing tokens that the store checks
//! - [`cache`]: fill leases that an invalidation kills
//! - [`audit`]: hash-chained entries, and a verifier that trusts nobody
//! - [`guarded`]: all four in one call that survives a crash at any point
//!
//! Everything that a caller may build on is a contract, C1 to C10, or an invariant, INV-1 to INV-8; `ARCHITECTURE.md` says which file
//! keeps each and which test would catch its loss. An [`Error`] is an instruction: its [`Kind`] says what to do, its [`Effect`] whether
//! something may have been applied. A lost race is no error but an outcome, with the current state in it.
//!
//! # Examples: the late write is refused
//! ```
//! # use onward::{Onward, store::Put};
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let onward = Onward::open("memory:").await?; // or sqlite:./onward.db
//! let store = onward.store();
//! let Put::Committed(first) = store.create(("project", "42"), &"draft".to_owned()).await? else { panic!() };
//! store.update(("project", "42"), |text: &mut String, _| Ok(text.push_str(" 2"))).await?;
//! let Put::Conflict(lost) = store.replace(("project", "42"), &"draft 1".to_owned(), first.version).await? else { panic!() };
//! assert_eq!(lost.current.unwrap().value, "draft 2");
//! # Ok::<(), onward::Error>(()) }).unwrap();
//! ```

pub mod audit;
pub mod cache;
pub mod commit;
pub mod engine;
pub mod error;
pub mod guarded;
pub mod lock;
pub mod model;
pub mod observe;
mod open;
pub mod random;
pub mod retry;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;

pub use error::{Code, Effect, Error, Kind, Refusal, Result};
pub use open::{Config, Migration, Onward, Url};

/// The examples of README.md, which must compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
