//! Reads a body field by field, in whatever pieces it comes, and writes it down as JSON.
//!
//! What is of no interest, above all records, is passed over by its length and need not be there.

use super::super::json::Json;
use super::super::mask::fill;
use super::apis::Api;
use super::layout::{Field, Kind};

/// Longest text that is written; of longer ones the size is.
const TEXT_BYTES_MAX: u64 = 1024;
/// Most bytes of fields that are read of a body.
const FIELDS_BYTES_MAX: usize = 64 * 1024;

/// What a look at the bytes came to; counted from their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// This many have to be there at once; none was taken.
    Need(usize),
    /// This many were taken.
    Took(usize),
    /// So many are taken or of no interest, then it goes on.
    Skip(u64),
    /// With so many the message ends; what is not there of them is of no interest.
    Ended(u64),
}

/// What a look at the bytes came to of which content is to be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Masking {
    /// This many have to be there at once.
    Need(usize),
    /// This many are a field, and masked.
    Took(usize),
    /// The next so many are content.
    Pass(u64),
    /// The message is over.
    End,
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Body {
    /// Bytes up to the end of the message.
    left: u64,
    /// So many of the next are content.
    passed: u64,
    walk: Option<Walk>,
    /// Bytes of fields that were read.
    fields_bytes: usize,
    text_bytes_max: usize,
    is_malformed: bool,
}

impl Body {
    /// The body of a request, `left` bytes long with the tagged fields of its head.
    pub(super) fn of_request(api: &Api, version: i16, left: u64, text_bytes_max: usize) -> Self {
        let is_flexible = version >= api.flexible_since;
        let walk = Walk::new(api.request, version, is_flexible, is_flexible, text_bytes_max);
        Self { walk: Some(walk), ..Self::unknown(left, text_bytes_max) }
    }

    /// As [`Self::of_request`]; the head of some responses has tagged fields.
    pub(super) fn of_response(
        api: &Api,
        version: i16,
        has_head_tags: bool,
        left: u64,
        text_bytes_max: usize,
    ) -> Self {
        let is_flexible = version >= api.flexible_since;
        let tags = is_flexible && has_head_tags;
        let walk = Walk::new(api.response, version, is_flexible, tags, text_bytes_max);
        Self { walk: Some(walk), ..Self::unknown(left, text_bytes_max) }
    }

    /// A body that is not read.
    pub(super) const fn unknown(left: u64, text_bytes_max: usize) -> Self {
        Self { left, passed: 0, walk: None, fields_bytes: 0, text_bytes_max, is_malformed: false }
    }

    /// Bytes up to the end of the message.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// Whether its fields do not end where it does.
    pub(super) const fn is_malformed(&self) -> bool {
        self.is_malformed
    }

    /// Whether an error code was read.
    pub(super) fn has_failed(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.has_failed)
    }

    /// Whether no response will come.
    pub(super) fn wants_no_response(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.acks == Some(0))
    }

    /// It as JSON, as far as it was read.
    pub(super) fn into_json(self) -> String {
        self.walk.map_or_else(|| Json::new(self.text_bytes_max).finish(), |walk| walk.json.finish())
    }

    /// Reads on in `bytes`, of which the first `taken` belong to what came before.
    pub(super) fn read(&mut self, bytes: &[u8], mut taken: usize) -> Pace {
        let start = taken;
        loop {
            let Some(walk) = self.walk.as_mut().filter(|_| self.fields_bytes < FIELDS_BYTES_MAX)
            else {
                return self.ended(taken);
            };
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let at_hand = &bytes[taken..bytes.len().min(taken.saturating_add(left))];
            match walk.next(at_hand) {
                Read::Took(more) => {
                    taken += more;
                    self.left -= more as u64;
                    self.fields_bytes += more;
                }
                Read::Need(more) if more > left => {
                    self.is_malformed = true;
                    return self.ended(taken);
                }
                Read::Need(more) if taken == start => return Pace::Need(taken + more),
                Read::Need(_) => return Pace::Took(taken),
                Read::Pass(head, more) if head as u64 + more < self.left => {
                    self.left -= head as u64 + more;
                    self.fields_bytes += head;
                    return Pace::Skip((taken + head) as u64 + more);
                }
                Read::Pass(head, more) => {
                    self.is_malformed = head as u64 + more > self.left;
                    return self.ended(taken);
                }
                Read::Malformed => {
                    self.is_malformed = true;
                    return self.ended(taken);
                }
                Read::End => {
                    self.is_malformed = self.left > 0;
                    return self.ended(taken);
                }
            }
        }
    }

    /// Overwrites what is content in the next field, which `bytes` begin with.
    pub(super) fn mask(&mut self, bytes: &mut [u8]) -> Masking {
        if self.passed > 0 {
            self.left -= self.passed;
            return Masking::Pass(std::mem::take(&mut self.passed));
        }
        loop {
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let Some(walk) = self.walk.as_mut().filter(|_| self.fields_bytes < FIELDS_BYTES_MAX)
            else {
                return self.mask_rest();
            };
            let at_hand = bytes.len().min(left);
            let (taken, passed) = match walk.next(&bytes[..at_hand]) {
                Read::Took(0) => continue,
                Read::Took(taken) => (taken, 0),
                Read::Need(more) if more <= left => return Masking::Need(more),
                Read::Pass(head, more) => (head, more),
                Read::Need(_) | Read::Malformed | Read::End => return self.mask_rest(),
            };
            fill(&mut bytes[taken - walk.content..taken]);
            self.left -= taken as u64;
            self.passed = passed.min(self.left);
            self.fields_bytes += taken;
            return Masking::Took(taken);
        }
    }

    /// What is not read is content.
    fn mask_rest(&mut self) -> Masking {
        match std::mem::take(&mut self.left) {
            0 => Masking::End,
            left => Masking::Pass(left),
        }
    }

    fn ended(&mut self, taken: usize) -> Pace {
        Pace::Ended(taken as u64 + std::mem::take(&mut self.left))
    }
}

