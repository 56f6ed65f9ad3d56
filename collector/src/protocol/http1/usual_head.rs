//! Heads as nearly every client and server writes them: read and written as rows show them in one go.
//!
//! ```text
//! Accept: text/html⏎ Host: shop⏎ ⏎   ─► {"Accept":"text/html","Host":"shop"}
//! ```
//!
//! One space between the parts of the first line, visible ASCII and spaces in values, lines that end
//! with a carriage return and a line feed, no name twice: of such a head bytes are looked at eight at a
//! time, and put behind each other as they are, up to what ends them. Every other head is left to
//! `httparse`, with which this agrees; a property shows it.

use super::head::HeaderFacts;
use crate::protocol::exchange::Exchange;
use crate::protocol::headers::mark;
use crate::protocol::marks::{BYTES, below, beyond_ascii, equal, first, first_in, word_at};
use crate::redaction::Mode;

/// Most fields of such a head.
const FIELDS_MAX: usize = 64;
/// Most bytes of the JSON object of its fields.
const JSON_BYTES_MAX: usize = 16 * 1024;
const LINE_END: &[u8] = b"\r\n";

/// Where the JSON object of a head's fields is put together.
#[derive(Debug)]
pub(in crate::protocol) struct Room(Box<[u8]>);

impl Default for Room {
    fn default() -> Self {
        Self(vec![0; JSON_BYTES_MAX].into())
    }
}

/// Takes a request's head off the front of `bytes` and puts it into `exchange`; `None` where it is no
/// usual one, or not all of it is there.
pub(super) fn request(
    bytes: &[u8],
    mode: Mode,
    room: &mut Room,
    exchange: &mut Exchange,
) -> Option<(usize, HeaderFacts)> {
    let method = bytes.iter().position(|byte| !byte.is_ascii_uppercase())?;
    let path = method + 1;
    let path_end = first(bytes, path, |word| below(word, b'!') | beyond_ascii(word));
    if method == 0 || bytes[method] != b' ' || path == path_end {
        return None;
    }
    let (version, rest) = bytes[path_end..].split_first_chunk()?;
    let minor_version = match version {
        b" HTTP/1.0\r\n" => 0,
        b" HTTP/1.1\r\n" => 1,
        _ => return None,
    };
    let (json, length, facts) = fields(bytes, bytes.len() - rest.len(), mode, room)?;
    exchange.method.push_str(std::str::from_utf8(&bytes[..method]).ok()?);
    exchange.path.push_str(std::str::from_utf8(&bytes[path..path_end]).ok()?);
    exchange.major_version = 1;
    exchange.minor_version = minor_version;
    exchange.req_headers.push_str(json);
    Some((length, facts))
}

/// Takes a response's head off the front of `bytes` and puts it into `exchange`, in place of an interim
/// one; `None` where it is no usual one, or not all of it is there.
pub(super) fn response(
    bytes: &[u8],
    mode: Mode,
    room: &mut Room,
    exchange: &mut Exchange,
) -> Option<(usize, HeaderFacts)> {
    let (version, rest) = bytes.split_first_chunk()?;
    let ([hundreds, tens, ones, b' '], rest) = rest.split_first_chunk()? else { return None };
    if !matches!(version, b"HTTP/1.0 " | b"HTTP/1.1 ") || rest.first() == Some(&b' ') {
        return None;
    }
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(*byte - b'0'));
    let status = digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?;
    let reason = bytes.len() - rest.len();
    let reason_end = first(bytes, reason, are_no_value);
    if !bytes[reason_end..].starts_with(LINE_END) {
        return None;
    }
    let (json, length, facts) = fields(bytes, reason_end + LINE_END.len(), mode, room)?;
    exchange.resp_status = status;
    exchange.resp_message.clear();
    exchange.resp_message.push_str(std::str::from_utf8(&bytes[reason..reason_end]).ok()?);
    exchange.resp_headers.clear();
    exchange.resp_headers.push_str(json);
    Some((length, facts))
}

