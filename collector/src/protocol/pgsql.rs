//! PostgreSQL: version 3 of its protocol, between clients and servers and what pools them.
//!
//! ```text
//! client ─► names (what was prepared) ─► Awaited (what the server owes) ─► Calls
//! server ─► the first of Awaited ─► its Call gets its response
//! ```
//!
//! Responses come in the order of requests, so what the server owes is a queue. A simple `Query` is
//! a call up to its `ReadyForQuery`, however many statements it has. Of the extended protocol each
//! `Execute` is a call; what prepares it is one only where it fails. After an error the server
//! skips everything up to the next `Sync`, and calls that it skips end with the error. Notices,
//! notifications and changed settings come at any time and belong to no request. The startup, and
//! with it all that proves who the user is, is no call and nothing of it is kept.

mod awaited;
mod client;
pub(super) mod mask;
mod message;
mod names;
mod probe;
mod secret;
mod server;

use super::ProtocolCode;
use super::dialogue::{Call, Calls, Dialect, Side, Step, Timed};
use super::output::Finished;
use super::{Probe, gap::Cause};
use awaited::{Awaited, Queue};
use message::{Fields, HEAD_BYTES, Head};
use names::Names;
use probe::{STARTUP_HEAD_BYTES, Startup};

pub use awaited::Kind;
pub use probe::probe_request;

/// Shortest request: a `Query` without SQL.
pub const REQUEST_BYTES_MIN: u64 = 6;
/// Bytes of a body that are looked at beside the text that is kept: names, numbers and lengths.
const FIELD_BYTES_MAX: usize = 256;

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What was sent.
    pub kind: Kind,
    /// The SQL as sent, with the parameters of an execution, cut at the configured size.
    pub text: String,
    /// Names of columns, rows and tags of commands, a line each, cut at the configured size; or the
    /// error.
    pub response: String,
    /// Bytes of the request on the wire, with what prepared it just before.
    pub request_size: u64,
    /// Bytes of the response on the wire.
    pub response_size: u64,
    /// Whether the response is an error, or there is none because of one.
    pub failed: bool,
}

impl Call for Request {
    fn heap_bytes(&self) -> usize {
        self.text.len() + self.response.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Pgsql(timed)
    }
}

/// How far the opening of a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Opening {
    /// The client sent nothing.
    #[default]
    Awaited,
    /// The server's next byte says whether it encrypts.
    EncryptionAsked,
    /// What is sent are messages with a tag.
    Over,
}

/// A connection to a PostgreSQL server.
#[derive(Debug, Default)]
pub struct Pgsql {
    /// Bytes of each side's message that are of no interest.
    rest: [u64; 2],
    opening: Opening,
    awaited: Queue,
    /// After an error: the server reads nothing up to a `Sync` that has not come yet.
    skips: bool,
    /// The client sends the rows of a table, and its `Sync` means nothing.
    copies_in: bool,
    statements: Names,
    portals: Names,
    /// Bytes that each side sent to prepare the next execution.
    prelude: [u64; 2],
    /// Names of the columns that the next execution gives.
    columns: String,
}

impl Dialect for Pgsql {
    type Call = Request;
    const CODE: ProtocolCode = ProtocolCode::Pgsql;
    const RESPONSES_NAME_REQUESTS: bool = false;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Request>) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Skip(rest);
        }
        let taken = match (side, bytes.first()) {
            (Side::Client, Some(0)) => self.startup(bytes, calls),
            (Side::Server, answer)
                if self.opening == Opening::EncryptionAsked && answer != Some(&b'E') =>
            {
                self.encryption_answer(answer)
            }
            _ => self.message(side, bytes, calls),
        };
        taken.unwrap_or_else(|step| step)
    }

    fn is_between_messages(&self, side: Side) -> bool {
        self.rest[side as usize] == 0
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        probe_request(bytes) == Probe::Yes
    }

    fn forget_messages(&mut self) {
        // What names stand for may have changed in the bytes that are missing.
        *self = Self { opening: self.opening, ..Self::default() };
    }

    fn pipelines(&self, _waiting: usize) -> bool {
        self.awaited.has_turns_behind_each_other()
    }

    fn undecided_requests(&self) -> u64 {
        self.awaited.undecided()
    }

    fn heap_bytes(&self) -> usize {
        self.statements.heap_bytes()
            + self.portals.heap_bytes()
            + self.awaited.heap_bytes()
            + self.columns.len()
    }
}

impl Pgsql {
    /// Takes a packet of the kind that a connection begins with.
    fn startup(&mut self, bytes: &[u8], calls: &mut Calls<Request>) -> Result<Step, Step> {
        if self.opening == Opening::Over {
            return Err(Step::Bad(Cause::ParseError));
        }
        let Some(head) = bytes.get(..STARTUP_HEAD_BYTES) else {
            return Err(Step::Need(STARTUP_HEAD_BYTES));
        };
        let mut fields = Fields(head);
        let (length, code) = (fields.long().unwrap_or(0), fields.long().unwrap_or(0));
        self.opening = match Startup::of(length, code).ok_or(Step::Bad(Cause::ParseError))? {
            Startup::Encryption => Opening::EncryptionAsked,
            Startup::Cancel => Opening::Over,
            Startup::Session => {
                let arrival = calls.arrival();
                self.awaited.push(Awaited::new(Kind::Startup, u64::from(length), arrival));
                Opening::Over
            }
        };
        self.rest[Side::Client as usize] = u64::from(length) - STARTUP_HEAD_BYTES as u64;
        Ok(Step::Took(STARTUP_HEAD_BYTES))
    }

    fn encryption_answer(&mut self, answer: Option<&u8>) -> Result<Step, Step> {
        match answer {
            None => Err(Step::Need(1)),
            Some(b'S' | b'G') => Ok(Step::Opaque),
            Some(b'N') => {
                self.opening = Opening::Awaited;
                Ok(Step::Took(1))
            }
            Some(_) => Err(Step::Bad(Cause::ParseError)),
        }
    }

    /// Takes a message, of which the rest is skipped.
    fn message(
        &mut self,
        side: Side,
        bytes: &[u8],
        calls: &mut Calls<Request>,
    ) -> Result<Step, Step> {
        let head = Head::read(side, bytes)?;
        let wanted = match side {
            Side::Client => client::bytes_wanted(head.tag, calls),
            Side::Server => server::bytes_wanted(head.tag, calls),
        };
        let kept = usize::try_from(head.body_bytes).unwrap_or(usize::MAX).min(wanted);
        let end = HEAD_BYTES + kept;
        let Some(body) = bytes.get(HEAD_BYTES..end) else { return Err(Step::Need(end)) };
        match side {
            Side::Client => self.ask(head, Fields(body), calls),
            Side::Server => self.answer(head, Fields(body), calls)?,
        }
        if self.awaited.is_full() {
            return Err(Step::Bad(Cause::InFlightFull));
        }
        self.rest[side as usize] = head.body_bytes - kept as u64;
        Ok(Step::Took(end))
    }
}

#[cfg(test)]
mod tests;
