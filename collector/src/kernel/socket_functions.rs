//! The programs on the functions that send and receive for TCP and UDP sockets.

use std::path::Path;

use aya::{
    Btf, Ebpf,
    programs::{FExit, ProgramError},
};

use super::{Outcome, ProbeReport, object, preemption, programs::outcome_of};

/// The programs, each called as the function that it stands on.
pub(super) const PROGRAMS: [&str; 5] =
    [SENDS, "inet_recvmsg", "inet6_sendmsg", "inet6_recvmsg", SENDPAGE];

/// The function that every kernel has.
pub(super) const SENDS: &str = "inet_sendmsg";

/// Up to Linux 6.4 `sendfile` and `splice` call this one; later ones call [`SENDS`].
const SENDPAGE: &str = "inet_sendpage";

/// There where the kernel speaks IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";

/// What another rung of the ladder does without them.
const INSTEAD: &str =
    "sys_exit is used instead, which costs every system call a little and does not see io_uring";

/// How much is done with the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// They are loaded and stay where they are.
    Load,
    /// They are loaded and put on their functions.
    Attach,
}

/// Why the programs are better not used on this kernel, though it may take them.
pub(super) fn unsuited(trampolines_wait: bool) -> Option<String> {
    if !object::has_loop() {
        return Some(
            "before Linux 5.17 programs on functions are only used where the hooks are named: \
             capture.hooks = \"socket_functions\""
                .to_owned(),
        );
    }
    if !trampolines_wait {
        return Some(
            "this kernel may crash when a program is taken off a function in which a process waits \
             (mended in Linux 5.12)"
                .to_owned(),
        );
    }
    preemption::of_running_kernel()
}

/// Tries the programs that this kernel needs, and says how each fared.
pub(super) fn attempt(ebpf: &mut Ebpf, attempt: Attempt) -> Vec<ProbeReport> {
    let btf = match Btf::from_sys_fs() {
        Ok(btf) => btf,
        Err(error) => return refused(&format!("the kernel's types cannot be read: {error}")),
    };
    let mut reports = Vec::new();
    for name in needed() {
        let outcome = match load(ebpf, name, &btf, attempt) {
            Ok(()) if attempt == Attempt::Load => Outcome::Standby,
            Ok(()) => Outcome::Attached,
            // The kernel has no such function.
            Err(ProgramError::Btf(_)) if name == SENDPAGE => continue,
            Err(ProgramError::Btf(_)) => {
                Outcome::Missing(format!("the kernel itself has no {name}"))
            }
            Err(error) => outcome_of(&error),
        };
        reports.push(report(name, outcome));
    }
    reports
}

/// What is said of the programs where they are not tried because of `why`.
pub(super) fn refused(why: &str) -> Vec<ProbeReport> {
    needed().map(|name| report(name, Outcome::Refused(why.to_owned()))).collect()
}

/// Takes the programs out of the kernel, where they are in it.
pub(super) fn unload(ebpf: &mut Ebpf) {
    for name in PROGRAMS {
        if let Ok(program) = program(ebpf, name)
            && let Err(error) = program.unload()
            && !matches!(error, ProgramError::NotLoaded)
        {
            tracing::warn!(name, %error, "a kernel program could not be unloaded");
        }
    }
}

/// Programs without which bytes would go by unseen.
fn needed() -> impl Iterator<Item = &'static str> {
    let speaks_ipv6 = Path::new(IPV6).exists();
    PROGRAMS.into_iter().filter(move |name| speaks_ipv6 || !name.starts_with("inet6"))
}

fn load(
    ebpf: &mut Ebpf,
    name: &'static str,
    btf: &Btf,
    attempt: Attempt,
) -> Result<(), ProgramError> {
    let program = program(ebpf, name)?;
    program.load(name, btf)?;
    if attempt == Attempt::Attach {
        program.attach()?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut FExit, ProgramError> {
    let missing = || ProgramError::InvalidName { name: name.to_owned() };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into()
}

fn report(name: &'static str, outcome: Outcome) -> ProbeReport {
    let remedy = match outcome {
        Outcome::Attached | Outcome::Standby => String::new(),
        _ => format!("not needed since Linux 6.3; before, {INSTEAD}"),
    };
    ProbeReport { probe: name, attach_point: format!("fexit:{name}"), outcome, remedy }
}
