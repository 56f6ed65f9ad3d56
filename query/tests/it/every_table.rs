//! A few rows of every table, as the collector writes them: two services on a bare host, what they
//! said to each other and to their databases, and what they used, over the last five minutes.

use undine_schema::tables::*;
use undine_schema::{Frame, TimeNs, Upid};

use super::fixture::{Fixture, SECOND, START};

/// When the engine believes it is.
pub(crate) const NOW: i64 = START + 600 * SECOND;

/// Rows of each table that is read by interval, or holds requests: one each five seconds.
const STEPS: i64 = 60;

/// The process that serves.
pub(crate) fn shop() -> Upid {
    Upid::new(1, 100, 7)
}

/// The process that calls it.
pub(crate) fn front() -> Upid {
    Upid::new(1, 101, 8)
}

/// Step 0 is a second ago, the last five minutes.
fn at(step: i64) -> TimeNs {
    TimeNs::new(NOW - SECOND - step * 5 * SECOND)
}

/// Five, ten … milliseconds; every tenth is slow.
fn latency(step: i64) -> i64 {
    if step % 10 == 0 { 800_000_000 } else { 5_000_000 + step * 100_000 }
}

/// The columns that all requests have.
macro_rules! request {
    ($row:ident, $step:expr, $port:expr, { $($field:ident: $value:expr),* $(,)? }) => {
        $row {
            time_: at($step),
            upid: shop(),
            remote_addr: "127.0.0.1",
            remote_port: 40_000 + $step,
            local_addr: "127.0.0.1",
            local_port: $port,
            trace_role: 2,
            latency: latency($step),
            service: "shop",
            node: "node-1",
            remote_service: "front",
            $($field: $value,)*
            ..$row::default()
        }
    };
}

/// A frame of one row for each step.
macro_rules! by_step {
    ($def:ident, $rows:ident, |$step:ident| $row:expr) => {{
        let mut rows = $rows::new(0);
        for $step in (0..STEPS).rev() {
            rows.push(&$row);
        }
        Frame::captured(&$def, rows.finish())
    }};
}

impl Fixture {
    /// Appends rows of every table.
    pub(crate) fn append_every_table(&self) {
        let frames = [processes(), host(), tcp(), own(), messages(), databases(), others()];
        for frame in frames.into_iter().flatten() {
            self.append(frame);
        }
    }
}

fn processes() -> Vec<Frame> {
    let mut rows = Processes::new(0);
    for (upid, pid, service, cmdline) in [
        (shop(), 100, "shop", "/usr/bin/shop --serve"),
        (front(), 101, "front", "/usr/bin/java -jar front.jar"),
    ] {
        rows.push(&ProcessVersion {
            time_: TimeNs::new(START),
            upid,
            pid,
            ppid: 1,
            comm: service,
            exe: "/usr/bin/shop",
            cmdline,
            cgroup: "/system.slice/shop.service",
            unit: "shop.service",
            service,
            node: "node-1",
            start_time: TimeNs::new(START),
            ..ProcessVersion::default()
        });
    }
    let mut exits = ProcExitEvents::new(0);
    for (exit_code, signal) in [(0, 0), (1, 0), (0, 9)] {
        exits.push(&ProcExitEvent {
            time_: at(3),
            upid: Upid::new(1, 200, 9),
            exit_code,
            signal,
            comm: "worker",
            service: "shop",
            node: "node-1",
            ..ProcExitEvent::default()
        });
    }
    vec![
        Frame::captured(&PROCESSES, rows.finish()),
        Frame::captured(&PROC_EXIT_EVENTS, exits.finish()),
    ]
}

