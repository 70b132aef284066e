//! The part `store` on every engine.
