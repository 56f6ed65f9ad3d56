mod datagrams;
mod plaintext;
mod upgrades;

use std::collections::HashMap;

use arrow::array::{Array, BooleanArray, Int64Array, StringArray};
use proptest::prelude::*;
use undine_ebpf::{Direction, EGRESS, Header, Kind, ProcessInfo};

use super::*;
use crate::data_stream::REORDER_NS_MAX;
use crate::redaction::Mode;

const REQUEST: &str = "GET /users/7?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A machine whose processes send and receive, and a ring that may lose what they do.
struct Machine {
    pipeline: Pipeline,
    now: u64,
    seq: u64,
    totals: HashMap<u64, ConnTotals>,
    kernel: KernelTotals,
    tables: HashMap<&'static str, Vec<RecordBatch>>,
}

impl Machine {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            node: "knot".to_owned(),
            asid: 1,
            redaction: Redaction { headers: Mode::Full, bodies: Mode::Full },
            body_bytes_max: 1024,
            service_rules: Vec::new(),
            conn_stats_interval: Duration::from_hours(1),
            connections_max: 1000,
            facts: FactSource::Recorded(
                [(1, "/bin/client"), (2, "/bin/server")]
                    .map(|(tgid, exe)| {
                        let facts = Facts { exe: exe.to_owned(), ..Facts::default() };
                        (process(tgid), facts)
                    })
                    .into(),
            ),
        };
        change(&mut settings);
        Self {
            pipeline: Pipeline::new(settings),
            now: 1_000_000_000,
            seq: 0,
            totals: HashMap::new(),
            kernel: KernelTotals::default(),
            tables: HashMap::new(),
        }
    }

    fn header(&mut self, kind: Kind, conn: u64, tgid: u32) -> Header {
        self.now += 1000;
        self.seq += 1;
        let (tgid, start) = (process(tgid).tgid, process(tgid).start_ns);
        Header {
            kind: kind as u8,
            cpu_seq: self.seq,
            time_mono_ns: self.now,
            conn,
            tgid,
            process_start_ns: start,
            ..Header::default()
        }
    }

    fn take(&mut self, event: &Event<'_>) {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        self.pipeline.message(&bytes).unwrap();
    }

    fn open(&mut self, conn: u64, tgid: u32, role: u8, local: u16, remote: u16) {
        let header = self.header(Kind::Open, conn, tgid);
        let mut info = ConnInfo {
            netns: 1,
            local_port: local,
            remote_port: remote,
            family: 2,
            role,
            ..ConnInfo::default()
        };
        info.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        info.remote_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        self.take(&Event { header, body: Body::Open(info) });
    }

    fn server(&mut self, conn: u64) {
        self.open(conn, 2, 2, 80, 4000 + u16::try_from(conn).unwrap());
    }

    /// A data message; where `lost`, the ring has no room for it.
    fn data(&mut self, conn: u64, tgid: u32, flow: Flow, bytes: impl AsRef<[u8]>, lost: bool) {
        let mut header = self.header(Kind::Data, conn, tgid);
        let payload = bytes.as_ref();
        let len = payload.len() as u64;
        let direction = &mut self.totals.entry(conn).or_default().directions[flow.index()];
        header.pos = direction.bytes;
        header.direction = if flow == Flow::Egress { EGRESS } else { 0 };
        header.len = u32::try_from(len).unwrap();
        header.captured = header.len;
        direction.bytes += len;
        self.kernel.attempts += 1;
        self.kernel.operations += 1;
        self.kernel.operation_bytes += len;
        if lost {
            direction.dropped_bytes += len;
            direction.dropped_messages += 1;
            self.kernel.dropped += 1;
            self.kernel.dropped_bytes += len;
            self.kernel.dropped_operations += 1;
            return;
        }
        self.take(&Event { header, body: Body::Data { flow, payload } });
    }

    /// A server's exchange.
    fn serve(&mut self, conn: u64, request: &str, response: &str) {
        self.data(conn, 2, Flow::Ingress, request, false);
        self.data(conn, 2, Flow::Egress, response, false);
    }

    fn close(&mut self, conn: u64, tgid: u32) {
        let header = self.header(Kind::Close, conn, tgid);
        let totals = self.totals.remove(&conn).unwrap_or_default();
        self.take(&Event { header, body: Body::Close(totals) });
    }

    fn gather(&mut self) {
        for (table, batch) in self.pipeline.take_rows(TimeNs::new(7)) {
            assert_eq!(batch.schema(), table.arrow_schema());
            self.tables.entry(table.name).or_default().push(batch);
        }
    }

    fn drain(&mut self) {
        self.pipeline.kernel(self.kernel);
        self.pipeline.settle();
        for (conn, totals) in &self.totals {
            self.pipeline.reconcile(*conn, totals);
        }
        self.pipeline.settle();
        self.pipeline.write_losses(TimeNs::new(7), true);
        self.gather();
    }

    /// The rows of a table, each as its values in `columns`.
    fn rows(&mut self, table: &str, columns: &[&str]) -> Vec<String> {
        self.gather();
        let mut rows = Vec::new();
        for batch in self.tables.get(table).into_iter().flatten() {
            for row in 0..batch.num_rows() {
                let cells = columns.iter().map(|column| {
                    let array = batch.column_by_name(column).unwrap().as_any();
                    if let Some(texts) = array.downcast_ref::<StringArray>() {
                        texts.value(row).to_owned()
                    } else if let Some(flags) = array.downcast_ref::<BooleanArray>() {
                        flags.value(row).to_string()
                    } else {
                        array.downcast_ref::<Int64Array>().unwrap().value(row).to_string()
                    }
                });
                rows.push(cells.collect::<Vec<_>>().join(" "));
            }
        }
        rows
    }

    fn sum(&mut self, column: &str) -> u64 {
        let rows = self.rows("data_loss", &[column]);
        rows.iter().map(|cell| cell.parse::<u64>().unwrap()).sum()
    }
}

