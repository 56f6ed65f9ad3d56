use super::super::tests::wire::{bind, execute, message, packet, parse, query, startup, sync};
use super::*;
use proptest::prelude::*;

#[test]
fn a_client_is_known_by_its_first_packet_or_by_whole_messages() {
    use Probe::{Maybe, No, Yes};
    let turn = [bind("", "s", &[Some("1"), None]), execute(""), sync()].concat();
    for (bytes, expected) in [
        (startup(), Yes),
        (packet(80_877_103, ""), Yes),
        (packet(80_877_104, ""), Yes),
        (packet(80_877_102, "12345678"), Yes),
        (packet(80_877_103, "more"), No),
        (packet(131_072, "user\0me\0\0"), No),
        (query("SELECT 1"), Yes),
        ([query("SELECT 'é'\n"), query("SELECT 2")].concat(), Yes),
        ([query("SELECT 1"), b"z".to_vec()].concat(), No),
        (query("SELECT \0 1"), No),
        (query("\x01\x02"), No),
        (parse("s", "SELECT $1"), Yes),
        ([parse("s", "SELECT $1"), sync()].concat(), Yes),
        (turn.clone(), Yes),
        (bind("", "s", &[Some("1")]), No),
        ([turn, b"z".to_vec()].concat(), No),
        (message(b'P', "PING\r\n"), No),
        // A request for metadata of Kafka has the same numbers.
        (b"\0\0\0\x14\0\x03\0\0\0\0\0\x01\0\x04test\0\0\0\0".to_vec(), No),
        (b"PUT / HTTP/1.1\r\n\r\n".to_vec(), No),
        (b"QUIT\r\n".to_vec(), No),
        (b"BEGIN".to_vec(), No),
        (Vec::new(), Maybe),
    ] {
        assert_eq!(probe_request(&bytes), expected, "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_beginning_of_what_is_known_may_be_it() {
    let turn = [bind("", "s", &[Some("1"), None]), execute(""), sync()].concat();
    for (whole, first) in [
        (startup(), 13),
        (packet(80_877_103, ""), 8),
        (query("SELECT 1"), 14),
        (parse("s", "SELECT $1"), 19),
        (turn, 0),
    ] {
        for cut in 0..first {
            assert_eq!(probe_request(&whole[..cut]), Probe::Maybe, "{whole:?} cut at {cut}");
        }
    }
}

/// A packet of `MySQL`: three bytes of length, a number, and the command.
fn mysql(sequence: u8, command: u8, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 1).unwrap().to_le_bytes();
    [&length[..3], &[sequence, command], text.as_bytes()].concat()
}

proptest! {
    #[test]
    fn random_bytes_are_not_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_ne!(probe_request(&bytes), Probe::Yes);
    }

    #[test]
    fn random_bytes_after_a_tag_are_not_taken(
        tag in proptest::sample::select(&b"QPB\0"[..]),
        bytes in proptest::collection::vec(prop_oneof![Just(0), 0_u8..20, any::<u8>()], 4..60),
    ) {
        let bytes = [&[tag][..], &bytes].concat();
        // Only bytes that happen to be a whole message may be.
        if probe_request(&bytes) == Probe::Yes {
            let is_message = matches!(Extent::of(&bytes), Extent::Bytes(n) if n <= bytes.len());
            prop_assert!(is_message || tag == 0, "{bytes:?}");
        }
    }

    #[test]
    fn http_is_not_taken(
        verb in "[A-Z]{3,8}", path in "/[ -~]{0,80}", body in "[ -~\r\n]{0,200}",
    ) {
        let request = format!("{verb} {path} HTTP/1.1\r\nHost: h\r\n\r\n{body}");
        prop_assert_eq!(probe_request(request.as_bytes()), Probe::No);
        let response = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
        prop_assert_eq!(probe_request(response.as_bytes()), Probe::No);
    }

    #[test]
    fn redis_is_not_taken(words in proptest::collection::vec("[ -~]{0,20}", 1..5)) {
        let mut command = format!("*{}\r\n", words.len());
        for word in &words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        prop_assert_eq!(probe_request(command.as_bytes()), Probe::No);
        let inline = words.join(" ") + "\r\n";
        prop_assert_ne!(probe_request(inline.as_bytes()), Probe::Yes);
    }

    #[test]
    fn mysql_is_not_taken(
        sequence in 0_u8..3, command in 0_u8..0x20, text in "[ -~\n]{0,300}",
    ) {
        prop_assert_ne!(probe_request(&mysql(sequence, command, &text)), Probe::Yes);
    }

    #[test]
    fn every_query_is_taken(sql in "[a-zA-Z][ -~é\n\t]{0,200}") {
        prop_assert_eq!(probe_request(&query(&sql)), Probe::Yes);
        prop_assert_eq!(probe_request(&parse("", &sql)), Probe::Yes);
    }
}
