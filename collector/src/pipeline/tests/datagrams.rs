//! DNS over UDP, from the kernel's messages to rows.

use super::*;
use crate::datagrams::RESPONSE_NS_MAX;
use crate::protocol::dns::tests::wire::{Build, query};

const COLUMNS: [&str; 11] = [
    "trace_role",
    "remote_addr",
    "remote_port",
    "local_addr",
    "service",
    "remote_service",
    "query_name",
    "query_type",
    "rcode",
    "latency",
    "quality",
];

impl Machine {
    /// Process 1 asks from port 4000 over a socket that is connected; process 2 answers at port 53
    /// over one that is not.
    fn datagram(&mut self, tgid: u32, flow: Flow, payload: &[u8], lost: bool) {
        let mut header = self.header(Kind::Datagram, 0, tgid);
        header.direction = if flow == Flow::Egress { EGRESS } else { 0 };
        header.len = u32::try_from(payload.len()).unwrap();
        header.captured = header.len;
        let mut info = ConnInfo { netns: 1, inode: tgid.into(), family: 2, ..ConnInfo::default() };
        if tgid == 1 {
            (info.local_port, info.remote_port) = (4000, 53);
            info.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
            info.remote_addr = info.local_addr;
        } else {
            info.local_port = 53;
            if flow == Flow::Egress {
                info.remote_port = 4000;
                info.remote_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
            }
        }
        self.kernel.attempts += 1;
        self.kernel.operations += 1;
        self.kernel.operation_bytes += u64::from(header.len);
        if lost {
            self.kernel.dropped += 1;
            self.kernel.dropped_bytes += u64::from(header.len);
            self.kernel.dropped_operations += 1;
            self.kernel.dropped_datagrams += 1;
            self.kernel.dropped_datagram_bytes += u64::from(header.len);
            return;
        }
        self.take(&Event { header, body: Body::Datagram { flow, info, payload } });
    }

    fn look_up(&mut self) {
        let asked = query(7, "Shop.example", 1);
        let answer = Build::response(7, "shop.example", 1).addr([10, 0, 0, 9]).done();
        self.datagram(1, Flow::Egress, &asked, false);
        self.datagram(2, Flow::Ingress, &asked, false);
        self.datagram(2, Flow::Egress, &answer, false);
        self.datagram(1, Flow::Ingress, &answer, false);
    }
}

#[test]
fn a_query_over_udp_is_a_row_at_both_ends() {
    let mut machine = Machine::new();
    machine.look_up();
    assert_eq!(
        machine.rows("dns_events", &COLUMNS),
        [
            "2 127.0.0.1 4000 - server client shop.example A 0 1000 0",
            "1 127.0.0.1 53 127.0.0.1 client server shop.example A 0 3000 0",
        ]
    );
    let bodies = machine.rows("dns_events", &["req_body", "resp_body"]);
    assert_eq!(
        bodies[0],
        r#"{"queries":[{"name":"Shop.example","type":"A"}]} {"answers":[{"name":"shop.example","type":"A","addr":"10.0.0.9"}]}"#
    );
    machine.drain();
    let counts = machine.pipeline.counts();
    assert_eq!((counts.operations, counts.bytes), (4, machine.kernel.operation_bytes));
    assert_eq!(machine.rows("data_loss", &["reason"]), Vec::<String>::new());
}

#[test]
fn names_are_kept_even_under_a_strict_redaction() {
    let mut machine = Machine::with(|settings| settings.redaction = Redaction::STRICT);
    machine.look_up();
    assert_eq!(
        machine.rows("dns_events", &["query_name", "req_body", "query_type", "rcode"])[0],
        r#"shop.example {"queries":[{"name":"Shop.example","type":"A"}]} A 0"#
    );
}

#[test]
fn a_query_without_a_response_is_a_row_once_event_time_has_passed() {
    let mut machine = Machine::new();
    machine.datagram(1, Flow::Egress, &query(7, "gone.example", 28), false);
    machine.drain();
    assert_eq!(machine.pipeline.counts().in_flight, 1);
    machine.pipeline.advance(machine.now + RESPONSE_NS_MAX);
    assert_eq!(
        machine.rows("dns_events", &["time_", "query_name", "rcode", "resp_header", "latency"]),
        [format!("{} gone.example -1 {{}} 0", machine.now)]
    );
}

#[test]
fn rows_that_the_ring_had_no_room_for_are_within_the_bounds() {
    let mut machine = Machine::new();
    machine.look_up();
    // Of one the query is lost at the client, of one the response at the server.
    let answer = Build::response(8, "a.b", 1).done();
    machine.datagram(1, Flow::Egress, &query(8, "a.b", 1), true);
    machine.datagram(1, Flow::Ingress, &answer, false);
    machine.datagram(2, Flow::Ingress, &query(8, "a.b", 1), false);
    machine.datagram(2, Flow::Egress, &answer, true);
    machine.drain();
    let losses = machine.rows("data_loss", &["source_table", "reason", "rows_min", "rows_max"]);
    assert!(losses.contains(&"dns_events unrequested 0 1".to_owned()), "{losses:?}");
    assert_eq!((machine.sum("operations"), machine.sum("rows_min")), (2, 0));
    assert_eq!(machine.sum("bytes"), machine.kernel.dropped_bytes);
    assert!(losses.contains(&"dns_events ring_full 0 2".to_owned()), "{losses:?}");
    assert_eq!(machine.pipeline.missing_rows().max, 3);
}

#[test]
fn what_is_no_message_may_be_a_row_that_is_missing() {
    let mut machine = Machine::new();
    machine.datagram(1, Flow::Egress, b"something else on this port", false);
    machine.drain();
    let columns = ["source_table", "reason", "rows_min", "rows_max"];
    assert_eq!(machine.rows("data_loss", &columns), ["dns_events parse_error 0 1"]);
}
