//! Why a command ended, and with which exit code.

use std::fmt;
use std::io;

use onward_api::client::Problem;
use onward_api::{Code, Effect};

/// A result of the command line.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The API refused or could not be asked: the code decides the exit code.
    Problem(Problem),
    /// Something on this side.
    Local { exit: u8, problem: Problem },
    /// Everything is said already.
    Exit(u8),
    /// Nobody reads our output any more: an end, not an error.
    ClosedPipe,
}

impl Failure {
    /// The command line asks for something that cannot be: exit 2.
    pub(crate) fn usage(detail: impl fmt::Display) -> Self {
        Self::Local { exit: 2, problem: Problem::of(Code::InvalidRequest, Effect::NotApplied, detail.to_string()) }
    }

    /// A file or pipe on this side failed: exit 1, or quietly if a reader went away.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Self::Local { exit: 1, problem: Problem::of(Code::Internal, Effect::NotApplied, format!("{what}: {error}")) }
    }

    /// Returns the exit code.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.code().exit(),
            Self::Local { exit, .. } | Self::Exit(exit) => *exit,
            Self::ClosedPipe => 0,
        }
    }

    /// Returns the problem to tell, if it is not told yet.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) | Self::Local { problem, .. } => Some(problem),
            Self::Exit(_) | Self::ClosedPipe => None,
        }
    }

    /// Gives the failure another exit code, such as 2 where a verdict could not be reached.
    pub(crate) fn with_exit(self, exit: u8) -> Self {
        match self {
            Self::Problem(problem) | Self::Local { problem, .. } => Self::Local { exit, problem },
            told => told,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<onward::Error> for Failure {
    fn from(error: onward::Error) -> Self {
        let effect = match error.effect() {
            onward::Effect::NotApplied => Effect::NotApplied,
            onward::Effect::Unknown => Effect::Unknown,
        };
        Self::Problem(Problem::of(error.code(), effect, error.to_string()))
    }
}
