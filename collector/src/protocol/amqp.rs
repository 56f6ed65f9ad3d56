//! AMQP 0-9-1, as RabbitMQ speaks it.
//!
//! Methods that are answered are rows with what answers them, in order on each channel; it may be
//! the server that asks. Where a channel or connection is closed instead, that is the answer. All
//! other methods (publish, deliver, acknowledge, …) are rows of their own: a client's with the
//! columns of a request, a server's with those of a response. Messages are counted and skipped by
//! their known length, frame by frame. Where one operation is longer than the kernel captures, heads
//! of frames are missing: those of one message are foreseen, since senders fill each frame but the last,
//! and what follows has to be a frame; others are a gap. Heartbeats are no rows. Credentials are never
//! kept, nor are tables.

mod frame;
pub(super) mod mask;
mod message;
mod method;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::{Finished, QUALITY_BODY_INCOMPLETE};
use super::{Probe, ProtocolCode};
use frame::{CONTENT_HEAD_BYTES, END, GREETING, HEAD_BYTES, Head, Kind, frame_bytes};
use message::Message;
use method::{Arguments, Method, Part};
use serde_json::Value;

/// Shortest request: a method without arguments.
pub const REQUEST_BYTES_MIN: u64 = 12;
/// Frames of methods, as rows tell.
pub const FRAME_METHOD: i64 = 1;
/// Longest message.
const MESSAGE_BYTES_MAX: u64 = 1 << 32;
/// Most messages of a side that may be on their way at once, each on a channel of its own.
const MESSAGES_MAX: usize = 256;
/// The connection as a whole.
const CLASS_CONNECTION: u16 = 10;
/// Reply code of a close without an error.
const REPLY_SUCCESS: u64 = 200;

/// A method as part of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Its class; 0 where there is none.
    pub class: u16,
    /// Its number in the class.
    pub method: u16,
    /// Its arguments as a JSON object, with the message's size as `body_size`.
    pub message: String,
    /// Bytes of its frames on the wire.
    pub size: u64,
}

/// A method with its answer, or one that stands for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Where it happened.
    pub channel: u16,
    /// What was asked, or told by the client.
    pub request: Half,
    /// What was answered, or told by the server.
    pub response: Half,
    /// Whether it is about an error.
    pub failed: bool,
    /// Whether frames of its message were foreseen, and nothing has come after them that shows it.
    is_incomplete: bool,
}

impl Exchange {
    /// What is wrong with its messages, a sum of `QUALITY_…`.
    pub const fn quality(&self) -> u8 {
        if self.is_incomplete { QUALITY_BODY_INCOMPLETE } else { 0 }
    }

    /// Whether there is a request with its response.
    pub const fn is_answered(&self) -> bool {
        self.request.class > 0 && self.response.class > 0
    }
}

impl Call for Exchange {
    fn heap_bytes(&self) -> usize {
        self.request.message.len() + self.response.message.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Amqp(timed)
    }
}

/// What comes next from a side.
#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    #[default]
    Frame,
    /// So many bytes of a message's frame that are not wanted, with its end.
    Rest(Head, u64),
    /// Whatever follows a message's frame.
    End(Head),
    /// Whatever follows the frames of the only message on its way, which have so many bytes.
    Foreseen(u64),
}

/// A connection to an AMQP server.
#[derive(Debug, Default)]
pub struct Amqp {
    expect: [Expect; 2],
    messages: [Vec<Message>; 2],
    /// Bytes that were taken for frames of a message and are not followed by a frame yet.
    foreseen: [u64; 2],
    /// Most bytes of a message in a frame, as the two ends agreed.
    part_max: Option<u32>,
    /// Some of what was sent is not known.
    had_gap: bool,
}

impl Dialect for Amqp {
    type Call = Exchange;
    const CODE: ProtocolCode = ProtocolCode::Amqp;
    const RESPONSES_NAME_REQUESTS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Exchange>) -> Step {
        match std::mem::take(&mut self.expect[side as usize]) {
            Expect::Frame => self.frame(side, bytes, calls),
            Expect::Foreseen(frames_bytes) => {
                self.finish_foreseen(side, frames_bytes, calls);
                calls.begin_message();
                self.frame(side, bytes, calls)
            }
            Expect::Rest(head, rest) => {
                self.expect[side as usize] = Expect::End(head);
                Step::Skip(rest)
            }
            Expect::End(head) => {
                if !self.content_done(side, head, calls) {
                    self.expect[side as usize] = Expect::End(head);
                    return Step::Bad(Cause::ParseError);
                }
                calls.begin_message();
                self.frame(side, bytes, calls)
            }
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        matches!(self.expect[side as usize], Expect::Frame)
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(GREETING) || frame::is_method_of(Side::Client, bytes)
    }

    fn begins_push(&self, bytes: &[u8]) -> bool {
        frame::is_method_of(Side::Server, bytes)
    }

    fn forget_messages(&mut self) {
        *self = Self { had_gap: true, part_max: self.part_max, ..Self::default() };
    }

    fn undecided_requests(&self) -> u64 {
        self.foreseen.iter().sum::<u64>() / REQUEST_BYTES_MIN
    }

    fn give_up_rest(&mut self, side: Side, calls: &mut Calls<Exchange>) -> u64 {
        // The frames of several messages may mix.
        let [message] = self.messages[side as usize].as_slice() else { return 0 };
        match self.expect[side as usize] {
            Expect::Frame => {}
            Expect::End(head) if head.channel == message.channel => {
                if !self.content_done(side, head, calls) {
                    return 0;
                }
                self.expect[side as usize] = Expect::Frame;
            }
            Expect::End(_) | Expect::Rest(..) | Expect::Foreseen(_) => return 0,
        }
        let Some(message) = self.messages[side as usize].first() else { return 0 };
        let ahead = message.frames_ahead(self.part_max).unwrap_or(0);
        if ahead > 0 {
            self.expect[side as usize] = Expect::Foreseen(ahead);
            if let Some(call) = calls.keyed(message.key) {
                call.is_incomplete = true;
            }
        }
        ahead
    }
}