fn process(tgid: u32) -> ProcessKey {
    ProcessKey { tgid, start_ns: u64::from(tgid) * 10_000_000 }
}

#[test]
fn a_request_with_its_response_is_a_row_with_everything() {
    let mut machine = Machine::new();
    machine.pipeline.set_wall_minus_mono_ns(1_000_000);
    machine.server(9);
    machine.serve(9, REQUEST, RESPONSE);
    let rows = machine.rows(
        "http_events",
        &[
            "time_",
            "latency",
            "trace_role",
            "remote_addr",
            "remote_port",
            "local_port",
            "req_method",
            "req_path",
            "req_path_template",
            "req_headers",
            "req_body_size",
            "resp_status",
            "resp_message",
            "resp_body",
            "resp_body_size",
            "service",
            "node",
            "quality",
        ],
    );
    assert_eq!(
        rows,
        [
            "1001003000 1000 2 127.0.0.1 4009 80 GET /users/7?x=1 /users/* {\"Host\":\"shop\"} 0 200 OK \
          hi 2 server knot 0"
        ]
    );
}

#[test]
fn only_the_servers_row_is_kept_where_both_ends_are_here() {
    let mut machine = Machine::new();
    machine.open(1, 1, 1, 4000, 80);
    for round in 0..3 {
        machine.data(1, 1, Flow::Egress, REQUEST, false);
        if round == 0 {
            machine.open(2, 2, 2, 80, 4000);
        }
        machine.serve(2, REQUEST, RESPONSE);
        machine.data(1, 1, Flow::Ingress, RESPONSE, false);
    }
    machine.close(1, 1);
    machine.close(2, 2);
    machine.drain();
    let rows = machine.rows("http_events", &["trace_role", "service", "remote_service"]);
    assert_eq!(rows, ["2 server client"; 3]);
    assert_eq!(machine.pipeline.counts().rows_of_other_end, 3);
    assert_eq!(machine.sum("rows_max"), 0);
    let stats = machine.rows(
        "conn_stats",
        &[
            "trace_role",
            "remote_port",
            "protocol",
            "conn_open",
            "conn_close",
            "bytes_sent",
            "bytes_recv",
            "service",
            "remote_service",
        ],
    );
    let (sent, received) = (REQUEST.len() * 3, RESPONSE.len() * 3);
    assert_eq!(
        stats,
        [
            format!("1 80 1 1 1 {sent} {received} client server"),
            format!("2 0 1 1 1 {received} {sent} server client"),
        ]
    );
}

#[test]
fn a_clients_row_is_kept_where_the_server_is_not_observed() {
    let mut machine = Machine::new();
    machine.open(1, 1, 1, 4000, 80);
    machine.data(1, 1, Flow::Egress, REQUEST, false);
    machine.data(1, 1, Flow::Ingress, RESPONSE, false);
    assert_eq!(
        machine.rows("http_events", &["trace_role", "service", "remote_service"]),
        ["1 client "]
    );
}

