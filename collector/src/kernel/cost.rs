//! What the kernel programs cost the machine: how often each runs, and for how long.
//!
//! The kernel counts both only while it is asked to, since reading the clock twice makes every BPF
//! program of the host some 20 to 30 ns slower; so the meter asks for one second in thirty
//! (`BPF_ENABLE_STATS`, kernel 5.8 and later).

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, ProgramInfo, loaded_programs},
    sys::{Stats, enable_stats},
};

use super::{Control, programs};

/// Ticks of the meter from the end of one sample to the beginning of the next.
const IDLE_TICKS: u32 = 29;
/// How long a sample of programs that others loaded takes.
const OTHERS_SAMPLE: Duration = Duration::from_millis(500);
/// Bytes of a program's name that the kernel keeps (`BPF_OBJ_NAME_LEN` less the final NUL).
const KERNEL_NAME_BYTES: usize = 15;

/// What the programs cost in a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CostSample {
    /// How long the sample took.
    pub over: Duration,
    /// Every program that was loaded, by name.
    pub programs: BTreeMap<String, ProgramCost>,
}

/// What one program cost in a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// Runs, over all CPUs.
    pub runs: u64,
    /// Time spent in them.
    pub time: Duration,
}

impl ProgramCost {
    /// Nanoseconds of a run; 0 where there was none.
    pub fn run_ns(&self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX).checked_div(self.runs).unwrap_or(0)
    }

    fn since(self, before: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(before.runs),
            time: self.time.saturating_sub(before.time),
        }
    }
}

impl CostSample {
    /// Runs of a program per second.
    pub fn runs_per_second(&self, cost: &ProgramCost) -> u64 {
        per_second(u128::from(cost.runs), self.over)
    }

    /// Millionths of one CPU that a program took.
    pub fn cpu_ppm(&self, cost: &ProgramCost) -> u64 {
        per_second(cost.time.as_micros(), self.over)
    }
}

fn per_second(amount: u128, over: Duration) -> u64 {
    let per_second = (amount * 1_000_000).checked_div(over.as_micros()).unwrap_or(0);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

/// Takes a sample now and then.
#[derive(Debug, Default)]
pub(crate) struct CostMeter {
    running: Option<Running>,
    idle: u32,
    refused: bool,
}

/// A sample that is being taken; the kernel counts as long as it is there.
#[derive(Debug)]
struct Running {
    _counting: OwnedFd,
    began: Instant,
    before: BTreeMap<String, ProgramCost>,
}

impl Running {
    fn begin(
        totals: impl FnOnce() -> BTreeMap<String, ProgramCost>,
    ) -> Result<Self, aya::sys::SyscallError> {
        let counting = enable_stats(Stats::RunTime)?;
        Ok(Self { _counting: counting, began: Instant::now(), before: totals() })
    }

    fn end(self, after: BTreeMap<String, ProgramCost>) -> CostSample {
        let since = |(name, total): (String, ProgramCost)| {
            let before = self.before.get(&name).copied().unwrap_or_default();
            (name, total.since(before))
        };
        CostSample { over: self.began.elapsed(), programs: after.into_iter().map(since).collect() }
    }
}

impl CostMeter {
    /// To be called about once a second: begins a sample, or ends and gives it.
    pub(crate) fn tick(&mut self, control: &Control) -> Option<CostSample> {
        if let Some(running) = self.running.take() {
            self.idle = IDLE_TICKS;
            return Some(running.end(control.run_totals()));
        }
        if self.refused {
            return None;
        }
        if self.idle > 0 {
            self.idle -= 1;
            return None;
        }
        match Running::begin(|| control.run_totals()) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                self.refused = true;
                tracing::info!(%error, "the cost of the kernel programs cannot be measured");
            }
        }
        None
    }
}

/// What is added to `totals` while `act` runs.
pub(super) fn during<T>(
    totals: impl Fn() -> BTreeMap<String, ProgramCost>,
    act: impl FnOnce() -> T,
) -> Result<(CostSample, T), aya::sys::SyscallError> {
    let running = Running::begin(&totals)?;
    let said = act();
    Ok((running.end(totals()), said))
}

/// Totals of the programs of an object since they were loaded.
pub(super) fn run_totals(ebpf: &Ebpf) -> BTreeMap<String, ProgramCost> {
    let info = |(name, program): (&str, &Program)| {
        let info = program.info().ok()?;
        Some((name.to_owned(), cost_of(&info)))
    };
    ebpf.programs().filter_map(info).collect()
}

