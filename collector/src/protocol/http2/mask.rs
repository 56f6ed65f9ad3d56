//! What of HTTP/2 is structure: heads of frames, settings, errors, and of headers the places in their
//! table, names that are well known, and values of those that say what a message is. Other names and
//! values, and bodies, are content.
//!
//! Values that are coded by Huffman's become plain ones with as many bytes on the wire. They may be shorter
//! than what they stand for, so that a table of headers holds at least what it held, and places in it, which
//! count from the newest entry, mean the same.

use std::collections::VecDeque;

use super::frame::{HEAD_BYTES, Head, Kind, PAYLOAD_BYTES_MAX, PREFACE};
use super::hpack::{self, FIELDS_BYTES_MAX, TABLE_BYTES_MAX};
use super::huffman;
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::{Mask, Step, WINDOW_BYTES_MAX, fill, headers};

/// The most entries that a table may have.
const ENTRIES_MAX: usize = TABLE_BYTES_MAX / 32;
/// Bytes of a `GOAWAY` before what it says for people.
const GOAWAY_BYTES: usize = 8;
/// The bit of a string that is coded.
const CODED: u8 = 0x80;

/// The name of a header, where values of it may be structure.
type Name = Option<Vec<u8>>;

/// Masks a connection that speaks HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct Http2Mask {
    /// Bytes of the frame at hand that are content.
    rest: [u64; 2],
    began: [bool; 2],
    /// Names of the entries of each side's table, the newest first.
    tables: [VecDeque<Name>; 2],
}

impl Mask for Http2Mask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        if !self.began[side as usize] && side == Side::Client {
            let common = bytes.len().min(PREFACE.len());
            if bytes[..common] == PREFACE[..common] && common < PREFACE.len() {
                return Step::Need(PREFACE.len());
            }
            self.began[side as usize] = true;
            if common == PREFACE.len() && bytes.starts_with(PREFACE) {
                return Step::Took(PREFACE.len());
            }
        }
        let Some(head) = bytes.get(..HEAD_BYTES).and_then(Head::parse) else {
            return Step::Need(HEAD_BYTES);
        };
        if !head.is_valid(PAYLOAD_BYTES_MAX) {
            return Step::Lost;
        }
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        let kept = match head.kind {
            Kind::Headers | Kind::PushPromise => return self.headers(side, bytes),
            // The length of its padding.
            Kind::Data => usize::from(head.is_padded()),
            Kind::Priority | Kind::Reset | Kind::Settings | Kind::WindowUpdate => length,
            Kind::GoAway => GOAWAY_BYTES,
            Kind::Ping | Kind::Other => 0,
            Kind::Continuation => return Step::Lost,
        };
        let end = HEAD_BYTES + kept.min(length);
        if bytes.len() < end {
            return Step::Need(end);
        }
        self.rest[side as usize] = (HEAD_BYTES + length - end) as u64;
        Step::Took(end)
    }
}

impl Http2Mask {
    /// Headers with all the frames that they go on in.
    fn headers(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let mut fragments = Vec::new();
        let mut at = 0;
        loop {
            let Some(head) = bytes.get(at..at + HEAD_BYTES).and_then(Head::parse) else {
                return Step::Need(at + HEAD_BYTES);
            };
            let begin = at + HEAD_BYTES;
            let end = begin + usize::try_from(head.length).unwrap_or(usize::MAX);
            let is_due = (head.kind == Kind::Continuation) == (at > 0);
            if !is_due || end > WINDOW_BYTES_MAX {
                return Step::Lost;
            }
            let Some(payload) = bytes.get(begin..end) else { return Step::Need(end) };
            let block = if at > 0 { Some(0..payload.len()) } else { head.block(payload) };
            let Some(block) = block else { return Step::Lost };
            // Padding says nothing.
            let padding_at = begin + block.end;
            fragments.push(begin + block.start..padding_at);
            fill(&mut bytes[padding_at..end]);
            at = end;
            if !head.goes_on() {
                break;
            }
        }
        let mut block: Vec<u8> =
            fragments.iter().flat_map(|fragment| bytes[fragment.clone()].iter().copied()).collect();
        if mask_block(&mut block, &mut self.tables[side as usize]).is_none() {
            return Step::Lost;
        }
        let mut rest = block.as_slice();
        for fragment in fragments {
            let (part, tail) = rest.split_at(fragment.len());
            bytes[fragment].copy_from_slice(part);
            rest = tail;
        }
        Step::Took(at)
    }
}

