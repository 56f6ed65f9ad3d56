//! What tells MySQL apart from all others: a server's greeting, or a whole command of a client.

use super::super::Probe;
use super::command::code;
use super::handshake;
use super::packet::{HEADER_BYTES, Header};
use super::statements::query_text;
use crate::redaction::whole_characters;

/// Longest greeting that is taken for one.
const GREETING_BYTES_MAX: usize = 1024;
/// Longest name of a database.
const NAME_BYTES_MAX: usize = 64 * 4;
/// Bytes of a text that are looked at.
const TEXT_BYTES_MAX: usize = 4096;
/// Bytes of an execution before its values.
const EXECUTION_BYTES_MIN: usize = 10;
/// Words that a statement starts with.
const KEYWORDS: [&str; 57] = [
    "alter",
    "analyze",
    "begin",
    "binlog",
    "cache",
    "call",
    "change",
    "check",
    "checksum",
    "commit",
    "create",
    "deallocate",
    "delete",
    "desc",
    "describe",
    "do",
    "drop",
    "execute",
    "explain",
    "flush",
    "get",
    "grant",
    "handler",
    "help",
    "import",
    "insert",
    "install",
    "kill",
    "load",
    "lock",
    "optimize",
    "prepare",
    "purge",
    "release",
    "rename",
    "repair",
    "replace",
    "reset",
    "resignal",
    "revoke",
    "rollback",
    "savepoint",
    "select",
    "set",
    "show",
    "shutdown",
    "signal",
    "start",
    "stop",
    "table",
    "truncate",
    "uninstall",
    "unlock",
    "update",
    "use",
    "values",
    "with",
];

/// What the first bytes of a server say.
pub(in super::super) fn probe_response(bytes: &[u8]) -> Probe {
    let Some(header) = Header::of(bytes) else { return Probe::No };
    let length = header.length as usize;
    let payload = &bytes[HEADER_BYTES..];
    if header.sequence != 0 || length > GREETING_BYTES_MAX || payload.len() > length {
        return Probe::No;
    }
    match handshake::is_greeting(payload, length) {
        Some(true) => Probe::Yes,
        Some(false) => Probe::No,
        None => Probe::Maybe,
    }
}

/// What the first bytes say if they are a client's on a connection that was joined midway: they
/// have to be one whole command.
pub(in super::super) fn probe_request(bytes: &[u8]) -> Probe {
    let Some(header) = Header::of(bytes) else { return Probe::No };
    let length = header.length as usize;
    let payload = &bytes[HEADER_BYTES..];
    if header.sequence != 0 || length == 0 || payload.len() > length {
        return Probe::No;
    }
    if !may_command(payload, length) {
        return Probe::No;
    }
    match payload.first() {
        _ if payload.len() == length => Probe::Yes,
        // Others are too short to come in parts.
        None | Some(&(code::QUERY | code::STMT_PREPARE)) => Probe::Maybe,
        Some(_) => Probe::No,
    }
}

/// Whether an operation that starts with `bytes` starts with a command, on a connection that is
/// known to speak MySQL. Servers read the head of a packet first, and long texts are cut off.
pub(super) fn begins_command(bytes: &[u8]) -> bool {
    let Some(header) = Header::of(bytes) else { return false };
    let length = header.length as usize;
    let payload = &bytes[HEADER_BYTES..];
    let payload = &payload[..payload.len().min(length)];
    header.sequence == 0 && length > 0 && may_command(payload, length)
}

