//! The verifier: tells whether a chain is what its writers wrote.
//!
//! Pure code: no runtime, no driver, no clock, no I/O of its own (a test reads these sources for that). It reads a blocking [`Source`],
//! hashes exactly the stored bytes, keeps its memory flat at any length, and lists everything that one walk finds (INV-5, INV-7). A
//! [`SavedHead`] kept outside the database shows what a chain alone cannot: a cut tail, or a database put back to an earlier day.
//!
//! `verify.py` beside this file does the same with nothing of ours: Python's standard library and the database file.

mod bound;
mod check;
mod files;
mod look;
mod past;
pub(crate) mod personal;
mod report;
mod saved;
pub(crate) mod segment;
mod source;
mod walk;

pub(super) use bound::check_bound;
pub use check::{Archives, Check, Extent, Progress, verify};
pub use report::{Depth, FINDINGS_MAX, Finding, FindingCode, Report, Verdict};
pub use saved::{SAVED_HEAD_BYTES, SavedHead};
pub use segment::{ArchiveFile, SEGMENT_ROWS, SegmentState};
pub use source::{Controls, EachPersonal, Filed, HeadRow, Source, View};

#[cfg(test)]
mod tests;
