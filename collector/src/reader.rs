//! The collector's thread: reads messages, drives the pipeline, writes rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use undine_ebpf::load::RUNG_PAYLOAD_BYTES;
use undine_schema::tables::{COLLECTOR_ERRORS, CollectorErrors, ProbeStatus};
use undine_schema::trace::TraceState;
use undine_schema::{Clock, TimeNs};

use crate::collector::{RunError, Stats};
use crate::error_log::{ErrorLog, Status};
use crate::event::ProcessKey;
use crate::kernel::{
    self, ConnectionState, Control, CostMeter, CostSample, KernelSource, Outcome, ProbeReport,
};
use crate::loss::KernelTotals;
use crate::pipeline::Pipeline;
use crate::process::{Identity, Seen};
use crate::profile_link::ProfileLink;
use crate::profiler::Profiler;
use crate::recording::{Entry, Recorder, RecordingError};
use crate::replay::{Progress, Replay};
use crate::tcp_health::{self, Reasons};
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
    /// Whether it was told how the programs for traced functions fared, which are loaded late.
    trace_told: bool,
    flush_interval: Duration,
    clock: Arc<dyn Clock>,
    drained: bool,
}

/// What messages go through.
#[derive(Debug)]
struct Work {
    pipeline: Pipeline,
    writer: Writer,
    recorder: Option<Recorder>,
    undecodable: u64,
    errors: Arc<ErrorLog>,
    error_rows: CollectorErrors,
    /// Messages for which the ring had no room, as far as told.
    dropped: u64,
    /// Operations of which the ring got fewer bytes, by rung.
    shed: [u64; 3],
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
        let error_rows = CollectorErrors::new(0);
        let mut work = Work {
            pipeline,
            writer,
            recorder,
            undecodable: 0,
            errors,
            error_rows,
            dropped: 0,
            shed: [0; 3],
        };
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
            self.work.pipeline.stacks(&batch, now);
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
            self.work.pipeline.stacks(&batch, self.clock.now());
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

    fn write_library_status(&mut self, libraries: &[LibraryReport]) {
        if libraries.is_empty() {
            return;
        }
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        let now = self.clock.now();
        for library in libraries {
            let (status, error) = status_of(&library.outcome);
            let functions: serde_json::Map<_, _> = library
                .manners
                .iter()
                .map(|(name, manner)| ((*name).to_owned(), manner.name().into()))
                .collect();
            let info = serde_json::json!({ "functions": functions });
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: "tls",
                tracepoint: &format!("uprobe:{}", library.name),
                status,
                error,
                info: &info.to_string(),
            });
        }
    }

    /// Ends tracepoints whose time is over, and writes how they fare.
    fn write_trace_status(&mut self) {
        let Some(tracing) = &self.tracing else { return };
        let now = self.clock.now();
        let told = tracing.keep_house(now);
        for (name, calls) in told.lost {
            let text = format!("what tracepoint {name} saw is not all told");
            self.work.errors.report("dynamic_trace", Status::Exhausted, &text, calls);
        }
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        for change in told.changes {
            let info = serde_json::json!({
                "state": change.state.name(),
                "table": change.table,
                "expires": change.expires.get(),
                "calls": change.counts.calls,
                "rows": change.counts.rows,
            });
            let is_failure = change.state == TraceState::Failed;
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: "dynamic_trace",
                tracepoint: &change.name,
                status: if is_failure { Status::Unavailable as i64 } else { 0 },
                error: if is_failure { &change.reason } else { "" },
                info: &info.to_string(),
            });
        }
    }

    /// Writes how each probe fared, and what it costs where that was measured.
    fn write_probe_status(&mut self, cost: Option<&CostSample>) {
        let Source::Kernel(kernel) = &self.source else { return };
        let control = kernel.control();
        self.write_probes(control.probes(), cost);
        if self.trace_told {
            self.write_probes(&control.trace_reports(), cost);
        }
    }

    /// Writes how the programs for traced functions fared, once they are loaded.
    fn write_trace_programs(&mut self) {
        let Source::Kernel(kernel) = &self.source else { return };
        if !self.trace_told {
            let reports = kernel.control().trace_reports();
            self.write_probes(&reports, None);
            self.trace_told = !reports.is_empty();
        }
    }

    fn write_probes(&mut self, probes: &[ProbeReport], cost: Option<&CostSample>) {
        let upid = own_process().map(|own| self.work.pipeline.upid(own)).unwrap_or_default();
        let now = self.clock.now();
        for probe in probes {
            let (status, why) = status_of(&probe.outcome);
            let error = match (why, probe.remedy.as_str()) {
                ("", _) => String::new(),
                (why, "") => why.to_owned(),
                (why, remedy) => format!("{why}; {remedy}"),
            };
            let kind = match status {
                0 => None,
                7 => Some(Status::Denied),
                10 => Some(Status::Unavailable),
                _ => Some(Status::System),
            };
            if cost.is_none()
                && let Some(kind) = kind
            {
                let text = format!("{} is not attached: {error}", probe.attach_point);
                self.work.errors.report(source_of(probe), kind, &text, 1);
            }
            let info = probe_info(probe, cost, self.work.shed);
            self.work.pipeline.probe_status(&ProbeStatus {
                time_: now,
                upid,
                source_connector: source_of(probe),
                tracepoint: &probe.attach_point,
                status,
                error: &error,
                info: &info.to_string(),
            });
        }
    }
}

/// How `probe_status` says how a probe fared: gRPC's number, and why.
fn status_of(outcome: &Outcome) -> (i64, &str) {
    match outcome {
        Outcome::Attached | Outcome::Standby => (0, ""),
        Outcome::Denied(why) => (7, why),
        Outcome::Missing(why) => (10, why),
        Outcome::Refused(why) => (12, why),
    }
}

