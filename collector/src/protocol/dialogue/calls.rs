//! The calls of a connection: those that wait for their response, and those that just got it.

use std::collections::VecDeque;
use std::vec::Drain;

use super::Call;
use crate::data_stream::Operation;
use crate::event::ProcessKey;
use crate::protocol::output::QUALITY_MIDSTREAM;

/// A call with its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed<C> {
    /// When the request's first byte was seen, `CLOCK_MONOTONIC`.
    pub requested_at: u64,
    /// When the response's last byte was seen, or the connection ended without one.
    pub responded_at: u64,
    /// Who read or wrote the request.
    pub process: ProcessKey,
    /// A sum of `QUALITY_…`.
    pub quality: u8,
    /// The call.
    pub call: C,
    key: u64,
    bytes: usize,
    probation: bool,
}

impl<C> Timed<C> {
    /// A call that was put together elsewhere.
    pub(crate) const fn new(
        requested_at: u64,
        responded_at: u64,
        process: ProcessKey,
        quality: u8,
        call: C,
    ) -> Self {
        let (key, bytes, probation) = (0, 0, false);
        Self { requested_at, responded_at, process, quality, call, key, bytes, probation }
    }

    /// Whether it is the first after a gap, which is counted and not kept.
    pub(super) const fn is_on_probation(&self) -> bool {
        self.probation
    }

    /// From the request's first byte to the response's last.
    pub const fn latency_ns(&self) -> u64 {
        self.responded_at.saturating_sub(self.requested_at)
    }
}

/// When a request began and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    requested_at: u64,
    process: ProcessKey,
}

/// The calls of a connection: those that wait for their response, and those that just got it.
#[derive(Debug)]
pub struct Calls<C> {
    /// Most bytes of a text that are worth keeping.
    pub text_bytes_max: usize,
    waiting: VecDeque<Box<Timed<C>>>,
    /// Bytes of the requests that wait.
    waiting_bytes: usize,
    done: Vec<Box<Timed<C>>>,
    /// What the bytes at hand came with.
    pub(super) operation: Operation,
    /// When the message at hand began.
    pub(super) message_began_at: u64,
    /// When the first of the bytes at hand came.
    pub(super) at_hand_since: u64,
    quality: u8,
    /// Calls that have begun since it was last looked.
    pub(super) begun: u64,
    /// The next call is the first after a gap.
    trial: bool,
    /// Messages of the server that belong to no call, since it was last looked.
    unpaired: u64,
}

impl<C: Call> Calls<C> {
    /// No calls yet; those to come are of this quality.
    pub(super) fn new(quality: u8) -> Self {
        Self {
            text_bytes_max: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            done: Vec::new(),
            operation: Operation::default(),
            message_began_at: 0,
            at_hand_since: 0,
            quality,
            begun: 0,
            trial: false,
            unpaired: 0,
        }
    }

    /// A request is complete, or enough of it to know it; responses name it by `key`, if at all. The
    /// first after a gap is on probation.
    pub fn begin(&mut self, key: u64, call: C) {
        self.begun += 1;
        let bytes = call.heap_bytes() + size_of::<Timed<C>>();
        self.waiting_bytes += bytes;
        self.waiting.push_back(Box::new(Timed {
            requested_at: self.message_began_at,
            responded_at: 0,
            process: self.operation.process,
            quality: self.quality,
            call,
            key,
            bytes,
            probation: std::mem::take(&mut self.trial),
        }));
    }

    /// The connection turns out to have been joined midway.
    pub const fn joined_midway(&mut self) {
        self.quality |= QUALITY_MIDSTREAM;
    }

    /// The server sent what belongs to no call that was seen, and may be a row of its own.
    pub const fn is_unpaired(&mut self) {
        self.unpaired += 1;
    }

    /// Takes how many of those there were.
    pub(super) const fn take_unpaired(&mut self) -> u64 {
        std::mem::replace(&mut self.unpaired, 0)
    }

