//! What a recording without contents keeps of what the kernel sent.
//!
//! ```text
//! message ─► Held (in order) ─────────────────────────────────────► recording
//!    └─► Talk (which protocol) ─► protocol::mask (structure, content) ┘
//! ```
//! Kept are times, sizes, processes and connections by their numbers, ports, and of what was said the
//! structure of its protocol. Overwritten are all other bytes, byte for byte; addresses become others of
//! the ranges for documentation, names of processes and cgroups numbers, and arguments go. What cannot be
//! told apart is left out: the message says that so many bytes are not there. Calls of traced functions
//! are not recorded.
//!
//! A message waits until it is known which of its bytes are structure, at most [`HELD_NS_MAX`] and as long
//! as no more than [`HELD_BYTES_MAX`] wait; then the rest of it is left out.

mod addresses;
mod held;
mod names;
mod talk;

use std::collections::HashMap;

use undine_ebpf::{Header, PLAINTEXT};

use crate::event::{Body, Event, Flow};
use crate::process::Facts;
use crate::protocol::dns;
pub(crate) use addresses::Addresses;
pub(crate) use held::{Entry, Held};
use names::Names;
use talk::Talk;

/// How long a message waits, in nanoseconds of event time.
pub(crate) const HELD_NS_MAX: u64 = 5_000_000_000;
/// Most bytes of messages that wait.
pub(crate) const HELD_BYTES_MAX: usize = 32 << 20;
/// Most connections of which the structure is followed; what is said on others is left out.
pub(crate) const TALKS_MAX: usize = 64 * 1024;

/// Takes contents out of messages.
#[derive(Debug, Default)]
pub(crate) struct Masking {
    held: Held,
    talks: HashMap<u64, Talk>,
    addresses: Addresses,
    names: Names,
}

impl Masking {
    /// Takes a message of the kernel.
    pub(crate) fn message(&mut self, message: &[u8]) {
        // What is none was not read either.
        let Ok(event) = Event::decode(message) else { return };
        let Header { conn, time_mono_ns: at, .. } = event.header;
        self.held.give_up_before(at.saturating_sub(HELD_NS_MAX));
        match event.body {
            Body::Data { flow, payload } => self.data(&event, flow, payload),
            Body::Datagram { flow, mut info, payload } => {
                self.addresses.replace_in(&mut info);
                let mut payload = payload.to_vec();
                let length = event.header.len as usize;
                dns::mask::mask_message(&mut payload, length, &mut self.addresses);
                self.put(event.header, Body::Datagram { flow, info, payload: &payload });
            }
            Body::Open(mut info) => {
                self.addresses.replace_in(&mut info);
                self.put(event.header, Body::Open(info));
            }
            Body::Tls(mut tls) => {
                self.addresses.replace_in(&mut tls.info);
                self.put(event.header, Body::Tls(tls));
                self.bind(conn, tls.carrier);
            }
            Body::Close(totals) => {
                if let Some(mut talk) = self.talks.remove(&conn) {
                    talk.lose(&mut self.held);
                }
                self.put(event.header, Body::Close(totals));
            }
            Body::Fork(info) => {
                let info = self.names.of(info);
                self.put(event.header, Body::Fork(info));
            }
            Body::Exec(info) => {
                let info = self.names.of(info);
                self.put(event.header, Body::Exec(info));
            }
            Body::Exit(info) => {
                let info = self.names.of(info);
                self.put(event.header, Body::Exit(info));
            }
            Body::Tcp(kind, mut tcp) => {
                self.addresses.replace_in(&mut tcp.info);
                self.put(event.header, Body::Tcp(kind, tcp));
            }
            Body::Trace { .. } => {}
        }
    }
}

impl Masking {
    /// What is recorded of a process.
    pub(crate) fn facts(&mut self, facts: &Facts) -> Facts {
        self.names.facts(facts)
    }

    /// Takes an entry that is no message, and has no contents.
    pub(crate) fn other(&mut self, kind: u8, bytes: Vec<u8>) {
        self.held.push(Entry { kind, ..Entry::decided(bytes) });
    }

    /// Leaves out what is not decided, since nothing more may come.
    pub(crate) fn settle(&mut self) {
        self.held.give_up_all();
    }

    /// The next entry that may be recorded.
    pub(crate) fn take_next(&mut self) -> Option<(u8, Vec<u8>)> {
        self.held.take_next()
    }

    /// Bytes of payloads that were left out since it was not known what they are.
    pub(crate) const fn left_out_bytes(&self) -> u64 {
        self.held.left_out_bytes()
    }

    fn put(&mut self, header: Header, body: Body<'_>) {
        let at = header.time_mono_ns;
        let mut bytes = Vec::new();
        Event { header, body }.encode(&mut bytes);
        self.held.push(Entry { at, ..Entry::decided(bytes) });
    }

    fn data(&mut self, event: &Event<'_>, flow: Flow, payload: &[u8]) {
        let Header { conn, pos, len, time_mono_ns: at, .. } = event.header;
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        let id = self.held.push(Entry { at, undecided: payload.len(), ..Entry::decided(bytes) });
        if self.talks.len() >= TALKS_MAX && !self.talks.contains_key(&conn) {
            self.held.give_up(id);
            return;
        }
        let talk = self.talks.entry(conn).or_insert_with(|| Talk::new(conn & PLAINTEXT != 0));
        let missing = u64::from(len) - payload.len() as u64;
        talk.bytes(flow, pos, payload, id, &mut self.addresses, &mut self.held);
        if missing > 0 {
            talk.hole(flow, missing, &mut self.addresses, &mut self.held);
        }
    }

    /// A plaintext goes on with what was said before TLS on the connection that carries it.
    fn bind(&mut self, plaintext: u64, carrier: u64) {
        let before = self.talks.get_mut(&carrier).and_then(Talk::take_before_tls);
        if let Some(talk) = self.talks.get_mut(&plaintext) {
            talk.bound(before, &mut self.addresses, &mut self.held);
        } else if let Some(before) = before
            && self.talks.len() < TALKS_MAX
        {
            let mut talk = Talk::new(true);
            talk.bound(Some(before), &mut self.addresses, &mut self.held);
            self.talks.insert(plaintext, talk);
        }
    }
}

#[cfg(test)]
mod tests;
