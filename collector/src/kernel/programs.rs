//! Loading the programs, attaching them, and their maps.
#![expect(unsafe_code, reason = "aya asks for a promise that map values are plain bytes")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::Path,
};

#[cfg(test)]
use aya::programs::Program;
use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        ProgramError, RawTracePoint, raw_trace_point::RawTracePointLinkId, uprobe::UProbeLink,
    },
    util::KernelVersion,
};

use undine_ebpf::load::{
    COUNTERS, Connection, DATAGRAM_PORTS_MAX, EPOCH_STEP, KIND_CGROUP, KIND_COMM, KIND_NETNS,
    KIND_TGID, ListenKey, PORT_WORDS, ProcessVerdict, SCRATCH_PER_CPU, Settings, Untold, UntoldKey,
    VERDICT_EXCLUDE, VERDICT_INCLUDE,
};
use undine_ebpf::trace::{Plan, Totals};

use super::{
    BuildError, Config, ConnectionState, ControlError, Counters, DATAGRAM_PORTS, Hooks, Object,
    RING_BYTES_MIN, Scope, ScopeDefault, ScopeGuard, Target, Tls, Verdict,
    cost::{self, ProgramCost},
    doctor::{SOCKET_LENGTH_SINCE, release},
    hook_ladder, listeners,
    membership::Membership,
    object, offsets,
    offsets::ReasonNames,
    own_cgroup, process_tree,
    profile::{self, ProfileSource},
    ring,
    scope::Resolved,
    socket_functions::{self, Attempt},
    tls_probes::{self, TlsProbes},
    trace_probes::{self, TraceProbes, TraceSite},
    untold::UntoldSeen,
};
use crate::tls::library::Library;
use crate::tls::placement::Placing;

/// Most rounds in which the descendants of a process are looked for; each finds those that were
/// forked while the one before looked.
const TREE_ROUNDS_MAX: usize = 8;

/// How often the statistics of a connection that is used are told, in nanoseconds. Tests of this crate
/// don't wait that long.
const TCP_STATS_INTERVAL_NS: u64 = if cfg!(test) { 1_000_000 } else { 10_000_000_000 };

/// How often the kernel programs together look how full the ring is while one ring's bytes are sent.
const LOOKS_PER_RING: u32 = 64;

/// How full the ring is, in sixteenths, when a rung of [`undine_ebpf::load::RUNG_PAYLOAD_BYTES`] begins, and how empty
/// when it ends. The reader is woken long before the first begins.
const RUNGS_UP: [u64; 3] = [12, 14, 15];
const RUNGS_DOWN: [u64; 3] = [6, 10, 12];

/// A program of the object and where it belongs.
pub(super) struct Probe {
    pub(super) name: &'static str,
    /// What is lost without it.
    pub(super) without: &'static str,
}

pub(super) const SOCKET_LENGTH: [Probe; 2] = [
    Probe { name: "sock_send_length", without: "falls back to functions or system calls" },
    Probe { name: "sock_recv_length", without: "falls back to functions or system calls" },
];

const SYS_EXIT: [Probe; 1] =
    [Probe { name: "sys_exit", without: "no traffic is seen without the other hooks" }];

/// The program that sees a socket go.
const SOCKET_END: &str = "tcp_destroy_sock";

/// The program that sees packets thrown away.
const DROPS: &str = "kfree_skb";

/// The first kernel whose tracepoint of that name says why.
const DROP_REASONS_SINCE: KernelVersion = KernelVersion::new(5, 17, 0);

/// Programs that are used with either hooks.
const OTHERS: [Probe; 9] = [
    Probe {
        name: "inet_sock_set_state",
        without: "who connected is inferred from the traffic, and the last statistics of TCP are \
                  not told",
    },
    Probe { name: SOCKET_END, without: "a connection ends when it is closed, which is earlier" },
    Probe {
        name: "tcp_retransmit_skb",
        without: "retransmissions are told at the end of a connection",
    },
    Probe { name: "tcp_send_reset", without: "resets that are sent are not told" },
    Probe { name: "tcp_receive_reset", without: "resets that are received are not told" },
    Probe { name: DROPS, without: "packets that the kernel throws away are not told" },
    Probe { name: "sched_process_fork", without: "children of a target process are not watched" },
    Probe {
        name: "sched_process_exec",
        without: "a process that runs another program keeps its old name",
    },
    Probe { name: "sched_process_exit", without: "the end of a process is not seen" },
];

/// Names of all programs.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let probes = SOCKET_LENGTH.iter().chain(&SYS_EXIT).chain(&OTHERS).map(|probe| probe.name);
    let of_functions = socket_functions::PROGRAMS.into_iter().chain(tls_probes::names());
    probes.chain(of_functions).chain(trace_probes::NAMES).chain([profile::PROGRAM])
}

