//! Calls inside of rustls, the TLS library of programs in Rust.
//!
//! What a program hands to it or gets from it goes through functions that the compiler puts into their
//! callers. Two functions deeper that does not happen, unless the whole program is optimised at once:
//! `buffer_plaintext` and `take_received_plaintext`, both of the part of a connection that is the
//! *object* here. Neither does anything on a socket. Two others do, `DeframerVecBuffer::read` and
//! `ChunkVecBuffer::write_to`, of which the objects are parts of the same connection:
//!
//! * *What is received* is read into the one buffer and then decrypted by the same thread. So the
//!   connection on which a thread last did something inside such a read carries what it takes next,
//!   where both objects are so near to each other that they are parts of one value.
//! * *What is sent* is encrypted into another buffer, which lies at a fixed distance from the object and
//!   is then written. The distance is learnt from the first of these writes in a program.
//!
//! A connection is a value that a Rust program may move. So an object's address says something only
//! until it is read into, written from, or its socket is closed, which is checked each time. And as another
//! thread may handshake where the object was, a plaintext has its place in the map under its carrier's
//! number, which is no address, as soon as that is known. From an address only the way there is remembered
//! ([`RUSTLS_OBJECTS`]), and it holds where the plaintext was last seen at that address ([`TlsStream::object`]).

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_loop},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use undine_ebpf::{
    Counter, Direction, EGRESS, INGRESS, PLAINTEXT,
    load::{
        COOKIE_EGRESS, COOKIE_LIBRARY_SHIFT, COOKIE_PIECES, COOKIE_RUST, COOKIE_WATCHED,
        Connection, SECURED_KNOWN, TlsKey, TlsStream,
    },
};

use super::{
    connection::{Sock, find},
    maps::{
        RUSTLS_OBJECTS, RUSTLS_WORK, TLS_CALLS, TLS_CARRIERS, TLS_LIBRARIES, TLS_STREAMS, add,
        count,
    },
    scope::watches,
    task::Current,
    tls_calls::{self, TlsCall, call_key, end, is_record, moved, stream_of},
};

/// What a thread did last in rustls.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// The object whose plaintext it moved last; 0 where it moved none.
    plain: u64,
    /// The buffer of ciphertext that it last filled or emptied.
    buffer: u64,
    /// The object that this buffer is of, where it is emptied and that is known; otherwise 0.
    object: u64,
    /// The stack when that call began; 0 once the call has done what it is for.
    stack: u64,
    /// The address that the call returns to.
    returns: u64,
    /// The connection on which it did something meanwhile; 0 where on none.
    conn: u64,
    /// The address of that connection's socket.
    sock: u64,
    /// [`EGRESS`] or [`INGRESS`].
    direction: u64,
}

const NO_WORK: Work =
    Work { plain: 0, buffer: 0, object: 0, stack: 0, returns: 0, conn: 0, sock: 0, direction: 0 };

/// Index of the stack pointer in `struct pt_regs` of x86-64.
const RSP: usize = 19;
/// Bytes that a part of a connection begins in after the object, at most: the object is larger.
const PART_AT_MAX: u64 = 512;
/// Bytes of a connection of rustls, at most.
const CONNECTION_BYTES_MAX: u64 = 4096;
/// Most bytes of a record's plaintext, with what implementations allow beyond it (RFC 8446, 5.2).
const RECORD_BYTES_MAX: u64 = 16 * 1024 + 2048;
/// Most pieces that the plaintext of one call is in; what is in further ones counts as dropped.
const PIECES_MAX: u32 = 64;
/// What the first word of a plaintext says that is not owned: no capacity is as large.
const BORROWED: u64 = 1 << 63;
/// States of a socket in which its process may still send.
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;

/// The work of the current thread.
#[inline(always)]
fn work() -> Option<*mut Work> {
    let thread = bpf_get_current_pid_tgid();
    if let Some(work) = RUSTLS_WORK.get_ptr_mut(thread) {
        return Some(work);
    }
    let _ = RUSTLS_WORK.insert(thread, NO_WORK, 0);
    RUSTLS_WORK.get_ptr_mut(thread)
}

