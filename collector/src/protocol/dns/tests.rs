pub(crate) mod wire;

use super::super::dialogue::talk::{Sent, check_any_bytes, check_any_split, client, hear, server};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use wire::{Build, framed, query};

fn show(finished: &Finished) -> String {
    let Finished::Dns(timed) = finished else { return format!("{finished:?}") };
    let Lookup { name, kind, rcode, resp_body, .. } = &timed.call;
    format!("{name} {kind} -> {rcode} {resp_body} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<DnsTcp>(sent, show).join("\n"));
    check_any_split::<DnsTcp>(sent, show);
}

#[test]
fn responses_over_tcp_come_in_any_order() {
    check(
        &[
            client(
                [framed(&query(1, "a.example", 1)), framed(&query(2, "b.example", 28))].concat(),
            ),
            server(framed(&Build::response(2, "b.example", 28).addr6([0; 15], 1).done())),
            server(framed(&Build::response(1, "a.example", 1).addr([10, 0, 0, 1]).done())),
            client(framed(&query(3, "gone.example", 16))),
            server(framed(&Build::response(3, "gone.example", 16).rcode(3).done())),
            // A further message of a zone transfer.
            server(framed(&Build::response(3, "gone.example", 16).done())),
            client(framed(&query(4, "never.example", 1))),
        ],
        &expect![[r#"
            b.example AAAA -> 0 {"answers":[{"name":"b.example","type":"AAAA","addr":"::1"}]} q0
            a.example A -> 0 {"answers":[{"name":"a.example","type":"A","addr":"10.0.0.1"}]} q0
            gone.example TXT -> 3 {"answers":[]} q0
            never.example A -> -1 {} q4"#]],
    );
}

#[test]
fn a_hole_costs_the_queries_that_wait_and_no_more() {
    let sent = [
        client(framed(&query(1, "a.example", 1))),
        Sent::Hole(Side::Server, 40),
        client(framed(&query(2, "b.example", 1))),
        server(framed(&Build::response(2, "b.example", 1).done())),
        client(framed(&query(3, "c.example", 1))),
        server(framed(&Build::response(3, "c.example", 1).done())),
    ];
    assert_eq!(
        hear::<DnsTcp>(&sent, show),
        ["c.example A -> 0 {\"answers\":[]} q0", "lost 2..=2 ring_full"]
    );
}

#[test]
fn headers_and_bodies_have_the_shape_that_scripts_take_apart() {
    let asked = Message::read(&query(7, "Shop.Example", 1), 30).unwrap();
    let mut lookup = Lookup::new(&asked);
    let answered = Build::response(7, "shop.example", 1)
        .cname("www.shop.example")
        .addr([192, 0, 2, 7])
        .other(16, b"\x05hello")
        .done();
    lookup.answer(&Message::read(&answered, answered.len()).unwrap());
    expect![[r#"
        {"txid":7,"qr":0,"opcode":0,"aa":0,"tc":0,"rd":1,"ra":0,"ad":0,"cd":0,"rcode":0,"num_queries":1,"num_answers":0,"num_auth":0,"num_addl":0}
        {"queries":[{"name":"Shop.Example","type":"A"}]}
        {"txid":7,"qr":1,"opcode":0,"aa":0,"tc":0,"rd":1,"ra":1,"ad":0,"cd":0,"rcode":0,"num_queries":1,"num_answers":3,"num_auth":0,"num_addl":0}
        {"answers":[{"name":"shop.example","type":"CNAME","cname":"www.shop.example"},{"name":"shop.example","type":"A","addr":"192.0.2.7"},{"name":"shop.example","type":"TXT"}]}"#]]
    .assert_eq(&[lookup.req_header, lookup.req_body, lookup.resp_header, lookup.resp_body].join("\n"));
    assert_eq!((lookup.name.as_str(), lookup.kind.as_str()), ("shop.example", "A"));
}

#[test]
fn a_code_of_more_than_four_bits_has_its_upper_ones_in_a_record() {
    let bytes = Build::response(1, "a", 1).rcode(0).opt(1).done();
    let message = Message::read(&bytes, bytes.len()).unwrap();
    assert_eq!((message.rcode, message.answers.len(), message.is_whole), (16, 0, true));
}

#[test]
fn a_name_that_points_at_itself_or_ahead_ends_the_message() {
    for target in [HEADER_BYTES, HEADER_BYTES + 2, 400] {
        let mut bytes = Build::header(1, 0x0100, [1, 0, 0, 0]);
        bytes.extend([
            0xc0 | u8::try_from(target >> 8).unwrap(),
            u8::try_from(target & 0xff).unwrap(),
        ]);
        bytes.extend([0, 1, 0, 1]);
        assert_eq!(Message::read(&bytes, bytes.len()), None, "{target}");
    }
    // Two that point at each other.
    let mut bytes = Build::header(1, 0x0100, [2, 0, 0, 0]);
    bytes.extend([0xc0, 18, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(Message::read(&bytes, bytes.len()), None);
}

#[test]
fn names_are_shown_as_zone_files_have_them() {
    for (wire, text) in
        [(&b"\0"[..], "."), (b"\x01a\x02bc\0", "a.bc"), (b"\x04a.\\\x00\0", "a\\.\\\\\\000")]
    {
        assert_eq!(name::read(wire, 0), Some((text.to_owned(), wire.len())));
    }
    let long = [[63].as_slice(), &[b'x'; 63]].concat().repeat(5);
    assert_eq!(name::read(&long, 0), None);
}

#[test]
fn a_message_that_is_cut_keeps_what_came_before() {
    let whole = Build::response(1, "a", 1).addr([1, 1, 1, 1]).addr([2, 2, 2, 2]).done();
    let read = Message::read(&whole[..whole.len() - 1], whole.len()).unwrap();
    assert_eq!((read.answers.len(), read.is_whole), (1, false));
    assert_eq!(quality_of(&read), QUALITY_BODY_INCOMPLETE);
    assert_eq!(Message::read(&whole[..15], whole.len()), None);
}

#[test]
fn answers_beyond_the_limit_are_left_out_and_the_rest_stays_well_formed() {
    let mut response = Build::response(1, &["x"; 100].join("."), 1);
    for _ in 0..400 {
        response = response.addr([1, 2, 3, 4]);
    }
    let bytes = response.done();
    let mut lookup = Lookup::new(&Message::default());
    lookup.answer(&Message::read(&bytes, bytes.len()).unwrap());
    assert!(lookup.resp_body.len() < show::BODY_BYTES_MAX + 10);
    let json: serde_json::Value = serde_json::from_str(&lookup.resp_body).unwrap();
    assert!(json["answers"].as_array().unwrap().len() > 50);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic_and_shown_as_json(
        flags in any::<u16>(),
        counts in any::<[u8; 4]>(),
        rest in proptest::collection::vec(prop_oneof![Just(0xc0), 0_u8..16, any::<u8>()], 0..400),
    ) {
        let mut bytes = Build::header(1, flags & 0x87ff, counts.map(|count| u16::from(count % 5)));
        bytes.extend(rest);
        for len in [bytes.len(), 16 * 1024] {
            if let Some(message) = Message::read(&bytes, len) {
                let mut lookup = Lookup::new(&message);
                lookup.answer(&message);
                for text in [&lookup.req_header, &lookup.req_body, &lookup.resp_header, &lookup.resp_body] {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{}", text);
                }
            }
        }
    }

    #[test]
    fn any_bytes_over_tcp_are_read_without_a_panic(
        parts in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..20),
    ) {
        check_any_bytes::<DnsTcp>(parts);
    }

    #[test]
    fn what_is_asked_is_read_back(
        txid in any::<u16>(), name in "[a-zA-Z0-9_-]{1,20}(\\.[a-z0-9]{1,10}){0,5}", kind in any::<u16>(),
    ) {
        let bytes = query(txid, &name, kind);
        let message = Message::read(&bytes, bytes.len()).unwrap();
        let question = Question { name, kind, class: 1 };
        prop_assert_eq!((message.header.txid, message.questions), (txid, vec![question]));
        prop_assert_eq!(probe_request(&framed(&bytes)), Probe::Yes);
        for cut in 0..bytes.len() {
            prop_assert_eq!(probe_request(&framed(&bytes)[..cut]), Probe::Maybe);
        }
    }
}
