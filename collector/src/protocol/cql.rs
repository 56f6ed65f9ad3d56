//! CQL, as Cassandra and its kin speak it: native protocol versions 3 to 5.
//!
//! Many requests are under way at once; a response has the stream id of its request. Events of the
//! server have none and belong to no request. Bodies that are compressed are unpacked; from version 5
//! on whole segments are, stream ids and all. Statements that were prepared on the connection are
//! known by their ids. Passwords are never kept.

mod body;
mod envelope;
pub(super) mod mask;
mod segment;

use std::borrow::Cow;
use std::collections::VecDeque;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::{Finished, QUALITY_BODY_INCOMPLETE};
use super::{Probe, ProtocolCode, unpack};
use body::Compression;
use envelope::{Envelope, Envelopes, Event, Head, Opcode};
use segment::Segment;

/// Shortest request: a head without a body.
pub const REQUEST_BYTES_MIN: u64 = 9;
/// Most statements of a connection that are known by their ids.
const PREPARED_MAX: usize = 256;
/// Most bytes of a body that was compressed.
const UNPACKED_BYTES_MAX: usize = 64 * 1024;
/// Longest text that is kept of such a statement.
const PREPARED_BYTES_MAX: usize = 1024;

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub opcode: u8,
    /// What came of it; none where there is no response.
    pub response_opcode: Option<u8>,
    /// The statement, or what else was asked.
    pub body: String,
    /// The response as JSON.
    pub response: String,
    /// Bytes of the request.
    pub request_size: u64,
    /// Bytes of the response.
    pub response_size: u64,
    /// How the connection goes on if the server agrees.
    then: Goes,
    /// Whether bytes of a body were missing.
    is_incomplete: bool,
}

impl Request {
    /// Whether the response is an error.
    pub fn failed(&self) -> bool {
        self.response_opcode == Some(Opcode::ERROR.0)
    }

    /// What is wrong with its bodies, a sum of `QUALITY_…`.
    pub const fn quality(&self) -> u8 {
        if self.is_incomplete { QUALITY_BODY_INCOMPLETE } else { 0 }
    }
}

impl Call for Request {
    fn heap_bytes(&self) -> usize {
        self.body.len() + self.response.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Cql(timed)
    }
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Goes {
    /// As before.
    #[default]
    On,
    /// In segments.
    InSegments,
    /// In segments that are compressed.
    InPackedSegments,
}

/// What envelopes are put into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    /// Not known before the first request.
    #[default]
    Unknown,
    /// Nothing.
    Plain,
    /// Segments.
    Segments,
    /// Segments that are compressed.
    PackedSegments,
}

/// What comes from one side.
#[derive(Debug, Default)]
struct Inbound {
    envelopes: Envelopes,
    segment: Segment,
}

/// A connection to a server that speaks CQL.
#[derive(Debug, Default)]
pub struct Cql {
    framing: Framing,
    inbound: [Inbound; 2],
    /// How bodies are compressed, as the client asked for it; none where that is not known.
    compression: Option<Compression>,
    /// The stream whose response is on its way, and was read.
    answered: Option<i16>,
    /// Ids and texts of statements, the oldest first.
    prepared: VecDeque<(Vec<u8>, String)>,
}

impl Dialect for Cql {
    type Call = Request;
    const CODE: ProtocolCode = ProtocolCode::Cql;
    const RESPONSES_NAME_REQUESTS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        if self.framing == Framing::Unknown && side == Side::Client {
            match framing(bytes) {
                Ok(framing) => self.framing = framing,
                Err(TooFew { wanted }) => return Step::Need(wanted),
            }
        }
        // The rest of a response was missing.
        let is_over = side == Side::Server && self.is_between_messages(side);
        if is_over {
            self.finish_answered(calls);
        }
        if bytes.is_empty() {
            return Step::Need(1);
        }
        match self.framing {
            Framing::Segments => self.take_segment(side, bytes, calls),
            Framing::PackedSegments => self.take_packed_segment(side, bytes, calls),
            Framing::Plain | Framing::Unknown => self.take_envelope(side, bytes, calls),
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        self.inbound[side as usize].envelopes.is_between()
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        match self.framing {
            Framing::Plain => starts_envelope(bytes),
            Framing::Segments => starts_segment(bytes),
            Framing::PackedSegments => {
                bytes.first_chunk().is_some_and(|head| segment::packed_bytes(*head).is_some())
            }
            Framing::Unknown => starts_envelope(bytes) || starts_segment(bytes),
        }
    }