#[test]
fn a_clients_row_waits_for_a_server_that_is_not_decided_and_is_kept_where_it_never_is() {
    let mut machine = Machine::new();
    machine.open(1, 1, 1, 4000, 80);
    machine.data(1, 1, Flow::Egress, REQUEST, false);
    machine.open(2, 2, 2, 80, 4000);
    machine.data(2, 2, Flow::Ingress, REQUEST, true);
    machine.data(2, 2, Flow::Egress, RESPONSE, true);
    machine.data(1, 1, Flow::Ingress, RESPONSE, false);
    assert_eq!(machine.rows("http_events", &["trace_role"]), Vec::<String>::new());
    machine.pipeline.advance(machine.now + WAITING_NS_MAX);
    assert_eq!(machine.rows("http_events", &["trace_role"]), ["1"]);
    // From now on the client's rows count, and the server's do not.
    machine.now += 2 * WAITING_NS_MAX;
    for _ in 0..3 {
        machine.data(1, 1, Flow::Egress, REQUEST, false);
        machine.serve(2, REQUEST, RESPONSE);
        machine.data(1, 1, Flow::Ingress, RESPONSE, false);
        machine.pipeline.advance(machine.now + REORDER_NS_MAX);
    }
    machine.drain();
    assert_eq!(machine.rows("http_events", &["trace_role"]), ["1"; 4]);
    assert_eq!(machine.sum("rows_min"), 0);
}

#[test]
fn rows_of_a_connection_that_is_announced_late_wait_for_it() {
    let mut machine = Machine::new();
    machine.serve(5, REQUEST, RESPONSE);
    assert_eq!(machine.rows("http_events", &["local_port"]), Vec::<String>::new());
    machine.server(5);
    assert_eq!(machine.rows("http_events", &["local_port"]), ["80"]);
    // One that never is cannot be told from the other end of another.
    machine.serve(6, REQUEST, RESPONSE);
    machine.drain();
    assert_eq!(machine.rows("http_events", &["local_port"]), ["80"]);
    assert_eq!((machine.sum("rows_min"), machine.sum("rows_max")), (0, 1));
}

#[test]
fn messages_of_another_cpu_may_come_after_the_close() {
    let mut machine = Machine::new();
    machine.server(3);
    machine.data(3, 2, Flow::Ingress, REQUEST, false);
    let mut late = machine.header(Kind::Data, 3, 2);
    (late.direction, late.len) = (EGRESS, u32::try_from(RESPONSE.len()).unwrap());
    late.captured = late.len;
    machine.totals.get_mut(&3).unwrap().directions[1] =
        Direction { bytes: RESPONSE.len() as u64, ..Direction::default() };
    machine.close(3, 2);
    assert_eq!(machine.rows("http_events", &["resp_status"]), Vec::<String>::new());
    let body = Body::Data { flow: Flow::Egress, payload: RESPONSE.as_bytes() };
    machine.take(&Event { header: late, body });
    assert_eq!(machine.rows("http_events", &["resp_status"]), ["200"]);
    assert_eq!(machine.pipeline.counts().connections, 0);
}

#[test]
fn a_request_without_a_response_is_a_row_when_its_connection_ends() {
    let mut machine = Machine::new();
    machine.server(3);
    machine.data(3, 2, Flow::Ingress, REQUEST, false);
    machine.close(3, 2);
    assert_eq!(machine.rows("http_events", &["req_path", "resp_status"]), ["/users/7?x=1 0"]);
}

#[test]
fn a_connection_of_which_only_the_totals_came_has_bounds() {
    let mut machine = Machine::new();
    machine.server(3);
    machine.data(3, 2, Flow::Ingress, REQUEST, true);
    machine.data(3, 2, Flow::Egress, RESPONSE, true);
    machine.close(3, 2);
    machine.drain();
    assert_eq!(machine.sum("operations"), 2);
    assert_eq!(machine.sum("bytes"), (REQUEST.len() + RESPONSE.len()) as u64);
    assert_eq!(machine.sum("rows_min"), 0);
    assert_eq!(machine.sum("rows_max"), REQUEST.len() as u64 / 10, "they may have been HTTP/2");
}

