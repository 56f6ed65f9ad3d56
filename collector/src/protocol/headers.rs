//! Headers of HTTP messages, whatever their version, as rows show them.

use super::exchange::ContentType;
use crate::redaction::{Mode, header_value_into, marker_into};

/// What stands for a name or a value that is not known.
pub const UNKNOWN: &str = "?";

/// A header field.
pub(super) trait Header {
    /// Its name; `None` where it is not known.
    fn name(&self) -> Option<&str>;
    /// Its value; `None` where it is not known.
    fn value(&self) -> Option<&[u8]>;
}

impl Header for httparse::Header<'_> {
    fn name(&self) -> Option<&str> {
        Some(self.name)
    }

    fn value(&self) -> Option<&[u8]> {
        Some(self.value)
    }
}

impl<H: Header> Header for &H {
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
    json.push('{');
    let mut value = String::new();
    for (index, header) in headers.iter().enumerate() {
        let name = name(header);
        if headers[..index].iter().any(|other| is_named(other, name)) {
            continue;
        }
        if index > 0 {
            json.push(',');
        }
        json.push('"');
        escape_into(name, json);
        json.push_str("\":\"");
        value_into(mode, header, json, &mut value);
        let between = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        for other in headers[index + 1..].iter().filter(|other| is_named(other, name)) {
            json.push_str(between);
            value_into(mode, other, json, &mut value);
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

fn is_named(header: &impl Header, other: &str) -> bool {
    let name = name(header);
    name.len() == other.len() && name.eq_ignore_ascii_case(other)
}

fn value_into(mode: Mode, header: &impl Header, json: &mut String, scratch: &mut String) {
    let Some(value) = header.value() else { return json.push_str(UNKNOWN) };
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
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        json.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
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
        rest = &rest[at + 1..];
    }
    json.push_str(rest);
}

fn starts_with(text: &[u8], start: &[u8]) -> bool {
    text.len() >= start.len() && text[..start.len()].eq_ignore_ascii_case(start)
}

fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && text[text.len() - end.len()..].eq_ignore_ascii_case(end)
}

#[cfg(test)]
mod tests {
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
