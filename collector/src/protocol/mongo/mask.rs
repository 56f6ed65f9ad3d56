//! What of MongoDB's protocol is structure: headers, flags, how documents are built, the names of
//! commands and of the elements that every server and driver uses, and of a reply whether it is an
//! error and which. Other names and all other values are content. What is compressed is content as a
//! whole: the message stays a compressed one that cannot be read.

use super::message::{HEADER_BYTES, Header, NAME_BYTES_MAX, Op};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{Mask, Step, fill};

/// Most bytes of a message that are taken apart, which is more than a parser reads of any; what follows
/// them is content.
const TAKEN_APART_MAX: usize = 64 * 1024;
/// Most documents inside each other.
const DEPTH_MAX: usize = 64;
/// A way to compress that is not unpacked.
const NOT_UNPACKED: u8 = 3;
/// How the name of a collection ends that stands for commands.
const COMMANDS: &[u8] = b".$cmd";
/// Names of elements that are kept.
const NAMES: [&str; 34] = [
    "$clusterTime",
    "$db",
    "$err",
    "$query",
    "$readPreference",
    "batchSize",
    "code",
    "codeName",
    "cursor",
    "deletes",
    "documents",
    "errmsg",
    "filter",
    "find",
    "firstBatch",
    "getMore",
    "id",
    "insert",
    "isWritablePrimary",
    "ismaster",
    "limit",
    "lsid",
    "maxWireVersion",
    "minWireVersion",
    "n",
    "nModified",
    "nextBatch",
    "ok",
    "operationTime",
    "ops",
    "ordered",
    "txnNumber",
    "updates",
    "writeErrors",
];
/// Elements of a reply whose values are kept.
const STATUS: [&[u8]; 5] = [b"code", b"codeName", b"n", b"nModified", b"ok"];

/// Masks a connection to a MongoDB server.
#[derive(Debug, Default)]
pub(crate) struct MongoMask {
    /// Bytes of the message at hand that are content.
    rest: [u64; 2],
}

impl Mask for MongoMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        if bytes.len() < HEADER_BYTES {
            return Step::Need(HEADER_BYTES);
        }
        let Some(header) = Header::read(bytes, side) else { return Step::Lost };
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let end = length.min(TAKEN_APART_MAX);
        let Some(payload) = bytes.get_mut(HEADER_BYTES..end) else { return Step::Need(end) };
        let mut fields = Fields(payload);
        mask_message(header.op, side, &mut fields);
        // What was not understood.
        fields.fill_rest();
        self.rest[side as usize] = (length - end) as u64;
        Step::Took(end)
    }
}

fn mask_message(op: Op, side: Side, message: &mut Fields<'_>) -> Option<()> {
    match op {
        Op::Msg => mask_sections(side, message),
        Op::Query => {
            message.keep(4)?;
            let name = message.text();
            let kept = if name.ends_with(COMMANDS) { COMMANDS.len() } else { 0 };
            let filled = name.len() - kept;
            fill(&mut name[..filled]);
            message.keep(8)?;
            while !message.0.is_empty() {
                document(side, Depth::Top, message)?;
            }
            Some(())
        }
        Op::Reply => {
            message.keep(20)?;
            while !message.0.is_empty() {
                document(side, Depth::Top, message)?;
            }
            Some(())
        }
        Op::Compressed => {
            // The kind of message, its size, and how it is compressed.
            let head = message.keep(9)?;
            if head[8] == 0 {
                return None;
            }
            head[8] = NOT_UNPACKED;
            Some(())
        }
    }
}

fn mask_sections(side: Side, message: &mut Fields<'_>) -> Option<()> {
    // Flags.
    message.long_le()?;
    while !message.0.is_empty() {
        match message.byte()? {
            0 => document(side, Depth::Top, message)?,
            1 => {
                let length = usize::try_from(message.long_le()?).ok()?.checked_sub(4)?;
                let length = length.min(message.0.len());
                let mut list = Fields(message.keep(length)?);
                mask_name(list.text());
                while !list.0.is_empty() {
                    // No document of a list is a command.
                    document(side, Depth::Inside(1), &mut list)?;
                }
            }
            _ => return None,
        }
    }
    Some(())
}

/// Where a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// It is a command or a reply.
    Top,
    /// It is inside others.
    Inside(usize),
    /// It is an array, whose elements are called by their numbers.
    Array(usize),
}

impl Depth {
    const fn number(self) -> usize {
        match self {
            Self::Top => 0,
            Self::Inside(depth) | Self::Array(depth) => depth,
        }
    }
}

/// Masks a document, of which the end may be missing; what cannot be told apart is overwritten.
fn document(side: Side, depth: Depth, bytes: &mut Fields<'_>) -> Option<()> {
    let length = usize::try_from(bytes.long_le()?).ok()?.checked_sub(4)?;
    let length = length.min(bytes.0.len());
    let mut elements = Fields(bytes.keep(length)?);
    if depth.number() < DEPTH_MAX {
        mask_elements(side, depth, &mut elements);
    }
    elements.fill_rest();
    Some(())
}

