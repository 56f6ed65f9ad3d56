//! TLS: the handshake, of which the beginning can be read by anyone on the way.
//!
//! ```text
//! records ─► handshake messages ─► ClientHello … ServerHello, or an alert ─► one row ─► opaque
//! ```
//!
//! Nothing is decrypted. A row says what the client offered and what the server chose; where the
//! server asks for another hello first (`HelloRetryRequest`) both belong to the same row. Once the
//! server has answered the connection is opaque, so that what follows costs nothing. A connection
//! has one handshake that can be read, so a gap before its end is the end of reading; renegotiations
//! are encrypted. SSL 2 hellos are not read.

mod hello;
pub(super) mod mask;
mod names;

use serde_json::{Map, Value};

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::Finished;
use super::{Probe, ProtocolCode};
use hello::{ClientHello, ServerHello};

/// Shortest first record of a client: with one cipher suite and no extension.
pub const REQUEST_BYTES_MIN: u64 =
    (RECORD_HEAD_BYTES + MESSAGE_HEAD_BYTES + HELLO_BYTES_MIN) as u64;
/// What the first byte of a client may be.
pub(super) const FIRST_BYTES: &[[u8; 2]] = &[[content::HANDSHAKE, content::HANDSHAKE]];
/// The kind of record that every row is about, as rows have it.
pub const CONTENT_HANDSHAKE: i64 = content::HANDSHAKE as i64;

/// Longest hello that is read; those with keys that withstand quantum computers have some 2 KiB.
const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Shortest hello.
const HELLO_BYTES_MIN: usize = 38;
/// Bytes of a record's head: content, version, length.
const RECORD_HEAD_BYTES: usize = 5;
/// Bytes of an alert.
const ALERT_BYTES: u16 = 2;
/// Longest record, with what encryption adds (RFC 5246 §6.2.3).
const RECORD_BYTES_MAX: u16 = (1 << 14) + 2048;
/// Bytes of a message's head: kind, length.
const MESSAGE_HEAD_BYTES: usize = 4;
/// Bytes that tell a hello from all else: up to the version in it.
const PROBE_BYTES: usize = RECORD_HEAD_BYTES + MESSAGE_HEAD_BYTES + 2;
/// The level of an alert after which the connection may go on.
const ALERT_WARNING: u8 = 1;
/// The alert by which a side says that it will send no more.
const ALERT_CLOSE_NOTIFY: u8 = 0;

/// What is in a record.
mod content {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const HEARTBEAT: u8 = 24;
}

/// Kinds of handshake messages.
mod message {
    pub(super) const CLIENT_HELLO: u8 = 1;
    pub(super) const SERVER_HELLO: u8 = 2;
}

/// How a handshake went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The server did not answer.
    #[default]
    Unanswered,
    /// It chose of what was offered. Either side may still find the other wanting.
    Agreed,
    /// It refused.
    Refused,
}

/// A handshake, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The name that the client wants to talk to; empty where it says none.
    pub server_name: String,
    /// The version that the server chose.
    pub version: String,
    /// The cipher suite that it chose.
    pub cipher: String,
    /// The protocol that it chose; empty where it says none in the clear.
    pub alpn: String,
    /// How it went.
    pub outcome: Outcome,
    /// What the client offered, as JSON.
    pub offer: String,
    /// What the server chose, or its alert, as JSON; `{}` where it did not answer.
    pub answer: String,
    /// Bytes of the client's hello.
    pub request_size: u64,
    /// Bytes of the server's hello or alert.
    pub response_size: u64,
    session_id: Vec<u8>,
}

