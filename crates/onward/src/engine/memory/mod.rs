//! Memory: the reference model, for tests and single processes. Exempt from C3 and C4: a restart loses everything.

mod audit;
mod commit;

pub use commit::MemoryStore;
