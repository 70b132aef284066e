//! The part `commit`.