/// `DeframerVecBuffer::read` or `ChunkVecBuffer::write_to` begins: the first argument is the buffer.
#[uprobe]
pub(crate) fn rustls_carry(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let (buffer, stack) = (registers.rdi, registers.rsp);
    // SAFETY: the helper checks the address in the process.
    let Ok(returns) = (unsafe { bpf_probe_read_user(stack as *const u64) }) else { return 0 };
    let Some(work) = work() else { return 0 };
    let sends = cookie & COOKIE_EGRESS != 0;
    let object = if sends {
        // SAFETY: a map value that only the thread itself changes.
        object_of(buffer, unsafe { (*work).plain }, (cookie >> COOKIE_LIBRARY_SHIFT) as u32)
    } else {
        0
    };
    // SAFETY: as above.
    unsafe {
        (*work).buffer = buffer;
        (*work).object = object;
        (*work).stack = stack;
        (*work).returns = returns;
        (*work).conn = 0;
        (*work).sock = 0;
        (*work).direction = u64::from(if sends { EGRESS } else { INGRESS });
    }
    0
}

/// The object that the `buffer` of what is to be sent is of; 0 where that is not known. `plain` is the
/// object whose plaintext the thread moved last.
#[inline(always)]
fn object_of(buffer: u64, plain: u64, library: u32) -> u64 {
    let Some(library) = TLS_LIBRARIES.get_ptr_mut(library) else { return 0 };
    let distance = buffer.wrapping_sub(plain);
    // SAFETY: a map value; every thread that writes it writes the same.
    unsafe {
        let known = u64::from((*library).sendable_at);
        if known != 0 {
            return buffer.wrapping_sub(known);
        }
        if plain == 0 || distance == 0 || distance >= PART_AT_MAX {
            return 0;
        }
        (*library).sendable_at = distance as u32;
    }
    plain
}

/// The current thread does something on `sock` in `direction`, with the bytes at `bytes`: whether that
/// is what a call inside of rustls is for. Gives the object whose plaintext `sock` turns out to carry, for
/// [`rustls_binds`]; 0 where there is none. A function of numbers only, so that the verifier goes through
/// it once and not wherever bytes move.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rustls_is_carried(sock: u64, bytes: u64, direction: u64) -> u64 {
    let Some(work) = RUSTLS_WORK.get_ptr_mut(bpf_get_current_pid_tgid()) else { return 0 };
    // SAFETY: a map value that only the thread itself changes.
    let Work { object, stack, returns, direction: wanted, .. } = unsafe { *work };
    if stack == 0 || direction != wanted {
        return 0;
    }
    let current = Current::get();
    let registers = current.user_registers();
    // SAFETY: the kernel gave this `struct pt_regs`; the index is inside it.
    if registers.is_null() || unsafe { *registers.add(RSP) } >= stack {
        return 0;
    }
    // The call is under way as long as it can return.
    // SAFETY: the helper checks the address in the process.
    if unsafe { bpf_probe_read_user(stack as *const u64) } != Ok(returns) {
        return 0;
    }
    let Some(connection) = find(Sock(sock)) else { return 0 };
    // SAFETY: map values.
    let conn = unsafe { (*connection).conn };
    let key = TlsKey { object, tgid: current.tgid, reserved: 0 };
    let mut to_bind = 0;
    if direction == u64::from(EGRESS) && object != 0 {
        let is_unbound = TLS_STREAMS.get_ptr_mut(key).is_some();
        if is_unbound || is_of_other(&key, conn) {
            if !is_record(bytes) {
                return 0;
            }
            if is_unbound {
                to_bind = object;
            } else {
                let _ = RUSTLS_OBJECTS.insert(key, conn, 0);
            }
        }
    }
    // SAFETY: as above.
    unsafe {
        (*work).stack = 0;
        (*work).conn = conn;
        (*work).sock = sock;
    }
    to_bind
}

/// Whether another connection than `conn` is the one of which an object was seen at the address in `key` last.
#[inline(always)]
fn is_of_other(key: &TlsKey, conn: u64) -> bool {
    // SAFETY: one number; whether it is from before or after a change does not matter.
    unsafe { RUSTLS_OBJECTS.get(key) }.is_some_and(|seen| *seen != conn)
}

/// Binds the plaintext of `object`, of which so far was not known what carries it, to `sock`. A function of
/// numbers only, as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn rustls_binds(sock: u64, object: u64) -> u64 {
    let current = Current::get();
    let key = TlsKey { object, tgid: current.tgid, reserved: 0 };
    let Some(connection) = find(Sock(sock)) else { return 0 };
    let Some(stream) = TLS_STREAMS.get_ptr_mut(key) else { return 0 };
    if goes_on(Sock(sock), connection, &key, stream, current) {
        return 0;
    }
    let Some(stream) = carries(sock, connection, &key, 0, current) else { return 0 };
    // SAFETY: a map value.
    if unsafe { (*stream).connection.announced } == 0 {
        tls_calls::announce(Sock(sock), stream, connection, current);
    }
    0
}

