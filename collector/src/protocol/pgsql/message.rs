//! Messages of PostgreSQL: a tag, a length, and a body of numbers, values and texts that end with
//! a zero. Of long ones only the beginning is looked at, so what is read here may be cut anywhere.

use super::super::dialogue::{Side, Step};
use super::super::gap::Cause;
use crate::redaction::whole_characters;

/// Bytes of a tag and a length.
pub(super) const HEAD_BYTES: usize = 5;
/// Longest message, as both ends allow it, without its tag.
pub(super) const MESSAGE_BYTES_MAX: u32 = 1 << 30;
/// Bytes of a length, which counts itself.
const LENGTH_BYTES: u32 = 4;

/// What a client may send.
pub(super) const CLIENT_TAGS: &[u8] = b"QPBDECHSFXpdcf";
/// What a server may send.
const SERVER_TAGS: &[u8] = b"RKSZTDCIENA123tnsGHWdcVv";
/// Messages of a client without a body.
const EMPTY_CLIENT_TAGS: &[u8] = b"HSXc";
/// Messages of a server without a body.
const EMPTY_SERVER_TAGS: &[u8] = b"I123nsc";

/// Fewest bytes of the body of what a client sends: texts end with a zero, and numbers are there.
const fn client_body_bytes_min(tag: u8) -> u32 {
    match tag {
        b'Q' | b'f' => 1,
        b'D' | b'C' => 2,
        b'P' => 4,
        b'E' => 5,
        b'B' => 8,
        b'F' => 10,
        _ => 0,
    }
}

/// What stands for a value that is not there.
const NULL: &str = "<NULL>";

/// What a message starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// What kind of message it is.
    pub(super) tag: u8,
    /// Bytes that follow.
    pub(super) body_bytes: u64,
}

impl Head {
    /// Reads what `side` begins a message with, or says what to do instead.
    pub(super) fn read(side: Side, bytes: &[u8]) -> Result<Self, Step> {
        let (tags, empty) = match side {
            Side::Client => (CLIENT_TAGS, EMPTY_CLIENT_TAGS),
            Side::Server => (SERVER_TAGS, EMPTY_SERVER_TAGS),
        };
        if bytes.first().is_some_and(|tag| !tags.contains(tag)) {
            return Err(Step::Bad(Cause::ParseError));
        }
        let Some([tag, length @ ..]) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Err(Step::Need(HEAD_BYTES));
        };
        let length = u32::from_be_bytes(*length);
        let has_body = length > LENGTH_BYTES;
        let length_min = match side {
            Side::Client => LENGTH_BYTES + client_body_bytes_min(*tag),
            Side::Server => LENGTH_BYTES,
        };
        if !(length_min..=MESSAGE_BYTES_MAX).contains(&length) || has_body && empty.contains(tag) {
            return Err(Step::Bad(Cause::ParseError));
        }
        Ok(Self { tag: *tag, body_bytes: u64::from(length - LENGTH_BYTES) })
    }

    /// Bytes of the message.
    pub(super) const fn wire_bytes(self) -> u64 {
        HEAD_BYTES as u64 + self.body_bytes
    }
}

/// The body of a message, or its beginning, read field by field.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next bytes, at most `count`.
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The text up to the next zero, or to the end where there is none.
    pub(super) fn text(&mut self) -> &'a [u8] {
        let text = self.bytes(self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len()));
        self.bytes(1);
        text
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.bytes(1).first().copied()
    }

    /// The next number of two bytes.
    pub(super) fn short(&mut self) -> Option<u16> {
        self.bytes(2).try_into().ok().map(u16::from_be_bytes)
    }

    /// The next number of four bytes.
    pub(super) fn long(&mut self) -> Option<u32> {
        self.bytes(4).try_into().ok().map(u32::from_be_bytes)
    }

    /// As many numbers of two bytes as the one before them says.
    pub(super) fn shorts(&mut self) -> Option<()> {
        let count = usize::from(self.short()?);
        (self.bytes(2 * count).len() == 2 * count).then_some(())
    }

    /// The length of the next value, and as much of it as there is; no length where it is NULL.
    pub(super) fn value(&mut self) -> Option<(Option<u32>, &'a [u8])> {
        let length = self.long()?;
        if length == u32::MAX {
            return Some((None, &[]));
        }
        let bytes = self.bytes(usize::try_from(length).unwrap_or(usize::MAX));
        Some((Some(length), bytes))
    }

    /// Writes a list of values, whose number comes first, until `out` has `bytes_max` bytes.
    pub(super) fn values_into(&mut self, separator: &str, bytes_max: usize, out: &mut String) {
        for at in 0..self.short().unwrap_or(0) {
            if at > 0 {
                push_cut(separator, bytes_max, out);
            }
            let Some((length, value)) = self.value() else { return };
            if out.len() >= bytes_max {
                return;
            }
            push_cut(&value_text(length, value), bytes_max, out);
        }
    }
}

/// A value as people read it: those that are no text say how long they are.
pub(super) fn value_text(length: Option<u32>, kept: &[u8]) -> String {
    let Some(length) = length else { return NULL.to_owned() };
    let is_cut = (kept.len() as u64) < u64::from(length);
    let is_text = std::str::from_utf8(if is_cut { whole_characters(kept) } else { kept }).is_ok();
    if is_text && is_printable(kept) { text(kept) } else { format!("<{length} bytes>") }
}

/// Whether there are no control characters but those that part words and lines.
pub(super) fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| !b.is_ascii_control() || matches!(b, b'\t' | b'\n' | b'\r'))
}

/// Bytes as text, up to a character that their end cuts.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(whole_characters(bytes)).into_owned()
}

/// Appends as much of `text` as `out` has room for.
pub(super) fn push_cut(text: &str, bytes_max: usize, out: &mut String) {
    let room = bytes_max.saturating_sub(out.len());
    out.push_str(&text[..text.floor_char_boundary(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text_or_say_how_long_they_are() {
        let body = b"\0\x04\0\0\0\x02hi\xff\xff\xff\xff\0\0\0\x04\0\0\0\x07\0\0\0\x09cut sh";
        let mut out = String::new();
        Fields(body).values_into(",", 64, &mut out);
        assert_eq!(out, "hi,<NULL>,<4 bytes>,cut sh");
        for cut in 0..body.len() {
            let mut out = String::new();
            Fields(&body[..cut]).values_into(",", 3, &mut out);
            assert!(out.len() <= 3, "{out}");
        }
    }

    #[test]
    fn a_message_has_a_tag_and_a_length_that_fit() {
        let read = |side, bytes: &[u8]| Head::read(side, bytes);
        let bad = Err(Step::Bad(Cause::ParseError));
        assert_eq!(read(Side::Client, b""), Err(Step::Need(HEAD_BYTES)));
        assert_eq!(read(Side::Client, b"Q\0\0\0"), Err(Step::Need(HEAD_BYTES)));
        assert_eq!(read(Side::Client, b"Q\0\0\0\x06"), Ok(Head { tag: b'Q', body_bytes: 2 }));
        assert_eq!(read(Side::Client, b"Q\x40\0\0\x01"), bad);
        assert_eq!(read(Side::Client, b"Q\0\0\0\x03"), bad);
        assert_eq!(read(Side::Client, b"Q\0\0\0\x04"), bad);
        assert_eq!(read(Side::Client, b"E\0\0\0\x08"), bad);
        assert_eq!(read(Side::Client, b"S\0\0\0\x05"), bad);
        assert_eq!(read(Side::Client, b"Z"), bad);
        assert_eq!(read(Side::Server, b"Q"), bad);
    }
}
