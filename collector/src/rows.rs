//! Rows of all tables, gathered into batches.

use arrow::array::RecordBatch;
use undine_schema::tables::{
    CONN_STATS, ConnStat, ConnStats, DATA_LOSS, DataLosses, HTTP_EVENTS, HttpEvent, HttpEvents,
    PROBE_STATUS, PROCESSES, ProbeStatuses, ProcessVersion, Processes as ProcessRows,
};
use undine_schema::{TableDef, TimeNs};

use crate::conn_stats::{Account, AccountKey};
use crate::conn_tracker::Connection;
use crate::endpoints::Role;
use crate::event::{Flow, ProcessKey};
use crate::path_template::template_into;
use crate::process::{Change, Processes};
use crate::protocol::exchange::Exchange;
use crate::redaction::{Redaction, body_into};

/// Rows for which a batch has room before it grows.
const BATCH_ROWS: usize = 1024;

/// How many rows were written, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows of `http_events`.
    pub http_events: u64,
    /// Rows of `conn_stats`.
    pub conn_stats: u64,
    /// Rows of `processes`.
    pub processes: u64,
    /// Rows of `data_loss`.
    pub data_loss: u64,
    /// Rows of `probe_status`.
    pub probe_status: u64,
}

/// What every row of this collector has in common.
#[derive(Debug)]
pub struct Origin {
    /// The node's name.
    pub node: String,
    /// The node's short id.
    pub asid: u32,
    /// What is kept of sensitive values.
    pub redaction: Redaction,
    /// Nanoseconds to add to the monotonic clock to get wall-clock time.
    pub wall_minus_mono_ns: i64,
}

impl Origin {
    /// The wall-clock time of a monotonic one.
    pub fn wall(&self, mono_ns: u64) -> TimeNs {
        let mono = i64::try_from(mono_ns).unwrap_or(i64::MAX);
        TimeNs::new(mono.saturating_add(self.wall_minus_mono_ns))
    }
}

/// The batches of all tables.
#[derive(Debug)]
pub struct Rows {
    http_events: HttpEvents,
    conn_stats: ConnStats,
    processes: ProcessRows,
    pub(crate) data_loss: DataLosses,
    pub(crate) probe_status: ProbeStatuses,
    counts: RowCounts,
    template: String,
    req_body: String,
    resp_body: String,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            http_events: HttpEvents::new(BATCH_ROWS),
            conn_stats: ConnStats::new(0),
            processes: ProcessRows::new(0),
            data_loss: DataLosses::new(0),
            probe_status: ProbeStatuses::new(0),
            counts: RowCounts::default(),
            template: String::new(),
            req_body: String::new(),
            resp_body: String::new(),
        }
    }
}

