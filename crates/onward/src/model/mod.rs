//! The nouns: keys, numbers that only grow, objects, audit entries with their bytes and hash. No I/O, no clock.

mod chain;
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
pub(crate) use entry::{CLOCK_BEHIND, HAS_ACTOR, HAS_RESOURCE, PINNED, Prehashed, digest_hex, finish, prehash};
pub use entry::{Data, Entry, Hash, Sealed, genesis};
pub(crate) use key::DEFAULT_NAMESPACE;
pub(crate) use key::check_cache_namespace;
pub use key::{IntoKey, Key};
pub use lock_key::LockKey;
pub use mac::{Kid, MacKeys};
pub use number::{Epoch, FencingToken, Revision, Seq, Version, above};
pub use object::{Meta, Object, Payload};
pub use request::{Fingerprint, RequestId};

#[cfg(test)]
mod tests;
