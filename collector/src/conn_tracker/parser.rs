//! What reads a connection's bytes, by how much is known of its protocol.

use super::undecided::Undecided;
use crate::data_stream::{Delivery, Missing};
use crate::event::Flow;
use crate::protocol::output::Output;
use crate::protocol::{Protocol, ProtocolCode, Verdict};

/// How decided a connection's protocol is, as its other end wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It may still be anything.
    NotYet,
    /// Requests are read on it.
    Spoken,
    /// No rows come from it.
    Opaque,
}

/// The parser of a conversation that goes on inside TLS.
#[derive(Debug)]
pub struct Inside(pub(super) Box<dyn Protocol>);

/// A connection's protocol and its parser.
#[derive(Debug)]
pub(super) enum Parser {
    Undecided(Undecided),
    Spoken(Box<dyn Protocol>),
    Opaque,
    /// It was spoken; what follows is another protocol, or cannot be read.
    Over {
        code: ProtocolCode,
        requests: Flow,
    },
}

impl Parser {
    /// Whether bytes are only counted.
    pub(super) const fn reads_nothing(&self) -> bool {
        matches!(self, Self::Opaque | Self::Over { .. })
    }

    pub(super) fn take(
        &mut self,
        delivery: Delivery<'_>,
        was_missed: bool,
        lost_bytes: &mut u64,
        opaque_for_good: &mut bool,
        out: &mut Output,
    ) {
        if let Delivery::Hole(_, bytes, Missing::Lost, _) = delivery {
            *lost_bytes = lost_bytes.saturating_add(bytes);
        }
        match self {
            Self::Spoken(protocol) => {
                feed(protocol.as_mut(), delivery, out);
                if protocol.is_opaque() {
                    *opaque_for_good = true;
                }
            }
            Self::Opaque | Self::Over { .. } => {}
            Self::Undecided(undecided) => match undecided.take(delivery) {
                Verdict::NeedMore => {}
                Verdict::Opaque => *self = Self::Opaque,
                Verdict::Speaks { code, requests } => {
                    let undecided = std::mem::take(undecided);
                    let parser = undecided.into_protocol(code, requests, was_missed, delivery, out);
                    *self = Self::Spoken(parser);
                }
            },
        }
    }
}

pub(super) fn feed(protocol: &mut dyn Protocol, delivery: Delivery<'_>, out: &mut Output) {
    match delivery {
        Delivery::Bytes(flow, bytes, operation) => protocol.bytes(flow, bytes, operation, out),
        Delivery::Hole(flow, bytes, why, operation) => {
            protocol.hole(flow, bytes, why, operation, out);
        }
    }
}
