//! What of TLS is structure: records, and of the two hellos versions, cipher suites, groups, and which
//! extensions there are. Names, keys, random numbers and session ids are content, and so is everything
//! after the hellos: certificates, and what is encrypted.

use super::hello::{RETRY_RANDOM, extension};
use super::{MESSAGE_HEAD_BYTES, RECORD_HEAD_BYTES, Record, content, message};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{FILLER, Mask, Step, fill};

/// Bytes of a record with an alert that is not encrypted.
const ALERT_BYTES: u16 = 2;
/// Protocols inside TLS whose names are kept.
const PROTOCOLS: [&[u8]; 8] =
    [b"h2", b"h2c", b"h3", b"http/1.0", b"http/1.1", b"dot", b"postgresql", b"mqtt"];
/// What stands for every byte of a server's session id that is not the client's.
const OTHER_FILLER: u8 = b'y';

/// Masks a TLS connection.
#[derive(Debug, Default)]
pub(crate) struct TlsMask {
    /// Whether the hello of a side was seen.
    greeted: [bool; 2],
    /// Bytes of the record at hand that are content.
    rest: [u64; 2],
    session_id: Vec<u8>,
}

impl Mask for TlsMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        let rest = std::mem::take(&mut self.rest[side as usize]);
        if rest > 0 {
            return Step::Content(rest);
        }
        let Some(head) = bytes.first_chunk() else { return Step::Need(RECORD_HEAD_BYTES) };
        let Some(record) = Record::read(*head) else { return Step::Lost };
        let is_alert = record.content == content::ALERT && record.bytes == ALERT_BYTES;
        if is_alert && !self.greeted[Side::Server as usize] {
            let end = RECORD_HEAD_BYTES + usize::from(ALERT_BYTES);
            return if bytes.len() < end { Step::Need(end) } else { Step::Took(end) };
        }
        if record.content != content::HANDSHAKE || self.greeted[side as usize] {
            self.rest[side as usize] = record.bytes.into();
            return Step::Took(RECORD_HEAD_BYTES);
        }
        let end = RECORD_HEAD_BYTES + usize::from(record.bytes);
        let Some(payload) = bytes.get_mut(RECORD_HEAD_BYTES..end) else { return Step::Need(end) };
        let mut fields = Fields(payload);
        let is_read = self.hello(side, &mut fields).is_some();
        fields.fill_rest();
        // A hello in several records is more than anyone says.
        if is_read { Step::Took(end) } else { Step::Lost }
    }
}

impl TlsMask {
    fn hello(&mut self, side: Side, record: &mut Fields<'_>) -> Option<()> {
        let kind = if side == Side::Client { message::CLIENT_HELLO } else { message::SERVER_HELLO };
        let head = record.keep(MESSAGE_HEAD_BYTES)?;
        if head[0] != kind {
            return None;
        }
        let length = head[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let mut hello = Fields(record.keep(length)?);
        hello.short()?;
        let random = hello.keep(RETRY_RANDOM.len())?;
        let is_retry = *random == RETRY_RANDOM;
        if !is_retry {
            fill(random);
        }
        let length = hello.byte()?;
        let session_id = hello.keep(length.into())?;
        self.greeted[side as usize] = !is_retry;
        match side {
            Side::Client => {
                self.session_id = session_id.to_vec();
                fill(session_id);
                let suites = hello.short()?;
                hello.keep(suites.into())?;
                let compressions = hello.byte()?;
                hello.keep(compressions.into())?;
            }
            Side::Server => {
                let is_echo = *session_id == self.session_id[..];
                session_id.fill(if is_echo { FILLER } else { OTHER_FILLER });
                // A cipher suite and a compression.
                hello.keep(3)?;
                if is_retry {
                    // The client says another hello.
                    self.greeted[Side::Client as usize] = false;
                }
            }
        }
        if hello.0.is_empty() {
            return Some(());
        }
        let length = hello.short()?;
        let mut extensions = Fields(hello.keep(length.into())?);
        while !extensions.0.is_empty() {
            let (number, length) = (extensions.short()?, extensions.short()?);
            let mut content = Fields(extensions.keep(length.into())?);
            mask_extension(side, number, &mut content);
            content.fill_rest();
        }
        Some(())
    }
}

/// Masks an extension as far as it is understood.
fn mask_extension(side: Side, number: u16, content: &mut Fields<'_>) -> Option<()> {
    match (number, side) {
        (extension::SERVER_NAME, Side::Client) => {
            content.short()?;
            content.byte()?;
            content.fill_vector16()?;
        }
        (extension::ALPN, _) => {
            let length = content.short()?;
            let mut list = Fields(content.keep(length.into())?);
            while !list.0.is_empty() {
                let length = list.byte()?;
                let protocol = list.keep(length.into())?;
                if !PROTOCOLS.contains(&&*protocol) {
                    fill(protocol);
                }
            }
        }
        (extension::VERSIONS | extension::GROUPS, _) => {
            content.keep(content.0.len())?;
        }
        // The group and how long the key is.
        (extension::KEY_SHARE, Side::Server) => {
            content.keep(content.0.len().min(4))?;
        }
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dialogue::talk::{Sent, flights, hear};
    use crate::protocol::mask::sides::{Outcome, Sides};
    use crate::protocol::output::Finished;
    use crate::protocol::tls::Tls;

    /// What a row says, without the name that the client wants to talk to.
    fn show(finished: &Finished) -> String {
        let Finished::Tls(timed) = finished else { return String::new() };
        let handshake = &timed.call;
        let masked = "x".repeat(handshake.server_name.len());
        let offer = handshake.offer.replace(&handshake.server_name, &masked);
        format!("{:?} {} {offer} {}", handshake.outcome, handshake.cipher, handshake.answer)
    }

    #[test]
    fn masked_handshakes_are_read_as_before_but_for_the_name() {
        for text in [
            include_str!("tests/tls10.hex"),
            include_str!("tests/tls12.hex"),
            include_str!("tests/tls12_resumed.hex"),
            include_str!("tests/tls13.hex"),
            include_str!("tests/tls13_retry.hex"),
            include_str!("tests/tls13_resumed.hex"),
            include_str!("tests/refused.hex"),
        ] {
            let mut sides = Sides::new(Box::<TlsMask>::default());
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for (side, bytes) in flights(text) {
                let mut masked = Vec::new();
                let mut decided = |bytes: &[u8]| masked.extend_from_slice(bytes);
                let outcome = sides.bytes(side, &bytes, &mut Addresses::default(), &mut decided);
                assert_eq!(outcome, Outcome::GoesOn);
                assert!(!masked.windows(12).any(|name| name == b"example.test"));
                before.push(Sent::from((side, bytes)));
                after.push(Sent::from((side, masked)));
            }
            assert_eq!(hear::<Tls>(&after, show), hear::<Tls>(&before, show));
        }
    }
}
