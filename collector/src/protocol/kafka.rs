//! Kafka: requests of a length, answered in order, each response by its request's correlation id.
//!
//! Any API and version is paired; [`apis`] lists those whose bodies are read. Records are never
//! looked at: they are passed over by their size, as is the rest of a body of which bytes are
//! missing. A `Produce` that wants no acknowledgement is complete without a response. Secrets are
//! in bodies that are not read. TLS and the bare tokens of SASL before version 1 of its handshake
//! are not Kafka to this parser.

mod apis;
mod body;
mod head;
mod layout;
pub(super) mod mask;

use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::gap::Cause;
use super::output::{Finished, QUALITY_BODY_INCOMPLETE};
use super::{Probe, ProtocolCode};
use body::{Body, Pace};
use head::{Head, LENGTH_BYTES, MESSAGE_BYTES_MAX, Stop};

/// Shortest request: a head without a client id, and no body.
pub const REQUEST_BYTES_MIN: u64 = 14;
/// Bytes of a response's length and correlation id.
const RESPONSE_HEAD_BYTES: usize = 8;
/// How far behind the last request a response may be, to answer one that does not wait for it:
/// one from before a gap, or one that asked for no response and gets it all the same.
const REQUESTS_BEHIND_MAX: u32 = 1024;
/// The error of a broker that does not know the version of an `ApiVersions`; the response is then
/// one of version 0.
const UNSUPPORTED_VERSION: [u8; 2] = [0, 35];

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub api_key: i16,
    /// In which version.
    pub version: i16,
    /// What the client calls itself.
    pub client_id: String,
    /// The request's body as JSON.
    pub body: String,
    /// The response's body as JSON; empty where there is no response.
    pub response: String,
    /// Bytes of the request.
    pub request_size: u64,
    /// Bytes of the response.
    pub response_size: u64,
    /// Whether an error code was seen in the response.
    pub failed: bool,
    /// Whether bytes of a body were missing.
    is_incomplete: bool,
}

impl Request {
    /// What is wrong with its bodies, a sum of `QUALITY_…`.
    pub const fn quality(&self) -> u8 {
        if self.is_incomplete { QUALITY_BODY_INCOMPLETE } else { 0 }
    }
}

impl Call for Request {
    fn heap_bytes(&self) -> usize {
        self.client_id.len() + self.body.len() + self.response.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Kafka(timed)
    }
}

/// A response on its way.
#[derive(Debug)]
struct Response {
    key: u64,
    /// Its body; none once it was read.
    body: Option<Body>,
}

/// A connection to a Kafka broker.
#[derive(Debug, Default)]
pub struct Kafka {
    /// The request on its way, with its key.
    request: Option<(u64, Request, Body)>,
    response: Option<Response>,
    /// Correlation id of the last request, since the last gap.
    last: Option<i32>,
}

impl Dialect for Kafka {
    type Call = Request;
    const CODE: ProtocolCode = ProtocolCode::Kafka;
    const RESPONSES_NAME_REQUESTS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        match side {
            Side::Client => self.take_request(bytes, calls),
            Side::Server => self.take_response(bytes, calls),
        }
    }

    fn is_between_messages(&self, side: Side) -> bool {
        match side {
            Side::Client => self.request.is_none(),
            Side::Server => self.response.is_none(),
        }
    }

    /// Some servers read the length by itself; the head behind it is looked at in its turn.
    fn begins_request(&self, bytes: &[u8]) -> bool {
        match Head::read(bytes) {
            Ok(_) => true,
            Err(Stop::Need(_)) => bytes.len() == LENGTH_BYTES,
            Err(Stop::Bad) => false,
        }
    }

    /// Responses to requests that wait, one after the other, or the length of one by itself, as
    /// clients read it.
    fn begins_response(&self, bytes: &[u8], calls: &Calls<Request>) -> bool {
        let mut rest = bytes;
        while let Some((head, _)) = rest.split_first_chunk() {
            let Some((message_bytes, correlation_id)) = response_head(*head) else { return false };
            if !calls.waits(key(correlation_id)) {
                return false;
            }
            let message_bytes = usize::try_from(message_bytes).unwrap_or(usize::MAX);
            rest = rest.get(message_bytes..).unwrap_or_default();
        }
        rest.len() < bytes.len() || bytes.len() == LENGTH_BYTES
    }

    fn forget_messages(&mut self) {
        *self = Self::default();
    }

    fn give_up_rest(&mut self, side: Side, calls: &mut Calls<Request>) -> u64 {
        match side {
            Side::Client => {
                let Some((_, request, body)) = &mut self.request else { return 0 };
                request.is_incomplete = true;
                let left = body.left();
                self.request_done(calls);
                left
            }
            Side::Server => {
                let Some(response) = &self.response else { return 0 };
                let Some(body) = &response.body else { return 0 };
                let left = body.left();
                if let Some(request) = calls.keyed(response.key) {
                    request.is_incomplete = true;
                }
                self.response_read(calls);
                left
            }
        }
    }
}

impl Kafka {
    fn take_request(&mut self, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        let mut taken = 0;
        if self.request.is_none() {
            match Head::read(bytes) {
                Ok(head) => {
                    taken = head.bytes;
                    self.open_request(&head, calls.text_bytes_max);
                }
                Err(Stop::Need(wanted)) => return Step::Need(wanted),
                Err(Stop::Bad) => return Step::Bad(Cause::ParseError),
            }
        }
        let Some((_, _, body)) = &mut self.request else { return Step::Bad(Cause::ParseError) };
        let pace = body.read(bytes, taken);
        if let Pace::Ended(_) = pace {
            self.request_done(calls);
        }
        step(pace, taken, bytes.len())
    }

