//! What is said on a connection, on its way through the mask of its protocol.

use std::collections::VecDeque;

use super::{Addresses, Held};
use crate::event::Flow;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::sides::{Outcome, Sides};
use crate::protocol::mask::{self, Mask};
use crate::protocol::{ProtocolCode, Verdict, infer};

/// Most bytes that wait to know what is spoken.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a message that are not decided.
#[derive(Clone, Copy, Debug)]
struct Part {
    message: u64,
    bytes: usize,
}

/// Bytes of both directions of which it is not known what they are, and how they came.
#[derive(Debug, Default)]
struct Waiting {
    bytes: [Vec<u8>; 2],
    came: VecDeque<(Flow, usize)>,
}

impl Waiting {
    fn push(&mut self, flow: Flow, bytes: &[u8]) {
        self.bytes[flow.index()].extend_from_slice(bytes);
        self.came.push_back((flow, bytes.len()));
    }
}

/// What is known of how to tell structure from content.
#[derive(Debug)]
enum State {
    /// The protocol is not known yet, unless it is only asked whether it is this one.
    Undecided { waiting: Waiting, only: Option<ProtocolCode> },
    /// It is.
    Spoken { sides: Sides, requests: Flow },
    /// Nothing is recorded any more.
    Lost,
}

impl Default for State {
    fn default() -> Self {
        Self::Undecided { waiting: Waiting::default(), only: None }
    }
}

/// The conversation before TLS, and the direction of its requests.
type BeforeTls = (Box<dyn Mask>, Flow);

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    state: State,
    /// Where the next byte of each direction is expected.
    next: [Option<u64>; 2],
    /// The messages whose bytes wait, in order.
    parts: [VecDeque<Part>; 2],
    /// It is a plaintext of which it is not known what carries it.
    is_unbound: bool,
    before_tls: Option<BeforeTls>,
}

impl Talk {
    /// Before the first byte that is seen.
    pub(super) fn new(is_plaintext: bool) -> Self {
        Self { is_unbound: is_plaintext, ..Self::default() }
    }

    /// Takes the payload of a message.
    pub(super) fn bytes(
        &mut self,
        flow: Flow,
        pos: u64,
        payload: &[u8],
        message: u64,
        addresses: &mut Addresses,
        held: &mut Held,
    ) {
        let next = &mut self.next[flow.index()];
        let is_next = next.is_none_or(|next| next == pos);
        *next = Some(pos.saturating_add(payload.len() as u64));
        self.parts[flow.index()].push_back(Part { message, bytes: payload.len() });
        if is_next { self.feed(flow, payload, addresses, held) } else { self.lose(held) }
    }

    /// Takes note that bytes were not captured.
    pub(super) fn hole(
        &mut self,
        flow: Flow,
        missing: u64,
        addresses: &mut Addresses,
        held: &mut Held,
    ) {
        if let Some(next) = &mut self.next[flow.index()] {
            *next = next.saturating_add(missing);
        }
        let outcome = match &mut self.state {
            State::Spoken { sides, requests } => {
                sides.hole(side(flow, *requests), missing, addresses)
            }
            State::Undecided { .. } => Outcome::Lost,
            State::Lost => return,
        };
        if outcome != Outcome::GoesOn {
            self.lose(held);
        }
    }

    /// It became known what carries a plaintext, and what was said there before.
    pub(super) fn bound(
        &mut self,
        before: Option<BeforeTls>,
        addresses: &mut Addresses,
        held: &mut Held,
    ) {
        if !std::mem::take(&mut self.is_unbound) {
            return;
        }
        if let (Some((mask, requests)), State::Undecided { waiting, .. }) =
            (before, &mut self.state)
        {
            let waiting = std::mem::take(waiting);
            self.speak(Sides::new(mask), requests, waiting, addresses, held);
        } else {
            self.decide(addresses, held);
        }
    }

