//! What came of plaintexts before it was known which connection carries them.
//!
//! A library need not touch the socket in the call that moves plaintext: it may have read ahead, or
//! the program may move the ciphertext itself. So messages wait here, within bounds.

use std::collections::{HashMap, VecDeque};

use undine_ebpf::Header;

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

/// Messages of plaintexts that wait, by the plaintext's number.
#[derive(Debug, Default)]
pub struct Unbound {
    held: HashMap<u64, Vec<Held>>,
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
        let of_plaintext = self.held.entry(header.conn).or_default();
        if of_plaintext.is_empty() {
            self.since.push_back((header.time_mono_ns, header.conn));
        }
        of_plaintext.push(held);
    }

    /// Whether more wait than may.
    pub fn is_full(&self) -> bool {
        self.bytes > UNBOUND_BYTES_MAX
    }

    /// Takes all messages of plaintext `id`.
    pub fn take(&mut self, id: u64) -> Vec<Held> {
        let held = self.held.remove(&id).unwrap_or_default();
        self.bytes -= held.iter().map(Held::bytes).sum::<usize>();
        held
    }

    /// Takes the messages of the plaintext that has waited longest, or only where it has waited
    /// too long at `now`.
    pub fn give_up(&mut self, now: Option<u64>) -> Option<Vec<Held>> {
        while let Some(&(at, id)) = self.since.front() {
            if !self.held.contains_key(&id) {
                self.since.pop_front();
                continue;
            }
            if now.is_some_and(|now| at.saturating_add(UNBOUND_NS_MAX) > now) {
                return None;
            }
            self.since.pop_front();
            return Some(self.take(id));
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
        let times = |held: &[Held]| held.iter().map(|h| h.header.time_mono_ns).collect::<Vec<_>>();
        assert_eq!(times(&unbound.take(PLAINTEXT | 1)), [5, 7]);
        assert!(unbound.take(PLAINTEXT | 1).is_empty());
        assert!(unbound.give_up(Some(6 + UNBOUND_NS_MAX - 1)).is_none());
        assert_eq!(times(&unbound.give_up(Some(6 + UNBOUND_NS_MAX)).unwrap()), [6]);
        assert_eq!(unbound.bytes, 0);
    }

    #[test]
    fn where_too_much_waits_the_oldest_goes_first() {
        let mut unbound = Unbound::default();
        let large = vec![0; UNBOUND_BYTES_MAX / 2];
        hold(&mut unbound, 1, 1, &large);
        assert!(!unbound.is_full());
        hold(&mut unbound, 2, 2, &large);
        assert!(unbound.is_full());
        assert_eq!(unbound.give_up(None).unwrap()[0].header.time_mono_ns, 1);
        assert!(!unbound.is_full());
    }
}
