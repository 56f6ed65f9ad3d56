//! Header compression (RFC 7541), watched from outside and maybe from the middle.
//!
//! A block of headers refers to earlier ones by their place in a table that both ends keep. Where
//! the beginning was not seen, entries are *unknown*. Places are counted from the newest entry, so
//! those that were seen are found no matter what is behind them, and a reference behind them is
//! unknown, never guessed. Nothing is unknown any more once what was seen fills the table.

mod fields;
mod table;

pub(super) use fields::{Field, Fields};
use table::{STATIC, Table};

use super::super::dialogue::Side;
use super::huffman;

/// Most bytes of a block's headers, with [`ENTRY_BYTES`] for each.
pub(super) const FIELDS_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a table.
pub(super) const TABLE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a table before anything is said about it.
const TABLE_BYTES: usize = 4096;
/// What an entry counts beside its name and value.
const ENTRY_BYTES: usize = 32;
/// Most settings that wait to be acknowledged.
const ANNOUNCED_MAX: usize = 64;

/// The bytes are no headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// Reads the headers of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
    /// Most bytes of a table that the receiver allows, and what it will allow once it is
    /// acknowledged.
    allowed: usize,
    announced: Vec<usize>,
}

impl Decoder {
    /// From the connection's first byte.
    pub(super) const fn at_beginning() -> Self {
        let table = Table::empty(TABLE_BYTES);
        Self { table, allowed: TABLE_BYTES, announced: Vec::new() }
    }

    /// After bytes that were not seen.
    pub(super) const fn after_gap() -> Self {
        let table = Table::unknown(TABLE_BYTES_MAX);
        Self { table, allowed: TABLE_BYTES_MAX, announced: Vec::new() }
    }

    /// Here the connection begins after all.
    pub(super) fn restart(&mut self) {
        self.table = Table::empty(TABLE_BYTES);
    }

    /// The receiver says how large a table it allows, once the sender acknowledges its settings;
    /// `None` where they leave that as it is.
    pub(super) fn announce(&mut self, bytes: Option<u32>) {
        let last = self.announced.last().copied().unwrap_or(self.allowed);
        let bytes = bytes.map_or(last, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if self.announced.len() < ANNOUNCED_MAX {
            self.announced.push(bytes);
        }
    }

    /// The sender acknowledges the settings that wait for longest.
    pub(super) fn acknowledge(&mut self) {
        if !self.announced.is_empty() {
            self.allowed = self.announced.remove(0);
        }
    }

    /// Bytes that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.announced.capacity() * size_of::<usize>()
    }

    /// Reads a block into `fields`, which it empties first.
    pub(super) fn decode(&mut self, block: &[u8], fields: &mut Fields) -> Result<(), Bad> {
        fields.clear();
        let mut rest = block;
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    self.indexed(index, fields)?;
                }
                0x40.. => {
                    self.literal(&mut rest, 6, fields)?;
                    self.table.insert(fields.last());
                }
                0x20.. => {
                    let bytes = integer(&mut rest, 5)?;
                    if !fields.is_empty() || bytes > self.table_bytes_max() {
                        return Err(Bad);
                    }
                    self.table.resize(bytes);
                }
                _ => self.literal(&mut rest, 4, fields)?,
            }
            fields.check()?;
        }
        Ok(())
    }

    /// A sender may heed settings just before it acknowledges them.
    fn table_bytes_max(&self) -> usize {
        let announced = self.announced.iter().copied().max().unwrap_or(0);
        self.allowed.max(announced).min(TABLE_BYTES_MAX)
    }

    fn indexed(&self, index: usize, fields: &mut Fields) -> Result<(), Bad> {
        match index.checked_sub(1).ok_or(Bad)? {
            place if place < STATIC.len() => {
                let (name, value) = STATIC[place];
                fields.push(Some(name.as_bytes()), Some(value.as_bytes()));
            }
            place => match self.table.get(place - STATIC.len())? {
                Some(entry) => fields.push(entry.name(), Some(entry.value())),
                None => fields.push(None, None),
            },
        }
        Ok(())
    }

    fn literal(&self, rest: &mut &[u8], prefix: u8, fields: &mut Fields) -> Result<(), Bad> {
        match integer(rest, prefix)? {
            0 => fields.write_name(|text| string_into(rest, text))?,
            index if index <= STATIC.len() => {
                fields.push_name(Some(STATIC[index - 1].0.as_bytes()));
            }
            index => {
                let entry = self.table.get(index - STATIC.len() - 1)?;
                fields.push_name(entry.and_then(table::Entry::name));
            }
        }
        fields.write_value(|text| string_into(rest, text))
    }
}

/// Takes an integer whose first byte holds `prefix` bits of it.
pub(super) fn integer(rest: &mut &[u8], prefix: u8) -> Result<usize, Bad> {
    let (first, mut tail) = rest.split_first().ok_or(Bad)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, after) = tail.split_first().ok_or(Bad)?;
            tail = after;
            // Nothing that may be sent is as large as four such bytes can say.
            if shift > 21 {
                return Err(Bad);
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Ok(value)
}

/// The name at a place of the standard's table, or how far behind that the place is.
pub(super) fn static_name(place: usize) -> Result<&'static str, usize> {
    let place = place.saturating_sub(1);
    STATIC.get(place).map(|(name, _)| *name).ok_or(place.saturating_sub(STATIC.len()))
}

/// Takes a string.
fn string_into(rest: &mut &[u8], text: &mut Vec<u8>) -> Result<(), Bad> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(Bad)?;
    *rest = tail;
    if coded {
        huffman::decode_into(bytes, FIELDS_BYTES_MAX, text)
    } else {
        text.extend_from_slice(bytes);
        Ok(())
    }
}

/// Who sends the headers that `block` begins with: requests and responses begin with other ones.
pub(super) fn sender(block: &[u8]) -> Option<Side> {
    let mut rest = block;
    while rest.first()? & 0xe0 == 0x20 {
        integer(&mut rest, 5).ok()?;
    }
    let prefix = match rest.first()? {
        0x80.. => 7,
        0x40.. => 6,
        _ => 4,
    };
    match integer(&mut rest, prefix).ok()? {
        1..=7 => Some(Side::Client),
        8..=14 => Some(Side::Server),
        _ => None,
    }
}

#[cfg(test)]
pub(in crate::protocol::http2) mod encoder;
#[cfg(test)]
mod tests;
