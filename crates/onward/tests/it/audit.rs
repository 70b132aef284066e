//! The part `audit` on every engine.
