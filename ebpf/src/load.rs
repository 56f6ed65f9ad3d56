//! What user space tells the kernel programs when it loads them, and the maps that both sides use.
//!
//! None of this is in a recording; both sides always come from the same build.

use crate::{ConnInfo, ConnTotals, Counter};

/// How many counters the map `COUNTERS` has.
pub const COUNTERS: usize = Counter::Count as usize;

/// Deepest level of a watched process's cgroup at which a target is found; the root is level 0.
pub const CGROUP_LEVELS_MAX: u32 = 32;

/// Most targets of one kind, and most processes that are watched because of their ancestor.
pub const TARGETS_MAX: u32 = 16 * 1024;

/// Most ports that are known to be listened on.
pub const LISTEN_PORTS_MAX: u32 = 16 * 1024;

/// Most connections that ended while the ring was full and that user space has not taken yet.
pub const CLOSED_MAX: u32 = 16 * 1024;

/// Most ports whose datagrams are watched.
pub const DATAGRAM_PORTS_MAX: u32 = 8;

/// Entries of the map `DATAGRAM_PORTS`: a bit for each port.
pub const PORT_WORDS: u32 = 65_536 / 64;

/// Most sockets without a connection that are remembered because they sent to a watched port, so
/// that what they receive is watched too; the one that was used longest ago is forgotten.
pub const ASKERS_MAX: u32 = 16 * 1024;

/// Most sockets that were accepted and of which no operation was seen yet; of further ones it may not
/// be known what they received before.
pub const BORN_MAX: u32 = 16 * 1024;

/// Most threads that are in a `sendmmsg` or `recvmmsg` at a time.
pub const CALLERS_MAX: u32 = 4 * 1024;

/// Slots of the map `SCRATCH` for each CPU: one for each direction, so that two programs that
/// interrupt each other never share one.
pub const SCRATCH_PER_CPU: u32 = 2;

