//! Blocks of LZ4, unpacked.

/// Unpacks a block that has at most `bytes_max` bytes unpacked.
pub(super) fn unpack(mut block: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    loop {
        let token = take(&mut block, 1)?[0];
        let literals = length(token >> 4, &mut block)?;
        unpacked.extend_from_slice(take(&mut block, literals)?);
        if unpacked.len() > bytes_max {
            return None;
        }
        if block.is_empty() {
            return Some(unpacked);
        }
        let offset = usize::from(u16::from_le_bytes(take(&mut block, 2)?.try_into().ok()?));
        let copied = length(token & 0xf, &mut block)? + 4;
        let start = unpacked.len().checked_sub(offset).filter(|_| offset > 0)?;
        if unpacked.len() + copied > bytes_max {
            return None;
        }
        // The copy may overlap what it makes.
        for at in start..start + copied {
            unpacked.push(unpacked[at]);
        }
    }
}

/// A length that begins with four bits and goes on as long as bytes are full.
fn length(nibble: u8, block: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(nibble);
    let mut goes_on = nibble == 0xf;
    while goes_on {
        let byte = take(block, 1)?[0];
        length += usize::from(byte);
        goes_on = byte == u8::MAX;
    }
    Some(length)
}

fn take<'a>(block: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, rest) = block.split_at_checked(bytes)?;
    *block = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_and_copies_that_overlap_are_joined() {
        assert_eq!(unpack(b"\x32abc\x03\0\x10d", 100).as_deref(), Some(&b"abcabcabcd"[..]));
        assert_eq!(unpack(b"\x32abc\x03\0\x10d", 9), None);
        assert_eq!(unpack(b"\x32abc\x04\0\x10d", 100), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_within_bounds(block in any::<Vec<u8>>()) {
            prop_assert!(unpack(&block, 1000).is_none_or(|unpacked| unpacked.len() <= 1000));
        }
    }
}
