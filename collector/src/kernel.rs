//! The kernel side of the collector: loads the programs, tells them whom to watch, and hands out
//! their messages in the order of the ring.
//!
//! It knows no protocol, no table and no runtime. A thread of the owner calls
//! [`KernelSource::poll`]; everything else goes through [`Control`], which may be cloned to other
//! threads.
//!
//! ```text
//! Config ─build─► KernelSource ──poll──► messages (bytes of undine_ebpf::Header and its body)
//!                     └─control─► Control: targets, counters, totals of connections, probes
//! ```

pub(crate) mod cgroups;
mod child;
mod cost;
mod counters;
mod doctor;
mod floor;
mod hook_ladder;
mod listeners;
pub(crate) mod membership;
mod object;
mod offsets;
mod own_cgroup;
mod preemption;
mod process_tree;
mod profile;
mod programs;
mod ring;
mod scope;
mod socket_functions;
mod tls_probes;
mod trace_probes;
mod untold;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::programs::uprobe::UProbeLink;
use undine_ebpf::{
    ConnTotals, load,
    trace::{Plan, Totals},
};

pub use cost::{CostSample, ProgramCost, of_running as cost_of_running};
pub use counters::Counters;
pub use doctor::{Check, check_host};
pub use floor::{Floor, FloorError, Work as FloorWork};
pub use hook_ladder::{Rung, rungs};
pub use membership::Membership;
pub use object::Object;
pub use offsets::{OffsetsError, ReasonNames};
pub use own_cgroup::{Cgroup, CgroupError};
pub use profile::{
    FREQUENCY_HZ_MAX, ProfileConfig, ProfileSource, ProfileTotals, STACKS_MAX, Sample,
    SampledStack, StackBytes,
};
pub use programs::{Outcome, ProbeReport, probe_report};
pub use ring::PollOutcome;
pub use scope::{Scope, ScopeDefault, ScopeError, ScopeGuard, Target, TargetParseError, Verdict};

pub(crate) use child::Child;
pub(crate) use cost::CostMeter;
pub(crate) use doctor::release;
pub(crate) use membership::Mark;
pub(crate) use ring::do_not_interrupt;
pub(crate) use trace_probes::TraceSite;

use crate::tls::library::Library;
use crate::tls::placement::Placing;
use programs::Programs;
use ring::RingReader;

/// Fewest bytes of the ring: room for a few of the largest messages.
pub const RING_BYTES_MIN: u32 = 64 * 1024;

/// Most bytes of the ring.
pub const RING_BYTES_MAX: u32 = 512 * 1024 * 1024;

/// Ports whose datagrams are watched unless [`Control::set_datagram_ports`] says otherwise: DNS.
pub const DATAGRAM_PORTS: [u16; 1] = [53];

/// Which kernel hooks see the bytes of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hooks {
    /// The tracepoints `sock_send_length` and `sock_recv_length`; kernel 6.3 and later. Also sees
    /// `io_uring`. What leaves a socket by `splice` or `TCP_ZEROCOPY_RECEIVE` is counted when the
    /// socket is received from next, or closed.
    SocketLength,
    /// Where the functions of TCP and UDP sockets return (`inet_sendmsg` and its like); kernel 5.10 and
    /// later, where it lets programs stand on its functions. Sees what [`Self::SocketLength`] sees;
    /// before 5.12 not what threads of `io_uring` do.
    SocketFunctions,
    /// The tracepoint `sys_exit` and a walk from the file descriptor to the socket; kernel 5.10
    /// and later. Costs every system call of the host a little, and does not see `io_uring` and
    /// 32-bit programs.
    SysExit,
}

/// What to load and whom to watch.
#[derive(Debug)]
pub struct Config {
    /// Whom to watch.
    pub scope: Scope,
    /// Whether a scope that names no one in particular is acceptable.
    pub guard: ScopeGuard,
    /// Bytes of the ring; a power of two from [`RING_BYTES_MIN`] to [`RING_BYTES_MAX`].
    pub ring_bytes: u32,
    /// Most connections that are watched at a time; operations on further ones are counted as
    /// dropped.
    pub connections_max: u32,
    /// Which hooks to use; `None` takes the best that this kernel has.
    pub hooks: Option<Hooks>,
    /// Which build of the programs to load.
    pub object: Object,
    /// How to sample what processes in scope do with their CPU time, if at all.
    pub profile: Option<ProfileConfig>,
    /// Whether to look into TLS.
    pub tls: Tls,
}