/// A field of a kernel structure, by its place in the global `OFFSETS`.
///
/// All offsets are in bytes, from the start of the structure that the name begins with.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offset {
    /// `task_struct.flags`
    TaskFlags,
    /// `task_struct.tgid`
    TaskTgid,
    /// `task_struct.pid`
    TaskPid,
    /// `task_struct.group_leader`
    TaskGroupLeader,
    /// `task_struct.real_parent`
    TaskRealParent,
    /// `task_struct.start_boottime`
    TaskStartBoottime,
    /// `task_struct.comm`
    TaskComm,
    /// `task_struct.exit_code`
    TaskExitCode,
    /// `task_struct.signal`
    TaskSignal,
    /// `task_struct.nsproxy`
    TaskNsproxy,
    /// `task_struct.cgroups`
    TaskCgroups,
    /// `task_struct.files`
    TaskFiles,
    /// `task_struct.thread_info.status`, where `TS_COMPAT` is
    TaskThreadStatus,
    /// `signal_struct.live`
    SignalLive,
    /// `nsproxy.net_ns`
    NsproxyNet,
    /// `net.ns.inum`
    NetInum,
    /// `css_set.dfl_cgrp`
    CssSetDefault,
    /// `cgroup.kn`
    CgroupNode,
    /// `kernfs_node.id`
    NodeId,
    /// `sock.__sk_common.skc_family`
    SockFamily,
    /// `sock.__sk_common.skc_num`
    SockLocalPort,
    /// `sock.__sk_common.skc_dport`
    SockRemotePort,
    /// `sock.__sk_common.skc_rcv_saddr`
    SockLocalV4,
    /// `sock.__sk_common.skc_daddr`
    SockRemoteV4,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    SockLocalV6,
    /// `sock.__sk_common.skc_v6_daddr`
    SockRemoteV6,
    /// `sock.__sk_common.skc_net`
    SockNet,
    /// `sock.sk_protocol`
    SockProtocol,
    /// `sock.sk_socket`
    SockSocket,
    /// `socket.file`
    SocketFile,
    /// `socket.sk`
    SocketSock,
    /// `socket_alloc.vfs_inode` + `inode.i_ino`, from the `socket`
    SocketInode,
    /// `files_struct.fdt`
    FilesTable,
    /// `fdtable.fd`
    TableFiles,
    /// `fdtable.max_fds`
    TableMax,
    /// `file.private_data`
    FilePrivate,
    /// `file.f_inode`
    FileInode,
    /// `inode.i_mode`
    InodeMode,
    /// `sock.__sk_common.skc_state`
    SockState,
    /// `sock.__sk_common.skc_flags`
    SockFlags,
    /// `inet_sock.inet_sport`
    InetSourcePort,
    /// `sock.sk_user_data`
    SockUserData,
    /// `sock.sk_cgrp_data.cgroup`; [`NO_OFFSET`] where sockets have none.
    SockCgroup,
    /// `cgroup.self.parent`
    CgroupParent,
    /// `cgroup_subsys_state.cgroup`
    CssCgroup,
    /// `inet_connection_sock.icsk_ulp_ops`
    IcskUlp,
    /// `tcp_sock.copied_seq`
    TcpCopiedSeq,
    /// `tcp_sock.rcv_nxt`
    TcpRcvNxt,
    /// `tcp_sock.bytes_received`
    TcpBytesReceived,
    /// `tcp_sock.write_seq`
    TcpWriteSeq,
    /// `tcp_sock.snd_una`
    TcpSndUna,
    /// `tcp_sock.snd_nxt`
    TcpSndNxt,
    /// `tcp_sock.bytes_acked`
    TcpBytesAcked,
    /// `tcp_sock.bytes_sent`
    TcpBytesSent,
    /// `tcp_sock.bytes_retrans`
    TcpBytesRetrans,
    /// `tcp_sock.total_retrans`
    TcpTotalRetrans,
    /// `tcp_sock.segs_in`
    TcpSegsIn,
    /// `tcp_sock.segs_out`
    TcpSegsOut,
    /// `tcp_sock.lost`
    TcpLost,
    /// `tcp_sock.packets_out`
    TcpPacketsOut,
    /// `tcp_sock.snd_cwnd`
    TcpSndCwnd,
    /// `tcp_sock.snd_ssthresh`
    TcpSndSsthresh,
    /// `tcp_sock.snd_wnd`
    TcpSndWnd,
    /// `tcp_sock.rcv_wnd`
    TcpRcvWnd,
    /// `tcp_sock.srtt_us`
    TcpSrtt,
    /// `tcp_sock.rttvar_us`
    TcpRttvar,
    /// `tcp_sock.rtt_min`
    TcpRttMin,
    /// `tcp_sock.mss_cache`
    TcpMss,
    /// `tcp_sock.delivered`
    TcpDelivered,
    /// `tcp_sock.rcv_ooopack`
    TcpOutOfOrder,
    /// `tcp_sock.reordering`
    TcpReordering,
    /// `tcp_skb_cb.tcp_gso_segs`, from the start of `sk_buff.cb`
    SkbSegments,
    /// `sk_buff.cb`
    SkbControl,
    /// `sk_buff.sk`
    SkbSock,
    /// `sk_buff.dev`
    SkbDevice,
    /// `sk_buff.head`
    SkbHead,
    /// `sk_buff.protocol`
    SkbProtocol,
    /// `sk_buff.network_header`
    SkbNetworkHeader,
    /// `net_device.nd_net`
    DeviceNet,
    /// `task_struct.stack`
    TaskStack,
    /// How many there are.
    Count,
}

/// In the global `OFFSETS`: this kernel has no such field.
pub const NO_OFFSET: u32 = u32::MAX;

/// Most [`crate::TcpEvent`] messages that a CPU sends in a second, statistics not counted; further
/// events are counted in the map `UNTOLD`.
pub const TCP_EVENTS_PER_SECOND_MAX: u64 = 100;

/// Most kinds of events by connection that wait in the map `UNTOLD` for user space.
pub const UNTOLD_MAX: u32 = 8 * 1024;

/// How many offsets the global `OFFSETS` has.
pub const OFFSETS: usize = Offset::Count as usize;

/// [`Settings::kinds`]: the map `SCOPE_TGID` has entries.
pub const KIND_TGID: u32 = 1;
/// [`Settings::kinds`]: the map `SCOPE_CGROUP` has entries.
pub const KIND_CGROUP: u32 = 2;
/// [`Settings::kinds`]: the map `SCOPE_NETNS` has entries.
pub const KIND_NETNS: u32 = 4;
/// [`Settings::kinds`]: the map `SCOPE_COMM` has entries.
pub const KIND_COMM: u32 = 8;

