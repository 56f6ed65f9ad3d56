//! Messages of MongoDB: header, sections and documents.

use super::super::dialogue::Side;
use super::super::unpack;
use super::bson::{Bytes, Elements, Stop, Value};
use super::json::{Json, REDACTED};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of a compressed message between its header and what is compressed.
const COMPRESSION_HEAD_BYTES: usize = 9;
/// Longest message that a server takes.
const MESSAGE_BYTES_MAX: u32 = 48_000_000;
/// Flag of `OP_MSG`: a checksum follows.
const CHECKSUM: u32 = 1;
/// Flag of `OP_MSG`: more messages follow without a request, or no reply is wanted.
pub(super) const MORE_TO_COME: u32 = 1 << 1;
/// Flag of `OP_MSG`: the client takes more replies than one.
pub(super) const EXHAUST_ALLOWED: u32 = 1 << 16;
/// Flags of `OP_MSG` that are in use.
const FLAGS: u32 = CHECKSUM | MORE_TO_COME | EXHAUST_ALLOWED;
/// Most lists of documents in a message; commands have at most two.
const LISTS_MAX: usize = 8;
/// Longest name of a command.
pub(super) const NAME_BYTES_MAX: usize = 64;
/// What stands for a body that was compressed.
const COMPRESSED: &str = "[compressed]";
/// Commands that are secrets, with what answers them.
const SECRETS: [&str; 9] = [
    "authenticate",
    "copydb",
    "copydbgetnonce",
    "copydbsaslstart",
    "createUser",
    "getnonce",
    "saslContinue",
    "saslStart",
    "updateUser",
];

/// The kinds of messages that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Msg,
    Query,
    Reply,
    Compressed,
}

impl Op {
    const fn of(code: u32, side: Side) -> Option<Self> {
        match (code, side) {
            (2013, _) => Some(Self::Msg),
            (2012, _) => Some(Self::Compressed),
            (2004, Side::Client) => Some(Self::Query),
            (1, Side::Server) => Some(Self::Reply),
            _ => None,
        }
    }
}

/// What every message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the message.
    pub(super) length: u32,
    pub(super) request_id: u32,
    pub(super) response_to: u32,
    pub(super) op: Op,
}

impl Header {
    /// Reads a header; the rest of `bytes` is not looked at.
    pub(super) fn read(bytes: &[u8], side: Side) -> Option<Self> {
        let mut bytes = Bytes::new(bytes, true);
        let [length, request_id, response_to, code] =
            [bytes.u32().ok()?, bytes.u32().ok()?, bytes.u32().ok()?, bytes.u32().ok()?];
        let header = Self { length, request_id, response_to, op: Op::of(code, side)? };
        is_length(length).then_some(header)
    }
}

/// Whether a message may be so long.
pub(super) fn is_length(length: u32) -> bool {
    (26..=MESSAGE_BYTES_MAX).contains(&length)
}

/// What a compressed message was before.
#[derive(Debug)]
pub(super) struct Unpacked {
    op: Op,
    /// The beginning of what follows its header.
    bytes: Vec<u8>,
    is_whole: bool,
}

impl Unpacked {
    /// Unpacks at most `bytes_max` bytes of a message whose header and what follows it are these;
    /// none where it is not compressed, or in a way that is not known here.
    pub(super) fn of(header: Header, side: Side, packed: &[u8], bytes_max: usize) -> Option<Self> {
        if header.op != Op::Compressed {
            return None;
        }
        let mut fields = Bytes::new(packed, true);
        let (code, size, compressor) =
            (fields.u32().ok()?, fields.u32().ok()?, fields.byte().ok()?);
        let op = Op::of(code, side).filter(|inner| *inner != Op::Compressed)?;
        let size = usize::try_from(size).ok()?;
        let bytes_max = size.min(bytes_max);
        let packed = packed.get(COMPRESSION_HEAD_BYTES..)?;
        let bytes = match compressor {
            1 => unpack::snappy(packed, bytes_max)?,
            2 => unpack::zlib(packed, bytes_max)?,
            _ => return None,
        };
        Some(Self { op, is_whole: bytes.len() == size, bytes })
    }

    /// What it holds.
    pub(super) fn content(&self, side: Side) -> Result<Content<'_>, Stop> {
        Content::read(self.op, side, &self.bytes, self.is_whole)
    }
}

/// What a message holds, as far as it was kept.
#[derive(Debug)]
pub(super) struct Content<'a> {
    /// Flags of `OP_MSG`.
    pub(super) flags: u32,
    pub(super) is_compressed: bool,
    body: Option<Elements<'a>>,
    lists: Vec<(&'a str, Bytes<'a>)>,
}

