//! Connections on which a client calls and a server answers: what such protocols have in common.
//!
//! ```text
//! bytes, holes ─► window (what the dialect wants to see at once) ─► Dialect ─► Calls ─► Output::done
//! ```
//!
//! A [`Dialect`] knows what the messages of its protocol look like and which response belongs to
//! which request; everything else is here: gathering, skipping, times, bounds and gaps.
//!
//! **Loss.** As for HTTP/1: a hole in what is skipped, or in a message whose rest the dialect can
//! do without, changes nothing; any other hole, and bytes that are none of the dialect's, put the
//! connection *out of step*: calls that wait are dropped and counted, and nothing is paired until
//! an operation begins with a request, or with what a server pushes. Where responses do not name
//! their requests that proves something only for clients that wait for each response, so the
//! connections of others stay out of step, and at the client's end the request has to follow on
//! [`Silence`]. Where they do, or where servers push, it says nothing of
//! the other side: that one is *unheard* until one of its operations begins with a message too, and
//! calls whose response it may have sent meanwhile are dropped. The first call after that is a
//! trial: it is counted, not kept. Hence no pair ever spans a gap.

mod calls;
mod window;

use std::fmt::Debug;

use super::gap::{Cause, GapAccount, LostRows, Start};

use super::output::{Finished, Output, QUALITY_ENDED_BY_CLOSE, QUALITY_MIDSTREAM};
use super::silence::Silence;
use super::{Protocol, ProtocolCode};
use crate::data_stream::{Missing, Operation};
use crate::event::Flow;
pub use calls::{Arrival, Calls, Timed};
use window::Window;

/// Most bytes that a dialect may want to see at once.
pub const WINDOW_BYTES_MAX: usize = (1 << 20) + 64 * 1024;
/// Most calls of a connection that wait for their response.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Most bytes that those calls may hold.
pub const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that calls.
    Client = 0,
    /// The end that answers.
    Server = 1,
}

impl Side {
    /// The other end.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What a dialect did with the bytes at hand, which begin where its last step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it wants to see this many at once, more than it was given.
    Need(usize),
    /// It is done with this many of them, at least one.
    Took(usize),
    /// The next so many are of no interest, whether or not they were captured. It is called again
    /// when they are over, maybe with nothing at hand.
    Skip(u64),
    /// They are not what its protocol allows here.
    Bad(Cause),
    /// From here on another protocol is spoken, for good.
    Opaque,
}

/// What the messages of a protocol look like.
pub trait Dialect: Debug + Default + Send {
    /// A request and what came of it.
    type Call: Call;
    /// The protocol.
    const CODE: ProtocolCode;
    /// Whether a response names its request, so that clients need not wait for their turn.
    const RESPONSES_NAME_REQUESTS: bool;
    /// Whether clients wait for a response before their next request although responses do not name
    /// theirs, because the protocol says so. Otherwise they are trusted to only after a silence.
    const CLIENTS_TAKE_TURNS: bool = false;
    /// Whether a connection has one call, whose beginning no other bytes can be: it needs no trial
    /// wherever it comes, and a gap in it leaves nothing to be read.
    const CALLS_ONCE: bool = false;
    /// Whether a request, and so one that was not seen, may ask a server to push.
    const PUSHES_IF_ASKED: bool = false;

    /// Takes bytes from `side`. With none at hand it finishes what is complete and asks for more.
    fn take(&mut self, side: Side, bytes: &[u8], calls: &mut Calls<Self::Call>) -> Step;
    /// Whether what follows a step to another protocol is TLS, and inside it this goes on.
    fn goes_on_in_tls(&self) -> bool {
        false
    }
    /// Whether the last step from `side` ended a message.
    fn is_between_messages(&self, side: Side) -> bool;
    /// Whether an operation that starts with `bytes` can only start with a request.
    fn begins_request(&self, bytes: &[u8]) -> bool;
    /// Whether an operation of a server that pushes, and that starts with `bytes`, can only start
    /// with a message.
    fn begins_push(&self, _bytes: &[u8]) -> bool {
        false
    }
    /// Whether an operation of a server can only start with a message, where that is not known
    /// from what its client did. Responses name their requests then, or servers push.
    fn begins_response(&self, bytes: &[u8], _calls: &Calls<Self::Call>) -> bool {
        self.begins_push(bytes)
    }
    /// Whether what a server sends may be rows that nobody asked for one by one, so that its bytes
    /// that went by unread may have been some.
    fn pushes(&self) -> bool {
        Self::CODE.servers_push()
    }
    /// Forgets messages that are on their way, because some of their bytes are not.
    fn forget_messages(&mut self);
    /// Whether the client does not wait for its turn, where so many of its calls wait.
    fn pipelines(&self, waiting: usize) -> bool {
        waiting > 1
    }
    /// Requests that were read and become calls only if they fail.
    fn undecided_requests(&self) -> u64 {
        0
    }
    /// Bytes that it holds on the heap.
    fn heap_bytes(&self) -> usize {
        0
    }
    /// Does without the rest of the message on its way from `side`, because bytes of it are missing;
    /// how many bytes that is from the end of the last step. 0 where it needs them.
    fn give_up_rest(&mut self, _side: Side, _calls: &mut Calls<Self::Call>) -> u64 {
        0
    }
}

