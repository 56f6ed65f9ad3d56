//! Connections that go over to TLS, from the kernel's messages to rows.

use super::*;
use crate::protocol::tls::tests::conversation;

const COLUMNS: [&str; 4] = ["trace_role", "server_name", "version", "quality"];
/// What PostgreSQL's clients ask TLS with.
const PGSQL_ASKS: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

impl Machine {
    /// The first two flights of a handshake, as its server sees them.
    fn handshake(&mut self, conn: u64) {
        let [hello, answer] = &conversation("tls13")[..2] else { unreachable!() };
        // OpenSSL reads the head of a record first.
        self.data(conn, 2, Flow::Ingress, &hello.1[..5], false);
        self.data(conn, 2, Flow::Ingress, &hello.1[5..], false);
        self.data(conn, 2, Flow::Egress, &answer.1, false);
    }
}

#[test]
fn postgresql_goes_over_to_tls() {
    let mut machine = Machine::new();
    machine.server(1);
    machine.data(1, 2, Flow::Ingress, PGSQL_ASKS, false);
    machine.data(1, 2, Flow::Egress, "S", false);
    machine.handshake(1);
    // What it sends then looks like a hello only to who forgets that TLS is spoken.
    machine.handshake(1);
    machine.close(1, 2);
    machine.drain();
    assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.3 0"]);
    assert_eq!(machine.sum("rows_max"), 0);
    let protocols = machine.rows("conn_stats", &["protocol", "conn_open", "conn_close"]);
    assert_eq!(protocols, ["13 1 1"]);
}

#[test]
fn bytes_that_no_connection_has_may_be_of_what_it_goes_over_to() {
    let mut machine = Machine::new();
    machine.server(1);
    machine.data(1, 2, Flow::Ingress, PGSQL_ASKS, false);
    machine.data(1, 2, Flow::Egress, "S", false);
    machine.handshake(1);
    // Lost with all that is known of its connection.
    machine.data(7, 2, Flow::Ingress, vec![0; 500], true);
    machine.totals.remove(&7);
    machine.drain();
    let tables = machine.rows("data_loss", &["source_table"]);
    assert!(tables.iter().any(|table| table == "tls_events"), "{tables:?}");
}

#[test]
fn mysql_goes_over_to_tls_and_the_servers_end_keeps_the_handshake() {
    let mut machine = Machine::new();
    let greeting = "\x4a\0\0\0\x0a8.0.33\0\x01\0\0\0saltsalt\0\u{7f}\u{7f}\x08\x02\0\u{7f}\u{7f}\x15\0\0\0\0\0\0\0\0\0\0saltsaltsalt\0mysql_native_password\0";
    let mut greeting = greeting.as_bytes().to_vec();
    greeting[0] = u8::try_from(greeting.len() - 4).unwrap();
    let mut asks = b"\x20\0\0\x01\x85\xae\xff\x01\0\0\0\x01\x21".to_vec();
    asks.resize(36, 0);
    let [hello, answer] = &conversation("tls12")[..2] else { unreachable!() };
    machine.open(1, 1, 1, 4002, 80);
    machine.server(2);
    for (bytes, from_server) in
        [(&greeting, true), (&asks, false), (&hello.1, false), (&answer.1, true)]
    {
        let [sender, receiver] = if from_server { [(2, 2), (1, 1)] } else { [(1, 1), (2, 2)] };
        machine.data(sender.0, sender.1, Flow::Egress, bytes, false);
        machine.data(receiver.0, receiver.1, Flow::Ingress, bytes, false);
    }
    machine.close(1, 1);
    machine.close(2, 2);
    machine.drain();
    assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.2 0"]);
    assert_eq!(machine.sum("rows_max"), 0);
}