/// What the next field came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// This many bytes have to be there at once.
    Need(usize),
    /// It had this many bytes, possibly none.
    Took(usize),
    /// It had this many, and so many more that are of no interest.
    Pass(usize, u64),
    /// It can be none.
    Malformed,
    /// There is none any more.
    End,
}

/// Fields that are read over and over, once for each item.
#[derive(Clone, Copy, Debug)]
struct Level {
    fields: &'static [Field],
    next: usize,
    /// Items that are not read to their end.
    items: u64,
}

impl Level {
    /// Whether its items are plain values, without a name or tagged fields.
    fn is_plain(&self) -> bool {
        matches!(self.fields, [field] if field.name.is_empty())
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Field,
    /// The number of tagged fields.
    TagCount,
    /// So many tagged fields.
    Tags(u64),
}

#[derive(Debug)]
struct Walk {
    version: i16,
    is_flexible: bool,
    levels: Vec<Level>,
    expect: Expect,
    /// The tagged fields that come are those of the head.
    in_head: bool,
    json: Json,
    has_failed: bool,
    acks: Option<i16>,
    /// How many of the last bytes of the field that was read last are content.
    content: usize,
}

impl Walk {
    fn new(
        fields: &'static [Field],
        version: i16,
        is_flexible: bool,
        has_head_tags: bool,
        text_bytes_max: usize,
    ) -> Self {
        Self {
            version,
            is_flexible,
            levels: vec![Level { fields, next: 0, items: 1 }],
            expect: if has_head_tags { Expect::TagCount } else { Expect::Field },
            in_head: has_head_tags,
            json: Json::new(text_bytes_max),
            has_failed: false,
            acks: None,
            content: 0,
        }
    }

    fn next(&mut self, bytes: &[u8]) -> Read {
        self.content = 0;
        match self.expect {
            Expect::TagCount => match uvarint(bytes) {
                Some(Ok((count, taken))) => {
                    self.expect = Expect::Tags(count);
                    Read::Took(taken)
                }
                Some(Err(TooLong)) => Read::Malformed,
                None => Read::Need(bytes.len() + 1),
            },
            Expect::Tags(0) => {
                self.expect = Expect::Field;
                if !std::mem::take(&mut self.in_head) {
                    self.end_item();
                }
                Read::Took(0)
            }
            Expect::Tags(count) => self.tag(bytes, count),
            Expect::Field => self.field(bytes),
        }
    }

    /// Passes over a tagged field.
    fn tag(&mut self, bytes: &[u8], count: u64) -> Read {
        let Some(tag) = uvarint(bytes) else { return Read::Need(bytes.len() + 1) };
        let Ok((_, tag_bytes)) = tag else { return Read::Malformed };
        let Some(size) = uvarint(&bytes[tag_bytes..]) else { return Read::Need(bytes.len() + 1) };
        let Ok((size, size_bytes)) = size else { return Read::Malformed };
        self.expect = Expect::Tags(count - 1);
        pass(tag_bytes + size_bytes, size)
    }

    fn field(&mut self, bytes: &[u8]) -> Read {
        let version = self.version;
        let Some(level) = self.levels.last_mut() else { return Read::End };
        let Some(field) = level.fields.get(level.next) else {
            if self.is_flexible && !level.is_plain() {
                self.expect = Expect::TagCount;
            } else {
                self.end_item();
            }
            return Read::Took(0);
        };
        if !field.is_in(version) {
            level.next += 1;
            return Read::Took(0);
        }
        let read = match field.kind {
            Kind::Text | Kind::Sized | Kind::Array(_) => self.counted(bytes, field),
            kind => self.fixed(bytes, field.name, kind),
        };
        if let (Read::Took(_) | Read::Pass(..), Kind::Array(_)) = (read, field.kind) {
            return read;
        }
        if matches!(read, Read::Took(_) | Read::Pass(..)) {
            self.advance();
        }
        read
    }

    /// Goes on to the next field of the innermost level.
    fn advance(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.next += 1;
        }
    }