/// A request with its response, as its table wants to know it.
pub trait Call: Debug + Send + Sized {
    /// Bytes that it holds on the heap.
    fn heap_bytes(&self) -> usize;
    /// Wraps it for the way to its table.
    fn finished(timed: Box<Timed<Self>>) -> Finished;
}

/// Whether what comes is paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pairing {
    On,
    /// Not at the moment, because of a gap.
    OutOfStep,
    /// Not any more: another protocol is spoken.
    Ended,
}

/// A side that is not read, though the other one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unheard {
    side: Side,
    /// It sent something since the other one is read.
    has_spoken: bool,
}

/// A connection that speaks a dialect.
#[derive(Debug)]
pub struct Dialogue<D: Dialect> {
    dialect: D,
    requests: Flow,
    windows: [Window; 2],
    calls: Calls<D::Call>,
    pairing: Pairing,
    /// The side of which it is not known yet where its messages begin, though pairing is on.
    unheard: Option<Unheard>,
    /// Pairing was taken up again after a gap.
    resumed: bool,
    /// Some of what the client sent was not read.
    misses_requests: bool,
    silence: Silence,
    gaps: GapAccount,
}

impl<D: Dialect> Dialogue<D> {
    /// A connection whose requests go the way of `requests`.
    pub fn new(requests: Flow, start: Start) -> Self {
        let midstream = matches!(start, Start::AfterGap { cause: Cause::Midstream, .. });
        Self {
            dialect: D::default(),
            requests,
            windows: Default::default(),
            calls: Calls::new(if midstream && !D::CALLS_ONCE { QUALITY_MIDSTREAM } else { 0 }),
            pairing: match start {
                Start::AtItsBeginning => Pairing::On,
                Start::AfterGap { .. } => Pairing::OutOfStep,
            },
            unheard: None,
            resumed: false,
            misses_requests: matches!(start, Start::AfterGap { .. }),
            silence: Silence::default(),
            gaps: GapAccount::new(D::CODE.request_bytes_min(), start),
        }
    }

    fn side(&self, flow: Flow) -> Side {
        if flow == self.requests { Side::Client } else { Side::Server }
    }

    /// Starts to pair again where `bytes` begin a request of a client that waits its turn, or what
    /// a server pushes.
    fn resume(&mut self, side: Side, bytes: &[u8], operation: Operation, out: &Output) -> bool {
        let proves_turn =
            || D::CLIENTS_TAKE_TURNS || self.silence.proves_turn(self.requests, operation.at);
        let waits = D::RESPONSES_NAME_REQUESTS
            || (!out.peer_pipelines && (D::CODE.servers_push() || proves_turn()));
        let begins = |dialect: &D| match side {
            Side::Client => dialect.begins_request(bytes),
            Side::Server => D::CODE.servers_push() && dialect.begins_push(bytes),
        };
        if operation.continued || !waits || !begins(&self.dialect) {
            return false;
        }
        if !D::CALLS_ONCE {
            self.calls.begin_trial();
            let is_apart = D::RESPONSES_NAME_REQUESTS || D::CODE.servers_push();
            let unheard = Unheard { side: side.other(), has_spoken: false };
            self.unheard = is_apart.then_some(unheard);
        }
        (self.pairing, self.resumed) = (Pairing::On, true);
        true
    }

    /// Whether nothing is heard of `side` yet, nor with an operation that starts with `bytes`; these
    /// have so many bytes, which need not be there.
    fn stays_unheard(&mut self, side: Side, bytes: &[u8], length: u64, continued: bool) -> bool {
        let Some(unheard) = self.unheard.filter(|unheard| unheard.side == side) else {
            return false;
        };
        let begins = || match side {
            Side::Client => self.dialect.begins_request(bytes),
            Side::Server => self.dialect.begins_response(bytes, &self.calls),
        };
        if continued || bytes.is_empty() || !begins() {
            self.unheard = Some(Unheard { has_spoken: true, ..unheard });
            self.unread(side, length);
            return true;
        }
        self.unheard = None;
        if unheard.has_spoken {
            self.lose_waiting();
        }
        false
    }

    /// Counts the calls that wait as missing.
    fn lose_waiting(&mut self) {
        for _lost in 0..self.calls.forget_waiting() {
            self.gaps.lose_row();
        }
    }

