//! What processes, network namespaces, cgroups and Java virtual machines use, by interval.
//!
//! ```text
//! Control (who is watched) ─► scan: /proc, cgroups ─► names (the collector's) ─► rows ─► Append
//! ```
//!
//! It reads what the kernel counts anyway, of those that the collector watches and of no one else:
//! a target that is added or removed while the collector runs holds for the next scan. Names of
//! services, pods and containers are the collector's own, so that they are the same in all tables.

mod cgroup_set;
mod cgroup_usage;
mod hsperf;
mod jvm;
mod net_dev;
mod process_dir;
mod rows;
mod scan;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use undine_schema::tables::{DATA_LOSS, DataLoss, DataLosses};
use undine_schema::{Append, Clock};

use crate::collector::{Handle as CollectorHandle, Stopped};
use crate::error_log::{ErrorLog, Status};
use crate::process::{Facts, Identity, Seen};
use crate::service_name::ServiceRule;
use crate::writer::Writer;

use rows::Origin;
use scan::{Sample, Scanner};

/// Shortest time between two scans.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Most processes that may be read in a scan.
pub const PROCESSES_MAX: usize = 16 * 1024;
/// Most cgroups that may be read in a scan.
pub const CGROUPS_MAX: usize = 16 * 1024;
/// Scans that are asked for and wait.
const COMMANDS_MAX: usize = 4;

/// What the component needs to know.
#[derive(Debug)]
pub struct Config {
    /// The collector whose targets are watched and that gives the names.
    pub collector: CollectorHandle,
    /// How often everything is read, at least [`INTERVAL_MIN`].
    pub interval: Duration,
    /// Most processes that are read in a scan, at most [`PROCESSES_MAX`]; further ones are counted.
    pub processes_max: usize,
    /// Most cgroups that are read in a scan, at most [`CGROUPS_MAX`]; further ones are counted.
    pub cgroups_max: usize,
    /// The user's rules for names of services, as the collector has them.
    pub service_rules: Vec<ServiceRule>,
    /// The node's name, which every row carries.
    pub node: String,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Why the component cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is nothing that could be read.
    #[error("a replay has no processes; host statistics need the kernel as the collector's source")]
    Replay,
    /// A setting is out of its bounds.
    #[error("{name} is {value}; choose {bounds}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: String,
    },
}

/// Why the component ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A scan panicked.
    #[error("a scan of /proc panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// What scans have read so far, and what the last one cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Scans that were made.
    pub scans: u64,
    /// Processes that the last one read.
    pub processes: u64,
    /// Network namespaces that the last one read.
    pub networks: u64,
    /// Cgroups that the last one read.
    pub cgroups: u64,
    /// Java virtual machines that the last one read.
    pub machines: u64,
    /// Processes that the last one did not read since there were too many.
    pub processes_omitted: u64,
    /// Cgroups that the last one did not read since there were too many.
    pub cgroups_omitted: u64,
    /// How long the last one read.
    pub took: Duration,
    /// CPU time of the last one, to a tick of the kernel.
    pub cpu: Duration,
    /// Rows that the store did not take.
    pub refused_rows: u64,
}

/// The component, ready to run.
#[derive(Debug)]
pub struct Host {
    work: Work,
    interval: Duration,
    commands: mpsc::Receiver<oneshot::Sender<Stats>>,
    handle: Handle,
}

/// A hand on it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<oneshot::Sender<Stats>>,
    stats: Arc<Mutex<Stats>>,
}

/// What scans go through.
#[derive(Debug)]
struct Work {
    /// Taken out while a scan runs.
    scanner: Option<Scanner>,
    collector: CollectorHandle,
    errors: Arc<ErrorLog>,
    origin: Origin,
    writer: Writer,
    losses: DataLosses,
    clock: Arc<dyn Clock>,
    scans: u64,
}

impl Config {
    /// Checks the configuration.
    ///
    /// # Errors
    /// Where a setting is out of its bounds, or the collector replays a recording.
    pub fn build(self, append: Arc<dyn Append>) -> Result<Host, BuildError> {
        self.check()?;
        let control = self.collector.control().cloned().ok_or(BuildError::Replay)?;
        let errors = Arc::clone(self.collector.errors());
        let scanner =
            Scanner::new(control, Arc::clone(&errors), self.processes_max, self.cgroups_max);
        let work = Work {
            scanner: Some(scanner),
            collector: self.collector,
            errors,
            origin: Origin { node: self.node, rules: self.service_rules },
            writer: Writer::new(append),
            losses: DataLosses::new(0),
            clock: self.clock,
            scans: 0,
        };
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = Handle { commands: sender, stats: Arc::default() };
        Ok(Host { work, interval: self.interval, commands, handle })
    }

    fn check(&self) -> Result<(), BuildError> {
        if self.interval < INTERVAL_MIN {
            let bounds = format!("at least {INTERVAL_MIN:?}");
            let value = format!("{:?}", self.interval);
            return Err(BuildError::Setting { name: "interval", value, bounds });
        }
        for (name, value, max) in [
            ("processes_max", self.processes_max, PROCESSES_MAX),
            ("cgroups_max", self.cgroups_max, CGROUPS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                let bounds = format!("1 to {max}");
                return Err(BuildError::Setting { name, value: value.to_string(), bounds });
            }
        }
        Ok(())
    }
}