impl<'a> Content<'a> {
    /// Reads what follows a header; `is_whole` says whether all of it is there.
    pub(super) fn read(op: Op, side: Side, bytes: &'a [u8], is_whole: bool) -> Result<Self, Stop> {
        let mut content = Content { flags: 0, is_compressed: false, body: None, lists: Vec::new() };
        match content.fill(op, side, Bytes::new(bytes, is_whole)) {
            Ok(()) | Err(Stop::Cut) => Ok(content),
            Err(Stop::Bad) => Err(Stop::Bad),
        }
    }

    fn fill(&mut self, op: Op, side: Side, mut bytes: Bytes<'a>) -> Result<(), Stop> {
        match op {
            Op::Msg => self.sections(bytes),
            Op::Query => {
                bytes.take(4)?;
                let collection = bytes.zero_ended()?;
                bytes.take(8)?;
                let query = bytes.document()?;
                self.body = Some(match query.find("$query") {
                    Some(Value::Document(query)) => query,
                    _ => query,
                });
                if collection.ends_with(".$cmd") { Ok(()) } else { Err(Stop::Bad) }
            }
            Op::Reply => {
                bytes.take(20)?;
                self.body = Some(bytes.document()?);
                Ok(())
            }
            Op::Compressed => {
                let code = bytes.u32()?;
                let size = bytes.u32()?;
                let inner = Op::of(code, side).filter(|inner| *inner != Op::Compressed);
                match (inner, bytes.byte()?) {
                    (None, _) | (_, 4..) => Err(Stop::Bad),
                    _ if size > MESSAGE_BYTES_MAX => Err(Stop::Bad),
                    (Some(inner), 0) => self.fill(inner, side, bytes),
                    (Some(_), _) => {
                        self.is_compressed = true;
                        Ok(())
                    }
                }
            }
        }
    }

    fn sections(&mut self, mut bytes: Bytes<'a>) -> Result<(), Stop> {
        self.flags = bytes.u32()?;
        if self.flags & !FLAGS != 0 {
            return Err(Stop::Bad);
        }
        if self.flags & CHECKSUM != 0 {
            bytes = bytes.without_end(4);
        }
        while !bytes.is_empty() {
            match bytes.byte()? {
                0 if self.body.is_none() => self.body = Some(bytes.document()?),
                1 if self.lists.len() < LISTS_MAX => {
                    let mut list = bytes.counted()?;
                    self.lists.push((list.zero_ended()?, list));
                }
                _ => return Err(Stop::Bad),
            }
        }
        if self.body.is_none() { bytes.take(1).map(|_| ()) } else { Ok(()) }
    }

    /// The command's name: that of its first element, or else what only one command has lists of.
    pub(super) fn command(&self) -> String {
        let first = self.body.and_then(|body| body.first().ok().flatten());
        let name = match (first, self.lists.first()) {
            (Some((name, _)), _) => &name[..name.floor_char_boundary(NAME_BYTES_MAX)],
            _ if self.is_compressed => "OP_COMPRESSED",
            (None, Some(("documents", _))) => "insert",
            (None, Some(("updates", _))) => "update",
            (None, Some(("deletes", _))) => "delete",
            (None, Some(("ops", _))) => "bulkWrite",
            _ => "",
        };
        name.to_owned()
    }

    /// Whether only a command begins like this.
    pub(super) fn is_plausible(&self) -> bool {
        let name = self.command();
        let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.');
        self.is_compressed || (!name.is_empty() && name.bytes().all(is_word))
    }

    /// The reply's status: `ok`, the name of an error's code, or nothing where it cannot be told.
    pub(super) fn status(&self) -> String {
        let Some(body) = self.body else { return String::new() };
        let is_ok = match body.find("ok") {
            Some(Value::Double(number)) => number != 0.0,
            Some(Value::Int(number)) => number != 0,
            Some(Value::Bool(is_ok)) => is_ok,
            // Errors are short, so their end is always there.
            _ => body.find("errmsg").is_none() && body.find("$err").is_none(),
        };
        match body.find("codeName") {
            _ if is_ok => "ok",
            Some(Value::Text(name)) => &name[..name.floor_char_boundary(NAME_BYTES_MAX)],
            _ => "error",
        }
        .to_owned()
    }

    /// The body as JSON of at most about `bytes_max` bytes, without what is secret in `command`.
    pub(super) fn body(&self, command: &str, bytes_max: usize) -> Result<String, Stop> {
        if self.is_compressed {
            return Ok(COMPRESSED.to_owned());
        }
        if SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(command)) {
            return Ok(format!("{{\"{command}\":\"{REDACTED}\"}}"));
        }
        let mut json = Json::new(bytes_max);
        let nothing = Elements::none();
        match json.document(self.body.unwrap_or(nothing), &self.lists) {
            Ok(()) | Err(Stop::Cut) => Ok(json.into_text()),
            Err(Stop::Bad) => Err(Stop::Bad),
        }
    }
}
