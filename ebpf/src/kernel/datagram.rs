//! One datagram on a watched port: counts it, and sends it with what is known of its socket.
//!
//! A socket that is not connected tells its peer only in the call: where it sends to, before; where
//! it received from, after. What such a socket receives is watched where its own port is, or since
//! it has sent to a watched one.

use core::ptr::read_volatile;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as read_user};
use undine_ebpf::{
    ConnInfo, Counter, EGRESS, FLAG_BYPASSED, FLAG_FAULT, FLAG_TRUNCATED, Kind, PAYLOAD_BYTES_MAX,
    load::{SCRATCH_PER_CPU, Scratch},
};

use super::{
    buffer::Buffer,
    connection::{AF_INET6, ROLE_CLIENT, ROLE_SERVER, Sock, describe},
    maps::{ASKERS, DATAGRAM_PORTS, SCRATCH, count, count_process},
    repeat::repeat,
    ring::{self, at_most_32k, below_16k},
    scope::watches,
    socket_length::{
        PREADV2, PWRITEV2, READ, READV, RECVFROM, RECVMMSG, RECVMSG, SENDMMSG, SENDMSG, SENDTO,
        WRITE, WRITEV,
    },
    task::Current,
};

/// Most steps for one datagram; each goes to the next run of its buffer or copies one.
const STEPS_MAX: u32 = 32;

const PAYLOAD_MAX: u64 = PAYLOAD_BYTES_MAX as u64;
const INFO_BYTES: usize = size_of::<ConnInfo>();

/// Whether the call is over, so that it says where a datagram came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    During,
    After,
}

/// A system call that moves a datagram, by its arguments.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) second: u64,
    pub(crate) third: u64,
    pub(crate) fifth: u64,
    /// Which of several messages it is.
    pub(crate) index: u64,
    pub(crate) moment: Moment,
}

/// Where a call keeps a datagram.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    buffer: Buffer,
    /// Address of its peer's address, 0 where the call names none.
    name: u64,
}

impl Call {
    /// Where the call keeps its datagram of `len` bytes.
    #[inline(always)]
    pub(crate) fn place(self, direction: u8, len: u64) -> Option<Place> {
        let Self { number, second, third, fifth, .. } = self;
        let mut name = 0;
        let buffer = match number {
            // Of a datagram that was cut, the buffer holds less than its length.
            READ | WRITE => Buffer::contiguous(second, len.min(third)),
            RECVFROM | SENDTO => {
                name = fifth;
                Buffer::contiguous(second, len.min(third))
            }
            READV | PREADV2 | WRITEV | PWRITEV2 => Buffer::vectored(second, third),
            RECVMSG | SENDMSG => {
                name = name_in(second);
                Buffer::message(second)
            }
            RECVMMSG | SENDMMSG => {
                let header = second.wrapping_add(self.index * super::message_index::MMSGHDR_BYTES);
                name = name_in(header);
                Buffer::message(header)
            }
            _ => return None,
        };
        let tells = direction == EGRESS || self.moment == Moment::After;
        Some(Place { buffer, name: if tells { name } else { 0 } })
    }
}

/// The address of the name in the `struct msghdr` at `header`.
#[inline(always)]
fn name_in(header: u64) -> u64 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(header as *const [u64; 2]) } {
        // `msg_namelen` is 32 bits, then comes padding.
        Ok([name, length]) if length as u32 != 0 => name,
        _ => 0,
    }
}

/// A datagram.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    /// On which socket.
    pub(crate) sock: Sock,
    /// [`undine_ebpf::INGRESS`] or [`EGRESS`].
    pub(crate) direction: u8,
    /// How many bytes, at least one.
    pub(crate) len: u32,
    /// Number of the system call, or [`ring::NO_SYSCALL`].
    pub(crate) syscall: u16,
    /// Where it is; `None` where that cannot be told.
    pub(crate) place: Option<Place>,
}

/// How far a datagram is copied; in the scratch memory, for the verifier's sake.
struct State {
    place: Place,
    /// Bytes of the datagram.
    len: u64,
    /// How many of them are in the scratch memory.
    used: u64,
    /// A sum of `FLAG_…`.
    flags: u64,
}

