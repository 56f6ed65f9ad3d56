//! Which connection carries a plaintext: the one on which a thread or goroutine does something while
//! it is in a call of the TLS library.
//!
//! Other operations may fall into that time too, such as those of a callback. So what moves has to
//! look like a TLS record, and the stack has to be one that the call can have. Where a library never
//! does anything on a socket, [`super::tls_hello`] knows more.
//!
//! A connection may end while such a call is under way: another thread closes it, or the call does.
//! What moved is known when the call returns, so the plaintext ends with the last of these calls.

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
};
use undine_ebpf::{
    Counter, Header, Kind, PLAINTEXT, TlsInfo,
    load::{
        COOKIE_LIBRARY_SHIFT, COOKIE_WATCHED, Connection, SECURED_ANNOUNCED, SECURED_KNOWN,
        TLS_OF_GO, TLS_OF_RUST, TlsKey, TlsStream,
    },
};

use super::{
    buffer::Buffer,
    connection::{Sock, describe, find, say_that_it_ends},
    maps::{
        GO_CALLS, GONE, NEXT_CONN, SETTINGS, TLS_CALLS, TLS_CARRIERS, TLS_FRESH, TLS_LIBRARIES,
        TLS_STREAMS, add, count, count_unadmitted,
    },
    ring, rustls,
    scope::watches,
    task::Current,
    tls_hello, tls_output,
};

/// A call of a TLS library that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TlsCall {
    /// Address of the library's object for the connection; 0 where the call is over.
    pub(crate) object: u64,
    /// Where the plaintext is or will be.
    pub(crate) buffer: u64,
    /// How many bytes it has room for.
    pub(crate) wanted: u64,
    /// Where the library writes how many it moved; 0 where it gives that back.
    pub(crate) written: u64,
    /// The stack when the call began; what is called from it has lower ones.
    pub(crate) stack: u64,
    /// The probe's cookie.
    pub(crate) cookie: u64,
    /// The connection on which something was done in the call, which is then among
    /// [`TlsStream::calls`]; 0 before.
    pub(crate) carrier: u64,
}

impl TlsCall {
    /// One of `object` that has nothing yet.
    #[inline(always)]
    pub(crate) fn of(object: u64, cookie: u64) -> Self {
        Self { object, buffer: 0, wanted: 0, written: 0, stack: 0, cookie, carrier: 0 }
    }
}

/// Kind of a record that has plaintext, or from TLS 1.3 on anything that is encrypted.
const APPLICATION_DATA: u8 = 23;
/// Index of the stack pointer in `struct pt_regs` of x86-64.
const RSP: usize = 19;
/// Index of the register that has the goroutine, where the program is one in Go.
const R14: usize = 1;

/// The key of a thread's call: its id stands where a key has the object. `ids` as the kernel gives
/// them.
#[inline(always)]
pub(crate) fn call_key(ids: u64) -> TlsKey {
    TlsKey { object: ids & 0xffff_ffff, tgid: (ids >> 32) as u32, reserved: 0 }
}

/// Takes note that `current`, which is watched, did something on `sock`, with the bytes in `buffer`.
#[inline(always)]
pub(crate) fn note_operation(
    sock: Sock,
    connection: *mut Connection,
    direction: u8,
    buffer: Buffer,
    current: Current,
) {
    let Some(settings) = SETTINGS.get(0) else { return };
    let tls = settings.tls;
    if tls == 0 {
        return;
    }
    // SAFETY: a map value.
    if unsafe { (*connection).secured } == 0 {
        tls_hello::tls_note_hello(sock.0, u64::from(direction));
    }
    if tls & TLS_OF_RUST != 0 {
        let mut first = buffer;
        if first.len == 0 {
            first.advance();
        }
        let object = rustls::rustls_is_carried(sock.0, first.base, u64::from(direction));
        if object != 0 {
            rustls::rustls_binds(sock.0, object);
        }
    }
    let mut key = TlsKey { object: u64::from(current.tid), tgid: current.tgid, reserved: 0 };
    // SAFETY: a map value.
    let mut call = TLS_CALLS.get_ptr_mut(key).filter(|call| unsafe { (**call).object } != 0);
    if call.is_none() && tls & TLS_OF_GO != 0 {
        let registers = current.user_registers();
        if !registers.is_null() {
            // SAFETY: the kernel gave this `struct pt_regs`; the index is inside it.
            key.object = unsafe { *registers.add(R14) };
            call = GO_CALLS.get_ptr_mut(key);
        }
    }
    let Some(call) = call else { return };
    // SAFETY: map values; only the thread or goroutine itself changes its entry.
    unsafe {
        (*call).cookie |= COOKIE_WATCHED;
        // What it carries was said, and that ends before anything else can be inside.
        let is_said = (*connection).secured == SECURED_ANNOUNCED;
        if !is_said || (*connection).secured_tgid != current.tgid {
            let mut first = buffer;
            if first.len == 0 {
                first.advance();
            }
            tls_is_in_call(sock.0, first.base, key.object);
        }
        let conn = (*connection).conn;
        if (*call).carrier == 0 && tls_joins((*call).object, conn) != 0 {
            (*call).carrier = conn;
        }
    }
}