fn mask_elements(side: Side, depth: Depth, elements: &mut Fields<'_>) -> Option<()> {
    let mut is_first = true;
    let deeper = depth.number() + 1;
    loop {
        let kind = elements.byte()?;
        if kind == 0 {
            return Some(());
        }
        let name = elements.text();
        let is_command =
            side == Side::Client && depth == Depth::Top && std::mem::take(&mut is_first);
        let is_status = side == Side::Server && depth == Depth::Top && STATUS.contains(&&*name);
        let is_wrapped = *name == *b"$query";
        let is_place = matches!(depth, Depth::Array(_)) && name.iter().all(u8::is_ascii_digit);
        if !(is_place || is_command && is_word(name)) {
            mask_name(name);
        }
        match kind {
            // Numbers.
            0x01 | 0x12 => number(8, is_status, elements)?,
            0x10 => number(4, is_status, elements)?,
            0x08 => number(1, is_status, elements)?,
            0x09 | 0x11 => number(8, false, elements)?,
            0x13 => number(16, false, elements)?,
            // Texts.
            0x02 | 0x0d | 0x0e => text(is_status, elements)?,
            0x03 if is_wrapped => document(side, depth, elements)?,
            0x03 => document(side, Depth::Inside(deeper), elements)?,
            0x04 => document(side, Depth::Array(deeper), elements)?,
            // Binary data, after its length and kind.
            0x05 => {
                let length = usize::try_from(elements.long_le()?).ok()?;
                elements.byte()?;
                elements.fill(length.min(elements.0.len()))?;
            }
            0x06 | 0x0a | 0x7f | 0xff => {}
            0x07 => elements.fill(12)?,
            // A regular expression and its options.
            0x0b => {
                fill(elements.text());
                fill(elements.text());
            }
            0x0c => {
                text(false, elements)?;
                elements.fill(12)?;
            }
            0x0f => {
                let length = usize::try_from(elements.long_le()?).ok()?.checked_sub(4)?;
                elements.fill(length.min(elements.0.len()))?;
            }
            _ => return None,
        }
    }
}

fn number(bytes: usize, is_kept: bool, elements: &mut Fields<'_>) -> Option<()> {
    let number = elements.keep(bytes)?;
    if !is_kept {
        number.fill(0);
    }
    Some(())
}

/// A text with its length before it, and a zero at its end.
fn text(is_kept: bool, elements: &mut Fields<'_>) -> Option<()> {
    let length = usize::try_from(elements.long_le()?).ok()?;
    // What is cut is overwritten as what was not understood.
    let (_zero, text) = elements.keep(length)?.split_last_mut()?;
    if !is_kept || !is_word(text) {
        fill(text);
    }
    Some(())
}

fn mask_name(name: &mut [u8]) {
    if !NAMES.iter().any(|known| *name == *known.as_bytes()) {
        fill(name);
    }
}

fn is_word(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_commands_and_replies_the_structure_is_kept() {
        // {find: "ann", q: {a: 1}, $db: "d"} and {ok: 1.0, x: "hi"}.
        check::<MongoMask>(&[
            (
                Side::Client,
                "\x42\0\0\0\x01\0\0\0\0\0\0\0\u{dd}\x07\0\0\0\0\0\0\0\x2d\0\0\0\
                 \x02find\0\x04\0\0\0ann\0\x03q\0\x0c\0\0\0\x10a\0\x01\0\0\0\0\x02$db\0\x02\0\0\0d\0\0",
                "\x42\0\0\0\x01\0\0\0\0\0\0\0\u{dd}\x07\0\0\0\0\0\0\0\x2d\0\0\0\
                 \x02find\0\x04\0\0\0xxx\0\x03x\0\x0c\0\0\0\x10x\0\0\0\0\0\0\x02$db\0\x02\0\0\0x\0\0",
            ),
            (
                Side::Server,
                "\x30\0\0\0\x02\0\0\0\x01\0\0\0\u{dd}\x07\0\0\0\0\0\0\0\x1b\0\0\0\
                 \x01ok\0\0\0\0\0\0\0\u{f0}\x3f\x02x\0\x03\0\0\0hi\0\0",
                "\x30\0\0\0\x02\0\0\0\x01\0\0\0\u{dd}\x07\0\0\0\0\0\0\0\x1b\0\0\0\
                 \x01ok\0\0\0\0\0\0\0\u{f0}\x3f\x02x\0\x03\0\0\0xx\0\0",
            ),
            // Something that was compressed.
            (
                Side::Client,
                "\x1c\0\0\0\x03\0\0\0\0\0\0\0\u{dc}\x07\0\0\u{dd}\x07\0\0\x10\0\0\0\x01abc",
                "\x1c\0\0\0\x03\0\0\0\0\0\0\0\u{dc}\x07\0\0\u{dd}\x07\0\0\x10\0\0\0\x03xxx",
            ),
        ]);
    }
}
