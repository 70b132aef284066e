//! The part `cache` on every engine.
