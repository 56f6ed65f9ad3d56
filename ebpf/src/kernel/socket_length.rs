//! The tracepoints that say how many bytes an operation on a socket moved; kernel 6.3 and later.
//!
//! They run inside the system call, so its arguments are still in the process's registers. They
//! also run where there is no such call: for `io_uring`, `sendfile` and `splice` into a socket,
//! whose bytes are only counted. They do not run for `splice` out of a socket, nor where a process
//! maps what it receives (`TCP_ZEROCOPY_RECEIVE`): those bytes are counted later, by
//! [`super::tcp_stream`].
//!
//! Where a datagram came from is written to the process only after the tracepoint.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use undine_ebpf::{Counter, EGRESS, INGRESS};

use super::{
    buffer::Buffer,
    connection::{Sock, find},
    datagram::{Call, Datagram, Moment, may_concern},
    maps::{count, count_process},
    message_index,
    operation::Operation,
    ring::NO_SYSCALL,
    scope::{remembers_watching, watches},
    task::Current,
    tls_calls,
};

/// Looks without taking.
pub(crate) const MSG_PEEK: u64 = 0x2;
/// Takes without copying, on a TCP socket.
pub(crate) const MSG_TRUNC: u64 = 0x20;
/// Takes a byte that is not part of the stream.
pub(crate) const MSG_OOB: u64 = 0x1;
/// Reads the socket's errors.
pub(crate) const MSG_ERRQUEUE: u64 = 0x2000;

/// Indices in `struct pt_regs` of x86-64.
pub(crate) mod register {
    /// Fourth argument of a system call.
    pub(crate) const R10: usize = 7;
    /// Fifth argument.
    pub(crate) const R8: usize = 9;
    /// Result; minus `ENOSYS` while the call runs.
    pub(crate) const RAX: usize = 10;
    /// Third argument.
    pub(crate) const RDX: usize = 12;
    /// Second argument.
    pub(crate) const RSI: usize = 13;
    /// First argument.
    pub(crate) const RDI: usize = 14;
    /// Number of the call.
    pub(crate) const ORIG_RAX: usize = 15;
}

/// What the kernel puts in the result register until the call is over.
const ENOSYS: u64 = -38_i64 as u64;

#[raw_tracepoint]
pub(crate) fn sock_send_length(ctx: RawTracePointContext) -> i32 {
    observe(&ctx, EGRESS);
    0
}

#[raw_tracepoint]
pub(crate) fn sock_recv_length(ctx: RawTracePointContext) -> i32 {
    observe(&ctx, INGRESS);
    0
}

#[inline(always)]
pub(crate) fn observe(ctx: &RawTracePointContext, direction: u8) {
    let moved: i32 = ctx.arg(1);
    if moved <= 0 {
        moves_nothing(Sock(ctx.arg(0)), moved, direction);
        return;
    }
    let sock = Sock(ctx.arg(0));
    let flags = u64::from(ctx.arg::<u32>(2));
    let current = Current::get();
    // Before the connection is looked for, since most processes of a host may not be watched.
    let is_watched = remembers_watching(current, || match find(sock) {
        // SAFETY: a map value.
        Some(connection) => unsafe { (*connection).netns },
        None => sock.netns(),
    });
    if !is_watched {
        count_process(Counter::OutOfScope, 1);
        return;
    }
    let known = find(sock);
    if known.is_none() {
        if !sock.is_inet() || !sock.has_file() {
            return;
        }
        if sock.is_udp() {
            if flags & (MSG_PEEK | MSG_ERRQUEUE) == 0 && may_concern(sock, direction) {
                datagram(sock, current, direction, moved as u32);
            }
            return;
        }
        if !sock.is_tcp() {
            return;
        }
    }
    if flags & MSG_PEEK != 0 {
        count(Counter::Peeks, 1);
        return;
    }
    if flags & MSG_ERRQUEUE != 0 {
        return;
    }
    let (syscall, buffer) = match running_call(current) {
        Some(call) => {
            let Call { number, second, third, .. } = call;
            (number as u16, locate(number, direction, second, third, moved as u64))
        }
        None => (NO_SYSCALL, None),
    };
    let copied = direction == EGRESS || flags & (MSG_TRUNC | MSG_OOB) == 0;
    let buffer = if copied { buffer } else { None };
    let operation = Operation { sock, direction, len: moved as u32, syscall, buffer };
    if let Some(connection) = operation.record(current, known)
        && let Some(buffer) = buffer
    {
        tls_calls::note_operation(sock, connection, direction, buffer, current);
    }
}

