//! The least that programs on the tracepoints of [`super::socket_length`] and on functions of TLS libraries
//! could do, for measuring what Undine does beyond that. They look at nothing but processes in one cgroup, and
//! nothing of a capture is here: no connection, no order of messages, no account of what was left out.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::bpf_probe_read_user,
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};

use super::{
    maps::RING,
    socket_length::{READ, RECVFROM, SENDTO, WRITE, WRITEV, register},
    task::Current,
};

/// Room for the bytes of a run, which fill less than that.
const RUN_ROOM: usize = 1024;
/// The same for an operation that is short.
const SHORT_ROOM: usize = 256;

/// The cgroup whose processes are looked at.
#[unsafe(no_mangle)]
static FLOOR_CGROUP: u64 = 0;

/// Whether the program runs on behalf of a process in that cgroup.
#[inline(always)]
fn concerns(current: Current) -> bool {
    // SAFETY: a global is always readable.
    current.cgroup() == unsafe { read_volatile(addr_of!(FLOOR_CGROUP)) }
}

/// Sees whom an operation concerns, and does nothing.
#[raw_tracepoint]
pub(crate) fn floor_empty(_ctx: RawTracePointContext) -> i32 {
    i32::from(concerns(Current::get()))
}

/// Sees whom a call of a library concerns, and does nothing.
#[uprobe]
pub(crate) fn floor_enter(_ctx: ProbeContext) -> u32 {
    u32::from(concerns(Current::get()))
}

/// The same where the call returns.
#[uretprobe]
pub(crate) fn floor_exit(_ctx: RetProbeContext) -> u32 {
    u32::from(concerns(Current::get()))
}

/// Copies the bytes of an operation from the process into the ring: those of its first two runs, less
/// than [`RUN_ROOM`] of each.
#[raw_tracepoint]
pub(crate) fn floor_copy(ctx: RawTracePointContext) -> i32 {
    let moved: i32 = ctx.arg(1);
    let current = Current::get();
    if moved > 0 && concerns(current) {
        copy(current, moved as u64);
    }
    0
}

#[inline(always)]
fn copy(current: Current, moved: u64) {
    let registers = current.user_registers();
    if registers.is_null() {
        return;
    }
    // SAFETY: the kernel gave this `struct pt_regs`; the indices are inside it.
    let (number, second) =
        unsafe { (*registers.add(register::ORIG_RAX), *registers.add(register::RSI)) };
    match number {
        READ | RECVFROM | WRITE | SENDTO if moved < SHORT_ROOM as u64 => {
            if let Some(mut room) = RING.reserve::<[u8; SHORT_ROOM]>(0) {
                fetch::<SHORT_ROOM>(room.as_mut_ptr().cast(), second, moved);
                room.submit(u64::from(BPF_RB_NO_WAKEUP));
            }
        }
        READ | RECVFROM | WRITE | SENDTO => {
            if let Some(mut room) = RING.reserve::<[u8; RUN_ROOM]>(0) {
                fetch::<RUN_ROOM>(room.as_mut_ptr().cast(), second, moved);
                room.submit(u64::from(BPF_RB_NO_WAKEUP));
            }
        }
        WRITEV => {
            let mut runs = [0_u64; 4];
            let to = runs.as_mut_ptr().cast();
            // SAFETY: the helper checks the address in the process.
            if unsafe { bpf_probe_read_user(to, size_of_val(&runs) as u32, second as *const _) }
                != 0
            {
                return;
            }
            if let Some(mut room) = RING.reserve::<[[u8; RUN_ROOM]; 2]>(0) {
                let to = room.as_mut_ptr().cast::<u8>();
                fetch::<RUN_ROOM>(to, runs[0], runs[1]);
                // SAFETY: the second half of the room.
                let to = unsafe { to.add(RUN_ROOM) };
                fetch::<RUN_ROOM>(to, runs[2], runs[3].min(moved.wrapping_sub(runs[1])));
                room.submit(u64::from(BPF_RB_NO_WAKEUP));
            }
        }
        _ => {}
    }
}

/// Copies `len` bytes, less than `ROOM`, from `from` in the process to `to`, which has room for them.
#[inline(always)]
fn fetch<const ROOM: usize>(to: *mut u8, from: u64, len: u64) {
    const { assert!(ROOM.is_power_of_two()) };
    let mut len = len.min(ROOM as u64 - 1);
    // SAFETY: a plain mask, in assembly so that the compiler leaves it in for the verifier. There is
    // room for `len` bytes, and the helper checks the address in the process.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) len,
            const ROOM - 1,
            options(pure, nomem, nostack),
        );
        bpf_probe_read_user(to.cast(), len as u32, from as *const _);
    }
}