#[inline(always)]
fn state_in(scratch: *mut Scratch) -> *mut State {
    const { assert!(size_of::<State>() <= 16 * 8) };
    // SAFETY: the state fits into the room for it.
    unsafe { (&raw mut (*scratch).work).cast() }
}

/// Whether what moves on `sock` may be of interest; most of UDP is not, and ends here.
#[inline(always)]
pub(crate) fn may_concern(sock: Sock, direction: u8) -> bool {
    direction == EGRESS
        || is_watched(sock.local_port())
        || is_watched(sock.remote_port())
        || has_asked(sock)
}

/// Whether `current`, which uses `sock`, is watched. Asked before anything of its memory is read.
#[inline(always)]
pub(crate) fn in_scope(sock: Sock, current: Current) -> bool {
    let watched = sock.has_file() && watches(current, || sock.netns());
    if !watched {
        count(Counter::OutOfScope, 1);
    }
    watched
}

/// Whether `sock` is not connected and has sent to a watched port.
#[inline(always)]
fn has_asked(sock: Sock) -> bool {
    // SAFETY: only whether there is an entry matters.
    sock.remote_port() == 0 && unsafe { ASKERS.get(sock.inode()) }.is_some()
}

impl Datagram {
    /// Counts and sends the datagram, if one of its ports is watched; that the current process is,
    /// was asked before its memory was looked at.
    #[inline(always)]
    pub(crate) fn record(self) {
        let slot = ring::cpu() * SCRATCH_PER_CPU + u32::from(self.direction & 1);
        let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return };
        let state = state_in(scratch);
        // SAFETY: the state lies in the scratch memory; read back from there, numbers of all kinds
        // of calls are alike to the verifier.
        let (name, len) = unsafe {
            let (place, flags) = match self.place {
                Some(place) => (place, 0),
                None => (Place { buffer: Buffer::contiguous(0, 0), name: 0 }, FLAG_BYPASSED),
            };
            let (len, flags) = (u64::from(self.len), u64::from(flags));
            state.write(State { place, len, used: 0, flags });
            (*scratch).header.syscall = self.syscall;
            (read_volatile(&raw const (*state).place.name), read_volatile(&raw const (*state).len))
        };
        let remote_port = if name == 0 { self.sock.remote_port() } else { port_at(name) };
        let Some(role) = self.role(remote_port) else { return };
        let current = Current::get();
        if name != 0 && role == ROLE_CLIENT && self.sock.remote_port() == 0 {
            let _ = ASKERS.insert(self.sock.inode(), 1, 0);
        }
        count_process(Counter::Operations, 1);
        count_process(Counter::OperationBytes, len);
        // SAFETY: `scratch` is a map value; the payload is aligned and begins with the information.
        unsafe {
            let info = (&raw mut (*scratch).payload).cast::<ConnInfo>();
            describe(self.sock, info);
            (*info).netns = u64::from(self.sock.netns());
            (*info).cgroup = current.cgroup();
            (*info).role = role as u8;
            if name != 0 {
                (*info).remote_port = remote_port;
                let remote = address_at(name, (*info).family);
                (&raw mut (*info).remote_addr).cast::<[u64; 2]>().write(remote);
            }
        }
        gather(scratch, self.direction);
        if !send(scratch, self.direction, len, current) {
            count(Counter::DroppedOperations, 1);
            count(Counter::DroppedBytes, len);
            count(Counter::DroppedDatagrams, 1);
            count(Counter::DroppedDatagramBytes, len);
        }
    }

    /// Which end of a conversation this is, `None` where no port of it is watched.
    #[inline(always)]
    fn role(&self, remote_port: u16) -> Option<u32> {
        if is_watched(self.sock.local_port()) {
            return Some(ROLE_SERVER);
        }
        let asked = is_watched(remote_port) || (self.direction != EGRESS && has_asked(self.sock));
        asked.then_some(ROLE_CLIENT)
    }
}

#[inline(always)]
fn is_watched(port: u16) -> bool {
    let word = DATAGRAM_PORTS.get(u32::from(port >> 6)).copied().unwrap_or_default();
    word >> (port & 63) & 1 != 0
}

