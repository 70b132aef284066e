//! What a verifier reads: the rows of a chain, each read one consistent view.

use std::io::Read;
use std::ops::ControlFlow;

use crate::Result;
use crate::model::{Row, RowRef};

/// Takes personal data as they stand: seq, salt, value.
pub type EachPersonal<'a> = dyn FnMut(i64, &[u8], &[u8]) + 'a;

/// A blocking view of one chain, as its storage holds it.
///
/// An implementation decides nothing: it hands out rows as they stand, also those that no writer of ours could have left.
pub trait Source: Send {
    /// Reads the chain's origin and head, the control entries that are asked for, and hands rows to `each`, all from one consistent view.
    ///
    /// Rows come in the order of their seq, starting with the first that is not below `from`, until `each` breaks or there are no more.
    /// `None`: the storage knows no such chain.
    ///
    /// # Errors
    /// Whatever kept the storage from reading: "could not run", never a verdict.
    fn read(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>>;

    /// Reads a chunk of a skeleton: the payload of the object of kind `onward.skeleton` with this name. It never changes.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn skeleton(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Hands out the personal data that stand beside the entries `from..=to`: seq, salt, value, as they stand.
    ///
    /// `false`: they are not to be seen from here, as in a file. It may read a later state than [`Source::read`] did before it.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn personal(&self, from: i64, to: i64, each: &mut EachPersonal<'_>) -> Result<bool> {
        let _ = (from, to, each);
        Ok(false)
    }

    /// Looks for a file of the archive.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn file(&self, name: &str) -> Result<Filed> {
        let _ = name;
        Ok(Filed::Unseen)
    }

    /// Opens the same chain once more, for another thread.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn another(&self) -> Result<Box<dyn Source>>;
}

/// Which control entries a read brings along: pinned rows whose kind begins with `segment.` or `redact.`.
#[derive(Debug, Default)]
pub struct Controls {
    /// Only those behind this seq.
    pub after: i64,
    /// The rows that were found, in order.
    pub rows: Vec<Row>,
    /// Where the index of segments is to be put, if it is wanted: the payloads of the objects of kind `onward.segment`.
    pub index: Option<Vec<Vec<u8>>>,
}

impl Controls {
    /// Asks for those behind a seq, without the index.
    pub fn after(seq: i64) -> Self {
        Self { after: seq, ..Self::default() }
    }
}

/// A file of the archive, as a verifier finds it.
pub enum Filed {
    /// Nobody looked: this verification has no archive.
    Unseen,
    /// There is no such file.
    Absent,
    /// It is there: its length, and what it holds.
    There(u64, Box<dyn Read + Send>),
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
