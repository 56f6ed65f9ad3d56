//! Headers of HTTP messages, whatever their version, as rows show them.

use super::exchange::ContentType;
use super::marks::{below, equal, first};
use crate::redaction::{Mode, header_value_into, marker_into};

/// What stands for a name or a value that is not known.
pub const UNKNOWN: &str = "?";

/// A header field.
pub(super) trait Header {
    /// Whether names are tokens (RFC 9110, 5.6.2), in which JSON escapes nothing.
    const NAMES_ARE_TOKENS: bool = false;
    /// Its name; `None` where it is not known.
    fn name(&self) -> Option<&str>;
    /// Its value; `None` where it is not known.
    fn value(&self) -> Option<&[u8]>;
}

impl Header for httparse::Header<'_> {
    /// It takes nothing else for a name.
    const NAMES_ARE_TOKENS: bool = true;

    fn name(&self) -> Option<&str> {
        Some(self.name)
    }

    fn value(&self) -> Option<&[u8]> {
        Some(self.value)
    }
}

impl<H: Header> Header for &H {
    const NAMES_ARE_TOKENS: bool = H::NAMES_ARE_TOKENS;

    fn name(&self) -> Option<&str> {
        (*self).name()
    }

    fn value(&self) -> Option<&[u8]> {
        (*self).value()
    }
}

/// Writes `headers` as a JSON object, values redacted by `mode` and those of one name joined by
/// `, `, or by `; ` where they are cookies.
pub(super) fn headers_into(headers: &[impl Header], mode: Mode, json: &mut String) {
    let names = Names::of(headers);
    let mut value = String::new();
    json.push('{');
    for (index, header) in headers.iter().enumerate() {
        let name = name(header);
        let may_repeat = names.may_repeat(name);
        if may_repeat && headers[..index].iter().any(|other| is_named(other, name)) {
            continue;
        }
        json.push_str(if index > 0 { ",\"" } else { "\"" });
        name_into(header, json);
        json.push_str("\":\"");
        value_into(mode, header, json, &mut value);
        if may_repeat {
            let between = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
            for other in headers[index + 1..].iter().filter(|other| is_named(other, name)) {
                json.push_str(between);
                value_into(mode, other, json, &mut value);
            }
        }
        json.push('"');
    }
    json.push('}');
}

/// Adds `trailers` to the JSON object of the headers before them. One with the name of a header
/// is left out.
pub(super) fn trailers_into(trailers: &[impl Header], mode: Mode, json: &mut String) {
    let has = |json: &str, name: &str| {
        let mut key = String::from('"');
        escape_into(name, &mut key);
        key.push_str("\":");
        // Quotes in keys and values are escaped, so this is found in place of a key only.
        json.contains(&key)
    };
    let fresh: Vec<_> = trailers.iter().filter(|trailer| !has(json, name(trailer))).collect();
    if json.len() <= "{}".len() {
        json.clear();
        headers_into(&fresh, mode, json);
    } else if !fresh.is_empty() {
        let mut more = String::new();
        headers_into(&fresh, mode, &mut more);
        json.pop();
        json.push(',');
        json.push_str(&more[1..]);
    }
}

/// What a body is by the value of its `content-type`.
pub(super) fn content_type(value: &[u8]) -> ContentType {
    let essence = value.split(|b| *b == b';').next().unwrap_or(value).trim_ascii();
    if starts_with(essence, b"application/grpc") {
        ContentType::Grpc
    } else if starts_with(essence, b"application/json") || ends_with(essence, b"+json") {
        ContentType::Json
    } else {
        ContentType::Unknown
    }
}

fn name(header: &impl Header) -> &str {
    header.name().unwrap_or(UNKNOWN)
}

fn name_into<H: Header>(header: &H, json: &mut String) {
    if H::NAMES_ARE_TOKENS {
        json.push_str(name(header));
    } else {
        escape_into(name(header), json);
    }
}

fn is_named(header: &impl Header, other: &str) -> bool {
    let name = name(header);
    name.len() == other.len() && name.eq_ignore_ascii_case(other)
}

/// Tells names that stand once from those that may stand more often, in a few instructions each:
/// the marks of hardly any two names of a message are equal.
struct Names {
    repeated: u64,
}

impl Names {
    fn of(headers: &[impl Header]) -> Self {
        let (mut seen, mut repeated) = (0, 0);
        for header in headers {
            let mark = mark(name(header).as_bytes());
            repeated |= seen & mark;
            seen |= mark;
        }
        Self { repeated }
    }

    /// False where the name stands once; true says nothing.
    fn may_repeat(&self, name: &str) -> bool {
        self.repeated & mark(name.as_bytes()) != 0
    }
}

/// A bit for a header's name, the same for every spelling of it.
pub(super) fn mark(name: &[u8]) -> u64 {
    let (first, last) = match name {
        [] => (0, 0),
        [first, .., last] => (*first | 0x20, *last | 0x20),
        [only] => (*only | 0x20, 0),
    };
    1 << ((name.len() + 5 * usize::from(first) + 11 * usize::from(last)) % 64)
}

