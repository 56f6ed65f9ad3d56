//! Tables by numbers that the kernel gives out: connections, processes.
//!
//! Nobody outside chooses these numbers, so that they need no defence against chosen ones, and every
//! message looks some of them up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by numbers that the kernel gives out.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Spreads numbers over a table; most count up, so a multiplication does.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;
    use crate::event::ProcessKey;

    #[test]
    fn processes_that_follow_one_another_are_spread_over_a_small_table() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let slots: HashSet<u64> = (0..1024_u32)
            .map(|number| {
                let start_ns = 50_000_000 + u64::from(number) * 10_000_000;
                hasher.hash_one(ProcessKey { tgid: 4000 + number, start_ns }) % 1024
            })
            .collect();
        // Of 1024 slots that are hit at random, two thirds are.
        assert!(slots.len() > 512, "{} slots", slots.len());
    }
}
