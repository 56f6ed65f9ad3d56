//! What a TCP socket's sequence numbers say of the bytes that went through it.
//!
//! An operation on a connection that was not known before is preceded by other bytes or is not, and
//! only the socket knows ([`begins`]). Bytes that leave a socket's receive queue without an operation
//! that is seen, by `splice` or `TCP_ZEROCOPY_RECEIVE`, move `copied_seq` all the same
//! ([`catch_up`]).
//!
//! A SYN and a FIN take a number each. `bytes_received` does not count the SYN and counts the FIN
//! once that came; `bytes_acked` counts the SYN of the end that connected, and the FIN.

use undine_ebpf::{
    BEGINNING_MISSED, BEGINNING_SEEN, Counter, Direction, FLAG_BYPASSED, FLAG_CONTINUED, Header,
    INGRESS, Kind,
    load::{Connection, Offset},
};

use super::{
    connection::{ROLE_CLIENT, ROLE_SERVER, Sock},
    fields::read,
    maps::{BORN, add, count},
    ring,
};

/// `sock_flags`: no process holds the socket any more.
const SOCK_DEAD: u64 = 1 << 0;
/// `sock_flags`: the peer's FIN came, and everything before it.
const SOCK_DONE: u64 = 1 << 1;

const TCP_FIN_WAIT1: u8 = 4;
const TCP_FIN_WAIT2: u8 = 5;
const TCP_TIME_WAIT: u8 = 6;
pub(crate) const TCP_CLOSE: u8 = 7;
const TCP_LAST_ACK: u8 = 9;
const TCP_CLOSING: u8 = 11;

/// Most times that numbers are read again because the kernel changed them meanwhile.
const READS_MAX: u32 = 2;

/// Most bytes that one message says have gone by unseen; the next operation finds the others.
const CATCH_UP_BYTES_MAX: u64 = 1 << 30;

/// [`taken`] cannot be told.
const UNKNOWN: u64 = u64::MAX;

/// Whether the socket's queue is what its process reads: not where the kernel decrypts what it
/// receives, or hands it to a program.
#[inline(always)]
fn is_plain(sock: Sock) -> bool {
    read::<u64>(sock.0, Offset::IcskUlp) == 0 && read::<u64>(sock.0, Offset::SockUserData) == 0
}

#[inline(always)]
fn peer_is_done(sock: Sock) -> bool {
    read::<u64>(sock.0, Offset::SockFlags) & SOCK_DONE != 0
}

/// Bytes of the stream that have come, without the FIN.
#[inline(always)]
pub(crate) fn received(sock: Sock) -> u64 {
    let received: u64 = read(sock.0, Offset::TcpBytesReceived);
    if received != 0 && peer_is_done(sock) { received - 1 } else { received }
}

/// Bytes of the stream that have left the socket's receive queue, or [`UNKNOWN`]. A function of numbers
/// only, so that the verifier goes through it once and not wherever it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn taken(sock: u64) -> u64 {
    let sock = Sock(sock);
    if !is_plain(sock) {
        return UNKNOWN;
    }
    let mut reads = 0;
    while reads < READS_MAX {
        let received: u64 = read(sock.0, Offset::TcpBytesReceived);
        let next: u32 = read(sock.0, Offset::TcpRcvNxt);
        let copied: u32 = read(sock.0, Offset::TcpCopiedSeq);
        let done = peer_is_done(sock);
        // A segment may have come meanwhile, on another CPU.
        let same = read::<u32>(sock.0, Offset::TcpRcvNxt) == next
            && read::<u64>(sock.0, Offset::TcpBytesReceived) == received;
        if same {
            let waiting = u64::from(next.wrapping_sub(copied));
            let taken = received.wrapping_sub(waiting);
            // The FIN is the last of those that were received, and may be taken too.
            return if done && taken == received { received.wrapping_sub(1) } else { taken };
        }
        reads += 1;
    }
    UNKNOWN
}

