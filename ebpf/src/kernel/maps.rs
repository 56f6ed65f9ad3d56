//! The maps, and the globals that user space sets before it loads the programs.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use undine_ebpf::{
    Counter,
    load::{
        ASKERS_MAX, BORN_MAX, CALLERS_MAX, CLOSED_MAX, COUNTERS as COUNTERS_LEN, Connection,
        GO_CALLS_MAX, GONE_MAX, LISTEN_PORTS_MAX, ListenKey, OFFSETS as OFFSETS_LEN, Offset,
        PORT_WORDS, Pressure, ProcessVerdict, RUSTLS_OBJECTS_MAX, RUSTLS_WORK_MAX,
        RememberedVerdict, Scratch, Settings, TARGETS_MAX, TLS_CALLS_MAX, TLS_HELLOS_MAX,
        TLS_LIBRARIES_MAX, TcpBudget, TlsHello, TlsHelloAt, TlsKey, TlsLibrary, TlsStream,
        UNTOLD_MAX, Untold, UntoldKey, VERDICTS_PER_CPU,
    },
};

use super::{message_index::Progress, rustls::Work, tls_calls::TlsCall};

/// All messages.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// See [`Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(COUNTERS_LEN as u32, 0);
/// How full the ring was when a CPU looked last.
#[map]
pub(crate) static PRESSURE: PerCpuArray<Pressure> = PerCpuArray::with_max_entries(1, 0);
/// What each CPU has found of processes, by their number.
#[map]
pub(crate) static VERDICTS: PerCpuArray<RememberedVerdict> =
    PerCpuArray::with_max_entries(VERDICTS_PER_CPU, 0);
/// Not 0 once a process has moved several messages with one call.
#[map]
pub(crate) static SEVERAL: Array<u64> = Array::with_max_entries(1, 0);
/// Open connections by the address of their socket.
#[map]
pub(crate) static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(1024, 0);
/// Connections whose end the ring had no room for, by their number.
#[map]
pub(crate) static CLOSED: HashMap<u64, Connection> = HashMap::with_max_entries(CLOSED_MAX, 0);
/// The number of the next connection.
#[map]
pub(crate) static NEXT_CONN: Array<u64> = Array::with_max_entries(1, 0);
/// How many numbers each CPU has given.
#[cfg(feature = "before-5-17")]
#[map]
static CONNS_TAKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// See [`Scratch`].
#[map]
pub(crate) static SCRATCH: Array<Scratch> = Array::with_max_entries(2, 0);
/// The only [`Settings`].
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
/// Processes with a verdict of their own.
#[map]
pub(crate) static SCOPE_TGID: HashMap<u32, ProcessVerdict> =
    HashMap::with_max_entries(TARGETS_MAX, 0);
/// Cgroups with a verdict, by their id.
#[map]
pub(crate) static SCOPE_CGROUP: HashMap<u64, u32> = HashMap::with_max_entries(TARGETS_MAX, 0);
/// Network namespaces with a verdict, by their inode.
#[map]
pub(crate) static SCOPE_NETNS: HashMap<u32, u32> = HashMap::with_max_entries(TARGETS_MAX, 0);
/// Process names with a verdict, padded with zeros.
#[map]
pub(crate) static SCOPE_COMM: HashMap<[u64; 2], u32> = HashMap::with_max_entries(TARGETS_MAX, 0);
/// How many sockets listen on a port.
#[map]
pub(crate) static LISTEN_PORTS: HashMap<ListenKey, u64> =
    HashMap::with_max_entries(LISTEN_PORTS_MAX, 0);
/// Listening sockets that were seen to begin, by their address.
#[map]
pub(crate) static LISTENERS: HashMap<u64, ListenKey> =
    HashMap::with_max_entries(LISTEN_PORTS_MAX, 0);

/// A bit for each port, in host order, whose datagrams are watched.
#[map]
pub(crate) static DATAGRAM_PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
/// Sockets without a connection that sent to such a port, by their inode.
#[map]
pub(crate) static ASKERS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(ASKERS_MAX, 0);
/// How far threads are in a call that moves several messages, by their id.
#[map]
pub(crate) static CALLERS: LruHashMap<u32, Progress> = LruHashMap::with_max_entries(CALLERS_MAX, 0);

/// Sockets that were seen to be accepted, by their address. One that is not used any more does no
/// harm, since whatever has its address has begun later.
#[map]
pub(crate) static BORN: LruHashMap<u64, u32> = LruHashMap::with_max_entries(BORN_MAX, 0);
/// Events of TCP that are only counted.
#[map]
pub(crate) static UNTOLD: HashMap<UntoldKey, Untold> = HashMap::with_max_entries(UNTOLD_MAX, 0);
/// How many events of TCP a CPU has told of in this second.
#[map]
pub(crate) static TCP_BUDGET: PerCpuArray<TcpBudget> = PerCpuArray::with_max_entries(1, 0);
/// The call of a TLS library that a thread is in, by its id in place of the object. An entry stays
/// until the thread ends, since to enter and remove one costs more than the call's other work.
#[map]
pub(crate) static TLS_CALLS: HashMap<TlsKey, TlsCall> = HashMap::with_max_entries(TLS_CALLS_MAX, 0);
/// The call around that one, where TLS goes through TLS.
#[map]
pub(crate) static TLS_OUTER_CALLS: LruHashMap<TlsKey, TlsCall> =
    LruHashMap::with_max_entries(CALLERS_MAX, 0);
