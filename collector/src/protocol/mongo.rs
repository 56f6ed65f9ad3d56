//! MongoDB: `OP_MSG`, its compressed form, and the `OP_QUERY` that older clients begin with.
//!
//! Replies name their request. A request that wants none is complete at once. Where a reply says
//! that more come unasked (*exhaust*), each is a row of its own, as if it had been asked for when
//! the reply before it came; it names that reply or, with some servers, the request. A request that
//! was not seen may have asked for that, so what the server sends after it and what belongs to no
//! request may be missing rows. Messages that Snappy or zlib compressed are unpacked. Of others that
//! are compressed the pairing is kept, and as it cannot be told whether they want a reply, the next
//! request of their client ends the wait. Of long messages the beginning is kept.

mod bson;
mod json;
pub(super) mod mask;
mod message;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::Finished;
use super::{Probe, ProtocolCode};
use bson::Stop;
use message::{Content, EXHAUST_ALLOWED, HEADER_BYTES, Header, MORE_TO_COME, Unpacked};

/// Shortest request: a compressed one with hardly anything in it.
pub const REQUEST_BYTES_MIN: u64 = 26;
/// Bytes of a message that are looked at beyond those that are worth keeping.
const HEAD_BYTES: usize = 4096;
/// How a TLS handshake begins.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 3];

/// A command and its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// The request as JSON, cut at the configured size.
    pub request: String,
    /// `ok`, the name of the error's code, or nothing where there is no reply.
    pub status: String,
    /// The reply as JSON, cut at the configured size.
    pub reply: String,
    /// Bytes of the request on the wire.
    pub request_size: u64,
    /// Bytes of the reply on the wire.
    pub reply_size: u64,
    is_compressed: bool,
    /// The request of which this is a further reply.
    asked: Option<u64>,
}

impl Command {
    /// Whether there is a reply.
    pub const fn is_answered(&self) -> bool {
        self.reply_size > 0
    }

    /// Whether the reply is an error.
    pub fn failed(&self) -> bool {
        !matches!(self.status.as_str(), "" | "ok")
    }
}

impl Call for Command {
    fn heap_bytes(&self) -> usize {
        self.name.len() + self.request.len() + self.status.len() + self.reply.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Mongo(timed)
    }
}

/// A message of which the beginning was read, and what it means once the rest is there.
#[derive(Debug)]
enum Meaning {
    Request { command: Command, wants_reply: bool },
    Reply { status: String, body: String, more_to_come: bool },
}

/// A message on its way.
#[derive(Debug)]
struct Message {
    header: Header,
    meaning: Meaning,
    /// Bytes that are still to be skipped.
    rest: u64,
}

/// A connection to a MongoDB server.
#[derive(Debug, Default)]
pub struct Mongo {
    messages: [Option<Message>; 2],
    /// Replies were allowed to come unasked, as far as can be told, so that some may be among what
    /// is not read.
    may_exhaust: bool,
}

impl Dialect for Mongo {
    type Call = Command;
    const CODE: ProtocolCode = ProtocolCode::Mongo;
    const RESPONSES_NAME_REQUESTS: bool = true;
    const PUSHES_IF_ASKED: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        match self.messages[side as usize].take() {
            None => self.message(side, bytes, calls),
            Some(message) if message.rest > 0 => {
                let rest = message.rest;
                self.messages[side as usize] = Some(Message { rest: 0, ..message });
                Step::Skip(rest)
            }
            Some(message) => {
                message.complete(calls);
                calls.begin_message();
                self.message(side, bytes, calls)
            }
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        self.messages[side as usize].is_none()
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        probe_request(bytes) == Probe::Yes
    }

    /// Drivers read the header first.
    fn begins_response(&self, bytes: &[u8], _calls: &Calls<Command>) -> bool {
        bytes.len() >= HEADER_BYTES && probe_response(bytes) != Probe::No
    }

    fn pushes(&self) -> bool {
        self.may_exhaust
    }

    fn forget_messages(&mut self) {
        self.messages = Default::default();
    }
}

