//! Locks: one caller at a time works on a key, and a late one is refused.
//!
//! Owns: waiting, the holder's own view of validity, renewal, release, failure policy, outcomes. Refuses: shared locks, several keys at
//! once, re-entrance (a second acquire by the holder waits like any other). An engine carries out single steps and decides nothing.
//!
//! A lock is a lease: it ends by itself, so a dead holder blocks nobody for long. A lease cannot stop a holder that was paused and wakes
//! up late; so each grant has a [`FencingToken`](crate::model::FencingToken) and the store refuses older ones (INV-1). The lock saves
//! work; the token and compare-and-swap give safety. Contracts: C5 (no two machines' clocks are compared), C6 (each future may be
//! dropped), C7 (each wait has a deadline, each queue a bound), C8, C9; INV-8: a body runs at most once.
//!
//! # Examples: losing the race is an outcome
//! ```
//! use std::sync::Arc;
//! use onward::engine::memory::MemoryLocks;
//! use onward::lock::{Locks, LocksConfig, Outcome};
//! use onward::time::Clock;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> onward::Result<()> {
//! let locks = Locks::new(Arc::new(MemoryLocks::new(Clock::system())), LocksConfig::default())?;
//! let eu = locks.scope("eu-1");
//! let outcome = eu
//!     .run("projects", "42", |_| async {
//!         // Held here: the same call, made now, is skipped.
//!         eu.run("projects", "42", |_| async { unreachable!() }).await
//!     })
//!     .await?;
//! assert!(matches!(outcome, Outcome::Ran(Ok(Outcome::Skipped { held_for: Some(_) }))));
//! # Ok(()) }
//! ```

mod admin;
mod engine;
mod grant;
mod handle;
mod held;
mod kept;
mod memory;
mod obtain;
mod options;
mod outcome;
mod owner;
mod release;
mod renewal;
mod report;
mod shared;
mod switch;
mod wait;

pub use admin::{Broken, Health, Listing, Reason, Record};
pub use engine::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Place, Renewal, Renewed, Tried, Waiters};
pub use grant::{Grant, GrantView};
pub use handle::{Leased, LockStatus, Locks, Scoped};
pub use options::{HeldMemory, LockOptions, LocksConfig, OnContention, OnError, OnLoss, Renew};
pub use outcome::{LossReason, Outcome, Release, Why};
pub use owner::Owner;
pub use switch::{Switch, SwitchRecord, SwitchState};

#[cfg(test)]
mod tests;
