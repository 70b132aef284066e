//! What a verifier reads: the rows of a chain, each read one consistent view.

use std::ops::ControlFlow;

use crate::Result;
use crate::model::RowRef;

/// A blocking view of one chain, as its storage holds it.
///
/// An implementation decides nothing: it hands out rows as they stand, also those that no writer of ours could have left.
pub trait Source: Send {
    /// Reads the chain's origin and head, and hands rows to `each`, all from one consistent view.
    ///
    /// Rows come in the order of their seq, starting with the first that is not below `from`, until `each` breaks or there are no more.
    /// `None`: the storage knows no such chain.
    ///
    /// # Errors
    /// Whatever kept the storage from reading: "could not run", never a verdict.
    fn read(&self, from: i64, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>>;

    /// Opens the same chain once more, for another thread.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn another(&self) -> Result<Box<dyn Source>>;
}

/// What one view says of a chain beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The chain's identity in the world, as the chain's row claims it.
    pub origin: String,
    /// The chain's head, if it has one.
    pub head: Option<HeadRow>,
}

/// The row of a chain's head, exactly as a database holds it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeadRow {
    /// The column `seq`.
    pub seq: i64,
    /// The column `hash`.
    pub hash: Vec<u8>,
    /// The column `frontier`.
    pub frontier: Vec<u8>,
    /// The column `at`.
    pub at: i64,
}
