//! What was lost, and the bounds of the rows that are missing because of it.
//!
//! | what | operations, bytes | rows |
//! |---|---|---|
//! | the ring was full | the kernel counts both, exactly | none here: the gap shows on its connection |
//! | the ring was filling, so that operations were cut | the kernel counts both, exactly | none here: inside a body nothing else is missing, elsewhere the connection falls out of step |
//! | the map of connections was full | the kernel counts both, exactly | 0 … one per shortest request, for every protocol that was seen |
//! | a connection out of step | none here: counted above | exchanges that were dropped … plus one for as many unread bytes of its requests as its protocol's shortest request has |
//! | lost bytes that no connection accounts for yet | none here | 0 … one per shortest request, plus the requests that wait for a response, for every protocol that was seen |
//! | datagrams for which the ring was full | counted above | 0 … one for each, of `dns_events` |
//! | events of TCP for which the kernel had no room | none | exact, if each were a row of its own; which table is not known |
//! | bytes truncated or bypassed | exact, by message | none: inside a body nothing else is missing, elsewhere the connection falls out of step |
//! | rows that the store refused | | exact |
//!
//! So the sums over the table are exact for operations and bytes, and contain the truth for rows.
//! The upper bound of bytes that were not accounted for at first stays in the table when a
//! connection accounts for them later: the sum then grows looser, never wrong.

use std::collections::{BTreeMap, BTreeSet};

use undine_ebpf::load::RUNG_PAYLOAD_BYTES;
use undine_schema::tables::{DataLoss, DataLosses};
use undine_schema::{TimeNs, Upid};

use crate::event::{ProcessKey, Uncaptured};
use crate::protocol::ProtocolCode;
use crate::protocol::gap::{Cause, LostRows};

/// Most connections whose lost rows are told apart between two writes of the table.
const CONNECTIONS_MAX: usize = 512;

/// What the kernel programs have counted since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTotals {
    /// Messages that were to be sent.
    pub attempts: u64,
    /// Messages for which the ring had no room.
    pub dropped: u64,
    /// Stream bytes that those messages covered.
    pub dropped_bytes: u64,
    /// Operations of which no byte reached the ring.
    pub dropped_operations: u64,
    /// Operations in scope that moved at least one byte.
    pub operations: u64,
    /// Bytes that they moved.
    pub operation_bytes: u64,
    /// Datagrams among the dropped operations.
    pub dropped_datagrams: u64,
    /// Their bytes, among the dropped bytes.
    pub dropped_datagram_bytes: u64,
    /// Events of TCP that are in no row.
    pub untold_tcp_events: u64,
    /// Operations of which fewer bytes were sent because the ring was filling, by
    /// [`undine_ebpf::load::RUNG_PAYLOAD_BYTES`].
    pub shed_operations: [u64; 3],
    /// Their bytes that were not sent.
    pub shed_bytes: u64,
    /// Dropped operations on connections for which the map had no room.
    pub unadmitted_operations: u64,
    /// Their bytes, among the dropped ones.
    pub unadmitted_bytes: u64,
}

/// Bounds of the rows that are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowBounds {
    /// At least this many.
    pub min: u64,
    /// At most this many.
    pub max: u64,
}

