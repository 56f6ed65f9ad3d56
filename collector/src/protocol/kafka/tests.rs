use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, hear, hear_keeping, server, split,
};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// What librdkafka 2.16 and its own mock broker said, by who said it.
const RECORDED: [(bool, &str); 6] = [
    (
        true,
        "0000003f0012000300000001000674656c6c65720017636f6e666c75656e742d6b61666b612d707974686f6e\
         16322e31362e312d72646b61666b612d322e31362e3000",
    ),
    (false, "000000110000000100230100120000000200000000"),
    (true, "000000100012000000000002000674656c6c6572"),
    (
        false,
        "0000009a0000000200000000001800000000000a00010000001000020000000700030000000d000800000009\
         000900000006000a00000003000b00000006000c00000005000d00000004000e000000040012000000020016\
         00000004001700020002001800000001001900000001001a00000001001c0000000300440001000100470000\
         0000004800000000004c00010001004e00010001004f00010001",
    ),
    (
        true,
        "000000300003000d00000003000674656c6c6572000200000000000000000000000000000000\
         0a6772656574696e677300010000",
    ),
    (
        false,
        "000000ca00000003000000000002000000010a3132372e302e302e310000901b0000186d6f636b436c757374\
         6572313535626262663538363238000000000200000a6772656574696e67736720bf3f32b14e29b1c0713d85\
         e0e9780005000000000000000000010000000002000000010200000001010000000000000100000001000000\
         0002000000010200000001010000000000000200000001000000000200000001020000000101000000000000\
         030000000100000000020000000102000000010100800000000000000000",
    ),
];

fn show(finished: &Finished) -> String {
    let Finished::Kafka(timed) = finished else { return format!("{finished:?}") };
    let Request { api_key, version, client_id, body, response, failed, .. } = &timed.call;
    let quality = timed.quality | timed.call.quality();
    let failed = if *failed { " failed" } else { "" };
    format!("{api_key} v{version} {client_id} {body} -> {response} q{quality}{failed}")
}

/// Checks with bodies of any length.
fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear_keeping::<Kafka>(4096, sent, show).join("\n"));
    check_any_split::<Kafka>(sent, show);
}

/// A text with its length, as before the flexible versions.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// A text with its length, as in the flexible versions.
fn compact(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len() + 1).unwrap()][..], text.as_bytes()].concat()
}

