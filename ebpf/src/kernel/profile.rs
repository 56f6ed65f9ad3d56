//! Samples of what processes in scope do with their CPU time.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    bindings::{BPF_F_USER_STACK, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_stack, bpf_probe_read_user},
    macros::{map, perf_event},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::PerfEventContext,
};
use undine_ebpf::profile::{
    Control, FRAME_POINTERS_MAX, FRAMES_MAX, Frames, NO_STACK, PAGE_BYTES, STACK, STACK_REFUSED,
    STACK_UNKEPT, SampleKey, StackCopy, Totals,
};

use super::{maps::add, scope::watches, task::Current};

/// How many samples each process and stack has. Of the two halves one is in use.
#[map]
static SAMPLES_A: HashMap<SampleKey, u64> = HashMap::with_max_entries(1024, 0);
#[map]
static SAMPLES_B: HashMap<SampleKey, u64> = HashMap::with_max_entries(1024, 0);
/// The stacks that they name.
#[map]
static STACKS_A: HashMap<u64, Frames> = HashMap::with_max_entries(1024, 0);
#[map]
static STACKS_B: HashMap<u64, Frames> = HashMap::with_max_entries(1024, 0);
/// Room for the frames of a stack, of each CPU.
#[map]
static FRAMES: PerCpuArray<Frames> = PerCpuArray::with_max_entries(1, 0);
/// The only [`Control`].
#[map]
static PROFILE_CONTROL: Array<Control> = Array::with_max_entries(1, 0);
/// The only [`Totals`] of each CPU.
#[map]
static PROFILE_TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);
/// Processes that keep frame pointers, by their id; the value is when they started.
#[map]
static FRAME_POINTERS: HashMap<u32, u64> = HashMap::with_max_entries(FRAME_POINTERS_MAX, 0);
/// Copies of the stacks of all others.
#[map]
static STACK_COPIES: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

const EFAULT: i64 = -14;
/// Flag of a map's insertion: only where there is no such key.
const BPF_NOEXIST: u64 = 1;
/// Pages of a stack that are read after the one that its pointer is in.
const FURTHER_PAGES: usize = 3;
/// The bits of the code segment that say whether a program or the kernel ran.
const PRIVILEGE: u64 = 3;

/// Places of registers in `struct pt_regs`.
mod register {
    pub(super) const RBP: usize = 4;
    pub(super) const RIP: usize = 16;
    pub(super) const RSP: usize = 19;
}

/// Runs on every CPU at a fixed frequency, whatever the CPU does.
#[perf_event]
pub(crate) fn cpu_sample(ctx: PerfEventContext) -> i32 {
    let Some(totals) = PROFILE_TOTALS.get_ptr_mut(0) else { return 0 };
    let current = Current::get();
    if !watches(current, || current.netns()) {
        // SAFETY (of every access to `totals`): a map value of this CPU, on which samples do not
        // interrupt each other.
        unsafe { (*totals).out_of_scope += 1 };
        return 0;
    }
    // Atomic, so that no later access comes before it: whoever changes the half and then finds an
    // even number knows that all further samples see the change.
    // SAFETY: as above.
    let entered = unsafe { addr_of_mut!((*totals).entered) };
    add(entered, 1);
    // SAFETY: as above.
    unsafe { (*totals).taken += 1 };
    take(&ctx, current, totals);
    add(entered, 1);
    0
}

#[inline(always)]
fn take(ctx: &PerfEventContext, current: Current, totals: *mut Totals) {
    let Some(control) = PROFILE_CONTROL.get(0) else { return };
    // SAFETY: a map value; it may change at any time, so it is read once.
    let half = unsafe { (&raw const control.half).read_volatile() };
    // SAFETY: the context of this kind of program.
    let in_kernel = unsafe { (*ctx.ctx).regs.cs } & PRIVILEGE == 0;
    let kernel_stack = if in_kernel { stack(ctx, half, 0, totals) } else { NO_STACK };
    let process_start_ns = current.process_start_ns();
    let tgid = current.tgid;
    // SAFETY: it is one word.
    let keeps_frame_pointers =
        unsafe { FRAME_POINTERS.get(tgid) }.is_some_and(|start| *start == process_start_ns);
    if !keeps_frame_pointers {
        if copy(current, process_start_ns, kernel_stack, half) {
            // SAFETY: see `cpu_sample`.
            unsafe { (*totals).copied += 1 };
            return;
        }
        // SAFETY: as above.
        unsafe { (*totals).copies_dropped += 1 };
    }
    let user_stack = stack(ctx, half, u64::from(BPF_F_USER_STACK), totals);
    let key = SampleKey { process_start_ns, user_stack, kernel_stack, tgid, reserved: 0 };
    let is_counted = if half == 0 { count(&SAMPLES_A, &key) } else { count(&SAMPLES_B, &key) };
    // SAFETY: as above.
    unsafe {
        if is_counted {
            (*totals).counted += 1;
        } else {
            (*totals).map_full += 1;
        }
    }
}

