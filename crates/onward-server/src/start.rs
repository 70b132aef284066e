//! Why a server did not start.

use std::fmt;
use std::io;

use onward::Kind;

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// It could not run as it was asked to; exit code 2.
    Usage(String),
    /// Something failed; exit code 1.
    Failed(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Usage(message) | StartError::Failed(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for StartError {}

impl From<onward::Error> for StartError {
    fn from(error: onward::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        if matches!(error.kind(), Kind::Invalid | Kind::Unsupported) { StartError::Usage(text) } else { StartError::Failed(text) }
    }
}

/// Says what failed.
pub(crate) fn failed(what: &str) -> impl FnOnce(io::Error) -> StartError {
    let what = what.to_owned();
    move |error| StartError::Failed(format!("{what}: {error}"))
}
