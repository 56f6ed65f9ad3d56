//! The two directions of a connection as ordered byte streams.
//!
//! Messages name the position of their first byte. What comes in order is handed on at once,
//! without a copy. What comes too early waits, and with it everything that the connection sends
//! later, so that requests and responses keep their order; when the missing bytes cannot come any
//! more they are declared a hole of known length. They cannot come once messages that are
//! [`REORDER_NS_MAX`] younger were read, since the ring is in order but for what another CPU was
//! just about to send.

use std::collections::VecDeque;

use crate::event::{Flow, ProcessKey, Uncaptured};

/// How much later than a message the one before it can come through the ring, in nanoseconds.
pub const REORDER_NS_MAX: u64 = 5_000_000;
/// Most payload bytes that wait on one connection; beyond it the first gap is declared at once.
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// Most messages that wait on one connection.
pub const HELD_PIECES_MAX: usize = 1024;

/// What a data message says.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which way the bytes went.
    pub flow: Flow,
    /// Position of the first byte.
    pub pos: u64,
    /// Bytes that it covers.
    pub len: u64,
    /// The first of them, as many as were captured.
    pub payload: &'a [u8],
    /// Why the others were not.
    pub uncaptured: Option<Uncaptured>,
    /// What is known of the operation.
    pub operation: Operation,
}

/// The operation of a process that moved bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// `CLOCK_MONOTONIC` at its end, in nanoseconds.
    pub at: u64,
    /// Who did it.
    pub process: ProcessKey,
    /// Whether the bytes are not the first of the operation.
    pub continued: bool,
}

/// What is handed on, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// Bytes of an operation.
    Bytes(Flow, &'a [u8], Operation),
    /// Bytes of which only the number is known.
    Hole(Flow, u64, Missing, Operation),
}

/// Why a hole is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// The messages were lost.
    Lost,
    /// The message came without them.
    Uncaptured(Uncaptured),
}

#[derive(Debug)]
struct Held {
    flow: Flow,
    pos: u64,
    len: u64,
    payload: Box<[u8]>,
    uncaptured: Option<Uncaptured>,
    operation: Operation,
}

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct DataStreams {
    next: [u64; 2],
    held: VecDeque<Held>,
    held_bytes: usize,
    late_bytes: u64,
}

impl DataStreams {
    /// Forgets what waits: nothing before these positions is of interest.
    pub fn restart_at(&mut self, positions: [u64; 2]) {
        *self = Self { next: positions, late_bytes: self.late_bytes, ..Self::default() };
    }

