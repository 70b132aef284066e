//! The nouns: keys, numbers that only grow, objects, audit entries with their bytes and hash. No I/O, no clock.

mod chain;
mod data;
mod entry;
mod key;
pub mod limits;
mod lock_key;
mod mac;
pub mod merkle;
mod number;
mod object;
mod request;

pub use chain::{ChainName, Head};
pub use data::Data;
pub use entry::{Entry, Hash, Row, Sealed, genesis};
pub use key::{IntoKey, Key};
pub use lock_key::LockKey;
pub use mac::{Kid, MacKeys};
pub use number::{Epoch, FencingToken, Revision, Seq, Version, above};
pub use object::{Meta, Object, Payload};
pub use request::{Fingerprint, RequestId};

#[cfg(test)]
mod tests;
