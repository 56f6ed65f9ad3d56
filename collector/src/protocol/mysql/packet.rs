//! Packets, read one message after the other: of each the beginning is kept, the rest is skipped.
//!
//! A packet has a length of three bytes and a sequence id. One of the greatest length is continued
//! by the next; together they are one message.

/// Bytes before a packet's payload.
pub(super) const HEADER_BYTES: usize = 4;
/// Length of a packet that the next one continues.
pub(super) const CONTINUED_LENGTH: u32 = 0xff_ffff;
/// Most bytes of a message that may be kept.
pub(super) const KEPT_BYTES_MAX: usize = 1 << 20;
/// Largest buffer that is kept from one message to the next.
const BUFFER_BYTES_MAX: usize = 1024;

/// The sequence ids of one message do not count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfSequence;

/// What a look at the bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// This many have to be there at once.
    Need(usize),
    /// This many were taken.
    Took(usize),
    /// The next so many are not wanted.
    Skip(u64),
    /// With this many, possibly none, the message is complete.
    Done(usize),
}

/// The head of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of its payload.
    pub(super) length: u32,
    /// Its sequence id.
    pub(super) sequence: u8,
}

impl Header {
    /// The head of the packet that `bytes` start with.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (&[a, b, c, sequence], _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        Some(Self { length: u32::from_le_bytes([a, b, c, 0]), sequence })
    }
}

/// A complete message.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// The first bytes of its payload.
    pub(super) kept: Vec<u8>,
    /// Bytes of its payload.
    pub(super) length: u64,
    /// Bytes with the heads of its packets.
    pub(super) wire_bytes: u64,
    /// Sequence id of its first packet.
    pub(super) sequence: u8,
    /// Sequence id that comes after its last packet.
    pub(super) next_sequence: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// Before bytes of a payload that are not wanted.
    Rest(u32),
    /// At the end of a packet; whether the next one continues it.
    End { continued: bool },
    /// Before the head of a packet that continues the last.
    NextHead,
}

/// Reads one message after the other.
#[derive(Debug, Default)]
pub(super) struct Packets {
    at: At,
    continued: bool,
    message: Message,
}

impl Packets {
    pub(super) fn is_between_messages(&self) -> bool {
        self.at == At::Head
    }

    /// The message that is complete, until the next read.
    pub(super) const fn message(&self) -> &Message {
        &self.message
    }

    /// Reads on. Of each message as many bytes are kept as `wanted` says of its first byte and the
    /// length of its first packet.
    pub(super) fn read(
        &mut self,
        bytes: &[u8],
        wanted: impl FnOnce(u8, u32) -> usize,
    ) -> Result<Progress, OutOfSequence> {
        match self.at {
            At::Head => Ok(self.head(bytes, wanted)),
            At::NextHead => self.next_head(bytes),
            At::Rest(length) => {
                self.at = At::End { continued: self.continued };
                Ok(Progress::Skip(u64::from(length)))
            }
            At::End { continued: false } => {
                self.at = At::Head;
                Ok(Progress::Done(0))
            }
            At::End { continued: true } => {
                self.at = At::NextHead;
                self.next_head(bytes)
            }
        }
    }