/// Whether a payload of `length` bytes that starts with `payload` can be a command.
fn may_command(payload: &[u8], length: usize) -> bool {
    let Some((&command, rest)) = payload.split_first() else { return true };
    let is_whole = payload.len() == length;
    match command {
        // The first byte may be the number of attributes that go before the text.
        code::QUERY if rest.len() < 2 && !is_whole => true,
        code::QUERY => is_statement(query_text(rest), is_whole),
        code::STMT_PREPARE => is_statement(rest, is_whole),
        code::STMT_EXECUTE => length >= EXECUTION_BYTES_MIN && is_execution(rest),
        code::STMT_BULK_EXECUTE => {
            length > 7
                && is_id(rest)
                && rest.get(4..6).is_none_or(|flags| matches!(flags, [0 | 64 | 128 | 192, 0]))
        }
        code::QUIT
        | code::STATISTICS
        | code::PROCESS_INFO
        | code::DEBUG
        | code::PING
        | code::RESET_CONNECTION => length == 1,
        code::STMT_CLOSE | code::STMT_RESET => length == 5 && is_id(rest),
        code::STMT_FETCH => length == 9 && is_id(rest),
        code::STMT_SEND_LONG_DATA => length >= 7 && is_id(rest),
        code::SET_OPTION => length == 3 && rest.iter().all(|byte| *byte <= 1),
        code::REFRESH | code::SHUTDOWN => length <= 2,
        code::PROCESS_KILL => length == 5,
        code::INIT_DB | code::CREATE_DB | code::DROP_DB => {
            (2..=NAME_BYTES_MAX).contains(&length) && is_text(rest, is_whole)
        }
        // A name, a zero, a pattern.
        code::FIELD_LIST => length <= 2 * NAME_BYTES_MAX && (!is_whole || rest.contains(&0)),
        code::CHANGE_USER => !is_whole || rest.contains(&0),
        code::BINLOG_DUMP | code::REGISTER_SLAVE | code::BINLOG_DUMP_GTID => length > 10,
        _ => false,
    }
}

/// Whether an execution is one round of a statement with an id.
fn is_execution(rest: &[u8]) -> bool {
    is_id(rest)
        && rest.get(4).is_none_or(|flags| *flags <= 0x0f)
        && rest.get(5..9).is_none_or(|rounds| rounds == [1, 0, 0, 0])
}

/// Whether a payload can start with the id of a statement, which count from one.
fn is_id(rest: &[u8]) -> bool {
    rest.get(..4).is_none_or(|id| id != [0; 4])
}

fn is_text(bytes: &[u8], is_whole: bool) -> bool {
    let bytes = if is_whole { bytes } else { whole_characters(bytes) };
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
}

