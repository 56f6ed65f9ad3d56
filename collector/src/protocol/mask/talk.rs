//! How tests let two sides talk through a mask.

use super::Mask;
use super::sides::{Outcome, Sides};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;

/// Checks that of what is said, in order, the masked text is left, however it is cut.
pub(crate) fn check<M: Mask + Default + 'static>(said: &[(Side, &str, &str)]) {
    let said: Vec<_> =
        said.iter().map(|(side, text, masked)| (*side, bytes(text), bytes(masked))).collect();
    check_bytes::<M>(&said);
}

/// The same of bytes.
pub(crate) fn check_bytes<M: Mask + Default + 'static>(said: &[(Side, Vec<u8>, Vec<u8>)]) {
    for size in [usize::MAX, 1, 3, 7] {
        let mut sides = Sides::new(Box::<M>::default());
        for (side, text, masked) in said {
            let mut given = Vec::new();
            for part in text.chunks(size.min(text.len())) {
                let mut decided = |bytes: &[u8]| given.extend_from_slice(bytes);
                let outcome = sides.bytes(*side, part, &mut Addresses::default(), &mut decided);
                assert_eq!(outcome, Outcome::GoesOn, "at {}", text.escape_ascii());
            }
            assert_eq!(given.escape_ascii().to_string(), masked.escape_ascii().to_string());
        }
    }
}

/// Each character as the byte of its number.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}
