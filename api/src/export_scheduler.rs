//! Runs export scripts for one window of time after another.
//!
//! ```text
//! Calendar ─► Run [a, b) ─► script ─► exports ─► receiver acknowledges ─► covered_to = b, on disk
//!    ▲                                   └ retried; deliveries             │
//!    └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A window is run once its lateness has passed, and the next one only after the receiver has
//! acknowledged it and that is on disk: no overlap and no gap, also over restarts. A process that
//! dies between the acknowledgement and the disk exports that one window again. Windows that grow
//! older than `catch_up_max` before they are acknowledged are given up and counted in `data_loss`.
//! Rows that arrive after their window was exported are not looked for here.

mod script;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use undine_schema::tables::{DataLoss, Delivery};
use undine_schema::{Append, Clock, TimeNs};

pub use self::script::{ExportScript, LoadError, load};
pub use self::window::Window;

use self::window::{Calendar, Step};
use crate::delivery::{Delays, DeliveryLog, RetryPolicy, duration_ns};
use crate::durable_file;
use crate::otlp_export::{Export, ExportError, ExportSink, Remedy, Shipment};

/// What is exported, and by which rules.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scripts.
    pub scripts: Vec<ExportScript>,
    /// Where each script's progress is kept.
    pub dir: PathBuf,
    /// How long after a window's end its rows may still arrive.
    pub lateness: Duration,
    /// How far back windows are made up for after a pause; at least each script's frequency.
    pub catch_up_max: Duration,
    /// Scripts that run at the same time; more of them wait.
    pub runs_max: usize,
    /// How long a script may run.
    pub run_timeout: Duration,
    /// How failed runs and deliveries are repeated.
    pub retry: RetryPolicy,
}

/// Why exports cannot be scheduled.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An id that cannot be a file's name.
    #[error("export script id {0:?} is not 1 to 64 letters, digits, '-' or '_'")]
    Id(String),
    /// Two scripts under one id.
    #[error("two export scripts have the id {0}; give each an id of its own")]
    DuplicateId(String),
    /// A script that would run without end.
    #[error("export script {0} has a frequency of 0; set it to 1s or more, or disable the script")]
    Frequency(String),
    /// Every window would be given up.
    #[error("export script {id}: frequency {frequency:?} is above catch_up_max {catch_up_max:?}")]
    CatchUp {
        /// The script.
        id: String,
        /// Its frequency.
        frequency: Duration,
        /// How far back windows are made up for.
        catch_up_max: Duration,
    },
    /// A limit of zero would refuse everything.
    #[error("export limit runs_max is 0; set it to at least 1")]
    ZeroLimit,
    /// The progress cannot be read or written.
    #[error("the progress of exports cannot be kept in {path}; check the file and its folder")]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// Why a script gave no exports.
pub type ScriptError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a script over a window; the query engine does, and tests do.
pub trait RunScript: Send + Sync + fmt::Debug {
    /// Runs `script` with `px.plugin.start_time` and `px.plugin.end_time` at the window's first
    /// and last moment, and gives what it exports.
    fn run<'a>(
        &'a self,
        script: &'a ExportScript,
        window: Window,
    ) -> BoxFuture<'a, Result<Vec<Export>, ScriptError>>;
}

/// How a script's exports stand.
#[derive(Debug, Default)]
pub struct ScriptStats {
    covered_to: AtomicI64,
    windows: AtomicU64,
    skipped_windows: AtomicU64,
    failed_attempts: AtomicU64,
    items: AtomicU64,
    rejected_items: AtomicU64,
}

impl ScriptStats {
    /// Everything before was exported or given up.
    pub fn covered_to(&self) -> TimeNs {
        TimeNs::new(self.covered_to.load(Ordering::Relaxed))
    }

    /// Windows that were acknowledged since the start.
    pub fn windows(&self) -> u64 {
        self.windows.load(Ordering::Relaxed)
    }

