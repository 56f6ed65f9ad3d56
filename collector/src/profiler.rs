//! What processes in scope do with their CPU time.
//!
//! The kernel program `cpu_sample` looks at every CPU at a fixed frequency and counts the stacks of
//! processes in scope. A thread of its own empties the kernel's maps every [`ROUND`], while the
//! processes still run, names the frames, and sums up equal stacks; once in an interval it hands
//! them to the pipeline, which knows the processes' services and writes `stack_traces.beta`.
//!
//! ```text
//! cpu_sample ─► kernel::ProfileSource ─► process_image ─► fold ─► Batch ─► pipeline
//!                 frames, or a copy        │ mapping, module (elf), perf_map
//!                 of the stack             └ unwind (copies)
//! ```
//!
//! **Frame pointers and what there is without.** Of a process that is new the kernel copies the
//! stacks, and they are unwound here by the tables that exceptions use. Where frame pointers lead to
//! the same callers, it is told to follow these instead, which costs less.
//!
//! **Every sample is in a row.** What cannot be named or kept makes a frame say less, and never
//! takes a sample away; `taken = Σ count + map_full`, of which the latter is in `data_loss`.

mod elf;
mod fold;
mod go_symbols;
mod kernel_symbols;
mod mapping;
mod module;
mod perf_map;
mod process_image;
mod tally;
mod unwind;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use crate::event::ProcessKey;
use crate::kernel::{ProfileConfig, ProfileSource, ProfileTotals, Sample, SampledStack};
use fold::{LOST, Named};
use kernel_symbols::KernelSymbols;
use module::{MODULES_BYTES_MAX, MODULES_MAX, Modules};
use process_image::ProcessImage;
use tally::Tally;

pub(crate) use fold::stack_id;
pub use tally::{OTHER_STACKS, STACKS_MAX};

/// How often the kernel's maps are emptied; a process that lives for less may have no names.
pub const ROUND: Duration = Duration::from_millis(500);
/// Least time between two rows of a stack.
pub const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// Most processes whose code is remembered; those that were idle for longest are forgotten.
pub const PROCESSES_MAX: usize = 1024;
/// Rounds without a sample after which a process's code is forgotten.
const IDLE_ROUNDS_MAX: u64 = 240;
/// Batches that wait for the pipeline.
pub(crate) const BATCHES_MAX: usize = 2;

/// How to profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Samples per second and CPU, from 1 to [`crate::kernel::FREQUENCY_HZ_MAX`]; one that is no
    /// divisor of what programs do at a time, such as 49, sees them as they are.
    pub frequency_hz: u32,
    /// How often rows are written, at least [`INTERVAL_MIN`].
    pub interval: Duration,
    /// How many different stacks the kernel has room for in a [`ROUND`]; `None` has room for
    /// every sample.
    pub kernel_stacks_max: Option<u32>,
}

/// Tells the thread to hand over everything that was sampled before, and to say so by
/// [`Batch::answers`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flush(pub(crate) u64);

/// A stack of a process, and how often it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackCount {
    /// Whose.
    pub process: ProcessKey,
    /// Its frames, folded.
    pub stack: Arc<str>,
    /// Samples.
    pub count: u64,
}

/// What the thread hands over.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) stacks: Vec<StackCount>,
    /// Everything up to now.
    pub(crate) counts: ProfileCounts,
    /// The number of the [`Flush`] that asked for it.
    pub(crate) answers: Option<u64>,
}

/// What a profiler has seen and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileCounts {
    /// The kernel's counters.
    pub kernel: ProfileTotals,
    /// Samples that were handed over; those that are not are [`ProfileTotals::map_full`].
    pub samples: u64,
    /// Samples among them whose stack is not told, since there were too many different ones.
    pub other: u64,
    /// Processes whose frame pointers the kernel follows.
    pub frame_pointer_processes: u64,
    /// Copies that were unwound to their outermost function, and those that were not.
    pub unwound: u64,
    /// See `unwound`.
    pub cut_short: u64,
}

impl Config {
    /// How the kernel is to sample.
    pub(crate) const fn kernel(&self) -> ProfileConfig {
        ProfileConfig { frequency_hz: self.frequency_hz, stacks_max: self.kernel_stacks_max }
    }
}

/// The thread's work.
#[derive(Debug)]
pub(crate) struct Profiler {
    source: ProfileSource,
    interval: Duration,
    images: HashMap<ProcessKey, ProcessImage>,
    modules: Modules,
    kernel: Option<KernelSymbols>,
    tally: Tally,
    counts: ProfileCounts,
    round: u64,
}

impl Profiler {
    pub(crate) fn new(source: ProfileSource, interval: Duration) -> Self {
        Self {
            source,
            interval,
            images: HashMap::new(),
            modules: Modules::default(),
            kernel: None,
            tally: Tally::default(),
            counts: ProfileCounts::default(),
            round: 0,
        }
    }

