//! What happens because time has passed: nothing waits for ever.

use super::{CLOSING_NS_MAX, DEADLINES_NS, Pipeline, UNANNOUNCED_NS_MAX, WAITING_NS_MAX};
use crate::data_stream::REORDER_NS_MAX;

impl Pipeline {
    pub(super) fn meet_deadlines(&mut self) {
        let now = self.watermark;
        self.deadlines_at = now.saturating_add(DEADLINES_NS);
        while let Some(&(at, id)) = self.gaps.front()
            && at.saturating_add(REORDER_NS_MAX) <= now
        {
            self.gaps.pop_front();
            self.declare_gaps(id, Some(now));
        }
        while let Some(&(at, id)) = self.closings.front()
            && at.saturating_add(CLOSING_NS_MAX) <= now
        {
            self.closings.pop_front();
            self.finish(id, at);
        }
        while let Some(&(at, id)) = self.waitings.front()
            && at.saturating_add(WAITING_NS_MAX) <= now
        {
            self.waitings.pop_front();
            self.decide_waiting(id);
        }
        self.give_up_unbound(Some(now));
        self.datagrams.expire(now);
        self.write_lookups();
        if now >= self.conn_stats_at {
            self.conn_stats_at = now.saturating_add(self.conn_stats_interval_ns);
            self.give_up_unannounced();
            self.write_conn_stats();
        }
    }

    pub(super) fn write_conn_stats(&mut self) {
        let now = self.watermark;
        for conn in self.tracker.iter_mut() {
            self.accounts.update(conn, now);
        }
        let time = self.origin.wall(now);
        for (key, account) in self.accounts.take_changed() {
            self.rows.conn_stat(&key, &account, time, &mut self.processes, &self.origin);
        }
    }

    /// Ends connections that were never announced, of which nobody will say that they ended.
    pub(super) fn give_up_unannounced(&mut self) {
        if !std::mem::take(&mut self.unannounced) {
            return;
        }
        let now = self.watermark;
        let mut silent = Vec::new();
        for conn in self.tracker.iter_mut().filter(|conn| conn.ends.is_none()) {
            self.unannounced = true;
            if conn.used_at.saturating_add(UNANNOUNCED_NS_MAX) <= now {
                silent.push(conn.id);
            }
        }
        for id in silent {
            self.finish(id, now);
        }
    }
}