impl Work {
    fn message(&mut self, message: &[u8]) {
        if let Err(error) = self.pipeline.message(message) {
            let text = format!("a kernel message cannot be decoded: {error}");
            self.errors.report("sockets", Status::Internal, &text, 1);
            self.undecodable += 1;
            if self.undecodable.is_power_of_two() {
                let count = self.undecodable;
                tracing::error!(%error, count, "a kernel message cannot be decoded");
            }
        }
        if self.recorder.is_some() {
            for (key, facts) in self.pipeline.take_fresh_facts() {
                self.record(|recorder| recorder.process(key, &facts));
            }
            self.record(|recorder| recorder.message(message));
        }
    }

    /// Reads the kernel's counters, and which connections ended without a message.
    fn kernel(&mut self, control: &Control, mono_now: u64) {
        if let Some(counters) = told(control.counters()) {
            let totals = KernelTotals {
                attempts: counters.attempts,
                dropped: counters.dropped,
                dropped_bytes: counters.dropped_bytes,
                dropped_operations: counters.dropped_operations,
                operations: counters.operations,
                operation_bytes: counters.operation_bytes,
                dropped_datagrams: counters.dropped_datagrams,
                dropped_datagram_bytes: counters.dropped_datagram_bytes,
                untold_tcp_events: counters.untold_tcp_events,
                shed_operations: counters.shed_operations,
                shed_bytes: counters.shed_bytes,
                unadmitted_operations: counters.unadmitted_operations,
                unadmitted_bytes: counters.unadmitted_bytes,
            };
            self.pipeline.kernel(totals);
            self.record(|recorder| recorder.kernel(&totals));
            self.shed = totals.shed_operations;
            let dropped = totals.dropped.saturating_sub(self.dropped);
            self.dropped = totals.dropped;
            let text = "the ring had no room for messages; data_loss says what is missing";
            self.errors.report("sockets", Status::Exhausted, text, dropped);
        }
        for ConnectionState { conn, totals, .. } in told(control.take_closed()).unwrap_or_default()
        {
            self.pipeline.closed(conn, &totals, 0);
        }
        for (key, untold) in told(control.take_untold()).unwrap_or_default() {
            // As a message of its own, so that it is recorded as others are.
            if let Some(message) = tcp_health::message_of(&key, &untold, mono_now) {
                self.message(&message);
            }
        }
    }

    fn write(&mut self, now: TimeNs) {
        let mut batches = self.pipeline.take_rows(now);
        if !self.error_rows.is_empty() {
            batches.push((&COLLECTOR_ERRORS, self.error_rows.finish()));
        }
        let (pipeline, errors) = (&mut self.pipeline, &self.errors);
        self.writer.write(batches, &mut |refused| {
            let text = format!("rows of {} were not stored: {}", refused.table, refused.reason);
            errors.report("store", Status::Exhausted, &text, refused.rows);
            pipeline.refused(refused.table, refused.reason, refused.rows);
        });
        if self.recorder.is_none() {
            // Only a recording wants them.
            self.pipeline.take_fresh_facts();
        }
    }

    /// Writes the errors that may be rows now; all of them where nothing follows.
    fn write_errors(&mut self, now: TimeNs, is_last: bool) {
        let upid = own_process().map(|own| self.pipeline.upid(own)).unwrap_or_default();
        let origin = (upid, self.pipeline.node());
        self.errors.write(&mut self.error_rows, now, origin, is_last);
    }

    fn give_up(&mut self) {
        let pipeline = &mut self.pipeline;
        self.writer.give_up(&mut |refused| {
            pipeline.refused(refused.table, refused.reason, refused.rows);
        });
    }

    /// Says what the recording lacks.
    fn tell_left_out(&self) {
        let bytes = self.recorder.as_ref().map_or(0, Recorder::left_out_bytes);
        if bytes > 0 {
            tracing::warn!(bytes, "the recording leaves out what may be content for all it knows");
        }
    }

    fn record(&mut self, act: impl FnOnce(&mut Recorder) -> Result<(), RecordingError>) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = act(recorder) {
            tracing::warn!(%error, "the recording ends here; capture goes on");
            let text = format!("the recording ends here: {error}");
            self.errors.report("recording", Status::System, &text, 1);
            self.recorder = None;
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

/// What `probe_status.info` says of a probe.
fn probe_info(probe: &ProbeReport, cost: Option<&CostSample>, shed: [u64; 3]) -> serde_json::Value {
    let standby = matches!(probe.outcome, Outcome::Standby);
    let mut info = serde_json::json!({ "program": probe.probe, "standby": standby });
    // Of all hooks together, since they share the ring.
    if probe.moves_bytes() && shed != [0; 3] {
        let rungs = RUNG_PAYLOAD_BYTES.iter().zip(shed);
        let cut = rungs.map(|(bytes, operations)| (bytes.to_string(), operations.into()));
        info["operations_cut_to_bytes"] = cut.collect::<serde_json::Map<_, _>>().into();
    }
    if let Some(sample) = cost
        && let Some(cost) = sample.programs.get(probe.probe)
    {
        info["runs_per_second"] = sample.runs_per_second(cost).into();
        info["run_ns"] = cost.run_ns().into();
        info["cpu_ppm"] = sample.cpu_ppm(cost).into();
    }
    info
}

/// Which part of the collector wants a probe.
fn source_of(probe: &ProbeReport) -> &'static str {
    match probe.attach_point.split_once(':') {
        Some(("perf_event", _)) => "profiler",
        Some(("uprobe", name)) if name.starts_with("trace_") => "dynamic_trace",
        Some(("uprobe", _)) => "tls",
        _ => "sockets",
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
