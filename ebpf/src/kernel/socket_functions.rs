//! The same operations seen where the functions of TCP and UDP sockets return, for kernels without
//! the tracepoints of [`super::socket_length`].
//!
//! Whatever moves bytes calls these functions: system calls, `io_uring`, `sendfile`, `splice` into a
//! socket. They lie below the kernel's `sock_sendmsg` and `sock_recvmsg`, which later messages of a
//! `sendmmsg` or `recvmmsg` pass by. Like the tracepoints they say how many bytes moved, and the
//! system call's arguments are in the process's registers.

use aya_ebpf::{
    macros::fexit,
    programs::{FExitContext, RawTracePointContext},
};
use undine_ebpf::{EGRESS, INGRESS, load::Offset};

use super::{fields::read, socket_length::observe};

/// Arguments: the socket, the message, its size.
#[fexit]
pub(crate) fn inet_sendmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(3), 0, EGRESS)
}

/// As [`inet_sendmsg`], of a socket for IPv6.
#[fexit]
pub(crate) fn inet6_sendmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(3), 0, EGRESS)
}

/// Arguments: the socket, the message, its size, flags.
#[fexit]
pub(crate) fn inet_recvmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(4), ctx.arg(3), INGRESS)
}

/// As [`inet_recvmsg`], of a socket for IPv6.
#[fexit]
pub(crate) fn inet6_recvmsg(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(4), ctx.arg(3), INGRESS)
}

/// What `sendfile` and `splice` put into a socket, up to kernel 6.4. Arguments: the socket, the page,
/// where in it and how many bytes, flags.
#[fexit]
pub(crate) fn inet_sendpage(ctx: FExitContext) -> i32 {
    returns(ctx.arg(0), ctx.arg(5), 0, EGRESS)
}

/// A function returns `result` for the `struct socket` at `socket`: tells it as the tracepoints do.
#[inline(always)]
fn returns(socket: u64, result: u64, flags: u64, direction: u8) -> i32 {
    let sock: u64 = read(socket, Offset::SocketSock);
    let told = [sock, result, flags];
    observe(&RawTracePointContext::new((&raw const told).cast_mut().cast()), direction);
    0
}
