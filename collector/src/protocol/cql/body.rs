//! What the bodies of envelopes say to people. A body may be cut, and then so is what it says.

use super::super::json::Json;
use super::envelope::{Head, Opcode};
use crate::redaction::whole_characters;

/// What stands for secrets.
const REDACTED: &str = "<redacted>";
/// What stands for a body that is not read.
const COMPRESSED: &str = "[compressed]";
/// The options of a connection that are kept.
pub(super) const OPTIONS: [&str; 8] = [
    "CQL_VERSION",
    "COMPRESSION",
    "DRIVER_NAME",
    "DRIVER_VERSION",
    "APPLICATION_NAME",
    "APPLICATION_VERSION",
    "NO_COMPACT",
    "THROW_ON_OVERLOAD",
];
/// Most types inside each other.
const TYPE_DEPTH_MAX: usize = 16;

/// Reads a body from its front; none where it ends too early.
#[derive(Clone, Copy, Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).and_then(|bytes| bytes.first().copied())
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn int(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }

    /// A value; none of its bytes where it is null or not set.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn text(&mut self) -> Option<String> {
        self.short_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// A long text, or what is there of it.
    fn long_text(&mut self) -> Option<String> {
        let length = usize::try_from(self.int()?).ok()?;
        let bytes = self.take(length.min(self.0.len()))?;
        let bytes = if bytes.len() < length { whole_characters(bytes) } else { bytes };
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn texts(&mut self) -> Option<Vec<String>> {
        let count = self.short()?;
        (0..count).map(|_| self.text()).collect()
    }

    /// Passes over what the flags of an envelope put before its body.
    fn prologue(&mut self, head: &Head) -> Option<()> {
        if head.is_response && head.is_traced() {
            self.take(16)?;
        }
        if head.is_response && head.has_warnings() {
            self.texts()?;
        }
        if head.has_payload() {
            for _ in 0..self.short()? {
                self.text()?;
                self.bytes()?;
            }
        }
        Some(())
    }

    /// Passes over the type of a column.
    fn column_type(&mut self, depth: usize) -> Option<()> {
        if depth == TYPE_DEPTH_MAX {
            return None;
        }
        match self.short()? {
            0x00 => drop(self.text()?),
            0x20 | 0x22 => self.column_type(depth + 1)?,
            0x21 => {
                self.column_type(depth + 1)?;
                self.column_type(depth + 1)?;
            }
            0x30 => {
                self.text()?;
                self.text()?;
                for _ in 0..self.short()? {
                    self.text()?;
                    self.column_type(depth + 1)?;
                }
            }
            0x31 => {
                for _ in 0..self.short()? {
                    self.column_type(depth + 1)?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// What a request asks: its statements, those that were prepared by what `prepared` knows of them.
///
/// There is no body where it could not be unpacked.
pub(super) fn request(
    head: &Head,
    body: Option<&[u8]>,
    prepared: impl Fn(&[u8]) -> Option<String>,
) -> String {
    if head.opcode == Opcode::AUTH_RESPONSE {
        return REDACTED.to_owned();
    }
    let Some(body) = body else { return COMPRESSED.to_owned() };
    let mut fields = Fields(body);
    let text = fields.prologue(head).and_then(|()| match head.opcode {
        Opcode::STARTUP => startup(fields),
        Opcode::QUERY | Opcode::PREPARE => fields.long_text(),
        Opcode::EXECUTE => Some(named(fields.short_bytes()?, prepared)),
        Opcode::BATCH => Some(batch(fields, prepared)),
        Opcode::REGISTER => fields.texts().map(|events| events.join(", ")),
        _ => None,
    });
    without_password(text.unwrap_or_default())
}

/// How a connection compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// A length of four bytes, and a block.
    Lz4,
    /// A block that says how long it is.
    Snappy,
    /// In another way.
    Other,
}

/// How a connection is going to compress, if this is the request that asks for it.
pub(super) fn compression(head: &Head, body: &[u8]) -> Option<Compression> {
    if head.opcode != Opcode::STARTUP {
        return None;
    }
    let mut fields = Fields(body);
    fields.prologue(head)?;
    for _ in 0..fields.short()? {
        let (name, value) = (fields.text()?, fields.text()?);
        if name == "COMPRESSION" {
            return Some(match value.to_ascii_lowercase().as_str() {
                "lz4" => Compression::Lz4,
                "snappy" => Compression::Snappy,
                _ => Compression::Other,
            });
        }
    }
    None
}

/// Whether a body is that of a request as its head says, as far as it is there.
pub(super) fn is_plausible(head: &Head, body: &[u8]) -> bool {
    let mut fields = Fields(body);
    let size = usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
    let mut fits = || match head.opcode {
        Opcode::STARTUP => {
            let (options, name) = (fields.short()?, fields.text()?);
            let is_word = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            Some((1..=64).contains(&options) && !name.is_empty() && is_word)
        }
        Opcode::QUERY | Opcode::PREPARE => {
            let text = fields.clone().long_text()?;
            let length = usize::try_from(fields.int()?).ok()?;
            let is_text = text.bytes().take(16).all(|byte| matches!(byte, b'\t'..=b'~'));
            Some((4..=size.saturating_sub(4)).contains(&length) && is_text)
        }
        Opcode::EXECUTE => Some(fields.short_bytes()?.len() == 16 && size > 20),
        Opcode::OPTIONS => Some(size == 0),
        _ => None,
    };
    fits().unwrap_or(false)
}

fn startup(mut fields: Fields<'_>) -> Option<String> {
    let mut json = Json::new(usize::MAX);
    for _ in 0..fields.short()? {
        let (name, value) = (fields.text()?, fields.text()?);
        if OPTIONS.contains(&name.as_str()) {
            json.text(&name, &value);
        }
    }
    Some(json.finish())
}

fn named(id: &[u8], prepared: impl Fn(&[u8]) -> Option<String>) -> String {
    prepared(id).unwrap_or_else(|| format!("[prepared {}]", hex(id)))
}

/// The statements of a batch, one to a line, as far as they are there.
fn batch(mut fields: Fields<'_>, prepared: impl Fn(&[u8]) -> Option<String>) -> String {
    let mut statements = Vec::new();
    let mut next = |fields: &mut Fields<'_>| {
        let statement = match fields.byte()? {
            0 => fields.long_text()?,
            _ => named(fields.short_bytes()?, &prepared),
        };
        statements.push(statement);
        (0..fields.short()?).try_for_each(|_| fields.bytes().map(drop))
    };
    if let Some(count) = fields.byte().and_then(|_kind| fields.short()) {
        // The first that is cut ends the list.
        let _cut = (0..count).try_for_each(|_| next(&mut fields));
    }
    statements.join(";\n")
}

/// A statement up to the password in it.
fn without_password(mut statement: String) -> String {
    let capitals = statement.to_ascii_uppercase();
    let ends = capitals.match_indices("PASSWORD").map(|(at, word)| at + word.len());
    // Elsewhere it is the name of a column.
    let has_value = |end: &usize| capitals[*end..].trim_start().starts_with(['=', '\'']);
    if let Some(end) = { ends }.find(has_value) {
        statement.truncate(end);
        statement.push_str(" = ");
        statement.push_str(REDACTED);
    }
    statement
}

/// What a response says, and the id of the statement that it prepared.
pub(super) fn response(
    head: &Head,
    body: Option<&[u8]>,
    text_bytes_max: usize,
) -> (String, Option<Vec<u8>>) {
    if matches!(head.opcode, Opcode::AUTH_CHALLENGE | Opcode::AUTH_SUCCESS) {
        return (REDACTED.to_owned(), None);
    }
    let Some(body) = body else { return (COMPRESSED.to_owned(), None) };
    let mut fields = Fields(body);
    let mut json = Json::new(text_bytes_max);
    let mut prepared = None;
    // What is cut leaves the object as it is.
    let _cut = fields.prologue(head).and_then(|()| match head.opcode {
        Opcode::ERROR => error(&mut fields, &mut json),
        Opcode::RESULT => result(&mut fields, &mut json, &mut prepared),
        Opcode::AUTHENTICATE => authenticator(&mut fields, &mut json),
        Opcode::SUPPORTED => supported(&mut fields, &mut json),
        _ => None,
    });
    (json.finish(), prepared)
}

fn authenticator(fields: &mut Fields<'_>, json: &mut Json) -> Option<()> {
    json.text("authenticator", &fields.text()?);
    Some(())
}

fn error(fields: &mut Fields<'_>, json: &mut Json) -> Option<()> {
    json.text("error", &format!("0x{:04x}", fields.int()?));
    json.text("message", &fields.text()?);
    Some(())
}

fn supported(fields: &mut Fields<'_>, json: &mut Json) -> Option<()> {
    for _ in 0..fields.short()? {
        json.open_array(&fields.text()?);
        for value in fields.texts()? {
            json.text("", &value);
        }
        json.close();
    }
    Some(())
}

fn result(fields: &mut Fields<'_>, json: &mut Json, prepared: &mut Option<Vec<u8>>) -> Option<()> {
    match fields.int()? {
        1 => json.text("result", "void"),
        2 => {
            json.text("result", "rows");
            rows(fields, json)?;
        }
        3 => {
            json.text("result", "set_keyspace");
            json.text("keyspace", &fields.text()?);
        }
        4 => {
            json.text("result", "prepared");
            let id = fields.short_bytes()?;
            json.text("id", &hex(id));
            *prepared = Some(id.to_vec());
        }
        5 => {
            json.text("result", "schema_change");
            json.text("change", &fields.text()?);
            json.text("target", &fields.text()?);
            json.text("keyspace", &fields.text()?);
            // A change of a keyspace names nothing in it.
            if let Some(name) = fields.text() {
                json.text("name", &name);
            }
        }
        _ => {}
    }
    Some(())
}

/// The names of the columns, unless the client asked for none, and the number of rows.
fn rows(fields: &mut Fields<'_>, json: &mut Json) -> Option<()> {
    let (flags, columns) = (fields.int()?, fields.int()?);
    let has = |flag: i32| flags & flag != 0;
    if has(0x2) {
        fields.bytes()?;
    }
    if has(0x8) {
        fields.short_bytes()?;
    }
    if !has(0x4) {
        if has(0x1) {
            fields.text()?;
            fields.text()?;
        }
        json.open_array("columns");
        for _ in 0..columns {
            if !has(0x1) {
                fields.text()?;
                fields.text()?;
            }
            json.text("", &fields.text()?);
            fields.column_type(0)?;
        }
        json.close();
    }
    json.value("rows", &fields.int()?.to_string());
    Some(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
