//! The collector's thread: reads messages, drives the pipeline, writes rows.

mod work;
mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use undine_schema::Clock;

use self::work::Work;
use crate::collector::{RunError, Stats};
use crate::error_log::ErrorLog;
use crate::event::ProcessKey;
use crate::kernel::{self, CostMeter, CostSample, KernelSource};
use crate::pipeline::Pipeline;
use crate::process::{Identity, Seen};
use crate::profile_link::ProfileLink;
use crate::profiler::Profiler;
use crate::recording::{Entry, Recorder, RecordingError};
use crate::replay::{Progress, Replay};
use crate::tcp_health::Reasons;
use crate::tls::LibraryReport;
use crate::tls::finder::{Finder, FinderThread};
use crate::trace::Tracing;
use crate::writer::Writer;

/// How long the thread waits at a time for what is not in the ring.
const POLL_WAIT: Duration = Duration::from_millis(2);
/// How old a message may get before it is read, unless the ring fills first, at which the kernel
/// programs wake the thread. Each look costs the servers that share its CPU a part of their caches;
/// rows wait longer than this to be written.
const MESSAGE_AGE_MAX: Duration = Duration::from_millis(10);
/// How often losses are written, the kernel's counters read and the wall clock compared.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// Rows that are written without waiting for the interval.
const BATCH_ROWS_MAX: usize = 8192;
/// Longest time that a drain reads.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Entries of a recording that are read between two looks at the clock.
const REPLAY_ENTRIES: usize = 1024;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Drain(oneshot::Sender<Stats>),
    Identify(Vec<Seen>, oneshot::Sender<Vec<Option<Identity>>>),
    Stop,
}

/// Where messages come from.
#[derive(Debug)]
pub(crate) enum Source {
    Kernel(Box<KernelSource>),
    Replay(Box<Replay>),
    /// A replay that has come to its end.
    Ended,
}

/// What looks for TLS libraries, and what it found before there was anything to read.
#[derive(Debug)]
pub(crate) struct TlsSource {
    pub(crate) finder: Option<Finder>,
    pub(crate) libraries: Vec<LibraryReport>,
}

#[derive(Debug)]
pub(crate) struct Reader {
    source: Source,
    tls: TlsSource,
    finder: Option<FinderThread>,
    work: Work,
    profiler: Option<Profiler>,
    profile: Option<ProfileLink>,
    tracing: Option<Tracing>,
    commands: mpsc::Receiver<Command>,
    stats: Arc<Mutex<Stats>>,
    cost: Arc<Mutex<CostSample>>,
    meter: CostMeter,
    /// How often the kernel left programs out, as far as told.
    skipped_runs: BTreeMap<String, u64>,
    /// Whether it was told how the programs for traced functions fared, which are loaded late.
    trace_told: bool,
    flush_interval: Duration,
    clock: Arc<dyn Clock>,
    drained: bool,
}

impl Reader {
    #[expect(clippy::too_many_arguments, reason = "called in one place, by `Config::build`")]
    pub(crate) fn new(
        source: Source,
        tls: TlsSource,
        pipeline: Pipeline,
        writer: Writer,
        recorder: Option<Recorder>,
        profiler: Option<Profiler>,
        tracing: Option<Tracing>,
        commands: mpsc::Receiver<Command>,
        stats: Arc<Mutex<Stats>>,
        cost: Arc<Mutex<CostSample>>,
        errors: Arc<ErrorLog>,
        flush_interval: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut work = Work::new(pipeline, writer, recorder, errors);
        if let Source::Kernel(kernel) = &source {
            work.pipeline.set_tcp_reasons(Reasons::of(kernel.control().reason_names()));
        }
        Self {
            source,
            tls,
            finder: None,
            work,
            profiler,
            profile: None,
            tracing,
            commands,
            stats,
            cost,
            meter: CostMeter::default(),
            skipped_runs: BTreeMap::new(),
            trace_told: false,
            flush_interval,
            clock,
            drained: false,
        }
    }

