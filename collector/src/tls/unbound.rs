//! What came of plaintexts before it was known which connection carries them.
//!
//! A library need not touch the socket in the call that moves plaintext: it may have read ahead, or
//! the program may move the ciphertext itself. So messages wait here, within bounds, and after that
//! are read without knowing it.

use std::collections::{HashMap, VecDeque};

use undine_ebpf::{ConnTotals, Header};

use crate::event::{Body, Event, Flow};

/// How long they wait, in nanoseconds.
pub const UNBOUND_NS_MAX: u64 = 2_000_000_000;
/// Most bytes that wait, their headers among them.
pub const UNBOUND_BYTES_MAX: usize = 16 << 20;

/// A message that waits.
#[derive(Debug)]
pub struct Held {
    header: Header,
    flow: Flow,
    payload: Vec<u8>,
}

impl Held {
    /// The message.
    pub fn event(&self) -> Event<'_> {
        let body = Body::Data { flow: self.flow, payload: &self.payload };
        Event { header: self.header, body }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.payload.len()
    }
}

/// What waits of a plaintext.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Its data messages, in the order in which they came.
    pub held: Vec<Held>,
    /// When it ended and with which totals, where it has.
    pub closed: Option<(u64, ConnTotals)>,
}

/// Messages of plaintexts that wait, by the plaintext's number.
#[derive(Debug, Default)]
pub struct Unbound {
    waiting: HashMap<u64, Waiting>,
    /// When each plaintext began to wait; one that was taken since is still in it.
    since: VecDeque<(u64, u64)>,
    bytes: usize,
}

impl Unbound {
    /// Lets a data message wait.
    pub fn hold(&mut self, event: &Event<'_>, flow: Flow, payload: &[u8]) {
        let header = event.header;
        let held = Held { header, flow, payload: payload.to_vec() };
        self.bytes += held.bytes();
        let of_plaintext = &mut self.waiting.entry(header.conn).or_default().held;
        if of_plaintext.is_empty() {
            self.since.push_back((header.time_mono_ns, header.conn));
        }
        of_plaintext.push(held);
    }

    /// Lets the end of plaintext `id` wait, if anything of it does.
    pub fn close(&mut self, id: u64, at: u64, totals: &ConnTotals) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.closed = Some((at, *totals));
        }
    }

    /// Whether more wait than may.
    pub fn is_full(&self) -> bool {
        self.bytes > UNBOUND_BYTES_MAX
    }

    /// Takes all that waits of plaintext `id`.
    pub fn take(&mut self, id: u64) -> Waiting {
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        self.bytes -= waiting.held.iter().map(Held::bytes).sum::<usize>();
        waiting
    }

    /// Takes the plaintext that has waited longest, or only where it has waited too long at `now`,
    /// with its number.
    pub fn give_up(&mut self, now: Option<u64>) -> Option<(u64, Waiting)> {
        while let Some(&(at, id)) = self.since.front() {
            if !self.waiting.contains_key(&id) {
                self.since.pop_front();
                continue;
            }
            if now.is_some_and(|now| at.saturating_add(UNBOUND_NS_MAX) > now) {
                return None;
            }
            self.since.pop_front();
            return Some((id, self.take(id)));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use undine_ebpf::PLAINTEXT;

    fn hold(unbound: &mut Unbound, id: u64, at: u64, payload: &[u8]) {
        let header = Header { conn: PLAINTEXT | id, time_mono_ns: at, ..Header::default() };
        let body = Body::Data { flow: Flow::Egress, payload };
        unbound.hold(&Event { header, body }, Flow::Egress, payload);
    }

    #[test]
    fn what_waits_is_taken_once_and_in_order() {
        let mut unbound = Unbound::default();
        hold(&mut unbound, 1, 5, b"a");
        hold(&mut unbound, 2, 6, b"x");
        hold(&mut unbound, 1, 7, b"b");
        let times = |waiting: Waiting| {
            waiting.held.iter().map(|held| held.header.time_mono_ns).collect::<Vec<_>>()
        };
        assert_eq!(times(unbound.take(PLAINTEXT | 1)), [5, 7]);
        assert!(unbound.take(PLAINTEXT | 1).held.is_empty());
        assert!(unbound.give_up(Some(6 + UNBOUND_NS_MAX - 1)).is_none());
        let (id, waiting) = unbound.give_up(Some(6 + UNBOUND_NS_MAX)).unwrap();
        assert_eq!((id, times(waiting)), (PLAINTEXT | 2, vec![6]));
        assert_eq!(unbound.bytes, 0);
    }

    #[test]
    fn an_end_waits_only_with_what_ended() {
        let mut unbound = Unbound::default();
        unbound.close(PLAINTEXT | 1, 4, &ConnTotals::default());
        hold(&mut unbound, 1, 5, b"a");
        assert!(unbound.take(PLAINTEXT | 1).closed.is_none());
        hold(&mut unbound, 1, 6, b"b");
        unbound.close(PLAINTEXT | 1, 7, &ConnTotals::default());
        assert_eq!(unbound.take(PLAINTEXT | 1).closed.map(|(at, _)| at), Some(7));
    }

    #[test]
    fn where_too_much_waits_the_oldest_goes_first() {
        let mut unbound = Unbound::default();
        let large = vec![0; UNBOUND_BYTES_MAX / 2];
        hold(&mut unbound, 1, 1, &large);
        assert!(!unbound.is_full());
        hold(&mut unbound, 2, 2, &large);
        assert!(unbound.is_full());
        assert_eq!(unbound.give_up(None).unwrap().0, PLAINTEXT | 1);
        assert!(!unbound.is_full());
    }
}