    fn feed(&mut self, side: Side, bytes: &[u8], out: &mut Output) {
        let mut rest = self.windows[side as usize].skip(bytes);
        if self.windows[side as usize].skip > 0 {
            return;
        }
        loop {
            let window = &mut self.windows[side as usize];
            let now = self.calls.operation.at;
            let kept_since = window.kept_since();
            let gathers = kept_since.is_some();
            self.calls.at_hand_since = kept_since.unwrap_or(now);
            if gathers {
                rest = window.gather(rest, now);
                if window.partial.len() < window.wanted {
                    return;
                }
            }
            if self.dialect.is_between_messages(side) {
                window.message_began_at = self.calls.at_hand_since;
            }
            self.calls.message_began_at = window.message_began_at;
            let at_hand = if gathers { window.partial.as_slice() } else { rest };
            let given = at_hand.len();
            let (step, begun) =
                (self.dialect.take(side, at_hand, &mut self.calls), self.calls.begun);
            window_mut(&mut self.windows, side).message_began_at = self.calls.message_began_at;
            self.hand_on(out);
            match step {
                Step::Took(took) if (1..=given).contains(&took) => {
                    if gathers {
                        window_mut(&mut self.windows, side).drop_first(took);
                    } else {
                        rest = &rest[took..];
                    }
                }
                Step::Skip(bytes) if bytes > 0 => {
                    let window = window_mut(&mut self.windows, side);
                    window.skip = bytes;
                    if gathers {
                        let skipped = usize::try_from(bytes).unwrap_or(usize::MAX).min(given);
                        window.skip -= skipped as u64;
                        window.drop_first(skipped);
                    }
                    rest = window.skip(rest);
                    if window.skip > 0 {
                        return;
                    }
                }
                Step::Need(wanted) if (given + 1..=WINDOW_BYTES_MAX).contains(&wanted) => {
                    let window = window_mut(&mut self.windows, side);
                    window.wanted = wanted;
                    if !gathers {
                        window.keep(rest, now);
                        return;
                    }
                    if rest.is_empty() {
                        return;
                    }
                }
                Step::Opaque => {
                    self.become_opaque(out);
                    return;
                }
                Step::Bad(cause) => {
                    self.fall_out_of_step(cause);
                    self.unread(side, rest.len() as u64);
                    return;
                }
                Step::Took(_) | Step::Skip(_) | Step::Need(_) => {
                    self.fall_out_of_step(Cause::ParseError);
                    self.unread(side, rest.len() as u64);
                    return;
                }
            }
            if side == Side::Client && begun > 0 && !self.check_begun(out) {
                self.unread(side, rest.len() as u64);
                return;
            }
        }
    }

    /// Whether the next `missing` bytes of a side are of no interest; passes over them if so.
    fn does_without(&mut self, side: Side, missing: u64, out: &mut Output) -> bool {
        let window = &mut self.windows[side as usize];
        if window.skip < missing {
            self.calls.message_began_at = window.message_began_at;
            let rest = self.dialect.give_up_rest(side, &mut self.calls);
            // What was gathered of the rest is behind already.
            let ahead = rest.saturating_sub(window.partial.len() as u64);
            if window.skip.saturating_add(ahead) < missing {
                return false;
            }
            window.skip = window.skip.saturating_add(ahead);
            window.drop_all();
        }
        window.skip -= missing;
        let is_over = window.skip == 0;
        self.hand_on(out);
        if side == Side::Client && self.calls.begun > 0 && !self.check_begun(out) {
            return true;
        }
        if is_over {
            self.feed(side, &[], out);
        }
        true
    }

    /// Looks at calls that have just begun; false where that ends the pairing.
    fn check_begun(&mut self, out: &mut Output) -> bool {
        self.calls.begun = 0;
        let calls = self.calls.len();
        if calls > IN_FLIGHT_MAX || (calls > 1 && self.calls.waiting_bytes() > IN_FLIGHT_BYTES_MAX)
        {
            self.fall_out_of_step(Cause::InFlightFull);
            return false;
        }
        if !D::RESPONSES_NAME_REQUESTS && self.dialect.pipelines(calls) {
            out.pipelining_seen = true;
            if self.resumed {
                self.fall_out_of_step(Cause::RingFull);
                return false;
            }
        }
        true
    }

    /// Takes the calls that are done to the output.
    fn hand_on(&mut self, out: &mut Output) {
        let unpaired = self.calls.take_unpaired();
        if unpaired > 0 && self.may_push() {
            self.gaps.begin(Cause::Unrequested);
            self.gaps.unread(unpaired * D::CODE.request_bytes_min());
        }
        for timed in self.calls.take_done() {
            if timed.is_on_probation() {
                self.gaps.lose_row();
            } else {
                out.done.push(D::Call::finished(timed));
            }
        }
    }