/// Whether what programs say inside TLS is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// The TLS libraries of watched processes are probed.
    Read(Placing),
    /// No library is touched; of TLS only bytes are counted.
    Leave,
}

/// Why the kernel side cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The scope is refused or names something that is not there.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The ring's size is not one that the kernel takes.
    #[error(
        "a ring of {0} bytes is not possible; choose a power of two from {RING_BYTES_MIN} to \
         {RING_BYTES_MAX}"
    )]
    RingBytes(u32),
    /// A frequency of sampling that is not possible.
    #[error("the CPU cannot be sampled {0} times a second; choose 1 to {FREQUENCY_HZ_MAX}")]
    Frequency(u32),
    /// There must be room for a connection.
    #[error("connections_max is 0; at least one connection must have room")]
    ConnectionsMax,
    /// The kernel's types cannot be read.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// The object with the programs was refused as a whole.
    #[error(
        "the kernel refuses Undine's maps or programs; run `undine doctor`, which says what is missing"
    )]
    Load(#[source] Box<aya::EbpfError>),
    /// A map is not there or has another type; the object does not fit this binary.
    #[error("the kernel map {name} cannot be used; the kernel object does not fit this binary")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        #[source]
        source: Option<Box<aya::maps::MapError>>,
    },
    /// Neither hook on the bytes of sockets could be attached, so nothing would be seen.
    #[error(
        "no hook on socket traffic can be attached: {}; run `undine doctor`, which says what is missing",
        programs::refusals(.0)
    )]
    NoHooks(Vec<ProbeReport>),
    /// The ring cannot be waited for.
    #[error("cannot wait for the kernel's ring buffer")]
    Wait(#[source] std::io::Error),
}

/// Why a running kernel side could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The target is refused or not there.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// There is room for fewer.
    #[error(
        "the datagrams of {0} ports cannot be watched; name at most {max}",
        max = load::DATAGRAM_PORTS_MAX
    )]
    DatagramPorts(usize),
    /// A map could not be read or written.
    #[error("cannot use the kernel map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
}

/// Loaded and attached programs, and the reader of their ring.
///
/// Dropping it and every [`Control`] detaches the programs.
#[derive(Debug)]
pub struct KernelSource {
    ring: RingReader,
    control: Control,
    profile: Option<ProfileSource>,
}

/// A hand on running programs; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held while waiting for `programs`, so that who takes them many times in a row lets others go
    /// between.
    turn: Mutex<()>,
    programs: Mutex<Programs>,
    probes: Vec<ProbeReport>,
    hooks: Hooks,
    guard: ScopeGuard,
    reason_names: ReasonNames,
}

/// A connection as the kernel counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// As in `Header::conn`.
    pub conn: u64,
    /// Process that used it first, as in `Header::tgid`.
    pub tgid: u32,
    /// Start of that process, as in `Header::process_start_ns`.
    pub process_start_ns: u64,
    /// 1 this end connected, 2 this end accepted, 0 unknown.
    pub role: u8,
    /// Exact totals of both directions.
    pub totals: ConnTotals,
}

impl Config {
    /// Checks the scope, loads the programs and attaches them; messages wait in the ring from
    /// here on. Takes some 100 to 300 ms, so it must not run on an async worker.
    ///
    /// # Errors
    /// Where the scope is refused (before anything is loaded), or the kernel refuses everything.
    pub fn build(self) -> Result<KernelSource, BuildError> {
        self.guard.admit(&self.scope)?;
        let ring_ok = self.ring_bytes.is_power_of_two()
            && (RING_BYTES_MIN..=RING_BYTES_MAX).contains(&self.ring_bytes);
        if !ring_ok {
            return Err(BuildError::RingBytes(self.ring_bytes));
        }
        if self.connections_max == 0 {
            return Err(BuildError::ConnectionsMax);
        }
        if let Some(ProfileConfig { frequency_hz, .. }) = self.profile
            && !(1..=FREQUENCY_HZ_MAX).contains(&frequency_hz)
        {
            return Err(BuildError::Frequency(frequency_hz));
        }
        let guard = self.guard;
        let loaded = programs::load(&self)?;
        let ring = RingReader::new(loaded.ring).map_err(BuildError::Wait)?;
        let shared = Shared {
            turn: Mutex::default(),
            programs: Mutex::new(loaded.programs),
            probes: loaded.probes,
            hooks: loaded.hooks,
            guard,
            reason_names: loaded.reason_names,
        };
        Ok(KernelSource { ring, control: Control(Arc::new(shared)), profile: loaded.profile })
    }
}

