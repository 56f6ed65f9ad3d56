//! DNS: queries and their responses, over TCP here and over UDP in [`crate::datagrams`].
//!
//! A response names its query by a number and repeats its question. Over TCP every message has its
//! length before it, and responses come in any order. The further messages of a zone transfer
//! answer nothing any more and are passed over.

pub(crate) mod mask;
mod message;
mod name;
mod show;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::{Finished, QUALITY_BODY_INCOMPLETE};
use super::{Probe, ProtocolCode};
use message::HEADER_BYTES;
pub use message::{Answer, Data, Header, Message, Question};
pub use name::Name;

/// Shortest query: a header. One that is only about cookies asks no question (RFC 7873, section 5.4).
pub const REQUEST_BYTES_MIN: u64 = HEADER_BYTES as u64;
/// Shortest query that tells a connection's protocol: a header and a question about the root.
const FIRST_QUERY_BYTES_MIN: usize = 17;
/// Longest one: a name of 255 bytes, and some options.
const FIRST_QUERY_BYTES_MAX: usize = 1024;
/// [`Lookup::rcode`] where no response came.
pub const NO_RESPONSE: i32 = -1;

/// A query and its response, as rows show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The query's header as a JSON object.
    pub req_header: String,
    /// Its questions as a JSON object.
    pub req_body: String,
    /// The response's header, `{}` where none came.
    pub resp_header: String,
    /// Its answers, `{}` where none came.
    pub resp_body: String,
    /// The first question's name in small letters, empty where there is no question.
    pub name: String,
    /// The first question's type.
    pub kind: String,
    /// The response code, [`NO_RESPONSE`] where none came.
    pub rcode: i32,
}

impl Lookup {
    /// A query without a response yet.
    pub fn new(query: &Message) -> Self {
        let first = query.questions.first();
        Self {
            req_header: show::header(query),
            req_body: show::queries(&query.questions),
            resp_header: show::NOTHING.to_owned(),
            resp_body: show::NOTHING.to_owned(),
            name: first.map(|question| question.name.to_ascii_lowercase()).unwrap_or_default(),
            kind: first.map(|question| show::type_name(question.kind)).unwrap_or_default(),
            rcode: NO_RESPONSE,
        }
    }

    /// Adds the response.
    pub fn answer(&mut self, response: &Message) {
        self.resp_header = show::header(response);
        self.resp_body = show::answers(&response.answers);
        self.rcode = i32::from(response.rcode);
    }

    /// Whether a response came.
    pub const fn is_answered(&self) -> bool {
        self.rcode != NO_RESPONSE
    }
}

/// What is known to be wrong with a row because of this message.
pub const fn quality_of(message: &Message) -> u8 {
    if message.is_whole { 0 } else { QUALITY_BODY_INCOMPLETE }
}

impl Call for Lookup {
    fn heap_bytes(&self) -> usize {
        let texts = [&self.req_header, &self.req_body, &self.resp_header, &self.resp_body];
        texts.iter().map(|text| text.len()).sum::<usize>() + self.name.len() + self.kind.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Dns(timed)
    }
}

/// A connection to a DNS server.
#[derive(Debug, Default)]
pub struct DnsTcp;

impl Dialect for DnsTcp {
    type Call = Lookup;
    const CODE: ProtocolCode = ProtocolCode::Dns;
    const RESPONSES_NAME_REQUESTS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Lookup>) -> Step {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Step::Need(2) };
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(frame) = rest.get(..length) else { return Step::Need(2 + length) };
        let Some(message) = Message::read(frame, length) else {
            return Step::Bad(Cause::ParseError);
        };
        let key = u64::from(message.header.txid);
        match side {
            Side::Client if message.header.is_response() => return Step::Bad(Cause::ParseError),
            Side::Client => calls.begin(key, Lookup::new(&message)),
            Side::Server => {
                if let Some(lookup) = calls.keyed(key) {
                    lookup.answer(&message);
                    calls.finish_keyed(key);
                }
            }
        }
        Step::Took(2 + length)
    }

    fn is_between_messages(&self, _side: Side) -> bool {
        true
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        probe_request(bytes) == Probe::Yes
    }

    /// A whole response, or its length by itself, as clients read it.
    fn begins_response(&self, bytes: &[u8], _calls: &Calls<Lookup>) -> bool {
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return false };
        let length = usize::from(u16::from_be_bytes(*length));
        let response = rest.get(..length).and_then(|frame| Message::read(frame, length));
        match response {
            Some(message) => message.header.is_response(),
            None => rest.is_empty() && length >= HEADER_BYTES,
        }
    }

    fn forget_messages(&mut self) {}
}

/// Whether `bytes` start with a query as clients send it over TCP: one question, no answers.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let Some((length, frame)) = bytes.split_first_chunk::<2>() else {
        return match bytes {
            [high, ..] if usize::from(*high) << 8 >= FIRST_QUERY_BYTES_MAX => Probe::No,
            _ => Probe::Maybe,
        };
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if !(FIRST_QUERY_BYTES_MIN..=FIRST_QUERY_BYTES_MAX).contains(&length) {
        return Probe::No;
    }
    // Query, nothing but RD, AD and CD; then 1 question, no answers, a few additional records.
    let fixed: [(u8, u8); HEADER_BYTES] = [
        (0, 0),
        (0, 0),
        (0xfe, 0),
        (0xcf, 0),
        (0xff, 0),
        (0xff, 1),
        (0xff, 0),
        (0xff, 0),
        (0xff, 0),
        (0xfe, 0),
        (0xff, 0),
        (0xfc, 0),
    ];
    if frame.iter().zip(fixed).any(|(byte, (mask, value))| byte & mask != value) {
        return Probe::No;
    }
    match frame.get(..length) {
        None => Probe::Maybe,
        Some(frame) => match Message::read(frame, length) {
            Some(message) if message.is_whole && message.questions[0].class == 1 => Probe::Yes,
            _ => Probe::No,
        },
    }
}

#[cfg(test)]
pub(crate) mod tests;
