//! The ways to see the bytes of sockets, the best first: each is taken where those before it are
//! refused.

use std::fmt;

use super::{Hooks, Outcome, ProbeReport, programs::refusals, socket_functions};

impl Hooks {
    /// All of them, the best first.
    pub const LADDER: [Self; 3] = [Self::SocketLength, Self::SocketFunctions, Self::SysExit];

    /// Whether the program called `probe` is one of theirs.
    pub fn include(self, probe: &str) -> bool {
        match self {
            Self::SocketLength => ["sock_send_length", "sock_recv_length"].contains(&probe),
            Self::SocketFunctions => socket_functions::PROGRAMS.contains(&probe),
            Self::SysExit => probe == "sys_exit",
        }
    }

    /// Whether the programs run inside what moves bytes, where they find the call of a TLS library that
    /// does it.
    pub(super) fn see_calls(self) -> bool {
        self != Self::SysExit
    }
}

impl fmt::Display for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SocketLength => "tracepoints of sockets",
            Self::SocketFunctions => "functions of sockets",
            Self::SysExit => "the end of system calls",
        })
    }
}

/// A way to see the bytes of sockets, and whether this kernel allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Which it is.
    pub hooks: Hooks,
    /// Why it cannot be used, in one line; `None` where it can.
    pub refusal: Option<String>,
}

/// All rungs of the ladder by what [`super::probe_report`] says; the first without a refusal is the one
/// that Undine uses.
pub fn rungs(reports: &[ProbeReport]) -> [Rung; 3] {
    Hooks::LADDER.map(|hooks| {
        let own: Vec<_> =
            reports.iter().filter(|report| hooks.include(report.probe)).cloned().collect();
        let runs =
            |report: &ProbeReport| matches!(report.outcome, Outcome::Attached | Outcome::Standby);
        let refusal = match own.iter().find(|report| !runs(report)) {
            Some(first) => Some(refusals(std::slice::from_ref(first))),
            None if own.is_empty() => Some("it was not tried".to_owned()),
            None => None,
        };
        Rung { hooks, refusal }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(probe: &'static str, outcome: Outcome) -> ProbeReport {
        ProbeReport { probe, attach_point: String::new(), outcome, remedy: String::new() }
    }

    #[test]
    fn a_rung_is_refused_if_one_of_its_programs_is() {
        let reports = [
            report("sock_send_length", Outcome::Attached),
            report("sock_recv_length", Outcome::Missing("too old".to_owned())),
            report("inet_sendmsg", Outcome::Standby),
            report("inet_recvmsg", Outcome::Standby),
        ];
        let refusals = rungs(&reports).map(|rung| rung.refusal);
        assert_eq!(
            refusals,
            [
                Some("sock_recv_length: too old".to_owned()),
                None,
                Some("it was not tried".to_owned())
            ]
        );
    }
}
