use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, hear, hear_keeping, server, split,
};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn show(finished: &Finished) -> String {
    let Finished::Cql(timed) = finished else { return format!("{finished:?}") };
    let Request { opcode, response_opcode, body, response, .. } = &timed.call;
    let response_opcode = response_opcode.map_or(-1, i16::from);
    let quality = timed.quality | timed.call.quality();
    format!("{opcode} {body} -> {response_opcode} {response} q{quality}")
}

/// Checks with bodies of any length.
fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear_keeping::<Cql>(4096, sent, show).join("\n"));
    check_any_split::<Cql>(sent, show);
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn long_text(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn int(number: i32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn envelope(version: u8, flags: u8, stream: i16, opcode: Opcode, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[version, flags][..], &stream.to_be_bytes(), &[opcode.0], &length, &body].concat()
}

fn ask(stream: i16, opcode: Opcode, body: &[&[u8]]) -> Sent {
    client(envelope(4, 0, stream, opcode, body))
}

fn answer(stream: i16, opcode: Opcode, body: &[&[u8]]) -> Sent {
    server(envelope(0x84, 0, stream, opcode, body))
}

fn query(stream: i16, statement: &str) -> Sent {
    ask(stream, Opcode::QUERY, &[&long_text(statement), &[0, 1, 0]])
}

fn void(stream: i16) -> Sent {
    answer(stream, Opcode::RESULT, &[&int(1)])
}

fn bytes(sent: &Sent) -> Vec<u8> {
    match sent {
        Sent::Client(bytes) | Sent::Server(bytes) => bytes.clone(),
        Sent::Hole(..) => Vec::new(),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A segment, with a CRC of its payload that nobody looks at.
fn segment(payload: &[u8]) -> Vec<u8> {
    let fields = (u32::try_from(payload.len()).unwrap() | 1 << 17).to_le_bytes();
    let fields: [u8; 3] = fields[..3].try_into().unwrap();
    let crc = segment::crc24(fields).to_le_bytes();
    [&fields[..], &crc[..3], payload, &[0; 4]].concat()
}

const ID: [u8; 16] = [0xab; 16];

#[test]
fn a_session_is_set_up_and_asked() {
    let columns = [
        &text("ks")[..],
        &text("t"),
        &text("id"),
        &[0, 9],
        &text("tags"),
        &[0, 0x21, 0, 13, 0, 13],
    ];
    check(
        &[
            ask(0, Opcode::OPTIONS, &[]),
            answer(
                0,
                Opcode::SUPPORTED,
                &[&[0, 1], &text("COMPRESSION"), &[0, 2], &text("lz4"), &text("snappy")],
            ),
            ask(
                1,
                Opcode::STARTUP,
                &[&[0, 2], &text("CQL_VERSION"), &text("3.4.5"), &text("TOKEN"), &text("hush")],
            ),
            answer(1, Opcode::READY, &[]),
            ask(2, Opcode::REGISTER, &[&[0, 2], &text("STATUS_CHANGE"), &text("SCHEMA_CHANGE")]),
            answer(2, Opcode::READY, &[]),
            query(3, "SELECT * FROM ks.t"),
            answer(-1, Opcode::EVENT, &[&text("STATUS_CHANGE"), &text("UP")]),
            answer(
                3,
                Opcode::RESULT,
                &[&int(2), &int(1), &int(2), &columns.concat(), &int(3), &[0; 40]],
            ),
            query(3, "USE ks"),
            answer(3, Opcode::RESULT, &[&int(3), &text("ks")]),
            query(3, "CREATE TABLE u (id int PRIMARY KEY)"),
            answer(
                3,
                Opcode::RESULT,
                &[&int(5), &text("CREATED"), &text("TABLE"), &text("ks"), &text("u")],
            ),
            query(3, "SELEKT"),
            answer(3, Opcode::ERROR, &[&int(0x2000), &text("line 1: no \"SELEKT\"")]),
        ],
        &expect![[r#"
            5  -> 6 {"COMPRESSION":["lz4","snappy"]} q0
            1 {"CQL_VERSION":"3.4.5"} -> 2 {} q0
            11 STATUS_CHANGE, SCHEMA_CHANGE -> 2 {} q0
            7 SELECT * FROM ks.t -> 8 {"result":"rows","columns":["id","tags"],"rows":3} q0
            7 USE ks -> 8 {"result":"set_keyspace","keyspace":"ks"} q0
            7 CREATE TABLE u (id int PRIMARY KEY) -> 8 {"result":"schema_change","change":"CREATED","target":"TABLE","keyspace":"ks","name":"u"} q0
            7 SELEKT -> 0 {"error":"0x2000","message":"line 1: no \"SELEKT\""} q0"#]],
    );
}

#[test]
fn prepared_statements_are_known_by_their_ids() {
    let batch = [
        &[0, 0, 2, 0][..],
        &long_text("DELETE FROM t"),
        &[0, 0, 1],
        &text("0123456789abcdef"),
        &[0, 1],
        &int(1),
        b"v",
        &[0, 1, 0],
    ];
    check(
        &[
            ask(1, Opcode::PREPARE, &[&long_text("INSERT INTO t VALUES (?)")]),
            answer(1, Opcode::RESULT, &[&int(4), &[0, 16], &ID, &int(1), &int(1)]),
            ask(1, Opcode::EXECUTE, &[&[0, 16], &ID, &[0, 1, 1, 0, 1], &int(1), b"v"]),
            void(1),
            ask(1, Opcode::EXECUTE, &[&[0, 16], &[1; 16], &[0, 1, 0]]),
            answer(1, Opcode::ERROR, &[&int(0x2500), &text("unprepared")]),
            ask(1, Opcode::BATCH, &batch),
            void(1),
        ],
        &expect![[r#"
            9 INSERT INTO t VALUES (?) -> 8 {"result":"prepared","id":"abababababababababababababababab"} q0
            10 INSERT INTO t VALUES (?) -> 8 {"result":"void"} q0
            10 [prepared 01010101010101010101010101010101] -> 0 {"error":"0x2500","message":"unprepared"} q0
            13 DELETE FROM t;
            [prepared 30313233343536373839616263646566] -> 8 {"result":"void"} q0"#]],
    );
}

#[test]
fn responses_find_their_requests_in_any_order() {
    let sent = [
        query(5, "SELECT a"),
        query(6, "SELECT b"),
        void(6),
        query(6, "SELECT c"),
        void(5),
        void(6),
    ];
    let shown = hear::<Cql>(&sent, |finished| show(finished)[2..10].to_owned());
    assert_eq!(shown, ["SELECT b", "SELECT a", "SELECT c"]);
    check_any_split::<Cql>(&sent, show);
}

#[test]
fn secrets_are_never_kept() {
    check(
        &[
            ask(0, Opcode::STARTUP, &[&[0, 1], &text("CQL_VERSION"), &text("3.0.0")]),
            answer(0, Opcode::AUTHENTICATE, &[&text("PasswordAuthenticator")]),
            ask(1, Opcode::AUTH_RESPONSE, &[&int(12), b"\0me\0hunter2!"]),
            answer(1, Opcode::AUTH_SUCCESS, &[&int(7), b"hunter2"]),
            query(2, "CREATE ROLE r WITH LOGIN = true AND password = 'hunter2'"),
            void(2),
            query(2, "CREATE USER password_reader WITH PASSWORD 'hunter2'"),
            void(2),
            query(2, "SELECT password FROM t"),
            void(2),
        ],
        &expect![[r#"
            1 {"CQL_VERSION":"3.0.0"} -> 3 {"authenticator":"PasswordAuthenticator"} q0
            15 <redacted> -> 16 <redacted> q0
            7 CREATE ROLE r WITH LOGIN = true AND password = <redacted> -> 8 {"result":"void"} q0
            7 CREATE USER password_reader WITH PASSWORD = <redacted> -> 8 {"result":"void"} q0
            7 SELECT password FROM t -> 8 {"result":"void"} q0"#]],
    );
}

#[test]
fn compressed_bodies_are_paired_and_not_read() {
    check(
        &[
            client(envelope(4, 1, 7, Opcode::QUERY, &[b"\0\0\0\x20rubbish"])),
            server(envelope(0x84, 1, 7, Opcode::RESULT, &[b"\0\0\0\x04rubbish"])),
        ],
        &expect!["7 [compressed] -> 8 [compressed] q0"],
    );
}

/// A block of LZ4 behind its length, of literals only.
fn lz4(body: &[u8]) -> Vec<u8> {
    assert!((15..15 + 255).contains(&body.len()));
    let size = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&size[..], &[0xf0, u8::try_from(body.len() - 15).unwrap()], body].concat()
}

/// A block of Snappy, of one literal only.
fn snappy(body: &[u8]) -> Vec<u8> {
    assert!((1..=60).contains(&body.len()));
    let size = u8::try_from(body.len()).unwrap();
    [&[size, (size - 1) << 2], body].concat()
}

#[test]
fn compressed_bodies_are_read_as_the_client_asked_for_them() {
    let startup = |how: &str| ask(0, Opcode::STARTUP, &[&[0, 1], &text("COMPRESSION"), &text(how)]);
    let statement = [&long_text("SELECT name FROM users")[..], &[0, 1, 0]].concat();
    let rows = [&int(2)[..], &int(5), &int(1), &int(3)].concat();
    let mut sent = Vec::new();
    for (how, pack) in [("lz4", lz4 as fn(&[u8]) -> Vec<u8>), ("snappy", snappy)] {
        sent.extend([
            startup(how),
            answer(0, Opcode::READY, &[]),
            client(envelope(4, 1, 7, Opcode::QUERY, &[&pack(&statement)])),
            server(envelope(0x84, 1, 7, Opcode::RESULT, &[&pack(&rows)])),
        ]);
    }
    let expected = &expect![[r#"
        1 {"COMPRESSION":"lz4"} -> 2 {} q0
        7 SELECT name FROM users -> 8 {"result":"rows","rows":3} q0
        1 {"COMPRESSION":"snappy"} -> 2 {} q0
        7 SELECT name FROM users -> 8 {"result":"rows","rows":3} q0"#]];
    check(&sent, expected);
    // A connection that is joined midway says nothing of how: what LZ4 has before its blocks does.
    check(
        &sent[2..4],
        &expect![[r#"7 SELECT name FROM users -> 8 {"result":"rows","rows":3} q0"#]],
    );
}

#[test]
fn a_statement_that_is_cut_within_a_character_is_cut_before_it() {
    let statement = "SELECT '\u{e9}\u{20ac}\u{1f600}'";
    let sent = [query(1, statement), void(1)];
    for kept in 0..50 {
        let shown = hear_keeping::<Cql>(kept, &sent, |finished| {
            let Finished::Cql(timed) = finished else { return format!("{finished:?}") };
            timed.call.body.clone()
        });
        assert!(shown.iter().all(|body| statement.starts_with(body)), "{kept} bytes: {shown:?}");
    }
}

#[test]
fn a_compressed_body_that_is_cut_is_read_as_far_as_it_is_there() {
    let rows = [&int(2)[..], &int(5), &int(1), &int(3), &[0; 100]].concat();
    let response = envelope(0x84, 1, 7, Opcode::RESULT, &[&lz4(&rows)]);
    let sent = [
        ask(0, Opcode::STARTUP, &[&[0, 1], &text("COMPRESSION"), &text("lz4")]),
        answer(0, Opcode::READY, &[]),
        query(7, "SELECT *"),
        server(&response[..60]),
        Sent::Hole(Side::Server, response.len() as u64 - 60),
    ];
    let shown = hear_keeping::<Cql>(4096, &sent, show);
    assert_eq!(shown[1], r#"7 SELECT * -> 8 {"result":"rows","rows":3} q1"#);
}

#[test]
fn what_comes_before_a_body_is_passed_over() {
    let payload = [&[0, 1][..], &text("proxy"), &int(2), b"me"].concat();
    let warned = [&[0; 16][..], &[0, 1], &text("careful"), &payload, &int(1)].concat();
    check(
        &[
            client(envelope(
                4,
                6,
                7,
                Opcode::QUERY,
                &[&payload, &long_text("SELECT 1"), &[0, 1, 0]],
            )),
            server(envelope(0x84, 0x0e, 7, Opcode::RESULT, &[&warned])),
        ],
        &expect![[r#"7 SELECT 1 -> 8 {"result":"void"} q0"#]],
    );
}

/// A connection of version 5 up to where segments begin.
fn set_up(options: &[&str]) -> Vec<Sent> {
    let count = u16::try_from(options.len() / 2).unwrap().to_be_bytes();
    let options: Vec<_> = options.iter().flat_map(|option| text(option)).collect();
    vec![
        client(envelope(5, 0, 0, Opcode::STARTUP, &[&count, &options])),
        server(envelope(0x85, 0, 0, Opcode::READY, &[])),
    ]
}

#[test]
fn version_5_puts_envelopes_into_segments() {
    let ask = |stream, text: &str| {
        envelope(5, 0, stream, Opcode::QUERY, &[&long_text(text), &[0, 1], &int(0)])
    };
    let void = |stream| envelope(0x85, 0, stream, Opcode::RESULT, &[&int(1)]);
    let long = ask(3, &format!("SELECT {}", "x".repeat(2000)));
    let mut sent = set_up(&["CQL_VERSION", "3.0.0"]);
    sent.extend([
        client(segment(&[ask(1, "SELECT a"), ask(2, "SELECT b")].concat())),
        server(segment(&[void(2), void(1)].concat())),
        // An envelope in several segments.
        client([segment(&long[..5]), segment(&long[5..1500]), segment(&long[1500..])].concat()),
        server(segment(&void(3))),
    ]);
    let shown = hear::<Cql>(&sent, |finished| show(finished)[..10].to_owned());
    assert_eq!(shown, [r#"1 {"CQL_VE"#, "7 SELECT b", "7 SELECT a", "7 SELECT x"]);
    check_any_split::<Cql>(&sent, show);
    sent.extend([
        client(&segment(&long)[..100]),
        Sent::Hole(Side::Client, segment(&long).len() as u64 - 100),
        server(segment(&void(3))),
        Sent::Hole(Side::Server, 7),
        client(segment(&ask(1, "SELECT c"))),
        server(segment(&void(1))),
        client(segment(&ask(1, "SELECT d"))),
        server(segment(&void(1))),
    ]);
    let shown = hear::<Cql>(&sent, |finished| show(finished)[..10].to_owned());
    let last = ["7 SELECT x", "7 SELECT d", "lost 1..=1 ring_full"];
    assert_eq!(shown[4..], last, "the rest of a statement is missing, then a whole response");
}

#[test]
fn a_client_that_begins_in_segments_is_known_by_what_is_inside() {
    let options = envelope(5, 0, 1, Opcode::OPTIONS, &[]);
    check(
        &[
            client(segment(&options)),
            server(segment(&envelope(0x85, 0, 1, Opcode::SUPPORTED, &[&[0, 0]]))),
        ],
        &expect![[r"5  -> 6 {} q0"]],
    );
}

#[test]
fn a_response_to_a_request_that_has_more_to_come_is_none() {
    let Sent::Client(mut begun) = query(1, "SELECT * FROM ks.t") else { unreachable!() };
    let rest = begun.split_off(20);
    let early = [client(begun), void(1), client(rest)];
    let after = [query(2, "SELECT 1"), void(2), query(3, "SELECT 2"), void(3)];
    let heard = hear::<Cql>(&[&early[..], &after[..]].concat(), show);
    let [row, lost] = &heard[..] else { panic!("{heard:?}") };
    assert!(row.starts_with("7 "), "{row}");
    assert!(lost.starts_with("lost 1..="), "{lost}");
}

#[test]
fn what_the_python_driver_says_in_version_5() {
    check(
        &[
            client(hex("050000000500000000")),
            server(envelope(0x85, 0, 0, Opcode::SUPPORTED, &[&[0, 0]])),
            client(hex("0500000101000000160001000b43514c5f56455253494f4e0005332e342e35")),
            server(envelope(0x85, 0, 1, Opcode::READY, &[])),
            client(hex(
                "3b00026b01eb0500000207000000320000002853454c4543542072656c656173655f76657273696f6e\
                 2046524f4d2073797374656d2e6c6f63616c0001000000001f3936c9",
            )),
            server(segment(&envelope(0x85, 0, 2, Opcode::RESULT, &[&int(1)]))),
        ],
        &expect![[r#"
            5  -> 6 {} q0
            1 {"CQL_VERSION":"3.4.5"} -> 2 {} q0
            7 SELECT release_version FROM system.local -> 8 {"result":"void"} q0"#]],
    );
}

#[test]
fn compressed_segments_are_unpacked() {
    // A response whose payload would have got longer; its head is that of the driver's encoder too.
    let void = |stream| {
        let payload = envelope(0x85, 0, stream, Opcode::RESULT, &[&int(1)]);
        let fields = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let fields = [fields[0], fields[1], fields[2], fields[3], 4];
        let crc = segment::crc24(fields).to_le_bytes();
        server([&fields[..], &crc[..3], &payload, &[0; 4]].concat())
    };
    check(
        &[
            client(hex(
                "0500000101000000280002000b434f4d5052455353494f4e00036c7a34000b43514c5f5645525349\
                 4f4e0005332e342e35",
            )),
            server(envelope(0x85, 0, 1, Opcode::READY, &[])),
            client(hex(
                "3600ce000457ac62ff1a05000002070000005e0000005453454c45435420612046524f4d20742057\
                 484552452062203d2027620100247027000100000000e7237f0a",
            )),
            client(hex("180000000477677805000003070000000f00000005555345206b000100000000a3ab408a")),
            void(3),
            void(2),
        ],
        &expect![[r#"
            1 {"COMPRESSION":"lz4","CQL_VERSION":"3.4.5"} -> 2 {} q0
            7 USE k -> 8 {"result":"void"} q0
            7 SELECT a FROM t WHERE b = 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb' -> 8 {"result":"void"} q0"#]],
    );
}

#[test]
fn missing_bytes_of_a_body_cost_only_what_they_say() {
    let (asked, answered) = (bytes(&query(1, &"SELECT ".repeat(9))), bytes(&void(1)));
    let next = [query(2, "SELECT 2"), void(2)];
    for at in envelope::HEAD_BYTES..asked.len() {
        for end in [at + 1, asked.len()] {
            let mut sent = vec![
                client(&asked[..at]),
                Sent::Hole(Side::Client, (end - at) as u64),
                client(&asked[end..]),
                server(&answered),
            ];
            sent.extend(next.clone());
            let shown = hear::<Cql>(&sent, show);
            assert_eq!(shown.len(), 2, "{at}..{end} {shown:?}");
            assert!(shown[0].ends_with("q1") && shown[1].ends_with("q0"), "{shown:?}");
        }
    }
    for at in envelope::HEAD_BYTES..answered.len() {
        for end in [at + 1, answered.len()] {
            let mut sent = vec![
                client(&asked),
                server(&answered[..at]),
                Sent::Hole(Side::Server, (end - at) as u64),
                server(&answered[end..]),
            ];
            sent.extend(next.clone());
            let shown = hear::<Cql>(&sent, show);
            assert_eq!(shown.len(), 2, "{at}..{end} {shown:?}");
            assert!(shown[0].ends_with("q1") && shown[1].ends_with("q0"), "{shown:?}");
        }
    }
}

#[test]
fn no_pair_spans_a_gap() {
    let sent = [
        query(1, "SELECT 1"),
        query(2, "SELECT 2"),
        Sent::Hole(Side::Server, 5),
        query(3, "SELECT 3"),
        void(2),
        void(3),
        query(4, "SELECT 4"),
        void(4),
    ];
    assert_eq!(
        hear::<Cql>(&sent, show),
        [r#"7 SELECT 4 -> 8 {"result":"void"} q0"#, "lost 3..=3 ring_full"]
    );
}

#[test]
fn what_is_no_cql_ends_the_pairing() {
    for bad in [
        client([4, 0, 0, 1, 0x63, 0, 0, 0, 0]),
        client([4, 0, 0, 1, 7, 0x7f, 0, 0, 0]),
        client(bytes(&void(1))),
        server(bytes(&query(1, "SELECT 1"))),
        server([0x84, 0xff, 0, 1, 8, 0, 0, 0, 0]),
    ] {
        let shown = hear::<Cql>(&[query(1, "SELECT 1"), bad, void(1)], show);
        assert!(shown.len() == 1 && shown[0].ends_with("parse_error"), "{shown:?}");
    }
}

#[test]
fn only_requests_are_taken_for_cql() {
    let startup = ask(0, Opcode::STARTUP, &[&[0, 1], &text("CQL_VERSION"), &text("3.0.0")]);
    for yes in [
        bytes(&ask(0, Opcode::OPTIONS, &[])),
        bytes(&startup),
        bytes(&query(1, "SELECT 1")),
        bytes(&ask(1, Opcode::EXECUTE, &[&[0, 16], &ID, &[0, 1, 0]])),
        segment(&envelope(5, 0, 1, Opcode::OPTIONS, &[])),
    ] {
        assert_eq!(probe_request(&yes), Probe::Yes, "{yes:x?}");
    }
    for cut in 0..20 {
        assert_eq!(probe_request(&bytes(&startup)[..cut]), Probe::Maybe, "cut at {cut}");
    }
    for no in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"\x03\0\0\0\x03abcdef",
        b"\x05\0\0\0\x09abcdef",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        &bytes(&void(1)),
    ] {
        assert_eq!(probe_request(no), Probe::No, "{no:x?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((0_u8..3, 3_u8..6, 0_u8..32, 0_u8..17, any::<Vec<u8>>()), 0..8),
    ) {
        let parts = parts.into_iter().flat_map(|(kind, version, flags, opcode, bytes)| match kind {
            0 => vec![(true, bytes)],
            1 => vec![(true, envelope(version, flags, 1, Opcode(opcode), &[&bytes]))],
            _ => vec![
                (true, envelope(version, 0, 1, Opcode::QUERY, &[])),
                (false, envelope(version | 0x80, flags, 1, Opcode(opcode), &[&int(2), &bytes])),
            ],
        });
        check_any_bytes::<Cql>(parts.collect());
    }

    #[test]
    fn random_bytes_are_no_request(bytes in proptest::collection::vec(any::<u8>(), 9..200)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
    }

    #[test]
    fn every_request_is_paired_with_its_own_response(count in 1_i16..40, cut in 1_usize..50) {
        let mut sent = Vec::new();
        for stream in 0..count {
            sent.push(query(stream, &format!("SELECT {stream}")));
        }
        for stream in (0..count).rev() {
            sent.push(answer(stream, Opcode::RESULT, &[&int(3), &text(&stream.to_string())]));
        }
        let shown = hear::<Cql>(&split(&sent, cut), show);
        let expected: Vec<_> = (0..count)
            .rev()
            .map(|at| format!("7 SELECT {at} -> 8 {{\"result\":\"set_keyspace\",\"keyspace\":\"{at}\"}} q0"))
            .collect();
        prop_assert_eq!(shown, expected);
    }
}
