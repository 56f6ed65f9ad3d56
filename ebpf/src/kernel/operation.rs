//! One operation that moved bytes on a socket: counts it, and sends what it moved.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use undine_ebpf::{
    CHUNKS_MAX, Counter, Direction, FLAG_BYPASSED, FLAG_CONTINUED, FLAG_ELIDED, FLAG_FAULT,
    FLAG_SHED, FLAG_TRUNCATED, INGRESS, Kind, PAYLOAD_BYTES_MAX,
    load::{Connection, RUNG_PAYLOAD_BYTES, SCRATCH_PER_CPU, SECURED_ANNOUNCED, Scratch},
};

use super::{
    buffer::Buffer,
    connection::{Sock, admit, announce},
    maps::{SCRATCH, add, count, count_process, count_unadmitted, tcp_stats_interval_ns},
    repeat::repeat,
    ring::{self, at_most_32k, below_16k},
    task::Current,
    tcp_health::tell_stats,
    tcp_stream::{begins, catch_up, is_behind},
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
    /// Counts the operation and sends its bytes. `current` is watched; `known` is the socket's
    /// connection, where it has been admitted. Gives the connection.
    #[inline(always)]
    pub(crate) fn record(
        self,
        current: Current,
        known: Option<*mut Connection>,
    ) -> Option<*mut Connection> {
        let slot = ring::cpu() * SCRATCH_PER_CPU + u32::from(self.direction & 1);
        let scratch = SCRATCH.get_ptr_mut(slot)?;
        let state = state_in(scratch);
        // SAFETY: the state lies in the scratch memory. Read back from there, numbers are all alike
        // to the verifier, which would otherwise go on once for each kind of call.
        let len = unsafe {
            let (buffer, bypassed) = match self.buffer {
                Some(buffer) => (buffer, 0),
                None => (Buffer::contiguous(0, 0), 1),
            };
            let len = u64::from(self.len);
            (*state).buffer = buffer;
            (*state).bypassed = bypassed;
            (*state).len = len;
            (*state).room = PAYLOAD_MAX;
            // One by one, since the compiler would otherwise call a function that zeroes byte by byte.
            for zero in [
                &raw mut (*state).start,
                &raw mut (*state).done,
                &raw mut (*state).used,
                &raw mut (*state).rung,
                &raw mut (*state).sent,
            ] {
                zero.write_volatile(0);
            }
            #[cfg(feature = "before-5-17")]
            {
                (*state).sock = self.sock.0;
            }
            (*scratch).header.syscall = self.syscall;
            read_volatile(&raw const (*state).len)
        };
        count_process(Counter::Operations, 1);
        count_process(Counter::OperationBytes, len);
        let connection = match known {
            Some(_) => known,
            None => admit(self.sock, current, false, scratch),
        };
        let Some(connection) = connection else {
            count_unadmitted(len);
            return None;
        };
        // SAFETY: `connection` and `scratch` are map values; the index is 0 or 1.
        let sent = unsafe {
            let directions = (&raw mut (*connection).totals.directions).cast::<Direction>();
            let totals = directions.add(usize::from(self.direction & 1));
            if (*connection).stats_at == 0 {
                (*connection).stats_at = ring::now_ns();
                begins(self.sock.0, u64::from(self.direction), len, connection);
            }
            // Only here, since another thread may be receiving while this one sends.
            if self.direction == INGRESS && is_behind(self.sock, connection, len) {
                catch_up(self.sock.0, len, connection);
            }
            if (*connection).announced == 0 {
                announce(self.sock, connection, current);
            }
            add(&raw mut (*totals).operations, 1);
            (*state).start = add(&raw mut (*totals).bytes, len);
            let process_start_ns = if (*connection).tgid == current.tgid {
                (*connection).process_start_ns
            } else {
                current.process_start_ns()
            };
            let header = &raw mut (*scratch).header;
            let syscall = read_volatile(&raw const (*header).syscall);
            ring::fill(header, Kind::Data, current.tgid, current.tid, process_start_ns);
            (*header).direction = self.direction;
            (*header).syscall = syscall;
            (*header).conn = (*connection).conn;
            (*header).beginning = (*connection).beginning as u8;
            let now = (*header).time_mono_ns;
            if (*connection).secured == SECURED_ANNOUNCED {
                (*state).bypassed = ELIDED;
                count(Counter::ElidedBytes, len);
            }
            Output { scratch, totals }.send(len);
            if now.wrapping_sub((*connection).stats_at) > tcp_stats_interval_ns() {
                (*connection).stats_at = now;
                tell_stats(self.sock.0, connection, 0);
            }
            (*state).sent
        };
        if sent == 0 {
            count(Counter::DroppedOperations, 1);
        }
        Some(connection)
    }
}

