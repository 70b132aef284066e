//! Numbers that follow from a seed: a schedule that repeats.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

/// Numbers that follow from a seed (SplitMix64): to choose, never for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Begins a stream of its own for `name`.
    pub(crate) fn new(seed: u32, name: &str) -> Self {
        name.bytes().fold(Random(u64::from(seed)), |random, byte| Random(random.0.wrapping_mul(31).wrapping_add(u64::from(byte))))
    }

    /// Returns a number of `0.0..1.0`.
    pub(crate) fn fraction(&mut self) -> f64 {
        // 53 bits: what an f64 holds exactly.
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number of `from..to`; `from` if that is empty.
    pub(crate) fn within(&mut self, from: usize, to: usize) -> usize {
        let size = to.saturating_sub(from).max(1) as u64;
        from + usize::try_from(self.bits() % size).unwrap_or(0)
    }
}

/// Draws a seed.
pub(crate) fn draw_seed() -> u32 {
    // The standard library keys its hash maps from the system's generator.
    u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or_default()
}
