//! Who may do what: tokens and roles.
//!
//! Owns: which token is shown, what its role lets it do. Refuses: "auth off". Whoever runs in this very process has no token and may do
//! everything: it could open the engine itself.

pub(crate) mod caller;
pub(crate) mod role;
pub(crate) mod token;

pub use role::{Least, NotARole, Role};
pub use token::Token;
