//! Lines of NATS, taken apart.

use serde_json::{Map, Value};

use super::super::dialogue::Side;
use crate::redaction::SECRET_HEADERS;

/// Longest line; `INFO` of a large cluster has the most.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest payload that a server can be told to take.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// What stands for values that are secrets.
const REDACTED: &str = "<redacted>";
/// Options of `CONNECT` that are secrets.
const SECRETS: [&str; 4] = ["auth_token", "jwt", "pass", "sig"];
/// Commands with a payload, and who sends them.
pub(super) const MESSAGES: [(Side, &str); 4] =
    [(Side::Client, "PUB"), (Side::Client, "HPUB"), (Side::Server, "MSG"), (Side::Server, "HMSG")];

/// Longest of their names, in bytes.
pub(super) const MESSAGE_NAME_BYTES_MAX: usize = 4;

/// Options of a command by name.
pub(super) type Options = Map<String, Value>;

/// How long what follows a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// Bytes of the headers, which come first.
    pub(super) header_bytes: u64,
    /// All bytes, without the line end after them.
    pub(super) bytes: u64,
}

/// A line without its end.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Empty,
    Info(&'a str),
    Connect(&'a str),
    Ping,
    Pong,
    Ok,
    Error(&'a str),
    /// A command that is complete with its line.
    Command(&'static str, Options),
    /// A command that is followed by a payload.
    Message(&'static str, Options, Payload),
}

/// How the words of a command are arranged: some, maybe another, some more, and lengths.
struct Form {
    name: &'static str,
    side: Side,
    first: &'static [&'static str],
    maybe: &'static str,
    last: &'static [&'static str],
    lengths: usize,
}

const FORMS: [Form; 6] = [
    Form {
        name: "PUB",
        side: Side::Client,
        first: &["subject"],
        maybe: "reply_to",
        last: &[],
        lengths: 1,
    },
    Form {
        name: "HPUB",
        side: Side::Client,
        first: &["subject"],
        maybe: "reply_to",
        last: &[],
        lengths: 2,
    },
    Form {
        name: "SUB",
        side: Side::Client,
        first: &["subject"],
        maybe: "queue_group",
        last: &["sid"],
        lengths: 0,
    },
    Form {
        name: "UNSUB",
        side: Side::Client,
        first: &["sid"],
        maybe: "max_msgs",
        last: &[],
        lengths: 0,
    },
    Form {
        name: "MSG",
        side: Side::Server,
        first: &["subject", "sid"],
        maybe: "reply_to",
        last: &[],
        lengths: 1,
    },
    Form {
        name: "HMSG",
        side: Side::Server,
        first: &["subject", "sid"],
        maybe: "reply_to",
        last: &[],
        lengths: 2,
    },
];

impl<'a> Line<'a> {
    /// Takes a line of `side` apart; `None` where it is none.
    pub(super) fn parse(side: Side, line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line.strip_suffix(b"\r")?).ok()?;
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return None;
        }
        let verb_end = line.find([' ', '\t']).unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let rest = rest.trim_matches([' ', '\t']);
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        match side {
            _ if line.is_empty() => Some(Self::Empty),
            _ if is("PING") => rest.is_empty().then_some(Self::Ping),
            _ if is("PONG") => rest.is_empty().then_some(Self::Pong),
            Side::Client if is("CONNECT") => rest.starts_with('{').then_some(Self::Connect(rest)),
            Side::Server if is("INFO") => rest.starts_with('{').then_some(Self::Info(rest)),
            Side::Server if is("+OK") => Some(Self::Ok),
            Side::Server if is("-ERR") => Some(Self::Error(rest)),
            _ => FORMS.iter().find(|form| form.side == side && is(form.name))?.parse(rest),
        }
    }
}

impl Form {
    fn parse<'a>(&self, words: &str) -> Option<Line<'a>> {
        let words: Vec<_> = words.split_ascii_whitespace().collect();
        let named = words.len().checked_sub(self.lengths)?;
        let (words, lengths) = words.split_at(named);
        let maybe: &[&str] = if named == self.first.len() + self.last.len() {
            &[]
        } else {
            std::slice::from_ref(&self.maybe)
        };
        let names: Vec<_> = [self.first, maybe, self.last].concat();
        if names.len() != words.len() {
            return None;
        }
        let values = words.iter().map(|word| Value::from(*word));
        let options = names.into_iter().map(str::to_owned).zip(values).collect();
        let payload = match lengths {
            [] => return Some(Line::Command(self.name, options)),
            [bytes] => Payload { header_bytes: 0, bytes: number(bytes)? },
            [headers, bytes, ..] => {
                Payload { header_bytes: number(headers)?, bytes: number(bytes)? }
            }
        };
        let is_sane = payload.header_bytes <= payload.bytes && payload.bytes <= PAYLOAD_BYTES_MAX;
        is_sane.then_some(Line::Message(self.name, options, payload))
    }
}

/// A decimal number without a sign.
fn number(word: &str) -> Option<u64> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?
}

/// What may be kept of what a server says of itself.
pub(super) fn info(text: &str, bytes_max: usize) -> String {
    cut(text, bytes_max).to_owned()
}

/// Whether a client asks for answers, and what may be kept of its options.
pub(super) fn connect(text: &str, bytes_max: usize) -> (bool, String) {
    let Ok(Value::Object(mut options)) = serde_json::from_str(text) else {
        return (true, REDACTED.to_owned());
    };
    for secret in SECRETS {
        if let Some(value) = options.get_mut(secret) {
            *value = REDACTED.into();
        }
    }
    let is_verbose = options.get("verbose").and_then(Value::as_bool).unwrap_or(true);
    (is_verbose, cut(&Value::Object(options).to_string(), bytes_max).to_owned())
}

/// The headers of a message, after their version line.
pub(super) fn headers(bytes: &[u8]) -> Options {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let kept = |(name, value): (&str, &str)| {
        let is_secret = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
        let value = if is_secret { REDACTED } else { value.trim() };
        (name.to_owned(), Value::from(value))
    };
    pairs.map(kept).collect()
}

/// What stands behind the version before headers: a code and words, where there is no message.
pub(super) fn status(headers: &[u8]) -> Option<String> {
    let line = headers.split(|byte| *byte == b'\r').next()?;
    let status = line.strip_prefix(b"NATS/1.0")?.trim_ascii();
    (!status.is_empty()).then(|| String::from_utf8_lossy(status).into_owned())
}

/// At most the first `bytes_max` bytes of a text.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