fn host() -> Vec<Frame> {
    let used = by_step!(PROCESS_STATS, ProcessStats, |step| {
        let n = STEPS - step;
        ProcessStat {
            time_: at(step),
            upid: shop(),
            minor_faults: n * 3,
            cpu_utime_ns: n * 1_000_000_000,
            cpu_ktime_ns: n * 250_000_000,
            num_threads: 4,
            vsize_bytes: 1 << 30,
            rss_bytes: (50 << 20) + n,
            rchar_bytes: n * 4096,
            wchar_bytes: n * 2048,
            read_bytes: n * 1024,
            write_bytes: n * 512,
            service: "shop",
            node: "node-1",
            ..ProcessStat::default()
        }
    });
    let moved = by_step!(NETWORK_STATS, NetworkStats, |step| {
        let n = STEPS - step;
        NetworkStat {
            time_: at(step),
            rx_bytes: n * 1000,
            rx_packets: n * 10,
            rx_drops: n / 20,
            tx_bytes: n * 3000,
            tx_packets: n * 12,
            netns: 4_026_531_840,
            loopback_bytes: n * 7,
            node: "node-1",
            ..NetworkStat::default()
        }
    });
    let grouped = by_step!(CGROUP_STATS, CgroupStats, |step| {
        let n = STEPS - step;
        CgroupStat {
            time_: at(step),
            cgroup: "/system.slice/shop.service",
            controllers: "cpu,memory,io,pressure,pids",
            cpu_usage_ns: n * 1_250_000_000,
            cpu_user_ns: n * 1_000_000_000,
            cpu_system_ns: n * 250_000_000,
            cpu_periods: n * 50,
            cpu_throttled_periods: n,
            cpu_throttled_ns: n * 10_000_000,
            memory_bytes: 60 << 20,
            memory_peak_bytes: 80 << 20,
            memory_max_bytes: 256 << 20,
            io_read_bytes: n * 1024,
            io_write_bytes: n * 512,
            cpu_some_ns: n * 20_000_000,
            memory_some_ns: n * 1_000_000,
            io_some_ns: n * 2_000_000,
            pids: 5,
            service: "shop",
            node: "node-1",
            ..CgroupStat::default()
        }
    });
    let jvm = by_step!(JVM_STATS, JvmStats, |step| {
        let n = STEPS - step;
        JvmStat {
            time_: at(step),
            upid: front(),
            young_gc_time: n * 3_000_000,
            full_gc_time: n * 1_000_000,
            used_heap_size: (100 + n % 7) << 20,
            total_heap_size: 256 << 20,
            max_heap_size: 512 << 20,
            service: "front",
            node: "node-1",
            ..JvmStat::default()
        }
    });
    let mut stacks = StackTraces::new(0);
    for step in 0..10 {
        for (id, stack, count) in [
            (1, "main;serve;render", 30),
            (2, "main;serve;query;[k] do_syscall_64;[k] tcp_sendmsg", 10),
            (3, "main;idle", 2 + step),
        ] {
            stacks.push(&StackTrace {
                time_: at(step),
                upid: shop(),
                stack_trace_id: id,
                stack_trace: stack,
                count,
                service: "shop",
                node: "node-1",
                ..StackTrace::default()
            });
        }
    }
    vec![used, moved, grouped, jvm, Frame::captured(&STACK_TRACES, stacks.finish())]
}

