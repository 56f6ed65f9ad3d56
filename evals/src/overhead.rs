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
//!
//! The same server inside TLS is measured after that, see [`tls`].

mod bench;
mod cpu;
mod exchange;
mod floor;
mod tls;
mod window;

use anyhow::{Context, Result, ensure};
use undine_collector::kernel::FloorWork;
use undine_collector::{Hooks, Tls};

use crate::report::Report;
use crate::require_scope;
use bench::{Bench, Load, Messages};
use undine_testbed::{Wire, find};
use window::Window;

/// What a request may cost the server more, in microseconds.
const REQUEST_COST_US_MAX: f64 = 0.4;
/// What a call that has nothing to do with sockets may cost more, in nanoseconds.
const CALL_COST_NS_MAX: f64 = 5.0;
/// CPU time of the collector's thread for each request, in microseconds: 15 % of a core at 100,000
/// requests a second.
const COLLECTOR_COST_US_MAX: f64 = 1.5;
/// Requests a second that must be captured without loss.
const RATE_MIN: f64 = 120_000.0;
/// Requests that are on the way on a connection where a rate is measured.
const PIPELINED: u32 = 16;

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

    fn window(self, bench: &Bench, load: Load) -> Result<Window> {
        match self {
            Self::Nothing => bench.unwatched(load),
            Self::Empty => bench.floor(FloorWork::Nothing, load),
            Self::CopyOnly => bench.floor(FloorWork::Copy, load),
            Self::Unread => bench.uncollected(Messages::Unread, Tls::Leave, load),
            Self::Discarded => bench.uncollected(Messages::Discarded, Tls::Leave, load),
            Self::SocketLength => bench.watched(Hooks::SocketLength, Tls::Leave, load),
            Self::SysExit => bench.watched(Hooks::SysExit, Tls::Leave, load),
        }
    }
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
    plain(&mut report, windows, requests)?;
    tls::run(&mut report, windows, requests)?;
    Ok(report)
}

/// Requests that are not encrypted.
fn plain(report: &mut Report, windows: u32, requests: u32) -> Result<()> {
    let bench = Bench::set(Wire::Plain)?;
    for (name, pipelined) in [("request", 1), ("pipelined", PIPELINED)] {
        let kinds = if pipelined == 1 { &Watching::ALL[..] } else { &Watching::RATES };
        let load = Load { requests, pipelined };
        let best = window::best_of(windows, kinds, |watching| watching.window(&bench, load))?;
        judge(report, name, kinds, &best);
    }
    Ok(())
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

/// What a call costs this process, in nanoseconds.
pub(crate) fn run_calls() -> Result<f64> {
    cpu::calls()
}

/// What an exchange of two messages costs this process, in nanoseconds.
pub(crate) fn run_exchange() -> Result<f64> {
    exchange::best()
}