impl RowBounds {
    fn add(&mut self, min: u64, max: u64) {
        self.min = self.min.saturating_add(min);
        self.max = self.max.saturating_add(max);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    operations: u64,
    bytes: u64,
    rows: RowBounds,
    request_bytes: u64,
    process: ProcessKey,
}

/// Why something is missing: a row of the table for each in every interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    OutOfStep(Cause, &'static str, u64),
    Uncaptured(UncapturedReason),
    Evicted(&'static str),
    Unannounced(&'static str),
    Refused(&'static str, &'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UncapturedReason {
    Truncated,
    Bypassed,
    Fault,
}

/// Gathers losses until they are written.
#[derive(Debug, Default)]
pub struct LossLedger {
    open: BTreeMap<Why, Lost>,
    kernel: KernelTotals,
    reported: KernelTotals,
    /// Lost bytes that connections account for.
    attributed_bytes: u64,
    /// Lost bytes that no connection accounted for, for which bounds were written.
    unattributed_reported: u64,
    /// Those of them that were on connections for which there was no room.
    unadmitted_reported: u64,
    /// Those at the last write; only what is as old as that is written.
    unattributed_before: u64,
    rows: RowBounds,
    /// Protocols that were seen beside HTTP, so that lost bytes can have been theirs.
    spoken: BTreeSet<ProtocolCode>,
}

impl LossLedger {
    /// Takes note that a connection speaks `code`.
    pub fn speaks(&mut self, code: ProtocolCode) {
        if code.table() != ProtocolCode::Unknown.table() {
            self.spoken.insert(code);
        }
    }

    /// Takes the kernel's counters.
    pub fn kernel(&mut self, totals: KernelTotals) {
        self.kernel = totals;
    }

    /// The kernel's counters as last taken.
    pub const fn kernel_totals(&self) -> &KernelTotals {
        &self.kernel
    }

    /// A connection accounts for lost bytes.
    pub fn attribute(&mut self, bytes: u64) {
        self.attributed_bytes = self.attributed_bytes.saturating_add(bytes);
    }

    /// Rows of a connection that was out of step.
    pub fn out_of_step(
        &mut self,
        conn: u64,
        code: ProtocolCode,
        process: ProcessKey,
        lost: LostRows,
    ) {
        let mut why = Why::OutOfStep(lost.cause, code.table(), conn);
        if self.open.len() >= CONNECTIONS_MAX && !self.open.contains_key(&why) {
            why = Why::OutOfStep(lost.cause, code.table(), 0);
        }
        self.rows.add(lost.rows_min, lost.rows_max);
        let entry = self.open.entry(why).or_default();
        entry.rows.add(lost.rows_min, lost.rows_max);
        entry.request_bytes = entry.request_bytes.saturating_add(lost.request_bytes);
        entry.process = process;
    }

    /// Bytes of an operation that were not captured. Those whose plaintext is are not lost.
    pub fn uncaptured(&mut self, why: Uncaptured, bytes: u64) {
        let reason = match why {
            // The kernel's counters tell of what was shed.
            Uncaptured::Elided | Uncaptured::Shed => return,
            Uncaptured::Truncated => UncapturedReason::Truncated,
            Uncaptured::Bypassed => UncapturedReason::Bypassed,
            Uncaptured::Fault => UncapturedReason::Fault,
        };
        let entry = self.open.entry(Why::Uncaptured(reason)).or_default();
        entry.operations += 1;
        entry.bytes = entry.bytes.saturating_add(bytes);
    }

    /// A connection was evicted with this many requests without a response.
    pub fn evicted(&mut self, code: ProtocolCode, rows: u64) {
        self.rows.add(0, rows);
        self.open.entry(Why::Evicted(code.table())).or_default().rows.add(0, rows);
    }

    /// Exchanges of connections that were never announced, so that it cannot be told which end
    /// keeps them.
    pub fn unannounced(&mut self, code: ProtocolCode, rows: u64) {
        self.rows.add(0, rows);
        self.open.entry(Why::Unannounced(code.table())).or_default().rows.add(0, rows);
    }

    /// Rows of a table that the store refused.
    pub fn refused(&mut self, table: &'static str, reason: &'static str, rows: u64) {
        self.rows.add(rows, rows);
        self.open.entry(Why::Refused(table, reason)).or_default().rows.add(rows, rows);
    }

    /// Lost bytes of connections that none accounts for.
    pub const fn unattributed_bytes(&self) -> u64 {
        let of_connections =
            self.kernel.dropped_bytes.saturating_sub(self.kernel.dropped_datagram_bytes);
        of_connections.saturating_sub(self.attributed_bytes)
    }

    /// Fewest bytes of a request of any protocol that was seen.
    fn request_bytes_min(&self) -> u64 {
        let spoken = self.spoken.iter().copied().chain([ProtocolCode::Unknown]);
        spoken.map(ProtocolCode::request_bytes_min).min().unwrap_or(1)
    }

    /// Bounds of the rows that are missing now, where `in_flight` requests wait for a response.
    pub fn bounds(&self, in_flight: u64) -> RowBounds {
        let unattributed = self.unattributed_bytes();
        let waiting = if unattributed > 0 { in_flight } else { 0 };
        let RowBounds { min, max } = self.rows;
        let more = (unattributed / self.request_bytes_min())
            .saturating_add(waiting)
            .saturating_add(self.kernel.dropped_datagrams);
        RowBounds { min, max: max.saturating_add(more) }
    }

    /// Writes what was lost since the last call. `settled` where no message is on its way, so
    /// that bytes no connection accounts for never will be.
    pub fn write(&mut self, rows: &mut DataLosses, time: TimeNs, settled: Option<u64>, asid: u32) {
        self.write_kernel(rows, time);
        for (why, lost) in std::mem::take(&mut self.open) {
            write_one(rows, time, asid, why, &lost);
        }
        self.write_unattributed(rows, time, settled);
    }

    fn write_kernel(&mut self, rows: &mut DataLosses, time: TimeNs) {
        let since =
            |of: fn(&KernelTotals) -> u64| of(&self.kernel).saturating_sub(of(&self.reported));
        let unadmitted = since(|totals| totals.unadmitted_operations);
        let unadmitted_bytes = since(|totals| totals.unadmitted_bytes);
        let operations = since(|totals| totals.dropped_operations).saturating_sub(unadmitted);
        let bytes = since(|totals| totals.dropped_bytes).saturating_sub(unadmitted_bytes);
        let shed: [u64; 3] = std::array::from_fn(|rung| {
            let before = self.reported.shed_operations[rung];
            self.kernel.shed_operations[rung].saturating_sub(before)
        });
        let shed_bytes = since(|totals| totals.shed_bytes);
        let messages = self.kernel.dropped.saturating_sub(self.reported.dropped);
        let datagrams =
            self.kernel.dropped_datagrams.saturating_sub(self.reported.dropped_datagrams);
        let untold = self.kernel.untold_tcp_events.saturating_sub(self.reported.untold_tcp_events);
        self.reported = self.kernel;
        if untold > 0 {
            rows.push(&DataLoss {
                time_: time,
                stage: "kernel",
                reason: "map_full",
                rows_max: signed(untold),
                detail: &format!("{untold} TCP events"),
                ..DataLoss::default()
            });
        }
        if operations + bytes + messages > 0 {
            rows.push(&DataLoss {
                time_: time,
                stage: "kernel",
                reason: "ring_full",
                operations: signed(operations),
                bytes: signed(bytes),
                detail: &format!("{messages} messages; missing rows are told by connection"),
                ..DataLoss::default()
            });
        }
        if unadmitted > 0 {
            rows.push(&DataLoss {
                time_: time,
                stage: "kernel",
                reason: "conn_map_full",
                operations: signed(unadmitted),
                bytes: signed(unadmitted_bytes),
                detail: "there is room for fewer connections than were used at a time",
                ..DataLoss::default()
            });
        }
        if shed_bytes > 0 {
            let rungs = RUNG_PAYLOAD_BYTES.iter().zip(shed).filter(|(_, cut)| *cut > 0);
            let cut: Vec<_> = rungs.map(|(to, cut)| format!("{cut} to {to} bytes")).collect();
            rows.push(&DataLoss {
                time_: time,
                stage: "kernel",
                reason: "ring_filling",
                operations: signed(shed.iter().sum()),
                bytes: signed(shed_bytes),
                detail: &format!("operations were cut: {}", cut.join(", ")),
                ..DataLoss::default()
            });
        }
        if datagrams > 0 {
            rows.push(&DataLoss {
                time_: time,
                source_table: ProtocolCode::Dns.table(),
                stage: "collector",
                reason: "ring_full",
                rows_max: signed(datagrams),
                detail: &format!("{datagrams} lost datagrams"),
                ..DataLoss::default()
            });
        }
    }

    fn write_unattributed(&mut self, rows: &mut DataLosses, time: TimeNs, settled: Option<u64>) {
        let now = self.unattributed_bytes();
        let sure = if settled.is_some() { now } else { now.min(self.unattributed_before) };
        self.unattributed_before = now;
        let fresh = sure.saturating_sub(self.unattributed_reported);
        if fresh == 0 {
            return;
        }
        self.unattributed_reported = sure;
        // What no connection had room for none will ever account for.
        let never =
            self.kernel.unadmitted_bytes.saturating_sub(self.unadmitted_reported).min(fresh);
        self.unadmitted_reported += never;
        let in_flight = settled.unwrap_or(0);
        for (reason, bytes) in [("conn_map_full", never), ("ring_full", fresh - never)] {
            if bytes == 0 {
                continue;
            }
            for code in self.spoken.iter().copied().chain([ProtocolCode::Unknown]) {
                let rows_max = bytes.div_ceil(code.request_bytes_min()) + in_flight;
                rows.push(&DataLoss {
                    time_: time,
                    source_table: code.table(),
                    stage: "collector",
                    reason,
                    rows_max: signed(rows_max),
                    detail: &format!("{bytes} lost bytes that no connection accounts for"),
                    ..DataLoss::default()
                });
            }
        }
    }
}

fn write_one(rows: &mut DataLosses, time: TimeNs, asid: u32, why: Why, lost: &Lost) {
    let mut conn = String::new();
    let mut detail = String::new();
    let (source_table, stage, reason) = match why {
        Why::OutOfStep(cause, table, id) => {
            if id != 0 {
                conn = format!("{id:x}");
            }
            detail = format!("{} unread bytes of requests", lost.request_bytes);
            (table, "collector", cause.reason())
        }
        Why::Uncaptured(UncapturedReason::Truncated) => ("", "kernel", "truncated"),
        Why::Uncaptured(UncapturedReason::Bypassed) => ("", "kernel", "bypassed"),
        Why::Uncaptured(UncapturedReason::Fault) => ("", "kernel", "fault"),
        Why::Evicted(table) => (table, "collector", "evicted"),
        Why::Unannounced(table) => (table, "collector", "unannounced"),
        Why::Refused(table, reason) => (table, "store", reason),
    };
    let has_process = lost.process != ProcessKey::default() && !conn.is_empty();
    rows.push(&DataLoss {
        time_: time,
        source_table,
        stage,
        reason,
        operations: signed(lost.operations),
        bytes: signed(lost.bytes),
        rows_min: signed(lost.rows.min),
        rows_max: signed(lost.rows.max),
        upid: if has_process { lost.process.upid(asid) } else { Upid::default() },
        conn: &conn,
        detail: &detail,
        ..DataLoss::default()
    });
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ledger: &mut LossLedger, settled: Option<u64>) -> Vec<String> {
        let mut rows = DataLosses::new(0);
        ledger.write(&mut rows, TimeNs::ZERO, settled, 1);
        let batch = rows.finish();
        let text = arrow::util::pretty::pretty_format_batches(&[batch]).unwrap().to_string();
        let keep = |line: &str| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            cells[2..=8].join(" ")
        };
        text.lines().skip(3).filter(|line| line.starts_with('|')).map(keep).collect()
    }

    #[test]
    fn operations_and_bytes_are_written_once_and_rows_where_their_gap_is() {
        let mut ledger = LossLedger::default();
        let totals = KernelTotals {
            dropped: 3,
            dropped_bytes: 100,
            dropped_operations: 2,
            ..KernelTotals::default()
        };
        ledger.kernel(totals);
        ledger.attribute(64);
        let lost = LostRows { cause: Cause::RingFull, rows_min: 1, rows_max: 4, request_bytes: 64 };
        ledger.out_of_step(255, ProtocolCode::Http, ProcessKey { tgid: 1, start_ns: 0 }, lost);
        assert_eq!(ledger.bounds(5), RowBounds { min: 1, max: 4 + 3 + 5 });
        assert_eq!(
            written(&mut ledger, None),
            ["kernel ring_full 2 100 0 0", "http_events collector ring_full 0 0 1 4"].map(|line| {
                if line.starts_with("kernel") { format!(" {line}") } else { line.to_owned() }
            })
        );
        // What no connection accounts for is written once it is as old as the last write.
        assert_eq!(written(&mut ledger, None), ["http_events collector ring_full 0 0 0 4"]);
        assert_eq!(written(&mut ledger, Some(3)), Vec::<String>::new());
    }

    #[test]
    fn what_had_no_room_in_the_map_of_connections_is_not_called_a_full_ring() {
        let mut ledger = LossLedger::default();
        ledger.kernel(KernelTotals {
            dropped: 1,
            dropped_operations: 5,
            dropped_bytes: 416,
            unadmitted_operations: 4,
            unadmitted_bytes: 320,
            ..KernelTotals::default()
        });
        let told = written(&mut ledger, Some(0));
        let shortest = ProtocolCode::Unknown.request_bytes_min();
        let row = |reason, bytes: u64| {
            format!("http_events collector {reason} 0 0 0 {}", bytes.div_ceil(shortest))
        };
        let of_kernel = [" kernel ring_full 1 96 0 0", " kernel conn_map_full 4 320 0 0"];
        assert_eq!(told[..2], of_kernel);
        assert_eq!(told[2..], [row("conn_map_full", 320), row("ring_full", 96)]);
        assert_eq!(written(&mut ledger, Some(0)), Vec::<String>::new());
    }

    #[test]
    fn what_was_shed_is_told_by_rung_and_is_no_lost_row() {
        let mut ledger = LossLedger::default();
        let (shed_operations, shed_bytes) = ([3, 0, 2], 9000);
        ledger.kernel(KernelTotals { shed_operations, shed_bytes, ..KernelTotals::default() });
        ledger.uncaptured(Uncaptured::Shed, 9000);
        assert_eq!(ledger.bounds(7), RowBounds::default());
        let mut rows = DataLosses::new(0);
        ledger.write(&mut rows, TimeNs::ZERO, None, 1);
        let text = arrow::util::pretty::pretty_format_batches(&[rows.finish()]).unwrap();
        let text = text.to_string();
        assert!(text.contains("3 to 4096 bytes, 2 to 0 bytes"), "{text}");
        assert!(text.contains("ring_filling"), "{text}");
        assert_eq!(written(&mut ledger, None), Vec::<String>::new());
    }

    #[test]
    fn a_lost_datagram_is_at_most_one_row_and_none_of_another_table() {
        let mut ledger = LossLedger::default();
        let (dropped_bytes, dropped_operations) = (120, 3);
        let (dropped_datagrams, dropped_datagram_bytes) = (3, 120);
        ledger.kernel(KernelTotals {
            dropped: 3,
            dropped_bytes,
            dropped_operations,
            dropped_datagrams,
            dropped_datagram_bytes,
            ..KernelTotals::default()
        });
        assert_eq!(ledger.bounds(9), RowBounds { min: 0, max: 3 });
        assert_eq!(
            written(&mut ledger, Some(9)),
            [" kernel ring_full 3 120 0 0", "dns_events collector ring_full 0 0 0 3"]
        );
        assert_eq!(written(&mut ledger, Some(9)), Vec::<String>::new());
    }

    #[test]
    fn many_connections_are_folded_into_one_row() {
        let mut ledger = LossLedger::default();
        for conn in 1..2000 {
            let lost =
                LostRows { cause: Cause::ParseError, rows_min: 1, rows_max: 1, request_bytes: 0 };
            ledger.out_of_step(conn, ProtocolCode::Http, ProcessKey::default(), lost);
        }
        assert_eq!(written(&mut ledger, None).len(), CONNECTIONS_MAX + 1);
        assert_eq!(ledger.bounds(0), RowBounds { min: 1999, max: 1999 });
    }
}
