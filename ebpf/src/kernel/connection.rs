//! Connections: how they enter the map, how they are announced and how they end.

use aya_ebpf::bindings::BPF_NOEXIST;
use undine_ebpf::{
    BEGINNING_SEEN, ConnInfo, ConnTotals, Counter, Header, Kind,
    load::{Connection, ListenKey, Offset, Scratch},
};

use super::{
    fields::{read, read_at},
    maps::{CLOSED, CONNECTIONS, LISTEN_PORTS, count, next_conn, offset},
    ring,
    task::{Current, netns_inode},
    tls_calls,
};

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// This end connected.
pub(crate) const ROLE_CLIENT: u32 = 1;
/// This end accepted.
pub(crate) const ROLE_SERVER: u32 = 2;
/// It was there before us.
const ROLE_UNKNOWN: u32 = 0;

/// A `struct sock` that is not yet known to be one, by its address.
#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) u64);

impl Sock {
    /// Whether it speaks IPv4 or IPv6.
    #[inline(always)]
    pub(crate) fn is_inet(self) -> bool {
        let family = self.family();
        family == AF_INET || family == AF_INET6
    }

    /// Whether it is a TCP socket.
    #[inline(always)]
    pub(crate) fn is_tcp(self) -> bool {
        self.protocol() == IPPROTO_TCP
    }

    /// Whether it is a UDP socket.
    #[inline(always)]
    pub(crate) fn is_udp(self) -> bool {
        self.protocol() == IPPROTO_UDP
    }

    #[inline(always)]
    fn protocol(self) -> u16 {
        read(self.0, Offset::SockProtocol)
    }

    #[inline(always)]
    fn family(self) -> u16 {
        read(self.0, Offset::SockFamily)
    }

    /// Its state, as the kernel numbers it.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        read(self.0, Offset::SockState)
    }

    /// Whether it belongs to a file descriptor, as those of processes do; a file system's own
    /// connection does not.
    #[inline(always)]
    pub(crate) fn has_file(self) -> bool {
        let socket: u64 = read(self.0, Offset::SockSocket);
        socket != 0 && read::<u64>(socket, Offset::SocketFile) != 0
    }

    /// Its port, in host order; 0 where it is not bound.
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        read(self.0, Offset::SockLocalPort)
    }

    /// The port that it is connected to, in host order; 0 where it is not.
    #[inline(always)]
    pub(crate) fn remote_port(self) -> u16 {
        u16::from_be(read(self.0, Offset::SockRemotePort))
    }

    /// Inode of its network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        netns_inode(read(self.0, Offset::SockNet))
    }

    /// Inode of the socket itself, 0 where it has none any more.
    #[inline(always)]
    pub(crate) fn inode(self) -> u64 {
        let socket: u64 = read(self.0, Offset::SockSocket);
        if socket == 0 { 0 } else { read(socket, Offset::SocketInode) }
    }

    /// [`ROLE_SERVER`] where someone listens on its port.
    #[inline(always)]
    pub(crate) fn role(self, netns: u32) -> u32 {
        let key = ListenKey { netns, port: u32::from(self.local_port()) };
        // SAFETY: one number; whether it is from before or after a change does not matter.
        match unsafe { LISTEN_PORTS.get(key) } {
            Some(listeners) if *listeners != 0 => ROLE_SERVER,
            _ => ROLE_UNKNOWN,
        }
    }
}

/// The connection of `sock`, where it has been admitted.
#[inline(always)]
pub(crate) fn find(sock: Sock) -> Option<*mut Connection> {
    CONNECTIONS.get_ptr_mut(sock.0)
}

/// Admits a TCP socket that `current`, which is watched, uses.
///
/// `None` where the map is full, which is counted.
#[inline(always)]
pub(crate) fn admit(
    sock: Sock,
    current: Current,
    connected: bool,
    scratch: *mut Scratch,
) -> Option<*mut Connection> {
    let conn = next_conn()?;
    let netns = sock.netns();
    // SAFETY: `scratch` is a map value that only this program uses now. The totals in it are
    // never written, so they are zero.
    let fresh = unsafe {
        let fresh = &raw mut (*scratch).fresh;
        (*fresh).conn = conn;
        (*fresh).process_start_ns = current.process_start_ns();
        (*fresh).tgid = current.tgid;
        (*fresh).netns = netns;
        (*fresh).role = if connected { ROLE_CLIENT } else { sock.role(netns) };
        (*fresh).announced = 0;
        (*fresh).beginning = if connected { u32::from(BEGINNING_SEEN) } else { 0 };
        (*fresh).retransmits = 0;
        (*fresh).positioned = 0;
        (*fresh).seq = 0;
        (*fresh).taken_before = 0;
        (*fresh).stats_at = 0;
        (*fresh).drops = 0;
        (*fresh).resets_sent = 0;
        (*fresh).resets_received = 0;
        (*fresh).secured = 0;
        &*fresh
    };
    // Another thread may admit the same socket at this moment; then its entry counts.
    let _ = CONNECTIONS.insert(sock.0, fresh, u64::from(BPF_NOEXIST));
    let found = find(sock);
    if found.is_none() {
        count(Counter::ConnMapFull, 1);
    }
    found
}

