//! What the model has done since it was built, for health, `/metrics` and the demo's report.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that the model writes and anyone reads.
#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) rows_seen: AtomicU64,
    pub(crate) rows_missed: AtomicU64,
    pub(crate) rows_late: AtomicU64,
    pub(crate) rows_ahead: AtomicU64,
    pub(crate) rows_unmodelled: AtomicU64,
    pub(crate) windows: AtomicU64,
    pub(crate) services: AtomicU64,
    pub(crate) entities: AtomicU64,
    pub(crate) anomalies: AtomicU64,
    pub(crate) incidents_open: AtomicU64,
    pub(crate) incidents_opened: AtomicU64,
    pub(crate) incidents_resolved: AtomicU64,
    pub(crate) frames_lost: AtomicU64,
    pub(crate) state_saves: AtomicU64,
    pub(crate) state_save_errors: AtomicU64,
}

/// The counters of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Rows of `http_events` that were read, every one of every role.
    pub rows_seen: u64,
    /// Rows that were evicted before they were read; also in `data_loss` with stage `ml`.
    pub rows_missed: u64,
    /// Of the rows seen: came after their window was closed; also in `data_loss`.
    pub rows_late: u64,
    /// Of the rows seen: were stamped more than a window ahead of the clock.
    pub rows_ahead: u64,
    /// Of the rows seen: their service found no room among `entities_max`.
    pub rows_unmodelled: u64,
    /// Windows that were closed and judged.
    pub windows: u64,
    /// Services that have a baseline or are getting one.
    pub services: u64,
    /// Pods of services that are followed.
    pub entities: u64,
    /// Rows written to `anomalies`.
    pub anomalies: u64,
    /// Incidents that are open now.
    pub incidents_open: u64,
    /// Incidents opened since the model was built.
    pub incidents_opened: u64,
    /// Incidents resolved since the model was built.
    pub incidents_resolved: u64,
    /// Frames of findings that the store would not take for so long that they were given up.
    pub frames_lost: u64,
    /// How often the state was saved.
    pub state_saves: u64,
    /// How often saving it failed.
    pub state_save_errors: u64,
}

impl Stats {
    /// The counters as they are now.
    pub fn snapshot(&self) -> StatsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            rows_seen: read(&self.rows_seen),
            rows_missed: read(&self.rows_missed),
            rows_late: read(&self.rows_late),
            rows_ahead: read(&self.rows_ahead),
            rows_unmodelled: read(&self.rows_unmodelled),
            windows: read(&self.windows),
            services: read(&self.services),
            entities: read(&self.entities),
            anomalies: read(&self.anomalies),
            incidents_open: read(&self.incidents_open),
            incidents_opened: read(&self.incidents_opened),
            incidents_resolved: read(&self.incidents_resolved),
            frames_lost: read(&self.frames_lost),
            state_saves: read(&self.state_saves),
            state_save_errors: read(&self.state_save_errors),
        }
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Sets a counter that can fall.
pub(crate) fn set(counter: &AtomicU64, to: usize) {
    counter.store(to as u64, Ordering::Relaxed);
}
