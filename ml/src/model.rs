//! The component: follows the feed, drives the learner, writes findings, saves its state.
//!
//! One pass reads every row up to the newest, closes the windows that the clock says are over, and
//! hands over what was found. The cursor and everything learned are saved together, after what was
//! found is durable, so that a restart goes on where the saved state ends: rows are read again, not
//! skipped, and findings that come out again carry the same retry key and are not stored twice.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use undine_schema::tables::{ANOMALIES, DATA_LOSS, DataLoss, DataLosses, HTTP_EVENTS, INCIDENTS};
use undine_schema::{
    Append, AppendError, Clock, Durability, Feed, FeedError, Frame, Part, RetryKey, Seq, TimeNs,
    Upid,
};

use crate::explanation::{anomaly_rows, incident_rows};
use crate::features::Limits;
use crate::incidents::{Change, Rules, Silence, Turn};
use crate::learner::{Findings, Learner, Settings};
use crate::state::{Origin, Saved};
use crate::stats::{Stats, add, set};

/// How long the model rests between two passes.
const REST: Duration = Duration::from_millis(200);
/// Rows that are taken in before others may run.
const CHUNK_ROWS_MAX: usize = 8_192;
/// Frames of findings that wait for room in the store; beyond that the oldest is given up.
const FRAMES_MAX: usize = 256;
/// What lasts for less, and for less than two windows, is no incident.
const OPEN_AFTER: Duration = Duration::from_secs(8);
/// Late rows are recorded at most this often.
const LATE_INTERVAL: Duration = Duration::from_secs(10);
/// Passes further apart than this, beyond the window, mean that the process did not run.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the model needs to know. Values in brackets suit a host with interactive services.
#[derive(Clone, Debug)]
pub struct Config {
    /// Length of the windows that are judged [5 s]; 100 ms to 1 h. An incident takes two windows and
    /// eight seconds at least.
    pub window: Duration,
    /// How late a row may come after its `time_` [1 s].
    pub lateness: Duration,
    /// Windows that a service is watched for before it is judged [12]; at least 3.
    pub warmup_windows: u32,
    /// Windows over which the past fades from a baseline [120].
    pub memory_windows: u32,
    /// Evidence that opens an incident, in decades of improbability [5]; 2 to 50. At 5 it aims at
    /// less than one false incident per service in twenty days.
    pub open_decades: f64,
    /// Quiet windows in a row that end an incident [4].
    pub resolve_windows: u32,
    /// After this time what is unusual becomes the new normal [30 min].
    pub relearn_after: Duration,
    /// Latency differences much smaller than this are scheduling noise [1 ms].
    pub latency_resolution: Duration,
    /// Whether traffic that stays away opens an incident although nothing else is wrong.
    pub silence: Silence,
    /// Pods of services that are followed [1000]; the least busy make room.
    pub entities_max: usize,
    /// Pairs of caller and callee that are followed [4000].
    pub edges_max: usize,
    /// Where the state is kept; without it a restart forgets everything.
    pub state_path: Option<PathBuf>,
    /// How often the state is saved [60 s]; it is also saved when an incident changes and at the end.
    pub state_interval: Duration,
}