impl Rows {
    /// Rows that wait to be taken.
    pub fn len(&self) -> usize {
        self.http_events.len()
            + self.conn_stats.len()
            + self.processes.len()
            + self.data_loss.len()
            + self.probe_status.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows were taken.
    pub const fn counts(&self) -> RowCounts {
        self.counts
    }

    /// Takes what waits, by table: what explains rows goes before the rows.
    pub fn take(&mut self) -> Vec<(&'static TableDef, RecordBatch)> {
        let mut batches = Vec::new();
        macro_rules! take {
            ($($field:ident $table:expr;)*) => {$(
                if !self.$field.is_empty() {
                    self.counts.$field += self.$field.len() as u64;
                    batches.push((&$table, self.$field.finish()));
                }
            )*};
        }
        take! {
            probe_status PROBE_STATUS;
            processes PROCESSES;
            http_events HTTP_EVENTS;
            conn_stats CONN_STATS;
            data_loss DATA_LOSS;
        }
        batches
    }

    /// Writes a row of `http_events`.
    pub fn http_event(
        &mut self,
        exchange: &Exchange,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let role = conn.role();
        let ends = conn.ends.as_ref();
        let local_port = ends.map_or(0, |ends| ends.tuple.local_port);
        let remote_port = ends.map_or(0, |ends| ends.tuple.remote_port);
        let process = exchange.process;
        let service = processes.service(process, (role == Role::Server).then_some(local_port));
        let remote_service = conn
            .peer_process
            .map(|peer| processes.service(peer, (role == Role::Client).then_some(remote_port)));
        let known = processes.get(process);
        let peer = conn.peer_process.and_then(|peer| processes.get(peer));
        self.template.clear();
        template_into(&exchange.path, &mut self.template);
        self.req_body.clear();
        self.resp_body.clear();
        let mode = origin.redaction.bodies;
        body_into(mode, &exchange.req_body.kept, exchange.req_body.size, &mut self.req_body);
        body_into(mode, &exchange.resp_body.kept, exchange.resp_body.size, &mut self.resp_body);
        self.http_events.push(&HttpEvent {
            time_: origin.wall(exchange.responded_at),
            upid: process.upid(origin.asid),
            remote_addr: ends.map_or("-", |ends| &ends.remote),
            remote_port: i64::from(remote_port),
            local_addr: ends.map_or("-", |ends| &ends.local),
            local_port: i64::from(local_port),
            trace_role: role as i64,
            encrypted: false,
            major_version: 1,
            minor_version: i64::from(exchange.minor_version),
            content_type: exchange.content_type as i64,
            req_headers: &exchange.req_headers,
            req_method: &exchange.method,
            req_path: &exchange.path,
            req_body: &self.req_body,
            req_body_size: signed(exchange.req_body.size),
            resp_headers: &exchange.resp_headers,
            resp_status: i64::from(exchange.resp_status),
            resp_message: &exchange.resp_message,
            resp_body: &self.resp_body,
            resp_body_size: signed(exchange.resp_body.size),
            latency: signed(exchange.responded_at.saturating_sub(exchange.requested_at)),
            service: &service,
            pod: known.map_or("", |known| &known.place.pod_uid),
            namespace: "",
            node: &origin.node,
            container: known.map_or("", |known| known.place.container_name()),
            remote_service: remote_service.as_deref().unwrap_or_default(),
            remote_pod: peer.map_or("", |peer| &peer.place.pod_uid),
            req_path_template: &self.template,
            quality: i64::from(exchange.quality),
        });
    }

    /// Writes a row of `conn_stats`.
    pub fn conn_stat(
        &mut self,
        key: &AccountKey,
        account: &Account,
        time: TimeNs,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let server = key.role == Role::Server;
        let service = processes.service(key.process, server.then_some(key.local_port));
        let remote_port = (key.role == Role::Client).then_some(key.remote_port);
        let remote_service = account.peer_process.map(|peer| processes.service(peer, remote_port));
        let known = processes.get(key.process);
        let peer = account.peer_process.and_then(|peer| processes.get(peer));
        self.conn_stats.push(&ConnStat {
            time_: time,
            upid: key.process.upid(origin.asid),
            remote_addr: &key.remote.to_string(),
            remote_port: i64::from(key.remote_port),
            trace_role: key.role as i64,
            addr_family: i64::from(key.family),
            protocol: key.protocol as i64,
            ssl: false,
            conn_open: signed(account.opened),
            conn_close: signed(account.closed),
            conn_active: signed(account.opened.saturating_sub(account.closed)),
            bytes_sent: signed(account.bytes[Flow::Egress.index()]),
            bytes_recv: signed(account.bytes[Flow::Ingress.index()]),
            service: &service,
            pod: known.map_or("", |known| &known.place.pod_uid),
            namespace: "",
            node: &origin.node,
            container: known.map_or("", |known| known.place.container_name()),
            remote_service: remote_service.as_deref().unwrap_or_default(),
            remote_pod: peer.map_or("", |peer| &peer.place.pod_uid),
        });
    }

    /// Writes a row of `processes`.
    pub fn process(
        &mut self,
        key: ProcessKey,
        change: Change,
        time: TimeNs,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let service = processes.service(key, None);
        let Some(process) = processes.get(key) else { return };
        let facts = &process.facts;
        let mut cmdline = String::new();
        let args = facts.cmdline();
        body_into(origin.redaction.bodies, args.as_bytes(), args.len() as u64, &mut cmdline);
        let (stop_time, exit_code) = match change {
            Change::Began => (TimeNs::ZERO, 0),
            Change::Ended(code) => (time, code),
        };
        self.processes.push(&ProcessVersion {
            time_: time,
            upid: process.upid,
            pid: i64::from(key.tgid),
            ppid: i64::from(facts.parent),
            comm: &facts.comm,
            exe: &facts.exe,
            cmdline: &cmdline,
            cgroup: &facts.cgroup,
            unit: &process.place.unit,
            service: &service,
            pod: &process.place.pod_uid,
            namespace: "",
            node: &origin.node,
            container: process.place.container_name(),
            container_id: &process.place.container_id,
            start_time: origin.wall(key.start_ns),
            stop_time,
            exit_code: i64::from(exit_code),
        });
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
