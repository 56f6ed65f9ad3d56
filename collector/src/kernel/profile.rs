//! The samples of the program `cpu_sample`: attaching it, and taking what it has counted.
//!
//! The program counts into one of two halves. [`ProfileSource::take`] turns it to the other half,
//! waits until no CPU counts into the first any more (a matter of microseconds), and then reads and
//! empties it; so nothing is counted twice and nothing between two reads is missed.

use std::{
    collections::HashMap as Memory,
    fmt, io,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        PerfEvent, ProgramError,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::KernelVersion,
};
use undine_ebpf::profile::{
    self, FRAME_POINTERS_MAX, FRAMES_MAX, Frames, NO_STACK, STACK, STACK_COPY_HEAD_BYTES,
    SampleKey, StackCopy, Totals,
};

use super::{
    BuildError, ControlError, Outcome, ProbeReport,
    programs::{Plain, gone, needs, outcome_of, take, unusable},
};
use crate::event::ProcessKey;

/// Highest frequency, in samples per second and CPU.
pub const FREQUENCY_HZ_MAX: u32 = 1000;

/// Most stacks for which there is room at a time.
pub const STACKS_MAX: u32 = 64 * 1024;

/// Bytes of the ring for copies of stacks: a power of two up to this.
const COPY_RING_BYTES_MAX: u32 = 16 << 20;

/// Fewest bytes of that ring: room for a few copies.
const COPY_RING_BYTES_MIN: u32 = 128 << 10;

/// How long to wait for the CPUs that still count into a half; a virtual CPU may be paused.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(200);

/// The program, and the kernel's event that it is attached to.
pub(super) const PROGRAM: &str = "cpu_sample";
const ATTACH_POINT: &str = "perf_event:cpu-clock";

/// The first kernel with all that the program needs (`bpf_task_pt_regs`).
const SINCE: KernelVersion = KernelVersion::new(5, 15, 0);

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// Samples per second and CPU, from 1 to [`FREQUENCY_HZ_MAX`].
    pub frequency_hz: u32,
    /// How many different stacks have room between two [`ProfileSource::take`], at most
    /// [`STACKS_MAX`]; `None` makes room for every sample of two seconds.
    pub stacks_max: Option<u32>,
}

/// A stack of one side, innermost frame first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampledStack {
    /// There is none on this side.
    None,
    /// It could not be kept.
    Lost,
    /// Found by frame pointers: where the CPU was, then return addresses.
    Frames(Arc<[u64]>),
    /// As it was in memory.
    Copy(StackBytes),
}

/// The user's registers and a copy of the stack.
#[derive(Clone, PartialEq, Eq)]
pub struct StackBytes {
    /// The instruction pointer.
    pub ip: u64,
    /// The stack pointer, where [`Self::bytes`] begin.
    pub sp: u64,
    /// The frame pointer register.
    pub fp: u64,
    /// The stack from there on, as far as it could be read.
    pub bytes: Vec<u8>,
}

impl StackBytes {
    /// The word at `address`, where that is in the copy.
    pub fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.sp)?).ok()?;
        Some(u64::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

impl fmt::Debug for StackBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StackBytes {{ ip: {:#x}, {} bytes }}", self.ip, self.bytes.len())
    }
}

/// Samples that have everything in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whose.
    pub process: ProcessKey,
    /// What its own program did.
    pub user: SampledStack,
    /// What the kernel did on its behalf.
    pub kernel: SampledStack,
    /// How many.
    pub count: u64,
}

/// What the program has counted since it was loaded, over all CPUs; exact for what was taken:
/// `taken = counted + copied + map_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileTotals {
    /// Samples of processes in scope.
    pub taken: u64,
    /// Samples of others, of kernel threads and of idle CPUs.
    pub out_of_scope: u64,
    /// Samples in scope that were counted by their stacks.
    pub counted: u64,
    /// Samples in scope that came with a copy of their stack.
    pub copied: u64,
    /// Samples in scope that are lost, since there were too many different ones.
    pub map_full: u64,
    /// Stacks that are lost, since there were too many different ones; their samples are not.
    pub stacks_full: u64,
    /// Stacks that the kernel could not walk; their samples are not lost.
    pub refused: u64,
    /// Copies that were not made for want of room; their samples were counted by stacks.
    pub copies_dropped: u64,
}

/// One of the two halves.
struct Half {
    samples: HashMap<MapData, Plain<SampleKey>, u64>,
    stacks: HashMap<MapData, u64, Plain<Frames>>,
}

