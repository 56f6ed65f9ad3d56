use super::super::dialogue::talk::{
    Sent, TEXT_BYTES_MAX, check_any_bytes, check_any_split, client, hear, server, split,
};
use super::super::output::Finished;
use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn show(finished: &Finished) -> String {
    let Finished::Mysql(timed) = finished else { return format!("{finished:?}") };
    let Command { code, text, status, result, .. } = &timed.call;
    format!("{code} {text:?} -> {status:?} {result:?} q{}", timed.quality)
}

fn check(sent: &[Sent], expected: &Expect) {
    expected.assert_eq(&hear::<Mysql>(sent, show).join("\n"));
    check_any_split::<Mysql>(sent, show);
}

/// Payloads as packets that count on from `sequence`.
fn packets(sequence: u8, payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, payload) in payloads.iter().enumerate() {
        bytes.extend(&u32::try_from(payload.len()).unwrap().to_le_bytes()[..3]);
        bytes.push(sequence.wrapping_add(u8::try_from(at % 256).unwrap()));
        bytes.extend(*payload);
    }
    bytes
}

fn command(code: u8, payload: impl AsRef<[u8]>) -> Sent {
    client(packets(0, &[&[&[code], payload.as_ref()].concat()]))
}

fn query(sql: &str) -> Sent {
    command(0x03, sql)
}

fn answer(payloads: &[&[u8]]) -> Sent {
    server(packets(1, payloads))
}

const COLUMN: &[u8] = b"\x03def\0\0\0\x01c\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
const GOOD: &[u8] = b"\0\0\0\x02\0\0\0";
const EOF: &[u8] = b"\xfe\0\0\x02\0";
const OK_AS_EOF: &[u8] = b"\xfe\0\0\x02\0\0\0";
const MORE: &[u8] = b"\xfe\0\0\x0a\0";
const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

/// Both sides meet; both offer `high` of the upper capabilities and `low` of the lower.
fn handshake(low: u8, high: u8) -> Vec<Sent> {
    let greeting = [
        &b"\x0a8.0.33\0\x01\0\0\0saltsalt\0"[..],
        &[low, 0x02, 33, 2, 0, 0, high, 21],
        &[0; 10],
        b"saltsaltsalt\0caching_sha2_password\0",
    ];
    let login = [&[low, 0x02, 0, high, 0, 0, 0, 1, 33], &[0; 23][..], b"root\0\x08hunter2!"];
    vec![
        server(packets(0, &[&greeting.concat()])),
        client(packets(1, &[&login.concat()])),
        server(packets(2, &[b"\xfemysql_native_password\0saltsalt"])),
        client(packets(3, &[b"hunter2!"])),
        server(packets(4, &[b"\x01\x04"])),
        client(packets(5, &[b"\x02"])),
        server(packets(6, &[GOOD])),
    ]
}

fn after_handshake(sent: &[Sent]) -> Vec<Sent> {
    [&handshake(0, 0)[..], sent].concat()
}