/// How far the messages of one operation have come.
///
/// It lies in the scratch memory and not on the stack, because there the kernel's verifier would
/// follow every combination of values that the steps can lead to.
struct State {
    buffer: Buffer,
    /// Not 0 where the bytes never were in a buffer of the process, or are left there ([`ELIDED`]).
    bypassed: u64,
    /// Bytes of the operation.
    len: u64,
    /// Where the operation began in its stream.
    start: u64,
    /// How many of its bytes messages have covered.
    done: u64,
    /// Bytes of the next message that are in the scratch memory.
    used: u64,
    /// Most bytes that a message carries; less than [`PAYLOAD_MAX`] where the ring fills.
    room: u64,
    /// As [`ring::rung`] gives it.
    rung: u64,
    /// Not 0 where the first message reached the ring.
    sent: u64,
    /// Where the connection is found again.
    #[cfg(feature = "before-5-17")]
    sock: u64,
}

/// [`State::bypassed`] of ciphertext whose plaintext is captured.
const ELIDED: u64 = 2;

/// The state of the operation that `scratch` is for.
#[inline(always)]
fn state_in(scratch: *mut Scratch) -> *mut State {
    const { assert!(size_of::<State>() <= 16 * 8) };
    // SAFETY: the state fits into the room for it.
    unsafe { (&raw mut (*scratch).work).cast() }
}

/// Sends the messages of one operation.
struct Output {
    scratch: *mut Scratch,
    totals: *mut Direction,
}

impl Output {
    #[inline(always)]
    fn state(&self) -> *mut State {
        state_in(self.scratch)
    }

    /// Sends the operation's `len` bytes.
    #[inline(always)]
    fn send(self, len: u64) {
        let state = self.state();
        // SAFETY: the state lies in the scratch memory.
        let (bypassed, base, run) = unsafe {
            (
                read_volatile(&raw const (*state).bypassed),
                read_volatile(&raw const (*state).buffer.base),
                read_volatile(&raw const (*state).buffer.len),
            )
        };
        if bypassed != 0 {
            self.emit(len, 0, if bypassed == ELIDED { FLAG_ELIDED } else { FLAG_BYPASSED });
            return;
        }
        let rung = ring::rung_now();
        if rung != 0 {
            self.shed(rung, len);
        } else if run >= len && len <= PAYLOAD_MAX {
            self.copy(base, len);
        } else if !self.pair(len) {
            self.gather();
        }
    }

    /// Sends the `len` bytes that are in one or two runs, such as the head and the body of an answer,
    /// and fit into one message. Gives whether they are; it is then done without the steps of
    /// [`Self::gather`], each of which is a call.
    #[inline(always)]
    fn pair(&self, len: u64) -> bool {
        let state = self.state();
        // SAFETY: the state lies in the scratch memory.
        let runs = unsafe { (*state).buffer.first_two() };
        let Some([(first, first_len), (second, second_len)]) = runs else { return false };
        let first_len = first_len.min(len);
        let rest = len - first_len;
        if len >= PAYLOAD_MAX || rest > second_len {
            return false;
        }
        // SAFETY: the masks keep the copies inside the scratch memory, and the helper checks the
        // addresses in the process.
        let fault = unsafe {
            let to = (&raw mut (*self.scratch).payload).cast::<u8>();
            let (first_len, rest) = (below_16k(first_len), below_16k(rest));
            let fault = bpf_probe_read_user(to.cast(), first_len as u32, first as *const _);
            let to = to.add(first_len as usize);
            fault | bpf_probe_read_user(to.cast(), rest as u32, second as *const _)
        };
        if fault == 0 {
            self.emit(len, len, 0);
        }
        // What cannot be read is told by the way that takes care of each run.
        fault == 0
    }

