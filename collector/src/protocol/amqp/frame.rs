//! Frames of AMQP.

use super::super::dialogue::Side;
use super::super::{PROBE_BYTES_MAX, Probe};
use super::method::{Method, Sender};

/// What a client begins with.
pub(super) const GREETING: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// Bytes before a frame's payload.
pub(super) const HEAD_BYTES: usize = 7;
/// The last byte of a frame.
pub(super) const END: u8 = 0xce;
/// Longest frame of a method, which is taken in at once.
const METHOD_BYTES_MAX: u32 = 256 * 1024;
/// Longest frame of a message.
const CONTENT_BYTES_MAX: u32 = 512 << 20;
/// Bytes of a message's head that are read: its class, a weight, and its size.
pub(super) const CONTENT_HEAD_BYTES: u32 = 12;

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Method,
    /// The head of a message.
    Header,
    /// A part of a message.
    Body,
    Heartbeat,
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    /// Bytes of the payload.
    pub(super) bytes: u32,
}

impl Head {
    /// Reads a frame's head; `None` where it is none.
    pub(super) fn read(head: [u8; HEAD_BYTES]) -> Option<Self> {
        let [kind, c0, c1, b0, b1, b2, b3] = head;
        let bytes = u32::from_be_bytes([b0, b1, b2, b3]);
        let (kind, allowed) = match kind {
            1 => (Kind::Method, 4..=METHOD_BYTES_MAX),
            2 => (Kind::Header, CONTENT_HEAD_BYTES + 2..=CONTENT_BYTES_MAX),
            3 => (Kind::Body, 0..=CONTENT_BYTES_MAX),
            8 => (Kind::Heartbeat, 0..=0),
            _ => return None,
        };
        let channel = u16::from_be_bytes([c0, c1]);
        allowed.contains(&bytes).then_some(Self { kind, channel, bytes })
    }
}

/// Bytes of a frame with its head and end.
pub(super) const fn frame_bytes(head: Head) -> u64 {
    HEAD_BYTES as u64 + head.bytes as u64 + 1
}

/// Most bytes of a payload in frames of at most `frame_max` bytes, where 0 sets no limit; none where no
/// payload fits.
pub(super) fn part_max(frame_max: u64) -> Option<u32> {
    match frame_max {
        0 => Some(CONTENT_BYTES_MAX),
        _ => {
            u32::try_from(frame_max.checked_sub(HEAD_BYTES as u64 + 1)?).ok().filter(|max| *max > 0)
        }
    }
}

/// What a look at a frame says.
enum Look {
    /// It is one of a side, or of either, and ends here.
    Whole(Sender, usize),
    /// Its end is not there.
    Cut,
    /// It is none.
    No,
}

fn look(bytes: &[u8]) -> Look {
    let Some(head) = bytes.first_chunk() else { return Look::Cut };
    let Some(head) = Head::read(*head) else { return Look::No };
    let end = HEAD_BYTES + usize::try_from(head.bytes).unwrap_or(usize::MAX);
    let (payload, last) = match (bytes.get(HEAD_BYTES..end), bytes.get(end)) {
        (Some(payload), Some(last)) => (payload, *last),
        _ => return look_cut(head.kind, &bytes[HEAD_BYTES..]),
    };
    let sender = match head.kind {
        Kind::Method => Method::read(payload).map(|(method, _)| method.sender),
        Kind::Header | Kind::Body | Kind::Heartbeat => Some(Sender::Both),
    };
    match sender {
        Some(sender) if last == END => Look::Whole(sender, end + 1),
        _ => Look::No,
    }
}

/// What a frame says of which the end is not there.
fn look_cut(kind: Kind, payload: &[u8]) -> Look {
    let is_known = kind != Kind::Method || payload.len() < 4 || Method::find(payload).is_some();
    if is_known { Look::Cut } else { Look::No }
}

/// Whether `bytes` begin with a method's frame that `side` may send.
pub(super) fn is_method_of(side: Side, bytes: &[u8]) -> bool {
    let whole = matches!(look(bytes), Look::Whole(sender, _) if sender.may_be(side));
    bytes.first() == Some(&1) && whole
}

/// Whether `bytes` are at least two frames, the first of a method, one of which only `side` sends.
pub(super) fn probe(side: Side, bytes: &[u8]) -> Probe {
    let bytes = &bytes[..bytes.len().min(PROBE_BYTES_MAX)];
    if bytes.first().is_some_and(|kind| *kind != 1) {
        return Probe::No;
    }
    let (mut rest, mut frames, mut is_certain) = (bytes, 0, false);
    while !rest.is_empty() {
        match look(rest) {
            Look::Whole(sender, _) if !sender.may_be(side) => return Probe::No,
            Look::Whole(sender, end) => {
                rest = &rest[end..];
                frames += 1;
                is_certain |= sender != Sender::Both;
            }
            Look::Cut => break,
            Look::No => return Probe::No,
        }
    }
    let is_full = bytes.len() == PROBE_BYTES_MAX;
    match (frames, is_certain) {
        (2.., true) => Probe::Yes,
        _ if is_full => Probe::No,
        _ => Probe::Maybe,
    }
}
