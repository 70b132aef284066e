//! The part `lock`.
