//! Versioned objects: each write says what it is based on, and a write that is based on stale knowledge is refused.
//!
//! Owns the comfort over [`Commit`](crate::commit::Commit), which is the only way to change a store; the retry of `update`; lists;
//! watching; and the delivery of cache invalidations. Keeps C1, C2, C8; INV-2 together with the cache, INV-3, INV-4.
//!
//! # Examples: the second writer is refused and sees what it missed
//! ```
//! # use onward::{Onward, store::Put};
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let store = Onward::open("memory:").await?.store();
//! let Put::Committed(first) = store.create(("project", "42"), &1).await? else { panic!() };
//! let Put::Committed(_) = store.replace(("project", "42"), &2, first.version).await? else { panic!() };
//! let Put::Conflict(lost) = store.replace(("project", "42"), &3, first.version).await? else { panic!() };
//! assert_eq!(lost.current.unwrap().value, 2);
//! # Ok::<(), onward::Error>(()) }).unwrap();
//! ```

mod collection;
mod deliver;
mod export;
mod handle;
mod import;
mod list;
mod options;
mod past;
mod update;
mod watch;

pub use crate::commit::engine::At;
pub use collection::{Collection, TypedPage};
pub use deliver::CacheSink;
pub(crate) use deliver::Deliverer;
pub use export::{Export, ExportOptions};
pub use handle::Store;
pub use import::{Import, ImportRow, Imported};
pub use list::{List, Page};
pub use options::{Delete, Put, Updated, WriteOptions};
pub use past::HistoryPage;
pub use update::Update;
pub use watch::{From, Watch, Watcher};

#[cfg(test)]
mod tests;
