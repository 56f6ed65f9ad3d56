//! Blocks of LZ4.

use super::{End, Unpacked, take};

/// All of a block that has at most `bytes_max` bytes unpacked; none where it is cut.
pub(in super::super) fn whole(block: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut unpacked = Unpacked::new(bytes_max);
    unpack(block, &mut unpacked).ok().map(|()| unpacked.bytes)
}

/// The beginning of a block unpacked, at most `bytes_max` bytes.
pub(in super::super) fn beginning(block: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut unpacked = Unpacked::new(bytes_max);
    let end = unpack(block, &mut unpacked);
    unpacked.beginning(end)
}

fn unpack(mut block: &[u8], unpacked: &mut Unpacked) -> Result<(), End> {
    loop {
        let token = take(&mut block, 1)?[0];
        let literals = length(token >> 4, &mut block)?;
        unpacked.literals(&mut block, literals)?;
        if block.is_empty() {
            return Ok(());
        }
        let offset = take(&mut block, 2)?;
        let offset = usize::from(u16::from_le_bytes([offset[0], offset[1]]));
        let copied = length(token & 0xf, &mut block)? + 4;
        unpacked.copy(offset, copied)?;
    }
}

/// A length that begins with four bits and goes on as long as bytes are full.
fn length(nibble: u8, block: &mut &[u8]) -> Result<usize, End> {
    let mut length = usize::from(nibble);
    let mut goes_on = nibble == 0xf;
    while goes_on {
        let byte = take(block, 1)?[0];
        length += usize::from(byte);
        goes_on = byte == u8::MAX;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_copies_that_overlap_are_joined() {
        assert_eq!(whole(b"\x32abc\x03\0\x10d", 100).as_deref(), Some(&b"abcabcabcd"[..]));
        assert_eq!(whole(b"\x32abc\x03\0\x10d", 9), None);
        assert_eq!(whole(b"\x32abc\x04\0\x10d", 100), None);
    }

    #[test]
    fn of_a_block_that_is_cut_the_beginning_is_unpacked() {
        let block = b"\x32abc\x03\0\x10d";
        assert_eq!(beginning(block, 5).as_deref(), Some(&b"abcab"[..]));
        assert_eq!(beginning(&block[..3], 100).as_deref(), Some(&b"ab"[..]));
        assert_eq!(beginning(&block[..5], 100).as_deref(), Some(&b"abc"[..]));
        assert_eq!(whole(&block[..5], 100), None);
        assert_eq!(beginning(b"\x32abc\x04\0\x10d", 100), None);
    }
}
