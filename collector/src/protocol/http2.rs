//! HTTP/2, both directions of a connection, watched from outside; gRPC with it.
//!
//! ```text
//!            bytes, holes              headers, data, resets
//! requests ───────────────► Direction ───────────────────────┐
//!                         (frames, hpack)                    ├─► Streams, by number ─► Output::done
//! responses ──────────────► Direction ───────────────────────┘
//! ```
//!
//! **Loss.** A hole inside a frame of data changes nothing but the row's quality, and one inside a
//! frame of no interest nothing at all. Any other hole, and bytes that are no frames, put the
//! direction *out of step*: all streams in flight are dropped and counted, and the direction is
//! read again where an operation starts with what only frames can be. Its table of headers is
//! unknown from there on, as is all of it where a connection was joined midway: what refers to
//! what was not seen is `?`, and the row says so. Responses name their stream, and no stream's
//! number is used twice, so what begins after that is paired at once; where responses are read
//! again, the streams that began meanwhile are dropped too, since some of theirs may be missing. A
//! response to a request that was not seen is dropped. Hence no pair ever spans a gap.
//!
//! **Bounds.** The streams that were dropped are certainly missing rows; the bytes that went by
//! unread in the direction of requests can hold at most one request per [`REQUEST_BYTES_MIN`], and
//! so can those of responses unless the client was seen to forbid promises (`SETTINGS_ENABLE_PUSH`).
//!
//! A connection that is upgraded from HTTP/1.1 (`101`, `Upgrade: h2c`) stays opaque.

mod direction;
mod frame;
mod hpack;
mod huffman;
pub(super) mod mask;
mod stream;

use super::dialogue::Side;
use super::exchange::{Exchange, ResponseProgress};
use super::gap::{Cause, GapAccount, LostRows, Start};
use super::output::{Finished, Output, QUALITY_ENDED_BY_CLOSE, QUALITY_MIDSTREAM};
use super::{Protocol, ProtocolCode};
use crate::data_stream::{Missing, Operation};
use crate::event::Flow;
use direction::{Direction, Item, Settings};
pub use frame::{probe_request, probe_response};
use stream::{Role, Streams};

/// Shortest request: the head of a frame and one byte.
pub const REQUEST_BYTES_MIN: u64 = 9 + 1;
/// Most requests of a connection that wait for their response.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Most bytes that those requests may hold. Bodies are not kept beyond it.
pub const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    requests: Flow,
    directions: [Direction; 2],
    streams: Streams,
    /// The last stream that the client was seen to begin.
    last_stream: u32,
    /// Whether the server may promise responses that were not asked for. It may until its client
    /// says otherwise, and that may be among what is missing.
    may_promise: bool,
    midstream: bool,
    gaps: GapAccount,
}

impl Http2 {
    /// A connection whose requests go the way of `requests`.
    pub fn new(requests: Flow, start: Start) -> Self {
        let directions = [Side::Client, Side::Server].map(|side| match start {
            Start::AtItsBeginning => Direction::at_beginning(side),
            Start::AfterGap { .. } => Direction::after_gap(),
        });
        Self {
            requests,
            directions,
            streams: Streams::default(),
            last_stream: 0,
            may_promise: true,
            midstream: matches!(start, Start::AfterGap { cause: Cause::Midstream, .. }),
            gaps: GapAccount::new(REQUEST_BYTES_MIN, start),
        }
    }

    fn side(&self, flow: Flow) -> Side {
        if flow == self.requests { Side::Client } else { Side::Server }
    }
}

impl Protocol for Http2 {
    fn code(&self) -> ProtocolCode {
        ProtocolCode::Http2
    }

    fn requests(&self) -> Flow {
        self.requests
    }

    fn is_opaque(&self) -> bool {
        false
    }

    fn is_out_of_step(&self) -> bool {
        self.directions.iter().any(Direction::is_out)
    }

    fn is_between_messages(&self, flow: Flow) -> bool {
        self.directions[self.side(flow) as usize].is_between_frames()
    }

    fn in_flight(&self) -> usize {
        self.streams.len()
    }

    fn memory_bytes(&self) -> usize {
        let directions: usize = self.directions.iter().map(Direction::memory_bytes).sum();
        size_of::<Self>() + self.streams.bytes() + directions
    }