    /// What was said before TLS, where it goes on in a plaintext.
    pub(super) fn take_before_tls(&mut self) -> Option<BeforeTls> {
        self.before_tls.take()
    }

    /// Nothing more is recorded, nor what waits.
    pub(super) fn lose(&mut self, held: &mut Held) {
        self.state = State::Lost;
        for part in self.parts.iter_mut().flat_map(|parts| parts.drain(..)) {
            held.give_up(part.message);
        }
    }

    fn feed(&mut self, flow: Flow, payload: &[u8], addresses: &mut Addresses, held: &mut Held) {
        match &mut self.state {
            State::Lost => self.lose(held),
            State::Undecided { waiting, .. } => {
                waiting.push(flow, payload);
                self.decide(addresses, held);
            }
            State::Spoken { sides, requests } => {
                let side = side(flow, *requests);
                let parts = &mut self.parts[flow.index()];
                let outcome = sides.bytes(side, payload, addresses, &mut |masked| {
                    decide_parts(parts, masked, held);
                });
                match outcome {
                    Outcome::GoesOn => {}
                    Outcome::Lost => self.lose(held),
                    Outcome::Another => self.go_over(addresses, held),
                }
            }
        }
    }

    /// Finds out what is spoken.
    fn decide(&mut self, addresses: &mut Addresses, held: &mut Held) {
        let State::Undecided { waiting, only } = &mut self.state else { return };
        let [ingress, egress] = &waiting.bytes;
        let is_full = ingress.len() + egress.len() > WAITING_BYTES_MAX;
        match infer(ingress, egress) {
            Verdict::Speaks { code, requests } if only.is_none_or(|only| only == code) => {
                let waiting = std::mem::take(waiting);
                match mask::start(code) {
                    Some(mask) => {
                        self.speak(Sides::new(mask), requests, waiting, addresses, held);
                    }
                    None => self.lose(held),
                }
            }
            Verdict::NeedMore if !is_full => {}
            // It may go on with what was said before TLS.
            Verdict::Opaque if self.is_unbound && !is_full => {}
            _ => self.lose(held),
        }
    }

    /// Reads what waited as what is spoken.
    fn speak(
        &mut self,
        sides: Sides,
        requests: Flow,
        waiting: Waiting,
        addresses: &mut Addresses,
        held: &mut Held,
    ) {
        let Waiting { bytes, came } = waiting;
        self.state = State::Spoken { sides, requests };
        let mut at = [0; 2];
        for (flow, length) in came {
            let from = at[flow.index()];
            at[flow.index()] += length;
            self.feed(flow, &bytes[flow.index()][from..from + length], addresses, held);
        }
    }

    /// Another protocol follows, which is only looked at if it is TLS.
    fn go_over(&mut self, addresses: &mut Addresses, held: &mut Held) {
        let State::Spoken { mut sides, requests } = std::mem::take(&mut self.state) else { return };
        let mut waiting = Waiting::default();
        for flow in [Flow::Ingress, Flow::Egress] {
            waiting.push(flow, &sides.take_undecided(side(flow, requests)));
        }
        self.before_tls = sides.into_tls().map(|mask| (mask, requests));
        self.state = State::Undecided { waiting, only: Some(ProtocolCode::Tls) };
        self.decide(addresses, held);
    }
}

/// The side that sends what goes the way of `flow`.
fn side(flow: Flow, requests: Flow) -> Side {
    if flow == requests { Side::Client } else { Side::Server }
}

/// Hands decided bytes to the messages that brought them.
fn decide_parts(parts: &mut VecDeque<Part>, mut masked: &[u8], held: &mut Held) {
    while let Some(part) = parts.front_mut() {
        let (taken, rest) = masked.split_at(part.bytes.min(masked.len()));
        held.decide(part.message, taken);
        part.bytes -= taken.len();
        masked = rest;
        if part.bytes > 0 {
            return;
        }
        parts.pop_front();
    }
}
