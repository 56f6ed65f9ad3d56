use super::*;
use crate::redaction::{Mode, Redaction};
use expect_test::{Expect, expect};
use proptest::prelude::*;

const FULL: Redaction = Redaction { headers: Mode::Full, bodies: Mode::Full };

/// One step of a test: bytes that a client or a server sends, or a hole.
#[derive(Clone, Debug)]
enum Sent {
    Client(String),
    Server(String),
    ClientHole(u64),
    ServerHole(u64),
}

fn c(text: &str) -> Sent {
    Sent::Client(text.to_owned())
}

fn s(text: &str) -> Sent {
    Sent::Server(text.to_owned())
}

fn exchanges(out: &Output) -> impl Iterator<Item = &Exchange> {
    out.done.iter().filter_map(|finished| {
        let Finished::Http(exchange) = finished else { return None };
        Some(exchange.as_ref())
    })
}

fn line(exchange: &Exchange) -> String {
    format!(
        "{} {} {}:{:?} -> {} {} {}:{:?} q{} {}",
        exchange.method,
        exchange.path,
        exchange.req_body.size,
        String::from_utf8_lossy(&exchange.req_body.kept),
        exchange.resp_status,
        exchange.resp_message,
        exchange.resp_body.size,
        String::from_utf8_lossy(&exchange.resp_body.kept),
        exchange.quality,
        exchange.responded_at.saturating_sub(exchange.requested_at),
    )
}

fn lost(http: &mut Http1, lines: &mut Vec<String>) {
    if let Some(lost) = http.take_lost_rows() {
        lines.push(format!("lost {}..={} {}", lost.rows_min, lost.rows_max, lost.cause.reason()));
    }
}

struct Run {
    http: Http1,
    out: Output,
    at: u64,
}

impl Run {
    fn new() -> Self {
        let http = Http1::new(Flow::Ingress, Start::AtItsBeginning);
        Self { http, out: Output::new(FULL, 16), at: 0 }
    }