/// Whether `stream`, the plaintext of the object at the address in `key`, goes on with what an object of
/// the process received and sent through `connection` elsewhere. A connection carries one plaintext, so the
/// program has moved the object since, as servers do after the handshake, with which a request may have
/// come. Then what was sent from the new place is said to be of the former plaintext.
#[inline(always)]
fn goes_on(
    sock: Sock,
    connection: *mut Connection,
    key: &TlsKey,
    stream: *mut TlsStream,
    current: Current,
) -> bool {
    // SAFETY (of both): map values.
    let conn = unsafe { (*connection).conn };
    let Some((_, former)) = carried(conn, key.tgid) else { return false };
    unsafe {
        let all = (&raw mut (*former).connection.totals.directions).cast::<Direction>();
        let new = (&raw const (*stream).connection.totals.directions).cast::<Direction>();
        if (*former).connection.announced == 0 || (*new).operations != 0 {
            return false;
        }
        let (all, new) = (all.add(EGRESS as usize), new.add(EGRESS as usize));
        let to = (*former).connection.conn;
        if !tls_calls::tell(sock, stream, connection, to, (*all).bytes, current) {
            return false;
        }
        (*all).operations += (*new).operations;
        (*all).bytes += (*new).bytes;
        (*all).captured_bytes += (*new).captured_bytes;
        (*all).truncated_bytes += (*new).truncated_bytes;
        (*all).dropped_bytes += (*new).dropped_bytes;
        (*all).dropped_messages += (*new).dropped_messages;
    }
    let _ = TLS_STREAMS.remove(key);
    is_at(former, conn, key);
    true
}

/// The plaintext that connection `conn` carries, and its key, where it is one of the process `tgid`.
#[inline(always)]
fn carried(conn: u64, tgid: u32) -> Option<(TlsKey, *mut TlsStream)> {
    // SAFETY: copied at once; it is replaced only when another process goes on with the connection.
    let key = unsafe { TLS_CARRIERS.get(conn) }.copied()?;
    let stream = TLS_STREAMS.get_ptr_mut(key)?;
    // SAFETY: a map value.
    (key.tgid == tgid && unsafe { (*stream).carrier } == conn).then_some((key, stream))
}

/// Takes note that the object of `stream`, which connection `conn` carries, is at the address in `key` now.
#[inline(always)]
fn is_at(stream: *mut TlsStream, conn: u64, key: &TlsKey) {
    // SAFETY: a map value, of which only the thread that uses the object changes this; one number.
    unsafe {
        (*stream).object = key.object;
        if RUSTLS_OBJECTS.get(key) != Some(&conn) {
            let _ = RUSTLS_OBJECTS.insert(key, conn, 0);
        }
    }
}

/// What stands for `object` in the key of its plaintext: its carrier's number, where an object was at this
/// address last that still `sends`, or whatever it does; otherwise its address. A function of numbers only,
/// so that the verifier goes through it once, and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rustls_stands_for(object: u64, sends: u64) -> u64 {
    let tgid = Current::get().tgid;
    let key = TlsKey { object, tgid, reserved: 0 };
    // SAFETY: one number; whether it is from before or after a change does not matter.
    let Some(conn) = (unsafe { RUSTLS_OBJECTS.get(key) }).copied() else { return object };
    match carried(conn, tgid) {
        // SAFETY: a map value.
        Some((key, stream))
            if unsafe { (*stream).object } == object && (sends == 0 || may_send(stream)) =>
        {
            key.object
        }
        _ => object,
    }
}

/// The plaintext that `connection` carries from now on: that of the object at the address in `key`, of
/// which nothing may be known yet. `cookie` is that of the probe. `None` where a map is full.
#[inline(always)]
fn carries(
    sock: u64,
    connection: *mut Connection,
    key: &TlsKey,
    cookie: u64,
    current: Current,
) -> Option<*mut TlsStream> {
    // SAFETY: a map value.
    let conn = unsafe { (*connection).conn };
    end_former(conn);
    let own = TlsKey { object: conn | PLAINTEXT, ..*key };
    if let Some(unbound) = TLS_STREAMS.get_ptr_mut(key) {
        // SAFETY: a map value.
        if TLS_STREAMS.insert(own, unsafe { &*unbound }, 0).is_err() {
            count(Counter::ConnMapFull, 1);
            return None;
        }
        let _ = TLS_STREAMS.remove(key);
    }
    let stream = stream_of(&TlsCall::of(own.object, cookie), current)?;
    // SAFETY: map values.
    unsafe {
        (*stream).carrier = conn;
        (*stream).sock = sock;
        (*stream).connection.netns = (*connection).netns;
        (*stream).connection.role = (*connection).role;
        (*connection).secured = SECURED_KNOWN;
        (*connection).secured_tgid = own.tgid;
    }
    let _ = TLS_CARRIERS.insert(conn, own, 0);
    is_at(stream, conn, key);
    Some(stream)
}

