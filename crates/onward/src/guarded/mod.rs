//! The part `guarded`.