fn value_into(mode: Mode, header: &impl Header, json: &mut String, scratch: &mut String) {
    let Some(value) = header.value() else { return json.push_str(UNKNOWN) };
    if mode == Mode::Full
        && let Ok(text) = std::str::from_utf8(value)
    {
        return escape_into(text, json);
    }
    // Under a name that is not known may be a secret.
    if mode == Mode::Redacted || (mode == Mode::Pii && header.name().is_none()) {
        marker_into(value.len() as u64, json);
        return;
    }
    scratch.clear();
    let text = String::from_utf8_lossy(value);
    header_value_into(mode, name(header), &text, scratch);
    escape_into(scratch, json);
}

/// Appends `text` as the inside of a JSON string.
fn escape_into(text: &str, json: &mut String) {
    let mut written = 0;
    loop {
        let at = first(text.as_bytes(), written, are_escaped);
        json.push_str(&text[written..at]);
        let Some(byte) = text.as_bytes().get(at) else { return };
        written = at + 1;
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\t' => json.push_str("\\t"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            other => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                json.push_str("\\u00");
                json.push(char::from(HEX[usize::from(other >> 4)]));
                json.push(char::from(HEX[usize::from(other & 15)]));
            }
        }
    }
}

/// Marks what JSON escapes in a text.
#[inline]
const fn are_escaped(word: u64) -> u64 {
    below(word, b' ') | equal(word, b'"') | equal(word, b'\\')
}

fn starts_with(text: &[u8], start: &[u8]) -> bool {
    text.len() >= start.len() && text[..start.len()].eq_ignore_ascii_case(start)
}

fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of which either part may be unknown.
    struct Part(Option<&'static str>, Option<&'static str>);

    impl Header for Part {
        fn name(&self) -> Option<&str> {
            self.0
        }

        fn value(&self) -> Option<&[u8]> {
            self.1.map(str::as_bytes)
        }
    }

    fn json(mode: Mode, headers: &[Part]) -> String {
        let mut json = String::new();
        headers_into(headers, mode, &mut json);
        json
    }

    #[test]
    fn what_is_not_known_is_a_question_mark_and_a_value_without_name_may_be_secret() {
        let headers = [Part(None, None), Part(Some("a"), None), Part(None, Some("secret"))];
        assert_eq!(json(Mode::Full, &headers), r#"{"?":"?, secret","a":"?"}"#);
        for mode in [Mode::Pii, Mode::Redacted] {
            assert_eq!(json(mode, &headers), r#"{"?":"?, [redacted 6 bytes]","a":"?"}"#);
        }
    }

    #[test]
    fn cookies_are_joined_as_cookies() {
        let headers = [Part(Some("cookie"), Some("a=1")), Part(Some("cookie"), Some("b=2"))];
        assert_eq!(json(Mode::Full, &headers), r#"{"cookie":"a=1; b=2"}"#);
    }

    #[test]
    fn names_with_one_mark_are_told_apart_and_spellings_of_one_name_are_not() {
        assert_eq!(mark(b"bab"), mark(b"bbb"));
        let headers = [("bab", "1"), ("bbb", "2"), ("BAB", "3")];
        let headers = headers.map(|(name, value)| Part(Some(name), Some(value)));
        assert_eq!(json(Mode::Full, &headers), r#"{"bab":"1, 3","bbb":"2"}"#);
    }

    proptest! {
        #[test]
        fn a_text_is_the_same_after_json(text in "([ -~\\t\"\\\\]|\\PC|[\x00-\x1f]){0,40}") {
            let mut json = String::from('"');
            escape_into(&text, &mut json);
            json.push('"');
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn what_json_does_not_allow_in_a_text_is_escaped() {
        let headers = [Part(Some("a\"b"), Some("\u{1}q\"\\\t\n\r\u{1f} grün \u{7f}"))];
        let expected = r#"{"a\"b":"\u0001q\"\\\t\n\r\u001f grün "#.to_owned() + "\u{7f}\"}";
        assert_eq!(json(Mode::Full, &headers), expected);
        assert!(serde_json::from_str::<serde_json::Value>(&expected).is_ok());
    }

    #[test]
    fn trailers_go_behind_the_headers_and_take_no_name_twice() {
        for (before, after) in [
            ("", r#"{"b":"2"}"#),
            ("{}", r#"{"b":"2"}"#),
            (r#"{"a":"\"b\":"}"#, r#"{"a":"\"b\":","b":"2"}"#),
            (r#"{"b":"1"}"#, r#"{"b":"1"}"#),
        ] {
            let mut json = before.to_owned();
            trailers_into(&[Part(Some("b"), Some("2"))], Mode::Full, &mut json);
            assert_eq!(json, after, "{before}");
        }
    }
}