/// Ends the plaintext that connection `conn` carried: the process, or the one that it is a child of, has
/// begun another since.
#[inline(always)]
fn end_former(conn: u64) {
    // SAFETY: copied at once, as above.
    if let Some(former) = unsafe { TLS_CARRIERS.get(conn) }.copied()
        && let Some(stream) = TLS_STREAMS.get_ptr_mut(former)
        // SAFETY: a map value.
        && unsafe { (*stream).carrier } == conn
    {
        end(&former, stream);
    }
}

/// What stands for `object`, which takes plaintext, in the plaintext's key. A thread has just filled it from
/// the socket that its `work` has, so that connection carries it, wherever the object was before.
#[inline(always)]
fn received_by(object: u64, work: *mut Work, cookie: u64, current: Current) -> u64 {
    // SAFETY: a map value that only the thread itself changes.
    let Work { buffer, conn, sock, direction, .. } = unsafe { *work };
    let near = buffer.wrapping_sub(object).wrapping_add(CONNECTION_BYTES_MAX);
    if conn == 0 || direction != u64::from(INGRESS) || near >= 2 * CONNECTION_BYTES_MAX {
        return rustls_stands_for(object, 0);
    }
    let key = TlsKey { object, tgid: current.tgid, reserved: 0 };
    if let Some((own, stream)) = carried(conn, current.tgid) {
        is_at(stream, conn, &key);
        return own.object;
    }
    let is_carried = find(Sock(sock)).is_some_and(|connection| {
        // SAFETY: a map value.
        let is_same = unsafe { (*connection).conn } == conn;
        is_same && carries(sock, connection, &key, cookie, current).is_some()
    });
    if is_carried { conn | PLAINTEXT } else { object }
}

/// `take_received_plaintext` begins: the object, and the address of where the plaintext is, in three
/// words: its capacity or [`BORROWED`], its address, its length.
#[uprobe]
pub(crate) fn rustls_receive(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let (object, payload) = (registers.rdi, registers.rsi);
    // SAFETY: the helper checks the address in the process.
    let Ok([capacity, buffer, len]) = (unsafe { bpf_probe_read_user(payload as *const [u64; 3]) })
    else {
        count(Counter::Faults, 1);
        return 0;
    };
    if len == 0 {
        return 0;
    }
    if len > RECORD_BYTES_MAX || capacity != BORROWED && capacity >> 48 != 0 {
        count(Counter::Faults, 1);
        return 0;
    }
    let Some(work) = work() else { return 0 };
    let cookie = cookie | COOKIE_WATCHED;
    // SAFETY: a map value that only the thread itself changes.
    unsafe { (*work).plain = object };
    let object = received_by(object, work, cookie, current);
    let call = TlsCall { buffer, wanted: len, ..TlsCall::of(object, cookie) };
    moved(&call, len, current);
    0
}

/// `buffer_plaintext` begins: the object, and the address of where the plaintext is, in four words: 0,
/// its address and its length, or else the address of a list of pieces, how many there are, and
/// which of all their bytes are meant.
#[uprobe]
pub(crate) fn rustls_send_enter(ctx: ProbeContext) -> u32 {
    let current = Current::get();
    if !watches(current, || current.netns()) {
        return 0;
    }
    // SAFETY: the helper only wants the context; registers are those of the process.
    let (cookie, registers) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), &*ctx.regs) };
    let (object, payload) = (registers.rdi, registers.rsi);
    // SAFETY: the helper checks the address in the process.
    let Ok([pieces, second, third, fourth]) =
        (unsafe { bpf_probe_read_user(payload as *const [u64; 4]) })
    else {
        count(Counter::Faults, 1);
        return 0;
    };
    let Some(work) = work() else { return 0 };
    // SAFETY: a map value that only the thread itself changes.
    unsafe { (*work).plain = object };
    let cookie = cookie | COOKIE_WATCHED | COOKIE_RUST;
    // No stack: nothing is done on a socket in this call.
    let call = if pieces == 0 {
        TlsCall { buffer: second, wanted: third, ..TlsCall::of(object, cookie) }
    } else {
        TlsCall {
            buffer: pieces,
            wanted: fourth.wrapping_sub(third),
            written: third,
            stack: second & 0xff,
            ..TlsCall::of(object, cookie | COOKIE_PIECES)
        }
    };
    if TLS_CALLS.insert(call_key(bpf_get_current_pid_tgid()), call, 0).is_err() {
        count(Counter::ConnMapFull, 1);
    }
    0
}