/// Reads the fields that begin at `at`: the JSON object of them, where the head ends, and what they say.
fn fields<'r>(
    bytes: &[u8],
    mut at: usize,
    mode: Mode,
    room: &'r mut Room,
) -> Option<(&'r str, usize, HeaderFacts)> {
    let mut json = Json { room: &mut room.0, len: 0 };
    let mut facts = HeaderFacts::default();
    let mut names = [0; FIELDS_MAX];
    let (mut count, mut marked) = (0, 0);
    json.put(b"{")?;
    while !bytes[at..].starts_with(LINE_END) {
        if count > 0 {
            json.put(b",")?;
        }
        json.put(b"\"")?;
        let colon = json.name(bytes, at)?;
        let name = &bytes[at..colon];
        let mark = mark(name);
        let is_same = |from: &u16| is_named(&bytes[usize::from(*from)..], name);
        if marked & mark != 0 && names[..count].iter().any(is_same) {
            return None;
        }
        marked |= mark;
        *names.get_mut(count)? = u16::try_from(at).ok()?;
        count += 1;
        json.put(b"\":\"")?;
        let mut value = colon + 1;
        while bytes.get(value) == Some(&b' ') {
            value += 1;
        }
        let line_end = match mode {
            Mode::Full => json.value(bytes, value)?,
            Mode::Redacted => json.marker(bytes, value)?,
            Mode::Pii => return None,
        };
        if !bytes[line_end..].starts_with(LINE_END) {
            return None;
        }
        json.put(b"\"")?;
        facts.note(name, bytes[value..line_end].trim_ascii_end());
        at = line_end + LINE_END.len();
    }
    json.put(b"}")?;
    let Json { room, len } = json;
    Some((std::str::from_utf8(&room[..len]).ok()?, at + LINE_END.len(), facts))
}

/// Whether a field begins here that is called `name`.
fn is_named(field: &[u8], name: &[u8]) -> bool {
    field.get(name.len()) == Some(&b':') && field[..name.len()].eq_ignore_ascii_case(name)
}

/// A JSON object on its way. Functions give `None` where there is no room for more.
struct Json<'r> {
    room: &'r mut [u8],
    len: usize,
}

impl Json<'_> {
    #[inline]
    fn put(&mut self, text: &[u8]) -> Option<()> {
        self.room.get_mut(self.len..)?.get_mut(..text.len())?.copy_from_slice(text);
        self.len += text.len();
        Some(())
    }

    /// Puts bytes there, of which it is not known yet how many count.
    #[inline]
    fn put_word(&mut self, word: u64) -> Option<()> {
        *self.room.get_mut(self.len..)?.first_chunk_mut()? = word.to_le_bytes();
        Some(())
    }

    /// Puts the name there that begins at `at`; where its colon is.
    #[inline]
    fn name(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let mut end = at;
        loop {
            let word = word_at(bytes, end);
            self.put_word(word)?;
            let taken = first_in(equal(word, b':') | below(word, b'!'));
            self.len += taken;
            end += taken;
            if taken < BYTES {
                break;
            }
        }
        let is_colon = bytes.get(end) == Some(&b':');
        let name = bytes.get(at..end)?;
        let are_tokens = name.iter().fold(true, |are, byte| are & IS_TOKEN[usize::from(*byte)]);
        (is_colon && are_tokens && !name.is_empty()).then_some(end)
    }

    /// Puts the value there that begins at `at`, without blanks behind it; where its line ends, or what a
    /// usual value does not have.
    #[inline]
    fn value(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let from = self.len;
        let mut end = at;
        loop {
            let word = word_at(bytes, end);
            self.put_word(word)?;
            let escaped = equal(word, b'"') | equal(word, b'\\');
            let taken = first_in(are_no_value(word) | escaped);
            self.len += taken;
            end += taken;
            if taken == BYTES {
                continue;
            }
            match *bytes.get(end)? {
                byte @ (b'"' | b'\\') => self.put(&[b'\\', byte])?,
                _ => break,
            }
            end += 1;
        }
        while self.len > from && self.room[self.len - 1] == b' ' {
            self.len -= 1;
        }
        Some(end)
    }

    /// Puts there what stands for the value that begins at `at`, by its length without blanks behind it;
    /// where its line ends, or what a usual value does not have.
    #[inline]
    fn marker(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let end = first(bytes, at, are_no_value);
        let mut rest = bytes[at..end].trim_ascii_end().len();
        if rest > 0 {
            self.put(b"[redacted ")?;
            let mut digits = [b'0'; 20];
            let mut unused = digits.len();
            while rest > 0 {
                unused -= 1;
                digits[unused] += u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
            self.put(&digits[unused..])?;
            self.put(b" bytes]")?;
        }
        Some(end)
    }
}

/// Marks bytes that no usual value has: control characters, and what is not ASCII.
#[inline]
const fn are_no_value(word: u64) -> u64 {
    below(word, b' ') | beyond_ascii(word)
}

/// Whether a name may have a byte (RFC 9110, 5.6.2).
static IS_TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        let is_sign = matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.');
        let is_late_sign = matches!(byte, b'^'..=b'`' | b'|' | b'~');
        table[byte as usize] = byte.is_ascii_alphanumeric() || is_sign || is_late_sign;
        byte += 1;
    }
    table
};
