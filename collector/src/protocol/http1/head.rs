//! The head of a request or response: start line and headers.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use crate::protocol::exchange::ContentType;
use crate::protocol::headers::content_type;

/// Headers of a usual message; one with more is parsed a second time.
const HEADERS_USUAL: usize = 64;
/// Most headers of a message.
pub const HEADERS_MAX: usize = 256;
/// Most bytes of a message's head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What came of parsing a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<T> {
    /// The head took this many bytes.
    Complete(usize, T),
    /// It goes on beyond the bytes.
    Partial,
    /// The bytes are no head.
    Bad,
}

/// What headers say about the message's framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeaderFacts {
    pub(super) content_length: Option<u64>,
    /// The last transfer coding is chunked.
    pub(super) chunked: bool,
    /// There is a transfer coding, and chunked is not the last.
    pub(super) other_coding: bool,
    /// Lengths that contradict each other or are no number.
    pub(super) bad_length: bool,
    pub(super) content_type: ContentType,
}

fn config() -> ParserConfig {
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_request_line_delimiters(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    config
}

/// Parses a request's head and hands it to `take`.
pub(super) fn request<T>(
    bytes: &[u8],
    take: impl FnOnce(&httparse::Request<'_, '_>) -> T,
) -> Parsed<T> {
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_USUAL];
    let mut request = httparse::Request::new(&mut []);
    match config().parse_request_with_uninit_headers(&mut request, bytes, &mut few) {
        Ok(Status::Complete(length)) => Parsed::Complete(length, take(&request)),
        Ok(Status::Partial) => Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            let mut request = httparse::Request::new(&mut []);
            match config().parse_request_with_uninit_headers(&mut request, bytes, &mut many) {
                Ok(Status::Complete(length)) => Parsed::Complete(length, take(&request)),
                Ok(Status::Partial) => Parsed::Partial,
                Err(_) => Parsed::Bad,
            }
        }
        Err(_) => Parsed::Bad,
    }
}

/// Parses a response's head and hands it to `take`.
pub(super) fn response<T>(
    bytes: &[u8],
    take: impl FnOnce(&httparse::Response<'_, '_>) -> T,
) -> Parsed<T> {
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_USUAL];
    let mut response = httparse::Response::new(&mut []);
    match config().parse_response_with_uninit_headers(&mut response, bytes, &mut few) {
        Ok(Status::Complete(length)) => Parsed::Complete(length, take(&response)),
        Ok(Status::Partial) => Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut []);
            match config().parse_response_with_uninit_headers(&mut response, bytes, &mut many) {
                Ok(Status::Complete(length)) => Parsed::Complete(length, take(&response)),
                Ok(Status::Partial) => Parsed::Partial,
                Err(_) => Parsed::Bad,
            }
        }
        Err(_) => Parsed::Bad,
    }
}

impl HeaderFacts {
    /// What `headers` say.
    pub(super) fn of(headers: &[Header<'_>]) -> Self {
        let mut facts = Self::default();
        for header in headers {
            facts.note(header);
        }
        facts
    }

    fn note(&mut self, header: &Header<'_>) {
        match header.name.len() {
            12 if header.name.eq_ignore_ascii_case("content-type") => {
                self.content_type = content_type(header.value);
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                self.note_length(header.value);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                self.note_coding(header.value);
            }
            _ => {}
        }
    }

    /// A list of equal numbers counts as the number, as servers take it.
    fn note_length(&mut self, value: &[u8]) {
        for text in value.split(|b| *b == b',') {
            let text = text.trim_ascii();
            let number = (!text.is_empty() && text.iter().all(u8::is_ascii_digit))
                .then(|| std::str::from_utf8(text).ok()?.parse::<u64>().ok())
                .flatten();
            match (number, self.content_length) {
                (None, _) => self.bad_length = true,
                (Some(number), Some(before)) if number != before => self.bad_length = true,
                (Some(number), _) => self.content_length = Some(number),
            }
        }
    }

    fn note_coding(&mut self, value: &[u8]) {
        let last = value.rsplit(|b| *b == b',').next().unwrap_or(value).trim_ascii();
        if last.is_empty() {
            return;
        }
        self.chunked = last.eq_ignore_ascii_case(b"chunked");
        self.other_coding = !self.chunked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::headers::headers_into;
    use crate::redaction::Mode;
    use proptest::prelude::*;

    fn headers(mode: Mode, head: &str) -> (String, HeaderFacts) {
        let mut json = String::new();
        let parsed = response(head.as_bytes(), |response| {
            headers_into(response.headers, mode, &mut json);
            HeaderFacts::of(response.headers)
        });
        let Parsed::Complete(length, facts) = parsed else { panic!("{head:?}: {parsed:?}") };
        assert_eq!(length, head.len());
        (json, facts)
    }

    #[test]
    fn headers_are_a_json_object_with_one_key_per_name() {
        let (json, facts) = headers(
            Mode::Full,
            "HTTP/1.1 200 OK\r\nA: x\"y\\z\tw\r\nContent-Length: 5\r\na: 2\r\nContent-Type: \
             application/problem+json; charset=utf-8\r\n\r\n",
        );
        assert_eq!(
            json,
            r#"{"A":"x\"y\\z\tw, 2","Content-Length":"5","Content-Type":"application/problem+json; charset=utf-8"}"#
        );
        assert_eq!(facts.content_length, Some(5));
        assert_eq!(facts.content_type, ContentType::Json);
    }

    #[test]
    fn redacted_headers_keep_their_names() {
        let (json, facts) =
            headers(Mode::Redacted, "HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\nEmpty:\r\n\r\n");
        assert_eq!(json, r#"{"Set-Cookie":"[redacted 6 bytes]","Empty":""}"#);
        assert_eq!(facts, HeaderFacts::default());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_bad() {
        for (value, length, bad) in [
            ("5, 5", Some(5), false),
            ("5, 6", Some(5), true),
            ("-1", None, true),
            ("+1", None, true),
            ("99999999999999999999", None, true),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n");
            let (_, facts) = headers(Mode::Full, &head);
            assert_eq!((facts.content_length, facts.bad_length), (length, bad), "{value}");
        }
    }

    #[test]
    fn a_head_with_many_headers_is_parsed_up_to_the_limit() {
        for (count, fits) in [(1, true), (65, true), (HEADERS_MAX, true), (HEADERS_MAX + 1, false)]
        {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
            let parsed = request(head.as_bytes(), |request| request.headers.len());
            assert_eq!(parsed == Parsed::Complete(head.len(), count), fits, "{count}");
        }
    }

    proptest! {
        #[test]
        fn header_json_is_always_valid(values in proptest::collection::vec("[ -~\\t\u{80}-\u{2ff}]{0,20}", 0..6)) {
            let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
            for (index, value) in values.iter().enumerate() {
                head.push_str(&format!("h{}: {}\r\n", index % 3, value));
            }
            head.push_str("\r\n");
            let mut json = String::new();
            let parsed = response(head.as_bytes(), |response| {
                headers_into(response.headers, Mode::Full, &mut json);
            });
            if matches!(parsed, Parsed::Complete(..)) {
                let value: serde_json::Value = serde_json::from_str(&json).unwrap();
                prop_assert!(value.is_object());
            }
        }
    }
}
