//! Numbers for texts, where one that came lately is found by one comparison, without hashing all of it.

/// Bounds of the places, which are as many as rows within them; texts that meet at one are found by hash.
const PLACES_MIN: usize = 256;
const PLACES_MAX: usize = 16 * 1024;

/// Texts that have numbers.
pub(crate) trait Numbers<'a, T: ?Sized> {
    /// Whether this is the number of `text`.
    fn is(&self, number: u32, text: &T) -> bool;

    /// The number of `text`, a new one if it has none; nothing where there is no room for it.
    fn number_of(&mut self, text: &'a T) -> Option<u32>;
}

/// A number for each of some texts that came lately.
#[derive(Debug)]
pub(crate) struct RecentTexts {
    slots: Box<[u32]>,
}

impl RecentTexts {
    /// None yet, of so many rows.
    pub(crate) fn of(rows: usize) -> Self {
        let places = rows.clamp(PLACES_MIN, PLACES_MAX).next_power_of_two();
        Self { slots: vec![0; places].into() }
    }

    /// Gives `put` the number of each text; nothing where `all` has no room.
    pub(crate) fn number<'a, T: AsRef<[u8]> + ?Sized + 'a>(
        &mut self,
        texts: impl Iterator<Item = &'a T>,
        all: &mut impl Numbers<'a, T>,
        mut put: impl FnMut(u32),
    ) -> Option<()> {
        let mut empty = None;
        for text in texts {
            // An empty text may point nowhere, and to compare nothing there takes glibc's `memcmp` for
            // AVX-512 some 150 ns on AMD's Zen 5, and 2 ns elsewhere, since a masked load from a page
            // that is not there is left to microcode.
            if text.as_ref().is_empty() {
                if empty.is_none() {
                    empty = Some(all.number_of(text)?);
                }
                empty.map(&mut put);
                continue;
            }
            let slot = self.slot(text.as_ref());
            if !all.is(*slot, text) {
                *slot = all.number_of(text)?;
            }
            put(*slot);
        }
        Some(())
    }

    /// Where the number of `text` is if it came lately; at first, and mostly after another text came
    /// that shares its place, another number is there. Told by the length and both ends.
    fn slot(&mut self, text: &[u8]) -> &mut u32 {
        let end = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |&eight| u64::from_le_bytes(eight));
        let ends = match (text.first_chunk(), text.last_chunk()) {
            (None, _) => text.iter().fold(0, |all, &byte| all << 8 | u64::from(byte)),
            (first, last) => end(first) ^ end(last).rotate_left(29),
        };
        let mixed = (ends ^ text.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let places = self.slots.len();
        &mut self.slots[usize::try_from(mixed >> 48).unwrap_or(0) & (places - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_many_alike_texts_have_a_place_of_their_own() {
        let mut recent = RecentTexts::of(4096);
        let texts: Vec<String> = (0..1000).map(|n| format!("10.3.{}.{}:443", n >> 8, n)).collect();
        for (number, text) in (1..).zip(&texts) {
            *recent.slot(text.as_bytes()) = number;
        }
        let kept =
            (1..).zip(&texts).filter(|(number, text)| *recent.slot(text.as_bytes()) == *number);
        let kept = kept.count();
        assert!(kept > 800, "{kept}");
        assert_eq!(*recent.slot(b"short"), *RecentTexts::of(4096).slot(b"short"));
    }
}