fn tcp() -> Vec<Frame> {
    let mut traffic = ConnStats::new(0);
    for step in (0..STEPS).rev() {
        let n = STEPS - step;
        for (upid, service, role, port, peer) in
            [(shop(), "shop", 2, 0, "front"), (front(), "front", 1, 8080, "shop")]
        {
            traffic.push(&ConnStat {
                time_: at(step),
                upid,
                remote_addr: "127.0.0.1",
                remote_port: port,
                trace_role: role,
                addr_family: 2,
                protocol: 1,
                conn_open: n,
                conn_close: n - 1,
                conn_active: 1,
                bytes_sent: n * 2000,
                bytes_recv: n * 300,
                service,
                node: "node-1",
                remote_service: peer,
                ..ConnStat::default()
            });
        }
    }
    let kernel = by_step!(TCP_STATS_EVENTS, TcpStatsEvents, |step| {
        let n = STEPS - step;
        TcpStatsEvent {
            time_: at(step),
            upid: shop(),
            local_addr: "127.0.0.1",
            local_port: 8080,
            remote_addr: "127.0.0.1",
            remote_port: 40_000,
            tx: n * 1000,
            rx: n * 200,
            retransmits: n / 10,
            retransmitted_bytes: n / 10 * 1448,
            segments_out: n * 3,
            segments_in: n * 2,
            lost: n / 20,
            srtt: 200_000 + n * 1000,
            rtt_min: 100_000,
            mss: 1448,
            cwnd: 10,
            ssthresh: 2_147_483_647,
            state: "ESTABLISHED",
            service: "shop",
            node: "node-1",
            remote_service: "front",
            ..TcpStatsEvent::default()
        }
    });
    macro_rules! packets {
        ($def:ident, $rows:ident, $row:ident, { $($field:ident: $value:expr),* }) => {{
            let mut rows = $rows::new(0);
            for step in 0..4 {
                rows.push(&$row {
                    time_: at(step),
                    upid: shop(),
                    src_ip: "127.0.0.1",
                    src_port: 8080,
                    dst_ip: "10.0.0.9",
                    dst_port: 40_000,
                    state: "ESTABLISHED",
                    count: 1 + step,
                    service: "shop",
                    node: "node-1",
                    $($field: $value,)*
                    ..$row::default()
                });
            }
            Frame::captured(&$def, rows.finish())
        }};
    }
    vec![
        Frame::captured(&CONN_STATS, traffic.finish()),
        kernel,
        packets!(TCP_RETRANSMITS, TcpRetransmits, TcpRetransmit, {}),
        packets!(TCP_DROPS, TcpDrops, TcpDrop, { reason: "TCP_OLD_DATA" }),
        packets!(TCP_RESETS, TcpResets, TcpReset, { direction: "sent", reason: "NO_SOCKET" }),
    ]
}

fn own() -> Vec<Frame> {
    let undine = Upid::new(1, 9, 1);
    let mut probes = ProbeStatuses::new(0);
    for (tracepoint, status, error) in
        [("sock_send_length", 0, ""), ("kfree_skb", 12, "the kernel refused it")]
    {
        probes.push(&ProbeStatus {
            time_: at(40),
            upid: undine,
            source_connector: "sockets",
            tracepoint,
            status,
            error,
            info: r#"{"program":"send","runs_per_second":1200,"run_ns":310,"cpu_ppm":372}"#,
        });
    }
    let mut errors = CollectorErrors::new(0);
    errors.push(&CollectorError {
        time_: at(30),
        upid: undine,
        source_connector: "jvm",
        status: 5,
        error: "cannot read hsperfdata of 101: no such file",
        context: r#"{"count":2}"#,
        node: "node-1",
    });
    let mut losses = DataLosses::new(0);
    losses.push(&DataLoss {
        time_: at(20),
        source_table: "http_events",
        stage: "kernel",
        reason: "ring_full",
        operations: 12,
        bytes: 3400,
        rows_min: 0,
        rows_max: 12,
        upid: shop(),
        conn: "1f",
        detail: "",
        ..DataLoss::default()
    });
    let mut anomalies = Anomalies::new(0);
    anomalies.push(&Anomaly {
        time_: at(10),
        service: "shop",
        feature: "latency_p99",
        window: 10 * SECOND,
        value: 8e8,
        expected: 6e6,
        deviation: 40.0,
        score: 0.999,
        requests: 20,
        incident_id: "i1",
        model: "m/1",
        ..Anomaly::default()
    });
    let mut incidents = Incidents::new(0);
    incidents.push(&Incident {
        time_: at(9),
        incident_id: "i1",
        state: "open",
        service: "shop",
        severity: "critical",
        started_at: at(10),
        feature: "latency_p99",
        value: 8e8,
        expected: 6e6,
        score: 0.999,
        contributions: "[]",
        samples: "[]",
        summary: "shop is slow",
        ..Incident::default()
    });
    let mut deliveries = Deliveries::new(0);
    deliveries.push(&Delivery {
        time_: at(8),
        channel: "webhook",
        target: "http://127.0.0.1:9/",
        subject: "i1",
        idempotency_key: "i1-open",
        attempt: 1,
        delivered: true,
        status: 200,
        items: 1,
        latency: 3_000_000,
        error: "",
    });
    vec![
        Frame::captured(&PROBE_STATUS, probes.finish()),
        Frame::captured(&COLLECTOR_ERRORS, errors.finish()),
        Frame::captured(&DATA_LOSS, losses.finish()),
        Frame::captured(&ANOMALIES, anomalies.finish()),
        Frame::captured(&INCIDENTS, incidents.finish()),
        Frame::captured(&DELIVERIES, deliveries.finish()),
    ]
}

