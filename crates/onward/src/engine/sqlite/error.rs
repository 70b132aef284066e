//! What a failure of SQLite means to the caller.

use std::time::Duration;

use rusqlite::ErrorCode;

use crate::{Effect, Error};

/// Turns a failure before COMMIT into an error: surely nothing was applied.
pub(super) fn before_commit(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::overloaded("another process holds the database's write lock", Duration::from_millis(100)).with_source(error)
        }
        Some(ErrorCode::OperationInterrupted) => {
            Error::overloaded("the read took longer than reads may", Duration::from_secs(1)).with_source(error)
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::integrity("the database file is damaged").with_source(error),
        Some(ErrorCode::DiskFull) => Error::unavailable("the disk is full").with_source(error),
        Some(ErrorCode::ConstraintViolation) => Error::integrity("the database refuses what the rules allow").with_source(error),
        _ => Error::unavailable("the database cannot be used").with_source(error),
    }
}

/// Turns a failure of COMMIT itself into an error: only "busy" and "full" are surely not applied.
///
/// A disk that is full refuses a page of the write-ahead log, and the page that makes a transaction one is its last. A write or an fsync
/// that fails for another reason may have reached the disk all the same.
pub(super) fn at_commit(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull) => before_commit(error),
        _ => {
            let error = Error::unknown("the database failed during COMMIT").with_source(error);
            debug_assert_eq!(error.effect(), Effect::Unknown);
            error
        }
    }
}
