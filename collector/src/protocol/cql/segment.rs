//! Segments: what envelopes are put into from version 5 on, once a connection is set up.
//!
//! An envelope may go on in the next segment. Heads are checked by their CRC, payloads are not.
//! With compression payloads are blocks of LZ4, unless that made them longer.

use super::unpack::lz4;

/// Bytes of a head, with its CRC.
pub(super) const HEAD_BYTES: usize = 6;
/// Bytes of the CRC after a payload.
const TRAILER: usize = 4;
/// The bits of a head that are the payload's length; the next one says that no envelope goes on.
const LENGTH_BITS: u32 = 17;

/// Bytes of the payload whose head this is.
pub(super) fn payload_bytes(head: [u8; HEAD_BYTES]) -> Option<u64> {
    let (fields, crc) = head.split_first_chunk::<3>()?;
    if crc24(*fields) != little_endian(crc) {
        return None;
    }
    Some(u64::from(little_endian(fields) & ((1 << LENGTH_BITS) - 1)))
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

pub(super) fn crc24<const BYTES: usize>(bytes: [u8; BYTES]) -> u32 {
    bytes.into_iter().fold(0x0087_5060, |mut crc, byte| {
        crc ^= u32::from(byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0197_4f0b;
            }
        }
        crc
    })
}

/// Bytes of the head of a segment that may be compressed, with its CRC.
pub(super) const PACKED_HEAD_BYTES: usize = 8;

/// Bytes of the whole segment whose head this is, and of its payload unpacked, 0 where that was not
/// packed.
pub(super) fn packed_bytes(head: [u8; PACKED_HEAD_BYTES]) -> Option<(usize, usize)> {
    let (fields, crc) = head.split_first_chunk::<5>()?;
    if crc24(*fields) != little_endian(crc) {
        return None;
    }
    let [first, second, third, fourth, last] = fields.map(u64::from);
    let fields = first | second << 8 | third << 16 | fourth << 24 | last << 32;
    let length = |bits: u64| usize::try_from(bits & ((1 << LENGTH_BITS) - 1)).ok();
    let (payload, unpacked) = (length(fields)?, length(fields >> LENGTH_BITS)?);
    Some((PACKED_HEAD_BYTES + payload + TRAILER, unpacked))
}

/// The payload of a whole segment that may be compressed.
pub(super) fn unpack(segment: &[u8], unpacked_bytes: usize) -> Option<Vec<u8>> {
    let payload = segment.get(PACKED_HEAD_BYTES..segment.len().checked_sub(TRAILER)?)?;
    match unpacked_bytes {
        0 => Some(payload.to_vec()),
        bytes => lz4::whole(payload, bytes),
    }
}

/// Where a side is in its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of the payload that are to come.
    pub(super) payload: u64,
    /// Bytes of its CRC that are to come.
    pub(super) trailer: u64,
}

impl Segment {
    pub(super) const fn of(payload: u64) -> Self {
        Self { payload, trailer: TRAILER as u64 }
    }

    pub(super) const fn is_over(self) -> bool {
        self.payload == 0 && self.trailer == 0
    }
}
