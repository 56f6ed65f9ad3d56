//! Calls of Go's `crypto/tls`.
//!
//! They differ from those in C in what a call belongs to: a goroutine, which may return from it on
//! another thread than it began on, and whose stack may have moved meanwhile. The register `r14`
//! always has the goroutine, in system calls too; what a goroutine does on a socket while it is in a
//! call is what carries the plaintext. Returns are seen at the `ret` instructions, since a return
//! probe would change the stack in a way that Go does not survive. Arguments are in registers, which
//! Go does since 1.17.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::uprobe,
    programs::ProbeContext,
};
use undine_ebpf::{
    Counter,
    load::{COOKIE_ON_STACK, COOKIE_WATCHED, TlsKey},
};

use super::{
    maps::{GO_CALLS, count},
    scope::watches,
    task::Current,
    tls_calls::{TlsCall, moved},
};

/// The goroutine's call; its address stands where a key has the object.
#[inline(always)]
fn goroutine_key(goroutine: u64) -> TlsKey {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    TlsKey { object: goroutine, tgid, reserved: 0 }
}

/// `(*Conn).Read` or `(*Conn).Write` begins, or does so again on a larger stack.
#[uprobe]
pub(crate) fn go_tls_enter(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let goroutine = registers.r14;
    let mut call = TlsCall {
        object: registers.rax,
        buffer: registers.rbx,
        wanted: registers.rcx,
        written: 0,
        // A stack that may move says nothing.
        stack: u64::MAX,
        cookie: cookie | COOKIE_WATCHED,
    };
    if let Some(end) = stack_end(goroutine, call.buffer) {
        call.buffer = end - call.buffer;
        call.cookie |= COOKIE_ON_STACK;
    }
    if GO_CALLS.insert(goroutine_key(goroutine), call, 0).is_err() {
        count(Counter::ConnMapFull, 1);
    }
    0
}

/// Such a function returns.
#[uprobe]
pub(crate) fn go_tls_exit(ctx: ProbeContext) -> u32 {
    // SAFETY: registers are those of the process.
    let (goroutine, result) = unsafe { ((*ctx.regs).r14, (*ctx.regs).rax) };
    let key = goroutine_key(goroutine);
    // SAFETY: copied at once; only the goroutine itself changes its entry.
    let Some(mut call) = unsafe { GO_CALLS.get(key) }.copied() else { return 0 };
    let _ = GO_CALLS.remove(key);
    if result as i64 <= 0 {
        return 0;
    }
    if call.cookie & COOKIE_ON_STACK != 0 {
        let Ok([_, end]) = stack_of(goroutine) else {
            count(Counter::Faults, 1);
            return 0;
        };
        call.buffer = end.wrapping_sub(call.buffer);
    }
    // The entry is only made where the process is watched.
    moved(&call, result, Current::get());
    0
}

/// Where the stack of a goroutine begins and ends: its first field, in every version of Go.
#[inline(always)]
fn stack_of(goroutine: u64) -> Result<[u64; 2], i64> {
    // SAFETY: the helper checks the address in the process.
    unsafe { bpf_probe_read_user(goroutine as *const [u64; 2]) }.map_err(i64::from)
}

/// The end of the goroutine's stack, where `buffer` is on it.
#[inline(always)]
fn stack_end(goroutine: u64, buffer: u64) -> Option<u64> {
    match stack_of(goroutine) {
        Ok([begin, end]) if begin <= buffer && buffer < end => Some(end),
        _ => None,
    }
}
