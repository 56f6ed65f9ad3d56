//! How TCP fares, as rows: statistics of connections, what was sent again, thrown away or reset.
//!
//! The kernel tells events one by one up to a number each second, and counts the others; those come
//! here as events too, with their number ([`message_of`]).

use std::collections::HashMap;

use arrow::array::RecordBatch;
use undine_ebpf::load::{Untold, UntoldKey};
use undine_ebpf::{ConnInfo, Header, Kind, TcpEvent, TcpEventKind, TcpStats};
use undine_schema::tables::{
    TCP_DROPS, TCP_RESETS, TCP_RETRANSMITS, TCP_STATS_EVENTS, TcpDrop, TcpDrops, TcpReset,
    TcpResets, TcpRetransmit, TcpRetransmits, TcpStatsEvent, TcpStatsEvents,
};
use undine_schema::{TableDef, TimeNs, Upid};

use crate::conn_tracker::Ends;
use crate::endpoints::Role;
use crate::event::{Body, Event, ProcessKey};
use crate::kernel::ReasonNames;
use crate::process::Processes;
use crate::rows::Origin;

/// States of a TCP socket by the kernel's number (`net/tcp_states.h`).
const STATES: [&str; 13] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// What the kernel calls its reasons. The numbers differ between kernels.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    drops: HashMap<u32, String>,
    resets: HashMap<u32, String>,
}

impl Reasons {
    /// Those of a kernel, without what all of them begin with.
    pub fn of(names: &ReasonNames) -> Self {
        let without = |names: &HashMap<u32, String>, prefix: &str| {
            let short = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
            names.iter().map(|(value, name)| (*value, short(name))).collect()
        };
        Self {
            drops: without(&names.drops, "SKB_DROP_REASON_"),
            resets: without(&names.resets, "SK_RST_REASON_"),
        }
    }

    /// The reason of a drop; its number where the kernel has no name for it, as in a replay.
    fn drop(&self, reason: u32) -> String {
        self.drops.get(&reason).cloned().unwrap_or_else(|| reason.to_string())
    }

    /// The reason of a reset that was sent; empty where the kernel does not say.
    fn reset(&self, reason: u32) -> String {
        match self.resets.get(&reason) {
            Some(name) => name.clone(),
            None if reason == 0 => String::new(),
            None => reason.to_string(),
        }
    }
}

/// What an event says beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// When it happened.
    pub at: TimeNs,
    /// Whose connection it is; its default where that is not known.
    pub process: ProcessKey,
    /// The process at the other end, where that is observed.
    pub peer: Option<ProcessKey>,
}

/// The rows that wait to be taken.
#[derive(Debug)]
pub struct TcpHealth {
    stats: TcpStatsEvents,
    retransmits: TcpRetransmits,
    drops: TcpDrops,
    resets: TcpResets,
    reasons: Reasons,
}

impl Default for TcpHealth {
    fn default() -> Self {
        Self {
            stats: TcpStatsEvents::new(0),
            retransmits: TcpRetransmits::new(0),
            drops: TcpDrops::new(0),
            resets: TcpResets::new(0),
            reasons: Reasons::default(),
        }
    }
}

/// A row that has the columns of whose it is.
macro_rules! row {
    ($row:ident, $who:expr, $origin:expr, { $($column:ident: $value:expr,)+ }) => {
        $row {
            upid: $who.upid,
            service: &$who.service,
            pod: &$who.pod,
            namespace: "",
            node: &$origin.node,
            container: &$who.container,
            remote_service: &$who.remote_service,
            remote_pod: &$who.remote_pod,
            $($column: $value,)+
        }
    };
}

/// Whose a connection is, for rows.
struct Who {
    upid: Upid,
    service: String,
    pod: String,
    container: String,
    remote_service: String,
    remote_pod: String,
}

