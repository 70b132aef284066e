//! The part `cache`.
