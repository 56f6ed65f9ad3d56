//! How TCP fares: what is sent again, thrown away or reset, and each connection's statistics.
//!
//! Most of this happens in softirqs, on behalf of no one. So it is the socket that says whether it is
//! watched ([`is_watched`]), never the current process.
//!
//! Events are told one by one up to [`TCP_EVENTS_PER_SECOND_MAX`] on each CPU; the others are counted
//! in the map `UNTOLD`, from where user space takes them. Segments that were sent again the socket
//! counts itself, so each event tells of those since the one before.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::raw_tracepoint, programs::RawTracePointContext};
use undine_ebpf::{
    ConnInfo, Counter, Header, Kind, TcpEvent, TcpEventKind, TcpStats,
    load::{
        CGROUP_LEVELS_MAX, Connection, KIND_CGROUP, KIND_NETNS, Offset, TCP_EVENTS_PER_SECOND_MAX,
        Untold, UntoldKey, VERDICT_EXCLUDE, VERDICT_INCLUDE,
    },
};

use super::{
    connection::{AF_INET, AF_INET6, Sock, describe, find},
    fields::{read, read_at, read_if_any},
    maps::{
        LISTENERS, SCOPE_CGROUP, SCOPE_NETNS, SETTINGS, TCP_BUDGET, UNTOLD, add, count,
        drops_name_sockets, offset, own_cgroup, resets_have_reasons,
    },
    ring,
    task::netns_inode,
    tcp_stream::{self, TCP_CLOSE},
};

const TCP_TIME_WAIT: u8 = 6;
const TCP_NEW_SYN_RECV: u8 = 12;

const IPPROTO_TCP: u8 = 6;

/// `sk_buff.protocol`, in network order.
const ETH_P_IP: u16 = 0x0800_u16.to_be();
const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();

/// A message about TCP.
#[repr(C)]
struct TcpMessage {
    header: Header,
    event: TcpEvent,
}

#[raw_tracepoint]
pub(crate) fn tcp_retransmit_skb(ctx: RawTracePointContext) -> i32 {
    let sock = Sock(ctx.arg(0));
    let subject = Subject::of(sock);
    if subject.connection != 0 {
        retransmitted(sock.0, find(sock).unwrap_or(core::ptr::null_mut()));
    } else if is_watched(sock) {
        let control = ctx.arg::<u64>(1).wrapping_add(offset(Offset::SkbControl) as u64);
        let segments = u64::from(read::<u16>(control, Offset::SkbSegments));
        unknown_retransmitted(sock.0, if segments == 0 { 1 } else { segments });
    }
    0
}

/// `segments` of a socket that is in no connection were sent again. Not inlined, since kernels before
/// 5.17 would find too little stack for [`retransmitted`] beside it.
#[inline(never)]
fn unknown_retransmitted(sock: u64, segments: u64) {
    let subject = Subject { sock, packet: 0, connection: 0 };
    tell(subject, TcpEventKind::Retransmit, 0, segments);
}

#[raw_tracepoint]
pub(crate) fn tcp_send_reset(ctx: RawTracePointContext) -> i32 {
    let (sock, packet) = (Sock(ctx.arg(0)), ctx.arg::<u64>(1));
    // Older kernels tell of a reset only where there is a socket, and not why.
    let reason = if resets_have_reasons() { ctx.arg::<u32>(2) } else { 0 };
    notice(sock, packet, TcpEventKind::ResetSent, reason);
    0
}

#[raw_tracepoint]
pub(crate) fn tcp_receive_reset(ctx: RawTracePointContext) -> i32 {
    notice(Sock(ctx.arg(0)), 0, TcpEventKind::ResetReceived, 0);
    0
}

#[raw_tracepoint]
pub(crate) fn kfree_skb(ctx: RawTracePointContext) -> i32 {
    let packet: u64 = ctx.arg(0);
    let mut sock: u64 = if drops_name_sockets() { ctx.arg(3) } else { 0 };
    if sock == 0 {
        sock = read(packet, Offset::SkbSock);
    }
    if sock == 0 && !is_tcp_packet(packet) {
        return 0;
    }
    notice(Sock(sock), packet, TcpEventKind::Drop, ctx.arg::<u32>(2));
    0
}