/// Overwrites what is content in a block of headers; none where it is none.
fn mask_block(block: &mut [u8], table: &mut VecDeque<Name>) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        match first {
            0x80.. => {
                integer(block, &mut at, 7)?;
            }
            0x40.. => {
                let name = literal(block, &mut at, 6, table)?;
                table.push_front(name);
                table.truncate(ENTRIES_MAX);
            }
            0x20.. => {
                integer(block, &mut at, 5)?;
            }
            _ => {
                literal(block, &mut at, 4, table)?;
            }
        }
    }
    Some(())
}

/// A header whose value, and maybe whose name, is written out; its name, if that is known.
fn literal(block: &mut [u8], at: &mut usize, prefix: u8, table: &VecDeque<Name>) -> Option<Name> {
    let name = match integer(block, at, prefix)? {
        0 => text(
            block,
            at,
            |name| if headers::keeps_name(name) { None } else { Some(filled(name)) },
        )?,
        place => match hpack::static_name(place) {
            Ok(name) => Some(name.as_bytes().to_vec()),
            Err(place) => table.get(place).cloned().flatten(),
        },
    };
    let name = name.filter(|name| headers::keeps_name(name));
    text(block, at, |value| {
        let mut masked = value.to_vec();
        match name.as_deref() {
            Some(b":path") => headers::mask_path(&mut masked),
            Some(name) => headers::mask_value(name, &mut masked),
            None => fill(&mut masked),
        }
        (masked != value).then_some(masked)
    })?;
    Some(name)
}

fn filled(text: &[u8]) -> Vec<u8> {
    let mut filled = text.to_vec();
    fill(&mut filled);
    filled
}

/// A string, in place of which `mask` says what to write, if anything. Gives what it was.
fn text(
    block: &mut [u8],
    at: &mut usize,
    mask: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<Name> {
    let start = *at;
    let is_coded = block.get(start)? & CODED != 0;
    let length = integer(block, at, 7)?;
    let bytes = block.get_mut(*at..*at + length)?;
    let mut was = Vec::new();
    if is_coded {
        huffman::decode_into(bytes, FIELDS_BYTES_MAX, &mut was).ok()?;
    } else {
        was.extend_from_slice(bytes);
    }
    if let Some(mut masked) = mask(&was) {
        // What was coded has fewer bytes than it stands for.
        masked.resize(length, crate::protocol::mask::FILLER);
        bytes.copy_from_slice(&masked);
        block[start] &= !CODED;
    }
    *at += length;
    Some(Some(was))
}

/// An integer whose first byte holds `prefix` bits of it.
fn integer(block: &[u8], at: &mut usize, prefix: u8) -> Option<usize> {
    let mut rest = block.get(*at..)?;
    let before = rest.len();
    let integer = hpack::integer(&mut rest, prefix).ok()?;
    *at += before - rest.len();
    Some(integer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_frames_and_headers_the_structure_is_kept() {
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let asked = "\0\0\x11\x01\x04\0\0\0\x01\u{82}\x44\x04/ann\x40\x01a\x01b\x0f\x0d\x024x";
        check::<Http2Mask>(&[
            (Side::Client, preface, preface),
            (
                Side::Client,
                "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
                "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
            ),
            // A method, a path, an own name with its value, a length that is none.
            (
                Side::Client,
                asked,
                "\0\0\x11\x01\x04\0\0\0\x01\u{82}\x44\x04/xxx\x40\x01x\x01x\x0f\x0d\x02xx",
            ),
            // The path and the own value again, by their places; a body.
            (
                Side::Client,
                "\0\0\x02\x01\x04\0\0\0\x03\u{be}\u{bf}\0\0\x02\0\x01\0\0\0\x03hi",
                "\0\0\x02\x01\x04\0\0\0\x03\u{be}\u{bf}\0\0\x02\0\x01\0\0\0\x03xx",
            ),
            // A status, and a value in Huffman's code: `www.example.com` of RFC 7541.
            (
                Side::Server,
                "\0\0\x0f\x01\x04\0\0\0\x01\u{88}\x41\u{8c}\u{f1}\u{e3}\u{c2}\u{e5}\u{f2}\x3a\x6b\u{a0}\u{ab}\u{90}\u{f4}\u{ff}",
                "\0\0\x0f\x01\x04\0\0\0\x01\u{88}\x41\x0cxxxxxxxxxxxx",
            ),
        ]);
    }
}
