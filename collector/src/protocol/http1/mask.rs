//! What of HTTP/1.x is structure: verbs, versions, status codes, names of well known headers, how long
//! bodies are, and the sizes of chunks. Targets, reasons, values and bodies are content.

use std::collections::VecDeque;

use super::head::HEAD_BYTES_MAX;
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, fill, fill_words, headers};

/// Longest line that says how long a chunk is.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// Where the status is in a line, if not behind further blanks.
const STATUS_AT: usize = b"HTTP/1.1 ".len();
/// Most requests that wait for their response.
const REQUESTS_MAX: usize = 1024;

/// What comes next from a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Another protocol, or nothing that is known.
    Over,
}

/// What a request says of the body of its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verb {
    #[default]
    Any,
    Head,
    Connect,
}

/// What headers say of the body after them.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    length: Option<u64>,
    chunked: bool,
    other_coding: bool,
}

/// Masks a connection that speaks HTTP/1.x.
#[derive(Debug, Default)]
pub(crate) struct Http1Mask {
    at: [At; 2],
    requests: VecDeque<Verb>,
}

impl Mask for Http1Mask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        match self.at[side as usize] {
            At::Head => self.head(side, bytes),
            At::Body(length) => {
                self.at[side as usize] = At::Head;
                Step::Content(length)
            }
            At::ChunkSize => self.chunk_size(side, bytes),
            At::Chunk(length) => {
                self.at[side as usize] = At::ChunkEnd;
                Step::Content(length)
            }
            At::ChunkEnd => {
                self.line(side, bytes, |line| line.trim_ascii().is_empty().then_some(At::ChunkSize))
            }
            At::Trailers => self.line(side, bytes, |line| {
                let is_last = line.trim_ascii().is_empty();
                mask_header(line, &mut Facts::default());
                Some(if is_last { At::Head } else { At::Trailers })
            }),
            At::Over => Step::Lost,
        }
    }
}

impl Http1Mask {
    /// A line up to its end, of which `read` says what follows it.
    fn line(
        &mut self,
        side: Side,
        bytes: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> Option<At>,
    ) -> Step {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < CHUNK_LINE_BYTES_MAX {
                Step::Need(bytes.len() + 1)
            } else {
                Step::Lost
            };
        };
        let Some(next) = read(&mut bytes[..end]) else { return Step::Lost };
        self.at[side as usize] = next;
        Step::Took(end + 1)
    }

    fn chunk_size(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        self.line(side, bytes, |line| {
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let size = std::str::from_utf8(&line[..digits]).ok()?;
            let size = u64::from_str_radix(size, 16).ok()?;
            // What a parser takes for one has nothing but an extension after its size.
            let rest = line[digits..].trim_ascii_start().len();
            let (end, extension) = (line.len() - rest, line.len());
            let is_extension = line.get(end) == Some(&b';');
            fill_words(&mut line[end + usize::from(is_extension)..extension]);
            Some(if size == 0 { At::Trailers } else { At::Chunk(size) })
        })
    }

    fn head(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let breaks = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if breaks > 0 {
            return Step::Took(breaks);
        }
        let Some(end) = blank_line(bytes) else {
            return if bytes.len() < HEAD_BYTES_MAX {
                Step::Need(bytes.len() + 1)
            } else {
                Step::Lost
            };
        };
        let mut lines = bytes[..end].split_mut(|byte| *byte == b'\n');
        let Some(first) = lines.next() else { return Step::Lost };
        let next = match side {
            Side::Client => mask_request_line(first).map(|verb| {
                let facts = facts_of(lines);
                self.requests.push_back(verb);
                after_request(verb, facts)
            }),
            Side::Server => mask_status_line(first).map(|status| {
                let facts = facts_of(lines);
                self.after_response(status, facts)
            }),
        };
        let Some(next) = next.filter(|_| self.requests.len() <= REQUESTS_MAX) else {
            return Step::Lost;
        };
        self.at[side as usize] = next;
        if next == At::Over && side == Side::Server {
            self.at = [At::Over; 2];
        }
        Step::Took(end)
    }

    fn after_response(&mut self, status: u16, facts: Facts) -> At {
        if (100..200).contains(&status) && status != 101 {
            return At::Head;
        }
        let verb = self.requests.pop_front().unwrap_or_default();
        let is_tunnel = verb == Verb::Connect && (200..300).contains(&status);
        let has_no_body = verb == Verb::Head || matches!(status, 204 | 304);
        match (facts.chunked, facts.other_coding, facts.length) {
            _ if status == 101 || is_tunnel => At::Over,
            _ if has_no_body => At::Head,
            (true, ..) => At::ChunkSize,
            (false, false, Some(0)) => At::Head,
            (false, false, Some(length)) => At::Body(length),
            _ => At::Body(u64::MAX),
        }
    }
}

