//! The part `audit`.
