//! Plaintexts, and the connections that carry them.

use undine_ebpf::{Header, PLAINTEXT, TlsInfo};

use super::{LOOK_AT_MAX, LookAt, Pipeline};
use crate::conn_tracker::{Decided, Keeper};
use crate::event::{Beginning, Body, ProcessKey};
use crate::tls::unbound::Waiting;

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
        if self.tracker.get(id).is_some_and(|conn| conn.is_unbound) {
            return self.is_bound_too_late(id, carrier);
        }
        if !from_its_beginning {
            // As with any connection that was there before.
            info.role = 0;
        }
        let waiting = self.unbound.take(id);
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
        self.take_waiting(id, &waiting);
    }

    /// The plaintext's rows are written without a connection, and so are those to come: its other end
    /// may have written some of the same requests. What carries it now speaks what it does.
    fn is_bound_too_late(&mut self, id: u64, carrier: u64) {
        if let Some(conn) = self.tracker.get_mut(id) {
            conn.carrier = Some(carrier);
        }
        self.decided(id);
    }

    /// What was sent under the number in `header` is of plaintext `former`, from that position on.
    fn goes_on(&mut self, header: &Header, former: u64) {
        for held in self.unbound.take(header.conn).held {
            let mut event = held.event();
            event.header.conn = former;
            event.header.pos = event.header.pos.saturating_add(header.pos);
            if let Body::Data { flow, payload } = event.body {
                self.stream(&event, flow, payload);
            }
        }
    }

    fn take_waiting(&mut self, id: u64, waiting: &Waiting) {
        for held in &waiting.held {
            let event = held.event();
            if let Body::Data { flow, payload } = event.body {
                self.stream(&event, flow, payload);
            }
        }
        if let Some((at, totals)) = &waiting.closed {
            self.closed(id, totals, *at);
        }
    }

    /// Goes on with plaintexts of which it has not become known what carries them, all of them or
    /// those that have waited too long at `now`: their rows say so.
    pub(super) fn give_up_unbound(&mut self, now: Option<u64>) {
        while let Some((id, waiting)) = self.unbound.give_up(now) {
            self.goes_unbound(id, &waiting);
        }
    }

    /// Goes on with those that have waited longest, as far as more wait than may.
    pub(super) fn bound_waiting(&mut self) {
        while self.unbound.is_full()
            && let Some((id, waiting)) = self.unbound.give_up(None)
        {
            self.goes_unbound(id, &waiting);
        }
    }

    fn goes_unbound(&mut self, id: u64, waiting: &Waiting) {
        self.counts.tls_unbound += 1;
        if let Some(first) = waiting.held.first() {
            let event = first.event();
            if self.enter(id, event.process(), event.header.time_mono_ns)
                && let Some(conn) = self.tracker.get_mut(id)
            {
                conn.is_unbound = true;
                conn.keeper = Keeper::This;
            }
        }
        self.take_waiting(id, waiting);
    }

    pub(super) fn look_at(&mut self, what: LookAt) {
        if self.to_look_at.len() < LOOK_AT_MAX {
            self.to_look_at.push(what);
        }
    }
}