/// `buffer_plaintext` returns how many bytes it took.
#[uretprobe]
pub(crate) fn rustls_send_exit(ctx: RetProbeContext) -> u32 {
    let thread = call_key(bpf_get_current_pid_tgid());
    let Some(entry) = TLS_CALLS.get_ptr_mut(thread) else { return 0 };
    // SAFETY: a map value that only the thread itself changes.
    let (object, cookie, wanted) = unsafe {
        let object = (*entry).object;
        (*entry).object = 0;
        (object, (*entry).cookie, (*entry).wanted)
    };
    let len = ctx.ret::<u64>();
    if object == 0 || cookie & COOKIE_RUST == 0 || len == 0 || len > wanted {
        return 0;
    }
    let object = rustls_stands_for(object, 1);
    if cookie & COOKIE_PIECES == 0 {
        // SAFETY: as above.
        send_piece(object, cookie, unsafe { (*entry).buffer }, len);
        return 0;
    }
    let mut pieces = Pieces { call: entry, object };
    // The helper calls `step` with this context and nothing else, while it lives.
    // SAFETY: as it says, and as above.
    let left = unsafe {
        (*entry).wanted = len;
        bpf_loop(PIECES_MAX, step as *mut _, (&raw mut pieces).cast(), 0);
        (*entry).wanted
    };
    if left != 0 {
        lose(object, cookie, left);
    }
    0
}

/// Whether what carries `stream` still sends.
#[inline(always)]
fn may_send(stream: *mut TlsStream) -> bool {
    // SAFETY: a map value.
    let (carrier, sock) = unsafe { ((*stream).carrier, Sock((*stream).sock)) };
    let Some(connection) = find(sock) else { return false };
    // SAFETY: as above.
    let is_same = unsafe { (*connection).conn == carrier };
    is_same && matches!(sock.state(), TCP_ESTABLISHED | TCP_CLOSE_WAIT)
}

/// A plaintext in pieces. How far they are sent is kept in the thread's call, which is over: where the
/// next piece is ([`TlsCall::buffer`]), how many there are from there on ([`TlsCall::stack`]), how many of
/// their bytes are not meant ([`TlsCall::written`]) and how many are not sent yet ([`TlsCall::wanted`]). On
/// the stack, which is short, the verifier would follow every combination of these numbers.
struct Pieces {
    call: *mut TlsCall,
    object: u64,
}

/// Sends the next piece. Gives 1 where there is no more to send.
unsafe extern "C" fn step(_index: u32, pieces: *mut Pieces) -> i64 {
    // SAFETY: see `rustls_send_exit`; the call is a map value that only the thread itself changes, and
    // the helper checks the address in the process.
    unsafe {
        let Pieces { call, object } = *pieces;
        let Ok([buffer, len]) = bpf_probe_read_user((*call).buffer as *const [u64; 2]) else {
            count(Counter::Faults, 1);
            return 1;
        };
        (*call).buffer += 16;
        let pieces_left = (*call).stack;
        (*call).stack = pieces_left.wrapping_sub(1);
        let skip = (*call).written;
        if len <= skip {
            (*call).written = skip - len;
        } else {
            let (rest, left) = (len - skip, (*call).wanted);
            let take = if rest < left { rest } else { left };
            send_piece(object, (*call).cookie, buffer + skip, take);
            (*call).written = 0;
            (*call).wanted = left - take;
        }
        i64::from((*call).wanted == 0 || pieces_left <= 1)
    }
}

/// Sends the `len` bytes at `buffer` that were handed to `object`. A function of numbers only, so that
/// the verifier goes through it once, and with a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_piece(object: u64, cookie: u64, buffer: u64, len: u64) -> u64 {
    let call = TlsCall { buffer, wanted: len, ..TlsCall::of(object, cookie) };
    moved(&call, len, Current::get());
    0
}

/// Counts `len` bytes that were handed to `object` in pieces beyond those that are looked at. A function
/// of numbers only, as [`send_piece`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lose(object: u64, cookie: u64, len: u64) -> u64 {
    count(Counter::OperationBytes, len);
    count(Counter::TlsBytes, len);
    count(Counter::DroppedBytes, len);
    let Some(stream) = stream_of(&TlsCall::of(object, cookie), Current::get()) else { return 0 };
    // SAFETY: `stream` is a map value; the index is inside the array.
    unsafe {
        let directions = (&raw mut (*stream).connection.totals.directions).cast::<Direction>();
        let totals = directions.add(1);
        add(&raw mut (*totals).bytes, len);
        add(&raw mut (*totals).dropped_bytes, len);
    }
    0
}
