use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, hear, server, split,
};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

const QUIET: &str = "CONNECT {\"verbose\":false}\r\n";

fn show(finished: &Finished) -> String {
    let Finished::Nats(timed) = finished else { return format!("{finished:?}") };
    let Command { name, body, answer, .. } = &timed.call;
    format!("{name} {body} -> {answer} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Nats>(sent, show).join("\n"));
    check_any_split::<Nats>(sent, show);
}

#[test]
fn every_command_of_either_side_is_a_row() {
    check(
        &[
            server("INFO {\"server_id\":\"N\",\"max_payload\":1048576}\r\n"),
            client(QUIET),
            client("SUB greet.* workers 1\r\nPING\r\n"),
            server("PONG\r\n"),
            client("pub greet.me _INBOX.1 5\r\nhello\r\n"),
            server("MSG greet.me 1 _INBOX.1 5\r\nhello\r\nPING\r\n"),
            client("PONG\r\nUNSUB 1 10\r\nPUB none 0\r\n\r\n"),
            server("-ERR 'Slow Consumer'\r\n"),
        ],
        &expect![[r#"
            INFO {"server_id":"N","max_payload":1048576} ->  q0
            CONNECT {"verbose":false} ->  q0
            SUB {"subject":"greet.*","queue_group":"workers","sid":"1"} ->  q0
            PING  -> PONG q0
            PUB {"subject":"greet.me","reply_to":"_INBOX.1","payload":"hello"} ->  q0
            MSG {"subject":"greet.me","sid":"1","reply_to":"_INBOX.1","payload":"hello"} ->  q0
            PING  ->  q0
            PONG  ->  q0
            UNSUB {"sid":"1","max_msgs":"10"} ->  q0
            PUB {"subject":"none","payload":""} ->  q0
            -ERR  -> ERR 'Slow Consumer' q0"#]],
    );
}

#[test]
fn in_verbose_mode_answers_come_in_order() {
    check(
        &[
            client("CONNECT {\"user\":\"me\"}\r\nSUB a 1\r\nPING\r\nPUB b 2\r\nhi\r\n"),
            server("+OK\r\n+OK\r\nPONG\r\nMSG a 1 1\r\nx\r\n-ERR 'Permissions Violation'\r\n"),
            client("PUB a..b 1\r\nx\r\n"),
            server("-ERR 'Invalid Publish Subject'\r\n+OK\r\n"),
            client("UNSUB 1\r\n"),
        ],
        &expect![[r#"
            CONNECT {"user":"me"} -> OK q0
            SUB {"subject":"a","sid":"1"} -> OK q0
            PING  -> PONG q0
            MSG {"subject":"a","sid":"1","payload":"x"} ->  q0
            PUB {"subject":"b","payload":"hi"} -> ERR 'Permissions Violation' q0
            PUB {"subject":"a..b","payload":"x"} -> ERR 'Invalid Publish Subject' q0
            UNSUB {"sid":"1"} ->  q4"#]],
    );
}

#[test]
fn messages_of_jetstream_their_acknowledgements_and_bare_states_are_rows() {
    let headers = "NATS/1.0\r\nNats-Msg-Id: 77\r\n\r\n";
    let (header_bytes, bytes) = (headers.len(), headers.len() + 2);
    let publish = format!("HPUB orders.new _INBOX.x.1 {header_bytes} {bytes}\r\n{headers}{{}}\r\n");
    let acknowledged = r#"{"stream":"ORDERS","seq":9}"#;
    let reply = "$JS.ACK.ORDERS.worker.1.9.4.1700000000000000000.0";
    check(
        &[
            client(QUIET),
            client(publish),
            server(format!("MSG _INBOX.x.1 1 {}\r\n{acknowledged}\r\n", acknowledged.len())),
            client(
                "PUB $JS.API.CONSUMER.MSG.NEXT.ORDERS.worker _INBOX.x.2 11\r\n{\"batch\":1}\r\n",
            ),
            server(format!("MSG orders.new 1 {reply} 2\r\n{{}}\r\n")),
            client(format!("PUB {reply} 4\r\n+ACK\r\n")),
            server("HMSG _INBOX.x.2 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"),
            server("HMSG _INBOX.x.2 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
        ],
        &expect![[r#"
            CONNECT {"verbose":false} ->  q0
            HPUB {"subject":"orders.new","reply_to":"_INBOX.x.1","headers":{"Nats-Msg-Id":"77"},"payload":"{}"} ->  q0
            MSG {"subject":"_INBOX.x.1","sid":"1","payload":"{\"stream\":\"ORDERS\",\"seq\":9}"} ->  q0
            PUB {"subject":"$JS.API.CONSUMER.MSG.NEXT.ORDERS.worker","reply_to":"_INBOX.x.2","payload":"{\"batch\":1}"} ->  q0
            MSG {"subject":"orders.new","sid":"1","reply_to":"$JS.ACK.ORDERS.worker.1.9.4.1700000000000000000.0","payload":"{}"} ->  q0
            PUB {"subject":"$JS.ACK.ORDERS.worker.1.9.4.1700000000000000000.0","payload":"+ACK"} ->  q0
            HMSG {"subject":"_INBOX.x.2","sid":"1","status":"404 No Messages","headers":{},"payload":""} ->  q0
            HMSG {"subject":"_INBOX.x.2","sid":"1","status":"503","headers":{},"payload":""} ->  q0"#]],
    );
}

#[test]
fn headers_are_options_and_secrets_are_never_kept() {
    check(
        &[
            client("CONNECT {\"verbose\":false,\"pass\":\"hunter2\"}\r\n"),
            client("CONNECT {\"verbose\":false,\"jwt\":\"hunter2\"}\r\n"),
            client(
                "HPUB a 52 55\r\nNATS/1.0\r\nAuthorization: hunter2\r\nTrace-Id: 1234\r\n\r\nabc\r\n",
            ),
        ],
        &expect![[r#"
            CONNECT {"verbose":false,"pass":"<redacted>"} ->  q0
            CONNECT {"verbose":false,"jwt":"<redacted>"} ->  q0
            HPUB {"subject":"a","headers":{"Authorization":"<redacted>","Trace-Id":"1234"},"payload":"abc"} ->  q0"#]],
    );
}

#[test]
fn long_payloads_are_cut_and_their_bytes_counted() {
    let long = "x".repeat(100_000);
    let sent = [
        client(format!("{QUIET}PUB a 100000\r\n{long}\r\nPUB b 3\r\nend\r\n")),
        server(format!("MSG a 1 100000\r\n{long}\r\n")),
    ];
    let shown = hear::<Nats>(&sent, |finished| {
        let Finished::Nats(timed) = finished else { return String::new() };
        format!("{} {} {}", timed.call.name, timed.call.body.len(), timed.call.size)
    });
    assert_eq!(shown, ["CONNECT 17 27", "PUB 92 100016", "PUB 31 14", "MSG 102 100018"]);
    check_any_split::<Nats>(&sent, show);
}

#[test]
fn what_follows_a_long_payload_has_its_own_time() {
    let half = "x".repeat(50_000);
    let sent = [
        client(QUIET),
        server(format!("MSG a 1 100000\r\n{half}")),
        server(format!("{half}\r\nMSG a 1 1\r\ny\r\n")),
    ];
    let times = hear::<Nats>(&sent, |finished| {
        let Finished::Nats(timed) = finished else { return String::new() };
        format!("{}..{}", timed.requested_at, timed.responded_at)
    });
    assert_eq!(times, ["1..1", "2..3", "3..3"]);
}

#[test]
fn what_is_no_text_says_so() {
    check(
        &[client(QUIET), client(b"PUB a 3\r\n\xff\xfe\n\r\n")],
        &expect![[r#"
            CONNECT {"verbose":false} ->  q0
            PUB {"subject":"a","payload":"[binary 3 bytes]"} ->  q0"#]],
    );
}

#[test]
fn tls_is_another_protocol() {
    check(
        &[
            server("INFO {\"tls_required\":true}\r\n"),
            client(b"\x16\x03\x01\x02\x00\x01\x00"),
            server(b"\x16\x03\x03\x00\n"),
        ],
        &expect![[r#"INFO {"tls_required":true} ->  q0"#]],
    );
}

#[test]
fn a_hole_in_a_long_payload_costs_nothing() {
    let sent = [
        client(QUIET),
        client(format!("PUB a 100000\r\n{}", "x".repeat(1000))),
        Sent::Hole(Side::Client, 98_990),
        client(format!("{}\r\nPING\r\n", "x".repeat(10))),
        server("PONG\r\n"),
    ];
    let shown = hear::<Nats>(&sent, show);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert_eq!(shown[2], "PING  -> PONG q0");
}

#[test]
fn after_a_gap_either_side_takes_up_again_at_a_message() {
    let sent = [
        client(QUIET),
        client("PUB a 3\r\nab"),
        Sent::Hole(Side::Client, 9),
        server("half of a payload\r\n"),
        server("MSG a 1 3\r\nabc\r\n"),
        client("the end of it\r\n"),
        server("MSG b 1 3\r\nabc\r\n"),
        client("PUB b 3\r\nabc\r\n"),
    ];
    let expected = expect![[r#"
        CONNECT {"verbose":false} ->  q0
        MSG {"subject":"b","sid":"1","payload":"abc"} ->  q0
        PUB {"subject":"b","payload":"abc"} ->  q0
        lost 1..=9 ring_full"#]];
    expected.assert_eq(&hear::<Nats>(&sent, show).join("\n"));
}

#[test]
fn what_a_server_may_have_pushed_in_a_gap_is_counted() {
    let sent = [client(QUIET), Sent::Hole(Side::Server, 60), server("the end of it\r\n")];
    let expected = expect![[r#"
        CONNECT {"verbose":false} ->  q0
        lost 0..=12 ring_full"#]];
    expected.assert_eq(&hear::<Nats>(&sent, show).join("\n"));
}

#[test]
fn no_pair_spans_a_gap() {
    let loud = "CONNECT {\"verbose\":true}\r\n";
    let publish = |subject: &str| client(format!("PUB {subject} 1\r\nx\r\n"));
    let sent = [
        client(loud),
        server("+OK\r\n"),
        publish("a"),
        Sent::Hole(Side::Server, 5),
        publish("b"),
        server("+OK\r\n"),
        publish("c"),
        server("+OK\r\n"),
    ];
    let expected = expect![[r#"
        CONNECT {"verbose":true} -> OK q0
        PUB {"subject":"c","payload":"x"} -> OK q0
        lost 2..=2 ring_full"#]];
    expected.assert_eq(&hear::<Nats>(&sent, show).join("\n"));
}

#[test]
fn wild_lengths_and_unknown_commands_end_the_pairing() {
    for wrong in
        ["PUB a 99999999999\r\n", "PUB a -1\r\n", "HPUB a 9 3\r\n", "FETCH a\r\n", "PUB a 1\r\nxyz"]
    {
        let publish = |subject: &str| client(format!("PUB {subject} 1\r\nx\r\n"));
        let shown =
            hear::<Nats>(&[client(QUIET), client(wrong), publish("trial"), publish("b")], show);
        assert!(shown[1].starts_with("PUB {\"subject\":\"b\""), "{shown:?}");
        assert!(shown[2].ends_with("parse_error"), "{shown:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec(
            (any::<bool>(), "((PUB|MSG|HPUB|SUB|PING|\\+OK|-ERR|CONNECT|INFO) |[a-z0-9 {\"}\r\n]{0,9}){0,12}"),
            0..12,
        ),
    ) {
        check_any_bytes::<Nats>(parts.into_iter().map(|(c, text)| (c, text.into_bytes())).collect());
    }

    #[test]
    fn random_bytes_are_never_taken_for_it(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
        prop_assert_ne!(probe_response(&bytes), Probe::Yes);
    }

    #[test]
    fn every_published_message_is_a_row_however_it_is_cut(
        payloads in proptest::collection::vec("[a-z\r\n]{0,40}", 1..40),
        cut in 1_usize..50,
    ) {
        let mut sent = vec![client(QUIET)];
        for payload in &payloads {
            sent.push(client(format!("PUB a {}\r\n{payload}\r\n", payload.len())));
        }
        let shown = hear::<Nats>(&split(&sent, cut), show);
        prop_assert_eq!(shown.len(), payloads.len() + 1);
        for (shown, payload) in shown[1..].iter().zip(&payloads) {
            let text = serde_json::to_string(payload).unwrap();
            prop_assert_eq!(shown, &format!("PUB {{\"subject\":\"a\",\"payload\":{text}}} ->  q0"));
        }
    }
}