    fn bytes(&mut self, flow: Flow, bytes: &[u8], operation: Operation, out: &mut Output) {
        let side = self.side(flow);
        if self.directions[side as usize].is_out() && !self.resume(side, bytes, operation, out) {
            self.unread(side, bytes.len() as u64);
            return;
        }
        let mut rest = bytes;
        loop {
            let direction = &mut self.directions[side as usize];
            let unread = direction.pending_bytes() + rest.len();
            match direction.next(&mut rest, operation.at) {
                Ok(Some(item)) => self.item(side, &item, operation, out),
                Ok(None) => return,
                Err(hpack::Bad) => {
                    self.fall_out_of_step(side, Cause::ParseError, out);
                    self.unread(side, unread as u64);
                    return;
                }
            }
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
        let side = self.side(flow);
        let direction = &mut self.directions[side as usize];
        let (inside, body) = direction.hole(missing);
        if let Some((stream, bytes, ends)) = body {
            self.streams.body_hole(stream, side, bytes, operation.at);
            if ends {
                self.ends(side, stream, operation, out);
            }
        }
        if inside < missing {
            let direction = &self.directions[side as usize];
            let (is_out, pending) = (direction.is_out(), direction.pending_bytes());
            if !is_out {
                self.fall_out_of_step(side, Cause::of(why), out);
                self.unread(side, pending as u64);
            }
            self.unread(side, missing - inside);
        }
    }

    fn close(&mut self, at: u64, out: &mut Output) {
        if self.directions[Side::Server as usize].is_out() {
            self.lose_streams(out);
        }
        while let Some(mut exchange) = self.streams.end_first() {
            match exchange.response {
                ResponseProgress::Awaited => exchange.responded_at = at,
                ResponseProgress::Begun => exchange.quality |= QUALITY_ENDED_BY_CLOSE,
                ResponseProgress::Complete => {}
            }
            finish(exchange, out);
        }
    }

    fn has_lost_rows(&self) -> bool {
        self.gaps.has_rows()
    }

    fn take_lost_rows(&mut self) -> Option<LostRows> {
        self.gaps.take()
    }
}

impl Http2 {
    /// Reads a direction again where `bytes` are frames.
    fn resume(&mut self, side: Side, bytes: &[u8], operation: Operation, out: &mut Output) -> bool {
        let direction = &mut self.directions[side as usize];
        if operation.continued || !direction.resume(side, bytes) {
            return false;
        }
        if side == Side::Server {
            self.lose_streams(out);
        }
        true
    }

    fn fall_out_of_step(&mut self, side: Side, cause: Cause, out: &mut Output) {
        self.gaps.begin(cause);
        self.lose_streams(out);
        self.may_promise |= side == Side::Client;
        self.directions[side as usize] = Direction::after_gap();
    }

    fn lose_streams(&mut self, out: &mut Output) {
        while let Some(exchange) = self.streams.end_first() {
            self.gaps.lose_row();
            out.recycle_exchange(exchange);
        }
    }

    /// Counts bytes that went by unread where requests may have been in them.
    fn unread(&mut self, side: Side, bytes: u64) {
        if side == Side::Client || self.may_promise {
            self.gaps.unread(bytes);
        }
    }

    fn item(&mut self, side: Side, item: &Item<'_>, operation: Operation, out: &mut Output) {
        match *item {
            Item::Headers { stream, ends } => {
                match side {
                    Side::Client => self.client_headers(stream, operation, out),
                    Side::Server => self.server_headers(stream, ends, operation, out),
                }
                if ends {
                    self.ends(side, stream, operation, out);
                }
            }
            Item::Promise { promised } if side == Side::Server && self.streams.has(promised) => {
                // Numbers of streams count up, so there is something wrong with one of them.
                self.gaps.unread(REQUEST_BYTES_MIN);
            }
            Item::Promise { promised } if side == Side::Server => {
                self.begin(side, promised, operation, out);
                self.streams.change(promised, |exchange| exchange.request_complete = true);
            }
            Item::Data { stream, bytes, ends } => {
                self.streams.body(stream, side, bytes, operation.at, out);
                if ends {
                    self.ends(side, stream, operation, out);
                }
            }
            Item::Reset { stream } => self.reset(stream, operation, out),
            Item::Settings(settings) => self.settings(side, settings),
            Item::Acknowledged => self.directions[side as usize].decoder.acknowledge(),
            Item::GoAway { last } if side == Side::Server => {
                for stream in self.streams.after(last) {
                    // Those that the server began are its own.
                    if !stream.is_multiple_of(2) {
                        self.reset(stream, operation, out);
                    }
                }
            }
            Item::Promise { .. } | Item::GoAway { .. } => {}
        }
    }