    /// Times that windows were given up since the start.
    pub fn skipped_windows(&self) -> u64 {
        self.skipped_windows.load(Ordering::Relaxed)
    }

    /// Runs and requests that failed since the start.
    pub fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Points and spans that were sent and acknowledged since the start.
    pub fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    /// Those of them that the receiver rejected as invalid.
    pub fn rejected_items(&self) -> u64 {
        self.rejected_items.load(Ordering::Relaxed)
    }
}

impl Config {
    /// Checks every script and reads how far it came.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(
        self,
        runner: &Arc<dyn RunScript>,
        sink: &Arc<ExportSink>,
        append: Arc<dyn Append>,
        clock: Arc<dyn Clock>,
    ) -> Result<ExportScheduler, BuildError> {
        if self.runs_max == 0 {
            return Err(BuildError::ZeroLimit);
        }
        let mut ids = BTreeSet::new();
        for script in &self.scripts {
            self.check(script)?;
            if !ids.insert(&script.id) {
                return Err(BuildError::DuplicateId(script.id.clone()));
            }
        }
        let state = |cause| BuildError::State { path: self.dir.clone(), cause };
        std::fs::create_dir_all(&self.dir).map_err(state)?;
        durable_file::sync_parent(&self.dir).map_err(state)?;
        let log = DeliveryLog::new(append, clock);
        let runs = Arc::new(Semaphore::new(self.runs_max));
        let enabled = self.scripts.iter().filter(|script| script.enabled);
        let jobs = enabled.map(|script| {
            let (path, covered_to) = self.progress(script, log.now())?;
            let stats = Arc::new(ScriptStats::default());
            stats.covered_to.store(covered_to.get(), Ordering::Relaxed);
            Ok(Job {
                calendar: self.calendar(script),
                script: script.clone(),
                path,
                covered_to,
                run_timeout: self.run_timeout,
                retry: self.retry,
                runner: Arc::clone(runner),
                sink: Arc::clone(sink),
                runs: Arc::clone(&runs),
                log: log.clone(),
                stats,
            })
        });
        Ok(ExportScheduler { jobs: jobs.collect::<Result<_, BuildError>>()? })
    }

    fn check(&self, script: &ExportScript) -> Result<(), BuildError> {
        let id = script.id.as_str();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !(1..=64).contains(&id.len()) || !id.chars().all(is_plain) {
            return Err(BuildError::Id(script.id.clone()));
        }
        if script.frequency.is_zero() {
            return Err(BuildError::Frequency(script.id.clone()));
        }
        if script.frequency > self.catch_up_max {
            return Err(BuildError::CatchUp {
                id: script.id.clone(),
                frequency: script.frequency,
                catch_up_max: self.catch_up_max,
            });
        }
        Ok(())
    }

    const fn calendar(&self, script: &ExportScript) -> Calendar {
        Calendar {
            frequency: script.frequency,
            lateness: self.lateness,
            catch_up_max: self.catch_up_max,
        }
    }

    /// Where the script's progress is kept, and how far it came; a new script starts now.
    fn progress(
        &self,
        script: &ExportScript,
        now: TimeNs,
    ) -> Result<(PathBuf, TimeNs), BuildError> {
        let path = self.dir.join(format!("{}.json", script.id));
        let state = |cause| BuildError::State { path: path.clone(), cause };
        let covered_to = if let Some(bytes) = durable_file::read(&path).map_err(state)? {
            let progress: Progress = serde_json::from_slice(&bytes)
                .map_err(|error| state(std::io::Error::other(error)))?;
            TimeNs::new(progress.covered_to)
        } else {
            let first = self.calendar(script).first(now);
            Progress::save(&path, first).map_err(state)?;
            first
        };
        Ok((path, covered_to))
    }
}

/// What is on disk of a script.
#[derive(Serialize, Deserialize)]
struct Progress {
    covered_to: i64,
}

impl Progress {
    fn save(path: &std::path::Path, covered_to: TimeNs) -> std::io::Result<()> {
        let progress = Self { covered_to: covered_to.get() };
        durable_file::replace(path, &serde_json::to_vec(&progress)?)
    }
}