/// A datagram moves that may be of interest, on behalf of `current`, which is watched.
#[inline(always)]
fn datagram(sock: Sock, current: Current, direction: u8, len: u32) {
    let bytes = u64::from(len);
    let (syscall, place) = match running_call(current) {
        Some(mut call) => {
            call.index = index_of_message(current, &call, bytes);
            // With a timeout a call may be over without a sign.
            let known = call.number != RECVMMSG || call.third == 1 || call.fifth == 0;
            let place = if known { call.place(direction, bytes) } else { None };
            (call.number as u16, place)
        }
        None => (NO_SYSCALL, None),
    };
    Datagram { sock, direction, len, syscall, place }.record();
}

/// Which of several messages `call` moves now.
#[inline(always)]
fn index_of_message(current: Current, call: &Call, len: u64) -> u64 {
    let Call { number, second, third, .. } = *call;
    if third == 1 || (number != SENDMMSG && number != RECVMMSG) {
        return 0;
    }
    message_index::next(current.tid, number, second, third, len)
}

/// Keeps count of the messages of a call where one is empty, or ends the call.
#[inline(always)]
fn moves_nothing(sock: Sock, moved: i32, direction: u8) {
    // Mostly it is a call that would have to wait, so this should not take long.
    if moved < 0 && !message_index::is_used() {
        return;
    }
    let current = Current::get();
    let registers = current.user_registers();
    // SAFETY: the kernel gave this `struct pt_regs`; the index is inside it.
    let number =
        if registers.is_null() { 0 } else { unsafe { *registers.add(register::ORIG_RAX) } };
    if number != if direction == EGRESS { SENDMMSG } else { RECVMMSG } {
        return;
    }
    let Some(call) = running_call(current) else { return };
    if moved < 0 {
        message_index::end(current.tid);
    } else if watches(current, || sock.netns()) {
        index_of_message(current, &call, 0);
    }
}

/// The system call that `current` is in.
#[inline(always)]
fn running_call(current: Current) -> Option<Call> {
    let registers = current.user_registers();
    if registers.is_null() {
        return None;
    }
    // SAFETY: the kernel gave this `struct pt_regs`; the indices are inside it.
    let (result, number, second, third, fifth) = unsafe {
        (
            *registers.add(register::RAX),
            *registers.add(register::ORIG_RAX),
            *registers.add(register::RSI),
            *registers.add(register::RDX),
            *registers.add(register::R8),
        )
    };
    // Work of `io_uring` also runs after a system call, or in a thread that made none.
    (result == ENOSYS).then_some(Call {
        number,
        second,
        third,
        fifth,
        index: 0,
        moment: Moment::During,
    })
}

/// Where the bytes of system call `number` are, by its second and third argument.
#[inline(always)]
pub(crate) fn locate(
    number: u64,
    direction: u8,
    second: u64,
    third: u64,
    moved: u64,
) -> Option<Buffer> {
    if direction == INGRESS {
        match number {
            READ | RECVFROM => Some(Buffer::contiguous(second, moved)),
            READV | PREADV2 => Some(Buffer::vectored(second, third)),
            RECVMSG => Some(Buffer::message(second)),
            // Which of several messages this is, cannot be told.
            RECVMMSG if third == 1 => Some(Buffer::message(second)),
            _ => None,
        }
    } else {
        match number {
            WRITE | SENDTO => Some(Buffer::contiguous(second, moved)),
            WRITEV | PWRITEV2 => Some(Buffer::vectored(second, third)),
            SENDMSG => Some(Buffer::message(second)),
            SENDMMSG if third == 1 => Some(Buffer::message(second)),
            _ => None,
        }
    }
}

pub(crate) const READ: u64 = 0;
pub(crate) const WRITE: u64 = 1;
pub(crate) const READV: u64 = 19;
pub(crate) const WRITEV: u64 = 20;
pub(crate) const SENDFILE: u64 = 40;
pub(crate) const SENDTO: u64 = 44;
pub(crate) const RECVFROM: u64 = 45;
pub(crate) const SENDMSG: u64 = 46;
pub(crate) const RECVMSG: u64 = 47;
pub(crate) const SPLICE: u64 = 275;
pub(crate) const RECVMMSG: u64 = 299;
pub(crate) const SENDMMSG: u64 = 307;
pub(crate) const PREADV2: u64 = 327;
pub(crate) const PWRITEV2: u64 = 328;
