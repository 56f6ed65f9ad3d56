//! What the kernel programs and user space tell each other, byte for byte.
//!
//! Everything here is `#[repr(C)]`, little endian as the machine, without padding that is not named.
//! A message in the ring buffer is a [`Header`], then by its [`Kind`] a fixed body, then `captured`
//! bytes of payload. Its layout is versioned by [`ABI_VERSION`], which a recording carries too.
//!
//! **Streams and datagrams.** TCP is a stream: what moves on a connection is [`Kind::Data`], between
//! an [`Kind::Open`] and a [`Kind::Close`]. A UDP datagram on a watched port is one
//! [`Kind::Datagram`], which says all that is known of its socket; there is no connection to it.
//!
//! **Plaintext.** What a program hands to a TLS library, or gets from it, is a stream of its own
//! beside that of the socket: its number has the bit [`PLAINTEXT`], its [`Kind::Data`] has own
//! positions, [`Kind::Tls`] says which connection carries it, and a [`Kind::Close`] ends it. A call
//! of the library that moved bytes is an operation as one on a socket is.
//!
//! **Loss identity.** Every attempt to send a message takes the next number of its CPU
//! ([`Header::cpu_seq`]), whether or not the ring has room; so per CPU
//! `attempts = emitted + dropped`, and user space has drained the kernel when it has consumed
//! `attempts - dropped` messages. Per connection and direction
//! `bytes = captured + truncated + dropped + bypassed` ([`Direction`]). A datagram is an operation of
//! one message: it is in the counters of operations and bytes, dropped or not, and in no
//! [`Direction`]; those that were dropped are counted apart too.
#![no_std]

pub mod load;
pub mod profile;
pub mod trace;

/// Changes whenever a layout here changes.
pub const ABI_VERSION: u32 = 2;

/// Most payload bytes in one message.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// Most data messages for one socket operation; what is beyond them is truncated, with its exact
/// length in the last message's [`Header::len`].
pub const CHUNKS_MAX: usize = 16;

/// What a message is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes moved on a connection; payload follows.
    Data = 1,
    /// A connection was seen for the first time; a [`ConnInfo`] follows.
    Open = 2,
    /// A connection is gone; a [`ConnTotals`] follows.
    Close = 3,
    /// A process was forked; a [`ProcessInfo`] follows. `tgid` is the child.
    Fork = 4,
    /// A process runs a new program; a [`ProcessInfo`] follows.
    Exec = 5,
    /// A process ended; a [`ProcessInfo`] follows.
    Exit = 6,
    /// A UDP datagram moved on a watched port; a [`ConnInfo`] follows, then payload. What is beyond
    /// [`PAYLOAD_BYTES_MAX`] is truncated.
    Datagram = 7,
    /// Something that the bytes of a TCP connection do not tell; a [`TcpEvent`] follows.
    Tcp = 8,
    /// It became known which connection carries a plaintext, or which plaintext goes on with it; a
    /// [`TlsInfo`] follows. [`Header::conn`] is the plaintext's number.
    Tls = 10,
    /// A function that a script asked for was called; a [`trace::TraceInfo`] follows, then texts.
    Trace = 12,
}

impl Kind {
    /// The kind with number `raw`.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Data,
            2 => Self::Open,
            3 => Self::Close,
            4 => Self::Fork,
            5 => Self::Exec,
            6 => Self::Exit,
            7 => Self::Datagram,
            8 => Self::Tcp,
            10 => Self::Tls,
            12 => Self::Trace,
            _ => return None,
        })
    }
}

