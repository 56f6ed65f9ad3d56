mod gaps;
pub(super) mod wire;

use super::super::dialogue::talk::{
    Sent, check_any_bytes, check_any_split, client, hear, server, split,
};
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use wire::{
    asks, bind, columns, complete, done, error, execute, message, named, packet, parse, query,
    ready, row, says, startup, sync,
};

fn show(finished: &Finished) -> String {
    let Finished::Pgsql(timed) = finished else { return format!("{finished:?}") };
    let Request { kind, text, response, failed, .. } = &timed.call;
    let arrow = if *failed { "-x" } else { "->" };
    format!("{} {text} {arrow} {} q{}", kind.name(), response.replace('\n', " | "), timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Pgsql>(sent, show).join("\n"));
    check_any_split::<Pgsql>(sent, show);
}

#[test]
fn a_query_is_one_row_up_to_the_next_turn() {
    check(
        &[
            asks(&[query("SELECT id, name FROM t")]),
            says(&[
                columns(&["id", "name"]),
                row(&[Some("1"), Some("Ann")]),
                row(&[Some("2"), None]),
                complete("SELECT 2"),
                ready(),
            ]),
            asks(&[query("BEGIN; INSERT INTO t VALUES (3); COMMIT")]),
            says(&[complete("BEGIN"), complete("INSERT 0 1"), complete("COMMIT"), ready()]),
            asks(&[query("SELECT 1; SELECT x")]),
            says(&[
                columns(&["?column?"]),
                row(&[Some("1")]),
                complete("SELECT 1"),
                error("42703", "column \"x\" does not exist"),
                ready(),
            ]),
            asks(&[query("")]),
            says(&[done('I'), ready()]),
            asks(&[message(b'X', "")]),
        ],
        &expect![[r#"
            Query SELECT id, name FROM t -> id,name | 1,Ann | 2,<NULL> | SELECT 2 q0
            Query BEGIN; INSERT INTO t VALUES (3); COMMIT -> BEGIN | INSERT 0 1 | COMMIT q0
            Query SELECT 1; SELECT x -x ERROR 42703: column "x" does not exist q0
            Query  ->  q0"#]],
    );
}

#[test]
fn the_startup_is_no_row_and_its_secrets_are_nowhere() {
    let sent = [
        client(packet(80_877_104, "")),
        server("N"),
        client(packet(80_877_103, "")),
        server("N"),
        client(startup()),
        says(&[message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")]),
        asks(&[message(b'p', "SCRAM-SHA-256\0\0\0\0\x07hunter2")]),
        says(&[message(b'R', b"\0\0\0\x0bhunter2")]),
        asks(&[message(b'p', "hunter2\0")]),
        says(&[
            message(b'R', [0; 4]),
            message(b'S', "TimeZone\0UTC\0"),
            message(b'K', [7; 8]),
            ready(),
        ]),
        asks(&[query("ALTER ROLE me PASSWORD 'hunter2'")]),
        says(&[complete("ALTER ROLE"), ready()]),
    ];
    check(&sent, &expect!["Query ALTER ROLE me PASSWORD <redacted> -> ALTER ROLE q0"]);
    let seen = hear::<Pgsql>(&sent, |finished| format!("{finished:?}"));
    assert!(!seen.concat().contains("hunter2"), "{seen:?}");
}

#[test]
fn a_startup_that_is_refused_has_no_row() {
    check(
        &[client(startup()), says(&[error("28P01", "password authentication failed")])],
        &expect![""],
    );
    // Too many clients: that comes even before the answer to a wish for encryption.
    check(
        &[client(packet(80_877_103, "")), says(&[error("53300", "too many clients already")])],
        &expect![""],
    );
    check(&[client(packet(80_877_102, "12345678"))], &expect![""]);
}

#[test]
fn what_follows_encryption_is_another_protocol() {
    check(
        &[
            client(packet(80_877_103, "")),
            server("S"),
            client(b"\x16\x03\x01\x02\0Q\0\0\0\x05"),
            server(b"\x16\x03\x03"),
        ],
        &expect![""],
    );
}

#[test]
fn each_execution_is_a_row_with_the_sql_and_the_parameters_that_were_bound() {
    check(
        &[
            asks(&[parse("s1", "SELECT $1 + 1"), named(b'D', 'S', "s1"), sync()]),
            says(&[done('1'), message(b't', [0, 0]), columns(&["sum"]), ready()]),
            asks(&[
                bind("", "s1", &[Some("1")]),
                named(b'D', 'P', ""),
                execute(""),
                bind("p", "s1", &[None]),
                execute("p"),
                named(b'C', 'P', "p"),
                sync(),
            ]),
            says(&[
                done('2'),
                columns(&["sum"]),
                row(&[Some("2")]),
                complete("SELECT 1"),
                done('2'),
                row(&[None]),
                complete("SELECT 1"),
                done('3'),
                ready(),
            ]),
            asks(&[parse("", "DELETE FROM t"), bind("", "", &[]), named(b'D', 'P', "")]),
            asks(&[execute(""), sync()]),
            says(&[done('1'), done('2'), done('n'), complete("DELETE 7"), ready()]),
            asks(&[bind("", "gone", &[Some("\u{1}\0")]), execute(""), sync()]),
            says(&[done('2'), done('I'), ready()]),
        ],
        &expect![[r"
            Execute query=[SELECT $1 + 1] params=[1] -> sum | 2 | SELECT 1 q0
            Execute query=[SELECT $1 + 1] params=[<NULL>] -> <NULL> | SELECT 1 q0
            Execute query=[DELETE FROM t] params=[] -> DELETE 7 q0
            Execute query=[<unknown statement gone>] params=[<2 bytes>] ->  q0"]],
    );
}

#[test]
fn a_portal_may_be_run_in_parts() {
    check(
        &[
            asks(&[parse("", "SELECT n"), bind("c", "", &[]), execute("c"), message(b'H', "")]),
            says(&[done('1'), done('2'), row(&[Some("1")]), done('s')]),
            asks(&[execute("c"), sync()]),
            says(&[row(&[Some("2")]), complete("SELECT 1"), ready()]),
        ],
        &expect![[r"
            Execute query=[SELECT n] params=[] -> 1 | <suspended> q0
            Execute query=[SELECT n] params=[] -> 2 | SELECT 1 q0"]],
    );
}

#[test]
fn after_an_error_everything_is_skipped_up_to_the_next_turn() {
    let failing = [parse("", "SELEC"), bind("", "", &[]), execute("")];
    check(
        &[
            // All of the turn is there when it fails, and the next one too.
            asks(&[failing.concat(), execute(""), sync(), query("SELECT 1")]),
            says(&[error("42601", "syntax error"), ready()]),
            says(&[complete("SELECT 1"), ready()]),
            // The rest of the turn comes after the error.
            asks(&[parse("", "SELECT 1/0"), bind("", "", &[]), execute("")]),
            says(&[done('1'), done('2'), error("22012", "division by zero")]),
            asks(&[execute(""), query("SELECT 2"), sync()]),
            says(&[ready()]),
            asks(&[bind("", "none", &[]), execute(""), sync()]),
            says(&[error("26000", "no such statement"), ready()]),
            asks(&[named(b'D', 'S', "none"), sync()]),
            says(&[error("26000", "no such statement"), ready()]),
            // A constraint that is looked at when the transaction ends.
            asks(&[parse("", "INSERT"), bind("", "", &[]), execute(""), sync()]),
            says(&[done('1'), done('2'), complete("INSERT 0 1"), error("23505", "twice"), ready()]),
            asks(&[query("SELECT 3")]),
            says(&[complete("SELECT 3"), ready()]),
        ],
        &expect![[r"
            Parse SELEC -x ERROR 42601: syntax error q0
            Execute query=[SELEC] params=[] -x  q0
            Execute query=[SELEC] params=[] -x  q0
            Query SELECT 1 -> SELECT 1 q0
            Execute query=[SELECT 1/0] params=[] -x ERROR 22012: division by zero q0
            Execute query=[SELECT 1/0] params=[] -x  q0
            Query SELECT 2 -x  q0
            Bind query=[<unknown statement none>] params=[] -x ERROR 26000: no such statement q0
            Execute query=[<unknown statement none>] params=[] -x  q0
            Describe  -x ERROR 26000: no such statement q0
            Execute query=[INSERT] params=[] -> INSERT 0 1 q0
            Sync  -x ERROR 23505: twice q0
            Query SELECT 3 -> SELECT 3 q0"]],
    );
}

#[test]
fn a_name_keeps_its_meaning_where_a_parse_fails() {
    check(
        &[
            asks(&[parse("s", "SELECT 1"), sync()]),
            says(&[done('1'), ready()]),
            asks(&[parse("s", "SELECT 2"), sync()]),
            says(&[error("42P05", "s exists"), ready()]),
            asks(&[bind("", "s", &[]), execute(""), sync()]),
            says(&[done('2'), complete("SELECT 1"), ready()]),
            // Nor is it closed where that is skipped.
            asks(&[execute("none"), named(b'C', 'S', "s"), sync()]),
            says(&[error("34000", "no portal"), ready()]),
            asks(&[bind("", "s", &[]), execute(""), named(b'C', 'S', "s"), sync()]),
            says(&[done('2'), complete("SELECT 1"), done('3'), ready()]),
            asks(&[bind("", "s", &[]), sync()]),
            says(&[error("26000", "s is gone"), ready()]),
        ],
        &expect![[r"
            Parse SELECT 2 -x ERROR 42P05: s exists q0
            Execute query=[SELECT 1] params=[] -> SELECT 1 q0
            Execute query=[<unknown portal none>] params=[] -x ERROR 34000: no portal q0
            Execute query=[SELECT 1] params=[] -> SELECT 1 q0
            Bind query=[<unknown statement s>] params=[] -x ERROR 26000: s is gone q0"]],
    );
}

#[test]
fn copies_are_counted_in_both_directions() {
    let sent = [
        asks(&[query("COPY t FROM STDIN")]),
        says(&[message(b'G', [0, 0, 0])]),
        asks(&[message(b'd', "1\tAnn\n"), message(b'd', "x".repeat(10_000)), done('c')]),
        says(&[complete("COPY 2"), ready()]),
        asks(&[query("COPY t TO STDOUT")]),
        says(&[message(b'H', [0, 0, 0]), message(b'd', "1\tAnn\n"), done('c')]),
        says(&[complete("COPY 1"), ready()]),
        // By the extended protocol; the first `Sync` is read as part of the copy.
        asks(&[parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute(""), sync()]),
        says(&[done('1'), done('2'), message(b'G', [0, 0, 0])]),
        asks(&[message(b'd', "1\n"), sync(), done('c'), sync()]),
        says(&[complete("COPY 1"), ready()]),
        asks(&[query("COPY t FROM STDIN")]),
        says(&[message(b'G', [0, 0, 0])]),
        asks(&[message(b'f', "no more\0")]),
        says(&[error("57014", "COPY from stdin failed"), ready()]),
    ];
    check(
        &sent,
        &expect![[r"
            Query COPY t FROM STDIN -> COPY 2 q0
            Query COPY t TO STDOUT -> COPY 1 q0
            Execute query=[COPY t FROM STDIN] params=[] -> COPY 1 q0
            Query COPY t FROM STDIN -x ERROR 57014: COPY from stdin failed q0"]],
    );
    let sizes = hear::<Pgsql>(&sent, |finished| {
        let Finished::Pgsql(timed) = finished else { return String::new() };
        format!("{} {}", timed.call.request_size, timed.call.response_size)
    });
    assert_eq!(sizes[..2], ["10044 26", "22 42"]);
}

#[test]
fn what_comes_unasked_belongs_to_no_request() {
    let notice = || message(b'N', "SNOTICE\0C00000\0Mhello\0\0");
    check(
        &[
            says(&[message(b'A', b"\0\0\0\x01channel\0\0"), message(b'S', "a\0b\0")]),
            asks(&[query("DO $$ $$")]),
            says(&[notice(), complete("DO"), notice(), ready(), notice()]),
            asks(&[message(b'F', b"\0\0\x06\x3e\0\0\0\x01\0\0\0\x01a\0\0")]),
            says(&[notice(), message(b'V', b"\0\0\0\x02ok"), ready()]),
            says(&[error("57P01", "terminating connection due to administrator command")]),
        ],
        &expect![[r"
            Query DO $$ $$ -> DO q0
            FunctionCall 1598(a) -> ok q0"]],
    );
}

#[test]
fn long_messages_are_cut_and_their_bytes_counted() {
    let long = "x".repeat(100_000);
    let sent = [
        asks(&[query(&format!("SELECT '{long}'"))]),
        says(&[columns(&["a"]), row(&[Some(&long)]), row(&[Some(&long)])]),
        says(&[complete("SELECT 2"), ready()]),
    ];
    let shown = hear::<Pgsql>(&sent, |finished| {
        let Finished::Pgsql(timed) = finished else { return String::new() };
        let Request { text, request_size, response, response_size, .. } = &timed.call;
        format!("{} {request_size} {} {response_size}", text.len(), response.len())
    });
    assert_eq!(shown, ["64 100015 64 200069"]);
    check_any_split::<Pgsql>(&sent, show);
}

#[test]
fn a_request_that_is_never_answered_says_so() {
    check(
        &[asks(&[parse("", "SELECT pg_sleep(9)"), bind("", "", &[]), execute(""), sync()])],
        &expect!["Execute query=[SELECT pg_sleep(9)] params=[] ->  q4"],
    );
}

#[test]
fn a_server_that_goes_away_says_so_and_nothing_more() {
    let gone = || message(b'E', "SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    check(
        &[asks(&[query("SELECT pg_sleep(9)")]), says(&[gone()])],
        &expect!["Query SELECT pg_sleep(9) -x FATAL 57P01: terminating connection q0"],
    );
}

#[test]
fn replication_is_another_protocol() {
    check(
        &[
            asks(&[query("START_REPLICATION 0/0")]),
            says(&[message(b'W', [0, 0, 0]), message(b'd', "w")]),
            asks(&[message(b'd', "r")]),
        ],
        &expect!["Query START_REPLICATION 0/0 ->  q0"],
    );
}

#[test]
fn what_is_no_message_ends_the_pairing() {
    let good = [asks(&[query("SELECT 1")]), says(&[complete("SELECT 1"), ready()])];
    for bad in [
        client(b"Q\x40\0\0\x01"),
        client(b"Q\0\0\0\x03"),
        client(b"z\0\0\0\x04"),
        client(startup()),
        server(b"Q\0\0\0\x05"),
        says(&[ready()]),
        says(&[done('1')]),
        says(&[message(b'R', [0; 4])]),
    ] {
        let mut sent = good.to_vec();
        sent.extend([bad, query_again(), says(&[complete("SELECT 2"), ready()])]);
        let shown = hear::<Pgsql>(&sent, show);
        assert_eq!(shown[0], "Query SELECT 1 -> SELECT 1 q0");
        assert!(shown.len() == 2 && shown[1].starts_with("lost "), "{shown:?}");
    }
}

fn query_again() -> Sent {
    asks(&[query("SELECT 2")])
}

#[test]
fn requests_that_pile_up_are_within_bounds() {
    let long = parse("", &"x".repeat(1000));
    let sent: Vec<_> = (0..20_000).map(|_| client(&long)).collect();
    assert!(hear::<Pgsql>(&sent, show)[0].ends_with("in_flight_full"));
    let sent: Vec<_> = (0..10_000).map(|_| client(sync())).collect();
    assert!(hear::<Pgsql>(&sent, show)[0].ends_with("in_flight_full"));
}

/// Any message that a client may send, and any that a server may.
fn any_message() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let body = proptest::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..40);
    let tag = proptest::sample::select(&b"QPBDECHSFXpdcfRKSZTDCIENA123tnsGHWdcVv"[..]);
    (any::<bool>(), tag, body).prop_map(|(from_client, tag, body)| {
        let empty = b"HSXcI123ns".contains(&tag);
        (from_client, message(tag, if empty { Vec::new() } else { body }))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        check_any_bytes::<Pgsql>(parts);
    }

    #[test]
    fn any_messages_are_read_without_a_panic(
        parts in proptest::collection::vec(any_message(), 0..40),
    ) {
        check_any_bytes::<Pgsql>(parts);
    }

    #[test]
    fn every_request_is_paired_with_its_own_response(
        turns in proptest::collection::vec(("[a-z]{1,8}", 0_u8..3), 1..40),
        cut in 1_usize..50,
    ) {
        let sent: Vec<_> = turns.iter().flat_map(|(name, how)| turn(name, *how).0).collect();
        let expected: Vec<_> = turns.iter().map(|(name, how)| turn(name, *how).1).collect();
        prop_assert_eq!(hear::<Pgsql>(&split(&sent, cut), show), expected);
    }
}

/// What a turn sends, in one operation of each side, and its row.
fn turn(name: &str, how: u8) -> ([Sent; 2], String) {
    let prepared = [parse("", name), bind("", "", &[]), execute(""), sync()];
    let (asked, said, row) = match how {
        0 => (
            asks(&[query(name)]),
            says(&[complete(name), ready()]),
            format!("Query {name} -> {name} q0"),
        ),
        1 => (
            asks(&prepared),
            says(&[done('1'), done('2'), complete(name), ready()]),
            format!("Execute query=[{name}] params=[] -> {name} q0"),
        ),
        _ => (
            asks(&prepared),
            says(&[done('1'), done('2'), error("1", name), ready()]),
            format!("Execute query=[{name}] params=[] -x ERROR 1: {name} q0"),
        ),
    };
    ([asked, said], row)
}