    pub(crate) fn run(mut self) -> Result<(), RunError> {
        if matches!(self.source, Source::Kernel(_)) {
            kernel::do_not_interrupt();
        }
        self.write_probe_status(None);
        self.profile =
            self.profiler.take().map(ProfileLink::start).transpose().map_err(RunError::Thread)?;
        self.start_finder();
        let mut flushed = Instant::now();
        let mut kept_house = Instant::now();
        let result = loop {
            match self.commands.try_recv() {
                Ok(Command::Drain(reply)) => {
                    let stats = self.drain();
                    if reply.send(stats).is_err() {
                        tracing::debug!("nobody waits for the drain any more");
                    }
                }
                Ok(Command::Identify(seen, reply)) => {
                    if reply.send(self.work.pipeline.identify(seen)).is_err() {
                        tracing::debug!("nobody waits for the identities any more");
                    }
                }
                Ok(Command::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => break Ok(()),
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
            if let Err(error) = self.read() {
                break Err(RunError::Replay(error));
            }
            self.take_stacks();
            if kept_house.elapsed() >= HOUSEKEEPING_INTERVAL {
                kept_house = Instant::now();
                self.keep_house();
            }
            let full = self.work.pipeline.rows_waiting() >= BATCH_ROWS_MAX;
            if full || flushed.elapsed() >= self.flush_interval {
                flushed = Instant::now();
                self.flush();
            }
        };
        // What came up since it was done last is told too.
        self.keep_house();
        if let Some(finder) = self.finder.take() {
            finder.stop();
        }
        if let Source::Kernel(kernel) = &self.source {
            kernel.control().detach();
        }
        if let Some(tracing) = &self.tracing {
            tracing.end_programs();
        }
        self.drain();
        if let Some(profile) = self.profile.take() {
            profile.stop();
        }
        self.work.write_errors(self.clock.now(), true);
        self.flush();
        self.work.tell_left_out();
        self.work.give_up();
        self.publish();
        result
    }

    /// Reads what there is, or waits a little.
    fn read(&mut self) -> Result<(), RecordingError> {
        match &mut self.source {
            Source::Kernel(kernel) => {
                let work = &mut self.work;
                let before = mono_now(self.clock.as_ref());
                let outcome = kernel.poll(MESSAGE_AGE_MAX, &mut |message| work.message(message));
                if outcome.messages == 0 {
                    // Whatever was sent before the poll would have been read.
                    work.pipeline.advance(before);
                }
                for what in work.pipeline.take_processes_to_look_at() {
                    if let Some(finder) = &self.finder {
                        finder.look_at(what);
                    }
                }
                Ok(())
            }
            Source::Replay(replay) => {
                let (pipeline, recorder) = (&mut self.work.pipeline, &mut self.work.recorder);
                let mut wall = replay.wall_minus_mono_ns(self.clock.now().get());
                for _ in 0..REPLAY_ENTRIES {
                    let progress = replay.step(&mut |entry| {
                        pipeline.set_wall_minus_mono_ns(wall);
                        replayed(pipeline, recorder, entry);
                    });
                    wall = replay.wall_minus_mono_ns(self.clock.now().get());
                    match progress {
                        Ok(Progress::Entry) => {}
                        Ok(Progress::Wait(wait)) => {
                            if let Some(now) = replay.mono_now() {
                                pipeline.advance(now);
                            }
                            std::thread::sleep(wait.min(POLL_WAIT));
                            return Ok(());
                        }
                        Ok(Progress::End) => {
                            self.source = Source::Ended;
                            self.settle();
                            return Ok(());
                        }
                        Err(error) => {
                            self.source = Source::Ended;
                            return Err(error);
                        }
                    }
                }
                Ok(())
            }
            Source::Ended => {
                std::thread::sleep(POLL_WAIT);
                Ok(())
            }
        }
    }

    /// Takes what the profiler has handed over.
    fn take_stacks(&mut self) {
        let now = self.clock.now();
        let Some(profile) = &self.profile else { return };
        while let Some(batch) = profile.next(Duration::ZERO) {
            self.work.stacks(&batch, now);
        }
    }

    /// Takes all that was sampled before now. Gives whether that was possible in time.
    fn drain_stacks(&mut self) -> bool {
        let Some(profile) = &mut self.profile else { return true };
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        let asked = profile.flush();
        while Instant::now() < deadline {
            let Some(batch) = profile.next(POLL_WAIT) else {
                if profile.has_ended() {
                    return false;
                }
                // Meanwhile the ring must not fill.
                if let Source::Kernel(kernel) = &mut self.source {
                    let work = &mut self.work;
                    kernel.poll(Duration::ZERO, &mut |message| work.message(message));
                }
                continue;
            };
            self.work.stacks(&batch, self.clock.now());
            if batch.answers.is_some_and(|answered| answered >= asked) {
                return true;
            }
        }
        false
    }

    /// Reads all that was sent before now, and decides and writes everything.
    fn drain(&mut self) -> Stats {
        self.drained = self.drain_stacks();
        let began = Instant::now();
        if let Source::Kernel(kernel) = &mut self.source {
            let control = kernel.control();
            let open = told(control.connections()).unwrap_or_default();
            let target = told(control.counters()).map_or(0, |counters| counters.attempts);
            let work = &mut self.work;
            loop {
                let dropped =
                    told(control.counters()).map_or(u64::MAX, |counters| counters.dropped);
                if kernel.consumed().saturating_add(dropped) >= target {
                    break;
                }
                if began.elapsed() >= DRAIN_TIME_MAX {
                    self.drained = false;
                    break;
                }
                kernel.poll(Duration::from_millis(1), &mut |message| work.message(message));
            }
            work.kernel(&control, mono_now(self.clock.as_ref()));
            work.pipeline.settle();
            for connection in &open {
                work.pipeline.reconcile(connection.conn, &connection.totals);
            }
            self.tell_skipped_runs(&control);
        } else {
            while matches!(self.source, Source::Replay(_)) && began.elapsed() < DRAIN_TIME_MAX {
                if let Err(error) = self.read() {
                    tracing::error!(%error, "the recording cannot be read to its end");
                }
            }
            self.drained = matches!(self.source, Source::Ended);
        }
        self.settle()
    }

    /// Decides and writes everything, because no message is on its way.
    fn settle(&mut self) -> Stats {
        let now = self.clock.now();
        self.work.pipeline.settle();
        self.work.pipeline.write_losses(now, true);
        self.work.write_errors(now, false);
        self.work.record(Recorder::flush);
        self.flush()
    }

    fn flush(&mut self) -> Stats {
        self.work.write(self.clock.now());
        self.publish()
    }

    fn publish(&self) -> Stats {
        let pipeline = &self.work.pipeline;
        let consumed = match &self.source {
            Source::Kernel(kernel) => kernel.consumed(),
            Source::Replay(_) | Source::Ended => pipeline.counts().messages,
        };
        let stats = Stats {
            kernel: *pipeline.kernel_totals(),
            consumed,
            pipeline: pipeline.counts(),
            profile: *pipeline.profile_counts(),
            rows: pipeline.row_counts(),
            refused_rows: self.work.writer.refused_rows(),
            missing_rows: pipeline.missing_rows(),
            drained: self.drained,
            ended: matches!(self.source, Source::Ended),
        };
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        stats
    }

    fn keep_house(&mut self) {
        if let Some(ended) = self.profile.take_if(|profile| profile.has_ended()) {
            ended.stop();
        }
        if let Source::Kernel(kernel) = &self.source {
            self.work.pipeline.set_wall_minus_mono_ns(kernel::wall_minus_mono_ns());
            let control = kernel.control();
            self.work.kernel(&control, mono_now(self.clock.as_ref()));
            if let Some(sample) = self.meter.tick(&control) {
                self.tell_skipped_runs(&control);
                self.write_probe_status(Some(&sample));
                *self.cost.lock().unwrap_or_else(PoisonError::into_inner) = sample;
            }
        }
        let found = self.finder.as_ref().map(FinderThread::take_reports).unwrap_or_default();
        self.write_library_status(&found);
        self.write_trace_programs();
        self.write_trace_status();
        self.work.pipeline.write_losses(self.clock.now(), false);
        self.work.write_errors(self.clock.now(), false);
    }

    /// Starts to look for TLS libraries of programs that start later.
    fn start_finder(&mut self) {
        let found = std::mem::take(&mut self.tls.libraries);
        self.write_library_status(&found);
        let Some(finder) = self.tls.finder.take() else { return };
        match FinderThread::start(finder) {
            Ok(thread) => self.finder = Some(thread),
            Err(error) => {
                tracing::error!(%error, "TLS libraries of programs that start later are not read");
            }
        }
    }
}

fn replayed(pipeline: &mut Pipeline, recorder: &mut Option<Recorder>, entry: Entry<'_>) {
    let recorded = recorder.as_mut().map_or(Ok(()), |recorder| match &entry {
        Entry::Message(message) => recorder.message(message),
        Entry::Process(key, facts) => recorder.process(*key, facts),
        Entry::Kernel(totals) => recorder.kernel(totals),
    });
    if let Err(error) = recorded {
        tracing::warn!(%error, "the recording ends here; the replay goes on");
        *recorder = None;
    }
    match entry {
        Entry::Message(message) => {
            if let Err(error) = pipeline.message(message) {
                tracing::warn!(%error, "a recorded message cannot be decoded");
            }
        }
        Entry::Process(key, facts) => pipeline.recorded_facts(key, facts),
        Entry::Kernel(totals) => pipeline.kernel(totals),
    }
}

/// The value, or a line in the log.
fn told<T, E: std::error::Error>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(%error, "the kernel side does not answer")).ok()
}

/// The monotonic clock, in nanoseconds.
fn mono_now(clock: &dyn Clock) -> u64 {
    let mono = clock.now().get().saturating_sub(kernel::wall_minus_mono_ns());
    u64::try_from(mono).unwrap_or(0)
}

/// This process as messages name processes.
fn own_process() -> Option<ProcessKey> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks: u64 = stat.rsplit(')').next()?.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(ProcessKey { tgid: std::process::id(), start_ns: ticks * 10_000_000 })
}