/// The port in the `struct sockaddr` at `name`, in host order.
#[inline(always)]
fn port_at(name: u64) -> u16 {
    // SAFETY: the helper checks the address.
    let found = unsafe { bpf_probe_read_user((name + 2) as *const u16) };
    u16::from_be(found.unwrap_or_default())
}

/// The address in the `struct sockaddr` at `name`, as a socket of `family` has it.
#[inline(always)]
fn address_at(name: u64, family: u16) -> [u64; 2] {
    // SAFETY (of all of these): the helper checks the address.
    if unsafe { bpf_probe_read_user(name as *const u16) }.unwrap_or_default() == AF_INET6 {
        return unsafe { bpf_probe_read_user((name + 8) as *const [u64; 2]) }.unwrap_or_default();
    }
    let v4 =
        u64::from(unsafe { bpf_probe_read_user((name + 4) as *const u32) }.unwrap_or_default());
    // `::ffff:a.b.c.d` in network order.
    if family == AF_INET6 { [0, v4 << 32 | 0xffff_0000] } else { [v4, 0] }
}

/// Copies the datagram behind its information.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
fn gather(mut scratch: *mut Scratch, _direction: u8) {
    // SAFETY: `step` is called with this context and nothing else, while it lives.
    unsafe { repeat(STEPS_MAX, step, &raw mut scratch) };
}

/// Copies the datagram behind its information.
#[cfg(feature = "before-5-17")]
#[inline(always)]
fn gather(_scratch: *mut Scratch, direction: u8) {
    repeat::<{ STEPS_MAX as u64 }>(u64::MAX, |_| datagram_step(u64::from(direction)));
}

/// [`step`] of the datagram in `direction` that this CPU is at.
#[cfg(feature = "before-5-17")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn datagram_step(direction: u64) -> u64 {
    let slot = ring::cpu() * SCRATCH_PER_CPU + (direction as u32 & 1);
    let Some(mut scratch) = SCRATCH.get_ptr_mut(slot) else { return 1 };
    // SAFETY: the context is a map value and lives through the call.
    unsafe { step(0, &raw mut scratch) as u64 }
}

/// Goes to the next run of the buffer, or copies one. Gives 1 where there is no more to do.
unsafe extern "C" fn step(_index: u32, scratch: *mut *mut Scratch) -> i64 {
    // SAFETY: see `gather`; the masks keep the copy inside the scratch memory, and the helper checks
    // the address in the process.
    unsafe {
        let state = state_in(*scratch);
        let run = (*state).place.buffer.len;
        if run == 0 {
            let mut buffer = (*state).place.buffer;
            let more = buffer.advance();
            (*state).place.buffer = buffer;
            return i64::from(!more);
        }
        let used = below_16k((*state).used);
        let piece = at_most_32k(run.min(PAYLOAD_MAX - used).min((*state).len - used));
        let payload = (&raw mut (**scratch).payload).cast::<u8>();
        let to = payload.add(INFO_BYTES).add(used as usize);
        if read_user(to.cast(), piece as u32, (*state).place.buffer.base as *const _) != 0 {
            count(Counter::Faults, 1);
            (*state).flags |= u64::from(FLAG_FAULT);
            return 1;
        }
        (*state).place.buffer.len = 0;
        (*state).used = used + piece;
        i64::from(used + piece == (*state).len || used + piece == PAYLOAD_MAX)
    }
}

/// Sends what is gathered. Gives whether the ring had room.
#[inline(always)]
fn send(scratch: *mut Scratch, direction: u8, len: u64, current: Current) -> bool {
    let state = state_in(scratch);
    // SAFETY: `scratch`, in which the state lies, is a map value.
    unsafe {
        let (used, mut flags) = ((*state).used, (*state).flags as u8);
        if used < len && flags & FLAG_BYPASSED == 0 {
            flags |= FLAG_TRUNCATED;
        }
        let header = &raw mut (*scratch).header;
        let syscall = read_volatile(&raw const (*header).syscall);
        let start = current.process_start_ns();
        ring::fill(header, Kind::Datagram, current.tgid, current.tid, start);
        (*header).flags = flags;
        (*header).direction = direction;
        (*header).syscall = syscall;
        (*header).len = len as u32;
        (*header).captured = used as u32;
        ring::send_data(scratch, INFO_BYTES as u64 + used)
    }
}