#[test]
fn a_server_of_nats_that_asks_for_tls_gets_it_in_the_same_bytes() {
    let [hello, answer] = &conversation("tls13")[..2] else { unreachable!() };
    for cut in [0, 5] {
        let mut machine = Machine::new();
        machine.server(1);
        machine.data(1, 2, Flow::Egress, "INFO {\"tls_required\":true}\r\n", false);
        for part in [&hello.1[..cut], &hello.1[cut..]] {
            if !part.is_empty() {
                machine.data(1, 2, Flow::Ingress, part, false);
            }
        }
        machine.data(1, 2, Flow::Egress, &answer.1, false);
        machine.drain();
        assert_eq!(machine.rows("nats_events.beta", &["cmd"]), ["INFO"]);
        assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.3 0"]);
        assert_eq!(machine.sum("rows_max"), 0);
    }
}

#[test]
fn what_is_not_known_may_go_over_to_tls_too() {
    let mut machine = Machine::new();
    machine.server(1);
    machine.data(1, 2, Flow::Egress, "220 mail ESMTP\r\n", false);
    machine.data(1, 2, Flow::Ingress, "EHLO me\r\n", false);
    machine.data(1, 2, Flow::Egress, "250 STARTTLS\r\n", false);
    machine.data(1, 2, Flow::Ingress, "STARTTLS\r\n", false);
    machine.data(1, 2, Flow::Egress, "220 go ahead\r\n", false);
    machine.handshake(1);
    machine.drain();
    assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.3 0"]);
    assert_eq!(machine.sum("rows_max"), 0);
}

#[test]
fn a_tunnel_through_a_proxy_may_hold_tls() {
    let mut machine = Machine::new();
    machine.server(1);
    machine.serve(1, "CONNECT shop:443 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
    machine.handshake(1);
    machine.close(1, 2);
    machine.drain();
    assert_eq!(machine.rows("http_events", &["req_method", "resp_status"]), ["CONNECT 200"]);
    assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.3 0"]);
    assert_eq!(machine.sum("rows_max"), 0);
}

#[test]
fn bytes_that_are_lost_after_the_handshake_are_no_rows() {
    let mut machine = Machine::new();
    machine.server(1);
    machine.handshake(1);
    for lost in [false, true, false] {
        machine.data(1, 2, Flow::Ingress, vec![0x17; 5000], lost);
        machine.data(1, 2, Flow::Egress, vec![0x17; 5000], lost);
        machine.pipeline.advance(machine.now + REORDER_NS_MAX);
    }
    machine.close(1, 2);
    machine.drain();
    assert_eq!(machine.rows("tls_events", &COLUMNS), ["2 example.test TLS 1.3 0"]);
    assert_eq!((machine.sum("rows_max"), machine.pipeline.counts().connections), (0, 0));
    let stats = machine.rows("conn_stats", &["protocol", "bytes_sent", "bytes_recv"]);
    let [hello, answer] = &conversation("tls13")[..2] else { unreachable!() };
    let (sent, received) = (15_000 + answer.1.len(), 15_000 + hello.1.len());
    assert_eq!(stats, [format!("13 {sent} {received}")]);
}

#[test]
fn a_handshake_with_a_gap_is_one_row_that_is_missing() {
    let mut machine = Machine::new();
    machine.server(1);
    let [hello, answer] = &conversation("tls13")[..2] else { unreachable!() };
    machine.data(1, 2, Flow::Ingress, &hello.1[..100], false);
    machine.data(1, 2, Flow::Ingress, &hello.1[100..], true);
    machine.data(1, 2, Flow::Egress, &answer.1, false);
    for _ in 0..100 {
        machine.data(1, 2, Flow::Ingress, vec![0x17; 5000], false);
    }
    machine.close(1, 2);
    machine.drain();
    assert_eq!(machine.rows("tls_events", &COLUMNS), Vec::<String>::new());
    let (min, max) = (machine.sum("rows_min"), machine.sum("rows_max"));
    assert!(min <= 1 && (1..=12).contains(&max), "{min}..={max}");
}
