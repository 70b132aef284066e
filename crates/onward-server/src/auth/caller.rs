//! Who calls, and what the caller may do.

use std::sync::Arc;

use onward::Code;

use super::role::Role;
use crate::refusal::Refusal;

/// A token as the server knows it: everything but the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The name that audit entries show.
    pub(crate) name: String,
    /// What it may do at most.
    pub(crate) role: Role,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Whoever: the route is open to all.
    Anyone,
    /// Whoever runs in this process: there is no socket.
    InProcess,
    /// Whoever shows this token.
    Token(Arc<Known>),
}

impl Caller {
    /// The name of the caller's token; in the log it stands for the token.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Anyone | Self::InProcess => None,
            Self::Token(known) => Some(&known.name),
        }
    }

    /// The scope of the caller's request ids, so that two callers cannot collide.
    pub(crate) fn scope(&self) -> &str {
        self.name().unwrap_or("local")
    }

    /// The actor of the caller's audit entries: the token's name, with the claimed one behind it.
    pub(crate) fn actor(&self, claimed: Option<String>) -> Option<String> {
        match (self.name(), claimed) {
            (None, claimed) => claimed,
            (Some(name), None) => Some(name.to_owned()),
            (Some(name), Some(claimed)) => Some(format!("{name}/{claimed}")),
        }
    }

    /// Tells whether the caller has this role or a greater one.
    pub(crate) fn has(&self, role: Role) -> bool {
        match self {
            Self::Anyone => false,
            Self::InProcess => true,
            Self::Token(known) => known.role >= role,
        }
    }

    /// Refuses a caller whose role is less.
    pub(crate) fn needs(&self, role: Role) -> Result<(), Refusal> {
        if self.has(role) { Ok(()) } else { Err(Refusal::new(Code::Forbidden, format!("this needs the role {role}"))) }
    }
}