    /// Sends the first of the `len` bytes, as many as a rung of the ladder allows.
    #[inline(always)]
    fn shed(self, rung: u64, len: u64) {
        let state = self.state();
        let (room, counter) = match rung {
            1 => (RUNG_PAYLOAD_BYTES[0], Counter::ShortenedOperations),
            2 => (RUNG_PAYLOAD_BYTES[1], Counter::HeadOperations),
            _ => (RUNG_PAYLOAD_BYTES[2], Counter::BareOperations),
        };
        // SAFETY: the state lies in the scratch memory.
        unsafe {
            (*state).rung = rung;
            (*state).room = room;
        }
        if room == 0 {
            self.emit(len, 0, FLAG_SHED);
        } else {
            self.gather();
        }
        // SAFETY: as above.
        if len > room && unsafe { (*state).sent } != 0 {
            count(counter, 1);
        }
    }

    /// Sends the `len` bytes at `base`, which fit into one message.
    #[inline(always)]
    fn copy(self, base: u64, len: u64) {
        // SAFETY: the mask keeps the copy inside the scratch memory; the helper checks the address
        // in the process.
        let fault = unsafe {
            let to = (&raw mut (*self.scratch).payload).cast::<u8>();
            bpf_probe_read_user(to.cast(), at_most_32k(len) as u32, base as *const _)
        };
        if fault == 0 {
            self.emit(len, len, 0);
        } else {
            count(Counter::Faults, 1);
            self.emit(len, 0, FLAG_FAULT);
        }
    }

    /// Copies the bytes in the buffer and sends a message whenever one is full.
    #[inline(always)]
    fn gather(self) {
        let state = self.state();
        // SAFETY: the state lies in the scratch memory; `step` is called with this context and
        // nothing else, while both live.
        unsafe {
            #[cfg(not(feature = "before-5-17"))]
            repeat(STEPS_MAX, step, (&raw const self).cast_mut());
            #[cfg(feature = "before-5-17")]
            {
                let (sock, direction) = ((*state).sock, (*self.scratch).header.direction);
                repeat::<{ STEPS_MAX as u64 }>(u64::MAX, |_| {
                    operation_step(sock, u64::from(direction))
                });
            }
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
        let left = flags & (FLAG_BYPASSED | FLAG_ELIDED) != 0;
        if !left && missing != 0 {
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
                if (*state).done == 0 {
                    (*state).sent = 1;
                }
                add(&raw mut (*totals).captured_bytes, captured);
                if left {
                    add(&raw mut (*totals).bypassed_bytes, missing);
                } else if missing != 0 {
                    add(&raw mut (*totals).truncated_bytes, missing);
                    if flags & FLAG_SHED != 0 {
                        count(Counter::ShedBytes, missing);
                    }
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
        let room = (*state).room;
        let piece = at_most_32k(run.min(room - used).min(left - used));
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
        if used != left && used != room {
            return 0;
        }
        let shed = (*state).rung != 0;
        let last = shed || (*state).done >= (CHUNKS_MAX as u64 - 1) * PAYLOAD_MAX;
        let flags = if shed && used != left { FLAG_SHED } else { 0 };
        output.emit(if last { left } else { used }, used, flags);
        (*state).used = 0;
        i64::from((*state).done == (*state).len)
    }
}

/// [`step`] of the operation on `sock` that this CPU is at.
#[cfg(feature = "before-5-17")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn operation_step(sock: u64, direction: u64) -> u64 {
    let direction = direction as u32 & 1;
    let Some(scratch) = SCRATCH.get_ptr_mut(ring::cpu() * SCRATCH_PER_CPU + direction) else {
        return 1;
    };
    let Some(connection) = super::connection::find(Sock(sock)) else { return 1 };
    // SAFETY: a map value; the index is 0 or 1, and the output lives through the call.
    unsafe {
        let directions = (&raw mut (*connection).totals.directions).cast::<Direction>();
        let totals = directions.add(direction as usize);
        step(0, &mut Output { scratch, totals }) as u64
    }
}
