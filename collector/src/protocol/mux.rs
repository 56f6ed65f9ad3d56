//! Mux: the session protocol of Finagle, by which many calls share a connection.
//!
//! Either side may ask, the client mostly `Tdispatch` and the server `Tping` and `Tdrain`; replies
//! name what they answer by its tag, and come in any order. Messages may come in fragments, with
//! those of others between them. Nothing of the payload is kept. The protocol is that of
//! `com.twitter.finagle.mux`.

mod frame;
pub(super) mod mask;

use super::dialogue::{Call, Calls, Dialect, IN_FLIGHT_MAX, Side, Step, Timed};
use super::gap::Cause;
use super::output::Finished;
use super::{Probe, ProtocolCode};
use frame::{HEAD_BYTES, Head, Part, kind};

/// Shortest message that asks: a `Tping`.
pub const REQUEST_BYTES_MIN: u64 = HEAD_BYTES as u64;
/// What the first byte of a client may be: the highest of a size below 16 MiB.
pub(super) const FIRST_BYTES: &[[u8; 2]] = &[[0, 0]];
/// Bytes of a message that are looked at for its destination, and of a reply for its status.
const BODY_BYTES_MAX: usize = 4096;
/// What clients send first, to see whether the server speaks Mux.
const INIT_CHECK: &[u8] = b"tinit check";
/// Says of a key that the server asks.
const FROM_SERVER: u64 = 1 << 32;

/// How an exchange went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Unanswered,
    Answered,
    Failed,
}

/// A message and its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The message's type.
    pub kind: i8,
    /// Where a `Tdispatch` is to go.
    pub dest: String,
    /// Bytes of the message on the wire.
    pub request_size: u64,
    /// Bytes of the reply on the wire.
    pub response_size: u64,
    outcome: Outcome,
    goes_on: bool,
}

impl Exchange {
    /// Whether there is a reply.
    pub fn is_answered(&self) -> bool {
        self.outcome != Outcome::Unanswered
    }

    /// Whether the reply is an error or a refusal.
    pub fn failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

impl Call for Exchange {
    fn heap_bytes(&self) -> usize {
        self.dest.len()
    }

    fn finished(timed: Box<Timed<Self>>) -> Finished {
        Finished::Mux(timed)
    }
}

/// A connection that speaks Mux.
#[derive(Debug, Default)]
pub struct Mux {
    /// Of each side, the frame whose end was not taken yet.
    frames: [Option<Head>; 2],
}

impl Dialect for Mux {
    type Call = Exchange;
    const CODE: ProtocolCode = ProtocolCode::Mux;
    const RESPONSES_NAME_REQUESTS: bool = true;

    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Exchange>) -> Step {
        if let Some(head) = self.frames[side as usize].take() {
            end(side, head, calls);
            calls.begin_message();
        }
        let Some((head, body)) = bytes.split_first_chunk() else { return Step::Need(HEAD_BYTES) };
        let Some(head) = Head::read(*head) else { return Step::Bad(Cause::ParseError) };
        let body_bytes = usize::try_from(head.body_bytes()).unwrap_or(usize::MAX);
        let wanted = body_bytes.min(BODY_BYTES_MAX);
        let Some(body) = body.get(..wanted) else { return Step::Need(HEAD_BYTES + wanted) };
        if let Err(cause) = begin(side, head, body, calls) {
            return Step::Bad(cause);
        }
        if wanted == body_bytes {
            end(side, head, calls);
            return Step::Took(HEAD_BYTES + wanted);
        }
        self.frames[side as usize] = Some(head);
        Step::Skip(head.bytes)
    }

    fn is_between_messages(&self, side: Side) -> bool {
        self.frames[side as usize].is_none()
    }

    fn begins_request(&self, bytes: &[u8]) -> bool {
        begins(bytes, |part| part != Part::Replies)
    }

    fn begins_push(&self, bytes: &[u8]) -> bool {
        begins(bytes, |part| part == Part::Asks)
    }

    fn begins_response(&self, bytes: &[u8], _calls: &Calls<Exchange>) -> bool {
        begins(bytes, |_| true)
    }

    fn forget_messages(&mut self) {
        self.frames = [None; 2];
    }
}

/// What `side` asks under `tag`.
fn key(side: Side, tag: u32) -> u64 {
    let asked_by = if side == Side::Server { FROM_SERVER } else { 0 };
    u64::from(tag) | asked_by
}