/// The current process does something on connection `conn` in a call of `object`: counts the call, if
/// that connection carries the object's plaintext. Gives 1 where it does. A function of numbers only, so
/// that the verifier goes through it once and not wherever bytes move.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tls_joins(object: u64, conn: u64) -> u64 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(stream) = TLS_STREAMS.get_ptr_mut(TlsKey { object, tgid, reserved: 0 }) else {
        return 0;
    };
    // SAFETY: a map value.
    unsafe {
        if (*stream).carrier != conn {
            return 0;
        }
        add(&raw mut (*stream).calls, 1);
    }
    1
}

/// The current process's `call` is over, or will never return.
#[inline(always)]
pub(crate) fn leave(call: &TlsCall) {
    if call.carrier != 0 {
        tls_leaves(call.object, call.carrier);
    }
}

/// A call of `object` that was counted while connection `conn` carried its plaintext is over. A function
/// of numbers only, as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tls_leaves(object: u64, conn: u64) -> u64 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let key = TlsKey { object, tgid, reserved: 0 };
    let Some(stream) = TLS_STREAMS.get_ptr_mut(key) else { return 0 };
    // SAFETY: a map value.
    unsafe {
        if (*stream).carrier != conn {
            return 0;
        }
        add(&raw mut (*stream).calls, u64::MAX);
        if read_volatile(&raw const (*stream).is_let_go) != 0
            && read_volatile(&raw const (*stream).calls) == 0
        {
            end_once(conn, &key, stream);
        }
    }
    0
}

/// Whether the process that makes `call` is watched, which an operation within it may have told.
#[inline(always)]
pub(crate) fn is_watched(call: &TlsCall, current: Current) -> bool {
    call.cookie & COOKIE_WATCHED != 0 || watches(current, || current.netns())
}

/// A call of a watched process moved `len` bytes: sends them.
#[inline(always)]
pub(crate) fn moved(call: &TlsCall, len: u64, current: Current) {
    // A library never moves more than it was asked to; 4 GiB in one call do not fit a message.
    if len == 0 || len > (call.wanted & 0xffff_ffff) {
        return;
    }
    let Some(stream) = stream_of(call, current) else {
        count(Counter::Operations, 1);
        count(Counter::OperationBytes, len);
        count(Counter::TlsOperations, 1);
        count(Counter::TlsBytes, len);
        count_unadmitted(len);
        return;
    };
    if tls_hello::is_sought(stream) {
        tls_hello::seek(stream, call.object);
    }
    tls_output::send(stream, call, len, current);
}

/// The current thread or goroutine, `caller`, does something on `sock` while it is in a call, with
/// the bytes at `bytes`. A function of numbers only, so that the verifier goes through it once and
/// not wherever bytes move.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tls_is_in_call(sock: u64, bytes: u64, caller: u64) -> u64 {
    let current = Current::get();
    let caller = TlsKey { object: caller, tgid: current.tgid, reserved: 0 };
    // SAFETY: copied at once; only the thread or goroutine itself changes its entry.
    let call = unsafe { TLS_CALLS.get(caller).or_else(|| GO_CALLS.get(caller)) }.copied();
    if let Some(call) = call
        && let Some(connection) = find(Sock(sock))
    {
        bind(sock, connection, bytes, &call, current);
    }
    0
}