    fn open_request(&mut self, head: &Head<'_>, text_bytes_max: usize) {
        let left = head.message_bytes - head.bytes as u64;
        let body = match apis::find(head.api_key, head.version) {
            Some(api) => Body::of_request(api, head.version, left, text_bytes_max),
            None => Body::unknown(left, text_bytes_max),
        };
        let request = Request {
            api_key: head.api_key,
            version: head.version,
            client_id: head.client_id.unwrap_or_default().to_owned(),
            request_size: head.message_bytes,
            ..Request::default()
        };
        self.last = Some(head.correlation_id);
        self.request = Some((key(head.correlation_id), request, body));
    }

    /// All of a request that is read was read.
    fn request_done(&mut self, calls: &mut Calls<Request>) {
        let Some((key, mut request, body)) = self.request.take() else { return };
        let is_answered = !body.wants_no_response();
        request.body = body.into_json();
        calls.begin(key, request);
        if !is_answered {
            calls.finish_newest();
        }
    }

    fn take_response(&mut self, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        if self.response.as_ref().is_some_and(|response| response.body.is_none()) {
            self.response_done(calls);
        }
        let mut taken = 0;
        if self.response.is_none() {
            let Some(head) = bytes.first_chunk() else { return Step::Need(RESPONSE_HEAD_BYTES) };
            match self.open_response(*head, bytes, calls) {
                Ok(()) => taken = RESPONSE_HEAD_BYTES,
                Err(step) => return step,
            }
        }
        let Some(response) = &mut self.response else { return Step::Bad(Cause::ParseError) };
        let Some(body) = &mut response.body else { return Step::Bad(Cause::ParseError) };
        let pace = body.read(bytes, taken);
        if let Pace::Ended(end) = pace {
            self.response_read(calls);
            if end <= bytes.len() as u64 {
                self.response_done(calls);
            }
        }
        step(pace, taken, bytes.len())
    }

    /// Finds out what a response answers, and how it is read.
    fn open_response(
        &mut self,
        head: [u8; RESPONSE_HEAD_BYTES],
        bytes: &[u8],
        calls: &mut Calls<Request>,
    ) -> Result<(), Step> {
        let Some((message_bytes, correlation_id)) = response_head(head) else {
            return Err(Step::Bad(Cause::ParseError));
        };
        let left = message_bytes - RESPONSE_HEAD_BYTES as u64;
        let text_bytes_max = calls.text_bytes_max;
        let Some(request) = calls.keyed(key(correlation_id)) else {
            return Err(if self.is_behind(correlation_id) {
                Step::Skip(message_bytes)
            } else {
                Step::Bad(Cause::Unrequested)
            });
        };
        let is_versions = request.api_key == apis::API_VERSIONS;
        let version = match bytes.get(RESPONSE_HEAD_BYTES..RESPONSE_HEAD_BYTES + 2) {
            Some(error) if is_versions && error == UNSUPPORTED_VERSION => 0,
            None if is_versions && left >= 2 => {
                return Err(Step::Need(RESPONSE_HEAD_BYTES + 2));
            }
            _ => request.version,
        };
        request.response_size = message_bytes;
        let body = match apis::find(request.api_key, version) {
            Some(api) => Body::of_response(api, version, !is_versions, left, text_bytes_max),
            None => Body::unknown(left, text_bytes_max),
        };
        let key = key(correlation_id);
        self.response = Some(Response { key, body: Some(body) });
        Ok(())
    }

    /// Whether a response is to a request shortly before the last one, or to that.
    fn is_behind(&self, correlation_id: i32) -> bool {
        self.last.is_some_and(|last| {
            last.wrapping_sub(correlation_id).cast_unsigned() <= REQUESTS_BEHIND_MAX
        })
    }

    /// All of a response that is read was read.
    fn response_read(&mut self, calls: &mut Calls<Request>) {
        let Some(response) = &mut self.response else { return };
        let Some(body) = response.body.take() else { return };
        if let Some(request) = calls.keyed(response.key) {
            request.failed = body.has_failed();
            request.response = body.into_json();
        }
    }

    fn response_done(&mut self, calls: &mut Calls<Request>) {
        if let Some(response) = self.response.take() {
            calls.finish_keyed(response.key);
        }
    }
}

const fn key(correlation_id: i32) -> u64 {
    correlation_id.cast_unsigned() as u64
}

/// Bytes of a response with its length, and the request that it names; none where it cannot be one.
fn response_head(head: [u8; RESPONSE_HEAD_BYTES]) -> Option<(u64, i32)> {
    let [a, b, c, d, correlation @ ..] = head;
    let length = u64::from(u32::from_be_bytes([a, b, c, d]));
    let message_bytes = length + LENGTH_BYTES as u64;
    let fits = length <= MESSAGE_BYTES_MAX && message_bytes >= RESPONSE_HEAD_BYTES as u64;
    fits.then_some((message_bytes, i32::from_be_bytes(correlation)))
}

/// The step for a pace whose bytes come after `taken` ones of a head.
fn step(pace: Pace, taken: usize, at_hand: usize) -> Step {
    match pace {
        Pace::Need(_) if taken > 0 => Step::Took(taken),
        Pace::Need(wanted) => Step::Need(wanted),
        Pace::Took(bytes) => Step::Took(bytes),
        Pace::Skip(bytes) => Step::Skip(bytes),
        Pace::Ended(bytes) => match usize::try_from(bytes) {
            Ok(bytes) if bytes <= at_hand => Step::Took(bytes),
            _ => Step::Skip(bytes),
        },
    }
}

/// Whether `bytes` start with a request.
pub fn probe_request(bytes: &[u8]) -> Probe {
    head::probe_request(bytes)
}

#[cfg(test)]
mod tests;