/// Whether a socket in `state` has a FIN to send, or has sent it.
#[inline(always)]
fn has_fin(state: u8) -> bool {
    state == TCP_FIN_WAIT1
        || state == TCP_FIN_WAIT2
        || state == TCP_TIME_WAIT
        || state == TCP_LAST_ACK
        || state == TCP_CLOSING
}

/// Whether the process has given the socket exactly `own` bytes to send, as far as that is certain: not
/// 0 where it has. Gone through once, as [`taken`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sent_only(sock: u64, own: u64, role: u64) -> u64 {
    u64::from(has_sent_only(Sock(sock), own, role as u32))
}

#[inline(always)]
fn has_sent_only(sock: Sock, own: u64, role: u32) -> bool {
    let mut reads = 0;
    while reads < READS_MAX {
        let sent: u64 = read(sock.0, Offset::TcpBytesSent);
        let again: u64 = read(sock.0, Offset::TcpBytesRetrans);
        let acked: u64 = read(sock.0, Offset::TcpBytesAcked);
        let first: u32 = read(sock.0, Offset::TcpSndUna);
        let next: u32 = read(sock.0, Offset::TcpSndNxt);
        let end: u32 = read(sock.0, Offset::TcpWriteSeq);
        let state: u8 = read(sock.0, Offset::SockState);
        let same = read::<u32>(sock.0, Offset::TcpSndUna) == first
            && read::<u64>(sock.0, Offset::TcpBytesAcked) == acked
            && read::<u32>(sock.0, Offset::TcpSndNxt) == next
            && read::<u64>(sock.0, Offset::TcpBytesSent) == sent;
        if same {
            if state == TCP_CLOSE {
                return false;
            }
            let fin = u64::from(has_fin(state));
            // Numbers that were used, those of the SYN and the FIN among them.
            let used = acked + u64::from(end.wrapping_sub(first));
            if role == ROLE_SERVER {
                return used == own + fin;
            }
            if role == ROLE_CLIENT {
                return used == own + fin + 1;
            }
            // Whether there was a SYN is seen from how many of them were sent as data.
            let unsent = u64::from(end.wrapping_sub(next));
            let fin_sent = if unsent == 0 { fin } else { 0 };
            let sent_once = sent.wrapping_sub(again);
            let syn = used.wrapping_sub(unsent).wrapping_sub(fin_sent).wrapping_sub(sent_once);
            return (syn == 0 || syn == 1) && used == own + fin + syn;
        }
        reads += 1;
    }
    false
}

/// Whether the operation of `own` bytes that makes `connection` known is the first on `sock`, and
/// what lies before it. To be called after the operation and before it is counted. Not inlined, since
/// it is long and happens once for each connection.
#[inline(never)]
pub(crate) fn begins(sock: u64, direction: u64, own: u64, connection: *mut Connection) {
    let sock = Sock(sock);
    if connection.is_null() {
        return;
    }
    // SAFETY: `connection` is a map value.
    unsafe {
        let [received, sent] = if direction == u64::from(INGRESS) { [own, 0] } else { [0, own] };
        let taken = taken(sock.0);
        let known = taken != UNKNOWN && taken >= received;
        let connected = (*connection).beginning == u32::from(BEGINNING_SEEN);
        // SAFETY: only whether there is an entry matters.
        let accepted = BORN.get(sock.0).is_some();
        // Whether nothing was received before says the one, who was seen to accept it the other.
        let nothing_received = accepted || (known && taken == received);
        let first = !connected
            && nothing_received
            && sent_only(sock.0, sent, u64::from((*connection).role)) != 0;
        let born = connected || (accepted && first);
        if born || first {
            (*connection).beginning = u32::from(BEGINNING_SEEN);
        } else {
            (*connection).beginning = u32::from(BEGINNING_MISSED);
            (*connection).retransmits = read(sock.0, Offset::TcpTotalRetrans);
        }
        if known {
            // What a connection that was seen to begin has received before, went by unseen.
            let before = if born { 0 } else { taken - received };
            (*connection).taken_before = before;
            let copied: u32 = read(sock.0, Offset::TcpCopiedSeq);
            (*connection).seq = copied.wrapping_sub((taken - before) as u32);
            (*connection).positioned = 1;
        }
    }
}

