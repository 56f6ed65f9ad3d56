use super::super::dialogue::talk::{Sent, check_any_bytes, check_any_split, client, hear, server};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

/// A value of the documents that are sent here.
#[derive(Clone)]
enum Bson {
    Int(i32),
    Double(f64),
    Text(String),
    Document(Vec<u8>),
    Array(Vec<u8>),
    Other(u8, Vec<u8>),
}
use Bson::{Array, Double, Int, Other, Text};

fn text(text: &str) -> Bson {
    Text(text.to_owned())
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len() + 4).unwrap();
    [length.to_le_bytes().as_slice(), bytes].concat()
}

fn document(elements: &[(&str, Bson)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in elements {
        let (kind, value) = match value {
            Double(number) => (1, number.to_le_bytes().to_vec()),
            Text(text) => {
                let length = i32::try_from(text.len() + 1).unwrap();
                (2, [length.to_le_bytes().as_slice(), text.as_bytes(), b"\0"].concat())
            }
            Bson::Document(bytes) => (3, bytes.clone()),
            Array(bytes) => (4, bytes.clone()),
            Int(number) => (16, number.to_le_bytes().to_vec()),
            Other(kind, bytes) => (*kind, bytes.clone()),
        };
        bytes.push(kind);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&value);
    }
    bytes.push(0);
    sized(&bytes)
}

fn message(ids: [u32; 2], op: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 16).unwrap();
    let header = [length, ids[0], ids[1], op].map(u32::to_le_bytes).concat();
    [header.as_slice(), content].concat()
}

fn op_msg(ids: [u32; 2], flags: u32, body: &[u8]) -> Vec<u8> {
    message(ids, 2013, &[flags.to_le_bytes().as_slice(), b"\0", body].concat())
}

fn request(id: u32, elements: &[(&str, Bson)]) -> Sent {
    client(op_msg([id, 0], 0, &document(elements)))
}

fn reply(to: u32, elements: &[(&str, Bson)]) -> Sent {
    server(op_msg([to + 1000, to], 0, &document(elements)))
}

