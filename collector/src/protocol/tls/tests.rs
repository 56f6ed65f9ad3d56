use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, flights, hear, server, split,
};
use super::*;
use crate::event::Flow;
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// What OpenSSL's client and server said to each other; of the server's flights the beginning.
pub(crate) fn conversation(name: &str) -> Vec<(Side, Vec<u8>)> {
    let text = match name {
        "tls10" => include_str!("tests/tls10.hex"),
        "tls12" => include_str!("tests/tls12.hex"),
        "tls12_resumed" => include_str!("tests/tls12_resumed.hex"),
        "tls13" => include_str!("tests/tls13.hex"),
        "tls13_resumed" => include_str!("tests/tls13_resumed.hex"),
        "tls13_retry" => include_str!("tests/tls13_retry.hex"),
        "refused" => include_str!("tests/refused.hex"),
        _ => unreachable!("{name}"),
    };
    flights(text)
}

fn sent(name: &str) -> Vec<Sent> {
    conversation(name).into_iter().map(Sent::from).collect()
}

fn show(finished: &Finished) -> String {
    let Finished::Tls(timed) = finished else { return format!("{finished:?}") };
    let Handshake { server_name, version, cipher, alpn, outcome, offer, answer, .. } = &timed.call;
    let (asked, answered) = (timed.call.request_size, timed.call.response_size);
    format!(
        "{outcome:?} {server_name} {version} {cipher} {alpn} {asked} {answered} q{}\n{offer}\n{answer}",
        timed.quality
    )
}

/// As [`show`], without the lists.
fn brief(finished: &Finished) -> String {
    let lines = show(finished);
    let mut lines = lines.lines();
    format!("{} {}", lines.next().unwrap(), lines.nth(1).unwrap())
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Tls>(sent, brief).join("\n"));
    check_any_split::<Tls>(sent, show);
}

/// A message in records of at most `record_bytes` bytes.
fn records(kind: u8, body: &[u8], record_bytes: usize) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[kind], &length[1..], body].concat();
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[content::HANDSHAKE, 3, 1], &length[..], part].concat()
    };
    message.chunks(record_bytes).flat_map(record).collect()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vector16(content)].concat()
}

/// The body of a hello.
fn hello_body(suites: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
    let suites: Vec<_> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    [
        &[3, 3][..],
        &[7; 32],
        &vector8(&[9; 32]),
        &vector16(&suites),
        &vector8(&[0]),
        &vector16(&extensions.concat()),
    ]
    .concat()
}

/// The hello of a browser, which says much that stands for nothing.
fn browser() -> Vec<u8> {
    hello_body(
        &[0x3a3a, 0x1301, 0x1302, 0xc02b, 0x4a5a],
        &[
            extension(0x2a2a, b""),
            extension(0, &vector16(&[&[0][..], &vector16(b"shop.example")].concat())),
            extension(16, &vector16(&[vector8(&[0x1a, 0x1a]), vector8(b"h2")].concat())),
            extension(43, &vector8(&[0xaa, 0xaa, 3, 4, 3, 3])),
            extension(10, &vector16(&[0xca, 0xca, 0x11, 0xec, 0, 29])),
            extension(0xfe0d, b"\0\0\x01\0\x01\0\0"),
            extension(0xdada, b"\0"),
        ],
    )
}

/// A hello of a server that chooses the second suite, and TLS 1.2.
fn server_hello() -> Vec<u8> {
    let body = [&[3, 3][..], &[8; 32], &vector8(b""), &[0x13, 0x02, 0], &vector16(b"")].concat();
    records(message::SERVER_HELLO, &body, 1 << 14)
}