impl Host {
    /// A hand on it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Reads everything once in every interval, beginning at once, until `shutdown` fires.
    ///
    /// # Errors
    /// Where a scan panics.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { mut work, interval, mut commands, handle } = self;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let reply = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(reply) = commands.recv() => Some(reply),
                _ = ticks.tick() => None,
            };
            let stats = work.scan(&shutdown).await?;
            *handle.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
            if let Some(reply) = reply
                && reply.send(stats).is_err()
            {
                tracing::debug!("nobody waits for the scan any more");
            }
        }
        work.give_up();
        Ok(())
    }
}

impl Handle {
    /// Reads everything now, and gives what that was when its rows are with the store.
    ///
    /// # Errors
    /// Where the component does not run any more.
    pub async fn scan(&self) -> Result<Stats, Stopped> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(reply).await.is_err() {
            return Err(Stopped);
        }
        answer.await.or(Err(Stopped))
    }

    /// What scans have read.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    async fn scan(&mut self, shutdown: &CancellationToken) -> Result<Stats, RunError> {
        let time = self.clock.now();
        let Some(mut scanner) = self.scanner.take() else { return Ok(Stats::default()) };
        let (scanner, sample) = off_the_runtime(move || {
            let sample = scanner.scan();
            (scanner, sample)
        })
        .await?;
        self.scanner = Some(scanner);
        self.scans += 1;
        if let Some(identities) = self.identify(&sample, shutdown).await? {
            let mut batches = self.origin.batches(&sample, &identities, time);
            self.omitted("process_stats", "processes_max", sample.processes_omitted);
            self.omitted("cgroup_stats", "cgroups_max", sample.cgroups_omitted);
            if !self.losses.is_empty() {
                batches.push((&DATA_LOSS, self.losses.finish()));
            }
            self.write(batches);
        }
        Ok(Stats {
            scans: self.scans,
            processes: sample.processes.len() as u64,
            networks: sample.networks.len() as u64,
            cgroups: sample.cgroups.len() as u64,
            machines: sample.machines.len() as u64,
            processes_omitted: sample.processes_omitted as u64,
            cgroups_omitted: sample.cgroups_omitted as u64,
            took: sample.took,
            cpu: sample.cpu,
            refused_rows: self.writer.refused_rows(),
        })
    }

    /// Who the processes of a scan are; `None` where the collector has stopped, so that nobody
    /// can say any more, or `shutdown` fires before it answers.
    async fn identify(
        &self,
        sample: &Sample,
        shutdown: &CancellationToken,
    ) -> Result<Option<Vec<Option<Identity>>>, RunError> {
        let keys = sample.processes.iter().map(|process| process.key);
        let seen = keys.clone().map(|key| Seen { key, facts: None }).collect();
        let asked = self.collector.identify(seen);
        let Some(Ok(mut identities)) = shutdown.run_until_cancelled(asked).await else {
            return Ok(None);
        };
        let unknown: Vec<_> =
            keys.enumerate().filter(|(index, _)| identities[*index].is_none()).collect();
        if unknown.is_empty() {
            return Ok(Some(identities));
        }
        let (places, seen): (Vec<_>, Vec<_>) = off_the_runtime(move || {
            let read = |(index, key)| {
                let facts = Some(Facts::read(key)?);
                Some((index, Seen { key, facts }))
            };
            unknown.into_iter().filter_map(read).unzip()
        })
        .await?;
        let asked = self.collector.identify(seen);
        let Some(Ok(found)) = shutdown.run_until_cancelled(asked).await else { return Ok(None) };
        for (index, identity) in places.into_iter().zip(found) {
            let index: usize = index;
            identities[index] = identity;
        }
        Ok(Some(identities))
    }

    /// Counts what a limit kept out of a table.
    fn omitted(&mut self, table: &'static str, limit: &'static str, count: usize) {
        if count == 0 {
            return;
        }
        let text = format!("{table} has rows for at most {limit} of those that are watched");
        self.errors.report("host", Status::Exhausted, &text, count as u64);
        self.lose(table, "collector", limit, count as u64);
    }

    fn write(
        &mut self,
        batches: Vec<(&'static undine_schema::TableDef, arrow::array::RecordBatch)>,
    ) {
        let mut refused = Vec::new();
        self.writer.write(batches, &mut |rows| refused.push(rows));
        for rows in refused {
            self.lose(rows.table, "store", rows.reason, rows.rows);
        }
    }

    fn lose(
        &mut self,
        source_table: &'static str,
        stage: &'static str,
        reason: &'static str,
        rows: u64,
    ) {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.losses.push(&DataLoss {
            time_: self.clock.now(),
            source_table,
            stage,
            reason,
            rows_min: rows,
            rows_max: rows,
            ..DataLoss::default()
        });
    }

    /// Hands over what still waits, for the last time.
    fn give_up(&mut self) {
        if !self.losses.is_empty() {
            let losses = self.losses.finish();
            self.write(vec![(&DATA_LOSS, losses)]);
        }
        self.writer.give_up(&mut |refused| {
            tracing::warn!(table = refused.table, rows = refused.rows, "rows were not stored");
        });
    }
}

/// Does what holds a thread for milliseconds where that disturbs nobody.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(RunError::Panicked)
}