fn databases() -> Vec<Frame> {
    let mysql = by_step!(MYSQL_EVENTS, MysqlEvents, |step| request!(MysqlEvent, step, 3306, {
        req_cmd: if step % 2 == 0 { 3 } else { 23 },
        req_body: if step % 2 == 0 {
            "SELECT name FROM items WHERE id = 7 AND kind = 'a''b'"
        } else {
            "query=[SELECT name FROM items WHERE id = ?] params=[8]"
        },
        resp_status: if step == 7 { 3 } else { 2 },
        resp_body: "Resultset rows = 1",
        req_size: 60,
        resp_size: 120,
        failed: i64::from(step == 7),
    }));
    let pgsql = by_step!(PGSQL_EVENTS, PgsqlEvents, |step| request!(PgsqlEvent, step, 5432, {
        req_cmd: if step % 2 == 0 { "Query" } else { "Execute" },
        req: if step % 2 == 0 {
            "SELECT name FROM items WHERE id = 7 AND kind IN ('a', 'b')"
        } else {
            "query=[SELECT name FROM items WHERE id = $1 LIMIT 3] params=[8]"
        },
        resp: "name\nspoon\nSELECT 1",
        req_size: 60,
        resp_size: 120,
        failed: i64::from(step == 7),
    }));
    let redis = by_step!(REDIS_EVENTS, RedisEvents, |step| request!(RedisEvent, step, 6379, {
        req_cmd: if step % 2 == 0 { "GET" } else { "SET" },
        req_args: r#"["k","v"]"#,
        resp: if step == 7 { "-ERR wrong number of arguments" } else { "OK" },
        failed: i64::from(step == 7),
    }));
    let cql = by_step!(CQL_EVENTS, CqlEvents, |step| request!(CqlEvent, step, 9042, {
        req_op: 7,
        req_body: "SELECT name FROM items WHERE id = 7",
        resp_op: if step == 7 { 0 } else { 8 },
        resp_body: "Response type = ROWS\nNumber of columns = 1\nNumber of rows = 1",
        failed: i64::from(step == 7),
    }));
    let mongo = by_step!(MONGODB_EVENTS, MongodbEvents, |step| {
        request!(MongodbEvent, step, 27017, {
            req_cmd: "find",
            req_body: r#"{"find":"items","filter":{"id":7}}"#,
            resp_status: if step == 7 { "CommandNotFound" } else { "ok" },
            resp_body: r#"{"ok":1.0}"#,
            failed: i64::from(step == 7),
        })
    });
    vec![mysql, pgsql, redis, cql, mongo]
}