impl KernelSource {
    /// Hands every message that is in the ring to `sink`, at most [`ring::BATCH_MAX`] of them;
    /// where there is none, waits up to `wait` first. Messages are emitted without a wake-up
    /// unless the ring is more than a quarter full, so `wait` bounds how old a message can
    /// get.
    ///
    /// A message is the bytes of a [`undine_ebpf::Header`] and its body; it may be followed by
    /// bytes that belong to nothing.
    pub fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(&[u8])) -> PollOutcome {
        self.ring.poll(wait, sink)
    }

    /// Messages that [`Self::poll`] has handed out since the programs were loaded.
    pub fn consumed(&self) -> u64 {
        self.ring.consumed()
    }

    /// The samples of what processes do with their CPU time, for a thread of its own; `None` where
    /// nothing is sampled, or somebody has taken them.
    pub fn take_profile(&mut self) -> Option<ProfileSource> {
        self.profile.take()
    }

    /// A hand on the programs for this and other threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Control {
    fn programs(&self) -> MutexGuard<'_, Programs> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the programs have counted since they were loaded, over all CPUs.
    ///
    /// The kernel is drained up to this call once [`KernelSource::consumed`] has reached
    /// [`Counters::emitted`].
    pub fn counters(&self) -> Result<Counters, ControlError> {
        self.programs().counters()
    }

    /// The counters of each CPU.
    pub fn counters_per_cpu(&self) -> Result<Vec<Counters>, ControlError> {
        self.programs().counters_per_cpu()
    }

    /// Connections that ended while the ring had no room to say so; each is told once. Call it
    /// about once a second, and once after the last message when draining.
    pub fn take_closed(&self) -> Result<Vec<ConnectionState>, ControlError> {
        self.programs().take_closed()
    }

    /// Connections that are open now and were announced by a message, with their totals.
    pub fn connections(&self) -> Result<Vec<ConnectionState>, ControlError> {
        self.programs().connections()
    }

    /// Events of TCP that were only counted since the last call, by connection. Call it about once a
    /// second, and once after the last message when draining.
    pub fn take_untold(&self) -> Result<Vec<(load::UntoldKey, load::Untold)>, ControlError> {
        self.programs().take_untold()
    }

    /// Watches, or never watches, what `target` names, from now on.
    ///
    /// # Errors
    /// Where the target is not there, or [`ScopeGuard::Required`] forbids to include by name.
    pub fn add_target(&self, target: &Target, verdict: Verdict) -> Result<(), ControlError> {
        self.0.guard.admit_target(target, verdict)?;
        self.programs().add_target(target, verdict)
    }

    /// Forgets a target; processes that were watched because of it are no longer.
    pub fn remove_target(&self, target: &Target) -> Result<(), ControlError> {
        self.programs().remove_target(target)
    }

    /// Watches UDP datagrams of these ports, at most [`load::DATAGRAM_PORTS_MAX`], and of no others
    /// from now on.
    ///
    /// # Errors
    /// Where there are too many.
    pub fn set_datagram_ports(&self, ports: &[u16]) -> Result<(), ControlError> {
        self.programs().set_datagram_ports(ports)
    }

    /// Whom the programs watch at this moment, for readers of `/proc` and of cgroups.
    ///
    /// # Errors
    /// Where the kernel's map cannot be read.
    pub fn membership(&self) -> Result<Membership, ControlError> {
        self.programs().membership()
    }

    /// Probes the functions of the TLS library at `path`, for every process that maps it and is
    /// watched. Leaves those out of `library` whose programs the kernel refused.
    pub(crate) fn probe_tls(&self, path: &Path, library: &mut Library) -> Outcome {
        self.programs().probe_tls(path, library)
    }

    /// Puts what is read of the calls of a function into `slot`, which is free. Gives the plan's
    /// generation, which messages of it carry.
    ///
    /// # Errors
    /// Why the kernel does not do it, in words.
    pub(crate) fn plan_trace(&self, slot: u32, plan: &Plan) -> Result<u32, String> {
        self.programs().plan_trace(slot, plan)
    }

    /// Probes the function at each of `sites` for the plan in `slot`. Each takes the kernel some
    /// milliseconds; others may use the programs between two of them.
    ///
    /// # Errors
    /// Why the kernel does not do it, in words; then some may be probed.
    pub(crate) fn trace(&self, slot: u32, sites: &[TraceSite]) -> Result<(), String> {
        sites.iter().try_for_each(|site| self.programs().trace(slot, site))
    }

    /// Takes the plan out of `slot`. Gives its probes, which do nothing any more and are taken away when
    /// they are dropped; the kernel needs some 100 ms for each.
    pub(crate) fn untrace(&self, slot: u32) -> Result<Vec<UProbeLink>, ControlError> {
        self.programs().untrace(slot)
    }

    /// How the programs fared that are loaded when the first function is traced; none before.
    pub(crate) fn trace_reports(&self) -> Vec<ProbeReport> {
        self.programs().trace_reports()
    }

    /// What became of the calls of the plan that is or was last in `slot`.
    pub(crate) fn trace_totals(&self, slot: u32) -> Result<Totals, ControlError> {
        self.programs().trace_totals(slot)
    }

    /// Forgets plaintexts of processes that have ended. Call it now and then.
    pub(crate) fn forget_ended_tls(&self) {
        if let Err(error) = self.programs().forget_ended_tls() {
            tracing::warn!(%error, "plaintexts of ended processes cannot be forgotten");
        }
    }

    /// Whether whoever no target names is watched.
    pub(crate) fn watches_whole_host(&self) -> bool {
        self.programs().watches_whole_host()
    }

    /// The processes that are watched now, as far as `/proc` tells.
    pub(crate) fn watched_processes(&self) -> BTreeSet<u32> {
        self.programs().watched_processes()
    }

    /// How each probe fared when the programs were loaded.
    pub fn probes(&self) -> &[ProbeReport] {
        &self.0.probes
    }

    /// Which hooks see the bytes of sockets.
    pub fn hooks(&self) -> Hooks {
        self.0.hooks
    }

    /// What this kernel calls the reasons in messages.
    pub fn reason_names(&self) -> &ReasonNames {
        &self.0.reason_names
    }

    /// What the programs cost while `act` runs.
    ///
    /// # Errors
    /// Where this process may not ask the kernel to count.
    pub fn cost_during<T>(
        &self,
        act: impl FnOnce() -> T,
    ) -> Result<(CostSample, T), aya::sys::SyscallError> {
        cost::during(|| self.run_totals(), act)
    }

    /// How often each program ran and for how long, while the kernel was asked to count it.
    pub(crate) fn run_totals(&self) -> BTreeMap<String, ProgramCost> {
        self.programs().run_totals()
    }

    /// How often the kernel left out each program that is loaded, as far as it says.
    pub(crate) fn skipped_runs(&self) -> BTreeMap<String, u64> {
        self.programs().skipped_runs()
    }

    /// Detaches all programs. Messages that are in the ring and all counters stay readable, so
    /// that the owner can drain.
    pub fn detach(&self) {
        self.programs().detach();
    }
}

/// Nanoseconds to add to `CLOCK_MONOTONIC`, which messages carry, to get wall-clock time now.
/// The wall clock may be stepped, so ask again about once a second.
pub fn wall_minus_mono_ns() -> i64 {
    ring::wall_minus_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds to add to `CLOCK_BOOTTIME`, which bpftrace's `nsecs` is, to get wall-clock time now.
pub(crate) fn wall_minus_boot_ns() -> i64 {
    ring::wall_minus_ns(libc::CLOCK_BOOTTIME)
}

/// Version of the kernel messages that this binary understands.
pub const ABI_VERSION: u32 = undine_ebpf::ABI_VERSION;