    fn head(&mut self, bytes: &[u8], wanted: impl FnOnce(u8, u32) -> usize) -> Progress {
        let Some(header) = Header::of(bytes) else { return Progress::Need(HEADER_BYTES) };
        let kept = match bytes.get(HEADER_BYTES) {
            _ if header.length == 0 => 0,
            None => return Progress::Need(HEADER_BYTES + 1),
            Some(&first) => {
                let wanted = u32::try_from(wanted(first, header.length).min(KEPT_BYTES_MAX));
                wanted.unwrap_or(0).min(header.length)
            }
        };
        let end = HEADER_BYTES + kept as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..end) else { return Progress::Need(end) };
        self.message.kept.clear();
        self.message.kept.shrink_to(BUFFER_BYTES_MAX);
        self.message.kept.extend_from_slice(payload);
        self.message.sequence = header.sequence;
        (self.message.length, self.message.wire_bytes) = (0, 0);
        self.count(header);
        match header.length - kept {
            0 if !self.continued => Progress::Done(end),
            rest => {
                self.at = if rest > 0 { At::Rest(rest) } else { At::NextHead };
                Progress::Took(end)
            }
        }
    }

    /// Takes the head of a packet that continues the last one.
    fn next_head(&mut self, bytes: &[u8]) -> Result<Progress, OutOfSequence> {
        let Some(header) = Header::of(bytes) else { return Ok(Progress::Need(HEADER_BYTES)) };
        if header.sequence != self.message.next_sequence {
            return Err(OutOfSequence);
        }
        self.count(header);
        self.at = At::Rest(header.length);
        if header.length == 0 {
            self.at = At::Head;
            return Ok(Progress::Done(HEADER_BYTES));
        }
        Ok(Progress::Took(HEADER_BYTES))
    }

    fn count(&mut self, header: Header) {
        self.continued = header.length == CONTINUED_LENGTH;
        let message = &mut self.message;
        message.length = message.length.saturating_add(u64::from(header.length));
        message.wire_bytes =
            message.wire_bytes.saturating_add(u64::from(header.length) + HEADER_BYTES as u64);
        message.next_sequence = header.sequence.wrapping_add(1);
    }
}

/// The fields of a payload, taken from its front; `None` where it is too short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number whose first byte says how long it is.
    pub(super) fn length_encoded(&mut self) -> Option<u64> {
        match self.byte()? {
            byte @ ..=0xfa => Some(u64::from(byte)),
            0xfc => self.u16().map(u64::from),
            0xfd => self.array().map(|[a, b, c]| u64::from(u32::from_le_bytes([a, b, c, 0]))),
            0xfe => self.u64(),
            0xfb | 0xff => None,
        }
    }

    /// A string with its length before it.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length_encoded()?).ok()?;
        self.bytes(length)
    }

    /// A string up to the zero after it, or to the end.
    pub(super) fn zero_terminated(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let taken = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_packets_is_one_and_only_its_beginning_is_kept() {
        let mut packets = Packets::default();
        let head = [0xff, 0xff, 0xff, 0, b'a', b'b', b'c'];
        assert_eq!(packets.read(&head[..3], |_, _| 2), Ok(Progress::Need(4)));
        assert_eq!(packets.read(&head[..4], |_, _| 2), Ok(Progress::Need(5)));
        assert_eq!(packets.read(&head[..5], |_, _| 2), Ok(Progress::Need(6)));
        assert_eq!(packets.read(&head, |_, _| 2), Ok(Progress::Took(6)));
        assert_eq!(packets.read(&[], |_, _| 2), Ok(Progress::Skip(0xff_fffd)));
        assert_eq!(packets.read(&[1, 0, 0, 2], |_, _| 2), Err(OutOfSequence));
        assert_eq!(packets.read(&[1, 0, 0, 1], |_, _| 2), Ok(Progress::Took(4)));
        assert!(!packets.is_between_messages());
        assert_eq!(packets.read(&[], |_, _| 2), Ok(Progress::Skip(1)));
        assert_eq!(packets.read(&[], |_, _| 2), Ok(Progress::Done(0)));
        assert!(packets.is_between_messages());
        let message = packets.message();
        assert_eq!((message.kept.as_slice(), message.length), (&b"ab"[..], 0x0100_0000));
        assert_eq!((message.sequence, message.next_sequence), (0, 2));
        assert_eq!(message.wire_bytes, 0x0100_0008);
    }

    #[test]
    fn numbers_say_how_long_they_are() {
        for (bytes, expected) in [
            (&[0xfa][..], Some(250)),
            (&[0xfc, 1, 2], Some(0x201)),
            (&[0xfd, 1, 2, 3], Some(0x3_0201)),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 1], Some(0x0100_0000_0000_0001)),
            (&[0xfc, 1], None),
            (&[0xfb], None),
            (&[0xff], None),
            (&[], None),
        ] {
            assert_eq!(Fields(bytes).length_encoded(), expected, "{bytes:?}");
        }
    }
}
