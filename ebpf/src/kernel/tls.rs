//! Calls of TLS libraries: what a program hands them to encrypt, and what they decrypted for it.
//!
//! The entry remembers where the bytes are, the return sends them, since only then is it known how
//! many they are: none where the call would have had to wait, and then it is made again.
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
    load::{COOKIE_WRITTEN_R8, COOKIE_WRITTEN_RCX, TlsKey},
};

use super::{
    maps::{TLS_CALLS, TLS_OUTER_CALLS, TLS_STREAMS, count},
    scope::watches,
    task::Current,
    tls_calls::{TlsCall, end, stream_of},
    tls_output::send,
};

/// A function that takes the object, a buffer and its length begins.
#[uprobe]
pub(crate) fn tls_enter(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
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
    };
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied at once; only the thread itself changes its entry.
    if let Some(outer) = unsafe { TLS_CALLS.get(thread) }.copied() {
        if outer.object != call.object && outer.stack > call.stack {
            let _ = TLS_OUTER_CALLS.insert(thread, outer, 0);
        }
    }
    if TLS_CALLS.insert(thread, call, 0).is_err() {
        count(Counter::ConnMapFull, 1);
    }
    0
}

/// Such a function returns.
#[uretprobe]
pub(crate) fn tls_exit(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied at once; only the thread itself changes its entry.
    let Some(call) = unsafe { TLS_CALLS.get(thread) }.copied() else { return 0 };
    let _ = TLS_CALLS.remove(thread);
    // SAFETY: as above.
    if let Some(outer) = unsafe { TLS_OUTER_CALLS.get(thread) }.copied() {
        let _ = TLS_OUTER_CALLS.remove(thread);
        let _ = TLS_CALLS.insert(thread, outer, 0);
    }
    let result = ctx.ret::<u64>() as i32;
    if result <= 0 {
        return 0;
    }
    let moved = if call.written == 0 {
        result as u64
    } else {
        // SAFETY: the helper checks the address in the process.
        match unsafe { bpf_probe_read_user(call.written as *const u64) } {
            Ok(moved) => moved,
            Err(_) => {
                count(Counter::Faults, 1);
                return 0;
            }
        }
    };
    // A library never moves more than it was asked to; 4 GiB in one call do not fit a message.
    if moved == 0 || moved > (call.wanted & 0xffff_ffff) {
        return 0;
    }
    let current = Current::get();
    let Some(stream) = stream_of(&call, current) else {
        count(Counter::Operations, 1);
        count(Counter::OperationBytes, moved);
        count(Counter::TlsOperations, 1);
        count(Counter::TlsBytes, moved);
        count(Counter::DroppedOperations, 1);
        count(Counter::DroppedBytes, moved);
        return 0;
    };
    send(stream, &call, moved, current);
    0
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