/// Why no model can be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value is outside its bounds.
    #[error("ml.{key} is {value}; set it to {allowed}")]
    OutOfBounds {
        /// The field of [`Config`].
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The store does not keep the table that the model follows.
    #[error("the model cannot follow http_events")]
    Feed(#[from] FeedError),
}

/// The model, ready to run.
#[derive(Debug)]
pub struct Model {
    settings: Settings,
    lateness: Duration,
    state_path: Option<PathBuf>,
    state_interval: Duration,
    feed: Arc<dyn Feed>,
    append: Arc<dyn Append>,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    origin: Origin,
    /// Always there but while it is being saved.
    learner: Option<Box<Learner>>,
    cursor: Seq,
    /// Findings about earlier windows are not told: they are history that is only learned from.
    told_from: TimeNs,
    /// Incidents that opened in that history and are still open.
    untold: Vec<Change>,
    last_pass: TimeNs,
    last_saved: TimeNs,
    frames: VecDeque<Frame>,
    /// Whether something was told that a restart must not tell anew.
    unsaved_news: bool,
    is_stopping: bool,
    rows_late_told: u64,
    late_told_at: TimeNs,
}

impl Config {
    /// Checks the configuration and loads the saved state if there is one that can be used.
    ///
    /// # Errors
    /// When a value is out of bounds or the feed does not keep `http_events`. A state that cannot
    /// be used is no error: see [`Model::origin`].
    pub fn build(
        self,
        feed: Arc<dyn Feed>,
        append: Arc<dyn Append>,
        clock: Arc<dyn Clock>,
    ) -> Result<Model, BuildError> {
        self.check()?;
        feed.newest(&HTTP_EVENTS)?;
        let settings = self.settings();
        let now = clock.now();
        let (origin, saved) = match &self.state_path {
            None => (Origin::Fresh, None),
            Some(path) => match Saved::read(path, self.window) {
                Ok(None) => (Origin::Fresh, None),
                Ok(Some(saved)) => (Origin::Resumed, Some(saved)),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "the saved model is not used, learning starts anew");
                    (Origin::Discarded { reason: Chain(&error).to_string() }, None)
                }
            },
        };
        let limits = Limits { entities_max: self.entities_max, edges_max: self.edges_max };
        let (learner, cursor, told_from) = match saved {
            None => {
                let mut learner = Learner::new(&settings, self.lateness, limits);
                learner.watched_since(now);
                (Box::new(learner), Seq::ZERO, now)
            }
            Some(saved) => {
                let (mut learner, cursor, saved_at) = saved.into_parts();
                if now.since(saved_at) > self.lateness {
                    learner.watched_since(now);
                }
                (learner, cursor, TimeNs::ZERO)
            }
        };
        Ok(Model {
            settings,
            lateness: self.lateness,
            state_path: self.state_path,
            state_interval: self.state_interval,
            feed,
            append,
            clock,
            stats: Arc::default(),
            origin,
            learner: Some(learner),
            cursor,
            told_from,
            untold: Vec::new(),
            last_pass: now,
            last_saved: now,
            frames: VecDeque::new(),
            unsaved_news: false,
            is_stopping: false,
            rows_late_told: 0,
            late_told_at: now,
        })
    }

    fn check(&self) -> Result<(), BuildError> {
        let out =
            |key, value: String, allowed| Err(BuildError::OutOfBounds { key, value, allowed });
        let shown = |duration: Duration| format!("{duration:?}");
        let hour = Duration::from_hours(1);
        if self.window < Duration::from_millis(100) || self.window > hour {
            return out("window", shown(self.window), "100 ms to 1 h");
        }
        if self.lateness > hour {
            return out("lateness", shown(self.lateness), "at most 1 h");
        }
        if self.warmup_windows < 3 {
            return out("warmup_windows", self.warmup_windows.to_string(), "at least 3");
        }
        if self.memory_windows < self.warmup_windows {
            let allowed = "at least warmup_windows";
            return out("memory_windows", self.memory_windows.to_string(), allowed);
        }
        if !(2.0..=50.0).contains(&self.open_decades) {
            return out("open_decades", self.open_decades.to_string(), "2 to 50");
        }
        if self.resolve_windows == 0 {
            return out("resolve_windows", "0".to_owned(), "at least 1");
        }
        if self.relearn_after < self.window * self.warmup_windows {
            let allowed = "at least warmup_windows windows";
            return out("relearn_after", shown(self.relearn_after), allowed);
        }
        if self.entities_max == 0 || u32::try_from(self.entities_max).is_err() {
            return out("entities_max", self.entities_max.to_string(), "1 to 4294967295");
        }
        if u32::try_from(self.edges_max).is_err() {
            return out("edges_max", self.edges_max.to_string(), "at most 4294967295");
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        let relearn_ns = i64::try_from(self.relearn_after.as_nanos()).unwrap_or(i64::MAX);
        let open_windows = OPEN_AFTER.as_nanos().div_ceil(self.window.as_nanos());
        let relearn_windows = self.relearn_after.as_nanos() / self.window.as_nanos();
        Settings {
            window: self.window,
            warmup_windows: self.warmup_windows,
            memory_windows: self.memory_windows,
            relearn_windows: u32::try_from(relearn_windows).unwrap_or(u32::MAX),
            latency_resolution: self.latency_resolution,
            rules: Rules {
                open_decades: self.open_decades,
                open_windows: u32::try_from(open_windows).unwrap_or(u32::MAX).max(2),
                resolve_windows: self.resolve_windows,
                silence: self.silence,
                relearn_ns,
            },
        }
    }
}

