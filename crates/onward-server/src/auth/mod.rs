//! Who may do what: tokens, roles, scopes, and how much of each.
//!
//! Owns: which token is shown, what its role and scopes let it do, how many requests and streams it has left, and the log of what
//! operators and admins did. Refuses: "auth off". Whoever runs in this very process has no token and may do everything: it could open
//! the engine itself.

mod act;
pub(crate) mod admit;
pub(crate) mod caller;
pub(crate) mod kept;
mod rate;
pub(crate) mod role;
pub(crate) mod scope;
pub(crate) mod token;
pub(crate) mod tokens;

pub(crate) use act::{Acts, Begun, entry};
pub use role::{Least, NotARole, Role};
pub use scope::{NotAScope, Scope};
pub use token::Token;
