//! Runs the collector's kernel tests on older kernels: Debian's, in a virtual machine that holds
//! nothing but the tests.
//!
//! ```text
//! package ─► vmlinuz ─┐
//! test binaries, busybox ─► initramfs ─┴─► machine ─► lines of the serial console ─► report
//! ```
//!
//! The guest is ours entirely. Nothing is installed on the host, and the machine is ended whatever
//! happens. Kernels stay below `target/kernels`.

mod initramfs;
mod machine;
mod package;
mod report;

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::shell::{is_installed, root, say};
use crate::steps::Outcome;
use machine::Acceleration;
use package::{KERNELS, Kernel, SYS_EXIT};
use report::Report;

/// What must be installed, with the package that Debian has it in.
const PROGRAMS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
];

/// How the tests are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As everything that CI runs.
    Release,
    /// Without optimisation, where that is what is built already.
    Debug,
}

/// What is run of the tests, and how they are built.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub(crate) profile: Profile,
    /// Only tests whose name has one of these in it; all that belong here where there are none.
    pub(crate) only: &'a [&'a str],
    /// Of which ways to see the bytes of sockets something must have been captured.
    pub(crate) rungs: Rungs,
}

/// Ways to see the bytes of sockets.
#[derive(Clone, Copy)]
pub(crate) enum Rungs {
    /// All that the kernel has.
    OfKernel,
    /// The one that every kernel has.
    Last,
    /// None, since the tests are those that somebody asked for.
    None,
}

/// Runs the tests on the kernels called `args`, or on all; `--debug` takes the debug build, and
/// `--only=WORD` only tests whose name has the word in it.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (flags, names): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with("--"));
    let (mut profile, mut only) = (Profile::Release, Vec::new());
    for flag in flags {
        match flag.split_once('=') {
            None if flag == "--debug" => profile = Profile::Debug,
            Some(("--only", word)) => only.push(word),
            _ => bail!("there are the options --debug and --only=WORD, and no {flag}"),
        }
    }
    let rungs = if only.is_empty() { Rungs::OfKernel } else { Rungs::None };
    let tests = Chosen { profile, only: &only, rungs };
    let all = || KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| Kernel::called(name).is_none()) {
        bail!("there is no kernel '{unknown}' here; there are {}", all());
    }
    let chosen = KERNELS
        .iter()
        .filter(|kernel| names.is_empty() || names.iter().any(|name| *name == kernel.name));
    if let Some(lacking) = lacking() {
        bail!("{lacking}");
    }
    matrix(chosen, tests)
}

/// The same as a step of `cargo xtask test`: one kernel, for the time that CI has.
pub(crate) fn check(kernel: &str) -> Result<Outcome> {
    if let Some(lacking) = lacking() {
        return Ok(Outcome::Skipped(lacking));
    }
    // Every program, once, and what the last way captures: to verify its program takes an emulated processor half
    // a minute, and each further test does so again. All of them are `check_all`'s.
    let only = [
        "every_probe",
        "every_request_to_nginx_is_a_row_through_the_end",
        "every_message_of_a_call_is_seen_through_the_end",
    ];
    let tests = Chosen { profile: Profile::Release, only: &only, rungs: Rungs::Last };
    matrix(KERNELS.iter().filter(|known| known.name == kernel), tests)?;
    Ok(Outcome::Passed)
}

/// All kernels, as a step of `cargo xtask full`.
pub(crate) fn check_all() -> Result<Outcome> {
    run(&[]).map(|()| Outcome::Passed)
}

/// What is not installed, in words.
fn lacking() -> Option<String> {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| !is_there(program)).map(|(_, from)| *from).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// `busybox` knows no `--version`, but fails in a way of its own.
fn is_there(program: &str) -> bool {
    is_installed(program) || std::path::Path::new("/usr/bin").join(program).exists()
}

fn matrix<'a>(kernels: impl Iterator<Item = &'a Kernel>, tests: Chosen<'_>) -> Result<()> {
    let folder = root().join("target/kernels");
    std::fs::create_dir_all(&folder)?;
    let initramfs = initramfs::build(&folder, tests)?;
    let mut acceleration = Acceleration::best();
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for kernel in kernels {
        let image = package::image(kernel, &folder)?;
        say(format!("booting Linux {}", kernel.name));
        let start = Instant::now();
        let lines = machine::run(&image, &initramfs, &mut acceleration)?;
        let report = Report::of(&lines, start.elapsed());
        let rungs: &[&str] = match tests.rungs {
            Rungs::OfKernel => kernel.rungs,
            Rungs::Last => &[SYS_EXIT],
            Rungs::None => &[],
        };
        let lacking = report.lacks(rungs);
        if !report.passed() {
            lines.iter().for_each(say);
            failed.push(format!("tests failed on Linux {}", kernel.name));
        } else if !lacking.is_empty() {
            failed.push(format!("Linux {} captured no {}", kernel.name, lacking.join(", no ")));
        }
        reports.push(report);
    }
    ensure!(!reports.is_empty(), "no kernel was chosen");
    say(report::table(&reports));
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
