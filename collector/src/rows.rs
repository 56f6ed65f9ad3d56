//! Rows of all tables, gathered into batches.

use std::sync::Arc;

use arrow::array::RecordBatch;
use undine_schema::tables::{
    AMQP_EVENTS, AmqpEvent, AmqpEvents, CONN_STATS, CQL_EVENTS, ConnStat, ConnStats, CqlEvent,
    CqlEvents, DATA_LOSS, DNS_EVENTS, DataLosses, DnsEvent, DnsEvents, HTTP_EVENTS, HttpEvent,
    HttpEvents, KAFKA_EVENTS, KafkaEvent, KafkaEvents, MONGODB_EVENTS, MYSQL_EVENTS, MongodbEvent,
    MongodbEvents, MysqlEvent, MysqlEvents, NATS_EVENTS, NatsEvent, NatsEvents, PGSQL_EVENTS,
    PROBE_STATUS, PROCESSES, PgsqlEvent, PgsqlEvents, ProbeStatuses, ProcessVersion,
    Processes as ProcessRows, REDIS_EVENTS, RedisEvent, RedisEvents,
};
use undine_schema::{TableDef, TimeNs};

use crate::conn_stats::{Account, AccountKey};
use crate::conn_tracker::{Connection, Ends};
use crate::datagrams::Ended;
use crate::endpoints::Role;
use crate::event::{Flow, ProcessKey};
use crate::path_template::template_into;
use crate::process::{Change, Processes};
use crate::protocol::dialogue::Timed;
use crate::protocol::exchange::{Exchange, Finished};
use crate::protocol::{amqp, cql, dns, kafka, mongo, mysql, nats, pgsql, redis};
use crate::redaction::{Redaction, body_into, target_into};

/// Rows for which a batch has room before it grows.
const BATCH_ROWS: usize = 1024;

/// How many rows were written, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows of `http_events`.
    pub http_events: u64,
    /// Rows of `dns_events`.
    pub dns_events: u64,
    /// Rows of `mysql_events`.
    pub mysql_events: u64,
    /// Rows of `pgsql_events`.
    pub pgsql_events: u64,
    /// Rows of `cql_events`.
    pub cql_events: u64,
    /// Rows of `kafka_events.beta`.
    pub kafka_events: u64,
    /// Rows of `redis_events`.
    pub redis_events: u64,
    /// Rows of `nats_events.beta`.
    pub nats_events: u64,
    /// Rows of `mongodb_events`.
    pub mongodb_events: u64,
    /// Rows of `amqp_events`.
    pub amqp_events: u64,
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

/// Where a request was served: what all tables of requests say of their connection.
struct Place<'a> {
    role: Role,
    remote: &'a str,
    remote_port: u16,
    local: &'a str,
    local_port: u16,
    service: Arc<str>,
    remote_service: Option<Arc<str>>,
    pod: &'a str,
    container: &'a str,
    remote_pod: &'a str,
    encrypted: bool,
}

impl<'a> Place<'a> {
    fn of(conn: &'a Connection, process: ProcessKey, processes: &'a mut Processes) -> Self {
        let place =
            Self::at(conn.role(), conn.ends.as_ref(), conn.peer_process, process, processes);
        Self { encrypted: conn.is_plaintext(), ..place }
    }

    fn at(
        role: Role,
        ends: Option<&'a Ends>,
        peer_process: Option<ProcessKey>,
        process: ProcessKey,
        processes: &'a mut Processes,
    ) -> Self {
        let local_port = ends.map_or(0, |ends| ends.tuple.local_port);
        let remote_port = ends.map_or(0, |ends| ends.tuple.remote_port);
        let service = processes.service(process, (role == Role::Server).then_some(local_port));
        let remote_service = peer_process
            .map(|peer| processes.service(peer, (role == Role::Client).then_some(remote_port)));
        let known = processes.get(process);
        let peer = peer_process.and_then(|peer| processes.get(peer));
        Self {
            role,
            remote: ends.map_or("-", |ends| &ends.remote),
            remote_port,
            local: ends.map_or("-", |ends| &ends.local),
            local_port,
            service,
            remote_service,
            pod: known.map_or("", |known| &known.place.pod_uid),
            container: known.map_or("", |known| known.place.container_name()),
            remote_pod: peer.map_or("", |peer| &peer.place.pod_uid),
            encrypted: false,
        }
    }
}

