//! The same operations seen where the functions of TCP and UDP sockets return, for kernels without
//! the tracepoints of [`super::socket_length`].
//!
//! Whatever moves bytes calls these functions: system calls, `io_uring`, `sendfile`, `splice` into a
//! socket. They lie below the kernel's `sock_sendmsg` and `sock_recvmsg`, which later messages of a
//! `sendmmsg` or `recvmmsg` pass by. Like the tracepoints they say how many bytes moved, and the
//! system call's arguments are in the process's registers.

use core::ptr::write_volatile;

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::fexit,
    programs::{FExitContext, RawTracePointContext},
};
use undine_ebpf::{EGRESS, INGRESS, load::Offset};

use super::{
    maps::{TOLD, offset},
    socket_length::observe,
};

/// Arguments: the socket, the message, its size.
#[fexit]
#[inline(always)]
pub(crate) fn inet_sendmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(3), 0, EGRESS)
}

/// As [`inet_sendmsg`], of a socket for IPv6.
#[fexit]
#[inline(always)]
pub(crate) fn inet6_sendmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(3), 0, EGRESS)
}

/// Arguments: the socket, the message, its size, flags.
#[fexit]
#[inline(always)]
pub(crate) fn inet_recvmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(4), ctx.arg(3), INGRESS)
}

/// As [`inet_recvmsg`], of a socket for IPv6.
#[fexit]
#[inline(always)]
pub(crate) fn inet6_recvmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(4), ctx.arg(3), INGRESS)
}

/// What `sendfile` and `splice` put into a socket, up to kernel 6.4. Arguments: the socket, the page,
/// where in it and how many bytes, flags.
#[fexit]
#[inline(always)]
pub(crate) fn inet_sendpage(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(5), 0, EGRESS)
}

/// A function returns `result` for the `struct socket` at `socket`: tells it as the tracepoints do.
///
/// Through a map, since the verifier then knows no more of the numbers than of a tracepoint's; where it
/// knows more it goes through the program once for each case.
#[inline(always)]
fn returns(socket: u64, result: u64, flags: u64, direction: u8) -> i32 {
    let Some(told) = TOLD.get_ptr_mut(u32::from(direction & 1)) else { return 0 };
    // SAFETY: a map value of this CPU, which begins with the number that the helper writes: 0 where it
    // cannot read the socket.
    unsafe {
        let place = socket.wrapping_add(offset(Offset::SocketSock) as u64);
        bpf_probe_read_kernel(told.cast(), size_of::<u64>() as u32, place as *const _);
        write_volatile(&raw mut (*told)[1], result);
        write_volatile(&raw mut (*told)[2], flags);
    }
    observe(&RawTracePointContext::new(told.cast()), direction);
    0
}
