//! What of NATS is structure: the names of commands, numbers of subscriptions, sizes, and of a client's
//! options whether it wants answers. Subjects, options and payloads are content.

use super::line::LINE_BYTES_MAX;
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, fill};

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// What headers of a message begin with.
const VERSION: &[u8] = b"NATS/1.0";
/// The error that is told apart from others, because it ends nothing.
const NOT_FINAL: &[u8] = b"'Invalid Publish Subject'";
/// Names of options that are kept.
const OPTIONS: [&str; 10] = [
    "auth_required",
    "headers",
    "lang",
    "max_payload",
    "no_responders",
    "pedantic",
    "proto",
    "tls_required",
    "verbose",
    "version",
];

/// What comes next from a side.
#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    #[default]
    Line,
    /// Headers, and so many bytes after their version.
    Headers(u64),
    /// So many bytes of a payload.
    Payload(u64),
    /// The end of one.
    End,
}

/// Masks a connection to a NATS server.
#[derive(Debug, Default)]
pub(crate) struct NatsMask {
    expect: [Expect; 2],
}

impl Mask for NatsMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        match self.expect[side as usize] {
            Expect::Line => self.line(side, bytes),
            Expect::Headers(rest) => self.headers(side, bytes, rest),
            Expect::Payload(rest) => {
                self.expect[side as usize] = Expect::End;
                if rest > 0 { Step::Content(rest) } else { self.end(side, bytes) }
            }
            Expect::End => self.end(side, bytes),
        }
    }
}

impl NatsMask {
    fn end(&mut self, side: Side, bytes: &[u8]) -> Step {
        if bytes.len() < 2 {
            return Step::Need(2);
        }
        self.expect[side as usize] = Expect::Line;
        if bytes.starts_with(b"\r\n") { Step::Took(2) } else { Step::Lost }
    }

    /// The version that headers begin with; the rest is content.
    fn headers(&mut self, side: Side, bytes: &mut [u8], rest: u64) -> Step {
        let Some(version) = bytes.get_mut(..VERSION.len()) else {
            return Step::Need(VERSION.len());
        };
        if version != VERSION {
            fill(version);
        }
        self.expect[side as usize] = Expect::Payload(rest);
        Step::Took(VERSION.len())
    }

    fn line(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        if bytes.first() == Some(&TLS_HANDSHAKE) {
            return Step::Another;
        }
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < LINE_BYTES_MAX {
                Step::Need(bytes.len() + 1)
            } else {
                Step::Lost
            };
        };
        let line = &mut bytes[..end];
        let verb_end = line.iter().position(|b| matches!(b, b' ' | b'\t' | b'\r')).unwrap_or(end);
        let (verb, rest) = line.split_at_mut(verb_end);
        match verb.to_ascii_uppercase().as_slice() {
            b"CONNECT" | b"INFO" => mask_options(rest),
            b"-ERR" if rest.trim_ascii() == NOT_FINAL => {}
            b"-ERR" | b"PING" | b"PONG" | b"+OK" | b"" => mask_words(rest, &[]),
            b"SUB" => mask_words(rest, &[Last(1)]),
            b"UNSUB" => mask_words(rest, &[Last(1), Last(2)]),
            b"PUB" => self.message(side, rest, &[Last(1)], 1),
            b"MSG" => self.message(side, rest, &[Last(1), First(1)], 1),
            b"HPUB" => self.message(side, rest, &[Last(1), Last(2)], 2),
            b"HMSG" => self.message(side, rest, &[Last(1), Last(2), First(1)], 2),
            _ => return Step::Lost,
        }
        Step::Took(end + 1)
    }

    /// A command that is followed by a payload, whose sizes are the last words.
    fn message(&mut self, side: Side, words: &mut [u8], kept: &[Place], sizes: usize) {
        mask_words(words, kept);
        let words = std::str::from_utf8(words).unwrap_or_default();
        let mut words = words.split_ascii_whitespace().rev();
        let mut size = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let all = size();
        let has_headers = sizes > 1 && (VERSION.len() as u64..=all).contains(&size());
        self.expect[side as usize] = if has_headers {
            Expect::Headers(all - VERSION.len() as u64)
        } else {
            Expect::Payload(all)
        };
    }
}

/// A word of a line, counted from its beginning or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The first is 0.
    First(usize),
    /// The last is 1.
    Last(usize),
}
use Place::{First, Last};

/// Overwrites words but for the numbers at these places.
fn mask_words(line: &mut [u8], kept: &[Place]) {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace();
    let count = line.split(is_blank).filter(|word| !word.is_empty()).count();
    let words = line.split_mut(is_blank).filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        let is_kept = kept.contains(&First(at)) || kept.contains(&Last(count - at));
        if !is_kept || !word.iter().all(u8::is_ascii_digit) {
            fill(word);
        }
    }
}

/// Overwrites texts and numbers of a JSON object; it stays one, with the names that are known.
fn mask_options(json: &mut [u8]) {
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                let end = text_end(json, at + 1);
                let mut rest = json[end..].iter().skip(1);
                let is_name = rest.find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                let text = &mut json[at + 1..end];
                if !is_name || !OPTIONS.iter().any(|known| *text == *known.as_bytes()) {
                    fill(text);
                }
                at = end;
            }
            b'0'..=b'9' => json[at] = b'1',
            b'a'..=b'z' | b'A'..=b'Z' => {
                let letters = json[at..].iter().take_while(|byte| byte.is_ascii_alphabetic());
                let end = at + letters.count();
                if !matches!(&json[at..end], b"true" | b"false" | b"null") {
                    fill(&mut json[at..end]);
                }
                at = end - 1;
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' | b'-' | b'.' | b' ' | b'\t' | b'\r' => {}
            _ => fill(&mut json[at..=at]),
        }
        at += 1;
    }
}

/// Where the text that begins at `at` ends.
fn text_end(json: &[u8], at: usize) -> usize {
    let mut end = at;
    while end < json.len() && json[end] != b'"' {
        end += if json[end] == b'\\' { 2 } else { 1 };
    }
    end.min(json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_commands_the_structure_is_kept() {
        check::<NatsMask>(&[
            (
                Side::Server,
                "INFO {\"server_id\":\"ann\",\"max_payload\":99,\"headers\":true}\r\n",
                "INFO {\"xxxxxxxxx\":\"xxx\",\"max_payload\":11,\"headers\":true}\r\n",
            ),
            (
                Side::Client,
                "CONNECT {\"verbose\":false,\"pass\":\"a\\\"b\"}\r\nPING\r\n",
                "CONNECT {\"verbose\":false,\"xxxx\":\"xxxx\"}\r\nPING\r\n",
            ),
            (
                Side::Client,
                "SUB a.b 7\r\nPUB a.b c 2\r\nhi\r\n",
                "SUB xxx 7\r\nPUB xxx x 2\r\nxx\r\n",
            ),
            (
                Side::Server,
                "MSG a.b 7 0\r\n\r\n-ERR 'ann'\r\n",
                "MSG xxx 7 0\r\n\r\n-ERR xxxxx\r\n",
            ),
            (
                Side::Client,
                "HPUB a 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n",
                "HPUB x 18 20\r\nNATS/1.0xxxxxxxxxxxx\r\n",
            ),
        ]);
    }
}
