//! The wire of Onward: the closed list of error codes and the JSON types that server, command line and clients share.
//!
//! No rules live here, only spelling. `spec`: each code has one HTTP status, one exit code and one answer to "may this very request
//! be sent again?", so that no two surfaces can disagree.

#[cfg(feature = "client")]
pub mod client;
mod code;
pub mod number;

pub use code::Code;