/// Whom an event is about.
#[derive(Clone, Copy)]
struct Subject {
    /// The socket, or 0.
    sock: u64,
    /// The packet, or 0.
    packet: u64,
    /// Not 0 where the socket's connection is known.
    connection: u64,
}

impl Subject {
    #[inline(always)]
    fn of(sock: Sock) -> Self {
        let connection = find(sock).map_or(0, |connection| connection as u64);
        Self { sock: sock.0, packet: 0, connection }
    }
}

/// An event on `sock`, or where that is 0 with `packet`, that happened once.
#[inline(always)]
fn notice(sock: Sock, packet: u64, event: TcpEventKind, reason: u32) {
    if sock.0 == 0 {
        if packet != 0 && is_watched_packet(packet) {
            tell(Subject { sock: 0, packet, connection: 0 }, event, reason, 1);
        }
        return;
    }
    let known = find(sock);
    if let Some(connection) = known {
        // SAFETY: `connection` is a map value; a lost update would cost a count only where two CPUs
        // have an event of one socket at the very same time.
        unsafe {
            match event {
                TcpEventKind::Drop => (*connection).drops += 1,
                TcpEventKind::ResetSent => (*connection).resets_sent += 1,
                _ => (*connection).resets_received += 1,
            }
        }
    } else if !is_tcp_socket(sock) || !is_watched(sock) {
        return;
    } else if matches!(event, TcpEventKind::Drop) && sock.state() == TCP_CLOSE {
        // What nobody has read goes with the socket; it came to its end.
        return;
    }
    let connection = known.map_or(0, |connection| connection as u64);
    tell(Subject { sock: sock.0, packet: 0, connection }, event, reason, 1);
}

/// Whether `sock` is one of TCP in whatever state, for which less than a whole `struct sock` may be
/// there.
#[inline(always)]
fn is_tcp_socket(sock: Sock) -> bool {
    sock.is_inet() && (is_small(sock) || sock.is_tcp())
}

/// Whether `sock` is a `struct request_sock` or `struct inet_timewait_sock`.
#[inline(always)]
fn is_small(sock: Sock) -> bool {
    let state = sock.state();
    state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV
}

/// Whether an unknown socket is watched: because a process in scope listens on it, because of the
/// cgroup of the process that made it, or because of its network namespace.
#[inline(always)]
fn is_watched(sock: Sock) -> bool {
    // SAFETY: only whether there is an entry matters.
    if unsafe { LISTENERS.get(sock.0) }.is_some() {
        return true;
    }
    let Some(settings) = SETTINGS.get(0) else { return false };
    let (kinds, others) = (settings.kinds, settings.watch_others);
    let mut verdict = if kinds & KIND_NETNS != 0 { netns_verdict(sock.netns()) } else { 0 };
    if is_small(sock) {
        // Nothing says whose it was.
        return verdict == VERDICT_INCLUDE;
    }
    let cgroup: u64 = read_if_any(sock.0, Offset::SockCgroup);
    let id = cgroup_id(cgroup);
    // Undine's own sockets are never watched, and are known by nothing else.
    if id == 0 || own_cgroup() == 0 || id == own_cgroup() {
        return false;
    }
    if kinds & KIND_CGROUP != 0 {
        verdict |= cgroup_verdict(cgroup);
    }
    if verdict & VERDICT_EXCLUDE != 0 {
        return false;
    }
    verdict & VERDICT_INCLUDE != 0 || others != 0
}

/// Whether a packet for which there is no socket is watched: it belongs to no process, so only its
/// network namespace can say so.
#[inline(always)]
fn is_watched_packet(packet: u64) -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    let others = settings.watch_others != 0;
    if settings.kinds & KIND_NETNS == 0 {
        return others;
    }
    match netns_verdict(packet_netns(packet)) {
        0 => others,
        verdict => verdict == VERDICT_INCLUDE,
    }
}

#[inline(always)]
fn netns_verdict(netns: u32) -> u32 {
    // SAFETY: one number; whether it is from before or after a change does not matter.
    unsafe { SCOPE_NETNS.get(netns) }.copied().unwrap_or_default()
}