    /// A number or another value of a fixed size.
    fn fixed(&mut self, bytes: &[u8], name: &str, kind: Kind) -> Read {
        let size = match kind {
            Kind::Bool | Kind::Int8 => 1,
            Kind::Int16 | Kind::Error | Kind::Acks => 2,
            Kind::Int32 => 4,
            Kind::Int64 => 8,
            _ => 16,
        };
        let Some(bytes) = bytes.get(..size) else { return Read::Need(size) };
        if matches!(kind, Kind::Uuid) {
            self.json.text(name, &uuid(bytes));
            self.content = size;
            return Read::Took(size);
        }
        let number = signed(bytes);
        match kind {
            Kind::Bool if !matches!(number, 0 | 1) => return Read::Malformed,
            Kind::Error => self.has_failed |= number != 0,
            Kind::Acks if !matches!(number, -1..=1) => return Read::Malformed,
            Kind::Acks => self.acks = i16::try_from(number).ok(),
            _ => {}
        }
        match kind {
            Kind::Bool => self.json.value(name, if number == 1 { "true" } else { "false" }),
            _ => self.json.value(name, &number.to_string()),
        }
        Read::Took(size)
    }

    /// What has its length or number of items before it.
    fn counted(&mut self, bytes: &[u8], field: &'static Field) -> Read {
        let (count, taken) = match self.count(bytes, matches!(field.kind, Kind::Text)) {
            Ok(counted) => counted,
            Err(read) => return read,
        };
        match (field.kind, count) {
            (Kind::Text, Some(size)) => self.text(bytes, field.name, taken, size),
            (Kind::Array(fields), Some(items)) => {
                self.open(field.name, fields, items);
                Read::Took(taken)
            }
            (Kind::Sized, size) => {
                let size = size.unwrap_or(0);
                self.json.open_object(field.name);
                self.json.value("size", &size.to_string());
                self.json.close();
                pass(taken, size)
            }
            (kind, _) => {
                self.json.value(field.name, "null");
                if matches!(kind, Kind::Array(_)) {
                    self.advance();
                }
                Read::Took(taken)
            }
        }
    }

    fn text(&mut self, bytes: &[u8], name: &str, taken: usize, size: u64) -> Read {
        if size > TEXT_BYTES_MAX {
            self.json.text(name, &format!("[{size} bytes]"));
            return pass(taken, size);
        }
        let end = taken + usize::try_from(size).unwrap_or(usize::MAX);
        let Some(text) = bytes.get(taken..end) else { return Read::Need(end) };
        self.json.text(name, &String::from_utf8_lossy(text));
        self.content = text.len();
        Read::Took(end)
    }

    /// A length or a number of items, and its own bytes; none for what is not there at all.
    fn count(&self, bytes: &[u8], is_text: bool) -> Result<(Option<u64>, usize), Read> {
        if self.is_flexible {
            let count = uvarint(bytes).ok_or(Read::Need(bytes.len() + 1))?;
            let (count, taken) = count.map_err(|TooLong| Read::Malformed)?;
            return Ok((count.checked_sub(1), taken));
        }
        let size = if is_text { 2 } else { 4 };
        let count = signed(bytes.get(..size).ok_or(Read::Need(size))?);
        match u64::try_from(count) {
            Ok(count) => Ok((Some(count), size)),
            Err(_negative) if count == -1 => Ok((None, size)),
            Err(_negative) => Err(Read::Malformed),
        }
    }

    fn open(&mut self, name: &str, fields: &'static [Field], items: u64) {
        self.advance();
        self.json.open_array(name);
        if items == 0 {
            self.json.close();
            return;
        }
        let level = Level { fields, next: 0, items };
        if !level.is_plain() {
            self.json.open_object("");
        }
        self.levels.push(level);
    }

    fn end_item(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        level.items -= 1;
        level.next = 0;
        let (is_plain, has_more) = (level.is_plain(), level.items > 0);
        if !is_plain && self.levels.len() > 1 {
            self.json.close();
            if has_more {
                self.json.open_object("");
            }
        }
        if !has_more {
            self.levels.pop();
            if !self.levels.is_empty() {
                self.json.close();
            }
        }
    }
}

const fn pass(head: usize, more: u64) -> Read {
    if more == 0 { Read::Took(head) } else { Read::Pass(head, more) }
}

/// A number has more bytes than it may.
#[derive(Clone, Copy, Debug)]
struct TooLong;

/// A number in groups of seven bits, the lowest first, and its bytes.
fn uvarint(bytes: &[u8]) -> Option<Result<(u64, usize), TooLong>> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(Ok((number, at + 1)));
        }
    }
    (bytes.len() >= 5).then_some(Err(TooLong))
}

/// A number of up to eight bytes.
fn signed(bytes: &[u8]) -> i64 {
    let first = bytes.first().map_or(0, |first| i64::from(first.cast_signed()));
    bytes.iter().skip(1).fold(first, |number, byte| (number << 8) | i64::from(*byte))
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