/// [`Header::flags`]: a further piece of the operation that the message before it began.
pub const FLAG_CONTINUED: u8 = 1;
/// [`Header::flags`]: fewer bytes were captured than the message covers.
pub const FLAG_TRUNCATED: u8 = 2;
/// [`Header::flags`]: the payload could not be read from the process's memory.
pub const FLAG_FAULT: u8 = 4;
/// [`Header::flags`]: the bytes never were in a buffer of the process (`sendfile`, `splice`), or
/// lie where this program does not look (`io_uring`, `recvmmsg` with a timeout); only their number
/// is known. Where no operation was seen that moved them ([`FLAG_CONTINUED`] is set too), the
/// socket's sequence numbers say how many there were.
pub const FLAG_BYPASSED: u8 = 8;
/// [`Header::beginning`]: no byte had moved, in either direction, before the operation that made the
/// connection known.
pub const BEGINNING_SEEN: u8 = 1;
/// [`Header::beginning`]: bytes had moved before, or that could not be told.
pub const BEGINNING_MISSED: u8 = 2;
/// [`Header::flags`]: the bytes are the ciphertext of a plaintext that is captured itself, and were
/// left where they are; only their number is known. In [`Direction`] they are bypassed bytes.
pub const FLAG_ELIDED: u8 = 16;

/// [`Header::flags`]: fewer bytes were captured since the ring was filling
/// ([`load::RUNG_PAYLOAD_BYTES`]); [`FLAG_TRUNCATED`] is set too. In [`Direction`] they are truncated
/// bytes.
pub const FLAG_SHED: u8 = 32;

/// Bit of [`Header::conn`] that the numbers of plaintexts have, and those of sockets never.
pub const PLAINTEXT: u64 = 1 << 63;

/// [`Header::direction`]: the process received the bytes.
pub const INGRESS: u8 = 0;
/// [`Header::direction`]: the process sent the bytes.
pub const EGRESS: u8 = 1;

/// The first 64 bytes of every message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u8,
    /// A sum of `FLAG_…`.
    pub flags: u8,
    /// [`INGRESS`] or [`EGRESS`]; 0 where it has no meaning.
    pub direction: u8,
    /// Of [`Kind::Open`] and [`Kind::Data`], [`BEGINNING_SEEN`] or [`BEGINNING_MISSED`]; 0 elsewhere and
    /// in recordings of older versions.
    pub beginning: u8,
    /// The CPU that sent the message.
    pub cpu: u16,
    /// Number of the system call that moved the bytes, 0xffff where there is none.
    pub syscall: u16,
    /// Number of this attempt on its CPU; starts at 1.
    pub cpu_seq: u64,
    /// `CLOCK_MONOTONIC` at the end of the operation, in nanoseconds.
    pub time_mono_ns: u64,
    /// The connection; unique while the kernel runs and never 0 for [`Kind::Data`], [`Kind::Open`]
    /// and [`Kind::Close`].
    pub conn: u64,
    /// Process id as the host sees it.
    pub tgid: u32,
    /// Thread id as the host sees it.
    pub tid: u32,
    /// Offset of the message's first byte in its direction since the connection was first seen.
    pub pos: u64,
    /// Stream bytes that the message covers, captured or not.
    pub len: u32,
    /// Payload bytes that follow.
    pub captured: u32,
    /// Start of process `tgid` since boot, in nanoseconds (`start_boottime`).
    pub process_start_ns: u64,
}

/// Body of [`Kind::Open`], and the first part of that of [`Kind::Datagram`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnInfo {
    /// Inode of the socket, as in `socket:[…]`; 0 where it has none any more.
    pub inode: u64,
    /// Inode of the network namespace.
    pub netns: u64,
    /// Unified cgroup of the process that used it first.
    pub cgroup: u64,
    /// IPv4 addresses are in the first four bytes, in network order.
    pub local_addr: [u8; 16],
    /// As `local_addr`. A datagram that a socket without a connection received names no remote
    /// address where the kernel tells it only after the capture; address and port are then 0.
    pub remote_addr: [u8; 16],
    /// In host order.
    pub local_port: u16,
    /// In host order.
    pub remote_port: u16,
    /// 2 `AF_INET`, 10 `AF_INET6`.
    pub family: u16,
    /// 1 this end connected, 2 this end accepted, 0 unknown: it was there before us. Of a datagram
    /// 2 where its own port is watched, otherwise 1.
    pub role: u8,
    /// IP protocol: 6 TCP, 17 UDP.
    pub protocol: u8,
}