/// How a probe fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs.
    Attached,
    /// The kernel takes it, but another one does its work.
    Standby,
    /// The kernel has no such attach point.
    Missing(String),
    /// This process has not the right.
    Denied(String),
    /// The kernel does not accept the program.
    Refused(String),
}

/// How a probe fared, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Name of the program.
    pub probe: &'static str,
    /// The kernel's attach point.
    pub attach_point: String,
    /// How it fared.
    pub outcome: Outcome,
    /// What is lost without it and what to do; empty where it runs.
    pub remedy: String,
}

impl ProbeReport {
    /// Whether the program sees the bytes that move on sockets.
    pub(crate) fn moves_bytes(&self) -> bool {
        SOCKET_LENGTH.iter().chain(&SYS_EXIT).any(|probe| probe.name == self.probe)
    }
}

/// The refusals in `reports` in one line.
pub(super) fn refusals(reports: &[ProbeReport]) -> String {
    let of = |report: &ProbeReport| match &report.outcome {
        Outcome::Attached | Outcome::Standby => None,
        Outcome::Missing(why) | Outcome::Denied(why) | Outcome::Refused(why) => {
            Some(format!("{}: {why}", report.probe))
        }
    };
    reports.iter().filter_map(of).collect::<Vec<_>>().join("; ")
}

/// A value of a map, which aya moves as bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T: Copy>(pub(super) T);

// SAFETY: only used with the types of `undine_ebpf`'s `load`, `profile` and `trace`, which are
// `repr(C)` integers without padding throughout.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// Everything that was loaded.
pub(super) struct Loaded {
    pub(super) ring: RingBuf<MapData>,
    pub(super) programs: Programs,
    pub(super) probes: Vec<ProbeReport>,
    pub(super) hooks: Hooks,
    pub(super) reason_names: ReasonNames,
    pub(super) profile: Option<ProfileSource>,
}

