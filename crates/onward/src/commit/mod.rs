//! The one write path: a [`Commit`] is judged under the writer's right and applied whole or not at all.
//!
//! One queue takes everything that waits into one transaction (group commit). `decide` is a pure function that every
//! engine shares; an engine reads rows and carries out plans, nothing else. No answer leaves before the batch's COMMIT is decided,
//! not even a refusal, since a refusal may rest on a neighbour's write.
//!
//! Keeps C1, C2, C3, C4, C6, C7, C8, C10; INV-1 (fences), INV-3, INV-4, INV-5.

mod batcher;
mod builder;
pub(crate) mod decide;
mod document;
pub mod engine;
mod feed;
mod judge;
mod line;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod note;
mod outcome;
mod patch;
mod queue;
mod recent;
mod retention;

pub use builder::{Commit, Guard, Overwrite, Window, WriteCondition};
pub use feed::{Change, ChangeOp, Feed, FeedItem, Past, Record};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use note::Note;
pub use outcome::{CommitOutcome, Conflict, Delivery, EntryReceipt, Reason, Receipt, Written};
pub use patch::Patch;
pub use queue::{CommitQueue, QueueOptions};
pub use retention::{Prune, Pruned, ROW_BYTES, Retention};

#[cfg(test)]
mod tests;