/// The call of `crypto/tls` that a goroutine is in, by its address in place of the object.
#[map]
pub(crate) static GO_CALLS: HashMap<TlsKey, TlsCall> = HashMap::with_max_entries(GO_CALLS_MAX, 0);
/// What threads did last in rustls, by their ids. One that is not known any more is known again with its
/// next call.
#[map]
pub(crate) static RUSTLS_WORK: LruHashMap<u64, Work> =
    LruHashMap::with_max_entries(RUSTLS_WORK_MAX, 0);
/// The connection that carries the plaintext of the object of rustls which was seen at an address last. One
/// that is not known any more is known again when the object receives, or what it sends is written.
#[map]
pub(crate) static RUSTLS_OBJECTS: LruHashMap<TlsKey, u64> =
    LruHashMap::with_max_entries(RUSTLS_OBJECTS_MAX, 0);
/// TLS handshakes that began.
#[map]
pub(crate) static TLS_HELLOS: LruHashMap<TlsHello, TlsHelloAt> =
    LruHashMap::with_max_entries(TLS_HELLOS_MAX, 0);
/// Plaintexts by the library's object; of rustls, whose objects move, by their carrier's number with the
/// bit [`undine_ebpf::PLAINTEXT`] once it is known.
#[map]
pub(crate) static TLS_STREAMS: HashMap<TlsKey, TlsStream> = HashMap::with_max_entries(1024, 0);
/// The key of the plaintext that a connection carries, by the connection's number.
#[map]
pub(crate) static TLS_CARRIERS: HashMap<u64, TlsKey> = HashMap::with_max_entries(1024, 0);
/// When watched processes began that ended lately, by their id.
#[map]
pub(crate) static GONE: LruHashMap<u32, u64> = LruHashMap::with_max_entries(GONE_MAX, 0);
/// A plaintext of which nothing is known yet; never written.
#[map]
pub(crate) static TLS_FRESH: Array<TlsStream> = Array::with_max_entries(1, 0);
/// Libraries that are probed, by their index.
#[map]
pub(crate) static TLS_LIBRARIES: Array<TlsLibrary> = Array::with_max_entries(TLS_LIBRARIES_MAX, 0);

/// What a function of sockets tells, by direction: socket, result and flags.
#[map]
pub(crate) static TOLD: PerCpuArray<[u64; 3]> = PerCpuArray::with_max_entries(2, 0);

/// How many registers a `struct pt_regs` of x86-64 has.
#[cfg(feature = "before-5-17")]
pub(crate) const REGISTERS_LEN: usize = 21;
/// A copy of the current process's registers.
#[cfg(feature = "before-5-17")]
#[map]
pub(crate) static REGISTERS: PerCpuArray<[u64; REGISTERS_LEN]> =
    PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static OFFSETS: [u32; OFFSETS_LEN] = [0; OFFSETS_LEN];
#[unsafe(no_mangle)]
static OWN_TGID: u32 = 0;
#[unsafe(no_mangle)]
static OWN_CGROUP: u64 = 0;
#[unsafe(no_mangle)]
static DROPS_NAME_SOCKETS: u32 = 0;
#[unsafe(no_mangle)]
static RESETS_HAVE_REASONS: u32 = 0;
#[unsafe(no_mangle)]
static TCP_STATS_INTERVAL_NS: u64 = 0;
#[unsafe(no_mangle)]
static WAKEUP_BYTES: u64 = 0;
#[unsafe(no_mangle)]
static LOOK_BYTES: u64 = 0;
#[unsafe(no_mangle)]
static RUNG_UP_BYTES: [u64; 3] = [u64::MAX; 3];
#[unsafe(no_mangle)]
static RUNG_DOWN_BYTES: [u64; 3] = [0; 3];

/// The offset of a kernel field. The verifier knows it as a constant.
#[inline(always)]
pub(crate) fn offset(field: Offset) -> usize {
    // SAFETY: `field` is a place inside the array.
    unsafe { read_volatile(addr_of!(OFFSETS).cast::<u32>().add(field as usize)) as usize }
}

/// Undine's own process.
#[inline(always)]
pub(crate) fn own_tgid() -> u32 {
    // SAFETY: a global is always readable.
    unsafe { read_volatile(addr_of!(OWN_TGID)) }
}

