//! Memory: the reference model, for tests and single processes. Exempt from C3 and C4.

mod cache;

pub use cache::MemoryCache;
