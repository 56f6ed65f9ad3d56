//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and
//! each length goes on where the shorter ones end. So the lengths say everything.

use super::hpack::Bad;

/// The symbol that ends a string, and is never sent.
const END: u16 = 256;
/// Bits of the shortest code.
const BITS_MIN: usize = 5;
/// Bits of the longest code.
const BITS_MAX: usize = 30;

/// Bits of each symbol's code.
#[rustfmt::skip]
const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The code, by length. Codes are written as the highest bits of 32.
struct Code {
    /// The first code of each length.
    first: [u64; BITS_MAX + 1],
    /// The first code after those of each length.
    end: [u64; BITS_MAX + 1],
    /// Where in `symbols` those of each length begin.
    at: [usize; BITS_MAX + 1],
    /// All symbols, ordered by the length of their code.
    symbols: [u16; 257],
}

const CODE: Code = Code::of(&BITS);

impl Code {
    const fn of(lengths: &[u8; 257]) -> Self {
        let mut code = Self {
            first: [0; BITS_MAX + 1],
            end: [0; BITS_MAX + 1],
            at: [0; BITS_MAX + 1],
            symbols: [0; 257],
        };
        let (mut bits, mut next, mut placed) = (BITS_MIN, 0, 0);
        while bits <= BITS_MAX {
            (code.first[bits], code.at[bits]) = (next, placed);
            let mut symbol = 0;
            while symbol <= END {
                if lengths[symbol as usize] as usize == bits {
                    code.symbols[placed] = symbol;
                    placed += 1;
                    next += 1 << (32 - bits);
                }
                symbol += 1;
            }
            code.end[bits] = next;
            bits += 1;
        }
        code
    }

    /// The symbol whose code `window` begins with, and its length.
    fn symbol(&self, window: u64) -> Option<(u16, usize)> {
        let bits = (BITS_MIN..=BITS_MAX).find(|bits| window < self.end[*bits])?;
        let place = (window - self.first[bits]) >> (32 - bits);
        let symbol = self.symbols.get(self.at[bits] + usize::try_from(place).ok()?)?;
        Some((*symbol, bits))
    }
}

/// Appends the string that `coded` holds, at most `bytes_max` bytes of it.
pub(super) fn decode_into(coded: &[u8], bytes_max: usize, text: &mut Vec<u8>) -> Result<(), Bad> {
    let text_max = text.len().saturating_add(bytes_max);
    let mut rest = coded.iter();
    let (mut held, mut count) = (0_u64, 0_usize);
    loop {
        while count < 32
            && let Some(byte) = rest.next()
        {
            held = held << 8 | u64::from(*byte);
            count += 8;
        }
        // Behind the end are ones, as the padding is.
        let window = if count >= 32 {
            held >> (count - 32) & 0xffff_ffff
        } else {
            let missing = 32 - count;
            (held << missing | ((1 << missing) - 1)) & 0xffff_ffff
        };
        let symbol = CODE.symbol(window);
        match symbol {
            Some((symbol, bits)) if bits <= count => {
                let Ok(byte) = u8::try_from(symbol) else { return Err(Bad) };
                if text.len() >= text_max {
                    return Err(Bad);
                }
                text.push(byte);
                count -= bits;
            }
            // What is left begins no code but that of the end, if it is padding.
            _ if count < 8 && window == 0xffff_ffff => return Ok(()),
            _ => return Err(Bad),
        }
    }
}

#[cfg(test)]
pub(super) fn encode_into(text: &[u8], coded: &mut Vec<u8>) {
    let (mut held, mut count) = (0_u64, 0_usize);
    for byte in text {
        let bits = usize::from(BITS[usize::from(*byte)]);
        let of_length = &CODE.symbols[CODE.at[bits]..];
        let place = of_length.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
        let code = (CODE.first[bits] >> (32 - bits)) + place as u64;
        held = held << bits | code;
        count += bits;
        while count >= 8 {
            count -= 8;
            coded.push(u8::try_from(held >> count & 0xff).unwrap());
        }
    }
    if count > 0 {
        let padding = 8 - count;
        coded.push(u8::try_from((held << padding | ((1 << padding) - 1)) & 0xff).unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode_into(coded, 1 << 16, &mut text).ok().map(|()| text)
    }

    #[test]
    fn the_code_is_complete() {
        assert_eq!(CODE.end[BITS_MAX], 1 << 32);
        assert_eq!(CODE.symbol(0xffff_ffff), Some((END, 30)));
        assert_eq!(CODE.symbol(0), Some((u16::from(b'0'), 5)));
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        assert_eq!(decode(&[]), Some(Vec::new()));
        assert_eq!(decode(&[0x07]), Some(b"0".to_vec()));
        for bad in [&[0x06][..], &[0x07, 0xff], &[0xff], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(bad), None, "{bad:x?}");
        }
    }

    #[test]
    fn a_string_that_is_too_long_is_given_up() {
        let mut text = Vec::new();
        assert!(decode_into(&[0x00, 0x00], 2, &mut text).is_err());
        assert!(text.len() <= 2);
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut coded = Vec::new();
            encode_into(&text, &mut coded);
            prop_assert_eq!(decode(&coded), Some(text));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(coded in proptest::collection::vec(any::<u8>(), 0..60)) {
            decode(&coded);
        }
    }
}
