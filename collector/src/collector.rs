//! The collector as a component: built, run, drained.
//!
//! One thread reads the ring (or a recording), parses and writes; it never waits for anything but
//! messages. Its [`Handle`] may be used from any thread, also before it runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use undine_schema::trace::Tracer;
use undine_schema::{Append, Clock};

use crate::error_log::ErrorLog;
use crate::kernel::{
    self, Control, ControlError, CostSample, Hooks, Object, Scope, ScopeGuard, Target, Tls, Verdict,
};
use crate::loss::{KernelTotals, RowBounds};
use crate::pipeline::{Pipeline, PipelineCounts, Settings};
use crate::process::{FactSource, Identity, Seen};
use crate::profiler::{self, ProfileCounts, Profiler};
use crate::reader::{Command, Reader, Source, TlsSource};
use crate::recording::{self, Recorder, RecordingError, RecordingHeader, Replayer};
use crate::redaction::Redaction;
use crate::replay::{Pace, Replay};
use crate::rows::RowCounts;
use crate::service_name::ServiceRule;
use crate::tls::finder::Finder;
use crate::trace::Tracing;
use crate::trace::bpftrace::Programs;
use crate::writer::Writer;

/// Longest time between two writes: a row must be visible within a second.
pub const FLUSH_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// Most bytes of a body that may be kept.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Commands that wait for the thread.
const COMMANDS_MAX: usize = 16;

/// Where messages come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// The kernel of this machine.
    Kernel {
        /// Whom to watch.
        scope: Scope,
        /// Whether a scope that names no one in particular is acceptable.
        guard: ScopeGuard,
        /// Which hooks to use; `None` takes the best that this kernel has.
        hooks: Option<Hooks>,
        /// Bytes of the ring; a power of two.
        ring_bytes: u32,
        /// Which build of the kernel programs to load.
        object: Object,
        /// Whether to look into TLS.
        tls: Tls,
    },
    /// A recording.
    Replay {
        /// Where it is.
        path: PathBuf,
        /// How fast.
        pace: Pace,
    },
}