/// How often the kernel left out each program of an object since it was loaded, because the CPU was in
/// it: an interrupt had come to the same place meanwhile. Kernels before 5.12 do not say.
pub(super) fn skipped_runs(ebpf: &Ebpf) -> BTreeMap<String, u64> {
    let skipped = |(name, program): (&str, &Program)| {
        let fd = program.fd().ok()?.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        Some((name.to_owned(), skipped_in(&info)?))
    };
    ebpf.programs().filter_map(skipped).collect()
}

/// What the kernel says of that in its description of a program.
fn skipped_in(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}

fn cost_of(info: &ProgramInfo) -> ProgramCost {
    ProgramCost { runs: info.run_count(), time: info.run_time() }
}

/// What the programs of every Undine that runs on this host cost, measured for half a second. They
/// go by the first 15 bytes of their names, which is what the kernel keeps; programs of others that
/// are called the same are counted in. `None` where none is loaded.
///
/// # Errors
/// Where this process may not list programs or not ask the kernel to count.
pub fn of_running() -> Result<Option<CostSample>, ProgramError> {
    let totals = || -> Result<BTreeMap<String, ProgramCost>, ProgramError> {
        let mut totals = BTreeMap::<String, ProgramCost>::new();
        for info in loaded_programs() {
            let info = match info {
                Ok(info) => info,
                // It was unloaded between two looks.
                Err(ProgramError::SyscallError(cause))
                    if cause.io_error.raw_os_error() == Some(libc::ENOENT) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(name) = info.name_as_str().filter(|name| is_ours(name)) {
                let total = totals.entry(name.to_owned()).or_default();
                let cost = cost_of(&info);
                total.runs += cost.runs;
                total.time += cost.time;
            }
        }
        Ok(totals)
    };
    let before = totals()?;
    if before.is_empty() {
        return Ok(None);
    }
    let running = Running::begin(|| before)?;
    // What the kernel counts between the two readings is the sample, so the time between them is its
    // length; there is nothing to wait for.
    std::thread::sleep(OTHERS_SAMPLE);
    Ok(Some(running.end(totals()?)))
}

/// Whether a program of ours is what the kernel calls `kept`.
fn is_ours(kept: &str) -> bool {
    programs::names().any(|name| kept == &name[..name.len().min(KERNEL_NAME_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(runs: u64, ns: u64) -> ProgramCost {
        ProgramCost { runs, time: Duration::from_nanos(ns) }
    }

    #[test]
    fn a_sample_is_what_was_added_since_it_began() {
        let before = BTreeMap::from([("a".to_owned(), cost(10, 1000))]);
        let Ok(running) = Running::begin(|| before) else {
            println!("skipped: this process may not ask the kernel to count");
            return;
        };
        let after =
            BTreeMap::from([("a".to_owned(), cost(14, 1800)), ("b".to_owned(), cost(2, 50))]);
        let sample = running.end(after);
        assert_eq!(sample.programs["a"], cost(4, 800));
        assert_eq!(sample.programs["a"].run_ns(), 200);
        assert_eq!(sample.programs["b"], cost(2, 50));
    }

    #[test]
    fn runs_that_the_kernel_left_out_are_read_from_its_description_of_a_program() {
        let info = "prog_type:\t17\nrun_cnt:\t0\nrecursion_misses:\t6\nverified_insns:\t9\n";
        assert_eq!((skipped_in(info), skipped_in("prog_type:\t17\n")), (Some(6), None));
    }

    #[test]
    fn rates_are_per_second_of_the_sample() {
        let sample = CostSample { over: Duration::from_millis(500), programs: BTreeMap::new() };
        assert_eq!(sample.runs_per_second(&cost(100, 0)), 200);
        assert_eq!(sample.cpu_ppm(&cost(100, 5_000_000)), 10_000);
        let none = CostSample::default();
        assert_eq!((none.runs_per_second(&cost(1, 1)), cost(0, 0).run_ns()), (0, 0));
    }

    #[test]
    fn programs_are_ours_by_the_names_that_the_kernel_keeps() {
        assert!(is_ours("sock_send_lengt") && is_ours("sched_process_e") && is_ours("sys_exit"));
        assert!(is_ours("tls_exit") && is_ours("go_tls_enter") && is_ours("rustls_send_ent"));
        assert!(is_ours("trace_enter") && is_ours("cpu_sample") && is_ours("inet_sendmsg"));
        assert!(!is_ours("sock_send_length") && !is_ours("somebody_elses") && !is_ours(""));
    }
}
