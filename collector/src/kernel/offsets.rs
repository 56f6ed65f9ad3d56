//! Where the fields that the kernel programs read are in this kernel's structures.

use std::{collections::HashMap, path::Path};

use btf_rs::{Btf, Struct, Type};
use undine_ebpf::load::{self, Offset};

/// The kernel's own description of its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the offsets cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// The description of types is not there or not readable.
    #[error(
        "cannot read the kernel's types from {VMLINUX}; Undine needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF"
    )]
    Btf(#[source] btf_rs::Error),
    /// A field is missing.
    #[error("this kernel has no {0}; report it with the output of `uname -r`")]
    Field(&'static str),
    /// A field lies where no structure reaches.
    #[error("this kernel's {0} is at an impossible place; report it with the output of `uname -r`")]
    Place(&'static str),
}

/// A field: its structure and the way to it.
struct Field {
    offset: Offset,
    name: &'static str,
    path: &'static [&'static str],
}

const fn field(offset: Offset, name: &'static str, path: &'static [&'static str]) -> Field {
    Field { offset, name, path }
}

/// In the order of [`Offset`], but for [`Offset::SocketInode`], which is a sum.
const FIELDS: [Field; load::OFFSETS] = [
    field(Offset::TaskFlags, "task_struct.flags", &["task_struct", "flags"]),
    field(Offset::TaskTgid, "task_struct.tgid", &["task_struct", "tgid"]),
    field(Offset::TaskPid, "task_struct.pid", &["task_struct", "pid"]),
    field(Offset::TaskGroupLeader, "task_struct.group_leader", &["task_struct", "group_leader"]),
    field(Offset::TaskRealParent, "task_struct.real_parent", &["task_struct", "real_parent"]),
    field(
        Offset::TaskStartBoottime,
        "task_struct.start_boottime",
        &["task_struct", "start_boottime"],
    ),
    field(Offset::TaskComm, "task_struct.comm", &["task_struct", "comm"]),
    field(Offset::TaskExitCode, "task_struct.exit_code", &["task_struct", "exit_code"]),
    field(Offset::TaskSignal, "task_struct.signal", &["task_struct", "signal"]),
    field(Offset::TaskNsproxy, "task_struct.nsproxy", &["task_struct", "nsproxy"]),
    field(Offset::TaskCgroups, "task_struct.cgroups", &["task_struct", "cgroups"]),
    field(Offset::TaskFiles, "task_struct.files", &["task_struct", "files"]),
    field(
        Offset::TaskThreadStatus,
        "task_struct.thread_info.status",
        &["task_struct", "thread_info", "status"],
    ),
    field(Offset::SignalLive, "signal_struct.live", &["signal_struct", "live"]),
    field(Offset::NsproxyNet, "nsproxy.net_ns", &["nsproxy", "net_ns"]),
    field(Offset::NetInum, "net.ns.inum", &["net", "ns", "inum"]),
    field(Offset::CssSetDefault, "css_set.dfl_cgrp", &["css_set", "dfl_cgrp"]),
    field(Offset::CgroupNode, "cgroup.kn", &["cgroup", "kn"]),
    field(Offset::NodeId, "kernfs_node.id", &["kernfs_node", "id"]),
    field(Offset::SockFamily, "sock.skc_family", &["sock", "__sk_common", "skc_family"]),
    field(Offset::SockLocalPort, "sock.skc_num", &["sock", "__sk_common", "skc_num"]),
    field(Offset::SockRemotePort, "sock.skc_dport", &["sock", "__sk_common", "skc_dport"]),
    field(Offset::SockLocalV4, "sock.skc_rcv_saddr", &["sock", "__sk_common", "skc_rcv_saddr"]),
    field(Offset::SockRemoteV4, "sock.skc_daddr", &["sock", "__sk_common", "skc_daddr"]),
    field(
        Offset::SockLocalV6,
        "sock.skc_v6_rcv_saddr",
        &["sock", "__sk_common", "skc_v6_rcv_saddr"],
    ),
    field(Offset::SockRemoteV6, "sock.skc_v6_daddr", &["sock", "__sk_common", "skc_v6_daddr"]),
    field(Offset::SockNet, "sock.skc_net", &["sock", "__sk_common", "skc_net"]),
    field(Offset::SockProtocol, "sock.sk_protocol", &["sock", "sk_protocol"]),
    field(Offset::SockSocket, "sock.sk_socket", &["sock", "sk_socket"]),
    field(Offset::SocketFile, "socket.file", &["socket", "file"]),
    field(Offset::SocketSock, "socket.sk", &["socket", "sk"]),
    field(
        Offset::SocketInode,
        "socket_alloc.vfs_inode.i_ino",
        &["socket_alloc", "vfs_inode", "i_ino"],
    ),
    field(Offset::FilesTable, "files_struct.fdt", &["files_struct", "fdt"]),
    field(Offset::TableFiles, "fdtable.fd", &["fdtable", "fd"]),
    field(Offset::TableMax, "fdtable.max_fds", &["fdtable", "max_fds"]),
    field(Offset::FilePrivate, "file.private_data", &["file", "private_data"]),
    field(Offset::FileInode, "file.f_inode", &["file", "f_inode"]),
    field(Offset::InodeMode, "inode.i_mode", &["inode", "i_mode"]),
    field(Offset::SockState, "sock.skc_state", &["sock", "__sk_common", "skc_state"]),
    field(Offset::SockFlags, "sock.skc_flags", &["sock", "__sk_common", "skc_flags"]),
    field(Offset::InetSourcePort, "inet_sock.inet_sport", &["inet_sock", "inet_sport"]),
    field(Offset::SockUserData, "sock.sk_user_data", &["sock", "sk_user_data"]),
    field(Offset::SockCgroup, "sock.sk_cgrp_data.cgroup", &["sock", "sk_cgrp_data", "cgroup"]),
    field(Offset::CgroupParent, "cgroup.self.parent", &["cgroup", "self", "parent"]),
    field(Offset::CssCgroup, "cgroup_subsys_state.cgroup", &["cgroup_subsys_state", "cgroup"]),
    field(
        Offset::IcskUlp,
        "inet_connection_sock.icsk_ulp_ops",
        &["inet_connection_sock", "icsk_ulp_ops"],
    ),
    field(Offset::TcpCopiedSeq, "tcp_sock.copied_seq", &["tcp_sock", "copied_seq"]),
    field(Offset::TcpRcvNxt, "tcp_sock.rcv_nxt", &["tcp_sock", "rcv_nxt"]),
    field(Offset::TcpBytesReceived, "tcp_sock.bytes_received", &["tcp_sock", "bytes_received"]),
    field(Offset::TcpWriteSeq, "tcp_sock.write_seq", &["tcp_sock", "write_seq"]),
    field(Offset::TcpSndUna, "tcp_sock.snd_una", &["tcp_sock", "snd_una"]),
    field(Offset::TcpSndNxt, "tcp_sock.snd_nxt", &["tcp_sock", "snd_nxt"]),
    field(Offset::TcpBytesAcked, "tcp_sock.bytes_acked", &["tcp_sock", "bytes_acked"]),
    field(Offset::TcpBytesSent, "tcp_sock.bytes_sent", &["tcp_sock", "bytes_sent"]),
    field(Offset::TcpBytesRetrans, "tcp_sock.bytes_retrans", &["tcp_sock", "bytes_retrans"]),
    field(Offset::TcpTotalRetrans, "tcp_sock.total_retrans", &["tcp_sock", "total_retrans"]),
    field(Offset::TcpSegsIn, "tcp_sock.segs_in", &["tcp_sock", "segs_in"]),
    field(Offset::TcpSegsOut, "tcp_sock.segs_out", &["tcp_sock", "segs_out"]),
    field(Offset::TcpLost, "tcp_sock.lost", &["tcp_sock", "lost"]),
    field(Offset::TcpPacketsOut, "tcp_sock.packets_out", &["tcp_sock", "packets_out"]),
    field(Offset::TcpSndCwnd, "tcp_sock.snd_cwnd", &["tcp_sock", "snd_cwnd"]),
    field(Offset::TcpSndSsthresh, "tcp_sock.snd_ssthresh", &["tcp_sock", "snd_ssthresh"]),
    field(Offset::TcpSndWnd, "tcp_sock.snd_wnd", &["tcp_sock", "snd_wnd"]),
    field(Offset::TcpRcvWnd, "tcp_sock.rcv_wnd", &["tcp_sock", "rcv_wnd"]),
    field(Offset::TcpSrtt, "tcp_sock.srtt_us", &["tcp_sock", "srtt_us"]),
    field(Offset::TcpRttvar, "tcp_sock.rttvar_us", &["tcp_sock", "rttvar_us"]),
    field(Offset::TcpRttMin, "tcp_sock.rtt_min", &["tcp_sock", "rtt_min"]),
    field(Offset::TcpMss, "tcp_sock.mss_cache", &["tcp_sock", "mss_cache"]),
    field(Offset::TcpDelivered, "tcp_sock.delivered", &["tcp_sock", "delivered"]),
    field(Offset::TcpOutOfOrder, "tcp_sock.rcv_ooopack", &["tcp_sock", "rcv_ooopack"]),
    field(Offset::TcpReordering, "tcp_sock.reordering", &["tcp_sock", "reordering"]),
    field(Offset::SkbSegments, "tcp_skb_cb.tcp_gso_segs", &["tcp_skb_cb", "tcp_gso_segs"]),
    field(Offset::SkbControl, "sk_buff.cb", &["sk_buff", "cb"]),
    field(Offset::SkbSock, "sk_buff.sk", &["sk_buff", "sk"]),
    field(Offset::SkbDevice, "sk_buff.dev", &["sk_buff", "dev"]),
    field(Offset::SkbHead, "sk_buff.head", &["sk_buff", "head"]),
    field(Offset::SkbProtocol, "sk_buff.protocol", &["sk_buff", "protocol"]),
    field(Offset::SkbNetworkHeader, "sk_buff.network_header", &["sk_buff", "network_header"]),
    field(Offset::DeviceNet, "net_device.nd_net", &["net_device", "nd_net"]),
    field(Offset::TaskStack, "task_struct.stack", &["task_struct", "stack"]),
];

/// What a kernel calls the reasons in its messages, by their numbers, which differ between kernels.
#[derive(Clone, Debug, Default)]
pub struct ReasonNames {
    /// `enum skb_drop_reason`; empty where it has none.
    pub drops: HashMap<u32, String>,
    /// `enum sk_rst_reason`; empty where it has none.
    pub resets: HashMap<u32, String>,
}

/// What the kernel programs have to know of this kernel's types.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about a kernel")]
pub(super) struct Layout {
    /// The offsets, in the order of [`Offset`].
    pub(super) offsets: [u32; load::OFFSETS],
    /// Whether the tracepoint `kfree_skb` names the socket that a packet was for.
    pub(super) drops_name_sockets: bool,
    /// Whether the tracepoint `tcp_send_reset` says why.
    pub(super) resets_have_reasons: bool,
    /// Whether there are tracepoints `sock_send_length` and `sock_recv_length`.
    pub(super) has_socket_lengths: bool,
    /// Whether a program that is taken off a function waits for processes that are in it.
    pub(super) trampolines_wait: bool,
    /// What it calls its reasons.
    pub(super) reason_names: ReasonNames,
}

/// The layout of this kernel.
pub(super) fn of_running_kernel() -> Result<Layout, OffsetsError> {
    let btf = Btf::from_file(Path::new(VMLINUX)).map_err(OffsetsError::Btf)?;
    let mut offsets = [0; load::OFFSETS];
    for field in &FIELDS {
        offsets[field.offset as usize] = match offset_of(&btf, field) {
            // Sockets have a cgroup only where the kernel was built so.
            Err(OffsetsError::Field(_)) if field.offset == Offset::SockCgroup => load::NO_OFFSET,
            found => found?,
        };
    }
    Ok(Layout {
        offsets,
        // After a pointer of the tracepoint's own: packet, place, reason, socket.
        drops_name_sockets: arguments_of(&btf, "btf_trace_kfree_skb").is_some_and(|of| of >= 5),
        // As above: socket, packet, reason.
        resets_have_reasons: arguments_of(&btf, "btf_trace_tcp_send_reset")
            .is_some_and(|of| of >= 4),
        has_socket_lengths: arguments_of(&btf, "btf_trace_sock_recv_length").is_some(),
        // What came with it has this type.
        trampolines_wait: btf.resolve_types_by_name("bpf_tramp_image").is_ok(),
        reason_names: ReasonNames {
            drops: names_of(&btf, "skb_drop_reason"),
            resets: names_of(&btf, "sk_rst_reason"),
        },
    })
}

/// How many arguments the tracepoint's function of this type has.
fn arguments_of(btf: &Btf, name: &str) -> Option<usize> {
    btf.resolve_types_by_name(name).ok()?.into_iter().find_map(|candidate| {
        let Type::Typedef(named) = candidate else { return None };
        let Type::Ptr(pointer) = btf.resolve_chained_type(&named).ok()? else { return None };
        match btf.resolve_chained_type(&pointer).ok()? {
            Type::FuncProto(function) => Some(function.parameters.len()),
            _ => None,
        }
    })
}

/// The names of an enumeration's values in this kernel, by value; none where it has no such.
fn names_of(btf: &Btf, enumeration: &str) -> HashMap<u32, String> {
    let found = btf.resolve_types_by_name(enumeration).unwrap_or_default();
    let members = found.into_iter().find_map(|candidate| match candidate {
        Type::Enum(found) => Some(found.members),
        _ => None,
    });
    let members = members.unwrap_or_default();
    members.iter().filter_map(|of| Some((of.val(), btf.resolve_name(of).ok()?))).collect()
}

fn offset_of(btf: &Btf, field: &Field) -> Result<u32, OffsetsError> {
    let missing = || OffsetsError::Field(field.name);
    let (structure, way) = field.path.split_first().ok_or_else(missing)?;
    let candidates = btf.resolve_types_by_name(structure).map_err(OffsetsError::Btf)?;
    let bits = candidates
        .into_iter()
        .find_map(|candidate| match candidate {
            Type::Struct(found) => bits_along(btf, &found, way),
            _ => None,
        })
        .ok_or_else(missing)?;
    let bytes = bits / 8;
    if bits % 8 != 0 || bytes > u32::from(u16::MAX) {
        return Err(OffsetsError::Place(field.name));
    }
    // A socket and its inode are neighbours in one allocation.
    match field.offset {
        Offset::SocketInode => {
            let socket = bits_along_named(btf, "socket_alloc", &["socket"]).ok_or_else(missing)?;
            bytes.checked_sub(socket / 8).ok_or(OffsetsError::Place(field.name))
        }
        _ => Ok(bytes),
    }
}

fn bits_along_named(btf: &Btf, structure: &str, way: &[&str]) -> Option<u32> {
    btf.resolve_types_by_name(structure).ok()?.into_iter().find_map(|candidate| match candidate {
        Type::Struct(found) => bits_along(btf, &found, way),
        _ => None,
    })
}

/// How many bits into `structure` the field at the end of `way` is.
fn bits_along(btf: &Btf, structure: &Struct, way: &[&str]) -> Option<u32> {
    let (first, rest) = way.split_first()?;
    for member in &structure.members {
        let name = btf.resolve_name(member).ok()?;
        let inside = if name == *first {
            if rest.is_empty() {
                return Some(member.bit_offset());
            }
            rest
        } else if name.is_empty() {
            // The members of an anonymous union or structure count as its parent's.
            way
        } else {
            continue;
        };
        let found = match structure_of(btf, member) {
            Some(inner) => bits_along(btf, &inner, inside),
            None => None,
        };
        match found {
            Some(bits) => return Some(member.bit_offset() + bits),
            None if name.is_empty() => {}
            None => return None,
        }
    }
    None
}

/// The structure or union that a member is, under whatever names.
fn structure_of(btf: &Btf, member: &btf_rs::Member) -> Option<Struct> {
    let mut kind = btf.resolve_chained_type(member).ok()?;
    loop {
        kind = match kind {
            Type::Struct(found) | Type::Union(found) => return Some(found),
            Type::Typedef(name) => btf.resolve_chained_type(&name).ok()?,
            _ => return None,
        };
    }
}