impl Call for Handshake {
    fn heap_bytes(&self) -> usize {
        self.server_name.len() + self.offer.len() + self.session_id.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Tls(timed)
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    content: u8,
    bytes: u16,
}

impl Record {
    fn read([content, major, minor, length @ ..]: [u8; RECORD_HEAD_BYTES]) -> Option<Self> {
        let bytes = u16::from_be_bytes(length);
        let is_known = (content::CHANGE_CIPHER_SPEC..=content::HEARTBEAT).contains(&content);
        let fits = (1..=RECORD_BYTES_MAX).contains(&bytes);
        (is_known && major == 3 && minor <= 4 && fits).then_some(Self { content, bytes })
    }
}

/// What was read of one side.
#[derive(Debug, Default)]
struct Reading {
    /// Bytes of the record at hand that are still to come.
    left: usize,
    /// The message at hand, as far as it is there; it may be in several records.
    message: Vec<u8>,
}

impl Reading {
    /// Takes bytes of the record at hand, up to the end of the message; how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let missing = match self.message_bytes() {
            Some(bytes) => bytes - self.message.len(),
            None => MESSAGE_HEAD_BYTES - self.message.len(),
        };
        let taken = bytes.len().min(self.left).min(missing);
        self.message.extend_from_slice(&bytes[..taken]);
        self.left -= taken;
        taken
    }

    /// Bytes of the message with its head, once that is there.
    fn message_bytes(&self) -> Option<usize> {
        let [_, length @ ..] = self.message.first_chunk::<MESSAGE_HEAD_BYTES>()?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        Some(MESSAGE_HEAD_BYTES + length)
    }

    /// The message, once all of it is there.
    fn whole_message(&mut self) -> Option<Vec<u8>> {
        let is_whole = self.message_bytes().is_some_and(|bytes| bytes == self.message.len());
        is_whole.then(|| std::mem::take(&mut self.message))
    }
}

/// A connection that begins with a handshake.
#[derive(Debug, Default)]
pub struct Tls {
    reading: [Reading; 2],
    /// The client's hello was read.
    is_begun: bool,
    /// The server asked for another.
    is_retried: bool,
}

impl Dialect for Tls {
    type Call = Handshake;
    const CODE: ProtocolCode = ProtocolCode::Tls;
    const RESPONSES_NAME_REQUESTS: bool = true;
    const CALLS_ONCE: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Handshake>) -> Step {
        let is_of_interest = side == Side::Server || !self.is_begun;
        let reading = &mut self.reading[side as usize];
        if reading.left > 0 && is_of_interest {
            return self.take_message(side, bytes, calls);
        }
        // The rest of a record whose hello was read.
        let rest = std::mem::take(&mut reading.left);
        if rest > 0 {
            return Step::Skip(rest as u64);
        }
        let Some((head, payload)) = bytes.split_first_chunk() else {
            return Step::Need(RECORD_HEAD_BYTES);
        };
        let Some(record) = Record::read(*head) else { return Step::Bad(Cause::ParseError) };
        match record.content {
            content::HANDSHAKE if is_of_interest => {
                self.reading[side as usize].left = record.bytes.into();
                Step::Took(RECORD_HEAD_BYTES)
            }
            content::ALERT if side == Side::Server && record.bytes == ALERT_BYTES => match *payload
            {
                [level, description, ..] => alert(level, description, calls),
                _ => Step::Need(RECORD_HEAD_BYTES + usize::from(ALERT_BYTES)),
            },
            // What boxes on the way want to see, early data, and alerts of a client.
            _ => Step::Skip(RECORD_HEAD_BYTES as u64 + u64::from(record.bytes)),
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        let reading = &self.reading[side as usize];
        reading.left == 0 && reading.message.is_empty()
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        // Servers read the head of a record before the rest.
        bytes.len() >= RECORD_HEAD_BYTES && probe_request(bytes) != Probe::No
    }

    fn forget_messages(&mut self) {
        self.reading = Default::default();
    }

    fn heap_bytes(&self) -> usize {
        self.reading.iter().map(|reading| reading.message.capacity()).sum()
    }
}

impl Tls {
    fn take_message(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Handshake>) -> Step {
        let reading = &mut self.reading[side as usize];
        if bytes.is_empty() {
            return Step::Need(1);
        }
        let taken = reading.take(bytes);
        let kind = if side == Side::Client { message::CLIENT_HELLO } else { message::SERVER_HELLO };
        let fits = |bytes| {
            (MESSAGE_HEAD_BYTES + HELLO_BYTES_MIN..=MESSAGE_HEAD_BYTES + HELLO_BYTES_MAX)
                .contains(&bytes)
        };
        if reading.message[0] != kind || !reading.message_bytes().is_none_or(fits) {
            return Step::Bad(Cause::ParseError);
        }
        let Some(message) = reading.whole_message() else { return Step::Took(taken) };
        let is_read = match side {
            Side::Client => self.offered(&message, calls),
            Side::Server => self.answered(&message, calls),
        };
        match is_read {
            None => Step::Bad(Cause::ParseError),
            Some(Progress::GoesOn) => Step::Took(taken),
            Some(Progress::Over) => Step::Opaque,
        }
    }

