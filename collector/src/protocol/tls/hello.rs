//! `ClientHello` and `ServerHello`: what of a handshake anyone on the way can read (RFC 8446 §4.1,
//! RFC 5246 §7.4.1).

use serde_json::{Map, Value};

use super::names;

/// Most entries that are kept of a list.
const LIST_MAX: usize = 64;
/// The random of a `ServerHello` that asks for another `ClientHello` (RFC 8446 §4.1.3).
pub(super) const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// The version from which on the key exchange hides the rest of the handshake.
const TLS_1_3: u16 = 0x0304;

/// Numbers of extensions.
pub(super) mod extension {
    pub(in super::super) const SERVER_NAME: u16 = 0;
    pub(in super::super) const GROUPS: u16 = 10;
    pub(in super::super) const ALPN: u16 = 16;
    pub(in super::super) const PRE_SHARED_KEY: u16 = 41;
    pub(in super::super) const EARLY_DATA: u16 = 42;
    pub(in super::super) const VERSIONS: u16 = 43;
    pub(in super::super) const KEY_SHARE: u16 = 51;
    pub(in super::super) const ENCRYPTED_HELLO: u16 = 0xfe0d;
}

/// What a client offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientHello {
    /// The name that it wants to talk to, as sent; empty where it says none.
    pub(super) server_name: String,
    /// What it asks to resume, or nothing.
    pub(super) session_id: Vec<u8>,
    /// All of it as rows show it.
    pub(super) shown: Map<String, Value>,
}

impl ClientHello {
    /// Reads the body of the message; none where it is not one.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let version = fields.short()?;
        fields.take(32)?;
        let session_id = fields.vector8()?;
        let suites = Fields(fields.vector16()?);
        let _compressions = fields.vector8()?;
        let mut hello = Self { session_id: session_id.to_vec(), ..Self::default() };
        hello.show("version", names::version(version));
        let mut list = Vec::new();
        for suite in suites.shorts().filter(|suite| !names::is_grease(*suite)).take(LIST_MAX) {
            list.push(Value::from(names::cipher_suite(suite)));
        }
        for (number, content) in extensions(fields)? {
            hello.extension(number, content)?;
        }
        hello.show("cipher_suites", list);
        Some(hello)
    }

    fn extension(&mut self, number: u16, content: &[u8]) -> Option<()> {
        let mut content = Fields(content);
        match number {
            extension::SERVER_NAME => {
                let mut names = Fields(content.vector16()?);
                // The only kind of name there is.
                if names.byte()? == 0 {
                    self.server_name = text(names.vector16()?);
                    self.show("server_name", self.server_name.clone());
                }
            }
            extension::ALPN => self.show("alpn", protocols(content.vector16()?)),
            extension::VERSIONS => {
                let versions = Fields(content.vector8()?).shorts();
                let versions = versions.filter(|version| !names::is_grease(*version));
                let list: Vec<_> = versions.take(LIST_MAX).map(names::version).collect();
                self.show("supported_versions", list);
            }
            extension::GROUPS => {
                let groups = Fields(content.vector16()?).shorts();
                let groups = groups.filter(|group| !names::is_grease(*group));
                let list: Vec<_> = groups.take(LIST_MAX).map(names::group).collect();
                self.show("groups", list);
            }
            extension::PRE_SHARED_KEY => self.show("resumes", true),
            extension::EARLY_DATA => self.show("early_data", true),
            extension::ENCRYPTED_HELLO => self.show("encrypted_client_hello", true),
            _ => {}
        }
        Some(())
    }

    fn show(&mut self, name: &str, value: impl Into<Value>) {
        self.shown.insert(name.to_owned(), value.into());
    }
}

/// What a server chooses of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerHello {
    /// The version that is spoken from here on.
    pub(super) version: String,
    /// The cipher suite.
    pub(super) cipher: String,
    /// The protocol inside, empty where it says none, as it never does in the clear from TLS 1.3 on.
    pub(super) alpn: String,
    /// The group that keys are exchanged in, from TLS 1.3 on.
    pub(super) group: String,
    /// Whether it asks for another `ClientHello`.
    pub(super) is_retry: bool,
    /// Whether an earlier session goes on.
    pub(super) resumes: bool,
}

impl ServerHello {
    /// Reads the body of the message that answers a client which asked to resume `session_id`; none
    /// where it is not one.
    pub(super) fn read(body: &[u8], session_id: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let mut version = fields.short()?;
        let is_retry = fields.take(32)? == RETRY_RANDOM;
        let echo = fields.vector8()?;
        let is_echo = !echo.is_empty() && echo == session_id;
        let cipher = names::cipher_suite(fields.short()?);
        let _compression = fields.byte()?;
        let mut hello = Self { cipher, is_retry, ..Self::default() };
        let mut chooses_key = false;
        for (number, content) in extensions(fields)? {
            let mut content = Fields(content);
            match number {
                extension::VERSIONS => version = content.short()?,
                extension::KEY_SHARE => hello.group = names::group(content.short()?),
                extension::PRE_SHARED_KEY => chooses_key = true,
                extension::ALPN => {
                    let chosen = Fields(content.vector16()?).vector8()?;
                    hello.alpn = text(chosen);
                }
                _ => {}
            }
        }
        hello.version = names::version(version);
        // Later versions echo the client's session id for the sake of boxes on the way.
        hello.resumes = if version >= TLS_1_3 { chooses_key } else { is_echo };
        Some(hello)
    }
}

/// The extensions at the end of a message, of which those before TLS 1.2 may have none.
fn extensions(mut fields: Fields<'_>) -> Option<Vec<(u16, &[u8])>> {
    let mut extensions = Vec::new();
    if fields.0.is_empty() {
        return Some(extensions);
    }
    let mut rest = Fields(fields.vector16()?);
    while !rest.0.is_empty() && extensions.len() < LIST_MAX {
        let number = rest.short()?;
        extensions.push((number, rest.vector16()?));
    }
    Some(extensions)
}

/// The protocols of an ALPN list (RFC 7301), without those that stand for nothing.
fn protocols(list: &[u8]) -> Vec<Value> {
    let mut list = Fields(list);
    let mut protocols = Vec::new();
    while let Some(protocol) = list.vector8()
        && protocols.len() < LIST_MAX
    {
        let is_grease = <[u8; 2]>::try_from(protocol)
            .is_ok_and(|bytes| names::is_grease(u16::from_be_bytes(bytes)));
        if !is_grease {
            protocols.push(Value::from(text(protocol)));
        }
    }
    protocols
}

/// Bytes that should be letters.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Fields of a message, from its front.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn short(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let bytes = self.byte()?;
        self.take(bytes.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let bytes = self.short()?;
        self.take(bytes.into())
    }

    /// All that is left, as numbers.
    fn shorts(mut self) -> impl Iterator<Item = u16> {
        std::iter::from_fn(move || self.short())
    }
}