/// The only reader of the samples.
pub struct ProfileSource {
    halves: [Half; 2],
    control: Array<MapData, Plain<profile::Control>>,
    totals: PerCpuArray<MapData, Plain<Totals>>,
    frame_pointers: HashMap<MapData, u32, u64>,
    copies: RingBuf<MapData>,
    /// The half that is in use.
    half: u32,
    frame_pointers_len: u32,
    frames_max: usize,
    /// Copies that came with a half that is still in use.
    early: Vec<RawCopy>,
}

struct RawCopy {
    process: ProcessKey,
    kernel_stack: u64,
    half: u32,
    stack: StackBytes,
}

impl fmt::Debug for ProfileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileSource").field("half", &self.half).finish_non_exhaustive()
    }
}

/// Sizes of the maps, for a loader.
pub(super) struct Sizes {
    /// Entries of the maps of samples and of stacks.
    pub(super) stacks: u32,
    /// Bytes of the ring for copies.
    pub(super) ring_bytes: u32,
}

impl Sizes {
    /// The sizes that `config` needs on `cpus` CPUs; the least where nothing is sampled.
    pub(super) fn of(config: Option<&ProfileConfig>, cpus: u32) -> Self {
        let Some(config) = config else { return Self { stacks: 1, ring_bytes: 4096 } };
        let samples = config.frequency_hz.saturating_mul(cpus);
        // Two seconds of samples with two stacks each.
        let roomy = samples.saturating_mul(4).max(1024);
        let stacks = config.stacks_max.unwrap_or(roomy).clamp(1, STACKS_MAX);
        let message = u32::try_from(size_of::<StackCopy>() + 8).unwrap_or(u32::MAX);
        let bytes = samples.saturating_mul(message).min(COPY_RING_BYTES_MAX);
        let ring_bytes = bytes.next_power_of_two().clamp(COPY_RING_BYTES_MIN, COPY_RING_BYTES_MAX);
        Self { stacks, ring_bytes }
    }
}

/// Takes the maps of the program out of the object.
pub(super) fn source(ebpf: &mut Ebpf) -> Result<ProfileSource, BuildError> {
    let halves = [
        Half { samples: take(ebpf, "SAMPLES_A")?, stacks: take(ebpf, "STACKS_A")? },
        Half { samples: take(ebpf, "SAMPLES_B")?, stacks: take(ebpf, "STACKS_B")? },
    ];
    Ok(ProfileSource {
        halves,
        control: take(ebpf, "PROFILE_CONTROL")?,
        totals: take(ebpf, "PROFILE_TOTALS")?,
        frame_pointers: take(ebpf, "FRAME_POINTERS")?,
        copies: take(ebpf, "STACK_COPIES")?,
        half: 0,
        frame_pointers_len: 0,
        frames_max: frames_max(),
        early: Vec::new(),
    })
}

/// Loads the program and attaches it to every CPU that is there.
pub(super) fn attach(ebpf: &mut Ebpf, config: &ProfileConfig) -> ProbeReport {
    let attached = load(ebpf).and_then(|program| {
        let cpus = aya::util::online_cpus().map_err(|(_, cause)| ProgramError::IOError(cause))?;
        for cpu in cpus {
            program.attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Frequency(u64::from(config.frequency_hz)),
                false,
            )?;
        }
        Ok(())
    });
    let outcome = attached.map_or_else(|error| outcome_of(&error), |()| Outcome::Attached);
    report(needs(SINCE, "5.15", outcome))
}

/// Loads the program only, to see whether the kernel takes it.
pub(super) fn try_load(ebpf: &mut Ebpf) -> ProbeReport {
    let outcome = load(ebpf).map_or_else(|error| outcome_of(&error), |_| Outcome::Standby);
    report(needs(SINCE, "5.15", outcome))
}

/// Takes the program out of the kernel, where it is in it.
pub(super) fn detach(ebpf: &mut Ebpf) {
    if let Ok(program) = program(ebpf)
        && let Err(error) = program.unload()
        && !matches!(error, ProgramError::NotLoaded)
    {
        tracing::warn!(probe = PROGRAM, %error, "a kernel program could not be unloaded");
    }
}

