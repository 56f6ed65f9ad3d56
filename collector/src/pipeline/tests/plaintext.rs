//! What goes over TLS: a plaintext beside the connection that carries it.

use super::*;
use crate::tls::unbound::UNBOUND_NS_MAX;
use undine_ebpf::{FLAG_ELIDED, PLAINTEXT, TlsInfo};

const HANDSHAKE: &str = "\u{16}\u{3}\u{1}hello";
const INSIDE: u64 = 7 | PLAINTEXT;

impl Machine {
    /// A server's connection on which the handshake was seen.
    fn secured_server(&mut self) -> u64 {
        self.server(1);
        self.data(1, 2, Flow::Ingress, HANDSHAKE, false);
        self.now
    }

    fn bind(&mut self, probed_since_ns: u64) {
        let header = self.header(Kind::Tls, INSIDE, 2);
        self.tell(header, 1, probed_since_ns);
    }

    fn tell(&mut self, header: Header, carrier: u64, probed_since_ns: u64) {
        let mut info = ConnInfo {
            netns: 1,
            local_port: 80,
            remote_port: 4001,
            family: 2,
            role: 2,
            ..ConnInfo::default()
        };
        info.local_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        info.remote_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
        let tls = TlsInfo { info, carrier, probed_since_ns };
        self.take(&Event { header, body: Body::Tls(tls) });
    }
}

#[test]
fn what_came_before_the_connection_was_known_waits_for_it() {
    let mut machine = Machine::new();
    machine.secured_server();
    machine.serve(INSIDE, REQUEST, RESPONSE);
    assert!(machine.rows("http_events", &["req_path"]).is_empty());
    machine.bind(1);
    assert_eq!(machine.rows("http_events", &["req_path"]).len(), 1);
    machine.serve(INSIDE, REQUEST, RESPONSE);
    machine.drain();
    assert_eq!(machine.pipeline.row_counts().http_events, 2);
    assert_eq!(machine.pipeline.counts().tls_unbound, 0);
    assert_eq!(machine.pipeline.missing_rows(), RowBounds::default());
}

#[test]
fn what_is_sent_from_another_place_of_memory_goes_on_with_the_plaintext() {
    const MOVED: u64 = 8 | PLAINTEXT;
    let mut machine = Machine::new();
    machine.secured_server();
    machine.bind(1);
    machine.serve(INSIDE, REQUEST, RESPONSE);
    machine.data(INSIDE, 2, Flow::Ingress, REQUEST, false);
    machine.data(MOVED, 2, Flow::Egress, RESPONSE, false);
    assert_eq!(machine.rows("http_events", &["req_path"]).len(), 1);
    let mut header = machine.header(Kind::Tls, MOVED, 2);
    header.pos = RESPONSE.len() as u64;
    machine.tell(header, INSIDE, 1);
    machine.drain();
    assert_eq!(machine.pipeline.row_counts().http_events, 2);
    assert_eq!(machine.pipeline.counts().tls_unbound, 0);
    assert_eq!(machine.pipeline.missing_rows(), RowBounds::default());
}

/// Who was asked what, as rows say it of what was said inside TLS.
const UNBOUND_COLUMNS: [&str; 7] =
    ["trace_role", "remote_addr", "remote_port", "local_addr", "encrypted", "quality", "req_path"];
const UNBOUND_ROW: &str = "2 - 0 - true 16 /users/7?x=1";

#[test]
fn a_plaintext_that_nothing_carries_has_rows_that_say_so() {
    let mut machine = Machine::new();
    machine.serve(INSIDE, REQUEST, RESPONSE);
    machine.serve(INSIDE, REQUEST, RESPONSE);
    machine.close(INSIDE, 2);
    assert!(machine.rows("http_events", &UNBOUND_COLUMNS).is_empty());
    machine.now += UNBOUND_NS_MAX;
    machine.server(1);
    assert_eq!(machine.rows("http_events", &UNBOUND_COLUMNS), [UNBOUND_ROW; 2]);
    assert_eq!(machine.pipeline.counts().tls_unbound, 1);
    assert_eq!(machine.pipeline.missing_rows(), RowBounds::default());
    machine.now += CLOSING_NS_MAX;
    machine.server(2);
    assert_eq!(machine.pipeline.counts().connections, 2, "it has ended");
    machine.drain();
    assert!(!machine.tables.contains_key("data_loss"));
    assert!(machine.rows("conn_stats", &["ssl"]).iter().all(|ssl| ssl == "false"));
}

#[test]
fn what_is_bound_too_late_stays_as_it_was() {
    let mut machine = Machine::new();
    machine.secured_server();
    machine.serve(INSIDE, REQUEST, RESPONSE);
    machine.data(INSIDE, 2, Flow::Ingress, REQUEST, false);
    machine.now += UNBOUND_NS_MAX;
    machine.pipeline.advance(machine.now);
    machine.bind(1);
    machine.data(INSIDE, 2, Flow::Egress, RESPONSE, false);
    machine.drain();
    assert_eq!(machine.rows("http_events", &UNBOUND_COLUMNS), [UNBOUND_ROW; 2]);
    assert_eq!(machine.rows("conn_stats", &["protocol", "ssl"]), ["1 true"]);
    assert_eq!(machine.pipeline.missing_rows(), RowBounds::default());
}

#[test]
fn of_a_plaintext_that_nothing_carries_no_row_is_made_up() {
    let mut machine = Machine::new();
    machine.serve(INSIDE, "neither a request", "nor an answer");
    machine.drain();
    assert_eq!(machine.pipeline.counts().tls_unbound, 1);
    assert_eq!(machine.tables.keys().filter(|table| table.ends_with("_events")).count(), 0);
}

#[test]
fn a_plaintext_is_known_from_its_beginning_only_if_the_probe_was_there_before_the_handshake() {
    for (since, rows) in [(1, 1), (0, 0), (u64::MAX, 0)] {
        let mut machine = Machine::new();
        machine.secured_server();
        machine.bind(since);
        // Its request went by before the probe stood.
        machine.data(INSIDE, 2, Flow::Ingress, REQUEST, false);
        machine.data(INSIDE, 2, Flow::Egress, RESPONSE, false);
        machine.drain();
        assert_eq!(machine.pipeline.row_counts().http_events, rows, "since {since}");
    }
}

#[test]
fn ciphertext_that_was_left_is_not_lost() {
    let mut machine = Machine::new();
    machine.secured_server();
    machine.bind(1);
    let mut header = machine.header(Kind::Data, 1, 2);
    (header.pos, header.len, header.flags) = (HANDSHAKE.len() as u64, 500, FLAG_ELIDED);
    machine.take(&Event { header, body: Body::Data { flow: Flow::Ingress, payload: &[] } });
    machine.drain();
    assert!(!machine.tables.contains_key("data_loss"));
    assert_eq!(machine.pipeline.counts().bytes, 500 + HANDSHAKE.len() as u64);
}