    /// What an end says of itself binds the other.
    fn settings(&mut self, side: Side, settings: Settings) {
        if side == Side::Client
            && let Some(push) = settings.push
        {
            self.may_promise = push != 0;
        }
        let other = &mut self.directions[1 - side as usize];
        other.decoder.announce(settings.table_bytes);
        if let Some(bytes) = settings.payload_bytes {
            other.allow_payload(bytes);
        }
    }

    fn client_headers(&mut self, stream: u32, operation: Operation, out: &mut Output) {
        let fields = &self.directions[Side::Client as usize].fields;
        let is_request = stream::role(fields) == Role::Request;
        let is_under_way = self.streams.has(stream);
        if is_under_way && !is_request {
            let mode = out.redaction.headers;
            self.streams.change(stream, |exchange| {
                stream::add_trailers(fields, Side::Client, mode, exchange);
            });
        } else if !is_under_way && stream > self.last_stream {
            self.last_stream = stream;
            if is_request {
                self.begin(Side::Client, stream, operation, out);
            } else {
                // Trailers of a request that was not seen, or a request of which nothing is known.
                self.gaps.unread(REQUEST_BYTES_MIN);
            }
        } else if is_request {
            // Numbers of streams count up, so there is something wrong with one of them.
            self.gaps.unread(REQUEST_BYTES_MIN);
        }
    }

    /// Begins a stream with the request that `side` sent just now.
    fn begin(&mut self, side: Side, stream: u32, operation: Operation, out: &mut Output) {
        let direction = &self.directions[side as usize];
        let mut exchange = out.exchange();
        exchange.major_version = 2;
        exchange.requested_at = direction.began_at();
        exchange.process = operation.process;
        exchange.quality = if self.midstream { QUALITY_MIDSTREAM } else { 0 };
        stream::request_into(&direction.fields, out.redaction.headers, &mut exchange);
        self.streams.begin(stream, exchange);
        self.check_room(out);
    }

    fn server_headers(&mut self, stream: u32, ends: bool, operation: Operation, out: &mut Output) {
        let fields = &self.directions[Side::Server as usize].fields;
        let mode = out.redaction.headers;
        let role = stream::role(fields);
        self.streams.change(stream, |exchange| {
            exchange.responded_at = operation.at;
            let is_first = exchange.response == ResponseProgress::Awaited;
            match role {
                Role::Response(status) => stream::response_into(fields, status, mode, exchange),
                Role::Interim => {}
                // Their status is not known. Only trailers end a response that has begun.
                _ if is_first || !ends => stream::response_into(fields, 0, mode, exchange),
                _ => stream::add_trailers(fields, Side::Server, mode, exchange),
            }
        });
        self.check_room(out);
    }

    /// Drops all streams where there are more than may be; the connection stays in step.
    fn check_room(&mut self, out: &mut Output) {
        if self.streams.len() > IN_FLIGHT_MAX || self.streams.bytes() > IN_FLIGHT_BYTES_MAX {
            self.gaps.begin(Cause::InFlightFull);
            self.lose_streams(out);
        }
    }

    /// `side` sends nothing more on a stream.
    fn ends(&mut self, side: Side, stream: u32, operation: Operation, out: &mut Output) {
        let mut is_done = false;
        self.streams.change(stream, |exchange| {
            match side {
                Side::Client => exchange.request_complete = true,
                Side::Server => {
                    exchange.response = ResponseProgress::Complete;
                    exchange.responded_at = operation.at;
                }
            }
            let is_answered = exchange.response == ResponseProgress::Complete;
            is_done = exchange.request_complete && is_answered;
        });
        if is_done && let Some(exchange) = self.streams.end(stream) {
            finish(exchange, out);
        }
    }

    /// A stream is given up by either end.
    fn reset(&mut self, stream: u32, operation: Operation, out: &mut Output) {
        let Some(mut exchange) = self.streams.end(stream) else { return };
        if exchange.response != ResponseProgress::Complete {
            exchange.quality |= QUALITY_ENDED_BY_CLOSE;
            exchange.responded_at = operation.at;
        }
        finish(exchange, out);
    }
}

fn finish(mut exchange: Box<Exchange>, out: &mut Output) {
    exchange.responded_at = exchange.responded_at.max(exchange.requested_at);
    exchange.unpack_bodies(out);
    out.done.push(Finished::Http(exchange));
}

#[cfg(test)]
mod talk;
#[cfg(test)]
mod tests;