/// Runs all enabled scripts.
#[derive(Debug)]
pub struct ExportScheduler {
    jobs: Vec<Job>,
}

impl ExportScheduler {
    /// How each enabled script's exports stand, by id.
    pub fn stats(&self) -> Vec<(String, Arc<ScriptStats>)> {
        self.jobs.iter().map(|job| (job.script.id.clone(), Arc::clone(&job.stats))).collect()
    }

    /// Runs until `shutdown` fires and what was under way has ended; a window that is not
    /// acknowledged by then is exported after the next start.
    ///
    /// # Panics
    /// When one of its tasks does.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for job in self.jobs {
            tasks.spawn(job.run(shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// One script and how far it came.
#[derive(Debug)]
struct Job {
    script: ExportScript,
    calendar: Calendar,
    path: PathBuf,
    covered_to: TimeNs,
    run_timeout: Duration,
    retry: RetryPolicy,
    runner: Arc<dyn RunScript>,
    sink: Arc<ExportSink>,
    runs: Arc<Semaphore>,
    log: DeliveryLog,
    stats: Arc<ScriptStats>,
}

/// The longest sleep, so that a clock that was set forward is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

impl Job {
    async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.step() {
                Step::WaitUntil(due) => {
                    let wait = due.since(self.log.now()).min(SLEEP_MAX);
                    pause(wait, &shutdown).await;
                }
                Step::Skip(window) => {
                    self.count_skipped(window);
                    self.advance(window, &shutdown).await;
                }
                Step::Run(window) => {
                    let span = tracing::info_span!("export", script = self.script.id);
                    if self.export(window, &shutdown).instrument(span).await {
                        self.advance(window, &shutdown).await;
                        self.stats.windows.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn step(&self) -> Step {
        self.calendar.step(self.covered_to, self.log.now())
    }

    /// Runs the script and delivers what it gives; whether all of it was acknowledged.
    async fn export(&self, window: Window, shutdown: &CancellationToken) -> bool {
        let mut attempts = Attempts {
            key: format!("{}-{}-{}", self.script.id, window.start, window.end),
            delays: self.retry.delays(),
            made: 0,
        };
        let mut shipments = loop {
            let started = Instant::now();
            match self.evaluate(window).await {
                Ok(shipments) => break shipments,
                Err(error) => {
                    self.record(&mut attempts, "", 0, started.elapsed(), Err((0, error)));
                    if !self.may_repeat(&mut attempts, None, shutdown).await {
                        return false;
                    }
                }
            }
        };
        for shipment in &mut shipments {
            if !self.deliver(shipment, &mut attempts, shutdown).await {
                return false;
            }
        }
        true
    }

    async fn evaluate(&self, window: Window) -> Result<Vec<Shipment>, String> {
        let _permit = self.runs.acquire().await.map_err(|closed| closed.to_string())?;
        let run = self.runner.run(&self.script, window);
        let exports = tokio::time::timeout(self.run_timeout, run)
            .await
            .map_err(|_elapsed| format!("the script ran longer than {:?}", self.run_timeout))?
            .map_err(|error| error.to_string())?;
        let endpoint = self.script.endpoint.as_ref();
        let shipments = exports.into_iter().map(|export| self.sink.pack(export, endpoint));
        shipments.collect::<Result<_, _>>().map_err(|error: ExportError| error.to_string())
    }

    /// Sends a shipment until all of it is acknowledged, or until it is too late for its window.
    async fn deliver(
        &self,
        shipment: &mut Shipment,
        attempts: &mut Attempts,
        shutdown: &CancellationToken,
    ) -> bool {
        while shipment.rest_items() > 0 {
            let items = shipment.rest_items();
            let started = Instant::now();
            let outcome = self.sink.send_rest(shipment).await;
            let latency = started.elapsed();
            let asked = match &outcome {
                Ok(()) => None,
                Err(error) => match error.remedy() {
                    Remedy::Retry(asked) => asked,
                    Remedy::Change => {
                        tracing::error!(script = self.script.id, %error,
                            "an export is refused until something is changed");
                        None
                    }
                },
            };
            let failure = outcome.map_err(|error| (error.grpc_code(), error.to_string()));
            let is_sent = failure.is_ok();
            self.record(attempts, shipment.target(), items, latency, failure);
            if !is_sent && !self.may_repeat(attempts, asked, shutdown).await {
                return false;
            }
        }
        self.count_sent(shipment, attempts);
        true
    }

    /// Waits before the next attempt; false where there should be none.
    async fn may_repeat(
        &self,
        attempts: &mut Attempts,
        asked: Option<Duration>,
        shutdown: &CancellationToken,
    ) -> bool {
        self.stats.failed_attempts.fetch_add(1, Ordering::Relaxed);
        pause(attempts.delays.next(asked), shutdown).await;
        let is_overdue = matches!(self.step(), Step::Skip(_));
        !shutdown.is_cancelled() && !is_overdue
    }

    fn record(
        &self,
        attempts: &mut Attempts,
        target: &str,
        items: u64,
        latency: Duration,
        outcome: Result<(), (i64, String)>,
    ) {
        attempts.made += 1;
        let (status, error) = outcome.err().unwrap_or_default();
        self.log.attempt(&Delivery {
            channel: "otlp",
            target,
            subject: &self.script.id,
            idempotency_key: &attempts.key,
            attempt: attempts.made,
            delivered: error.is_empty(),
            status,
            items: i64::try_from(items).unwrap_or(i64::MAX),
            latency: duration_ns(latency),
            error: &error,
            ..Delivery::default()
        });
    }

    fn count_sent(&self, shipment: &Shipment, attempts: &Attempts) {
        let sent = shipment.sent();
        self.stats.items.fetch_add(sent.items(), Ordering::Relaxed);
        if sent.rejected() == 0 {
            return;
        }
        self.stats.rejected_items.fetch_add(sent.rejected(), Ordering::Relaxed);
        let rejected = i64::try_from(sent.rejected()).unwrap_or(i64::MAX);
        self.log.loss(&DataLoss {
            reason: "rejected",
            rows_min: rejected,
            rows_max: rejected,
            detail: &format!("{}, {}: {}", attempts.key, shipment.target(), sent.message),
            ..DataLoss::default()
        });
    }

    fn count_skipped(&self, window: Window) {
        self.stats.skipped_windows.fetch_add(1, Ordering::Relaxed);
        tracing::error!(script = self.script.id, start = %window.start, end = %window.end,
            "windows were not acknowledged in time and are not exported any more");
        self.log.loss(&DataLoss {
            reason: "skipped",
            rows_min: 0,
            rows_max: -1,
            detail: &format!("export {}, from {} to {}", self.script.id, window.start, window.end),
            ..DataLoss::default()
        });
    }

    /// Remembers on disk that `window` is done with; goes on only once that has succeeded.
    async fn advance(&mut self, window: Window, shutdown: &CancellationToken) {
        let mut delays = self.retry.delays();
        loop {
            let path = self.path.clone();
            let save = move || Progress::save(&path, window.end);
            let saved = tokio::task::spawn_blocking(save).await.map_err(std::io::Error::other);
            match saved.flatten() {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(script = self.script.id, path = %self.path.display(), %error,
                        "the progress of an export cannot be saved; exports wait");
                    if shutdown.is_cancelled() {
                        return;
                    }
                    pause(delays.next(None), shutdown).await;
                }
            }
        }
        self.covered_to = window.end;
        self.stats.covered_to.store(window.end.get(), Ordering::Relaxed);
    }
}

/// The attempts at one window.
#[derive(Debug)]
struct Attempts {
    key: String,
    delays: Delays,
    made: i64,
}

async fn pause(wait: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}

#[cfg(test)]
mod tests;