impl Amqp {
    fn frame(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Exchange>) -> Step {
        let Some(head) = bytes.first_chunk() else { return Step::Need(HEAD_BYTES) };
        if head[..] == GREETING[..HEAD_BYTES] {
            // From a server it says that it speaks another version, and is the last it says.
            let whole = GREETING.len();
            return if bytes.len() < whole { Step::Need(whole) } else { Step::Took(whole) };
        }
        let Some(head) = Head::read(*head) else { return Step::Bad(Cause::ParseError) };
        self.foreseen[side as usize] = 0;
        let end = HEAD_BYTES + usize::try_from(head.bytes).unwrap_or(usize::MAX);
        let wanted = match head.kind {
            Kind::Method | Kind::Heartbeat => end + 1,
            Kind::Header => HEAD_BYTES + CONTENT_HEAD_BYTES as usize,
            Kind::Body => HEAD_BYTES,
        };
        if bytes.len() < wanted {
            return Step::Need(wanted);
        }
        let rest = (end + 1 - wanted) as u64;
        let is_sane = match head.kind {
            Kind::Method if bytes[end] == END => {
                return match self.method(side, head, &bytes[HEAD_BYTES..end], calls) {
                    Ok(()) => Step::Took(wanted),
                    Err(cause) => Step::Bad(cause),
                };
            }
            Kind::Heartbeat if bytes[end] == END => return Step::Took(wanted),
            Kind::Method | Kind::Heartbeat => false,
            Kind::Header => self.content_head(side, head, &bytes[HEAD_BYTES..wanted], calls),
            Kind::Body => true,
        };
        if !is_sane {
            return Step::Bad(Cause::ParseError);
        }
        self.expect[side as usize] = Expect::Rest(head, rest);
        Step::Took(wanted)
    }

    /// A method is complete.
    fn method(
        &mut self,
        side: Side,
        head: Head,
        payload: &[u8],
        calls: &mut Calls<Exchange>,
    ) -> Result<(), Cause> {
        let (method, arguments) = Method::read(payload).ok_or(Cause::ParseError)?;
        if !method.sender.may_be(side) {
            return Err(Cause::ParseError);
        }
        let half = Half {
            class: method.class,
            method: method.id,
            message: json(&arguments),
            size: frame_bytes(head),
        };
        let channel = head.channel;
        if (method.class, method.id) == method::TUNE_OK {
            let frame_max = arguments.get("frame_max").and_then(Value::as_u64).unwrap_or(0);
            self.part_max = frame::part_max(frame_max);
        }
        match method.part {
            Part::Asks | Part::Closes => {
                let is_error = is_error(&arguments);
                if method.part == Part::Closes {
                    self.close(side, channel, &half, is_error, calls);
                }
                let key = asked(side, channel);
                if self.had_gap && calls.keyed(key).is_some() {
                    // Of a client that does not wait its turn it is not known what comes first.
                    return Err(Cause::RingFull);
                }
                calls.begin(
                    key,
                    Exchange { channel, request: half, failed: is_error, ..Exchange::default() },
                );
                if method::need_not_be_answered(&arguments) {
                    calls.finish_newest();
                }
                Ok(())
            }
            Part::Answers(request) | Part::Brings(request) => {
                let key = asked(side.other(), channel);
                // An answer to what was not seen is none of ours.
                let Some(call) = calls.keyed(key) else { return Ok(()) };
                if (call.request.class, call.request.method) != (half.class, request) {
                    return Err(Cause::Unrequested);
                }
                call.response = half;
                if matches!(method.part, Part::Brings(_)) {
                    return self.expect_message(side, channel, key, arguments);
                }
                calls.finish_keyed(key);
                Ok(())
            }
            Part::Tells | Part::Carries => {
                let failed = is_error(&arguments);
                let (request, response) = match side {
                    Side::Client => (half, Half::default()),
                    Side::Server => (Half::default(), half),
                };
                let key = told(side, channel);
                calls.begin(
                    key,
                    Exchange { channel, request, response, failed, is_incomplete: false },
                );
                if method.part == Part::Carries {
                    return self.expect_message(side, channel, key, arguments);
                }
                calls.finish_newest();
                Ok(())
            }
        }
    }