#[test]
fn a_protocol_that_is_not_known_is_counted_only() {
    let mut machine = Machine::new();
    machine.server(3);
    machine.data(3, 2, Flow::Ingress, "EHLO me\r\n", false);
    machine.data(3, 2, Flow::Egress, "250 knot\r\n", false);
    machine.close(3, 2);
    machine.drain();
    assert_eq!(machine.rows("http_events", &["req_path"]), Vec::<String>::new());
    assert_eq!(machine.rows("conn_stats", &["protocol", "bytes_sent", "bytes_recv"]), ["0 10 9"]);
    assert_eq!(machine.rows("data_loss", &["reason"]), Vec::<String>::new());
}

#[test]
fn a_request_goes_to_the_table_of_its_protocol() {
    let mut machine = Machine::new();
    machine.server(3);
    machine.data(3, 2, Flow::Ingress, "*1\r\n$4\r\nPING\r\n", false);
    machine.data(3, 2, Flow::Egress, "+PONG\r\n", false);
    machine.close(3, 2);
    machine.drain();
    assert_eq!(machine.rows("redis_events", &["req_cmd", "trace_role", "resp"]), ["PING 2 PONG"]);
    assert_eq!(machine.rows("conn_stats", &["protocol", "bytes_sent", "bytes_recv"]), ["7 7 14"]);
    assert_eq!(machine.rows("http_events", &["req_path"]), Vec::<String>::new());
}

#[test]
fn both_ends_keep_their_rows_of_a_protocol_that_says_so() {
    let query = "\x09\0\0\0\x03SELECT 1";
    let answer = "\x07\0\0\x01\0\0\0\x02\0\0\0";
    let greeting = "\x22\0\0\0\x0a8.0.33\0\x01\0\0\0saltsalt\0\0\x02\x21\x02\0\0\0\0\0\0\0\0\0";
    let login = format!("\x20\0\0\x01\0\x02{}", "\0".repeat(30));
    let welcome = "\x07\0\0\x02\0\0\0\x02\0\0\0";
    let columns = ["trace_role", "remote_port", "req_cmd", "req_body", "resp_status", "service"];
    for server_first in [true, false] {
        let mut machine = Machine::new();
        if server_first {
            machine.open(2, 2, 2, 3306, 4000);
        }
        machine.open(1, 1, 1, 4000, 3306);
        machine.open(2, 2, 2, 3306, 4000);
        for (text, flow) in [
            (greeting, Flow::Egress),
            (login.as_str(), Flow::Ingress),
            (welcome, Flow::Egress),
            (query, Flow::Ingress),
            (answer, Flow::Egress),
        ] {
            let (server, client) = (flow, flow.opposite());
            if flow == Flow::Egress {
                machine.data(2, 2, server, text, false);
                machine.data(1, 1, client, text, false);
            } else {
                machine.data(1, 1, client, text, false);
                machine.data(2, 2, server, text, false);
            }
        }
        let mut rows = machine.rows("mysql_events", &columns);
        rows.sort_unstable();
        assert_eq!(rows, ["1 3306 3 SELECT 1 2 client", "2 4000 3 SELECT 1 2 server"]);
        // Each end tells of its own gaps too.
        machine.data(1, 1, Flow::Egress, query, false);
        machine.data(1, 1, Flow::Ingress, answer, true);
        machine.data(2, 2, Flow::Ingress, query, false);
        machine.data(2, 2, Flow::Egress, answer, true);
        machine.drain();
        assert_eq!((machine.sum("rows_min"), machine.sum("rows_max")), (2, 2));
        assert_eq!(machine.pipeline.counts().rows_of_other_end, 0);
    }
}

#[test]
fn what_a_client_has_before_its_server_said_so_is_the_servers_row() {
    let info = "INFO {\"server_id\":\"N\"}\r\n";
    let mut machine = Machine::new();
    machine.open(1, 1, 1, 4000, 4222);
    machine.data(1, 1, Flow::Ingress, info, false);
    machine.open(2, 2, 2, 4222, 4000);
    machine.data(2, 2, Flow::Egress, info, false);
    machine.drain();
    assert_eq!(machine.rows("nats_events.beta", &["cmd", "trace_role"]), ["INFO 2"]);
}