/// A message that says that a connection was seen for the first time.
#[repr(C)]
struct OpenMessage {
    header: Header,
    info: ConnInfo,
}

/// A message that says that a connection is gone.
#[repr(C)]
struct CloseMessage {
    header: Header,
    totals: ConnTotals,
}

/// Announces `connection`. Where the ring is full, the next operation tries again.
#[inline(always)]
pub(crate) fn announce(sock: Sock, connection: *mut Connection, current: Current) {
    let sent = ring::send::<OpenMessage>(|message| {
        // SAFETY: `message` is in the ring, `connection` in a map.
        unsafe {
            let start = current.process_start_ns();
            ring::fill(&raw mut (*message).header, Kind::Open, current.tgid, current.tid, start);
            (*message).header.conn = (*connection).conn;
            (*message).header.beginning = (*connection).beginning as u8;
            let info = &raw mut (*message).info;
            describe(sock, info);
            (*info).netns = u64::from((*connection).netns);
            (*info).cgroup = current.cgroup();
            (*info).role = (*connection).role as u8;
        }
    });
    if sent {
        // SAFETY: `connection` is a map value.
        unsafe { (*connection).announced = 1 };
    }
}

/// Writes what the socket itself says to `info`, which is in the ring or in a map.
#[inline(always)]
pub(crate) fn describe(sock: Sock, info: *mut ConnInfo) {
    let family = sock.family();
    let (local, remote) = if family == AF_INET6 {
        (read_v6(sock, Offset::SockLocalV6), read_v6(sock, Offset::SockRemoteV6))
    } else {
        (read_v4(sock, Offset::SockLocalV4), read_v4(sock, Offset::SockRemoteV4))
    };
    // SAFETY: see above; addresses are written as two words each.
    unsafe {
        (*info).inode = sock.inode();
        (&raw mut (*info).local_addr).cast::<[u64; 2]>().write(local);
        (&raw mut (*info).remote_addr).cast::<[u64; 2]>().write(remote);
        // A socket gives its port back with its last state, but still knows it.
        (*info).local_port = match sock.local_port() {
            0 => u16::from_be(read(sock.0, Offset::InetSourcePort)),
            port => port,
        };
        (*info).remote_port = sock.remote_port();
        (*info).family = family;
        (*info).protocol = sock.protocol() as u8;
    }
}

#[inline(always)]
fn read_v4(sock: Sock, field: Offset) -> [u64; 2] {
    [u64::from(read::<u32>(sock.0, field)), 0]
}

#[inline(always)]
fn read_v6(sock: Sock, field: Offset) -> [u64; 2] {
    read_at(sock.0.wrapping_add(offset(field) as u64))
}

/// Ends the connection of `sock`: says so, or leaves its totals where user space finds them. What the
/// socket says of itself may be another connection's by now.
#[inline(always)]
pub(crate) fn retire(sock: Sock, connection: *mut Connection) {
    // SAFETY: `connection` is a map value, which stays readable until the program ends.
    if unsafe { (*connection).secured } != 0 {
        tls_calls::carrier_ends(connection);
    }
    say_that_it_ends(connection);
    let _ = CONNECTIONS.remove(sock.0);
}

/// Says that `connection` ends, or leaves its totals where user space finds them.
#[inline(always)]
pub(crate) fn say_that_it_ends(connection: *mut Connection) {
    // SAFETY: `connection` is a map value, which stays readable until the program ends.
    let (announced, conn) = unsafe { ((*connection).announced, (*connection).conn) };
    if announced != 0 {
        let sent = ring::send::<CloseMessage>(|message| {
            // SAFETY: as above, and `message` is in the ring.
            unsafe {
                let (tgid, start) = ((*connection).tgid, (*connection).process_start_ns);
                ring::fill(&raw mut (*message).header, Kind::Close, tgid, 0, start);
                (*message).header.conn = conn;
                copy_totals(&raw const (*connection).totals, &raw mut (*message).totals);
            }
        });
        // SAFETY: as above.
        if !sent && CLOSED.insert(conn, unsafe { &*connection }, 0).is_err() {
            count(Counter::ConnMapFull, 1);
        }
    }
}

/// Copies word by word, since a loop would cost the verifier more.
#[inline(always)]
unsafe fn copy_totals(from: *const ConnTotals, to: *mut ConnTotals) {
    const WORDS: usize = size_of::<ConnTotals>() / 8;
    let (from, to) = (from.cast::<[u64; WORDS]>(), to.cast::<[u64; WORDS]>());
    // SAFETY: the caller passes a map value and a place in the ring; both are words throughout.
    unsafe { to.write(from.read()) };
}
