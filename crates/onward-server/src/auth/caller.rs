//! Who calls, and what the caller may do.

use std::collections::BTreeSet;
use std::sync::Arc;

use onward::Code;
use onward::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rate::Limiter;
use super::role::Role;
use super::scope::{Part, Scopes};
use crate::refusal::Refusal;

/// How the names begin that are ours.
pub(crate) const OURS: &str = "onward.";

/// A token as the server knows it: everything but the secret, and what its bearer has left.
#[derive(Debug)]
pub(crate) struct Known {
    /// The name that audit entries show.
    pub(crate) name: String,
    /// What it may do at most.
    pub(crate) role: Role,
    /// Where.
    pub(crate) scopes: Scopes,
    /// From when on it is none; `None`: it does not end.
    pub(crate) expires_at: Option<Timestamp>,
    /// SHA-256 of the token.
    pub(crate) hash: [u8; 32],
    /// How many requests it may still send.
    pub(crate) limiter: Option<Limiter>,
    /// How many streams it may still open.
    pub(crate) streams: Arc<Semaphore>,
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
        if self.has(role) {
            return Ok(());
        }
        let mut refusal = Refusal::new(Code::Forbidden, format!("this needs the role {role}"));
        refusal.needed = Some(role);
        Err(refusal)
    }

    fn any(&self, test: impl FnOnce(&Scopes) -> bool) -> bool {
        match self {
            Self::Anyone => false,
            Self::InProcess => true,
            Self::Token(known) => test(&known.scopes),
        }
    }

    /// Tells whether nothing lies outside of the caller's scopes.
    pub(crate) fn may_all(&self) -> bool {
        self.any(Scopes::are_everything)
    }

    /// Tells whether a thing lies in the caller's scopes.
    pub(crate) fn may(&self, part: Part, thing: &[&[u8]]) -> bool {
        self.any(|scopes| scopes.cover(part, thing))
    }

    /// Returns the chains that the caller may see, if not all.
    pub(crate) fn chains(&self) -> Option<BTreeSet<&str>> {
        match self {
            Self::Anyone => Some(BTreeSet::new()),
            Self::InProcess => None,
            Self::Token(known) => known.scopes.chains(),
        }
    }

    /// Tells whether the caller may see what has this name: what begins with `onward.` is for operators.
    pub(crate) fn sees(&self, word: &str) -> bool {
        !word.starts_with(OURS) || self.has(Role::Operator)
    }

    /// Refuses a thing outside of the caller's scopes, whether or not it exists.
    pub(crate) fn needs_in_scope(&self, part: Part, thing: &[&[u8]]) -> Result<(), Refusal> {
        if self.may(part, thing) { Ok(()) } else { Err(out_of_scope()) }
    }

    /// Takes a place among the streams of the caller's token.
    pub(crate) fn stream_slot(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let Self::Token(known) = self else { return Ok(None) };
        let place = known.streams.clone().try_acquire_owned();
        place.map(Some).map_err(|_| Refusal::new(Code::RateLimited, "this token has too many event streams open"))
    }
}

/// One text for all that lies outside.
pub(crate) fn out_of_scope() -> Refusal {
    Refusal::new(Code::Forbidden, "this is outside of the token's scopes")
}
