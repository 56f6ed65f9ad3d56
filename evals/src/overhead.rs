//! What watching costs: the server, calls that have nothing to do with sockets, and the collector.
//!
//! Windows without and with capture alternate in one run, and of each kind the best counts, since
//! other work on the machine only ever makes a window dearer. Beside the hooks that Undine uses stand
//! those that see the end of every system call, which is how such tools usually watch.
//!
//! Server, client and collector share the machine's CPUs, so what a request costs the server more is
//! not what the programs take alone. Two more kinds of windows tell the parts apart:
//!
//! | part | figure |
//! |---|---|
//! | any program on these hooks, though it does nothing | `empty` − `unwatched` |
//! | and copies what moved into a ring | `copy_only` − `unwatched` |
//! | the programs, with the kernel's own clock around them | `programs_us` = runs × time of a run |
//! | and what they do to the server's caches, with the ring | `unread` − `unwatched` |
//! | a reader that wakes up and takes messages | `discarded` − `unread` |
//! | parsing on the same CPUs | `watched` − `discarded` |
//!
//! The first two are the floor: what the kernel takes for running a program there at all, and for
//! what no capture can do without. They say how much of the targets this machine leaves. Since a
//! request of a server on a busy machine takes now more, now less, the same is also measured for an
//! exchange of two messages within one thread, whose best of many short rows hardly varies.

mod cpu;
mod exchange;
mod floor;

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use undine_collector::kernel::{CostSample, Floor, FloorWork};
use undine_collector::{
    Cgroup, Hooks, Object, Scope, ScopeDefault, ScopeGuard, Target, Tls, kernel,
};

use crate::nginx::{ADDRESS, AccessLog, Nginx, Sendfile, Serving};
use crate::report::Report;
use crate::require_scope;
use crate::stage::RunningStore;
use crate::watch::Watch;
use cpu::{Cpu, calls};
use undine_testbed::{Place, find, succeed};

/// What a request may cost the server more, in microseconds.
const REQUEST_COST_US_MAX: f64 = 0.4;
/// What a call that has nothing to do with sockets may cost more, in nanoseconds.
const CALL_COST_NS_MAX: f64 = 5.0;
/// CPU time of the collector's thread for each request, in microseconds: 15 % of a core at 100,000
/// requests a second.
const COLLECTOR_COST_US_MAX: f64 = 1.5;
/// Requests a second that must be captured without loss.
const RATE_MIN: f64 = 120_000.0;
/// Connections of the client, which sends on each at once.
const CONNECTIONS: u32 = 16;
/// The ring's size unless the user says otherwise.
const RING_BYTES: u32 = 16 << 20;
/// A ring that holds twice a window's messages.
const UNREAD_RING_BYTES: u32 = 128 << 20;
/// How long a reader that parses nothing waits for messages at a time.
const READ_WAIT: Duration = Duration::from_millis(2);
/// Requests that are on the way on a connection where a rate is measured.
const PIPELINED: u32 = 16;
/// What is asked for where a request's cost is measured: a small file.
const FILE: &str = "/file/600";
/// The same where a rate is: what costs the server least, so that the rate is not its own.
const EMPTY: &str = "/empty";

/// How a window is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watching {
    Nothing,
    /// By programs that see whom an operation concerns, and do nothing.
    Empty,
    /// By programs that only copy into a ring, which nobody reads.
    CopyOnly,
    /// The programs run and nobody reads what they send.
    Unread,
    /// It is read and thrown away.
    Discarded,
    /// As Undine does where it can.
    SocketLength,
    /// At the end of every system call.
    SysExit,
}

impl Watching {
    const ALL: [Self; 7] = [
        Self::Nothing,
        Self::SocketLength,
        Self::SysExit,
        Self::Unread,
        Self::Discarded,
        Self::Empty,
        Self::CopyOnly,
    ];
    /// Those whose rates are compared.
    const RATES: [Self; 3] = [Self::Nothing, Self::SocketLength, Self::SysExit];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "unwatched",
            Self::Empty => "empty",
            Self::CopyOnly => "copy_only",
            Self::Unread => "unread",
            Self::Discarded => "discarded",
            Self::SocketLength => "watched",
            Self::SysExit => "classic",
        }
    }
}

