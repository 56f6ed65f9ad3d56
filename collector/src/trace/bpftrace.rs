//! Programs of bpftrace, run where it is installed and limited to what Undine watches.
//!
//! ```text
//! text ─► tokens ─► program: every block behind the condition of scope ─► bpftrace ─► runner
//!                      └─► format: columns                                   rows ◄── output
//! ```
//!
//! What limits a program is in the program: bpftrace compiles the condition with it, so the kernel decides
//! before any statement of the user's runs. What a statement reads by following pointers is not checked.

mod attach_point;
mod blocks;
mod format;
mod output;
mod program;
mod rows;
mod runner;
mod scope;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::Instant;

use undine_schema::trace::{KernelVersion, PROGRAMS_MAX, TraceError, TraceProgram};

pub use rows::ROWS_PER_SECOND_MAX;

pub(super) use runner::Running;

use crate::kernel::{self, Membership};
use crate::redaction::Mode;
use rows::PrintedRows;
use scope::Condition;

/// Most programs that run at a time.
pub const RUNNING_MAX: usize = 4;

/// Where bpftrace is looked for.
const PLACES: [&str; 4] = [
    "/usr/bin/bpftrace",
    "/usr/sbin/bpftrace",
    "/usr/local/bin/bpftrace",
    "/usr/local/sbin/bpftrace",
];

/// Whether programs of bpftrace may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Programs {
    /// Where it is installed.
    Run,
    /// Never.
    Refuse,
}

/// Where bpftrace is installed, if it is.
pub fn installed() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Runs the one of `programs` that is for this machine.
pub(super) fn run(
    programs: &[TraceProgram],
    membership: &Membership,
    mode: Mode,
) -> Result<Running, TraceError> {
    let program = choose(programs, &kernel::release(), &host_name())?;
    let condition = Condition::of(membership, std::process::id())?;
    let limited = program::limit(&program.text, &condition)?;
    let path = installed().ok_or_else(|| {
        let help = "install it (`apt-get install bpftrace`) and deploy the program again";
        TraceError::new("bpftrace is not installed, which runs such programs", help)
    })?;
    start(&path, limited, mode)
}

fn start(path: &Path, limited: program::Limited, mode: Mode) -> Result<Running, TraceError> {
    let rows = PrintedRows::new(&limited, mode, Instant::now());
    Running::start(path, limited.text, limited.format.columns(), rows).map_err(|why| {
        let help = if why.contains("tracepoint not found") {
            "look whether tracefs is mounted: mount -t tracefs tracefs /sys/kernel/tracing"
        } else {
            "see bpftrace(8); `bpftrace -l` lists what this kernel lets be traced"
        };
        TraceError::new(format!("bpftrace does not run the program: {why}"), help)
    })
}

/// The one program that is for this kernel and host.
fn choose<'a>(
    programs: &'a [TraceProgram],
    release: &str,
    host: &str,
) -> Result<&'a TraceProgram, TraceError> {
    if programs.len() > PROGRAMS_MAX {
        let reason = format!("a tracepoint of {} programs is not possible", programs.len());
        return Err(TraceError::new(reason, format!("give {PROGRAMS_MAX} at most")));
    }
    // What cannot be read is before all others.
    let version =
        KernelVersion::parse(release, KernelVersion::FIRST).unwrap_or(KernelVersion::FIRST);
    let fits = |program: &&TraceProgram| {
        (program.kernel_min..=program.kernel_max).contains(&version)
            && (program.host.is_empty() || program.host == host)
    };
    let mut fitting = programs.iter().filter(fits);
    match (fitting.next(), fitting.count()) {
        (Some(program), 0) => Ok(program),
        (None, _) => {
            let reason = format!("none of the programs is for the kernel {release} of {host}");
            Err(TraceError::new(reason, "give one with other bounds of min_kernel and max_kernel"))
        }
        (Some(_), more) => {
            let reason =
                format!("{} of the programs are for the kernel {release} of {host}", more + 1);
            Err(TraceError::new(reason, "give min_kernel and max_kernel so that one is"))
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str, bounds: [&str; 2], host: &str) -> TraceProgram {
        TraceProgram {
            text: text.to_owned(),
            kernel_min: KernelVersion::parse(bounds[0], KernelVersion::FIRST)
                .unwrap_or(KernelVersion::FIRST),
            kernel_max: KernelVersion::parse(bounds[1], KernelVersion::LAST)
                .unwrap_or(KernelVersion::LAST),
            host: host.to_owned(),
        }
    }

    #[test]
    fn the_program_that_is_for_this_machine_is_chosen() {
        let programs = [
            program("old", ["", "5.18"], ""),
            program("new", ["5.19", ""], ""),
            program("own", ["5.19", ""], "knot"),
        ];
        let chosen = |programs: &[TraceProgram], release, host| {
            choose(programs, release, host)
                .map(|program| program.text.clone())
                .map_err(|e| e.reason)
        };
        assert_eq!(chosen(&programs, "5.18.7-1", "a"), Ok("old".to_owned()));
        assert_eq!(chosen(&programs, "6.1.0", "a"), Ok("new".to_owned()));
        let both = chosen(&programs, "6.1.0", "knot").unwrap_err();
        assert_eq!(both, "2 of the programs are for the kernel 6.1.0 of knot");
        let none = chosen(&programs[2..], "5.10.0", "knot").unwrap_err();
        assert_eq!(none, "none of the programs is for the kernel 5.10.0 of knot");
    }
}