fn int32(number: i32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn message(parts: &[&[u8]]) -> Vec<u8> {
    let message = parts.concat();
    [int32(i32::try_from(message.len()).unwrap()), message].concat()
}

fn request(api_key: i16, version: i16, id: i32, body: &[&[u8]]) -> Sent {
    let head = [&api_key.to_be_bytes()[..], &version.to_be_bytes(), &int32(id), &text("me")];
    client(message(&[&head.concat(), &body.concat()]))
}

fn response(id: i32, body: &[&[u8]]) -> Sent {
    server(message(&[&int32(id), &body.concat()]))
}

/// Version 3, with one partition of one topic.
fn produce(id: i32, acks: i16, records: usize) -> Sent {
    let size = int32(i32::try_from(records).unwrap());
    let topic = [int32(1), text("t"), int32(1), int32(0), size, vec![b'r'; records]].concat();
    request(0, 3, id, &[&[0xff, 0xff], &acks.to_be_bytes(), &int32(1500), &topic])
}

fn produced(id: i32, error: i16) -> Sent {
    let partition = [&int32(0)[..], &error.to_be_bytes(), &[0; 7], &[9], &[0xff; 8]].concat();
    response(id, &[&int32(1), &text("t"), &int32(1), &partition, &int32(0)])
}

fn heartbeat(id: i32) -> Sent {
    request(12, 0, id, &[&text("g"), &int32(3), &text("m")])
}

fn heard(id: i32) -> Sent {
    response(id, &[&[0, 0]])
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn produce_says_what_went_where_and_how_large_it_was() {
    check(
        &[produce(1, 1, 3), produced(1, 0), produce(2, -1, 4), produced(2, 6)],
        &expect![[r#"
            0 v3 me {"transactional_id":null,"acks":1,"timeout_ms":1500,"topics":[{"name":"t","partitions":[{"index":0,"message_set":{"size":3}}]}]} -> {"topics":[{"name":"t","partitions":[{"index":0,"error_code":0,"base_offset":9,"log_append_time_ms":-1}]}],"throttle_time_ms":0} q0
            0 v3 me {"transactional_id":null,"acks":-1,"timeout_ms":1500,"topics":[{"name":"t","partitions":[{"index":0,"message_set":{"size":4}}]}]} -> {"topics":[{"name":"t","partitions":[{"index":0,"error_code":6,"base_offset":9,"log_append_time_ms":-1}]}],"throttle_time_ms":0} q0 failed"#]],
    );
}

#[test]
fn produce_without_acknowledgement_is_complete_at_once() {
    check(
        // The mock broker of librdkafka answers even so.
        &[produce(1, 0, 3), produce(2, 0, 3), produced(2, 0), heartbeat(3), heard(3)],
        &expect![[r#"
            0 v3 me {"transactional_id":null,"acks":0,"timeout_ms":1500,"topics":[{"name":"t","partitions":[{"index":0,"message_set":{"size":3}}]}]} ->  q0
            0 v3 me {"transactional_id":null,"acks":0,"timeout_ms":1500,"topics":[{"name":"t","partitions":[{"index":0,"message_set":{"size":3}}]}]} ->  q0
            12 v0 me {"group_id":"g","generation_id":3,"member_id":"m"} -> {"error_code":0} q0"#]],
    );
}

#[test]
fn flexible_versions_have_compact_lengths_and_tagged_fields() {
    let produce = [
        &[1, 2, 1, 0xaa][..], // a tagged field in the head
        &[0],                 // no transaction
        &[0, 1],
        &int32(1500),
        &[2],
        &compact("topic"),
        &[2],
        &int32(7),
        &[4],
        b"rrr",
        &[0, 0, 0],
    ];
    let produced = [
        &[0, 2][..],
        &compact("topic"),
        &[2],
        &int32(7),
        &[0, 0],
        &[0; 24],
        &[1, 0, 0, 0], // no record errors, no message, no tagged fields
        &int32(0),
        &[1, 0, 2, 9, 9],
    ];
    let id = [0x11; 16];
    let fetch = [
        &[0][..],
        &int32(500),
        &int32(1),
        &int32(1 << 20),
        &[0],
        &int32(0),
        &int32(0),
        &[2],
        &id,
        &[2],
        &int32(0),
        &int32(-1),
        &[0; 8],
        &int32(-1),
        &[0xff; 8],
        &int32(1000),
        &[0, 0, 1],
        &compact("rack"),
        &[0],
    ];
    let fetched = [
        &[0][..],
        &int32(0),
        &[0, 0],
        &int32(77),
        &[2],
        &id,
        &[2],
        &int32(0),
        &[0, 0],
        &[0; 24],
        &[1],
        &int32(-1),
        &[6],
        b"12345",
        &[0, 0, 0],
    ];
    check(
        &[
            request(0, 9, 1, &produce),
            response(1, &produced),
            request(1, 15, 2, &fetch),
            response(2, &fetched),
        ],
        &expect![[r#"
            0 v9 me {"transactional_id":null,"acks":1,"timeout_ms":1500,"topics":[{"name":"topic","partitions":[{"index":7,"message_set":{"size":3}}]}]} -> {"topics":[{"name":"topic","partitions":[{"index":7,"error_code":0,"base_offset":0,"log_append_time_ms":0,"log_start_offset":0,"record_errors":[],"error_message":null}]}],"throttle_time_ms":0} q0
            1 v15 me {"max_wait_ms":500,"min_bytes":1,"max_bytes":1048576,"isolation_level":0,"session_id":0,"session_epoch":0,"topics":[{"topic_id":"11111111-1111-1111-1111-111111111111","partitions":[{"index":0,"current_leader_epoch":-1,"fetch_offset":0,"last_fetched_epoch":-1,"log_start_offset":-1,"partition_max_bytes":1000}]}],"forgotten_topics":[],"rack_id":"rack"} -> {"throttle_time_ms":0,"error_code":0,"session_id":77,"topics":[{"topic_id":"11111111-1111-1111-1111-111111111111","partitions":[{"index":0,"error_code":0,"high_watermark":0,"last_stable_offset":0,"log_start_offset":0,"aborted_transactions":[],"preferred_read_replica":-1,"message_set":{"size":5}}]}]} q0"#]],
    );
}

#[test]
fn responses_find_their_requests_in_any_order() {
    check(
        &[heartbeat(1), produce(2, 1, 3), heartbeat(3), heard(3), heard(1), produced(2, 0)],
        &expect![[r#"
            12 v0 me {"group_id":"g","generation_id":3,"member_id":"m"} -> {"error_code":0} q0
            12 v0 me {"group_id":"g","generation_id":3,"member_id":"m"} -> {"error_code":0} q0
            0 v3 me {"transactional_id":null,"acks":1,"timeout_ms":1500,"topics":[{"name":"t","partitions":[{"index":0,"message_set":{"size":3}}]}]} -> {"topics":[{"name":"t","partitions":[{"index":0,"error_code":0,"base_offset":9,"log_append_time_ms":-1}]}],"throttle_time_ms":0} q0"#]],
    );
}

#[test]
fn apis_and_versions_that_are_not_known_are_paired_all_the_same() {
    check(
        &[
            request(99, 60, 1, &[b"anything"]),
            response(1, &[b"whatever"]),
            request(17, 1, 2, &[&text("PLAIN")]),
            response(2, &[&[0, 0], &int32(1), &text("PLAIN")]),
            request(36, 0, 3, &[&int32(10), b"\0me\0secret"]),
            response(3, &[&[0; 8]]),
        ],
        &expect![[r"
            99 v60 me {} -> {} q0
            17 v1 me {} -> {} q0
            36 v0 me {} -> {} q0"]],
    );
}

#[test]
fn a_broker_that_is_too_old_answers_as_in_version_0() {
    check(
        &[
            request(18, 4, 1, &[&[0], &compact("lib"), &compact("1.0"), &[0]]),
            response(1, &[&[0, 35], &int32(1), &[0, 18, 0, 0, 0, 3]]),
        ],
        &expect![[
            r#"18 v4 me {"client_software_name":"lib","client_software_version":"1.0"} -> {"error_code":35,"api_keys":[{"api_key":18,"min_version":0,"max_version":3}]} q0 failed"#
        ]],
    );
}

#[test]
fn what_librdkafka_says_first_and_a_broker_answers() {
    let sent = RECORDED.map(
        |(from_client, bytes)| {
            if from_client { client(hex(bytes)) } else { server(hex(bytes)) }
        },
    );
    check(
        &sent,
        &expect![[r#"
            18 v3 teller {"client_software_name":"confluent-kafka-python","client_software_version":"2.16.1-rdkafka-2.16.0"} -> {"error_code":35,"api_keys":[{"api_key":0,"min_version":512,"max_version":0},{}]} q0 failed
            18 v0 teller {} -> {"error_code":0,"api_keys":[{"api_key":0,"min_version":0,"max_version":10},{"api_key":1,"min_version":0,"max_version":16},{"api_key":2,"min_version":0,"max_version":7},{"api_key":3,"min_version":0,"max_version":13},{"api_key":8,"min_version":0,"max_version":9},{"api_key":9,"min_version":0,"max_version":6},{"api_key":10,"min_version":0,"max_version":3},{"api_key":11,"min_version":0,"max_version":6},{"api_key":12,"min_version":0,"max_version":5},{"api_key":13,"min_version":0,"max_version":4},{"api_key":14,"min_version":0,"max_version":4},{"api_key":18,"min_version":0,"max_version":2},{"api_key":22,"min_version":0,"max_version":4},{"api_key":23,"min_version":2,"max_version":2},{"api_key":24,"min_version":0,"max_version":1},{"api_key":25,"min_version":0,"max_version":1},{"api_key":26,"min_version":0,"max_version":1},{"api_key":28,"min_version":0,"max_version":3},{"api_key":68,"min_version":1,"max_version":1},{"api_key":71,"min_version":0,"max_version":0},{"api_key":72,"min_version":0,"max_version":0},{"api_key":76,"min_version":1,"max_version":1},{"api_key":78,"min_version":1,"max_version":1},{"api_key":79,"min_version":1,"max_version":1}]} q0
            3 v13 teller {"topics":[{"topic_id":"00000000-0000-0000-0000-000000000000","name":"greetings"}],"allow_auto_topic_creation":true,"include_topic_authorized_operations":false} -> {"throttle_time_ms":0,"brokers":[{"node_id":1,"host":"127.0.0.1","port":36891,"rack":null}],"cluster_id":"mockCluster155bbbf58628","controller_id":0,"topics":[{"error_code":0,"name":"greetings","topic_id":"6720bf3f-32b1-4e29-b1c0-713d85e0e978","is_internal":false,"partitions":[{"error_code":0,"index":0,"leader_id":1,"leader_epoch":0,"replica_nodes":[1],"isr_nodes":[1],"offline_replicas":[]},{"error_code":0,"index":1,"leader_id":1,"leader_epoch":0,"replica_nodes":[1],"isr_nodes":[1],"offline_replicas":[]},{"error_code":0,"index":2,"leader_id":1,"leader_epoch":0,"replica_nodes":[1],"isr_nodes":[1],"offline_replicas":[]},{"error_code":0,"index":3,"leader_id":1,"leader_epoch":0,"replica_nodes":[1],"isr_nodes":[1],"offline_replicas":[]}],"authorized_operations":-2147483648}],"error_code":0} q0"#]],
    );
}

#[test]
fn missing_records_cost_nothing() {
    let Sent::Client(bytes) = produce(2, 1, 100_000) else { unreachable!() };
    let sent = [
        client(&bytes[..5000]),
        Sent::Hole(Side::Client, bytes.len() as u64 - 5100),
        client(&bytes[bytes.len() - 100..]),
        produced(2, 0),
        heartbeat(3),
        heard(3),
    ];
    let shown = hear_keeping::<Kafka>(4096, &sent, show);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].contains(r#""message_set":{"size":100000}"#), "{shown:?}");
    assert!(shown[0].ends_with("q0"), "{shown:?}");
}

#[test]
fn missing_fields_cost_only_what_they_say() {
    let [request, response] = [produce(2, 1, 10), produced(2, 0)];
    let (Sent::Client(request), Sent::Server(response)) = (request, response) else {
        unreachable!()
    };
    for at in 16..request.len() {
        for (cut, what) in [(at, "the end"), (at + 1, "one byte")] {
            let cut = if what == "the end" { request.len() } else { cut };
            let sent = [
                client(&request[..at]),
                Sent::Hole(Side::Client, (cut - at) as u64),
                client(&request[cut..]),
                server(&response),
                heartbeat(3),
                heard(3),
            ];
            let shown = hear::<Kafka>(&sent, |finished| show(finished)[..5].to_owned());
            assert_eq!(shown, ["0 v3 ", "12 v0"], "{what} is missing from {at}");
        }
    }
    for at in 8..response.len() {
        let sent = [
            client(&request),
            server(&response[..at]),
            Sent::Hole(Side::Server, (response.len() - at) as u64),
            heartbeat(3),
            heard(3),
        ];
        let shown = hear::<Kafka>(&sent, show);
        assert!(shown.len() == 2 && shown[0].ends_with("q1"), "{shown:?}");
    }
}

#[test]
fn no_pair_spans_a_gap() {
    let sent = [
        heartbeat(1),
        heartbeat(2),
        Sent::Hole(Side::Server, 10),
        heartbeat(3),
        // The answer to a request from before the gap.
        heard(2),
        heard(3),
        heartbeat(4),
        heard(4),
    ];
    assert_eq!(
        hear::<Kafka>(&sent, show),
        [
            r#"12 v0 me {"group_id":"g","generation_id":3,"member_id":"m"} -> {"error_code":0} q0"#,
            "lost 3..=3 ring_full",
        ]
    );
}

#[test]
fn a_server_that_reads_lengths_by_themselves_is_in_step_again_after_a_gap() {
    let Sent::Client(bytes) = heartbeat(2) else { unreachable!() };
    let sent = [
        heartbeat(1),
        Sent::Hole(Side::Server, 10),
        client(&bytes[..4]),
        client(&bytes[4..]),
        heard(2),
        heartbeat(3),
        heard(3),
    ];
    assert_eq!(hear::<Kafka>(&sent, |_| "row".to_owned()), ["row", "lost 2..=2 ring_full"]);
}

#[test]
fn what_is_no_kafka_ends_the_pairing() {
    let after = |sent: Sent| hear::<Kafka>(&[heartbeat(1), heard(1), sent], |_| "row".to_owned());
    assert_eq!(after(client([0xff; 20])), ["row", "lost 0..=1 parse_error"]);
    assert_eq!(after(client(b"\x7f\xff\xff\xff\0\0\0\0")), ["row"]);
    assert_eq!(after(response(7, &[b"??"])), ["row"]);
    let wild = [heartbeat(1), server([0x7f; 20])];
    assert_eq!(hear::<Kafka>(&wild, show), ["lost 1..=1 parse_error"]);
}

#[test]
fn only_requests_are_taken_for_kafka() {
    let bytes = |sent: Sent| match sent {
        Sent::Client(bytes) | Sent::Server(bytes) => bytes,
        Sent::Hole(..) => Vec::new(),
    };
    let unknown = |id| bytes(request(60, 1, id, &[b"???"]));
    for yes in [
        bytes(heartbeat(1)),
        bytes(produce(1, 1, 100_000)),
        hex(RECORDED[0].1),
        hex("0000000a0012000000000001ffff"),
        [unknown(1), unknown(2)].concat(),
    ] {
        assert_eq!(probe_request(&yes), Probe::Yes, "{yes:x?}");
        for cut in 0..yes.len().min(60) {
            assert_ne!(probe_request(&yes[..cut]), Probe::No, "{yes:x?} cut at {cut}");
        }
    }
    assert_eq!(probe_request(&unknown(1)), Probe::Maybe);
    for no in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x52\0\x03\0\0user\0postgres\0database\0postgres\0application_name\0psql\0",
        b"\x04\0\0\0\x05\0\0\0\0",
        // ZooKeeper: the start of a session, and a request.
        b"\0\0\0\x2d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x75\x30\0\0\0\0\0\0\0\0\0\0\0\x10",
        b"\0\0\0\x0e\0\0\0\x01\0\0\0\x04\0\0\0\x01/\0",
        &[unknown(1), unknown(7)].concat(),
        &bytes(heard(1)),
    ] {
        assert_eq!(probe_request(no), Probe::No, "{no:x?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), 0_i16..20, 0_i16..16, any::<Vec<u8>>()), 0..8),
    ) {
        let mut sent = Vec::new();
        for (id, (whole, api_key, version, bytes)) in (0..).zip(parts) {
            if whole {
                sent.push(request(api_key, version, id, &[&bytes]));
                sent.push(response(id, &[&bytes]));
            } else {
                sent.push(client(bytes));
            }
        }
        let parts = sent.into_iter().map(|sent| match sent {
            Sent::Client(bytes) => (true, bytes),
            Sent::Server(bytes) => (false, bytes),
            Sent::Hole(..) => (false, Vec::new()),
        });
        check_any_bytes::<Kafka>(parts.collect());
    }

    #[test]
    fn random_bytes_are_no_request(bytes in proptest::collection::vec(any::<u8>(), 14..200)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
    }

    #[test]
    fn every_request_is_paired_with_its_own_response(count in 1_i32..40, cut in 1_usize..50) {
        let mut sent = Vec::new();
        for id in (0..count).step_by(2) {
            sent.extend([produce(id, 1, 5), produce(id + 1, 1, 6)]);
            sent.extend([produced(id + 1, 6), produced(id, 5)]);
        }
        let shown = hear_keeping::<Kafka>(4096, &split(&sent, cut), show);
        for (at, shown) in shown.iter().enumerate() {
            let expected = if at % 2 == 0 { [r#""size":6"#, r#""error_code":6"#] } else { [r#""size":5"#, r#""error_code":5"#] };
            prop_assert!(expected.iter().all(|part| shown.contains(part)), "{}", shown);
        }
    }
}

#[test]
fn a_wrong_key_is_known_before_what_follows_it() {
    let head = [0, 0, 0, 0x16, 0x08, 0x32, 0, 0];
    for cut in 5..=head.len() {
        assert_eq!(Head::read(&head[..cut]).err(), Some(Stop::Bad), "cut at {cut}");
    }
}
