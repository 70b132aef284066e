//! The nouns: keys, numbers that only grow, objects, audit entries with their bytes and hash. No I/O, no clock.

mod chain;
mod checkpoint;
mod data;
mod entry;
mod key;
mod labels;
pub mod limits;
mod lock_key;
mod mac;
mod manifest;
pub mod merkle;
mod note;
mod number;
mod object;
mod personal;
pub mod proof;
mod request;
mod row;

pub use chain::{ChainName, Head};
pub use checkpoint::{CHECKPOINT_BYTES, Checkpoint};
pub use data::Data;
pub(crate) use entry::{
    CLOCK_BEHIND, EntryHasher, FLAGS_KNOWN, HAS_ACTOR, HAS_RESOURCE, PINNED, Prehashed, digest_hex, finish, is_control, prehash,
};
pub use entry::{Entry, Hash, Sealed, genesis};
pub(crate) use key::{DEFAULT_NAMESPACE, check_cache_namespace};
pub use key::{IntoKey, Key};
pub use labels::{LabelChange, Labels, Selector};
pub use lock_key::LockKey;
pub use mac::{Kid, MacKeys};
pub use manifest::{MANIFEST_BYTES, Manifest};
pub use note::{CheckpointKey, Vkey};
pub use number::{Epoch, FencingToken, Revision, Seq, Version, above};
pub(crate) use object::{JSON, depth as json_depth};
pub use object::{Meta, Object, Payload, TtlChange};
pub(crate) use personal::check_subject;
pub use personal::{KeptPersonal, Personal, commitment};
pub use request::{Fingerprint, RequestId};
pub use row::{Row, RowRef};

#[cfg(test)]
mod tests;
