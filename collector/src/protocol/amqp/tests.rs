use super::super::dialogue::talk::{Sent, check_any_bytes, check_any_split, client, hear, server};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[kind], channel.to_be_bytes().as_slice(), &length.to_be_bytes(), payload, &[END]].concat()
}

fn method(channel: u16, class: u16, id: u16, arguments: &[u8]) -> Vec<u8> {
    let ids = [class, id].map(u16::to_be_bytes).concat();
    frame(1, channel, &[ids.as_slice(), arguments].concat())
}

fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [u32::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), bytes].concat()
}

/// A message's head, and its body in frames of so many bytes.
fn message(channel: u16, body: &[u8], frame_bytes: usize) -> Vec<u8> {
    let size = u64::try_from(body.len()).unwrap().to_be_bytes();
    let head = [[0, 60, 0, 0].as_slice(), &size, &[0x80, 0], &text("text/plain")].concat();
    let parts = body.chunks(frame_bytes).map(|part| frame(3, channel, part));
    [frame(2, channel, &head)].into_iter().chain(parts).collect::<Vec<_>>().concat()
}

fn publish(channel: u16, key: &str) -> Vec<u8> {
    method(channel, 60, 40, &[[0, 0].as_slice(), &text("logs"), &text(key), &[0]].concat())
}

fn deliver(channel: u16, tag: u8) -> Vec<u8> {
    let number = [0, 0, 0, 0, 0, 0, 0, tag];
    method(
        channel,
        60,
        60,
        &[&text("ctag"), number.as_slice(), &[1], &text("logs"), &text("k")].concat(),
    )
}

fn ack(channel: u16, tag: u8) -> Vec<u8> {
    method(channel, 60, 80, &[0, 0, 0, 0, 0, 0, 0, tag, 1])
}

fn declare(channel: u16, queue: &str, bits: u8) -> Vec<u8> {
    method(channel, 50, 10, &[[0, 0].as_slice(), &text(queue), &[bits], &block(b"")].concat())
}

fn declare_ok(channel: u16, queue: &str) -> Vec<u8> {
    method(channel, 50, 11, &[text(queue), vec![0, 0, 0, 3], vec![0, 0, 0, 1]].concat())
}

fn close(channel: u16, class: u16, id: u16, code: u16, why: &str) -> Vec<u8> {
    let code = code.to_be_bytes();
    method(channel, class, id, &[code.as_slice(), &text(why), &[0, 50, 0, 10]].concat())
}

fn show(finished: &Finished) -> String {
    let Finished::Amqp(timed) = finished else { return format!("{finished:?}") };
    let Exchange { channel, request, response, failed, .. } = &timed.call;
    let half = |half: &Half| format!("{}.{} {}", half.class, half.method, half.message);
    let failed = if *failed { " failed" } else { "" };
    let quality = timed.quality | timed.call.quality();
    format!("{channel}: {} -> {} q{quality}{failed}", half(request), half(response))
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Amqp>(sent, show).join("\n"));
    check_any_split::<Amqp>(sent, show);
}

