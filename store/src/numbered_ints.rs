//! Whole numbers, or anything of as many bits, numbered in the order in which they first come.

use std::collections::HashMap;

/// Values that came lately and have a place of their own, where none meets another.
const RECENT: usize = 1024;
/// No number: rows are fewer.
const NONE: u32 = u32::MAX;

/// The number of each row's value.
#[derive(Debug)]
pub(crate) struct NumberedInts {
    pub(crate) numbers: Vec<u32>,
    pub(crate) values: Vec<u64>,
}

impl NumberedInts {
    /// Of fewer than 2^32 rows; none where more than `different_max` values are different.
    pub(crate) fn of(rows: impl Iterator<Item = u64>, different_max: usize) -> Option<Self> {
        let mut known: HashMap<u64, u32, ahash::RandomState> = HashMap::default();
        let mut recent = [(0, NONE); RECENT];
        let mut all = Self { numbers: Vec::with_capacity(rows.size_hint().0), values: Vec::new() };
        for value in rows {
            let mixed = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let slot = &mut recent[usize::try_from(mixed >> 48).unwrap_or(0) % RECENT];
            if slot.1 == NONE || slot.0 != value {
                let next = u32::try_from(all.values.len()).unwrap_or(NONE);
                let number = *known.entry(value).or_insert(next);
                if number == next {
                    if all.values.len() == different_max {
                        return None;
                    }
                    all.values.push(value);
                }
                *slot = (value, number);
            }
            all.numbers.push(slot.1);
        }
        Some(all)
    }
}
