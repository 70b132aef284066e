//! The part `store`.
