//! Every flavour of call by which bytes go over TCP, under each way to see them: what a program says
//! that it moved is what `conn_stats` has, and what a way passes by is named.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use undine_collector::Hooks;
use undine_collector::kernel::{Outcome, probe_report};

use crate::report::Report;
use crate::require_scope;
use crate::truth;
use crate::watch::{Seen, Watch};
use undine_testbed::{Place, compile};

/// Fewer than these a kernel without `io_uring`, asynchronous calls and 32-bit programs does not have.
const FLAVOURS_MIN: usize = 31;

/// A way to see sockets.
struct Way {
    name: &'static str,
    hooks: Hooks,
    /// Whether what is sent by `way` into the kernel is not seen, as README says.
    is_blind_to: fn(way: &str) -> bool,
}

const WAYS: [Way; 2] = [
    Way { name: "sock_length", hooks: Hooks::SocketLength, is_blind_to: |_| false },
    Way { name: "sys_exit", hooks: Hooks::SysExit, is_blind_to: |way| way != "call" },
];

/// What the program says that the end moved which connected.
struct Flavour {
    name: String,
    port: String,
    sent: u64,
    received: u64,
    /// How it goes into the kernel.
    way: String,
}

pub(crate) fn run() -> Result<Report> {
    require_scope()?;
    let mut report = Report::new("flavours");
    for way in &WAYS {
        if way.hooks == Hooks::SocketLength && !has_socket_length()? {
            report.skip(way.name, "this kernel has no tracepoint sock_send_length");
            continue;
        }
        observe(way, &mut report).context(way.name)?;
    }
    Ok(report)
}

fn has_socket_length() -> Result<bool> {
    Ok(!probe_report()?.iter().any(|probe| {
        probe.probe == "sock_send_length" && matches!(probe.outcome, Outcome::Missing(_))
    }))
}

fn observe(way: &Way, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = compile("flavours", &[], dir.path())?.display().to_string();
    let place = Place::new("undine-evals")?;
    let watch = Watch { hooks: Some(way.hooks), ..Watch::roomy() };
    let (seen, told) = watch.during(&place.cgroup, || place.run(&program, &[]))?;
    let truth = told.lines().map(flavour).collect::<Result<Vec<_>>>()?;
    ensure!(truth.len() >= FLAVOURS_MIN, "the program says only {told}");
    judge(way, &truth, &seen, report)
}

/// `NAME PORT SENT RECEIVED WAY`.
fn flavour(line: &str) -> Result<Flavour> {
    let [name, port, sent, received, way] = line.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("the program says '{line}'");
    };
    let [name, port, way] = [name, port, way].map(str::to_owned);
    Ok(Flavour { name, port, sent: sent.parse()?, received: received.parse()?, way })
}

fn judge(way: &Way, truth: &[Flavour], seen: &Seen, report: &mut Report) -> Result<()> {
    let rows = moved(seen)?;
    let (mut unlike, mut passing, mut named, mut total) = (vec![], vec![], vec![], 0);
    for Flavour { name, port, sent, received, way: through } in truth {
        let row = rows.get(port).copied().unwrap_or_default();
        report.count(format!("{}_{name}_bytes", way.name), row.0 + row.1);
        // At both ends, of which the other one never sends or receives in a special way.
        total += 2 * (sent + received);
        let is_named = sent > received && (way.is_blind_to)(through);
        if is_named {
            named.push(name.as_str());
            total -= sent;
        }
        if row.0 == 0 || row.1 == 0 {
            passing.push(name.as_str());
        }
        if row != (*sent, *received) && !is_named {
            unlike.push(format!("{name}: {row:?} instead of {:?}", (sent, received)));
        }
    }
    let name = way.name;
    report.count(format!("{name}_flavours"), truth.len() as u64);
    report.count(format!("{name}_flavours_passing_by"), passing.len() as u64);
    let exact = format!("{name}: flavours with other bytes than were moved");
    report.check(exact, unlike.join("; "), "", unlike.is_empty());
    let by = format!("{name}: flavours that pass by are those that are named");
    report.same(by, passing.join(" "), named.join(" "));
    report.same(format!("{name}: bytes of both ends"), seen.stats.kernel.operation_bytes, total);
    report.same(format!("{name}: messages lost"), seen.stats.kernel.dropped, 0);
    truth::accounted(report, name, seen);
    Ok(())
}

/// Bytes sent and received by the ends that connected, by their peers' ports.
fn moved(seen: &Seen) -> Result<BTreeMap<String, (u64, u64)>> {
    let mut moved = BTreeMap::new();
    let columns = ["trace_role", "remote_port", "bytes_sent", "bytes_recv"];
    for [role, port, sent, received] in seen.rows("conn_stats", columns)? {
        if role == "1" {
            // A counter only grows, so the last row has it all.
            moved.insert(port, (sent.parse()?, received.parse()?));
        }
    }
    Ok(moved)
}
