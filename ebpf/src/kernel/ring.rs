//! Sending messages, and counting those for which there is no room.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_output},
};
use undine_ebpf::{
    Counter, Header, Kind, PAYLOAD_BYTES_MAX,
    load::{Pressure, Scratch},
};

use super::maps::{
    PRESSURE, RING, count, look_bytes, rung_down_bytes, rung_up_bytes, wakeup_bytes,
};

/// `bpf_ringbuf_query`: bytes that wait to be read.
const BPF_RB_AVAIL_DATA: u64 = 0;

/// No system call.
pub(crate) const NO_SYSCALL: u16 = 0xffff;

/// The number of this CPU.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// The monotonic clock, in nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Takes the number of the next attempt on this CPU.
#[inline(always)]
pub(crate) fn next_attempt() -> u64 {
    count(Counter::Attempts, 1) + 1
}

/// The reader looks by itself now and then; it is woken only where the ring fills.
#[inline(always)]
pub(crate) fn wakeup() -> u64 {
    wakeup_at(RING.query(BPF_RB_AVAIL_DATA))
}

#[inline(always)]
fn wakeup_at(fill: u64) -> u64 {
    if fill > wakeup_bytes() { u64::from(BPF_RB_FORCE_WAKEUP) } else { u64::from(BPF_RB_NO_WAKEUP) }
}

/// As [`wakeup_after`], which is only called where this CPU has to look.
#[inline(always)]
fn wakeup_now(bytes: u64) -> u64 {
    let Some(pressure) = PRESSURE.get_ptr_mut(0) else { return u64::from(BPF_RB_NO_WAKEUP) };
    // SAFETY: a map value of this CPU.
    unsafe {
        let unlooked = (*pressure).unlooked_bytes + bytes;
        if (*pressure).rung == 0 && unlooked < look_bytes() {
            (*pressure).unlooked_bytes = unlooked;
            return u64::from(BPF_RB_NO_WAKEUP);
        }
    }
    wakeup_after(bytes)
}

/// As [`rung`], which is only called where the ring fills.
#[inline(always)]
pub(crate) fn rung_now() -> u64 {
    match PRESSURE.get_ptr_mut(0) {
        // SAFETY: a map value of this CPU.
        Some(pressure) if unsafe { (*pressure).rung } == 0 => 0,
        _ => rung(),
    }
}

/// As [`wakeup`], for a message of `bytes`. How full the ring is takes a call and a look at what the
/// reader writes, so a CPU looks only after a small part of the ring ([`look_bytes`]), unless it has
/// begun to shed. A function of numbers only, so that the verifier goes through it once and not
/// wherever a message is sent.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wakeup_after(bytes: u64) -> u64 {
    let Some(pressure) = PRESSURE.get_ptr_mut(0) else { return u64::from(BPF_RB_NO_WAKEUP) };
    // SAFETY: a map value of this CPU. Where a softirq comes between, a look comes a message later.
    unsafe {
        (*pressure).unlooked_bytes += bytes;
        if (*pressure).rung == 0 && (*pressure).unlooked_bytes < look_bytes() {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        wakeup_at(look(pressure))
    }
}

/// Looks how full the ring is, and goes up or down the ladder. Gives how full.
#[inline(always)]
unsafe fn look(pressure: *mut Pressure) -> u64 {
    let fill = RING.query(BPF_RB_AVAIL_DATA);
    // SAFETY: the caller passes a map value.
    unsafe {
        (*pressure).unlooked_bytes = 0;
        let rung = (*pressure).rung;
        // A rung ends well below where it begins, so that there is no going to and fro.
        if fill > rung_up_bytes(2) {
            (*pressure).rung = 3;
        } else if fill > rung_up_bytes(1) && rung < 2 {
            (*pressure).rung = 2;
        } else if fill > rung_up_bytes(0) && rung < 1 {
            (*pressure).rung = 1;
        } else if (rung == 3 && fill < rung_down_bytes(2))
            || (rung == 2 && fill < rung_down_bytes(1))
            || (rung == 1 && fill < rung_down_bytes(0))
        {
            (*pressure).rung = rung - 1;
        }
    }
    fill
}