/// What a window showed.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// CPU time of the server for each request.
    server_us: f64,
    /// CPU time of the collector's thread for each request.
    collector_us: f64,
    requests_per_s: f64,
    /// Runs of programs and time in them for each request; only of windows without a collector.
    runs: f64,
    programs_us: f64,
    /// A call in a process that is not watched, and in one that is.
    call_outside_ns: f64,
    call_inside_ns: f64,
    /// An exchange of two messages in a process that is watched; only of windows without a collector.
    exchange_ns: f64,
    rows: u64,
    lost: u64,
    requests: u64,
}

/// Measures `windows` of each kind, of so many requests, of which the best counts.
pub(crate) fn run(windows: u32, requests: u32) -> Result<Report> {
    require_scope()?;
    ensure!(find("h2load").is_some(), "h2load is not installed; apt-get install nghttp2-client");
    let mut report = Report::new("overhead");
    // What else the machine does, without which the figures cannot be judged.
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().context("an empty loadavg")?.parse()?;
    report.figure("load_average_before", load);
    let bench = Bench::set()?;
    for (load, pipelined) in [("request", 1), ("pipelined", PIPELINED)] {
        let kinds = if pipelined == 1 { &Watching::ALL[..] } else { &Watching::RATES };
        let mut best = vec![Window::default(); kinds.len()];
        for round in 0..windows {
            for (best, watching) in best.iter_mut().zip(kinds) {
                let window = bench.window(*watching, requests, pipelined)?;
                *best = if round == 0 { window } else { best.better(&window) };
            }
        }
        judge(&mut report, load, kinds, &best);
    }
    Ok(report)
}

fn judge(report: &mut Report, load: &str, kinds: &[Watching], best: &[Window]) {
    let [unwatched, watched, classic, parts @ ..] = best else { return };
    for (watching, window) in kinds.iter().zip(best) {
        let name = watching.name();
        report.figure(format!("{load}_server_{name}_us"), window.server_us);
        report.figure(format!("{load}_{name}_requests_per_s"), window.requests_per_s);
        if window.runs > 0.0 {
            report.figure(format!("{load}_{name}_program_runs"), window.runs);
            report.figure(format!("{load}_{name}_programs_us"), window.programs_us);
            continue;
        }
        report.figure(format!("{load}_call_outside_{name}_ns"), window.call_outside_ns);
        report.figure(format!("{load}_call_inside_{name}_ns"), window.call_inside_ns);
        if *watching != Watching::Nothing {
            report.figure(format!("{load}_collector_{name}_us"), window.collector_us);
            report.same(format!("{load}, {name}: rows = requests"), window.rows, window.requests);
            report.same(format!("{load}, {name}: messages lost"), window.lost, 0);
        }
    }
    let more = |window: &Window| window.server_us - unwatched.server_us;
    report.figure(format!("{load}_cost_us"), more(watched));
    report.figure(format!("{load}_cost_classic_us"), more(classic));
    if let [unread, discarded, floor @ ..] = parts {
        floor::judge(report, unwatched, watched, unread, floor);
        report.figure(format!("{load}_cost_of_programs_and_ring_us"), more(unread));
        report.figure(format!("{load}_cost_of_reading_us"), discarded.server_us - unread.server_us);
        let parsing = watched.server_us - discarded.server_us;
        report.figure(format!("{load}_cost_of_parsing_us"), parsing);
    }
    if load == "pipelined" {
        let rate = watched.requests_per_s;
        let name = "requests a second captured without loss, pipelined";
        report.check(name, rate.round(), format!(">= {RATE_MIN}"), rate >= RATE_MIN);
        return;
    }
    let limits = [
        ("a request costs the server more, in us", more(watched), REQUEST_COST_US_MAX),
        (
            "a call of a process that is not watched costs more, in ns",
            watched.call_outside_ns - unwatched.call_outside_ns,
            CALL_COST_NS_MAX,
        ),
        (
            "a call of a watched process that is not of a socket costs more, in ns",
            watched.call_inside_ns - unwatched.call_inside_ns,
            CALL_COST_NS_MAX,
        ),
        (
            "the collector's thread for a request, in us",
            watched.collector_us,
            COLLECTOR_COST_US_MAX,
        ),
    ];
    for (name, value, most) in limits {
        report.check(name, format!("{value:.3}"), format!("<= {most}"), value <= most);
    }
}

