//! What of the sensitive columns is kept, decided as rows are written.
//!
//! Whoever reads the Parquet reads everything, so by default values are replaced by a marker that
//! says how long they were. Header names are always kept.

use serde::Deserialize;

/// What is kept of the values of a column group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything, secrets included.
    Full,
    /// The length.
    Redacted,
    /// Everything but what a recogniser takes for an e-mail address, a card number, a bearer token
    /// or a JSON web token.
    Pii,
}

/// The mode of each column group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Redaction {
    /// Header values.
    pub headers: Mode,
    /// Bodies, and what else a user's program sent or was given, such as its command line.
    pub bodies: Mode,
}

impl Redaction {
    /// The shipped default: lengths only.
    pub const STRICT: Self = Self { headers: Mode::Redacted, bodies: Mode::Redacted };
}

/// Headers whose values are secrets; they are kept in mode [`Mode::Full`] only. Lower case.
pub const SECRET_HEADERS: [&str; 8] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
];

/// What the name of a secret parameter of a query string contains. Lower case.
pub const SECRET_PARAMETERS: [&str; 8] =
    ["token", "secret", "passw", "api_key", "apikey", "signature", "session", "auth"];

/// Appends what may be kept of a request's target: all but, in its query string, the values of
/// parameters that are secrets by their name, and what a recogniser takes for personal.
pub fn target_into(mode: Mode, target: &str, out: &mut String) {
    let Some((path, query)) = target.split_once('?').filter(|_| mode != Mode::Full) else {
        out.push_str(target);
        return;
    };
    out.push_str(path);
    for (at, parameter) in query.split('&').enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, value)) if is_secret_parameter(name) && !value.is_empty() => {
                out.push_str(name);
                out.push_str("=[redacted]");
            }
            _ => pii_into(parameter, out),
        }
    }
}

/// What may be kept of a request's target as [`target_into`] has it: the target itself where that is
/// all of it, otherwise what is put into `room`.
pub fn target<'a>(mode: Mode, target: &'a str, room: &'a mut String) -> &'a str {
    if mode == Mode::Full || !target.contains('?') {
        return target;
    }
    room.clear();
    target_into(mode, target, room);
    room
}

/// Appends what may be kept of the value of header `name`. The outcome of a gRPC call is one, and is
/// kept as the status of a response is.
pub fn header_value_into(mode: Mode, name: &str, value: &str, out: &mut String) {
    match mode {
        Mode::Full => out.push_str(value),
        _ if name.eq_ignore_ascii_case("grpc-status") => out.push_str(value),
        Mode::Pii if !is_secret(name) => pii_into(value, out),
        Mode::Pii | Mode::Redacted => marker_into(value.len() as u64, out),
    }
}

/// What may be kept of a body as [`body_into`] has it: the body itself where that is all of it,
/// otherwise what is put into `room`.
pub fn body<'a>(mode: Mode, kept: &'a [u8], size: u64, room: &'a mut String) -> &'a str {
    if mode == Mode::Full
        && let Some(text) = text(kept)
    {
        return text;
    }
    room.clear();
    body_into(mode, kept, size, room);
    room
}

/// Appends what may be kept of a body of `size` bytes, the first of which are `kept`.
pub fn body_into(mode: Mode, kept: &[u8], size: u64, out: &mut String) {
    if size == 0 {
        return;
    }
    if mode == Mode::Redacted {
        return marker_into(size, out);
    }
    match text(kept) {
        None => {
            out.push_str("[binary ");
            decimal_into(size, out);
            out.push_str(" bytes]");
        }
        Some(text) if mode == Mode::Pii => pii_into(text, out),
        Some(text) => out.push_str(text),
    }
}

/// The marker that stands for a value of `bytes` bytes.
pub fn marker_into(bytes: u64, out: &mut String) {
    if bytes > 0 {
        out.push_str("[redacted ");
        decimal_into(bytes, out);
        out.push_str(" bytes]");
    }
}