/// The verdict of a target: what it names is watched.
pub const VERDICT_INCLUDE: u32 = 1;
/// The verdict of a target: what it names is never watched, whatever else includes it.
pub const VERDICT_EXCLUDE: u32 = 2;

/// The only entry of the map `SETTINGS`; user space may change it at any time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// 1 where whoever no target names is watched.
    pub watch_others: u32,
    /// A sum of `KIND_…`, so that empty maps cost nothing.
    pub kinds: u32,
    /// 1 where a connection ends when its socket is closed, since the program that sees the socket
    /// go is not there.
    pub end_when_closed: u32,
    /// A sum of `TLS_OF_…`: calls of a TLS library are seen. 0 before, when there is nothing to look
    /// for.
    pub tls: u32,
    /// Another number whenever a target has changed, so that a verdict which was found before is
    /// known to be old. User space counts in the upper half, the programs in the lower one.
    pub epoch: u64,
}

/// What one change of user space adds to [`Settings::epoch`].
pub const EPOCH_STEP: u64 = 1 << 32;

/// An entry of the map `SCOPE_TGID`. A child gets its parent's when it is forked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessVerdict {
    /// A sum of `VERDICT_…`.
    pub verdict: u32,
    /// The process that the user named.
    pub root_tgid: u32,
}

/// Verdicts that each CPU remembers, a power of two.
pub const VERDICTS_PER_CPU: u32 = 64;

/// An entry of the map `VERDICTS`: what was found of a process last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RememberedVerdict {
    /// [`Settings::epoch`] when it was found.
    pub epoch: u64,
    /// The process's unified cgroup.
    pub cgroup: u64,
    /// Inode of the network namespace that was meant; 0 where none is a target.
    pub netns: u32,
    /// The process's id, 0 where nothing is remembered.
    pub tgid: u32,
    /// Not 0 where it is watched.
    pub is_watched: u64,
}

/// How much of an operation is sent while the ring is less full than any rung says: everything.
/// Then, rung by rung, so many bytes of it; its number of bytes is told all the same.
pub const RUNG_PAYLOAD_BYTES: [u64; 3] = [4096, 1024, 0];

/// The only entry of each CPU of the map `PRESSURE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes that the CPU has sent since it looked how full the ring is.
    pub unlooked_bytes: u64,
    /// 0, or the number of a rung of [`RUNG_PAYLOAD_BYTES`] from 1 on.
    pub rung: u64,
}

/// Key of the map `LISTEN_PORTS`; the value is the number of listening sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenKey {
    /// Inode of the network namespace.
    pub netns: u32,
    /// In host order.
    pub port: u32,
}

/// [`Connection::secured`]: it carries a plaintext.
pub const SECURED_KNOWN: u64 = 1;
/// [`Connection::secured`]: and a [`crate::Kind::Tls`] about it has reached the ring.
pub const SECURED_ANNOUNCED: u64 = 2;

/// Value of the map `CONNECTIONS`, keyed by the address of the socket, and of the map `CLOSED`,
/// keyed by [`Self::conn`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// As in [`crate::Header::conn`].
    pub conn: u64,
    /// As in [`crate::Header::process_start_ns`].
    pub process_start_ns: u64,
    /// Process that used it first.
    pub tgid: u32,
    /// Inode of the network namespace.
    pub netns: u32,
    /// As in [`crate::ConnInfo::role`].
    pub role: u32,
    /// Not 0 once a [`crate::Kind::Open`], or of a plaintext a [`crate::Kind::Tls`], has reached the
    /// ring.
    pub announced: u32,
    /// As in [`crate::Header::beginning`]; 0 before that is known.
    pub beginning: u32,
    /// Segments that were sent again and that events have told of.
    pub retransmits: u32,
    /// Not 0 once `taken_before` and `seq` are set.
    pub positioned: u32,
    /// The socket's `copied_seq` when no byte was counted as received.
    pub seq: u32,
    /// Bytes that had left the socket's queue before those that are counted as received.
    pub taken_before: u64,
    /// When [`crate::TcpStats`] were sent last, `CLOCK_MONOTONIC`.
    pub stats_at: u64,
    /// Packets of it that the kernel threw away.
    pub drops: u32,
    /// Resets that it sent.
    pub resets_sent: u32,
    /// Resets that it received.
    pub resets_received: u32,
    /// The process whose plaintext it carries, where it carries one: a child may go on with a copy of
    /// the library's object.
    pub secured_tgid: u32,
    /// One of `SECURED_…`.
    pub secured: u64,
    /// Exact counts so far.
    pub totals: ConnTotals,
}

