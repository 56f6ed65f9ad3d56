//! Messages on their way: so many bytes in frames of known lengths.

use super::frame::{Head, Kind, frame_bytes};
use super::method::Arguments;

/// A message that is on its way on a channel.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) channel: u16,
    /// Of the exchange that it belongs to.
    pub(super) key: u64,
    /// Of the method before it.
    pub(super) arguments: Arguments,
    /// Bytes that are still to come, once that is known.
    pub(super) left: Option<u64>,
    /// Bytes of it in its longest frame so far.
    part: u32,
}

impl Message {
    pub(super) const fn new(channel: u16, key: u64, arguments: Arguments) -> Self {
        Self { channel, key, arguments, left: None, part: 0 }
    }

    /// A frame of it is over: how many bytes are left. None where it was longer than the message.
    pub(super) fn take(&mut self, head: Head) -> Option<u64> {
        let part = if head.kind == Kind::Body { head.bytes } else { 0 };
        let left = self.left?.checked_sub(part.into())?;
        (self.left, self.part) = (Some(left), self.part.max(part));
        Some(left)
    }

    /// Bytes on the wire of the frames that are still to come, if its sender fills each but the last,
    /// which may have `part_max` bytes of it; none where no frame of it was seen and that is unknown.
    pub(super) fn frames_ahead(&self, part_max: Option<u32>) -> Option<u64> {
        let part = Some(self.part).filter(|part| *part > 0).or(part_max)?;
        let left = self.left.filter(|left| *left > 0)?;
        let frame = |bytes| frame_bytes(Head { kind: Kind::Body, channel: self.channel, bytes });
        let last = u32::try_from(left % u64::from(part)).ok()?;
        let last = if last > 0 { frame(last) } else { 0 };
        Some(left / u64::from(part) * frame(part) + last)
    }
}
