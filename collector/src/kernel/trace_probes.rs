//! Probes of functions that scripts asked for, and what the programs know of their calls.

use std::num::NonZeroU32;
use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};
use undine_ebpf::trace::{PLANS_MAX, Plan, Totals, cookie};

use super::{
    ControlError, Outcome, object,
    programs::{Plain, outcome_of, unusable},
};

/// The programs.
pub(super) const PROGRAMS: [&str; 2] = ["trace_enter", "trace_exit"];

/// The first kernel whose probes carry a number of their own is 5.15; the programs also need
/// `bpf_loop` of 5.17.
const TOO_OLD: &str = "functions can be traced from Linux 5.17 on";

/// A place of a function in a file, for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceSite {
    /// A path under which the file can be opened.
    pub(crate) path: PathBuf,
    /// Offset of the function's first instruction in the file.
    pub(crate) offset: u64,
    /// The process; nobody else's calls run the program.
    pub(crate) pid: u32,
}

/// Probes of functions that scripts asked for.
pub(super) struct TraceProbes {
    pub(super) plans: Array<MapData, Plain<Plan>>,
    pub(super) totals: Array<MapData, Plain<Totals>>,
    /// What is attached, by slot.
    pub(super) links: [Vec<(&'static str, UProbeLinkId)>; PLANS_MAX as usize],
    /// How many plans there have been.
    pub(super) generation: u32,
    /// Whether the programs are in the kernel.
    pub(super) state: State,
}

/// Whether the programs are in the kernel.
pub(super) enum State {
    /// Nobody has asked for them.
    Unused,
    Loaded,
    /// They are not and will not be.
    Refused(String),
}

impl TraceProbes {
    /// Loads the programs; they run once a function is traced.
    pub(super) fn load(&mut self, ebpf: &mut Ebpf) -> Vec<(&'static str, Outcome)> {
        let has_loop = object::has_loop();
        let mut outcomes = Vec::new();
        self.state = State::Loaded;
        for name in PROGRAMS {
            let outcome = if has_loop {
                match program(ebpf, name).and_then(UProbe::load) {
                    Ok(()) => Outcome::Standby,
                    Err(error) => outcome_of(&error),
                }
            } else {
                Outcome::Missing(TOO_OLD.to_owned())
            };
            if let Outcome::Missing(why) | Outcome::Denied(why) | Outcome::Refused(why) = &outcome {
                self.state = State::Refused(why.clone());
            }
            outcomes.push((name, outcome));
        }
        outcomes
    }

    /// Puts `plan` into `slot` and probes its function. Gives the plan's generation.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        slot: u32,
        plan: &Plan,
        sites: &[TraceSite],
    ) -> Result<u32, String> {
        if matches!(self.state, State::Unused) {
            self.load(ebpf);
        }
        if let State::Refused(why) = &self.state {
            return Err(format!("the kernel does not take the programs: {why}"));
        }
        self.detach(ebpf, slot).map_err(|error| error.to_string())?;
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        let totals = Plain(Totals::default());
        self.totals.set(slot, totals, 0).map_err(|error| error.to_string())?;
        let plan = Plan { generation, ..*plan };
        self.plans.set(slot, Plain(plan), 0).map_err(|error| error.to_string())?;
        // The return first, so that no call begins that would not be seen to end.
        let programs: &[&'static str] = if plan.waits_for_return == 0 {
            &PROGRAMS[..1]
        } else {
            &["trace_exit", "trace_enter"]
        };
        for name in programs {
            for site in sites {
                match attach(ebpf, name, site, cookie(slot, generation)) {
                    Ok(link) => self.links[slot as usize].push((name, link)),
                    Err(error) => {
                        if let Err(error) = self.detach(ebpf, slot) {
                            tracing::warn!(slot, %error, "a plan could not be taken away");
                        }
                        let why = match outcome_of(&error) {
                            Outcome::Missing(why)
                            | Outcome::Denied(why)
                            | Outcome::Refused(why) => why,
                            Outcome::Attached | Outcome::Standby => error.to_string(),
                        };
                        let pid = site.pid;
                        return Err(format!(
                            "the kernel refuses the probe of process {pid}: {why}"
                        ));
                    }
                }
            }
        }
        Ok(generation)
    }

    /// Takes the probes of `slot` away. What they sent is still in the ring, and its totals stay.
    pub(super) fn detach(&mut self, ebpf: &mut Ebpf, slot: u32) -> Result<(), ControlError> {
        take_away(ebpf, std::mem::take(&mut self.links[slot as usize]));
        self.plans.set(slot, Plain(Plan::default()), 0).map_err(unusable("TRACE_PLANS"))
    }

    /// Takes the programs out of the kernel for good, with all their probes.
    pub(super) fn unload(&mut self, ebpf: &mut Ebpf) {
        self.state = State::Refused("the collector has stopped".to_owned());
        for name in PROGRAMS {
            if let Ok(program) = program(ebpf, name)
                && let Err(error) = program.unload()
                && !matches!(error, ProgramError::NotLoaded)
            {
                tracing::warn!(name, %error, "a kernel program could not be unloaded");
            }
        }
    }

    /// What became of the calls of the plan in `slot`.
    pub(super) fn totals(&self, slot: u32) -> Result<Totals, ControlError> {
        let Plain(totals) = self.totals.get(&slot, 0).map_err(unusable("TRACE_TOTALS"))?;
        Ok(totals)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, ProgramError> {
    let missing = || ProgramError::InvalidName { name: name.to_owned() };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into()
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    site: &TraceSite,
    cookie: u64,
) -> Result<UProbeLinkId, ProgramError> {
    let location = UProbeAttachLocation::AbsoluteOffset(site.offset);
    let point = UProbeAttachPoint { location, cookie: Some(cookie) };
    // Never "all processes": a file may be mapped by others than the target.
    let gone = || ProgramError::InvalidName { name: name.to_owned() };
    let pid = NonZeroU32::new(site.pid).ok_or_else(gone)?;
    program(ebpf, name)?.attach(point, &site.path, UProbeScope::OneProcess(pid))
}

fn take_away(ebpf: &mut Ebpf, links: Vec<(&'static str, UProbeLinkId)>) {
    for (name, link) in links {
        if let Err(error) = program(ebpf, name).and_then(|program| program.detach(link)) {
            tracing::warn!(name, %error, "a probe could not be taken away");
        }
    }
}
