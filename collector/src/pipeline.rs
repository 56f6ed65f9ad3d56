//! From kernel messages to rows, without clock, thread or I/O but for `/proc`.
//!
//! ```text
//! message ─► Event ─► Connection (order, protocol, parser) ─► Exchange ─┬─► which end keeps it ─► Rows
//!                ├──► Datagrams (pairing of DNS over UDP) ───────────────┤
//!                └──► Processes ────────────────────────────────────────┘
//! ```
//!
//! A plaintext is a connection beside the one that carries it. What comes of it before that one is
//! known waits in [`Unbound`]; where it does not become known, its rows say so and have no addresses.
//!
//! **One row per request.** Where both ends of a connection are observed, the server's rows are
//! kept and the client's are not. By the time a client has its response the server has read the
//! request, and the ring is in order, so the server's end is known then, unless messages were lost;
//! a client's rows wait where the server's protocol is not decided, at most [`WAITING_NS_MAX`].
//! Once either end has kept a row the decision stands for the connection, so no request is stored
//! twice, and none is missing without its gap being counted. Of protocols whose
//! [`ProtocolCode::both_ends_keep`] every end keeps its own rows instead, told apart by their role.

mod deadlines;
mod keeping;
mod plaintexts;
mod streams;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use arrow::array::RecordBatch;
use undine_ebpf::{ConnInfo, ConnTotals, Header, ProcessInfo, TcpEvent, TcpEventKind};
use undine_schema::tables::{ProbeStatus, STACK_TRACES};
use undine_schema::{TableDef, TimeNs};

use crate::conn_stats::Accounts;
use crate::conn_tracker::ConnTracker;
use crate::datagrams::{Datagram, Datagrams};
use crate::endpoints::{Endpoints, Role};
use crate::event::{Beginning, Body, DecodeError, Event, Flow, ProcessKey};
use crate::exits::Exits;
use crate::loss::{KernelTotals, LossLedger, RowBounds};
use crate::peers::PipeliningPeers;
use crate::process::{FactSource, Facts, Identity, Processes, Seen};
use crate::profiler::{Batch, ProfileCounts};
use crate::protocol::ProtocolCode;
use crate::protocol::gap::{Cause, LostRows};
use crate::protocol::output::Output;
use crate::redaction::Redaction;
use crate::rows::{Origin, RowCounts, Rows};
use crate::service_name::ServiceRule;
use crate::stack_rows::StackRows;
use crate::tcp_health::{Reasons, Seen as TcpSeen, TcpHealth};
use crate::tls::unbound::Unbound;
use crate::trace::Tracing;

/// How long a connection's last messages may come after its end, in nanoseconds.
pub const CLOSING_NS_MAX: u64 = 50_000_000;
/// How long a client's rows wait for the server's protocol, in nanoseconds.
pub const WAITING_NS_MAX: u64 = 200_000_000;
/// Most rows of a connection that wait to know which end keeps them.
pub const WAITING_ROWS_MAX: usize = 64;
/// How long a connection that was never announced may be silent before it is given up, in
/// nanoseconds.
pub const UNANNOUNCED_NS_MAX: u64 = 60_000_000_000;
/// Most bytes that wait on all connections for missing ones.
pub const HELD_BYTES_MAX: usize = 64 << 20;
/// Most evicted connections whose further messages are told apart.
const EVICTED_MAX: usize = 128 * 1024;
/// Most processes that wait to be looked at for TLS libraries; those beyond are looked at with all
/// others.
const LOOK_AT_MAX: usize = 1024;
/// How far event time moves before deadlines are looked at again, in nanoseconds.
const DEADLINES_NS: u64 = 1_000_000;

/// What a pipeline needs to know.
#[derive(Debug)]
pub struct Settings {
    /// The node's name.
    pub node: String,
    /// The node's short id, part of every process's identity.
    pub asid: u32,
    /// What is kept of sensitive values.
    pub redaction: Redaction,
    /// Most bytes that are kept of a body.
    pub body_bytes_max: usize,
    /// The user's rules for names of services.
    pub service_rules: Vec<ServiceRule>,
    /// How often `conn_stats` is written.
    pub conn_stats_interval: Duration,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Where facts about processes come from.
    pub facts: FactSource,
}

/// What the pipeline has seen and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounts {
    /// Messages that were taken.
    pub messages: u64,
    /// Messages that could not be decoded.
    pub decode_errors: u64,
    /// Operations whose bytes came, in whole or in part.
    pub operations: u64,
    /// Stream bytes that messages covered.
    pub bytes: u64,
    /// Connections that were entered.
    pub connections_opened: u64,
    /// Connections that are open.
    pub connections: u64,
    /// Connections that were evicted.
    pub connections_evicted: u64,
    /// Requests that wait for their response.
    pub in_flight: u64,
    /// Exchanges that the other end of their connection keeps.
    pub rows_of_other_end: u64,
    /// Bytes that came after they had been declared missing.
    pub late_bytes: u64,
    /// Connections that have no row in `conn_stats`.
    pub conn_stats_refused: u64,
    /// Processes that ended.
    pub processes_ended: u64,
    /// Calls of TLS libraries among the operations.
    pub tls_operations: u64,
    /// Plaintexts of which it did not become known in time what carries them, so that their rows have
    /// no addresses.
    pub tls_unbound: u64,
}