#[inline(always)]
fn cgroup_id(cgroup: u64) -> u64 {
    if cgroup == 0 { 0 } else { read(read(cgroup, Offset::CgroupNode), Offset::NodeId) }
}

/// What the cgroup at `cgroup` and all above it say together.
#[inline(always)]
fn cgroup_verdict(cgroup: u64) -> u32 {
    let (mut verdict, mut cgroup, mut level) = (0, cgroup, 0);
    while level < CGROUP_LEVELS_MAX && cgroup != 0 {
        // SAFETY: one number; whether it is from before or after a change does not matter.
        if let Some(found) = unsafe { SCOPE_CGROUP.get(cgroup_id(cgroup)) } {
            verdict |= *found;
        }
        let parent: u64 = read(cgroup, Offset::CgroupParent);
        cgroup = if parent == 0 { 0 } else { read(parent, Offset::CssCgroup) };
        level += 1;
    }
    verdict
}

/// The segments of `sock` that were sent again since an event told of them last. Not inlined, since it
/// is needed in two places and is long.
#[inline(never)]
fn retransmitted(sock: u64, connection: *mut Connection) {
    if connection.is_null() {
        return;
    }
    let total: u32 = read(sock, Offset::TcpTotalRetrans);
    // SAFETY: `connection` is a map value; the socket is locked, so nobody else is here with it.
    unsafe {
        let fresh = total.wrapping_sub((*connection).retransmits);
        // A socket that was made to forget counts anew.
        if total < (*connection).retransmits || fresh == 0 {
            return;
        }
        (*connection).retransmits = total;
        let subject = Subject { sock, packet: 0, connection: connection as u64 };
        tell_known(subject, connection, TcpEventKind::Retransmit, 0, u64::from(fresh));
    }
}

/// Tells the last statistics of a connection whose socket is about to forget them.
#[inline(never)]
pub(crate) fn tell_end(sock: u64, connection: *mut Connection) {
    if connection.is_null() {
        return;
    }
    retransmitted(sock, connection);
    // SAFETY: `connection` is a map value.
    let matters = unsafe { (*connection).announced != 0 || (*connection).retransmits != 0 };
    if matters {
        tell_stats(sock, connection, 1);
    }
}

/// Tells the statistics of a connection; `last` is not 0 where they are the last.
#[inline(never)]
pub(crate) fn tell_stats(sock: u64, connection: *mut Connection, last: u64) {
    if connection.is_null() {
        return;
    }
    let sock = Sock(sock);
    ring::send::<TcpMessage>(|message| {
        // SAFETY: `message` is in the ring, `connection` in a map.
        unsafe {
            let (tgid, start) = ((*connection).tgid, (*connection).process_start_ns);
            ring::fill(&raw mut (*message).header, Kind::Tcp, tgid, 0, start);
            (*message).header.conn = (*connection).conn;
            let event = &raw mut (*message).event;
            describe_event(sock, event, TcpEventKind::Stats, 0, 1);
            (*event).last = last as u8;
            (*event).info.role = (*connection).role as u8;
            let stats = &raw mut (*event).stats;
            fill_stats(sock, stats);
            (*stats).drops = (*connection).drops;
            (*stats).resets_sent = (*connection).resets_sent;
            (*stats).resets_received = (*connection).resets_received;
        }
    });
}

