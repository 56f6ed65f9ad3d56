//! HTTP/1.x, both directions of a connection, watched from outside.
//!
//! ```text
//!            bytes, holes                      complete heads
//! requests ───────────────► framing ─────────► queue of exchanges ─┐ first in, first out
//! responses ──────────────► framing ─────────► head of the queue ──┴──► Output::done
//! ```
//!
//! **Loss.** A hole inside a body of known length changes nothing but the row's quality. Any other
//! hole, and input that is no HTTP, puts the connection *out of step*: every exchange in the queue
//! is dropped and counted, and nothing is paired until a request starts at the start of an
//! operation. Then what was sent before in the other direction belongs to requests before it,
//! because clients wait for their responses; the response to it starts with the next byte. The
//! first exchange after that is a trial: it is counted, not kept. A client that was seen to send
//! requests without waiting ([`Output::peer_pipelines`]) gives no such proof, so its connections
//! stay out of step; at the client's end the request has to follow on [`Silence`]. Hence no pair ever spans a gap.
//!
//! **Bounds.** Out of step, the exchanges that were dropped are certainly missing rows; the bytes
//! that went by unread in the direction of requests can hold at most one request per
//! [`REQUEST_BYTES_MIN`].

mod framing;
mod head;
pub(super) mod mask;
pub(super) mod usual_head;

use std::collections::VecDeque;

use super::exchange::{Exchange, ResponseProgress};
use super::gap::{Cause, GapAccount, LostRows, Start};
use super::output::{
    Finished, Output, QUALITY_BODY_INCOMPLETE, QUALITY_ENDED_BY_CLOSE, QUALITY_MIDSTREAM,
};
use super::silence::Silence;
use super::{Probe, Protocol, ProtocolCode};
use crate::data_stream::{Missing, Operation};
use crate::event::Flow;
use framing::{Framing, Taken};
pub use head::{HEAD_BYTES_MAX, HEADERS_MAX};

/// Shortest request that is taken for one: a verb of one letter as in `A / HTTP/1.0`, and two line
/// ends without a carriage return.
pub const REQUEST_BYTES_MIN: u64 = 14;
/// Longest verb that is taken for one.
const VERB_BYTES_MAX: usize = 20;
/// Most requests of a connection that wait for their response.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Most bytes that those requests may hold.
pub const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;

/// Whether `bytes` start with a request line.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let bytes = &bytes[..bytes.len().min(super::PROBE_BYTES_MAX)];
    let verb = bytes.iter().take(VERB_BYTES_MAX + 1);
    let verb = verb.take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if verb == bytes.len() {
        return if verb <= VERB_BYTES_MAX { Probe::Maybe } else { Probe::No };
    }
    if !(3..=VERB_BYTES_MAX).contains(&verb) || bytes[verb] != b' ' {
        return Probe::No;
    }
    let Some(end) = bytes.iter().position(|b| matches!(b, b'\r' | b'\n' | 0)) else {
        return if bytes.len() < super::PROBE_BYTES_MAX { Probe::Maybe } else { Probe::No };
    };
    let line = &bytes[verb + 1..end];
    match line.iter().rposition(|b| *b == b' ') {
        Some(at) if at > 0 && matches!(&line[at + 1..], b"HTTP/1.0" | b"HTTP/1.1") => Probe::Yes,
        _ => Probe::No,
    }
}

/// Whether `bytes` start with a status line.
pub fn probe_response(bytes: &[u8]) -> Probe {
    const START: &[u8] = b"HTTP/1.";
    let common = bytes.len().min(START.len());
    if bytes[..common] != START[..common] {
        Probe::No
    } else if bytes.len() <= START.len() + 1 {
        Probe::Maybe
    } else if matches!(bytes[7], b'0' | b'1') && bytes[8] == b' ' {
        Probe::Yes
    } else {
        Probe::No
    }
}

#[derive(Debug)]
enum Step {
    /// Every byte has its place.
    In,
    /// Requests and responses cannot be told to belong together.
    Out,
}

/// A connection that speaks HTTP/1.x.
#[derive(Debug)]
pub struct Http1 {
    requests: Flow,
    step: Step,
    request: Framing,
    response: Framing,
    in_flight: VecDeque<Box<Exchange>>,
    in_flight_bytes: usize,
    /// Heads that were complete within the operation at hand.
    heads_in_operation: u32,
    /// The next request is the first after a gap.
    trial: bool,
    /// Pairing was taken up again after a gap.
    resumed: bool,
    midstream: bool,
    silence: Silence,
    gaps: GapAccount,
}