    fn begins_response(&self, bytes: &[u8], _calls: &Calls<Request>) -> bool {
        match self.framing {
            Framing::Plain | Framing::Unknown => {
                matches!(Head::read(bytes), Ok(Some(head)) if head.is_response)
            }
            Framing::Segments => {
                bytes.first_chunk().is_some_and(|head| segment::payload_bytes(*head).is_some())
            }
            Framing::PackedSegments => {
                bytes.first_chunk().is_some_and(|head| segment::packed_bytes(*head).is_some())
            }
        }
    }

    fn forget_messages(&mut self) {
        (self.inbound, self.answered) = (Default::default(), None);
    }

    fn give_up_rest(&mut self, side: Side, calls: &mut Calls<Request>) -> u64 {
        let Inbound { envelopes, segment } = &mut self.inbound[side as usize];
        let body_bytes = match self.framing {
            Framing::Segments => envelopes.left().min(segment.payload),
            Framing::Plain | Framing::Unknown => envelopes.left(),
            Framing::PackedSegments => 0,
        };
        if body_bytes == 0 {
            return 0;
        }
        let mut rest = body_bytes;
        if self.framing == Framing::Segments {
            segment.payload -= body_bytes;
            if segment.payload == 0 {
                rest += std::mem::take(&mut segment.trailer);
            }
        }
        if let Event::Read(envelope) = envelopes.give_up(body_bytes) {
            self.read(side, &envelope, Completeness::Cut, calls);
        }
        rest
    }
}

/// Whether all bytes of a body were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completeness {
    Whole,
    Cut,
}

impl Cql {
    fn take_envelope(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        let Ok((taken, event)) = self.inbound[side as usize].envelopes.push(bytes) else {
            return Step::Bad(Cause::ParseError);
        };
        let is_over = match event {
            Event::None => false,
            Event::Over => true,
            Event::Read(envelope) => {
                if envelope.head.is_response != (side == Side::Server)
                    || side == Side::Server && self.is_early(&envelope.head, calls)
                {
                    return Step::Bad(Cause::ParseError);
                }
                self.read(side, &envelope, Completeness::Whole, calls);
                envelope.is_over
            }
        };
        if is_over && side == Side::Server {
            self.finish_answered(calls);
        }
        Step::Took(taken)
    }

    /// Whether a response is to a request that is not all there, so that one of both is none.
    fn is_early(&self, response: &Head, calls: &Calls<Request>) -> bool {
        let begun = self.inbound[Side::Client as usize].envelopes.begun();
        begun == Some(response.stream) && !calls.waits(key(response.stream))
    }

    fn take_segment(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        let segment = &mut self.inbound[side as usize].segment;
        if segment.is_over() {
            let Some(head) = bytes.first_chunk() else {
                return Step::Need(segment::HEAD_BYTES);
            };
            let Some(payload_bytes) = segment::payload_bytes(*head) else {
                return Step::Bad(Cause::ParseError);
            };
            *segment = Segment::of(payload_bytes);
            return Step::Took(segment::HEAD_BYTES);
        }
        let at_hand = |wanted: u64| usize::try_from(wanted).unwrap_or(usize::MAX).min(bytes.len());
        if segment.payload == 0 {
            let passed = at_hand(segment.trailer);
            segment.trailer -= passed as u64;
            return Step::Took(passed);
        }
        let payload = &bytes[..at_hand(segment.payload)];
        let step = self.take_envelope(side, payload, calls);
        if let Step::Took(taken) = step {
            self.inbound[side as usize].segment.payload -= taken as u64;
        }
        step
    }

