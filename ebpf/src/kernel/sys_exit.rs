//! The same operations seen from the end of system calls, for kernels without the tracepoints of
//! [`super::socket_length`]: the socket is found through the process's file descriptors.
//!
//! `io_uring` and calls of 32-bit programs are not seen.

use aya_ebpf::{
    helpers::bpf_probe_read_user, macros::raw_tracepoint, programs::RawTracePointContext,
};
use undine_ebpf::{Counter, EGRESS, INGRESS, load::Offset};

use super::{
    buffer::Buffer,
    connection::{Sock, find},
    datagram::{Call, Datagram, Moment, in_scope, may_concern},
    fields::{read, read_at},
    maps::count,
    message_index::{MMSGHDR_BYTES, MMSGHDR_LEN},
    operation::Operation,
    repeat::repeat,
    scope::remembers_watching,
    socket_length::{
        MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, PREADV2, PWRITEV2, READ, READV, RECVFROM,
        RECVMMSG, RECVMSG, SENDFILE, SENDMMSG, SENDMSG, SENDTO, SPLICE, WRITE, WRITEV, locate,
        register,
    },
    task::Current,
};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// `thread_info.status`: a system call of a 32-bit program.
const TS_COMPAT: u32 = 2;

/// Most messages of a `sendmmsg` or `recvmmsg` whose bytes are added up; the kernel takes no more.
const MESSAGES_MAX: u64 = 1024;

#[raw_tracepoint]
pub(crate) fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    if result <= 0 {
        return 0;
    }
    let registers: u64 = ctx.arg(0);
    let number = register_at(registers, register::ORIG_RAX);
    let direction = match number {
        READ | READV | RECVFROM | RECVMSG | RECVMMSG | PREADV2 | SPLICE => INGRESS,
        WRITE | WRITEV | SENDTO | SENDMSG | SENDMMSG | PWRITEV2 | SENDFILE => EGRESS,
        _ => return 0,
    };
    let first = register_at(registers, register::RDI);
    observe(registers, first, u64::from(direction), result as u64);
    if number == SPLICE {
        let third = register_at(registers, register::RDX);
        observe(registers, third, u64::from(EGRESS), result as u64);
    }
    0
}

#[inline(always)]
fn register_at(registers: u64, index: usize) -> u64 {
    read_at(registers.wrapping_add(index as u64 * 8))
}

/// Accounts for a call that moved bytes to or from `descriptor`. A function of numbers only, so that
/// the verifier goes through it once and not for each direction and place where it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn observe(registers: u64, descriptor: u64, direction: u64, result: u64) -> u64 {
    observe_moved(registers, descriptor, (direction & 1) as u8, result);
    0
}

#[inline(always)]
fn observe_moved(registers: u64, descriptor: u64, direction: u8, result: u64) {
    // Read again, so that the verifier goes through this once per direction and not per call.
    let number = register_at(registers, register::ORIG_RAX);
    let current = Current::get();
    let Some(sock) = socket_of(current, descriptor) else { return };
    let known = find(sock);
    if known.is_none() {
        if !sock.is_inet() {
            return;
        }
        if sock.is_udp() {
            if may_concern(sock, direction) && in_scope(sock, current) {
                datagrams(registers, sock, direction, result);
            }
            return;
        }
        if !sock.is_tcp() {
            return;
        }
    }
    let is_watched = remembers_watching(current, || match known {
        // SAFETY: a map value.
        Some(connection) => unsafe { (*connection).netns },
        None => sock.netns(),
    });
    if !is_watched {
        count(Counter::OutOfScope, 1);
        return;
    }
    let second = register_at(registers, register::RSI);
    let third = register_at(registers, register::RDX);
    let flags = flags_of(registers, number);
    if flags & MSG_PEEK != 0 {
        count(Counter::Peeks, 1);
        return;
    }
    if flags & MSG_ERRQUEUE != 0 {
        return;
    }
    let several = number == RECVMMSG || number == SENDMMSG;
    let moved = if several { bytes_of_messages(second, result) } else { result };
    let moved = moved as u32;
    if moved == 0 {
        return;
    }
    let copied = direction == EGRESS || flags & (MSG_TRUNC | MSG_OOB) == 0;
    let buffer: Option<Buffer> =
        if copied { locate(number, direction, second, third, u64::from(moved)) } else { None };
    Operation { sock, direction, len: moved, syscall: number as u16, buffer }
        .record(current, known);
}

/// The flags of a call that receives.
#[inline(always)]
fn flags_of(registers: u64, number: u64) -> u64 {
    match number {
        RECVMSG => register_at(registers, register::RDX),
        RECVFROM | RECVMMSG => register_at(registers, register::R10),
        _ => 0,
    }
}

/// The datagrams that a call which gave `result` moved on `sock`.
struct Datagrams {
    registers: u64,
    sock: u64,
    direction: u64,
    /// Bytes of the only one, 0 where there may be several.
    len: u64,
}