fn after_request(verb: Verb, facts: Facts) -> At {
    match (facts.chunked, facts.length) {
        _ if verb == Verb::Connect => At::Over,
        (true, _) => At::ChunkSize,
        (false, Some(length)) if length > 0 => At::Body(length),
        _ => At::Head,
    }
}

/// Where what follows the first blank line begins.
fn blank_line(bytes: &[u8]) -> Option<usize> {
    let mut is_blank = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if is_blank => return Some(at + 1),
            b'\n' => is_blank = true,
            b'\r' => {}
            _ => is_blank = false,
        }
    }
    None
}

fn mask_request_line(line: &mut [u8]) -> Option<Verb> {
    let line = without_return(line);
    let verb_end = line.iter().position(|byte| *byte == b' ')?;
    let version_at = line.iter().rposition(|byte| *byte == b' ')?;
    let is_verb = line[..verb_end].iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    if !is_verb || version_at <= verb_end || !line[version_at + 1..].starts_with(b"HTTP/1.") {
        return None;
    }
    if let Some(rest) = line.get_mut(version_at + b" HTTP/1.1".len()..) {
        fill(rest);
    }
    headers::mask_path(&mut line[verb_end + 1..version_at]);
    Some(match &line[..verb_end] {
        b"HEAD" => Verb::Head,
        b"CONNECT" => Verb::Connect,
        _ => Verb::Any,
    })
}

fn mask_status_line(line: &mut [u8]) -> Option<u16> {
    let (version, rest) = without_return(line).split_at_mut_checked(STATUS_AT)?;
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    let (status, reason) = rest.get_mut(blanks..)?.split_at_mut_checked(3)?;
    if !version.starts_with(b"HTTP/1.") || !version.ends_with(b" ") {
        return None;
    }
    let blank = usize::from(reason.starts_with(b" "));
    fill(&mut reason[blank..]);
    std::str::from_utf8(status).ok()?.parse().ok()
}

/// Masks headers and gives what they say of the body.
fn facts_of<'a>(lines: impl Iterator<Item = &'a mut [u8]>) -> Facts {
    let mut facts = Facts::default();
    lines.for_each(|line| mask_header(line, &mut facts));
    facts
}

fn mask_header(line: &mut [u8], facts: &mut Facts) {
    let line = without_return(line);
    let Some(colon) = line.iter().position(|byte| *byte == b':').filter(|_| !begins_blank(line))
    else {
        // A value that goes on, or nothing that is a header.
        let blanks = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        return fill(&mut line[blanks..]);
    };
    let (name, value) = line.split_at_mut(colon);
    let value = &mut value[1..];
    let blanks = value.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let end = value.len()
        - value[blanks..].iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
    let value = &mut value[blanks..end];
    headers::mask_value(name, value);
    if !headers::keeps_name(name) {
        fill(name);
    }
    facts.note(name, value);
}

fn begins_blank(line: &[u8]) -> bool {
    matches!(line, [b' ' | b'\t', ..])
}

fn without_return(line: &mut [u8]) -> &mut [u8] {
    let end = line.len() - usize::from(line.ends_with(b"\r"));
    &mut line[..end]
}

impl Facts {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = text.split(',').next().and_then(|first| first.trim().parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = text.rsplit(',').next().unwrap_or_default().trim();
            self.chunked = last.eq_ignore_ascii_case("chunked");
            self.other_coding = !self.chunked && !last.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_a_request_and_its_response_the_structure_is_kept() {
        check::<Http1Mask>(&[
            (
                Side::Client,
                "POST /users/ann?q=1 HTTP/1.1\r\nHost: shop\r\nX-Acme: secret\r\nContent-Length: 4\r\n\r\nbody",
                "POST /xxxxxxxxxxxxx HTTP/1.1\r\nHost: xxxx\r\nxxxxxx: xxxxxx\r\nContent-Length: 4\r\n\r\nxxxx",
            ),
            (
                Side::Server,
                "HTTP/1.1 404 Not Ann\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
                "HTTP/1.1 404 xxxxxxx\r\nTransfer-Encoding: chunked\r\n\r\n5;xxx\r\nxxxxx\r\n0\r\nxxx: x\r\n\r\n",
            ),
            (Side::Client, "HEAD / HTTP/1.1\r\n\r\n", "HEAD / HTTP/1.1\r\n\r\n"),
            (
                Side::Server,
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                "HTTP/1.1 200 xx\r\nContent-Length: 9\r\n\r\n",
            ),
            (
                Side::Server,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
                "HTTP/1.1 200 xx\r\nContent-Length: 2\r\n\r\nxx",
            ),
        ]);
    }
}