/// The rung of the ladder that an operation is sent at: 0 with all its bytes, otherwise with so many
/// of them as [`undine_ebpf::load::RUNG_PAYLOAD_BYTES`] says. Gone through once, as [`wakeup_after`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rung() -> u64 {
    let Some(pressure) = PRESSURE.get_ptr_mut(0) else { return 0 };
    // SAFETY: a map value of this CPU.
    unsafe {
        if (*pressure).rung != 0 {
            look(pressure);
        }
        (*pressure).rung
    }
}

/// Writes what every message about a process has in common.
#[inline(always)]
pub(crate) fn fill(header: *mut Header, kind: Kind, tgid: u32, tid: u32, process_start_ns: u64) {
    // SAFETY: callers pass a header in the ring or in a map.
    unsafe {
        (*header).kind = kind as u8;
        (*header).flags = 0;
        (*header).direction = 0;
        (*header).beginning = 0;
        (*header).cpu = cpu() as u16;
        (*header).syscall = NO_SYSCALL;
        (*header).time_mono_ns = now_ns();
        (*header).conn = 0;
        (*header).tgid = tgid;
        (*header).tid = tid;
        // One by one, since the compiler would otherwise call a function that zeroes byte by byte.
        (&raw mut (*header).pos).write_volatile(0);
        (&raw mut (*header).len).write_volatile(0);
        (&raw mut (*header).captured).write_volatile(0);
        (*header).process_start_ns = process_start_ns;
    }
}

/// Sends a message of fixed size that `write` fills in, but for its attempt number. Gives whether
/// there was room.
#[inline(always)]
pub(crate) fn send<Message: 'static>(write: impl FnOnce(*mut Message)) -> bool {
    let attempt = next_attempt();
    let Some(mut room) = RING.reserve::<Message>(0) else {
        count(Counter::Dropped, 1);
        return false;
    };
    write(room.as_mut_ptr());
    // SAFETY: every message begins with a header.
    unsafe { (*room.as_mut_ptr().cast::<Header>()).cpu_seq = attempt };
    room.submit(wakeup());
    true
}

/// Sends the data message in `scratch` with its first `captured` payload bytes. Gives whether
/// there was room.
#[inline(always)]
pub(crate) fn send_data(scratch: *mut Scratch, captured: u64) -> bool {
    // SAFETY: `scratch` is a map value, and the mask keeps the length inside it.
    let refused = unsafe {
        (*scratch).header.cpu_seq = next_attempt();
        let bytes = size_of::<Header>() as u64 + at_most_32k(captured);
        let message = (&raw mut (*scratch).header).cast();
        bpf_ringbuf_output(&raw const RING as *mut _, message, bytes, wakeup_now(bytes))
    };
    if refused != 0 {
        count(Counter::Dropped, 1);
    }
    refused == 0
}

/// `value`, in a way that lets the verifier see that it is below 32 KiB.
#[inline(always)]
pub(crate) fn at_most_32k(mut value: u64) -> u64 {
    const { assert!(PAYLOAD_BYTES_MAX < 0x7fff) };
    // SAFETY: a plain mask. In assembly because the compiler knows that the value is small and
    // would leave the mask out, whereas the verifier does not.
    unsafe { core::arch::asm!("{0} &= 0x7fff", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// `value`, in a way that lets the verifier see that it is below 16 KiB.
#[inline(always)]
pub(crate) fn below_16k(mut value: u64) -> u64 {
    const { assert!(PAYLOAD_BYTES_MAX == 0x4000) };
    // SAFETY: as above.
    unsafe { core::arch::asm!("{0} &= 0x3fff", inout(reg) value, options(pure, nomem, nostack)) };
    value
}
