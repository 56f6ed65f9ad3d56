//! What servers read before the rest of a packet, so that what they read next begins in its middle.

use crate::data_stream::{Operation, Piece};
use crate::event::Flow;
use crate::protocol::may_begin_tls;

/// Bytes of the head of a packet that some servers read before the rest.
const PACKET_HEAD_BYTES: usize = 4;
/// As much of a TLS record, which OpenSSL reads before the rest.
const RECORD_HEAD_BYTES: usize = 5;

/// The last operation on an opaque connection, where it may be the head of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketHead {
    flow: Flow,
    pos: u64,
    bytes: [u8; RECORD_HEAD_BYTES],
    len: usize,
    operation: Operation,
}

impl PacketHead {
    /// The head that a message may be.
    pub(super) fn of(piece: &Piece<'_>) -> Option<Self> {
        let Piece { flow, pos, payload, operation, .. } = *piece;
        let len = payload.len();
        let is_head = match len {
            PACKET_HEAD_BYTES => true,
            RECORD_HEAD_BYTES => may_begin_tls(payload),
            _ => false,
        };
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes.get_mut(..len)?.copy_from_slice(payload);
        (is_head && piece.len == len as u64).then_some(Self { flow, pos, bytes, len, operation })
    }

    /// The message.
    pub(super) fn piece(&self) -> Piece<'_> {
        let Self { flow, pos, ref bytes, len, operation } = *self;
        let payload = &bytes[..len];
        Piece { flow, pos, len: len as u64, payload, uncaptured: None, operation }
    }

    /// Whether `piece` is what follows.
    pub(super) fn is_before(&self, piece: &Piece<'_>) -> bool {
        self.flow == piece.flow && self.pos + self.len as u64 == piece.pos
    }
}

/// Whether a head is that of a TLS record, and of nothing else.
pub(super) const fn is_of_tls(bytes: &[u8]) -> bool {
    bytes.len() == RECORD_HEAD_BYTES
}