    /// Nothing that the other side waits for on a channel, or on all of them, will be answered.
    fn close(
        &mut self,
        side: Side,
        channel: u16,
        half: &Half,
        is_error: bool,
        calls: &mut Calls<Exchange>,
    ) {
        let is_connection = half.class == CLASS_CONNECTION;
        self.messages
            .iter_mut()
            .for_each(|messages| messages.retain(|m| m.channel != channel && !is_connection));
        let keys = [told(side, channel), told(side.other(), channel)];
        for key in keys {
            while calls.finish_keyed(key) {}
        }
        let waits = asked(side.other(), channel);
        while let Some(call) = if is_connection { calls.oldest() } else { calls.keyed(waits) } {
            if call.request.class > 0 && call.response.class == 0 {
                call.response = half.clone();
                call.failed |= is_error;
            }
            if is_connection {
                calls.finish_oldest();
            } else {
                calls.finish_keyed(waits);
            }
        }
    }

    fn expect_message(
        &mut self,
        side: Side,
        channel: u16,
        key: u64,
        arguments: Arguments,
    ) -> Result<(), Cause> {
        let messages = &mut self.messages[side as usize];
        let is_free = messages.iter().all(|message| message.channel != channel);
        if !is_free || messages.len() >= MESSAGES_MAX {
            return Err(Cause::ParseError);
        }
        messages.push(Message::new(channel, key, arguments));
        Ok(())
    }

    /// Reads a message's size; false where it cannot be one.
    fn content_head(
        &mut self,
        side: Side,
        head: Head,
        payload: &[u8],
        calls: &mut Calls<Exchange>,
    ) -> bool {
        let Some(size) = payload.last_chunk().map(|size| u64::from_be_bytes(*size)) else {
            return false;
        };
        if size > MESSAGE_BYTES_MAX {
            return false;
        }
        // One whose method was not seen is none of ours.
        let Some(message) = self.message(side, head.channel) else { return true };
        if message.left.replace(size).is_some() {
            return false;
        }
        message.arguments.insert("body_size".to_owned(), size.into());
        let text = json(&message.arguments);
        let key = message.key;
        if let Some(call) = calls.keyed(key) {
            carrier(call, side).message = text;
        }
        true
    }

    /// A frame of a message is over; false where it was longer than the message.
    fn content_done(&mut self, side: Side, head: Head, calls: &mut Calls<Exchange>) -> bool {
        let Some(message) = self.message(side, head.channel) else { return true };
        let (Some(left), key) = (message.take(head), message.key) else { return false };
        if let Some(call) = calls.keyed(key) {
            carrier(call, side).size += frame_bytes(head);
        }
        if left == 0 {
            self.messages[side as usize].retain(|message| message.channel != head.channel);
            calls.finish_keyed(key);
        }
        true
    }

    /// The only message on its way has ended, after so many bytes of frames that were not read.
    fn finish_foreseen(&mut self, side: Side, bytes: u64, calls: &mut Calls<Exchange>) {
        self.foreseen[side as usize] = bytes;
        let Some(message) = self.messages[side as usize].pop() else { return };
        if let Some(call) = calls.keyed(message.key) {
            carrier(call, side).size += bytes;
            call.is_incomplete = false;
        }
        calls.finish_keyed(message.key);
    }

    fn message(&mut self, side: Side, channel: u16) -> Option<&mut Message> {
        self.messages[side as usize].iter_mut().find(|message| message.channel == channel)
    }
}

/// The half of an exchange with which a side sends a message.
const fn carrier(call: &mut Exchange, side: Side) -> &mut Half {
    match side {
        Side::Client => &mut call.request,
        Side::Server => &mut call.response,
    }
}

/// The key of what a side waits for on a channel.
const fn asked(side: Side, channel: u16) -> u64 {
    (side as u64) << 16 | channel as u64
}

/// The key of what a side tells on a channel.
const fn told(side: Side, channel: u16) -> u64 {
    1 << 17 | asked(side, channel)
}

/// Whether a reply code says that something is wrong.
fn is_error(arguments: &Arguments) -> bool {
    let code = arguments.get("reply_code").and_then(Value::as_u64);
    code.is_some_and(|code| code != REPLY_SUCCESS)
}

/// Arguments as a JSON object, or nothing if there are none.
fn json(arguments: &Arguments) -> String {
    if arguments.is_empty() {
        return String::new();
    }
    serde_json::to_string(arguments).unwrap_or_default()
}

/// Whether `bytes` start as clients do, or are frames that only clients send.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let common = bytes.len().min(GREETING.len());
    match bytes[..common] == GREETING[..common] {
        true if common == GREETING.len() => Probe::Yes,
        true => Probe::Maybe,
        false => frame::probe(Side::Client, bytes),
    }
}

/// Whether `bytes` are frames that only servers send.
pub fn probe_response(bytes: &[u8]) -> Probe {
    frame::probe(Side::Server, bytes)
}

#[cfg(test)]
mod tests;