/// Accounts for the datagrams of a call that gave `result`.
#[inline(always)]
fn datagrams(registers: u64, sock: Sock, direction: u8, result: u64) {
    let number = register_at(registers, register::ORIG_RAX);
    if flags_of(registers, number) & (MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return;
    }
    let several = number == RECVMMSG || number == SENDMMSG;
    let len = if several { 0 } else { result };
    let messages = if several { result.min(MESSAGES_MAX) } else { 1 };
    let direction = u64::from(direction);
    #[cfg(not(feature = "before-5-17"))]
    {
        let mut all = Datagrams { registers, sock: sock.0, direction, len };
        // SAFETY: `take_datagram` is called with this context and nothing else, while it lives.
        unsafe { repeat(messages as u32, take_datagram, &raw mut all) };
    }
    #[cfg(feature = "before-5-17")]
    repeat::<MESSAGES_MAX>(messages, |index| {
        call_datagram(registers, sock.0, direction, len, index)
    });
}

/// [`take_datagram`] of a call that is told by numbers.
#[cfg(feature = "before-5-17")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn call_datagram(
    registers: u64,
    sock: u64,
    direction: u64,
    len: u64,
    index: u64,
) -> u64 {
    let mut all = Datagrams { registers, sock, direction: direction & 1, len };
    // SAFETY: the context lives through the call.
    unsafe { take_datagram(index as u32, &raw mut all) as u64 }
}

/// Accounts for datagram `index`.
unsafe extern "C" fn take_datagram(index: u32, all: *mut Datagrams) -> i64 {
    // SAFETY: see `datagrams`.
    let (registers, sock, direction, mut len) =
        unsafe { ((*all).registers, Sock((*all).sock), (*all).direction as u8, (*all).len) };
    let second = register_at(registers, register::RSI);
    if len == 0 {
        len = u64::from(message_len(second, index));
    }
    if len as u32 == 0 {
        return 0;
    }
    let call = Call {
        number: register_at(registers, register::ORIG_RAX),
        second,
        third: register_at(registers, register::RDX),
        fifth: register_at(registers, register::R8),
        index: u64::from(index),
        moment: Moment::After,
    };
    let (len, syscall) = (len as u32, call.number as u16);
    let place = call.place(direction, u64::from(len));
    Datagram { sock, direction, len, syscall, place }.record();
    0
}

/// The socket that `descriptor` of `current` refers to.
#[inline(always)]
fn socket_of(current: Current, descriptor: u64) -> Option<Sock> {
    let task = current.as_address();
    if read::<u32>(task, Offset::TaskThreadStatus) & TS_COMPAT != 0 {
        return None;
    }
    let table = read(read(task, Offset::TaskFiles), Offset::FilesTable);
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= u64::from(read::<u32>(table, Offset::TableMax)) {
        return None;
    }
    let files: u64 = read(table, Offset::TableFiles);
    let file: u64 = read_at(files.wrapping_add(descriptor * 8));
    if file == 0 {
        return None;
    }
    let mode: u16 = read(read(file, Offset::FileInode), Offset::InodeMode);
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket: u64 = read(file, Offset::FilePrivate);
    if read::<u64>(socket, Offset::SocketFile) != file {
        return None;
    }
    let sock: u64 = read(socket, Offset::SocketSock);
    (sock != 0).then_some(Sock(sock))
}

/// An array of `struct mmsghdr` that is being added up.
#[cfg(not(feature = "before-5-17"))]
struct Messages {
    vector: u64,
    total: u64,
}

/// Bytes that the first `messages` of the array at `vector` moved.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
fn bytes_of_messages(vector: u64, messages: u64) -> u64 {
    let mut sum = Messages { vector, total: 0 };
    let messages = if messages > MESSAGES_MAX { MESSAGES_MAX } else { messages };
    // SAFETY: `add_message` is called with this context and nothing else, while it lives.
    unsafe { repeat(messages as u32, add_message, &raw mut sum) };
    sum.total
}

/// Bytes that the first `messages` of the array at `vector` moved.
#[cfg(feature = "before-5-17")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bytes_of_messages(vector: u64, messages: u64) -> u64 {
    let mut total = 0;
    let mut index = 0;
    while index < MESSAGES_MAX {
        if index >= messages {
            break;
        }
        total += u64::from(message_len(vector, index as u32));
        index += 1;
    }
    total
}

/// Adds the length of message `index`.
#[cfg(not(feature = "before-5-17"))]
unsafe extern "C" fn add_message(index: u32, sum: *mut Messages) -> i64 {
    // SAFETY: see `bytes_of_messages`.
    unsafe { (*sum).total += u64::from(message_len((*sum).vector, index)) };
    0
}

/// The length of message `index` of the array at `vector`.
#[inline(always)]
fn message_len(vector: u64, index: u32) -> u32 {
    let place = vector.wrapping_add(u64::from(index) * MMSGHDR_BYTES + MMSGHDR_LEN);
    // SAFETY: the helper checks the address in the process.
    unsafe { bpf_probe_read_user(place as *const u32) }.unwrap_or_default()
}