    fn fall_out_of_step(&mut self, cause: Cause) {
        self.gaps.begin(cause);
        for side in [Side::Client, Side::Server] {
            self.unread(side, self.windows[side as usize].partial.len() as u64);
        }
        for side in [Side::Client, Side::Server] {
            if !self.dialect.is_between_messages(side) {
                // A message of which some was read, and that may not have begun as a call.
                self.unread(side, D::CODE.request_bytes_min());
            }
        }
        self.gaps.unread(self.dialect.undecided_requests() * D::CODE.request_bytes_min());
        self.lose_waiting();
        self.calls.end_trial();
        self.windows.iter_mut().for_each(Window::clear);
        self.dialect.forget_messages();
        self.unheard = None;
        self.pairing = if D::CALLS_ONCE { Pairing::Ended } else { Pairing::OutOfStep };
    }

    /// What follows is another protocol; calls that wait are never answered.
    fn become_opaque(&mut self, out: &mut Output) {
        while self.calls.finish_oldest() {}
        self.hand_on(out);
        self.windows.iter_mut().for_each(Window::clear);
        self.pairing = Pairing::Ended;
    }

    /// Counts bytes that went by unread, if they may have been rows.
    fn unread(&mut self, side: Side, bytes: u64) {
        self.misses_requests |= side == Side::Client && bytes > 0;
        if side == Side::Client || self.may_push() {
            self.gaps.unread(bytes);
        }
    }

    /// Whether what the server sends may be rows, as far as is known of what it was asked.
    fn may_push(&self) -> bool {
        self.dialect.pushes() || (D::PUSHES_IF_ASKED && self.misses_requests)
    }
}

/// Apart from the rest of the connection, so that both can be borrowed.
fn window_mut(windows: &mut [Window; 2], side: Side) -> &mut Window {
    &mut windows[side as usize]
}

impl<D: Dialect> Protocol for Dialogue<D> {
    fn code(&self) -> ProtocolCode {
        D::CODE
    }

    fn requests(&self) -> Flow {
        self.requests
    }

    fn is_opaque(&self) -> bool {
        self.pairing == Pairing::Ended
    }

    fn goes_on_in_tls(&mut self) -> bool {
        let goes_on = self.is_opaque() && self.dialect.goes_on_in_tls();
        if goes_on {
            self.pairing = Pairing::On;
        }
        goes_on
    }

    fn is_out_of_step(&self) -> bool {
        self.pairing == Pairing::OutOfStep
    }

    fn is_between_messages(&self, flow: Flow) -> bool {
        let side = self.side(flow);
        let window = &self.windows[side as usize];
        window.partial.is_empty() && window.skip == 0 && self.dialect.is_between_messages(side)
    }

    fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn memory_bytes(&self) -> usize {
        let windows: usize = self.windows.iter().map(Window::heap_bytes).sum();
        size_of::<Self>() + self.calls.waiting_bytes() + windows + self.dialect.heap_bytes()
    }

    fn bytes(&mut self, flow: Flow, bytes: &[u8], operation: Operation, out: &mut Output) {
        let side = self.side(flow);
        if self.is_opaque() {
            return;
        }
        let stays_out = self.is_out_of_step() && !self.resume(side, bytes, operation, out);
        self.silence.ends(operation.at);
        if stays_out {
            self.unread(side, bytes.len() as u64);
            return;
        }
        if self.stays_unheard(side, bytes, bytes.len() as u64, operation.continued) {
            return;
        }
        (self.calls.operation, self.calls.text_bytes_max) = (operation, out.body_bytes_max);
        self.feed(side, bytes, out);
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
        let side = self.side(flow);
        self.silence.ends(operation.at);
        if self.pairing == Pairing::On {
            if self.stays_unheard(side, &[], missing, true) {
                return;
            }
            self.calls.operation = operation;
            if self.does_without(side, missing, out) {
                return;
            }
            if D::CALLS_ONCE && side == Side::Client && self.calls.is_empty() {
                // It may be that of the only call, of which nothing that follows is counted.
                self.gaps.unread(D::CODE.request_bytes_min());
            }
            self.fall_out_of_step(Cause::of(why));
        }
        self.unread(side, missing);
    }

    fn close(&mut self, at: u64, out: &mut Output) {
        if self.pairing != Pairing::On {
            return;
        }
        if self.unheard.is_some_and(|unheard| unheard.has_spoken) {
            self.lose_waiting();
        }
        self.calls.operation.at = at;
        self.calls.add_quality(QUALITY_ENDED_BY_CLOSE);
        while self.calls.finish_oldest() {}
        self.hand_on(out);
    }

    fn has_lost_rows(&self) -> bool {
        self.gaps.has_rows()
    }

    fn take_lost_rows(&mut self) -> Option<LostRows> {
        self.gaps.take()
    }
}

#[cfg(test)]
pub(crate) mod talk;