    fn take_packed_segment(
        &mut self,
        side: Side,
        bytes: &[u8],
        calls: &mut Calls<Request>,
    ) -> Step {
        let Some(head) = bytes.first_chunk() else {
            return Step::Need(segment::PACKED_HEAD_BYTES);
        };
        let Some((segment_bytes, unpacked_bytes)) = segment::packed_bytes(*head) else {
            return Step::Bad(Cause::ParseError);
        };
        let Some(segment) = bytes.get(..segment_bytes) else { return Step::Need(segment_bytes) };
        let Some(payload) = segment::unpack(segment, unpacked_bytes) else {
            return Step::Bad(Cause::ParseError);
        };
        let mut rest = payload.as_slice();
        while !rest.is_empty() {
            match self.take_envelope(side, rest, calls) {
                Step::Took(taken) => rest = &rest[taken..],
                step => return step,
            }
        }
        Step::Took(segment_bytes)
    }

    fn read(
        &mut self,
        side: Side,
        envelope: &Envelope,
        completeness: Completeness,
        calls: &mut Calls<Request>,
    ) {
        let is_incomplete = completeness == Completeness::Cut;
        match side {
            Side::Client => {
                let request = self.request(envelope, is_incomplete, calls.text_bytes_max);
                calls.begin(key(envelope.head.stream), request);
            }
            Side::Server => self.response(envelope, is_incomplete, calls),
        }
    }

    fn request(
        &mut self,
        envelope: &Envelope,
        is_incomplete: bool,
        text_bytes_max: usize,
    ) -> Request {
        let Envelope { head, body, .. } = envelope;
        let compression = body::compression(head, body);
        if head.opcode == Opcode::STARTUP {
            self.compression = compression;
        }
        let prepared = |id: &[u8]| {
            let known = self.prepared.iter().find(|(known, _)| known == id);
            known.map(|(_, statement)| statement.clone())
        };
        let body = self.unpacked(head, body);
        let mut text = body::request(head, body.as_deref(), prepared);
        text.truncate(text.floor_char_boundary(text_bytes_max));
        Request {
            opcode: head.opcode.0,
            body: text,
            request_size: head.wire_bytes(),
            then: match (head.opcode, head.comes_in_segments()) {
                (Opcode::STARTUP, true) if compression.is_some() => Goes::InPackedSegments,
                (Opcode::STARTUP, true) => Goes::InSegments,
                _ => Goes::On,
            },
            is_incomplete,
            ..Request::default()
        }
    }

    /// Takes note of a response. What is for no request that waits is for one that was not seen,
    /// or an event.
    fn response(&mut self, envelope: &Envelope, is_incomplete: bool, calls: &mut Calls<Request>) {
        let Envelope { head, body, .. } = envelope;
        let text_bytes_max = calls.text_bytes_max;
        if !calls.waits(key(head.stream)) {
            return;
        }
        let body = self.unpacked(head, body);
        let (text, prepared) = body::response(head, body.as_deref(), text_bytes_max);
        let Some(request) = calls.keyed(key(head.stream)) else { return };
        request.response_opcode = Some(head.opcode.0);
        request.response = text;
        request.response_size = head.wire_bytes();
        request.is_incomplete |= is_incomplete;
        if let Some(id) = prepared {
            let mut statement = request.body.clone();
            statement.truncate(statement.floor_char_boundary(PREPARED_BYTES_MAX));
            self.prepared.retain(|(known, _)| *known != id);
            self.prepared.truncate(PREPARED_MAX - 1);
            self.prepared.push_front((id, statement));
        }
        self.answered = Some(head.stream);
    }