/// Appends `value` in decimal; `write!` takes several times as long, and markers are the most
/// frequent text of a default installation.
fn decimal_into(value: u64, out: &mut String) {
    if value >= 10 {
        decimal_into(value / 10, out);
    }
    let digit = u8::try_from(value % 10).unwrap_or(0);
    out.push(char::from(b'0' + digit));
}

fn is_secret(name: &str) -> bool {
    SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

fn is_secret_parameter(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARAMETERS.iter().any(|secret| name.contains(secret)) || matches!(&*name, "key" | "sig")
}

/// `bytes` as text, without a character that their end cuts; `None` where they are no text.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(whole_characters(bytes)).ok()
}

/// `bytes` without a character that their end cuts. What is no text before that stays as it is.
pub(crate) fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// Appends `text` with what looks personal replaced.
fn pii_into(text: &str, out: &mut String) {
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(is_boundary).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(word_end);
        if word.is_empty() {
            let step = tail.chars().next().map_or(0, char::len_utf8);
            out.push_str(&tail[..step]);
            rest = &tail[step..];
            continue;
        }
        if word.eq_ignore_ascii_case("bearer") && tail.starts_with(' ') {
            out.push_str(word);
            let token = tail[1..].find(ends_token).map_or(tail.len(), |at| at + 1);
            out.push_str(" [token]");
            rest = &tail[token..];
        } else if let Some(length) = card_length(rest) {
            out.push_str("[card]");
            rest = &rest[length..];
        } else {
            out.push_str(if is_email(word) {
                "[email]"
            } else if is_json_web_token(word) {
                "[token]"
            } else {
                word
            });
            rest = tail;
        }
    }
}

fn is_boundary(c: char) -> bool {
    !(c.is_alphanumeric() || matches!(c, '@' | '.' | '_' | '-' | '+' | '%' | '~' | '='))
}

/// What ends a bearer token, which may hold what ends a word.
fn ends_token(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';')
}

fn is_email(word: &str) -> bool {
    let Some((name, host)) = word.split_once('@') else { return false };
    let name = name.rsplit('=').next().unwrap_or(name);
    !name.is_empty() && host.split('.').filter(|part| !part.is_empty()).count() >= 2
}

fn is_json_web_token(word: &str) -> bool {
    let word = word.rsplit('=').find(|part| !part.is_empty()).unwrap_or(word);
    word.starts_with("eyJ") && word.len() >= 20 && word.split('.').count() == 3
}