#[test]
fn a_connection_is_opened_without_its_secrets() {
    let start = [&[0, 9], block(b"table").as_slice(), &block(b"PLAIN"), &block(b"en_US")].concat();
    let start_ok = [
        block(b"\x08platformS\0\0\0\x06Python"),
        text("PLAIN"),
        block(b"\0guest\0hunter2"),
        text("en_US"),
    ];
    let tune = [[7, 255].as_slice(), &[0, 2, 0, 0], &[0, 60]].concat();
    check(
        &[
            client(GREETING),
            server(method(0, 10, 10, &start)),
            client(method(0, 10, 11, &start_ok.concat())),
            server(method(0, 10, 30, &tune)),
            client([method(0, 10, 31, &tune), method(0, 10, 40, b"\x01/\0\0")].concat()),
            server([frame(8, 0, b""), method(0, 10, 41, b"\0")].concat()),
            client(frame(8, 0, b"")),
            client(method(1, 20, 10, b"\0")),
            server(method(1, 20, 11, &block(b""))),
        ],
        &expect![[r#"
            0: 10.10  -> 10.11 {"mechanism":"PLAIN","locale":"en_US"} q0
            0: 10.30 {"channel_max":2047,"frame_max":131072,"heartbeat":60} -> 10.31 {"channel_max":2047,"frame_max":131072,"heartbeat":60} q0
            0: 10.40 {"virtual_host":"/"} -> 10.41  q0
            1: 20.10  -> 20.11  q0"#]],
    );
}

#[test]
fn methods_are_answered_in_order_on_each_channel() {
    check(
        &[
            client([declare(1, "a", 2), declare(1, "b", 0), declare(2, "c", 0)].concat()),
            server([declare_ok(2, "c"), declare_ok(1, "a"), declare_ok(1, "b")].concat()),
            client(declare(1, "no wait", 16)),
            client(method(1, 90, 10, b"")),
            server(method(1, 90, 11, b"")),
        ],
        &expect![[r#"
            2: 50.10 {"queue":"c"} -> 50.11 {"queue":"c","message_count":3,"consumer_count":1} q0
            1: 50.10 {"queue":"a","durable":true} -> 50.11 {"queue":"a","message_count":3,"consumer_count":1} q0
            1: 50.10 {"queue":"b"} -> 50.11 {"queue":"b","message_count":3,"consumer_count":1} q0
            1: 50.10 {"queue":"no wait","no_wait":true} -> 0.0  q0
            1: 90.10  -> 90.11  q0"#]],
    );
}

#[test]
fn messages_belong_to_the_method_before_them() {
    let get = method(1, 60, 70, &[[0, 0].as_slice(), &text("q"), &[1]].concat());
    let got = [[0, 0, 0, 0, 0, 0, 0, 9, 0].as_slice(), &text("logs"), &text("k"), &[0; 4]].concat();
    check(
        &[
            client([publish(1, "k"), message(1, b"hello, you", 4)].concat()),
            server(ack(1, 1)),
            server([deliver(1, 7), message(1, b"", 4), deliver(1, 8)].concat()),
            server(message(1, &[END; 100], 64)),
            client(ack(1, 8)),
            client(&get),
            server([method(1, 60, 71, &got), message(1, b"body", 64)].concat()),
            client(&get),
            server(method(1, 60, 72, b"\0")),
        ],
        &expect![[r#"
            1: 60.40 {"exchange":"logs","routing_key":"k","body_size":10} -> 0.0  q0
            1: 0.0  -> 60.80 {"delivery_tag":1,"multiple":true} q0
            1: 0.0  -> 60.60 {"consumer_tag":"ctag","delivery_tag":7,"redelivered":true,"exchange":"logs","routing_key":"k","body_size":0} q0
            1: 0.0  -> 60.60 {"consumer_tag":"ctag","delivery_tag":8,"redelivered":true,"exchange":"logs","routing_key":"k","body_size":100} q0
            1: 60.80 {"delivery_tag":8,"multiple":true} -> 0.0  q0
            1: 60.70 {"queue":"q","no_ack":true} -> 60.71 {"delivery_tag":9,"exchange":"logs","routing_key":"k","message_count":0,"body_size":4} q0
            1: 60.70 {"queue":"q","no_ack":true} -> 60.72  q0"#]],
    );
}

#[test]
fn messages_on_several_channels_may_mix() {
    let (one, two) = (message(1, b"one", 64), message(2, b"two!", 64));
    let (head_one, body_one) = one.split_at(one.len() - 11);
    let (head_two, body_two) = two.split_at(two.len() - 12);
    let parts = [&publish(1, "a"), &publish(2, "b"), head_one, head_two, body_two, body_one];
    check(
        &[client(parts.concat())],
        &expect![[r#"
            2: 60.40 {"exchange":"logs","routing_key":"b","body_size":4} -> 0.0  q0
            1: 60.40 {"exchange":"logs","routing_key":"a","body_size":3} -> 0.0  q0"#]],
    );
}

#[test]
fn a_channel_that_is_closed_answers_what_waits() {
    check(
        &[
            client([declare(1, "none", 1), declare(2, "other", 0)].concat()),
            server(close(1, 20, 40, 404, "NOT_FOUND")),
            client(method(1, 20, 41, b"")),
            server(declare_ok(2, "other")),
            client(declare(2, "more", 0)),
            client(close(0, 10, 50, 200, "bye")),
            server(method(0, 10, 51, b"")),
        ],
        &expect![[r#"
            1: 50.10 {"queue":"none","passive":true} -> 20.40 {"reply_code":404,"reply_text":"NOT_FOUND","class_id":50,"method_id":10} q0 failed
            1: 20.40 {"reply_code":404,"reply_text":"NOT_FOUND","class_id":50,"method_id":10} -> 20.41  q0 failed
            2: 50.10 {"queue":"other"} -> 50.11 {"queue":"other","message_count":3,"consumer_count":1} q0
            2: 50.10 {"queue":"more"} -> 10.50 {"reply_code":200,"reply_text":"bye","class_id":50,"method_id":10} q0
            0: 10.50 {"reply_code":200,"reply_text":"bye","class_id":50,"method_id":10} -> 10.51  q0"#]],
    );
}

#[test]
fn a_hole_in_a_message_costs_nothing() {
    let whole =
        [publish(1, "k"), message(1, &vec![b'x'; 100_000], 100_000), declare(1, "q", 0)].concat();
    let sent = [
        client(&whole[..9_000]),
        Sent::Hole(Side::Client, 80_000),
        client(&whole[89_000..]),
        server(declare_ok(1, "q")),
    ];
    let shown = hear::<Amqp>(&sent, show);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].contains("\"body_size\":100000"), "{shown:?}");
    check_any_split::<Amqp>(&[client(&whole), server(declare_ok(1, "q"))], show);
}

/// What is heard of a message of 30 bytes in frames of 8, and a method after it, where bytes between two
/// places are not captured; `ends_agreed` on that length.
fn with_a_hole(from: usize, until: usize, ends_agreed: bool) -> Vec<String> {
    let tune = [[0, 0].as_slice(), &[0, 0, 0, 16], &[0, 0]].concat();
    let whole = [publish(1, "k"), message(1, &[b'x'; 30], 8), declare(1, "q", 0)].concat();
    let sent = [
        server(if ends_agreed { method(0, 10, 30, &tune) } else { Vec::new() }),
        client(if ends_agreed { method(0, 10, 31, &tune) } else { Vec::new() }),
        client(&whole[..from]),
        Sent::Hole(Side::Client, u64::try_from(until - from).unwrap()),
        client(&whole[until..]),
        server(declare_ok(1, "q")),
    ];
    let rows = hear::<Amqp>(&sent, show);
    rows[usize::from(ends_agreed)..].to_vec()
}

#[test]
fn heads_of_a_messages_frames_are_foreseen() {
    let published = publish(1, "k").len();
    let body = published + message(1, b"", 8).len();
    let end = published + message(1, &[b'x'; 30], 8).len();
    let rows = [
        r#"1: 60.40 {"exchange":"logs","routing_key":"k","body_size":30} -> 0.0  q0"#,
        r#"1: 50.10 {"queue":"q"} -> 50.11 {"queue":"q","message_count":3,"consumer_count":1} q0"#,
    ];
    for until in [body + 30, end - 12, end - 1, end] {
        for from in [body + 7, body + 10, body + 16, body + 20] {
            assert_eq!(with_a_hole(from, until, false), rows, "{from} {until}");
        }
        // No frame of the message was seen, so it has to be known how long they are.
        for from in [body - 2, body, body + 3] {
            assert_eq!(with_a_hole(from, until, true), rows, "{from} {until}");
            assert_ne!(with_a_hole(from, until, false), rows, "{from} {until}");
        }
    }
    for until in [end + 1, end + 5] {
        assert!(with_a_hole(body + 10, until, true)[0].starts_with("lost 1..="), "{until}");
    }
}

#[test]
fn a_message_whose_foreseen_frames_nothing_follows_is_incomplete() {
    let begun = [publish(1, "k"), message(1, &[b'x'; 30], 8)].concat();
    let sent = [client(&begun[..begun.len() - 20]), Sent::Hole(Side::Client, 12)];
    let expected =
        expect![[r#"1: 60.40 {"exchange":"logs","routing_key":"k","body_size":30} -> 0.0  q5"#]];
    expected.assert_eq(&hear::<Amqp>(&sent, show).join("\n"));
}

#[test]
fn what_follows_on_foreseen_frames_and_is_none_is_a_gap_that_counts_them() {
    // What is hidden is another channel's message, so the next frame is not where it is expected: there were
    // room for nine requests in the 112 foreseen bytes, and for four in the 52 after them.
    let hidden = [publish(2, "k"), message(2, b"", 20)].concat();
    let last = frame(3, 1, &[b'x'; 20]);
    let begun = message(1, b"", 20).len() + 2 * last.len();
    let begun = [publish(1, "k"), message(1, &[b'x'; 120], 20)[..begun].to_vec()].concat();
    let hole = Sent::Hole(Side::Client, u64::try_from(hidden.len()).unwrap());
    let heard = hear::<Amqp>(&[client(begun), hole, client(last.repeat(4))], show);
    let expected = expect![[r#"
        1: 60.40 {"exchange":"logs","routing_key":"k","body_size":120} -> 0.0  q0
        lost 0..=13 parse_error"#]];
    expected.assert_eq(&heard.join("\n"));
}

#[test]
fn after_a_gap_either_side_takes_up_again_at_a_method() {
    let sent = [
        client(publish(1, "k")),
        Sent::Hole(Side::Client, 200),
        client(b"the rest of a body\xce"),
        server(b"the rest of a body\xce"),
        server([deliver(1, 6), message(1, b"hi", 64)].concat()),
        server([deliver(1, 7), message(1, b"hi", 64)].concat()),
        client(ack(1, 7)),
    ];
    let expected = expect![[r#"
        1: 0.0  -> 60.60 {"consumer_tag":"ctag","delivery_tag":7,"redelivered":true,"exchange":"logs","routing_key":"k","body_size":2} q0
        1: 60.80 {"delivery_tag":7,"multiple":true} -> 0.0  q0
        lost 2..=21 ring_full"#]];
    expected.assert_eq(&hear::<Amqp>(&sent, show).join("\n"));
}

#[test]
fn no_pair_spans_a_gap() {
    let sent = [
        client(declare(1, "a", 0)),
        Sent::Hole(Side::Server, 23),
        client(declare(1, "b", 0)),
        server(declare_ok(1, "b")),
        client(declare(1, "c", 0)),
        server(declare_ok(1, "c")),
    ];
    let expected = expect![[r#"
        1: 50.10 {"queue":"c"} -> 50.11 {"queue":"c","message_count":3,"consumer_count":1} q0
        lost 2..=3 ring_full"#]];
    expected.assert_eq(&hear::<Amqp>(&sent, show).join("\n"));
}

#[test]
fn wild_lengths_and_unknown_methods_end_the_pairing() {
    let good = declare(1, "queue", 0);
    for (at, byte) in [(0, 4), (3, 0xff), (6, 1), (8, 51), (10, 99), (13, 200), (good.len() - 1, 0)]
    {
        let mut bad = good.clone();
        bad[at] = byte;
        let shown = hear::<Amqp>(&[client(GREETING), client(&bad)], show);
        assert!(shown.len() == 1 && shown[0].ends_with("parse_error"), "{at}: {shown:?}");
        assert!(!Amqp::default().begins_request(&bad), "{at}");
    }
    let too_long = [publish(1, "k"), message(1, b"four", 4), frame(3, 1, b"more")].concat();
    assert_eq!(hear::<Amqp>(&[client(too_long)], show).len(), 1);
}

#[test]
fn its_greeting_or_two_frames_tell_it_apart() {
    let published = [publish(1, "k"), message(1, b"hello", 64)].concat();
    let delivered = [deliver(1, 1), message(1, b"hello", 64)].concat();
    assert_eq!(probe_request(GREETING), Probe::Yes);
    assert_eq!(probe_request(&GREETING[..5]), Probe::Maybe);
    assert_eq!(probe_request(&published), Probe::Yes);
    assert_eq!(probe_response(&published), Probe::No);
    assert_eq!(probe_response(&delivered), Probe::Yes);
    assert_eq!(probe_request(&publish(1, "k")), Probe::Maybe);
    assert_eq!(probe_request(&[ack(1, 1), ack(1, 2)].concat()), Probe::Maybe);
    for other in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"*1\r\n$4\r\nPING\r\n",
        b"INFO {\"a\":1}\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"AMQP\0\x01\0\0",
        b"\x01\0\0\0\x01\0\0\0\x0a\0\0\0\xdd\x07\0\0",
    ] {
        assert_eq!((probe_request(other), probe_response(other)), (Probe::No, Probe::No));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec(
            (any::<bool>(), 1_u8..4, 0_u16..3, proptest::collection::vec(any::<u8>(), 0..40)),
            0..12,
        ),
    ) {
        let parts = parts.into_iter().map(|(from_client, kind, channel, bytes)| {
            (from_client, [publish(channel, "k"), frame(kind, channel, &bytes), bytes].concat())
        });
        check_any_bytes::<Amqp>(parts.collect());
    }

    #[test]
    fn random_bytes_are_never_taken_for_it(bytes in proptest::collection::vec(any::<u8>(), 11..64)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
        prop_assert_ne!(probe_response(&bytes), Probe::Yes);
    }
}
