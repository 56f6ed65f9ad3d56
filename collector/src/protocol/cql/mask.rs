//! What of CQL is structure: heads of envelopes and segments, options of a connection that every driver
//! has, how long a statement is and its verb, the kind of a result, the code of an error. All else is
//! content. Segments that are compressed are given up, since a response in them is not told from another.

use super::body::OPTIONS;
use super::envelope::{self, Head, Opcode};
use super::segment::{self, Segment};
use super::{Framing, TooFew, framing};
use crate::mask::Addresses;
use crate::protocol::dialogue::Side;
use crate::protocol::mask::fields::Fields;
use crate::protocol::mask::{FILLER, Mask, Step, fill, sql};

/// Most bytes of a body that are looked at; what follows them is content.
const LOOKED_AT_MAX: usize = 1024;

/// Longest value of an option that is kept.
const VALUE_BYTES_MAX: usize = 8;

/// Where a side is in its envelopes.
#[derive(Debug, Default)]
struct Inbound {
    segment: Segment,
    /// Bytes of the body at hand that are content.
    rest: u64,
}

/// Masks a connection to a server that speaks CQL.
#[derive(Debug, Default)]
pub(crate) struct CqlMask {
    framing: Framing,
    inbound: [Inbound; 2],
    /// What the client asked for when it set the connection up.
    then: Option<Framing>,
}

impl Mask for CqlMask {
    fn take(&mut self, side: Side, bytes: &mut [u8], _addresses: &mut Addresses) -> Step {
        if self.framing == Framing::Unknown && side == Side::Client {
            match framing(bytes) {
                Ok(framing) => self.framing = framing,
                Err(TooFew { wanted }) => return Step::Need(wanted),
            }
        }
        match self.framing {
            Framing::Segments => self.segment(side, bytes),
            Framing::PackedSegments => Step::Lost,
            Framing::Plain | Framing::Unknown => self.envelope(side, bytes),
        }
    }
}

impl CqlMask {
    fn segment(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let segment = self.inbound[side as usize].segment;
        if segment.is_over() {
            let Some(head) = bytes.first_chunk() else { return Step::Need(segment::HEAD_BYTES) };
            let Some(payload_bytes) = segment::payload_bytes(*head) else { return Step::Lost };
            self.inbound[side as usize].segment = Segment::of(payload_bytes);
            return Step::Took(segment::HEAD_BYTES);
        }
        if segment.payload == 0 {
            self.inbound[side as usize].segment = Segment::default();
            // A checksum of what is masked.
            return Step::Content(segment.trailer);
        }
        let payload = usize::try_from(segment.payload).unwrap_or(usize::MAX).min(bytes.len());
        let rest = self.inbound[side as usize].rest;
        let step = self.envelope(side, &mut bytes[..payload]);
        let inbound = &mut self.inbound[side as usize];
        match step {
            Step::Took(taken) => inbound.segment.payload -= taken as u64,
            // It goes on in the next segment.
            Step::Content(content) if content > segment.payload => {
                (inbound.segment.payload, inbound.rest) = (0, rest - segment.payload);
                return Step::Content(segment.payload);
            }
            Step::Content(content) => inbound.segment.payload -= content,
            // A head that goes on in the next segment.
            Step::Need(wanted) if wanted as u64 > segment.payload => return Step::Lost,
            _ => {}
        }
        step
    }

    fn envelope(&mut self, side: Side, bytes: &mut [u8]) -> Step {
        let rest = std::mem::take(&mut self.inbound[side as usize].rest);
        if rest > 0 {
            return Step::Content(rest);
        }
        let head = match Head::read(bytes) {
            Ok(Some(head)) => head,
            Ok(None) => return Step::Need(envelope::HEAD_BYTES),
            Err(_) => return Step::Lost,
        };
        if head.is_response != (side == Side::Server) {
            return Step::Lost;
        }
        let length = usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
        let kept = self.kept(&head).min(length);
        let end = envelope::HEAD_BYTES + kept;
        let Some(body) = bytes.get_mut(envelope::HEAD_BYTES..end) else { return Step::Need(end) };
        let mut fields = Fields(body);
        if !head.is_compressed() && !head.has_payload() {
            self.mask_body(&head, &mut fields);
        }
        // What was not understood.
        fields.fill_rest();
        self.inbound[side as usize].rest = (length - kept) as u64;
        if matches!(head.opcode, Opcode::READY | Opcode::AUTHENTICATE)
            && let Some(then) = self.then.take()
        {
            self.framing = then;
        }
        Step::Took(end)
    }

    /// Bytes of a body that are looked at. In segments an envelope may go on in the next, so as few as
    /// possible.
    fn kept(&self, head: &Head) -> usize {
        match head.opcode {
            Opcode::STARTUP => LOOKED_AT_MAX,
            Opcode::QUERY | Opcode::PREPARE if self.framing == Framing::Segments => 4,
            Opcode::QUERY | Opcode::PREPARE => 16,
            Opcode::EXECUTE => 2,
            Opcode::ERROR | Opcode::RESULT => 4,
            _ => 0,
        }
    }

    fn mask_body(&mut self, head: &Head, body: &mut Fields<'_>) -> Option<()> {
        match head.opcode {
            Opcode::STARTUP => {
                let mut compresses = false;
                for _ in 0..body.short()? {
                    let length = body.short()?;
                    let name = body.keep(length.into())?;
                    let is_known = OPTIONS.iter().any(|known| *name == *known.as_bytes());
                    compresses |= *name == *b"COMPRESSION";
                    let has_known_value = matches!(&*name, b"CQL_VERSION" | b"COMPRESSION");
                    if !is_known {
                        // Names of options are in capitals.
                        name.fill(FILLER.to_ascii_uppercase());
                    }
                    let length = body.short()?;
                    let value = body.keep(length.into())?;
                    let is_word = value.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'.');
                    if !has_known_value || !is_word || value.len() > VALUE_BYTES_MAX {
                        fill(value);
                    }
                }
                let packed = if compresses { Framing::PackedSegments } else { Framing::Segments };
                self.then = head.comes_in_segments().then_some(packed);
            }
            Opcode::QUERY | Opcode::PREPARE => {
                body.long()?;
                sql::mask_statement(body.keep(body.0.len())?);
            }
            Opcode::EXECUTE => {
                body.short()?;
            }
            Opcode::ERROR | Opcode::RESULT => {
                body.long()?;
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::mask::talk::check;

    #[test]
    fn of_requests_and_responses_the_structure_is_kept() {
        check::<CqlMask>(&[
            (
                Side::Client,
                "\x04\0\0\x01\x01\0\0\0\x1c\0\x02\0\x0bCQL_VERSION\0\x023.\0\x04ACME\0\x01a",
                "\x04\0\0\x01\x01\0\0\0\x1c\0\x02\0\x0bCQL_VERSION\0\x023.\0\x04XXXX\0\x01x",
            ),
            (Side::Server, "\u{84}\0\0\x01\x02\0\0\0\0", "\u{84}\0\0\x01\x02\0\0\0\0"),
            (
                Side::Client,
                "\x04\0\0\x02\x07\0\0\0\x17\0\0\0\x10select * from an\0\x01\0",
                "\x04\0\0\x02\x07\0\0\0\x17\0\0\0\x10select xxxxxxxxxxxx",
            ),
            (
                Side::Server,
                "\u{84}\0\0\x02\x08\0\0\0\x06\0\0\0\x02hi",
                "\u{84}\0\0\x02\x08\0\0\0\x06\0\0\0\x02xx",
            ),
        ]);
    }
}
