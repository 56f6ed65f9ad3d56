use super::super::Protocol;
use super::super::dialogue::Dialogue;
use super::super::dialogue::talk::{Sent, check_any_bytes, check_any_split, client, hear, server};
use super::super::gap::Start;
use super::super::output::Output;
use super::super::silence::SILENT_NS;
use super::*;
use crate::data_stream::Operation;
use crate::event::Flow;
use crate::redaction::{Mode, Redaction};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn show(finished: &Finished) -> String {
    let Finished::Redis(timed) = finished else { return format!("{finished:?}") };
    let Command { name, args, reply, .. } = &timed.call;
    format!("{name} {args} -> {reply} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Redis>(sent, show).join("\n"));
    check_any_split::<Redis>(sent, show);
}

fn command(words: &[&str]) -> Sent {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    client(bytes)
}

#[test]
fn a_command_and_its_reply_are_one_row() {
    check(
        &[
            command(&["set", "k", "v\"1"]),
            server("+OK\r\n"),
            command(&["GET", "k"]),
            server("$3\r\nv\"1\r\n"),
            command(&["get", "none"]),
            server("$-1\r\n"),
            command(&["INCR", "k"]),
            server("-ERR value is not an integer or out of range\r\n"),
            command(&["LRANGE", "l", "0", "-1"]),
            server("*3\r\n$1\r\na\r\n:7\r\n*2\r\n+x\r\n$-1\r\n"),
        ],
        &expect![[r#"
            SET ["k","v\"1"] -> OK q0
            GET ["k"] -> v"1 q0
            GET ["none"] -> <NULL> q0
            INCR ["k"] -> -ERR value is not an integer or out of range q0
            LRANGE ["l","0","-1"] -> ["a",7,["x",<NULL>]] q0"#]],
    );
}

#[test]
fn pipelined_and_inline_commands_are_answered_in_order() {
    check(
        &[
            client("PING\r\n*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n\r\n"),
            server("+PONG\r\n+PONG\r\n$2\r\nhi\r\n"),
        ],
        &expect![[r#"
            PING [] -> PONG q0
            PING [] -> PONG q0
            ECHO ["hi"] -> hi q0"#]],
    );
}

#[test]
fn long_strings_are_cut_and_their_bytes_counted() {
    let long = "x".repeat(100_000);
    let sent = [
        command(&["SET", "k", &long]),
        server("+OK\r\n"),
        command(&["GET", "k"]),
        server(format!("${}\r\n{long}\r\n", long.len())),
    ];
    let shown = hear::<Redis>(&sent, |finished| {
        let Finished::Redis(timed) = finished else { return String::new() };
        let call = &timed.call;
        format!(
            "{} {} {} {} {}",
            call.name,
            call.args.len(),
            call.args_size,
            call.reply.len(),
            call.reply_size
        )
    });
    assert_eq!(shown, ["SET 61 100031 2 5", "GET 5 20 64 100011"]);
    check_any_split::<Redis>(&sent, show);
}

#[test]
fn a_string_that_is_cut_within_a_character_is_cut_before_it() {
    // The last of the 64 bytes that are kept are three of a character of four.
    let long = "x".to_owned() + &"\u{1f600}".repeat(100);
    let sent = [command(&["GET", "k"]), server(format!("${}\r\n{long}\r\n", long.len()))];
    let shown = hear::<Redis>(&sent, show);
    assert_eq!(shown, [format!("GET [\"k\"] -> {} q0", &long[..61])]);
    check_any_split::<Redis>(&sent, show);
}

#[test]
fn secrets_are_never_kept() {
    check(
        &[
            command(&["AUTH", "me", "hunter2"]),
            server("+OK\r\n"),
            command(&["HELLO", "3", "AUTH", "me", "hunter2"]),
            server("%1\r\n+proto\r\n:3\r\n"),
            command(&["CONFIG", "SET", "requirepass", "hunter2"]),
            server("+OK\r\n"),
        ],
        &expect![[r#"
            AUTH ["<redacted>"] -> OK q0
            HELLO ["<redacted>"] -> ["proto",3] q0
            CONFIG ["<redacted>"] -> OK q0"#]],
    );
}

#[test]
fn messages_of_channels_belong_to_no_command() {
    check(
        &[
            command(&["SUBSCRIBE", "a", "b"]),
            server(
                "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
            ),
            server("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
            command(&["UNSUBSCRIBE"]),
            server("*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$2\r\nho\r\n"),
            server(
                "*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
            ),
            command(&["PING"]),
            server(">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n+PONG\r\n"),
        ],
        &expect![[r#"
            SUBSCRIBE ["a","b"] -> ["subscribe","b",2] q0
            UNSUBSCRIBE [] -> ["unsubscribe","b",0] q0
            PING [] -> PONG q0"#]],
    );
}

#[test]
fn each_command_of_a_transaction_is_a_row_and_its_results_are_those_of_exec() {
    check(
        &[
            command(&["WATCH", "k"]),
            server("+OK\r\n"),
            command(&["MULTI"]),
            server("+OK\r\n"),
            client(
                "*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n",
            ),
            server("+QUEUED\r\n+QUEUED\r\n*2\r\n:8\r\n$1\r\n8\r\n"),
            command(&["MULTI"]),
            server("+OK\r\n"),
            command(&["SETT", "k"]),
            server("-ERR unknown command 'SETT'\r\n"),
            command(&["EXEC"]),
            server("-EXECABORT Transaction discarded because of previous errors.\r\n"),
            command(&["EXEC"]),
            server("*-1\r\n"),
        ],
        &expect![[r#"
            WATCH ["k"] -> OK q0
            MULTI [] -> OK q0
            INCR ["k"] -> QUEUED q0
            GET ["k"] -> QUEUED q0
            EXEC [] -> [8,"8"] q0
            MULTI [] -> OK q0
            SETT ["k"] -> -ERR unknown command 'SETT' q0
            EXEC [] -> -EXECABORT Transaction discarded because of previous errors. q0
            EXEC [] -> <NULL> q0"#]],
    );
}

#[test]
fn version_3_has_more_kinds_of_values_and_what_is_pushed_comes_at_any_time() {
    check(
        &[
            command(&["HELLO", "3"]),
            server("%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"),
            command(&["SUBSCRIBE", "a"]),
            server(">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
            command(&["HGETALL", "h"]),
            // A message before the reply, and an attribute of it.
            server(
                ">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n|1\r\n+ttl\r\n:9\r\n%1\r\n+f\r\n,1.5\r\n",
            ),
            client("*1\r\n$4\r\nPING\r\n*2\r\n$8\r\nSMEMBERS\r\n$1\r\ns\r\n"),
            server("+PONG\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n~2\r\n#t\r\n_\r\n"),
            command(&["X"]),
            server("!9\r\nERR wrong\r\n"),
            command(&["LOLWUT"]),
            server("=7\r\ntxt:art\r\n"),
            command(&["BIG"]),
            server("(3492890328409238509324850943850943825024385\r\n"),
            command(&["UNSUBSCRIBE"]),
            server(">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"),
        ],
        &expect![[r#"
            HELLO ["3"] -> ["server","redis","proto",3] q0
            SUBSCRIBE ["a"] -> ["subscribe","a",1] q0
            HGETALL ["h"] -> ["f",1.5] q0
            PING [] -> PONG q0
            SMEMBERS ["s"] -> [true,<NULL>] q0
            X [] -> -ERR wrong q0
            LOLWUT [] -> txt:art q0
            BIG [] -> 3492890328409238509324850943850943825024385 q0
            UNSUBSCRIBE [] -> ["unsubscribe","a",0] q0"#]],
    );
}

#[test]
fn what_is_monitored_belongs_to_no_command_and_a_reset_ends_it() {
    check(
        &[
            command(&["MONITOR"]),
            server("+OK\r\n"),
            server("+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n"),
            command(&["RESET"]),
            server("+1339518087.877697 [0 lua] \"get\" \"k\"\r\n+RESET\r\n"),
            command(&["GET", "k"]),
            server("+1.5 [\r\n"),
        ],
        &expect![[r#"
            MONITOR [] -> OK q0
            RESET [] -> RESET q0
            GET ["k"] -> 1.5 [ q0"#]],
    );
}

#[test]
fn commands_without_a_reply_are_complete_at_once() {
    check(
        &[
            command(&["CLIENT", "REPLY", "SKIP"]),
            command(&["SET", "a", "1"]),
            command(&["GET", "a"]),
            server("$1\r\n1\r\n"),
            command(&["CLIENT", "REPLY", "OFF"]),
            command(&["GET", "a"]),
            command(&["CLIENT", "REPLY", "ON"]),
            server("+OK\r\n"),
        ],
        &expect![[r#"
            CLIENT ["REPLY","SKIP"] ->  q0
            SET ["a","1"] ->  q0
            GET ["a"] -> 1 q0
            CLIENT ["REPLY","OFF"] ->  q0
            GET ["a"] ->  q0
            CLIENT ["REPLY","ON"] -> OK q0"#]],
    );
}

#[test]
fn a_command_that_is_never_answered_says_so() {
    check(&[command(&["SHUTDOWN"])], &expect![[r"SHUTDOWN [] ->  q4"]]);
}

#[test]
fn no_pair_spans_a_gap() {
    let get = |key: &str| command(&["GET", key]);
    let sent = [
        get("a"),
        Sent::Hole(Side::Server, 7),
        get("b"),
        server("$1\r\nB\r\n"),
        get("c"),
        server("$1\r\nC\r\n"),
    ];
    // The reply to `a` was lost; the first command after that is a trial.
    assert_eq!(hear::<Redis>(&sent, show), ["GET [\"c\"] -> C q0", "lost 2..=2 ring_full"]);
    // Where no operation begins with a whole command, nothing proves which reply is whose.
    let in_bytes = super::super::dialogue::talk::split(&sent, 1);
    assert_eq!(hear::<Redis>(&in_bytes, show), ["lost 1..=21 ring_full"]);
}

/// The rows of a connection that is joined midway and whose requests go the way of `requests`, with
/// so many nanoseconds before each operation, and how many are missing.
fn joined_midway(requests: Flow, apart: u64, sent: &[Sent]) -> (Vec<String>, [u64; 2]) {
    let full = Redaction { headers: Mode::Full, bodies: Mode::Full };
    let midway = Start::AfterGap { cause: Cause::Midstream, request_bytes: 0 };
    let mut parser = Dialogue::<Redis>::new(requests, midway);
    let (mut out, mut operation) = (Output::new(full, 64), Operation::default());
    for sent in sent {
        operation.at += apart;
        match sent {
            Sent::Client(bytes) => parser.bytes(requests, bytes, operation, &mut out),
            Sent::Server(bytes) => parser.bytes(requests.opposite(), bytes, operation, &mut out),
            Sent::Hole(..) => {}
        }
    }
    let lost = parser.take_lost_rows().map_or([0; 2], |lost| [lost.rows_min, lost.rows_max]);
    (out.done.iter().map(show).collect(), lost)
}

#[test]
fn a_client_that_keeps_two_under_way_is_joined_midway_without_a_wrong_pair() {
    let get = |key: u8| command(&["GET", &key.to_string()]);
    let value = |key: u8| server(format!("+{key}\r\n"));
    // Each request is sent after a response, but that is to the one before the last.
    let two: Vec<_> = (10..30).flat_map(|key| [get(key), value(key - 1)]).collect();
    assert_eq!(joined_midway(Flow::Egress, 1000, &two), (Vec::new(), [0, 210]));
    let one: Vec<_> = (10..14).flat_map(|key| [get(key), value(key)]).collect();
    let rows = |from: u8| (from..14).map(|key| format!("GET [\"{key}\"] -> {key} q2")).collect();
    // Without silence the client's end cannot tell; the first after it is a trial.
    assert_eq!(joined_midway(Flow::Egress, 1000, &one), (Vec::new(), [0, 42]));
    assert_eq!(joined_midway(Flow::Egress, SILENT_NS, &one), (rows(12), [1, 11]));
    // A server reads a request when it has answered those before it.
    assert_eq!(joined_midway(Flow::Ingress, 1000, &one), (rows(11), [1, 1]));
}

#[test]
fn the_shortest_commands_that_are_lost_are_within_the_bounds() {
    let sent = [
        command(&["PING"]),
        server("+PONG\r\n"),
        Sent::Hole(Side::Client, "a\nb\n".len() as u64),
        server("-ERR unknown command 'a'\r\n-ERR unknown command 'b'\r\n"),
    ];
    assert_eq!(hear::<Redis>(&sent, show), ["PING [] -> PONG q0", "lost 0..=2 ring_full"]);
}

#[test]
fn a_command_without_a_reply_that_is_lost_is_not_taken_for_the_next() {
    let sent = [
        command(&["CLIENT", "REPLY", "SKIP"]),
        Sent::Hole(Side::Client, 27),
        command(&["GET", "a"]),
        server("$1\r\n1\r\n"),
        command(&["PING"]),
        server("+PONG\r\n"),
    ];
    assert_eq!(hear::<Redis>(&sent, show)[1..], ["PING [] -> PONG q0", "lost 1..=14 ring_full"]);
}

#[test]
fn a_hole_in_a_long_string_costs_nothing() {
    let head = format!("$100000\r\n{}", "x".repeat(1000));
    let sent = [
        command(&["GET", "k"]),
        server(head),
        Sent::Hole(Side::Server, 98_990),
        command(&["PING"]),
        server(format!("{}\r\n+PONG\r\n", "x".repeat(10))),
    ];
    let shown = hear::<Redis>(&sent, show);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[1], "PING [] -> PONG q0");
}

#[test]
fn what_is_no_resp_ends_the_pairing() {
    check(
        &[command(&["PING"]), server("+PONG\r\n"), client("*1\r\n!bad\r\n"), server("+PONG\r\n")],
        &expect![[r"
            PING [] -> PONG q0
            lost 0..=4 parse_error"]],
    );
}

#[test]
fn replication_is_another_protocol() {
    check(
        &[
            command(&["PSYNC", "?", "-1"]),
            server("+FULLRESYNC 8371 0\r\n$5\r\nREDIS"),
            server("*1\r\n$4\r\nPING\r\n"),
        ],
        &expect![[r#"PSYNC ["?","-1"] -> FULLRESYNC 8371 0 q0"#]],
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), "[*$:+%>|#_\r\n0-9a-zA-Z-]{0,40}"), 0..12),
    ) {
        check_any_bytes::<Redis>(parts.into_iter().map(|(c, text)| (c, text.into_bytes())).collect());
    }

    #[test]
    fn every_command_is_paired_with_its_own_reply(
        keys in proptest::collection::vec("[a-z]{1,8}", 1..40),
        cut in 1_usize..50,
    ) {
        let mut sent = Vec::new();
        for key in &keys {
            sent.push(command(&["GET", key]));
            sent.push(server(format!("${}\r\n{key}\r\n", key.len())));
        }
        let sent = super::super::dialogue::talk::split(&sent, cut);
        let shown = hear::<Redis>(&sent, show);
        let expected: Vec<_> = keys.iter().map(|key| format!("GET [\"{key}\"] -> {key} q0")).collect();
        prop_assert_eq!(shown, expected);
    }
}