#[test]
fn a_handshake_of_every_version_is_one_row() {
    for (name, expected) in [
        (
            "tls10",
            expect![[
                r#"Agreed example.test TLS 1.0 TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA  120 69 q0 {"version":"TLS 1.0","cipher_suite":"TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"}"#
            ]],
        ),
        (
            "tls12",
            expect![[
                r#"Agreed example.test TLS 1.2 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 http/1.1 228 80 q0 {"version":"TLS 1.2","cipher_suite":"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384","alpn":"http/1.1"}"#
            ]],
        ),
        (
            "tls12_resumed",
            expect![[
                r#"Agreed example.test TLS 1.2 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 http/1.1 512 100 q0 {"version":"TLS 1.2","cipher_suite":"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384","alpn":"http/1.1","resumed":true}"#
            ]],
        ),
        (
            "tls13",
            expect![[
                r#"Agreed example.test TLS 1.3 TLS_AES_256_GCM_SHA384  512 122 q0 {"version":"TLS 1.3","cipher_suite":"TLS_AES_256_GCM_SHA384","group":"x25519"}"#
            ]],
        ),
        (
            "tls13_resumed",
            expect![[
                r#"Agreed example.test TLS 1.3 TLS_AES_256_GCM_SHA384  595 128 q0 {"version":"TLS 1.3","cipher_suite":"TLS_AES_256_GCM_SHA384","group":"x25519","resumed":true}"#
            ]],
        ),
        (
            "tls13_retry",
            expect![[
                r#"Agreed example.test TLS 1.3 TLS_AES_256_GCM_SHA384  512 187 q0 {"version":"TLS 1.3","cipher_suite":"TLS_AES_256_GCM_SHA384","group":"secp384r1","retried":true}"#
            ]],
        ),
        ("refused", expect![[r#"Refused example.test    241 2 q0 {"alert":"protocol_version"}"#]]),
    ] {
        check(&sent(name), &expected);
    }
}

#[test]
fn all_that_a_client_offers_is_shown() {
    let offer = hear::<Tls>(&sent("tls13"), show);
    expect![[r#"{"version":"TLS 1.2","server_name":"example.test","groups":["x25519","secp256r1","x448","secp521r1","secp384r1","ffdhe2048","ffdhe3072","ffdhe4096","ffdhe6144","ffdhe8192"],"alpn":["h2"],"supported_versions":["TLS 1.3","TLS 1.2"],"cipher_suites":["TLS_AES_256_GCM_SHA384","TLS_CHACHA20_POLY1305_SHA256","TLS_AES_128_GCM_SHA256","TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384","TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384","TLS_DHE_RSA_WITH_AES_256_GCM_SHA384","TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256","TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256","TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256","TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256","TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256","TLS_DHE_RSA_WITH_AES_128_GCM_SHA256","TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384","TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384","TLS_DHE_RSA_WITH_AES_256_CBC_SHA256","TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256","TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256","TLS_DHE_RSA_WITH_AES_128_CBC_SHA256","TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA","TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA","TLS_DHE_RSA_WITH_AES_256_CBC_SHA","TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA","TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA","TLS_DHE_RSA_WITH_AES_128_CBC_SHA","TLS_RSA_WITH_AES_256_GCM_SHA384","TLS_RSA_WITH_AES_128_GCM_SHA256","TLS_RSA_WITH_AES_256_CBC_SHA256","TLS_RSA_WITH_AES_128_CBC_SHA256","TLS_RSA_WITH_AES_256_CBC_SHA","TLS_RSA_WITH_AES_128_CBC_SHA","TLS_EMPTY_RENEGOTIATION_INFO_SCSV"]}"#]].assert_eq(offer[0].lines().nth(1).unwrap());
}

#[test]
fn what_stands_for_nothing_is_left_out() {
    let talk = [client(records(1, &browser(), 1 << 14)), server(server_hello())];
    expect![[r#"
        Agreed shop.example TLS 1.2 TLS_AES_256_GCM_SHA384  163 44 q0
        {"version":"TLS 1.2","server_name":"shop.example","alpn":["h2"],"supported_versions":["TLS 1.3","TLS 1.2"],"groups":["X25519MLKEM768","x25519"],"encrypted_client_hello":true,"cipher_suites":["TLS_AES_128_GCM_SHA256","TLS_AES_256_GCM_SHA384","TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256","0x4a5a"]}
        {"version":"TLS 1.2","cipher_suite":"TLS_AES_256_GCM_SHA384"}"#]].assert_eq(&hear::<Tls>(&talk, show).join("\n"));
    check_any_split::<Tls>(&talk, show);
}

#[test]
fn a_hello_may_come_in_many_records() {
    let whole = [client(records(1, &browser(), 1 << 14)), server(server_hello())];
    let expected = hear::<Tls>(&whole, show);
    assert_eq!(expected.len(), 1);
    for record_bytes in [6, 7, 30, 100] {
        let talk = [client(records(1, &browser(), record_bytes)), server(server_hello())];
        assert_eq!(hear::<Tls>(&talk, show), expected, "records of {record_bytes} bytes");
        check_any_split::<Tls>(&talk, show);
    }
}

#[test]
fn the_certificate_may_be_in_the_record_of_the_servers_hello() {
    let body = [&[3, 3][..], &[8; 32], &vector8(b""), &[0xc0, 0x2f, 0]].concat();
    let hello = [&[2, 0, 0, u8::try_from(body.len()).unwrap()], &body[..]].concat();
    let flight = [&hello[..], b"\x0b\0\x10\0certificate"].concat();
    let length = u16::try_from(flight.len()).unwrap().to_be_bytes();
    let record = [&[content::HANDSHAKE, 3, 3], &length[..], &flight].concat();
    check(
        &[client(records(1, &browser(), 999)), server(record)],
        &expect![[
            r#"Agreed shop.example TLS 1.2 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256  163 42 q0 {"version":"TLS 1.2","cipher_suite":"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}"#
        ]],
    );
}

#[test]
fn early_data_and_warnings_are_passed_over() {
    let hello = records(1, &browser(), 1 << 14);
    let early = [&b"\x17\x03\x03\x40\x00"[..], &[5; 0x4000]].concat();
    let warning = b"\x15\x03\x03\0\x02\x01\x70";
    check(
        &[
            client([&hello[..], &early[..9000]].concat()),
            server(warning),
            client(&early[9000..]),
            client(b"\x14\x03\x03\0\x01\x01"),
            server(server_hello()),
        ],
        &expect![[
            r#"Agreed shop.example TLS 1.2 TLS_AES_256_GCM_SHA384  163 44 q0 {"version":"TLS 1.2","cipher_suite":"TLS_AES_256_GCM_SHA384"}"#
        ]],
    );
}

#[test]
fn a_server_that_says_nothing_leaves_a_row_without_answer() {
    check(
        &[client(records(1, &browser(), 1 << 14))],
        &expect!["Unanswered shop.example    163 0 q4 {}"],
    );
}

#[test]
fn what_is_no_handshake_is_counted_and_nothing_is_read_after_it() {
    let hello = records(1, &browser(), 1 << 14);
    for talk in [
        vec![client(&hello), server("HTTP/1.1 400 Bad Request\r\n\r\n"), server(server_hello())],
        vec![server(server_hello()), client(&hello), server(server_hello())],
        vec![client(&hello[..60]), Sent::Hole(Side::Client, 20), client(&hello[80..])],
        vec![client(&hello), Sent::Hole(Side::Server, 20), server(server_hello())],
    ] {
        let heard = hear::<Tls>(&talk, brief);
        assert!(heard.iter().all(|line| line.starts_with("lost ")), "{heard:?}");
        assert_eq!(heard.len(), usize::from(!matches!(talk[0], Sent::Server(_))), "{heard:?}");
    }
}

#[test]
fn a_gap_in_what_is_passed_over_changes_nothing() {
    let hello = records(1, &browser(), 1 << 14);
    let early = b"\x17\x03\x03\x10\x00early";
    let talk = [
        client([&hello[..], early].concat()),
        Sent::Hole(Side::Client, 0x1000 - 5),
        server(server_hello()),
        Sent::Hole(Side::Server, 9999),
    ];
    check(
        &talk[..3],
        &expect![[
            r#"Agreed shop.example TLS 1.2 TLS_AES_256_GCM_SHA384  163 44 q0 {"version":"TLS 1.2","cipher_suite":"TLS_AES_256_GCM_SHA384"}"#
        ]],
    );
    assert_eq!(hear::<Tls>(&talk, brief), hear::<Tls>(&talk[..3], brief));
}

#[test]
fn only_the_hello_of_a_client_is_taken_for_one() {
    let hello = records(1, &browser(), 1 << 14);
    for end in 0..=hello.len() {
        let expected = if end < PROBE_BYTES { Probe::Maybe } else { Probe::Yes };
        assert_eq!(probe_request(&hello[..end]), expected, "{end} bytes");
    }
    for other in [
        &server_hello()[..],
        b"\x17\x03\x03\0\x05hello",
        b"\x15\x03\x01\0\x02\x02\x28",
        b"\x16\x02\x01",
        b"\x16\x03\x01\0\x05\x01\0\0\x01\x03\x03",
        b"\x16\x03\x01\xff\xff\x01\0\xff\xfb\x03\x03",
        b"\x16\x03\x01\x02\0\x01\0\0\x20\x03\x03",
        b"\x16INSERT INTO t VALUES (?)",
    ] {
        assert_eq!(probe_request(other), Probe::No, "{other:?}");
    }
}

#[test]
fn a_row_tells_when_the_hello_began_and_when_it_was_answered() {
    let mut parser = super::super::dialogue::Dialogue::<Tls>::new(
        Flow::Ingress,
        super::super::gap::Start::AtItsBeginning,
    );
    let full = crate::redaction::Mode::Full;
    let redaction = crate::redaction::Redaction { headers: full, bodies: full };
    let mut out = super::super::output::Output::new(redaction, 64);
    let hello = records(1, &browser(), 1 << 14);
    let answer = server_hello();
    for (at, flow, bytes) in [
        (10, Flow::Ingress, &hello[..50]),
        (20, Flow::Ingress, &hello[50..]),
        (30, Flow::Egress, &answer[..20]),
        (45, Flow::Egress, &answer[20..]),
    ] {
        let operation = crate::data_stream::Operation { at, ..Default::default() };
        super::super::Protocol::bytes(&mut parser, flow, bytes, operation, &mut out);
    }
    let [Finished::Tls(timed)] = &out.done[..] else { panic!("{:?}", out.done) };
    assert_eq!((timed.requested_at, timed.responded_at, timed.latency_ns()), (10, 45, 35));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), any::<Vec<u8>>()), 0..12),
    ) {
        check_any_bytes::<Tls>(parts);
    }

    #[test]
    fn damaged_hellos_are_read_without_a_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in 1_usize..600,
        of_server in any::<bool>(),
    ) {
        let (mut hello, mut answer) = (records(1, &browser(), 200), server_hello());
        let damaged = if of_server { &mut answer } else { &mut hello };
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        let talk = split(&[client(hello), server(answer)], cut);
        let rows = hear::<Tls>(&talk, show);
        prop_assert!(rows.len() <= 2, "{:?}", rows);
    }
}