impl Who {
    fn of(seen: &Seen, ends: &Ends, processes: &mut Processes, asid: u32) -> Self {
        let of = |key: Option<ProcessKey>, port: Option<u16>, processes: &mut Processes| {
            let Some(key) = key else { return <[String; 3]>::default() };
            let service = processes.service(key, port).to_string();
            let place = processes.get(key).map(|known| &known.place);
            let pod = place.map(|place| place.pod_uid.clone()).unwrap_or_default();
            let container = place.map(|place| place.container_name().to_owned());
            [service, pod, container.unwrap_or_default()]
        };
        let (local, remote) = (ends.tuple.local_port, ends.tuple.remote_port);
        let own = (seen.process.tgid != 0).then_some(seen.process);
        let server = (ends.role == Role::Server).then_some(local);
        let [service, pod, container] = of(own, server, processes);
        let peer = (ends.role == Role::Client).then_some(remote);
        let [remote_service, remote_pod, _] = of(seen.peer, peer, processes);
        let upid = own.map_or_else(Upid::default, |own| own.upid(asid));
        Self { upid, service, pod, container, remote_service, remote_pod }
    }
}

impl TcpHealth {
    /// Sets what reasons are called from here on.
    pub fn set_reasons(&mut self, reasons: Reasons) {
        self.reasons = reasons;
    }

