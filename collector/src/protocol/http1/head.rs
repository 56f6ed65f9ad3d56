//! The head of a request or response: start line and headers.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::usual_head;
use crate::protocol::exchange::{ContentType, Exchange};
use crate::protocol::headers::{content_type, headers_into};
use crate::protocol::output::Output;
use crate::redaction::Mode;

/// Headers of a usual message; one with more is parsed a second time.
const HEADERS_USUAL: usize = 64;
/// Most headers of a message.
pub const HEADERS_MAX: usize = 256;
/// Most bytes of a message's head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What came of parsing a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The head took this many bytes, and says this.
    Complete(usize, HeaderFacts),
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

/// Parses a request's head and puts it into `exchange`.
pub(super) fn request(bytes: &[u8], out: &mut Output, exchange: &mut Exchange) -> Parsed {
    let mode = out.redaction.headers;
    if let Some((length, facts)) = usual_head::request(bytes, mode, &mut out.room, exchange) {
        return Parsed::Complete(length, facts);
    }
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_USUAL];
    match request_with(bytes, &mut few, mode, exchange) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            request_with(bytes, &mut many, mode, exchange).unwrap_or(Parsed::Bad)
        }
        parsed => parsed.unwrap_or(Parsed::Bad),
    }
}

/// Parses a response's head and puts it into `exchange`.
pub(super) fn response(bytes: &[u8], out: &mut Output, exchange: &mut Exchange) -> Parsed {
    let mode = out.redaction.headers;
    if let Some((length, facts)) = usual_head::response(bytes, mode, &mut out.room, exchange) {
        return Parsed::Complete(length, facts);
    }
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_USUAL];
    match response_with(bytes, &mut few, mode, exchange) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            response_with(bytes, &mut many, mode, exchange).unwrap_or(Parsed::Bad)
        }
        parsed => parsed.unwrap_or(Parsed::Bad),
    }
}

/// As [`request`], any head, with room for so many headers.
fn request_with<'a>(
    bytes: &'a [u8],
    room: &mut [MaybeUninit<Header<'a>>],
    mode: Mode,
    exchange: &mut Exchange,
) -> Result<Parsed, httparse::Error> {
    let mut request = httparse::Request::new(&mut []);
    match config().parse_request_with_uninit_headers(&mut request, bytes, room)? {
        Status::Partial => Ok(Parsed::Partial),
        Status::Complete(length) => {
            exchange.method.push_str(request.method.unwrap_or_default());
            exchange.path.push_str(request.path.unwrap_or_default());
            exchange.major_version = 1;
            exchange.minor_version = request.version.unwrap_or_default();
            headers_into(request.headers, mode, &mut exchange.req_headers);
            Ok(Parsed::Complete(length, HeaderFacts::of(request.headers)))
        }
    }
}

/// As [`response`], any head, with room for so many headers.
fn response_with<'a>(
    bytes: &'a [u8],
    room: &mut [MaybeUninit<Header<'a>>],
    mode: Mode,
    exchange: &mut Exchange,
) -> Result<Parsed, httparse::Error> {
    let mut response = httparse::Response::new(&mut []);
    match config().parse_response_with_uninit_headers(&mut response, bytes, room)? {
        Status::Partial => Ok(Parsed::Partial),
        Status::Complete(length) => {
            exchange.resp_status = response.code.unwrap_or_default();
            exchange.resp_message.clear();
            exchange.resp_message.push_str(response.reason.unwrap_or_default());
            exchange.resp_headers.clear();
            headers_into(response.headers, mode, &mut exchange.resp_headers);
            Ok(Parsed::Complete(length, HeaderFacts::of(response.headers)))
        }
    }
}

impl HeaderFacts {
    /// What `headers` say.
    fn of(headers: &[Header<'_>]) -> Self {
        let mut facts = Self::default();
        for header in headers {
            facts.note(header.name.as_bytes(), header.value);
        }
        facts
    }

    /// Takes note of a header.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                self.content_type = content_type(value);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.note_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.note_coding(value),
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
    use crate::redaction::Redaction;
    use proptest::prelude::*;

    fn out(headers: Mode) -> Output {
        Output::new(Redaction { headers, bodies: Mode::Full }, 0)
    }

    fn headers(mode: Mode, head: &str) -> (String, HeaderFacts) {
        let mut exchange = Exchange::default();
        let parsed = response(head.as_bytes(), &mut out(mode), &mut exchange);
        let Parsed::Complete(length, facts) = parsed else { panic!("{head:?}: {parsed:?}") };
        assert_eq!(length, head.len());
        (exchange.resp_headers, facts)
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
            let mut exchange = Exchange::default();
            let parsed = request(head.as_bytes(), &mut out(Mode::Full), &mut exchange);
            let complete = Parsed::Complete(head.len(), HeaderFacts::default());
            let expected = if fits { complete } else { Parsed::Bad };
            assert_eq!(parsed, expected, "{count}");
            assert_eq!(exchange.req_headers.matches('b').count(), if fits { count } else { 0 });
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
            let mut exchange = Exchange::default();
            let parsed = response(head.as_bytes(), &mut out(Mode::Full), &mut exchange);
            if matches!(parsed, Parsed::Complete(..)) {
                let value: serde_json::Value = serde_json::from_str(&exchange.resp_headers).unwrap();
                prop_assert!(value.is_object());
            }
        }

        #[test]
        fn what_is_read_in_one_go_is_what_httparse_reads(
            first in prop_oneof![
                r"[A-Z]{1,7} [!-~]{1,20} HTTP/1\.[01]",
                r"[A-Za-z-]{0,7} {1,2}/[ -~é]{0,9} HTTP/1\.[12]",
                r"HTTP/1\.[01] [0-9]{3} [ -~]{0,8}",
                r"HTTP/1\.[12] {1,2}[0-9a]{3}( {0,2}[!-~]{0,8}[\té]?)?",
            ],
            lines in proptest::collection::vec(prop_oneof![
                8 => "[A-Za-z0-9-]{1,18}: {0,2}[ -~]{0,30} {0,2}",
                4 => "[a-c]{1,2}: [ -~]{0,9}",
                4 => "(Content-Length|content-type|Transfer-Encoding): {0,1}[ -~]{0,9}",
                1 => "[ -~]{0,20}:?[\\t -~éß]{0,20}",
            ], 0..7),
            ends in proptest::collection::vec(prop_oneof![40 => Just("\r\n"), 1 => Just("\n")], 10),
            cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
            behind in "[ -~\r\n]{0,20}",
            mode in prop_oneof![Just(Mode::Full), Just(Mode::Redacted), Just(Mode::Pii)],
        ) {
            let mut head = first;
            for (line, end) in lines.iter().chain([&String::new()]).zip(ends) {
                head.push_str(end);
                head.push_str(line);
            }
            head.push_str("\r\n");
            head.push_str(&behind);
            let head = &head.as_bytes()[..cut.map_or(head.len(), |cut| cut.index(head.len()))];
            let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            let (mut one, mut other) = (Exchange::default(), Exchange::default());
            let parsed = request_with(head, &mut room, mode, &mut one).unwrap_or(Parsed::Bad);
            prop_assert_eq!(request(head, &mut out(mode), &mut other), parsed);
            prop_assert_eq!(&one, &other);
            let mut room = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
            let parsed = response_with(head, &mut room, mode, &mut one).unwrap_or(Parsed::Bad);
            prop_assert_eq!(response(head, &mut out(mode), &mut other), parsed);
            prop_assert_eq!(one, other);
        }
    }
}