/// The loaded programs and their maps.
pub(super) struct Programs {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, u64>,
    connections: HashMap<MapData, u64, Plain<Connection>>,
    closed: HashMap<MapData, u64, Plain<Connection>>,
    settings: Array<MapData, Plain<Settings>>,
    tgids: HashMap<MapData, u32, Plain<ProcessVerdict>>,
    cgroups: HashMap<MapData, u64, u32>,
    netns: HashMap<MapData, u32, u32>,
    comms: HashMap<MapData, [u8; 16], u32>,
    listen: HashMap<MapData, Plain<ListenKey>, u64>,
    datagram_ports: Array<MapData, u64>,
    untold: HashMap<MapData, Plain<UntoldKey>, Plain<Untold>>,
    untold_seen: UntoldSeen,
    targets: BTreeMap<Target, (Resolved, u32)>,
    default: ScopeDefault,
    /// As in [`Settings::epoch`], without what the programs count.
    epoch: u64,
    /// Whether the end of a socket is not seen, but only that it is closed.
    end_when_closed: bool,
    /// Whether a program may be taken off a function in which a process waits.
    trampolines_wait: bool,
    /// Whether this kernel has the tracepoints of sockets.
    has_socket_lengths: bool,
    pub(super) tls: TlsProbes,
    trace: TraceProbes,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs")
            .field("targets", &self.targets)
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

/// Loads the object, attaches what the kernel accepts, and only then sets the scope: up to there
/// nobody is in it, so that no connection is seen by one program and not yet by another.
pub(super) fn load(config: &Config) -> Result<Loaded, BuildError> {
    let (mut programs, ring, reason_names) = load_object(config)?;
    let mut probes = Vec::new();
    let hooks = programs.attach_hooks(config.hooks, &mut probes)?;
    for probe in &OTHERS {
        let report = programs.attach(probe);
        if report.probe == SOCKET_END && report.outcome != Outcome::Attached {
            programs.end_when_closed = true;
        }
        probes.push(report);
    }
    if config.tls != Tls::Leave {
        programs.load_tls(&mut probes, hooks.see_calls());
    }
    programs.set_datagram_ports(&DATAGRAM_PORTS).map_err(not_built)?;
    programs.set_scope(&config.scope).map_err(not_built)?;
    programs.seed_listeners();
    let profile = match &config.profile {
        None => None,
        Some(wanted) => {
            let source = profile::source(&mut programs.ebpf)?;
            probes.push(profile::attach(&mut programs.ebpf, wanted));
            Some(source)
        }
    };
    Ok(Loaded { ring, programs, probes, hooks, reason_names, profile })
}

fn not_built(error: ControlError) -> BuildError {
    match error {
        ControlError::Scope(cause) => BuildError::Scope(cause),
        ControlError::Map { name, source } => BuildError::Map { name, source: Some(source) },
        ControlError::DatagramPorts(_) => BuildError::Map { name: "DATAGRAM_PORTS", source: None },
    }
}

/// Tries every probe with a scope in which there is no one, and takes them away again.
///
/// For `undine doctor`: nothing is watched meanwhile. What `sys_exit` is for is only loaded, since
/// attaching it costs every system call of the host; so are programs on functions, for which the
/// kernel would change its own code.
///
/// # Errors
/// Where the kernel refuses the object as a whole.
pub fn probe_report() -> Result<Vec<ProbeReport>, BuildError> {
    probe_report_of(Object::Fitting)
}

/// As [`probe_report`], of a build of the programs.
pub(super) fn probe_report_of(object: Object) -> Result<Vec<ProbeReport>, BuildError> {
    try_all(object).map(|(_programs, reports)| reports)
}

/// Tries every probe as [`probe_report`] does; they go with the programs.
pub(super) fn try_all(object: Object) -> Result<(Programs, Vec<ProbeReport>), BuildError> {
    let scope =
        Scope { default: ScopeDefault::TargetsOnly, include: Vec::new(), exclude: Vec::new() };
    let (ring_bytes, connections_max) = (RING_BYTES_MIN, 16);
    let guard = ScopeGuard::Open;
    let (hooks, profile, tls) = (None, None, Tls::Read(Placing::Best));
    let config = Config { scope, guard, ring_bytes, connections_max, hooks, object, profile, tls };
    let (mut programs, _ring, _reason_names) = load_object(&config)?;
    let mut reports: Vec<_> =
        SOCKET_LENGTH.iter().chain(&OTHERS).map(|probe| programs.attach(probe)).collect();
    reports.extend(programs.try_functions());
    for probe in &SYS_EXIT {
        let outcome =
            programs.load(probe).map_or_else(|error| outcome_of(&error), |()| Outcome::Standby);
        reports.push(report(probe, outcome));
    }
    reports.push(profile::try_load(&mut programs.ebpf));
    let best = hook_ladder::rungs(&reports).into_iter().find(|rung| rung.refusal.is_none());
    programs.load_tls(&mut reports, best.is_some_and(|rung| rung.hooks.see_calls()));
    // Otherwise they are loaded when the first function is traced.
    programs.trace.load(&mut programs.ebpf);
    reports.extend(programs.trace_reports());
    Ok((programs, reports))
}

fn load_object(config: &Config) -> Result<(Programs, RingBuf<MapData>, ReasonNames), BuildError> {
    let layout = offsets::of_running_kernel()?;
    object::allow_locked_memory();
    let own_cgroup = own_cgroup::own_id().unwrap_or_default();
    let drops_name_sockets = u32::from(layout.drops_name_sockets);
    let resets_have_reasons = u32::from(layout.resets_have_reasons);
    let own_tgid = std::process::id();
    let wakeup_bytes = u64::from(config.ring_bytes / 4);
    let elf = config.object.bytes();
    let cpus = profile::cpus().map_err(BuildError::Wait)?;
    let look_bytes = u64::from(config.ring_bytes / LOOKS_PER_RING / cpus.max(1));
    let of_ring = |sixteenths: u64| u64::from(config.ring_bytes) / 16 * sixteenths;
    let sizes = profile::Sizes::of(config.profile.as_ref(), cpus);
    let mut ebpf = EbpfLoader::new()
        // Why a program is refused, and not every step to there: tens of megabytes, for whose sake the
        // verifier would begin anew with each larger buffer.
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("OFFSETS", &layout.offsets, true)
        .override_global("OWN_TGID", &own_tgid, true)
        .override_global("OWN_CGROUP", &own_cgroup, true)
        .override_global("DROPS_NAME_SOCKETS", &drops_name_sockets, true)
        .override_global("RESETS_HAVE_REASONS", &resets_have_reasons, true)
        .override_global("TCP_STATS_INTERVAL_NS", &TCP_STATS_INTERVAL_NS, true)
        .override_global("WAKEUP_BYTES", &wakeup_bytes, true)
        .override_global("LOOK_BYTES", &look_bytes, true)
        .override_global("RUNG_UP_BYTES", &RUNGS_UP.map(of_ring), true)
        .override_global("RUNG_DOWN_BYTES", &RUNGS_DOWN.map(of_ring), true)
        .map_max_entries("RING", config.ring_bytes)
        .map_max_entries("CONNECTIONS", config.connections_max)
        .map_max_entries("TLS_STREAMS", config.connections_max)
        .map_max_entries("TLS_CARRIERS", config.connections_max)
        .map_max_entries("SCRATCH", cpus.saturating_mul(SCRATCH_PER_CPU))
        .map_max_entries("SAMPLES_A", sizes.stacks)
        .map_max_entries("SAMPLES_B", sizes.stacks)
        .map_max_entries("STACKS_A", sizes.stacks)
        .map_max_entries("STACKS_B", sizes.stacks)
        .map_max_entries("STACK_COPIES", sizes.ring_bytes)
        .load(&elf)
        .map_err(|cause| BuildError::Load(Box::new(cause)))?;
    let ring = take(&mut ebpf, "RING")?;
    // Numbers of connections go on where those of an earlier start cannot have come.
    // The map is only borrowed: it must stay open until the programs are loaded.
    let next =
        ebpf.map_mut("NEXT_CONN").ok_or(BuildError::Map { name: "NEXT_CONN", source: None })?;
    let mut next = Array::<&mut MapData, u64>::try_from(next).map_err(map_error("NEXT_CONN"))?;
    let first = ring::clock_ns(libc::CLOCK_BOOTTIME).cast_unsigned().max(1);
    next.set(0, first, 0).map_err(map_error("NEXT_CONN"))?;
    let programs = Programs {
        counters: take(&mut ebpf, "COUNTERS")?,
        connections: take(&mut ebpf, "CONNECTIONS")?,
        closed: take(&mut ebpf, "CLOSED")?,
        settings: take(&mut ebpf, "SETTINGS")?,
        tgids: take(&mut ebpf, "SCOPE_TGID")?,
        cgroups: take(&mut ebpf, "SCOPE_CGROUP")?,
        netns: take(&mut ebpf, "SCOPE_NETNS")?,
        comms: take(&mut ebpf, "SCOPE_COMM")?,
        listen: take(&mut ebpf, "LISTEN_PORTS")?,
        datagram_ports: take(&mut ebpf, "DATAGRAM_PORTS")?,
        untold: take(&mut ebpf, "UNTOLD")?,
        untold_seen: UntoldSeen::default(),
        targets: BTreeMap::new(),
        default: config.scope.default,
        epoch: 0,
        end_when_closed: false,
        trampolines_wait: layout.trampolines_wait,
        has_socket_lengths: layout.has_socket_lengths,
        tls: TlsProbes {
            streams: take(&mut ebpf, "TLS_STREAMS")?,
            carriers: take(&mut ebpf, "TLS_CARRIERS")?,
            known: take(&mut ebpf, "TLS_LIBRARIES")?,
            go_calls: take(&mut ebpf, "GO_CALLS")?,
            libraries: 0,
            of: 0,
            loaded: Vec::new(),
        },
        trace: TraceProbes {
            plans: take(&mut ebpf, "TRACE_PLANS")?,
            totals: take(&mut ebpf, "TRACE_TOTALS")?,
            links: Default::default(),
            generation: 0,
            outcomes: Vec::new(),
        },
        ebpf,
    };
    Ok((programs, ring, layout.reason_names))
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, BuildError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(BuildError::Map { name, source: None })?;
    T::try_from(map).map_err(map_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> BuildError {
    move |cause| BuildError::Map { name, source: Some(Box::new(cause)) }
}

pub(super) fn unusable(name: &'static str) -> impl Fn(MapError) -> ControlError {
    move |cause| ControlError::Map { name, source: Box::new(cause) }
}

impl Programs {
    /// Attaches the best hooks that the kernel allows, or only those that are `wanted`.
    fn attach_hooks(
        &mut self,
        wanted: Option<Hooks>,
        probes: &mut Vec<ProbeReport>,
    ) -> Result<Hooks, BuildError> {
        let rungs = Hooks::LADDER.into_iter();
        for hooks in rungs.filter(|hooks| wanted.is_none_or(|only| only == *hooks)) {
            let mut reports = match hooks {
                Hooks::SocketLength => self.attach_all(&SOCKET_LENGTH),
                Hooks::SysExit => self.attach_all(&SYS_EXIT),
                Hooks::SocketFunctions if wanted.is_some() => {
                    socket_functions::attempt(&mut self.ebpf, Attempt::Attach)
                }
                Hooks::SocketFunctions => self.attach_functions(),
            };
            if reports.iter().all(|report| report.outcome == Outcome::Attached) {
                probes.append(&mut reports);
                return Ok(hooks);
            }
            // One without the other would see half of every conversation.
            self.unload_hooks(hooks);
            for report in reports.iter_mut().filter(|of| of.outcome == Outcome::Attached) {
                report.outcome = Outcome::Standby;
            }
            probes.append(&mut reports);
        }
        Err(BuildError::NoHooks(std::mem::take(probes)))
    }

    fn attach_all(&mut self, wanted: &[Probe]) -> Vec<ProbeReport> {
        wanted.iter().map(|probe| self.attach(probe)).collect()
    }

    /// Loads programs for functions. Where they could be loaded but are not used, says why.
    fn try_functions(&mut self) -> Vec<ProbeReport> {
        let unsuited = socket_functions::unsuited(self.trampolines_wait);
        if !object::has_loop()
            && let Some(why) = &unsuited
        {
            return socket_functions::refused(why);
        }
        let reports = socket_functions::attempt(&mut self.ebpf, Attempt::Load);
        // What the kernel refuses anyway is of no use for another reason too.
        match unsuited {
            Some(why) if reports.iter().all(|report| report.outcome == Outcome::Standby) => {
                socket_functions::refused(&why)
            }
            _ => reports,
        }
    }

    /// Attaches programs to functions, unless there is a reason not to.
    fn attach_functions(&mut self) -> Vec<ProbeReport> {
        match socket_functions::unsuited(self.trampolines_wait) {
            Some(why) => socket_functions::refused(&why),
            None => socket_functions::attempt(&mut self.ebpf, Attempt::Attach),
        }
    }

    fn unload_hooks(&mut self, hooks: Hooks) {
        match hooks {
            Hooks::SocketLength => SOCKET_LENGTH.iter().for_each(|probe| self.unload(probe)),
            Hooks::SysExit => SYS_EXIT.iter().for_each(|probe| self.unload(probe)),
            Hooks::SocketFunctions => socket_functions::unload(&mut self.ebpf),
        }
    }

    fn attach(&mut self, probe: &Probe) -> ProbeReport {
        let is_there = self.has_socket_lengths || !Hooks::SocketLength.include(probe.name);
        if !is_there {
            // To verify what cannot be attached takes an old kernel many seconds.
            let why = format!("there is no tracepoint {}", probe.name);
            return report(probe, too_old_for(probe, Outcome::Missing(why)));
        }
        let attached = self.load(probe).and_then(|()| self.attach_loaded(probe));
        let outcome = attached
            .map_or_else(|error| too_old_for(probe, outcome_of(&error)), |_| Outcome::Attached);
        report(probe, outcome)
    }

    fn load(&mut self, probe: &Probe) -> Result<(), ProgramError> {
        self.program(probe)?.load()
    }

    fn attach_loaded(&mut self, probe: &Probe) -> Result<RawTracePointLinkId, ProgramError> {
        self.program(probe)?.attach(probe.name)
    }

    fn program(&mut self, probe: &Probe) -> Result<&mut RawTracePoint, ProgramError> {
        let missing = || ProgramError::InvalidName { name: probe.name.to_owned() };
        self.ebpf.program_mut(probe.name).ok_or_else(missing)?.try_into()
    }

    /// Takes a program out of the kernel, where it is in it.
    fn unload(&mut self, probe: &Probe) {
        if let Ok(program) = self.program(probe)
            && let Err(error) = program.unload()
            && !matches!(error, ProgramError::NotLoaded)
        {
            tracing::warn!(probe = probe.name, %error, "a kernel program could not be unloaded");
        }
    }

    /// How often each program ran and for how long, while the kernel was asked to count it.
    pub(super) fn run_totals(&self) -> BTreeMap<String, ProgramCost> {
        cost::run_totals(&self.ebpf)
    }

    /// How often the kernel left out each program that is loaded, as far as it says.
    pub(super) fn skipped_runs(&self) -> BTreeMap<String, u64> {
        cost::skipped_runs(&self.ebpf)
    }

    /// How many instructions the verifier went through for each program that is loaded, with every
    /// repetition; empty before Linux 5.16, which does not tell.
    #[cfg(test)]
    pub(super) fn verified_instructions(&self) -> BTreeMap<&str, u32> {
        let of = |(name, program): (_, &Program)| {
            Some((name, program.info().ok()?.verified_instruction_count()?))
        };
        self.ebpf.programs().filter_map(of).collect()
    }

    /// Takes the program out of the kernel that sees the end of sockets.
    #[cfg(test)]
    pub(super) fn miss_ends(&mut self) {
        self.unload(OTHERS.iter().find(|probe| probe.name == SOCKET_END).unwrap());
    }

    pub(super) fn detach(&mut self) {
        for hooks in Hooks::LADDER {
            self.unload_hooks(hooks);
        }
        for probe in &OTHERS {
            self.unload(probe);
        }
        profile::detach(&mut self.ebpf);
        tls_probes::unload(&mut self.ebpf);
        self.trace.unload(&mut self.ebpf);
    }

    /// How the programs fared that are loaded when the first function is traced; none before.
    pub(super) fn trace_reports(&self) -> Vec<ProbeReport> {
        let outcomes = self.trace.outcomes.iter();
        outcomes.map(|(probe, outcome)| report_of_uprobe(probe, outcome.clone())).collect()
    }

    /// Puts what is read of the calls of a function into `slot`; gives the plan's generation.
    pub(super) fn plan_trace(&mut self, slot: u32, plan: &Plan) -> Result<u32, String> {
        self.trace.plan(&mut self.ebpf, slot, plan)
    }

    /// Probes a function for the plan in `slot`.
    pub(super) fn trace(&mut self, slot: u32, site: &TraceSite) -> Result<(), String> {
        self.trace.attach(&mut self.ebpf, slot, site)
    }

    /// Takes the plan out of `slot`; gives its probes, which go when they are dropped.
    pub(super) fn untrace(&mut self, slot: u32) -> Result<Vec<UProbeLink>, ControlError> {
        self.trace.detach(&mut self.ebpf, slot)
    }

    /// What became of the calls of the plan in `slot`.
    pub(super) fn trace_totals(&self, slot: u32) -> Result<Totals, ControlError> {
        self.trace.totals(slot)
    }

    /// Loads the programs for TLS libraries, unless the hooks do not see what a library does on a
    /// socket while it is in a call.
    fn load_tls(&mut self, probes: &mut Vec<ProbeReport>, hooks_see_calls: bool) {
        for (probe, outcome) in self.tls.load(&mut self.ebpf, hooks_see_calls) {
            let outcome = too_old_for(&probe, outcome);
            probes.push(report_of_uprobe(&probe, outcome));
        }
    }

    /// Probes the functions of the TLS library at `path`.
    pub(super) fn probe_tls(&mut self, path: &Path, library: &mut Library) -> Outcome {
        let outcome = self.tls.probe(&mut self.ebpf, path, library);
        if outcome == Outcome::Attached
            && let Err(error) = self.write_settings()
        {
            return Outcome::Refused(error.to_string());
        }
        outcome
    }

    /// Forgets plaintexts of processes that have ended.
    pub(super) fn forget_ended_tls(&mut self) -> Result<(), ControlError> {
        for plaintext in self.tls.forget_ended()? {
            let conn = plaintext.conn;
            self.closed.insert(conn, Plain(plaintext), 0).map_err(unusable("CLOSED"))?;
        }
        Ok(())
    }

    /// Whether whoever no target names is watched.
    pub(super) fn watches_whole_host(&self) -> bool {
        self.default == ScopeDefault::WholeHost
    }

    /// The processes that are watched now, as far as `/proc` tells.
    pub(super) fn watched_processes(&self) -> BTreeSet<u32> {
        let mut watched = BTreeSet::new();
        if self.watches_whole_host() {
            watched.extend(process_tree::all());
        }
        for (resolved, bits) in self.targets.values() {
            if bits & VERDICT_INCLUDE != 0 {
                watched.extend(resolved.processes());
            }
        }
        for (resolved, bits) in self.targets.values() {
            if bits & VERDICT_EXCLUDE != 0 {
                resolved.processes().iter().for_each(|pid| {
                    watched.remove(pid);
                });
            }
        }
        watched.remove(&std::process::id());
        watched
    }

    pub(super) fn counters(&self) -> Result<Counters, ControlError> {
        let mut values = [0; COUNTERS];
        for (index, value) in (0..).zip(&mut values) {
            let cpus = self.counters.get(&index, 0).map_err(unusable("COUNTERS"))?;
            *value = cpus.iter().sum();
        }
        Ok(Counters::from_values(&values))
    }

    pub(super) fn counters_per_cpu(&self) -> Result<Vec<Counters>, ControlError> {
        let mut cpus: Vec<[u64; COUNTERS]> = Vec::new();
        for index in 0..COUNTERS {
            let key = u32::try_from(index).unwrap_or(u32::MAX);
            let values = self.counters.get(&key, 0).map_err(unusable("COUNTERS"))?;
            cpus.resize(values.len(), [0; COUNTERS]);
            for (cpu, value) in cpus.iter_mut().zip(values.iter()) {
                cpu[index] = *value;
            }
        }
        Ok(cpus.iter().map(Counters::from_values).collect())
    }

    pub(super) fn take_closed(&mut self) -> Result<Vec<ConnectionState>, ControlError> {
        let ended =
            self.closed.iter().collect::<Result<Vec<_>, _>>().map_err(unusable("CLOSED"))?;
        for (conn, _) in &ended {
            self.closed.remove(conn).map_err(unusable("CLOSED"))?;
        }
        Ok(ended.into_iter().map(|(_, Plain(connection))| state_of(&connection)).collect())
    }

    /// Takes the events that were only counted since the last call.
    pub(super) fn take_untold(&mut self) -> Result<Vec<(UntoldKey, Untold)>, ControlError> {
        let entries =
            self.untold.iter().collect::<Result<Vec<_>, _>>().map_err(unusable("UNTOLD"))?;
        let (fresh, idle) = self
            .untold_seen
            .take(entries.into_iter().map(|(Plain(key), Plain(untold))| (key, untold)).collect());
        for key in idle {
            gone(self.untold.remove(&Plain(key)), "UNTOLD")?;
        }
        Ok(fresh)
    }

    pub(super) fn connections(&self) -> Result<Vec<ConnectionState>, ControlError> {
        let mut open = Vec::new();
        for entry in &self.connections {
            let (_, Plain(connection)) = entry.map_err(unusable("CONNECTIONS"))?;
            if connection.announced != 0 {
                open.push(state_of(&connection));
            }
        }
        open.extend(self.tls.streams()?);
        Ok(open)
    }

    /// Watches the datagrams of `ports` and of no others.
    pub(super) fn set_datagram_ports(&mut self, ports: &[u16]) -> Result<(), ControlError> {
        if ports.len() > DATAGRAM_PORTS_MAX as usize {
            return Err(ControlError::DatagramPorts(ports.len()));
        }
        for index in 0..PORT_WORDS {
            let own = ports.iter().filter(|port| u32::from(**port) / 64 == index);
            let word = own.fold(0_u64, |word, port| word | 1 << (port % 64));
            let map = &mut self.datagram_ports;
            if map.get(&index, 0).map_err(unusable("DATAGRAM_PORTS"))? != word {
                map.set(index, word, 0).map_err(unusable("DATAGRAM_PORTS"))?;
            }
        }
        Ok(())
    }

    fn set_scope(&mut self, scope: &Scope) -> Result<(), ControlError> {
        // What is excluded comes first, so that it is never watched, not even for a moment.
        for target in &scope.exclude {
            self.add_target(target, Verdict::Exclude)?;
        }
        for target in &scope.include {
            self.add_target(target, Verdict::Include)?;
        }
        self.write_settings()
    }

    pub(super) fn add_target(
        &mut self,
        target: &Target,
        verdict: Verdict,
    ) -> Result<(), ControlError> {
        let resolved = target.resolve()?;
        let known = self.targets.get(target).map_or(0, |(_, bits)| *bits);
        let bits = known | verdict.bits();
        self.targets.insert(target.clone(), (resolved.clone(), bits));
        match &resolved {
            Resolved::Cgroup(id, _) => {
                self.cgroups.insert(id, bits, 0).map_err(unusable("SCOPE_CGROUP"))?;
            }
            Resolved::Netns(inode) => {
                self.netns.insert(inode, bits, 0).map_err(unusable("SCOPE_NETNS"))?;
            }
            Resolved::Comm(name) => {
                self.comms.insert(name, bits, 0).map_err(unusable("SCOPE_COMM"))?;
            }
            Resolved::Process(_) => {}
        }
        // Before the tree is looked through, so that whatever it forks meanwhile inherits.
        self.write_settings()?;
        if let Resolved::Process(root) = resolved {
            self.add_tree(root, bits)?;
            self.write_settings()?;
        }
        if verdict == Verdict::Include {
            self.seed_listeners_of(resolved.processes());
        }
        Ok(())
    }

    fn add_tree(&mut self, root: u32, verdict: u32) -> Result<(), ControlError> {
        let mut known = 0;
        for _ in 0..TREE_ROUNDS_MAX {
            let tree = process_tree::descendants(root);
            for pid in &tree {
                // Where two trees meet, both have a say.
                let before = self.tgids.get(pid, 0).map_or(0, |Plain(entry)| entry.verdict);
                let entry = ProcessVerdict { verdict: before | verdict, root_tgid: root };
                self.tgids.insert(pid, Plain(entry), 0).map_err(unusable("SCOPE_TGID"))?;
            }
            if tree.len() == known {
                break;
            }
            known = tree.len();
        }
        Ok(())
    }

    pub(super) fn remove_target(&mut self, target: &Target) -> Result<(), ControlError> {
        let Some((resolved, _)) = self.targets.remove(target) else { return Ok(()) };
        match resolved {
            Resolved::Cgroup(id, _) => gone(self.cgroups.remove(&id), "SCOPE_CGROUP")?,
            Resolved::Netns(inode) => gone(self.netns.remove(&inode), "SCOPE_NETNS")?,
            Resolved::Comm(name) => gone(self.comms.remove(&name), "SCOPE_COMM")?,
            Resolved::Process(root) => self.remove_tree(root)?,
        }
        self.write_settings()
    }

    fn remove_tree(&mut self, root: u32) -> Result<(), ControlError> {
        for _ in 0..TREE_ROUNDS_MAX {
            let mut members = Vec::new();
            for entry in &self.tgids {
                let (pid, Plain(verdict)) = entry.map_err(unusable("SCOPE_TGID"))?;
                if verdict.root_tgid == root {
                    members.push(pid);
                }
            }
            if members.is_empty() {
                break;
            }
            for pid in members {
                gone(self.tgids.remove(&pid), "SCOPE_TGID")?;
            }
        }
        Ok(())
    }

    pub(super) fn membership(&self) -> Result<Membership, ControlError> {
        let mut processes = BTreeMap::new();
        for entry in &self.tgids {
            let (pid, Plain(found)) = entry.map_err(unusable("SCOPE_TGID"))?;
            processes.insert(pid, found.verdict);
        }
        let targets = self.targets.values().cloned().collect();
        Ok(Membership::new(self.default, targets, processes))
    }

    /// Tells the programs what the targets are made of, and that verdicts are to be found anew. To be
    /// called whenever a map of targets has changed.
    fn write_settings(&mut self) -> Result<(), ControlError> {
        let kinds = self.targets.values().fold(0, |kinds, (resolved, _)| {
            kinds
                | match resolved {
                    Resolved::Process(_) => KIND_TGID,
                    Resolved::Cgroup(..) => KIND_CGROUP,
                    Resolved::Netns(_) => KIND_NETNS,
                    Resolved::Comm(_) => KIND_COMM,
                }
        });
        let watch_others = u32::from(self.default == ScopeDefault::WholeHost);
        let end_when_closed = u32::from(self.end_when_closed);
        let tls = self.tls.of;
        self.epoch += EPOCH_STEP;
        let epoch = self.epoch;
        let settings = Plain(Settings { watch_others, kinds, end_when_closed, tls, epoch });
        self.settings.set(0, settings, 0).map_err(unusable("SETTINGS"))
    }

    /// Tells the programs which ports the watched processes listen on already, so that they know
    /// which of their connections were accepted.
    fn seed_listeners(&mut self) {
        if self.default == ScopeDefault::WholeHost {
            self.seed_listeners_of(process_tree::all());
        }
    }

    fn seed_listeners_of(&mut self, processes: Vec<u32>) {
        for (port, listeners) in listeners::listening(processes) {
            let key = Plain(listeners::key(port));
            // A port that the programs know already they count themselves.
            let seeded = self.listen.insert(key, listeners, u64::from(BPF_NOEXIST));
            if let Err(error) = seeded
                && !is(&error, libc::EEXIST)
            {
                tracing::warn!(port = port.1, %error, "a listening port could not be noted");
            }
        }
    }
}

/// Flag of a map's insertion: only where there is no such key.
const BPF_NOEXIST: u32 = 1;

/// Removing what is not there any more is fine.
pub(super) fn gone(removed: Result<(), MapError>, name: &'static str) -> Result<(), ControlError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if is(&error, libc::ENOENT) => Ok(()),
        other => other.map_err(unusable(name)),
    }
}

fn is(error: &MapError, code: i32) -> bool {
    matches!(error, MapError::SyscallError(cause) if cause.io_error.raw_os_error() == Some(code))
}

pub(super) fn state_of(connection: &Connection) -> ConnectionState {
    ConnectionState {
        conn: connection.conn,
        tgid: connection.tgid,
        process_start_ns: connection.process_start_ns,
        role: u8::try_from(connection.role).unwrap_or_default(),
        totals: connection.totals,
    }
}

fn report(probe: &Probe, outcome: Outcome) -> ProbeReport {
    let advice = match &outcome {
        Outcome::Attached | Outcome::Standby => String::new(),
        Outcome::Missing(_) => format!("this kernel is too old for it; {}", probe.without),
        Outcome::Denied(_) => {
            format!("run Undine as root or with CAP_BPF and CAP_PERFMON; {}", probe.without)
        }
        Outcome::Refused(_) => {
            format!("report it with the output of `undine doctor`; {}", probe.without)
        }
    };
    ProbeReport {
        probe: probe.name,
        attach_point: format!("raw_tracepoint:{}", probe.name),
        outcome,
        remedy: advice,
    }
}

/// As [`report`], of a program that runs where functions are called.
fn report_of_uprobe(probe: &Probe, outcome: Outcome) -> ProbeReport {
    ProbeReport { attach_point: format!("uprobe:{}", probe.name), ..report(probe, outcome) }
}

/// `outcome`, or that the kernel is too old, where it is: before it misses the attach point it may
/// refuse the program for what that needs.
fn too_old_for(probe: &Probe, outcome: Outcome) -> Outcome {
    if SOCKET_LENGTH.iter().any(|late| late.name == probe.name) {
        needs(SOCKET_LENGTH_SINCE, "6.3", outcome)
    } else if tls_probes::names().any(|name| name == probe.name) {
        needs(object::BPF_LOOP, "5.17", outcome)
    } else if probe.name == DROPS {
        needs(DROP_REASONS_SINCE, "5.17", outcome)
    } else {
        outcome
    }
}

/// `outcome`, or that the kernel is older than `since`, which is called `name`.
pub(super) fn needs(since: KernelVersion, name: &str, outcome: Outcome) -> Outcome {
    let denied = matches!(outcome, Outcome::Denied(_));
    let is_old = KernelVersion::current().is_ok_and(|version| version < since);
    if !is_old || denied {
        return outcome;
    }
    Outcome::Missing(format!("needs Linux {name} or later, this is {}", release()))
}

pub(super) fn outcome_of(error: &ProgramError) -> Outcome {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.lines().rev().take(6).collect();
            let end = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
            by_code(io_error, format!("{io_error}: {end}"))
        }
        ProgramError::SyscallError(cause) => {
            by_code(&cause.io_error, format!("{}: {}", cause.call, cause.io_error))
        }
        other => Outcome::Refused(other.to_string()),
    }
}

fn by_code(error: &io::Error, text: String) -> Outcome {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if !text.contains("processed") => Outcome::Denied(text),
        Some(libc::ENOENT) => Outcome::Missing(text),
        _ => Outcome::Refused(text),
    }
}