#[test]
fn a_query_and_its_response_are_one_row_and_the_handshake_is_none() {
    check(
        &after_handshake(&[
            query("SELECT c FROM t"),
            answer(&[b"\x01", COLUMN, EOF, b"\x015", b"\xfb", b"\x016", EOF]),
            query("INSERT INTO t VALUES (1)"),
            answer(&[b"\0\x01\x05\x02\0\0\0"]),
            query("SELEC"),
            answer(&[b"\xff\x28\x04#42000You have an error"]),
            command(0x0e, ""),
            answer(&[GOOD]),
            command(0x02, "shop"),
            answer(&[b"\xff\x19\x04#42000Unknown database 'shop'"]),
            command(0x01, ""),
        ]),
        &expect![[r#"
            3 "SELECT c FROM t" -> Ok "Resultset rows = 3" q0
            3 "INSERT INTO t VALUES (1)" -> Ok "Affected rows = 1" q0
            3 "SELEC" -> Err "You have an error" q0
            14 "" -> Ok "" q0
            2 "shop" -> Err "Unknown database 'shop'" q0
            1 "" -> None "" q0"#]],
    );
}

#[test]
fn a_resultset_ends_as_both_sides_agreed() {
    let talk = [
        query("SELECT 1 FROM t WHERE 0"),
        answer(&[b"\x01", COLUMN, OK_AS_EOF]),
        query("SELECT 1"),
        answer(&[b"\x01", COLUMN, b"\x011", OK_AS_EOF]),
        command(0x16, "UPDATE t SET c=?"),
        answer(&[b"\0\x01\0\0\0\0\0\x01\0\0\0\0", COLUMN]),
        command(0x0e, ""),
        answer(&[GOOD]),
    ];
    check(
        &[&handshake(0, 1)[..], &talk].concat(),
        &expect![[r#"
            3 "SELECT 1 FROM t WHERE 0" -> Ok "Resultset rows = 0" q0
            3 "SELECT 1" -> Ok "Resultset rows = 1" q0
            22 "UPDATE t SET c=?" -> Ok "" q0
            14 "" -> Ok "" q0"#]],
    );
    // Where they were not heard, the packets tell.
    check(
        &talk,
        &expect![[r#"
            3 "SELECT 1 FROM t WHERE 0" -> Ok "Resultset rows = 0" q2
            3 "SELECT 1" -> Ok "Resultset rows = 1" q2
            22 "UPDATE t SET c=?" -> Ok "" q2
            14 "" -> Ok "" q2"#]],
    );
}

#[test]
fn a_connection_that_is_joined_midway_tells_whether_eof_packets_follow_definitions() {
    check(
        &[
            command(0x16, "UPDATE t SET c=?"),
            answer(&[b"\0\x01\0\0\0\0\0\x01\0\0\0\0", COLUMN, EOF]),
            command(0x16, "UPDATE t SET d=?"),
            answer(&[b"\0\x02\0\0\0\0\0\x01\0\0\0\0", COLUMN, EOF]),
            command(0x1b, "\0\0"),
            answer(&[EOF]),
            query("SELECT 1"),
            answer(&[b"\x01", COLUMN, EOF, b"\x011", EOF]),
        ],
        &expect![[r#"
            22 "UPDATE t SET c=?" -> Ok "" q2
            22 "UPDATE t SET d=?" -> Ok "" q2
            27 "" -> Ok "" q2
            3 "SELECT 1" -> Ok "Resultset rows = 1" q2"#]],
    );
}

#[test]
fn an_execution_shows_what_was_prepared() {
    let execute =
        |id: u8, rest: &[u8]| command(0x17, [&[id, 0, 0, 0, 0, 1, 0, 0, 0], rest].concat());
    check(
        &after_handshake(&[
            command(0x16, "SELECT c FROM t WHERE id=?"),
            answer(&[b"\0\x01\0\0\0\x01\0\x01\0\0\0\0", COLUMN, EOF, COLUMN, EOF]),
            execute(1, &[0, 1, 3, 0, 7, 0, 0, 0]),
            // MariaDB leaves out definitions that the client remembers.
            answer(&[b"\x01\0", EOF, b"\0\0\x015", EOF]),
            command(0x18, b"\x01\0\0\0\0\0long"),
            execute(1, &[0, 0]),
            answer(&[b"\x01\x01", COLUMN, EOF, EOF]),
            execute(1, &[0, 0, 8, 0, 0, 0]),
            answer(&[b"\x01", COLUMN, b"\xfe\0\0\x42\0"]),
            command(0x1c, b"\x01\0\0\0\x0a\0\0\0"),
            answer(&[b"\0\0\x015", b"\xfe\0\0\x82\0"]),
            command(0x1a, b"\x01\0\0\0"),
            answer(&[GOOD]),
            command(0x19, b"\x01\0\0\0"),
            execute(1, &[0, 0, 8, 0, 0, 0]),
            answer(&[b"\xff\xdb\x04#HY000Unknown prepared statement handler (1)"]),
        ]),
        &expect![[r#"
            22 "SELECT c FROM t WHERE id=?" -> Ok "" q0
            23 "query=[SELECT c FROM t WHERE id=?] params=[7]" -> Ok "Resultset rows = 1" q0
            24 "" -> None "" q0
            23 "query=[SELECT c FROM t WHERE id=?] params=[[sent ahead]]" -> Ok "Resultset rows = 0" q0
            23 "query=[SELECT c FROM t WHERE id=?] params=[8]" -> Ok "" q0
            28 "SELECT c FROM t WHERE id=?" -> Ok "Resultset rows = 1" q0
            26 "" -> Ok "" q0
            25 "" -> None "" q0
            23 "" -> Err "Unknown prepared statement handler (1)" q0"#]],
    );
}

#[test]
fn mariadb_prepares_and_executes_in_one_breath() {
    let sent = after_handshake(&[
        client(
            [
                packets(0, &[b"\x16INSERT INTO t VALUES (?)"]),
                packets(0, &[b"\x17\xff\xff\xff\xff\0\x01\0\0\0\0\x01\x03\0\x05\0\0\0"]),
            ]
            .concat(),
        ),
        answer(&[b"\0\x09\0\0\0\0\0\x01\0\0\0\0", COLUMN, EOF]),
        answer(&[b"\0\x01\0\x02\0\0\0"]),
        command(0xfa, b"\x09\0\0\0\x80\0\x03\0\0\x05\0\0\0"),
        answer(&[b"\0\x02\0\x02\0\0\0"]),
    ]);
    check(
        &sent,
        &expect![[r#"
            22 "INSERT INTO t VALUES (?)" -> Ok "" q0
            23 "query=[INSERT INTO t VALUES (?)] params=[]" -> Ok "Affected rows = 1" q0
            250 "query=[INSERT INTO t VALUES (?)] params=[]" -> Ok "Affected rows = 2" q0"#]],
    );
}

#[test]
fn several_results_are_one_response() {
    check(
        &after_handshake(&[
            query("SELECT 1; UPDATE t SET c=1; SELECT 2"),
            answer(&[
                b"\x01",
                COLUMN,
                EOF,
                b"\x011",
                MORE,
                b"\0\x03\0\x0a\0\0\0",
                b"\x01",
                COLUMN,
                EOF,
                EOF,
            ]),
            query("CALL p()"),
            answer(&[b"\x01", COLUMN, EOF, b"\x011", b"\x012", MORE, GOOD]),
            query("SELECT 1; nonsense"),
            answer(&[b"\x01", COLUMN, EOF, b"\x011", MORE, DENIED]),
        ]),
        &expect![[r#"
            3 "SELECT 1; UPDATE t SET c=1; SELECT 2" -> Ok "Resultset rows = 1, Affected rows = 3, Resultset rows = 0" q0
            3 "CALL p()" -> Ok "Resultset rows = 2" q0
            3 "SELECT 1; nonsense" -> Err "Access denied" q0"#]],
    );
}

#[test]
fn a_file_that_the_server_asks_for_belongs_to_its_query() {
    let file: Vec<&[u8]> = vec![b"1\n2\n"; 300];
    check(
        &after_handshake(&[
            query("LOAD DATA LOCAL INFILE 'f' INTO TABLE t"),
            answer(&[b"\xfbf"]),
            client(packets(2, &[&file[..], &[b""]].concat())),
            server(packets(47, &[b"\0\xfc\x58\x02\0\x02\0\0\0"])),
            command(0x0e, ""),
            answer(&[GOOD]),
        ]),
        &expect![[r#"
            3 "LOAD DATA LOCAL INFILE 'f' INTO TABLE t" -> Ok "Affected rows = 600" q0
            14 "" -> Ok "" q0"#]],
    );
}

#[test]
fn commands_with_responses_of_their_own_are_rows() {
    check(
        &after_handshake(&[
            command(0x09, ""),
            answer(&[b"Uptime: 7"]),
            command(0x04, "t\0%"),
            answer(&[COLUMN, COLUMN, EOF]),
            command(0x0a, ""),
            answer(&[b"\x01", COLUMN, EOF, b"\x011", EOF]),
            command(0x0d, ""),
            answer(&[EOF]),
            command(0x1f, ""),
            answer(&[GOOD]),
            command(0x1d, ""),
            answer(&[DENIED]),
        ]),
        &expect![[r#"
            9 "" -> Ok "Uptime: 7" q0
            4 "t" -> Ok "" q0
            10 "" -> Ok "Resultset rows = 1" q0
            13 "" -> Ok "" q0
            31 "" -> Ok "" q0
            29 "" -> Err "Access denied" q0"#]],
    );
}

#[test]
fn secrets_are_never_kept() {
    let sent = after_handshake(&[
        command(0x11, b"admin\0\x08hunter2!shop\0"),
        answer(&[b"\xfemysql_clear_password\0"]),
        client(packets(2, &[b"hunter2!\0"])),
        server(packets(3, &[GOOD])),
        query("CREATE USER u IDENTIFIED BY 'hunter2!'"),
        answer(&[b"\xff\x28\x04#42000near ''hunter2!''"]),
    ]);
    check(
        &sent,
        &expect![[r#"
            17 "admin" -> Ok "" q0
            3 "CREATE USER u IDENTIFIED BY <redacted>" -> Err "<redacted>" q0"#]],
    );
    let all = hear::<Mysql>(&sent, |finished| format!("{finished:?}"));
    assert!(all.iter().all(|line| !line.contains("hunter2")), "{all:?}");
}

#[test]
fn long_messages_are_cut_and_their_bytes_counted() {
    let long = format!("SELECT '{}'", "x".repeat(100_000));
    let row = [&b"\xfd\xa0\x86\x01"[..], "x".repeat(100_000).as_bytes()].concat();
    let sent = after_handshake(&[
        query(&long),
        answer(&[b"\x01", COLUMN, EOF, &row, EOF]),
        query("SELECT 1"),
        answer(&[DENIED]),
    ]);
    let shown = hear::<Mysql>(&sent, |finished| {
        let Finished::Mysql(timed) = finished else { return String::new() };
        let call = &timed.call;
        let texts = (call.text.len(), call.text_size);
        format!("{texts:?} {} {} {}", call.request_size, call.response_size, call.result)
    });
    assert_eq!(
        shown,
        [
            &format!("({TEXT_BYTES_MAX}, 100009) 100014 100058 Resultset rows = 1"),
            "(8, 8) 13 26 Access denied"
        ]
    );
    check_any_split::<Mysql>(&sent, show);
}

#[test]
fn a_row_of_several_packets_is_one_row() {
    let huge = vec![b'x'; 0xff_ffff];
    let mut answers = packets(1, &[b"\x01", COLUMN, EOF]);
    answers.extend([0xff, 0xff, 0xff, 4, 0xfe, 0, 0, 0, 1, 0, 0, 0, 0]);
    answers.extend(&huge[..0xff_fff6]);
    answers.extend(packets(5, &[&huge[..10], EOF]));
    let sent = after_handshake(&[query("SELECT l FROM t"), server(answers)]);
    let shown = hear::<Mysql>(&sent, show);
    assert_eq!(shown, [r#"3 "SELECT l FROM t" -> Ok "Resultset rows = 1" q0"#]);
    assert_eq!(hear::<Mysql>(&split(&sent, 10_007), show), shown);
    // As is a command; what follows counts on from its last packet.
    let mut long = packets(0, &[&[b"\x03SELECT '", &huge[..0xff_fff6]].concat()]);
    long.extend(packets(1, &[b"'"]));
    let sent = after_handshake(&[client(long), server(packets(2, &[DENIED]))]);
    assert!(hear::<Mysql>(&sent, show)[0].ends_with("-> Err \"Access denied\" q0"));
}

#[test]
fn what_is_spoken_after_the_login_may_be_opaque() {
    let tls = [
        handshake(0, 0).swap_remove(0),
        client(packets(1, &[&[&[0, 0x0a, 0, 0, 0, 0, 0, 1, 33], &[0; 23][..]].concat()])),
        client(b"\x16\x03\x01\x02\0"),
        server(b"\x16\x03\x03\0\x7a"),
    ];
    check(&tls, &expect![[""]]);
    let compressed = [&handshake(0x20, 0)[..], &[client(b"\x05\0\0\0\0\0\0\x01\0\0\0\x0e")]];
    check(&compressed.concat(), &expect![[""]]);
    check(
        &after_handshake(&[
            command(0x12, b"\x04\0\0\0\0\0\x01\0\0\0binlog"),
            answer(&[b"\0event"]),
            query("SELECT 1"),
        ]),
        &expect![[r#"18 "" -> None "" q0"#]],
    );
}

#[test]
fn a_login_that_does_not_count_on_from_the_greeting_is_none() {
    let mut sent = handshake(0, 0);
    sent.truncate(1);
    // It is a change of users on a connection of which the greeting was not seen.
    sent.extend([
        command(0x11, "admin\0\x08hunter2!shop\0"),
        answer(&[b"\xfemysql_clear_password\0"]),
        client(packets(2, &[b"hunter2!\0"])),
        server(packets(3, &[GOOD])),
        query("SELECT 1 INTO @a"),
        answer(&[GOOD]),
        query("SELECT 2 INTO @a"),
        answer(&[GOOD]),
    ]);
    let heard = hear::<Mysql>(&sent, show);
    let [row, lost] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(row, r#"3 "SELECT 2 INTO @a" -> Ok "" q0"#);
    // The change of users is within the bounds, and the first query after it a trial.
    assert_eq!(lost, "lost 1..=8 parse_error");
}

#[test]
fn what_the_server_says_unasked_is_no_response() {
    check(
        &after_handshake(&[
            query("ALTER TABLE t ENGINE=Aria"),
            answer(&[b"\xff\xff\xff\x01\x02\x03\0\0\0\x04copy", GOOD]),
            server(packets(0, &[b"\xff\xbf\x0f#HY000The client was disconnected"])),
        ]),
        &expect![[r#"3 "ALTER TABLE t ENGINE=Aria" -> Ok "" q0"#]],
    );
    // One that has no time for anyone says so first.
    check(&[server(packets(0, &[b"\xff\x10\x04Too many connections"]))], &expect![[""]]);
}

#[test]
fn a_command_that_is_never_answered_says_so() {
    check(&[query("SELECT SLEEP(9)")], &expect![[r#"3 "SELECT SLEEP(9)" -> Unknown "" q6"#]]);
}

#[test]
fn no_pair_spans_a_gap() {
    let rows: [&[u8]; 5] = [b"\x01", COLUMN, EOF, b"\x011", EOF];
    let sent = after_handshake(&[
        query("SELECT 'a'"),
        Sent::Hole(Side::Server, 60),
        query("SELECT 'b'"),
        answer(&rows),
        query("SELECT 'c'"),
        answer(&rows),
    ]);
    // The response to `a` was lost; the first query after that is a trial.
    assert_eq!(
        hear::<Mysql>(&sent, show),
        [r#"3 "SELECT 'c'" -> Ok "Resultset rows = 1" q0"#, "lost 2..=2 ring_full"]
    );
    // Servers read the head of a packet first.
    let parts: Vec<_> = sent
        .iter()
        .flat_map(|sent| match sent {
            Sent::Client(bytes) => vec![client(&bytes[..4]), client(&bytes[4..])],
            other => vec![other.clone()],
        })
        .collect();
    assert_eq!(hear::<Mysql>(&parts, show), hear::<Mysql>(&sent, show));
}

#[test]
fn a_command_without_a_response_proves_nothing_after_a_gap() {
    let answer = || answer(&[GOOD]);
    let close = || command(command::code::STMT_CLOSE, [1, 0, 0, 0]);
    let sent = after_handshake(&[
        query("DELETE FROM a"),
        Sent::Hole(Side::Server, 11),
        close(),
        query("DELETE FROM b"),
        answer(),
        close(),
        query("DELETE FROM c"),
        answer(),
        command(command::code::QUIT, []),
    ]);
    let expected = expect![[r#"
        25 "" -> None "" q0
        3 "DELETE FROM c" -> Ok "" q0
        1 "" -> None "" q0
        lost 3..=3 ring_full"#]];
    expected.assert_eq(&hear::<Mysql>(&sent, show).join("\n"));
    // Nor does the end of a connection.
    let sent = after_handshake(&[
        query("DELETE FROM a"),
        Sent::Hole(Side::Server, 11),
        command(command::code::QUIT, []),
    ]);
    assert_eq!(hear::<Mysql>(&sent, show), ["lost 2..=2 ring_full"]);
}

#[test]
fn what_follows_a_long_command_has_its_own_time() {
    let long = packets(0, &[format!("\x03SET @a = '{}'", "x".repeat(1000)).as_bytes()]);
    let (first, rest) = long.split_at(500);
    let both = [rest, &packets(0, &[&[command::code::STMT_CLOSE, 1, 0, 0, 0]])].concat();
    let times = |finished: &Finished| {
        let Finished::Mysql(timed) = finished else { return String::new() };
        format!("{} {}", timed.call.code, timed.requested_at)
    };
    let sent = [client(first), client(&both), answer(&[GOOD])];
    assert_eq!(hear::<Mysql>(&sent, times), ["25 2", "3 1"]);
    // Nor where it is cut too.
    let (second, third) = both.split_at(rest.len() + 2);
    let sent = [client(first), client(second), client(third), answer(&[GOOD])];
    assert_eq!(hear::<Mysql>(&sent, times), ["25 2", "3 1"]);
}

#[test]
fn a_hole_in_a_row_or_a_text_costs_nothing() {
    let row = [&b"\xfd\xa0\x86\x01"[..], "x".repeat(100_000).as_bytes()].concat();
    let answers = packets(1, &[b"\x01", COLUMN, EOF, &row, EOF]);
    let insert = packets(0, &[format!("\x03INSERT '{}'", "x".repeat(100_000)).as_bytes()]);
    let sent = after_handshake(&[
        client(&insert[..10_000]),
        Sent::Hole(Side::Client, 90_000),
        client(&insert[100_000..]),
        answer(&[GOOD]),
        query("SELECT l FROM t"),
        server(&answers[..1000]),
        Sent::Hole(Side::Server, 99_000),
        server(&answers[100_000..]),
    ]);
    let shown = hear::<Mysql>(&sent, show);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[1], r#"3 "SELECT l FROM t" -> Ok "Resultset rows = 1" q0"#);
}

#[test]
fn what_does_not_belong_to_its_command_ends_the_pairing() {
    let sent = after_handshake(&[
        query("SELECT 1"),
        server(packets(2, &[GOOD])),
        query("SELECT 2"),
        answer(&[GOOD]),
    ]);
    assert_eq!(hear::<Mysql>(&sent, show), ["lost 2..=2 unrequested"]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(
        parts in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..12),
    ) {
        check_any_bytes::<Mysql>(parts);
    }

    #[test]
    fn any_packets_are_read_without_a_panic(
        parts in proptest::collection::vec(
            (any::<bool>(), 0..4_u8, prop_oneof![Just(0_u8), 0..0x21_u8, 0xfa..=0xff_u8],
             proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..30)),
            0..20,
        ),
    ) {
        let framed = parts.into_iter().map(|(from_client, sequence, first, rest)| {
            (from_client, packets(sequence, &[&[&[first], &rest[..]].concat()]))
        });
        check_any_bytes::<Mysql>(framed.collect());
    }

    #[test]
    fn every_query_is_paired_with_its_own_response(
        rows in proptest::collection::vec(0..9_usize, 1..30),
        cut in 1_usize..50,
    ) {
        let mut sent = handshake(0, 0);
        let mut expected = Vec::new();
        for rows in rows {
            let sql = format!("SELECT {rows}");
            sent.push(query(&sql));
            let payloads = [&[&b"\x01"[..], COLUMN, EOF], &vec![&b"\x011"[..]; rows][..], &[EOF]];
            sent.push(answer(&payloads.concat()));
            expected.push(format!("3 {sql:?} -> Ok \"Resultset rows = {rows}\" q0"));
        }
        prop_assert_eq!(hear::<Mysql>(&split(&sent, cut), show), expected);
    }
}