#[test]
fn what_a_server_pushes_on_a_connection_joined_midway_is_a_row() {
    let mut machine = Machine::new();
    machine.open(3, 2, 0, 4222, 4000);
    for _ in 0..2 {
        machine.data(3, 2, Flow::Ingress, "PUB a 2\r\nhi\r\n", false);
        machine.data(3, 2, Flow::Egress, "MSG a 1 2\r\nhi\r\n", false);
    }
    machine.close(3, 2);
    machine.drain();
    // The first is not trusted.
    let rows = machine.rows("nats_events.beta", &["cmd", "quality"]);
    assert_eq!(rows, ["MSG 2", "PUB 2", "MSG 2"]);
    let lost = machine.rows("data_loss", &["reason", "rows_min", "rows_max"]);
    assert_eq!(lost, ["midstream 1 1"]);
}

#[test]
fn a_connection_that_was_there_before_us_is_marked() {
    let mut machine = Machine::new();
    machine.open(3, 2, 0, 80, 4000);
    machine.data(3, 2, Flow::Egress, "the end of a body", false);
    for _ in 0..3 {
        machine.serve(3, REQUEST, RESPONSE);
    }
    assert_eq!(machine.rows("http_events", &["trace_role", "quality"]), ["2 2", "2 2"]);
}

#[test]
fn a_server_that_reads_the_head_of_a_packet_first_is_joined_midway() {
    let mut machine = Machine::new();
    machine.open(3, 2, 0, 3306, 4000);
    machine.data(3, 2, Flow::Egress, "the end of a row", false);
    for _ in 0..3 {
        machine.data(3, 2, Flow::Ingress, "\x09\0\0\0", false);
        machine.data(3, 2, Flow::Ingress, "\x03SELECT 1", false);
        machine.data(3, 2, Flow::Egress, "\x07\0\0\x01\0\0\0\x02\0\0\0", false);
    }
    let rows = machine.rows("mysql_events", &["trace_role", "req_body", "req_size", "quality"]);
    assert_eq!(rows, ["2 SELECT 1 13 2", "2 SELECT 1 13 2"]);
}

#[test]
fn bodies_and_header_values_are_redacted_by_default() {
    let mut machine = Machine::with(|settings| settings.redaction = Redaction::STRICT);
    machine.server(3);
    let post = "POST /pay HTTP/1.1\r\nCookie: s=1\r\nContent-Length: 4\r\n\r\ncard";
    machine.serve(3, post, RESPONSE);
    let rows =
        machine.rows("http_events", &["req_headers", "req_body", "req_body_size", "resp_body"]);
    assert_eq!(
        rows,
        [
            r#"{"Cookie":"[redacted 3 bytes]","Content-Length":"[redacted 1 bytes]"} [redacted 4 bytes] 4 [redacted 2 bytes]"#
        ]
    );
}

#[test]
fn processes_are_rows_when_they_appear_and_end() {
    let mut machine = Machine::new();
    machine.server(3);
    let header = machine.header(Kind::Fork, 0, 7);
    let fork = ProcessInfo {
        parent_tgid: 2,
        comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
        ..ProcessInfo::default()
    };
    machine.take(&Event { header, body: Body::Fork(fork) });
    let header = machine.header(Kind::Exit, 0, 7);
    let exit = ProcessInfo { exit_code: 3 << 8, ..ProcessInfo::default() };
    machine.take(&Event { header, body: Body::Exit(exit) });
    assert_eq!(
        machine.rows("processes", &["pid", "ppid", "comm", "exe", "service", "exit_code"]),
        [
            "2 0  /bin/server server 0",
            "7 2 worker /bin/server server 0",
            "7 2 worker /bin/server server 3"
        ]
    );
}

#[test]
fn the_table_of_connections_is_bounded_and_evictions_are_counted() {
    let mut machine = Machine::with(|settings| settings.connections_max = 4);
    for conn in 1..=10 {
        machine.server(conn);
        machine.data(conn, 2, Flow::Ingress, REQUEST, false);
    }
    let counts = machine.pipeline.counts();
    assert_eq!((counts.connections, counts.connections_evicted), (4, 6));
    machine.data(1, 2, Flow::Egress, RESPONSE, false);
    machine.pipeline.settle();
    machine.pipeline.write_losses(TimeNs::ZERO, false);
    let loss = machine.rows("data_loss", &["reason", "rows_min", "rows_max"]);
    assert_eq!(loss, ["evicted 0 10"], "six requests, and the bytes of one response");
}

/// What happens to one exchange: which of its messages are lost, at the server and at the client.
type Fate = (bool, bool, bool, bool);