fn load(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, ProgramError> {
    let program = program(ebpf)?;
    program.load()?;
    Ok(program)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, ProgramError> {
    let missing = || ProgramError::InvalidName { name: PROGRAM.to_owned() };
    ebpf.program_mut(PROGRAM).ok_or_else(missing)?.try_into()
}

fn report(outcome: Outcome) -> ProbeReport {
    let remedy = match &outcome {
        Outcome::Attached | Outcome::Standby => "",
        Outcome::Missing(_) => "there are no CPU profiles",
        Outcome::Denied(_) => {
            "run Undine as root or with CAP_BPF and CAP_PERFMON; there are no CPU profiles"
        }
        Outcome::Refused(_) => {
            "report it with the output of `undine doctor`; there are no CPU profiles"
        }
    };
    ProbeReport {
        probe: PROGRAM,
        attach_point: ATTACH_POINT.to_owned(),
        outcome,
        remedy: remedy.to_owned(),
    }
}

impl ProfileSource {
    /// What the program has counted since it was loaded.
    ///
    /// # Errors
    /// Where the kernel's map cannot be read.
    pub fn totals(&self) -> Result<ProfileTotals, ControlError> {
        let mut sum = ProfileTotals::default();
        for Plain(cpu) in self.per_cpu()?.iter() {
            sum.taken += cpu.taken;
            sum.out_of_scope += cpu.out_of_scope;
            sum.counted += cpu.counted;
            sum.copied += cpu.copied;
            sum.map_full += cpu.map_full;
            sum.stacks_full += cpu.stacks_full;
            sum.refused += cpu.refused;
            sum.copies_dropped += cpu.copies_dropped;
        }
        Ok(sum)
    }

    /// How many frames of a stack the kernel follows at most; there may be further ones.
    pub const fn frames_max(&self) -> usize {
        self.frames_max
    }

    /// Follows the frame pointers of `process` from now on, instead of copying its stacks. Gives
    /// whether there was room for it among [`FRAME_POINTERS_MAX`].
    ///
    /// # Errors
    /// Where a map of the kernel cannot be written.
    pub fn follow_frame_pointers(&mut self, process: ProcessKey) -> Result<bool, ControlError> {
        if self.frame_pointers_len >= FRAME_POINTERS_MAX {
            return Ok(false);
        }
        let added = self.frame_pointers.insert(process.tgid, process.start_ns, 0);
        added.map_err(unusable("FRAME_POINTERS"))?;
        self.frame_pointers_len += 1;
        Ok(true)
    }

    /// Ends what [`Self::follow_frame_pointers`] began.
    ///
    /// # Errors
    /// Where a map of the kernel cannot be written.
    pub fn copy_stacks(&mut self, process: ProcessKey) -> Result<(), ControlError> {
        self.frame_pointers_len = self.frame_pointers_len.saturating_sub(1);
        gone(self.frame_pointers.remove(&process.tgid), "FRAME_POINTERS")
    }

    /// Hands out every sample that was taken before the call, and forgets it. Gives what the
    /// program had counted by then; nothing is handed out and `None` is given where a CPU did not
    /// finish its sample within a fifth of a second, and the next call hands it out.
    ///
    /// # Errors
    /// Where a map of the kernel cannot be used.
    pub fn take(
        &mut self,
        sink: &mut dyn FnMut(Sample),
    ) -> Result<Option<ProfileTotals>, ControlError> {
        let old = self.half;
        self.half = 1 - old;
        self.write_control()?;
        if !self.wait_until_quiet()? {
            self.half = old;
            self.write_control()?;
            return Ok(None);
        }
        let totals = self.totals()?;
        let mut stacks = Memory::new();
        for copy in self.copies_of(old) {
            let kernel = self.stack(old, copy.kernel_stack, &mut stacks)?;
            let user = SampledStack::Copy(copy.stack);
            sink(Sample { process: copy.process, user, kernel, count: 1 });
        }
        let samples = self.halves[old as usize].samples.iter().collect::<Result<Vec<_>, _>>();
        for (Plain(key), count) in samples.map_err(unusable("SAMPLES"))? {
            let process = ProcessKey { tgid: key.tgid, start_ns: key.process_start_ns };
            let user = self.stack(old, key.user_stack, &mut stacks)?;
            let kernel = self.stack(old, key.kernel_stack, &mut stacks)?;
            sink(Sample { process, user, kernel, count });
            gone(self.halves[old as usize].samples.remove(&Plain(key)), "SAMPLES")?;
        }
        self.forget_stacks(old)?;
        Ok(Some(totals))
    }

    /// Every copy that came with half `old`; those of the other wait.
    fn copies_of(&mut self, old: u32) -> Vec<RawCopy> {
        let mut copies = std::mem::take(&mut self.early);
        while let Some(message) = self.copies.next() {
            copies.extend(RawCopy::decode(&message));
        }
        let (of_old, early) = copies.into_iter().partition(|copy| copy.half == old);
        self.early = early;
        of_old
    }

    fn stack(
        &self,
        half: u32,
        key: u64,
        known: &mut Memory<u64, Arc<[u64]>>,
    ) -> Result<SampledStack, ControlError> {
        if key & STACK == 0 {
            let is_none = key == NO_STACK;
            return Ok(if is_none { SampledStack::None } else { SampledStack::Lost });
        }
        if let Some(frames) = known.get(&key) {
            return Ok(SampledStack::Frames(Arc::clone(frames)));
        }
        match self.halves[half as usize].stacks.get(&key, 0) {
            Ok(Plain(frames)) => {
                let len = frames.iter().rposition(|frame| *frame != 0).map_or(0, |last| last + 1);
                let frames: Arc<[u64]> = Arc::from(&frames[..len]);
                known.insert(key, Arc::clone(&frames));
                Ok(SampledStack::Frames(frames))
            }
            Err(MapError::KeyNotFound) => Ok(SampledStack::Lost),
            Err(error) => Err(unusable("STACKS")(error)),
        }
    }

    fn forget_stacks(&mut self, half: u32) -> Result<(), ControlError> {
        let stacks = &mut self.halves[half as usize].stacks;
        let keys = stacks.keys().collect::<Result<Vec<_>, _>>().map_err(unusable("STACKS"))?;
        for key in keys {
            gone(stacks.remove(&key), "STACKS")?;
        }
        Ok(())
    }

    /// Waits until no CPU counts with what it read before the half was changed. Gives whether
    /// that came to be.
    fn wait_until_quiet(&self) -> Result<bool, ControlError> {
        // The change must be visible before any number is read; the program's side has an atomic
        // operation for the same reason.
        fence(Ordering::SeqCst);
        let began = Instant::now();
        let first: Vec<u64> = self.per_cpu()?.iter().map(|Plain(cpu)| cpu.entered).collect();
        let mut busy: Vec<_> = (0..first.len()).filter(|cpu| first[*cpu] % 2 == 1).collect();
        while !busy.is_empty() && began.elapsed() < QUIET_WAIT_MAX {
            std::thread::yield_now();
            let now = self.per_cpu()?;
            busy.retain(|cpu| now[*cpu].0.entered == first[*cpu]);
        }
        Ok(busy.is_empty())
    }

    fn per_cpu(&self) -> Result<aya::maps::PerCpuValues<Plain<Totals>>, ControlError> {
        self.totals.get(&0, 0).map_err(unusable("PROFILE_TOTALS"))
    }

    fn write_control(&mut self) -> Result<(), ControlError> {
        let control = profile::Control { half: self.half, reserved: 0 };
        self.control.set(0, Plain(control), 0).map_err(unusable("PROFILE_CONTROL"))
    }
}

impl RawCopy {
    /// Takes a message of the ring apart; `None` where it is none.
    fn decode(message: &[u8]) -> Option<Self> {
        let head: &[u8; STACK_COPY_HEAD_BYTES] = message.first_chunk()?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let process = ProcessKey { start_ns: u64_at(0)?, tgid: u32_at(16)? };
        let (kernel_stack, half) = (u64_at(8)?, u32_at(20)?);
        let len = usize::try_from(u64_at(24)?).ok()?;
        let bytes = message.get(STACK_COPY_HEAD_BYTES..)?.get(..len)?.to_vec();
        let stack = StackBytes { ip: u64_at(32)?, sp: u64_at(40)?, fp: u64_at(48)?, bytes };
        Some(Self { process, kernel_stack, half, stack })
    }
}

/// How many frames the kernel follows; it does not let that change as long as the program is loaded.
fn frames_max() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/kernel/perf_event_max_stack").ok();
    limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(FRAMES_MAX).min(FRAMES_MAX)
}

/// The CPUs of this machine, counted as the kernel does for its maps.
pub(super) fn cpus() -> io::Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(_, cause)| cause)?;
    Ok(u32::try_from(cpus).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_no_larger_than_needed_and_never_beyond_their_limit() {
        let of = |frequency_hz, stacks_max, cpus| {
            let config = ProfileConfig { frequency_hz, stacks_max };
            let sizes = Sizes::of(Some(&config), cpus);
            (sizes.stacks, sizes.ring_bytes)
        };
        assert_eq!(of(49, None, 2), (1024, 2 << 20));
        assert_eq!(of(49, None, 64), (12_544, COPY_RING_BYTES_MAX));
        assert_eq!(of(1000, None, 512), (STACKS_MAX, COPY_RING_BYTES_MAX));
        assert_eq!(of(1, Some(3), 1), (3, COPY_RING_BYTES_MIN));
        let off = Sizes::of(None, 64);
        assert_eq!((off.stacks, off.ring_bytes), (1, 4096));
    }

    #[test]
    fn a_copy_that_says_more_than_it_holds_is_none() {
        let mut message = vec![0; STACK_COPY_HEAD_BYTES + 16];
        message[16] = 7;
        message[24] = 16;
        let copy = RawCopy::decode(&message).unwrap();
        assert_eq!((copy.process.tgid, copy.stack.bytes.len()), (7, 16));
        message[24] = 17;
        assert!(RawCopy::decode(&message).is_none());
        assert!(RawCopy::decode(&message[..STACK_COPY_HEAD_BYTES - 1]).is_none());
    }
}