impl Http1 {
    /// A connection whose requests go the way of `requests`.
    pub fn new(requests: Flow, start: Start) -> Self {
        let (step, framing) = match start {
            Start::AtItsBeginning => (Step::In, Framing::HEAD),
            Start::AfterGap { .. } => (Step::Out, Framing::SKIP),
        };
        Self {
            requests,
            step,
            request: framing.clone(),
            response: framing,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            heads_in_operation: 0,
            trial: false,
            resumed: false,
            midstream: matches!(start, Start::AfterGap { cause: Cause::Midstream, .. }),
            silence: Silence::default(),
            gaps: GapAccount::new(REQUEST_BYTES_MIN, start),
        }
    }
}

impl Protocol for Http1 {
    fn code(&self) -> ProtocolCode {
        ProtocolCode::Http
    }

    fn requests(&self) -> Flow {
        self.requests
    }

    fn is_opaque(&self) -> bool {
        self.request.is_opaque()
    }

    fn is_out_of_step(&self) -> bool {
        matches!(self.step, Step::Out)
    }

    fn is_between_messages(&self, flow: Flow) -> bool {
        let framing = if flow == self.requests { &self.request } else { &self.response };
        framing.is_between_messages()
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.in_flight_bytes
            + self.request.partial.capacity()
            + self.response.partial.capacity()
    }

    fn bytes(&mut self, flow: Flow, bytes: &[u8], operation: Operation, out: &mut Output) {
        if flow == self.requests {
            self.heads_in_operation = 0;
            let stays_out = matches!(self.step, Step::Out) && !self.resume(bytes, operation, out);
            self.silence.ends(operation.at);
            if stays_out {
                self.unread(bytes.len());
                return;
            }
            self.request_bytes(bytes, operation, out);
        } else {
            self.silence.ends(operation.at);
            self.response_bytes(bytes, operation, out);
        }
    }

    fn hole(
        &mut self,
        flow: Flow,
        missing: u64,
        why: Missing,
        operation: Operation,
        out: &mut Output,
    ) {
        if self.is_opaque() {
            return;
        }
        self.silence.ends(operation.at);
        let is_request = flow == self.requests;
        if matches!(self.step, Step::Out) {
            self.gaps.unread(if is_request { missing } else { 0 });
            return;
        }
        let framing = if is_request { &mut self.request } else { &mut self.response };
        let in_body = framing.skip(missing);
        if in_body == missing {
            self.body_hole(is_request, missing, operation, out);
            return;
        }
        self.fall_out_of_step(Cause::of(why), out);
        self.gaps.unread(if is_request { missing - in_body } else { 0 });
    }

    fn close(&mut self, at: u64, out: &mut Output) {
        if self.is_opaque() || matches!(self.step, Step::Out) {
            return;
        }
        while let Some(mut exchange) = self.pop() {
            if exchange.response == ResponseProgress::Awaited {
                exchange.responded_at = at;
            } else {
                if exchange.response == ResponseProgress::Begun {
                    exchange.quality |= QUALITY_ENDED_BY_CLOSE;
                }
                exchange.responded_at = exchange.responded_at.max(exchange.requested_at);
            }
            self.finish(exchange, out);
        }
    }

    fn has_lost_rows(&self) -> bool {
        self.gaps.has_rows()
    }

    fn take_lost_rows(&mut self) -> Option<LostRows> {
        self.gaps.take()
    }
}

impl Http1 {
    /// Starts to pair again where `bytes` begin a request and its client is one that waits.
    fn resume(&mut self, bytes: &[u8], operation: Operation, out: &Output) -> bool {
        let proves_turn = self.silence.proves_turn(self.requests, operation.at);
        let is_alone = proves_turn && !out.peer_pipelines;
        if operation.continued || !is_alone || probe_request(bytes) != Probe::Yes {
            return false;
        }
        self.step = Step::In;
        self.trial = true;
        self.resumed = true;
        self.request = Framing::HEAD;
        self.response = Framing::HEAD;
        true
    }

    fn fall_out_of_step(&mut self, cause: Cause, out: &mut Output) {
        self.gaps.begin(cause);
        self.unread(self.request.partial.len());
        while let Some(exchange) = self.pop() {
            self.gaps.lose_row();
            out.recycle_exchange(exchange);
        }
        self.step = Step::Out;
        self.request = Framing::SKIP;
        self.response = Framing::SKIP;
    }

    /// Counts bytes that went by unread in the direction of requests.
    fn unread(&mut self, bytes: usize) {
        self.gaps.unread(bytes as u64);
    }

