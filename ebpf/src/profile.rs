//! What the program `cpu_sample` and user space tell each other.
//!
//! Samples are counted in the kernel by process and stacks, in one of two halves ([`Control::half`])
//! while user space reads and empties the other. Of a process that is not known to keep frame
//! pointers a copy of the user stack is sent instead ([`StackCopy`]), through a ring of its own; where
//! that has no room, frame pointers are followed nevertheless.
//!
//! **Loss identity.** Per CPU `taken = counted + copied + map_full`, all of them exact once
//! [`Totals::entered`] is even on every CPU after the half was changed: then no sample of the old
//! half is being counted any more. A sample whose stack could not be kept is counted without it.
//!
//! **Stacks** are kept by a number that is computed from all of their frames, in a map that takes every
//! one until it is full. The kernel's own map for stacks keeps one in each slot, so that of two stacks
//! with one slot one is never known, however much room there is.

/// Most frames of one stack of one side, user or kernel; the kernel's own bound as it usually is
/// (`perf_event_max_stack`).
pub const FRAMES_MAX: usize = 127;

/// The frames of one side: where the CPU was, then return addresses, then zeros.
pub type Frames = [u64; FRAMES_MAX];

/// Most bytes of a user stack that are copied.
pub const STACK_BYTES_MAX: usize = 16 * 1024;

/// Most processes that are known to keep frame pointers.
pub const FRAME_POINTERS_MAX: u32 = 4096;

/// Bytes of a page, at which reading a stack goes on or ends.
pub const PAGE_BYTES: usize = 4096;

/// [`SampleKey::user_stack`], [`SampleKey::kernel_stack`]: there is none on this side.
pub const NO_STACK: u64 = 0;
/// As [`NO_STACK`], where there was one but the map was full.
pub const STACK_UNKEPT: u64 = 1;
/// As [`NO_STACK`], where there was one that the kernel could not walk.
pub const STACK_REFUSED: u64 = 2;
/// The bit that every number of a stack has.
pub const STACK: u64 = 1 << 63;

/// Key of the maps `SAMPLES_A` and `SAMPLES_B`; the value is the number of samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SampleKey {
    /// As in [`crate::Header::process_start_ns`].
    pub process_start_ns: u64,
    /// Key in the map `STACKS_A` or `STACKS_B`, or one of [`NO_STACK`], [`STACK_UNKEPT`] and
    /// [`STACK_REFUSED`].
    pub user_stack: u64,
    /// As `user_stack`.
    pub kernel_stack: u64,
    /// As in [`crate::Header::tgid`].
    pub tgid: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// The only entry of the map `PROFILE_CONTROL`; only user space writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// 0 where samples go to the maps `…_A`, 1 where they go to `…_B`.
    pub half: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// The only entry of the per-CPU map `PROFILE_TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Odd while the program counts a sample on this CPU.
    pub entered: u64,
    /// Samples of processes in scope.
    pub taken: u64,
    /// Samples of others, of kernel threads and of idle CPUs; nothing else is known of them.
    pub out_of_scope: u64,
    /// Samples in scope that were counted in a map.
    pub counted: u64,
    /// Samples in scope that went to the ring with a copy of their stack.
    pub copied: u64,
    /// Samples in scope that are lost, because the map of counts was full.
    pub map_full: u64,
    /// Stacks that are lost, because the map of stacks was full; their samples are counted.
    pub stacks_full: u64,
    /// Stacks that the kernel could not walk; their samples are counted.
    pub refused: u64,
    /// Copies for which the ring had no room; their samples are counted by frame pointers.
    pub copies_dropped: u64,
}

/// A sample with a copy of its user stack: a message in the ring `STACK_COPIES`.
///
/// Only the first [`Self::len`] bytes of the copy mean anything.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackCopy {
    /// As in [`crate::Header::process_start_ns`].
    pub process_start_ns: u64,
    /// As in [`SampleKey::kernel_stack`], in the half [`Self::half`].
    pub kernel_stack: u64,
    /// As in [`crate::Header::tgid`].
    pub tgid: u32,
    /// As in [`Control::half`].
    pub half: u32,
    /// Bytes of the stack that were read, from [`Self::sp`] upwards.
    pub len: u64,
    /// The user's instruction pointer.
    pub ip: u64,
    /// The user's stack pointer.
    pub sp: u64,
    /// The user's frame pointer register.
    pub fp: u64,
    /// The stack.
    pub bytes: [u8; STACK_BYTES_MAX],
}

/// Bytes of a [`StackCopy`] before the stack itself.
pub const STACK_COPY_HEAD_BYTES: usize = 56;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<SampleKey>(), 32);
        assert_eq!(size_of::<Control>(), 8);
        assert_eq!(size_of::<Totals>(), 72);
        assert_eq!(size_of::<StackCopy>(), STACK_COPY_HEAD_BYTES + STACK_BYTES_MAX);
    }
}