/// The cgroup that Undine's own process is in, 0 where that is not known.
#[inline(always)]
pub(crate) fn own_cgroup() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(OWN_CGROUP)) }
}

/// Whether the tracepoint `kfree_skb` names the socket that a packet was for; kernel 6.11 and later.
#[inline(always)]
pub(crate) fn drops_name_sockets() -> bool {
    // SAFETY: as above. The verifier knows it as a constant.
    unsafe { read_volatile(addr_of!(DROPS_NAME_SOCKETS)) != 0 }
}

/// Whether the tracepoint `tcp_send_reset` says why; kernel 6.10 and later.
#[inline(always)]
pub(crate) fn resets_have_reasons() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(RESETS_HAVE_REASONS)) != 0 }
}

/// How often the statistics of a connection that is used are told.
#[inline(always)]
pub(crate) fn tcp_stats_interval_ns() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(TCP_STATS_INTERVAL_NS)) }
}

/// How full the ring is when the reader is woken.
#[inline(always)]
pub(crate) fn wakeup_bytes() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(WAKEUP_BYTES)) }
}

/// How much a CPU sends before it looks again how full the ring is.
#[inline(always)]
pub(crate) fn look_bytes() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(LOOK_BYTES)) }
}

/// How full the ring is when a rung of the ladder begins.
#[inline(always)]
pub(crate) fn rung_up_bytes(rung: usize) -> u64 {
    // SAFETY: as above; callers name one of three rungs.
    unsafe { read_volatile(addr_of!(RUNG_UP_BYTES).cast::<u64>().add(rung)) }
}

/// How empty the ring is when it ends.
#[inline(always)]
pub(crate) fn rung_down_bytes(rung: usize) -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(RUNG_DOWN_BYTES).cast::<u64>().add(rung)) }
}

/// Adds to a counter of this CPU and gives what it was.
///
/// Atomic although the counter belongs to one CPU, since a softirq may come between.
#[inline(always)]
pub(crate) fn count(counter: Counter, by: u64) -> u64 {
    match COUNTERS.get_ptr_mut(counter as u32) {
        Some(value) => add(value, by),
        None => 0,
    }
}

/// Adds to a counter of this CPU that only programs on behalf of a process use. They do not
/// interrupt each other on one CPU, so that this need not be atomic.
#[inline(always)]
pub(crate) fn count_process(counter: Counter, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a map value.
        unsafe { *value += by };
    }
}

/// Counts an operation of `len` bytes on a connection that a map has no room for.
#[inline(always)]
pub(crate) fn count_unadmitted(len: u64) {
    count(Counter::UnadmittedOperations, 1);
    count(Counter::UnadmittedBytes, len);
    count(Counter::DroppedOperations, 1);
    count(Counter::DroppedBytes, len);
}

/// Adds to a number in a map atomically and gives what it was.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
pub(crate) fn add(value: *mut u64, by: u64) -> u64 {
    let mut before = by;
    // SAFETY: callers pass addresses of map values, which are aligned and stay while the program
    // runs. In assembly since Rust offers this target no atomic operations; kernel 5.12 has it.
    unsafe {
        core::arch::asm!(
            "{before} = atomic_fetch_add((u64 *)({value} + 0), {before})",
            before = inout(reg) before,
            value = in(reg) value,
            options(nostack),
        );
    }
    before
}

/// Adds to a number in a map atomically and gives what it was, as if nobody else had added at the
/// same moment: kernels before 5.12 cannot tell. So sums are exact, but two programs that interrupt
/// each other may be given one number.
#[cfg(feature = "before-5-17")]
#[inline(always)]
pub(crate) fn add(value: *mut u64, by: u64) -> u64 {
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({value} + 0) += {by}",
            value = in(reg) value,
            by = in(reg) by,
            options(nostack),
        );
        read_volatile(value).wrapping_sub(by)
    }
}

/// A number for a connection that no other has.
#[cfg(not(feature = "before-5-17"))]
#[inline(always)]
pub(crate) fn next_conn() -> Option<u64> {
    Some(add(NEXT_CONN.get_ptr_mut(0)?, 1))
}

/// A number for a connection that no other has: each CPU has its own, since two CPUs that take one
/// at the same moment could not be told apart.
///
/// Only programs on behalf of a process need one, and these do not interrupt each other.
#[cfg(feature = "before-5-17")]
#[inline(always)]
pub(crate) fn next_conn() -> Option<u64> {
    /// More CPUs than a kernel is built for.
    const CPUS_MAX: u64 = 1 << 13;
    let (first, taken) = (NEXT_CONN.get(0)?, CONNS_TAKEN.get_ptr_mut(0)?);
    // SAFETY: a map value of this CPU.
    let number = unsafe {
        *taken += 1;
        *taken
    };
    Some(first + number * CPUS_MAX + u64::from(super::ring::cpu()))
}