    fn pop(&mut self) -> Option<Box<Exchange>> {
        let exchange = self.in_flight.pop_front()?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(exchange.memory_bytes());
        if self.in_flight.is_empty() {
            self.in_flight_bytes = 0;
        }
        Some(exchange)
    }

    fn request_bytes(&mut self, mut rest: &[u8], operation: Operation, out: &mut Output) {
        while !rest.is_empty() {
            let took = match self.request.body(rest) {
                Taken::Body { bytes, took, done } => {
                    if let Some(exchange) = self.in_flight.back_mut() {
                        exchange.req_body.take(bytes, out);
                    }
                    if done {
                        self.request_complete(out);
                    }
                    took
                }
                Taken::Framing { took, done } => {
                    if done {
                        self.request_complete(out);
                    }
                    took
                }
                Taken::Head => self.request_head(rest, operation, out),
                Taken::Nothing => return,
                Taken::Bad => 0,
            };
            if took == 0 {
                self.fall_out_of_step(Cause::ParseError, out);
                self.unread(rest.len());
                return;
            }
            rest = &rest[took..];
        }
    }

    /// Takes bytes of a request's head; 0 where they are none.
    fn request_head(&mut self, rest: &[u8], operation: Operation, out: &mut Output) -> usize {
        self.request.begin(operation);
        let Some((took, whole)) = self.request.gather(rest) else { return 0 };
        let Some(whole) = whole else { return took };
        let mut exchange = out.exchange();
        let parsed = head::request(whole.bytes(rest), out, &mut exchange);
        let (length, facts) = match parsed {
            head::Parsed::Complete(length, facts) if !facts.bad_length && !facts.other_coding => {
                (length, facts)
            }
            head::Parsed::Partial if whole.is_borrowed() => {
                out.recycle_exchange(exchange);
                return self.request.keep(rest);
            }
            _ => {
                out.recycle_exchange(exchange);
                self.request.partial = whole.into_gathered();
                return 0;
            }
        };
        let took = if whole.is_borrowed() { length } else { took };
        exchange.requested_at = self.request.began_at();
        exchange.process = operation.process;
        exchange.quality = if self.midstream { QUALITY_MIDSTREAM } else { 0 };
        exchange.probation = std::mem::take(&mut self.trial);
        self.heads_in_operation += 1;
        self.request.next_request(&facts, exchange.method == "CONNECT");
        let complete = self.request.is_between_messages();
        self.in_flight_bytes += exchange.memory_bytes();
        self.in_flight.push_back(exchange);
        if self.in_flight.len() > IN_FLIGHT_MAX || self.in_flight_bytes > IN_FLIGHT_BYTES_MAX {
            self.fall_out_of_step(Cause::InFlightFull, out);
            self.unread(rest.len() - took);
            return rest.len();
        }
        if self.heads_in_operation > 1 && !self.may_pipeline(out) {
            self.unread(rest.len() - took);
            return rest.len();
        }
        if complete {
            self.request_complete(out);
        }
        took
    }

    /// Takes note that the client does not wait for responses. Where pairing was taken up again
    /// because it was thought to wait, it ends.
    fn may_pipeline(&mut self, out: &mut Output) -> bool {
        out.pipelining_seen = true;
        if self.resumed {
            self.fall_out_of_step(Cause::RingFull, out);
        }
        !self.resumed
    }

    fn request_complete(&mut self, out: &mut Output) {
        if let Some(exchange) = self.in_flight.back_mut() {
            exchange.request_complete = true;
        }
        self.finish_front(out);
    }

    fn response_bytes(&mut self, mut rest: &[u8], operation: Operation, out: &mut Output) {
        while !rest.is_empty() {
            let took = match self.response.body(rest) {
                Taken::Body { bytes, took, done } => {
                    if let Some(exchange) = self.in_flight.front_mut() {
                        exchange.resp_body.take(bytes, out);
                        exchange.responded_at = operation.at;
                    }
                    if done {
                        self.response_complete(operation, out);
                    }
                    took
                }
                Taken::Framing { took, done } => {
                    if let Some(exchange) = self.in_flight.front_mut() {
                        exchange.responded_at = operation.at;
                    }
                    if done {
                        self.response_complete(operation, out);
                    }
                    took
                }
                Taken::Head => {
                    let answered = self
                        .in_flight
                        .front()
                        .is_none_or(|front| front.response == ResponseProgress::Complete);
                    if answered {
                        let breaks = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                        if breaks < rest.len() {
                            self.fall_out_of_step(Cause::Unrequested, out);
                        }
                        return;
                    }
                    self.response_head(rest, operation, out)
                }
                Taken::Nothing => return,
                Taken::Bad => 0,
            };
            if took == 0 {
                self.fall_out_of_step(Cause::ParseError, out);
                return;
            }
            rest = &rest[took..];
        }
    }