/// Body of [`Kind::Tls`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The connection that carries the plaintext.
    pub info: ConnInfo,
    /// Its number. With the bit [`PLAINTEXT`] it is that of another plaintext, of which this one turned out
    /// to be what was sent from [`Header::pos`] on.
    pub carrier: u64,
    /// Since when the library's calls are seen, as [`Header::time_mono_ns`]; 0 where that was not
    /// yet for sure. What was said earlier is not known.
    pub probed_since_ns: u64,
}

/// What happened in one direction of a connection; exact.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Operations that moved at least one byte.
    pub operations: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Bytes that reached the ring.
    pub captured_bytes: u64,
    /// Bytes past what one operation may send, or that could not be read.
    pub truncated_bytes: u64,
    /// Bytes of messages for which the ring had no room.
    pub dropped_bytes: u64,
    /// Messages for which the ring had no room.
    pub dropped_messages: u64,
    /// Bytes that never were in a buffer of the process, and ciphertext that was left there
    /// ([`FLAG_ELIDED`]).
    pub bypassed_bytes: u64,
}

/// Body of [`Kind::Close`], and the counters user space can read of an open connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnTotals {
    /// Received and sent, indexed by [`INGRESS`] and [`EGRESS`].
    pub directions: [Direction; 2],
}

/// Body of [`Kind::Fork`], [`Kind::Exec`] and [`Kind::Exit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Unified cgroup.
    pub cgroup: u64,
    /// Parent's process id.
    pub parent_tgid: u32,
    /// As `wait` gives it; 0 unless the process ended.
    pub exit_code: i32,
    /// Name, NUL-terminated.
    pub comm: [u8; 16],
}

/// What a [`TcpEvent`] is about.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TcpEventKind {
    /// [`TcpEvent::stats`] of a connection that is used, or that ends.
    Stats = 1,
    /// Segments were sent again.
    Retransmit = 2,
    /// The kernel threw packets away.
    Drop = 3,
    /// Resets were sent.
    ResetSent = 4,
    /// Resets were received.
    ResetReceived = 5,
}

impl TcpEventKind {
    /// The kind with number `raw`.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Stats,
            2 => Self::Retransmit,
            3 => Self::Drop,
            4 => Self::ResetSent,
            5 => Self::ResetReceived,
            _ => return None,
        })
    }
}

/// Body of [`Kind::Tcp`]. [`Header::conn`] is 0 where no operation on the socket was seen, and
/// [`Header::tgid`] where it is not known whose it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpEvent {
    /// The ends; `inode`, `cgroup` and `role` may be 0.
    pub info: ConnInfo,
    /// A [`TcpEventKind`].
    pub event: u8,
    /// State of the socket as the kernel numbers it, 0 where there is no socket.
    pub state: u8,
    /// Not 0 where these are the last statistics.
    pub last: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// `enum skb_drop_reason` or `enum sk_rst_reason` of this kernel.
    pub reason: u32,
    /// How many events this stands for: segments, packets or resets.
    pub count: u64,
    /// Of [`TcpEventKind::Stats`]; otherwise 0.
    pub stats: TcpStats,
}

/// What the kernel knows of a TCP connection. Cumulative since it began unless said otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// Data bytes sent, with those that were sent again.
    pub bytes_sent: u64,
    /// Of these, bytes that were sent again.
    pub bytes_retransmitted: u64,
    /// Bytes of the stream that the peer has acknowledged; may count a SYN and a FIN.
    pub bytes_acked: u64,
    /// Data bytes received in order.
    pub bytes_received: u64,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Segments sent.
    pub segments_out: u32,
    /// Segments received.
    pub segments_in: u32,
    /// Segments that were taken for lost.
    pub lost: u32,
    /// Segments that the peer has, or that it said it has.
    pub delivered: u32,
    /// Segments that came out of order.
    pub out_of_order: u32,
    /// Segments in flight now.
    pub unacked: u32,
    /// Congestion window now, in segments.
    pub cwnd: u32,
    /// Where slow start ends, in segments.
    pub ssthresh: u32,
    /// The peer's window now, in bytes.
    pub send_window: u32,
    /// This end's window now, in bytes.
    pub receive_window: u32,
    /// Bytes of the application that wait to be sent now.
    pub unsent_bytes: u32,
    /// Smoothed round trip time, in microseconds; 0 where none was measured.
    pub srtt_us: u32,
    /// Its mean deviation, in microseconds.
    pub rttvar_us: u32,
    /// Shortest round trip time of the last minutes, in microseconds; `u32::MAX` where none was
    /// measured.
    pub rtt_min_us: u32,
    /// Segment size, in bytes.
    pub mss: u32,
    /// How many segments may come out of order before one is taken for lost.
    pub reordering: u32,
    /// Packets that were thrown away, as far as events were seen.
    pub drops: u32,
    /// Resets that it sent.
    pub resets_sent: u32,
    /// Resets that it received.
    pub resets_received: u32,
}

