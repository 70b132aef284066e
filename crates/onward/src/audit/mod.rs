//! The part `audit`: a tamper-evident trail.

pub mod verify;
