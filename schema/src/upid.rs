//! Which process a row is about.

use std::fmt;

/// A process, told apart from every other that had the same pid: node, pid and start time.
///
/// As a column it is 16 bytes, big-endian: node (32 bits), pid (32 bits), start (64 bits), which is
/// Pixie's UINT128 layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upid([u8; 16]);

impl Upid {
    /// The process `pid` of node `asid` that started `start_ticks` clock ticks (10 ms) after boot.
    pub fn new(asid: u32, pid: u32, start_ticks: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&asid.to_be_bytes());
        bytes[4..8].copy_from_slice(&pid.to_be_bytes());
        bytes[8..].copy_from_slice(&start_ticks.to_be_bytes());
        Self(bytes)
    }

    /// The process that a 16-byte cell names.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the cell.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The node's short id.
    pub fn asid(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    /// The process id as the host sees it.
    pub fn pid(self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// Clock ticks (10 ms) between boot and the process's start.
    pub fn start_ticks(self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[8..]);
        u64::from_be_bytes(bytes)
    }
}

/// Writes the UUID form that users see, `00000001-0000-002a-0000-000000000007`.
impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let high = u64::from(self.asid()) << 32 | u64::from(self.pid());
        let low = self.start_ticks();
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_gives_back_its_parts_and_reads_as_a_uuid() {
        let upid = Upid::new(1, 42, 7);
        assert_eq!((upid.asid(), upid.pid(), upid.start_ticks()), (1, 42, 7));
        assert_eq!(upid.to_string(), "00000001-0000-002a-0000-000000000007");
    }
}
