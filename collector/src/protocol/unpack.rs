//! Bodies that were compressed, unpacked: as much of their beginning as is there and wanted.
//!
//! What is kept of a body may be cut, so each of these gives what its bytes unpack to before they
//! end; none where they are not what they are taken for. None of them makes more bytes than it is
//! told to.

pub(super) mod lz4;
mod snappy;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

pub(super) use snappy::snappy;

/// What a file of gzip begins with, if it is packed in the one way that there is.
pub(super) const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// The beginning of what the bytes of a zlib stream unpack to, at most `bytes_max` of it.
pub(super) fn zlib(bytes: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    inflate(bytes, bytes_max, TINFL_FLAG_PARSE_ZLIB_HEADER)
}

/// The beginning of what the bytes of a gzip file unpack to, at most `bytes_max` of it.
pub(super) fn gzip(bytes: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    match gzip_payload(bytes.strip_prefix(&GZIP)?) {
        Ok(payload) => inflate(payload, bytes_max, 0),
        Err(End::Cut | End::Full) => Some(Vec::new()),
        Err(End::Bad) => None,
    }
}

/// What follows the head of a gzip file (RFC 1952), of which the first bytes were taken.
fn gzip_payload(mut bytes: &[u8]) -> Result<&[u8], End> {
    const CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let flags = take(&mut bytes, 7)?[0];
    if flags & !(1 | CHECKSUM | EXTRA | NAME | COMMENT) != 0 {
        return Err(End::Bad);
    }
    if flags & EXTRA != 0 {
        let length = take(&mut bytes, 2)?;
        take(&mut bytes, usize::from(u16::from_le_bytes([length[0], length[1]])))?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = bytes.iter().position(|byte| *byte == 0).ok_or(End::Cut)?;
            take(&mut bytes, end + 1)?;
        }
    }
    if flags & CHECKSUM != 0 {
        take(&mut bytes, 2)?;
    }
    Ok(bytes)
}

fn inflate(bytes: &[u8], bytes_max: usize, flags: u32) -> Option<Vec<u8>> {
    let mut unpacked = vec![0; bytes_max];
    let flags = flags | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut inflate = Box::<DecompressorOxide>::default();
    let (status, _, made) = decompress(&mut inflate, bytes, &mut unpacked, 0, flags);
    unpacked.truncate(made);
    unpacked.shrink_to_fit();
    // Without a flag that more input comes, its end is no progress.
    let is_right = matches!(
        status,
        TINFLStatus::Done | TINFLStatus::HasMoreOutput | TINFLStatus::FailedCannotMakeProgress
    );
    is_right.then_some(unpacked)
}

/// Where the making of bytes ends before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The packed bytes do, in the middle of something.
    Cut,
    /// There are as many as are wanted.
    Full,
    /// They are not what they were taken for.
    Bad,
}

/// What was unpacked so far.
#[derive(Debug)]
struct Unpacked {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Unpacked {
    const fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max }
    }

    /// Adds as many bytes off the front of `packed`.
    fn literals(&mut self, packed: &mut &[u8], count: usize) -> Result<(), End> {
        let there = count.min(packed.len());
        let (literals, rest) = packed.split_at(there);
        let room = self.bytes_max - self.bytes.len();
        self.bytes.extend_from_slice(&literals[..there.min(room)]);
        *packed = rest;
        match () {
            () if there > room => Err(End::Full),
            () if there < count => Err(End::Cut),
            () => Ok(()),
        }
    }

    /// Adds a copy of bytes that are `offset` back, and that it may itself make.
    fn copy(&mut self, offset: usize, count: usize) -> Result<(), End> {
        let start = self.bytes.len().checked_sub(offset).filter(|_| offset > 0).ok_or(End::Bad)?;
        let room = self.bytes_max - self.bytes.len();
        for at in start..start + count.min(room) {
            self.bytes.push(self.bytes[at]);
        }
        if count > room { Err(End::Full) } else { Ok(()) }
    }

    /// The beginning, unless what it was made from is wrong.
    fn beginning(self, end: Result<(), End>) -> Option<Vec<u8>> {
        (end != Err(End::Bad)).then_some(self.bytes)
    }
}

/// Takes bytes off the front of `packed`.
fn take<'a>(packed: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], End> {
    let (taken, rest) = packed.split_at_checked(bytes).ok_or(End::Cut)?;
    *packed = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"one two one two one two";

    #[test]
    fn a_stream_of_zlib_is_unpacked_as_far_as_it_is_there() {
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(TEXT, 6);
        assert_eq!(zlib(&packed, 100).as_deref(), Some(TEXT));
        assert_eq!(zlib(&packed, 5).as_deref(), Some(&TEXT[..5]));
        for cut in 0..packed.len() {
            assert!(zlib(&packed[..cut], 100).is_some_and(|bytes| TEXT.starts_with(&bytes)));
        }
        assert_eq!(zlib(b"no stream", 100), None);
    }

    #[test]
    fn a_gzip_file_may_have_a_name_and_more_before_what_is_packed() {
        let packed = miniz_oxide::deflate::compress_to_vec(TEXT, 6);
        let file = |flags: u8, more: &[u8]| {
            [&GZIP[..], &[flags, 0, 0, 0, 0, 0, 3], more, &packed, &[0; 8]].concat()
        };
        for (flags, more) in
            [(0, &b""[..]), (8, b"a.txt\0"), (4 | 8 | 16 | 2, b"\x03\0abcname\0comment\0\x01\x02")]
        {
            let file = file(flags, more);
            assert_eq!(gzip(&file, 100).as_deref(), Some(TEXT), "{flags}");
            for cut in GZIP.len()..file.len() {
                assert!(gzip(&file[..cut], 100).is_some_and(|bytes| TEXT.starts_with(&bytes)));
            }
        }
        assert_eq!(gzip(&file(32, b""), 100), None);
        assert_eq!(gzip(TEXT, 100), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_within_bounds(packed in any::<Vec<u8>>(), max in 0_usize..1000) {
            for unpack in [zlib, gzip, snappy, lz4::beginning, lz4::whole] {
                prop_assert!(unpack(&packed, max).is_none_or(|unpacked| unpacked.len() <= max));
            }
        }
    }
}