impl Model {
    /// The counters, which stay readable while the model runs and after it has ended.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Where the model's knowledge comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Follows the feed until `shutdown` fires or the store stops, then takes in what is there, and
    /// saves the state.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !self.is_stopping && !shutdown.is_cancelled() {
            self.pass().await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(REST) => {}
            }
        }
        self.finish().await;
    }

    /// Takes in the last rows and saves the state.
    async fn finish(&mut self) {
        self.pass().await;
        self.save().await;
    }

    /// Takes in every row up to the newest one, closes windows, tells what was found.
    async fn pass(&mut self) {
        let now = self.clock.now();
        if now.since(self.last_pass) > self.settings.window + PAUSE_MAX {
            self.learner().watched_since(now);
        }
        self.last_pass = now;
        match self.read_until_newest(now).await {
            Ok(()) => {
                let watermark = now.saturating_sub(self.lateness);
                let settings = self.settings;
                let mut findings = Vec::new();
                self.learner().close_until(&settings, watermark, &mut findings);
                self.tell(findings);
            }
            Err(error) => tracing::error!(%error, "the model cannot read its feed"),
        }
        self.send().await;
        let is_due = now.since(self.last_saved) >= self.state_interval;
        if (is_due || self.unsaved_news) && self.frames.is_empty() {
            self.save().await;
        }
        self.count();
    }

    async fn read_until_newest(&mut self, now: TimeNs) -> Result<(), FeedError> {
        let newest = *self.feed.newest(&HTTP_EVENTS)?.borrow();
        let latest = now.saturating_add(self.settings.window);
        while self.cursor < newest {
            let progress = self.feed.read(&HTTP_EVENTS, self.cursor, CHUNK_ROWS_MAX).await?;
            if progress.missed_rows > 0 {
                self.miss(now, "evicted", progress.missed_rows);
                add(&self.stats.rows_missed, progress.missed_rows);
                self.learner().watched_since(now);
            }
            let is_at_end = progress.cursor == self.cursor;
            let settings = self.settings;
            let mut findings = Vec::new();
            for slice in &progress.slices {
                let taken = self.learner().take(&settings, &slice.rows, latest, &mut findings);
                add(&self.stats.rows_seen, taken.rows);
                add(&self.stats.rows_late, taken.late);
                add(&self.stats.rows_ahead, taken.ahead);
                add(&self.stats.rows_unmodelled, taken.unmodelled);
            }
            self.cursor = progress.cursor;
            self.tell(findings);
            self.send().await;
            if is_at_end {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Turns findings into frames, one a window.
    fn tell(&mut self, findings: Vec<Findings>) {
        for mut found in findings {
            add(&self.stats.windows, 1);
            if found.start < self.told_from {
                self.untold.extend(found.changes);
                let over: Vec<String> = self
                    .untold
                    .iter()
                    .filter(|c| c.is_end())
                    .map(|c| c.incident.id.clone())
                    .collect();
                self.untold.retain(|change| !over.contains(&change.incident.id));
                continue;
            }
            found.changes.splice(0..0, self.untold.drain(..));
            let mut parts = Vec::new();
            if !found.anomalies.is_empty() {
                add(&self.stats.anomalies, found.anomalies.len() as u64);
                let rows = anomaly_rows(found.end, self.settings.window, &found.anomalies);
                parts.push(Part { table: &ANOMALIES, rows });
            }
            if !found.changes.is_empty() {
                self.unsaved_news = true;
                found.changes.iter().for_each(|change| self.announce(change));
                parts.push(Part { table: &INCIDENTS, rows: incident_rows(&found.changes) });
            }
            if !parts.is_empty() {
                let retry_key = Some(retry_key(*b"ml findings\0", found.end));
                self.queue(Frame { parts, durability: Durability::Commit, retry_key });
            }
        }
    }

    fn announce(&self, change: &Change) {
        let (id, service) = (&change.incident.id, &change.incident.service);
        match change.turn {
            Turn::Opened => {
                add(&self.stats.incidents_opened, 1);
                tracing::info!(incident = %id, %service, "an incident opened");
            }
            Turn::Updated => {}
            Turn::Resolved | Turn::Accepted => {
                add(&self.stats.incidents_resolved, 1);
                tracing::info!(incident = %id, %service, "an incident is over");
            }
        }
    }

    /// Records rows that the model did not take in.
    fn miss(&mut self, at: TimeNs, reason: &str, rows: u64) {
        tracing::warn!(rows, reason, "the model missed rows");
        let detail = format!("{rows} rows of http_events were not learned from");
        let mut losses = DataLosses::new(1);
        losses.push(&DataLoss {
            time_: at,
            // The requests themselves are not lost; findings about them may be.
            source_table: ANOMALIES.name,
            stage: "ml",
            reason,
            operations: 0,
            bytes: 0,
            rows_min: 0,
            rows_max: -1,
            upid: Upid::default(),
            conn: "",
            detail: &detail,
            ..DataLoss::default()
        });
        self.queue(Frame::committed(&DATA_LOSS, losses.finish()));
    }

    fn queue(&mut self, frame: Frame) {
        self.frames.push_back(frame);
        if self.frames.len() > FRAMES_MAX {
            self.frames.pop_front();
            add(&self.stats.frames_lost, 1);
        }
    }

    /// Hands queued frames to the store, in order, until it has no room.
    async fn send(&mut self) {
        while let Some(frame) = self.frames.front() {
            let result = match self.append.append(frame.clone()) {
                Ok(pending) => pending.durable().await.map(drop),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {}
                Err(AppendError::Full { .. }) => return,
                Err(AppendError::Stopping) => {
                    self.is_stopping = true;
                    return;
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "findings of the model were refused");
                    add(&self.stats.frames_lost, 1);
                }
            }
            self.frames.pop_front();
        }
    }

    async fn save(&mut self) {
        let Some(path) = self.state_path.clone() else {
            self.unsaved_news = false;
            return;
        };
        self.last_saved = self.clock.now();
        let Some(learner) = self.learner.take() else { return };
        let saved = Saved::new(learner, self.settings.window, self.cursor, self.last_saved);
        let written = tokio::task::spawn_blocking(move || {
            let result = saved.write(&path);
            (saved, result)
        });
        let (saved, result) = match written.await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.learner = Some(saved.into_parts().0);
        match result {
            Ok(()) => {
                self.unsaved_news = false;
                add(&self.stats.state_saves, 1);
            }
            Err(error) => {
                add(&self.stats.state_save_errors, 1);
                tracing::warn!(error = %Chain(&error), "the model's state was not saved");
            }
        }
    }

    fn count(&mut self) {
        let late = self.stats.snapshot().rows_late;
        let is_due = self.last_pass.since(self.late_told_at) >= LATE_INTERVAL;
        if late > self.rows_late_told && is_due {
            self.late_told_at = self.last_pass;
            let rows = late - self.rows_late_told;
            self.rows_late_told = late;
            self.miss(self.last_pass, "late", rows);
        }
        let learner = self.learner();
        let (services, entities, open) =
            (learner.services(), learner.entities(), learner.incidents_open());
        set(&self.stats.services, services);
        set(&self.stats.entities, entities);
        set(&self.stats.incidents_open, open);
    }

    fn learner(&mut self) -> &mut Learner {
        self.learner.as_mut().expect("the learner is away only while it is being saved")
    }
}

/// A key that the findings of the same window have again after a restart.
fn retry_key(kind: [u8; 12], end: TimeNs) -> RetryKey {
    let mut key = [0; 32];
    key[..12].copy_from_slice(&kind);
    key[12..20].copy_from_slice(&end.get().to_be_bytes());
    RetryKey(key)
}

/// Writes an error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