/// A row of a table of requests: the columns of its connection, and those that are given.
macro_rules! conn_row {
    ($row:ident, $place:expr, $origin:expr, { $($column:ident: $value:expr,)+ }) => {
        $row {
            remote_addr: $place.remote,
            remote_port: i64::from($place.remote_port),
            local_addr: $place.local,
            local_port: i64::from($place.local_port),
            trace_role: $place.role as i64,
            encrypted: $place.encrypted,
            service: &$place.service,
            pod: $place.pod,
            namespace: "",
            node: &$origin.node,
            container: $place.container,
            remote_service: $place.remote_service.as_deref().unwrap_or_default(),
            remote_pod: $place.remote_pod,
            $($column: $value,)+
        }
    };
}

/// The batches of all tables.
#[derive(Debug)]
pub struct Rows {
    http_events: HttpEvents,
    dns_events: DnsEvents,
    mysql_events: MysqlEvents,
    pgsql_events: PgsqlEvents,
    cql_events: CqlEvents,
    kafka_events: KafkaEvents,
    redis_events: RedisEvents,
    nats_events: NatsEvents,
    mongodb_events: MongodbEvents,
    amqp_events: AmqpEvents,
    conn_stats: ConnStats,
    processes: ProcessRows,
    pub(crate) data_loss: DataLosses,
    pub(crate) probe_status: ProbeStatuses,
    counts: RowCounts,
    template: String,
    target: String,
    req_body: String,
    resp_body: String,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            http_events: HttpEvents::new(BATCH_ROWS),
            dns_events: DnsEvents::new(0),
            mysql_events: MysqlEvents::new(0),
            pgsql_events: PgsqlEvents::new(0),
            cql_events: CqlEvents::new(0),
            kafka_events: KafkaEvents::new(0),
            redis_events: RedisEvents::new(0),
            nats_events: NatsEvents::new(0),
            mongodb_events: MongodbEvents::new(0),
            amqp_events: AmqpEvents::new(0),
            conn_stats: ConnStats::new(0),
            processes: ProcessRows::new(0),
            data_loss: DataLosses::new(0),
            probe_status: ProbeStatuses::new(0),
            counts: RowCounts::default(),
            template: String::new(),
            target: String::new(),
            req_body: String::new(),
            resp_body: String::new(),
        }
    }
}