/// Length of the card number that `text` starts with: 13 to 19 digits, alone or in groups parted by
/// one blank or hyphen, that pass Luhn's check.
fn card_length(text: &str) -> Option<usize> {
    let mut digits = [0_u8; 19];
    let mut count = 0;
    let mut end = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii_digit() {
            if count == digits.len() {
                return None;
            }
            digits[count] = byte - b'0';
            count += 1;
            end = at + 1;
        } else if !(matches!(byte, b' ' | b'-') && end == at && count > 0) {
            break;
        }
        at += 1;
    }
    if bytes.get(end).is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    (count >= 13 && luhn(&digits[..count])).then_some(end)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| {
            let digit = u32::from(digit);
            if place.is_multiple_of(2) { digit } else { digit * 2 - if digit > 4 { 9 } else { 0 } }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pii(text: &str) -> String {
        let mut out = String::new();
        pii_into(text, &mut out);
        out
    }

    fn body(mode: Mode, kept: &[u8], size: u64) -> String {
        let mut out = String::new();
        body_into(mode, kept, size, &mut out);
        out
    }

    fn header(mode: Mode, name: &str, value: &str) -> String {
        let mut out = String::new();
        header_value_into(mode, name, value, &mut out);
        out
    }

    #[test]
    fn personal_data_is_recognised_among_other_text() {
        for (text, expected) in [
            (r#"{"mail":"ann@example.org","n":1}"#, r#"{"mail":"[email]","n":1}"#),
            ("pay 4111 1111 1111 1111 now", "pay [card] now"),
            ("pay 4111-1111-1111-1111.", "pay [card]."),
            ("order 4111111111111112", "order 4111111111111112"),
            ("Authorization: Bearer abc.def-ghi;", "Authorization: Bearer [token];"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sflKx", "[token]"),
            ("id 12345678901234567890123", "id 12345678901234567890123"),
            ("grün @ home, a@b", "grün @ home, a@b"),
        ] {
            assert_eq!(pii(text), expected, "{text}");
        }
    }

    #[test]
    fn a_redacted_value_says_its_length_and_nothing_else() {
        assert_eq!(header(Mode::Redacted, "accept", "text/html"), "[redacted 9 bytes]");
        assert_eq!(body(Mode::Redacted, b"", 12), "[redacted 12 bytes]");
        assert_eq!(body(Mode::Redacted, b"", 0), "");
    }

    #[test]
    fn secret_headers_are_shown_in_full_mode_only() {
        assert_eq!(header(Mode::Pii, "Set-Cookie", "a=b"), "[redacted 3 bytes]");
        assert_eq!(header(Mode::Pii, "accept", "text/html"), "text/html");
        assert_eq!(header(Mode::Full, "Set-Cookie", "a=b"), "a=b");
    }

    #[test]
    fn secrets_in_a_query_string_are_shown_in_full_mode_only() {
        let target = "/a/b?id=7&access_token=x&mail=ann@example.org&sig=&Key=1#top";
        let kept = |mode| {
            let mut out = String::new();
            target_into(mode, target, &mut out);
            out
        };
        assert_eq!(kept(Mode::Full), target);
        for mode in [Mode::Redacted, Mode::Pii] {
            let expected = "/a/b?id=7&access_token=[redacted]&[email]&sig=&Key=[redacted]";
            assert_eq!(kept(mode), expected);
        }
    }

    #[test]
    fn a_marker_says_any_size() {
        for size in [1, 9, 10, 99, 100, 1234, u64::MAX] {
            let mut out = "-".to_owned();
            marker_into(size, &mut out);
            assert_eq!(out, format!("-[redacted {size} bytes]"));
        }
    }

    #[test]
    fn what_is_kept_whole_is_not_copied_and_is_the_same() {
        let mut room = "left over".to_owned();
        for mode in [Mode::Full, Mode::Redacted, Mode::Pii] {
            for text in ["", "/a", "/a?b=c", "/a?token=x", "ann@example.org"] {
                let mut copied = String::new();
                target_into(mode, text, &mut copied);
                assert_eq!(target(mode, text, &mut room), copied);
            }
            for bytes in
                [&b""[..], b"text", b"ann@example.org", b"\xff\xfe", &"grün".as_bytes()[..3]]
            {
                let size = bytes.len() as u64;
                assert_eq!(super::body(mode, bytes, size, &mut room), body(mode, bytes, size));
            }
        }
    }

    #[test]
    fn binary_bodies_are_named_and_cut_characters_are_left_out() {
        assert_eq!(body(Mode::Full, &[0xff, 0xfe, 0], 3), "[binary 3 bytes]");
        assert_eq!(body(Mode::Full, &"grün".as_bytes()[..3], 5), "gr");
    }

    #[test]
    fn only_a_character_that_the_end_cuts_is_left_out() {
        let text = "a\u{e9}\u{20ac}\u{1f600}".as_bytes();
        let starts = [0, 1, 3, 6, 10];
        for end in 0..=text.len() {
            let whole = starts.into_iter().rfind(|start| *start <= end).unwrap();
            assert_eq!(whole_characters(&text[..end]), &text[..whole], "cut at {end}");
        }
        for no_text in [&b"\xff"[..], b"a\xffb", b"\xff\xc3", b"\xa9"] {
            assert_eq!(whole_characters(no_text), no_text);
        }
    }

    proptest! {
        #[test]
        fn recognisers_never_panic_and_leave_no_address(text in "\\PC{0,60}") {
            let redacted = pii(&format!("{text} ann@example.org"));
            prop_assert!(!redacted.contains("ann@example.org"));
        }
    }
}