fn show(finished: &Finished) -> String {
    let Finished::Mongo(timed) = finished else { return format!("{finished:?}") };
    let Command { name, request, status, reply, .. } = &timed.call;
    format!("{name} {request} -> {status} {reply} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Mongo>(sent, show).join("\n"));
    check_any_split::<Mongo>(sent, show);
}

#[test]
fn a_command_and_its_reply_are_one_row_in_whatever_order() {
    let error = [
        ("ok", Double(0.0)),
        ("errmsg", text("no such command: 'x'")),
        ("code", Int(59)),
        ("codeName", text("CommandNotFound")),
    ];
    check(
        &[
            request(1, &[("find", text("c")), ("limit", Int(2)), ("$db", text("t"))]),
            request(2, &[("x", Int(1)), ("$db", text("t"))]),
            reply(2, &error),
            reply(1, &[("cursor", Array(document(&[("0", Int(7))]))), ("ok", Double(1.0))]),
            reply(9, &[("ok", Double(1.0))]),
        ],
        &expect![[r#"
            x {"x":1,"$db":"t"} -> CommandNotFound {"ok":0.0,"errmsg":"no such command: 'x'","code":59,"codeName":"C"} q0
            find {"find":"c","limit":2,"$db":"t"} -> ok {"cursor":[7],"ok":1.0} q0"#]],
    );
}

#[test]
fn lists_of_documents_are_part_of_their_command() {
    let list = |name: &str| {
        let documents = [document(&[("a", Int(1))]), document(&[("a", Int(2))])].concat();
        [b"\x01".as_slice(), &sized(&[name.as_bytes(), b"\0", &documents].concat())].concat()
    };
    let body = [b"\0".as_slice(), &document(&[("insert", text("c"))])].concat();
    let flags = [0; 4].as_slice();
    let body_first = message([1, 0], 2013, &[flags, &body, &list("documents")].concat());
    let checksum = [1, 0, 0, 0].as_slice();
    let list_first =
        message([2, 0], 2013, &[checksum, &list("documents"), &body, b"csum"].concat());
    check(
        &[
            client(body_first),
            reply(1, &[("n", Int(2)), ("ok", Int(1))]),
            client(list_first),
            reply(2, &[("n", Int(2)), ("ok", Int(1))]),
        ],
        &expect![[r#"
            insert {"insert":"c","documents":[{"a":1},{"a":2}]} -> ok {"n":2,"ok":1} q0
            insert {"insert":"c","documents":[{"a":1},{"a":2}]} -> ok {"n":2,"ok":1} q0"#]],
    );
}

#[test]
fn every_kind_of_value_is_json() {
    let values = [
        ("a", Other(7, vec![0xab; 12])),
        ("b", Other(8, vec![1])),
        ("c", Other(10, Vec::new())),
        ("d", Other(9, 1_700_i64.to_le_bytes().to_vec())),
        ("e", Other(5, [3, 0, 0, 0, 0, 1, 2, 3].to_vec())),
        ("f", Other(11, b"x+\0i\0".to_vec())),
        ("g", Other(18, (-1_i64).to_le_bytes().to_vec())),
        ("h", Other(17, vec![0; 8])),
        ("i", Other(19, vec![0; 16])),
        ("j", Other(0xff, Vec::new())),
        ("k", Double(f64::NAN)),
    ];
    let halves = values.split_at(5);
    check(
        &[
            request(1, &[("ping", Int(1))]),
            reply(1, halves.0),
            request(2, &[("ping", Int(1))]),
            reply(2, halves.1),
        ],
        &expect![[r#"
            ping {"ping":1} -> ok {"a":"abababababababababababab","b":true,"c":null,"d":"[date 1700 ms]"} q0
            ping {"ping":1} -> ok {"f":"/x+/i","g":-1,"h":"[timestamp]","i":"[decimal]","j":"[minimum]"} q0"#]],
    );
}

#[test]
fn a_request_that_wants_no_reply_is_complete_at_once() {
    check(
        &[
            client(op_msg([1, 0], MORE_TO_COME, &document(&[("insert", text("c"))]))),
            request(2, &[("ping", Int(1))]),
            reply(2, &[("ok", Int(1))]),
        ],
        &expect![[r#"
            insert {"insert":"c"} ->   q0
            ping {"ping":1} -> ok {"ok":1} q0"#]],
    );
}

#[test]
fn replies_that_come_unasked_are_rows_of_their_own() {
    let next = |id, to, flags, number| {
        server(op_msg([id, to], flags, &document(&[("n", Int(number)), ("ok", Int(1))])))
    };
    check(
        &[
            client(op_msg([1, 0], 1 << 16, &document(&[("getMore", Int(5))]))),
            next(11, 1, MORE_TO_COME, 1),
            next(12, 11, MORE_TO_COME, 2),
            next(13, 12, 0, 3),
            client(op_msg([2, 0], 1 << 16, &document(&[("getMore", Int(6))]))),
            next(14, 2, MORE_TO_COME, 4),
            next(15, 2, MORE_TO_COME, 5),
            next(16, 2, 0, 6),
        ],
        &expect![[r#"
            getMore {"getMore":5} -> ok {"n":1,"ok":1} q0
            getMore {"getMore":5} -> ok {"n":2,"ok":1} q0
            getMore {"getMore":5} -> ok {"n":3,"ok":1} q0
            getMore {"getMore":6} -> ok {"n":4,"ok":1} q0
            getMore {"getMore":6} -> ok {"n":5,"ok":1} q0
            getMore {"getMore":6} -> ok {"n":6,"ok":1} q0"#]],
    );
}

#[test]
fn replies_that_come_unasked_and_are_lost_are_within_the_bounds() {
    let next = |id, to| op_msg([id, to], MORE_TO_COME, &document(&[("ok", Int(1))]));
    let lost = [next(12, 11), next(13, 12), next(14, 13)].concat();
    check(
        &[
            client(op_msg([1, 0], 1 << 16, &document(&[("getMore", Int(5))]))),
            server(next(11, 1)),
            Sent::Hole(Side::Server, lost.len() as u64),
            server(next(15, 14)),
        ],
        &expect![[r#"
            getMore {"getMore":5} -> ok {"ok":1} q0
            lost 1..=6 ring_full"#]],
    );
}

#[test]
fn compressed_messages_are_paired() {
    let compressed = |ids, body: &[u8]| {
        let sizes = [2013_u32, 100].map(u32::to_le_bytes).concat();
        message(ids, 2012, &[&sizes, body].concat())
    };
    check(
        &[
            client(compressed([1, 0], b"\x02zlib zlib")),
            server(compressed([11, 1], b"\x02zlib")),
            client(compressed([2, 0], b"\x02may want no reply")),
            client(compressed([3, 0], b"\x03zstd zstd")),
            server(compressed([13, 3], b"\x03zstd")),
        ],
        &expect![[r"
            OP_COMPRESSED [compressed] ->  [compressed] q0
            OP_COMPRESSED [compressed] ->   q0
            OP_COMPRESSED [compressed] ->  [compressed] q0"]],
    );
}

#[test]
fn messages_that_snappy_or_zlib_compressed_are_unpacked() {
    let compressed = |ids: [u32; 2], flags: u32, how: u8, elements: &[(&str, Bson)]| {
        let inner = &op_msg(ids, flags, &document(elements))[16..];
        let size = u32::try_from(inner.len()).unwrap();
        let packed = match how {
            1 => [&[u8::try_from(size).unwrap(), 60 << 2, u8::try_from(size - 1).unwrap()], inner]
                .concat(),
            _ => miniz_oxide::deflate::compress_to_vec_zlib(inner, 6),
        };
        let head = [2013, size].map(u32::to_le_bytes).concat();
        message(ids, 2012, &[&head, &[how][..], &packed].concat())
    };
    let find = [("find", text("c")), ("filter", text(&"x".repeat(30)))];
    let done = [("ok", Double(1.0)), ("n", Int(3))];
    check(
        &[
            client(compressed([1, 0], 0, 1, &find)),
            server(compressed([11, 1], 0, 1, &done)),
            client(compressed([2, 0], 2, 2, &[("insert", text("c"))])),
            client(compressed([3, 0], 1 << 16, 2, &[("hello", Int(1))])),
            server(compressed([13, 3], 2, 2, &done)),
            server(compressed([14, 13], 0, 2, &done)),
        ],
        &expect![[r#"
            find {"find":"c","filter":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"} -> ok {"ok":1.0,"n":3} q0
            insert {"insert":"c"} ->   q0
            hello {"hello":1} -> ok {"ok":1.0,"n":3} q0
            hello {"hello":1} -> ok {"ok":1.0,"n":3} q0"#]],
    );
}

#[test]
fn replies_to_requests_that_were_not_seen_are_within_the_bounds() {
    let pong = |ids, flags| server(op_msg(ids, flags, &document(&[("ok", Int(1))])));
    // Its client allowed that, in what is missing; all further replies are rows that are missing.
    let sent = [
        request(1, &[("ping", Int(1))]),
        reply(1, &[("ok", Int(1))]),
        Sent::Hole(Side::Client, 60),
        pong([11, 2], 2),
        pong([12, 11], 2),
        pong([13, 12], 2),
    ];
    let shown = hear::<Mongo>(&sent, show);
    assert_eq!(shown[1..], ["lost 0..=6 ring_full"]);
    // What a server sends to a client that is known not to have is none.
    let sent = [
        request(1, &[("ping", Int(1))]),
        reply(1, &[("ok", Int(1))]),
        Sent::Hole(Side::Server, 3000),
    ];
    assert_eq!(hear::<Mongo>(&sent, show).len(), 1);
}

#[test]
fn older_clients_say_hello_by_a_query() {
    let hello = document(&[("ismaster", Int(1)), ("helloOk", Other(8, vec![1]))]);
    let query = [[0; 4].as_slice(), b"admin.$cmd\0", &[0; 4], &[0xff; 4], &hello].concat();
    let answer = document(&[("ismaster", Other(8, vec![1])), ("ok", Double(1.0))]);
    let reply = [[8, 0, 0, 0].as_slice(), &[0; 12], &[1, 0, 0, 0], &answer].concat();
    check(
        &[client(message([1, 0], 2004, &query)), server(message([9, 1], 1, &reply))],
        &expect![[r#"ismaster {"ismaster":1,"helloOk":true} -> ok {"ismaster":true,"ok":1.0} q0"#]],
    );
}

#[test]
fn secrets_are_never_kept() {
    let hello = document(&[("payload", text("hunter2"))]);
    check(
        &[
            request(1, &[("saslStart", Int(1)), ("payload", text("hunter2"))]),
            reply(1, &[("payload", text("hunter2")), ("ok", Int(1))]),
            request(2, &[("createUser", text("me")), ("pwd", text("hunter2"))]),
            reply(2, &[("ok", Int(1))]),
            request(3, &[("hello", Int(1)), ("speculativeAuthenticate", Bson::Document(hello))]),
            reply(3, &[("ok", Int(1))]),
        ],
        &expect![[r#"
            saslStart {"saslStart":"<redacted>"} -> ok {"saslStart":"<redacted>"} q0
            createUser {"createUser":"<redacted>"} -> ok {"createUser":"<redacted>"} q0
            hello {"hello":1,"speculativeAuthenticate":"<redacted>"} -> ok {"ok":1} q0"#]],
    );
}

#[test]
fn long_messages_are_cut_and_their_bytes_counted() {
    let long = "x".repeat(100_000);
    let sent = [
        request(1, &[("insert", text("c")), ("data", text(&long)), ("more", Int(1))]),
        reply(1, &[("data", text(&long)), ("ok", Double(1.0))]),
        request(2, &[("ping", Int(1))]),
        reply(2, &[("ok", Int(1))]),
    ];
    let shown = hear::<Mongo>(&sent, |finished| {
        let Finished::Mongo(timed) = finished else { return String::new() };
        let call = &timed.call;
        assert!(serde_json::from_str::<serde_json::Value>(&call.request).is_ok(), "{call:?}");
        format!("{} {} {} {}", call.name, call.request.len(), call.request_size, call.reply_size)
    });
    assert_eq!(shown, ["insert 67 100061 100049", "ping 10 36 34"]);
    check_any_split::<Mongo>(&sent, show);
}

#[test]
fn documents_that_are_too_deep_are_cut() {
    let mut deep = document(&[]);
    for _ in 0..100 {
        deep = document(&[("", Bson::Document(deep))]);
    }
    let sent = [request(1, &[("a", Bson::Document(deep))])];
    let shown = hear::<Mongo>(&sent, show);
    assert!(shown[0].starts_with("a {\"a\":{\"\":{"), "{shown:?}");
}

#[test]
fn a_hole_in_a_long_message_costs_nothing() {
    let Sent::Server(long) = reply(1, &[("data", text(&"x".repeat(100_000))), ("ok", Int(1))])
    else {
        unreachable!()
    };
    let sent = [
        request(1, &[("find", text("c"))]),
        server(&long[..9000]),
        Sent::Hole(Side::Server, 80_000),
        server(&long[89_000..]),
        request(2, &[("ping", Int(1))]),
        reply(2, &[("ok", Int(1))]),
    ];
    let shown = hear::<Mongo>(&sent, show);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[1], "ping {\"ping\":1} -> ok {\"ok\":1} q0");
}

#[test]
fn no_pair_spans_a_gap() {
    let ping = |id| request(id, &[("ping", Int(1))]);
    let pong = |id| reply(id, &[("ok", Int(1))]);
    let sent = [ping(1), Sent::Hole(Side::Server, 34), ping(2), pong(1), pong(2), ping(3), pong(3)];
    let shown = hear::<Mongo>(&sent, show);
    assert_eq!(shown, ["ping {\"ping\":1} -> ok {\"ok\":1} q0", "lost 2..=2 ring_full"]);
}

#[test]
fn wild_lengths_and_unknown_opcodes_end_the_pairing() {
    let good = op_msg([1, 0], 0, &document(&[("ping", Int(1))]));
    for (at, byte) in [(3, 0x7f), (3, 0xff), (0, 3), (12, 0), (16, 8), (20, 7), (24, 1)] {
        let mut bad = good.clone();
        bad[at] = byte;
        let shown = hear::<Mongo>(&[client(&bad)], show);
        assert!(shown.len() == 1 && shown[0].ends_with("parse_error"), "{at}: {shown:?}");
        assert_eq!(probe_request(&bad), Probe::No, "{at}");
    }
}

#[test]
fn its_first_message_tells_it_apart() {
    let Sent::Client(ping) = request(1, &[("ping", Int(1)), ("$db", text("t"))]) else {
        unreachable!()
    };
    let Sent::Server(pong) = reply(1, &[("ok", Int(1))]) else { unreachable!() };
    assert_eq!(probe_request(&ping), Probe::Yes);
    assert_eq!(probe_response(&pong), Probe::Yes);
    assert_eq!((probe_request(&pong), probe_response(&ping)), (Probe::No, Probe::No));
    for cut in 0..30 {
        assert_eq!(probe_request(&ping[..cut]), Probe::Maybe, "{cut}");
    }
    for other in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"*1\r\n$4\r\nPING\r\n",
        b"INFO {\"a\":1}\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"AMQP\0\0\x09\x01",
        b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0",
        b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x08\x04\xd2\x16\x2f",
    ] {
        assert_eq!((probe_request(other), probe_response(other)), (Probe::No, Probe::No));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let framed = |bytes: &[u8]| op_msg([1, 0], 0, &sized(bytes));
        let parts = parts.into_iter().map(|(from_client, bytes)| (from_client, framed(&bytes)));
        check_any_bytes::<Mongo>(parts.collect());
    }

    #[test]
    fn random_bytes_are_never_taken_for_it(bytes in proptest::collection::vec(any::<u8>(), 16..64)) {
        prop_assert_eq!(probe_request(&bytes), Probe::No);
        prop_assert_eq!(probe_response(&bytes), Probe::No);
    }
}