    /// Rows that wait to be taken.
    pub fn len(&self) -> usize {
        self.stats.len() + self.retransmits.len() + self.drops.len() + self.resets.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the rows that wait, by table.
    pub fn take(&mut self, batches: &mut Vec<(&'static TableDef, RecordBatch)>) {
        macro_rules! take {
            ($($field:ident $table:expr;)*) => {$(
                if !self.$field.is_empty() {
                    batches.push((&$table, self.$field.finish()));
                }
            )*};
        }
        take! {
            stats TCP_STATS_EVENTS;
            retransmits TCP_RETRANSMITS;
            drops TCP_DROPS;
            resets TCP_RESETS;
        }
    }

    /// Writes the row of an event.
    pub fn push(
        &mut self,
        seen: &Seen,
        kind: TcpEventKind,
        event: &TcpEvent,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let ends = Ends::of(&event.info);
        let who = Who::of(seen, &ends, processes, origin.asid);
        let state = STATES.get(usize::from(event.state)).copied().unwrap_or_default();
        let count = signed(event.count);
        let (src_port, dst_port) =
            (i64::from(ends.tuple.local_port), i64::from(ends.tuple.remote_port));
        match kind {
            TcpEventKind::Stats => self.push_stats(seen.at, &ends, &who, state, event, origin),
            TcpEventKind::Retransmit => self.retransmits.push(&row!(TcpRetransmit, who, origin, {
                time_: seen.at,
                src_ip: &ends.local,
                src_port: src_port,
                dst_ip: &ends.remote,
                dst_port: dst_port,
                state: state,
                count: count,
            })),
            TcpEventKind::Drop => self.drops.push(&row!(TcpDrop, who, origin, {
                time_: seen.at,
                src_ip: &ends.local,
                src_port: src_port,
                dst_ip: &ends.remote,
                dst_port: dst_port,
                state: state,
                reason: &self.reasons.drop(event.reason),
                count: count,
            })),
            TcpEventKind::ResetSent | TcpEventKind::ResetReceived => {
                let (direction, reason) = match kind {
                    TcpEventKind::ResetSent => ("sent", self.reasons.reset(event.reason)),
                    _ => ("received", String::new()),
                };
                self.resets.push(&row!(TcpReset, who, origin, {
                    time_: seen.at,
                    src_ip: &ends.local,
                    src_port: src_port,
                    dst_ip: &ends.remote,
                    dst_port: dst_port,
                    state: state,
                    direction: direction,
                    reason: &reason,
                    count: count,
                }));
            }
        }
    }

    fn push_stats(
        &mut self,
        at: TimeNs,
        ends: &Ends,
        who: &Who,
        state: &str,
        event: &TcpEvent,
        origin: &Origin,
    ) {
        let stats = &event.stats;
        let rtt_min_us = if stats.rtt_min_us == u32::MAX { 0 } else { stats.rtt_min_us };
        self.stats.push(&row!(TcpStatsEvent, who, origin, {
            time_: at,
            local_addr: &ends.local,
            local_port: i64::from(ends.tuple.local_port),
            remote_addr: &ends.remote,
            remote_port: i64::from(ends.tuple.remote_port),
            tx: signed(stats.bytes_sent.saturating_sub(stats.bytes_retransmitted)),
            rx: signed(stats.bytes_received),
            retransmits: i64::from(stats.retransmits),
            retransmitted_bytes: signed(stats.bytes_retransmitted),
            segments_out: i64::from(stats.segments_out),
            segments_in: i64::from(stats.segments_in),
            lost: i64::from(stats.lost),
            out_of_order: i64::from(stats.out_of_order),
            delivered: i64::from(stats.delivered),
            unacked: i64::from(stats.unacked),
            unsent: i64::from(stats.unsent_bytes),
            cwnd: i64::from(stats.cwnd),
            ssthresh: i64::from(stats.ssthresh),
            send_window: i64::from(stats.send_window),
            receive_window: i64::from(stats.receive_window),
            srtt: i64::from(stats.srtt_us) * 1000,
            rttvar: i64::from(stats.rttvar_us) * 1000,
            rtt_min: i64::from(rtt_min_us) * 1000,
            mss: i64::from(stats.mss),
            reordering: i64::from(stats.reordering),
            drops: i64::from(stats.drops),
            resets_sent: i64::from(stats.resets_sent),
            resets_received: i64::from(stats.resets_received),
            state: state,
            closed: event.last != 0,
        }));
    }
}

/// Events that the kernel only counted, as the message that one of them would have been; `None` where
/// they are of no kind that is known.
pub fn message_of(key: &UntoldKey, untold: &Untold, mono_ns: u64) -> Option<Vec<u8>> {
    let event = u8::try_from(key.event).ok()?;
    let kind = TcpEventKind::from_raw(event)?;
    let header = Header {
        kind: Kind::Tcp as u8,
        time_mono_ns: mono_ns,
        conn: key.conn,
        tgid: untold.tgid,
        process_start_ns: untold.process_start_ns,
        ..Header::default()
    };
    let body = TcpEvent {
        info: ConnInfo { role: 0, ..untold.info },
        event,
        state: u8::try_from(untold.state).unwrap_or_default(),
        reason: key.reason,
        count: untold.count,
        stats: TcpStats::default(),
        ..TcpEvent::default()
    };
    let mut bytes = Vec::new();
    Event { header, body: Body::Tcp(kind, body) }.encode(&mut bytes);
    Some(bytes)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_as_the_kernel_does_and_numbers_where_it_is_unknown() {
        let drops = HashMap::from([(33, "SKB_DROP_REASON_TCP_OLD_DATA".to_owned())]);
        let resets = HashMap::from([(1, "SK_RST_REASON_NO_SOCKET".to_owned())]);
        let reasons = Reasons::of(&ReasonNames { drops, resets });
        assert_eq!([reasons.drop(33), reasons.drop(77)], ["TCP_OLD_DATA", "77"]);
        assert_eq!([reasons.reset(1), reasons.reset(9)], ["NO_SOCKET", "9"]);
        assert_eq!(Reasons::default().reset(0), "");
    }

    #[test]
    fn what_was_only_counted_becomes_an_event_with_its_number() {
        let key = UntoldKey { conn: 7, event: TcpEventKind::Drop as u32, reason: 33 };
        let info = ConnInfo { local_port: 80, family: 2, ..ConnInfo::default() };
        let untold = Untold { count: 12, tgid: 3, state: 1, info, ..Untold::default() };
        let bytes = message_of(&key, &untold, 99).unwrap();
        let event = Event::decode(&bytes).unwrap();
        let Body::Tcp(TcpEventKind::Drop, tcp) = event.body else { panic!("{event:?}") };
        assert_eq!((tcp.count, tcp.reason, tcp.info.local_port, tcp.state), (12, 33, 80, 1));
        assert_eq!((event.header.conn, event.header.tgid, event.header.time_mono_ns), (7, 3, 99));
        assert_eq!(message_of(&UntoldKey { event: 300, ..key }, &untold, 0), None);
    }
}
