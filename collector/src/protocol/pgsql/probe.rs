//! What tells a client of PostgreSQL apart from all others.
//!
//! A connection begins with a packet that names the protocol. One that was joined midway is known
//! by whole messages: their lengths, texts and ends have to agree.

use super::super::Probe;
use super::message::{CLIENT_TAGS, Fields, HEAD_BYTES, MESSAGE_BYTES_MAX, is_printable};
use crate::redaction::whole_characters;

/// Longest packet of a startup.
pub(super) const STARTUP_BYTES_MAX: u32 = 10_000;
/// Bytes of a startup packet before its parameters: its length and what it asks for.
pub(super) const STARTUP_HEAD_BYTES: usize = 8;
/// Longest name of a startup parameter.
const PARAMETER_BYTES_MAX: usize = 64;

/// What the first packet of a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Startup {
    /// A session of protocol 3.
    Session,
    /// TLS or GSSAPI, to be answered by one byte.
    Encryption,
    /// That another connection's statement be ended. It has no answer.
    Cancel,
}

impl Startup {
    /// Reads the head of a packet that is `length` bytes long.
    pub(super) const fn of(length: u32, code: u32) -> Option<Self> {
        match (code, length) {
            (80_877_103 | 80_877_104, 8) => Some(Self::Encryption),
            (80_877_102, 16..=268) => Some(Self::Cancel),
            (0x0003_0000..=0x0003_ffff, 9..=STARTUP_BYTES_MAX) => Some(Self::Session),
            _ => None,
        }
    }
}

/// Whether `bytes` start with what only a client of PostgreSQL sends.
pub fn probe_request(bytes: &[u8]) -> Probe {
    match bytes.first() {
        None => Probe::Maybe,
        Some(0) => probe_startup(bytes),
        Some(b'Q' | b'P' | b'B') => probe_message(bytes),
        Some(_) => Probe::No,
    }
}

fn probe_startup(bytes: &[u8]) -> Probe {
    let mut fields = Fields(bytes);
    let Some(length) = fields.long() else {
        return if bytes.get(1).is_some_and(|b| *b > 0) { Probe::No } else { Probe::Maybe };
    };
    let Some(code) = fields.long() else {
        return if (8..=STARTUP_BYTES_MAX).contains(&length) { Probe::Maybe } else { Probe::No };
    };
    match Startup::of(length, code) {
        None => Probe::No,
        Some(Startup::Encryption | Startup::Cancel) => Probe::Yes,
        // Other protocols have such numbers too, but no name after them.
        Some(Startup::Session) => {
            let name = fields.text();
            let is_name =
                name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
            let is_whole = STARTUP_HEAD_BYTES + name.len() < bytes.len();
            match (is_name && name.len() <= PARAMETER_BYTES_MAX, is_whole) {
                (false, _) => Probe::No,
                (true, true) if name.is_empty() => Probe::No,
                (true, true) => Probe::Yes,
                (true, false) => Probe::Maybe,
            }
        }
    }
}

fn probe_message(bytes: &[u8]) -> Probe {
    let message = match Extent::of(bytes) {
        Extent::NoMessage => return Probe::No,
        Extent::Bytes(count) if count <= bytes.len() => &bytes[..count],
        Extent::Bytes(_) | Extent::Cut => {
            let begun = bytes.get(HEAD_BYTES..).unwrap_or(&[]);
            return if bytes[0] != b'Q' || is_text(begun) { Probe::Maybe } else { Probe::No };
        }
    };
    let rest = &bytes[message.len()..];
    let body = Fields(&message[HEAD_BYTES..]);
    let fits = match message[0] {
        b'Q' => is_query(body),
        b'P' => is_parse(body) == Some(true),
        // Without a text it is known by what follows it only.
        _ => is_bind(body) == Some(true) && ends_whole(rest),
    };
    let goes_on = rest.is_empty() || Extent::of(rest) != Extent::NoMessage;
    if fits && goes_on { Probe::Yes } else { Probe::No }
}

/// How far the message reaches that starts somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// So many bytes, which need not be there.
    Bytes(usize),
    /// Its length is not there yet.
    Cut,
    /// None starts here.
    NoMessage,
}

impl Extent {
    fn of(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        let is_tag = fields.byte().is_some_and(|tag| CLIENT_TAGS.contains(&tag));
        // The first byte of a length tells words from messages.
        if !is_tag || fields.0.first().is_some_and(|b| *b > 0x40) {
            return Self::NoMessage;
        }
        match fields.long() {
            None => Self::Cut,
            Some(length @ 4..=MESSAGE_BYTES_MAX) => {
                usize::try_from(length).map_or(Self::NoMessage, |length| Self::Bytes(length + 1))
            }
            Some(_) => Self::NoMessage,
        }
    }
}

/// Whether these are whole messages, the last of which asks for answers.
fn ends_whole(mut bytes: &[u8]) -> bool {
    let mut last = 0;
    while let Some(&tag) = bytes.first() {
        match Extent::of(bytes) {
            Extent::Bytes(count) if count <= bytes.len() => bytes = &bytes[count..],
            _ => return false,
        }
        last = tag;
    }
    matches!(last, b'S' | b'H')
}

fn is_query(mut body: Fields<'_>) -> bool {
    let sql = body.0.strip_suffix(&[0]).unwrap_or(&[]);
    !sql.is_empty() && is_text(sql) && body.text().len() == sql.len()
}

fn is_parse(mut body: Fields<'_>) -> Option<bool> {
    let (name, sql) = (body.text(), body.text());
    let types = usize::from(body.short()?);
    Some(is_text(name) && is_text(sql) && !sql.is_empty() && body.0.len() == 4 * types)
}

fn is_bind(mut body: Fields<'_>) -> Option<bool> {
    let names_are_text = is_text(body.text()) && is_text(body.text());
    body.shorts()?;
    for _ in 0..body.short()? {
        let (length, value) = body.value()?;
        if value.len() as u64 != u64::from(length.unwrap_or(0)) {
            return None;
        }
    }
    body.shorts()?;
    Some(names_are_text && body.0.is_empty())
}

/// Whether bytes, of which the end may be cut, are text.
fn is_text(bytes: &[u8]) -> bool {
    let is_utf8 = std::str::from_utf8(whole_characters(bytes)).is_ok();
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    is_utf8 && is_printable(text)
}

#[cfg(test)]
mod tests;