/// Whether a text is SQL: it starts with a keyword, maybe after comments.
fn is_statement(bytes: &[u8], is_whole: bool) -> bool {
    let looked_at = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let is_whole = is_whole && looked_at.len() == bytes.len();
    if !is_text(looked_at, is_whole) {
        return false;
    }
    let text = text_before_error(looked_at);
    let Some(statement) = after_comments(text) else { return !is_whole };
    let end = statement.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(statement.len());
    let (word, rest) = statement.split_at(end);
    if matches!(statement, "/" | "-") && !is_whole {
        return true;
    }
    if rest.is_empty() && !is_whole {
        return KEYWORDS.iter().any(|keyword| {
            keyword.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        });
    }
    word.eq_ignore_ascii_case("xa")
        || KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// The part of `bytes` that is text.
fn text_before_error(bytes: &[u8]) -> &str {
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// What follows white space, brackets and comments; `None` where the text ends in them. What is
/// in a comment for certain versions of the server is no comment.
fn after_comments(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        if rest.is_empty() {
            return None;
        }
        let conditional = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!"));
        rest = if let Some(conditional) = conditional {
            conditional.trim_start_matches(|c: char| c.is_ascii_digit())
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/")?.1
        } else if rest.starts_with('#') || rest.starts_with("--") {
            rest.split_once('\n')?.1
        } else {
            return Some(rest);
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        [&length[..3], &[0], payload].concat()
    }

    #[test]
    fn a_greeting_is_known_by_its_shape() {
        let mut greeting = b"\x0a5.5.5-10.11.19-MariaDB\0\x07\0\0\0abcdefgh\0".to_vec();
        greeting.extend([0xfe, 0xf7, 8, 2, 0, 0xff, 0x81]);
        let bytes = packet(&greeting);
        assert_eq!(probe_response(&bytes), Probe::Yes);
        for cut in 4..HEADER_BYTES + 37 {
            assert_eq!(probe_response(&bytes[..cut]), Probe::Maybe, "cut at {cut}");
        }
        assert_eq!(probe_response(b"HTTP/1.1 200 OK\r\n\r\n"), Probe::No);
        assert_eq!(probe_response(&packet(b"\x0anot a version")), Probe::No);
        assert_eq!(probe_request(&bytes), Probe::No);
    }

    #[test]
    fn a_whole_command_is_known_by_its_shape() {
        for payload in [
            &b"\x03SELECT 1"[..],
            b"\x03 /* by me */ (select 1)",
            b"\x03/*!40101 SET NAMES utf8 */",
            b"\x03-- why\nSHOW TABLES",
            b"\x03\x00\x01SELECT 1",
            "\x03SELECT 'é'".as_bytes(),
            b"\x03update t set n = 1",
            b"\x16insert into t values (?)",
            b"\x17\x01\0\0\0\0\x01\0\0\0",
            b"\x19\x01\0\0\0",
            b"\x0e",
            b"\x01",
            b"\x02shop",
        ] {
            let bytes = packet(payload);
            assert_eq!(probe_request(&bytes), Probe::Yes, "{payload:?}");
            for cut in HEADER_BYTES..bytes.len() {
                let is_text = cut == HEADER_BYTES || matches!(payload[0], 0x03 | 0x16);
                let expected = if is_text { Probe::Maybe } else { Probe::No };
                assert_eq!(probe_request(&bytes[..cut]), expected, "{payload:?} cut at {cut}");
                assert!(begins_command(&bytes[..cut]));
            }
        }
        for payload in [
            &b"\x03hello there"[..],
            b"\x03selection",
            b"\x03SELECT '\xff'",
            b"\x17\x01\0\0\0\0\x02\0\0\0",
            b"\x19\0\0\0\0",
            b"\x0e\0",
            b"\x1d",
            b"\x00\x01",
        ] {
            assert_eq!(probe_request(&packet(payload)), Probe::No, "{payload:?}");
        }
        assert_eq!(probe_request(b"\x01\0\0\x01\x0e"), Probe::No, "no first packet");
        assert_eq!(probe_request(b"\x01\0\0\0\x0e\0"), Probe::No, "longer than it says");
    }

    proptest! {
        #[test]
        fn random_bytes_are_not_taken(bytes in proptest::collection::vec(any::<u8>(), 6..200)) {
            prop_assert_ne!(probe_request(&bytes), Probe::Yes);
            prop_assert_ne!(probe_response(&bytes), Probe::Yes);
        }

        #[test]
        fn other_protocols_are_not_taken(
            verb in "GET|POST|PUT|DELETE|PRI",
            path in "/[a-z/0-9]{0,40}",
            words in proptest::collection::vec("[ -~]{1,20}", 1..5),
            random in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let http = format!("{verb} {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
            let answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            let mut redis = format!("*{}\r\n", words.len());
            for word in &words {
                redis.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
            let tls = [&[0x16, 3, 1, 0, u8::try_from(random.len()).unwrap()], &random[..]].concat();
            let mut all = vec![http, answer, redis.into_bytes(), tls];
            // PostgreSQL: a tag, a length with itself, a payload; and the startup without a tag.
            for tag in b"QPBESDCXpRTDKZ" {
                let text = words.join(" ");
                let length = u32::try_from(text.len() + 5).unwrap().to_be_bytes();
                all.push([&[*tag], &length[..], text.as_bytes(), &[0]].concat());
            }
            let length = u32::try_from(random.len() + 8).unwrap().to_be_bytes();
            all.push([&length[..], &[0, 3, 0, 0], &random].concat());
            for bytes in all {
                prop_assert_ne!(probe_request(&bytes), Probe::Yes, "{:?}", bytes);
                prop_assert_ne!(probe_response(&bytes), Probe::Yes, "{:?}", bytes);
            }
        }
    }
}
