//! Rows of all tables, gathered into batches.

mod place;
mod requests;

use arrow::array::RecordBatch;
use undine_schema::tables::{
    AMQP_EVENTS, AmqpEvents, CONN_STATS, CQL_EVENTS, ConnStat, ConnStats, CqlEvents, DATA_LOSS,
    DNS_EVENTS, DataLosses, DnsEvents, HTTP_EVENTS, HttpEvents, KAFKA_EVENTS, KafkaEvents,
    MONGODB_EVENTS, MUX_EVENTS, MYSQL_EVENTS, MongodbEvents, MuxEvents, MysqlEvents, NATS_EVENTS,
    NatsEvents, PGSQL_EVENTS, PROBE_STATUS, PROCESSES, PgsqlEvents, ProbeStatuses, ProcessVersion,
    Processes as ProcessRows, REDIS_EVENTS, RedisEvents, TLS_EVENTS, TlsEvents,
};
use undine_schema::{TableDef, TimeNs};

use crate::conn_stats::{Account, AccountKey};
use crate::endpoints::Role;
use crate::event::{Flow, ProcessKey};
use crate::process::{Change, Processes};
use crate::redaction::{Redaction, body_into};
use requests::Texts;

/// Declares the tables that the collector writes: a line for each, in the order in which batches
/// are taken, so that what explains rows goes before the rows. Its batches begin without room, or
/// with that for so many rows.
///
/// ```ignore
/// tables! {
///     http_events: HttpEvents, HTTP_EVENTS, room for 1024;
/// }
/// ```
///
/// expands to `pub struct RowCounts { pub http_events: u64 }`, and to `pub struct Rows` with the
/// builder `http_events: HttpEvents`, what sums up all builders, and what empties them.
macro_rules! tables {
    ($($table:ident: $builder:ident, $def:ident $(, room for $rows:literal)?;)+) => {
        /// How many rows were written, by table.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct RowCounts {
            $(#[doc = concat!("Rows of [`", stringify!($def), "`].")] pub $table: u64,)+
        }

        /// The batches of all tables.
        #[derive(Debug)]
        pub struct Rows {
            $(pub(crate) $table: $builder,)+
            counts: RowCounts,
            texts: Texts,
        }

        impl Default for Rows {
            fn default() -> Self {
                Self {
                    $($table: $builder::new(0 $(+ $rows)?),)+
                    counts: RowCounts::default(),
                    texts: Texts::default(),
                }
            }
        }

        impl Rows {
            /// Rows that wait to be taken.
            pub fn len(&self) -> usize {
                0 $(+ self.$table.len())+
            }

            /// Takes what waits, by table.
            pub fn take(&mut self) -> Vec<(&'static TableDef, RecordBatch)> {
                let mut batches = Vec::new();
                $(if !self.$table.is_empty() {
                    self.counts.$table += self.$table.len() as u64;
                    batches.push((&$def, self.$table.finish()));
                })+
                batches
            }
        }
    };
}

tables! {
    probe_status: ProbeStatuses, PROBE_STATUS;
    processes: ProcessRows, PROCESSES;
    http_events: HttpEvents, HTTP_EVENTS, room for 1024;
    dns_events: DnsEvents, DNS_EVENTS;
    mysql_events: MysqlEvents, MYSQL_EVENTS;
    pgsql_events: PgsqlEvents, PGSQL_EVENTS;
    cql_events: CqlEvents, CQL_EVENTS;
    kafka_events: KafkaEvents, KAFKA_EVENTS;
    redis_events: RedisEvents, REDIS_EVENTS;
    nats_events: NatsEvents, NATS_EVENTS;
    mongodb_events: MongodbEvents, MONGODB_EVENTS;
    amqp_events: AmqpEvents, AMQP_EVENTS;
    mux_events: MuxEvents, MUX_EVENTS;
    tls_events: TlsEvents, TLS_EVENTS;
    conn_stats: ConnStats, CONN_STATS;
    data_loss: DataLosses, DATA_LOSS;
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

impl Rows {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many rows were taken.
    pub const fn counts(&self) -> RowCounts {
        self.counts
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
            ssl: key.ssl,
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
