//! Who connected, who listens, and when a connection is gone.
//!
//! Most of this runs in softirqs, on behalf of no one: there only sockets count that an operation
//! in scope has admitted.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use undine_ebpf::{
    Counter,
    load::{Connection, ListenKey, SCRATCH_PER_CPU},
};

use super::{
    connection::{ROLE_SERVER, Sock, admit, find, retire},
    maps::{BORN, LISTEN_PORTS, LISTENERS, SCRATCH, SETTINGS, add, count},
    ring,
    scope::watches,
    task::Current,
    tcp_health::tell_end,
    tcp_stream::{TCP_CLOSE, catch_up, is_let_go},
};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const TCP_LISTEN: i32 = 10;

#[raw_tracepoint]
pub(crate) fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let (before, after): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    if after == i32::from(TCP_CLOSE) && before != TCP_LISTEN {
        let sock = Sock(ctx.arg(0));
        if let Some(connection) = find(sock) {
            closes(sock, connection);
        }
        return 0;
    }
    if before == TCP_SYN_RECV && after == TCP_ESTABLISHED {
        let sock = Sock(ctx.arg(0));
        // Nobody has accepted it, so this is of another socket, which was here before and whose end was not seen.
        if !sock.has_file()
            && let Some(connection) = find(sock)
        {
            count(Counter::MissedEnds, 1);
            retire(sock, connection);
        }
        if sock.role(sock.netns()) == ROLE_SERVER {
            let _ = BORN.insert(sock.0, 1, 0);
        }
        return 0;
    }
    if before != TCP_LISTEN && after != TCP_LISTEN && after != TCP_SYN_SENT {
        return 0;
    }
    let sock = Sock(ctx.arg(0));
    if before == TCP_LISTEN {
        stops_listening(sock);
    } else if sock.is_tcp() && sock.has_file() {
        // A process called `listen` or `connect`, so there is a current one.
        let current = Current::get();
        if watches(current, || sock.netns()) {
            if after == TCP_LISTEN {
                listens(sock);
            } else {
                connects(sock, current);
            }
        }
    }
    0
}

#[raw_tracepoint]
pub(crate) fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    let sock = Sock(ctx.arg(0));
    if let Some(connection) = find(sock) {
        // What the socket still knows: nothing, where it was made to forget with its last state.
        catch_up(sock.0, 0, connection);
        retire(sock, connection);
    }
    0
}

/// The last moment at which `sock` is sure to know all of its connection. Ends the connection where
/// `tcp_destroy_sock`, which otherwise does, is not there; what a process still reads from it then
/// begins another.
#[inline(always)]
fn closes(sock: Sock, connection: *mut Connection) {
    if is_let_go(sock) {
        catch_up(sock.0, 0, connection);
    }
    tell_end(sock.0, connection);
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.end_when_closed != 0 {
        retire(sock, connection);
    }
}

#[inline(always)]
fn listens(sock: Sock) {
    let key = ListenKey { netns: sock.netns(), port: u32::from(sock.local_port()) };
    if key.port == 0 || LISTENERS.insert(sock.0, key, 0).is_err() {
        return;
    }
    match LISTEN_PORTS.get_ptr_mut(key) {
        Some(listeners) => {
            add(listeners, 1);
        }
        None => {
            let _ = LISTEN_PORTS.insert(key, 1, 0);
        }
    }
}

#[inline(always)]
fn stops_listening(sock: Sock) {
    // By its address, since the port may be released already.
    // SAFETY: copied at once; the socket cannot be listed twice.
    let Some(key) = (unsafe { LISTENERS.get(sock.0) }).copied() else { return };
    let _ = LISTENERS.remove(sock.0);
    if let Some(listeners) = LISTEN_PORTS.get_ptr_mut(key) {
        if add(listeners, u64::MAX) == 1 {
            let _ = LISTEN_PORTS.remove(key);
        }
    }
}

/// Remembers that this end connected. Its addresses are not complete yet, so the first operation
/// announces it.
#[inline(always)]
fn connects(sock: Sock, current: Current) {
    if let Some(connection) = find(sock) {
        retire(sock, connection);
    }
    if let Some(scratch) = SCRATCH.get_ptr_mut(ring::cpu() * SCRATCH_PER_CPU) {
        admit(sock, current, true, scratch);
    }
}
