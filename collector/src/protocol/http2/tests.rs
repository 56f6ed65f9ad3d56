use super::hpack::encoder::{Encoder, Literal};
use super::talk::*;
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&run(sent).join("\n"));
    let whole = run(sent);
    for bytes in [1, 2, 3, 5, 7, 16, 61] {
        assert_eq!(run(&split(sent, bytes)), whole, "in operations of {bytes} bytes");
    }
}

fn beginning() -> [Sent; 3] {
    [c(preface()), s(settings(&[(3, 100)])), s(frame(4, ACK, 0, &[]))]
}

#[test]
fn a_request_and_its_response_are_one_exchange() {
    let mut ends = Ends::new();
    let post = ends.client.block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/p?q=1"),
        (":authority", "h:80"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ]);
    let answer = ends.server.block(&[(":status", "404"), ("content-type", "application/json")]);
    let sent = [
        &beginning()[..],
        &[
            c([frame(1, END_HEADERS, 1, &post), data(1, b"hello", 0)].concat()),
            c(data(1, b"", END_STREAM)),
            s([frame(1, END_HEADERS, 1, &answer), data(1, b"no", 0), data(1, b"ne", 1)].concat()),
        ],
    ]
    .concat();
    check(
        &sent,
        &expect![[
            r#"POST /p?q=1 {":authority":"h:80","cookie":"a=1; b=2"} 5:"hello" -> 404  {"content-type":"application/json"} 4:"none" q0"#
        ]],
    );
}

#[test]
fn streams_are_answered_in_any_order_and_each_with_its_own_latency() {
    let mut ends = Ends::new();
    let mut run = Run::new(Start::AtItsBeginning);
    let [one, three, five] = [1, 3, 5].map(|n| ends.get(n, &format!("/{n}"), END_STREAM));
    run.send(&c([preface(), one[..4].to_vec()].concat()));
    run.send(&c([&one[4..], &three].concat()));
    run.send(&s([ends.ok(3, "/3", 0), data(3, b"3", 0)].concat()));
    run.send(&c(five));
    run.send(&s([ends.ok(5, "/5", END_STREAM), ends.ok(1, "/1", 0)].concat()));
    run.send(&s([data(1, b"", 1), data(3, b"", 1)].concat()));
    let seen: Vec<_> = run
        .exchanges()
        .map(|exchange| {
            let latency = exchange.responded_at - exchange.requested_at;
            assert!(exchange.resp_headers.contains(&exchange.path));
            assert_eq!((exchange.major_version, exchange.minor_version), (2, 0));
            format!("{} {latency}", exchange.path)
        })
        .collect();
    assert_eq!(seen, ["/5 1", "/1 5", "/3 4"]);
    assert_eq!(run.http.in_flight(), 0);
}

