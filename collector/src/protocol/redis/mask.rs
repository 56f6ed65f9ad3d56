//! What of RESP is structure: the marks and lengths of values, the names of commands, what turns replies
//! on and off, and the words by which what a channel sends is told from replies.

use super::value::NotResp;
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, fill, fill_words};

/// Longest line.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Longest word that may be structure.
const WORD_BYTES_MAX: u64 = 32;
/// Arguments of `CLIENT` that are kept.
const OF_CLIENT: [&[u8]; 4] = [b"reply", b"on", b"off", b"skip"];
/// First words of what channels send, and of what answers subscriptions.
const OF_CHANNELS: [&[u8]; 9] = [
    b"message",
    b"pmessage",
    b"psubscribe",
    b"punsubscribe",
    b"smessage",
    b"ssubscribe",
    b"subscribe",
    b"sunsubscribe",
    b"unsubscribe",
];
/// Lines of a server that are kept.
const LINES: [&[u8]; 4] = [b"OK", b"PONG", b"QUEUED", b"RESET"];

/// Codes of errors that are kept.
const ERRORS: [&[u8]; 18] = [
    b"ASK",
    b"BUSY",
    b"BUSYGROUP",
    b"CLUSTERDOWN",
    b"CROSSSLOT",
    b"ERR",
    b"EXECABORT",
    b"LOADING",
    b"MOVED",
    b"NOAUTH",
    b"NOGROUP",
    b"NOPERM",
    b"NOPROTO",
    b"NOSCRIPT",
    b"OOM",
    b"READONLY",
    b"WRONGPASS",
    b"WRONGTYPE",
];

/// What comes next from a side.
#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    #[default]
    Line,
    /// A string of this length.
    Text(u64),
    /// The end of one.
    End,
}

/// Masks a connection to a Redis server.
#[derive(Debug, Default)]
pub(crate) struct RedisMask {
    expect: [Expect; 2],
    /// Items of the command at hand that are to come, and how many came.
    items: (u64, u64),
    /// Whether that command is `CLIENT`.
    is_client: bool,
}

impl Mask for RedisMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        match self.expect[side as usize] {
            Expect::Line => self.line(side, bytes),
            Expect::Text(length) => self.text(side, bytes, length),
            Expect::End if bytes.len() < 2 => Step::Need(2),
            Expect::End if !bytes.starts_with(b"\r\n") => Step::Lost,
            Expect::End => {
                self.expect[side as usize] = Expect::Line;
                self.item_done(side);
                Step::Took(2)
            }
        }
    }
}

impl RedisMask {
    fn line(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if bytes.len() < LINE_BYTES_MAX {
                Step::Need(bytes.len() + 1)
            } else {
                Step::Lost
            };
        };
        let taken = end + 1;
        let (is_command, is_over) = (side == Side::Client, self.items.0 == 0);
        let line = &mut bytes[..end];
        if is_command && is_over && line.first() != Some(&b'*') {
            mask_inline(line);
            return Step::Took(taken);
        }
        let Some((kind, [rest @ .., b'\r'])) = line.split_first_mut() else { return Step::Lost };
        match *kind {
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let Ok(count) = number(rest) else { return Step::Lost };
                if is_command && is_over {
                    (self.items, self.is_client) = ((count.unwrap_or(0), 0), false);
                } else {
                    self.item_done(side);
                    self.items.0 += if is_command { count.unwrap_or(0) } else { 0 };
                }
            }
            b'$' | b'!' | b'=' => match number(rest) {
                Err(NotResp) => return Step::Lost,
                Ok(None) => self.item_done(side),
                Ok(Some(length)) => self.expect[side as usize] = Expect::Text(length),
            },
            b'+' | b'-' | b':' | b',' | b'(' | b'_' | b'#' => {
                mask_simple(*kind, rest);
                self.item_done(side);
            }
            _ => return Step::Lost,
        }
        Step::Took(taken)
    }

    fn text(&mut self, side: Side, bytes: &mut [u8], length: u64) -> Step {
        if length > WORD_BYTES_MAX {
            self.expect[side as usize] = Expect::End;
            return Step::Content(length);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes.len() < length {
            return Step::Need(length.max(1));
        }
        let text = &mut bytes[..length];
        let is_kept = match side {
            Side::Client if self.items.1 == 0 => {
                self.is_client = text.eq_ignore_ascii_case(b"client");
                is_word(text)
            }
            Side::Client => self.is_client && is_one_of(&OF_CLIENT, text),
            Side::Server => is_one_of(&OF_CHANNELS, text),
        };
        if !is_kept {
            fill(text);
        }
        self.expect[side as usize] = Expect::End;
        // An empty one is nothing to take.
        if length == 0 { self.take_end(side, bytes) } else { Step::Took(length) }
    }

    fn take_end(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        self.take(side, bytes, &mut Addresses::default())
    }

    /// Counts an item of a command.
    fn item_done(&mut self, side: Side) {
        if side == Side::Client {
            let (left, came) = self.items;
            self.items = (left.saturating_sub(1), came + 1);
        }
    }
}