/// Keeps the stack of one side. Gives its key.
#[inline(always)]
fn stack(ctx: &PerfEventContext, half: u32, flags: u64, totals: *mut Totals) -> u64 {
    let Some(frames) = FRAMES.get_ptr_mut(0) else { return NO_STACK };
    // SAFETY: the context of this kind of program, and room of this CPU, all of which the kernel writes.
    let bytes =
        unsafe { bpf_get_stack(ctx.ctx.cast(), frames.cast(), size_of::<Frames>() as u32, flags) };
    // Nothing to walk: the process is ending and its memory is gone.
    if bytes == EFAULT {
        return NO_STACK;
    }
    if bytes < 0 {
        // SAFETY: see `cpu_sample`.
        unsafe { (*totals).refused += 1 };
        return STACK_REFUSED;
    }
    // SAFETY: as above; nothing else writes there.
    let frames = unsafe { &*frames };
    let key = key_of(frames, bytes as usize / size_of::<u64>());
    let is_kept =
        if half == 0 { keep(&STACKS_A, key, frames) } else { keep(&STACKS_B, key, frames) };
    if is_kept {
        return key;
    }
    // SAFETY: see `cpu_sample`.
    unsafe { (*totals).stacks_full += 1 };
    STACK_UNKEPT
}

/// A number for the first `len` of `frames`: one multiplication for each, as in `FxHash`.
#[inline(always)]
fn key_of(frames: &Frames, len: usize) -> u64 {
    let (mut key, mut at) = (0_u64, 0);
    while at < FRAMES_MAX && at < len {
        key = (key.rotate_left(5) ^ frames[at]).wrapping_mul(0x517c_c1b7_2722_0a95);
        at += 1;
    }
    key | STACK
}

/// Keeps `frames` where they are not kept yet. Gives whether there was room.
#[inline(always)]
fn keep(stacks: &HashMap<u64, Frames>, key: u64, frames: &Frames) -> bool {
    stacks.get_ptr(key).is_some()
        || stacks.insert(key, frames, BPF_NOEXIST).is_ok()
        // Another CPU was faster, or there is no room.
        || stacks.get_ptr(key).is_some()
}

/// Counts a sample. Gives whether there was room.
#[inline(always)]
fn count(samples: &HashMap<SampleKey, u64>, key: &SampleKey) -> bool {
    if let Some(number) = samples.get_ptr_mut(key) {
        add(number, 1);
        return true;
    }
    match samples.insert(key, 1, BPF_NOEXIST) {
        Ok(()) => true,
        // Another CPU was faster, or there is no room.
        Err(_) => match samples.get_ptr_mut(key) {
            Some(number) => {
                add(number, 1);
                true
            }
            None => false,
        },
    }
}

/// Sends a copy of the user stack. Gives whether there was room.
#[inline(always)]
fn copy(current: Current, process_start_ns: u64, kernel_stack: u64, half: u32) -> bool {
    let registers = current.user_registers();
    if registers.is_null() {
        return false;
    }
    let Some(mut room) = STACK_COPIES.reserve::<StackCopy>(0) else { return false };
    let message = room.as_mut_ptr();
    // SAFETY: the kernel gave the `struct pt_regs` and the places are inside it; `message` is in
    // the ring, and no read goes past its end: at most 4095 bytes of the first page, then whole
    // pages, of which there is room for three.
    unsafe {
        let sp = *registers.add(register::RSP);
        (*message).process_start_ns = process_start_ns;
        (*message).tgid = current.tgid;
        (*message).kernel_stack = kernel_stack;
        (*message).half = half;
        (*message).ip = *registers.add(register::RIP);
        (*message).sp = sp;
        (*message).fp = *registers.add(register::RBP);
        let bytes = addr_of_mut!((*message).bytes).cast::<u8>();
        // A page that is not there ends the copy, so it goes from page to page.
        let first = below_a_page(sp.wrapping_neg());
        let mut len = 0;
        if bpf_probe_read_user(bytes.cast(), first as u32, sp as *const _) == 0 {
            len = first;
            let mut page = 0;
            while page < FURTHER_PAGES {
                let from = sp.wrapping_add(first).wrapping_add((page * PAGE_BYTES) as u64);
                let to = bytes.add(first as usize).add(page * PAGE_BYTES);
                if bpf_probe_read_user(to.cast(), PAGE_BYTES as u32, from as *const _) != 0 {
                    break;
                }
                len += PAGE_BYTES as u64;
                page += 1;
            }
        }
        (*message).len = len;
    }
    room.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

/// `value` within a page, in a way that lets the verifier see that.
#[inline(always)]
fn below_a_page(mut value: u64) -> u64 {
    const { assert!(PAGE_BYTES == 0x1000) };
    // SAFETY: a plain mask; see `ring::at_most_32k`.
    unsafe { core::arch::asm!("{0} &= 0xfff", inout(reg) value, options(pure, nomem, nostack)) };
    value
}