/// Key of the map `UNTOLD`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UntoldKey {
    /// The connection, or 0.
    pub conn: u64,
    /// As in [`crate::TcpEvent::event`].
    pub event: u32,
    /// As in [`crate::TcpEvent::reason`].
    pub reason: u32,
}

/// Events of one kind that were counted and not told one by one, because there were too many or the
/// ring had no room.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untold {
    /// How many.
    pub count: u64,
    /// As in [`crate::Header::process_start_ns`].
    pub process_start_ns: u64,
    /// As in [`crate::Header::tgid`].
    pub tgid: u32,
    /// State of the socket at the first of them.
    pub state: u32,
    /// The ends of the first of them.
    pub info: ConnInfo,
}

/// The only entry of each CPU of the map `TCP_BUDGET`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpBudget {
    /// When the second began, `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Events that were sent in it.
    pub sent: u64,
}

/// Bits of a TLS probe's cookie: the process sends.
pub const COOKIE_EGRESS: u64 = 1;
/// Bits of a TLS probe's cookie: in which register the function has the address where it writes
/// how many bytes it moved. Where none is set, it gives that number back.
pub const COOKIE_WRITTEN_RCX: u64 = 2;
/// See [`COOKIE_WRITTEN_RCX`].
pub const COOKIE_WRITTEN_R8: u64 = 4;
/// The cookie's bits from here on are the library's index in the map `TLS_LIBRARIES`.
pub const COOKIE_LIBRARY_SHIFT: u32 = 8;

/// Most libraries that are probed; further ones are reported as not.
pub const TLS_LIBRARIES_MAX: u32 = 1024;

/// Bits of a TLS call's cookie while it is under way: the buffer is on a goroutine's stack, which
/// may move, so its address is kept as the distance to that stack's end.
pub const COOKIE_ON_STACK: u64 = 8;
/// Bits of a TLS call's cookie while it is under way: there is a call of another object around it.
pub const COOKIE_HAS_OUTER: u64 = 16;

/// Bits of a TLS call's cookie while it is under way: the process is watched, as an operation on a
/// socket since it began, or its beginning, has shown.
pub const COOKIE_WATCHED: u64 = 32;

/// Bits of a TLS probe's cookie, above the library's index: the function shakes hands and moves no
/// plaintext.
pub const COOKIE_SHAKES: u64 = 1 << 63;

/// Bits of a TLS call's cookie while it is under way: the plaintext is in pieces.
pub const COOKIE_PIECES: u64 = 64;
/// Bits of a TLS call's cookie while it is under way: it is one of rustls.
pub const COOKIE_RUST: u64 = 128;

/// [`Settings::tls`]: calls of a library in C are seen.
pub const TLS_OF_C: u32 = 1;
/// [`Settings::tls`]: calls of Go's `crypto/tls` are seen.
pub const TLS_OF_GO: u32 = 2;
/// [`Settings::tls`]: calls inside of rustls are seen.
pub const TLS_OF_RUST: u32 = 4;

/// Most threads that have been in a call of a TLS library and have not ended; calls of further ones
/// are not seen, and counted.
pub const TLS_CALLS_MAX: u32 = 16 * 1024;

/// Most threads that were in rustls lately and of which it is known what they did there; of the others
/// what they do next tells again.
pub const RUSTLS_WORK_MAX: u32 = 4 * 1024;

/// Most addresses at which objects of rustls are known to be; what another one sends waits until it is
/// written.
pub const RUSTLS_OBJECTS_MAX: u32 = 16 * 1024;