#[test]
fn headers_go_on_in_further_frames_and_padding_and_priority_are_no_headers() {
    let mut ends = Ends::new();
    let block = ends.client.block(&[(":method", "PUT"), (":path", "/long"), ("x", "y")]);
    let mut first = vec![3, 0, 0, 0, 0, 16];
    first.extend_from_slice(&block[..2]);
    first.extend_from_slice(&[0; 3]);
    let answer = ends.ok(1, "/long", 0);
    let sent = [
        &beginning()[..],
        &[
            c(frame(1, PADDED | PRIORITY, 1, &first)),
            c(frame(9, 0, 1, &[])),
            c(frame(9, 0, 1, &block[2..5])),
            c(frame(9, END_HEADERS, 1, &block[5..])),
            c(frame(2, 0, 1, &[0; 5])),
            c(data(1, b"\x04body\0\0\0\0", PADDED)),
            c(data(1, b"\0!", PADDED | END_STREAM)),
            s([answer, frame(0x77, 9, 1, b"unknown"), data(1, b"\x01.\0", PADDED | 1)].concat()),
        ],
    ]
    .concat();
    check(
        &sent,
        &expect![[r#"PUT /long {"x":"y"} 5:"body!" -> 200  {"x-path":"/long"} 1:"." q0"#]],
    );
}

#[test]
fn grpc_is_known_by_its_content_type_and_says_more_in_trailers() {
    let mut ends = Ends::new();
    let mut run = Run::new(Start::AtItsBeginning);
    let grpc = ("content-type", "application/grpc+proto");
    let call = ends.client.block(&[(":method", "POST"), (":path", "/pkg.Svc/Do"), grpc]);
    let answer = ends.server.block(&[(":status", "200"), grpc]);
    let trailers = ends.server.block(&[("grpc-status", "5"), ("grpc-message", "not found")]);
    run.send(&c([preface(), frame(1, 4, 1, &call), data(1, b"\0\0\0\0\0", 1)].concat()));
    run.send(&s([frame(1, 4, 1, &answer), frame(1, END_HEADERS | 1, 1, &trailers)].concat()));
    // An error may come in headers alone.
    let only = [(":status", "200"), grpc, ("grpc-status", "12"), ("grpc-message", "no such")];
    run.send(&c(
        [frame(1, 4, 3, &ends.client.block(&[(":method", "POST")])), data(3, b"", 1)].concat()
    ));
    run.send(&s(frame(1, END_HEADERS | END_STREAM, 3, &ends.server.block(&only))));
    let exchanges: Vec<_> = run.exchanges().collect();
    for (exchange, message, status) in
        [(exchanges[0], "not found", "5"), (exchanges[1], "no such", "12")]
    {
        assert_eq!(exchange.content_type as i64, 2);
        assert_eq!((exchange.resp_status, exchange.resp_message.as_str()), (200, message));
        let headers: serde_json::Value = serde_json::from_str(&exchange.resp_headers).unwrap();
        assert_eq!(headers["grpc-status"], status);
        assert_eq!(headers["grpc-message"], message);
        assert_eq!(headers["content-type"], grpc.1);
    }
}

#[test]
fn an_interim_response_does_not_answer_the_request() {
    let mut ends = Ends::new();
    let hints = ends.server.block(&[(":status", "103"), ("link", "x")]);
    let sent = [
        c([preface(), ends.get(1, "/a", END_STREAM)].concat()),
        s(frame(1, END_HEADERS, 1, &hints)),
        s([ends.ok(1, "/a", 0), data(1, b"late", END_STREAM)].concat()),
    ];
    check(&sent, &expect![[r#"GET /a {"a":"b"} 0:"" -> 200  {"x-path":"/a"} 4:"late" q0"#]]);
}

#[test]
fn a_promised_request_is_a_row_of_its_own() {
    let mut ends = Ends::new();
    let get = ends.get(1, "/page", END_STREAM);
    let headers = [(":method", "GET"), (":scheme", "http"), (":path", "/style")];
    let promise = [&2_u32.to_be_bytes()[..], &ends.server.block(&headers)].concat();
    let page = ends.ok(1, "/page", END_STREAM);
    let style = ends.ok(2, "/style", 0);
    let sent = [
        c([preface(), get].concat()),
        s([frame(5, END_HEADERS, 1, &promise), page].concat()),
        s([style, data(2, b"css", END_STREAM)].concat()),
    ];
    check(
        &sent,
        &expect![[r#"
            GET /page {"a":"b"} 0:"" -> 200  {"x-path":"/page"} 0:"" q0
            GET /style {} 0:"" -> 200  {"x-path":"/style"} 3:"css" q0"#]],
    );
}

#[test]
fn a_request_on_a_stream_before_the_last_is_no_row_and_counted() {
    let mut ends = Ends::new();
    let talk = [
        c([preface(), ends.get(7, "/7", END_STREAM)].concat()),
        s(ends.ok(7, "/7", END_STREAM)),
        c(ends.get(5, "/5", END_STREAM)),
        s(ends.ok(5, "/5", END_STREAM)),
    ];
    let shown = run(&talk);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[1], "lost 0..=1 parse_error");
}

#[test]
fn a_request_on_a_stream_that_is_under_way_is_no_row_and_counted() {
    let mut ends = Ends::new();
    let headers = [(":method", "GET"), (":scheme", "http"), (":path", "/style")];
    let promise = [&2_u32.to_be_bytes()[..], &ends.server.block(&headers)].concat();
    let again = [&2_u32.to_be_bytes()[..], &ends.server.block(&headers)].concat();
    check(
        &[
            c([preface(), ends.get(7, "/first", 0)].concat()),
            c(ends.get(7, "/second", END_STREAM)),
            s([frame(5, END_HEADERS, 7, &promise), frame(5, END_HEADERS, 7, &again)].concat()),
            s([ends.ok(7, "/first", END_STREAM), ends.ok(2, "/style", END_STREAM)].concat()),
        ],
        // Headers of the second are none of the first.
        &expect![[r#"
            GET /first {"a":"b"} 0:"" -> 200  {"x-path":"/first"} 0:"" q0
            GET /style {} 0:"" -> 200  {"x-path":"/style"} 0:"" q0
            lost 0..=2 parse_error"#]],
    );
}

#[test]
fn promises_that_are_lost_are_within_the_bounds_unless_the_client_forbids_them() {
    for (settings, lost) in [
        (settings(&[(3, 100)]), "lost 2..=7 ring_full"),
        (settings(&[(2, 0)]), "lost 2..=2 ring_full"),
    ] {
        let mut ends = Ends::new();
        let first = [frame::PREFACE, &settings, &ends.get(1, "/1", END_STREAM)].concat();
        let talk = [
            c(first),
            Sent::Hole(Side::Server, 50),
            c(ends.get(3, "/3", END_STREAM)),
            s(ends.ok(3, "/3", END_STREAM)),
        ];
        // The second began before responses were read again.
        assert_eq!(run(&talk), [lost]);
    }
}

#[test]
fn a_reset_ends_a_stream_with_what_was_seen_and_what_comes_after_it_is_ignored() {
    let mut ends = Ends::new();
    let gets = [1, 3, 5].map(|n| ends.get(n, &format!("/{n}"), END_STREAM)).concat();
    let upload = ends.get(7, "/7", 0);
    let sent = [
        c([preface(), gets, upload].concat()),
        s([ends.ok(3, "/3", 0), data(3, b"half", 0)].concat()),
        c([reset(1), reset(3)].concat()),
        s([ends.ok(1, "/1", 0), data(1, b"x", 1), data(3, b"x", 1), reset(5)].concat()),
        s([ends.ok(7, "/7", END_STREAM), reset(7)].concat()),
        c(data(7, b"unread", END_STREAM)),
    ];
    check(
        &sent,
        &expect![[r#"
            GET /1 {"a":"b"} 0:"" -> 0   0:"" q4
            GET /3 {"a":"b"} 0:"" -> 200  {"x-path":"/3"} 4:"half" q4
            GET /5 {"a":"b"} 0:"" -> 0   0:"" q4
            GET /7 {"a":"b"} 0:"" -> 200  {"x-path":"/7"} 0:"" q0"#]],
    );
}

#[test]
fn a_server_that_goes_away_answers_no_stream_after_its_last() {
    let mut ends = Ends::new();
    let gets = [1, 3].map(|n| ends.get(n, &format!("/{n}"), END_STREAM)).concat();
    let away = frame(7, 0, 0, b"\0\0\0\x01\0\0\0\0and a reason");
    let sent = [c([preface(), gets].concat()), s(away), s(ends.ok(1, "/1", END_STREAM))];
    check(
        &sent,
        &expect![[r#"
            GET /3 {"a":"b"} 0:"" -> 0   0:"" q4
            GET /1 {"a":"b"} 0:"" -> 200  {"x-path":"/1"} 0:"" q0"#]],
    );
}

#[test]
fn the_end_of_the_connection_ends_its_streams() {
    let mut ends = Ends::new();
    let sent = [
        c([preface(), ends.get(1, "/1", END_STREAM), ends.get(3, "/3", END_STREAM)].concat()),
        s([ends.ok(3, "/3", 0), data(3, b"half", 0)].concat()),
        c(&ends.get(5, "/5", END_STREAM)[..12]),
    ];
    check(
        &sent,
        &expect![[r#"
            GET /1 {"a":"b"} 0:"" -> 0   0:"" q0
            GET /3 {"a":"b"} 0:"" -> 200  {"x-path":"/3"} 4:"half" q4"#]],
    );
}

#[test]
fn a_table_that_the_other_end_allowed_may_grow_and_a_frame_too() {
    let mut ends = Ends::new();
    let mut block = Vec::new();
    ends.client.resize(10_000, &mut block);
    let long = "v".repeat(7000);
    for (name, value) in [(":method", "GET"), (":path", "/a"), ("long", &long)] {
        ends.client.field(name, value, Literal::Kept, &mut block);
    }
    let again = ends.client.block(&[(":method", "GET"), (":path", "/b"), ("long", &long)]);
    let talk = |settings: Vec<u8>| {
        [
            c(preface()),
            s(settings),
            c([frame(4, ACK, 0, &[]), frame(1, 5, 1, &block), frame(1, 5, 3, &again)].concat()),
            c(data(1, &vec![0; 20_000], 0)),
        ]
    };
    let lines = run(&talk(settings(&[(1, 10_000), (5, 1 << 20)])));
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.contains(&long)));
    let lines = run(&talk(settings(&[(1, 10_000)])));
    assert_eq!(lines, ["lost 2..=2002 parse_error"], "the frame is too large");
    let lines = run(&talk(settings(&[(5, 1 << 20)])));
    assert!(lines[0].starts_with("lost 0..="), "the table is too large: {lines:?}");
}

#[test]
fn a_hole_inside_data_changes_nothing_but_the_quality() {
    let mut ends = Ends::new();
    let (get, answer) = (ends.get(1, "/a", 0), ends.ok(1, "/a", 0));
    let second = ends.exchange(3, "/b");
    let sent = [
        &[
            c([preface(), get, data(1, &[b'x'; 30], 0)[..14].to_vec()].concat()),
            Sent::Hole(Side::Client, 25),
            c(data(1, b"", END_STREAM)),
            s([answer, data(1, &[b'y'; 50], END_STREAM)[..11].to_vec()].concat()),
            Sent::Hole(Side::Server, 48),
        ],
        &second[..],
    ]
    .concat();
    check(
        &sent,
        &expect![[r#"
            GET /a {"a":"b"} 30:"xxxxx" -> 200  {"x-path":"/a"} 50:"yy" q1
            GET /b {"a":"b"} 0:"" -> 200  {"x-path":"/b"} 2:"hi" q0"#]],
    );
}

#[test]
fn after_a_gap_in_requests_headers_that_refer_to_it_are_unknown() {
    let mut ends = Ends::new();
    let first = ends.exchange(1, "/a");
    let lost = ends.get(3, "/b", END_STREAM);
    let third = ends.exchange(5, "/c");
    let fourth = ends.exchange(7, "/b");
    let sent = [
        &beginning()[..],
        &first,
        &[Sent::Hole(Side::Client, lost.len() as u64)],
        &[s(ends.ok(3, "/b", END_STREAM))],
        &third,
        &fourth,
    ]
    .concat();
    expect![[r#"
        GET /a {"a":"b"} 0:"" -> 200  {"x-path":"/a"} 2:"hi" q0
        GET /c {"?":"?"} 0:"" -> 200  {"x-path":"/c"} 2:"hi" q8
        GET ? {"?":"?, ?"} 0:"" -> 200  {"x-path":"/b"} 2:"hi" q8
        lost 0..=1 ring_full"#]]
    .assert_eq(&run(&sent).join("\n"));
}

#[test]
fn after_a_gap_in_responses_streams_that_began_before_they_are_read_again_are_lost() {
    let mut ends = Ends::new();
    let mut talk = beginning().to_vec();
    let [one, three, five] = [1, 3, 5].map(|n| ends.get(n, &format!("/{n}"), END_STREAM));
    let lost = ends.ok(1, "/1", END_STREAM);
    talk.extend([c(one), Sent::Hole(Side::Server, lost.len() as u64), c(three)]);
    // Their headers refer to what was lost.
    talk.push(s([ends.ok(3, "/1", 0), data(3, b"hi", END_STREAM)].concat()));
    talk.push(c(five));
    talk.push(s([ends.ok(5, "/1", 0), data(5, b"hi", END_STREAM)].concat()));
    expect![[r#"
        GET /5 {"a":"b"} 0:"" -> 200  {"?":"?"} 2:"hi" q8
        lost 2..=4 ring_full"#]]
    .assert_eq(&run(&talk).join("\n"));
}

#[test]
fn a_connection_joined_midway_says_so_and_knows_what_it_sees() {
    let mut ends = Ends::new();
    ends.exchange(1, "/old");
    let mut run = Run::new(Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 });
    // An answer to a request that was not seen, and trailers of another.
    run.send(&s(ends.ok(3, "/old", END_STREAM)));
    let mut talk = ends.exchange(5, "/old").to_vec();
    talk.extend(ends.exchange(7, "/new"));
    talk.extend(ends.exchange(9, "/new"));
    for sent in &talk {
        run.send(sent);
    }
    expect![[r#"
        GET ? {"?":"?, ?"} 0:"" -> 200  {"?":"?"} 2:"hi" q10
        GET /new {"?":"?"} 0:"" -> 200  {"?":"/new"} 2:"hi" q10
        GET /new {"?":"?"} 0:"" -> 200  {"?":"/new"} 2:"hi" q10"#]]
    .assert_eq(&run.finish().join("\n"));
}

#[test]
fn bytes_that_are_no_frames_are_counted_and_frames_found_again() {
    let mut ends = Ends::new();
    let mut talk = beginning().to_vec();
    talk.extend(ends.exchange(1, "/1"));
    talk.push(c(ends.get(3, "/3", END_STREAM)));
    talk.push(c("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    talk.push(c("and so on"));
    talk.extend(ends.exchange(5, "/1"));
    expect![[r#"
        GET /1 {"a":"b"} 0:"" -> 200  {"x-path":"/1"} 2:"hi" q0
        GET ? {"?":"?, ?"} 0:"" -> 200  {"x-path":"/1"} 2:"hi" q8
        lost 1..=4 parse_error"#]]
    .assert_eq(&run(&talk).join("\n"));
}

#[test]
fn what_waits_for_a_response_is_bounded() {
    let mut run = Run::new(Start::AtItsBeginning);
    let mut encoder = Encoder::new();
    run.send(&c(preface()));
    let mut get = |n: usize, path: &str| {
        let block = encoder.block(&[(":method", "GET"), (":path", path)]);
        c(frame(1, END_HEADERS, u32::try_from(n * 2 + 1).unwrap(), &block))
    };
    for n in 0..IN_FLIGHT_MAX {
        run.send(&get(n, "/x"));
    }
    assert_eq!(run.http.in_flight(), IN_FLIGHT_MAX);
    run.send(&get(IN_FLIGHT_MAX, "/x"));
    assert_eq!(run.http.in_flight(), 0);
    assert!(!run.http.is_out_of_step());
    let lost = run.http.take_lost_rows().unwrap();
    let all = IN_FLIGHT_MAX as u64 + 1;
    assert_eq!((lost.rows_min, lost.rows_max, lost.cause), (all, all, Cause::InFlightFull));
    for n in 0..400 {
        run.send(&get(2000 + n, &format!("/{n}{}", "x".repeat(15_000))));
    }
    assert_eq!(run.http.take_lost_rows().unwrap().cause, Cause::InFlightFull);
}

#[test]
fn bodies_that_there_is_no_room_for_are_counted_only() {
    let mut ends = Ends::new();
    let mut run = Run::new(Start::AtItsBeginning);
    run.out.body_bytes_max = 1 << 20;
    run.send(&c(preface()));
    for stream in [1, 3, 5, 7, 9] {
        run.send(&c(ends.get(stream, "/upload", 0)));
        for _ in 0..64 {
            run.send(&c(data(stream, &[b'x'; 16_384], 0)));
        }
    }
    for stream in [1, 3, 5, 7, 9] {
        run.send(&c(data(stream, b"", END_STREAM)));
        run.send(&s(ends.ok(stream, "/upload", END_STREAM)));
    }
    let bodies: Vec<_> = run.exchanges().map(|done| (done.req_body.size, done.quality)).collect();
    let (whole, cut) = ((1 << 20, 0), (1 << 20, 1));
    assert_eq!(bodies, [whole, whole, whole, cut, cut]);
}

#[test]
fn headers_that_never_end_are_given_up() {
    let mut run = Run::new(Start::AtItsBeginning);
    run.send(&c([preface(), frame(1, 0, 1, b"\x82")].concat()));
    for _ in 0..5 {
        run.send(&c(frame(9, 0, 1, &[0; 16_000])));
    }
    assert!(run.http.is_out_of_step());
}

/// What a client asks for: how much it sends, how much it gets, and in which order of all.
fn requests() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    proptest::collection::vec((0_usize..40, 0_usize..40, any::<u8>()), 1..12)
}

/// Operations of a client that asks for all at once and a server that answers in any order.
fn conversation(requests: &[(usize, usize, u8)]) -> Vec<Sent> {
    let mut ends = Ends::new();
    let mut talk = beginning().to_vec();
    let mut answers = Vec::new();
    for (at, (sent, received, order)) in requests.iter().enumerate() {
        let stream = u32::try_from(at * 2 + 1).unwrap();
        let path = format!("/{at}");
        talk.push(c([ends.get(stream, &path, 0), data(stream, &vec![b'q'; *sent], 1)].concat()));
        answers.push((*order, stream, path, *received));
    }
    answers.sort();
    for (_, stream, path, received) in answers {
        let body = data(stream, &vec![b'r'; received], END_STREAM);
        talk.push(s([ends.ok(stream, &path, 0), body].concat()));
    }
    talk
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_exchanges(
        requests in requests(),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let talk = conversation(&requests);
        let mut cuts = cuts.into_iter().cycle();
        let parts: Vec<_> = talk
            .iter()
            .flat_map(|sent| split(std::slice::from_ref(sent), cuts.next().unwrap_or(1)))
            .collect();
        let whole = run(&talk);
        prop_assert_eq!(whole.len(), requests.len());
        prop_assert_eq!(run(&parts), whole);
    }

    #[test]
    fn losing_any_message_never_pairs_wrong_and_the_bounds_hold(
        requests in requests(),
        interleave in any::<u64>(),
        lost in any::<u64>(),
    ) {
        // Requests and responses come in turns as far as each response has its request.
        let mut ends = Ends::new();
        let mut run = Run::new(Start::AtItsBeginning);
        let mut waiting = Vec::new();
        let mut next = 0;
        let mut steps = beginning().to_vec();
        while next < requests.len() || !waiting.is_empty() {
            let asks = interleave >> (steps.len() % 64) & 1 == 0 || waiting.is_empty();
            if asks && next < requests.len() {
                let stream = u32::try_from(next * 2 + 1).unwrap();
                let path = format!("/{}", next % 4);
                steps.push(c(ends.get(stream, &path, END_STREAM)));
                waiting.push((stream, path));
                next += 1;
            } else {
                let (stream, path) = waiting.swap_remove(requests[0].0 % waiting.len());
                let tagged = format!("{path} {stream}");
                steps.push(s([ends.ok(stream, &tagged, 0), data(stream, b"hi", 1)].concat()));
            }
        }
        for (at, step) in steps.iter().enumerate() {
            let Sent::Bytes(side, bytes) = step else { continue };
            let is_lost = lost >> (at % 64) & 1 == 1;
            run.send(&if is_lost { Sent::Hole(*side, bytes.len() as u64) } else { step.clone() });
        }
        run.http.close(1000, &mut run.out);
        let lost = run.http.take_lost_rows();
        let done = run.out.done.len() as u64;
        for exchange in run.exchanges() {
            let headers: serde_json::Value = serde_json::from_str(&exchange.resp_headers).unwrap();
            let says = headers["x-path"].as_str().unwrap_or("?");
            let path = says.split(' ').next().unwrap();
            prop_assert!(exchange.path == path || exchange.path == "?" || path == "?", "{exchange:?}");
            prop_assert_eq!(exchange.resp_status, 200);
        }
        let missing = requests.len() as u64 - done;
        let (min, max) = lost.map_or((0, 0), |lost| (lost.rows_min, lost.rows_max));
        prop_assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
    }

    #[test]
    fn any_bytes_are_read_within_bounds(
        steps in proptest::collection::vec((0_u8..6, proptest::collection::vec(any::<u8>(), 0..200), 0_u32..50), 0..40),
    ) {
        let mut ends = Ends::new();
        let mut run = Run::new(Start::AtItsBeginning);
        run.send(&c(preface()));
        for (kind, bytes, number) in steps {
            let small = u8::try_from(number).unwrap();
            run.send(&match kind {
                0 => c(&bytes),
                1 => s(&bytes),
                2 => Sent::Hole(Side::Client, u64::from(number)),
                3 => Sent::Hole(Side::Server, u64::from(number)),
                4 => c(frame(small % 11, small, number % 9, &bytes)),
                _ => s([ends.ok(number, "/x", 0), frame(small % 11, small, number % 9, &bytes)].concat()),
            });
        }
        run.finish();
    }
}
