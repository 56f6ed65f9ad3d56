//! Bytes that are looked for, eight at a time, each marked by its highest bit.
//!
//! A word has its first byte in its lowest bits. Of its marks only the lowest has to be right, since
//! only that is asked for: functions here that say so may mark more bytes above it.

/// Bytes that are looked at a time.
pub(super) const BYTES: usize = 8;

/// The place of the first byte from `at` on that `are_sought` marks, or the end. What is not there looks
/// like zeros, which have to be marked.
#[inline]
pub(super) fn first(bytes: &[u8], mut at: usize, are_sought: impl Fn(u64) -> u64) -> usize {
    loop {
        let place = first_in(are_sought(word_at(bytes, at)));
        at += place;
        if place < BYTES {
            return at.min(bytes.len());
        }
    }
}

/// The place of the first byte that is marked, or [`BYTES`].
#[inline]
pub(super) const fn first_in(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// The eight bytes from `at` on; what is not there is zero.
#[inline]
pub(super) fn word_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_le_bytes(*word),
        None => last_word(bytes, at),
    }
}

/// As [`word_at`], where fewer bytes are there.
#[inline(never)]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Marks bytes below `bound`, which is at most 0x80, and maybe others above the first.
#[inline]
pub(super) const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(all(bound)) & !word & all(0x80)
}

/// Marks bytes that are `byte`, and maybe others above the first.
#[inline]
pub(super) const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ all(byte), 1)
}

/// Marks DEL and bytes that are not ASCII.
#[inline]
pub(super) const fn beyond_ascii(word: u64) -> u64 {
    // Without their highest bits no byte carries into the next.
    ((word & all(0x7f)).wrapping_add(all(1)) | word) & all(0x80)
}

/// A word of which every byte is `byte`.
#[inline]
const fn all(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Looks for the first byte from `from` on in both ways.
    fn check(bytes: &[u8], from: usize, many: impl Fn(u64) -> u64, each: impl Fn(u8) -> bool) {
        let rest = bytes.get(from..).unwrap_or_default();
        let expected = rest.iter().position(|byte| each(*byte)).map(|at| from + at);
        assert_eq!(first(bytes, from, many), expected.unwrap_or(bytes.len()));
    }

    proptest! {
        #[test]
        fn looking_at_many_bytes_at_a_time_finds_what_looking_at_each_does(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            from in 0..50_usize,
            bound in 1..=0x80_u8,
            sought in any::<u8>(),
        ) {
            let is_sought = |byte| byte == sought || byte == 0;
            let is_beyond = |byte| byte >= 0x7f || byte == 0;
            check(&bytes, from, |word| below(word, bound), |byte| byte < bound);
            check(&bytes, from, |word| equal(word, sought) | equal(word, 0), is_sought);
            check(&bytes, from, |word| beyond_ascii(word) | equal(word, 0), is_beyond);
        }
    }
}