/// Binds the plaintext of `call` to `connection`, if what moves on it is of that call.
#[inline(always)]
fn bind(sock: u64, connection: *mut Connection, bytes: u64, call: &TlsCall, current: Current) {
    let tgid = current.tgid;
    let registers = current.user_registers();
    // SAFETY: the kernel gave this `struct pt_regs`; the index is inside it.
    if registers.is_null() || unsafe { *registers.add(RSP) } >= call.stack {
        return;
    }
    // SAFETY: a map value.
    let conn = unsafe { (*connection).conn };
    let key = TlsKey { object: call.object, tgid, reserved: 0 };
    let mut stream = TLS_STREAMS.get_ptr_mut(key);
    // SAFETY: as above.
    let (carrier, announced) = stream
        .map_or((0, 0), |stream| unsafe { ((*stream).carrier, (*stream).connection.announced) });
    if carrier == conn && announced != 0 {
        return;
    }
    let kind = record_kind(bytes);
    if carrier != conn {
        if kind == 0 {
            return;
        }
        if let Some(other) = stream
            && carrier != 0
        {
            // The object is used for another connection now.
            end(&key, other);
            stream = None;
        }
    }
    let stream = match stream {
        Some(stream) => stream,
        None => match enter(&key, call, current) {
            Some(stream) => stream,
            None => return,
        },
    };
    // SAFETY: as above.
    unsafe {
        if carrier != conn {
            (*stream).carrier = conn;
            (*stream).sock = sock;
            (*stream).connection.netns = (*connection).netns;
            (*stream).connection.role = (*connection).role;
            (*connection).secured = SECURED_KNOWN;
            (*connection).secured_tgid = tgid;
            let _ = TLS_CARRIERS.insert(conn, key, 0);
        }
        // The call may begin with a handshake, which is for user space to read.
        if (*stream).connection.announced == 0 && kind == APPLICATION_DATA {
            announce(Sock(sock), stream, connection, current);
        }
    }
}

/// Whether a TLS record begins at `bytes` in the process.
#[inline(always)]
pub(crate) fn is_record(bytes: u64) -> bool {
    record_kind(bytes) != 0
}

/// The kind of the TLS record that begins at `bytes` in the process; 0 where none does.
#[inline(always)]
fn record_kind(bytes: u64) -> u8 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(bytes as *const [u8; 3]) } {
        Ok([kind @ 20..=24, 3, 0..=4]) => kind,
        _ => 0,
    }
}

/// The plaintext that `call` belongs to.
#[inline(always)]
pub(crate) fn stream_of(call: &TlsCall, current: Current) -> Option<*mut TlsStream> {
    let key = TlsKey { object: call.object, tgid: current.tgid, reserved: 0 };
    match TLS_STREAMS.get_ptr_mut(key) {
        Some(stream) => Some(stream),
        None => enter(&key, call, current),
    }
}

/// Enters a plaintext of which nothing is known yet.
#[inline(always)]
fn enter(key: &TlsKey, call: &TlsCall, current: Current) -> Option<*mut TlsStream> {
    let next = NEXT_CONN.get_ptr_mut(0)?;
    let fresh = TLS_FRESH.get(0)?;
    let _ = TLS_STREAMS.insert(key, fresh, u64::from(BPF_NOEXIST));
    let Some(stream) = TLS_STREAMS.get_ptr_mut(key) else {
        count(Counter::ConnMapFull, 1);
        return None;
    };
    // SAFETY: a map value. Where two threads enter it at once, one number is as good as the other.
    unsafe {
        (*stream).connection.process_start_ns = current.process_start_ns();
        (*stream).connection.tgid = current.tgid;
        (*stream).library = (call.cookie >> COOKIE_LIBRARY_SHIFT) as u32;
        (*stream).connection.conn = add(next, 1) | PLAINTEXT;
    }
    Some(stream)
}

/// A message that says which connection carries a plaintext.
#[repr(C)]
struct TlsMessage {
    header: Header,
    info: TlsInfo,
}

