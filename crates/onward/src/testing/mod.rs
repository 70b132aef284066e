//! Test tools: the conformance suite of each part, faults, checkers.

pub mod audit;
pub mod cache;