impl Rows {
    /// Rows that wait to be taken.
    pub fn len(&self) -> usize {
        self.http_events.len()
            + self.dns_events.len()
            + self.mysql_events.len()
            + self.pgsql_events.len()
            + self.cql_events.len()
            + self.kafka_events.len()
            + self.redis_events.len()
            + self.nats_events.len()
            + self.mongodb_events.len()
            + self.amqp_events.len()
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
            dns_events DNS_EVENTS;
            mysql_events MYSQL_EVENTS;
            pgsql_events PGSQL_EVENTS;
            cql_events CQL_EVENTS;
            kafka_events KAFKA_EVENTS;
            redis_events REDIS_EVENTS;
            nats_events NATS_EVENTS;
            mongodb_events MONGODB_EVENTS;
            amqp_events AMQP_EVENTS;
            conn_stats CONN_STATS;
            data_loss DATA_LOSS;
        }
        batches
    }

    /// Writes a request and its response to the table of their protocol.
    pub fn finished(
        &mut self,
        finished: &Finished,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        match finished {
            Finished::Http(exchange) => self.http_event(exchange, conn, processes, origin),
            Finished::Dns(lookup) => {
                let place = Place::of(conn, lookup.process, processes);
                self.dns_event(lookup, &place, origin);
            }
            Finished::Mysql(command) => self.mysql_event(command, conn, processes, origin),
            Finished::Pgsql(request) => self.pgsql_event(request, conn, processes, origin),
            Finished::Cql(request) => self.cql_event(request, conn, processes, origin),
            Finished::Kafka(request) => self.kafka_event(request, conn, processes, origin),
            Finished::Redis(command) => self.redis_event(command, conn, processes, origin),
            Finished::Nats(command) => self.nats_event(command, conn, processes, origin),
            Finished::Mongo(command) => self.mongodb_event(command, conn, processes, origin),
            Finished::Amqp(exchange) => self.amqp_event(exchange, conn, processes, origin),
        }
    }

    fn http_event(
        &mut self,
        exchange: &Exchange,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, exchange.process, processes);
        self.template.clear();
        self.target.clear();
        template_into(&exchange.path, &mut self.template);
        target_into(origin.redaction.headers, &exchange.path, &mut self.target);
        self.req_body.clear();
        self.resp_body.clear();
        let mode = origin.redaction.bodies;
        body_into(mode, &exchange.req_body.kept, exchange.req_body.size, &mut self.req_body);
        body_into(mode, &exchange.resp_body.kept, exchange.resp_body.size, &mut self.resp_body);
        let (requested_at, responded_at) = (exchange.requested_at, exchange.responded_at);
        self.http_events.push(&conn_row!(HttpEvent, place, origin, {
            time_: origin.wall(responded_at),
            upid: exchange.process.upid(origin.asid),
            major_version: i64::from(exchange.major_version),
            minor_version: i64::from(exchange.minor_version),
            content_type: exchange.content_type as i64,
            req_headers: &exchange.req_headers,
            req_method: &exchange.method,
            req_path: &self.target,
            req_body: &self.req_body,
            req_body_size: signed(exchange.req_body.size),
            resp_headers: &exchange.resp_headers,
            resp_status: i64::from(exchange.resp_status),
            resp_message: &exchange.resp_message,
            resp_body: &self.resp_body,
            resp_body_size: signed(exchange.resp_body.size),
            latency: signed(responded_at.saturating_sub(requested_at)),
            req_path_template: &self.template,
            quality: i64::from(exchange.quality),
        }));
    }

    fn mysql_event(
        &mut self,
        timed: &Timed<mysql::Command>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let command = &timed.call;
        let response = (command.result.as_str(), command.result.len() as u64);
        self.keep_texts(origin, (&command.text, command.text_size), response);
        self.mysql_events.push(&conn_row!(MysqlEvent, place, origin, {
            time_: origin.wall(timed.responded_at),
            upid: timed.process.upid(origin.asid),
            req_cmd: i64::from(command.code),
            req_body: &self.req_body,
            resp_status: command.status as i64,
            resp_body: &self.resp_body,
            latency: signed(timed.latency_ns()),
            req_size: signed(command.request_size),
            resp_size: signed(command.response_size),
            failed: i64::from(command.status == mysql::Status::Err),
            quality: i64::from(timed.quality),
        }));
    }

    /// Writes a query over UDP.
    pub fn lookup(&mut self, ended: &Ended, processes: &mut Processes, origin: &Origin) {
        let Ended { timed, ends, peer_process } = ended;
        let place = Place::at(ends.role, Some(ends), *peer_process, timed.process, processes);
        self.dns_event(timed, &place, origin);
    }

    /// Names are kept as they are: without them nothing could be said.
    fn dns_event(&mut self, timed: &Timed<dns::Lookup>, place: &Place<'_>, origin: &Origin) {
        let lookup = &timed.call;
        let (time, latency) = if lookup.is_answered() {
            (timed.responded_at, timed.latency_ns())
        } else {
            (timed.requested_at, 0)
        };
        self.dns_events.push(&conn_row!(DnsEvent, place, origin, {
            time_: origin.wall(time),
            upid: timed.process.upid(origin.asid),
            req_header: &lookup.req_header,
            req_body: &lookup.req_body,
            resp_header: &lookup.resp_header,
            resp_body: &lookup.resp_body,
            latency: signed(latency),
            query_name: &lookup.name,
            query_type: &lookup.kind,
            rcode: i64::from(lookup.rcode),
            quality: i64::from(timed.quality),
        }));
    }

    fn pgsql_event(
        &mut self,
        timed: &Timed<pgsql::Request>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let request = &timed.call;
        self.keep_texts(
            origin,
            (&request.text, request.request_size),
            (&request.response, request.response_size),
        );
        self.pgsql_events.push(&conn_row!(PgsqlEvent, place, origin, {
            time_: origin.wall(timed.responded_at),
            upid: timed.process.upid(origin.asid),
            req_cmd: request.kind.name(),
            req: &self.req_body,
            resp: &self.resp_body,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed),
            quality: i64::from(timed.quality),
        }));
    }

    fn redis_event(
        &mut self,
        timed: &Timed<redis::Command>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let command = &timed.call;
        let request = (command.args.as_str(), command.args_size);
        self.keep_texts(origin, request, (&command.reply, command.reply_size));
        self.redis_events.push(&conn_row!(RedisEvent, place, origin, {
            time_: origin.wall(timed.responded_at),
            upid: timed.process.upid(origin.asid),
            req_cmd: &command.name,
            req_args: &self.req_body,
            resp: &self.resp_body,
            latency: signed(timed.latency_ns()),
            req_size: signed(command.args_size),
            resp_size: signed(command.reply_size),
            failed: i64::from(command.failed()),
            quality: i64::from(timed.quality),
        }));
    }

    fn nats_event(
        &mut self,
        timed: &Timed<nats::Command>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let command = &timed.call;
        let body_size = if command.body.is_empty() { 0 } else { command.size };
        let answer = (command.answer.as_str(), command.answer_size);
        self.keep_texts(origin, (&command.body, body_size), answer);
        self.nats_events.push(&conn_row!(NatsEvent, place, origin, {
            time_: origin.wall(timed.requested_at),
            upid: timed.process.upid(origin.asid),
            cmd: command.name,
            body: &self.req_body,
            resp: &self.resp_body,
            latency: if command.is_answered() { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(command.size),
            resp_size: signed(command.answer_size),
            failed: i64::from(command.failed()),
            quality: i64::from(timed.quality),
        }));
    }

    fn mongodb_event(
        &mut self,
        timed: &Timed<mongo::Command>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let command = &timed.call;
        let request = (command.request.as_str(), command.request_size);
        self.keep_texts(origin, request, (&command.reply, command.reply_size));
        self.mongodb_events.push(&conn_row!(MongodbEvent, place, origin, {
            time_: origin.wall(timed.requested_at),
            upid: timed.process.upid(origin.asid),
            req_cmd: &command.name,
            req_body: &self.req_body,
            resp_status: &command.status,
            resp_body: &self.resp_body,
            latency: if command.is_answered() { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(command.request_size),
            resp_size: signed(command.reply_size),
            failed: i64::from(command.failed()),
            quality: i64::from(timed.quality),
        }));
    }

    fn amqp_event(
        &mut self,
        timed: &Timed<amqp::Exchange>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let amqp::Exchange { channel, request, response, failed } = &timed.call;
        let is_answered = timed.call.is_answered();
        let text = |half: &'_ amqp::Half| if half.message.is_empty() { 0 } else { half.size };
        let req_msg = (request.message.as_str(), text(request));
        self.keep_texts(origin, req_msg, (&response.message, text(response)));
        self.amqp_events.push(&conn_row!(AmqpEvent, place, origin, {
            time_: origin.wall(if is_answered { timed.responded_at } else { timed.requested_at }),
            upid: timed.process.upid(origin.asid),
            frame_type: amqp::FRAME_METHOD,
            channel: i64::from(*channel),
            req_class_id: i64::from(request.class),
            req_method_id: i64::from(request.method),
            resp_class_id: i64::from(response.class),
            resp_method_id: i64::from(response.method),
            req_msg: &self.req_body,
            resp_msg: &self.resp_body,
            latency: if is_answered { signed(timed.latency_ns()) } else { 0 },
            req_size: signed(request.size),
            resp_size: signed(response.size),
            failed: i64::from(*failed),
            quality: i64::from(timed.quality),
        }));
    }

    fn cql_event(
        &mut self,
        timed: &Timed<cql::Request>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let request = &timed.call;
        let body = (request.body.as_str(), request.request_size);
        self.keep_texts(origin, body, (&request.response, request.response_size));
        self.cql_events.push(&conn_row!(CqlEvent, place, origin, {
            time_: origin.wall(timed.responded_at),
            upid: timed.process.upid(origin.asid),
            req_op: i64::from(request.opcode),
            req_body: &self.req_body,
            resp_op: request.response_opcode.map_or(-1, i64::from),
            resp_body: &self.resp_body,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed()),
            quality: i64::from(timed.quality | request.quality()),
        }));
    }

    fn kafka_event(
        &mut self,
        timed: &Timed<kafka::Request>,
        conn: &Connection,
        processes: &mut Processes,
        origin: &Origin,
    ) {
        let place = Place::of(conn, timed.process, processes);
        let request = &timed.call;
        let body = (request.body.as_str(), request.request_size);
        self.keep_texts(origin, body, (&request.response, request.response_size));
        self.kafka_events.push(&conn_row!(KafkaEvent, place, origin, {
            // Other tables have the time of the response here; scripts know.
            time_: origin.wall(timed.requested_at),
            upid: timed.process.upid(origin.asid),
            req_cmd: i64::from(request.api_key),
            client_id: &request.client_id,
            req_body: &self.req_body,
            resp: &self.resp_body,
            latency: signed(timed.latency_ns()),
            req_size: signed(request.request_size),
            resp_size: signed(request.response_size),
            failed: i64::from(request.failed),
            quality: i64::from(timed.quality | request.quality()),
        }));
    }

    /// Puts what may be kept of a request and a response, with their full sizes, where rows find it.
    fn keep_texts(&mut self, origin: &Origin, request: (&str, u64), response: (&str, u64)) {
        self.req_body.clear();
        self.resp_body.clear();
        let mode = origin.redaction.bodies;
        body_into(mode, request.0.as_bytes(), request.1, &mut self.req_body);
        body_into(mode, response.0.as_bytes(), response.1, &mut self.resp_body);
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