/// The head of a frame and the first bytes of its body are there.
fn begin(side: Side, head: Head, body: &[u8], calls: &mut Calls<Exchange>) -> Result<(), Cause> {
    match head.part() {
        Part::Tells => {}
        Part::Asks => {
            let key = key(side, head.tag);
            if let Some(call) = calls.keyed(key).filter(|call| call.goes_on) {
                call.request_size += head.bytes;
                call.goes_on = head.goes_on;
                return Ok(());
            }
            // The tag is used again, so the reply to the last message under it never comes.
            calls.finish_keyed(key);
            if side == Side::Server && calls.len() >= IN_FLIGHT_MAX {
                return Err(Cause::InFlightFull);
            }
            let dispatch = if head.kind == kind::DISPATCH { frame::dispatch(body) } else { None };
            let dest = dispatch.map(|dispatch| dispatch.dest.escape_ascii().to_string());
            calls.begin(
                key,
                Exchange {
                    kind: head.kind,
                    dest: dest.unwrap_or_default(),
                    request_size: head.bytes,
                    goes_on: head.goes_on,
                    ..Exchange::default()
                },
            );
        }
        Part::Replies => {
            // What is not known was asked before the connection was joined, or is the check that
            // comes before a session.
            let Some(call) = calls.keyed(key(side.other(), head.tag)) else { return Ok(()) };
            let is_error = matches!(head.kind, kind::ERROR | kind::OLD_ERROR);
            let has_status = matches!(-i16::from(head.kind), 1 | 2);
            let is_refused = has_status && body.first().is_some_and(|status| *status != 0);
            let is_first = call.response_size == 0;
            call.response_size += head.bytes;
            let fails = is_error || head.kind == -kind::DISCARDED || (is_first && is_refused);
            if fails {
                call.outcome = Outcome::Failed;
            } else if is_first {
                call.outcome = Outcome::Answered;
            }
        }
    }
    Ok(())
}

/// All of a frame is there.
fn end(side: Side, head: Head, calls: &mut Calls<Exchange>) {
    if head.part() == Part::Replies && !head.goes_on {
        calls.finish_keyed(key(side.other(), head.tag));
    }
}

/// Whether `bytes` begin with a frame of such a part, and are frames up to their end.
fn begins(bytes: &[u8], is_wanted: impl Fn(Part) -> bool) -> bool {
    let Some((head, mut rest)) = bytes.split_first_chunk() else { return false };
    let Some(mut head) = Head::read(*head) else { return false };
    let says_where = || frame::dispatch(rest).is_some_and(|dispatch| dispatch.is_plausible());
    if !is_wanted(head.part()) || head.kind == kind::DISPATCH && !says_where() {
        return false;
    }
    // Of the others only whole ones are told from the middle of something.
    let mut is_first = head.kind != kind::DISPATCH;
    loop {
        let body = usize::try_from(head.body_bytes()).unwrap_or(usize::MAX);
        let Some(next) = rest.get(body..) else { return !is_first };
        let Some((next_head, next_rest)) = next.split_first_chunk() else { return true };
        let Some(next_head) = Head::read(*next_head) else { return false };
        (head, rest, is_first) = (next_head, next_rest, false);
    }
}

/// Whether `bytes` start as clients do: with the check whether the server speaks Mux, a `Tinit`, or
/// a `Tdispatch` that says where it is to go.
pub fn probe_request(bytes: &[u8]) -> Probe {
    let Some((head, body)) = bytes.split_first_chunk() else {
        let may_be = match bytes {
            [0, _, _, _, kind, ..] => {
                matches!(i8::from_be_bytes([*kind]), kind::OLD_ERROR | kind::INIT | kind::DISPATCH)
            }
            [0, ..] | [] => true,
            _ => false,
        };
        return if may_be { Probe::Maybe } else { Probe::No };
    };
    let Some(head) = Head::read(*head).filter(|_| bytes[0] == 0) else { return Probe::No };
    let body_bytes = usize::try_from(head.body_bytes()).unwrap_or(usize::MAX);
    let body = &body[..body.len().min(body_bytes)];
    let is_whole = body.len() == body_bytes;
    let is_it = match head.kind {
        kind::OLD_ERROR | kind::ERROR if body_bytes == INIT_CHECK.len() => {
            INIT_CHECK.starts_with(body)
        }
        kind::INIT if body_bytes <= BODY_BYTES_MAX => !is_whole || frame::is_init(body),
        kind::DISPATCH if head.tag > 0 => {
            return match frame::dispatch(body) {
                Some(dispatch) if dispatch.is_plausible() => Probe::Yes,
                None if !is_whole && body.len() < BODY_BYTES_MAX => Probe::Maybe,
                _ => Probe::No,
            };
        }
        _ => false,
    };
    match (is_it, is_whole) {
        (false, _) => Probe::No,
        (true, false) => Probe::Maybe,
        (true, true) => Probe::Yes,
    }
}

#[cfg(test)]
mod tests;