impl Window {
    /// With what the programs cost while `requests` were sent.
    fn with_cost(self, cost: &CostSample, requests: u32) -> Self {
        let (mut runs, mut time) = (0, Duration::ZERO);
        for program in cost.programs.values() {
            runs += program.runs;
            time += program.time;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let runs = runs as f64 / f64::from(requests);
        Self { runs, programs_us: time.as_secs_f64() * 1e6 / f64::from(requests), ..self }
    }

    /// The best of both in each respect; what was lost in either.
    fn better(&self, other: &Self) -> Self {
        Self {
            server_us: self.server_us.min(other.server_us),
            collector_us: self.collector_us.min(other.collector_us),
            requests_per_s: self.requests_per_s.max(other.requests_per_s),
            runs: self.runs.min(other.runs),
            programs_us: self.programs_us.min(other.programs_us),
            call_outside_ns: self.call_outside_ns.min(other.call_outside_ns),
            call_inside_ns: self.call_inside_ns.min(other.call_inside_ns),
            exchange_ns: self.exchange_ns.min(other.exchange_ns),
            rows: self.rows + other.rows,
            lost: self.lost + other.lost,
            requests: self.requests + other.requests,
        }
    }
}

/// A server, and somewhere that is never watched.
struct Bench {
    nginx: Nginx,
    place: Place,
    outside: Cgroup,
    dir: tempfile::TempDir,
}

impl Bench {
    fn set() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let place = Place::new("undine-evals")?;
        let outside = Cgroup::create("undine-evals-outside")?;
        let serving = Serving { sendfile: Sendfile::Off, log: AccessLog::Off };
        let nginx = Nginx::start(&place, dir.path(), serving)?;
        let bench = Self { nginx, place, outside, dir };
        // So that the first window has no page cache or connection table to fill.
        bench.load(1000, 1)?;
        Ok(bench)
    }

    /// Sends so many requests; how long that took.
    fn load(&self, requests: u32, pipelined: u32) -> Result<Duration> {
        // The client is not watched, so that only the server's end is paid for.
        let mut load = self.place.command_in(&self.outside, "h2load");
        let path = if pipelined == 1 { FILE } else { EMPTY };
        load.args(["--h1", "-t1", "-n", &requests.to_string(), "-c", &CONNECTIONS.to_string()]);
        load.args(["-m", &pipelined.to_string(), &format!("http://{ADDRESS}{path}")]);
        let start = Instant::now();
        let told = succeed(&mut load)?;
        ensure!(told.contains(&format!(" {requests} succeeded")), "h2load says {told}");
        // It says itself how long it sent, without its own start and end.
        let seconds = told.lines().find_map(|line| {
            let took = line.strip_prefix("finished in ")?.split_once(',')?.0;
            let (number, unit) = took.split_at(took.find(|c: char| c.is_ascii_alphabetic())?);
            let scale = match unit {
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                _ => return None,
            };
            Some(number.parse::<f64>().ok()? * scale)
        });
        Ok(seconds.map_or_else(|| start.elapsed(), Duration::from_secs_f64))
    }

