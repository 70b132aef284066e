//! What a verifier reads: windows of rows, each one consistent view of the chain.

use crate::Result;
use crate::model::Row;

/// A blocking view of one chain, as its storage holds it.
///
/// An implementation decides nothing: it hands out rows as they stand, also those that no writer of ours could have left.
pub trait Source {
    /// Reads the chain's origin, its head and the next rows, all in one consistent view.
    ///
    /// Rows come in the order of their seq, starting with the first that is not below `from`: at most `max_rows`, and no more after their
    /// bytes reach `max_bytes`, but always one if there is one. `None`: the storage knows no such chain.
    ///
    /// # Errors
    /// Whatever kept the storage from reading: "could not run", never a verdict.
    fn window(&self, from: i64, max_rows: usize, max_bytes: usize) -> Result<Option<Window>>;
}

/// One consistent view of a part of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The chain's identity in the world, as the chain's row claims it.
    pub origin: String,
    /// The chain's head, if it has one.
    pub head: Option<HeadRow>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether the view holds no row after these.
    pub complete: bool,
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