    fn send(&mut self, sent: &Sent) {
        self.at += 1;
        let operation = Operation { at: self.at, ..Operation::default() };
        let out = &mut self.out;
        match sent {
            Sent::Client(text) => self.http.bytes(Flow::Ingress, text.as_bytes(), operation, out),
            Sent::Server(text) => self.http.bytes(Flow::Egress, text.as_bytes(), operation, out),
            Sent::ClientHole(n) => {
                self.http.hole(Flow::Ingress, *n, Missing::Lost, operation, out);
            }
            Sent::ServerHole(n) => self.http.hole(Flow::Egress, *n, Missing::Lost, operation, out),
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.at += 1;
        self.http.close(self.at, &mut self.out);
        let mut lines: Vec<_> = exchanges(&self.out).map(line).collect();
        lost(&mut self.http, &mut lines);
        lines
    }
}

fn run(sent: &[Sent]) -> Vec<String> {
    let mut run = Run::new();
    for sent in sent {
        run.send(sent);
    }
    run.finish()
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&run(sent).join("\n"));
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_request_and_its_response_are_one_exchange() {
    check(&[c(GET), s(OK)], &expect![[r#"GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]]);
}

#[test]
fn headers_are_kept_as_json() {
    let mut run = Run::new();
    run.send(&c(GET));
    run.send(&s(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
    ));
    let exchange = exchanges(&run.out).next().unwrap();
    assert_eq!(exchange.req_headers, r#"{"Host":"h"}"#);
    assert_eq!(
        exchange.resp_headers,
        r#"{"Content-Type":"application/json","Content-Length":"0"}"#
    );
    assert_eq!(exchange.content_type, crate::protocol::exchange::ContentType::Json);
    assert_eq!(exchange.minor_version, 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let two = "GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\n\r\n";
    let answers = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n2HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    check(
        &[c(two), s(answers)],
        &expect![[r#"
            GET /1 0:"" -> 200 OK 1:"1" q0 1
            POST /2 3:"abc" -> 201 Created 1:"2" q0 1
            GET /3 0:"" -> 404 Not Found 0:"" q0 1"#]],
    );
}

#[test]
fn chunked_bodies_are_joined_and_trailers_read_over() {
    let post = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nwxyz\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
    check(
        &[c(post), s(answer), c(GET), s(OK)],
        &expect![[r#"
            POST /c 3:"abc" -> 200 OK 14:"wxyz0123456789" q0 1
            GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn responses_without_a_body_are_known_by_method_and_status() {
    let length = "Content-Length: 100\r\n\r\n";
    check(
        &[
            c("HEAD /h HTTP/1.1\r\n\r\n"),
            s(&format!("HTTP/1.1 200 OK\r\n{length}")),
            c(GET),
            s(&format!("HTTP/1.1 304 Not Modified\r\n{length}")),
            c(GET),
            s("HTTP/1.1 204 No Content\r\n\r\n"),
            c(GET),
            s(OK),
        ],
        &expect![[r#"
            HEAD /h 0:"" -> 200 OK 0:"" q0 1
            GET /a 0:"" -> 304 Not Modified 0:"" q0 1
            GET /a 0:"" -> 204 No Content 0:"" q0 1
            GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn an_interim_response_does_not_answer_the_request() {
    check(
        &[
            c("PUT /u HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"),
            s("HTTP/1.1 100 Continue\r\n\r\n"),
            c("data"),
            s(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
            ),
        ],
        &expect![[r#"PUT /u 4:"data" -> 201 Created 0:"" q0 3"#]],
    );
}

#[test]
fn a_response_before_the_requests_end_waits_for_it() {
    check(
        &[
            c("POST /big HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"),
            s("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
            c("cd"),
            c(GET),
            s(OK),
        ],
        &expect![[r#"
            POST /big 4:"abcd" -> 413 Too Large 0:"" q0 1
            GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn after_an_upgrade_nothing_is_parsed() {
    check(
        &[
            c("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
            s("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x02"),
            c("GET /not HTTP/1.1\r\n\r\n"),
            s("\x03"),
        ],
        &expect![[r#"GET /ws 0:"" -> 101 Switching Protocols 0:"" q0 1"#]],
    );
}

#[test]
fn a_tunnel_is_opaque_and_a_refused_one_goes_on() {
    let connect = "CONNECT h:443 HTTP/1.1\r\n\r\n";
    check(
        &[
            c(connect),
            c("\x16early"),
            s("HTTP/1.1 200 Connection established\r\n\r\n"),
            c("\x16tls"),
        ],
        &expect![[r#"CONNECT h:443 0:"" -> 200 Connection established 0:"" q0 2"#]],
    );
    check(
        &[
            c(&format!("{connect}{GET}")),
            s("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
            s(OK),
        ],
        &expect![[r#"
            CONNECT h:443 0:"" -> 403 Forbidden 2:"no" q0 1
            GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn a_body_may_end_with_the_connection() {
    check(
        &[c(GET), s("HTTP/1.0 200 OK\r\n\r\nsome"), s("thing that is long")],
        &expect![[r#"GET /a 0:"" -> 200 OK 22:"something that i" q4 2"#]],
    );
    check(
        &[c(GET), s("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")],
        &expect![[r#"GET /a 0:"" -> 200 OK 4:"half" q4 1"#]],
    );
}

#[test]
fn a_request_that_is_never_answered_is_a_row_without_status() {
    check(&[c(GET)], &expect![[r#"GET /a 0:"" -> 0  0:"" q0 1"#]]);
    check(&[c("GET /a HT")], &expect![[""]]);
}

#[test]
fn a_hole_inside_a_body_changes_nothing_but_the_quality() {
    check(
        &[
            c("POST /p HTTP/1.1\r\nContent-Length: 10\r\n\r\nab"),
            Sent::ClientHole(8),
            s("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nxy"),
            Sent::ServerHole(18),
            s("\r\n0\r\n\r\n"),
            c(GET),
            s(OK),
        ],
        &expect![[r#"
            POST /p 10:"ab" -> 200 OK 20:"xy" q1 4
            GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn nothing_is_paired_across_a_gap_and_the_bounds_hold_what_is_missing() {
    // Lost: the second request, the third response. The fourth exchange is the trial.
    let get = |n: u32| c(&format!("GET /{n} HTTP/1.1\r\n\r\n"));
    let answer = |n: u32| s(&format!("HTTP/1.1 200 {n}\r\nContent-Length: 0\r\n\r\n"));
    check(
        &[
            get(1),
            answer(1),
            Sent::ClientHole(19),
            answer(2),
            get(3),
            Sent::ServerHole(39),
            get(4),
            answer(4),
            get(5),
            answer(5),
        ],
        &expect![[r#"
            GET /1 0:"" -> 200 1 0:"" q0 1
            GET /5 0:"" -> 200 5 0:"" q0 1
            lost 2..=3 ring_full"#]],
    );
}

#[test]
fn a_client_that_does_not_wait_is_never_paired_again_after_a_gap() {
    let mut run = Run::new();
    run.send(&c("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"));
    assert!(run.out.pipelining_seen);
    run.out.peer_pipelines = true;
    run.send(&Sent::ServerHole(5));
    for n in 3..9 {
        run.send(&c(&format!("GET /{n} HTTP/1.1\r\n\r\n")));
        run.send(&s(OK));
    }
    assert_eq!(run.finish(), ["lost 2..=10 ring_full"]);
}

#[test]
fn a_response_that_nobody_asked_for_is_no_row() {
    check(
        &[c(GET), s(OK), s("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")],
        &expect![[r#"GET /a 0:"" -> 200 OK 2:"hi" q0 1"#]],
    );
}

#[test]
fn bad_input_is_counted_and_the_next_request_found() {
    check(
        &[
            c(GET),
            s(OK),
            c("NOT HTTP AT ALL, AND LONG ENOUGH\r\n\r\n"),
            c(GET),
            s(OK),
            c(GET),
            s(OK),
        ],
        &expect![[r#"
            GET /a 0:"" -> 200 OK 2:"hi" q0 1
            GET /a 0:"" -> 200 OK 2:"hi" q0 1
            lost 1..=3 parse_error"#]],
    );
}

#[test]
fn what_waits_for_a_response_is_bounded() {
    let mut run = Run::new();
    for _ in 0..IN_FLIGHT_MAX {
        run.send(&c(GET));
    }
    assert_eq!(run.http.in_flight(), IN_FLIGHT_MAX);
    run.send(&c(GET));
    assert_eq!(run.http.in_flight(), 0);
    assert_eq!(run.finish(), [format!("lost {0}..={0} in_flight_full", IN_FLIGHT_MAX + 1)]);

    let mut run = Run::new();
    let large = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(60_000));
    for _ in 0..100 {
        run.send(&c(&large));
        assert!(run.http.memory_bytes() <= IN_FLIGHT_BYTES_MAX + 8 * HEAD_BYTES_MAX);
    }
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let mut run = Run::new();
    run.send(&c("GET / HTTP/1.1\r\n"));
    for _ in 0..200 {
        run.send(&c(&format!("h: {}\r\n", "x".repeat(1000))));
        assert!(run.http.memory_bytes() < 4 * HEAD_BYTES_MAX);
    }
    assert!(run.http.is_out_of_step());
}

/// A conversation of a client that waits for each response.
fn conversation() -> impl Strategy<Value = Vec<(String, String)>> {
    let exchange = (0_u8..6, 0_usize..40, 0_usize..40).prop_map(|(kind, sent, received)| {
        let (sent, received) = ("q".repeat(sent), "r".repeat(received));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{received}", received.len());
        match kind {
            0 => ("GET /x HTTP/1.1\r\nHost: y\r\n\r\n".to_owned(), answer),
            1 => (format!("POST /x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{sent}", sent.len()), answer),
            2 => (
                format!("POST /x HTTP/1.1\nTransfer-Encoding: chunked\n\n{:x}\r\nz{sent}\r\n0\r\na: b\r\n\r\n", sent.len() + 1),
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:X};e\r\n{received}!\r\n00\r\n\r\n", received.len() + 1),
            ),
            3 => ("HEAD /h HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned()),
            4 => (
                "PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(),
                format!("HTTP/1.1 100 Continue\r\n\r\n{answer}"),
            ),
            _ => ("DELETE /x HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        }
    });
    proptest::collection::vec(exchange, 1..8)
}

fn records(pieces: &[Sent]) -> Vec<String> {
    let mut run = Run::new();
    for piece in pieces {
        run.at = 0;
        run.send(piece);
    }
    run.at = 0;
    run.finish()
}

fn cut(
    text: &str,
    cuts: &mut impl Iterator<Item = usize>,
    make: fn(&str) -> Sent,
    out: &mut Vec<Sent>,
) {
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(cuts.next().unwrap_or(1).clamp(1, rest.len()));
        out.push(make(piece));
        rest = tail;
    }
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_records(
        exchanges in conversation(),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let whole: Vec<_> = exchanges.iter().flat_map(|(q, r)| [c(q), s(r)]).collect();
        let mut cuts = cuts.into_iter().cycle();
        let mut pieces = Vec::new();
        for (request, response) in &exchanges {
            cut(request, &mut cuts, c, &mut pieces);
            cut(response, &mut cuts, s, &mut pieces);
        }
        let expected = records(&whole);
        prop_assert_eq!(expected.len(), exchanges.len());
        prop_assert_eq!(records(&pieces), expected);
    }

    #[test]
    fn pipelining_does_not_change_the_records(exchanges in conversation(), cuts in proptest::collection::vec(1_usize..60, 1..20)) {
        let apart: Vec<_> = exchanges.iter().flat_map(|(q, r)| [c(q), s(r)]).collect();
        let requests: String = exchanges.iter().map(|(q, _)| q.as_str()).collect();
        let responses: String = exchanges.iter().map(|(_, r)| r.as_str()).collect();
        let mut pieces = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        cut(&requests, &mut cuts, c, &mut pieces);
        cut(&responses, &mut cuts, s, &mut pieces);
        prop_assert_eq!(records(&pieces), records(&apart));
    }

    #[test]
    fn arbitrary_input_neither_panics_nor_grows(
        steps in proptest::collection::vec((0_u8..5, proptest::collection::vec(any::<u8>(), 0..200), any::<u64>()), 0..40),
    ) {
        let mut http = Http1::new(Flow::Ingress, Start::AtItsBeginning);
        let mut out = Output::new(FULL, 64);
        for (kind, bytes, number) in steps {
            let operation = Operation { at: number, ..Operation::default() };
            match kind {
                0 => http.bytes(Flow::Ingress, &bytes, operation, &mut out),
                1 => http.bytes(Flow::Egress, &bytes, operation, &mut out),
                2 => http.bytes(Flow::Ingress, GET.as_bytes(), operation, &mut out),
                3 => http.hole(Flow::Egress, number, Missing::Lost, operation, &mut out),
                _ => http.hole(Flow::Ingress, number, Missing::Lost, operation, &mut out),
            }
            prop_assert!(http.memory_bytes() < 2 * IN_FLIGHT_BYTES_MAX);
        }
        http.close(0, &mut out);
        http.take_lost_rows();
    }

    #[test]
    fn losing_any_message_never_pairs_wrong_and_the_bounds_hold(
        count in 1_u32..20,
        lost_requests in any::<u32>(),
        lost_responses in any::<u32>(),
    ) {
        let mut run = Run::new();
        for n in 0..count {
            let request = format!("GET /{n} HTTP/1.1\r\n\r\n");
            let response = format!("HTTP/1.1 200 {n}\r\nContent-Length: 0\r\n\r\n");
            run.send(&if lost_requests >> n & 1 == 1 { Sent::ClientHole(request.len() as u64) } else { c(&request) });
            run.send(&if lost_responses >> n & 1 == 1 { Sent::ServerHole(response.len() as u64) } else { s(&response) });
        }
        run.http.close(99, &mut run.out);
        let lost = run.http.take_lost_rows();
        for exchange in exchanges(&run.out) {
            prop_assert_eq!(format!("/{}", exchange.resp_message), exchange.path.clone());
        }
        let missing = u64::from(count) - run.out.done.len() as u64;
        let (min, max) = lost.map_or((0, 0), |lost| (lost.rows_min, lost.rows_max));
        prop_assert!(min <= missing && missing <= max, "{min} <= {missing} <= {max}");
    }
}
