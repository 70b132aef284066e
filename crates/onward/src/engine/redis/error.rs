//! What a failure of Redis means to the caller.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use rustls::CertificateError;

use super::address::Speaks;

use crate::{Effect, Error, Kind};

/// What was sent, and so what an answer that says "no" leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// One command: refused is not applied.
    Command,
    /// Several commands or a script: an error in the middle leaves what was done before.
    Steps,
}

/// Turns a failed call into an error.
///
/// No answer is [`Effect::Unknown`]. Of the answers, these come before anything is done: the server loads, is a replica, is out of
/// memory, or its script is unknown.
pub(super) fn of_call(error: RedisError, sent: Sent) -> Error {
    let refused = match error.kind() {
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Error::unavailable("redis loads its data"),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => Error::unavailable("this redis is a read-only replica"),
        ErrorKind::Server(ServerErrorKind::MasterDown) => Error::unavailable("this redis is a replica without its master"),
        ErrorKind::Server(ServerErrorKind::NoScript) => Error::unavailable("redis forgot a script that was just loaded"),
        ErrorKind::Server(ServerErrorKind::ClusterDown | ServerErrorKind::TryAgain) => Error::unavailable("the redis cluster is not whole"),
        ErrorKind::Server(ServerErrorKind::NoPerm) | ErrorKind::AuthenticationFailed => {
            refused_in(sent, "redis does not permit this user a command")
        }
        ErrorKind::Server(_) | ErrorKind::Extension => match error.code() {
            Some("OOM") => Error::overloaded("redis is out of memory", Duration::from_secs(1)),
            Some("BUSY") => Error::overloaded("redis runs a script that does not end", Duration::from_secs(1)),
            Some("MISCONF") => Error::unavailable("redis refuses writes since it cannot save its data"),
            Some("NOREPLICAS") => Error::unavailable("redis refuses writes since it has too few replicas"),
            Some("NOAUTH" | "WRONGPASS") => Error::unavailable("redis does not know this user"),
            Some("WRONGTYPE") => wrong_type(sent),
            // A script wraps what one of its commands answered.
            _ if error.detail().is_some_and(|detail| detail.contains("WRONGTYPE")) => wrong_type(sent),
            _ => refused_in(sent, "redis refused a command"),
        },
        ErrorKind::Io if error.is_timeout() => Error::unknown("redis did not answer in time"),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Error::integrity("redis answered in another form").with_unknown_effect(),
        ErrorKind::Client | ErrorKind::InvalidClientConfig => Error::unavailable("the request cannot be sent to redis"),
        _ => Error::unknown("the connection to redis was lost"),
    };
    refused.with_source(error)
}

/// Turns a failed attempt to connect into an error: nothing was sent. What is wrong with TLS names the way out.
pub(super) fn of_connect(error: RedisError, speaks: Speaks) -> Error {
    if let Some(problem) = tls_problem(&error) {
        return Error::unavailable(problem).with_source(error);
    }
    let refused = match (error.kind(), speaks) {
        (ErrorKind::Io, _) if error.is_connection_refusal() => Error::unavailable("redis cannot be reached"),
        // A plain server waits for the end of a line that never comes, or hangs up.
        (ErrorKind::Io, Speaks::Tls) => Error::unavailable("redis gives no answer in TLS; if it speaks none, its URL begins with redis://"),
        (ErrorKind::Io, Speaks::Plain) if error.is_connection_dropped() => {
            Error::unavailable("redis hangs up; if it speaks TLS, its URL begins with rediss://")
        }
        (ErrorKind::Parse | ErrorKind::UnexpectedReturnType, _) => {
            Error::unavailable("what answers is no redis; if it speaks TLS, its URL begins with rediss://")
        }
        (ErrorKind::AuthenticationFailed, _) => Error::unavailable("redis does not know this user or password"),
        (ErrorKind::RESP3NotSupported, _) => Error::unsupported("redis is too old: 6.2 or newer is needed"),
        (ErrorKind::Server(_) | ErrorKind::Extension, _) => return with_no_effect(of_call(error, Sent::Command)),
        _ => Error::unavailable("redis cannot be reached"),
    };
    refused.with_source(error)
}

/// Tells what is wrong with TLS, if that is why there is no connection.
fn tls_problem(error: &RedisError) -> Option<&'static str> {
    let inner = error.source()?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    let tls = match inner.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref()?.downcast_ref::<rustls::Error>()?,
        None => inner.downcast_ref::<rustls::Error>()?,
    };
    Some(match tls {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            "the certificate of redis is for another name: connect by a name that it has"
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the certificate of redis has ended: give the server a new one"
        }
        rustls::Error::InvalidCertificate(_) => {
            "the certificate of redis is not trusted here: name the file of its authority, ?ca=FILE in the URL"
        }
        rustls::Error::InvalidMessage(_) => "redis does not answer in TLS; if it speaks none, its URL begins with redis://",
        _ => "redis and this side agree on no TLS",
    })
}

fn wrong_type(sent: Sent) -> Error {
    with_effect(sent, Error::new(Kind::Unsupported, crate::Code::Unsupported, "a redis key holds another type than this engine's"))
}

fn refused_in(sent: Sent, message: &'static str) -> Error {
    with_effect(sent, Error::unavailable(message))
}

fn with_effect(sent: Sent, error: Error) -> Error {
    match sent {
        Sent::Command => error,
        Sent::Steps => error.with_unknown_effect(),
    }
}

fn with_no_effect(error: Error) -> Error {
    match error.effect() {
        Effect::NotApplied => error,
        Effect::Unknown => Error::unavailable("redis cannot be reached").with_source(error),
    }
}

/// What a server answers that it should not: nobody knows what it did.
pub(super) fn strange() -> Error {
    Error::integrity("redis answered in another form").with_unknown_effect()
}
