//! What a failure of the server or of the way to it means to the caller.

use std::time::Duration;

use deadpool::managed::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::Error;

/// When a caller may come back whose statement waited in vain for another's lock.
const LATER: Duration = Duration::from_millis(100);

/// Turns a failure into an error, where surely nothing was applied.
pub(super) fn before_commit(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(refusal) => refused(refusal),
        None if error.is_closed() => Error::unavailable("the connection to the database server is lost").with_source(error),
        None if let Some(advice) = distrust(&error) => Error::invalid(advice).with_source(error),
        None => Error::unavailable("the database server cannot be reached").with_source(error),
    }
}

/// What is to be done where a server did not prove who it is, or does not encrypt.
fn distrust(error: &tokio_postgres::Error) -> Option<&'static str> {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    use rustls::Error::InvalidCertificate;
    let source = std::error::Error::source(error)?;
    let why = source.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    match why {
        Some(InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            Some("the database server's certificate is for another name: use the name that is in it as the host of the URL")
        }
        Some(_) => Some("the database server's certificate is not trusted: let sslrootcert name the file of the authority that signed it"),
        // The driver has no type for this one.
        None if source.to_string() == "server does not support TLS" => {
            Some("the database server does not encrypt: set ssl = on there, or sslmode=disable in the URL if the way is safe")
        }
        None => None,
    }
}

/// Turns a failure of what may have been applied by itself into an error: what the server refused was not.
pub(super) fn sent(error: tokio_postgres::Error) -> Error {
    let refusal = is_refusal(&error);
    let error = before_commit(error);
    if refusal { error } else { error.with_unknown_effect() }
}

/// What the server's own word means. Its detail is left out: it may quote a key.
fn refused(refusal: &DbError) -> Error {
    let code = refusal.code();
    let error = match code.code() {
        // A lock or statement time-out, a deadlock, a serialization failure.
        "55P03" | "57014" | "40P01" | "40001" => Error::overloaded("another transaction holds what this one needs", LATER),
        // What this library divides by zero with.
        "22012" => Error::overloaded("a row changed past the library while it was written", LATER),
        "53300" | "53400" => Error::overloaded("the database server takes no more connections", Duration::from_secs(1)),
        "53100" => Error::unavailable("the database server's disk is full"),
        "53200" => Error::overloaded("the database server is out of memory", Duration::from_secs(1)),
        "25006" | "55000" => Error::unavailable("the database server takes no writes: it may be a standby"),
        "25P02" | "25P03" => Error::unavailable("the database server ended a transaction that stood still"),
        "3D000" => Error::invalid("there is no such database on the server"),
        "28000" | "28P01" => Error::invalid("the database server refuses the role or its password"),
        "42501" => Error::unsupported("the role has not the rights that it needs in the database"),
        "42P01" | "42703" | "XX001" | "XX002" => Error::integrity("the tables of the store are damaged or gone"),
        "P0001" => Error::integrity("the database refuses what the rules allow"),
        code if code.starts_with("23") => Error::integrity("the database refuses what the rules allow"),
        _ => Error::unavailable("the database server cannot be used"),
    };
    error.with_source(format!("{}: {} ({})", refusal.severity(), refusal.message(), code.code()))
}

/// Tells whether the same transaction may succeed when it is tried again at once: nothing of it was applied.
pub(super) fn is_passing(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED)
}

/// Tells whether the server, rather than the way to it, answered.
///
/// A server that ends the session says so, and the connection is gone all the same.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|refusal| refusal.parsed_severity() == Some(Severity::Error))
}

/// Why no connection could be had from the pool.
pub(super) fn no_connection(error: PoolError<tokio_postgres::Error>) -> Error {
    match error {
        PoolError::Backend(error) => before_commit(error),
        PoolError::Timeout(TimeoutType::Wait) => Error::overloaded("all connections to the database server are in use", LATER),
        PoolError::Timeout(_) => Error::unavailable("the database server does not answer"),
        error => Error::unavailable("the database server cannot be reached").with_source(error),
    }
}

/// No answer came in time.
pub(super) fn silent() -> Error {
    Error::unavailable("the database server does not answer")
}
