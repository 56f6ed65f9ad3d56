//! A connection's way through the table: entered with its first message, fed, and gone.

use undine_ebpf::PLAINTEXT;

use super::{EVICTED_MAX, HELD_BYTES_MAX, LookAt, Pipeline};
use crate::conn_tracker::{Connection, dropped_bytes};
use crate::data_stream::{Operation, Piece};
use crate::event::{Event, Flow, ProcessKey};
use crate::peers::PeerKey;
use crate::protocol::ProtocolCode;
use crate::protocol::output::Output;

impl Pipeline {
    pub(super) fn data(&mut self, event: &Event<'_>, flow: Flow, payload: &[u8]) {
        let header = &event.header;
        let id = header.conn;
        let len = u64::from(header.len);
        self.counts.operations += u64::from(!event.is_continued());
        self.counts.bytes += len;
        if id & PLAINTEXT != 0 {
            self.counts.tls_operations += u64::from(!event.is_continued());
            if self.tracker.get(id).is_none() && !self.evicted.contains(&id) {
                self.unbound.hold(event, flow, payload);
                self.bound_waiting();
                return;
            }
        }
        self.stream(event, flow, payload);
    }

    /// Takes bytes of a connection, or of a plaintext that need not wait.
    pub(super) fn stream(&mut self, event: &Event<'_>, flow: Flow, payload: &[u8]) {
        let header = &event.header;
        let id = header.conn;
        let len = u64::from(header.len);
        let uncaptured = event.uncaptured();
        if let Some(why) = uncaptured {
            self.loss.uncaptured(why, len - payload.len() as u64);
        }
        let process = event.process();
        if !self.enter(id, process, header.time_mono_ns) {
            let code = ProtocolCode::Unknown;
            self.loss.evicted(code, len.div_ceil(code.request_bytes_min()));
            return;
        }
        let operation =
            Operation { at: header.time_mono_ns, process, continued: event.is_continued() };
        let piece = Piece { flow, pos: header.pos, len, payload, uncaptured, operation };
        let beginning = event.beginning();
        let mut was_tls = true;
        let mut is_tls = true;
        self.with(id, |conn, out| {
            was_tls = conn.is_tls();
            conn.begins(beginning);
            conn.data(piece, out);
            is_tls = conn.is_tls();
        });
        if is_tls && !was_tls {
            self.look_at(LookAt::Speaks(process.tgid));
        }
        self.after_data(id);
    }

    pub(super) fn after_data(&mut self, id: u64) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if let Some(at) = conn.gap_since()
            && !conn.gap_queued
        {
            conn.gap_queued = true;
            self.gaps.push_back((at, id));
        }
        if conn.is_complete() {
            self.finish(id, self.watermark);
        }
        if self.held_bytes > HELD_BYTES_MAX
            && let Some((_, oldest)) = self.gaps.pop_front()
        {
            self.declare_gaps(oldest, None);
        }
    }

    /// Makes sure that the connection is in the table; whether it may be.
    pub(super) fn enter(&mut self, id: u64, process: ProcessKey, at: u64) -> bool {
        let Some(conn) = self.tracker.get_mut(id) else {
            if self.evicted.contains(&id) {
                return false;
            }
            if let Some(oldest) = self.tracker.must_evict(id) {
                self.evict(oldest);
            }
            let conn = self.tracker.enter(id);
            (conn.process, conn.entered_at, conn.used_at) = (process, at, at);
            self.counts.connections_opened += 1;
            self.unannounced = true;
            self.processes.meet(process);
            return true;
        };
        if conn.process != process {
            conn.process = process;
            self.processes.meet(process);
        }
        true
    }

    /// Does something with a connection and takes up what came of it.
    pub(super) fn with(&mut self, id: u64, act: impl FnOnce(&mut Connection, &mut Output)) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        let spoken = (conn.decided(), conn.protocol());
        let held = conn.held_bytes();
        if conn.is_out_of_step() {
            self.out.peer_pipelines = self.peers.contains(&peer_key(conn));
        }
        act(conn, &mut self.out);
        self.held_bytes = (self.held_bytes + conn.held_bytes()).saturating_sub(held);
        if conn.lost_bytes > conn.attributed_bytes {
            self.loss.attribute(conn.lost_bytes - conn.attributed_bytes);
            conn.attributed_bytes = conn.lost_bytes;
        }
        // Taken out first: what follows may write the exchanges of other connections.
        let done = std::mem::take(&mut self.out.done);
        let lost = !conn.is_out_of_step() && conn.has_lost_rows();
        if std::mem::take(&mut self.out.pipelining_seen) {
            self.peers.insert(peer_key(conn));
        }
        if (conn.decided(), conn.protocol()) != spoken {
            self.decided(id);
        }
        if lost {
            self.tell_lost_rows(id);
        }
        if done.is_empty() {
            self.out.done = done;
        } else {
            self.write_done(id, done);
        }
    }

    pub(super) fn declare_gaps(&mut self, id: u64, watermark: Option<u64>) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        conn.gap_queued = false;
        self.with(id, |conn, out| conn.declare_gaps(watermark, out));
        self.after_data(id);
    }

    pub(super) fn evict(&mut self, id: u64) {
        self.counts.connections_evicted += 1;
        if self.evicted.len() >= EVICTED_MAX {
            self.evicted.clear();
        }
        self.evicted.insert(id);
        if let Some(conn) = self.tracker.get(id) {
            self.loss.evicted(conn.protocol(), conn.in_flight() as u64);
        }
        self.tell_lost_rows(id);
        self.decide_waiting(id);
        self.leave(id);
    }

    /// A connection is gone, and everything of it that will come has.
    pub(super) fn finish(&mut self, id: u64, at: u64) {
        let Some(conn) = self.tracker.get(id) else { return };
        let totals = conn.closing;
        let at = at.max(conn.used_at);
        if let Some(totals) = totals {
            self.with(id, |conn, out| conn.reconcile(&totals, at, out));
            if let Some(conn) = self.tracker.get_mut(id) {
                // An opaque connection declares no holes.
                conn.lost_bytes = conn.lost_bytes.max(dropped_bytes(&totals));
            }
        }
        self.with(id, |conn, out| conn.close(at, out));
        self.decide_waiting(id);
        self.tell_lost_rows(id);
        self.leave(id);
    }

    /// Takes a connection out of all tables.
    pub(super) fn leave(&mut self, id: u64) {
        let Some(mut conn) = self.tracker.remove(id) else { return };
        self.counts.late_bytes += conn.take_late_bytes();
        self.held_bytes = self.held_bytes.saturating_sub(conn.held_bytes());
        self.accounts.close(&mut conn);
        if let Some(ends) = &conn.ends {
            self.endpoints.leave(id, ends.tuple);
        }
        let Some(peer) = conn.peer.and_then(|peer| self.tracker.get_mut(peer)) else { return };
        peer.peer = None;
        let peer = peer.id;
        self.decide_waiting(peer);
    }
}

fn peer_key(conn: &Connection) -> PeerKey {
    (conn.process, conn.ends.as_ref().map(|ends| ends.tuple.remote))
}