/// Index of a per-CPU counter in the map `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Messages that were to be sent: the last [`Header::cpu_seq`].
    Attempts = 0,
    /// Messages for which the ring had no room.
    Dropped = 1,
    /// Payload bytes of those messages and stream bytes that they covered.
    DroppedBytes = 2,
    /// Socket operations in scope that moved at least one byte; of UDP only those on a watched
    /// port.
    Operations = 3,
    /// Bytes that they moved, and those that moved without an operation being seen.
    OperationBytes = 4,
    /// Operations in scope whose first data message found no room in the ring, so that
    /// `operations = first messages consumed + this`.
    DroppedOperations = 5,
    /// Operations seen outside the scope.
    OutOfScope = 6,
    /// Operations on connections that only looked (`MSG_PEEK`).
    Peeks = 7,
    /// Reads of user memory that failed.
    Faults = 8,
    /// Connections that could not be entered in the connection map.
    ConnMapFull = 9,
    /// Datagrams for which the ring had no room; they are dropped operations too.
    DroppedDatagrams = 10,
    /// Bytes of those datagrams; they are dropped bytes too.
    DroppedDatagramBytes = 11,
    /// Calls of TLS libraries that moved plaintext; they are operations too.
    TlsOperations = 12,
    /// Bytes of that plaintext; they are bytes of operations too.
    TlsBytes = 13,
    /// Bytes of ciphertext that were left where they are because their plaintext is captured.
    ElidedBytes = 14,
    /// TCP events that are in no message and for which the map `UNTOLD` had no room either.
    UntoldTcpEvents = 15,
    /// Operations of which only the first 4096 bytes were sent because the ring was filling; with the
    /// next two, by [`load::RUNG_PAYLOAD_BYTES`].
    ShortenedOperations = 16,
    /// Operations of which only the first 1024 bytes were sent because the ring was fuller.
    HeadOperations = 17,
    /// Operations of which only the number of bytes was sent because the ring was nearly full.
    BareOperations = 18,
    /// Bytes of these operations that were not sent; they are truncated bytes.
    ShedBytes = 19,
    /// Operations on connections that the connection map had no room for; they are dropped
    /// operations too.
    UnadmittedOperations = 20,
    /// Their bytes; they are dropped bytes too.
    UnadmittedBytes = 21,
    /// Connections whose end was not seen and of which that turned out when a socket was accepted at the
    /// same place in the kernel's memory.
    MissedEnds = 22,
    /// How many counters there are.
    Count = 23,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<Header>(), 64);
        assert_eq!(size_of::<ConnInfo>(), 64);
        assert_eq!(size_of::<Direction>(), 56);
        assert_eq!(size_of::<ConnTotals>(), 112);
        assert_eq!(size_of::<ProcessInfo>(), 32);
        assert_eq!(size_of::<TcpStats>(), 32 + 20 * 4);
        assert_eq!(size_of::<TcpEvent>(), 64 + 16 + size_of::<TcpStats>());
        assert_eq!(size_of::<load::Untold>(), 88);
        assert_eq!(size_of::<load::Connection>(), 88 + size_of::<ConnTotals>());
        assert_eq!(size_of::<load::Settings>(), 24);
        assert_eq!(size_of::<TlsInfo>(), 80);
    }
}
