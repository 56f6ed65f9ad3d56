//! Probes of functions that scripts asked for, and what the programs know of their calls.

use std::num::NonZeroU32;
use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeLinkId, UProbeScope},
    },
};
use undine_ebpf::trace::{PLANS_MAX, Plan, Totals, cookie};

use super::{
    ControlError, Outcome, object,
    programs::{Plain, Probe, outcome_of, unusable},
};

/// Names of the programs: for calls, and for returns.
pub(super) const NAMES: [&str; 2] = [ENTER, EXIT];
const ENTER: &str = "trace_enter";
const EXIT: &str = "trace_exit";

/// The programs.
const PROGRAMS: [Probe; 2] = [
    Probe { name: ENTER, without: "scripts cannot trace functions" },
    Probe {
        name: EXIT,
        without: "scripts cannot trace what functions give back and how long they take",
    },
];

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
    /// How the programs fared; empty while nobody has asked for them.
    pub(super) outcomes: Vec<(&'static Probe, Outcome)>,
}

impl TraceProbes {
    /// Loads the programs, unless that was tried before; they run once a function is traced.
    pub(super) fn load(&mut self, ebpf: &mut Ebpf) {
        if !self.outcomes.is_empty() {
            return;
        }
        let has_loop = object::has_loop();
        for probe in &PROGRAMS {
            let outcome = if has_loop {
                let loaded = program(ebpf, probe.name).and_then(UProbe::load);
                loaded.map_or_else(|error| outcome_of(&error), |()| Outcome::Standby)
            } else {
                Outcome::Missing(TOO_OLD.to_owned())
            };
            self.outcomes.push((probe, outcome));
        }
    }

    /// Puts `plan` into `slot`, where nothing is attached. Gives the plan's generation.
    pub(super) fn plan(&mut self, ebpf: &mut Ebpf, slot: u32, plan: &Plan) -> Result<u32, String> {
        self.load(ebpf);
        for (probe, outcome) in &self.outcomes {
            let is_needed = probe.name == ENTER || plan.waits_for_return != 0;
            if is_needed
                && let Outcome::Missing(why) | Outcome::Denied(why) | Outcome::Refused(why) =
                    outcome
            {
                return Err(format!("the kernel does not take {}: {why}", probe.name));
            }
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        let totals = Plain(Totals::default());
        self.totals.set(slot, totals, 0).map_err(|error| error.to_string())?;
        let plan = Plan { generation, ..*plan };
        self.plans.set(slot, Plain(plan), 0).map_err(|error| error.to_string())?;
        Ok(generation)
    }

    /// Probes a function for the plan in `slot`.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        slot: u32,
        site: &TraceSite,
    ) -> Result<(), String> {
        let Plain(plan) = self.plans.get(&slot, 0).map_err(|error| error.to_string())?;
        // The return first, so that no call begins that would not be seen to end.
        let names: &[_] = if plan.waits_for_return == 0 { &[ENTER] } else { &[EXIT, ENTER] };
        for name in names {
            let link =
                attach(ebpf, name, site, cookie(slot, plan.generation)).map_err(|error| {
                    let why = match outcome_of(&error) {
                        Outcome::Missing(why) | Outcome::Denied(why) | Outcome::Refused(why) => why,
                        Outcome::Attached | Outcome::Standby => error.to_string(),
                    };
                    format!("the kernel refuses the probe of process {}: {why}", site.pid)
                })?;
            self.links[slot as usize].push((name, link));
        }
        Ok(())
    }

    /// Takes the plan out of `slot`. Gives its probes, which do nothing any more and are taken away when
    /// they are dropped; the kernel needs some 100 ms for each. What they sent is still in the ring, and
    /// the totals stay.
    pub(super) fn detach(
        &mut self,
        ebpf: &mut Ebpf,
        slot: u32,
    ) -> Result<Vec<UProbeLink>, ControlError> {
        self.plans.set(slot, Plain(Plan::default()), 0).map_err(unusable("TRACE_PLANS"))?;
        let mut taken = Vec::new();
        for (name, link) in std::mem::take(&mut self.links[slot as usize]) {
            match program(ebpf, name).and_then(|program| program.take_link(link)) {
                Ok(link) => taken.push(link),
                Err(error) => tracing::warn!(name, %error, "a probe could not be taken away"),
            }
        }
        Ok(taken)
    }

    /// Takes the programs out of the kernel for good, with all their probes.
    pub(super) fn unload(&mut self, ebpf: &mut Ebpf) {
        let stopped = Outcome::Refused("the collector has stopped".to_owned());
        self.outcomes = PROGRAMS.iter().map(|probe| (probe, stopped.clone())).collect();
        for name in NAMES {
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
