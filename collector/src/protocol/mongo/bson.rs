//! BSON, element by element, out of bytes of which the end may be missing.

use crate::redaction::whole_characters;

/// Why there is no more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The rest was not kept, or there is no room for it.
    Cut,
    /// It is no BSON.
    Bad,
}

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    /// Whether the end is there too.
    is_whole: bool,
}

/// A value; of binary ones the size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Document(Elements<'a>),
    Array(Elements<'a>),
    Text(&'a str),
    Int(i64),
    Double(f64),
    Bool(bool),
    Null,
    ObjectId([u8; 12]),
    /// Milliseconds since the epoch.
    Date(i64),
    Binary(usize),
    Regex(&'a str, &'a str),
    /// Kinds that are seldom met, by their name.
    Other(&'static str),
}

/// What is left of a document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a>(Bytes<'a>);

impl<'a> Bytes<'a> {
    pub(super) const fn new(rest: &'a [u8], is_whole: bool) -> Self {
        Self { rest, is_whole }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    const fn short(&self) -> Stop {
        if self.is_whole { Stop::Bad } else { Stop::Cut }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(self.short())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.short())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length, of which `at_least` has to be there.
    fn length(&mut self, at_least: usize) -> Result<usize, Stop> {
        let length = self.array().map(i32::from_le_bytes)?;
        let length = usize::try_from(length).map_err(|_negative| Stop::Bad)?;
        if length < at_least { Err(Stop::Bad) } else { Ok(length) }
    }

    /// So many bytes, or those of them that are there.
    fn part(&mut self, bytes: usize) -> Result<Self, Stop> {
        if bytes > self.rest.len() {
            let part = Bytes { rest: self.rest, is_whole: false };
            self.rest = &[];
            return if self.is_whole { Err(Stop::Bad) } else { Ok(part) };
        }
        Ok(Bytes { rest: self.take(bytes)?, is_whole: true })
    }

    /// What a length in front of it says, which counts itself.
    pub(super) fn counted(&mut self) -> Result<Self, Stop> {
        let length = self.length(5)?;
        self.part(length - 4)
    }

    /// The same without its last bytes, if they are there.
    pub(super) fn without_end(self, bytes: usize) -> Self {
        let end =
            if self.is_whole { self.rest.len().saturating_sub(bytes) } else { self.rest.len() };
        Self { rest: &self.rest[..end], ..self }
    }

    /// A text up to the zero after it.
    pub(super) fn zero_ended(&mut self) -> Result<&'a str, Stop> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(self.short())?;
        let text = self.take(end)?;
        self.byte()?;
        std::str::from_utf8(text).map_err(|_not_text| Stop::Bad)
    }

    /// A text with its length; of a cut one what is there.
    fn text(&mut self) -> Result<&'a str, Stop> {
        let length = self.length(1)?;
        let part = self.part(length)?;
        let text = match part.rest {
            whole if part.is_whole => &whole[..length - 1],
            cut => whole_characters(cut),
        };
        std::str::from_utf8(text).map_err(|_not_text| Stop::Bad)
    }

    /// A document.
    pub(super) fn document(&mut self) -> Result<Elements<'a>, Stop> {
        let document = self.counted()?;
        match (document.is_whole, document.rest) {
            (false, _) => Ok(Elements(document)),
            (true, [elements @ .., 0]) => Ok(Elements(Bytes { rest: elements, is_whole: true })),
            (true, _) => Err(Stop::Bad),
        }
    }

    fn value(&mut self, kind: u8) -> Result<Value<'a>, Stop> {
        Ok(match kind {
            0x01 => Value::Double(f64::from_le_bytes(self.array()?)),
            0x02 | 0x0d | 0x0e => Value::Text(self.text()?),
            0x03 => Value::Document(self.document()?),
            0x04 => Value::Array(self.document()?),
            0x05 => {
                let length = self.length(0)?;
                self.part(length + 1)?;
                Value::Binary(length)
            }
            0x06 | 0x0a => Value::Null,
            0x07 => Value::ObjectId(self.array()?),
            0x08 => Value::Bool(self.byte()? != 0),
            0x09 => Value::Date(i64::from_le_bytes(self.array()?)),
            0x0b => Value::Regex(self.zero_ended()?, self.zero_ended()?),
            0x0c => {
                self.text()?;
                self.take(12)?;
                Value::Other("[pointer]")
            }
            0x0f => {
                self.counted()?;
                Value::Other("[code]")
            }
            0x10 => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            0x11 => {
                self.take(8)?;
                Value::Other("[timestamp]")
            }
            0x12 => Value::Int(i64::from_le_bytes(self.array()?)),
            0x13 => {
                self.take(16)?;
                Value::Other("[decimal]")
            }
            0x7f => Value::Other("[maximum]"),
            0xff => Value::Other("[minimum]"),
            _ => return Err(Stop::Bad),
        })
    }
}

impl<'a> Elements<'a> {
    /// Those of an empty document.
    pub(super) const fn none() -> Self {
        Self(Bytes::new(&[], true))
    }

    /// The next element, until there is none.
    pub(super) fn next(&mut self) -> Result<Option<(&'a str, Value<'a>)>, Stop> {
        if self.0.is_empty() {
            return if self.0.is_whole { Ok(None) } else { Err(Stop::Cut) };
        }
        let kind = self.0.byte()?;
        if kind == 0 && !self.0.is_whole {
            return Ok(None);
        }
        let name = self.0.zero_ended()?;
        Ok(Some((name, self.0.value(kind)?)))
    }

    /// The first element's value with this name, if it is there.
    pub(super) fn find(mut self, wanted: &str) -> Option<Value<'a>> {
        while let Ok(Some((name, value))) = self.next() {
            if name == wanted {
                return Some(value);
            }
        }
        None
    }

    /// The first element.
    pub(super) fn first(mut self) -> Result<Option<(&'a str, Value<'a>)>, Stop> {
        self.next()
    }
}