fn messages() -> Vec<Frame> {
    let kafka = by_step!(KAFKA_EVENTS, KafkaEvents, |step| {
        let (req_cmd, req_body, resp) = match step % 6 {
            0 | 1 => (0, KAFKA_PRODUCED.0, KAFKA_PRODUCED.1),
            2 | 3 => (1, KAFKA_FETCHED.0, KAFKA_FETCHED.1),
            4 => (11, KAFKA_JOINED.0, KAFKA_JOINED.1),
            _ => (14, KAFKA_SYNCED.0, KAFKA_SYNCED.1),
        };
        request!(KafkaEvent, step, 9092, {
            req_cmd: req_cmd,
            client_id: if req_cmd == 0 { "producer-1" } else { "consumer-1" },
            req_body: req_body,
            resp: resp,
            req_size: 200,
            resp_size: 300,
        })
    });
    let nats = by_step!(NATS_EVENTS, NatsEvents, |step| request!(NatsEvent, step, 4222, {
        cmd: if step % 2 == 0 { "PUB" } else { "MSG" },
        body: r#"{"subject":"orders","payload":"hello"}"#,
        resp: if step % 2 == 0 { "OK" } else { "" },
    }));
    let amqp = by_step!(AMQP_EVENTS, AmqpEvents, |step| request!(AmqpEvent, step, 5672, {
        frame_type: 1,
        channel: 1,
        req_class_id: if step % 2 == 0 { 60 } else { 0 },
        req_method_id: if step % 2 == 0 { 40 } else { 0 },
        resp_class_id: if step % 2 == 0 { 0 } else { 60 },
        resp_method_id: if step % 2 == 0 { 0 } else { 60 },
        req_msg: if step % 2 == 0 { r#"{"routing_key":"orders","body_size":12}"# } else { "" },
        resp_msg: if step % 2 == 0 { "" } else { r#"{"consumer_tag":"c1","body_size":12}"# },
    }));
    let mux = by_step!(MUX_EVENTS, MuxEvents, |step| request!(MuxEvent, step, 9990, {
        req_type: 2,
        dest: "/s/users/get",
        failed: i64::from(step == 7),
    }));
    vec![kafka, nats, amqp, mux]
}

/// A request that produces, and its response.
pub(crate) const KAFKA_PRODUCED: (&str, &str) = (
    r#"{"transactional_id":"","acks":1,"timeout_ms":1500,"topics":[{"name":"orders","partitions":[{"index":0,"message_set":{"size":120}}]}]}"#,
    r#"{"topics":[{"name":"orders","partitions":[{"index":0,"error_code":"kNone","base_offset":5,"log_append_time_ms":-1,"log_start_offset":0}]}],"throttle_time_ms":0}"#,
);

const KAFKA_FETCHED: (&str, &str) = (
    r#"{"replica_id":-1,"session_id":0,"session_epoch":0,"topics":[{"name":"orders","partitions":[{"index":0,"current_leader_epoch":0,"fetch_offset":5,"last_fetched_epoch":-1,"log_start_offset":-1,"partition_max_bytes":1048576}]}],"forgotten_topics":[],"rack_id":""}"#,
    r#"{"throttle_time_ms":0,"error_code":"kNone","session_id":0,"topics":[{"name":"orders","partitions":[{"index":0,"error_code":"kNone","high_watermark":6,"last_stable_offset":6,"log_start_offset":0,"aborted_transactions":[],"preferred_read_replica":-1,"message_set":{"size":120}}]}]}"#,
);

const KAFKA_JOINED: (&str, &str) = (
    r#"{"group_id":"billing","session_timeout_ms":10000,"rebalance_timeout_ms":300000,"member_id":"c-1","group_instance_id":"","protocol_type":"consumer","protocols":[]}"#,
    r#"{"throttle_time_ms":0,"error_code":"kNone","generation_id":2,"protocol_type":"consumer","protocol_name":"range","leader":"c-1","member_id":"c-1","members":[]}"#,
);

const KAFKA_SYNCED: (&str, &str) = (
    r#"{"group_id":"billing","generation_id":2,"member_id":"c-1","group_instance_id":"","assignments":[]}"#,
    r#"{"throttle_time_ms":0,"error_code":"kNone","protocol_type":"consumer","protocol_name":"range"}"#,
);

fn others() -> Vec<Frame> {
    let mut http = HttpEvents::new(0);
    for step in (0..STEPS).rev() {
        let body = "x".repeat(300);
        for (upid, service, role, peer) in [(shop(), "shop", 2, "front"), (front(), "front", 2, "")]
        {
            http.push(&HttpEvent {
                time_: at(step),
                upid,
                remote_addr: if role == 2 { "10.0.0.9" } else { "-" },
                remote_port: 40_000 + step,
                local_addr: "127.0.0.1",
                local_port: 8080,
                trace_role: role,
                major_version: if step % 5 == 0 { 2 } else { 1 },
                minor_version: i64::from(step % 5 != 0),
                content_type: if step % 5 == 0 { 2 } else { 1 },
                req_headers: r#"{"Host":"shop","X-B3-TraceId":"80f198ee56343ba864fe8b2a57d3eff7"}"#,
                req_method: if step % 3 == 0 { "POST" } else { "GET" },
                req_path: "/item/7?page=1",
                req_body: "{}",
                req_body_size: 2,
                resp_headers: r#"{"Content-Type":"application/json"}"#,
                resp_status: if step % 12 == 0 { 500 } else { 200 },
                resp_message: if step % 12 == 0 { "Internal Server Error" } else { "OK" },
                resp_body: &body,
                resp_body_size: 2000 + step,
                latency: latency(step),
                service,
                node: "node-1",
                remote_service: peer,
                req_path_template: "/item/*",
                ..HttpEvent::default()
            });
        }
    }
    let dns = by_step!(DNS_EVENTS, DnsEvents, |step| DnsEvent {
        trace_role: 1,
        remote_addr: "10.0.0.2",
        remote_port: 53,
        remote_service: "",
        ..request!(DnsEvent, step, 40_100, {
            req_header: r#"{"txid":7,"qr":0,"opcode":0,"rcode":0,"num_queries":1}"#,
            req_body: r#"{"queries":[{"name":"db.example.org","type":"A"}]}"#,
            resp_header: if step == 7 { r#"{"txid":7,"qr":1,"rcode":3}"# } else { r#"{"txid":7,"qr":1,"rcode":0}"# },
            resp_body: r#"{"answers":[{"name":"db.example.org","type":"A","addr":"10.0.0.7"}]}"#,
            query_name: "db.example.org",
            query_type: "A",
            rcode: if step == 7 { 3 } else { 0 },
        })
    });
    let tls = by_step!(TLS_EVENTS, TlsEvents, |step| request!(TlsEvent, step, 8443, {
        req_type: 22,
        req_body: r#"{"version":"TLS 1.2","server_name":"shop.example.org"}"#,
        resp_body: r#"{"version":"TLS 1.3","cipher_suite":"TLS_AES_128_GCM_SHA256"}"#,
        server_name: "shop.example.org",
        version: if step % 4 == 0 { "TLS 1.2" } else { "TLS 1.3" },
        cipher: "TLS_AES_128_GCM_SHA256",
        failed: i64::from(step == 7),
    }));
    let mut metrics = OtelMetrics::new(0);
    metrics.push(&OtelMetric {
        time_: at(5),
        name: "queue.length",
        unit: "1",
        kind: "gauge",
        value: 3.0,
        count: 1,
        sum: 3.0,
        attributes: "{}",
        resource: "{}",
        service: "shop",
        node: "node-1",
        ..OtelMetric::default()
    });
    let mut spans = OtelSpans::new(0);
    spans.push(&OtelSpan {
        time_: at(5),
        start_time: at(6),
        trace_id: "80f198ee56343ba864fe8b2a57d3eff7",
        span_id: "64fe8b2a57d3eff7",
        name: "GET /item",
        kind: 2,
        latency: 5_000_000,
        attributes: "{}",
        resource: "{}",
        service: "shop",
        node: "node-1",
        ..OtelSpan::default()
    });
    vec![
        Frame::captured(&HTTP_EVENTS, http.finish()),
        dns,
        tls,
        Frame::captured(&OTEL_METRICS, metrics.finish()),
        Frame::captured(&OTEL_SPANS, spans.finish()),
    ]
}
