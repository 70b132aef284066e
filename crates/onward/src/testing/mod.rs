//! Test tools: the conformance suite of each part, faults, checkers.
//!
//! A case is written once and runs on every engine; a checker judges a recorded history and has a planted bug that it must catch.

pub mod archive_faults;
pub mod archives;
pub mod audit;
pub mod audit_attest;
pub mod audit_drops;
pub mod audit_import;
pub mod audit_life;
pub mod audit_maintain;
pub mod audit_personal;
pub mod audit_proofs;
pub mod audit_reads;
pub mod cache;
pub mod decide;
pub mod deed;
pub mod history;
pub mod lock;
pub mod lock_faults;
pub mod lock_history;
#[cfg(any(feature = "postgres", feature = "redis", feature = "s3"))]
pub mod servers;
pub mod store;
pub mod store_faults;