    /// When the message at hand began and who sent it.
    pub const fn arrival(&self) -> Arrival {
        Arrival { requested_at: self.message_began_at, process: self.operation.process }
    }

    /// A request that is here since `arrival` turns out to be a call, and has all of its response.
    pub fn finish_undecided(&mut self, arrival: Arrival, call: C) {
        let probation = self.trial || self.waiting.front().is_some_and(|timed| timed.probation);
        self.done.push(Box::new(Timed {
            requested_at: arrival.requested_at,
            responded_at: self.operation.at.max(arrival.requested_at),
            process: arrival.process,
            quality: self.quality,
            call,
            key: 0,
            bytes: 0,
            probation,
        }));
    }

    /// A message is over without a byte of its own, and what is at hand begins the next.
    pub const fn begin_message(&mut self) {
        self.message_began_at = self.at_hand_since;
    }

    /// The call that waits for longest.
    pub fn oldest(&mut self) -> Option<&mut C> {
        self.waiting.front_mut().map(|timed| &mut timed.call)
    }

    /// The call that began last.
    pub fn newest(&mut self) -> Option<&mut C> {
        self.waiting.back_mut().map(|timed| &mut timed.call)
    }

    /// The call that waits for longest of those with this key.
    pub fn keyed(&mut self, key: u64) -> Option<&mut C> {
        self.waiting.iter_mut().find(|timed| timed.key == key).map(|timed| &mut timed.call)
    }

    /// The call that waits for longest has all of its response, or gets none; false where none
    /// waits.
    pub fn finish_oldest(&mut self) -> bool {
        let timed = self.waiting.pop_front();
        self.finish_timed(timed)
    }

    /// The call that began last stands for itself: it is complete without a response; false where
    /// none waits.
    pub fn finish_newest(&mut self) -> bool {
        let timed = self.waiting.pop_back();
        self.finish_timed(timed)
    }

    /// The call that began last gets no response, so that it proves nothing of those that do: where
    /// it was on probation the next one is too. False where none waits.
    pub fn finish_unanswered(&mut self) -> bool {
        self.trial |= self.waiting.back().is_some_and(|timed| timed.probation);
        self.finish_newest()
    }

    /// Whether a call with this key waits.
    pub fn waits(&self, key: u64) -> bool {
        self.waiting.iter().any(|timed| timed.key == key)
    }

    /// As [`Self::finish_oldest`], of those with this key.
    pub fn finish_keyed(&mut self, key: u64) -> bool {
        let at = self.waiting.iter().position(|timed| timed.key == key);
        let timed = at.and_then(|at| self.waiting.remove(at));
        self.finish_timed(timed)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the requests that wait.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Takes the calls that are done.
    pub(super) fn take_done(&mut self) -> Drain<'_, Box<Timed<C>>> {
        self.done.drain(..)
    }

    /// The next call is the first after a gap.
    pub(super) const fn begin_trial(&mut self) {
        self.trial = true;
    }

    /// Nothing is paired any more, so that there is nothing to be tried.
    pub(super) const fn end_trial(&mut self) {
        self.trial = false;
    }

    /// Forgets the calls that wait, because of a gap; how many there were.
    pub(super) fn forget_waiting(&mut self) -> usize {
        let calls = self.waiting.len();
        self.waiting.clear();
        self.waiting_bytes = 0;
        calls
    }

    /// Says the same of all calls that wait.
    pub(super) fn add_quality(&mut self, quality: u8) {
        for timed in &mut self.waiting {
            timed.quality |= quality;
        }
    }

    fn finish_timed(&mut self, timed: Option<Box<Timed<C>>>) -> bool {
        let Some(mut timed) = timed else { return false };
        self.waiting_bytes -= timed.bytes;
        timed.responded_at = self.operation.at.max(timed.requested_at);
        self.done.push(timed);
        true
    }
}
