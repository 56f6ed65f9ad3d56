//! Which connection carries a plaintext whose library never touches a socket, because the program
//! moves the ciphertext itself: the one on which the handshake began that the object is of.
//!
//! The first message of a handshake has 32 random bytes of the client, and the library keeps them
//! in its object. User space finds out where, from the code of the library's function that tells
//! them; were it wrong, no connection would have them, and nothing would be bound.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user};
use undine_ebpf::{
    EGRESS, FLAG_CONTINUED, INGRESS,
    load::{
        NO_PLACE, SCRATCH_PER_CPU, SECURED_KNOWN, TlsHello, TlsHelloAt, TlsKey, TlsLibrary,
        TlsStream,
    },
};

use super::{
    connection::{Sock, find},
    maps::{SCRATCH, SETTINGS, TLS_CARRIERS, TLS_HELLOS, TLS_LIBRARIES},
    ring,
    task::Current,
    tls_calls::announce,
};

/// How often a plaintext's connection is looked for: the handshake is over before it begins.
const LOOKUPS_MAX: u32 = 2;
/// Bytes up to and with the client's random ones: a record's header, that of the message, its
/// version (RFC 8446, sections 4 and 5.1).
const RANDOM_AT: usize = 11;
const RANDOM_END: u32 = RANDOM_AT as u32 + 32;
/// Type of a record of the handshake, and of the client's first message.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// Remembers the connection of `sock`, where the operation in `direction` that this CPU has just
/// recorded begins a handshake: its message is still in the scratch memory. A function of numbers
/// only, so that the verifier goes through it once and not wherever bytes move.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tls_note_hello(sock: u64, direction: u64) -> u64 {
    let slot = ring::cpu() * SCRATCH_PER_CPU + (direction as u32 & 1);
    let Some(scratch) = SCRATCH.get_ptr_mut(slot) else { return 0 };
    let Some(connection) = find(Sock(sock)) else { return 0 };
    let Some(settings) = SETTINGS.get(0) else { return 0 };
    // SAFETY: map values; the bytes are inside the payload.
    unsafe {
        let (header, payload) = (&(*scratch).header, &(*scratch).payload);
        let is_hello = payload[0] == HANDSHAKE
            && payload[1] == 3
            && payload[5] == CLIENT_HELLO
            && header.captured >= RANDOM_END
            && header.flags & FLAG_CONTINUED == 0;
        if !is_hello || settings.tls == 0 {
            return 0;
        }
        let random = payload.as_ptr().add(RANDOM_AT);
        let hello = TlsHello {
            random: random.cast::<[u64; 4]>().read_unaligned(),
            tgid: header.tgid,
            direction: u32::from(header.direction),
        };
        let at = TlsHelloAt { sock, conn: (*connection).conn };
        let _ = TLS_HELLOS.insert(hello, at, 0);
    }
    0
}

/// Whether it makes sense to look for what carries `stream`, or to say it.
#[inline(always)]
pub(crate) fn is_sought(stream: *mut TlsStream) -> bool {
    // SAFETY: a map value.
    unsafe {
        (*stream).connection.announced == 0
            && ((*stream).carrier != 0 || (*stream).lookups < LOOKUPS_MAX)
    }
}

/// Looks for the connection that carries `stream`, the plaintext of `object`, and says which it is.
/// Not inlined, since it is rare.
#[inline(never)]
pub(crate) fn seek(stream: *mut TlsStream, object: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a map value.
    let known = unsafe { TlsHelloAt { sock: (*stream).sock, conn: (*stream).carrier } };
    let found = if known.conn == 0 { by_random(stream, object, tgid) } else { Some(known) };
    let Some(at) = found else { return };
    let Some(connection) = find(Sock(at.sock)) else { return };
    // SAFETY: map values.
    unsafe {
        if (*connection).conn != at.conn {
            return;
        }
        if known.conn == 0 {
            (*stream).carrier = at.conn;
            (*stream).sock = at.sock;
            (*stream).connection.netns = (*connection).netns;
            (*stream).connection.role = (*connection).role;
            (*connection).secured = SECURED_KNOWN;
            (*connection).secured_tgid = tgid;
            let key = TlsKey { object, tgid, reserved: 0 };
            let _ = TLS_CARRIERS.insert(at.conn, key, 0);
        }
    }
    announce(Sock(at.sock), stream, connection, Current::get());
}

/// The connection with the handshake that `object` is of.
#[inline(always)]
fn by_random(stream: *mut TlsStream, object: u64, tgid: u32) -> Option<TlsHelloAt> {
    // SAFETY: a map value.
    let library = unsafe {
        (*stream).lookups += 1;
        (*stream).library
    };
    let library = TLS_LIBRARIES.get(library)?;
    if library.random_at == NO_PLACE {
        return None;
    }
    let mut base = object;
    // SAFETY (of both): the helper checks the address in the process.
    if library.random_via != NO_PLACE {
        let via = object.wrapping_add(u64::from(library.random_via));
        base = unsafe { bpf_probe_read_user(via as *const u64) }.ok()?;
    }
    let place = base.wrapping_add(u64::from(library.random_at));
    let random = unsafe { bpf_probe_read_user(place as *const [u64; 4]) }.ok()?;
    let mut hello = TlsHello { random, tgid, direction: u32::from(EGRESS) };
    // SAFETY (of both): copied at once; an entry is only ever replaced by a later connection's.
    let as_client = unsafe { TLS_HELLOS.get(hello) }.copied();
    hello.direction = u32::from(INGRESS);
    let as_server = unsafe { TLS_HELLOS.get(hello) }.copied();
    match (as_client, as_server) {
        // Both ends are in this process.
        (Some(client), Some(server)) => {
            Some(if is_server(library, object)? { server } else { client })
        }
        (one, other) => one.or(other),
    }
}

/// Whether `object` says that it is a server's.
#[inline(always)]
fn is_server(library: &TlsLibrary, object: u64) -> Option<bool> {
    if library.server_at == NO_PLACE {
        return None;
    }
    let place = object.wrapping_add(u64::from(library.server_at));
    // SAFETY: the helper checks the address in the process.
    let word: u32 = unsafe { bpf_probe_read_user(place as *const u32) }.ok()?;
    Some(word & library.server_bits != 0)
}