#[inline(always)]
unsafe fn fill_stats(sock: Sock, stats: *mut TcpStats) {
    let word = |field: Offset| -> u32 { read(sock.0, field) };
    let long = |field: Offset| -> u64 { read(sock.0, field) };
    // SAFETY: the caller passes a place in the ring.
    unsafe {
        (*stats).bytes_sent = long(Offset::TcpBytesSent);
        (*stats).bytes_retransmitted = long(Offset::TcpBytesRetrans);
        (*stats).bytes_acked = long(Offset::TcpBytesAcked);
        (*stats).bytes_received = tcp_stream::received(sock);
        (*stats).retransmits = word(Offset::TcpTotalRetrans);
        (*stats).segments_out = word(Offset::TcpSegsOut);
        (*stats).segments_in = word(Offset::TcpSegsIn);
        (*stats).lost = word(Offset::TcpLost);
        (*stats).delivered = word(Offset::TcpDelivered);
        (*stats).out_of_order = word(Offset::TcpOutOfOrder);
        (*stats).unacked = word(Offset::TcpPacketsOut);
        (*stats).cwnd = word(Offset::TcpSndCwnd);
        (*stats).ssthresh = word(Offset::TcpSndSsthresh);
        (*stats).send_window = word(Offset::TcpSndWnd);
        (*stats).receive_window = word(Offset::TcpRcvWnd);
        (*stats).unsent_bytes = word(Offset::TcpWriteSeq).wrapping_sub(word(Offset::TcpSndNxt));
        // Kept in eighths and quarters.
        (*stats).srtt_us = word(Offset::TcpSrtt) >> 3;
        (*stats).rttvar_us = word(Offset::TcpRttvar) >> 2;
        // The first sample of `struct minmax`: its time, then its value.
        (*stats).rtt_min_us = (long(Offset::TcpRttMin) >> 32) as u32;
        (*stats).mss = word(Offset::TcpMss);
        (*stats).reordering = word(Offset::TcpReordering);
    }
}

/// Tells of an event, or counts it where there are too many.
#[inline(always)]
fn tell(subject: Subject, event: TcpEventKind, reason: u32, times: u64) {
    let connection = match find(Sock(subject.sock)) {
        Some(connection) if subject.connection != 0 => connection,
        _ => core::ptr::null_mut(),
    };
    tell_known(subject, connection, event, reason, times);
}

#[inline(always)]
fn tell_known(
    subject: Subject,
    connection: *mut Connection,
    event: TcpEventKind,
    reason: u32,
    times: u64,
) {
    // SAFETY: `connection` is a map value where it is not null.
    let (conn, tgid, start) = unsafe {
        if connection.is_null() {
            (0, 0, 0)
        } else {
            ((*connection).conn, (*connection).tgid, (*connection).process_start_ns)
        }
    };
    let told = is_within_budget()
        && ring::send::<TcpMessage>(|message| {
            // SAFETY: `message` is in the ring.
            unsafe {
                ring::fill(&raw mut (*message).header, Kind::Tcp, tgid, 0, start);
                (*message).header.conn = conn;
                let body = &raw mut (*message).event;
                describe_subject(subject, body, event, reason, times);
                let stats = &raw mut (*body).stats;
                stats.cast::<[u64; 14]>().write([0; 14]);
            }
        });
    if !told {
        let state = if subject.sock == 0 { 0 } else { u32::from(Sock(subject.sock).state()) };
        let key = UntoldKey { conn, event: event as u32, reason };
        count_untold(subject, key, times, tgid, start, state);
    }
}

/// Whether this CPU may tell of one more event in this second.
#[inline(always)]
fn is_within_budget() -> bool {
    let Some(budget) = TCP_BUDGET.get_ptr_mut(0) else { return false };
    let now = ring::now_ns();
    // SAFETY: a value of this CPU; what interrupts this may cost a few events more or less.
    unsafe {
        if now.wrapping_sub((*budget).since_ns) > 1_000_000_000 {
            (*budget).since_ns = now;
            (*budget).sent = 0;
        }
        (*budget).sent += 1;
        (*budget).sent <= TCP_EVENTS_PER_SECOND_MAX
    }
}

