//! Blocks of Snappy, without the framing that streams have.

use super::{End, Unpacked, take};

/// The beginning of a block unpacked, at most `bytes_max` bytes.
pub(in super::super) fn snappy(block: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut block = block;
    let length = match size(&mut block) {
        Ok(length) => length,
        Err(End::Cut | End::Full) => return Some(Vec::new()),
        Err(End::Bad) => return None,
    };
    let mut unpacked = Unpacked::new(bytes_max);
    let end = unpack(&mut block, &mut unpacked);
    // A block says how long it is.
    if unpacked.bytes.len() > length { None } else { unpacked.beginning(end) }
}

/// The size of what is packed, seven bits to a byte.
fn size(block: &mut &[u8]) -> Result<usize, End> {
    let mut size = 0;
    for shift in (0..32).step_by(7) {
        let byte = take(block, 1)?[0];
        size |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(size);
        }
    }
    Err(End::Bad)
}

fn unpack(block: &mut &[u8], unpacked: &mut Unpacked) -> Result<(), End> {
    while !block.is_empty() {
        let tag = take(block, 1)?[0];
        let upper = usize::from(tag >> 2);
        match tag & 3 {
            0 => {
                let count = match upper {
                    0..60 => upper,
                    _ => number(take(block, upper - 59)?),
                };
                unpacked.literals(block, count + 1)?;
            }
            1 => {
                let low = number(take(block, 1)?);
                unpacked.copy((upper >> 3) << 8 | low, 4 + (upper & 7))?;
            }
            2 => {
                let offset = number(take(block, 2)?);
                unpacked.copy(offset, upper + 1)?;
            }
            _ => {
                let offset = number(take(block, 4)?);
                unpacked.copy(offset, upper + 1)?;
            }
        }
    }
    Ok(())
}

/// A number, its lowest byte first.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A literal, a copy of it, another literal and a copy of that.
    const BLOCK: &[u8] = b"\x55\x08abc\x2e\x03\x00\x240123456789\xee\x0a\x00";
    const BYTES: usize = 85;

    #[test]
    fn literals_and_copies_are_joined() {
        let whole = ["abc".repeat(5), "0123456789".repeat(7)].concat();
        assert_eq!(whole.len(), BYTES);
        assert_eq!(snappy(BLOCK, 1000).as_deref(), Some(whole.as_bytes()));
        assert_eq!(snappy(BLOCK, 4).as_deref(), Some(&b"abca"[..]));
        for cut in 0..BLOCK.len() {
            let beginning = snappy(&BLOCK[..cut], 1000);
            let is_beginning = |bytes: &[u8]| whole.as_bytes().starts_with(bytes);
            assert!(beginning.as_deref().is_some_and(is_beginning), "cut at {cut}: {beginning:?}");
        }
    }

    #[test]
    fn short_and_long_lengths_are_read() {
        let literal = "x".repeat(300);
        let block = [b"\xb0\x02\xf4\x2b\x01".as_slice(), literal.as_bytes(), b"\x01\x01"].concat();
        assert_eq!(snappy(&block, 1000).map(|bytes| bytes.len()), Some(304));
        assert_eq!(snappy(b"\x04\x00a\x0b\x01\x00\x00\x00", 9).as_deref(), Some(&b"aaaa"[..]));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        assert_eq!(snappy(b"\x02\x08abc", 100), None);
        assert_eq!(snappy(b"\x09\x08abc\x0a\x04\x00", 100), None);
        assert_eq!(snappy(b"\xff\xff\xff\xff\xff\xff", 100), None);
    }
}
