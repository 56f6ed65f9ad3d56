//! Calls of TLS libraries in C: what a program hands them to encrypt, and what they decrypted for
//! it.
//!
//! The entry remembers where the bytes are, the return sends them, since only then is it known how
//! many they are: none where the call would have had to wait, and then it is made again. Only then
//! it is looked whether the process is watched, too, before anything of its memory is read.
//!
//! These programs may be interrupted by each other, so they share no scratch memory and change
//! counters atomically.

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use undine_ebpf::{
    Counter,
    load::{COOKIE_HAS_OUTER, COOKIE_WRITTEN_R8, COOKIE_WRITTEN_RCX, TlsKey},
};

use super::{
    maps::{TLS_CALLS, TLS_OUTER_CALLS, TLS_STREAMS, count},
    task::Current,
    tls_calls::{TlsCall, call_key, end, is_watched, leave, moved},
};

/// A function that takes the object, a buffer and its length begins.
#[uprobe]
pub(crate) fn tls_enter(ctx: ProbeContext) -> u32 {
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    // Both are read first: the verifier wants to see which register it is.
    // SAFETY: registers are those of the process.
    let (fourth, fifth) = unsafe {
        (read_volatile(&raw const registers.rcx), read_volatile(&raw const registers.r8))
    };
    let written = if cookie & COOKIE_WRITTEN_RCX != 0 {
        fourth
    } else if cookie & COOKIE_WRITTEN_R8 != 0 {
        fifth
    } else {
        0
    };
    let call = TlsCall {
        object: registers.rdi,
        buffer: registers.rsi,
        wanted: registers.rdx,
        written,
        stack: registers.rsp,
        cookie,
        carrier: 0,
    };
    let thread = call_key(bpf_get_current_pid_tgid());
    let Some(entry) = TLS_CALLS.get_ptr_mut(thread) else {
        if TLS_CALLS.insert(thread, call, 0).is_err() {
            count(Counter::ConnMapFull, 1);
        }
        return 0;
    };
    // SAFETY: a map value that only the thread itself changes.
    unsafe {
        let outer = *entry;
        entry.write(call);
        if outer.object != 0
            && outer.object != call.object
            && outer.stack > call.stack
            && TLS_OUTER_CALLS.insert(thread, outer, 0).is_ok()
        {
            (*entry).cookie = cookie | COOKIE_HAS_OUTER;
        } else if outer.object != 0 {
            // It did not return, or what is within it counts instead.
            leave(&outer);
        }
    }
    0
}

/// Such a function returns.
#[uretprobe]
pub(crate) fn tls_exit(ctx: RetProbeContext) -> u32 {
    let thread = call_key(bpf_get_current_pid_tgid());
    let Some(entry) = TLS_CALLS.get_ptr_mut(thread) else { return 0 };
    // SAFETY: as above.
    let call = unsafe { *entry };
    if call.object == 0 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*entry).object = 0 };
    if call.cookie & COOKIE_HAS_OUTER != 0
        // SAFETY: copied at once; only the thread itself changes it.
        && let Some(outer) = unsafe { TLS_OUTER_CALLS.get(thread) }.copied()
    {
        let _ = TLS_OUTER_CALLS.remove(thread);
        // SAFETY: as above.
        unsafe { entry.write(outer) };
    }
    let result = ctx.ret::<u64>() as i32;
    if result > 0 {
        returned(&call, result as u64);
    }
    leave(&call);
    0
}

/// A call succeeded and gave back `result`.
#[inline(always)]
fn returned(call: &TlsCall, result: u64) {
    let current = Current::get();
    if !is_watched(call, current) {
        return;
    }
    let len = if call.written == 0 {
        result
    } else {
        // SAFETY: the helper checks the address in the process.
        match unsafe { bpf_probe_read_user(call.written as *const u64) } {
            Ok(len) => len,
            Err(_) => {
                count(Counter::Faults, 1);
                return;
            }
        }
    };
    moved(call, len, current);
}

/// A program gives an object back to its library.
#[uprobe]
pub(crate) fn tls_free(ctx: ProbeContext) -> u32 {
    // SAFETY: registers are those of the process.
    let object = unsafe { (*ctx.regs).rdi };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let key = TlsKey { object, tgid, reserved: 0 };
    if let Some(stream) = TLS_STREAMS.get_ptr_mut(key) {
        end(&key, stream);
    }
    0
}
