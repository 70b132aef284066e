//! The part `lock` on every engine.