/// A process whose TLS libraries should be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookAt {
    /// It runs a new program.
    Started(u32),
    /// It speaks TLS, and its plaintext is not known.
    Speaks(u32),
    /// It has ended.
    Ended(u32),
}

/// From kernel messages to rows.
#[derive(Debug)]
pub struct Pipeline {
    origin: Origin,
    tracker: ConnTracker,
    endpoints: Endpoints,
    datagrams: Datagrams,
    peers: PipeliningPeers,
    processes: Processes,
    accounts: Accounts,
    exits: Exits,
    loss: LossLedger,
    /// Apart, because what has a builder for every column is large.
    rows: Box<Rows>,
    tcp_health: Box<TcpHealth>,
    stacks: StackRows,
    out: Output,
    counts: PipelineCounts,
    watermark: u64,
    deadlines_at: u64,
    gaps: VecDeque<(u64, u64)>,
    closings: VecDeque<(u64, u64)>,
    waitings: VecDeque<(u64, u64)>,
    held_bytes: usize,
    evicted: HashSet<u64>,
    conn_stats_interval_ns: u64,
    conn_stats_at: u64,
    unannounced: bool,
    unbound: Unbound,
    /// Processes whose libraries should be looked at.
    to_look_at: Vec<LookAt>,
    /// Where calls of traced functions go; none in a replay.
    tracing: Option<Tracing>,
}

