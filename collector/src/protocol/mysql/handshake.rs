//! The greeting of a server and what the client says to it: which features both agree on.

use super::packet::Fields;

/// Packets are compressed, by zlib.
const COMPRESS: u32 = 1 << 5;
/// The 32-bit form of the login, which every server since 4.1 asks for.
const PROTOCOL_41: u32 = 1 << 9;
/// From here on TLS is spoken.
const SSL: u32 = 1 << 11;
/// Resultsets end with an OK packet, and no EOF packet follows their columns.
const DEPRECATE_EOF: u32 = 1 << 24;
/// Packets are compressed, by zstd.
const ZSTD_COMPRESSION: u32 = 1 << 26;
/// Version of the greeting that is read.
const GREETING_VERSION: u8 = 10;
/// Bytes of a login before the user's name; a request for TLS has no more.
pub(super) const LOGIN_HEAD_BYTES: usize = 32;
/// Longest version of a server that the probe takes for one.
const VERSION_BYTES_MAX: usize = 128;

/// Features that a side offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities(u32);

impl Capabilities {
    /// What a greeting offers; `None` where it is none of version 10.
    pub(super) fn of_greeting(payload: &[u8]) -> Option<Self> {
        let (_, mut fields) = version(payload)?;
        // Thread id, scramble, filler.
        fields.bytes(4 + 8 + 1)?;
        let low = u32::from(fields.u16()?);
        // Older servers end here; then come character set and status.
        let high = fields.bytes(3).and_then(|_| fields.u16()).map_or(0, u32::from);
        Some(Self(low | high << 16))
    }

    /// What a login asks for; MariaDB's further ones change nothing that is not seen anyway.
    pub(super) fn of_login(payload: &[u8]) -> Option<Self> {
        let capabilities = Fields(payload).u32()?;
        (capabilities & PROTOCOL_41 != 0).then_some(Self(capabilities))
    }

    /// What both sides have.
    pub(super) const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the login is only a request for TLS.
    pub(super) const fn asks_for_tls(self) -> bool {
        self.0 & SSL != 0
    }

    /// Whether packets are compressed after the login.
    pub(super) const fn compresses(self) -> bool {
        self.0 & (COMPRESS | ZSTD_COMPRESSION) != 0
    }

    /// Whether an EOF packet follows the columns of a resultset.
    pub(super) const fn ends_columns(self) -> bool {
        self.0 & DEPRECATE_EOF == 0
    }
}

/// The version of a server and what follows it in its greeting.
fn version(payload: &[u8]) -> Option<(&[u8], Fields<'_>)> {
    let mut fields = Fields(payload);
    if fields.byte()? != GREETING_VERSION {
        return None;
    }
    let version = fields.zero_terminated();
    Some((version, fields))
}

/// Whether a payload of `length` bytes that starts with `payload` is a greeting; `None` where too
/// few of its bytes are there.
pub(super) fn is_greeting(payload: &[u8], length: usize) -> Option<bool> {
    let Some((version, mut fields)) = version(payload) else {
        return if payload.is_empty() { None } else { Some(false) };
    };
    let is_text = version.first().is_none_or(u8::is_ascii_digit)
        && version.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    // Thread id, scramble, filler, capabilities.
    if !is_text || version.len() > VERSION_BYTES_MAX || length < 1 + version.len() + 1 + 15 {
        return Some(false);
    }
    let filler = fields.bytes(4 + 8).and_then(|_| fields.byte())?;
    Some(filler == 0 && !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_to_offer_a_feature() {
        let mut greeting = b"\x0a8.0.33\0\x01\0\0\0abcdefgh\0".to_vec();
        assert_eq!(is_greeting(&greeting, 77), Some(true));
        for bytes in 2..greeting.len() {
            assert_eq!(is_greeting(&greeting[..bytes], 77), None, "{bytes} bytes");
        }
        greeting.extend([0x20, 0x02, 0x21, 2, 0, 0, 0x01]);
        let server = Capabilities::of_greeting(&greeting).unwrap();
        let login = Capabilities::of_login(&[0x20, 0x02, 0, 0, 0]).unwrap();
        assert!(server.compresses() && !server.ends_columns() && !server.asks_for_tls());
        assert!(server.common(login).compresses() && server.common(login).ends_columns());
        assert_eq!(Capabilities::of_login(&[0x20, 0, 0, 0]), None, "the login of 3.21");
        assert_eq!(Capabilities::of_greeting(b"\x095.0\0"), None);
    }
}