    /// The beginning of a body as it was before it was compressed, if it was; none where that
    /// cannot be told.
    fn unpacked<'a>(&self, head: &Head, body: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let lz4 = || unpack::lz4::beginning(body.get(4..)?, UNPACKED_BYTES_MAX);
        let snappy = || unpack::snappy(body, UNPACKED_BYTES_MAX);
        match self.compression {
            _ if !head.is_compressed() => Some(Cow::Borrowed(body)),
            Some(Compression::Lz4) => lz4().map(Cow::Owned),
            Some(Compression::Snappy) => snappy().map(Cow::Owned),
            // Joined midway: only one of them begins with the length that the other has.
            None => {
                let size = body.first_chunk().map(|size| u32::from_be_bytes(*size));
                let is_lz4 = size.is_some_and(|size| {
                    lz4().is_some_and(|unpacked| {
                        u32::try_from(unpacked.len()).is_ok_and(|length| length == size)
                    })
                });
                if is_lz4 { lz4().map(Cow::Owned) } else { None }
            }
            Some(Compression::Other) => None,
        }
    }

    /// Finishes the request whose response was read.
    fn finish_answered(&mut self, calls: &mut Calls<Request>) {
        let Some(stream) = self.answered.take() else { return };
        let Some(request) = calls.keyed(key(stream)) else { return };
        let is_set_up = [Opcode::READY, Opcode::AUTHENTICATE]
            .map(|opcode| Some(opcode.0))
            .contains(&request.response_opcode);
        let goes = if is_set_up { request.then } else { Goes::On };
        calls.finish_keyed(key(stream));
        self.framing = match goes {
            Goes::On => self.framing,
            Goes::InSegments => Framing::Segments,
            Goes::InPackedSegments => Framing::PackedSegments,
        };
    }
}

/// Streams of requests are not negative.
fn key(stream: i16) -> u64 {
    u64::from(stream.cast_unsigned())
}

/// There are fewer bytes than this many, which tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooFew {
    wanted: usize,
}

/// What envelopes are put into, by a client's first bytes.
fn framing(bytes: &[u8]) -> Result<Framing, TooFew> {
    let is_segment =
        bytes.first_chunk().is_some_and(|head| segment::payload_bytes(*head).is_some());
    // What is inside has to be an envelope too.
    let wanted = if is_segment { segment::HEAD_BYTES } else { 0 } + envelope::HEAD_BYTES;
    if bytes.len() < wanted {
        return Err(TooFew { wanted });
    }
    Ok(if starts_segment(bytes) { Framing::Segments } else { Framing::Plain })
}

/// Whether `bytes` start with a request whose length or body is as its head says.
fn starts_envelope(bytes: &[u8]) -> bool {
    let Ok(Some(head)) = Head::read(bytes) else { return false };
    let body = &bytes[envelope::HEAD_BYTES..];
    let is_whole = u32::try_from(body.len()).is_ok_and(|length| length == head.body_bytes);
    !head.is_response && (is_whole || body::is_plausible(&head, body))
}

/// Whether `bytes` start with a segment that starts with a request.
fn starts_segment(bytes: &[u8]) -> bool {
    let Some((head, payload)) = bytes.split_first_chunk() else { return false };
    // The checksum last, because it is what costs.
    matches!(Head::read(payload), Ok(Some(head)) if !head.is_response && head.comes_in_segments())
        && segment::payload_bytes(*head).is_some_and(|bytes| bytes >= envelope::HEAD_BYTES as u64)
}

/// Whether `bytes` start with a request that no other protocol would send.
pub fn probe_request(bytes: &[u8]) -> Probe {
    match Head::read(bytes) {
        Ok(Some(head)) if head.is_response => Probe::No,
        Ok(Some(head)) => {
            let body = &bytes[envelope::HEAD_BYTES..];
            if body::is_plausible(&head, body) || starts_segment(bytes) {
                Probe::Yes
            } else if body.len() < 64 && (body.len() as u64) < u64::from(head.body_bytes) {
                Probe::Maybe
            } else {
                Probe::No
            }
        }
        // A server's bytes are told by its client's.
        Ok(None) if bytes.first().is_some_and(|version| *version >= 0x80) => Probe::No,
        Ok(None) => Probe::Maybe,
        Err(_) if starts_segment(bytes) => Probe::Yes,
        Err(_) => Probe::No,
    }
}

#[cfg(test)]
mod tests;