    /// Takes a message and hands on what is now in order.
    #[inline]
    pub fn push(&mut self, piece: Piece<'_>, deliver: &mut impl FnMut(Delivery<'_>)) {
        let Some(piece) = self.without_overlap(piece) else { return };
        let in_order = piece.pos == self.next[piece.flow.index()];
        if in_order && (self.held.is_empty() || self.holds(piece.flow)) {
            self.hand_on(&piece, deliver);
            if !self.held.is_empty() {
                self.hand_on_held(deliver);
            }
            return;
        }
        self.hold(&piece);
        while self.held_bytes > HELD_BYTES_MAX || self.held.len() > HELD_PIECES_MAX {
            self.declare_first_gap(deliver);
        }
    }

    /// Declares the gaps whose missing bytes cannot come any more, now that everything sent before
    /// `watermark` was read.
    pub fn advance(&mut self, watermark: u64, deliver: &mut impl FnMut(Delivery<'_>)) {
        while self.gap_since().is_some_and(|at| at.saturating_add(REORDER_NS_MAX) <= watermark) {
            self.declare_first_gap(deliver);
        }
    }

    /// Declares every gap.
    pub fn settle(&mut self, deliver: &mut impl FnMut(Delivery<'_>)) {
        while !self.held.is_empty() {
            self.declare_first_gap(deliver);
        }
    }

    /// Declares every gap up to the connection's final sizes.
    pub fn finish(&mut self, sizes: [u64; 2], at: u64, deliver: &mut impl FnMut(Delivery<'_>)) {
        self.settle(deliver);
        let operation = Operation { at, ..Operation::default() };
        for flow in [Flow::Ingress, Flow::Egress] {
            let missing = sizes[flow.index()].saturating_sub(self.next[flow.index()]);
            if missing > 0 {
                self.next[flow.index()] += missing;
                deliver(Delivery::Hole(flow, missing, Missing::Lost, operation));
            }
        }
    }

    /// Whether all bytes up to the connection's final sizes have come.
    pub fn is_complete(&self, sizes: [u64; 2]) -> bool {
        self.held.is_empty() && self.next[0] >= sizes[0] && self.next[1] >= sizes[1]
    }

    /// Bytes up to `sizes` that have not come.
    pub fn missing(&self, sizes: [u64; 2]) -> u64 {
        let missing = |flow: Flow| sizes[flow.index()].saturating_sub(self.next[flow.index()]);
        missing(Flow::Ingress).saturating_add(missing(Flow::Egress))
    }

    /// When the first message that waits for missing bytes was sent.
    pub fn gap_since(&self) -> Option<u64> {
        self.held.front().map(|held| held.operation.at)
    }

    /// Payload bytes that wait.
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes that came after they had been declared missing, since the last call.
    pub fn take_late_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.late_bytes)
    }

    fn holds(&self, flow: Flow) -> bool {
        self.held.iter().any(|held| held.flow == flow)
    }

    /// The part of `piece` that was not handed on yet.
    #[inline]
    fn without_overlap<'a>(&mut self, mut piece: Piece<'a>) -> Option<Piece<'a>> {
        let seen = self.next[piece.flow.index()].saturating_sub(piece.pos);
        if seen == 0 {
            return (piece.len > 0).then_some(piece);
        }
        let overlap = seen.min(piece.len);
        self.late_bytes += overlap;
        if overlap == piece.len {
            return None;
        }
        piece.pos += overlap;
        piece.len -= overlap;
        let skip = usize::try_from(overlap).unwrap_or(usize::MAX).min(piece.payload.len());
        piece.payload = &piece.payload[skip..];
        piece.operation.continued = true;
        Some(piece)
    }

    #[inline]
    fn hand_on(&mut self, piece: &Piece<'_>, deliver: &mut impl FnMut(Delivery<'_>)) {
        let next = &mut self.next[piece.flow.index()];
        *next = next.saturating_add(piece.len);
        if !piece.payload.is_empty() {
            deliver(Delivery::Bytes(piece.flow, piece.payload, piece.operation));
        }
        let missing = piece.len - piece.payload.len() as u64;
        if missing > 0 {
            let why = Missing::Uncaptured(piece.uncaptured.unwrap_or(Uncaptured::Truncated));
            deliver(Delivery::Hole(piece.flow, missing, why, piece.operation));
        }
    }

    fn hold(&mut self, piece: &Piece<'_>) {
        self.held_bytes += piece.payload.len();
        self.held.push_back(Held {
            flow: piece.flow,
            pos: piece.pos,
            len: piece.len,
            payload: piece.payload.into(),
            uncaptured: piece.uncaptured,
            operation: piece.operation,
        });
    }

    /// Hands on what waits, in the order of its arrival, as far as it is in order.
    fn hand_on_held(&mut self, deliver: &mut impl FnMut(Delivery<'_>)) {
        while let Some(front) = self.held.front() {
            let flow = front.flow;
            let next = self.next[flow.index()];
            let ready = self.held.iter().position(|held| held.flow == flow && held.pos <= next);
            let Some(held) = ready.and_then(|at| self.held.remove(at)) else { return };
            self.held_bytes -= held.payload.len();
            let piece = Piece {
                flow,
                pos: held.pos,
                len: held.len,
                payload: &held.payload,
                uncaptured: held.uncaptured,
                operation: held.operation,
            };
            if let Some(piece) = self.without_overlap(piece) {
                self.hand_on(&piece, deliver);
            }
        }
    }

    fn declare_first_gap(&mut self, deliver: &mut impl FnMut(Delivery<'_>)) {
        let Some(front) = self.held.front() else { return };
        let (flow, operation) = (front.flow, front.operation);
        let next = self.next[flow.index()];
        let first = self.held.iter().filter(|held| held.flow == flow).map(|held| held.pos).min();
        let missing = first.unwrap_or(next).saturating_sub(next);
        if missing > 0 {
            self.next[flow.index()] += missing;
            deliver(Delivery::Hole(flow, missing, Missing::Lost, operation));
        }
        self.hand_on_held(deliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(flow: Flow, pos: u64, payload: &[u8], at: u64) -> Piece<'_> {
        let operation = Operation { at, ..Operation::default() };
        Piece { flow, pos, len: payload.len() as u64, payload, uncaptured: None, operation }
    }

    fn show(delivery: Delivery<'_>) -> String {
        match delivery {
            Delivery::Bytes(flow, bytes, _) => {
                format!("{flow:?} {}", String::from_utf8_lossy(bytes))
            }
            Delivery::Hole(flow, bytes, missing, _) => format!("{flow:?} -{bytes} {missing:?}"),
        }
    }

    #[test]
    fn a_message_that_came_too_early_waits_and_the_other_direction_with_it() {
        let mut streams = DataStreams::default();
        let mut seen = Vec::new();
        let mut deliver = |delivery: Delivery<'_>| seen.push(show(delivery));
        streams.push(piece(Flow::Ingress, 0, b"a", 1), &mut deliver);
        streams.push(piece(Flow::Ingress, 2, b"c", 3), &mut deliver);
        streams.push(piece(Flow::Egress, 0, b"x", 4), &mut deliver);
        streams.push(piece(Flow::Ingress, 1, b"b", 2), &mut deliver);
        assert_eq!(seen, ["Ingress a", "Ingress b", "Ingress c", "Egress x"]);
        assert_eq!((streams.held_bytes(), streams.gap_since()), (0, None));
    }

    #[test]
    fn bytes_that_cannot_come_any_more_are_a_hole_of_known_length() {
        let mut streams = DataStreams::default();
        let mut seen = Vec::new();
        let mut deliver = |delivery: Delivery<'_>| seen.push(show(delivery));
        streams.push(piece(Flow::Ingress, 10, b"k", 100), &mut deliver);
        streams.advance(100 + REORDER_NS_MAX - 1, &mut deliver);
        streams.advance(100 + REORDER_NS_MAX, &mut deliver);
        streams.push(piece(Flow::Ingress, 3, b"late", 101), &mut deliver);
        assert_eq!(seen, ["Ingress -10 Lost", "Ingress k"]);
        assert_eq!(streams.take_late_bytes(), 4);
    }

    #[test]
    fn a_truncated_message_is_its_bytes_and_a_hole() {
        let mut streams = DataStreams::default();
        let mut seen = Vec::new();
        let mut deliver = |delivery: Delivery<'_>| seen.push(show(delivery));
        let mut cut = piece(Flow::Egress, 0, b"head", 1);
        (cut.len, cut.uncaptured) = (100, Some(Uncaptured::Bypassed));
        streams.push(cut, &mut deliver);
        streams.finish([0, 110], 9, &mut deliver);
        assert_eq!(seen, ["Egress head", "Egress -96 Uncaptured(Bypassed)", "Egress -10 Lost"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut streams = DataStreams::default();
        let mut bytes = 0;
        let payload = [0; 1000];
        for index in 0..5000 {
            streams.push(piece(Flow::Ingress, 1 + index * 1001, &payload, 1), &mut |delivery| {
                if let Delivery::Bytes(_, payload, _) = delivery {
                    bytes += payload.len();
                }
            });
            assert!(streams.held_bytes() <= HELD_BYTES_MAX + payload.len());
        }
        assert!(bytes > 0);
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_stream(
            cuts in proptest::collection::vec(1_usize..20, 1..30),
            order in any::<u64>(),
        ) {
            let total: usize = cuts.iter().sum();
            let stream: Vec<u8> = (0..total).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                pieces.push((at as u64, &stream[at..at + cut]));
                at += cut;
            }
            let mut state = order | 1;
            for index in (1..pieces.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(index, (state >> 33) as usize % (index + 1));
            }
            let mut streams = DataStreams::default();
            let mut got = Vec::new();
            for (pos, bytes) in pieces {
                streams.push(piece(Flow::Ingress, pos, bytes, 1), &mut |delivery| {
                    if let Delivery::Bytes(_, bytes, _) = delivery { got.extend_from_slice(bytes) }
                });
            }
            prop_assert_eq!(got, stream);
        }
    }
}
