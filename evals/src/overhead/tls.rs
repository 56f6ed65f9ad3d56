//! What reading inside TLS costs: connections that are kept, so that handshakes, which cost a hundred
//! times as much as a request, are next to none of it.
//!
//! | part | figure |
//! |---|---|
//! | hooks on sockets, which see what is encrypted | `bytes_only` − `unwatched` |
//! | any programs on these probes, though they do nothing | `empty` − `unwatched` |
//! | probes of the library's functions, and rows of what they tell | `watched` − `bytes_only` |
//! | the programs, with the kernel's own clock around them | `programs_us` = runs × time of a run |
//!
//! The classic way has the same programs and the same return probes. Only its probes of entries are on
//! each function's first instruction, where such tools usually put them, which the processor often has to
//! step through; Undine looks for one that the kernel runs itself.

use anyhow::{Result, bail};
use undine_collector::{Hooks, Placing, Tls};
use undine_testbed::{Wire, missing};

use super::bench::{Bench, Load, Messages};
use super::window::{self, Window};
use crate::report::Report;

/// What a request may cost the server more, in microseconds.
const REQUEST_COST_US_MAX: f64 = 5.0;

/// How a window is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watching {
    Nothing,
    /// No library is probed: bytes on the wire are counted.
    BytesOnly,
    /// By programs on the library's functions that see whom a call concerns, and do nothing.
    Empty,
    /// With probes placed so.
    Read(Placing),
    /// As Undine does, and nobody reads what the programs send.
    Unread,
}

impl Watching {
    const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Read(Placing::Best),
        Self::Read(Placing::Classic),
        Self::BytesOnly,
        Self::Unread,
        Self::Empty,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "unwatched",
            Self::BytesOnly => "bytes_only",
            Self::Empty => "empty",
            Self::Read(Placing::Best) => "watched",
            Self::Read(Placing::Classic) => "classic",
            Self::Unread => "unread",
        }
    }

    fn window(self, bench: &Bench, load: Load) -> Result<Window> {
        match self {
            Self::Nothing => bench.unwatched(load),
            Self::BytesOnly => bench.watched(Hooks::SocketLength, Tls::Leave, load),
            Self::Empty => bench.floor_of_calls(load),
            Self::Read(placing) => bench.watched(Hooks::SocketLength, Tls::Read(placing), load),
            Self::Unread => bench.uncollected(Messages::Unread, Tls::Read(Placing::Best), load),
        }
    }
}

/// Measures `windows` of each kind, of so many requests, of which the best counts.
pub(super) fn run(report: &mut Report, windows: u32, requests: u32) -> Result<()> {
    let missing = missing(&["openssl"]);
    if !missing.is_empty() {
        report.skip("tls", format!("{missing:?} not installed"));
        return Ok(());
    }
    let bench = Bench::set(Wire::Tls)?;
    let load = Load { requests, pipelined: 1 };
    let best = window::best_of(windows, &Watching::ALL, |watching| watching.window(&bench, load))?;
    judge(report, &best)
}

fn judge(report: &mut Report, best: &[Window]) -> Result<()> {
    for (watching, window) in Watching::ALL.iter().zip(best) {
        let name = watching.name();
        report.figure(format!("tls_server_{name}_us"), window.server_us);
        report.figure(format!("tls_{name}_requests_per_s"), window.requests_per_s);
        if window.runs > 0.0 {
            report.figure(format!("tls_{name}_program_runs"), window.runs);
            report.figure(format!("tls_{name}_programs_us"), window.programs_us);
        }
        let rows = match watching {
            Watching::Nothing | Watching::Unread | Watching::Empty => continue,
            Watching::BytesOnly => 0,
            Watching::Read(_) => window.requests,
        };
        report.figure(format!("tls_collector_{name}_us"), window.collector_us);
        report.same(format!("tls, {name}: rows = requests"), window.rows, rows);
        report.same(format!("tls, {name}: messages lost"), window.lost, 0);
        report.same(format!("tls, {name}: plaintexts that are not bound"), window.unbound, 0);
    }
    let [unwatched, watched, classic, bytes_only, unread, empty] = best else {
        bail!("{} kinds of windows", best.len());
    };
    let more = |window: &Window| window.server_us - unwatched.server_us;
    report.figure("tls_cost_us", more(watched));
    report.figure("tls_cost_classic_us", more(classic));
    report.figure("tls_cost_bytes_only_us", more(bytes_only));
    report.figure("tls_cost_empty_us", more(empty));
    let of_probes = watched.server_us - bytes_only.server_us;
    report.figure("tls_cost_of_probes_us", of_probes);
    report.figure("tls_cost_of_probes_by_empty", of_probes / more(empty));
    report.figure("tls_cost_of_programs_and_ring_us", more(unread));
    let cost = more(watched);
    let name = "a TLS request costs the server more, in us";
    let target = format!("<= {REQUEST_COST_US_MAX}");
    report.check(name, format!("{cost:.3}"), target, cost <= REQUEST_COST_US_MAX);
    Ok(())
}