/// Most goroutines that are in a call of `crypto/tls` at a time, most of them because they wait for
/// what they will read; calls of further ones are not seen, and counted.
pub const GO_CALLS_MAX: u32 = 32 * 1024;

/// Most processes that are known to have ended lately, so that nobody waits for what their calls of a
/// TLS library give; of the others user space finds out.
pub const GONE_MAX: u32 = 1024;

/// Most beginnings of TLS handshakes that are remembered so that the object which has the same
/// random bytes is found; the one that was used longest ago is forgotten.
pub const TLS_HELLOS_MAX: u32 = 16 * 1024;

/// In a [`TlsLibrary`]: there is no such place.
pub const NO_PLACE: u32 = u32::MAX;

/// Value of the map `TLS_LIBRARIES`: a library that is probed, and where its objects keep what
/// tells them apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsLibrary {
    /// When all its probes were in place, `CLOCK_MONOTONIC`; 0 while they are not.
    pub probed_since_ns: u64,
    /// Where the object has the address of what `random_at` is in; [`NO_PLACE`] where that is the
    /// object itself.
    pub random_via: u32,
    /// Where the client's random bytes of the handshake are; [`NO_PLACE`] where that is not known.
    pub random_at: u32,
    /// Where the object says that it is the server's; [`NO_PLACE`] where that is not known.
    pub server_at: u32,
    /// Which bits of the word there say so.
    pub server_bits: u32,
    /// Of rustls: where its object has the buffer of what is to be sent; 0 while the programs have not
    /// seen that.
    pub sendable_at: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Key of the map `TLS_HELLOS`: a TLS handshake that began on a socket of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsHello {
    /// The client's random bytes.
    pub random: [u64; 4],
    /// Process id as the host sees it.
    pub tgid: u32,
    /// [`crate::EGRESS`] where the process is the client.
    pub direction: u32,
}

/// Value of the map `TLS_HELLOS`: the connection on which it began.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsHelloAt {
    /// Address of its socket.
    pub sock: u64,
    /// Its number.
    pub conn: u64,
}

/// Key of the map `TLS_STREAMS`: the library's object for a connection, or what stands for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsKey {
    /// Address of the object, such as OpenSSL's `SSL`.
    pub object: u64,
    /// Process id as the host sees it.
    pub tgid: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Value of the map `TLS_STREAMS`: a plaintext.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsStream {
    /// As a connection has it; [`Connection::conn`] has the bit [`crate::PLAINTEXT`].
    pub connection: Connection,
    /// Number of the connection that carries it; 0 while that is not known.
    pub carrier: u64,
    /// Address of that connection's socket.
    pub sock: u64,
    /// Index of the library in the map `TLS_LIBRARIES`.
    pub library: u32,
    /// How often that connection was looked for by the handshake.
    pub lookups: u32,
    /// How many calls are under way in which something was done on that connection.
    pub calls: u64,
    /// Not 0 once that connection has ended; the last of the calls then ends the plaintext.
    pub is_let_go: u64,
    /// Of rustls: the address at which the object was seen last.
    pub object: u64,
    /// The calls that move plaintext now, by direction.
    pub progress: [TlsProgress; 2],
}

/// How far the messages of a call have come. It is in a map and not on the stack, because there the
/// kernel's verifier would follow every combination of values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsProgress {
    /// Address of the plaintext.
    pub buffer: u64,
    /// Its bytes.
    pub len: u64,
    /// Where it begins in its stream.
    pub start: u64,
    /// How many of its bytes messages have covered.
    pub done: u64,
    /// Not 0 where the first message reached the ring.
    pub sent: u64,
    /// As in [`crate::Header::direction`].
    pub direction: u32,
    /// Thread id as the host sees it.
    pub tid: u32,
}

/// The memory in which a program puts a data message together.
///
/// It is larger than a message so that the kernel's verifier, which only knows masks, sees that no
/// write leaves it: the payload starts below 16 KiB and is shorter than 32 KiB.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// How far the operation has come; beside the header, so that both are in one page.
    pub work: [u64; 16],
    /// The message's header.
    pub header: crate::Header,
    /// Its payload, then room that is never used.
    pub payload: [u8; 48 * 1024],
    /// A connection before it enters the map.
    pub fresh: Connection,
}
