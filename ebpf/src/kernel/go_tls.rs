//! Calls of Go's `crypto/tls`.
//!
//! They differ from those in C in what a call belongs to: a goroutine, which may return from it on
//! another thread than it began on, and whose stack may have moved meanwhile. The register `r14`
//! always has the goroutine, in system calls too; what a goroutine does on a socket while it is in a
//! call is what carries the plaintext. Returns are seen at the `ret` instructions, since a return
//! probe would change the stack in a way that Go does not survive. Arguments are in registers, which
//! Go does since 1.17.
//!
//! What a client says first may come with the end of its handshake, and the call that gives it to the
//! program then does nothing on the socket. So shaking hands is a call too, of no plaintext.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated::bpf_get_attach_cookie},
    macros::uprobe,
    programs::ProbeContext,
};
use undine_ebpf::{
    Counter,
    load::{COOKIE_ON_STACK, COOKIE_SHAKES, COOKIE_WATCHED, TlsKey},
};

use super::{
    maps::{GO_CALLS, count},
    scope::watches,
    task::Current,
    tls_calls::{TlsCall, leave, moved},
};

/// The goroutine's call; its address stands where a key has the object.
#[inline(always)]
fn goroutine_key(goroutine: u64) -> TlsKey {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    TlsKey { object: goroutine, tgid, reserved: 0 }
}

/// `(*Conn).Read`, `(*Conn).Write` or `(*Conn).handshakeContext` begins, or does so again on a larger
/// stack.
#[uprobe]
pub(crate) fn go_tls_enter(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let goroutine = registers.r14;
    let key = goroutine_key(goroutine);
    // SAFETY: copied at once; only the goroutine itself changes its entry.
    let former = unsafe { GO_CALLS.get(key) }.copied();
    let shakes = cookie & COOKIE_SHAKES != 0;
    let mut call = TlsCall {
        object: registers.rax,
        buffer: registers.rbx,
        wanted: if shakes { 0 } else { registers.rcx },
        written: 0,
        // A stack that may move says nothing.
        stack: u64::MAX,
        cookie: cookie | COOKIE_WATCHED,
        carrier: 0,
    };
    if let Some(former) = former {
        if shakes && former.object == call.object && former.cookie & COOKIE_SHAKES == 0 {
            // Within that one, which has what is done here.
            return 0;
        }
        // It did not return: something in it panicked.
        leave(&former);
    }
    if let Some(end) = stack_end(goroutine, call.buffer) {
        call.buffer = end - call.buffer;
        call.cookie |= COOKIE_ON_STACK;
    }
    if GO_CALLS.insert(key, call, 0).is_err() {
        count(Counter::ConnMapFull, 1);
    }
    0
}

/// Such a function returns.
#[uprobe]
pub(crate) fn go_tls_exit(ctx: ProbeContext) -> u32 {
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let (goroutine, result) = (registers.r14, registers.rax);
    let key = goroutine_key(goroutine);
    // SAFETY: copied at once; only the goroutine itself changes its entry.
    let Some(mut call) = unsafe { GO_CALLS.get(key) }.copied() else { return 0 };
    let shakes = cookie & COOKIE_SHAKES != 0;
    if shakes && call.cookie & COOKIE_SHAKES == 0 {
        // The call around it goes on.
        return 0;
    }
    let _ = GO_CALLS.remove(key);
    // What shaking hands gives back is an error, or none.
    if !shakes && result as i64 > 0 {
        returned(&mut call, goroutine, result);
    }
    leave(&call);
    0
}

/// A call of `goroutine` moved `len` bytes.
#[inline(always)]
fn returned(call: &mut TlsCall, goroutine: u64, len: u64) {
    if call.cookie & COOKIE_ON_STACK != 0 {
        let Ok([_, end]) = stack_of(goroutine) else {
            count(Counter::Faults, 1);
            return;
        };
        call.buffer = end.wrapping_sub(call.buffer);
    }
    // The entry is only made where the process is watched.
    moved(call, len, Current::get());
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
