//! Plaintexts, and the connections that carry them.

use undine_ebpf::{Header, PLAINTEXT, TlsInfo};

use super::{LOOK_AT_MAX, LookAt, Pipeline};
use crate::conn_tracker::Decided;
use crate::event::{Beginning, Body, ProcessKey};
use crate::tls::unbound::Held;

impl Pipeline {
    /// It became known which connection carries a plaintext.
    pub(super) fn tls(&mut self, header: &Header, process: ProcessKey, tls: &TlsInfo) {
        let (id, carrier) = (header.conn, tls.carrier);
        if carrier & PLAINTEXT != 0 {
            return self.goes_on(header, carrier);
        }
        let mut info = tls.info;
        let mut inside = None;
        let mut from_its_beginning = false;
        self.with(carrier, |conn, out| {
            (inside, from_its_beginning) = conn.secure(tls.probed_since_ns, out);
        });
        if !from_its_beginning {
            // As with any connection that was there before.
            info.role = 0;
        }
        let held = self.unbound.take(id);
        if self.enter(id, process, header.time_mono_ns)
            && let Some(conn) = self.tracker.get_mut(id)
        {
            conn.carrier = Some(carrier);
            if let Some(inside) = inside
                && from_its_beginning
            {
                conn.go_on(inside);
            }
        }
        let beginning = if from_its_beginning { Beginning::Seen } else { Beginning::Missed };
        self.open(id, process, header.time_mono_ns, beginning, &info);
        if self.tracker.get(id).is_some_and(|conn| conn.decided() != Decided::NotYet) {
            self.decided(id);
        }
        self.take_held(held);
    }

    /// What was sent under the number in `header` is of plaintext `former`, from that position on.
    fn goes_on(&mut self, header: &Header, former: u64) {
        for held in self.unbound.take(header.conn) {
            let mut event = held.event();
            event.header.conn = former;
            event.header.pos = event.header.pos.saturating_add(header.pos);
            if let Body::Data { flow, payload } = event.body {
                self.stream(&event, flow, payload);
            }
        }
    }

    pub(super) fn take_held(&mut self, held: Vec<Held>) {
        for held in held {
            let event = held.event();
            if let Body::Data { flow, payload } = event.body {
                self.stream(&event, flow, payload);
            }
        }
    }

    /// Goes on with plaintexts of which it has not become known what carries them, all of them or
    /// those that have waited too long at `now`: their rows are counted as missing.
    pub(super) fn give_up_unbound(&mut self, now: Option<u64>) {
        while let Some(held) = self.unbound.give_up(now) {
            self.went_unbound(held);
        }
    }

    pub(super) fn went_unbound(&mut self, held: Vec<Held>) {
        self.counts.tls_unbound += 1;
        if let Some(first) = held.first() {
            let event = first.event();
            self.enter(event.header.conn, event.process(), event.header.time_mono_ns);
        }
        self.take_held(held);
    }

    pub(super) fn look_at(&mut self, what: LookAt) {
        if self.to_look_at.len() < LOOK_AT_MAX {
            self.to_look_at.push(what);
        }
    }
}