/// A message that says that bytes went by unseen.
#[repr(C)]
struct GapMessage {
    header: Header,
}

/// Whether bytes have left the queue of `sock` that `connection` has not counted, but for the `own`
/// of an operation that is about to be. Mostly not, so this should not take long.
#[inline(always)]
pub(crate) fn is_behind(sock: Sock, connection: *mut Connection, own: u64) -> bool {
    // SAFETY: `connection` is a map value.
    unsafe {
        let totals = (&raw mut (*connection).totals.directions).cast::<Direction>();
        let counted = (*totals.add(INGRESS as usize)).bytes + own;
        let copied: u32 = read(sock.0, Offset::TcpCopiedSeq);
        (*connection).positioned != 0 && copied != (*connection).seq.wrapping_add(counted as u32)
    }
}

/// Whether every process has closed `sock`, so that nobody is in the middle of receiving from it. A
/// socket that is shut down both ways is still read.
#[inline(always)]
pub(crate) fn is_let_go(sock: Sock) -> bool {
    read::<u64>(sock.0, Offset::SockFlags) & SOCK_DEAD != 0
}

/// Counts the bytes that have left the queue of `sock` unseen, but for the `own` of an operation that
/// is about to be counted, and says where in the stream they were.
///
/// Where two threads receive from one socket at the very same time, the bytes of one may look unseen
/// to the other.
#[inline(never)]
pub(crate) fn catch_up(sock: u64, own: u64, connection: *mut Connection) {
    let sock = Sock(sock);
    if connection.is_null() {
        return;
    }
    let taken = taken(sock.0);
    if taken == UNKNOWN {
        return;
    }
    // SAFETY: `connection` is a map value; `message` is in the ring.
    unsafe {
        let totals = (&raw mut (*connection).totals.directions).cast::<Direction>();
        let totals = totals.add(INGRESS as usize);
        let counted = (*connection).taken_before + (*totals).bytes + own;
        if (*connection).positioned == 0 || taken <= counted {
            return;
        }
        tell_gap(connection, INGRESS, taken - counted);
    }
}

/// Counts and tells `missing` bytes that went by unseen, as far as one message may say.
#[inline(always)]
unsafe fn tell_gap(connection: *mut Connection, direction: u8, mut missing: u64) {
    // SAFETY: the caller passes a map value; `message` is in the ring.
    unsafe {
        let totals = (&raw mut (*connection).totals.directions).cast::<Direction>();
        let totals = totals.add(direction as usize);
        if missing > CATCH_UP_BYTES_MAX {
            missing = CATCH_UP_BYTES_MAX;
        }
        let start = add(&raw mut (*totals).bytes, missing);
        count(Counter::OperationBytes, missing);
        let sent = ring::send::<GapMessage>(|message| {
            let header = &raw mut (*message).header;
            let (tgid, began) = ((*connection).tgid, (*connection).process_start_ns);
            ring::fill(header, Kind::Data, tgid, 0, began);
            (*header).flags = FLAG_BYPASSED | FLAG_CONTINUED;
            (*header).direction = direction;
            (*header).conn = (*connection).conn;
            (*header).beginning = (*connection).beginning as u8;
            (*header).pos = start;
            (*header).len = missing as u32;
        });
        if sent {
            add(&raw mut (*totals).bypassed_bytes, missing);
        } else {
            add(&raw mut (*totals).dropped_bytes, missing);
            add(&raw mut (*totals).dropped_messages, 1);
            count(Counter::DroppedBytes, missing);
        }
    }
}