    fn window(&self, watching: Watching, requests: u32, pipelined: u32) -> Result<Window> {
        let hooks = match watching {
            Watching::Nothing => {
                let exchange_ns = self.exchange_ns()?;
                return Ok(Window { exchange_ns, ..self.measure(requests, pipelined)? });
            }
            Watching::Unread | Watching::Discarded => {
                return self.without_collector(watching, requests, pipelined);
            }
            Watching::Empty => return self.floor(FloorWork::Nothing, requests, pipelined),
            Watching::CopyOnly => return self.floor(FloorWork::Copy, requests, pipelined),
            Watching::SocketLength => Hooks::SocketLength,
            Watching::SysExit => Hooks::SysExit,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let data = tempfile::tempdir_in(self.dir.path())?;
        let running = {
            let _entered = runtime.enter();
            RunningStore::open(data.path(), 1 << 30)?
        };
        // As it is by default: in a ring that is larger than the caches, each message costs more.
        let watch = Watch { hooks: Some(hooks), ring_bytes: RING_BYTES, ..Watch::roomy() };
        let append = std::sync::Arc::new(running.store.clone());
        let collector = watch.config(&self.place.cgroup).build(append)?;
        let handle = collector.handle();
        let shutdown = CancellationToken::new();
        let mut capture = JoinSet::new();
        capture.spawn_on(collector.run(shutdown.clone()), runtime.handle());
        let before = runtime.block_on(handle.drain())?;
        let cpu = Cpu::of_thread("undine-collector")?;
        let measured = self.measure(requests, pipelined);
        let stats = runtime.block_on(handle.drain())?;
        let collector_us = cpu.used()?.as_secs_f64() * 1e6 / f64::from(requests);
        shutdown.cancel();
        runtime.block_on(capture.join_next()).context("the collector was not run")???;
        runtime.block_on(running.close());
        ensure!(stats.drained, "the collector could not read everything");
        Ok(Window {
            collector_us,
            rows: stats.rows.http_events - before.rows.http_events,
            lost: stats.kernel.dropped,
            ..measured?
        })
    }

    /// A window in which messages are not parsed.
    fn without_collector(
        &self,
        watching: Watching,
        requests: u32,
        pipelined: u32,
    ) -> Result<Window> {
        let unread = watching == Watching::Unread;
        let scope = Scope {
            default: ScopeDefault::TargetsOnly,
            include: vec![Target::Cgroup(self.place.cgroup.path().to_path_buf())],
            exclude: Vec::new(),
        };
        let config = kernel::Config {
            scope,
            guard: ScopeGuard::Required,
            // Unread, it has to hold everything.
            ring_bytes: if unread { UNREAD_RING_BYTES } else { RING_BYTES },
            connections_max: 128 * 1024,
            hooks: Some(Hooks::SocketLength),
            object: Object::Fitting,
            profile: None,
            tls: Tls::Leave,
        };
        let mut source = config.build()?;
        let control = source.control();
        let ended = AtomicBool::new(false);
        let window = std::thread::scope(|scope| {
            if !unread {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        source.poll(READ_WAIT, &mut |_| {});
                    }
                });
            }
            let measured = self.measure(requests, pipelined);
            let exchange_ns = self.exchange_ns();
            // Once more for the programs' own time, since counting it costs them some.
            let counted = control.cost_during(|| self.load(requests, pipelined));
            ended.store(true, Ordering::Relaxed);
            let (cost, loaded) = counted?;
            loaded?;
            let measured = Window { exchange_ns: exchange_ns?, ..measured? };
            anyhow::Ok(measured.with_cost(&cost, requests))
        })?;
        let dropped = control.counters()?.dropped;
        ensure!(dropped == 0, "{dropped} messages found no room; take fewer requests");
        Ok(window)
    }

    /// A window with programs that do the least.
    fn floor(&self, work: FloorWork, requests: u32, pipelined: u32) -> Result<Window> {
        let mut floor = Floor::build(work, &self.place.cgroup, UNREAD_RING_BYTES)?;
        let measured = self.measure(requests, pipelined)?;
        let copies = floor.take_copies();
        let exchange_ns = self.exchange_ns()?;
        floor.take_copies();
        let (cost, loaded) = floor.cost_during(|| self.load(requests, pipelined))?;
        loaded?;
        let expected = if work == FloorWork::Copy { 2 * u64::from(requests) } else { 0 };
        ensure!(copies >= expected, "of {expected} operations {copies} were copied");
        Ok(Window { exchange_ns, ..measured }.with_cost(&cost, requests))
    }

    fn measure(&self, requests: u32, pipelined: u32) -> Result<Window> {
        let cpu = Cpu::of_process(self.nginx.id())?;
        let took = self.load(requests, pipelined)?;
        let server = cpu.used()?;
        Ok(Window {
            server_us: server.as_secs_f64() * 1e6 / f64::from(requests),
            requests_per_s: f64::from(requests) / took.as_secs_f64(),
            call_outside_ns: self.call_ns(&self.outside)?,
            call_inside_ns: self.call_ns(&self.place.cgroup)?,
            requests: requests.into(),
            ..Window::default()
        })
    }

    /// What an exchange costs a process that is watched.
    fn exchange_ns(&self) -> Result<f64> {
        let mut command = self.place.command(std::env::current_exe()?);
        Ok(succeed(command.arg("exchange").stdin(Stdio::null()))?.trim().parse()?)
    }

    /// What a call that is none of a socket costs a process in `cgroup`.
    fn call_ns(&self, cgroup: &Cgroup) -> Result<f64> {
        let mut command = self.place.command_in(cgroup, std::env::current_exe()?);
        Ok(succeed(command.arg("calls").stdin(Stdio::null()))?.trim().parse()?)
    }
}

/// What a call costs this process, in nanoseconds.
pub(crate) fn run_calls() -> Result<f64> {
    calls()
}

/// What an exchange of two messages costs this process, in nanoseconds.
pub(crate) fn run_exchange() -> Result<f64> {
    exchange::best()
}