/// A length or a count, none for what is not there.
fn number(digits: &[u8]) -> Result<Option<u64>, NotResp> {
    if digits == b"-1" {
        return Ok(None);
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or(NotResp)
}

fn is_word(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'.' | b'_' | b'-' | b'|'))
}

fn is_one_of(words: &[&[u8]], text: &[u8]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// A command as people type it: its name is kept.
fn mask_inline(line: &mut [u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (name, rest) = line.split_at_mut(end);
    if name.len() as u64 > WORD_BYTES_MAX || !is_word(name) {
        fill(name);
    }
    fill_words(rest);
}

/// A value in one line, after its mark.
fn mask_simple(kind: u8, line: &mut [u8]) {
    match kind {
        b'_' | b'#' if matches!(&*line, b"" | b"t" | b"f") => {}
        b':' | b',' | b'(' => {
            for byte in line.iter_mut() {
                *byte = if matches!(byte, b'-' | b'.') { *byte } else { b'0' };
            }
        }
        b'+' if is_one_of(&LINES, line) => {}
        b'+' if is_monitored(line) => mask_monitored(line),
        b'-' => {
            let end = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
            let code = if is_one_of(&ERRORS, &line[..end]) { end } else { 0 };
            fill_words(&mut line[code..]);
        }
        _ => fill(line),
    }
}

/// Whether a line is one of `MONITOR`: a time, and who sent what.
fn is_monitored(line: &[u8]) -> bool {
    let Some(end) = line.iter().position(|byte| *byte == b' ') else { return false };
    let is_time = line[..end].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    is_time && line[..end].contains(&b'.') && line.get(end + 1) == Some(&b'[')
}

fn mask_monitored(line: &mut [u8]) {
    let bracket = line.iter().position(|byte| *byte == b'[').unwrap_or(0);
    fill(&mut line[bracket + 1..]);
    line.iter_mut().filter(|byte| byte.is_ascii_digit()).for_each(|byte| *byte = b'0');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_commands_and_replies_the_structure_is_kept() {
        check::<RedisMask>(&[
            (
                Side::Client,
                "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n",
                "*3\r\n$3\r\nSET\r\n$3\r\nxxx\r\n$5\r\nxxxxx\r\n",
            ),
            (
                Side::Server,
                "+OK\r\n-ERR no such key\r\n:42\r\n$-1\r\n",
                "+OK\r\n-ERR xx xxxx xxx\r\n:00\r\n$-1\r\n",
            ),
            (
                Side::Client,
                "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
                "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
            ),
            (
                Side::Client,
                "*2\r\n$3\r\nGET\r\n$0\r\n\r\nget ann\r\n",
                "*2\r\n$3\r\nGET\r\n$0\r\n\r\nget xxx\r\n",
            ),
            (
                Side::Server,
                "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n",
                "*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$2\r\nxx\r\n",
            ),
            (Side::Server, "+12.5 [0 127.0.0.1:1] \"get\"\r\n", "+00.0 [xxxxxxxxxxxxxxxxxxxx\r\n"),
        ]);
    }
}
