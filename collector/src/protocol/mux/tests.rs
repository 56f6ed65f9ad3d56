use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, flights, hear, server, split,
};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn show(finished: &Finished) -> String {
    let Finished::Mux(timed) = finished else { return format!("{finished:?}") };
    let Exchange { kind, dest, request_size, response_size, outcome, .. } = &timed.call;
    format!("{kind} {dest:?} {request_size} {response_size} {outcome:?} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Mux>(sent, show).join("\n"));
    check_any_split::<Mux>(sent, show);
}

fn frame(kind: i8, tag: u32, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let size = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    let [_, tag @ ..] = tag.to_be_bytes();
    [&size[..], &kind.to_be_bytes(), &tag, body].concat()
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A call of `dest` with a deadline in its contexts.
fn dispatch_body(dest: &str, payload: &[u8]) -> Vec<u8> {
    let context = [vector(b"com.twitter.finagle.Deadline"), vector(&[0; 16])].concat();
    [&[0, 1][..], &context, &vector(dest.as_bytes()), &[0, 0], payload].concat()
}

fn dispatch(tag: u32, dest: &str, payload: &[u8]) -> Vec<u8> {
    frame(kind::DISPATCH, tag, dispatch_body(dest, payload))
}

/// A reply to a call, with a status and no contexts.
fn reply(tag: u32, status: u8, payload: &[u8]) -> Vec<u8> {
    frame(-kind::DISPATCH, tag, [&[status, 0, 0], payload].concat())
}

fn init(kind: i8) -> Vec<u8> {
    let header =
        |text: &[u8]| [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat();
    frame(kind, 1, [&[0, 1][..], &header(b"mux-framer"), &header(&[0, 0, 64, 0])].concat())
}

/// What a client sends before all else, and what a server says back.
fn init_check() -> Vec<u8> {
    frame(kind::OLD_ERROR, 1, INIT_CHECK)
}

#[test]
fn a_session_is_a_row_for_each_exchange() {
    check(
        &[
            client(init_check()),
            server(init_check()),
            client(init(kind::INIT)),
            server(init(-kind::INIT)),
            client(dispatch(2, "/s/users/get", b"who")),
            server(reply(2, 0, b"me")),
            client(frame(kind::REQUEST, 3, [&[1, 1, 24][..], &[0; 24], b"old"].concat())),
            server(frame(-kind::REQUEST, 3, b"\0good")),
            server(frame(kind::PING, 1, b"")),
            client(frame(-kind::PING, 1, b"")),
            server(frame(kind::DRAIN, 2, b"")),
            client(frame(-kind::DRAIN, 2, b"")),
        ],
        &expect![[r#"
            68 "" 32 32 Answered q0
            2 "/s/users/get" 77 13 Answered q0
            1 "" 38 13 Answered q0
            65 "" 8 8 Answered q0
            64 "" 8 8 Answered q0"#]],
    );
}

#[test]
fn what_another_implementation_writes_is_read() {
    // By the codec of the crate `mux` 0.1.1.
    let session = flights(include_str!("tests/session.hex"));
    let sent: Vec<_> = session.into_iter().map(Sent::from).collect();
    check(
        &sent,
        &expect![[r#"
        68 "" 32 32 Answered q0
        1 "" 41 13 Answered q0
        2 "/s/carts" 322 15 Failed q0
        2 "/s/users/get" 172 28 Answered q0
        65 "" 8 8 Answered q0
        2 "/s/late" 21 19 Failed q0
        64 "" 8 8 Answered q0"#]],
    );
}

#[test]
fn replies_come_in_any_order_and_fail_in_several_ways() {
    check(
        &[
            client(
                [dispatch(2, "/a", b""), dispatch(3, "/b", b""), dispatch(4, "/c", b"")].concat(),
            ),
            client([dispatch(5, "/d", b""), dispatch(6, "/e", b""), dispatch(7, "", b"")].concat()),
            server([reply(4, 0, b""), reply(3, 1, b"no"), reply(2, 2, b"")].concat()),
            server(frame(kind::ERROR, 5, b"what?")),
            client(frame(kind::OLD_DISCARDED, 0, b"\0\0\x06too late")),
            server(frame(-kind::DISCARDED, 6, b"")),
            server(frame(kind::LEASE, 0, [0; 9])),
            server(frame(kind::OLD_ERROR, 7, b"what?")),
        ],
        &expect![[r#"
            2 "/c" 64 11 Answered q0
            2 "/b" 64 13 Failed q0
            2 "/a" 64 11 Failed q0
            2 "/d" 64 13 Failed q0
            2 "/e" 64 8 Failed q0
            2 "" 62 13 Failed q0"#]],
    );
}

#[test]
fn the_same_tag_of_either_side_is_not_the_same() {
    check(
        &[
            client(frame(kind::PING, 1, b"")),
            server(frame(kind::PING, 1, b"")),
            server(frame(-kind::PING, 1, b"")),
            client(frame(-kind::PING, 1, b"")),
        ],
        &expect![[r#"
            65 "" 8 8 Answered q0
            65 "" 8 8 Answered q0"#]],
    );
}

#[test]
fn fragments_with_others_between_them_are_one_message() {
    let body = dispatch_body("/s/large", &[7; 100]);
    let more = 1 << 23;
    check(
        &[
            client(frame(kind::DISPATCH, 2 | more, &body[..80])),
            client(dispatch(3, "/s/small", b"")),
            client(frame(kind::DISPATCH, 2, &body[80..])),
            server(frame(-kind::DISPATCH, 2 | more, b"\0\0\0part")),
            server(reply(3, 0, b"")),
            server(frame(-kind::DISPATCH, 2, b"\x01 and the rest")),
        ],
        &expect![[r#"
            2 "/s/small" 70 11 Answered q0
            2 "/s/large" 178 37 Answered q0"#]],
    );
}

#[test]
fn payloads_are_passed_over_and_may_have_gaps() {
    let call = dispatch(2, "/s/put", &vec![1; 20_000]);
    let answer = reply(2, 0, &vec![2; 30_000]);
    check(
        &[
            client(&call[..9000]),
            Sent::Hole(Side::Client, 5000),
            client(&call[14_000..]),
            server(&answer[..10_000]),
            Sent::Hole(Side::Server, 20_000),
            server(&answer[30_000..]),
        ],
        &expect![[r#"2 "/s/put" 20068 30011 Answered q0"#]],
    );
}

#[test]
fn a_call_without_reply_ends_with_its_connection_or_with_its_tag() {
    check(
        &[client(dispatch(2, "/first", b"")), client(dispatch(2, "/second", b""))],
        &expect![[r#"
            2 "/first" 68 0 Unanswered q0
            2 "/second" 69 0 Unanswered q4"#]],
    );
}

#[test]
fn after_a_gap_no_reply_is_given_to_another_call() {
    let call = dispatch(3, "/lost", b"");
    let heard = hear::<Mux>(
        &[
            client(dispatch(2, "/before", b"")),
            client(&call[..20]),
            Sent::Hole(Side::Client, call.len() as u64 - 20),
            server([reply(2, 0, b""), reply(3, 0, b"")].concat()),
            client(dispatch(4, "/trial", b"")),
            server(reply(4, 0, b"")),
            client(dispatch(5, "/kept", b"")),
            server([reply(2, 0, b""), reply(5, 0, b"")].concat()),
        ],
        show,
    );
    expect![[r#"
        2 "/kept" 67 11 Answered q0
        lost 2..=13 ring_full"#]]
    .assert_eq(&heard.join("\n"));
}

#[test]
fn a_server_that_asks_without_end_is_not_remembered_without_end() {
    let asks: Vec<_> = (1..5000).flat_map(|tag| frame(kind::PING, tag, b"")).collect();
    let heard = hear::<Mux>(&[client(dispatch(1, "/a", b"")), server(asks)], show);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].contains("in_flight_full"), "{heard:?}");
}

#[test]
fn only_a_client_of_mux_is_taken_for_one() {
    for whole in [init_check(), init(kind::INIT), dispatch(2, "/s/get", b"x")] {
        assert_eq!(probe_request(&whole), Probe::Yes);
        for end in 0..whole.len() {
            assert_ne!(probe_request(&whole[..end]), Probe::No, "{end} of {whole:?}");
        }
    }
    for other in [
        &frame(-kind::DISPATCH, 2, b"\0\0\0")[..],
        b"\0\0\0\x0c\0\x12\0\0\0\0\0\x01\0\x02me",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x1c\x80\x01\0\x01\0\0\0\x04call",
        &frame(kind::INIT, 1, b"\0\x02"),
        &frame(kind::INIT, 1, b"\0\x01\0\0\0\x09short"),
        &frame(kind::DISPATCH, 2, b"\0\0\0\0\0\0"),
        &frame(kind::DISPATCH, 2, b"\0\x01\0\x02\x01\x02\0\0\0\0\0\0"),
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(probe_request(other), Probe::No, "{other:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), any::<Vec<u8>>()), 0..12),
    ) {
        check_any_bytes::<Mux>(parts);
    }

    #[test]
    fn any_frames_are_read_without_a_panic(
        frames in proptest::collection::vec(
            (any::<bool>(), any::<i8>(), 0_u32..1 << 24, proptest::collection::vec(any::<u8>(), 0..40)),
            0..20,
        ),
        cut in 1_usize..60,
    ) {
        let sent: Vec<_> = frames
            .into_iter()
            .map(|(from_client, kind, tag, body)| {
                let bytes = frame(kind, tag, body);
                if from_client { client(bytes) } else { server(bytes) }
            })
            .collect();
        hear::<Mux>(&split(&sent, cut), show);
    }

    #[test]
    fn every_call_is_paired_with_its_own_reply(
        calls in proptest::collection::vec((any::<u32>(), 0_usize..200), 1..40),
        cut in 1_usize..70,
    ) {
        // Replies in another order than calls, each as long as the call's name says.
        let mut order: Vec<_> = (0..calls.len()).collect();
        order.sort_by_key(|at| calls[*at].0);
        let tag = |at: usize| u32::try_from(at + 2).unwrap();
        let asked: Vec<_> = (0..calls.len())
            .flat_map(|at| dispatch(tag(at), &format!("/{}", calls[at].1), b""))
            .collect();
        let told: Vec<_> = order.iter().flat_map(|at| reply(tag(*at), 0, &vec![0; calls[*at].1])).collect();
        let heard = hear::<Mux>(&split(&[client(asked), server(told)], cut), |finished| {
            let Finished::Mux(timed) = finished else { panic!("{finished:?}") };
            format!("{} {}", timed.call.dest, timed.call.response_size)
        });
        let expected: Vec<_> =
            order.iter().map(|at| format!("/{} {}", calls[*at].1, calls[*at].1 + 11)).collect();
        prop_assert_eq!(heard, expected);
    }
}
