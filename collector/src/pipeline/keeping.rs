//! Which end of a connection keeps its rows.
//!
//! Where both ends are observed they have to agree before either writes a row, and what is complete
//! until then waits.

use super::{Pipeline, WAITING_ROWS_MAX};
use crate::conn_tracker::{Connection, Decided, Keeper};
use crate::data_stream::REORDER_NS_MAX;
use crate::endpoints::Role;
use crate::protocol::output::Exchanges;

impl Pipeline {
    /// Two connections are the ends of one.
    pub(super) fn link(&mut self, id: u64, peer: u64) {
        let Some(this_process) = self.tracker.get(id).map(|conn| conn.process) else { return };
        let Some(other) = self.tracker.get_mut(peer) else { return };
        (other.peer, other.peer_process) = (Some(id), Some(this_process));
        let other_process = other.process;
        if let Some(conn) = self.tracker.get_mut(id) {
            (conn.peer, conn.peer_process) = (Some(peer), Some(other_process));
        }
        self.agree(id, peer);
    }

    /// Lets two ends agree on which keeps the rows, as far as that can be told.
    pub(super) fn agree(&mut self, id: u64, peer: u64) {
        let (Some(this), Some(other)) = (self.tracker.get(id), self.tracker.get(peer)) else {
            return;
        };
        let both_keep = match (this.both_ends_keep(), other.both_ends_keep()) {
            (Some(this), Some(other)) => this && other,
            (one, other) => one.or(other).unwrap_or(false),
        };
        let keeper = match (this.keeper, other.keeper) {
            _ if both_keep => Keeper::This,
            (Keeper::This, _) | (_, Keeper::Other) => Keeper::This,
            (Keeper::Other, _) | (_, Keeper::This) => Keeper::Other,
            (Keeper::Undecided, Keeper::Undecided) => match (server(this), server(other)) {
                (Some(Decided::Spoken), _) | (_, Some(Decided::Opaque)) => Keeper::This,
                (_, Some(Decided::Spoken)) | (Some(Decided::Opaque), _) => Keeper::Other,
                _ => return,
            },
        };
        let opposite = match keeper {
            Keeper::This if !both_keep => Keeper::Other,
            _ => Keeper::This,
        };
        for (conn, keeper) in [(id, keeper), (peer, opposite)] {
            if let Some(conn) = self.tracker.get_mut(conn) {
                conn.keeper = keeper;
            }
            self.write_waiting(conn);
        }
    }

    /// A connection's protocol was found out, or it goes over to another.
    pub(super) fn decided(&mut self, id: u64) {
        let Some(conn) = self.tracker.get(id) else { return };
        self.loss.speaks(conn.protocol());
        let (peer, speaks) = (conn.peer, conn.speaks());
        if let Some(carrier) = conn.carrier
            && let Some(carrier) = self.tracker.get_mut(carrier)
        {
            carrier.carries = Some(speaks);
        }
        let Some(conn) = self.tracker.get(id) else { return };
        if conn.decided() == Decided::Spoken
            && conn.role() == Role::Server
            && let Some(ends) = &conn.ends
        {
            self.processes.serves(conn.process, ends.tuple.local_port);
        }
        if let Some(peer) = peer {
            self.agree(id, peer);
        }
    }

    /// Writes the exchanges that are complete, or lets them wait.
    pub(super) fn write_done(&mut self, id: u64, mut done: Exchanges) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if conn.keeper == Keeper::Undecided && conn.ends.is_some() {
            // The server's end keeps; the client's where no other end is observed. What a server
            // sends first, its client may have before the message about it is here.
            let young = conn.used_at.saturating_sub(conn.entered_at) < REORDER_NS_MAX;
            let too_early = young && conn.protocol().servers_push();
            let alone = conn.peer.is_none() && !too_early;
            if alone || conn.role() == Role::Server {
                conn.keeper = Keeper::This;
            }
        }
        match conn.keeper {
            Keeper::This if conn.ends.is_some() || conn.is_unbound => {
                for finished in done.drain(..) {
                    self.rows.finished(&finished, conn, &mut self.processes, &self.origin);
                    self.out.recycle(finished);
                }
            }
            Keeper::Other => {
                self.counts.rows_of_other_end += done.len() as u64;
                done.drain(..).for_each(|finished| self.out.recycle(finished));
            }
            Keeper::This | Keeper::Undecided => self.wait(id, &mut done),
        }
        if self.out.done.capacity() == 0 {
            self.out.done = done;
        }
    }

    pub(super) fn wait(&mut self, id: u64, done: &mut Exchanges) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if conn.waiting.is_empty() {
            self.waitings.push_back((self.watermark.max(conn.used_at), id));
        }
        conn.waiting.append(done);
        if conn.waiting.len() > WAITING_ROWS_MAX {
            self.decide_waiting(id);
        }
    }

    /// Writes the exchanges of a connection that waited to know which end keeps them.
    pub(super) fn write_waiting(&mut self, id: u64) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if !conn.waiting.is_empty() {
            let waiting = std::mem::take(&mut conn.waiting);
            self.write_done(id, waiting);
        }
    }

    /// Ends the wait: what can be told is told, otherwise this end keeps the rows.
    pub(super) fn decide_waiting(&mut self, id: u64) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if conn.waiting.is_empty() {
            return;
        }
        if conn.ends.is_none() && !conn.is_unbound {
            let rows = conn.waiting.len() as u64;
            for finished in conn.waiting.drain(..) {
                self.out.recycle(finished);
            }
            self.loss.unannounced(conn.protocol(), rows);
            return;
        }
        if conn.keeper == Keeper::Undecided {
            conn.keeper = Keeper::This;
        }
        match conn.peer {
            Some(peer) => self.agree(id, peer),
            None => self.write_waiting(id),
        }
    }

    pub(super) fn tell_lost_rows(&mut self, id: u64) {
        let Some(conn) = self.tracker.get_mut(id) else { return };
        let Some(mut lost) = conn.take_lost_rows() else { return };
        match conn.keeper {
            // Its other end keeps the rows.
            Keeper::Other => return,
            // Its other end may.
            Keeper::Undecided if conn.ends.is_none() || conn.peer.is_some() => lost.rows_min = 0,
            Keeper::This | Keeper::Undecided => {}
        }
        self.loss.out_of_step(id, conn.protocol(), conn.process, lost);
    }
}

/// What is decided of a connection's protocol, where it may be the server's end.
fn server(conn: &Connection) -> Option<Decided> {
    (conn.role() != Role::Client).then(|| conn.decided())
}