impl Mongo {
    /// Reads the beginning of a message, or all of it.
    fn message(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Command>) -> Step {
        if bytes.len() < HEADER_BYTES {
            return Step::Need(HEADER_BYTES);
        }
        let Some(header) = Header::read(bytes, side) else { return Step::Bad(Cause::ParseError) };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let kept = length.min(HEADER_BYTES + HEAD_BYTES + calls.text_bytes_max);
        if bytes.len() < kept {
            return Step::Need(kept);
        }
        let packed = &bytes[HEADER_BYTES..kept];
        let unpacked = Unpacked::of(header, side, packed, HEAD_BYTES + calls.text_bytes_max);
        let content = unpacked.as_ref().and_then(|unpacked| unpacked.content(side).ok());
        let content =
            content.map_or_else(|| Content::read(header.op, side, packed, kept == length), Ok);
        let Ok(content) = content else { return Step::Bad(Cause::ParseError) };
        let exhausts = if side == Side::Client { EXHAUST_ALLOWED } else { MORE_TO_COME };
        self.may_exhaust |= content.flags & exhausts != 0 || content.is_compressed;
        let Ok(meaning) = meaning(side, header, &content, calls) else {
            return Step::Bad(Cause::ParseError);
        };
        let message = Message { header, meaning, rest: (length - kept) as u64 };
        if kept == length {
            message.complete(calls);
        } else {
            self.messages[side as usize] = Some(message);
        }
        Step::Took(kept)
    }
}

fn meaning(
    side: Side,
    header: Header,
    content: &Content<'_>,
    calls: &mut Calls<Command>,
) -> Result<Meaning, Stop> {
    let more_to_come = content.flags & MORE_TO_COME != 0;
    let text_bytes_max = calls.text_bytes_max;
    if side == Side::Client {
        let name = content.command();
        let command = Command {
            request: content.body(&name, text_bytes_max)?,
            name,
            request_size: u64::from(header.length),
            is_compressed: content.is_compressed,
            ..Command::default()
        };
        return Ok(Meaning::Request { command, wants_reply: !more_to_come });
    }
    let name = calls.keyed(u64::from(header.response_to)).map(|call| call.name.clone());
    Ok(Meaning::Reply {
        status: content.status(),
        body: content.body(&name.unwrap_or_default(), text_bytes_max)?,
        more_to_come,
    })
}

impl Message {
    /// All of the message is there.
    fn complete(self, calls: &mut Calls<Command>) {
        let key = u64::from(self.header.request_id);
        match self.meaning {
            Meaning::Request { command, wants_reply } => {
                while calls.oldest().is_some_and(|call| call.is_compressed) {
                    calls.finish_oldest();
                }
                calls.begin(key, command);
                if !wants_reply {
                    calls.finish_newest();
                }
            }
            Meaning::Reply { status, body, more_to_come } => {
                let asked = u64::from(self.header.response_to);
                let is_further = calls.oldest().is_some_and(|call| call.asked == Some(asked));
                let call = if is_further { calls.oldest() } else { calls.keyed(asked) };
                // A request that was not seen is none of ours.
                let Some(call) = call else { return calls.is_unpaired() };
                let asked_first = call.asked.unwrap_or(asked);
                let further =
                    more_to_come.then(|| Command { asked: Some(asked_first), ..call.clone() });
                (call.status, call.reply) = (status, body);
                call.reply_size = u64::from(self.header.length);
                if is_further {
                    calls.finish_oldest();
                } else {
                    calls.finish_keyed(asked);
                }
                if let Some(further) = further {
                    calls.begin(key, further);
                }
            }
        }
    }
}

/// Whether `bytes` start with a request.
pub fn probe_request(bytes: &[u8]) -> Probe {
    probe(Side::Client, bytes)
}

/// Whether `bytes` start with a reply.
pub fn probe_response(bytes: &[u8]) -> Probe {
    probe(Side::Server, bytes)
}

fn probe(side: Side, bytes: &[u8]) -> Probe {
    if bytes.len() < HEADER_BYTES {
        let is_length = match bytes.first_chunk() {
            Some(length) => message::is_length(u32::from_le_bytes(*length)),
            None => true,
        };
        let may_be = is_length && !bytes.starts_with(&TLS_HANDSHAKE);
        return if may_be { Probe::Maybe } else { Probe::No };
    }
    let Some(header) = Header::read(bytes, side) else { return Probe::No };
    if (header.response_to == 0) != (side == Side::Client) {
        return Probe::No;
    }
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let end = length.min(bytes.len());
    match Content::read(header.op, side, &bytes[HEADER_BYTES..end], end == length) {
        Ok(content) if content.is_plausible() => Probe::Yes,
        // Until the first element is there.
        Ok(_) if end < length && end < HEADER_BYTES + 256 => Probe::Maybe,
        _ => Probe::No,
    }
}

#[cfg(test)]
mod tests;