/// What a collector needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where messages come from.
    pub source: SourceConfig,
    /// The node's name, which every row carries.
    pub node: String,
    /// The node's short id, part of every process's identity.
    pub asid: u32,
    /// Most connections at a time; one that is unused makes room for another, which is counted.
    pub connections_max: u32,
    /// Most bytes that are kept of a body, at most [`BODY_BYTES_MAX`].
    pub body_bytes_max: usize,
    /// What is kept of sensitive values.
    pub redaction: Redaction,
    /// The user's rules for names of services; the first that matches counts.
    pub service_rules: Vec<ServiceRule>,
    /// How often `conn_stats` is written.
    pub conn_stats_interval: Duration,
    /// How long rows are gathered, at most [`FLUSH_INTERVAL_MAX`].
    pub flush_interval: Duration,
    /// How to profile what processes do with their CPU time, if at all; nothing is in a replay.
    pub profiler: Option<profiler::Config>,
    /// Where to record what is captured, if at all.
    pub recording: Option<recording::Config>,
    /// Whether scripts may have bpftrace run programs that are limited to what is watched.
    pub programs: Programs,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Why a collector cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kernel side cannot be built.
    #[error(transparent)]
    Kernel(#[from] kernel::BuildError),
    /// The recording cannot be read or written.
    #[error(transparent)]
    Recording(#[from] RecordingError),
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

/// Why a collector ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The thread cannot be started.
    #[error("cannot start the collector's thread")]
    Thread(#[source] std::io::Error),
    /// The recording is cut or damaged.
    #[error(transparent)]
    Replay(#[from] RecordingError),
    /// The thread panicked.
    #[error("the collector's thread panicked: {0}")]
    Panicked(String),
}

/// The collector does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the collector has stopped")]
pub struct Stopped;

/// What a collector has seen and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The kernel's counters.
    pub kernel: KernelTotals,
    /// Messages that were read from the ring.
    pub consumed: u64,
    /// What came of them.
    pub pipeline: PipelineCounts,
    /// What the profiler has seen and done, as far as it is in rows.
    pub profile: ProfileCounts,
    /// Rows that were written.
    pub rows: RowCounts,
    /// Rows that the store did not take.
    pub refused_rows: u64,
    /// Bounds of the rows of `http_events` that are missing.
    pub missing_rows: RowBounds,
    /// Whether the last drain read all that had been sent when it began.
    pub drained: bool,
    /// Whether there is nothing more to read: the recording was replayed.
    pub ended: bool,
}

impl Stats {
    /// Messages that reached the ring.
    pub const fn emitted(&self) -> u64 {
        self.kernel.attempts.saturating_sub(self.kernel.dropped)
    }
}

/// A collector that is ready to run; with the kernel as its source, messages gather already.
#[derive(Debug)]
pub struct Collector {
    reader: Reader,
    handle: Handle,
}

/// A hand on a collector; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    stats: Arc<Mutex<Stats>>,
    cost: Arc<Mutex<CostSample>>,
    errors: Arc<ErrorLog>,
    control: Option<Control>,
    tracing: Option<Tracing>,
}

impl Config {
    /// Checks the configuration, loads the kernel programs or opens the recording. With the kernel
    /// as its source it takes some 100 to 300 ms, so it must not run on an async worker.
    ///
    /// # Errors
    /// Where a setting is out of its bounds, the kernel refuses, or the recording is none.
    pub fn build(self, append: Arc<dyn Append>) -> Result<Collector, BuildError> {
        self.check()?;
        let mut profiler = None;
        let (mut finder, mut libraries) = (None, Vec::new());
        let (source, control, facts, wall) = match self.source {
            SourceConfig::Kernel { scope, guard, hooks, ring_bytes, object, tls } => {
                let connections_max = self.connections_max;
                let profile = self.profiler.as_ref().map(profiler::Config::kernel);
                let config = kernel::Config {
                    scope,
                    guard,
                    ring_bytes,
                    connections_max,
                    hooks,
                    object,
                    profile,
                    tls,
                };
                let mut kernel = config.build()?;
                let control = kernel.control();
                let interval = self.profiler.map_or(Duration::MAX, |profiler| profiler.interval);
                profiler = kernel.take_profile().map(|source| Profiler::new(source, interval));
                if let Tls::Read(placing) = tls {
                    let mut found = Finder::new(control.clone(), placing);
                    libraries = found.look_at_all();
                    finder = Some(found);
                }
                let wall = kernel::wall_minus_mono_ns();
                (Source::Kernel(Box::new(kernel)), Some(control), FactSource::Proc, wall)
            }
            SourceConfig::Replay { path, pace } => {
                let replayer = Replayer::open(&path)?;
                let wall = replayer.header().wall_minus_mono_ns;
                let replay = Replay::new(replayer, pace);
                let facts = FactSource::Recorded(std::collections::HashMap::new());
                (Source::Replay(Box::new(replay)), None, facts, wall)
            }
        };
        let recorder = match self.recording {
            None => None,
            Some(config) => {
                let header = RecordingHeader { wall_minus_mono_ns: wall, node: self.node.clone() };
                Some(Recorder::create(&config, &header)?)
            }
        };
        let tracing = control.as_ref().map(|control| {
            let clock = Arc::clone(&self.clock);
            let mode = self.redaction.bodies;
            Tracing::new(control.clone(), self.asid, mode, self.programs, clock)
        });
        let mut pipeline = Pipeline::new(Settings {
            node: self.node,
            asid: self.asid,
            redaction: self.redaction,
            body_bytes_max: self.body_bytes_max,
            service_rules: self.service_rules,
            conn_stats_interval: self.conn_stats_interval,
            connections_max: self.connections_max as usize,
            facts,
        });
        pipeline.set_wall_minus_mono_ns(wall);
        if let Some(tracing) = &tracing {
            pipeline.set_tracing(tracing.clone());
        }
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let cost = Arc::new(Mutex::new(CostSample::default()));
        let errors = Arc::<ErrorLog>::default();
        let handle = Handle {
            commands,
            stats: Arc::clone(&stats),
            cost: Arc::clone(&cost),
            errors: Arc::clone(&errors),
            control,
            tracing: tracing.clone(),
        };
        let writer = Writer::new(append);
        let flush_interval = self.flush_interval;
        let reader = Reader::new(
            source,
            TlsSource { finder, libraries },
            pipeline,
            writer,
            recorder,
            profiler,
            tracing,
            receiver,
            stats,
            cost,
            errors,
            flush_interval,
            self.clock,
        );
        Ok(Collector { reader, handle })
    }

    fn check(&self) -> Result<(), BuildError> {
        let setting =
            |name, value: String, bounds: String| Err(BuildError::Setting { name, value, bounds });
        if self.flush_interval > FLUSH_INTERVAL_MAX {
            let bounds = format!("at most {FLUSH_INTERVAL_MAX:?}");
            return setting("flush_interval", format!("{:?}", self.flush_interval), bounds);
        }
        if self.conn_stats_interval < Duration::from_millis(100) {
            let bounds = "at least 100ms".to_owned();
            return setting(
                "conn_stats_interval",
                format!("{:?}", self.conn_stats_interval),
                bounds,
            );
        }
        if self.body_bytes_max > BODY_BYTES_MAX {
            let bounds = format!("at most {BODY_BYTES_MAX} bytes");
            return setting("body_bytes_max", self.body_bytes_max.to_string(), bounds);
        }
        if let Some(profiler) = &self.profiler
            && profiler.interval < profiler::INTERVAL_MIN
        {
            let bounds = format!("at least {:?}", profiler::INTERVAL_MIN);
            return setting("profiler.interval", format!("{:?}", profiler.interval), bounds);
        }
        if self.connections_max == 0 {
            return setting("connections_max", "0".to_owned(), "at least 1".to_owned());
        }
        Ok(())
    }
}

impl Collector {
    /// A hand on it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown` fires, then detaches the probes, drains and returns. A replay that
    /// has come to its end waits for `shutdown` too.
    ///
    /// # Errors
    /// Where the recording that is replayed is damaged, or the thread panics.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let Self { reader, handle } = self;
        let (done, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("undine-collector".to_owned())
            .spawn(move || {
                let result = reader.run();
                if done.send(()).is_err() {
                    tracing::debug!("the collector was dropped before its thread ended");
                }
                result
            })
            .map_err(RunError::Thread)?;
        tokio::select! {
            _ = ended => {}
            () = shutdown.cancelled() => {
                if handle.commands.send(Command::Stop).await.is_err() {
                    tracing::debug!("the collector's thread has ended by itself");
                }
            }
        }
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(RunError::Panicked(panic_text(panic.as_ref()))),
            Err(error) => Err(RunError::Panicked(error.to_string())),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl Handle {
    /// Reads everything that had been sent when it was called, decides everything that waits for
    /// more, and hands all rows to the store. Not a sleep: it returns as soon as the kernel's
    /// attempts are read or counted as dropped. The end of a replay counts as everything.
    ///
    /// # Errors
    /// Where the collector does not run any more.
    pub async fn drain(&self) -> Result<Stats, Stopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Drain(reply)).await;
        if sent.is_err() {
            return Err(Stopped);
        }
        answer.await.or(Err(Stopped))
    }

    /// What it has seen and done, as of the last write.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel programs cost in the last second in which it was measured, about one in
    /// thirty; empty before the first, and in a replay.
    pub fn cost(&self) -> CostSample {
        self.cost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who the processes are that `/proc` shows, in their order, named as in all tables; `None` for
    /// one that is not known yet and of which `seen` does not say what `/proc` says.
    ///
    /// # Errors
    /// Where the collector does not run any more.
    pub async fn identify(&self, seen: Vec<Seen>) -> Result<Vec<Option<Identity>>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Identify(seen, reply)).await;
        if sent.is_err() {
            return Err(Stopped);
        }
        answer.await.or(Err(Stopped))
    }

    /// Where sources of data report their errors, which become rows of `collector_errors`.
    pub const fn errors(&self) -> &Arc<ErrorLog> {
        &self.errors
    }

    /// Watches what `target` names from now on. Nothing happens in a replay.
    ///
    /// # Errors
    /// Where the target is not there, or the scope guard forbids it.
    pub fn add_target(&self, target: &Target) -> Result<(), ControlError> {
        self.control.as_ref().map_or(Ok(()), |control| control.add_target(target, Verdict::Include))
    }

    /// Never watches what `target` names from now on. Nothing happens in a replay.
    ///
    /// # Errors
    /// Where the target is not there.
    pub fn exclude_target(&self, target: &Target) -> Result<(), ControlError> {
        self.control.as_ref().map_or(Ok(()), |control| control.add_target(target, Verdict::Exclude))
    }

    /// Forgets a target. Nothing happens in a replay.
    ///
    /// # Errors
    /// Where the kernel's map cannot be written.
    pub fn remove_target(&self, target: &Target) -> Result<(), ControlError> {
        self.control.as_ref().map_or(Ok(()), |control| control.remove_target(target))
    }

    /// Where scripts have functions traced; `None` in a replay.
    pub fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        let tracing = self.tracing.clone()?;
        Some(Arc::new(tracing))
    }

    /// The running kernel programs; `None` in a replay.
    pub const fn control(&self) -> Option<&Control> {
        self.control.as_ref()
    }
}