    /// The client's hello is there.
    fn offered(&mut self, message: &[u8], calls: &mut Calls<Handshake>) -> Option<Progress> {
        let hello = ClientHello::read(&message[MESSAGE_HEAD_BYTES..])?;
        self.is_begun = true;
        calls.begin(
            0,
            Handshake {
                server_name: hello.server_name,
                offer: Value::Object(hello.shown).to_string(),
                answer: "{}".to_owned(),
                request_size: message.len() as u64,
                session_id: hello.session_id,
                ..Handshake::default()
            },
        );
        Some(Progress::GoesOn)
    }

    /// The server's hello is there.
    fn answered(&mut self, message: &[u8], calls: &mut Calls<Handshake>) -> Option<Progress> {
        let call = calls.oldest()?;
        let hello = ServerHello::read(&message[MESSAGE_HEAD_BYTES..], &call.session_id)?;
        if hello.is_retry {
            self.is_retried = true;
            return Some(Progress::GoesOn);
        }
        call.answer = shown(&hello, self.is_retried);
        (call.version, call.cipher, call.alpn) = (hello.version, hello.cipher, hello.alpn);
        (call.outcome, call.response_size) = (Outcome::Agreed, message.len() as u64);
        calls.finish_oldest();
        Some(Progress::Over)
    }
}

/// How far a handshake is after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// More of it can be read.
    GoesOn,
    /// The rest of it can not.
    Over,
}

/// What rows show of a server's hello.
fn shown(hello: &ServerHello, is_retried: bool) -> String {
    let mut shown = Map::new();
    for (name, value) in [
        ("version", &hello.version),
        ("cipher_suite", &hello.cipher),
        ("alpn", &hello.alpn),
        ("group", &hello.group),
    ] {
        if !value.is_empty() {
            shown.insert(name.to_owned(), value.as_str().into());
        }
    }
    for (name, is_so) in [("resumed", hello.resumes), ("retried", is_retried)] {
        if is_so {
            shown.insert(name.to_owned(), true.into());
        }
    }
    Value::Object(shown).to_string()
}

/// The server sends an alert instead of its hello, or before it.
fn alert(level: u8, description: u8, calls: &mut Calls<Handshake>) -> Step {
    let bytes = RECORD_HEAD_BYTES + usize::from(ALERT_BYTES);
    if level == ALERT_WARNING && description != ALERT_CLOSE_NOTIFY {
        return Step::Took(bytes);
    }
    let Some(call) = calls.oldest() else { return Step::Bad(Cause::Unrequested) };
    call.answer = serde_json::json!({ "alert": names::alert(description) }).to_string();
    (call.outcome, call.response_size) = (Outcome::Refused, ALERT_BYTES.into());
    calls.finish_oldest();
    Step::Opaque
}

/// Whether `bytes` start with the hello of a client.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let expected = |at: usize| match at {
        0 => content::HANDSHAKE..=content::HANDSHAKE,
        1 | 9 => 3..=3,
        2 | 10 => 0..=3,
        5 => message::CLIENT_HELLO..=message::CLIENT_HELLO,
        // No hello is as long as that.
        6 => 0..=0,
        _ => 0..=u8::MAX,
    };
    let head = &bytes[..bytes.len().min(PROBE_BYTES)];
    if !head.iter().enumerate().all(|(at, byte)| expected(at).contains(byte)) {
        return Probe::No;
    }
    let Some(&[_, _, _, record_high, record_low, _, _, high, low, ..]) =
        bytes.first_chunk::<PROBE_BYTES>()
    else {
        return Probe::Maybe;
    };
    let record_bytes = usize::from(u16::from_be_bytes([record_high, record_low]));
    let hello_bytes = usize::from(u16::from_be_bytes([high, low]));
    // A record that ends before the hello's version does not tell it from other bytes.
    let has_version = record_bytes + RECORD_HEAD_BYTES >= PROBE_BYTES;
    let fits = has_version && record_bytes <= RECORD_BYTES_MAX.into();
    if fits && hello_bytes >= HELLO_BYTES_MIN { Probe::Yes } else { Probe::No }
}

#[cfg(test)]
pub(crate) mod tests;