fn exchange(machine: &mut Machine, conn: u64, n: usize, fate: Fate) {
    let request = format!("GET /{conn}/{n} HTTP/1.1\r\nHost: h\r\n\r\n");
    let response = format!("HTTP/1.1 200 {conn}/{n}\r\nContent-Length: 2\r\n\r\nhi");
    let client = conn + 100;
    machine.data(client, 1, Flow::Egress, &request, fate.0);
    machine.data(conn, 2, Flow::Ingress, &request, fate.1);
    machine.data(conn, 2, Flow::Egress, &response, fate.2);
    machine.data(client, 1, Flow::Ingress, &response, fate.3);
}

proptest! {
    #[test]
    fn whatever_is_lost_no_pair_is_wrong_no_row_double_and_the_bounds_hold(
        fates in proptest::collection::vec(any::<(u8, u8)>(), 1..60),
        close in any::<[bool; 3]>(),
        percent in 0_u8..60,
        idle in any::<u64>(),
    ) {
        let mut machine = Machine::new();
        for conn in 1..=3_u64 {
            let port = 4000 + u16::try_from(conn).unwrap();
            machine.open(conn + 100, 1, 1, port, 80);
            machine.open(conn, 2, 2, 80, port);
        }
        let lost = |byte: u8, salt: u8| byte.wrapping_mul(31).wrapping_add(salt.wrapping_mul(97)) % 100 < percent;
        for (n, (a, b)) in fates.iter().enumerate() {
            let fate = (lost(*a, 1), lost(*b, 2), lost(a ^ b, 3), lost(a.wrapping_add(*b), 4));
            exchange(&mut machine, 1 + (u64::from(*a) % 3), n, fate);
            if idle >> (n % 64) & 1 == 1 {
                machine.now += 2 * REORDER_NS_MAX;
                machine.pipeline.advance(machine.now);
            }
        }
        for conn in 1..=3_u64 {
            if close[usize::try_from(conn).unwrap() - 1] {
                machine.close(conn + 100, 1);
                machine.close(conn, 2);
            }
        }
        machine.drain();
        let rows = machine.rows("http_events", &["req_path", "resp_message", "resp_status"]);
        let mut paths = Vec::new();
        for row in &rows {
            let mut cells = row.split(' ');
            let (path, message) = (cells.next().unwrap(), cells.next().unwrap());
            prop_assert_eq!(&path[1..], message);
            paths.push(path.to_owned());
        }
        paths.sort();
        let count = paths.len();
        paths.dedup();
        prop_assert_eq!(paths.len(), count, "a request is stored twice");
        let missing = (fates.len() - count) as u64;
        let detail = machine.rows("data_loss", &["reason", "rows_min", "rows_max", "conn", "detail"]).join("\n");
        let (min, max) = (machine.sum("rows_min"), machine.sum("rows_max"));
        prop_assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}\n{paths:?}\n{detail}");
        let bounds = machine.pipeline.missing_rows();
        prop_assert!(bounds.min <= missing && missing <= bounds.max, "{bounds:?} {missing}");
        prop_assert_eq!(machine.sum("operations"), machine.kernel.dropped_operations);
        prop_assert_eq!(machine.sum("bytes"), machine.kernel.dropped_bytes);
        if machine.kernel.dropped == 0 {
            prop_assert_eq!((missing, max), (0, 0));
        }
    }

    #[test]
    fn arbitrary_messages_never_panic(
        messages in proptest::collection::vec((1_u8..7, any::<[u64; 6]>(), proptest::collection::vec(any::<u8>(), 0..150)), 0..60),
    ) {
        let mut machine = Machine::with(|settings| settings.connections_max = 3);
        for (kind, [a, b, c, d, e, f], payload) in messages {
            let len = (a % 5) as u32 * 40 + u32::try_from(payload.len()).unwrap();
            let header = Header {
                kind,
                flags: (b % 16) as u8,
                direction: (c % 2) as u8,
                time_mono_ns: if d % 7 == 0 { d } else { d % 1_000_000_000 },
                conn: 1 + e % 5,
                tgid: (f % 3) as u32,
                pos: if f % 11 == 0 { f } else { f % 300 },
                len,
                captured: u32::try_from(payload.len()).unwrap(),
                ..Header::default()
            };
            let mut bytes = Vec::new();
            Event { header, body: Body::Data { flow: Flow::Ingress, payload: &payload } }.encode(&mut bytes);
            if kind != 1 { bytes.extend_from_slice(&[7; 200]); }
            let _outcome = machine.pipeline.message(&bytes);
        }
        machine.drain();
    }
}