    /// Works until nobody wants anything of it any more.
    pub(crate) fn run(mut self, told: &Receiver<Flush>, batches: &SyncSender<Batch>) {
        let mut written = Instant::now();
        loop {
            let answers = match told.recv_timeout(ROUND) {
                Ok(Flush(number)) => Some(number),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.work_round();
            if answers.is_some() || written.elapsed() >= self.interval {
                written = Instant::now();
                if batches.send(self.take_batch(answers)).is_err() {
                    return;
                }
            }
        }
    }

    /// Takes what the kernel has counted.
    fn work_round(&mut self) {
        self.round += 1;
        let mut samples = Vec::new();
        match self.source.take(&mut |sample| samples.push(sample)) {
            Ok(Some(totals)) => self.counts.kernel = totals,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "samples of the CPU cannot be read");
            }
        }
        for sample in samples {
            self.sample(sample);
        }
        self.modules.keep_within(MODULES_MAX, MODULES_BYTES_MAX);
        self.forget_idle_processes();
    }

    fn sample(&mut self, sample: Sample) {
        let Sample { process, user, kernel, count } = sample;
        let mut named = Named::default();
        match kernel {
            SampledStack::None | SampledStack::Copy(_) => {}
            SampledStack::Lost => named.kernel.push(Arc::from(LOST)),
            SampledStack::Frames(frames) => named.kernel = self.name_kernel(&frames),
        }
        self.meet(process);
        match user {
            SampledStack::None => {}
            SampledStack::Lost => named.user.push(Arc::from(LOST)),
            SampledStack::Frames(frames) => {
                named.is_truncated = frames.len() >= self.source.frames_max();
                named.user = self.name_user(process, &frames);
            }
            SampledStack::Copy(stack) => {
                let Some(image) = self.images.get_mut(&process) else { return };
                let unwound = image.unwind(&stack, &mut self.modules, self.round);
                if image.judge(&stack, &unwound) && !image.keeps_frame_pointers {
                    self.follow_frame_pointers(process);
                }
                named.is_truncated = !unwound.is_whole;
                self.counts.unwound += u64::from(unwound.is_whole);
                self.counts.cut_short += u64::from(!unwound.is_whole);
                named.user = self.name_user(process, &unwound.frames);
            }
        }
        self.counts.samples += count;
        if !self.tally.add(process, &named.fold(), count) {
            self.counts.other += count;
        }
    }

    fn name_kernel(&mut self, frames: &[u64]) -> Vec<Arc<str>> {
        let symbols = self.kernel.get_or_insert_with(KernelSymbols::of_running_kernel);
        let name = |(at, address): (usize, &u64)| {
            Arc::from(symbols.name(address.saturating_sub(u64::from(at > 0))))
        };
        frames.iter().enumerate().map(name).collect()
    }

    fn name_user(&mut self, process: ProcessKey, frames: &[u64]) -> Vec<Arc<str>> {
        let Some(image) = self.images.get_mut(&process) else { return Vec::new() };
        let (modules, round) = (&mut self.modules, self.round);
        let name = |(at, address): (usize, &u64)| image.name(*address, at > 0, modules, round);
        frames.iter().enumerate().map(name).collect()
    }

    /// Makes sure that the code of `process` is known.
    fn meet(&mut self, process: ProcessKey) {
        if let Some(image) = self.images.get_mut(&process) {
            image.meet(self.round);
            return;
        }
        if self.images.len() >= PROCESSES_MAX {
            let oldest = self.images.iter().min_by_key(|(_, image)| image.used_at);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.forget(key);
            }
        }
        self.images.insert(process, ProcessImage::read(process, self.round));
    }

    fn follow_frame_pointers(&mut self, process: ProcessKey) {
        match self.source.follow_frame_pointers(process) {
            Ok(follows) => {
                self.counts.frame_pointer_processes += u64::from(follows);
                if let Some(image) = self.images.get_mut(&process) {
                    image.keeps_frame_pointers = follows;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel cannot be told that a process keeps frame pointers");
            }
        }
    }

    fn forget_idle_processes(&mut self) {
        let at = self.round;
        let is_idle = |image: &ProcessImage| at.saturating_sub(image.used_at) > IDLE_ROUNDS_MAX;
        let idle: Vec<_> =
            self.images.iter().filter(|(_, image)| is_idle(image)).map(|(key, _)| *key).collect();
        for key in idle {
            self.forget(key);
        }
    }

    fn forget(&mut self, process: ProcessKey) {
        if self.images.remove(&process).is_some_and(|image| image.keeps_frame_pointers) {
            let counts = &mut self.counts;
            counts.frame_pointer_processes = counts.frame_pointer_processes.saturating_sub(1);
            if let Err(error) = self.source.copy_stacks(process) {
                tracing::warn!(%error, "the kernel still follows the frame pointers of a process");
            }
        }
    }

    fn take_batch(&mut self, answers: Option<u64>) -> Batch {
        let stacks = self.tally.take();
        Batch { stacks, counts: self.counts, answers }
    }
}
