//! One operation that moved bytes on a socket: counts it, and sends what it moved.

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use undine_ebpf::{
    CHUNKS_MAX, Counter, Direction, FLAG_BYPASSED, FLAG_CONTINUED, FLAG_FAULT, FLAG_TRUNCATED,
    Kind, PAYLOAD_BYTES_MAX,
    load::{Connection, SCRATCH_PER_CPU, Scratch},
};

use super::{
    buffer::Buffer,
    connection::{Sock, admit, announce, find},
    maps::{SCRATCH, add, count},
    ring::{self, at_most_32k, below_16k},
    task::Current,
};

/// Most steps for one operation; each goes to the next run of a vectored operation or copies a
/// piece. Enough for all messages of an operation with some 70 runs; what is beyond is truncated.
const STEPS_MAX: u32 = 160;

const PAYLOAD_MAX: u64 = PAYLOAD_BYTES_MAX as u64;

/// An operation that moved bytes.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    /// On which socket.
    pub(crate) sock: Sock,
    /// [`undine_ebpf::INGRESS`] or [`undine_ebpf::EGRESS`].
    pub(crate) direction: u8,
    /// How many bytes, at least one.
    pub(crate) len: u32,
    /// Number of the system call, or [`ring::NO_SYSCALL`].
    pub(crate) syscall: u16,
    /// Where they are; `None` where they never were in a buffer of the process.
    pub(crate) buffer: Option<Buffer>,
}

impl Operation {
    /// Counts the operation and sends its bytes. `current` is watched.
    #[inline(always)]
    pub(crate) fn record(self, current: Current) {
        let slot = ring::cpu() * SCRATCH_PER_CPU + u32::from(self.direction & 1);
        let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return };
        let len = u64::from(self.len);
        count(Counter::Operations, 1);
        count(Counter::OperationBytes, len);
        let known = find(self.sock);
        let connection = match known {
            Some(_) => known,
            None => admit(self.sock, current, false, scratch),
        };
        let Some(connection) = connection else {
            count(Counter::DroppedOperations, 1);
            count(Counter::DroppedBytes, len);
            return;
        };
        // SAFETY: `connection` is a map value.
        if unsafe { (*connection).announced } == 0 {
            announce(self.sock, connection, current);
        }
        if !self.send(current, connection, scratch) {
            count(Counter::DroppedOperations, 1);
        }
    }

    /// Sends the bytes in messages. Gives whether any of them reached the ring.
    #[inline(always)]
    fn send(self, current: Current, connection: *mut Connection, scratch: *mut Scratch) -> bool {
        let len = u64::from(self.len);
        // SAFETY: `connection` and `scratch` are map values; the index is 0 or 1.
        let totals = unsafe {
            let directions = (&raw mut (*connection).totals.directions).cast::<Direction>();
            directions.add(usize::from(self.direction & 1))
        };
        // SAFETY: as above.
        let start = unsafe {
            add(&raw mut (*totals).operations, 1);
            let start = add(&raw mut (*totals).bytes, len);
            let header = &raw mut (*scratch).header;
            ring::fill(header, Kind::Data, current.tgid, current.tid, current.process_start_ns());
            (*header).direction = self.direction;
            (*header).syscall = self.syscall;
            (*header).conn = (*connection).conn;
            start
        };
        let output = Output { scratch, totals };
        let state = output.state();
        // SAFETY: the state lies in the scratch memory.
        unsafe {
            *state =
                State { buffer: Buffer::contiguous(0, 0), len, start, done: 0, used: 0, sent: 0 };
        }
        match self.buffer {
            None => output.emit(len, 0, FLAG_BYPASSED),
            Some(buffer) => output.gather(buffer),
        }
        // SAFETY: as above.
        unsafe { (*state).sent != 0 }
    }
}

/// How far the messages of one operation have come.
///
/// It lies in the scratch memory and not on the stack, because there the kernel's verifier would
/// follow every combination of values that the steps can lead to.
struct State {
    buffer: Buffer,
    /// Bytes of the operation.
    len: u64,
    /// Where the operation began in its stream.
    start: u64,
    /// How many of its bytes messages have covered.
    done: u64,
    /// Bytes of the next message that are in the scratch memory.
    used: u64,
    /// Not 0 where a message reached the ring.
    sent: u64,
}

