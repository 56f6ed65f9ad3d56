//! Sends the plaintext of one call.
//!
//! A message is put together where it lies in the ring, in the smallest of a few sizes that holds
//! it, because scratch memory cannot be shared by programs that may interrupt each other.

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use undine_ebpf::{
    CHUNKS_MAX, Counter, Direction, EGRESS, FLAG_CONTINUED, FLAG_FAULT, FLAG_SHED, FLAG_TRUNCATED,
    Header, INGRESS, Kind, PAYLOAD_BYTES_MAX,
    load::{COOKIE_EGRESS, RUNG_PAYLOAD_BYTES, TlsProgress, TlsStream},
};

use super::{
    maps::{RING, add, count},
    ring,
    task::Current,
    tls_calls::TlsCall,
};

const PAYLOAD_MAX: u64 = PAYLOAD_BYTES_MAX as u64;

/// What the messages of a call are about.
struct Output {
    stream: *mut TlsStream,
    progress: *mut TlsProgress,
    totals: *mut Direction,
    /// As [`ring::rung`] gives it.
    rung: u64,
    /// Bytes of a message, at most.
    room: u64,
}

/// Counts a call that moved `len` bytes, and sends them.
#[inline(always)]
pub(crate) fn send(stream: *mut TlsStream, call: &TlsCall, len: u64, current: Current) {
    count(Counter::Operations, 1);
    count(Counter::TlsOperations, 1);
    count(Counter::OperationBytes, len);
    count(Counter::TlsBytes, len);
    let egress = call.cookie & COOKIE_EGRESS != 0;
    // SAFETY: `stream` is a map value; the index is 0 or 1.
    unsafe {
        let directions = (&raw mut (*stream).connection.totals.directions).cast::<Direction>();
        let totals = directions.add(usize::from(egress));
        let progress = (&raw mut (*stream).progress).cast::<TlsProgress>().add(usize::from(egress));
        add(&raw mut (*totals).operations, 1);
        (*progress).buffer = call.buffer;
        (*progress).len = len;
        (*progress).start = add(&raw mut (*totals).bytes, len);
        (*progress).done = 0;
        (*progress).sent = 0;
        (*progress).direction = u32::from(if egress { EGRESS } else { INGRESS });
        (*progress).tid = current.tid;
        // As of what moves on a socket: a plaintext of which something is kept says more than one that
        // the ring had no room for.
        let rung = ring::rung();
        let (room, shed) = match rung {
            0 => (PAYLOAD_MAX, None),
            1 => (RUNG_PAYLOAD_BYTES[0], Some(Counter::ShortenedOperations)),
            2 => (RUNG_PAYLOAD_BYTES[1], Some(Counter::HeadOperations)),
            _ => (RUNG_PAYLOAD_BYTES[2], Some(Counter::BareOperations)),
        };
        let mut output = Output { stream, progress, totals, rung, room };
        // The helper calls `step` with this context and nothing else, while it lives.
        bpf_loop(CHUNKS_MAX as u32, step as *mut _, (&raw mut output).cast(), 0);
        if (*progress).sent == 0 {
            count(Counter::DroppedOperations, 1);
        } else if let Some(shed) = shed
            && len > room
        {
            count(shed, 1);
        }
    }
}

/// Sends the next message of a call. Gives 1 where there is no more to send.
unsafe extern "C" fn step(index: u32, output: *mut Output) -> i64 {
    // SAFETY: see `send`.
    unsafe {
        let output = &*output;
        let progress = output.progress;
        let left = (*progress).len - (*progress).done;
        let wanted = if left > output.room { output.room } else { left };
        let last = output.rung != 0 || index as usize == CHUNKS_MAX - 1;
        let cover = if last { left } else { wanted };
        let sent = if wanted <= 192 {
            put::<192>(output, wanted, cover)
        } else if wanted <= 1024 {
            put::<1024>(output, wanted, cover)
        } else if wanted <= 4096 {
            put::<4096>(output, wanted, cover)
        } else {
            put::<PAYLOAD_BYTES_MAX>(output, wanted, cover)
        };
        if !sent {
            add(&raw mut (*output.totals).dropped_bytes, cover);
            add(&raw mut (*output.totals).dropped_messages, 1);
            count(Counter::DroppedBytes, cover);
        } else if (*progress).done == 0 {
            (*progress).sent = 1;
        }
        (*progress).done += cover;
        i64::from((*progress).done >= (*progress).len)
    }
}

/// A message with room for so many bytes.
#[repr(C)]
struct Message<const ROOM: usize> {
    header: Header,
    payload: [u8; ROOM],
}

/// Sends a message that covers `cover` bytes, the first `wanted` of them with it. Gives whether
/// there was room.
#[inline(always)]
fn put<const ROOM: usize>(output: &Output, wanted: u64, cover: u64) -> bool {
    let attempt = ring::next_attempt();
    let Some(mut room) = RING.reserve::<Message<ROOM>>(0) else {
        count(Counter::Dropped, 1);
        return false;
    };
    let message = room.as_mut_ptr();
    // SAFETY: `message` is in the ring, and no more is copied than it has room for; the helper
    // checks the address in the process. `stream` and `totals` are map values.
    unsafe {
        let Output { stream, progress, totals, rung, .. } = *output;
        let header = &raw mut (*message).header;
        let (tgid, start) = ((*stream).connection.tgid, (*stream).connection.process_start_ns);
        ring::fill(header, Kind::Data, tgid, (*progress).tid, start);
        (*header).cpu_seq = attempt;
        (*header).conn = (*stream).connection.conn;
        (*header).direction = (*progress).direction as u8;
        (*header).pos = (*progress).start + (*progress).done;
        (*header).len = cover as u32;
        let from = (*progress).buffer + (*progress).done;
        let to = (&raw mut (*message).payload).cast();
        let bytes = at_most::<ROOM>(wanted);
        let fault = bpf_probe_read_user(to, bytes as u32, from as *const _) != 0;
        let captured = if fault { 0 } else { bytes };
        let mut flags = if (*progress).done != 0 { FLAG_CONTINUED } else { 0 };
        if fault {
            flags |= FLAG_FAULT;
            count(Counter::Faults, 1);
        }
        if captured < cover {
            flags |= FLAG_TRUNCATED;
            add(&raw mut (*totals).truncated_bytes, cover - captured);
            if rung != 0 {
                flags |= FLAG_SHED;
                count(Counter::ShedBytes, cover - captured);
            }
        }
        add(&raw mut (*totals).captured_bytes, captured);
        (*header).captured = captured as u32;
        (*header).flags = flags;
    }
    room.submit(ring::wakeup());
    true
}

/// `value`, in a way that lets the verifier see that it is at most `ROOM`.
#[inline(always)]
fn at_most<const ROOM: usize>(mut value: u64) -> u64 {
    // SAFETY: a comparison. In assembly because the compiler knows the outcome and would leave it
    // out, whereas the verifier does not.
    unsafe {
        core::arch::asm!(
            "if {0} <= {1} goto +1",
            "{0} = 0",
            inout(reg) value,
            const ROOM,
            options(pure, nomem, nostack),
        );
    }
    value
}
