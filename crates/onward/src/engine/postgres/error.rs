//! What a failure of Postgres means to the caller.

use crate::Error;

pub(super) fn before_commit(error: tokio_postgres::Error) -> Error {
    Error::unavailable("the database cannot be used").with_source(error)
}

pub(super) fn at_commit(error: tokio_postgres::Error) -> Error {
    Error::unknown("the database failed").with_source(error)
}