/// Says which connection carries a plaintext. Where the ring is full, the next occasion tries again.
#[inline(always)]
pub(crate) fn announce(
    sock: Sock,
    stream: *mut TlsStream,
    carrier: *mut Connection,
    current: Current,
) {
    // SAFETY: `carrier` is a map value.
    let conn = unsafe { (*carrier).conn };
    if tell(sock, stream, carrier, conn, 0, current) {
        // SAFETY: as above.
        unsafe {
            (*stream).connection.announced = 1;
            (*carrier).secured = SECURED_ANNOUNCED;
        }
    }
}

/// Says that `stream` belongs to `to`, a connection or, from `pos` of what it sends on, another
/// plaintext; `carrier` is the connection. Gives whether the ring had room.
#[inline(always)]
pub(crate) fn tell(
    sock: Sock,
    stream: *mut TlsStream,
    carrier: *mut Connection,
    to: u64,
    pos: u64,
    current: Current,
) -> bool {
    // SAFETY: `stream` and `carrier` are map values.
    let library = unsafe { (*stream).library };
    let probed_since_ns = TLS_LIBRARIES.get(library).map_or(0, |library| library.probed_since_ns);
    ring::send::<TlsMessage>(|message| {
        // SAFETY: as above, and `message` is in the ring.
        unsafe {
            let start = (*stream).connection.process_start_ns;
            ring::fill(&raw mut (*message).header, Kind::Tls, current.tgid, current.tid, start);
            (*message).header.conn = (*stream).connection.conn;
            (*message).header.pos = pos;
            let info = &raw mut (*message).info;
            describe(sock, &raw mut (*info).info);
            (*info).info.netns = u64::from((*carrier).netns);
            (*info).info.cgroup = current.cgroup();
            (*info).info.role = (*carrier).role as u8;
            (*info).carrier = to;
            (*info).probed_since_ns = probed_since_ns;
        }
    })
}

/// Ends the plaintext of `connection`, which ends itself, or leaves that to the last call which is under
/// way on it. Not inlined, since it is rare.
#[inline(never)]
pub(crate) fn carrier_ends(connection: *mut Connection) {
    // SAFETY: a map value.
    let conn = unsafe { (*connection).conn };
    // SAFETY: copied at once; an entry is never replaced.
    let Some(key) = (unsafe { TLS_CARRIERS.get(conn) }).copied() else { return };
    if let Some(stream) = TLS_STREAMS.get_ptr_mut(key)
        // SAFETY: a map value.
        && unsafe { (*stream).carrier } == conn
    {
        // SAFETY: as above. Atomically, so that either this or the last call sees what the other did.
        let calls = unsafe {
            add(&raw mut (*stream).is_let_go, 1);
            read_volatile(&raw const (*stream).calls)
        };
        if calls == 0 || is_gone(stream) {
            end_once(conn, &key, stream);
        }
    } else {
        let _ = TLS_CARRIERS.remove(conn);
    }
}

/// Ends a plaintext whose carrier `conn` has ended, where no one else does so at this moment.
#[inline(always)]
fn end_once(conn: u64, key: &TlsKey, stream: *mut TlsStream) {
    if TLS_CARRIERS.remove(conn).is_ok() {
        // SAFETY: `stream` is a map value.
        say_that_it_ends(unsafe { &raw mut (*stream).connection });
        let _ = TLS_STREAMS.remove(key);
    }
}

/// Whether the process of `stream` has ended, so that none of its calls returns.
#[inline(always)]
fn is_gone(stream: *mut TlsStream) -> bool {
    // SAFETY: map values.
    unsafe {
        let (tgid, start) = ((*stream).connection.tgid, (*stream).connection.process_start_ns);
        GONE.get(tgid).is_some_and(|gone| *gone == start)
    }
}

/// Ends a plaintext; the connection that carries it may go on.
#[inline(always)]
pub(crate) fn end(key: &TlsKey, stream: *mut TlsStream) {
    // SAFETY: `stream` is a map value.
    let (sock, carrier) = unsafe { ((*stream).sock, (*stream).carrier) };
    if carrier != 0 {
        let _ = TLS_CARRIERS.remove(carrier);
        if let Some(connection) = find(Sock(sock))
            // SAFETY: as above.
            && unsafe { (*connection).conn } == carrier
        {
            // SAFETY: as above.
            unsafe { (*connection).secured = 0 };
        }
    }
    // SAFETY: as above.
    say_that_it_ends(unsafe { &raw mut (*stream).connection });
    let _ = TLS_STREAMS.remove(key);
}