/// Where in the payload the state lies: beyond what a message can use.
const STATE_AT: usize = 40 * 1024;

/// Sends the messages of one operation.
struct Output {
    scratch: *mut Scratch,
    totals: *mut Direction,
}

impl Output {
    #[inline(always)]
    fn state(&self) -> *mut State {
        // SAFETY: the state fits into the rest of the payload, which is aligned to 8 bytes.
        unsafe { (&raw mut (*self.scratch).payload).cast::<u8>().add(STATE_AT).cast() }
    }

    /// Copies the bytes in `buffer` and sends a message whenever one is full.
    #[inline(always)]
    fn gather(mut self, buffer: Buffer) {
        let state = self.state();
        // SAFETY: the state lies in the scratch memory; the helper calls `step` with this context
        // and nothing else, while both live.
        unsafe {
            (*state).buffer = buffer;
            bpf_loop(STEPS_MAX, step as *mut _, (&raw mut self).cast(), 0);
            let left = (*state).len - (*state).done;
            if left != 0 {
                // Where memory could not be read, the next run is marked by a length that none has.
                let flags = if (*state).buffer.len == FAULTED { FLAG_FAULT } else { 0 };
                self.emit(left, (*state).used, flags);
            }
        }
    }

    /// Sends a message that covers `cover` bytes, of which `captured` are in the scratch memory.
    #[inline(always)]
    fn emit(&self, cover: u64, captured: u64, mut flags: u8) {
        let missing = cover - captured;
        if flags & FLAG_BYPASSED == 0 && missing != 0 {
            flags |= FLAG_TRUNCATED;
        }
        let state = self.state();
        // SAFETY: `scratch`, in which the state lies, and `totals` are map values.
        unsafe {
            if (*state).done != 0 {
                flags |= FLAG_CONTINUED;
            }
            let header = &raw mut (*self.scratch).header;
            (*header).flags = flags;
            (*header).pos = (*state).start + (*state).done;
            (*header).len = cover as u32;
            (*header).captured = captured as u32;
            let totals = self.totals;
            if ring::send_data(self.scratch, captured) {
                (*state).sent = 1;
                add(&raw mut (*totals).captured_bytes, captured);
                if flags & FLAG_BYPASSED != 0 {
                    add(&raw mut (*totals).bypassed_bytes, missing);
                } else if missing != 0 {
                    add(&raw mut (*totals).truncated_bytes, missing);
                }
            } else {
                add(&raw mut (*totals).dropped_bytes, cover);
                add(&raw mut (*totals).dropped_messages, 1);
                count(Counter::DroppedBytes, cover);
            }
            (*state).done += cover;
        }
    }
}

/// [`Buffer::len`] of a run that could not be read.
const FAULTED: u64 = u64::MAX;

/// Goes to the next run of the buffer, or copies a piece of it. Gives 1 where there is no more to
/// do.
unsafe extern "C" fn step(_index: u32, output: *mut Output) -> i64 {
    // SAFETY: see `Output::gather`; the masks keep the copy inside the scratch memory, and the
    // helper checks the address in the process.
    unsafe {
        let output = &*output;
        let state = output.state();
        let run = (*state).buffer.len;
        if run == 0 {
            let mut buffer = (*state).buffer;
            let more = buffer.advance();
            (*state).buffer = buffer;
            return i64::from(!more);
        }
        let used = below_16k((*state).used);
        let left = (*state).len - (*state).done;
        let piece = at_most_32k(run.min(PAYLOAD_MAX - used).min(left - used));
        let to = (&raw mut (*output.scratch).payload).cast::<u8>().add(used as usize);
        if bpf_probe_read_user(to.cast(), piece as u32, (*state).buffer.base as *const _) != 0 {
            count(Counter::Faults, 1);
            (*state).buffer.len = FAULTED;
            return 1;
        }
        (*state).buffer.base += piece;
        (*state).buffer.len = run - piece;
        let used = used + piece;
        (*state).used = used;
        if used != left && used != PAYLOAD_MAX {
            return 0;
        }
        let last = (*state).done >= (CHUNKS_MAX as u64 - 1) * PAYLOAD_MAX;
        output.emit(if last { left } else { used }, used, 0);
        (*state).used = 0;
        i64::from((*state).done == (*state).len)
    }
}
