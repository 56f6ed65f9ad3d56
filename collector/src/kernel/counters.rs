//! What the kernel programs have counted.

use undine_ebpf::{Counter, load};

/// Counters of the kernel programs since they were loaded.
///
/// `attempts = emitted + dropped` holds for each CPU at any time; a message that is being sent
/// while they are read may be counted as emitted for a moment before it is counted as dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were to be sent.
    pub attempts: u64,
    /// Messages for which the ring had no room.
    pub dropped: u64,
    /// Stream bytes that those messages covered.
    pub dropped_bytes: u64,
    /// Operations in scope that moved at least one byte.
    pub operations: u64,
    /// Bytes that they moved.
    pub operation_bytes: u64,
    /// Operations in scope of which no data message reached the ring.
    pub dropped_operations: u64,
    /// Operations seen outside the scope.
    pub out_of_scope: u64,
    /// Operations that only looked (`MSG_PEEK`).
    pub peeks: u64,
    /// Reads of a process's memory that failed.
    pub faults: u64,
    /// Connections that could not be entered in a map.
    pub conn_map_full: u64,
    /// Datagrams among the dropped operations.
    pub dropped_datagrams: u64,
    /// Their bytes, among the dropped bytes.
    pub dropped_datagram_bytes: u64,
    /// Calls of TLS libraries among the operations.
    pub tls_operations: u64,
    /// Their bytes, among the operations'.
    pub tls_bytes: u64,
    /// Bytes of ciphertext that were not copied because their plaintext was.
    pub elided_bytes: u64,
    /// TCP events that are told nowhere.
    pub untold_tcp_events: u64,
    /// Operations of which fewer bytes were sent because the ring was filling, by
    /// [`load::RUNG_PAYLOAD_BYTES`].
    pub shed_operations: [u64; 3],
    /// Their bytes that were not sent.
    pub shed_bytes: u64,
    /// Operations among the dropped ones on connections for which there was no room.
    pub unadmitted_operations: u64,
    /// Their bytes, among the dropped bytes.
    pub unadmitted_bytes: u64,
    /// Connections whose end was not seen, as a socket accepted at the place of theirs has shown.
    pub missed_ends: u64,
}

impl Counters {
    /// Messages that are or were in the ring.
    pub fn emitted(&self) -> u64 {
        self.attempts.saturating_sub(self.dropped)
    }

    /// From values in the order of [`Counter`].
    pub(super) fn from_values(values: &[u64; load::COUNTERS]) -> Self {
        let of = |counter: Counter| values[counter as usize];
        Self {
            attempts: of(Counter::Attempts),
            dropped: of(Counter::Dropped),
            dropped_bytes: of(Counter::DroppedBytes),
            operations: of(Counter::Operations),
            operation_bytes: of(Counter::OperationBytes),
            dropped_operations: of(Counter::DroppedOperations),
            out_of_scope: of(Counter::OutOfScope),
            peeks: of(Counter::Peeks),
            faults: of(Counter::Faults),
            conn_map_full: of(Counter::ConnMapFull),
            dropped_datagrams: of(Counter::DroppedDatagrams),
            dropped_datagram_bytes: of(Counter::DroppedDatagramBytes),
            tls_operations: of(Counter::TlsOperations),
            tls_bytes: of(Counter::TlsBytes),
            elided_bytes: of(Counter::ElidedBytes),
            untold_tcp_events: of(Counter::UntoldTcpEvents),
            shed_operations: [
                of(Counter::ShortenedOperations),
                of(Counter::HeadOperations),
                of(Counter::BareOperations),
            ],
            shed_bytes: of(Counter::ShedBytes),
            unadmitted_operations: of(Counter::UnadmittedOperations),
            unadmitted_bytes: of(Counter::UnadmittedBytes),
            missed_ends: of(Counter::MissedEnds),
        }
    }
}