#[inline(always)]
fn count_untold(
    subject: Subject,
    key: UntoldKey,
    times: u64,
    tgid: u32,
    process_start_ns: u64,
    state: u32,
) {
    if let Some(untold) = UNTOLD.get_ptr_mut(key) {
        // SAFETY: a map value.
        add(unsafe { &raw mut (*untold).count }, times);
        return;
    }
    let mut untold =
        Untold { count: times, process_start_ns, tgid, state, info: ConnInfo::default() };
    describe_ends(subject, &raw mut untold.info);
    // Another CPU may have entered it meanwhile.
    if UNTOLD.insert(key, &untold, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    match UNTOLD.get_ptr_mut(key) {
        // SAFETY: as above.
        Some(untold) => {
            add(unsafe { &raw mut (*untold).count }, times);
        }
        None => {
            count(Counter::UntoldTcpEvents, times);
        }
    }
}

#[inline(always)]
unsafe fn describe_subject(
    subject: Subject,
    body: *mut TcpEvent,
    event: TcpEventKind,
    reason: u32,
    times: u64,
) {
    // SAFETY: the caller passes a place in the ring.
    unsafe {
        describe_ends(subject, &raw mut (*body).info);
        (*body).event = event as u8;
        (*body).state = if subject.sock == 0 { 0 } else { Sock(subject.sock).state() };
        (*body).last = 0;
        (*body).reserved = 0;
        (*body).reason = reason;
        (*body).count = times;
    }
}

#[inline(always)]
unsafe fn describe_event(
    sock: Sock,
    body: *mut TcpEvent,
    event: TcpEventKind,
    reason: u32,
    times: u64,
) {
    let subject = Subject { sock: sock.0, packet: 0, connection: 0 };
    // SAFETY: as of the caller.
    unsafe { describe_subject(subject, body, event, reason, times) };
}

#[inline(always)]
fn describe_ends(subject: Subject, info: *mut ConnInfo) {
    let sock = Sock(subject.sock);
    // SAFETY: callers pass a place in the ring or on the stack.
    unsafe {
        if subject.sock == 0 {
            describe_packet(subject.packet, info);
            (*info).netns = u64::from(packet_netns(subject.packet));
            (*info).cgroup = 0;
        } else {
            let small = is_small(sock);
            describe(sock, info);
            (*info).netns = u64::from(sock.netns());
            if small {
                // What is read there belongs to something else.
                (*info).inode = 0;
                (*info).cgroup = 0;
                (*info).protocol = IPPROTO_TCP;
            } else {
                (*info).cgroup = cgroup_id(read_if_any(sock.0, Offset::SockCgroup));
            }
        }
        (*info).role = 0;
    }
}

/// Whether a packet that was thrown away was one of TCP, as far as its headers were read.
#[inline(always)]
fn is_tcp_packet(packet: u64) -> bool {
    let header = network_header(packet);
    match read::<u16>(packet, Offset::SkbProtocol) {
        ETH_P_IP => read_at::<u8>(header.wrapping_add(9)) == IPPROTO_TCP,
        ETH_P_IPV6 => read_at::<u8>(header.wrapping_add(6)) == IPPROTO_TCP,
        _ => false,
    }
}

#[inline(always)]
fn network_header(packet: u64) -> u64 {
    let head: u64 = read(packet, Offset::SkbHead);
    head.wrapping_add(u64::from(read::<u16>(packet, Offset::SkbNetworkHeader)))
}

/// Inode of the network namespace that `packet` came into, 0 where that is not known any more.
#[inline(always)]
fn packet_netns(packet: u64) -> u32 {
    let device: u64 = read(packet, Offset::SkbDevice);
    if device == 0 { 0 } else { netns_inode(read(device, Offset::DeviceNet)) }
}

/// Writes the ends that the headers of `packet`, which came in, name to `info`.
#[inline(always)]
unsafe fn describe_packet(packet: u64, info: *mut ConnInfo) {
    let header = network_header(packet);
    let six = read::<u16>(packet, Offset::SkbProtocol) == ETH_P_IPV6;
    let (local, remote, ports) = if six {
        let source: [u64; 2] = read_at(header.wrapping_add(8));
        let destination: [u64; 2] = read_at(header.wrapping_add(24));
        (destination, source, header.wrapping_add(40))
    } else {
        let words = u64::from(read_at::<u8>(header) & 0xf);
        let source: u32 = read_at(header.wrapping_add(12));
        let destination: u32 = read_at(header.wrapping_add(16));
        let ports = header.wrapping_add(words * 4);
        ([u64::from(destination), 0], [u64::from(source), 0], ports)
    };
    // SAFETY: as of `describe_ends`; addresses are written as two words each.
    unsafe {
        (*info).inode = 0;
        (&raw mut (*info).local_addr).cast::<[u64; 2]>().write(local);
        (&raw mut (*info).remote_addr).cast::<[u64; 2]>().write(remote);
        (*info).remote_port = u16::from_be(read_at(ports));
        (*info).local_port = u16::from_be(read_at(ports.wrapping_add(2)));
        (*info).family = if six { AF_INET6 } else { AF_INET };
        (*info).protocol = IPPROTO_TCP;
    }
}