    /// Takes bytes of a response's head; 0 where they are none.
    fn response_head(&mut self, rest: &[u8], operation: Operation, out: &mut Output) -> usize {
        self.response.begin(operation);
        let Some((took, whole)) = self.response.gather(rest) else { return 0 };
        let Some(whole) = whole else { return took };
        let waiting = self.in_flight.len();
        let Some(exchange) = self.in_flight.front_mut() else { return 0 };
        let before = exchange.memory_bytes();
        let parsed = head::response(whole.bytes(rest), out, exchange);
        let (length, facts) = match parsed {
            head::Parsed::Complete(length, facts) if !facts.bad_length => (length, facts),
            head::Parsed::Partial if whole.is_borrowed() => return self.response.keep(rest),
            _ => return 0,
        };
        let took = if whole.is_borrowed() { length } else { took };
        exchange.responded_at = operation.at;
        self.in_flight_bytes += exchange.memory_bytes().saturating_sub(before);
        let status = exchange.resp_status;
        if (100..200).contains(&status) && status != 101 {
            exchange.resp_status = 0;
            exchange.resp_message.clear();
            exchange.resp_headers.clear();
            self.response = Framing::HEAD;
            return took;
        }
        exchange.content_type = facts.content_type;
        exchange.response = ResponseProgress::Begun;
        let connect = exchange.method == "CONNECT";
        let head_only = exchange.method == "HEAD" || matches!(status, 204 | 304);
        if waiting > 1 && !self.may_pipeline(out) {
            return rest.len();
        }
        if status == 101 || (connect && (200..300).contains(&status)) {
            self.become_opaque(operation, out);
            return rest.len();
        }
        self.response.next_response(&facts, head_only);
        if self.response.is_between_messages() {
            self.response_complete(operation, out);
        }
        if connect {
            self.tunnel_refused(operation, out);
        }
        took
    }

    /// The exchange at hand is the last: what follows is another protocol.
    fn become_opaque(&mut self, operation: Operation, out: &mut Output) {
        if let Some(mut exchange) = self.pop() {
            exchange.request_complete = true;
            exchange.response = ResponseProgress::Complete;
            self.finish(exchange, out);
        }
        // Requests behind an upgrade are never answered.
        while let Some(mut exchange) = self.pop() {
            exchange.responded_at = operation.at;
            self.finish(exchange, out);
        }
        self.request = Framing::OPAQUE;
        self.response = Framing::OPAQUE;
    }

    /// After a refused CONNECT the connection goes on with the next request.
    fn tunnel_refused(&mut self, operation: Operation, out: &mut Output) {
        let waiting = self.request.end_wait();
        if !waiting.is_empty() {
            self.heads_in_operation = 0;
            self.request_bytes(&waiting, operation, out);
        }
    }

    fn response_complete(&mut self, operation: Operation, out: &mut Output) {
        if let Some(exchange) = self.in_flight.front_mut() {
            exchange.response = ResponseProgress::Complete;
            exchange.responded_at = operation.at;
        }
        self.finish_front(out);
    }

    fn body_hole(
        &mut self,
        is_request: bool,
        missing: u64,
        operation: Operation,
        out: &mut Output,
    ) {
        let exchange =
            if is_request { self.in_flight.back_mut() } else { self.in_flight.front_mut() };
        let Some(exchange) = exchange else { return };
        exchange.quality |= QUALITY_BODY_INCOMPLETE;
        let body = if is_request { &mut exchange.req_body } else { &mut exchange.resp_body };
        body.size = body.size.saturating_add(missing);
        if is_request {
            if self.request.is_between_messages() {
                self.request_complete(out);
            }
        } else {
            exchange.responded_at = operation.at;
            if self.response.is_between_messages() {
                self.response_complete(operation, out);
            }
        }
    }

    /// Hands on the front of the queue if both its halves are complete.
    fn finish_front(&mut self, out: &mut Output) {
        let complete = self.in_flight.front().is_some_and(|front| {
            front.request_complete && front.response == ResponseProgress::Complete
        });
        if complete && let Some(exchange) = self.pop() {
            self.finish(exchange, out);
        }
    }

    fn finish(&mut self, mut exchange: Box<Exchange>, out: &mut Output) {
        if exchange.probation {
            self.gaps.lose_row();
            out.recycle_exchange(exchange);
        } else {
            exchange.unpack_bodies(out);
            out.done.push(Finished::Http(exchange));
        }
    }
}

#[cfg(test)]
mod tests;