impl Pipeline {
    /// A pipeline that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        let Settings { node, asid, redaction, body_bytes_max, service_rules, facts, .. } = settings;
        let interval = u64::try_from(settings.conn_stats_interval.as_nanos()).unwrap_or(u64::MAX);
        Self {
            origin: Origin { node, asid, redaction, wall_minus_mono_ns: 0 },
            tracker: ConnTracker::new(settings.connections_max),
            endpoints: Endpoints::default(),
            datagrams: Datagrams::default(),
            peers: PipeliningPeers::default(),
            processes: Processes::new(asid, service_rules, facts),
            accounts: Accounts::default(),
            exits: Exits::default(),
            loss: LossLedger::default(),
            rows: Box::default(),
            tcp_health: Box::default(),
            stacks: StackRows::default(),
            out: Output::new(redaction, body_bytes_max),
            counts: PipelineCounts::default(),
            watermark: 0,
            deadlines_at: 0,
            gaps: VecDeque::new(),
            closings: VecDeque::new(),
            waitings: VecDeque::new(),
            held_bytes: 0,
            evicted: HashSet::new(),
            conn_stats_interval_ns: interval,
            conn_stats_at: 0,
            unannounced: false,
            unbound: Unbound::default(),
            to_look_at: Vec::new(),
            tracing: None,
        }
    }

    /// Sets where calls of traced functions go.
    pub(crate) fn set_tracing(&mut self, tracing: Tracing) {
        self.tracing = Some(tracing);
    }

    /// Sets how monotonic times become wall-clock times from here on.
    pub fn set_wall_minus_mono_ns(&mut self, ns: i64) {
        self.origin.wall_minus_mono_ns = ns;
    }

    /// Takes a message as the kernel sent it.
    ///
    /// # Errors
    /// Where it is none; it is counted.
    pub fn message(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        match Event::decode(bytes) {
            Ok(event) => {
                self.event(&event);
                Ok(())
            }
            Err(error) => {
                self.counts.decode_errors += 1;
                Err(error)
            }
        }
    }

    /// Takes an event.
    pub fn event(&mut self, event: &Event<'_>) {
        self.counts.messages += 1;
        let process = event.process();
        match &event.body {
            Body::Data { flow, payload } => self.data(event, *flow, payload),
            Body::Open(info) => {
                let Header { conn, time_mono_ns, .. } = event.header;
                self.open(conn, process, time_mono_ns, event.beginning(), info);
            }
            Body::Close(totals) => {
                self.closed(event.header.conn, totals, event.header.time_mono_ns);
            }
            Body::Datagram { flow, info, payload } => self.datagram(event, *flow, info, payload),
            Body::Tls(info) => self.tls(&event.header, process, info),
            Body::Fork(info) => self.processes.fork(process, info),
            Body::Exec(info) => {
                self.processes.exec(process, info);
                self.look_at(LookAt::Started(process.tgid));
            }
            Body::Exit(info) => {
                self.ended(process, event.header.time_mono_ns, info);
                self.look_at(LookAt::Ended(process.tgid));
            }
            Body::Tcp(kind, tcp) => self.tcp(event, *kind, tcp),
            Body::Trace { info, texts } => {
                if let Some(tracing) = &self.tracing {
                    tracing.call(&event.header, info, texts, &self.origin);
                }
            }
        }
        self.watermark = self.watermark.max(event.header.time_mono_ns);
        if self.watermark >= self.deadlines_at {
            self.meet_deadlines();
        }
    }

    /// Takes note that every message sent before `mono_ns` was taken.
    pub fn advance(&mut self, mono_ns: u64) {
        self.watermark = self.watermark.max(mono_ns);
        self.meet_deadlines();
    }

    /// Takes the kernel's counters.
    pub fn kernel(&mut self, totals: KernelTotals) {
        self.loss.kernel(totals);
    }

    /// Decides everything that waits, because no message is on its way.
    pub fn settle(&mut self) {
        self.give_up_unbound(None);
        for id in self.tracker.ids() {
            self.with(id, |conn, out| conn.declare_gaps(None, out));
            self.decide_waiting(id);
            self.tell_lost_rows(id);
        }
        while let Some((at, id)) = self.closings.pop_front() {
            self.finish(id, at);
        }
        self.datagrams.settle();
        self.write_lookups();
        self.write_conn_stats();
    }

    /// Takes the exact totals of an open connection, all of whose messages up to them were taken:
    /// what has not come is lost.
    pub fn reconcile(&mut self, id: u64, totals: &ConnTotals) {
        let at = self.watermark;
        self.with(id, |conn, out| conn.reconcile_open(totals, at, out));
        self.tell_lost_rows(id);
    }

    /// Takes note that a connection ended at `at`, with these totals.
    pub fn closed(&mut self, id: u64, totals: &ConnTotals, at: u64) {
        if self.evicted.remove(&id) {
            return;
        }
        let Some(conn) = self.tracker.get_mut(id) else {
            return self.unbound.close(id, at, totals);
        };
        conn.closing = Some(*totals);
        if conn.is_complete() {
            self.finish(id, at);
        } else {
            self.closings.push_back((at.max(self.watermark), id));
        }
    }

    /// Writes a row of `probe_status`.
    pub fn probe_status(&mut self, row: &ProbeStatus<'_>) {
        self.rows.probe_status.push(row);
    }

    /// Takes what the profiler hands over.
    pub(crate) fn stacks(&mut self, batch: &Batch, now: TimeNs) {
        let (processes, losses) = (&mut self.processes, &mut self.rows.data_loss);
        self.stacks.write(batch, now, processes, losses, &self.origin);
    }

    /// What the profiler has seen and done.
    pub const fn profile_counts(&self) -> &ProfileCounts {
        self.stacks.counts()
    }

    /// The identity of a process on this node.
    pub fn upid(&self, process: ProcessKey) -> undine_schema::Upid {
        process.upid(self.origin.asid)
    }

    /// Counts rows that the store refused.
    pub fn refused(&mut self, table: &'static str, reason: &'static str, rows: u64) {
        self.loss.refused(table, reason, rows);
    }

    /// Writes what was lost since the last call. `settled` after [`Self::settle`].
    pub fn write_losses(&mut self, now: TimeNs, settled: bool) {
        let in_flight: u64 = self.tracker.iter_mut().map(|conn| conn.in_flight() as u64).sum();
        self.counts.in_flight = in_flight + self.datagrams.len() as u64;
        let settled = settled.then_some(self.counts.in_flight);
        self.loss.write(&mut self.rows.data_loss, now, settled, self.origin.asid);
        self.exits.write_losses(&mut self.rows.data_loss, now, self.loss.kernel_totals());
    }

    /// Takes the rows that were written, by table.
    pub fn take_rows(&mut self, now: TimeNs) -> Vec<(&'static TableDef, RecordBatch)> {
        for (key, change) in self.processes.take_changes() {
            self.rows.process(key, change, now, &mut self.processes, &self.origin);
        }
        let mut batches = self.rows.take();
        self.tcp_health.take(&mut batches);
        batches.extend(self.exits.take());
        if !self.stacks.rows.is_empty() {
            batches.push((&STACK_TRACES, self.stacks.rows.finish()));
        }
        batches
    }

    /// Rows that wait to be taken.
    pub fn rows_waiting(&self) -> usize {
        self.rows.len() + self.tcp_health.len() + self.exits.len() + self.stacks.rows.len()
    }

    /// Sets what the reasons of TCP events are called from here on.
    pub fn set_tcp_reasons(&mut self, reasons: Reasons) {
        self.tcp_health.set_reasons(reasons);
    }

    /// Who the processes are that `/proc` shows; `None` for those that are not known and of which
    /// `seen` does not say enough.
    pub fn identify(&mut self, seen: Vec<Seen>) -> Vec<Option<Identity>> {
        seen.into_iter().map(|seen| self.processes.identify(seen)).collect()
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.origin.node
    }

    /// Takes which processes should be looked at for TLS libraries.
    pub fn take_processes_to_look_at(&mut self) -> Vec<LookAt> {
        std::mem::take(&mut self.to_look_at)
    }

    /// Takes what was found out about processes, for a recording.
    pub fn take_fresh_facts(&mut self) -> Vec<(ProcessKey, Facts)> {
        self.processes.take_fresh()
    }

    /// Adds what a recording says of a process.
    pub fn recorded_facts(&mut self, process: ProcessKey, facts: Facts) {
        self.processes.recorded(process, facts);
    }

    /// What it has seen and done.
    pub fn counts(&self) -> PipelineCounts {
        PipelineCounts {
            connections: self.tracker.len() as u64,
            conn_stats_refused: self.accounts.refused(),
            ..self.counts
        }
    }

    /// How many rows were taken.
    pub const fn row_counts(&self) -> RowCounts {
        self.rows.counts()
    }

    /// The kernel's counters as last taken.
    pub const fn kernel_totals(&self) -> &KernelTotals {
        self.loss.kernel_totals()
    }

    /// Bounds of the rows of `http_events` that are missing.
    pub fn missing_rows(&self) -> RowBounds {
        self.loss.bounds(self.counts.in_flight)
    }

    fn ended(&mut self, process: ProcessKey, at: u64, info: &ProcessInfo) {
        if self.processes.exit(process, info) {
            self.counts.processes_ended += 1;
            self.exits.push(process, at, info, &mut self.processes, &self.origin);
        }
    }

    fn open(
        &mut self,
        id: u64,
        process: ProcessKey,
        at: u64,
        beginning: Beginning,
        info: &ConnInfo,
    ) {
        if !self.enter(id, process, at) {
            return;
        }
        let Some(conn) = self.tracker.get_mut(id) else { return };
        if conn.ends.is_some() {
            return;
        }
        conn.announce(info);
        conn.begins(beginning);
        let Some(ends) = &conn.ends else { return };
        let (tuple, netns, role) = (ends.tuple, ends.netns, ends.role);
        if role == Role::Server {
            self.processes.serves(process, tuple.local_port);
        }
        if let Some(peer) = self.endpoints.enter(id, netns, tuple) {
            self.link(id, peer);
        }
        self.decide_waiting(id);
    }

    fn datagram(&mut self, event: &Event<'_>, flow: Flow, info: &ConnInfo, payload: &[u8]) {
        let header = &event.header;
        let len = u64::from(header.len);
        self.counts.operations += 1;
        self.counts.bytes += len;
        let uncaptured = event.uncaptured();
        if let Some(why) = uncaptured {
            self.loss.uncaptured(why, len - payload.len() as u64);
        }
        let process = event.process();
        self.processes.meet(process);
        let (at, len) = (header.time_mono_ns, header.len as usize);
        let datagram = Datagram { at, process, flow, info, payload, len, uncaptured };
        if let Err(cause) = self.datagrams.take(&datagram) {
            let lost =
                LostRows { cause, rows_min: 0, rows_max: 1, request_bytes: u64::from(header.len) };
            self.loss.out_of_step(0, ProtocolCode::Dns, process, lost);
        }
        self.write_lookups();
    }

    /// Writes the queries over UDP that have ended.
    fn write_lookups(&mut self) {
        for ended in self.datagrams.take_ended() {
            let (process, ends) = (ended.timed.process, &ended.ends);
            if ends.role == Role::Server {
                self.processes.serves(process, ends.tuple.local_port);
            }
            self.rows.lookup(&ended, &mut self.processes, &self.origin);
        }
        let responses = self.datagrams.take_unrequested();
        if responses > 0 {
            let cause = Cause::Unrequested;
            let lost = LostRows { cause, rows_min: 0, rows_max: responses, request_bytes: 0 };
            self.loss.out_of_step(0, ProtocolCode::Dns, ProcessKey::default(), lost);
        }
    }

    fn tcp(&mut self, event: &Event<'_>, kind: TcpEventKind, tcp: &TcpEvent) {
        let process = event.process();
        if process.tgid != 0 {
            self.processes.meet(process);
        }
        let peer = self.tracker.get(event.header.conn).and_then(|conn| conn.peer_process);
        let at = self.origin.wall(event.header.time_mono_ns);
        let seen = TcpSeen { at, process, peer };
        self.tcp_health.push(&seen, kind, tcp, &mut self.processes, &self.origin);
    }
}

#[cfg(test)]
mod tests;
